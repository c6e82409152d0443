//! The webhook: each alert as a POST of JSON, on the flusher's loop, with the HTTP client of the sinks.
//!
//! One request at a time, in order. What may pass is tried again a few times; that it fails is logged once, until it works again.
//! Of the URL only scheme and host are ever shown: its path is a secret with many services.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::WebhookCounts;
use crate::http::{
    Client, ClientOptions, Endpoint, HttpError, HttpErrorKind, Io, Request, Response, tokens_needed,
};
use crate::http_sink::Secrets;
use crate::log;
use crate::sender::IoSource;

/// How often an alert is sent at most.
const ATTEMPTS_MAX: u32 = 4;
/// How long after the first failure it is tried again; each time four times as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Alerts that wait; of more, the oldest are dropped.
const WAITING_MAX: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between the endpoint's tokens and those of the sinks.
const TOKENS: std::ops::Range<usize> = 1 << 15..(1 << 15) + tokens_needed(1);

/// Whether an event with that token is for the webhook.
pub(crate) fn owns(token: mio::Token) -> bool {
    TOKENS.contains(&token.0)
}

struct Waiting {
    body: Bytes,
    attempts: u32,
    /// When it is tried.
    at: Instant,
}

pub(super) struct Webhook {
    client: Client,
    /// As messages show it.
    place: String,
    secrets: Secrets,
    /// The first is under way if `is_sending`.
    waiting: VecDeque<Waiting>,
    is_sending: bool,
    id: u64,
    is_failing: bool,
    pub(super) counts: WebhookCounts,
}

impl Webhook {
    /// # Errors
    ///
    /// What is wrong with the URL, and what to do; without the URL.
    pub(super) fn open(url: &str, io: &IoSource, counts: WebhookCounts) -> Result<Self, String> {
        let endpoint = Endpoint::parse(url).map_err(|_| {
            "it cannot be used as a URL; it has the form http://HOST[:PORT][/PATH], https://… or unix:///SOCKET[:/PATH]".to_owned()
        })?;
        let place = endpoint.origin();
        // The path as if it were a header's value: no message shows one.
        let secrets = Secrets::new(&endpoint, &[(String::new(), endpoint.path().to_owned())]);
        let options = ClientOptions {
            pool_size: 1,
            connect_timeout: TIMEOUT,
            request_timeout: TIMEOUT,
            share_addresses: true,
            proxy: io.proxy.clone(),
            ..ClientOptions::new(endpoint)
        };
        let registry = io.registry.try_clone().map_err(|error| error.to_string())?;
        let io = Io { registry, tokens: TOKENS, waker: Arc::clone(&io.waker) };
        let client = Client::new(options, io)
            .map_err(|error| secrets.shown(error.to_string().as_bytes()))?;
        Ok(Webhook {
            client,
            place,
            secrets,
            waiting: VecDeque::new(),
            is_sending: false,
            id: 0,
            is_failing: false,
            counts,
        })
    }

    pub(super) fn send(&mut self, body: String, now: Instant) {
        if self.waiting.len() == WAITING_MAX {
            // Not the one under way.
            self.waiting.remove(usize::from(self.is_sending));
            self.counts.dropped += 1;
        }
        self.waiting.push_back(Waiting { body: body.into(), attempts: 0, at: now });
        self.tick(now);
    }

    pub(super) fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        self.client.ready(event, now);
        self.tick(now);
    }

    /// Takes answers, and sends what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        self.client.tick(now);
        loop {
            while let Some((_, result)) = self.client.finished() {
                self.is_sending = false;
                self.settle(result, now);
            }
            let due = self.waiting.front_mut().filter(|first| first.at <= now);
            let Some(first) = due.filter(|_| !self.is_sending && self.client.can_submit()) else {
                return;
            };
            first.attempts += 1;
            self.id += 1;
            let headers = vec![
                ("content-type".to_owned(), "application/json".to_owned()),
                (
                    "user-agent".to_owned(),
                    concat!("spanring/", env!("CARGO_PKG_VERSION")).to_owned(),
                ),
            ];
            let request = Request { id: self.id, headers, body: first.body.clone() };
            // It can be submitted, so it is taken.
            self.is_sending = self.client.submit(request, now).is_ok();
        }
    }

    fn settle(&mut self, result: Result<Response, HttpError>, now: Instant) {
        let Some(mut alert) = self.waiting.pop_front() else { return };
        let (message, may_pass) = match result {
            Ok(answer) if answer.status / 100 == 2 => {
                self.counts.delivered += 1;
                if std::mem::take(&mut self.is_failing) {
                    log::info!("the webhook for alerts at {} works again", self.place);
                }
                return;
            }
            Ok(answer) => {
                let may_pass = matches!(answer.status, 408 | 429 | 500..);
                let text = self.secrets.shown(&answer.body);
                (format!("{} answered {} {text}", self.place, answer.status), may_pass)
            }
            Err(error) => {
                let lasts = matches!(error.kind(), HttpErrorKind::Options | HttpErrorKind::Request);
                (self.secrets.shown(error.to_string().as_bytes()), !lasts)
            }
        };
        self.counts.failures += 1;
        if !std::mem::replace(&mut self.is_failing, true) {
            log::warning!(
                "the webhook for alerts does not take them: {}; each alert is sent {ATTEMPTS_MAX} times at most",
                message.trim_end()
            );
        }
        if may_pass && alert.attempts < ATTEMPTS_MAX {
            alert.at = now + BACKOFF_FIRST * 4u32.pow(alert.attempts - 1);
            self.waiting.push_front(alert);
        } else {
            self.counts.dropped += 1;
        }
    }

    /// When it wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.waiting.front().filter(|_| !self.is_sending).map(|first| first.at);
        self.client.deadline().into_iter().chain(first).min()
    }

    /// Whether anything is under way or waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives up what waits, and says goodbye.
    pub(super) fn close(&mut self) {
        self.counts.dropped += self.waiting.len() as u64;
        self.waiting.clear();
        self.client.close_idle();
    }
}
