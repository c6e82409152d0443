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

use spanring::record::FirstAttributes;
use spanring::{AtStart, Attributes, DEPTH_MAX, Interned, IntoValue, Key, Seen, Span, Value};

use crate::error::{Error, Result, SPANRING_ERROR_PACKED, utf8};
use crate::span::interned;

/// Values that arrays and maps of one call may have together: as plain data each takes some hundred bytes.
const NESTED_MAX: u32 = 1 << 17;
/// In a key: a text follows.
const TEXT: u32 = 1 << 31;

/// Who takes attributes, one by one.
pub(crate) trait Taker {
    fn take(&mut self, key: Key<'_>, value: impl IntoValue + Into<Value>);

    #[inline(always)]
    fn take_str(&mut self, key: Key<'_>, value: &str) {
        self.take(key, value);
    }
}

impl Taker for Span {
    #[inline(always)]
    fn take(&mut self, key: Key<'_>, value: impl IntoValue + Into<Value>) {
        self.set_attribute(key, value);
    }
}

/// A span that has no attributes, and gets different ones.
pub(crate) struct New<'a>(pub(crate) &'a mut Span);

impl Taker for New<'_> {
    #[inline(always)]
    fn take(&mut self, key: Key<'_>, value: impl IntoValue + Into<Value>) {
        self.0.__set_new(key, value);
    }
}

impl Taker for Attributes<'_> {
    #[inline(always)]
    fn take(&mut self, key: Key<'_>, value: impl IntoValue + Into<Value>) {
        self.set(key, value);
    }
}

/// Which keys there are: a bit for each number, of which several may have the same.
#[derive(Clone, Copy)]
struct Keys {
    seen: u64,
    /// All are surely different.
    are_distinct: bool,
}

#[inline(always)]
fn bit(key: Interned) -> u64 {
    1 << (key.get() % 64)
}

impl Taker for Keys {
    #[inline(always)]
    fn take(&mut self, key: Key<'_>, _value: impl IntoValue + Into<Value>) {
        let bits = match key {
            Key::Interned(key) => bit(key),
            Key::Str(_) => u64::MAX,
        };
        self.are_distinct &= self.seen & bits == 0;
        self.seen |= bits;
    }
}

/// Writes attributes as they come, which are set in the end or not at all.
struct First<'a> {
    attributes: FirstAttributes<'a>,
    keys: Keys,
    /// So far they do, and are different.
    fit: bool,
}

impl Taker for First<'_> {
    #[inline(always)]
    fn take(&mut self, key: Key<'_>, value: impl IntoValue + Into<Value>) {
        self.keys.take(key, false);
        let fits = matches!(key, Key::Interned(key) if self.attributes.add(key, value));
        self.fit = fits && self.keys.are_distinct;
    }

    #[inline(always)]
    fn take_str(&mut self, key: Key<'_>, value: &str) {
        self.keys.take(key, false);
        let fits = matches!(key, Key::Interned(key) if self.attributes.add_str(key, value));
        self.fit = fits && self.keys.are_distinct;
    }
}

/// Sets all of `packed` on a span that has nothing yet, if they are few and usual and all is right; else it does nothing and returns false.
#[inline(always)]
pub(crate) fn set_first(span: &mut Span, packed: &[u8]) -> bool {
    let Some(attributes) = span.__first_attributes() else { return false };
    let keys = Keys { seen: 0, are_distinct: true };
    let mut first = First { attributes, keys, fit: true };
    let mut rest = packed;
    while !rest.is_empty() {
        match usual::<false>(rest, &mut first) {
            // What does not fit is not set.
            Some(after) if first.fit => rest = after,
            _ => return false,
        }
    }
    let may_have_priority = first.keys.seen & bit(Interned::__PRIORITY) != 0;
    let are_set = first.attributes.set();
    if are_set && may_have_priority {
        span.__priority_set();
    }
    are_set
}

/// Takes the first entry of `packed` if it is as most are, and right: its key is a number, its value a plain one. What follows it. `CHECKED`
/// says that [`Reader::new`] has found `packed` to be right.
// Each kind gives its value by itself, so that it goes where it is used and not through memory.
#[inline(always)]
fn usual<'a, const CHECKED: bool>(packed: &'a [u8], to: &mut impl Taker) -> Option<&'a [u8]> {
    let (head, rest) = packed.split_first_chunk::<5>()?;
    let key = u32::from_le_bytes(*head.first_chunk()?);
    let key = Key::Interned(Interned::from_number(key)?);
    match head[4] {
        1 => {
            let (truth, rest) = rest.split_first().filter(|(truth, _)| **truth < 2)?;
            to.take(key, *truth != 0);
            Some(rest)
        }
        2 => {
            let (value, rest) = rest.split_first_chunk()?;
            to.take(key, i64::from_le_bytes(*value));
            Some(rest)
        }
        3 => {
            let (value, rest) = rest.split_first_chunk()?;
            to.take(key, f64::from_le_bytes(*value));
            Some(rest)
        }
        4 => {
            let (len, rest) = rest.split_first_chunk()?;
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            let text = match CHECKED {
                // SAFETY: it was found to be UTF-8, and nobody changes what is borrowed.
                true => unsafe { std::str::from_utf8_unchecked(text) },
                false => utf8(text).ok()?,
            };
            to.take_str(key, text);
            Some(rest)
        }
        8 => {
            let (value, rest) = rest.split_first_chunk()?;
            to.take(key, Interned::from_number(u32::from_le_bytes(*value))?);
            Some(rest)
        }
        _ => None,
    }
}

/// Packed attributes that nobody has checked, as rules of sampling see them: up to the first thing that is wrong.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a>(pub(crate) &'a [u8]);

impl AtStart for Packed<'_> {
    fn seen(&self, wanted: &str) -> Seen<'_> {
        let mut found = Seen::Absent;
        let mut reader = Reader { rest: self.0, whole: 0, are_distinct: false, nested: 0 };
        while let Ok(key) = reader.key() {
            let key = match key {
                Key::Interned(key) => key.as_str(),
                Key::Str(key) => key,
            };
            match reader.see() {
                Ok(value) if key == wanted => found = value,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        found
    }
}

/// What is left of packed attributes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    whole: usize,
    are_distinct: bool,
    /// Values in arrays and maps so far.
    nested: u32,
}

impl<'a> Reader<'a> {
    /// Checks all of `packed`.
    #[inline(always)]
    pub(crate) fn new(packed: &'a [u8]) -> Result<Self> {
        let whole = packed.len();
        let mut keys = Keys { seen: 0, are_distinct: true };
        let mut nested = 0;
        let mut rest = packed;
        while !rest.is_empty() {
            if let Some(after) = usual::<false>(rest, &mut keys) {
                rest = after;
            } else {
                let mut reader = Reader { rest, whole, are_distinct: false, nested };
                keys.take(reader.skip_entry()?, false);
                Reader { rest, nested, .. } = reader;
            }
        }
        Ok(Reader { rest: packed, whole, are_distinct: keys.are_distinct, nested: 0 })
    }

    /// Whether all keys are surely different numbers; of some it is not sure.
    #[inline(always)]
    pub(crate) fn are_distinct(&self) -> bool {
        self.are_distinct
    }

    /// Gives all entries; whether it could.
    #[inline(always)]
    pub(crate) fn give(mut self, to: &mut impl Taker) -> bool {
        while !self.rest.is_empty() {
            if let Some(rest) = usual::<true>(self.rest, to) {
                self.rest = rest;
            } else if let Some(reader) = self.give_one(to) {
                self = reader;
            } else {
                return false;
            }
        }
        true
    }

    /// Gives the next entry, of any kind; what is left then.
    #[inline(never)]
    fn give_one(mut self, to: &mut impl Taker) -> Option<Self> {
        let key = self.key().ok()?;
        if self.rest.first() == Some(&4) {
            // The usual value has no memory of its own.
            self.byte().ok()?;
            to.take(key, self.text().ok()?);
        } else {
            to.take(key, self.value().ok()?);
        }
        Some(self)
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
        utf8(bytes).map_err(|_| before.wrong("a text is not UTF-8"))
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

    /// Goes past a value; what it is.
    fn see(&mut self) -> Result<Seen<'a>> {
        let value = match *self {
            Reader { rest: [0, ..], .. } => Seen::Absent,
            Reader { rest: [1, truth, ..], .. } => Seen::Bool(*truth != 0),
            Reader { rest: [2, rest @ ..], .. } => match rest.first_chunk() {
                Some(number) => Seen::Int(i64::from_le_bytes(*number)),
                None => Seen::Absent,
            },
            Reader { rest: [3, rest @ ..], .. } => match rest.first_chunk() {
                Some(number) => Seen::Double(f64::from_le_bytes(*number)),
                None => Seen::Absent,
            },
            Reader { rest: [4, ..], .. } => {
                self.byte()?;
                return self.text().map(Seen::Str);
            }
            Reader { rest: [8, rest @ ..], .. } => {
                let number = rest.first_chunk().map(|number| u32::from_le_bytes(*number));
                number
                    .and_then(Interned::from_number)
                    .map_or(Seen::Absent, |text| Seen::Str(text.as_str()))
            }
            _ => Seen::Other,
        };
        self.skip(0)?;
        Ok(value)
    }

    /// Goes past an entry; its key.
    #[inline(never)]
    fn skip_entry(&mut self) -> Result<Key<'a>> {
        let key = self.key()?;
        self.skip(0)?;
        Ok(key)
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

/// Whether `packed` is as it must be; all that is in it is read then. For the fuzz target.
///
/// # Panics
///
/// If what was checked cannot be read.
#[doc(hidden)]
pub fn is_packed(packed: &[u8]) -> bool {
    let Ok(reader) = Reader::new(packed) else { return false };
    let mut keys = Keys { seen: 0, are_distinct: true };
    assert!(reader.give(&mut keys), "what was checked is read to its end");
    assert_eq!(keys.are_distinct, reader.are_distinct(), "the same keys");
    true
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use spanring::settings::Settings;
    use spanring_exporter::batch::decode;
    use spanring_exporter::{MemorySink, Pipeline};

    use super::*;
    use crate::span::{set, set_any};

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

    fn usual_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-100..100i64).prop_map(Value::Int),
            (-1e300..1e300).prop_map(Value::Double),
            "[a-z]{0,40}".prop_map(Value::Str),
            ".{0,6}".prop_map(Value::Str),
            Just(Value::Null),
        ]
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

    struct Plain(Vec<(String, Value)>);

    impl Taker for Plain {
        fn take(&mut self, key: Key<'_>, value: impl IntoValue + Into<Value>) {
            let key = match key {
                Key::Interned(key) => key.as_str(),
                Key::Str(key) => key,
            };
            self.0.push((key.to_owned(), value.into()));
        }
    }

    /// All that a reader gives, as plain data.
    fn read(packed: &[u8]) -> Option<Vec<(String, Value)>> {
        let mut plain = Plain(Vec::new());
        Reader::new(packed).ok()?.give(&mut plain).then_some(plain.0)
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

        /// What is set at once on a span that has nothing is what is set one by one.
        #[test]
        fn first_attributes_are_set_as_others_are(
            cases in proptest::collection::vec(
                proptest::collection::vec((0..8u8, usual_value(), any::<bool>()), 0..8),
                1..40,
            ),
            cut in any::<proptest::sample::Index>(),
        ) {
            let memory = MemorySink::new();
            let settings = Settings::builder().ignore_environment().build();
            let pipeline = Pipeline::builder().settings(settings).sink(memory.clone()).build();
            let pipeline = pipeline.expect("it starts");
            let attached = pipeline.attach();
            for (number, attributes) in cases.iter().enumerate() {
                let mut packed = Vec::new();
                for (key, value, as_number) in attributes {
                    put_key(&format!("key {key}"), true, &mut packed);
                    put(value, *as_number, &mut packed);
                }
                if number == 0 {
                    packed.truncate(cut.index(packed.len() + 1));
                }
                let mut spans = [Span::start("both"), Span::start("both")];
                let at_once = set(&mut spans[0], &packed).is_ok();
                prop_assert_eq!(set_any(&mut spans[1], &packed).is_ok(), at_once);
            }
            drop(attached);
            pipeline.shutdown(Duration::from_secs(60)).expect("it ends");
            let spans: Vec<_> = memory
                .batches()
                .iter()
                .flat_map(|batch| decode(&batch.frame).expect("it is whole").batch.spans)
                .map(|span| span.attributes)
                .collect();
            prop_assert_eq!(spans.len(), 2 * cases.len());
            for pair in spans.chunks(2) {
                prop_assert_eq!(&pair[0], &pair[1]);
            }
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(packed: Vec<u8>) {
            is_packed(&packed);
        }
    }
}
