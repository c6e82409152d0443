//! The status endpoint as clients see it: every path, hostile clients, health of a sink, forks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use spanring::span;
use spanring_exporter::{MemorySink, OtlpOptions, Pipeline};
use spanring_tests::fork::in_child;
use spanring_tests::receiver::Receiver;
use spanring_tests::{LONG, settings};

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn pipeline() -> (Pipeline, SocketAddr) {
    let settings = settings().status_address(ANY_PORT).headers([("api-key", "very-secret")]);
    let settings = settings.text("OPENAI_API_KEY", "sk-very-secret").unwrap();
    let builder = Pipeline::builder().settings(settings.build());
    let pipeline = builder.sink(MemorySink::new()).build().unwrap();
    let address = pipeline.status_address().expect("loopback has a free port");
    (pipeline, address)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Sends these bytes and reads to the end.
fn ask(address: SocketAddr, request: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
}

#[test]
fn each_path_has_its_answer() {
    let (pipeline, address) = pipeline();
    {
        let _attached = pipeline.attach();
        drop(span!("<b>shown</b>"));
    }
    pipeline.flush(LONG).unwrap();
    for path in ["/health", "/health/tracing", "/health?verbose"] {
        let health = get(address, path);
        assert_eq!(health.status, 200, "{}", health.body);
        let json: serde_json::Value = serde_json::from_str(&health.body).unwrap();
        assert_eq!((&json["healthy"], &json["tracing_enabled"]), (&true.into(), &true.into()));
        assert_eq!(json["processors_count"], 1);
    }
    let metrics = get(address, "/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(metrics.body.ends_with("# EOF\n"));
    assert!(metrics.body.contains("spanring_spans_created_total 1\n"));
    assert!(metrics.body.contains(
        "spanring_span_duration_seconds_count{name=\"<b>shown</b>\",kind=\"internal\"} 1\n"
    ));
    let config = get(address, "/config");
    assert!(!config.body.contains("very-secret"));
    let json: serde_json::Value = serde_json::from_str(&config.body).unwrap();
    let rows = json["settings"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(rows.len(), pipeline.settings().explain().len());
    assert_eq!(row("SPANRING_HEADERS")["value"], "api-key=***");
    assert_eq!(row("SPANRING_HEADERS")["source"], "code");
    assert_eq!(row("SPANRING_MAX_SPANS")["source"], "default");
    let page = get(address, "/");
    assert!(page.head.contains("content-type: text/html; charset=utf-8"));
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'; style-src 'unsafe-inline'")
    );
    assert!(page.body.contains("http-equiv=\"refresh\""));
    assert!(page.body.contains("&lt;b&gt;shown&lt;/b&gt;") && !page.body.contains("<b>"));
    assert!(page.body.contains("<td>memory</td>") && !page.body.contains("very-secret"));
    assert!(!page.body.contains("http://") && !page.body.contains("<script"), "nothing is loaded");
    for answer in [&metrics, &config, &page] {
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("connection: close"));
        assert!(answer.head.contains("cache-control: no-store"));
        assert!(answer.head.contains(&format!("content-length: {}", answer.body.len())));
    }
    assert_eq!(get(address, "/nothing").status, 404);
    assert_eq!(get(address, "/..").status, 404);
    let head = ask(address, b"HEAD /config HTTP/1.0\r\n\r\n");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert!(head.head.contains(&format!("content-length: {}", config.body.len())));
    let post = ask(address, b"POST /health HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: get, head"));
    assert_eq!(ask(address, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").status, 421);
    assert_eq!(ask(address, b"nonsense\r\n\r\n").status, 400);
    assert_eq!(ask(address, &[b'x'; 8 << 10]).status, 431);
    // It listens as long as the pipeline is there, and no longer.
    pipeline.shutdown(LONG).unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn it_answers_before_the_first_span() {
    let (_pipeline, address) = pipeline();
    assert_eq!(get(address, "/health").status, 200);
}

#[test]
fn health_turns_when_a_sink_is_a_black_hole_and_back() {
    let receiver = Receiver::faulty(|connection| {
        // Takes what comes and never says anything.
        connection.request()?;
        connection.wait_healed(LONG);
        Ok(())
    });
    let settings = settings()
        .status_address(ANY_PORT)
        .health_sink_grace(Duration::from_millis(50))
        .max_batch_wait(LONG)
        .build();
    let mut options = OtlpOptions::new(receiver.endpoint());
    options.timeout = LONG;
    let pipeline = Pipeline::builder().settings(settings).otlp(options).build().unwrap();
    let address = pipeline.status_address().unwrap();
    assert_eq!(get(address, "/health").status, 200);
    {
        let _attached = pipeline.attach();
        drop(span!("swallowed"));
    }
    assert!(pipeline.flush(Duration::from_millis(1)).is_err());
    wait_until(|| get(address, "/health").status == 503);
    let health = get(address, "/health/tracing");
    assert_eq!(health.status, 503);
    let json: serde_json::Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!(json["healthy"], false);
    let reason = json["reasons"][0].as_str().unwrap();
    assert!(
        reason.contains("has taken nothing for") && reason.contains("1 spans wait"),
        "{reason}"
    );
    receiver.heal();
    pipeline.flush(LONG).unwrap();
    let health = get(address, "/health");
    assert_eq!(health.status, 200, "{}", health.body);
    let json: serde_json::Value = serde_json::from_str(&health.body).unwrap();
    assert!(json["last_successful_flush"].is_string());
}

#[test]
fn clients_that_do_nothing_keep_nobody_from_an_answer_and_no_span_from_its_sink() {
    let (pipeline, address) = pipeline();
    let _attached = pipeline.attach();
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut socket = TcpStream::connect(address).unwrap();
        if number % 2 == 0 {
            let _ = socket.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        }
        if number % 5 == 0 {
            // One that asks and does not read.
            let _ = socket.write_all(b"\r\n\r\n");
        }
        idle.push(socket);
        if number % 10 == 9 {
            assert_eq!(get(address, "/health").status, 200);
            drop(span!("on its way"));
            pipeline.flush(LONG).unwrap();
        }
    }
    let stats = pipeline.stats();
    assert_eq!((stats.engine.created, stats.sinks[0].delivered, stats.panics), (10, 10, 0));
}

#[test]
fn requests_while_threads_record_lose_nothing() {
    let (pipeline, address) = pipeline();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _attached = pipeline.attach();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(span!("recorded"));
                }
            });
        }
        for number in 0..60 {
            let path = ["/", "/metrics", "/health", "/config"][number % 4];
            assert!([200, 503].contains(&get(address, path).status), "{path}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    pipeline.shutdown(LONG).unwrap();
    let stats = pipeline.stats();
    assert_eq!(stats.engine.created, stats.engine.sealed + stats.engine.dropped.total());
    assert_eq!(stats.sinks[0].delivered, stats.engine.sealed);
    assert_eq!(pipeline.metrics().spans.unwrap().all.count, stats.engine.sealed);
}

#[test]
fn a_port_that_is_taken_costs_the_endpoint_alone() {
    let taken = TcpListener::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap();
    let settings = settings().status_address(address).build();
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder().settings(settings).sink(sink.clone()).build().unwrap();
    assert_eq!(pipeline.status_address(), None);
    {
        let _attached = pipeline.attach();
        drop(span!("all the same"));
    }
    pipeline.flush(LONG).unwrap();
    assert_eq!(sink.batches().len(), 1);
    let said: Vec<_> = std::iter::from_fn(spanring_exporter::next_message)
        .filter(|(_, text)| text.contains(&address.to_string()))
        .collect();
    let [(_, text)] = &said[..] else { panic!("{said:?}") };
    assert!(text.contains("another process has it") && text.contains("port 0"), "{text}");
}

/// Sockets of this process with that address on their own side.
fn sockets_at(address: SocketAddr) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open: Vec<i32> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let is_at = |&descriptor: &i32| {
        // SAFETY: at worst it was closed meanwhile, or stands for another file: then it is asked in vain.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
        let own = rustix::net::getsockname(descriptor);
        own.ok().and_then(|own| SocketAddr::try_from(own).ok()) == Some(address)
    };
    open.iter().filter(|descriptor| is_at(descriptor)).count()
}

#[test]
fn a_fork_child_has_none_of_its_parents_sockets_and_takes_nothing_from_it() {
    let (pipeline, address) = pipeline();
    let mut half = TcpStream::connect(address).unwrap();
    half.set_read_timeout(Some(LONG)).unwrap();
    half.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    for _ in 0..10 {
        assert_eq!(get(address, "/health").status, 200);
        // The listener, and the other end of `half`: a child may keep a socket that is opened or closed just as it is made.
        wait_until(|| sockets_at(address) == 2);
        let status = in_child(|| {
            let health = pipeline.health();
            i32::from(sockets_at(address) != 0)
                | i32::from(health.healthy || health.reasons.len() != 1) << 1
                | i32::from(pipeline.metrics().spans.is_some()) << 2
        });
        assert_eq!(status, 0);
    }
    half.write_all(b"\r\n").unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(half);
    wait_until(|| sockets_at(address) == 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn garbage_gets_an_answer_or_an_end(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3_000),
                "(GET|HEAD|PUT) [ -~]{0,40} HTTP/1\\.[0-9](\r\n[ -~]{0,30}){0,5}(\r\n\r\n)?"
                    .prop_map(String::into_bytes),
            ],
            1..5,
        ),
    ) {
        thread_local! {
            static ONE: (Pipeline, SocketAddr) = pipeline();
        }
        ONE.with(|(pipeline, address)| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            for piece in &pieces {
                // It may be closed by now.
                let _ = socket.write_all(piece);
            }
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let read = socket.read_to_end(&mut answer);
            let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
            assert!(read.as_ref().is_ok() || is_reset(read.as_ref().unwrap_err()), "{read:?}");
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
            assert_eq!(pipeline.stats().panics, 0);
            assert_eq!(get(*address, "/health").status, 200);
        });
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}
