//! Any bytes as a segment: no panic, no hang, and what is given out lies where it is said to lie.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_exporter::segment::{SegmentEnd, read_segment};

fuzz_target!(|bytes: &[u8]| {
    let Ok(segment) = read_segment(bytes) else { return };
    let mut behind = 0;
    for batch in segment.batches.iter().flatten() {
        let (start, end) = (batch.offset as usize, batch.offset as usize + batch.frame.len());
        assert!(start >= behind, "batches overlap");
        assert_eq!(&bytes[start..end], batch.frame);
        behind = end;
        if let Some(entry) = batch.index {
            assert_eq!((entry.offset, entry.length as usize), (batch.offset, batch.frame.len()));
        }
    }
    match segment.end {
        SegmentEnd::Closed { batches } => assert_eq!(segment.batches.len(), batches as usize),
        SegmentEnd::Unclean { readable_bytes, error } => {
            assert!(readable_bytes as usize <= bytes.len());
            assert!(readable_bytes as usize >= behind);
            assert!(!error.to_string().is_empty());
        }
    }
});
