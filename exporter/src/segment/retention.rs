//! Keeps a directory's segments under a cap by deleting the oldest.
//!
//! Segments of every instance count: those of earlier runs and of other processes too. The oldest goes
//! first, closed or left behind by a dead process. It never deletes a segment that is being written,
//! never a file without a segment's name, and never follows a symbolic link.

use std::io;
use std::path::Path;

use super::SegmentError;
use super::disk::{Disk, PartRemoval};

/// Deletes the oldest segments of `directory` until the others and `room_bytes` more fit in
/// `retention_bytes`, or until only segments are left that are being written; returns how many bytes
/// were deleted. A directory that is missing holds nothing.
///
/// # Errors
///
/// If the directory cannot be listed, or a segment cannot be deleted and the rest does not suffice.
pub(crate) fn make_room(
    disk: &dyn Disk,
    directory: &Path,
    retention_bytes: u64,
    room_bytes: u64,
) -> Result<u64, SegmentError> {
    let segments = match disk.list(directory) {
        Ok(segments) => segments,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => {
            return Err(SegmentError::io("cannot list the directory", &error).in_file(directory));
        }
    };
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut excess = total.saturating_add(room_bytes).saturating_sub(retention_bytes);
    let mut deleted = 0;
    let mut failed = None;
    for segment in &segments {
        if excess == 0 {
            return Ok(deleted);
        }
        let removal = if segment.name.is_closed() {
            match disk.remove(&segment.path) {
                // Another process has the same cap to keep.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(PartRemoval::Removed),
            }
        } else {
            disk.remove_if_dead(&segment.path)
        };
        match removal {
            Ok(PartRemoval::Removed) => {
                deleted += segment.bytes;
                excess = excess.saturating_sub(segment.bytes);
            }
            Ok(PartRemoval::Kept) => {}
            Err(error) => {
                failed.get_or_insert_with(|| {
                    let doing = "cannot delete the segment to stay under RETENTION_BYTES";
                    SegmentError::io(doing, &error).in_file(&segment.path)
                });
            }
        }
    }
    match failed {
        Some(error) if excess > 0 => Err(error),
        _ => Ok(deleted),
    }
}
