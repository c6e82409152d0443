//! Performs recorded spans again through the public span API, on several threads.
//!
//! Spans get new IDs and keep everything else: recorded times, names, kinds, attributes, events, links,
//! statuses, who is whose parent, which scope and resource they belong to. A [`Schedule`] says in which
//! order a thread starts and ends its spans; a [`Pacer`] holds it up where the engine would have to drop.
//!
//! Not performed are, because the API has no means to: counts of what was dropped before, a status
//! message without an error, a second root of a trace (it becomes a trace of its own), and an end that
//! lies before its start. Trace flags are not performed on purpose: whatever was recorded is recorded
//! again.

mod pacer;
mod perform;
mod recording;
mod schedule;

pub use pacer::Pacer;
pub use perform::{Clock, Performer};
pub use recording::Recording;
pub use schedule::{Action, Parent, Part, Planned, Schedule};
