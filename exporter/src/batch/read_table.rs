//! The tables at the front of a batch, on the reading side.

use spanring::{SpanKind, StatusCode};

use super::BatchError;
use super::parent::{ORIGIN_SHAPE, origin_of};
use super::shape::{FIRST_NAME, NAME_SPELLED, NAME_WELL_KNOWN, Owner, extra};
use super::stream::Reader;
use super::table::{Counting, TABLE_ENTRY_BYTES, UNITS};
use super::value::{Budget, Type};
use super::well_known::WELL_KNOWN;

/// A shape as read.
#[derive(Debug)]
pub(super) struct ShapeEntry {
    pub(super) owner: Owner,
    /// Index of the name.
    pub(super) name: usize,
    pub(super) kind: SpanKind,
    pub(super) status: StatusCode,
    pub(super) trace_flags: u8,
    pub(super) extras: u32,
    pub(super) scope: usize,
    pub(super) unit: u64,
    pub(super) end_base: u8,
    pub(super) duration_base: u8,
    pub(super) columns: Vec<u32>,
}

impl ShapeEntry {
    /// Whether the extra `bit` is set.
    pub(super) fn has(&self, bit: u32) -> bool {
        self.extras & bit != 0
    }
}

/// An attribute column as read.
#[derive(Debug)]
pub(super) struct ColumnEntry {
    pub(super) owner: Owner,
    pub(super) kind: Type,
    /// Index of the key among the names.
    pub(super) key: usize,
}

/// A scope as read, without its attributes.
#[derive(Debug)]
pub(super) struct ScopeEntry {
    pub(super) shape: usize,
    pub(super) resource: usize,
    /// Indices among the names.
    pub(super) version: usize,
    pub(super) schema_url: usize,
}

/// All tables as read.
#[derive(Debug)]
pub(super) struct Tables {
    names: Vec<String>,
    pub(super) columns: Vec<ColumnEntry>,
    pub(super) shapes: Vec<ShapeEntry>,
    /// Shapes of the resources.
    pub(super) resources: Vec<usize>,
    pub(super) scopes: Vec<ScopeEntry>,
    /// Attributes that resources and then scopes dropped, of those that dropped any.
    pub(super) source_dropped: Vec<u32>,
    /// Shape and origin.
    pub(super) edges: Vec<(u32, u32)>,
}

impl Tables {
    /// A name, key or other string of the tables.
    pub(super) fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    pub(super) fn read(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Self, BatchError> {
        let mut names = ReadNames::default();
        reader.part = "counts of resources and scopes";
        let (resources, scopes) = (reader.count()?, reader.count()?);
        budget.take((resources + scopes) as u64, TABLE_ENTRY_BYTES)?;
        reader.part = "table of columns";
        let columns = read_columns(reader, &mut names, budget)?;
        reader.part = "table of shapes";
        let shapes = read_shapes(reader, &mut names, budget, scopes, &columns)?;
        reader.part = "tables of resources and scopes";
        let mut next = Counting::default();
        let resources = read_owned(reader, &mut next, &shapes, Owner::Resource, resources)?;
        let scope_shapes = read_owned(reader, &mut next, &shapes, Owner::Scope, scopes)?;
        let mut scopes = Vec::with_capacity(scope_shapes.len());
        for &shape in &scope_shapes {
            let resource = reader.index(resources.len())?;
            scopes.push(ScopeEntry { shape, resource, version: 0, schema_url: 0 });
        }
        for scope in &mut scopes {
            scope.version = names.read(reader, budget)?;
            scope.schema_url = names.read(reader, budget)?;
        }
        let mut source_dropped = Vec::new();
        for &shape in resources.iter().chain(&scope_shapes) {
            if shapes[shape].has(extra::DROPPED) {
                source_dropped.push(reader.varint_u32()?);
            }
        }
        reader.part = "table of edges";
        let edges = read_edges(reader, budget, &shapes)?;
        Ok(Tables { names: names.names, columns, shapes, resources, scopes, source_dropped, edges })
    }
}

/// The shapes, which belong to `owner`, of `count` things.
fn read_owned(
    reader: &mut Reader<'_>,
    next: &mut Counting,
    shapes: &[ShapeEntry],
    owner: Owner,
    count: usize,
) -> Result<Vec<usize>, BatchError> {
    let mut owned = Vec::with_capacity(count);
    for _ in 0..count {
        let shape = next.read(reader.signed_varint()?);
        match shape.filter(|&shape| shapes.get(shape).is_some_and(|shape| shape.owner == owner)) {
            Some(shape) => owned.push(shape),
            None => return Err(reader.error("there is no such shape")),
        }
    }
    Ok(owned)
}

/// Names that were read so far, and which of them was spelled out last.
#[derive(Debug, Default)]
struct ReadNames {
    names: Vec<String>,
    spelled: Option<usize>,
}

impl ReadNames {
    /// Reads a reference to a name, and the name where it is new; returns its index.
    fn read(&mut self, reader: &mut Reader<'_>, budget: &mut Budget) -> Result<usize, BatchError> {
        let index = self.names.len();
        let name = match reader.varint()? {
            NAME_SPELLED => {
                let shared = reader.varint()?;
                let before = self.spelled.map_or("", |index| &self.names[index]).as_bytes();
                let Some(prefix) = usize::try_from(shared).ok().and_then(|len| before.get(..len))
                else {
                    return Err(reader.error("a name shares more than the one before it has"));
                };
                let rest = reader.string()?;
                budget.take(1, prefix.len() + rest.len())?;
                self.spelled = Some(index);
                reader.utf8([prefix, rest].concat())?
            }
            NAME_WELL_KNOWN => match WELL_KNOWN.get(usize::from(reader.byte()?)) {
                Some(name) => (*name).to_owned(),
                None => return Err(reader.error("a name is not among the well-known ones")),
            },
            number if number - FIRST_NAME < index as u64 => {
                return Ok((number - FIRST_NAME) as usize);
            }
            _ => return Err(reader.error("a reference to a name is out of range")),
        };
        budget.take(1, TABLE_ENTRY_BYTES)?;
        self.names.push(name);
        Ok(index)
    }
}

fn read_columns(
    reader: &mut Reader<'_>,
    names: &mut ReadNames,
    budget: &mut Budget,
) -> Result<Vec<ColumnEntry>, BatchError> {
    let count = reader.count()?;
    budget.take(count as u64, TABLE_ENTRY_BYTES)?;
    let types = reader.bytes(count)?;
    let mut columns = Vec::with_capacity(count);
    for &byte in types {
        let (Some(owner), Some(kind)) =
            (Owner::from_number(byte >> 3), Type::from_number(byte & 7))
        else {
            return Err(reader.error("a column has an unknown type"));
        };
        columns.push(ColumnEntry { owner, kind, key: names.read(reader, budget)? });
    }
    Ok(columns)
}

fn read_shapes(
    reader: &mut Reader<'_>,
    names: &mut ReadNames,
    budget: &mut Budget,
    scopes: usize,
    columns: &[ColumnEntry],
) -> Result<Vec<ShapeEntry>, BatchError> {
    let count = reader.count()?;
    budget.take(count as u64, TABLE_ENTRY_BYTES)?;
    let mut shapes = Vec::with_capacity(count);
    for &byte in reader.bytes(count)? {
        let (Some(owner), Some(kind), Some(status)) = (
            Owner::from_number(byte >> 5),
            SpanKind::from_number(byte & 7),
            StatusCode::from_number(byte >> 3 & 3),
        ) else {
            return Err(reader.error("a shape has an unknown kind or status"));
        };
        if owner != Owner::Span && (kind as u8, status as u8) != (0, 0) {
            return Err(reader.error("a shape has a kind or status and is none of a span"));
        }
        shapes.push(ShapeEntry {
            owner,
            name: 0,
            kind,
            status,
            trace_flags: 0,
            extras: 0,
            scope: 0,
            unit: 1,
            end_base: 0,
            duration_base: 0,
            columns: Vec::new(),
        });
    }
    for shape in &mut shapes {
        shape.extras = reader.varint_u32()?;
        if shape.extras & !shape.owner.extras() != 0 {
            return Err(reader.error("a shape has extras that are unknown or not for its owner"));
        }
    }
    let of =
        |owners: &'static [Owner]| move |shape: &&mut ShapeEntry| owners.contains(&shape.owner);
    for shape in shapes.iter_mut().filter(of(&[Owner::Span, Owner::Link])) {
        shape.trace_flags = reader.byte()?;
    }
    let average = reader.base()?;
    for shape in shapes.iter_mut().filter(of(&[Owner::Span, Owner::Event])) {
        shape.end_base = read_base(reader, average)?;
    }
    let average = reader.base()?;
    for shape in shapes.iter_mut().filter(of(&[Owner::Span])) {
        shape.duration_base = read_base(reader, average)?;
    }
    for shape in shapes.iter_mut().filter(of(&[Owner::Span])) {
        shape.unit = match UNITS.get(usize::from(reader.byte()?)) {
            Some(unit) => *unit,
            None => return Err(reader.error("a unit is unknown")),
        };
    }
    let mut scope = 0i64;
    for shape in shapes.iter_mut().filter(of(&[Owner::Span])) {
        scope = scope.wrapping_add(reader.signed_varint()?);
        if !(0..scopes as i64).contains(&scope) {
            return Err(reader.error("a shape refers to no scope"));
        }
        shape.scope = scope as usize;
    }
    let mut lens = Vec::with_capacity(count);
    for _ in 0..count {
        lens.push(reader.count()?);
    }
    let mut next = 0i64;
    for (shape, len) in shapes.iter_mut().zip(lens) {
        budget.take(len as u64, 2 * size_of::<u32>())?;
        for _ in 0..len {
            let number = next.wrapping_add(reader.signed_varint()?);
            let column = usize::try_from(number).ok().and_then(|number| columns.get(number));
            if column.is_none_or(|column| column.owner != shape.owner) {
                return Err(reader.error("a shape refers to no column, or to another owner's"));
            }
            shape.columns.push(number as u32);
            next = number + 1;
        }
    }
    for shape in &mut shapes {
        shape.name = names.read(reader, budget)?;
    }
    Ok(shapes)
}

fn read_base(reader: &mut Reader<'_>, average: u8) -> Result<u8, BatchError> {
    match i64::from(average).checked_add(reader.signed_varint()?) {
        Some(base @ 0..=64) => Ok(base as u8),
        _ => Err(reader.error("a base of classes is not from 0 to 64")),
    }
}

fn read_edges(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    shapes: &[ShapeEntry],
) -> Result<Vec<(u32, u32)>, BatchError> {
    let count = reader.count()?;
    budget.take(count as u64, 3 * size_of::<(u32, u32)>())?;
    let owned = read_owned(reader, &mut Counting::default(), shapes, Owner::Span, count)?;
    let mut edges = Vec::with_capacity(count);
    for shape in owned {
        let origin = origin_of(shape as u32, reader.varint()?);
        let parent = |origin: u32| shapes.get((origin - ORIGIN_SHAPE) as usize);
        let valid = |&origin: &u32| {
            origin < ORIGIN_SHAPE || parent(origin).is_some_and(|shape| shape.owner == Owner::Span)
        };
        match origin.filter(valid) {
            Some(origin) => edges.push((shape as u32, origin)),
            None => return Err(reader.error("an edge refers to no parent's shape")),
        }
    }
    Ok(edges)
}
