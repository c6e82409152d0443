//! Parents on the writing side: how each span names its parent and its trace in the fewest bits.
//!
//! A span's *origin* is one of: a root of its own trace; a child of a span of a given shape in the
//! same batch, to be found by its position among the open ones; or a *ghost*, an entry of a table that
//! spells out parent and trace for spans whose parent is not in the batch, or is not found there.
//! Shape and origin together are an *edge*.

use rustc_hash::FxHashMap;
use spanring::record::{Header, Records, flag};

use super::encode::Spans;
use super::order::{OpenSpans, Successors};
use super::stream::{Writer, unzigzag, zigzag};

/// The origin of a root of its own trace.
pub(super) const ORIGIN_ROOT: u32 = 0;
/// The origin of a span that refers to a ghost.
pub(super) const ORIGIN_GHOST: u32 = 1;
/// The origin of a span whose parent has shape 0; the other shapes follow.
pub(super) const ORIGIN_SHAPE: u32 = 2;

/// How the table of edges states an origin. Shapes are numbered in the order in which spans end, so a
/// parent's is likely to follow its child's.
pub(super) fn origin_symbol(shape: u32, origin: u32) -> u64 {
    match origin {
        ORIGIN_ROOT | ORIGIN_GHOST => u64::from(origin),
        parent => 2 + zigzag(i64::from(parent - ORIGIN_SHAPE) - i64::from(shape) - 1),
    }
}

/// The inverse of [`origin_symbol`]; `None` for what no shape can be.
pub(super) fn origin_of(shape: u32, symbol: u64) -> Option<u32> {
    if symbol < 2 {
        return Some(symbol as u32);
    }
    let parent = unzigzag(symbol - 2).checked_add(i64::from(shape) + 1)?;
    u32::try_from(parent).ok()?.checked_add(ORIGIN_SHAPE)
}

/// Bits that say what a ghost is.
pub(super) mod ghost {
    pub(in crate::batch) const HAS_PARENT: u8 = 1;
    pub(in crate::batch) const PARENT_RAW: u8 = 1 << 1;
    pub(in crate::batch) const REMOTE: u8 = 1 << 2;
    pub(in crate::batch) const TRACE_RAW: u8 = 1 << 3;
    const ALL: u8 = (1 << 4) - 1;

    /// Whether a ghost can have these bits: without a parent, nothing can be said of it.
    pub(in crate::batch) fn is_possible(bits: u8) -> bool {
        let has_parent = bits & HAS_PARENT != 0;
        bits & !ALL == 0 && (has_parent || bits & (PARENT_RAW | REMOTE) == 0)
    }
}

/// A parent and trace that are spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ghost {
    bits: u8,
    parent: u64,
    trace_lo: u64,
    trace_hi: u64,
}

impl Ghost {
    fn of(header: &Header) -> Self {
        let mut bits = 0;
        for (is_set, bit) in [
            (has_parent(header), ghost::HAS_PARENT),
            (header.flags & flag::PARENT_RAW != 0, ghost::PARENT_RAW),
            (has_parent(header) && header.flags & flag::PARENT_REMOTE != 0, ghost::REMOTE),
            (header.flags & flag::TRACE_RAW != 0, ghost::TRACE_RAW),
        ] {
            if is_set {
                bits |= bit;
            }
        }
        let trace_hi = if header.flags & flag::TRACE_RAW == 0 { 0 } else { header.trace_hi };
        Ghost { bits, parent: header.parent, trace_lo: header.trace_lo, trace_hi }
    }
}

fn has_parent(header: &Header) -> bool {
    header.parent != 0 || header.flags & flag::PARENT_RAW != 0
}

/// Whether a span is a root whose trace's counter is its own: the commonest case, told apart early.
#[inline(always)]
pub(super) fn is_plain_root(header: &Header) -> bool {
    const RAW: u16 = flag::TRACE_RAW | flag::SPAN_RAW | flag::PARENT_RAW | flag::PARENT_REMOTE;
    header.parent == 0 && header.flags & RAW == 0 && header.trace_lo == header.span
}

/// Finds and writes the origins of a batch's spans.
#[derive(Debug, Default)]
pub(super) struct Parents {
    open: OpenSpans,
    /// Spans by their counter or raw ID.
    spans: FxHashMap<(u64, bool), u32>,
    /// By span.
    pub(super) origins: Vec<u32>,
    /// Positions among open spans, in the order in which spans were visited.
    ranks: Vec<u8>,
    /// References to ghosts, likewise: 0 for the next new one, else its number from 1.
    references: Vec<u32>,
    numbers: FxHashMap<Ghost, u32>,
    /// Ghosts with the counter of the first span that refers to each (0 if its ID is raw).
    ghosts: Vec<(Ghost, u64)>,
}

impl Parents {
    /// Makes all spans plain roots.
    pub(super) fn reset(&mut self, spans: usize) {
        self.origins.clear();
        self.origins.resize(spans, ORIGIN_ROOT);
        self.ranks.clear();
        self.references.clear();
        self.ghosts.clear();
    }

    /// Finds the origins of all spans, visited in `order`.
    pub(super) fn resolve(
        &mut self,
        records: &Records,
        order: &[u32],
        batch: &Spans,
        shapes: usize,
    ) {
        self.open.reset(shapes, order.len());
        self.spans.clear();
        self.numbers.clear();
        self.spans.reserve(order.len());
        for &span in order {
            let index = span as usize;
            let header = records.get(index).header;
            if !is_plain_root(header) {
                self.origins[index] = match self.parent(records, header, index, batch) {
                    Some(origin) => origin,
                    None => self.ghost(header),
                };
            }
            self.spans.insert((header.span, header.flags & flag::SPAN_RAW != 0), span);
            self.open.add(batch.shapes[index], span);
        }
    }

    /// The origin of a span whose parent is in the batch and can be found there again.
    #[inline]
    fn parent(
        &mut self,
        records: &Records,
        header: &Header,
        span: usize,
        batch: &Spans,
    ) -> Option<u32> {
        if !has_parent(header) || header.flags & flag::PARENT_REMOTE != 0 {
            return None;
        }
        let parent = *self.spans.get(&(header.parent, header.flags & flag::PARENT_RAW != 0))?;
        let other = records.get(parent as usize).header;
        let same_trace = header.trace_lo == other.trace_lo
            && (header.flags ^ other.flags) & flag::TRACE_RAW == 0
            && (header.flags & flag::TRACE_RAW == 0 || header.trace_hi == other.trace_hi);
        if !same_trace {
            return None;
        }
        let (shape, start) = (batch.shapes[parent as usize], batch.starts[span]);
        let rank = self.open.rank(shape, start, &batch.ends, parent)?;
        let found = self.open.take(shape, start, &batch.ends, rank);
        debug_assert_eq!(found, Some(parent));
        self.ranks.push(rank);
        Some(ORIGIN_SHAPE + shape)
    }

    fn ghost(&mut self, header: &Header) -> u32 {
        let ghost = Ghost::of(header);
        let next = self.ghosts.len() as u32;
        let number = *self.numbers.entry(ghost).or_insert(next);
        if number == next {
            let counter = if header.flags & flag::SPAN_RAW == 0 { header.span } else { 0 };
            self.ghosts.push((ghost, counter));
            self.references.push(0);
        } else {
            self.references.push(number + 1);
        }
        ORIGIN_GHOST
    }

    /// Writes what the origins refer to: positions, references, ghosts.
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.symbols.extend_from_slice(&self.ranks);
        self.references.iter().for_each(|&reference| writer.varint(u64::from(reference)));
        self.ghosts.iter().for_each(|(ghost, _)| writer.byte(ghost.bits));
        for (ghost, child) in &self.ghosts {
            if ghost.bits & ghost::HAS_PARENT == 0 {
                continue;
            }
            if ghost.bits & ghost::PARENT_RAW != 0 {
                writer.ids.extend_from_slice(&ghost.parent.to_be_bytes());
            } else {
                writer.signed_number(child.wrapping_sub(ghost.parent) as i64, 0);
            }
        }
        for (ghost, child) in &self.ghosts {
            if ghost.bits & ghost::TRACE_RAW != 0 {
                writer.ids.extend_from_slice(&ghost.trace_hi.to_be_bytes());
                writer.ids.extend_from_slice(&ghost.trace_lo.to_be_bytes());
                continue;
            }
            let counted = ghost.bits & (ghost::HAS_PARENT | ghost::PARENT_RAW) == ghost::HAS_PARENT;
            let near = if counted { ghost.parent } else { *child };
            writer.signed_number(near.wrapping_sub(ghost.trace_lo) as i64, 0);
        }
    }
}

/// Pairs of shape and origin, numbered by first use.
#[derive(Debug, Default)]
pub(super) struct Edges {
    pub(super) pairs: Vec<(u32, u32)>,
    numbers: FxHashMap<(u32, u32), u32>,
    /// By shape: the origin seen last, and its edge.
    last: Vec<(u32, u32)>,
    /// By span: what the successors made of its edge.
    pub(super) symbols: Vec<u32>,
}

impl Edges {
    /// Fills the pairs and symbols of spans with the given shapes and origins.
    pub(super) fn fill(
        &mut self,
        successors: &mut Successors,
        shapes: usize,
        spans: &[u32],
        origins: &[u32],
    ) {
        self.pairs.clear();
        self.numbers.clear();
        self.last.clear();
        self.last.resize(shapes, (u32::MAX, 0));
        self.symbols.clear();
        successors.reset(spans.len());
        for (&shape, &origin) in spans.iter().zip(origins) {
            let seen = self.pairs.len() as u32;
            let last = &mut self.last[shape as usize];
            if last.0 != origin {
                let edge = *self.numbers.entry((shape, origin)).or_insert(seen);
                if edge == seen {
                    self.pairs.push((shape, origin));
                }
                *last = (origin, edge);
            }
            self.symbols.push(successors.encode(last.1, seen));
        }
    }
}
