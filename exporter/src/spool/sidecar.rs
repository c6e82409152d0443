//! The sidecar of a segment, as bytes: which parts of its batches are settled.
//! `docs/spool-format.md` is the specification.
//!
//! Pure functions over slices: no I/O, no clock. A sidecar can only make a batch be delivered again,
//! never lose one that is not marked: reading stops at the first record that is cut or whose checksum
//! is wrong, and what is behind it counts as not settled.

/// Bytes of the head and of each mark.
pub(super) const RECORD_BYTES: usize = 16;

/// The version of the sidecar's format that this crate writes, and the only one that it reads.
pub const SIDECAR_VERSION: u16 = 1;

const HEAD_TEXT: &[u8; 8] = b"spandone";

/// Says that a part of a batch is settled: delivered, or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which of the segment's batches, from 0.
    pub batch: u32,
    /// The first span of the part, from 0 in the order of the batch.
    pub first: u32,
    /// Spans of the part; zero in a batch without spans.
    pub spans: u32,
}

/// A sidecar, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Its marks, as they follow one another.
    pub marks: Vec<Mark>,
    /// How far it could be read, in bytes; what is written next goes there.
    pub readable_bytes: usize,
}

impl Mark {
    /// The mark as a record.
    pub fn encode(self) -> [u8; RECORD_BYTES] {
        let mut body = [0; RECORD_BYTES - 4];
        body[..4].copy_from_slice(&self.batch.to_le_bytes());
        body[4..8].copy_from_slice(&self.first.to_le_bytes());
        body[8..].copy_from_slice(&self.spans.to_le_bytes());
        with_crc(body)
    }

    /// The mark of a record; `None` if its checksum is wrong.
    pub fn decode(record: &[u8; RECORD_BYTES]) -> Option<Self> {
        let field = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        is_whole(record).then(|| Mark { batch: field(0), first: field(4), spans: field(8) })
    }
}

/// The record with which a sidecar begins.
pub fn head() -> [u8; RECORD_BYTES] {
    let mut body = [0; RECORD_BYTES - 4];
    body[..8].copy_from_slice(HEAD_TEXT);
    body[8..10].copy_from_slice(&SIDECAR_VERSION.to_le_bytes());
    with_crc(body)
}

/// Reads a sidecar as far as it is whole.
///
/// # Errors
///
/// Its version, if that is not the known one: nothing behind the version can be told then.
pub fn read_sidecar(bytes: &[u8]) -> Result<Sidecar, u16> {
    let (records, _cut) = bytes.as_chunks::<RECORD_BYTES>();
    let mut sidecar = Sidecar { marks: Vec::new(), readable_bytes: 0 };
    let Some((first, records)) = records.split_first() else { return Ok(sidecar) };
    if !first.starts_with(HEAD_TEXT) {
        return Ok(sidecar);
    }
    let version = u16::from_le_bytes([first[8], first[9]]);
    if version != SIDECAR_VERSION {
        return Err(version);
    }
    if !is_whole(first) {
        return Ok(sidecar);
    }
    sidecar.marks.extend(records.iter().map_while(Mark::decode));
    sidecar.readable_bytes = RECORD_BYTES * (1 + sidecar.marks.len());
    Ok(sidecar)
}

fn with_crc(body: [u8; RECORD_BYTES - 4]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..RECORD_BYTES - 4].copy_from_slice(&body);
    record[RECORD_BYTES - 4..].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
    record
}

/// Whether the record's checksum is right. A fuzzer cannot guess it, and is to get behind it.
fn is_whole(record: &[u8; RECORD_BYTES]) -> bool {
    let (body, crc) = record.split_at(RECORD_BYTES - 4);
    cfg!(fuzzing) || crc == crc32fast::hash(body).to_le_bytes()
}

/// Which spans of one batch are settled, as ranges that neither touch nor overlap, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// First span, and the one behind the last.
    ranges: Vec<(u32, u32)>,
}

impl Settled {
    /// Of a batch of which nothing is settled.
    pub const fn new() -> Self {
        Settled { ranges: Vec::new() }
    }

    /// Adds a part of a batch of `batch_spans` spans, cut off where the batch ends; returns whether
    /// anything of it was not settled before.
    pub fn add(&mut self, first: u32, spans: u32, batch_spans: u32) -> bool {
        let (mut start, mut end) = (first, first.saturating_add(spans).min(batch_spans));
        if start >= end {
            return false;
        }
        // Those before end before the part begins; those behind begin after it ends.
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        if let [range] = self.ranges[from..to]
            && range.0 <= start
            && end <= range.1
        {
            return false;
        }
        if let Some(touched) = self.ranges.get(from..to).filter(|touched| !touched.is_empty()) {
            start = start.min(touched[0].0);
            end = end.max(touched[touched.len() - 1].1);
        }
        self.ranges.splice(from..to, [(start, end)]);
        true
    }

    /// Spans that are settled.
    pub fn spans(&self) -> u32 {
        self.ranges.iter().map(|range| range.1 - range.0).sum()
    }

    /// The parts that are not settled of a batch of `batch_spans` spans: first span, and how many.
    pub fn open(&self, batch_spans: u32) -> Vec<(u32, u32)> {
        let mut open = Vec::new();
        let mut at = 0;
        for &(start, end) in self.ranges.iter().chain([&(batch_spans, batch_spans)]) {
            if at < start {
                open.push((at, start - at));
            }
            at = end;
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sidecar(marks: &[Mark]) -> Vec<u8> {
        marks.iter().fold(head().to_vec(), |mut bytes, mark| {
            bytes.extend_from_slice(&mark.encode());
            bytes
        })
    }

    fn marks(count: u32) -> Vec<Mark> {
        (0..count).map(|n| Mark { batch: n, first: 7 * n, spans: 0x0102_0304 }).collect()
    }

    #[test]
    fn a_sidecar_is_byte_by_byte_what_its_page_says() {
        let bytes = sidecar(&[Mark { batch: 1, first: 0x0203, spans: 0x0405_0607 }]);
        let mut expected = b"spandone\x01\0\0\0".to_vec();
        expected.extend_from_slice(&crc32fast::hash(&expected).to_le_bytes());
        let mark = [1, 0, 0, 0, 3, 2, 0, 0, 7, 6, 5, 4];
        expected.extend_from_slice(&mark);
        expected.extend_from_slice(&crc32fast::hash(&mark).to_le_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_sidecar_that_is_cut_anywhere_keeps_its_whole_records() {
        let marks = marks(4);
        let bytes = sidecar(&marks);
        for len in 0..=bytes.len() {
            let read = read_sidecar(&bytes[..len]).unwrap();
            let records = len / RECORD_BYTES;
            assert_eq!(read.marks, marks[..records.saturating_sub(1)]);
            assert_eq!(read.readable_bytes, records * RECORD_BYTES);
        }
    }

    #[test]
    fn reading_stops_at_the_first_record_with_any_changed_bit() {
        let marks = marks(3);
        let good = sidecar(&marks);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let record = bit / 8 / RECORD_BYTES;
            match read_sidecar(&bytes) {
                Ok(read) => assert_eq!(read.marks, marks[..record.saturating_sub(1)]),
                Err(version) => assert!(record == 0 && version != SIDECAR_VERSION),
            }
        }
    }

    #[test]
    fn zeros_are_no_mark() {
        let mut bytes = sidecar(&marks(1));
        bytes.resize(4 * RECORD_BYTES, 0);
        assert_eq!(read_sidecar(&bytes).unwrap().marks, marks(1));
        assert_eq!(read_sidecar(&[0; 64]).unwrap().marks, []);
    }

    proptest! {
        #[test]
        fn settled_spans_are_those_of_a_set(
            spans in 0_u32..40,
            parts in proptest::collection::vec((0_u32..44, prop_oneof![0_u32..12, Just(u32::MAX)]), 0..24),
        ) {
            let mut settled = Settled::default();
            let mut model = std::collections::BTreeSet::new();
            for (first, count) in parts {
                let before = model.len();
                model.extend(first..first.saturating_add(count).min(spans).max(first));
                prop_assert_eq!(settled.add(first, count, spans), model.len() > before);
                prop_assert_eq!(settled.spans() as usize, model.len());
                let open: Vec<u32> =
                    settled.open(spans).iter().flat_map(|&(at, n)| at..at + n).collect();
                let expected: Vec<u32> = (0..spans).filter(|span| !model.contains(span)).collect();
                prop_assert_eq!(open, expected);
                prop_assert!(settled.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }
}
