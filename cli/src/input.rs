//! Input files of lines: plain, gzip or zstd, told apart by their first bytes, never by their name.
//!
//! A file is read as a stream, so that neither its size nor what it decompresses to matters; only one
//! line is held at a time, of [`LINE_BYTES_MAX`] at most. Empty lines are passed over. What was read
//! before a file turns out to be damaged has been handed out by then. After an error of the file itself
//! (not of a line's content) the reader is at its end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spanring_exporter::model::SpanBatch;
use spanring_exporter::segment::begins_segment;

use crate::error::InputError;
use crate::otlp_json;

/// How long a line may be, in bytes.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Window of a zstd frame, as a power of two: 128 MiB, which is what the `zstd` command takes without
/// being told otherwise. The decoder allocates it at once.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How many bytes tell a segment from lines.
const SEGMENT_HEAD_BYTES: u64 = 16;

const READ_BUFFER_BYTES: usize = 128 << 10;

/// Marks at the beginning of a file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd skippable frame, but for its first byte, whose low four bits vary.
const ZSTD_SKIPPABLE_MAGIC: [u8; 3] = [0x2a, 0x4d, 0x18];
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, of one member or several.
    Gzip,
    /// zstd, of one frame or several.
    Zstd,
}

impl Compression {
    /// What the first bytes of a file say.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [first, rest @ ..]
                if first & 0xf0 == 0x50 && rest.starts_with(&ZSTD_SKIPPABLE_MAGIC) =>
            {
                Compression::Zstd
            }
            _ if head.starts_with(&ZSTD_MAGIC) => Compression::Zstd,
            _ if head.starts_with(&GZIP_MAGIC) => Compression::Gzip,
            _ => Compression::Plain,
        }
    }
}

/// Reads a file line by line, and its lines as batches.
pub struct LineReader {
    name: String,
    compression: Compression,
    lines: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    line_bytes_max: usize,
    number: u64,
    bytes_read: Arc<AtomicU64>,
    bytes_total: Option<u64>,
    ended: bool,
}

impl std::fmt::Debug for LineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineReader")
            .field("name", &self.name)
            .field("compression", &self.compression)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl LineReader {
    /// Opens `path`; `-` is standard input.
    ///
    /// # Errors
    ///
    /// If there is no such file, it is a directory, or its beginning cannot be read.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        if path.as_os_str() == "-" {
            return Self::new("stdin", io::stdin());
        }
        let name = path.display().to_string();
        let failed = |error: io::Error| {
            InputError::new(format!("cannot be opened: {error}"), "").in_file(&name)
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            let expected = "a file of OTLP/JSON lines";
            return Err(InputError::new("is a directory", expected).in_file(&name));
        }
        let mut reader = Self::new(&name, file)?;
        reader.bytes_total = metadata.is_file().then_some(metadata.len());
        Ok(reader)
    }

    /// Reads from `source`, which errors call `name`.
    ///
    /// # Errors
    ///
    /// If the beginning of `source` cannot be read.
    pub fn new(name: &str, source: impl Read + Send + 'static) -> Result<Self, InputError> {
        Self::with_line_limit(name, source, LINE_BYTES_MAX)
    }

    fn with_line_limit(
        name: &str,
        source: impl Read + Send + 'static,
        line_bytes_max: usize,
    ) -> Result<Self, InputError> {
        let unreadable = |error: io::Error| {
            InputError::new(format!("cannot be read: {error}"), "").in_file(name)
        };
        let bytes_read = Arc::new(AtomicU64::new(0));
        let mut source = Counted { source, bytes_read: Arc::clone(&bytes_read) };
        let mut head = Vec::new();
        source.by_ref().take(SEGMENT_HEAD_BYTES).read_to_end(&mut head).map_err(unreadable)?;
        if head.len() as u64 == SEGMENT_HEAD_BYTES && begins_segment(&head) {
            let error = InputError::new("is a segment", "the path of its file, not its bytes");
            return Err(error.in_file(name));
        }
        let compression = Compression::of(&head);
        let source: Chain<Cursor<Vec<u8>>, _> = Cursor::new(head).chain(source);
        let source = BufReader::with_capacity(READ_BUFFER_BYTES, source);
        let lines: Box<dyn BufRead + Send> = match compression {
            Compression::Plain => Box::new(source),
            Compression::Gzip => Box::new(BufReader::with_capacity(
                READ_BUFFER_BYTES,
                flate2::bufread::MultiGzDecoder::new(source),
            )),
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(source).map_err(unreadable)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(unreadable)?;
                Box::new(BufReader::with_capacity(READ_BUFFER_BYTES, decoder))
            }
        };
        Ok(LineReader {
            name: name.to_owned(),
            compression,
            lines,
            line: Vec::new(),
            line_bytes_max,
            number: 0,
            bytes_read,
            bytes_total: None,
            ended: false,
        })
    }

    /// The name that errors use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the file is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The number of the line that was read last, from 1; 0 before the first.
    pub fn line_number(&self) -> u64 {
        self.number
    }

    /// Bytes read from the file so far, before decompression. It reads ahead by up to 128 KiB.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    /// Bytes of the file, before decompression, if it has a size.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// The next line that is not empty, without its line ending; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, its compressed data is damaged or cut off, or a line is longer than
    /// [`LINE_BYTES_MAX`]. The reader is at its end then.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, InputError> {
        while !self.ended {
            self.line.clear();
            let limit = self.line_bytes_max as u64 + 1;
            let read = self.lines.by_ref().take(limit).read_until(b'\n', &mut self.line);
            if let Err(error) = read {
                self.ended = true;
                return Err(self.unreadable(&error));
            }
            if self.line.is_empty() {
                self.ended = true;
                break;
            }
            self.number += 1;
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            } else if self.line.len() > self.line_bytes_max {
                self.ended = true;
                let problem = format!("the line is longer than {} bytes", self.line_bytes_max);
                return Err(self.located(InputError::new(problem, "one TracesData object a line")));
            }
            if self.number == 1 && self.line.starts_with(&UTF8_MARK) {
                self.line.drain(..UTF8_MARK.len());
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(self.line.trim_ascii()));
            }
        }
        Ok(None)
    }

    /// The next line's spans; `None` at the end.
    ///
    /// # Errors
    ///
    /// As [`next_line`](Self::next_line); and if the line is no OTLP/JSON, in which case the next call
    /// goes on with the line after it.
    pub fn next_batch(&mut self) -> Result<Option<SpanBatch>, InputError> {
        let parsed = match self.next_line()? {
            Some(line) => otlp_json::parse_line(line),
            None => return Ok(None),
        };
        parsed.map(Some).map_err(|error| self.located(error))
    }

    fn located(&self, error: InputError) -> InputError {
        error.in_file(&self.name).at_line(self.number)
    }

    fn unreadable(&self, error: &io::Error) -> InputError {
        let read = self.number;
        let problem = match (self.compression, error.kind()) {
            (Compression::Plain, _) => format!("cannot be read: {error}"),
            (kind, io::ErrorKind::UnexpectedEof) => {
                format!("the {} data is cut off; what precedes it was read", kind.name())
            }
            (kind, _) => {
                format!("the {} data is damaged ({error}); what precedes it was read", kind.name())
            }
        };
        InputError::new(problem, "").in_file(&self.name).at_line(read + 1)
    }
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Counts what is read.
struct Counted<R> {
    source: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        // Only a count: nothing else is published by it.
        self.bytes_read.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"one\n\n  \ntwo\r\nthree";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("a Vec takes all");
        encoder.finish().expect("a Vec takes all")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("level 3");
        encoder.include_checksum(true).expect("a frame may have a checksum");
        encoder.write_all(bytes).expect("a Vec takes all");
        encoder.finish().expect("a Vec takes all")
    }

    fn reader(bytes: Vec<u8>) -> LineReader {
        LineReader::new("in", Cursor::new(bytes)).expect("the beginning can be read")
    }

    /// All lines with their numbers, and the error that ended them.
    fn lines(mut reader: LineReader) -> (Vec<(u64, String)>, Option<String>) {
        let mut lines = Vec::new();
        loop {
            match reader.next_line() {
                Ok(Some(line)) => {
                    let line = String::from_utf8_lossy(line).into_owned();
                    lines.push((reader.line_number(), line));
                }
                Ok(None) => return (lines, None),
                Err(error) => {
                    assert_eq!(reader.next_line(), Ok(None), "it ends after an error");
                    return (lines, Some(error.to_string()));
                }
            }
        }
    }

    #[test]
    fn plain_gzip_and_zstd_give_the_same_lines_whatever_the_name() {
        let expected = vec![(1, "one".into()), (4, "two".into()), (5, "three".into())];
        // A skippable frame first, and two frames or members in a row.
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &zstd(TEXT)[..]].concat();
        let frames = [zstd(&TEXT[..6]), zstd(&TEXT[6..])].concat();
        let members = [gzip(&TEXT[..6]), gzip(&TEXT[6..])].concat();
        let marked = [&UTF8_MARK, TEXT].concat();
        for bytes in [TEXT.to_vec(), marked, gzip(TEXT), zstd(TEXT), skippable, frames, members] {
            assert_eq!(lines(reader(bytes)), (expected.clone(), None));
        }
    }

    #[test]
    fn compressed_data_cut_off_anywhere_keeps_its_whole_lines_and_says_so() {
        // Each part is a frame of its own, so that a cut loses only what follows it.
        let parts = ["a".repeat(50) + "\n", "b".repeat(50) + "\n", "c".repeat(50) + "\n"];
        for (name, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
            let frames: Vec<_> = parts.iter().map(|part| compress(part.as_bytes())).collect();
            let whole = frames.concat();
            let ends = [0, frames[0].len(), frames[0].len() + frames[1].len(), whole.len()];
            for cut in 4..whole.len() {
                let (read, error) = lines(reader(whole[..cut].to_vec()));
                let complete = ends.iter().filter(|&&end| 0 < end && end <= cut).count();
                assert!(read.len() >= complete, "{name} cut at {cut}: {read:?}");
                assert!(read.iter().zip(&parts).all(|((_, line), part)| line == part.trim_end()));
                match ends.contains(&cut) {
                    true => assert_eq!(error, None, "{name} cut at {cut}"),
                    false => {
                        let line = read.len() + 1;
                        let place = format!("in:{line}: the {name} data is cut off");
                        let error = error.expect("a cut inside a frame is an error");
                        assert!(error.starts_with(&place), "{name} cut at {cut}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn damaged_compressed_data_is_an_error() {
        for (name, mut bytes) in [("gzip", gzip(TEXT)), ("zstd", zstd(TEXT))] {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            let (_, error) = lines(reader(bytes));
            let error = error.expect("damage is found");
            assert!(error.contains(&format!("the {name} data is ")), "{error}");
        }
    }

    #[test]
    fn a_line_above_the_limit_is_refused_and_one_at_the_limit_is_read() {
        let source = Cursor::new(b"12345\n123456\n1\n".to_vec());
        let reader = LineReader::with_line_limit("in", source, 5).expect("it can be read");
        let (read, error) = lines(reader);
        assert_eq!(read, [(1, "12345".to_owned())]);
        let expected =
            "in:2: the line is longer than 5 bytes; expected one TracesData object a line";
        assert_eq!(error.as_deref(), Some(expected));
        let source = Cursor::new(b"12345".to_vec());
        let reader = LineReader::with_line_limit("in", source, 5).expect("it can be read");
        assert_eq!(lines(reader), (vec![(1, "12345".to_owned())], None));
    }

    #[test]
    fn a_bomb_is_stopped_at_the_line_limit() {
        // 1 GiB of one line in about 33 kB.
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("level 1");
        let zeros = vec![b'0'; 1 << 20];
        for _ in 0..1024 {
            encoder.write_all(&zeros).expect("a Vec takes all");
        }
        let bomb = encoder.finish().expect("a Vec takes all");
        assert!(bomb.len() < 200_000, "{}", bomb.len());
        let mut reader = reader(bomb);
        let error = reader.next_line().expect_err("the line is too long").to_string();
        assert!(error.starts_with("in:1: the line is longer than 67108864 bytes"), "{error}");
        assert!(reader.line.capacity() <= 2 * LINE_BYTES_MAX, "{}", reader.line.capacity());
    }

    #[test]
    fn a_zstd_window_above_the_limit_is_refused_before_it_is_allocated() {
        // A frame header by hand: no content size, window descriptor for 2^31 bytes, one raw block.
        let frame = [&ZSTD_MAGIC[..], &[0x00, 0xa8, 0x09, 0x00, 0x00, b'x']].concat();
        let (read, error) = lines(reader(frame));
        assert_eq!(read, []);
        let error = error.expect("the window is too large");
        assert!(error.contains("the zstd data is damaged"), "{error}");
        assert!(error.contains("requires too much memory"), "{error}");
    }

    #[test]
    fn a_bad_line_is_an_error_with_file_and_line_and_the_next_one_is_read() {
        let mut reader = reader(b"{}\n\n{\"resourceSpans\":7}\n{}".to_vec());
        assert_eq!(reader.next_batch(), Ok(Some(SpanBatch::default())));
        let error = reader.next_batch().expect_err("the third line is wrong");
        let expected = "in:3: resourceSpans: found 7; expected an array of objects (ResourceSpans)";
        assert_eq!(error.to_string(), expected);
        assert_eq!(reader.next_batch(), Ok(Some(SpanBatch::default())));
        assert_eq!(reader.next_batch(), Ok(None));
    }

    #[test]
    fn a_missing_file_and_a_directory_are_errors_that_name_them() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let error = LineReader::open(directory.path()).expect_err("it is a directory").to_string();
        let shown = directory.path().display();
        assert_eq!(error, format!("{shown}: is a directory; expected a file of OTLP/JSON lines"));
        let missing = directory.path().join("missing.jsonl");
        let error = LineReader::open(&missing).expect_err("it is missing").to_string();
        let expected = format!("{}: cannot be opened: No such file", missing.display());
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn progress_counts_compressed_bytes() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("lines");
        let bytes = zstd(TEXT);
        std::fs::write(&path, &bytes).expect("the file can be written");
        let mut reader = LineReader::open(&path).expect("it can be opened");
        assert_eq!(reader.bytes_total(), Some(bytes.len() as u64));
        while reader.next_line().expect("it can be read").is_some() {}
        assert_eq!(reader.bytes_read(), bytes.len() as u64);
    }
}
