//! Writes one segment.
//!
//! A failed write changes nothing that a reader sees: the file is cut back to its last whole batch,
//! at once or, if that fails too, before anything else is written. So an append that failed can be
//! repeated, and no batch is in the file twice or half.
//!
//! It never creates directories, never deletes segments, and never decides when a segment is full:
//! that is the file sink's part. It closes nothing by itself when it is dropped, because it may be
//! dropped in a fork child, and the file is the parent's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, FileStatus, OsDisk};
use super::format::{
    HEADER_BYTES, INDEX_OVERHEAD_BYTES, IndexBuilder, IndexEntry, MAX_ENTRY_BYTES, SegmentHeader,
};
use super::frame::{Scan, scan_frame};
use super::name::SegmentName;
use super::{MAX_BATCHES, MAX_FRAME_BYTES, SegmentError, SegmentErrorKind};
use crate::sink::{InstanceId, SealedBatch};

/// What tells a segment from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentIdentity {
    /// The pipeline whose batches it is to hold.
    pub instance: InstanceId,
    /// When it is created, in ns since the Unix epoch; its name sorts by it.
    pub created_unix_nano: u64,
    /// Which of its sink's segments it is, from 0.
    pub number: u64,
}

/// A segment that is being written.
///
/// ```
/// use spanring_exporter::segment::{SegmentIdentity, SegmentReader, SegmentWriter};
/// use spanring_exporter::sink::{InstanceId, SealedBatch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// # let mut encoder = zstd::bulk::Compressor::new(1)?;
/// # encoder.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
/// # let frame: bytes::Bytes = encoder.compress(b"spans")?.into();
/// let instance = InstanceId(7);
/// let identity = SegmentIdentity { instance, created_unix_nano: 1_661_137_262_000_000_000, number: 0 };
/// let mut writer = SegmentWriter::create(directory, identity, false)?;
/// writer.append(&SealedBatch {
///     instance,
///     sequence: 0,
///     spans: 1,
///     start_unix_nano: 1_661_137_261_000_000_000,
///     end_unix_nano: 1_661_137_261_000_000_250,
///     frame: frame.clone(),
/// })?;
/// let path = writer.close()?;
///
/// let mut reader = SegmentReader::open(&path)?;
/// let batch = reader.next_batch().expect("one batch was written")?;
/// assert_eq!(batch.frame, &frame[..]);
/// # Ok(())
/// # }
/// ```
pub struct SegmentWriter {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    file_id: (u64, u64),
    directory: PathBuf,
    name: SegmentName,
    identity: SegmentIdentity,
    pid: u32,
    fsync: bool,
    /// Where the last whole batch ends.
    batches_end: u64,
    index: IndexBuilder,
    /// Whether there may be something behind what counts; it goes before anything else is written.
    torn: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes batches.
    Open,
    /// Asked to close: takes no more batches.
    Closing,
    /// The index is written.
    Indexed,
    /// Renamed.
    Closed,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("path", &self.path())
            .field("batches", &self.index.count())
            .field("batches_end", &self.batches_end)
            .field("state", &self.state)
            .field("torn", &self.torn)
            .finish_non_exhaustive()
    }
}

/// No less than the length of a closed segment with one batch of `frame_bytes`.
pub(crate) fn lone_batch_bytes(frame_bytes: u64) -> u64 {
    (HEADER_BYTES + INDEX_OVERHEAD_BYTES + MAX_ENTRY_BYTES) as u64 + frame_bytes
}

impl SegmentWriter {
    /// Creates a segment in an existing directory, as `.part`, readable by this user alone.
    ///
    /// With `fsync`, each batch is on the disk when [`append`](Self::append) returns, and so is the
    /// segment under its closed name when [`close`](Self::close) returns.
    ///
    /// # Errors
    ///
    /// [`SegmentErrorKind::Io`] if the file cannot be created or its header not be written; nothing
    /// is left of it then.
    pub fn create(
        directory: &Path,
        identity: SegmentIdentity,
        fsync: bool,
    ) -> Result<Self, SegmentError> {
        Self::create_on(Arc::new(OsDisk), directory, identity, fsync)
    }

    pub(crate) fn create_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: SegmentIdentity,
        fsync: bool,
    ) -> Result<Self, SegmentError> {
        let SegmentIdentity { instance, created_unix_nano, number } = identity;
        let name = SegmentName::new(created_unix_nano, instance, number);
        let path = directory.join(name.to_string());
        let pid = std::process::id();
        let failed = |doing, error: &io::Error| SegmentError::io(doing, error).in_file(&path);

        let mut file =
            disk.create(&path).map_err(|error| failed("cannot create the segment", &error))?;
        let header = SegmentHeader { instance, created_unix_nano, pid, number }.encode();
        let begun = file
            .lock()
            .and_then(|()| write_all_at(file.as_mut(), &header, 0))
            .and_then(|()| if fsync { file.sync() } else { Ok(()) })
            .and_then(|()| if fsync { disk.sync_directory(directory) } else { Ok(()) })
            .and_then(|()| file.status());
        let status = begun.map_err(|error| {
            // What cannot be removed is an unclosed segment without batches, which retention deletes.
            _ = disk.remove(&path);
            failed("cannot begin the segment", &error)
        })?;
        Ok(SegmentWriter {
            disk,
            file,
            file_id: status.id,
            directory: directory.to_owned(),
            name,
            identity,
            pid,
            fsync,
            batches_end: HEADER_BYTES as u64,
            index: IndexBuilder::default(),
            torn: false,
            state: State::Open,
        })
    }

    /// Appends a batch.
    ///
    /// # Errors
    ///
    /// Nothing of the batch is in the segment then.
    /// - [`SegmentErrorKind::Io`]: it may be tried again.
    /// - [`SegmentErrorKind::Replaced`]: the file was removed or changed by somebody else; it may be
    ///   tried again on another segment, this one takes no more.
    /// - [`SegmentErrorKind::Refused`]: the frame is not one zstd frame with a checksum, is larger
    ///   than [`MAX_FRAME_BYTES`], or is another pipeline's.
    /// - [`SegmentErrorKind::TooLarge`]: the segment has [`MAX_BATCHES`], or closing has begun; it
    ///   may be tried again on another segment.
    pub fn append(&mut self, batch: &SealedBatch) -> Result<(), SegmentError> {
        self.check_batch(batch)?;
        self.repair()?;
        self.check_file()?;
        self.write(&batch.frame, "cannot write the batch")?;
        let length = batch.frame.len() as u32;
        self.index.push(&IndexEntry {
            offset: self.batches_end,
            length,
            sequence: batch.sequence,
            spans: batch.spans,
            start_unix_nano: batch.start_unix_nano,
            end_unix_nano: batch.end_unix_nano,
        });
        self.batches_end += u64::from(length);
        Ok(())
    }

    /// Writes the index and renames the file from `.part`; returns its path.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append), except for the batch's own. After [`SegmentErrorKind::Io`] every
    /// batch is still in the file, and closing may be tried again; appending may not.
    pub fn close(&mut self) -> Result<PathBuf, SegmentError> {
        let closed = self.directory.join(self.name.to_closed().to_string());
        if self.state == State::Open {
            self.state = State::Closing;
        }
        if self.state != State::Closed {
            self.repair()?;
            self.check_file()?;
            if self.state == State::Closing {
                let index = self.index.frame(self.batches_end);
                self.write(&index, "cannot write the index")?;
                self.state = State::Indexed;
            }
            self.disk
                .rename(&self.path(), &closed)
                .map_err(|error| self.failed("cannot rename the segment to .spanring", &error))?;
            self.name = self.name.to_closed();
            self.state = State::Closed;
        }
        if self.fsync {
            self.disk
                .sync_directory(&self.directory)
                .map_err(|error| self.failed("cannot make the renamed segment durable", &error))?;
        }
        Ok(closed)
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    ///
    /// [`SegmentErrorKind::Io`].
    pub fn sync(&mut self) -> Result<(), SegmentError> {
        self.file.sync().map_err(|error| self.failed("cannot make the segment durable", &error))
    }

    /// Where the segment is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name.to_string())
    }

    /// What tells it from others.
    pub fn identity(&self) -> &SegmentIdentity {
        &self.identity
    }

    /// Batches in it.
    pub fn batches(&self) -> u32 {
        self.index.count()
    }

    /// Where its last batch ends, in bytes from the start of the file.
    pub(crate) fn batches_end(&self) -> u64 {
        self.batches_end
    }

    /// Its length if it were closed now, in bytes.
    pub fn closed_bytes(&self) -> u64 {
        self.batches_end + self.index.frame_bytes() as u64
    }

    /// No less than its length if a batch of `frame_bytes` were appended and it were closed then.
    pub(crate) fn closed_bytes_with(&self, frame_bytes: u64) -> u64 {
        self.closed_bytes() + frame_bytes + MAX_ENTRY_BYTES as u64
    }

    /// Whether closing has begun, so that no batch is taken any more.
    pub fn is_closing(&self) -> bool {
        self.state != State::Open
    }

    /// Whether another process created it: this one is a fork child and must not touch it.
    pub(crate) fn is_inherited(&self) -> bool {
        self.pid != std::process::id()
    }

    /// Makes it look as after a fork, which tests cannot do safely.
    #[cfg(test)]
    pub(crate) fn pretend_inherited(&mut self) {
        self.pid = 0;
    }

    fn check_batch(&self, batch: &SealedBatch) -> Result<(), SegmentError> {
        let error = |kind, what: String, advice| {
            Err(SegmentError::new(kind, what, advice).in_file(&self.path()))
        };
        let (sequence, bytes) = (batch.sequence, batch.frame.len());
        if bytes > MAX_FRAME_BYTES {
            return error(
                SegmentErrorKind::Refused,
                format!("batch {sequence} has {bytes} bytes, above the {MAX_FRAME_BYTES} allowed"),
                "lower BATCH_SIZE or the length limits of attribute values",
            );
        }
        if scan_frame(&batch.frame) != Scan::Whole(bytes) {
            return error(
                SegmentErrorKind::Refused,
                format!("batch {sequence} is not one zstd frame with a checksum"),
                "report it: an encoder made it wrong",
            );
        }
        if batch.instance != self.identity.instance {
            return error(
                SegmentErrorKind::Refused,
                format!("batch {sequence} is of another pipeline, {}", batch.instance),
                "write it to a segment of its own",
            );
        }
        if self.is_closing() || self.index.count() == MAX_BATCHES {
            return error(
                SegmentErrorKind::TooLarge,
                "the segment takes no more batches".to_owned(),
                "write the batch to the next segment",
            );
        }
        Ok(())
    }

    /// Writes `bytes` behind the batches, whole or, to a reader, not at all.
    fn write(&mut self, bytes: &[u8], doing: &str) -> Result<(), SegmentError> {
        // Set first, so that a panic on the way counts as a failed write too.
        self.torn = true;
        let mut written = write_all_at(self.file.as_mut(), bytes, self.batches_end);
        if written.is_ok() && self.fsync {
            written = self.file.sync();
        }
        if let Err(error) = written {
            // If this fails, the next call begins with it.
            _ = self.repair();
            return Err(self.failed(doing, &error));
        }
        self.torn = false;
        Ok(())
    }

    /// Cuts off what a failed write left.
    fn repair(&mut self) -> Result<(), SegmentError> {
        if !self.torn {
            return Ok(());
        }
        self.file.truncate(self.batches_end).map_err(|error| {
            self.failed("cannot cut the segment back to its last whole batch", &error)
        })?;
        self.torn = false;
        Ok(())
    }

    /// Makes sure that what is written next can be found by others, and says that this process lives.
    fn check_file(&mut self) -> Result<(), SegmentError> {
        // Before the look at the name: who deletes a dead process's file holds the lock meanwhile.
        self.file.lock().map_err(|error| self.failed("cannot lock the segment", &error))?;
        let gone = |what| {
            Err(SegmentError::new(
                SegmentErrorKind::Replaced,
                what,
                "let only spanring touch the directory; a new segment is begun",
            )
            .in_file(&self.path()))
        };
        let found = match self.disk.status(&self.path()) {
            Ok(found) => found,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return gone("the segment was removed or moved while it was written".to_owned());
            }
            Err(error) => return Err(self.failed("cannot look at the segment", &error)),
        };
        let index_bytes =
            if self.state == State::Indexed { self.index.frame_bytes() as u64 } else { 0 };
        let expected = FileStatus { id: self.file_id, len: self.batches_end + index_bytes };
        if found.id != expected.id {
            return gone("another file took the segment's place while it was written".to_owned());
        }
        if found.len != expected.len {
            return gone(format!(
                "the segment has {} bytes instead of {}: somebody else changed it",
                found.len, expected.len
            ));
        }
        Ok(())
    }

    fn failed(&self, doing: &str, error: &io::Error) -> SegmentError {
        SegmentError::io(doing, error).in_file(&self.path())
    }
}

fn write_all_at(file: &mut dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
