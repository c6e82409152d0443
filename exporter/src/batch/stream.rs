//! The four byte streams of a batch's content, and how integers go into them.
//!
//! * *symbols*: small numbers with skewed distributions, which entropy coding shrinks;
//! * *bits*: the low bits of large numbers, packed, which nothing shrinks;
//! * *ids*: IDs that do not follow from counters, and doubles that do not repeat;
//! * *text*: strings and bytes.
//!
//! A **number** is split between two of them: its *class* (the count of its significant bits, taken
//! relative to a base that its column states) is a symbol, and the bits below the leading one go to
//! *bits*. Keeping the kinds apart lets the compressor find one good code for each.
//!
//! The reader never reads past a stream's end, and its results are checked before they are used as
//! lengths.

use super::BatchError;

/// Symbols above this one are negative numbers, by the class of their magnitude.
const NEGATIVE: u8 = 129;
/// In a pair of symbols: that the symbol is this or larger, and follows elsewhere.
const PAIR_ESCAPE: u8 = 8;

/// Maps signed integers to unsigned ones so that small magnitudes stay small.
#[inline(always)]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline(always)]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Count of significant bits.
#[inline(always)]
pub(super) fn class(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Appends `value` in groups of seven bits, the lowest first; the high bit says that more follow.
#[inline(always)]
pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Takes a varint off the front of `from`; `None` if it is cut or longer than 64 bits.
#[inline]
pub(crate) fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Length of the common prefix, compared eight bytes at a time.
pub(super) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    let words = left.chunks_exact(8).zip(right.chunks_exact(8));
    let mut len = 8 * words.take_while(|(left, right)| left == right).count();
    while len < left.len().min(right.len()) && left[len] == right[len] {
        len += 1;
    }
    len
}

/// Writes the four streams.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) ids: Vec<u8>,
    pub(super) symbols: Vec<u8>,
    pub(super) text: Vec<u8>,
    pub(super) bits: Vec<u8>,
    /// Bits that do not fill eight bytes yet, and how many.
    pending: u64,
    pending_len: u32,
}

impl Writer {
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.symbols.clear();
        self.text.clear();
        self.bits.clear();
        (self.pending, self.pending_len) = (0, 0);
    }

    /// Appends the low `count` bits, at most 63, of `value`, which has no others.
    #[inline(always)]
    fn put_bits(&mut self, value: u64, count: u32) {
        let used = self.pending_len;
        self.pending |= value << used;
        self.pending_len = used + count;
        if self.pending_len >= 64 {
            self.bits.extend_from_slice(&self.pending.to_le_bytes());
            // `used` is not zero here, since `count` is below 64.
            self.pending = value >> (64 - used);
            self.pending_len -= 64;
        }
    }

    /// Pads *bits* to whole bytes. The last call before the streams are taken.
    pub(super) fn finish_bits(&mut self) {
        let len = self.pending_len.div_ceil(8) as usize;
        self.bits.extend_from_slice(&self.pending.to_le_bytes()[..len]);
        (self.pending, self.pending_len) = (0, 0);
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, value: u8) {
        self.symbols.push(value);
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, value: u64) {
        put_varint(&mut self.symbols, value);
    }

    #[inline(always)]
    pub(super) fn signed_varint(&mut self, value: i64) {
        self.varint(zigzag(value));
    }

    /// A string: its length to *symbols*, its bytes to *text*.
    pub(super) fn string(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.text.extend_from_slice(value);
    }

    /// An unsigned number whose class is stated relative to `base`.
    #[inline(always)]
    pub(super) fn number(&mut self, value: u64, base: u8) {
        let symbol = self.number_bits(value, class(value), base);
        self.symbols.push(symbol);
    }

    /// A signed number; a negative one's class is stated as it is.
    #[inline(always)]
    pub(super) fn signed_number(&mut self, value: i64, base: u8) {
        let symbol = self.signed_number_bits(value, class(value.unsigned_abs()), base);
        self.symbols.push(symbol);
    }

    /// Puts the low bits of an unsigned number of that class; returns its symbol.
    #[inline(always)]
    pub(super) fn number_bits(&mut self, value: u64, class: u32, base: u8) -> u8 {
        self.low_bits(value, class);
        zigzag(i64::from(class) - i64::from(base)) as u8
    }

    /// Puts the low bits of a signed number whose magnitude has that class; returns its symbol.
    #[inline(always)]
    pub(super) fn signed_number_bits(&mut self, value: i64, class: u32, base: u8) -> u8 {
        if value >= 0 {
            return self.number_bits(value as u64, class, base);
        }
        self.low_bits(value.unsigned_abs(), class);
        NEGATIVE + class as u8
    }

    #[inline(always)]
    fn low_bits(&mut self, value: u64, class: u32) {
        let count = class.saturating_sub(1);
        self.put_bits(value & ((1 << count) - 1), count);
    }

    /// Two symbols in one byte where both are small, as they mostly are: entropy coding is better, and
    /// faster, with one likely byte than with two. A larger one goes to `escapes`.
    #[inline(always)]
    pub(super) fn pair(&mut self, first: u8, second: u8, escapes: &mut Vec<u8>) {
        if first >= PAIR_ESCAPE {
            escapes.push(first);
        }
        if second >= PAIR_ESCAPE {
            escapes.push(second);
        }
        let pair = first.min(PAIR_ESCAPE) * (PAIR_ESCAPE + 1) + second.min(PAIR_ESCAPE);
        self.symbols.push(pair);
    }
}

/// Reads the four streams.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    ids: &'a [u8],
    symbols: &'a [u8],
    text: &'a [u8],
    bits: &'a [u8],
    /// Bits of `bits` that were read.
    bit: usize,
    /// What is being read, for errors.
    pub(super) part: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(ids: &'a [u8], bits: &'a [u8], symbols: &'a [u8], text: &'a [u8]) -> Self {
        Reader { ids, symbols, text, bits, bit: 0, part: "tables" }
    }

    pub(super) fn error(&self, what: &'static str) -> BatchError {
        BatchError::content(self.part, what)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, BatchError> {
        let Some((&byte, rest)) = self.symbols.split_first() else {
            return Err(self.error("the symbols end early"));
        };
        self.symbols = rest;
        Ok(byte)
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, BatchError> {
        take_varint(&mut self.symbols).ok_or_else(|| self.error("a varint is cut or too long"))
    }

    #[inline]
    pub(super) fn signed_varint(&mut self) -> Result<i64, BatchError> {
        self.varint().map(unzigzag)
    }

    pub(super) fn varint_u32(&mut self) -> Result<u32, BatchError> {
        u32::try_from(self.varint()?).map_err(|_| self.error("a number exceeds 32 bits"))
    }

    /// A count of things of which each takes at least one byte of *symbols*, so that the count is
    /// bounded by what is left of them.
    pub(super) fn count(&mut self) -> Result<usize, BatchError> {
        let count = self.varint()?;
        if count > self.symbols.len() as u64 {
            return Err(self.error("a count exceeds what is left of the batch"));
        }
        Ok(count as usize)
    }

    /// An index below `len`.
    pub(super) fn index(&mut self, len: usize) -> Result<usize, BatchError> {
        let index = self.varint()?;
        if index >= len as u64 {
            return Err(self.error("an index is out of range"));
        }
        Ok(index as usize)
    }

    /// The base from which a column's classes are stated.
    pub(super) fn base(&mut self) -> Result<u8, BatchError> {
        match self.byte()? {
            base @ 0..=64 => Ok(base),
            _ => Err(self.error("a base of classes is above 64")),
        }
    }

    /// Bytes of *symbols* that are left.
    pub(super) fn symbols_left(&self) -> usize {
        self.symbols.len()
    }

    /// `len` bytes of *symbols*.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let Some((bytes, rest)) = self.symbols.split_at_checked(len) else {
            return Err(self.error("the symbols end early"));
        };
        self.symbols = rest;
        Ok(bytes)
    }

    /// `len` bytes of *text*.
    pub(super) fn text(&mut self, len: u64) -> Result<&'a [u8], BatchError> {
        let split = usize::try_from(len).ok().and_then(|len| self.text.split_at_checked(len));
        let Some((bytes, rest)) = split else {
            return Err(self.error("the text ends early"));
        };
        self.text = rest;
        Ok(bytes)
    }

    /// What [`Writer::string`] wrote.
    pub(super) fn string(&mut self) -> Result<&'a [u8], BatchError> {
        let len = self.varint()?;
        self.text(len)
    }

    pub(super) fn utf8(&self, bytes: Vec<u8>) -> Result<String, BatchError> {
        String::from_utf8(bytes).map_err(|_| self.error("a string is not UTF-8"))
    }

    /// `N` bytes of *ids*.
    pub(super) fn id<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let Some((bytes, rest)) = self.ids.split_first_chunk::<N>() else {
            return Err(self.error("the raw IDs end early"));
        };
        self.ids = rest;
        Ok(*bytes)
    }

    /// What [`Writer::number`] wrote.
    #[inline]
    pub(super) fn number(&mut self, base: u8) -> Result<u64, BatchError> {
        let symbol = self.byte()?;
        self.number_of(symbol, base)
    }

    /// What [`Writer::signed_number`] wrote.
    #[inline]
    pub(super) fn signed_number(&mut self, base: u8) -> Result<i64, BatchError> {
        let symbol = self.byte()?;
        self.signed_number_of(symbol, base)
    }

    /// The unsigned number with that symbol.
    #[inline]
    pub(super) fn number_of(&mut self, symbol: u8, base: u8) -> Result<u64, BatchError> {
        match self.magnitude(symbol, base)? {
            (value, false) => Ok(value),
            _ => Err(self.error("a number is negative")),
        }
    }

    /// The signed number with that symbol.
    #[inline]
    pub(super) fn signed_number_of(&mut self, symbol: u8, base: u8) -> Result<i64, BatchError> {
        match self.magnitude(symbol, base)? {
            (value, true) if value <= 1 << 63 => Ok((value as i64).wrapping_neg()),
            (value, false) if value < 1 << 63 => Ok(value as i64),
            _ => Err(self.error("a number exceeds 64 bits")),
        }
    }

    #[inline]
    fn magnitude(&mut self, symbol: u8, base: u8) -> Result<(u64, bool), BatchError> {
        let (class, negative) = if symbol < NEGATIVE {
            (i64::from(base) + unzigzag(u64::from(symbol)), false)
        } else {
            (i64::from(symbol - NEGATIVE), true)
        };
        if !(0..=64).contains(&class) || negative && class == 0 {
            return Err(self.error("a number has no valid class"));
        }
        if class == 0 {
            return Ok((0, false));
        }
        let count = class as u32 - 1;
        Ok((1 << count | self.take_bits(count)?, negative))
    }

    /// The symbols of a pair, of which an escaped one is the next of the symbols.
    #[inline]
    pub(super) fn pair(&mut self, pair: u8) -> Result<(u8, u8), BatchError> {
        let (first, second) = (pair / (PAIR_ESCAPE + 1), pair % (PAIR_ESCAPE + 1));
        if first > PAIR_ESCAPE {
            return Err(self.error("a pair has no valid value"));
        }
        let first = if first == PAIR_ESCAPE { self.byte()? } else { first };
        let second = if second == PAIR_ESCAPE { self.byte()? } else { second };
        Ok((first, second))
    }

    /// The next `count` bits, at most 63.
    #[inline]
    fn take_bits(&mut self, count: u32) -> Result<u64, BatchError> {
        let end = self.bit + count as usize;
        if end > self.bits.len() * 8 {
            return Err(self.error("the packed bits end early"));
        }
        // Up to 63 bits from an offset below 8 span at most nine bytes.
        let mut window = [0; 16];
        let from = &self.bits[self.bit / 8..self.bits.len().min(self.bit / 8 + 9)];
        window[..from.len()].copy_from_slice(from);
        let value = u128::from_le_bytes(window) >> (self.bit % 8);
        self.bit = end;
        Ok(value as u64 & ((1 << count) - 1))
    }

    /// That nothing is left unread.
    pub(super) fn finish(&self) -> Result<(), BatchError> {
        let bits_left = self.bits.len() * 8 - self.bit;
        let padding_is_zero = bits_left < 8
            && (bits_left == 0 || self.bits[self.bits.len() - 1] >> (8 - bits_left) == 0);
        let left = self.ids.len() + self.symbols.len() + self.text.len();
        if left != 0 || !padding_is_zero {
            return Err(BatchError::content("end", "bytes are left over"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_class_and_base_come_back() {
        let mut writer = Writer::default();
        let mut values = vec![0, u64::MAX];
        values.extend((0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1, (1u64 << bit) | 1]));
        for &value in &values {
            for base in [0, 1, 17, 64] {
                writer.number(value, base);
                writer.signed_number(value as i64, base);
            }
        }
        writer.finish_bits();
        let mut reader = Reader::new(&[], &writer.bits, &writer.symbols, &[]);
        for &value in &values {
            for base in [0, 1, 17, 64] {
                assert_eq!(reader.number(base).unwrap(), value);
                assert_eq!(reader.signed_number(base).unwrap(), value as i64);
            }
        }
        reader.finish().unwrap();
    }

    #[test]
    fn varints_come_back_and_longer_ones_are_refused() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut from = &bytes[..];
            assert_eq!(take_varint(&mut from), Some(value));
            assert!(from.is_empty());
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
        assert_eq!(
            take_varint(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2][..]),
            None
        );
    }

    #[test]
    fn left_over_bytes_and_padding_bits_are_refused() {
        assert!(Reader::new(&[], &[], &[], &[]).finish().is_ok());
        for streams in [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] {
            let bytes = [0u8];
            let [ids, bits, symbols, text] = streams.map(|len| &bytes[..len]);
            assert!(Reader::new(ids, bits, symbols, text).finish().is_err());
        }
        let mut reader = Reader::new(&[], &[0b10], &[2 * 2], &[]);
        assert_eq!(reader.number(0).unwrap(), 2);
        assert!(reader.finish().is_err(), "a padding bit is set");
    }
}
