//! Where a zstd frame ends, from its headers alone.
//!
//! A frame says its length nowhere: one walks its blocks. This is done here and not by
//! `ZSTD_findFrameCompressedSize` because a reader of files wants to know from few bytes how many it
//! needs next, and must tell a frame that is cut from one that is damaged. It decompresses nothing
//! and allocates nothing. The library's function is the oracle of the tests.
//!
//! Stricter than zstd where batches are: a frame must have a checksum and no dictionary.
//!
//! Source of the layout: RFC 8878, sections 3.1.1 and 3.1.2.

/// First four bytes of a zstd frame, little-endian.
pub(super) const ZSTD_MAGIC: u32 = 0xFD2F_B528;

/// Bytes before a skippable frame's content: its magic number and its length.
pub(super) const SKIPPABLE_HEADER_BYTES: usize = 8;

const MAX_BLOCK_BYTES: usize = 128 << 10;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;

/// What the bytes at hand say about the frame that they begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The frame is this long; all of it is at hand.
    Whole(usize),
    /// Nothing wrong so far; this many bytes from the frame's start are needed to say more.
    NeedMore(usize),
    /// Not a frame that a batch can be: what is wrong, and how far into the frame.
    Invalid(&'static str, usize),
}

/// Finds the end of the zstd frame that `bytes` begins with.
pub(super) fn scan_frame(bytes: &[u8]) -> Scan {
    let Some((magic, descriptor)) = first_bytes(bytes) else { return Scan::NeedMore(5) };
    if magic != ZSTD_MAGIC {
        return Scan::Invalid("no zstd frame begins here", 0);
    }
    if descriptor & 0b0000_1000 != 0 {
        return Scan::Invalid("the zstd frame has a reserved bit set", 4);
    }
    if descriptor & 0b0000_0011 != 0 {
        return Scan::Invalid("the zstd frame needs a dictionary, which no batch does", 4);
    }
    if descriptor & 0b0000_0100 == 0 {
        return Scan::Invalid("the zstd frame has no checksum, which every batch has", 4);
    }
    let single_segment = descriptor & 0b0010_0000 != 0;
    let content_size_bytes = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let window_descriptor_bytes = usize::from(!single_segment);
    let mut block_at = 5 + window_descriptor_bytes + content_size_bytes;
    loop {
        let content_at = block_at + BLOCK_HEADER_BYTES;
        let Some(header) = bytes.get(block_at..content_at) else {
            return Scan::NeedMore(content_at);
        };
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let last = header & 1 != 0;
        let size = (header >> 3) as usize;
        if size > MAX_BLOCK_BYTES {
            return Scan::Invalid("a block of the zstd frame is larger than zstd allows", block_at);
        }
        let stored_bytes = match (header >> 1) & 0b11 {
            // Raw and compressed blocks say how many bytes they take; a run stores its byte once.
            0 | 2 => size,
            1 => 1,
            _ => return Scan::Invalid("a block of the zstd frame has no known type", block_at),
        };
        block_at = content_at + stored_bytes;
        if last {
            let end = block_at + CHECKSUM_BYTES;
            return if bytes.len() >= end { Scan::Whole(end) } else { Scan::NeedMore(end) };
        }
    }
}

/// A skippable frame's magic number and its length with header, if `bytes` begins with one's header.
pub(super) fn skippable_header(bytes: &[u8]) -> Option<(u32, u64)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let content_bytes = rest.first_chunk::<4>()?;
    let content_bytes = u64::from(u32::from_le_bytes(*content_bytes));
    Some((u32::from_le_bytes(*magic), content_bytes + SKIPPABLE_HEADER_BYTES as u64))
}

fn first_bytes(bytes: &[u8]) -> Option<(u32, u8)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*magic), *rest.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::testing::frame;
    use proptest::prelude::*;
    use zstd::zstd_safe::find_frame_compressed_size;

    /// Text, noise, or runs: blocks of each type.
    fn content(kind: u8, len: usize, seed: u8) -> Vec<u8> {
        let mut state = u32::from(seed) + 1;
        (0..len)
            .map(|i| match kind {
                0 => (i / 7) as u8,
                1 => {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                }
                _ => seed,
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(64)
        })]

        #[test]
        fn agrees_with_zstd_on_real_frames(kind in 0u8..3, len in 0usize..400_000, seed: u8) {
            let frame = frame(&content(kind, len, seed));
            let whole = Scan::Whole(find_frame_compressed_size(&frame).unwrap());
            prop_assert_eq!(scan_frame(&frame), whole);
            let mut longer = frame.clone();
            longer.extend_from_slice(&[0xff; 20]);
            prop_assert_eq!(scan_frame(&longer), whole);
        }

        #[test]
        fn takes_nothing_that_zstd_refuses(mut bytes: Vec<u8>, flags: u8) {
            bytes.splice(0..0, [0x28, 0xb5, 0x2f, 0xfd, flags | 0b100]);
            if let Scan::Whole(len) = scan_frame(&bytes) {
                prop_assert_eq!(find_frame_compressed_size(&bytes[..len]), Ok(len));
            }
        }
    }

    #[test]
    fn a_cut_frame_asks_for_more_and_never_for_more_than_it_has() {
        let frame = frame(&content(1, 300_000, 3));
        for cut in 0..frame.len() {
            match scan_frame(&frame[..cut]) {
                Scan::NeedMore(n) => assert!(n > cut && n <= frame.len(), "cut {cut} asks for {n}"),
                other => panic!("cut {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_block_is_no_larger_than_zstd_allows() {
        let with_block = |size: u32| {
            let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0b100, 0];
            bytes.extend_from_slice(&(size << 3).to_le_bytes()[..3]);
            scan_frame(&bytes)
        };
        assert_eq!(with_block(128 << 10), Scan::NeedMore(9 + (128 << 10) + 3));
        assert!(matches!(with_block((128 << 10) + 1), Scan::Invalid(_, 6)));
    }

    #[test]
    fn a_frame_without_checksum_is_no_batch() {
        let plain = zstd::bulk::compress(b"spans", 1).unwrap();
        assert!(matches!(scan_frame(&plain), Scan::Invalid(what, 4) if what.contains("checksum")));
    }
}
