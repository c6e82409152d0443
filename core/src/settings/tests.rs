//! What holds for every row of the table, and what holds for single settings. No test touches the
//! process's environment: variables are handed to the builder.

mod changes;
mod oracle;
mod rows;
mod rules;

use std::ffi::OsString;

use super::{Settings, SettingsBuilder};

/// Builds with these variables alone.
fn with_variables(builder: SettingsBuilder, variables: &[(&str, &str)]) -> Settings {
    let owned = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    builder.build_from_variables(owned)
}

/// The value of a setting as a variable would say it.
fn value(settings: &Settings, field: &str) -> Option<String> {
    let rows = settings.explain();
    rows.into_iter().find(|row| row.field == field).expect("the field is in the table").value
}

fn messages(settings: &Settings) -> Vec<&str> {
    settings.problems().iter().map(|problem| problem.message.as_str()).collect()
}
