//! The subcommands. Each has a file with its arguments and what it does; none of them exits, prints to
//! anything but the writer it is given, or knows of the others.
//!
//! A command goes on after a problem with its input where it can, reports each problem on standard
//! error, and ends with [`Outcome::Problem`].

pub mod cat;
pub mod check;
pub mod config;
pub mod demo;
pub mod explain;
pub mod overhead;
pub mod replay;
pub mod send;
pub mod stats;
pub mod verify;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use spanring_exporter::model::SpanBatch;

use crate::progress::Progress;
use crate::source::{self, Item, Reader};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Fine,
    /// The data has a problem, which was reported.
    Problem,
}

/// Reports problems on standard error, and remembers whether there were any.
#[derive(Debug, Default)]
pub struct Problems {
    count: u64,
}

impl Problems {
    /// Reports one problem, as a line.
    pub fn report(&mut self, problem: &dyn Display) {
        self.count += 1;
        self.note(problem);
    }

    /// Says something that is no problem, as a line.
    pub fn note(&self, note: &dyn Display) {
        // Nobody is left to tell if standard error is closed; the exit code says it too.
        let _ = writeln!(io::stderr().lock(), "spanring: {note}");
    }

    /// What the command ends with.
    pub fn outcome(&self) -> Outcome {
        if self.count == 0 { Outcome::Fine } else { Outcome::Problem }
    }
}

/// Where a batch was read.
struct Place<'a> {
    file: &'a str,
    /// Its number among the file's batches.
    index: u64,
}

/// Reads the spans of `paths` (see [`source`]), batch by batch; returns the files' bytes.
///
/// What cannot be read is reported and passed over.
///
/// # Errors
///
/// What `visit` answers.
fn read_batches<P: AsRef<Path>>(
    paths: &[P],
    progress: &mut Progress,
    problems: &mut Problems,
    mut visit: impl FnMut(Place<'_>, SpanBatch) -> io::Result<()>,
) -> io::Result<u64> {
    let mut bytes = 0;
    for path in paths {
        let sources = match source::find(path.as_ref()) {
            Ok(sources) => sources,
            Err(error) => {
                progress.suspend(|| problems.report(&error));
                continue;
            }
        };
        for source in sources {
            let mut reader = match Reader::open(&source) {
                Ok(reader) => reader,
                Err(error) => {
                    progress.suspend(|| problems.report(&error));
                    continue;
                }
            };
            let name = reader.name();
            let mut index = 0;
            progress.begin(&name, reader.bytes_total());
            while let Some(item) = reader.next_item() {
                match item {
                    Item::Batch(batch) => {
                        visit(Place { file: &name, index }, batch)?;
                        index += 1;
                    }
                    Item::Problem(error) => progress.suspend(|| problems.report(&error)),
                    Item::Note(note) => progress.suspend(|| problems.note(&note)),
                }
                progress.advance_to(reader.bytes_read());
            }
            bytes += reader.bytes_read();
        }
    }
    progress.end();
    Ok(bytes)
}
