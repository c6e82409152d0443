//! `verify`, `cat` and `stats` on segments: sound ones, damaged ones, and what is none.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{data_files, json, read_back, run, spanring, stderr, text, write_lines};
use spanring::settings::Settings;
use spanring::{Span, StatusCode};
use spanring_cli::source::{Item, Reader, Source};
use spanring_cli::verify::{Options, Problem, Summary, verify};
use spanring_exporter::Pipeline;
use spanring_exporter::batch::wrap_content;
use spanring_exporter::model::SpanData;
use spanring_exporter::segment::{SegmentIdentity, SegmentWriter, find_segments};
use spanring_exporter::sink::{InstanceId, SealedBatch};

/// Records `batches` times `spans` spans into `dir`, in segments of at most `segment_max_bytes`.
fn record(dir: &Path, batches: usize, spans: usize, segment_max_bytes: u64) {
    let settings = Settings::builder().ignore_environment().dir(dir);
    let settings = settings.segment_max_bytes(segment_max_bytes).build();
    let pipeline = Pipeline::builder().settings(settings).build().expect("it starts");
    {
        let _attached = pipeline.attach();
        for batch in 0..batches {
            for number in 0..spans {
                let mut span = Span::start(&format!("span {batch}"));
                // Of which little can be compressed away.
                let noise = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string();
                span.set_attribute("noise", noise).set_status(StatusCode::Error, "as planned");
            }
            pipeline.flush(Duration::from_secs(60)).expect("it is flushed");
        }
    }
    pipeline.shutdown(Duration::from_secs(60)).expect("it ends");
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let found = find_segments(dir).expect("there are segments");
    found.into_iter().map(|found| found.path).collect()
}

fn check<P: AsRef<Path>>(paths: &[P], options: Options) -> (Summary, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut report = |problem| problems.push(problem);
    let summary = verify(paths, options, &mut report, &mut |_, _, _| {});
    (summary, problems)
}

/// The only problem with `paths`.
fn problem<P: AsRef<Path>>(paths: &[P]) -> Problem {
    let (_, mut problems) = check(paths, Options::default());
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

#[test]
fn segments_of_several_pipelines_are_fine_together_and_each_is_summed_up() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 3, 10, 1 << 30);
    record(dir.path(), 5, 7, 4096);
    let output = run(&["verify", text(dir.path())]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    assert!(printed.starts_with("fine: ") && printed.contains("10 batches, 65 spans"), "{printed}");
    let report = json(&run(&["verify", "--json", text(dir.path())]));
    assert_eq!((&report["ok"], &report["spans"]), (&true.into(), &65.into()));
    let mut created: Vec<_> = report["instances"].as_array().expect("a list").iter().collect();
    created.sort_by_key(|instance| instance["created"].as_u64());
    assert_eq!((&created[0]["created"], &created[0]["last_sequence"]), (&30.into(), &3.into()));
    assert_eq!((&created[1]["created"], &created[1]["is_closed"]), (&35.into(), &true.into()));
    // A directory, and one of its files again.
    let twice = [dir.path().to_owned(), segments(dir.path())[0].clone()];
    assert_eq!(check(&twice, Options::default()).1, []);
    let stats = json(&run(&["stats", "--json", text(dir.path())]));
    assert_eq!((&stats["spans"], &stats["batches"]), (&65.into(), &8.into()));
    assert_eq!(stats["bytes"], report["bytes"]);
    assert_eq!(read_back(dir.path()).iter().map(|batch| batch.spans.len()).sum::<usize>(), 65);
}

#[test]
fn missing_segments_are_named_with_the_spans_that_they_held() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Each batch in a segment of its own, the closing one too: more does not fit.
    record(dir.path(), 4, 400, 4096);
    let all = segments(dir.path());
    assert_eq!(all.len(), 5, "{all:?}");
    let without = |index: usize| {
        let mut some = all.clone();
        some.remove(index);
        some
    };
    let found = problem(&without(1));
    assert_eq!((found.file, found.offset), (all[2].display().to_string(), Some(58)));
    assert_eq!(found.what, "batch 1 is missing: 400 spans");
    let found = problem(&[&all[0], &all[3], &all[4]]);
    assert_eq!(found.what, "the batches 1 to 2 are missing: 800 spans");
    let found = problem(&without(0));
    assert_eq!(found.what, "the batches 0 to 0 of the instance are missing: 400 spans");
    let (summary, problems) = check(&without(0), Options { allow_deleted: true });
    assert_eq!((problems, summary.instances[0].spans_before), (Vec::new(), 400));
    let found = problem(&without(4));
    assert_eq!(found.file, all[3].display().to_string());
    assert!(found.what.starts_with("unclean: batch 3 is the last and no closing batch"), "{found}");
    // A copy, under the name that a later segment of the same pipeline might have.
    let copy = all[1].to_string_lossy().replace("-00000001", "-00000009");
    std::fs::copy(&all[1], &copy).expect("it can be copied");
    let found = problem(&[dir.path()]);
    assert!(found.what.contains("it is segment 1 of its instance, as "), "{found}");
}

#[test]
fn a_segment_cut_anywhere_is_a_problem_with_its_name_and_its_whole_batches_are_still_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 3, 4, 1 << 30);
    let path = &segments(dir.path())[0];
    let bytes = std::fs::read(path).expect("it can be read");
    let part = dir.path().join(format!("{}.part", path.display()));
    let mut spans = 0;
    for length in 0..bytes.len() {
        for path in [path, &part] {
            std::fs::write(path, &bytes[..length]).expect("it can be written");
            let (summary, problems) = check(&[path], Options::default());
            assert!(!problems.is_empty(), "cut at {length}");
            for problem in &problems {
                assert_eq!(problem.file, path.display().to_string(), "cut at {length}");
            }
            let said: String = problems.iter().map(|problem| problem.to_string()).collect();
            assert!(summary.segments == 0 || said.contains("unclean"), "cut at {length}: {said}");
            assert!(summary.spans == spans || summary.spans == spans + 4, "cut at {length}");
            spans = summary.spans;
            std::fs::remove_file(path).expect("it can be removed");
        }
    }
    assert_eq!(spans, 12);
}

#[test]
fn a_segment_with_any_byte_changed_is_a_problem_and_gives_no_wrong_spans() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 2, 3, 1 << 30);
    let path = &segments(dir.path())[0];
    let mut bytes = std::fs::read(path).expect("it can be read");
    let spans = spans_of(path);
    let mut harmless = 0;
    for at in 0..bytes.len() {
        bytes[at] ^= 0x10;
        std::fs::write(path, &bytes).expect("it can be written");
        bytes[at] ^= 0x10;
        let (_, problems) = check(&[path], Options::default());
        let found = spans_of(path);
        // Some bits of a zstd frame have no meaning: then everything is as it was.
        if problems.is_empty() {
            assert_eq!(found, spans, "byte {at}");
            harmless += 1;
        }
        assert!(found.iter().all(|span| spans.contains(span)), "byte {at}");
    }
    assert!(harmless * 50 < bytes.len(), "{harmless} of {} bytes do not matter", bytes.len());
}

/// All spans that can be read of a segment.
fn spans_of(path: &Path) -> Vec<SpanData> {
    let Ok(mut reader) = Reader::open(&Source::Segment(path.to_owned())) else { return Vec::new() };
    let mut spans = Vec::new();
    while let Some(item) = reader.next_item() {
        if let Item::Batch(batch) = item {
            spans.extend(batch.spans);
        }
    }
    spans
}

/// What each of the readers says of `path`, all of which must fail and name it.
fn refused(path: &Path) -> Vec<String> {
    let outputs = [&["cat"][..], &["cat", "--format", "otlp-json"], &["stats"], &["verify"]];
    let said = outputs.map(|command| {
        let output = limited(command, path);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?} {}: {said}", path.display());
        assert!(said.contains(text(path)), "{command:?}: {said}");
        said
    });
    said.into()
}

/// Runs a command on `path` within 512 MB.
fn limited(command: &[&str], path: &Path) -> Output {
    let script = r#"ulimit -v 524288 && exec "$0" "$@""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_spanring")]).args(command).arg(path);
    shell.stdin(Stdio::null()).output().expect("a shell can be run")
}

#[test]
fn what_is_no_sound_segment_is_refused_by_every_reader_with_file_place_and_reason() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 3, 200, 1 << 30);
    let sound = &segments(dir.path())[0];
    let bytes = std::fs::read(sound).expect("it can be read");
    let place = tempfile::tempdir().expect("a temporary directory");

    let empty_directory = place.path().join("directory");
    std::fs::create_dir(&empty_directory).expect("it can be made");
    for said in refused(&empty_directory) {
        assert!(said.contains("holds no segment"), "{said}");
    }
    for said in refused(&place.path().join("missing")) {
        assert!(said.contains("No such file"), "{said}");
    }
    let empty = place.path().join("empty");
    std::fs::write(&empty, "").expect("it can be written");
    for said in refused(&empty) {
        assert!(said.contains("empty"), "{said}");
    }
    // A name promises a segment; what is in it decides otherwise.
    let named = place.path().join(sound.file_name().expect("it has a name"));
    let foreign: &[u8] =
        b"\x89PNG\r\n\x1a\n and so on, for more bytes than a segment's header has ...";
    for (content, reason) in [(&b""[..], "the file is empty"), (foreign, "does not begin as")] {
        std::fs::write(&named, content).expect("it can be written");
        for said in refused(&named) {
            assert!(said.contains("at byte 0: ") && said.contains(reason), "{said}");
        }
    }
    let png = place.path().join("picture.png");
    std::fs::write(&png, foreign).expect("it can be written");
    let said = refused(&png);
    assert!(said[0].contains(":1: ") && said[3].contains("at byte 0: "), "{said:?}");

    // Cut in the second batch, cut at its beginning, and with a byte of it changed.
    let second = 58 + batch_bytes(&bytes[58..]);
    let cut = [bytes[..second + 10].to_vec(), bytes[..second].to_vec()];
    for (content, reason) in cut.iter().zip(["the file ends inside", "has no index"]) {
        std::fs::write(&named, content).expect("it can be written");
        for said in refused(&named) {
            assert!(said.contains(reason) && said.contains("at byte "), "{said}");
        }
    }
    let mut changed = bytes.clone();
    changed[second + 40] ^= 1;
    std::fs::write(&named, &changed).expect("it can be written");
    for said in refused(&named) {
        assert!(said.contains(&format!("at byte {second}: ")), "{said}");
    }
    let output = run(&["cat", text(&named)]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.matches("\nspan ").count() + 1, 400, "the other batches are printed");
}

/// Length of the zstd frame at the beginning of `bytes`.
fn batch_bytes(bytes: &[u8]) -> usize {
    zstd::zstd_safe::find_frame_compressed_size(bytes).expect("it is a frame")
}

/// Writes a segment that holds `frames`, whatever they are.
fn write_segment(dir: &Path, frames: &[Vec<u8>]) -> PathBuf {
    let instance = InstanceId(7);
    let identity = SegmentIdentity { instance, created_unix_nano: 1, number: 0 };
    let mut writer = SegmentWriter::create(dir, identity, false).expect("it can be created");
    for (sequence, frame) in (0..).zip(frames) {
        let frame = frame.clone().into();
        let (start_unix_nano, end_unix_nano) = (0, 0);
        let batch =
            SealedBatch { instance, sequence, spans: 1, start_unix_nano, end_unix_nano, frame };
        writer.append(&batch).expect("it can be written");
    }
    writer.close().expect("it can be closed")
}

#[test]
fn an_index_or_a_header_that_says_something_else_than_the_batch_is_a_problem() {
    let sound_dir = tempfile::tempdir().expect("a temporary directory");
    record(sound_dir.path(), 1, 200, 1 << 30);
    let sound = std::fs::read(&segments(sound_dir.path())[0]).expect("it can be read");
    let frame = sound[58..58 + batch_bytes(&sound[58..])].to_vec();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = write_segment(dir.path(), &[frame.clone(), frame]);
    let (_, problems) = check(&[&path], Options::default());
    let what: Vec<_> = problems.iter().map(|problem| problem.what.as_str()).collect();
    for part in [
        "the instance of the batch is ",
        "the number of spans in the index is 1, not 200",
        "the sequence number in the index is 1, not 0",
        "the earliest start in the index is 0, not ",
        "the latest end in the index is 0, not ",
        "batch 0 stands after batch 0",
    ] {
        assert!(what.iter().any(|what| what.starts_with(part)), "{part}: {what:#?}");
    }
}

#[test]
fn the_segment_of_a_process_that_still_runs_can_be_read_and_a_note_says_what_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 2, 100, 1 << 30);
    let closed = segments(dir.path()).remove(0);
    let bytes = std::fs::read(&closed).expect("it can be read");
    std::fs::remove_file(&closed).expect("it can be removed");
    // As it was between the two batches.
    let part = format!("{}.part", text(&closed));
    std::fs::write(&part, &bytes[..58 + batch_bytes(&bytes[58..])]).expect("it can be written");
    let output = run(&["stats", "--json", text(dir.path())]);
    let said = stderr(&output);
    assert_eq!((output.status.code(), &json(&output)["spans"]), (Some(0), &100.into()), "{said}");
    assert!(said.contains(&part) && said.contains("was not closed"), "{said}");
    assert_eq!(run(&["verify", &part]).status.code(), Some(1));
}

#[test]
fn hostile_segments_are_refused_within_512_mb() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sound_dir = tempfile::tempdir().expect("a temporary directory");
    record(sound_dir.path(), 1, 200, 1 << 30);
    let sound = std::fs::read(&segments(sound_dir.path())[0]).expect("it can be read");
    let frame = &sound[58..58 + batch_bytes(&sound[58..])];
    let content = zstd::stream::decode_all(frame).expect("it is a frame");
    // As much as a frame may hold, of nothing; and the head of a real batch, then that.
    let zeros = vec![0; 128 << 20];
    let mut headed = content.clone();
    headed.resize(128 << 20, 0xff);
    // Numbers at their highest, wherever they stand.
    let mut high = content.clone();
    high[49..].fill(0xff);
    let mut frames = vec![wrap_content(&zeros), wrap_content(&headed), wrap_content(&high)];
    // A frame that says that it holds more than it may.
    let mut bomb = zstd::bulk::Compressor::new(1).expect("level 1");
    bomb.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true)).expect("it is known");
    frames.push(bomb.compress(&vec![0; 300 << 20]).expect("it can be compressed"));
    drop(zeros);
    let path = write_segment(dir.path(), &frames);
    for said in refused(&path) {
        assert_eq!(said.matches(": at byte ").count(), 4, "{said}");
    }
}

#[test]
fn a_batch_at_the_limits_is_read_within_512_mb() {
    // What takes most memory for its bytes: very many very short values.
    let span = |number: usize| {
        let attributes: Vec<String> = (0..60)
            .map(|key| format!(r#"{{"key":"k{key}","value":{{"stringValue":"v"}}}}"#))
            .collect();
        format!(
            r#"{{"traceId":"{:032x}","spanId":"{:016x}","name":"x","attributes":[{}]}}"#,
            number + 1,
            number + 1,
            attributes.join(",")
        )
    };
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("many.jsonl.gz");
    let file = std::fs::File::create(&path).expect("it can be created");
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for line in 0..40 {
        let spans: Vec<String> = (0..1_000).map(|number| span(line * 1_000 + number)).collect();
        let spans = spans.join(",");
        writeln!(out, r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#)
            .expect("it can be written");
    }
    out.finish().expect("it can be written");
    let dir = place.path().join("out");
    let mut command = spanring();
    command.args(["replay", text(&path), "--dir", text(&dir), "--json", "--no-pace"]);
    command.envs([("SPANRING_BATCH_SIZE", "65536"), ("SPANRING_MAX_BYTES", "1GiB")]);
    let output = command.output().expect("the command can be run");
    assert_eq!(json(&output)["exported"], 40_000, "{}", stderr(&output));
    for command in [&["verify"][..], &["stats"], &["cat", "--format", "otlp-json"]] {
        let output = limited(command, &dir);
        assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""), "{command:?}");
    }
}

#[test]
fn a_killed_process_leaves_all_but_its_last_batch_and_verify_says_that_it_was_not_closed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = spanring();
    command.args(["demo", "--seconds", "600", "--threads", "2", "--dir", text(dir.path())]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("the command can be run");
    let written = || {
        let found = find_segments(dir.path()).unwrap_or_default();
        found.iter().map(|found| found.bytes).sum::<u64>()
    };
    while written() < 200_000 {
        assert_eq!(child.try_wait().expect("it can be asked"), None, "it still runs");
        std::thread::yield_now();
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let output = run(&["verify", text(dir.path())]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(".spanring.part: ") && said.contains("unclean"), "{said}");
    let (summary, _) = check(&[dir.path()], Options::default());
    let instance = &summary.instances[0];
    assert_eq!(instance.last_sequence, Some(summary.batches - 1), "no batch is missing before");
    assert_eq!((instance.sealed, instance.is_closed), (summary.spans, false));
    let stats = json(&run(&["stats", "--json", text(dir.path())]));
    assert_eq!(stats["spans"], summary.spans);
}

#[test]
fn a_segment_on_standard_input_is_named_as_such() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 1, 1, 1 << 30);
    let file = std::fs::File::open(&segments(dir.path())[0]).expect("it can be opened");
    let output = spanring().args(["cat", "-"]).stdin(file).output().expect("it can be run");
    assert_eq!(output.status.code(), Some(1));
    let expected = "spanring: stdin: is a segment; expected the path of its file, not its bytes\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn lines_and_segments_can_be_read_together() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    record(dir.path(), 1, 5, 1 << 30);
    let lines = dir.path().join("lines.jsonl");
    write_lines(&lines, &read_back(dir.path()));
    let agents = &data_files(&["agents"])[0];
    let output = run(&["stats", "--json", text(dir.path()), text(&lines), text(agents)]);
    assert_eq!(json(&output)["spans"], 4_687 + 10);
}
