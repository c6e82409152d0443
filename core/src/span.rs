//! Spans: [`SpanGuard`], which `span!` gives, and [`Span`], which moves between threads.
//!
//! A span under construction is a block of memory that its owner holds by a pointer: 8 bytes to move,
//! wherever it goes. Blocks come from a stock that each thread keeps, so none is allocated in steady
//! state. Starting a span reads the clock and takes a counter; ending it reads the clock again and
//! writes one record into the thread's ring. Only the thread's stack of current contexts points at the
//! block of a guard, and a guard stays on its thread; a leaked one's block is never used again. So
//! leaking a span is safe: it is then never recorded.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::SystemTime;

use crate::call_site::{AttributeList, Known};
use crate::context::{Ctx, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState, bit};
use crate::engine::{Engine, Reason};
use crate::intern::StaticStr;
use crate::record::{
    Attributes, Cell, Header, INLINE_WORDS_MAX, LinkWords, Payload, block_to_words, flag,
};
use crate::sampler::Mode;
use crate::thread::{Frame, Local, Ready, ThreadRing, epoch, local};
use crate::{IntoValue, Key, Tracer, clock, scratch};

const SAMPLED: u32 = TraceFlags::SAMPLED.0 as u32;
const RANDOM: u32 = TraceFlags::RANDOM.0 as u32;
/// Flags of a context that a child in the same process takes over.
const INHERITED: u32 = bit::TRACE_RAW | RANDOM | SAMPLED | bit::VALID;

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

/// What a live span has: a block of memory of its own, from a stock that each thread keeps.
///
/// Fields that the record has, too, are kept in its form. Words that lie side by side in the record do
/// not here, nor in [`Ctx`]: they would be copied in pairs, and a pair that was written as two words a
/// moment ago takes longer to read than all the rest of an end.
#[repr(C)]
pub(crate) struct Block {
    /// The span's context, and its place on the stack of current ones while a guard owns it.
    frame: Frame,
    /// Null if the span does not record; then of all below nothing is initialised.
    engine: *const Engine,
    start: u64,
    /// Name, scope and flags.
    place: Place,
    parent: u64,
    /// The next block in the thread's stock, while it lies there.
    pub(crate) next: *mut Block,
    /// Given by the user, with `flag::END_WALL`.
    end: u64,
    kinds: Kinds,
    /// Blocks that lie behind this one in the stock.
    pub(crate) behind: u32,
    payload: MaybeUninit<Payload>,
}

/// Name, scope and flags of a record, as they lie in its header: written and copied as one word.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    #[inline(always)]
    fn new(name: u32, scope: u16, flags: u16) -> Self {
        Place(u64::from(name) | u64::from(scope) << 32 | u64::from(flags) << 48)
    }

    #[inline(always)]
    fn name(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn scope(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline(always)]
    fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }

    fn set_name(&mut self, name: u32) {
        *self = Place::new(name, self.scope(), self.flags());
    }

    fn add_flag(&mut self, flag: u16) {
        self.0 |= u64::from(flag) << 48;
    }
}

/// Kind, status and trace flags of a record, likewise; the number of its payload's words goes above.
#[derive(Clone, Copy)]
struct Kinds(u32);

impl Kinds {
    #[inline(always)]
    fn new(kind: SpanKind, context_flags: u32) -> Self {
        Kinds(kind as u32 | (context_flags & 0xff) << 8)
    }

    fn status(self) -> u8 {
        (self.0 >> 4) as u8 & 0xf
    }

    fn set_kind(&mut self, kind: SpanKind) {
        self.0 = self.0 & !0xf | kind as u32;
    }

    fn set_status(&mut self, status: StatusCode) {
        self.0 = self.0 & !0xf0 | (status as u32) << 4;
    }
}

#[cfg(target_endian = "big")]
compile_error!("`Place` and `Kinds` lie as in the header on little-endian machines only");
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Header, name) == 48 && offset_of!(Header, scope) == 52);
    assert!(offset_of!(Header, flags) == 54 && offset_of!(Header, kind_status) == 56);
    assert!(offset_of!(Header, trace_flags) == 57 && offset_of!(Header, payload_words) == 58);
    assert!(offset_of!(Header, trace_hi) == 8 && offset_of!(Header, span) == 16);
    assert!(offset_of!(Header, parent) == 24 && offset_of!(Header, start) == 32);
    assert!(offset_of!(Header, end) == 40 && offset_of!(Header, reserved) == 60);
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

/// Where a new span hangs.
enum Parent<'a> {
    Current,
    Explicit(&'a Ctx),
}

/// What a [`Span`] and a [`SpanGuard`] can do alike. A guard does not give its span out by reference:
/// it could be swapped for another one and leave the thread on whose stack it is.
macro_rules! span_methods {
    () => {
        /// Whether the span will be recorded. Values for spans that will not need not be computed; a
        /// closure given as a value is not called then.
        #[inline(always)]
        pub fn is_recording(&self) -> bool {
            self.block().is_some_and(|block| !block.engine.is_null())
        }

        /// What identifies the span to its children.
        pub fn context(&self) -> SpanContext {
            self.block()
                .map_or_else(SpanContext::default, |block| SpanContext(block.frame.context.clone()))
        }

        /// Sets an attribute; the last value of a key wins. Beyond the limit (128) it is dropped and
        /// counted on the span.
        pub fn set_attribute<'k>(
            &mut self,
            key: impl Into<Key<'k>>,
            value: impl IntoValue,
        ) -> &mut Self {
            if let Some(block) = self.recording() {
                block.payload().attribute_set(key.into(), value);
            }
            self
        }

        /// The attributes of a call site, whose keys are distinct and not yet set.
        #[doc(hidden)]
        #[inline(always)]
        pub fn __attributes(&mut self, known: &Known, list: impl AttributeList) {
            if let Some(block) = self.recording() {
                block.payload().attributes_new(known, list);
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
            if let Some(block) = self.recording() {
                block.payload().event(name.into(), clock::ticks(), false, fill);
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
            if let Some(block) = self.recording() {
                block.payload().event(name.into(), time.into().0, true, fill);
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
            if let Some(block) = self.recording()
                && target.is_valid()
            {
                let keys = block.frame.context.keys;
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
                    flags: target.flags & 0xff | flags << 8,
                    trace_state: target.trace_state.as_str(),
                };
                block.payload().link(&link, fill);
            }
            self
        }

        /// Sets the status. `Ok` is final; `Unset` changes nothing; the message counts for errors only.
        pub fn set_status(&mut self, status: StatusCode, message: &str) -> &mut Self {
            if let Some(block) = self.recording()
                && block.kinds.status() != StatusCode::Ok as u8
                && status != StatusCode::Unset
            {
                block.kinds.set_status(status);
                if status == StatusCode::Error {
                    block.payload().mark_special();
                }
                block.payload().status_message(if status == StatusCode::Error {
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
            if let Some(block) = self.recording() {
                block.kinds.set_kind(kind);
            }
            self
        }

        /// Gives the span another name.
        pub fn update_name<'k>(&mut self, name: impl Into<Key<'k>>) -> &mut Self {
            if let Some(block) = self.recording() {
                let name = name.into();
                let interned = match name {
                    Key::Interned(name) => Some(name),
                    Key::Str(name) => crate::intern::lookup(name),
                };
                match (interned, name) {
                    (None, Key::Str(text)) => {
                        block.place.set_name(0);
                        block.payload().name(text);
                    }
                    (interned, _) => {
                        if block.place.name() == 0 {
                            block.payload().name("");
                        }
                        if let Some(name) = interned {
                            block.place.set_name(name.get());
                        }
                    }
                }
            }
            self
        }

        /// The span is to be sealed and handed to the sinks at once when it ends, against budget that is
        /// held in reserve.
        pub fn set_critical(&mut self) -> &mut Self {
            if let Some(block) = self.recording() {
                block.place.add_flag(flag::CRITICAL);
                block.payload().mark_special();
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
        SpanBuilder {
            name: name.into(),
            parent: None,
            kind: SpanKind::Internal,
            start_unix_nanos: None,
            scope: 0,
        }
    }

    /// Starts a span: a child of the thread's current span, or a new root.
    pub fn start<'a>(name: impl Into<Key<'a>>) -> Span {
        Self::builder(name).start()
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
        parent: Parent<'_>,
        kind: SpanKind,
        scope: u16,
    ) -> Span {
        let ring = local.ring();
        if ring.epoch.get() == epoch() {
            let parent = match parent {
                Parent::Current => local.current(),
                Parent::Explicit(parent) => parent,
            };
            Self::create_on(ring, name, parent, kind, scope)
        } else {
            Self::create_cold(local, name, parent, kind, scope)
        }
    }

    #[cold]
    #[inline(never)]
    fn create_cold(
        local: &Local,
        name: Name<'_>,
        parent: Parent<'_>,
        kind: SpanKind,
        scope: u16,
    ) -> Span {
        let Ready::Ring(ring) = local.prepare() else { return Span::none() };
        let parent = match parent {
            Parent::Current => local.current(),
            Parent::Explicit(parent) => parent,
        };
        let span = Self::create_on(ring, name, parent, kind, scope);
        local.retire_if_exiting(ring);
        span
    }

    #[inline(always)]
    fn create_on(
        ring: &ThreadRing,
        name: Name<'_>,
        parent: &Ctx,
        kind: SpanKind,
        scope: u16,
    ) -> Span {
        let counter = Local::counter(ring);
        let keys = ring.keys.get();
        let (trace_lo, trace_hi, context_flags, parent_id, flags, sampled);
        let mut trace_state = TraceState(None);
        let is_local = std::ptr::eq(parent.keys, keys);
        if is_local && ring.parent_based.get() && parent.trace_state.is_empty() {
            // A parent of this process and generation; its span ID is a counter, its trace's may be raw.
            trace_lo = parent.trace_lo;
            trace_hi = parent.trace_hi;
            context_flags = parent.flags & INHERITED;
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
            let (context, id, record_flags) = Self::derive_cold(ring, parent, counter);
            trace_lo = context.trace_lo;
            trace_hi = context.trace_hi;
            context_flags = context.flags;
            sampled = context.is_sampled();
            parent_id = id;
            flags = record_flags;
            trace_state = context.trace_state;
        }
        let block = scratch::take_block();
        let this = block.as_ptr();
        let context =
            Ctx { trace_lo, trace_hi, span: counter, keys, trace_state, flags: context_flags };
        // SAFETY: the block is ours, and what it held is not initialised. All fields that the span has
        // are written here.
        unsafe {
            let has_trace_state = !context.trace_state.is_empty();
            (&raw mut (*this).frame.context).write(context);
            Block::begin(this, ring, sampled);
            if !sampled {
                return Span { block: Some(block) };
            }
            if has_trace_state {
                (*this).payload.assume_init_mut().mark_special();
            }
            (*this).kinds = Kinds::new(kind, context_flags);
            (*this).parent = parent_id;
            let interned = match name {
                Name::Static(name) => name.interned(),
                Name::Key(Key::Interned(name)) => Some(name),
                Name::Key(Key::Str(name)) => crate::intern::lookup(name),
            };
            let name = match interned {
                Some(name) => name.get(),
                None => Self::name_inline((*this).payload.assume_init_mut(), name),
            };
            (*this).place = Place::new(name, scope, flags);
            (*this).start = clock::ticks();
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

    /// The context of a span whose parent is remote, from before a fork, or carries a tracestate, or
    /// about which the sampler must be asked; with the parent's ID and the record's flags.
    #[cold]
    #[inline(never)]
    fn derive_cold(ring: &ThreadRing, parent: &Ctx, counter: u64) -> (Ctx, u64, u16) {
        let keys = ring.keys.get();
        let mut context = Ctx { span: counter, keys, ..Ctx::NONE };
        let (mut parent_id, mut flags) = (0, 0);
        if !parent.is_valid() {
            context.trace_lo = counter;
            context.flags = RANDOM | bit::VALID;
        } else {
            let raw;
            let mut from = parent;
            if !std::ptr::eq(parent.keys, keys) {
                raw = parent.to_raw();
                from = &raw;
                flags |= flag::PARENT_RAW;
                if parent.flags & bit::REMOTE != 0 || !parent.keys.is_null() {
                    flags |= flag::PARENT_REMOTE;
                }
            }
            if from.flags & bit::TRACE_RAW != 0 {
                flags |= flag::TRACE_RAW;
            }
            context.trace_lo = from.trace_lo;
            context.trace_hi = from.trace_hi;
            context.flags = from.flags & (0xff | bit::VALID | bit::TRACE_RAW);
            context.trace_state = from.trace_state.clone();
            parent_id = from.span;
        }
        let sampled = if ring.parent_based.get() && parent.is_valid() {
            parent.is_sampled()
        } else {
            // SAFETY: as in `create_on`.
            let engine = unsafe { &*ring.engine.get() };
            engine.sampler().decide(&mut context, crate::platform::monotonic_nanos)
        };
        context.flags = context.flags & !SAMPLED | if sampled { SAMPLED } else { 0 };
        (context, parent_id, flags)
    }

    #[inline(always)]
    fn block(&self) -> Option<&Block> {
        // SAFETY: the block is ours, and its fields are initialised as far as they are read.
        self.block.map(|block| unsafe { block.as_ref() })
    }

    /// The block of a span that records.
    #[inline(always)]
    fn recording(&mut self) -> Option<&mut Block> {
        // SAFETY: as above; the borrow is unique.
        let block = unsafe { self.block?.as_mut() };
        (!block.engine.is_null()).then_some(block)
    }

    span_methods!();

    /// Makes the span current on this thread for as long as the guard lives, which ends it.
    pub fn enter(self) -> SpanGuard {
        SpanGuard::new(local(), self)
    }

    /// Ends the span now.
    pub fn end(self) {}

    /// Ends the span with the given end. An end before the start becomes the start.
    pub fn end_at(mut self, time: impl Into<WallTime>) {
        if let Some(block) = self.recording() {
            block.set_end(time.into());
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
    /// Writes the engine, null for a span that is not `sampled`, and an empty payload.
    ///
    /// # Safety
    ///
    /// The block is the caller's, and what it held is not initialised. The ring has an engine.
    #[inline(always)]
    unsafe fn begin(this: *mut Block, ring: &ThreadRing, sampled: bool) {
        // SAFETY: the caller's promise; an engine is never freed.
        unsafe {
            if !sampled {
                (*this).engine = std::ptr::null();
                return;
            }
            let engine = ring.engine.get();
            (*this).engine = engine;
            Payload::begin((&raw mut (*this).payload).cast(), &(*engine).limits);
        }
    }

    /// Begins a span on the short way, current at once: on a thread whose ring is up to date, with a
    /// recycled block, under a parent of this process or none, and without asking the sampler. `None`,
    /// and nothing done but perhaps a counter skipped, if any of this is not so.
    ///
    /// It makes no call, so that its caller needs no stack; everything else is a tail call away.
    #[inline(always)]
    fn try_start(
        local: &Local,
        name: &'static StaticStr,
        kind: SpanKind,
        epoch: u32,
    ) -> Option<NonNull<Block>> {
        let ring = local.ring();
        let name = name.known();
        if ring.epoch.get() != epoch {
            return None;
        }
        let keys = ring.keys.get();
        let top = local.top();
        // Each way writes what it has at once, so that few registers do.
        let (block, context_flags);
        if top.is_null() {
            context_flags = ring.short_root.get();
            if context_flags == 0 || (name == 0 && context_flags & SAMPLED != 0) {
                return None;
            }
            let counter = ring.take_counter()?;
            block = scratch::try_take_block()?;
            let this = block.as_ptr();
            // SAFETY: as in `create_on`.
            unsafe {
                (*this).frame.context.trace_lo = counter;
                (*this).frame.context.trace_hi = 0;
                (*this).frame.context.span = counter;
                (*this).parent = 0;
                (*this).place = Place::new(name, 0, 0);
            }
        } else {
            // SAFETY: the frame on top of the stack is alive, and no block of the stock.
            let current = unsafe { &(*top).context };
            context_flags = current.flags & INHERITED;
            if !(std::ptr::eq(current.keys, keys)
                && ring.short_child.get()
                && current.trace_state.is_empty())
                || (name == 0 && context_flags & SAMPLED != 0)
            {
                return None;
            }
            let counter = ring.take_counter()?;
            block = scratch::try_take_block()?;
            let this = block.as_ptr();
            let flags = if context_flags & bit::TRACE_RAW != 0 { flag::TRACE_RAW } else { 0 };
            // SAFETY: as in `create_on`.
            unsafe {
                (*this).frame.context.trace_lo = current.trace_lo;
                (*this).frame.context.trace_hi = current.trace_hi;
                (*this).frame.context.span = counter;
                (*this).parent = current.span;
                (*this).place = Place::new(name, 0, flags);
            }
        }
        let this = block.as_ptr();
        // SAFETY: as in `create_on`; the block stays where it is until the guard pops it.
        unsafe {
            (*this).frame.context.keys = keys;
            (&raw mut (*this).frame.context.trace_state).write(TraceState(None));
            (*this).frame.context.flags = context_flags;
            local.push(&raw mut (*this).frame);
            let sampled = context_flags & SAMPLED != 0;
            Block::begin(this, ring, sampled);
            if sampled {
                (*this).kinds = Kinds::new(kind, context_flags);
                (*this).start = clock::counter_ticks();
            }
        }
        Some(block)
    }

    /// Ends a span on the short way: nothing about it is out of the ordinary, it is on top of the stack
    /// if it is on it, and the ring has a credit and room. Else it does nothing and returns false.
    ///
    /// # Safety
    ///
    /// As for [`end`](Self::end).
    #[inline(always)]
    unsafe fn try_end(this: NonNull<Block>, pop: bool) -> bool {
        let local = local();
        let block = this.as_ptr();
        // SAFETY: the caller's promise; until the block is given back nobody else uses it. Through the
        // pointer, since the stack reaches the frame by its own.
        unsafe {
            if pop && !std::ptr::eq(local.top(), &raw const (*block).frame) {
                return false;
            }
            let engine = (*block).engine;
            if engine.is_null() {
                if !(*block).frame.context.trace_state.is_empty() {
                    return false;
                }
            } else {
                let ring = local.ring();
                if ring.short_end.get() != engine {
                    return false;
                }
                let payload = (*block).payload.assume_init_ref();
                if !payload.is_plain() {
                    return false;
                }
                let words = payload.len();
                let written = ring.ring.try_record(1 + words.div_ceil(8), |cell: *mut Cell| {
                    Block::write_header(block, clock::counter_ticks, words, cell.cast());
                    if words > 0 {
                        payload.copy_inline(cell.add(1));
                    }
                });
                if !written {
                    return false;
                }
            }
            if pop {
                local.pop_top(&raw mut (*block).frame);
            }
        }
        scratch::give_block(this);
        true
    }

    #[inline(always)]
    fn payload(&mut self) -> &mut Payload {
        // SAFETY: only spans that record ask for their payload, and they have one.
        unsafe { self.payload.assume_init_mut() }
    }

    fn set_end(&mut self, time: WallTime) {
        self.end = time.0;
        self.place.add_flag(flag::END_WALL);
        self.payload().mark_special();
    }

    /// Writes the record of a span that records. Only the context is left afterwards.
    #[inline(always)]
    fn finish(&mut self, now: u64) {
        let engine = std::mem::replace(&mut self.engine, std::ptr::null());
        if self.place.flags() & flag::END_WALL == 0 {
            self.end = now;
        }
        if !self.frame.context.trace_state.is_empty() {
            self.write_trace_state();
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
            to.add(3).write((*this).parent);
            to.add(4).write((*this).start);
            to.add(5).write(end());
            to.add(6).write((*this).place.0);
            to.add(7).write(u64::from((*this).kinds.0) | (words as u64 & 0xffff) << 16);
        }
    }

    /// The record's header, of any span.
    fn header(&self) -> Header {
        let mut header = Header::default();
        // SAFETY: only spans that record ask for their header, and they have a payload.
        let payload = unsafe { self.payload.assume_init_ref() };
        // SAFETY: as above.
        unsafe { Self::write_header(self, || self.end, payload.len(), &mut header) };
        if payload.has_large() {
            header.flags |= flag::HAS_LARGE;
        }
        header
    }

    fn is_urgent(&self) -> bool {
        self.kinds.status() == StatusCode::Error as u8 || self.place.flags() & flag::CRITICAL != 0
    }

    /// Writes the record into the ring; the payload, if it was taken over, is empty afterwards.
    #[inline(always)]
    fn write(&mut self, engine: &'static Engine, ring: &ThreadRing) {
        let header = self.header();
        let cells = 1 + (header.payload_words as usize).div_ceil(8);
        let urgent = self.is_urgent();
        let payload = self.payload();
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
            Ok(()) if header.flags & flag::CRITICAL != 0 => engine.critical_recorded(),
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
        // SAFETY: as in `write`; the record owns the block.
        let written = unsafe {
            ring.ring.record(&engine, 2, urgent, |cell: *mut Cell| {
                cell.cast::<Header>().write(header);
                cell.add(1).cast::<[u64; 2]>().write(words);
            })
        };
        match written {
            Ok(()) if header.flags & flag::CRITICAL != 0 => engine.critical_recorded(),
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

    /// Ends whatever the span is: reads the clock and writes the record if it records, and gives the
    /// block back.
    ///
    /// # Safety
    ///
    /// The span that owned the block has given it up, and it is on no stack, or with `pop` on
    /// this thread's.
    #[inline(always)]
    unsafe fn end(mut this: NonNull<Block>, pop: bool) {
        // SAFETY: the caller's promise; every span has the field.
        let engine = unsafe { (*this.as_ptr()).engine };
        let now = if engine.is_null() { 0 } else { clock::ticks() };
        if pop {
            // Before there is a reference to the block: the stack reaches the frame by its own pointer.
            // SAFETY: the caller's promise.
            unsafe { local().pop(&raw mut (*this.as_ptr()).frame) };
        }
        // SAFETY: the block is on no stack, and the caller's promise.
        let block = unsafe { this.as_mut() };
        if !block.engine.is_null() {
            block.finish(now);
        }
        if !block.frame.context.trace_state.is_empty() {
            block.frame.context.trace_state = TraceState(None);
        }
        scratch::give_block(this);
    }
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
    // SAFETY: the span gave the block up; a span's block is on no stack.
    if !unsafe { Block::try_end(block, false) } {
        end_cold(block, false);
    }
}

/// As [`end_span`], for a guard.
#[inline(never)]
fn end_guard(block: NonNull<Block>) {
    // SAFETY: the guard gave the block up, and it is on this thread's stack, because a guard cannot
    // leave its thread.
    if !unsafe { Block::try_end(block, true) } {
        end_cold(block, true);
    }
}

#[cold]
#[inline(never)]
fn end_cold(block: NonNull<Block>, pop: bool) {
    // SAFETY: as in `end_span` and `end_guard`.
    unsafe { Block::end(block, pop) };
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
    /// `None` for a span that does nothing; else on this thread's stack.
    block: Option<NonNull<Block>>,
    not_send: std::marker::PhantomData<*const ()>,
}

impl SpanGuard {
    #[inline(always)]
    fn new(local: &Local, mut span: Span) -> Self {
        let block = span.block.take();
        if let Some(block) = block {
            // SAFETY: the block stays in its place until the guard, which owns it now, pops it.
            unsafe { local.push(&raw mut (*block.as_ptr()).frame) };
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
        match Block::try_start(local(), name, kind, epoch) {
            Some(block) => SpanGuard { block: Some(block), not_send: std::marker::PhantomData },
            None => Self::start_cold(name, kind),
        }
    }

    #[cold]
    #[inline(never)]
    fn start_cold(name: &'static StaticStr, kind: SpanKind) -> Self {
        let local = local();
        Self::new(local, Span::create(local, Name::Static(name), Parent::Current, kind, 0))
    }

    #[inline(always)]
    fn block(&self) -> Option<&Block> {
        // SAFETY: the block is ours, and its fields are initialised as far as they are read.
        self.block.map(|block| unsafe { block.as_ref() })
    }

    #[inline(always)]
    fn recording(&mut self) -> Option<&mut Block> {
        // SAFETY: as above; the borrow is unique, since the stack is only read by calls that borrow
        // nothing of ours.
        let block = unsafe { self.block?.as_mut() };
        (!block.engine.is_null()).then_some(block)
    }

    span_methods!();

    /// Ends the span now.
    pub fn end(self) {}

    /// Ends the span with the given end. An end before the start becomes the start.
    pub fn end_at(mut self, time: impl Into<WallTime>) {
        if let Some(block) = self.recording() {
            block.set_end(time.into());
        }
    }

    /// The span, no longer current: it can be moved to another thread.
    pub fn into_span(mut self) -> Span {
        let block = self.block.take();
        if let Some(block) = block {
            // SAFETY: pushed on this thread, where the guard has been ever since.
            unsafe { local().pop(&raw mut (*block.as_ptr()).frame) };
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

/// A span before it starts; see [`Span::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start` or `enter`"]
pub struct SpanBuilder<'a> {
    name: Key<'a>,
    parent: Option<SpanContext>,
    kind: SpanKind,
    start_unix_nanos: Option<u64>,
    scope: u16,
}

impl SpanBuilder<'_> {
    /// The parent, instead of the thread's current span; the default context makes a new root.
    pub fn parent(mut self, parent: &SpanContext) -> Self {
        self.parent = Some(parent.clone());
        self
    }

    /// A new root, whatever is current.
    pub fn root(self) -> Self {
        self.parent(&SpanContext::default())
    }

    /// The kind; internal unless told otherwise.
    pub fn kind(mut self, kind: SpanKind) -> Self {
        self.kind = kind;
        self
    }

    /// The start, instead of now.
    pub fn start_time(mut self, time: impl Into<WallTime>) -> Self {
        self.start_unix_nanos = Some(time.into().0);
        self
    }

    /// The instrumentation scope and resource, instead of the default ones.
    pub fn tracer(mut self, tracer: &Tracer) -> Self {
        self.scope = tracer.number();
        self
    }

    /// Starts the span.
    pub fn start(self) -> Span {
        if epoch() == 0 {
            return Span::none();
        }
        let parent = match &self.parent {
            None => Parent::Current,
            Some(parent) => Parent::Explicit(&parent.0),
        };
        let name = Name::Key(self.name);
        let mut span = Span::create(local(), name, parent, self.kind, self.scope);
        if let (Some(block), Some(start)) = (span.recording(), self.start_unix_nanos) {
            block.start = start;
            block.place.add_flag(flag::START_WALL);
        }
        span
    }

    /// Starts the span and makes it current on this thread.
    pub fn enter(self) -> SpanGuard {
        self.start().enter()
    }
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
        let block = scratch::take_block();
        // SAFETY: the block is ours; a span that does not record has these fields.
        unsafe {
            (*block.as_ptr()).engine = std::ptr::null();
            (&raw mut (*block.as_ptr()).frame.context).write(self.0.clone());
        }
        ContextGuard(SpanGuard::new(local(), Span { block: Some(block) }))
    }
}

const _: () = {
    assert!(size_of::<Span>() == 8 && size_of::<SpanGuard>() == 8);
    // What a live span costs in its thread's stock.
    assert!(size_of::<Block>() <= 448);
    assert!(size_of::<usize>() == 8, "spanring needs a 64-bit target");
};
