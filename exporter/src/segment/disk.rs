//! What the segment writer, the file sink and retention ask of the operating system: one trait, so that
//! tests can make each call fail, and its real form.
//!
//! # Who is alive
//!
//! A writer holds a POSIX record lock on its `.part`; where a lock can be had, its process is dead.
//! Record locks belong to a process, which has three consequences:
//! - They never conflict within a process. So a table of this process's open segments comes first, and
//!   a file in it counts as alive without being opened.
//! - Closing *any* descriptor of a file drops the process's lock on it, for instance when a segment is
//!   read while it is written. So the writer takes its lock again before each write.
//! - A fork child does not inherit them, nor does it match the table's entries, which hold the pid.
//!
//! # Orderings
//!
//! The Acquire load of `UNLISTED` in `may_be_open` pairs with the addition in `register`, as the table's
//! do with each other (`file_table`). What slips between the look and the deletion is caught by the
//! writer, which looks at its file's name before each write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};

use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::io::Errno;

use super::file_table::{FileEntry, FileTable};
use super::name::{self, SegmentPath};

/// Calls on directories and names.
pub(crate) trait Disk: Send + Sync {
    /// Makes the directory and what is missing above it, for this user alone.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    /// Makes a new file for this user alone; it must not exist, not even as a symbolic link.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// What stands at a path now; a symbolic link is not followed.
    fn status(&self, path: &Path) -> io::Result<FileStatus>;
    /// Gives a file another name in the same directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a name; a symbolic link itself, never what it points to.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Deletes an unclosed segment unless its writer lives or may live.
    fn remove_if_dead(&self, path: &Path) -> io::Result<PartRemoval>;
    /// Makes the directory's names durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// The directory's segments, the oldest first.
    fn list(&self, directory: &Path) -> io::Result<Vec<SegmentPath>>;
    /// Names and lengths of the directory's regular files, in no order; names that are not UTF-8 are
    /// left out.
    fn files(&self, directory: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Opens a regular file for reading; a symbolic link is not followed.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Opens a regular file for reading and writing, or makes a new one for this user alone, which must
    /// not exist; a symbolic link is not followed. It is not entered anywhere as open.
    fn open_sidecar(&self, path: &Path, new: bool) -> io::Result<Box<dyn DiskFile>>;
}

/// Calls on a file that is being written.
pub(crate) trait DiskFile: Send {
    /// Reads some bytes from `offset` on; returns how many, zero at the end.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some of `bytes` at `offset`; returns how many.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts the file off.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Says to other processes that the writer lives; fails with `WouldBlock` while one looks.
    fn lock(&mut self) -> io::Result<()>;
    /// Takes the file for this process alone, as long as it has no descriptor of it closed; fails with
    /// `WouldBlock` while another process has it, and otherwise where there are no locks.
    fn own(&mut self) -> io::Result<()>;
    /// The file itself, wherever its name went.
    fn status(&self) -> io::Result<FileStatus>;
}

/// Which file something is, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStatus {
    /// Device and inode.
    pub(crate) id: (u64, u64),
    /// Length in bytes.
    pub(crate) len: u64,
}

/// What became of an unclosed segment that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartRemoval {
    /// Deleted, or gone already.
    Removed,
    /// Its writer lives, or nobody can tell.
    Kept,
}

/// The real one.
#[derive(Debug)]
pub(crate) struct OsDisk;

impl Disk for OsDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        let registered = OpenSegment::register((metadata.dev(), metadata.ino()));
        Ok(Box::new(OsFile { file, _registered: Some(registered) }))
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        fs::symlink_metadata(path).map(FileStatus::from)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_if_dead(&self, path: &Path) -> io::Result<PartRemoval> {
        let id = match self.status(path) {
            Ok(status) => status.id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(PartRemoval::Removed);
            }
            Err(error) => return Err(error),
        };
        if OpenSegment::may_be_open(id) {
            return Ok(PartRemoval::Kept);
        }
        let file = OpenOptions::new().read(true).custom_flags(no_follow()).open(path)?;
        if FileStatus::from(file.metadata()?).id != id
            || fcntl_lock(&file, FlockOperation::NonBlockingLockShared).is_err()
        {
            return Ok(PartRemoval::Kept);
        }
        // The lock is held until the name is gone: a writer that has not come to its own lock yet
        // fails to get it, or finds afterwards that its file has no name, and starts another.
        if OpenSegment::may_be_open(id) {
            return Ok(PartRemoval::Kept);
        }
        fs::remove_file(path)?;
        Ok(PartRemoval::Removed)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<SegmentPath>> {
        name::list(directory)
    }

    fn files(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => files.push((name, metadata.len())),
                Ok(_) => {}
                // Renamed or deleted by its owner since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        regular(OpenOptions::new().read(true).custom_flags(no_follow()).open(path)?)
    }

    fn open_sidecar(&self, path: &Path, new: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(new).mode(0o600).custom_flags(no_follow());
        Ok(Box::new(OsFile { file: regular(options.open(path)?)?, _registered: None }))
    }
}

/// Flags with which a symbolic link is an error and a named pipe does not block.
fn no_follow() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32
}

fn regular(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

struct OsFile {
    file: File,
    /// Dropped after the file is closed (fields drop in order), so that it is never alive without.
    _registered: Option<OpenSegment>,
}

impl DiskFile for OsFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(out, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn lock(&mut self) -> io::Result<()> {
        match fcntl_lock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::ACCESS) => Err(io::ErrorKind::WouldBlock.into()),
            // Anything else is a file system without locks, where nobody can look either.
            _ => Ok(()),
        }
    }

    fn own(&mut self) -> io::Result<()> {
        match fcntl_lock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::ACCESS) => Err(io::ErrorKind::WouldBlock.into()),
            other => other.map_err(io::Error::from),
        }
    }

    fn status(&self) -> io::Result<FileStatus> {
        self.file.metadata().map(FileStatus::from)
    }
}

impl From<fs::Metadata> for FileStatus {
    fn from(metadata: fs::Metadata) -> Self {
        FileStatus { id: (metadata.dev(), metadata.ino()), len: metadata.len() }
    }
}

/// Segments that this process has open.
static OPEN: FileTable<64> = FileTable::new();

/// Open segments that found the table full; while there is one, every `.part` counts as alive.
static UNLISTED: AtomicU32 = AtomicU32::new(0);

/// A place in the table, given back when dropped.
struct OpenSegment(Option<FileEntry>);

impl OpenSegment {
    fn register(id: (u64, u64)) -> Self {
        let entry = OPEN.register(id);
        if entry.is_none() {
            UNLISTED.fetch_add(1, AcqRel);
        }
        OpenSegment(entry)
    }

    fn may_be_open(id: (u64, u64)) -> bool {
        UNLISTED.load(Acquire) != 0 || OPEN.holds(id)
    }
}

impl Drop for OpenSegment {
    fn drop(&mut self) {
        if self.0.is_none() {
            UNLISTED.fetch_sub(1, AcqRel);
        }
    }
}
