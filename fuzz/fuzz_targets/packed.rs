//! Any bytes as packed attributes: refused, or read to their end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_ffi::packed::is_packed;

fuzz_target!(|packed: &[u8]| {
    is_packed(packed);
});
