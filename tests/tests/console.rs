//! Spans for the eyes: a line each or a tree a trace, nothing in them that steers the terminal, and a reader that stops
//! reading holds up nobody else.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use spanring::{Span, StatusCode, WallTime, span};
use spanring_exporter::{ConsoleSink, ConsoleStyle, MemorySink, Pipeline};
use spanring_tests::{LONG, settings};

/// 2009-02-13T23:31:30Z.
const BEGIN: u64 = 1_234_567_890_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// What is written to it.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a sink with this style and these colours shows of the spans that `record` makes.
fn shown(style: ConsoleStyle, colours: bool, record: impl FnOnce()) -> String {
    let page = Page::default();
    let sink = ConsoleSink::to(page.clone()).style(style).colours(colours);
    let pipeline = Pipeline::builder().settings(settings().build()).sink(sink).build().unwrap();
    {
        let _attached = pipeline.attach();
        record();
    }
    pipeline.shutdown(LONG).unwrap();
    String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
}

/// A span that begins and ends so many milliseconds after [`BEGIN`]; a root, or a child of `parent`.
fn timed(name: &str, parent: Option<&Span>, begin: u64) -> Span {
    let builder = Span::builder(name).start_time(WallTime(BEGIN + begin * MILLISECOND));
    match parent {
        Some(parent) => builder.parent(&parent.context()).start(),
        None => builder.root().start(),
    }
}

fn end(span: Span, at: u64) {
    span.end_at(WallTime(BEGIN + at * MILLISECOND));
}

#[test]
fn a_line_says_what_a_span_was() {
    let mut trace = String::new();
    let text = shown(ConsoleStyle::Lines, false, || {
        let mut span = timed("GET /users", None, 0);
        trace = span.context().trace_id().to_string()[..8].to_owned();
        span.set_attribute("rows", 7).set_attribute("user", "ann").add_event("cache miss");
        span.set_status(StatusCode::Error, "no such user");
        end(span, 15);
        end(timed("quiet", None, 20), 20);
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let expected = "GET /users internal 15.0 ms error: no such user rows=7 user=\"ann\" (1 events)";
    assert!(lines[0].starts_with("2009-02-13"), "{text}");
    assert!(lines[0].contains(&format!(" {trace} ")), "{text}");
    assert!(lines[0].ends_with(expected), "{text}");
    assert!(lines[1].contains(" quiet internal 0"), "{text}");
}

#[test]
fn a_tree_has_each_span_below_its_parent_in_the_order_of_starts() {
    let text = shown(ConsoleStyle::Tree, false, || {
        let elsewhere = timed("parent that has not ended", None, 0);
        let root = timed("root", None, 0);
        let first = timed("first", Some(&root), 1);
        let inner = timed("inner", Some(&first), 2);
        let second = timed("second", Some(&root), 5);
        end(timed("orphan", Some(&elsewhere), 1), 2);
        // Children end in another order than they start.
        end(second, 6);
        end(inner, 3);
        end(first, 7);
        end(root, 8);
        std::mem::forget(elsewhere);
    });
    let names: Vec<_> = text
        .lines()
        .map(|line| {
            let name = line.trim_start();
            let indent = (line.len() - name.len()) / 2;
            (indent, name.split(' ').next().unwrap())
        })
        .collect();
    let expected =
        [(0, "trace"), (1, "orphan"), (0, "trace"), (1, "root"), (2, "first"), (3, "inner")];
    assert_eq!(names[..6], expected, "{text}");
    assert_eq!(names[6..], [(2, "second")], "{text}");
}

#[test]
fn names_and_values_do_not_steer_the_terminal() {
    for style in [ConsoleStyle::Lines, ConsoleStyle::Tree] {
        let text = shown(style, false, || {
            let mut span = Span::start("a\u{1b}[2Jb\nc");
            span.set_attribute("key\u{7}", "\u{1b}]0;title\u{7}");
            span.set_status(StatusCode::Error, "\u{202e}backwards\r");
        });
        let bad: Vec<_> = text.chars().filter(|&c| c.is_control() && c != '\n').collect();
        assert!(bad.is_empty() && !text.contains('\u{202e}'), "{text:?}");
        let lines = if style == ConsoleStyle::Tree { 2 } else { 1 };
        assert_eq!(text.lines().count(), lines, "a name begins a line of its own: {text}");
    }
}

#[test]
fn colours_are_there_when_asked_for_alone() {
    let record = || {
        let mut span = Span::start("failed");
        span.set_status(StatusCode::Error, "broken");
    };
    let plain = shown(ConsoleStyle::Lines, false, record);
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let coloured = shown(ConsoleStyle::Lines, true, record);
    assert!(coloured.contains("\u{1b}[31merror: broken\u{1b}[0m"), "{coloured:?}");
}

/// A variable that makes this program the one whose output nobody reads for a while.
const CHILD: &str = "SPANRING_TEST_CONSOLE_CHILD";
/// As text far more than a pipe holds.
const SPANS: usize = 20_000;

#[test]
fn an_output_that_nobody_reads_holds_up_no_other_sink_and_loses_nothing() {
    if std::env::var_os(CHILD).is_some() {
        return records_while_nobody_reads();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_output_that_nobody_reads_holds_up_no_other_sink_and_loses_nothing"])
        .arg("--nocapture")
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    // It says so only once its other sink has everything; not a byte of its output was read until then.
    let other = said.by_ref().map(Result::unwrap).find(|line| line.starts_with("the other sink"));
    assert_eq!(other, Some(format!("the other sink has {SPANS}")));
    drop(child.stdin.take());
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{:?}", said.collect::<Vec<_>>());
    let numbers: Vec<usize> = text
        .lines()
        .filter_map(|line| line.split_once("number=")?.1.split(' ').next()?.parse().ok())
        .collect();
    assert!(numbers.iter().copied().eq(0..SPANS), "{} lines", numbers.len());
}

fn records_while_nobody_reads() {
    let memory = MemorySink::new();
    let pipeline = Pipeline::builder()
        .settings(settings().max_batch_wait(LONG).build())
        .sink(ConsoleSink::stdout())
        .sink(memory.clone())
        .build()
        .unwrap();
    let attached = pipeline.attach();
    for number in 0..SPANS {
        drop(span!("shown", "number" = number as i64));
    }
    drop(attached);
    // The console does not take everything, so the flush runs out of time; it drives the flusher all the same.
    let other = || pipeline.stats().sinks[1].delivered;
    while other() < SPANS as u64 {
        let _ = pipeline.flush(std::time::Duration::from_millis(1));
    }
    assert!(pipeline.stats().sinks[0].delivered < SPANS as u64, "the pipe took everything");
    eprintln!("the other sink has {}", other());
    // Until the reader begins.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    pipeline.shutdown(LONG).unwrap();
}
