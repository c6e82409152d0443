//! What the pipeline has to say, on standard error: one line a message, at or above `LOG_LEVEL`.
//!
//! A change of state is logged once, not each time that it is met, so a failing sink cannot flood a
//! log. Nothing is written in the hot path.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use spanring::settings::LogLevel;

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Warn as u8);

/// Sets the level for the process.
pub(crate) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Writes one line if `level` is at least as severe as what is set. A line that cannot be written is
/// lost: there is nowhere to say so.
pub(crate) fn write(level: LogLevel, message: std::fmt::Arguments<'_>) {
    if level as u8 <= LEVEL.load(Ordering::Relaxed) {
        write_asked(level, message);
    }
}

/// As [`write`], for what somebody asked for by itself: it is written whatever level is set.
pub(crate) fn write_asked(level: LogLevel, message: std::fmt::Arguments<'_>) {
    let message = message.to_string();
    let line = format!("spanring: {}: {message}\n", level.name());
    // Not through the standard library's lock, which a lost thread may hold in a fork child.
    let _ =
        crate::thread::undisturbed(|| rustix::io::write(rustix::stdio::stderr(), line.as_bytes()));
    if let Some(mut recent) = recent() {
        if recent.messages.len() == RECENT_MAX {
            recent.messages.pop_front();
        }
        recent.messages.push_back((level, message));
    }
}

macro_rules! warning {
    ($($argument:tt)*) => {
        $crate::log::write(spanring::settings::LogLevel::Warn, format_args!($($argument)*))
    };
}

macro_rules! error {
    ($($argument:tt)*) => {
        $crate::log::write(spanring::settings::LogLevel::Error, format_args!($($argument)*))
    };
}

macro_rules! info {
    ($($argument:tt)*) => {
        $crate::log::write(spanring::settings::LogLevel::Info, format_args!($($argument)*))
    };
}

pub(crate) use {error, info, warning};

/// Says something for the C library, as a warning.
#[doc(hidden)]
pub fn report(message: &std::fmt::Arguments<'_>) {
    write(LogLevel::Warn, *message);
}

/// Messages that nobody has taken; the oldest go first. A fork child's are not its parent's.
struct Recent {
    generation: u32,
    messages: VecDeque<(LogLevel, String)>,
}

static RECENT: Mutex<Recent> = Mutex::new(Recent { generation: 0, messages: VecDeque::new() });
const RECENT_MAX: usize = 64;
/// How often the lock is tried, which others hold for an instant; in a fork child a lost thread may hold it for good.
const LOCK_TRIES: u32 = 1000;

fn recent() -> Option<MutexGuard<'static, Recent>> {
    let generation = spanring::export::fork_generation();
    let mut recent = (0..LOCK_TRIES).find_map(|_| match RECENT.try_lock() {
        Ok(recent) => Some(recent),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            std::hint::spin_loop();
            None
        }
    })?;
    if recent.generation != generation {
        *recent = Recent { generation, messages: VecDeque::new() };
    }
    Some(recent)
}

/// The oldest message that was written and not yet taken, for hosts that have a log of their own. The last 64 are kept.
pub fn next_message() -> Option<(LogLevel, String)> {
    recent()?.messages.pop_front()
}
