//! The OTLP sink: spans to a receiver over HTTP, as protobuf.
//!
//! What answers mean is decided here, as OTLP says: 2xx is accepted, with what a partial success says was refused; 429,
//! 502, 503, 504 and faults of the connection may pass; 413 asks for smaller requests; everything else is a
//! refusal. A compressed request that is refused with 400 or 415 is sent again in the next simpler form, and
//! so are all later ones. Redirects are not followed: they could carry credentials elsewhere.
//!
//! It keeps no queue and repeats nothing of itself but for that; see `outbox`.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use spanring::settings::Settings;

use crate::http::{
    Client, ClientOptions, Endpoint, HttpError, HttpErrorKind, Io, ProxySettings, Request,
    Response, TlsOptions, without_userinfo,
};
use crate::sender::{Content, Outcome, Parcel, Sender};
use crate::{batch, log, otlp};

/// What a request's body may have before it is compressed: the Collector takes 20 MiB.
const BODY_BYTES_MAX: usize = 16 << 20;
/// What an answer may ask us to wait, at most.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// What messages show of an answer.
const ANSWER_BYTES_SHOWN: usize = 200;
/// What is shorter is found in any text, and no secret.
const SECRET_BYTES_MIN: usize = 4;
const USER_AGENT: &str = concat!("spanring/", env!("CARGO_PKG_VERSION"));

/// How a request's body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As `gzip`, which servers must take.
    Gzip,
    /// As `zstd`, which some servers take.
    Zstd,
}

impl Compression {
    /// The compression of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// What is tried where this one is refused.
    fn simpler(self) -> Option<Self> {
        match self {
            Compression::Zstd => Some(Compression::Gzip),
            Compression::Gzip => Some(Compression::None),
            Compression::None => None,
        }
    }

    fn compress(self, body: &Bytes) -> std::io::Result<Bytes> {
        match self {
            Compression::None => Ok(body.clone()),
            Compression::Gzip => {
                let room = Vec::with_capacity(body.len() / 4);
                let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
                encoder.write_all(body)?;
                Ok(encoder.finish()?.into())
            }
            Compression::Zstd => Ok(zstd::bulk::compress(body, batch::LEVEL_DEFAULT)?.into()),
        }
    }
}

/// Where spans are sent as OTLP, and how.
///
/// ```
/// use std::time::Duration;
///
/// use spanring_exporter::{Compression, OtlpOptions};
///
/// let mut options = OtlpOptions::new("https://collector.example:4318/v1/traces");
/// options.headers.push(("api-key".into(), "secret".into()));
/// options.compression = Compression::Gzip;
/// options.timeout = Duration::from_secs(5);
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct OtlpOptions {
    /// The sink's name in logs and stats; `otlp` unless told otherwise.
    pub name: String,
    /// The URL with its path: `http://`, `https://`, or `unix:///SOCKET:/PATH`.
    pub endpoint: String,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
    /// Compression of requests.
    pub compression: Compression,
    /// How long one request may take, its answer included.
    pub timeout: Duration,
    /// Connections, each with one request at a time.
    pub pool_size: usize,
    /// Certificates (PEM) that a server's must lead back to, instead of the system's.
    pub certificate: Option<PathBuf>,
    /// Our own certificate chain (PEM).
    pub client_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub client_key: Option<PathBuf>,
}

impl fmt::Debug for OtlpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("OtlpOptions")
            .field("name", &self.name)
            .field("endpoint", &self.place())
            .field("headers", &headers)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

impl OtlpOptions {
    /// With the defaults that `docs/settings.md` gives.
    pub fn new(endpoint: impl Into<String>) -> Self {
        OtlpOptions {
            name: "otlp".to_owned(),
            endpoint: endpoint.into(),
            headers: Vec::new(),
            compression: Compression::None,
            timeout: Duration::from_secs(10),
            pool_size: 2,
            certificate: None,
            client_certificate: None,
            client_key: None,
        }
    }

    /// What the settings say; `None` without an endpoint.
    pub fn from_settings(settings: &Settings) -> Option<Self> {
        Some(OtlpOptions {
            headers: settings.headers.to_vec(),
            compression: Compression::from_name(&settings.compression).unwrap_or_default(),
            timeout: settings.timeout,
            pool_size: settings.pool_size,
            certificate: settings.certificate.clone(),
            client_certificate: settings.client_certificate.clone(),
            client_key: settings.client_key.clone(),
            ..Self::new(settings.endpoint.clone()?)
        })
    }

    /// The endpoint as messages show it: without user, password and query, which may be secret.
    pub fn place(&self) -> String {
        match Endpoint::parse(&self.endpoint) {
            Ok(endpoint) => endpoint.to_string(),
            Err(_) => "(unusable)".to_owned(),
        }
    }

    /// The name of the spool's directory: the same in every process that sends to the same place.
    pub(crate) fn spool_key(&self) -> String {
        let mut name: String = self.name.chars().filter(char::is_ascii_alphanumeric).collect();
        name.truncate(32);
        format!("{name}-{:08x}", crc32fast::hash(self.endpoint.as_bytes()))
    }
}

/// A request that may have to be sent again in a simpler form.
struct UnderWay {
    parcel: Parcel,
    body: Bytes,
    compression: Compression,
}

pub(crate) struct OtlpSink {
    name: String,
    /// As messages show it.
    endpoint: String,
    options: Option<ClientOptions>,
    headers: Vec<(String, String)>,
    secrets: Secrets,
    client: Option<Client>,
    compression: Compression,
    /// That the compression was refused.
    note: Option<String>,
    writer: otlp::Writer,
    under_way: Vec<UnderWay>,
    finished: VecDeque<(u64, Outcome)>,
}

impl OtlpSink {
    /// A sink that has not been opened yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the options, and what to do.
    pub(crate) fn new(options: &OtlpOptions) -> Result<Self, String> {
        let endpoint = Endpoint::parse(&options.endpoint).map_err(|error| error.to_string())?;
        let secrets = Secrets::new(&endpoint, &options.headers);
        let client = ClientOptions {
            pool_size: options.pool_size.max(1),
            connect_timeout: options.timeout,
            request_timeout: options.timeout,
            tls: TlsOptions {
                ca_file: options.certificate.clone(),
                client_certificate: options.client_certificate.clone(),
                client_key: options.client_key.clone(),
            },
            share_addresses: true,
            proxy: ProxySettings::from_variables(|name| std::env::var(name).ok()),
            ..ClientOptions::new(endpoint)
        };
        Ok(OtlpSink {
            name: options.name.clone(),
            endpoint: options.place(),
            options: Some(client),
            headers: options.headers.clone(),
            secrets,
            client: None,
            compression: options.compression,
            note: None,
            writer: otlp::Writer::new(),
            under_way: Vec::new(),
            finished: VecDeque::new(),
        })
    }

    /// The parcel's spans as OTLP, from the batch's own form.
    fn encode(&mut self, parcel: &Parcel) -> Result<Bytes, String> {
        let range = parcel.first as usize..(parcel.first + parcel.spans) as usize;
        let mut body = Vec::new();
        match &parcel.content {
            Content::Spans(batch) => self.writer.write_batch(batch, range, &mut body),
            Content::Frame(frame) => {
                let decoded = batch::decode(frame).map_err(|error| error.to_string())?;
                self.writer.write_batch(&decoded.batch, range, &mut body);
            }
        }
        Ok(body.into())
    }

    fn submit(&mut self, under_way: UnderWay, now: Instant) {
        let UnderWay { parcel, body, compression } = &under_way;
        let compressed = match compression.compress(body) {
            Ok(compressed) => compressed,
            Err(error) => {
                let message = format!("the request cannot be compressed: {error}");
                let id = parcel.id;
                return self.finished.push_back((id, Outcome::Refused { message }));
            }
        };
        let mut headers = vec![
            ("content-type".to_owned(), "application/x-protobuf".to_owned()),
            ("user-agent".to_owned(), USER_AGENT.to_owned()),
            (
                "spanring-batch".to_owned(),
                format!("{}-{}-{}", parcel.instance, parcel.sequence, parcel.first),
            ),
        ];
        if *compression != Compression::None {
            headers.push(("content-encoding".to_owned(), compression.name().to_owned()));
        }
        // What the user says comes last and wins.
        for (name, value) in &self.headers {
            headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
            headers.push((name.clone(), value.clone()));
        }
        let request = Request { id: parcel.id, headers, body: compressed };
        let id = parcel.id;
        match self.client.as_mut().expect("it was opened").submit(request, now) {
            Ok(()) => self.under_way.push(under_way),
            // A request that is sent again in a simpler form may find all connections taken.
            Err(_) => self.finished.push_back((
                id,
                Outcome::Retry {
                    message: format!("{}: all connections are in use", self.endpoint),
                    wait: None,
                    repeats: false,
                },
            )),
        }
    }

    /// What became of requests since the last call.
    fn take_answers(&mut self, now: Instant) {
        while let Some((id, result)) = self.client.as_mut().and_then(Client::finished) {
            let Some(at) = self.under_way.iter().position(|one| one.parcel.id == id) else {
                continue;
            };
            let under_way = self.under_way.swap_remove(at);
            let outcome = match result {
                Ok(answer) => {
                    if matches!(answer.status, 400 | 415)
                        && let Some(simpler) = under_way.compression.simpler()
                    {
                        self.simplify(under_way, simpler, &answer, now);
                        continue;
                    }
                    self.doubt(&answer);
                    self.judge(&answer)
                }
                Err(error) => self.fault(&error),
            };
            self.finished.push_back((id, outcome));
        }
    }

    /// Sends a request again with a compression that the server may take, and all later ones, too.
    fn simplify(
        &mut self,
        mut under_way: UnderWay,
        simpler: Compression,
        answer: &Response,
        now: Instant,
    ) {
        if self.compression == under_way.compression {
            let note = format!(
                "{} answered {} to a request with COMPRESSION={}; from now on it is {}",
                self.endpoint,
                answer.status,
                self.compression.name(),
                simpler.name(),
            );
            log::info!("sink {}: {note}", self.name);
            self.note = Some(note);
            self.compression = simpler;
        }
        under_way.compression = simpler;
        self.submit(under_way, now);
    }

    /// What takes everything and answers something else than OTLP may be no receiver of spans at all.
    fn doubt(&mut self, answer: &Response) {
        let is_success = matches!(answer.status, 200..=299);
        if is_success && !is_json(answer) && otlp::response::parse_response(&answer.body).is_err() {
            let note = format!(
                "{} answered {}, but not as a receiver of OTLP does; is it the right port and path?",
                self.endpoint, answer.status
            );
            self.note.get_or_insert(note);
        }
    }

    fn judge(&self, answer: &Response) -> Outcome {
        let said = said(answer, &self.secrets);
        let message =
            |what: &str| format!("{} answered {}{what}{said}", self.endpoint, answer.status);
        match answer.status {
            200..=299 => accepted(answer, &self.secrets),
            413 => Outcome::TooLarge { message: message("; its limit for requests is lower") },
            429 | 502 | 503 | 504 => Outcome::Retry {
                message: message(match answer.status {
                    429 => "; it wants fewer requests: send later, or ask for a higher limit",
                    _ => "; it, or what is behind it, is down or overloaded",
                }),
                wait: retry_after(answer, SystemTime::now()),
                repeats: false,
            },
            300..=399 => {
                let to = answer.headers.get("location").and_then(|to| to.to_str().ok());
                // It may repeat what the endpoint has, its query for example.
                let to = to.map_or(String::new(), |to| {
                    format!(" to {}", self.secrets.shown(without_userinfo(to).as_bytes()))
                });
                Outcome::Refused {
                    message: message(&format!(
                        ", a redirect{to}, which is not followed; set ENDPOINT to where it leads"
                    )),
                }
            }
            401 | 403 => Outcome::Refused {
                message: message("; HEADERS must hold the credentials that it asks for"),
            },
            404 | 405 => Outcome::Refused {
                message: message("; is the path of ENDPOINT right? OTLP's is /v1/traces"),
            },
            400 | 415 => Outcome::Refused { message: message("; does it speak OTLP (protobuf)?") },
            500.. => Outcome::Refused { message: message("; look into the server's log") },
            _ => Outcome::Refused { message: message("; is it a receiver of OTLP?") },
        }
    }

    fn fault(&self, error: &HttpError) -> Outcome {
        let message = error.to_string();
        match error.kind() {
            HttpErrorKind::Options | HttpErrorKind::Request => Outcome::Refused { message },
            _ => Outcome::Retry { message, wait: None, repeats: error.may_have_been_processed() },
        }
    }
}

impl Sender for OtlpSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn wants_otlp(&self) -> bool {
        true
    }

    fn open(&mut self, io: Io) -> Result<(), String> {
        let options = self.options.take().ok_or("it was opened before")?;
        self.client = Some(Client::new(options, io).map_err(|error| error.to_string())?);
        Ok(())
    }

    fn can_send(&self) -> bool {
        self.client.as_ref().is_some_and(Client::can_submit)
    }

    fn send(&mut self, parcel: Parcel, now: Instant) {
        let body = match &parcel.body {
            Some(body) => Ok(body.clone()),
            None => self.encode(&parcel),
        };
        let id = parcel.id;
        match body {
            Err(message) => {
                let message = format!("a batch cannot be read again: {message}");
                self.finished.push_back((id, Outcome::Refused { message }));
            }
            Ok(body) if body.len() > BODY_BYTES_MAX => {
                let message = format!("{} bytes, and receivers take 20 MiB at most", body.len());
                self.finished.push_back((id, Outcome::TooLarge { message }));
            }
            Ok(body) => {
                self.submit(UnderWay { parcel, body, compression: self.compression }, now);
                self.take_answers(now);
            }
        }
    }

    fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        if let Some(client) = &mut self.client {
            client.ready(event, now);
        }
        self.take_answers(now);
    }

    fn tick(&mut self, now: Instant) {
        if let Some(client) = &mut self.client {
            client.tick(now);
        }
        self.take_answers(now);
    }

    fn deadline(&self) -> Option<Instant> {
        self.client.as_ref().and_then(Client::deadline)
    }

    fn close(&mut self) {
        if let Some(client) = &mut self.client {
            client.close_idle();
        }
    }

    fn note(&self) -> Option<String> {
        self.note.clone()
    }

    fn finished(&mut self) -> Option<(u64, Outcome)> {
        self.finished.pop_front()
    }
}

/// What a receiver that took a request says about it.
fn accepted(answer: &Response, secrets: &Secrets) -> Outcome {
    let partial = if answer.truncated {
        Default::default()
    } else if is_json(answer) {
        // Some answer protobuf with JSON.
        json_partial_success(&answer.body)
    } else {
        otlp::response::parse_response(&answer.body)
            .map(|partial| (partial.rejected_spans, partial.error_message))
            .unwrap_or_default()
    };
    let (rejected, message) = partial;
    let message = secrets.shown(message.as_bytes());
    Outcome::Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message }
}

fn is_json(answer: &Response) -> bool {
    let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().starts_with("application/json"))
}

/// `rejectedSpans` (a number or a string of digits) of an answer in JSON; the body is its message.
fn json_partial_success(body: &[u8]) -> (i64, String) {
    let text = String::from_utf8_lossy(body);
    let Some((_, after)) = text.split_once("\"rejectedSpans\"") else { return Default::default() };
    let digits = after.trim_start_matches([' ', '\t', '\r', '\n', ':', '"']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    (digits[..end].parse().unwrap_or(0), text.into_owned())
}

/// How long the answer asks us to wait: seconds, or a date.
fn retry_after(answer: &Response, now: SystemTime) -> Option<Duration> {
    let text = answer.headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The beginning of an answer's text, or of the message in it, for messages.
fn said(answer: &Response, secrets: &Secrets) -> String {
    let text = match otlp::response::status_message(&answer.body) {
        Some(message) if !is_json(answer) => secrets.shown(message.as_bytes()),
        _ => secrets.shown(&answer.body),
    };
    if text.is_empty() { text } else { format!(": {text}") }
}

/// What we send and no message may show: receivers like to repeat the key that they do not know.
struct Secrets(Vec<String>);

impl Secrets {
    fn new(endpoint: &Endpoint, headers: &[(String, String)]) -> Self {
        let mut secrets = endpoint.secrets();
        for (_, value) in headers {
            // Without the scheme before it: "Bearer", "Basic".
            secrets.extend(value.split_whitespace().last().map(str::to_owned));
            secrets.push(value.trim().to_owned());
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        // One that holds another goes first, or its rest would stay.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(secrets)
    }

    /// The first bytes of a text from outside, without secrets and control characters.
    fn shown(&self, bytes: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "[secret]");
            }
        }
        let head = String::from_utf8_lossy(&text.as_bytes()[..text.len().min(ANSWER_BYTES_SHOWN)]);
        let text: String = head.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.trim().to_owned()
    }
}
