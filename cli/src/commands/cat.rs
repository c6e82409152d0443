//! `spanring cat`: prints spans.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::ValueEnum;

use super::{Outcome, Problems, read_batches};
use crate::otlp_json::write_line;
use crate::progress::Progress;
use crate::render::write_span;

/// Prints the spans of segments or of OTLP/JSON files.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directories of segments, segments, or files of OTLP/JSON lines, plain, zstd or gzip; `-` is
    /// lines from standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How spans are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A block of text a span
    Text,
    /// A line of OTLP/JSON a batch, as the OpenTelemetry Collector's file exporter writes it
    OtlpJson,
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers. Problems with the input are reported instead.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    // On a terminal the spans themselves show how it goes on.
    let mut progress = Progress::new(!io::stdout().is_terminal());
    read_batches(&args.paths, &mut progress, &mut problems, |_, batch| match args.format {
        Format::Text => batch.spans.iter().try_for_each(|span| write_span(&batch, span, out)),
        Format::OtlpJson => write_line(&batch, out),
    })?;
    Ok(problems.outcome())
}
