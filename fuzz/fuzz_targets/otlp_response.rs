//! Any bytes as a server's answer: no panic, no hang, and nothing kept that is longer than it may be.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_exporter::otlp::response::{MESSAGE_BYTES_MAX, parse_response, status_message};

fuzz_target!(|body: &[u8]| {
    match parse_response(body) {
        Ok(partial) => assert!(partial.error_message.len() <= MESSAGE_BYTES_MAX),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some(message) = status_message(body) {
        assert!(!message.is_empty() && message.len() <= MESSAGE_BYTES_MAX);
    }
});
