//! Attribute values: the owned [`Value`] and the [`IntoValue`] conversions that write any supported
//! Rust value straight into a span's payload, without building a `Value` first.
//!
//! Types are OpenTelemetry's `AnyValue`: string, bool, 64-bit integer, double, bytes, null, and
//! arrays and maps of these. Nesting deeper than [`DEPTH_MAX`] is cut: the value below that depth
//! becomes null.

use bytes::Bytes;

use crate::record::{Payload, PlainItems};

/// How deep arrays and maps may nest before what lies below is replaced by null.
pub const DEPTH_MAX: u32 = 100;

pub(crate) use private::Depth;

mod private {
    /// How deep a value lies in arrays and maps. It has no name outside this crate, so nobody else can
    /// implement or call [`IntoValue::write`](super::IntoValue): what is in a payload is read without
    /// checks.
    #[derive(Clone, Copy, Debug)]
    pub struct Depth(u32);

    impl Depth {
        /// Not in a container.
        pub(crate) const TOP: Depth = Depth(0);

        /// One level further down.
        pub(crate) fn below(self) -> Self {
            Depth(self.0 + 1)
        }

        /// Whether no container may lie here.
        pub(crate) fn is_bottom(self) -> bool {
            self.0 >= super::DEPTH_MAX
        }
    }
}

/// An owned attribute value.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// A double-precision number.
    Double(f64),
    /// A UTF-8 string.
    Str(String),
    /// Arbitrary bytes.
    Bytes(Bytes),
    /// A sequence of values, of mixed types if need be.
    Array(Vec<Value>),
    /// Keys and values, in order. A key that occurs twice is kept twice.
    Map(Vec<(String, Value)>),
}

macro_rules! from {
    ($($source:ty => $variant:ident($convert:expr);)*) => {$(
        impl From<$source> for Value {
            fn from(value: $source) -> Self {
                let convert: fn($source) -> _ = $convert;
                Value::$variant(convert(value))
            }
        }
    )*};
}

from! {
    bool => Bool(|v| v);
    i64 => Int(|v| v);
    i32 => Int(i64::from);
    u32 => Int(i64::from);
    f64 => Double(|v| v);
    &str => Str(str::to_owned);
    String => Str(|v| v);
    crate::Interned => Str(|v| v.as_str().to_owned());
    Bytes => Bytes(|v| v);
    Vec<Value> => Array(|v| v);
    Vec<(String, Value)> => Map(|v| v);
}

/// A value as rules of sampling see it, before the span is there.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen<'a> {
    /// There is none, or it is null.
    Absent,
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(&'a str),
    Char(char),
    /// Something else: bytes, an array, a map, or a closure, which is called only if the span records.
    Other,
}

/// The attributes that a span has from its start.
#[doc(hidden)]
pub trait AtStart {
    /// That of a key; of several, the last.
    fn seen(&self, key: &str) -> Seen<'_>;
}

impl AtStart for () {
    fn seen(&self, _key: &str) -> Seen<'_> {
        Seen::Absent
    }
}

/// A value that can be written into a span.
///
/// Implemented for the integer and float types, `bool`, strings, bytes (`[u8]` slices wrapped in
/// [`Bytes`]), [`Value`], slices and vectors of these, `Option` (`None` is null), references, and
/// closures that return one of these: a closure runs only if the span records.
///
/// `u64` and `usize` values above `i64::MAX` are written as strings of decimal digits, since
/// OpenTelemetry has no unsigned integers.
///
/// Other crates cannot implement it, which would let safe code write records that cannot be read:
///
/// ```compile_fail
/// struct Mine;
///
/// impl spanring::IntoValue for Mine {
///     fn write(self, _: &mut spanring::record::Payload, _: u32, _: u32) {}
/// }
/// ```
pub trait IntoValue {
    /// Writes the value under `key` (0 in an array) at the given nesting depth.
    #[doc(hidden)]
    fn write(self, payload: &mut Payload, key: u32, depth: Depth);

    /// The value as rules see it.
    #[doc(hidden)]
    fn seen(&self) -> Seen<'_> {
        Seen::Other
    }

    /// Words that [`write_plain`](Self::write_plain) writes at most; [`NOT_PLAIN`] if the value has none
    /// such.
    #[doc(hidden)]
    const PLAIN_WORDS_MAX: usize = NOT_PLAIN;

    /// Whether every value of this call site can be written plainly from now on.
    #[doc(hidden)]
    #[inline(always)]
    fn is_plain(&self) -> bool {
        true
    }

    /// Writes the value where it is known to fit.
    ///
    /// # Safety
    ///
    /// There is room for `PLAIN_WORDS_MAX` words, which is not [`NOT_PLAIN`]; values are not cut; and
    /// a value of the call site has said that it [is plain](Self::is_plain).
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems, key: u32)
    where
        Self: Sized,
    {
        let _ = (items, key);
        unreachable!("a value that is not plain");
    }
}

/// More words than any payload has room for.
pub(crate) const NOT_PLAIN: usize = 1 << 20;

macro_rules! into_value_int {
    ($($source:ty),*) => {$(
        impl IntoValue for $source {
            #[inline(always)]
            fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
                payload.push_int(key, i64::from(self));
            }

            fn seen(&self) -> Seen<'_> {
                Seen::Int(i64::from(*self))
            }

            const PLAIN_WORDS_MAX: usize = 2;

            #[inline(always)]
            unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
                // SAFETY: as promised to us.
                unsafe { items.push_int(key, i64::from(self)) };
            }
        }
    )*};
}

into_value_int!(i8, i16, i32, i64, u8, u16, u32);

macro_rules! into_value_wide {
    ($words_max:literal: $($source:ty),*) => {$(
        impl IntoValue for $source {
            #[inline]
            fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
                match i64::try_from(self) {
                    Ok(value) => payload.push_int(key, value),
                    Err(_) => payload.push_str(key, &self.to_string()),
                }
            }

            fn seen(&self) -> Seen<'_> {
                i64::try_from(*self).map_or(Seen::Double(*self as f64), Seen::Int)
            }

            const PLAIN_WORDS_MAX: usize = $words_max;

            #[inline(always)]
            unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
                match i64::try_from(self) {
                    // SAFETY: as promised to us; an integer takes less than a text.
                    Ok(value) => unsafe { items.push_int(key, value) },
                    // SAFETY: as promised to us.
                    Err(_) => unsafe { items.push_text(key, &self.to_string()) },
                }
            }
        }
    )*};
}

// As text they have up to 20 and up to 40 characters, 8 in a word, and one word goes before.
into_value_wide!(4: u64, usize, isize);
into_value_wide!(6: i128, u128);

impl IntoValue for bool {
    #[inline(always)]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_bool(key, self);
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Bool(*self)
    }

    const PLAIN_WORDS_MAX: usize = 1;

    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
        // SAFETY: as promised to us.
        unsafe { items.push_bool(key, self) };
    }
}

impl IntoValue for f64 {
    #[inline(always)]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_double(key, self);
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Double(*self)
    }

    const PLAIN_WORDS_MAX: usize = 2;

    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
        // SAFETY: as promised to us.
        unsafe { items.push_double(key, self) };
    }
}

impl IntoValue for f32 {
    #[inline(always)]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_double(key, f64::from(self));
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Double(f64::from(*self))
    }
}

impl IntoValue for &str {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_str(key, self);
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Str(self)
    }
}

impl IntoValue for String {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_string(key, self);
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Str(self)
    }
}

impl IntoValue for std::borrow::Cow<'_, str> {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        match self {
            std::borrow::Cow::Borrowed(value) => payload.push_str(key, value),
            std::borrow::Cow::Owned(value) => payload.push_string(key, value),
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Str(self)
    }
}

impl IntoValue for Bytes {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_bytes(key, self);
    }
}

impl IntoValue for char {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_str(key, self.encode_utf8(&mut [0; 4]));
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Char(*self)
    }
}

impl IntoValue for crate::Interned {
    #[inline(always)]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_interned(key, self);
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Str(self.as_str())
    }

    const PLAIN_WORDS_MAX: usize = 1;

    #[inline(always)]
    unsafe fn write_plain(self, items: &mut PlainItems, key: u32) {
        // SAFETY: as promised to us.
        unsafe { items.push_interned(key, self.get()) };
    }
}

impl<T: IntoValue> IntoValue for Option<T> {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        match self {
            Some(value) => value.write(payload, key, depth),
            None => payload.push_null(key),
        }
    }

    fn seen(&self) -> Seen<'_> {
        self.as_ref().map_or(Seen::Absent, IntoValue::seen)
    }
}

impl<F: FnOnce() -> T, T: IntoValue> IntoValue for F {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        self().write(payload, key, depth);
    }
}

impl<T> IntoValue for &[T]
where
    for<'a> &'a T: IntoValue,
{
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        if depth.is_bottom() {
            return payload.push_null(key);
        }
        let container = payload.begin_array(key);
        for item in self {
            item.write(payload, 0, depth.below());
        }
        payload.end_container(container);
    }
}

impl<T, const N: usize> IntoValue for [T; N]
where
    for<'a> &'a T: IntoValue,
{
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        self.as_slice().write(payload, key, depth);
    }
}

impl<T> IntoValue for Vec<T>
where
    for<'a> &'a T: IntoValue,
{
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        self.as_slice().write(payload, key, depth);
    }
}

macro_rules! into_value_ref {
    ($($source:ty),*) => {$(
        impl IntoValue for &$source {
            #[inline]
            fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
                (*self).write(payload, key, depth);
            }

            fn seen(&self) -> Seen<'_> {
                (**self).seen()
            }
        }
    )*};
}

into_value_ref!(i8, i16, i32, i64, u8, u16, u32, u64, usize, isize, bool, f32, f64, char, &str);

impl IntoValue for &String {
    #[inline]
    fn write(self, payload: &mut Payload, key: u32, _depth: Depth) {
        payload.push_str(key, self);
    }

    fn seen(&self) -> Seen<'_> {
        Seen::Str(self)
    }
}

impl<T> IntoValue for &Vec<T>
where
    for<'a> &'a T: IntoValue,
{
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        self.as_slice().write(payload, key, depth);
    }
}

impl IntoValue for Value {
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        (&self).write(payload, key, depth);
    }

    fn seen(&self) -> Seen<'_> {
        seen_value(self)
    }
}

impl IntoValue for &Value {
    fn write(self, payload: &mut Payload, key: u32, depth: Depth) {
        match self {
            Value::Null => payload.push_null(key),
            Value::Bool(value) => payload.push_bool(key, *value),
            Value::Int(value) => payload.push_int(key, *value),
            Value::Double(value) => payload.push_double(key, *value),
            Value::Str(value) => payload.push_str(key, value),
            Value::Bytes(value) => payload.push_bytes(key, value.clone()),
            Value::Array(items) => items.as_slice().write(payload, key, depth),
            Value::Map(_) if depth.is_bottom() => payload.push_null(key),
            Value::Map(entries) => {
                let container = payload.begin_map(key);
                for (name, value) in entries {
                    let key = payload.key(name);
                    value.write(payload, key, depth.below());
                }
                payload.end_container(container);
            }
        }
    }

    fn seen(&self) -> Seen<'_> {
        seen_value(self)
    }
}

fn seen_value(value: &Value) -> Seen<'_> {
    match value {
        Value::Null => Seen::Absent,
        Value::Bool(value) => Seen::Bool(*value),
        Value::Int(value) => Seen::Int(*value),
        Value::Double(value) => Seen::Double(*value),
        Value::Str(value) => Seen::Str(value),
        Value::Bytes(_) | Value::Array(_) | Value::Map(_) => Seen::Other,
    }
}
