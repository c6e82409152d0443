//! Arrays and maps as self-contained bytes: what columns of such values hold.
//!
//! An element is a type byte and what belongs to it; see [`Type`]. Arrays and maps nest to
//! [`DEPTH_MAX`]; the writer replaces what lies deeper by null.

use bytes::Bytes;
use spanring::Value;
use spanring::record::{Item, Items, ValueRef};

use super::BatchError;
use super::stream::{put_varint, take_varint, unzigzag, zigzag};

/// Bytes that a decoded element of an array takes, beside what it owns.
pub(super) const VALUE_BYTES: usize = size_of::<Value>();
/// Bytes that a decoded entry of a map or an attribute takes, beside what it owns.
pub(super) const ENTRY_BYTES: usize = size_of::<(String, Value)>();
/// Levels of arrays and maps that a value may have.
pub(crate) const DEPTH_MAX: u32 = 128;

/// The type of a value, with its number in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Type {
    /// Nothing follows.
    Null = 0,
    /// One byte: 0 or 1.
    Bool = 1,
    /// A zigzag varint.
    Int = 2,
    /// Eight bytes, the lowest first.
    Double = 3,
    /// Length as varint, UTF-8.
    Str = 4,
    /// Length as varint, bytes.
    Bytes = 5,
    /// Count as varint, values.
    Array = 6,
    /// Count as varint; length of the key as varint, the key, the value.
    Map = 7,
}

impl Type {
    pub(super) fn of_value(value: &Value) -> Self {
        match value {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Double(_) => Type::Double,
            Value::Str(_) => Type::Str,
            Value::Bytes(_) => Type::Bytes,
            Value::Array(_) => Type::Array,
            Value::Map(_) => Type::Map,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        use Type::*;
        [Null, Bool, Int, Double, Str, Bytes, Array, Map].get(usize::from(number)).copied()
    }

    pub(super) fn of(value: &ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Type::Null,
            ValueRef::Bool(_) => Type::Bool,
            ValueRef::Int(_) => Type::Int,
            ValueRef::Double(_) => Type::Double,
            ValueRef::Str(_) => Type::Str,
            ValueRef::Bytes(_) => Type::Bytes,
            ValueRef::Array(_) => Type::Array,
            ValueRef::Map(_) => Type::Map,
        }
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) -> usize {
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
    bytes.len()
}

/// Appends the elements of an array or a map: what follows the type byte. Returns the bytes that they
/// take when they are decoded.
pub(super) fn put_items(to: &mut Vec<u8>, items: Items<'_>, is_map: bool, depth: u32) -> usize {
    let elements = || {
        items.filter_map(|item| match item {
            Item::Attribute(key, value) => Some((key, value)),
            _ => None,
        })
    };
    put_varint(to, elements().count() as u64);
    let mut bytes = 0;
    for (key, value) in elements() {
        bytes +=
            if is_map { ENTRY_BYTES + put_bytes(to, key.as_str().as_bytes()) } else { VALUE_BYTES };
        bytes += put_ref(to, &value, depth + 1);
    }
    bytes
}

fn put_ref(to: &mut Vec<u8>, value: &ValueRef<'_>, depth: u32) -> usize {
    let kind = Type::of(value);
    if depth > DEPTH_MAX && matches!(kind, Type::Array | Type::Map) {
        to.push(Type::Null as u8);
        return 0;
    }
    to.push(kind as u8);
    match *value {
        ValueRef::Null => {}
        ValueRef::Bool(value) => to.push(u8::from(value)),
        ValueRef::Int(value) => put_varint(to, zigzag(value)),
        ValueRef::Double(value) => to.extend_from_slice(&value.to_bits().to_le_bytes()),
        ValueRef::Str(value) => return put_bytes(to, value.as_str().as_bytes()),
        ValueRef::Bytes(value) => return put_bytes(to, value),
        ValueRef::Array(items) => return put_items(to, items, false, depth),
        ValueRef::Map(items) => return put_items(to, items, true, depth),
    }
    0
}

/// Appends the elements of a value that is an array or a map; returns as [`put_items`].
pub(super) fn put_body(to: &mut Vec<u8>, value: &Value, depth: u32) -> usize {
    let mut bytes = 0;
    match value {
        Value::Array(values) => {
            put_varint(to, values.len() as u64);
            for value in values {
                bytes += VALUE_BYTES + put_value(to, value, depth + 1);
            }
        }
        Value::Map(entries) => {
            put_varint(to, entries.len() as u64);
            for (key, value) in entries {
                bytes += ENTRY_BYTES + put_bytes(to, key.as_bytes());
                bytes += put_value(to, value, depth + 1);
            }
        }
        _ => {}
    }
    bytes
}

fn put_value(to: &mut Vec<u8>, value: &Value, depth: u32) -> usize {
    let kind = Type::of_value(value);
    if depth > DEPTH_MAX && matches!(kind, Type::Array | Type::Map) {
        to.push(Type::Null as u8);
        return 0;
    }
    to.push(kind as u8);
    match value {
        Value::Null => {}
        Value::Bool(value) => to.push(u8::from(*value)),
        Value::Int(value) => put_varint(to, zigzag(*value)),
        Value::Double(value) => to.extend_from_slice(&value.to_bits().to_le_bytes()),
        Value::Str(value) => return put_bytes(to, value.as_bytes()),
        Value::Bytes(value) => return put_bytes(to, value),
        Value::Array(_) | Value::Map(_) => return put_body(to, value, depth),
    }
    0
}

/// Reads values, and counts the memory that they take against a budget.
#[derive(Debug)]
pub(super) struct ValueReader<'a, 'b> {
    pub(super) from: &'a [u8],
    pub(super) budget: &'b mut Budget,
    pub(super) part: &'static str,
}

/// What is left of the memory that a decoded batch may take.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new() -> Self {
        Budget(super::DECODED_BYTES_MAX)
    }

    /// A budget of its own size, for tests.
    #[cfg(test)]
    pub(super) fn limited(bytes: usize) -> Self {
        Budget(bytes)
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.0
    }

    /// Takes `count` times `bytes` off.
    #[inline]
    pub(super) fn take(&mut self, count: u64, bytes: usize) -> Result<(), BatchError> {
        let left =
            (count.checked_mul(bytes as u64)).and_then(|need| (self.0 as u64).checked_sub(need));
        match left {
            Some(left) => {
                self.0 = left as usize;
                Ok(())
            }
            None => Err(BatchError::too_large("bytes of decoded spans", super::DECODED_BYTES_MAX)),
        }
    }
}

impl<'a> ValueReader<'a, '_> {
    fn error(&self, what: &'static str) -> BatchError {
        BatchError::content(self.part, what)
    }

    fn byte(&mut self) -> Result<u8, BatchError> {
        Ok(self.slice(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, BatchError> {
        take_varint(&mut self.from).ok_or_else(|| self.error("a value is cut"))
    }

    fn slice(&mut self, len: u64) -> Result<&'a [u8], BatchError> {
        let split = usize::try_from(len).ok().and_then(|len| self.from.split_at_checked(len));
        let Some((bytes, rest)) = split else {
            return Err(self.error("a value is cut"));
        };
        self.from = rest;
        Ok(bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], BatchError> {
        let len = self.varint()?;
        self.budget.take(1, usize::try_from(len).unwrap_or(usize::MAX))?;
        self.slice(len)
    }

    fn string(&mut self) -> Result<String, BatchError> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("a string is not UTF-8"))?;
        Ok(text.to_owned())
    }

    /// A count of things that take at least `bytes_min` bytes each here and `bytes` in memory.
    fn count(&mut self, bytes_min: usize, bytes: usize) -> Result<usize, BatchError> {
        let count = self.varint()?;
        if count > (self.from.len() / bytes_min) as u64 {
            return Err(self.error("a count exceeds what is left of the value"));
        }
        self.budget.take(count, bytes)?;
        Ok(count as usize)
    }

    /// The body of a value of type `kind`, which is an array or a map, and nothing behind it.
    pub(super) fn composite(mut self, kind: Type) -> Result<Value, BatchError> {
        let value = self.body(kind, 0)?;
        self.end().map(|()| value)
    }

    fn end(&self) -> Result<(), BatchError> {
        if self.from.is_empty() { Ok(()) } else { Err(self.error("bytes follow a value")) }
    }

    fn map(&mut self, depth: u32) -> Result<Vec<(String, Value)>, BatchError> {
        let count = self.count(2, ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push((self.string()?, self.value(depth + 1)?));
        }
        Ok(entries)
    }

    fn value(&mut self, depth: u32) -> Result<Value, BatchError> {
        let kind = self.byte()?;
        let kind =
            Type::from_number(kind).ok_or_else(|| self.error("a value has an unknown type"))?;
        self.body(kind, depth)
    }

    fn body(&mut self, kind: Type, depth: u32) -> Result<Value, BatchError> {
        if depth > DEPTH_MAX && matches!(kind, Type::Array | Type::Map) {
            return Err(self.error("values are nested too deeply"));
        }
        Ok(match kind {
            Type::Null => Value::Null,
            Type::Bool => match self.byte()? {
                byte @ (0 | 1) => Value::Bool(byte == 1),
                _ => return Err(self.error("a boolean is neither 0 nor 1")),
            },
            Type::Int => Value::Int(unzigzag(self.varint()?)),
            Type::Double => {
                let bytes = self.slice(8)?.try_into().expect("eight bytes");
                Value::Double(f64::from_bits(u64::from_le_bytes(bytes)))
            }
            Type::Str => Value::Str(self.string()?),
            Type::Bytes => Value::Bytes(Bytes::copy_from_slice(self.bytes()?)),
            Type::Array => {
                let count = self.count(1, VALUE_BYTES)?;
                let mut values = Vec::with_capacity(count);
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Value::Array(values)
            }
            Type::Map => Value::Map(self.map(depth)?),
        })
    }
}
