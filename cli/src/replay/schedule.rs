//! In which order spans start and end, and on which thread.
//!
//! A thread performs whole traces, and traces that link to each other together, so that no thread waits
//! for another. On each:
//!
//! - Spans end in the order of the recording.
//! - Spans start in the order of their recorded starts, except that a parent, and the root of its trace,
//!   starts first whatever was recorded.
//! - A span starts when the recording has come to its start, judged by the ends so far; at the latest
//!   before it ends itself, or a span that links to it does.
//!
//! Nothing here recurses, and the time taken is that of sorting, so long chains, cycles of parents and
//! IDs that occur twice are harmless.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use spanring::{SpanId, TraceId};

use super::Recording;

/// One step of a thread; the numbers are positions in [`Part::spans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A span starts.
    Start(u32),
    /// A span ends.
    End(u32),
}

/// What a span becomes the child of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// None: it begins a trace, by that trace's number in the part; `None` for a trace of its own that
    /// the recording counts to another one.
    Root {
        /// The trace.
        trace: Option<u32>,
    },
    /// A span of the same part, by its position.
    Span(u32),
    /// A span that the recording does not have.
    Remote {
        /// Its number in the part: the same for all children that name it.
        remote: u32,
        /// The trace, whose root, if it has one, starts first.
        trace: u32,
    },
}

/// A span in its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its number in the recording.
    pub span: u32,
    /// Its parent.
    pub parent: Parent,
    /// Where its links lead, in order: a position in the part, or `None` for out of the recording.
    pub links: Box<[Option<u32>]>,
}

/// What one thread performs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its spans, in the order of the recording.
    pub spans: Vec<Planned>,
    /// How many traces they belong to.
    pub traces: u32,
    /// How many remote parents they have.
    pub remotes: u32,
    /// What it does, in order.
    pub actions: Vec<Action>,
}

/// What all threads perform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// One for each thread; some may be empty.
    pub parts: Vec<Part>,
    /// Earliest recorded start, in ns since the Unix epoch.
    pub begin_unix_nano: u64,
    /// Latest recorded start or end, likewise.
    pub end_unix_nano: u64,
    /// Spans without a parent in a trace that has another such span before: they begin traces of their
    /// own.
    pub further_roots: u64,
    /// Cycles of parents; one span of each gets a remote parent.
    pub cycles: u64,
}

const NONE: u32 = u32::MAX;

impl Schedule {
    /// Plans `recording` for `threads` threads, at least one.
    pub fn new(recording: &Recording, threads: usize) -> Self {
        let mut forest = Forest::new(recording);
        let cycles = forest.break_cycles(recording);
        forest.order_starts(recording);
        let parts = forest.divide(recording, threads.max(1));
        let spans = || (0..recording.len() as u32).map(|number| recording.span(number));
        Schedule {
            parts,
            begin_unix_nano: spans().map(|span| span.start_unix_nano).min().unwrap_or_default(),
            end_unix_nano: spans()
                .map(|span| span.end_unix_nano.max(span.start_unix_nano))
                .max()
                .unwrap_or_default(),
            further_roots: forest.further_roots,
            cycles,
        }
    }
}

/// All spans by their numbers, with what connects them.
struct Forest {
    /// The span with an ID; the first, if several have it.
    by_id: HashMap<(TraceId, SpanId), u32>,
    /// The parent of each span, or `NONE` for a root and where it is not in the recording.
    parent: Vec<u32>,
    is_root: Vec<bool>,
    trace: Vec<u32>,
    /// The first root of each trace, or `NONE`.
    trace_root: Vec<u32>,
    /// Spans ordered so that parents, and roots of traces, come before all others of theirs.
    downwards: Vec<u32>,
    /// When each span starts at the earliest, and its distance from the root, for the order of starts.
    start: Vec<(u64, u32)>,
    further_roots: u64,
}

impl Forest {
    fn new(recording: &Recording) -> Self {
        let len = recording.len();
        let mut forest = Forest {
            by_id: HashMap::with_capacity(len),
            parent: vec![NONE; len],
            is_root: vec![false; len],
            trace: Vec::with_capacity(len),
            trace_root: Vec::new(),
            downwards: Vec::with_capacity(len),
            start: vec![(0, 0); len],
            further_roots: 0,
        };
        let mut traces = HashMap::new();
        for number in 0..len as u32 {
            let span = recording.span(number);
            forest.by_id.entry((span.trace_id, span.span_id)).or_insert(number);
            let next = forest.trace_root.len() as u32;
            let trace = *traces.entry(span.trace_id).or_insert(next);
            if trace == next {
                forest.trace_root.push(NONE);
            }
            forest.trace.push(trace);
            if span.parent_span_id.is_none() {
                forest.is_root[number as usize] = true;
                match &mut forest.trace_root[trace as usize] {
                    root if *root == NONE => *root = number,
                    _ => forest.further_roots += 1,
                }
            }
        }
        // Children mostly come before their parents, so parents are looked for once all IDs are known.
        for number in 0..len as u32 {
            let span = recording.span(number);
            if let Some(parent) = span.parent_span_id
                && let Some(&parent) = forest.by_id.get(&(span.trace_id, parent))
            {
                forest.parent[number as usize] = parent;
            }
        }
        forest
    }

    /// What must have started before a span can.
    fn starts_after(&self, number: u32) -> u32 {
        let at = number as usize;
        match self.parent[at] {
            NONE if self.is_root[at] => NONE,
            NONE => self.trace_root[self.trace[at] as usize],
            parent => parent,
        }
    }

    /// Fills `downwards`; returns how many cycles of parents there were. Each loses one edge.
    fn break_cycles(&mut self, recording: &Recording) -> u64 {
        let len = recording.len();
        // Children as lists in two tables.
        let (mut first, mut next) = (vec![NONE; len], vec![NONE; len]);
        let mut queue = VecDeque::new();
        for number in (0..len as u32).rev() {
            match self.starts_after(number) {
                NONE => queue.push_front(number),
                before => {
                    next[number as usize] = first[before as usize];
                    first[before as usize] = number;
                }
            }
        }
        let mut reached = vec![false; len];
        let mut cycles = 0;
        let mut seen = vec![NONE; len];
        for candidate in 0..=len as u32 {
            while let Some(number) = queue.pop_front() {
                if std::mem::replace(&mut reached[number as usize], true) {
                    continue;
                }
                self.downwards.push(number);
                let mut child = first[number as usize];
                while child != NONE {
                    queue.push_back(child);
                    child = next[child as usize];
                }
            }
            if candidate == len as u32 || reached[candidate as usize] {
                continue;
            }
            // Not below any root, so above it is a cycle: walk up until a span comes again.
            let mut number = candidate;
            while seen[number as usize] != candidate {
                seen[number as usize] = candidate;
                number = self.parent[number as usize];
            }
            self.parent[number as usize] = NONE;
            cycles += 1;
            queue.push_back(number);
        }
        cycles
    }

    /// Fills `start`: recorded starts, but none before what a span starts after.
    fn order_starts(&mut self, recording: &Recording) {
        for index in 0..self.downwards.len() {
            let number = self.downwards[index];
            let own = recording.span(number).start_unix_nano;
            self.start[number as usize] = match self.starts_after(number) {
                NONE => (own, 0),
                before => {
                    let (start, depth) = self.start[before as usize];
                    (own.max(start), depth + 1)
                }
            };
        }
    }

    /// The spans that a span's links lead to.
    fn link_targets(
        &self,
        recording: &Recording,
        number: u32,
    ) -> impl Iterator<Item = Option<u32>> {
        let links = &recording.span(number).links;
        links.iter().map(|link| self.by_id.get(&(link.trace_id, link.span_id)).copied())
    }

    /// Divides traces among threads, those that links connect together.
    fn divide(&self, recording: &Recording, threads: usize) -> Vec<Part> {
        let mut groups = Groups::new(self.trace_root.len());
        for number in 0..recording.len() as u32 {
            for target in self.link_targets(recording, number).flatten() {
                groups.join(self.trace[number as usize], self.trace[target as usize]);
            }
        }
        let mut sizes = vec![0u64; self.trace_root.len()];
        for &trace in &self.trace {
            sizes[groups.of(trace) as usize] += 1;
        }
        // Each group, as it appears, goes to the thread that has least.
        let mut loads: BinaryHeap<_> = (0..threads).map(|thread| Reverse((0u64, thread))).collect();
        let mut threads_of = vec![usize::MAX; self.trace_root.len()];
        let mut parts = vec![PartBuilder::default(); threads];
        let mut positions = vec![NONE; recording.len()];
        for number in 0..recording.len() as u32 {
            let group = groups.of(self.trace[number as usize]) as usize;
            if threads_of[group] == usize::MAX
                && let Some(mut least) = loads.peek_mut()
            {
                least.0.0 += sizes[group];
                threads_of[group] = least.0.1;
            }
            let part = &mut parts[threads_of[group]];
            positions[number as usize] = part.numbers.len() as u32;
            part.numbers.push(number);
        }
        parts.into_iter().map(|part| self.part(recording, part, &positions)).collect()
    }

    fn part(&self, recording: &Recording, part: PartBuilder, positions: &[u32]) -> Part {
        let PartBuilder { numbers } = part;
        let position = |number: u32| positions[number as usize];
        let mut traces = HashMap::new();
        let mut remotes = HashMap::new();
        let mut spans = Vec::with_capacity(numbers.len());
        for &number in &numbers {
            let span = recording.span(number);
            let recorded_trace = self.trace[number as usize];
            let next = traces.len() as u32;
            let trace = *traces.entry(recorded_trace).or_insert(next);
            let parent = match self.parent[number as usize] {
                NONE if self.is_root[number as usize] => {
                    let is_first = self.trace_root[recorded_trace as usize] == number;
                    Parent::Root { trace: is_first.then_some(trace) }
                }
                NONE => {
                    let next = remotes.len() as u32;
                    let key = (recorded_trace, span.parent_span_id);
                    Parent::Remote { remote: *remotes.entry(key).or_insert(next), trace }
                }
                parent => Parent::Span(position(parent)),
            };
            let links =
                self.link_targets(recording, number).map(|target| target.map(position)).collect();
            spans.push(Planned { span: number, parent, links });
        }
        let actions = self.actions(recording, &numbers, &spans);
        let (traces, remotes) = (traces.len() as u32, remotes.len() as u32);
        Part { spans, traces, remotes, actions }
    }

    fn actions(&self, recording: &Recording, numbers: &[u32], spans: &[Planned]) -> Vec<Action> {
        let len = numbers.len() as u32;
        let key = |position: u32| (self.start[numbers[position as usize] as usize], position);
        let mut starts: Vec<u32> = (0..len).collect();
        starts.sort_unstable_by_key(|&position| key(position));
        let mut rank = vec![0u32; numbers.len()];
        for (index, &position) in starts.iter().enumerate() {
            rank[position as usize] = index as u32;
        }
        let mut actions = Vec::with_capacity(2 * numbers.len());
        let mut started = 0u32;
        let mut now = 0;
        for position in 0..len {
            let planned = &spans[position as usize];
            now = now.max(recording.span(planned.span).end_unix_nano);
            let needed = planned.links.iter().flatten().chain([&position]);
            let needed = needed.map(|&other| rank[other as usize] + 1).max().unwrap_or_default();
            while started < needed || started < len && key(starts[started as usize]).0.0 <= now {
                actions.push(Action::Start(starts[started as usize]));
                started += 1;
            }
            actions.push(Action::End(position));
        }
        actions
    }
}

#[derive(Clone, Debug, Default)]
struct PartBuilder {
    /// The spans' numbers in the recording.
    numbers: Vec<u32>,
}

/// Sets of traces that are joined one by one.
struct Groups(Vec<u32>);

impl Groups {
    fn new(len: usize) -> Self {
        Groups((0..len as u32).collect())
    }

    /// The trace that stands for the group of `trace`.
    fn of(&mut self, mut trace: u32) -> u32 {
        while self.0[trace as usize] != trace {
            // Every look halves the way for the next one.
            let above = self.0[trace as usize];
            self.0[trace as usize] = self.0[above as usize];
            trace = above;
        }
        trace
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.of(a), self.of(b));
        // The first trace stands for all, whatever the order of the links.
        self.0[a.max(b) as usize] = a.min(b);
    }
}
