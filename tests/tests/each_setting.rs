//! Every setting changes what the engine does: a test for each row of the table, which runs with one value and with another. A row without a
//! test fails, and so does a test without a row.
#![allow(unsafe_code, reason = "counts what the C library is asked to sync")]

use std::collections::HashMap;
use std::ffi::c_int;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use spanring::export::{EngineStats, Reason};
use spanring::propagation::inject;
use spanring::settings::{Detail, LogLevel, Settings, SettingsBuilder};
use spanring::{
    Attributes, Span, SpanContext, SpanId, SpanKind, StatusCode, TraceFlags, TraceId, TraceState,
    span,
};
use spanring_exporter::{Alert, AlertKind, MemorySink, Pipeline, SinkDrop, SpanView, next_message};
use spanring_tests::fork::in_child;
use spanring_tests::ingest::Ingest;
use spanring_tests::ledger::Ledger;
use spanring_tests::receiver::{Answer, Receiver, Request, decode};
use spanring_tests::sinks::{Act, GatedSink, ScriptedSink};
use spanring_tests::{LONG, memory_pipeline, record, settings};

/// The tests, one a setting, and the list of them.
macro_rules! each {
    ($($suffix:ident $body:block)*) => {
        $(#[test] #[allow(non_snake_case)] fn $suffix() $body)*
        const TESTED: &[&str] = &[$(stringify!($suffix)),*];
    };
}

/// Settings whose effect is in a package for another language: the file with their test, and its name.
const ELSEWHERE: &[(&str, &str, &str)] =
    &[("CAPTURE_CONTENT", "ffi/ruby/test/test_raaf_processor.rb", "CAPTURE_CONTENT")];

#[test]
fn every_setting_has_a_test() {
    let explained = Settings::default().explain();
    let rows: Vec<_> = explained.iter().map(|row| row.name.replacen("SPANRING_", "", 1)).collect();
    let elsewhere = ELSEWHERE.iter().map(|(suffix, ..)| *suffix);
    let mut tested: Vec<_> = TESTED.iter().copied().chain(elsewhere).collect();
    for row in &rows {
        assert!(tested.contains(&row.as_str()), "no test here shows what {row} does");
    }
    tested.retain(|suffix| !rows.iter().any(|row| row == suffix));
    assert!(tested.is_empty(), "no settings: {tested:?}");
    for (suffix, file, test) in ELSEWHERE {
        let text = fs::read_to_string(Path::new("..").join(file)).unwrap();
        assert!(text.contains(test), "{file} does not test {suffix}");
    }
}

/// Settings as variables would say them.
fn with<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> SettingsBuilder {
    pairs.into_iter().fold(settings(), |builder, (name, value)| builder.text(name, value).unwrap())
}

fn spans(count: u64) {
    (0..count).for_each(|number| drop(span!("one of many", "number" = number)));
}

/// What so many spans became.
fn recorded(pairs: &[(&str, &str)], count: u64) -> Ledger {
    record(with(pairs.iter().copied()), |_| spans(count))
}

/// Batches with spans.
fn batches(pairs: &[(&str, &str)], count: u64) -> usize {
    recorded(pairs, count).batches.iter().filter(|batch| batch.header.spans > 0).count()
}

fn until(mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < give_up, "it never was so");
        std::thread::yield_now();
    }
}

/// What an engine has counted after `record`, during which the flusher was held up.
fn held_up(pairs: &[(&str, &str)], record: impl FnOnce()) -> EngineStats {
    let (sink, gate) = GatedSink::new();
    let settings = with(pairs.iter().copied()).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink).build().unwrap();
    let attached = pipeline.attach();
    spans(1);
    std::thread::scope(|scope| {
        scope.spawn(|| pipeline.flush(LONG).unwrap());
        gate.wait_entered();
        record();
        let engine = pipeline.stats().engine;
        drop(gate.open());
        drop(attached);
        engine
    })
}

/// A pipeline with a sink that never takes anything, after a try of a flush.
fn stuck(pairs: &[(&str, &str)]) -> (Pipeline, ScriptedSink) {
    let sink = ScriptedSink::new([], Act::Fail);
    let settings = with(pairs.iter().copied()).build();
    let pipeline = Pipeline::builder().settings(settings).sink(sink.clone()).build().unwrap();
    let attached = pipeline.attach();
    spans(5);
    drop(attached);
    _ = pipeline.flush(Duration::from_millis(1));
    until(|| !sink.offered().is_empty());
    (pipeline, sink)
}

/// The segments of a pipeline with these settings, and what they take. Each of the spans is a batch of about a kilobyte.
fn files(pairs: &[(&str, &str)], count: u64) -> (usize, u64) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let pipeline = {
        let settings = with(pairs.iter().copied().chain([("DIR", dir), ("BATCH_SIZE", "1")]));
        Pipeline::builder().settings(settings.build()).build().unwrap()
    };
    let attached = pipeline.attach();
    let mut noise = 1u64;
    for _ in 0..count {
        let text: String = (0..1000)
            .map(|_| {
                noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                char::from(b' ' + (noise >> 58) as u8)
            })
            .collect();
        drop(span!("noise", "text" = text));
        pipeline.flush(LONG).unwrap();
    }
    drop(attached);
    pipeline.shutdown(LONG).unwrap();
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
    let sizes: Vec<_> = entries
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    (sizes.len(), sizes.iter().sum())
}

/// The requests in which a pipeline sends so many spans.
fn requests(pairs: &[(&str, &str)], count: u64) -> Vec<Request> {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let keep = requests.clone();
    let receiver = Receiver::answering(move |request| {
        keep.lock().unwrap().push(request.clone());
        Answer::status(200)
    });
    let endpoint = receiver.endpoint();
    let settings = with(pairs.iter().copied().chain([("ENDPOINT", endpoint.as_str())]));
    let pipeline = Pipeline::builder().settings(settings.build()).build().unwrap();
    let attached = pipeline.attach();
    spans(count);
    drop(attached);
    pipeline.shutdown(LONG).unwrap();
    assert_eq!(receiver.distinct() as u64, count);
    drop(receiver);
    requests.lock().unwrap().clone()
}

/// Headers of the only request for a span.
fn headers(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let mut requests = requests(pairs, 1);
    assert_eq!(requests.len(), 1);
    requests.remove(0).headers
}

/// The resource's attribute.
fn resource(pairs: &[(&str, &str)], key: &str) -> Option<String> {
    let request = decode(&requests(pairs, 1)[0]).unwrap();
    let attributes = &request.resource_spans[0].resource.as_ref().unwrap().attributes;
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text) => {
            Some(text.clone())
        }
        other => panic!("{other:?}"),
    }
}

/// What a spool dropped for an outage, with a batch a span.
fn spool_dropped(pairs: &[(&str, &str)], spans_of_a_kilobyte: u64, enough: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{gone}");
    let always = [
        ("DIR", dir),
        ("ENDPOINT", endpoint.as_str()),
        ("BATCH_SIZE", "16"),
        ("MAX_BATCH_WAIT", "0.001"),
    ];
    let settings = with(pairs.iter().copied().chain(always)).build();
    let pipeline = Pipeline::builder().settings(settings).build().unwrap();
    let attached = pipeline.attach();
    let mut noise = 1u64;
    for _ in 0..spans_of_a_kilobyte {
        let words: Vec<String> = (0..60)
            .map(|_| {
                noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                format!("{noise:016x}")
            })
            .collect();
        drop(span!("kept", "text" = words.concat()));
    }
    drop(attached);
    _ = pipeline.flush(Duration::from_millis(1));
    let sink = || {
        let stats = pipeline.stats();
        stats
            .sinks
            .into_iter()
            .find(|sink| sink.name.contains("otlp"))
            .expect("it has a sink for OTLP")
    };
    let dropped = || sink().dropped[SinkDrop::Spool as usize];
    until(|| match enough {
        0 => sink().spooled == spans_of_a_kilobyte,
        _ => dropped() >= enough,
    });
    dropped()
}

/// The objects that OpenAI's ingest was sent for a span, and the headers with them.
fn ingested(pairs: &[(&str, &str)]) -> (usize, Vec<HashMap<String, String>>) {
    let headers = Arc::new(Mutex::new(Vec::new()));
    let keep = headers.clone();
    let ingest = Ingest::answering(move |request| {
        keep.lock().unwrap().push(request.headers.clone());
        Answer::status(200)
    });
    let url = ingest.base_url();
    let settings =
        with([("OPENAI_BASE_URL", url.as_str())].into_iter().chain(pairs.iter().copied()));
    let pipeline =
        Pipeline::builder().settings(settings.build()).sink(MemorySink::new()).build().unwrap();
    let attached = pipeline.attach();
    spans(1);
    drop(attached);
    pipeline.shutdown(LONG).unwrap();
    let headers = headers.lock().unwrap().clone();
    (ingest.spans().len(), headers)
}

const OPENAI_ON: [(&str, &str); 2] = [("OPENAI", "true"), ("OPENAI_API_KEY", "sk-test-0123456789")];

/// An authority, a server's certificate and a client's, as files.
struct Certificates {
    folder: tempfile::TempDir,
    plain: Arc<ServerConfig>,
    asks: Arc<ServerConfig>,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (client, client_key) = signed("client.test");
        fs::write(folder.path().join("client.pem"), client.pem()).unwrap();
        fs::write(folder.path().join("client.key"), client_key.serialize_pem()).unwrap();
        let (server, server_key) = signed("127.0.0.1");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = |asks: bool| {
            let builder = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .unwrap();
            let builder = match asks {
                false => builder.with_no_client_auth(),
                true => {
                    let roots = Arc::new(roots.clone());
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                    builder.with_client_cert_verifier(verifier.build().unwrap())
                }
            };
            let key = PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
            Arc::new(builder.with_single_cert(vec![server.der().clone()], key).unwrap())
        };
        Certificates { plain: config(false), asks: config(true), folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Whether a server that speaks TLS gets a span.
fn sent_over_tls(config: &Arc<ServerConfig>, pairs: &[(&str, &str)]) -> bool {
    let config = config.clone();
    let receiver = Receiver::over(move |socket| {
        Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket))
    });
    let endpoint = format!("https://{}", receiver.address());
    let settings = with(pairs.iter().copied().chain([("ENDPOINT", endpoint.as_str())]));
    let pipeline = Pipeline::builder().settings(settings.build()).build().unwrap();
    let attached = pipeline.attach();
    spans(1);
    drop(attached);
    _ = pipeline.flush(Duration::from_millis(1));
    until(|| {
        let sink = &pipeline.stats().sinks[0];
        sink.failures + sink.delivered + sink.dropped_total() > 0
    });
    receiver.distinct() == 1
}

/// A span with two of everything that is counted, as it came out.
fn limited(pairs: &[(&str, &str)]) -> spanring_exporter::model::SpanData {
    let ledger = record(with(pairs.iter().copied()), |_| {
        let mut span = Span::start("limited");
        span.set_attribute("first", "a longer text");
        span.set_attribute("second", 2);
        let both =
            |attributes: &mut Attributes<'_>| _ = attributes.set("first", 1).set("second", 2);
        span.add_event_with("event", both).add_event_with("event", both);
        let other =
            SpanContext::remote(TraceId(7), SpanId(8), TraceFlags::SAMPLED, TraceState::default());
        span.add_link_with(&other, both).add_link_with(&other, both);
    });
    ledger.span("limited").clone()
}

/// A span without a parent and one below it, the second with an error if that is wanted; the names of those that came out.
fn traced(pairs: &[(&str, &str)], error: bool) -> Vec<String> {
    let ledger = record(with(pairs.iter().copied()), |_| {
        let _root = span!("root", "tenant" = "acme");
        let mut child = span!("child");
        if error {
            child.record_error(&std::io::Error::other("no"));
        }
    });
    let mut names: Vec<_> = ledger.spans().map(|span| span.name.clone()).collect();
    names.sort();
    names
}

/// The alerts about 1000 spans, of which every fifth has an error and every tenth takes 3 seconds, and then about 1000 more.
fn alerted(pairs: &[(&str, &str)]) -> Vec<Alert> {
    let always = [
        ("ALERTS", "true"),
        ("HEALTH_MAX_MEMORY", "1TiB"),
        ("BATCH_SIZE", "1000"),
        ("LOG_LEVEL", "fatal"),
    ];
    let (pipeline, _) = memory_pipeline(with(always.into_iter().chain(pairs.iter().copied())));
    let attached = pipeline.attach();
    let start = std::time::SystemTime::now();
    for round in 0..2 {
        for number in 0..1000 {
            let mut span = Span::builder("watched").start_time(start).start();
            if round == 0 && number % 5 == 0 {
                span.set_status(StatusCode::Error, "no");
            }
            let is_slow = round == 0 && number % 10 == 0;
            span.end_at(start + Duration::from_millis(if is_slow { 3000 } else { 1 }));
        }
        pipeline.flush(LONG).unwrap();
    }
    drop(attached);
    pipeline.alerts().alerts
}

/// Whether there was an alert of that kind.
fn alerts_of(pairs: &[(&str, &str)], kind: AlertKind) -> bool {
    alerted(pairs).iter().any(|alert| alert.kind == kind && !alert.over)
}

static SYNCS: AtomicU64 = AtomicU64::new(0);

/// The C library's, which is what the standard library calls; counts.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    SYNCS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the system call that the C library makes, called as we were.
    unsafe { libc::syscall(libc::SYS_fdatasync, file) as c_int }
}

each! {
    PRESET {
        assert_eq!(batches(&[], 40), 1);
        assert!(batches(&[("PRESET", "realtime")], 40) >= 4);
    }

    CONFIG {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "batch_size = 10").unwrap();
        let (pipeline, sink) = memory_pipeline(with([("CONFIG", file.path().to_str().unwrap())]));
        let attached = pipeline.attach();
        spans(40);
        drop(attached);
        pipeline.flush(LONG).unwrap();
        assert!(sink.batches().len() >= 4);
    }

    MAX_SPANS {
        let dropped = |most| {
            let engine = held_up(&[("MAX_SPANS", most), ("BATCH_SIZE", "16")], || spans(500));
            engine.dropped.0[Reason::Budget as usize]
        };
        assert_eq!(dropped("1000"), 0);
        assert!((480..500).contains(&dropped("16")));
    }

    MAX_BYTES {
        let lost = |bytes| {
            let engine = held_up(&[("MAX_BYTES", bytes), ("MAX_SPANS", "64"), ("BATCH_SIZE", "16")], || {
                let text = "x".repeat(300_000);
                (0..10).for_each(|_| drop(span!("large", "text" = text.clone())));
            });
            engine.dropped.total() + engine.attributes_dropped
        };
        assert_eq!(lost("64MiB"), 0);
        assert!(lost("1MiB") >= 7);
    }

    BATCH_SIZE {
        assert_eq!(batches(&[], 40), 1);
        assert!(batches(&[("BATCH_SIZE", "10")], 40) >= 4);
    }

    FLUSH_INTERVAL {
        let (pipeline, _) = memory_pipeline(with([("FLUSH_INTERVAL", "3600")]));
        let attached = pipeline.attach();
        spans(1);
        assert_eq!(pipeline.stats().engine.sealed, 0);
        drop(attached);
        let (pipeline, _) = memory_pipeline(with([("FLUSH_INTERVAL", "0.001")]));
        let attached = pipeline.attach();
        spans(1);
        until(|| pipeline.stats().engine.sealed == 1);
        drop(attached);
    }

    MAX_BATCH_WAIT {
        let (pipeline, sink) = stuck(&[("MAX_BATCH_WAIT", "3600")]);
        until(|| pipeline.stats().sinks[0].queued == 5);
        assert_eq!(pipeline.stats().sinks[0].dropped_total(), 0);
        sink.act(Act::Take);
        let (pipeline, sink) = stuck(&[("MAX_BATCH_WAIT", "0.001")]);
        until(|| pipeline.stats().sinks[0].dropped[SinkDrop::TimedOut as usize] == 5);
        sink.act(Act::Take);
    }

    CLEANUP_INTERVAL {
        let rings = |interval| {
            let (pipeline, _) = memory_pipeline(with([("CLEANUP_INTERVAL", interval), ("FLUSH_INTERVAL", "0.001")]));
            let attached = pipeline.attach();
            spans(1000);
            pipeline.flush(LONG).unwrap();
            (pipeline.metrics().memory.rings, pipeline, attached)
        };
        let (before, pipeline, attached) = rings("3600");
        assert!(before > 0);
        // A round of the flusher, in which it would have.
        pipeline.flush(LONG).unwrap();
        assert_eq!(pipeline.metrics().memory.rings, before);
        drop(attached);
        let (_, pipeline, attached) = rings("0.001");
        until(|| {
            // What is looked at is what a round found.
            _ = pipeline.flush(LONG);
            pipeline.metrics().memory.rings < before
        });
        drop(attached);
    }

    RETRY_ATTEMPTS {
        let (pipeline, sink) = stuck(&[]);
        until(|| pipeline.stats().sinks[0].queued == 5);
        sink.act(Act::Take);
        let (pipeline, _) = stuck(&[("RETRY_ATTEMPTS", "0")]);
        until(|| pipeline.stats().sinks[0].dropped[SinkDrop::Attempts as usize] == 5);
    }

    DIR {
        assert_eq!(files(&[], 1).0, 1);
    }

    RETENTION_BYTES {
        let small = [("SEGMENT_MAX_BYTES", "4KiB")];
        assert!(files(&small, 200).1 > 128 << 10);
        assert!(files(&[small[0], ("RETENTION_BYTES", "64KiB")], 200).1 <= 64 << 10);
    }

    SEGMENT_MAX_BYTES {
        assert_eq!(files(&[], 20).0, 1);
        assert!(files(&[("SEGMENT_MAX_BYTES", "4KiB")], 20).0 > 2);
    }

    SEGMENT_MAX_AGE {
        assert_eq!(files(&[], 5).0, 1);
        let (pipeline, folder) = {
            let folder = tempfile::tempdir().unwrap();
            let settings = with([("SEGMENT_MAX_AGE", "0.001"), ("DIR", folder.path().to_str().unwrap())]);
            (Pipeline::builder().settings(settings.build()).build().unwrap(), folder)
        };
        let attached = pipeline.attach();
        until(|| {
            spans(1);
            pipeline.flush(LONG).unwrap();
            fs::read_dir(folder.path()).unwrap().count() > 1
        });
        drop(attached);
    }

    FSYNC {
        // In children, since other tests write, too.
        let syncs = |fsync: &str| {
            in_child(|| {
                SYNCS.store(0, Ordering::SeqCst);
                let before = files(&[("FSYNC", fsync)], 10);
                assert_eq!(before.0, 1);
                SYNCS.load(Ordering::SeqCst) as i32
            })
        };
        assert!((10..100).contains(&syncs("true")));
        assert!(syncs("false") < 5);
    }

    ENDPOINT {
        assert_eq!(requests(&[], 1).len(), 1);
    }

    PROTOCOL {
        assert!(settings().text("PROTOCOL", "grpc").unwrap_err().contains("http/protobuf"));
        assert_eq!(headers(&[("PROTOCOL", "http/protobuf")])["content-type"], "application/x-protobuf");
    }

    HEADERS {
        assert_eq!(headers(&[]).get("x-scope"), None);
        assert_eq!(headers(&[("HEADERS", "x-scope=team%201")])["x-scope"], "team 1");
    }

    COMPRESSION {
        assert_eq!(headers(&[]).get("content-encoding"), None);
        for encoding in ["gzip", "zstd"] {
            let mut requests = requests(&[("COMPRESSION", encoding)], 200);
            assert_eq!(requests.remove(0).headers["content-encoding"], encoding);
        }
    }

    TIMEOUT {
        for (timeout, fails) in [("3600", false), ("0.05", true)] {
            let receiver = Receiver::faulty(|connection| {
                connection.request()?;
                connection.wait_healed(LONG);
                Ok(())
            });
            let endpoint = receiver.endpoint();
            let settings = with([("TIMEOUT", timeout), ("ENDPOINT", endpoint.as_str())]);
            let pipeline = Pipeline::builder().settings(settings.build()).build().unwrap();
            let attached = pipeline.attach();
            spans(1);
            drop(attached);
            _ = pipeline.flush(Duration::from_millis(200));
            until(|| receiver.requests() > 0);
            if fails {
                until(|| pipeline.stats().sinks[0].failures > 0);
            } else {
                assert_eq!(pipeline.stats().sinks[0].failures, 0);
            }
            receiver.heal();
        }
    }

    CERTIFICATE {
        let certificates = Certificates::new();
        assert!(!sent_over_tls(&certificates.plain, &[]));
        assert!(sent_over_tls(&certificates.plain, &[("CERTIFICATE", &certificates.file("ca.pem"))]));
    }

    CLIENT_CERTIFICATE {
        let certificates = Certificates::new();
        let [ca, client, key] = ["ca.pem", "client.pem", "client.key"].map(|name| certificates.file(name));
        assert!(!sent_over_tls(&certificates.asks, &[("CERTIFICATE", &ca)]));
        let both = [("CERTIFICATE", ca.as_str()), ("CLIENT_CERTIFICATE", &client), ("CLIENT_KEY", &key)];
        assert!(sent_over_tls(&certificates.asks, &both));
    }

    CLIENT_KEY {
        let certificates = Certificates::new();
        let [ca, client, key] = ["ca.pem", "client.pem", "client.key"].map(|name| certificates.file(name));
        let without = [("CERTIFICATE", ca.as_str()), ("CLIENT_CERTIFICATE", &client)];
        assert!(!sent_over_tls(&certificates.asks, &without));
        assert!(sent_over_tls(&certificates.asks, &[without[0], without[1], ("CLIENT_KEY", &key)]));
    }

    POOL_SIZE {
        for (size, connections) in [("1", 1), ("3", 3)] {
            // Nobody is answered before so many ask at once.
            let asking = Arc::new((Mutex::new(0), Condvar::new()));
            let receiver = Receiver::answering(move |_| {
                let (count, changed) = &*asking;
                let mut count = count.lock().unwrap();
                *count += 1;
                changed.notify_all();
                let (_count, late) =
                    changed.wait_timeout_while(count, LONG, |count| *count < connections).unwrap();
                Answer::status(if late.timed_out() { 400 } else { 200 })
            });
            let endpoint = receiver.endpoint();
            let settings =
                with([("POOL_SIZE", size), ("ENDPOINT", endpoint.as_str()), ("BATCH_SIZE", "1"), ("TIMEOUT", "300")]);
            let pipeline = Pipeline::builder().settings(settings.build()).build().unwrap();
            let attached = pipeline.attach();
            spans(10);
            drop(attached);
            pipeline.shutdown(LONG).unwrap();
            assert_eq!((receiver.distinct(), receiver.connections()), (10, connections));
        }
    }

    OPENAI {
        assert_eq!(ingested(&[OPENAI_ON[1]]).0, 0);
        assert_eq!(ingested(&OPENAI_ON).0, 1);
    }

    OPENAI_BASE_URL {
        let other = Ingest::start();
        let url = other.base_url();
        assert_eq!(ingested(&[OPENAI_ON[0], OPENAI_ON[1], ("OPENAI_BASE_URL", &url)]).0, 0);
        assert_eq!(other.spans().len(), 1);
    }

    OPENAI_API_KEY {
        assert_eq!(ingested(&[OPENAI_ON[0]]).0, 0);
        let (_, headers) = ingested(&OPENAI_ON);
        assert_eq!(headers[0]["authorization"], "Bearer sk-test-0123456789");
    }

    OPENAI_ORG_ID {
        assert_eq!(ingested(&OPENAI_ON).1[0].get("openai-organization"), None);
        let (_, headers) = ingested(&[OPENAI_ON[0], OPENAI_ON[1], ("OPENAI_ORG_ID", "org-7")]);
        assert_eq!(headers[0]["openai-organization"], "org-7");
    }

    OPENAI_PROJECT_ID {
        assert_eq!(ingested(&OPENAI_ON).1[0].get("openai-project"), None);
        let (_, headers) = ingested(&[OPENAI_ON[0], OPENAI_ON[1], ("OPENAI_PROJECT_ID", "proj-7")]);
        assert_eq!(headers[0]["openai-project"], "proj-7");
    }

    SPOOL_MAX_BYTES {
        assert_eq!(spool_dropped(&[], 200, 0), 0);
        assert!(spool_dropped(&[("SPOOL_MAX_BYTES", "64KiB")], 200, 16) >= 16);
    }

    SPOOL_MAX_AGE {
        assert_eq!(spool_dropped(&[], 20, 0), 0);
        assert_eq!(spool_dropped(&[("SPOOL_MAX_AGE", "1")], 20, 20), 20);
    }

    COMPRESSION_LEVEL {
        let bytes = |level| {
            let (pipeline, _) = memory_pipeline(with([("COMPRESSION_LEVEL", level), ("BATCH_SIZE", "4096")]));
            let attached = pipeline.attach();
            for number in 0..4000u64 {
                let text = format!("customer {} bought item {}", number * number % 977, number % 13);
                drop(span!("sold", "text" = text));
            }
            drop(attached);
            pipeline.shutdown(LONG).unwrap();
            pipeline.stats().bytes
        };
        assert!(bytes("19") < bytes("-7"));
    }

    SAMPLER {
        assert_eq!(recorded(&[], 10).spans().count(), 10);
        assert_eq!(recorded(&[("SAMPLER", "always_off")], 10).spans().count(), 0);
    }

    SAMPLER_ARG {
        assert_eq!(recorded(&[("SAMPLER", "every_nth")], 10).spans().count(), 10);
        assert_eq!(recorded(&[("SAMPLER", "every_nth"), ("SAMPLER_ARG", "5")], 10).spans().count(), 2);
    }

    DISABLED {
        assert_eq!(recorded(&[("DISABLED", "false")], 10).spans().count(), 10);
        assert_eq!(recorded(&[("DISABLED", "true")], 10).spans().count(), 0);
    }

    LOG_LEVEL {
        // In children: what is logged is the process's.
        let said = |level: &str| {
            in_child(|| {
                while next_message().is_some() {}
                let (_pipeline, _sink) = stuck(&[("LOG_LEVEL", level), ("MAX_BATCH_WAIT", "3600")]);
                let mut said = 0;
                let give_up = Instant::now() + Duration::from_millis(500);
                while said == 0 && Instant::now() < give_up {
                    said += i32::from(next_message().is_some());
                    std::thread::yield_now();
                }
                said
            })
        };
        assert_eq!((said("fatal"), said("debug")), (0, 1));
    }

    RESOURCE_ATTRIBUTES {
        assert_eq!(resource(&[], "deployment.environment"), None);
        let found = resource(&[("RESOURCE_ATTRIBUTES", "deployment.environment=staging")], "deployment.environment");
        assert_eq!(found.as_deref(), Some("staging"));
    }

    SERVICE_NAME {
        assert!(resource(&[], "service.name").unwrap().starts_with("unknown_service"));
        assert_eq!(resource(&[("SERVICE_NAME", "shop")], "service.name").as_deref(), Some("shop"));
    }

    PROPAGATORS {
        // In children: they are the process's.
        let injects = |propagators: &str| {
            in_child(|| {
                let settings = with([("PROPAGATORS", propagators)]).build();
                let pipeline = Pipeline::builder().settings(settings).sink(MemorySink::new()).install().unwrap();
                let span = Span::start("asks");
                let mut carrier = HashMap::<String, String>::new();
                inject(&span.context(), &mut carrier);
                drop((span, pipeline));
                carrier.len() as i32
            })
        };
        assert_eq!((injects("tracecontext"), injects("baggage"), injects("none")), (1, 0, 0));
    }

    ATTRIBUTE_COUNT_LIMIT {
        assert_eq!((limited(&[]).attributes.len(), limited(&[]).dropped_attributes), (2, 0));
        let cut = limited(&[("ATTRIBUTE_COUNT_LIMIT", "1")]);
        assert_eq!((cut.attributes.len(), cut.dropped_attributes), (1, 1));
    }

    ATTRIBUTE_VALUE_LENGTH_LIMIT {
        assert_eq!(limited(&[]).attributes[0].1, "a longer text".into());
        assert_eq!(limited(&[("ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")]).attributes[0].1, "a l".into());
    }

    EVENT_COUNT_LIMIT {
        assert_eq!((limited(&[]).events.len(), limited(&[]).dropped_events), (2, 0));
        let cut = limited(&[("EVENT_COUNT_LIMIT", "1")]);
        assert_eq!((cut.events.len(), cut.dropped_events), (1, 1));
    }

    LINK_COUNT_LIMIT {
        assert_eq!((limited(&[]).links.len(), limited(&[]).dropped_links), (2, 0));
        let cut = limited(&[("LINK_COUNT_LIMIT", "1")]);
        assert_eq!((cut.links.len(), cut.dropped_links), (1, 1));
    }

    EVENT_ATTRIBUTE_COUNT_LIMIT {
        assert_eq!(limited(&[]).events[0].attributes.len(), 2);
        let cut = limited(&[("EVENT_ATTRIBUTE_COUNT_LIMIT", "1")]);
        assert_eq!((cut.events[0].attributes.len(), cut.events[0].dropped_attributes), (1, 1));
    }

    LINK_ATTRIBUTE_COUNT_LIMIT {
        assert_eq!(limited(&[]).links[0].attributes.len(), 2);
        let cut = limited(&[("LINK_ATTRIBUTE_COUNT_LIMIT", "1")]);
        assert_eq!((cut.links[0].attributes.len(), cut.links[0].dropped_attributes), (1, 1));
    }

    METRICS {
        for (metrics, is_measured) in [("false", false), ("true", true)] {
            let (pipeline, _) = memory_pipeline(with([("METRICS", metrics)]));
            let attached = pipeline.attach();
            spans(3);
            drop(attached);
            pipeline.flush(LONG).unwrap();
            assert_eq!(pipeline.metrics().spans.is_some_and(|spans| spans.all.count == 3), is_measured);
        }
    }

    REPORT_EVERY {
        let reports = |every: &str| {
            in_child(|| {
                while next_message().is_some() {}
                let (pipeline, _) = memory_pipeline(with([("REPORT_EVERY", every), ("LOG_LEVEL", "fatal")]));
                let attached = pipeline.attach();
                spans(100);
                drop(attached);
                pipeline.shutdown(LONG).unwrap();
                let said = std::iter::from_fn(next_message);
                said.filter(|(level, text)| *level == LogLevel::Info && text.starts_with("report: ")).count() as i32
            })
        };
        assert_eq!((reports("0"), reports("100")), (0, 1));
    }

    HEALTH_MAX_MEMORY {
        let is_healthy = |bytes| memory_pipeline(with([("HEALTH_MAX_MEMORY", bytes)])).0.health().healthy;
        assert!(is_healthy("1TiB") && !is_healthy("1MiB"));
    }

    HEALTH_MAX_ERROR_RATE {
        let is_healthy = |rate| {
            let (pipeline, _) =
                memory_pipeline(with([("HEALTH_MAX_ERROR_RATE", rate), ("HEALTH_MAX_MEMORY", "1TiB"), ("METRICS", "true")]));
            let attached = pipeline.attach();
            for number in 0..40 {
                let mut span = Span::builder("fails").kind(SpanKind::Server).start();
                if number % 2 == 0 {
                    span.record_error(&std::io::Error::other("no"));
                }
            }
            drop(attached);
            pipeline.flush(LONG).unwrap();
            pipeline.health().healthy
        };
        assert!(is_healthy("0.6") && !is_healthy("0.4"));
    }

    HEALTH_SINK_GRACE {
        let (pipeline, sink) = stuck(&[("HEALTH_SINK_GRACE", "3600"), ("MAX_BATCH_WAIT", "3600"), ("HEALTH_MAX_MEMORY", "1TiB")]);
        assert!(pipeline.health().healthy, "{:?}", pipeline.health());
        sink.act(Act::Take);
        let (pipeline, sink) = stuck(&[("HEALTH_SINK_GRACE", "0.001"), ("MAX_BATCH_WAIT", "3600"), ("HEALTH_MAX_MEMORY", "1TiB")]);
        until(|| !pipeline.health().healthy);
        sink.act(Act::Take);
    }

    STATUS_ADDRESS {
        assert_eq!(memory_pipeline(settings()).0.status_address(), None);
        let (pipeline, _) = memory_pipeline(with([("STATUS_ADDRESS", "127.0.0.1:0")]));
        let address = pipeline.status_address().expect("it listens");
        TcpStream::connect(address).unwrap();
    }

    STATUS_ANY_ADDRESS {
        let (any, yes) = (("STATUS_ADDRESS", "0.0.0.0:0"), ("STATUS_ANY_ADDRESS", "true"));
        assert_eq!(memory_pipeline(with([any])).0.status_address(), None);
        assert!(memory_pipeline(with([any, yes])).0.status_address().is_some());
    }

    RULES {
        assert_eq!(traced(&[], false), ["child", "root"]);
        assert!(traced(&[("RULES", "tenant=acme -> never")], false).is_empty());
    }

    LEVEL {
        assert_eq!(traced(&[("LEVEL", "full")], false), ["child", "root"]);
        assert_eq!(traced(&[("LEVEL", "minimal")], false), ["root"]);
        assert_eq!(traced(&[("LEVEL", "minimal")], true), ["child", "root"]);
        assert!(traced(&[("LEVEL", "none")], true).is_empty());
    }

    LEVELS {
        assert_eq!(traced(&[("LEVELS", "name:ch*=none")], false), ["root"]);
        assert_eq!(traced(&[("LEVELS", "name:db.*=none")], false), ["child", "root"]);
    }

    BASIC_TRACING {
        assert_eq!(traced(&[("BASIC_TRACING", "true")], false), ["child", "root"]);
        assert!(traced(&[("BASIC_TRACING", "false")], false).is_empty());
    }

    DETAILED_TRACING {
        let spans = |detailed| {
            let ledger = record(with([("DETAILED_TRACING", detailed)]), |_| {
                drop(Span::builder("step").detail(Detail::Detailed).start());
            });
            ledger.spans().count()
        };
        assert_eq!((spans("false"), spans("true")), (0, 1));
    }

    DETAILS {
        assert_eq!(traced(&[("DETAILS", "name:child=none")], false), ["root"]);
        assert_eq!(traced(&[("DETAILS", "name:child=basic")], false), ["child", "root"]);
    }

    OVERFLOW {
        let dropped = |overflow| {
            let pairs = [("MAX_SPANS", "64"), ("BATCH_SIZE", "16"), ("OVERFLOW", overflow)];
            let (pipeline, _) = memory_pipeline(with(pairs));
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let _attached = pipeline.attach();
                        spans(20_000);
                    });
                }
            });
            pipeline.shutdown(LONG).unwrap();
            pipeline.stats().engine.dropped.total()
        };
        assert!(dropped("drop") > 0);
        assert_eq!(dropped("wait:60000"), 0);
    }

    ALERTS {
        assert!(alerted(&[("ALERTS", "false")]).is_empty());
        assert!(alerts_of(&[], AlertKind::ErrorRate));
    }

    ALERT_WEBHOOK {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let keep = bodies.clone();
        let receiver = Receiver::taking(
            move |request| {
                keep.lock().unwrap().push(String::from_utf8(request.body.clone()).unwrap());
                Answer::status(200)
            },
            |_| Ok(Vec::new()),
        );
        let url = format!("http://{}/hook", receiver.address());
        alerted(&[("ALERTS", "false"), ("ALERT_WEBHOOK", &url)]);
        until(|| bodies.lock().unwrap().iter().any(|body| body.contains("error_rate")));
    }

    ALERT_INTERVAL {
        // Fewer than 1000 spans are looked at in time.
        let alerts = |interval| {
            let pairs = [("ALERTS", "true"), ("HEALTH_MAX_MEMORY", "1TiB"), ("ALERT_INTERVAL", interval)];
            let (pipeline, _) = memory_pipeline(with(pairs));
            let attached = pipeline.attach();
            (0..100).for_each(|_| _ = span!("fails").record_error(&std::io::Error::other("no")));
            pipeline.flush(LONG).unwrap();
            drop(attached);
            pipeline
        };
        assert!(alerts("86400").alerts().alerts.is_empty());
        let soon = alerts("0.001");
        until(|| !soon.alerts().alerts.is_empty());
    }

    ALERT_COOLDOWN {
        let begun = |cooldown| {
            let pairs = [("ALERTS", "true"), ("HEALTH_MAX_MEMORY", "1TiB"), ("BATCH_SIZE", "1000"), ("ALERT_COOLDOWN", cooldown)];
            let (pipeline, _) = memory_pipeline(with(pairs));
            let attached = pipeline.attach();
            for round in 0..6 {
                for _ in 0..1000 {
                    let mut span = span!("fails at times");
                    if round % 2 == 0 {
                        span.set_status(StatusCode::Error, "no");
                    }
                }
                pipeline.flush(LONG).unwrap();
                // Longer than the short cooldown.
                std::thread::sleep(Duration::from_millis(2));
            }
            drop(attached);
            let alerts = pipeline.alerts().alerts;
            alerts.iter().filter(|alert| alert.kind == AlertKind::ErrorRate && !alert.over).count()
        };
        assert_eq!((begun("86400"), begun("0.001")), (1, 3));
    }

    ALERT_ERROR_RATE {
        assert!(alerts_of(&[("ALERT_ERROR_RATE", "0.1")], AlertKind::ErrorRate));
        assert!(!alerts_of(&[("ALERT_ERROR_RATE", "0.3")], AlertKind::ErrorRate));
    }

    ALERT_SLOW_TIME {
        assert!(alerts_of(&[("ALERT_SLOW_TIME", "2"), ("ALERT_SLOW_RATE", "0.05")], AlertKind::SlowRate));
        assert!(!alerts_of(&[("ALERT_SLOW_TIME", "4"), ("ALERT_SLOW_RATE", "0.05")], AlertKind::SlowRate));
    }

    ALERT_SLOW_RATE {
        assert!(alerts_of(&[("ALERT_SLOW_RATE", "0.05")], AlertKind::SlowRate));
        assert!(!alerts_of(&[("ALERT_SLOW_RATE", "0.2")], AlertKind::SlowRate));
    }

    ALERT_P99 {
        assert!(!alerts_of(&[], AlertKind::P99));
        assert!(alerts_of(&[("ALERT_P99", "2")], AlertKind::P99));
    }

    ALERT_DROP_RATE {
        let is_alerted = |rate| {
            let (sink, gate) = GatedSink::new();
            let pairs = [("ALERTS", "true"), ("ALERT_INTERVAL", "0.001"), ("HEALTH_MAX_MEMORY", "1TiB"), ("MAX_SPANS", "64"),
                ("BATCH_SIZE", "16"), ("ALERT_DROP_RATE", rate)];
            let pipeline = Pipeline::builder().settings(with(pairs).build()).sink(sink).build().unwrap();
            let attached = pipeline.attach();
            spans(1);
            std::thread::scope(|scope| {
                scope.spawn(|| pipeline.flush(LONG).unwrap());
                gate.wait_entered();
                spans(200);
                drop(gate.open());
            });
            drop(attached);
            pipeline.shutdown(LONG).unwrap();
            pipeline.alerts().alerts.iter().any(|alert| alert.kind == AlertKind::DropRate)
        };
        assert!(is_alerted("0.01") && !is_alerted("1"));
    }

    REDACT {
        let value = |pairs: &[(&str, &str)]| {
            let ledger = record(with(pairs.iter().copied()), |_| drop(span!("login", "user.password" = "sesame")));
            ledger.span("login").attributes[0].1.clone()
        };
        assert_eq!(value(&[]), "sesame".into());
        assert_eq!(value(&[("REDACT", "*password*")]), "[REDACTED]".into());
    }

    TRACK_ERRORS {
        let groups = |track| {
            let (pipeline, _) = memory_pipeline(with([("TRACK_ERRORS", track)]));
            let attached = pipeline.attach();
            _ = span!("fails").record_error(&std::io::Error::other("no"));
            drop(attached);
            pipeline.flush(LONG).unwrap();
            pipeline.errors().groups.len()
        };
        assert_eq!((groups("false"), groups("true")), (0, 1));
    }

    PROCESSOR_MAX_TIME {
        let seen = |most| {
            let (pipeline, _) = memory_pipeline(with([("PROCESSOR_MAX_TIME", most), ("LOG_LEVEL", "fatal")]));
            let calls = Arc::new(AtomicU64::new(0));
            let count = calls.clone();
            pipeline.set_processor("slow", move |_: &mut SpanView<'_>| {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(3) {}
                count.fetch_add(1, Ordering::SeqCst);
            });
            let attached = pipeline.attach();
            for _ in 0..5 {
                spans(1);
                pipeline.flush(LONG).unwrap();
            }
            drop(attached);
            calls.load(Ordering::SeqCst)
        };
        assert_eq!((seen("3600"), seen("0.001")), (5, 3));
    }

    MEMORY_PROFILE {
        let says = |pairs: &[(&str, &str)]| {
            let ledger = recorded(pairs, 1);
            let attributes = &ledger.span("one of many").attributes;
            attributes.iter().any(|(key, _)| key == "process.memory.growth")
        };
        assert!(!says(&[]) && says(&[("MEMORY_PROFILE", "one*")]));
    }
}
