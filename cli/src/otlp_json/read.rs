//! The OTLP trace messages, read from JSON into the plain data model.

use serde::de::{DeserializeSeed, MapAccess};
use serde_json::error::Category;
use spanring::{SpanId, SpanKind, StatusCode, TraceId};
use spanring_exporter::model::{EventData, LinkData, ResourceData, ScopeData, SpanBatch, SpanData};

use super::fields::{Context, EXPECTED_MARK, Fields, Message, Repeated, set};
use super::seeds::MessageSeed;
use crate::error::InputError;

/// In `flags`: whether the parent (of a link: the other span) is remote is known; and whether it is.
pub(super) const FLAG_HAS_IS_REMOTE: u32 = 0x100;
pub(super) const FLAG_IS_REMOTE: u32 = 0x200;

/// The names of span kinds and status codes, by number, without their prefixes.
const KIND_NAMES: [&str; 6] =
    ["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
const STATUS_NAMES: [&str; 3] = ["UNSET", "OK", "ERROR"];

const EXPECTED_KIND: &str = "0 to 5, or SPAN_KIND_ and UNSPECIFIED, INTERNAL, SERVER, CLIENT, PRODUCER \
                             or CONSUMER";
const EXPECTED_STATUS: &str = "0 to 2, or STATUS_CODE_ and UNSET, OK or ERROR";
const EXPECTED_TIME: &str = "ns since the Unix epoch, 0 to 2^64 - 1, as a string or a number";
const EXPECTED_UINT32: &str = "an integer from 0 to 2^32 - 1";
const EXPECTED_TRACE_ID: &str = "32 hexadecimal digits, not all zero";
const EXPECTED_SPAN_ID: &str = "16 hexadecimal digits, not all zero";
const EXPECTED_TRACE_ID_OR_NONE: &str = "32 hexadecimal digits, or an empty string";
const EXPECTED_SPAN_ID_OR_NONE: &str = "16 hexadecimal digits, or an empty string";

/// Reads one line that may take `bytes_max` bytes in memory.
pub(super) fn parse(line: &[u8], bytes_max: usize) -> Result<SpanBatch, InputError> {
    let context = Context::new(bytes_max);
    let mut traces = Traces { batch: SpanBatch::default(), has_resource_spans: false };
    let mut json = serde_json::Deserializer::from_slice(line);
    // Recursion is bounded by what messages hold each other, and by the depth of values.
    json.disable_recursion_limit();
    let seen = MessageSeed { target: &mut traces, context: &context }
        .deserialize(&mut json)
        .and_then(|seen| json.end().map(|()| seen))
        .map_err(|error| located(&error, context.path()))?;
    match seen {
        true => Ok(traces.batch),
        false => Err(InputError::new("found null", "an object (TracesData)")),
    }
}

/// Turns serde_json's error into ours.
fn located(error: &serde_json::Error, path: String) -> InputError {
    let text = error.to_string();
    // serde_json appends the position within the line to its text, and to ours if it knows it.
    let position = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&position).unwrap_or(&text);
    let (problem, expected) = match (error.classify(), text.split_once(EXPECTED_MARK)) {
        (_, Some((problem, expected))) => (problem.to_owned(), expected.to_owned()),
        (Category::Eof, None) => (
            format!("the JSON ends too early, after {} bytes", error.column()),
            "a whole TracesData object on one line".to_owned(),
        ),
        (_, None) => (
            format!("no JSON at byte {}: {text}", error.column()),
            "a TracesData object".to_owned(),
        ),
    };
    InputError { path, ..InputError::new(problem, expected) }
}

/// Reads hexadecimal digits of either case; `Some(None)` for an empty string and for zero.
fn hex_or_none<T>(text: &str, digits: usize, parse: fn(&str) -> Option<T>) -> Option<Option<T>> {
    let valid = text.is_empty()
        || text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    // OTLP allows upper case; our parser is as strict as W3C's header.
    valid.then(|| parse(text).or_else(|| parse(&text.to_ascii_lowercase())))
}

fn trace_id_or_none(text: &str) -> Option<Option<TraceId>> {
    hex_or_none(text, 32, TraceId::from_hex)
}

fn span_id_or_none(text: &str) -> Option<Option<SpanId>> {
    hex_or_none(text, 16, SpanId::from_hex)
}

/// `TracesData`: the line.
struct Traces {
    batch: SpanBatch,
    has_resource_spans: bool,
}

impl Message for Traces {
    const NAME: &'static str = "TracesData";
    const FIELDS: &'static [&'static str] = &["resourceSpans"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        _: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        self.has_resource_spans = true;
        fields.list(&mut ResourceSpansList(&mut self.batch))
    }

    fn finish(&self, unknown: usize) -> Result<(), (&'static str, &'static str)> {
        // An object of other things only is another signal, or not OTLP at all.
        match self.has_resource_spans || unknown == 0 {
            true => Ok(()),
            false => Err(("resourceSpans", "spans (metrics, logs and other data have none)")),
        }
    }
}

struct ResourceSpansList<'b>(&'b mut SpanBatch);

impl Repeated for ResourceSpansList<'_> {
    type Item<'a>
        = ResourceSpans<'a>
    where
        Self: 'a;
    const ITEM_BYTES: usize = size_of::<ResourceData>();

    fn append(&mut self) -> ResourceSpans<'_> {
        self.0.resources.push(ResourceData::default());
        ResourceSpans { resource: self.0.resources.len() - 1, batch: self.0 }
    }
}

/// `ResourceSpans`: a resource and what it recorded.
struct ResourceSpans<'b> {
    batch: &'b mut SpanBatch,
    resource: usize,
}

impl Message for ResourceSpans<'_> {
    const NAME: &'static str = "ResourceSpans";
    const FIELDS: &'static [&'static str] = &["resource", "scopeSpans", "schemaUrl"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "scopeSpans" => {
                fields.list(&mut ScopeSpansList { batch: self.batch, resource: self.resource })?;
            }
            "resource" => {
                fields.message(&mut self.batch.resources[self.resource])?;
            }
            _ => set(&mut self.batch.resources[self.resource].schema_url, fields.string()?),
        }
        Ok(())
    }
}

impl Message for ResourceData {
    const NAME: &'static str = "Resource";
    const FIELDS: &'static [&'static str] = &["attributes", "droppedAttributesCount"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "attributes" => fields.list(&mut self.attributes)?,
            _ => set(&mut self.dropped_attributes, fields.int(EXPECTED_UINT32)?),
        }
        Ok(())
    }
}

struct ScopeSpansList<'b> {
    batch: &'b mut SpanBatch,
    resource: usize,
}

impl Repeated for ScopeSpansList<'_> {
    type Item<'a>
        = ScopeSpans<'a>
    where
        Self: 'a;
    const ITEM_BYTES: usize = size_of::<ScopeData>();

    fn append(&mut self) -> ScopeSpans<'_> {
        self.batch.scopes.push(ScopeData { resource: self.resource, ..ScopeData::default() });
        ScopeSpans { scope: self.batch.scopes.len() - 1, batch: self.batch }
    }
}

/// `ScopeSpans`: an instrumentation scope and its spans.
struct ScopeSpans<'b> {
    batch: &'b mut SpanBatch,
    scope: usize,
}

impl Message for ScopeSpans<'_> {
    const NAME: &'static str = "ScopeSpans";
    const FIELDS: &'static [&'static str] = &["scope", "spans", "schemaUrl"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "spans" => {
                fields.list(&mut SpanList { spans: &mut self.batch.spans, scope: self.scope })?;
            }
            "scope" => {
                fields.message(&mut self.batch.scopes[self.scope])?;
            }
            _ => set(&mut self.batch.scopes[self.scope].schema_url, fields.string()?),
        }
        Ok(())
    }
}

impl Message for ScopeData {
    const NAME: &'static str = "InstrumentationScope";
    const FIELDS: &'static [&'static str] =
        &["name", "version", "attributes", "droppedAttributesCount"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "name" => set(&mut self.name, fields.string()?),
            "version" => set(&mut self.version, fields.string()?),
            "attributes" => fields.list(&mut self.attributes)?,
            _ => set(&mut self.dropped_attributes, fields.int(EXPECTED_UINT32)?),
        }
        Ok(())
    }
}

struct SpanList<'b> {
    spans: &'b mut Vec<SpanData>,
    scope: usize,
}

impl Repeated for SpanList<'_> {
    type Item<'a>
        = &'a mut SpanData
    where
        Self: 'a;
    const ITEM_BYTES: usize = size_of::<SpanData>();

    fn append(&mut self) -> &mut SpanData {
        // Absent means unspecified here, unlike in spans made by this program.
        let kind = SpanKind::Unspecified;
        self.spans.push(SpanData { scope: self.scope, kind, ..SpanData::default() });
        self.spans.last_mut().expect("one was just pushed")
    }
}

impl Message for SpanData {
    const NAME: &'static str = "Span";
    const FIELDS: &'static [&'static str] = &[
        "traceId",
        "spanId",
        "parentSpanId",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "status",
        "flags",
        "events",
        "links",
        "traceState",
        "droppedAttributesCount",
        "droppedEventsCount",
        "droppedLinksCount",
    ];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "traceId" => set(
                &mut self.trace_id,
                fields.parsed(EXPECTED_TRACE_ID, |text| trace_id_or_none(text).flatten())?,
            ),
            "spanId" => set(
                &mut self.span_id,
                fields.parsed(EXPECTED_SPAN_ID, |text| span_id_or_none(text).flatten())?,
            ),
            "parentSpanId" => set(
                &mut self.parent_span_id,
                fields.parsed(EXPECTED_SPAN_ID_OR_NONE, span_id_or_none)?,
            ),
            "name" => set(&mut self.name, fields.string()?),
            "kind" => {
                let number = fields.choice("SPAN_KIND_", &KIND_NAMES, EXPECTED_KIND)?;
                set(&mut self.kind, number.and_then(SpanKind::from_number));
            }
            "startTimeUnixNano" => set(&mut self.start_unix_nano, fields.int(EXPECTED_TIME)?),
            "endTimeUnixNano" => set(&mut self.end_unix_nano, fields.int(EXPECTED_TIME)?),
            "attributes" => fields.list(&mut self.attributes)?,
            "status" => {
                fields.message(&mut Status(self))?;
            }
            "flags" => {
                if let Some(flags) = fields.int(EXPECTED_UINT32)? {
                    (self.trace_flags, self.parent_is_remote) = split_flags(flags);
                }
            }
            "events" => fields.list(&mut self.events)?,
            "links" => fields.list(&mut self.links)?,
            "traceState" => set(&mut self.trace_state, fields.string()?),
            "droppedAttributesCount" => {
                set(&mut self.dropped_attributes, fields.int(EXPECTED_UINT32)?);
            }
            "droppedEventsCount" => set(&mut self.dropped_events, fields.int(EXPECTED_UINT32)?),
            _ => set(&mut self.dropped_links, fields.int(EXPECTED_UINT32)?),
        }
        Ok(())
    }

    fn finish(&self, _: usize) -> Result<(), (&'static str, &'static str)> {
        if !self.trace_id.is_valid() {
            return Err(("traceId", EXPECTED_TRACE_ID));
        }
        if !self.span_id.is_valid() {
            return Err(("spanId", EXPECTED_SPAN_ID));
        }
        Ok(())
    }
}

/// Splits OTLP's `flags` into W3C trace flags and whether the other side is remote. Bits that the
/// protocol has not given a meaning are dropped.
fn split_flags(flags: u32) -> (u8, Option<bool>) {
    let is_remote = flags & FLAG_IS_REMOTE != 0;
    // The mask makes it fit.
    ((flags & 0xff) as u8, (flags & FLAG_HAS_IS_REMOTE != 0).then_some(is_remote))
}

/// `Status`, into the span that it belongs to.
struct Status<'s>(&'s mut SpanData);

impl Message for Status<'_> {
    const NAME: &'static str = "Status";
    const FIELDS: &'static [&'static str] = &["code", "message"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "code" => {
                let number = fields.choice("STATUS_CODE_", &STATUS_NAMES, EXPECTED_STATUS)?;
                set(&mut self.0.status, number.and_then(StatusCode::from_number));
            }
            _ => set(&mut self.0.status_message, fields.string()?),
        }
        Ok(())
    }
}

impl Message for EventData {
    const NAME: &'static str = "Event";
    const FIELDS: &'static [&'static str] =
        &["timeUnixNano", "name", "attributes", "droppedAttributesCount"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "timeUnixNano" => set(&mut self.time_unix_nano, fields.int(EXPECTED_TIME)?),
            "name" => set(&mut self.name, fields.string()?),
            "attributes" => fields.list(&mut self.attributes)?,
            _ => set(&mut self.dropped_attributes, fields.int(EXPECTED_UINT32)?),
        }
        Ok(())
    }
}

/// OpenTelemetry allows links without a valid context if they carry attributes, so IDs may be absent.
impl Message for LinkData {
    const NAME: &'static str = "Link";
    const FIELDS: &'static [&'static str] =
        &["traceId", "spanId", "traceState", "attributes", "droppedAttributesCount", "flags"];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &'static str,
        fields: &mut Fields<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "traceId" => {
                let id = fields.parsed(EXPECTED_TRACE_ID_OR_NONE, trace_id_or_none)?;
                set(&mut self.trace_id, id.map(Option::unwrap_or_default));
            }
            "spanId" => {
                let id = fields.parsed(EXPECTED_SPAN_ID_OR_NONE, span_id_or_none)?;
                set(&mut self.span_id, id.map(Option::unwrap_or_default));
            }
            "traceState" => set(&mut self.trace_state, fields.string()?),
            "attributes" => fields.list(&mut self.attributes)?,
            "flags" => {
                if let Some(flags) = fields.int(EXPECTED_UINT32)? {
                    (self.trace_flags, self.is_remote) = split_flags(flags);
                }
            }
            _ => set(&mut self.dropped_attributes, fields.int(EXPECTED_UINT32)?),
        }
        Ok(())
    }
}
