//! The tables at the front of a batch, on the writing side: columns, shapes, resources, scopes, edges.

use super::column::COLUMN_VALUE_BYTES;
use super::parent::origin_symbol;
use super::shape::{Owner, Shapes};
use super::stream::Writer;
use super::value::ENTRY_BYTES;
use crate::model::ScopeData;

/// Units in which times are stored, in ns, the coarsest last: nanoseconds; .NET's ticks; what a double
/// that counts nanoseconds since 1970 can hold; microseconds; milliseconds.
pub(super) const UNITS: [u64; 5] = [1, 100, 256, 1_000, 1_000_000];
/// Bytes that an entry of any table takes when it is decoded, beside what it owns, at most.
pub(super) const TABLE_ENTRY_BYTES: usize = 256;

/// What a batch finds out about one of its shapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShapeUse {
    /// How many spans, events or others have the shape.
    pub(super) count: u32,
    /// Bit *n* is set while all times of its spans are multiples of `UNITS[n]`.
    pub(super) units: u8,
    /// Sums of classes; then the bases from which classes are stated.
    pub(super) end_base: u32,
    pub(super) duration_base: u32,
}

impl Default for ShapeUse {
    fn default() -> Self {
        let units = (1 << UNITS.len()) - 1;
        ShapeUse { count: 0, units, end_base: 0, duration_base: 0 }
    }
}

impl ShapeUse {
    /// Whether another unit than a nanosecond is left.
    #[inline(always)]
    pub(super) fn may_be_coarse(&self) -> bool {
        self.units > 1
    }

    /// Number of the coarsest unit that is left.
    pub(super) fn unit_code(&self) -> u8 {
        self.units.ilog2() as u8
    }

    /// Takes away the units of which a span's times are no multiples. Only nanoseconds are left where
    /// times are in the wrong order, or the batch's latest exceeds 63 bits.
    #[inline]
    pub(super) fn restrict_units(&mut self, start: u64, end: u64, latest: u64) {
        if start > end || latest > i64::MAX as u64 {
            self.units = 1;
        }
        for (index, unit) in UNITS.iter().enumerate().skip(1) {
            if !start.is_multiple_of(*unit) || !end.is_multiple_of(*unit) {
                self.units &= !(1 << index);
            }
        }
    }

    /// Turns the sums of classes into averages.
    pub(super) fn average_bases(&mut self) {
        let count = self.count.max(1);
        self.end_base = (self.end_base + count / 2) / count;
        self.duration_base = (self.duration_base + count / 2) / count;
    }
}

/// Numbers that mostly count up: states how far each is from the highest so far and one.
#[derive(Debug, Default)]
pub(super) struct Counting(i64);

impl Counting {
    fn write(&mut self, writer: &mut Writer, number: u32) {
        writer.signed_varint(i64::from(number) - self.0);
        self.0 = self.0.max(i64::from(number) + 1);
    }

    /// The number whose distance was read; `None` below zero.
    pub(super) fn read(&mut self, distance: i64) -> Option<usize> {
        let number = self.0.checked_add(distance)?;
        self.0 = self.0.max(number.checked_add(1)?);
        usize::try_from(number).ok()
    }
}

/// Writes the tables of columns and of shapes; `scope_number` and `column_number` give numbers in the
/// batch. Returns the bytes that the shapes' names and keys take when the batch is decoded.
pub(super) fn write_shapes(
    writer: &mut Writer,
    shapes: &mut Shapes,
    uses: &[ShapeUse],
    columns: &[u32],
    scope_number: impl Fn(u16) -> u32,
    column_number: impl Fn(u32) -> u32,
) -> usize {
    let (names, used, keys) = shapes.parts();
    writer.varint(columns.len() as u64);
    for &column in columns {
        let key = &keys[column as usize];
        writer.byte((key.owner as u8) << 3 | key.kind as u8);
    }
    columns.iter().for_each(|&column| names.write(writer, keys[column as usize].key));

    let all = || used.clone().zip(uses);
    let of = |owners: &'static [Owner]| all().filter(|(shape, _)| owners.contains(&shape.owner));
    writer.varint(uses.len() as u64);
    for (shape, _) in all() {
        let (kind, status) = (shape.kind_status & 7, shape.kind_status >> 4 & 3);
        writer.byte((shape.owner as u8) << 5 | status << 3 | kind);
    }
    all().for_each(|(shape, _)| writer.varint(u64::from(shape.extras)));
    of(&[Owner::Span, Owner::Link]).for_each(|(shape, _)| writer.byte(shape.trace_flags));
    write_bases(writer, of(&[Owner::Span, Owner::Event]).map(|(_, used)| used.end_base));
    write_bases(writer, of(&[Owner::Span]).map(|(_, used)| used.duration_base));
    of(&[Owner::Span]).for_each(|(_, used)| writer.byte(used.unit_code()));
    let mut before = 0;
    for (shape, _) in of(&[Owner::Span]) {
        let scope = i64::from(scope_number(shape.scope));
        writer.signed_varint(scope - before);
        before = scope;
    }
    all().for_each(|(shape, _)| writer.varint(shape.columns.len() as u64));
    let mut next = 0;
    for &column in all().flat_map(|(shape, _)| shape.columns.iter()) {
        let number = i64::from(column_number(column));
        writer.signed_varint(number - next);
        next = number + 1;
    }
    let mut bytes = (columns.len() + uses.len()) * TABLE_ENTRY_BYTES;
    for (shape, used) in all() {
        names.write(writer, shape.name);
        let attribute = |column: &u32| {
            names.text(keys[*column as usize].key).len() + ENTRY_BYTES + COLUMN_VALUE_BYTES
        };
        let each =
            names.text(shape.name).len() + shape.columns.iter().map(attribute).sum::<usize>();
        bytes += 8 * shape.columns.len() + each * (used.count as usize + 2);
    }
    bytes
}

/// Writes bases of classes: their average, and how far each is from it.
fn write_bases(writer: &mut Writer, bases: impl Iterator<Item = u32> + Clone) {
    let (sum, count) = bases.clone().fold((0, 0), |(sum, count), base| (sum + base, count + 1));
    let average = (sum + count / 2) / count.max(1);
    writer.byte(average as u8);
    bases.for_each(|base| writer.signed_varint(i64::from(base) - i64::from(average)));
}

/// Writes the tables of resources and of scopes, given the numbers of their shapes, the scopes
/// themselves, the numbers of their resources, and what attributes were dropped. Nothing else that has
/// names is written afterwards. Returns the bytes that they, and names, take when they are decoded.
pub(super) fn write_sources<'a>(
    writer: &mut Writer,
    shapes: &mut Shapes,
    resources: &[u32],
    scopes: &[u32],
    scope_data: impl Iterator<Item = (&'a ScopeData, u32)> + Clone,
    dropped: &[u32],
) -> usize {
    let names = shapes.parts().0;
    let mut bytes = (resources.len() + scopes.len()) * TABLE_ENTRY_BYTES;
    let mut next = Counting::default();
    resources.iter().chain(scopes).for_each(|&shape| next.write(writer, shape));
    scope_data.clone().for_each(|(_, resource)| writer.varint(u64::from(resource)));
    for (scope, _) in scope_data {
        for text in [&scope.version, &scope.schema_url] {
            names.write_text(writer, text);
            bytes += text.len();
        }
    }
    dropped.iter().for_each(|&count| writer.varint(u64::from(count)));
    bytes + names.written_len() * TABLE_ENTRY_BYTES
}

/// Writes the table of edges: pairs of shape and origin. Shapes are numbered by first use, so most
/// edges have the shape after the highest so far.
pub(super) fn write_edges(writer: &mut Writer, edges: &[(u32, u32)]) {
    writer.varint(edges.len() as u64);
    let mut next = Counting::default();
    edges.iter().for_each(|&(shape, _)| next.write(writer, shape));
    for &(shape, origin) in edges {
        writer.varint(origin_symbol(shape, origin));
    }
}
