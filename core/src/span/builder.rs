//! Building spans step by step.

use super::asked::{Asked, With};
use super::{Name, Span, SpanGuard, WallTime};
use crate::context::{SpanContext, SpanKind};
use crate::record::{Payload, flag};
use crate::thread::{epoch, local};
use crate::value::{AtStart, Seen};
use crate::{Detail, IntoValue, Key, Level, SpanId, TraceId, Tracer};

/// A span before it starts; see [`Span::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start` or `enter`"]
pub struct SpanBuilder<'a, A = ()> {
    name: Key<'a>,
    parent: Option<SpanContext>,
    kind: SpanKind,
    start_unix_nanos: Option<u64>,
    scope: u16,
    ids: Option<(TraceId, SpanId)>,
    level: Option<Level>,
    detail: Detail,
    attributes: A,
}

impl<'a> SpanBuilder<'a> {
    pub(super) fn new(name: Key<'a>) -> Self {
        SpanBuilder {
            name,
            parent: None,
            kind: SpanKind::Internal,
            start_unix_nanos: None,
            scope: 0,
            ids: None,
            level: None,
            detail: Detail::Basic,
            attributes: (),
        }
    }
}

impl<'a, A: GivenAttributes> SpanBuilder<'a, A> {
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

    /// IDs that another tracer or a recording gave the span, instead of new ones; the trace ID takes the place of the parent's. The sampler
    /// is asked in any case, whatever the parent's flags say; a ratio decides by the trace ID. Ignored if one of them is zero.
    ///
    /// That no other span has them is up to the caller.
    pub fn ids(mut self, trace_id: TraceId, span_id: SpanId) -> Self {
        self.ids = (trace_id.is_valid() && span_id.is_valid()).then_some((trace_id, span_id));
        self
    }

    /// An attribute that the span has from its start, so that rules of sampling see it; set as by [`Span::set_attribute`].
    ///
    /// ```
    /// use spanring::Span;
    ///
    /// let span = Span::builder("POST /orders").attribute("priority", "high").attribute("items", 3).start();
    /// # drop(span);
    /// ```
    pub fn attribute<V: IntoValue>(
        self,
        key: impl Into<Key<'a>>,
        value: V,
    ) -> SpanBuilder<'a, (Given<'a, V>, A)> {
        SpanBuilder {
            name: self.name,
            parent: self.parent,
            kind: self.kind,
            start_unix_nanos: self.start_unix_nanos,
            scope: self.scope,
            ids: self.ids,
            level: self.level,
            detail: self.detail,
            attributes: (Given(key.into(), value), self.attributes),
        }
    }

    /// Attributes that rules are to see, and that are set afterwards: for the C ABI.
    #[doc(hidden)]
    pub fn __seen<B: AtStart>(self, attributes: B) -> SpanBuilder<'a, SeenOnly<B>> {
        SpanBuilder {
            name: self.name,
            parent: self.parent,
            kind: self.kind,
            start_unix_nanos: self.start_unix_nanos,
            scope: self.scope,
            ids: self.ids,
            level: self.level,
            detail: self.detail,
            attributes: SeenOnly(attributes),
        }
    }

    /// The level of tracing for this span, whatever the settings `LEVEL` and `LEVELS` say.
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// How much the span is about details, basic unless told otherwise: where the settings do not want as much, it is as if it were not there.
    pub fn detail(mut self, detail: Detail) -> Self {
        self.detail = detail.max(Detail::Basic);
        self
    }

    /// Starts the span.
    pub fn start(self) -> Span {
        if epoch() == 0 {
            return Span::none();
        }
        let parent = self.parent.as_ref().map(|parent| &parent.0);
        let name = Name::Key(self.name);
        let with = With {
            attributes: &self.attributes,
            level: self.level,
            detail: self.detail,
            is_open: false,
        };
        let mut span = match self.ids {
            None if self.level.is_none() && self.detail == Detail::Basic => {
                Span::create(local(), name, parent, self.kind, self.scope, &with)
            }
            ids => {
                let (kind, scope, with) = (self.kind, self.scope, &with);
                Span::create_special(local(), &Asked { name, parent, kind, scope, with }, ids)
            }
        };
        if let Some(own) = span.recording() {
            if let Some(start) = self.start_unix_nanos {
                own.start = start;
                own.place.add_flag(flag::START_WALL);
            }
            self.attributes.set(own.payload());
        }
        span
    }

    /// Starts the span and makes it current on this thread.
    pub fn enter(self) -> SpanGuard {
        self.start().enter()
    }
}

/// An attribute that a builder was given.
#[doc(hidden)]
#[derive(Debug)]
pub struct Given<'a, V>(Key<'a>, V);

/// Attributes that a builder was given, the last first.
#[doc(hidden)]
pub trait GivenAttributes: AtStart {
    fn set(self, payload: &mut Payload);
}

/// Attributes that are not the builder's to set.
#[doc(hidden)]
#[derive(Debug)]
pub struct SeenOnly<A>(A);

impl<A: AtStart> AtStart for SeenOnly<A> {
    fn seen(&self, key: &str) -> Seen<'_> {
        self.0.seen(key)
    }
}

impl<A: AtStart> GivenAttributes for SeenOnly<A> {
    fn set(self, _payload: &mut Payload) {}
}

impl GivenAttributes for () {
    fn set(self, _payload: &mut Payload) {}
}

impl<V: IntoValue, A: GivenAttributes> GivenAttributes for (Given<'_, V>, A) {
    fn set(self, payload: &mut Payload) {
        let (Given(key, value), before) = self;
        before.set(payload);
        payload.attribute_set(key, value);
    }
}

impl<V: IntoValue, A: AtStart> AtStart for (Given<'_, V>, A) {
    fn seen(&self, key: &str) -> Seen<'_> {
        let (Given(own, value), before) = self;
        let own = match own {
            Key::Interned(own) => own.as_str(),
            Key::Str(own) => own,
        };
        if own == key { value.seen() } else { before.seen(key) }
    }
}
