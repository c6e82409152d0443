//! The OpenAI sink: spans to OpenAI's trace ingest, as JSON over HTTP.
//!
//! What answers mean is decided here, as OpenAI's own clients have it: 2xx is accepted; 408, 409, 429, 5xx and faults of
//! the connection may pass, unless the answer says `x-should-retry: false`; 413 asks for smaller requests; everything
//! else is a refusal. The rest is `http_sink`'s, and what is in a body `openai`'s.
//!
//! One request is under way at a time: a trace's object must be there before its later spans.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use spanring::settings::Settings;

use crate::batch;
use crate::http::{Response, TlsOptions};
use crate::http_sink::{
    Compression, HttpOptions, HttpSink, Protocol, Site, is_of_kind, place, retry_after,
    retry_after_ms, spool_key,
};
use crate::model::SpanBatch;
use crate::openai::{Traces, Writer};
use crate::sender::{Content, Outcome, Parcel};

/// What a request's body may have before it is compressed.
const BODY_BYTES_MAX: usize = 8 << 20;
const BASE_URL: &str = "https://api.openai.com/v1";
const PATH: &str = "traces/ingest";

/// How spans are sent to OpenAI's trace ingest.
///
/// ```
/// use spanring_exporter::OpenAiOptions;
///
/// let mut options = OpenAiOptions::new("sk-secret");
/// options.project = Some("proj_shop".into());
/// assert_eq!(options.place(), "https://api.openai.com/v1/traces/ingest");
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenAiOptions {
    /// The sink's name in logs and stats; `openai` unless told otherwise. With `DIR`, what waits on disk is found
    /// again by name and URL, without the key, which may change.
    pub name: String,
    /// Where the API is.
    pub base_url: String,
    /// The key.
    pub api_key: String,
    /// The organization that requests name.
    pub organization: Option<String>,
    /// The project that requests name.
    pub project: Option<String>,
    /// Compression of requests.
    pub compression: Compression,
    /// How long one request may take, its answer included.
    pub timeout: Duration,
}

impl fmt::Debug for OpenAiOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiOptions")
            .field("name", &self.name)
            .field("place", &self.place())
            .field("organization", &self.organization)
            .field("project", &self.project)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl OpenAiOptions {
    /// With the defaults that `docs/settings.md` gives.
    pub fn new(api_key: impl Into<String>) -> Self {
        OpenAiOptions {
            name: "openai".to_owned(),
            base_url: BASE_URL.to_owned(),
            api_key: api_key.into(),
            organization: None,
            project: None,
            compression: Compression::None,
            timeout: Duration::from_secs(10),
        }
    }

    /// What the settings say; `None` if `OPENAI` is off, or there is no key.
    pub fn from_settings(settings: &Settings) -> Option<Self> {
        let key = settings.openai_api_key.as_ref().filter(|_| settings.openai)?;
        Some(OpenAiOptions {
            base_url: settings.openai_base_url.clone(),
            organization: settings.openai_org_id.clone(),
            project: settings.openai_project_id.clone(),
            compression: Compression::from_name(&settings.compression).unwrap_or_default(),
            timeout: settings.timeout,
            ..Self::new(key.0.clone())
        })
    }

    /// Where requests go, as messages show it.
    pub fn place(&self) -> String {
        place(&self.endpoint())
    }

    fn endpoint(&self) -> String {
        let base = self.base_url.trim().trim_end_matches('/');
        let is_socket = base.strip_prefix("unix://").is_some_and(|rest| !rest.contains(":/"));
        format!("{base}{}/{PATH}", if is_socket { ":" } else { "" })
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
    pub(crate) fn sink(&self) -> Result<HttpSink<OpenAi>, String> {
        if self.api_key.is_empty() || !self.api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the key for OpenAI is empty, or has a character that no key has; set \
                        OPENAI_API_KEY to the key alone"
                .to_owned());
        }
        let mut headers = vec![
            ("authorization".to_owned(), format!("Bearer {}", self.api_key)),
            ("openai-beta".to_owned(), "traces=v1".to_owned()),
        ];
        for (name, value) in
            [("openai-organization", &self.organization), ("openai-project", &self.project)]
        {
            headers.extend(value.as_ref().map(|value| (name.to_owned(), value.clone())));
        }
        let options = HttpOptions {
            name: self.name.clone(),
            endpoint: self.endpoint(),
            headers,
            compression: self.compression,
            timeout: self.timeout,
            pool_size: 1,
            tls: TlsOptions::default(),
        };
        HttpSink::new(options, OpenAi::default())
    }
}

/// The ingest as a protocol of requests and answers.
#[derive(Default)]
pub(crate) struct OpenAi {
    writer: Writer,
    /// Traces whose objects are in the request that is under way.
    under_way: Traces,
}

impl OpenAi {
    fn write(&mut self, parcel: &Parcel, batch: &SpanBatch) -> Result<Bytes, Outcome> {
        let range = parcel.first as usize..(parcel.first + parcel.spans) as usize;
        let Some(body) = self.writer.write_batch(batch, range, BODY_BYTES_MAX) else {
            let message = format!("more than {} MiB", BODY_BYTES_MAX >> 20);
            return Err(Outcome::TooLarge { message });
        };
        if body.objects == 0 {
            // A trace's own span, whose object is there already.
            return Err(Outcome::Accepted { rejected: 0, message: String::new() });
        }
        self.under_way = body.traces;
        Ok(body.json.into())
    }
}

impl Protocol for OpenAi {
    const CONTENT_TYPE: &'static str = "application/json";
    const WANTS_OTLP: bool = false;

    fn encode(&mut self, parcel: &Parcel) -> Result<Bytes, Outcome> {
        match &parcel.content {
            Content::Spans(batch) => self.write(parcel, batch),
            Content::Frame(frame) => match batch::decode(frame) {
                Ok(decoded) => self.write(parcel, &decoded.batch),
                Err(error) => {
                    let message = format!("a batch cannot be read again: {error}");
                    Err(Outcome::Refused { message })
                }
            },
        }
    }

    fn judge(&mut self, answer: &Response, site: &Site, _: Instant) -> Outcome {
        let said = said(answer, site);
        let message = |what: &str| site.message(answer, what, &said);
        match answer.status {
            200..=299 => {
                self.writer.accepted(std::mem::take(&mut self.under_way));
                Outcome::Accepted { rejected: 0, message: String::new() }
            }
            413 => Outcome::TooLarge { message: message("; its limit for requests is lower") },
            408 | 409 | 429 | 500.. if may_be_sent_again(answer) => Outcome::Retry {
                message: message(match answer.status {
                    429 => "; it wants fewer requests: send later, or ask for a higher limit",
                    _ => "; it, or what is behind it, is down or overloaded",
                }),
                wait: retry_after_ms(answer).or_else(|| retry_after(answer, SystemTime::now())),
                repeats: false,
            },
            408 | 409 | 429 | 500.. => {
                Outcome::Refused { message: message(", and not to send it again") }
            }
            300..=399 => Outcome::Refused {
                message: message(&format!(
                    ", a redirect{}, which is not followed; set OPENAI_BASE_URL to where it leads",
                    site.redirected_to(answer)
                )),
            },
            401 | 403 => Outcome::Refused {
                message: message(
                    "; OPENAI_API_KEY must be a key that may write traces, and OPENAI_ORG_ID and \
                     OPENAI_PROJECT_ID its own or unset",
                ),
            },
            404 | 405 => Outcome::Refused {
                message: message("; is OPENAI_BASE_URL right? OpenAI's ends with /v1"),
            },
            _ => Outcome::Refused { message: message("; it does not want these spans") },
        }
    }

    /// A page for people comes from something else than the API.
    fn doubt(&self, answer: &Response, site: &Site) -> Option<String> {
        let is_page = matches!(answer.status, 200..=299) && is_of_kind(answer, "text/html");
        is_page.then(|| {
            format!(
                "{} answered {} with a web page; is OPENAI_BASE_URL right?",
                site.endpoint, answer.status
            )
        })
    }
}

fn may_be_sent_again(answer: &Response) -> bool {
    let said = answer.headers.get("x-should-retry").and_then(|said| said.to_str().ok());
    !said.is_some_and(|said| said.trim().eq_ignore_ascii_case("false"))
}

/// The message in an answer, or the beginning of the answer, for messages.
fn said(answer: &Response, site: &Site) -> String {
    let secrets = &site.secrets;
    let body = if answer.truncated { secrets.without_cut(&answer.body) } else { &answer.body };
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|parsed| parsed.pointer("/error/message")?.as_str());
    without_parts_of_keys(&secrets.shown(message.map_or(body, str::as_bytes)))
}

/// Of a key that it does not know, OpenAI repeats the beginning and the end with asterisks between.
fn without_parts_of_keys(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '*');
        let is_key = bare.starts_with("sk-") || bare.contains("**");
        if is_key { word.replace(bare, "[key]") } else { word.to_owned() }
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_keys_are_not_shown() {
        for (text, shown) in [
            (
                "Incorrect API key provided: sk-proj-***abcd. See",
                "Incorrect API key provided: [key]. See",
            ),
            ("is sk-proj-abcd a key?", "is [key] a key?"),
            ("key 'abc***xyz' is wrong", "key '[key]' is wrong"),
            ("task-1 failed with 3 * 4", "task-1 failed with 3 * 4"),
        ] {
            assert_eq!(without_parts_of_keys(text), shown);
        }
    }

    #[test]
    fn the_path_is_added_to_any_base() {
        for (base, endpoint) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1/traces/ingest"),
            ("http://h:8080/", "http://h:8080/traces/ingest"),
            ("unix:///run/a.sock", "unix:///run/a.sock:/traces/ingest"),
            ("unix:///run/a.sock:/v1", "unix:///run/a.sock:/v1/traces/ingest"),
        ] {
            let options = OpenAiOptions { base_url: base.to_owned(), ..OpenAiOptions::new("sk-1") };
            assert_eq!(options.endpoint(), endpoint);
        }
    }

    #[test]
    fn a_spool_is_found_again_with_another_key() {
        let key = |key: &str| OpenAiOptions::new(key).spool_key();
        assert_eq!(key("sk-1"), key("sk-2"));
        let other = OpenAiOptions { base_url: "http://h/v1".to_owned(), ..OpenAiOptions::new("a") };
        assert_ne!(key("sk-1"), other.spool_key());
    }
}
