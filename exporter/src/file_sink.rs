//! The file sink: batches to segments in one directory.
//!
//! It begins a segment with the first batch, goes on to the next by size and by age, and keeps the
//! directory under a cap. Several processes, and several sinks of one process, may share a directory:
//! each writes files of its own.
//!
//! It never writes a batch twice or half: [`deliver`](Sink::deliver) either wrote it or can be called
//! with it again. Full disks, lost permissions and removed directories are errors that may be retried,
//! and it goes on when their cause is gone. It has no thread and no timer; age is looked at in
//! [`tick`](Sink::tick). Without batches it holds no file open and asks for no tick.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::segment::disk::{Disk, OsDisk};
use crate::segment::{
    MAX_BATCHES, SegmentError, SegmentErrorKind, SegmentIdentity, SegmentWriter, lone_batch_bytes,
    retention,
};
use crate::sink::{InstanceId, SealedBatch, Sink, SinkError};

/// When a segment that is due could not be closed, how soon it is tried again.
const CLOSE_RETRY: Duration = Duration::from_secs(5);

/// Gives the time of day, by which segments are named.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How a [`FileSink`] writes.
#[derive(Clone)]
#[non_exhaustive]
pub struct FileSinkOptions {
    /// Length at which the next segment is begun, in bytes; a quarter of `retention_bytes` if that is
    /// less. A batch that is longer by itself gets a segment of its own.
    pub segment_max_bytes: u64,
    /// Age at which a segment is closed.
    pub segment_max_age: Duration,
    /// Cap on all segments of the directory, in bytes. The oldest are deleted to make room for a whole
    /// segment before one is begun, so one process stays below it; with several, each of the others'
    /// open segments may come on top.
    pub retention_bytes: u64,
    /// Whether each batch, and each segment's name, is made durable before it counts as delivered.
    /// Without, a power cut costs what the kernel had not yet written; a killed process costs nothing.
    pub fsync: bool,
    /// The clock for the segments' names; the system's by default.
    pub clock: WallClock,
}

impl Default for FileSinkOptions {
    fn default() -> Self {
        FileSinkOptions {
            segment_max_bytes: 64 << 20,
            segment_max_age: Duration::from_secs(3600),
            retention_bytes: 1 << 30,
            fsync: false,
            clock: Arc::new(SystemTime::now),
        }
    }
}

impl fmt::Debug for FileSinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSinkOptions")
            .field("segment_max_bytes", &self.segment_max_bytes)
            .field("segment_max_age", &self.segment_max_age)
            .field("retention_bytes", &self.retention_bytes)
            .field("fsync", &self.fsync)
            .finish_non_exhaustive()
    }
}

/// Writes batches to segments in a directory.
///
/// ```
/// use spanring_exporter::file_sink::{FileSink, FileSinkOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// let mut options = FileSinkOptions::default();
/// options.retention_bytes = 256 << 20;
/// let sink = FileSink::create(directory, options)?;
/// assert_eq!(sink.directory(), directory);
/// # Ok(())
/// # }
/// ```
pub struct FileSink {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    options: FileSinkOptions,
    current: Option<Current>,
    next_number: u64,
    /// Names must sort in the order of writing, also when the system's clock steps back.
    last_created_unix_nano: u64,
}

struct Current {
    writer: SegmentWriter,
    begun: Instant,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink")
            .field("directory", &self.directory)
            .field("options", &self.options)
            .field("segment", &self.current.as_ref().map(|current| &current.writer))
            .finish_non_exhaustive()
    }
}

impl FileSink {
    /// Makes a sink that writes to `directory`, which is created if it is missing, for this user alone.
    /// No segment is begun yet.
    ///
    /// # Errors
    ///
    /// If the directory is a file, cannot be created, or no file can be created in it. A full disk is
    /// no error here: it may have room again when there is a batch.
    pub fn create(directory: &Path, options: FileSinkOptions) -> Result<Self, SegmentError> {
        Self::create_on(Arc::new(OsDisk), directory, options)
    }

    pub(crate) fn create_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: FileSinkOptions,
    ) -> Result<Self, SegmentError> {
        let sink = FileSink {
            disk,
            directory: directory.to_owned(),
            options,
            current: None,
            next_number: 0,
            last_created_unix_nano: 0,
        };
        sink.create_directory()?;
        sink.probe()?;
        Ok(sink)
    }

    /// Where the segments are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The segment that is being written, if one is.
    pub fn segment(&self) -> Option<&SegmentWriter> {
        self.current.as_ref().map(|current| &current.writer)
    }

    fn create_directory(&self) -> Result<(), SegmentError> {
        self.disk.create_directory(&self.directory).map_err(|error| {
            let doing = if error.kind() == io::ErrorKind::AlreadyExists {
                "what is at the path is no directory"
            } else {
                "cannot create the directory for segments"
            };
            SegmentError::io(doing, &error).in_file(&self.directory)
        })
    }

    /// Finds out by doing whether files can be created: permission bits do not tell of mounts, access
    /// lists and capabilities.
    fn probe(&self) -> Result<(), SegmentError> {
        let now = unix_nano((self.options.clock)());
        let path = self.directory.join(format!(".spanring-probe-{}-{now}", std::process::id()));
        match self.disk.create(&path) {
            Ok(_) => _ = self.disk.remove(&path),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::AlreadyExists
                ) => {}
            Err(error) => {
                let doing = "cannot create files in the directory for segments";
                return Err(SegmentError::io(doing, &error).in_file(&self.directory));
            }
        }
        Ok(())
    }

    /// Length at which the next segment is begun, such that retention has segments to choose from.
    fn segment_max_bytes(&self) -> u64 {
        self.options.segment_max_bytes.min(self.options.retention_bytes / 4)
    }

    /// Whether `batch` belongs into a new segment. A segment takes at least one batch.
    fn is_full_for(&self, writer: &SegmentWriter, batch: &SealedBatch) -> bool {
        let with_batch = writer.closed_bytes_with(batch.frame.len() as u64);
        writer.is_closing()
            || writer.identity().instance != batch.instance
            || writer.batches() == MAX_BATCHES
            || writer.batches() > 0 && with_batch > self.segment_max_bytes()
    }

    fn begin(&mut self, instance: InstanceId, batch_bytes: u64) -> Result<(), SegmentError> {
        let room = self.segment_max_bytes().max(lone_batch_bytes(batch_bytes));
        let retention_bytes = self.options.retention_bytes;
        if room > retention_bytes {
            return Err(SegmentError::new(
                SegmentErrorKind::Refused,
                format!(
                    "a batch of {batch_bytes} bytes does not fit in the {retention_bytes} of \
                     RETENTION_BYTES"
                ),
                "raise RETENTION_BYTES or lower BATCH_SIZE",
            )
            .in_file(&self.directory));
        }
        retention::make_room(self.disk.as_ref(), &self.directory, retention_bytes, room)?;
        self.create_directory()?;

        let now = unix_nano((self.options.clock)());
        let created_unix_nano = now.max(self.last_created_unix_nano.saturating_add(1));
        let number = self.next_number;
        // Used up even if the file cannot be created: a name that is taken must not stop the sink.
        self.next_number += 1;
        self.last_created_unix_nano = created_unix_nano;
        let identity = SegmentIdentity { instance, created_unix_nano, number };
        let writer = SegmentWriter::create_on(
            Arc::clone(&self.disk),
            &self.directory,
            identity,
            self.options.fsync,
        )?;
        self.current = Some(Current { writer, begun: Instant::now() });
        Ok(())
    }

    /// Closes the current segment, if there is one.
    fn end_segment(&mut self) -> Result<(), SegmentError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let result = current.writer.close();
        self.keep_unless_lost(result.map(|_| ()))?;
        self.current = None;
        Ok(())
    }

    fn append(&mut self, batch: &SealedBatch) -> Result<(), SegmentError> {
        self.drop_inherited();
        if let Some(current) = &self.current
            && self.is_full_for(&current.writer, batch)
        {
            self.end_segment()?;
        }
        if self.current.is_none() {
            self.begin(batch.instance, batch.frame.len() as u64)?;
        }
        let current = self.current.as_mut().expect("a segment was begun");
        let result = current.writer.append(batch);
        self.keep_unless_lost(result)
    }

    /// A segment whose file somebody took away is given up, so that the next batch begins another.
    fn keep_unless_lost(&mut self, result: Result<(), SegmentError>) -> Result<(), SegmentError> {
        if let Err(error) = &result
            && error.kind() == SegmentErrorKind::Replaced
        {
            self.current = None;
        }
        result
    }

    /// In a fork child the segment is the parent's: its descriptor is closed and nothing else.
    fn drop_inherited(&mut self) {
        if self.current.as_ref().is_some_and(|current| current.writer.is_inherited()) {
            self.current = None;
        }
    }
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        "file"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        self.append(batch).map_err(sink_error)
    }

    /// Every delivered batch can be read by other processes at once; with `fsync` off, this makes them
    /// no more durable.
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Option<Instant> {
        self.drop_inherited();
        let current = self.current.as_ref()?;
        // `None` if the age is beyond what the clock can say: never due.
        let due = current.begun.checked_add(self.options.segment_max_age)?;
        if now < due && !current.writer.is_closing() {
            return Some(due);
        }
        match self.end_segment() {
            Ok(()) => None,
            // The segment is kept, and what stopped it is reported with the next batch if it lasts.
            Err(_) if self.current.is_some() => now.checked_add(CLOSE_RETRY),
            Err(_) => None,
        }
    }

    fn close(&mut self) -> Result<(), SinkError> {
        self.drop_inherited();
        self.end_segment().map_err(sink_error)
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.drop_inherited();
        // Whoever wants to know calls `close`; a segment that is not closed here is reported unclean.
        _ = self.end_segment();
    }
}

fn sink_error(error: SegmentError) -> SinkError {
    SinkError { retry: error.kind() != SegmentErrorKind::Refused, message: error.to_string() }
}

fn unix_nano(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
