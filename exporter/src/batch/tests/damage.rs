//! Frames that are cut, changed, hostile, or from another version.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use spanring::record::{Header, Payload, Records};
use spanring::{Interned, Key};

use super::oracle::{encode, records, spans};
use super::*;

/// The same frame in every run: a few spans with everything that spans can have.
fn sample() -> Encoded {
    let mut runner = TestRunner::deterministic();
    let spans = spans(8..9).new_tree(&mut runner).unwrap().current();
    encode(&records(&spans))
}

#[test]
fn a_frame_cut_anywhere_is_an_error() {
    let frame = sample().frame;
    for len in 0..frame.len() {
        assert!(decode(&frame[..len]).is_err(), "cut to {len} of {} bytes", frame.len());
        assert!(decode_header(&frame[..len]).is_err(), "cut to {len} of {} bytes", frame.len());
    }
}

/// zstd has several ways to say the same, so a changed frame may have an unchanged content.
#[test]
fn a_frame_with_any_byte_changed_is_an_error_or_the_very_same_batch() {
    let frame = sample().frame.to_vec();
    let batch = format!("{:?}", decode(&frame).unwrap());
    let mut same = 0;
    for at in 0..frame.len() {
        for change in [0xff, 1, 2, 4, 8, 16, 32, 64, 128] {
            let mut changed = frame.clone();
            changed[at] ^= change;
            if let Ok(decoded) = decode(&changed) {
                assert_eq!(format!("{decoded:?}"), batch, "byte {at} changed by {change:#x}");
                same += 1;
            }
        }
    }
    assert!(same < frame.len() / 100, "{same} changes of {} bytes go unnoticed", frame.len());
}

#[test]
fn bytes_behind_a_frame_are_an_error() {
    let mut frame = sample().frame.to_vec();
    frame.push(0);
    assert!(decode(&frame).unwrap_err().to_string().contains("bytes follow"));
    let twice = [sample().frame, sample().frame].concat();
    assert!(decode(&twice).is_err());
}

#[test]
fn an_unknown_version_is_refused_by_its_number() {
    let mut content = frame::decompress(&sample().frame).unwrap();
    content[0] = FORMAT_VERSION + 1;
    let error = decode(&wrap_content(&content)).unwrap_err();
    assert!(error.is_unknown_version());
    assert!(error.to_string().contains("format version 2"), "{error}");
    assert!(decode_header(&wrap_content(&content)).unwrap_err().is_unknown_version());
}

#[test]
fn a_frame_without_checksum_or_size_is_refused() {
    let content = frame::decompress(&sample().frame).unwrap();
    let plain = zstd::bulk::compress(&content, 1).unwrap();
    assert!(decode(&plain).unwrap_err().to_string().contains("no checksum"));
    let mut stream = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    stream.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut stream, &content).unwrap();
    let unsized_frame = stream.finish().unwrap();
    assert!(decode(&unsized_frame).unwrap_err().to_string().contains("size"));
}

/// A few hundred bytes that would decompress to more than a content may have.
#[test]
fn a_decompression_bomb_is_refused_before_it_is_unpacked() {
    let bomb = wrap_content(&vec![0; CONTENT_BYTES_MAX + 1]);
    assert!(bomb.len() < 1 << 16);
    assert!(decode(&bomb).unwrap_err().is_too_large());
}

/// A small content in which one string is shared by many values, of which each would be a copy.
#[test]
fn a_content_that_would_decode_to_too_much_is_refused() {
    let text = Interned::new(&"x".repeat(256)).unwrap();
    let records = |spans: u64| {
        let mut records = Records::new();
        for counter in 1..=spans {
            let mut payload = Payload::unlimited();
            for key in 0..40 {
                payload.attribute_set(Key::Str(&format!("key {key}")), text);
            }
            let header = Header { span: counter, trace_lo: counter, ..Header::default() };
            records.push_parts(header, payload);
        }
        records
    };
    let mut encoder = Encoder::new().unwrap();
    let error = oracle::encode_with(&mut encoder, &records(20_000)).unwrap_err();
    assert!(error.is_too_large(), "{error}");
    let fits = encode(&records(2_000));
    assert!(fits.frame.len() < 1 << 16);
    let mut budget = Budget::limited(16 << 20);
    let content = frame::decompress(&fits.frame).unwrap();
    let error = decode::decode_within(&content, &mut budget).unwrap_err();
    assert!(error.is_too_large(), "{error}");
}

/// Beyond the checksum, a changed content may be a batch, but never a panic.
#[test]
fn a_content_with_any_byte_changed_or_cut_is_an_error_or_a_batch() {
    let content = frame::decompress(&sample().frame).unwrap();
    for at in 0..content.len() {
        assert!(decode_content(&content[..at]).is_err(), "cut to {at}");
        for change in [0xff, 1, 0x10] {
            let mut changed = content.clone();
            changed[at] ^= change;
            if let Ok(decoded) = decode_content(&changed) {
                assert_eq!(decoded.batch.spans.len(), decoded.header.spans as usize);
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_content_is_an_error_or_a_batch(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = decode(&bytes);
        let _ = decode_content(&bytes);
        let mut content = vec![FORMAT_VERSION];
        content.extend(bytes);
        let _ = decode_content(&content);
    }
}

fn corpus() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/batch")
}

/// Seeds come in both forms that the fuzz target takes: frames, and contents.
#[test]
fn the_fuzz_seeds_are_batches() {
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus()).expect("fuzz/corpus/batch can be read") {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let is_frame = bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let decoded = if is_frame { decode(&bytes) } else { decode_content(&bytes) };
        assert!(decoded.is_ok(), "{}: {}", path.display(), decoded.unwrap_err());
        seeds += 1;
    }
    assert!(seeds >= 8, "there are {seeds} seeds");
}

/// Writes the seeds anew, after a change of the format:
/// `cargo test -p spanring-exporter write_fuzz_seeds -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_fuzz_seeds() {
    std::fs::create_dir_all(corpus()).unwrap();
    let mut runner = TestRunner::deterministic();
    for (name, len) in [("empty", 0), ("one", 1), ("few", 4), ("some", 12), ("many", 40)] {
        let spans = spans(len..len + 1).new_tree(&mut runner).unwrap().current();
        let frame = encode(&records(&spans)).frame;
        let content = frame::decompress(&frame).unwrap();
        std::fs::write(corpus().join(format!("{name}.frame")), &frame).unwrap();
        std::fs::write(corpus().join(format!("{name}.content")), content).unwrap();
    }
}
