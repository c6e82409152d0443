//! From rings to a receiver: what one flusher delivers as OTLP over loopback to one that reads requests and answers that
//! it took them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use spanring::Settings;
use spanring_exporter::{Compression, OtlpOptions, Pipeline, PipelineStats};

use super::{Run, encode, steady};
use crate::measure::{Numbers, cores, median, pin, process_seconds, thread_seconds};

const PATIENCE: Duration = Duration::from_secs(30);
/// Spans that are recorded between two looks at how many wait.
const BURST: usize = 512;
/// So many may wait, in rings or for an answer: nothing is dropped, and the flusher always finds some.
const WAITING_MAX: u64 = 16_384;

const SHAPES: [encode::Shape; 2] =
    [("bare", steady::bare), ("4 attributes", encode::four_attributes)];
const COMPRESSIONS: [(&str, Compression); 2] =
    [("none", Compression::None), ("gzip", Compression::Gzip)];

/// Measures; nothing with one core.
pub fn run(run: &Run) -> Numbers {
    let mut numbers = Numbers::default();
    if cores() < 2 {
        return numbers;
    }
    let (rounds, seconds) = if run.quick { (3, 0.3) } else { (5, 1.0) };
    let (address, received) = receiver();
    for (shape, record) in SHAPES {
        for (name, compression) in COMPRESSIONS {
            let rounds: Vec<_> = (0..rounds)
                .map(|_| load(seconds, record, address, compression, &received))
                .collect();
            let mut set = |what: &str, number: fn(&Load) -> f64| {
                let mut samples: Vec<_> = rounds.iter().map(number).collect();
                numbers.set(format!("{shape}, {name}, {what}"), median(&mut samples));
            };
            set("M/s", |load| load.spans / load.seconds / 1e6);
            set("flusher s a million", |load| load.flusher / load.spans * 1e6);
            set("receiver s a million", |load| load.receiver / load.spans * 1e6);
            set("spans a request", |load| load.spans / load.requests);
            set("B", |load| load.bytes / load.spans);
        }
    }
    numbers
}

/// What a load came to, processor time in seconds.
struct Load {
    spans: f64,
    seconds: f64,
    flusher: f64,
    receiver: f64,
    requests: f64,
    bytes: f64,
}

/// Records as fast as spans are delivered, on this thread and core, which the receiver has, too; the flusher has the
/// other.
///
/// # Panics
///
/// If a span is not delivered.
fn load(
    seconds: f64,
    record: fn(usize),
    address: SocketAddr,
    compression: Compression,
    received: &Received,
) -> Load {
    let mut options = OtlpOptions::new(format!("http://{address}/v1/traces"));
    options.compression = compression;
    let pipeline = Pipeline::builder().settings(Settings::default()).otlp(options).install();
    let pipeline = pipeline.expect("nothing else is installed");
    steady::keep_apart(&pipeline);
    let before = (pipeline.stats(), received.now());
    let (begin, process, own) = (Instant::now(), process_seconds(), thread_seconds());
    while begin.elapsed().as_secs_f64() < seconds {
        while waiting(&pipeline.stats()) > WAITING_MAX {
            std::thread::sleep(Duration::from_micros(50));
        }
        (0..BURST).for_each(record);
    }
    pipeline.flush(PATIENCE).expect("the receiver takes everything");
    let seconds = begin.elapsed().as_secs_f64();
    let (process, own) = (process_seconds() - process, thread_seconds() - own);
    let after = (pipeline.stats(), received.now());
    let (sink, spans) = (&after.0.sinks[0], after.0.engine.created - before.0.engine.created);
    assert_eq!(after.0.engine.dropped.total(), 0, "{sink:?}");
    assert_eq!(sink.delivered - before.0.sinks[0].delivered, spans, "{sink:?}");
    let [requests, bytes, nanos] = std::array::from_fn(|at| (after.1[at] - before.1[at]) as f64);
    let receiver = nanos * 1e-9;
    let (spans, flusher) = (spans as f64, process - own - receiver);
    Load { spans, seconds, flusher, receiver, requests, bytes }
}

/// Spans that are recorded but not delivered.
fn waiting(stats: &PipelineStats) -> u64 {
    stats.engine.resident + stats.sinks.iter().map(|sink| sink.queued).sum::<u64>()
}

/// What the receiver has read so far.
#[derive(Default)]
struct Received {
    requests: AtomicU64,
    bytes: AtomicU64,
    /// Processor time that it took.
    nanos: AtomicU64,
}

impl Received {
    fn now(&self) -> [u64; 3] {
        [&self.requests, &self.bytes, &self.nanos].map(|count| count.load(Relaxed))
    }
}

/// A receiver on core 0, with a thread a connection, as long as the process runs.
fn receiver() -> (SocketAddr, Arc<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it is bound");
    let received = Arc::new(Received::default());
    let shared = received.clone();
    std::thread::spawn(move || {
        assert!(pin(0), "threads can be kept on their cores");
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            std::thread::spawn(move || read_requests(&stream, &shared));
        }
    });
    (address, received)
}

/// Reads one request after the other and answers that it was taken, until the connection ends.
fn read_requests(stream: &TcpStream, received: &Received) {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut seen = 0.0;
    while let Some(length) = read_head(&mut reader) {
        let mut left = length as usize;
        while left > 0 {
            let there = reader.fill_buf().expect("the connection stands").len().min(left);
            assert!(there > 0, "a body was cut");
            reader.consume(there);
            left -= there;
        }
        let seconds = thread_seconds();
        received.requests.fetch_add(1, Relaxed);
        received.bytes.fetch_add(length, Relaxed);
        received.nanos.fetch_add(((seconds - seen) * 1e9) as u64, Relaxed);
        seen = seconds;
        (&mut &*stream)
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .expect("the connection stands");
    }
}

/// Reads a request's head; the length of its body, or nothing at the end of the connection.
fn read_head(reader: &mut impl BufRead) -> Option<u64> {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.split_once(':') else {
            if line.trim_end().is_empty() {
                return Some(length);
            }
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().expect("a length is a number");
        }
    }
}
