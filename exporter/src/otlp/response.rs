//! What a server answers: `ExportTraceServiceResponse` to a request that it took, `google.rpc.Status`
//! to one that it refused.
//!
//! Both may be anything, since servers differ: any bytes are an answer or an error. Nothing here
//! panics, recurses deeper than `GROUP_DEPTH_MAX`, or keeps more than `MESSAGE_BYTES_MAX` bytes.

use std::fmt;

use super::wire::field;
use crate::batch::take_varint;

/// Bytes of a server's message that are kept; the rest is cut.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Groups, which protobuf has given up, nest so deep at most in what is skipped.
const GROUP_DEPTH_MAX: u32 = 90;
/// The largest number of a field.
const NUMBER_MAX: u64 = (1 << 29) - 1;

/// What the server did not take of a request that it answered with success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    /// Spans that it refused, as it says: nothing keeps it from a negative number.
    pub rejected_spans: i64,
    /// Why, or a warning if it refused none; at most `MESSAGE_BYTES_MAX` bytes.
    pub error_message: String,
}

/// Why an answer is no `ExportTraceServiceResponse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseError(&'static str);

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ResponseError(what) = self;
        write!(
            f,
            "the server's answer is no ExportTraceServiceResponse: {what}; check that the endpoint is \
             one for OTLP traces"
        )
    }
}

impl std::error::Error for ResponseError {}

/// Reads the body of an `ExportTraceServiceResponse`. An empty body is one: everything was taken.
/// Unknown fields are skipped.
///
/// ```
/// use spanring_exporter::otlp::response::parse_response;
///
/// let partial = parse_response(b"\x0a\x06\x08\x03\x12\x02no")?;
/// assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (3, "no"));
/// # Ok::<(), spanring_exporter::otlp::response::ResponseError>(())
/// ```
///
/// # Errors
///
/// If `body` is not such a message.
pub fn parse_response(body: &[u8]) -> Result<PartialSuccess, ResponseError> {
    let mut partial = PartialSuccess::default();
    let mut fields = Fields(body);
    while let Some((key, value)) = fields.next()? {
        if key.number() != number(field::response::PARTIAL_SUCCESS) {
            continue;
        }
        // A message that comes in pieces is merged.
        let mut fields = Fields(value.bytes()?);
        while let Some((key, value)) = fields.next()? {
            if key.number() == number(field::partial_success::REJECTED_SPANS) {
                partial.rejected_spans = value.varint()? as i64;
            } else if key.number() == number(field::partial_success::ERROR_MESSAGE) {
                partial.error_message = value.text()?;
            }
        }
    }
    Ok(partial)
}

/// The message of a `google.rpc.Status`, which servers send with an error; `None` if `body` is no such
/// message, or says nothing. At most `MESSAGE_BYTES_MAX` bytes.
///
/// ```
/// use spanring_exporter::otlp::response::status_message;
///
/// assert_eq!(status_message(b"\x08\x03\x12\x05quota").as_deref(), Some("quota"));
/// assert_eq!(status_message(b"<html>"), None);
/// ```
pub fn status_message(body: &[u8]) -> Option<String> {
    let mut message = String::new();
    let mut fields = Fields(body);
    while let Some((key, value)) = fields.next().ok()? {
        if key.number() == number(field::rpc_status::CODE) {
            value.varint().ok()?;
        } else if key.number() == number(field::rpc_status::MESSAGE) {
            message = value.text().ok()?;
        } else if key.number() == number(field::rpc_status::DETAILS) {
            value.bytes().ok()?;
        }
    }
    Some(message).filter(|message| !message.is_empty())
}

/// The number in a key of one byte.
const fn number(key: u8) -> u64 {
    (key >> 3) as u64
}

/// A field's key.
#[derive(Clone, Copy)]
struct Key(u64);

impl Key {
    fn number(self) -> u64 {
        self.0 >> 3
    }

    fn encoding(self) -> u64 {
        self.0 & 7
    }
}

/// A field's value.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// One of another encoding, that no field here has.
    Other,
}

impl<'a> Wire<'a> {
    fn varint(self) -> Result<u64, ResponseError> {
        match self {
            Wire::Varint(value) => Ok(value),
            _ => Err(ResponseError("a number is encoded as something else")),
        }
    }

    fn bytes(self) -> Result<&'a [u8], ResponseError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ResponseError("a text or a message is encoded as something else")),
        }
    }

    fn text(self) -> Result<String, ResponseError> {
        let text =
            std::str::from_utf8(self.bytes()?).map_err(|_| ResponseError("a text is not UTF-8"))?;
        let mut len = text.len().min(MESSAGE_BYTES_MAX);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        Ok(text[..len].to_owned())
    }
}

/// The fields that are left of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(Key, Wire<'a>)>, ResponseError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.key()?;
        Ok(Some((key, self.value(key, 0)?)))
    }

    fn key(&mut self) -> Result<Key, ResponseError> {
        let key = Key(self.varint()?);
        if key.number() == 0 || key.number() > NUMBER_MAX {
            return Err(ResponseError("a field has a number that none can have"));
        }
        Ok(key)
    }

    fn varint(&mut self) -> Result<u64, ResponseError> {
        take_varint(&mut self.0).ok_or(ResponseError("a number is cut or too large"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], ResponseError> {
        let split = usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len));
        let (taken, rest) = split.ok_or(ResponseError("a field is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn value(&mut self, key: Key, depth: u32) -> Result<Wire<'a>, ResponseError> {
        match key.encoding() {
            0 => return self.varint().map(Wire::Varint),
            1 => self.take(8).map(drop)?,
            2 => {
                let len = self.varint()?;
                return self.take(len).map(Wire::Bytes);
            }
            3 if depth < GROUP_DEPTH_MAX => self.skip_group(key, depth + 1)?,
            3 => return Err(ResponseError("groups are nested too deeply")),
            5 => self.take(4).map(drop)?,
            _ => return Err(ResponseError("a field has an encoding that there is not")),
        }
        Ok(Wire::Other)
    }

    /// Skips what is left of the group that began with `key`.
    fn skip_group(&mut self, key: Key, depth: u32) -> Result<(), ResponseError> {
        loop {
            let inner = self.key()?;
            if inner.encoding() == 4 {
                return match inner.number() == key.number() {
                    true => Ok(()),
                    false => Err(ResponseError("a group ends that did not begin")),
                };
            }
            self.value(inner, depth)?;
        }
    }
}
