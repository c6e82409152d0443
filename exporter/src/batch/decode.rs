//! The decoder: one zstd frame in, plain data out.
//!
//! It trusts nothing: every length is checked against what is left of the frame, and everything that
//! it builds is counted against [`DECODED_BYTES_MAX`](super::DECODED_BYTES_MAX) before it is built.

use spanring::id::IdKeys;
use spanring::{SpanId, TraceId};

use super::assemble::{assemble_sources, assemble_spans};
use super::column::Special;
use super::frame::decompress;
use super::order::{OpenSpans, Successors, counter_order, start_order};
use super::parent::{ORIGIN_GHOST, ORIGIN_ROOT, ORIGIN_SHAPE, ghost};
use super::read_column::ReadColumn;
use super::read_table::Tables;
use super::shape::{Owner, extra};
use super::stream::Reader;
use super::value::{Budget, ENTRY_BYTES, Type};
use super::{BatchError, BatchHeader, DecodedBatch, header};
use crate::model::{EventData, LinkData, SpanBatch, SpanData};

/// Bytes that a span takes while it is decoded, beside the span itself.
pub(super) const SPAN_WORK_BYTES: usize = 128;

/// Decodes a frame.
///
/// # Errors
///
/// If `frame` is not exactly one whole, undamaged batch of a version that this reader knows, or if it
/// would take more memory than [`DECODED_BYTES_MAX`](super::DECODED_BYTES_MAX).
pub fn decode(frame: &[u8]) -> Result<DecodedBatch, BatchError> {
    decode_content(&decompress(frame)?)
}

/// Decodes a frame's header only, but checks the whole frame's checksum.
///
/// # Errors
///
/// If `frame` is not exactly one whole, undamaged frame, or if its header is malformed or of an
/// unknown version.
pub fn decode_header(frame: &[u8]) -> Result<BatchHeader, BatchError> {
    Ok(header::read(&decompress(frame)?)?.0)
}

/// Decodes a frame's content, for tests and fuzzing beyond the checksum.
///
/// # Errors
///
/// As [`decode`].
#[doc(hidden)]
pub fn decode_content(content: &[u8]) -> Result<DecodedBatch, BatchError> {
    decode_within(content, &mut Budget::new())
}

pub(super) fn decode_within(
    content: &[u8],
    budget: &mut Budget,
) -> Result<DecodedBatch, BatchError> {
    let (header, [ids, bits, symbols, text]) = header::read(content)?;
    let mut reader = Reader::new(ids, bits, symbols, text);
    let batch = match header.spans {
        0 => SpanBatch::default(),
        _ => read_batch(&mut reader, &header, budget)?,
    };
    reader.finish()?;
    Ok(DecodedBatch { header, batch })
}

/// Columns that every span has, by span.
#[derive(Debug, Default)]
pub(super) struct Spans {
    pub(super) shapes: Vec<u32>,
    pub(super) origins: Vec<u32>,
    pub(super) starts: Vec<u64>,
    pub(super) ends: Vec<u64>,
    /// Counters, or raw IDs.
    pub(super) ids: Vec<u64>,
    /// The parent in the batch, if it was found there.
    pub(super) parents: Vec<Option<u32>>,
    /// The ghost, where the origin is one.
    pub(super) ghosts: Vec<u32>,
    pub(super) trace_ids: Vec<TraceId>,
    pub(super) span_ids: Vec<SpanId>,
}

/// An entry of the table of ghosts, resolved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ghost {
    pub(super) parent: Option<SpanId>,
    pub(super) remote: bool,
    pub(super) trace: TraceId,
}

fn read_batch(
    reader: &mut Reader<'_>,
    header: &BatchHeader,
    budget: &mut Budget,
) -> Result<SpanBatch, BatchError> {
    let tables = Tables::read(reader, budget)?;
    let len = header.spans as usize;
    reader.part = "column of edges";
    if len > reader.symbols_left() {
        return Err(reader.error("there are fewer symbols than spans"));
    }
    budget.take(len as u64, size_of::<SpanData>() + SPAN_WORK_BYTES)?;
    let keys = IdKeys::from_seed(header.id_seed);
    let mut spans = Spans::default();
    read_edges(reader, &tables, len, &mut spans)?;
    read_times(reader, &tables, header.start_unix_nano, &mut spans)?;
    let ghosts = read_ids(reader, &tables, &keys, &mut spans)?;
    let extras = Extras::read(reader, budget, &tables, &keys, &spans)?;
    let mut columns = read_columns(reader, budget, &tables, &spans, &extras)?;
    let (resources, scopes) = assemble_sources(budget, &tables, &mut columns.attributes)?;
    let spans = assemble_spans(budget, &tables, &spans, &ghosts, extras, &mut columns)?;
    Ok(SpanBatch { resources, scopes, spans })
}

fn read_edges(
    reader: &mut Reader<'_>,
    tables: &Tables,
    len: usize,
    spans: &mut Spans,
) -> Result<(), BatchError> {
    let mut successors = Successors::default();
    successors.reset(tables.edges.len());
    let mut seen = 0;
    for _ in 0..len {
        let symbol = reader.varint_u32()?;
        let Some(edge) = successors.decode(symbol, seen) else {
            return Err(reader.error("a symbol stands for no edge"));
        };
        seen = seen.max(edge + 1);
        let (shape, origin) = tables.edges[edge as usize];
        spans.shapes.push(shape);
        spans.origins.push(origin);
    }
    Ok(())
}

fn read_times(
    reader: &mut Reader<'_>,
    tables: &Tables,
    earliest: u64,
    spans: &mut Spans,
) -> Result<(), BatchError> {
    reader.part = "column of times";
    let mut before = earliest;
    let pairs = reader.bytes(spans.shapes.len())?;
    for (&shape, &pair) in spans.shapes.iter().zip(pairs) {
        let shape = &tables.shapes[shape as usize];
        let (end, duration) = reader.pair(pair)?;
        let delta = reader.signed_number_of(end, shape.end_base)? as u64;
        let duration = reader.number_of(duration, shape.duration_base)?;
        let base = before - before % shape.unit;
        let end = base.wrapping_add(delta.wrapping_mul(shape.unit));
        spans.ends.push(end);
        spans.starts.push(end.wrapping_sub(duration.wrapping_mul(shape.unit)));
        before = end;
    }
    Ok(())
}

/// Reads counters, raw IDs, parents and ghosts; makes all IDs.
fn read_ids(
    reader: &mut Reader<'_>,
    tables: &Tables,
    keys: &IdKeys,
    spans: &mut Spans,
) -> Result<Vec<Ghost>, BatchError> {
    let len = spans.shapes.len();
    let raw: Vec<bool> = spans
        .shapes
        .iter()
        .map(|&shape| tables.shapes[shape as usize].has(extra::SPAN_RAW))
        .collect();
    let is_raw = |span: u32| raw[span as usize];
    let mut order = Vec::with_capacity(len);
    start_order(&spans.starts, &spans.ends, &mut order, &mut Vec::new());
    reader.part = "column of counters";
    spans.ids.resize(len, 0);
    let mut next = 0u64;
    for &span in order.iter().filter(|&&span| !is_raw(span)) {
        let counter = next.wrapping_add(reader.signed_number(0)? as u64);
        spans.ids[span as usize] = counter;
        next = counter.wrapping_add(1);
    }
    for (id, _) in spans.ids.iter_mut().zip(&raw).filter(|(_, raw)| **raw) {
        *id = u64::from_be_bytes(reader.id()?);
    }
    let ids = spans.ids.iter().zip(&raw);
    spans.span_ids =
        ids.map(|(&id, &raw)| if raw { SpanId(id) } else { keys.span_id(id) }).collect();

    let mut visit: Vec<u32> = order.iter().copied().filter(|&span| !is_raw(span)).collect();
    counter_order(&spans.ids, &mut visit);
    visit.extend(order.iter().copied().filter(|&span| is_raw(span)));
    read_parents(reader, tables, &visit, spans)?;
    let ghosts = read_ghosts(reader, keys, &visit, &raw, spans)?;

    spans.trace_ids.resize(len, TraceId(0));
    for &span in &visit {
        let index = span as usize;
        spans.trace_ids[index] = match (spans.origins[index], spans.parents[index]) {
            (ORIGIN_ROOT, _) if raw[index] => {
                return Err(reader.error("a span with a raw ID is a root of a derived trace"));
            }
            (ORIGIN_ROOT, _) => keys.trace_id(spans.ids[index]),
            (_, Some(parent)) => spans.trace_ids[parent as usize],
            (_, None) => ghosts[spans.ghosts[index] as usize].trace,
        };
    }
    Ok(ghosts)
}

fn read_parents(
    reader: &mut Reader<'_>,
    tables: &Tables,
    visit: &[u32],
    spans: &mut Spans,
) -> Result<(), BatchError> {
    reader.part = "column of parents";
    spans.parents.resize(visit.len(), None);
    let mut open = OpenSpans::default();
    open.reset(tables.shapes.len(), visit.len());
    for &span in visit {
        let index = span as usize;
        if spans.origins[index] >= ORIGIN_SHAPE {
            let rank = reader.byte()?;
            let shape = spans.origins[index] - ORIGIN_SHAPE;
            let parent = open.take(shape, spans.starts[index], &spans.ends, rank);
            if parent.is_none() {
                return Err(reader.error("a parent is not among the open spans"));
            }
            spans.parents[index] = parent;
        }
        open.add(spans.shapes[index], span);
    }
    Ok(())
}

fn read_ghosts(
    reader: &mut Reader<'_>,
    keys: &IdKeys,
    visit: &[u32],
    raw: &[bool],
    spans: &mut Spans,
) -> Result<Vec<Ghost>, BatchError> {
    reader.part = "table of ghosts";
    spans.ghosts.resize(visit.len(), 0);
    // The counter of the first span that refers to each ghost.
    let mut children = Vec::new();
    for &span in visit {
        let index = span as usize;
        if spans.origins[index] != ORIGIN_GHOST {
            continue;
        }
        spans.ghosts[index] = match reader.index(children.len() + 1)? {
            0 => {
                children.push(if raw[index] { 0 } else { spans.ids[index] });
                children.len() as u32 - 1
            }
            number => number as u32 - 1,
        };
    }
    let bits = reader.bytes(children.len())?;
    if !bits.iter().all(|&bits| ghost::is_possible(bits)) {
        return Err(reader.error("a ghost has bits that are unknown or need a parent"));
    }
    let mut parents = Vec::with_capacity(children.len());
    for (&bits, &child) in bits.iter().zip(&children) {
        parents.push(if bits & ghost::HAS_PARENT == 0 {
            (None, child)
        } else if bits & ghost::PARENT_RAW != 0 {
            (Some(SpanId(u64::from_be_bytes(reader.id()?))), child)
        } else {
            let counter = child.wrapping_sub(reader.signed_number(0)? as u64);
            (Some(keys.span_id(counter)), counter)
        });
    }
    let mut ghosts = Vec::with_capacity(children.len());
    for (&bits, (parent, near)) in bits.iter().zip(parents) {
        let trace = if bits & ghost::TRACE_RAW != 0 {
            TraceId(u128::from_be_bytes(reader.id()?))
        } else {
            keys.trace_id(near.wrapping_sub(reader.signed_number(0)? as u64))
        };
        ghosts.push(Ghost { parent, remote: bits & ghost::REMOTE != 0, trace });
    }
    Ok(ghosts)
}

/// What few spans have.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// Three for each span that dropped anything.
    pub(super) span_dropped: Vec<u32>,
    pub(super) event_counts: Vec<u32>,
    /// Shape, and time since the span's start or the event before.
    pub(super) events: Vec<(u32, i64)>,
    pub(super) event_dropped: Vec<u32>,
    pub(super) link_counts: Vec<u32>,
    pub(super) links: Vec<(u32, TraceId, SpanId)>,
    pub(super) link_dropped: Vec<u32>,
}

impl Extras {
    fn read(
        reader: &mut Reader<'_>,
        budget: &mut Budget,
        tables: &Tables,
        keys: &IdKeys,
        spans: &Spans,
    ) -> Result<Self, BatchError> {
        let mut extras = Extras::default();
        let with = |bit: u32| {
            let shapes = spans.shapes.iter().enumerate();
            shapes.filter(move |(_, shape)| tables.shapes[**shape as usize].has(bit))
        };
        reader.part = "counts of what spans dropped";
        for _ in with(extra::DROPPED) {
            for _ in 0..3 {
                extras.span_dropped.push(reader.varint_u32()?);
            }
        }
        reader.part = "events";
        for _ in with(extra::EVENTS) {
            extras.event_counts.push(count(reader)?);
        }
        let total = extras.event_counts.iter().map(|&count| u64::from(count)).sum();
        let shapes =
            read_owned_shapes(reader, budget, tables, Owner::Event, total, size_of::<EventData>())?;
        for shape in shapes {
            let time = reader.signed_number(tables.shapes[shape as usize].end_base)?;
            extras.events.push((shape, time));
        }
        let dropped = |shape: u32| tables.shapes[shape as usize].has(extra::DROPPED);
        for _ in extras.events.iter().filter(|(shape, _)| dropped(*shape)) {
            extras.event_dropped.push(reader.varint_u32()?);
        }
        reader.part = "links";
        let mut from = Vec::new();
        for (span, &shape) in with(extra::LINKS) {
            let count = count(reader)?;
            extras.link_counts.push(count);
            let is_raw = tables.shapes[shape as usize].has(extra::SPAN_RAW);
            from.push((count, if is_raw { 0 } else { spans.ids[span] }));
        }
        let total = extras.link_counts.iter().map(|&count| u64::from(count)).sum();
        let shapes =
            read_owned_shapes(reader, budget, tables, Owner::Link, total, size_of::<LinkData>())?;
        let from = from.iter().flat_map(|&(count, from)| (0..count).map(move |_| from));
        for (shape, from) in shapes.into_iter().zip(from) {
            let bits = tables.shapes[shape as usize].extras;
            let (span_id, near) = if bits & extra::SPAN_RAW != 0 {
                (SpanId(u64::from_be_bytes(reader.id()?)), from)
            } else {
                let counter = from.wrapping_sub(reader.signed_number(0)? as u64);
                (keys.span_id(counter), counter)
            };
            let trace_id = if bits & extra::TRACE_RAW != 0 {
                TraceId(u128::from_be_bytes(reader.id()?))
            } else {
                keys.trace_id(near.wrapping_sub(reader.signed_number(0)? as u64))
            };
            extras.links.push((shape, trace_id, span_id));
        }
        for _ in extras.links.iter().filter(|(shape, ..)| dropped(*shape)) {
            extras.link_dropped.push(reader.varint_u32()?);
        }
        Ok(extras)
    }
}

/// How many events or links a span has: at least one.
fn count(reader: &mut Reader<'_>) -> Result<u32, BatchError> {
    match reader.varint_u32()? {
        0 => Err(reader.error("a span that should have some has none")),
        count => Ok(count),
    }
}

fn read_owned_shapes(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    tables: &Tables,
    owner: Owner,
    total: u64,
    bytes_each: usize,
) -> Result<Vec<u32>, BatchError> {
    // Each takes at least one symbol.
    if total > reader.symbols_left() as u64 {
        return Err(reader.error("a count exceeds what is left of the batch"));
    }
    budget.take(total, bytes_each + SPAN_WORK_BYTES)?;
    let mut shapes = Vec::with_capacity(total as usize);
    for _ in 0..total {
        let shape = reader.index(tables.shapes.len())?;
        if tables.shapes[shape].owner != owner {
            return Err(reader.error("a shape belongs to something else"));
        }
        shapes.push(shape as u32);
    }
    Ok(shapes)
}

/// Special columns, by [`Special`], and attribute columns.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) special: [ReadColumn; Special::ALL.len()],
    pub(super) attributes: Vec<ReadColumn>,
}

fn read_columns(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    tables: &Tables,
    spans: &Spans,
    extras: &Extras,
) -> Result<Columns, BatchError> {
    let mut uses = vec![0u64; tables.shapes.len()];
    let events = extras.events.iter().map(|(shape, _)| shape);
    let links = extras.links.iter().map(|(shape, ..)| shape);
    spans.shapes.iter().chain(events).chain(links).for_each(|&shape| uses[shape as usize] += 1);
    let scopes = tables.scopes.iter().map(|scope| &scope.shape);
    tables.resources.iter().chain(scopes).for_each(|&shape| uses[shape] += 1);
    let used = |owner: Owner, bit: u32| {
        let shapes = tables.shapes.iter().zip(&uses);
        let count: u64 = shapes
            .filter(|(shape, _)| shape.owner == owner && shape.has(bit))
            .map(|(_, uses)| uses)
            .sum();
        count as usize
    };
    reader.part = "column of status messages";
    let status = used(Owner::Span, extra::STATUS_MESSAGE);
    let status = ReadColumn::read(reader, budget, Type::Str, status)?;
    reader.part = "column of tracestates";
    let state = used(Owner::Span, extra::TRACE_STATE);
    let state = ReadColumn::read(reader, budget, Type::Str, state)?;
    let link_state = used(Owner::Link, extra::TRACE_STATE);
    let link_state = ReadColumn::read(reader, budget, Type::Str, link_state)?;

    reader.part = "attribute columns";
    let mut counts = vec![0u64; tables.columns.len()];
    for (shape, uses) in tables.shapes.iter().zip(&uses) {
        budget.take(shape.columns.len() as u64 * uses, ENTRY_BYTES)?;
        shape.columns.iter().for_each(|&column| counts[column as usize] += uses);
    }
    let columns = tables.columns.iter().zip(&counts);
    let attributes = columns
        .map(|(column, &count)| ReadColumn::read(reader, budget, column.kind, count as usize))
        .collect::<Result<_, _>>()?;
    Ok(Columns { special: [status, state, link_state], attributes })
}
