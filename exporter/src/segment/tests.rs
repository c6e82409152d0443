//! Segments written, then read whole, cut, changed, and made up.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;

use super::format::{HEADER_BYTES, INDEX_FRAME_MAGIC, IndexBuilder, TRAILER_BYTES};
use super::testing::{batch, content, frame};
use super::*;
use crate::sink::InstanceId;

const INSTANCE: InstanceId = InstanceId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
const IDENTITY: SegmentIdentity =
    SegmentIdentity { instance: INSTANCE, created_unix_nano: 1_661_137_262_000_000_000, number: 3 };

/// A segment of `batches` batches, their places, and where they end.
struct Sample {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
    batches_end: usize,
}

impl Sample {
    fn new(batches: u64, closed: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), batches, closed);
        let mut places = Vec::new();
        let mut batches_end = HEADER_BYTES;
        for sequence in 0..batches {
            let start = batches_end;
            batches_end += batch(INSTANCE, sequence).frame.len();
            places.push(start..batches_end);
        }
        Sample { bytes: fs::read(path).unwrap(), places, batches_end }
    }

    /// Batches that are whole when the file is cut at `cut`.
    fn whole_before(&self, cut: usize) -> usize {
        self.places.iter().filter(|place| place.end <= cut).count()
    }
}

fn write(directory: &Path, batches: u64, closed: bool) -> PathBuf {
    let mut writer = SegmentWriter::create(directory, IDENTITY, true).unwrap();
    for sequence in 0..batches {
        writer.append(&batch(INSTANCE, sequence)).unwrap();
    }
    if closed { writer.close().unwrap() } else { writer.path() }
}

fn kind(end: &SegmentEnd) -> Option<SegmentErrorKind> {
    match end {
        SegmentEnd::Closed { .. } => None,
        SegmentEnd::Unclean { error, .. } => Some(error.kind()),
    }
}

/// The contents of a frame, if its checksum is right.
fn decode(frame: &[u8]) -> Option<Vec<u8>> {
    zstd::decode_all(frame).ok()
}

#[test]
fn what_was_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), 7, true);
    let mut reader = SegmentReader::open(&path).unwrap();
    assert_eq!(reader.header().instance, INSTANCE);
    assert_eq!(reader.header().created_unix_nano, IDENTITY.created_unix_nano);
    assert_eq!(reader.header().number, 3);
    assert_eq!(reader.header().pid, std::process::id());
    let mut offset = HEADER_BYTES as u64;
    for sequence in 0..7 {
        let wanted = batch(INSTANCE, sequence);
        let found = reader.next_batch().unwrap().unwrap();
        assert_eq!(found.offset, offset);
        assert_eq!(found.frame, &wanted.frame[..]);
        let entry = IndexEntry {
            offset,
            length: wanted.frame.len() as u32,
            sequence,
            spans: wanted.spans,
            start_unix_nano: wanted.start_unix_nano,
            end_unix_nano: wanted.end_unix_nano,
        };
        assert_eq!(found.index, Some(entry));
        offset += wanted.frame.len() as u64;
    }
    assert!(reader.end().is_none());
    assert!(reader.next_batch().is_none() && reader.next_batch().is_none());
    assert!(matches!(reader.end(), Some(SegmentEnd::Closed { batches: 7 })));
}

#[test]
fn a_segment_that_is_not_closed_is_read_to_its_last_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), 4, false);
    let mut reader = SegmentReader::open(&path).unwrap();
    for sequence in 0..4 {
        let found = reader.next_batch().unwrap().unwrap();
        assert_eq!(found.frame, &batch(INSTANCE, sequence).frame[..]);
        assert_eq!(found.index, None);
    }
    assert!(reader.next_batch().is_none());
    let Some(SegmentEnd::Unclean { readable_bytes, error }) = reader.end() else { panic!() };
    assert_eq!(*readable_bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(error.kind(), SegmentErrorKind::NotClosed);
    assert_eq!(error.path(), Some(path.as_path()));
    assert!(error.to_string().contains("was not closed"), "{error}");
}

#[test]
fn zstd_itself_reads_a_closed_segment() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), 5, true);
    let all: Vec<u8> = (0..5).flat_map(content).collect();
    assert_eq!(zstd::decode_all(fs::File::open(&path).unwrap()).unwrap(), all);

    let run = |flag| Command::new("zstd").arg(flag).arg(&path).output();
    match run("-t") {
        Ok(tested) => {
            assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
            assert_eq!(run("-dc").unwrap().stdout, all);
        }
        Err(error) => eprintln!("skipped: the zstd command cannot be run here: {error}"),
    }
}

#[test]
fn a_segment_cut_anywhere_gives_the_whole_batches_before_the_cut() {
    for closed in [true, false] {
        let sample = Sample::new(6, closed);
        for cut in 0..sample.bytes.len() {
            let result = read_segment(&sample.bytes[..cut]);
            if cut < HEADER_BYTES {
                assert_eq!(result.unwrap_err().kind(), SegmentErrorKind::Truncated, "cut {cut}");
                continue;
            }
            let segment = result.unwrap();
            let whole = sample.whole_before(cut);
            assert_eq!(segment.batches.len(), whole, "cut {cut}");
            for (found, place) in segment.batches.iter().zip(&sample.places) {
                assert_eq!(found.as_ref().unwrap().frame, &sample.bytes[place.clone()]);
            }
            let SegmentEnd::Unclean { readable_bytes, error } = &segment.end else {
                panic!("cut {cut} is taken for closed");
            };
            let boundary = sample.places[..whole].last().map_or(HEADER_BYTES, |place| place.end);
            assert_eq!(*readable_bytes, boundary as u64, "cut {cut}");
            assert_eq!(error.offset(), Some(cut as u64), "cut {cut}: {error}");
            let wanted = if cut == boundary {
                SegmentErrorKind::NotClosed
            } else {
                SegmentErrorKind::Truncated
            };
            assert_eq!(error.kind(), wanted, "cut {cut}: {error}");
        }
    }
}

#[test]
fn a_segment_with_any_byte_changed_is_an_error_or_the_very_same_batches() {
    let sample = Sample::new(6, true);
    let plain = read_segment(&sample.bytes).unwrap();
    for at in 0..sample.bytes.len() {
        for change in [0xff, 1, 2, 4, 8, 16, 32, 64, 128] {
            let mut bytes = sample.bytes.clone();
            bytes[at] ^= change;
            let Ok(segment) = read_segment(&bytes) else {
                assert!(at < HEADER_BYTES, "byte {at} ^ {change} hides the whole segment");
                continue;
            };
            assert!(at >= HEADER_BYTES, "byte {at} ^ {change} of the header goes unseen");
            let mut bad = 0;
            for (found, original) in segment.batches.iter().zip(&plain.batches) {
                let original = original.as_ref().unwrap();
                match found.as_ref().ok().and_then(|found| Some((found, decode(found.frame)?))) {
                    Some((found, text)) => {
                        assert_eq!(Some(text), decode(original.frame), "byte {at} ^ {change}");
                        assert_eq!(found.offset, original.offset);
                        assert!(found.index == original.index || found.index.is_none());
                    }
                    None => bad += 1,
                }
            }
            assert_eq!(segment.batches.len(), 6, "byte {at} ^ {change}");
            if at < sample.batches_end {
                assert!(bad <= 1, "byte {at} ^ {change} costs {bad} batches");
                assert!(matches!(segment.end, SegmentEnd::Closed { batches: 6 }));
            } else {
                assert_eq!(bad, 0);
                assert!(kind(&segment.end).is_some(), "byte {at} ^ {change} of the index");
            }
        }
    }
}

#[test]
fn a_segment_without_index_and_with_any_byte_changed_never_gives_wrong_batches() {
    let sample = Sample::new(4, false);
    for at in HEADER_BYTES..sample.bytes.len() {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 0xff;
        let segment = read_segment(&bytes).unwrap();
        assert!(kind(&segment.end).is_some());
        let before = sample.whole_before(at);
        assert!(segment.batches.len() >= before, "byte {at}");
        for (sequence, found) in segment.batches.iter().enumerate() {
            let text = decode(found.as_ref().unwrap().frame);
            let right = text == Some(content(sequence as u64));
            assert!(right || text.is_none() && sequence >= before, "byte {at}");
        }
    }
}

#[test]
fn foreign_and_odd_files_are_told_apart() {
    let sample = Sample::new(2, true);
    let with = |range: Range<usize>, bytes: &[u8]| {
        let mut changed = sample.bytes.clone();
        changed.splice(range, bytes.iter().copied());
        changed
    };
    let joined = [&sample.bytes[..], &sample.bytes].concat();
    let later_version = with(16..18, &2u16.to_le_bytes());
    let unknown_skippable = with(sample.batches_end..sample.batches_end + 1, &[0x50]);
    let trailing = [&sample.bytes[..], b"more"].concat();
    let zeros = [&sample.bytes[..sample.batches_end], &[0; 100]].concat();
    let opened = |bytes: &[u8]| match read_segment(bytes) {
        Ok(segment) => {
            let SegmentEnd::Unclean { error, .. } = segment.end else { panic!("taken for closed") };
            (segment.batches.len(), error)
        }
        Err(error) => (0, error),
    };
    for (bytes, batches, kind, offset, said) in [
        (&b""[..], 0, SegmentErrorKind::Truncated, 0, "is empty"),
        (b"S", 0, SegmentErrorKind::NotASegment, 0, "does not begin"),
        (b"{\"resourceSpans\":[]}", 0, SegmentErrorKind::NotASegment, 0, "does not begin"),
        (&frame(b"x"), 0, SegmentErrorKind::NotASegment, 0, "does not begin"),
        (&later_version, 0, SegmentErrorKind::UnknownVersion, 16, "version 2"),
        (&unknown_skippable, 2, SegmentErrorKind::Damaged, sample.batches_end, "index"),
        (&trailing, 2, SegmentErrorKind::TrailingData, sample.bytes.len(), "4 bytes follow"),
        (&joined, 2, SegmentErrorKind::TrailingData, sample.bytes.len(), "follow the index"),
        (&zeros, 2, SegmentErrorKind::Damaged, sample.batches_end, "no zstd frame"),
    ] {
        let (found, error) = opened(bytes);
        let text = error.to_string();
        assert_eq!((found, error.kind()), (batches, kind), "{text}");
        assert_eq!(error.offset(), Some(offset as u64), "{text}");
        assert!(text.contains(said) || kind == SegmentErrorKind::Damaged, "{text}");
    }
}

#[test]
fn what_is_no_regular_file_or_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path(), &directory.path().join("missing"), Path::new("/dev/zero")] {
        let error = SegmentReader::open(path).unwrap_err();
        assert_eq!(error.kind(), SegmentErrorKind::Io);
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    }
    let error = find_segments(directory.path()).unwrap_err();
    assert_eq!(error.kind(), SegmentErrorKind::NoSegments);
    let error = find_segments(&directory.path().join("missing")).unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
}

/// A segment whose index says `entries` under a right checksum.
fn with_index(frames: &[u8], entries: &[u8], count: u32) -> Vec<u8> {
    let mut bytes = Sample::new(0, false).bytes;
    bytes.extend_from_slice(frames);
    let offset = bytes.len() as u64;
    let index_bytes = entries.len() + 8 + TRAILER_BYTES;
    let start = bytes.len();
    bytes.extend_from_slice(&INDEX_FRAME_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&(index_bytes as u32).to_le_bytes());
    bytes.extend_from_slice(b"spanridx");
    bytes.extend_from_slice(entries);
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&(index_bytes as u32 + 8).to_le_bytes());
    let crc = crc32fast::hash(&bytes[start..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(b"spanrend");
    bytes
}

#[test]
fn an_index_that_disagrees_with_the_frames_is_an_error_at_the_batch() {
    let (one, two) = (frame(b"one"), frame(b"two and more"));
    let frames = [&one[..], &two].concat();
    let entry = |length: usize| [length as u8, 0, 1, 0, 0];
    let good = [entry(one.len()), entry(two.len())].concat();
    let read = |bytes: &[u8]| {
        let segment = read_segment(bytes).unwrap();
        let good = segment.batches.iter().filter(|batch| batch.is_ok()).count();
        (good, segment.batches.len() - good, kind(&segment.end))
    };
    let mismatch = Some(SegmentErrorKind::IndexMismatch);
    assert_eq!(read(&with_index(&frames, &good, 2)), (2, 0, None));
    assert_eq!(read(&with_index(&frames, &good, 1)), (1, 0, mismatch));
    assert_eq!(read(&with_index(&frames, &good, 3)), (2, 0, mismatch));
    assert_eq!(read(&with_index(&frames, &good[..5], 1)), (1, 0, mismatch));
    assert_eq!(read(&with_index(&frames, &[], 0)), (0, 0, mismatch));
    let more = [&good[..], &[0]].concat();
    assert_eq!(read(&with_index(&frames, &more, 2)), (2, 0, mismatch));
    let shifted = [entry(one.len() - 1), entry(two.len() + 1)].concat();
    assert_eq!(read(&with_index(&frames, &shifted, 2)), (0, 2, None));
    let joined = entry(frames.len());
    assert_eq!(read(&with_index(&frames, &joined, 1)), (0, 1, None));
    let behind = [entry(one.len()), entry(two.len() + 1)].concat();
    assert_eq!(read(&with_index(&frames, &behind, 2)), (1, 0, mismatch));
    let endless = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1, 0, 0];
    assert_eq!(read(&with_index(&frames, &endless, 1)), (0, 0, mismatch));
    // Too many to be ours: not taken for an index at all, so read forward.
    let many = with_index(&frames, &good, u32::MAX);
    assert_eq!(read(&many), (2, 0, Some(SegmentErrorKind::Damaged)));
}

/// A frame of nothing but empty raw blocks, without end.
fn empty_blocks(len: usize) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0b0000_0100, 0];
    bytes.resize(len, 0);
    bytes
}

#[test]
fn a_frame_above_the_cap_is_refused_whatever_the_file_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hostile.spanring");
    // Blocks of 128 KiB, and blocks of nothing: few long steps, and as many as can be.
    let long_blocks = [&empty_blocks(6)[..], &[0, 0, 0x10]].concat();
    for hostile in [long_blocks, empty_blocks(9)] {
        let bytes = [&Sample::new(1, false).bytes[..], &hostile].concat();
        fs::write(&path, &bytes).unwrap();
        // The rest are zeros, which take no room on the disk.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(2 * MAX_FRAME_BYTES as u64).unwrap();
        let mut reader = SegmentReader::open(&path).unwrap();
        assert!(reader.next_batch().unwrap().is_ok());
        assert!(reader.next_batch().is_none());
        let end = reader.end().unwrap();
        assert_eq!(kind(end), Some(SegmentErrorKind::TooLarge), "{end:?}");
    }
}

#[test]
fn the_longest_batch_is_read() {
    // Noise does not compress: raw blocks.
    let mut state = 1u32;
    let noise: Vec<u8> = (0..MAX_FRAME_BYTES - 4096)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let long = frame(&noise);
    assert!(long.len() <= MAX_FRAME_BYTES && long.len() > noise.len());
    let directory = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(directory.path(), IDENTITY, false).unwrap();
    writer.append(&batch(INSTANCE, 0)).unwrap();
    let batch = crate::sink::SealedBatch { frame: long.into(), ..batch(INSTANCE, 1) };
    writer.append(&batch).unwrap();
    let mut reader = SegmentReader::open(&writer.path()).unwrap();
    assert!(reader.next_batch().unwrap().is_ok());
    assert!(reader.next_batch().unwrap().unwrap().frame == batch.frame);
    assert!(reader.next_batch().is_none());
}

#[test]
fn a_full_index_fits_and_nothing_more_is_taken() {
    let mut index = IndexBuilder::default();
    let far = |i: u64| IndexEntry {
        offset: 0,
        length: u32::MAX,
        sequence: i.wrapping_mul(1 << 63),
        spans: u32::MAX,
        start_unix_nano: i.wrapping_mul(1 << 63),
        end_unix_nano: i.wrapping_mul(1 << 62),
    };
    for i in 0..u64::from(MAX_BATCHES) {
        index.push(&far(i));
    }
    assert!(index.frame(0).len() <= MAX_INDEX_BYTES);
    assert_eq!(index.frame(0).len(), index.frame_bytes());
}

#[test]
fn a_writer_that_is_closing_takes_no_batch_and_closing_twice_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(directory.path(), IDENTITY, true).unwrap();
    writer.append(&batch(INSTANCE, 0)).unwrap();
    let length = writer.closed_bytes();
    let path = writer.close().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    assert_eq!(writer.close().unwrap(), path);
    let error = writer.append(&batch(INSTANCE, 1)).unwrap_err();
    assert_eq!(error.kind(), SegmentErrorKind::TooLarge);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
}

#[test]
fn a_writer_refuses_what_would_make_its_file_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(directory.path(), IDENTITY, false).unwrap();
    let before = fs::read(writer.path()).unwrap();
    let mut two = batch(INSTANCE, 0);
    two.frame = [&two.frame[..], &two.frame].concat().into();
    for bad in [batch(InstanceId(1), 0), two] {
        let error = writer.append(&bad).unwrap_err();
        assert_eq!(error.kind(), SegmentErrorKind::Refused);
    }
    assert_eq!(fs::read(writer.path()).unwrap(), before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_entries_come_back(raw: Vec<(u32, u64, u32, u64, u64)>) {
        let mut index = IndexBuilder::default();
        let mut offset = HEADER_BYTES as u64;
        let mut entries = Vec::new();
        for (length, sequence, spans, start_unix_nano, end_unix_nano) in raw {
            let entry =
                IndexEntry { offset, length, sequence, spans, start_unix_nano, end_unix_nano };
            index.push(&entry);
            entries.push(entry);
            offset += u64::from(length);
        }
        let bytes = index.frame(offset);
        let trailer = format::Trailer::decode(&bytes).unwrap();
        let range = format::check_index(&bytes, offset, &trailer).unwrap();
        let mut rest = &bytes[range];
        let mut cursor = format::IndexCursor::new(HEADER_BYTES as u64);
        for entry in entries {
            prop_assert_eq!(cursor.next(&mut rest), Some(entry));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn an_index_that_says_anything_is_survived(entries: Vec<u8>, count in 0u32..50) {
        let frames: Vec<u8> = (0..3).flat_map(|i| frame(&content(i))).collect();
        let bytes = with_index(&frames, &entries, count);
        let segment = read_segment(&bytes).unwrap();
        for batch in segment.batches.iter().flatten() {
            prop_assert!(batch.offset as usize + batch.frame.len() <= bytes.len());
        }
        prop_assert!(segment.batches.len() <= count as usize);
    }

    #[test]
    fn anything_behind_a_header_is_survived(tail: Vec<u8>) {
        let bytes = [&Sample::new(1, false).bytes[..], &tail].concat();
        let segment = read_segment(&bytes).unwrap();
        prop_assert!(!segment.batches.is_empty());
        prop_assert!(kind(&segment.end).is_some());
    }
}

/// The seeds of the fuzz target are files that earlier builds wrote: they must stay readable.
#[test]
fn the_committed_seeds_read_as_they_were_written() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/segment");
    for (name, batches, wanted) in [
        ("closed", 3, None),
        ("closed-empty", 0, None),
        ("part", 3, Some(SegmentErrorKind::NotClosed)),
        ("torn", 2, Some(SegmentErrorKind::Truncated)),
        ("torn-index", 3, Some(SegmentErrorKind::Truncated)),
        ("joined", 3, Some(SegmentErrorKind::TrailingData)),
        ("index-disagrees", 2, Some(SegmentErrorKind::IndexMismatch)),
    ] {
        let path = corpus.join(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let segment = read_segment(&bytes).unwrap();
        assert_eq!(segment.header.instance, INSTANCE);
        let texts: Vec<_> =
            segment.batches.iter().flatten().map(|batch| decode(batch.frame).unwrap()).collect();
        assert_eq!(texts, (0..batches).map(content).collect::<Vec<_>>(), "{name}");
        assert_eq!(kind(&segment.end), wanted, "{name}");
    }
}

/// Writes the seeds anew after a change of the format: `cargo test -- --ignored write_the_seeds`.
#[test]
#[ignore = "changes committed files"]
fn write_the_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/segment");
    fs::create_dir_all(&corpus).unwrap();
    let closed = Sample::new(3, true);
    let put = |name: &str, bytes: &[u8]| fs::write(corpus.join(name), bytes).unwrap();
    put("closed", &closed.bytes);
    put("closed-empty", &Sample::new(0, true).bytes);
    put("part", &closed.bytes[..closed.batches_end]);
    put("torn", &closed.bytes[..closed.batches_end - 3]);
    put("torn-index", &closed.bytes[..closed.bytes.len() - 5]);
    put("joined", &[&closed.bytes[..], &closed.bytes].concat());
    let frames = &closed.bytes[HEADER_BYTES..closed.batches_end];
    let mut index = IndexBuilder::default();
    for place in &closed.places[..2] {
        index.push(&IndexEntry { length: place.len() as u32, ..IndexEntry::default() });
    }
    let index = index.frame(closed.batches_end as u64);
    put("index-disagrees", &[&closed.bytes[..HEADER_BYTES], frames, &index].concat());
}
