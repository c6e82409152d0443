//! Arbitrary text as rules, levels and details: never a panic; what is refused has a place in the text, and what is taken prints to what is the
//! same again. A span is explained whatever the rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring::settings::{Details, Levels, RuleError, Rules, Settings, SpanQuery};

fuzz_target!(|text: &str| {
    let chars = text.chars().count();
    let is_placed = |error: RuleError| {
        assert!(error.rule >= 1 && (1..=chars + 1).contains(&error.character), "{error}");
    };
    let mut settings = Settings::builder().ignore_environment();
    match text.parse::<Rules>() {
        Ok(rules) => {
            assert_eq!(rules.to_string().parse(), Ok(rules.clone()));
            settings = settings.rules(rules);
        }
        Err(error) => is_placed(error),
    }
    match text.parse::<Levels>() {
        Ok(levels) => {
            assert_eq!(levels.to_string().parse(), Ok(levels.clone()));
            settings = settings.levels(levels);
        }
        Err(error) => is_placed(error),
    }
    match text.parse::<Details>() {
        Ok(details) => assert_eq!(details.to_string().parse(), Ok(details)),
        Err(error) => is_placed(error),
    }
    let mut query = SpanQuery::new(text);
    query.attributes = vec![("a".to_owned(), text.into()), ("b".to_owned(), (chars as i64).into())];
    assert!(!settings.build().explain_span(&query).because.is_empty());
});
