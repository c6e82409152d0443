//! Files that are cut, damaged, foreign, or of a newer release.

use super::*;

/// A directory in which a killed process left its segments; their paths, and their sidecars'.
fn left_by_a_killed_process(batches: u64, closed: bool) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), 1 << 16, 1 << 20);
    for sequence in 0..batches {
        let place = spool.append_now(&batch(sequence));
        spool.done(place, 0, 2).unwrap();
    }
    if closed {
        spool.close().unwrap()
    } else {
        spool.kill()
    }
    let paths = names(directory.path()).iter().map(|name| directory.path().join(name)).collect();
    (directory, paths)
}

/// What is left to do of batches of which the first two spans are settled.
fn rest(sequences: impl IntoIterator<Item = u64>) -> Spans {
    let mut whole = whole(sequences);
    whole.values_mut().for_each(|spans| spans.retain(|span| *span >= 2));
    whole
}

fn is_sidecar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "done")
}

/// The one segment among the paths.
fn segment_of(paths: &[PathBuf]) -> &Path {
    paths.iter().find(|path| !is_sidecar(path)).unwrap()
}

fn sidecar_of(paths: &[PathBuf]) -> &Path {
    paths.iter().find(|path| is_sidecar(path)).unwrap()
}

#[test]
fn a_torn_segment_costs_only_what_was_being_written() {
    let (directory, paths) = left_by_a_killed_process(4, false);
    let (segment, sidecar) = (segment_of(&paths), sidecar_of(&paths));
    let (bytes, marks) = (fs::read(segment).unwrap(), fs::read(sidecar).unwrap());
    let mut ends = vec![];
    let mut reader = SegmentReader::open(segment).unwrap();
    while let Some(batch) = reader.next_batch() {
        let batch = batch.unwrap();
        ends.push(batch.offset as usize + batch.frame.len());
    }
    for len in 0..=bytes.len() {
        fs::write(segment, &bytes[..len]).unwrap();
        fs::write(sidecar, &marks).unwrap();
        let whole_batches = ends.iter().filter(|end| **end <= len).count() as u64;
        let mut spool = open_small(directory.path());
        assert_eq!(spool.adopt_all(), rest(0..whole_batches), "{len}");
        if whole_batches == 0 {
            assert_eq!(names(directory.path()), [""; 0], "{len}");
        }
        spool.kill();
    }
}

#[test]
fn a_torn_sidecar_costs_repetitions_of_what_its_lost_marks_said() {
    let (directory, paths) = left_by_a_killed_process(4, true);
    let sidecar = sidecar_of(&paths);
    let marks = fs::read(sidecar).unwrap();
    assert_eq!(marks.len(), 5 * RECORD_BYTES);
    let expected = |marks: usize| {
        let mut expected = rest(0..marks as u64);
        expected.extend(whole(marks as u64..4));
        expected
    };
    for len in 0..=marks.len() {
        fs::write(sidecar, &marks[..len]).unwrap();
        let mut spool = open_small(directory.path());
        let kept = (len / RECORD_BYTES).saturating_sub(1);
        assert_eq!(spool.adopt_all(), expected(kept), "{len}");
        // What is marked now goes where the readable part ended.
        let place = spool.held.values().next().unwrap().parts(0)[0].place;
        spool.done(place, 2, 1).unwrap();
        spool.kill();
        let mut expected = expected(kept);
        expected.get_mut(&0).unwrap().remove(&2);
        let mut spool = open_small(directory.path());
        assert_eq!(spool.adopt_all(), expected, "{len}");
        spool.kill();
    }
    for byte in 0..RECORD_BYTES {
        let mut changed = marks.clone();
        changed[byte] ^= 0x10;
        fs::write(sidecar, &changed).unwrap();
        let adopted = open_small(directory.path()).adopt().unwrap();
        // A changed version might be a newer one.
        let is_version = (8..10).contains(&byte);
        assert_eq!(adopted.errors.len(), usize::from(is_version), "{byte}");
        assert_eq!(adopted.parts.len(), if is_version { 0 } else { 4 });
    }
    fs::remove_file(sidecar).unwrap();
    assert_eq!(open_small(directory.path()).adopt_all(), whole(0..4));
}

#[test]
fn a_mark_counts_only_within_its_batch() {
    let (directory, paths) = left_by_a_killed_process(2, true);
    let mut bytes = head().to_vec();
    for (batch, first, spans) in [(7, 0, 10), (0, 8, u32::MAX), (1, u32::MAX, u32::MAX), (1, 0, 0)]
    {
        bytes.extend_from_slice(&Mark { batch, first, spans }.encode());
    }
    fs::write(sidecar_of(&paths), bytes).unwrap();
    let mut expected = whole(0..2);
    expected.insert(0, (0..8).collect());
    assert_eq!(open_small(directory.path()).adopt_all(), expected);
}

#[test]
fn a_damaged_batch_is_told_and_its_segment_put_aside_when_the_rest_is_settled() {
    for closed in [true, false] {
        let (directory, paths) = left_by_a_killed_process(4, closed);
        let segment = segment_of(&paths);
        let mut bytes = fs::read(segment).unwrap();
        let mut reader = SegmentReader::open(segment).unwrap();
        reader.next_batch();
        let second = reader.next_batch().unwrap().unwrap();
        // Within the block's content: only the checksum tells.
        bytes[second.offset as usize + second.frame.len() - 20] ^= 1;
        fs::write(segment, &bytes).unwrap();

        let mut spool = open_small(directory.path());
        let adopted = spool.adopt().unwrap();
        assert_eq!(adopted.errors.len(), usize::from(!closed));
        let mut sequences = Vec::new();
        for part in &adopted.parts {
            match spool.read(part.place) {
                Ok(batch) => sequences.push(batch.sequence),
                Err(error) => {
                    assert!(closed && error.kind() == SegmentErrorKind::Damaged, "{error}");
                    assert_eq!(part.spans, spans_of(1) - 2, "it can be counted");
                }
            }
            spool.done(part.place, part.first, part.spans).unwrap();
        }
        assert_eq!(sequences, [0, 2, 3]);
        let aside = segment
            .with_file_name(format!("{}.damaged", segment.file_name().unwrap().to_str().unwrap()));
        assert_eq!(fs::read(&aside).unwrap(), bytes);
        assert_eq!(names(directory.path()).len(), 1);
        assert_eq!(spool.adopt_all(), BTreeMap::new());

        // It counts against the cap, and goes by it, and that is said.
        let mut spool = open(directory.path(), 10, 40);
        let dropped = spool.enforce(Instant::now());
        assert!(dropped.len() == 1 && dropped[0].is_unreadable && dropped[0].place.is_none());
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

#[test]
fn a_segment_that_cannot_be_read_at_all_is_put_aside_at_once() {
    let (directory, paths) = left_by_a_killed_process(2, true);
    let segment = segment_of(&paths);
    for damage in
        [&b"not a segment, but something else that is long enough for one's header"[..], {
            let mut bytes = fs::read(segment).unwrap();
            bytes[30] ^= 1;
            bytes.leak()
        }]
    {
        fs::write(segment, damage).unwrap();
        let adopted = open_small(directory.path()).adopt().unwrap();
        assert_eq!((adopted.parts.len(), adopted.errors.len()), (0, 1));
        assert!(names(directory.path())[0].ends_with(".spanring.damaged"));
        assert_eq!(names(directory.path()).len(), 1);
    }
}

#[test]
fn a_segment_whose_index_is_cut_off_is_read_without() {
    let (directory, paths) = left_by_a_killed_process(3, true);
    let segment = segment_of(&paths);
    let bytes = fs::read(segment).unwrap();
    fs::write(segment, &bytes[..bytes.len() - 10]).unwrap();
    assert_eq!(open_small(directory.path()).adopt_all(), rest(0..3));
}

#[test]
fn a_newer_release_finds_its_segments_untouched() {
    let (directory, paths) = left_by_a_killed_process(2, true);
    let segment = segment_of(&paths);
    let mut bytes = fs::read(segment).unwrap();
    bytes[16] = 200;
    fs::write(segment, &bytes).unwrap();
    let before = snapshot(directory.path());
    let mut spool = open_small(directory.path());
    let adopted = spool.adopt().unwrap();
    assert_eq!(adopted.parts.len(), 0);
    assert_eq!(adopted.errors[0].kind(), SegmentErrorKind::UnknownVersion);
    assert_eq!(spool.adopt().unwrap().errors.len(), 0, "it is said once");
    assert_eq!(spool.enforce(Instant::now()), []);
    drop(spool);
    assert_eq!(snapshot(directory.path()), before);
}

#[test]
fn foreign_files_and_links_are_left_alone() {
    let (directory, paths) = left_by_a_killed_process(2, true);
    let (segment, sidecar) = (segment_of(&paths), sidecar_of(&paths));
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, "precious").unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    let other = |number: &str| name.replace("-00000000.", number);
    let at = |name: String| directory.path().join(name);
    fs::write(at("notes.txt".into()), "notes").unwrap();
    fs::write(at("x.spanring".into()), "x").unwrap();
    fs::write(at(format!("{name}~")), "x").unwrap();
    fs::write(at("x.done".into()), "x").unwrap();
    // Links with names of ours, and a segment whose sidecar is a link.
    symlink(&target, at(other("-00000001."))).unwrap();
    symlink(&target, at(other("-00000002.") + ".done")).unwrap();
    symlink(&target, at(other("-00000003.") + ".damaged")).unwrap();
    fs::create_dir(at(other("-00000004."))).unwrap();
    fs::copy(segment, at(other("-00000005."))).unwrap();
    symlink(&target, at(other("-00000005.") + ".done")).unwrap();
    let before = names(directory.path());

    let mut spool = open(directory.path(), 1, 4);
    let adopted = spool.adopt().unwrap();
    assert_eq!(adopted.parts.len(), 2);
    assert_eq!(adopted.errors.len(), 1, "{:?}", adopted.errors);
    assert!(adopted.errors[0].to_string().contains("-00000005.spanring.done"));
    let dropped = spool.enforce(Instant::now());
    assert_eq!(dropped.len(), 2);
    spool.close().unwrap();
    let expected = before.into_iter().filter(|found| {
        found != &name && found.as_str() != sidecar.file_name().unwrap().to_str().unwrap()
    });
    assert_eq!(names(directory.path()), expected.collect::<Vec<_>>());
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_sidecar_without_a_segment_is_removed() {
    let (directory, paths) = left_by_a_killed_process(2, true);
    fs::remove_file(segment_of(&paths)).unwrap();
    let mut spool = open_small(directory.path());
    assert_eq!(spool.adopt_all(), BTreeMap::new());
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn an_adopted_segment_that_changed_meanwhile_is_not_deleted() {
    let (directory, paths) = left_by_a_killed_process(2, false);
    let segment = segment_of(&paths);
    let mut spool = open_small(directory.path());
    let parts = spool.adopt().unwrap().parts;
    let mut bytes = fs::read(segment).unwrap();
    bytes.extend_from_slice(&batch(2).frame);
    fs::write(segment, &bytes).unwrap();
    for part in parts {
        spool.done(part.place, part.first, part.spans).unwrap();
    }
    assert_eq!(spool.adopt_all(), whole([2]), "only what is new is adopted");
}

#[test]
fn a_batch_that_cannot_be_read_now_is_told_from_one_that_never_can() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(0..0, io::ErrorKind::Other, FailingWrite::Nothing);
    let options = Time::new().options(directory.path(), 1 << 16, 1 << 20);
    let mut spool = Spool::open_on(Arc::new(disk.clone()), options).unwrap();
    let places: Vec<Place> = (0..3).map(|n| spool.append_now(&batch(n))).collect();
    disk.set_failing(true);
    let error = spool.read(places[0]).unwrap_err();
    assert!(error.may_pass(), "{error}");
    disk.set_failing(false);
    assert_eq!(spool.read(places[0]).unwrap().sequence, 0);

    let segment = directory.path().join(spool.held[&0].name.to_string());
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    assert!(!spool.read(places[2]).unwrap_err().may_pass());
    fs::write(&segment, &bytes[..last]).unwrap();
    assert!(!spool.read(places[2]).unwrap_err().may_pass());
    fs::remove_file(&segment).unwrap();
    assert!(!spool.read(places[1]).unwrap_err().may_pass());
    let never = Place { segment: 7, batch: 0 };
    assert!(!spool.read(never).unwrap_err().may_pass());
}
