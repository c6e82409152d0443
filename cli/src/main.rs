//! The `spanring` command.
//!
//! Exit codes: 0 fine, 1 the data has a problem, 2 wrong usage. A reader of standard output that goes
//! away (`spanring cat … | head`) ends the command quietly, and counts as fine.
#![forbid(unsafe_code)]

use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spanring_cli::commands::{
    Outcome, Problems, cat, check, config, demo, explain, overhead, replay, send, stats, verify,
};

/// Records spans, and reads what was recorded.
#[derive(Debug, Parser)]
#[command(name = "spanring", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Replay(replay::Args),
    Cat(cat::Args),
    Stats(stats::Args),
    Verify(verify::Args),
    Send(send::Args),
    Check(check::Args),
    Config(config::Args),
    Explain(explain::Args),
    Overhead(overhead::Args),
}

fn main() -> ExitCode {
    // Ends the process itself, with 2, if the arguments are wrong.
    let arguments = Arguments::parse();
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let outcome = match &arguments.command {
        Command::Demo(args) => demo::run(args, &mut out),
        Command::Replay(args) => replay::run(args, &mut out),
        Command::Cat(args) => cat::run(args, &mut out),
        Command::Stats(args) => stats::run(args, &mut out),
        Command::Verify(args) => verify::run(args, &mut out),
        Command::Send(args) => send::run(args, &mut out),
        Command::Check(args) => check::run(args, &mut out),
        Command::Config(args) => config::run(args, &mut out),
        Command::Explain(args) => explain::run(args, &mut out),
        Command::Overhead(args) => overhead::run(args, &mut out),
    };
    match outcome.and_then(|outcome| out.flush().map(|()| outcome)) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problem) => ExitCode::from(1),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            Problems::default().report(&format_args!("standard output cannot be written: {error}"));
            ExitCode::from(1)
        }
    }
}
