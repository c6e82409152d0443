//! Plots as SVG: horizontal bars, which is all that these numbers need.

use std::fmt::Write;

use crate::targets::Results;

const WIDTH: f64 = 760.0;
const LABEL: f64 = 270.0;
const ROW: f64 = 24.0;

/// File names and their contents, of what was measured.
pub fn all(results: &Results) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    if let Some(hot) = results.get("hot") {
        let bars: Vec<_> =
            ["two clock reads", "bare", "4 attributes", "16 attributes", "one event"]
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), *hot.get(&format!("{name} ns"))?)))
                .collect();
        plots.push((
            "hot.svg".to_owned(),
            bars_svg("One span, start and end, recorded", "ns", &bars),
        ));
    }
    let bars = |section: &str, unit: &str| -> Vec<(String, f64)> {
        let mut bars: Vec<_> = results
            .get(section)
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.strip_suffix(unit)?.to_owned(), *value)))
            .collect();
        bars.sort_by(|one, other| one.1.total_cmp(&other.1));
        bars
    };
    for (file, section, suffix, title) in [
        ("peers.svg", "peers", ", bare ns", "A bare span by others, in bursts, nothing dropped"),
        ("flood.svg", "peers", ", flood ns a span that arrived", "Flooded: a span that arrived"),
        ("paced.svg", "paced", " ns", "Paced, flusher and consumer on another core"),
    ] {
        let bars = bars(section, suffix);
        if !bars.is_empty() {
            plots.push((file.to_owned(), bars_svg(title, "ns", &bars)));
        }
    }
    for file in crate::sections::size::FILES {
        let prefix = format!("{file}, 512 a batch, ");
        let mut bars: Vec<_> = results
            .get("formats")
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| {
                let format = name.strip_prefix(&prefix)?.strip_suffix(" B")?;
                (format != "OTLP").then(|| (format.to_owned(), *value))
            })
            .collect();
        bars.sort_by(|one, other| one.1.total_cmp(&other.1));
        if !bars.is_empty() {
            let title = format!("Bytes a span, {file}, 512 spans a batch");
            plots.push((format!("size-{file}.svg"), bars_svg(&title, "B", &bars)));
        }
    }
    plots
}

/// Horizontal bars from zero, each with its number.
fn bars_svg(title: &str, unit: &str, bars: &[(String, f64)]) -> String {
    let most = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let height = 48.0 + ROW * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    );
    for (row, (name, value)) in bars.iter().enumerate() {
        let y = 40.0 + ROW * row as f64;
        let width = (value / most * (WIDTH - LABEL - 110.0)).max(1.0);
        let fill =
            if name.starts_with("spanring") || name == "span" { "#c2410c" } else { "#64748b" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL:.0}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"{fill}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{} {unit}</text>",
            LABEL - 8.0,
            y + 15.0,
            escape(name),
            y + 3.0,
            ROW - 8.0,
            LABEL + width + 6.0,
            y + 15.0,
            round(*value),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn round(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
