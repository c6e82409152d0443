//! The table of all settings, the single source of parser, explanation, documentation and tests.
//!
//! To add a setting: add its field to [`Settings`](super::Settings), a row here, a method to the
//! builder, and regenerate `docs/settings.md` (its test says how). Nothing else lists settings.
//!
//! Invariants, tested: suffixes, fields and names are unique; every default and every preset's
//! value parses; `PRESET` comes first and `SAMPLER` before `SAMPLER_ARG`, because they decide how
//! later rows are read.

use std::time::Duration;

use super::choice::{Level, Preset};
use super::parse::{Data, Kind};
use super::row::{Access, ROW, Row, integer, optional, optional_integer, plain, text};
use crate::rules::{Details, Levels, Rules};

/// The row of a field.
pub(super) fn row_index(field: &str) -> Option<usize> {
    TABLE.iter().position(|row| row.access.field == field)
}

const fn duration_ms(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// OpenTelemetry asks for limits up to 2³¹ − 1.
const fn limit(unit: &'static str) -> Kind {
    Kind::Integer { min: 0, max: i32::MAX as i64, unit }
}

/// All settings.
pub(super) static TABLE: &[Row] = &[
    Row {
        suffix: "PRESET",
        kind: Kind::Preset,
        access: optional!(Preset, preset),
        unset: Some("no preset"),
        live: false,
        description: "Values for a kind of use; code and environment override each of them.",
        ..ROW
    },
    Row {
        suffix: "CONFIG",
        kind: Kind::Path,
        access: optional!(Path, config),
        unset: Some("no file"),
        live: false,
        description: "A TOML file with settings, read at the start and whenever it changes; it wins over code and environment.",
        ..ROW
    },
    Row {
        suffix: "MAX_SPANS",
        kind: Kind::Integer { min: 16, max: 1 << 24, unit: "spans" },
        access: integer!(max_spans),
        default: "65536",
        otel: &["OTEL_BSP_MAX_QUEUE_SIZE"],
        presets: &[(Preset::Raaf, "1000"), (Preset::Production, "5000")],
        description: "Spans that may be resident at once; what exceeds it is dropped and counted.",
        ..ROW
    },
    Row {
        suffix: "MAX_BYTES",
        kind: Kind::Bytes { min: 1 << 20, max: 1 << 40 },
        access: integer!(max_bytes),
        default: "64MiB",
        description: "Memory for rings, large values, sealed batches and queues together.",
        ..ROW
    },
    Row {
        suffix: "OVERFLOW",
        kind: Kind::Overflow,
        access: plain!(Overflow, overflow),
        default: "drop",
        description: "What becomes of a span that finds no room: it is dropped, or its thread waits up to so many milliseconds for the flusher first.",
        ..ROW
    },
    Row {
        suffix: "BATCH_SIZE",
        kind: Kind::Integer { min: 1, max: 65536, unit: "spans" },
        access: integer!(batch_size),
        default: "512",
        otel: &["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"],
        presets: &[
            (Preset::Raaf, "50"),
            (Preset::Realtime, "10"),
            (Preset::Throughput, "500"),
            (Preset::Production, "100"),
        ],
        description: "Spans in a batch; as soon as so many are pending they are sealed.",
        ..ROW
    },
    Row {
        suffix: "FLUSH_INTERVAL",
        kind: duration_ms(1, HOUR_MS),
        access: plain!(Duration, flush_interval),
        default: "5",
        otel: &["OTEL_BSP_SCHEDULE_DELAY"],
        presets: &[
            (Preset::Raaf, "5"),
            (Preset::Realtime, "1"),
            (Preset::Throughput, "30"),
            (Preset::Production, "10"),
        ],
        description: "How long a span may be pending before it is sealed.",
        ..ROW
    },
    Row {
        suffix: "MAX_BATCH_WAIT",
        kind: duration_ms(1, DAY_MS),
        access: plain!(Duration, max_batch_wait),
        default: "30",
        otel: &["OTEL_BSP_EXPORT_TIMEOUT"],
        presets: &[(Preset::Raaf, "30")],
        description: "How long a sealed batch may wait in memory for a sink; then it goes to the spool, or without DIR is dropped and counted.",
        ..ROW
    },
    Row {
        suffix: "CLEANUP_INTERVAL",
        kind: duration_ms(1, DAY_MS),
        access: plain!(Duration, cleanup_interval),
        default: "60",
        presets: &[(Preset::Raaf, "60"), (Preset::Production, "300")],
        description: "How often idle memory is given back and the retention cap is applied.",
        ..ROW
    },
    Row {
        suffix: "RETRY_ATTEMPTS",
        kind: Kind::Integer { min: 0, max: 1000, unit: "attempts" },
        access: optional_integer!(retry_attempts),
        unset: Some("as many as MAX_BATCH_WAIT allows"),
        presets: &[(Preset::Production, "3")],
        description: "How often a batch is tried again that a sink could not take.",
        ..ROW
    },
    Row {
        suffix: "DIR",
        kind: Kind::Path,
        access: optional!(Path, dir),
        unset: Some("no segments are written"),
        live: false,
        description: "Directory of the local segments.",
        ..ROW
    },
    Row {
        suffix: "RETENTION_BYTES",
        kind: Kind::Bytes { min: 64 << 10, max: 1 << 50 },
        access: integer!(retention_bytes),
        default: "1GiB",
        description: "What all segments in DIR may take together; the oldest are deleted first.",
        live: false,
        ..ROW
    },
    Row {
        suffix: "SEGMENT_MAX_BYTES",
        kind: Kind::Bytes { min: 4 << 10, max: 1 << 40 },
        access: integer!(segment_max_bytes),
        default: "64MiB",
        description: "Size at which a segment is closed and the next one begun.",
        live: false,
        ..ROW
    },
    Row {
        suffix: "SEGMENT_MAX_AGE",
        kind: duration_ms(1, 30 * DAY_MS),
        access: plain!(Duration, segment_max_age),
        default: "3600",
        description: "Age at which a segment is closed and the next one begun.",
        live: false,
        ..ROW
    },
    Row {
        suffix: "FSYNC",
        kind: Kind::Switch,
        access: plain!(Switch, fsync),
        default: "false",
        description: "Whether each batch is synced to the disk before it counts as delivered.",
        live: false,
        ..ROW
    },
    Row {
        suffix: "ENDPOINT",
        kind: Kind::Endpoint,
        access: optional!(Text, endpoint),
        unset: Some("nothing is sent"),
        otel: &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
        live: false,
        description: "Where spans are sent as OTLP over HTTP; without a path, /v1/traces is added.",
        ..ROW
    },
    Row {
        suffix: "PROTOCOL",
        kind: Kind::Word(&["http/protobuf"]),
        access: text!(protocol),
        default: "http/protobuf",
        otel: &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
        live: false,
        description: "How OTLP is sent; there is one way.",
        ..ROW
    },
    Row {
        suffix: "HEADERS",
        kind: Kind::Headers,
        access: plain!(Headers, headers),
        otel: &["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
        live: false,
        description: "Headers of every request to ENDPOINT; their values are shown nowhere.",
        ..ROW
    },
    Row {
        suffix: "COMPRESSION",
        kind: Kind::Word(&["none", "gzip", "zstd"]),
        access: text!(compression),
        default: "none",
        otel: &["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"],
        presets: &[(Preset::Throughput, "gzip")],
        live: false,
        description: "Compression of requests; a server that refuses it is sent the next simpler one.",
        ..ROW
    },
    Row {
        suffix: "TIMEOUT",
        kind: duration_ms(1, HOUR_MS),
        access: plain!(Duration, timeout),
        default: "10",
        otel: &["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"],
        live: false,
        description: "How long one request may take, connecting and its answer included.",
        ..ROW
    },
    Row {
        suffix: "CERTIFICATE",
        kind: Kind::Path,
        access: optional!(Path, certificate),
        unset: Some("the system's roots"),
        otel: &["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"],
        live: false,
        description: "File with the certificates (PEM) that a server's must lead back to.",
        ..ROW
    },
    Row {
        suffix: "CLIENT_CERTIFICATE",
        kind: Kind::Path,
        access: optional!(Path, client_certificate),
        unset: Some("the server gets none"),
        otel: &[
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        ],
        live: false,
        description: "File with our own certificate chain (PEM), for servers that ask for one.",
        ..ROW
    },
    Row {
        suffix: "CLIENT_KEY",
        kind: Kind::Path,
        access: optional!(Path, client_key),
        unset: Some("the server gets none"),
        otel: &["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"],
        live: false,
        description: "File with the private key (PEM) of CLIENT_CERTIFICATE.",
        ..ROW
    },
    Row {
        suffix: "POOL_SIZE",
        kind: Kind::Integer { min: 1, max: 64, unit: "connections" },
        access: integer!(pool_size),
        default: "2",
        live: false,
        description: "Connections to ENDPOINT, each with one request at a time.",
        ..ROW
    },
    Row {
        suffix: "OPENAI",
        kind: Kind::Switch,
        access: plain!(Switch, openai),
        default: "false",
        live: false,
        description: "Whether spans are sent to OpenAI's trace ingest; docs/openai.md says as what.",
        ..ROW
    },
    Row {
        suffix: "OPENAI_BASE_URL",
        kind: Kind::BaseUrl,
        access: text!(openai_base_url),
        default: "https://api.openai.com/v1",
        live: false,
        description: "Where OpenAI's API is. The variable OPENAI_BASE_URL does not count: applications set it to proxies of models.",
        ..ROW
    },
    Row {
        suffix: "OPENAI_API_KEY",
        kind: Kind::Secret,
        access: optional!(Secret, openai_api_key),
        unset: Some("nothing is sent to OpenAI"),
        aliases: &["OPENAI_API_KEY"],
        live: false,
        description: "The key for OpenAI's API; it is shown nowhere.",
        ..ROW
    },
    Row {
        suffix: "OPENAI_ORG_ID",
        kind: Kind::HeaderValue,
        access: optional!(Text, openai_org_id),
        unset: Some("the key's own"),
        aliases: &["OPENAI_ORG_ID"],
        live: false,
        description: "The organization that requests to OpenAI name.",
        ..ROW
    },
    Row {
        suffix: "OPENAI_PROJECT_ID",
        kind: Kind::HeaderValue,
        access: optional!(Text, openai_project_id),
        unset: Some("the key's own"),
        aliases: &["OPENAI_PROJECT_ID"],
        live: false,
        description: "The project that requests to OpenAI name.",
        ..ROW
    },
    Row {
        suffix: "SPOOL_MAX_BYTES",
        kind: Kind::Bytes { min: 64 << 10, max: 1 << 50 },
        access: integer!(spool_max_bytes),
        default: "256MiB",
        live: false,
        description: "What batches for one receiver may take below DIR; the oldest are dropped and counted.",
        ..ROW
    },
    Row {
        suffix: "SPOOL_MAX_AGE",
        kind: duration_ms(1000, 365 * DAY_MS),
        access: plain!(Duration, spool_max_age),
        default: "86400",
        live: false,
        description: "How long a batch for a receiver is kept below DIR; then it is dropped and counted.",
        ..ROW
    },
    Row {
        suffix: "COMPRESSION_LEVEL",
        kind: Kind::Integer { min: -7, max: 19, unit: "" },
        access: integer!(compression_level),
        default: "1",
        description: "zstd's level for batches; higher is smaller and slower.",
        ..ROW
    },
    Row {
        suffix: "SAMPLER",
        kind: Kind::Sampler,
        access: Access {
            field: "sampler",
            get: |s| Data::Sampler(s.sampler.with_default_argument()),
            set: |s, data| {
                if let Data::Sampler(sampler) = data {
                    s.sampler = sampler.with_default_argument();
                }
            },
        },
        default: "parentbased_always_on",
        otel: &["OTEL_TRACES_SAMPLER"],
        description: "Which spans are recorded.",
        ..ROW
    },
    Row {
        suffix: "SAMPLER_ARG",
        kind: Kind::SamplerArgument,
        access: Access {
            field: "sampler_arg",
            get: |s| match s.sampler.argument() {
                Some(_) => Data::Root(s.sampler.root),
                None => Data::Nothing,
            },
            // `Nothing` leaves the default that setting the sampler put there.
            set: |s, data| {
                if let Data::Root(root) = data {
                    s.sampler.root = root;
                }
            },
        },
        unset: Some("the sampler takes none"),
        otel: &["OTEL_TRACES_SAMPLER_ARG"],
        description: "Share of traces (1 if unset), every how many (1), or spans a second (100).",
        ..ROW
    },
    Row {
        suffix: "RULES",
        kind: Kind::Rules,
        access: Access {
            field: "rules",
            get: |s| match s.rules.is_empty() {
                true => Data::Nothing,
                false => Data::Rules(s.rules.clone()),
            },
            set: |s, data| match data {
                Data::Rules(rules) => s.rules = rules,
                Data::Nothing => s.rules = Rules::default(),
                _ => {}
            },
        },
        unset: Some("no rules"),
        description: "Which sampler decides about which spans, in order, before SAMPLER does; docs/sampling.md says how.",
        ..ROW
    },
    Row {
        suffix: "LEVEL",
        kind: Kind::Word(&["none", "minimal", "smart", "full"]),
        access: Access {
            field: "level",
            get: |s| Data::Text(s.level.name().to_owned()),
            set: |s, data| {
                if let Data::Text(text) = data {
                    s.level = Level::from_name(&text).unwrap_or(s.level);
                }
            },
        },
        default: "full",
        description: "Which spans there are: none, roots and errors, what is probably worth it, or all. Where nobody sets it, RAILS_ENV or ENVIRONMENT decides.",
        ..ROW
    },
    Row {
        suffix: "LEVELS",
        kind: Kind::Levels,
        access: Access {
            field: "levels",
            get: |s| match s.levels.is_empty() {
                true => Data::Nothing,
                false => Data::Levels(s.levels.clone()),
            },
            set: |s, data| match data {
                Data::Levels(levels) => s.levels = levels,
                Data::Nothing => s.levels = Levels::default(),
                _ => {}
            },
        },
        unset: Some("LEVEL for all"),
        description: "LEVEL for instrumentation scopes and names of spans; the first that matches counts.",
        ..ROW
    },
    Row {
        suffix: "BASIC_TRACING",
        kind: Kind::Switch,
        access: plain!(Switch, basic_tracing),
        default: "true",
        aliases: &["ENABLE_BASIC_TRACING"],
        description: "Whether there are spans that are not about details.",
        ..ROW
    },
    Row {
        suffix: "DETAILED_TRACING",
        kind: Kind::Switch,
        access: plain!(Switch, detailed_tracing),
        default: "false",
        aliases: &["ENABLE_DETAILED_TRACING"],
        description: "Whether there are spans that are about details, and with them all others.",
        ..ROW
    },
    Row {
        suffix: "DETAILS",
        kind: Kind::Details,
        access: Access {
            field: "details",
            get: |s| match s.details.is_empty() {
                true => Data::Nothing,
                false => Data::Details(s.details.clone()),
            },
            set: |s, data| match data {
                Data::Details(details) => s.details = details,
                Data::Nothing => s.details = Details::default(),
                _ => {}
            },
        },
        unset: Some("the same for all"),
        description: "How much detail instrumentation scopes and names of spans have; the first that matches counts.",
        ..ROW
    },
    Row {
        suffix: "DISABLED",
        kind: Kind::Switch,
        access: plain!(Switch, disabled),
        default: "false",
        otel: &["OTEL_SDK_DISABLED"],
        aliases: &["RAAF_DISABLE_TRACING"],
        description: "Whether nothing is recorded at all.",
        ..ROW
    },
    Row {
        suffix: "CAPTURE_CONTENT",
        kind: Kind::Switch,
        access: plain!(Switch, capture_content),
        default: "true",
        live: false,
        description: "Whether integrations for AI frameworks record prompts, completions, and what tools take and give.",
        ..ROW
    },
    Row {
        suffix: "LOG_LEVEL",
        kind: Kind::Level,
        access: plain!(Level, log_level),
        default: "warn",
        otel: &["OTEL_LOG_LEVEL"],
        aliases: &["RAAF_LOG_LEVEL"],
        description: "The least severe messages that the engine itself writes.",
        ..ROW
    },
    Row {
        suffix: "RESOURCE_ATTRIBUTES",
        kind: Kind::Attributes,
        access: plain!(Attributes, resource_attributes),
        otel: &["OTEL_RESOURCE_ATTRIBUTES"],
        live: false,
        description: "Attributes of the resource that all spans belong to.",
        ..ROW
    },
    Row {
        suffix: "SERVICE_NAME",
        kind: Kind::Text,
        access: text!(service_name),
        unset: Some("service.name in RESOURCE_ATTRIBUTES, else unknown_service:PROGRAM"),
        otel: &["OTEL_SERVICE_NAME"],
        live: false,
        description: "The resource's service.name.",
        ..ROW
    },
    Row {
        suffix: "PROPAGATORS",
        kind: Kind::Propagators,
        access: plain!(Propagators, propagators),
        default: "tracecontext,baggage",
        otel: &["OTEL_PROPAGATORS"],
        live: false,
        description: "Formats in which span context is injected and extracted.",
        ..ROW
    },
    Row {
        suffix: "ATTRIBUTE_COUNT_LIMIT",
        kind: limit("attributes"),
        access: integer!(attribute_count_limit),
        default: "128",
        otel: &["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"],
        description: "Attributes of a span that are kept; what is cut is counted.",
        ..ROW
    },
    Row {
        suffix: "ATTRIBUTE_VALUE_LENGTH_LIMIT",
        kind: limit("characters"),
        access: optional_integer!(attribute_value_length_limit),
        unset: Some("unlimited"),
        otel: &["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"],
        description: "Characters of a string attribute that are kept.",
        ..ROW
    },
    Row {
        suffix: "EVENT_COUNT_LIMIT",
        kind: limit("events"),
        access: integer!(event_count_limit),
        default: "128",
        otel: &["OTEL_SPAN_EVENT_COUNT_LIMIT"],
        description: "Events of a span that are kept.",
        ..ROW
    },
    Row {
        suffix: "LINK_COUNT_LIMIT",
        kind: limit("links"),
        access: integer!(link_count_limit),
        default: "128",
        otel: &["OTEL_SPAN_LINK_COUNT_LIMIT"],
        description: "Links of a span that are kept.",
        ..ROW
    },
    Row {
        suffix: "EVENT_ATTRIBUTE_COUNT_LIMIT",
        kind: limit("attributes"),
        access: integer!(event_attribute_count_limit),
        default: "128",
        otel: &["OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT"],
        description: "Attributes of an event that are kept.",
        ..ROW
    },
    Row {
        suffix: "LINK_ATTRIBUTE_COUNT_LIMIT",
        kind: limit("attributes"),
        access: integer!(link_attribute_count_limit),
        default: "128",
        otel: &["OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"],
        description: "Attributes of a link that are kept.",
        ..ROW
    },
    Row {
        suffix: "METRICS",
        kind: Kind::Switch,
        access: plain!(Switch, metrics),
        default: "false",
        description: "Whether spans are measured by name and kind; REPORT_EVERY and STATUS_ADDRESS switch that on, too.",
        ..ROW
    },
    Row {
        suffix: "REPORT_EVERY",
        kind: Kind::Integer { min: 0, max: 1 << 40, unit: "spans" },
        access: integer!(report_every),
        default: "0",
        description: "Spans after which one line in the log sums up what was measured, whatever LOG_LEVEL says; 0 is never.",
        ..ROW
    },
    Row {
        suffix: "HEALTH_MAX_MEMORY",
        kind: Kind::Bytes { min: 1 << 20, max: 1 << 50 },
        access: integer!(health_max_memory),
        default: "1000MiB",
        description: "Resident memory of the process beyond which it does not count as healthy.",
        ..ROW
    },
    Row {
        suffix: "HEALTH_MAX_ERROR_RATE",
        kind: Kind::Share,
        access: plain!(Share, health_max_error_rate),
        default: "0.05",
        description: "Share of the spans of the last minute with an error beyond which the process does not count as healthy.",
        ..ROW
    },
    Row {
        suffix: "HEALTH_SINK_GRACE",
        kind: duration_ms(1, DAY_MS),
        access: plain!(Duration, health_sink_grace),
        default: "30",
        description: "How long spans may wait for a sink that takes none before the pipeline does not count as healthy.",
        ..ROW
    },
    Row {
        suffix: "STATUS_ADDRESS",
        kind: Kind::Address,
        access: optional!(Address, status_address),
        unset: Some("no endpoint"),
        live: false,
        description: "Where health, metrics and settings can be asked for over HTTP; port 0 is any that is free.",
        ..ROW
    },
    Row {
        suffix: "STATUS_ANY_ADDRESS",
        kind: Kind::Switch,
        access: plain!(Switch, status_any_address),
        default: "false",
        live: false,
        description: "Whether STATUS_ADDRESS may be 0.0.0.0 or [::], which is every address of the machine.",
        ..ROW
    },
    Row {
        suffix: "ALERTS",
        kind: Kind::Switch,
        access: plain!(Switch, alerts),
        default: "false",
        description: "Whether alerts are looked for; ALERT_WEBHOOK switches that on, too. HEALTH_MAX_MEMORY and HEALTH_SINK_GRACE are limits of theirs as well.",
        ..ROW
    },
    Row {
        suffix: "ALERT_WEBHOOK",
        kind: Kind::Webhook,
        access: optional!(Secret, alert_webhook),
        unset: Some("no request is sent"),
        live: false,
        description: "A URL to which each alert is sent as JSON; it is shown nowhere.",
        ..ROW
    },
    Row {
        suffix: "ALERT_INTERVAL",
        kind: duration_ms(1, DAY_MS),
        access: plain!(Duration, alert_interval),
        default: "10",
        description: "How soon after something came it is looked at for alerts; after 1000 spans that happens at once.",
        ..ROW
    },
    Row {
        suffix: "ALERT_COOLDOWN",
        kind: duration_ms(1, DAY_MS),
        access: plain!(Duration, alert_cooldown),
        default: "300",
        description: "How long after an alert there is no other of its type.",
        ..ROW
    },
    Row {
        suffix: "ALERT_ERROR_RATE",
        kind: Kind::Share,
        access: plain!(Share, alert_error_rate),
        default: "0.05",
        description: "Share of spans with an error beyond which there is an alert; 1 is never.",
        ..ROW
    },
    Row {
        suffix: "ALERT_SLOW_TIME",
        kind: duration_ms(1, DAY_MS),
        access: plain!(Duration, alert_slow_time),
        default: "1",
        description: "How long a span takes that counts as slow if it takes longer.",
        ..ROW
    },
    Row {
        suffix: "ALERT_SLOW_RATE",
        kind: Kind::Share,
        access: plain!(Share, alert_slow_rate),
        default: "0.1",
        description: "Share of slow spans beyond which there is an alert; 1 is never.",
        ..ROW
    },
    Row {
        suffix: "ALERT_P99",
        kind: duration_ms(1, DAY_MS),
        access: optional!(Duration, alert_p99),
        unset: Some("never"),
        description: "Duration beyond which there is an alert if one span of a hundred takes longer.",
        ..ROW
    },
    Row {
        suffix: "ALERT_DROP_RATE",
        kind: Kind::Share,
        access: plain!(Share, alert_drop_rate),
        default: "0.01",
        description: "Share of dropped spans beyond which there is an alert; 1 is never.",
        ..ROW
    },
    Row {
        suffix: "REDACT",
        kind: Kind::Text,
        access: text!(redact),
        unset: Some("nothing"),
        description: "Keys of attributes whose values become [REDACTED] before anything is written or sent, separated by commas; * stands for anything, and case does not count.",
        ..ROW
    },
    Row {
        suffix: "TRACK_ERRORS",
        kind: Kind::Switch,
        access: plain!(Switch, track_errors),
        default: "false",
        description: "Whether spans with an error are grouped by name, type and message, for Pipeline::errors.",
        ..ROW
    },
    Row {
        suffix: "PROCESSOR_MAX_TIME",
        kind: duration_ms(1, HOUR_MS),
        access: plain!(Duration, processor_max_time),
        default: "0.1",
        description: "How long a processor may take for a batch; one that takes longer three times running is switched off.",
        ..ROW
    },
    Row {
        suffix: "MEMORY_PROFILE",
        kind: Kind::Text,
        access: text!(memory_profile),
        unset: Some("no span"),
        description: "Names of spans that say by how much the process's memory grew meanwhile, separated by commas; * stands for anything.",
        ..ROW
    },
];
