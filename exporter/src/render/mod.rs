//! Names, values and times for the eyes.
//!
//! Names and values come from anywhere, so what could steer a terminal is escaped before it is shown.

mod base64;
mod units;

use std::io::{self, Write};

use spanring::{SpanKind, Value};

pub use base64::base64;
pub use units::{duration, timestamp};

/// `text` with everything escaped that is not printable: control characters, line breaks, changes of
/// the writing direction.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\'' | '\\' => shown.push(letter),
            letter => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

/// The kind's name in lower case, as OpenTelemetry spells it.
pub fn kind_name(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Unspecified => "unspecified",
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    }
}

/// Writes a value as a person would: strings in quotes, bytes in hexadecimal.
///
/// # Errors
///
/// What `out` answers.
pub fn write_value(value: &Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::Null => write!(out, "null"),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Int(value) => write!(out, "{value}"),
        // Debug keeps the point of whole numbers, which tells them from integers.
        Value::Double(value) => write!(out, "{value:?}"),
        Value::Str(text) => write!(out, "{text:?}"),
        Value::Bytes(bytes) => {
            write!(out, "0x")?;
            bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
        }
        Value::Array(items) => {
            write!(out, "[")?;
            for (index, item) in items.iter().enumerate() {
                write!(out, "{}", if index == 0 { "" } else { ", " })?;
                write_value(item, out)?;
            }
            write!(out, "]")
        }
        Value::Map(entries) => {
            write!(out, "{{")?;
            for (index, (key, item)) in entries.iter().enumerate() {
                write!(out, "{}{}: ", if index == 0 { "" } else { ", " }, printable(key))?;
                write_value(item, out)?;
            }
            write!(out, "}}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        let shown = printable("a\u{1b}[31m\n\u{202e}\"ü\\漢");
        assert_eq!(shown, "a\\u{1b}[31m\\n\\u{202e}\"ü\\漢");
    }
}
