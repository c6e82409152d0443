//! A sender's outbox: what waits for it, in memory or on disk, what is under way, and what became of every span.
//!
//! With a spool every batch is on disk before it is sent and marked there when its answer was seen, so that
//! neither an outage nor the death of the process loses a sealed batch. Without one, what waits is bounded
//! by `MAX_BATCH_WAIT`, `RETRY_ATTEMPTS` and the byte budget.
//!
//! After a failure that may pass nothing is sent until the backoff (or what the receiver asked for) is over, and
//! then one parcel at a time until one arrives: a receiver in trouble is not run over, and the one that
//! is back is found by a single probe.
//!
//! Invariant: sealed + adopted = delivered + dropped + queued + spooled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustc_hash::FxHashSet;
use spanring::export::Engine;
use spanring::settings::Settings;

use crate::delivery::Reserved;
use crate::flusher::later;
use crate::health::Health;
use crate::log;
use crate::model::SpanBatch;
use crate::sender::{Content, Courier, Outcome, Parcel, Sender};
use crate::sink::{InstanceId, SealedBatch};
use crate::spool::{Part, Place, Spool};
use crate::stats::{SinkDrop, SinkStats};

/// After so many requests that were accepted, larger ones are tried.
const ACCEPTED_BEFORE_GROWTH: u32 = 8;

/// A batch, or a part of one, that waits in memory or is under way.
struct Item {
    instance: InstanceId,
    sequence: u64,
    content: Content,
    /// The first span that is meant, and how many.
    first: u32,
    spans: u32,
    body: Option<Bytes>,
    since: Instant,
    attempts: u32,
    /// Where it lies on disk, too.
    place: Option<Place>,
    /// It was read from there: if it has to wait, it waits there.
    from_disk: bool,
    /// The receiver may have it already.
    repeats: bool,
    _reserved: Option<Arc<Reserved>>,
}

impl Item {
    fn key(&self) -> (u64, u32) {
        (self.sequence, self.first)
    }

    /// Keeps the first `spans`; returns the rest.
    fn split_off(&mut self, spans: u32) -> Item {
        let rest = Item {
            instance: self.instance,
            sequence: self.sequence,
            content: self.content.clone(),
            first: self.first + spans,
            spans: self.spans - spans,
            body: None,
            since: self.since,
            attempts: self.attempts,
            place: self.place,
            from_disk: self.from_disk,
            repeats: self.repeats,
            _reserved: self._reserved.clone(),
        };
        self.spans = spans;
        self.body = None;
        rest
    }
}

/// What waits on disk only.
struct Stored {
    place: Place,
    first: u32,
    spans: u32,
    repeats: bool,
}

pub(crate) struct Outbox {
    sender: Box<dyn Sender>,
    /// Whose byte budget what waits counts against; `None` for a tool, which bounds it itself.
    engine: Option<&'static Engine>,
    spool: Option<Spool>,
    /// Older than what is in `queue`.
    stored: VecDeque<Stored>,
    /// In the order in which batches were sealed.
    queue: VecDeque<Item>,
    under_way: Vec<(u64, Item)>,
    next_id: u64,
    health: Health,
    /// The pipeline's own, whose batches flush and shutdown wait for; others' were left in the spool.
    instance: Option<InstanceId>,
    /// Spans of a request that the receiver took, or may take: fewer once one was too large for it.
    spans_max: u32,
    /// Requests that were accepted since `spans_max` changed.
    accepted_since: u32,
    /// Why the sender cannot work at all.
    unusable: Option<String>,
    /// Whether dead processes left more than was taken over.
    more_to_adopt: bool,
    /// Whether the last call of the spool failed, which is logged once.
    spool_fails: bool,
    /// What became of parts of batches, for who asked for it.
    pub(crate) settled: Option<Vec<Settled>>,
    stats: SinkStats,
}

/// A part of a batch that needs no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    pub(crate) sequence: u64,
    pub(crate) spans: u32,
    /// Or dropped and counted.
    pub(crate) delivered: bool,
}

impl Outbox {
    pub(crate) fn new(engine: Option<&'static Engine>, courier: Courier) -> Self {
        let Courier { sender, spool } = courier;
        let stats = SinkStats { name: sender.name().to_owned(), ..SinkStats::default() };
        Outbox {
            sender,
            engine,
            spool,
            stored: VecDeque::new(),
            queue: VecDeque::new(),
            under_way: Vec::new(),
            next_id: 0,
            health: Health::new(),
            instance: None,
            spans_max: u32::MAX,
            accepted_since: 0,
            unusable: None,
            more_to_adopt: false,
            spool_fails: false,
            settled: None,
            stats,
        }
    }

    /// Opens the sender, and takes over what dead processes left in the spool.
    pub(crate) fn open(&mut self, io: std::io::Result<crate::http::Io>, now: Instant) {
        let opened = io
            .map_err(|error| format!("the event queue cannot be shared: {error}"))
            .and_then(|io| self.sender.open(io));
        if let Err(message) = opened {
            log::error!("sink {}: {message}", self.stats.name);
            self.stats.last_error.clone_from(&message);
            self.unusable = Some(message);
        }
        self.adopt();
        self.enforce(now);
    }

    /// Whether a batch that is sealed now could leave at once, so that it is worth its own encoding.
    pub(crate) fn wants_otlp(&self, now: Instant) -> bool {
        self.sender.wants_otlp()
            && self.may_send(now)
            && self.queue.is_empty()
            && self.stored.is_empty()
    }

    /// Takes a new batch; `body` is the same in the sender's form.
    pub(crate) fn offer(
        &mut self,
        batch: &SealedBatch,
        body: Option<Bytes>,
        now: Instant,
        settings: &Settings,
    ) {
        let spans = batch.spans;
        self.instance = Some(batch.instance);
        self.stats.sealed += u64::from(spans);
        if spans == 0 {
            // The closing batch says nothing that a receiver of spans could use.
            return;
        }
        if self.unusable.is_some() && self.spool.is_none() {
            return self.count_drop(u64::from(spans), SinkDrop::Refused);
        }
        let place = self.keep_on_disk(batch, now);
        // It may have been made for another sink.
        let body = body.filter(|_| self.sender.wants_otlp());
        let bytes = batch.frame.len() + body.as_ref().map_or(0, Bytes::len);
        // What is on disk need not take memory from what is not.
        let left = Reserved::left(settings) * if place.is_some() { 2 } else { 1 };
        let reserved = self.engine.and_then(|engine| Reserved::new(engine, bytes, left));
        if reserved.is_none() {
            return match place {
                Some(place) => self.store(Stored { place, first: 0, spans, repeats: false }),
                None => self.count_drop(u64::from(spans), SinkDrop::QueueFull),
            };
        }
        self.stats.queued += u64::from(spans);
        self.queue.push_back(Item {
            instance: batch.instance,
            sequence: batch.sequence,
            content: Content::Frame(batch.frame.clone()),
            first: 0,
            spans,
            body,
            since: now,
            attempts: 0,
            place,
            from_disk: false,
            repeats: false,
            _reserved: reserved,
        });
        self.send(now, settings);
    }

    /// Takes spans that somebody read, as a batch with that number.
    pub(crate) fn offer_spans(
        &mut self,
        batch: Arc<SpanBatch>,
        instance: InstanceId,
        sequence: u64,
        now: Instant,
        settings: &Settings,
    ) {
        let spans = batch.spans.len() as u32;
        self.stats.sealed += u64::from(spans);
        self.stats.queued += u64::from(spans);
        self.queue.push_back(Item {
            instance,
            sequence,
            content: Content::Spans(batch),
            first: 0,
            spans,
            body: None,
            since: now,
            attempts: 0,
            place: None,
            from_disk: false,
            repeats: false,
            _reserved: None,
        });
        self.send(now, settings);
    }

    /// Batches that wait or are under way.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len() + self.under_way.len()
    }

    fn keep_on_disk(&mut self, batch: &SealedBatch, now: Instant) -> Option<Place> {
        let result = self.spool.as_mut()?.append(batch, now);
        self.spool_result(result)
    }

    /// What a call of the spool gave; a failure is logged when the one before did not fail.
    fn spool_result<T>(&mut self, result: Result<T, crate::segment::SegmentError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.spool_fails = false;
                Some(value)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.spool_fails, true) {
                    log::warning!(
                        "sink {}: the spool cannot be used: {error}; batches wait in memory only",
                        self.stats.name
                    );
                }
                None
            }
        }
    }

    /// What waits on disk only from now on, behind what does already.
    fn store(&mut self, stored: Stored) {
        self.stats.spooled += u64::from(stored.spans);
        self.stored.push_back(stored);
    }

    fn count_drop(&mut self, spans: u64, reason: SinkDrop) {
        self.stats.dropped[reason as usize] += spans;
    }

    fn may_send(&self, now: Instant) -> bool {
        self.unusable.is_none()
            && self.health.may_try(now)
            && (!self.health.is_failing() || self.under_way.is_empty())
            && self.sender.can_send()
    }

    /// Sends what waits, the oldest first, as long as the sender takes it.
    fn send(&mut self, now: Instant, settings: &Settings) {
        while self.may_send(now) {
            let Some(mut item) = self.next(now) else { return };
            if item.spans > self.spans_max {
                let rest = item.split_off(self.spans_max);
                self.insert(rest);
            }
            if item.repeats {
                self.stats.repeated += u64::from(item.spans);
            }
            let id = self.next_id;
            self.next_id += 1;
            let parcel = Parcel {
                id,
                instance: item.instance,
                sequence: item.sequence,
                first: item.first,
                spans: item.spans,
                content: item.content.clone(),
                body: item.body.clone(),
            };
            self.under_way.push((id, item));
            self.sender.send(parcel, now);
            self.take_outcomes(now, settings);
        }
    }

    /// What is to be sent next: from the disk what waits there, then what waits in memory.
    fn next(&mut self, now: Instant) -> Option<Item> {
        if self.stored.is_empty() && self.more_to_adopt {
            self.adopt();
        }
        while let Some(stored) = self.stored.front() {
            let spans = u64::from(stored.spans);
            let spool = self.spool.as_mut().expect("what is stored is in the spool");
            let read = spool.read(stored.place);
            if let Err(error) = &read
                && error.may_pass()
            {
                // The disk, or the process's descriptors: the batch is as good as it was.
                let message = format!("a batch cannot be read from the spool: {error}");
                self.health.failed(&mut self.stats, now, &message, true, None);
                return None;
            }
            let stored = self.stored.pop_front().expect("there is a front");
            self.stats.spooled -= spans;
            match read {
                Ok(batch) => {
                    self.stats.queued += spans;
                    let Stored { place, first, spans, repeats } = stored;
                    let place = Some(place);
                    // One at a time and connection: it is read although there is no room for more.
                    let reserved =
                        self.engine.and_then(|engine| Reserved::new(engine, batch.frame.len(), 0));
                    return Some(Item {
                        instance: batch.instance,
                        sequence: batch.sequence,
                        content: Content::Frame(batch.frame),
                        first,
                        spans,
                        body: None,
                        since: now,
                        attempts: 0,
                        place,
                        from_disk: true,
                        repeats,
                        _reserved: reserved,
                    });
                }
                Err(error) => {
                    log::error!(
                        "sink {}: a batch of {spans} spans cannot be read from the spool and is dropped: {error}",
                        self.stats.name
                    );
                    self.count_drop(spans, SinkDrop::Spool);
                    self.settle(Some(stored.place), stored.first, stored.spans);
                }
            }
        }
        self.queue.pop_front()
    }

    /// Tells the spool that a part needs to be kept no longer.
    fn settle_item(&mut self, item: &Item, delivered: bool) {
        if let Some(settled) = &mut self.settled {
            settled.push(Settled { sequence: item.sequence, spans: item.spans, delivered });
        }
        self.settle(item.place, item.first, item.spans);
    }

    fn settle(&mut self, place: Option<Place>, first: u32, spans: u32) {
        if let (Some(place), Some(spool)) = (place, self.spool.as_mut()) {
            let result = spool.done(place, first, spans);
            self.spool_result(result);
        }
    }

    fn take_outcomes(&mut self, now: Instant, settings: &Settings) {
        while let Some((id, outcome)) = self.sender.finished() {
            let Some(at) = self.under_way.iter().position(|(known, _)| *known == id) else {
                continue;
            };
            let (_, item) = self.under_way.swap_remove(at);
            self.stats.queued -= u64::from(item.spans);
            self.finish(item, outcome, now, settings);
        }
    }

    fn finish(&mut self, mut item: Item, outcome: Outcome, now: Instant, settings: &Settings) {
        let spans = u64::from(item.spans);
        match outcome {
            Outcome::Accepted { rejected, message } => {
                let rejected = rejected.min(spans);
                self.stats.delivered += spans - rejected;
                self.count_drop(rejected, SinkDrop::Refused);
                self.stats.batches += 1;
                self.grow_requests();
                if let Content::Frame(frame) = &item.content {
                    self.stats.bytes += frame.len() as u64;
                }
                self.settle_item(&item, true);
                if rejected > 0 {
                    let message =
                        format!("the receiver refused {rejected} of {spans} spans: {message}");
                    self.health.failed(&mut self.stats, now, &message, false, None);
                } else {
                    self.health.succeeded(&mut self.stats, now);
                }
            }
            Outcome::Refused { message } => {
                self.health.failed(&mut self.stats, now, &message, false, None);
                self.count_drop(spans, SinkDrop::Refused);
                self.settle_item(&item, false);
            }
            Outcome::TooLarge { message } if item.spans <= 1 => {
                let message = format!("one span alone is too large: {message}");
                self.health.failed(&mut self.stats, now, &message, false, None);
                self.count_drop(spans, SinkDrop::Refused);
                self.settle_item(&item, false);
            }
            Outcome::TooLarge { message } => {
                if self.spans_max == u32::MAX {
                    log::warning!(
                        "sink {}: a request with {spans} spans is too large: {message}; smaller ones are sent from now on",
                        self.stats.name
                    );
                }
                let half = item.spans / 2;
                self.spans_max = self.spans_max.min(half);
                self.accepted_since = 0;
                let rest = item.split_off(half);
                self.wait(rest);
                self.wait(item);
            }
            Outcome::Retry { message, wait, repeats } => {
                self.health.failed(&mut self.stats, now, &message, true, wait);
                item.attempts += 1;
                item.repeats |= repeats;
                let is_last = settings.retry_attempts.is_some_and(|most| item.attempts > most);
                match item.place {
                    Some(place) if item.from_disk => {
                        let Item { first, spans, repeats, .. } = item;
                        self.stats.spooled += u64::from(spans);
                        self.stored.push_front(Stored { place, first, spans, repeats });
                    }
                    Some(place) if is_last => {
                        let Item { first, spans, repeats, .. } = item;
                        self.store(Stored { place, first, spans, repeats });
                    }
                    None if is_last => {
                        self.count_drop(spans, SinkDrop::Attempts);
                        self.settle_item(&item, false);
                    }
                    _ => self.wait(item),
                }
            }
        }
    }

    /// Tries requests of twice the size, once some of the present one were accepted: spans differ, and one that was large may
    /// have been the reason.
    fn grow_requests(&mut self) {
        self.accepted_since = self.accepted_since.saturating_add(1);
        if self.accepted_since >= ACCEPTED_BEFORE_GROWTH && self.spans_max < u32::MAX {
            self.spans_max = self.spans_max.saturating_mul(2);
            self.accepted_since = 0;
        }
    }

    /// Puts what was under way back into its place in the queue.
    fn wait(&mut self, item: Item) {
        self.stats.queued += u64::from(item.spans);
        self.insert(item);
    }

    fn insert(&mut self, item: Item) {
        let at = self.queue.partition_point(|other| other.key() < item.key());
        self.queue.insert(at, item);
    }

    /// Lets what waited too long in memory go: to the disk if it is there, too.
    fn expire(&mut self, now: Instant, settings: &Settings) {
        while let Some(oldest) = self.queue.front()
            && now.duration_since(oldest.since) >= settings.max_batch_wait
        {
            let Item { place, first, spans, repeats, .. } =
                self.queue.pop_front().expect("there is a front");
            self.stats.queued -= u64::from(spans);
            match place {
                Some(place) => self.store(Stored { place, first, spans, repeats }),
                None => self.count_drop(u64::from(spans), SinkDrop::TimedOut),
            }
        }
    }

    /// A socket of the sender is ready.
    pub(crate) fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        self.sender.ready(event, now);
    }

    /// Does what is due: takes outcomes, lets go what is too old, sends. With `urgent` a backoff is not
    /// waited for.
    pub(crate) fn drive(&mut self, now: Instant, urgent: bool, settings: &Settings) {
        self.look(now, settings);
        self.expire(now, settings);
        self.enforce(now);
        if urgent {
            self.health.skip_backoff();
        }
        self.send(now, settings);
    }

    /// Takes what has come.
    pub(crate) fn look(&mut self, now: Instant, settings: &Settings) {
        self.sender.tick(now);
        self.take_outcomes(now, settings);
    }

    /// A call here panicked, in the sender as far as one can tell. What was under way is sent again, and what cannot be
    /// found any more is counted.
    pub(crate) fn panicked(&mut self, what: &str, now: Instant) {
        self.stats.panics += 1;
        let message = format!("the sender panicked: {what}");
        self.health.failed(&mut self.stats, now, &message, true, None);
        for (_, mut item) in std::mem::take(&mut self.under_way) {
            item.repeats = true;
            self.insert(item);
        }
        let stats = &mut self.stats;
        stats.queued = self.queue.iter().map(|item| u64::from(item.spans)).sum();
        stats.spooled = self.stored.iter().map(|stored| u64::from(stored.spans)).sum();
        let known = stats.delivered + stats.dropped_total() + stats.queued + stats.spooled;
        let lost = (stats.sealed + stats.adopted).saturating_sub(known);
        self.count_drop(lost, SinkDrop::Refused);
    }

    /// Takes over what dead processes left in the spool meanwhile, and begins to send it: nothing else may happen for
    /// long.
    pub(crate) fn cleanup(&mut self, now: Instant, settings: &Settings) {
        self.adopt();
        self.send(now, settings);
    }

    /// Keeps the spool within its caps.
    fn enforce(&mut self, now: Instant) {
        let Some(spool) = &mut self.spool else { return };
        let mut places = FxHashSet::default();
        for dropped in spool.enforce(now) {
            match dropped.place {
                Some(place) => _ = places.insert(place),
                None => {
                    // A dead process's that nobody had taken over: counted as if somebody had.
                    self.stats.adopted += dropped.spans;
                    self.count_drop(dropped.spans, SinkDrop::Spool);
                }
            }
        }
        if places.is_empty() {
            return;
        }
        // In one pass: a segment may have tens of thousands of batches.
        let mut gone = 0;
        self.stored.retain(|stored| {
            let is_gone = places.contains(&stored.place);
            gone += u64::from(is_gone) * u64::from(stored.spans);
            !is_gone
        });
        self.stats.spooled -= gone;
        self.count_drop(gone, SinkDrop::Spool);
        // What is in memory, too, is there as long as any other batch.
        let under_way = self.under_way.iter_mut().map(|(_, item)| item);
        for item in self.queue.iter_mut().chain(under_way) {
            item.place = item.place.filter(|place| !places.contains(place));
        }
    }

    fn adopt(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        let result = spool.adopt();
        let Some(adopted) = self.spool_result(result) else { return };
        self.more_to_adopt = adopted.more;
        for error in &adopted.errors {
            log::warning!("sink {}: a batch in the spool cannot be read: {error}", self.stats.name);
        }
        self.stats.adopted += adopted.spans;
        for Part { place, first, spans } in adopted.parts {
            // The process that had it may have sent it without seeing the answer.
            self.store(Stored { place, first, spans, repeats: true });
        }
    }

    /// When this outbox needs the flusher next.
    pub(crate) fn deadline(&self, now: Instant, settings: &Settings) -> Option<Instant> {
        let waits = !self.queue.is_empty() || !self.stored.is_empty();
        let retry = if waits && self.unusable.is_none() { self.health.retry_at } else { None };
        // A past one is due at once, if it is not the answer to a probe that is waited for.
        let may_go = self.under_way.is_empty() && self.sender.can_send();
        let retry = retry.filter(|at| *at > now || may_go);
        let expiry = self.queue.front().map(|oldest| later(oldest.since, settings.max_batch_wait));
        let spool = self.spool.as_ref().and_then(Spool::deadline);
        [retry, expiry, spool, self.sender.deadline()].into_iter().flatten().min()
    }

    /// What a person should know of how it sends.
    pub(crate) fn note(&self) -> Option<String> {
        self.sender.note()
    }

    /// Why the sender cannot work at all.
    pub(crate) fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// Whether something is under way.
    pub(crate) fn is_sending(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether a batch of this pipeline with a sequence number up to `sequence` waits in memory or is under way.
    pub(crate) fn waits_up_to(&self, sequence: u64) -> bool {
        let mut waiting = self.queue.iter().chain(self.under_way.iter().map(|(_, item)| item));
        waiting.any(|item| item.sequence <= sequence && self.instance == Some(item.instance))
    }

    /// Gives up what waits; what is in the spool stays there for the next process.
    pub(crate) fn close(&mut self) {
        let under_way = self.under_way.drain(..).map(|(_, item)| item);
        for item in self.queue.drain(..).chain(under_way) {
            let spans = u64::from(item.spans);
            self.stats.queued -= spans;
            match item.place {
                Some(_) => self.stats.spooled += spans,
                None => self.stats.dropped[SinkDrop::ShutDown as usize] += spans,
            }
        }
        self.sender.close();
        if let Some(spool) = self.spool.take()
            && let Err(error) = spool.close()
        {
            log::warning!("sink {}: the spool could not be closed: {error}", self.stats.name);
        }
    }

    pub(crate) fn stats(&self) -> &SinkStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests;
