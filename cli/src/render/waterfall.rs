//! One trace as a waterfall: a line a span, indented below its parent, with a bar where it lies in time.

use std::collections::HashMap;
use std::io::{self, Write};

use spanring::{SpanId, SpanKind, StatusCode};
use spanring_exporter::model::SpanData;
use spanring_exporter::render::{duration, printable, timestamp};

use super::fitted;

/// How a waterfall is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Waterfall {
    /// Columns of the terminal; 40 at least are used.
    pub width: usize,
    /// How many spans are shown; the rest is counted in a last line.
    pub rows_max: usize,
    /// Whether bars have colours: by kind, and red for errors.
    pub has_colours: bool,
}

impl Waterfall {
    /// What suits standard output: its width if it is a terminal, else 100 columns; colours on a
    /// terminal, unless the environment variable `NO_COLOR` is set and not empty.
    pub fn for_stdout() -> Self {
        let terminal = console::Term::stdout();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Waterfall {
            width: terminal.size_checked().map_or(100, |(_, columns)| usize::from(columns)),
            rows_max: 60,
            has_colours: terminal.is_term() && !no_colour,
        }
    }
}

/// A column's eighths, from one to eight.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const DURATION_WIDTH: usize = 10;
const RESET: &str = "\u{1b}[0m";

/// Draws `spans`, which are meant to be those of one trace, in any order.
///
/// A span whose parent is not among them stands at the left, after `↳`; so does one in a cycle of
/// parents. Children stand below their parent in the order in which they began.
///
/// # Errors
///
/// What `out` answers.
pub fn write_waterfall(
    spans: &[SpanData],
    style: Waterfall,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(first) = spans.first() else {
        return writeln!(out, "no spans");
    };
    let begin = spans.iter().map(|span| span.start_unix_nano).min().unwrap_or_default();
    let end = spans.iter().map(|span| span.end_unix_nano).max().unwrap_or_default().max(begin);
    let (count, length) = (spans.len(), duration(end - begin));
    writeln!(out, "trace {}  {count} spans  {length}  {}", first.trace_id, timestamp(begin))?;

    let width = style.width.max(40);
    let name_width = (width * 2 / 5).min(60);
    let bar_width = width - name_width - DURATION_WIDTH;
    for row in rows(spans).iter().take(style.rows_max) {
        let span = &spans[row.span];
        let label = format!("{}{}", row.prefix(name_width / 2), printable(&span.name));
        let scale = Scale { begin, length: end - begin, columns: bar_width };
        let bar = scale.bar(span.start_unix_nano, span.end_unix_nano);
        let (colour, reset) = match style.has_colours {
            true => (colour(span), RESET),
            false => ("", ""),
        };
        let length = duration(span.end_unix_nano.saturating_sub(span.start_unix_nano));
        let label = fitted(&label, name_width);
        writeln!(out, "{label}{colour}{bar}{reset}{length:>DURATION_WIDTH$}")?;
    }
    match count.saturating_sub(style.rows_max) {
        0 => Ok(()),
        rest => writeln!(out, "… and {rest} more spans"),
    }
}

/// How many levels of the tree are kept for a row: more than are ever shown.
const LEVELS_MAX: usize = 32;

/// The levels of the tree down to a span, the outermost left out where there are very many, so that
/// rows of a deep chain do not grow with their depth.
#[derive(Clone, Default)]
struct Levels {
    /// For each level: whether more siblings follow there; the last is the span's own.
    follows: Vec<bool>,
    is_cut: bool,
}

impl Levels {
    fn below(&self, follows: bool) -> Self {
        let mut levels = self.clone();
        if levels.follows.len() == LEVELS_MAX {
            levels.follows.remove(0);
            levels.is_cut = true;
        }
        levels.follows.push(follows);
        levels
    }
}

/// A span's place in the tree.
struct Row {
    span: usize,
    levels: Levels,
    is_orphan: bool,
}

impl Row {
    /// The lines of the tree before the name, of `width_max` columns at most.
    fn prefix(&self, width_max: usize) -> String {
        let Some((own, above)) = self.levels.follows.split_last() else {
            return if self.is_orphan { "↳ ".into() } else { String::new() };
        };
        let depth_max = width_max / 2 - 1;
        let (cut, above) = match self.levels.is_cut || above.len() > depth_max {
            true => ("… ", &above[above.len() - (depth_max - 1)..]),
            false => ("", above),
        };
        let mut prefix = cut.to_owned();
        prefix.extend(above.iter().map(|&follows| if follows { "│ " } else { "  " }));
        prefix.push_str(if *own { "├ " } else { "└ " });
        prefix
    }
}

/// The spans in the order of the tree, without recursion.
fn rows(spans: &[SpanData]) -> Vec<Row> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&index| (spans[index].start_unix_nano, spans[index].span_id));
    let by_id: HashMap<SpanId, usize> =
        order.iter().rev().map(|&index| (spans[index].span_id, index)).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut tops = Vec::new();
    for &index in &order {
        match spans[index].parent_span_id.and_then(|id| by_id.get(&id)) {
            Some(&parent) => children[parent].push(index),
            None => tops.push(index),
        }
    }
    let mut rows = Vec::with_capacity(spans.len());
    let mut seen = vec![false; spans.len()];
    // Whoever is not below a top is in a cycle or below one; the earliest of them becomes a top.
    for top in tops.into_iter().chain(order) {
        let mut stack = vec![(top, Levels::default())];
        while let Some((span, levels)) = stack.pop() {
            if std::mem::replace(&mut seen[span], true) {
                continue;
            }
            let below = &children[span];
            for (position, &child) in below.iter().enumerate().rev() {
                stack.push((child, levels.below(position + 1 < below.len())));
            }
            let is_orphan = spans[span].parent_span_id.is_some();
            rows.push(Row { span, levels, is_orphan });
        }
    }
    rows
}

/// Where times lie on the bar.
struct Scale {
    begin: u64,
    length: u64,
    columns: usize,
}

impl Scale {
    /// A bar of `columns` columns. Its start is exact to a column, its end to an eighth; it is never
    /// empty.
    fn bar(&self, start: u64, end: u64) -> String {
        let eighths = self.columns as u128 * 8;
        let place = |time: u64| match self.length {
            0 => 0,
            length => u128::from(time.saturating_sub(self.begin)) * eighths / u128::from(length),
        };
        // At most `eighths`, a small number, so the conversions are exact.
        let from = (place(start).min(eighths - 8) / 8) as usize;
        let to = match place(start) < eighths {
            true => (place(end).min(eighths) as usize).max(from * 8 + 1),
            // It begins where all ends, and was moved back into the last column.
            false => from * 8 + 1,
        };
        let mut bar = " ".repeat(from);
        bar.extend(std::iter::repeat_n(EIGHTHS[7], to / 8 - from));
        if to % 8 > 0 {
            bar.push(EIGHTHS[to % 8 - 1]);
        }
        bar.extend(std::iter::repeat_n(' ', self.columns - to.div_ceil(8)));
        bar
    }
}

fn colour(span: &SpanData) -> &'static str {
    match (span.status, span.kind) {
        (StatusCode::Error, _) => "\u{1b}[31m",
        (_, SpanKind::Server | SpanKind::Consumer) => "\u{1b}[34m",
        (_, SpanKind::Client | SpanKind::Producer) => "\u{1b}[36m",
        _ => "\u{1b}[32m",
    }
}

#[cfg(test)]
mod tests {
    use spanring::TraceId;
    use unicode_width::UnicodeWidthStr;

    use super::*;

    fn span(id: u64, parent: Option<u64>, name: &str, start: u64, end: u64) -> SpanData {
        SpanData {
            trace_id: TraceId(7),
            span_id: SpanId(id),
            parent_span_id: parent.map(SpanId),
            name: name.into(),
            start_unix_nano: start,
            end_unix_nano: end,
            ..SpanData::default()
        }
    }

    fn drawn(spans: &[SpanData], width: usize, has_colours: bool) -> String {
        let mut text = Vec::new();
        let style = Waterfall { width, rows_max: 200, has_colours };
        write_waterfall(spans, style, &mut text).expect("a Vec takes all");
        String::from_utf8(text).expect("it is text")
    }

    #[test]
    fn a_trace_is_drawn_as_a_tree_with_bars() {
        let spans = [
            span(3, Some(2), "leaf", 1_000, 2_000),
            span(2, Some(1), "child\n", 1_000, 5_000),
            span(4, Some(1), "last", 5_000, 10_000),
            span(1, None, "root", 0, 10_000),
            span(5, Some(99), "orphan", 10_000, 10_000),
        ];
        let expected = "\
trace 00000000000000000000000000000007  5 spans  10.0 µs  1970-01-01T00:00:00.000000000Z
root                ████████████████████   10.0 µs
├ child\\n             ████████             4.00 µs
│ └ leaf              ██                   1.00 µs
└ last                        ██████████   5.00 µs
↳ orphan                               ▏      0 ns
";
        assert_eq!(drawn(&spans, 50, false), expected);
    }

    #[test]
    fn every_line_has_the_width_that_was_asked_for() {
        let mut spans = vec![span(1, None, &"漢字".repeat(40), 0, 977)];
        for id in 2..100 {
            spans.push(span(id, Some(id - 1), "deep", id, 900 - id));
        }
        for width in [40, 63, 80, 200] {
            let text = drawn(&spans, width, false);
            assert_eq!(text.lines().count(), 100);
            for line in text.lines().skip(1) {
                assert_eq!(line.width(), width, "{line}");
            }
        }
    }

    #[test]
    fn colours_are_there_only_if_asked_for_and_errors_are_red() {
        let mut failed = span(1, None, "x", 0, 1);
        failed.status = StatusCode::Error;
        assert!(drawn(&[failed.clone()], 80, true).contains("\u{1b}[31m█"));
        assert!(!drawn(&[failed], 80, false).contains('\u{1b}'));
    }

    #[test]
    fn cycles_extremes_and_empty_traces_are_drawn() {
        let spans = [
            span(1, Some(2), "a", 5, 6),
            span(2, Some(1), "b", 6, 7),
            span(3, Some(3), "self", 7, 0),
            span(4, None, "all of time", 0, u64::MAX),
        ];
        let text = drawn(&spans, 80, false);
        let starts = ["trace", "all of time", "↳ a", "└ b", "↳ self"];
        assert_eq!(text.lines().count(), starts.len());
        for (line, start) in text.lines().zip(starts) {
            assert!(line.starts_with(start), "{line:?} does not start with {start:?}");
        }
        assert_eq!(drawn(&[], 80, false), "no spans\n");
        assert_eq!(drawn(&[span(1, None, "x", 9, 9)], 80, false).lines().count(), 2);
    }

    #[test]
    fn rows_past_the_limit_are_counted() {
        let spans: Vec<_> = (1..=5).map(|id| span(id, None, "x", id, id)).collect();
        let mut text = Vec::new();
        let style = Waterfall { width: 80, rows_max: 2, has_colours: false };
        write_waterfall(&spans, style, &mut text).expect("a Vec takes all");
        let text = String::from_utf8(text).expect("it is text");
        assert_eq!(text.lines().count(), 4);
        assert!(text.ends_with("… and 3 more spans\n"));
    }
}
