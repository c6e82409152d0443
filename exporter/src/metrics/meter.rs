//! What the flusher adds up: each batch that it seals, span by span, under a lock that readers hold for a snapshot.
//!
//! A span belongs to the series of its name and kind. There are [`SERIES_MAX`]; a span that would need one more, and one
//! whose name is longer than [`NAME_BYTES_MAX`], belongs to the series `(other)`. So memory is bounded: 3.5 MiB if every
//! series had durations of every octave there is, some 3 KiB a series in practice.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use spanring::record::{Header, RecordRef, Records};
use spanring::{SpanKind, StatusCode};

use super::histogram::Histogram;
use super::{KINDS, LastMinute, NAME_BYTES_MAX, SERIES_MAX, Series, SpanMetrics, Summary, Timings};
use crate::batch::TickClock;

/// Places that remember the series of a name's number, so that a name is hardly ever looked up.
const REMEMBERED: usize = 1024;
/// The place of the series `(other)`.
const OTHER: u16 = 0;
const ERROR: u8 = StatusCode::Error as u8;

pub(crate) struct Meter {
    since: Instant,
    all: Tally,
    by_kind: [u64; KINDS.len()],
    minute: Minute,
    seals: Timings,
    /// The first is `(other)`.
    series: Vec<Measured>,
    /// A name's series by kind; [`OTHER`] where there is none yet.
    by_name: FxHashMap<Box<str>, [u16; KINDS.len()]>,
    /// By number of name and kind; see [`key`].
    remembered: Box<[(u32, u16); REMEMBERED]>,
    /// Spans when a report was last looked for.
    reported: u64,
}

struct Measured {
    name: Box<str>,
    /// `None` for the series `(other)`.
    kind: Option<SpanKind>,
    tally: Tally,
    durations: Histogram,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    count: u64,
    errors: u64,
    sum: u128,
    max: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, duration: u64, is_error: bool) {
        self.count += 1;
        self.errors += u64::from(is_error);
        self.sum += u128::from(duration);
        self.max = self.max.max(duration);
    }

    fn summary(&self, durations: &Histogram) -> Summary {
        let [p50, p95, p99] =
            durations.quantiles([0.5, 0.95, 0.99], self.max).map(Duration::from_nanos);
        Summary {
            count: self.count,
            errors: self.errors,
            duration_sum: nanoseconds(self.sum),
            duration_max: Duration::from_nanos(self.max),
            p50,
            p95,
            p99,
        }
    }
}

/// What the line of a report says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    measured_for: Duration,
    all: Tally,
    by_kind: [u64; KINDS.len()],
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Meter {
            since: now,
            all: Tally::default(),
            by_kind: [0; KINDS.len()],
            minute: Minute::new(),
            seals: Timings::default(),
            series: vec![Measured::new("(other)", None)],
            by_name: FxHashMap::default(),
            // No name has the number zero.
            remembered: Box::new([(0, OTHER); REMEMBERED]),
            reported: 0,
        }
    }

    /// Adds the spans of a batch; whether a span found no series of its own, for the first time.
    pub(crate) fn add(&mut self, records: &Records, clock: &impl TickClock, now: Instant) -> bool {
        let before = (self.all.count, self.all.errors);
        let had_other = self.series[0].tally.count > 0;
        for record in records.iter() {
            let header = record.header;
            let (start, end) = clock.span_times(header);
            let duration = end.saturating_sub(start);
            let is_error = header.kind_status >> 4 == ERROR;
            let kind = kind_index(header);
            self.all.add(duration, is_error);
            self.by_kind[kind] += 1;
            let at = self.series_of(&record, kind);
            let series = &mut self.series[usize::from(at)];
            series.tally.add(duration, is_error);
            series.durations.add(duration);
        }
        let (count, errors) = (self.all.count - before.0, self.all.errors - before.1);
        self.minute.add(now.saturating_duration_since(self.since).as_secs(), count, errors);
        !had_other && self.series[0].tally.count > 0
    }

    #[inline]
    fn series_of(&mut self, record: &RecordRef<'_>, kind: usize) -> u16 {
        let key = key(record.header.name, kind);
        // Neighbouring numbers, which most names have, lie beside each other.
        let place = key as usize % REMEMBERED;
        let (known, series) = self.remembered[place];
        if known == key && record.header.name != 0 {
            return series;
        }
        let series = self.look_up(record, kind);
        if record.header.name != 0 {
            self.remembered[place] = (key, series);
        }
        series
    }

    #[cold]
    fn look_up(&mut self, record: &RecordRef<'_>, kind: usize) -> u16 {
        let name = record.name();
        let name = name.as_str();
        if name.len() > NAME_BYTES_MAX {
            return OTHER;
        }
        match self.by_name.get(name) {
            Some(series) if series[kind] != OTHER => return series[kind],
            // One of the series is `(other)`.
            _ if self.series.len() > SERIES_MAX => return OTHER,
            _ => {}
        }
        let series = self.series.len() as u16;
        self.series.push(Measured::new(name, Some(KINDS[kind])));
        self.by_name.entry(name.into()).or_default()[kind] = series;
        series
    }

    /// Counts how long a batch took from rings to sinks.
    pub(crate) fn sealed(&mut self, took: Duration) {
        self.seals.count += 1;
        self.seals.sum += took;
        self.seals.max = self.seals.max.max(took);
    }

    /// A report, if the count of spans has passed a multiple of `every` since this was last called.
    pub(crate) fn report(&mut self, every: u64, now: Instant) -> Option<Report> {
        let before = std::mem::replace(&mut self.reported, self.all.count);
        let is_due = every > 0 && self.all.count / every > before / every;
        is_due.then(|| Report {
            measured_for: now.saturating_duration_since(self.since),
            all: self.all,
            by_kind: self.by_kind,
        })
    }

    pub(crate) fn seals(&self) -> Timings {
        self.seals
    }

    pub(crate) fn last_minute(&self, now: Instant) -> LastMinute {
        self.minute.sum(now.saturating_duration_since(self.since))
    }

    pub(crate) fn snapshot(&self, now: Instant) -> SpanMetrics {
        let mut durations = Histogram::new();
        self.series.iter().for_each(|series| durations.merge(&series.durations));
        SpanMetrics {
            measured_for: now.saturating_duration_since(self.since),
            all: self.all.summary(&durations),
            last_minute: self.last_minute(now),
            by_kind: KINDS.into_iter().zip(self.by_kind).filter(|(_, count)| *count > 0).collect(),
            series: self.series[1..].iter().map(Measured::snapshot).collect(),
            other: self.series[0].tally.summary(&self.series[0].durations),
            bytes: self.bytes(),
        }
    }

    /// Bytes of all this.
    fn bytes(&self) -> usize {
        let series: usize = self.series.iter().map(Measured::heap_bytes).sum();
        let names = self.by_name.capacity() * (size_of::<(Box<str>, [u16; KINDS.len()])>() + 1)
            + self.by_name.keys().map(|name| name.len()).sum::<usize>();
        size_of::<Self>()
            + size_of_val(&*self.remembered)
            + self.series.capacity() * size_of::<Measured>()
            + series
            + names
    }
}

impl Measured {
    fn new(name: &str, kind: Option<SpanKind>) -> Self {
        let durations = Histogram::new();
        Measured { name: name.into(), kind, tally: Tally::default(), durations }
    }

    fn snapshot(&self) -> Series {
        Series {
            name: self.name.to_string(),
            kind: self.kind.unwrap_or_default(),
            summary: self.tally.summary(&self.durations),
        }
    }

    fn heap_bytes(&self) -> usize {
        self.name.len() + self.durations.heap_bytes()
    }
}

/// Of a name's number and a kind: one number, not zero unless the name's is.
fn key(name: u32, kind: usize) -> u32 {
    name * 8 + kind as u32
}

fn kind_index(header: &Header) -> usize {
    usize::from(header.kind_status & 0xf).min(KINDS.len() - 1)
}

fn nanoseconds(sum: u128) -> Duration {
    let second = 1_000_000_000;
    let seconds = u64::try_from(sum / second).unwrap_or(u64::MAX);
    Duration::new(seconds, (sum % second) as u32)
}

/// Counts of the last minute, by second.
struct Minute {
    /// Which second, counted from the beginning; spans; those with an error.
    seconds: [(u64, u64, u64); MINUTE],
}

const MINUTE: usize = 60;

impl Minute {
    fn new() -> Self {
        Minute { seconds: [(0, 0, 0); MINUTE] }
    }

    fn add(&mut self, second: u64, count: u64, errors: u64) {
        let slot = &mut self.seconds[second as usize % MINUTE];
        if slot.0 != second {
            *slot = (second, 0, 0);
        }
        slot.1 += count;
        slot.2 += errors;
    }

    /// Of the second that runs and the 59 before it.
    fn sum(&self, now: Duration) -> LastMinute {
        let first = (now.as_secs() + 1).saturating_sub(MINUTE as u64);
        let slots = self.seconds.iter().filter(|slot| (first..=now.as_secs()).contains(&slot.0));
        let (count, errors) = slots.fold((0, 0), |sum, slot| (sum.0 + slot.1, sum.1 + slot.2));
        LastMinute { length: now - Duration::from_secs(first), count, errors }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { measured_for, all, by_kind } = self;
        let seconds = measured_for.as_secs_f64();
        let share = |part: u64| part as f64 * 100.0 / all.count.max(1) as f64;
        let duration = |nanos: u64| crate::render::duration(nanos);
        write!(
            f,
            "report: uptime {seconds:.1} s, {} spans in all, {:.1} spans/s, mean {}, max {}, {:.1} % with an error; by kind:",
            all.count,
            all.count as f64 / seconds.max(1e-9),
            duration(u64::try_from(all.sum / u128::from(all.count.max(1))).unwrap_or(u64::MAX)),
            duration(all.max),
            share(all.errors),
        )?;
        let kinds = KINDS.iter().zip(by_kind).filter(|(_, count)| **count > 0);
        for (number, (kind, count)) in kinds.enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma} {} {:.1} %", crate::render::kind_name(*kind), share(*count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    struct Nanoseconds;

    impl TickClock for Nanoseconds {
        fn span_times(&self, header: &Header) -> (u64, u64) {
            (header.start, header.end.max(header.start))
        }

        fn unix_nano(&self, ticks: u64) -> u64 {
            ticks
        }
    }

    /// A record of that name, interned or not.
    fn push(records: &mut Records, name: &str, interned: bool, kind: u8, error: bool, nanos: u64) {
        let mut header = Header {
            start: 1_000,
            end: 1_000 + nanos,
            kind_status: kind | if error { ERROR << 4 } else { 0 },
            ..Header::default()
        };
        let mut payload = spanring::record::Payload::unlimited();
        match spanring::Interned::new(name).filter(|_| interned) {
            Some(name) => header.name = name.get(),
            None => payload.name(name),
        }
        records.push_parts(header, payload);
    }

    fn span() -> impl Strategy<Value = (u16, bool, u8, bool, u64)> {
        let nanos = prop_oneof![0u64..5_000, 0u64..1 << 40];
        (0u16..120, any::<bool>(), 0u8..6, any::<bool>(), nanos)
    }

    proptest! {
        // A failure prints its input; files of old failures beside the sources would only go stale.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_number_is_that_of_a_slow_count(
            batches in prop::collection::vec(prop::collection::vec(span(), 0..200), 1..8),
        ) {
            let now = Instant::now();
            let mut meter = Meter::new(now);
            let mut known: HashMap<(String, SpanKind), (Vec<u64>, u64)> = HashMap::new();
            let mut other = Vec::new();
            let mut errors = 0;
            for batch in &batches {
                let mut records = Records::new();
                for &(name, interned, kind, error, nanos) in batch {
                    let name = format!("meter.test.{name}");
                    push(&mut records, &name, interned, kind, error, nanos);
                    let place = (name, KINDS[usize::from(kind)]);
                    errors += u64::from(error);
                    if known.contains_key(&place) || known.len() < SERIES_MAX {
                        let series = known.entry(place).or_default();
                        series.0.push(nanos);
                        series.1 += u64::from(error);
                    } else {
                        other.push(nanos);
                    }
                }
                meter.add(&records, &Nanoseconds, now);
            }
            let found = meter.snapshot(now);
            let mut all: Vec<u64> = known.values().flat_map(|(nanos, _)| nanos.clone()).collect();
            all.extend(&other);
            prop_assert_eq!(found.series.len(), known.len());
            prop_assert!(found.series.len() <= SERIES_MAX);
            for series in &found.series {
                let (nanos, errors) = &known[&(series.name.clone(), series.kind)];
                check(&series.summary, nanos, *errors)?;
            }
            check(&found.other, &other, found.other.errors)?;
            check(&found.all, &all, errors)?;
            prop_assert_eq!(found.last_minute.count, all.len() as u64);
            prop_assert_eq!(found.last_minute.errors, errors);
            let by_kind: HashMap<_, _> = found.by_kind.iter().copied().collect();
            let spans = || batches.iter().flatten();
            for (number, kind) in KINDS.into_iter().enumerate() {
                let count = spans().filter(|span| usize::from(span.2) == number).count();
                prop_assert_eq!(by_kind.get(&kind).copied().unwrap_or(0), count as u64);
            }
        }
    }

    fn check(found: &Summary, nanos: &[u64], errors: u64) -> Result<(), TestCaseError> {
        let mut sorted = nanos.to_vec();
        sorted.sort_unstable();
        let sum: u64 = sorted.iter().sum();
        prop_assert_eq!(found.count, sorted.len() as u64);
        prop_assert_eq!(found.errors, errors);
        prop_assert_eq!(found.duration_sum, Duration::from_nanos(sum));
        let max = sorted.last().copied().unwrap_or(0);
        prop_assert_eq!(found.duration_max, Duration::from_nanos(max));
        for (share, found) in [(0.5, found.p50), (0.95, found.p95), (0.99, found.p99)] {
            let rank = ((share * sorted.len() as f64).ceil() as usize).max(1);
            let exact = sorted.get(rank - 1).copied().unwrap_or(0);
            let found = found.as_nanos() as u64;
            prop_assert!(found.abs_diff(exact) <= exact / 64, "{share}: {exact} {found}");
        }
        Ok(())
    }

    #[test]
    fn names_beyond_the_bound_cost_no_more_memory() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        let fill = |meter: &mut Meter, from: usize, to: usize| {
            let mut records = Records::new();
            (from..to).for_each(|n| {
                push(&mut records, &format!("{n:0256}"), n % 2 == 0, 1, false, 1 << (n % 64));
            });
            meter.add(&records, &Nanoseconds, now)
        };
        assert!(!fill(&mut meter, 0, SERIES_MAX));
        assert!(fill(&mut meter, SERIES_MAX, SERIES_MAX + 64), "it is told");
        let before = meter.bytes();
        assert!(!fill(&mut meter, SERIES_MAX + 64, 5_000), "it is told again");
        assert_eq!(meter.bytes(), before);
        assert!(before < 4 << 20);
        let found = meter.snapshot(now);
        assert_eq!(
            (found.series.len(), found.other.count),
            (SERIES_MAX, 5_000 - SERIES_MAX as u64)
        );
        assert!(found.series.iter().all(|series| series.summary.count == 1));
    }

    #[test]
    fn a_name_that_is_too_long_has_no_series_and_a_name_like_that_of_all_others_has() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        let mut records = Records::new();
        push(&mut records, &"x".repeat(NAME_BYTES_MAX + 1), false, 1, false, 1);
        push(&mut records, "(other)", true, 1, false, 1);
        meter.add(&records, &Nanoseconds, now);
        let found = meter.snapshot(now);
        assert_eq!((found.other.count, found.series.len()), (1, 1));
        assert_eq!((&*found.series[0].name, found.series[0].summary.count), ("(other)", 1));
    }

    #[test]
    fn the_last_minute_forgets() {
        let mut minute = Minute::new();
        let at = |millis| Duration::from_millis(millis);
        minute.add(0, 1, 1);
        minute.add(30, 10, 2);
        minute.add(59, 100, 0);
        let sum = |minute: &Minute, millis| {
            let LastMinute { length, count, errors } = minute.sum(at(millis));
            (length, count, errors)
        };
        assert_eq!(sum(&minute, 500), (at(500), 1, 1));
        assert_eq!(sum(&minute, 59_900), (at(59_900), 111, 3));
        assert_eq!(sum(&minute, 60_000), (at(59_000), 110, 2));
        minute.add(60, 1_000, 0);
        assert_eq!(sum(&minute, 60_999), (at(59_999), 1_110, 2));
        assert_eq!(sum(&minute, 119_000), (at(59_000), 1_000, 0));
        assert_eq!(sum(&minute, 1_000_000), (at(59_000), 0, 0));
    }

    #[test]
    fn reports_come_each_n_spans_and_at_most_one_a_batch() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        let add = |meter: &mut Meter, spans: u64| {
            let mut records = Records::new();
            (0..spans).for_each(|n| push(&mut records, "r", true, 3, n % 4 == 0, 1_000_000));
            meter.add(&records, &Nanoseconds, now);
            meter.report(10, now + Duration::from_secs(2)).map(|report| report.to_string())
        };
        assert_eq!(add(&mut meter, 9), None);
        let line = add(&mut meter, 3).expect("ten have come");
        assert_eq!(
            line,
            "report: uptime 2.0 s, 12 spans in all, 6.0 spans/s, mean 1.00 ms, max 1.00 ms, 33.3 % with an error; \
             by kind: client 100.0 %"
        );
        assert_eq!(add(&mut meter, 7), None);
        assert!(add(&mut meter, 1).is_some());
        assert!(add(&mut meter, 35).is_some());
        assert_eq!(add(&mut meter, 1), None);
        assert!(add(&mut meter, 4).is_some());
    }

    /// Not a test: `cargo test --release -p spanring-exporter --lib -- --ignored --nocapture cost_of_a_span`.
    #[test]
    #[ignore = "measures"]
    fn cost_of_a_span() {
        let first = spanring::clock::Reading::now();
        std::thread::sleep(Duration::from_millis(20));
        let map = spanring::clock::ClockMap::new(first, spanring::clock::Reading::now());
        let clock = crate::flusher::Times(&map);
        let mut records = Records::new();
        let names = (0..40).map(|n| spanring::Interned::new(&format!("cost.{n}")).unwrap());
        let names: Vec<u32> = names.map(spanring::Interned::get).collect();
        for n in 0..512u64 {
            let start = first.ticks + n * 1_000;
            let header = Header {
                start,
                end: start + n * n * 97 % 10_000_000,
                name: names[n as usize % 40],
                kind_status: (1 + (n % 3) as u8) | if n % 50 == 0 { ERROR << 4 } else { 0 },
                ..Header::default()
            };
            records.push_parts(header, spanring::record::Payload::unlimited());
        }
        let now = Instant::now();
        let mut meter = Meter::new(now);
        let cpu = crate::thread::cpu_clock().unwrap();
        let time = || crate::thread::cpu_time(cpu).unwrap();
        let mut rounds: Vec<f64> = (0..200)
            .map(|_| {
                let begun = time();
                (0..100).for_each(|_| _ = meter.add(&records, &clock, now));
                (time() - begun).as_nanos() as f64 / 51_200.0
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("{:.1} ns a span", rounds[rounds.len() / 2]);
    }
}
