//! A receiver whose TLS is not to be trusted, at the other end of a whole pipeline: it gets nothing, what is wrong is said,
//! and when it is mended every span arrives.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use spanring::span;
use spanring_exporter::{MemorySink, OtlpOptions, Pipeline};
use spanring_tests::ledger::check_counts;
use spanring_tests::receiver::{Receiver, Stream};
use spanring_tests::{LONG, settings};

const SECRET: &str = "sesame-1234";
const SPANS: usize = 40;
const VALID: (i32, i32) = (2000, 2900);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server with a certificate for that host and those years.
    fn server(&self, host: &str, years: (i32, i32)) -> Speaks {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], secret).unwrap();
        Speaks::Tls(Arc::new(config))
    }
}

/// What the server speaks on its port.
#[derive(Clone)]
enum Speaks {
    Tls(Arc<ServerConfig>),
    /// HTTP without TLS, and it is not pleased with what comes.
    Plain,
    /// It ends connections.
    Nothing,
}

/// A socket that keeps what comes in, as it came.
struct Wire {
    socket: TcpStream,
    came: Arc<Mutex<Vec<u8>>>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.came.lock().unwrap().extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Answers before anything came, and then reads to the end: whoever looks for requests finds none.
struct Plain(Wire);

impl Read for Plain {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        io::copy(&mut self.0, &mut io::sink()).map(|_| 0)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_server_whose_tls_fails_gets_nothing_and_costs_no_span() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    for (first, says) in [
        (ours.server("127.0.0.1", (2000, 2001)), "has expired"),
        (ours.server("127.0.0.1", (2899, 2900)), "not valid yet"),
        (ours.server("elsewhere.test", VALID), "for another host"),
        (other.server("127.0.0.1", VALID), "unknown CA"),
        (Speaks::Plain, "does not speak TLS"),
        (Speaks::Nothing, "during the TLS handshake; does the server speak TLS there?"),
    ] {
        let came = Arc::new(Mutex::new(Vec::new()));
        let speaks = Arc::new(Mutex::new(first));
        let (wire, now) = (came.clone(), speaks.clone());
        let receiver = Receiver::over(move |socket| -> Box<dyn Stream> {
            let wire = Wire { socket, came: wire.clone() };
            match now.lock().unwrap().clone() {
                Speaks::Tls(config) => {
                    Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), wire))
                }
                Speaks::Plain => Box::new(Plain(wire)),
                Speaks::Nothing => Box::new(io::Cursor::new(Vec::new())),
            }
        });
        let place = receiver.address();
        let mut options = OtlpOptions::new(format!("https://user:{SECRET}@{place}/v1/traces"));
        options.headers.push(("x-api-key".to_owned(), SECRET.to_owned()));
        options.certificate = Some(ours.file());
        options.timeout = LONG;
        let memory = MemorySink::new();
        let pipeline = Pipeline::builder()
            .settings(settings().build())
            .sink(memory.clone())
            .otlp(options)
            .build()
            .unwrap();
        {
            let _attached = pipeline.attach();
            (0..SPANS).for_each(|number| drop(span!("sent", "number" = number)));
        }
        pipeline.flush(std::time::Duration::from_millis(1)).unwrap_err();
        let end = Instant::now() + LONG;
        while pipeline.stats().sinks[1].failures < 3 {
            assert_eq!(receiver.requests(), 0, "{says}: it was trusted");
            assert!(Instant::now() < end, "it is not tried again");
            std::thread::yield_now();
        }
        let stats = pipeline.stats();
        let said = &stats.sinks[1].last_error;
        assert!(said.contains(says) && said.contains(&format!("https://{place}/")), "{said}");
        assert!(!format!("{stats:?}").contains(SECRET));
        assert_eq!((stats.sinks[1].delivered, stats.sinks[1].repeated), (0, 0));
        // The other sink has it all.
        let kept: usize = memory.batches().iter().map(|batch| batch.spans as usize).sum();
        assert_eq!((kept, receiver.requests()), (SPANS, 0));
        let came = String::from_utf8_lossy(&came.lock().unwrap()).into_owned();
        for text in ["POST", "HTTP/1", "x-api-key", SECRET, "sent"] {
            assert!(!came.contains(text), "{says}: {text} in the clear");
        }
        *speaks.lock().unwrap() = ours.server("127.0.0.1", VALID);
        pipeline.flush(LONG).unwrap();
        pipeline.shutdown(LONG).unwrap();
        let stats = pipeline.stats();
        check_counts(&stats);
        assert_eq!((receiver.distinct(), receiver.repeats()), (SPANS, 0));
        assert_eq!((stats.sinks[1].delivered, stats.sinks[1].repeated), (SPANS as u64, 0));
    }
}
