//! Any bytes as the answer to a request, in pieces of any size: no panic, no hang, bounded memory, and
//! the same result as in one piece.
//!
//! The first byte says how many sizes follow it; behind them stands the answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_exporter::fuzzing::answer_in_pieces;

/// Lines between chunks have a bound that only shows where they come in pieces; shorter ones cannot
/// reach it.
const COMPARED_BYTES_MAX: usize = 8 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (sizes, answer) = rest.split_at(rest.len().min(usize::from(count % 16)));
    let split = answer_in_pieces(answer, sizes);
    let whole = answer_in_pieces(answer, &[]);
    if answer.len() <= COMPARED_BYTES_MAX {
        match (split, whole) {
            (Ok(split), Ok(whole)) => assert_eq!(split, whole),
            // The text may differ: the sooner bytes are looked at, the sooner something is wrong.
            (Err(split), Err(whole)) => assert!(!split.is_empty() && !whole.is_empty()),
            (split, whole) => panic!("in pieces {split:?}, as a whole {whole:?}"),
        }
    }
});
