//! An outbox with a sender that does as it is told, and times that are made up.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use spanring::span;

use super::*;
use crate::http::Io;
use crate::spool::SpoolOptions;
use crate::{MemorySink, Pipeline};

const SPANS: u32 = 10;
const LONG: Duration = Duration::from_secs(60);

/// What a scripted sender was given, and what it answers to that, in order; it takes everything after that.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sent: Vec<Parcel>,
    answers: VecDeque<Outcome>,
    finished: VecDeque<(u64, Outcome)>,
    /// It answers nothing.
    is_silent: bool,
    /// Requests with more spans are too large.
    limit: Option<u32>,
}

impl Script {
    fn answering(answers: impl IntoIterator<Item = Outcome>) -> Self {
        let script = Script::default();
        script.0.lock().unwrap().answers.extend(answers);
        script
    }

    fn silent() -> Self {
        let script = Script::default();
        script.0.lock().unwrap().is_silent = true;
        script
    }

    /// Spans of each request so far.
    fn sent(&self) -> Vec<u32> {
        self.0.lock().unwrap().sent.iter().map(|parcel| parcel.spans).collect()
    }
}

impl Sender for Script {
    fn name(&self) -> &str {
        "script"
    }
    fn wants_otlp(&self) -> bool {
        false
    }
    fn open(&mut self, _: Io) -> Result<(), String> {
        Ok(())
    }
    fn can_send(&self) -> bool {
        true
    }
    fn send(&mut self, parcel: Parcel, _: Instant) {
        let mut state = self.0.lock().unwrap();
        let (id, is_too_large) = (parcel.id, state.limit.is_some_and(|limit| parcel.spans > limit));
        state.sent.push(parcel);
        if is_too_large {
            return state.finished.push_back((id, too_large()));
        }
        if state.is_silent {
            return;
        }
        let answer = state.answers.pop_front();
        let answer = answer.unwrap_or(Outcome::Accepted { rejected: 0, message: String::new() });
        state.finished.push_back((id, answer));
    }
    fn ready(&mut self, _: &mio::event::Event, _: Instant) {}
    fn tick(&mut self, _: Instant) {}
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn close(&mut self) {}
    fn note(&self) -> Option<String> {
        None
    }
    fn finished(&mut self) -> Option<(u64, Outcome)> {
        self.0.lock().unwrap().finished.pop_front()
    }
}

fn retry() -> Outcome {
    Outcome::Retry { message: "busy".to_owned(), wait: None, repeats: false }
}

fn too_large() -> Outcome {
    Outcome::TooLarge { message: "too large".to_owned() }
}

fn settings() -> Settings {
    Settings::builder().ignore_environment().build()
}

/// So many batches of [`SPANS`] spans.
fn batches(count: usize) -> Vec<SealedBatch> {
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder().settings(settings()).sink(memory.clone()).build().unwrap();
    for _ in 0..count {
        let attached = pipeline.attach();
        (0..SPANS).for_each(|_| drop(span!("kept")));
        drop(attached);
        pipeline.flush(LONG).unwrap();
    }
    memory.batches()
}

fn spool(directory: &Path) -> Spool {
    Spool::open(SpoolOptions {
        directory: directory.to_owned(),
        max_bytes: 1 << 20,
        max_age: Duration::from_secs(3600),
        segment_max_bytes: 1 << 18,
        fsync: false,
        clock: Arc::new(SystemTime::now),
    })
    .unwrap()
}

fn outbox(script: &Script, spool: Option<Spool>) -> Outbox {
    Outbox::new(None, Courier { sender: Box::new(script.clone()), spool })
}

fn check(stats: &SinkStats) {
    let known = stats.delivered + stats.dropped_total() + stats.queued + stats.spooled;
    assert_eq!(stats.sealed + stats.adopted, known, "{stats:?}");
}

/// An outbox whose batches wait on disk only: without a budget nothing waits in memory.
fn with_stored(script: &Script, directory: &Path, count: usize, now: Instant) -> Outbox {
    let mut outbox = outbox(script, Some(spool(directory)));
    for batch in batches(count) {
        outbox.offer(&batch, None, now, &settings());
    }
    assert_eq!(outbox.stats().spooled, u64::from(SPANS) * count as u64);
    outbox
}

#[test]
fn what_a_clean_up_adopts_is_sent_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (script, now) = (Script::silent(), Instant::now());
    let mut outbox = outbox(&script, Some(spool(directory.path())));
    outbox.drive(now, false, &settings());
    // Another process, which ends before it has sent anything.
    let mut others = spool(directory.path());
    others.append(&batches(1)[0], now).unwrap();
    others.close().unwrap();
    outbox.cleanup(now, &settings());
    assert_eq!((script.sent(), outbox.stats().adopted), (vec![SPANS], SPANS.into()));
    // It is another's: neither flush nor shutdown of this pipeline waits for it.
    assert!(outbox.is_sending() && !outbox.waits_up_to(u64::MAX));
}

#[test]
fn a_batch_that_cannot_be_read_now_is_read_later() {
    let directory = tempfile::tempdir().unwrap();
    let (script, now) = (Script::default(), Instant::now());
    let mut outbox = with_stored(&script, directory.path(), 3, now);
    let segment = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "part"))
        .unwrap();
    // What is in its place can be opened, but not read: an error of the system, no damage.
    let aside = segment.with_extension("aside");
    std::fs::rename(&segment, &aside).unwrap();
    std::fs::create_dir(&segment).unwrap();
    outbox.drive(now, false, &settings());
    let stats = outbox.stats();
    assert_eq!((stats.spooled, stats.dropped_total(), stats.failures), (30, 0, 1), "{stats:?}");
    assert!(stats.last_error.contains("cannot be read from the spool"), "{stats:?}");
    std::fs::remove_dir(&segment).unwrap();
    std::fs::rename(&aside, &segment).unwrap();
    let later = outbox.deadline(now, &settings()).expect("it is tried again");
    outbox.drive(later, false, &settings());
    outbox.drive(later, false, &settings());
    assert_eq!(outbox.stats().delivered, 30, "{:?}", outbox.stats());
    check(outbox.stats());
}

#[test]
fn a_retry_that_is_late_is_due_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (script, now) = (Script::answering([retry()]), Instant::now());
    let mut outbox = with_stored(&script, directory.path(), 1, now);
    outbox.drive(now, false, &settings());
    let due = outbox.deadline(now, &settings()).expect("it is tried again");
    // Others took their time.
    let late = now + Duration::from_secs(20);
    assert_eq!(outbox.deadline(late, &settings()), Some(due));
    outbox.drive(late, false, &settings());
    assert_eq!(outbox.stats().delivered, 10);
}

#[test]
fn what_is_under_way_when_a_probe_is_late_is_waited_for() {
    let (script, now) = (Script::answering([retry()]), Instant::now());
    let directory = tempfile::tempdir().unwrap();
    let mut outbox = with_stored(&script, directory.path(), 2, now);
    outbox.drive(now, false, &settings());
    script.0.lock().unwrap().is_silent = true;
    let late = now + Duration::from_secs(20);
    outbox.drive(late, false, &settings());
    assert!(outbox.is_sending());
    // The spool has a deadline of its own; nothing is due now.
    assert!(outbox.deadline(late, &settings()).is_none_or(|at| at > late));
}

#[test]
fn what_came_from_the_disk_waits_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let (script, mut now) = (Script::answering((0..20).map(|_| retry())), Instant::now());
    let mut outbox = with_stored(&script, directory.path(), 5, now);
    for _ in 0..20 {
        outbox.drive(now, true, &settings());
        let stats = outbox.stats();
        assert_eq!((stats.queued, stats.spooled, outbox.waiting()), (0, 50, 0), "{stats:?}");
        now += Duration::from_secs(20);
    }
    // Always the oldest, since nothing else got through.
    let sent =
        script.0.lock().unwrap().sent.iter().map(|parcel| parcel.sequence).collect::<Vec<_>>();
    assert_eq!(sent, [0; 20]);
    outbox.drive(now, false, &settings());
    let sent = script.0.lock().unwrap().sent[20..]
        .iter()
        .map(|parcel| parcel.sequence)
        .collect::<Vec<_>>();
    assert_eq!(sent, [0, 1, 2, 3, 4]);
    check(outbox.stats());
    assert_eq!(outbox.stats().delivered, 50);
}

#[test]
fn a_receiver_with_a_lower_limit_is_asked_within_it() {
    let directory = tempfile::tempdir().unwrap();
    let (script, now) = (Script::default(), Instant::now());
    script.0.lock().unwrap().limit = Some(4);
    let mut outbox = with_stored(&script, directory.path(), 40, now);
    outbox.drive(now, false, &settings());
    check(outbox.stats());
    assert_eq!(outbox.stats().delivered, 400);
    let sent = script.sent();
    assert_eq!(sent[..3], [10, 5, 2], "{sent:?}");
    // Each batch once whole and once in halves would be 80 that are refused.
    let refused = sent.iter().filter(|&&spans| spans > 4).count();
    assert!(refused < 60 && sent.len() < 240, "{refused} refused of {}: {sent:?}", sent.len());
}

#[test]
fn an_empty_batch_that_is_too_large_is_split_no_further() {
    let (script, now) = (Script::answering([too_large(), too_large()]), Instant::now());
    let mut outbox = outbox(&script, None);
    outbox.offer_spans(Arc::new(SpanBatch::default()), InstanceId(1), 0, now, &settings());
    outbox.drive(now, false, &settings());
    assert_eq!((script.sent(), outbox.waiting()), (vec![0], 0));
}

#[test]
fn a_panic_of_the_sender_costs_no_span_and_wedges_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (script, now) = (Script::silent(), Instant::now());
    let mut outbox = with_stored(&script, directory.path(), 2, now);
    outbox.drive(now, false, &settings());
    assert!(outbox.is_sending());
    outbox.panicked("on purpose", now);
    check(outbox.stats());
    assert_eq!((outbox.stats().panics, outbox.stats().dropped_total()), (1, 0));
    script.0.lock().unwrap().is_silent = false;
    let later = outbox.deadline(now, &settings()).expect("it is tried again");
    outbox.drive(later, false, &settings());
    outbox.drive(later, false, &settings());
    assert_eq!(outbox.stats().delivered, 20, "{:?}", outbox.stats());
    // What the sender had taken before may have come.
    assert_eq!(outbox.stats().repeated, 20);
    check(outbox.stats());
}
