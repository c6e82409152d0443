//! The `tracestate` header of W3C Trace Context level 2, and OpenTelemetry's member of it.
//!
//! A value holds the header's text in normal form (members joined by commas, no blanks around them,
//! none empty) behind one shared pointer: a clone is a count, and no tracestate costs a null pointer.
//! Values of other vendors are opaque; only `ot`, OpenTelemetry's own, is looked into, for the
//! sampling threshold and the explicit randomness ("TraceState: Probability Sampling").
//!
//! Keys follow level 2: `@` may stand anywhere but first, and parts of a `tenant@system` key have no
//! length of their own. Every key of level 1 is such a key.

use std::fmt;
use std::sync::Arc;

use super::{PropagationError, TRACESTATE, is_ows};

/// Members that a header may have.
const MEMBERS_MAX: usize = 32;
/// Bytes that a key may have, and a value.
const TEXT_BYTES_MAX: usize = 256;
/// Bytes of the header that every participant should propagate. What is changed here is cut to it.
const BYTES_MAX: usize = 512;
/// Bytes of a header that are read at most: four times what 32 members can have, so that blanks and
/// empty members, which are free, cost little.
const READ_BYTES_MAX: usize = 1 << 16;
/// A member longer than this is the first to go where a header must be cut.
const MEMBER_BYTES_LONG: usize = 128;

const OT: &str = "ot";
const OT_THRESHOLD: &str = "th";
const OT_RANDOMNESS: &str = "rv";
/// Hexadecimal digits of a 56-bit number.
const OT_DIGITS: usize = 14;

/// W3C tracestate: what each tracing system along the way added about a trace, newest first.
///
/// ```
/// use spanring::TraceState;
///
/// let state = TraceState::parse("rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE")?;
/// assert_eq!(state.get("congo"), Some("t61rcWkgMzE"));
/// let state = state.with("congo", "ucfJifl5GOE")?;
/// assert_eq!(state.as_str(), "congo=ucfJifl5GOE,rojo=00f067aa0ba902b7");
/// # Ok::<(), spanring::propagation::PropagationError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct TraceState(pub(crate) Option<Arc<str>>);

impl TraceState {
    /// Parses a header's value.
    ///
    /// Members are key, `=`, value. A key is a lower-case letter or digit, then letters, digits,
    /// `_`, `-`, `*`, `/` and `@`; a value is printable ASCII without comma and `=`, whose last
    /// character is not a space; each has 1 to 256. Blanks around members and empty members are
    /// passed over; blanks at the start of a value belong to it.
    ///
    /// # Errors
    ///
    /// A member that is not like that, a key that is there twice, more than 32 members, more
    /// than 64 KiB. The caller goes on with an empty one and keeps the traceparent.
    pub fn parse(header: &str) -> Result<Self, PropagationError> {
        Self::parse_lines([header])
    }

    /// Parses the values of several headers, which mean the same as one joined by commas.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_lines<'a>(
        lines: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, PropagationError> {
        let mut keys: Vec<&str> = Vec::new();
        let mut text = String::new();
        // Offset of the piece in the joined lines; the comma that joins them is counted like any.
        let mut piece_at = 0;
        for piece in lines.into_iter().flat_map(|line| line.split(',')) {
            let member = piece.trim_start_matches(is_ows);
            let member_at = piece_at + (piece.len() - member.len());
            piece_at = piece_at.saturating_add(piece.len() + 1);
            if piece_at > READ_BYTES_MAX + 1 {
                let problem = "more than 64 KiB; go on without the tracestate";
                return Err(PropagationError::new(TRACESTATE, "", READ_BYTES_MAX, problem));
            }
            let member = member.trim_end_matches(is_ows);
            if member.is_empty() {
                continue;
            }
            let fail = |problem| {
                Err(PropagationError::new(TRACESTATE, member, 0, problem).moved_by(member_at))
            };
            let Some((key, value)) = member.split_once('=') else {
                return fail("a member without '='; go on without the tracestate");
            };
            check_key(key).map_err(|error| error.moved_by(member_at))?;
            check_value(value).map_err(|error| error.moved_by(member_at + key.len() + 1))?;
            if keys.contains(&key) {
                return fail("a key for the second time; go on without the tracestate");
            }
            if keys.len() == MEMBERS_MAX {
                return fail("more than 32 members; go on without the tracestate");
            }
            keys.push(key);
            push_member(&mut text, member);
        }
        Ok(Self::from_valid(&text))
    }

    /// Keeps `header` as it is. The caller has checked it.
    pub(crate) fn from_valid(header: &str) -> Self {
        TraceState((!header.is_empty()).then(|| header.into()))
    }

    /// The header's value; empty if there is none.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Keys and values, newest first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members().filter_map(|member| member.split_once('='))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }

    /// The same with `key` set to `value`, and moved to the front.
    ///
    /// What then exceeds 32 members or 512 bytes goes: for the bytes, members longer than 128 first,
    /// then from the end. The new member stays in any case; alone it may have 513 bytes.
    ///
    /// # Errors
    ///
    /// `key` or `value` is not one that [`parse`](Self::parse) takes.
    pub fn with(&self, key: &str, value: &str) -> Result<Self, PropagationError> {
        check_key(key)?;
        check_value(value)?;
        let first = format!("{key}={value}");
        let mut others: Vec<&str> = self.members_without(key).collect();
        cut_to_bytes(&mut others, BYTES_MAX.saturating_sub(first.len()));
        others.truncate(MEMBERS_MAX - 1);
        Ok(Self::from_members([first.as_str()].into_iter().chain(others)))
    }

    /// The same without `key`. Only the system whose key it is should take it away.
    pub fn without(&self, key: &str) -> Self {
        match self.get(key) {
            Some(_) => Self::from_members(self.members_without(key)),
            None => self.clone(),
        }
    }

    /// OpenTelemetry's sampling threshold (`ot=th:…`), below 2⁵⁶: a trace is sampled if its
    /// randomness is not below it, so 0 samples all.
    ///
    /// `None` if it is not there, there twice, or not 1 to 14 hexadecimal digits; then the
    /// probability with which the span was sampled is unknown.
    pub fn ot_threshold(&self) -> Option<u64> {
        let digits = self.ot_sub_key(OT_THRESHOLD)?;
        let value = parse_hex(digits)?;
        // Digits that are left out are zeros at the end.
        Some(value << (4 * (OT_DIGITS - digits.len())))
    }

    /// OpenTelemetry's explicit randomness of the trace (`ot=rv:…`), below 2⁵⁶, which stands in for
    /// the low 56 bits of the trace ID.
    ///
    /// `None` if it is not there, there twice, or not exactly 14 hexadecimal digits.
    pub fn ot_randomness(&self) -> Option<u64> {
        self.ot_sub_key(OT_RANDOMNESS)
            .filter(|digits| digits.len() == OT_DIGITS)
            .and_then(parse_hex)
    }

    /// The same with OpenTelemetry's sampling threshold set to `threshold`.
    ///
    /// The other sub-keys of `ot` stay. If the threshold is there already, nothing changes, not even
    /// the place of `ot`.
    ///
    /// # Errors
    ///
    /// `threshold` is 2⁵⁶ or more, or the `ot` member would exceed 256 bytes. Take the old threshold
    /// away then ([`without_ot_threshold`](Self::without_ot_threshold)): it would be wrong.
    ///
    /// ```
    /// use spanring::TraceState;
    ///
    /// let state = TraceState::default().with_ot_threshold(0xfd_70a4_0000_0000)?;
    /// assert_eq!(state.as_str(), "ot=th:fd70a4");
    /// # Ok::<(), spanring::propagation::PropagationError>(())
    /// ```
    pub fn with_ot_threshold(&self, threshold: u64) -> Result<Self, PropagationError> {
        if threshold >> (4 * OT_DIGITS) != 0 {
            let problem = "a sampling threshold of 2^56 or more; take 2^56 x (1 - probability)";
            return Err(PropagationError::new(TRACESTATE, "", 0, problem));
        }
        let digits = format!("{threshold:0width$x}", width = OT_DIGITS);
        let digits = match digits.trim_end_matches('0') {
            "" => "0",
            digits => digits,
        };
        if self.ot_sub_key(OT_THRESHOLD) == Some(digits) {
            return Ok(self.clone());
        }
        let mut value = format!("{OT_THRESHOLD}:{digits}");
        for part in self.ot_parts_without(OT_THRESHOLD) {
            value.push(';');
            value.push_str(part);
        }
        self.with(OT, &value)
    }

    /// The same without OpenTelemetry's sampling threshold: the probability with which the span was
    /// sampled is not known. The other sub-keys of `ot` stay.
    pub fn without_ot_threshold(&self) -> Self {
        if !self.ot_parts().any(|part| sub_key(part).0 == OT_THRESHOLD) {
            return self.clone();
        }
        let rest: Vec<&str> = self.ot_parts_without(OT_THRESHOLD).collect();
        match rest.join(";") {
            value if value.is_empty() => self.without(OT),
            value => self.with(OT, &value).expect("a part of a valid value that ends in no space"),
        }
    }

    /// Members in normal form. None is empty, as the text is normal.
    fn members(&self) -> impl Iterator<Item = &str> {
        self.as_str().split(',').filter(|member| !member.is_empty())
    }

    fn members_without<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.members().filter(move |member| member.split_once('=').map(|(k, _)| k) != Some(key))
    }

    fn from_members<'a>(members: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text = String::new();
        members.into_iter().for_each(|member| push_member(&mut text, member));
        Self::from_valid(&text)
    }

    /// The parts of the `ot` member between semicolons, blanks taken off, none empty.
    fn ot_parts(&self) -> impl Iterator<Item = &str> {
        let parts = self.get(OT).unwrap_or("").split(';');
        parts.map(|part| part.trim_matches(' ')).filter(|part| !part.is_empty())
    }

    fn ot_parts_without(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.ot_parts().filter(move |part| sub_key(part).0 != name)
    }

    /// The value of a sub-key that is there once: twice is a contradiction, so neither counts.
    fn ot_sub_key(&self, name: &str) -> Option<&str> {
        let mut found = self.ot_parts().map(sub_key).filter(|(key, _)| *key == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Debug for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn push_member(text: &mut String, member: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(member);
}

/// Takes away members, long ones first and from the end, until `free` bytes hold the rest and a
/// comma for each.
fn cut_to_bytes(members: &mut Vec<&str>, free: usize) {
    let mut bytes: usize = members.iter().map(|member| member.len() + 1).sum();
    while bytes > free {
        let long = members.iter().rposition(|member| member.len() > MEMBER_BYTES_LONG);
        let Some(goes) = long.or(members.len().checked_sub(1)) else { break };
        bytes -= members.remove(goes).len() + 1;
    }
}

fn check_key(key: &str) -> Result<(), PropagationError> {
    let fail = |at, problem| Err(PropagationError::new(TRACESTATE, key, at, problem));
    let letter = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    match key.as_bytes() {
        [] => fail(0, "a key must not be empty"),
        [first, ..] if !letter(*first) => {
            fail(0, "a key must begin with a lower-case letter or a digit")
        }
        _ if key.len() > TEXT_BYTES_MAX => fail(TEXT_BYTES_MAX, "a key has at most 256 characters"),
        bytes => match bytes.iter().position(|&b| !letter(b) && !b"_-*/@".contains(&b)) {
            Some(at) => {
                fail(at, "a key has only lower-case letters, digits, '_', '-', '*', '/', '@'")
            }
            None => Ok(()),
        },
    }
}

fn check_value(value: &str) -> Result<(), PropagationError> {
    let fail = |at, problem| Err(PropagationError::new(TRACESTATE, value, at, problem));
    let allowed = |byte| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    match value.as_bytes() {
        [] => fail(0, "a value must not be empty"),
        [.., b' '] => fail(value.len() - 1, "a value must not end in a space"),
        _ if value.len() > TEXT_BYTES_MAX => {
            fail(TEXT_BYTES_MAX, "a value has at most 256 characters")
        }
        bytes => match bytes.iter().position(|&byte| !allowed(byte)) {
            Some(at) => fail(at, "a value has only printable ASCII without ',' and '='"),
            None => Ok(()),
        },
    }
}

/// A part of the `ot` member, split at its first colon.
fn sub_key(part: &str) -> (&str, &str) {
    part.split_once(':').unwrap_or((part, ""))
}

/// 1 to 14 hexadecimal digits of either case.
fn parse_hex(digits: &str) -> Option<u64> {
    // The standard library would take a sign; it refuses an empty text by itself.
    let valid = digits.len() <= OT_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if valid { u64::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests;
