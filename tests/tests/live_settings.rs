//! Settings that change while threads record: by calls, and by the file that `CONFIG` names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use spanring::settings::{Level, LogLevel, Settings, SettingsBuilder, Source};
use spanring::span;
use spanring_exporter::{MemorySink, Pipeline, next_message};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Messages are the process's.
static MESSAGES: Mutex<()> = Mutex::new(());

fn settings() -> SettingsBuilder {
    Settings::builder().ignore_environment()
}

fn start(settings: SettingsBuilder) -> Pipeline {
    Pipeline::builder()
        .settings(settings.build())
        .sink(MemorySink::new())
        .build()
        .expect("it starts")
}

/// Waits until `is_so`; panics with what there is, if it never is.
fn until(pipeline: &Pipeline, is_so: impl Fn(&Settings) -> bool) {
    let give_up = Instant::now() + TIMEOUT;
    while !is_so(&pipeline.settings()) {
        assert!(Instant::now() < give_up, "{:?}", pipeline.settings());
        std::thread::yield_now();
    }
}

/// Puts a file in another's place, as editors and deployments do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

/// The next message that says `what`.
fn message(what: &str) -> String {
    let give_up = Instant::now() + TIMEOUT;
    loop {
        match next_message() {
            Some((_, message)) if message.contains(what) => return message,
            Some(_) => {}
            None => {
                assert!(Instant::now() < give_up, "nobody said {what}");
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_file_is_read_at_the_start_and_whenever_it_changes() {
    let _messages = MESSAGES.lock();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spans.toml");
    fs::write(&path, "batch_size = 40\nflush_interval = 0.5\nmax_spans = 2_000\n").unwrap();
    let pipeline = start(settings().config(&path).batch_size(7).event_count_limit(3));
    let found = pipeline.settings();
    assert_eq!((found.batch_size, found.max_spans, found.event_count_limit), (40, 2000, 3));
    assert_eq!(found.flush_interval, Duration::from_millis(500));
    assert_eq!(found.source("batch_size"), Some(&Source::File { line: 1 }));

    // Replaced; what it no longer says falls back to code.
    replace(&path, "# nothing but\nevent_count_limit = 9\n");
    until(&pipeline, |settings| settings.event_count_limit == 9 && settings.batch_size == 7);
    assert_eq!(pipeline.settings().source("event_count_limit"), Some(&Source::File { line: 2 }));

    // Written in place.
    fs::write(&path, "batch_size = 8").unwrap();
    until(&pipeline, |settings| settings.batch_size == 8 && settings.event_count_limit == 3);

    // A live call, and then another line of the file.
    pipeline.change_settings([("batch_size", "11")]).unwrap();
    fs::write(&path, "batch_size = 8\nevent_count_limit = 5").unwrap();
    until(&pipeline, |settings| settings.event_count_limit == 5);
    assert_eq!(pipeline.settings().batch_size, 11);
    fs::write(&path, "batch_size = 12").unwrap();
    until(&pipeline, |settings| settings.batch_size == 12);

    // Wrong, in several ways: it is refused whole, and that is said once, with the line.
    for (text, said) in [
        ("event_count_limit = 1\nbatch_size = 0", "line 2: BATCH_SIZE=\"0\" is out of range"),
        (
            "event_count_limit = 1\nbatch_sise = 5",
            "line 2: there is no setting \"batch_sise\"; is BATCH_SIZE meant?",
        ),
        ("event_count_limit = 1\nbatch_size = ", "line 2: it is not TOML: "),
        ("event_count_limit = 1\n\nbatch_size = 1979-05-27", "line 3: batch_size is a date"),
        (
            "event_count_limit = 1\n[headers]\nkey = [[1]]",
            "line 2: headers has lists or tables inside",
        ),
    ] {
        replace(&path, text);
        let message = message(said);
        assert!(
            message.contains("spans.toml: line ")
                && message.ends_with("; the settings stay as they are"),
            "{message}"
        );
    }
    assert_eq!((pipeline.settings().batch_size, pipeline.settings().event_count_limit), (12, 3));

    // Settings that are not live wait for the next start.
    replace(&path, "batch_size = 13\ndir = \"/elsewhere\"");
    message("line 2: DIR cannot change while the program runs; it counts from the next start");
    until(&pipeline, |settings| settings.batch_size == 13);
    assert_eq!(pipeline.settings().dir, None);

    // Gone, and there again.
    fs::remove_file(&path).unwrap();
    message("No such file");
    assert_eq!(pipeline.settings().batch_size, 13);
    replace(&path, "batch_size = 14");
    until(&pipeline, |settings| settings.batch_size == 14);
    pipeline.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_link_that_leads_elsewhere_is_a_change() {
    let _messages = MESSAGES.lock();
    let folder = tempfile::tempdir().unwrap();
    // As Kubernetes mounts a ConfigMap: spans.toml → ..data/spans.toml, ..data → a directory.
    let at = |name: &str| folder.path().join(name);
    for (version, size) in [("..1", 31), ("..2", 32)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("spans.toml"), format!("batch_size = {size}")).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/spans.toml", at("spans.toml")).unwrap();
    let pipeline = start(settings().config(at("spans.toml")));
    assert_eq!(pipeline.settings().batch_size, 31);
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    until(&pipeline, |settings| settings.batch_size == 32);
    // The file itself, where the link leads.
    fs::write(at("..2").join("spans.toml"), "batch_size = 33").unwrap();
    until(&pipeline, |settings| settings.batch_size == 33);
    pipeline.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_file_turns_on_what_it_had_turned_off() {
    let _messages = MESSAGES.lock();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spans.toml");
    fs::write(&path, "disabled = true").unwrap();
    let memory = MemorySink::new();
    let builder = Pipeline::builder().settings(settings().config(&path).build());
    let pipeline = builder.sink(memory.clone()).build().unwrap();
    let _attached = pipeline.attach();
    assert!(!span!("off").is_recording());
    replace(&path, "disabled = false");
    until(&pipeline, |settings| !settings.disabled);
    assert!(span!("on").is_recording());
    pipeline.shutdown(TIMEOUT).unwrap();
    assert_eq!(pipeline.stats().engine.created, 1);
}

#[test]
fn a_file_that_is_wrong_or_missing_at_the_start_stops_no_program() {
    let _messages = MESSAGES.lock();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spans.toml");
    let pipeline = start(settings().config(&path).batch_size(7));
    message("No such file");
    fs::write(&path, "batch_size = 9").unwrap();
    until(&pipeline, |settings| settings.batch_size == 9);
    pipeline.shutdown(TIMEOUT).unwrap();

    for wrong in
        [b"batch_size = 10\nflush_interval = 'soon'\n".as_slice(), b"\xff", &[b'#'; 1_100_000]]
    {
        fs::write(&path, wrong).unwrap();
        let pipeline = start(settings().config(&path).batch_size(7));
        message("none of it is in force");
        assert_eq!(pipeline.settings().batch_size, 7);
        pipeline.shutdown(TIMEOUT).unwrap();
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let pipeline = start(settings().config(&path).batch_size(7));
    message("it is not a file");
    pipeline.shutdown(TIMEOUT).unwrap();
}

#[test]
fn ten_thousand_changes_while_eight_threads_record_lose_no_span() {
    const CHANGES: usize = 10_000;
    const THREADS: u64 = 8;
    let pipeline = start(settings().max_spans(1 << 20).max_bytes(1 << 30));
    let is_over = AtomicBool::new(false);
    let recorded: u64 = std::thread::scope(|scope| {
        let record = || {
            let _attached = pipeline.attach();
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                for number in 0..100 {
                    let mut span = span!("work", "number" = number);
                    assert!(span.is_recording());
                    span.add_event("event");
                }
                count += 100;
                // The budget is not what is tested.
                while pipeline.stats().engine.resident > 1 << 19 {
                    std::thread::yield_now();
                }
            }
            count
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(record)).collect();
        for number in 0..CHANGES {
            let text = |numbers: [usize; 3]| numbers[number % 3].to_string();
            let batch = text([512, 100, 4096]);
            let interval = text([1, 5, 30]);
            let limit = text([1, 128, 7]);
            let sampler = ["always_on", "parentbased_always_on", "every_nth"][number % 3];
            let changes = [
                ("batch_size", &*batch),
                ("flush_interval", &*interval),
                ("event_count_limit", &*limit),
                ("sampler", sampler),
            ];
            pipeline.change_settings(changes).unwrap();
            let found = pipeline.settings();
            assert_eq!(found.batch_size.to_string(), batch);
            assert_eq!(found.source("sampler"), Some(&Source::Live));
        }
        is_over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    pipeline.shutdown(TIMEOUT).unwrap();
    let stats = pipeline.stats();
    assert_eq!((stats.engine.created, stats.engine.dropped.total()), (recorded, 0));
    assert_eq!((stats.engine.sealed, stats.sinks[0].delivered), (recorded, recorded));
}

#[test]
fn changes_by_several_threads_are_all_in_force() {
    let pipeline = start(settings());
    let names = [
        "event_count_limit",
        "link_count_limit",
        "attribute_count_limit",
        "link_attribute_count_limit",
    ];
    std::thread::scope(|scope| {
        for name in names {
            let pipeline = &pipeline;
            scope.spawn(move || {
                for number in 1..=500 {
                    pipeline.change_settings([(name, &*number.to_string())]).unwrap();
                }
            });
        }
    });
    let found = pipeline.settings();
    let limits = [
        found.event_count_limit,
        found.link_count_limit,
        found.attribute_count_limit,
        found.link_attribute_count_limit,
    ];
    assert_eq!(limits, [500; 4]);
    let message =
        pipeline.change_settings([("batch_size", "5"), ("event_count_limit", "many")]).unwrap_err();
    assert!(message.starts_with("EVENT_COUNT_LIMIT=\"many\" is not a whole number"), "{message}");
    assert_ne!(pipeline.settings().batch_size, 5);
    pipeline.shutdown(TIMEOUT).unwrap();
}

#[test]
fn what_is_no_longer_measured_is_not_told() {
    let pipeline = start(settings().metrics(true));
    let _attached = pipeline.attach();
    drop(span!("measured"));
    pipeline.flush(TIMEOUT).unwrap();
    assert_eq!(pipeline.metrics().spans.map(|spans| spans.all.count), Some(1));
    assert!(pipeline.health().error_rate.is_some());
    pipeline.change_settings([("metrics", "false")]).unwrap();
    assert!(pipeline.metrics().spans.is_none() && pipeline.health().error_rate.is_none());
    pipeline.shutdown(TIMEOUT).unwrap();
}

#[test]
fn rules_are_a_text_or_a_list_in_the_file() {
    let _messages = MESSAGES.lock();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spans.toml");
    fs::write(
        &path,
        "level = \"minimal\"\nrules = [\"a, b=\\\"x;y\\\" -> never\", \"kind=server -> always\"]\n",
    )
    .unwrap();
    let pipeline = start(settings().config(&path).level(Level::Smart));
    let said = pipeline.settings();
    assert_eq!(said.rules.to_string(), "name=a, b=\"x;y\" -> never; kind=server -> always");
    assert_eq!(said.level, Level::Minimal);
    replace(&path, "Rules = \"a -> never\"\nlevels = [\"scope:http=none\", \"b=full\"]");
    until(&pipeline, |settings| settings.rules.to_string() == "name=a -> never");
    assert_eq!(pipeline.settings().levels.to_string(), "scope:http=none; name:b=full");
    assert_eq!(pipeline.settings().level, Level::Smart);
    replace(&path, "\nrules = [\"a -> never\", \"kind=sever -> never\"]");
    let said = message("line 2: RULES=");
    assert!(said.contains("rule 2, character 18: \"sever\" is no kind"), "{said}");
    assert_eq!(pipeline.settings().rules.to_string(), "name=a -> never");
}

#[test]
fn what_a_level_leaves_out_is_said_at_the_start_and_louder_if_nobody_asked_for_it() {
    let _messages = MESSAGES.lock();
    let said = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let settings = Settings::builder().build_from_variables(variables);
        while next_message().is_some() {}
        drop(Pipeline::builder().settings(settings).sink(MemorySink::new()).build().unwrap());
        std::iter::from_fn(next_message).find(|(_, text)| text.starts_with("the level is "))
    };
    assert_eq!(said(&[]), None);
    let (level, text) = said(&[("RAILS_ENV", "production")]).unwrap();
    assert_eq!(level, LogLevel::Warn);
    assert_eq!(
        text,
        "the level is smart (RAILS_ENV): 90 % of the traces are left out that no rule is about and that have neither a message of more \
         than 100 characters nor a high priority; SPANRING_LEVEL=full keeps all that are sampled"
    );
    let asked = [("SPANRING_LEVEL", "minimal"), ("RAILS_ENV", "production")];
    assert_eq!(said(&asked), None, "at LOG_LEVEL=warn");
    let (level, text) = said(&[asked[0], ("SPANRING_LOG_LEVEL", "info")]).unwrap();
    assert_eq!(level, LogLevel::Info);
    assert!(
        text.starts_with("the level is minimal (SPANRING_LEVEL): spans with a parent"),
        "{text}"
    );
    let (_, text) = said(&[asked[1], ("OTEL_TRACES_SAMPLER", "always_on")]).unwrap();
    assert!(text.starts_with("the level is smart (RAILS_ENV): none of the traces"), "{text}");
    assert_eq!(said(&[asked[1], ("SPANRING_DISABLED", "true")]), None);
}
