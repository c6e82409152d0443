//! `spanring stats`: counts spans.

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Outcome, Problems, read_batches};
use crate::progress::Progress;
use crate::render::Waterfall;
use crate::stats::Stats;

/// Counts spans, traces and errors, and shows durations by span name.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directories of segments, segments, or files of OTLP/JSON lines, plain, zstd or gzip; `-` is
    /// lines from standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers. Problems with the input are reported instead; what could be read is counted.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    let mut stats = Stats::default();
    let mut progress = Progress::new(true);
    let bytes = read_batches(&args.paths, &mut progress, &mut problems, |_, batch| {
        stats.add(&batch);
        Ok(())
    })?;
    stats.add_bytes(bytes);
    let summary = stats.summary();
    if args.json {
        serde_json::to_writer(&mut *out, &summary)?;
        writeln!(out)?;
    } else {
        summary.write_text(Waterfall::for_stdout().width, out)?;
    }
    Ok(problems.outcome())
}
