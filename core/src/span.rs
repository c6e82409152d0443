//! Spans: [`SpanGuard`], which `span!` gives, and [`Span`], which moves between threads.
//!
//! A span under construction is a block of memory that its owner holds by a pointer: 8 bytes to move,
//! wherever it goes. Blocks come from a chain that each thread keeps, so none is allocated in steady
//! state; the chain is the stack of current contexts, too, so that a span begins by one step up and ends
//! by one step down ([`Frame`]). Starting a span reads the clock and takes a counter; ending it reads the
//! clock again and writes one record into the thread's ring. Only its thread's chain points at the block
//! of a guard, and a guard stays on its thread; a leaked one's block is never used again. So leaking a
//! span is safe: it is then never recorded.

mod asked;
mod builder;

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::SystemTime;

use crate::call_site::{AttributeList, Known};
use crate::context::{Ctx, Keys, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState, bit};
use crate::engine::{Engine, Reason};
use crate::intern::StaticStr;
use crate::record::{
    Attributes, Cell, Header, INLINE_WORDS_MAX, LinkWords, Payload, block_to_words, flag,
};
use crate::sampler::Mode;
use crate::thread::{Frame, Local, Ready, ThreadRing, epoch, local};
use crate::{AtStart, IntoValue, Key, clock};
pub(crate) use asked::settle;
use asked::{Asked, With};
pub use builder::SpanBuilder;

const SAMPLED: u32 = bit::trace_flags(TraceFlags::SAMPLED);
const RANDOM: u32 = bit::trace_flags(TraceFlags::RANDOM);

/// A span that is being made: ended when dropped, on whichever thread.
///
/// It is not current by itself; see [`enter`](Self::enter) and
/// [`Instrument`](crate::Instrument). As large as a pointer.
///
/// # What happens if…
///
/// - *a span ends twice*: it cannot; ending takes it by value.
/// - *guards are dropped out of order*: the outer one restores what was current before it; the inner
///   ones restore nothing. All are recorded, with the parents that they began with.
/// - *a guard is leaked*: its span is not recorded, and it stays current until an outer guard ends.
/// - *a span ends on another thread*: it is recorded there. Guards cannot move; [`Span`]s can.
/// - *a span ends after shutdown*: it is counted as dropped (`shut_down`). One that starts after
///   shutdown does not record and is counted likewise.
/// - *a span starts in a thread-local's destructor*: it records like any other, only slower.
/// - *a span starts on the flusher's thread, or ends inside the engine* (a sink, a signal handler): it
///   is counted as dropped (`re_entrant`).
/// - *a span begun before a fork ends in the child*: it writes nothing there; its context stays usable
///   as a parent.
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    /// `None` for a span that does nothing.
    block: Option<NonNull<Block>>,
}

/// A span's memory, while it lives and while it waits in a thread's chain for the next one.
///
/// Some fields last from one span to the next, so that the usual start need not write them: once the block
/// is [ready](Frame::ready), and while it waits, the context has the keys of the thread's ring and no
/// tracestate, the engine is the ring's, and the payload is empty.
#[repr(C)]
pub(crate) struct Block {
    /// The span's context, and its place in the thread's chain, which reaches it by its own pointer.
    frame: Frame,
    own: Own,
}

/// What only the span's owner uses.
///
/// Fields that the record has, too, are kept in its form. Words that lie side by side in the record do
/// not here, nor in [`Ctx`]: they would be copied in pairs, and a pair that was written as two words a
/// moment ago takes longer to read than all the rest of an end.
#[repr(C)]
struct Own {
    /// Null in a block that has never been a span's, and for a context without a span.
    engine: *const Engine,
    start: u64,
    /// Name, trace flags and flags.
    place: Place,
    parent: u64,
    /// Given by the user, with `flag::END_WALL`.
    end: u64,
    /// Kind, status and scope.
    kinds: Kinds,
    payload: MaybeUninit<Payload>,
}

/// Name, trace flags and flags of a record, as they lie in its header: written and copied as one word.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    /// `flags` are a context's ([`Ctx::flags`]), which lie as the record's do.
    #[inline(always)]
    fn new(name: u32, flags: u32) -> Self {
        Place(u64::from(name) | u64::from(flags) << 32)
    }

    fn name(self) -> u32 {
        self.0 as u32
    }

    fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }

    fn set_name(&mut self, name: u32) {
        self.0 = self.0 >> 32 << 32 | u64::from(name);
    }

    fn add_flag(&mut self, flag: u16) {
        self.0 |= u64::from(flag) << 48;
    }

    fn remove_flag(&mut self, flag: u16) {
        self.0 &= !(u64::from(flag) << 48);
    }
}

/// Kind, status and scope of a record, likewise; the number of its payload's words is put between.
#[derive(Clone, Copy)]
struct Kinds(u64);

impl Kinds {
    #[inline(always)]
    fn new(kind: SpanKind, scope: u16) -> Self {
        Kinds(kind as u64 | u64::from(scope) << 32)
    }

    fn kind(self) -> SpanKind {
        SpanKind::from_number(self.0 as u8 & 0xf).unwrap_or_default()
    }

    fn scope(self) -> u16 {
        (self.0 >> 32) as u16
    }

    fn status(self) -> u8 {
        (self.0 >> 4) as u8 & 0xf
    }

    fn set_kind(&mut self, kind: SpanKind) {
        self.0 = self.0 & !0xf | kind as u64;
    }

    fn set_status(&mut self, status: StatusCode) {
        self.0 = self.0 & !0xf0 | (status as u64) << 4;
    }
}

#[cfg(target_endian = "big")]
compile_error!("`Place` and `Kinds` lie as in the header on little-endian machines only");
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Header, name) == 48 && offset_of!(Header, context) == 52);
    assert!(offset_of!(Header, trace_flags) == 53 && offset_of!(Header, flags) == 54);
    assert!(offset_of!(Header, kind_status) == 56 && offset_of!(Header, payload_words) == 58);
    assert!(offset_of!(Header, scope) == 60);
    assert!(offset_of!(Header, trace_hi) == 8 && offset_of!(Header, span) == 16);
    assert!(offset_of!(Header, parent) == 24 && offset_of!(Header, start) == 32);
    assert!(offset_of!(Header, end) == 40);
};

// SAFETY: `engine` is null or points to an engine, which is Sync and never freed; everything else in
// the block is owned by the span.
unsafe impl Send for Span {}
// SAFETY: shared references to a span read only.
unsafe impl Sync for Span {}

/// A name at a call site.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    Static(&'static StaticStr),
    Key(Key<'a>),
}

impl Name<'_> {
    fn text(&self) -> &str {
        match self {
            Name::Static(name) => name.text(),
            Name::Key(Key::Interned(name)) => name.as_str(),
            Name::Key(Key::Str(name)) => name,
        }
    }
}

/// What a [`Span`] and a [`SpanGuard`] can do alike. A guard does not give its span out by reference:
/// it could be swapped for another one and leave the thread on whose stack it is.
macro_rules! span_methods {
    () => {
        /// Whether the span will be recorded. Values for spans that will not need not be computed; a
        /// closure given as a value is not called then.
        #[inline(always)]
        pub fn is_recording(&self) -> bool {
            self.block.is_some_and(Block::is_recording)
        }

        /// Ends the span, of which nothing was set, as if it had never been: for the C ABI.
        #[doc(hidden)]
        #[cold]
        pub fn __discard(mut self) {
            if let Some(own) = self.recording() {
                own.payload().clear();
                // Not for the short way to the end, which knows an engine only as the ring's.
                own.payload().mark_special();
                own.engine = std::ptr::null();
            }
        }

        /// What identifies the span to its children.
        pub fn context(&self) -> SpanContext {
            self.block.map_or_else(SpanContext::default, |block| {
                // SAFETY: the block is ours, and every span has a context.
                SpanContext(unsafe { (*block.as_ptr()).frame.context.clone() })
            })
        }

        /// Sets an attribute; the last value of a key wins. Beyond the limit (128) it is dropped and
        /// counted on the span.
        pub fn set_attribute<'k>(
            &mut self,
            key: impl Into<Key<'k>>,
            value: impl IntoValue,
        ) -> &mut Self {
            if let Some(own) = self.recording() {
                own.payload().attribute_set(key.into(), value);
            }
            self
        }

        /// The attributes of a call site, whose keys are distinct and not yet set.
        #[doc(hidden)]
        #[inline(always)]
        pub fn __attributes<L: AttributeList>(&mut self, known: &Known, list: L) {
            let Some(own) = self.recording() else { return };
            if own.payload().has_room_for::<L>(known) {
                // SAFETY: there is room for all, and they are known.
                unsafe { own.payload().attributes_plain(list) }
                if L::HAS_PRIORITY {
                    own.payload().priority_set();
                }
            } else {
                self.attributes_each(known, list);
            }
        }

        /// As [`__attributes`](Self::__attributes), each by its own rules. The list is in memory only here, where its address is taken.
        #[inline(never)]
        fn attributes_each<L: AttributeList>(&mut self, known: &Known, list: L) {
            if self.recording().is_some_and(|own| own.payload().is_undecided()) {
                asked::settle(local(), &list);
            }
            if let Some(own) = self.recording() {
                known.update(&list);
                list.write_each(own.payload());
                if L::HAS_PRIORITY {
                    own.payload().priority_set();
                }
            }
        }

        /// Adds an event that happens now.
        pub fn add_event<'k>(&mut self, name: impl Into<Key<'k>>) -> &mut Self {
            self.add_event_with(name, |_| {})
        }

        /// Adds an event that happens now, with the attributes that `fill` sets.
        pub fn add_event_with<'k>(
            &mut self,
            name: impl Into<Key<'k>>,
            fill: impl FnOnce(&mut Attributes<'_>),
        ) -> &mut Self {
            if let Some(own) = self.recording() {
                own.payload().event(name.into(), clock::ticks(), false, fill);
            }
            self
        }

        /// Adds an event that happened at `time`.
        pub fn add_event_at<'k>(
            &mut self,
            name: impl Into<Key<'k>>,
            time: impl Into<WallTime>,
            fill: impl FnOnce(&mut Attributes<'_>),
        ) -> &mut Self {
            if let Some(own) = self.recording() {
                own.payload().event(name.into(), time.into().0, true, fill);
            }
            self
        }

        /// Links the span to another one. A link to an invalid context is left out.
        pub fn add_link(&mut self, target: &SpanContext) -> &mut Self {
            self.add_link_with(target, |_| {})
        }

        /// Links the span to another one, with the attributes that `fill` sets.
        pub fn add_link_with(
            &mut self,
            target: &SpanContext,
            fill: impl FnOnce(&mut Attributes<'_>),
        ) -> &mut Self {
            let keys = self.keys();
            if let Some(own) = self.recording()
                && target.is_valid()
            {
                let raw;
                let target = if std::ptr::eq(target.0.keys, keys) || target.0.keys.is_null() {
                    &target.0
                } else {
                    raw = target.0.to_raw();
                    &raw
                };
                let mut flags = 0;
                for (bit, flag) in [
                    (bit::TRACE_RAW, flag::TRACE_RAW),
                    (bit::SPAN_RAW, flag::SPAN_RAW),
                    (bit::REMOTE, flag::PARENT_REMOTE),
                ] {
                    flags |= u32::from(flag) * u32::from(target.flags & bit != 0);
                }
                let link = LinkWords {
                    trace_lo: target.trace_lo,
                    trace_hi: target.trace_hi,
                    span: target.span,
                    flags: target.flags >> 8 & 0xff | flags << 8,
                    trace_state: target.trace_state.as_str(),
                };
                own.payload().link(&link, fill);
            }
            self
        }

        /// Sets the status. `Ok` is final; `Unset` changes nothing; the message counts for errors only.
        pub fn set_status(&mut self, status: StatusCode, message: &str) -> &mut Self {
            if let Some(own) = self.recording()
                && own.kinds.status() != StatusCode::Ok as u8
                && status != StatusCode::Unset
            {
                own.kinds.set_status(status);
                if status == StatusCode::Error {
                    own.payload().mark_special();
                }
                own.payload().status_message(if status == StatusCode::Error {
                    message
                } else {
                    ""
                });
            }
            self
        }

        /// Records an error: an `exception` event with type and message, and the status error.
        pub fn record_error<E: std::error::Error + ?Sized>(&mut self, error: &E) -> &mut Self {
            if self.is_recording() {
                let message = error.to_string();
                self.add_event_with("exception", |event| {
                    event
                        .set("exception.type", std::any::type_name::<E>())
                        .set("exception.message", message.as_str());
                });
                self.set_status(StatusCode::Error, &message);
            }
            self
        }

        /// Sets the kind.
        pub fn set_kind(&mut self, kind: SpanKind) -> &mut Self {
            if let Some(own) = self.recording() {
                own.kinds.set_kind(kind);
            }
            self
        }

        /// Gives the span another name.
        pub fn update_name<'k>(&mut self, name: impl Into<Key<'k>>) -> &mut Self {
            if let Some(own) = self.recording() {
                let name = name.into();
                let interned = match name {
                    Key::Interned(name) => Some(name),
                    Key::Str(name) => crate::intern::lookup(name),
                };
                match (interned, name) {
                    (None, Key::Str(text)) => {
                        own.place.set_name(0);
                        own.payload().name(text);
                    }
                    (interned, _) => {
                        if own.place.name() == 0 {
                            own.payload().name("");
                        }
                        if let Some(name) = interned {
                            own.place.set_name(name.get());
                        }
                    }
                }
            }
            self
        }

        /// The span is to be sealed and handed to the sinks at once when it ends, against budget that is
        /// held in reserve. The attribute `priority` with the value `critical` does the same, if the span has it when it
        /// ends.
        pub fn set_critical(&mut self) -> &mut Self {
            if let Some(own) = self.recording() {
                own.place.add_flag(flag::CRITICAL);
                own.payload().mark_special();
            }
            self
        }
    };
}

impl Span {
    /// Starts building a span.
    ///
    /// ```
    /// use spanring::{Span, SpanKind};
    ///
    /// let span = Span::builder("GET /users").kind(SpanKind::Server).start();
    /// drop(span);
    /// ```
    pub fn builder<'a>(name: impl Into<Key<'a>>) -> SpanBuilder<'a> {
        SpanBuilder::new(name.into())
    }

    /// Starts a span: a child of the thread's current span, or a new root.
    pub fn start<'a>(name: impl Into<Key<'a>>) -> Span {
        Self::builder(name).start()
    }

    /// A span under a parent that is borrowed, or with the default context a root: for the C ABI, which gets it with each span.
    // Not inlined: a second place that makes spans costs the first one two instructions (`benches/counts`).
    #[doc(hidden)]
    #[inline(never)]
    pub fn __under(
        name: Key<'_>,
        parent: &SpanContext,
        kind: SpanKind,
        attributes: &dyn AtStart,
    ) -> Span {
        if epoch() == 0 {
            return Span::none();
        }
        let with = With { attributes, ..With::NOTHING };
        Span::create(local(), Name::Key(name), Some(&parent.0), kind, 0, &with)
    }

    /// Whether it records and nothing was set on it: for the C ABI.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __has_nothing(&mut self) -> bool {
        self.recording().is_some_and(|own| own.payload().len() == 0)
    }

    /// Begins its first attributes, if it records and has nothing yet: for the C ABI.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __first_attributes(&mut self) -> Option<crate::record::FirstAttributes<'_>> {
        self.recording()?.payload().first_attributes()
    }

    /// Sets an attribute whose key is not there yet: for the C ABI.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __set_new(&mut self, key: Key<'_>, value: impl IntoValue) {
        match key {
            Key::Interned(key) => {
                if let Some(own) = self.recording() {
                    own.payload().attribute_new(key.get(), value);
                    if key == crate::Interned::__PRIORITY {
                        own.payload().priority_set();
                    }
                }
            }
            Key::Str(_) => _ = self.set_attribute(key, value),
        }
    }

    /// The attribute `priority` is among its [first](Self::__first_attributes): for the C ABI.
    #[doc(hidden)]
    #[cold]
    pub fn __priority_set(&mut self) {
        if let Some(own) = self.recording() {
            own.payload().priority_set();
        }
    }

    /// A span that does nothing.
    #[inline(always)]
    pub fn none() -> Span {
        Span { block: None }
    }

    #[inline(always)]
    fn create(
        local: &Local,
        name: Name<'_>,
        parent: Option<&Ctx>,
        kind: SpanKind,
        scope: u16,
        with: &With<'_>,
    ) -> Span {
        let ring = local.ring();
        if ring.epoch.get() == epoch() {
            Self::create_on(local, ring, name, parent, (kind, scope), with)
        } else {
            Self::create_cold(local, name, parent, kind, scope, with)
        }
    }

    #[cold]
    #[inline(never)]
    fn create_cold(
        local: &Local,
        name: Name<'_>,
        parent: Option<&Ctx>,
        kind: SpanKind,
        scope: u16,
        with: &With<'_>,
    ) -> Span {
        asked::settle(local, &());
        let Ready::Ring(ring) = local.prepare() else { return Span::none() };
        let span = Self::create_on(local, ring, name, parent, (kind, scope), with);
        local.retire_if_exiting(ring);
        span
    }

    /// A span under `parent`, or without one under the thread's current context.
    #[inline(always)]
    fn create_on(
        local: &Local,
        ring: &ThreadRing,
        name: Name<'_>,
        given: Option<&Ctx>,
        (kind, scope): (SpanKind, u16),
        with: &With<'_>,
    ) -> Span {
        let parent = given.unwrap_or_else(|| local.current());
        let counter = Local::counter(ring);
        let keys = ring.keys.get();
        let (trace_lo, trace_hi, context_flags, parent_id, flags, sampled);
        let is_local = std::ptr::eq(parent.keys, keys);
        if is_local && ring.is_inherited.get() && parent.trace_state.is_empty() {
            // A parent of this process and generation; its span ID is a counter, its trace's may be raw.
            trace_lo = parent.trace_lo;
            trace_hi = parent.trace_hi;
            context_flags = parent.flags & bit::INHERITED;
            parent_id = parent.span;
            flags = if parent.flags & bit::TRACE_RAW != 0 { flag::TRACE_RAW } else { 0 };
            sampled = parent.is_sampled();
        } else if !parent.is_valid() && ring.root_mode.get() != Mode::Ask {
            trace_lo = counter;
            trace_hi = 0;
            sampled = ring.root_mode.get() == Mode::On;
            context_flags = root_flags(ring.root_mode.get());
            parent_id = 0;
            flags = 0;
        } else {
            let asked = Asked { name, parent: given, kind, scope, with };
            return Self::create_asked(local, ring, &asked, counter);
        }
        let context = Ctx {
            trace_lo,
            trace_hi,
            span: counter,
            flags: context_flags,
            trace_state: TraceState(None),
            keys,
        };
        Self::fill(local, ring, name, context, Record { parent_id, flags, sampled, kind, scope })
    }

    /// A span with this context, on a block of the thread. The context's keys are the ring's or, with raw IDs, null.
    #[inline(always)]
    fn fill(local: &Local, ring: &ThreadRing, name: Name<'_>, from: Ctx, record: Record) -> Span {
        let Record { parent_id, flags, sampled, kind, scope } = record;
        let block = local.take_block();
        let this = block.as_ptr();
        // SAFETY: the block is ours and in no chain. All fields that the span has are written here.
        unsafe {
            if (*this).frame.ready != ring.epoch.get() {
                Block::prepare(this, ring);
            }
            let context = &mut (*this).frame.context;
            context.trace_lo = from.trace_lo;
            context.trace_hi = from.trace_hi;
            context.span = from.span;
            context.flags = from.flags;
            context.trace_state = from.trace_state;
            let own = &mut (*this).own;
            if !context.trace_state.is_empty() {
                own.payload().mark_special();
            }
            if !context.may_be_inherited() {
                (*this).frame.ready = 0;
            }
            let interned = match name {
                Name::Static(name) => name.interned(),
                Name::Key(Key::Interned(name)) => Some(name),
                Name::Key(Key::Str(name)) if sampled => crate::intern::lookup(name),
                Name::Key(Key::Str(_)) => None,
            };
            if sampled {
                own.kinds = Kinds::new(kind, scope);
                own.parent = parent_id;
                let name = match interned {
                    Some(name) => name.get(),
                    None => Self::name_inline(own.payload(), name),
                };
                own.place = Place::new(name, from.flags & 0xffff | u32::from(flags) << 16);
                if ring.profiles.get() {
                    own.begin_profile(interned);
                }
                own.start = clock::ticks();
            }
        }
        Span { block: Some(block) }
    }

    #[cold]
    #[inline(never)]
    fn name_inline(payload: &mut Payload, name: Name<'_>) -> u32 {
        match name {
            Name::Static(name) => payload.name(name.text()),
            Name::Key(Key::Str(name)) => payload.name(name),
            Name::Key(Key::Interned(_)) => {}
        }
        0
    }

    /// The span's own fields, if it records.
    #[inline(always)]
    fn recording(&mut self) -> Option<&mut Own> {
        let block = self.block.filter(|block| Block::is_recording(*block))?;
        // SAFETY: the block is ours, and nothing else points at this part of it.
        Some(unsafe { &mut (*block.as_ptr()).own })
    }

    /// The keys of the span's context.
    fn keys(&self) -> *const Keys {
        // SAFETY: as above; every span has a context.
        self.block.map_or(std::ptr::null(), |block| unsafe { (*block.as_ptr()).frame.context.keys })
    }

    span_methods!();

    /// Whether it has a context: it does if a pipeline is installed.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __is_some(&self) -> bool {
        self.block.is_some()
    }

    /// The span as a pointer, for the C ABI; null for a span that does nothing. It goes on.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __into_raw(self) -> *mut () {
        let block = self.block;
        std::mem::forget(self);
        block.map_or(std::ptr::null_mut(), |block| block.as_ptr().cast())
    }

    /// The span of a pointer.
    ///
    /// # Safety
    ///
    /// `raw` came from [`__into_raw`](Self::__into_raw) and was not taken back before.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn __from_raw(raw: *mut ()) -> Self {
        Span { block: NonNull::new(raw.cast()) }
    }

    /// Makes the span current on this thread for as long as the guard lives, which ends it.
    pub fn enter(self) -> SpanGuard {
        SpanGuard::new(self)
    }

    /// Ends the span now.
    pub fn end(self) {}

    /// Ends the span with the given end. An end before the start becomes the start.
    pub fn end_at(mut self, time: impl Into<WallTime>) {
        if let Some(own) = self.recording() {
            own.set_end(time.into());
        }
    }
}

/// Context flags of a root about which a sampler in this mode need not be asked; else zero.
pub(crate) fn root_flags(mode: Mode) -> u32 {
    match mode {
        Mode::Ask => 0,
        Mode::On => RANDOM | bit::VALID | SAMPLED,
        Mode::Off => RANDOM | bit::VALID,
    }
}

impl Block {
    /// Whether its span records.
    #[inline(always)]
    fn is_recording(this: NonNull<Block>) -> bool {
        let this = this.as_ptr();
        // SAFETY: only its owner asks; every span has these fields.
        unsafe { (*this).frame.context.is_sampled() && !(*this).own.engine.is_null() }
    }

    /// Writes the fields that last from one span to the next, and makes the block [ready](Frame::ready) if
    /// spans may use it as it is.
    ///
    /// # Safety
    ///
    /// The block is the caller's, and its payload owns nothing. The ring has an engine, is this thread's and
    /// up to date.
    unsafe fn prepare(this: *mut Block, ring: &ThreadRing) {
        // SAFETY: the caller's promise; an engine is never freed.
        unsafe {
            let engine = ring.engine.get();
            (*this).frame.context.keys = ring.keys.get();
            (*this).frame.context.trace_state = TraceState(None);
            (*this).own.engine = engine;
            Payload::begin((&raw mut (*this).own.payload).cast(), &(*engine).limits);
            (*this).frame.ready = if ring.short_child.get() { ring.epoch.get() } else { 0 };
        }
    }

    /// Begins a span on the short way, current at once: on a thread whose ring is up to date, with a
    /// block that is ready, under a parent of this process or none, with a name that is a number (not 0), and without
    /// asking the sampler. `None`, and nothing done, if any of this is not so.
    ///
    /// It makes no call, so that its caller needs no stack; everything else is a tail call away.
    #[inline(always)]
    fn try_start(local: &Local, name: u32, kind: SpanKind, epoch: u32) -> Option<NonNull<Block>> {
        let ring = local.ring();
        let top = local.top();
        let next = local.next();
        // SAFETY: the frames are alive; one that is ready is a block or, on top, perhaps the base. The block
        // above the top is nobody's, and it stays where it is until the guard leaves it.
        unsafe {
            if (*next).ready != epoch || (*top).ready != epoch || name == 0 {
                return None;
            }
            let counter = ring.take_counter()?;
            local.advance(next);
            let this = next.cast::<Block>();
            let flags = (*top).context.flags;
            let trace_lo = (*top).context.trace_lo;
            // The base has none.
            (*this).frame.context.trace_lo = if trace_lo == 0 { counter } else { trace_lo };
            (*this).frame.context.trace_hi = (*top).context.trace_hi;
            (*this).frame.context.span = counter;
            (*this).frame.context.flags = flags;
            if flags & SAMPLED != 0 {
                (*this).own.parent = (*top).context.span;
                (*this).own.place = Place::new(name, flags);
                (*this).own.kinds = Kinds::new(kind, 0);
                (*this).own.start = clock::counter_ticks();
            }
            Some(NonNull::new_unchecked(this))
        }
    }

    /// Ends a span on the short way: nothing about it is out of the ordinary, it is on top of the chain
    /// if it is current, and the ring has a credit and room. Else it does nothing and returns false.
    ///
    /// # Safety
    ///
    /// As for [`end`](Self::end).
    #[inline(always)]
    unsafe fn try_end(this: NonNull<Block>, is_current: bool) -> bool {
        let local = local();
        let block = this.as_ptr();
        // SAFETY: the caller's promise; until the block is given back nobody else uses it. Through the
        // pointer, since the chain reaches the frame by its own.
        unsafe {
            let frame = &raw mut (*block).frame;
            if is_current && local.top() != frame {
                return false;
            }
            let ring = local.ring();
            if ring.short_end.get() != (*block).own.engine {
                return false;
            }
            let payload = (*block).own.payload.assume_init_mut();
            if !payload.is_plain() {
                return false;
            }
            if (*block).frame.context.is_sampled() {
                let words = payload.len();
                let written = ring.ring.try_record((words + 15) / 8, |cell: *mut Cell| {
                    Block::write_header(block, clock::counter_ticks, words, cell.cast());
                    if words > 0 {
                        payload.copy_inline(cell.add(1));
                        Payload::reset(payload);
                    }
                });
                if !written {
                    return false;
                }
            }
            if is_current {
                local.retreat(frame);
            } else {
                local.give_block(this);
            }
        }
        true
    }

    /// Ends whatever the span is: reads the clock and writes the record if it records, and gives the
    /// block back.
    ///
    /// # Safety
    ///
    /// The span that owned the block has given it up. The block is in no chain or, with `is_current`, in
    /// this thread's, or was.
    #[inline(always)]
    unsafe fn end(this: NonNull<Block>, is_current: bool) {
        let local = local();
        if local.undecided() == this.as_ptr() {
            asked::settle(local, &());
        }
        let now = if Block::is_recording(this) { clock::ticks() } else { 0 };
        // SAFETY: the caller's promise. Once it is out of the chain, nothing else points at the block.
        unsafe {
            if is_current {
                local.remove(&raw mut (*this.as_ptr()).frame);
            }
            let block = &mut *this.as_ptr();
            block.frame.ready = 0;
            if Block::is_recording(this) {
                block.finish(now);
            }
            block.frame.context.trace_state = TraceState(None);
            local.give_block(this);
        }
    }

    #[inline(always)]
    fn payload(&mut self) -> &mut Payload {
        self.own.payload()
    }

    /// Writes the record of a span that records. Only the context is left afterwards.
    #[inline(always)]
    fn finish(&mut self, now: u64) {
        let engine = self.own.engine;
        if self.own.place.flags() & (flag::END_WALL | flag::ONLY_ERRORS) == 0 {
            self.own.end = now;
        } else if !self.is_kept(now) {
            return self.payload().clear();
        }
        if self.own.place.flags() & flag::PROFILED != 0 {
            self.own.end_profile();
        }
        if !self.frame.context.trace_state.is_empty() {
            self.write_trace_state();
        }
        if self.payload().is_critical() {
            self.own.place.add_flag(flag::CRITICAL);
        }
        self.payload().finish();
        let local = local();
        let ring = local.ring();
        // A mismatch is a thread without a ring yet, another pipeline's span, or a fork.
        if std::ptr::eq(ring.engine.get(), engine) && self.payload().len() <= INLINE_WORDS_MAX {
            // SAFETY: an engine is never freed.
            self.write(unsafe { &*engine }, ring);
        } else {
            self.finish_cold(local, engine);
        }
        self.payload().clear();
    }

    /// Sets the end of a span with an end of its own, or that is kept only with an error; whether it is kept.
    #[cold]
    #[inline(never)]
    fn is_kept(&mut self, now: u64) -> bool {
        if self.own.place.flags() & flag::END_WALL == 0 {
            self.own.end = now;
        }
        if self.own.place.flags() & flag::ONLY_ERRORS == 0 {
            return true;
        }
        self.own.place.remove_flag(flag::ONLY_ERRORS);
        if self.own.kinds.status() == StatusCode::Error as u8 {
            return true;
        }
        let local = local();
        if crate::fork::is_new_child() {
            local.forget_parent();
        }
        // SAFETY: a recording span's engine is never freed.
        let engine = unsafe { &*self.own.engine };
        if !engine.is_from_parent() {
            let ring = local.ring();
            let is_of_ring = std::ptr::eq(ring.engine.get(), engine);
            engine.count_drop(is_of_ring.then_some(ring), Reason::ByRule);
        }
        false
    }

    #[cold]
    #[inline(never)]
    fn write_trace_state(&mut self) {
        let trace_state = self.frame.context.trace_state.clone();
        self.payload().trace_state(trace_state.as_str());
    }

    /// Writes the record's header, of a span that owns nothing large, with `words` words of payload.
    ///
    /// # Safety
    ///
    /// `this` is a span that records, and `to` is valid for writes.
    #[inline(always)]
    unsafe fn write_header(
        this: *const Block,
        end: impl FnOnce() -> u64,
        words: usize,
        to: *mut Header,
    ) {
        let to = to.cast::<u64>();
        // Word by word, so that few registers do.
        // SAFETY: the caller's promise; a header is eight words, as asserted above.
        unsafe {
            to.write((*this).frame.context.trace_lo);
            to.add(1).write((*this).frame.context.trace_hi);
            to.add(2).write((*this).frame.context.span);
            to.add(3).write((*this).own.parent);
            to.add(4).write((*this).own.start);
            to.add(5).write(end());
            to.add(6).write((*this).own.place.0);
            to.add(7).write((*this).own.kinds.0 | (words as u64 & 0xffff) << 16);
        }
    }

    /// The record's header, of any span.
    fn header(&self) -> Header {
        let mut header = Header::default();
        // SAFETY: only spans that record ask for their header, and they have a payload.
        let payload = unsafe { self.own.payload.assume_init_ref() };
        // SAFETY: as above.
        unsafe { Self::write_header(self, || self.own.end, payload.len(), &mut header) };
        if payload.has_large() {
            header.flags |= flag::HAS_LARGE;
        }
        header
    }

    fn is_urgent(&self) -> bool {
        self.own.kinds.status() == StatusCode::Error as u8
            || self.own.place.flags() & flag::CRITICAL != 0
    }

    /// Writes the record into the ring; the payload, if it was taken over, is empty afterwards.
    #[inline(always)]
    fn write(&mut self, engine: &'static Engine, ring: &ThreadRing) {
        let header = self.header();
        let cells = 1 + (header.payload_words as usize).div_ceil(8);
        let urgent = self.is_urgent();
        let payload = self.payload();
        let mut waiting = None;
        let written = loop {
            // SAFETY: the ring is this thread's. The closure fills the header's cell and, if there is a
            // payload, the cells behind it, by plain copies; the record owns its large values. A payload of
            // at most INLINE_WORDS_MAX words takes at most half a segment.
            let written = unsafe {
                ring.ring.record(&engine, cells, urgent, |cell: *mut Cell| {
                    cell.cast::<Header>().write(header);
                    if header.payload_words > 0 {
                        payload.move_to(cell.add(1));
                    }
                })
            };
            match written {
                Err(refused) if engine.waits(ring, refused, &mut waiting) => {}
                _ => break written,
            }
        };
        match written {
            Ok(()) if header.flags & flag::CRITICAL != 0 => engine.critical_recorded(ring),
            Ok(()) => {}
            Err(refused) => engine.count_drop(Some(ring), refused.into()),
        }
    }

    /// Ends a span on a thread that has no ring for its engine at hand, or with a payload for the heap.
    #[cold]
    #[inline(never)]
    fn finish_cold(&mut self, local: &Local, engine: *const Engine) {
        if crate::fork::is_new_child() {
            local.forget_parent();
        }
        // SAFETY: a recording span's engine is never freed.
        let engine: &'static Engine = unsafe { &*engine };
        if engine.is_from_parent() {
            // The span belongs to the parent, which may end it too.
            return;
        }
        if local.is_suppressed() {
            return engine.count_drop(None, Reason::ReEntrant);
        }
        if engine.is_closed() {
            return engine.count_drop(None, Reason::ShutDown);
        }
        let Some(ring) = local.ring_of(engine) else {
            let reason = if engine.is_closed() { Reason::ShutDown } else { Reason::RingFull };
            return engine.count_drop(None, reason);
        };
        {
            // SAFETY: a ring of this thread.
            let ring = unsafe { &*ring };
            if self.payload().len() <= INLINE_WORDS_MAX {
                self.write(engine, ring);
            } else {
                self.write_boxed(engine, ring);
            }
        }
        local.retire_if_exiting(ring);
    }

    fn write_boxed(&mut self, engine: &'static Engine, ring: &ThreadRing) {
        let mut header = self.header();
        header.flags |= flag::BOXED;
        header.payload_words = 2;
        let urgent = self.is_urgent();
        let bytes = self.payload().len() * 8;
        let Some(block) = self.payload().take_block() else {
            return engine.count_drop(Some(ring), Reason::ValueTooLarge);
        };
        let words = block_to_words(block);
        let mut waiting = None;
        let written = loop {
            // SAFETY: as in `write`; the record owns the block.
            let written = unsafe {
                ring.ring.record(&engine, 2, urgent, |cell: *mut Cell| {
                    cell.cast::<Header>().write(header);
                    cell.add(1).cast::<[u64; 2]>().write(words);
                })
            };
            match written {
                Err(refused) if engine.waits(ring, refused, &mut waiting) => {}
                _ => break written,
            }
        };
        match written {
            Ok(()) if header.flags & flag::CRITICAL != 0 => engine.critical_recorded(ring),
            Ok(()) => {}
            Err(refused) => {
                // SAFETY: the record was refused, so the block is still ours.
                let released = unsafe {
                    crate::record::free_block(words, header.flags & flag::HAS_LARGE != 0)
                };
                engine.limits.release_bytes(bytes + released);
                engine.count_drop(Some(ring), refused.into());
            }
        }
    }
}

impl Own {
    #[inline(always)]
    fn payload(&mut self) -> &mut Payload {
        // SAFETY: only spans that record ask for their payload, and they have one.
        unsafe { self.payload.assume_init_mut() }
    }

    /// Puts the span into the memory profile, if its name is in it; one that could not be interned is not.
    #[cold]
    #[inline(never)]
    fn begin_profile(&mut self, name: Option<crate::Interned>) {
        // SAFETY: a span that records has an engine, and an engine is never freed.
        let engine = unsafe { &*self.engine };
        if name.is_some_and(|name| engine.profiles(name.as_str()))
            && crate::profile::begin(self.payload())
        {
            self.place.add_flag(flag::PROFILED);
        }
    }

    #[cold]
    #[inline(never)]
    fn end_profile(&mut self) {
        self.place.remove_flag(flag::PROFILED);
        crate::profile::end(self.payload());
    }

    fn set_end(&mut self, time: WallTime) {
        self.end = time.0;
        self.place.add_flag(flag::END_WALL);
        self.payload().mark_special();
    }
}

/// A new block, in no chain.
#[cold]
#[inline(never)]
pub(crate) fn allocate_block(frame: Frame) -> NonNull<Block> {
    let mut block = Box::<Block>::new_uninit();
    let this = block.as_mut_ptr();
    // SAFETY: a fresh box; the rest is initialised by whoever makes a span of it.
    unsafe {
        (&raw mut (*this).frame).write(frame);
        (&raw mut (*this).own.engine).write(std::ptr::null());
    }
    NonNull::from(Box::leak(block)).cast()
}

/// Frees a block.
///
/// # Safety
///
/// It came from [`allocate_block`], is in no chain, and nobody uses it any more; its fields own nothing.
#[cold]
#[inline(never)]
pub(crate) unsafe fn free_block(block: NonNull<Block>) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(block.as_ptr().cast::<MaybeUninit<Block>>()) });
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            end_span(block);
        }
    }
}

/// One copy for the whole program: what follows a call site's own work is better small than inlined.
#[inline(never)]
fn end_span(block: NonNull<Block>) {
    // SAFETY: the span gave the block up; a span's block is in no chain.
    if !unsafe { Block::try_end(block, false) } {
        end_cold(block, false);
    }
}

/// As [`end_span`], for a guard.
#[inline(never)]
fn end_guard(block: NonNull<Block>) {
    // SAFETY: the guard gave the block up, and it is in this thread's chain, because a guard cannot
    // leave its thread.
    if !unsafe { Block::try_end(block, true) } {
        end_cold(block, true);
    }
}

#[cold]
#[inline(never)]
fn end_cold(block: NonNull<Block>, is_current: bool) {
    // SAFETY: as in `end_span` and `end_guard`.
    unsafe { Block::end(block, is_current) };
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Span")
            .field("context", &self.context())
            .field("is_recording", &self.is_recording())
            .finish()
    }
}

/// A span that is current on its thread until the guard is dropped, which ends the span.
#[must_use = "a span ends when its guard is dropped; `let _ = span!(..)` ends it at once"]
pub struct SpanGuard {
    /// `None` for a span that does nothing; else in this thread's chain.
    block: Option<NonNull<Block>>,
    not_send: std::marker::PhantomData<*const ()>,
}

impl SpanGuard {
    #[inline(always)]
    fn new(mut span: Span) -> Self {
        let block = span.block.take();
        if let Some(block) = block {
            // SAFETY: the block stays in its place until the guard, which owns it now, takes it out.
            unsafe {
                if local().push(block) {
                    (*block.as_ptr()).own.payload().mark_special();
                }
            }
        }
        SpanGuard { block, not_send: std::marker::PhantomData }
    }

    /// For `span!`: a guard of the call site's span, current at once.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __start(name: &'static StaticStr, kind: SpanKind) -> Self {
        let epoch = epoch();
        if epoch == 0 {
            return SpanGuard { block: None, not_send: std::marker::PhantomData };
        }
        Self::start(name, kind, epoch)
    }

    /// One copy for the whole program, as with `end_guard`.
    #[inline(never)]
    fn start(name: &'static StaticStr, kind: SpanKind, epoch: u32) -> Self {
        match Block::try_start(local(), name.known(), kind, epoch) {
            Some(block) => SpanGuard { block: Some(block), not_send: std::marker::PhantomData },
            None => Self::start_cold(name, kind, false),
        }
    }

    /// As [`__start`](Self::__start), where [`__attributes`](Self::__attributes) follows: if the sampler has to see them, it is asked only then.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __start_open(name: &'static StaticStr, kind: SpanKind) -> Self {
        let epoch = epoch();
        if epoch == 0 {
            return SpanGuard { block: None, not_send: std::marker::PhantomData };
        }
        Self::start_open(name, kind, epoch)
    }

    /// As [`start`](Self::start).
    #[inline(never)]
    fn start_open(name: &'static StaticStr, kind: SpanKind, epoch: u32) -> Self {
        match Block::try_start(local(), name.known(), kind, epoch) {
            Some(block) => SpanGuard { block: Some(block), not_send: std::marker::PhantomData },
            None => Self::start_cold(name, kind, true),
        }
    }

    /// A guard of a span whose name is a number, current at once: for the C ABI.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __start_numbered(
        name: crate::Interned,
        kind: SpanKind,
        attributes: impl AtStart,
    ) -> Self {
        let epoch = epoch();
        if epoch == 0 {
            return SpanGuard { block: None, not_send: std::marker::PhantomData };
        }
        match Block::try_start(local(), name.get(), kind, epoch) {
            Some(block) => SpanGuard { block: Some(block), not_send: std::marker::PhantomData },
            None => Self::start_numbered_cold(name, kind, attributes),
        }
    }

    #[cold]
    #[inline(never)]
    fn start_numbered_cold(
        name: crate::Interned,
        kind: SpanKind,
        attributes: impl AtStart,
    ) -> Self {
        let local = local();
        if local.ring().epoch.get() == epoch() {
            local.make_top_ready();
        }
        let with = With { attributes: &attributes, ..With::NOTHING };
        Self::new(Span::create(local, Name::Key(Key::Interned(name)), None, kind, 0, &with))
    }

    #[cold]
    #[inline(never)]
    fn start_cold(name: &'static StaticStr, kind: SpanKind, is_open: bool) -> Self {
        let local = local();
        if local.ring().epoch.get() == epoch() {
            local.make_top_ready();
        }
        let is_open = is_open && name.interned().is_some();
        let with = With { is_open, ..With::NOTHING };
        Self::new(Span::create(local, Name::Static(name), None, kind, 0, &with))
    }

    /// The span's own fields, if it records.
    #[inline(always)]
    fn recording(&mut self) -> Option<&mut Own> {
        let block = self.block.filter(|block| Block::is_recording(*block))?;
        // SAFETY: the block is ours, and nothing else points at this part of it.
        Some(unsafe { &mut (*block.as_ptr()).own })
    }

    /// The keys of the span's context.
    fn keys(&self) -> *const Keys {
        // SAFETY: as above; every span has a context.
        self.block.map_or(std::ptr::null(), |block| unsafe { (*block.as_ptr()).frame.context.keys })
    }

    span_methods!();

    /// Ends the span now.
    pub fn end(self) {}

    /// Ends the span with the given end. An end before the start becomes the start.
    pub fn end_at(mut self, time: impl Into<WallTime>) {
        if let Some(own) = self.recording() {
            own.set_end(time.into());
        }
    }

    /// Whether it has a context: it does if a pipeline is installed.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __is_some(&self) -> bool {
        self.block.is_some()
    }

    /// The number of the calling thread, not zero: no other has the same, before or after. For the C ABI.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __thread() -> u64 {
        crate::thread::number()
    }

    /// Ends the span now, the usual one without another call: for the C ABI.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __end(mut self) {
        if let Some(block) = self.block.take() {
            // SAFETY: as in `end_guard`.
            if !unsafe { Block::try_end(block, true) } {
                end_cold(block, true);
            }
        }
    }

    /// The guard as a pointer, for the C ABI; null for a span that does nothing. The span stays current.
    #[doc(hidden)]
    #[inline(always)]
    pub fn __into_raw(self) -> *mut () {
        let block = self.block;
        std::mem::forget(self);
        block.map_or(std::ptr::null_mut(), |block| block.as_ptr().cast())
    }

    /// The guard of a pointer.
    ///
    /// # Safety
    ///
    /// `raw` came from [`__into_raw`](Self::__into_raw) on this thread and was not taken back before.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn __from_raw(raw: *mut ()) -> Self {
        SpanGuard { block: NonNull::new(raw.cast()), not_send: std::marker::PhantomData }
    }

    /// The span, no longer current: it can be moved to another thread.
    pub fn into_span(mut self) -> Span {
        let block = self.block.take();
        if let Some(block) = block {
            // SAFETY: pushed on this thread, where the guard has been ever since.
            unsafe { local().remove(&raw mut (*block.as_ptr()).frame) };
        }
        Span { block }
    }
}

impl Drop for SpanGuard {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            end_guard(block);
        }
    }
}

impl std::fmt::Debug for SpanGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanGuard")
            .field("context", &self.context())
            .field("is_recording", &self.is_recording())
            .finish()
    }
}

/// What a record says of a span beside its own context.
struct Record {
    parent_id: u64,
    flags: u16,
    sampled: bool,
    kind: SpanKind,
    scope: u16,
}

/// Wall-clock time: nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(pub u64);

impl From<SystemTime> for WallTime {
    /// Times before 1970 become 1970, times after 2554 become 2554.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Makes a context current on a thread without a span of its own: a remote parent, or a span that
/// lives elsewhere. Restores what was current before when dropped.
#[must_use = "the context is current only as long as this lives"]
pub struct ContextGuard(SpanGuard);

impl ContextGuard {
    /// The guard as a pointer, for the C ABI. The context stays current.
    #[doc(hidden)]
    pub fn __into_raw(self) -> *mut () {
        self.0.__into_raw()
    }

    /// The guard of a pointer.
    ///
    /// # Safety
    ///
    /// `raw` came from [`__into_raw`](Self::__into_raw) on this thread and was not taken back before.
    #[doc(hidden)]
    pub unsafe fn __from_raw(raw: *mut ()) -> Self {
        // SAFETY: as promised to us.
        ContextGuard(unsafe { SpanGuard::__from_raw(raw) })
    }
}

impl std::fmt::Debug for ContextGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ContextGuard").field(&self.0.context()).finish()
    }
}

impl SpanContext {
    /// Makes this the current context of the calling thread until the guard is dropped: spans that
    /// start meanwhile are its children. The invalid context makes them roots.
    pub fn attach(&self) -> ContextGuard {
        // It is the guard of a span that does not record.
        ContextGuard(SpanGuard::new(Span::absent(local(), self.0.clone())))
    }
}

const _: () = {
    assert!(size_of::<Span>() == 8 && size_of::<SpanGuard>() == 8);
    // What a live span costs in its thread's stock.
    assert!(size_of::<Block>() <= 448);
    assert!(size_of::<usize>() == 8, "spanring needs a 64-bit target");
};
