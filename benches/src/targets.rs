//! What the numbers should be, and how they stand to it.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Section, name, number.
pub type Results = BTreeMap<String, BTreeMap<String, f64>>;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Less,
    More,
}

/// A number that must be reached, and one to fight for.
struct Target {
    name: &'static str,
    value: fn(&Results) -> Option<f64>,
    better: Better,
    must: f64,
    goal: f64,
    unit: &'static str,
}

fn get(results: &Results, section: &str, name: &str) -> Option<f64> {
    results.get(section)?.get(name).copied()
}

/// What two reads of the clock take, in ns, on the machine for which targets in ns were set. Machines differ by a factor, and a shared one
/// from hour to hour by two, so such a number is scaled by what they took beside it.
pub const REFERENCE_CLOCK_NS: f64 = 19.5;

macro_rules! number {
    ($section:literal, $name:literal) => {
        |results| get(results, $section, $name)
    };
    ($section:literal, $name:literal, scaled) => {
        |results| {
            let clock = get(results, $section, "two clock reads ns")?;
            Some(get(results, $section, $name)? * REFERENCE_CLOCK_NS / clock)
        }
    };
    ($section:literal, $name:literal / $other:literal) => {
        |results| Some(get(results, $section, $name)? / get(results, $section, $other)?)
    };
    ($section:literal, $name:literal - $other:literal) => {
        |results| Some(get(results, $section, $name)? - get(results, $section, $other)?)
    };
}

const fn less(
    name: &'static str,
    value: fn(&Results) -> Option<f64>,
    must: f64,
    goal: f64,
    unit: &'static str,
) -> Target {
    Target { name, value, better: Better::Less, must, goal, unit }
}

const fn more(
    name: &'static str,
    value: fn(&Results) -> Option<f64>,
    must: f64,
    goal: f64,
    unit: &'static str,
) -> Target {
    Target { name, value, better: Better::More, must, goal, unit }
}

const TARGETS: &[Target] = &[
    less(
        "(a) bare span / two clock reads",
        number!("hot", "bare ns" / "two clock reads ns"),
        1.3,
        1.15,
        "x",
    ),
    less(
        "(a) 4 attributes / two clock reads",
        number!("hot", "4 attributes ns" / "two clock reads ns"),
        1.75,
        1.5,
        "x",
    ),
    less(
        "(b) bare span / rtrb with two clock reads",
        number!("paced", "span ns" / "rtrb push with two clock reads ns"),
        1.6,
        1.3,
        "x",
    ),
    more("as fast as fastrace", number!("peers", "fastrace, times spanring"), 3.0, 5.0, "x"),
    more(
        "as fast as opentelemetry_sdk",
        number!("peers", "opentelemetry_sdk, times spanring"),
        8.0,
        12.0,
        "x",
    ),
    more(
        "as fast as tracing-opentelemetry",
        number!("peers", "tracing-opentelemetry, times spanring"),
        30.0,
        45.0,
        "x",
    ),
    less(
        "not sampled, child, above a loop",
        number!("off", "not sampled, child ns"),
        7.0,
        5.0,
        "ns",
    ),
    less(
        "not sampled, root, above a loop",
        number!("off", "not sampled, root ns"),
        12.0,
        9.0,
        "ns",
    ),
    less("disabled, above a loop", number!("off", "disabled ns"), 1.5, 1.0, "ns"),
    less(
        "p99.9 of a span above the clock's",
        number!("tail", "span p99.9 ns" - "clock p99.9 ns"),
        2000.0,
        1000.0,
        "ns",
    ),
    less(
        "allocations of a million spans",
        number!("threads", "allocations, a million spans, bare"),
        0.0,
        0.0,
        "",
    ),
    less(
        "with 4 attributes",
        number!("threads", "allocations, a million spans, four"),
        0.0,
        0.0,
        "",
    ),
    less(
        "wake-ups, a change from idle to active",
        number!("threads", "wake-ups by threads, a change from idle to active"),
        1.0,
        1.0,
        "",
    ),
    less(
        "a critical span to the sink, each core busy, p99",
        number!("critical", "each core busy, p99 ms"),
        10.0,
        10.0,
        "ms",
    ),
    less(
        "flusher at 10 k spans/s, metrics and endpoint on",
        number!("live", "flusher, % of a core"),
        1.0,
        1.0,
        "%",
    ),
    less("the same, recording included", number!("live", "both, % of a core"), 1.0, 1.0, "%"),
    more("ring to frame, bare", number!("encode", "ring to frame, bare M/s"), 7.0, 12.0, "M/s"),
    more(
        "ring to frame, 4 attributes",
        number!("encode", "ring to frame, 4 attributes M/s"),
        3.0,
        5.0,
        "M/s",
    ),
    more(
        "records to frame, webshop",
        number!("encode", "records to frame, webshop, level 1 M/s"),
        1.5,
        3.0,
        "M/s",
    ),
    more("OTLP encoding, times prost, bare", number!("otlp", "bare, times prost"), 5.0, 5.0, "x"),
    more("the same, 4 attributes", number!("otlp", "four, times prost"), 5.0, 5.0, "x"),
    more("the same, webshop", number!("otlp", "webshop, times prost"), 5.0, 5.0, "x"),
    more("delivered as OTLP, bare", number!("deliver", "bare, none, M/s"), 0.7, 0.7, "M/s"),
    more("the same, 4 attributes", number!("deliver", "4 attributes, none, M/s"), 0.7, 0.7, "M/s"),
    more(
        "the same, 4 attributes, gzip",
        number!("deliver", "4 attributes, gzip, M/s"),
        0.7,
        0.7,
        "M/s",
    ),
    less(
        "bytes a span, Online Boutique, 512",
        number!("size", "onlineboutique, 512 a batch, level 1 B"),
        9.0,
        8.2,
        "B",
    ),
    less(
        "bytes a span, TrainTicket, 512",
        number!("size", "trainticket, 512 a batch, level 1 B"),
        12.0,
        10.5,
        "B",
    ),
    less(
        "bytes a span, webshop, 512",
        number!("size", "webshop, 512 a batch, level 1 B"),
        20.0,
        15.0,
        "B",
    ),
    less(
        "bytes a span, agents, 512",
        number!("size", "agents, 512 a batch, level 1 B"),
        50.0,
        40.0,
        "B",
    ),
    less(
        "bytes a span, Online Boutique, 50",
        number!("size", "onlineboutique, 50 a batch, level 1 B"),
        18.0,
        14.0,
        "B",
    ),
    less(
        "dropped at 80 % of the must, bare",
        number!("steady", "at 80 % of the must, bare, dropped"),
        0.0,
        0.0,
        "",
    ),
    less(
        "dropped at 80 % of the must, 4 attributes",
        number!("steady", "at 80 % of the must, 4 attributes, dropped"),
        0.0,
        0.0,
        "",
    ),
    less(
        "dropped at 80 % of the must, webshop",
        number!("steady", "at 80 % of the must, webshop, dropped"),
        0.0,
        0.0,
        "",
    ),
    less("dropped at 80 %, bare", number!("steady", "at 80 %, bare, dropped"), 0.0, 0.0, ""),
    less(
        "dropped at 80 %, 4 attributes",
        number!("steady", "at 80 %, 4 attributes, dropped"),
        0.0,
        0.0,
        "",
    ),
    less("dropped at 80 %, webshop", number!("steady", "at 80 %, webshop, dropped"), 0.0, 0.0, ""),
    less(
        "resident memory a span, bare",
        number!("memory", "resident span, bare B"),
        64.0,
        64.0,
        "B",
    ),
    less(
        "resident memory a span, 4 attributes",
        number!("memory", "resident span, 4 attributes B"),
        128.0,
        128.0,
        "B",
    ),
    less("engine idle", number!("memory", "engine idle MiB"), 2.0, 1.0, "MiB"),
    less(
        "idle thread after cleanup",
        number!("memory", "idle thread after cleanup KiB"),
        16.0,
        8.0,
        "KiB",
    ),
    less(
        "memory after a burst",
        number!("memory", "after a burst and a cleanup, % more"),
        20.0,
        10.0,
        "%",
    ),
    less(
        "CPU time a span, 2 threads / 1",
        number!("threads", "2 threads ns" / "1 threads ns"),
        1.15,
        1.05,
        "x",
    ),
    less(
        "C, shared library / Rust, bare",
        number!("c", "shared, bare ns" / "rust, bare ns"),
        1.6,
        1.6,
        "x",
    ),
    less(
        "the same, 4 attributes",
        number!("c", "shared, 4 attributes ns" / "rust, 4 attributes ns"),
        1.6,
        1.6,
        "x",
    ),
    more(
        "Python, as fast as opentelemetry, bare",
        number!("python", "opentelemetry, bare, times spanring"),
        50.0,
        50.0,
        "x",
    ),
    more(
        "the same, 4 attributes",
        number!("python", "opentelemetry, 4 attributes, times spanring"),
        50.0,
        50.0,
        "x",
    ),
    less(
        "Python, bare, scaled to the clock",
        number!("python", "spanring, bare ns", scaled),
        450.0,
        450.0,
        "ns",
    ),
    less(
        "Python, 4 attributes, scaled",
        number!("python", "spanring, 4 attributes ns", scaled),
        700.0,
        500.0,
        "ns",
    ),
    less(
        "Python, bare / a context variable",
        number!("python", "spanring, bare, times a context variable"),
        NO_MUST,
        1.3,
        "x",
    ),
    less("Python, objects a span", number!("python", "objects a span, kept"), 1.0, 1.0, ""),
    less(
        "Ruby, bare, scaled to the clock",
        number!("ruby", "spanring, bare ns", scaled),
        500.0,
        300.0,
        "ns",
    ),
    less(
        "Ruby, 4 attributes, scaled",
        number!("ruby", "spanring, 4 attributes ns", scaled),
        1000.0,
        600.0,
        "ns",
    ),
    less("Ruby, objects a span", number!("ruby", "spanring, bare objects"), 1.0, 1.0, ""),
    less("the same, 4 attributes", number!("ruby", "spanring, 4 attributes objects"), 2.0, 2.0, ""),
    less(
        "Ruby, with_tracing, scaled",
        number!("ruby", "spanring, with_tracing ns", scaled),
        2000.0,
        2000.0,
        "ns",
    ),
];

/// For a number that has only a goal.
const NO_MUST: f64 = f64::INFINITY;

/// All numbers, section by section.
pub fn numbers(results: &Results) -> String {
    let mut text = String::new();
    for (section, numbers) in results {
        let _ = writeln!(text, "{section}");
        for (name, value) in numbers {
            let _ = writeln!(text, "  {name:<58}{value:>14.2}");
        }
    }
    text
}

/// The targets whose numbers were measured.
fn measured(results: &Results) -> impl Iterator<Item = (&'static Target, f64)> {
    TARGETS.iter().filter_map(|target| Some((target, (target.value)(results)?)))
}

impl Target {
    fn reaches(&self, value: f64, bound: f64) -> bool {
        match self.better {
            Better::Less => value <= bound,
            Better::More => value >= bound,
        }
    }

    fn reached(&self, value: f64) -> &'static str {
        match (self.reaches(value, self.must), self.reaches(value, self.goal)) {
            (_, true) => "goal",
            (true, false) if self.must == NO_MUST => "no",
            (true, false) => "must",
            (false, false) => "missed",
        }
    }
}

/// A bound as it is shown.
fn shown(bound: f64) -> String {
    if bound == NO_MUST { String::new() } else { bound.to_string() }
}

/// The targets and how the numbers stand to them, and whether every one that was measured is
/// reached where it must be.
pub fn table(results: &Results) -> (String, bool) {
    let mut text =
        format!("{:<40}{:>12}{:>10}{:>10}  {}\n", "target", "measured", "must", "goal", "reached");
    let mut all = true;
    for (target, value) in measured(results) {
        let Target { name, must, goal, unit, .. } = target;
        all &= target.reaches(value, *must);
        let (must, reached) = (shown(*must), target.reached(value));
        let _ = writeln!(text, "{name:<40}{value:>10.2} {unit:<2}{must:>9}{goal:>10}  {reached}");
    }
    (text, all)
}

/// The same for a document.
pub fn markdown(results: &Results) -> String {
    let mut text = "| | measured | must | goal | reached |\n|---|---|---|---|---|\n".to_owned();
    for (target, value) in measured(results) {
        let Target { name, must, goal, unit, .. } = target;
        let (must, reached) = (shown(*must), target.reached(value));
        let _ = writeln!(text, "| {name} | {value:.2} {unit} | {must} | {goal} | {reached} |");
    }
    text
}
