//! Which limits are exceeded: what came since the last look against the settings, a state a type.
//!
//! A share or a quantile is judged once there are [`JUDGED_MIN`] spans to judge; until then the window stays open. An alert
//! begins when its value exceeds the limit and is over when it has fallen to [`CALM`] of the limit, so that a value that
//! wavers about the limit is one alert. Of each type one is told a cooldown at most; one that begins meanwhile is told
//! afterwards, if it lasts.
//!
//! Nothing here reads a clock, or anything else that it is not given.

use std::time::{Duration, Instant};

use spanring::StatusCode;
use spanring::record::Records;
use spanring::settings::Settings;

use super::{Alert, AlertKind};
use crate::batch::TickClock;
use crate::flusher::later;
use crate::metrics::Histogram;

/// Spans below which a share or a quantile says too little to be judged.
pub(super) const JUDGED_MIN: u64 = 20;
/// Spans after which they are looked at at once.
pub(super) const LOOK_SPANS: u64 = 1000;
/// What part of its limit a value has to fall to for the alert to be over.
pub(super) const CALM: f64 = 0.8;

/// What came since the spans were last judged.
#[derive(Debug)]
struct Window {
    spans: u64,
    errors: u64,
    slow: u64,
    durations: Histogram,
    longest: u64,
}

impl Window {
    const fn new() -> Self {
        Window { spans: 0, errors: 0, slow: 0, durations: Histogram::new(), longest: 0 }
    }
}

/// What else there is to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Spans that were created so far.
    pub(super) created: u64,
    /// Spans that engine and sinks dropped so far; not those that a processor was asked to drop.
    pub(super) dropped: u64,
    /// Resident memory of the process, where the system tells.
    pub(super) memory: Option<u64>,
    /// The sink for which spans have waited longest, and how long.
    pub(super) waits: Option<(String, Duration)>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// When the value first exceeded the limit, for which it did and does.
    since: Option<u64>,
    limit: f64,
    /// Whether somebody was told.
    told: bool,
    told_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Watch {
    window: Window,
    /// Spans since the last look.
    unseen: u64,
    /// Since when there is something to look at.
    news: Option<Instant>,
    /// Counts when drops were last judged.
    created: u64,
    dropped: u64,
    /// Drops when it was last looked.
    seen_dropped: u64,
    states: [State; AlertKind::COUNT],
}

impl Watch {
    /// One that takes those counts for old news.
    pub(super) fn new(created: u64, dropped: u64) -> Self {
        Watch {
            window: Window::new(),
            unseen: 0,
            news: None,
            created,
            dropped,
            seen_dropped: dropped,
            states: Default::default(),
        }
    }

    /// Adds the spans of a batch.
    pub(super) fn add(
        &mut self,
        records: &Records,
        clock: &impl TickClock,
        settings: &Settings,
        now: Instant,
    ) {
        for record in records.iter() {
            let (start, end) = clock.span_times(record.header);
            let is_error = record.header.kind_status >> 4 == StatusCode::Error as u8;
            self.add_span(end.saturating_sub(start), is_error, settings);
        }
        if !records.is_empty() {
            self.unseen += records.len() as u64;
            self.news.get_or_insert(now);
        }
    }

    #[inline]
    pub(super) fn add_span(&mut self, nanos: u64, is_error: bool, settings: &Settings) {
        let window = &mut self.window;
        window.spans += 1;
        window.errors += u64::from(is_error);
        window.slow += u64::from(u128::from(nanos) > settings.alert_slow_time.as_nanos());
        if settings.alert_p99.is_some() {
            window.durations.add(nanos);
            window.longest = window.longest.max(nanos);
        }
    }

    /// Something is not as it was, or spans wait: it is to be looked at soon.
    pub(super) fn note(&mut self, dropped: u64, spans_wait: bool, now: Instant) {
        if spans_wait || dropped != self.seen_dropped {
            self.news.get_or_insert(now);
        }
    }

    /// When to look; none while nothing came and no alert is to end by itself.
    pub(super) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        self.news.map(|at| {
            if self.unseen >= LOOK_SPANS { at } else { later(at, settings.alert_interval) }
        })
    }

    /// Looks, and says what is to be told; `unix` is the time in ns since the Unix epoch.
    pub(super) fn look(
        &mut self,
        facts: &Facts,
        settings: &Settings,
        now: Instant,
        unix: u64,
    ) -> Vec<Alert> {
        let mut look = Look { settings, now, unix, alerts: Vec::new() };
        if self.window.spans >= JUDGED_MIN {
            let window = std::mem::replace(&mut self.window, Window::new());
            self.judge_spans(&window, &mut look);
        }
        self.judge_drops(facts, &mut look);
        self.judge_delivery(facts, &mut look);
        if let Some(memory) = facts.memory {
            let value = memory as f64;
            let limit = settings.health_max_memory as f64;
            look.judge(&mut self.states, AlertKind::Memory, value, Some(limit), || {
                format!(
                    "the process uses {:.1} MiB of memory, and HEALTH_MAX_MEMORY is {:.1} MiB: look for what grows, or raise the \
                     limit if this is its usual size",
                    mib(value),
                    mib(limit)
                )
            });
        }
        self.unseen = 0;
        self.seen_dropped = facts.dropped;
        // These end without a span, so it is looked again until they have.
        let ends_by_itself =
            [AlertKind::DropRate, AlertKind::Delivery, AlertKind::Memory].map(|kind| kind as usize);
        let lasts = ends_by_itself.iter().any(|at| self.states[*at].since.is_some());
        self.news = lasts.then_some(now);
        look.alerts
    }

    fn judge_spans(&mut self, window: &Window, look: &mut Look<'_>) {
        let settings = look.settings;
        let Window { spans, errors, slow, .. } = *window;
        let share = |part: u64| part as f64 / spans as f64;
        let limit = Some(settings.alert_error_rate);
        look.judge(&mut self.states, AlertKind::ErrorRate, share(errors), limit, || {
            format!(
                "{errors} of the last {spans} spans have an error, a share of {:.3}, and ALERT_ERROR_RATE is {}: see which names fail \
                 (metrics by name; with TRACK_ERRORS, errors by message)",
                share(errors),
                settings.alert_error_rate
            )
        });
        let limit = Some(settings.alert_slow_rate);
        look.judge(&mut self.states, AlertKind::SlowRate, share(slow), limit, || {
            format!(
                "{slow} of the last {spans} spans took longer than {} s, a share of {:.3}, and ALERT_SLOW_RATE is {}: see which names \
                 are slow (metrics by name), or raise ALERT_SLOW_TIME if that is their usual time",
                settings.alert_slow_time.as_secs_f64(),
                share(slow),
                settings.alert_slow_rate
            )
        });
        let [p99] = window.durations.quantiles([0.99], window.longest);
        let p99 = Duration::from_nanos(p99).as_secs_f64();
        let limit = settings.alert_p99.map(|limit| limit.as_secs_f64());
        look.judge(&mut self.states, AlertKind::P99, p99, limit, || {
            format!(
                "one in a hundred of the last {spans} spans took longer than {p99:.3} s, and ALERT_P99 is {} s: see which names are \
                 slow (metrics by name)",
                limit.unwrap_or_default()
            )
        });
    }

    fn judge_drops(&mut self, facts: &Facts, look: &mut Look<'_>) {
        let created = facts.created.saturating_sub(self.created);
        // The counts of a sink go with it.
        let dropped = facts.dropped.saturating_sub(self.dropped);
        if dropped > 0 && created.max(dropped) < JUDGED_MIN {
            return;
        }
        (self.created, self.dropped) = (facts.created, facts.dropped);
        // Sinks drop later than spans are created, and each its own.
        let share = dropped as f64 / created.max(dropped).max(1) as f64;
        let limit = Some(look.settings.alert_drop_rate);
        let limit_shown = look.settings.alert_drop_rate;
        look.judge(&mut self.states, AlertKind::DropRate, share, limit, || {
            format!(
                "{dropped} spans were dropped while {created} were created, and ALERT_DROP_RATE is {limit_shown}: the stats say why; sample \
                 fewer spans, raise MAX_SPANS and MAX_BYTES, or help the sink that does not keep up"
            )
        });
    }

    fn judge_delivery(&mut self, facts: &Facts, look: &mut Look<'_>) {
        let (name, waits) = facts.waits.clone().unwrap_or_default();
        let grace = look.settings.health_sink_grace;
        let limit = Some(grace.as_secs_f64());
        look.judge(&mut self.states, AlertKind::Delivery, waits.as_secs_f64(), limit, || {
            format!(
                "sink {name} has taken nothing for {:.1} s while spans wait for it, and HEALTH_SINK_GRACE is {} s: see whether its receiver \
                 is there (`spanring check`); with DIR spans wait on disk meanwhile",
                waits.as_secs_f64(),
                grace.as_secs_f64()
            )
        });
    }
}

struct Look<'a> {
    settings: &'a Settings,
    now: Instant,
    unix: u64,
    alerts: Vec<Alert>,
}

impl Look<'_> {
    /// Without a limit nothing is too much.
    fn judge(
        &mut self,
        states: &mut [State; AlertKind::COUNT],
        kind: AlertKind,
        value: f64,
        limit: Option<f64>,
        message: impl FnOnce() -> String,
    ) {
        let state = &mut states[kind as usize];
        let exceeds = limit.is_some_and(|limit| value > limit);
        if let Some(limit) = limit {
            state.limit = limit;
        }
        let Some(since) = state.since.or(exceeds.then_some(self.unix)) else { return };
        state.since = Some(since);
        let is_over = limit.is_none_or(|limit| value <= limit * CALM);
        let is_due = || {
            let wait = self.settings.alert_cooldown;
            state.told_at.is_none_or(|at| self.now.saturating_duration_since(at) >= wait)
        };
        let tell = if is_over {
            state.since = None;
            std::mem::take(&mut state.told)
        } else if exceeds && !state.told && is_due() {
            (state.told, state.told_at) = (true, Some(self.now));
            true
        } else {
            false
        };
        if tell {
            let message = if is_over { over(kind, state.limit) } else { message() };
            self.alerts.push(Alert {
                kind,
                severity: kind.severity(),
                over: is_over,
                value,
                limit: state.limit,
                since,
                time: self.unix,
                message,
            });
        }
    }
}

fn over(kind: AlertKind, limit: f64) -> String {
    match kind {
        AlertKind::ErrorRate => {
            "few enough spans have an error again: nothing is left to do".to_owned()
        }
        AlertKind::SlowRate => "few enough spans are slow again: nothing is left to do".to_owned(),
        AlertKind::P99 => {
            "the slowest spans are fast enough again: nothing is left to do".to_owned()
        }
        AlertKind::DropRate => {
            "hardly any spans are dropped any more; those that were are counted in the stats"
                .to_owned()
        }
        AlertKind::Delivery => {
            "no spans have waited long for a sink any more: nothing is left to do".to_owned()
        }
        AlertKind::Memory => {
            format!("the process uses well less than {:.1} MiB of memory again", mib(limit))
        }
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
