//! The C ABI of spanring: `include/spanring.h`, which is generated from these files, says all there is to say to its users.
//!
//! What every function here does: it checks its pointers, sizes, tags and texts, lets no panic out, answers a code, and leaves
//! a sentence for [`spanring_last_error`](error::spanring_last_error) if that is not [`SPANRING_OK`](error::SPANRING_OK).
//! Outputs are written on success only.
//!
//! `error`: codes and the last error; `pipeline`: start to shutdown, forks; `span`, `context`, `record`: what instrumented
//! code calls; `packed`: attributes in one piece of memory; `stats`; `subscription`: finished
//! spans for the host.
#![allow(non_camel_case_types, reason = "names of the C ABI")]

pub mod context;
pub mod error;
pub mod packed;
pub mod pipeline;
pub mod record;
pub mod span;
pub mod stats;
pub mod subscription;

#[cfg(test)]
mod header;
