//! Attributes and their values, from records and from plain data alike.
//!
//! A plain value's length follows from the value. Arrays and maps are measured first: a pass over what
//! they hold notes the length of each array and map in the order in which the second pass writes them.
//! So both passes are linear in size, whatever the nesting.

use spanring::Value;
use spanring::record::{Item, Items, ValueRef};

use super::wire::{field, field_len, put_bytes, put_fixed64, put_text, varint_len};
use crate::batch::put_varint;

/// How deep arrays and maps nest at most; below, they are replaced by null.
///
/// Most readers of protobuf take 100 messages in one another and refuse the whole request beyond, all its
/// spans with it. An event's attribute is a request's sixth level, and a map takes three more.
pub(super) const NESTING_MAX: u32 = (100 - 6) / 3;
/// Lengths that are kept between requests.
const KEPT_LENGTHS_MAX: usize = 1 << 12;

/// A value, wherever it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Any<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    Array(Elements<'a>),
    Map(Elements<'a>),
}

impl<'a> From<ValueRef<'a>> for Any<'a> {
    #[inline(always)]
    fn from(value: ValueRef<'a>) -> Self {
        match value {
            ValueRef::Null => Any::Null,
            ValueRef::Bool(value) => Any::Bool(value),
            ValueRef::Int(value) => Any::Int(value),
            ValueRef::Double(value) => Any::Double(value),
            ValueRef::Str(value) => Any::Str(value.as_str()),
            ValueRef::Bytes(value) => Any::Bytes(value),
            ValueRef::Array(items) => Any::Array(Elements::Items(items)),
            ValueRef::Map(items) => Any::Map(Elements::Items(items)),
        }
    }
}

impl<'a> From<&'a Value> for Any<'a> {
    #[inline(always)]
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Any::Null,
            Value::Bool(value) => Any::Bool(*value),
            Value::Int(value) => Any::Int(*value),
            Value::Double(value) => Any::Double(*value),
            Value::Str(value) => Any::Str(value),
            Value::Bytes(value) => Any::Bytes(value),
            Value::Array(values) => Any::Array(Elements::Values(values)),
            Value::Map(entries) => Any::Map(Elements::Entries(entries)),
        }
    }
}

/// What is left of the elements of an array or a map, with their keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Elements<'a> {
    Items(Items<'a>),
    Values(&'a [Value]),
    Entries(&'a [(String, Value)]),
}

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a str, Any<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            // Not `attributes`, which takes a copy of the items.
            Elements::Items(items) => items.find_map(|item| match item {
                Item::Attribute(key, value) => Some((key.as_str(), value.into())),
                _ => None,
            }),
            Elements::Values(values) => {
                let (value, rest) = values.split_first()?;
                *values = rest;
                Some(("", value.into()))
            }
            Elements::Entries(entries) => {
                let ((key, value), rest) = entries.split_first()?;
                *entries = rest;
                Some((key, value.into()))
            }
        }
    }
}

impl<'a> Any<'a> {
    /// The value inside `depth` arrays and maps; below the deepest, they are replaced by null.
    fn at_depth(self, depth: u32) -> Self {
        match self {
            Any::Array(_) | Any::Map(_) if depth >= NESTING_MAX => Any::Null,
            value => value,
        }
    }

    /// Whether its length must be measured.
    #[inline(always)]
    fn is_composite(&self) -> bool {
        matches!(self, Any::Array(_) | Any::Map(_))
    }

    /// Bytes that it takes as an `AnyValue`; an array's or a map's elements take `elements`.
    #[inline(always)]
    fn encoded_len(&self, elements: usize) -> usize {
        match self {
            Any::Null => 0,
            Any::Bool(_) => 2,
            Any::Int(value) => 1 + varint_len(*value as u64),
            Any::Double(_) => 9,
            Any::Str(value) => field_len(value.len()),
            Any::Bytes(value) => field_len(value.len()),
            Any::Array(_) | Any::Map(_) => field_len(elements),
        }
    }
}

/// Bytes of a `KeyValue` whose value takes `value_len`.
#[inline(always)]
fn key_value_len(key: &str, value_len: usize) -> usize {
    let key_len = if key.is_empty() { 0 } else { field_len(key.len()) };
    key_len + field_len(value_len)
}

/// Writes a `KeyValue` as the field `field_key`, up to where its value follows.
#[inline(always)]
fn put_key(out: &mut Vec<u8>, field_key: u8, key: &str, value_len: usize) {
    out.push(field_key);
    put_varint(out, key_value_len(key, value_len) as u64);
    put_text(out, field::key_value::KEY, key);
    out.push(field::key_value::VALUE);
    put_varint(out, value_len as u64);
}

/// Writes attributes.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Bytes of the elements of the arrays and maps in one value, each before those that it holds.
    lengths: Vec<usize>,
    /// How many of them have been written.
    written: usize,
}

impl Attributes {
    /// Gives memory back that an unusual value took.
    pub(super) fn forget_large(&mut self) {
        self.lengths.clear();
        self.lengths.shrink_to(KEPT_LENGTHS_MAX);
    }

    /// Writes an attribute as the field `field_key`.
    #[inline(always)]
    pub(super) fn put(&mut self, out: &mut Vec<u8>, field_key: u8, key: &str, value: Any<'_>) {
        if value.is_composite() {
            self.lengths.clear();
            self.written = 0;
            self.measure(value, 0);
        }
        put_key(out, field_key, key, self.len(&value));
        self.put_value(out, value, 0);
    }

    /// Writes attributes of plain data.
    pub(super) fn put_all(
        &mut self,
        out: &mut Vec<u8>,
        field_key: u8,
        attributes: &[(String, Value)],
    ) {
        for (key, value) in attributes {
            self.put(out, field_key, key, value.into());
        }
    }

    /// Notes the lengths of a value at `depth` and of what it holds; returns its own.
    fn measure(&mut self, value: Any<'_>, depth: u32) -> usize {
        let (Any::Array(elements) | Any::Map(elements)) = value else {
            return value.encoded_len(0);
        };
        let at = self.lengths.len();
        self.lengths.push(0);
        let mut sum = 0;
        for (key, element) in elements {
            let len = self.measure(element.at_depth(depth + 1), depth + 1);
            sum += field_len(match value {
                Any::Map(_) => key_value_len(key, len),
                _ => len,
            });
        }
        self.lengths[at] = sum;
        value.encoded_len(sum)
    }

    /// Bytes of the value that is to be written next.
    #[inline(always)]
    fn len(&self, value: &Any<'_>) -> usize {
        value.encoded_len(if value.is_composite() { self.lengths[self.written] } else { 0 })
    }

    #[inline(always)]
    fn put_value(&mut self, out: &mut Vec<u8>, value: Any<'_>, depth: u32) {
        match value {
            Any::Null => {}
            Any::Bool(value) => {
                out.extend_from_slice(&[field::any_value::BOOL, u8::from(value)]);
            }
            Any::Int(value) => {
                out.push(field::any_value::INT);
                put_varint(out, value as u64);
            }
            Any::Double(value) => put_fixed64(out, field::any_value::DOUBLE, value.to_bits()),
            Any::Str(value) => put_bytes(out, field::any_value::STRING, value.as_bytes()),
            Any::Bytes(value) => put_bytes(out, field::any_value::BYTES, value),
            Any::Array(elements) => {
                self.put_elements(out, field::any_value::ARRAY, elements, depth);
            }
            Any::Map(elements) => self.put_elements(out, field::any_value::MAP, elements, depth),
        }
    }

    fn put_elements(
        &mut self,
        out: &mut Vec<u8>,
        field_key: u8,
        elements: Elements<'_>,
        depth: u32,
    ) {
        out.push(field_key);
        put_varint(out, self.lengths[self.written] as u64);
        self.written += 1;
        for (key, element) in elements {
            let element = element.at_depth(depth + 1);
            let len = self.len(&element);
            if field_key == field::any_value::MAP {
                put_key(out, field::list::VALUES, key, len);
            } else {
                out.push(field::list::VALUES);
                put_varint(out, len as u64);
            }
            self.put_value(out, element, depth + 1);
        }
    }
}
