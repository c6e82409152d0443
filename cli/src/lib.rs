//! The parts of the `spanring` command.
#![forbid(unsafe_code)]

pub mod commands;
pub mod demo;
pub mod error;
pub mod forest;
pub mod histogram;
pub mod input;
pub mod otlp_json;
pub mod overhead;
pub mod progress;
pub mod render;
pub mod replay;
pub mod run_report;
pub mod source;
pub mod stats;
pub mod verify;
