//! Alerts: what a person should look at now, found by the flusher in what came since it last looked.
//!
//! `watch` decides, with hysteresis and a cooldown a type; `desk` gathers the facts and hands alerts over; `webhook` sends
//! them. They also go to the log, and wait here until somebody takes them.

mod desk;
#[cfg(test)]
mod tests;
mod watch;
mod webhook;

use std::collections::VecDeque;

use serde_json::{Value, json};

pub(crate) use desk::Desk;
pub(crate) use webhook::owns as owns_token;

use crate::render::timestamp;

/// Alerts that wait to be taken; of more, the oldest are dropped and counted.
pub const ALERTS_MAX: usize = 100;

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(usize)]
pub enum AlertKind {
    /// The share of spans whose status is error exceeds `ALERT_ERROR_RATE`.
    ErrorRate,
    /// The share of spans that take longer than `ALERT_SLOW_TIME` exceeds `ALERT_SLOW_RATE`.
    SlowRate,
    /// One span of a hundred takes longer than `ALERT_P99`; value and limit are seconds.
    P99,
    /// The share of spans that the engine or sinks dropped exceeds `ALERT_DROP_RATE`.
    DropRate,
    /// Spans have waited longer than `HEALTH_SINK_GRACE` for a sink that takes none; value and limit are seconds.
    Delivery,
    /// The process's resident memory exceeds `HEALTH_MAX_MEMORY`; value and limit are bytes.
    Memory,
}

impl AlertKind {
    /// Number of kinds.
    pub const COUNT: usize = 6;
    /// All kinds, in the order of their numbers.
    pub const ALL: [AlertKind; Self::COUNT] = [
        AlertKind::ErrorRate,
        AlertKind::SlowRate,
        AlertKind::P99,
        AlertKind::DropRate,
        AlertKind::Delivery,
        AlertKind::Memory,
    ];

    /// The name in logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            AlertKind::ErrorRate => "error_rate",
            AlertKind::SlowRate => "slow_rate",
            AlertKind::P99 => "p99",
            AlertKind::DropRate => "drop_rate",
            AlertKind::Delivery => "delivery",
            AlertKind::Memory => "memory",
        }
    }

    /// Critical is what loses spans, or soon will.
    pub fn severity(self) -> Severity {
        match self {
            AlertKind::DropRate | AlertKind::Delivery => Severity::Critical,
            _ => Severity::Warning,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// The program is not as it should be.
    Warning,
    /// Spans are lost, or soon will be.
    Critical,
}

impl Severity {
    /// The name in logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// That a limit was exceeded, or, with `over`, that it is not any more.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Alert {
    /// What it is about.
    pub kind: AlertKind,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it is over.
    pub over: bool,
    /// What was found: a share, seconds or bytes; see [`AlertKind`].
    pub value: f64,
    /// What it should not exceed.
    pub limit: f64,
    /// When the limit was first exceeded, in ns since the Unix epoch.
    pub since: u64,
    /// When the alert was made, likewise.
    pub time: u64,
    /// What was found, and what to do.
    pub message: String,
}

impl Alert {
    pub(crate) fn value(&self) -> Value {
        json!({
            "type": self.kind.name(),
            "severity": self.severity.name(),
            "over": self.over,
            "value": self.value,
            "limit": self.limit,
            "since": timestamp(self.since),
            "time": timestamp(self.time),
            "message": self.message,
        })
    }
}

/// What became of requests to the webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookCounts {
    /// Alerts that it took.
    pub delivered: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Alerts that were given up: after four attempts, when it refused them, when too many waited, at shutdown.
    pub dropped: u64,
}

/// Alerts since somebody last took them, as [`Pipeline::alerts`](crate::Pipeline::alerts) gives them.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Alerts {
    /// The oldest first; [`ALERTS_MAX`] at most.
    pub alerts: Vec<Alert>,
    /// Older ones that were dropped since the pipeline began, because nobody took them.
    pub dropped: u64,
    /// What became of requests to the webhook since then.
    pub webhook: WebhookCounts,
}

impl Alerts {
    /// The same as JSON; times as ISO 8601 has them.
    pub fn to_json(&self) -> String {
        let alerts: Vec<_> = self.alerts.iter().map(Alert::value).collect();
        json!({
            "alerts": alerts,
            "dropped": self.dropped,
            "webhook": {
                "delivered": self.webhook.delivered,
                "failures": self.webhook.failures,
                "dropped": self.webhook.dropped,
            },
        })
        .to_string()
    }
}

/// Alerts that wait to be taken.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    alerts: VecDeque<Alert>,
    dropped: u64,
    pub(crate) webhook: WebhookCounts,
}

impl Waiting {
    pub(crate) fn push(&mut self, alert: Alert) {
        if self.alerts.len() == ALERTS_MAX {
            self.alerts.pop_front();
            self.dropped += 1;
        }
        self.alerts.push_back(alert);
    }

    /// What is there; it stays.
    pub(crate) fn look(&self) -> Alerts {
        let alerts = self.alerts.iter().cloned().collect();
        Alerts { alerts, dropped: self.dropped, webhook: self.webhook }
    }

    pub(crate) fn clear(&mut self) {
        self.alerts.clear();
    }
}
