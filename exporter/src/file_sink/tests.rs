//! The file sink over a disk that fails, and over real ones.

mod processes;
mod rotation;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use crate::segment::testing::{FailingWrite, FaultyDisk, batch, content};
use crate::segment::{SegmentEnd, SegmentReader, find_segments};

const INSTANCE: InstanceId = InstanceId(0xfeed);

/// A clock that goes on by a second with each look.
fn clock() -> WallClock {
    let seconds = AtomicU64::new(1_661_137_262);
    Arc::new(move || UNIX_EPOCH + Duration::from_secs(seconds.fetch_add(1, Relaxed)))
}

fn options(segment_max_bytes: u64, retention_bytes: u64) -> FileSinkOptions {
    FileSinkOptions { segment_max_bytes, retention_bytes, clock: clock(), ..Default::default() }
}

/// Sequence numbers of the batches of one segment, their contents checked, and whether it was closed.
fn read(path: &Path) -> (Vec<u64>, bool) {
    let mut reader = SegmentReader::open(path).unwrap();
    let mut sequences = Vec::new();
    while let Some(batch) = reader.next_batch() {
        let batch = batch.unwrap();
        let text = zstd::decode_all(batch.frame).unwrap();
        let sequence = String::from_utf8(text.clone()).unwrap();
        let sequence = sequence.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(text, content(sequence));
        if let Some(entry) = batch.index {
            assert_eq!(entry.sequence, sequence);
        }
        sequences.push(sequence);
    }
    (sequences, matches!(reader.end(), Some(SegmentEnd::Closed { .. })))
}

/// What all segments of a directory hold, in their order; unclosed ones must not hold anything if
/// `all_closed`.
fn read_all(directory: &Path, all_closed: bool) -> Vec<u64> {
    let mut all = Vec::new();
    for segment in find_segments(directory).unwrap() {
        // What a failed beginning left may not even have a header.
        if let Err(error) = SegmentReader::open(&segment.path) {
            assert_eq!(error.kind(), SegmentErrorKind::Truncated, "{error}");
            assert!(!segment.name.is_closed());
            continue;
        }
        let (sequences, closed) = read(&segment.path);
        assert!(closed || !segment.name.is_closed(), "{} has no index", segment.name);
        assert!(closed || !all_closed || sequences.is_empty(), "{} was not closed", segment.name);
        all.extend(sequences);
    }
    all
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Offers a batch as the flusher does, until it is taken.
fn deliver_with_retries(sink: &mut FileSink, batch: &SealedBatch) -> Vec<String> {
    let mut errors = Vec::new();
    while let Err(error) = sink.deliver(batch) {
        assert!(error.retry, "{error}");
        errors.push(error.to_string());
        assert!(errors.len() < 50, "it never recovers: {errors:#?}");
    }
    errors
}

/// Delivers `batches` batches through a disk that fails somewhere, closes; returns the errors met.
fn run_with_faults(
    directory: &Path,
    disk: &FaultyDisk,
    batches: u64,
    fsync: bool,
) -> Option<Vec<String>> {
    // Three batches or so a segment.
    let options = FileSinkOptions { fsync, ..options(500, 1 << 20) };
    // A disk that fails here is a clear error, and no sink.
    let mut sink = FileSink::create_on(Arc::new(disk.clone()), directory, options).ok()?;
    let mut errors = Vec::new();
    for sequence in 0..batches {
        errors.extend(deliver_with_retries(&mut sink, &batch(INSTANCE, sequence)));
    }
    while let Err(error) = sink.close() {
        errors.push(error.to_string());
        assert!(errors.len() < 50, "it never closes: {errors:#?}");
    }
    Some(errors)
}

#[test]
fn whichever_calls_fail_every_batch_is_written_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let plain = FaultyDisk::new(0..0, io::ErrorKind::Other, FailingWrite::Nothing);
    run_with_faults(directory.path(), &plain, 8, true);
    let calls = plain.calls();
    assert!(calls > 60, "{calls}");

    let mut failed = BTreeMap::new();
    for write in [FailingWrite::Nothing, FailingWrite::Half, FailingWrite::All] {
        for in_a_row in [1, 2, 3, 7] {
            for fsync in [false, true] {
                for first in 0..calls {
                    let directory = tempfile::tempdir().unwrap();
                    let failing = first..first + in_a_row;
                    let disk = FaultyDisk::new(failing, io::ErrorKind::StorageFull, write);
                    let Some(errors) = run_with_faults(directory.path(), &disk, 8, fsync) else {
                        continue;
                    };
                    assert_eq!(
                        read_all(directory.path(), true),
                        (0..8).collect::<Vec<_>>(),
                        "{write:?}, fsync {fsync}, {first} failed {:?}: {errors:#?}",
                        disk.failed()
                    );
                    for call in disk.failed() {
                        *failed.entry(call).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    // The test is about these: they were really reached.
    for call in ["write_at", "truncate", "rename", "sync", "status", "lock", "sync_directory"] {
        assert!(failed.contains_key(call), "{call} never failed: {failed:?}");
    }
}

#[test]
fn whenever_the_disk_goes_away_what_was_delivered_is_there() {
    let plain = FaultyDisk::new(0..0, io::ErrorKind::Other, FailingWrite::Nothing);
    run_with_faults(tempfile::tempdir().unwrap().path(), &plain, 8, false);
    for write in [FailingWrite::Nothing, FailingWrite::Half, FailingWrite::All] {
        for first in 0..plain.calls() {
            let directory = tempfile::tempdir().unwrap();
            let disk = FaultyDisk::new(first..u64::MAX, io::ErrorKind::Other, write);
            let sink = FileSink::create_on(Arc::new(disk), directory.path(), options(500, 1 << 20));
            let Ok(mut sink) = sink else { continue };
            let mut delivered = 0;
            while delivered < 8 && sink.deliver(&batch(INSTANCE, delivered)).is_ok() {
                delivered += 1;
            }
            drop(sink);
            if names(directory.path()).is_empty() {
                assert_eq!(delivered, 0);
                continue;
            }
            // Nobody knows of the batch whose answer was lost; it may be there, once.
            let found = find_segments(directory.path())
                .map_or(Vec::new(), |_| read_all(directory.path(), false));
            let known: Vec<u64> = (0..delivered).collect();
            let one_more: Vec<u64> = (0..=delivered).collect();
            assert!(
                found == known || (write == FailingWrite::All && found == one_more),
                "{write:?} {first}: {delivered} delivered, found {found:?}"
            );
        }
    }
}

#[test]
fn a_full_disk_is_reported_and_delivery_goes_on_when_it_has_room() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(0..0, io::ErrorKind::StorageFull, FailingWrite::Half);
    let mut sink =
        FileSink::create_on(Arc::new(disk.clone()), directory.path(), options(1 << 20, 1 << 24))
            .unwrap();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    disk.set_failing(true);
    for _ in 0..3 {
        let error = sink.deliver(&batch(INSTANCE, 1)).unwrap_err();
        assert!(error.retry);
        assert!(error.message.contains(directory.path().to_str().unwrap()), "{error}");
        assert!(error.message.contains("RETENTION_BYTES"), "{error}");
    }
    disk.set_failing(false);
    sink.deliver(&batch(INSTANCE, 1)).unwrap();
    sink.close().unwrap();
    assert_eq!(read_all(directory.path(), true), [0, 1]);
}

#[test]
fn a_small_real_disk_runs_full_and_loses_nothing_that_was_delivered() {
    let Some(mount) = SmallDisk::mount() else { return };
    let directory = mount.0.path().join("spans");
    let mut sink = FileSink::create(&directory, options(16 << 10, 1 << 30)).unwrap();
    let mut taken = 0;
    let error = loop {
        match sink.deliver(&batch(INSTANCE, taken)) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100_000, "the disk never runs full");
    };
    assert!(error.retry && error.message.contains("free space on the disk"), "{error}");
    assert_eq!(read_all(&directory, false), (0..taken).collect::<Vec<_>>());

    fs::remove_file(&find_segments(&directory).unwrap()[0].path).unwrap();
    let first_left = read_all(&directory, false)[0];
    deliver_with_retries(&mut sink, &batch(INSTANCE, taken));
    sink.close().unwrap();
    assert_eq!(read_all(&directory, true), (first_left..=taken).collect::<Vec<_>>());
}

/// A tmpfs of 128 KiB, where mounting is allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"])
            .arg(disk.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(disk)),
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr);
                eprintln!("skipped: no tmpfs can be mounted here: {}", reason.trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: `mount` cannot be run here: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.unwrap().success(), "{} stays mounted", self.0.path().display());
    }
}

#[test]
fn a_removed_directory_is_made_again() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let mut sink = FileSink::create(&directory, options(1 << 20, 1 << 24)).unwrap();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    fs::remove_dir_all(parent.path().join("a")).unwrap();

    let error = sink.deliver(&batch(INSTANCE, 1)).unwrap_err();
    assert!(error.retry && error.message.contains("removed or moved"), "{error}");
    sink.deliver(&batch(INSTANCE, 1)).unwrap();
    sink.deliver(&batch(INSTANCE, 2)).unwrap();
    sink.close().unwrap();
    assert_eq!(read_all(&directory, true), [1, 2]);
}

#[test]
fn a_directory_replaced_by_a_file_is_an_error_until_it_is_gone() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spans");
    let mut sink = FileSink::create(&directory, options(1 << 20, 1 << 24)).unwrap();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "in the way").unwrap();
    for _ in 0..3 {
        let error = sink.deliver(&batch(INSTANCE, 1)).unwrap_err();
        assert!(error.retry, "{error}");
    }
    fs::remove_file(&directory).unwrap();
    sink.deliver(&batch(INSTANCE, 1)).unwrap();
    sink.close().unwrap();
    assert_eq!(read_all(&directory, true), [1]);
}

#[test]
fn a_file_that_somebody_else_changed_gets_nothing_more() {
    for change in ["longer", "shorter", "other", "a copy"] {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = FileSink::create(directory.path(), options(1 << 20, 1 << 24)).unwrap();
        sink.deliver(&batch(INSTANCE, 0)).unwrap();
        let path = sink.segment().unwrap().path();
        let before = fs::read(&path).unwrap();
        let changed = match change {
            "longer" => [&before[..], b"x"].concat(),
            "a copy" => before,
            _ => before[..before.len() - 1].to_vec(),
        };
        let aside = directory.path().join("aside");
        if matches!(change, "other" | "a copy") {
            // Kept under another name, so that its inode is not used again.
            fs::rename(&path, aside).unwrap();
        }
        fs::write(&path, &changed).unwrap();
        let error = sink.deliver(&batch(INSTANCE, 1)).unwrap_err();
        assert!(error.retry, "{change}: {error}");
        assert_eq!(fs::read(&path).unwrap(), changed, "{change}");
        sink.deliver(&batch(INSTANCE, 1)).unwrap();
        assert_ne!(sink.segment().unwrap().path(), path);
    }
}

#[test]
fn a_bad_directory_is_a_clear_error_at_once() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let dangling = parent.path().join("dangling");
    symlink("/nowhere/at/all", &dangling).unwrap();
    for (directory, said) in [
        (file.clone(), "is no directory"),
        (file.join("below"), "every part is a directory"),
        (dangling, "is no directory"),
        ("/proc/self/spans".into(), "cannot create the directory"),
    ] {
        let error = FileSink::create(&directory, options(1 << 20, 1 << 24)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said), "{text}");
        assert!(text.starts_with(directory.to_str().unwrap()), "{text}");
        assert_eq!(error.kind(), SegmentErrorKind::Io);
    }
    // Proc is a directory in which nobody can create a file, not even root.
    let error = FileSink::create(Path::new("/proc/self"), options(1, 1)).unwrap_err();
    assert!(error.to_string().contains("cannot create files"), "{error}");
}

#[test]
fn files_are_for_this_user_alone_and_nothing_else_is_left() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("spans");
    let mut sink = FileSink::create(&directory, options(1 << 20, 1 << 24)).unwrap();
    assert_eq!(names(&directory), [""; 0]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    let part = sink.segment().unwrap().path();
    assert!(part.to_str().unwrap().ends_with(".spanring.part"));
    assert_eq!(mode(&part), 0o600);
    sink.close().unwrap();
    let closed = part.with_extension("");
    assert_eq!(mode(&closed), 0o600);
    assert_eq!(names(&directory), [closed.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn nothing_is_left_of_a_segment_that_could_not_be_begun() {
    let directory = tempfile::tempdir().unwrap();
    // Of the calls that a sink makes until its first header is written, one after another.
    for failing in 0..12 {
        let disk =
            FaultyDisk::new(failing..failing + 1, io::ErrorKind::StorageFull, FailingWrite::Half);
        let options = options(1 << 20, 1 << 24);
        let sink = FileSink::create_on(Arc::new(disk.clone()), directory.path(), options);
        let Ok(mut sink) = sink else { continue };
        if sink.deliver(&batch(INSTANCE, 0)).is_err() && sink.segment().is_none() {
            assert_eq!(names(directory.path()), [""; 0], "{:?} failed", disk.failed());
        }
        _ = sink.close();
        for name in names(directory.path()) {
            fs::remove_file(directory.path().join(name)).unwrap();
        }
    }
}

#[test]
fn a_batch_that_no_segment_may_hold_is_not_offered_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(directory.path(), options(1 << 20, 1 << 24)).unwrap();
    let good = batch(INSTANCE, 0);
    let mut joined = good.frame.to_vec();
    joined.extend_from_slice(&good.frame);
    for frame in [
        Vec::new(),
        b"no frame".to_vec(),
        good.frame[..good.frame.len() - 1].to_vec(),
        joined,
        vec![0; crate::segment::MAX_FRAME_BYTES + 1],
    ] {
        let bad = SealedBatch { frame: frame.into(), ..good.clone() };
        let error = sink.deliver(&bad).unwrap_err();
        assert!(!error.retry, "{error}");
    }
    sink.deliver(&good).unwrap();
    sink.close().unwrap();
    assert_eq!(read_all(directory.path(), true), [0]);
}

#[test]
fn a_symbolic_link_in_the_segments_place_is_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("precious");
    fs::write(&target, "precious").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let still: WallClock = Arc::new(|| UNIX_EPOCH + Duration::from_secs(1_661_137_262));
    let options = FileSinkOptions { clock: still, ..options(1 << 20, 1 << 24) };
    let mut sink = FileSink::create(directory.path(), options).unwrap();
    let name = format!("20220822T030102.000000000Z-{INSTANCE}-00000000.spanring");
    let (part, closed) = (format!("{name}.part"), name);
    symlink(&target, directory.path().join(&part)).unwrap();
    let errors = deliver_with_retries(&mut sink, &batch(INSTANCE, 0));
    assert!(errors.len() == 1 && errors[0].contains("cannot create the segment"), "{errors:?}");
    sink.close().unwrap();

    // Where the closed name is one already, the link itself is replaced.
    let mut sink = FileSink::create(directory.path(), sink.options.clone()).unwrap();
    fs::remove_file(directory.path().join(&part)).unwrap();
    symlink(&target, directory.path().join(&closed)).unwrap();
    sink.deliver(&batch(INSTANCE, 1)).unwrap();
    sink.close().unwrap();
    assert_eq!(read(&directory.path().join(&closed)), (vec![1], true));
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}
