//! The spool on real files: against a model, over a disk that fails, damaged, and between processes.

mod caps;
mod damage;
mod model;
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use super::*;
use crate::batch::{FORMAT_VERSION, decode_header, wrap_content};
use crate::segment::testing::{FailingWrite, FaultyDisk};
use crate::segment::{SegmentReader, find_segments};

const INSTANCE: InstanceId = InstanceId(0xfeed);
const BEGIN_SECONDS: u64 = 1_661_137_262;
/// The largest cap with which segments may be of 900 bytes.
const SMALL_MAX_BYTES: u64 = 64 * 900;

/// Spans of batches, by the batches' sequence numbers.
type Spans = BTreeMap<u64, BTreeSet<u32>>;

/// A frame with a batch's header, which says `spans`, and bytes that do not compress in place of spans.
fn batch_of(instance: InstanceId, sequence: u64, spans: u32, filler: usize) -> SealedBatch {
    let start_unix_nano = (BEGIN_SECONDS + sequence) * 1_000_000_000;
    let mut content = vec![FORMAT_VERSION];
    content.extend_from_slice(&instance.0.to_be_bytes());
    content.extend_from_slice(&[7; 16]);
    content.extend_from_slice(&start_unix_nano.to_le_bytes());
    let sealed = 3 * sequence;
    for mut number in [250, sequence, 0, sealed, sealed, u64::from(spans), 0, 0, 0, 0] {
        while number > 0x7f {
            content.push(number as u8 | 0x80);
            number >>= 7;
        }
        content.push(number as u8);
    }
    let mut random = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    content.extend((0..filler).map(|_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    }));
    SealedBatch {
        instance,
        sequence,
        spans,
        start_unix_nano,
        end_unix_nano: start_unix_nano + 250,
        frame: Bytes::from(wrap_content(&content)),
    }
}

fn batch(sequence: u64) -> SealedBatch {
    batch_of(INSTANCE, sequence, spans_of(sequence), 100)
}

fn spans_of(sequence: u64) -> u32 {
    10 + sequence as u32 % 7
}

/// Both clocks of a test.
#[derive(Clone)]
struct Time {
    begin: Instant,
    passed: Arc<AtomicU64>,
}

impl Time {
    fn new() -> Self {
        Time { begin: Instant::now(), passed: Arc::new(AtomicU64::new(0)) }
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_secs(self.passed.load(Relaxed))
    }

    fn advance(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Relaxed);
    }

    fn options(&self, directory: &Path, segment_max_bytes: u64, max_bytes: u64) -> SpoolOptions {
        let passed = Arc::clone(&self.passed);
        SpoolOptions {
            directory: directory.to_owned(),
            max_bytes,
            max_age: Duration::from_secs(800),
            segment_max_bytes,
            fsync: false,
            clock: Arc::new(move || {
                // No two looks give the same, as the spools of a test are of one pipeline.
                static LOOKS: AtomicU64 = AtomicU64::new(0);
                UNIX_EPOCH
                    + Duration::from_secs(BEGIN_SECONDS + passed.load(Relaxed))
                    + Duration::from_nanos(LOOKS.fetch_add(1, Relaxed))
            }),
        }
    }
}

fn open(directory: &Path, segment_max_bytes: u64, max_bytes: u64) -> Spool {
    Spool::open(Time::new().options(directory, segment_max_bytes, max_bytes)).unwrap()
}

/// One that takes a few of [`batch`] a segment.
fn open_small(directory: &Path) -> Spool {
    open(directory, 900, SMALL_MAX_BYTES)
}

impl Spool {
    /// What a killed process does: its descriptors are closed and nothing else.
    fn kill(mut self) {
        self.held.clear();
        self.current = None;
    }

    fn append_now(&mut self, batch: &SealedBatch) -> Place {
        self.append(batch, Instant::now()).unwrap()
    }

    /// Adopts all that there is, without damage; returns the spans of each batch, by sequence number,
    /// and that none was given out twice.
    fn adopt_all(&mut self) -> Spans {
        let mut found = Spans::new();
        loop {
            let adopted = self.adopt().unwrap();
            assert!(adopted.errors.is_empty(), "{:#?}", adopted.errors);
            let sum: u64 = adopted.parts.iter().map(|part| u64::from(part.spans)).sum();
            assert_eq!(sum, adopted.spans);
            for part in &adopted.parts {
                let batch = self.read(part.place).unwrap();
                let spans = found.entry(batch.sequence).or_default();
                for span in part.first..part.first + part.spans {
                    assert!(span < batch.spans && spans.insert(span), "{span} twice or too many");
                }
            }
            if !adopted.more {
                return found;
            }
            assert!(!adopted.parts.is_empty(), "it holds as much as it can");
        }
    }
}

/// All spans of the batches, as [`Spool::adopt_all`] returns them.
fn whole(sequences: impl IntoIterator<Item = u64>) -> Spans {
    sequences.into_iter().map(|sequence| (sequence, (0..spans_of(sequence)).collect())).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn directory_bytes(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn snapshot(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| (name.clone(), fs::read(directory.join(&name)).unwrap());
    names(directory).into_iter().map(read).collect()
}

#[test]
fn what_is_not_settled_is_there_after_a_kill_and_what_is_settled_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open_small(directory.path());
    let places: Vec<Place> = (0..20).map(|n| spool.append_now(&batch(n))).collect();
    for sequence in (0..20).step_by(2) {
        spool.done(places[sequence], 0, spans_of(sequence as u64)).unwrap();
    }
    // Of one, two parts that leave the middle.
    spool.done(places[1], 0, 3).unwrap();
    spool.done(places[1], 8, 100).unwrap();
    spool.kill();

    let mut spool = open_small(directory.path());
    let mut expected = whole((1..20).step_by(2));
    expected.insert(1, (3..8).collect());
    assert_eq!(spool.adopt_all(), expected);
    assert!(spool.adopt_all().is_empty(), "given out twice");
}

#[test]
fn a_batch_is_read_as_it_was_appended() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open_small(directory.path());
    let places: Vec<Place> = (0..8).map(|n| spool.append_now(&batch(n))).collect();
    for (sequence, place) in places.iter().enumerate() {
        let (expected, found) = (batch(sequence as u64), spool.read(*place).unwrap());
        assert_eq!(found.frame, expected.frame);
        assert_eq!(
            (found.instance, found.sequence, found.spans),
            (expected.instance, expected.sequence, expected.spans)
        );
        assert_eq!(
            (found.start_unix_nano, found.end_unix_nano),
            (expected.start_unix_nano, expected.end_unix_nano)
        );
    }
    spool.done(places[0], 0, 10).unwrap();
    spool.done(places[1], 0, 11).unwrap();
    spool.done(places[2], 0, 12).unwrap();
    spool.done(places[3], 0, 13).unwrap();
    let error = spool.read(places[0]).unwrap_err();
    assert!(error.to_string().contains("not in the spool any more"), "{error}");
}

#[test]
fn a_batch_without_spans_is_pending_until_it_is_settled() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open_small(directory.path());
    spool.append_now(&batch_of(INSTANCE, 0, 0, 10));
    spool.kill();
    let mut spool = open_small(directory.path());
    let part = spool.adopt().unwrap().parts[0];
    assert_eq!((part.first, part.spans), (0, 0));
    spool.done(part.place, 0, 0).unwrap();
    spool.kill();
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_closed_spool_with_everything_settled_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), 1 << 16, 1 << 20);
    for sequence in 0..10 {
        let place = spool.append_now(&batch(sequence));
        spool.done(place, 0, spans_of(sequence)).unwrap();
    }
    assert_eq!(names(directory.path()).len(), 2, "one segment is used for all");
    spool.close().unwrap();
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn an_idle_spool_with_everything_settled_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let time = Time::new();
    let mut spool = Spool::open(time.options(directory.path(), 1 << 16, 1 << 20)).unwrap();
    let place = spool.append(&batch(0), time.now()).unwrap();
    spool.done(place, 0, 10).unwrap();
    assert_eq!(spool.enforce(time.now()), []);
    assert_eq!(names(directory.path()).len(), 2);
    let deadline = spool.deadline().unwrap();
    time.advance((deadline - time.now()).as_secs());
    assert_eq!(spool.enforce(time.now()), []);
    assert_eq!(names(directory.path()), [""; 0]);
    assert_eq!((spool.bytes(), spool.deadline()), (0, None));
    spool.append(&batch(1), time.now()).unwrap();
    assert_eq!(names(directory.path()).len(), 2);
}

#[test]
fn however_many_batches_are_delivered_the_disk_holds_a_part_of_a_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), 8 << 10, 1 << 19);
    let (mut most, mut segments) = (0, BTreeSet::new());
    for sequence in 0..500 {
        let place = spool.append_now(&batch(sequence));
        spool.done(place, 0, spans_of(sequence)).unwrap();
        assert_eq!(spool.enforce(Instant::now()), []);
        most = most.max(directory_bytes(directory.path()));
        segments.extend(names(directory.path()));
    }
    // A quarter of a segment, and one batch and mark above it.
    assert!((1000..3 << 10).contains(&most), "{most}");
    assert!(segments.len() < 150, "one segment took only one batch: {}", segments.len());
}

#[test]
fn files_are_for_this_user_alone_and_their_segments_are_ordinary_ones() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spool/otlp");
    let mut spool = open_small(&directory);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let places: Vec<Place> = (0..9).map(|n| spool.append_now(&batch(n))).collect();
    spool.done(places[8], 0, 3).unwrap();
    for name in names(&directory) {
        assert_eq!(mode(&directory.join(name)), 0o600);
    }
    let segments = find_segments(&directory).unwrap();
    assert!(segments.len() > 2 && segments[0].name.is_closed());
    let mut sequences = Vec::new();
    for segment in &segments {
        let mut reader = SegmentReader::open(&segment.path).unwrap();
        while let Some(batch) = reader.next_batch() {
            sequences.push(decode_header(batch.unwrap().frame).unwrap().sequence);
        }
    }
    assert_eq!(sequences, (0..9).collect::<Vec<_>>());
}

#[test]
fn pipelines_get_segments_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), 1 << 16, 1 << 20);
    spool.append_now(&batch_of(InstanceId(1), 0, 3, 10));
    spool.append_now(&batch_of(InstanceId(2), 0, 4, 10));
    spool.kill();
    let mut spool = open(directory.path(), 1 << 16, 1 << 20);
    let adopted = spool.adopt().unwrap();
    let read = |part: &Part| spool.read(part.place).unwrap().instance.0;
    assert_eq!(adopted.parts.iter().map(read).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn above_its_cap_the_oldest_segments_go_and_every_span_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    // Ten dead segments, some adopted, then own ones.
    let mut dead = open_small(directory.path());
    let places: Vec<Place> = (0..40).map(|n| dead.append_now(&batch(n))).collect();
    dead.done(places[0], 2, 5).unwrap();
    dead.done(places[39], 0, 1).unwrap();
    dead.kill();
    let cap = directory_bytes(directory.path()) + 4000;
    let time = Time::new();
    let mut spool = Spool::open(time.options(directory.path(), 900, cap)).unwrap();
    let adopted = spool.adopt().unwrap();
    let mut pending: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    for part in &adopted.parts {
        let sequence = spool.read(part.place).unwrap().sequence;
        let spans = pending.entry(part.place).or_insert((sequence, 0));
        spans.1 += u64::from(part.spans);
    }
    assert_eq!(pending.len(), 40);
    let mut gone = Vec::new();
    for sequence in 40..120 {
        let place = spool.append(&batch(sequence), time.now()).unwrap();
        pending.insert(place, (sequence, u64::from(spans_of(sequence))));
        for dropped in spool.enforce(time.now()) {
            assert_eq!((dropped.reason, dropped.is_unreadable), (DropReason::Bytes, false));
            let (sequence, spans) = pending.remove(&dropped.place.unwrap()).unwrap();
            assert_eq!(dropped.spans, spans);
            gone.push(sequence);
        }
        assert!(directory_bytes(directory.path()) <= cap);
        assert_eq!(spool.bytes(), spool.held_bytes());
    }
    assert!(gone.len() > 50);
    assert_eq!(gone, (0..gone.len() as u64).collect::<Vec<_>>(), "the oldest go first");
    let left: BTreeSet<u64> = pending.values().map(|(sequence, _)| *sequence).collect();
    assert_eq!(left, (gone.len() as u64..120).collect());
    for (place, (sequence, _)) in &pending {
        assert_eq!(spool.read(*place).unwrap().sequence, *sequence);
    }
}

#[test]
fn dead_segments_that_nobody_adopted_are_dropped_and_counted_too() {
    for by_age in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let time = Time::new();
        let mut dead = Spool::open(time.options(directory.path(), 900, SMALL_MAX_BYTES)).unwrap();
        let places: Vec<Place> =
            (0..12).map(|n| dead.append(&batch(n), time.now()).unwrap()).collect();
        dead.done(places[0], 4, 2).unwrap();
        dead.kill();
        let total: u64 = (0..12).map(|n| u64::from(spans_of(n))).sum();

        let cap = if by_age { SMALL_MAX_BYTES } else { 4 };
        let mut spool = Spool::open(time.options(directory.path(), 900, cap)).unwrap();
        if by_age {
            time.advance(899);
            assert_eq!(spool.enforce(time.now()), [], "an eighth later than its age");
            time.advance(6);
        }
        let dropped = spool.enforce(time.now());
        let reason = if by_age { DropReason::Age } else { DropReason::Bytes };
        assert!(dropped.iter().all(|one| one.place.is_none() && one.reason == reason));
        assert_eq!(dropped.iter().map(|one| one.spans).sum::<u64>(), total - 2);
        assert_eq!(names(directory.path()), [""; 0]);
        assert_eq!(spool.bytes(), 0);
    }
}

#[test]
fn what_is_too_old_is_dropped_and_what_is_younger_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let time = Time::new();
    let mut spool = Spool::open(time.options(directory.path(), 1 << 16, 1 << 20)).unwrap();
    // One a minute: a segment is ended at an eighth of the age, 100 s.
    let mut appended = BTreeMap::new();
    let mut gone = 0;
    for sequence in 0..60 {
        appended.insert(spool.append(&batch(sequence), time.now()).unwrap(), sequence);
        time.advance(60);
        for dropped in spool.enforce(time.now()) {
            assert_eq!(dropped.reason, DropReason::Age);
            let sequence = appended.remove(&dropped.place.unwrap()).unwrap();
            assert_eq!((sequence, dropped.spans), (gone, u64::from(spans_of(sequence))));
            gone += 1;
        }
        let age = |sequence: u64| (1 + 59.min(appended_last(&appended)) - sequence) * 60;
        for &left in appended.values() {
            assert!(age(left) < 800 + 160, "{left} is {} s old and still there", age(left));
        }
        if gone > 0 {
            assert!(age(gone - 1) >= 800, "{} was only {} s old", gone - 1, age(gone - 1));
        }
    }
    assert!(gone > 40);
}

fn appended_last(appended: &BTreeMap<Place, u64>) -> u64 {
    appended.values().copied().max().unwrap_or(0)
}

#[test]
fn a_batch_that_can_never_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), 1000, 4000);
    let error = spool.append(&batch_of(INSTANCE, 0, 1, 4000), Instant::now()).unwrap_err();
    assert_eq!(error.kind(), SegmentErrorKind::Refused);
    // One that fits only by itself is taken.
    spool.append_now(&batch_of(INSTANCE, 1, 1, 3000));
    assert_eq!(spool.enforce(Instant::now()), []);
}

#[test]
fn a_full_disk_is_an_error_and_the_spool_goes_on_when_it_has_room() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(0..0, io::ErrorKind::StorageFull, FailingWrite::Half);
    let options = Time::new().options(directory.path(), 900, SMALL_MAX_BYTES);
    let mut spool = Spool::open_on(Arc::new(disk.clone()), options).unwrap();
    let first = spool.append_now(&batch(0));
    let second = spool.append_now(&batch(1));
    disk.set_failing(true);
    for _ in 0..3 {
        let error = spool.append(&batch(2), Instant::now()).unwrap_err();
        assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull));
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    }
    let error = spool.done(first, 0, 10).unwrap_err();
    assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull));
    disk.set_failing(false);
    // The mark that could not be written is, with the next.
    spool.done(second, 0, 1).unwrap();
    spool.append_now(&batch(2));
    spool.kill();
    let mut expected = whole([1, 2]);
    expected.insert(1, (1..11).collect());
    assert_eq!(open_small(directory.path()).adopt_all(), expected);
}

#[test]
fn marks_that_could_not_be_written_are_written_when_it_is_due() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(0..0, io::ErrorKind::StorageFull, FailingWrite::Half);
    let options = Time::new().options(directory.path(), 900, SMALL_MAX_BYTES);
    let mut spool = Spool::open_on(Arc::new(disk.clone()), options).unwrap();
    let places: Vec<Place> = (0..12).map(|n| spool.append_now(&batch(n))).collect();
    disk.set_failing(true);
    for (sequence, place) in places.iter().enumerate().take(10) {
        assert!(spool.done(*place, 0, spans_of(sequence as u64)).is_err());
    }
    disk.set_failing(false);
    assert_eq!(spool.enforce(Instant::now()), []);
    spool.kill();
    assert_eq!(open_small(directory.path()).adopt_all(), whole(10..12));
}

/// Appends, settles every third batch, and adopts what a dead process left, on a disk that fails
/// somewhere. Returns what must be there afterwards, and what may.
fn run_with_faults(
    directory: &Path,
    disk: &FaultyDisk,
    fsync: bool,
) -> Option<(Spans, BTreeSet<u64>)> {
    let mut dead = open_small(directory);
    let places: Vec<Place> = (100..106).map(|n| dead.append_now(&batch(n))).collect();
    dead.done(places[5], 0, 2).unwrap();
    dead.kill();
    let options = SpoolOptions { fsync, ..Time::new().options(directory, 900, SMALL_MAX_BYTES) };
    let mut spool = Spool::open_on(Arc::new(disk.clone()), options).ok()?;
    let mut settled = BTreeSet::new();
    for sequence in 0..9 {
        let mut tries = 0;
        let place = loop {
            match spool.append(&batch(sequence), Instant::now()) {
                Ok(place) => break place,
                Err(_) => tries += 1,
            }
            assert!(tries < 50, "it never recovers");
        };
        if sequence % 3 == 0 {
            _ = spool.done(place, 0, spans_of(sequence));
            settled.insert(sequence);
        }
        if sequence == 4 {
            let adopted = spool.adopt();
            for part in adopted.map(|adopted| adopted.parts).unwrap_or_default() {
                if let Ok(batch) = spool.read(part.place)
                    && batch.sequence < 103
                {
                    assert_eq!((part.first, part.spans), (0, batch.spans));
                    _ = spool.done(part.place, 0, part.spans);
                    settled.insert(batch.sequence);
                }
            }
        }
        assert_eq!(spool.enforce(Instant::now()), []);
    }
    if settled.len() % 2 == 0 {
        _ = spool.close();
    } else {
        spool.kill();
    }
    let open = (0..9).chain(100..106).filter(|sequence| !settled.contains(sequence));
    let mut must = whole(open);
    must.get_mut(&105).unwrap().retain(|span| *span >= 2);
    Some((must, settled))
}

#[test]
fn whichever_calls_fail_no_batch_is_lost_and_none_is_there_twice() {
    let plain = FaultyDisk::new(0..0, io::ErrorKind::Other, FailingWrite::Nothing);
    run_with_faults(tempfile::tempdir().unwrap().path(), &plain, true);
    let calls = plain.calls();
    assert!(calls > 100, "{calls}");
    let mut failed = BTreeSet::new();
    for (write, fsync) in
        [(FailingWrite::Nothing, true), (FailingWrite::Half, false), (FailingWrite::All, true)]
    {
        for in_a_row in [1, 4] {
            for first in 0..calls {
                let directory = tempfile::tempdir().unwrap();
                let disk =
                    FaultyDisk::new(first..first + in_a_row, io::ErrorKind::StorageFull, write);
                let Some((must, may)) = run_with_faults(directory.path(), &disk, fsync) else {
                    continue;
                };
                failed.extend(disk.failed());
                let found = open_small(directory.path()).adopt_all();
                // A mark may be lost with a failure; then all of the batch is there again.
                let (again, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    found.into_iter().partition(|(sequence, _)| may.contains(sequence));
                assert_eq!(found, must, "{write:?}, {first} failed {:?}", disk.failed());
                assert_eq!(whole(again.keys().copied()), again);
            }
        }
    }
    for call in ["write_at", "own", "open_sidecar", "files", "open", "read_at", "remove", "rename"]
    {
        assert!(failed.contains(call), "{call} never failed: {failed:?}");
    }
}

#[test]
fn a_settled_segment_that_cannot_be_deleted_is_not_delivered_again() {
    // With the disk failing from the n-th call of the last `done` on, as in a crash there.
    let run = |directory: &Path, failing: std::ops::Range<u64>| {
        let disk = FaultyDisk::new(failing, io::ErrorKind::PermissionDenied, FailingWrite::Nothing);
        let mut dead = open_small(directory);
        let place = dead.append_now(&batch(0));
        dead.append_now(&batch(1));
        dead.done(place, 0, 10).unwrap();
        dead.kill();
        let options = Time::new().options(directory, 900, SMALL_MAX_BYTES);
        let mut spool = Spool::open_on(Arc::new(disk.clone()), options).unwrap();
        let parts = spool.adopt().unwrap().parts;
        let before = disk.calls();
        let done = spool.done(parts[0].place, 0, 11);
        let calls = (before, disk.calls());
        let kept = spool.held.len();
        spool.kill();
        (calls, done.is_ok(), kept)
    };
    let plain = tempfile::tempdir().unwrap();
    let ((before, after), is_ok, kept) = run(plain.path(), 0..0);
    assert!(is_ok && kept == 0 && names(plain.path()).is_empty());
    assert_eq!(after - before, 3, "a look, and two deletions");
    for (failing, left) in [(before, 2), (before + 1, 2), (before + 2, 1)] {
        let directory = tempfile::tempdir().unwrap();
        // Only this call: what was settled is written down afterwards if the segment stays.
        run(directory.path(), failing..failing + 1);
        assert_eq!(names(directory.path()).len(), left);
        let mut spool = open_small(directory.path());
        assert_eq!(spool.adopt_all(), Spans::new());
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

#[test]
fn a_batch_counts_as_appended_only_when_it_is_durable_if_that_is_asked_for() {
    for fsync in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(0..0, io::ErrorKind::Other, FailingWrite::Nothing);
        let options = Time::new().options(directory.path(), 900, SMALL_MAX_BYTES);
        let mut spool =
            Spool::open_on(Arc::new(disk.clone()), SpoolOptions { fsync, ..options }).unwrap();
        spool.append_now(&batch(0));
        let before = disk.calls();
        spool.append_now(&batch(1));
        // It ends with the sync, if there is one.
        let last = disk.calls() - 1;
        spool.kill();
        let directory = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(last..last + 1, io::ErrorKind::Other, FailingWrite::Nothing);
        let options = Time::new().options(directory.path(), 900, SMALL_MAX_BYTES);
        let mut spool =
            Spool::open_on(Arc::new(disk.clone()), SpoolOptions { fsync, ..options }).unwrap();
        spool.append_now(&batch(0));
        assert_eq!(disk.calls(), before);
        assert!(spool.append(&batch(1), Instant::now()).is_err());
        assert_eq!(disk.failed(), [if fsync { "sync" } else { "write_at" }]);
        spool.kill();
        assert_eq!(open_small(directory.path()).adopt_all(), whole([0]));
    }
}

#[test]
fn a_removed_directory_is_an_error_once_and_then_made_again() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spool");
    let mut spool = open_small(&directory);
    let lost = spool.append_now(&batch(0));
    fs::remove_dir_all(&directory).unwrap();
    let error = spool.append(&batch(1), Instant::now()).unwrap_err();
    assert_eq!(error.kind(), SegmentErrorKind::Replaced);
    spool.append_now(&batch(1));
    // Whoever still has the batch in memory delivers it; the file is gone.
    assert_eq!(spool.read(lost).unwrap_err().io_kind(), Some(io::ErrorKind::NotFound));
    spool.done(lost, 0, 10).unwrap();
    spool.kill();
    assert_eq!(open_small(&directory).adopt_all(), whole([1]));
}

#[test]
fn a_directory_that_is_missing_or_in_the_way_is_no_panic() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spool");
    let mut spool = open_small(&directory);
    fs::remove_dir(&directory).unwrap();
    assert_eq!(spool.adopt_all(), BTreeMap::new());
    assert_eq!(spool.enforce(Instant::now()), []);
    fs::write(&directory, "in the way").unwrap();
    assert!(spool.append(&batch(0), Instant::now()).is_err());
    assert!(spool.adopt().is_err());
    assert_eq!(spool.enforce(Instant::now()), []);
    fs::remove_file(&directory).unwrap();
    spool.append_now(&batch(0));

    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Spool::open(Time::new().options(&file, 900, SMALL_MAX_BYTES)).unwrap_err();
    assert!(error.to_string().contains("no directory"), "{error}");
}

#[test]
fn one_call_adopts_a_bounded_number_and_a_process_holds_a_bounded_number() {
    let directory = tempfile::tempdir().unwrap();
    for sequence in 0..40 {
        let mut dead = open_small(directory.path());
        dead.append_now(&batch(sequence));
        dead.kill();
    }
    let mut spool = open_small(directory.path());
    let mut found = BTreeSet::new();
    let mut parts = Vec::new();
    let mut adopt = |spool: &mut Spool, parts: &mut Vec<Part>| {
        let adopted = spool.adopt().unwrap();
        found.extend(adopted.parts.iter().map(|part| spool.read(part.place).unwrap().sequence));
        parts.extend(&adopted.parts);
        (adopted.parts.len(), adopted.more)
    };
    assert_eq!(adopt(&mut spool, &mut parts), (ADOPT_SEGMENTS_MAX, true));
    assert_eq!(adopt(&mut spool, &mut parts), (ADOPTED_MAX - ADOPT_SEGMENTS_MAX, true));
    assert_eq!(adopt(&mut spool, &mut parts), (0, true));
    for part in parts.split_off(10) {
        spool.done(part.place, 0, part.spans).unwrap();
    }
    assert_eq!(adopt(&mut spool, &mut parts), (8, false));
    assert_eq!(found, (0..40).collect());
}

#[test]
fn a_fork_child_leaves_its_parents_segments_alone() {
    type Act = fn(&mut Spool, Place);
    let acts: [Act; 5] = [
        |spool, _| _ = spool.append_now(&batch_of(InstanceId(9), 0, 3, 10)),
        |spool, place| spool.done(place, 0, 10).unwrap(),
        |spool, place| assert!(spool.read(place).is_err()),
        |spool, _| spool.finish().unwrap(),
        |_, _| {},
    ];
    for act in acts {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = open_small(directory.path());
        let places: Vec<Place> = (0..7).map(|n| spool.append_now(&batch(n))).collect();
        // One whole, so that closing would delete it, and one that is written.
        spool.done(places[5], 0, 2).unwrap();
        let before = snapshot(directory.path());
        spool.pid = 0;
        spool.held.values_mut().for_each(Held::pretend_inherited);
        act(&mut spool, places[0]);
        drop(spool);
        let after = snapshot(directory.path());
        let kept: Vec<_> = after.into_iter().filter(|file| before.contains(file)).collect();
        assert_eq!(kept, before);
    }
}
