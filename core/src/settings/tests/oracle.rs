//! The whole of the layers against a short model of them, and arbitrary bytes in every variable.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::choice::{LogLevel, Preset};
use super::super::table::TABLE;
use super::super::{Settings, SettingsBuilder};
use super::with_variables;

/// What a variable says, before it is worded for its setting.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Blank,
    Nonsense,
    Number(u32),
}

/// A setting as the model knows it: names in order of precedence, wording, and reading back.
struct Model {
    names: &'static [&'static str],
    /// The text of a number for the variable of that name.
    word: fn(u32, &str) -> String,
    /// The number in the words of the built settings.
    read: fn(&Settings) -> u32,
    code: fn(SettingsBuilder, u32) -> SettingsBuilder,
    /// What a number becomes; a boolean has only two.
    fold: fn(u32) -> u32,
    preset: fn(Preset) -> Option<u32>,
    default: u32,
    /// The variable that takes nonsense for zero.
    lenient: &'static str,
}

const LEVELS: [LogLevel; 5] =
    [LogLevel::Fatal, LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];

const MODELS: &[Model] = &[
    Model {
        names: &["SPANRING_MAX_SPANS", "RAAF_TRACE_MAX_SPANS", "OTEL_BSP_MAX_QUEUE_SIZE"],
        word: |n, _| n.to_string(),
        read: |s| s.max_spans as u32,
        code: |b, n| b.max_spans(n as usize),
        fold: |n| n,
        preset: |preset| match preset {
            Preset::Raaf => Some(1000),
            Preset::Production => Some(5000),
            _ => None,
        },
        default: 65536,
        lenient: "",
    },
    Model {
        names: &["SPANRING_FLUSH_INTERVAL", "RAAF_TRACE_FLUSH_INTERVAL", "OTEL_BSP_SCHEDULE_DELAY"],
        word: |n, name| match name {
            "OTEL_BSP_SCHEDULE_DELAY" => n.to_string(),
            _ => format!("{}.{:03}", n / 1000, n % 1000),
        },
        read: |s| s.flush_interval.as_millis() as u32,
        code: |b, n| b.flush_interval(Duration::from_millis(u64::from(n))),
        fold: |n| n,
        preset: |preset| match preset {
            Preset::Raaf => Some(5000),
            Preset::Realtime => Some(1000),
            Preset::Throughput => Some(30_000),
            Preset::Production => Some(10_000),
        },
        default: 5000,
        lenient: "",
    },
    Model {
        names: &[
            "SPANRING_ATTRIBUTE_COUNT_LIMIT",
            "RAAF_TRACE_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_COUNT_LIMIT",
        ],
        word: |n, _| n.to_string(),
        read: |s| s.attribute_count_limit,
        code: |b, n| b.attribute_count_limit(n),
        fold: |n| n,
        preset: |_| None,
        default: 128,
        lenient: "",
    },
    Model {
        names: &["SPANRING_LOG_LEVEL", "RAAF_TRACE_LOG_LEVEL", "OTEL_LOG_LEVEL", "RAAF_LOG_LEVEL"],
        word: |n, _| LEVELS[n as usize % 5].name().to_uppercase(),
        read: |s| s.log_level as u32,
        code: |b, n| b.log_level(LEVELS[n as usize % 5]),
        fold: |n| n % 5,
        preset: |_| None,
        default: 2,
        lenient: "",
    },
    Model {
        names: &[
            "SPANRING_DISABLED",
            "RAAF_TRACE_DISABLED",
            "OTEL_SDK_DISABLED",
            "RAAF_DISABLE_TRACING",
        ],
        word: |n, _| if n % 2 == 1 { "true" } else { "false" }.to_owned(),
        read: |s| u32::from(s.disabled),
        code: |b, n| b.disabled(n % 2 == 1),
        fold: |n| n % 2,
        preset: |_| None,
        default: 0,
        lenient: "OTEL_SDK_DISABLED",
    },
];

impl Model {
    /// The value and the variables that are reported, by the rules as the documentation says them.
    fn expect(
        &self,
        said: &[Said],
        code: Option<u32>,
        preset: Option<Preset>,
    ) -> (u32, Vec<&'static str>) {
        let mut reported = Vec::new();
        for (name, said) in self.names.iter().zip(said) {
            match said {
                Said::Nothing | Said::Blank => {}
                Said::Number(n) => return ((self.fold)(*n), reported),
                Said::Nonsense => reported.push(*name),
            }
            if matches!(said, Said::Nonsense) && *name == self.lenient {
                return (0, reported);
            }
        }
        let lower = code.map(self.fold).or_else(|| preset.and_then(self.preset));
        (lower.unwrap_or(self.default), reported)
    }
}

fn said() -> impl Strategy<Value = Said> {
    // From 512, so that no batch size has to be lowered.
    let number = 512_u32..60_000;
    prop_oneof![
        3 => Just(Said::Nothing),
        1 => Just(Said::Blank),
        2 => Just(Said::Nonsense),
        2 => number.prop_map(Said::Number),
    ]
}

fn preset() -> impl Strategy<Value = Option<Preset>> {
    proptest::option::of(proptest::sample::select(Preset::ALL))
}

proptest! {
    // A failure prints its input; files of old failures beside the sources would only go stale.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_and_names_decide_as_the_model_says(
        said in vec(vec(said(), 4), MODELS.len()),
        code in vec(proptest::option::of(512_u32..60_000), MODELS.len()),
        code_preset in preset(),
        variable_preset in preset(),
        reads_environment in any::<bool>(),
    ) {
        let mut builder = SettingsBuilder::new();
        let mut variables: Vec<(&str, String)> = Vec::new();
        for ((model, said), code) in MODELS.iter().zip(&said).zip(&code) {
            for (name, said) in model.names.iter().zip(said) {
                match said {
                    Said::Nothing => {}
                    Said::Blank => variables.push((name, " ".to_owned())),
                    Said::Nonsense => variables.push((name, "12 monkeys".to_owned())),
                    Said::Number(n) => variables.push((name, (model.word)(*n, name))),
                }
            }
            if let Some(n) = code {
                builder = (model.code)(builder, *n);
            }
        }
        if let Some(preset) = code_preset {
            builder = builder.preset(preset);
        }
        if let Some(preset) = variable_preset {
            variables.push(("SPANRING_PRESET", preset.name().to_owned()));
        }
        if !reads_environment {
            builder = builder.ignore_environment();
        }
        let variables: Vec<_> = variables.iter().map(|(name, text)| (*name, &**text)).collect();
        let settings = with_variables(builder, &variables);

        let preset = variable_preset.filter(|_| reads_environment).or(code_preset);
        prop_assert_eq!(settings.preset, preset);
        let mut expected_reports = Vec::new();
        for ((model, said), code) in MODELS.iter().zip(&said).zip(&code) {
            let said = if reads_environment { &said[..] } else { &[] };
            let (expected, reported) = model.expect(said, *code, preset);
            prop_assert_eq!((model.read)(&settings), expected, "{}", model.names[0]);
            expected_reports.extend(reported);
        }
        let mut reports: Vec<_> = settings.problems().iter().map(|p| p.name.as_str()).collect();
        reports.sort_unstable();
        expected_reports.sort_unstable();
        prop_assert_eq!(reports, expected_reports);
    }

    #[test]
    fn whatever_the_environment_says_the_settings_are_valid(
        texts in vec(proptest::option::of(hostile()), 360),
    ) {
        let names = TABLE.iter().flat_map(|row| row.names()).map(|name| name.text.into_owned());
        let names: Vec<String> = names.collect();
        prop_assert!(names.len() <= texts.len());
        let variables = names.iter().zip(texts).filter_map(|(name, text)| Some((name, text?)));
        let variables = variables.map(|(name, text)| (OsString::from(name), text));
        let settings = SettingsBuilder::new().build_from_variables(variables);

        for row in TABLE {
            prop_assert_eq!(row.kind.check(&(row.access.get)(&settings)), Ok(()), "{}", row.suffix);
        }
        prop_assert!(settings.batch_size <= settings.max_spans);
        prop_assert!(settings.max_spans as u64 * 64 <= settings.max_bytes);
        prop_assert!(settings.segment_max_bytes <= settings.retention_bytes);
        prop_assert!(!settings.service_name.is_empty());
        for problem in settings.problems() {
            prop_assert!(problem.message.len() < 2000, "{}", problem);
            prop_assert!(!problem.message.contains(char::is_control), "{}", problem);
        }
        let reported: HashSet<_> = settings.problems().iter().map(|p| &p.message).collect();
        prop_assert_eq!(reported.len(), settings.problems().len());

        // What is in force, said as variables, gives the same settings again.
        let again = TABLE.iter().zip(settings.explain()).filter_map(|(row, explained)| {
            let none = row.takes_none().then(|| "none".to_owned());
            let text = explained.value.or(none).filter(|_| explained.field != "dir")?;
            Some((OsString::from(explained.name), OsString::from(text)))
        });
        let again = SettingsBuilder::new().build_from_variables(again);
        for (first, second) in settings.explain().into_iter().zip(again.explain()) {
            let comparable = !["dir", "service_name"].contains(&first.field);
            prop_assert!(!comparable || first.value == second.value, "{:?} {:?}", first, second);
        }
    }
}

/// Text near what settings take, and bytes that are nothing at all.
fn hostile() -> impl Strategy<Value = OsString> {
    let near = proptest::sample::select(vec![
        "true",
        "none",
        "1",
        "0",
        "-1",
        "0.5",
        "1000",
        "16777216",
        "3GiB",
        "1MiB",
        "64KiB",
        "5",
        "999999999999999999999",
        "1.000000001",
        "always_on",
        "parentbased_rate_limit",
        "every_nth",
        "traceidratio",
        "localhost:99",
        "kind=server, a>1 -> ratio:0.5; *->never",
        "scope:a*=minimal;b=none",
        "a=detailed",
        "baggage,b3,none",
        "a=b,c=%41",
        "service.name=x",
        "a=%",
        "%=%,=",
        "raaf",
        "production",
        "debug",
        "NaN",
        "1e308",
        "∞",
        "👩‍👩‍👧=1",
        "\u{1b}[2J",
    ]);
    prop_oneof![
        6 => near.prop_map(OsString::from),
        2 => vec(any::<u8>(), 0..40).prop_map(OsString::from_vec),
        1 => (any::<char>(), 0..70_000_usize).prop_map(|(c, n)| c.to_string().repeat(n).into()),
    ]
}
