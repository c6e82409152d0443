//! Over TLS, with certificates made for each test.

use std::net::TcpStream;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// A CA, and the folder for what the client reads.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    certificate_pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        Self::named("a CA for tests")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let certificate = certificate.der().clone();
        Authority { issuer: Issuer::new(params, key), certificate, folder }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn leaf(&self, host: &str, years: (i32, i32)) -> Leaf {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let certificate_pem = certificate.pem();
        Leaf { chain: vec![certificate.der().clone()], key, certificate_pem }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

const VALID: (i32, i32) = (2000, 2900);

fn server_config(leaf: Leaf, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider)
                .build()
                .unwrap(),
        ),
    };
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    let mut config = builder.with_single_cert(leaf.chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> Stream {
    StreamOwned::new(ServerConnection::new(config).unwrap(), socket)
}

fn serve(config: Arc<ServerConfig>, script: impl FnOnce(Stream) + Send + 'static) -> Server {
    Server::start(move |listener| script(accept(listener.accept().unwrap().0, config)))
}

/// For a server whose handshake fails.
fn fail(mut stream: Stream) {
    assert!(stream.read(&mut [0]).is_err());
}

fn to(server: &Server, ca: &Authority) -> ClientOptions {
    let address = server.address;
    let mut options = options(&format!("https://collector.test:{}/v1/traces", address.port()));
    options.look_up = Arc::new(move |_, _| Ok(vec![address]));
    options.tls.ca_file = Some(ca.file());
    options
}

#[test]
fn requests_over_tls_reuse_the_connection() {
    let ca = Authority::new();
    let body: Vec<u8> = (0..3 << 20).map(|index: usize| (index % 251) as u8).collect();
    let expected = body.clone();
    let server = serve(server_config(ca.leaf("collector.test", VALID), None), move |mut stream| {
        for _ in 0..2 {
            let asked = read_request(&mut stream).unwrap();
            assert!(asked.head.starts_with("POST /v1/traces HTTP/1.1\r\n"));
            assert!(asked.body == expected);
            stream.write_all(OK).unwrap();
        }
        assert_eq!(stream.conn.server_name(), Some("collector.test"));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        // The client says goodbye, so the end is a clean one.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let mut client = Loop::new(to(&server, &ca));
    for _ in 0..2 {
        assert_eq!(client.post(body.clone()).unwrap().body, b"ok");
        assert_eq!(client.open_sockets(), 1);
    }
    client.client.close_idle();
    assert_eq!(client.open_sockets(), 0);
    server.join();
}

#[test]
fn a_certificate_that_is_not_to_be_trusted_is_refused_with_the_reason() {
    let ca = Authority::new();
    let (other, namesake) = (Authority::named("another CA"), Authority::new());
    for (leaf, text) in [
        (ca.leaf("collector.test", (2000, 2001)), "has expired"),
        (ca.leaf("collector.test", (2899, 2900)), "not valid yet"),
        (ca.leaf("elsewhere.test", VALID), "for another host"),
        (other.leaf("collector.test", VALID), "unknown CA"),
        (namesake.leaf("collector.test", VALID), "does not fit the CA"),
    ] {
        let server = serve(server_config(leaf, None), |mut stream| {
            let error = stream.read(&mut [0]).unwrap_err();
            assert!(error.to_string().contains("fatal alert"), "{error}");
        });
        let mut client = Loop::new(to(&server, &ca));
        let error = client.post_fails(HttpErrorKind::Tls, text);
        assert!(error.to_string().starts_with("https://collector.test:"), "{error}");
        assert!(!error.may_have_been_processed());
        assert_eq!(client.open_sockets(), 0);
        server.join();
    }
}

#[test]
fn a_server_without_tls_is_told_apart() {
    let ca = Authority::new();
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    Loop::new(to(&server, &ca)).post_fails(HttpErrorKind::Tls, "does not speak TLS");
    server.join();
}

#[test]
fn a_handshake_that_does_not_end_costs_the_connect_timeout() {
    let ca = Authority::new();
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let mut options = to(&server, &ca);
    options.connect_timeout = Duration::from_secs(5);
    let mut client = Loop::new(options);
    client.submit(1, "");
    client.turn_until(|client| client.addresses().is_some());
    client.turn();
    client.pass(Duration::from_secs(6));
    let error = client.client.finished().unwrap().1.unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::ConnectTimeout, "{error}");
    server.join();
}

#[test]
fn a_client_certificate_is_shown() {
    let ca = Authority::new();
    let config = server_config(ca.leaf("collector.test", VALID), Some(&ca));
    let leaf = ca.leaf("client.test", VALID);
    let shown = leaf.chain[0].clone();
    let server = serve(config, move |mut stream| {
        read_request(&mut stream).unwrap();
        assert_eq!(stream.conn.peer_certificates().unwrap()[0], shown);
        stream.write_all(OK).unwrap();
    });
    let mut options = to(&server, &ca);
    options.tls.client_certificate = Some(ca.write("client.pem", &leaf.certificate_pem));
    options.tls.client_key = Some(ca.write("client.key", &leaf.key.serialize_pem()));
    assert_eq!(Loop::new(options).post("").unwrap().status, 200);
    server.join();
}

#[test]
fn a_server_that_wants_a_client_certificate_says_so() {
    let ca = Authority::new();
    let config = server_config(ca.leaf("collector.test", VALID), Some(&ca));
    let server = serve(config, fail);
    Loop::new(to(&server, &ca)).post_fails(HttpErrorKind::Tls, "client certificate");
    server.join();
}

#[test]
fn a_body_that_ends_with_the_connection_is_whole_only_if_it_ends_cleanly() {
    for clean in [true, false] {
        let ca = Authority::new();
        let config = server_config(ca.leaf("collector.test", VALID), None);
        let server = serve(config, move |mut stream| {
            read_request(&mut stream).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").unwrap();
            if clean {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
        });
        let response = Loop::new(to(&server, &ca)).post("").unwrap();
        assert_eq!((&*response.body, response.truncated), (&b"half"[..], !clean));
        server.join();
    }
}

#[test]
fn tls_goes_through_a_proxy_by_connect() {
    let ca = Authority::new();
    let config = server_config(ca.leaf("collector.test", VALID), None);
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        let asked = read_request(&mut socket).unwrap();
        assert!(
            asked.head.starts_with("CONNECT collector.test:4318 HTTP/1.1\r\n"),
            "{}",
            asked.head
        );
        assert_eq!(asked.header("host"), Some("collector.test:4318"));
        assert_eq!(asked.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
        socket.write_all(b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n").unwrap();
        let mut stream = accept(socket, config);
        for _ in 0..2 {
            let asked = read_request(&mut stream).unwrap();
            assert!(asked.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", asked.head);
            assert_eq!(asked.header("proxy-authorization"), None);
            stream.write_all(OK).unwrap();
        }
    });
    let mut options = options("https://collector.test:4318/v1/traces");
    options.tls.ca_file = Some(ca.file());
    let proxy = Some(format!("http://user:pass@{}", server.address));
    options.proxy = ProxySettings { https: proxy, ..ProxySettings::default() };
    let mut client = Loop::new(options);
    for _ in 0..2 {
        assert_eq!(client.post("spans").unwrap().status, 200);
    }
    server.join();
}

#[test]
fn unusable_files_are_named_with_what_to_do() {
    let ca = Authority::new();
    let leaf = ca.leaf("client.test", VALID);
    let certificate = ca.write("client.pem", &leaf.certificate_pem);
    let key = ca.write("client.key", &leaf.key.serialize_pem());
    let other = ca.write("other.key", &KeyPair::generate().unwrap().serialize_pem());
    let empty = ca.write("empty.pem", "nothing");
    let missing = ca.file().with_file_name("missing.pem");
    type Case<'a> = (Option<&'a PathBuf>, Option<&'a PathBuf>, Option<&'a PathBuf>, [&'a str; 2]);
    let cases: [Case<'_>; 7] = [
        (Some(&missing), None, None, ["missing.pem", "cannot be read"]),
        (Some(&empty), None, None, ["empty.pem", "holds no certificate"]),
        (None, Some(&certificate), None, ["client.pem", "needs a client key"]),
        (None, None, Some(&key), ["client.key", "needs a client certificate"]),
        (None, Some(&certificate), Some(&empty), ["empty.pem", "private key in PEM"]),
        (None, Some(&empty), Some(&key), ["empty.pem", "holds no certificate"]),
        (None, Some(&certificate), Some(&other), ["other.key", "belong together"]),
    ];
    for (ca_file, client_certificate, client_key, texts) in cases {
        let mut options = options("https://collector.test/");
        let ca_file = Some(ca_file.cloned().unwrap_or_else(|| ca.file()));
        options.tls = TlsOptions {
            ca_file,
            client_certificate: client_certificate.cloned(),
            client_key: client_key.cloned(),
        };
        let error = Loop::try_new(options).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Options);
        for text in texts {
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
