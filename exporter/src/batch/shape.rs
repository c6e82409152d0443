//! Shapes: what spans from the same call site have in common, found while walking their records.
//!
//! A *shape* is a name, kind, status, trace flags, scope and a list of attribute columns, so that a
//! span says all of it with one small number. Events, links, resources and scopes have shapes too. Shapes are found by walking a trie: from the header to
//! one node, from there with each attribute's key and type to the next. Each node remembers the step
//! that was taken last, so that spans of a call site that always sets the same attributes never
//! search.
//!
//! Trie and strings survive from batch to batch, since keys and names do; only the numbers that a
//! batch gives to shapes and strings are its own. When they outgrow [`NODES_MAX`] or
//! [`TEXT_BYTES_MAX`], they are forgotten between two batches.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use spanring::Interned;
use spanring::record::StrRef;

use super::stream::{Writer, common_prefix};
use super::value::Type;
use super::well_known;

/// Trie nodes that are kept between batches.
const NODES_MAX: usize = 4096;
/// Bytes of names and keys that are kept between batches.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// Identity of a name that has no interned number: this and its index among the names.
const DYNAMIC: u32 = 1 << 31;
/// How a name is stated: it is spelled out; it is a well-known one; and those that the batch has had.
pub(super) const NAME_SPELLED: u64 = 0;
pub(super) const NAME_WELL_KNOWN: u64 = 1;
pub(super) const FIRST_NAME: u64 = 2;
/// No node, column, name or shape.
const NONE: u32 = u32::MAX;
/// Set in the tokens of attributes, and of ends.
const TOKEN_ATTRIBUTE: u64 = 1 << 62;
const TOKEN_END: u64 = 1 << 63;

/// What a shape is the shape of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Owner {
    Span = 0,
    Event = 1,
    Link = 2,
    Resource = 3,
    Scope = 4,
}

impl Owner {
    const COUNT: usize = 5;

    pub(super) fn from_number(number: u8) -> Option<Self> {
        use Owner::*;
        [Span, Event, Link, Resource, Scope].get(usize::from(number)).copied()
    }

    /// The extras that a shape of this owner may have; the others would have no place in a batch.
    pub(super) fn extras(self) -> u32 {
        use extra::*;
        match self {
            Owner::Span => STATUS_MESSAGE | TRACE_STATE | EVENTS | LINKS | DROPPED | SPAN_RAW,
            Owner::Link => TRACE_STATE | DROPPED | SPAN_RAW | TRACE_RAW | REMOTE,
            Owner::Event | Owner::Resource | Owner::Scope => DROPPED,
        }
    }
}

/// Bits of a shape's extras: what else a span, event or link has, which other columns hold.
pub(super) mod extra {
    pub(in crate::batch) const STATUS_MESSAGE: u32 = 1;
    pub(in crate::batch) const TRACE_STATE: u32 = 1 << 1;
    pub(in crate::batch) const EVENTS: u32 = 1 << 2;
    pub(in crate::batch) const LINKS: u32 = 1 << 3;
    pub(in crate::batch) const DROPPED: u32 = 1 << 4;
    pub(in crate::batch) const SPAN_RAW: u32 = 1 << 5;
    pub(in crate::batch) const TRACE_RAW: u32 = 1 << 6;
    pub(in crate::batch) const REMOTE: u32 = 1 << 7;
}

/// Names, keys and the other strings of tables, each written once a batch.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: Vec<Name>,
    by_text: FxHashMap<Arc<str>, u32>,
    by_interned: FxHashMap<Interned, u32>,
    text_bytes: usize,
    /// The current batch, and how many names it has written.
    batch: u32,
    written: u32,
    /// The name that was spelled out last.
    spelled: u32,
}

#[derive(Debug)]
struct Name {
    text: Arc<str>,
    /// Its index among the well-known names.
    well_known: Option<u8>,
    /// The batch that wrote it last, and its number there.
    batch: u32,
    number: u32,
}

impl Names {
    pub(super) fn index(&mut self, text: StrRef<'_>) -> u32 {
        let interned = match text {
            StrRef::Str(text) => return self.index_of(text),
            StrRef::Interned(interned) => interned,
        };
        if let Some(&index) = self.by_interned.get(&interned) {
            return index;
        }
        let index = self.index_of(interned.as_str());
        self.by_interned.insert(interned, index);
        index
    }

    pub(super) fn index_of(&mut self, text: &str) -> u32 {
        if let Some(&index) = self.by_text.get(text) {
            return index;
        }
        let index = self.names.len() as u32;
        let text: Arc<str> = text.into();
        self.text_bytes += text.len();
        self.by_text.insert(text.clone(), index);
        let well_known = well_known::index_of(&text);
        self.names.push(Name { text, well_known, batch: 0, number: 0 });
        index
    }

    /// How many names the current batch has written.
    pub(super) fn written_len(&self) -> usize {
        self.written as usize
    }

    /// The string with that index.
    pub(super) fn text(&self, index: u32) -> &str {
        &self.names[index as usize].text
    }

    /// Writes a string as a name.
    pub(super) fn write_text(&mut self, writer: &mut Writer, text: &str) {
        let index = self.index_of(text);
        self.write(writer, index);
    }

    /// Writes a reference to a name, and the name itself where the batch has not had it yet.
    pub(super) fn write(&mut self, writer: &mut Writer, index: u32) {
        let batch = self.batch;
        let name = &mut self.names[index as usize];
        if name.batch == batch {
            return writer.varint(FIRST_NAME + u64::from(name.number));
        }
        (name.batch, name.number) = (batch, self.written);
        self.written += 1;
        if let Some(well_known) = name.well_known {
            writer.varint(NAME_WELL_KNOWN);
            return writer.byte(well_known);
        }
        let text = self.names[index as usize].text.as_bytes();
        let before = self.names.get(self.spelled as usize).map_or("", |name| &name.text);
        let shared = common_prefix(before.as_bytes(), text);
        writer.varint(NAME_SPELLED);
        writer.varint(shared as u64);
        writer.string(&text[shared..]);
        self.spelled = index;
    }
}

/// What a header adds to a shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    pub(super) owner: Owner,
    /// The name of a span, event or scope; the schema URL of a resource.
    pub(super) name: StrRef<'a>,
    /// As in a record's header; zero for what is no span.
    pub(super) scope: u16,
    pub(super) kind_status: u8,
    pub(super) trace_flags: u8,
}

impl<'a> Head<'a> {
    /// The head of what is no span.
    pub(super) fn named(owner: Owner, name: &'a str) -> Self {
        Head { owner, name: StrRef::Str(name), scope: 0, kind_status: 0, trace_flags: 0 }
    }
}

/// A shape, and its use in the current batch.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) owner: Owner,
    pub(super) name: u32,
    pub(super) scope: u16,
    pub(super) kind_status: u8,
    pub(super) trace_flags: u8,
    pub(super) extras: u32,
    pub(super) columns: Box<[u32]>,
    batch: u32,
    number: u32,
}

/// An attribute column's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ColumnKey {
    pub(super) owner: Owner,
    pub(super) key: u32,
    pub(super) kind: Type,
}

/// A position in the trie while a record is walked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position(u32);

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The step that was taken last from here, and where it led.
    token: u64,
    next: u32,
    /// The attribute column of the step that led here.
    column: u32,
    /// Where that step came from.
    before: u32,
    /// The shape that ends here.
    shape: u32,
}

impl Node {
    fn new(before: u32, column: u32, shape: u32) -> Self {
        Node { token: u64::MAX, next: 0, column, before, shape }
    }
}

/// The trie, the shapes at its ends, and the columns on its way.
#[derive(Debug)]
pub(super) struct Shapes {
    pub(super) names: Names,
    /// The first are the roots, by [`Owner`].
    nodes: Vec<Node>,
    steps: FxHashMap<(u32, u64), u32>,
    shapes: Vec<Shape>,
    columns: FxHashMap<ColumnKey, u32>,
    column_keys: Vec<ColumnKey>,
    /// Shapes of the current batch, in the order of their numbers.
    used: Vec<u32>,
    batch: u32,
}

impl Shapes {
    pub(super) fn new() -> Self {
        let mut shapes = Shapes {
            names: Names::default(),
            nodes: Vec::new(),
            steps: FxHashMap::default(),
            shapes: Vec::new(),
            columns: FxHashMap::default(),
            column_keys: Vec::new(),
            used: Vec::new(),
            batch: 0,
        };
        shapes.forget();
        shapes
    }

    fn forget(&mut self) {
        self.names = Names::default();
        self.nodes = vec![Node::new(NONE, NONE, NONE); Owner::COUNT];
        self.steps.clear();
        self.shapes.clear();
        self.columns.clear();
        self.column_keys.clear();
    }

    /// Begins a batch; true if the columns of earlier ones were forgotten.
    pub(super) fn begin(&mut self) -> bool {
        self.used.clear();
        let forget = self.batch == u32::MAX
            || self.nodes.len() > NODES_MAX
            || self.names.names.len() > NODES_MAX
            || self.names.text_bytes > TEXT_BYTES_MAX;
        if forget {
            self.forget();
        }
        // Zero marks what no batch has used.
        self.batch = if self.batch == u32::MAX { 1 } else { self.batch + 1 };
        (self.names.batch, self.names.written, self.names.spelled) = (self.batch, 0, NONE);
        forget
    }

    /// The current batch, as a mark that no other batch uses.
    pub(super) fn batch(&self) -> u32 {
        self.batch
    }

    /// The shapes of the current batch, by number.
    pub(super) fn used(&self) -> impl ExactSizeIterator<Item = &Shape> + Clone {
        self.used.iter().map(|&shape| &self.shapes[shape as usize])
    }

    /// How many shapes the current batch has used so far.
    pub(super) fn used_len(&self) -> usize {
        self.used.len()
    }

    /// How many columns have an identity.
    pub(super) fn columns_len(&self) -> usize {
        self.column_keys.len()
    }

    /// The type of a column's values.
    pub(super) fn column_kind(&self, column: u32) -> Type {
        self.column_keys[column as usize].kind
    }

    /// Names, shapes of the batch by number, and identities of columns.
    pub(super) fn parts(
        &mut self,
    ) -> (&mut Names, impl ExactSizeIterator<Item = &Shape> + Clone, &[ColumnKey]) {
        let shapes = &self.shapes;
        let used = self.used.iter().map(move |&shape| &shapes[shape as usize]);
        (&mut self.names, used, &self.column_keys)
    }

    /// Begins the walk of whatever `head` belongs to.
    pub(super) fn begin_walk(&mut self, head: &Head<'_>) -> Position {
        let name = self.identity(head.name);
        self.begin_walk_named(name, head)
    }

    /// As [`begin_walk`](Self::begin_walk), for who knows the identity of `head`'s name.
    #[inline(always)]
    pub(super) fn begin_walk_named(&mut self, name: u32, head: &Head<'_>) -> Position {
        let token = u64::from(name)
            | u64::from(head.scope) << 32
            | u64::from(head.kind_status) << 48
            | u64::from(head.trace_flags) << 54;
        Position(self.step(head.owner as u32, token, |_| (NONE, NONE)))
    }

    /// Takes the step of an attribute; returns the attribute's column too.
    #[inline(always)]
    pub(super) fn attribute(
        &mut self,
        from: Position,
        owner: Owner,
        key: StrRef<'_>,
        kind: Type,
    ) -> (Position, usize) {
        let token = u64::from(self.identity(key)) | (kind as u64) << 32 | TOKEN_ATTRIBUTE;
        let next = self.step(from.0, token, |shapes| {
            let key = ColumnKey { owner, key: shapes.names.index(key), kind };
            (shapes.column(key), NONE)
        });
        (Position(next), self.nodes[next as usize].column as usize)
    }

    /// Ends the walk; returns the shape's number in the batch.
    #[inline(always)]
    pub(super) fn end_walk(&mut self, from: Position, head: &Head<'_>, extras: u32) -> u32 {
        let token = u64::from(extras) | TOKEN_END;
        let end = self.step(from.0, token, |shapes| (NONE, shapes.add_shape(from, head, extras)));
        let id = self.nodes[end as usize].shape;
        let shape = &mut self.shapes[id as usize];
        if shape.batch != self.batch {
            (shape.batch, shape.number) = (self.batch, self.used.len() as u32);
            self.used.push(id);
        }
        shape.number
    }

    /// The identity of a name or key: its interned number, or one that cannot be such a number.
    #[inline(always)]
    fn identity(&mut self, text: StrRef<'_>) -> u32 {
        match text {
            StrRef::Interned(interned) => interned.get(),
            StrRef::Str(text) => DYNAMIC | self.names.index_of(text),
        }
    }

    /// Where `token` leads from `from`; `make` gives column and shape of a node that is new.
    #[inline(always)]
    fn step(&mut self, from: u32, token: u64, make: impl FnOnce(&mut Self) -> (u32, u32)) -> u32 {
        let node = &self.nodes[from as usize];
        if node.token == token {
            return node.next;
        }
        let next = match self.steps.get(&(from, token)) {
            Some(&next) => next,
            None => {
                let (column, shape) = make(self);
                let next = self.nodes.len() as u32;
                self.nodes.push(Node::new(from, column, shape));
                self.steps.insert((from, token), next);
                next
            }
        };
        let node = &mut self.nodes[from as usize];
        (node.token, node.next) = (token, next);
        next
    }

    fn column(&mut self, key: ColumnKey) -> u32 {
        let next = self.column_keys.len() as u32;
        let column = *self.columns.entry(key).or_insert(next);
        if column == next {
            self.column_keys.push(key);
        }
        column
    }

    #[cold]
    fn add_shape(&mut self, end: Position, head: &Head<'_>, extras: u32) -> u32 {
        let mut columns = Vec::new();
        let mut at = self.nodes[end.0 as usize];
        while at.column != NONE {
            columns.push(at.column);
            at = self.nodes[at.before as usize];
        }
        columns.reverse();
        self.shapes.push(Shape {
            owner: head.owner,
            name: self.names.index(head.name),
            scope: head.scope,
            kind_status: head.kind_status,
            trace_flags: head.trace_flags,
            extras,
            columns: columns.into(),
            batch: 0,
            number: 0,
        });
        self.shapes.len() as u32 - 1
    }
}
