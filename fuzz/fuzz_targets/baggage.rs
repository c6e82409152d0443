//! Arbitrary text as baggage lines: never a panic, never above the limits, and what parses prints to
//! what parses again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring::Baggage;

fuzz_target!(|text: &str| {
    let baggage = Baggage::parse_lines(text.split('\n'));
    let printed = baggage.to_string();
    assert!(printed.len() <= 8192 && baggage.len() <= 64);

    let again = Baggage::parse(&printed);
    assert_eq!(again, baggage);
    assert_eq!((again.left_out(), again.to_string()), (0, printed));

    for entry in baggage.iter() {
        assert_eq!(baggage.get(entry.key()), Some(entry.value()));
        let _ = entry.properties().count();
    }
    // Changes copy the whole, so they are tried on one entry only.
    if let Some(entry) = baggage.iter().last() {
        let same = baggage
            .with_metadata(entry.key(), entry.value(), entry.metadata())
            .expect("it was parsed");
        assert_eq!((&same, same.left_out()), (&baggage, baggage.left_out()));
        assert_eq!(baggage.without(entry.key()).len(), baggage.len() - 1);
    }
});
