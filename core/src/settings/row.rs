//! A row of the table of settings: what it says, its variables' names, and how it reaches its field.
//!
//! A row decides nothing about layers; [`super::builder`] does.
//!
//! Invariant: what `access.set` takes, `access.get` gives back; data of another kind than the
//! row's changes nothing.

use std::borrow::Cow;
use std::ffi::OsStr;

use super::choice::Preset;
use super::parse::{Data, Dialect, Kind, Parsed};
use super::problem::quote;
use super::{SamplerSetting, Settings};

/// One setting.
pub(super) struct Row {
    /// What follows `SPANRING_` and `RAAF_TRACE_` in its names.
    pub(super) suffix: &'static str,
    pub(super) kind: Kind,
    pub(super) access: Access,
    /// As text by our own rules; empty for no value.
    pub(super) default: &'static str,
    /// What having no value means, for a setting that can do without.
    pub(super) unset: Option<&'static str>,
    /// OpenTelemetry's names, the first preferred; their values follow its rules.
    pub(super) otel: &'static [&'static str],
    /// Further names, after all others.
    pub(super) aliases: &'static [&'static str],
    /// What presets say, as text by our own rules.
    pub(super) presets: &'static [(Preset, &'static str)],
    /// Whether a running engine takes up a change.
    pub(super) live: bool,
    /// One line: what it does.
    pub(super) description: &'static str,
}

/// How a row reaches its field.
pub(super) struct Access {
    /// The field's name in [`Settings`], and the method's in the builder.
    pub(super) field: &'static str,
    pub(super) get: fn(&Settings) -> Data,
    pub(super) set: fn(&mut Settings, Data),
}

/// The name of an environment variable, and the rules its value follows.
pub(super) struct Name {
    pub(super) text: Cow<'static, str>,
    pub(super) dialect: Dialect,
}

/// What our own names begin with.
pub(super) const PREFIX: &str = "SPANRING_";
const RAAF_PREFIX: &str = "RAAF_TRACE_";
const NONE: &str = "none";

impl Row {
    /// The preferred name.
    pub(super) fn name(&self) -> String {
        format!("{PREFIX}{}", self.suffix)
    }

    /// Every name, in order of precedence.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        let own = [self.name(), format!("{RAAF_PREFIX}{}", self.suffix)];
        let own = own.into_iter().map(|text| Name { text: text.into(), dialect: Dialect::Own });
        let otel = self.otel.iter().map(|&text| {
            // The one setting whose value means something else for all signals than for traces.
            let is_base = text == "OTEL_EXPORTER_OTLP_ENDPOINT";
            (text, if is_base { Dialect::OpenTelemetryBase } else { Dialect::OpenTelemetry })
        });
        let aliases = self.aliases.iter().map(|&text| (text, Dialect::Own));
        own.chain(otel.chain(aliases).map(|(text, dialect)| Name { text: text.into(), dialect }))
    }

    /// The value that a variable of this setting says.
    ///
    /// # Errors
    /// As [`Kind::parse`].
    pub(super) fn parse(
        &self,
        raw: &OsStr,
        dialect: Dialect,
        sampler: SamplerSetting,
    ) -> Result<Parsed, String> {
        if self.takes_none() && raw.eq_ignore_ascii_case(NONE) {
            return Ok(Data::Nothing.into());
        }
        self.kind.parse(raw, dialect, sampler)
    }

    /// A value as messages show it.
    pub(super) fn quote(&self, raw: &OsStr) -> String {
        match self.kind {
            // It may hold a secret, or part of one.
            Kind::Headers | Kind::Endpoint | Kind::BaseUrl | Kind::Secret | Kind::Webhook => {
                quote("…".as_ref())
            }
            _ => quote(raw),
        }
    }

    /// Whether the word `none` takes back what a lower layer says.
    pub(super) fn takes_none(&self) -> bool {
        let has_words = matches!(self.kind, Kind::Text | Kind::SamplerArgument | Kind::Word(_));
        self.unset.is_some() && !has_words
    }

    /// The values it takes, in words.
    pub(super) fn allowed(&self) -> String {
        let none = if self.takes_none() { ", or none" } else { "" };
        format!("{}{none}", self.kind.allowed())
    }

    /// The value of a text in this table.
    ///
    /// # Panics
    /// Never with the table as it is; the tests parse every text in it.
    pub(super) fn own_text(&self, text: &str) -> Data {
        if text.is_empty() && self.unset.is_some() {
            return Data::Nothing;
        }
        match self.kind.parse(text.as_ref(), Dialect::Own, SamplerSetting::default()) {
            Ok(parsed) => parsed.data,
            Err(why) => panic!("the table of settings is wrong: {} {text:?} {why}", self.suffix),
        }
    }

    /// What the preset says about this setting.
    pub(super) fn preset(&self, preset: Preset) -> Option<Data> {
        let (_, text) = self.presets.iter().find(|(named, _)| *named == preset)?;
        Some(self.own_text(text))
    }
}

/// What most rows have in common.
pub(super) const ROW: Row = Row {
    suffix: "",
    kind: Kind::Text,
    access: Access { field: "", get: |_| Data::Nothing, set: |_, _| {} },
    default: "",
    unset: None,
    otel: &[],
    aliases: &[],
    presets: &[],
    live: true,
    description: "",
};

macro_rules! integer {
    ($field:ident) => {
        Access {
            field: stringify!($field),
            get: |s| Data::Integer((s.$field as i128).min(i64::MAX as i128) as i64),
            set: |s, data| {
                if let Data::Integer(value) = data {
                    s.$field = value as _;
                }
            },
        }
    };
}

macro_rules! optional_integer {
    ($field:ident) => {
        Access {
            field: stringify!($field),
            get: |s| match s.$field {
                Some(value) => Data::Integer((value as i128).min(i64::MAX as i128) as i64),
                None => Data::Nothing,
            },
            set: |s, data| match data {
                Data::Integer(value) => s.$field = Some(value as _),
                Data::Nothing => s.$field = None,
                _ => {}
            },
        }
    };
}

macro_rules! text {
    ($field:ident) => {
        Access {
            field: stringify!($field),
            get: |s| match s.$field.as_str() {
                "" => Data::Nothing,
                text => Data::Text(text.to_owned()),
            },
            set: |s, data| {
                if let Data::Text(text) = data {
                    s.$field = text;
                }
            },
        }
    };
}

macro_rules! plain {
    ($variant:ident, $field:ident) => {
        Access {
            field: stringify!($field),
            get: |s| Data::$variant(s.$field.clone()),
            set: |s, data| {
                if let Data::$variant(value) = data {
                    s.$field = value;
                }
            },
        }
    };
}

macro_rules! optional {
    ($variant:ident, $field:ident) => {
        Access {
            field: stringify!($field),
            get: |s| s.$field.clone().map_or(Data::Nothing, Data::$variant),
            set: |s, data| match data {
                Data::$variant(value) => s.$field = Some(value),
                Data::Nothing => s.$field = None,
                _ => {}
            },
        }
    };
}

pub(super) use {integer, optional, optional_integer, plain, text};
