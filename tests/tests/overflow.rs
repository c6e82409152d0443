//! `OVERFLOW`: what becomes of spans for which there is no room.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spanring::export::{EngineStats, Reason};
use spanring::settings::{Overflow, SettingsBuilder};
use spanring::span;
use spanring_exporter::{Pipeline, next_message};
use spanring_tests::ledger::check_counts;
use spanring_tests::sinks::{Gate, GatedSink};
use spanring_tests::{LONG, memory_pipeline, settings};

const FOREVER: Overflow = Overflow::Wait(Overflow::WAIT_MAX);
/// `MAX_SPANS`, of which two are held in reserve.
const ROOM: usize = 100;

/// Messages are the process's.
static MESSAGES: Mutex<()> = Mutex::new(());

fn dropped(engine: &EngineStats) -> u64 {
    engine.dropped.0[Reason::Budget as usize]
}

/// Waits until `is_so`; what another thread does is not seen otherwise.
fn until(pipeline: &Pipeline, is_so: impl Fn(&EngineStats) -> bool) {
    let give_up = Instant::now() + LONG;
    loop {
        let engine = pipeline.stats().engine;
        if is_so(&engine) {
            return;
        }
        assert!(Instant::now() < give_up, "{engine:?}");
        thread::yield_now();
    }
}

/// A pipeline whose flusher stands in its sink, and whose room is used up.
fn full(settings: SettingsBuilder) -> (Pipeline, Gate) {
    let (sink, gate) = GatedSink::new();
    let settings = settings.max_spans(ROOM).batch_size(50).flush_interval(LONG * 10).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink).build().unwrap();
    {
        let _attached = pipeline.attach();
        drop(span!("first", "priority" = "critical"));
        gate.wait_entered();
        (0..ROOM - 2).for_each(|_| drop(span!("resident")));
    }
    assert_eq!((dropped(&pipeline.stats().engine), pipeline.stats().engine.waited), (0, 0));
    (pipeline, gate)
}

/// Lets the flusher go on, and looks at what became of all spans.
fn finish(pipeline: Pipeline, gate: Gate) -> EngineStats {
    gate.open();
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(stats.engine.resident, 0);
    stats.engine
}

/// Many more spans than there is room for, on two threads, as fast as they can.
fn overload(overflow: Overflow) -> EngineStats {
    const SPANS: u64 = 20_000;
    let (pipeline, _) = memory_pipeline(settings().max_spans(64).batch_size(16).overflow(overflow));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                (0..SPANS).for_each(|_| drop(span!("flood", "a" = 1)));
            });
        }
    });
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(stats.engine.created, 2 * SPANS);
    assert!(stats.engine.resident_max <= 64, "{}", stats.engine.resident_max);
    stats.engine
}

#[test]
fn an_overload_that_drops_spans_drops_none_of_threads_that_wait() {
    let engine = overload(Overflow::Drop);
    assert!(dropped(&engine) > 0);
    assert_eq!((engine.waited, engine.waited_in_vain), (0, 0));
    let engine = overload(FOREVER);
    assert_eq!((engine.sealed, engine.dropped.total()), (engine.created, 0));
    assert!(engine.waited > 0);
    assert_eq!(engine.waited_in_vain, 0);
}

#[test]
fn a_flusher_that_hangs_costs_a_thread_one_wait_and_that_is_said() {
    let _messages = MESSAGES.lock();
    let (pipeline, gate) = full(settings().overflow(Overflow::Wait(20)));
    let attached = pipeline.attach();
    let begin = Instant::now();
    drop(span!("waits in vain"));
    assert!(begin.elapsed() >= Duration::from_millis(20), "it does wait");
    (0..1000).for_each(|_| drop(span!("does not wait")));
    let engine = pipeline.stats().engine;
    assert_eq!((engine.waited, engine.waited_in_vain, dropped(&engine)), (1, 1, 1001));
    assert!(engine.flusher_is_stuck);
    let health = pipeline.health();
    assert!(!health.healthy && health.reasons[0].contains("OVERFLOW"), "{:?}", health.reasons);
    let metrics = pipeline.metrics();
    assert!(
        metrics.to_json().contains("\"waited\":1,\"waited_in_vain\":1"),
        "{}",
        metrics.to_json()
    );
    assert!(metrics.to_openmetrics().contains("\nspanring_spans_waited_in_vain_total 1\n"));

    // It goes on: that is said, and threads wait again.
    gate.let_one_go();
    gate.wait_entered();
    until(&pipeline, |engine| !engine.flusher_is_stuck);
    let health = pipeline.health();
    assert!(!health.reasons.iter().any(|reason| reason.contains("OVERFLOW")), "{health:?}");
    while pipeline.stats().engine.waited == 1 {
        drop(span!("until it waits again"));
    }
    drop(attached);
    finish(pipeline, gate);
    let said = std::iter::from_fn(next_message).filter(|(_, said)| said.contains("OVERFLOW"));
    assert!(said.count() > 0, "nobody said that spans were dropped");
}

#[test]
fn the_setting_changes_while_threads_wait_and_while_they_do_not() {
    let (pipeline, gate) = full(settings());
    let record = || {
        let _attached = pipeline.attach();
        drop(span!("one more"));
    };
    record();
    let engine = pipeline.stats().engine;
    assert_eq!((engine.waited, dropped(&engine)), (0, 1));
    pipeline.change_settings([("overflow", "wait:60000")]).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(record);
        until(&pipeline, |engine| engine.waited == 1);
        pipeline.change_settings([("overflow", "drop")]).unwrap();
        // New ones drop at once; who waits already is not let down.
        record();
        let engine = pipeline.stats().engine;
        assert_eq!((engine.waited, dropped(&engine)), (1, 2));
        assert!(!waiter.is_finished());
        gate.let_one_go();
        gate.wait_entered();
        gate.let_one_go();
        waiter.join().unwrap();
    });
    assert_eq!(finish(pipeline, gate).dropped.total(), 2);
}

#[test]
fn shutdown_lets_threads_go_that_wait() {
    let (pipeline, gate) = full(settings().overflow(FOREVER));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                (0..1000).for_each(|_| drop(span!("flood")));
            });
        }
        until(&pipeline, |engine| engine.waited == 3);
        gate.open();
        pipeline.shutdown(LONG).unwrap();
    });
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(stats.engine.created, 3000 + ROOM as u64 - 1);
    assert_eq!(stats.engine.waited_in_vain, 0);
}

static IN_HANDLER: AtomicU64 = AtomicU64::new(0);

extern "C" fn record_in_handler(_signal: libc::c_int) {
    drop(span!("in a signal handler"));
    IN_HANDLER.fetch_add(1, Ordering::SeqCst);
}

/// It could wait for what the interrupted thread holds.
#[test]
fn a_signal_handler_does_not_wait_on_a_thread_that_does() {
    let (pipeline, gate) = full(settings().overflow(FOREVER));
    // SAFETY: a handler of the right type; nobody else uses the signal.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = record_in_handler as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    thread::scope(|scope| {
        let (told, tells) = std::sync::mpsc::channel();
        let pipeline = &pipeline;
        let waiter = scope.spawn(move || {
            let _attached = pipeline.attach();
            // SAFETY: it takes nothing and cannot fail.
            told.send(unsafe { libc::pthread_self() }).unwrap();
            drop(span!("waits"));
        });
        let thread = tells.recv().unwrap();
        until(pipeline, |engine| engine.waited == 1);
        // SAFETY: the thread waits, so it lives.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        until(pipeline, |engine| dropped(engine) == 1);
        assert_eq!(pipeline.stats().engine.waited, 1);
        gate.let_one_go();
        gate.wait_entered();
        gate.let_one_go();
        waiter.join().unwrap();
    });
    assert_eq!(IN_HANDLER.load(Ordering::SeqCst), 1);
    assert_eq!(finish(pipeline, gate).dropped.total(), 1);
}

#[test]
fn memory_of_a_thread_that_ends_is_had_by_one_that_waits() {
    const THREADS: usize = 80;
    let settings = settings().max_bytes(1 << 20).max_spans(THREADS).batch_size(16);
    let (pipeline, _) = memory_pipeline(settings.cleanup_interval(LONG * 10).overflow(FOREVER));
    let (stay, go) = std::sync::mpsc::channel::<()>();
    let go = Mutex::new(go);
    let recorded = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                drop(span!("one"));
                recorded.fetch_add(1, Ordering::Relaxed);
                _ = go.lock().unwrap().recv();
            });
        }
        // Some have no memory; the others end now, one after the other.
        until(&pipeline, |engine| engine.waited > 0);
        until(&pipeline, |engine| engine.sealed == recorded.load(Ordering::Relaxed));
        assert!(recorded.load(Ordering::Relaxed) < THREADS as u64);
        drop(stay);
    });
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((stats.engine.created, stats.engine.dropped.total()), (THREADS as u64, 0));
    assert_eq!(stats.engine.waited_in_vain, 0);
}
