//! `spanring check`: does a receiver take spans, and if not, why?

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use spanring::settings::{LogLevel, Settings};
use spanring::{SpanId, TraceId, Value};
use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};
use spanring_exporter::{Forwarder, OtlpOptions};

use super::{Outcome, Problems, send};

/// What is waited beyond the request's own time.
const GRACE: Duration = Duration::from_secs(1);

/// Sends one span to a receiver and says what is wrong if it does not take it.
///
/// Settings come from the environment, as for a program: SPANRING_HEADERS, SPANRING_COMPRESSION, ...
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to; SPANRING_ENDPOINT by default. Without a path, /v1/traces is added
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `spanring check --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Without its query, which may be secret; empty if there is none to use.
    endpoint: String,
    ok: bool,
    /// What is wrong and what to do; none if nothing is.
    problem: Option<String>,
    /// What works, but not as it was asked for.
    note: Option<String>,
    trace_id: String,
}

/// Runs the command.
///
/// # Errors
///
/// What `out` answers.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut problems = Problems::default();
    let trace_id = TraceId(spanring::export::random_u128() | 1);
    let (endpoint, problem, note) = match send::options(args.endpoint.as_deref()) {
        Ok((options, settings)) => {
            let endpoint = options.place();
            let (problem, note) = try_to_send(options, settings, trace_id);
            (endpoint, problem, note)
        }
        Err(why) => (String::new(), Some(why), None),
    };
    let ok = problem.is_none();
    let trace_id = trace_id.to_string();
    let report = Report { endpoint, ok, problem, note, trace_id };
    if args.json {
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
        return Ok(if ok { Outcome::Fine } else { Outcome::Problem });
    }
    match &report.problem {
        None => writeln!(
            out,
            "fine: {} took a span; look for trace {}",
            report.endpoint, report.trace_id
        )?,
        Some(problem) => problems.report(problem),
    }
    if let Some(note) = &report.note {
        problems.note(note);
    }
    Ok(problems.outcome())
}

/// What is wrong, and what works but not as it was asked for.
fn try_to_send(
    options: OtlpOptions,
    mut settings: Settings,
    trace_id: TraceId,
) -> (Option<String>, Option<String>) {
    settings.retry_attempts = Some(0);
    // What would be logged is what is reported.
    settings.log_level = LogLevel::Fatal;
    let patience = options.timeout + GRACE;
    let mut forwarder = match Forwarder::new(options, settings) {
        Ok(forwarder) => forwarder,
        Err(error) => return (Some(error.to_string()), None),
    };
    forwarder.send(Arc::new(span(trace_id)));
    let stats = forwarder.finish(patience);
    let problem = match stats.delivered {
        1 => None,
        _ if !stats.last_error.is_empty() => Some(stats.last_error),
        _ if !stats.last_refusal.is_empty() => Some(stats.last_refusal),
        _ => Some(format!("no answer in {} s; is the server overloaded?", patience.as_secs())),
    };
    (problem, forwarder.note())
}

fn span(trace_id: TraceId) -> SpanBatch {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let text = |text: &str| Value::Str(text.to_owned());
    SpanBatch {
        resources: vec![ResourceData {
            attributes: vec![("service.name".to_owned(), text("spanring-check"))],
            ..ResourceData::default()
        }],
        scopes: vec![ScopeData { name: "spanring".to_owned(), ..ScopeData::default() }],
        spans: vec![SpanData {
            trace_id,
            span_id: SpanId(trace_id.0 as u64 | 1),
            trace_flags: 1,
            name: "spanring check".to_owned(),
            start_unix_nano: now,
            end_unix_nano: now + 1_000_000,
            attributes: vec![("spanring.version".to_owned(), text(env!("CARGO_PKG_VERSION")))],
            ..SpanData::default()
        }],
    }
}
