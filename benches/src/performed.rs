//! A recorded trace performed again by one thread, prepared so far that the performer costs little: what strings can be
//! are interned, as those of a program's call sites are. (`spanring replay` looks each name and key up.)

use std::path::Path;

use spanring::{Interned, Span, SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use spanring::{Value, WallTime};
use spanring_cli::input::LineReader;
use spanring_cli::replay::{Action, Parent, Part, Recording, Schedule};
use spanring_exporter::model::SpanData;

type Attributes = Vec<(Interned, Value)>;

/// Spans, in the order of their starts and ends, with their recorded times, parents, attributes and events.
#[derive(Debug)]
pub struct Performed {
    recording: Recording,
    part: Part,
    prepared: Vec<Prepared>,
}

/// What is set on a span.
#[derive(Debug)]
struct Prepared {
    name: Interned,
    attributes: Attributes,
    events: Vec<(Interned, WallTime, Attributes)>,
}

impl Performed {
    /// Reads `name` in `data`.
    ///
    /// # Panics
    ///
    /// If it cannot be read, or has links, which are not performed.
    pub fn load(data: &Path, name: &str) -> Self {
        let path = data.join(format!("{name}.jsonl.zst"));
        let mut reader = LineReader::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let mut recording = Recording::default();
        while let Some(batch) = reader.next_batch().expect("it is readable") {
            recording.add(batch).expect("there is room");
        }
        let part = Schedule::new(&recording, 1).parts.remove(0);
        let prepared = part.spans.iter().map(|planned| prepare(recording.span(planned.span)));
        Performed { prepared: prepared.collect(), recording, part }
    }

    /// Performs all spans once; calls `ended` after each.
    pub fn perform(&self, ended: &mut dyn FnMut()) {
        let mut contexts = vec![SpanContext::default(); self.part.spans.len()];
        let mut open: Vec<Option<Span>> =
            std::iter::repeat_with(|| None).take(contexts.len()).collect();
        for &action in &self.part.actions {
            match action {
                Action::Start(position) => {
                    let position = position as usize;
                    let span = self.start(position, &contexts);
                    contexts[position] = span.context();
                    open[position] = Some(span);
                }
                Action::End(position) => {
                    let position = position as usize;
                    let span = open[position].take().expect("it has started");
                    self.end(position, span);
                    ended();
                }
            }
        }
    }

    fn start(&self, position: usize, contexts: &[SpanContext]) -> Span {
        let planned = &self.part.spans[position];
        let data = self.recording.span(planned.span);
        let builder = Span::builder(self.prepared[position].name)
            .tracer(&self.recording.tracer_of(planned.span))
            .kind(data.kind)
            .start_time(WallTime(data.start_unix_nano));
        match planned.parent {
            Parent::Root { .. } => builder.root(),
            Parent::Span(parent) => builder.parent(&contexts[parent as usize]),
            Parent::Remote { remote, trace } => builder.parent(&SpanContext::remote(
                TraceId(u128::from(trace) + 1),
                SpanId(u64::from(remote) + 1),
                TraceFlags::SAMPLED,
                TraceState::default(),
            )),
        }
        .start()
    }

    fn end(&self, position: usize, mut span: Span) {
        let data = self.recording.span(self.part.spans[position].span);
        let prepared = &self.prepared[position];
        for (key, value) in &prepared.attributes {
            span.set_attribute(*key, value);
        }
        for (name, time, attributes) in &prepared.events {
            span.add_event_at(*name, *time, |to| {
                attributes.iter().for_each(|(key, value)| {
                    to.set(*key, value);
                });
            });
        }
        span.set_status(data.status, &data.status_message);
        span.end_at(WallTime(data.end_unix_nano));
    }
}

fn prepare(data: &SpanData) -> Prepared {
    assert!(data.links.is_empty(), "links are not performed");
    let events = data.events.iter().map(|event| {
        let time = WallTime(event.time_unix_nano);
        (interned(&event.name), time, attributes(&event.attributes))
    });
    Prepared {
        name: interned(&data.name),
        attributes: attributes(&data.attributes),
        events: events.collect(),
    }
}

fn attributes(from: &[(String, Value)]) -> Attributes {
    from.iter().map(|(key, value)| (interned(key), value.clone())).collect()
}

fn interned(text: &str) -> Interned {
    Interned::new(text).expect("there is room")
}
