//! Whether two recordings are the same forest of spans, whatever their IDs and their order.
//!
//! Compared are, of each span: name, kind, start and end to the nanosecond, status, attributes with
//! their types and in order, events, links with their attributes, resource and scope; its parent (none,
//! another span of the data, or one that the data does not have, which is a remote parent shared by all
//! spans of the trace that name it); which spans form a trace; and which spans links lead to, where they
//! lead into the data. Not compared are the IDs themselves, the order of spans, how they are split into
//! batches, flags, tracestate, and the counts of what was dropped before.
//!
//! Method: colour refinement. A span's first colour is a hash of its content; in each round it is hashed
//! with the colours of its parent, its children, its trace and what links connect it with. Once the
//! rounds no longer tell more spans apart, both sides have the same colours, as often, exactly if they
//! are the same forest. (With links between spans that nothing else tells apart, refinement may call
//! different graphs the same; recorded times rule that out in practice.) Nothing here recurses but
//! values, so cyclic parents are harmless.

mod content;
mod graph;

use std::collections::HashMap;
use std::fmt;

use spanring::{SpanId, TraceId};
use spanring_exporter::model::SpanBatch;

use graph::{Graph, Node};

/// Where two recordings first differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The recorded span that has no counterpart; `None` if there are only spans too many.
    pub recorded: Option<SpanRef>,
    /// What comes nearest among the spans read back that have no counterpart either.
    pub read_back: Option<SpanRef>,
    /// What differs.
    pub what: String,
}

/// Names a span to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRef {
    /// Its name.
    pub name: String,
    /// Its trace ID on its own side.
    pub trace_id: TraceId,
    /// Its span ID on its own side.
    pub span_id: SpanId,
    /// Its start, in ns since the Unix epoch.
    pub start_unix_nano: u64,
}

impl fmt::Display for SpanRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, start) = (&self.name, self.start_unix_nano);
        write!(f, "{name:?} (trace {}, span {}, start {start})", self.trace_id, self.span_id)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.recorded, &self.read_back) {
            (Some(recorded), Some(found)) => write!(f, "{recorded} is not {found}: {}", self.what),
            (Some(span), None) => write!(f, "{span} was recorded: {}", self.what),
            (None, Some(span)) => write!(f, "{span} was read back: {}", self.what),
            (None, None) => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Difference {}

/// Compares what was recorded with what was read back.
///
/// Takes time in the order of the number of spans times the rounds that refinement needs: few, where
/// spans differ by name and time. Two spans with the same IDs are both counted; who refers to them
/// refers to one of them.
///
/// # Errors
///
/// The first difference, in the order of what was recorded.
///
/// # Panics
///
/// If a span refers to a scope, or a scope to a resource, that its batch does not have.
pub fn compare(recorded: &[SpanBatch], read_back: &[SpanBatch]) -> Result<(), Box<Difference>> {
    let (left, right) = (Graph::new(recorded), Graph::new(read_back));
    let (mut left_colours, mut right_colours) = (left.first_colours(), right.first_colours());
    let mut distinct = 0;
    loop {
        let unmatched = Unmatched::new(&left, &left_colours, &right, &right_colours);
        if let Some(unmatched) = unmatched {
            return Err(Box::new(unmatched.explain(&left, &right)));
        }
        // The same on both sides by now.
        let count = graph::distinct(&left_colours);
        if count == distinct {
            return Ok(());
        }
        distinct = count;
        left_colours = left.refined(&left_colours);
        right_colours = right.refined(&right_colours);
    }
}

/// The spans of either side whose colour the other side does not have as often.
struct Unmatched {
    left: Vec<usize>,
    right: Vec<usize>,
}

impl Unmatched {
    /// `None` if there are none.
    fn new(
        left: &Graph<'_>,
        left_colours: &[u64],
        right: &Graph<'_>,
        right_colours: &[u64],
    ) -> Option<Self> {
        let mut surplus: HashMap<u64, i64> = HashMap::new();
        left.spans().for_each(|node| *surplus.entry(left_colours[node]).or_default() += 1);
        right.spans().for_each(|node| *surplus.entry(right_colours[node]).or_default() -= 1);
        // Which ones of several equal spans are too many cannot be told; the last ones are as good.
        let mut take = |colour: u64, sign: i64| match surplus.get_mut(&colour) {
            Some(count) if *count * sign > 0 => {
                *count -= sign;
                true
            }
            _ => false,
        };
        let left: Vec<_> = left.spans().filter(|&node| take(left_colours[node], 1)).collect();
        let right: Vec<_> = right.spans().filter(|&node| take(right_colours[node], -1)).collect();
        (!left.is_empty() || !right.is_empty()).then_some(Unmatched { left, right })
    }

    fn explain(&self, left: &Graph<'_>, right: &Graph<'_>) -> Difference {
        if let Some(difference) = self.explain_move(left, right) {
            return difference;
        }
        let Some(&first) = self.left.first() else {
            let read_back = self.right.first().map(|&extra| right.node(extra).reference());
            return Difference { recorded: None, read_back, what: "it has no counterpart".into() };
        };
        let recorded = left.node(first);
        let nearest =
            self.right.iter().map(|&candidate| right.node(candidate)).max_by_key(|node| {
                // The first of the best: max_by_key takes the last, so positions count down.
                (recorded.likeness(node), std::cmp::Reverse(node.index))
            });
        match nearest {
            Some(found) if recorded.likeness(found) > 0 => Difference {
                recorded: Some(recorded.reference()),
                read_back: Some(found.reference()),
                what: content::first_difference(recorded, found)
                    .or_else(|| graph::surroundings_differ(left, recorded, right, found))
                    .unwrap_or_else(|| "spans further away in their traces differ".into()),
            },
            _ => Difference {
                recorded: Some(recorded.reference()),
                read_back: None,
                what: "it has no counterpart".into(),
            },
        }
    }

    /// If there is a span that is the same but for its parent or its links' targets: says so. That
    /// is the cause, where the spans around it only show the effect.
    fn explain_move(&self, left: &Graph<'_>, right: &Graph<'_>) -> Option<Difference> {
        let mut same_content: HashMap<u64, &Node<'_>> = HashMap::new();
        for &candidate in self.right.iter().rev() {
            same_content.insert(right.node(candidate).content, right.node(candidate));
        }
        self.left.iter().find_map(|&node| {
            let recorded = left.node(node);
            let found = same_content.get(&recorded.content)?;
            let what = graph::references_differ(left, recorded, right, found)?;
            let (recorded, read_back) = (Some(recorded.reference()), Some(found.reference()));
            Some(Difference { recorded, read_back, what })
        })
    }
}

impl Node<'_> {
    fn reference(&self) -> SpanRef {
        SpanRef {
            name: self.span.name.clone(),
            trace_id: self.span.trace_id,
            span_id: self.span.span_id,
            start_unix_nano: self.span.start_unix_nano,
        }
    }

    /// How much speaks for two spans being meant to be the same; 0 if nothing does.
    fn likeness(&self, other: &Node<'_>) -> u32 {
        let (a, b) = (self.span, other.span);
        let same = [
            (self.content == other.content, 8),
            (a.name == b.name, 4),
            (a.start_unix_nano == b.start_unix_nano, 3),
            (a.end_unix_nano == b.end_unix_nano, 2),
        ];
        same.iter().filter(|(is_same, _)| *is_same).map(|(_, weight)| weight).sum()
    }
}
