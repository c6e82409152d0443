//! `spanring explain`: what a given span would get with the settings in force, and why.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::json;
use spanring::settings::{Level, Settings, SpanExplained, SpanQuery, Verdict};
use spanring::{SpanKind, Value};

use super::{Outcome, Problems};

/// Tells what a span would get with the settings in force, and why.
///
/// Settings come from the environment and the file that SPANRING_CONFIG names, as for a program.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The span's name
    #[arg(long)]
    pub name: String,
    /// The name of its instrumentation scope
    #[arg(long, default_value = "")]
    pub scope: String,
    /// Its kind
    #[arg(long, default_value = "internal")]
    pub kind: Kind,
    /// An attribute that it starts with. A number or true or false is one, unless it is in double quotes
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, Value)>,
    /// It has a parent in the same process, and that is so
    #[arg(long)]
    pub parent: Option<Parent>,
    /// The level that it is given itself: none, minimal, smart, full
    #[arg(long, value_parser = level)]
    pub level: Option<Level>,
    /// It is about details
    #[arg(long)]
    pub detailed: bool,
    /// How to print it
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// A span's kind.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs, reason = "OpenTelemetry's")]
pub enum Kind {
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

/// What the parent is.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs, reason = "they say it")]
pub enum Parent {
    Sampled,
    Unsampled,
}

/// How to print.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs, reason = "they say it")]
pub enum Format {
    Text,
    Json,
}

fn attribute(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("has no =; write KEY=VALUE")?;
    if key.is_empty() {
        return Err("has no key before =".to_owned());
    }
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let value = match (quoted, value) {
        (Some(text), _) => Value::Str(text.to_owned()),
        (None, "true") => Value::Bool(true),
        (None, "false") => Value::Bool(false),
        (None, text) => match (text.parse(), text.parse::<f64>()) {
            (Ok(number), _) => Value::Int(number),
            (_, Ok(number)) if number.is_finite() => Value::Double(number),
            _ => Value::Str(text.to_owned()),
        },
    };
    Ok((key.to_owned(), value))
}

fn level(text: &str) -> Result<Level, String> {
    Level::from_name(text).ok_or_else(|| "is none of none, minimal, smart, full".to_owned())
}

impl Args {
    fn query(&self) -> SpanQuery {
        let mut query = SpanQuery::new(&self.name);
        query.scope.clone_from(&self.scope);
        query.kind = match self.kind {
            Kind::Internal => SpanKind::Internal,
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        };
        query.attributes.clone_from(&self.attributes);
        query.parent_sampled = self.parent.map(|parent| matches!(parent, Parent::Sampled));
        query.level = self.level;
        query.is_detailed = self.detailed;
        query
    }
}

/// Runs the command: settings that cannot be used are problems.
///
/// # Errors
///
/// What `out` answers.
pub fn run(args: &Args, out: &mut impl Write) -> io::Result<Outcome> {
    let mut settings = Settings::builder().build();
    let mut problems = Problems::default();
    match spanring_exporter::with_config_file(&settings) {
        Ok((changed, _)) => settings = changed,
        Err(problem) => problems.report(&format_args!("{problem}; none of it would be in force")),
    }
    let explained = settings.explain_span(&args.query());
    match args.format {
        Format::Text => print(&explained, out)?,
        Format::Json => {
            serde_json::to_writer(&mut *out, &to_json(&explained))?;
            writeln!(out)?;
        }
    }
    settings.problems().iter().for_each(|problem| problems.report(problem));
    Ok(problems.outcome())
}

fn in_words(explained: &SpanExplained) -> String {
    let mut words = match explained.verdict {
        Verdict::Absent => {
            "absent, as if it were not there: its children are its parent's".to_owned()
        }
        Verdict::NotSampled => "not sampled".to_owned(),
        Verdict::Share(share) => format!("sampled in {share} of all traces, by trace ID"),
        Verdict::OneOf(n) => format!("sampled, the first of every {n}"),
        Verdict::PerSecond(rate) => format!("sampled, at most {rate} a second"),
        _ => "sampled".to_owned(),
    };
    if explained.only_errors && explained.verdict.share() != Some(0.0) {
        words.push_str("; kept only if it ends with the status error");
    }
    words
}

fn print(explained: &SpanExplained, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", in_words(explained))?;
    writeln!(out, "because  {}", explained.because)?;
    match explained.verdict.share() {
        Some(share) => writeln!(out, "share    {share}")?,
        None => writeln!(out, "share    depends on how many there are")?,
    }
    writeln!(out, "level    {}, {}", explained.level, explained.level_from)?;
    for rule in &explained.rules {
        let what = match &rule.mismatch {
            Some(condition) => format!("no: {condition}"),
            None => "matches".to_owned(),
        };
        writeln!(out, "rule     {} {}: {}   {what}", rule.of, rule.number, rule.rule)?;
    }
    Ok(())
}

fn to_json(explained: &SpanExplained) -> serde_json::Value {
    let verdict = match explained.verdict {
        Verdict::Absent => "absent",
        Verdict::NotSampled => "not_sampled",
        Verdict::Share(_) => "share",
        Verdict::OneOf(_) => "every_nth",
        Verdict::PerSecond(_) => "rate_limit",
        _ => "sampled",
    };
    let per_second = match explained.verdict {
        Verdict::PerSecond(rate) => Some(rate),
        _ => None,
    };
    let rules = explained.rules.iter().map(|rule| {
        json!({ "of": rule.of, "number": rule.number, "rule": rule.rule, "mismatch": rule.mismatch })
    });
    json!({
        "verdict": verdict,
        "share": explained.verdict.share(),
        "per_second": per_second,
        "only_errors": explained.only_errors,
        "because": explained.because,
        "level": explained.level.name(),
        "level_from": explained.level_from,
        "rules": rules.collect::<Vec<_>>(),
    })
}
