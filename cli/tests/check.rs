//! `spanring check` against receivers that are wrong in one way each: it names that fault and no other, says what to
//! do, and shows no secret.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{json, spanring, stderr, text};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// In every secret here.
const SECRET: &str = "sesame";

/// Serves every connection with `script`, as long as the test runs.
fn serve(script: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || listener.incoming().flatten().for_each(script));
    address
}

/// The head of a request, after all of the request was read; none if there was none.
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse();
    let mut body = vec![0; length.ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(head)
}

fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A server that gives this answer to each request, on a connection of its own.
fn answering(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    serve(move |mut stream| {
        if read_request(&mut stream).is_some() {
            _ = stream.write_all(&bytes);
        }
    })
}

fn http(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn https(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// Where nobody listens.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("loopback has a free port").local_addr().expect("bound")
}

/// A listener whose queue is full, with what fills it: it answers no attempt to connect.
fn deaf() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let waiting = std::iter::from_fn(connect).collect();
    (listener, waiting)
}

/// A CA whose certificate is in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a CA signs itself");
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("it can be written");
        let certificate = certificate.der().clone();
        Authority { issuer: Issuer::new(params, key), certificate, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A TLS server with a certificate for `host`, valid until that year; it takes every span.
    fn serve(&self, host: &str, until: i32, clients: Option<&Authority>) -> SocketAddr {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key can be made");
        let leaf = params.signed_by(&key, &self.issuer).expect("a CA signs");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has them");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate.clone()).expect("it is a root");
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.expect("it has a root"))
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("it is a key");
        let config = builder.with_single_cert(vec![leaf.der().clone()], key).expect("they fit");
        let config = Arc::new(config);
        serve(move |socket| {
            let connection = ServerConnection::new(config.clone()).expect("the configuration fits");
            let mut stream = StreamOwned::new(connection, socket);
            if read_request(&mut stream).is_some() {
                _ = stream.write_all(&answer(200, "", b""));
                stream.conn.send_close_notify();
                _ = stream.flush();
            }
        })
    }
}

/// A receiver, or its settings, with one fault.
struct Fault {
    endpoint: String,
    variables: Vec<(&'static str, String)>,
    /// What names the fault, and only this one.
    names: &'static str,
    /// What to do about it.
    advises: &'static str,
}

fn fault(endpoint: String, names: &'static str, advises: &'static str) -> Fault {
    Fault { endpoint, variables: Vec::new(), names, advises }
}

impl Fault {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// What the command says, as text and as JSON, after it was seen to fail.
    fn check(&self) -> String {
        let run = |arguments: &[&str]| {
            let mut command = spanring();
            command.args(["check", "--endpoint", &self.endpoint]).args(arguments);
            // A look-up that gets no answer ends soon.
            command.env("RES_OPTIONS", "timeout:1 attempts:1").env_remove("no_proxy");
            command.env("SPANRING_HEADERS", format!("x-key={SECRET},authorization={SECRET}"));
            command.envs(self.variables.iter().map(|(name, value)| (name, value)));
            let output = command.output().expect("the command can be run");
            assert_eq!(output.status.code(), Some(1), "{}: {output:?}", self.names);
            output
        };
        let (plain, as_json) = (run(&[]), run(&["--json"]));
        let said = stderr(&plain);
        assert!(plain.stdout.is_empty(), "{plain:?}");
        assert_eq!(said.lines().count(), 1, "a fault is one line: {said}");
        let report = json(&as_json);
        assert_eq!((&report["ok"], stderr(&as_json)), (&false.into(), String::new()));
        let problem = report["problem"].as_str().expect("there is one");
        for text in [&said, problem] {
            assert!(text.contains(self.names), "{:?} is not in {text}", self.names);
            assert!(text.contains(self.advises), "{:?} is not in {text}", self.advises);
        }
        let all = format!("{said}{report}");
        assert!(!all.contains(SECRET), "{all}");
        said
    }
}

#[test]
fn each_fault_is_named_with_what_to_do() {
    let (ca, other) = (Authority::new("a CA"), Authority::new("another CA"));
    let ca_file = || text(&ca.file()).to_owned();
    let trusting = |fault: Fault| fault.with("SPANRING_CERTIFICATE", ca_file());
    let (full, _waiting) = deaf();
    let full = full.local_addr().expect("it is bound");
    let silent = serve(|mut stream| while read_request(&mut stream).is_some() {});
    let partial = b"\x0a\x11\x08\x01\x12\x0dquota used up";
    let location = "location: https://elsewhere.example/v1/traces\r\n";
    let status = |status: u16| http(answering(answer(status, "", b"")));
    let missing = ca.folder.path().join("missing");
    let faults = vec![
        fault(http(unused_address()), "Connection refused", "check that the server runs there"),
        fault("http://nowhere.invalid:4318".into(), "could not be looked up", "check the name"),
        fault(http(full), "no connection; check", "firewalls on the way")
            .with("SPANRING_TIMEOUT", "0.3"),
        fault(http(silent), "took the request, but has not answered", "overloaded?")
            .with("SPANRING_TIMEOUT", "0.3"),
        fault(
            http(serve(|mut stream| _ = read_request(&mut stream))),
            "closed the connection before it answered",
            "the right port?",
        ),
        // What is closed with something unread in it is reset.
        fault(
            http(serve(|mut stream| _ = stream.read(&mut [0]))),
            "the connection broke",
            "does the server run well",
        ),
        fault(
            http(answering("HTTP/1.1 200 OK\r\ncontent-le")),
            "in the middle of its answer's head",
            "does the server run well",
        ),
        fault(http(answering("220 mail ready\r\n")), "not HTTP/1", "is it the right port?"),
        fault(http(answering(b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0")), "HTTP/2", "4318"),
        trusting(fault(https(other.serve("127.0.0.1", 2900, None)), "unknown CA", "add the CA")),
        trusting(fault(https(ca.serve("127.0.0.1", 2001, None)), "has expired", "renew it")),
        trusting(fault(
            https(ca.serve("elsewhere.test", 2900, None)),
            "for another host",
            "check the endpoint's host",
        )),
        trusting(fault(
            https(ca.serve("127.0.0.1", 2900, Some(&ca))),
            "ended the TLS connection",
            "client certificate",
        )),
        fault(http(ca.serve("127.0.0.1", 2900, None)), "the server speaks TLS", "https://?"),
        trusting(fault(
            https(serve(|mut stream| {
                _ = stream.write_all(&answer(400, "", b""));
                while matches!(stream.read(&mut [0; 512]), Ok(1..)) {}
            })),
            "does not speak TLS",
            "http://?",
        )),
        fault(https(unused_address()), "the CA file", "check the path")
            .with("SPANRING_CERTIFICATE", text(&missing)),
        fault(
            http(answering(answer(307, location, b""))),
            "a redirect to https://elsewhere.example/v1/traces, which is not followed",
            "set ENDPOINT to where it leads",
        ),
        fault(status(401), "answered 401", "HEADERS must hold the credentials"),
        fault(status(403), "answered 403", "HEADERS must hold the credentials"),
        fault(status(404), "answered 404", "is the path of ENDPOINT right?"),
        fault(status(405), "answered 405", "is the path of ENDPOINT right?"),
        fault(status(413), "answered 413", "its limit for requests is lower"),
        fault(status(415), "answered 415", "does it speak OTLP (protobuf)?"),
        fault(status(429), "answered 429", "ask for a higher limit"),
        fault(
            http(answering(answer(500, "", b"the disk is full"))),
            "answered 500",
            "look into the server's log: the disk is full",
        ),
        fault(status(503), "answered 503", "down or overloaded"),
        fault(http(answering(answer(200, "", partial))), "refused 1 of 1 spans", "quota used up"),
        fault(
            format!("unix://{}.sock:/v1/traces", text(&missing)),
            "missing.sock: No such file",
            "check that the server runs there",
        ),
        fault("collector:4318".into(), "has no http://", "give http://HOST"),
        fault("https://collector.example".into(), "through the proxy", "Connection refused")
            .with("https_proxy", format!("http://user:{SECRET}@{}", unused_address()))
            .with("SPANRING_CERTIFICATE", ca_file()),
    ];
    let said: Vec<_> = faults.iter().map(Fault::check).collect();
    for (index, fault) in faults.iter().enumerate() {
        for (other, said) in said.iter().enumerate() {
            let is_shared = fault.names == "Connection refused" && said.contains("the proxy");
            assert!(
                index == other || is_shared || !said.contains(fault.names),
                "{:?} also names {said}",
                fault.names
            );
        }
    }
}

#[test]
fn a_receiver_that_takes_the_span_is_fine() {
    let ca = Authority::new("a CA");
    let (tls, ca_file) = (ca.serve("127.0.0.1", 2900, None), ca.file());
    for (endpoint, certificate) in
        [(http(answering(answer(200, "", b""))), None), (https(tls), Some(&ca_file))]
    {
        let run = |arguments: &[&str]| {
            let mut command = spanring();
            command.args(["check", "--endpoint", &endpoint]).args(arguments);
            command.envs(certificate.map(|file| ("SPANRING_CERTIFICATE", file)));
            let output = command.output().expect("the command can be run");
            assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
            output
        };
        let said = String::from_utf8(run(&[]).stdout).expect("it is text");
        assert!(said.starts_with(&format!("fine: {endpoint}/v1/traces took a span")), "{said}");
        let report = json(&run(&["--json"]));
        assert_eq!((&report["ok"], &report["problem"]), (&true.into(), &().into()));
    }
}

#[test]
fn what_works_but_not_as_it_was_asked_for_is_fine_with_a_note() {
    let plain_only = serve(|mut stream| {
        while let Some(head) = read_request(&mut stream) {
            let status = if head.contains("content-encoding") { 415 } else { 200 };
            _ = stream.write_all(&answer(status, "", b""));
        }
    });
    let page = answer(200, "content-type: text/html\r\n", b"<html>Welcome!</html>");
    for (address, note) in [
        (plain_only, "answered 415 to a request with COMPRESSION=gzip; from now on it is none"),
        (answering(page), "not as a receiver of OTLP does; is it the right port and path?"),
    ] {
        let mut command = spanring();
        command.args(["check", "--endpoint", &http(address)]).env("SPANRING_COMPRESSION", "gzip");
        let output = command.output().expect("the command can be run");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stderr(&output).contains(note), "{output:?}");
    }
}

#[test]
fn no_secret_of_an_endpoint_is_shown() {
    let took = answering(answer(200, "", b""));
    let refused = answering(answer(404, "", b""));
    for endpoint in [
        format!("http://user:{SECRET}@{took}/v1/traces"),
        format!("user:{SECRET}@{took}"),
        format!("ftp://user:{SECRET}@{took}"),
        format!("http://user:{SECRET}@{took}:port"),
        format!("http://{took}/v1/traces?key={SECRET}"),
        format!("http://{refused}/v1/traces?key={SECRET}"),
    ] {
        for by_argument in [true, false] {
            for as_json in [true, false] {
                let mut command = spanring();
                command.arg("check");
                match by_argument {
                    true => command.args(["--endpoint", &endpoint]),
                    false => command.env("SPANRING_ENDPOINT", &endpoint),
                };
                command.args(as_json.then_some("--json"));
                let output = command.output().expect("the command can be run");
                let said =
                    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
                assert!(!said.contains(SECRET), "{said}");
                let config = spanring()
                    .arg("config")
                    .args(as_json.then_some("--json"))
                    .env("SPANRING_ENDPOINT", &endpoint)
                    .output()
                    .expect("the command can be run");
                let shown =
                    format!("{}{}", String::from_utf8_lossy(&config.stdout), stderr(&config));
                assert!(!shown.contains(SECRET), "{shown}");
                let is_fine = output.status.code() == Some(0);
                assert_eq!(is_fine, endpoint.starts_with(&format!("{}/", http(took))), "{said}");
            }
        }
    }
}

#[test]
fn an_endpoint_may_stand_in_the_file_with_settings() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let check = |text: &str| {
        std::fs::write(file.path(), text).expect("it can be written");
        let mut command = spanring();
        let output = command.arg("check").env("SPANRING_CONFIG", file.path()).output();
        stderr(&output.expect("the command can be run")).to_string()
    };
    let said = check("endpoint = \"http://127.0.0.1:9\"\n");
    assert!(said.contains("127.0.0.1:9"), "{said}");
    let said = check("endpoint = \"http://127.0.0.1:9\"\nbatch_size = 0\n");
    assert!(said.contains("line 2: BATCH_SIZE"), "{said}");
}

#[test]
fn an_endpoint_that_is_missing_or_wrong_in_the_environment_is_named() {
    let output = spanring().arg("check").output().expect("the command can be run");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nowhere to send to; give --endpoint URL"), "{output:?}");
    let mut command = spanring();
    command.args(["check", "--json"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port");
    let output = command.output().expect("the command can be run");
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    let problem = report["problem"].as_str().expect("there is one");
    let wanted = "nowhere to send to, as OTEL_EXPORTER_OTLP_ENDPOINT has no valid port; give";
    assert!(problem.contains(wanted), "{problem}");
}
