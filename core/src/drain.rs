//! The flusher's hold on an engine: draining, giving credits back, going to sleep, closing.

use std::time::{Duration, Instant};

use crate::engine::{Engine, Reason, RingPtr};
use crate::record::{Fate, Records};
use crate::ring::{Reader, take_into};
use crate::sync::barrier;
use crate::thread;

/// Drains an engine's rings. There is one for each engine, on the flusher's thread.
#[derive(Debug)]
pub struct Drainer {
    engine: &'static Engine,
    rings: Vec<(RingPtr, Reader)>,
    /// Ring from which the next round begins, so that none is favoured.
    next: usize,
    /// The highest flush ticket that the flusher has seen.
    noted: u64,
    /// Threads had given the flusher up, as it made no room.
    was_stuck: bool,
}

/// How the flusher may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// No thread holds credits: the next span wakes the flusher.
    Deep,
    /// Threads may record without waking anybody: look again soon.
    Poll,
    /// There is work already.
    No,
}

impl Drainer {
    /// The drainer of `engine`. There must be one only.
    pub fn new(engine: &'static Engine) -> Self {
        Drainer { engine, rings: Vec::new(), next: 0, noted: 0, was_stuck: false }
    }

    /// The engine.
    pub fn engine(&self) -> &'static Engine {
        self.engine
    }

    fn adopt(&mut self, close: bool) {
        let new = self.engine.take_incoming(close);
        self.rings.extend(new.into_iter().map(|ring| (ring, Reader::new())));
    }

    /// Moves finished spans into `records`, which then holds `max` at most; returns how many came.
    /// Rings of threads that have ended are given up once they are empty.
    pub fn drain(&mut self, records: &mut Records, max: usize) -> usize {
        self.drain_rings(records, max, |_| usize::MAX)
    }

    /// As [`drain`](Self::drain), but only what [`mark_critical`](Self::mark_critical) found: critical spans, and
    /// what their threads recorded before them.
    pub fn drain_critical(&mut self, records: &mut Records, max: usize) -> usize {
        // Whose turn it is among the others stays as it is, however many critical spans come.
        let next = self.next;
        let count = self.drain_rings(records, max, Reader::urgent);
        self.next = next;
        count
    }

    /// Drains each ring of as many spans as `most` says of it.
    fn drain_rings(
        &mut self,
        records: &mut Records,
        max: usize,
        most: impl Fn(&Reader) -> usize,
    ) -> usize {
        self.adopt(false);
        self.note_resident();
        let room = max.saturating_sub(records.len());
        let mut left = room;
        let (first, count) = (self.next, self.rings.len());
        for turn in 0..count {
            if left == 0 {
                break;
            }
            let index = (first + turn) % count;
            let (ring, reader) = &mut self.rings[index];
            let most = left.min(most(reader));
            // SAFETY: this is the only reader of the engine's rings; `take_into` moves the record out
            // and returns its cells.
            left -= unsafe {
                reader.drain(&ring.get().ring, &self.engine.pool, most, |cell| {
                    take_into(records, cell)
                })
            };
            // The next round begins behind the ring at which this one ran out of room: a thread that
            // records faster than we drain must not keep us from the others.
            self.next = index + 1;
        }
        self.drop_retired();
        if left < room {
            // Segments that were read to their end are free.
            self.was_stuck |= self.engine.room.make();
        }
        room - left
    }

    fn note_resident(&self) {
        let unread: u64 =
            self.rings.iter().map(|(ring, reader)| ring.get().ring.head() - reader.tail()).sum();
        let read: u64 = self.rings.iter().map(|(_, reader)| reader.tail()).sum();
        let ended = self.engine.registry().ended_recorded;
        let gone = self.engine.sealed.load(std::sync::atomic::Ordering::Relaxed)
            + self.engine.dropped().after_recording();
        let resident = unread + read + ended - gone;
        self.engine.resident_max.fetch_max(resident, std::sync::atomic::Ordering::Relaxed);
    }

    fn drop_retired(&mut self) {
        let engine = self.engine;
        let before = self.rings.len();
        self.rings.retain_mut(|(ring, reader)| {
            let thread = ring.get();
            if !thread.is_retired() || thread.ring.head() != reader.tail() {
                return true;
            }
            engine.budget.give(thread.ring.unspent());
            // SAFETY: the only reader; the thread is gone and everything is read.
            unsafe { reader.finish(&engine.pool) };
            give_up(engine, *ring);
            false
        });
        if self.next >= self.rings.len() {
            self.next = 0;
        }
        if self.rings.len() < before {
            self.was_stuck |= engine.room.make();
        }
    }

    /// The spans of `records` have been sealed, or, with `dropped`, given up: clears them and gives
    /// their credits and bytes back.
    pub fn settle(&mut self, records: &mut Records, dropped: Option<Reason>) {
        use std::sync::atomic::Ordering;
        let spans = records.len() as u64;
        match dropped {
            None => {
                self.engine.sealed.fetch_add(spans, Ordering::Release);
            }
            Some(reason) => self.engine.count_flusher_drops(reason, spans),
        }
        self.engine.limits.release_bytes(records.heap_bytes());
        records.clear();
        self.engine.budget.give(spans as i64);
        self.was_stuck |= self.engine.room.make();
    }

    /// Whether a thread waits for room, so that what is pending should be sealed.
    pub fn is_room_wanted(&self) -> bool {
        self.engine.room.is_wanted()
    }

    /// Whether, since the last call, the flusher made room after threads had waited in vain and [given it
    /// up](crate::export::EngineStats::flusher_is_stuck).
    pub fn take_was_stuck(&mut self) -> bool {
        std::mem::take(&mut self.was_stuck)
    }

    /// Changes records and drops others, as a processor said: what is dropped is counted as [`Reason::Processor`].
    ///
    /// # Panics
    ///
    /// As [`Records::apply`].
    pub fn edit(&mut self, records: &mut Records, fates: Vec<(usize, Fate)>) {
        let before = records.heap_bytes();
        let mut dropped = records.apply(fates);
        let after = records.heap_bytes() + dropped.heap_bytes();
        // What was added is taken whether or not it is there: the span is.
        self.engine.limits.add_bytes(before as i64 - after as i64);
        self.settle(&mut dropped, Some(Reason::Processor));
    }

    /// Whether less than a quarter of the budget is free, so that waiting spans should be sealed.
    pub fn is_under_pressure(&self) -> bool {
        self.engine.budget.is_under_pressure()
    }

    /// Finds the threads that recorded critical spans since the last call, for [`drain_critical`](Self::drain_critical); whether there is
    /// one. The spans may have been drained already.
    pub fn mark_critical(&mut self) -> bool {
        use std::sync::atomic::Ordering::{Acquire, Relaxed};
        let engine = self.engine;
        if engine.critical.load(Relaxed) == 0 || engine.critical.swap(0, Acquire) == 0 {
            return false;
        }
        self.adopt(false);
        for (ring, reader) in &mut self.rings {
            let ring = ring.get();
            if ring.critical.load(Relaxed) != 0 && ring.critical.swap(0, Acquire) != 0 {
                reader.mark_urgent(&ring.ring);
            }
        }
        true
    }

    /// Whether some of what [`mark_critical`](Self::mark_critical) found has not been drained.
    pub fn is_behind_critical(&self) -> bool {
        self.rings.iter().any(|(_, reader)| reader.urgent() > 0)
    }

    /// Takes the unspent credits of idle threads back; with `detach`, their segments too.
    pub fn reclaim(&mut self, detach: bool) -> i64 {
        let mut asked = false;
        for (ring, _) in &self.rings {
            asked |= ring.get().ring.reclaim_begin();
        }
        let mut credits = 0;
        let mut segments = 0;
        if asked && !barrier::heavy() {
            // Threads keep their credits, so the flusher goes on polling.
            self.rings.iter().for_each(|(ring, _)| ring.get().ring.reclaim_cancel());
            return 0;
        }
        for (ring, reader) in &mut self.rings {
            let ring = &ring.get().ring;
            // SAFETY: the only reader; `reclaim_begin` and the barrier came before.
            unsafe {
                credits += reader.reclaim(ring, &self.engine.pool, detach);
                if detach && reader.detach(ring, &self.engine.pool) {
                    segments += 1;
                }
            }
        }
        self.engine.budget.give(credits);
        // Not for credits: they may be those of a thread that waits for a segment, which would wake it for nothing, again and again.
        if segments > 0 {
            self.was_stuck |= self.engine.room.make();
        }
        credits
    }

    /// Gives the memory of idle threads' rings and of unused segments back to the system.
    pub fn cleanup(&mut self) {
        self.reclaim(true);
        self.engine.pool.trim(0, &self.engine.limits);
    }

    /// The flusher is about to wait: how may it? After anything but [`Sleep::No`] it waits until it is
    /// woken or its own deadline comes, and then calls [`wake_up`](Self::wake_up).
    ///
    /// If it `found` spans just now, there may be more soon: it looks again by its own timer before it takes
    /// the credits back, since without credits the next span would have to wake it.
    pub fn prepare_sleep(&mut self, found: bool) -> Sleep {
        self.adopt(false);
        let engine = self.engine;
        // While a thread waits for room, it looks as well: a thread that ends wakes nobody.
        let active = found
            || self.is_room_wanted()
            || self.rings.iter().any(|(ring, reader)| ring.get().ring.head() != reader.tail());
        if !active {
            self.reclaim(false);
        }
        engine.park.prepare(!active);
        if engine.tickets.pending() != self.noted
            || engine.has_incoming()
            || engine.critical.load(std::sync::atomic::Ordering::Acquire) != 0
        {
            engine.park.resume();
            return Sleep::No;
        }
        if active {
            return Sleep::Poll;
        }
        let active = self.rings.iter().any(|(ring, reader)| {
            let thread = ring.get();
            thread.ring.has_credits() || thread.ring.head() != reader.tail() || thread.is_retired()
        });
        if !active {
            return Sleep::Deep;
        }
        engine.park.prepare(false);
        if engine.tickets.pending() != self.noted {
            engine.park.resume();
            return Sleep::No;
        }
        Sleep::Poll
    }

    /// The flusher is awake again.
    pub fn wake_up(&self) {
        self.engine.park.resume();
    }

    /// The highest flush ticket drawn since the last call, if any. What was recorded before it was
    /// drawn is in the rings now, for [`mark`](Self::mark), or was drained already.
    pub fn pending_ticket(&mut self) -> Option<u64> {
        let pending = self.engine.tickets.pending();
        let new = pending != self.noted;
        self.noted = pending;
        new.then_some(pending)
    }

    /// Marks the spans recorded up to now, in live and retired rings alike.
    pub fn mark(&mut self) {
        self.adopt(false);
        self.rings.iter_mut().for_each(|(ring, reader)| reader.mark(&ring.get().ring));
    }

    /// Whether spans recorded before the last [`mark`](Self::mark) have not been drained.
    pub fn is_behind_mark(&self) -> bool {
        self.rings.iter().any(|(_, reader)| reader.is_behind_mark())
    }

    /// Answers the flush tickets up to `ticket`.
    pub fn answer(&self, ticket: u64) {
        self.engine.tickets.answer(ticket);
    }

    /// Closes the engine and its rings: spans that end from now on are counted as dropped. Waits, at
    /// most until `deadline`, for threads that are writing a record just now. Then drain to the end
    /// and call [`finish`](Self::finish).
    pub fn close(&mut self, timeout: Duration) {
        self.engine.close();
        self.adopt(true);
        for (ring, reader) in &mut self.rings {
            reader.close(&ring.get().ring);
        }
        // Who waits for room is refused now.
        self.engine.room.make();
        let deadline = Instant::now() + timeout;
        while !self.rings.iter().all(|(ring, reader)| reader.settled(&ring.get().ring))
            && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }

    /// Gives up all rings after [`close`](Self::close) and the last drain, and lets everybody go who
    /// waits for a flush.
    pub fn finish(&mut self) {
        let engine = self.engine;
        for (ring, mut reader) in self.rings.drain(..) {
            // A thread that was stopped in the middle of a record keeps its ring and segment for good; so
            // does one whose ring nobody closed.
            if reader.settled(&ring.get().ring) && ring.get().ring.head() == reader.tail() {
                // SAFETY: the only reader; the ring is closed and settled, and everything is read.
                unsafe { reader.finish(&engine.pool) };
                give_up(engine, ring);
            }
        }
        engine.pool.trim(0, &engine.limits);
        engine.tickets.close();
    }

    /// Lets everybody go who waits for a flush, when the flusher cannot go on.
    pub fn abandon(&self) {
        self.engine.tickets.close();
    }
}

fn give_up(engine: &'static Engine, ring: RingPtr) {
    let mut registry = engine.registry();
    registry.ended_recorded += ring.get().ring.head();
    registry.rings.retain(|other| !std::ptr::eq(other.0, ring.0));
    drop(registry);
    engine.budget.thread_ended();
    // SAFETY: removed from the registry above and from the drainer by the caller.
    unsafe { thread::leave_as_engine(ring.0) };
}
