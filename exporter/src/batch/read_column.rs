//! Columns on the reading side: all values of one attribute key, handed out one by one.

use bytes::Bytes;
use spanring::Value;

use super::BatchError;
use super::column::{COLUMN_VALUE_BYTES, DICTIONARY_MAX, POWERS_OF_TEN, mode};
use super::stream::Reader;
use super::value::{Budget, ENTRY_BYTES, Type, ValueReader};

/// A column as read.
#[derive(Debug)]
pub(super) struct ReadColumn {
    kind: Type,
    values: Values,
    next: usize,
}

#[derive(Debug)]
enum Values {
    /// Nothing to store: nulls, or no values at all.
    Nothing,
    /// The same for all.
    Constant(u64),
    /// Integers, booleans or bits of doubles.
    Words(Vec<u64>),
    /// Strings, bytes and composite values: entries with the bytes that each owns, and which one each
    /// value is (where that is not its own position).
    Entries { entries: Vec<(Value, usize)>, which: Which },
}

#[derive(Debug)]
enum Which {
    First,
    Own,
    Listed(Vec<u32>),
}

impl ReadColumn {
    /// Reads a column of `len` values.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        budget: &mut Budget,
        kind: Type,
        len: usize,
    ) -> Result<Self, BatchError> {
        let values = match kind {
            _ if len == 0 => Values::Nothing,
            Type::Null => Values::Nothing,
            Type::Bool | Type::Int => read_integers(reader, budget, len)?,
            Type::Double => read_doubles(reader, budget, len)?,
            Type::Str | Type::Bytes | Type::Array | Type::Map => {
                read_entries(reader, budget, kind, len)?
            }
        };
        if kind == Type::Bool {
            let valid = match &values {
                Values::Constant(word) => *word <= 1,
                Values::Words(words) => words.iter().all(|&word| word <= 1),
                _ => true,
            };
            if !valid {
                return Err(reader.error("a boolean is neither 0 nor 1"));
            }
        }
        Ok(ReadColumn { kind, values, next: 0 })
    }

    /// The next value. As many must be taken as were read.
    pub(super) fn take(&mut self, budget: &mut Budget) -> Result<Value, BatchError> {
        let at = self.next;
        self.next += 1;
        let word = match &self.values {
            Values::Nothing => return Ok(Value::Null),
            Values::Constant(word) => *word,
            Values::Words(words) => words[at],
            Values::Entries { entries, which } => {
                let index = match which {
                    Which::First => 0,
                    Which::Own => at,
                    Which::Listed(list) => list[at] as usize,
                };
                let (value, bytes) = &entries[index];
                budget.take(1, *bytes)?;
                return Ok(value.clone());
            }
        };
        Ok(match self.kind {
            Type::Bool => Value::Bool(word != 0),
            Type::Double => Value::Double(f64::from_bits(word)),
            _ => Value::Int(word as i64),
        })
    }

    /// The next value of a column of strings.
    pub(super) fn take_string(&mut self, budget: &mut Budget) -> Result<String, BatchError> {
        match self.take(budget)? {
            Value::Str(text) => Ok(text),
            _ => Ok(String::new()),
        }
    }
}

fn read_integers(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    len: usize,
) -> Result<Values, BatchError> {
    let mode = reader.byte()?;
    if mode == mode::CONSTANT {
        return Ok(Values::Constant(reader.signed_number(0)? as u64));
    }
    budget.take(len as u64, COLUMN_VALUE_BYTES)?;
    let mut words = Vec::with_capacity(len);
    match mode {
        mode::PLAIN => {
            let min = reader.signed_number(0)? as u64;
            let base = reader.base()?;
            for _ in 0..len {
                words.push(min.wrapping_add(reader.number(base)?));
            }
        }
        mode::DICTIONARY => {
            let mut distinct = Vec::new();
            for _ in 0..dictionary_len(reader)? {
                distinct.push(reader.signed_number(0)? as u64);
            }
            read_references(reader, &distinct, len, &mut words)?;
        }
        mode::DELTA => {
            let base = reader.base()?;
            let mut word = 0u64;
            for _ in 0..len {
                word = word.wrapping_add(reader.signed_number(base)? as u64);
                words.push(word);
            }
        }
        _ => return Err(reader.error("a column of integers has an unknown mode")),
    }
    Ok(Values::Words(words))
}

fn dictionary_len(reader: &mut Reader<'_>) -> Result<usize, BatchError> {
    reader.index(DICTIONARY_MAX + 1)
}

fn read_references(
    reader: &mut Reader<'_>,
    distinct: &[u64],
    len: usize,
    words: &mut Vec<u64>,
) -> Result<(), BatchError> {
    for &index in reader.bytes(len)? {
        match distinct.get(usize::from(index)) {
            Some(word) => words.push(*word),
            None => return Err(reader.error("a reference is out of the dictionary")),
        }
    }
    Ok(())
}

fn read_doubles(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    len: usize,
) -> Result<Values, BatchError> {
    let mode = reader.byte()?;
    if mode == mode::CONSTANT {
        return Ok(Values::Constant(u64::from_le_bytes(reader.id()?)));
    }
    if mode == mode::DECIMAL {
        let power = POWERS_OF_TEN[reader.index(POWERS_OF_TEN.len())?];
        let scale = |word: u64| (word as i64 as f64 / power).to_bits();
        return Ok(match read_integers(reader, budget, len)? {
            Values::Words(mut words) => {
                words.iter_mut().for_each(|word| *word = scale(*word));
                Values::Words(words)
            }
            Values::Constant(word) => Values::Constant(scale(word)),
            other => other,
        });
    }
    budget.take(len as u64, COLUMN_VALUE_BYTES)?;
    let mut words = Vec::with_capacity(len);
    match mode {
        mode::PLAIN => {
            let planes = [reader.bytes(len)?, reader.bytes(len)?];
            for (&first, &second) in planes[0].iter().zip(planes[1]) {
                let [a, b, c, d, e, f] = reader.id::<6>()?;
                words.push(u64::from_le_bytes([a, b, c, d, e, f, second, first]));
            }
        }
        mode::DICTIONARY => {
            let mut distinct = Vec::new();
            for _ in 0..dictionary_len(reader)? {
                distinct.push(u64::from_le_bytes(reader.id()?));
            }
            read_references(reader, &distinct, len, &mut words)?;
        }
        _ => return Err(reader.error("a column of doubles has an unknown mode")),
    }
    Ok(Values::Words(words))
}

fn read_entries(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
    kind: Type,
    len: usize,
) -> Result<Values, BatchError> {
    let (which, count) = match reader.byte()? {
        mode::CONSTANT => (Which::First, 1),
        mode::PLAIN => (Which::Own, len),
        mode::DICTIONARY => {
            budget.take(len as u64, COLUMN_VALUE_BYTES)?;
            let mut list = Vec::with_capacity(len);
            let mut seen = 0;
            for _ in 0..len {
                match reader.index(seen + 1)? {
                    0 => {
                        list.push(seen as u32);
                        seen += 1;
                    }
                    number => list.push(number as u32 - 1),
                }
            }
            (Which::Listed(list), seen)
        }
        _ => return Err(reader.error("a column of strings has an unknown mode")),
    };
    budget.take(count as u64, 2 * ENTRY_BYTES)?;
    let mut shared = Vec::with_capacity(count);
    shared.push(0);
    for _ in 1..count {
        shared.push(reader.varint()?);
    }
    let mut entries = Vec::with_capacity(count);
    let mut bytes: Vec<u8> = Vec::new();
    for shared in shared {
        if shared > bytes.len() as u64 {
            return Err(reader.error("a string shares more than the one before it has"));
        }
        bytes.truncate(shared as usize);
        bytes.extend_from_slice(reader.string()?);
        entries.push(entry(reader, budget, kind, &bytes)?);
    }
    Ok(Values::Entries { entries, which })
}

/// The value of an entry, and the bytes that it owns.
fn entry(
    reader: &Reader<'_>,
    budget: &mut Budget,
    kind: Type,
    bytes: &[u8],
) -> Result<(Value, usize), BatchError> {
    let before = budget.left();
    let value = match kind {
        Type::Str => {
            budget.take(1, bytes.len())?;
            match std::str::from_utf8(bytes) {
                Ok(text) => Value::Str(text.to_owned()),
                Err(_) => return Err(reader.error("a string is not UTF-8")),
            }
        }
        Type::Bytes => {
            budget.take(1, bytes.len())?;
            Value::Bytes(Bytes::copy_from_slice(bytes))
        }
        _ => ValueReader { from: bytes, budget, part: reader.part }.composite(kind)?,
    };
    Ok((value, before - budget.left()))
}
