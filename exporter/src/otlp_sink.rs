//! The OTLP sink: spans to a receiver over HTTP, as protobuf.
//!
//! What answers mean is decided here, as OTLP says: 2xx is accepted, with what a partial success says was refused; 429,
//! 502, 503, 504 and faults of the connection may pass; 413 asks for smaller requests; everything else is a
//! refusal. The rest is `http_sink`'s.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use spanring::settings::Settings;

use crate::http::{Response, TlsOptions};
use crate::http_sink::{
    Compression, HttpOptions, HttpSink, Protocol, Site, is_of_kind, place, retry_after, spool_key,
};
use crate::sender::{Content, Outcome, Parcel};
use crate::{batch, log, otlp};

/// What a request's body may have before it is compressed: the Collector takes 20 MiB.
const BODY_BYTES_MAX: usize = 16 << 20;
/// How often the log may say what a receiver says to what it takes.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

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
    /// The sink's name in logs and stats; `otlp` unless told otherwise. With `DIR`, what waits on disk is found again
    /// by name and endpoint, without the endpoint's user, password and query and without the headers, which may
    /// change. So sinks for several tenants behind one URL need names of their own, the same at each start.
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
        place(&self.endpoint)
    }

    /// The name of the spool's directory.
    pub(crate) fn spool_key(&self) -> String {
        spool_key(&self.name, &self.place())
    }

    /// A sink that has not been opened yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the options, and what to do.
    pub(crate) fn sink(&self) -> Result<HttpSink<Otlp>, String> {
        let options = HttpOptions {
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            headers: self.headers.clone(),
            compression: self.compression,
            timeout: self.timeout,
            pool_size: self.pool_size,
            tls: TlsOptions {
                ca_file: self.certificate.clone(),
                client_certificate: self.client_certificate.clone(),
                client_key: self.client_key.clone(),
            },
        };
        HttpSink::new(options, Otlp::default())
    }
}

/// OTLP as a protocol of requests and answers.
#[derive(Default)]
pub(crate) struct Otlp {
    writer: otlp::Writer,
    /// What the receiver said to spans that it took, when it was logged last.
    warned: Option<(String, Instant)>,
}

impl Otlp {
    /// The parcel's spans as OTLP, from the batch's own form.
    fn write(&mut self, parcel: &Parcel) -> Result<Bytes, String> {
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

    /// A partial success that refuses nothing is a warning: it is logged when it is another than before.
    fn warn(&mut self, outcome: &Outcome, site: &Site, now: Instant) {
        let Outcome::Accepted { rejected: 0, message } = outcome else { return };
        let is_new = self.warned.as_ref().is_none_or(|(last, at)| {
            last != message && now.saturating_duration_since(*at) >= WARNING_INTERVAL
        });
        if is_new && !message.is_empty() {
            log::warning!(
                "sink {}: {} took all spans and says: {message}",
                site.name,
                site.endpoint
            );
            self.warned = Some((message.clone(), now));
        }
    }
}

impl Protocol for Otlp {
    const CONTENT_TYPE: &'static str = "application/x-protobuf";
    const WANTS_OTLP: bool = true;

    fn encode(&mut self, parcel: &Parcel) -> Result<Bytes, Outcome> {
        let body = match &parcel.body {
            Some(body) => Ok(body.clone()),
            None => self.write(parcel),
        };
        match body {
            Err(message) => {
                let message = format!("a batch cannot be read again: {message}");
                Err(Outcome::Refused { message })
            }
            Ok(body) if body.len() > BODY_BYTES_MAX => {
                let message = format!("{} bytes, and receivers take 20 MiB at most", body.len());
                Err(Outcome::TooLarge { message })
            }
            Ok(body) => Ok(body),
        }
    }

    fn judge(&mut self, answer: &Response, site: &Site, now: Instant) -> Outcome {
        let outcome = judge(answer, site);
        self.warn(&outcome, site, now);
        outcome
    }

    /// What takes everything and answers something else than OTLP may be no receiver of spans at all.
    fn doubt(&self, answer: &Response, site: &Site) -> Option<String> {
        let is_success = matches!(answer.status, 200..=299);
        // One of OTLP that was cut need not parse.
        let may_be_otlp = is_json(answer) || (answer.truncated && is_protobuf(answer));
        let is_odd =
            is_success && !may_be_otlp && otlp::response::parse_response(&answer.body).is_err();
        is_odd.then(|| {
            format!(
                "{} answered {}, but not as a receiver of OTLP does; is it the right port and path?",
                site.endpoint, answer.status
            )
        })
    }
}

fn judge(answer: &Response, site: &Site) -> Outcome {
    let said = said(answer, site);
    let message = |what: &str| site.message(answer, what, &said);
    match answer.status {
        200..=299 => accepted(answer, site),
        413 => Outcome::TooLarge { message: message("; its limit for requests is lower") },
        429 | 502 | 503 | 504 => Outcome::Retry {
            message: message(match answer.status {
                429 => "; it wants fewer requests: send later, or ask for a higher limit",
                _ => "; it, or what is behind it, is down or overloaded",
            }),
            wait: retry_after(answer, SystemTime::now()),
            repeats: false,
        },
        300..=399 => Outcome::Refused {
            message: message(&format!(
                ", a redirect{}, which is not followed; set ENDPOINT to where it leads",
                site.redirected_to(answer)
            )),
        },
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

/// What a receiver that took a request says about it.
fn accepted(answer: &Response, site: &Site) -> Outcome {
    let partial = if answer.truncated {
        // A cut answer may hide that some spans were refused. They count as taken: the status says so, and to
        // ask again would send again what the receiver has.
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
    let message = site.secrets.shown(message.as_bytes());
    Outcome::Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message }
}

fn is_json(answer: &Response) -> bool {
    is_of_kind(answer, "application/json")
}

fn is_protobuf(answer: &Response) -> bool {
    is_of_kind(answer, "application/x-protobuf")
}

/// `rejectedSpans` (a number or a string of digits) of an answer in JSON; the body is its message, if it has one or
/// refuses something.
fn json_partial_success(body: &[u8]) -> (i64, String) {
    const BETWEEN: [char; 5] = [' ', '\t', '\r', '\n', ':'];
    let text = String::from_utf8_lossy(body);
    let after = |name: &str| Some(text.split_once(name)?.1.trim_start_matches(BETWEEN));
    let digits = after("\"rejectedSpans\"").unwrap_or_default().trim_start_matches('"');
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let rejected = digits[..end].parse().unwrap_or(0);
    let message = after("\"errorMessage\"").and_then(|message| message.strip_prefix('"'));
    let says_something = message.is_some_and(|message| !message.starts_with('"'));
    if rejected == 0 && !says_something {
        return Default::default();
    }
    (rejected, text.into_owned())
}

/// The beginning of an answer's text, or of the message in it, for messages.
fn said(answer: &Response, site: &Site) -> String {
    let secrets = &site.secrets;
    let body = if answer.truncated { secrets.without_cut(&answer.body) } else { &answer.body };
    match otlp::response::status_message(body) {
        Some(message) if !is_json(answer) => secrets.shown(message.as_bytes()),
        _ => secrets.shown(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_is_found_again_with_other_credentials_and_not_for_another_name_or_place() {
        let key = |name: &str, endpoint: &str| {
            let mut options = OtlpOptions::new(endpoint);
            options.name = name.to_owned();
            options.headers.push(("api-key".to_owned(), endpoint.to_owned()));
            options.spool_key()
        };
        let first = key("otlp", "https://a.example/v1/traces?key=1");
        assert!(first.starts_with("otlp-"), "{first}");
        for same in [
            "https://a.example/v1/traces?key=2",
            "https://a.example/v1/traces",
            "https://user:password@a.example/v1/traces",
        ] {
            assert_eq!(key("otlp", same), first, "{same}");
        }
        let others = [
            key("otlp", "https://b.example/v1/traces"),
            key("otlp", "https://a.example/other/v1/traces"),
            key("otlp", "http://a.example/v1/traces"),
            key("otlp", "https://a.example:4318/v1/traces"),
            key("otlp2", "https://a.example/v1/traces"),
            // Not even where the names differ in what no directory is named by.
            key("ot-lp", "https://a.example/v1/traces"),
            key("ot_lp", "https://a.example/v1/traces"),
        ];
        let mut all: Vec<_> = others.iter().chain([&first]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8, "{others:?}");
    }
}
