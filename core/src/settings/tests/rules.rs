//! What holds for single settings, presets, and values that belong together.

use std::time::Duration;

use super::super::choice::{Detail, Level, LogLevel, Preset, Propagator, Source};
use super::super::sampler::{RootSampler, SamplerSetting};
use super::super::{ExplainTable, Settings, SettingsBuilder};
use super::{messages, with_variables};

fn from(variables: &[(&str, &str)]) -> Settings {
    with_variables(SettingsBuilder::new(), variables)
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let settings = Settings::default();
    assert_eq!(settings.max_spans, 65536);
    assert_eq!(settings.max_bytes, 64 << 20);
    assert_eq!(settings.batch_size, 512);
    assert_eq!(settings.flush_interval, Duration::from_secs(5));
    assert_eq!(settings.max_batch_wait, Duration::from_secs(30));
    assert_eq!(settings.cleanup_interval, Duration::from_secs(60));
    assert_eq!(settings.retry_attempts, None);
    assert_eq!(settings.dir, None);
    assert_eq!(settings.sampler.to_string(), "parentbased_always_on");
    assert_eq!(settings.log_level, LogLevel::Warn);
    assert_eq!(settings.propagators, [Propagator::TraceContext, Propagator::Baggage]);
    assert_eq!(settings.attribute_count_limit, 128);
    assert_eq!(settings.attribute_value_length_limit, None);
    assert!(!settings.disabled && !settings.fsync);
    assert!(settings.service_name.starts_with("unknown_service:"));
}

#[test]
fn presets_set_what_is_documented_and_nothing_else() {
    let seconds = Duration::from_secs;
    let default = Settings::default();
    let numbers = |s: &Settings| {
        (
            (s.batch_size, s.flush_interval, s.max_batch_wait),
            (s.max_spans, s.cleanup_interval, s.retry_attempts),
        )
    };
    let expected = [
        (Preset::Raaf, ((50, seconds(5), seconds(30)), (1000, seconds(60), None))),
        (Preset::Realtime, ((10, seconds(1), seconds(30)), (65536, seconds(60), None))),
        (Preset::Throughput, ((500, seconds(30), seconds(30)), (65536, seconds(60), None))),
        (Preset::Production, ((100, seconds(10), seconds(30)), (5000, seconds(300), Some(3)))),
    ];
    assert_eq!(expected.len(), Preset::ALL.len());
    for (preset, expected) in expected {
        let by_code = SettingsBuilder::new().preset(preset).ignore_environment().build();
        assert_eq!(numbers(&by_code), expected, "{preset}");
        let by_name = from(&[("RAAF_TRACE_PRESET", preset.name())]);
        assert_eq!(numbers(&by_name), expected, "{preset}");
        assert_eq!(by_name.source("batch_size"), Some(&Source::Preset(preset)));
        assert_eq!(by_code.compression_level, default.compression_level);
        assert_eq!(messages(&by_code), [""; 0]);
    }
}

#[test]
fn code_stands_above_a_preset_that_a_variable_names() {
    let code = SettingsBuilder::new().preset(Preset::Throughput).batch_size(64);
    let settings = with_variables(code, &[("SPANRING_PRESET", "production")]);
    assert_eq!(settings.batch_size, 64);
    assert_eq!(settings.max_spans, 5000);
    assert_eq!(settings.source("max_spans"), Some(&Source::Preset(Preset::Production)));
}

#[test]
fn a_message_says_what_is_wrong_what_is_allowed_and_what_is_used() {
    let preset = SettingsBuilder::new().preset(Preset::Raaf);
    let settings = with_variables(
        preset,
        &[("SPANRING_BATCH_SIZE", "lots"), ("OTEL_BSP_SCHEDULE_DELAY", "0.5")],
    );
    assert_eq!(
        messages(&settings),
        [
            "SPANRING_BATCH_SIZE=\"lots\" is not a whole number; allowed: 1 to 65536; \
             using 50 spans (preset raaf)",
            "OTEL_BSP_SCHEDULE_DELAY=\"0.5\" is not a whole number of milliseconds; \
             allowed: 0.001 to 3600; using 5 s (preset raaf)",
        ]
    );
}

#[test]
fn only_true_is_true_for_opentelemetry() {
    for text in ["true", "True", "TRUE"] {
        assert!(from(&[("OTEL_SDK_DISABLED", text)]).disabled);
    }
    assert_eq!(messages(&from(&[("OTEL_SDK_DISABLED", "False")])), [""; 0]);
    for text in ["1", "yes", "on", "disabled"] {
        let settings = from(&[("OTEL_SDK_DISABLED", text), ("RAAF_DISABLE_TRACING", "true")]);
        assert!(!settings.disabled, "{text} means false, and OpenTelemetry's name comes first");
        assert_eq!(settings.problems().len(), 1);
        assert!(from(&[("RAAF_DISABLE_TRACING", text)]).disabled == (text != "disabled"));
    }
}

#[test]
fn the_limit_for_spans_stands_above_the_general_one() {
    let settings =
        from(&[("OTEL_ATTRIBUTE_COUNT_LIMIT", "7"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5")]);
    assert_eq!(settings.attribute_count_limit, 5);
    assert_eq!(settings.event_attribute_count_limit, 128);
    assert_eq!(
        from(&[("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "9")]).attribute_value_length_limit,
        Some(9)
    );
}

#[test]
fn an_unknown_variable_of_ours_is_reported_with_the_nearest_name() {
    let settings = from(&[
        ("SPANRING_BATCHSIZE", "1"),
        ("SPANRING_COLOUR_OF_THE_SKY", "blue"),
        ("SPANRING_EMPTY", ""),
        ("RAAF_TRACE_CONSOLE", "true"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
    ]);
    let names: Vec<_> = settings.problems().iter().map(|problem| problem.name.as_str()).collect();
    assert_eq!(names, ["SPANRING_BATCHSIZE", "SPANRING_COLOUR_OF_THE_SKY"]);
    assert!(settings.problems()[0].message.ends_with("did you mean SPANRING_BATCH_SIZE?"));
    assert!(!settings.problems()[1].message.contains("did you mean"));
}

#[test]
fn what_exceeds_another_setting_is_lowered_and_reported_if_somebody_set_it() {
    let settings = from(&[("SPANRING_BATCH_SIZE", "5000"), ("SPANRING_MAX_SPANS", "1000")]);
    assert_eq!((settings.batch_size, settings.max_spans), (1000, 1000));
    assert_eq!(settings.source("batch_size"), Some(&Source::LimitedBy("MAX_SPANS")));
    assert_eq!(
        messages(&settings),
        ["batch_size of 5000 (SPANRING_BATCH_SIZE) is more than MAX_SPANS allows, which is 1000 \
          spans; allowed: 1 to 65536; using 1000 spans (limited by MAX_SPANS)"]
    );
    assert_eq!(settings.problems()[0].name, "SPANRING_BATCH_SIZE");

    let settings = from(&[("SPANRING_MAX_SPANS", "100")]);
    assert_eq!((settings.batch_size, messages(&settings).len()), (100, 0));
    assert_eq!(settings.source("batch_size"), Some(&Source::LimitedBy("MAX_SPANS")));

    let code = SettingsBuilder::new().max_spans(1 << 24).max_bytes(1 << 20).batch_size(20_000);
    let settings = code.ignore_environment().build();
    assert_eq!((settings.max_spans, settings.batch_size), (16384, 16384));
    assert_eq!(settings.problems().len(), 2);

    let settings =
        from(&[("SPANRING_SEGMENT_MAX_BYTES", "2GiB"), ("SPANRING_RETENTION_BYTES", "1 mib")]);
    assert_eq!(settings.segment_max_bytes, 1 << 20);
    assert_eq!(settings.problems().len(), 1);
}

#[test]
fn samplers_and_their_arguments_are_understood() {
    let cases = [
        ("always_on", None, false, RootSampler::AlwaysOn),
        ("always_off", None, false, RootSampler::AlwaysOff),
        ("parentbased_always_on", None, true, RootSampler::AlwaysOn),
        ("parentbased_always_off", None, true, RootSampler::AlwaysOff),
        ("traceidratio", Some("0.125"), false, RootSampler::TraceIdRatio(0.125)),
        ("parentbased_traceidratio", Some("0"), true, RootSampler::TraceIdRatio(0.0)),
        ("parentbased_traceidratio", None, true, RootSampler::TraceIdRatio(1.0)),
        ("every_nth", Some("10"), false, RootSampler::EveryNth(10)),
        ("ParentBased_Every_Nth", Some("1"), true, RootSampler::EveryNth(1)),
        ("rate_limit", Some("0.5"), false, RootSampler::RateLimit(0.5)),
        ("parentbased_rate_limit", None, true, RootSampler::RateLimit(100.0)),
    ];
    for (name, argument, parent_based, root) in cases {
        let mut variables = vec![("OTEL_TRACES_SAMPLER", name)];
        variables.extend(argument.map(|argument| ("OTEL_TRACES_SAMPLER_ARG", argument)));
        let settings = from(&variables);
        assert_eq!(settings.sampler, SamplerSetting { parent_based, root }, "{name}");
        assert_eq!(messages(&settings), [""; 0]);
    }
    for (name, argument) in [
        ("traceidratio", "1.01"),
        ("every_nth", "0"),
        ("every_nth", "1.5"),
        ("rate_limit", "0"),
        ("rate_limit", "inf"),
        ("always_on", "1"),
    ] {
        let settings = from(&[("SPANRING_SAMPLER", name), ("SPANRING_SAMPLER_ARG", argument)]);
        assert_eq!(Some(settings.sampler), SamplerSetting::from_name(name), "{name} {argument}");
        assert_eq!(settings.problems().len(), 1, "{name} {argument}");
        assert_eq!(settings.problems()[0].name, "SPANRING_SAMPLER_ARG");
    }
}

#[test]
fn an_argument_is_never_given_to_a_sampler_it_was_not_meant_for() {
    let every_tenth = SamplerSetting { parent_based: false, root: RootSampler::EveryNth(10) };
    let code = SettingsBuilder::new().sampler(every_tenth);

    // The code's argument does not go to the operator's sampler ...
    let settings = with_variables(code.clone(), &[("SPANRING_SAMPLER", "rate_limit")]);
    assert_eq!(settings.sampler.root, RootSampler::RateLimit(100.0));
    assert_eq!(settings.source("sampler_arg"), Some(&Source::Default));
    // ... an operator may tune the code's sampler ...
    let settings = with_variables(code.clone(), &[("SPANRING_SAMPLER_ARG", "20")]);
    assert_eq!(settings.sampler.root, RootSampler::EveryNth(20));
    // ... but the argument of a sampler that was refused does not go to the code's.
    let refused = [("SPANRING_SAMPLER", "rate-limit"), ("SPANRING_SAMPLER_ARG", "20")];
    let settings = with_variables(code, &refused);
    assert_eq!(settings.sampler, every_tenth);
    assert_eq!(settings.problems().len(), 2);
    // If another variable names a good sampler, the argument is that one's.
    let settings = from(&[
        ("SPANRING_SAMPLER", "rate-limit"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
    ]);
    assert_eq!(settings.sampler.root, RootSampler::TraceIdRatio(0.5));
    assert_eq!(settings.problems().len(), 1);
}

#[test]
fn the_name_of_the_service_comes_from_the_resource_of_a_higher_layer() {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=till,host.name=a%2Cb");
    let settings = from(&[attributes]);
    assert_eq!(settings.service_name, "till");
    assert_eq!(settings.source("service_name"), Some(&Source::Variable(attributes.0.into())));
    let resource: Vec<_> = settings.resource().collect();
    assert_eq!(resource, [("service.name", "till"), ("host.name", "a,b")]);

    let settings = from(&[attributes, ("OTEL_SERVICE_NAME", "shop")]);
    assert_eq!(settings.service_name, "shop");
    assert_eq!(settings.resource().filter(|(key, _)| *key == "service.name").count(), 1);

    let code = SettingsBuilder::new().service_name("code");
    assert_eq!(with_variables(code.clone(), &[attributes]).service_name, "till");
    let both = code.resource_attributes([("service.name", "resource")]);
    assert_eq!(both.ignore_environment().build().service_name, "code");

    let long = format!("service.name={}", "x".repeat(5000));
    let settings = from(&[("OTEL_RESOURCE_ATTRIBUTES", &long)]);
    assert!(settings.service_name.starts_with("unknown_service:"));
    assert_eq!(settings.problems().len(), 1);
}

#[test]
fn too_many_resource_attributes_are_refused() {
    let list = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    let settings = from(&[("OTEL_RESOURCE_ATTRIBUTES", &list(1024))]);
    assert_eq!((settings.resource_attributes.len(), settings.problems().len()), (1024, 0));
    let settings = from(&[("OTEL_RESOURCE_ATTRIBUTES", &list(1025))]);
    assert_eq!((settings.resource_attributes.len(), settings.problems().len()), (0, 1));
}

#[test]
fn unknown_propagators_are_left_out_with_a_problem() {
    let settings = from(&[("OTEL_PROPAGATORS", "b3, baggage,b3multi,baggage")]);
    assert_eq!(settings.propagators, [Propagator::Baggage]);
    assert_eq!(settings.problems().len(), 1);
    let settings = from(&[("OTEL_PROPAGATORS", "none")]);
    assert_eq!((settings.propagators.len(), settings.problems().len()), (0, 0));
}

#[test]
fn the_explanation_names_values_sources_and_meanings() {
    let builder = SettingsBuilder::new().preset(Preset::Realtime).service_name("a\nb");
    let settings = with_variables(builder, &[("OTEL_BSP_MAX_QUEUE_SIZE", "2048")]);
    let rows = settings.explain();
    let table = ExplainTable(&rows).to_string();
    assert_eq!(table.lines().count(), rows.len() + 1);
    let line = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(&format!("SPANRING_{name} ")));
        line.expect("each setting has a line").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(
        line("MAX_SPANS").starts_with("SPANRING_MAX_SPANS 2048 spans OTEL_BSP_MAX_QUEUE_SIZE yes ")
    );
    assert!(line("FLUSH_INTERVAL").contains(" 1 s preset realtime yes "));
    assert!(line("DIR").contains(" no segments are written default no "));
    assert!(line("MAX_BYTES").contains(" 64 MiB default yes "));
    assert!(line("SERVICE_NAME").contains(r#" "a\nb" code no "#));
}

/// Runs itself again in a process with other variables: a test must not change its own.
#[test]
fn building_reads_the_process_s_environment_unless_told_to_ignore_it() {
    const NAME: &str = "building_reads_the_process_s_environment_unless_told_to_ignore_it";
    if std::env::var_os("SPANRING_MAX_SPAN").is_some() {
        let settings = SettingsBuilder::new().max_spans(900).build();
        assert_eq!(settings.max_spans, 1234);
        let [problem] = settings.problems() else { panic!("{:?}", settings.problems()) };
        assert!(problem.message.contains("SPANRING_MAX_SPANS?"), "{problem}");
        let settings = SettingsBuilder::new().max_spans(900).ignore_environment().build();
        assert_eq!((settings.max_spans, settings.problems().len()), (900, 0));
        println!("the child has checked");
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().expect("a test has a file"))
        .args([NAME, "--nocapture"])
        .env_clear()
        .env("SPANRING_MAX_SPANS", "1234")
        .env("SPANRING_MAX_SPAN", "1")
        .output()
        .expect("a test's file can be run");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("the child has checked"), "{stdout}{stderr}");
}

#[test]
fn no_problem_shows_the_password_of_an_endpoint() {
    let builder = SettingsBuilder::new().endpoint("http://user:sesame@collector");
    let settings = with_variables(builder, &[("SPANRING_ENDPOINT", "http://user:sesame@other")]);
    assert_eq!(settings.endpoint, None);
    let problems = settings.problems();
    assert_eq!(problems.len(), 2);
    for problem in problems {
        assert_eq!(problem.why, "has credentials in it");
        assert!(!format!("{problem:?}").contains("sesame"), "{problem:?}");
    }
}

#[test]
fn no_secret_of_an_endpoint_is_shown_anywhere() {
    for endpoint in [
        "http://collector/v1/traces?key=sesame",
        "unix:///run/a.sock:/v1/traces?key=sesame",
        "http://user:sesame@collector/",
        "http://user:x?sesame@collector/",
        "user:sesame@collector",
    ] {
        let builder = SettingsBuilder::new().endpoint(endpoint);
        let mut settings = with_variables(builder.clone(), &[]);
        // Plain data, which need not be what a builder takes.
        settings.endpoint = Some(endpoint.to_owned());
        let shown = format!("{settings:?} {builder:?} {:?}", settings.explain());
        assert!(!shown.contains("sesame"), "{shown}");
        assert!(shown.contains("timeout: 10 s"), "{shown}");
    }
}

#[test]
fn no_secret_of_a_header_is_shown_anywhere() {
    let secret = "Bearer sesame";
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20sesame"),
        ("SPANRING_HEADERS", "sesame"),
    ];
    let builder = SettingsBuilder::new().headers([("x-key", secret), ("bad name", secret)]);
    let settings = with_variables(builder.clone(), &variables);
    assert_eq!(settings.headers[0].1, secret);
    let shown = format!("{settings:?} {builder:?} {:?}", settings.explain());
    assert!(!shown.contains("sesame"), "{shown}");
    assert_eq!(settings.problems().len(), 1);
}

#[test]
fn openai_without_a_key_is_off_and_says_what_to_set() {
    let variables = [("SPANRING_OPENAI", "true"), ("OPENAI_BASE_URL", "http://proxy/v1")];
    let settings = with_variables(SettingsBuilder::new(), &variables);
    assert!(!settings.openai);
    assert_eq!(settings.openai_base_url, "https://api.openai.com/v1", "it is another's variable");
    let [said] = messages(&settings)[..] else { panic!("{:?}", settings.problems()) };
    assert!(said.contains("OPENAI_API_KEY") && said.contains("nothing is sent"), "{said}");
    let with_key = [variables[0], ("OPENAI_API_KEY", "sk-sesame")];
    let settings = with_variables(SettingsBuilder::new(), &with_key);
    assert!(settings.openai && settings.problems().is_empty());
}

#[test]
fn no_key_is_shown_anywhere() {
    let variables = [("OPENAI_API_KEY", "sk-sesame"), ("SPANRING_OPENAI_API_KEY", "sk sesame")];
    for builder in [
        SettingsBuilder::new().openai_api_key("code-sesame"),
        SettingsBuilder::new().openai_api_key("code sesame"),
        SettingsBuilder::new().openai_base_url("http://user:sesame@h"),
    ] {
        let mut settings = with_variables(builder.clone(), &variables);
        assert_eq!(settings.openai_api_key.as_ref().map(|key| &*key.0), Some("sk-sesame"));
        // Plain data, which need not be what a builder takes.
        settings.openai_base_url = "http://user:sesame@h".to_owned();
        let table = ExplainTable(&settings.explain()).to_string();
        let shown = format!("{settings:?} {builder:?} {:?} {table}", settings.explain());
        assert!(!shown.contains("sesame"), "{shown}");
    }
}

#[test]
fn the_level_comes_from_the_kind_of_environment_unless_somebody_sets_it() {
    for (variables, level, from) in [
        (&[][..], Level::Full, None),
        (&[("RAILS_ENV", "development")], Level::Full, Some("RAILS_ENV")),
        (&[("RAILS_ENV", " Test ")], Level::Minimal, Some("RAILS_ENV")),
        (&[("ENVIRONMENT", "staging")], Level::Full, Some("ENVIRONMENT")),
        (&[("ENVIRONMENT", "production")], Level::Smart, Some("ENVIRONMENT")),
        (
            &[("ENVIRONMENT", "production"), ("RAILS_ENV", "test")],
            Level::Minimal,
            Some("RAILS_ENV"),
        ),
        (&[("ENVIRONMENT", "production"), ("RAILS_ENV", "")], Level::Smart, Some("ENVIRONMENT")),
        // Another kind of environment has no level of its own, and hides a second variable.
        (&[("ENVIRONMENT", "production"), ("RAILS_ENV", "qa")], Level::Full, None),
        (
            &[("ENVIRONMENT", "production"), ("RAAF_TRACE_LEVEL", "none")],
            Level::None,
            Some("RAAF_TRACE_LEVEL"),
        ),
        (
            &[("RAILS_ENV", "production"), ("SPANRING_LEVEL", "most")],
            Level::Smart,
            Some("RAILS_ENV"),
        ),
    ] {
        let settings = with_variables(SettingsBuilder::new(), variables);
        let source = from.map_or(Source::Default, |name| Source::Variable(name.to_owned()));
        assert_eq!(
            (settings.level, settings.source("level")),
            (level, Some(&source)),
            "{variables:?}"
        );
    }
    let code = SettingsBuilder::new().level(Level::Full);
    let settings = with_variables(code, &[("RAILS_ENV", "production")]);
    assert_eq!((settings.level, settings.source("level")), (Level::Full, Some(&Source::Code)));
    // A live change, and taking it back.
    let settings = with_variables(SettingsBuilder::new(), &[("RAILS_ENV", "test")]);
    let changed = settings.with([("level", "smart")]).unwrap();
    assert_eq!(changed.level, Level::Smart);
    assert_eq!(changed.with([("level", "")]).unwrap().level, Level::Minimal);
}

#[test]
fn a_sampler_that_somebody_sets_takes_the_place_of_the_share_that_smart_lets_through() {
    let rest =
        |variables: &[(&str, &str)]| with_variables(SettingsBuilder::new(), variables).smart_rest();
    assert_eq!(rest(&[]), RootSampler::TraceIdRatio(0.1));
    assert_eq!(rest(&[("OTEL_TRACES_SAMPLER", "parentbased_always_on")]), RootSampler::AlwaysOn);
    let ratio = [("SPANRING_SAMPLER", "traceidratio"), ("SPANRING_SAMPLER_ARG", "0.5")];
    assert_eq!(rest(&ratio), RootSampler::TraceIdRatio(0.5));
}

#[test]
fn the_switches_of_details_are_found_by_their_other_names() {
    let detail =
        |variables: &[(&str, &str)]| with_variables(SettingsBuilder::new(), variables).detail();
    assert_eq!(detail(&[]), Detail::Basic);
    assert_eq!(detail(&[("ENABLE_BASIC_TRACING", "false")]), Detail::None);
    assert_eq!(
        detail(&[("ENABLE_DETAILED_TRACING", "1"), ("ENABLE_BASIC_TRACING", "0")]),
        Detail::Detailed
    );
}

#[test]
fn wrong_rules_are_refused_with_the_place() {
    let variables = [("SPANRING_RULES", "a -> always; kind=sever -> never")];
    let settings = with_variables(SettingsBuilder::new(), &variables);
    assert!(settings.rules.is_empty());
    let [problem] = settings.problems() else { panic!("{:?}", settings.problems()) };
    assert!(
        problem.message.contains(
            "is wrong in rule 2, character 19: \"sever\" is no kind: write one of internal, "
        ),
        "{problem}"
    );
    let error = settings.with([("rules", "a ->")]).unwrap_err();
    assert!(error.contains("rule 1, character 5: \"\" is no sampler: write always"), "{error}");
}
