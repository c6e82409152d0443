//! Columns on the writing side: the values of one attribute key, gathered while records are walked,
//! and the choice of how to write them.
//!
//! A column of integers is written as one value, as a dictionary, as differences, or as numbers above
//! their minimum, whatever is estimated to be shortest. Strings are written once each: repeated ones
//! refer to the first, and a new one states what it shares with the beginning of the one before it.
//!
//! Buffers are kept from batch to batch; see [`Columns::begin`] for their bound.

use spanring::record::StrRef;

use super::dedup::{Dedup, Found};
use super::stream::{Writer, class, common_prefix, zigzag};
use super::value::{ENTRY_BYTES, Type};
use super::{BatchError, CONTENT_BYTES_MAX};

/// How a column is written.
pub(super) mod mode {
    /// All values are the same.
    pub(in crate::batch) const CONSTANT: u8 = 0;
    /// Numbers above their minimum; strings that are all different.
    pub(in crate::batch) const PLAIN: u8 = 1;
    /// Distinct values, and references to them.
    pub(in crate::batch) const DICTIONARY: u8 = 2;
    /// Differences from one value to the next.
    pub(in crate::batch) const DELTA: u8 = 3;
    /// Doubles as integers that were divided by a power of ten.
    pub(in crate::batch) const DECIMAL: u8 = 4;
}

/// Distinct numbers that a dictionary may have.
pub(super) const DICTIONARY_MAX: usize = 128;
/// The powers of ten by which [`mode::DECIMAL`] divides.
pub(super) const POWERS_OF_TEN: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
/// Bytes that a value takes in the decoder's columns, at most.
pub(super) const COLUMN_VALUE_BYTES: usize = 16;
/// Bytes that a column's buffers may keep between batches.
const KEPT_BYTES_MAX: usize = 1 << 16;

/// One column of the current batch.
#[derive(Debug)]
struct Column {
    batch: u32,
    /// Integers, bits of doubles, or indices into `entries`.
    values: Vec<u64>,
    /// Where the distinct strings lie in `text`.
    entries: Vec<(u32, u32)>,
    text: Vec<u8>,
    /// The interned string seen last, and its entry.
    last: (u32, u64),
}

impl Column {
    fn new() -> Self {
        Column { batch: 0, values: Vec::new(), entries: Vec::new(), text: Vec::new(), last: (0, 0) }
    }

    fn entry(&self, index: u64) -> &[u8] {
        let (at, len) = self.entries[index as usize];
        &self.text[at as usize..][..len as usize]
    }
}

/// Columns that are not attributes.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Special {
    StatusMessage = 0,
    TraceState = 1,
    LinkTraceState = 2,
}

impl Special {
    /// All, in the order in which they are written.
    pub(super) const ALL: [Special; 3] =
        [Special::StatusMessage, Special::TraceState, Special::LinkTraceState];
}

const SPECIALS: usize = Special::ALL.len();

/// All columns.
#[derive(Debug)]
pub(super) struct Columns {
    columns: Vec<Column>,
    /// Attribute columns of the current batch, in the order of their first use.
    used: Vec<u32>,
    dedup: Dedup,
    batch: u32,
    text_bytes: usize,
}

impl Columns {
    pub(super) fn new() -> Self {
        Columns {
            columns: (0..SPECIALS).map(|_| Column::new()).collect(),
            used: Vec::new(),
            dedup: Dedup::new(),
            batch: 0,
            text_bytes: 0,
        }
    }

    /// Begins the batch with the mark `batch`. `forget` if earlier attribute columns have lost their
    /// meaning; a column keeps at most [`KEPT_BYTES_MAX`] bytes of each buffer.
    pub(super) fn begin(&mut self, batch: u32, forget: bool) {
        if forget {
            self.columns.truncate(SPECIALS);
        }
        for &column in &self.used {
            let Some(column) = self.columns.get_mut(SPECIALS + column as usize) else { continue };
            column.values.shrink_to(KEPT_BYTES_MAX / 8);
            column.entries.shrink_to(KEPT_BYTES_MAX / 8);
            column.text.shrink_to(KEPT_BYTES_MAX);
        }
        self.batch = batch;
        self.used.clear();
        self.text_bytes = 0;
        self.dedup.begin(batch);
        for special in 0..SPECIALS {
            self.start(special);
        }
    }

    fn start(&mut self, index: usize) {
        let column = &mut self.columns[index];
        column.batch = self.batch;
        column.values.clear();
        column.entries.clear();
        column.text.clear();
        column.last = (0, 0);
    }

    #[inline(always)]
    fn attribute(&mut self, column: usize) -> usize {
        let index = SPECIALS + column;
        if self.columns.get(index).is_none_or(|column| column.batch != self.batch) {
            self.attribute_start(column);
        }
        index
    }

    #[cold]
    fn attribute_start(&mut self, column: usize) {
        while self.columns.len() <= SPECIALS + column {
            self.columns.push(Column::new());
        }
        self.start(SPECIALS + column);
        self.used.push(column as u32);
    }

    /// Columns of the current batch, in the order in which they are written.
    pub(super) fn used(&self) -> &[u32] {
        &self.used
    }

    /// Adds a value that takes no room: null.
    #[inline(always)]
    pub(super) fn push_nothing(&mut self, column: usize) {
        self.attribute(column);
    }

    /// Adds an integer, a boolean or the bits of a double.
    #[inline(always)]
    pub(super) fn push_word(&mut self, column: usize, value: u64) {
        let index = self.attribute(column);
        self.columns[index].values.push(value);
    }

    /// Adds a string.
    ///
    /// # Errors
    ///
    /// If the batch's strings exceed what a content may have.
    #[inline(always)]
    pub(super) fn push_str(&mut self, column: usize, value: StrRef<'_>) -> Result<(), BatchError> {
        let index = self.attribute(column);
        match value {
            StrRef::Str(value) => self.push_text(index, value.as_bytes()),
            StrRef::Interned(interned) => {
                let column = &mut self.columns[index];
                if column.last.0 != interned.get() {
                    return self.push_interned(index, interned);
                }
                column.values.push(column.last.1);
                Ok(())
            }
        }
    }

    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// As [`push_str`](Self::push_str).
    pub(super) fn push_bytes(&mut self, column: usize, value: &[u8]) -> Result<(), BatchError> {
        let index = self.attribute(column);
        self.push_text(index, value)
    }

    /// Adds a string that is not an attribute.
    ///
    /// # Errors
    ///
    /// As [`push_str`](Self::push_str).
    pub(super) fn push_special(&mut self, special: Special, value: &str) -> Result<(), BatchError> {
        self.push_text(special as usize, value.as_bytes())
    }

    fn push_interned(&mut self, index: usize, value: spanring::Interned) -> Result<(), BatchError> {
        let hash = Dedup::INTERNED | (index as u64) << 32 | u64::from(value.get());
        let entry = match self.dedup.find(hash, |_| true) {
            Found::Entry(entry) => u64::from(entry),
            Found::Vacant(slot) => self.add(index, hash, slot, value.as_str().as_bytes())?,
        };
        let column = &mut self.columns[index];
        column.values.push(entry);
        column.last = (value.get(), entry);
        Ok(())
    }

    fn push_text(&mut self, index: usize, value: &[u8]) -> Result<(), BatchError> {
        let hash = Dedup::hash(value, index);
        let columns = &self.columns;
        let same = |entry: u32| {
            columns[index].entries.len() > entry as usize
                && columns[index].entry(u64::from(entry)) == value
        };
        let entry = match self.dedup.find(hash, same) {
            Found::Entry(entry) => u64::from(entry),
            Found::Vacant(slot) => self.add(index, hash, slot, value)?,
        };
        self.columns[index].values.push(entry);
        Ok(())
    }

    fn add(
        &mut self,
        index: usize,
        hash: u64,
        slot: Option<usize>,
        value: &[u8],
    ) -> Result<u64, BatchError> {
        self.text_bytes = self.text_bytes.saturating_add(value.len());
        if self.text_bytes > CONTENT_BYTES_MAX / 2 {
            return Err(BatchError::too_large("bytes of strings", CONTENT_BYTES_MAX / 2));
        }
        let column = &mut self.columns[index];
        let entry = column.entries.len() as u32;
        column.entries.push((column.text.len() as u32, value.len() as u32));
        column.text.extend_from_slice(value);
        if let Some(slot) = slot {
            self.dedup.insert(slot, hash, entry);
        }
        Ok(u64::from(entry))
    }

    /// Writes the attribute columns of the current batch; returns the bytes that their strings take
    /// when the batch is decoded.
    pub(super) fn write_attributes(
        &mut self,
        writer: &mut Writer,
        kind: impl Fn(u32) -> Type,
    ) -> usize {
        let mut bytes = 0;
        for &column in &self.used {
            let values = &mut self.columns[SPECIALS + column as usize];
            match kind(column) {
                Type::Null => {}
                Type::Bool | Type::Int => write_integers(writer, &values.values),
                Type::Double => write_doubles(writer, &mut values.values),
                Type::Str | Type::Bytes | Type::Array | Type::Map => {
                    bytes += write_strings(writer, values);
                }
            }
        }
        bytes
    }

    /// Writes a column that is not an attribute; returns as
    /// [`write_attributes`](Self::write_attributes).
    pub(super) fn write_special(&mut self, writer: &mut Writer, special: Special) -> usize {
        write_strings(writer, &mut self.columns[special as usize])
    }
}

/// The average class of `values`, the base from which theirs are stated.
pub(super) fn class_base(values: impl ExactSizeIterator<Item = u64>) -> u8 {
    let len = values.len().max(1) as u64;
    let sum: u64 = values.map(|value| u64::from(class(value))).sum();
    ((sum + len / 2) / len) as u8
}

/// The distinct values in the order of their first use; `None` if there are too many for a dictionary.
fn distinct(values: &[u64], limit: usize) -> Option<Vec<u64>> {
    let mut distinct: Vec<u64> = Vec::new();
    let mut last = None;
    for &value in values {
        if last == Some(value) {
            continue;
        }
        last = Some(value);
        if !distinct.contains(&value) {
            if distinct.len() == limit {
                return None;
            }
            distinct.push(value);
        }
    }
    Some(distinct)
}

fn write_references(writer: &mut Writer, distinct: &[u64], values: &[u64]) {
    for value in values {
        let index = distinct.iter().position(|other| other == value).expect("they are all there");
        writer.byte(index as u8);
    }
}

fn write_integers(writer: &mut Writer, values: &[u64]) {
    let Some(&first) = values.first() else { return };
    let (mut min, mut max) = (first as i64, first as i64);
    let mut delta_bits = 0;
    let mut before = first;
    for &value in values {
        min = min.min(value as i64);
        max = max.max(value as i64);
        delta_bits += u64::from(class(zigzag(value.wrapping_sub(before) as i64)));
        before = value;
    }
    if min == max {
        writer.byte(mode::CONSTANT);
        return writer.signed_number(first as i64, 0);
    }
    // What is estimated here are bits. A symbol is reckoned at two bits.
    let len = values.len() as u64;
    let above = |value: u64| value.wrapping_sub(min as u64);
    let plain_bits = values.iter().map(|&value| u64::from(class(above(value)))).sum::<u64>();
    let limit = (values.len() / 4).clamp(2, DICTIONARY_MAX).min(values.len() - 1);
    let least_bits = plain_bits.min(delta_bits) + 2 * len;
    let dictionary = distinct(values, limit).filter(|distinct| {
        let each = u64::from(class(distinct.len() as u64 - 1));
        let entries: u64 = distinct.iter().map(|&value| 4 + u64::from(class(above(value)))).sum();
        len * each + entries < least_bits
    });
    if let Some(distinct) = dictionary {
        writer.byte(mode::DICTIONARY);
        writer.varint(distinct.len() as u64);
        distinct.iter().for_each(|&value| writer.signed_number(value as i64, 0));
        return write_references(writer, &distinct, values);
    }
    if delta_bits < plain_bits {
        writer.byte(mode::DELTA);
        let base = (delta_bits / len) as u8;
        writer.byte(base);
        let mut before = 0u64;
        for &value in values {
            writer.signed_number(value.wrapping_sub(before) as i64, base);
            before = value;
        }
        return;
    }
    writer.byte(mode::PLAIN);
    writer.signed_number(min, 0);
    let base = class_base(values.iter().map(|&value| above(value)));
    writer.byte(base);
    values.iter().for_each(|&value| writer.number(above(value), base));
}

/// Overwrites `values` where it writes them as integers.
fn write_doubles(writer: &mut Writer, values: &mut [u64]) {
    let Some(&first) = values.first() else { return };
    if values.iter().all(|&value| value == first) {
        writer.byte(mode::CONSTANT);
        return writer.ids.extend_from_slice(&first.to_le_bytes());
    }
    if let Some(exponent) = decimal_exponent(values) {
        writer.byte(mode::DECIMAL);
        writer.byte(exponent as u8);
        for value in values.iter_mut() {
            *value = (f64::from_bits(*value) * POWERS_OF_TEN[exponent]).round() as i64 as u64;
        }
        return write_integers(writer, values);
    }
    let limit = (values.len() / 4).clamp(1, DICTIONARY_MAX);
    if let Some(distinct) = distinct(values, limit) {
        writer.byte(mode::DICTIONARY);
        writer.varint(distinct.len() as u64);
        distinct.iter().for_each(|value| writer.ids.extend_from_slice(&value.to_le_bytes()));
        return write_references(writer, &distinct, values);
    }
    writer.byte(mode::PLAIN);
    // Sign, exponent and the leading bits of the fraction compress, the rest does not.
    for shift in [56, 48] {
        values.iter().for_each(|value| writer.byte((value >> shift) as u8));
    }
    values.iter().for_each(|value| writer.ids.extend_from_slice(&value.to_le_bytes()[..6]));
}

/// The least power of ten that makes all `values` integers which give the values back exactly.
fn decimal_exponent(values: &[u64]) -> Option<usize> {
    let exact = |value: f64, power: f64| {
        let scaled = (value * power).round();
        scaled.abs() < (1u64 << 53) as f64
            && (scaled as i64 as f64 / power).to_bits() == value.to_bits()
    };
    let mut exponent = 0;
    for &value in values {
        let value = f64::from_bits(value);
        while !exact(value, POWERS_OF_TEN[exponent]) {
            exponent += 1;
            if exponent == POWERS_OF_TEN.len() {
                return None;
            }
        }
    }
    // A higher power than a value needs may fail where the lower one did not.
    let power = POWERS_OF_TEN[exponent];
    values.iter().all(|&value| exact(f64::from_bits(value), power)).then_some(exponent)
}

fn write_strings(writer: &mut Writer, column: &mut Column) -> usize {
    let Column { values, entries, text, .. } = column;
    if values.is_empty() {
        return 0;
    }
    let entry_bytes = |index: usize| entries[index].1 as usize;
    let mut bytes = entries.len() * 2 * ENTRY_BYTES + text.len();
    if entries.len() == 1 {
        writer.byte(mode::CONSTANT);
        bytes += values.len() * entry_bytes(0);
    } else if entries.len() == values.len() {
        writer.byte(mode::PLAIN);
        bytes += text.len();
    } else {
        writer.byte(mode::DICTIONARY);
        let mut seen = 0;
        for &value in values.iter() {
            let is_new = value == seen;
            writer.varint(if is_new { 0 } else { value + 1 });
            seen += u64::from(is_new);
            bytes += entry_bytes(value as usize);
        }
    }
    // What each distinct string shares with the one before it; then what is left of each.
    let entry = |(at, len): (u32, u32)| &text[at as usize..][..len as usize];
    values.clear();
    values.push(0);
    for pair in entries.windows(2) {
        let shared = common_prefix(entry(pair[0]), entry(pair[1])) as u64;
        values.push(shared);
        writer.varint(shared);
    }
    for (&at, &shared) in entries.iter().zip(values.iter()) {
        writer.string(&entry(at)[shared as usize..]);
    }
    bytes
}
