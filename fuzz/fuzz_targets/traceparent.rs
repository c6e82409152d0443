//! Arbitrary text as a traceparent: never a panic, and what parses prints to what parses again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring::TraceParent;

fuzz_target!(|text: &str| {
    match TraceParent::parse(text) {
        Ok(parent) => {
            // It is written in version 00, whatever version it was read in.
            let again = TraceParent::new(parent.trace_id, parent.span_id, parent.flags);
            let printed = parent.to_string();
            assert_eq!(TraceParent::parse(&printed), Ok(again));
            assert!(parent.version != 0xff && text[2..53] == printed[2..53]);
        }
        Err(error) => {
            assert!(error.at_byte() <= text.len());
            assert!(error.to_string().starts_with("traceparent, byte "));
        }
    }
});
