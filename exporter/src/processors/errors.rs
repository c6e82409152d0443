//! Which errors there are: spans with the status error, grouped by name, type and message without its numbers.
//!
//! Type and message come from the last event `exception`, or else from the attribute `error.type` and the status. There are at
//! most [`GROUPS_MAX`] groups; for one more the one goes that was seen longest ago, and its spans are counted as forgotten.

use rustc_hash::FxHashMap;
use serde_json::json;
use spanring::StatusCode;
use spanring::record::{Item, Items, RecordRef, Records, ValueRef};

use crate::batch::TickClock;
use crate::render::timestamp;

/// Groups that are kept.
pub const GROUPS_MAX: usize = 256;
/// Bytes of a name, type or message that are kept.
const TEXT_BYTES_MAX: usize = 256;
/// Letters and digits that stand for a number if all of them are hexadecimal and one is a digit.
const HEX_MIN: usize = 8;

/// Spans with the same error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorGroup {
    /// Sixteen hexadecimal digits, the same in every process for the same name, type and message.
    pub fingerprint: String,
    /// The spans' name.
    pub name: String,
    /// The error's type; empty if nobody said it.
    pub error_type: String,
    /// Its message, with `#` for each number; empty if nobody said it.
    pub message: String,
    /// How many spans.
    pub count: u64,
    /// The earliest end of them, in ns since the Unix epoch.
    pub first_seen: u64,
    /// The latest, likewise.
    pub last_seen: u64,
}

/// The errors that were seen, as [`Pipeline::errors`](crate::Pipeline::errors) gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorReport {
    /// The most frequent first; [`GROUPS_MAX`] at most.
    pub groups: Vec<ErrorGroup>,
    /// Spans of groups that had to go.
    pub forgotten: u64,
}

impl ErrorReport {
    /// The same as JSON; times as ISO 8601 has them.
    pub fn to_json(&self) -> String {
        let groups = self.groups.iter().map(|group| {
            json!({
                "fingerprint": group.fingerprint,
                "name": group.name,
                "type": group.error_type,
                "message": group.message,
                "count": group.count,
                "first_seen": timestamp(group.first_seen),
                "last_seen": timestamp(group.last_seen),
            })
        });
        json!({ "errors": groups.collect::<Vec<_>>(), "forgotten": self.forgotten }).to_string()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tracker {
    groups: FxHashMap<u64, ErrorGroup>,
    forgotten: u64,
}

impl Tracker {
    /// Adds the spans of a batch that have an error.
    pub(crate) fn add(&mut self, records: &Records, clock: &impl TickClock) {
        for record in records.iter() {
            if record.header.kind_status >> 4 == StatusCode::Error as u8 {
                let (_, end) = clock.span_times(record.header);
                let (error_type, message) = error_of(&record);
                self.add_error(record.name().as_str(), &error_type, &message, end);
            }
        }
    }

    pub(super) fn add_error(&mut self, name: &str, error_type: &str, message: &str, time: u64) {
        let (name, error_type) = (cut(name), cut(error_type));
        let message = without_numbers(message);
        let message = cut(&message);
        let hash = hash([name, error_type, message]);
        if let Some(group) = self.groups.get_mut(&hash) {
            group.count += 1;
            group.first_seen = group.first_seen.min(time);
            group.last_seen = group.last_seen.max(time);
            return;
        }
        if self.groups.len() == GROUPS_MAX {
            let oldest = self.groups.iter().min_by_key(|(hash, group)| (group.last_seen, **hash));
            let oldest = oldest.map(|(hash, _)| *hash);
            let gone = oldest.and_then(|hash| self.groups.remove(&hash));
            self.forgotten += gone.map_or(0, |group| group.count);
        }
        let group = ErrorGroup {
            fingerprint: format!("{hash:016x}"),
            name: name.to_owned(),
            error_type: error_type.to_owned(),
            message: message.to_owned(),
            count: 1,
            first_seen: time,
            last_seen: time,
        };
        self.groups.insert(hash, group);
    }

    pub(crate) fn report(&self) -> ErrorReport {
        let mut groups: Vec<_> = self.groups.values().cloned().collect();
        groups.sort_by(|a, b| (b.count, &a.fingerprint).cmp(&(a.count, &b.fingerprint)));
        ErrorReport { groups, forgotten: self.forgotten }
    }
}

/// Type and message of a span's error; the message is cut, since large ones are long to go through.
fn error_of(record: &RecordRef<'_>) -> (String, String) {
    let (mut error_type, mut message) = (None, None);
    let mut status = None;
    let mut attribute = None;
    for item in record.items() {
        match item {
            Item::Event(event) if event.name().as_str() == "exception" => {
                error_type = text_of(event.items(), "exception.type");
                message = text_of(event.items(), "exception.message");
            }
            Item::Attribute(key, ValueRef::Str(value)) if key.as_str() == "error.type" => {
                attribute = Some(value.as_str());
            }
            Item::StatusMessage(text) => status = Some(text),
            _ => {}
        }
    }
    let owned =
        |text: Option<&str>| text.unwrap_or_default().chars().take(4 * TEXT_BYTES_MAX).collect();
    (owned(error_type.or(attribute)), owned(message.or(status)))
}

fn text_of<'a>(items: Items<'a>, key: &str) -> Option<&'a str> {
    items.attributes().find_map(|(known, value)| match value {
        ValueRef::Str(text) if known.as_str() == key => Some(text.as_str()),
        _ => None,
    })
}

/// `text` with `#` for each run of digits, and for each long word of hexadecimal digits that is no word of letters.
pub(super) fn without_numbers(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end.max(first.len_utf8()));
        rest = after;
        let is_hex = word.len() >= HEX_MIN
            && word.bytes().all(|byte| byte.is_ascii_hexdigit())
            && word.bytes().any(|byte| byte.is_ascii_digit());
        if is_hex {
            shown.push('#');
            continue;
        }
        let mut in_number = false;
        for letter in word.chars() {
            let is_digit = letter.is_ascii_digit();
            if !is_digit {
                shown.push(letter);
            } else if !in_number {
                shown.push('#');
            }
            in_number = is_digit;
        }
    }
    shown
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// FNV-1a of the parts, each behind its length: it stays the same from version to version.
fn hash(parts: [&str; 3]) -> u64 {
    let lengths = parts.map(|part| (part.len() as u64).to_le_bytes());
    let bytes =
        parts.iter().zip(&lengths).flat_map(|(part, length)| length.iter().chain(part.as_bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
