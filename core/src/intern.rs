//! Interned strings: names, keys and static strings become a number once per call site.
//!
//! One table for the process, append-only and bounded: dynamic strings stop being taken at
//! [`DYNAMIC_MAX`] entries (afterwards they travel inline), call sites at [`STATIC_MAX`]. A number,
//! once given, stays valid until the process ends, after a fork too.
//!
//! What this file never does: take a lock on the hot path. A call site loads its number from its own
//! atomic; a dynamic string is looked up in a small table of its thread first.

use std::cell::RefCell;
use std::num::NonZeroU32;
#[cfg(spanring_loom)]
use std::sync::PoisonError;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use rustc_hash::FxHashMap;

/// Longest dynamic string that is interned, in bytes.
pub(crate) const STRING_BYTES_MAX: usize = 256;
/// Entries beyond which dynamic strings travel inline.
pub(crate) const DYNAMIC_MAX: u32 = 16_384;
/// Entries beyond which call sites' strings travel inline too.
pub(crate) const STATIC_MAX: u32 = 1 << 20;
/// Longest name, status message or tracestate, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;

const CHUNK: usize = 1024;
const CHUNKS: usize = STATIC_MAX as usize / CHUNK;

/// The key whose value `critical` makes a [critical](crate::Span::set_critical) span.
pub(crate) const PRIORITY: &str = "priority";

/// The number of an interned string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interned(NonZeroU32);

impl Interned {
    /// The number of [`PRIORITY`]: it is the first in the table, so that whoever sets an attribute tells it by one compare.
    #[doc(hidden)]
    pub const __PRIORITY: Interned = Interned(NonZeroU32::MIN);

    /// Interns `text`, so that it costs four bytes in every span that uses it.
    ///
    /// `None` if it is longer than 256 bytes or the table is full; such a string
    /// travels inline. The copy is kept until the process ends.
    pub fn new(text: &str) -> Option<Self> {
        lookup(text)
    }

    /// The string.
    pub fn as_str(self) -> &'static str {
        let index = self.0.get() as usize - 1;
        let chunk = TABLE.chunks[index / CHUNK].load(Ordering::Acquire);
        assert!(!chunk.is_null(), "numbers are made here only, after their chunk");
        // SAFETY: a chunk is a leaked array of CHUNK entries; the Acquire load pairs with the Release
        // store in `insert`, so it is initialised.
        let entry = unsafe { &*chunk }[index % CHUNK].load(Ordering::Acquire);
        // Whoever got the number from us got it after the Release store of its entry: from `insert`
        // itself, from a call site's atomic (Acquire), or from a record that was published later still.
        // A `Header` that somebody wrote may have any number.
        // SAFETY: null, or a leaked entry, initialised before the Release store that the load pairs with.
        unsafe { entry.as_ref() }.expect("numbers are made here only, after their entry")
    }

    /// The string of a [number](Self::get); `None` if no string has it.
    #[inline]
    pub fn from_number(number: u32) -> Option<Self> {
        // Acquire, as in `StaticStr::interned`.
        let is_there = number <= TABLE.count.load(Ordering::Acquire);
        NonZeroU32::new(number).filter(|_| is_there).map(Interned)
    }

    /// The number, from 1: small, dense, and stable until the process ends.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        NonZeroU32::new(raw).map(Interned)
    }
}

type Entry = &'static str;

struct Table {
    chunks: [AtomicPtr<[AtomicPtr<Entry>; CHUNK]>; CHUNKS],
    /// The last number whose entry is there, as are all before it. Written with the lock.
    count: AtomicU32,
    map: Mutex<Map>,
}

static TABLE: Table = Table {
    chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS],
    count: AtomicU32::new(0),
    map: Mutex::new(None),
};

type Map = Option<FxHashMap<&'static str, Interned>>;

/// The table's lock. In a fork child it may be held by a thread that no longer exists: there, strings
/// travel inline rather than wait for long.
fn lock_map() -> Option<MutexGuard<'static, Map>> {
    #[cfg(not(spanring_loom))]
    return crate::fork::lock(&TABLE.map);
    #[cfg(spanring_loom)]
    Some(TABLE.map.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Adds `text` unless it is there; `len_max` bounds the table.
fn insert(text: &str, len_max: u32, keep: impl FnOnce(&str) -> &'static str) -> Option<Interned> {
    let mut map = lock_map()?;
    let map = map.get_or_insert_with(|| {
        let mut map = FxHashMap::default();
        let first = add(&mut map, PRIORITY);
        debug_assert_eq!(first, Interned::__PRIORITY);
        map
    });
    if let Some(interned) = map.get(text) {
        return Some(*interned);
    }
    (map.len() < len_max as usize).then(|| add(map, keep(text)))
}

/// Gives `text` the next number.
fn add(map: &mut FxHashMap<&'static str, Interned>, text: &'static str) -> Interned {
    let index = map.len();
    let chunk = &TABLE.chunks[index / CHUNK];
    if chunk.load(Ordering::Relaxed).is_null() {
        let entries = [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNK];
        chunk.store(Box::into_raw(Box::new(entries)), Ordering::Release);
    }
    let interned = Interned(NonZeroU32::new(index as u32 + 1).expect("not zero"));
    // SAFETY: the chunk was stored above or by an earlier holder of the lock, and is never freed.
    let entry = unsafe { &(*chunk.load(Ordering::Relaxed))[index % CHUNK] };
    entry.store(Box::into_raw(Box::new(text)), Ordering::Release);
    TABLE.count.store(interned.get(), Ordering::Release);
    map.insert(text, interned);
    interned
}

/// A string literal at a call site, interned at first use.
#[doc(hidden)]
#[derive(Debug)]
pub struct StaticStr {
    text: &'static str,
    interned: AtomicU32,
}

impl StaticStr {
    #[doc(hidden)]
    pub const fn new(text: &'static str) -> Self {
        StaticStr { text, interned: AtomicU32::new(0) }
    }

    /// The number, or `None` where the table is full.
    ///
    /// Acquire, because whoever reads the number may pass it on, in a record, to a thread that looks
    /// the string up: that thread must find the entry, which `insert` stored before the Release store of
    /// the number.
    #[doc(hidden)]
    #[inline(always)]
    pub fn interned(&self) -> Option<Interned> {
        match Interned::from_raw(self.interned.load(Ordering::Acquire)) {
            Some(interned) => Some(interned),
            None => self.intern(),
        }
    }

    /// The number if it is known already, else zero.
    #[inline(always)]
    pub(crate) fn known(&self) -> u32 {
        self.interned.load(Ordering::Acquire)
    }

    #[doc(hidden)]
    #[inline(always)]
    pub fn text(&self) -> &'static str {
        self.text
    }

    #[cold]
    #[inline(never)]
    fn intern(&self) -> Option<Interned> {
        let interned = insert(self.text, STATIC_MAX, |_| self.text)?;
        self.interned.store(interned.get(), Ordering::Release);
        Some(interned)
    }
}

const CACHE_LEN: usize = 64;

#[derive(Clone, Copy)]
struct Cached {
    text: &'static str,
    interned: Option<Interned>,
}

thread_local! {
    static CACHE: RefCell<Option<Box<[Cached; CACHE_LEN]>>> = const { RefCell::new(None) };
}

/// The number of a dynamic string, interning it if there is room.
pub(crate) fn lookup(text: &str) -> Option<Interned> {
    if text.len() > STRING_BYTES_MAX {
        return None;
    }
    let slot = hash(text) as usize % CACHE_LEN;
    let cached = CACHE.try_with(|cache| {
        let cache = cache.try_borrow().ok()?;
        let cached = cache.as_ref()?[slot];
        (cached.text == text).then_some(cached.interned).flatten()
    });
    if let Ok(Some(interned)) = cached {
        return Some(interned);
    }
    lookup_cold(text, slot)
}

#[cold]
fn lookup_cold(text: &str, slot: usize) -> Option<Interned> {
    let interned = insert(text, DYNAMIC_MAX, |text| Box::leak(text.into()))?;
    let _ = CACHE.try_with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            let cache = cache
                .get_or_insert_with(|| Box::new([Cached { text: "", interned: None }; CACHE_LEN]));
            cache[slot] = Cached { text: interned.as_str(), interned: Some(interned) };
        }
    });
    Some(interned)
}

fn hash(text: &str) -> u64 {
    use std::hash::Hasher;
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_gets_one_number_whatever_the_way_in() {
        static SITE: StaticStr = StaticStr::new("intern.test.one");
        let dynamic = Interned::new(&String::from("intern.test.one")).unwrap();
        assert_eq!(SITE.interned(), Some(dynamic));
        assert_eq!(Interned::new("intern.test.one"), Some(dynamic));
        assert_eq!(dynamic.as_str(), "intern.test.one");
    }

    #[test]
    fn strings_that_share_a_cache_slot_do_not_mix() {
        let texts: Vec<String> = (0..500).map(|i| format!("intern.test.slot.{i}")).collect();
        let first: Vec<_> = texts.iter().map(|text| Interned::new(text).unwrap()).collect();
        for (text, interned) in texts.iter().zip(&first) {
            assert_eq!(Interned::new(text), Some(*interned));
            assert_eq!(interned.as_str(), text);
        }
    }

    #[test]
    fn the_key_of_priorities_has_its_number_whoever_comes_first() {
        Interned::new("intern.test.before").unwrap();
        assert_eq!(Interned::new(PRIORITY), Some(Interned::__PRIORITY));
        assert_eq!(Interned::__PRIORITY.as_str(), PRIORITY);
    }

    #[test]
    fn a_long_string_is_not_taken() {
        assert_eq!(Interned::new(&"x".repeat(STRING_BYTES_MAX + 1)), None);
    }

    #[test]
    fn threads_agree_on_numbers() {
        let numbers: Vec<Vec<Interned>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..200)
                            .map(|i| Interned::new(&format!("intern.test.thread.{i}")).unwrap())
                            .collect()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(numbers.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
