//! Any bytes as a batch, in two modes: bytes that begin like a zstd frame are decoded as a frame; all
//! others are taken for a content, so that the fuzzer gets past the checksum. No panic, no hang, no
//! exhausted memory, and a batch has as many spans as its header says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_exporter::batch::{self, BatchError, DecodedBatch};

fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoded = batch::decode(bytes);
        if let Ok(decoded) = &decoded {
            let header = batch::decode_header(bytes).expect("the whole batch was decoded");
            assert_eq!(header, decoded.header);
        }
        return check(&decoded);
    }
    let decoded = batch::decode_content(bytes);
    check(&decoded);
    let framed = batch::decode(&batch::wrap_content(bytes));
    assert_eq!(framed.is_ok(), decoded.is_ok());
});

fn check(decoded: &Result<DecodedBatch, BatchError>) {
    match decoded {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(decoded) => {
            assert_eq!(decoded.batch.spans.len(), decoded.header.spans as usize);
            for span in &decoded.batch.spans {
                let scope = &decoded.batch.scopes[span.scope];
                assert!(scope.resource < decoded.batch.resources.len());
            }
        }
    }
}
