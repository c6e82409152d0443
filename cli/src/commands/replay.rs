//! `spanring replay`: performs recorded traces again.

use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::value_parser;
use spanring::settings::{SamplerSetting, Settings, Source};
use spanring_exporter::{Pipeline, StartError};

use super::{Outcome, Problems, read_batches};
use crate::progress::Progress;
use crate::replay::{Clock, Pacer, Performer, Recording, Schedule};
use crate::run_report::RunReport;

/// How long the end waits for what is left.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Performs recorded traces again through the span API, and records them as segments or sends them.
///
/// Spans get new IDs; times, names, kinds, attributes, events, links, statuses, parents, scopes and
/// resources are those of the recording. Settings come from the environment (SPANRING_BATCH_SIZE,
/// SPANRING_MAX_SPANS, SPANRING_COMPRESSION_LEVEL, ...), except for limits of attributes, events and
/// links, the sampler, DISABLED, DIR, ENDPOINT and OPENAI: everything recorded is recorded again. RETENTION_BYTES has
/// no effect unless it is set. All FILEs together are held in memory.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Files of OTLP/JSON lines, plain, zstd or gzip, segments, or directories of these; `-` is lines
    /// from standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where to put the segments, and the spool of --endpoint
    #[arg(long, value_name = "DIR", required_unless_present = "endpoint")]
    pub dir: Option<PathBuf>,
    /// Where to send the spans as OTLP over HTTP. Without a path, /v1/traces is added
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Threads that record spans; each performs whole traces
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=4096))]
    pub threads: u32,
    /// How fast: 1 as recorded, 10 ten times as fast, max without waiting
    #[arg(long, value_name = "FACTOR|max", default_value = "max")]
    pub speed: Speed,
    /// How many times over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Do not wait where spans would be dropped
    #[arg(long)]
    pub no_pace: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How fast recorded time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded; above zero and finite.
    Times(f64),
    /// Without waiting.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        match text.parse() {
            Ok(factor) if factor > 0.0 && f64::is_finite(factor) => Ok(Speed::Times(factor)),
            _ => Err("expected `max` or a factor above 0, such as 1 or 10".to_owned()),
        }
    }
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers. Problems with the input are reported instead; what could be read is performed.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    let mut progress = Progress::new(true);
    let mut recording = Recording::default();
    let mut refused = None;
    read_batches(&args.files, &mut progress, &mut problems, |_, batch| {
        // Nothing is performed of what is not performed whole, so the rest is read for its problems.
        if refused.is_none() {
            refused = recording.add(batch).err();
        }
        Ok(())
    })?;
    if let Some(why) = refused {
        problems.report(&why);
        return Ok(problems.outcome());
    }
    let schedule = Schedule::new(&recording, args.threads as usize);
    if schedule.further_roots > 0 {
        let count = schedule.further_roots;
        problems.note(&format_args!("{count} further roots of traces begin traces of their own"));
    }
    if schedule.cycles > 0 {
        let count = schedule.cycles;
        problems.note(&format_args!("{count} cycles of parents are cut open by a remote parent"));
    }
    let endpoint = match args.endpoint.as_deref().map(super::send::endpoint).transpose() {
        Ok(endpoint) => endpoint,
        Err(why) => {
            problems.report(&why);
            return Ok(problems.outcome());
        }
    };
    let settings = settings(args, endpoint);
    let report = match perform(args, settings, &recording, &schedule, &mut progress, &mut problems)
    {
        Ok(report) => report,
        Err(error) => {
            problems.report(&error);
            return Ok(problems.outcome());
        }
    };
    if args.json {
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        report.write_text(out)?;
    }
    Ok(problems.outcome())
}

/// The environment's settings, but so that everything is recorded.
fn settings(args: &Args, endpoint: Option<String>) -> Settings {
    let mut settings = Settings::builder().build();
    settings.dir.clone_from(&args.dir);
    settings.endpoint = endpoint;
    settings.openai = false;
    settings.disabled = false;
    settings.sampler = SamplerSetting::default();
    settings.attribute_value_length_limit = None;
    for limit in [
        &mut settings.attribute_count_limit,
        &mut settings.event_count_limit,
        &mut settings.link_count_limit,
        &mut settings.event_attribute_count_limit,
        &mut settings.link_attribute_count_limit,
    ] {
        *limit = i32::MAX as u32;
    }
    keep_everything(&mut settings);
    settings
}

/// Switches retention off, unless the environment asks for it.
pub(super) fn keep_everything(settings: &mut Settings) {
    if settings.source("retention_bytes").is_none_or(|source| *source == Source::Default) {
        settings.retention_bytes = 1 << 50;
    }
}

fn perform(
    args: &Args,
    settings: Settings,
    recording: &Recording,
    schedule: &Schedule,
    progress: &mut Progress,
    problems: &mut Problems,
) -> Result<RunReport, StartError> {
    let pipeline = Pipeline::builder().settings(settings).install()?;
    let pacer = Pacer::new(&pipeline, schedule.parts.len());
    let pacer = (!args.no_pace).then_some(&pacer);
    let begun = Instant::now();
    let ended = AtomicU64::new(0);
    let (alive, all_gone) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for part in schedule.parts.iter().filter(|part| !part.spans.is_empty()) {
            let (alive, ended) = (alive.clone(), &ended);
            let started = std::thread::Builder::new().spawn_scoped(scope, move || {
                for round in 0..args.repeat {
                    let clock = clock(args.speed, schedule, begun, round);
                    Performer { recording, pacer, clock }.perform(part, || {
                        ended.fetch_add(1, Relaxed);
                    });
                }
                drop(alive);
            });
            if let Err(error) = started {
                let spans = part.spans.len();
                problems.report(&format_args!(
                    "no thread can be started for {spans} spans: {error}; use fewer --threads"
                ));
            }
        }
        drop(alive);
        let total = recording.len() as u64 * u64::from(args.repeat);
        progress.begin("replaying", Some(total));
        // Nothing is ever sent: it disconnects when the last thread is done.
        while all_gone.recv_timeout(PROGRESS_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            progress.advance_to(ended.load(Relaxed));
        }
    });
    progress.end();
    if let Err(unfinished) = pipeline.shutdown(SHUTDOWN_TIMEOUT) {
        problems.report(&unfinished);
    }
    let wall = begun.elapsed();
    let stats = pipeline.stats();
    let report = RunReport::new(&stats, pipeline.instance(), args.dir.as_deref(), wall);
    report_losses(args, &report, stats.engine.attributes_dropped, problems);
    for sink in stats.sinks.iter().filter(|sink| !sink.last_error.is_empty()) {
        problems.report(&format_args!("sink {}: {}", sink.name, sink.last_error));
    }
    Ok(report)
}

fn report_losses(args: &Args, report: &RunReport, attributes: u64, problems: &mut Problems) {
    let dropped = report.dropped_total;
    if dropped > 0 && !args.no_pace {
        let reasons = report.dropped.iter().filter(|(_, count)| **count > 0);
        let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{reason} {count}")).collect();
        // What a sink did not take, no budget mends; why it did not is said by itself.
        let by_sinks = report.dropped.iter().filter(|(reason, _)| reason.starts_with("sink_"));
        let advice = match by_sinks.map(|(_, count)| count).sum::<u64>() {
            0 => "raise SPANRING_MAX_SPANS or SPANRING_MAX_BYTES, or use fewer threads",
            _ if report.dropped.get("sink_timed_out").is_some_and(|count| *count > 0) => {
                "they were not taken where they should go within SPANRING_MAX_BATCH_WAIT"
            }
            _ => "they were not taken where they should go",
        };
        problems.report(&format_args!(
            "{dropped} spans were dropped ({}); {advice}",
            reasons.join(", ")
        ));
    }
    if attributes > 0 {
        problems.report(&format_args!(
            "{attributes} attributes were cut for want of memory; raise SPANRING_MAX_BYTES"
        ));
    }
    if !report.is_conserved {
        problems.report(&"spans are unaccounted for: report this as a defect");
    }
}

fn clock(speed: Speed, schedule: &Schedule, begun: Instant, round: u32) -> Option<Clock> {
    let Speed::Times(factor) = speed else { return None };
    let recorded = Duration::from_nanos(schedule.end_unix_nano - schedule.begin_unix_nano);
    let offset = recorded.as_secs_f64() / factor * f64::from(round);
    // Beyond what the clock can say a wait never ends anyway.
    let begin = Duration::try_from_secs_f64(offset).ok().and_then(|after| begun.checked_add(after));
    let begin_unix_nano = schedule.begin_unix_nano;
    Some(Clock { begin: begin.unwrap_or(begun), begin_unix_nano, factor })
}
