//! The encoder: drained records in, one zstd frame out.
//!
//! One pass over the records (`walk`) finds each span's shape and appends its values to columns; the
//! rest works on arrays of integers. Nothing is allocated per span: every buffer is kept and cleared.

use spanring::record::{Header, Records, flag};

use super::column::{Columns, Special};
use super::decode::SPAN_WORK_BYTES;
use super::frame::Compressor;
use super::header::{self, HeaderFields, StreamLens};
use super::order::{Successors, counter_order, start_order};
use super::parent::{Edges, Parents, is_plain_root};
use super::shape::{Owner, Shapes};
use super::stream::{Writer, class};
use super::table::{self, ShapeUse, UNITS};
use super::walk::{Extras, Walk};
use super::{
    BatchContext, BatchError, CONTENT_BYTES_MAX, DECODED_BYTES_MAX, Encoded, SPANS_MAX, TickClock,
};
use crate::model::{EventData, LinkData, ResourceData, ScopeData, SpanData};

/// Bytes that the streams may keep between batches.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Encodes batches, one at a time. Owns the compression context and all buffers.
///
/// ```
/// use spanring::id::IdKeys;
/// use spanring::record::{Header, Payload, Records};
/// use spanring_exporter::batch::{self, BatchContext, Encoder, TickClock};
/// use spanring_exporter::model::{ResourceData, ScopeData};
/// use spanring_exporter::sink::InstanceId;
///
/// struct WallClock;
/// impl TickClock for WallClock {
///     fn span_times(&self, header: &Header) -> (u64, u64) {
///         (header.start, header.end.max(header.start))
///     }
///     fn unix_nano(&self, ticks: u64) -> u64 {
///         ticks
///     }
/// }
///
/// let mut records = Records::new();
/// let header = Header { span: 1, trace_lo: 1, start: 1_000, end: 1_250, ..Header::default() };
/// let mut payload = Payload::unlimited();
/// payload.attribute_set("db.rows".into(), 17);
/// records.push_parts(header, payload);
///
/// let context = BatchContext {
///     clock: &WallClock,
///     instance: InstanceId(1),
///     sequence: 0,
///     keys: &IdKeys::random(),
///     created: 1,
///     sealed: 1,
///     dropped: &[],
///     resources: &[ResourceData::default()],
///     scopes: &[ScopeData::default()],
///     clock_epoch: 0,
///     level: batch::LEVEL_DEFAULT,
/// };
/// let encoded = Encoder::new()?.encode(&records, &context)?;
/// let decoded = batch::decode(&encoded.frame)?;
/// assert_eq!(decoded.batch.spans[0].end_unix_nano, 1_250);
/// assert_eq!(decoded.batch.spans[0].attributes, [("db.rows".to_owned(), 17.into())]);
/// # Ok::<(), batch::BatchError>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    compressor: Compressor,
    shapes: Shapes,
    columns: Columns,
    parents: Parents,
    successors: Successors,
    spans: Spans,
    extras: Extras,
    edges: Edges,
    writer: Writer,
    head: Vec<u8>,
    scratch: Vec<u8>,
    /// By number of the shape.
    shape_uses: Vec<ShapeUse>,
    scopes: Sources,
    resources: Sources,
    column_numbers: Vec<u32>,
    /// Spans in the order in which counters are stored, and in which parents are looked for.
    order: Vec<u32>,
    visit: Vec<u32>,
    sort_keys: Vec<u64>,
    /// Symbols of times that do not fit into pairs.
    escapes: Vec<u8>,
    /// What the batch takes when it is decoded, at most.
    decoded_bytes: usize,
}

/// What the walk takes from the records' headers, by span.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// Times in ns since the Unix epoch.
    pub(super) starts: Vec<u64>,
    pub(super) ends: Vec<u64>,
    /// Counters, or raw IDs.
    pub(super) ids: Vec<u64>,
    /// Numbers of the shapes.
    pub(super) shapes: Vec<u32>,
    /// Whether any span has a parent, or a trace that is not its own.
    any_origin: bool,
    /// Whether any span's ID is raw.
    any_raw: bool,
    /// Ends since the end before, and durations, in units of the shape.
    end_deltas: Vec<i64>,
    durations: Vec<u64>,
    /// The classes of both: finding them is slow on some processors.
    classes: Vec<[u8; 2]>,
}

impl Spans {
    fn clear(&mut self) {
        self.starts.clear();
        self.ends.clear();
        self.ids.clear();
        self.shapes.clear();
        self.end_deltas.clear();
        self.durations.clear();
        self.classes.clear();
        (self.any_origin, self.any_raw) = (false, false);
    }

    #[inline(always)]
    fn push(&mut self, header: &Header, start: u64, end: u64, shape: u32) {
        self.starts.push(start);
        self.ends.push(end);
        self.ids.push(header.span);
        self.shapes.push(shape);
        self.any_origin |= !is_plain_root(header);
        self.any_raw |= header.flags & flag::SPAN_RAW != 0;
    }

    fn len(&self) -> usize {
        self.ids.len()
    }

    /// Earliest start and latest end; zeros if there are no spans.
    fn bounds(&self) -> (u64, u64) {
        let start = self.starts.iter().copied().min().unwrap_or(0);
        (start, self.ends.iter().copied().max().unwrap_or(0))
    }

    /// Finds the unit of each shape's times, fills `end_deltas` and `durations`, and finds the bases
    /// from which their classes are stated.
    fn measure(&mut self, uses: &mut [ShapeUse]) {
        let (earliest, latest) = self.bounds();
        for ((&start, &end), &shape) in self.starts.iter().zip(&self.ends).zip(&self.shapes) {
            let used = &mut uses[shape as usize];
            used.count += 1;
            if used.may_be_coarse() {
                used.restrict_units(start, end, latest);
            }
        }
        let mut before = earliest;
        for ((&start, &end), &shape) in self.starts.iter().zip(&self.ends).zip(&self.shapes) {
            let used = &mut uses[shape as usize];
            let (delta, duration) = if !used.may_be_coarse() {
                (end.wrapping_sub(before) as i64, end.wrapping_sub(start))
            } else {
                // All times fit 63 bits, see `restrict_units`; so the differences are exact.
                let unit = UNITS[usize::from(used.unit_code())];
                let base = before - before % unit;
                ((end as i64 - base as i64) / unit as i64, (end - start) / unit)
            };
            before = end;
            let classes = [class(delta.unsigned_abs()), class(duration)];
            used.end_base += classes[0];
            used.duration_base += classes[1];
            self.classes.push(classes.map(|class| class as u8));
            self.end_deltas.push(delta);
            self.durations.push(duration);
        }
    }
}

/// Scopes or resources, numbered in the order of first use.
#[derive(Debug, Default)]
struct Sources {
    numbers: Vec<u32>,
    used: Vec<u32>,
    /// Numbers of the shapes of those in use.
    shapes: Vec<u32>,
}

impl Sources {
    fn reset(&mut self, len: usize) {
        self.numbers.clear();
        self.numbers.resize(len, u32::MAX);
        self.used.clear();
        self.shapes.clear();
    }

    fn add(&mut self, index: usize) {
        if self.numbers[index] == u32::MAX {
            self.numbers[index] = self.used.len() as u32;
            self.used.push(index as u32);
        }
    }
}

impl Encoder {
    /// An encoder with empty buffers.
    ///
    /// # Errors
    ///
    /// If there is no memory for a compression context.
    pub fn new() -> Result<Self, BatchError> {
        Ok(Encoder {
            compressor: Compressor::new()?,
            shapes: Shapes::new(),
            columns: Columns::new(),
            parents: Parents::default(),
            successors: Successors::default(),
            spans: Spans::default(),
            extras: Extras::default(),
            edges: Edges::default(),
            writer: Writer::default(),
            head: Vec::new(),
            scratch: Vec::new(),
            shape_uses: Vec::new(),
            scopes: Sources::default(),
            resources: Sources::default(),
            column_numbers: Vec::new(),
            order: Vec::new(),
            visit: Vec::new(),
            sort_keys: Vec::new(),
            escapes: Vec::new(),
            decoded_bytes: 0,
        })
    }

    /// Bytes that the compression context takes at present.
    pub fn compressor_bytes(&self) -> usize {
        self.compressor.context_bytes()
    }

    /// Encodes `records`, which may be none.
    ///
    /// # Errors
    ///
    /// If the batch exceeds a limit of the format ([`BatchError::is_too_large`]: encode fewer records
    /// at a time), if a record's scope is not among the context's, or if compression fails. The
    /// encoder stays usable.
    pub fn encode<C: TickClock + ?Sized>(
        &mut self,
        records: &Records,
        context: &BatchContext<'_, C>,
    ) -> Result<Encoded, BatchError> {
        if records.len() > SPANS_MAX {
            return Err(BatchError::too_large("spans", SPANS_MAX));
        }
        self.begin(context);
        self.walk(records, context.clock)?;
        if !records.is_empty() {
            self.walk_sources(context)?;
            self.resolve(records);
            self.decoded_bytes = self.write(records, context);
            if self.decoded_bytes > DECODED_BYTES_MAX {
                return Err(BatchError::too_large("bytes of decoded spans", DECODED_BYTES_MAX));
            }
        }
        self.seal(context)
    }

    fn begin<C: ?Sized>(&mut self, context: &BatchContext<'_, C>) {
        let forget = self.shapes.begin();
        self.columns.begin(self.shapes.batch(), forget);
        self.scopes.reset(context.scopes.len());
        self.resources.reset(context.resources.len());
        self.writer.clear();
        self.spans.clear();
        self.extras.clear();
        self.decoded_bytes = 0;
    }

    #[cfg(test)]
    pub(super) fn decoded_bytes(&self) -> usize {
        self.decoded_bytes
    }

    fn walk<C: TickClock + ?Sized>(
        &mut self,
        records: &Records,
        clock: &C,
    ) -> Result<(), BatchError> {
        let Encoder { shapes, columns, extras, scratch, spans, .. } = self;
        let mut walk = Walk { shapes, columns, extras, scratch, clock };
        for record in records.iter() {
            let (start, end) = clock.span_times(record.header);
            let shape = walk.span(&record, start)?;
            spans.push(record.header, start, end, shape);
        }
        Ok(())
    }

    /// Walks the scopes that the batch's spans have, and their resources.
    fn walk_sources<C: TickClock + ?Sized>(
        &mut self,
        context: &BatchContext<'_, C>,
    ) -> Result<(), BatchError> {
        let Encoder { shapes, columns, extras, scratch, scopes, resources, .. } = self;
        for shape in shapes.used().filter(|shape| shape.owner == Owner::Span) {
            let index = usize::from(shape.scope);
            let Some(scope) = context.scopes.get(index) else {
                return Err(BatchError::context("scope", index, context.scopes.len()));
            };
            if scope.resource >= context.resources.len() {
                let len = context.resources.len();
                return Err(BatchError::context("resource", scope.resource, len));
            }
            scopes.add(index);
            resources.add(scope.resource);
        }
        let mut walk = Walk { shapes, columns, extras, scratch, clock: context.clock };
        for &resource in &resources.used {
            let resource = &context.resources[resource as usize];
            let ResourceData { attributes, dropped_attributes, schema_url } = resource;
            let owner = Owner::Resource;
            let shape = walk.source(owner, schema_url, attributes, *dropped_attributes)?;
            resources.shapes.push(shape);
        }
        for &scope in &scopes.used {
            let scope = &context.scopes[scope as usize];
            let ScopeData { name, attributes, dropped_attributes, .. } = scope;
            let shape = walk.source(Owner::Scope, name, attributes, *dropped_attributes)?;
            scopes.shapes.push(shape);
        }
        Ok(())
    }

    /// Finds orders, origins, edges, units and bases.
    fn resolve(&mut self, records: &Records) {
        let Encoder { spans, order, visit, parents, .. } = self;
        start_order(&spans.starts, &spans.ends, order, &mut self.sort_keys);
        let shapes = self.shapes.used_len();
        parents.reset(spans.len());
        if spans.any_origin {
            let is_raw = |span: u32| records.get(span as usize).header.flags & flag::SPAN_RAW != 0;
            visit.clear();
            visit.extend(order.iter().copied().filter(|&span| !is_raw(span)));
            counter_order(&spans.ids, visit);
            if spans.any_raw {
                visit.extend(order.iter().copied().filter(|&span| is_raw(span)));
            }
            parents.resolve(records, visit, spans, shapes);
        }
        self.edges.fill(&mut self.successors, shapes, &spans.shapes, &parents.origins);
        self.shape_uses.clear();
        self.shape_uses.resize(shapes, ShapeUse::default());
        spans.measure(&mut self.shape_uses);
        self.extras.measure(&mut self.shape_uses);
        for &shape in self.resources.shapes.iter().chain(&self.scopes.shapes) {
            self.shape_uses[shape as usize].count += 1;
        }
        self.shape_uses.iter_mut().for_each(ShapeUse::average_bases);
    }

    /// Writes all streams; returns the bytes that the decoded batch takes, at most.
    fn write<C: ?Sized>(&mut self, records: &Records, context: &BatchContext<'_, C>) -> usize {
        let writer = &mut self.writer;
        writer.varint(self.resources.used.len() as u64);
        writer.varint(self.scopes.used.len() as u64);
        self.column_numbers.clear();
        self.column_numbers.resize(self.shapes.columns_len(), 0);
        for (number, &column) in self.columns.used().iter().enumerate() {
            self.column_numbers[column as usize] = number as u32;
        }
        let mut bytes = table::write_shapes(
            writer,
            &mut self.shapes,
            &self.shape_uses,
            self.columns.used(),
            |scope| self.scopes.numbers[usize::from(scope)],
            |column| self.column_numbers[column as usize],
        );
        let scope_data = self.scopes.used.iter().map(|&scope| {
            let scope = &context.scopes[scope as usize];
            (scope, self.resources.numbers[scope.resource])
        });
        bytes += table::write_sources(
            writer,
            &mut self.shapes,
            &self.resources.shapes,
            &self.scopes.shapes,
            scope_data,
            &self.extras.source_dropped,
        );
        table::write_edges(writer, &self.edges.pairs);
        self.write_spans(records);
        let writer = &mut self.writer;
        self.extras.write(writer, &self.shape_uses);
        for special in Special::ALL {
            bytes += self.columns.write_special(writer, special);
        }
        bytes += self.columns.write_attributes(writer, |column| self.shapes.column_kind(column));
        bytes += self.spans.len() * (size_of::<SpanData>() + SPAN_WORK_BYTES)
            + self.extras.events.len() * (size_of::<EventData>() + SPAN_WORK_BYTES)
            + self.edges.pairs.len() * table::TABLE_ENTRY_BYTES
            + self.extras.links.len() * (size_of::<LinkData>() + SPAN_WORK_BYTES);
        bytes + self.extras.composite_bytes
    }

    /// Writes what every span has.
    fn write_spans(&mut self, records: &Records) {
        let Encoder { writer, spans, shape_uses, order, .. } = self;
        self.edges.symbols.iter().for_each(|&symbol| writer.varint(u64::from(symbol)));
        self.escapes.clear();
        let times = spans.end_deltas.iter().zip(&spans.durations);
        let times = times.zip(spans.classes.iter().map(|classes| classes.map(u32::from)));
        for (((&delta, &duration), classes), &shape) in times.zip(&spans.shapes) {
            let used = &shape_uses[shape as usize];
            let end = writer.signed_number_bits(delta, classes[0], used.end_base as u8);
            let duration = writer.number_bits(duration, classes[1], used.duration_base as u8);
            writer.pair(end, duration, &mut self.escapes);
        }
        writer.symbols.extend_from_slice(&self.escapes);
        let is_raw =
            |span: usize| spans.any_raw && records.get(span).header.flags & flag::SPAN_RAW != 0;
        let mut next = 0u64;
        for &span in order.iter().filter(|&&span| !is_raw(span as usize)) {
            let counter = spans.ids[span as usize];
            if counter == next {
                writer.byte(0);
            } else {
                writer.signed_number(counter.wrapping_sub(next) as i64, 0);
            }
            next = counter.wrapping_add(1);
        }
        for span in (0..spans.len()).filter(|&span| is_raw(span)) {
            writer.ids.extend_from_slice(&spans.ids[span].to_be_bytes());
        }
        self.parents.write(writer);
    }

    fn seal<C: ?Sized>(&mut self, context: &BatchContext<'_, C>) -> Result<Encoded, BatchError> {
        let writer = &mut self.writer;
        writer.finish_bits();
        let (start_unix_nano, end_unix_nano) = self.spans.bounds();
        let spans = self.spans.len() as u32;
        let fields = HeaderFields {
            instance: context.instance,
            sequence: context.sequence,
            clock_epoch: context.clock_epoch,
            created: context.created,
            sealed: context.sealed,
            dropped: context.dropped,
            spans,
            start_unix_nano,
            end_unix_nano,
            id_seed: context.keys.seed(),
        };
        let lens = StreamLens {
            ids: writer.ids.len(),
            bits: writer.bits.len(),
            symbols: writer.symbols.len(),
        };
        self.head.clear();
        header::write(&mut self.head, &fields, lens)?;
        self.head.extend_from_slice(&writer.ids);
        self.head.extend_from_slice(&writer.bits);
        let raw_bytes = self.head.len() + writer.symbols.len() + writer.text.len();
        if raw_bytes > CONTENT_BYTES_MAX {
            return Err(BatchError::too_large("bytes of content", CONTENT_BYTES_MAX));
        }
        let pieces = [&self.head[..], &writer.symbols, &writer.text];
        let frame = self.compressor.compress(&pieces, context.level)?.into();
        for buffer in [
            &mut self.head,
            &mut writer.ids,
            &mut writer.bits,
            &mut writer.symbols,
            &mut writer.text,
        ] {
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        Ok(Encoded { frame, spans, start_unix_nano, end_unix_nano, raw_bytes })
    }
}
