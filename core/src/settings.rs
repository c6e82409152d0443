//! Settings: what an application, its operator and the defaults together decide.
//!
//! `settings/table.rs` is the one list of all settings: the parser, [`Settings::explain`], `docs/settings.md`
//! and the tests are made from it. A value is looked for in layers, and the latest layer that has
//! a valid one wins: defaults, a [`Preset`], code ([`SettingsBuilder`]), environment variables (in
//! the order `SPANRING_X`, `RAAF_TRACE_X`, OpenTelemetry's names, other aliases), and above them what changes
//! while the program runs: the file that `CONFIG` names, and live calls.
//!
//! It never fails and never prints: a value that cannot be used is described once in
//! [`Settings::problems`], and the next lower layer decides. It never changes the environment, and
//! reads it only in [`SettingsBuilder::build`].
//!
//! Invariants: every field of a freshly built [`Settings`] lies in its documented range; `batch_size <=
//! max_spans`, `max_spans` spans fit in `max_bytes`, `segment_max_bytes <= retention_bytes`; every
//! field knows its [`Source`].

mod builder;
mod choice;
#[cfg(test)]
mod docs;
mod explain;
mod explain_span;
mod layers;
mod parse;
mod problem;
mod row;
mod sampler;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::rules::{Details, Levels, RuleError, Rules, Scoped};
pub use builder::SettingsBuilder;
pub use choice::{Detail, Headers, Level, LogLevel, Overflow, Preset, Propagator, Secret, Source};
pub use explain::{ExplainTable, Explained};
pub use explain_span::{RuleExplained, SpanExplained, SpanQuery, Verdict};
pub use layers::FileProblem;
pub use problem::Problem;
pub use sampler::{RATE_LIMIT_DEFAULT, RATE_LIMIT_MAX, RootSampler, SamplerSetting};

use layers::Layers;
use table::{TABLE, row_index};

/// All settings, with values that are valid and fit together.
///
/// [`Settings::default`] holds the defaults alone; [`SettingsBuilder`] adds a preset, code and
/// environment. The fields are plain data. What is assigned to them afterwards is not checked, so
/// prefer the builder.
///
/// ```
/// use spanring::settings::{Preset, SettingsBuilder};
///
/// let settings = SettingsBuilder::new()
///     .preset(Preset::Raaf)
///     .max_spans(2000)
///     .ignore_environment()
///     .build();
/// assert_eq!(settings.batch_size, 50);
/// assert_eq!(settings.max_spans, 2000);
/// assert!(settings.problems().is_empty());
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// Values for a kind of use; they stand below code and environment.
    pub preset: Option<Preset>,
    /// A file with settings, which is watched; `None`: there is none.
    pub config: Option<PathBuf>,
    /// Spans that may be resident at once: recorded, and not yet sealed in a batch.
    pub max_spans: usize,
    /// Bytes that rings, large values, sealed batches and queues may hold together.
    pub max_bytes: u64,
    /// What becomes of a span that finds no room.
    pub overflow: Overflow,
    /// Spans in a batch; as soon as so many are pending, they are sealed.
    pub batch_size: usize,
    /// How long a span may be pending before it is sealed.
    pub flush_interval: Duration,
    /// How long a sealed batch may wait for a sink.
    pub max_batch_wait: Duration,
    /// How often idle memory is given back and the retention cap is applied.
    pub cleanup_interval: Duration,
    /// How often a batch is tried again; `None`: as often as `max_batch_wait` allows.
    pub retry_attempts: Option<u32>,
    /// Directory of the local segments; `None`: no segments are written.
    pub dir: Option<PathBuf>,
    /// Size in bytes at which a segment is closed.
    pub segment_max_bytes: u64,
    /// Age at which a segment is closed.
    pub segment_max_age: Duration,
    /// Bytes that all segments in `dir` may take together.
    pub retention_bytes: u64,
    /// Whether each batch is synced to the disk before it counts as delivered.
    pub fsync: bool,
    /// Where spans are sent as OTLP over HTTP, with its path; `None`: nothing is sent.
    pub endpoint: Option<String>,
    /// How OTLP is sent.
    pub protocol: String,
    /// Headers of every request, names unique. The values may be secret.
    pub headers: Headers,
    /// Compression of requests: `none`, `gzip` or `zstd`.
    pub compression: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// File with the certificates that a server's must lead back to; `None`: the system's.
    pub certificate: Option<PathBuf>,
    /// File with our own certificate chain.
    pub client_certificate: Option<PathBuf>,
    /// File with its private key.
    pub client_key: Option<PathBuf>,
    /// Connections to the endpoint.
    pub pool_size: usize,
    /// Whether spans are sent to OpenAI's trace ingest.
    pub openai: bool,
    /// Where its API is.
    pub openai_base_url: String,
    /// The key for it; without one nothing is sent there.
    pub openai_api_key: Option<Secret>,
    /// The organization that requests name.
    pub openai_org_id: Option<String>,
    /// The project that requests name.
    pub openai_project_id: Option<String>,
    /// Bytes that the spool may take.
    pub spool_max_bytes: u64,
    /// How long a batch may stay in the spool.
    pub spool_max_age: Duration,
    /// zstd's level for batches.
    pub compression_level: i32,
    /// Which spans are recorded.
    pub sampler: SamplerSetting,
    /// Rules that decide about a span before the sampler does.
    pub rules: Rules,
    /// Which spans there are.
    pub level: Level,
    /// The same for scopes and names of spans.
    pub levels: Levels,
    /// Whether there are spans about what there is to know in any case.
    pub basic_tracing: bool,
    /// Whether there are spans about details.
    pub detailed_tracing: bool,
    /// How much detail scopes and names of spans have.
    pub details: Details,
    /// Whether nothing is recorded at all.
    pub disabled: bool,
    /// Whether integrations record prompts, completions, and what tools take and give.
    pub capture_content: bool,
    /// The least severe messages that the engine itself writes.
    pub log_level: LogLevel,
    /// The resource's `service.name`; never empty.
    pub service_name: String,
    /// Attributes of the resource, keys unique, in the order given; see [`Settings::resource`].
    pub resource_attributes: Vec<(String, String)>,
    /// Formats in which span context is injected and extracted, without repetition.
    pub propagators: Vec<Propagator>,
    /// Attributes of a span that are kept.
    pub attribute_count_limit: u32,
    /// Characters of a string attribute that are kept; `None`: all.
    pub attribute_value_length_limit: Option<usize>,
    /// Events of a span that are kept.
    pub event_count_limit: u32,
    /// Links of a span that are kept.
    pub link_count_limit: u32,
    /// Attributes of an event that are kept.
    pub event_attribute_count_limit: u32,
    /// Attributes of a link that are kept.
    pub link_attribute_count_limit: u32,
    /// Whether spans are measured by name and kind.
    pub metrics: bool,
    /// Spans after which a line in the log sums up what was measured; 0: never.
    pub report_every: u64,
    /// Bytes of the process beyond which it does not count as healthy.
    pub health_max_memory: u64,
    /// Share of spans with an error beyond which the process does not count as healthy.
    pub health_max_error_rate: f64,
    /// How long a sink may keep spans waiting before the pipeline does not count as healthy.
    pub health_sink_grace: Duration,
    /// Where the status endpoint listens; `None`: there is none.
    pub status_address: Option<SocketAddr>,
    /// Whether that may be an address that stands for all of the machine's.
    pub status_any_address: bool,
    /// Whether alerts are looked for.
    pub alerts: bool,
    /// Where each alert is sent; `None`: nowhere.
    pub alert_webhook: Option<Secret>,
    /// How soon after something came it is looked at for alerts.
    pub alert_interval: Duration,
    /// How long after an alert there is no other of its type.
    pub alert_cooldown: Duration,
    /// Share of spans with an error beyond which there is an alert.
    pub alert_error_rate: f64,
    /// How long a span takes that counts as slow if it takes longer.
    pub alert_slow_time: Duration,
    /// Share of slow spans beyond which there is an alert.
    pub alert_slow_rate: f64,
    /// Duration beyond which there is an alert if one span of a hundred takes longer.
    pub alert_p99: Option<Duration>,
    /// Share of dropped spans beyond which there is an alert.
    pub alert_drop_rate: f64,
    /// Patterns of keys whose values are redacted, separated by commas; empty: none.
    pub redact: String,
    /// Whether spans with an error are grouped.
    pub track_errors: bool,
    /// How long a processor may take for a batch.
    pub processor_max_time: Duration,
    /// Patterns of names of spans in the memory profile, separated by commas; empty: none.
    pub memory_profile: String,
    /// Where each value came from, in the table's order.
    sources: Vec<Source>,
    problems: Vec<Problem>,
    /// What they were made of; `None` while a builder collects.
    layers: Option<Layers>,
}

impl Settings {
    /// A builder, as [`SettingsBuilder::new`] gives it.
    pub fn builder() -> SettingsBuilder {
        SettingsBuilder::new()
    }

    /// What could not be used and what is used instead, each once.
    ///
    /// Building never prints these: show them where the program shows its warnings.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Where the value of a field came from; `None` if there is no setting `field`.
    ///
    /// The sampler is two settings: `sampler` and `sampler_arg`.
    ///
    /// ```
    /// use spanring::settings::{SettingsBuilder, Source};
    ///
    /// let settings = SettingsBuilder::new().batch_size(64).ignore_environment().build();
    /// assert_eq!(settings.source("batch_size"), Some(&Source::Code));
    /// assert_eq!(settings.source("max_spans"), Some(&Source::Default));
    /// assert_eq!(settings.source("batchsize"), None);
    /// ```
    pub fn source(&self, field: &str) -> Option<&Source> {
        row_index(field).and_then(|index| self.sources.get(index))
    }

    /// The resource's attributes: `service.name`, then the others, without a second `service.name`.
    pub fn resource(&self) -> impl Iterator<Item = (&str, &str)> {
        let others = self.resource_attributes.iter().filter(|(key, _)| key != SERVICE_NAME);
        std::iter::once((SERVICE_NAME, self.service_name.as_str()))
            .chain(others.map(|(key, value)| (key.as_str(), value.as_str())))
    }

    /// What decides at the level `smart` about spans that none of its rules is about: the sampler if somebody has set one, else a tenth of
    /// all traces.
    pub fn smart_rest(&self) -> RootSampler {
        match self.source("sampler") {
            None | Some(Source::Default) => RootSampler::TraceIdRatio(SMART_SHARE),
            Some(_) => self.sampler.root,
        }
    }

    /// How much detail there is where `details` says nothing.
    pub fn detail(&self) -> Detail {
        match (self.detailed_tracing, self.basic_tracing) {
            (true, _) => Detail::Detailed,
            (false, true) => Detail::Basic,
            (false, false) => Detail::None,
        }
    }

    /// Whether anything asks for spans to be measured.
    pub fn measures_spans(&self) -> bool {
        self.metrics || self.report_every > 0 || self.status_address.is_some()
    }

    /// Whether anything asks for alerts.
    pub fn watches_alerts(&self) -> bool {
        self.alerts || self.alert_webhook.is_some()
    }

    /// Every setting with its value in force, and why it is that.
    pub fn explain(&self) -> Vec<Explained> {
        TABLE.iter().zip(&self.sources).map(|(row, source)| row.explain(self, source)).collect()
    }

    /// Fields to be filled in from the table; nothing here is a default.
    fn blank() -> Self {
        Settings {
            preset: None,
            config: None,
            max_spans: 0,
            max_bytes: 0,
            overflow: Overflow::Drop,
            batch_size: 0,
            flush_interval: Duration::ZERO,
            max_batch_wait: Duration::ZERO,
            cleanup_interval: Duration::ZERO,
            retry_attempts: None,
            dir: None,
            segment_max_bytes: 0,
            segment_max_age: Duration::ZERO,
            retention_bytes: 0,
            fsync: false,
            endpoint: None,
            protocol: String::new(),
            headers: Headers::default(),
            compression: String::new(),
            timeout: Duration::ZERO,
            certificate: None,
            client_certificate: None,
            client_key: None,
            pool_size: 0,
            openai: false,
            openai_base_url: String::new(),
            openai_api_key: None,
            openai_org_id: None,
            openai_project_id: None,
            spool_max_bytes: 0,
            spool_max_age: Duration::ZERO,
            compression_level: 0,
            sampler: SamplerSetting::default(),
            rules: Rules::default(),
            level: Level::Full,
            levels: Levels::default(),
            basic_tracing: true,
            detailed_tracing: false,
            details: Details::default(),
            disabled: false,
            capture_content: true,
            log_level: LogLevel::Warn,
            service_name: String::new(),
            resource_attributes: Vec::new(),
            propagators: Vec::new(),
            attribute_count_limit: 0,
            attribute_value_length_limit: None,
            event_count_limit: 0,
            link_count_limit: 0,
            event_attribute_count_limit: 0,
            link_attribute_count_limit: 0,
            metrics: false,
            report_every: 0,
            health_max_memory: 0,
            health_max_error_rate: 0.0,
            health_sink_grace: Duration::ZERO,
            status_address: None,
            status_any_address: false,
            alerts: false,
            alert_webhook: None,
            alert_interval: Duration::ZERO,
            alert_cooldown: Duration::ZERO,
            alert_error_rate: 0.0,
            alert_slow_time: Duration::ZERO,
            alert_slow_rate: 0.0,
            alert_p99: None,
            alert_drop_rate: 0.0,
            redact: String::new(),
            track_errors: false,
            processor_max_time: Duration::ZERO,
            memory_profile: String::new(),
            sources: Vec::with_capacity(TABLE.len()),
            problems: Vec::new(),
            layers: None,
        }
    }
}

/// Values as [`Settings::explain`] shows them: the endpoint and the headers may hold secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        for row in TABLE {
            let explained = row.explain(self, &Source::Default);
            shown.field(row.access.field, &format_args!("{}", explained.shown()));
        }
        shown.field("sources", &self.sources).field("problems", &self.problems).finish()
    }
}

impl Default for Settings {
    /// The defaults alone, whatever the environment says.
    fn default() -> Self {
        SettingsBuilder::new().ignore_environment().build()
    }
}

/// Of traces at the level `smart`.
const SMART_SHARE: f64 = 0.1;

/// The resource attribute that [`Settings::service_name`] is.
const SERVICE_NAME: &str = "service.name";
