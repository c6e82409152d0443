//! The W3C test suite's tracestate cases, in the grammar of level 2, and a slow reading of it.

use proptest::prelude::*;

use super::*;

fn parse(header: &str) -> TraceState {
    TraceState::parse(header).unwrap_or_else(|error| panic!("{header:?}: {error}"))
}

fn error(header: &str) -> String {
    TraceState::parse(header).expect_err(header).to_string()
}

fn numbered(count: usize) -> String {
    (1..=count).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",")
}

#[test]
fn members_keep_their_order_and_their_values() {
    let state = parse("foo=1,bar=2");
    assert_eq!(state.iter().collect::<Vec<_>>(), [("foo", "1"), ("bar", "2")]);
    assert_eq!(state.get("bar"), Some("2"));
    assert_eq!(state.get("ba"), None);
}

#[test]
fn blanks_around_members_and_empty_members_are_passed_over() {
    for header in [
        "foo=1 \t , \t bar=2, \t baz=3",
        "foo=1\t \t,\t \tbar=2,\t \tbaz=3",
        "\t foo=1,bar=2,baz=3 \t",
        ",foo=1,, ,bar=2,\t,baz=3,",
    ] {
        assert_eq!(parse(header).as_str(), "foo=1,bar=2,baz=3");
    }
    for header in ["", " ", ",", " ,\t, "] {
        assert!(parse(header).is_empty(), "{header:?}");
        assert_eq!(parse(header).to_string(), "");
    }
}

#[test]
fn blanks_at_the_start_of_a_value_belong_to_it() {
    assert_eq!(parse("foo=  a b \t").get("foo"), Some("  a b"));
}

#[test]
fn several_lines_are_one_list() {
    let lines = ["foo=1,bar=2", "", "rojo=1,congo=2", "baz=3"];
    let state = TraceState::parse_lines(lines).expect("it is valid");
    assert_eq!(state.as_str(), "foo=1,bar=2,rojo=1,congo=2,baz=3");
    let error = TraceState::parse_lines(["foo=1", "", "bar=2,foo=1"]).expect_err("foo is doubled");
    assert_eq!(error.at_byte(), "foo=1,,bar=2,".len());
}

#[test]
fn a_key_for_the_second_time_refuses_the_list() {
    for header in ["foo=1,foo=1", "foo=1,foo=2", "foo=1,bar=2,foo=3"] {
        assert!(error(header).contains("second time"));
    }
}

#[test]
fn all_characters_that_the_grammar_allows_are_taken() {
    let key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
    let value: String = (' '..='~').filter(|c| !",=".contains(*c)).collect();
    for key in [key.to_owned(), format!("{key}@a-z0-9_-*/"), format!("0{key}")] {
        assert_eq!(parse(&format!("{key}={value}")).get(&key), Some(value.as_str()));
    }
}

#[test]
fn other_characters_refuse_the_list_and_are_named() {
    assert!(error("foo =1").starts_with("tracestate, byte 3 (' '): a key has only"));
    assert!(error("bar=2, FOO=1").starts_with("tracestate, byte 7 ('F'): a key must begin"));
    assert!(error("foo.bar=1").starts_with("tracestate, byte 3 ('.')"));
    assert!(error("@foo=1,bar=2").starts_with("tracestate, byte 0 ('@')"));
    assert!(error("foo=bar=baz").starts_with("tracestate, byte 7 ('='): a value has only"));
    assert!(error("foo=,bar=3").starts_with("tracestate, byte 4: a value must not be"));
    assert!(error("foo=a\tb").starts_with("tracestate, byte 5 ('\\t')"));
    assert!(error("foo=\u{e9}").starts_with("tracestate, byte 4 ('\\xc3')"));
    assert!(error("foo=\u{7f}").starts_with("tracestate, byte 4 ('\\x7f')"));
    assert!(error("=1").contains("a key must not be empty"));
    assert!(error("a=1,foo").starts_with("tracestate, byte 4 ('f'): a member without '='"));
}

#[test]
fn at_signs_stand_anywhere_but_first_as_level_2_has_it() {
    for key in ["tenant@system", "1@v", "foo@", "foo@@bar", "foo@bar@baz", "t@vvvvvvvvvvvvvvvvvvv"]
    {
        assert_eq!(parse(&format!("{key}=1,bar=2")).get(key), Some("1"));
    }
}

#[test]
fn keys_and_values_have_at_most_256_characters() {
    let long = "z".repeat(256);
    let header = format!("foo=1,{long}={long}");
    assert_eq!(parse(&header).get(&long), Some(long.as_str()));
    assert!(error(&format!("foo=1,{long}z=1")).contains("a key has at most 256"));
    assert!(error(&format!("foo={long}z")).contains("a value has at most 256"));
    assert!(error(&format!("{}@v=1", "t".repeat(255))).contains("a key has at most 256"));
}

#[test]
fn a_list_has_at_most_32_members() {
    assert_eq!(parse(&numbered(32)).iter().count(), 32);
    assert_eq!(parse(&format!(",,{},,", numbered(32))).iter().count(), 32);
    assert!(error(&numbered(33)).contains("more than 32 members"));
}

#[test]
fn a_header_has_at_most_64_kib_also_of_blanks() {
    let blanks = " ".repeat(READ_BYTES_MAX - 4);
    assert_eq!(parse(&format!("a=1,{blanks}")).as_str(), "a=1");
    for header in [format!("a=12,{blanks}"), ",".repeat(READ_BYTES_MAX + 1)] {
        assert!(error(&header).contains("byte 65536: more than 64 KiB"));
    }
}

#[test]
fn setting_moves_to_the_front_and_removing_leaves_the_rest() {
    let state = parse("rojo=1,congo=2,baz=3");
    let set = |key, value| state.with(key, value).expect("both are valid").to_string();
    assert_eq!(set("congo", "4"), "congo=4,rojo=1,baz=3");
    assert_eq!(set("new", "4"), "new=4,rojo=1,congo=2,baz=3");
    assert_eq!(state.without("congo").as_str(), "rojo=1,baz=3");
    assert_eq!(state.without("con"), state);
    assert!(parse("a=1").without("a").is_empty());
}

#[test]
fn setting_what_would_not_parse_is_an_error() {
    let state = parse("a=1");
    for (key, value) in [("", "1"), ("A", "1"), ("b", ""), ("b", "1 "), ("b", "1,c=2"), ("b", "é")]
    {
        assert!(state.with(key, value).is_err(), "{key:?}={value:?}");
    }
    assert_eq!(state.with("b", " 1").expect("a blank may be first").get("b"), Some(" 1"));
}

#[test]
fn the_33rd_member_goes_from_the_end() {
    let state = parse(&numbered(32)).with("new", "1").expect("it is valid");
    assert_eq!(state.iter().count(), 32);
    assert_eq!((state.get("bar31"), state.get("bar32")), (Some("31"), None));
    let same_count = parse(&numbered(32)).with("bar16", "1").expect("it is valid");
    assert_eq!(same_count.iter().count(), 32);
    assert_eq!(same_count.get("bar32"), Some("32"));
}

#[test]
fn above_512_bytes_long_members_go_first_then_those_at_the_end() {
    let (long, short) = ("x".repeat(140), "y".repeat(90));
    let keys = |state: TraceState| state.iter().map(|(key, _)| key.to_owned()).collect::<String>();
    let with = |header: &str, bytes| {
        keys(parse(header).with("n", &"1".repeat(bytes)).expect("a valid value"))
    };
    // 142 bytes a long member, 92 a short one, and a comma each: 472, so "n=" has room for 38 more.
    let mixed = format!("a={short},b={long},c={long},d={short}");
    assert_eq!(with(&mixed, 38), "nabcd");
    assert_eq!(with(&mixed, 39), "nabd", "of the long ones the last goes");
    assert_eq!(with(&mixed, 140), "nabd", "the new one is long too, but stays");
    assert_eq!(with(&mixed, 200), "nad");
    let shorts = format!("a={short},b={short},c={short},d={short}");
    assert_eq!(with(&shorts, 138), "nabcd");
    assert_eq!(with(&shorts, 139), "nabc");
    assert_eq!(with(&shorts, 256), "nab");
}

#[test]
fn exactly_512_bytes_stay_whole() {
    let state = parse(&format!("a={}", "x".repeat(120)));
    for (free, stays) in [(512, true), (513, false)] {
        // n= and m= and two commas, beside a=.
        let rest = free - 122 - 2 * 3;
        let state = state.with("m", &"1".repeat(rest - 256)).expect("valid");
        let state = state.with("n", &"1".repeat(256)).expect("valid");
        assert_eq!(state.get("a").is_some() && state.get("m").is_some(), stays, "{free}");
        assert!(state.as_str().len() <= 512);
    }
}

#[test]
fn the_member_just_set_stays_even_alone() {
    let long = "z".repeat(256);
    let state = parse("a=1").with(&long, &long).expect("valid");
    assert_eq!(state.as_str(), format!("{long}={long}"));
}

#[test]
fn a_parsed_list_above_512_bytes_is_passed_on_whole() {
    let header = (0..32).map(|n| format!("k{n}={}", "v".repeat(256))).collect::<Vec<_>>().join(",");
    assert_eq!(parse(&header).as_str(), header);
}

#[test]
fn thresholds_are_aligned_to_the_left_of_56_bits() {
    let threshold = |ot: &str| parse(&format!("a=1,ot={ot}")).ot_threshold();
    assert_eq!(threshold("th:0"), Some(0));
    assert_eq!(threshold("th:8"), Some(1 << 55));
    assert_eq!(threshold("rv:00000000000001;th:fd70a4"), Some(0xfd_70a4_0000_0000));
    assert_eq!(threshold("th:FD70A4"), Some(0xfd_70a4_0000_0000));
    assert_eq!(threshold("th:00000000000001"), Some(1));
    assert_eq!(threshold("th:ffffffffffffff"), Some((1 << 56) - 1));
    assert_eq!(threshold("p:8;th:c;r:62"), Some(0xc0_0000_0000_0000));
    for bad in ["th:", "th", "th:000000000000000", "th:g", "th:+1", "th: 1", "tha:1", "th:1;th:1"] {
        assert_eq!(threshold(bad), None, "{bad}");
    }
    assert_eq!(parse("ot@x=th:8,th=8").ot_threshold(), None);
}

#[test]
fn randomness_has_exactly_14_digits() {
    let randomness = |ot: &str| parse(&format!("ot={ot}")).ot_randomness();
    assert_eq!(randomness("th:8;rv:6e6d1a75832a2f"), Some(0x6e_6d1a_7583_2a2f));
    assert_eq!(randomness("rv:00000000000000"), Some(0));
    for bad in ["rv:6e6d1a75832a2", "rv:6e6d1a75832a2f0", "rv:6e6d1a75832a2g", "th:6e6d1a75832a2f"]
    {
        assert_eq!(randomness(bad), None, "{bad}");
    }
}

#[test]
fn a_threshold_is_written_without_zeros_at_the_end_and_beside_what_is_there() {
    let with = |header: &str, th| parse(header).with_ot_threshold(th).expect("valid").to_string();
    assert_eq!(with("", 0), "ot=th:0");
    assert_eq!(with("a=1", 1 << 55), "ot=th:8,a=1");
    assert_eq!(
        with("a=1,ot=rv:6e6d1a75832a2f;th:c;p:8", 0x0f_0000_0000_0000),
        "ot=th:0f;rv:6e6d1a75832a2f;p:8,a=1"
    );
    assert_eq!(with("a=1,ot=th:8;rv:6e6d1a75832a2f", 1 << 55), "a=1,ot=th:8;rv:6e6d1a75832a2f");
    assert_eq!(with("ot=th:80", 1 << 55), "ot=th:8");
    assert_eq!(with("ot=th:8;th:c", 1), "ot=th:00000000000001");
    assert_eq!(with("ot=; x;th", 0), "ot=th:0;x");
}

#[test]
fn a_threshold_that_cannot_be_written_is_an_error() {
    assert!(parse("").with_ot_threshold(1 << 56).is_err());
    let full = parse(&format!("ot=x:{}", "1".repeat(250)));
    assert!(full.with_ot_threshold(1).is_err());
    assert!(full.without_ot_threshold() == full);
}

#[test]
fn a_threshold_is_taken_away_and_the_rest_stays() {
    let without = |header: &str| parse(header).without_ot_threshold().to_string();
    assert_eq!(without("a=1,ot=rv:6e6d1a75832a2f;th:c"), "ot=rv:6e6d1a75832a2f,a=1");
    assert_eq!(without("a=1,ot=th:c"), "a=1");
    assert_eq!(without("ot=th:c"), "");
    assert_eq!(without("ot=th"), "");
    assert_eq!(without("ot=x ;th:c"), "ot=x");
    assert_eq!(without("a=1,ot=rv:6e6d1a75832a2f"), "a=1,ot=rv:6e6d1a75832a2f");
}

/// The grammar of the specification, production by production, over characters; no code shared.
fn slowly(header: &str) -> Option<Vec<(String, String)>> {
    let lcalpha_digit = "abcdefghijklmnopqrstuvwxyz0123456789";
    let keychar = format!("{lcalpha_digit}_-*/@");
    let mut list = Vec::new();
    for member in header.split(',') {
        let mut characters: Vec<char> = member.chars().collect();
        while matches!(characters.first(), Some(' ' | '\t')) {
            characters.remove(0);
        }
        while matches!(characters.last(), Some(' ' | '\t')) {
            characters.pop();
        }
        if characters.is_empty() {
            continue;
        }
        let equals = characters.iter().filter(|c| **c == '=').count();
        let at = characters.iter().position(|c| *c == '=')?;
        let (key, value) = (&characters[..at], &characters[at + 1..]);
        let valid = equals == 1
            && (1..=256).contains(&key.len())
            && lcalpha_digit.contains(key[0])
            && key.iter().all(|c| keychar.contains(*c))
            && (1..=256).contains(&value.len())
            && value.iter().all(|c| (0x20..=0x7e).contains(&(*c as u32)))
            && *value.last()? != ' ';
        let (key, value) = (key.iter().collect::<String>(), value.iter().collect::<String>());
        if !valid || list.iter().any(|(other, _)| *other == key) || list.len() == 32 {
            return None;
        }
        list.push((key, value));
    }
    Some(list)
}

/// Text near the grammar: pieces of it, good and bad, and lengths near the limits.
fn near_grammar() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[a-c]{1,2}=[ !-+.-<>-~]{0,3}[!-+]",
        3 => "[ \t]{0,2}[a-z0-9@A_*/-]{0,3}[ ]?=?[ -~\u{e9}\t]{0,3}[ \t]{0,2}",
        1 => (254usize..258, 254usize..258)
            .prop_map(|(key, value)| format!("{}={}", "k".repeat(key), "v".repeat(value))),
    ];
    let many = (28usize..35).prop_map(numbered);
    prop_oneof![
        20 => proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.join(",")),
        1 => many,
    ]
}

fn valid_state() -> impl Strategy<Value = TraceState> {
    proptest::collection::btree_map("[a-z0-9][a-z0-9_*/@-]{0,8}", "[ !-+.-<>-~]{0,40}[!-+]", 0..33)
        .prop_map(|members| {
            let members: Vec<_> = members.iter().map(|(k, v)| format!("{k}={v}")).collect();
            parse(&members.join(","))
        })
}

proptest! {
    #[test]
    fn parsing_agrees_with_the_slow_reading_of_the_grammar(header in near_grammar()) {
        let parsed = TraceState::parse(&header).ok();
        let members = parsed.as_ref().map(|state| {
            state.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Vec<_>>()
        });
        prop_assert_eq!(members, slowly(&header));
        if let Some(state) = parsed {
            prop_assert_eq!(TraceState::parse(state.as_str()), Ok(state));
        }
    }

    #[test]
    fn lines_mean_the_same_as_their_join(lines in proptest::collection::vec(near_grammar(), 0..4)) {
        let joined = TraceState::parse(&lines.join(","));
        prop_assert_eq!(TraceState::parse_lines(lines.iter().map(String::as_str)), joined);
    }

    #[test]
    fn arbitrary_text_never_panics(header in "\\PC{0,60}") {
        let _ = TraceState::parse(&header);
    }

    #[test]
    fn what_is_set_is_first_and_the_others_keep_their_order(
        state in valid_state(),
        key in "[a-z]{1,3}",
        value in "[ !-+]{0,200}[!-+]",
    ) {
        let set = state.with(&key, &value).expect("both are valid");
        prop_assert_eq!(set.iter().next(), Some((key.as_str(), value.as_str())));
        prop_assert!(set.iter().count() <= 32 && set.as_str().len() <= 512);
        prop_assert_eq!(TraceState::parse(set.as_str()), Ok(set.clone()));
        let mut before = state.iter();
        for member in set.iter().skip(1) {
            prop_assert!(before.any(|other| other == member), "{:?} moved", member);
        }
        prop_assert!(set.without(&key).get(&key).is_none());
    }

    #[test]
    fn a_threshold_reads_back_and_the_other_sub_keys_stay(
        ot in "[a-z0-9;:. ]{0,20}[a-z]",
        threshold in (0u64..1 << 56, 0u32..56).prop_map(|(th, zeros)| th >> zeros << zeros),
    ) {
        let state = parse(&format!("a=1,ot={ot}"));
        let set = state.with_ot_threshold(threshold).expect("it fits");
        prop_assert_eq!(set.ot_threshold(), Some(threshold));
        prop_assert_eq!(set.ot_randomness(), state.ot_randomness());
        prop_assert_eq!(TraceState::parse(set.as_str()), Ok(set.clone()));
        let rest = state.without_ot_threshold();
        prop_assert_eq!(rest.ot_threshold(), None);
        let set_rest = set.without_ot_threshold();
        // Taking away and setting both put the rest in normal form; what has no threshold has not.
        if rest != state {
            prop_assert_eq!(set_rest.get("ot"), rest.get("ot"));
        }
        prop_assert_eq!(set_rest.ot_randomness(), state.ot_randomness());
    }
}
