//! The record: a finished span as bytes, its builder ([`Payload`]) and its reader ([`RecordRef`]).
//!
//! A record is one 64-byte [`Header`] cell and as many payload cells as its attributes, events and
//! links need. The payload is a sequence of *items* in 64-bit words. An item begins with a header
//! word:
//!
//! ```text
//! bits 0..8   tag      what the item is, see `tag`
//! bits 8..32  aux      length in bytes (strings), words that follow (containers), or the value itself
//! bits 32..64 key      interned string (0: none, or given by a KEY item just before)
//! ```
//!
//! Containers (array, map, event, link) hold their items inline, so that a walk that treats a
//! container's header as an item of its own visits every item of the payload.
//!
//! Large values are owned `Bytes` whose four words lie in the payload; whoever consumes the record
//! drops them exactly once. A payload above [`INLINE_WORDS_MAX`] words travels as one heap block.
//!
//! What this file never does: allocate for a span whose payload fits in [`INLINE_WORDS`] words (or,
//! in steady state, in a recycled buffer of the thread), or hand out a reference to memory that the
//! record does not own.

mod edit;

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use crate::call_site::{AttributeList, Known};
use crate::intern::{self, Interned};
use crate::limits::SpanLimits;
use crate::scratch;
use crate::value::Depth;

pub use edit::{Asked, Change, Fate, Within};

/// Bytes of one cell.
pub const CELL_BYTES: usize = 64;
const CELL_WORDS: usize = CELL_BYTES / 8;
/// Payload words that a span under construction holds on the stack: 128 bytes.
pub const INLINE_WORDS: usize = 16;
/// Payload words that travel in ring cells; a larger payload travels as one heap block.
pub const INLINE_WORDS_MAX: usize = 1016;
/// Payload words that one span may have in all: 1 MiB, large values not counted.
pub const PAYLOAD_WORDS_MAX: usize = 1 << 17;
/// Strings and bytes above this length travel as owned `Bytes`, counted against `MAX_BYTES`.
pub const LARGE_BYTES_MIN: usize = 1024;
const LARGE_WORDS: usize = size_of::<Bytes>() / 8;
const AUX_BITS: u32 = 24;

/// One cell of a ring.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Cell(pub [u64; CELL_WORDS]);

/// The first cell of every record. Offsets in bytes are asserted below.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Header {
    /// Low half of the trace ID, or the trace's counter unless [`flag::TRACE_RAW`] is set.
    pub trace_lo: u64,
    /// High half of the trace ID; zero unless [`flag::TRACE_RAW`] is set.
    pub trace_hi: u64,
    /// The span's counter, or its ID if [`flag::SPAN_RAW`] is set.
    pub span: u64,
    /// The parent's counter, or its ID if [`flag::PARENT_RAW`] is set; zero for none.
    pub parent: u64,
    /// Start in clock ticks, or in ns since the Unix epoch if [`flag::START_WALL`] is set.
    pub start: u64,
    /// End, likewise, with [`flag::END_WALL`].
    pub end: u64,
    /// Interned name; zero if the payload holds a NAME item.
    pub name: u32,
    /// Means nothing in a record.
    pub context: u8,
    /// W3C trace flags of the span's context.
    pub trace_flags: u8,
    /// See [`flag`].
    pub flags: u16,
    /// [`SpanKind`](crate::SpanKind) in the low four bits, [`StatusCode`](crate::StatusCode) above.
    pub kind_status: u8,
    /// Reserved, zero.
    pub reserved: u8,
    /// Words of payload in the cells that follow; see [`flag::BOXED`].
    pub payload_words: u16,
    /// Number of the tracer (instrumentation scope and resource); zero for the default one.
    pub scope: u16,
    /// Reserved, zero.
    pub reserved_2: u16,
}

const _: () = {
    assert!(size_of::<Header>() == CELL_BYTES && size_of::<Cell>() == CELL_BYTES);
    assert!(std::mem::offset_of!(Header, span) == 16);
    assert!(std::mem::offset_of!(Header, start) == 32);
    assert!(std::mem::offset_of!(Header, name) == 48);
    assert!(std::mem::offset_of!(Header, flags) == 54);
    assert!(std::mem::offset_of!(Header, payload_words) == 58);
    assert!(size_of::<Bytes>().is_multiple_of(8) && align_of::<Bytes>() <= 8);
    assert!(INLINE_WORDS_MAX <= u16::MAX as usize && LARGE_BYTES_MIN < 1 << AUX_BITS);
    assert!(PAYLOAD_WORDS_MAX < 1 << AUX_BITS);
};

/// Bits of [`Header::flags`].
pub mod flag {
    /// The trace ID is stored as it is; otherwise its counter is.
    pub const TRACE_RAW: u16 = 1;
    /// The span ID is stored as it is.
    pub const SPAN_RAW: u16 = 1 << 1;
    /// The parent's span ID is stored as it is.
    pub const PARENT_RAW: u16 = 1 << 2;
    /// The parent is in another process.
    pub const PARENT_REMOTE: u16 = 1 << 3;
    /// The start is wall-clock time.
    pub const START_WALL: u16 = 1 << 4;
    /// The end is wall-clock time.
    pub const END_WALL: u16 = 1 << 5;
    /// The payload cell holds pointer, length and capacity of a heap block that holds the payload.
    pub const BOXED: u16 = 1 << 6;
    /// The payload holds owned large values.
    pub const HAS_LARGE: u16 = 1 << 7;
    /// The span asked to be sealed at once.
    pub const CRITICAL: u16 = 1 << 8;
    /// Not in a record: the span is dropped unless it ends with the status error.
    pub const ONLY_ERRORS: u16 = 1 << 9;
    /// The span is in the memory profile; in no record.
    pub(crate) const PROFILED: u16 = 1 << 10;
    /// Not a record: the rest of this segment is unused.
    pub const END_OF_SEGMENT: u16 = 1 << 15;
}

mod tag {
    pub(super) const NULL: u8 = 1;
    pub(super) const BOOL: u8 = 2; // aux: 0 or 1
    pub(super) const INT_SMALL: u8 = 3; // aux: sign-extended value
    pub(super) const INT: u8 = 4; // one word
    pub(super) const DOUBLE: u8 = 5; // one word
    pub(super) const STR_INTERNED: u8 = 6; // aux: interned string
    pub(super) const STR: u8 = 7; // aux: bytes
    pub(super) const BYTES: u8 = 8; // aux: bytes
    pub(super) const STR_LARGE: u8 = 9; // LARGE_WORDS words: an owned `Bytes`
    pub(super) const BYTES_LARGE: u8 = 10; // likewise
    pub(super) const ARRAY: u8 = 11; // aux: words that follow
    pub(super) const MAP: u8 = 12; // aux: words that follow
    pub(super) const KEY: u8 = 13; // aux: bytes; key of the next item
    pub(super) const EVENT: u8 = 16; // key: name; aux: words; first word: ticks
    pub(super) const EVENT_WALL: u8 = 17; // first word: ns since the Unix epoch
    pub(super) const LINK: u8 = 18; // key: flags; words: trace_lo, trace_hi, span; then items
    pub(super) const STATUS_MESSAGE: u8 = 19; // aux: bytes
    pub(super) const NAME: u8 = 20; // aux: bytes
    pub(super) const TRACE_STATE: u8 = 21; // aux: bytes
    pub(super) const DROPPED: u8 = 22; // one word: attributes, events, links: 21 bits each
}

const fn item(tag: u8, aux: u32, key: u32) -> u64 {
    debug_assert!(aux < 1 << AUX_BITS);
    tag as u64 | (aux as u64) << 8 | (key as u64) << 32
}

/// The words of an integer: one if it fits in 24 bits, two if not.
#[inline(always)]
fn int_item(key: u32, value: i64) -> (u64, Option<u64>) {
    const HALF: i64 = 1 << (AUX_BITS - 1);
    if (-HALF..HALF).contains(&value) {
        (item(tag::INT_SMALL, value as u32 & ((1 << AUX_BITS) - 1), key), None)
    } else {
        (item(tag::INT, 0, key), Some(value as u64))
    }
}

/// Bytes of the longest text that a plain item may be: the digits and the sign of a 128-bit integer.
const PLAIN_TEXT_BYTES_MAX: usize = 40;

/// Where plain items go that are known to fit.
#[doc(hidden)]
#[derive(Debug)]
pub struct PlainItems {
    at: *mut u64,
}

impl PlainItems {
    /// # Safety
    ///
    /// There is room for a word.
    #[inline(always)]
    unsafe fn push(&mut self, word: u64) {
        // SAFETY: the caller's promise.
        unsafe {
            self.at.write(word);
            self.at = self.at.add(1);
        }
    }

    /// # Safety
    ///
    /// There is room for one word.
    #[inline(always)]
    pub(crate) unsafe fn push_bool(&mut self, key: u32, value: bool) {
        // SAFETY: the caller's promise.
        unsafe { self.push(item(tag::BOOL, u32::from(value), key)) };
    }

    /// # Safety
    ///
    /// There is room for two words.
    #[inline(always)]
    pub(crate) unsafe fn push_int(&mut self, key: u32, value: i64) {
        let (first, second) = int_item(key, value);
        // SAFETY: the caller's promise.
        unsafe {
            self.push(first);
            if let Some(second) = second {
                self.push(second);
            }
        }
    }

    /// # Safety
    ///
    /// There is room for two words.
    #[inline(always)]
    pub(crate) unsafe fn push_double(&mut self, key: u32, value: f64) {
        // SAFETY: the caller's promise.
        unsafe {
            self.push(item(tag::DOUBLE, 0, key));
            self.push(value.to_bits());
        }
    }

    /// # Safety
    ///
    /// There is room for the text and a word, and values are not cut.
    #[cold]
    pub(crate) unsafe fn push_text(&mut self, key: u32, value: &str) {
        assert!(value.len() <= PLAIN_TEXT_BYTES_MAX, "a text that was not promised");
        let mut bytes = [0; PLAIN_TEXT_BYTES_MAX];
        bytes[..value.len()].copy_from_slice(value.as_bytes());
        let words = value.len().div_ceil(8);
        // SAFETY: the caller's promise.
        unsafe { self.push(item(tag::STR, value.len() as u32, key)) };
        for word in bytes.as_chunks::<8>().0.iter().take(words) {
            // SAFETY: likewise.
            unsafe { self.push(u64::from_ne_bytes(*word)) };
        }
    }

    /// # Safety
    ///
    /// There is room for one word, values are not cut, and `value` is a number of the interner's.
    #[inline(always)]
    pub(crate) unsafe fn push_interned(&mut self, key: u32, value: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.push(item(tag::STR_INTERNED, value, key)) };
    }
}

const fn item_tag(word: u64) -> u8 {
    word as u8
}

const fn item_aux(word: u64) -> usize {
    ((word >> 8) & ((1 << AUX_BITS) - 1)) as usize
}

const fn item_key(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Words of an item with its header, a container's contents included.
fn item_words(word: u64) -> usize {
    1 + match item_tag(word) {
        tag::NULL | tag::BOOL | tag::INT_SMALL | tag::STR_INTERNED => 0,
        tag::INT | tag::DOUBLE | tag::DROPPED => 1,
        tag::STR_LARGE | tag::BYTES_LARGE => LARGE_WORDS,
        tag::ARRAY | tag::MAP | tag::EVENT | tag::EVENT_WALL | tag::LINK => item_aux(word),
        _ => item_aux(word).div_ceil(8),
    }
}

/// The items of one span under construction: attributes, events, links and the rest.
///
/// Owns its large values and its overflow buffer; dropping it releases both.
#[repr(C)]
pub struct Payload {
    limits: &'static SpanLimits,
    heap: Option<Box<scratch::Block>>,
    /// Words in use, in `inline` or in `heap`.
    len: u32,
    attributes: u32,
    events: u32,
    links: u32,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
    has_large: bool,
    /// Set when a write found no room; the operation that began it rolls back.
    overflowed: bool,
    /// Not zero once there is something that a plain copy of the items does not do justice to
    /// ([`special`]): one was dropped, one owns memory, they moved to the heap, or the span says so.
    /// (16 bits: so that this and the six words before are cleared by one store.)
    special: u16,
    inline: [MaybeUninit<u64>; INLINE_WORDS],
}

/// Bits of [`Payload`]'s `special`.
mod special {
    pub(super) const OTHER: u16 = 1;
    /// The attribute `priority` was `critical`, and is unless it was set again.
    pub(super) const PRIORITY: u16 = 1 << 1;
}

/// The first attributes of a span, all at once: none is set before [`set`](Self::set). For the C ABI.
#[doc(hidden)]
#[derive(Debug)]
pub struct FirstAttributes<'a> {
    payload: &'a mut Payload,
    /// Words that were written.
    len: usize,
    count: u32,
}

impl FirstAttributes<'_> {
    /// Writes an attribute whose key is not among them; false if it does not fit, or needs more than a few words.
    #[inline(always)]
    pub fn add<V: crate::IntoValue>(&mut self, key: crate::Interned, value: V) -> bool {
        if self.len + V::PLAIN_WORDS_MAX > INLINE_WORDS || !value.is_plain() {
            return false;
        }
        // SAFETY: `len` is at most `INLINE_WORDS`.
        let from = unsafe { self.payload.inline.as_mut_ptr().add(self.len) }.cast::<u64>();
        let mut items = PlainItems { at: from };
        // SAFETY: it is plain, there is room for it, and values are not cut.
        unsafe { value.write_plain(&mut items, key.get()) };
        // SAFETY: both point into `inline`, or to its end.
        self.len += unsafe { items.at.offset_from(from) } as usize;
        self.count += 1;
        true
    }

    /// As [`add`](Self::add), for a text.
    #[inline(always)]
    pub fn add_str(&mut self, key: crate::Interned, value: &str) -> bool {
        let words = value.len().div_ceil(8);
        if self.len + 1 + words > INLINE_WORDS {
            return false;
        }
        // SAFETY: there is room for the words.
        let mut at = unsafe { self.payload.inline.as_mut_ptr().add(self.len) }.cast::<u64>();
        // Word by word: a call would cost the callers' loops their registers.
        let (full, rest) = value.as_bytes().as_chunks::<8>();
        let mut put = |word| {
            // SAFETY: as above.
            unsafe {
                at.write(word);
                at = at.add(1);
            }
        };
        put(item(tag::STR, value.len() as u32, key.get()));
        full.iter().for_each(|word| put(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            put(rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        self.len += 1 + words;
        self.count += 1;
        true
    }

    /// Sets them; false if they are more than the span may have, and none is set.
    #[inline(always)]
    pub fn set(self) -> bool {
        if self.count > self.payload.limits.attribute_count() {
            return false;
        }
        self.payload.len = self.len as u32;
        self.payload.attributes = self.count;
        true
    }
}

/// What an array, map, event or link must be closed with.
#[derive(Debug)]
#[must_use]
pub struct Container {
    at: u32,
}

/// The limits of a payload to which nothing is to be added yet.
static UNDECIDED: SpanLimits = SpanLimits::zero();
static UNLIMITED: SpanLimits = SpanLimits::unlimited();

impl Payload {
    /// Makes the payload at `this` an empty one under `limits`.
    ///
    /// # Safety
    ///
    /// `this` is valid for writes; what it held is not dropped.
    #[inline(always)]
    pub(crate) unsafe fn begin(this: *mut Payload, limits: &'static SpanLimits) {
        // SAFETY: the caller's promise. Every field but `inline`, which needs no value, is written.
        unsafe {
            (&raw mut (*this).limits).write(limits);
            (&raw mut (*this).heap).write(None);
            Self::reset(this);
        }
    }

    /// Makes the payload at `this` one that is not [plain](Self::is_plain), and otherwise not to be used.
    ///
    /// # Safety
    ///
    /// As for [`begin`](Self::begin).
    pub(crate) unsafe fn begin_none(this: *mut Payload) {
        // SAFETY: the caller's promise.
        unsafe {
            Self::begin(this, &UNLIMITED);
            (*this).mark_special();
        }
    }

    /// The sampler is to see the span's attributes before they are written.
    pub(crate) fn begin_undecided(&mut self) {
        self.limits = &UNDECIDED;
        self.special = 1;
    }

    /// Undoes [`begin_undecided`](Self::begin_undecided).
    pub(crate) fn end_undecided(&mut self, limits: &'static SpanLimits) {
        self.limits = limits;
    }

    /// Whether the sampler has not decided yet. [`has_room_for`](Self::has_room_for) says no then.
    #[inline(always)]
    pub(crate) fn is_undecided(&self) -> bool {
        std::ptr::eq(self.limits, &raw const UNDECIDED)
    }

    /// Empties a payload that is [plain](Self::is_plain).
    ///
    /// # Safety
    ///
    /// `this` is valid for writes; what it held is not dropped.
    #[inline(always)]
    pub(crate) unsafe fn reset(this: *mut Payload) {
        // SAFETY: the caller's promise. Only `limits`, `heap` and `inline` are left.
        unsafe {
            (&raw mut (*this).len).write(0);
            (&raw mut (*this).attributes).write(0);
            (&raw mut (*this).events).write(0);
            (&raw mut (*this).links).write(0);
            (&raw mut (*this).dropped_attributes).write(0);
            (&raw mut (*this).dropped_events).write(0);
            (&raw mut (*this).dropped_links).write(0);
            (&raw mut (*this).has_large).write(false);
            (&raw mut (*this).overflowed).write(false);
            (&raw mut (*this).special).write(0);
        }
    }

    /// An empty payload without limits, for tools and tests.
    #[doc(hidden)]
    pub fn unlimited() -> Self {
        let mut payload = MaybeUninit::uninit();
        // SAFETY: `begin` makes it a payload.
        unsafe {
            Self::begin(payload.as_mut_ptr(), &UNLIMITED);
            payload.assume_init()
        }
    }

    /// Words in use.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the payload owns large values.
    #[inline(always)]
    pub(crate) fn has_large(&self) -> bool {
        self.has_large
    }

    /// Whether the items are all in the payload itself, own nothing, none was dropped, and the span has
    /// not been [marked](Self::mark_special).
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.special == 0
    }

    /// The span's end must look at everything.
    pub(crate) fn mark_special(&mut self) {
        self.special |= special::OTHER;
    }

    /// The items as words.
    #[inline(always)]
    pub(crate) fn words(&self) -> &[u64] {
        match &self.heap {
            None => {
                // SAFETY: the first `len` words of `inline` have been written, since `grow` hands out
                // words that its callers fill before anything reads them.
                unsafe { std::slice::from_raw_parts(self.inline.as_ptr().cast(), self.len()) }
            }
            Some(block) => block,
        }
    }

    #[inline(always)]
    fn words_mut(&mut self) -> &mut [u64] {
        let len = self.len();
        match &mut self.heap {
            None => {
                // SAFETY: as in `words`; the borrow is unique.
                unsafe { std::slice::from_raw_parts_mut(self.inline.as_mut_ptr().cast(), len) }
            }
            Some(block) => block,
        }
    }

    /// Room for `count` more words, or null (and `overflowed`) past [`PAYLOAD_WORDS_MAX`]. The caller
    /// writes all of them at once.
    #[inline(always)]
    fn grow(&mut self, count: usize) -> *mut u64 {
        let len = self.len();
        if self.heap.is_none() && len + count <= INLINE_WORDS {
            self.len += count as u32;
            // SAFETY: `len + count <= INLINE_WORDS`, so the pointer stays inside `inline`.
            return unsafe { self.inline.as_mut_ptr().add(len).cast() };
        }
        self.grow_heap(count)
    }

    #[cold]
    #[inline(never)]
    fn grow_heap(&mut self, count: usize) -> *mut u64 {
        let len = self.len();
        if len + count > PAYLOAD_WORDS_MAX {
            self.overflowed = true;
            return std::ptr::null_mut();
        }
        if self.heap.is_none() {
            let mut block = scratch::take();
            block.extend_from_slice(self.words());
            self.heap = Some(block);
            self.special |= special::OTHER;
        }
        self.len += count as u32;
        let block = self.heap.as_mut().expect("set above");
        block.resize(len + count, 0);
        // SAFETY: the block was resized to `len + count` words.
        unsafe { block.as_mut_ptr().add(len) }
    }

    #[inline(always)]
    fn push1(&mut self, word: u64) {
        let at = self.grow(1);
        if !at.is_null() {
            // SAFETY: `grow(1)` gave one word.
            unsafe { at.write(word) };
        }
    }

    #[inline(always)]
    fn push2(&mut self, first: u64, second: u64) {
        let at = self.grow(2);
        if !at.is_null() {
            // SAFETY: `grow(2)` gave two words.
            unsafe {
                at.write(first);
                at.add(1).write(second);
            }
        }
    }

    fn push_text(&mut self, tag: u8, key: u32, bytes: &[u8]) {
        let words = bytes.len().div_ceil(8);
        let at = self.grow(1 + words);
        if at.is_null() {
            return;
        }
        // SAFETY: `grow` gave `1 + words` words; the last is zeroed before the bytes are copied, so
        // every byte of the room is written, and `bytes` cannot overlap memory that we just claimed.
        unsafe {
            at.write(item(tag, bytes.len() as u32, key));
            if words > 0 {
                at.add(words).write(0);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.add(1).cast(), bytes.len());
            }
        }
    }

    fn push_large(&mut self, tag: u8, key: u32, value: Bytes) {
        if !self.limits.reserve_bytes(value.len()) {
            self.overflowed = true;
            return;
        }
        let at = self.grow(1 + LARGE_WORDS);
        if at.is_null() {
            self.limits.release_bytes(value.len());
            return;
        }
        self.has_large = true;
        self.special |= special::OTHER;
        // SAFETY: `grow` gave `1 + LARGE_WORDS` words, as many as `Bytes` takes, aligned to 8.
        unsafe {
            at.write(item(tag, 0, key));
            at.add(1).cast::<Bytes>().write(value);
        }
    }

    /// Writes null.
    #[inline]
    pub(crate) fn push_null(&mut self, key: u32) {
        self.push1(item(tag::NULL, 0, key));
    }

    /// Writes a boolean.
    #[inline(always)]
    pub(crate) fn push_bool(&mut self, key: u32, value: bool) {
        self.push1(item(tag::BOOL, u32::from(value), key));
    }

    /// Writes an integer: one word if it fits in 24 bits, two if not.
    #[inline(always)]
    pub(crate) fn push_int(&mut self, key: u32, value: i64) {
        match int_item(key, value) {
            (first, None) => self.push1(first),
            (first, Some(second)) => self.push2(first, second),
        }
    }

    /// Writes a double.
    #[inline(always)]
    pub(crate) fn push_double(&mut self, key: u32, value: f64) {
        self.push2(item(tag::DOUBLE, 0, key), value.to_bits());
    }

    /// Writes an interned string.
    #[inline(always)]
    pub(crate) fn push_interned(&mut self, key: u32, value: Interned) {
        if self.limits.cuts_values() {
            return self.push_str(key, value.as_str());
        }
        self.push1(item(tag::STR_INTERNED, value.get(), key));
    }

    /// Writes a string, cut to the length limit.
    pub(crate) fn push_str(&mut self, key: u32, value: &str) {
        let value = cut_chars(value, self.limits.attribute_value_length());
        if value.len() > LARGE_BYTES_MIN {
            self.push_large(tag::STR_LARGE, key, Bytes::copy_from_slice(value.as_bytes()));
        } else {
            self.push_text(tag::STR, key, value.as_bytes());
        }
    }

    /// Writes an owned string without copying it if it is large.
    pub(crate) fn push_string(&mut self, key: u32, mut value: String) {
        let len = cut_chars(&value, self.limits.attribute_value_length()).len();
        if len > LARGE_BYTES_MIN {
            if len < value.len() {
                // What is cut off must not stay allocated, since only the length is counted.
                value.truncate(len);
                value.shrink_to_fit();
            }
            self.push_large(tag::STR_LARGE, key, Bytes::from(value));
        } else {
            self.push_text(tag::STR, key, &value.as_bytes()[..len]);
        }
    }

    /// Writes bytes, cut to the length limit.
    pub(crate) fn push_bytes(&mut self, key: u32, mut value: Bytes) {
        value.truncate(self.limits.attribute_value_length());
        if value.len() > LARGE_BYTES_MIN {
            self.push_large(tag::BYTES_LARGE, key, value);
        } else {
            self.push_text(tag::BYTES, key, &value);
        }
    }

    /// Begins an array; its elements follow with key 0.
    pub(crate) fn begin_array(&mut self, key: u32) -> Container {
        self.open(item(tag::ARRAY, 0, key), &[])
    }

    /// Begins a map; its entries follow with their keys.
    pub(crate) fn begin_map(&mut self, key: u32) -> Container {
        self.open(item(tag::MAP, 0, key), &[])
    }

    fn open(&mut self, header: u64, words: &[u64]) -> Container {
        let at = self.len;
        self.push1(header);
        for word in words {
            self.push1(*word);
        }
        Container { at }
    }

    /// Closes a container.
    pub(crate) fn end_container(&mut self, container: Container) {
        if self.overflowed {
            return;
        }
        let at = container.at as usize;
        let body = (self.len() - at - 1) as u64;
        self.words_mut()[at] |= body << 8;
    }

    /// The key to give to the next item: the interned number of `key`, or 0 after writing a KEY item
    /// where the table is full.
    pub(crate) fn key(&mut self, key: &str) -> u32 {
        match intern::lookup(key) {
            Some(interned) => interned.get(),
            None => {
                let key = cut_str(key, (1 << AUX_BITS) - 1);
                self.push_text(tag::KEY, 0, key.as_bytes());
                0
            }
        }
    }

    /// Runs `write`; takes back what it wrote if it found no room, or if it panicked. False if taken
    /// back.
    ///
    /// `write` may run code of the caller's (a closure given as a value), which may unwind. What it
    /// leaves then is no whole item: a container without its length, or a key without its value, and a
    /// reader would take plain words for items.
    #[inline(always)]
    fn attempt(&mut self, write: impl FnOnce(&mut Self)) -> bool {
        let start = self.len();
        let unwinding = Unwinding { payload: self, start };
        write(&mut *unwinding.payload);
        std::mem::forget(unwinding);
        if self.overflowed {
            self.roll_back(start);
            return false;
        }
        true
    }

    #[cold]
    fn roll_back(&mut self, start: usize) {
        self.overflowed = false;
        self.remove(start, self.len());
    }

    /// Removes the words `start..end`, which are whole items at any depth.
    fn remove(&mut self, start: usize, end: usize) {
        if self.has_large {
            let released = drop_large(&mut self.words_mut()[start..end]);
            self.limits.release_bytes(released);
        }
        self.words_mut().copy_within(end.., start);
        let len = self.len() - (end - start);
        self.len = len as u32;
        if let Some(block) = &mut self.heap {
            block.truncate(len);
        }
    }

    /// Whether [`attributes_plain`](Self::attributes_plain) may add such attributes.
    #[inline(always)]
    pub(crate) fn has_room_for<L: AttributeList>(&self, known: &Known) -> bool {
        let start = self.len();
        L::WORDS_MAX <= INLINE_WORDS
            && self.heap.is_none()
            && start + L::WORDS_MAX <= INLINE_WORDS
            && u64::from(self.attributes) + u64::from(L::COUNT)
                <= u64::from(self.limits.attribute_count())
            && !self.limits.cuts_values()
            && known.get()
    }

    /// Adds attributes whose keys are not there yet (a call site's own): all at once, without a look at each.
    ///
    /// # Safety
    ///
    /// There [is room](Self::has_room_for) for them.
    #[inline(always)]
    pub(crate) unsafe fn attributes_plain<L: AttributeList>(&mut self, list: L) {
        let start = self.len();
        // SAFETY: at most `INLINE_WORDS`.
        let from = unsafe { self.inline.as_mut_ptr().add(start) }.cast::<u64>();
        let mut items = PlainItems { at: from };
        // SAFETY: they are plain, and there is room for all.
        unsafe { list.write_plain(&mut items) };
        // SAFETY: both point into `inline`, or to its end.
        self.len = start as u32 + unsafe { items.at.offset_from(from) } as u32;
        self.attributes += L::COUNT;
    }

    /// Begins the first attributes, if values are written as they are.
    #[inline(always)]
    pub(crate) fn first_attributes(&mut self) -> Option<FirstAttributes<'_>> {
        let is_empty = self.len == 0 && self.heap.is_none() && !self.limits.cuts_values();
        is_empty.then_some(FirstAttributes { payload: self, len: 0, count: 0 })
    }

    /// Adds an attribute whose key is not there yet (a call site's own keys).
    #[inline(always)]
    pub(crate) fn attribute_new(&mut self, key: u32, value: impl crate::IntoValue) {
        if self.attributes >= self.limits.attribute_count() {
            return self.attribute_refused();
        }
        if self.attempt(|payload| value.write(payload, key, Depth::TOP)) {
            self.attributes += 1;
        } else {
            self.attribute_refused();
        }
    }

    #[cold]
    fn attribute_refused(&mut self) {
        self.dropped_attributes += 1;
        self.special |= special::OTHER;
        self.limits.count_attribute_dropped();
    }

    /// Sets an attribute; the last value of a key wins.
    #[doc(hidden)]
    pub fn attribute_set(&mut self, key: crate::Key<'_>, value: impl crate::IntoValue) {
        let limit = self.limits.attribute_count();
        let is_priority = match key {
            crate::Key::Interned(key) => key == Interned::__PRIORITY,
            crate::Key::Str(key) => key == intern::PRIORITY,
        };
        match self.set_among(0, self.attributes < limit, key, value) {
            Set::Added => self.attributes += 1,
            Set::Replaced => {}
            Set::Refused => self.attribute_refused(),
        }
        if is_priority {
            self.priority_set();
        }
    }

    /// The attribute `priority` was set.
    #[cold]
    #[inline(never)]
    pub(crate) fn priority_set(&mut self) {
        if self.priority_is_critical() {
            self.special |= special::PRIORITY;
        }
    }

    /// Whether the attribute `priority` makes the span critical, when it ends.
    #[inline(always)]
    pub(crate) fn is_critical(&self) -> bool {
        self.special & special::PRIORITY != 0 && self.priority_is_critical()
    }

    #[cold]
    #[inline(never)]
    fn priority_is_critical(&self) -> bool {
        const CRITICAL: &str = "critical";
        let Some((mut at, _)) = self.find_attribute(0, &crate::Key::Str(intern::PRIORITY)) else {
            return false;
        };
        let words = self.words();
        if item_tag(words[at]) == tag::KEY {
            at += item_words(words[at]);
        }
        match item_tag(words[at]) {
            tag::STR => text(&words[at..]) == CRITICAL.as_bytes(),
            tag::STR_INTERNED => Interned::from_raw(item_aux(words[at]) as u32)
                .is_some_and(|value| value.as_str() == CRITICAL),
            _ => false,
        }
    }

    /// Sets an attribute among the items from word `start` to the end. The value before goes only once
    /// the new one is written.
    fn set_among(
        &mut self,
        start: usize,
        may_add: bool,
        key: crate::Key<'_>,
        value: impl crate::IntoValue,
    ) -> Set {
        let before = self.find_attribute(start, &key);
        if before.is_none() && !may_add {
            return Set::Refused;
        }
        let written = self.attempt(|payload| {
            let key = match key {
                crate::Key::Interned(key) => key.get(),
                crate::Key::Str(key) => payload.key(key),
            };
            value.write(payload, key, Depth::TOP);
        });
        match before {
            _ if !written => Set::Refused,
            None => Set::Added,
            Some((start, end)) => {
                self.remove(start, end);
                Set::Replaced
            }
        }
    }

    /// The words of the attribute `key` among the items from word `start` on. A key may be there by its
    /// number or as text, whatever it is now.
    fn find_attribute(&self, start: usize, key: &crate::Key<'_>) -> Option<(usize, usize)> {
        let interned = match key {
            crate::Key::Interned(key) => Some(*key),
            crate::Key::Str(key) => intern::lookup(key),
        };
        // Looked up only where it is compared: most keys are numbers on both sides.
        let wanted = || match key {
            crate::Key::Interned(key) => key.as_str(),
            crate::Key::Str(key) => key,
        };
        let words = self.words();
        let mut at = start;
        while at < words.len() {
            let word = words[at];
            let end = at + item_words(word);
            match item_tag(word) {
                tag::KEY => {
                    let value_end = end + words.get(end).map_or(0, |word| item_words(*word));
                    if text(&words[at..]) == wanted().as_bytes() {
                        return Some((at, value_end));
                    }
                    at = value_end;
                    continue;
                }
                tag::NULL..=tag::MAP => {
                    let same = match (Interned::from_raw(item_key(word)), interned) {
                        (Some(key), Some(interned)) => key == interned,
                        // Not interned as a dynamic string, but perhaps as a call site's.
                        (Some(key), None) => key.as_str() == wanted(),
                        (None, _) => false,
                    };
                    if same {
                        return Some((at, end));
                    }
                }
                _ => {}
            }
            at = end;
        }
        None
    }

    /// Adds an event at `time` (ticks, or ns since the Unix epoch if `wall`), with the attributes that
    /// `fill` sets.
    #[doc(hidden)]
    pub fn event(
        &mut self,
        name: crate::Key<'_>,
        time: u64,
        wall: bool,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        if self.events >= self.limits.event_count() {
            self.dropped_events += 1;
            self.special |= special::OTHER;
            return;
        }
        let tag = if wall { tag::EVENT_WALL } else { tag::EVENT };
        let limit = self.limits.event_attribute_count();
        let written = self.attempt(|payload| {
            let (interned, inline) = match name {
                crate::Key::Interned(name) => (name.get(), None),
                crate::Key::Str(name) => match intern::lookup(name) {
                    Some(name) => (name.get(), None),
                    None => (0, Some(name)),
                },
            };
            let container = payload.open(item(tag, 0, interned), &[time]);
            if let Some(name) = inline {
                payload.push_text(tag::NAME, 0, cut_str(name, (1 << AUX_BITS) - 1).as_bytes());
            }
            payload.fill(limit, fill);
            payload.end_container(container);
        });
        if written {
            self.events += 1;
        } else {
            self.dropped_events += 1;
            self.special |= special::OTHER;
        }
    }

    /// Adds a link.
    #[doc(hidden)]
    pub fn link(&mut self, link: &LinkWords<'_>, fill: impl FnOnce(&mut Attributes<'_>)) {
        if self.links >= self.limits.link_count() {
            self.dropped_links += 1;
            self.special |= special::OTHER;
            return;
        }
        let limit = self.limits.link_attribute_count();
        let written = self.attempt(|payload| {
            let container = payload
                .open(item(tag::LINK, 0, link.flags), &[link.trace_lo, link.trace_hi, link.span]);
            if !link.trace_state.is_empty() {
                payload.push_text(tag::TRACE_STATE, 0, link.trace_state.as_bytes());
            }
            payload.fill(limit, fill);
            payload.end_container(container);
        });
        if written {
            self.links += 1;
        } else {
            self.dropped_links += 1;
            self.special |= special::OTHER;
        }
    }

    fn fill(&mut self, limit: u32, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.len();
        let mut attributes = Attributes { payload: self, start, limit, count: 0, dropped: 0 };
        fill(&mut attributes);
        let dropped = attributes.dropped;
        if dropped > 0 {
            self.push2(item(tag::DROPPED, 0, 0), u64::from(dropped.min((1 << 21) - 1)));
        }
    }

    /// Writes the status message, replacing an earlier one.
    #[doc(hidden)]
    pub fn status_message(&mut self, message: &str) {
        self.set_text(tag::STATUS_MESSAGE, message);
    }

    /// Writes the name of a span whose name could not be interned, replacing an earlier one.
    #[doc(hidden)]
    pub fn name(&mut self, name: &str) {
        self.set_text(tag::NAME, name);
    }

    /// Writes the span's tracestate.
    #[doc(hidden)]
    pub fn trace_state(&mut self, trace_state: &str) {
        self.set_text(tag::TRACE_STATE, trace_state);
    }

    fn set_text(&mut self, tag: u8, value: &str) {
        let mut at = 0;
        while at < self.len() {
            let word = self.words()[at];
            let end = at + item_words(word);
            if item_tag(word) == tag {
                self.remove(at, end);
                break;
            }
            at = end;
        }
        let value = cut_str(value, intern::TEXT_BYTES_MAX);
        if !value.is_empty() {
            self.attempt(|payload| payload.push_text(tag, 0, value.as_bytes()));
        }
    }

    /// Writes the dropped counts, if any. The last call before the words are taken.
    #[inline(always)]
    pub(crate) fn finish(&mut self) {
        if (self.dropped_attributes | self.dropped_events | self.dropped_links) != 0 {
            self.finish_dropped();
        }
    }

    #[cold]
    fn finish_dropped(&mut self) {
        let cut = |count: u32| u64::from(count.min((1 << 21) - 1));
        let word = cut(self.dropped_attributes)
            | cut(self.dropped_events) << 21
            | cut(self.dropped_links) << 42;
        self.attempt(|payload| payload.push2(item(tag::DROPPED, 0, 0), word));
    }

    /// Moves the words into whole cells at `to`, which own what the words own; the payload is empty
    /// afterwards.
    ///
    /// # Safety
    ///
    /// `to` is valid for writes of `self.len()` words rounded up to whole cells, and does not overlap
    /// the payload.
    #[inline(always)]
    pub(crate) unsafe fn move_to(&mut self, to: *mut Cell) {
        if self.heap.is_none() {
            // SAFETY: as promised to us.
            unsafe { self.copy_inline(to) };
        } else {
            let words = self.words();
            // SAFETY: the caller's promise.
            unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), to.cast(), words.len()) };
        }
        self.forget();
    }

    /// Copies the items, all of which are in the payload itself.
    ///
    /// # Safety
    ///
    /// As for [`move_to`](Self::move_to). Afterwards, one of the two copies is not used as the owner of
    /// large values.
    #[inline(always)]
    pub(crate) unsafe fn copy_inline(&self, to: *mut Cell) {
        type Words = [MaybeUninit<u64>; CELL_WORDS];
        // Fixed sizes compile to a few vector moves; words past `len` are indeterminate in both places
        // and never read.
        let from = self.inline.as_ptr().cast::<Words>();
        let to = to.cast::<Words>();
        // SAFETY: `inline` is two cells long; `to` has room for as many cells as `len` needs.
        unsafe {
            to.write(from.read());
            if self.len() > CELL_WORDS {
                to.add(1).write(from.add(1).read());
            }
        }
    }

    /// Empties the payload without dropping its large values.
    #[inline(always)]
    fn forget(&mut self) {
        self.len = 0;
        self.has_large = false;
        if let Some(block) = self.heap.take() {
            scratch::give(block);
        }
    }

    /// Takes the words out as one heap block, for a payload that is too large for a ring's cells. It is
    /// counted against the byte budget; `None`, and the payload as it was, when that is spent.
    #[allow(clippy::box_collection, reason = "one word in the record instead of three")]
    pub(crate) fn take_block(&mut self) -> Option<Box<scratch::Block>> {
        if !self.limits.reserve_bytes(self.len() * 8) {
            return None;
        }
        let block =
            self.heap.take().unwrap_or_else(|| Box::new(scratch::Block::from(self.words())));
        self.forget();
        Some(block)
    }

    /// Drops what the payload owns; it is empty afterwards.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        if self.has_large || self.heap.is_some() {
            self.clear_cold();
        }
    }

    #[cold]
    #[inline(never)]
    fn clear_cold(&mut self) {
        self.remove(0, self.len());
        self.forget();
    }
}

/// Takes back what was written from `start` on. Dropped only when a write unwinds.
struct Unwinding<'a> {
    payload: &'a mut Payload,
    start: usize,
}

impl Drop for Unwinding<'_> {
    #[cold]
    fn drop(&mut self) {
        self.payload.roll_back(self.start);
    }
}

impl Drop for Payload {
    #[inline(always)]
    fn drop(&mut self) {
        self.clear();
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload")
            .field("words", &self.len)
            .field("attributes", &self.attributes)
            .field("events", &self.events)
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

/// The attributes of one event or link while it is added.
#[derive(Debug)]
pub struct Attributes<'a> {
    payload: &'a mut Payload,
    start: usize,
    limit: u32,
    count: u32,
    dropped: u32,
}

impl Attributes<'_> {
    /// Sets an attribute; the last value of a key wins. Beyond the limit (128) or where there is no
    /// room, the attribute is dropped and counted on the event or link.
    pub fn set<'k>(
        &mut self,
        key: impl Into<crate::Key<'k>>,
        value: impl crate::IntoValue,
    ) -> &mut Self {
        let may_add = self.count < self.limit && !self.payload.overflowed;
        match self.payload.set_among(self.start, may_add, key.into(), value) {
            Set::Added => self.count += 1,
            Set::Replaced => {}
            Set::Refused => {
                self.dropped += 1;
                self.payload.limits.count_attribute_dropped();
            }
        }
        self
    }
}

/// What became of an attribute.
enum Set {
    Added,
    Replaced,
    Refused,
}

/// A link's span context as it is stored.
#[derive(Debug)]
#[doc(hidden)]
pub struct LinkWords<'a> {
    pub trace_lo: u64,
    pub trace_hi: u64,
    pub span: u64,
    /// Trace flags in the low byte, [`flag`] bits shifted by 8 above.
    pub flags: u32,
    pub trace_state: &'a str,
}

/// `value` cut to `chars_max` characters, which is how OpenTelemetry counts.
fn cut_chars(value: &str, chars_max: usize) -> &str {
    if value.len() <= chars_max {
        return value;
    }
    match value.char_indices().nth(chars_max) {
        Some((end, _)) => &value[..end],
        None => value,
    }
}

/// `value` cut to `len_max` bytes, at a character boundary.
fn cut_str(value: &str, len_max: usize) -> &str {
    let mut len = len_max.min(value.len());
    while !value.is_char_boundary(len) {
        len -= 1;
    }
    &value[..len]
}

fn text(words: &[u64]) -> &[u8] {
    let len = item_aux(words[0]);
    let body = &words[1..1 + len.div_ceil(8)];
    // SAFETY: `body` holds at least `len` initialised bytes, and u8 has no alignment or validity
    // demands beyond that.
    unsafe { std::slice::from_raw_parts(body.as_ptr().cast(), len) }
}

fn text_str(words: &[u64]) -> &str {
    // SAFETY: items of the string tags are written from `&str` only (`push_text` is private and its
    // callers pass `str::as_bytes`), and records are read only by those that drained them.
    unsafe { std::str::from_utf8_unchecked(text(words)) }
}

fn large(words: &[u64]) -> &Bytes {
    let body = &words[1..1 + LARGE_WORDS];
    // SAFETY: `push_large` wrote a `Bytes` there; it has the size and alignment asserted above, and it
    // is dropped only with the words' owner, which the lifetime outlives not.
    unsafe { &*body.as_ptr().cast::<Bytes>() }
}

/// Drops the large values among `words`, which are whole items; returns their bytes. The words must
/// not be read as items again.
fn drop_large(words: &mut [u64]) -> usize {
    let mut released = 0;
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        match item_tag(word) {
            tag::STR_LARGE | tag::BYTES_LARGE => {
                released += large(&words[at..]).len();
                // SAFETY: the words hold a `Bytes` that `push_large` wrote; they are not read again,
                // so it is dropped exactly once.
                unsafe { drop_bytes(words.as_mut_ptr().add(at + 1).cast()) };
                at += 1 + LARGE_WORDS;
            }
            _ => at += flat_words(word),
        }
    }
    released
}

/// Drops a large value. A `Bytes` may own a value of the caller's (`Bytes::from_owner`) whose destructor
/// panics: that panic ends here, or the values beside it would be dropped again by whoever cleans up.
///
/// # Safety
///
/// As for [`std::ptr::drop_in_place`].
unsafe fn drop_bytes(value: *mut Bytes) {
    let dropped = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        unsafe { value.drop_in_place() };
    }));
    if let Err(panic) = dropped {
        // What was thrown may panic when it is dropped, too.
        std::mem::forget(panic);
    }
}

/// The words of a heap block that a [`flag::BOXED`] record carries in its payload cell.
pub(crate) fn block_to_words(block: Box<scratch::Block>) -> [u64; 2] {
    [Box::into_raw(block) as u64, 0]
}

/// A string in a record: interned, or as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrRef<'a> {
    /// Number of an interned string; [`Interned::as_str`] resolves it.
    Interned(Interned),
    /// The string itself.
    Str(&'a str),
}

impl<'a> StrRef<'a> {
    /// The string; an interned one is looked up.
    pub fn as_str(self) -> &'a str {
        match self {
            StrRef::Interned(interned) => interned.as_str(),
            StrRef::Str(value) => value,
        }
    }
}

/// A value in a record.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// A double-precision number.
    Double(f64),
    /// A string.
    Str(StrRef<'a>),
    /// Bytes.
    Bytes(&'a [u8]),
    /// An array: items with an empty key.
    Array(Items<'a>),
    /// A map.
    Map(Items<'a>),
}

impl ValueRef<'_> {
    /// An owned copy.
    pub fn to_value(self) -> crate::Value {
        use crate::Value;
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::Bool(value) => Value::Bool(value),
            ValueRef::Int(value) => Value::Int(value),
            ValueRef::Double(value) => Value::Double(value),
            ValueRef::Str(value) => Value::Str(value.as_str().to_owned()),
            ValueRef::Bytes(value) => Value::Bytes(Bytes::copy_from_slice(value)),
            ValueRef::Array(items) => {
                Value::Array(items.attributes().map(|(_, value)| value.to_value()).collect())
            }
            ValueRef::Map(items) => Value::Map(
                items
                    .attributes()
                    .map(|(key, value)| (key.as_str().to_owned(), value.to_value()))
                    .collect(),
            ),
        }
    }
}

/// One item of a payload.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A key and a value; in an array the key is the empty string.
    Attribute(StrRef<'a>, ValueRef<'a>),
    /// An event.
    Event(EventRef<'a>),
    /// A link.
    Link(LinkRef<'a>),
    /// The message of the span's status.
    StatusMessage(&'a str),
    /// The name, where it is not interned.
    Name(&'a str),
    /// The tracestate of the span or the link.
    TraceState(&'a str),
    /// How many attributes, events and links were dropped.
    Dropped {
        /// Attributes.
        attributes: u32,
        /// Events.
        events: u32,
        /// Links.
        links: u32,
    },
}

/// An event in a record.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// Clock ticks, or ns since the Unix epoch if `wall`.
    pub time: u64,
    /// Whether `time` is wall-clock time.
    pub wall: bool,
    name: Option<Interned>,
    items: Items<'a>,
}

impl<'a> EventRef<'a> {
    /// The name.
    pub fn name(&self) -> StrRef<'a> {
        match self.name {
            Some(name) => StrRef::Interned(name),
            None => match self.items.clone().next() {
                Some(Item::Name(name)) => StrRef::Str(name),
                _ => StrRef::Str(""),
            },
        }
    }

    /// Attributes and the dropped count.
    pub fn items(&self) -> Items<'a> {
        self.items
    }
}

/// A link in a record.
#[derive(Clone, Copy, Debug)]
pub struct LinkRef<'a> {
    /// As [`Header::trace_lo`].
    pub trace_lo: u64,
    /// As [`Header::trace_hi`].
    pub trace_hi: u64,
    /// As [`Header::span`].
    pub span: u64,
    /// Whether trace and span are IDs rather than counters: [`flag`] bits, PARENT_REMOTE included.
    pub flags: u16,
    /// W3C trace flags.
    pub trace_flags: u8,
    items: Items<'a>,
}

impl<'a> LinkRef<'a> {
    /// Tracestate, attributes and the dropped count.
    pub fn items(&self) -> Items<'a> {
        self.items
    }
}

/// Iterates over the items of a payload, an event, a link, an array or a map.
#[derive(Clone, Copy)]
pub struct Items<'a> {
    words: &'a [u64],
}

impl std::fmt::Debug for Items<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

impl<'a> Items<'a> {
    /// Only the attributes, or the elements of an array or a map.
    pub fn attributes(self) -> impl Iterator<Item = (StrRef<'a>, ValueRef<'a>)> {
        self.filter_map(|item| match item {
            Item::Attribute(key, value) => Some((key, value)),
            _ => None,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    #[inline]
    fn value(words: &'a [u64], word: u64) -> ValueRef<'a> {
        match item_tag(word) {
            tag::BOOL => ValueRef::Bool(item_aux(word) != 0),
            tag::INT_SMALL => ValueRef::Int(i64::from(((word >> 8) as i32) << 8 >> 8)),
            tag::INT => ValueRef::Int(words[1] as i64),
            tag::DOUBLE => ValueRef::Double(f64::from_bits(words[1])),
            tag::STR_INTERNED => match Interned::from_raw(item_aux(word) as u32) {
                Some(interned) => ValueRef::Str(StrRef::Interned(interned)),
                None => ValueRef::Null,
            },
            tag::STR => ValueRef::Str(StrRef::Str(text_str(words))),
            tag::BYTES => ValueRef::Bytes(text(words)),
            tag::STR_LARGE => {
                // SAFETY: STR_LARGE is written from `&str` and `String` only.
                let value = unsafe { std::str::from_utf8_unchecked(large(words)) };
                ValueRef::Str(StrRef::Str(value))
            }
            tag::BYTES_LARGE => ValueRef::Bytes(large(words)),
            tag::ARRAY => ValueRef::Array(Items { words: &words[1..1 + item_aux(word)] }),
            tag::MAP => ValueRef::Map(Items { words: &words[1..1 + item_aux(word)] }),
            _ => ValueRef::Null,
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    #[inline]
    fn next(&mut self) -> Option<Item<'a>> {
        let mut words = self.words;
        let mut word = *words.first()?;
        let mut key = StrRef::Str("");
        if item_tag(word) == tag::KEY {
            key = StrRef::Str(text_str(words));
            words = &words[item_words(word)..];
            word = *words.first()?;
        } else if let Some(interned) = Interned::from_raw(item_key(word)) {
            key = StrRef::Interned(interned);
        }
        let len = item_words(word);
        self.words = &words[len..];
        Some(match item_tag(word) {
            tag @ (tag::EVENT | tag::EVENT_WALL) => Item::Event(EventRef {
                time: words[1],
                wall: tag == tag::EVENT_WALL,
                name: Interned::from_raw(item_key(word)),
                items: Items { words: &words[2..len] },
            }),
            tag::LINK => Item::Link(LinkRef {
                trace_lo: words[1],
                trace_hi: words[2],
                span: words[3],
                flags: (item_key(word) >> 8) as u16,
                trace_flags: item_key(word) as u8,
                items: Items { words: &words[4..len] },
            }),
            tag::STATUS_MESSAGE => Item::StatusMessage(text_str(words)),
            tag::NAME => Item::Name(text_str(words)),
            tag::TRACE_STATE => Item::TraceState(text_str(words)),
            tag::DROPPED => {
                let part = |shift: u32| (words[1] >> shift) as u32 & ((1 << 21) - 1);
                Item::Dropped { attributes: part(0), events: part(21), links: part(42) }
            }
            _ => Item::Attribute(key, Self::value(words, word)),
        })
    }
}

/// A record, borrowed from [`Records`].
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    /// The fixed part.
    pub header: &'a Header,
    payload: &'a [u64],
}

impl std::fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordRef")
            .field("header", self.header)
            .field("items", &self.items())
            .finish()
    }
}

impl<'a> RecordRef<'a> {
    /// The items of the payload.
    #[inline]
    pub fn items(&self) -> Items<'a> {
        Items { words: self.payload }
    }

    /// The name if it is interned, as nearly all are.
    #[inline(always)]
    pub fn interned_name(&self) -> Option<Interned> {
        Interned::from_raw(self.header.name)
    }

    /// The name.
    pub fn name(&self) -> StrRef<'a> {
        match self.interned_name() {
            Some(name) => StrRef::Interned(name),
            None => self
                .items()
                .find_map(|item| match item {
                    Item::Name(name) => Some(StrRef::Str(name)),
                    _ => None,
                })
                .unwrap_or(StrRef::Str("")),
        }
    }
}

/// Drained records, in the order in which they were drained. Owns their large values.
#[derive(Default)]
pub struct Records {
    cells: Vec<Cell>,
    /// Index of each record's header cell.
    starts: Vec<u32>,
    heap_bytes: usize,
}

// SAFETY: the raw words in `cells` own `Bytes` and `Box<Block>` values, both of which are Send, and
// `Records` is their only owner.
unsafe impl Send for Records {}

impl Records {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes in cells and in the heap blocks and large values that the records own.
    pub fn bytes(&self) -> usize {
        self.cells.len() * CELL_BYTES + self.heap_bytes
    }

    /// Bytes that the records' heap blocks and large values take from the byte budget.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    /// The records.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> + Clone {
        (0..self.starts.len()).map(|index| self.get(index))
    }

    /// The record at `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    #[inline]
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        let at = self.starts[index] as usize;
        let cell = &self.cells[at];
        // SAFETY: `starts` holds indices of header cells; `Header` and `Cell` have the same size and
        // alignment, and any bit pattern is a valid `Header`.
        let header = unsafe { &*std::ptr::from_ref(cell).cast::<Header>() };
        RecordRef { header, payload: payload_words(header, &self.cells[at + 1..]) }
    }

    /// Adds a record made outside a ring, for tools and tests. `header`'s flags and payload length are
    /// set from `payload`.
    #[doc(hidden)]
    pub fn push_parts(&mut self, mut header: Header, mut payload: Payload) {
        payload.finish();
        header.flags &= !(flag::BOXED | flag::HAS_LARGE | flag::END_OF_SEGMENT);
        if payload.has_large() {
            header.flags |= flag::HAS_LARGE;
        }
        let mut cells = vec![Cell([0; CELL_WORDS]); 1];
        if payload.len() > INLINE_WORDS_MAX {
            let Some(block) = payload.take_block() else { return };
            header.flags |= flag::BOXED;
            header.payload_words = 2;
            cells.push(Cell([0; CELL_WORDS]));
            cells[1].0[..2].copy_from_slice(&block_to_words(block));
        } else {
            header.payload_words = payload.len() as u16;
            cells.resize(header_cells(&header), Cell([0; CELL_WORDS]));
            if payload.len() > 0 {
                // SAFETY: there are as many cells behind the header as the payload needs, and at least
                // the one that `move_to` always writes.
                unsafe { payload.move_to(cells.as_mut_ptr().add(1)) };
            }
        }
        // SAFETY: `Header` is one cell of plain integers.
        cells[0] = unsafe { std::mem::transmute::<Header, Cell>(header) };
        // SAFETY: the cells hold one whole record, which nothing else consumes.
        unsafe { self.push(cells.as_ptr()) };
    }

    /// Adds the record that begins at `cells`, taking over what it owns; returns its cells.
    ///
    /// # Safety
    ///
    /// `cells` points to a whole record that a producer has published, which nobody consumes again.
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, cells: *const Cell) -> usize {
        // SAFETY: the caller promises a record, so its first cell is a header.
        let header = unsafe { *cells.cast::<Header>() };
        let count = header_cells(&header);
        // SAFETY: the record is `count` cells long.
        let cells = unsafe { std::slice::from_raw_parts(cells, count) };
        self.starts.push(self.cells.len() as u32);
        self.cells.extend_from_slice(cells);
        if header.flags & (flag::HAS_LARGE | flag::BOXED) != 0 {
            self.heap_bytes += heap_bytes(&header, &cells[1..]);
        }
        count
    }

    /// Takes out the records from `at` on, in their order.
    ///
    /// # Panics
    ///
    /// If there are fewer than `at`.
    #[must_use = "the records that are taken out are dropped with the answer"]
    pub fn split_off(&mut self, at: usize) -> Records {
        let mut starts = self.starts.split_off(at);
        let first = starts.first().map_or(self.cells.len(), |first| *first as usize);
        let cells = self.cells.split_off(first);
        let mut taken_bytes = 0;
        for start in &mut starts {
            *start -= first as u32;
            let at = *start as usize;
            // SAFETY: as in `get`.
            let header = unsafe { &*std::ptr::from_ref(&cells[at]).cast::<Header>() };
            if header.flags & (flag::HAS_LARGE | flag::BOXED) != 0 {
                taken_bytes += heap_bytes(header, &cells[at + 1..]);
            }
        }
        self.heap_bytes -= taken_bytes;
        Records { cells, starts, heap_bytes: taken_bytes }
    }

    /// Drops all records, their large values too.
    pub fn clear(&mut self) {
        if self.heap_bytes > 0 {
            self.release_heap();
        }
        self.starts.clear();
        self.cells.clear();
        self.heap_bytes = 0;
    }

    fn release_heap(&mut self) {
        for index in 0..self.starts.len() {
            let at = self.starts[index] as usize;
            // SAFETY: as in `get`.
            let header = unsafe { *std::ptr::from_ref(&self.cells[at]).cast::<Header>() };
            if header.flags & (flag::HAS_LARGE | flag::BOXED) != 0 {
                release(&header, &mut self.cells[at + 1..]);
            }
        }
    }

    /// Gives memory beyond `cells_max` cells back.
    pub fn shrink(&mut self, cells_max: usize) {
        self.cells.shrink_to(cells_max);
        self.starts.shrink_to(cells_max);
    }
}

impl std::fmt::Debug for Records {
    /// The records; not the cells, whose words behind a payload's end have no value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Cells of the record that begins with `header`.
#[inline(always)]
pub(crate) fn header_cells(header: &Header) -> usize {
    1 + (header.payload_words as usize).div_ceil(CELL_WORDS)
}

fn cells_as_words(cells: &[Cell]) -> &[u64] {
    // SAFETY: a cell is eight words without padding.
    unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len() * CELL_WORDS) }
}

fn payload_words<'a>(header: &Header, cells: &'a [Cell]) -> &'a [u64] {
    let words = header.payload_words as usize;
    let words = &cells_as_words(&cells[..words.div_ceil(CELL_WORDS)])[..words];
    if header.flags & flag::BOXED == 0 {
        return words;
    }
    let block = words[0] as *const scratch::Block;
    // SAFETY: a BOXED record's first payload word came from `Box::into_raw` in `block_to_words`, and
    // the records that own the block outlive `'a`.
    unsafe { &*block }
}

fn heap_bytes(header: &Header, cells: &[Cell]) -> usize {
    let words = payload_words(header, cells);
    let block = if header.flags & flag::BOXED != 0 { words.len() * 8 } else { 0 };
    block + if header.flags & flag::HAS_LARGE != 0 { large_bytes(words) } else { 0 }
}

fn large_bytes(words: &[u64]) -> usize {
    let mut total = 0;
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        match item_tag(word) {
            tag::STR_LARGE | tag::BYTES_LARGE => {
                total += large(&words[at..]).len();
                at += 1 + LARGE_WORDS;
            }
            _ => at += flat_words(word),
        }
    }
    total
}

/// Words to the next item in a walk that visits the items inside containers too.
fn flat_words(word: u64) -> usize {
    match item_tag(word) {
        tag::ARRAY | tag::MAP => 1,
        tag::EVENT | tag::EVENT_WALL => 2,
        tag::LINK => 4,
        _ => item_words(word),
    }
}

fn release(header: &Header, cells: &mut [Cell]) {
    let words = (header.payload_words as usize).min(cells.len() * CELL_WORDS);
    // SAFETY: a cell is eight words without padding; the borrow is unique.
    let words = unsafe { std::slice::from_raw_parts_mut(cells.as_mut_ptr().cast::<u64>(), words) };
    if header.flags & flag::BOXED != 0 {
        let block = words[0] as *mut scratch::Block;
        // SAFETY: as in `payload_words`; the record is not read again, so the block is freed once.
        let mut block = unsafe { Box::from_raw(block) };
        if header.flags & flag::HAS_LARGE != 0 {
            drop_large(&mut block);
        }
    } else if header.flags & flag::HAS_LARGE != 0 {
        drop_large(words);
    }
}

/// Frees a heap block that no record took over; returns the bytes of its large values.
///
/// # Safety
///
/// `words` came from [`block_to_words`] and is not used again.
pub(crate) unsafe fn free_block(words: [u64; 2], has_large: bool) -> usize {
    // SAFETY: the caller's promise.
    let mut block = unsafe { Box::from_raw(words[0] as *mut scratch::Block) };
    if has_large { drop_large(&mut block) } else { 0 }
}
