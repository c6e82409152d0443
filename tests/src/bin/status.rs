//! A pipeline with a status endpoint, for tests in other languages: prints the endpoint's URL and, once what it recorded is
//! delivered, its metrics as JSON, and ends with its standard input.

use std::io::Read;
use std::time::Duration;

use spanring::{Span, SpanKind, StatusCode};
use spanring_exporter::{MemorySink, Pipeline};
use spanring_tests::{LONG, settings};

/// Names that a text format may stumble over, and one that is too long.
fn names() -> Vec<String> {
    let hard = [
        "GET /",
        "a\"b",
        "a\\b",
        "a\nb",
        "a\\nb",
        "",
        "{x=\"y\"}",
        "# EOF",
        "naïve 😀",
        "(other)",
        "\u{7f}\t",
    ];
    hard.iter().map(|name| (*name).to_owned()).chain(["x".repeat(300)]).collect()
}

fn main() {
    let settings = settings().status_address(([127, 0, 0, 1], 0).into()).build();
    let builder = Pipeline::builder().settings(settings);
    let pipeline = builder.sink(MemorySink::new()).build().expect("a pipeline can be made");
    {
        let _attached = pipeline.attach();
        for (number, name) in names().iter().enumerate() {
            for round in 0..=number {
                let kind = if round % 2 == 0 { SpanKind::Client } else { SpanKind::Server };
                let mut span = Span::builder(name.as_str()).kind(kind).start();
                if round % 3 == 0 {
                    span.set_status(StatusCode::Error, "");
                }
                drop(span);
            }
        }
    }
    pipeline.flush(LONG).expect("a memory sink takes everything");
    println!("http://{}", pipeline.status_address().expect("loopback has a free port"));
    println!("{}", pipeline.metrics().to_json());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    pipeline.shutdown(Duration::from_secs(5)).expect("it is idle");
}
