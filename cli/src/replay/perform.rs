//! What one thread does: starts and ends spans as its part of the schedule says.

use std::time::{Duration, Instant};

use spanring::{
    Attributes, Key, Span, SpanContext, SpanId, TraceFlags, TraceId, TraceState, Value, WallTime,
};
use spanring_exporter::model::SpanData;

use super::Recording;
use super::pacer::{Debt, Pacer};
use super::schedule::{Action, Parent, Part, Planned};

/// Flags of a remote parent: its children are recorded, whatever was recorded of it.
const REMOTE_FLAGS: TraceFlags = TraceFlags(TraceFlags::SAMPLED.0 | TraceFlags::RANDOM.0);

/// Recorded time against the time that passes.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When the recording begins.
    pub begin: Instant,
    /// The recorded time then, in ns since the Unix epoch.
    pub begin_unix_nano: u64,
    /// How many times as fast recorded time passes; above zero.
    pub factor: f64,
}

impl Clock {
    fn wait_until(&self, unix_nano: u64) {
        let recorded = Duration::from_nanos(unix_nano.saturating_sub(self.begin_unix_nano));
        let after = Duration::try_from_secs_f64(recorded.as_secs_f64() / self.factor);
        let due = self.begin.checked_add(after.unwrap_or(Duration::MAX));
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => {}
            Some(left) => std::thread::sleep(left),
            // Further away than the clock can say.
            None => std::thread::sleep(Duration::MAX),
        }
    }
}

/// Performs parts of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Performer<'a> {
    /// What is performed.
    pub recording: &'a Recording,
    /// Who holds the thread up; nobody, to let the engine drop.
    pub pacer: Option<&'a Pacer<'a>>,
    /// When things happen; at once without one.
    pub clock: Option<Clock>,
}

/// A thread's spans under way.
struct Stage<'a> {
    performer: Performer<'a>,
    part: &'a Part,
    /// By position: what identifies the spans that have started.
    contexts: Vec<SpanContext>,
    /// By position: the spans that have started and not ended.
    open: Vec<Option<Span>>,
    traces: Vec<Option<TraceId>>,
    remotes: Vec<Option<SpanContext>>,
    ids: SpanIds,
    debt: Debt,
}

impl<'a> Performer<'a> {
    /// Performs `part` once; `on_end` is called after each span, if there is time to.
    pub fn perform(self, part: &'a Part, mut on_end: impl FnMut()) {
        let mut stage = Stage {
            performer: self,
            part,
            contexts: vec![SpanContext::default(); part.spans.len()],
            open: std::iter::repeat_with(|| None).take(part.spans.len()).collect(),
            traces: vec![None; part.traces as usize],
            remotes: vec![None; part.remotes as usize],
            ids: SpanIds(spanring::export::random_u128() as u64),
            debt: Debt::default(),
        };
        for &action in &part.actions {
            match action {
                Action::Start(position) => stage.start(position as usize),
                Action::End(position) => {
                    stage.end(position as usize);
                    on_end();
                }
            }
        }
    }
}

impl Stage<'_> {
    fn start(&mut self, position: usize) {
        let planned = &self.part.spans[position];
        let recording = self.performer.recording;
        let data = recording.span(planned.span);
        if let Some(clock) = self.performer.clock {
            clock.wait_until(data.start_unix_nano);
        }
        let parent = match planned.parent {
            Parent::Root { .. } => SpanContext::default(),
            Parent::Span(parent) => self.contexts[parent as usize].clone(),
            Parent::Remote { remote, trace } => self.remote(remote as usize, trace as usize, data),
        };
        let span = Span::builder(&data.name)
            .tracer(&recording.tracer_of(planned.span))
            .kind(data.kind)
            .start_time(WallTime(data.start_unix_nano))
            .parent(&parent)
            .start();
        let context = span.context();
        if let Parent::Root { trace: Some(trace) } = planned.parent {
            self.traces[trace as usize] = Some(context.trace_id());
        }
        self.contexts[position] = context;
        self.open[position] = Some(span);
    }

    /// The context of a parent that the recording does not have: the same for all its children.
    fn remote(&mut self, remote: usize, trace: usize, child: &SpanData) -> SpanContext {
        let ids = &mut self.ids;
        let trace_id = *self.traces[trace].get_or_insert_with(SpanIds::trace_id);
        let context = self.remotes[remote].get_or_insert_with(|| {
            // One that is no tracestate cannot be passed on, as between processes.
            let state = TraceState::parse(&child.trace_state).unwrap_or_default();
            SpanContext::remote(trace_id, ids.next(), REMOTE_FLAGS, state)
        });
        context.clone()
    }

    fn end(&mut self, position: usize) {
        let planned = &self.part.spans[position];
        let data = self.performer.recording.span(planned.span);
        if let Some(clock) = self.performer.clock {
            clock.wait_until(data.end_unix_nano);
        }
        let Some(mut span) = self.open[position].take() else { return };
        // Values are set just before the end, so that spans under way hold no memory of `MAX_BYTES`.
        let _admitted =
            self.performer.pacer.map(|pacer| pacer.admit(&mut self.debt, likely_bytes(data)));
        for (key, value) in &data.attributes {
            span.set_attribute(key, value);
        }
        for event in &data.events {
            span.add_event_at(&event.name, WallTime(event.time_unix_nano), |to| {
                set_all(to, &event.attributes);
            });
        }
        self.add_links(&mut span, planned, data);
        span.set_status(data.status, &data.status_message);
        span.end_at(WallTime(data.end_unix_nano));
    }

    fn add_links(&self, span: &mut Span, planned: &Planned, data: &SpanData) {
        for (link, target) in data.links.iter().zip(&planned.links) {
            let context = match target {
                Some(position) => self.contexts[*position as usize].clone(),
                None => {
                    let state = TraceState::parse(&link.trace_state).unwrap_or_default();
                    let flags = TraceFlags(link.trace_flags);
                    match link.is_remote {
                        Some(false) => {
                            SpanContext::from_ids(link.trace_id, link.span_id, flags, state)
                        }
                        _ => SpanContext::remote(link.trace_id, link.span_id, flags, state),
                    }
                }
            };
            span.add_link_with(&context, |to| set_all(to, &link.attributes));
        }
    }
}

fn set_all(to: &mut Attributes<'_>, attributes: &[(String, Value)]) {
    for (key, value) in attributes {
        to.set(Key::from(key), value);
    }
}

/// What a span takes until it is sealed, from above: text, and a cell for each thing it has.
fn likely_bytes(data: &SpanData) -> u64 {
    const THING: u64 = 64;
    fn value_bytes(value: &Value) -> u64 {
        THING
            + match value {
                Value::Str(text) => text.len() as u64,
                Value::Bytes(bytes) => bytes.len() as u64,
                Value::Array(items) => items.iter().map(value_bytes).sum(),
                Value::Map(entries) => attributes_bytes(entries),
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
            }
    }
    fn attributes_bytes(attributes: &[(String, Value)]) -> u64 {
        attributes.iter().map(|(key, value)| key.len() as u64 + value_bytes(value)).sum()
    }
    let events = data
        .events
        .iter()
        .map(|event| THING + event.name.len() as u64 + attributes_bytes(&event.attributes));
    let links = data
        .links
        .iter()
        .map(|link| THING + link.trace_state.len() as u64 + attributes_bytes(&link.attributes));
    let texts = [&data.name, &data.status_message, &data.trace_state];
    THING
        + attributes_bytes(&data.attributes)
        + events.sum::<u64>()
        + links.sum::<u64>()
        + texts.map(|text| text.len() as u64).iter().sum::<u64>()
}

/// Span IDs for parents that are in no process: unique among themselves, scattered over all IDs.
struct SpanIds(u64);

impl SpanIds {
    fn next(&mut self) -> SpanId {
        loop {
            self.0 = self.0.wrapping_add(1);
            // An odd factor keeps distinct numbers distinct, and so does what follows it.
            let scattered = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let id = SpanId(scattered ^ (scattered >> 32));
            if id.is_valid() {
                return id;
            }
        }
    }

    fn trace_id() -> TraceId {
        loop {
            let id = TraceId(spanring::export::random_u128());
            if id.is_valid() {
                return id;
            }
        }
    }
}
