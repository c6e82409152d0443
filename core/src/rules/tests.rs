//! Rules as texts and as what they match, against a slow model of both.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Value;
use crate::settings::Level;
use crate::value::IntoValue;

/// A pattern of the model: `None` is a star.
type Glob = Vec<Option<char>>;

#[derive(Clone, Debug)]
enum Asked {
    Name(Glob),
    Scope(Glob),
    Kind(SpanKind),
    Is(String, Glob),
    Begins(String, String),
    /// In quarters.
    Compares(String, &'static str, i64),
    Length(String, &'static str, i64),
}

#[derive(Clone, Debug)]
struct Span {
    name: String,
    scope: String,
    kind: SpanKind,
    attributes: Vec<(String, Value)>,
}

impl Subject for Span {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_of_scope(&self, pattern: &Pattern) -> bool {
        pattern.matches(&self.scope)
    }

    fn kind(&self) -> SpanKind {
        self.kind
    }

    fn attribute(&self, key: &str) -> Seen<'_> {
        let found = self.attributes.iter().find(|(known, _)| known == key);
        found.map_or(Seen::Absent, |(_, value)| value.seen())
    }
}

fn is_like(glob: &[Option<char>], text: &[char]) -> bool {
    match (glob, text) {
        ([], []) => true,
        ([None, glob @ ..], _) => (0..=text.len()).any(|at| is_like(glob, &text[at..])),
        ([Some(wanted), glob @ ..], [c, text @ ..]) => wanted == c && is_like(glob, text),
        _ => false,
    }
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn compares(quarters: i64, how: &str, with: i64) -> bool {
    match how {
        "<" => quarters < with,
        "<=" => quarters <= with,
        "=" => quarters == with,
        ">=" => quarters >= with,
        _ => quarters > with,
    }
}

/// A number's quarters.
fn quarters(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number * 4),
        Value::Double(number) => Some((number * 4.0) as i64),
        _ => None,
    }
}

impl Asked {
    fn holds(&self, span: &Span) -> bool {
        let value = |key: &String| {
            let found = span.attributes.iter().find(|(known, _)| known == key);
            found.map(|(_, value)| value).filter(|value| **value != Value::Null)
        };
        match self {
            Asked::Name(glob) => is_like(glob, &chars(&span.name)),
            Asked::Scope(glob) => is_like(glob, &chars(&span.scope)),
            Asked::Kind(kind) => span.kind == *kind,
            Asked::Is(key, glob) => value(key).is_some_and(|value| {
                let word: Option<String> = glob.iter().copied().collect();
                let number = || word.as_ref()?.parse::<f64>().ok();
                match value {
                    _ if !glob.is_empty() && glob.iter().all(Option::is_none) => true,
                    Value::Str(text) => is_like(glob, &chars(text)),
                    Value::Bool(truth) => word == Some(truth.to_string()),
                    Value::Int(value) => number() == Some(*value as f64),
                    Value::Double(value) => number() == Some(*value),
                    _ => false,
                }
            }),
            Asked::Begins(key, prefix) => {
                matches!(value(key), Some(Value::Str(text)) if text.starts_with(prefix))
            }
            Asked::Compares(key, how, with) => {
                value(key).and_then(quarters).is_some_and(|value| compares(value, how, *with))
            }
            Asked::Length(key, how, with) => {
                matches!(value(key), Some(Value::Str(text)) if compares(chars(text).len() as i64 * 4, how, *with))
            }
        }
    }

    /// As somebody may write it, in one of some styles.
    fn write(&self, style: usize) -> String {
        let blank = ["", " ", "  \t"][style % 3];
        let glob = |glob: &Glob| {
            glob.iter().map(|c| c.map_or("*".to_owned(), |c| letter(c, style))).collect::<String>()
        };
        let whole = |text: &str| match text {
            "" => "\"\"".to_owned(),
            text => glob(&text.chars().map(Some).collect()),
        };
        let pattern = |of: &Glob| if of.is_empty() { "\"\"".to_owned() } else { glob(of) };
        // So that it is no word of ours.
        let key = |key: &str| format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        let number = |quarters: i64| match style % 2 {
            0 => (quarters as f64 / 4.0).to_string(),
            _ => format!("{:.2}", quarters as f64 / 4.0),
        };
        match self {
            Asked::Name(of) if style.is_multiple_of(2) => pattern(of),
            Asked::Name(of) => format!("name{blank}={blank}{}", pattern(of)),
            Asked::Scope(of) => format!("scope{blank}={blank}{}", pattern(of)),
            Asked::Kind(kind) => {
                format!("kind{blank}={blank}{}", parse::kind_name(*kind).to_uppercase())
            }
            Asked::Is(of, like) => format!("{}{blank}={blank}{}", key(of), pattern(like)),
            Asked::Begins(of, prefix) => format!("{}{blank}^={blank}{}", key(of), whole(prefix)),
            Asked::Compares(of, how, with) => {
                format!("{}{blank}{how}{blank}{}", key(of), number(*with))
            }
            Asked::Length(of, how, with) => {
                format!("{}.length{blank}{how}{blank}{}", key(of), number(*with))
            }
        }
    }
}

/// A character that is meant as it is.
fn letter(c: char, style: usize) -> String {
    match c {
        c if c.is_ascii_alphanumeric() => c.to_string(),
        '"' | '\\' => format!("\\{c}"),
        c if style.is_multiple_of(2) => format!("\"{c}\""),
        c => format!("\\{c}"),
    }
}

const LETTERS: [char; 18] =
    ['a', 'b', 'a', 'b', '1', '0', '.', '-', '*', '=', ',', ';', '>', '<', '"', '\\', ' ', 'é'];
const KINDS: [SpanKind; 5] = [
    SpanKind::Internal,
    SpanKind::Server,
    SpanKind::Client,
    SpanKind::Producer,
    SpanKind::Consumer,
];

fn text() -> impl Strategy<Value = String> {
    vec(proptest::sample::select(&LETTERS[..]), 0..5).prop_map(String::from_iter)
}

fn glob() -> impl Strategy<Value = Glob> {
    let letter = proptest::sample::select(&LETTERS[..]).prop_map(Some);
    vec(prop_oneof![2 => letter, 1 => Just(None)], 0..5)
}

fn key() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["a", "name", "kind", "b.length", "x*y", "a,b", "ü \"\\"])
        .prop_map(str::to_owned)
}

fn how() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["<", "<=", ">=", ">"])
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        glob().prop_map(Asked::Name),
        glob().prop_map(Asked::Scope),
        proptest::sample::select(&KINDS[..]).prop_map(Asked::Kind),
        (key(), glob()).prop_map(|(key, glob)| Asked::Is(key, glob)),
        (key(), prop_oneof![Just("true"), Just("false"), Just("1"), Just("-0.5"), Just("10.0")])
            .prop_map(|(key, word)| Asked::Is(key, word.chars().map(Some).collect())),
        (key(), text()).prop_map(|(key, prefix)| Asked::Begins(key, prefix)),
        (key(), how(), -9_i64..50).prop_map(|(key, how, with)| Asked::Compares(key, how, with)),
        (key(), prop_oneof![how(), Just("=")], -1_i64..20)
            .prop_map(|(key, how, with)| Asked::Length(key, how, with)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3_i64..13).prop_map(Value::Int),
        (-9_i64..50).prop_map(|quarters| Value::Double(quarters as f64 / 4.0)),
        text().prop_map(Value::Str),
        proptest::sample::select(vec!["true", "1", "10"])
            .prop_map(|text| Value::Str(text.to_owned())),
        Just(Value::Array(vec![Value::Int(1)])),
    ]
}

fn span() -> impl Strategy<Value = Span> {
    let attributes = proptest::collection::hash_map(key(), value(), 0..4);
    (text(), text(), proptest::sample::select(&KINDS[..]), attributes).prop_map(
        |(name, scope, kind, attributes)| Span {
            name,
            scope,
            kind,
            attributes: attributes.into_iter().collect(),
        },
    )
}

const SAMPLERS: [(&str, RootSampler); 5] = [
    ("always", RootSampler::AlwaysOn),
    ("never", RootSampler::AlwaysOff),
    ("ratio:0.25", RootSampler::TraceIdRatio(0.25)),
    ("every_nth: 7", RootSampler::EveryNth(7)),
    (" rate_limit:1e3", RootSampler::RateLimit(1000.0)),
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_first_rule_that_matches_decides_as_the_model_says(
        rules in vec((vec(asked(), 0..3), 0..SAMPLERS.len(), 0_usize..6), 0..4),
        spans in vec(span(), 4),
    ) {
        let texts = rules.iter().map(|(asked, sampler, style)| {
            let conditions: Vec<_> = asked.iter().map(|asked| asked.write(*style)).collect();
            let conditions = if asked.is_empty() && style % 2 == 0 { "*".to_owned() } else { conditions.join(" , ") };
            format!("{conditions} ->{}", SAMPLERS[*sampler].0)
        });
        let text = texts.collect::<Vec<_>>().join(";");
        let parsed: Rules = match text.parse() {
            Ok(parsed) => parsed,
            Err(error) => return Err(TestCaseError::fail(format!("{text:?}: {error}"))),
        };
        prop_assert_eq!(parsed.len(), rules.len());
        for span in &spans {
            let expected = rules.iter().position(|(asked, ..)| asked.iter().all(|asked| asked.holds(span)));
            let found = parsed.iter().position(|rule| rule.mismatch(span).is_none());
            prop_assert_eq!(found, expected, "{} {:?}", text, span);
        }
        for (rule, (_, sampler, _)) in parsed.iter().zip(&rules) {
            prop_assert_eq!(rule.sampler, SAMPLERS[*sampler].1);
        }
        prop_assert_eq!(parsed.to_string().parse::<Rules>(), Ok(parsed));
    }

    #[test]
    fn the_first_level_that_matches_counts(
        entries in vec((any::<bool>(), glob(), proptest::sample::select(Level::ALL), 0_usize..6), 0..4),
        span in span(),
    ) {
        let texts = entries.iter().map(|(is_scope, glob, level, style)| {
            let of = match (is_scope, style % 2) { (true, _) => "scope:", (false, 0) => "name:", (false, _) => "" };
            let pattern = Asked::Name(glob.clone()).write(style / 2 * 2);
            format!("{of}{pattern}={level}")
        });
        let text = texts.collect::<Vec<_>>().join(" ; ");
        let levels: Levels = text.parse().map_err(|error| TestCaseError::fail(format!("{text:?}: {error}")))?;
        let expected = entries.iter().find(|(is_scope, glob, ..)| {
            is_like(glob, &chars(if *is_scope { &span.scope } else { &span.name }))
        });
        prop_assert_eq!(levels.find(&span), expected.map(|(_, _, level, _)| *level));
        prop_assert_eq!(levels.to_string().parse::<Levels>(), Ok(levels));
    }

    #[test]
    fn any_text_is_rules_or_a_problem_with_a_place(text in "[ab1.*=<>^;,:\"\\\\ é-]{0,40}|\\PC{0,40}") {
        let text = text.replace('1', "->always");
        let place = |error: RuleError| {
            let chars = text.chars().count();
            prop_assert!(error.rule >= 1 && (1..=chars + 1).contains(&error.character), "{error}");
            Ok(())
        };
        match text.parse::<Rules>() {
            Ok(rules) => prop_assert_eq!(rules.to_string().parse(), Ok(rules)),
            Err(error) => place(error)?,
        }
        match text.parse::<Levels>() {
            Ok(levels) => prop_assert_eq!(levels.to_string().parse(), Ok(levels)),
            Err(error) => place(error)?,
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_write() {
    for (text, said) in [
        (
            "kind=sever -> never",
            "rule 1, character 6: \"sever\" is no kind: write one of internal, server, client, producer, consumer",
        ),
        (
            "a -> never; b",
            "rule 2, character 14: here the sampler is missing: write -> and always, never, ratio:0.1, every_nth:10 or rate_limit:5",
        ),
        (
            "a -> sometimes",
            "rule 1, character 6: \"sometimes\" is no sampler: write always, never,",
        ),
        ("a -> never:1", "rule 1, character 6: \"never:1\" is no sampler"),
        (
            "a -> ratio:10%",
            "rule 1, character 6: ratio takes a number from 0 to 1: write ratio:0.1 for a tenth",
        ),
        ("a -> ratio:NaN", "rule 1, character 6: ratio takes"),
        (
            "a -> every_nth:0",
            "rule 1, character 6: every_nth takes a whole number from 1: write every_nth:10",
        ),
        (
            "a -> rate_limit:0",
            "rule 1, character 6: rate_limit takes spans a second, above 0 and at most 1000000000: write rate_limit:5",
        ),
        (
            "rows>>5 -> always",
            "rule 1, character 6: \">5\" is no number: write one behind >, as in >100",
        ),
        ("rows>=many -> always", "rule 1, character 7: \"many\" is no number"),
        (
            "rows= -> always",
            "rule 1, character 7: here a value is missing behind =: write it, or \"\" for an empty one",
        ),
        ("a, , b -> always", "rule 1, character 4: here a condition is missing"),
        ("name^=x -> always", "rule 1, character 1: name takes =, not ^=: write name=http*"),
        ("db.*=1 -> always", "rule 1, character 1: a key is taken as it is"),
        (".length>5 -> always", "rule 1, character 1: here the key is missing"),
        ("a.length^=5 -> always", "rule 1, character 1: a length is a number"),
        (
            "né=\"x -> always",
            "rule 1, character 4: this quote does not end: write \" behind what it quotes",
        ),
        ("a -> always\\", "rule 1, character 12: nothing is behind the backslash"),
    ] {
        let error = text.parse::<Rules>().expect_err(text).to_string();
        assert!(error.starts_with(said), "{text}: {error}");
    }
    for (text, said) in [
        (
            "scope:http=most",
            "rule 1, character 12: \"most\" is not known here: write one of none, minimal, smart, full",
        ),
        ("a=none; scope:b", "rule 2, character 16: here = is missing: write it, and one of none,"),
        (
            "=none",
            "rule 1, character 1: here a pattern is missing: write scope:http*=none, or name:db.*=none",
        ),
    ] {
        let error = text.parse::<Levels>().expect_err(text).to_string();
        assert!(error.starts_with(said), "{text}: {error}");
    }
    let many = "a->always;".repeat(RULES_MAX + 1);
    let error = many.parse::<Rules>().unwrap_err();
    assert_eq!((error.rule, error.message.starts_with("there may be 256 rules")), (257, true));
}

#[test]
fn rules_may_end_in_separators_and_have_none_between_blanks() {
    let rules: Rules = " ; kind=server,->never ;; -> ratio:0.5; ".parse().unwrap();
    assert_eq!(rules.to_string(), "kind=server -> never; * -> ratio:0.5");
    assert!("".parse::<Rules>().unwrap().is_empty());
}

#[test]
fn integers_and_doubles_compare_exactly() {
    let span = |value: Value| Span {
        name: String::new(),
        scope: String::new(),
        kind: SpanKind::Internal,
        attributes: vec![("n".to_owned(), value)],
    };
    let holds = |rule: &str, value: Value| {
        let rules: Rules = format!("{rule} -> always").parse().unwrap();
        rules.iter().next().unwrap().mismatch(&span(value)).is_none()
    };
    const BIG: i64 = (1 << 53) + 1;
    assert!(holds("n>9007199254740992", Value::Int(BIG)));
    assert!(!holds("n<=9007199254740992", Value::Int(BIG)));
    assert!(
        holds("n=9007199254740993", Value::Int(BIG))
            && !holds("n=9007199254740993", Value::Double(BIG as f64))
    );
    assert!(holds("n<1e19", Value::Int(i64::MAX)) && holds("n>-1e19", Value::Int(i64::MIN)));
    assert!(holds("n>9223372036854775807", Value::Double(9.3e18)));
    assert!(
        holds("n<0.5", Value::Int(0))
            && holds("n>-0.5", Value::Int(0))
            && holds("n<-0.5", Value::Int(-1))
    );
    for rule in ["n<1", "n>1", "n=1", "n>=1", "n<=1"] {
        assert!(!holds(rule, Value::Double(f64::NAN)));
    }
    assert!(holds("n>1e300", Value::Double(f64::INFINITY)));
}

#[test]
fn a_pattern_takes_time_in_proportion_to_its_text() {
    let pattern = format!("{}b", "a*".repeat(200));
    let rules: Rules = format!("{pattern} -> never").parse().unwrap();
    let mut span = Span {
        name: "a".repeat(1 << 20),
        scope: String::new(),
        kind: SpanKind::Internal,
        attributes: Vec::new(),
    };
    assert!(rules.iter().next().unwrap().mismatch(&span).is_some());
    span.name.push('b');
    assert!(rules.iter().next().unwrap().mismatch(&span).is_none());
}
