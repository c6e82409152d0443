//! The command as a process: output, exit codes, closed pipes, memory.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use clap::Parser;
use common::{data_files, run, spanring, stderr, text};
use spanring_cli::commands::replay::{self, Speed};
use spanring_cli::commands::{config, demo, verify};
use spanring_cli::input::LineReader;
use spanring_cli::otlp_json::parse_line;

#[test]
fn cat_prints_the_recorded_data_as_the_same_otlp_json() {
    let path = &data_files(&["webshop"])[0];
    let output = run(&["cat", "--format", "otlp-json", text(path)]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let mut reader = LineReader::open(path).expect("the file can be opened");
    let mut lines = output.stdout.split_inclusive(|&byte| byte == b'\n');
    while let Some(batch) = reader.next_batch().expect("the file can be read") {
        let line = lines.next().expect("as many lines");
        assert_eq!(parse_line(line).as_ref(), Ok(&batch));
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn cat_prints_a_block_of_text_for_each_span() {
    let path = &data_files(&["agents"])[0];
    let output = run(&["cat", text(path)]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let stdout = String::from_utf8(output.stdout).expect("it is text");
    assert_eq!(stdout.matches("\n\n").count(), 4_687);
    assert!(stdout.starts_with("guardrail polite  internal  28.0 µs\n"), "{}", &stdout[..80]);
    assert!(!stdout.contains('\u{1b}'));
}

#[test]
fn stats_counts_the_recorded_data() {
    let path = &data_files(&["onlineboutique"])[0];
    let output = run(&["stats", "--json", text(path)]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    // As the data's own description says.
    assert_eq!((&json["spans"], &json["traces"]), (&23_397.into(), &517.into()));
    assert_eq!(json["names"].as_array().map(Vec::len), Some(43));
    let size = std::fs::metadata(path).expect("the file is there").len();
    assert_eq!(json["bytes"], size);
    let table = String::from_utf8(run(&["stats", text(path)]).stdout).expect("it is text");
    assert!(table.starts_with("23397 spans, 517 traces, "), "{table}");
    assert_eq!(table.lines().count(), 2 + 1 + 43 + 1);
}

#[test]
fn standard_input_is_read_for_a_dash() {
    let path = &data_files(&["trainticket"])[0];
    let file = std::fs::File::open(path).expect("the file can be opened");
    let output = spanring().args(["stats", "--json", "-"]).stdin(file).output();
    let output = output.expect("the command can be run");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!((&json["spans"], output.status.code()), (&10_243.into(), Some(0)));
}

#[test]
fn a_problem_of_the_data_is_named_and_exits_with_1_after_the_rest_was_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bad.jsonl");
    let span = r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}"#;
    let line = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
    let bad = line.replace("eee1", "xyz1");
    std::fs::write(&path, format!("{line}\n{bad}\n{line}\n")).expect("the file can be written");
    let missing = directory.path().join("missing");
    let output = run(&["cat", "--format", "otlp-json", text(&path), text(&missing)]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{line}\n{line}\n"));
    let expected = format!(
        "spanring: {}:2: resourceSpans[0].scopeSpans[0].spans[0].spanId: found \
         \"xyz19b7ec3c1b174\"; expected 16 hexadecimal digits, not all zero\n\
         spanring: {}: cannot be opened: No such file or directory (os error 2)\n",
        path.display(),
        missing.display(),
    );
    assert_eq!(stderr(&output), expected);
    assert_eq!(run(&["stats", text(directory.path())]).status.code(), Some(1));
    std::fs::write(&path, "").expect("the file can be written");
    let output = run(&["cat", text(&path)]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("spanring: {}: is empty; expected OTLP/JSON lines\n", path.display());
    assert_eq!(stderr(&output), expected);
}

#[test]
fn wrong_usage_exits_with_2_and_help_with_0() {
    for arguments in [
        &["cat"][..],
        &["cat", "x", "--format", "xml"],
        &["stats", "--nonsense", "x"],
        &["verify"],
        &["replay", "x"],
        &["replay", "x", "--dir", "d", "--speed", "0"],
        &["demo", "--threads", "0"],
        &["demo", "--spans", "1", "--seconds", "1"],
        &["config", "x"],
        &["explain"],
        &["explain", "--name", "x", "--attribute", "y"],
        &["explain", "--name", "x", "--kind", "sever"],
        &["unknown"],
        &[],
    ] {
        let output = run(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(stderr(&output).contains("--help"), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(run(&["--version"]).status.code(), Some(0));
    for command in ["cat", "stats", "verify", "replay", "demo", "config", "explain"] {
        let output = run(&[command, "--help"]);
        assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""), "{command}");
    }
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let path = text(&data_files(&["onlineboutique"])[0]).to_owned();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = text(dir.path());
    for arguments in [
        &["replay", &path, "--dir", out][..],
        &["cat", &path],
        &["cat", "--format", "otlp-json", &path],
        &["cat", out],
        &["stats", &path],
        &["stats", "--json", out],
        &["verify", out],
        &["demo", "--spans", "1000"],
        &["config"],
        &["explain", "--name", "x"],
    ] {
        let mut command = spanring();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command can be run");
        let mut out = BufReader::with_capacity(16, child.stdout.take().expect("it is piped"));
        if arguments[0] == "cat" {
            out.read_until(b'\n', &mut Vec::new()).expect("there is a line");
        }
        drop(out);
        let mut said = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        let status = child.wait().expect("it ends");
        assert_eq!((status.code(), &*said), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let path = &data_files(&["agents"])[0];
    let output = spanring().arg("cat").arg(path).stdout(full).output().expect("it can be run");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("spanring: standard output cannot be written: "));
}

/// Lines that are small on disk and large in memory are refused within 512 MB.
#[test]
#[cfg(target_os = "linux")]
fn hostile_lines_are_refused_within_512_mb() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("hostile.zst");
    let shapes = [
        (r#"{"resourceSpans":["#, "{},"),
        (r#"{"resourceSpans":[{"scopeSpans":["#, "{},"),
        (r#"{"resourceSpans":[{"resource":{"attributes":["#, "{},"),
        (
            r#"{"resourceSpans":[{"resource":{"attributes":[{"value":{"arrayValue":{"values":["#,
            "{},",
        ),
        (
            r#"{"resourceSpans":[{"resource":{"attributes":["#,
            r#"{"value":{"arrayValue":{"values":[{}]}}},"#,
        ),
        (r#"{"resourceSpans":[{"resource":{"attributes":["#, r#"{"key":"a"},"#),
        (r#"{"x":"#, "["),
        (r#"{"resourceSpans":[{"schemaUrl":""#, r"\u0061"),
        ("", "0"),
    ];
    for (opening, unit) in shapes {
        let file = std::fs::File::create(&path).expect("the file can be created");
        let mut encoder = zstd::stream::write::Encoder::new(file, 1).expect("level 1");
        encoder.write_all(opening.as_bytes()).expect("it can be written");
        let block = unit.repeat((1 << 20) / unit.len());
        // A little less than the longest line, and for the last shape a little more.
        for _ in 0..if opening.is_empty() { 65 } else { 63 } {
            encoder.write_all(block.as_bytes()).expect("it can be written");
        }
        encoder.finish().expect("it can be written");
        let script = r#"ulimit -v 524288 && exec "$0" stats "$1""#;
        let output = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_spanring"), text(&path)])
            .output()
            .expect("a shell can be run");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{opening} {unit}: {said}");
        assert!(said.starts_with(&format!("spanring: {}:1: ", path.display())), "{said}");
    }
}

#[derive(Debug, Parser)]
enum Commands {
    Demo(demo::Args),
    Replay(replay::Args),
    Verify(verify::Args),
    Config(config::Args),
}

#[test]
fn arguments_are_read_as_they_are_documented() {
    let parse = |line: &str| Commands::try_parse_from(format!("spanring {line}").split(' '));
    for good in [
        "demo",
        "demo --threads 8 --spans 1000 --dir d --json",
        "demo --seconds 3",
        "replay a b --dir d",
        "replay a --dir d --threads 4 --speed 10 --repeat 3 --no-pace --json",
        "verify a b --allow-deleted --json",
        "config --json",
    ] {
        assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
    }
    for bad in [
        "demo --threads 0",
        "demo --spans 1 --seconds 1",
        "demo x",
        "replay --dir d",
        "replay a",
        "replay a --dir d --speed 0",
        "replay a --dir d --speed inf",
        "replay a --dir d --speed fast",
        "replay a --dir d --repeat 0",
        "verify",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let speed = |text: &str| match parse(&format!("replay a --dir d --speed {text}")) {
        Ok(Commands::Replay(args)) => args.speed,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!([speed("1"), speed("max")], [Speed::Times(1.0), Speed::Max]);
}
