//! Any bytes as a spool's sidecar: no panic, what is read is what stands there, and the marks settle
//! the spans that they name and no others.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_exporter::fuzzing::{Mark, Settled, head, read_sidecar};

const BATCHES: usize = 4;
const SPANS: u32 = 50;

fuzz_target!(|bytes: &[u8]| {
    let Ok(sidecar) = read_sidecar(bytes) else { return };
    assert!(sidecar.readable_bytes <= bytes.len());
    if sidecar.readable_bytes == 0 {
        return assert!(sidecar.marks.is_empty());
    }
    assert_eq!(bytes[..8], head()[..8]);
    assert_eq!(sidecar.readable_bytes, 16 * (1 + sidecar.marks.len()));

    let mut settled = [const { Settled::new() }; BATCHES];
    let mut model = [[false; SPANS as usize]; BATCHES];
    let records = bytes[16..sidecar.readable_bytes].as_chunks::<16>().0;
    for (&Mark { batch, first, spans }, record) in sidecar.marks.iter().zip(records) {
        // Not the checksum, which the decoder does not mind here.
        assert_eq!(Mark { batch, first, spans }.encode()[..12], record[..12]);
        let number = batch as usize % BATCHES;
        let end = first.saturating_add(spans).min(SPANS);
        let mut is_new = false;
        for span in first..end.max(first) {
            is_new |= !std::mem::replace(&mut model[number][span as usize], true);
        }
        assert_eq!(settled[number].add(first, spans, SPANS), is_new);
    }
    for (settled, model) in settled.iter().zip(model) {
        assert_eq!(settled.spans() as usize, model.iter().filter(|settled| **settled).count());
        let mut open = model.map(|settled| !settled);
        for (first, spans) in settled.open(SPANS) {
            for span in first..first + spans {
                assert!(std::mem::take(&mut open[span as usize]));
            }
        }
        assert!(!open.contains(&true));
    }
});
