//! The page for the eyes: the same facts as plain HTML that loads itself again. It loads nothing else.

use std::fmt::{Display, Write};

use crate::metrics::{HealthReport, Metrics, SpanMetrics, Summary};
use crate::pipeline::Shared;
use crate::render::{duration, kind_name, timestamp};
use crate::stats::SinkStats;

/// Series that are shown; `/metrics` has all.
const SERIES_SHOWN: usize = 50;

const HEAD: &str = "<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\"><title>spanring</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .5em 0 1.5em }
td, th { padding: .15em 1em .15em 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.good { color: #17702f } .bad { color: #b3161b }
</style></head><body>
";

pub(super) fn make(shared: &Shared) -> String {
    let (health, metrics) = (shared.health(), shared.metrics());
    let mut out = String::from(HEAD);
    // Writing to a string does not fail.
    let _ = write_health(&mut out, &health);
    let _ = write_engine(&mut out, &metrics);
    if let Some(spans) = &metrics.spans {
        let _ = write_spans(&mut out, spans);
    }
    let _ = write_sinks(&mut out, &metrics.stats.sinks);
    let _ = write_settings(&mut out, shared);
    let now = timestamp(spanring::clock::unix_nanos());
    let _ = writeln!(
        out,
        "<p>Made {}; loads itself every 5 s. Also: <a href=\"/health\">health</a>, <a href=\"/metrics\">metrics</a>, \
         <a href=\"/config\">config</a>.</p></body></html>",
        Escaped(now)
    );
    out
}

fn write_health(out: &mut String, health: &HealthReport) -> std::fmt::Result {
    let (class, word) = if health.healthy { ("good", "well") } else { ("bad", "not well") };
    writeln!(out, "<h1>spanring is <span class=\"{class}\">{word}</span></h1>")?;
    if !health.reasons.is_empty() {
        out.push_str("<ul>");
        for reason in &health.reasons {
            writeln!(out, "<li class=\"bad\">{}</li>", Escaped(reason))?;
        }
        out.push_str("</ul>\n");
    }
    out.push_str("<table>");
    row(out, "tracing enabled", health.tracing_enabled)?;
    row(out, "queue depth", format_args!("{} spans", health.queue_depth))?;
    match health.error_rate {
        Some(rate) => row(out, "errors in the last minute", format_args!("{:.1} %", rate * 100.0))?,
        None => row(out, "errors in the last minute", "not measured")?,
    }
    match health.memory_usage {
        Some(mib) => row(out, "memory of the process", format_args!("{mib:.1} MiB"))?,
        None => row(out, "memory of the process", "not known here")?,
    }
    match health.last_successful_flush {
        Some(at) => row(out, "last batch taken by a sink", timestamp(at))?,
        None => row(out, "last batch taken by a sink", "never")?,
    }
    out.push_str("</table>\n");
    Ok(())
}

fn write_engine(out: &mut String, metrics: &Metrics) -> std::fmt::Result {
    let engine = &metrics.stats.engine;
    out.push_str("<h2>Engine</h2><table>");
    row(out, "uptime", format_args!("{:.0} s", metrics.uptime.as_secs_f64()))?;
    row(out, "spans created", engine.created)?;
    row(out, "sealed", engine.sealed)?;
    row(out, "resident", format_args!("{} of {}", engine.resident, metrics.spans_max))?;
    for (reason, count) in engine.dropped.iter().filter(|(_, count)| *count > 0) {
        row(out, "dropped", format_args!("{count} ({})", reason.name()))?;
    }
    row(out, "batches", metrics.stats.batches)?;
    if let Some(ratio) = metrics.compression_ratio() {
        let (from, to) = (metrics.stats.bytes_raw, metrics.stats.bytes);
        row(out, "compression", format_args!("{from} to {to} bytes, {ratio:.2} : 1"))?;
    }
    let seals = &metrics.seals;
    let mean = seals.sum.checked_div(u32::try_from(seals.count).unwrap_or(u32::MAX));
    let (mean, max) = (nanos(mean.unwrap_or_default()), nanos(seals.max));
    row(out, "from rings to sinks, a batch", format_args!("mean {mean}, max {max}"))?;
    if let Some(time) = metrics.flusher_cpu {
        row(out, "processor time of the flusher", nanos(time))?;
    }
    let memory = &metrics.memory;
    let (rings, values) = (memory.rings, memory.values_and_queues);
    let (limit, own) = (metrics.bytes_max, memory.metrics);
    row(
        out,
        "memory",
        format_args!(
            "{rings} bytes in rings, {values} in values and queues, of {limit}; {own} for this"
        ),
    )?;
    out.push_str("</table>\n");
    Ok(())
}

fn write_spans(out: &mut String, spans: &SpanMetrics) -> std::fmt::Result {
    out.push_str("<h2>Spans</h2><table>");
    let (all, minute) = (&spans.all, &spans.last_minute);
    let (rate, recent) = (spans.rate(), minute.rate());
    row(out, "a second", format_args!("{rate:.1}, in the last minute {recent:.1}"))?;
    for (kind, count) in &spans.by_kind {
        let share = *count as f64 * 100.0 / all.count.max(1) as f64;
        row(out, kind_name(*kind), format_args!("{count}, {share:.1} %"))?;
    }
    out.push_str("</table>\n<table><tr><th>name</th><th>kind</th>");
    for head in ["spans", "errors", "mean", "p50", "p95", "p99", "max"] {
        write!(out, "<th class=\"n\">{head}</th>")?;
    }
    out.push_str("</tr>\n");
    series(out, "all", "", all)?;
    let mut most: Vec<_> = spans.series.iter().collect();
    most.sort_by_key(|series| std::cmp::Reverse(series.summary.count));
    for of in most.iter().take(SERIES_SHOWN) {
        series(out, &of.name, kind_name(of.kind), &of.summary)?;
    }
    if spans.other.count > 0 {
        series(out, "(other)", "", &spans.other)?;
    }
    out.push_str("</table>\n");
    if let Some(more) = most.len().checked_sub(SERIES_SHOWN).filter(|more| *more > 0) {
        writeln!(out, "<p>{more} more are in <a href=\"/metrics\">metrics</a>.</p>")?;
    }
    Ok(())
}

fn series(out: &mut String, name: &str, kind: &str, of: &Summary) -> std::fmt::Result {
    write!(out, "<tr><td>{}</td><td>{kind}</td>", Escaped(name))?;
    write!(out, "<td class=\"n\">{}</td>", of.count)?;
    write!(out, "<td class=\"n\">{:.1} %</td>", of.error_rate() * 100.0)?;
    for time in [of.mean(), of.p50, of.p95, of.p99, of.duration_max] {
        write!(out, "<td class=\"n\">{}</td>", nanos(time))?;
    }
    out.push_str("</tr>\n");
    Ok(())
}

fn write_sinks(out: &mut String, sinks: &[SinkStats]) -> std::fmt::Result {
    out.push_str("<h2>Sinks</h2><table><tr><th>name</th>");
    for head in ["delivered", "dropped", "queued", "spooled", "repeated", "failures", "bytes"] {
        write!(out, "<th class=\"n\">{head}</th>")?;
    }
    out.push_str("<th>last error</th></tr>\n");
    for sink in sinks {
        write!(out, "<tr><td>{}</td>", Escaped(&sink.name))?;
        let (dropped, bytes) = (sink.dropped_total(), sink.bytes);
        let waiting = [sink.queued, sink.spooled, sink.repeated, sink.failures];
        for count in [sink.delivered, dropped].into_iter().chain(waiting).chain([bytes]) {
            write!(out, "<td class=\"n\">{count}</td>")?;
        }
        writeln!(out, "<td>{}</td></tr>", Escaped(&sink.last_error))?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn write_settings(out: &mut String, shared: &Shared) -> std::fmt::Result {
    out.push_str(
        "<h2>Settings</h2><table><tr><th>setting</th><th>value</th><th>source</th></tr>\n",
    );
    for setting in shared.settings().explain() {
        let value = match (&setting.value, setting.unset) {
            (Some(value), _) => format!("{value} {}", setting.unit),
            (None, unset) => unset.unwrap_or("none").to_owned(),
        };
        let (name, source) = (Escaped(&setting.name), Escaped(setting.source.to_string()));
        writeln!(out, "<tr><td>{name}</td><td>{}</td><td>{source}</td></tr>", Escaped(value))?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn row(out: &mut String, name: &str, value: impl Display) -> std::fmt::Result {
    writeln!(out, "<tr><td>{name}</td><td>{}</td></tr>", Escaped(value))
}

fn nanos(time: std::time::Duration) -> String {
    duration(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Text as HTML has it.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text() {
        let escaped = Escaped("<script src='//x'>&\"</script>").to_string();
        assert_eq!(escaped, "&lt;script src=&#39;//x&#39;&gt;&amp;&quot;&lt;/script&gt;");
    }
}
