//! What cannot be deleted, what others have, and what a process may keep then.

use super::*;

/// On a disk that can be made to fail, and that counts its calls.
fn open_counted(options: SpoolOptions) -> (Spool, FaultyDisk) {
    let disk = FaultyDisk::new(0..0, io::ErrorKind::ReadOnlyFilesystem, FailingWrite::Nothing);
    (Spool::open_on(Arc::new(disk.clone()), options).unwrap(), disk)
}

#[test]
fn what_cannot_be_deleted_is_tried_again_after_a_while_and_not_before() {
    for is_settled in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let time = Time::new();
        let options = time.options(directory.path(), 1 << 16, 1 << 20);
        let (mut spool, disk) = open_counted(options);
        let place = spool.append(&batch(0), time.now()).unwrap();
        // Ended, as it is old enough.
        time.advance(101);
        assert_eq!(spool.enforce(time.now()), []);
        disk.set_failing(true);
        if is_settled {
            assert!(spool.done(place, 0, spans_of(0)).is_err());
        } else {
            time.advance(800);
        }
        for _ in 0..5 {
            assert_eq!(spool.enforce(time.now()), []);
            let deadline = spool.deadline().unwrap();
            assert_eq!(deadline, time.now() + LIST_INTERVAL, "settled: {is_settled}");
            let removals = |disk: &FaultyDisk| {
                disk.failed().iter().filter(|call| ["status", "remove"].contains(call)).count()
            };
            let before = removals(&disk);
            assert_eq!(spool.enforce(time.now()), []);
            time.advance(4);
            assert_eq!(spool.enforce(time.now()), []);
            assert_eq!(removals(&disk), before, "settled: {is_settled}");
            time.advance(1);
        }
        disk.set_failing(false);
        let dropped = spool.enforce(time.now());
        assert_eq!(dropped.len(), usize::from(!is_settled));
        assert_eq!((names(directory.path()), spool.deadline()), (vec![], None));
    }
}

#[test]
fn that_something_cannot_be_deleted_is_told_until_everything_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let time = Time::new();
    let (mut spool, disk) = open_counted(time.options(directory.path(), 1 << 16, 1 << 20));
    // One that is held, and one that was put aside.
    spool.append(&batch(0), time.now()).unwrap();
    let name = spool.held[&0].name.to_string().replace("-00000000.", "-00000001.");
    let aside = format!("{name}.damaged");
    fs::write(directory.path().join(aside), "x").unwrap();
    time.advance(101);
    assert_eq!(spool.enforce(time.now()), []);
    time.advance(900);
    // All but the listing fails.
    let fail = |spool: &mut Spool| {
        let first = disk.calls() + 1;
        disk.set_failing_from(first);
        assert_eq!(spool.enforce(time.now()), []);
        disk.set_failing(false);
    };
    assert!(spool.stuck.is_none());
    for _ in 0..3 {
        fail(&mut spool);
        assert_eq!(spool.stuck, Some(time.now()), "it stays told");
        time.advance(5);
    }
    // Only the segment can be deleted: a look and two deletions behind the listing.
    let first = disk.calls() + 4;
    disk.set_failing_from(first);
    assert_eq!(spool.enforce(time.now()).len(), 1);
    disk.set_failing(false);
    assert_eq!(spool.stuck, Some(time.now()));
    time.advance(5);
    assert_eq!(spool.enforce(time.now()).len(), 1);
    assert_eq!((spool.stuck, names(directory.path())), (None, vec![]));
}

#[test]
fn others_that_fill_the_spool_leave_a_process_its_share_and_cost_it_no_look() {
    let directory = tempfile::tempdir().unwrap();
    let time = Time::new();
    let mut other = Spool::open(time.options(directory.path(), 900, SMALL_MAX_BYTES)).unwrap();
    (0..100).for_each(|n| _ = other.append(&batch(n), time.now()).unwrap());
    let others = names(directory.path());
    let cap = directory_bytes(directory.path()) / 2;
    let share = cap / SHARE;
    let (mut spool, disk) = open_counted(time.options(directory.path(), 900, cap));
    assert_eq!(spool.enforce(time.now()), []);
    let (mut places, mut gone) = (Vec::new(), 0);
    for sequence in 100..160 {
        places.push(spool.append(&batch(sequence), time.now()).unwrap());
        let before = disk.calls();
        let dropped = spool.enforce(time.now());
        assert!(spool.held_bytes() <= share);
        if dropped.is_empty() {
            assert_eq!(disk.calls(), before, "a look, or a lock");
        } else {
            assert!(spool.held_bytes() >= share / 3, "more than necessary was dropped");
        }
        for dropped in dropped {
            assert_eq!(dropped.place, Some(places[gone]), "the oldest go first");
            gone += 1;
        }
        assert_eq!(spool.read(*places.last().unwrap()).unwrap().sequence, sequence);
    }
    assert!(gone > 30);
    let left = names(directory.path());
    assert!(others.iter().all(|name| left.contains(name)), "the other's were touched");
    // With room again, all of it may be used.
    other.kill();
    time.advance(5);
    let dropped: u64 = spool.enforce(time.now()).iter().map(|one| one.spans).sum();
    assert!(dropped > 0 && spool.bytes() <= cap && directory_bytes(directory.path()) <= cap);
    for sequence in 160..400 {
        spool.append(&batch(sequence), time.now()).unwrap();
        spool.enforce(time.now());
    }
    assert!(spool.held_bytes() > cap - 1000 && directory_bytes(directory.path()) <= cap);
}

#[test]
fn what_is_adopted_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let time = Time::new();
    let mut dead = Spool::open(time.options(directory.path(), 900, SMALL_MAX_BYTES)).unwrap();
    (0..40).for_each(|n| _ = dead.append(&batch(n), time.now()).unwrap());
    dead.kill();
    let left = directory_bytes(directory.path());
    let mut spool = Spool::open(time.options(directory.path(), 900, left + 100)).unwrap();
    assert_eq!(spool.enforce(time.now()), []);
    assert_eq!(spool.adopt_all(), whole(0..40));
    assert_eq!((spool.bytes(), spool.enforce(time.now())), (left, vec![]));
}

#[test]
fn a_process_holds_a_bounded_number_of_batches_however_small() {
    let directory = tempfile::tempdir().unwrap();
    let time = Time::new();
    let options = || time.options(directory.path(), 8 << 20, 256 << 20);
    let tiny = |sequence| batch_of(INSTANCE, sequence, 1, 0);
    let mut spool = Spool::open(options()).unwrap();
    let count = BATCHES_MAX as u64 + 3 * u64::from(SEGMENT_BATCHES_MAX);
    let (mut places, mut gone) = (Vec::new(), 0);
    for sequence in 0..count {
        places.push(spool.append(&tiny(sequence), time.now()).unwrap());
        for dropped in spool.enforce(time.now()) {
            assert_eq!((dropped.reason, dropped.spans), (DropReason::Batches, 1));
            assert_eq!(dropped.place, Some(places[gone]), "the oldest go first");
            gone += 1;
        }
        assert!(spool.batches(true) <= BATCHES_MAX);
    }
    assert_eq!(gone, 3 * SEGMENT_BATCHES_MAX as usize, "no more than necessary");
    spool.kill();

    // As many are left as a process adopts, and one more.
    let mut dead = Spool::open(options()).unwrap();
    dead.append(&tiny(count), time.now()).unwrap();
    dead.kill();
    let mut spool = Spool::open(options()).unwrap();
    let mut parts = Vec::new();
    while spool.batches(false) < BATCHES_MAX {
        let adopted = spool.adopt().unwrap();
        assert!(adopted.more);
        parts.extend(adopted.parts);
    }
    let adopted = spool.adopt().unwrap();
    assert_eq!((adopted.parts.len(), adopted.more), (0, true));
    assert_eq!(spool.enforce(time.now()), [], "what waits on disk is not dropped");
    // Own ones are counted apart, and there is room again when some are settled.
    let place = spool.append(&tiny(count + 1), time.now()).unwrap();
    time.advance(5);
    assert_eq!(spool.enforce(time.now()), []);
    spool.done(place, 0, 1).unwrap();
    for part in parts {
        spool.done(part.place, 0, 1).unwrap();
    }
    let adopted = spool.adopt().unwrap();
    assert_eq!((adopted.parts.len(), adopted.more), (1, false));
}
