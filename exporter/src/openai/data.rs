//! One span as a `trace.span` object: what it is by its attributes, and its data by what it is.

use std::borrow::Cow;

use spanring::{StatusCode, Value};

use super::cut::cut;
use super::fields::Fields;
use super::json::Json;
use super::reasoning;
use super::trace::{Index, PARENT_ID, SPAN_ID, TRACE_ID};
use crate::model::SpanData;
use crate::render::timestamp;

const TYPE: &str = "openai.span.type";
const CUSTOM_NAME: &str = "custom.name";
const INPUT: &[&str] = &["input.value"];
const OUTPUT: &[&str] = &["output.value"];
const MODEL: &[&str] = &["gen_ai.request.model", "llm.model_name", "gen_ai.response.model"];

/// What a span is to the ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Agent,
    Generation,
    Function,
    Handoff,
    Guardrail,
    Response,
    McpTools,
    SpeechGroup,
    Speech,
    Transcription,
    Custom,
    /// Custom to the ingest, as which the SDK sends them.
    Task,
    Turn,
    /// No span at all.
    Trace,
}

impl Kind {
    const ALL: [(&'static str, Kind); 14] = [
        ("agent", Kind::Agent),
        ("generation", Kind::Generation),
        ("function", Kind::Function),
        ("handoff", Kind::Handoff),
        ("guardrail", Kind::Guardrail),
        ("response", Kind::Response),
        ("mcp_tools", Kind::McpTools),
        ("speech_group", Kind::SpeechGroup),
        ("speech", Kind::Speech),
        ("transcription", Kind::Transcription),
        ("custom", Kind::Custom),
        ("task", Kind::Task),
        ("turn", Kind::Turn),
        ("trace", Kind::Trace),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).expect("all are in the list").0
    }
}

/// What the attributes make of a span.
pub(super) fn kind(fields: Fields<'_>) -> Kind {
    let word = |name: &str| match fields.first(&[name]) {
        Some(Value::Str(text)) => Some(&**text),
        _ => None,
    };
    let said = word(TYPE)
        .and_then(|said| Kind::ALL.iter().find(|(name, _)| *name == said).map(|(_, kind)| *kind));
    let by_operation = || match word("gen_ai.operation.name")? {
        "chat" | "text_completion" | "generate_content" => Some(Kind::Generation),
        "invoke_agent" | "create_agent" => Some(Kind::Agent),
        "execute_tool" => Some(Kind::Function),
        _ => None,
    };
    let by_openinference = || match word("openinference.span.kind")? {
        "AGENT" => Some(Kind::Agent),
        "LLM" => Some(Kind::Generation),
        "TOOL" => Some(Kind::Function),
        "GUARDRAIL" => Some(Kind::Guardrail),
        _ => None,
    };
    said.or_else(by_operation).or_else(by_openinference).unwrap_or(Kind::Custom)
}

/// A span's object; `None` for one that is a trace.
pub(super) fn span<'a>(span: &'a SpanData, index: &Index<'a>) -> Option<Json<'a>> {
    let data = data(span)?;
    Some(Json::object([
        ("object", "trace.span".into()),
        ("id", index.span_id(span)),
        ("trace_id", Json::Str(index.trace_id(span))),
        ("parent_id", index.parent_id(span)),
        ("started_at", time(span.start_unix_nano)),
        ("ended_at", time(span.end_unix_nano)),
        ("span_data", data),
        ("error", error(span)),
    ]))
}

/// To the microsecond, as the SDK says it.
fn time(unix_nano: u64) -> Json<'static> {
    const NANOS: usize = "000Z".len();
    let mut text = timestamp(unix_nano);
    text.truncate(text.len() - NANOS);
    text.push_str("+00:00");
    text.into()
}

fn data(span: &SpanData) -> Option<Json<'_>> {
    let fields = Fields(&span.attributes);
    let kind = kind(fields);
    let named =
        |names: &[&str]| Json::Str(fields.text(names).unwrap_or(Cow::Borrowed(span.name.as_str())));
    let text = |names: &[&str]| fields.text(names).map(Json::Str).unwrap_or(Json::Null);
    let format = |name: &str| Json::Str(fields.text(&[name]).unwrap_or(Cow::Borrowed("pcm")));
    let of_kind = ("type", kind.name().into());
    let mut data = match kind {
        Kind::Trace => return None,
        Kind::Agent => Json::object([
            of_kind,
            ("name", named(&["gen_ai.agent.name", "agent.name"])),
            ("handoffs", fields.strings(&["agent.handoffs"])),
            ("tools", fields.strings(&["agent.tools"])),
            ("output_type", text(&["agent.output_type"])),
        ]),
        Kind::Generation => Json::object([
            of_kind,
            ("input", messages(fields, &["input.value", "gen_ai.input.messages"], "user")),
            ("output", messages(fields, &["output.value", "gen_ai.output.messages"], "assistant")),
            ("model", text(MODEL)),
            ("model_config", model_config(fields)),
            ("usage", usage(fields)),
        ]),
        Kind::Function => Json::object([
            of_kind,
            ("name", named(&["gen_ai.tool.name", "tool.name"])),
            ("input", text(&["input.value", "gen_ai.tool.call.arguments"])),
            ("output", text(&["output.value", "gen_ai.tool.call.result"])),
            ("mcp_data", fields.object(&["mcp.data"])),
        ]),
        Kind::Handoff => Json::object([
            of_kind,
            ("from_agent", text(&["handoff.from_agent"])),
            ("to_agent", text(&["handoff.to_agent"])),
        ]),
        Kind::Guardrail => Json::object([
            of_kind,
            ("name", named(&["guardrail.name"])),
            ("triggered", Json::Bool(is_true(fields.first(&["guardrail.triggered"])))),
        ]),
        Kind::Response => Json::object([of_kind, ("response_id", text(&["gen_ai.response.id"]))]),
        Kind::McpTools => Json::object([
            of_kind,
            ("server", text(&["mcp.server"])),
            ("result", fields.strings(&["mcp.result"])),
        ]),
        Kind::SpeechGroup => Json::object([of_kind, ("input", text(INPUT))]),
        Kind::Speech => Json::object([
            of_kind,
            ("input", text(INPUT)),
            ("output", audio(fields, OUTPUT, format("speech.output_format"))),
            ("model", text(MODEL)),
            ("model_config", model_config(fields)),
            ("first_content_at", text(&["speech.first_content_at"])),
        ]),
        Kind::Transcription => Json::object([
            of_kind,
            ("input", audio(fields, INPUT, format("transcription.input_format"))),
            ("output", text(OUTPUT)),
            ("model", text(MODEL)),
            ("model_config", model_config(fields)),
        ]),
        Kind::Custom => {
            Json::object([of_kind, ("name", named(&[CUSTOM_NAME])), ("data", custom_data(fields))])
        }
        Kind::Task | Kind::Turn => {
            let name = fields.text(&[CUSTOM_NAME]).unwrap_or(Cow::Borrowed(kind.name()));
            Json::object([
                ("type", Kind::Custom.name().into()),
                ("name", Json::Str(name)),
                ("data", sdk_data(span, kind)),
            ])
        }
    };
    if let Json::Object(entries) = &mut data {
        for (key, value) in entries {
            if key == "input" || key == "output" {
                cut(value);
            }
        }
    }
    Some(data)
}

/// What must be an array of messages; what is none becomes one, said by `role`.
fn messages<'a>(fields: Fields<'a>, names: &[&str], role: &'static str) -> Json<'a> {
    let message = |item| match item {
        Json::Object(_) => item,
        content => Json::object([("role", role.into()), ("content", content)]),
    };
    let mut messages = match fields.structure(names) {
        Json::Null => return Json::Null,
        Json::Array(items) => Json::Array(items.into_iter().map(message).collect()),
        other => Json::Array(vec![message(other)]),
    };
    reasoning::leave_out(&mut messages);
    messages
}

fn audio<'a>(fields: Fields<'a>, names: &[&str], format: Json<'a>) -> Json<'a> {
    let data = fields.text(names).unwrap_or_default();
    Json::object([("data", Json::Str(data)), ("format", format)])
}

fn model_config(fields: Fields<'_>) -> Json<'_> {
    match fields.object(&["llm.invocation_parameters"]) {
        Json::Null => match fields.under("gen_ai.request.", &["model"]) {
            none if none.is_empty() => Json::Null,
            some => Json::Object(some),
        },
        config => config,
    }
}

/// Token counts, all but the two that the ingest knows among the details; null without those two.
fn usage(fields: Fields<'_>) -> Json<'_> {
    const INPUT: &str = "input_tokens";
    const OUTPUT: &str = "output_tokens";
    let count = |name: &str| match fields.first(&[name])? {
        Value::Int(count) => Some(Json::Int(*count)),
        Value::Double(count) if count.is_finite() => Some(Json::Double(*count)),
        _ => None,
    };
    let (Some(input), Some(output)) =
        (count("gen_ai.usage.input_tokens"), count("gen_ai.usage.output_tokens"))
    else {
        return Json::Null;
    };
    let mut details = match fields.structure(&["gen_ai.usage.details"]) {
        Json::Object(details) => details,
        _ => Vec::new(),
    };
    details.extend(fields.under("gen_ai.usage.", &[INPUT, OUTPUT, "details"]));
    let mut usage = vec![(Cow::Borrowed(INPUT), input), (Cow::Borrowed(OUTPUT), output)];
    if !details.is_empty() {
        usage.push((Cow::Borrowed("details"), Json::Object(details)));
    }
    Json::Object(usage)
}

fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(value)) => *value,
        Some(Value::Str(text)) => text == "true",
        _ => false,
    }
}

/// What the span brought for the ingest, or else all that is known of it.
fn custom_data(fields: Fields<'_>) -> Json<'_> {
    const KNOWN: [&str; 5] = [TRACE_ID, SPAN_ID, PARENT_ID, TYPE, CUSTOM_NAME];
    match fields.object(&["custom.data"]) {
        Json::Null => {
            let others = fields.0.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str()));
            let entries = others.map(|(key, value)| (Cow::Borrowed(&**key), value.into()));
            Json::Object(entries.collect())
        }
        data => data,
    }
}

/// The same with what the SDK puts there itself.
fn sdk_data(span: &SpanData, kind: Kind) -> Json<'_> {
    let mut data = custom_data(Fields(&span.attributes));
    let mut missing = vec![("sdk_span_type", Json::from(kind.name()))];
    if kind == Kind::Task {
        missing.push(("name", span.name.as_str().into()));
    }
    missing.retain(|(key, _)| data.get(key).is_none());
    if let Json::Object(entries) = &mut data {
        let missing = missing.into_iter().map(|(key, value)| (Cow::Borrowed(key), value));
        entries.splice(0..0, missing);
    }
    data
}

fn error(span: &SpanData) -> Json<'_> {
    if span.status != StatusCode::Error {
        return Json::Null;
    }
    let exception = span.events.iter().rev().find(|event| event.name == "exception");
    let fields = Fields(exception.map_or(&[], |event| &event.attributes));
    let message = match &*span.status_message {
        "" => fields.text(&["exception.message"]).unwrap_or(Cow::Borrowed("error")),
        message => Cow::Borrowed(message),
    };
    let data = match fields.0 {
        [] => Json::Null,
        all => {
            Json::Object(all.iter().map(|(key, value)| ((&**key).into(), value.into())).collect())
        }
    };
    Json::object([("message", Json::Str(message)), ("data", data)])
}
