//! `spanring overhead`: what tracing costs here.

use std::io::{self, Write};
use std::time::Duration;

use clap::value_parser;

use super::{Outcome, Problems};
use crate::overhead::{Costs, measure};

/// Measures what a span costs on this machine, in this build, and says what share of the processor that is.
///
/// Times are those of one span from start to end on the thread that makes it, above an empty loop, and of the flusher, which takes it
/// from the ring to a compressed batch. Other programs on the machine make them worse. The environment does not count. What
/// tracing costs a given piece of work, the function `overhead` of the libraries measures.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Attributes of a span
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u64).range(0..=128))]
    pub attributes: u64,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Spans a second for which the share is said
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    match measure(args.attributes as usize, Duration::from_secs(args.seconds)) {
        Ok(costs) if args.json => {
            let (threads, flusher) = costs.shares_at(args.rate as f64);
            let json = serde_json::json!({
                "ns": costs,
                "rate": args.rate,
                "share_of_a_core": { "threads": threads, "flusher": flusher },
            });
            writeln!(out, "{json}")?;
        }
        Ok(costs) => write_text(args, &costs, out)?,
        Err(error) => problems.report(&error),
    }
    Ok(problems.outcome())
}

fn write_text(args: &Args, costs: &Costs, out: &mut impl Write) -> io::Result<()> {
    let with = match costs.attributes {
        1 => "with 1 attribute".to_owned(),
        count => format!("with {count} attributes"),
    };
    writeln!(out, "A span, ns (median of {} bursts)     its thread   the flusher", costs.rounds)?;
    let rows = [
        ("bare", costs.bare, costs.flusher_bare),
        (&with, costs.with_attributes, costs.flusher_with_attributes),
        ("not sampled", costs.unsampled, Some(0.0)),
        ("without a pipeline", costs.disabled, Some(0.0)),
    ];
    for (name, thread, flusher) in rows {
        let flusher = flusher.map_or("unknown".to_owned(), |nanos| format!("{nanos:.1}"));
        writeln!(out, "  {name:<34}{thread:>12.1}{flusher:>14}")?;
    }
    writeln!(out, "  {:<34}{:>12.1}", "reading the clock twice", costs.two_clock_reads)?;
    let (threads, flusher) = costs.shares_at(args.rate as f64);
    let percent = |part: f64| format!("{:.4} %", part * 100.0);
    writeln!(
        out,
        "At {} spans a second {with}, the threads that make them take {} of one core, the flusher {}.",
        args.rate,
        percent(threads),
        flusher.map_or("a share that the system does not tell".to_owned(), percent)
    )
}
