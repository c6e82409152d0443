//! The numbers in the documents: what stands between `<!-- bench:NAME -->` and `<!-- /bench -->` is written by
//! `benches/run --docs`, so that all numbers of a page come from one run.

use std::fmt::Write;

use crate::sections::size;
use crate::targets::{self, REFERENCE_CLOCK_NS, Results};

const BEGIN: &str = "<!-- bench:";
const END: &str = "<!-- /bench -->";

/// `text` with its blocks written anew from the results; an error if one is not known, or lacks its numbers.
pub fn rewrite(
    text: &str,
    results: &Results,
    machine: &str,
    counts: &str,
) -> Result<String, String> {
    let mut new = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->").ok_or("a block's name is not closed")?;
        let (_, after) = after.split_once(END).ok_or_else(|| format!("block {name} has no end"))?;
        let block = block(name, results, machine, counts)
            .ok_or_else(|| format!("block {name}: not known, or its section did not run"))?;
        let _ = write!(new, "{before}{BEGIN}{name} -->\n{}\n{END}", block.trim_end());
        rest = after;
    }
    new.push_str(rest);
    Ok(new)
}

fn block(name: &str, results: &Results, machine: &str, counts: &str) -> Option<String> {
    let get = |section: &str, name: &str| results.get(section)?.get(name).copied();
    Some(match name {
        "machine" => format!("Measured on: {machine}."),
        "hot" => hot(results)?,
        "readme" => readme(results)?,
        "paced" => format!(
            "A bare span {:.1} ns, an rtrb push of 64 bytes with the same two clock reads {:.1} ({:.2} ×), the push \
             alone {:.1}; at {:.1} million a second, {:.0} dropped.",
            get("paced", "span ns")?,
            get("paced", "rtrb push with two clock reads ns")?,
            get("paced", "span / rtrb push with two clock reads")?,
            get("paced", "rtrb push ns")?,
            get("paced", "rate M/s")?,
            get("paced", "dropped")?,
        ),
        "tail" => tail(results)?,
        "counts" => self::counts(counts),
        "critical" => critical(results)?,
        "live" => format!(
            "The flusher {:.2} % of a core, the thread that records {:.2} %, both together {:.2} %; {:.0} spans were dropped.",
            get("live", "flusher, % of a core")?,
            get("live", "threads that record, % of a core")?,
            get("live", "both, % of a core")?,
            get("live", "dropped")?,
        ),
        "peers" => peers(results)?,
        "flusher" => flusher(results)?,
        "levels" => levels(results)?,
        "formats" => formats(results)?,
        "otlp" => otlp(results)?,
        "deliver" => deliver(results)?,
        "memory" => memory(results)?,
        "c" => c(results)?,
        "python" => python(results)?,
        "ruby" => ruby(results)?,
        "targets" => targets::markdown(results),
        _ => return None,
    })
}

fn hot(results: &Results) -> Option<String> {
    let hot = results.get("hot")?;
    let off = results.get("off")?;
    let clock = hot.get("two clock reads ns")?;
    let mut text = "| | ns | × two clock reads |\n|---|---|---|\n".to_owned();
    for (key, label) in [
        ("two clock reads", "two clock reads"),
        ("bare", "bare span"),
        ("nested 10", "10 deep"),
        ("nested 100", "100 deep"),
        ("4 attributes", "4 attributes (2 integers, 2 static strings)"),
        ("16 attributes", "16 attributes"),
        ("one event", "one event with an attribute"),
        ("a span that can be sent", "a `Span` that can be sent to another thread"),
        ("around a future", "around a future"),
    ] {
        let nanos = hot.get(&format!("{key} ns"))?;
        let _ = writeln!(text, "| {label} | {nanos:.1} | {:.2} × |", nanos / clock);
    }
    let large = hot.get("100 kB string ns")?;
    let _ = writeln!(text, "| a 100 kB string, copied | {large:.0} | |");
    for (key, label) in [
        ("not sampled, root", "not sampled, root, above an empty loop"),
        ("not sampled, child", "not sampled, child, above an empty loop"),
        ("disabled", "tracing disabled, above an empty loop"),
    ] {
        let _ = writeln!(text, "| {label} | {:.1} | |", off.get(&format!("{key} ns"))?);
    }
    Some(text)
}

fn readme(results: &Results) -> Option<String> {
    let get = |section: &str, name: &str| results.get(section)?.get(name).copied();
    let clock = get("hot", "two clock reads ns")?;
    let mut text =
        format!("| | ns | |\n|---|---|---|\n| two reads of the clock | {clock:.1} | |\n");
    for (key, label) in
        [("bare", "a span, both reads included"), ("4 attributes", "with 4 attributes")]
    {
        let nanos = get("hot", &format!("{key} ns"))?;
        let _ = writeln!(text, "| {label} | {nanos:.1} | {:.2} × two clock reads |", nanos / clock);
    }
    let _ = writeln!(text, "| not sampled | {:.1} | |", get("off", "not sampled, child ns")?);
    let _ = writeln!(text, "| disabled | {:.1} | |", get("off", "disabled ns")?);
    for peer in ["fastrace", "opentelemetry_sdk", "tracing-opentelemetry"] {
        let nanos = get("peers", &format!("{peer}, bare ns"))?;
        let times = get("peers", &format!("{peer}, times spanring"))?;
        let ours = get("peers", "spanring, bare ns")?;
        let _ =
            writeln!(text, "| {peer}, beside spanring's {ours:.1} | {nanos:.0} | {times:.1} × |");
    }
    let (c, rust) = (get("c", "shared, bare ns")?, get("c", "rust, bare ns")?);
    let _ = writeln!(
        text,
        "| from C, shared library, beside Rust's {rust:.1} | {c:.1} | {:.2} × |",
        c / rust
    );
    let _ = writeln!(
        text,
        "| `with span` in Python | {:.0} | OpenTelemetry is {:.0} × |",
        get("python", "spanring, bare ns")?,
        get("python", "opentelemetry, bare, times spanring")?
    );
    let _ =
        writeln!(text, "| `Spanring.span` in Ruby | {:.0} | |", get("ruby", "spanring, bare ns")?);
    let _ = writeln!(
        text,
        "\nOne flusher takes {:.0} million bare spans a second from rings to compressed bytes, {:.0} million with 4 \
         attributes. Bytes a span of recorded traces, 512 a batch:\n",
        get("encode", "ring to frame, bare M/s")?,
        get("encode", "ring to frame, 4 attributes M/s")?,
    );
    text.push_str(&format_table(results, 512)?);
    Some(text)
}

fn c(results: &Results) -> Option<String> {
    let get = |name: &str| results.get("c")?.get(name).copied();
    let mut text =
        "| | bare, ns | × Rust | 4 attributes, ns | × Rust |\n|---|---|---|---|---|\n".to_owned();
    for (key, label) in [
        ("rust", "Rust, `span!`"),
        ("shared", "C, shared library"),
        ("static", "C, static library"),
    ] {
        let _ = write!(text, "| {label} |");
        for shape in ["bare", "4 attributes"] {
            let nanos = get(&format!("{key}, {shape} ns"))?;
            let rust = get(&format!("rust, {shape} ns"))?;
            let _ = write!(text, " {nanos:.1} | {:.2} × |", nanos / rust);
        }
        text.push('\n');
    }
    Some(text)
}

fn python(results: &Results) -> Option<String> {
    let get = |name: &str| results.get("python")?.get(name).copied();
    let mut text = format!(
        "| Python 3.{} | bare, ns | a child, ns | 4 attributes, ns |\n|---|---|---|---|\n",
        get("Python 3.")?
    );
    let _ = writeln!(
        text,
        "| spanring | {:.0} | {:.0} | {:.0} |",
        get("spanring, bare ns")?,
        get("spanring, a child ns")?,
        get("spanring, 4 attributes ns")?,
    );
    let _ = writeln!(
        text,
        "| OpenTelemetry 1.{} | {:.0} ({:.0} ×) | | {:.0} ({:.0} ×) |",
        get("OpenTelemetry 1.")?,
        get("opentelemetry, bare ns")?,
        get("opentelemetry, bare, times spanring")?,
        get("opentelemetry, 4 attributes ns")?,
        get("opentelemetry, 4 attributes, times spanring")?,
    );
    let _ = writeln!(
        text,
        "| a `with` that sets and resets a context variable | {:.0} | | |",
        get("a context variable ns")?
    );
    let _ = writeln!(
        text,
        "\nObjects that Python allocates a span, beside the context variable's: {:.2}, and {:.2} for one that ends with its block. \
         OpenTelemetry dropped {:.0}, spanring none.",
        get("objects a span, kept")?,
        get("objects a span, used again")?,
        get("opentelemetry dropped")?,
    );
    let scale = REFERENCE_CLOCK_NS / get("two clock reads ns")?;
    let _ = writeln!(
        text,
        "\nTwo reads of the clock took {:.1} ns beside that. Where they take {REFERENCE_CLOCK_NS}, as on the machine of the targets, it is {:.0} ns bare and {:.0} with 4 \
         attributes.",
        get("two clock reads ns")?,
        get("spanring, bare ns")? * scale,
        get("spanring, 4 attributes ns")? * scale,
    );
    Some(text)
}

fn ruby(results: &Results) -> Option<String> {
    let get = |name: &str| results.get("ruby")?.get(name).copied();
    let mut text = format!("| Ruby 3.{} | ns | objects |\n|---|---|---|\n", get("Ruby 3.")?);
    for (key, label) in [
        ("spanring, bare", "`Spanring.span`, bare"),
        ("spanring, bare, a child", "a child"),
        ("spanring, 4 attributes", "with 4 attributes"),
        ("spanring, start_span and finish", "`Spanring.start_span` and `finish`"),
        ("spanring, with_tracing", "`with_tracing` of `Spanring::Traceable`"),
        ("RAAF's processor, bare", "RAAF's processor, a bare span"),
        ("RAAF's processor, an agent, 12 attributes", "an agent, 12 attributes"),
        ("RAAF's processor, an LLM call, 1.6 kB", "an LLM call, 1.6 kB"),
        ("a fiber-local set and reset", "a block that sets and resets a fiber-local"),
    ] {
        let (nanos, objects) = (get(&format!("{key} ns"))?, get(&format!("{key} objects"))?);
        let _ = writeln!(text, "| {label} | {nanos:.0} | {objects:.2} |");
    }
    let scale = REFERENCE_CLOCK_NS / get("two clock reads ns")?;
    let _ = writeln!(
        text,
        "\nTwo reads of the clock took {:.1} ns beside that. Where they take {REFERENCE_CLOCK_NS}, as on the machine of the targets, it is {:.0} ns bare, {:.0} with 4 \
         attributes, and {:.0} for `with_tracing`.",
        get("two clock reads ns")?,
        get("spanring, bare ns")? * scale,
        get("spanring, 4 attributes ns")? * scale,
        get("spanring, with_tracing ns")? * scale,
    );
    Some(text)
}

fn critical(results: &Results) -> Option<String> {
    let numbers = results.get("critical")?;
    let mut text =
        "| other threads | p50 ms | p99 ms | longest ms | lost |\n|---|---|---|---|---|\n"
            .to_owned();
    for (key, label) in [
        ("idle", "none"),
        ("one thread busy", "one, recording as fast as it can"),
        ("each core busy", "one a core, recording as fast as they can"),
    ] {
        let get = |name: &str| numbers.get(&format!("{key}, {name}")).copied();
        let (p50, p99, max) = (get("p50 ms")?, get("p99 ms")?, get("max ms")?);
        let lost = get("dropped")?;
        let _ = writeln!(text, "| {label} | {p50:.2} | {p99:.2} | {max:.2} | {lost:.0} |");
    }
    Some(text)
}

fn tail(results: &Results) -> Option<String> {
    let get = |section: &str, name: &str| results.get(section)?.get(name).copied();
    let mut text = "| | p50 ns | p99 ns | p99.9 ns |\n|---|---|---|---|\n".to_owned();
    for (label, section, key) in [
        ("the clock alone", "tail", "clock"),
        ("a span, flusher on the same core, drained between bursts", "tail", "span"),
        ("a span, flusher busy", "threads", "flusher busy, span"),
        ("a span, flusher starved, within the budget", "threads", "flusher starved, span kept"),
        (
            "a span, flusher starved, refused and counted",
            "threads",
            "flusher starved, span refused",
        ),
    ] {
        let cell = |quantile: &str| {
            let value = get(section, &format!("{key} {quantile} ns"));
            value.map_or(String::new(), |value| format!("{value:.0}"))
        };
        let _ =
            writeln!(text, "| {label} | {} | {} | {} |", cell("p50"), cell("p99"), cell("p99.9"));
    }
    let _ = writeln!(
        text,
        "\nThe first span while the flusher sleeps wakes it: {:.1} µs of processor time; the one after it {:.0} ns. With a \
         flusher at work, processor time a span is {:.1} ns for one thread and {:.1} for two on two cores.",
        get("threads", "first span while the flusher sleeps ns")? / 1e3,
        get("threads", "the span after it ns")?,
        get("threads", "1 threads ns")?,
        get("threads", "2 threads ns")?,
    );
    Some(text)
}

/// From `benches/counts.baseline`.
fn counts(baseline: &str) -> String {
    let mut text = "| | instructions |\n|---|---|\n".to_owned();
    for line in baseline.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(count)) = (words.next(), words.next()) {
            let _ = writeln!(text, "| {name} | {count} |");
        }
    }
    text
}

fn peers(results: &Results) -> Option<String> {
    let peers = results.get("peers")?;
    let mut text = "| | bare, ns | × spanring | 4 attributes, ns | × spanring | dropped in bursts | \
                    flood: ns a span that arrived | flood: dropped |\n|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let mut names: Vec<(&str, f64)> = peers
        .iter()
        .filter_map(|(name, value)| Some((name.strip_suffix(", bare ns")?, *value)))
        .collect();
    names.sort_by(|one, other| one.1.total_cmp(&other.1));
    for (name, nanos) in names {
        let get = |what: &str| peers.get(&format!("{name}, {what}")).copied();
        let optional = |value: Option<f64>, unit| {
            value.map_or(String::new(), |value| format!("{value:.1}{unit}"))
        };
        let _ = writeln!(
            text,
            "| {name} | {nanos:.1} | {:.1} × | {} | {} | {:.0} | {:.1} | {:.1} % |",
            get("times spanring")?,
            optional(get("4 attributes ns"), ""),
            optional(get("4 attributes, times spanring"), " ×"),
            get("dropped in bursts")?,
            get("flood ns a span that arrived")?,
            get("flood dropped %")?,
        );
    }
    Some(text)
}

fn flusher(results: &Results) -> Option<String> {
    let get = |section: &str, name: &str| results.get(section)?.get(name).copied();
    let encode = |shape: &str| get("encode", &format!("ring to frame, {shape} M/s"));
    let mut text = format!(
        "From rings to compressed bytes, one thread, processor time, 512 spans a batch, level 1, millions of spans a \
         second: bare {:.1}, 4 attributes {:.1}, 16 attributes {:.1}.\n",
        encode("bare")?,
        encode("4 attributes")?,
        encode("16 attributes")?,
    );
    for shape in ["bare", "4 attributes", "webshop"] {
        let number = |name: String| get("steady", &name);
        let paced = number(format!("at 80 %, {shape}, M/s"))?;
        let _ = write!(
            text,
            "\nSteady load, {shape}, five seconds from one thread on the other core. Flooded, the flusher seals {:.1} M/s. At 80 % of \
             that, {paced:.1} M/s, {:.0} spans were dropped with a budget of a million, and {:.0} with the default one of 65,536, \
             which lasts {:.1} ms there; the longest times without a batch, of which there is one each tenth of a millisecond or more, \
             were {:.1} and {:.1} ms. At 80 % of what a flusher must take, {:.1} M/s, {:.0} were dropped with the default budget.\n",
            number(format!("one flusher takes, {shape} M/s"))?,
            number(format!("at 80 %, {shape}, dropped"))?,
            number(format!("at 80 %, {shape}, a budget of 65,536, dropped"))?,
            65.536 / paced,
            number(format!("at 80 %, {shape}, longest time without a batch ms"))?,
            number(format!(
                "at 80 %, {shape}, a budget of 65,536, longest time without a batch ms"
            ))?,
            number(format!("at 80 % of the must, {shape}, M/s"))?,
            number(format!("at 80 % of the must, {shape}, dropped"))?,
        );
    }
    text.push_str("\nWhat the flusher costs of a core: ");
    let rates = ["1 k", "10 k", "100 k", "1 M"].map(|rate| {
        let percent = get("steady", &format!("flusher at {rate} spans/s, % of a core"))?;
        Some(format!("{percent:.1} % at {rate} spans a second"))
    });
    text.push_str(&rates.into_iter().collect::<Option<Vec<_>>>()?.join(", "));
    text.push('.');
    Some(text)
}

fn levels(results: &Results) -> Option<String> {
    let mut text = format!("| level | {} |\n|---|---|---|---|---|\n", size::FILES.join(" | "));
    for level in size::LEVELS {
        let _ = write!(text, "| {level} |");
        for file in size::FILES {
            let bytes =
                results.get("size")?.get(&format!("{file}, 512 a batch, level {level} B"))?;
            let rate = results.get("encode")?;
            let rate = rate.get(&format!("records to frame, {file}, level {level} M/s"))?;
            let _ = write!(text, " {bytes:.2} / {rate:.2} |");
        }
        text.push('\n');
    }
    Some(text)
}

fn formats(results: &Results) -> Option<String> {
    let mut text = String::new();
    for size in [50, 512, 4096] {
        let _ = writeln!(text, "{size} spans a batch:\n\n{}", format_table(results, size)?);
    }
    Some(text)
}

fn format_table(results: &Results, size: usize) -> Option<String> {
    let mut text = format!("| | {} |\n|---|---|---|---|---|\n", size::FILES.join(" | "));
    for format in ["spanring", "OTLP", "OTLP+gzip", "OTLP+zstd 1", "OTLP+zstd 3", "Parquet+zstd 3"]
    {
        let _ = write!(text, "| {format} |");
        for file in size::FILES {
            let bytes =
                results.get("formats")?.get(&format!("{file}, {size} a batch, {format} B"))?;
            let _ = write!(text, " {bytes:.1} |");
        }
        text.push('\n');
    }
    Some(text)
}

fn otlp(results: &Results) -> Option<String> {
    let otlp = results.get("otlp")?;
    let mut text =
        "| | bytes a span | spanring ns a span | prost ns a span | |\n|---|---|---|---|---|\n"
            .to_owned();
    let shapes = [("bare", "bare"), ("four", "4 attributes")];
    for (key, label) in shapes.into_iter().chain(size::FILES.iter().map(|file| (*file, *file))) {
        let get = |what: &str| otlp.get(&format!("{key}, {what}"));
        let _ = writeln!(
            text,
            "| {label} | {:.0} | {:.1} | {:.1} | {:.1} × |",
            get("B")?,
            get("spanring ns")?,
            get("prost ns")?,
            get("times prost")?,
        );
    }
    Some(text)
}

fn deliver(results: &Results) -> Option<String> {
    let deliver = results.get("deliver")?;
    let mut text = "| | delivered, M spans/s | flusher, s of CPU a million | receiver, s of CPU a million | bytes a span | spans a request |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for key in ["bare, none", "bare, gzip", "4 attributes, none", "4 attributes, gzip"] {
        let get = |what: &str| deliver.get(&format!("{key}, {what}"));
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            key.replace("none", "not compressed"),
            get("M/s")?,
            get("flusher s a million")?,
            get("receiver s a million")?,
            get("B")?,
            get("spans a request")?,
        );
    }
    Some(text)
}

fn memory(results: &Results) -> Option<String> {
    let memory = results.get("memory")?;
    let mut text = "| | |\n|---|---|\n".to_owned();
    for (key, label, unit) in [
        ("resident span, bare B", "a resident bare span, in its ring", "B"),
        ("resident span, 4 attributes B", "with 4 attributes", "B"),
        ("engine idle MiB", "the engine when idle", "MiB"),
        ("idle thread after cleanup KiB", "each idle thread after `CLEANUP_INTERVAL`", "KiB"),
        ("1,000 threads that came and went KiB", "1,000 threads that came and went", "KiB"),
        ("a burst, MiB more", "a burst that fills the budget, 4 attributes", "MiB"),
        (
            "after a burst and a cleanup, % more",
            "after the burst and one cleanup, more than before",
            "%",
        ),
    ] {
        let _ = writeln!(text, "| {label} | {:.1} {unit} |", memory.get(key)?);
    }
    Some(text)
}
