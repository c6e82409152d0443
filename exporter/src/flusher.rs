//! The flusher: the one background thread of a pipeline.
//!
//! It drains the rings, seals batches and offers them to the sinks. It sleeps until the waker, or a
//! deadline, calls: while no span is pending and no sink has anything due, it does not wake at all.
//!
//! A batch is sealed when `BATCH_SIZE` spans are pending, when the oldest has waited for
//! `FLUSH_INTERVAL`, on flush, under pressure on the budget, and at once for a critical span.

#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spanring::clock::{ClockMap, Reading};
use spanring::export::{Drainer, Reason, Sleep};
use spanring::record::{Header, Records, flag};
use spanring::settings::Settings;

use crate::alerts::{self, Desk};
use crate::batch::{BatchContext, Encoder, TickClock};
use crate::config_file::{ConfigFile, Watch};
use crate::delivery::{Reserved, panic_text};
use crate::log;
use crate::metrics::MemoryProfile;
use crate::otlp;
use crate::outlet::{Outlet, Source};
use crate::pipeline::{Shared, SinkChange};
use crate::processors::Processing;
use crate::scopes::Scopes;
use crate::sender::IoSource;
use crate::sink::SealedBatch;
use crate::stats::SinkDrop;
use crate::status::Status;

/// How soon the flusher looks again while threads record: between these two, so that it finds about a
/// hundredth of the budget.
const POLL_MIN: Duration = Duration::from_micros(100);
const POLL_MAX: Duration = Duration::from_millis(5);
/// Batches that one round seals at most, unless a flush asks for more.
const ROUND_BATCHES: usize = 16;
/// How long the two readings that fix the rate of the ticks are apart, at least.
const CALIBRATION: Duration = Duration::from_millis(5);
/// How often the clock is corrected, while batches are sealed.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// Panics of the flusher itself that are survived.
const PANICS_MAX: u64 = 100;
/// How long closing waits for threads that are in the middle of a record.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an alert on its way to the webhook may hold up the end, at most.
const LAST_ALERTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells of changes of the file with settings. The sinks' tokens lie above, the waker's and the endpoint's below.
const CONFIG: mio::Token = mio::Token((1 << 16) - 1);

pub(crate) struct Flusher {
    shared: Arc<Shared>,
    drainer: Drainer,
    poll: mio::Poll,
    events: mio::Events,
    records: Records,
    /// What is to be sealed after `records`, last first, while a batch that is too large is split.
    halves: Vec<Records>,
    encoder: Encoder,
    processing: Processing,
    scopes: Scopes,
    clock_first: Reading,
    clock: Option<ClockMap>,
    clock_next: Instant,
    outlets: Vec<Outlet>,
    /// How many outlets there have been.
    outlet_numbers: usize,
    io: IoSource,
    status: Option<Status>,
    /// While a setting asks for alerts.
    alerts: Option<Box<Desk>>,
    /// It panicked.
    alerts_failed: bool,
    memory_profile: MemoryProfile,
    otlp: otlp::Writer,
    settings: Arc<Settings>,
    /// The file with settings, if there is one, and what tells of its changes.
    config: Option<ConfigFile>,
    watch: Option<Watch>,
    /// About as long as the last batch was as OTLP.
    otlp_bytes: usize,
    sequence: u64,
    /// Spans in the batches sealed so far.
    sealed: u64,
    /// When the oldest pending span has waited long enough.
    seal_at: Option<Instant>,
    cleanup_at: Option<Instant>,
    poll_interval: Duration,
    /// Whether the last round drained anything.
    found: bool,
    /// A flush ticket whose spans are not all sealed yet.
    ticket: Option<u64>,
    /// Flushes that wait until all batches up to a sequence number are handed over.
    flushes: Vec<(u64, Option<u64>)>,
    stop: bool,
}

/// What a flusher is made of.
pub(crate) struct Parts {
    pub(crate) poll: mio::Poll,
    pub(crate) io: IoSource,
    pub(crate) sinks: Vec<Source>,
    pub(crate) encoder: Encoder,
    pub(crate) scopes: Scopes,
    pub(crate) status: Option<Status>,
    pub(crate) config: Option<ConfigFile>,
}

impl Flusher {
    pub(crate) fn new(shared: Arc<Shared>, parts: Parts) -> Self {
        let Parts { poll, io, sinks, encoder, scopes, status, config } = parts;
        let now = Instant::now();
        let settings = shared.settings();
        let engine = shared.engine;
        let outlet_numbers = sinks.len();
        let outlets = sinks
            .into_iter()
            .enumerate()
            .map(|(number, source)| Outlet::new(source, number, engine))
            .collect();
        Flusher {
            drainer: Drainer::new(shared.engine),
            shared,
            poll,
            events: mio::Events::with_capacity(16),
            records: Records::new(),
            halves: Vec::new(),
            encoder,
            processing: Processing::default(),
            scopes,
            clock_first: Reading::now(),
            clock: None,
            clock_next: now,
            outlets,
            outlet_numbers,
            io,
            status,
            alerts: None,
            alerts_failed: false,
            memory_profile: MemoryProfile::default(),
            otlp: otlp::Writer::new(),
            settings,
            config,
            watch: None,
            otlp_bytes: 0,
            sequence: 0,
            sealed: 0,
            seal_at: None,
            cleanup_at: None,
            poll_interval: POLL_MAX,
            found: false,
            ticket: None,
            flushes: Vec::new(),
            stop: false,
        }
    }

    /// Runs until the pipeline is shut down. A panic outside the sinks costs the open batch, counted. It stays on the heap: the thread that
    /// starts it may have little stack left.
    pub(crate) fn run(mut self: Box<Self>) {
        self.shared.engine.enter_flusher();
        self.shared.flusher_begins();
        let now = Instant::now();
        self.outlets.iter_mut().for_each(|outlet| outlet.open(&self.io, now));
        self.watch_config();
        while !self.stop {
            let result = catch_unwind(AssertUnwindSafe(|| self.run_until_stopped()));
            if let Err(panic) = result {
                log::error!("the flusher panicked: {}; it goes on", panic_text(&*panic));
                self.give_up_records();
                self.seal_at = None;
                if self.shared.count_panic() >= PANICS_MAX {
                    log::error!("the flusher panicked {PANICS_MAX} times; it gives up");
                    self.stop = true;
                }
            }
        }
        self.finish();
    }

    /// Begins to watch the file with settings, and looks what changed before that.
    fn watch_config(&mut self) {
        let Some(path) = self.config.as_ref().map(ConfigFile::path) else { return };
        let watch = Watch::new(path, &self.io.registry)
            .and_then(|watch| watch.register(&self.io.registry, CONFIG).map(|()| watch));
        match watch {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => log::warning!(
                "changes of {} will not be noticed, as it cannot be watched: {error}",
                path.display()
            ),
        }
        self.read_config();
    }

    /// A panic costs the file, and nothing else.
    fn read_config(&mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.apply_config())) {
            log::error!("the file with settings is read no more: {}", panic_text(&*panic));
            (self.config, self.watch) = (None, None);
        }
    }

    fn apply_config(&mut self) {
        let Some(config) = &mut self.config else { return };
        if !config.read() {
            return;
        }
        let mut notes = Vec::new();
        let changed = self.shared.change(|settings| {
            let (settings, said) = config.apply(settings, true)?;
            notes = said;
            Ok::<_, String>(settings)
        });
        notes.iter().for_each(|note| log::warning!("{note}"));
        match changed {
            Ok(()) => log::info!("the settings in {} are in force", config.path().display()),
            Err(problem) => log::error!("{problem}; the settings stay as they are"),
        }
    }

    fn run_until_stopped(&mut self) {
        loop {
            self.settings = self.shared.settings();
            self.keep_desk();
            let more = self.work();
            let listens = self.status.is_some()
                || self.alerts.as_ref().is_some_and(|desk| desk.is_busy())
                || self.outlets.iter().any(Outlet::is_sending);
            if more && listens {
                // Under full load nobody waits, but answers are to be seen.
                self.poll_for(Some(Duration::ZERO));
            }
            if self.shared.is_stopping() {
                self.stop = true;
                return;
            }
            if !more {
                self.wait();
            }
        }
    }

    /// One round: drain, seal what is due, offer what waits, answer flushes. Returns whether there is
    /// more to drain at once.
    fn work(&mut self) -> bool {
        let now = Instant::now();
        self.change_sinks(now);
        self.follow_processors();
        if let Some(ticket) = self.drainer.pending_ticket() {
            self.ticket = Some(ticket);
        }
        // It stays there until it is in `flushes`: a panic on the way there must not lose it.
        let ticket = self.ticket;
        // What was recorded up to here is drained now; what comes meanwhile may wait.
        let must_empty = ticket.is_some();
        if must_empty {
            self.drainer.mark();
        }
        let mut found = 0;
        let more = loop {
            found += self.seal_critical(now);
            let drained = self.drainer.drain(&mut self.records, self.settings.batch_size);
            found += drained;
            let full = self.records.len() >= self.settings.batch_size;
            if full {
                self.seal(now);
            }
            // Rounds are bounded, so that flushes and sinks get their turn under full load.
            let long = found >= ROUND_BATCHES * self.settings.batch_size;
            let go_on = if must_empty { self.drainer.is_behind_mark() } else { full && !long };
            if !go_on {
                break full;
            }
        };
        if !self.records.is_empty() {
            let seal_at = *self.seal_at.get_or_insert(later(now, self.settings.flush_interval));
            if ticket.is_some()
                || now >= seal_at
                || self.drainer.is_under_pressure()
                || self.drainer.is_room_wanted()
                || self.shared.is_stopping()
            {
                self.seal(now);
            }
        }
        self.found = found > 0;
        if more || found * 32 > self.settings.max_spans {
            self.poll_interval = (self.poll_interval / 2).max(POLL_MIN);
        } else if found * 128 < self.settings.max_spans {
            self.poll_interval = (self.poll_interval * 2).min(POLL_MAX);
        }
        if let Some(ticket) = ticket {
            self.flushes.push((ticket, self.sequence.checked_sub(1)));
            self.ticket = None;
        }
        let now = Instant::now();
        for outlet in &mut self.outlets {
            outlet.drive(now, ticket.is_some(), &self.settings);
        }
        self.answer(now);
        self.with_status(|status, _| status.tick(now));
        // Not put off by what was found: one busy thread would keep the segments of all idle ones taken.
        if self.cleanup_at.is_some_and(|at| at <= now) {
            self.cleanup_at = None;
            self.drainer.cleanup();
            if self.records.is_empty() {
                self.records.shrink(0);
            }
            self.outlets.iter_mut().for_each(|outlet| outlet.cleanup(now, &self.settings));
        }
        if found > 0 && self.cleanup_at.is_none() {
            self.cleanup_at = Some(later(now, self.settings.cleanup_interval));
        }
        if self.drainer.take_was_stuck() {
            log::warning!(
                "the flusher had made no room for as long as OVERFLOW lets threads wait, so they dropped spans at once until now; \
                 is a sink slow, or the machine overloaded?"
            );
        }
        self.publish();
        self.with_alerts(|desk, shared, settings| desk.tick(shared, settings, now));
        more
    }

    /// Seals the critical spans that were recorded since the last look, before what other threads have in their rings, however
    /// much that is. What is pending goes with them. Returns how many spans came.
    fn seal_critical(&mut self, now: Instant) -> usize {
        if !self.drainer.mark_critical() {
            return 0;
        }
        let mut found = 0;
        loop {
            found += self.drainer.drain_critical(&mut self.records, self.settings.batch_size);
            if !self.records.is_empty() {
                self.seal(now);
            }
            if !self.drainer.is_behind_critical() {
                return found;
            }
        }
    }

    /// Opens the desk for alerts, or closes it, as the settings have it now.
    fn keep_desk(&mut self) {
        if (self.settings.watches_alerts() && !self.alerts_failed) == self.alerts.is_some() {
            return;
        }
        match &self.alerts {
            Some(_) => {
                self.with_alerts(|desk, shared, _| desk.close(shared));
                self.alerts = None;
            }
            None => {
                let is_first = self.sequence == 0;
                let desk = Desk::open(&self.shared, &self.settings, &self.io, is_first);
                self.alerts = Some(Box::new(desk));
            }
        }
    }

    /// Answers the flushes whose batches no sink waits for any more.
    fn answer(&mut self, now: Instant) {
        let handed_over = |sequence: Option<u64>, outlets: &[Outlet]| {
            sequence
                .is_none_or(|sequence| !outlets.iter().any(|outlet| outlet.waits_up_to(sequence)))
        };
        let mut answered = None;
        while let Some((ticket, sequence)) = self.flushes.first().copied()
            && handed_over(sequence, &self.outlets)
        {
            answered = Some(ticket);
            self.flushes.remove(0);
        }
        if let Some(ticket) = answered {
            self.outlets.iter_mut().for_each(|outlet| outlet.flush(now));
            self.publish();
            // Whoever waits finds the alerts about what was flushed.
            self.with_alerts(|desk, shared, settings| desk.tick(shared, settings, now));
            self.drainer.answer(ticket);
        }
    }

    fn clock(&mut self, now: Instant) -> &ClockMap {
        if self.clock.is_none() {
            // The first batch may come right after the start: then the rate must be waited for.
            let elapsed = Reading::now().monotonic.saturating_sub(self.clock_first.monotonic);
            std::thread::sleep(CALIBRATION.saturating_sub(Duration::from_nanos(elapsed)));
            self.clock = Some(ClockMap::new(self.clock_first, Reading::now()));
            self.clock_next = now + CLOCK_INTERVAL;
        }
        let clock = self.clock.as_mut().expect("set above");
        if now >= self.clock_next {
            clock.correct(Reading::now());
            self.clock_next = now + CLOCK_INTERVAL;
        }
        clock
    }

    /// Lets the processors see what is pending, and seals what they leave.
    fn seal(&mut self, now: Instant) {
        let had_spans = !self.records.is_empty();
        self.process(now);
        if had_spans && self.records.is_empty() {
            self.seal_at = None;
            return;
        }
        self.seal_processed(now);
    }

    /// Takes what the application and the settings say about processors.
    pub(crate) fn follow_processors(&mut self) {
        let changes = self.shared.take_processor_changes();
        let are_changed = !changes.is_empty();
        changes.into_iter().for_each(|change| self.processing.change(change));
        if self.processing.follow(&self.settings) || are_changed {
            self.shared.publish_processors(self.processing.stats());
        }
    }

    fn process(&mut self, now: Instant) {
        self.follow_processors();
        if !self.processing.is_idle() && !self.records.is_empty() {
            self.clock(now);
            let times = Times(self.clock.as_ref().expect("set by `clock`"));
            let settings = &self.settings;
            self.processing.run(&mut self.records, &mut self.drainer, &times, settings);
            if settings.track_errors {
                self.shared.track_errors(&self.records, &times);
            }
            self.shared.publish_processors(self.processing.stats());
        }
    }

    /// Seals what is pending, and offers it to the sinks; as two batches, where one exceeds what the
    /// format allows, and so on, until what is too large is a single span.
    fn seal_processed(&mut self, now: Instant) {
        self.seal_at = None;
        let begun = self.settings.measures_spans().then(Instant::now);
        // What was recorded after a sink was removed does not go there.
        self.change_sinks(now);
        self.clock(now);
        let spans = self.records.len() as u64;
        self.scopes.refresh();
        let engine = self.shared.engine;
        let stats = engine.totals();
        let dropped: Vec<_> =
            stats.dropped.iter().map(|(reason, count)| (reason.name(), count)).collect();
        let clock = self.clock.as_ref().expect("set by `clock`");
        let context = BatchContext {
            clock: &Times(clock),
            instance: self.shared.instance,
            sequence: self.sequence,
            keys: engine.id_keys(),
            created: stats.created,
            sealed: self.sealed + spans,
            dropped: &dropped,
            resources: self.scopes.resources(),
            scopes: self.scopes.scopes(),
            clock_epoch: clock.epoch(),
            level: self.settings.compression_level,
        };
        let encoded = match self.encoder.encode(&self.records, &context) {
            Ok(encoded) => encoded,
            Err(error) if error.is_too_large() && spans > 1 => {
                let rest = self.records.split_off(self.records.len() / 2);
                self.halves.push(rest);
                self.seal_processed(now);
                if let Some(rest) = self.halves.pop() {
                    self.records = rest;
                    self.seal_processed(now);
                }
                return;
            }
            Err(error) => {
                log::error!(
                    "a batch of {spans} spans could not be encoded and is dropped: {error}"
                );
                return self.drainer.settle(&mut self.records, Some(Reason::Encode));
            }
        };
        let batch = SealedBatch {
            instance: self.shared.instance,
            sequence: self.sequence,
            spans: encoded.spans,
            start_unix_nano: encoded.start_unix_nano,
            end_unix_nano: encoded.end_unix_nano,
            frame: encoded.frame,
        };
        // Once for all who can send it at once; who cannot makes it from the frame when its turn comes.
        let mut otlp = None;
        if spans > 0 && self.outlets.iter().any(|outlet| outlet.wants_otlp(now)) {
            let mut body = Vec::with_capacity(self.otlp_bytes);
            match self.otlp.write_records(&self.records, &context, &mut body) {
                Ok(()) => {
                    self.otlp_bytes = body.len() + body.len() / 8;
                    otlp = Some(bytes::Bytes::from(body));
                }
                Err(error) => log::error!("a batch cannot be written as OTLP: {error}"),
            }
        }
        if begun.is_some() {
            self.shared.measure(&self.records, &Times(clock), now, &self.settings);
        }
        if !self.settings.memory_profile.is_empty() {
            self.memory_profile.add(&self.records);
        }
        if let Some(desk) = &mut self.alerts {
            desk.add(&self.records, &Times(clock), &self.settings, now);
        }
        self.sequence += 1;
        self.sealed += spans;
        self.drainer.settle(&mut self.records, None);
        self.shared.count_batch(encoded.raw_bytes, batch.frame.len());
        let mut reserved = None;
        let mut reserve = || {
            if reserved.is_none() {
                let left = Reserved::left(&self.settings);
                reserved = Reserved::new(engine, batch.frame.len(), left);
            }
            reserved.clone()
        };
        for outlet in &mut self.outlets {
            outlet.offer(&batch, otlp.as_ref(), now, &mut reserve, &self.settings);
        }
        if let Some(begun) = begun {
            self.shared.count_seal(begun.elapsed());
        }
    }

    /// Adds and removes the sinks that the application asked for.
    fn change_sinks(&mut self, now: Instant) {
        for change in self.shared.take_sink_changes() {
            match change {
                SinkChange::Add(source) => {
                    let engine = self.shared.engine;
                    let mut outlet = Outlet::new(source, self.outlet_numbers, engine);
                    self.outlet_numbers += 1;
                    outlet.open(&self.io, now);
                    self.outlets.push(outlet);
                }
                SinkChange::Remove(name) => {
                    let gone = |outlet: &mut Outlet| outlet.stats().name == name;
                    for mut outlet in self.outlets.extract_if(.., gone) {
                        outlet.close(now);
                    }
                }
            }
        }
    }

    /// Counts what was to be sealed as dropped.
    fn give_up_records(&mut self) {
        self.drainer.settle(&mut self.records, Some(Reason::Encode));
        for mut half in self.halves.drain(..) {
            self.drainer.settle(&mut half, Some(Reason::Encode));
        }
    }

    /// Waits until there is something to do.
    pub(crate) fn wait(&mut self) {
        let sleep = self.drainer.prepare_sleep(self.found);
        if sleep == Sleep::No {
            return;
        }
        // Who said so while the flusher was about to sleep, but before it said that, has woken nobody.
        let is_changed = !Arc::ptr_eq(&self.settings, &self.shared.settings());
        if self.shared.is_stopping() || self.shared.has_sink_changes() || is_changed {
            return self.drainer.wake_up();
        }
        let now = Instant::now();
        let deadlines =
            self.outlets.iter().filter_map(|outlet| outlet.deadline(now, &self.settings));
        let deadline = {
            let status = self.status.as_ref().and_then(Status::deadline);
            let alerts = self.alerts.as_ref().and_then(|desk| desk.deadline(&self.settings));
            deadlines.chain(self.seal_at).chain(self.cleanup_at).chain(status).chain(alerts).min()
        };
        let mut timeout = deadline.map(|at| at.saturating_duration_since(now));
        if sleep == Sleep::Poll {
            timeout = Some(timeout.unwrap_or(Duration::MAX).min(self.poll_interval));
        }
        self.poll_for(timeout);
        self.drainer.wake_up();
        self.shared.count_wake_up();
    }

    /// Waits for events, at most `timeout`, and hands them to whom they belong.
    fn poll_for(&mut self, timeout: Option<Duration>) {
        if let Err(error) = self.poll_events(timeout) {
            if error.kind() != std::io::ErrorKind::Interrupted {
                log::error!("the flusher cannot wait for events: {error}");
                std::thread::sleep(POLL_MAX);
            }
            return;
        }
        if !self.events.is_empty() {
            let now = Instant::now();
            let mut may_be_changed = false;
            let mut asked = Vec::new();
            let mut for_alerts = Vec::new();
            for event in &self.events {
                if event.token() == CONFIG {
                    may_be_changed = self.watch.as_mut().is_some_and(Watch::drain);
                } else if let Some(outlet) =
                    self.outlets.iter_mut().find(|outlet| outlet.owns(event.token()))
                {
                    outlet.ready(event, now);
                } else if alerts::owns_token(event.token()) {
                    for_alerts.push(event.clone());
                } else if self.status.as_ref().is_some_and(|status| status.owns(event.token())) {
                    asked.push(event.token());
                }
            }
            if may_be_changed {
                self.read_config();
            }
            for token in asked {
                self.with_status(|status, shared| status.ready(token, shared, now));
            }
            for event in for_alerts {
                self.with_alerts(|desk, _, _| desk.ready(&event, now));
            }
        }
    }

    /// A panic in the endpoint costs the endpoint, and nothing else.
    fn with_status(&mut self, call: impl FnOnce(&mut Status, &Shared)) {
        let Some(status) = &mut self.status else { return };
        let shared = &self.shared;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(status, shared))) {
            log::error!("the status endpoint panicked and is closed: {}", panic_text(&*panic));
            self.status = None;
        }
    }

    /// A panic (a logger of the host, which libraries call, is others' code) costs the alerts, and nothing else.
    fn with_alerts(&mut self, call: impl FnOnce(&mut Desk, &Shared, &Settings)) {
        let Some(desk) = &mut self.alerts else { return };
        let (shared, settings) = (&self.shared, &self.settings);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(desk, shared, settings))) {
            let text = panic_text(&*panic);
            log::error!("what looks for alerts panicked and is closed: {text}");
            (self.alerts, self.alerts_failed) = (None, true);
        }
    }

    /// mio counts in whole milliseconds.
    fn poll_events(&mut self, timeout: Option<Duration>) -> std::io::Result<()> {
        match timeout {
            #[cfg(target_os = "linux")]
            Some(timeout) if timeout < Duration::from_millis(1) => {
                use rustix::event::{PollFd, PollFlags, Timespec, poll};
                let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
                // SAFETY: the descriptor stays open as long as `self.poll`.
                let fd = unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) };
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout))?;
                self.poll.poll(&mut self.events, Some(Duration::ZERO))
            }
            _ => self.poll.poll(&mut self.events, timeout),
        }
    }

    /// Takes no more spans, seals what is there, writes the closing batch, and ends the sinks.
    fn finish(&mut self) {
        self.settings = self.shared.settings();
        self.drainer.close(SETTLE_TIMEOUT);
        // Every panic costs the batch that was open, as it does before.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
            let now = Instant::now();
            loop {
                let drained = self.drainer.drain(&mut self.records, self.settings.batch_size);
                if self.records.len() >= self.settings.batch_size
                    || (drained == 0 && !self.records.is_empty())
                {
                    self.seal(now);
                } else if drained == 0 {
                    break;
                }
            }
            // The closing batch: no spans, but the final counts.
            self.seal(now);
        })) {
            log::error!("the flusher panicked while it ended: {}", panic_text(&*panic));
            self.give_up_records();
            if self.shared.count_panic() >= PANICS_MAX {
                break;
            }
        }
        while let Some(until) = self.shared.stop_deadline()
            && let now = Instant::now()
            && now < until
            && self.outlets.iter().any(|outlet| outlet.waits_up_to(u64::MAX))
        {
            // Sinks that fail get the time that the caller of shutdown gave.
            self.with_status(|status, _| status.tick(now));
            for outlet in &mut self.outlets {
                outlet.drive(now, false, &self.settings);
            }
            if !self.outlets.iter().any(|outlet| outlet.waits_up_to(u64::MAX)) {
                // Idle connections have deadlines, too.
                break;
            }
            let next =
                self.outlets.iter().filter_map(|outlet| outlet.deadline(now, &self.settings)).min();
            let wait = next.unwrap_or(until).min(until).saturating_duration_since(Instant::now());
            self.poll_for(Some(wait.max(Duration::from_millis(1))));
            self.publish();
        }
        self.publish();
        self.finish_alerts();
        // Answers that are there count.
        self.poll_for(Some(Duration::ZERO));
        let now = Instant::now();
        for outlet in &mut self.outlets {
            outlet.drive_last(now, &self.settings);
            outlet.close(now);
            let stats = outlet.stats();
            let lost = stats.dropped[SinkDrop::ShutDown as usize];
            if lost > 0 {
                // Nobody may ask for the counts any more.
                let advice = match self.settings.dir {
                    None if outlet.is_sender() => {
                        "; with DIR they would wait on disk for the next process"
                    }
                    _ => "",
                };
                log::warning!(
                    "sink {}: {lost} spans were dropped at shutdown, before it took them{advice}",
                    stats.name
                );
            }
        }
        self.publish();
        self.drainer.finish();
        self.status = None;
        self.shared.flusher_ends();
        self.shared.stopped();
    }

    /// Looks a last time, and lets what it finds reach the webhook.
    fn finish_alerts(&mut self) {
        let now = Instant::now();
        self.with_alerts(|desk, shared, settings| desk.look(shared, settings, now));
        let until =
            self.shared.stop_deadline().map_or(now, |until| until.min(now + LAST_ALERTS_TIMEOUT));
        while self.alerts.as_ref().is_some_and(|desk| desk.is_busy())
            && let now = Instant::now()
            && now < until
        {
            let at = self.alerts.as_ref().and_then(|desk| desk.deadline(&self.settings));
            let wait = at.unwrap_or(until).min(until).saturating_duration_since(now);
            self.poll_for(Some(wait.max(Duration::from_millis(1))));
            let now = Instant::now();
            self.with_alerts(|desk, shared, settings| desk.tick(shared, settings, now));
        }
        self.with_alerts(|desk, shared, _| desk.close(shared));
        self.alerts = None;
    }

    /// Lets `stats` see the sinks' counts.
    pub(crate) fn publish(&self) {
        self.shared.publish(self.outlets.iter().map(|outlet| outlet.stats().clone()));
    }
}

/// `now + interval`; an interval beyond the clock's range is a long time.
pub(crate) fn later(now: Instant, interval: Duration) -> Instant {
    const LONG: Duration = Duration::from_secs(100 * 365 * 86_400);
    now.checked_add(interval).unwrap_or_else(|| now + LONG)
}

/// Times of records by the flusher's clock.
pub(crate) struct Times<'a>(pub(crate) &'a ClockMap);

impl TickClock for Times<'_> {
    #[inline]
    fn span_times(&self, header: &Header) -> (u64, u64) {
        let time = |value: u64, wall: u16| {
            if header.flags & wall != 0 { value } else { self.0.unix_nanos(value) }
        };
        let start = time(header.start, flag::START_WALL);
        (start, time(header.end, flag::END_WALL).max(start))
    }

    #[inline]
    fn unix_nano(&self, ticks: u64) -> u64 {
        self.0.unix_nanos(ticks)
    }
}
