//! Spans about which the sampler is asked.
//!
//! A span of `span!` may be asked about before its attributes are there: it then records until they are, or until something needs to know
//! (a span starts under it, it ends, somebody wants its context); at most one a thread is so. What it has until then is its start.

use std::ptr::NonNull;

use super::{Block, Name, Own, RANDOM, Record, SAMPLED, Span};
use crate::context::{Ctx, SpanContext, SpanKind, TraceFlags, bit};
use crate::intern::{Interned, StaticStr};
use crate::record::{Payload, flag};
use crate::rules::{Pattern, Subject};
use crate::sampler::{By, Decision, Mode, Parent};
use crate::thread::{Local, Ready, ThreadRing, epoch};
use crate::value::{AtStart, Seen};
use crate::{Detail, Key, Level, SpanId, TraceId, Tracer};

/// What a span is given that only the sampler looks at.
#[derive(Clone, Copy)]
pub(crate) struct With<'a> {
    pub(super) attributes: &'a dyn AtStart,
    pub(super) level: Option<Level>,
    pub(super) detail: Detail,
    /// The attributes come later.
    pub(super) is_open: bool,
}

impl With<'static> {
    pub(super) const NOTHING: Self =
        With { attributes: &(), level: None, detail: Detail::Basic, is_open: false };
}

/// A span that is asked about.
pub(super) struct Asked<'a> {
    pub(super) name: Name<'a>,
    /// `None`: the thread's current context.
    pub(super) parent: Option<&'a Ctx>,
    pub(super) kind: SpanKind,
    pub(super) scope: u16,
    pub(super) with: &'a With<'a>,
}

/// A span as rules see it.
struct Starting<'a> {
    name: &'a str,
    kind: SpanKind,
    scope: u16,
    attributes: &'a dyn AtStart,
}

impl Subject for Starting<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn is_of_scope(&self, pattern: &Pattern) -> bool {
        Tracer::has_name(self.scope, |name| pattern.matches(name))
    }

    fn kind(&self) -> SpanKind {
        self.kind
    }

    fn attribute(&self, key: &str) -> Seen<'_> {
        self.attributes.seen(key)
    }
}

impl Span {
    /// A span whose parent is remote, from before a fork, or carries a tracestate, or about which the sampler must be asked.
    #[cold]
    #[inline(never)]
    pub(super) fn create_asked(
        local: &Local,
        ring: &ThreadRing,
        asked: &Asked<'_>,
        counter: u64,
    ) -> Span {
        settle(local, &());
        let parent = asked.parent.unwrap_or_else(|| local.current());
        let (context, parent_id, flags) = Self::derive(ring, parent, counter);
        // SAFETY: as in `create_on`.
        let is_followed =
            unsafe { &*ring.engine.get() }.sampler().parent_based() && parent.is_valid();
        let sampled = is_followed.then(|| parent.is_sampled());
        Self::create_decided(local, ring, asked, (parent, sampled), context, (parent_id, flags))
    }

    /// A span with IDs that came from elsewhere (see [`SpanBuilder::ids`](super::SpanBuilder::ids)), or with a level or a detail of its own.
    #[cold]
    #[inline(never)]
    pub(super) fn create_special(
        local: &Local,
        asked: &Asked<'_>,
        ids: Option<(TraceId, SpanId)>,
    ) -> Span {
        settle(local, &());
        let ring = local.ring();
        let ring = match ring.epoch.get() == epoch() {
            true => ring,
            false => match local.prepare() {
                Ready::Ring(ring) => ring,
                _ => return Span::none(),
            },
        };
        let span = match ids {
            None => Self::create_asked(local, ring, asked, Local::counter(ring)),
            Some(ids) => Self::create_with_ids(local, ring, asked, ids),
        };
        local.retire_if_exiting(ring);
        span
    }

    fn create_with_ids(
        local: &Local,
        ring: &ThreadRing,
        asked: &Asked<'_>,
        (trace_id, span_id): (TraceId, SpanId),
    ) -> Span {
        let parent = asked.parent.unwrap_or_else(|| local.current());
        let (mut flags, mut parent_id) = (flag::TRACE_RAW | flag::SPAN_RAW, 0);
        if parent.is_valid() {
            flags |= flag::PARENT_RAW;
            if parent.flags & bit::REMOTE != 0 {
                flags |= flag::PARENT_REMOTE;
            }
            parent_id = parent.span_id().0;
        }
        let context = SpanContext::from_ids(
            trace_id,
            span_id,
            TraceFlags((parent.flags >> 8) as u8 & TraceFlags::RANDOM.0),
            parent.trace_state.clone(),
        )
        .0;
        let of = (parent, None);
        let span = Self::create_decided(local, ring, asked, of, context, (parent_id, flags));
        if let Some(block) = span.block {
            // SAFETY: the block is ours.
            let frame = unsafe { &mut (*block.as_ptr()).frame };
            const BOTH: u32 = bit::TRACE_RAW | bit::SPAN_RAW;
            // Its counters are IDs, so whatever has it as a parent takes the long way. (An absent one has its parent's context.)
            if frame.context.flags & BOTH == BOTH {
                frame.context.keys = std::ptr::null();
                frame.ready = 0;
            }
        }
        span
    }

    /// The context of a span; with the parent's ID and the record's flags.
    fn derive(ring: &ThreadRing, parent: &Ctx, counter: u64) -> (Ctx, u64, u16) {
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
            context.flags = from.flags & (bit::TRACE_FLAGS | bit::VALID | bit::TRACE_RAW);
            context.trace_state = from.trace_state.clone();
            parent_id = from.span;
        }
        (context, parent_id, flags)
    }

    /// A span with this context, parent's ID and flags of the record, as the sampler decides. Beside the parent stands whether that is sampled, if the
    /// span is to do as it did.
    fn create_decided(
        local: &Local,
        ring: &ThreadRing,
        asked: &Asked<'_>,
        (parent, sampled): (&Ctx, Option<bool>),
        mut context: Ctx,
        (parent_id, flags): (u64, u16),
    ) -> Span {
        let Asked { name, kind, scope, with, .. } = *asked;
        // SAFETY: as in `create_on`.
        let sampler = unsafe { &*ring.engine.get() }.sampler();
        let is_here = parent.is_valid() && flags & flag::PARENT_REMOTE == 0;
        let subject = Starting { name: name.text(), kind, scope, attributes: with.attributes };
        let decision = sampler.decide(
            &subject,
            (with.level, with.detail),
            Parent { sampled, is_here },
            with.is_open,
            &mut context,
            crate::platform::monotonic_nanos,
        );
        let sampled = match decision {
            Decision::Out => return Self::absent(local, parent.clone()),
            Decision::Unsampled => false,
            Decision::Sampled { .. } | Decision::Open => true,
        };
        context.flags = context.flags & !SAMPLED | if sampled { SAMPLED } else { 0 };
        let record = Record { parent_id, flags, sampled, kind, scope };
        let span = Self::fill(local, ring, name, context, record);
        if let Some(block) = span.block {
            // SAFETY: the block is ours, and of a span that records, if it is sampled.
            let this = unsafe { &mut *block.as_ptr() };
            match decision {
                Decision::Sampled { only_errors, by } => this.own.sampled(only_errors, by),
                Decision::Open => {
                    this.frame.ready = 0;
                    this.own.payload().begin_undecided();
                    local.set_undecided(block.as_ptr());
                    // So that whatever starts on the thread comes by here.
                    ring.is_inherited.set(false);
                    ring.root_mode.set(Mode::Ask);
                }
                Decision::Out | Decision::Unsampled => {}
            }
        }
        span
    }

    /// What does nothing, and as a parent is the one that it has itself.
    pub(super) fn absent(local: &Local, parent: Ctx) -> Span {
        let block = local.take_block();
        // SAFETY: the block is ours; a span that does not record has these fields.
        unsafe {
            let this = &mut *block.as_ptr();
            this.frame.context = parent;
            this.frame.ready = 0;
            this.own.engine = std::ptr::null();
            Payload::begin_none(this.own.payload.as_mut_ptr());
        }
        Span { block: Some(block) }
    }
}

static RULE: StaticStr = StaticStr::new("spanring.sampling.rule");
static RATE: StaticStr = StaticStr::new("spanring.sampling.rate");

fn key(of: &'static StaticStr) -> Key<'static> {
    of.interned().map_or(Key::Str(of.text()), Key::Interned)
}

impl Own {
    /// The span is sampled, by a rule or without.
    fn sampled(&mut self, only_errors: bool, by: Option<By>) {
        if only_errors {
            self.place.add_flag(flag::ONLY_ERRORS);
            self.payload().mark_special();
        }
        if let Some(By { rule, rate }) = by {
            self.payload().attribute_set(key(&RULE), &*rule);
            if let Some(rate) = rate {
                self.payload().attribute_set(key(&RATE), rate);
            }
        }
    }
}

/// Decides about the thread's undecided span, if there is one; `attributes` are those that it has.
#[inline]
pub(crate) fn settle(local: &Local, attributes: &dyn AtStart) {
    if let Some(block) = NonNull::new(local.undecided()) {
        settle_cold(local, block, attributes);
    }
}

#[cold]
#[inline(never)]
fn settle_cold(local: &Local, block: NonNull<Block>, attributes: &dyn AtStart) {
    local.set_undecided(std::ptr::null_mut());
    // SAFETY: its span goes on, since it is taken back when that ends; it is on this thread, and nothing refers to the block meanwhile.
    let this = unsafe { &mut *block.as_ptr() };
    // It may have been made ready as a parent meanwhile.
    this.frame.ready = 0;
    let engine = this.own.engine;
    // SAFETY: an undecided span has an engine, and that is never freed.
    let sampler = unsafe { &*engine }.sampler();
    let ring = local.ring();
    if std::ptr::eq(ring.engine.get(), engine) {
        ring.is_inherited.set(sampler.is_inherited());
        ring.root_mode.set(sampler.mode());
    }
    // SAFETY: as above.
    this.own.payload().end_undecided(unsafe { &(*engine).limits });
    let Own { parent, place, kinds, .. } = this.own;
    let name = Interned::from_number(place.name()).map_or("", Interned::as_str);
    let subject = Starting { name, kind: kinds.kind(), scope: kinds.scope(), attributes };
    // It was left open since it follows nobody, or since it may thin out what a sampled parent has.
    let of = Parent {
        sampled: (sampler.parent_based() && parent != 0).then_some(true),
        is_here: parent != 0 && place.flags() & flag::PARENT_REMOTE == 0,
    };
    let context = &mut this.frame.context;
    let now = crate::platform::monotonic_nanos;
    match sampler.decide(&subject, (None, Detail::Basic), of, false, context, now) {
        Decision::Sampled { only_errors, by } => this.own.sampled(only_errors, by),
        Decision::Unsampled | Decision::Open => context.flags &= !SAMPLED,
        Decision::Out if parent == 0 => {
            *context = Ctx::NONE;
            this.own.engine = std::ptr::null();
        }
        Decision::Out => {
            context.span = parent;
            if place.flags() & flag::PARENT_RAW != 0 {
                context.keys = std::ptr::null();
                context.flags |= bit::TRACE_RAW | bit::SPAN_RAW;
            }
            this.own.engine = std::ptr::null();
        }
    }
}
