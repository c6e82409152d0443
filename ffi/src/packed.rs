//! Attributes in one piece of memory, for one call.
//!
//! Entries one after the other, without gaps, numbers little-endian:
//!
//! ```text
//! entry   key value
//! key     u32: a number of spanring_intern; or 0x80000000 + length, then so many bytes of UTF-8
//! value   u8 type, then
//!         0 null     nothing
//!         1 bool     u8: 0 or 1
//!         2 int      i64
//!         3 double   f64
//!         4 string   u32 length, bytes of UTF-8
//!         5 bytes    u32 length, bytes
//!         6 array    u32 number of values, the values
//!         7 map      u32 number of entries, the entries
//!         8 string   u32: a number of spanring_intern
//! ```
//!
//! Everything is checked before anything is used: what is wrong has no effect.

use spanring::{DEPTH_MAX, Interned, Key, Value};

use crate::error::{Error, Result, SPANRING_ERROR_PACKED};
use crate::span::interned;

/// Values that arrays and maps of one call may have together: as plain data each takes some hundred bytes.
const NESTED_MAX: u32 = 1 << 17;
/// In a key: a text follows.
const TEXT: u32 = 1 << 31;

/// What is left of packed attributes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    whole: usize,
    are_distinct: bool,
    /// Values in arrays and maps so far.
    nested: u32,
}

/// A value as it is set.
pub(crate) enum Plain<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(&'a str),
    Interned(Interned),
    /// Any other, which [`Reader::other`] gives next: with one inside, this were no matter of registers.
    Other,
}

impl<'a> Reader<'a> {
    /// Checks all of `packed`.
    #[inline(always)]
    pub(crate) fn new(packed: &'a [u8]) -> Result<Self> {
        let mut reader =
            Reader { rest: packed, whole: packed.len(), are_distinct: true, nested: 0 };
        let mut check = reader;
        let mut seen = 0u64;
        while !check.rest.is_empty() {
            let bit = match check.key()? {
                Key::Interned(key) => 1 << (key.get() % 64),
                Key::Str(_) => u64::MAX,
            };
            reader.are_distinct &= seen & bit == 0;
            seen |= bit;
            match check.rest.first() {
                Some(2 | 3) => _ = check.take(9)?,
                Some(1) if check.rest.get(1).is_some_and(|&truth| truth < 2) => {
                    _ = check.take(2)?
                }
                Some(4) => {
                    check.byte()?;
                    check.text()?;
                }
                _ => check.skip(0)?,
            }
        }
        Ok(reader)
    }

    /// Whether all keys are surely different numbers; of some it is not sure.
    #[inline(always)]
    pub(crate) fn are_distinct(&self) -> bool {
        self.are_distinct
    }

    /// The next entry; `None` at the end. Only for what was checked.
    // Inlined, so that the value goes where it is used and not through memory.
    #[inline(always)]
    pub(crate) fn entry(&mut self) -> Option<(Key<'a>, Plain<'a>)> {
        if self.rest.is_empty() {
            return None;
        }
        let key = self.key().ok()?;
        let mut ahead = *self;
        let value = match ahead.byte().ok()? {
            1 => Plain::Bool(ahead.byte().ok()? != 0),
            2 => Plain::Int(i64::from_le_bytes(ahead.array().ok()?)),
            3 => Plain::Double(f64::from_le_bytes(ahead.array().ok()?)),
            4 => Plain::Str(ahead.text().ok()?),
            8 => Plain::Interned(interned(ahead.word().ok()?).ok()?),
            _ => {
                ahead = *self;
                Plain::Other
            }
        };
        *self = ahead;
        Some((key, value))
    }

    /// The value of an entry that is [`Plain::Other`].
    #[cold]
    #[inline(never)]
    pub(crate) fn other(&mut self) -> Option<Value> {
        self.value().ok()
    }

    #[cold]
    #[inline(never)]
    fn wrong(&self, what: &str) -> Error {
        let at = self.whole - self.rest.len();
        Error::new(SPANRING_ERROR_PACKED, format_args!("packed attributes: {what} at byte {at}"))
    }

    #[inline(always)]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.wrong("they end too early")),
        }
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    #[inline(always)]
    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    #[inline(always)]
    fn word(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline(always)]
    fn text_of(&mut self, len: u32) -> Result<&'a str> {
        let before = *self;
        let bytes = self.take(len as usize)?;
        std::str::from_utf8(bytes).map_err(|_| before.wrong("a text is not UTF-8"))
    }

    #[inline(always)]
    fn text(&mut self) -> Result<&'a str> {
        let len = self.word()?;
        self.text_of(len)
    }

    #[inline(always)]
    fn key(&mut self) -> Result<Key<'a>> {
        let before = *self;
        let word = self.word()?;
        if word & TEXT != 0 {
            return self.text_of(word & !TEXT).map(Key::Str);
        }
        match interned(word) {
            Ok(key) => Ok(Key::Interned(key)),
            Err(_) => Err(before.wrong("a key is a number that spanring_intern did not give")),
        }
    }

    fn skip(&mut self, depth: u32) -> Result<()> {
        let before = *self;
        if depth > DEPTH_MAX {
            return Err(self.wrong("arrays and maps are nested too deep"));
        }
        match self.byte()? {
            0 => {}
            1 => {
                if self.byte()? > 1 {
                    return Err(before.wrong("a bool is neither 0 nor 1"));
                }
            }
            2 | 3 => _ = self.take(8)?,
            4 => _ = self.text()?,
            5 => {
                let len = self.word()?;
                self.take(len as usize)?;
            }
            kind @ (6 | 7) => {
                // Each is a byte at least, so a count that lies ends with the bytes.
                for _ in 0..self.word()? {
                    self.nested += 1;
                    if self.nested > NESTED_MAX {
                        return Err(self.wrong("arrays and maps have too many values"));
                    }
                    if kind == 7 {
                        self.key()?;
                    }
                    self.skip(depth + 1)?;
                }
            }
            8 => {
                let number = self.word()?;
                if interned(number).is_err() {
                    return Err(
                        before.wrong("a string is a number that spanring_intern did not give")
                    );
                }
            }
            _ => return Err(before.wrong("there is no such type")),
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value> {
        Ok(match self.byte()? {
            1 => Value::Bool(self.byte()? != 0),
            2 => Value::Int(i64::from_le_bytes(self.array()?)),
            3 => Value::Double(f64::from_le_bytes(self.array()?)),
            4 => Value::Str(self.text()?.to_owned()),
            5 => {
                let len = self.word()?;
                Value::Bytes(self.take(len as usize)?.to_vec().into())
            }
            6 => {
                let count = self.word()?;
                Value::Array((0..count).map(|_| self.value()).collect::<Result<_>>()?)
            }
            7 => {
                let count = self.word()?;
                let entry = |_| {
                    let key = match self.key()? {
                        Key::Interned(key) => key.as_str().to_owned(),
                        Key::Str(key) => key.to_owned(),
                    };
                    Ok((key, self.value()?))
                };
                Value::Map((0..count).map(entry).collect::<Result<_>>()?)
            }
            8 => Value::Str(interned(self.word()?)?.as_str().to_owned()),
            _ => Value::Null,
        })
    }
}

/// Sets all attributes that a reader has with `$set`, a method that takes a key and a value.
macro_rules! set_all {
    ($reader:expr, $to:expr, $set:ident) => {{
        let mut reader = $reader;
        while let Some((key, value)) = reader.entry() {
            match value {
                $crate::packed::Plain::Bool(value) => _ = $to.$set(key, value),
                $crate::packed::Plain::Int(value) => _ = $to.$set(key, value),
                $crate::packed::Plain::Double(value) => _ = $to.$set(key, value),
                $crate::packed::Plain::Str(value) => _ = $to.$set(key, value),
                $crate::packed::Plain::Interned(value) => _ = $to.$set(key, value),
                $crate::packed::Plain::Other => match reader.other() {
                    Some(value) => _ = $to.$set(key, value),
                    None => break,
                },
            }
        }
    }};
}

pub(crate) use set_all;

/// Whether `packed` is as it must be; all that is in it is read then. For the fuzz target.
///
/// # Panics
///
/// If what was checked cannot be read.
#[doc(hidden)]
pub fn is_packed(packed: &[u8]) -> bool {
    let Ok(mut reader) = Reader::new(packed) else { return false };
    while let Some((_, value)) = reader.entry() {
        if matches!(value, Plain::Other) && reader.other().is_none() {
            break;
        }
    }
    assert!(reader.rest.is_empty(), "what was checked is read to its end");
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            // NaN is not equal to itself.
            (-1e300..1e300).prop_map(Value::Double),
            ".{0,20}".prop_map(Value::Str),
            proptest::collection::vec(any::<u8>(), 0..20)
                .prop_map(|bytes| Value::Bytes(bytes.into())),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((".{0,8}", inner), 0..4).prop_map(Value::Map),
            ]
        })
    }

    /// A key as text, or as a number.
    fn put_key(key: &str, as_number: bool, out: &mut Vec<u8>) {
        match Interned::new(key).filter(|_| as_number) {
            Some(number) => out.extend(number.get().to_le_bytes()),
            None => {
                out.extend((TEXT | key.len() as u32).to_le_bytes());
                out.extend(key.as_bytes());
            }
        }
    }

    fn put(value: &Value, as_number: bool, out: &mut Vec<u8>) {
        let counted = |out: &mut Vec<u8>, kind: u8, len: usize| {
            out.push(kind);
            out.extend((len as u32).to_le_bytes());
        };
        match value {
            Value::Null => out.push(0),
            Value::Bool(value) => out.extend([1, u8::from(*value)]),
            Value::Int(value) => {
                out.push(2);
                out.extend(value.to_le_bytes());
            }
            Value::Double(value) => {
                out.push(3);
                out.extend(value.to_le_bytes());
            }
            Value::Str(text) => match Interned::new(text).filter(|_| as_number) {
                Some(number) => {
                    out.push(8);
                    out.extend(number.get().to_le_bytes());
                }
                None => {
                    counted(out, 4, text.len());
                    out.extend(text.as_bytes());
                }
            },
            Value::Bytes(bytes) => {
                counted(out, 5, bytes.len());
                out.extend(&bytes[..]);
            }
            Value::Array(items) => {
                counted(out, 6, items.len());
                items.iter().for_each(|item| put(item, as_number, out));
            }
            Value::Map(entries) => {
                counted(out, 7, entries.len());
                for (key, item) in entries {
                    put_key(key, as_number, out);
                    put(item, as_number, out);
                }
            }
        }
    }

    /// All that a reader gives, as plain data.
    fn read(packed: &[u8]) -> Option<Vec<(String, Value)>> {
        let mut reader = Reader::new(packed).ok()?;
        let entries = std::iter::from_fn(|| {
            let (key, value) = reader.entry()?;
            let key = match key {
                Key::Interned(key) => key.as_str().to_owned(),
                Key::Str(key) => key.to_owned(),
            };
            let value = match value {
                Plain::Bool(value) => Value::Bool(value),
                Plain::Int(value) => Value::Int(value),
                Plain::Double(value) => Value::Double(value),
                Plain::Str(value) => Value::Str(value.to_owned()),
                Plain::Interned(value) => Value::Str(value.as_str().to_owned()),
                Plain::Other => reader.other()?,
            };
            Some((key, value))
        });
        Some(entries.collect())
    }

    proptest! {
        #[test]
        fn what_was_packed_is_read(
            attributes in proptest::collection::vec((".{0,10}", value()), 0..6),
            as_number: bool,
        ) {
            let mut packed = Vec::new();
            let mut ends = vec![0];
            for (key, value) in &attributes {
                put_key(key, as_number, &mut packed);
                put(value, as_number, &mut packed);
                ends.push(packed.len());
            }
            prop_assert_eq!(read(&packed), Some(attributes.clone()));
            // Cut anywhere: whole entries or an error.
            for len in 0..packed.len() {
                let whole = ends.iter().position(|&end| end == len);
                let expected = whole.map(|count| attributes[..count].to_vec());
                prop_assert_eq!(read(&packed[..len]), expected);
            }
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(packed: Vec<u8>) {
            is_packed(&packed);
        }
    }
}
