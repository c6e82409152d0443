use std::collections::HashMap;

use proptest::prelude::*;
use spanring::export::Pattern;

use super::errors::{GROUPS_MAX, Tracker, without_numbers};
use super::*;

/// A pattern by trying every place for what follows a star.
fn matches_slowly(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|at| matches_slowly(rest, &text[at..])),
        Some((letter, rest)) => text
            .split_first()
            .is_some_and(|(first, text)| first == letter && matches_slowly(rest, text)),
    }
}

/// A message without its numbers, letter by letter.
fn without_numbers_slowly(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let is_word = |at: usize| letters.get(at).is_some_and(char::is_ascii_alphanumeric);
    let mut shown = String::new();
    let mut at = 0;
    while at < letters.len() {
        let mut end = at;
        while is_word(end) {
            end += 1;
        }
        let word: String = letters[at..end].iter().collect();
        if word.chars().all(|c| c.is_ascii_hexdigit())
            && word.len() > 7
            && word.contains(|c: char| c.is_numeric())
        {
            shown.push('#');
        } else {
            let mut digits = word.clone();
            for digit in '0'..='9' {
                digits = digits.replace(digit, "\0");
            }
            while digits.contains("\0\0") {
                digits = digits.replace("\0\0", "\0");
            }
            shown.push_str(&digits.replace('\0', "#"));
        }
        if let Some(letter) = letters.get(end) {
            shown.push(*letter);
        }
        at = end + 1;
    }
    shown
}

proptest! {
    // A failure prints its input; files of old failures beside the sources would only go stale.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_matches_what_trying_everything_finds(pattern in "[ab*é]{0,8}", text in "[abé*]{0,10}") {
        let of = |text: &str| text.chars().collect::<Vec<_>>();
        let found = Pattern::list(&pattern).any(|pattern| pattern.matches(&text));
        let expected = !pattern.is_empty() && matches_slowly(&of(&pattern), &of(&text));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn numbers_are_taken_out_of_messages_as_letter_by_letter(
        text in prop_oneof![r"[a-f0-9 é.xz-]{0,30}", r"([0-9a-f]{6,12}[ -:]?){0,4}"],
    ) {
        let found = without_numbers(&text);
        prop_assert_eq!(&found, &without_numbers_slowly(&text));
        prop_assert!(!found.contains(|c: char| c.is_ascii_digit()));
        prop_assert_eq!(without_numbers(&found), found.clone());
    }

    #[test]
    fn errors_are_counted_as_one_by_one(
        errors in prop::collection::vec((0u8..4, 0u8..3, "[a-c]{1,2}", 0u32..100, 1u64..1000), 0..200),
    ) {
        let mut tracker = Tracker::default();
        let mut slow: HashMap<_, Vec<u64>> = HashMap::new();
        for (name, kind, message, number, time) in errors {
            let (name, kind) = (format!("name{name}"), format!("Type{kind}"));
            tracker.add_error(&name, &kind, &format!("{message} {number} failed"), time);
            slow.entry((name, kind, format!("{message} # failed"))).or_default().push(time);
        }
        let report = tracker.report();
        prop_assert_eq!((report.groups.len(), report.forgotten), (slow.len(), 0));
        prop_assert!(report.groups.is_sorted_by(|a, b| a.count >= b.count));
        let mut fingerprints: Vec<_> = report.groups.iter().map(|group| &group.fingerprint).collect();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        prop_assert_eq!(fingerprints.len(), slow.len());
        for group in report.groups {
            let times = &slow[&(group.name, group.error_type, group.message)];
            prop_assert_eq!(group.count, times.len() as u64);
            prop_assert_eq!(Some(&group.first_seen), times.iter().min());
            prop_assert_eq!(Some(&group.last_seen), times.iter().max());
        }
    }
}

#[test]
fn what_is_alike_but_for_its_numbers_is_one_error_in_every_process() {
    let mut tracker = Tracker::default();
    tracker.add_error("GET /order", "Timeout", "order 4711 took 3.5 s (deadbeef01)", 10);
    tracker.add_error("GET /order", "Timeout", "order 12 took 30.25 s (00c0ffee99)", 20);
    let [group] = &tracker.report().groups[..] else { panic!("one group") };
    assert_eq!(group.message, "order # took #.# s (#)");
    assert_eq!((group.count, group.first_seen, group.last_seen), (2, 10, 20));
    // It is written down by people, so it stays.
    assert_eq!(group.fingerprint, "d13b58be0ef14917");
    // A word of letters is no number.
    assert_eq!(without_numbers("defaced facade"), "defaced facade");
}

#[test]
fn there_are_so_many_errors_and_what_goes_is_counted() {
    let mut tracker = Tracker::default();
    let name = |number: u64| format!("{}", char::from_u32(0x4e00 + number as u32).unwrap());
    for number in 0..GROUPS_MAX as u64 + 50 {
        for _ in 0..=number % 3 {
            tracker.add_error(&name(number), "", "", 1000 + number);
        }
    }
    let report = tracker.report();
    let gone: u64 = (0..50).map(|number| number % 3 + 1).sum();
    assert_eq!((report.groups.len(), report.forgotten), (GROUPS_MAX, gone));
    assert!((0..50).all(|number| report.groups.iter().all(|group| group.name != name(number))));
}

#[test]
fn rules_beyond_the_bound_are_counted_together() {
    let mut stats = ProcessorStats::new("many");
    for round in 1..=2 {
        (0..100).for_each(|rule| stats.count_drop(&format!("rule {rule}")));
        assert_eq!(stats.dropped.len(), RULES_MAX + 1);
        assert_eq!(stats.dropped[RULES_MAX], (OTHER_RULES.to_owned(), 36 * round));
        assert_eq!(stats.dropped[0].1, round);
    }
}
