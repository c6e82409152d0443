//! `span!` and what it expands to.

/// Starts a span that is current on this thread until the guard that it gives is dropped.
///
/// Name and keys are string literals, interned once a call site. A value is anything that implements
/// [`IntoValue`](crate::IntoValue); string literals are interned, too. Values are computed only if the
/// span records.
///
/// ```
/// use spanring::{SpanKind, span};
///
/// let rows = 7;
/// let mut span = span!("db.query", "db.system" = "postgresql", "db.rows" = rows);
/// span.set_attribute("db.cached", false);
/// drop(span);
///
/// let _client = span!("GET", kind: SpanKind::Client, "http.request.method" = "GET");
/// ```
///
/// A key that occurs twice does not compile:
///
/// ```compile_fail
/// let _span = spanring::span!("twice", "key" = 1, "key" = 2);
/// ```
#[macro_export]
macro_rules! span {
    ($name:literal $(, $key:literal = $value:expr)* $(,)?) => {
        $crate::__span!($name, $crate::SpanKind::Internal $(, $key = $value)*)
    };
    ($name:literal, kind: $kind:expr $(, $key:literal = $value:expr)* $(,)?) => {
        $crate::__span!($name, $kind $(, $key = $value)*)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __span {
    ($name:literal, $kind:expr) => {{
        static NAME: $crate::__private::StaticStr = $crate::__private::StaticStr::new($name);
        $crate::SpanGuard::__start(&NAME, $kind)
    }};
    ($name:literal, $kind:expr $(, $key:literal = $value:expr)+) => {{
        static NAME: $crate::__private::StaticStr = $crate::__private::StaticStr::new($name);
        const { $crate::__private::distinct(&[$($key),+]) };
        let mut guard = $crate::SpanGuard::__start_open(&NAME, $kind);
        $crate::__attributes!(guard $(, $key = $value)+);
        guard
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __attributes {
    ($guard:ident $(, $key:literal = $value:expr)+) => {
        if $guard.is_recording() {
            static KNOWN: $crate::__private::Known = $crate::__private::Known::new();
            $guard.__attributes(&KNOWN, $crate::__attribute_list!($($key = $value),+));
        }
    };
}

/// The attributes as nested pairs.
#[doc(hidden)]
#[macro_export]
macro_rules! __attribute_list {
    () => { () };
    ($key:literal = $value:expr $(, $keys:literal = $values:expr)*) => {
        (
            {
                static KEY: $crate::__private::StaticStr = $crate::__private::StaticStr::new($key);
                $crate::__private::Attribute::<{ $crate::__private::is_priority($key) }, _>(
                    &KEY,
                    $crate::__value!($value),
                )
            },
            $crate::__attribute_list!($($keys = $values),*),
        )
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __value {
    ($value:literal) => {{
        // `concat!` of a string literal is the string itself; of another literal it is not used.
        static VALUE: $crate::__private::StaticStr =
            $crate::__private::StaticStr::new(concat!($value));
        $crate::__private::Literal::<{ $crate::__private::is_string_literal(stringify!($value)) }, _>(
            &VALUE, $value,
        )
    }};
    ($value:expr) => {
        $value
    };
}

/// What the macros use. Not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::call_site::{Attribute, Known, Literal};
    pub use crate::intern::StaticStr;

    /// Fails to compile if a key occurs twice.
    pub const fn distinct(keys: &[&str]) {
        let mut i = 0;
        while i < keys.len() {
            let mut j = i + 1;
            while j < keys.len() {
                assert!(
                    !equal(keys[i].as_bytes(), keys[j].as_bytes()),
                    "a key occurs twice in this span!"
                );
                j += 1;
            }
            i += 1;
        }
    }

    /// Whether the key's value may make a span critical.
    pub const fn is_priority(key: &str) -> bool {
        equal(key.as_bytes(), crate::intern::PRIORITY.as_bytes())
    }

    const fn equal(a: &[u8], b: &[u8]) -> bool {
        if a.len() != b.len() {
            return false;
        }
        let mut i = 0;
        while i < a.len() {
            if a[i] != b[i] {
                return false;
            }
            i += 1;
        }
        true
    }

    /// Whether a literal's source text is that of a string.
    pub const fn is_string_literal(source: &str) -> bool {
        let source = source.as_bytes();
        source[0] == b'"'
            || (source[0] == b'r' && source.len() > 1 && matches!(source[1], b'"' | b'#'))
    }
}
