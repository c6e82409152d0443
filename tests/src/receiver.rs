//! A receiver of OTLP on loopback that a test steers: it answers as it is told, and remembers which spans it took.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;

use crate::LONG;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which request it is, from 0.
    pub number: u64,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// As it was sent.
    pub body: Vec<u8>,
}

/// What a request is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 200 takes the spans; others do not.
    pub status: u16,
    /// Beside the length.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// Instead of all that: take the spans and end the connection without an answer.
    pub hang_up: bool,
}

impl Answer {
    /// An answer of that status, without anything else.
    pub fn status(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }
}

type Behaviour = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct State {
    behaviour: Behaviour,
    /// How often each span came in a request that was taken.
    spans: Mutex<HashMap<Vec<u8>, u32>>,
    /// Their attributes `number`.
    numbers: Mutex<HashSet<u64>>,
    changed: Condvar,
    requests: AtomicU64,
    stop: AtomicBool,
}

/// A running receiver; stopped when dropped.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts one that takes everything.
    pub fn start() -> Self {
        Self::answering(|_| Answer::status(200))
    }

    /// Starts one that answers as `behaviour` says.
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn answering(behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            behaviour: Box::new(behaviour),
            spans: Mutex::default(),
            numbers: Mutex::default(),
            changed: Condvar::new(),
            requests: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let shared = state.clone();
        // Its threads, and those that they start, are told apart by their name.
        let named = thread::Builder::new().name("receiver".to_owned());
        let accepting = named.spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), shared) = (stream, shared.clone()) else { continue };
                thread::spawn(move || _ = shared.serve(stream));
            }
        });
        accepting.expect("a thread can be started");
        Receiver { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for OTLP.
    pub fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Acquire)
    }

    /// How often each span came, by its ID.
    pub fn spans(&self) -> HashMap<Vec<u8>, u32> {
        self.state.spans().clone()
    }

    /// The attributes `number` of the spans that came.
    pub fn numbers(&self) -> HashSet<u64> {
        self.state.numbers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Different spans that came.
    pub fn distinct(&self) -> usize {
        self.state.spans().len()
    }

    /// Spans that came more than once, each as often as it came again.
    pub fn repeats(&self) -> u64 {
        self.state.spans().values().map(|&times| u64::from(times) - 1).sum()
    }

    /// Waits until so many different spans came.
    ///
    /// # Panics
    ///
    /// If they do not come.
    pub fn wait_for(&self, spans: usize) {
        let came = self.state.spans();
        let result = self.state.changed.wait_timeout_while(came, LONG, |came| came.len() < spans);
        let (came, timeout) = result.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{} of {spans} spans came", came.len());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        // Its loop waits for a connection.
        _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl State {
    fn spans(&self) -> MutexGuard<'_, HashMap<Vec<u8>, u32>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers requests until the connection ends.
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::with_capacity(1 << 16, stream);
        while let Some(request) = self.read(&mut reader)? {
            let answer = (self.behaviour)(&request);
            if answer.hang_up || answer.status / 100 == 2 {
                self.take(&request)?;
            }
            if answer.hang_up {
                return Ok(());
            }
            let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
            for (name, value) in &answer.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&format!("content-length: {}\r\n\r\n", answer.body.len()));
            writer.write_all(&[head.as_bytes(), &answer.body].concat())?;
        }
        Ok(())
    }

    fn read(&self, reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut headers = HashMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let number = self.requests.fetch_add(1, Ordering::AcqRel);
        Ok(Some(Request { number, headers, body }))
    }

    fn take(&self, request: &Request) -> io::Result<()> {
        let decoded = decode(request)?;
        let mut came = self.spans();
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        for span in spans(&decoded) {
            let number = span.attributes.iter().find(|attribute| attribute.key == "number");
            if let Some(Value::IntValue(number)) =
                number.and_then(|it| it.value.as_ref()?.value.clone())
            {
                numbers.insert(number as u64);
            }
            *came.entry(span.span_id.clone()).or_insert(0) += 1;
        }
        drop((came, numbers));
        self.changed.notify_all();
        Ok(())
    }
}

/// What a request says, whatever its compression.
///
/// # Errors
///
/// If it is no OTLP.
pub fn decode(request: &Request) -> io::Result<ExportTraceServiceRequest> {
    let encoding = request.headers.get("content-encoding").map(String::as_str);
    let mut plain = Vec::new();
    match encoding {
        None => plain.clone_from(&request.body),
        Some("gzip") => {
            flate2::read::GzDecoder::new(&request.body[..]).read_to_end(&mut plain)?;
        }
        Some("zstd") => plain = zstd::decode_all(&request.body[..])?,
        Some(other) => return Err(io::Error::other(format!("content-encoding {other}"))),
    }
    ExportTraceServiceRequest::decode(&plain[..]).map_err(io::Error::other)
}

/// The spans of a request.
pub fn spans(
    request: &ExportTraceServiceRequest,
) -> impl Iterator<Item = &opentelemetry_proto::tonic::trace::v1::Span> {
    let resources = request.resource_spans.iter();
    resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans)
}
