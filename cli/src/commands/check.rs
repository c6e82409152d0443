//! `spanring check`: does a receiver take spans, and if not, why?

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use spanring::{SpanId, TraceId, Value};
use spanring_exporter::Forwarder;
use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};

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
    let tried = send::options(args.endpoint.as_deref()).and_then(|(options, mut settings)| {
        settings.retry_attempts = Some(0);
        let (endpoint, patience) = (options.endpoint.clone(), options.timeout + GRACE);
        let mut forwarder = Forwarder::new(options, settings).map_err(|error| error.to_string())?;
        forwarder.send(Arc::new(span(trace_id)));
        let stats = forwarder.finish(patience);
        let problem = match stats.delivered {
            1 => None,
            _ if !stats.last_error.is_empty() => Some(stats.last_error),
            _ if !stats.last_refusal.is_empty() => Some(stats.last_refusal),
            _ => Some(format!("{endpoint} gave no answer in {} s", patience.as_secs())),
        };
        Ok((endpoint, problem, forwarder.note()))
    });
    let (endpoint, problem, note) = match tried {
        Ok(tried) => tried,
        Err(why) => (args.endpoint.clone().unwrap_or_default(), Some(why), None),
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
