//! When one segment ends and the next begins, and which ones retention deletes.

use super::*;

#[test]
fn segments_follow_each_other_by_size() {
    let directory = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(directory.path(), options(1000, 1 << 24)).unwrap();
    for sequence in 0..100 {
        sink.deliver(&batch(INSTANCE, sequence)).unwrap();
    }
    sink.close().unwrap();
    let segments = find_segments(directory.path()).unwrap();
    assert!(segments.len() > 5, "{}", segments.len());
    for segment in &segments {
        assert!(segment.bytes <= 1000, "{} has {} bytes", segment.name, segment.bytes);
    }
    let full = &segments[..segments.len() - 1];
    assert!(full.iter().all(|segment| read(&segment.path).0.len() > 3));
    assert_eq!(read_all(directory.path(), true), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_batch_longer_than_a_segment_gets_one_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(directory.path(), options(1, 1 << 24)).unwrap();
    for sequence in 0..3 {
        sink.deliver(&batch(INSTANCE, sequence)).unwrap();
    }
    sink.close().unwrap();
    assert_eq!(find_segments(directory.path()).unwrap().len(), 3);
    assert_eq!(read_all(directory.path(), true), [0, 1, 2]);
}

#[test]
fn segments_follow_each_other_by_age() {
    let directory = tempfile::tempdir().unwrap();
    let age = Duration::from_secs(60);
    let options = FileSinkOptions { segment_max_age: age, ..options(1 << 20, 1 << 24) };
    let mut sink = FileSink::create(directory.path(), options).unwrap();
    assert_eq!(sink.tick(Instant::now()), None, "nothing is due without a segment");

    let before = Instant::now();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    let due = sink.tick(before).unwrap();
    assert!(due >= before + age && due <= Instant::now() + age);
    assert_eq!(sink.tick(due - Duration::from_nanos(1)), Some(due));
    assert!(sink.segment().is_some());
    assert_eq!(sink.tick(due), None);
    assert!(sink.segment().is_none());
    sink.deliver(&batch(INSTANCE, 1)).unwrap();
    drop(sink);
    assert_eq!(find_segments(directory.path()).unwrap().len(), 2);
    assert_eq!(read_all(directory.path(), true), [0, 1]);
}

#[test]
fn a_segment_that_cannot_be_closed_in_time_is_closed_later() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(0..0, io::ErrorKind::StorageFull, FailingWrite::Half);
    let mut sink =
        FileSink::create_on(Arc::new(disk.clone()), directory.path(), options(1 << 20, 1 << 24))
            .unwrap();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    let due = sink.tick(Instant::now()).unwrap();
    disk.set_failing(true);
    let again = sink.tick(due).unwrap();
    assert!(again > due);
    assert!(sink.deliver(&batch(INSTANCE, 1)).unwrap_err().retry);
    disk.set_failing(false);
    assert_eq!(sink.tick(again), None);
    assert_eq!(read_all(directory.path(), true), [0]);
}

#[test]
fn a_full_segment_that_could_not_be_closed_is_closed_by_the_next_tick() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(0..0, io::ErrorKind::StorageFull, FailingWrite::Half);
    let mut sink =
        FileSink::create_on(Arc::new(disk.clone()), directory.path(), options(1, 1 << 24)).unwrap();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    disk.set_failing(true);
    assert!(sink.deliver(&batch(INSTANCE, 1)).unwrap_err().retry);
    disk.set_failing(false);
    assert_eq!(sink.tick(Instant::now()), None);
    assert_eq!(read_all(directory.path(), true), [0]);
}

#[test]
fn batches_of_two_pipelines_never_share_a_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(directory.path(), options(1 << 20, 1 << 24)).unwrap();
    for (instance, sequence) in [(1, 0), (1, 1), (2, 2), (2, 3)] {
        sink.deliver(&batch(InstanceId(instance), sequence)).unwrap();
    }
    sink.close().unwrap();
    let instances: Vec<_> = find_segments(directory.path())
        .unwrap()
        .iter()
        .map(|segment| SegmentReader::open(&segment.path).unwrap().header().instance.0)
        .collect();
    assert_eq!(instances, [1, 2]);
}

#[test]
fn names_sort_in_the_order_of_writing_even_when_the_clock_steps_back() {
    let directory = tempfile::tempdir().unwrap();
    let seconds = AtomicU64::new(1_661_137_262);
    let backwards: WallClock =
        Arc::new(move || UNIX_EPOCH + Duration::from_secs(seconds.fetch_sub(7, Relaxed)));
    let options = FileSinkOptions { clock: backwards, ..options(1, 1 << 24) };
    let mut sink = FileSink::create(directory.path(), options).unwrap();
    for sequence in 0..20 {
        sink.deliver(&batch(INSTANCE, sequence)).unwrap();
    }
    sink.close().unwrap();
    assert_eq!(read_all(directory.path(), true), (0..20).collect::<Vec<_>>());
    let numbers = find_segments(directory.path())
        .unwrap()
        .iter()
        .map(|segment| SegmentReader::open(&segment.path).unwrap().header().number)
        .collect::<Vec<_>>();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

#[test]
fn the_directory_stays_under_its_cap_and_keeps_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let retention_bytes = 8000;
    let mut sink = FileSink::create(directory.path(), options(1000, retention_bytes)).unwrap();
    for sequence in 0..400 {
        sink.deliver(&batch(INSTANCE, sequence)).unwrap();
        let total: u64 =
            find_segments(directory.path()).unwrap().iter().map(|segment| segment.bytes).sum();
        assert!(total <= retention_bytes, "{total} bytes after batch {sequence}");
    }
    sink.close().unwrap();
    let kept = read_all(directory.path(), true);
    assert_eq!(kept, (400 - kept.len() as u64..400).collect::<Vec<_>>());
    let total: u64 =
        find_segments(directory.path()).unwrap().iter().map(|segment| segment.bytes).sum();
    assert!(total > retention_bytes / 2, "only {total} bytes are kept");
}

#[test]
fn a_segment_takes_no_more_than_a_quarter_of_the_cap() {
    let directory = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(directory.path(), options(1 << 30, 8000)).unwrap();
    for sequence in 0..400 {
        sink.deliver(&batch(INSTANCE, sequence)).unwrap();
    }
    sink.close().unwrap();
    let segments = find_segments(directory.path()).unwrap();
    assert!(segments.len() >= 3 && segments.iter().all(|segment| segment.bytes <= 2000));
}

#[test]
fn a_batch_above_the_cap_is_not_offered_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut sink = FileSink::create(directory.path(), options(100, 100)).unwrap();
    let error = sink.deliver(&batch(INSTANCE, 0)).unwrap_err();
    assert!(!error.retry && error.message.contains("raise RETENTION_BYTES"), "{error}");
}

#[test]
fn retention_takes_any_instance_and_dead_parts_and_nothing_else() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("precious");
    fs::write(&target, vec![1; 50_000]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let old = |number: u32, suffix: &str| {
        format!("20010101T000000.000000000Z-{:032x}-{number:08}{suffix}", 0xabc)
    };
    let (closed, part) = (old(1, ".spanring"), old(2, ".spanring.part"));
    for name in [&closed, &part] {
        fs::write(at(name), vec![0; 50_000]).unwrap();
    }
    let foreign = ["notes.txt", "x.spanring", "20010101T000000.000000000Z.spanring"];
    for name in foreign {
        fs::write(at(name), vec![0; 50_000]).unwrap();
    }
    // The oldest of all, so that they are met first.
    let (link, dangling, below) =
        (old(0, ".spanring"), old(0, ".spanring.part"), old(0, "0.spanring"));
    symlink(&target, at(&link)).unwrap();
    symlink("/nowhere/at/all", at(&dangling)).unwrap();
    fs::create_dir(at(&below)).unwrap();

    let mut sink = FileSink::create(directory.path(), options(1000, 8000)).unwrap();
    sink.deliver(&batch(INSTANCE, 0)).unwrap();
    let left = names(directory.path());
    assert!(!left.contains(&closed) && !left.contains(&part), "{left:#?}");
    for kept in foreign.into_iter().chain([&link[..], &dangling, &below]) {
        assert!(left.contains(&kept.to_owned()), "{kept} is gone: {left:#?}");
    }
    assert_eq!(fs::read(&target).unwrap(), vec![1; 50_000]);
}

#[test]
fn sinks_of_one_process_do_not_take_each_other_for_dead() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = FileSink::create(directory.path(), options(1 << 20, 1 << 24)).unwrap();
    for sequence in 0..50 {
        first.deliver(&batch(InstanceId(1), sequence)).unwrap();
    }
    // The first one's segment alone is above the second one's cap, and is the oldest.
    let mut second = FileSink::create(directory.path(), options(500, 2000)).unwrap();
    for sequence in 0..50 {
        second.deliver(&batch(InstanceId(2), sequence)).unwrap();
    }
    first.deliver(&batch(InstanceId(1), 50)).unwrap();
    let first_path = first.segment().unwrap().path();
    assert_eq!(read(&first_path), ((0..51).collect(), false));
    drop(first);
    drop(second);
    assert_eq!(read(&first_path.with_extension("")), ((0..51).collect(), true));
}
