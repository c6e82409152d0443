//! The same span by others, each with its background thread and an exporter that only counts.
//!
//! Bursts that fit into every queue, timed on the thread that records; between bursts each is flushed.
//! Then a flood without a flush: what it costs, and which share of it arrives.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use spanring::{clock, span};
use spanring_exporter::Pipeline;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Run;
use crate::measure::{NullSink, Numbers, median, nanos_per_tick};

const BURST: u64 = 8192;
/// Spans that the peers' queues hold.
const QUEUE: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// One way to make spans.
struct Peer {
    name: &'static str,
    bare: Box<dyn Fn()>,
    four: Option<Box<dyn Fn()>>,
    /// Waits until everything recorded has arrived or been dropped.
    flush: Box<dyn Fn()>,
    /// Spans that have arrived.
    arrived: Arc<AtomicU64>,
}

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let nanos_per_tick = nanos_per_tick();
    let mut numbers = Numbers::default();
    let peers =
        [spanring_peer(), fastrace_peer(), otel_peer(), tracing_peer(), puffin_peer(), rtrb_peer()];
    let rounds = if run.quick { 21 } else { 101 };
    let mut bare = vec![Vec::new(); peers.len()];
    let mut four = vec![Vec::new(); peers.len()];
    let mut made = vec![0; peers.len()];
    for round in 0..rounds + 5 {
        for (number, peer) in peers.iter().enumerate() {
            // The first rounds are for warming up.
            let mut measure = |body: &dyn Fn(), samples: &mut Vec<f64>| {
                let before = clock::ticks();
                (0..BURST).for_each(|_| body());
                let ticks = clock::ticks() - before;
                if round >= 5 {
                    samples.push(ticks as f64 * nanos_per_tick / BURST as f64);
                }
                made[number] += BURST;
                (peer.flush)();
            };
            measure(&peer.bare, &mut bare[number]);
            if let Some(body) = &peer.four {
                measure(body, &mut four[number]);
            }
        }
    }
    let ours = median(&mut bare[0]);
    for (number, peer) in peers.iter().enumerate() {
        let name = peer.name;
        let nanos = median(&mut bare[number]);
        numbers.set(format!("{name}, bare ns"), nanos);
        numbers.set(format!("{name}, times spanring"), nanos / ours);
        if peer.four.is_some() {
            numbers.set(format!("{name}, 4 attributes ns"), median(&mut four[number]));
        }
        let lost = made[number] - peer.arrived.load(Relaxed);
        numbers.set(format!("{name}, dropped in bursts"), lost as f64);
        flood(peer, nanos_per_tick, &mut numbers);
    }
    numbers
}

/// Many spans as fast as they come.
fn flood(peer: &Peer, nanos_per_tick: f64, numbers: &mut Numbers) {
    const SPANS: u64 = 500_000;
    let arrived = peer.arrived.load(Relaxed);
    let before = clock::ticks();
    (0..SPANS).for_each(|_| (peer.bare)());
    let ticks = clock::ticks() - before;
    (peer.flush)();
    let lost = SPANS - (peer.arrived.load(Relaxed) - arrived);
    numbers.set(format!("{}, flood ns", peer.name), ticks as f64 * nanos_per_tick / SPANS as f64);
    numbers.set(format!("{}, flood dropped %", peer.name), lost as f64 * 100.0 / SPANS as f64);
}

fn spanring_peer() -> Peer {
    let pipeline = Pipeline::builder().sink(NullSink).install().expect("nothing is installed");
    // It lives as long as the process.
    let pipeline: &'static Pipeline = Box::leak(Box::new(pipeline));
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    Peer {
        name: "spanring",
        bare: Box::new(|| drop(span!("bench.bare"))),
        four: Some(Box::new(|| {
            drop(span!("bench.four", "a" = "one", "b" = "two", "c" = black_box(3), "d" = 4));
        })),
        flush: Box::new(move || {
            pipeline.flush(PATIENCE).expect("the flusher runs");
            count.store(pipeline.stats().sinks[0].delivered, Relaxed);
        }),
        arrived,
    }
}

struct CountingReporter(Arc<AtomicU64>);

impl fastrace::collector::Reporter for CountingReporter {
    fn report(&mut self, spans: Vec<fastrace::collector::SpanRecord>) {
        self.0.fetch_add(spans.len() as u64, Relaxed);
    }
}

fn fastrace_peer() -> Peer {
    use fastrace::prelude::{Span, SpanContext};
    let arrived = Arc::new(AtomicU64::new(0));
    fastrace::set_reporter(
        CountingReporter(Arc::clone(&arrived)),
        fastrace::collector::Config::default(),
    );
    Peer {
        name: "fastrace",
        bare: Box::new(|| drop(Span::root("bench.bare", SpanContext::random()))),
        four: Some(Box::new(|| {
            let span = Span::root("bench.four", SpanContext::random());
            // Its values are strings.
            drop(span.with_properties(|| {
                [
                    ("a", "one".into()),
                    ("b", "two".into()),
                    ("c", black_box(3).to_string()),
                    ("d", 4.to_string()),
                ] as [(&str, String); 4]
            }));
        })),
        flush: Box::new(fastrace::flush),
        arrived,
    }
}

#[derive(Debug)]
struct CountingExporter(Arc<AtomicU64>);

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.fetch_add(batch.len() as u64, Relaxed);
        Ok(())
    }
}

fn provider(arrived: &Arc<AtomicU64>) -> (&'static SdkTracerProvider, SdkTracer) {
    let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
    let processor = BatchSpanProcessor::builder(CountingExporter(Arc::clone(arrived)))
        .with_batch_config(config)
        .build();
    let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
    let tracer = provider.tracer("bench");
    // It lives as long as the process.
    (Box::leak(Box::new(provider)), tracer)
}

fn otel_peer() -> Peer {
    let arrived = Arc::new(AtomicU64::new(0));
    let (provider, tracer) = provider(&arrived);
    let other = tracer.clone();
    Peer {
        name: "opentelemetry_sdk",
        bare: Box::new(move || tracer.start("bench.bare").end()),
        four: Some(Box::new(move || {
            let attributes = vec![
                KeyValue::new("a", "one"),
                KeyValue::new("b", "two"),
                KeyValue::new("c", black_box(3)),
                KeyValue::new("d", 4),
            ];
            other.span_builder("bench.four").with_attributes(attributes).start(&other).end();
        })),
        flush: Box::new(|| provider.force_flush().expect("its thread runs")),
        arrived,
    }
}

fn tracing_peer() -> Peer {
    let arrived = Arc::new(AtomicU64::new(0));
    let (provider, tracer) = provider(&arrived);
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer)).init();
    Peer {
        name: "tracing-opentelemetry",
        bare: Box::new(|| drop(tracing::info_span!("bench.bare").entered())),
        four: Some(Box::new(|| {
            drop(
                tracing::info_span!("bench.four", a = "one", b = "two", c = black_box(3), d = 4)
                    .entered(),
            );
        })),
        flush: Box::new(|| provider.force_flush().expect("its thread runs")),
        arrived,
    }
}

/// A profiler's scope: name and times, no identity. Its frames are handed over on the same thread.
fn puffin_peer() -> Peer {
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    puffin::set_scopes_on(true);
    puffin::GlobalProfiler::lock().add_sink(Box::new(move |frame| {
        count.fetch_add(frame.meta().num_scopes as u64, Relaxed);
    }));
    Peer {
        name: "puffin",
        bare: Box::new(|| {
            puffin::profile_scope!("bench.bare");
        }),
        four: None,
        flush: Box::new(|| puffin::GlobalProfiler::lock().new_frame()),
        arrived,
    }
}

/// The bare ring: 64 bytes with both times, read by a thread that only counts.
fn rtrb_peer() -> Peer {
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    let (producer, mut consumer) = rtrb::RingBuffer::<[u64; 8]>::new(QUEUE);
    std::thread::spawn(move || {
        while !consumer.is_abandoned() {
            let mut popped = 0;
            while let Ok(element) = consumer.pop() {
                black_box(element);
                popped += 1;
            }
            count.fetch_add(popped, Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let producer = std::rc::Rc::new(std::cell::RefCell::new((producer, 0u64)));
    let other = std::rc::Rc::clone(&producer);
    let count = Arc::clone(&arrived);
    Peer {
        name: "rtrb",
        bare: Box::new(move || {
            let start = clock::ticks();
            let (producer, pushed) = &mut *producer.borrow_mut();
            *pushed += u64::from(producer.push([1, 0, 2, 3, start, clock::ticks(), 4, 5]).is_ok());
        }),
        four: None,
        flush: Box::new(move || {
            let pushed = other.borrow().1;
            while count.load(Relaxed) < pushed {
                std::thread::yield_now();
            }
        }),
        arrived,
    }
}
