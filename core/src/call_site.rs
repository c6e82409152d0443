//! The attributes of a `span!`: a list whose types say, when it is compiled, how much room they need at
//! most, so that one look decides for all.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::intern::StaticStr;
use crate::record::{Payload, PlainItems};
use crate::value::{AtStart, Depth, IntoValue, NOT_PLAIN, Seen};

/// One attribute after the other; implemented for `()` and for `(Attribute<V>, rest)`.
#[doc(hidden)]
pub trait AttributeList: AtStart {
    /// Words that all of them take at most; not below [`NOT_PLAIN`] if one is not plain.
    const WORDS_MAX: usize;
    /// How many there are.
    const COUNT: u32;
    /// Whether the key `priority` is among them.
    const HAS_PRIORITY: bool;

    /// Whether all keys, and all values that are literals, are interned; once so, it stays so.
    fn is_known(&self) -> bool;

    /// Writes all of them where they are known to fit.
    ///
    /// # Safety
    ///
    /// There is room for `WORDS_MAX` words, which is below [`NOT_PLAIN`]; values are not cut; and the
    /// call site's lists [are known](Self::is_known).
    unsafe fn write_plain(self, items: &mut PlainItems);

    /// Writes one after the other, each by its own rules.
    fn write_each(self, payload: &mut Payload);
}

/// Whether a call site's lists are known, found out once.
///
/// The Release store comes after the numbers were read, and the Acquire load before they are read
/// again, so whoever finds it set finds the numbers.
#[doc(hidden)]
#[derive(Debug)]
pub struct Known(AtomicBool);

impl Known {
    #[doc(hidden)]
    pub const fn new() -> Self {
        Known(AtomicBool::new(false))
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Looks whether `list`, one of the call site's, is known by now.
    #[inline(always)]
    pub(crate) fn update(&self, list: &impl AttributeList) {
        if !self.get() && list.is_known() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// A key of a call site, which is `priority` or not, and its value.
#[doc(hidden)]
#[derive(Debug)]
pub struct Attribute<const IS_PRIORITY: bool, V>(pub &'static StaticStr, pub V);

impl<const IS_PRIORITY: bool, V: IntoValue, Rest: AtStart> AtStart
    for (Attribute<IS_PRIORITY, V>, Rest)
{
    fn seen(&self, key: &str) -> Seen<'_> {
        if self.0.0.text() == key { self.0.1.seen() } else { self.1.seen(key) }
    }
}

impl AttributeList for () {
    const WORDS_MAX: usize = 0;
    const COUNT: u32 = 0;
    const HAS_PRIORITY: bool = false;

    #[inline(always)]
    fn is_known(&self) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn write_plain(self, _items: &mut PlainItems) {}

    #[inline(always)]
    fn write_each(self, _payload: &mut Payload) {}
}

impl<const IS_PRIORITY: bool, V: IntoValue, Rest: AttributeList> AttributeList
    for (Attribute<IS_PRIORITY, V>, Rest)
{
    const WORDS_MAX: usize = V::PLAIN_WORDS_MAX + Rest::WORDS_MAX;
    const COUNT: u32 = 1 + Rest::COUNT;
    const HAS_PRIORITY: bool = IS_PRIORITY || Rest::HAS_PRIORITY;

    #[inline(always)]
    fn is_known(&self) -> bool {
        self.0.0.known() != 0 && self.0.1.is_plain() && self.1.is_known()
    }

    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems) {
        let (Attribute(key, value), rest) = self;
        // SAFETY: as promised to us.
        unsafe {
            value.write_plain(items, key.known());
            rest.write_plain(items);
        }
    }

    #[inline(always)]
    fn write_each(self, payload: &mut Payload) {
        let (Attribute(key, value), rest) = self;
        match key.interned() {
            Some(key) => payload.attribute_new(key.get(), value),
            None => payload.attribute_set(crate::Key::Str(key.text()), value),
        }
        rest.write_each(payload);
    }
}

/// A literal in a `span!`: a string is interned, anything else is itself.
#[doc(hidden)]
#[derive(Debug)]
pub struct Literal<const IS_STRING: bool, V>(pub &'static StaticStr, pub V);

impl<V: IntoValue> IntoValue for Literal<false, V> {
    const PLAIN_WORDS_MAX: usize = V::PLAIN_WORDS_MAX;

    #[inline(always)]
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        self.1.write(payload, key, depth);
    }

    fn seen(&self) -> Seen<'_> {
        self.1.seen()
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.1.is_plain()
    }

    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
        // SAFETY: as promised to us.
        unsafe { self.1.write_plain(items, key) };
    }
}

impl<V> IntoValue for Literal<true, V> {
    const PLAIN_WORDS_MAX: usize = 1;

    #[inline(always)]
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        match self.0.interned() {
            Some(value) => value.write(payload, key, depth),
            None => self.0.text().write(payload, key, depth),
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Str(self.0.text())
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.0.known() != 0
    }

    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
        // SAFETY: as promised to us; numbers that are known stay.
        unsafe { items.push_interned(key, self.0.known()) };
    }
}

const _: () = assert!(NOT_PLAIN > crate::record::INLINE_WORDS);
