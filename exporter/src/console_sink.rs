//! A sink that shows spans to a person: a line each, or a tree a trace.
//!
//! A terminal that is stopped, or a pipe that nobody reads, must not hold up the other sinks: what it does not take
//! yet is kept, and no further batch is taken until it has gone.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spanring::StatusCode;

use crate::batch::decode;
use crate::model::{SpanBatch, SpanData};
use crate::render::{duration, kind_name, printable, timestamp, write_value};
use crate::sink::{SealedBatch, Sink, SinkError};

/// What a terminal or a pipe takes without making the writer wait, once it says that it takes anything.
const CHUNK_BYTES: usize = 256;
/// How soon what was not taken is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// How long the end waits for what was not taken.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const RED: &str = "\u{1b}[31m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

/// How a [`ConsoleSink`] shows spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleStyle {
    /// A line a span, in the order in which they ended.
    #[default]
    Lines,
    /// Each trace of a batch as a tree. A span whose parent is not in the same batch stands at the left.
    Tree,
}

/// Shows spans on standard output or standard error, with colours on a terminal.
///
/// The environment variable `NO_COLOR`, set and not empty, keeps colours away.
///
/// ```
/// use spanring_exporter::{ConsoleSink, ConsoleStyle, Pipeline};
///
/// let pipeline = Pipeline::builder().sink(ConsoleSink::stderr().style(ConsoleStyle::Tree)).build()?;
/// # drop(pipeline);
/// # Ok::<(), spanring_exporter::StartError>(())
/// ```
pub struct ConsoleSink {
    out: Out,
    style: ConsoleStyle,
    has_colours: bool,
    /// What was not taken yet, and how much of it was.
    pending: Vec<u8>,
    taken: usize,
}

enum Out {
    Stdout,
    Stderr,
    Writer(Box<dyn Write + Send>),
}

impl std::fmt::Debug for ConsoleSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleSink")
            .field("style", &self.style)
            .field("has_colours", &self.has_colours)
            .finish_non_exhaustive()
    }
}

impl ConsoleSink {
    /// On standard output.
    pub fn stdout() -> Self {
        Self::on(Out::Stdout, rustix::termios::isatty(rustix::stdio::stdout()))
    }

    /// On standard error.
    pub fn stderr() -> Self {
        Self::on(Out::Stderr, rustix::termios::isatty(rustix::stdio::stderr()))
    }

    /// To a writer, which may hold up the flusher and so all other sinks.
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self::on(Out::Writer(Box::new(writer)), false)
    }

    fn on(out: Out, is_terminal: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        ConsoleSink {
            out,
            style: ConsoleStyle::default(),
            has_colours: is_terminal && !no_colour,
            pending: Vec::new(),
            taken: 0,
        }
    }

    /// Shows spans in this style; [`ConsoleStyle::Lines`] unless told otherwise.
    #[must_use]
    pub fn style(mut self, style: ConsoleStyle) -> Self {
        self.style = style;
        self
    }

    /// Whether there are colours, whatever the output is.
    #[must_use]
    pub fn colours(mut self, has_colours: bool) -> Self {
        self.has_colours = has_colours;
        self
    }

    /// Writes what waits as far as the output takes it within `patience`; whether it took everything.
    fn write_pending(&mut self, patience: Duration) -> io::Result<bool> {
        while self.taken < self.pending.len() {
            let rest = &self.pending[self.taken..];
            let descriptor = match &mut self.out {
                Out::Writer(writer) => {
                    writer.write_all(rest)?;
                    writer.flush()?;
                    break;
                }
                Out::Stdout => rustix::stdio::stdout(),
                Out::Stderr => rustix::stdio::stderr(),
            };
            let timeout = Timespec {
                tv_sec: patience.as_secs() as i64,
                tv_nsec: patience.subsec_nanos().into(),
            };
            let mut ready = [PollFd::new(&descriptor, PollFlags::OUT)];
            if poll(&mut ready, Some(&timeout))? == 0 {
                return Ok(false);
            }
            match rustix::io::write(descriptor, &rest[..rest.len().min(CHUNK_BYTES)]) {
                Ok(count) => self.taken += count,
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.pending.clear();
        self.taken = 0;
        Ok(true)
    }

    /// An error that no further attempt will mend loses what waits.
    fn broken(&mut self, error: &io::Error) -> SinkError {
        self.pending.clear();
        self.taken = 0;
        let message = format!("spans cannot be shown: {error}; is the output still open?");
        SinkError { retry: false, message }
    }

    fn show(&mut self, batch: &SpanBatch) {
        let mut text = String::new();
        match self.style {
            ConsoleStyle::Lines => {
                for span in &batch.spans {
                    self.line(batch, span, &mut text);
                }
            }
            ConsoleStyle::Tree => self.trees(batch, &mut text),
        }
        self.pending.extend_from_slice(text.as_bytes());
    }

    fn line(&self, batch: &SpanBatch, span: &SpanData, text: &mut String) {
        let start = timestamp(span.start_unix_nano);
        let (dim, reset) = self.paint(DIM);
        let trace = span.trace_id.to_string();
        let _ = write!(text, "{dim}{start} {}{reset} ", &trace[..8]);
        self.rest(batch, span, text);
    }

    /// Name, kind, duration, status and attributes, to the end of the line.
    fn rest(&self, batch: &SpanBatch, span: &SpanData, text: &mut String) {
        let length = duration(span.end_unix_nano.saturating_sub(span.start_unix_nano));
        let _ = write!(text, "{} {} {length}", printable(&span.name), kind_name(span.kind));
        match span.status {
            StatusCode::Unset => {}
            StatusCode::Ok => text.push_str(" ok"),
            StatusCode::Error => {
                let (red, reset) = self.paint(RED);
                let message = printable(&span.status_message);
                let colon = if message.is_empty() { "" } else { ": " };
                let _ = write!(text, " {red}error{colon}{message}{reset}");
            }
        }
        let scope = &batch.scopes[span.scope].name;
        if !scope.is_empty() {
            let _ = write!(text, " [{}]", printable(scope));
        }
        let mut value_text = Vec::new();
        for (key, value) in &span.attributes {
            value_text.clear();
            write_value(value, &mut value_text).expect("a buffer takes everything");
            let _ = write!(text, " {}={}", printable(key), String::from_utf8_lossy(&value_text));
        }
        for (count, what) in [(span.events.len(), "events"), (span.links.len(), "links")] {
            if count > 0 {
                let _ = write!(text, " ({count} {what})");
            }
        }
        text.push('\n');
    }

    fn paint(&self, colour: &'static str) -> (&'static str, &'static str) {
        if self.has_colours { (colour, RESET) } else { ("", "") }
    }

    fn trees(&self, batch: &SpanBatch, text: &mut String) {
        let at: HashMap<_, _> =
            batch.spans.iter().enumerate().map(|(i, span)| (span.span_id, i)).collect();
        // Traces in the order in which their first spans ended.
        let mut traces: Vec<Vec<usize>> = Vec::new();
        let mut numbers = HashMap::new();
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, span) in batch.spans.iter().enumerate() {
            let parent = span.parent_span_id.and_then(|parent| at.get(&parent)).copied();
            match parent
                .filter(|&parent| parent != index && batch.spans[parent].trace_id == span.trace_id)
            {
                Some(parent) => children.entry(parent).or_default().push(index),
                None => {
                    let number = *numbers.entry(span.trace_id).or_insert_with(|| {
                        traces.push(Vec::new());
                        traces.len() - 1
                    });
                    traces[number].push(index);
                }
            }
        }
        let start = |&index: &usize| batch.spans[index].start_unix_nano;
        let mut shown = 0;
        for mut roots in traces {
            roots.sort_by_key(start);
            let first = &batch.spans[roots[0]];
            let (dim, reset) = self.paint(DIM);
            let begin = timestamp(first.start_unix_nano);
            let _ = writeln!(text, "{dim}trace {} {begin}{reset}", first.trace_id);
            // Depths with spans, the next one last.
            let mut stack: Vec<_> = roots.into_iter().rev().map(|root| (1, root)).collect();
            while let Some((depth, index)) = stack.pop() {
                let _ = write!(text, "{:1$}", "", 2 * depth);
                self.rest(batch, &batch.spans[index], text);
                shown += 1;
                let mut below = children.remove(&index).unwrap_or_default();
                below.sort_by_key(start);
                stack.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
            }
        }
        // Spans that are each other's ancestors hang below no root.
        if shown < batch.spans.len() {
            let mut rest: Vec<_> = children.into_values().flatten().collect();
            rest.sort_by_key(start);
            rest.iter().for_each(|&index| self.line(batch, &batch.spans[index], text));
        }
    }
}

impl Sink for ConsoleSink {
    fn name(&self) -> &str {
        "console"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        match self.write_pending(Duration::ZERO) {
            Ok(true) => {}
            Ok(false) => {
                let message = "the terminal or pipe takes nothing at present".to_owned();
                return Err(SinkError { retry: true, message });
            }
            Err(error) => return Err(self.broken(&error)),
        }
        let decoded = decode(&batch.frame).map_err(|error| SinkError {
            retry: false,
            message: format!("a batch cannot be shown: {error}"),
        })?;
        self.show(&decoded.batch);
        self.write_pending(Duration::ZERO).map(drop).map_err(|error| self.broken(&error))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.write_pending(Duration::ZERO).map(drop).map_err(|error| self.broken(&error))
    }

    fn tick(&mut self, now: Instant) -> Option<Instant> {
        // What is broken is said by the next batch.
        let done = self.pending.is_empty() || self.write_pending(Duration::ZERO).unwrap_or(true);
        (!done).then(|| now + AGAIN)
    }

    fn close(&mut self) -> Result<(), SinkError> {
        match self.write_pending(CLOSE_TIMEOUT) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let bytes = self.pending.len() - self.taken;
                let message =
                    format!("the output takes nothing; {bytes} bytes of spans were not shown");
                Err(SinkError { retry: false, message })
            }
            Err(error) => Err(self.broken(&error)),
        }
    }
}
