//! `spanring demo` and `spanring config`, as processes.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use common::{json, run, spanring, stderr, text};
use serde_json::Value as Json;

fn count(field: &Json) -> u64 {
    field.as_u64().unwrap_or_else(|| panic!("{field} is no count"))
}

fn drops(report: &Json) -> u64 {
    report["dropped"].as_object().expect("it is an object").values().map(count).sum()
}

/// What `verify` says of the only pipeline that wrote to `dir`, which must be fine.
fn verified(dir: &Path) -> Json {
    let output = run(&["verify", "--json", text(dir)]);
    let mut report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["instances"].as_array().map(Vec::len), Some(1));
    report["instances"][0].take()
}

#[test]
fn with_a_small_budget_at_full_speed_it_fills_to_the_cap_never_above_and_every_span_is_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = spanring();
    command.args(["demo", "--threads", "8", "--json", "--dir", text(dir.path())]);
    let output = command.env("SPANRING_MAX_SPANS", "1000").output().expect("it can be run");
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let report = json(&output);
    let resident_max = count(&report["resident_max"]);
    assert!((951..=1000).contains(&resident_max), "{resident_max}");
    let (created, exported) = (count(&report["created"]), count(&report["exported"]));
    assert_eq!(created, exported + drops(&report), "{report}");
    assert!(drops(&report) > 0 && exported > 0, "{report}");
    let instance = verified(dir.path());
    assert_eq!((count(&instance["created"]), count(&instance["sealed"])), (created, exported));
    assert_eq!(count(&instance["spans"]), exported);
    for (reason, dropped) in instance["dropped"].as_object().expect("it is an object") {
        assert_eq!(dropped, &report["dropped"][reason], "{reason}");
    }
}

#[test]
fn without_arguments_it_shows_all_that_happened_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut command = spanring();
    let output = command.arg("demo").env("TMPDIR", place.path()).output().expect("it can be run");
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let printed = String::from_utf8(output.stdout).expect("it is text");
    for word in [
        "spans/s",
        "bytes a span",
        "batches",
        "dropped",
        "resident",
        "every span is accounted for",
        "a span costs",
        "POST /checkout",
        "└ ",
        "█",
    ] {
        assert!(printed.contains(word), "{word} is not in:\n{printed}");
    }
    assert!(!printed.contains('\u{1b}'), "colours are for terminals");
    assert_eq!(std::fs::read_dir(place.path()).expect("it can be read").count(), 0);
}

#[test]
fn as_many_spans_are_made_as_were_asked_for_whatever_the_number_of_threads() {
    for (threads, spans) in [("1", "1"), ("8", "3"), ("3", "1000"), ("2", "20001")] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out = text(dir.path());
        let output = run(&["demo", "--threads", threads, "--spans", spans, "--json", "--dir", out]);
        assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
        let report = json(&output);
        assert_eq!(report["created"].to_string(), spans);
        assert_eq!(count(&report["created"]), count(&report["exported"]) + drops(&report));
        let written: u64 = std::fs::read_dir(dir.path())
            .expect("it can be read")
            .map(|file| file.and_then(|file| file.metadata()).expect("it is there").len())
            .sum();
        assert_eq!(count(&report["bytes"]), written);
        for field in ["wall_seconds", "spans_per_second", "ns_per_span", "bytes_per_span"] {
            assert!(report[field].as_f64().is_some_and(|number| number > 0.0), "{field}: {report}");
        }
        let instance = verified(dir.path());
        assert_eq!(instance["created"].to_string(), spans);
    }
}

#[test]
fn nothing_is_sent_to_an_endpoint_that_is_set() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    listener.set_nonblocking(true).expect("it can be made so");
    let address = listener.local_addr().expect("it has an address");
    let mut command = spanring();
    command.args(["demo", "--spans", "100"]).env("SPANRING_ENDPOINT", format!("http://{address}"));
    let output = command.output().expect("it can be run");
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let kind = listener.accept().expect_err("nobody connected").kind();
    assert_eq!(kind, std::io::ErrorKind::WouldBlock);
}

#[test]
fn the_status_is_served_where_it_says() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut command = spanring();
    command.env("TMPDIR", place.path());
    command.args(["demo", "--status", "--seconds", "3600", "--threads", "1"]);
    command.env("SPANRING_MAX_SPANS", "1000").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut demo = command.spawn().expect("it can be run");
    let mut said = String::new();
    let mut lines = BufReader::new(demo.stderr.take().expect("it is piped"));
    while !said.contains("http://127.0.0.1:") {
        said.clear();
        assert!(lines.read_line(&mut said).expect("it is text") > 0, "it does not say where");
    }
    let address = said.trim_end().trim_end_matches('/').rsplit('/').next().expect("it has a host");
    let mut socket = std::net::TcpStream::connect(address).expect("somebody listens");
    socket.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    demo.kill().and_then(|()| demo.wait()).expect("it is ours");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("# EOF\n"), "{answer}");
}

#[test]
fn a_switched_off_engine_makes_no_spans_and_bad_settings_stop_nothing() {
    let mut command = spanring();
    command.args(["demo", "--spans", "100", "--threads", "1", "--json"]);
    let off = command.env("SPANRING_DISABLED", "true").output().expect("it can be run");
    assert_eq!((off.status.code(), count(&json(&off)["created"])), (Some(0), 0));
    command.env("SPANRING_DISABLED", "perhaps").env("SPANRING_COMPRESSION_LEVEL", "99");
    let output = command.output().expect("it can be run");
    assert_eq!((output.status.code(), count(&json(&output)["created"])), (Some(0), 100));
    let said = stderr(&output);
    assert!(said.contains("SPANRING_DISABLED=\"perhaps\""), "{said}");
    assert!(said.contains("SPANRING_COMPRESSION_LEVEL=\"99\""), "{said}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = run(&["demo", "--spans", "10", "--dir", text(file.path())]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("spanring: ") && said.contains(text(file.path())), "{said}");
    let mut command = spanring();
    command.args(["demo", "--spans", "10"]).env("TMPDIR", "/nonexistent");
    let output = command.output().expect("it can be run");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("give one with --dir"), "{}", stderr(&output));
}

#[test]
fn config_shows_every_setting_with_its_source_and_names_what_it_cannot_use() {
    let mut command = spanring();
    let output = command.arg("config").output().expect("it can be run");
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let printed = String::from_utf8(output.stdout).expect("it is text");
    let row = printed.lines().find(|line| line.starts_with("SPANRING_MAX_SPANS ")).expect("a row");
    assert!(row.contains("65536 spans") && row.contains("default"), "{row}");

    command.arg("--json").env("SPANRING_MAX_SPANS", "2000").env("OTEL_BSP_SCHEDULE_DELAY", "soon");
    let output = command.output().expect("it can be run");
    let report = json(&output);
    let settings = report["settings"].as_array().expect("a list");
    assert_eq!(settings.len(), printed.lines().count() - 1);
    let row = settings.iter().find(|row| row["field"] == "max_spans").expect("it is there");
    assert_eq!((&row["value"], &row["default"]), (&"2000".into(), &"65536".into()));
    assert_eq!(row["source"], "SPANRING_MAX_SPANS");
    let problems = report["problems"].as_array().expect("a list");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0]["name"], "OTEL_BSP_SCHEDULE_DELAY");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("OTEL_BSP_SCHEDULE_DELAY=\"soon\""), "{}", stderr(&output));
}

#[test]
fn config_shows_what_a_file_says_and_refuses_a_wrong_one_whole() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("spans.toml");
    let config = |text: &str| {
        std::fs::write(&path, text).expect("it can be written");
        let mut command = spanring();
        command.args(["config", "--json"]).env("SPANRING_CONFIG", &path);
        let output = command.env("SPANRING_BATCH_SIZE", "9").output().expect("it can be run");
        let report = json(&output);
        let rows = report["settings"].as_array().expect("a list").clone();
        let row = rows.into_iter().find(|row| row["field"] == "batch_size").expect("it is there");
        (row, output.status.code(), stderr(&output).to_string())
    };
    let (row, code, said) = config("# so many\nbatch_size = 200\n");
    assert_eq!((&row["value"], &row["source"]), (&"200".into(), &"CONFIG, line 2".into()));
    assert_eq!((code, &*said), (Some(0), ""));
    let (row, code, said) = config("max_spans = 5000\nbatch_sise = 200\n");
    assert_eq!((&row["value"], &row["source"]), (&"9".into(), &"SPANRING_BATCH_SIZE".into()));
    assert_eq!(code, Some(1));
    assert!(
        said.contains("spans.toml: line 2: ") && said.contains("is BATCH_SIZE meant?"),
        "{said}"
    );
}

#[test]
fn explain_tells_what_a_span_would_get_and_why() {
    const RULES: &str = "kind=server, http.route=/health* -> never; rows>=1000 -> every_nth:10";
    let explain = |arguments: &str, variables: &[(&str, &str)]| {
        let mut command = spanring();
        command.arg("explain").args(arguments.split(' ')).env("SPANRING_RULES", RULES);
        command.envs(variables.iter().copied()).output().expect("it can be run")
    };
    let output = explain("--name query --attribute rows=5000", &[]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let printed = String::from_utf8(output.stdout).expect("it is text");
    assert_eq!(
        printed,
        "sampled, the first of every 10\n\
         because  rule 2 of RULES: rows>=1000 -> every_nth:10\n\
         share    0.1\n\
         level    full, LEVEL (default)\n\
         rule     RULES 1: kind=server, http.route=/health* -> never   no: kind=server\n\
         rule     RULES 2: rows>=1000 -> every_nth:10   matches\n"
    );
    let page = include_str!("../../docs/sampling.md");
    assert!(page.contains(&printed), "docs/sampling.md shows something else");

    // As text it is no number.
    let report = json(&explain(
        "--name query --attribute rows=\"5000\" --format json",
        &[("RAILS_ENV", "production")],
    ));
    assert_eq!((&report["verdict"], &report["share"]), (&"share".into(), &0.1.into()));
    assert_eq!(
        (&report["level"], &report["level_from"]),
        (&"smart".into(), &"LEVEL (RAILS_ENV)".into())
    );
    let rules = report["rules"].as_array().expect("a list");
    let mismatches: Vec<_> =
        rules.iter().map(|rule| rule["mismatch"].as_str().expect("none matches")).collect();
    assert_eq!(mismatches, ["kind=server", "rows>=1000", "message.length>100", "priority=high"]);

    let route =
        "--name GET --scope http --kind server --attribute http.route=/healthz --format json";
    let report = json(&explain(route, &[]));
    assert_eq!(
        (&report["verdict"], &report["rules"][0]["mismatch"]),
        (&"not_sampled".into(), &serde_json::Value::Null)
    );
    let report = json(&explain(
        &format!("{route} --parent sampled"),
        &[("SPANRING_LEVELS", "scope:h*=minimal")],
    ));
    assert_eq!((&report["verdict"], &report["only_errors"]), (&"sampled".into(), &true.into()));
    let report = json(&explain(&format!("{route} --parent sampled --level none"), &[]));
    assert_eq!(report["because"], "its level is none (given to the span itself)");
    let report = json(&explain(&format!("{route} --detailed"), &[]));
    assert_eq!(report["verdict"], "absent");

    let output = explain("--name x", &[("SPANRING_RULES", "x -> maybe")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("rule 1, character 6: \"maybe\" is no sampler"),
        "{}",
        stderr(&output)
    );
}
