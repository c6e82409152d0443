//! A logger of the host that takes everything sees no secret: libraries that spanring uses log what they do. Alone in its
//! process, whose logger it is.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};
use spanring::span;
use spanring_exporter::{OtlpOptions, Pipeline};
use spanring_tests::receiver::{Answer, Receiver};
use spanring_tests::{LONG, settings};

/// So long that a line of a dump has nothing else.
const SECRET: &str = "QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ";

struct Collector(Mutex<Vec<String>>);

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = format!("{} {}", record.target(), record.args());
        self.0.lock().unwrap().push(text);
    }

    fn flush(&self) {}
}

static COLLECTOR: Collector = Collector(Mutex::new(Vec::new()));

#[test]
fn a_logger_of_everything_sees_no_secret() {
    log::set_logger(&COLLECTOR).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let receiver = Receiver::answering(|request| {
        assert_eq!(request.headers["x-key"], SECRET);
        Answer::status(200)
    });
    let mut options = OtlpOptions::new(format!("{}?key={SECRET}", receiver.endpoint()));
    options.headers.push(("x-key".into(), SECRET.into()));
    let pipeline = Pipeline::builder().settings(settings().build()).otlp(options).build().unwrap();
    {
        let _attached = pipeline.attach();
        drop(span!("sent"));
    }
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(receiver.distinct(), 1);
    let lines = COLLECTOR.0.lock().unwrap();
    assert!(!lines.is_empty(), "nothing is logged any more: this test, and the care, can go");
    // As text, or as a dump of bytes.
    let shown: Vec<_> = lines
        .iter()
        .filter(|line| {
            let text: String = line.chars().filter(|c| !c.is_whitespace()).collect();
            text.contains("QQQQ") || text.contains("51515151")
        })
        .collect();
    assert!(shown.is_empty(), "{shown:?}");
}
