//! Changes while the program runs: what a file and live calls say, above the layers with which the settings were built.
//!
//! Each setting has one value here at most, of the file or of a live call, whichever came later. A file counts as later only for the settings
//! that it says something new about, so that a live call outlasts a change of another line. The settings are then decided anew
//! from all layers, with the variables as they were found first: to read the environment again is not safe while other threads run.
//!
//! Invariant: a change is taken whole, or not at all.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::mem::discriminant;
use std::sync::Arc;

use super::builder::{parse_text, row_named};
use super::choice::Source;
use super::parse::Data;
use super::sampler::SamplerSetting;
use super::table::TABLE;
use super::{Settings, SettingsBuilder};

/// What settings were made of.
#[derive(Clone)]
pub(super) struct Layers {
    pub(super) builder: Arc<SettingsBuilder>,
    /// Those that are set and that settings ask for. May be secret.
    pub(super) variables: Arc<HashMap<String, OsString>>,
    /// What the file and live calls say; at most one for each row.
    given: Vec<Given>,
    /// What the file said last, whether it still counts or not.
    file: Vec<Given>,
}

/// A value of the file or of a live call.
#[derive(Clone)]
struct Given {
    /// Its place in the table.
    row: usize,
    data: Data,
    source: Source,
}

/// Settings are equal if they are the same in force.
impl PartialEq for Layers {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Layers {
    pub(super) fn new(builder: SettingsBuilder, variables: HashMap<String, OsString>) -> Self {
        Layers {
            builder: Arc::new(builder),
            variables: Arc::new(variables),
            given: Vec::new(),
            file: Vec::new(),
        }
    }

    /// What the file or a live call says about a row; `sampler` is the one in force, which another argument does not fit.
    pub(super) fn given(&self, row: usize, sampler: SamplerSetting) -> Option<(Data, Source)> {
        let given = self.given.iter().find(|given| given.row == row)?;
        if let Data::Root(root) = &given.data
            && discriminant(root) != discriminant(&sampler.root)
        {
            return None;
        }
        Some((given.data.clone(), given.source.clone()))
    }

    fn give(&mut self, given: Given) {
        self.take_back(given.row);
        self.given.push(given);
    }

    /// As [`give`](Self::give), for what was said before, so that an argument is not taken from its sampler.
    fn give_again(&mut self, given: Given) {
        self.given.retain(|other| other.row != given.row);
        self.given.push(given);
    }

    fn take_back(&mut self, row: usize) {
        self.given.retain(|given| given.row != row);
        if TABLE[row].access.field == "sampler" {
            // Its argument was meant for it.
            self.given.retain(|given| TABLE[given.row].access.field != "sampler_arg");
        }
    }
}

/// Why a file was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileProblem {
    /// Counted from 1.
    pub line: u32,
    /// What is wrong there, without a value that may be secret.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for FileProblem {}

impl Settings {
    /// These settings with other values, of settings that are live (see [`Settings::explain`]): names as for [`SettingsBuilder::text`]. An empty
    /// value takes back what was given before this way, or by the file.
    ///
    /// They win over all layers but a later change of the file; see [`Settings::with_file`].
    ///
    /// ```
    /// use spanring::settings::{Settings, SettingsBuilder, Source};
    ///
    /// let settings = SettingsBuilder::new().batch_size(64).ignore_environment().build();
    /// let changed = settings.with([("batch_size", "10"), ("sampler", "always_off")])?;
    /// assert_eq!((changed.batch_size, changed.source("batch_size")), (10, Some(&Source::Live)));
    /// assert_eq!(changed.with([("batch_size", "")])?.batch_size, 64);
    /// assert!(settings.with([("batch_size", "5"), ("sampler", "maybe")]).is_err());
    /// # Ok::<(), String>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no such setting, its value cannot be used, or it takes no change while the program runs; in words, without a value that
    /// may be secret.
    pub fn with<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings, String> {
        let mut changed = self.clone();
        for (name, value) in changes {
            let sampler = changed.sampler;
            let (row, data) = match value.trim().is_empty() {
                true => (row_named(name)?, None),
                false => parse_text(name, value, sampler).map(|(row, data)| (row, Some(data)))?,
            };
            if !TABLE[row].live {
                return Err(format!("{}; {AT_THE_START}", not_live(row)));
            }
            let Some(layers) = &mut changed.layers else { break };
            match data {
                Some(data) => layers.give(Given { row, data, source: Source::Live }),
                None => layers.take_back(row),
            }
            // A sampler is to be known to the argument that follows it.
            changed = changed.resolved(&[]);
        }
        Ok(changed)
    }

    /// These settings with what a file says, in place of what it said before: for each setting a line, counted from 1, its name and its value
    /// as for [`SettingsBuilder::text`]. What it says anew wins over all other layers, until somebody calls [`Settings::with`].
    ///
    /// In a program that is `running`, settings that are not live keep their values; the second part of the result says which, in words.
    ///
    /// # Errors
    ///
    /// The first line with a name that is unknown or was there before, or a value that cannot be used.
    pub fn with_file<'a>(
        &self,
        lines: impl IntoIterator<Item = (u32, &'a str, &'a str)>,
        running: bool,
    ) -> Result<(Settings, Vec<String>), FileProblem> {
        let mut lines: Vec<_> = lines.into_iter().collect();
        // The sampler stands before its argument in the table, too.
        lines.sort_by_key(|(_, name, _)| name.eq_ignore_ascii_case("sampler_arg"));
        let mut changed = self.clone();
        let Some(layers) = &mut changed.layers else { return Ok((changed, Vec::new())) };
        let before = std::mem::take(&mut layers.file);
        let is_of_file = |given: &Given| matches!(given.source, Source::File { .. });
        layers.given.retain(|given| !is_of_file(given) || (running && !TABLE[given.row].live));
        // An argument of the file is its own sampler's, or that of a layer below, whatever live calls say.
        let mut below = changed.clone();
        let layers = below.layers.as_mut().expect("they were there");
        layers.given.retain(is_of_file);
        let mut sampler = below.resolved(&[]).sampler;
        let layers = changed.layers.as_mut().expect("they were there");
        let mut notes = Vec::new();
        for (line, name, value) in lines {
            let problem = |message| FileProblem { line, message };
            let (row, data) = parse_text(name, value, sampler).map_err(problem)?;
            if layers.file.iter().any(|given| given.row == row) {
                return Err(problem(format!("{} is there twice", TABLE[row].suffix)));
            }
            if TABLE[row].access.field == "config" {
                return Err(problem("a file cannot name another one: take CONFIG out".to_owned()));
            }
            if let Data::Sampler(named) = data {
                sampler = named;
            }
            let given = Given { row, data, source: Source::File { line } };
            layers.file.push(given.clone());
            let said_before = before.iter().any(|old| old.row == row && old.data == given.data);
            if running && !TABLE[row].live {
                if !said_before {
                    notes.push(format!("line {line}: {}; {AT_THE_NEXT_START}", not_live(row)));
                }
                continue;
            }
            let is_live = layers.given.iter().any(|given| given.row == row);
            match (said_before, is_live) {
                (true, true) => {}
                (true, false) => layers.give_again(given),
                (false, _) => layers.give(given),
            }
        }
        if running {
            let layers = changed.layers.as_ref().expect("they were there");
            let gone = before.iter().filter(|old| {
                !TABLE[old.row].live && !layers.file.iter().any(|given| given.row == old.row)
            });
            notes.extend(gone.map(|old| format!("{}; {AT_THE_NEXT_START}", not_live(old.row))));
        }
        Ok((changed.resolved(&[]), notes))
    }
}

const AT_THE_START: &str = "give it before the pipeline starts";
const AT_THE_NEXT_START: &str = "it counts from the next start";

fn not_live(row: usize) -> String {
    format!("{} cannot change while the program runs", TABLE[row].suffix)
}
