//! What the sinks that send over HTTP share: the client, compression and its fallback, what messages may show.
//!
//! A [`Protocol`] writes bodies and says what answers mean. A compressed request that is refused with 400 or 415 is sent
//! again in the next simpler form, and so are all later ones. Redirects are not followed: they could carry
//! credentials elsewhere.
//!
//! It keeps no queue and repeats nothing of itself but for that; see `outbox`.

mod compression;
mod secrets;

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

pub use self::compression::Compression;
pub(crate) use self::secrets::Secrets;
use crate::http::{
    Client, ClientOptions, Endpoint, HttpError, HttpErrorKind, Io, ProxySettings, Request,
    Response, TlsOptions, without_userinfo,
};
use crate::log;
use crate::sender::{Outcome, Parcel, Sender};

/// What an answer may ask us to wait, at most.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
const USER_AGENT: &str = concat!("spanring/", env!("CARGO_PKG_VERSION"));

/// What is sent, and what answers mean.
pub(crate) trait Protocol: Send {
    const CONTENT_TYPE: &'static str;
    /// Whether spans are wanted as OTLP.
    const WANTS_OTLP: bool;

    /// The body of a parcel's request: the same each time, until it was accepted or given up.
    ///
    /// # Errors
    ///
    /// What becomes of the parcel without a request.
    fn encode(&mut self, parcel: &Parcel) -> Result<Bytes, Outcome>;

    /// What an answer means for the parcel that it answers.
    fn judge(&mut self, answer: &Response, site: &Site, now: Instant) -> Outcome;

    /// What is odd about an answer, if it does not look like one of a receiver that speaks this protocol.
    fn doubt(&self, answer: &Response, site: &Site) -> Option<String>;
}

/// Where requests go, how, and with which headers.
pub(crate) struct HttpOptions {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) compression: Compression,
    pub(crate) timeout: Duration,
    pub(crate) pool_size: usize,
    pub(crate) tls: TlsOptions,
}

/// The receiver, as messages speak of it.
pub(crate) struct Site {
    /// The sink's name.
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) secrets: Secrets,
}

impl Site {
    /// `text` is what the answer says, as it may be shown.
    pub(crate) fn message(&self, answer: &Response, what: &str, text: &str) -> String {
        let colon = if text.is_empty() { "" } else { ": " };
        format!("{} answered {}{what}{colon}{text}", self.endpoint, answer.status)
    }

    /// Where an answer redirects to.
    pub(crate) fn redirected_to(&self, answer: &Response) -> String {
        let to = answer.headers.get("location").and_then(|to| to.to_str().ok());
        // It may repeat what the endpoint has, its query for example.
        to.map_or(String::new(), |to| {
            format!(" to {}", self.secrets.shown(without_userinfo(to).as_bytes()))
        })
    }
}

/// A request that may have to be sent again in a simpler form.
struct UnderWay {
    parcel: Parcel,
    body: Bytes,
    compression: Compression,
}

pub(crate) struct HttpSink<P> {
    site: Site,
    options: Option<ClientOptions>,
    headers: Vec<(String, String)>,
    client: Option<Client>,
    compression: Compression,
    /// That the compression was refused, or what is odd.
    note: Option<String>,
    protocol: P,
    under_way: Vec<UnderWay>,
    finished: VecDeque<(u64, Outcome)>,
}

impl<P: Protocol> HttpSink<P> {
    /// A sink that has not been opened yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the options, and what to do.
    pub(crate) fn new(options: HttpOptions, protocol: P) -> Result<Self, String> {
        let endpoint = Endpoint::parse(&options.endpoint).map_err(|error| error.to_string())?;
        let site = Site {
            name: options.name,
            endpoint: endpoint.to_string(),
            secrets: Secrets::new(&endpoint, &options.headers),
        };
        let client = ClientOptions {
            pool_size: options.pool_size.max(1),
            connect_timeout: options.timeout,
            request_timeout: options.timeout,
            tls: options.tls,
            share_addresses: true,
            proxy: ProxySettings::of_environment(),
            ..ClientOptions::new(endpoint)
        };
        Ok(HttpSink {
            site,
            options: Some(client),
            headers: options.headers,
            client: None,
            compression: options.compression,
            note: None,
            protocol,
            under_way: Vec::new(),
            finished: VecDeque::new(),
        })
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
            ("content-type".to_owned(), P::CONTENT_TYPE.to_owned()),
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
                    message: format!("{}: all connections are in use", self.site.endpoint),
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
                    if self.note.is_none() {
                        self.note = self.protocol.doubt(&answer, &self.site);
                    }
                    self.protocol.judge(&answer, &self.site, now)
                }
                Err(error) => fault(&error),
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
                self.site.endpoint,
                answer.status,
                self.compression.name(),
                simpler.name(),
            );
            log::info!("sink {}: {note}", self.site.name);
            self.note = Some(note);
            self.compression = simpler;
        }
        under_way.compression = simpler;
        self.submit(under_way, now);
    }
}

impl<P: Protocol> Sender for HttpSink<P> {
    fn name(&self) -> &str {
        &self.site.name
    }

    fn wants_otlp(&self) -> bool {
        P::WANTS_OTLP
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
        match self.protocol.encode(&parcel) {
            Err(outcome) => self.finished.push_back((parcel.id, outcome)),
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

fn fault(error: &HttpError) -> Outcome {
    let message = error.to_string();
    match error.kind() {
        HttpErrorKind::Options | HttpErrorKind::Request => Outcome::Refused { message },
        _ => Outcome::Retry { message, wait: None, repeats: error.may_have_been_processed() },
    }
}

/// An endpoint as messages show it: without user, password and query, which may be secret.
pub(crate) fn place(endpoint: &str) -> String {
    match Endpoint::parse(endpoint) {
        Ok(endpoint) => endpoint.to_string(),
        Err(_) => "(unusable)".to_owned(),
    }
}

/// The name of a spool's directory: the same in every process whose sink of that name sends to the same place, with
/// whatever credentials.
pub(crate) fn spool_key(name: &str, place: &str) -> String {
    let mut short: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    short.truncate(32);
    format!("{short}-{:08x}", crc32fast::hash(format!("{name} {place}").as_bytes()))
}

/// How long the answer asks us to wait: seconds, or a date.
pub(crate) fn retry_after(answer: &Response, now: SystemTime) -> Option<Duration> {
    let text = answer.headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The same in milliseconds, as some say it instead.
pub(crate) fn retry_after_ms(answer: &Response) -> Option<Duration> {
    let text = answer.headers.get("retry-after-ms")?.to_str().ok()?.trim();
    let wait = Duration::try_from_secs_f64(text.parse::<f64>().ok()? / 1e3).ok()?;
    Some(wait.min(RETRY_AFTER_MAX))
}

pub(crate) fn is_of_kind(answer: &Response, wanted: &str) -> bool {
    let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().starts_with(wanted))
}
