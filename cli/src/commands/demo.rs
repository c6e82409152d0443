//! `spanring demo`: the main job at a glance.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::value_parser;
use serde::Serialize;
use spanring::settings::Settings;
use spanring_exporter::sink::InstanceId;
use spanring_exporter::{Pipeline, StartError};

use super::replay::keep_everything;
use super::{Outcome, Problems};
use crate::demo::{Quota, Shop, SpanCost, find_trace, measure};
use crate::progress::Progress;
use crate::render::{Waterfall, write_waterfall};
use crate::run_report::RunReport;

const SECONDS_DEFAULT: u64 = 2;
/// How long the end waits for what is left.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Runs an instrumented workload on several threads and shows what happened to its spans.
///
/// The workload is a small shop that answers requests as fast as it can; nothing holds it up, so where
/// spans come faster than the budget (SPANRING_MAX_SPANS) takes them, they are dropped and counted.
/// Settings come from the environment, except for ENDPOINT: nothing is sent, as no receiver is made for such a
/// flood. RETENTION_BYTES has no effect unless it is set.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Threads that record spans [default: one a core]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    /// Stop after this many spans, all threads together
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = value_parser!(u64).range(1..))]
    pub spans: Option<u64>,
    /// Stop after this many seconds [default: 2]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// Where to put the segments [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Serve health, metrics and settings over HTTP meanwhile, and say where [default address: 127.0.0.1, a free port]
    #[arg(long)]
    pub status: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `spanring demo --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    threads: u32,
    #[serde(flatten)]
    run: RunReport,
    #[serde(flatten)]
    cost: SpanCost,
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    let dir = match &args.dir {
        Some(dir) => Dir { path: dir.clone(), is_temporary: false },
        None => match Dir::temporary() {
            Ok(dir) => dir,
            Err(error) => {
                problems.report(&format_args!(
                    "no temporary directory can be made: {error}; give one with --dir"
                ));
                return Ok(problems.outcome());
            }
        },
    };
    let mut settings = Settings::builder().service_name("shop").build();
    settings.dir = Some(dir.path.clone());
    settings.endpoint = None;
    settings.openai = false;
    keep_everything(&mut settings);
    if args.status {
        settings.status_address.get_or_insert(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    match perform(args, settings, &dir.path, &mut problems) {
        Ok((report, instance)) if args.json => {
            let _ = instance;
            serde_json::to_writer(&mut *out, &report)?;
            writeln!(out)?;
        }
        Ok((report, instance)) => write_text(&report, &dir, instance, out)?,
        Err(error) => problems.report(&error),
    }
    Ok(problems.outcome())
}

fn perform(
    args: &Args,
    settings: Settings,
    dir: &Path,
    problems: &mut Problems,
) -> Result<(Report, InstanceId), StartError> {
    let pipeline = Pipeline::builder().settings(settings).install()?;
    let settings = pipeline.settings();
    let cost = measure(&settings)?;
    let threads = args.threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4096) as u32)
    });
    let begun = Instant::now();
    serve(args, threads, begun, problems);
    if let Err(unfinished) = pipeline.shutdown(SHUTDOWN_TIMEOUT) {
        problems.report(&unfinished);
    }
    let wall = begun.elapsed();
    let stats = pipeline.stats();
    for sink in stats.sinks.iter().filter(|sink| !sink.last_error.is_empty()) {
        problems.report(&format_args!("sink {}: {}", sink.name, sink.last_error));
    }
    let run = RunReport::new(&stats, pipeline.instance(), Some(dir), wall);
    if !run.is_conserved {
        problems.report(&"spans are unaccounted for: report this as a defect");
    }
    Ok((Report { threads, run, cost }, pipeline.instance()))
}

/// Has all threads serve requests until they are done.
fn serve(args: &Args, threads: u32, begun: Instant, problems: &mut Problems) {
    let seconds = args.seconds.unwrap_or(SECONDS_DEFAULT);
    let end = begun + Duration::from_secs(seconds);
    let quota = |thread: u32| match args.spans {
        // The first threads make one more each, where it does not come out even.
        Some(spans) => {
            let (each, rest) = (spans / u64::from(threads), spans % u64::from(threads));
            Quota::Spans(each + u64::from(u64::from(thread) < rest))
        }
        None => Quota::Until(end),
    };
    let mut progress = Progress::new(true);
    let made = AtomicU64::new(0);
    let (alive, all_gone) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (alive, made, quota) = (alive.clone(), &made, quota(thread));
            let started = std::thread::Builder::new().spawn_scoped(scope, move || {
                let mut told = 0;
                Shop::new(thread).serve(quota, |spans| {
                    // Seldom: the count is for the progress bar alone.
                    if spans - told >= 4096 {
                        made.fetch_add(spans - told, Relaxed);
                        told = spans;
                    }
                });
                drop(alive);
            });
            if let Err(error) = started {
                problems.report(&format_args!(
                    "thread {thread} cannot be started: {error}; use fewer --threads"
                ));
                break;
            }
        }
        drop(alive);
        progress.begin("a small shop", Some(args.spans.unwrap_or(seconds * 1000)));
        // Nothing is ever sent: it disconnects when the last thread is done.
        while all_gone.recv_timeout(PROGRESS_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            progress.advance_to(match args.spans {
                Some(_) => made.load(Relaxed),
                None => begun.elapsed().as_millis() as u64,
            });
        }
    });
    progress.end();
}

fn write_text(
    report: &Report,
    dir: &Dir,
    instance: InstanceId,
    out: &mut impl Write,
) -> io::Result<()> {
    let Report { threads, run, cost } = report;
    writeln!(out, "A small shop served requests on {threads} threads, each span recorded.\n")?;
    run.write_text(out)?;
    let SpanCost { ns_per_span, ns_per_span_4_attributes, ns_two_clock_reads } = cost;
    writeln!(
        out,
        "\na span costs {ns_per_span:.1} ns, with 4 attributes {ns_per_span_4_attributes:.1} ns"
    )?;
    writeln!(
        out,
        "(bursts within the budget, one thread; two clock reads: {ns_two_clock_reads:.1} ns)"
    )?;
    writeln!(out, "\nOne of its traces, read back from the segments:\n")?;
    write_waterfall(&find_trace(&dir.path, instance), Waterfall::for_stdout(), out)?;
    if !dir.is_temporary {
        let shown = dir.path.display();
        writeln!(out, "\nThe segments are in {shown}: try `spanring stats {shown}`.")?;
    }
    Ok(())
}

/// Where the segments go.
struct Dir {
    path: PathBuf,
    /// Made for this run, and removed with it.
    is_temporary: bool,
}

impl Dir {
    fn temporary() -> io::Result<Self> {
        let name = format!("spanring-demo-{:032x}", spanring::export::random_u128());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Dir { path, is_temporary: true })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed lies where such things are expected to.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
