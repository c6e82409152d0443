//! Prints what the Rust decoder reads. Problems are told on standard error, and the rest is read.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use spanring_cli::otlp_json::write_line;
use spanring_exporter::batch::{DecodedBatch, decode, decode_content};
use spanring_exporter::segment::{SegmentEnd, SegmentReader, find_segments};

/// Prints the spans of `paths`, segments or directories of them, as a line of OTLP/JSON a batch.
pub(crate) fn spans(paths: &[&str]) -> Result<(), Box<dyn Error>> {
    batches(paths, |_, batch, mut out| write_line(&batch.batch, &mut out))
}

/// Prints what the headers of batches say, as a line of JSON a batch.
pub(crate) fn headers(paths: &[&str]) -> Result<(), Box<dyn Error>> {
    batches(paths, |path, batch, out| {
        let header = &batch.header;
        let dropped: serde_json::Map<_, _> =
            header.dropped.iter().map(|(reason, count)| (reason.clone(), json!(count))).collect();
        let line = json!({
            "segment": path.file_name().map(|name| name.to_string_lossy()),
            "instance": format!("{:032x}", header.instance.0),
            "sequence": header.sequence,
            "clockEpoch": header.clock_epoch,
            "created": header.created,
            "sealed": header.sealed,
            "dropped": dropped,
            "spans": header.spans,
            "startUnixNano": header.start_unix_nano,
            "endUnixNano": header.end_unix_nano,
        });
        writeln!(out, "{line}")
    })
}

/// Decodes the contents in the file `path`, each behind its length (four bytes, the lowest first), and
/// prints a line for each: its spans as OTLP/JSON, or an object with the member `error`.
pub(crate) fn contents(path: &str) -> Result<(), Box<dyn Error>> {
    let file = std::fs::read(path)?;
    let mut rest = &file[..];
    let mut out = BufWriter::new(io::stdout().lock());
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let (content, behind) = behind.split_at_checked(length).ok_or("a content is cut off")?;
        rest = behind;
        match decode_content(content) {
            Ok(batch) => write_line(&batch.batch, &mut out)?,
            Err(error) => writeln!(out, "{}", json!({ "error": error.to_string() }))?,
        }
    }
    out.flush()?;
    Ok(())
}

/// Calls `print` for each batch of the segments in `paths`.
fn batches(
    paths: &[&str],
    mut print: impl FnMut(&Path, &DecodedBatch, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut problems = 0;
    let mut report = |path: &Path, problem: &dyn std::fmt::Display| {
        problems += 1;
        eprintln!("{}: {problem}", path.display());
    };
    for path in segments(paths)? {
        let mut reader = SegmentReader::open(&path)?;
        while let Some(frame) = reader.next_batch() {
            match frame.map(|frame| decode(frame.frame)) {
                Ok(Ok(batch)) => print(&path, &batch, &mut out)?,
                Ok(Err(error)) => report(&path, &error),
                Err(error) => report(&path, &error),
            }
        }
        if let Some(SegmentEnd::Unclean { error, .. }) = reader.end()
            && path.extension().is_none_or(|extension| extension != "part")
        {
            report(&path, error);
        }
    }
    out.flush()?;
    if problems == 0 { Ok(()) } else { Err(format!("{problems} problems").into()) }
}

/// Files as they are, and the segments of directories, the oldest first.
fn segments(paths: &[&str]) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut segments = Vec::new();
    for path in paths.iter().map(Path::new) {
        if path.is_dir() {
            segments.extend(find_segments(path)?.into_iter().map(|segment| segment.path));
        } else {
            segments.push(path.to_owned());
        }
    }
    Ok(segments)
}
