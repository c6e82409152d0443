//! Batches: bytes a span and spans a second, on recorded traces and on made-up ones.
//!
//! ```text
//! batch [--data DIR] [--file NAME]... [--size N]... [--level N]... [--threads N] [--seconds S] [--no-speed]
//! ```
//!
//! Recorded spans are replayed as an application with so many threads would record them: counters in
//! the order of starts, in blocks a thread; records in the order of ends, drained thread by thread.
//! Every batch is decoded again and compared. Speed is records to frame, in processor time of one
//! thread, as the median of many rounds.

mod replay;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use spanring::clock::{ClockMap, Reading};
use spanring::id::IdKeys;
use spanring::record::{Header, Payload, Records, flag};
use spanring::{Interned, Key};
use spanring_exporter::batch::{self, BatchContext, Encoder, TickClock};
use spanring_exporter::model::{ResourceData, ScopeData};
use spanring_exporter::sink::InstanceId;

/// What is encoded: records in batches, with what they refer to.
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) batches: Vec<Records>,
    pub(crate) resources: Vec<ResourceData>,
    pub(crate) scopes: Vec<ScopeData>,
    pub(crate) keys: IdKeys,
}

impl Workload {
    fn spans(&self) -> usize {
        self.batches.iter().map(Records::len).sum()
    }
}

/// Ticks become time as in the flusher.
struct Clock(ClockMap);

impl TickClock for Clock {
    #[inline]
    fn span_times(&self, header: &Header) -> (u64, u64) {
        let time = |value, wall| {
            if header.flags & wall != 0 { value } else { self.0.unix_nanos(value) }
        };
        let start = time(header.start, flag::START_WALL);
        (start, time(header.end, flag::END_WALL).max(start))
    }

    #[inline]
    fn unix_nano(&self, ticks: u64) -> u64 {
        self.0.unix_nanos(ticks)
    }
}

struct Options {
    data: PathBuf,
    files: Vec<String>,
    sizes: Vec<usize>,
    levels: Vec<i32>,
    threads: usize,
    seconds: f64,
    speed: bool,
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!(
                "{message}\nusage: batch [--data DIR] [--file NAME]... [--size N]... [--level N]... [--threads N] [--seconds S] [--no-speed]"
            );
            std::process::exit(2);
        }
    };
    let clock = Clock(clock_map());
    println!(
        "{:<16}{:>6}{:>7}{:>11}{:>9}{:>12}",
        "workload", "size", "level", "B/span", "raw B", "M spans/s"
    );
    for &size in &options.sizes {
        let mut workloads: Vec<Workload> = Vec::new();
        for file in &options.files {
            match file.as_str() {
                "bare" => workloads.push(bare(size)),
                "four" => workloads.push(four(size)),
                file => match replay::load(&options.data, file, size, options.threads) {
                    Ok((workload, expected)) => {
                        check(&workload, &clock, expected);
                        workloads.push(workload);
                    }
                    Err(message) => {
                        eprintln!("{message}");
                        std::process::exit(1);
                    }
                },
            }
        }
        for &level in &options.levels {
            for workload in &workloads {
                report(workload, &clock, size, level, &options);
            }
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        data: "../shared/data".into(),
        files: Vec::new(),
        sizes: Vec::new(),
        levels: Vec::new(),
        threads: 1,
        seconds: 0.5,
        speed: true,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--no-speed" {
            options.speed = false;
            continue;
        }
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        let wrong = |_| format!("{name} does not take `{value}`");
        match name.as_str() {
            "--data" => options.data = value.into(),
            "--file" => options.files.push(value),
            "--size" => options.sizes.push(value.parse().map_err(wrong)?),
            "--level" => options.levels.push(value.parse().map_err(wrong)?),
            "--threads" => options.threads = value.parse::<usize>().map_err(wrong)?.max(1),
            "--seconds" => {
                options.seconds = value.parse().map_err(|_| format!("{name} takes seconds"))?;
            }
            _ => return Err(format!("there is no option {name}")),
        }
    }
    if options.files.is_empty() {
        let all = ["onlineboutique", "trainticket", "webshop", "agents", "bare", "four"];
        options.files = all.map(str::to_owned).into();
    }
    if options.sizes.is_empty() {
        options.sizes = vec![50, 512, 4096];
    }
    if options.levels.is_empty() {
        options.levels = vec![batch::LEVEL_DEFAULT];
    }
    Ok(options)
}

fn clock_map() -> ClockMap {
    let first = Reading::now();
    let mut second = first;
    while second.monotonic - first.monotonic < 10_000_000 {
        second = Reading::now();
    }
    ClockMap::new(first, second)
}

fn context<'a>(
    workload: &'a Workload,
    clock: &'a Clock,
    sequence: u64,
    level: i32,
) -> BatchContext<'a, Clock> {
    BatchContext {
        clock,
        instance: InstanceId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        sequence,
        keys: &workload.keys,
        created: 1_000_000 + sequence,
        sealed: 1_000_000 + sequence,
        dropped: &[],
        resources: &workload.resources,
        scopes: &workload.scopes,
        clock_epoch: 0,
        level,
    }
}

/// Decodes everything and compares it with what was replayed.
fn check(workload: &Workload, clock: &Clock, expected: Vec<Vec<replay::Expected>>) {
    let mut encoder = Encoder::new().expect("there is memory");
    for (sequence, (records, expected)) in workload.batches.iter().zip(&expected).enumerate() {
        let context = context(workload, clock, sequence as u64, batch::LEVEL_DEFAULT);
        let encoded = encoder.encode(records, &context).expect("the batch is within all limits");
        let decoded = batch::decode(&encoded.frame).expect("what was encoded is decoded");
        assert_eq!(decoded.batch.spans.len(), expected.len());
        for (found, expected) in decoded.batch.spans.into_iter().zip(expected) {
            let scope = &decoded.batch.scopes[found.scope];
            let expected_scope = &workload.scopes[expected.span.scope];
            assert_eq!(
                (&scope.name, &scope.version),
                (&expected_scope.name, &expected_scope.version)
            );
            assert_eq!(
                decoded.batch.resources[scope.resource],
                workload.resources[expected_scope.resource]
            );
            let found = spanring_exporter::model::SpanData { scope: expected.span.scope, ..found };
            assert_eq!(found, expected.span);
        }
    }
}

fn report(workload: &Workload, clock: &Clock, size: usize, level: i32, options: &Options) {
    let mut encoder = Encoder::new().expect("there is memory");
    let (mut bytes, mut raw) = (0, 0);
    let mut round = |bytes: &mut usize, raw: &mut usize| {
        for (sequence, records) in workload.batches.iter().enumerate() {
            let context = context(workload, clock, sequence as u64, level);
            let encoded = encoder.encode(records, &context).expect("it was encoded before");
            *bytes += encoded.frame.len();
            *raw += encoded.raw_bytes;
        }
    };
    round(&mut bytes, &mut raw);
    let spans = workload.spans() as f64;
    print!(
        "{:<16}{size:>6}{level:>7}{:>11.2}{:>9.1}",
        workload.name,
        bytes as f64 / spans,
        raw as f64 / spans
    );
    if options.speed {
        let mut rates = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs_f64(options.seconds) || rates.len() < 3 {
            let start = thread_seconds();
            round(&mut bytes, &mut raw);
            rates.push(spans / (thread_seconds() - start) / 1e6);
        }
        rates.sort_by(f64::total_cmp);
        print!("{:>12.2}", rates[rates.len() / 2]);
    }
    println!();
}

/// Processor time of this thread, so that others on the machine count less.
fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn default_scope() -> (Vec<ResourceData>, Vec<ScopeData>) {
    let resource = ResourceData {
        attributes: vec![("service.name".into(), "bench".into())],
        ..ResourceData::default()
    };
    (vec![resource], vec![ScopeData { name: "bench".into(), ..ScopeData::default() }])
}

/// Spans of two call sites without parents, as fast as one thread records them.
fn bare(size: usize) -> Workload {
    made_up("bare", size, |_, _| {})
}

/// The same with two integers and two static strings each.
fn four(size: usize) -> Workload {
    let intern = |text: &str| Interned::new(text).expect("the table has room");
    let keys = ["db.system", "db.operation", "db.rows", "db.shard"].map(intern);
    let systems = [intern("postgresql"), intern("mysql")];
    let operations = ["select", "insert", "update"].map(intern);
    made_up("four", size, move |payload, at| {
        payload.attribute_set(Key::Interned(keys[0]), systems[at % 2]);
        payload.attribute_set(Key::Interned(keys[1]), operations[at / 3 % 3]);
        payload.attribute_set(Key::Interned(keys[2]), (at * 7919 % 1000) as i64);
        payload.attribute_set(Key::Interned(keys[3]), (at % 16) as i64);
    })
}

fn made_up(name: &str, size: usize, fill: impl Fn(&mut Payload, usize)) -> Workload {
    let names = ["bench.first", "bench.second"].map(|name| Interned::new(name).expect("room"));
    let mut ticks = Reading::now().ticks;
    let mut noise = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise % 64
    };
    let mut batches = vec![];
    for number in 0..(65_536 / size).max(1) {
        let mut records = Records::new();
        for at in number * size..(number + 1) * size {
            let start = ticks + 20 + next();
            ticks = start + 50 + next();
            let header = Header {
                trace_lo: 1 + at as u64,
                span: 1 + at as u64,
                start,
                end: ticks,
                name: names[at % 2].get(),
                kind_status: 1,
                trace_flags: 3,
                ..Header::default()
            };
            let mut payload = Payload::unlimited();
            fill(&mut payload, at);
            records.push_parts(header, payload);
        }
        batches.push(records);
    }
    let (resources, scopes) = default_scope();
    Workload { name: name.into(), batches, resources, scopes, keys: IdKeys::from_seed([1, 2]) }
}
