//! The same span by others, each with its background thread and an exporter that only counts.
//!
//! Bursts that fit into every queue, timed on the thread that records; between bursts each is flushed, and a few
//! spans come first, so that whoever must wake its thread has done so and what is timed is the steady state.
//! Then floods without a flush: what a span costs, which share of them arrives, and what one that arrived cost,
//! so that dropping does not look fast.
//!
//! A span of `span!`, as one of `tracing`, is its thread's current one until it ends. That is the shape which is
//! compared: fastrace's and OpenTelemetry's spans are made current, too. Beside it stand what theirs cost when they
//! are not, which is less work, and fastrace's `LocalSpan`s in a root of their own for each burst, the shape it is
//! made for.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _, mark_span_as_active};
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

/// Within every queue. fastrace's holds 10,240 commands, a root takes three, and from half full its thread is woken.
const BURST: u64 = 1024;
/// Spans of one flood, in whole bursts.
const FLOOD: u64 = 200_000 / BURST * BURST;
/// Spans that the peers' queues hold, where that can be set.
const QUEUE: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// Spans before each burst that are not timed.
const WARM_UP: u64 = 64;

/// Makes so many spans; returns how many records that makes.
type Burst = Box<dyn FnMut(u64) -> u64>;

/// One way to make spans.
struct Peer {
    name: &'static str,
    bare: Burst,
    four: Option<Burst>,
    /// Waits until everything recorded has arrived or been dropped.
    flush: Box<dyn Fn()>,
    /// Spans that have arrived.
    arrived: Arc<AtomicU64>,
}

/// Makes bursts of `body`'s spans.
fn burst(mut body: impl FnMut() + 'static) -> Burst {
    Box::new(move |spans| {
        (0..spans).for_each(|_| body());
        spans
    })
}

/// What was measured of one peer.
#[derive(Default)]
struct Samples {
    bare: Vec<f64>,
    four: Vec<f64>,
    /// Created in bursts, and how many of them did not arrive.
    made: u64,
    arrived: u64,
    flood: Vec<f64>,
    flood_made: u64,
    flood_arrived: u64,
    /// Those that a flush did not bring, but later spans did.
    flood_late: u64,
}

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let nanos_per_tick = nanos_per_tick();
    let [fastrace, fastrace_detached, fastrace_local] = fastrace_peers();
    let [otel, otel_detached] = otel_peers();
    let mut peers = [
        spanring_peer(),
        fastrace,
        fastrace_detached,
        fastrace_local,
        otel,
        otel_detached,
        tracing_peer(),
        puffin_peer(),
        rtrb_peer(),
    ];
    let mut all: Vec<Samples> = peers.iter().map(|_| Samples::default()).collect();
    let rounds = if run.quick { 101 } else { 801 };
    // The first rounds are for warming up.
    for round in 0..rounds + 20 {
        for (peer, samples) in peers.iter_mut().zip(&mut all) {
            let before = peer.arrived.load(Relaxed);
            let (ticks, made) = timed(&mut peer.bare);
            (peer.flush)();
            samples.made += made;
            let mut nanos = [ticks, 0.0];
            if let Some(four) = &mut peer.four {
                let (ticks, made) = timed(four);
                (peer.flush)();
                samples.made += made;
                nanos[1] = ticks;
            }
            samples.arrived += peer.arrived.load(Relaxed) - before;
            if round >= 20 {
                let [bare, four] = nanos.map(|ticks| ticks * nanos_per_tick / BURST as f64);
                samples.bare.push(bare);
                samples.four.push(four);
            }
        }
    }
    for _ in 0..if run.quick { 3 } else { 9 } {
        for (peer, samples) in peers.iter_mut().zip(&mut all) {
            flood(peer, nanos_per_tick, samples);
        }
    }
    let mut numbers = Numbers::default();
    let ours = [median(&mut all[0].bare), median(&mut all[0].four)];
    for (peer, samples) in peers.iter().zip(&mut all) {
        let name = peer.name;
        let nanos = median(&mut samples.bare);
        numbers.set(format!("{name}, bare ns"), nanos);
        numbers.set(format!("{name}, times spanring"), nanos / ours[0]);
        if peer.four.is_some() {
            let nanos = median(&mut samples.four);
            numbers.set(format!("{name}, 4 attributes ns"), nanos);
            numbers.set(format!("{name}, 4 attributes, times spanring"), nanos / ours[1]);
        }
        numbers.set(
            format!("{name}, dropped in bursts"),
            samples.made as f64 - samples.arrived as f64,
        );
        let nanos = median(&mut samples.flood);
        let made = samples.flood_made as f64;
        let share = samples.flood_arrived as f64 / made;
        numbers.set(format!("{name}, flood ns"), nanos);
        numbers.set(format!("{name}, flood dropped %"), (1.0 - share) * 100.0);
        numbers.set(format!("{name}, flood ns a span that arrived"), nanos / share);
        numbers.set(format!("{name}, flood late %"), samples.flood_late as f64 * 100.0 / made);
    }
    numbers
}

/// Makes a few spans and a burst; returns how many ticks the burst took, and how many spans were made.
fn timed(burst: &mut Burst) -> (f64, u64) {
    let first = burst(WARM_UP);
    let before = clock::ticks();
    let made = burst(BURST);
    ((clock::ticks() - before) as f64, first + made)
}

/// Many spans as fast as they come. What a full queue holds back on the thread that records goes on with
/// its next spans, so a few more bursts tell what is late from what is lost.
fn flood(peer: &mut Peer, nanos_per_tick: f64, samples: &mut Samples) {
    let arrived = || peer.arrived.load(Relaxed);
    let begin = arrived();
    let before = clock::ticks();
    let mut made: u64 = (0..FLOOD / BURST).map(|_| (peer.bare)(BURST)).sum();
    let ticks = clock::ticks() - before;
    samples.flood.push(ticks as f64 * nanos_per_tick / FLOOD as f64);
    (peer.flush)();
    let at_once = arrived() - begin;
    samples.flood_made += made;
    let (flooded, mut more) = (made, 0);
    for _ in 0..200 {
        if arrived() - begin == made {
            break;
        }
        let burst = (peer.bare)(BURST);
        (peer.flush)();
        made += burst;
        more += burst;
    }
    // Of the bursts afterwards, each flushed, nothing is lost.
    let in_the_end = (arrived() - begin).saturating_sub(more).min(flooded);
    samples.flood_arrived += in_the_end;
    samples.flood_late += in_the_end.saturating_sub(at_once);
}

fn spanring_peer() -> Peer {
    let pipeline = Pipeline::builder().sink(NullSink).install().expect("nothing is installed");
    // It lives as long as the process.
    let pipeline: &'static Pipeline = Box::leak(Box::new(pipeline));
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    Peer {
        name: "spanring",
        bare: burst(|| drop(span!("bench.bare"))),
        four: Some(burst(|| {
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

/// A root for each span, current or not, and spans local to a root for each burst.
fn fastrace_peers() -> [Peer; 3] {
    use fastrace::prelude::{LocalSpan, Span, SpanContext};
    let arrived = Arc::new(AtomicU64::new(0));
    fastrace::set_reporter(
        CountingReporter(Arc::clone(&arrived)),
        fastrace::collector::Config::default(),
    );
    let current = Peer {
        name: "fastrace",
        bare: burst(|| {
            let span = Span::root("bench.bare", SpanContext::random());
            let _current = span.set_local_parent();
        }),
        four: Some(burst(|| {
            let span = Span::root("bench.four", SpanContext::random());
            let span = span.with_properties(properties);
            let _current = span.set_local_parent();
        })),
        flush: Box::new(fastrace::flush),
        arrived: Arc::clone(&arrived),
    };
    let detached = Peer {
        name: "fastrace, not current",
        bare: burst(|| drop(Span::root("bench.bare", SpanContext::random()))),
        four: Some(burst(|| {
            let span = Span::root("bench.four", SpanContext::random());
            drop(span.with_properties(properties));
        })),
        flush: Box::new(fastrace::flush),
        arrived: Arc::clone(&arrived),
    };
    let local = Peer {
        name: "fastrace LocalSpan",
        bare: in_a_root(|| drop(LocalSpan::enter_with_local_parent("bench.bare"))),
        four: Some(in_a_root(|| {
            let span = LocalSpan::enter_with_local_parent("bench.four");
            drop(span.with_properties(properties));
        })),
        flush: Box::new(fastrace::flush),
        arrived,
    };
    [current, detached, local]
}

/// Its values are strings.
fn properties() -> [(&'static str, std::borrow::Cow<'static, str>); 4] {
    [
        ("a", "one".into()),
        ("b", "two".into()),
        ("c", black_box(3).to_string().into()),
        ("d", 4.to_string().into()),
    ]
}

/// A burst in a root, which is one more span and is timed with them.
fn in_a_root(mut body: impl FnMut() + 'static) -> Burst {
    use fastrace::prelude::{Span, SpanContext};
    Box::new(move |spans| {
        let root = Span::root("bench.root", SpanContext::random());
        let parent = root.set_local_parent();
        (0..spans).for_each(|_| body());
        drop(parent);
        spans + 1
    })
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

/// Current or not.
fn otel_peers() -> [Peer; 2] {
    let attributes = || {
        vec![
            KeyValue::new("a", "one"),
            KeyValue::new("b", "two"),
            KeyValue::new("c", black_box(3)),
            KeyValue::new("d", 4),
        ]
    };
    let arrived = Arc::new(AtomicU64::new(0));
    let (provider, tracer) = provider(&arrived);
    let peer = |name, bare: fn(&SdkTracer), four: fn(&SdkTracer, Vec<KeyValue>)| {
        let (tracer, other) = (tracer.clone(), tracer.clone());
        Peer {
            name,
            bare: burst(move || bare(&tracer)),
            four: Some(burst(move || four(&other, attributes()))),
            flush: Box::new(|| provider.force_flush().expect("its thread runs")),
            arrived: Arc::clone(&arrived),
        }
    };
    [
        peer(
            "opentelemetry_sdk",
            |tracer| drop(mark_span_as_active(tracer.start("bench.bare"))),
            |tracer, attributes| drop(mark_span_as_active(otel_four(tracer, attributes))),
        ),
        peer(
            "opentelemetry_sdk, not current",
            |tracer| tracer.start("bench.bare").end(),
            |tracer, attributes| otel_four(tracer, attributes).end(),
        ),
    ]
}

fn otel_four(tracer: &SdkTracer, attributes: Vec<KeyValue>) -> opentelemetry_sdk::trace::Span {
    tracer.span_builder("bench.four").with_attributes(attributes).start(tracer)
}

fn tracing_peer() -> Peer {
    let arrived = Arc::new(AtomicU64::new(0));
    let (provider, tracer) = provider(&arrived);
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer)).init();
    Peer {
        name: "tracing-opentelemetry",
        bare: burst(|| drop(tracing::info_span!("bench.bare").entered())),
        four: Some(burst(|| {
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
        bare: burst(|| {
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
    let (mut producer, mut consumer) = rtrb::RingBuffer::<[u64; 8]>::new(QUEUE);
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
    let pushed = std::rc::Rc::new(std::cell::Cell::new(0u64));
    let wanted = std::rc::Rc::clone(&pushed);
    let count = Arc::clone(&arrived);
    Peer {
        name: "rtrb",
        bare: Box::new(move |spans| {
            let mut taken = 0;
            for _ in 0..spans {
                let start = clock::ticks();
                taken +=
                    u64::from(producer.push([1, 0, 2, 3, start, clock::ticks(), 4, 5]).is_ok());
            }
            pushed.set(pushed.get() + taken);
            spans
        }),
        four: None,
        flush: Box::new(move || {
            while count.load(Relaxed) < wanted.get() {
                std::thread::yield_now();
            }
        }),
        arrived,
    }
}
