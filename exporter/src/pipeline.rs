//! The pipeline: an engine, its flusher and its sinks, as an application sees them.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use spanring::Value;
use spanring::export::{Attached, Engine, EngineOptions, FlushError};
use spanring::record::Records;
use spanring::settings::{Level, LogLevel, RootSampler, Settings};

use crate::alerts::{self, Alert, Alerts, WebhookCounts};
use crate::batch::{Encoder, TickClock};
use crate::config_file::ConfigFile;
use crate::destination::Destination;
use crate::file_sink::{FileSink, FileSinkOptions};
use crate::flusher::{Flusher, Parts};
use crate::http::ProxySettings;
use crate::log;
use crate::metrics::{
    self, CpuSample, CpuShare, CpuShares, Facts, HealthReport, Memory, Meter, Metrics,
    NAME_BYTES_MAX, SERIES_MAX, Timings, Watch,
};
use crate::openai_sink::OpenAiOptions;
use crate::otlp_sink::OtlpOptions;
use crate::outlet::Source;
use crate::processors::errors::{ErrorReport, Tracker};
use crate::processors::{Processor, ProcessorChange, ProcessorStats};
use crate::scopes::Scopes;
use crate::sender::IoSource;
use crate::sink::{InstanceId, Sink};
use crate::stats::{PipelineStats, SinkStats};
use crate::status::Status;
use crate::subscription::Subscription;

/// How long dropping a pipeline waits for what is left.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long threads wait before they try again to start the flusher's thread.
const START_INTERVAL: Duration = Duration::from_millis(100);
/// What a longer time-out comes down to.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const WAKER: mio::Token = mio::Token(0);

/// A running pipeline. Dropping it flushes and shuts it down, waiting up to five seconds.
///
/// ```
/// use std::time::Duration;
///
/// use spanring::span;
/// use spanring_exporter::{MemorySink, Pipeline};
///
/// let memory = MemorySink::new();
/// let pipeline = Pipeline::builder().service_name("shop").sink(memory.clone()).install()?;
/// {
///     let _span = span!("checkout", "cart.items" = 3);
/// }
/// pipeline.flush(Duration::from_secs(1))?;
/// assert_eq!(memory.batches().len(), 1);
/// pipeline.shutdown(Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pipeline {
    shared: Arc<Shared>,
}

/// What the pipeline's handle, its flusher and the exit handler share.
pub(crate) struct Shared {
    pub(crate) engine: &'static Engine,
    pub(crate) instance: InstanceId,
    settings: Mutex<Arc<Settings>>,
    /// The flusher before its thread was started; gone once it was.
    waiting: Mutex<Option<Box<Flusher>>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Whether there is something in `State::sink_changes`.
    sinks_change: AtomicBool,
    /// Whether there is something in `State::processor_changes`.
    processors_change: AtomicBool,
    stopping: AtomicBool,
    batches: AtomicU64,
    bytes_raw: AtomicU64,
    bytes: AtomicU64,
    wake_ups: AtomicU64,
    panics: AtomicU64,
    begun: Instant,
    /// There once spans were measured.
    meter: Mutex<Option<Box<Meter>>>,
    flusher_cpu: Mutex<FlusherCpu>,
    alerts: Mutex<alerts::Waiting>,
    errors: Mutex<Tracker>,
}

/// Processor time of the flusher: by the clock of its thread while it runs, and afterwards as it was at the end.
#[derive(Default)]
struct FlusherCpu {
    clock: Option<libc::clockid_t>,
    /// What the clock showed when the flusher began.
    before: Duration,
    ended: Option<Duration>,
    shares: Option<CpuShares>,
}

impl FlusherCpu {
    fn share(&mut self) -> Option<CpuShare> {
        let (flusher, process) = (self.time()?, metrics::process_cpu()?);
        Some(self.shares.as_mut()?.share(CpuSample { at: Instant::now(), flusher, process }))
    }

    fn time(&self) -> Option<Duration> {
        let running = self.clock.and_then(crate::thread::cpu_time);
        self.ended.or_else(|| Some(running?.saturating_sub(self.before)))
    }
}

#[derive(Default)]
struct State {
    stop_by: Option<Instant>,
    stopped: bool,
    /// When the flusher's thread could not be started.
    start_failed: Option<Instant>,
    sinks: Vec<SinkStats>,
    sink_changes: Vec<SinkChange>,
    processor_changes: Vec<ProcessorChange>,
    processors: Vec<ProcessorStats>,
    /// Sinks with a spool: name, and the spool's directory.
    spools: Vec<(String, String)>,
    watch: Watch,
    /// Where the status endpoint listens.
    status: Option<SocketAddr>,
}

/// What the application asked for while the flusher runs.
pub(crate) enum SinkChange {
    Add(Source),
    /// By name.
    Remove(String),
}

impl Pipeline {
    /// Starts building a pipeline.
    pub fn builder() -> PipelineBuilder {
        PipelineBuilder::default()
    }

    /// Hands everything recorded before this call to the sinks, and waits for it. Sinks that cannot
    /// take it within the time go on trying.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] tells why, and how many spans are left.
    pub fn flush(&self, timeout: Duration) -> Result<(), Unfinished> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + LONGEST_WAIT);
        loop {
            // Where no thread was to be had, there may be one now.
            let waits = !self.shared.engine.is_from_parent() && self.shared.try_start();
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = if waits { left.min(START_INTERVAL) } else { left };
            match self.shared.engine.flush(slice) {
                Err(FlushError::TimedOut) if slice < left => {}
                result => return result.map_err(|reason| self.shared.unfinished(reason)),
            }
        }
    }

    /// Takes no more spans, hands over what is there, and ends the sinks. Calling it again is fine.
    ///
    /// Spans that end afterwards are counted as dropped.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] tells why, and how many spans are left.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), Unfinished> {
        self.shared.shutdown(timeout)
    }

    /// What has been counted so far.
    pub fn stats(&self) -> PipelineStats {
        self.shared.stats()
    }

    /// What has been measured so far: the counts of [`stats`](Self::stats), memory, time, and, while one of the settings
    /// `METRICS`, `REPORT_EVERY` and `STATUS_ADDRESS` asks for it, the spans themselves. A span counts once its batch is
    /// sealed.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics()
    }

    /// What share of the processor's time the flusher takes now; `None` before it started, and where the system does not tell. What spans
    /// cost the threads that record them is not among it: `spanring overhead` measures that.
    pub fn cpu_share(&self) -> Option<CpuShare> {
        let is_ours = !self.shared.engine.is_from_parent();
        is_ours.then(|| lock(&self.shared.flusher_cpu).share()).flatten()
    }

    /// Whether tracing is well, and why not. The limits are the settings `HEALTH_…`.
    pub fn health(&self) -> HealthReport {
        self.shared.health()
    }

    /// Takes the alerts that were found since the last call, with the setting `ALERTS` or `ALERT_WEBHOOK`. A fork child has none of its
    /// parent's.
    pub fn alerts(&self) -> Alerts {
        let mut taken = Alerts::default();
        self.give_alerts(|alerts| {
            taken = alerts;
            true
        });
        taken
    }

    /// As [`alerts`](Self::alerts); they stay if `take` says that it could not take them.
    #[doc(hidden)]
    pub fn give_alerts(&self, take: impl FnOnce(Alerts) -> bool) {
        if self.shared.engine.is_from_parent() {
            take(Alerts::default());
            return;
        }
        let mut waiting = lock(&self.shared.alerts);
        if take(waiting.look()) {
            waiting.clear();
        }
    }

    /// Where the status endpoint listens, if there is one: with port 0 in `STATUS_ADDRESS`, the port that was free.
    pub fn status_address(&self) -> Option<SocketAddr> {
        lock(&self.shared.state).status
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.shared.settings()
    }

    /// Puts other settings in force while threads record. Those that are not live (see
    /// [`Settings::explain`]) keep their effect.
    ///
    /// To change single ones, use [`change_settings`](Self::change_settings), which loses no change of somebody else.
    pub fn reconfigure(&self, settings: Settings) {
        let Ok(()) = self.shared.change(|_| Ok::<_, std::convert::Infallible>(settings.clone()));
    }

    /// Changes settings while threads record: names and values as for [`Settings::with`]. All are in force for the next span, or none.
    ///
    /// ```
    /// use spanring_exporter::{MemorySink, Pipeline};
    ///
    /// let pipeline = Pipeline::builder().sink(MemorySink::new()).build()?;
    /// pipeline.change_settings([("batch_size", "50"), ("sampler", "always_off")])?;
    /// assert_eq!(pipeline.settings().batch_size, 50);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Settings::with`]. Nothing is changed then.
    pub fn change_settings<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), String> {
        let changes: Vec<_> = changes.into_iter().collect();
        self.shared.change(|settings| settings.with(changes.iter().copied()))
    }

    /// Adds a sink: it gets the batches that are sealed from now on. Once the pipeline is being shut down, and in a fork child, it is
    /// dropped instead.
    pub fn add_sink(&self, sink: impl Sink + 'static) {
        self.shared.change_sinks(SinkChange::Add(Source::Sink(Box::new(sink))));
    }

    /// Adds a sink that sends OTLP, as [`PipelineBuilder::otlp`] does.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::install`], for the options.
    pub fn add_otlp(&self, options: OtlpOptions) -> Result<(), StartError> {
        self.add_destination(&Destination::Otlp(options))
    }

    /// Adds a sink that sends to OpenAI's trace ingest, as [`PipelineBuilder::openai`] does.
    ///
    /// # Errors
    ///
    /// As [`PipelineBuilder::install`], for the options.
    pub fn add_openai(&self, options: OpenAiOptions) -> Result<(), StartError> {
        self.add_destination(&Destination::OpenAi(options))
    }

    fn add_destination(&self, destination: &Destination) -> Result<(), StartError> {
        if self.shared.engine.is_from_parent() {
            return Ok(());
        }
        let settings = self.settings();
        let spool = (destination.name().to_owned(), destination.spool_key());
        destination.enter(&mut lock(&self.shared.state).spools, &settings)?;
        let source = destination.courier(&settings).inspect_err(|_| {
            lock(&self.shared.state).spools.retain(|known| *known != spool);
        })?;
        self.shared.change_sinks(SinkChange::Add(source));
        Ok(())
    }

    /// Gives finished spans to the program itself, from now on. About `spans_max` of them wait to be taken; of more, whole batches are
    /// dropped and counted, by the subscription and as refused by a sink of its name. Once the pipeline is being shut down, and in a fork
    /// child, it has ended from the beginning.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use spanring_exporter::{MemorySink, Pipeline};
    ///
    /// let pipeline = Pipeline::builder().sink(MemorySink::new()).install()?;
    /// let mut subscription = pipeline.subscribe(10_000);
    /// drop(spanring::span!("checkout"));
    /// pipeline.flush(Duration::from_secs(1))?;
    /// let line = subscription.next_json(Duration::from_secs(1)).expect("there is a span");
    /// assert!(line.contains("\"name\":\"checkout\""));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe(&self, spans_max: u64) -> Subscription {
        let (subscription, sink) = Subscription::new(spans_max, Arc::downgrade(&self.shared));
        self.add_sink(sink);
        subscription
    }

    /// Removes the sinks of that name. What waits for them is dropped and counted, or stays in the spool; their
    /// counts leave the stats.
    pub fn remove_sink(&self, name: impl Into<String>) {
        self.shared.remove_sink(name.into());
    }

    /// Lets a processor see all spans that are sealed from now on: instead of the one of that name, or after the others.
    pub fn set_processor(&self, name: impl Into<String>, processor: impl Processor + 'static) {
        self.shared.change_processors(ProcessorChange::Set(name.into(), Box::new(processor)));
    }

    /// Removes the processor of that name; its counts leave the stats.
    pub fn remove_processor(&self, name: impl Into<String>) {
        self.shared.change_processors(ProcessorChange::Remove(name.into()));
    }

    /// The errors that were seen, with the setting `TRACK_ERRORS`. A fork child has none of its parent's.
    pub fn errors(&self) -> ErrorReport {
        if self.shared.engine.is_from_parent() {
            return ErrorReport::default();
        }
        lock(&self.shared.errors).report()
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What the pipeline's batches carry to tell them from other pipelines'.
    pub fn instance(&self) -> InstanceId {
        self.shared.instance
    }

    /// Makes this the pipeline of `span!` on the calling thread until the guard is dropped, for tests
    /// with several pipelines in one process.
    pub fn attach(&self) -> Attached {
        self.shared.engine.attach()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Err(unfinished) = self.shutdown(DROP_TIMEOUT)
            && unfinished.reason != FlushError::Forked
        {
            log::warning!(
                "a pipeline was dropped before it had delivered everything: {unfinished}"
            );
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("instance", &self.shared.instance)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Why a flush or a shutdown did not finish, and what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Why.
    pub reason: FlushError,
    /// Spans that are neither delivered nor dropped yet, over all sinks.
    pub left: u64,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if self.reason == FlushError::TimedOut {
            write!(f, " ({} spans are left)", self.left)?;
        }
        Ok(())
    }
}

impl std::error::Error for Unfinished {}

impl Shared {
    pub(crate) fn settings(&self) -> Arc<Settings> {
        let settings = self.lock_if_ours(&self.settings).map(|settings| settings.clone());
        settings.unwrap_or_default()
    }

    /// A lock that in a fork child of this pipeline's process a thread may hold that the child has not: it is tried only, then.
    fn lock_if_ours<'a, T>(&self, mutex: &'a Mutex<T>) -> Option<MutexGuard<'a, T>> {
        if !self.engine.is_from_parent() {
            return Some(lock(mutex));
        }
        match mutex.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Puts in force what `change` makes of the settings. One change follows another, so that none is lost.
    pub(crate) fn change<E>(
        &self,
        mut change: impl FnMut(&Settings) -> Result<Settings, E>,
    ) -> Result<(), E> {
        loop {
            // Not under the lock, which is held for moments only: others may fork.
            let before = self.settings();
            let changed = Arc::new(change(&before)?);
            let Some(mut settings) = self.lock_if_ours(&self.settings) else { return Ok(()) };
            if !Arc::ptr_eq(&settings, &before) {
                continue;
            }
            // Equal ones may be made of something else.
            *settings = changed.clone();
            if changed != before {
                log::set_level(changed.log_level);
                self.engine.reconfigure(&engine_options(&changed));
                self.engine.set_memory_profile(&changed.memory_profile);
                drop(settings);
                self.engine.wake_now();
            }
            return Ok(());
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Until when shutdown waits.
    pub(crate) fn stop_deadline(&self) -> Option<Instant> {
        lock(&self.state).stop_by
    }

    pub(crate) fn stopped(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        // Sinks that came too late: nobody will call them. They are others' code, so not under the lock.
        let too_late = std::mem::take(&mut state.sink_changes);
        drop(state);
        self.changed.notify_all();
        drop(too_late);
    }

    pub(crate) fn publish(&self, sinks: impl Iterator<Item = SinkStats>) {
        let mut state = lock(&self.state);
        let State { sinks: known, watch, .. } = &mut *state;
        known.clear();
        known.extend(sinks);
        let now = Instant::now();
        watch.look(known, now);
        let dropped: u64 = known.iter().map(SinkStats::dropped_total).sum();
        watch.look_at_drops(self.engine.dropped().unasked() + dropped, now);
    }

    /// The sink that has kept spans waiting longest without taking any, and for how long.
    pub(crate) fn longest_wait(&self, now: Instant) -> Option<(String, Duration)> {
        lock(&self.state).watch.longest_wait(now)
    }

    pub(crate) fn dropped_by_sinks(&self) -> u64 {
        lock(&self.state).sinks.iter().map(SinkStats::dropped_total).sum()
    }

    pub(crate) fn push_alert(&self, alert: Alert) {
        lock(&self.alerts).push(alert);
    }

    pub(crate) fn webhook_counts(&self) -> WebhookCounts {
        lock(&self.alerts).webhook
    }

    pub(crate) fn publish_webhook(&self, counts: WebhookCounts) {
        lock(&self.alerts).webhook = counts;
    }

    /// The flusher runs on this thread from now on.
    pub(crate) fn flusher_begins(&self) {
        let clock = crate::thread::cpu_clock();
        let before = clock.and_then(crate::thread::cpu_time).unwrap_or_default();
        let shares = metrics::process_cpu().map(|process| {
            CpuShares::new(CpuSample { at: Instant::now(), flusher: Duration::ZERO, process })
        });
        *lock(&self.flusher_cpu) = FlusherCpu { clock, before, ended: None, shares };
    }

    pub(crate) fn flusher_ends(&self) {
        let mut cpu = lock(&self.flusher_cpu);
        cpu.ended = cpu.time();
    }

    /// Measures the spans of a batch, and reports if that is due.
    pub(crate) fn measure(
        &self,
        records: &Records,
        clock: &impl TickClock,
        now: Instant,
        settings: &Settings,
    ) {
        let mut meter = lock(&self.meter);
        let meter = meter.get_or_insert_with(|| Box::new(Meter::new(now)));
        if meter.add(records, clock, now) {
            log::warning!(
                "there are spans of more than {SERIES_MAX} names and kinds, or names of more than {NAME_BYTES_MAX} bytes: \
                 those beyond are measured together as (other); names with numbers in them are better attributes"
            );
        }
        if let Some(report) = meter.report(settings.report_every, Instant::now()) {
            log::write_asked(spanring::settings::LogLevel::Info, format_args!("{report}"));
        }
    }

    pub(crate) fn count_seal(&self, took: Duration) {
        if let Some(meter) = &mut *lock(&self.meter) {
            meter.sealed(took);
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let stats = self.stats();
        let settings = self.settings();
        let now = Instant::now();
        // In a fork child its parent's flusher may hold them for good.
        let is_ours = !self.engine.is_from_parent();
        let is_measuring = is_ours && settings.measures_spans();
        let meter = is_measuring.then(|| lock(&self.meter));
        let meter = meter.as_ref().and_then(|meter| meter.as_deref());
        let (spans, seals) = match meter {
            Some(meter) => (Some(meter.snapshot(now)), meter.seals()),
            None => (None, Timings::default()),
        };
        let rings = stats.engine.ring_bytes as u64;
        let used = settings.max_bytes.saturating_sub(stats.engine.bytes_free);
        let memory = Memory {
            rings,
            values_and_queues: used.saturating_sub(rings),
            metrics: spans.as_ref().map_or(0, |spans| spans.bytes as u64),
            process: metrics::process_memory(),
        };
        let (flusher_cpu, flusher_share) = match is_ours {
            true => {
                let mut cpu = lock(&self.flusher_cpu);
                (cpu.time(), cpu.share())
            }
            false => (None, None),
        };
        Metrics {
            uptime: now.saturating_duration_since(self.begun),
            spans_max: settings.max_spans as u64,
            bytes_max: settings.max_bytes,
            memory,
            flusher_cpu,
            flusher_share,
            seals,
            spans,
            stats,
        }
    }

    pub(crate) fn health(&self) -> HealthReport {
        if self.engine.is_from_parent() {
            // Its locks may be held by a thread that this process does not have.
            return HealthReport::of_fork_child();
        }
        let settings = self.settings();
        let ended = self.engine.is_closed();
        let stats = self.stats();
        let now = Instant::now();
        let meter = settings.measures_spans().then(|| lock(&self.meter));
        let last_minute =
            meter.and_then(|meter| meter.as_ref().map(|meter| meter.last_minute(now)));
        let start_failed =
            !ended && lock(&self.waiting).is_some() && { lock(&self.state).start_failed.is_some() };
        let memory = metrics::process_memory();
        let (settings, stats) = (&*settings, &stats);
        let facts = Facts { settings, stats, ended, start_failed, memory, last_minute };
        metrics::evaluate(&facts, &mut lock(&self.state).watch, now)
    }

    pub(crate) fn remove_sink(&self, name: String) {
        if self.engine.is_from_parent() {
            return;
        }
        lock(&self.state).spools.retain(|(known, _)| *known != name);
        self.change_sinks(SinkChange::Remove(name));
    }

    fn change_sinks(&self, change: SinkChange) {
        if self.engine.is_from_parent() || self.is_stopping() {
            return;
        }
        let mut state = lock(&self.state);
        if state.stopped {
            // Without a shutdown: it panicked too often.
            return;
        }
        state.sink_changes.push(change);
        drop(state);
        self.sinks_change.store(true, Ordering::Release);
        self.engine.wake_now();
    }

    pub(crate) fn has_sink_changes(&self) -> bool {
        self.sinks_change.load(Ordering::Acquire)
    }

    pub(crate) fn take_sink_changes(&self) -> Vec<SinkChange> {
        if !self.sinks_change.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.state).sink_changes)
    }

    fn change_processors(&self, change: ProcessorChange) {
        let Some(mut state) = self.lock_if_ours(&self.state) else { return };
        // It is in the stats at once, and has seen no span there.
        let (ProcessorChange::Set(name, _) | ProcessorChange::Remove(name)) = &change;
        state.processors.retain(|known| known.name != *name);
        if let ProcessorChange::Set(name, _) = &change {
            state.processors.push(ProcessorStats::new(name));
        }
        state.processor_changes.push(change);
        self.processors_change.store(true, Ordering::Release);
    }

    /// What was asked for since the last call; it counts for spans that are sealed from now on.
    pub(crate) fn take_processor_changes(&self) -> Vec<ProcessorChange> {
        if !self.processors_change.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut lock(&self.state).processor_changes)
    }

    pub(crate) fn publish_processors(&self, stats: Vec<ProcessorStats>) {
        lock(&self.state).processors = stats;
    }

    /// Counts the errors of a batch.
    pub(crate) fn track_errors(&self, records: &Records, clock: &impl TickClock) {
        lock(&self.errors).add(records, clock);
    }

    pub(crate) fn count_batch(&self, bytes_raw: usize, bytes: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.bytes_raw.fetch_add(bytes_raw as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_wake_up(&self) {
        self.wake_ups.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_panic(&self) -> u64 {
        self.panics.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn stats(&self) -> PipelineStats {
        let known = self.lock_if_ours(&self.state);
        let known = known.map(|state| (state.sinks.clone(), state.processors.clone()));
        let (sinks, processors) = known.unwrap_or_default();
        PipelineStats {
            engine: self.engine.stats(),
            sinks,
            processors,
            batches: self.batches.load(Ordering::Relaxed),
            bytes_raw: self.bytes_raw.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            wake_ups: self.wake_ups.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
        }
    }

    fn unfinished(&self, reason: FlushError) -> Unfinished {
        if reason == FlushError::Forked {
            // The parent's spans are not ours to count, and its locks may be held by a lost thread.
            return Unfinished { reason, left: 0 };
        }
        let engine = self.engine.stats();
        // A batch that a sink is just taking is in no queue, and the sinks' own counts are of the
        // flusher's last round, so what was sealed is held against what became of it.
        // What is in the spool is safe; what came from there was not sealed here.
        let done = |sink: &SinkStats| {
            (sink.delivered + sink.dropped_total() + sink.spooled).saturating_sub(sink.adopted)
        };
        let waits: u64 = lock(&self.state)
            .sinks
            .iter()
            .map(|sink| engine.sealed.saturating_sub(done(sink)))
            .sum();
        Unfinished { reason, left: engine.resident + waits }
    }

    /// See [`Pipeline::shutdown`].
    pub(crate) fn shutdown(self: &Arc<Self>, timeout: Duration) -> Result<(), Unfinished> {
        if self.engine.is_from_parent() {
            return Err(self.unfinished(FlushError::Forked));
        }
        if self.engine.is_flusher_thread() {
            return Err(self.unfinished(FlushError::WouldDeadlock));
        }
        // A time-out beyond the clock's range waits without end, as far as anybody can tell.
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + LONGEST_WAIT);
        {
            let mut state = lock(&self.state);
            if state.stopped {
                return Ok(());
            }
            state.stop_by = state.stop_by.max(Some(deadline));
        }
        self.stopping.store(true, Ordering::Release);
        self.start();
        let not_started = lock(&self.waiting).take();
        if let Some(flusher) = not_started {
            // There is no thread to be had: what the flusher would do is done on this one.
            flusher.run();
            self.engine.leave_flusher();
        }
        self.engine.wake_now();
        let mut state = lock(&self.state);
        while !state.stopped {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return Err(self.unfinished(FlushError::TimedOut));
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Starts the flusher's thread if something was recorded for it and it has not been started; whether it could not be.
    fn try_start(&self) -> bool {
        if lock(&self.state).start_failed.is_none() {
            return false;
        }
        self.start();
        lock(&self.waiting).is_some()
    }

    /// As [`start`](Self::start), for a thread that records: after a failure not again at once.
    fn start_soon(&self) {
        let failed = lock(&self.state).start_failed;
        if failed.is_some_and(|at| at.elapsed() < START_INTERVAL) {
            return self.engine.flusher_not_started();
        }
        self.start();
    }

    /// Starts the flusher's thread, if it has not been started.
    fn start(&self) {
        let Some(flusher) = lock(&self.waiting).take() else { return };
        // The flusher travels in a slot, so that it is not lost if no thread can be had.
        let slot = Arc::new(Mutex::new(Some(flusher)));
        let theirs = slot.clone();
        let started = crate::thread::spawn(move || {
            let flusher = lock(&theirs).take();
            if let Some(flusher) = flusher {
                flusher.run();
            }
        });
        if let Err(error) = started {
            log::error!(
                "the flusher's thread cannot be started: {error}; spans stay in memory, and those \
                 beyond MAX_SPANS are dropped and counted, until it can"
            );
            *lock(&self.waiting) = lock(&slot).take();
            lock(&self.state).start_failed = Some(Instant::now());
            self.engine.flusher_not_started();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds a [`Pipeline`].
#[derive(Default)]
#[must_use = "a builder does nothing until `install` or `build`"]
pub struct PipelineBuilder {
    settings: Option<Settings>,
    service_name: Option<String>,
    attributes: Vec<(String, Value)>,
    sinks: Vec<Box<dyn Sink>>,
    processors: Vec<ProcessorChange>,
    destinations: Vec<Destination>,
}

impl PipelineBuilder {
    /// The settings; by default those of the environment.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// `service.name` of the resource, unless the environment says otherwise.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Adds an attribute to the resource.
    pub fn resource_attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }

    /// Adds a sink. Several work side by side. With `SPANRING_ENDPOINT` and `SPANRING_OPENAI` there are those that send there, too. Without
    /// any sink in code, batches go to files in `SPANRING_DIR` if that is set.
    pub fn sink(mut self, sink: impl Sink + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Lets a processor see all spans, as [`Pipeline::set_processor`] does.
    pub fn processor(
        mut self,
        name: impl Into<String>,
        processor: impl Processor + 'static,
    ) -> Self {
        self.processors.push(ProcessorChange::Set(name.into(), Box::new(processor)));
        self
    }

    /// Adds a sink that sends spans as OTLP over HTTP, beside the one of `ENDPOINT` if that is set.
    pub fn otlp(mut self, options: OtlpOptions) -> Self {
        self.destinations.push(Destination::Otlp(options));
        self
    }

    /// Adds a sink that sends spans to OpenAI's trace ingest, beside the one of `OPENAI` if that is set.
    pub fn openai(mut self, options: OpenAiOptions) -> Self {
        self.destinations.push(Destination::OpenAi(options));
        self
    }

    /// Starts the pipeline as that of the whole process. Its thread starts with the first span.
    ///
    /// # Errors
    ///
    /// [`StartError`]: another pipeline is installed, there is no sink, or the directory, the encoder
    /// or the event queue cannot be had.
    pub fn install(self) -> Result<Pipeline, StartError> {
        let pipeline = self.build()?;
        if pipeline.shared.engine.install() {
            spanring::propagation::set_propagators(&pipeline.settings().propagators);
            Ok(pipeline)
        } else {
            Err(StartError::AlreadyInstalled)
        }
    }

    /// Starts a pipeline beside the installed one; see [`Pipeline::attach`].
    ///
    /// # Errors
    ///
    /// As [`install`](Self::install), except that others may be installed.
    pub fn build(mut self) -> Result<Pipeline, StartError> {
        let settings = match self.settings.take() {
            Some(settings) => settings,
            None => {
                let mut builder = Settings::builder();
                if let Some(name) = &self.service_name {
                    builder = builder.service_name(name.clone());
                }
                builder.build()
            }
        };
        log::set_level(settings.log_level);
        let mut config = settings.config.clone().map(ConfigFile::new);
        let settings = match &mut config {
            Some(file) => file.apply(&settings, false).map_or_else(
                |problem| {
                    log::error!("{problem}; none of it is in force, until it is mended");
                    settings.clone()
                },
                |(changed, _)| changed,
            ),
            None => settings,
        };
        log::set_level(settings.log_level);
        for problem in settings.problems() {
            log::warning!("{problem}");
        }
        say_level(&settings);
        for destination in Destination::of_settings(&settings) {
            // The same receiver in code and in the settings is one sink, and the operator has the last word.
            self.destinations.retain(|given| given.spool_key() != destination.spool_key());
            self.destinations.push(destination);
        }
        if self.sinks.is_empty() {
            match &settings.dir {
                Some(dir) => self.sinks.push(Box::new(file_sink(dir, &settings)?)),
                None if self.destinations.is_empty() => return Err(StartError::NoSink),
                None => {}
            }
        }
        let mut sources: Vec<Source> = self.sinks.drain(..).map(Source::Sink).collect();
        let mut spools = Vec::new();
        for destination in self.destinations.drain(..) {
            destination.enter(&mut spools, &settings)?;
            sources.push(destination.courier(&settings)?);
        }
        let encoder = Encoder::new().map_err(|error| StartError::Encoder(error.to_string()))?;
        let poll = mio::Poll::new().map_err(StartError::Events)?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER).map_err(StartError::Events)?);
        let registry = poll.registry().try_clone().map_err(StartError::Events)?;
        let proxy = ProxySettings::of_environment();
        let io = IoSource { registry, waker: waker.clone(), proxy };
        let scopes =
            Scopes::new(resource(&settings, self.service_name.as_deref(), self.attributes));
        let engine = Engine::start(&engine_options(&settings));
        engine.set_memory_profile(&settings.memory_profile);
        let processor_changes = std::mem::take(&mut self.processors);
        let has_processors = !processor_changes.is_empty();
        let begun = Instant::now();
        let meter = settings.measures_spans().then(|| Box::new(Meter::new(begun)));
        let shared = Arc::new(Shared {
            engine,
            instance: InstanceId(spanring::export::random_u128()),
            settings: Mutex::new(Arc::new(settings)),
            waiting: Mutex::new(None),
            state: Mutex::new(State { spools, processor_changes, ..State::default() }),
            changed: Condvar::new(),
            sinks_change: AtomicBool::new(false),
            processors_change: AtomicBool::new(has_processors),
            stopping: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            bytes_raw: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            wake_ups: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            begun,
            meter: Mutex::new(meter),
            flusher_cpu: Mutex::default(),
            alerts: Mutex::default(),
            errors: Mutex::default(),
        });
        let is_watching = config.is_some();
        let registry = io.registry.try_clone();
        let status = crate::status::open(&shared.settings(), registry, engine);
        let has_status = status.is_some();
        lock(&shared.state).status = status.as_ref().map(Status::address);
        let parts = Parts { poll, io, sinks: sources, encoder, scopes, status, config };
        let mut flusher = Flusher::new(shared.clone(), parts);
        flusher.follow_processors();
        flusher.publish();
        *lock(&shared.waiting) = Some(Box::new(flusher));
        let weak = Arc::downgrade(&shared);
        engine.set_waker(move || {
            if let Some(shared) = weak.upgrade() {
                crate::thread::uncancelled(|| {
                    shared.start_soon();
                    if let Err(error) = waker.wake() {
                        log::error!("the flusher cannot be woken: {error}");
                    }
                });
            }
        });
        crate::exit::register(&shared);
        if is_watching || has_status {
            // A file may turn on what it turned off, and whoever asks is to be answered, without any span.
            shared.start();
        }
        Ok(Pipeline { shared })
    }
}

impl fmt::Debug for PipelineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineBuilder")
            .field("settings", &self.settings)
            .field("sinks", &self.sinks.iter().map(|sink| sink.name()).collect::<Vec<_>>())
            .field("destinations", &self.destinations)
            .finish_non_exhaustive()
    }
}

/// The file sink that `settings` describe.
///
/// # Errors
///
/// If the directory cannot be used.
pub fn file_sink(dir: &Path, settings: &Settings) -> Result<FileSink, StartError> {
    let options = FileSinkOptions {
        segment_max_bytes: settings.segment_max_bytes,
        segment_max_age: settings.segment_max_age,
        retention_bytes: settings.retention_bytes,
        fsync: settings.fsync,
        ..FileSinkOptions::default()
    };
    FileSink::create(dir, options).map_err(StartError::Directory)
}

/// Says once what the level leaves out: as a warning where nobody asked for it by name.
fn say_level(settings: &Settings) {
    let left_out = match (settings.level, settings.smart_rest()) {
        _ if settings.disabled => return,
        (Level::Full, _) => return,
        (Level::None, _) => "no span is recorded".to_owned(),
        (Level::Minimal, _) => {
            "spans with a parent in this process are left out, unless they end with an error"
                .to_owned()
        }
        (Level::Smart, rest) => {
            let rest = match rest {
                RootSampler::AlwaysOn => "none of".to_owned(),
                RootSampler::AlwaysOff => "all".to_owned(),
                RootSampler::TraceIdRatio(share) => {
                    format!("{:.4} % of", (1.0 - share) * 100.0).replace(".0000", "")
                }
                RootSampler::EveryNth(n) => format!("{} of {n} of", n.saturating_sub(1)),
                RootSampler::RateLimit(rate) => format!("what exceeds {rate} a second of"),
            };
            format!(
                "{rest} the traces are left out that no rule is about and that have neither a message of more than \
                 100 characters nor a high priority"
            )
        }
    };
    let source = settings.source("level").map(ToString::to_string).unwrap_or_default();
    let level = match source.as_str() {
        "RAILS_ENV" | "ENVIRONMENT" => LogLevel::Warn,
        _ => LogLevel::Info,
    };
    let name = settings.level;
    log::write(
        level,
        format_args!(
            "the level is {name} ({source}): {left_out}; SPANRING_LEVEL=full keeps all that are sampled"
        ),
    );
}

fn engine_options(settings: &Settings) -> EngineOptions {
    EngineOptions {
        max_spans: settings.max_spans,
        max_bytes: usize::try_from(settings.max_bytes).unwrap_or(usize::MAX >> 1),
        batch_size: settings.batch_size,
        parent_based: settings.sampler.parent_based,
        sampler: settings.sampler.root,
        rules: settings.rules.clone(),
        level: settings.level,
        levels: settings.levels.clone(),
        smart_rest: settings.smart_rest(),
        detail: settings.detail(),
        details: settings.details.clone(),
        disabled: settings.disabled,
        overflow_wait: settings.overflow.wait_millis(),
        attribute_count: settings.attribute_count_limit,
        attribute_value_length: settings
            .attribute_value_length_limit
            .map_or(u64::MAX, |limit| limit as u64),
        event_count: settings.event_count_limit,
        link_count: settings.link_count_limit,
        event_attribute_count: settings.event_attribute_count_limit,
        link_attribute_count: settings.link_attribute_count_limit,
    }
}

/// What the environment says comes first, then what code says, then what spanring knows of itself.
fn resource(
    settings: &Settings,
    service_name: Option<&str>,
    attributes: Vec<(String, Value)>,
) -> Vec<(String, Value)> {
    let mut resource: Vec<(String, Value)> = Vec::new();
    let mut add = |key: &str, value: Value| {
        if !resource.iter().any(|(known, _)| known == key) {
            resource.push((key.to_owned(), value));
        }
    };
    let unnamed =
        matches!(settings.source("service_name"), None | Some(spanring::settings::Source::Default));
    if let Some(name) = service_name
        && unnamed
    {
        add("service.name", Value::Str(name.to_owned()));
    }
    for (key, value) in settings.resource() {
        add(key, Value::Str(value.to_owned()));
    }
    for (key, value) in attributes {
        add(&key, value);
    }
    for (key, value) in [
        ("telemetry.sdk.name", "spanring"),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ] {
        add(key, Value::Str(value.to_owned()));
    }
    resource
}

/// Why a pipeline could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Another pipeline is installed in this process.
    AlreadyInstalled,
    /// There is neither a sink nor a directory.
    NoSink,
    /// The directory for segments cannot be used.
    Directory(crate::segment::SegmentError),
    /// The endpoint, or a file that it needs, cannot be used; what is wrong and what to do.
    Otlp(String),
    /// What is sent to OpenAI cannot be; what is wrong and what to do.
    OpenAi(String),
    /// The compressor cannot be had.
    Encoder(String),
    /// The event queue cannot be had.
    Events(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::AlreadyInstalled => f.write_str(
                "another pipeline is installed in this process; shut it down first, or use `build` and \
                 `attach` for a second one",
            ),
            StartError::NoSink => f.write_str(
                "the pipeline has no sink; add one with `sink`, set SPANRING_ENDPOINT to a receiver of \
                 OTLP, SPANRING_OPENAI to true with a key, or SPANRING_DIR to a directory for local segments",
            ),
            StartError::Directory(error) => write!(f, "{error}"),
            StartError::Otlp(message) | StartError::OpenAi(message) => f.write_str(message),
            StartError::Encoder(error) => write!(f, "the batch encoder cannot be made: {error}"),
            StartError::Events(error) => {
                write!(f, "the flusher's event queue cannot be made: {error}; are file descriptors left?")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Directory(error) => Some(error),
            StartError::Events(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// What was asked for between the flusher's last look and its sleep finds it awake, so nobody wakes it.
    #[test]
    fn the_flusher_does_not_sleep_over_what_it_was_asked_before() {
        let asked: [fn(&Shared); 2] = [
            |shared| shared.stopping.store(true, Ordering::Release),
            |shared| shared.sinks_change.store(true, Ordering::Release),
        ];
        for ask in asked {
            let settings = Settings::builder().ignore_environment().build();
            let builder = Pipeline::builder().settings(settings).sink(crate::MemorySink::new());
            let pipeline = builder.build().unwrap();
            let mut flusher = lock(&pipeline.shared.waiting).take().unwrap();
            ask(&pipeline.shared);
            let (awake, woken) = mpsc::channel();
            std::thread::spawn(move || {
                flusher.wait();
                let _ = awake.send(flusher);
            });
            let flusher = woken.recv_timeout(Duration::from_secs(10));
            *lock(&pipeline.shared.waiting) = Some(flusher.expect("it sleeps"));
            pipeline.shared.stopping.store(false, Ordering::Release);
            pipeline.shared.sinks_change.store(false, Ordering::Release);
            pipeline.shutdown(Duration::from_secs(10)).unwrap();
        }
    }

    #[test]
    fn a_subscription_that_the_flusher_never_took_ends_with_it() {
        let settings = Settings::builder().ignore_environment().build();
        let builder = Pipeline::builder().settings(settings).sink(crate::MemorySink::new());
        let pipeline = builder.build().unwrap();
        // It would take the subscription.
        let flusher = lock(&pipeline.shared.waiting).take();
        let subscription = pipeline.subscribe(1);
        assert!(!subscription.is_ended());
        pipeline.shared.stopped();
        assert!(subscription.is_ended() && pipeline.subscribe(1).is_ended());
        lock(&pipeline.shared.state).stopped = false;
        *lock(&pipeline.shared.waiting) = flusher;
        pipeline.shutdown(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn two_sinks_with_one_spool_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = |dir: bool| {
            let builder = Settings::builder().ignore_environment();
            if dir { builder.dir(directory.path()).build() } else { builder.build() }
        };
        let named = |name: &str, key: u32| {
            let url = format!("http://127.0.0.1:9/v1/traces?key={key}");
            OtlpOptions { name: name.to_owned(), ..OtlpOptions::new(url) }
        };
        let build = |dir, second| {
            Pipeline::builder()
                .settings(settings(dir))
                .otlp(named("otlp", 1))
                .otlp(named(second, 2))
                .build()
        };
        let Err(StartError::Otlp(message)) = build(true, "otlp") else { panic!("it is taken") };
        assert!(message.contains("127.0.0.1:9") && !message.contains("key"), "{message}");
        assert!(build(false, "otlp").is_ok(), "without DIR they share nothing");
        let pipeline = build(true, "other").unwrap();
        assert!(pipeline.add_otlp(named("other", 3)).is_err());
        pipeline.remove_sink("other");
        // One that cannot be opened is not there either.
        let spool = directory.path().join("spool").join(named("other", 3).spool_key());
        std::fs::remove_dir(&spool).unwrap();
        std::fs::write(&spool, "in the way").unwrap();
        let error = pipeline.add_otlp(named("other", 3)).unwrap_err();
        assert!(matches!(error, StartError::Directory(_)), "{error}");
        std::fs::remove_file(&spool).unwrap();
        pipeline.add_otlp(named("other", 3)).unwrap();
        assert!(pipeline.add_otlp(named("other", 3)).is_err());
    }
}
