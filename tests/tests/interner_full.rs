//! More keys than the interner takes. Alone in its process, whose table it fills.

use spanring::span;
use spanring_tests::{record, settings};

#[test]
fn keys_beyond_the_interner_s_cap_travel_inline_and_arrive() {
    let ledger = record(settings(), |_| {
        for i in 0..20_000 {
            let mut span = span!("many keys");
            span.set_attribute(&format!("dynamic key {i}"), i);
        }
    });
    let mut found = 0;
    for (i, span) in ledger.spans().enumerate() {
        assert_eq!(span.attributes, [(format!("dynamic key {i}"), (i as i64).into())]);
        found += 1;
    }
    assert_eq!(found, 20_000);
}
