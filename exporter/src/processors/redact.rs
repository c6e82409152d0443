//! Redaction: values of attributes whose keys match a pattern become [`REDACTED`], in spans, events, links and maps alike.
//!
//! It is no processor that can be switched off or that panics: what it is told to hide leaves the process nowhere.

use rustc_hash::FxHashMap;
use spanring::export::Pattern;
use spanring::record::{Change, Fate, Records, StrRef};
use spanring::{Interned, Value};

/// What stands for a value.
pub(crate) const REDACTED: &str = "[REDACTED]";

pub(super) struct Redaction {
    text: String,
    patterns: Vec<Pattern>,
    /// Whether keys that are numbers match, once one was looked at.
    known: FxHashMap<u32, bool>,
    redacted: Option<Interned>,
}

impl Redaction {
    /// `None` if there is no pattern in the text.
    pub(super) fn new(text: &str) -> Option<Self> {
        let patterns: Vec<_> = Pattern::list(&text.to_lowercase()).collect();
        (!patterns.is_empty()).then(|| Redaction {
            text: text.to_owned(),
            patterns,
            known: FxHashMap::default(),
            redacted: Interned::new(REDACTED),
        })
    }

    /// As they were given.
    pub(super) fn patterns(&self) -> &str {
        &self.text
    }

    /// What becomes of the records in which there is something to hide.
    pub(super) fn run(&mut self, records: &Records) -> Vec<(usize, Fate)> {
        let Redaction { patterns, known, redacted, .. } = self;
        let mut hides = |key: StrRef<'_>| match key {
            StrRef::Interned(number) => {
                *known.entry(number.get()).or_insert_with(|| hides_key(patterns, number.as_str()))
            }
            StrRef::Str(key) => hides_key(patterns, key),
        };
        let mut fates = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if !record.has_key(&mut hides) {
                continue;
            }
            let mut change = |_, key: StrRef<'_>, _: spanring::record::ValueRef<'_>| match (
                hides(key),
                *redacted,
            ) {
                (false, _) => Change::Keep,
                (true, Some(text)) => Change::SetInterned(text),
                (true, None) => Change::Set(Value::Str(REDACTED.to_owned())),
            };
            fates.push((index, Fate::Replace(record.edit(&mut change, []))));
        }
        fates
    }
}

fn hides_key(patterns: &[Pattern], key: &str) -> bool {
    let key = key.to_lowercase();
    patterns.iter().any(|pattern| pattern.matches(&key))
}
