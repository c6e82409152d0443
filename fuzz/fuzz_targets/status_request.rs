//! Any bytes as the head of a request to the status endpoint, in pieces of any size: no panic, a bounded length, and an
//! answer that does not depend on the pieces as long as they end where the head does.
//!
//! The first byte says how many sizes follow it; behind them stands the head.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_exporter::fuzzing::head_in_pieces;

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (sizes, head) = rest.split_at(rest.len().min(usize::from(count % 16)));
    let (split, single) = (head_in_pieces(head, sizes), head_in_pieces(head, &[1]));
    // A head is understood as soon as its end is there; bytes behind it may make it another's.
    assert_eq!(split.is_empty(), single.is_empty(), "{split} {single}");
});
