//! A receiver of OTLP that misbehaves first and then behaves, at the other end of a whole pipeline: no span is lost, what
//! is repeated is counted, nobody else waits, and what is said names the fault and holds no secret.

use std::io;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use spanring::export::FlushError;
use spanring::settings::LogLevel;
use spanring::span;
use spanring_exporter::{MemorySink, OtlpOptions, Pipeline, PipelineStats, SinkDrop, SinkStats};
use spanring_tests::ledger::check_counts;
use spanring_tests::proxy::Proxy;
use spanring_tests::receiver::{Answer, Connection, Receiver};
use spanring_tests::{LONG, settings};

/// In the endpoint, in a header, and in what a receiver says of them.
const SECRET: &str = "sesame-1234";
/// `user:sesame-1234` as a header has it.
const SECRET_BASIC: &str = "dXNlcjpzZXNhbWUtMTIzNA==";
/// Spans that are recorded at a time.
const SPANS: usize = 40;
/// For receivers that do nothing at all: so long that they are only given up when they do nothing.
const SHORT: Duration = Duration::from_millis(300);
/// So many bytes that sockets cannot hold a request of them.
const LARGE: usize = 16 << 20;

type Script = fn(&mut Connection<'_>) -> io::Result<()>;

/// A fault that passes.
struct Fault {
    name: &'static str,
    script: Script,
    /// What is said of it.
    says: &'static [&'static str],
    /// How long a request may take.
    timeout: Duration,
    /// Bytes in each batch, beside the spans.
    bytes: usize,
    /// Whether the receiver may have the spans although no answer was seen.
    may_repeat: bool,
}

/// One that is seen at once, and leaves open what the receiver has.
fn fault(name: &'static str, says: &'static [&'static str], script: Script) -> Fault {
    Fault { name, script, says, timeout: LONG, bytes: 0, may_repeat: true }
}

impl Fault {
    /// It is the time-out that ends it.
    fn times_out_after(self, timeout: Duration) -> Self {
        Fault { timeout, ..self }
    }

    /// The receiver cannot have all of a request.
    fn without_repeats(self) -> Self {
        Fault { may_repeat: false, ..self }
    }

    fn with_large_requests(self) -> Self {
        Fault { bytes: LARGE / 2, ..self }
    }
}

/// Answers each request with these lines, and this body; once it is healed, it takes them.
fn answer(connection: &mut Connection<'_>, head: &str, body: &str) -> io::Result<()> {
    while let Some(request) = connection.request()? {
        if connection.is_healed() {
            connection.take(&request)?;
            connection.answer(&Answer::status(200))?;
            continue;
        }
        let length = body.len();
        connection.write(format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}"))?;
    }
    Ok(())
}

fn faults() -> Vec<Fault> {
    vec![
        fault("black-hole", &["took the request, but has not answered"], |connection| {
            connection.wait_healed(LONG);
            Ok(())
        })
        .times_out_after(SHORT),
        fault("slow-reader", &["has not taken all of the request"], |connection| {
            while !connection.wait_healed(Duration::from_secs(1)) {
                connection.read_byte()?;
            }
            Ok(())
        })
        .with_large_requests()
        .without_repeats()
        .times_out_after(3 * SHORT),
        fault("slow-answer", &["the answer is not complete"], |connection| {
            connection.request()?;
            connection.write("HTTP/1.1 200 OK\r\nserver: ")?;
            while !connection.wait_healed(Duration::from_millis(10)) {
                connection.write("x")?;
            }
            Ok(())
        })
        .times_out_after(SHORT),
        fault("reset-after-accept", &["reset by peer"], |connection| connection.reset()),
        fault("reset-after-head", &["reset by peer"], |connection| {
            connection.head()?;
            connection.reset()
        })
        .with_large_requests()
        .without_repeats(),
        fault("reset-in-body", &["reset by peer"], |connection| {
            connection.head()?;
            connection.read(LARGE / 64)?;
            connection.reset()
        })
        .with_large_requests()
        .without_repeats(),
        fault("reset-after-body", &["reset by peer"], |connection| {
            let request = connection.request()?.expect("a request comes");
            connection.take(&request)?;
            connection.reset()
        }),
        fault("reset-in-answer", &["reset by peer"], |connection| {
            let request = connection.request()?.expect("a request comes");
            connection.take(&request)?;
            connection.write("HTTP/1.1 200 OK\r\ncontent-le")?;
            connection.reset()
        }),
        fault("half-close-at-once", &["closed the connection before it answered"], |connection| {
            connection.half_close()?;
            connection.read_to_end()
        }),
        fault("half-close-in-answer", &["in the middle of its answer"], |connection| {
            let request = connection.request()?.expect("a request comes");
            connection.take(&request)?;
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n")?;
            connection.half_close()?;
            connection.read_to_end()
        }),
        fault("close-before-answer", &["closed the connection before it answered"], |connection| {
            connection.request().map(drop)
        }),
        fault("garbage", &["is not HTTP/1", "right port"], |connection| {
            connection.request()?;
            connection.write("220 mail.example ESMTP\r\n")?;
            connection.read_to_end()
        }),
        fault("speaks-tls", &["speaks TLS", "https://"], |connection| {
            connection.request()?;
            connection.write([0x15, 3, 1, 0, 2, 2, 70])?;
            connection.read_to_end()
        }),
        fault("endless-headers", &["too many headers"], |connection| {
            connection.request()?;
            connection.write("HTTP/1.1 200 OK\r\n")?;
            loop {
                connection.write("x-more: and more\r\n")?;
            }
        }),
        fault("endless-header", &["headers of more than 64 KiB"], |connection| {
            connection.request()?;
            connection.write("HTTP/1.1 200 OK\r\nx-more: ")?;
            loop {
                connection.write("and more ")?;
            }
        }),
        fault("endless-interim-answers", &["headers of more than 64 KiB"], |connection| {
            connection.request()?;
            loop {
                connection.write("HTTP/1.1 100 Continue\r\n\r\n")?;
            }
        }),
        fault("429", &["answered 429", "fewer requests", "slowly, "], |connection| {
            answer(connection, "429 X\r\nretry-after: 1", &format!("slowly, {SECRET}"))
        })
        .without_repeats(),
        fault("429-by-date", &["answered 429"], |connection| {
            let at = std::time::SystemTime::now() + Duration::from_secs(1);
            let head = format!("429 X\r\nretry-after: {}", httpdate::fmt_http_date(at));
            answer(connection, &head, "")
        })
        .without_repeats(),
        fault("503", &["answered 503", "overloaded", "no room for "], |connection| {
            answer(connection, "503 X", &format!("no room for user:{SECRET}"))
        })
        .without_repeats(),
    ]
}

/// With secrets everywhere.
fn options(name: &str, place: &str, timeout: Duration) -> OtlpOptions {
    let (scheme, place) = place.split_once("://").unwrap();
    let endpoint = format!("{scheme}://user:{SECRET}@{place}?token={SECRET}");
    let mut options = OtlpOptions::new(endpoint);
    options.name = name.to_owned();
    options.headers.push(("x-api-key".to_owned(), SECRET.to_owned()));
    options.headers.push(("x-other".to_owned(), format!("Bearer {SECRET}")));
    options.timeout = timeout;
    options
}

fn pipeline(options: OtlpOptions) -> (Pipeline, MemorySink) {
    let memory = MemorySink::new();
    // What is sealed is sealed by a flush, as one batch.
    let settings = settings().flush_interval(LONG * 10).log_level(LogLevel::Info).build();
    let builder = Pipeline::builder().settings(settings).sink(memory.clone()).otlp(options);
    (builder.build().unwrap(), memory)
}

fn record(pipeline: &Pipeline, bytes: usize) {
    let _attached = pipeline.attach();
    let text = "x".repeat(bytes / SPANS);
    for number in 0..SPANS {
        let mut span = span!("sent", "number" = number);
        if bytes > 0 {
            span.set_attribute("text", text.as_str());
        }
    }
}

fn otlp(stats: &PipelineStats) -> &SinkStats {
    &stats.sinks[1]
}

fn refused(stats: &PipelineStats) -> u64 {
    otlp(stats).dropped[SinkDrop::Refused as usize]
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::yield_now();
    }
}

/// Has spans sealed although the receiver does not take them, and waits until the other sink has so many.
fn seal(pipeline: &Pipeline, memory: &MemorySink, spans: usize) {
    let unfinished = pipeline.flush(Duration::from_millis(1)).unwrap_err();
    assert_eq!(unfinished.reason, FlushError::TimedOut);
    wait_for(memory, spans);
}

fn wait_for(memory: &MemorySink, spans: usize) {
    wait_until("what the other sink is to get", || {
        memory.batches().iter().map(|batch| batch.spans as usize).sum::<usize>() == spans
    });
}

fn check_secrets(said: &str) {
    for secret in [SECRET, SECRET_BASIC] {
        assert!(!said.contains(&secret[..secret.len() / 2]), "a secret in {said}");
    }
}

fn check_says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in {said:?}");
    }
}

/// A pipeline whose receiver fails, until `heal` is called.
fn passes(
    fault: &Fault,
    endpoint: &str,
    receiver: &Receiver,
    heal: impl FnOnce(),
) -> PipelineStats {
    let (pipeline, memory) = pipeline(options(fault.name, endpoint, fault.timeout));
    record(&pipeline, fault.bytes);
    seal(&pipeline, &memory, SPANS);
    wait_until("a second failure", || otlp(&pipeline.stats()).failures >= 2);
    record(&pipeline, 0);
    seal(&pipeline, &memory, 2 * SPANS);
    let stats = pipeline.stats();
    check_says(&otlp(&stats).last_error, fault.says);
    check_secrets(&format!("{stats:?}"));
    assert_eq!((otlp(&stats).delivered, otlp(&stats).dropped_total()), (0, 0));
    assert!(fault.may_repeat || otlp(&stats).repeated == 0, "{stats:?}");
    heal();
    pipeline.flush(LONG).unwrap();
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!(receiver.distinct(), 2 * SPANS);
    assert_eq!((otlp(&stats).delivered, otlp(&stats).last_error.as_str()), (2 * SPANS as u64, ""));
    assert!(receiver.repeats() <= otlp(&stats).repeated, "{} {stats:?}", receiver.repeats());
    stats
}

/// Does `run` with every fault, all at a time.
fn with_each(run: impl Fn(Fault) + Sync) {
    std::thread::scope(|scope| {
        for fault in faults() {
            let thread = std::thread::Builder::new().name(fault.name.to_owned());
            thread.spawn_scoped(scope, || run(fault)).unwrap();
        }
    });
}

#[test]
fn a_fault_that_passes_costs_no_span_and_holds_up_nobody() {
    with_each(|fault| {
        let receiver = Receiver::faulty(fault.script);
        passes(&fault, &receiver.endpoint(), &receiver, || receiver.heal());
    });
}

#[test]
fn a_connection_that_is_refused_costs_no_span_and_holds_up_nobody() {
    let receiver = Receiver::start();
    let mut proxy = Proxy::refusing(receiver.address());
    let fault =
        fault("refused", &["refused", "check that the server runs"], |_| Ok(())).without_repeats();
    let stats = passes(&fault, &proxy.endpoint(), &receiver, || proxy.restart());
    assert_eq!((receiver.repeats(), otlp(&stats).repeated), (0, 0));
}

#[test]
fn a_fault_that_stays_keeps_no_shutdown_beyond_its_time() {
    let hour = fault("429-for-an-hour", &["answered 429"], |connection| {
        answer(connection, "429 X\r\nretry-after: 3600", "")
    });
    let patient = |fault: Fault| fault.times_out_after(LONG * 10);
    let run = |fault: Fault| {
        let receiver = Receiver::faulty(fault.script);
        let (pipeline, memory) = pipeline(options(fault.name, &receiver.endpoint(), fault.timeout));
        record(&pipeline, 0);
        let begun = Instant::now();
        // It may be over in the very moment when its time is.
        if let Err(unfinished) = pipeline.shutdown(SHORT) {
            assert_eq!(unfinished.reason, FlushError::TimedOut);
        }
        assert!(begun.elapsed() < LONG / 4, "it waits for what does not come");
        // The flusher ends by itself at that time, however long a request may take.
        wait_until("the flusher's end", || pipeline.shutdown(Duration::ZERO).is_ok());
        let stats = pipeline.stats();
        check_counts(&stats);
        check_secrets(&format!("{stats:?}"));
        let shut_down = otlp(&stats).dropped[SinkDrop::ShutDown as usize];
        assert_eq!((otlp(&stats).delivered, shut_down), (0, SPANS as u64));
        wait_for(&memory, SPANS);
        receiver.heal();
    };
    with_each(|fault| run(patient(fault)));
    run(patient(hour));
}

#[test]
fn what_is_refused_for_good_is_said_without_the_secrets_that_the_answer_repeats() {
    for (head, body, says) in [
        ("400 X", "bad: user:SECRET", &["answered 400", "speak OTLP", "bad: "][..]),
        ("401 X", "no such key: SECRET", &["answered 401", "HEADERS", "no such key: "]),
        ("401 X", "no such key: Bearer SECRET!", &["answered 401", "no such key: ", "!"]),
        ("401 X", "no such key: Basic BASIC", &["answered 401", "no such key: "]),
        ("404 X", "no /v1/traces?token=SECRET", &["answered 404", "path", "no /v1/traces"]),
        ("408 X", "", &["answered 408"]),
        ("500 X", "failed for SECRET", &["answered 500", "log", "failed for "]),
    ] {
        let body = body.replace("SECRET", SECRET).replace("BASIC", SECRET_BASIC);
        let receiver = Receiver::faulty(move |connection| answer(connection, head, &body));
        is_refused(&receiver, SPANS, says);
        receiver.heal();
    }
}

/// Sends what a receiver refuses for good, and looks at what is said.
fn is_refused(receiver: &Receiver, spans: usize, says: &[&str]) {
    let (pipeline, memory) = pipeline(options("otlp", &receiver.endpoint(), LONG));
    record(&pipeline, 0);
    pipeline.flush(LONG).unwrap();
    let stats = pipeline.stats();
    check_says(&otlp(&stats).last_refusal, says);
    check_says(&otlp(&stats).last_error, says);
    check_secrets(&format!("{stats:?}"));
    assert_eq!(refused(&stats), spans as u64);
    wait_for(&memory, SPANS);
    receiver.heal();
    record(&pipeline, 0);
    // As one batch, so that one connection is enough for it.
    pipeline.flush(LONG).unwrap();
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((receiver.repeats(), otlp(&stats).repeated), (0, 0));
    assert_eq!(otlp(&stats).delivered, (2 * SPANS - spans) as u64);
}

#[test]
fn a_redirect_is_not_followed_and_what_it_leads_to_hears_nothing() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let place = format!("{}/v1/traces", elsewhere.local_addr().unwrap());
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://user:{SECRET}@{place}?token={SECRET}");
        let receiver = Receiver::faulty(move |connection| {
            let page = format!("<a href=\"{location}\">here</a>");
            answer(connection, &format!("{status} X\r\nlocation: {location}"), &page)
        });
        is_refused(&receiver, SPANS, &[&format!("answered {status}"), "not followed", &place]);
    }
    // Not our secret, and not to be shown all the same.
    let receiver = Receiver::faulty(|connection| {
        let location = "https://login.example/?session=opened@sesame&next=x";
        answer(connection, &format!("302 X\r\nlocation: {location}"), "")
    });
    is_refused(&receiver, SPANS, &["answered 302, a redirect to https://\u{2026}, which"]);
    let heard = elsewhere.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(heard, Err(io::ErrorKind::WouldBlock), "somebody followed");
}

#[test]
fn an_answer_is_understood_in_every_form_and_its_connection_used_again() {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message;
    // It says more than that all is well, which shows that it was read.
    let message = format!("odd ones for {SECRET}");
    let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: message.clone() };
    let plain = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, &plain).unwrap();
    let zipped = encoder.finish().unwrap();
    let json =
        format!(r#"{{"partialSuccess":{{"rejectedSpans":"3","errorMessage":"{message}"}}}}"#);
    let whole = |headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let chunked = |body: &[u8]| {
        let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for piece in body.chunks(5) {
            bytes.extend(format!("{:x};x=y\r\n", piece.len()).bytes());
            bytes.extend([piece, b"\r\n"].concat());
        }
        [&bytes[..], b"0\r\nx-trailer: y\r\n\r\n"].concat()
    };
    let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    for bytes in [
        chunked(&plain),
        [&interim[..], &whole("", &plain)].concat(),
        whole("content-encoding: gzip\r\n", &zipped),
        whole("content-type: application/json\r\n", json.as_bytes()),
    ] {
        let receiver = Receiver::faulty(move |connection| {
            let request = connection.request()?.expect("a request comes");
            connection.write(&bytes)?;
            connection.take(&request)?;
            // The same connection, from now on as it should be.
            while let Some(request) = connection.request()? {
                connection.take(&request)?;
                connection.answer(&Answer::status(200))?;
            }
            Ok(())
        });
        is_refused(&receiver, 3, &["refused 3 of 40 spans", "odd ones for "]);
        assert_eq!((receiver.distinct(), receiver.connections()), (2 * SPANS, 1));
    }
}

#[test]
fn an_answer_whose_body_breaks_is_taken_for_what_its_head_says() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
    ] {
        let receiver = Receiver::faulty(move |connection| {
            let request = connection.request()?.expect("a request comes");
            connection.take(&request)?;
            connection.write(bytes)?;
            connection.half_close()
        });
        let (pipeline, _memory) = pipeline(options("otlp", &receiver.endpoint(), LONG));
        for _ in 0..2 {
            record(&pipeline, 0);
            pipeline.flush(LONG).unwrap();
        }
        pipeline.shutdown(LONG).unwrap();
        let stats = pipeline.stats();
        check_counts(&stats);
        assert_eq!((otlp(&stats).delivered, otlp(&stats).failures), (2 * SPANS as u64, 0));
        assert_eq!((receiver.distinct(), receiver.repeats()), (2 * SPANS, 0));
    }
    let receiver = Receiver::faulty(|connection| {
        let request = connection.request()?.expect("a request comes");
        if connection.is_healed() {
            connection.take(&request)?;
            return connection.answer(&Answer::status(200));
        }
        // In the middle of a secret, too.
        connection.write("HTTP/1.1 401 X\r\ncontent-length: 100\r\n\r\nno such key: ")?;
        connection.write(&SECRET[..SECRET.len() - 2])?;
        connection.half_close()
    });
    is_refused(&receiver, SPANS, &["answered 401", "no such key:"]);
}

#[test]
fn a_kept_connection_that_the_server_closed_is_replaced_without_a_failure() {
    let receiver = Receiver::faulty(|connection| {
        let request = connection.request()?.expect("a request comes");
        connection.take(&request)?;
        connection.answer(&Answer::status(200))
    });
    let (pipeline, _) = pipeline(options("otlp", &receiver.endpoint(), LONG));
    for round in 1..=5 {
        record(&pipeline, 0);
        pipeline.flush(LONG).unwrap();
        wait_until("the connection's end", || receiver.ended() == round);
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((receiver.distinct(), receiver.repeats(), receiver.connections()), (200, 0, 5));
    assert_eq!((otlp(&stats).failures, otlp(&stats).repeated), (0, 0));
}

#[test]
fn a_request_that_meets_the_end_of_a_kept_connection_is_sent_again() {
    for takes in [false, true] {
        let receiver = Receiver::faulty(move |connection| {
            let request = connection.request()?.expect("a request comes");
            connection.take(&request)?;
            connection.answer(&Answer::status(200))?;
            // The next one is read, and never answered.
            match connection.request()? {
                Some(request) if takes => connection.take(&request),
                _ => Ok(()),
            }
        });
        let (pipeline, memory) = pipeline(options("otlp", &receiver.endpoint(), LONG));
        for _ in 0..2 {
            record(&pipeline, 0);
            pipeline.flush(LONG).unwrap();
        }
        pipeline.shutdown(LONG).unwrap();
        let stats = pipeline.stats();
        check_counts(&stats);
        let repeats = if takes { SPANS as u64 } else { 0 };
        assert_eq!((receiver.distinct(), receiver.repeats()), (2 * SPANS, repeats));
        assert_eq!((otlp(&stats).failures, otlp(&stats).repeated), (1, SPANS as u64));
        wait_for(&memory, 2 * SPANS);
    }
}

#[test]
fn the_log_says_each_fault_once_and_that_it_is_over_and_no_secret() {
    let this = std::env::current_exe().unwrap();
    let run = Command::new(this)
        .args(["--exact", "a_fault_that_passes_costs_no_span_and_holds_up_nobody", "--nocapture"])
        .output()
        .unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{log}");
    check_secrets(&log);
    for fault in faults() {
        let begin = format!("spanring: warn: sink {}: ", fault.name);
        let lines: Vec<_> = log.lines().filter(|line| line.starts_with(&begin)).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        check_says(lines[0], &["it is tried again"]);
        let over = format!("spanring: info: sink {}: works again", fault.name);
        assert_eq!(log.lines().filter(|line| *line == over).count(), 1, "{log}");
    }
}

#[test]
fn the_log_says_what_is_dropped_at_shutdown() {
    let this = std::env::current_exe().unwrap();
    let run = Command::new(this)
        .args(["--exact", "a_fault_that_stays_keeps_no_shutdown_beyond_its_time", "--nocapture"])
        .output()
        .unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{log}");
    let lost: Vec<_> = log.lines().filter(|line| line.contains("dropped at shutdown")).collect();
    assert!(!lost.is_empty(), "{log}");
    for line in lost {
        check_says(line, &[" spans were dropped at shutdown", "with DIR they would wait"]);
    }
}

/// Sends three batches to a receiver that takes all of each and answers with this.
fn takes_and_says(name: &str, kind: &str, body: &[u8]) {
    let headers = vec![("content-type".to_owned(), kind.to_owned())];
    let answer = Answer { headers, body: body.to_vec(), ..Answer::status(200) };
    let receiver = Receiver::answering(move |_| answer.clone());
    let (pipeline, _memory) = pipeline(options(name, &receiver.endpoint(), LONG));
    for _ in 0..3 {
        record(&pipeline, 0);
        pipeline.flush(LONG).unwrap();
    }
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    check_counts(&stats);
    assert_eq!((otlp(&stats).delivered, otlp(&stats).failures), (3 * SPANS as u64, 0), "{name}");
    assert_eq!((&*otlp(&stats).last_error, &*otlp(&stats).last_refusal), ("", ""), "{name}");
}

#[test]
fn a_warning_of_a_receiver_is_no_failure() {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message;
    let said = format!("user:{SECRET} should use v2\n{}", "!".repeat(1000));
    let partial = ExportTracePartialSuccess { rejected_spans: 0, error_message: said };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
    takes_and_says("warned", "application/x-protobuf", &answer.encode_to_vec());
    let json = r#"{"partialSuccess":{"errorMessage": "should use v2"}}"#;
    takes_and_says("warned-json", "application/json", json.as_bytes());
    let json = r#"{"partialSuccess":{"rejectedSpans":"0","errorMessage":""}}"#;
    takes_and_says("not-warned", "application/json", json.as_bytes());
}

#[test]
fn the_log_says_a_warning_of_a_receiver_once() {
    let this = std::env::current_exe().unwrap();
    let run = Command::new(this)
        .args(["--exact", "a_warning_of_a_receiver_is_no_failure", "--nocapture"])
        .output()
        .unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{log}");
    check_secrets(&log);
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with("spanring: ")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, name) in lines.iter().zip(["warned", "warned-json"]) {
        assert!(line.starts_with(&format!("spanring: warn: sink {name}: http://")), "{line}");
        check_says(line, &["took all spans and says: ", "should use v2"]);
        assert!(line.len() < 400, "{line}");
    }
}
