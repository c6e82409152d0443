//! Every interleaving of the lock-free files, on small sizes: `tests/loom` runs these.

use std::sync::atomic::{AtomicI64 as StdI64, Ordering::SeqCst};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::budget::{Budget, Taken};
use crate::park::{Park, Reason};
use crate::pool::{Bytes, SegmentPool};
use crate::record::{Cell, Header, header_cells};
use crate::ring::{Host, Lifetime, Reader, Refused, Ring};
use crate::room::Room;
use crate::sync::barrier;
use crate::ticket::{Tickets, Wait};

struct Plenty;

impl Bytes for Plenty {
    fn reserve(&self, _bytes: usize) -> bool {
        true
    }
    fn release(&self, _bytes: usize) {}
}

/// An engine small enough for loom: one ring, one flusher.
struct Small {
    budget: Budget,
    pool: SegmentPool,
    park: Park,
    tickets: Tickets,
    room: Room,
    ring: Ring,
    lifetime: Lifetime,
    bell: Mutex<bool>,
    rung: Condvar,
    stop: AtomicBool,
}

// SAFETY: the ring's cells belong to the one producer; loom checks what is shared.
unsafe impl Sync for Small {}
// SAFETY: as above.
unsafe impl Send for Small {}

impl Small {
    fn new(capacity: usize) -> Arc<Self> {
        Self::with_batch(capacity, 4)
    }

    /// Chunks are a quarter of `batch`, so 8 gives chunks of two.
    fn with_batch(capacity: usize, batch: usize) -> Arc<Self> {
        let small = Small {
            budget: Budget::new(capacity, batch),
            pool: SegmentPool::new(3),
            park: Park::new(),
            tickets: Tickets::new(),
            room: Room::new(),
            ring: Ring::new(),
            lifetime: Lifetime::new(),
            bell: Mutex::new(false),
            rung: Condvar::new(),
            stop: AtomicBool::new(false),
        };
        // The flusher of the tests runs from the start.
        small.park.resume();
        Arc::new(small)
    }

    fn record(&self, number: u64) -> Result<(), Refused> {
        self.record_as(number, false)
    }

    fn record_as(&self, number: u64, urgent: bool) -> Result<(), Refused> {
        let header = Header { span: number, ..Header::default() };
        // SAFETY: each test has one producer; the closure writes one whole record of one cell.
        // First as the hot path does, which urgent spans do not take.
        if !urgent && unsafe { self.ring.try_record(1, |cell| cell.cast::<Header>().write(header)) }
        {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { self.ring.record(&self, 1, urgent, |cell| cell.cast::<Header>().write(header)) }
    }

    fn wake(&self, reason: Reason) {
        if self.park.must_wake(reason) {
            *self.bell.lock().unwrap() = true;
            self.rung.notify_one();
        }
    }

    fn drain(&self, reader: &mut Reader, seen: &mut Vec<u64>) -> usize {
        // SAFETY: each test has one reader.
        unsafe { reader.drain(&self.ring, &self.pool, usize::MAX, |cell| take(cell, seen)) }
    }

    fn reclaim(&self, reader: &mut Reader, detach: bool) -> i64 {
        if !self.ring.reclaim_begin() {
            return 0;
        }
        assert!(barrier::heavy());
        // SAFETY: as in `drain`; the two steps before are done.
        let credits = unsafe { reader.reclaim(&self.ring, &self.pool, detach) };
        self.budget.give(credits);
        credits
    }
}

fn take(cell: *const Cell, seen: &mut Vec<u64>) -> usize {
    // SAFETY: `drain` hands out whole records.
    let header = unsafe { *cell.cast::<Header>() };
    seen.push(header.span);
    header_cells(&header)
}

impl Host for &Small {
    type Bytes = Plenty;

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn pool(&self) -> &SegmentPool {
        &self.pool
    }

    fn bytes(&self) -> &Plenty {
        &Plenty
    }

    fn credits_taken(&self, taken: Taken) {
        self.wake(if taken.pressure { Reason::Now } else { Reason::Active });
    }
}

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// Records against reclaims (and detaches): never above the budget, no credit lost, no record lost,
/// torn or out of order, and all of the budget usable afterwards.
fn records_against_reclaim(detach: bool) {
    model(3, move || {
        const CAPACITY: i64 = 3;
        let small = Small::with_batch(CAPACITY as usize, 8);
        let producer = thread::spawn({
            let small = small.clone();
            move || (0..4).filter(|number| small.record(*number).is_ok()).count() as u64
        });
        let mut reader = Reader::new();
        let mut seen = Vec::new();
        let mut settled = 0;
        for _ in 0..2 {
            small.drain(&mut reader, &mut seen);
            let resident = small.ring.head() as i64 - settled;
            assert!(resident <= CAPACITY, "{resident} resident");
            small.reclaim(&mut reader, detach);
            let spans = seen.len() as i64 - settled;
            settled += spans;
            small.budget.give(spans);
        }
        let recorded = producer.join().unwrap();
        small.drain(&mut reader, &mut seen);
        small.reclaim(&mut reader, detach);
        small.budget.give(seen.len() as i64 - settled);
        assert_eq!(seen.len() as u64, recorded);
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        assert_eq!(small.budget.free(), CAPACITY, "credits were lost or made");
        for number in 10..10 + CAPACITY as u64 {
            small.record(number).expect("all of the budget is usable");
        }
        assert_eq!(small.record(99), Err(Refused::Budget));
        small.drain(&mut reader, &mut seen);
        // SAFETY: the only reader; the producer is this thread, and done.
        unsafe { reader.finish(&small.pool) };
    });
}

#[test]
fn loom_records_against_reclaim() {
    records_against_reclaim(false);
}

#[test]
fn loom_records_against_detach() {
    records_against_reclaim(true);
}

/// The reserve is for urgent records, whoever takes and gives credits meanwhile: an ordinary record that comes after finds none of
/// it, and none of it is lost.
#[test]
fn loom_the_reserve_is_for_urgent_records() {
    model(3, || {
        // Of fifty, one is held in reserve; another producer holds all the others but one.
        let small = Small::with_batch(50, 4);
        let held: i64 = std::iter::repeat_with(|| small.budget.take(false).credits).take(48).sum();
        assert_eq!((held, small.budget.free()), (48, 2));
        let producer = thread::spawn({
            let small = small.clone();
            move || {
                let urgent = small.record_as(0, true).is_ok();
                let ordinary = (1..3).filter(|number| small.record(*number).is_ok()).count();
                let urgent = i64::from(urgent) + i64::from(small.record_as(3, true).is_ok());
                (urgent, ordinary as i64)
            }
        });
        let other = small.budget.take(false).credits;
        let mut reader = Reader::new();
        small.reclaim(&mut reader, false);
        let (urgent, ordinary) = producer.join().unwrap();
        // Nothing was settled, so two credits were all there was: who came first, urgent or not, had the one, and the other was not
        // for ordinary records, all of which came second or later.
        assert_eq!(ordinary, 0, "{other} {urgent}");
        assert_eq!(other + urgent, 2, "{other} {urgent}");
        let mut seen = Vec::new();
        let spans = small.drain(&mut reader, &mut seen) as i64;
        assert_eq!(spans, urgent + ordinary);
        small.reclaim(&mut reader, false);
        small.budget.give(spans + held + other);
        assert_eq!(small.budget.free(), 50, "credits were lost or made");
        // SAFETY: the only reader; the producer is done.
        unsafe { reader.finish(&small.pool) };
    });
}

/// The flusher reclaims, and sleeps for good unless it is woken: if a record were missed, loom would
/// report the deadlock.
#[test]
fn loom_no_wake_up_is_lost() {
    model(3, || {
        let small = Small::new(8);
        let flusher = thread::spawn({
            let small = small.clone();
            move || {
                let mut reader = Reader::new();
                let mut seen = Vec::new();
                while seen.len() < 2 {
                    if small.drain(&mut reader, &mut seen) > 0 {
                        continue;
                    }
                    small.reclaim(&mut reader, false);
                    small.park.prepare(true);
                    if small.ring.has_credits() || small.ring.head() != reader.tail() {
                        small.park.resume();
                        thread::yield_now();
                        continue;
                    }
                    let mut rung = small.bell.lock().unwrap();
                    while !*rung {
                        rung = small.rung.wait(rung).unwrap();
                    }
                    *rung = false;
                    drop(rung);
                    small.park.resume();
                }
                // SAFETY: the only reader; everything is read, and the producer records no more.
                unsafe { reader.finish(&small.pool) };
                seen
            }
        });
        small.record(1).unwrap();
        small.record(2).unwrap();
        assert_eq!(flusher.join().unwrap(), [1, 2]);
    });
}

/// What was recorded before a flush was asked for is drained before it is answered, and the request
/// itself wakes the flusher.
#[test]
fn loom_flush_covers_what_was_recorded_before_it() {
    model(3, || {
        let small = Small::new(8);
        let drained = Arc::new(StdI64::new(0));
        let flusher = thread::spawn({
            let (small, drained) = (small.clone(), drained.clone());
            move || {
                let mut reader = Reader::new();
                let mut seen = Vec::new();
                let mut answered = 0;
                while !(answered == 1 && small.stop.load(Ordering::Acquire)) {
                    let pending = small.tickets.pending();
                    small.drain(&mut reader, &mut seen);
                    if pending != answered {
                        drained.store(seen.len() as i64, SeqCst);
                        answered = pending;
                        small.tickets.answer(pending);
                        continue;
                    }
                    small.reclaim(&mut reader, false);
                    small.park.prepare(true);
                    if small.tickets.pending() != answered
                        || small.stop.load(Ordering::Acquire)
                        || small.ring.has_credits()
                    {
                        small.park.resume();
                        thread::yield_now();
                        continue;
                    }
                    let mut rung = small.bell.lock().unwrap();
                    while !*rung {
                        rung = small.rung.wait(rung).unwrap();
                    }
                    *rung = false;
                    drop(rung);
                    small.park.resume();
                }
                // SAFETY: the only reader; everything is read, and the producer records no more.
                unsafe { reader.finish(&small.pool) };
            }
        });
        small.record(1).unwrap();
        let ticket = small.tickets.request();
        small.wake(Reason::Now);
        assert_eq!(small.tickets.wait(ticket, std::time::Duration::MAX), Wait::Done);
        assert_eq!(drained.load(SeqCst), 1, "the flush missed a span");
        small.stop.store(true, Ordering::Release);
        small.wake(Reason::Now);
        flusher.join().unwrap();
    });
}

/// A thread that ends hands its ring over: the flusher sees all of its records, and exactly one of the
/// two sides frees the ring.
#[test]
fn loom_thread_exit_against_drain() {
    model(3, || {
        let small = Small::new(8);
        let frees = Arc::new(StdI64::new(0));
        let thread = thread::spawn({
            let (small, frees) = (small.clone(), frees.clone());
            move || {
                small.record(1).unwrap();
                small.record(2).unwrap();
                if small.lifetime.leave_as_thread() {
                    frees.fetch_add(1, SeqCst);
                }
            }
        });
        let mut reader = Reader::new();
        let mut seen = Vec::new();
        loop {
            let retired = small.lifetime.is_retired();
            small.drain(&mut reader, &mut seen);
            if retired {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(seen, [1, 2]);
        // SAFETY: the only reader; the thread has handed the ring over, and everything is read.
        unsafe { reader.finish(&small.pool) };
        if small.lifetime.leave_as_engine() {
            frees.fetch_add(1, SeqCst);
        }
        thread.join().unwrap();
        assert_eq!(frees.load(SeqCst), 1);
    });
}

/// A ring that is closed while its thread records: what was accepted is drained, the rest is refused.
#[test]
fn loom_close_against_record() {
    model(3, || {
        let small = Small::new(8);
        let producer = thread::spawn({
            let small = small.clone();
            move || (1..=2).filter(|number| small.record(*number).is_ok()).count()
        });
        let mut reader = Reader::new();
        reader.close(&small.ring);
        while !reader.settled(&small.ring) {
            thread::yield_now();
        }
        let mut seen = Vec::new();
        small.drain(&mut reader, &mut seen);
        let drained = seen.len();
        // SAFETY: the only reader; the ring is closed and settled, and everything is read.
        unsafe { reader.finish(&small.pool) };
        assert_eq!(producer.join().unwrap(), drained, "a record was accepted and lost");
    });
}

/// Two threads that take and give segments never hold the same one, and none is lost.
#[test]
fn loom_pool() {
    model(3, || {
        let pool = Arc::new(SegmentPool::new(2));
        let cycle = |pool: &SegmentPool| {
            for _ in 0..2 {
                if let Some(segment) = pool.take(&Plenty) {
                    // SAFETY: the segment is ours until it is given back; loom tracks its first cell.
                    unsafe {
                        let (cell, _) = pool.range(segment);
                        (*cell).0.with_mut(|cell| *cell = Cell([7; 8]));
                        pool.give(segment);
                    }
                }
            }
        };
        let other = thread::spawn({
            let pool = pool.clone();
            move || cycle(&pool)
        });
        cycle(&pool);
        other.join().unwrap();
        let all: Vec<_> = std::iter::from_fn(|| pool.take(&Plenty)).collect();
        assert_eq!(all.len(), 2);
        // SAFETY: taken just now.
        all.into_iter().for_each(|segment| unsafe { pool.give(segment) });
    });
}

/// A record that finds no room waits until the flusher has made some: if a wake-up were lost, loom would report the deadlock.
#[test]
fn loom_who_waits_for_room_is_woken() {
    model(3, || {
        let small = Small::new(1);
        let flusher = thread::spawn({
            let small = small.clone();
            move || {
                let mut reader = Reader::new();
                let mut seen = Vec::new();
                while seen.len() < 2 {
                    let spans = small.drain(&mut reader, &mut seen);
                    if spans > 0 {
                        small.budget.give(spans as i64);
                        small.room.make();
                    } else {
                        thread::yield_now();
                    }
                }
                // SAFETY: the only reader; everything is read, and the producer records no more.
                unsafe { reader.finish(&small.pool) };
                seen
            }
        });
        small.record(1).unwrap();
        if small.record(2).is_err() {
            let mut told = small.room.enter();
            while small.record(2).is_err() {
                told = small.room.sleep(told, None).expect("there is no deadline");
            }
            small.room.leave();
        }
        assert_eq!(flusher.join().unwrap(), [1, 2]);
        assert!(!small.room.is_wanted());
    });
}
