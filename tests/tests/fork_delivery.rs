//! Fork children of a process that sends spans over OTLP and keeps them in a spool: they disturb neither its connections
//! nor its files, and deliver what is their own.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use spanring::span;
use spanring_exporter::{OtlpOptions, Pipeline, PipelineStats, SinkStats};
use spanring_tests::fork::{in_child, in_killed_child};
use spanring_tests::ledger::check_counts;
use spanring_tests::receiver::{Answer, Receiver, Request};
use spanring_tests::{LONG, settings};

const SPANS: u64 = 500;
const BATCH: u64 = 50;
const FORKS: u64 = 20;
/// More than one of the children can adopt.
const SHARES_MAX: u64 = 7;
/// For what fails as long as it may: it only has to be tried.
const SHORT: Duration = Duration::from_millis(50);

/// One test at a time: a child has the sockets of all others, too, which then do not end with them.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pipeline(endpoint: &str, directory: &Path) -> Pipeline {
    let settings = settings()
        .dir(directory)
        .batch_size(BATCH as usize)
        .max_batch_wait(LONG * 10)
        // Adoption, among others, comes with the clean-up.
        .cleanup_interval(SHORT);
    let mut options = OtlpOptions::new(endpoint);
    options.timeout = LONG;
    let memory = spanring_exporter::MemorySink::new();
    let builder = Pipeline::builder().settings(settings.build()).sink(memory).otlp(options);
    builder.build().unwrap()
}

fn record(pipeline: &Pipeline, numbers: std::ops::Range<u64>) {
    let _attached = pipeline.attach();
    for number in numbers {
        drop(span!("sent", "number" = number));
    }
}

fn otlp(stats: &PipelineStats) -> &SinkStats {
    &stats.sinks[1]
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::yield_now();
    }
}

/// Descriptors of this process that are connections to `address`.
fn connections_to(address: SocketAddr) -> Vec<i32> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open: Vec<i32> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let is_to = |&descriptor: &i32| {
        // SAFETY: at worst it was closed meanwhile, or stands for another file: then it is asked in vain.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let peer = rustix::net::getpeername(descriptor);
        peer.ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok()) == Some(address)
    };
    open.into_iter().filter(is_to).collect()
}

/// A file of a spool: its name, its length, when it was written to last, and its number.
type File = (String, u64, SystemTime, u64);

/// What lies in a spool. No file is opened: to close it would cost this process its lock.
fn spool(directory: &Path) -> Vec<File> {
    let mut files = Vec::new();
    for sink in std::fs::read_dir(directory.join("spool")).unwrap().flatten() {
        for file in std::fs::read_dir(sink.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            let status = file.metadata().unwrap();
            files.push((name, status.len(), status.modified().unwrap(), status.ino()));
        }
    }
    files.sort();
    files
}

/// Locks that this process has on these files.
fn locks(files: &[File]) -> usize {
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let pid = std::process::id().to_string();
    let is_ours = |line: &&str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != pid);
        let file = words.nth(1).and_then(|file| file.rsplit(':').next()?.parse().ok());
        files.iter().any(|(_, _, _, number)| Some(*number) == file)
    };
    locks.lines().filter(is_ours).count()
}

/// A receiver that holds an answer back when it is told to.
#[derive(Default)]
struct Gate {
    /// Whether it holds the next answer, and how many it holds.
    state: Mutex<(bool, u64)>,
    changed: Condvar,
}

impl Gate {
    fn receiver(self: &Arc<Self>) -> Receiver {
        let gate = self.clone();
        Receiver::answering(move |_| {
            let mut state = gate.state.lock().unwrap();
            state.1 += 1;
            gate.changed.notify_all();
            let (mut state, timeout) =
                gate.changed.wait_timeout_while(state, LONG, |state| state.0).unwrap();
            assert!(!timeout.timed_out(), "nobody opens the gate");
            state.1 -= 1;
            Answer::status(200)
        })
    }

    fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    /// Waits until it holds an answer: its request is under way.
    fn wait(&self) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) =
            self.changed.wait_timeout_while(state, LONG, |state| state.1 == 0).unwrap();
        assert!(!timeout.timed_out(), "no request comes");
    }
}

/// The end of a pipeline that lost nothing and repeated nothing.
fn finish(pipeline: &Pipeline, receiver: &Receiver, directory: &Path, spans: u64) {
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    let sink = otlp(&stats);
    assert_eq!((receiver.distinct() as u64, receiver.repeats()), (spans, 0));
    assert_eq!((sink.failures, sink.dropped_total(), sink.queued + sink.spooled), (0, 0, 0));
    assert_eq!(spool(directory), [], "what is delivered leaves the disk");
}

/// Ways of a child to do nothing.
fn children() -> [(&'static str, fn()); 4] {
    [
        ("_exit", || assert_eq!(in_child(|| 0), 0)),
        // With the parent's exit handlers.
        ("exit", || assert_eq!(in_child(|| std::process::exit(0)), 0)),
        ("SIGKILL", || in_killed_child(|| ())),
        ("records", || {
            // Attached to the parent's pipeline still, if its thread was: that records nothing.
            let record = || (0..1000).for_each(|_| drop(span!("of the child")));
            assert_eq!(in_child(|| (record(), 0).1), 0);
        }),
    ]
}

#[test]
fn a_child_that_only_ends_leaves_the_connection_the_spool_and_its_locks_alone() {
    let _alone = alone();
    for (name, child) in children() {
        let directory = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate::default());
        let receiver = gate.receiver();
        let mut options = OtlpOptions::new(receiver.endpoint());
        options.pool_size = 1;
        let pipeline = Pipeline::builder()
            .settings(settings().dir(directory.path()).build())
            .sink(spanring_exporter::MemorySink::new())
            .otlp(options)
            .build()
            .unwrap();
        let _attached = pipeline.attach();
        record(&pipeline, 0..SPANS);
        pipeline.flush(LONG).unwrap();
        // The connection is idle.
        child();
        gate.close();
        record(&pipeline, SPANS..2 * SPANS);
        pipeline.flush(SHORT).unwrap_err();
        gate.wait();
        // And now it carries a request, whose batch is on the disk.
        let before = spool(directory.path());
        let held = locks(&before);
        // The segment and its sidecar.
        assert_eq!((before.len(), held), (2, 2), "{name}: nothing is at stake");
        child();
        let after = spool(directory.path());
        assert!(before == after, "{name}: a file of the spool has changed");
        assert_eq!(locks(&after), held, "{name}: a lock is gone");
        gate.open();
        pipeline.flush(LONG).unwrap();
        assert_eq!(receiver.connections(), 1, "{name}: the connection is another one");
        finish(&pipeline, &receiver, directory.path(), 2 * SPANS);
        let stats = pipeline.stats();
        check_counts(&stats);
        assert_eq!((otlp(&stats).delivered, otlp(&stats).repeated), (2 * SPANS, 0), "{name}");
    }
}

#[test]
fn the_parents_connections_are_closed_in_the_child_and_live_on_in_the_parent() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let receiver = gate.receiver();
    let pipeline = pipeline(&receiver.endpoint(), directory.path());
    gate.close();
    record(&pipeline, 0..SPANS);
    pipeline.flush(SHORT).unwrap_err();
    // Both connections carry a request.
    wait_until("a second request", || gate.state.lock().unwrap().1 == 2);
    let address = receiver.address();
    assert_eq!(connections_to(address).len(), 2);
    assert_eq!(in_child(|| connections_to(address).len() as i32), 0);
    gate.open();
    pipeline.flush(LONG).unwrap();
    // Idle now.
    assert_eq!(connections_to(address).len(), 2);
    assert_eq!(in_child(|| connections_to(address).len() as i32), 0);
    record(&pipeline, SPANS..2 * SPANS);
    pipeline.flush(LONG).unwrap();
    assert_eq!(receiver.connections(), 2);
    finish(&pipeline, &receiver, directory.path(), 2 * SPANS);
}

/// A receiver that has no room for anybody but the pipelines that `takes` says, told by the header with the batch's
/// name, and then for nobody less.
fn picky(takes: impl Fn(&str) -> bool + Send + Sync + 'static) -> Receiver {
    Receiver::answering(move |request: &Request| {
        let instance = request.headers["spanring-batch"].split('-').next().unwrap();
        Answer::status(if takes(instance) { 200 } else { 503 })
    })
}

#[test]
fn a_childs_own_pipeline_delivers_its_own_spans_and_leaves_its_parents_spool_alone() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let (parent, open) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
    let (known, opened) = (parent.clone(), open.clone());
    let receiver =
        picky(move |instance| opened.load(Ordering::Acquire) || *known.lock().unwrap() != instance);
    let endpoint = receiver.endpoint();
    let pipeline = pipeline(&endpoint, directory.path());
    *parent.lock().unwrap() = pipeline.instance().to_string();
    record(&pipeline, 0..SPANS);
    pipeline.flush(SHORT).unwrap_err();
    // Then nothing more is written: all is on the disk, and marks are for what is delivered.
    wait_until("a failure", || {
        let stats = pipeline.stats();
        otlp(&stats).sealed == SPANS && otlp(&stats).failures > 0
    });
    let before = spool(directory.path());
    let held = locks(&before);
    assert!(held > 0);
    let status = in_child(|| {
        let own = self::pipeline(&endpoint, directory.path());
        record(&own, SPANS..2 * SPANS);
        let flushed = own.flush(LONG).is_ok();
        let is_shut_down = own.shutdown(LONG).is_ok();
        let stats = own.stats();
        let sink = otlp(&stats);
        i32::from(!flushed || !is_shut_down)
            | i32::from(sink.adopted != 0) << 1
            | i32::from(sink.delivered != SPANS) << 2
            | i32::from(sink.failures + sink.repeated + sink.dropped_total() != 0) << 3
    });
    assert_eq!(status, 0, "a bit for each of what is wrong with the child");
    assert_eq!((receiver.distinct() as u64, receiver.repeats()), (SPANS, 0));
    assert!(receiver.numbers().iter().all(|number| *number >= SPANS), "a span of the parent");
    let after = spool(directory.path());
    assert!(before == after, "the child left something, or touched its parent's");
    assert_eq!(locks(&after), held, "the child cost its parent a lock");
    open.store(true, Ordering::Release);
    pipeline.flush(LONG).unwrap();
    pipeline.shutdown(LONG).unwrap();
    check_counts(&pipeline.stats());
    assert_eq!((receiver.distinct() as u64, receiver.repeats()), (2 * SPANS, 0));
    assert_eq!(receiver.numbers(), (0..2 * SPANS).collect::<HashSet<_>>());
    assert_eq!(spool(directory.path()), []);
}

#[test]
fn what_a_killed_child_had_sealed_is_delivered_by_its_parent() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let (parent, open) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
    let (known, opened) = (parent.clone(), open.clone());
    let receiver =
        picky(move |instance| opened.load(Ordering::Acquire) || *known.lock().unwrap() == instance);
    let endpoint = receiver.endpoint();
    let pipeline = pipeline(&endpoint, directory.path());
    *parent.lock().unwrap() = pipeline.instance().to_string();
    record(&pipeline, 0..SPANS);
    pipeline.flush(LONG).unwrap();
    in_killed_child(|| {
        let own = self::pipeline(&endpoint, directory.path());
        record(&own, SPANS..2 * SPANS);
        _ = own.flush(SHORT);
        wait_until("that all is sealed", || otlp(&own.stats()).sealed == SPANS);
        // Its end comes without a shutdown.
        std::mem::forget(own);
    });
    assert_eq!(receiver.distinct() as u64, SPANS, "the child's cannot have come");
    open.store(true, Ordering::Release);
    // Whoever records cleans up now and then, and finds it.
    let mut total = 2 * SPANS;
    wait_until("what the child left", || {
        record(&pipeline, total..total + 1);
        total += 1;
        pipeline.flush(LONG).unwrap();
        otlp(&pipeline.stats()).adopted > 0
    });
    wait_until("the last of it", || receiver.distinct() as u64 == total);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(receiver.numbers(), (0..total).collect::<HashSet<_>>());
    assert_eq!((otlp(&stats).adopted, receiver.repeats()), (SPANS, 0));
    assert_eq!((otlp(&stats).delivered, otlp(&stats).dropped_total()), (total, 0));
    assert_eq!(spool(directory.path()), []);
}

/// Says when it is dropped that threads are to stop.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn twenty_forks_while_threads_record_and_requests_are_under_way_lose_and_repeat_nothing() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let receiver = gate.receiver();
    let endpoint = receiver.endpoint();
    let pipeline = pipeline(&endpoint, directory.path());
    let (stop, next) = (AtomicBool::new(false), AtomicU64::new(FORKS * SPANS));
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                while !stop.load(Ordering::Acquire) {
                    // What is lost in the rings is not what this is about.
                    if pipeline.stats().engine.resident < 1000 {
                        drop(span!("sent", "number" = next.fetch_add(1, Ordering::Relaxed)));
                    }
                }
            });
        }
        // When a child fails, too: else the others would record without end.
        let _stop = Stop(&stop);
        for fork in 0..FORKS {
            gate.close();
            gate.wait();
            match fork % 5 {
                4 => said.push(in_child(|| {
                    let own = self::pipeline(&endpoint, directory.path());
                    record(&own, fork * SPANS..(fork + 1) * SPANS);
                    // Its answers are held back, too: it leaves them to its parent, or to the next such child.
                    _ = own.flush(SHORT);
                    while otlp(&own.stats()).sealed < SPANS {
                        std::thread::yield_now();
                    }
                    let stats = own.stats();
                    std::mem::forget(own);
                    // Shares that it adopted, of which what is its parent's would be no whole one, and batches that
                    // it sent although their receiver may have them.
                    let SinkStats { adopted, repeated, .. } = *otlp(&stats);
                    let shares = if adopted % SPANS == 0 { adopted / SPANS } else { SHARES_MAX };
                    (shares + repeated.div_ceil(BATCH) * (SHARES_MAX + 1)) as i32
                })),
                way => children()[way as usize].1(),
            }
            gate.open();
        }
    });
    for (children, said) in (0..).zip(&said) {
        let shares = *said as u64 % (SHARES_MAX + 1);
        assert!(shares <= children, "more than the children before it left: {said:?}");
    }
    let repeated: u64 = said.iter().map(|said| *said as u64 / (SHARES_MAX + 1) * BATCH).sum();
    let others = SPANS * FORKS / 5;
    // Whoever records cleans up now and then, and finds what the children left.
    wait_until("what the children left", || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        record(&pipeline, number..number + 1);
        pipeline.flush(LONG).unwrap();
        otlp(&pipeline.stats()).adopted == others
    });
    let total = next.load(Ordering::Acquire) - FORKS * SPANS + others;
    wait_until("the last of it", || otlp(&pipeline.stats()).delivered == total);
    assert_eq!(receiver.distinct() as u64, total);
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    let sink = otlp(&stats);
    // Children that end while their requests are under way leave spans that may be there already.
    let repeated = repeated + sink.repeated;
    assert!(receiver.repeats() <= repeated, "{} > {repeated} {sink:?}", receiver.repeats());
    assert!(sink.repeated <= others, "more is repeated than the children left");
    assert_eq!((sink.failures, sink.dropped_total()), (0, 0));
    assert_eq!(spool(directory.path()), []);
}
