//! `spanring config`: shows the settings in force.

use std::io::{self, Write};

use serde::Serialize;
use spanring::Settings;
use spanring::settings::{ExplainTable, Explained};

use super::{Outcome, Problems};

/// Shows the settings in force, and why each has its value.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    settings: Vec<Setting<'a>>,
    problems: Vec<Problem<'a>>,
}

/// A row of the table; texts are as environment variables would have them.
#[derive(Serialize)]
struct Setting<'a> {
    name: &'a str,
    field: &'a str,
    value: Option<&'a str>,
    unit: &'a str,
    source: String,
    live: bool,
    default: Option<&'a str>,
    allowed: &'a str,
    description: &'a str,
}

#[derive(Serialize)]
struct Problem<'a> {
    name: &'a str,
    message: &'a str,
}

impl<'a> Setting<'a> {
    fn new(row: &'a Explained) -> Self {
        Setting {
            name: &row.name,
            field: row.field,
            value: row.value.as_deref(),
            unit: row.unit,
            source: row.source.to_string(),
            live: row.live,
            default: row.default.as_deref(),
            allowed: &row.allowed,
            description: row.description,
        }
    }
}

/// Runs the command: settings of the environment, or of the file that `CONFIG` names, that cannot be used are problems.
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
    let rows = settings.explain();
    if args.json {
        let report = Report {
            settings: rows.iter().map(Setting::new).collect(),
            problems: settings
                .problems()
                .iter()
                .map(|problem| Problem { name: &problem.name, message: &problem.message })
                .collect(),
        };
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", ExplainTable(&rows))?;
    }
    settings.problems().iter().for_each(|problem| problems.report(problem));
    Ok(problems.outcome())
}
