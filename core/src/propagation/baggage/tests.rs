//! The W3C test suite's baggage cases, the limits, and round trips.

use proptest::prelude::*;

use super::*;

fn pairs(baggage: &Baggage) -> Vec<(&str, &str, &str)> {
    baggage.iter().map(|entry| (entry.key(), entry.value(), entry.metadata())).collect()
}

fn single(header: &str) -> (String, String, String) {
    let baggage = Baggage::parse(header);
    assert_eq!((baggage.len(), baggage.left_out()), (1, 0), "{header}");
    let [(key, value, metadata)] = pairs(&baggage)[..] else { unreachable!("one entry") };
    (key.to_owned(), value.to_owned(), metadata.to_owned())
}

#[test]
fn members_are_read_in_order_with_blanks_anywhere() {
    let expected = [("SomeKey", "SomeValue", ""), ("SomeKey2", "SomeValue2", "")];
    for header in [
        "SomeKey=SomeValue,SomeKey2=SomeValue2",
        "SomeKey \t = \t SomeValue \t , \t SomeKey2 \t = \t SomeValue2 \t ",
        ",SomeKey=SomeValue, ,SomeKey2=SomeValue2,",
    ] {
        assert_eq!(pairs(&Baggage::parse(header)), expected, "{header:?}");
    }
    assert_eq!(
        pairs(&Baggage::parse_lines(["SomeKey=SomeValue", "SomeKey2=SomeValue2"])),
        expected
    );
}

#[test]
fn properties_are_kept_without_blanks() {
    let header = "SomeKey \t = \t SomeValue \t ; \t SomeProp \t ;; \t Key \t = \t V%20=1 \t ";
    let baggage = Baggage::parse(header);
    let entry = baggage.iter().next().expect("it is well formed");
    assert_eq!(entry.metadata(), "SomeProp;Key=V%20=1");
    let properties: Vec<_> = entry.properties().collect();
    assert_eq!(properties, [("SomeProp", None), ("Key", Some("V =1".into()))]);
    assert_eq!(baggage.to_string(), "SomeKey=SomeValue;SomeProp;Key=V%20=1");
    assert_eq!(Baggage::parse("a=1").iter().next().expect("one").properties().count(), 0);
}

#[test]
fn a_value_may_have_equals_signs_and_may_be_empty() {
    assert_eq!(single("SomeKey=SomeValue=equals").1, "SomeValue=equals");
    assert_eq!(single("SomeKey=").1, "");
    assert_eq!(single("SomeKey==").1, "=");
}

#[test]
fn values_are_percent_decoded_and_encoded() {
    let value = "\t \"';=asdf!@#$%^&*()\\,é\u{1F600}";
    let encoded = "%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29%5C%2C%C3%A9%f0%9f%98%80";
    assert_eq!(single(&format!("SomeKey={encoded}")).1, value);
    let printed = Baggage::default().with("SomeKey", value).expect("valid").to_string();
    let expected = "%09%20%22'%3B=asdf!@#$%25^&*()%5C%2C%C3%A9%F0%9F%98%80";
    assert_eq!(printed, format!("SomeKey={expected}"));
    assert_eq!(single("k=a+b").1, "a+b", "a plus sign is no blank here");
}

#[test]
fn bytes_that_are_not_utf8_become_the_replacement_character() {
    assert_eq!(single("k=a%ffb").1, "a\u{fffd}b");
    assert_eq!(single("k=%C3").1, "\u{fffd}");
    assert_eq!(single("k=%ed%a0%80x").1, "\u{fffd}\u{fffd}\u{fffd}x");
    assert_eq!(Baggage::parse("k=%ff").to_string(), "k=%EF%BF%BD");
}

#[test]
fn a_percent_sign_without_two_digits_stands_for_itself() {
    for (header, value) in [("k=%", "%"), ("k=%4", "%4"), ("k=%zz", "%zz"), ("k=%%41", "%A")] {
        assert_eq!(single(header).1, value);
    }
    assert_eq!(Baggage::parse("k=%zz").to_string(), "k=%25zz");
}

#[test]
fn malformed_members_are_left_out_and_counted_and_the_others_stay() {
    for bad in [
        "novalue",
        "=1",
        "k y=1",
        "k(=1",
        "ké=1",
        "k=a b",
        "k=\"a\"",
        "k=a\\b",
        "k=é",
        "k=1;p q",
        "k=1;=v",
        "k=1;p=a b",
        "k=1;p\"",
        ";p",
    ] {
        let baggage = Baggage::parse(&format!("first=1,{bad},last=2"));
        assert_eq!(pairs(&baggage), [("first", "1", ""), ("last", "2", "")], "{bad}");
        assert_eq!(baggage.left_out(), 1, "{bad}");
    }
}

#[test]
fn the_last_value_of_a_key_counts_in_its_first_place() {
    let baggage = Baggage::parse("a=1;p,b=2,a=3,A=4");
    assert_eq!(pairs(&baggage), [("a", "3", ""), ("b", "2", ""), ("A", "4", "")]);
    assert_eq!(
        (baggage.get("a"), baggage.get("A"), baggage.get("c")),
        (Some("3"), Some("4"), None)
    );
    assert_eq!(baggage.left_out(), 0);
}

#[test]
fn setting_and_removing_leave_the_original_alone() {
    let before = Baggage::parse("a=1;p,b=2");
    let after = before.with("a", "x y").and_then(|b| b.with_metadata("c", "3", " q ; r = 1 "));
    let after = after.expect("all are valid");
    assert_eq!(after.to_string(), "a=x%20y,b=2,c=3;q;r=1");
    assert_eq!(after.without("a").without("nothing").to_string(), "b=2,c=3;q;r=1");
    assert_eq!(before.to_string(), "a=1;p,b=2");
    assert!(Baggage::parse("a=1").without("a").is_empty());
    assert_eq!(Baggage::parse("a=1").without("a"), Baggage::default());
}

#[test]
fn setting_what_would_not_parse_is_an_error() {
    let message = |result: Result<Baggage, PropagationError>| result.unwrap_err().to_string();
    let empty = Baggage::default();
    assert!(
        message(empty.with("a b", "1")).starts_with("baggage, byte 1 (' '): a key has letters")
    );
    assert!(message(empty.with("", "1")).starts_with("baggage, byte 0: a key"));
    assert!(message(empty.with_metadata("a", "1", "p q")).contains("metadata is key=value"));
    assert!(empty.with("a", "anything, at; all=\u{0}").is_ok());
}

#[test]
fn the_65th_member_is_left_out_and_counted() {
    let header = |count| (0..count).map(|n| format!("k{n}={n}")).collect::<Vec<_>>().join(",");
    assert_eq!(Baggage::parse(&header(64)).left_out(), 0);
    let full = Baggage::parse(&header(67));
    assert_eq!((full.len(), full.left_out()), (64, 3));
    assert_eq!((full.get("k63"), full.get("k64")), (Some("63"), None));
    let more = full.with("new", "1").expect("valid");
    assert_eq!((more.len(), more.left_out()), (64, 4));
    let replaced = full.with("k5", "new").expect("valid");
    assert_eq!((replaced.get("k5"), replaced.left_out()), (Some("new"), 3));
    let room = full.without("k0").with("new", "1").expect("valid");
    assert_eq!((room.len(), room.get("new"), room.left_out()), (64, Some("1"), 3));
}

#[test]
fn what_would_print_as_more_than_8192_bytes_is_left_out_and_what_fits_behind_it_is_kept() {
    let big = "x".repeat(8192 - 8);
    let full = Baggage::parse(&format!("a={big},b=123,c="));
    assert_eq!((full.len(), full.left_out()), (2, 1));
    assert_eq!(full.to_string().len(), 8192);
    let smaller = Baggage::parse(&format!("a={big},b=1234,c=1"));
    assert_eq!((smaller.get("b"), smaller.get("c")), (None, Some("1")));
    assert_eq!(smaller.left_out(), 1);
}

#[test]
fn the_byte_limit_counts_what_is_printed_also_after_changes() {
    // A byte that is not UTF-8 comes in as three bytes and goes out as nine.
    let grows = Baggage::parse(&format!("k={}", "%ff".repeat(8190 / 9 + 1)));
    assert_eq!((grows.len(), grows.left_out()), (0, 1));
    // An escaped letter shrinks.
    let shrinks = Baggage::parse(&format!("k={}", "%61".repeat(8190)));
    assert_eq!(shrinks.to_string().len(), 8192);
    let same = shrinks.with("k", &"b".repeat(8190)).expect("valid");
    assert_eq!((same.get("k").map(|v| v.starts_with('b')), same.left_out()), (Some(true), 0));
    let over = shrinks.with("k", &"b".repeat(8191)).expect("valid");
    assert_eq!((over.get("k").map(|v| v.starts_with('a')), over.left_out()), (Some(true), 1));
    let metadata = Baggage::default().with_metadata("k", &"b".repeat(8188), ";p").expect("valid");
    assert_eq!(metadata.to_string().len(), 8192);
    let over = Baggage::default().with_metadata("k", &"b".repeat(8189), ";p").expect("valid");
    assert_eq!((over.len(), over.left_out()), (0, 1));
    let two = Baggage::parse(&format!("a=1,k={}", "b".repeat(8186)));
    let freed = two.without("k").with("c", &"d".repeat(8186)).expect("valid");
    assert_eq!((freed.to_string().len(), freed.left_out()), (8192, 0));
}

#[test]
fn a_huge_header_is_read_to_a_limit_and_the_rest_is_counted() {
    let header = format!("a=1,{},b=2,c=3", " ".repeat(READ_BYTES_MAX));
    let baggage = Baggage::parse(&header);
    assert_eq!(pairs(&baggage), [("a", "1", "")]);
    assert_eq!(baggage.left_out(), 2);
    let lines = vec!["a=1"; READ_BYTES_MAX];
    let baggage = Baggage::parse_lines(lines.iter().copied());
    assert_eq!(baggage.left_out(), (READ_BYTES_MAX - READ_BYTES_MAX / 4) as u64);
}

#[test]
fn a_clone_shares_the_entries() {
    let baggage = Baggage::parse("a=1");
    let clone = baggage.clone();
    assert!(std::ptr::eq(baggage.entries(), clone.entries()));
}

proptest! {
    #[test]
    fn what_is_set_reads_back_the_same(
        entries in proptest::collection::vec(("[!#$%&'*+.^_`|~a-zA-Z0-9-]{1,4}", "\\PC{0,9}|(?s).{0,9}"), 0..70),
    ) {
        let mut baggage = Baggage::default();
        for (key, value) in &entries {
            baggage = baggage.with(key, value).expect("the key is a token");
        }
        let read = Baggage::parse(&baggage.to_string());
        prop_assert_eq!(&read, &baggage);
        prop_assert_eq!(read.left_out(), 0);
        let mut last = std::collections::HashMap::new();
        entries.iter().for_each(|(key, value)| { last.insert(key, value); });
        if baggage.left_out() == 0 {
            prop_assert_eq!(baggage.len(), last.len());
            for (key, value) in last {
                prop_assert_eq!(baggage.get(key), Some(value.as_str()));
            }
        } else {
            prop_assert_eq!(baggage.len(), 64);
        }
    }

    #[test]
    fn what_parses_prints_within_the_limits_and_reads_back_the_same(
        header in "([a-c%]{0,2}[ \t]?=?[ !-~%]{0,4}(%[0-9a-fA-F]{2}){0,3}(;[a-c= ]{0,5})?,){0,80}",
    ) {
        let baggage = Baggage::parse(&header);
        let printed = baggage.to_string();
        prop_assert!(printed.len() <= 8192 && baggage.len() <= 64);
        prop_assert_eq!(baggage.0.as_ref().map_or(0, |members| members.bytes), match printed.len() {
            0 => 0,
            bytes => bytes + 1,
        });
        let read = Baggage::parse(&printed);
        prop_assert_eq!(&read, &baggage);
        prop_assert_eq!(read.left_out(), 0);
        prop_assert_eq!(read.to_string(), printed);
    }

    #[test]
    fn arbitrary_text_never_panics(header in "\\PC{0,60}") {
        let _ = Baggage::parse(&header).to_string();
    }

    #[test]
    fn decoding_agrees_with_a_slow_reading(value in "([a-z%]|%[0-9a-fA-F]{0,2}){0,12}") {
        let mut bytes = Vec::new();
        let characters: Vec<char> = value.chars().collect();
        let mut at = 0;
        while at < characters.len() {
            let escape: String = characters[at..].iter().take(3).skip(1).collect();
            let hex = escape.len() == 2 && escape.chars().all(|c| c.is_ascii_hexdigit());
            if characters[at] == '%' && hex {
                bytes.push(u8::from_str_radix(&escape, 16).expect("two digits"));
                at += 3;
            } else {
                bytes.push(characters[at] as u8);
                at += 1;
            }
        }
        prop_assert_eq!(decode(&value), String::from_utf8_lossy(&bytes));
    }
}
