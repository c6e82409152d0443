//! What the unit tests of segments and of the file sink share.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use zstd::zstd_safe::CParameter;

use super::disk::{Disk, DiskFile, FileStatus, OsDisk, PartRemoval};
use super::name::SegmentPath;
use crate::sink::{InstanceId, SealedBatch};

/// A zstd frame as the encoder makes it: with a checksum.
pub(crate) fn frame(content: &[u8]) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    compressor.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
    compressor.compress(content).unwrap()
}

/// What batch `sequence` holds.
pub(crate) fn content(sequence: u64) -> Vec<u8> {
    format!("batch {sequence} of spans {}", "and spans ".repeat((sequence % 5) as usize))
        .into_bytes()
}

pub(crate) fn batch(instance: InstanceId, sequence: u64) -> SealedBatch {
    SealedBatch {
        instance,
        sequence,
        spans: 50 + sequence as u32,
        start_unix_nano: 1_661_137_262_000_000_000 + sequence * 5_000_000_000,
        end_unix_nano: 1_661_137_266_000_000_000 + sequence * 5_000_000_000,
        frame: Bytes::from(frame(&content(sequence))),
    }
}

/// A disk whose calls can be made to fail: all of them count, in order.
#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    faults: Arc<Mutex<Faults>>,
}

/// Which calls fail, and how.
#[derive(Debug)]
struct Faults {
    calls: u64,
    failing: Range<u64>,
    error: io::ErrorKind,
    /// What a failing write leaves in the file.
    write: FailingWrite,
    /// What failed, for messages.
    failed: Vec<&'static str>,
}

/// What a failing write leaves in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailingWrite {
    /// Nothing.
    Nothing,
    /// The first half, as on a full disk.
    Half,
    /// Everything, as when only the answer is lost.
    All,
}

impl FaultyDisk {
    /// Lets the calls of this range fail, counted from 0.
    pub(crate) fn new(failing: Range<u64>, error: io::ErrorKind, write: FailingWrite) -> Self {
        let faults = Faults { calls: 0, failing, error, write, failed: Vec::new() };
        FaultyDisk { faults: Arc::new(Mutex::new(faults)) }
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.faults.lock().unwrap().calls
    }

    /// Names of the calls that failed so far.
    pub(crate) fn failed(&self) -> Vec<&'static str> {
        self.faults.lock().unwrap().failed.clone()
    }

    /// Lets every call from now on fail, or none.
    pub(crate) fn set_failing(&self, failing: bool) {
        let mut faults = self.faults.lock().unwrap();
        faults.failing = if failing { 0..u64::MAX } else { 0..0 };
    }

    /// Lets every call from that one on fail.
    pub(crate) fn set_failing_from(&self, first: u64) {
        self.faults.lock().unwrap().failing = first..u64::MAX;
    }

    fn call(&self, what: &'static str) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        let call = faults.calls;
        faults.calls += 1;
        if faults.failing.contains(&call) {
            faults.failed.push(what);
            return Err(faults.error.into());
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        self.call("create_directory")?;
        OsDisk.create_directory(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.call("create")?;
        Ok(Box::new(FaultyFile { disk: self.clone(), file: OsDisk.create(path)? }))
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        self.call("status")?;
        OsDisk.status(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename")?;
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call("remove")?;
        OsDisk.remove(path)
    }

    fn remove_if_dead(&self, path: &Path) -> io::Result<PartRemoval> {
        self.call("remove_if_dead")?;
        OsDisk.remove_if_dead(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        // As for a file's.
        self.call("sync_directory")?;
        directory.metadata().map(|_| ())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<SegmentPath>> {
        self.call("list")?;
        OsDisk.list(directory)
    }

    fn files(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        self.call("files")?;
        OsDisk.files(directory)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.call("open")?;
        OsDisk.open(path)
    }

    fn open_sidecar(&self, path: &Path, new: bool) -> io::Result<Box<dyn DiskFile>> {
        self.call("open_sidecar")?;
        let file = OsDisk.open_sidecar(path, new)?;
        Ok(Box::new(FaultyFile { disk: self.clone(), file }))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    file: Box<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.call("read_at")?;
        self.file.read_at(out, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let result = self.disk.call("write_at");
        let write = self.disk.faults.lock().unwrap().write;
        let reached = match (&result, write) {
            // Never all at once, so that going on after a short write is tested throughout.
            (Ok(()), _) => &bytes[..bytes.len().div_ceil(2)],
            (Err(_), FailingWrite::Nothing) => &bytes[..0],
            (Err(_), FailingWrite::Half) => &bytes[..bytes.len() / 2],
            (Err(_), FailingWrite::All) => bytes,
        };
        if !reached.is_empty() {
            assert_eq!(self.file.write_at(reached, offset)?, reached.len());
        }
        result.map(|()| reached.len())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.call("truncate")?;
        self.file.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        // Nothing is gained by really waiting for the disk.
        self.disk.call("sync")
    }

    fn lock(&mut self) -> io::Result<()> {
        self.disk.call("lock")?;
        self.file.lock()
    }

    fn own(&mut self) -> io::Result<()> {
        self.disk.call("own")?;
        self.file.own()
    }

    fn status(&self) -> io::Result<FileStatus> {
        self.disk.call("file status")?;
        self.file.status()
    }
}
