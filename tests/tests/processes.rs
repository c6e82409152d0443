//! What real processes leave behind, however they end.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use spanring_cli::commands::{Outcome, verify};
use spanring_tests::directory::{self, Recording};
use spanring_tests::process::Process;

const WORKLOAD: &str = env!("CARGO_BIN_EXE_workload");
const SPANS: usize = 1000;

/// Runs the workload to its end; its exit code and what it left.
fn run(ending: &str) -> (Option<i32>, Recording) {
    let dir = tempfile::tempdir().unwrap();
    let (status, _) = Process::start(WORKLOAD, &[ending], dir.path()).finish();
    (status.code(), directory::read_one(dir.path()))
}

fn spans(recording: &Recording) -> usize {
    recording.ledger.spans().count()
}

#[test]
fn main_that_returns_without_shutdown_delivers_everything() {
    let (code, left) = run("return");
    assert_eq!((code, spans(&left), left.is_complete()), (Some(0), SPANS, true));
}

#[test]
fn process_exit_delivers_everything_and_keeps_its_code() {
    let (code, left) = run("exit");
    assert_eq!((code, spans(&left), left.is_complete()), (Some(7), SPANS, true));
}

#[test]
fn process_exit_on_a_thread_delivers_everything() {
    let (code, left) = run("exit-in-thread");
    assert_eq!((code, spans(&left), left.is_complete()), (Some(7), SPANS, true));
}

#[test]
fn a_thread_that_panics_delivers_what_it_recorded_the_open_span_too() {
    let (code, left) = run("panic-in-thread");
    assert_eq!((code, spans(&left), left.is_complete()), (Some(0), SPANS, true));
}

#[test]
fn a_panic_in_main_delivers_everything() {
    let (code, left) = run("panic");
    assert_eq!((code, spans(&left), left.is_complete()), (Some(101), SPANS, true));
}

#[test]
fn abort_leaves_what_was_flushed_in_a_segment_that_is_not_closed() {
    let (code, left) = run("abort");
    assert_eq!(code, None);
    assert!(spans(&left) >= SPANS && !left.is_complete() && left.unclosed.len() == 1);
}

/// Waits until the workload has recorded, and ends it by `signal`.
fn killed_by(signal: i32) -> Recording {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(WORKLOAD, &["wait"], dir.path());
    process.wait_for("recorded");
    // SAFETY: our own child, which still runs.
    assert_eq!(unsafe { libc::kill(process.id() as i32, signal) }, 0);
    let (status, _) = process.finish();
    assert_eq!(status.signal(), Some(signal));
    check_verify(dir.path());
    directory::read_one(dir.path())
}

/// `spanring verify` finds a problem and names the segment that was not closed.
fn check_verify(dir: &Path) {
    let args = verify::Args { paths: vec![dir.to_owned()], allow_deleted: false, json: false };
    let mut said = Vec::new();
    let outcome = verify::run(&args, &mut said).expect("a buffer takes everything");
    assert!(matches!(outcome, Outcome::Problem), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn sigterm_by_default_costs_what_was_not_flushed_and_verify_says_not_closed() {
    assert!(spans(&killed_by(libc::SIGTERM)) >= SPANS);
}

#[test]
fn sigkill_costs_what_was_not_flushed_and_verify_says_not_closed() {
    assert!(spans(&killed_by(libc::SIGKILL)) >= SPANS);
}

#[test]
fn sigkill_in_the_middle_of_writing_costs_the_last_batch_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(WORKLOAD, &["busy"], dir.path());
    process.wait_for("writing");
    process.kill();
    process.finish();
    let left = directory::read_one(dir.path());
    // `read_one` has checked that the batches follow each other and decode; what cannot be read is
    // less than one batch more.
    assert!(left.ledger.batches.len() > 20);
    assert_eq!(left.unclosed.len(), 1);
    check_verify(dir.path());
}

#[test]
fn a_fork_child_sends_nothing_of_its_parents_and_its_own_pipeline_works() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _) = Process::start(WORKLOAD, &["fork"], dir.path()).finish();
    assert_eq!(status.code(), Some(0));
    let mut found = directory::read(dir.path());
    found.sort_by_key(|recording| std::cmp::Reverse(spans(recording)));
    let [parent, child] = &found[..] else { panic!("{} pipelines", found.len()) };
    assert_eq!((spans(parent), spans(child)), (SPANS, 5));
    assert!(parent.is_complete() && child.is_complete() && parent.pid != child.pid);
    assert!(child.ledger.spans().all(|span| span.name == "child"));
    let ids: HashSet<_> = found
        .iter()
        .flat_map(|recording| recording.ledger.spans())
        .map(|span| span.span_id)
        .collect();
    assert_eq!(ids.len(), SPANS + 5, "an ID was used twice");
}
