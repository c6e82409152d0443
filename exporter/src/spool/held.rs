//! A segment that this process holds: its batches, what of them is settled, and its sidecar.
//!
//! To hold a segment is to have its sidecar open, entered in a table of this process and locked against
//! others; dropping a [`Held`] closes descriptors, by which the lock goes, and does nothing else.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Instant;

use bytes::Bytes;

use super::sidecar::{Mark, RECORD_BYTES, Settled, head, read_sidecar};
use super::{DropReason, Dropped, Part, Place};
use crate::batch::{BatchHeader, decode_header};
use crate::segment::disk::{Disk, DiskFile};
use crate::segment::file_table::{FileEntry, FileTable};
use crate::segment::{
    IndexEntry, SegmentEnd, SegmentError, SegmentErrorKind, SegmentName, SegmentReader,
    SegmentWriter,
};
use crate::sink::{InstanceId, SealedBatch};

/// What is behind the closed name of a segment in the name of its sidecar.
pub(super) const SIDECAR_SUFFIX: &str = ".done";
/// What is behind the name of a segment that was put aside because something in it is damaged.
pub(super) const ASIDE_SUFFIX: &str = ".damaged";

/// Most bytes of a sidecar that are read; the batches of marks behind them are delivered again.
const SIDECAR_BYTES_MAX: u64 = 16 << 20;

/// Segments that this process holds, by their sidecars.
static HELD: FileTable<1024> = FileTable::new();

/// The process whose thread looks whether a sidecar is held and opens it; zero for none.
static GATE: AtomicU32 = AtomicU32::new(0);

/// Lets one thread of the process at a time take sidecars: between the look at the table and the entry
/// into it no other may open the file, as closing it again would drop the lock.
///
/// It is no mutex: a child that was forked while another thread had one would hang, but another
/// process's mark in the word counts as none. A thread has it for a few system calls; the others wait
/// without sleeping.
///
/// # Orderings
///
/// The Acquire exchange in `enter` pairs with the Release store when the thread before leaves, so what
/// that one entered in the table is seen.
struct Gate;

impl Gate {
    fn enter() -> Self {
        let pid = std::process::id();
        loop {
            let found = GATE.load(Relaxed);
            if found != pid && GATE.compare_exchange(found, pid, Acquire, Relaxed).is_ok() {
                return Gate;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        GATE.store(0, Release);
    }
}

/// An open sidecar, entered in the table and locked.
pub(super) struct SidecarFile {
    file: Box<dyn DiskFile>,
    /// Dropped after the file is closed (fields drop in order): nobody in this process may open the file
    /// while it is open here.
    _entry: FileEntry,
    path: PathBuf,
    /// How far the file is good.
    readable_bytes: u64,
    /// Records that could not be written yet.
    unwritten: Vec<u8>,
}

impl SidecarFile {
    /// Makes a new one and holds it; `None` if somebody else was faster.
    pub(super) fn create(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        Self::create_within(disk, path, &Gate::enter())
    }

    /// Holds an existing one, or a new one if there is none; `None` if somebody else holds it, or did
    /// until now.
    pub(super) fn take(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        let gate = Gate::enter();
        let id = match disk.status(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::create_within(disk, path, &gate);
            }
            other => other?.id,
        };
        // Before it is opened: a descriptor of a file that this process holds must not be closed.
        if HELD.holds(id) {
            return Ok(None);
        }
        let file = match disk.open_sidecar(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let opened = file.status()?.id;
        if opened != id {
            // Somebody else put it there just now. If it is one that is held, it may not be closed.
            if HELD.holds(opened) {
                std::mem::forget(file);
            }
            return Ok(None);
        }
        Self::hold(disk, path, file, id)
    }

    fn create_within(disk: &dyn Disk, path: &Path, _gate: &Gate) -> io::Result<Option<Self>> {
        let file = match disk.open_sidecar(path, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            other => other?,
        };
        let id = file.status()?.id;
        Self::hold(disk, path, file, id)
    }

    fn hold(
        disk: &dyn Disk,
        path: &Path,
        file: Box<dyn DiskFile>,
        id: (u64, u64),
    ) -> io::Result<Option<Self>> {
        let Some(entry) = HELD.register(id) else {
            return Err(io::Error::other("this process holds as many segments as it can"));
        };
        let path = path.to_owned();
        let mut held =
            SidecarFile { file, _entry: entry, path, readable_bytes: 0, unwritten: Vec::new() };
        match held.file.own() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        }
        // Only now the name is sure: who deletes a sidecar holds it.
        match disk.status(&held.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok((found?.id == id).then_some(held)),
        }
    }

    /// Deletes it; if that fails it is a sidecar without a segment, which is deleted when segments are
    /// looked for.
    pub(super) fn remove(&self, disk: &dyn Disk) {
        _ = disk.remove(&self.path);
    }

    fn read(&mut self) -> Result<Vec<Mark>, SegmentError> {
        let failed = |error: io::Error| {
            SegmentError::io("cannot read the sidecar", &error).in_file(&self.path)
        };
        let len = self.file.status().map_err(failed)?.len.min(SIDECAR_BYTES_MAX);
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let sidecar = read_sidecar(&bytes[..filled]).map_err(|version| {
            SegmentError::new(
                SegmentErrorKind::UnknownVersion,
                format!("the sidecar's format version {version} is not known here"),
                "it is left to a process with the release of spanring that wrote it",
            )
            .in_file(&self.path)
        })?;
        self.readable_bytes = sidecar.readable_bytes as u64;
        Ok(sidecar.marks)
    }

    fn push(&mut self, mark: Mark) {
        if self.readable_bytes == 0 && self.unwritten.is_empty() {
            self.unwritten.extend_from_slice(&head());
        }
        self.unwritten.extend_from_slice(&mark.encode());
    }

    /// Writes what is not written yet. What a failed write left is written over by the next.
    fn write(&mut self) -> Result<(), SegmentError> {
        while !self.unwritten.is_empty() {
            let written = match self.file.write_at(&self.unwritten, self.readable_bytes) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            };
            let written = written.map_err(|error| {
                SegmentError::io("cannot mark what is settled", &error).in_file(&self.path)
            })?;
            self.unwritten.drain(..written);
            self.readable_bytes += written as u64;
        }
        Ok(())
    }
}

/// One batch of a held segment.
struct Batch {
    entry: IndexEntry,
    settled: Settled,
    /// Nothing of it is left to do.
    is_done: bool,
}

/// A segment that this process holds.
pub(super) struct Held {
    /// The file's name at present.
    pub(super) name: SegmentName,
    path: PathBuf,
    pub(super) instance: InstanceId,
    /// While batches are appended.
    pub(super) writer: Option<SegmentWriter>,
    /// When it was begun, if it was begun here.
    pub(super) begun: Option<Instant>,
    /// When the newest batch was appended; `None` for an adopted segment, whose name says its age.
    pub(super) appended: Option<Instant>,
    /// Until when it is left alone, as it could not be deleted.
    pub(super) retry: Option<Instant>,
    /// Which file it is; `None` if it has vanished already.
    id: Option<(u64, u64)>,
    /// Length of the segment, in bytes; it is checked before an adopted one is deleted.
    segment_bytes: u64,
    batches: Vec<Batch>,
    /// Batches of which something is left to do.
    open: u32,
    /// Whether there is something in the file that cannot be read.
    is_damaged: bool,
    sidecar: SidecarFile,
}

/// A segment that was taken over.
pub(super) struct Taken {
    pub(super) held: Held,
    /// What in it is damaged.
    pub(super) damage: Option<SegmentError>,
}

impl Held {
    /// A segment that was just begun.
    pub(super) fn begun(
        disk: &dyn Disk,
        writer: SegmentWriter,
        sidecar: SidecarFile,
        now: Instant,
    ) -> Self {
        let path = writer.path();
        Held {
            name: name_of(&path),
            id: disk.status(&path).ok().map(|status| status.id),
            segment_bytes: writer.closed_bytes(),
            path,
            instance: writer.identity().instance,
            writer: Some(writer),
            begun: Some(now),
            appended: Some(now),
            retry: None,
            batches: Vec::new(),
            open: 0,
            is_damaged: false,
            sidecar,
        }
    }

    /// Reads a dead process's segment, whose sidecar is held; `None` if there is no segment.
    pub(super) fn take(
        disk: &dyn Disk,
        directory: &Path,
        closed_name: &SegmentName,
        mut sidecar: SidecarFile,
    ) -> Result<Option<Taken>, SegmentError> {
        // Its process may have closed it since the directory was listed, and died.
        let closed = directory.join(closed_name.to_string());
        let part = directory.join(closed_name.to_part().to_string());
        let mut opened = None;
        for path in [closed, part] {
            match disk.open(&path) {
                Ok(file) => {
                    opened = Some((file, path));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(SegmentError::io("cannot open the segment", &error).in_file(&path));
                }
            }
        }
        let Some((file, path)) = opened else {
            // Nobody makes the segment before holding its sidecar.
            sidecar.remove(disk);
            return Ok(None);
        };
        let marks = sidecar.read()?;
        let status =
            file.metadata().map(crate::segment::disk::FileStatus::from).map_err(|error| {
                SegmentError::io("cannot look at the segment", &error).in_file(&path)
            })?;
        let (contents, damage) = match Contents::read(file, &path) {
            Ok(contents) => contents,
            // Its process died before its header was written.
            Err(error) if error.kind() == SegmentErrorKind::Truncated => {
                (Contents::default(), None)
            }
            Err(error) if is_damage(error.kind()) => (Contents::default(), Some(error)),
            Err(error) => return Err(error),
        };
        let mut held = Held {
            name: name_of(&path),
            path,
            instance: contents.instance,
            writer: None,
            begun: None,
            appended: None,
            retry: None,
            id: Some(status.id),
            segment_bytes: status.len,
            batches: Vec::new(),
            open: 0,
            is_damaged: damage.is_some(),
            sidecar,
        };
        for (entry, is_readable) in contents.batches {
            held.push(entry);
            if !is_readable {
                held.finish_batch(held.batches.len() - 1);
            }
        }
        for mark in marks {
            held.settle(mark);
        }
        Ok(Some(Taken { held, damage }))
    }

    fn push(&mut self, entry: IndexEntry) {
        self.batches.push(Batch { entry, settled: Settled::default(), is_done: false });
        self.open += 1;
    }

    /// Appends a batch; returns its number.
    pub(super) fn append(
        &mut self,
        batch: &SealedBatch,
        now: Instant,
    ) -> Result<u32, SegmentError> {
        let writer = self.writer.as_mut().expect("batches go to the segment that is written");
        writer.append(batch)?;
        let (number, end) = (writer.batches() - 1, writer.batches_end());
        self.segment_bytes = writer.closed_bytes();
        self.appended = Some(now);
        let length = batch.frame.len() as u32;
        self.push(IndexEntry {
            offset: end - u64::from(length),
            length,
            sequence: batch.sequence,
            spans: batch.spans,
            start_unix_nano: batch.start_unix_nano,
            end_unix_nano: batch.end_unix_nano,
        });
        Ok(number)
    }

    /// Ends the writing: with an index if that succeeds, else as a killed process would leave it.
    pub(super) fn end_writing(&mut self) -> Result<(), SegmentError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let result = writer.close();
        self.path = writer.path();
        self.name = name_of(&self.path);
        result.map(|_| ())
    }

    /// Settles a part, if it was not; returns whether it was new.
    fn settle(&mut self, mark: Mark) -> bool {
        let number = mark.batch as usize;
        // A mark behind the batches is of one that was lost with the segment's end.
        let Some(batch) = self.batches.get_mut(number).filter(|batch| !batch.is_done) else {
            return false;
        };
        let spans = batch.entry.spans;
        let is_new = batch.settled.add(mark.first, mark.spans, spans);
        if batch.settled.spans() == spans {
            self.finish_batch(number);
            return true;
        }
        is_new
    }

    fn finish_batch(&mut self, number: usize) {
        let batch = &mut self.batches[number];
        if !std::mem::replace(&mut batch.is_done, true) {
            batch.settled = Settled::default();
            self.open -= 1;
        }
    }

    /// Settles a part; [`write_marks`](Self::write_marks) writes it down.
    pub(super) fn mark(&mut self, mark: Mark) {
        if self.settle(mark) {
            self.sidecar.push(mark);
        }
    }

    /// Writes down what was settled and is not written down yet.
    pub(super) fn write_marks(&mut self) -> Result<(), SegmentError> {
        self.sidecar.write()
    }

    /// Whether nothing of it is left to do.
    pub(super) fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Whether it may be tried to delete it.
    pub(super) fn may_go(&self, now: Instant) -> bool {
        self.retry.is_none_or(|at| at <= now)
    }

    /// Batches in it, those that are settled included.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Bytes on disk, the sidecar included.
    pub(super) fn bytes(&self) -> u64 {
        self.segment_bytes + self.sidecar.readable_bytes
    }

    /// What is left to do.
    pub(super) fn parts(&self, segment: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        for (number, batch) in self.batches.iter().enumerate().filter(|(_, batch)| !batch.is_done) {
            let place = Place { segment, batch: number as u32 };
            if batch.entry.spans == 0 {
                parts.push(Part { place, first: 0, spans: 0 });
            }
            for (first, spans) in batch.settled.open(batch.entry.spans) {
                parts.push(Part { place, first, spans });
            }
        }
        parts
    }

    /// What is lost if it is deleted now: an entry for each batch that is not settled.
    pub(super) fn losses(&self, segment: u64, reason: DropReason) -> Vec<Dropped> {
        let open = self.batches.iter().enumerate().filter(|(_, batch)| !batch.is_done);
        open.map(|(number, batch)| Dropped {
            place: Some(Place { segment, batch: number as u32 }),
            spans: u64::from(batch.entry.spans - batch.settled.spans()),
            reason,
            is_unreadable: false,
        })
        .collect()
    }

    /// Whether something in it cannot be read, so that what is lost with it is not known.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Reads a batch and checks it.
    pub(super) fn read(
        &mut self,
        disk: &dyn Disk,
        number: u32,
    ) -> Result<SealedBatch, SegmentError> {
        let entry = match self.batches.get(number as usize) {
            Some(batch) => batch.entry,
            None => return Err(no_such_batch()),
        };
        let read = self.read_entry(disk, &entry);
        if let Err(error) = &read
            && is_damage(error.kind())
        {
            self.is_damaged = true;
        }
        read
    }

    fn read_entry(&self, disk: &dyn Disk, entry: &IndexEntry) -> Result<SealedBatch, SegmentError> {
        let mut frame = vec![0; entry.length as usize];
        disk.open(&self.path)
            .and_then(|file| file.read_exact_at(&mut frame, entry.offset))
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    damaged("the file ends before the batch does", entry.offset)
                }
                _ => SegmentError::io("cannot read the batch", &error),
            })
            .and_then(|()| checked_header(&frame, entry.offset))
            .and_then(|header| {
                let is_it = header.instance == self.instance
                    && header.sequence == entry.sequence
                    && header.spans == entry.spans;
                if !is_it {
                    return Err(damaged("another batch stands where one must", entry.offset));
                }
                Ok(SealedBatch {
                    instance: header.instance,
                    sequence: header.sequence,
                    spans: header.spans,
                    start_unix_nano: header.start_unix_nano,
                    end_unix_nano: header.end_unix_nano,
                    frame: Bytes::from(frame),
                })
            })
            .map_err(|error| error.in_file(&self.path))
    }

    /// Deletes the segment and then its sidecar, so that a crash in between leaves nothing that would be
    /// delivered again; a segment with damage is put aside instead, unless it is to be `dropped`. A file
    /// that is not the one known is somebody else's and stays. What was settled is written down if the
    /// segment stays.
    pub(super) fn remove(&mut self, disk: &dyn Disk, dropped: bool) -> Result<(), SegmentError> {
        let removed = self.remove_files(disk, dropped);
        if !matches!(removed, Ok(true)) {
            // The marks are what keeps it from being delivered again.
            _ = self.write_marks();
        }
        removed.map(|_| ())
    }

    fn remove_files(&self, disk: &dyn Disk, dropped: bool) -> Result<bool, SegmentError> {
        let is_known = match disk.status(&self.path) {
            Ok(found) => {
                let is_whole = self.appended.is_some() || found.len == self.segment_bytes;
                Some(found.id) == self.id && is_whole
            }
            // Removed by somebody else; the sidecar goes all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(self.failed("cannot look at the segment", &error)),
        };
        if !is_known {
            return Ok(false);
        }
        let removed = if self.is_damaged && !dropped {
            let aside = format!("{}{ASIDE_SUFFIX}", self.name);
            disk.rename(&self.path, &self.path.with_file_name(aside))
        } else {
            disk.remove(&self.path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("cannot remove the segment from the spool", &error));
            }
            _ => {}
        }
        self.sidecar.remove(disk);
        Ok(true)
    }

    fn failed(&self, doing: &str, error: &io::Error) -> SegmentError {
        SegmentError::io(doing, error).in_file(&self.path)
    }

    /// Makes it look as after a fork, which tests cannot do safely.
    #[cfg(test)]
    pub(super) fn pretend_inherited(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.pretend_inherited();
        }
    }
}

/// What a segment holds.
#[derive(Default)]
struct Contents {
    instance: InstanceId,
    /// Each batch, and whether it can be read.
    batches: Vec<(IndexEntry, bool)>,
}

impl Contents {
    /// Reads what there is, and says what is damaged.
    ///
    /// Of a closed segment only the index and the first batch are read: the others are checked when they
    /// are delivered. In an unclosed one every batch says itself what it holds.
    fn read(
        file: std::fs::File,
        path: &Path,
    ) -> Result<(Self, Option<SegmentError>), SegmentError> {
        let mut reader = SegmentReader::from_file(file, path)?;
        let instance = reader.header().instance;
        let entries = reader.index_entries();
        let mut contents = Contents { instance, batches: Vec::new() };
        let mut damage = None;
        while let Some(batch) = reader.next_batch() {
            let checked = batch.map(|found| {
                let header =
                    checked_header(found.frame, found.offset).map_err(|error| error.in_file(path));
                (found.offset, found.frame.len() as u32, header)
            });
            let (offset, length, header) = match checked {
                Ok(found) => found,
                // Only with an index. It keeps its number, by which the sidecar calls the others.
                Err(error) => {
                    damage.get_or_insert(error);
                    contents.batches.push((IndexEntry::default(), false));
                    continue;
                }
            };
            match header {
                Ok(header) if header.instance == instance => {
                    contents.batches.push((entry_of(&header, offset, length), true));
                }
                Ok(_) => {
                    let error = damaged("the batch is of another pipeline", offset).in_file(path);
                    damage.get_or_insert(error);
                    let entry = IndexEntry { offset, length, ..IndexEntry::default() };
                    contents.batches.push((entry, false));
                }
                // A newer release's: the whole segment is left to it.
                Err(error) if error.kind() == SegmentErrorKind::UnknownVersion => {
                    return Err(error);
                }
                Err(error) => {
                    damage.get_or_insert(error);
                    let entry = IndexEntry { offset, length, ..IndexEntry::default() };
                    contents.batches.push((entry, false));
                }
            }
            if entries.is_some() {
                break;
            }
        }
        if let Some(entries) = entries {
            contents.batches = entries.into_iter().map(|entry| (entry, true)).collect();
            return Ok((contents, None));
        }
        match reader.end() {
            Some(SegmentEnd::Unclean { error, .. }) => match error.kind() {
                // Killed between two batches, or within one, whose append never returned.
                SegmentErrorKind::NotClosed | SegmentErrorKind::Truncated => {}
                SegmentErrorKind::Io => return Err(error.clone()),
                _ => _ = damage.get_or_insert(error.clone()),
            },
            _ => {
                let error = SegmentError::new(
                    SegmentErrorKind::IndexMismatch,
                    "the index does not name what stands before it",
                    "the file was changed or the disk is faulty: restore it from a copy",
                );
                damage.get_or_insert(error.in_file(path));
            }
        }
        Ok((contents, damage))
    }
}

fn entry_of(header: &BatchHeader, offset: u64, length: u32) -> IndexEntry {
    IndexEntry {
        offset,
        length,
        sequence: header.sequence,
        spans: header.spans,
        start_unix_nano: header.start_unix_nano,
        end_unix_nano: header.end_unix_nano,
    }
}

/// The header of a frame whose checksum is right.
fn checked_header(frame: &[u8], offset: u64) -> Result<BatchHeader, SegmentError> {
    decode_header(frame).map_err(|error| {
        let kind = if error.is_unknown_version() {
            SegmentErrorKind::UnknownVersion
        } else {
            SegmentErrorKind::Damaged
        };
        SegmentError::new(kind, error.what(), error.advice()).at(offset)
    })
}

pub(super) fn no_such_batch() -> SegmentError {
    SegmentError::new(
        SegmentErrorKind::NoSegments,
        "the batch is not in the spool any more",
        "it was settled or dropped; deliver it from memory or count it",
    )
}

fn damaged(what: &str, offset: u64) -> SegmentError {
    SegmentError::new(
        SegmentErrorKind::Damaged,
        what,
        "the file was changed or the disk is faulty: it is put aside when the rest is delivered",
    )
    .at(offset)
}

/// Whether the file itself is wrong, not the way to it.
fn is_damage(kind: SegmentErrorKind) -> bool {
    !matches!(kind, SegmentErrorKind::Io | SegmentErrorKind::UnknownVersion)
}

fn name_of(path: &Path) -> SegmentName {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(SegmentName::parse)
        .expect("the spool holds files with segments' names only")
}

const _: () = assert!(SIDECAR_BYTES_MAX.is_multiple_of(RECORD_BYTES as u64));
