//! What the flusher has of alerts: it counts spans, looks when that is due, and hands over what it finds.

use std::time::{Duration, Instant};

use serde_json::json;
use spanring::record::Records;
use spanring::settings::{LogLevel, Settings};

use super::watch::{Facts, Watch};
use super::webhook::Webhook;
use super::{Alert, Severity};
use crate::batch::TickClock;
use crate::log;
use crate::metrics;
use crate::pipeline::Shared;
use crate::sender::IoSource;

/// How old what is known of the process's memory may be: under load it is looked often, and the system is slow to tell.
const MEMORY_AGE_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Desk {
    watch: Watch,
    webhook: Option<Webhook>,
    memory: Option<(Instant, Option<u64>)>,
}

impl Desk {
    /// Once spans were sealed, what was created and dropped before is old news. A webhook that cannot be used costs a message, and the alerts go on without it.
    pub(crate) fn open(
        shared: &Shared,
        settings: &Settings,
        io: &IoSource,
        is_first: bool,
    ) -> Self {
        let webhook = settings.alert_webhook.as_ref().and_then(|url| {
            Webhook::open(&url.0, io, shared.webhook_counts())
                .inspect_err(|message| log::error!("ALERT_WEBHOOK gets no alerts: {message}"))
                .ok()
        });
        let (created, dropped) = if is_first { (0, 0) } else { counts(shared) };
        Desk { watch: Watch::new(created, dropped), webhook, memory: None }
    }

    /// Counts the spans of a batch.
    pub(crate) fn add(
        &mut self,
        records: &Records,
        clock: &impl TickClock,
        settings: &Settings,
        now: Instant,
    ) {
        self.watch.add(records, clock, settings, now);
    }

    /// After each round: looks if that is due, and lets the webhook go on.
    pub(crate) fn tick(&mut self, shared: &Shared, settings: &Settings, now: Instant) {
        let spans_wait = shared.longest_wait(now).is_some();
        self.watch.note(counts(shared).1, spans_wait, now);
        if self.watch.deadline(settings).is_some_and(|at| at <= now) {
            self.look(shared, settings, now);
        }
        if let Some(webhook) = &mut self.webhook {
            webhook.tick(now);
        }
        self.publish(shared);
    }

    /// Looks now, whether or not it is due.
    pub(crate) fn look(&mut self, shared: &Shared, settings: &Settings, now: Instant) {
        let (created, dropped) = counts(shared);
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < MEMORY_AGE_MAX;
        let memory = match self.memory {
            Some((at, memory)) if is_fresh(at) => memory,
            _ => {
                let memory = metrics::process_memory();
                self.memory = Some((now, memory));
                memory
            }
        };
        let facts = Facts { created, dropped, memory, waits: shared.longest_wait(now) };
        for alert in self.watch.look(&facts, settings, now, spanring::clock::unix_nanos()) {
            self.hand_over(alert, shared, settings, now);
        }
    }

    fn hand_over(&mut self, alert: Alert, shared: &Shared, settings: &Settings, now: Instant) {
        let level = match alert.severity {
            _ if alert.over => LogLevel::Info,
            Severity::Warning => LogLevel::Warn,
            Severity::Critical => LogLevel::Error,
        };
        let over = if alert.over { " is over" } else { "" };
        log::write_asked(
            level,
            format_args!("alert {}{over}: {}", alert.kind.name(), alert.message),
        );
        if let Some(webhook) = &mut self.webhook {
            let mut body = alert.value();
            body["service"] = json!(settings.service_name);
            webhook.send(body.to_string(), now);
        }
        shared.push_alert(alert);
    }

    fn publish(&self, shared: &Shared) {
        if let Some(webhook) = &self.webhook {
            shared.publish_webhook(webhook.counts);
        }
    }

    /// An event for the webhook.
    pub(crate) fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        if let Some(webhook) = &mut self.webhook {
            webhook.ready(event, now);
        }
    }

    /// When it wants to be called.
    pub(crate) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        let webhook = self.webhook.as_ref().and_then(Webhook::deadline);
        self.watch.deadline(settings).into_iter().chain(webhook).min()
    }

    /// Whether an alert is on its way to the webhook.
    pub(crate) fn is_busy(&self) -> bool {
        self.webhook.as_ref().is_some_and(Webhook::is_busy)
    }

    /// Gives up what is on its way.
    pub(crate) fn close(&mut self, shared: &Shared) {
        if let Some(webhook) = &mut self.webhook {
            webhook.close();
        }
        self.publish(shared);
    }
}

/// Spans that were created, and those that were dropped by engine and sinks without having been asked to.
fn counts(shared: &Shared) -> (u64, u64) {
    let totals = shared.engine.totals();
    (totals.created, totals.dropped.unasked() + shared.dropped_by_sinks())
}
