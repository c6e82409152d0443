//! `spanring verify`: checks segments.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::{Outcome, Problems};
use crate::progress::Progress;
use crate::verify::{Options, Problem, Summary, verify};

/// How many problems the JSON form lists; it counts all.
const LISTED_MAX: usize = 10_000;

/// Checks segments: checksums, structure, conservation across batches, and whether they were closed.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Segments, or directories of segments
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Take missing first batches for deleted by RETENTION_BYTES, not for a problem
    #[arg(long)]
    pub allow_deleted: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `spanring verify --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    #[serde(flatten)]
    summary: Summary,
    problems_total: u64,
    problems: Vec<Problem>,
}

/// Runs the command. Problems go to standard error one a line, or into the JSON.
///
/// # Errors
///
/// What `out` answers.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    let mut listed = Vec::new();
    let mut total = 0u64;
    // Both closures below use it.
    let progress = std::cell::RefCell::new(Progress::new(true));
    let mut report = |problem: Problem| {
        total += 1;
        match args.json {
            true if listed.len() < LISTED_MAX => listed.push(problem),
            true => {}
            false => progress.borrow().suspend(|| problems.report(&problem)),
        }
    };
    let mut current = PathBuf::new();
    let mut on_progress = |path: &std::path::Path, bytes: u64, bytes_total: u64| {
        if path != current {
            current = path.to_owned();
            progress.borrow_mut().begin(&path.display().to_string(), Some(bytes_total));
        }
        progress.borrow_mut().advance_to(bytes);
    };
    let options = Options { allow_deleted: args.allow_deleted };
    let summary = verify(&args.paths, options, &mut report, &mut on_progress);
    progress.borrow_mut().end();
    if args.json {
        let report = Report { ok: total == 0, summary, problems_total: total, problems: listed };
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write_text(&summary, total, out)?;
    }
    Ok(if total == 0 { Outcome::Fine } else { Outcome::Problem })
}

fn write_text(summary: &Summary, problems: u64, out: &mut impl Write) -> io::Result<()> {
    let Summary { segments, bytes, batches, spans, instances } = summary;
    match problems {
        0 => write!(out, "fine: ")?,
        1 => write!(out, "1 problem: ")?,
        _ => write!(out, "{problems} problems: ")?,
    }
    writeln!(out, "{segments} segments, {batches} batches, {spans} spans, {bytes} bytes")?;
    for instance in instances {
        write!(out, "instance {}: ", instance.instance)?;
        match (instance.first_sequence, instance.last_sequence) {
            (Some(first), Some(last)) => write!(out, "batches {first} to {last}, ")?,
            _ => write!(out, "no batches, ")?,
        }
        write!(out, "{} spans here; ", instance.spans)?;
        write!(out, "created {} = sealed {}", instance.created, instance.sealed)?;
        for (reason, count) in instance.dropped.iter().filter(|(_, count)| **count > 0) {
            write!(out, " + dropped {count} ({})", spanring_exporter::render::printable(reason))?;
        }
        let ended = if instance.is_closed { "closed" } else { "+ unknown; not closed" };
        writeln!(out, "; {ended}")?;
    }
    Ok(())
}
