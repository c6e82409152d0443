//! Arbitrary text as tracestate lines: never a panic, what parses prints to what parses again, and
//! so does what is made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring::TraceState;

/// What the module promises to hold at most: 32 members, two texts and a sign each, and commas.
const BYTES_MAX: usize = 32 * (256 + 1 + 256) + 31;
const THRESHOLD: u64 = 0xfd_70a4_0000_0000;

fuzz_target!(|text: &str| {
    let state = match TraceState::parse_lines(text.split('\n')) {
        Ok(state) => state,
        Err(error) => {
            assert!(error.at_byte() <= text.len());
            assert!(error.to_string().starts_with("tracestate, byte "));
            return;
        }
    };
    let reads_back = |state: &TraceState| {
        assert_eq!(TraceState::parse(state.as_str()).as_ref(), Ok(state));
    };
    reads_back(&state);
    assert!(state.as_str().len() <= BYTES_MAX && state.iter().count() <= 32);

    let randomness = state.ot_randomness();
    if let Ok(set) = state.with_ot_threshold(THRESHOLD) {
        reads_back(&set);
        assert_eq!((set.ot_threshold(), set.ot_randomness()), (Some(THRESHOLD), randomness));
    }
    let unset = state.without_ot_threshold();
    reads_back(&unset);
    assert_eq!((unset.ot_threshold(), unset.ot_randomness()), (None, randomness));

    if let Some((key, value)) = state.iter().last() {
        let front = state.with(key, value).expect("it was parsed");
        reads_back(&front);
        assert_eq!(front.iter().next(), Some((key, value)));
        assert_eq!(state.without(key).get(key), None);
    }
});
