//! What changes while the program runs, against an oracle that keeps all that was ever said.

use proptest::prelude::*;

use super::super::choice::Source;
use super::super::{Settings, SettingsBuilder};
use super::{value, with_variables};

fn base() -> Settings {
    let code = SettingsBuilder::new().batch_size(64).compression_level(3);
    with_variables(code, &[("SPANRING_BATCH_SIZE", "128"), ("SPANRING_FLUSH_INTERVAL", "7")])
}

/// Live settings without a bearing on each other.
const NAMES: [&str; 4] = ["batch_size", "flush_interval", "compression_level", "event_count_limit"];

#[derive(Clone, Debug)]
enum Change {
    /// All lines of the file, which may be wrong at the end.
    File(Vec<(usize, u32)>, bool),
    /// `None` takes back.
    Live(usize, Option<u32>),
}

fn change() -> impl Strategy<Value = Change> {
    let pair = (0..NAMES.len(), 1..5u32);
    let file = proptest::collection::btree_map(0..NAMES.len(), 1..5u32, 0..4);
    prop_oneof![
        (file, any::<bool>())
            .prop_map(|(lines, wrong)| Change::File(lines.into_iter().collect(), wrong)),
        pair.prop_map(|(name, value)| Change::Live(name, Some(value))),
        (0..NAMES.len()).prop_map(|name| Change::Live(name, None)),
    ]
}

/// What is in force of a setting, from the history: the last thing that was said about it, if it was not taken back.
fn expected(name: usize, history: &[Change]) -> Option<(u32, bool)> {
    let mut in_force = None;
    let mut in_file: Option<u32> = None;
    for change in history {
        match change {
            Change::File(_, true) => {}
            Change::File(lines, false) => {
                let said = lines.iter().find(|(of, _)| *of == name).map(|(_, value)| *value);
                let is_new = said != in_file;
                match (said, in_force) {
                    (Some(value), _) if is_new => in_force = Some((value, true)),
                    // A live call that came after it stays.
                    (_, Some((_, false))) => {}
                    (said, _) => in_force = said.map(|value| (value, true)),
                }
                in_file = said;
            }
            Change::Live(of, value) if *of == name => in_force = value.map(|value| (value, false)),
            Change::Live(..) => {}
        }
    }
    in_force
}

proptest! {
    #[test]
    fn the_last_that_was_said_counts(history in proptest::collection::vec(change(), 0..12)) {
        let mut settings = base();
        for change in &history {
            match change {
                Change::File(lines, wrong) => {
                    let texts: Vec<_> = lines.iter().map(|(name, value)| (NAMES[*name], value.to_string())).collect();
                    let mut all: Vec<_> = texts.iter().zip(1..).map(|((name, value), line)| (line, *name, value.as_str())).collect();
                    if *wrong {
                        all.push((99, "max_spans", "many"));
                    }
                    match settings.with_file(all, true) {
                        Ok((changed, notes)) => {
                            prop_assert!(!wrong && notes.is_empty());
                            settings = changed;
                        }
                        Err(problem) => prop_assert!(*wrong && problem.line == 99, "{problem}"),
                    }
                }
                Change::Live(name, value) => {
                    let text = value.map(|value| value.to_string()).unwrap_or_default();
                    settings = settings.with([(NAMES[*name], text.as_str())]).unwrap();
                }
            }
        }
        for (name, text) in NAMES.iter().enumerate() {
            match expected(name, &history) {
                Some((number, of_file)) => {
                    prop_assert_eq!(value(&settings, text), Some(number.to_string()));
                    prop_assert_eq!(matches!(settings.source(text), Some(Source::File { .. })), of_file);
                }
                None => {
                    prop_assert_eq!(value(&settings, text), value(&base(), text));
                    let base = base();
                    prop_assert_eq!(settings.source(text), base.source(text));
                }
            }
        }
    }
}

#[test]
fn an_argument_goes_with_its_sampler() {
    let base = with_variables(
        SettingsBuilder::new(),
        &[("SPANRING_SAMPLER", "traceidratio"), ("SPANRING_SAMPLER_ARG", "0.25")],
    );
    let argument = |settings: &Settings| value(settings, "sampler_arg");
    let limited = base.with([("sampler", "rate_limit")]).unwrap();
    assert_eq!(argument(&limited), Some("100".to_owned()), "the variable's is a ratio's");
    let limited = base.with([("sampler", "rate_limit"), ("sampler_arg", "7")]).unwrap();
    assert_eq!(argument(&limited), Some("7".to_owned()));
    assert_eq!(argument(&limited.with([("sampler", "")]).unwrap()), Some("0.25".to_owned()));
    let ratio = base.with([("sampler_arg", "0.5")]).unwrap();
    assert_eq!(argument(&ratio), Some("0.5".to_owned()));
    // In a file, in any order.
    let lines = [(1, "sampler_arg", "7"), (2, "SAMPLER", "every_nth")];
    let (nth, _) = base.with_file(lines, true).unwrap();
    assert_eq!(
        (value(&nth, "sampler"), argument(&nth)),
        (Some("every_nth".to_owned()), Some("7".to_owned()))
    );
    assert_eq!(argument(&nth.with_file([], true).unwrap().0), Some("0.25".to_owned()));
    // An argument that was meant for a sampler that is gone.
    let (gone, _) = nth.with([("sampler_arg", "9")]).unwrap().with_file([], true).unwrap();
    assert_eq!((gone.sampler, argument(&gone)), (base.sampler, Some("0.25".to_owned())));
}

#[test]
fn a_sampler_and_its_argument_outlast_changes_of_other_lines_by_themselves() {
    let sampler = [(1, "sampler", "traceidratio"), (2, "sampler_arg", "0.1")];
    let with = |other| sampler.into_iter().chain([(3, "batch_size", other)]);
    let said = |settings: &Settings| (value(settings, "sampler"), value(settings, "sampler_arg"));
    let texts = |sampler: &str, argument: Option<&str>| {
        (Some(sampler.to_owned()), argument.map(str::to_owned))
    };
    let (first, _) = base().with_file(with("1"), true).unwrap();
    assert_eq!(said(&first), texts("traceidratio", Some("0.1")));
    // Another sampler, which takes no argument.
    let live = first.with([("sampler", "always_off")]).unwrap();
    let (live, _) = live.with_file(with("2"), true).unwrap();
    assert_eq!((said(&live), live.batch_size), (texts("always_off", None), 2));
    // Another argument.
    let live = first.with([("sampler_arg", "0.01")]).unwrap();
    let (live, _) = live.with_file(with("3"), true).unwrap();
    assert_eq!((said(&live), live.batch_size), (texts("traceidratio", Some("0.01")), 3));
    // The argument alone is that of the sampler below.
    let code = SettingsBuilder::new().text("sampler", "every_nth").unwrap();
    let nth = with_variables(code, &[]).with_file(sampler, true).unwrap().0;
    let (nth, _) = nth.with_file([(1, "sampler_arg", "7")], true).unwrap();
    assert_eq!(said(&nth), texts("every_nth", Some("7")));
    let problem = base().with_file([(1, "config", "/x")], false).unwrap_err();
    assert_eq!(problem.to_string(), "line 1: a file cannot name another one: take CONFIG out");
}

#[test]
fn what_is_not_live_waits_for_the_next_start() {
    let message = base().with([("dir", "/tmp")]).unwrap_err();
    assert_eq!(
        message,
        "DIR cannot change while the program runs; give it before the pipeline starts"
    );
    let (started, notes) = base().with_file([(3, "dir", "/a")], false).unwrap();
    assert_eq!((value(&started, "dir"), notes.len()), (Some("/a".to_owned()), 0));
    assert_eq!(started.source("dir"), Some(&Source::File { line: 3 }));
    let (same, notes) =
        started.with_file([(1, "batch_size", "9"), (3, "dir", "/a")], true).unwrap();
    assert_eq!((same.batch_size, notes.len()), (9, 0));
    for (lines, said) in [(vec![(5, "dir", "/b")], "line 5: DIR cannot"), (vec![], "DIR cannot")] {
        let (changed, notes) = started.with_file(lines, true).unwrap();
        assert_eq!(value(&changed, "dir"), Some("/a".to_owned()));
        assert!(notes.len() == 1 && notes[0].starts_with(said), "{notes:?}");
        // Said once.
        let lines = if said.starts_with("line") { vec![(5, "dir", "/b")] } else { vec![] };
        assert_eq!(changed.with_file(lines, true).unwrap().1, [""; 0]);
    }
}

#[test]
fn a_change_is_taken_whole_or_not_at_all_and_no_message_tells_a_secret() {
    let settings = base();
    for (name, text, said) in [
        ("batch_sise", "1", "there is no setting \"batch_sise\"; is BATCH_SIZE meant?"),
        ("batch_size", "many", "BATCH_SIZE=\"many\" is not a whole number; allowed: 1 to 65536"),
        ("headers", "secret", "HEADERS=\"…\" "),
    ] {
        let changes = [("event_count_limit", "5"), (name, text)];
        let message = settings.with(changes).unwrap_err();
        assert!(message.starts_with(said), "{message}");
        let lines = [(1, "event_count_limit", "5"), (2, name, text)];
        let problem = settings.with_file(lines, true).unwrap_err();
        assert_eq!((problem.line, problem.message), (2, message));
    }
    let twice = [(1, "batch_size", "5"), (4, "BATCH_SIZE", "5")];
    let problem = settings.with_file(twice, true).unwrap_err().to_string();
    assert_eq!(problem, "line 4: BATCH_SIZE is there twice");
    assert_eq!(settings, base());
}
