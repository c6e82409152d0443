//! What is encoded: recorded spans and made-up ones, as records in batches.

use spanring::clock::{ClockMap, Reading};
use spanring::id::IdKeys;
use spanring::record::{Header, Payload, Records, flag};
use spanring::{Interned, Key};
use spanring_exporter::batch::{self, BatchContext, Encoder, TickClock};
use spanring_exporter::model::{ResourceData, ScopeData};
use spanring_exporter::sink::InstanceId;

use crate::measure::clock_map;
use crate::recorded;

/// What is encoded: records in batches, with what they refer to.
#[derive(Debug)]
pub struct Workload {
    /// The recorded file's name, or what is made up.
    pub name: String,
    /// The records, batch by batch.
    pub batches: Vec<Records>,
    /// Resources that the scopes refer to.
    pub resources: Vec<ResourceData>,
    /// Scopes that the records refer to.
    pub scopes: Vec<ScopeData>,
    /// Keys of the records' counters.
    pub keys: IdKeys,
}

impl Workload {
    /// Spans in all batches.
    pub fn spans(&self) -> usize {
        self.batches.iter().map(Records::len).sum()
    }
}

/// Ticks become time as in the flusher.
#[derive(Debug)]
pub struct Clock(ClockMap);

impl Default for Clock {
    fn default() -> Self {
        Clock(clock_map())
    }
}

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

/// What the batch with the number `sequence` is encoded with.
pub fn context<'a>(
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
///
/// # Panics
///
/// If anything differs.
pub fn check(workload: &Workload, clock: &Clock, expected: Vec<Vec<recorded::Expected>>) {
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

fn default_scope() -> (Vec<ResourceData>, Vec<ScopeData>) {
    let resource = ResourceData {
        attributes: vec![("service.name".into(), "bench".into())],
        ..ResourceData::default()
    };
    (vec![resource], vec![ScopeData { name: "bench".into(), ..ScopeData::default() }])
}

/// Spans of two call sites without parents, as fast as one thread records them.
pub fn bare(size: usize) -> Workload {
    made_up("bare", size, |_, _| {})
}

/// The same with two integers and two static strings each.
pub fn four(size: usize) -> Workload {
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
