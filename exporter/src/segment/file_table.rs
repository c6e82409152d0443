//! Files that this process has open, known without opening them.
//!
//! POSIX record locks never conflict within a process, and closing any descriptor of a file drops the
//! process's lock on it. So whoever wants to look at a file that may be locked asks here first. An
//! entry is the pid above a hash of device and inode; entries of another pid are a parent's from
//! before a fork, and free. Two files with one hash are harmless: one more counts as open.
//!
//! The table is of atomics, not under a mutex: a child forked while another thread held one would hang.
//!
//! # Orderings
//!
//! The Acquire loads in `holds` pair with the AcqRel exchange in `register`: who sees a file that
//! another thread made and registered sees its entry. Nothing keeps two threads from registering one
//! file: who minds lets one thread at a time look and register.

use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

/// A table of at most `N` files.
pub(crate) struct FileTable<const N: usize>([AtomicU64; N]);

/// A file's place in a table, given back when dropped.
#[derive(Debug)]
pub(crate) struct FileEntry {
    slot: &'static AtomicU64,
    value: u64,
}

impl<const N: usize> FileTable<N> {
    pub(crate) const fn new() -> Self {
        FileTable([const { AtomicU64::new(0) }; N])
    }

    /// Enters a file, given by device and inode; `None` if the table is full.
    pub(crate) fn register(&'static self, id: (u64, u64)) -> Option<FileEntry> {
        let value = entry(id);
        self.0.iter().find_map(|slot| {
            let found = slot.load(Acquire);
            let free = found == 0 || found >> 32 != value >> 32;
            let taken = free && slot.compare_exchange(found, value, AcqRel, Acquire).is_ok();
            taken.then_some(FileEntry { slot, value })
        })
    }

    /// Whether the file is entered.
    pub(crate) fn holds(&self, id: (u64, u64)) -> bool {
        let value = entry(id);
        self.0.iter().any(|slot| slot.load(Acquire) == value)
    }
}

impl Drop for FileEntry {
    fn drop(&mut self) {
        // After a fork the place may be another file's: then it stays.
        _ = self.slot.compare_exchange(self.value, 0, AcqRel, Acquire);
    }
}

fn entry((device, inode): (u64, u64)) -> u64 {
    let mixed = (inode ^ device.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // A pid is never zero, so an entry is not either.
    u64::from(std::process::id()) << 32 | mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_takes_no_more_until_a_place_is_given_back() {
        static TABLE: FileTable<2> = FileTable::new();
        let first = TABLE.register((0, 1));
        let second = TABLE.register((0, 2));
        assert!(first.is_some() && second.is_some() && TABLE.register((0, 3)).is_none());
        assert!(TABLE.holds((0, 1)) && !TABLE.holds((0, 3)));
        drop(first);
        assert!(TABLE.register((0, 3)).is_some());
    }
}
