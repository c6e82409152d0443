//! What a batch says of its traces, and which IDs its spans have.
//!
//! IDs that instrumentation kept from elsewhere stand in attributes, and count for the spans around them, too: a span's
//! child that knows only the engine's ID of its parent must name the same parent.

use std::borrow::Cow;

use rustc_hash::{FxHashMap, FxHashSet};
use spanring::{SpanId, TraceId, Value};

use super::data::{Kind, kind};
use super::fields::Fields;
use super::json::Json;
use crate::model::{SpanBatch, SpanData};

pub(super) const TRACE_ID: &str = "openai.trace_id";
pub(super) const SPAN_ID: &str = "openai.span_id";
pub(super) const PARENT_ID: &str = "openai.parent_id";

/// Where nobody named the workflow, as in the SDK.
const WORKFLOW: &str = "Agent workflow";
/// What OpenTelemetry calls a service without a name.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// What a batch says of the traces in it.
pub(super) struct Index<'a> {
    batch: &'a SpanBatch,
    traces: FxHashMap<TraceId, Trace<'a>>,
    /// Spans that are not what their IDs say.
    special: FxHashMap<(TraceId, SpanId), Special<'a>>,
    /// Traces whose objects were asked for.
    written: FxHashSet<Cow<'a, str>>,
}

enum Special<'a> {
    /// It is a trace, and nobody's parent.
    Trace,
    /// It has this ID.
    Named(Cow<'a, str>),
}

#[derive(Default)]
struct Trace<'a> {
    id: Option<Cow<'a, str>>,
    /// The span that is the trace.
    span: Option<&'a SpanData>,
    /// Where the trace began in this process.
    root: Option<&'a SpanData>,
    workflow_name: Option<Cow<'a, str>>,
    group_id: Option<Cow<'a, str>>,
    metadata: Option<&'a Value>,
    service: Option<&'a str>,
}

impl<'a> Index<'a> {
    pub(super) fn new(batch: &'a SpanBatch) -> Self {
        let mut index = Index {
            batch,
            traces: FxHashMap::default(),
            special: FxHashMap::default(),
            written: FxHashSet::default(),
        };
        for span in &batch.spans {
            index.add(span);
        }
        index
    }

    fn add(&mut self, span: &'a SpanData) {
        let fields = Fields(&span.attributes);
        let is_trace = kind(fields) == Kind::Trace;
        let key = (span.trace_id, span.span_id);
        if is_trace {
            self.special.insert(key, Special::Trace);
        } else if let Some(id) = fields.text(&[SPAN_ID]) {
            self.special.insert(key, Special::Named(id));
        }
        let trace = self.traces.entry(span.trace_id).or_default();
        // The trace's own span has the last word, and of others the first that says something.
        let first = trace.span.is_none();
        if is_trace && first {
            trace.span = Some(span);
        }
        let own = is_trace && first;
        let take = |known: &mut Option<Cow<'a, str>>, names: &[&str]| {
            if (own || known.is_none())
                && let Some(said) = fields.text(names)
            {
                *known = Some(said);
            }
        };
        take(&mut trace.id, &[TRACE_ID]);
        take(&mut trace.workflow_name, &["trace.workflow_name"]);
        take(&mut trace.group_id, &["trace.group_id", "session.id"]);
        let metadata = fields.first(&["trace.metadata"]);
        if own || trace.metadata.is_none() {
            trace.metadata = metadata.or(trace.metadata);
        }
        let is_root = span.parent_span_id.is_none() || span.parent_is_remote == Some(true);
        if is_root && trace.root.is_none() {
            trace.root = Some(span);
        }
        if trace.service.is_none() {
            trace.service = self.batch.scopes.get(span.scope).and_then(|scope| {
                let resource = self.batch.resources.get(scope.resource)?;
                match Fields(&resource.attributes).first(&["service.name"])? {
                    Value::Str(name) if !name.starts_with(UNKNOWN_SERVICE) => Some(&**name),
                    _ => None,
                }
            });
        }
    }

    /// The object of a span's trace, if this is the first call for it, and the trace's ID.
    pub(super) fn trace_object(&mut self, span: &'a SpanData) -> (Option<Json<'a>>, Cow<'a, str>) {
        let id = self.trace_id(span);
        if !self.written.insert(id.clone()) {
            return (None, id);
        }
        let trace = self.traces.get(&span.trace_id).expect("the batch's spans are known");
        let named = |span: &'a SpanData| Some(&*span.name).filter(|name| !name.is_empty());
        let workflow_name = trace
            .workflow_name
            .clone()
            .or_else(|| trace.span.and_then(named).map(Cow::Borrowed))
            .or_else(|| trace.root.and_then(named).map(Cow::Borrowed))
            .or_else(|| trace.service.map(Cow::Borrowed))
            .unwrap_or(Cow::Borrowed(WORKFLOW));
        let object = Json::object([
            ("object", "trace".into()),
            ("id", Json::Str(id.clone())),
            ("workflow_name", Json::Str(workflow_name)),
            ("group_id", trace.group_id.clone().map(Json::Str).unwrap_or(Json::Null)),
            ("metadata", trace.metadata.map(super::fields::object).unwrap_or(Json::Null)),
        ]);
        (Some(object), id)
    }

    pub(super) fn trace_id(&self, span: &'a SpanData) -> Cow<'a, str> {
        let own = Fields(&span.attributes).text(&[TRACE_ID]);
        let known = || self.traces.get(&span.trace_id).and_then(|trace| trace.id.clone());
        let of_engine = || format!("trace_{:032x}", span.trace_id.0).into();
        own.or_else(known).unwrap_or_else(of_engine)
    }

    pub(super) fn span_id(&self, span: &SpanData) -> Json<'a> {
        match self.special.get(&(span.trace_id, span.span_id)) {
            Some(Special::Named(id)) => Json::Str(id.clone()),
            _ => Json::from(of_engine(span.span_id)),
        }
    }

    pub(super) fn parent_id(&self, span: &'a SpanData) -> Json<'a> {
        if let Some(id) = Fields(&span.attributes).text(&[PARENT_ID]) {
            return if id.is_empty() { Json::Null } else { Json::Str(id) };
        }
        let Some(parent) = span.parent_span_id else { return Json::Null };
        match self.special.get(&(span.trace_id, parent)) {
            Some(Special::Trace) => Json::Null,
            Some(Special::Named(id)) => Json::Str(id.clone()),
            None => Json::from(of_engine(parent)),
        }
    }
}

/// An ID of ours in the SDK's form, which has 24 digits.
fn of_engine(id: SpanId) -> String {
    format!("span_{:016x}00000000", id.0)
}
