//! Protobuf's encoding: keys, varints, fields, and lengths that stand before what they count.
//!
//! Lengths are minimal. That of a message whose length is known only once it is written goes into a
//! [`Slot`], as wide as the caller guesses; a wrong guess costs a move of the message, nothing else.

use crate::batch::put_varint;

/// Bytes that a varint takes at most.
const VARINT_BYTES_MAX: usize = 10;

/// Names the keys of fields: a field's number and how its value is encoded. All but one are one byte.
macro_rules! fields {
    ($($message:ident { $($name:ident = $encoding:ident $number:literal),* })*) => {
        /// The fields' keys, by message.
        pub(super) mod field {
            $(pub(in crate::otlp) mod $message {
                use super::super::encoding::*;
                $(pub(in crate::otlp) const $name: u8 = $encoding($number);)*
            })*
        }
    };
}

/// The key of a field by how its value is encoded.
mod encoding {
    pub(super) const fn varint(number: u8) -> u8 {
        number << 3
    }

    pub(super) const fn fixed64(number: u8) -> u8 {
        number << 3 | 1
    }

    pub(super) const fn bytes(number: u8) -> u8 {
        number << 3 | 2
    }

    pub(super) const fn fixed32(number: u8) -> u8 {
        number << 3 | 5
    }
}

fields! {
    request { RESOURCE_SPANS = bytes 1 }
    resource_spans { RESOURCE = bytes 1, SCOPE_SPANS = bytes 2, SCHEMA_URL = bytes 3 }
    resource { ATTRIBUTES = bytes 1, DROPPED_ATTRIBUTES = varint 2 }
    scope_spans { SCOPE = bytes 1, SPANS = bytes 2, SCHEMA_URL = bytes 3 }
    scope { NAME = bytes 1, VERSION = bytes 2, ATTRIBUTES = bytes 3, DROPPED_ATTRIBUTES = varint 4 }
    span {
        TRACE_ID = bytes 1, SPAN_ID = bytes 2, TRACE_STATE = bytes 3, PARENT_SPAN_ID = bytes 4,
        NAME = bytes 5, KIND = varint 6, START = fixed64 7, END = fixed64 8,
        ATTRIBUTES = bytes 9, DROPPED_ATTRIBUTES = varint 10,
        EVENTS = bytes 11, DROPPED_EVENTS = varint 12,
        LINKS = bytes 13, DROPPED_LINKS = varint 14, STATUS = bytes 15
    }
    event { TIME = fixed64 1, NAME = bytes 2, ATTRIBUTES = bytes 3, DROPPED_ATTRIBUTES = varint 4 }
    link {
        TRACE_ID = bytes 1, SPAN_ID = bytes 2, TRACE_STATE = bytes 3,
        ATTRIBUTES = bytes 4, DROPPED_ATTRIBUTES = varint 5, FLAGS = fixed32 6
    }
    status { MESSAGE = bytes 2, CODE = varint 3 }
    key_value { KEY = bytes 1, VALUE = bytes 2 }
    any_value {
        STRING = bytes 1, BOOL = varint 2, INT = varint 3, DOUBLE = fixed64 4,
        ARRAY = bytes 5, MAP = bytes 6, BYTES = bytes 7
    }
    // Arrays and maps alike.
    list { VALUES = bytes 1 }
    response { PARTIAL_SUCCESS = bytes 1 }
    partial_success { REJECTED_SPANS = varint 1, ERROR_MESSAGE = bytes 2 }
    rpc_status { CODE = varint 1, MESSAGE = bytes 2, DETAILS = bytes 3 }
}

/// The key of a span's flags: field 16, a fixed32.
pub(super) const SPAN_FLAGS: [u8; 2] = [0x85, 0x01];

/// Bytes that `value` takes as a varint.
#[inline(always)]
pub(super) fn varint_len(value: u64) -> usize {
    // Seven bits a byte: ceil(bits / 7), without a division.
    ((value | 1).ilog2() as usize * 9 + 73) / 64
}

/// Bytes of a field with a key of one byte whose value is `len` bytes behind their length.
#[inline(always)]
pub(super) fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Writes a field of bytes, even if there are none.
#[inline(always)]
pub(super) fn put_bytes(out: &mut Vec<u8>, key: u8, value: &[u8]) {
    out.push(key);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a string unless it is empty.
#[inline(always)]
pub(super) fn put_text(out: &mut Vec<u8>, key: u8, value: &str) {
    if !value.is_empty() {
        put_bytes(out, key, value.as_bytes());
    }
}

/// Writes an integer unless it is zero.
#[inline(always)]
pub(super) fn put_number(out: &mut Vec<u8>, key: u8, value: u64) {
    if value != 0 {
        out.push(key);
        put_varint(out, value);
    }
}

/// Writes a fixed64, even if it is zero.
#[inline(always)]
pub(super) fn put_fixed64(out: &mut Vec<u8>, key: u8, value: u64) {
    let mut field = [key; 9];
    field[1..].copy_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&field);
}

/// A length whose message is being written.
#[derive(Debug)]
#[must_use]
pub(super) struct Slot {
    at: usize,
    width: usize,
}

impl Slot {
    /// Begins a field that is a message, whose length is guessed to take `width` bytes.
    #[inline(always)]
    pub(super) fn open(out: &mut Vec<u8>, key: u8, width: u8) -> Self {
        out.push(key);
        let (at, width) = (out.len(), usize::from(width).clamp(1, VARINT_BYTES_MAX));
        // A copy of a known length and a cut are faster than a copy of any length.
        out.extend_from_slice(&[0; VARINT_BYTES_MAX]);
        out.truncate(at + width);
        Slot { at, width }
    }

    /// Ends the message; returns the bytes that its length took.
    #[inline(always)]
    pub(super) fn close(self, out: &mut Vec<u8>) -> u8 {
        let mut len = out.len() - self.at - self.width;
        let width = varint_len(len as u64);
        if width != self.width {
            self.shift(out, width);
        }
        let (last, first) = out[self.at..self.at + width].split_last_mut().expect("not zero");
        for byte in first {
            *byte = len as u8 | 0x80;
            len >>= 7;
        }
        *last = len as u8;
        width as u8
    }

    /// Moves the message so that `width` bytes are before it.
    #[cold]
    fn shift(&self, out: &mut Vec<u8>, width: usize) {
        let (from, to) = (self.at + self.width, self.at + width);
        let end = out.len();
        out.resize(end.max(end - from + to), 0);
        out.copy_within(from..end, to);
        out.truncate(end - from + to);
    }
}
