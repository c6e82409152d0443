//! W3C Baggage: what a program sends along with a request besides its context.
//!
//! A value is an ordered list of entries with distinct keys behind one shared pointer; changing it
//! makes a new one. Values are held decoded and printed percent-encoded. Metadata (the properties
//! after a value) means nothing to us: it is checked, freed of blanks, and kept as it was written.
//!
//! Reading never fails as a whole. What is malformed, or would exceed 64 members or 8,192 printed
//! bytes, is left out and counted, and what does fit is kept, also behind what did not.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::{BAGGAGE, PropagationError, is_ows};

/// Members that a baggage may have.
const MEMBERS_MAX: usize = 64;
/// Bytes that it may have when it is printed.
const BYTES_MAX: usize = 8192;
/// Bytes that are read at most; members further on are only counted. Blanks and encoded bytes make a
/// header longer than what it says, but not by this much unless somebody means harm.
const READ_BYTES_MAX: usize = 8 * BYTES_MAX;

/// Keys and values that travel with a request, in their order.
///
/// Equal are baggages whose entries are; how many were left out on the way does not matter.
///
/// ```
/// use spanring::Baggage;
///
/// let baggage = Baggage::parse("userId=alice, serverNode = DF%2028 ;internal");
/// assert_eq!(baggage.get("serverNode"), Some("DF 28"));
/// let baggage = baggage.with("isProduction", "50 % true")?;
/// assert_eq!(
///     baggage.to_string(),
///     "userId=alice,serverNode=DF%2028;internal,isProduction=50%20%25%20true",
/// );
/// # Ok::<(), spanring::propagation::PropagationError>(())
/// ```
#[derive(Clone, Default)]
pub struct Baggage(Option<Arc<Members>>);

#[derive(Clone, Default)]
struct Members {
    entries: Vec<BaggageEntry>,
    /// Bytes that the entries take when they are printed, with a comma behind each.
    bytes: usize,
    left_out: u64,
}

/// A member of a [`Baggage`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaggageEntry {
    key: Box<str>,
    value: Box<str>,
    metadata: Box<str>,
}

impl Baggage {
    /// Parses a header's value.
    ///
    /// A key that is there twice has its last value, in its first place. Bytes of a value that are
    /// not UTF-8 become U+FFFD; a `%` that two hexadecimal digits do not follow stands for itself.
    pub fn parse(header: &str) -> Self {
        Self::parse_lines([header])
    }

    /// Parses the values of several headers, which mean the same as one joined by commas.
    pub fn parse_lines<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut members = Members::default();
        let mut bytes_read = 0usize;
        for piece in lines.into_iter().flat_map(|line| line.split(',')) {
            bytes_read = bytes_read.saturating_add(piece.len() + 1);
            let member = piece.trim_matches(is_ows);
            if member.is_empty() {
                continue;
            }
            let read = (bytes_read <= READ_BYTES_MAX).then(|| BaggageEntry::parse(member));
            match read.flatten() {
                Some(entry) => members.set(entry),
                None => members.left_out += 1,
            }
        }
        members.into()
    }

    /// The value of `key`; keys differ in case.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().iter().find(|entry| &*entry.key == key).map(|entry| &*entry.value)
    }

    /// The same with `key` set to `value`, in its place if it is there already, without metadata.
    ///
    /// If that does not fit, the baggage stays as it is and the member counts as left out.
    ///
    /// # Errors
    ///
    /// `key` is not a token as HTTP means it: letters, digits and ``!#$%&'*+-.^_`|~``, at least one.
    pub fn with(&self, key: &str, value: &str) -> Result<Self, PropagationError> {
        self.with_metadata(key, value, "")
    }

    /// The same with `key` set to `value` and with `metadata`, properties as a header has them:
    /// `key=value` or `key`, joined by semicolons, values percent-encoded.
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with), or a property is malformed.
    pub fn with_metadata(
        &self,
        key: &str,
        value: &str,
        metadata: &str,
    ) -> Result<Self, PropagationError> {
        let fail = |text, at, problem| Err(PropagationError::new(BAGGAGE, text, at, problem));
        if let Some(at) = token_error(key) {
            return fail(
                key,
                at,
                "a key has letters, digits and !#$%&'*+-.^_`|~, and at least one",
            );
        }
        let Some(metadata) = normal_metadata(metadata.split(';')) else {
            return fail(
                metadata,
                0,
                "metadata is key=value or key, joined by ';', percent-encoded",
            );
        };
        let mut members = self.0.as_deref().cloned().unwrap_or_default();
        members.set(BaggageEntry { key: key.into(), value: value.into(), metadata });
        Ok(members.into())
    }

    /// The same without `key`.
    pub fn without(&self, key: &str) -> Self {
        if self.get(key).is_none() {
            return self.clone();
        }
        let mut members = self.0.as_deref().cloned().unwrap_or_default();
        members.remove(key);
        members.into()
    }

    /// The entries in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &BaggageEntry> {
        self.entries().iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// How many members were malformed or did not fit, here and in the baggages this one was made
    /// from.
    pub fn left_out(&self) -> u64 {
        self.0.as_ref().map_or(0, |members| members.left_out)
    }

    fn entries(&self) -> &[BaggageEntry] {
        self.0.as_ref().map_or(&[], |members| &members.entries)
    }
}

impl BaggageEntry {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value, decoded.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The properties as they were written, without blanks; empty if there are none.
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// The properties: keys, and values decoded.
    pub fn properties(&self) -> impl Iterator<Item = (&str, Option<Cow<'_, str>>)> {
        self.metadata.split(';').filter(|property| !property.is_empty()).map(|property| {
            match property.split_once('=') {
                Some((key, value)) => (key, Some(decode(value))),
                None => (property, None),
            }
        })
    }

    /// A member of a header, without blanks around it.
    fn parse(member: &str) -> Option<Self> {
        let mut parts = member.split(';');
        let (key, value) = parts.next()?.split_once('=')?;
        let (key, value) = (key.trim_matches(is_ows), value.trim_matches(is_ows));
        if token_error(key).is_some() || !value.bytes().all(is_baggage_octet) {
            return None;
        }
        let metadata = normal_metadata(parts)?;
        Some(BaggageEntry { key: key.into(), value: decode(value).into(), metadata })
    }

    /// Bytes that the entry takes when it is printed.
    fn printed_bytes(&self) -> usize {
        let value: usize =
            self.value.bytes().map(|byte| if is_literal(byte) { 1 } else { "%00".len() }).sum();
        let metadata = if self.metadata.is_empty() { 0 } else { 1 + self.metadata.len() };
        self.key.len() + 1 + value + metadata
    }
}

impl Members {
    /// Puts an entry in place of the one with its key, or last; leaves it out if it does not fit.
    fn set(&mut self, entry: BaggageEntry) {
        let place = self.entries.iter().position(|other| other.key == entry.key);
        let replaced = place.map_or(0, |index| self.entries[index].printed_bytes() + 1);
        let bytes = self.bytes - replaced + entry.printed_bytes() + 1;
        // The last entry has no comma behind it.
        if bytes - 1 > BYTES_MAX || (place.is_none() && self.entries.len() == MEMBERS_MAX) {
            self.left_out += 1;
            return;
        }
        self.bytes = bytes;
        match place {
            Some(index) => self.entries[index] = entry,
            None => self.entries.push(entry),
        }
    }

    fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| &*entry.key != key);
        self.bytes = self.entries.iter().map(|entry| entry.printed_bytes() + 1).sum();
    }
}

impl From<Members> for Baggage {
    fn from(members: Members) -> Self {
        let empty = members.entries.is_empty() && members.left_out == 0;
        Baggage((!empty).then(|| Arc::new(members)))
    }
}

impl PartialEq for Baggage {
    fn eq(&self, other: &Self) -> bool {
        self.entries() == other.entries()
    }
}

impl Eq for Baggage {}

impl fmt::Debug for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Baggage")
            .field("entries", &self.entries())
            .field("left_out", &self.left_out())
            .finish()
    }
}

impl fmt::Display for Baggage {
    /// The header's value, at most 8,192 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(entry, f)?;
        }
        Ok(())
    }
}

impl fmt::Display for BaggageEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.key)?;
        for c in self.value.chars() {
            if c.is_ascii() && is_literal(c as u8) {
                f.write_char(c)?;
            } else {
                c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            }
        }
        if !self.metadata.is_empty() {
            write!(f, ";{}", self.metadata)?;
        }
        Ok(())
    }
}

/// Properties without blanks and empty ones, joined by semicolons; `None` if one is malformed.
fn normal_metadata<'a>(properties: impl Iterator<Item = &'a str>) -> Option<Box<str>> {
    let mut normal = String::new();
    for property in properties.map(|property| property.trim_matches(is_ows)) {
        if property.is_empty() {
            continue;
        }
        let (key, value) = match property.split_once('=') {
            Some((key, value)) => (key.trim_end_matches(is_ows), Some(value)),
            None => (property, None),
        };
        let value = value.map(|value| value.trim_start_matches(is_ows));
        if token_error(key).is_some() || !value.unwrap_or("").bytes().all(is_baggage_octet) {
            return None;
        }
        if !normal.is_empty() {
            normal.push(';');
        }
        normal.push_str(key);
        if let Some(value) = value {
            normal.push('=');
            normal.push_str(value);
        }
    }
    Some(normal.into())
}

/// Where `text` stops to be an HTTP token; `None` if it is one.
fn token_error(text: &str) -> Option<usize> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() { Some(0) } else { text.bytes().position(|byte| !allowed(byte)) }
}

/// Printable ASCII but blanks, double quote, comma, semicolon and backslash.
fn is_baggage_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(&byte)
}

/// Whether a byte of a value is printed as it is.
fn is_literal(byte: u8) -> bool {
    is_baggage_octet(byte) && byte != b'%'
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |index: usize| char::from(*tail.get(index)?).to_digit(16);
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
