//! Records that are changed after they were drained: some dropped, some with other attributes.
//!
//! What changes is written anew beside the old record, with the functions that write spans, and the old one is dropped as a whole: a
//! change that is given up half-way has done nothing. Records that stay as they are move as they lie.

use super::{
    Cell, Header, Item, Items, LARGE_WORDS, Payload, RecordRef, Records, StrRef, ValueRef, item,
    item_aux, item_key, item_tag, item_words, large, tag, text_str,
};
use crate::intern::Interned;
use crate::value::{Depth, IntoValue, Value};

/// Where an attribute lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// In the span.
    Span,
    /// In an event.
    Event,
    /// In a link.
    Link,
    /// In a map, wherever that is.
    Map,
}

/// What becomes of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It stays; if it is a map, its entries are asked about.
    Keep,
    /// It goes.
    Remove,
    /// It gets another value.
    Set(Value),
    /// It gets this text, which takes no more room than any value.
    SetInterned(Interned),
}

/// What becomes of a record.
#[derive(Debug)]
pub enum Fate {
    /// It is taken out.
    Drop,
    /// It gets another payload.
    Replace(Box<Payload>),
}

/// Asked about each attribute: where it lies, its key, its value.
pub type Asked<'a> = dyn FnMut(Within, StrRef<'_>, ValueRef<'_>) -> Change + 'a;

impl Payload {
    /// The span's attribute `key`, if it is an integer.
    pub(crate) fn attribute_int(&self, key: crate::Key<'_>) -> Option<i64> {
        let (start, end) = self.find_attribute(0, &key)?;
        match (Items { words: &self.words()[start..end] }).next() {
            Some(Item::Attribute(_, ValueRef::Int(value))) => Some(value),
            _ => None,
        }
    }
}

impl RecordRef<'_> {
    /// A copy of the payload in which each attribute is what `change` says, and after them `added`. What finds no room is counted as
    /// a dropped attribute.
    pub fn edit<'k>(
        &self,
        change: &mut Asked<'_>,
        added: impl IntoIterator<Item = (&'k str, &'k Value)>,
    ) -> Box<Payload> {
        let mut payload = Box::new(Payload::unlimited());
        copy(&mut payload, self.payload, Within::Span, change);
        for (key, value) in added {
            payload.attribute_set(crate::Key::Str(key), value);
        }
        payload
    }

    /// Whether `is_it` holds for the key of an attribute of the span, its events and links, or of an entry of a map in one.
    pub fn has_key(&self, is_it: &mut dyn FnMut(StrRef<'_>) -> bool) -> bool {
        has_key(self.items(), is_it)
    }
}

fn has_key(items: Items<'_>, is_it: &mut dyn FnMut(StrRef<'_>) -> bool) -> bool {
    for item in items {
        let found = match item {
            // The elements of an array have the empty key.
            Item::Attribute(key, _) if key != StrRef::Str("") && is_it(key) => true,
            Item::Attribute(_, ValueRef::Map(items) | ValueRef::Array(items)) => {
                has_key(items, is_it)
            }
            Item::Event(event) => has_key(event.items(), is_it),
            Item::Link(link) => has_key(link.items(), is_it),
            _ => false,
        };
        if found {
            return true;
        }
    }
    false
}

/// Copies whole items.
fn copy(to: &mut Payload, words: &[u64], within: Within, change: &mut Asked<'_>) {
    let mut at = 0;
    while at < words.len() {
        let value_at = at + if item_tag(words[at]) == tag::KEY { item_words(words[at]) } else { 0 };
        let Some(&word) = words.get(value_at) else { return };
        let end = value_at + item_words(word);
        let fits = match item_tag(word) {
            tag::EVENT | tag::EVENT_WALL => {
                to.attempt(|to| copy_container(to, &words[at..end], 1, Within::Event, change))
            }
            tag::LINK => {
                to.attempt(|to| copy_container(to, &words[at..end], 3, Within::Link, change))
            }
            tag::NULL..=tag::MAP => {
                to.attempt(|to| copy_attribute(to, &words[at..end], value_at - at, within, change))
            }
            tag::DROPPED if within == Within::Span => {
                let part = |shift: u32| (words[value_at + 1] >> shift) as u32 & ((1 << 21) - 1);
                to.dropped_attributes += part(0);
                to.dropped_events += part(21);
                to.dropped_links += part(42);
                true
            }
            _ => to.attempt(|to| words[at..end].iter().for_each(|word| to.push1(*word))),
        };
        if !fits {
            to.dropped_attributes += 1;
        }
        at = end;
    }
}

/// Copies a container whose header is followed by `fixed` words that are no items.
fn copy_container(
    to: &mut Payload,
    words: &[u64],
    fixed: usize,
    within: Within,
    change: &mut Asked<'_>,
) {
    let header = item(item_tag(words[0]), 0, item_key(words[0]));
    let container = to.open(header, &words[1..=fixed]);
    copy(to, &words[1 + fixed..], within, change);
    to.end_container(container);
}

/// Copies an attribute whose value begins at word `value_at`, after its key if that is text.
fn copy_attribute(
    to: &mut Payload,
    words: &[u64],
    value_at: usize,
    within: Within,
    change: &mut Asked<'_>,
) {
    let (key_words, value) = words.split_at(value_at);
    let interned = Interned::from_raw(item_key(value[0]));
    let key = match interned {
        _ if value_at > 0 => StrRef::Str(text_str(key_words)),
        Some(interned) => StrRef::Interned(interned),
        None => StrRef::Str(""),
    };
    let number = interned.map_or(0, Interned::get);
    // The elements of an array have no key to be asked about.
    let change_to = match key {
        StrRef::Str("") => Change::Keep,
        key => change(within, key, Items::value(value, value[0])),
    };
    if change_to == Change::Remove {
        return;
    }
    key_words.iter().for_each(|word| to.push1(*word));
    match change_to {
        Change::Keep => copy_value(to, value, number, change),
        Change::Set(value) => value.write(to, number, Depth::TOP),
        Change::SetInterned(text) => to.push_interned(number, text),
        Change::Remove => {}
    }
}

fn copy_value(to: &mut Payload, words: &[u64], key: u32, change: &mut Asked<'_>) {
    match item_tag(words[0]) {
        kind @ (tag::STR_LARGE | tag::BYTES_LARGE) => {
            debug_assert_eq!(words.len(), 1 + LARGE_WORDS);
            to.push_large(kind, key, large(words).clone());
        }
        tag::ARRAY | tag::MAP if item_aux(words[0]) > 0 => {
            copy_container(to, words, 0, Within::Map, change);
        }
        _ => words.iter().for_each(|word| to.push1(*word)),
    }
}

impl Records {
    /// Does with the records of these indices, which ascend, what is said, and gives those that were taken out. The others keep their
    /// order.
    ///
    /// # Panics
    ///
    /// If an index is not below [`len`](Self::len), or they do not ascend.
    #[must_use = "the records that are taken out are dropped with the answer"]
    pub fn apply(&mut self, fates: Vec<(usize, Fate)>) -> Records {
        let ascends = fates.windows(2).all(|two| two[0].0 < two[1].0);
        assert!(
            ascends && fates.last().is_none_or(|(index, _)| *index < self.len()),
            "fates of records that are not there"
        );
        let mut taken_out = Records::new();
        let mut replaced = Records::new();
        // From here on `self` owns nothing, and each record is moved exactly once.
        let cells = std::mem::take(&mut self.cells);
        let starts = std::mem::take(&mut self.starts);
        self.heap_bytes = 0;
        self.cells.reserve(cells.len());
        self.starts.reserve(starts.len());
        let mut fates = fates.into_iter().peekable();
        for (index, start) in starts.into_iter().enumerate() {
            assert!((start as usize) < cells.len(), "`starts` holds indices of header cells");
            // SAFETY: it is in bounds; the pointer is for the record's other cells, too.
            let record: *const Cell = unsafe { cells.as_ptr().add(start as usize) };
            let to = match fates.next_if(|(at, _)| *at == index) {
                None => &mut *self,
                Some((_, Fate::Drop)) => &mut taken_out,
                Some((_, Fate::Replace(payload))) => {
                    // SAFETY: `starts` holds indices of header cells.
                    let header = unsafe { *record.cast::<Header>() };
                    self.push_parts(header, *payload);
                    &mut replaced
                }
            };
            // SAFETY: a whole record of ours, which is not used again where it was.
            unsafe { to.push(record) };
        }
        taken_out
    }
}

#[cfg(test)]
mod tests;
