//! `spanring send --openai`: recorded spans to OpenAI's trace ingest, and no key in what is said.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

use common::{json, spanring, stderr, text, write_lines};
use spanring::{SpanId, TraceId};
use spanring_exporter::model::{ResourceData, ScopeData, SpanBatch, SpanData};

const KEY: &str = "sk-proj-sesame1234";

/// Answers one request so, and tells its head and its body.
fn ingest(status: u16, answer: String) -> (SocketAddr, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let (came, comes) = channel();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("somebody comes");
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).expect("a head comes") > 0);
        }
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).expect("it has a length");
        let length = length.split("\r\n").next().and_then(|length| length.parse().ok());
        let mut body = vec![0; length.expect("it is a number")];
        reader.read_exact(&mut body).expect("a body comes");
        let length = answer.len();
        let whole = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{answer}");
        reader.get_mut().write_all(whole.as_bytes()).expect("the answer can be sent");
        let _ = came.send((head, body));
    });
    (address, comes)
}

fn spans(file: &std::path::Path) {
    let span = |id| SpanData {
        trace_id: TraceId(7),
        span_id: SpanId(id),
        name: "step".to_owned(),
        ..SpanData::default()
    };
    let batch = SpanBatch {
        resources: vec![ResourceData::default()],
        scopes: vec![ScopeData::default()],
        spans: (1..4).map(span).collect(),
    };
    write_lines(file, &[batch]);
}

#[test]
fn recorded_spans_are_sent_to_openai() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.jsonl");
    spans(&file);
    let (address, came) = ingest(200, String::new());
    let output = spanring()
        .args(["send", "--openai", "--json", text(&file)])
        .env("SPANRING_OPENAI_BASE_URL", format!("http://{address}/v1"))
        .env("OPENAI_API_KEY", KEY)
        .output()
        .expect("the command can be run");
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    assert_eq!(json(&output)["delivered"], 3);
    let (head, body) = came.recv().expect("a request came");
    assert!(head.starts_with("post /v1/traces/ingest "), "{head}");
    assert!(head.contains(&format!("authorization: bearer {KEY}")), "{head}");
    let body: serde_json::Value = serde_json::from_slice(&body).expect("it is JSON");
    let objects = body["data"].as_array().expect("it is an array");
    assert_eq!((objects.len(), &objects[0]["object"]), (4, &"trace".into()));
}

#[test]
fn no_key_is_in_what_the_command_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.jsonl");
    spans(&file);
    let answer = format!("{{\"error\":{{\"message\":\"Incorrect API key provided: {KEY}\"}}}}");
    let (address, _came) = ingest(401, answer);
    for arguments in [&["send", "--openai", text(&file)][..], &["config"], &["config", "--json"]] {
        let output = spanring()
            .args(arguments)
            .env("SPANRING_OPENAI", "true")
            .env("SPANRING_LOG_LEVEL", "debug")
            .env("SPANRING_OPENAI_BASE_URL", format!("http://{address}/v1"))
            .env("SPANRING_OPENAI_API_KEY", KEY)
            .output()
            .expect("the command can be run");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert!(!said.contains("sesame"), "{said}");
        let wanted = if arguments[0] == "send" { "answered 401" } else { "***" };
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn without_a_key_it_says_what_to_set() {
    let output = spanring().args(["send", "--openai", "-"]).output().expect("it can be run");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("set SPANRING_OPENAI_API_KEY or OPENAI_API_KEY"),
        "{output:?}"
    );
    let both = ["send", "--openai", "--endpoint", "http://h", "-"];
    let output = spanring().args(both).output().expect("it can be run");
    assert_eq!(output.status.code(), Some(2));
}
