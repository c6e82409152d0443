//! The spool: batches on disk while a network sink cannot take them.
//!
//! It is a log that is written ahead: every batch is appended before it is sent, and marked when its
//! answer was seen. So a process that is killed at any moment loses no batch whose
//! [`append`](Spool::append) returned; the next process [adopts](Spool::adopt) what was left and
//! delivers it. A batch is delivered again if the process died between its answer and its mark.
//! One spool is of one sink, in a directory that any number of processes share.
//!
//! ```text
//!   append ───► segment (ordinary, docs/segment-format.md) ───► read
//!   done   ───► sidecar: 16 bytes a settled part            ───► adopt, by whoever comes next
//!               └─ locked by whoever delivers the segment; docs/spool-format.md
//! ```
//!
//! What it never does: touch a segment that another living process, or another spool of this one, holds;
//! touch its parent's segments in a fork child; delete what is not settled without saying how many
//! spans it held; follow a symbolic link, or touch a file whose name is not one of its own; start a
//! thread or a timer, or read the monotonic clock: `now` comes from the caller.
//!
//! Invariants:
//! - A segment has a locked sidecar before it has a batch, so nobody adopts one that is being written.
//! - A segment is deleted before its sidecar, and while the sidecar is locked. A sidecar without a segment
//!   says nothing, and is deleted when segments are looked for.
//! - A part is pending at most once in a process: it is given out by `append` or by `adopt`, and never
//!   again while its segment is held.
//! - Every batch that was appended or adopted ends by [`done`](Spool::done), by [`Dropped`], or stays in
//!   the directory for the next process.
//! - [`enforce`](Spool::enforce) leaves at most `max_bytes`, unless what is above is other processes' or
//!   cannot be deleted. Then this process keeps at most an eighth of it.
//!
//! What is settled is marked beside the segment and not in it, as segments only grow: a reader of segments
//! needs to know nothing of the spool, and a torn mark costs a repetition, never a batch. Marks are never
//! synced, for the same reason.
//!
//! A segment that cannot be read in part is delivered as far as it can, and then put aside under a name
//! that ends in `.damaged`; it counts against the caps as all others do. One of a newer release is left
//! to a process that knows it.

mod held;
mod sidecar;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use self::held::{ASIDE_SUFFIX, Held, SIDECAR_SUFFIX, SidecarFile, Taken, no_such_batch};
use self::sidecar::RECORD_BYTES;
pub use self::sidecar::{Mark, SIDECAR_VERSION, Settled, Sidecar, head, read_sidecar};
use crate::file_sink::WallClock;
use crate::log;
use crate::segment::disk::{Disk, OsDisk};
use crate::segment::{
    SegmentError, SegmentErrorKind, SegmentIdentity, SegmentName, SegmentWriter, lone_batch_bytes,
};
use crate::sink::{InstanceId, SealedBatch};

/// Adopted segments that are held at a time: each takes a descriptor, and its batches' places memory.
const ADOPTED_MAX: usize = 32;
/// Batches in the held segments of this process, above which its oldest goes, and in adopted ones, above
/// which no more are adopted: some 100 bytes of memory each.
const BATCHES_MAX: usize = 1 << 16;
/// Batches of a segment, so that there are several in [`BATCHES_MAX`].
const SEGMENT_BATCHES_MAX: u32 = BATCHES_MAX as u32 / 16;
/// Segments, and bytes of them, that one call of [`Spool::adopt`] reads.
const ADOPT_SEGMENTS_MAX: usize = 16;
const ADOPT_BYTES_MAX: u64 = 16 << 20;
/// Dead processes' segments that one call of [`Spool::enforce`] reads to count what it drops.
const ENFORCE_SEGMENTS_MAX: usize = 64;
/// Files of others that are tried to be dropped until the directory is listed again: each once.
const OTHERS_MAX: usize = 256;
/// Which part of the cap a process may use for itself, whatever others have.
const SHARE: u64 = 8;
/// Names that are tried for a new segment.
const NAMES_MAX: usize = 16;
/// How often a directory is listed to see what other processes put there, and how long what could not be
/// deleted is left alone.
const LIST_INTERVAL: Duration = Duration::from_secs(5);
/// How long a segment in which everything is settled waits for further batches.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Length at which a segment in which everything is settled is deleted at once. Below, one file is used
/// for many batches; to begin another costs a dozen system calls.
const REUSED_BYTES_MAX: u64 = 1 << 20;

/// How a [`Spool`] keeps its batches.
#[derive(Clone)]
pub(crate) struct SpoolOptions {
    /// Where; nothing else should be there.
    pub(crate) directory: PathBuf,
    /// Cap on everything in the directory, of all processes, in bytes.
    pub(crate) max_bytes: u64,
    /// Age at which what is not delivered is dropped: of a segment of this process since its newest
    /// batch, of another's an eighth later, since it was begun.
    pub(crate) max_age: Duration,
    /// Length at which the next segment is begun, in bytes: at most a 16th of `max_bytes`, so that there
    /// are several in a process's share, and at least a 64th, which bounds the number of open files.
    pub(crate) segment_max_bytes: u64,
    /// Whether a batch is durable when [`Spool::append`] returns.
    pub(crate) fsync: bool,
    /// The clock for the segments' names, and for the age of other processes'.
    pub(crate) clock: WallClock,
}

/// Where a batch lies: a segment that this spool holds, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Counts the segments that this spool has held; never used again.
    segment: u64,
    batch: u32,
}

/// Spans of one batch that are not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The batch.
    pub(crate) place: Place,
    /// The first span, from 0 in the order of the batch.
    pub(crate) first: u32,
    /// How many; zero for a batch without spans.
    pub(crate) spans: u32,
}

/// What [`Spool::adopt`] found.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    /// What is not settled, the oldest first.
    pub(crate) parts: Vec<Part>,
    /// Spans of all parts.
    pub(crate) spans: u64,
    /// What could not be adopted, each file once, and what in the others is damaged.
    pub(crate) errors: Vec<SegmentError>,
    /// Whether there may be more: to be called again when some of this is settled.
    pub(crate) more: bool,
}

/// Why something was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// It was older than `max_age`.
    Age,
    /// The spool was above `max_bytes`.
    Bytes,
    /// This process held more batches than its memory is meant for.
    Batches,
}

/// What [`Spool::enforce`] dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// The batch, of which nothing is pending any more; `None` for all of a dead process's segment that
    /// was never adopted.
    pub(crate) place: Option<Place>,
    /// How many of its spans were not settled.
    pub(crate) spans: u64,
    /// Why.
    pub(crate) reason: DropReason,
    /// Whether something in the file could not be read, so that more may have been in it.
    pub(crate) is_unreadable: bool,
}

/// Batches on disk; see the module.
pub(crate) struct Spool {
    disk: Arc<dyn Disk>,
    options: SpoolOptions,
    pid: u32,
    /// By the number in [`Place`].
    held: BTreeMap<u64, Held>,
    /// The one that is written.
    current: Option<u64>,
    next_segment: u64,
    next_number: u64,
    /// Names must sort in the order of writing, also when the system's clock steps back.
    last_created_unix_nano: u64,
    /// What is in the directory and not held, as of the last listing.
    others_bytes: u64,
    /// The oldest of it, the oldest first, without what was tried to be dropped since that listing.
    others: Vec<Candidate>,
    listed: Option<Instant>,
    /// When something last could not be deleted, while there is such a thing; it is logged once.
    stuck: Option<Instant>,
    /// Files about which an error was told.
    told: BTreeSet<String>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool")
            .field("directory", &self.options.directory)
            .field("segments", &self.held.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Spool {
    /// Opens a spool; its directory is made if it is missing, for this user alone. Nothing is looked for
    /// and no file is made yet.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made.
    pub(crate) fn open(options: SpoolOptions) -> Result<Self, SegmentError> {
        Self::open_on(Arc::new(OsDisk), options)
    }

    fn open_on(disk: Arc<dyn Disk>, options: SpoolOptions) -> Result<Self, SegmentError> {
        let spool = Spool {
            disk,
            options,
            pid: std::process::id(),
            held: BTreeMap::new(),
            current: None,
            next_segment: 0,
            next_number: 0,
            last_created_unix_nano: 0,
            others_bytes: 0,
            others: Vec::new(),
            listed: None,
            stuck: None,
            told: BTreeSet::new(),
        };
        spool.create_directory()?;
        Ok(spool)
    }

    /// Appends a batch, with one `write` in the usual case.
    ///
    /// # Errors
    ///
    /// Nothing of the batch is in the spool then, and those before it still are. The same batch may be
    /// appended later, unless the kind is [`SegmentErrorKind::Refused`].
    pub(crate) fn append(
        &mut self,
        batch: &SealedBatch,
        now: Instant,
    ) -> Result<Place, SegmentError> {
        self.leave_inherited();
        if let Some(segment) = self.current
            && self.is_full_for(&self.held[&segment], batch)
        {
            self.end_current();
        }
        let segment = match self.current {
            Some(segment) => segment,
            None => self.begin(batch.instance, batch.frame.len() as u64, now)?,
        };
        let held = self.held.get_mut(&segment).expect("the current segment is held");
        let appended = held.append(batch, now);
        if let Err(error) = &appended
            && error.kind() == SegmentErrorKind::Replaced
        {
            // Somebody took its file away; the next batch begins another.
            self.end_current();
        }
        Ok(Place { segment, batch: appended? })
    }

    /// Settles a part of a batch: it was delivered, or given up. Parts that are settled already, and
    /// batches that the spool does not have any more, are none of its business.
    ///
    /// # Errors
    ///
    /// It is settled nevertheless, for this process. It is written down later if that becomes possible;
    /// if not, the next process delivers it again.
    pub(crate) fn done(
        &mut self,
        place: Place,
        first: u32,
        spans: u32,
    ) -> Result<(), SegmentError> {
        self.leave_inherited();
        let reused_bytes_max = REUSED_BYTES_MAX.min(self.segment_max_bytes() / 4);
        let Some(held) = self.held.get_mut(&place.segment) else { return Ok(()) };
        held.mark(Mark { batch: place.batch, first, spans });
        let is_kept = held.writer.is_some() && held.bytes() < reused_bytes_max;
        if held.is_done() && !is_kept { self.remove(place.segment) } else { held.write_marks() }
    }

    /// Reads a batch again, and checks it.
    ///
    /// # Errors
    ///
    /// If it is damaged, or the file is gone, or the spool does not hold it any more. A batch with damage
    /// is to be counted and settled with [`done`](Self::done); its segment is put aside then. One whose
    /// error [`may_pass`](SegmentError::may_pass) is neither lost nor damaged: it is to be read again.
    pub(crate) fn read(&mut self, place: Place) -> Result<SealedBatch, SegmentError> {
        self.leave_inherited();
        let held = self.held.get_mut(&place.segment).ok_or_else(no_such_batch)?;
        held.read(self.disk.as_ref(), place.batch)
    }

    /// Takes over segments of dead processes and of closed spools of this one, the oldest first: some at
    /// a time, and only so many until they are settled.
    ///
    /// # Errors
    ///
    /// If the directory cannot be listed; nothing is adopted then. A missing one holds nothing.
    pub(crate) fn adopt(&mut self) -> Result<Adopted, SegmentError> {
        self.leave_inherited();
        let directory = Directory::list(self.disk.as_ref(), &self.options.directory)?;
        let mut adopted = Adopted::default();
        let (mut segments_read, mut bytes_read) = (0, 0);
        let own: BTreeSet<SegmentName> =
            self.held.values().map(|held| held.name.to_closed()).collect();
        let others = directory
            .segments
            .iter()
            .filter(|(name, file)| file.segment_bytes.is_some() && !own.contains(name));
        self.others_bytes = others.map(|(_, file)| file.bytes()).sum::<u64>()
            + directory.asides.iter().map(|aside| aside.bytes).sum::<u64>();
        for (name, file) in &directory.segments {
            if own.contains(name) || file.segment_bytes.is_none() {
                continue;
            }
            let held = self.held.values().filter(|held| held.appended.is_none()).count();
            if held >= ADOPTED_MAX
                || self.batches(false) >= BATCHES_MAX
                || segments_read >= ADOPT_SEGMENTS_MAX
                || bytes_read >= ADOPT_BYTES_MAX
            {
                adopted.more = true;
                break;
            }
            match self.take(name) {
                Ok(None) => {}
                Ok(Some(Taken { held, damage })) => {
                    segments_read += 1;
                    bytes_read += file.bytes();
                    self.others_bytes -= file.bytes();
                    adopted.errors.extend(damage);
                    let segment = self.hold(held);
                    let held = &self.held[&segment];
                    let parts = held.parts(segment);
                    if held.is_done()
                        && let Err(error) = self.remove(segment)
                    {
                        // It stays held, and is tried again.
                        self.tell(name.to_string(), error, &mut adopted.errors);
                    }
                    adopted.spans += parts.iter().map(|part| u64::from(part.spans)).sum::<u64>();
                    adopted.parts.extend(parts);
                }
                Err(error) => self.tell(name.to_string(), error, &mut adopted.errors),
            }
        }
        for (name, file) in &directory.segments {
            if file.segment_bytes.is_none() && !own.contains(name) {
                // To take a sidecar without a segment is to delete it.
                _ = self.take(name);
            }
        }
        self.told.retain(|told| {
            SegmentName::parse(told).is_some_and(|name| directory.segments.contains_key(&name))
        });
        Ok(adopted)
    }

    /// Keeps the spool under its caps: drops what is older than `max_age`, and the oldest above
    /// `max_bytes` and above the number of batches that a process holds. Also does what is due otherwise: retries what could not be written or deleted,
    /// and puts away what is idle. To be called after appending, and from time to time.
    pub(crate) fn enforce(&mut self, now: Instant) -> Vec<Dropped> {
        self.leave_inherited();
        self.tidy(now);
        let mut dropped = Vec::new();
        if self.listed.is_none_or(|at| is_past(at, LIST_INTERVAL, now)) {
            self.list(now);
            self.drop_excess(now, &mut dropped);
            let is_stuck = self.held.values().any(|held| held.retry.is_some());
            self.stuck = self.stuck.filter(|at| is_stuck || *at == now);
        } else if self.may_drop(now) {
            self.drop_excess(now, &mut dropped);
        }
        dropped
    }

    /// When [`enforce`](Self::enforce) has something to do if nothing happens until then; `None` while
    /// nothing is held. What other processes leave is not foreseen. After a call of it, this is later:
    /// what it could not do waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let listing = self.listed.and_then(|at| at.checked_add(LIST_INTERVAL));
        let due = |(segment, held): (&u64, &Held)| match (held.begun, held.appended) {
            (Some(begun), Some(appended)) if self.current == Some(*segment) => match held.is_done()
            {
                true => appended.checked_add(IDLE_MAX),
                false => begun.checked_add(self.segment_max_age()),
            },
            (_, Some(appended)) if !held.is_done() => appended.checked_add(self.options.max_age),
            // The wall clock says when it is old, or it could not be deleted.
            _ => listing,
        };
        let due =
            |one: (&u64, &Held)| due(one).map(|at| one.1.retry.map_or(at, |retry| at.max(retry)));
        self.held.iter().filter_map(due).min()
    }

    /// Bytes in the directory, of all processes: those of others as they were last seen.
    pub(crate) fn bytes(&self) -> u64 {
        self.held_bytes() + self.others_bytes
    }

    /// Ends the current segment and lets go of all: what is not settled can be adopted at once. Without
    /// it, dropping does the same.
    ///
    /// # Errors
    ///
    /// What could not be written or deleted first; no batch is lost by it.
    pub(crate) fn close(mut self) -> Result<(), SegmentError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), SegmentError> {
        self.leave_inherited();
        self.current = None;
        let mut result = Ok(());
        for (_, mut held) in std::mem::take(&mut self.held) {
            let finished = if held.is_done() {
                held.remove(self.disk.as_ref(), false)
            } else {
                held.end_writing().and(held.write_marks())
            };
            result = result.and(finished);
        }
        result
    }

    /// In a fork child the segments are the parent's: descriptors are closed and nothing else.
    fn leave_inherited(&mut self) {
        let pid = std::process::id();
        if self.pid != pid {
            self.pid = pid;
            self.held.clear();
            self.current = None;
            self.told.clear();
            self.others.clear();
            self.listed = None;
            self.stuck = None;
        }
    }

    fn create_directory(&self) -> Result<(), SegmentError> {
        let directory = &self.options.directory;
        self.disk.create_directory(directory).map_err(|error| {
            let doing = if error.kind() == io::ErrorKind::AlreadyExists {
                "what is at the spool's path is no directory"
            } else {
                "cannot create the spool's directory"
            };
            SegmentError::io(doing, &error).in_file(directory)
        })
    }

    fn segment_max_bytes(&self) -> u64 {
        let max_bytes = self.options.max_bytes;
        self.options.segment_max_bytes.clamp(max_bytes / 64, max_bytes / (2 * SHARE))
    }

    /// Age at which a segment is ended, so that all of it becomes old at about one time.
    fn segment_max_age(&self) -> Duration {
        self.options.max_age / 8
    }

    fn is_full_for(&self, held: &Held, batch: &SealedBatch) -> bool {
        held.instance != batch.instance
            || held.writer.as_ref().is_none_or(|writer| {
                let with_batch = writer.closed_bytes_with(batch.frame.len() as u64);
                writer.is_closing()
                    || writer.batches() == SEGMENT_BATCHES_MAX
                    || writer.batches() > 0 && with_batch > self.segment_max_bytes()
            })
    }

    /// Begins a segment; returns its number.
    fn begin(
        &mut self,
        instance: InstanceId,
        batch_bytes: u64,
        now: Instant,
    ) -> Result<u64, SegmentError> {
        let (directory, max_bytes) = (self.options.directory.clone(), self.options.max_bytes);
        let least_bytes = lone_batch_bytes(batch_bytes) + 2 * RECORD_BYTES as u64;
        if least_bytes > max_bytes {
            return Err(SegmentError::new(
                SegmentErrorKind::Refused,
                format!("a batch of {batch_bytes} bytes does not fit in a spool of {max_bytes}"),
                "raise the spool's cap or lower BATCH_SIZE",
            )
            .in_file(&directory));
        }
        self.create_directory()?;
        for _ in 0..NAMES_MAX {
            let created_unix_nano =
                self.wall_unix_nano().max(self.last_created_unix_nano.saturating_add(1));
            let number = self.next_number;
            // Used up even if this fails: a name that is taken must not stop the spool.
            self.next_number += 1;
            self.last_created_unix_nano = created_unix_nano;
            let identity = SegmentIdentity { instance, created_unix_nano, number };
            let name = SegmentName::new(created_unix_nano, instance, number).to_closed();
            let path = directory.join(format!("{name}{SIDECAR_SUFFIX}"));
            let sidecar = match SidecarFile::create(self.disk.as_ref(), &path) {
                Ok(Some(sidecar)) => sidecar,
                Ok(None) => continue,
                Err(error) => {
                    // The name is nobody else's; if nothing was made there is nothing to remove.
                    _ = self.disk.remove(&path);
                    let doing = "cannot begin a segment of the spool and lock its sidecar";
                    return Err(SegmentError::io(doing, &error).in_file(&path));
                }
            };
            let disk = Arc::clone(&self.disk);
            match SegmentWriter::create_on(disk, &directory, identity, self.options.fsync) {
                Ok(writer) => {
                    let held = Held::begun(self.disk.as_ref(), writer, sidecar, now);
                    let segment = self.hold(held);
                    self.current = Some(segment);
                    return Ok(segment);
                }
                Err(error) => {
                    sidecar.remove(self.disk.as_ref());
                    if error.io_kind() != Some(io::ErrorKind::AlreadyExists) {
                        return Err(error);
                    }
                }
            }
        }
        Err(SegmentError::new(
            SegmentErrorKind::Io,
            "every name for a new segment of the spool was taken by somebody else",
            "let only spanring touch the directory",
        )
        .in_file(&directory))
    }

    fn hold(&mut self, held: Held) -> u64 {
        let segment = self.next_segment;
        self.next_segment += 1;
        self.held.insert(segment, held);
        segment
    }

    /// Ends the current segment. What is wrong with that costs no batch: without an index, it is read as
    /// a killed process's.
    fn end_current(&mut self) {
        let Some(segment) = self.current.take() else { return };
        let held = self.held.get_mut(&segment).expect("the current segment is held");
        if held.is_done() {
            // If this fails, it is tried again when it is due.
            _ = self.remove(segment);
        } else {
            _ = held.end_writing();
        }
    }

    /// Deletes a segment of which everything is settled.
    fn remove(&mut self, segment: u64) -> Result<(), SegmentError> {
        let Some(held) = self.held.get_mut(&segment) else { return Ok(()) };
        if self.current == Some(segment) {
            self.current = None;
        }
        held.remove(self.disk.as_ref(), false)?;
        if let Some(held) = self.held.remove(&segment)
            && held.is_damaged()
        {
            // It was put aside.
            self.others_bytes += held.bytes();
        }
        Ok(())
    }

    /// Takes a segment over; `None` if its owner lives, or it is gone.
    fn take(&self, name: &SegmentName) -> Result<Option<Taken>, SegmentError> {
        let (disk, directory) = (self.disk.as_ref(), &self.options.directory);
        let path = directory.join(format!("{name}{SIDECAR_SUFFIX}"));
        let sidecar = SidecarFile::take(disk, &path)
            .map_err(|error| SegmentError::io("cannot lock the sidecar", &error).in_file(&path))?;
        let Some(sidecar) = sidecar else { return Ok(None) };
        Held::take(disk, directory, name, sidecar)
    }

    fn tell(&mut self, file: String, error: SegmentError, errors: &mut Vec<SegmentError>) {
        if self.told.insert(file) {
            errors.push(error);
        }
    }

    /// Does again what failed before, and ends or deletes the current segment when that is due.
    fn tidy(&mut self, now: Instant) {
        if let Some(segment) = self.current {
            let held = &self.held[&segment];
            let since = held.appended.expect("it is written here");
            let is_due = match held.is_done() {
                true => is_past(since, IDLE_MAX, now),
                false => {
                    is_past(held.begun.expect("it is written here"), self.segment_max_age(), now)
                }
            };
            if is_due {
                self.end_current();
            }
        }
        let done: Vec<u64> = self
            .held
            .iter_mut()
            .filter_map(|(segment, held)| {
                if held.is_done() {
                    let may_go = Some(*segment) != self.current && held.may_go(now);
                    return may_go.then_some(*segment);
                }
                // If this fails again, so does the next call.
                _ = held.write_marks();
                None
            })
            .collect();
        for segment in done {
            if let Err(error) = self.remove(segment) {
                self.leave_for_later(segment, now);
                self.tell_stuck(&error, now);
            }
        }
    }

    /// Does not try again what could not be deleted, for a while.
    fn leave_for_later(&mut self, segment: u64, now: Instant) {
        if let Some(held) = self.held.get_mut(&segment) {
            held.retry = now.checked_add(LIST_INTERVAL);
        }
    }

    fn tell_stuck(&mut self, error: &SegmentError, now: Instant) {
        if self.stuck.replace(now).is_none() {
            log::warning!("the spool cannot delete what it has to, and tries again: {error}");
        }
    }

    /// Looks at what others have. If that is not to be had, what is held is known nevertheless.
    fn list(&mut self, now: Instant) {
        let directory = Directory::list(self.disk.as_ref(), &self.options.directory);
        self.listed = Some(now);
        let Directory { mut segments, asides: mut others } = directory.unwrap_or_default();
        for held in self.held.values() {
            segments.remove(&held.name.to_closed());
        }
        others.extend(segments.into_iter().map(|(name, file)| Candidate {
            name,
            bytes: file.bytes(),
            what: What::Other,
        }));
        self.others_bytes = others.iter().map(|candidate| candidate.bytes).sum();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others.truncate(OTHERS_MAX);
        self.others = others;
    }

    /// Segments of others with a name before this one are too old.
    fn oldest_name(&self) -> SegmentName {
        let age = self.options.max_age.saturating_add(self.segment_max_age());
        let cutoff = u128::from(self.wall_unix_nano()).saturating_sub(age.as_nanos()) as u64;
        SegmentName::new(cutoff, InstanceId(0), 0)
    }

    /// Whether the spool is above its cap and this process has more than may be kept.
    fn has_excess(&self, now: Instant) -> bool {
        let max_bytes = self.options.max_bytes;
        // What cannot be deleted is like what others have: to drop the rest for it may be in vain.
        let own_bytes: u64 =
            self.held.values().filter(|held| held.may_go(now)).map(Held::bytes).sum();
        self.bytes() > max_bytes && own_bytes > max_bytes / SHARE
    }

    /// Whether there is anything to drop, without a look at the directory.
    fn may_drop(&self, now: Instant) -> bool {
        let is_old = |held: &Held| {
            held.appended.is_some_and(|appended| is_past(appended, self.options.max_age, now))
        };
        self.batches(true) > BATCHES_MAX
            || self.bytes() > self.options.max_bytes && !self.others.is_empty()
            || self.has_excess(now)
            || self.held.values().any(|held| held.may_go(now) && is_old(held))
    }

    /// Drops what is too old, and above the cap the oldest first: of what is held, not more than leaves
    /// this process its share.
    fn drop_excess(&mut self, now: Instant, dropped: &mut Vec<Dropped>) {
        let mut candidates = std::mem::take(&mut self.others);
        candidates.extend(self.held.iter().filter(|(_, held)| held.may_go(now)).map(
            |(&segment, held)| Candidate {
                name: held.name.to_closed(),
                bytes: held.bytes(),
                what: What::Held(segment),
            },
        ));
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        let oldest_name = self.oldest_name();
        let mut others_read = 0;
        for candidate in candidates {
            let held = match candidate.what {
                What::Held(segment) => self.held.get(&segment),
                _ => None,
            };
            let is_old = match held.and_then(|held| held.appended) {
                Some(appended) => is_past(appended, self.options.max_age, now),
                None => candidate.name < oldest_name,
            };
            let is_above = match held {
                Some(_) => self.has_excess(now),
                None => self.bytes() > self.options.max_bytes,
            };
            let is_own = held.is_some_and(|held| held.appended.is_some());
            let is_one_too_many = is_own && self.batches(true) > BATCHES_MAX;
            let reason = match (is_old, is_above, is_one_too_many) {
                (true, ..) => DropReason::Age,
                (_, true, _) => DropReason::Bytes,
                (.., true) => DropReason::Batches,
                _ => {
                    if held.is_none() {
                        self.others.push(candidate);
                    }
                    continue;
                }
            };
            let is_gone = match &candidate.what {
                What::Held(segment) => {
                    self.drop_held(*segment, reason, now, dropped);
                    continue;
                }
                What::Aside(path) => self.drop_aside(path, reason, dropped),
                What::Other if others_read < ENFORCE_SEGMENTS_MAX => {
                    others_read += 1;
                    self.drop_other(&candidate.name, reason, dropped)
                }
                What::Other => {
                    self.others.push(candidate);
                    continue;
                }
            };
            match is_gone {
                Ok(true) => {
                    self.others_bytes = self.others_bytes.saturating_sub(candidate.bytes);
                }
                // Somebody else's.
                Ok(false) => {}
                Err(error) => self.tell_stuck(&error, now),
            }
        }
    }

    fn drop_held(
        &mut self,
        segment: u64,
        reason: DropReason,
        now: Instant,
        dropped: &mut Vec<Dropped>,
    ) {
        let Some(held) = self.held.get_mut(&segment) else { return };
        let losses = held.losses(segment, reason);
        if let Err(error) = held.remove(self.disk.as_ref(), true) {
            self.leave_for_later(segment, now);
            return self.tell_stuck(&error, now);
        }
        if held.is_damaged() {
            dropped.push(Dropped { place: None, spans: 0, reason, is_unreadable: true });
        }
        dropped.extend(losses);
        self.held.remove(&segment);
        self.current = self.current.filter(|current| *current != segment);
    }

    /// Drops what was put aside.
    fn drop_aside(
        &self,
        path: &Path,
        reason: DropReason,
        dropped: &mut Vec<Dropped>,
    ) -> Result<bool, SegmentError> {
        match self.disk.remove(path) {
            Ok(()) => {
                dropped.push(Dropped { place: None, spans: 0, reason, is_unreadable: true });
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => {
                Err(SegmentError::io("cannot remove what was put aside", &error).in_file(path))
            }
        }
    }

    /// Drops a segment that nobody holds; returns whether it is gone.
    fn drop_other(
        &self,
        name: &SegmentName,
        reason: DropReason,
        dropped: &mut Vec<Dropped>,
    ) -> Result<bool, SegmentError> {
        // What cannot be taken over is told when it is to be adopted.
        let Ok(Some(Taken { mut held, .. })) = self.take(name) else { return Ok(false) };
        let spans = held.losses(0, reason).iter().map(|loss| loss.spans).sum();
        let is_unreadable = held.is_damaged();
        held.remove(self.disk.as_ref(), true)?;
        if spans > 0 || is_unreadable {
            dropped.push(Dropped { place: None, spans, reason, is_unreadable });
        }
        Ok(true)
    }

    /// Batches in the segments that are held and were begun here, or in those that were adopted.
    fn batches(&self, own: bool) -> usize {
        let held = self.held.values().filter(|held| held.appended.is_some() == own);
        held.map(Held::batches).sum()
    }

    fn held_bytes(&self) -> u64 {
        self.held.values().map(Held::bytes).sum()
    }

    fn wall_unix_nano(&self) -> u64 {
        let since = (self.options.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        _ = self.finish();
    }
}

/// The spool's files in a directory.
#[derive(Default)]
struct Directory {
    /// By the closed name, the oldest first.
    segments: BTreeMap<SegmentName, Found>,
    /// Segments that were put aside.
    asides: Vec<Candidate>,
}

/// A segment and its sidecar, of which one may be missing.
#[derive(Default)]
struct Found {
    segment_bytes: Option<u64>,
    sidecar_bytes: u64,
}

impl Found {
    fn bytes(&self) -> u64 {
        self.segment_bytes.unwrap_or(0) + self.sidecar_bytes
    }
}

/// What may be dropped.
struct Candidate {
    name: SegmentName,
    bytes: u64,
    what: What,
}

enum What {
    Held(u64),
    Other,
    Aside(PathBuf),
}

impl Directory {
    fn list(disk: &dyn Disk, path: &Path) -> Result<Self, SegmentError> {
        let mut directory = Directory::default();
        let files = match disk.files(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(directory),
            other => other
                .map_err(|error| SegmentError::io("cannot list the spool", &error).in_file(path))?,
        };
        for (file, bytes) in files {
            if let Some(name) = file.strip_suffix(ASIDE_SUFFIX).and_then(SegmentName::parse) {
                let (name, what) = (name.to_closed(), What::Aside(path.join(&file)));
                directory.asides.push(Candidate { name, bytes, what });
            } else if let Some(name) =
                file.strip_suffix(SIDECAR_SUFFIX).and_then(SegmentName::parse)
            {
                if name.is_closed() {
                    directory.segments.entry(name).or_default().sidecar_bytes = bytes;
                }
            } else if let Some(name) = SegmentName::parse(&file) {
                let found = directory.segments.entry(name.to_closed()).or_default();
                found.segment_bytes = Some(found.segment_bytes.unwrap_or(0) + bytes);
            }
        }
        Ok(directory)
    }
}

/// Whether `age` has passed since `since`; never, if the clock cannot say so long a time.
fn is_past(since: Instant, age: Duration, now: Instant) -> bool {
    since.checked_add(age).is_some_and(|due| due <= now)
}

#[cfg(test)]
mod tests;
