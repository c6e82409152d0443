//! `REPORT_EVERY`: a line in the log after each so many spans, whatever the level.

use spanring::settings::LogLevel;
use spanring::{Span, SpanKind};
use spanring_exporter::next_message;
use spanring_tests::{LONG, memory_pipeline, settings};

#[test]
fn each_n_spans_there_is_a_line_although_the_level_is_higher() {
    let (pipeline, _) =
        memory_pipeline(settings().report_every(100).batch_size(50).log_level(LogLevel::Fatal));
    {
        let _attached = pipeline.attach();
        for number in 0..400 {
            let kind = if number % 4 == 0 { SpanKind::Server } else { SpanKind::Internal };
            let mut span = Span::builder("reported").kind(kind).start();
            if number % 10 == 0 {
                span.record_error(&std::io::Error::other("no"));
            }
            drop(span);
            if number % 50 == 49 {
                pipeline.flush(LONG).unwrap();
            }
        }
    }
    let lines: Vec<_> = std::iter::from_fn(next_message).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (number, (level, line)) in lines.iter().enumerate() {
        assert_eq!(*level, LogLevel::Info);
        let total = format!(" s, {} spans in all, ", (number + 1) * 100);
        assert!(line.starts_with("report: uptime ") && line.contains(&total), "{line}");
        for part in ["spans/s, mean ", ", max ", ", 10.0 % with an error; by kind: "] {
            assert!(line.contains(part), "{line}");
        }
        assert!(line.ends_with("internal 75.0 %, server 25.0 %"), "{line}");
    }
}
