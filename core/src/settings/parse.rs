//! Values of settings as text: parsing, checking, rendering.
//!
//! Nothing here knows which settings there are; [`super::table`] says which [`Kind`] each has.
//! A value is bounded in length before anything is made of it.
//!
//! Invariant: what [`Data::render`] gives, [`Kind::parse`] turns back into the same data (but for
//! paths that are not UTF-8, and white space around a text). What
//! [`Kind::parse`] accepts, [`Kind::check`] accepts.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::choice::{Detail, Headers, Level, LogLevel, Overflow, Preset, Propagator, Secret};
use super::sampler::{RootSampler, SamplerSetting};
use crate::rules::{Details, Levels, RuleError, Rules};

/// Bytes of a value that is looked at; a longer one is refused.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a text, such as the service's name.
pub(super) const TEXT_BYTES_MAX: usize = 4096;
/// Resource attributes.
pub(super) const ATTRIBUTES_MAX: usize = 1024;

/// The value of any setting.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// Deliberately no value, where a setting can do without.
    Nothing,
    Integer(i64),
    Duration(Duration),
    Switch(bool),
    /// A part of a whole, from 0 to 1.
    Share(f64),
    Address(SocketAddr),
    Text(String),
    Path(PathBuf),
    Level(LogLevel),
    Overflow(Overflow),
    Preset(Preset),
    Sampler(SamplerSetting),
    Root(RootSampler),
    Rules(Rules),
    Levels(Levels),
    Details(Details),
    Propagators(Vec<Propagator>),
    Attributes(Vec<(String, String)>),
    /// Rendered without the values, which may be secret.
    Headers(Headers),
    /// Rendered as that there is one.
    Secret(Secret),
}

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Integer {
        min: i64,
        max: i64,
        unit: &'static str,
    },
    Bytes {
        min: i64,
        max: i64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    Switch,
    Share,
    /// Where to listen.
    Address,
    Text,
    Path,
    Level,
    /// What becomes of spans for which there is no room.
    Overflow,
    Preset,
    Sampler,
    /// The argument of the sampler in force.
    SamplerArgument,
    Rules,
    /// A level for each of some patterns.
    Levels,
    /// A level of detail, likewise.
    Details,
    Propagators,
    Attributes,
    /// Where spans are sent to; what lacks a path gets OTLP's.
    Endpoint,
    Headers,
    /// A URL to which paths are added.
    BaseUrl,
    /// What a header may have as its value.
    HeaderValue,
    /// The same, and nothing may show it.
    Secret,
    /// A URL whose every part may be secret.
    Webhook,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// Whose rules a variable's text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Ours and RAAF's: durations in seconds, several words for a boolean.
    Own,
    /// OpenTelemetry's: durations in whole milliseconds, only `true` is true.
    OpenTelemetry,
    /// The same for a name that stands for all signals: to an endpoint, the path of traces is added.
    OpenTelemetryBase,
}

/// A value, and what to say about it although it is used.
#[derive(Debug, PartialEq)]
pub(super) struct Parsed {
    pub(super) data: Data,
    pub(super) remark: Option<String>,
}

impl From<Data> for Parsed {
    fn from(data: Data) -> Self {
        Parsed { data, remark: None }
    }
}

impl Kind {
    /// The value that `raw` says; `sampler` is the one in force, for its argument.
    ///
    /// # Errors
    /// What is wrong, worded to follow the value in a sentence.
    pub(super) fn parse(
        self,
        raw: &OsStr,
        dialect: Dialect,
        sampler: SamplerSetting,
    ) -> Result<Parsed, String> {
        if raw.len() > VALUE_BYTES_MAX {
            return Err(format!("is longer than {VALUE_BYTES_MAX} bytes"));
        }
        if let Kind::Path = self {
            return Ok(Data::Path(PathBuf::from(raw)).into());
        }
        let text = raw.to_str().ok_or("is not valid UTF-8")?.trim();
        let parsed = match self {
            Kind::Integer { .. } => Data::Integer(integer(text)?).into(),
            Kind::Bytes { .. } => Data::Integer(bytes(text)?).into(),
            Kind::Duration { .. } => Data::Duration(duration(text, dialect)?).into(),
            Kind::Switch => switch(text, dialect)?,
            Kind::Share => Data::Share(text.parse().map_err(|_| "is not a number")?).into(),
            Kind::Address => Data::Address(address(text)?).into(),
            Kind::Text => Data::Text(text.to_owned()).into(),
            Kind::Level => Data::Level(log_level(text)?).into(),
            Kind::Overflow => Data::Overflow(Overflow::parse(text)?).into(),
            Kind::Preset => Data::Preset(Preset::from_name(text).ok_or("is not a preset")?).into(),
            Kind::Sampler => {
                Data::Sampler(SamplerSetting::from_name(text).ok_or("is not a sampler")?).into()
            }
            Kind::SamplerArgument => Data::Root(sampler.parse_argument(text)?).into(),
            Kind::Rules => Data::Rules(text.parse().map_err(wrong)?).into(),
            Kind::Levels => Data::Levels(text.parse().map_err(wrong)?).into(),
            Kind::Details => Data::Details(text.parse().map_err(wrong)?).into(),
            Kind::Propagators => propagators(text)?,
            Kind::Attributes => Data::Attributes(attributes(text)?).into(),
            Kind::Endpoint => Data::Text(endpoint(text, dialect)?).into(),
            Kind::Headers => Data::Headers(Headers(attributes(text)?)).into(),
            Kind::BaseUrl => Data::Text(base_url(text)?).into(),
            Kind::HeaderValue => Data::Text(text.to_owned()).into(),
            Kind::Secret | Kind::Webhook => Data::Secret(Secret(text.to_owned())).into(),
            Kind::Word(words) => {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(text));
                Data::Text(word.ok_or("is not one of the words")?.to_string()).into()
            }
            Kind::Path => unreachable!("paths have returned above"),
        };
        self.check(&parsed.data)?;
        Ok(parsed)
    }

    /// Whether a value of this kind lies in its bounds.
    ///
    /// # Errors
    /// What is wrong, worded to follow the value in a sentence.
    pub(super) fn check(self, data: &Data) -> Result<(), String> {
        let fine = match (self, data) {
            (Kind::Integer { min, max, .. } | Kind::Bytes { min, max }, Data::Integer(value)) => {
                (min..=max).contains(value)
            }
            (Kind::Duration { min, max }, Data::Duration(value)) => (min..=max).contains(value),
            (Kind::Share, Data::Share(share)) => (0.0..=1.0).contains(share),
            (Kind::Text, Data::Text(text)) if text.len() > TEXT_BYTES_MAX => {
                return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
            }
            (Kind::Path, Data::Path(path)) if path.as_os_str().is_empty() => {
                return Err("is empty".to_owned());
            }
            (Kind::Attributes, Data::Attributes(list)) => return check_attributes(list),
            (Kind::Headers, Data::Headers(list)) => return check_headers(list),
            (Kind::Endpoint, Data::Text(text)) => return endpoint(text, Dialect::Own).map(|_| ()),
            (Kind::BaseUrl, Data::Text(text)) => return base_url(text).map(|_| ()),
            (Kind::HeaderValue, Data::Text(text)) | (Kind::Secret, Data::Secret(Secret(text))) => {
                return check_header_value(text);
            }
            (Kind::Webhook, Data::Secret(Secret(text))) => return check_webhook(text),
            (Kind::Word(words), Data::Text(text)) => words.contains(&text.as_str()),
            (Kind::Overflow, Data::Overflow(overflow)) => return overflow.check(),
            (Kind::SamplerArgument, Data::Root(root)) => {
                return SamplerSetting { parent_based: false, root: *root }.check();
            }
            _ => true,
        };
        if fine { Ok(()) } else { Err("is out of range".to_owned()) }
    }

    /// The values that [`Kind::check`] accepts, in words.
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Integer { min, max, .. } => format!("{min} to {max}"),
            Kind::Bytes { min, max } => format!("{} to {}", human_bytes(min), human_bytes(max)),
            Kind::Duration { min, max } => {
                format!("{} to {}", seconds(min), seconds(max))
            }
            Kind::Switch => "true, false".to_owned(),
            Kind::Share => "0 to 1".to_owned(),
            Kind::Address => "IP:PORT or localhost:PORT".to_owned(),
            Kind::Text => format!("up to {TEXT_BYTES_MAX} bytes"),
            Kind::Path => "a path".to_owned(),
            Kind::Level => LogLevel::names(),
            Kind::Overflow => format!("drop, or wait:MS with MS from 1 to {}", Overflow::WAIT_MAX),
            Kind::Preset => Preset::names(),
            Kind::Sampler => {
                format!("{}, each also as parentbased_…", SamplerSetting::ROOT_NAMES.join(", "))
            }
            Kind::SamplerArgument => "traceidratio: 0 to 1, every_nth: 1 or more, \
                rate_limit: above 0 to 1000000000"
                .to_owned(),
            Kind::Rules => {
                "CONDITION, … -> always, never, ratio:SHARE, every_nth:N or rate_limit:A_SECOND; …"
                    .to_owned()
            }
            Kind::Levels => scoped(&Level::names()),
            Kind::Details => scoped(&Detail::names()),
            Kind::Propagators => format!("a list of {}, or none alone", Propagator::names()),
            Kind::Attributes => format!(
                "key=value,… percent-encoded, at most {ATTRIBUTES_MAX} and {VALUE_BYTES_MAX} bytes"
            ),
            Kind::Endpoint => "http://HOST[:PORT][/PATH], https://…, unix:///SOCKET[:/PATH], \
                credentials not here but in HEADERS"
                .to_owned(),
            Kind::Headers => "name=value,… percent-encoded".to_owned(),
            Kind::BaseUrl => {
                "http://HOST[:PORT][/PATH], https://…, unix:///SOCKET[:/PATH]".to_owned()
            }
            Kind::HeaderValue | Kind::Secret => {
                format!("up to {TEXT_BYTES_MAX} visible ASCII characters")
            }
            Kind::Webhook => {
                "http://[USER:PASSWORD@]HOST[:PORT][/PATH], https://…, unix:///SOCKET[:/PATH]"
                    .to_owned()
            }
            Kind::Word(words) => words.join(", "),
        }
    }

    /// The unit of a bare number.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Kind::Integer { unit, .. } => unit,
            Kind::Bytes { .. } => "bytes",
            Kind::Duration { .. } => "s",
            _ => "",
        }
    }
}

impl Data {
    /// The value as text that parses back by our own rules; `None` for [`Data::Nothing`].
    pub(super) fn render(&self) -> Option<String> {
        match self {
            Data::Nothing => None,
            Data::Integer(value) => Some(value.to_string()),
            Data::Duration(value) => Some(seconds(*value)),
            Data::Switch(value) => Some(value.to_string()),
            Data::Share(value) => Some(value.to_string()),
            Data::Address(address) => Some(address.to_string()),
            Data::Text(text) => Some(text.clone()),
            Data::Path(path) => Some(path.display().to_string()),
            Data::Level(level) => Some(level.to_string()),
            Data::Overflow(overflow) => Some(overflow.to_string()),
            Data::Preset(preset) => Some(preset.to_string()),
            Data::Sampler(sampler) => Some(sampler.to_string()),
            Data::Root(root) => SamplerSetting { parent_based: false, root: *root }.argument(),
            Data::Rules(rules) => Some(rules.to_string()),
            Data::Levels(levels) => Some(levels.to_string()),
            Data::Details(details) => Some(details.to_string()),
            Data::Propagators(list) if list.is_empty() => Some(NO_PROPAGATORS.to_owned()),
            Data::Propagators(list) => {
                Some(list.iter().map(|one| one.name()).collect::<Vec<_>>().join(","))
            }
            Data::Secret(_) => Some("***".to_owned()),
            Data::Headers(list) if list.is_empty() => None,
            Data::Headers(list) => Some(
                list.iter().map(|(name, _)| format!("{name}=***")).collect::<Vec<_>>().join(","),
            ),
            Data::Attributes(list) => Some(
                list.iter()
                    .map(|(key, value)| {
                        format!("{}={}", percent_encode(key), percent_encode(value))
                    })
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        }
    }
}

fn wrong(error: RuleError) -> String {
    format!("is wrong in {error}")
}

fn scoped(words: &str) -> String {
    format!("scope:PATTERN=WORD; name:PATTERN=WORD; … with the words {words}")
}

const NO_PROPAGATORS: &str = "none";

fn integer(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse::<i64>().map_err(|error| match error.kind() {
        PosOverflow | NegOverflow => "is out of range".to_owned(),
        _ => "is not a whole number".to_owned(),
    })
}

const BYTE_UNITS: [(&str, i64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Bytes, or a number of the units in [`BYTE_UNITS`].
fn bytes(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let factor = match BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err("is not a number of bytes, KiB, MiB, GiB or TiB".to_owned()),
    };
    let count = integer(digits.trim_end())?;
    count.checked_mul(factor).ok_or_else(|| "is out of range".to_owned())
}

/// Bytes in the largest unit that divides them.
pub(super) fn human_bytes(bytes: i64) -> String {
    match BYTE_UNITS.iter().find(|(_, factor)| bytes != 0 && bytes % factor == 0) {
        Some((name, factor)) => format!("{} {name}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Seconds with up to nine decimals, or OpenTelemetry's whole milliseconds.
fn duration(text: &str, dialect: Dialect) -> Result<Duration, String> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if dialect != Dialect::Own {
        let refused = || "is not a whole number of milliseconds".to_owned();
        return if digits(text) { text.parse().ok() } else { None }
            .map(Duration::from_millis)
            .ok_or_else(refused);
    }
    // By hand, not by way of a float, so that what is rendered parses back to the nanosecond.
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let refused = || "is not a number of seconds with at most nine decimals".to_owned();
    let empty = whole.is_empty() && decimals.is_empty();
    if empty || !digits(whole) || !digits(decimals) || decimals.len() > 9 {
        return Err(refused());
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let whole: u64 = whole.parse().map_err(|_| "is out of range".to_owned())?;
    let nanoseconds: u32 = format!("{decimals:0<9}").parse().map_err(|_| refused())?;
    Ok(Duration::new(whole, nanoseconds))
}

/// Seconds, with as many decimals as are needed.
pub(super) fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn switch(text: &str, dialect: Dialect) -> Result<Parsed, String> {
    let lower = text.to_ascii_lowercase();
    match (dialect, lower.as_str()) {
        (_, "true") => Ok(Data::Switch(true).into()),
        (_, "false") => Ok(Data::Switch(false).into()),
        (Dialect::Own, "1" | "yes" | "on") => Ok(Data::Switch(true).into()),
        (Dialect::Own, "0" | "no" | "off") => Ok(Data::Switch(false).into()),
        (Dialect::Own, _) => Err("is neither true nor false".to_owned()),
        (Dialect::OpenTelemetry | Dialect::OpenTelemetryBase, _) => Ok(Parsed {
            data: Data::Switch(false),
            remark: Some("means false, because OpenTelemetry knows only true as true".to_owned()),
        }),
    }
}

/// An address to listen at: no name but this one, so that nothing is looked up.
fn address(text: &str) -> Result<SocketAddr, String> {
    const LOCALHOST: &str = "localhost:";
    let refused = || "is not an IP address and a port".to_owned();
    match text.get(..LOCALHOST.len()) {
        Some(name) if name.eq_ignore_ascii_case(LOCALHOST) => {
            let port = text[LOCALHOST.len()..].parse().map_err(|_| refused())?;
            Ok(SocketAddr::from(([127, 0, 0, 1], port)))
        }
        _ => text.parse().map_err(|_| refused()),
    }
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    let name = if text.eq_ignore_ascii_case("warning") { "warn" } else { text };
    LogLevel::from_name(name).ok_or_else(|| "is not a log level".to_owned())
}

/// A comma-separated list. Unknown members are left out with a remark, as OpenTelemetry demands;
/// a list with no known member is refused.
fn propagators(text: &str) -> Result<Parsed, String> {
    let mut known = Vec::new();
    let mut unknown = 0;
    let names = || text.split(',').map(str::trim).filter(|name| !name.is_empty());
    if names().all(|name| name.eq_ignore_ascii_case(NO_PROPAGATORS)) {
        return Ok(Data::Propagators(known).into());
    }
    for name in names() {
        match Propagator::from_name(name) {
            Some(propagator) if known.contains(&propagator) => {}
            Some(propagator) => known.push(propagator),
            None => unknown += 1,
        }
    }
    if known.is_empty() {
        return Err("names no propagator known here".to_owned());
    }
    let remark =
        (unknown > 0).then(|| format!("names {unknown} that cannot be used here and are left out"));
    Ok(Parsed { data: Data::Propagators(known), remark })
}

/// `key=value,…`, percent-encoded; one mistake makes the whole value invalid, as OpenTelemetry
/// demands. Of a repeated key the last value counts.
fn attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut list: Vec<(String, String)> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("has a member that is not key=value")?;
        let (key, value) = (percent_decode(key.trim())?, percent_decode(value.trim())?);
        if list.len() >= ATTRIBUTES_MAX {
            return Err(format!("has more than {ATTRIBUTES_MAX} attributes"));
        }
        list.push((key, value));
    }
    Ok(unique(list))
}

/// The list with the last value of each key, in the order in which the keys came first.
pub(super) fn unique(list: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut index: HashMap<String, usize> = HashMap::with_capacity(list.len());
    let mut unique: Vec<(String, String)> = Vec::with_capacity(list.len());
    for (key, value) in list {
        match index.get(&key) {
            Some(&at) => unique[at].1 = value,
            None => {
                index.insert(key.clone(), unique.len());
                unique.push((key, value));
            }
        }
    }
    unique
}

fn check_attributes(list: &[(String, String)]) -> Result<(), String> {
    if list.len() > ATTRIBUTES_MAX {
        return Err(format!("has more than {ATTRIBUTES_MAX} attributes"));
    }
    if list.iter().any(|(key, _)| key.is_empty()) {
        return Err("has an attribute without a key".to_owned());
    }
    let bytes: usize = list.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > VALUE_BYTES_MAX {
        return Err(format!("is longer than {VALUE_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// A URL with what OTLP says about paths: of a name for all signals, `v1/traces` is appended to the path; ours
/// gets it where there is no path at all; OpenTelemetry's name for traces is taken as it is.
fn endpoint(text: &str, dialect: Dialect) -> Result<String, String> {
    const PATH: &str = "v1/traces";
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a space or a control character in it".to_owned());
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("has no http://, https:// or unix:// in front".to_owned());
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "unix" {
        let (socket, path) = rest.split_once(':').unwrap_or((rest, ""));
        if !socket.starts_with('/') || socket.len() < 2 {
            return Err("has no absolute path of a socket behind unix://".to_owned());
        }
        if !path.is_empty() && !path.starts_with('/') {
            return Err("has a path behind the socket that does not begin with /".to_owned());
        }
        return Ok(format!("unix://{socket}:{}", with_path(path, PATH, dialect)));
    }
    if scheme != "http" && scheme != "https" {
        return Err("is neither http, https nor unix".to_owned());
    }
    if rest.contains('#') {
        return Err("has a fragment (#)".to_owned());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    if authority.contains('@') {
        return Err("has credentials in it".to_owned());
    }
    let (host, port) = match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, "1"),
    };
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("has no valid port".to_owned());
    }
    let (path, query) = after.split_at(after.find('?').unwrap_or(after.len()));
    Ok(format!("{scheme}://{authority}{}{query}", with_path(path, PATH, dialect)))
}

fn with_path(path: &str, add: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::OpenTelemetryBase => format!("{}/{add}", path.trim_end_matches('/')),
        Dialect::Own if path.is_empty() || path == "/" => format!("/{add}"),
        _ if path.is_empty() => "/".to_owned(),
        _ => path.to_owned(),
    }
}

/// A URL without a query, and without a slash at its end.
fn base_url(text: &str) -> Result<String, String> {
    if text.contains('?') {
        return Err("has a query (?)".to_owned());
    }
    let url = endpoint(text, Dialect::OpenTelemetry)?;
    Ok(url.trim_end_matches('/').trim_end_matches(':').to_owned())
}

/// The form alone; what the client makes of it is seen when the pipeline starts.
fn check_webhook(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("is longer than {TEXT_BYTES_MAX} bytes"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a space or a control character in it".to_owned());
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" if !rest.is_empty() && !rest.starts_with(['/', '?', ':', '#']) => Ok(()),
        "http" | "https" => Err("names no host".to_owned()),
        "unix" if rest.len() > 1 && rest.starts_with('/') => Ok(()),
        "unix" => Err("has no absolute path of a socket behind unix://".to_owned()),
        _ => Err("has no http://, https:// or unix:// in front".to_owned()),
    }
}

fn check_header_value(text: &str) -> Result<(), String> {
    match text {
        "" => Err("is empty".to_owned()),
        _ if text.len() > TEXT_BYTES_MAX => Err(format!("is longer than {TEXT_BYTES_MAX} bytes")),
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("has a character that no header may have, or a space".to_owned())
        }
        _ => Ok(()),
    }
}

/// Names are tokens of HTTP, values have no control characters.
fn check_headers(list: &[(String, String)]) -> Result<(), String> {
    check_attributes(list)?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    for (name, value) in list {
        if !name.bytes().all(token) {
            return Err("has a header whose name is none".to_owned());
        }
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
            return Err(format!("has a control character in the value of {name}"));
        }
    }
    Ok(())
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = rest.split_at_checked(2).and_then(|(digits, after)| {
            rest = after;
            Some((hex(digits[0])?, hex(digits[1])?))
        });
        let (high, low) = digits.ok_or("has a % without two hexadecimal digits after it")?;
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded).map_err(|_| "does not decode to valid UTF-8".to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@+".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
