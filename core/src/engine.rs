//! The engine: what the threads that record spans and the flusher that drains them share.
//!
//! An engine is made once a pipeline and never freed (a few kilobytes), so that a span may end long
//! after its pipeline was shut down, on any thread, and find valid memory.
//!
//! Conservation: created = sealed + dropped + resident. Created spans are counted by the heads of the
//! rings and by the drop counters; sealed ones by the drainer.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::budget::{Budget, Taken};
use crate::context::Keys;
use crate::id::IdKeys;
use crate::limits::{LimitValues, SpanLimits, VALUE_LENGTH_UNLIMITED};
use crate::park::{self, Park};
use crate::pool::{Bytes, SEGMENT_BYTES, SegmentPool};
use crate::profile::Profile;
use crate::ring::{Host, Refused};
use crate::room::Room;
use crate::rules::{Details, Levels, Rules};
use crate::sampler::{Sampler, Sampling};
use crate::settings::{Detail, Level, RootSampler};
use crate::thread::{self, ThreadRing};
use crate::ticket::{Tickets, Wait};

/// Why a span was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Reason {
    /// `MAX_SPANS` spans were resident.
    Budget,
    /// No ring memory could be had under `MAX_BYTES`.
    RingFull,
    /// The span's attributes, events and links did not fit under `MAX_BYTES`.
    ValueTooLarge,
    /// The span ended inside the engine itself: in a signal handler, a hook or a sink.
    ReEntrant,
    /// The pipeline was shut down.
    ShutDown,
    /// The flusher could not encode the span's batch.
    Encode,
    /// A processor of the pipeline said so.
    Processor,
    /// The level `minimal` has only spans with an error there.
    ByRule,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = 8;
    /// All reasons, in the order of their numbers.
    pub const ALL: [Reason; Self::COUNT] = [
        Reason::Budget,
        Reason::RingFull,
        Reason::ValueTooLarge,
        Reason::ReEntrant,
        Reason::ShutDown,
        Reason::Encode,
        Reason::Processor,
        Reason::ByRule,
    ];

    /// The reason's name in stats and batches.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Budget => "budget",
            Reason::RingFull => "ring_full",
            Reason::ValueTooLarge => "value_too_large",
            Reason::ReEntrant => "re_entrant",
            Reason::ShutDown => "shut_down",
            Reason::Encode => "encode",
            Reason::Processor => "processor",
            Reason::ByRule => "by_rule",
        }
    }
}

/// Dropped spans, by [`Reason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped(pub [u64; Reason::COUNT]);

impl Dropped {
    /// Over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Those that nobody asked to be dropped.
    pub fn unasked(&self) -> u64 {
        self.total() - self.0[Reason::Processor as usize] - self.0[Reason::ByRule as usize]
    }

    /// Those that were never recorded.
    fn refused(&self) -> u64 {
        self.total() - self.after_recording()
    }

    /// Those that were recorded and then dropped by the flusher.
    pub(crate) fn after_recording(&self) -> u64 {
        self.0[Reason::Encode as usize] + self.0[Reason::Processor as usize]
    }

    /// Names and counts, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().zip(self.0)
    }
}

/// What an engine is made with, and what can change while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Spans that may be resident.
    pub max_spans: usize,
    /// Bytes that rings, large values and sealed batches may take.
    pub max_bytes: usize,
    /// Spans a batch.
    pub batch_size: usize,
    /// Whether children follow their parents' sampling.
    pub parent_based: bool,
    /// How roots are sampled.
    pub sampler: RootSampler,
    /// What decides before that.
    pub rules: Rules,
    /// Which spans there are.
    pub level: Level,
    /// The same for scopes and names.
    pub levels: Levels,
    /// What decides at the level `smart` where no rule does.
    pub smart_rest: RootSampler,
    /// How much detail there is.
    pub detail: Detail,
    /// The same for scopes and names.
    pub details: Details,
    /// Spans are not created at all.
    pub disabled: bool,
    /// How many milliseconds a thread waits that finds no room for its span, before the span is dropped; 0: it does not.
    pub overflow_wait: u32,
    /// Attributes a span.
    pub attribute_count: u32,
    /// Characters of a string value, or bytes of a bytes value.
    pub attribute_value_length: u64,
    /// Events a span.
    pub event_count: u32,
    /// Links a span.
    pub link_count: u32,
    /// Attributes an event.
    pub event_attribute_count: u32,
    /// Attributes a link.
    pub link_attribute_count: u32,
}

impl EngineOptions {
    fn sampling(&self) -> Sampling {
        Sampling {
            parent_based: self.parent_based,
            root: self.sampler,
            rules: self.rules.clone(),
            level: self.level,
            levels: self.levels.clone(),
            smart_rest: self.smart_rest,
            detail: self.detail,
            details: self.details.clone(),
        }
    }

    fn limits(&self) -> LimitValues {
        LimitValues {
            attribute_count: self.attribute_count,
            attribute_value_length: self.attribute_value_length.min(VALUE_LENGTH_UNLIMITED),
            event_count: self.event_count,
            link_count: self.link_count,
            event_attribute_count: self.event_attribute_count,
            link_attribute_count: self.link_attribute_count,
        }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            max_spans: 65_536,
            max_bytes: 64 << 20,
            batch_size: 512,
            parent_based: true,
            sampler: RootSampler::AlwaysOn,
            rules: Rules::default(),
            level: Level::Full,
            levels: Levels::default(),
            smart_rest: RootSampler::AlwaysOn,
            detail: Detail::Basic,
            details: Details::default(),
            disabled: false,
            overflow_wait: 0,
            attribute_count: 128,
            attribute_value_length: u64::MAX,
            event_count: 128,
            link_count: 128,
            event_attribute_count: 128,
            link_attribute_count: 128,
        }
    }
}

impl Bytes for SpanLimits {
    fn reserve(&self, bytes: usize) -> bool {
        self.reserve_bytes(bytes)
    }

    fn release(&self, bytes: usize) {
        self.release_bytes(bytes);
    }
}

/// Rings that the flusher knows, and the counts of those that are gone.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) rings: Vec<RingPtr>,
    /// Records of rings that are gone.
    pub(crate) ended_recorded: u64,
}

/// A ring that the engine has not left yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingPtr(pub(crate) *const ThreadRing);

// SAFETY: what other threads read of a ring through it are atomics and fields that never change.
unsafe impl Send for RingPtr {}

impl RingPtr {
    pub(crate) fn get(&self) -> &ThreadRing {
        // SAFETY: a ring is in the registry only until the engine leaves it.
        unsafe { &*self.0 }
    }
}

/// The list of new rings from one of them on. It stays as it is while the registry is locked, but for
/// rings that are put before it.
struct Incoming(*mut ThreadRing);

impl Iterator for Incoming {
    type Item = RingPtr;

    fn next(&mut self) -> Option<RingPtr> {
        if self.0.is_null() || self.0 == CLOSED_LIST {
            return None;
        }
        let ring = RingPtr(self.0);
        // SAFETY: on the list, so the engine has not left it; the Acquire access that gave the list's
        // head pairs with the exchange in `register`, so `next` is set.
        self.0 = unsafe { (*self.0).next.load(Ordering::Relaxed) };
        Some(ring)
    }
}

type Waker = Box<dyn Fn() + Send + Sync>;

/// See the module. Made by the pipeline; instrumented code does not meet it.
pub struct Engine {
    pub(crate) limits: SpanLimits,
    pub(crate) budget: Budget,
    pub(crate) pool: SegmentPool,
    pub(crate) park: Park,
    pub(crate) tickets: Tickets,
    pub(crate) room: Room,
    overflow_wait: AtomicU32,
    waited: AtomicU64,
    waited_in_vain: AtomicU64,
    waker: OnceLock<Waker>,
    wakes: AtomicU64,
    sampler: ArcSwap<Sampler>,
    /// Whether it is among those that [`Engine::attributes_matter`] counts.
    looks_at_attributes: AtomicBool,
    profile: ArcSwapOption<Profile>,
    disabled: AtomicBool,
    closed: AtomicBool,
    /// New rings, newest first; `CLOSED_LIST` once none is taken any more.
    incoming: AtomicPtr<ThreadRing>,
    pub(crate) registry: Mutex<Registry>,
    dropped: [AtomicU64; Reason::COUNT],
    pub(crate) sealed: AtomicU64,
    pub(crate) resident_max: AtomicU64,
    pub(crate) critical: AtomicU32,
    keys: &'static Keys,
    generation: u32,
    options: Mutex<EngineOptions>,
}

const CLOSED_LIST: *mut ThreadRing = std::ptr::without_provenance_mut(1);

/// Engines whose sampler looks at attributes; see [`Engine::attributes_matter`]. It says no late at worst for a span that starts while the
/// settings change.
static ATTRIBUTES_MATTER: AtomicU32 = AtomicU32::new(0);

/// The engine of `span!`, if one is installed.
static INSTALLED: AtomicPtr<Engine> = AtomicPtr::new(std::ptr::null_mut());

pub(crate) fn installed() -> Option<&'static Engine> {
    // SAFETY: null, or an engine, which is never freed.
    unsafe { INSTALLED.load(Ordering::Acquire).as_ref() }
}

pub(crate) fn forget_installed() {
    INSTALLED.store(std::ptr::null_mut(), Ordering::Release);
    thread::bump_epoch();
}

impl Engine {
    /// Whether the sampler of some engine looks at attributes that spans start with.
    pub fn attributes_matter() -> bool {
        ATTRIBUTES_MATTER.load(Ordering::Relaxed) != 0
    }

    fn set_looks_at_attributes(&self, looks: bool) {
        if self.looks_at_attributes.swap(looks, Ordering::Relaxed) != looks {
            match looks {
                true => ATTRIBUTES_MATTER.fetch_add(1, Ordering::Relaxed),
                false => ATTRIBUTES_MATTER.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }

    /// Makes an engine. It is never freed.
    pub fn start(options: &EngineOptions) -> &'static Engine {
        crate::fork::init();
        crate::sync::barrier::init();
        crate::clock::ticks();
        let engine = Box::leak(Box::new(Engine {
            limits: SpanLimits::zero(),
            budget: Budget::new(options.max_spans, options.batch_size),
            pool: SegmentPool::new((options.max_bytes / SEGMENT_BYTES).clamp(4, 1 << 20)),
            park: Park::new(),
            tickets: Tickets::new(),
            room: Room::new(),
            overflow_wait: AtomicU32::new(options.overflow_wait),
            waited: AtomicU64::new(0),
            waited_in_vain: AtomicU64::new(0),
            waker: OnceLock::new(),
            wakes: AtomicU64::new(0),
            sampler: ArcSwap::from_pointee(Sampler::new(&options.sampling())),
            looks_at_attributes: AtomicBool::new(false),
            profile: ArcSwapOption::empty(),
            disabled: AtomicBool::new(options.disabled),
            closed: AtomicBool::new(false),
            incoming: AtomicPtr::new(std::ptr::null_mut()),
            registry: Mutex::default(),
            dropped: [const { AtomicU64::new(0) }; Reason::COUNT],
            sealed: AtomicU64::new(0),
            resident_max: AtomicU64::new(0),
            critical: AtomicU32::new(0),
            keys: crate::fork::keys(),
            generation: crate::fork::generation(),
            options: Mutex::new(options.clone()),
        }));
        engine.limits.set(&options.limits());
        engine.limits.add_bytes(options.max_bytes as i64);
        engine.set_looks_at_attributes(engine.sampler.load().looks_at_attributes());
        thread::bump_epoch();
        engine
    }

    /// Changes the options while threads record. `max_bytes` raised above its first value raises the
    /// budget of large values only: the table of ring segments keeps its size.
    pub fn reconfigure(&'static self, options: &EngineOptions) {
        let mut current = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        self.limits.set(&options.limits());
        self.limits.add_bytes(options.max_bytes as i64 - current.max_bytes as i64);
        if (options.max_spans, options.batch_size) != (current.max_spans, current.batch_size) {
            self.budget.resize(options.max_spans, options.batch_size);
        }
        // Its state stays, unless it is another one.
        if options.sampling() != current.sampling() {
            let sampler = Sampler::new(&options.sampling());
            self.set_looks_at_attributes(sampler.looks_at_attributes() && !self.is_closed());
            self.sampler.store(sampler.into());
        }
        self.disabled.store(options.disabled, Ordering::Relaxed);
        self.overflow_wait.store(options.overflow_wait, Ordering::Relaxed);
        *current = options.clone();
        thread::bump_epoch();
    }

    /// The options in force.
    pub fn options(&self) -> EngineOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes this the engine of `span!` on every thread. False if another one is installed and open.
    #[must_use]
    pub fn install(&'static self) -> bool {
        let new = std::ptr::from_ref(self).cast_mut();
        let done = INSTALLED.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            // SAFETY: null, or an engine, which is never freed.
            let open = unsafe { old.as_ref() }.is_some_and(|old| !old.is_closed());
            (!open || old == new).then_some(new)
        });
        thread::bump_epoch();
        done.is_ok()
    }

    /// Makes this the engine of `span!` on the calling thread until the guard is dropped.
    pub fn attach(&'static self) -> Attached {
        let before = thread::local().attach(self);
        Attached { before, not_send: std::marker::PhantomData }
    }

    /// Takes back every [`attach`](Self::attach) on the calling thread: for the C ABI, which has no guards for it.
    #[doc(hidden)]
    pub fn __detach() {
        thread::local().attach(std::ptr::null());
    }

    /// Has `wake` called when the flusher must come back from its sleep. Only the first call counts.
    pub fn set_waker(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Box::new(wake));
    }

    /// The calling thread becomes the flusher: spans that begin on it are refused and counted.
    pub fn enter_flusher(&self) {
        thread::local().suppress();
    }

    /// Undoes [`enter_flusher`](Self::enter_flusher), on a thread that stood in for the flusher.
    pub fn leave_flusher(&self) {
        thread::local().unsuppress();
    }

    /// Whether the calling thread is a flusher.
    pub fn is_flusher_thread(&self) -> bool {
        thread::local().is_suppressed()
    }

    /// Whether this engine belongs to a process of which this one is a fork child. Nobody will flush it.
    pub fn is_from_parent(&self) -> bool {
        crate::fork::generation() != self.generation
    }

    /// The keys of the IDs.
    pub fn id_keys(&self) -> &'static IdKeys {
        &self.keys.ids
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    /// Whether the engine takes no more spans.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The engine takes no more spans from now on; those that end are counted as dropped.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.set_looks_at_attributes(false);
        thread::bump_epoch();
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the hot path's copy of the settings into `ring`.
    pub(crate) fn configure(&self, ring: &ThreadRing) {
        let sampler = self.sampler.load();
        ring.keys.set(self.keys);
        ring.is_inherited.set(sampler.is_inherited());
        ring.root_mode.set(sampler.mode());
        let profiles = self.profile.load().is_some();
        ring.profiles.set(profiles);
        let short =
            crate::clock::is_counter() && crate::sync::barrier::is_light_free() && !profiles;
        ring.short_end.set(if short { self } else { std::ptr::null() });
        ring.short_root.set(if short { crate::span::root_flags(sampler.mode()) } else { 0 });
        ring.short_child.set(short && sampler.is_inherited());
    }

    /// Takes the names of the spans whose growth of memory is an attribute of theirs: patterns with commas.
    pub fn set_memory_profile(&self, patterns: &str) {
        let profile = Profile::new(patterns).map(std::sync::Arc::new);
        if profile.is_some() || self.profile.load().is_some() {
            self.profile.store(profile);
            thread::bump_epoch();
        }
    }

    /// Whether a span of that name is in the memory profile.
    pub(crate) fn profiles(&self, name: &str) -> bool {
        self.profile.load().as_ref().is_some_and(|profile| profile.wants(name))
    }

    pub(crate) fn sampler(&self) -> arc_swap::Guard<std::sync::Arc<Sampler>> {
        self.sampler.load()
    }

    /// Adds a new ring; false if the engine takes none any more.
    pub(crate) fn register(&self, ring: *mut ThreadRing) -> bool {
        let added = self.incoming.fetch_update(Ordering::AcqRel, Ordering::Acquire, |head| {
            if head == CLOSED_LIST {
                return None;
            }
            // SAFETY: the ring is not shared before the exchange succeeds.
            unsafe { (*ring).next.store(head, Ordering::Relaxed) };
            Some(ring)
        });
        if added.is_ok() {
            self.budget.thread_started();
        }
        added.is_ok()
    }

    /// Whether a new ring waits to be taken.
    pub(crate) fn has_incoming(&self) -> bool {
        !self.incoming.load(Ordering::Acquire).is_null()
    }

    /// Moves the new rings to the registry and returns them; with `close`, none comes afterwards.
    pub(crate) fn take_incoming(&self, close: bool) -> Vec<RingPtr> {
        if !close && !self.has_incoming() {
            return Vec::new();
        }
        let new = if close { CLOSED_LIST } else { std::ptr::null_mut() };
        // Whoever holds the registry finds every ring in it or on the list.
        let mut registry = self.registry();
        // Only the flusher takes, so a closed list is not reopened here.
        let rings: Vec<_> = Incoming(self.incoming.swap(new, Ordering::AcqRel)).collect();
        registry.rings.extend_from_slice(&rings);
        rings
    }

    /// All rings that the engine has not left: those of the registry, and those that it has not met.
    fn live_rings(&self, registry: &Registry) -> impl Iterator<Item = RingPtr> {
        let incoming = Incoming(self.incoming.load(Ordering::Acquire));
        registry.rings.iter().copied().chain(incoming)
    }

    /// Counts a span that is created and dropped at once.
    #[cold]
    pub(crate) fn count_drop(&self, ring: Option<&ThreadRing>, reason: Reason) {
        if let Some(ring) = ring {
            let count = &ring.dropped[reason as usize];
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Spans that were dropped so far.
    pub fn dropped(&self) -> Dropped {
        Dropped(std::array::from_fn(|reason| self.dropped[reason].load(Ordering::Relaxed)))
    }

    /// Wakes the flusher.
    pub(crate) fn wake(&self, reason: park::Reason) {
        if self.park.must_wake(reason)
            && let Some(wake) = self.waker.get()
        {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            wake();
        }
    }

    /// A span in `ring` asked to be sealed at once. The Release stores come after its record, and each pairs with an
    /// Acquire in [`Drainer::mark_critical`](crate::export::Drainer::mark_critical): the flusher finds the ring, and there the span.
    pub(crate) fn critical_recorded(&self, ring: &ThreadRing) {
        ring.critical.store(1, Ordering::Release);
        // A swap, so that whoever finds this one finds the marks of those before it as well.
        self.critical.swap(1, Ordering::Release);
        self.wake(park::Reason::Now);
    }

    /// What a thread does whose record was refused, each time it was: true if it is to try again. `waiting` is `None` at first, and
    /// goes with the last try. It waits only for what the flusher can mend, for as long as the settings say.
    #[cold]
    #[inline(never)]
    pub(crate) fn waits<'a>(
        &'static self,
        ring: &'a ThreadRing,
        refused: Refused,
        waiting: &mut Option<Waiting<'a>>,
    ) -> bool {
        if !matches!(refused, Refused::Budget | Refused::RingFull) || self.is_from_parent() {
            return false;
        }
        let Some(waiting) = waiting else {
            let patience = self.overflow_wait.load(Ordering::Relaxed);
            if patience == 0 || ring.waits.get() || self.room.is_stuck() {
                return false;
            }
            let deadline = Instant::now() + Duration::from_millis(patience.into());
            *waiting = Some(Waiting::new(self, ring, deadline));
            return true;
        };
        self.wake(park::Reason::Now);
        match self.room.sleep(waiting.seen, Some(waiting.deadline)) {
            Some(seen) => {
                waiting.seen = seen;
                waiting.saw_room = true;
                true
            }
            None => {
                self.waited_in_vain.fetch_add(1, Ordering::Relaxed);
                if !waiting.saw_room {
                    self.room.set_stuck();
                }
                false
            }
        }
    }

    /// Asks the flusher to hand over everything recorded before this call, and waits for it.
    ///
    /// # Errors
    ///
    /// See [`FlushError`].
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        if self.is_from_parent() {
            return Err(FlushError::Forked);
        }
        if thread::local().is_suppressed() {
            return Err(FlushError::WouldDeadlock);
        }
        let ticket = self.tickets.request();
        self.wake(park::Reason::Now);
        match self.tickets.wait(ticket, timeout) {
            Wait::Done => Ok(()),
            Wait::TimedOut => Err(FlushError::TimedOut),
            Wait::Closed => Err(FlushError::ShutDown),
        }
    }

    /// The flusher that was woken could not be started: it counts as asleep again, so the next one who
    /// needs it tries again.
    pub fn flusher_not_started(&self) {
        self.park.prepare(true);
    }

    /// Wakes the flusher, which then looks at what it was asked.
    pub fn wake_now(&self) {
        self.wake(park::Reason::Now);
    }

    /// What has been counted.
    pub fn stats(&self) -> EngineStats {
        let sealed = self.sealed.load(Ordering::Acquire);
        let registry = self.registry();
        let mut recorded = registry.ended_recorded;
        let threads: Vec<_> = self
            .live_rings(&registry)
            .map(|ring| {
                let ring = ring.get();
                let dropped = std::array::from_fn(|i| ring.dropped[i].load(Ordering::Relaxed));
                recorded += ring.ring.head();
                ThreadStats {
                    thread_id: ring.thread_id,
                    recorded: ring.ring.head(),
                    dropped: Dropped(dropped),
                }
            })
            .collect();
        drop(registry);
        let dropped = self.dropped();
        let mut ended = dropped;
        for thread in &threads {
            for (ended, live) in ended.0.iter_mut().zip(thread.dropped.0) {
                *ended = ended.saturating_sub(live);
            }
        }
        EngineStats {
            created: recorded + dropped.refused(),
            sealed,
            dropped,
            resident: recorded.saturating_sub(sealed + dropped.after_recording()),
            resident_max: self.resident_max.load(Ordering::Relaxed),
            ended_threads_dropped: ended,
            threads,
            attributes_dropped: self.limits.attributes_dropped(),
            ring_bytes: self.pool.allocated() * SEGMENT_BYTES,
            bytes_free: self.limits.bytes_free().max(0) as u64,
            waited: self.waited.load(Ordering::Relaxed),
            waited_in_vain: self.waited_in_vain.load(Ordering::Relaxed),
            flusher_is_stuck: self.room.is_stuck(),
            // Read last, so that `created` is not ahead of it.
            spans_free: self.budget.free().max(0) as u64,
            wakes: self.wakes.load(Ordering::Relaxed),
        }
    }

    /// Spans created, and spans dropped, so far.
    pub fn totals(&self) -> Totals {
        let registry = self.registry();
        let live: u64 = self.live_rings(&registry).map(|ring| ring.get().ring.head()).sum();
        let recorded = registry.ended_recorded + live;
        drop(registry);
        let dropped = self.dropped();
        Totals { created: recorded + dropped.refused(), dropped }
    }

    /// Takes `bytes` from the byte budget, for sealed batches and queues; false if fewer than `left` would stay free,
    /// which rings and large values need.
    #[must_use]
    pub fn reserve_bytes(&self, bytes: usize, left: u64) -> bool {
        self.limits.reserve_bytes_but(bytes, left)
    }

    /// Gives bytes back.
    pub fn release_bytes(&self, bytes: usize) {
        self.limits.release_bytes(bytes);
    }

    /// Adds to the drops that the flusher met.
    pub(crate) fn count_flusher_drops(&self, reason: Reason, spans: u64) {
        self.dropped[reason as usize].fetch_add(spans, Ordering::Relaxed);
    }
}

/// A thread that waits for room.
pub(crate) struct Waiting<'a> {
    engine: &'static Engine,
    ring: &'a ThreadRing,
    deadline: Instant,
    seen: u64,
    /// The flusher has made room since, though others had it.
    saw_room: bool,
}

impl<'a> Waiting<'a> {
    fn new(engine: &'static Engine, ring: &'a ThreadRing, deadline: Instant) -> Self {
        ring.waits.set(true);
        engine.waited.fetch_add(1, Ordering::Relaxed);
        Waiting { engine, ring, deadline, seen: engine.room.enter(), saw_room: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.engine.room.leave();
        self.ring.waits.set(false);
    }
}

impl Host for &'static Engine {
    type Bytes = SpanLimits;

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn pool(&self) -> &SegmentPool {
        &self.pool
    }

    fn bytes(&self) -> &SpanLimits {
        &self.limits
    }

    fn credits_taken(&self, taken: Taken) {
        self.wake(if taken.pressure { park::Reason::Now } else { park::Reason::Active });
    }
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Budget => Reason::Budget,
            Refused::RingFull => Reason::RingFull,
            Refused::ReEntrant => Reason::ReEntrant,
            Refused::Closed => Reason::ShutDown,
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// 128 bits from the operating system's random source.
pub fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    crate::platform::random(&mut bytes);
    u128::from_ne_bytes(bytes)
}

/// Undoes [`Engine::attach`] when dropped.
#[derive(Debug)]
#[must_use = "the engine is attached only as long as this lives"]
pub struct Attached {
    before: *const Engine,
    not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        thread::local().attach(self.before);
    }
}

/// Why a flush or a shutdown did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushError {
    /// It was called on the flusher's own thread, which cannot wait for itself.
    WouldDeadlock,
    /// The time was up. What was recorded stays with the flusher, which goes on.
    TimedOut,
    /// The pipeline has been shut down.
    ShutDown,
    /// This process is a fork child, and the pipeline is its parent's.
    Forked,
}

impl std::fmt::Display for FlushError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FlushError::WouldDeadlock => {
                "flush was called on the flusher's own thread, where it would wait for itself; call it \
                 on another thread"
            }
            FlushError::TimedOut => {
                "the time was up before everything was handed over; the flusher goes on with it"
            }
            FlushError::ShutDown => "the pipeline has been shut down; there is nothing left to flush",
            FlushError::Forked => {
                "this process is a fork child and the pipeline is its parent's; install one of its own"
            }
        })
    }
}

impl std::error::Error for FlushError {}

/// What one live thread has recorded and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadStats {
    /// The operating system's number of the thread.
    pub thread_id: u64,
    /// Spans recorded.
    pub recorded: u64,
    /// Spans dropped.
    pub dropped: Dropped,
}

/// Spans created and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Spans that ended recording.
    pub created: u64,
    /// Spans dropped, by reason.
    pub dropped: Dropped,
}

/// What an engine has counted. `created = sealed + dropped + resident`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStats {
    /// Spans that ended recording.
    pub created: u64,
    /// Spans in sealed batches.
    pub sealed: u64,
    /// Spans dropped, by reason.
    pub dropped: Dropped,
    /// Spans recorded and not yet sealed.
    pub resident: u64,
    /// Most spans resident at once, as the flusher saw it.
    pub resident_max: u64,
    /// Live threads.
    pub threads: Vec<ThreadStats>,
    /// Drops of threads that have ended, and of none in particular.
    pub ended_threads_dropped: Dropped,
    /// Attributes that limits or missing memory kept out of spans.
    pub attributes_dropped: u64,
    /// Spans whose threads waited for room, as `OVERFLOW` asks for.
    pub waited: u64,
    /// Those of them for which there was none in time, so that they were dropped.
    pub waited_in_vain: u64,
    /// The flusher made no room while a thread waited as long as `OVERFLOW` says; until it does, nobody waits.
    pub flusher_is_stuck: bool,
    /// Bytes of ring segments.
    pub ring_bytes: usize,
    /// Bytes of `MAX_BYTES` that are free.
    pub bytes_free: u64,
    /// Spans of `MAX_SPANS` that are neither resident nor set aside for a thread.
    pub spans_free: u64,
    /// How often the flusher was woken: by the first span after it fell asleep, under pressure on the budget, for a
    /// critical span, a flush, or the end.
    pub wakes: u64,
}
