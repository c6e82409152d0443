//! Cuts a field down to what the ingest takes of it: strings at their end, arrays and objects by their largest parts.
//!
//! The outcome is valid JSON within the bound, and for a string the one that the openai-agents SDK sends.

use std::collections::BinaryHeap;

use super::json::Json;

/// Bytes of JSON that a span's input or output may have.
pub(super) const FIELD_BYTES_MAX: usize = 100_000;
/// Stands at the end of a string that was cut.
const SUFFIX: &str = "... [truncated]";
const QUOTES: usize = 2;

/// Cuts `value` to [`FIELD_BYTES_MAX`].
pub(super) fn cut(value: &mut Json<'_>) {
    // Most values are small, and need no sizes of their parts.
    if value.len() > FIELD_BYTES_MAX {
        let mut sizes = Sizes::of(value);
        shrink(value, &mut sizes, FIELD_BYTES_MAX);
    }
}

/// The bytes of a value and of its parts, so that each is measured once.
struct Sizes {
    bytes: usize,
    parts: Vec<Sizes>,
}

impl Sizes {
    fn of(value: &Json<'_>) -> Self {
        let (parts, keys): (Vec<Sizes>, usize) = match value {
            Json::Array(values) => (values.iter().map(Sizes::of).collect(), 0),
            Json::Object(entries) => (
                entries.iter().map(|(_, value)| Sizes::of(value)).collect(),
                entries.iter().map(|(key, _)| key_len(key)).sum(),
            ),
            leaf => return Sizes { bytes: leaf.len(), parts: Vec::new() },
        };
        let commas = parts.len().saturating_sub(1);
        let inside: usize = parts.iter().map(|part| part.bytes).sum();
        Sizes { bytes: 2 + keys + commas + inside, parts }
    }
}

/// A key with its quotes and its colon.
fn key_len(key: &str) -> usize {
    Json::from(key).len() + 1
}

/// Makes `value` no larger than `budget`; whether it could be made smaller at all.
fn shrink(value: &mut Json<'_>, sizes: &mut Sizes, budget: usize) -> bool {
    if sizes.bytes <= budget {
        return false;
    }
    match value {
        Json::Str(text) => {
            if text.is_empty() {
                return false;
            }
            *text = shortened(text, sizes.bytes, budget).into();
            sizes.bytes = value.len();
            true
        }
        Json::Array(values) => {
            let mut slots: Vec<_> = std::mem::take(values).into_iter().map(Some).collect();
            let keys = vec![0; slots.len()];
            shrink_parts(&mut slots, &keys, sizes, budget, |slot| slot);
            *values = slots.into_iter().flatten().collect();
            true
        }
        Json::Object(entries) => {
            let keys: Vec<_> = entries.iter().map(|(key, _)| key_len(key)).collect();
            let mut slots: Vec<_> = std::mem::take(entries).into_iter().map(Some).collect();
            shrink_parts(&mut slots, &keys, sizes, budget, |(_, part)| part);
            *entries = slots.into_iter().flatten().collect();
            true
        }
        _ => false,
    }
}

/// Shrinks the largest part, and again the largest, until all fit in `budget`; one that cannot be made smaller goes.
fn shrink_parts<'a, T>(
    slots: &mut [Option<T>],
    keys: &[usize],
    sizes: &mut Sizes,
    budget: usize,
    part: impl Fn(&mut T) -> &mut Json<'a>,
) {
    // Of parts of one size the first is taken.
    let entry = |at: usize, bytes: usize| (bytes, std::cmp::Reverse(at));
    let mut largest: BinaryHeap<_> =
        sizes.parts.iter().enumerate().map(|(at, part)| entry(at, part.bytes)).collect();
    while sizes.bytes > budget
        && let Some((bytes, std::cmp::Reverse(at))) = largest.pop()
    {
        let room = budget.saturating_sub(sizes.bytes - bytes);
        let slot = slots[at].as_mut().expect("what is gone is not in the heap");
        if shrink(part(slot), &mut sizes.parts[at], room) && sizes.parts[at].bytes < bytes {
            sizes.bytes -= bytes - sizes.parts[at].bytes;
            largest.push(entry(at, sizes.parts[at].bytes));
        } else {
            slots[at] = None;
            let comma = usize::from(!largest.is_empty());
            sizes.bytes -= bytes + keys[at] + comma;
        }
    }
    let mut stays = slots.iter().map(Option::is_some);
    sizes.parts.retain(|_| stays.next() == Some(true));
}

/// `text`, which takes `bytes`, cut so that it takes `budget` at most; empty where not even the suffix fits.
///
/// How much stays is guessed from the share of the bytes that may stay, and lowered by the share that is too much
/// while it does not fit: as the SDK does it, so that both keep the same characters.
fn shortened(text: &str, bytes: usize, budget: usize) -> String {
    let suffix = SUFFIX.len() + QUOTES;
    if budget < suffix {
        return String::new();
    }
    let chars = text.chars().count();
    let mut keep = ((chars * (budget - suffix)) as f64 / bytes as f64) as usize;
    loop {
        let end = text.char_indices().nth(keep).map_or(text.len(), |(at, _)| at);
        let best = [&text[..end], SUFFIX].concat();
        let len = Json::from(best.as_str()).len();
        if len <= budget || keep == 0 {
            return best;
        }
        let excess = (len - budget) as f64 / len as f64;
        keep = keep.saturating_sub(((keep as f64 * excess) as usize + 1).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_to(value: &Json<'_>, budget: usize) -> String {
        let mut value = value.clone();
        let mut sizes = Sizes::of(&value);
        assert_eq!(sizes.bytes, value.len());
        shrink(&mut value, &mut sizes, budget);
        let text = value.to_string();
        assert_eq!(sizes.bytes, text.len(), "{text}");
        text
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let value = Json::parse(r#"[{"a":"12345"},null]"#).unwrap();
        assert_eq!(cut_to(&value, 20), value.to_string());
        let mut whole = Json::from("x".repeat(FIELD_BYTES_MAX - QUOTES));
        cut(&mut whole);
        assert_eq!(whole.len(), FIELD_BYTES_MAX);
        assert!(!whole.to_string().contains(SUFFIX));
    }

    #[test]
    fn strings_keep_what_the_sdk_keeps() {
        // As the SDK's exporter cut them: text, and characters that were kept.
        for (text, kept) in [
            ("x".repeat(100_000), 99_981),
            ("x".repeat(250_000), 99_982),
            ("é".repeat(80_000), 49_990),
            ("\"\n".repeat(70_000), 49_991),
            (format!("{}{}", "\u{1}".repeat(30_000), "x".repeat(60_000)), 16_663),
            (format!("{}{}", "x".repeat(60_000), "漢".repeat(60_000)), 49_991),
        ] {
            let mut value = Json::from(text.as_str());
            cut(&mut value);
            assert!(value.len() <= FIELD_BYTES_MAX);
            let Json::Str(cut) = value else { panic!() };
            let head = cut.strip_suffix(SUFFIX).unwrap();
            assert!(text.starts_with(head));
            assert_eq!(head.chars().count(), kept, "{:?}", text.chars().next());
        }
    }

    #[test]
    fn the_largest_parts_are_cut_first_and_what_cannot_be_cut_goes() {
        let value = Json::parse(r#"{"long":"0123456789012345678901234567890","n":12,"s":"abc"}"#);
        let value = value.unwrap();
        let cut = cut_to(&value, 45);
        assert_eq!(cut, r#"{"long":"0... [truncated]","n":12,"s":"abc"}"#);
        assert_eq!(cut_to(&value, 30), r#"{"long":"","n":12,"s":"abc"}"#);
        assert_eq!(cut_to(&value, 20), r#"{"n":12,"s":""}"#);
        assert_eq!(cut_to(&value, 10), r#"{"s":""}"#);
        assert_eq!(cut_to(&value, 2), "{}");
        assert_eq!(cut_to(&Json::parse("[1,22,333,22]").unwrap(), 8), "[1,22]");
    }

    #[test]
    fn whatever_is_cut_fits() {
        let deep = format!("{}\"{}\"{}", "[".repeat(99), "y".repeat(5000), "]".repeat(99));
        let wide = format!("[{}1]", "{\"k\":[1,2,\"three\"]},".repeat(300));
        for text in [deep, wide] {
            let value = Json::parse(&text).unwrap();
            for budget in [2, 3, 17, 100, 217, 1000, 4000] {
                assert!(cut_to(&value, budget).len() <= budget, "{budget}");
            }
        }
    }
}
