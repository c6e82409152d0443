//! The sections: each runs in a process of its own and prints its numbers.

pub mod c;
pub mod critical;
pub mod deliver;
pub mod encode;
#[cfg(feature = "peers")]
pub mod formats;
pub mod hot;
pub mod live;
pub mod memory;
pub mod off;
#[cfg(feature = "peers")]
pub mod otlp;
#[cfg(feature = "peers")]
pub mod paced;
#[cfg(feature = "peers")]
pub mod peers;
pub mod python;
pub mod ruby;
pub mod size;
pub mod steady;
pub mod tail;
pub mod threads;

use std::path::Path;
use std::process::Command;

use crate::measure::Numbers;

/// How a section is to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Fewer rounds, smaller workloads: the whole takes less than two minutes.
    pub quick: bool,
    /// The folder of the recorded traces.
    pub data: std::path::PathBuf,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name on the command line and in the results.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&Run) -> Numbers,
}

/// All sections, in the order in which they run.
pub const ALL: &[Section] = &[
    Section { name: "hot", about: "single spans of every shape, in bursts", run: hot::run },
    Section {
        name: "off",
        about: "spans that are not sampled, and tracing disabled",
        run: off::run,
    },
    Section { name: "tail", about: "single spans, one by one: p50, p99, p99.9", run: tail::run },
    Section { name: "encode", about: "from ring to compressed bytes", run: encode::run },
    Section { name: "memory", about: "what spans, threads and the engine take", run: memory::run },
    Section { name: "steady", about: "a steady load", run: steady::run },
    Section { name: "critical", about: "critical spans under full load", run: critical::run },
    Section { name: "live", about: "10,000 spans/s, watched by everything", run: live::run },
    Section { name: "deliver", about: "OTLP to a receiver that only reads", run: deliver::run },
    Section { name: "size", about: "bytes a span", run: size::run },
    #[cfg(feature = "peers")]
    Section { name: "formats", about: "bytes a span in other formats", run: formats::run },
    #[cfg(feature = "peers")]
    Section { name: "otlp", about: "OTLP bytes, against prost", run: otlp::run },
    #[cfg(feature = "peers")]
    Section { name: "paced", about: "a span against the bare ring, paced", run: paced::run },
    #[cfg(feature = "peers")]
    Section { name: "peers", about: "the same span by others", run: peers::run },
    Section { name: "c", about: "a span through the C library, against Rust", run: c::run },
    Section {
        name: "python",
        about: "a span in Python, beside the OpenTelemetry SDK",
        run: python::run,
    },
    Section { name: "ruby", about: "a span in Ruby", run: ruby::run },
    Section { name: "threads", about: "many threads, one flusher", run: threads::run },
];

/// Builds what a section needs beside this program. False if the machine lacks something, which was said: it is skipped then.
pub fn prepare(name: &str) -> Result<bool, String> {
    match name {
        "c" => c::prepare().map(|()| true),
        "python" => python::prepare(),
        "ruby" => ruby::prepare(),
        _ => Ok(true),
    }
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it lies in the repository")
}

/// Runs a command to its end; what it prints goes to standard error, since numbers go to standard output.
fn made(command: &mut Command) -> Result<(), String> {
    let status = command.stdout(std::io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", command.get_program().display())),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    }
}
