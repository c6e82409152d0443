//! Makes segments over input that is hard on a reader, and prints what the Rust decoder reads in
//! segments, for comparison with readers in other languages.
//!
//! ```text
//! make_segments make DIR        makes directories of segments below DIR
//! make_segments abandon DIR     makes segments in DIR, then aborts: the last one is not closed
//! make_segments spans PATH...   prints a line of OTLP/JSON a batch
//! make_segments headers PATH... prints a line of JSON a batch: what its header says
//! make_segments contents FILE   decodes the contents of batches, damaged ones too
//! ```
//!
//! Content is the same in each run, IDs and the times that nobody set apart. Nothing here knows how a
//! batch or a segment is laid out.

mod dump;
mod spans;
mod values;

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use spanring::export::Reason;
use spanring::{Settings, SettingsBuilder, Value};
use spanring_exporter::Pipeline;

/// How long a flush or a shutdown may take on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);
const USAGE: &str =
    "usage: make_segments make DIR | abandon DIR | spans PATH... | headers PATH... | contents FILE";

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["make", dir] => make(Path::new(dir)),
        ["abandon", dir] => abandon(Path::new(dir)),
        ["contents", file] => dump::contents(file),
        ["spans", ref paths @ ..] if !paths.is_empty() => dump::spans(paths),
        ["headers", ref paths @ ..] if !paths.is_empty() => dump::headers(paths),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make_segments: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all directories below `dir`.
fn make(dir: &Path) -> Outcome {
    tricky(&dir.join("tricky"))?;
    wide(&dir.join("wide"))?;
    threads(&dir.join("threads"))?;
    limits(&dir.join("limits"))?;
    single(&dir.join("single"))?;
    let abandoned = dir.join("abandoned");
    let status = Command::new(std::env::current_exe()?).arg("abandon").arg(&abandoned).status()?;
    match status.code() {
        None => Ok(()),
        Some(code) => Err(format!("the process that was to abort ended with {code}").into()),
    }
}

/// Settings for `dir` that no variable of the environment changes, and no timer: a batch is sealed when
/// it is full or asked for.
fn settings(dir: &Path) -> SettingsBuilder {
    Settings::builder().ignore_environment().dir(dir).flush_interval(Duration::from_secs(3600))
}

fn pipeline(settings: SettingsBuilder) -> Result<Pipeline, Box<dyn Error>> {
    let resource = values::all().into_iter().enumerate();
    let mut builder = Pipeline::builder().settings(settings.build()).service_name("make_segments");
    for (index, value) in resource {
        builder = builder.resource_attribute(format!("resource.{index}"), value);
    }
    Ok(builder.build()?)
}

/// Shuts `pipeline` down, and makes sure that it dropped spans for `reasons` only.
fn close(pipeline: &Pipeline, reasons: &[Reason]) -> Outcome {
    pipeline.shutdown(TIMEOUT)?;
    let dropped = pipeline.stats().engine.dropped;
    for reason in Reason::ALL {
        let count = dropped.0[reason as usize];
        if (count > 0) != reasons.contains(&reason) {
            return Err(format!("{count} spans were dropped, reason {}", reason.name()).into());
        }
    }
    Ok(())
}

/// One subject after the other, most of them in a batch of their own.
fn tricky(dir: &Path) -> Outcome {
    let pipeline = pipeline(settings(dir))?;
    let attached = pipeline.attach();
    for record in spans::SUBJECTS {
        record();
        pipeline.flush(TIMEOUT)?;
    }
    // And all of it in one batch.
    for record in spans::SUBJECTS {
        record();
    }
    drop(attached);
    close(&pipeline, &[])
}

/// Batches of thousands of spans without any pattern.
fn wide(dir: &Path) -> Outcome {
    let pipeline = pipeline(settings(dir).batch_size(5000))?;
    let attached = pipeline.attach();
    for seed in 1..=2 {
        spans::arbitrary(seed, 4000);
        pipeline.flush(TIMEOUT)?;
    }
    spans::uniform(4500);
    drop(attached);
    close(&pipeline, &[])
}

/// Three threads that hand contexts on to each other, small batches, and several segments.
fn threads(dir: &Path) -> Outcome {
    let pipeline = pipeline(settings(dir).batch_size(40).segment_max_bytes(4 << 10))?;
    let attached = pipeline.attach();
    let root = spans::ring_of_contexts_start();
    let (first_out, first_in) = std::sync::mpsc::sync_channel(1);
    let (second_out, second_in) = std::sync::mpsc::sync_channel(1);
    let (third_out, third_in) = std::sync::mpsc::sync_channel(1);
    first_out.send(root.context())?;
    std::thread::scope(|scope| {
        let pairs = [(first_in, second_out), (second_in, third_out), (third_in, first_out)];
        for (number, (receive, send)) in pairs.into_iter().enumerate() {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let _attached = pipeline.attach();
                spans::pass_contexts(number, &receive, &send);
            });
        }
    });
    // Ends in a later batch than its children.
    drop(root);
    drop(attached);
    close(&pipeline, &[])
}

/// Limits that cut, and spans that are dropped.
fn limits(dir: &Path) -> Outcome {
    let settings = settings(dir)
        .max_bytes(1 << 20)
        .max_spans(64)
        .batch_size(20)
        .attribute_count_limit(3)
        .attribute_value_length_limit(5)
        .event_count_limit(2)
        .link_count_limit(1)
        .event_attribute_count_limit(2)
        .link_attribute_count_limit(1);
    let pipeline = pipeline(settings)?;
    let attached = pipeline.attach();
    spans::beyond_limits();
    pipeline.flush(TIMEOUT)?;
    // Cut to nothing, though the span stays: too large for MAX_BYTES whatever else is in use.
    spans::too_large(2 << 20);
    // How many it takes depends on the flusher; that some will be dropped does not.
    let dropped = || pipeline.stats().engine.dropped.0[Reason::Budget as usize];
    for _ in 0..10_000_000 {
        spans::uniform(1);
        if dropped() > 0 {
            break;
        }
    }
    // The last batch tells of the dropped ones.
    pipeline.flush(TIMEOUT)?;
    spans::beyond_limits();
    drop(attached);
    close(&pipeline, &[Reason::Budget])
}

/// One span, and a closing batch without any.
fn single(dir: &Path) -> Outcome {
    let pipeline = Pipeline::builder()
        .settings(settings(dir).build())
        .resource_attribute("", Value::Str(String::new()))
        .build()?;
    let attached = pipeline.attach();
    drop(spanring::span!("only"));
    drop(attached);
    pipeline.flush(TIMEOUT)?;
    close(&pipeline, &[])
}

/// Three batches, then the end that nothing can hook into.
fn abandon(dir: &Path) -> Outcome {
    let pipeline = pipeline(settings(dir))?;
    let _attached = pipeline.attach();
    for seed in 1..=3 {
        spans::arbitrary(seed, 20);
        pipeline.flush(TIMEOUT)?;
    }
    std::process::abort();
}
