//! Puts the layers together: defaults, preset, code, environment.
//!
//! Each row of the table is decided on its own, from the highest layer down; then values that do
//! not fit together are lowered. Nothing is read but what is looked up, and nothing is written.
//!
//! Invariant: after [`SettingsBuilder::build`] each value passes its row's check, and each variable
//! that was looked at and refused stands in exactly one [`Problem`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::choice::{Headers, Level, LogLevel, Overflow, Preset, Propagator, Secret, Source};
use super::layers::Layers;
use super::parse::{Data, Dialect, Kind, Parsed, unique};
use super::problem::{Problem, nearest, quote};
use super::row::{PREFIX, Row};
use super::sampler::SamplerSetting;
use super::table::{TABLE, row_index};
use super::{SERVICE_NAME, Settings};
use crate::record::CELL_BYTES;
use crate::rules::{Details, Levels, Rules};

/// Collects what code wants to set, then builds [`Settings`].
///
/// Environment variables override code, so that an operator can tune a program that is already
/// built; [`SettingsBuilder::ignore_environment`] opts out.
///
/// ```
/// use spanring::settings::{Preset, SettingsBuilder, Source};
///
/// // In a program: `.build()`, which reads the process's environment.
/// let settings = SettingsBuilder::new().preset(Preset::Realtime).max_spans(1000).build_from(
///     &|name| (name == "SPANRING_MAX_SPANS").then(|| "5000".into()),
/// );
/// assert_eq!(settings.max_spans, 5000);
/// assert_eq!(settings.source("max_spans"), Some(&Source::Variable("SPANRING_MAX_SPANS".into())));
/// assert_eq!(settings.batch_size, 10);
/// assert_eq!(settings.source("batch_size"), Some(&Source::Preset(Preset::Realtime)));
/// ```
#[derive(Clone, Debug)]
pub struct SettingsBuilder {
    /// What code has set; only the fields in `fields` mean anything.
    code: Settings,
    fields: Vec<&'static str>,
    reads_environment: bool,
}

/// Variables that say in what kind of environment a program runs; the first that is set counts.
const ENVIRONMENTS: [&str; 2] = ["RAILS_ENV", "ENVIRONMENT"];

/// Looks an environment variable up by its name.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

macro_rules! setters {
    ($($field:ident: $type:ty,)+) => {
        $(
            #[doc = concat!("Sets [`Settings::", stringify!($field), "`], in the range that \
                `docs/settings.md` gives; a value outside it is a [`Problem`].")]
            pub fn $field(mut self, $field: $type) -> Self {
                self.code.$field = $field.into();
                self.mark(stringify!($field))
            }
        )+
    };
}

impl SettingsBuilder {
    /// A builder that sets nothing yet and will read the environment.
    pub fn new() -> Self {
        SettingsBuilder { code: Settings::blank(), fields: Vec::new(), reads_environment: true }
    }

    /// Reads no environment variable at all: defaults, preset and code decide.
    pub fn ignore_environment(mut self) -> Self {
        self.reads_environment = false;
        self
    }

    setters! {
        preset: Preset,
        max_spans: usize,
        max_bytes: u64,
        overflow: Overflow,
        batch_size: usize,
        flush_interval: Duration,
        max_batch_wait: Duration,
        cleanup_interval: Duration,
        retry_attempts: u32,
        segment_max_bytes: u64,
        segment_max_age: Duration,
        retention_bytes: u64,
        fsync: bool,
        protocol: impl Into<String>,
        compression: impl Into<String>,
        timeout: Duration,
        pool_size: usize,
        openai: bool,
        openai_base_url: impl Into<String>,
        spool_max_bytes: u64,
        spool_max_age: Duration,
        compression_level: i32,
        rules: Rules,
        level: Level,
        levels: Levels,
        basic_tracing: bool,
        detailed_tracing: bool,
        details: Details,
        disabled: bool,
        capture_content: bool,
        log_level: LogLevel,
        service_name: impl Into<String>,
        attribute_count_limit: u32,
        attribute_value_length_limit: usize,
        event_count_limit: u32,
        link_count_limit: u32,
        event_attribute_count_limit: u32,
        link_attribute_count_limit: u32,
        metrics: bool,
        report_every: u64,
        health_max_memory: u64,
        health_max_error_rate: f64,
        health_sink_grace: Duration,
        status_address: SocketAddr,
        status_any_address: bool,
        alerts: bool,
        alert_interval: Duration,
        alert_cooldown: Duration,
        alert_error_rate: f64,
        alert_slow_time: Duration,
        alert_slow_rate: f64,
        alert_p99: Duration,
        alert_drop_rate: f64,
        redact: impl Into<String>,
        track_errors: bool,
        processor_max_time: Duration,
        memory_profile: impl Into<String>,
    }

    /// Sets the setting of that name (`MAX_SPANS`, or `max_spans`) as its environment variable would, but from code: what
    /// the environment says wins.
    ///
    /// # Errors
    ///
    /// If there is no such setting, or the value cannot be used; in words, without a value that may be secret.
    pub fn text(mut self, name: &str, value: &str) -> Result<Self, String> {
        let (index, data) = parse_text(name, value, self.code.sampler)?;
        let row = &TABLE[index];
        (row.access.set)(&mut self.code, data);
        Ok(self.mark(row.access.field))
    }

    /// Sets [`Settings::dir`]; it is created when the first segment is written.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.code.dir = Some(dir.into());
        self.mark("dir")
    }

    /// Sets [`Settings::config`].
    pub fn config(mut self, file: impl Into<PathBuf>) -> Self {
        self.code.config = Some(file.into());
        self.mark("config")
    }

    /// Sets [`Settings::endpoint`]; without a path, `/v1/traces` is added.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        // What is no endpoint is kept as it is, to be reported.
        let parsed =
            Kind::Endpoint.parse(endpoint.as_ref(), Dialect::Own, SamplerSetting::default());
        self.code.endpoint = Some(match parsed {
            Ok(Parsed { data: Data::Text(endpoint), .. }) => endpoint,
            _ => endpoint,
        });
        self.mark("endpoint")
    }

    /// Sets [`Settings::headers`]; of a repeated name the last value counts.
    pub fn headers<K, V>(mut self, list: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let list = list.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        self.code.headers = Headers(unique(list));
        self.mark("headers")
    }

    /// Sets [`Settings::certificate`].
    pub fn certificate(mut self, file: impl Into<PathBuf>) -> Self {
        self.code.certificate = Some(file.into());
        self.mark("certificate")
    }

    /// Sets [`Settings::client_certificate`].
    pub fn client_certificate(mut self, file: impl Into<PathBuf>) -> Self {
        self.code.client_certificate = Some(file.into());
        self.mark("client_certificate")
    }

    /// Sets [`Settings::client_key`].
    pub fn client_key(mut self, file: impl Into<PathBuf>) -> Self {
        self.code.client_key = Some(file.into());
        self.mark("client_key")
    }

    /// Sets [`Settings::openai_api_key`].
    pub fn openai_api_key(mut self, key: impl Into<String>) -> Self {
        self.code.openai_api_key = Some(Secret(key.into()));
        self.mark("openai_api_key")
    }

    /// Sets [`Settings::openai_org_id`].
    pub fn openai_org_id(mut self, id: impl Into<String>) -> Self {
        self.code.openai_org_id = Some(id.into());
        self.mark("openai_org_id")
    }

    /// Sets [`Settings::openai_project_id`].
    pub fn openai_project_id(mut self, id: impl Into<String>) -> Self {
        self.code.openai_project_id = Some(id.into());
        self.mark("openai_project_id")
    }

    /// Sets [`Settings::alert_webhook`].
    pub fn alert_webhook(mut self, url: impl Into<String>) -> Self {
        self.code.alert_webhook = Some(Secret(url.into()));
        self.mark("alert_webhook")
    }

    /// Sets [`Settings::sampler`] together with its argument.
    pub fn sampler(mut self, sampler: SamplerSetting) -> Self {
        self.code.sampler = sampler;
        // Without an argument of its own it must not keep that of an earlier call.
        self.fields.retain(|field| *field != "sampler_arg");
        match sampler.argument() {
            Some(_) => self.mark("sampler").mark("sampler_arg"),
            None => self.mark("sampler"),
        }
    }

    /// Sets [`Settings::resource_attributes`]; of a repeated key the last value counts.
    pub fn resource_attributes<K, V>(mut self, list: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let list = list.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.code.resource_attributes = unique(list);
        self.mark("resource_attributes")
    }

    /// Sets [`Settings::propagators`]; repetitions are left out, and none at all is fine.
    pub fn propagators(mut self, list: impl IntoIterator<Item = Propagator>) -> Self {
        self.code.propagators.clear();
        for propagator in list {
            if !self.code.propagators.contains(&propagator) {
                self.code.propagators.push(propagator);
            }
        }
        self.mark("propagators")
    }

    fn mark(mut self, field: &'static str) -> Self {
        if !self.fields.contains(&field) {
            self.fields.push(field);
        }
        self
    }

    /// Builds from the process's environment, unless told to ignore it.
    pub fn build(self) -> Settings {
        if self.reads_environment {
            self.build_from_variables(std::env::vars_os())
        } else {
            self.resolve(&|_| None, &[])
        }
    }

    /// Builds from the variables that `lookup` finds by name, and not from the process's.
    ///
    /// A misspelt variable cannot be noticed this way, because it is never asked for.
    pub fn build_from(self, lookup: &dyn Fn(&str) -> Option<OsString>) -> Settings {
        if self.reads_environment {
            self.resolve(lookup, &[])
        } else {
            self.resolve(&|_| None, &[])
        }
    }

    /// Builds from these variables, and not from the process's. Those that begin with `SPANRING_`
    /// and that nothing asks for are reported.
    pub fn build_from_variables(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Settings {
        if !self.reads_environment {
            return self.resolve(&|_| None, &[]);
        }
        let variables: HashMap<OsString, OsString> = variables.into_iter().collect();
        let mut ours: Vec<String> = variables
            .iter()
            .filter(|(_, value)| !is_blank(value))
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with(PREFIX))
            .collect();
        ours.sort();
        self.resolve(&|name| variables.get(OsStr::new(name)).cloned(), &ours)
    }

    fn resolve(self, lookup: Lookup<'_>, ours: &[String]) -> Settings {
        let names = TABLE.iter().flat_map(Row::names).map(|name| name.text.into_owned());
        let names = names.chain(ENVIRONMENTS.map(str::to_owned));
        let found = names.filter_map(|name| lookup(&name).map(|value| (name, value)));
        let variables: HashMap<String, OsString> = found.collect();
        let layers = Some(Layers::new(self, variables));
        Settings { layers, ..Settings::blank() }.resolved(ours)
    }
}

impl Settings {
    /// Decides every row anew, from these settings' layers; `ours` are variables that begin as our own do.
    pub(super) fn resolved(self, ours: &[String]) -> Settings {
        let Some(layers) = self.layers else { return self };
        let lookup = |name: &str| layers.variables.get(name).cloned();
        let mut settings = Settings::blank();
        let mut reports = Vec::new();
        for (index, row) in TABLE.iter().enumerate() {
            let given = layers.given(index, settings.sampler);
            let (data, source) = given
                .unwrap_or_else(|| layers.builder.decide(row, &settings, &lookup, &mut reports));
            (row.access.set)(&mut settings, data);
            settings.sources.push(source);
        }
        settings.name_level(&lookup);
        settings.fit_together(&mut reports);
        settings.need_key(&mut reports);
        settings.name_service(&mut reports);
        settings.problems = ours.iter().filter_map(|name| unknown(name)).collect();
        let known = reports.into_iter().map(|report| report.finish(&settings));
        settings.problems.extend(known.collect::<Vec<_>>());
        settings.layers = Some(layers);
        settings
    }
}

impl SettingsBuilder {
    /// The value of one row and its source; `settings` holds the rows before it.
    fn decide(
        &self,
        row: &'static Row,
        settings: &Settings,
        lookup: Lookup<'_>,
        reports: &mut Vec<Report>,
    ) -> (Data, Source) {
        let argument = ArgumentOf::row(row, settings, reports);
        for name in row.names() {
            let Some(raw) = lookup(&name.text).filter(|raw| !is_blank(raw)) else { continue };
            let source = Source::Variable(name.text.to_string());
            if !argument.may_come_from(&source) {
                continue;
            }
            let parsed = match argument {
                ArgumentOf::Refused => Err(ARGUMENT_OF_REFUSED.to_owned()),
                _ => row.parse(&raw, name.dialect, settings.sampler),
            };
            let report = |why| Report {
                row,
                name: name.text.to_string(),
                what: format!("{}={}", name.text, row.quote(&raw)),
                why,
            };
            match parsed {
                Ok(parsed) => {
                    reports.extend(parsed.remark.map(report));
                    return (parsed.data, source);
                }
                Err(why) => reports.push(report(why)),
            }
        }
        if self.fields.contains(&row.access.field) && argument.may_come_from(&Source::Code) {
            let data = (row.access.get)(&self.code);
            match row.kind.check(&data) {
                Ok(()) if data == Data::Nothing => {}
                Ok(()) => return (data, Source::Code),
                Err(why) => {
                    let shown = row.quote(data.render().unwrap_or_default().as_ref());
                    let what = format!("{}({shown}) in code", row.access.field);
                    reports.push(Report { row, name: row.access.field.to_owned(), what, why });
                }
            }
        }
        match settings.preset.and_then(|preset| Some((row.preset(preset)?, preset))) {
            Some((data, preset)) => (data, Source::Preset(preset)),
            None => (row.own_text(row.default), Source::Default),
        }
    }
}

impl Default for SettingsBuilder {
    fn default() -> Self {
        SettingsBuilder::new()
    }
}

/// For the sampler's argument: an argument belongs to the sampler that was named beside it.
#[derive(Clone, Copy)]
enum ArgumentOf {
    /// The row is not the argument.
    NotOne,
    /// To a sampler of this layer: an argument of a lower layer was meant for another sampler.
    Layer(u8),
    /// To a variable's sampler that was refused.
    Refused,
}

const ARGUMENT_OF_REFUSED: &str = "belongs to a sampler that could not be used";

impl ArgumentOf {
    fn row(row: &Row, settings: &Settings, reports: &[Report]) -> Self {
        if row.access.field != "sampler_arg" {
            return ArgumentOf::NotOne;
        }
        let source = settings.source("sampler").unwrap_or(&Source::Default);
        let refused = reports.iter().any(|report| report.row.access.field == "sampler");
        match source {
            Source::Variable(_) => ArgumentOf::Layer(source.layer()),
            _ if refused => ArgumentOf::Refused,
            _ => ArgumentOf::Layer(source.layer()),
        }
    }

    fn may_come_from(self, source: &Source) -> bool {
        match self {
            ArgumentOf::Layer(layer) => source.layer() >= layer,
            ArgumentOf::NotOne | ArgumentOf::Refused => true,
        }
    }
}

/// A problem before it is known what is used instead.
struct Report {
    row: &'static Row,
    name: String,
    /// The value with its name.
    what: String,
    /// What is wrong with it.
    why: String,
}

impl Report {
    fn finish(self, settings: &Settings) -> Problem {
        let Report { row, name, what, why } = self;
        let explained =
            row.explain(settings, settings.source(row.access.field).unwrap_or(&Source::Default));
        let value = explained.shown();
        let message = format!(
            "{what} {why}; allowed: {}; using {} ({})",
            row.allowed(),
            value,
            explained.source
        );
        Problem { name, message, why }
    }
}

impl Settings {
    /// Lowers what exceeds what another setting allows. A default is lowered without a problem:
    /// nobody asked for it.
    fn fit_together(&mut self, reports: &mut Vec<Report>) {
        let spans = self.max_bytes / CELL_BYTES as u64;
        self.lower("max_spans", spans, "MAX_BYTES", "spans of the smallest size", reports);
        self.lower("batch_size", self.max_spans as u64, "MAX_SPANS", "spans", reports);
        self.lower("segment_max_bytes", self.retention_bytes, "RETENTION_BYTES", "bytes", reports);
    }

    fn lower(
        &mut self,
        field: &str,
        most: u64,
        by: &'static str,
        unit: &str,
        reports: &mut Vec<Report>,
    ) {
        let Some(index) = row_index(field) else { return };
        let row = &TABLE[index];
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let Data::Integer(value) = (row.access.get)(self) else { return };
        if value <= most {
            return;
        }
        let why = format!("is more than {by} allows, which is {most} {unit}");
        self.limit(index, &value.to_string(), by, why, reports);
        (row.access.set)(self, Data::Integer(most));
    }

    /// Says that a value is not what somebody set, if somebody did, because of the setting `by`.
    fn limit(
        &mut self,
        index: usize,
        value: &str,
        by: &'static str,
        why: String,
        reports: &mut Vec<Report>,
    ) {
        let row = &TABLE[index];
        let field = row.access.field;
        let source = std::mem::replace(&mut self.sources[index], Source::LimitedBy(by));
        if source != Source::Default {
            let name = match &source {
                Source::Variable(name) => name.clone(),
                _ => field.to_owned(),
            };
            let what = format!("{field} of {value} ({source})");
            reports.push(Report { row, name, what, why });
        }
    }

    /// Takes the level from the kind of environment, if nobody has set one.
    fn name_level(&mut self, lookup: Lookup<'_>) {
        let Some(index) = row_index("level") else { return };
        if self.sources[index] != Source::Default {
            return;
        }
        let found = ENVIRONMENTS.iter().find_map(|name| {
            let value = lookup(name).filter(|value| !is_blank(value))?;
            Some((name, value))
        });
        let Some((name, value)) = found else { return };
        let level = match value.to_string_lossy().trim().to_ascii_lowercase().as_str() {
            "test" => Level::Minimal,
            "production" => Level::Smart,
            "development" | "staging" => Level::Full,
            _ => return,
        };
        self.level = level;
        self.sources[index] = Source::Variable((*name).to_owned());
    }

    /// Without a key nothing can be sent to OpenAI, which is said here and not by every answer.
    fn need_key(&mut self, reports: &mut Vec<Report>) {
        if let Some(index) = row_index("openai")
            && self.openai
            && self.openai_api_key.is_none()
        {
            self.openai = false;
            let why = "needs a key, and there is none, so nothing is sent to OpenAI: set \
                SPANRING_OPENAI_API_KEY or OPENAI_API_KEY";
            self.limit(index, "true", "OPENAI_API_KEY", why.to_owned(), reports);
        }
    }

    /// Takes the service's name from the resource attributes if they come from a higher layer, and
    /// else, if there is none, OpenTelemetry's `unknown_service`.
    fn name_service(&mut self, reports: &mut Vec<Report>) {
        let (Some(name), Some(list)) =
            (row_index("service_name"), row_index("resource_attributes"))
        else {
            return;
        };
        let row = &TABLE[name];
        let listed = self.resource_attributes.iter().find(|(key, _)| key == SERVICE_NAME);
        let listed = listed.map(|(_, value)| value.clone()).filter(|value| !value.is_empty());
        if let Some(value) = listed
            && self.sources[list].layer() > self.sources[name].layer()
        {
            match row.kind.check(&Data::Text(value.clone())) {
                Ok(()) => {
                    self.service_name = value;
                    self.sources[name] = self.sources[list].clone();
                }
                Err(why) => {
                    let what = format!("{SERVICE_NAME} in {}", self.sources[list]);
                    reports.push(Report { row, name: self.sources[list].to_string(), what, why });
                }
            }
        }
        if self.service_name.is_empty() {
            let program = std::env::current_exe().ok();
            let program = program.as_deref().and_then(std::path::Path::file_name);
            self.service_name = match program {
                Some(program) => format!("unknown_service:{}", program.to_string_lossy()),
                None => "unknown_service".to_owned(),
            };
        }
    }
}

/// The row of the setting `name`.
///
/// # Errors
///
/// If there is none, in words.
pub(super) fn row_named(name: &str) -> Result<usize, String> {
    let row = TABLE.iter().position(|row| row.suffix.eq_ignore_ascii_case(name));
    row.ok_or_else(|| {
        let names = TABLE.iter().map(|row| row.suffix);
        match nearest(&name.to_ascii_uppercase(), names) {
            Some(near) => {
                format!("there is no setting {}; is {near} meant?", quote(name.as_ref()))
            }
            None => format!("there is no setting {}", quote(name.as_ref())),
        }
    })
}

/// The row of the setting `name`, and what `value` says by our own rules; `sampler` is the one in force, for its argument.
///
/// # Errors
///
/// If there is no such setting, or the value cannot be used; in words, without a value that may be secret.
pub(super) fn parse_text(
    name: &str,
    value: &str,
    sampler: SamplerSetting,
) -> Result<(usize, Data), String> {
    let index = row_named(name)?;
    let row = &TABLE[index];
    let parsed = row.parse(value.as_ref(), Dialect::Own, sampler).map_err(|why| {
        format!("{}={} {why}; allowed: {}", row.suffix, row.quote(value.as_ref()), row.allowed())
    })?;
    Ok((index, parsed.data))
}

/// Whether a variable counts as unset.
fn is_blank(raw: &OsStr) -> bool {
    raw.as_encoded_bytes().iter().all(u8::is_ascii_whitespace)
}

/// The problem with a variable that begins like ours, if it is none of ours.
fn unknown(name: &str) -> Option<Problem> {
    let suffix = name.strip_prefix(PREFIX)?;
    if TABLE.iter().any(|row| row.suffix == suffix) {
        return None;
    }
    let advice = match nearest(suffix, TABLE.iter().map(|row| row.suffix)) {
        Some(known) => format!("did you mean {PREFIX}{known}?"),
        None => "`spanring config` lists those that are".to_owned(),
    };
    let shown = quote(name.as_ref());
    let message = format!("the variable {shown} is not a setting and does nothing; {advice}");
    Some(Problem { name: name.to_owned(), message, why: "is not a setting".to_owned() })
}
