//! The watch with a clock of the test, against a slow count of what it was given.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use spanring::settings::{Settings, SettingsBuilder};

use super::watch::{CALM, Facts, JUDGED_MIN, LOOK_SPANS, Watch};
use super::*;

fn settings() -> SettingsBuilder {
    Settings::builder().ignore_environment().alerts(true)
}

/// A watch, its settings, and the time.
struct Test {
    watch: Watch,
    settings: Settings,
    facts: Facts,
    begin: Instant,
    now: Instant,
}

const UNIX: u64 = 1_700_000_000_000_000_000;

impl Test {
    fn new(settings: SettingsBuilder) -> Self {
        let begin = Instant::now();
        Test {
            watch: Watch::new(0, 0),
            settings: settings.build(),
            facts: Facts::default(),
            begin,
            now: begin,
        }
    }

    fn unix(&self) -> u64 {
        UNIX + self.now.duration_since(self.begin).as_nanos() as u64
    }

    fn spans(&mut self, count: u64, nanos: u64, is_error: bool) -> &mut Self {
        (0..count).for_each(|_| self.watch.add_span(nanos, is_error, &self.settings));
        self.facts.created += count;
        self
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn look(&mut self) -> Vec<Alert> {
        let unix = self.unix();
        self.watch.look(&self.facts, &self.settings, self.now, unix)
    }

    /// The kinds of what is told now, and whether each is over.
    fn told(&mut self) -> Vec<(AlertKind, bool)> {
        self.look().into_iter().map(|alert| (alert.kind, alert.over)).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn each_kind_is_told_with_its_value_and_limit_and_is_over_afterwards() {
    let builder = settings()
        .alert_slow_time(Duration::from_millis(100))
        .alert_p99(Duration::from_millis(500))
        .health_max_memory(100 << 20)
        .health_sink_grace(7 * SECOND);
    let mut test = Test::new(builder);
    test.wait(SECOND).spans(80, 1_000, false).spans(12, 200_000_000, true).spans(
        8,
        900_000_000,
        false,
    );
    test.facts.dropped = 5;
    test.facts.memory = Some(150 << 20);
    test.facts.waits = Some(("otlp".to_owned(), 8 * SECOND));
    let alerts = test.look();
    let kinds: Vec<_> = alerts.iter().map(|alert| alert.kind).collect();
    assert_eq!(kinds, AlertKind::ALL);
    let expected = [
        (0.12, 0.05, Severity::Warning, "12 of the last 100 spans"),
        (0.2, 0.1, Severity::Warning, "20 of the last 100 spans took longer than 0.1 s"),
        (0.9, 0.5, Severity::Warning, "ALERT_P99 is 0.5 s"),
        (0.05, 0.01, Severity::Critical, "5 spans were dropped while 100 were created"),
        (8.0, 7.0, Severity::Critical, "sink otlp has taken nothing for 8.0 s"),
        (150.0 * 1_048_576.0, 100.0 * 1_048_576.0, Severity::Warning, "uses 150.0 MiB"),
    ];
    for (alert, (value, limit, severity, says)) in alerts.iter().zip(expected) {
        assert!((alert.value - value).abs() <= value / 64.0, "{alert:?}");
        assert_eq!((alert.limit, alert.severity, alert.over), (limit, severity, false));
        assert_eq!((alert.since, alert.time), (test.unix(), test.unix()));
        assert!(alert.message.contains(says), "{}", alert.message);
    }
    let began = test.unix();
    test.wait(SECOND).spans(100, 1_000, false);
    test.facts.memory = Some(1 << 20);
    test.facts.waits = None;
    let over = test.look();
    assert_eq!(over.iter().map(|alert| alert.kind).collect::<Vec<_>>(), AlertKind::ALL);
    for alert in over {
        assert!(alert.over && alert.value <= alert.limit * CALM, "{alert:?}");
        assert_eq!((alert.since, alert.time), (began, test.unix()));
    }
    assert_eq!(test.told(), []);
}

#[test]
fn a_look_sees_what_came_since_the_last_one_alone() {
    let mut test = Test::new(settings());
    test.spans(1_000_000, 1, false);
    assert_eq!(test.told(), []);
    // Of all spans that is next to nothing.
    test.spans(30, 1, true);
    assert_eq!(test.told(), [(AlertKind::ErrorRate, false)]);
}

#[test]
fn few_spans_are_not_judged_and_not_forgotten() {
    let mut test = Test::new(settings());
    test.spans(JUDGED_MIN - 1, 1, true);
    assert_eq!(test.told(), []);
    test.spans(1, 1, true);
    assert_eq!(test.told(), [(AlertKind::ErrorRate, false)]);
}

#[test]
fn a_value_that_wavers_about_its_limit_is_one_alert() {
    let mut test = Test::new(settings().alert_cooldown(Duration::from_millis(1)));
    let mut rate = |errors: u64| {
        test.wait(SECOND).spans(errors, 1, true).spans(100 - errors, 1, false);
        test.told()
    };
    assert_eq!(rate(6), [(AlertKind::ErrorRate, false)]);
    for errors in [5, 7, 5, 6, 5] {
        assert_eq!(rate(errors), []);
    }
    // 4 is CALM of 5.
    assert_eq!(rate(4), [(AlertKind::ErrorRate, true)]);
    assert_eq!(rate(5), []);
    assert_eq!(rate(6), [(AlertKind::ErrorRate, false)]);
}

#[test]
fn within_the_cooldown_nothing_of_that_kind_is_told_and_afterwards_what_lasts() {
    let mut test = Test::new(settings());
    let mut look = |seconds: u32, memory: u64, errors: bool| {
        test.wait(SECOND * seconds).spans(100, 1, errors);
        test.facts.memory = Some(memory << 20);
        let alerts = test.look();
        let since = alerts.iter().map(|alert| (alert.since - UNIX) / 1_000_000_000);
        let since = since.collect::<Vec<_>>();
        (alerts.into_iter().map(|alert| (alert.kind, alert.over)).collect::<Vec<_>>(), since)
    };
    use AlertKind::{ErrorRate, Memory};
    assert_eq!(look(0, 2000, false), (vec![(Memory, false)], vec![0]));
    assert_eq!(look(10, 10, false), (vec![(Memory, true)], vec![0]));
    // Another kind has a cooldown of its own.
    assert_eq!(look(10, 2000, true), (vec![(ErrorRate, false)], vec![20]));
    // One that came and went meanwhile is never told, nor is its end.
    assert_eq!(look(10, 10, true).0, []);
    assert_eq!(look(100, 2000, true).0, []);
    assert_eq!(look(169, 2000, true).0, []);
    assert_eq!(look(1, 2000, true), (vec![(Memory, false)], vec![130]));
    // It is told once, however long it lasts.
    assert_eq!(look(1000, 2000, true).0, []);
}

#[test]
fn it_is_looked_while_there_is_something_to_look_at_and_no_more() {
    let interval = 10 * SECOND;
    let mut test = Test::new(settings());
    assert_eq!(test.watch.deadline(&test.settings), None);
    let records = one_record();
    let clock = NoClock;
    test.watch.add(&records, &clock, &test.settings, test.now);
    assert_eq!(test.watch.deadline(&test.settings), Some(test.now + interval));
    test.wait(interval);
    assert_eq!(test.told(), []);
    assert_eq!(test.watch.deadline(&test.settings), None);
    // At once after so many spans.
    (0..LOOK_SPANS).for_each(|_| test.watch.add(&records, &clock, &test.settings, test.now));
    assert_eq!(test.watch.deadline(&test.settings), Some(test.now));
    test.look();
    // Drops and waiting spans are news, the same drops are not.
    for (dropped, waits) in [(3, false), (3, true)] {
        test.watch.note(dropped, waits, test.now);
        assert_eq!(test.watch.deadline(&test.settings), Some(test.now + interval));
        test.facts.dropped = dropped;
        test.look();
        test.watch.note(dropped, false, test.now);
        assert_eq!(test.watch.deadline(&test.settings), None);
    }
    // What can end without a span is looked at until it has.
    test.facts.memory = Some(2 << 30);
    assert_eq!(test.told(), [(AlertKind::Memory, false)]);
    assert_eq!(test.watch.deadline(&test.settings), Some(test.now + interval));
    test.facts.memory = Some(2 << 20);
    assert_eq!(test.told(), [(AlertKind::Memory, true)]);
    assert_eq!(test.watch.deadline(&test.settings), None);
}

#[test]
fn a_limit_that_is_taken_away_ends_its_alert() {
    let mut test = Test::new(settings().alert_p99(SECOND));
    test.spans(100, 2_000_000_000, false);
    let told = test.told();
    assert_eq!(told, [(AlertKind::SlowRate, false), (AlertKind::P99, false)]);
    test.settings = settings().alert_slow_rate(1.0).build();
    test.spans(100, 2_000_000_000, false);
    // All are slow still, but a share of 1 is no more than 1, nor well below it.
    assert_eq!(test.told(), [(AlertKind::P99, true)]);
}

struct NoClock;

impl crate::batch::TickClock for NoClock {
    fn span_times(&self, _: &spanring::record::Header) -> (u64, u64) {
        (5, 6)
    }

    fn unix_nano(&self, _: u64) -> u64 {
        5
    }
}

fn one_record() -> spanring::record::Records {
    use spanring::record::{Header, Payload, Records};
    let mut records = Records::new();
    records.push_parts(Header { span: 1, name: 1, ..Header::default() }, Payload::unlimited());
    records
}

#[test]
fn only_so_many_alerts_wait_and_more_are_counted() {
    let mut waiting = Waiting::default();
    let mut test = Test::new(settings());
    test.facts.memory = Some(2 << 30);
    let alert = test.look().remove(0);
    for number in 0..ALERTS_MAX as u64 + 7 {
        waiting.push(Alert { time: number, ..alert.clone() });
    }
    let there = waiting.look();
    assert_eq!((there.alerts.len(), there.dropped, there.alerts[0].time), (ALERTS_MAX, 7, 7));
    waiting.clear();
    assert_eq!((waiting.look().alerts, waiting.look().dropped), (vec![], 7));
    let json: serde_json::Value = serde_json::from_str(&there.to_json()).unwrap();
    assert_eq!((&json["dropped"], &json["alerts"][0]["type"]), (&7.into(), &"memory".into()));
    assert_eq!(json["alerts"][0]["since"], "2023-11-14T22:13:20.000000000Z");
}

/// What alerts cost the flusher; needs a release build.
#[test]
#[ignore = "measures"]
fn cost_of_alerts() {
    let mut records = spanring::record::Records::new();
    for span in 0..512 {
        let header = spanring::record::Header { span, name: 1, ..Default::default() };
        records.push_parts(header, spanring::record::Payload::unlimited());
    }
    for (name, builder) in [("without p99", settings()), ("with p99", settings().alert_p99(SECOND))]
    {
        let mut test = Test::new(builder);
        let rounds = 20_000;
        let begun = Instant::now();
        for _ in 0..rounds {
            test.watch.add(&records, &NoClock, &test.settings, test.now);
        }
        let took = begun.elapsed().as_nanos() as f64 / f64::from(rounds * 512);
        println!("{name}: {took:.2} ns a span");
    }
    let begun = Instant::now();
    (0..100).for_each(|_| _ = crate::metrics::process_memory());
    println!("the process's memory: {:?}", begun.elapsed() / 100);
}

/// Looks of a share at one a second.
#[derive(Clone, Debug)]
struct Step {
    errors: u64,
    spans: u64,
}

proptest! {
    // A failure prints its input; files of old failures beside the sources would only go stale.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against the rules said once more, over the whole history at each step.
    #[test]
    fn what_is_told_follows_from_the_history(
        steps in prop::collection::vec((0u64..12, 10u64..40), 1..60),
        cooldown in 1u32..20,
    ) {
        let mut test = Test::new(settings().alert_cooldown(SECOND * cooldown).alert_error_rate(0.2));
        let steps = steps.into_iter().map(|(errors, spans)| Step { errors: errors.min(spans), spans });
        let (mut open, mut told, mut last) = (None, false, None::<u32>);
        let (mut errors, mut spans) = (0, 0);
        for (second, step) in (0u32..).zip(steps) {
            errors += step.errors;
            spans += step.spans;
            test.spans(step.errors, 1, true).spans(step.spans - step.errors, 1, false);
            let mut expected = Vec::new();
            if spans >= JUDGED_MIN {
                let share = errors as f64 / spans as f64;
                if share > 0.2 {
                    open = open.or(Some(second));
                }
                if open.is_some() && share <= 0.2 * CALM {
                    if told {
                        expected.push((true, open.unwrap()));
                    }
                    (open, told) = (None, false);
                } else if share > 0.2 && !told && last.is_none_or(|last| second - last >= cooldown) {
                    expected.push((false, open.unwrap()));
                    (told, last) = (true, Some(second));
                }
                (errors, spans) = (0, 0);
            }
            let found: Vec<_> = test
                .look()
                .into_iter()
                .map(|alert| (alert.over, ((alert.since - UNIX) / 1_000_000_000) as u32))
                .collect();
            prop_assert_eq!(found, expected);
            test.wait(SECOND);
        }
    }
}
