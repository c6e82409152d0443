//! What holds for every row: names, precedence, refusal of bad values, and the builder's methods.

use std::collections::HashSet;
use std::time::Duration;

use super::super::choice::{Level, LogLevel, Overflow, Preset, Propagator, Source};
use super::super::parse::{Data, Dialect, Kind};
use super::super::row::Row;
use super::super::sampler::{RootSampler, SamplerSetting};
use super::super::table::{TABLE, row_index};
use super::super::{Settings, SettingsBuilder};
use super::{messages, value, with_variables};

/// Two different valid values (as rendered) and their text for a variable of that dialect.
fn valid(row: &Row, dialect: Dialect) -> [(String, String); 2] {
    let same = |text: &str| (text.to_owned(), text.to_owned());
    match row.kind {
        Kind::Integer { min, max, .. } => {
            let middle = min + (max - min).min(1000) / 2;
            [same(&middle.to_string()), same(&(middle + 1).to_string())]
        }
        Kind::Bytes { .. } => [same("16777216"), ("33554432".to_owned(), "32 MiB".to_owned())],
        Kind::Duration { .. } => match dialect {
            Dialect::Own => [same("7.25"), same("8")],
            Dialect::OpenTelemetry | Dialect::OpenTelemetryBase => {
                [("7.25".to_owned(), "7250".to_owned()), ("8".to_owned(), "8000".to_owned())]
            }
        },
        Kind::Switch => [("true".to_owned(), "TRUE".to_owned()), same("false")],
        Kind::Share => [same("0.25"), same("1")],
        Kind::Address => {
            [("127.0.0.1:80".to_owned(), "LocalHost:80".to_owned()), same("[2001:db8::1]:9464")]
        }
        Kind::Text => [same("shop"), same("till")],
        Kind::Path => [same("/var/spans"), same("relative/spans")],
        Kind::Overflow => [same("wait:250"), ("drop".to_owned(), "DROP".to_owned())],
        Kind::Level => [same("debug"), ("error".to_owned(), "ERROR".to_owned())],
        Kind::Preset => [same("realtime"), ("production".to_owned(), "Production".to_owned())],
        Kind::Sampler => [same("traceidratio"), same("parentbased_every_nth")],
        Kind::SamplerArgument => [same("0.25"), same("0.75")],
        Kind::Rules => [
            ("name=db.* -> never".to_owned(), " db.*->never; ".to_owned()),
            same("kind=server, a>=1 -> ratio:0.5; * -> every_nth:3"),
        ],
        Kind::Levels => [
            same("scope:http=minimal; name:db.*=none"),
            ("name:a=full".to_owned(), "a = FULL".to_owned()),
        ],
        Kind::Details => [same("scope:http=detailed"), same("name:a=none; name:*=basic")],
        Kind::Propagators => [same("baggage"), same("tracecontext")],
        Kind::Attributes => [same("a=1"), same("b=2,c=3")],
        Kind::Endpoint => {
            let url = |given: &str, whole: &str| (format!("http://h/{whole}"), given.to_owned());
            match dialect {
                Dialect::Own => [url("http://h", "v1/traces"), url("HTTP://h/x", "x")],
                Dialect::OpenTelemetry => [url("http://h", ""), url("http://h/x", "x")],
                Dialect::OpenTelemetryBase => {
                    [url("http://h", "v1/traces"), url("http://h/x/", "x/v1/traces")]
                }
            }
        }
        Kind::Headers => [
            ("a=***".to_owned(), "a=secret%20one".to_owned()),
            ("b=***,c=***".to_owned(), "b=secret,c=other".to_owned()),
        ],
        Kind::BaseUrl => {
            [same("http://h:8080"), ("https://h/v1".to_owned(), "https://h/v1/".to_owned())]
        }
        Kind::HeaderValue => [same("org-1"), same("org-2")],
        Kind::Secret => [("***".to_owned(), "sk-1".to_owned()), ("***".to_owned(), "k".to_owned())],
        Kind::Webhook => [
            ("***".to_owned(), "http://h/hook".to_owned()),
            ("***".to_owned(), "HTTPS://u:p@h?key=1".to_owned()),
        ],
        // With one word there are no two different values.
        Kind::Word(words) => [same(words[0]), same(words[words.len() - 1])],
    }
}

/// Texts that are refused; none for a boolean of OpenTelemetry, which takes everything.
fn invalid(row: &Row, dialect: Dialect) -> Vec<String> {
    let texts: &[&str] = match (row.kind, dialect) {
        (Kind::Integer { min, max, .. }, _) => {
            return vec![
                "many".to_owned(),
                "1.5".to_owned(),
                (min - 1).to_string(),
                (max + 1).to_string(),
                "99999999999999999999999".to_owned(),
            ];
        }
        (Kind::Bytes { min, max }, _) => {
            return vec![
                "12 bananas".to_owned(),
                "MiB".to_owned(),
                (min - 1).to_string(),
                (max + 1).to_string(),
                "9000000000000 TiB".to_owned(),
            ];
        }
        (Kind::Duration { .. }, Dialect::Own) => {
            &["soon", ".", "-1", "0", "0.0000000001", "1e3", "inf", "9999999999", "1 s"]
        }
        (Kind::Duration { .. }, _) => &["soon", "1.5", "-1", "+1", "0", "9999999999999"],
        (Kind::Switch, Dialect::Own) => &["maybe", "2"],
        (Kind::Switch, _) => &[],
        (Kind::Share, _) => &["2", "-0.1", "NaN", "half", "5%"],
        (Kind::Address, _) => {
            &["9464", "localhost", "localhost:http", "127.0.0.1", "host:80", "::1:x"]
        }
        (Kind::Text, _) => return vec!["x".repeat(4097)],
        (Kind::Path, _) => return vec!["x".repeat((64 << 10) + 1)],
        (Kind::Overflow, _) => {
            &["wait", "wait:", "wait:0", "wait:60001", "wait:-1", "wait:1.5", "block"]
        }
        (Kind::Level, _) => &["loud"],
        (Kind::Preset, _) => &["fast"],
        (Kind::Sampler, _) => &["sometimes", "parentbased_", "parentbased_parentbased_always_on"],
        (Kind::SamplerArgument, _) => &["2", "-0.1", "NaN", "half"],
        (Kind::Rules, _) => &["always", "db.* -> sometimes", "a>b -> never", "a=\"b -> never"],
        (Kind::Levels, _) => &["minimal", "a=most", "scope:=none", "scope:http"],
        (Kind::Details, _) => &["detailed", "a=much"],
        (Kind::Propagators, _) => &["pigeon", "none,pigeon"],
        (Kind::Attributes, _) => &["a", "a=%zz", "a=%f", "=1", "a=%ff"],
        (Kind::Endpoint, _) => &[
            "collector:4318",
            "ftp://h",
            "http://",
            "http://:4318",
            "http://h:port",
            "http://h:0",
            "http://user:pass@h",
            "http://h/#x",
            "http://a b",
            "unix://relative",
            "unix:///socket:path",
        ],
        (Kind::BaseUrl, _) => &["h", "ftp://h", "http://u:p@h", "http://h?key=1", "http://h#x"],
        (Kind::Webhook, _) => {
            &["h/hook", "ftp://h", "http://", "https:///x", "http://a b", "unix://x"]
        }
        (Kind::HeaderValue | Kind::Secret, _) => {
            return ["a b", "a\nb", "é", &"x".repeat(4097)].map(str::to_owned).into();
        }
        (Kind::Headers, _) => &["a", "a=%zz", "=1", "a%20b=1", "a=%0A"],
        (Kind::Word(_), _) => &["grpc", "gzip, zstd"],
    };
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// A builder in which every setting can take effect: an argument needs a sampler that takes one, OpenAI a key.
fn builder() -> SettingsBuilder {
    let root = RootSampler::TraceIdRatio(0.5);
    SettingsBuilder::new()
        .sampler(SamplerSetting { parent_based: false, root })
        .openai_api_key("sk-code")
}

#[test]
fn suffixes_fields_and_names_are_unique_and_fields_follow_from_suffixes() {
    let mut names = HashSet::new();
    for row in TABLE {
        assert_eq!(row.suffix.to_lowercase(), row.access.field);
        assert!(!row.description.is_empty() && !row.description.contains('\n'), "{}", row.suffix);
        for name in row.names() {
            assert!(names.insert(name.text.to_string()), "{} twice", name.text);
        }
    }
}

#[test]
fn rows_that_decide_how_others_are_read_come_first() {
    let at = |field| row_index(field).expect("the field is in the table");
    assert_eq!(at("preset"), 0);
    assert!(at("sampler") < at("sampler_arg"));
}

#[test]
fn every_default_and_preset_of_the_table_is_valid_and_reaches_its_field() {
    for row in TABLE {
        let texts = row.presets.iter().map(|(_, text)| *text).chain([row.default]);
        for text in texts {
            let data = row.own_text(text);
            assert_eq!(row.kind.check(&data), Ok(()), "{} {text:?}", row.suffix);
            let mut settings = Settings::default();
            (row.access.set)(&mut settings, data.clone());
            if data != Data::Nothing {
                assert_eq!((row.access.get)(&settings), data, "{} {text:?}", row.suffix);
            }
        }
    }
}

#[test]
fn every_setting_has_its_default_from_the_table() {
    let settings = Settings::default();
    assert_eq!(settings.problems(), []);
    for (row, explained) in TABLE.iter().zip(settings.explain()) {
        assert_eq!(explained.source, Source::Default, "{}", row.suffix);
        if row.access.field != "service_name" {
            assert_eq!(explained.value, explained.default, "{}", row.suffix);
        }
    }
}

#[test]
fn every_setting_can_be_set_by_each_of_its_names() {
    for row in TABLE {
        for name in row.names() {
            for (expected, text) in valid(row, name.dialect) {
                let settings = with_variables(builder(), &[(&name.text, &text)]);
                let source = Source::Variable(name.text.to_string());
                assert_eq!(settings.source(row.access.field), Some(&source), "{text}");
                assert_eq!(value(&settings, row.access.field), Some(expected), "{}", name.text);
                assert!(settings.problems().is_empty(), "{:?}", settings.problems());
            }
        }
    }
}

#[test]
fn an_earlier_name_wins_over_a_later_one() {
    for row in TABLE {
        let names: Vec<_> = row.names().collect();
        for (index, earlier) in names.iter().enumerate() {
            for later in &names[index + 1..] {
                let [(first, first_text), _] = valid(row, earlier.dialect);
                let [_, (_, second_text)] = valid(row, later.dialect);
                let variables =
                    [(&*earlier.text, &*first_text), (&*later.text, second_text.as_str())];
                let settings = with_variables(builder(), &variables);
                assert_eq!(value(&settings, row.access.field), Some(first), "{}", earlier.text);
            }
        }
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    for row in TABLE {
        for name in row.names() {
            for blank in ["", "  \t"] {
                let settings = with_variables(builder(), &[(&name.text, blank)]);
                assert_eq!(settings, with_variables(builder(), &[]), "{}", name.text);
            }
        }
    }
}

#[test]
fn a_bad_value_is_reported_once_and_the_next_name_decides() {
    for row in TABLE {
        let names: Vec<_> = row.names().collect();
        for (index, name) in names.iter().enumerate() {
            for bad in invalid(row, name.dialect) {
                let mut variables = vec![(&*name.text, bad.as_str())];
                let next = names.get(index + 1);
                let (expected, text) = next.map(|next| valid(row, next.dialect)[0].clone()).unzip();
                if let (Some(next), Some(text)) = (next, &text) {
                    variables.push((&*next.text, text));
                }
                let settings = with_variables(builder(), &variables);
                let lower = value(&with_variables(builder(), &[]), row.access.field);
                let got = value(&settings, row.access.field);
                assert_eq!(got, expected.or(lower), "{}={bad}", name.text);
                let [problem] = settings.problems() else {
                    panic!("{}={bad}: {:?}", name.text, settings.problems());
                };
                assert_eq!(problem.name, name.text);
                assert!(problem.message.starts_with(&format!("{}=\"", name.text)), "{problem}");
                assert!(problem.message.contains("; allowed: "), "{problem}");
                assert!(problem.message.contains("; using "), "{problem}");
                assert!(problem.message.len() < 600, "{problem}");
            }
        }
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_except_for_paths() {
    use std::os::unix::ffi::OsStringExt;
    let raw = std::ffi::OsString::from_vec(b"/x\xff".to_vec());
    for row in TABLE {
        let settings = builder().build_from(&|name| (name == row.name()).then(|| raw.clone()));
        if let Kind::Path = row.kind {
            let Data::Path(path) = (row.access.get)(&settings) else { panic!("{}", row.suffix) };
            assert_eq!(path, std::path::Path::new(&raw));
        } else {
            assert_eq!(settings.problems().len(), 1, "{}", row.suffix);
            assert_ne!(settings.source(row.access.field), Some(&Source::Variable(row.name())));
        }
    }
}

#[test]
fn the_word_none_takes_back_what_code_says_where_a_setting_can_do_without() {
    let code = SettingsBuilder::new()
        .preset(Preset::Raaf)
        .retry_attempts(3)
        .config("/etc/spans.toml")
        .dir("/var/spans")
        .endpoint("http://h")
        .certificate("a.pem")
        .client_certificate("b.pem")
        .client_key("c.pem")
        .openai_api_key("sk-code")
        .openai_org_id("org-code")
        .openai_project_id("proj-code")
        .attribute_value_length_limit(10)
        .rules("a -> never".parse().unwrap())
        .levels("a=none".parse().unwrap())
        .details("a=none".parse().unwrap())
        .status_address(([127, 0, 0, 1], 0).into())
        .alert_webhook("http://h")
        .alert_p99(Duration::from_secs(1));
    let fields = [
        "rules",
        "levels",
        "details",
        "preset",
        "config",
        "retry_attempts",
        "dir",
        "endpoint",
        "certificate",
        "client_certificate",
        "client_key",
        "openai_api_key",
        "openai_org_id",
        "openai_project_id",
        "attribute_value_length_limit",
        "status_address",
        "alert_webhook",
        "alert_p99",
    ];
    for field in fields {
        let name = format!("SPANRING_{}", field.to_uppercase());
        let settings = with_variables(code.clone(), &[(&name, "none")]);
        assert_eq!(value(&settings, field), None);
        assert_eq!(settings.source(field), Some(&Source::Variable(name)));
        assert_eq!(messages(&settings), [""; 0]);
    }
    assert_eq!(TABLE.iter().filter(|row| row.takes_none()).count(), fields.len());
}

/// Sets each field in code; each pair is the field, and what sets it to something not its default.
type Setter = fn(SettingsBuilder) -> SettingsBuilder;
const SETTERS: &[(&str, &str, Setter)] = &[
    ("preset", "throughput", |b| b.preset(Preset::Throughput)),
    ("config", "/etc/spans.toml", |b| b.config("/etc/spans.toml")),
    ("max_spans", "700", |b| b.max_spans(700)),
    ("max_bytes", "8388608", |b| b.max_bytes(8 << 20)),
    ("overflow", "wait:50", |b| b.overflow(Overflow::Wait(50))),
    ("batch_size", "7", |b| b.batch_size(7)),
    ("flush_interval", "0.001", |b| b.flush_interval(Duration::from_millis(1))),
    ("max_batch_wait", "86400", |b| b.max_batch_wait(Duration::from_secs(86400))),
    ("cleanup_interval", "2.000000001", |b| b.cleanup_interval(Duration::new(2, 1))),
    ("retry_attempts", "0", |b| b.retry_attempts(0)),
    ("dir", "spans", |b| b.dir("spans")),
    ("retention_bytes", "2147483648", |b| b.retention_bytes(2 << 30)),
    ("segment_max_bytes", "4096", |b| b.segment_max_bytes(4096)),
    ("segment_max_age", "60", |b| b.segment_max_age(Duration::from_secs(60))),
    ("fsync", "true", |b| b.fsync(true)),
    ("endpoint", "https://h:1/v1/traces", |b| b.endpoint("https://h:1")),
    ("protocol", "http/protobuf", |b| b.protocol("http/protobuf")),
    ("headers", "api-key=***", |b| b.headers([("api-key", "secret")])),
    ("compression", "zstd", |b| b.compression("zstd")),
    ("timeout", "3", |b| b.timeout(Duration::from_secs(3))),
    ("certificate", "ca.pem", |b| b.certificate("ca.pem")),
    ("client_certificate", "own.pem", |b| b.client_certificate("own.pem")),
    ("client_key", "own.key", |b| b.client_key("own.key")),
    ("pool_size", "5", |b| b.pool_size(5)),
    ("openai", "true", |b| b.openai(true).openai_api_key("sk-code")),
    ("openai_base_url", "http://h/v1", |b| b.openai_base_url("http://h/v1")),
    ("openai_api_key", "***", |b| b.openai_api_key("sk-code")),
    ("openai_org_id", "org-1", |b| b.openai_org_id("org-1")),
    ("openai_project_id", "proj-1", |b| b.openai_project_id("proj-1")),
    ("spool_max_bytes", "65536", |b| b.spool_max_bytes(64 << 10)),
    ("spool_max_age", "1", |b| b.spool_max_age(Duration::from_secs(1))),
    ("compression_level", "19", |b| b.compression_level(19)),
    ("sampler", "parentbased_rate_limit", |b| {
        b.sampler(SamplerSetting { parent_based: true, root: RootSampler::RateLimit(2.5) })
    }),
    ("sampler_arg", "9", |b| {
        b.sampler(SamplerSetting { parent_based: false, root: RootSampler::EveryNth(9) })
    }),
    ("rules", "name=a -> never", |b| b.rules("a -> never".parse().unwrap())),
    ("level", "minimal", |b| b.level(Level::Minimal)),
    ("levels", "scope:a=smart", |b| b.levels("scope:a=smart".parse().unwrap())),
    ("basic_tracing", "false", |b| b.basic_tracing(false)),
    ("detailed_tracing", "true", |b| b.detailed_tracing(true)),
    ("details", "name:a=detailed", |b| b.details("a=detailed".parse().unwrap())),
    ("disabled", "true", |b| b.disabled(true)),
    ("capture_content", "false", |b| b.capture_content(false)),
    ("log_level", "fatal", |b| b.log_level(LogLevel::Fatal)),
    ("resource_attributes", "a%20b=%C3%A9%2C", |b| b.resource_attributes([("a b", "é,")])),
    ("service_name", "till", |b| b.service_name("till")),
    ("propagators", "none", |b| b.propagators([])),
    ("attribute_count_limit", "0", |b| b.attribute_count_limit(0)),
    ("attribute_value_length_limit", "12", |b| b.attribute_value_length_limit(12)),
    ("event_count_limit", "1", |b| b.event_count_limit(1)),
    ("link_count_limit", "2", |b| b.link_count_limit(2)),
    ("event_attribute_count_limit", "3", |b| b.event_attribute_count_limit(3)),
    ("link_attribute_count_limit", "2147483647", |b| b.link_attribute_count_limit(i32::MAX as u32)),
    ("metrics", "true", |b| b.metrics(true)),
    ("report_every", "1000", |b| b.report_every(1000)),
    ("health_max_memory", "1048576", |b| b.health_max_memory(1 << 20)),
    ("health_max_error_rate", "0.5", |b| b.health_max_error_rate(0.5)),
    ("health_sink_grace", "0.001", |b| b.health_sink_grace(Duration::from_millis(1))),
    ("status_address", "[::1]:9464", |b| b.status_address("[::1]:9464".parse().unwrap())),
    ("status_any_address", "true", |b| b.status_any_address(true)),
    ("alerts", "true", |b| b.alerts(true)),
    ("alert_webhook", "***", |b| b.alert_webhook("http://u:p@h/secret")),
    ("alert_interval", "2", |b| b.alert_interval(Duration::from_secs(2))),
    ("alert_cooldown", "3", |b| b.alert_cooldown(Duration::from_secs(3))),
    ("alert_error_rate", "0.5", |b| b.alert_error_rate(0.5)),
    ("alert_slow_time", "0.25", |b| b.alert_slow_time(Duration::from_millis(250))),
    ("alert_slow_rate", "0", |b| b.alert_slow_rate(0.0)),
    ("alert_p99", "4", |b| b.alert_p99(Duration::from_secs(4))),
    ("alert_drop_rate", "1", |b| b.alert_drop_rate(1.0)),
    ("redact", "*password*,token", |b| b.redact("*password*,token")),
    ("track_errors", "true", |b| b.track_errors(true)),
    ("processor_max_time", "0.5", |b| b.processor_max_time(Duration::from_millis(500))),
    ("memory_profile", "agent.*", |b| b.memory_profile("agent.*")),
];

#[test]
fn every_setting_can_be_set_in_code_and_overridden_by_a_variable() {
    let set: Vec<_> = SETTERS.iter().map(|(field, ..)| *field).collect();
    let table: Vec<_> = TABLE.iter().map(|row| row.access.field).collect();
    assert_eq!(set, table, "a setting has no builder method, or this list lacks it");
    for (row, (field, expected, setter)) in TABLE.iter().zip(SETTERS) {
        let settings = setter(SettingsBuilder::new()).ignore_environment().build();
        assert_eq!(value(&settings, field).as_deref(), Some(*expected), "{field}");
        assert_eq!(settings.source(field), Some(&Source::Code), "{field}");
        assert_eq!(messages(&settings), [""; 0]);

        // An argument belongs to a sampler, so that one must come from the code as well.
        let text = if *field == "sampler_arg" { "3" } else { &valid(row, Dialect::Own)[0].1 };
        let settings = with_variables(setter(SettingsBuilder::new()), &[(&row.name(), text)]);
        assert_eq!(settings.source(field), Some(&Source::Variable(row.name())), "{field}");

        let variables = [(&*row.name(), text)];
        let settings =
            with_variables(setter(SettingsBuilder::new()).ignore_environment(), &variables);
        assert_eq!(value(&settings, field).as_deref(), Some(*expected), "{field}");
    }
}

#[test]
fn a_value_out_of_range_in_code_is_reported_and_the_lower_layer_decides() {
    let root = RootSampler::TraceIdRatio(f64::NAN);
    let bad: &[(&str, Setter)] = &[
        ("max_spans", |b| b.max_spans(usize::MAX)),
        ("max_bytes", |b| b.max_bytes(u64::MAX)),
        ("overflow", |b| b.overflow(Overflow::Wait(0))),
        ("batch_size", |b| b.batch_size(0)),
        ("flush_interval", |b| b.flush_interval(Duration::MAX)),
        ("max_batch_wait", |b| b.max_batch_wait(Duration::ZERO)),
        ("dir", |b| b.dir("")),
        ("endpoint", |b| b.endpoint("collector:4318")),
        ("headers", |b| b.headers([("api key", "secret")])),
        ("compression", |b| b.compression("lz4")),
        ("openai_base_url", |b| b.openai_base_url("api.openai.com")),
        ("openai_api_key", |b| b.openai_api_key("a\nb")),
        ("openai_org_id", |b| b.openai_org_id("")),
        ("compression_level", |b| b.compression_level(20)),
        ("service_name", |b| b.service_name("x".repeat(5000))),
        ("resource_attributes", |b| b.resource_attributes([("", "x")])),
        ("attribute_value_length_limit", |b| b.attribute_value_length_limit(usize::MAX)),
    ];
    let preset = SettingsBuilder::new().preset(Preset::Production).ignore_environment();
    let below = preset.clone().build();
    for (field, setter) in bad {
        let settings = setter(preset.clone()).build();
        assert_eq!(value(&settings, field), value(&below, field));
        assert_eq!(settings.source(field), below.source(field));
        let [problem] = settings.problems() else { panic!("{field}: {:?}", settings.problems()) };
        assert_eq!(problem.name, *field);
    }
    let settings = preset.sampler(SamplerSetting { parent_based: true, root }).build();
    assert_eq!(settings.sampler.root, RootSampler::TraceIdRatio(1.0));
    assert_eq!(settings.problems().len(), 1);
}

#[test]
fn a_later_sampler_without_an_argument_forgets_an_earlier_one_with_it() {
    let with = SamplerSetting { parent_based: true, root: RootSampler::EveryNth(5) };
    let without = SamplerSetting { parent_based: false, root: RootSampler::AlwaysOff };
    let settings =
        SettingsBuilder::new().sampler(with).sampler(without).ignore_environment().build();
    assert_eq!(settings.sampler, without);
    assert_eq!(settings.source("sampler_arg"), Some(&Source::Default));
}

#[test]
fn repeated_propagators_and_attributes_count_once() {
    let settings = SettingsBuilder::new()
        .propagators([Propagator::Baggage, Propagator::TraceContext, Propagator::Baggage])
        .resource_attributes([("a", "1"), ("b", "2"), ("a", "3")])
        .ignore_environment()
        .build();
    assert_eq!(settings.propagators, [Propagator::Baggage, Propagator::TraceContext]);
    let expected = [("a", "3"), ("b", "2")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(settings.resource_attributes, expected);
}
