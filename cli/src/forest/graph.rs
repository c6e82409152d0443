//! Spans as nodes of a graph, and the refinement of their colours.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use spanring_exporter::model::{SpanBatch, SpanData};

use super::content;

/// A span with what surrounds it. Indices are into the graph's nodes.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) index: usize,
    pub(super) batch: &'a SpanBatch,
    pub(super) span: &'a SpanData,
    /// Hash of the span's content, with what sort of parent and link targets it has.
    pub(super) content: u64,
    pub(super) parent: Parent,
    pub(super) children: Vec<usize>,
    /// Where its links lead, in order; `None` for out of the data.
    pub(super) links: Vec<Option<usize>>,
    /// Whose links lead here.
    linked_by: Vec<usize>,
    trace: usize,
}

/// What a span has for a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    None,
    /// Another span of the data.
    Span(usize),
    /// A span that the data does not have: an index into the graph's remote parents.
    Remote(usize),
}

impl Parent {
    /// The sort of parent, in words.
    pub(super) fn sort(self) -> &'static str {
        match self {
            Parent::None => "none",
            Parent::Span(_) => "a span of the data",
            Parent::Remote(_) => "a remote span",
        }
    }
}

/// All spans of one side.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    /// The members of each trace.
    traces: Vec<Vec<usize>>,
    /// The children of each remote parent.
    remote_parents: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(batches: &'a [SpanBatch]) -> Self {
        let all = || batches.iter().flat_map(|batch| batch.spans.iter().map(move |s| (batch, s)));
        let known: HashSet<_> = all().map(|(_, span)| (span.trace_id, span.span_id)).collect();
        let is_known = |trace, span| known.contains(&(trace, span));

        let mut traces = Numbered::default();
        let mut remote_parents = Numbered::default();
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(known.len());
        let mut by_id: HashMap<_, usize> = HashMap::with_capacity(known.len());
        for (index, (batch, span)) in all().enumerate() {
            let parent = match span.parent_span_id {
                None => Parent::None,
                // To be replaced below, once all nodes are there.
                Some(id) if is_known(span.trace_id, id) => Parent::Span(usize::MAX),
                Some(id) => Parent::Remote(remote_parents.add((span.trace_id, id), index)),
            };
            let targets: Vec<bool> =
                span.links.iter().map(|link| is_known(link.trace_id, link.span_id)).collect();
            let content = content::hash(batch, span, parent, &targets);
            // Of spans with the same ID, references mean the one whose content comes first: a choice
            // that does not depend on their order.
            let chosen = by_id.entry((span.trace_id, span.span_id)).or_insert(index);
            if *chosen != index && content < nodes[*chosen].content {
                *chosen = index;
            }
            let trace = traces.add(span.trace_id, index);
            let (children, links, linked_by) = (Vec::new(), Vec::new(), Vec::new());
            nodes.push(Node {
                index,
                batch,
                span,
                content,
                parent,
                children,
                links,
                linked_by,
                trace,
            });
        }
        for index in 0..nodes.len() {
            let span = nodes[index].span;
            if let (Parent::Span(_), Some(id)) = (nodes[index].parent, span.parent_span_id) {
                let parent = by_id[&(span.trace_id, id)];
                nodes[index].parent = Parent::Span(parent);
                nodes[parent].children.push(index);
            }
            for link in &span.links {
                let target = by_id.get(&(link.trace_id, link.span_id)).copied();
                nodes[index].links.push(target);
                if let Some(target) = target {
                    nodes[target].linked_by.push(index);
                }
            }
        }
        Graph { nodes, traces: traces.members, remote_parents: remote_parents.members }
    }

    /// The indices of all spans.
    pub(super) fn spans(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    pub(super) fn node(&self, index: usize) -> &Node<'a> {
        &self.nodes[index]
    }

    /// One colour for each span, by its content.
    pub(super) fn first_colours(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.content).collect()
    }

    /// One round of refinement.
    pub(super) fn refined(&self, colours: &[u64]) -> Vec<u64> {
        let of_group = |group: &Vec<usize>| multiset(group, colours);
        let traces: Vec<u64> = self.traces.iter().map(of_group).collect();
        let remote_parents: Vec<u64> = self.remote_parents.iter().map(of_group).collect();
        let refine = |node: &Node<'_>| {
            let mut hasher = DefaultHasher::new();
            let parent = match node.parent {
                Parent::None => 0,
                Parent::Span(parent) => colours[parent],
                Parent::Remote(parent) => remote_parents[parent],
            };
            (colours[node.index], parent, traces[node.trace]).hash(&mut hasher);
            multiset(&node.children, colours).hash(&mut hasher);
            multiset(&node.linked_by, colours).hash(&mut hasher);
            for link in &node.links {
                link.map(|target| colours[target]).hash(&mut hasher);
            }
            hasher.finish()
        };
        self.nodes.iter().map(refine).collect()
    }

    /// The contents of `group`, in an order of their own.
    fn contents(&self, group: &[usize]) -> Vec<u64> {
        let mut contents: Vec<_> = group.iter().map(|&node| self.nodes[node].content).collect();
        contents.sort_unstable();
        contents
    }

    /// The children of the node's parent, itself included.
    fn siblings(&self, node: &Node<'_>) -> &[usize] {
        match node.parent {
            Parent::None => &[],
            Parent::Span(parent) => &self.nodes[parent].children,
            Parent::Remote(parent) => &self.remote_parents[parent],
        }
    }
}

/// How many colours there are.
pub(super) fn distinct(colours: &[u64]) -> usize {
    colours.iter().collect::<HashSet<_>>().len()
}

/// What differs where two spans of the same content lead to, in words.
pub(super) fn references_differ(
    left: &Graph<'_>,
    recorded: &Node<'_>,
    right: &Graph<'_>,
    found: &Node<'_>,
) -> Option<String> {
    if let (Parent::Span(a), Parent::Span(b)) = (recorded.parent, found.parent) {
        let (a, b) = (left.node(a), right.node(b));
        if a.content != b.content {
            return Some(format!("recorded below {}, read back below {}", a.name(), b.name()));
        }
    }
    for (index, targets) in recorded.links.iter().zip(&found.links).enumerate() {
        if let (Some(a), Some(b)) = targets {
            let (a, b) = (left.node(*a), right.node(*b));
            if a.content != b.content {
                let (a, b) = (a.name(), b.name());
                return Some(format!("link {index}: recorded to {a}, read back to {b}"));
            }
        }
    }
    None
}

/// What differs around two spans of the same content, in words.
pub(super) fn surroundings_differ(
    left: &Graph<'_>,
    recorded: &Node<'_>,
    right: &Graph<'_>,
    found: &Node<'_>,
) -> Option<String> {
    let groups: [(&str, &[usize], &[usize]); 4] = [
        ("children", &recorded.children, &found.children),
        ("children of its parent", left.siblings(recorded), right.siblings(found)),
        ("spans of its trace", &left.traces[recorded.trace], &right.traces[found.trace]),
        ("spans that link to it", &recorded.linked_by, &found.linked_by),
    ];
    let (what, a, b) =
        groups.into_iter().find(|(_, a, b)| left.contents(a) != right.contents(b))?;
    Some(match (a.len(), b.len()) {
        (a, b) if a == b => format!("the {a} {what} are not the same"),
        (a, b) => format!("{what}: recorded {a}, read back {b}"),
    })
}

impl Node<'_> {
    fn name(&self) -> String {
        format!("{:?} (start {})", self.span.name, self.span.start_unix_nano)
    }
}

/// A hash of the colours of `group` that does not depend on their order.
fn multiset(group: &[usize], colours: &[u64]) -> u64 {
    let mut members: Vec<_> = group.iter().map(|&node| colours[node]).collect();
    members.sort_unstable();
    let mut hasher = DefaultHasher::new();
    members.hash(&mut hasher);
    hasher.finish()
}

/// Groups by key, numbered in the order in which they appear.
struct Numbered<K> {
    numbers: HashMap<K, usize>,
    members: Vec<Vec<usize>>,
}

impl<K> Default for Numbered<K> {
    fn default() -> Self {
        Numbered { numbers: HashMap::new(), members: Vec::new() }
    }
}

impl<K: Eq + Hash> Numbered<K> {
    /// Adds a member to the group of `key`; returns the group's number.
    fn add(&mut self, key: K, member: usize) -> usize {
        let next = self.members.len();
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.members.push(Vec::new());
        }
        self.members[number].push(member);
        number
    }
}
