//! The memory profile: by how much the process's memory grew while a span was open, for spans whose names match a pattern.
//!
//! While there is one, all spans take the long way to their start, which looks at the name; those that match get the memory at their start
//! as an attribute, and what it grew by instead at their end. Two reads of the system's count for each, on the span's own threads: other
//! threads' memory is in it.

use crate::Key;
use crate::pattern::Pattern;
use crate::record::Payload;

/// The attribute: bytes, negative if the process gave memory back.
pub const MEMORY_GROWTH: &str = "process.memory.growth";

/// Which spans are profiled.
#[derive(Debug)]
pub(crate) struct Profile {
    patterns: Vec<Pattern>,
}

impl Profile {
    /// `None` if there is no pattern in the list.
    pub(crate) fn new(list: &str) -> Option<Self> {
        let patterns: Vec<_> = Pattern::list(list).collect();
        (!patterns.is_empty()).then_some(Profile { patterns })
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

/// Remembers the memory now; false if it cannot be had.
#[cold]
pub(crate) fn begin(payload: &mut Payload) -> bool {
    let Some(memory) = crate::platform::resident_bytes() else { return false };
    payload.attribute_set(Key::Str(MEMORY_GROWTH), memory);
    payload.mark_special();
    true
}

/// Sets what it grew by since then.
#[cold]
pub(crate) fn end(payload: &mut Payload) {
    if let Some(before) = payload.attribute_int(Key::Str(MEMORY_GROWTH))
        && let Some(now) = crate::platform::resident_bytes()
    {
        // The program may have set it meanwhile.
        payload.attribute_set(Key::Str(MEMORY_GROWTH), now.saturating_sub(before));
    }
}
