//! `spanring send`: delivers recorded spans to a receiver.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use spanring::Settings;
use spanring_exporter::{Forwarder, OpenAiOptions, OtlpOptions, SinkStats, with_config_file};

use super::{Outcome, Problems, read_batches};
use crate::progress::Progress;

/// Sends the spans of segments or of OTLP/JSON files to a receiver of OTLP over HTTP, or to OpenAI's trace ingest.
///
/// What the receiver cannot take now is sent again, for MAX_BATCH_WAIT (30 s) at most, each batch by itself. Settings come from the
/// environment: SPANRING_HEADERS, SPANRING_COMPRESSION, SPANRING_TIMEOUT, SPANRING_CERTIFICATE, ... or
/// OpenTelemetry's.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directories of segments, segments, or files of OTLP/JSON lines, plain, zstd or gzip; `-` is lines
    /// from standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Where to; SPANRING_ENDPOINT by default. Without a path, /v1/traces is added
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// To OpenAI's trace ingest instead, with SPANRING_OPENAI_API_KEY or OPENAI_API_KEY
    #[arg(long, conflicts_with = "endpoint")]
    pub openai: bool,
    /// A file that remembers what was delivered: run again with it to go on where it ended
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `spanring send --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    delivered: u64,
    refused: u64,
    given_up: u64,
    /// Delivered by an earlier run with the same file.
    skipped: u64,
    /// Sent again although an answer may have been lost.
    repeated: u64,
}

/// The options for `endpoint`, or the settings' own.
///
/// # Errors
///
/// What is wrong with it, or that there is none.
pub(super) fn options(given: Option<&str>) -> Result<(OtlpOptions, Settings), String> {
    let (mut settings, _) = with_config_file(&Settings::builder().build())?;
    if let Some(given) = given {
        // The environment has the last word elsewhere; here the argument does.
        settings.endpoint = Some(endpoint(given)?);
    }
    for problem in settings.problems() {
        Problems::default().note(problem);
    }
    let options = OtlpOptions::from_settings(&settings).ok_or_else(|| {
        let wrong = settings.problems().iter().find(|problem| problem.name.ends_with("ENDPOINT"));
        let why =
            wrong.map_or(String::new(), |problem| format!(", as {} {}", problem.name, problem.why));
        format!("there is nowhere to send to{why}; give --endpoint URL or set SPANRING_ENDPOINT")
    })?;
    Ok((options, settings))
}

/// What is ready to send where `args` say.
///
/// # Errors
///
/// What is wrong, and what to do.
fn forwarder(args: &Args) -> Result<Forwarder, String> {
    let ready = if args.openai {
        let (mut settings, _) = with_config_file(&Settings::builder().build())?;
        // The argument says it as well as the setting.
        settings.openai = true;
        for problem in settings.problems().iter().filter(|it| !it.name.ends_with("OPENAI")) {
            Problems::default().note(problem);
        }
        let options = OpenAiOptions::from_settings(&settings)
            .ok_or("there is no key; set SPANRING_OPENAI_API_KEY or OPENAI_API_KEY")?;
        Forwarder::openai(options, settings)
    } else {
        let (options, settings) = options(args.endpoint.as_deref())?;
        Forwarder::new(options, settings)
    };
    ready.map_err(|error| error.to_string())
}

/// A URL with its path.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn endpoint(given: &str) -> Result<String, String> {
    let settings = Settings::builder().endpoint(given).ignore_environment().build();
    match settings.problems() {
        [] => Ok(settings.endpoint.unwrap_or_default()),
        // Its value is not shown: it may hold a password.
        [problem, ..] => Err(format!(
            "the URL of --endpoint {}; give http://HOST[:PORT][/PATH], https://… or \
             unix:///SOCKET[:/PATH], and credentials in HEADERS",
            problem.why
        )),
    }
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers. Problems with the input or the receiver are reported instead.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    let (mut forwarder, mut memory) = match (forwarder(args), Memory::open(args.resume.as_deref()))
    {
        (Ok(forwarder), Ok(memory)) => (forwarder, memory),
        (Err(error), _) | (_, Err(error)) => {
            problems.report(&error);
            return Ok(problems.outcome());
        }
    };
    let mut progress = Progress::new(true);
    let mut skipped = 0;
    read_batches(&args.paths, &mut progress, &mut problems, |place, batch| {
        let key = format!("{} {}", place.index, place.file);
        let spans = batch.spans.len() as u32;
        if memory.has(&key) {
            skipped += u64::from(spans);
            return Ok(());
        }
        let number = forwarder.send(Arc::new(batch));
        memory.sent(number, key, spans);
        memory.note(&mut forwarder)?;
        Ok(())
    })?;
    let patience = forwarder.patience();
    let stats = forwarder.finish(patience);
    memory.note(&mut forwarder)?;
    let report = Report {
        delivered: stats.delivered,
        refused: stats.dropped[spanring_exporter::SinkDrop::Refused as usize],
        given_up: stats.sealed
            - stats.delivered
            - stats.dropped[spanring_exporter::SinkDrop::Refused as usize],
        skipped,
        repeated: stats.repeated,
    };
    explain_losses(&report, &stats, &mut problems);
    if args.json {
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "delivered {} spans", report.delivered)?;
        for (count, what) in [
            (report.skipped, "delivered before"),
            (report.refused, "refused"),
            (report.given_up, "not delivered"),
            (report.repeated, "sent again, as an answer was lost"),
        ] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)?;
    }
    Ok(problems.outcome())
}

fn explain_losses(report: &Report, stats: &SinkStats, problems: &mut Problems) {
    if report.refused + report.given_up == 0 {
        return;
    }
    let lost = report.refused + report.given_up;
    let why = if stats.last_error.is_empty() { &stats.last_refusal } else { &stats.last_error };
    problems.report(&format_args!("{lost} spans were not delivered: {why}"));
}

/// What was delivered, by file and number of the batch, in a file of lines.
#[derive(Default)]
struct Memory {
    file: Option<File>,
    /// Keys of earlier runs.
    known: std::collections::HashSet<String>,
    /// By number of the batch: its key and the spans that are not dealt with.
    open: HashMap<u64, (String, u32)>,
}

impl Memory {
    fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::default()) };
        let failed = |error: io::Error| {
            format!("{}: cannot be used to resume: {error}; give another file", path.display())
        };
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let mut known = std::collections::HashSet::new();
        let mut reader = BufReader::new(&mut file);
        let mut line = String::new();
        while reader.read_line(&mut line).map_err(failed)? > 0 {
            // A line that was cut by a crash does not count.
            if let Some(key) = line.strip_suffix('\n') {
                known.insert(key.to_owned());
            }
            line.clear();
        }
        Ok(Memory { file: Some(file), known, open: HashMap::new() })
    }

    fn has(&self, key: &str) -> bool {
        self.known.contains(key)
    }

    fn sent(&mut self, number: u64, key: String, spans: u32) {
        if self.file.is_some() {
            self.open.insert(number, (key, spans));
        }
    }

    /// Writes down which batches were delivered since the last call.
    fn note(&mut self, forwarder: &mut Forwarder) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        for part in forwarder.settled() {
            let Some((_, left)) = self.open.get_mut(&part.batch) else { continue };
            if !part.delivered {
                // It stays open, so the next run tries it again.
                continue;
            }
            *left -= part.spans;
            if *left == 0 {
                let (key, _) = self.open.remove(&part.batch).expect("looked up above");
                file.write_all(format!("{key}\n").as_bytes())?;
            }
        }
        Ok(())
    }
}
