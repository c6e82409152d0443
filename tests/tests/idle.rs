//! A pipeline that has nothing to do does nothing: its flusher sleeps until a deadline, as the kernel sees it.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use spanring::span;
use spanring_exporter::{OtlpOptions, Pipeline, PipelineStats};
use spanring_tests::receiver::{Answer, Receiver};
use spanring_tests::{LONG, settings};

/// How long is watched. Deadlines of an idle pipeline are a minute away.
const WATCHED: Duration = Duration::from_secs(3);
const BEGINS: &str = "idle from here";
const ENDS: &str = "idle up to here";

fn threads() -> HashSet<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// The thread beyond those of `before` with the flusher's name.
fn flusher(before: &HashSet<u32>) -> u32 {
    let is_flusher = |id: &&u32| {
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm"));
        name.is_ok_and(|name| name.trim_end() == "spanring")
    };
    let new: HashSet<u32> = threads().difference(before).copied().collect();
    let found: Vec<_> = new.iter().filter(is_flusher).collect();
    assert_eq!(found.len(), 1, "one flusher");
    *found[0]
}

/// How often a thread has gone to sleep or was made to wait: whoever wakes up does so again.
fn switches(thread: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let counts = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    counts.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}

/// Waits until `counter` has stood still for a while.
fn wait_for_rest(counter: impl Fn() -> u64) {
    wait_until(|| {
        let before = counter();
        std::thread::sleep(Duration::from_millis(100));
        counter() == before
    });
}

#[test]
fn an_idle_pipeline_with_a_kept_connection_makes_no_wake_up() {
    let receiver = Receiver::start();
    let before = threads();
    let pipeline = Pipeline::builder()
        .settings(settings().build())
        .otlp(OtlpOptions::new(receiver.endpoint()))
        .build()
        .unwrap();
    let _attached = pipeline.attach();
    for _ in 0..1000 {
        drop(span!("sent"));
    }
    pipeline.flush(LONG).unwrap();
    assert_eq!(receiver.distinct(), 1000);
    let flusher = flusher(&before);
    wait_for_rest(|| switches(flusher));
    let counts = || (switches(flusher), pipeline.stats().wake_ups);
    let at_first = counts();
    println!("{BEGINS}");
    std::thread::sleep(WATCHED);
    println!("{ENDS}");
    assert_eq!(counts(), at_first, "the flusher woke up");
    // It was asleep, not dead.
    drop(span!("sent"));
    pipeline.flush(LONG).unwrap();
    assert_eq!(receiver.distinct(), 1001);
    assert!(counts() > at_first);
    pipeline.shutdown(LONG).unwrap();
}

#[test]
fn an_endpoint_that_nobody_asks_makes_no_wake_up() {
    use std::io::{Read, Write};
    let before = threads();
    let address = ([127, 0, 0, 1], 0).into();
    let pipeline = Pipeline::builder()
        .settings(settings().status_address(address).build())
        .sink(spanring_exporter::MemorySink::new())
        .build()
        .unwrap();
    let address = pipeline.status_address().unwrap();
    let ask = || {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    ask();
    let flusher = flusher(&before);
    wait_for_rest(|| switches(flusher));
    let counts = || (switches(flusher), pipeline.stats().wake_ups);
    let at_first = counts();
    std::thread::sleep(WATCHED);
    assert_eq!(counts(), at_first, "the flusher woke up");
    ask();
    assert!(counts() > at_first);
}

#[test]
fn alerts_make_a_wake_up_after_what_came_and_none_afterwards() {
    let before = threads();
    let builder = settings().alerts(true).alert_interval(Duration::from_millis(20));
    let pipeline = Pipeline::builder()
        .settings(builder.health_max_memory(1 << 40).build())
        .sink(spanring_exporter::MemorySink::new())
        .build()
        .unwrap();
    let _attached = pipeline.attach();
    (0..10).for_each(|_| drop(span!("few")));
    pipeline.flush(LONG).unwrap();
    let flusher = flusher(&before);
    wait_for_rest(|| switches(flusher));
    let counts = || (switches(flusher), pipeline.stats().wake_ups);
    let at_first = counts();
    std::thread::sleep(WATCHED);
    assert_eq!(counts(), at_first, "the flusher woke up");
}

/// The first test once more, as the kernel's calls show it.
#[test]
fn an_idle_pipeline_makes_no_system_call() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calls");
    let this = std::env::current_exe().unwrap();
    let traced = Command::new("strace")
        .args(["-f", "-q", "-o", file.to_str().unwrap(), "--", this.to_str().unwrap()])
        .args(["--exact", "an_idle_pipeline_with_a_kept_connection_makes_no_wake_up"])
        .arg("--nocapture")
        .output();
    let traced = match traced {
        Ok(traced) if !String::from_utf8_lossy(&traced.stderr).contains("ptrace") => traced,
        _ => return println!("skipped: strace is not here, or may not trace"),
    };
    assert!(traced.status.success(), "{traced:?}");
    let calls = std::fs::read_to_string(file).unwrap();
    let (_, after) = calls.split_once(BEGINS).expect("the begin is in the calls");
    let (idle, _) = after.split_once(ENDS).expect("the end is in the calls");
    // What is left are the ends of two lines, and the thread that sleeps between them.
    let mine = idle.lines().last().unwrap().split(' ').next().unwrap();
    let others: Vec<_> = idle.lines().skip(1).filter(|line| !line.starts_with(mine)).collect();
    assert!(idle.contains("nanosleep"), "{idle}");
    assert_eq!(others, [""; 0], "somebody woke up");
}

/// A pipeline with this endpoint and one span for it, watched for a while once `ready` says so: how often it woke up, and
/// its failures meanwhile.
fn watch(endpoint: &str, ready: impl Fn(&PipelineStats) -> bool) -> (u64, u64) {
    let pipeline = Pipeline::builder()
        .settings(settings().build())
        .otlp(OtlpOptions::new(endpoint))
        .build()
        .unwrap();
    let _attached = pipeline.attach();
    let mut span = span!("sent");
    span.set_critical();
    drop(span);
    wait_until(|| ready(&pipeline.stats()));
    let counts = || {
        let stats = pipeline.stats();
        (stats.wake_ups, stats.sinks[0].failures)
    };
    let (wake_ups, failures) = counts();
    std::thread::sleep(WATCHED);
    let (wake_ups_then, failures_then) = counts();
    assert_eq!(pipeline.stats().sinks[0].queued, 1, "{endpoint}");
    while pipeline.shutdown(Duration::ZERO).is_err() {
        std::thread::yield_now();
    }
    (wake_ups_then - wake_ups, failures_then - failures)
}

#[test]
fn a_receiver_that_fails_costs_the_wake_ups_of_its_attempts_alone() {
    let failing = Receiver::answering(|_| Answer::status(503));
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [failing.endpoint(), format!("http://{unused}/")] {
        let (wake_ups, failures) = watch(&endpoint, |stats| stats.sinks[0].failures > 1);
        println!("{endpoint}: {wake_ups} wake-ups for {failures} attempts in {WATCHED:?}");
        assert!(failures > 0, "{endpoint}: it is not tried any more");
        // The end of the backoff, the connection, the answer; the last attempt may be under way.
        assert!(wake_ups <= 3 * (failures + 1), "{endpoint}: {wake_ups} for {failures}");
    }
}

#[test]
fn a_receiver_that_does_not_answer_costs_no_wake_up() {
    // Its kernel takes the request.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", silent.local_addr().unwrap());
    // Found nothing, nothing to look for any more: it sleeps.
    let seen = std::cell::Cell::new((0, Instant::now()));
    let (wake_ups, failures) = watch(&endpoint, |stats| {
        if stats.wake_ups != seen.get().0 {
            seen.set((stats.wake_ups, Instant::now()));
        }
        stats.sinks[0].queued == 1 && seen.get().1.elapsed() > Duration::from_millis(100)
    });
    assert_eq!((wake_ups, failures), (0, 0));
}
