//! Finds strings that a column has had before in the batch: a bounded hash table that gives up rather
//! than search long. A string that it misses is merely written again.
//!
//! It is emptied by a mark, not by a pass over its slots: a slot counts while it bears the mark of the
//! current batch.

/// What [`Dedup::find`] found.
pub(super) enum Found {
    /// The entry of the same string.
    Entry(u32),
    /// Nothing; where to put it, unless the search was given up.
    Vacant(Option<usize>),
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u64,
    batch: u32,
    entry: u32,
}

/// Which strings the columns of the current batch have had.
#[derive(Debug)]
pub(super) struct Dedup {
    slots: Vec<Slot>,
    batch: u32,
    len: usize,
}

impl Dedup {
    /// Marks the hashes that identify an interned string exactly.
    pub(super) const INTERNED: u64 = 1 << 63;
    const SLOTS_MIN: usize = 1 << 10;
    const SLOTS_MAX: usize = 1 << 17;
    const PROBES_MAX: usize = 16;
    /// Strings up to this length are hashed whole, longer ones at both ends.
    const HASHED_BYTES_MAX: usize = 256;

    pub(super) fn new() -> Self {
        Dedup { slots: vec![Slot::default(); Self::SLOTS_MIN], batch: 0, len: 0 }
    }

    pub(super) fn begin(&mut self, batch: u32) {
        if self.slots.len() > Self::SLOTS_MIN && self.len < self.slots.len() / 16 {
            self.slots = vec![Slot::default(); Self::SLOTS_MIN];
        }
        if batch < self.batch {
            self.slots.fill(Slot::default());
        }
        self.batch = batch;
        self.len = 0;
    }

    #[inline]
    pub(super) fn hash(value: &[u8], column: usize) -> u64 {
        use std::hash::Hasher;
        let mut hasher = rustc_hash::FxHasher::default();
        if value.len() <= Self::HASHED_BYTES_MAX {
            hasher.write(value);
        } else {
            let half = Self::HASHED_BYTES_MAX / 2;
            hasher.write(&value[..half]);
            hasher.write(&value[value.len() - half..]);
        }
        hasher.write_usize(column);
        hasher.write_usize(value.len());
        hasher.finish() & !Self::INTERNED
    }

    #[inline]
    fn position(&self, hash: u64) -> usize {
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - self.slots.len().ilog2())) as usize
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Found {
        let mask = self.slots.len() - 1;
        let first = self.position(hash);
        for probe in 0..Self::PROBES_MAX {
            let at = (first + probe) & mask;
            let slot = &self.slots[at];
            if slot.batch != self.batch {
                return Found::Vacant(Some(at));
            }
            if slot.hash == hash && same(slot.entry) {
                return Found::Entry(slot.entry);
            }
        }
        Found::Vacant(None)
    }

    #[inline]
    pub(super) fn insert(&mut self, at: usize, hash: u64, entry: u32) {
        self.slots[at] = Slot { hash, batch: self.batch, entry };
        self.len += 1;
        if self.len * 2 > self.slots.len() && self.slots.len() < Self::SLOTS_MAX {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let slots = vec![Slot::default(); self.slots.len() * 4];
        let old = std::mem::replace(&mut self.slots, slots);
        for slot in old.iter().filter(|slot| slot.batch == self.batch) {
            if let Found::Vacant(Some(at)) = self.find(slot.hash, |_| false) {
                self.slots[at] = *slot;
            }
        }
    }
}
