//! A receiver of spans on loopback that a test steers: it answers as it is told, and remembers which spans it took. It speaks
//! OTLP, or what [`Receiver::taking`] is told.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use rustix::net::sockopt;

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

/// Bytes both ways.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

type Behaviour = Box<dyn Fn(&Request) -> Answer + Send + Sync>;
type Fault = Box<dyn Fn(&mut Connection<'_>) -> io::Result<()> + Send + Sync>;
/// Reads a request's spans: the ID of each, and its attribute `number` if it has one.
type Take = Box<dyn Fn(&Request) -> io::Result<Vec<(Vec<u8>, Option<u64>)>> + Send + Sync>;
type Wrap = Box<dyn Fn(TcpStream) -> Box<dyn Stream> + Send + Sync>;

struct State {
    behaviour: Behaviour,
    /// What is done with connections instead, until it is healed.
    fault: Option<Fault>,
    take: Take,
    /// What lies between a connection and HTTP.
    wrap: Wrap,
    healed: Mutex<bool>,
    healing: Condvar,
    /// Connections that came, and those that ended.
    connections: AtomicU64,
    ended: AtomicU64,
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
        Self::taking(behaviour, otlp_spans)
    }

    /// Starts one that answers as `behaviour` says, and whose spans `take` reads from a request.
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn taking(
        behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        take: impl Fn(&Request) -> io::Result<Vec<(Vec<u8>, Option<u64>)>> + Send + Sync + 'static,
    ) -> Self {
        let plain: Wrap = Box::new(|stream| Box::new(stream));
        Self::run(Box::new(behaviour), Box::new(take), None, plain)
    }

    /// Starts one that does `fault` with every connection, and ends it then; from [`heal`](Self::heal) on new ones are
    /// served as they should be.
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn faulty(
        fault: impl Fn(&mut Connection<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let takes_all = Box::new(|_: &Request| Answer::status(200));
        let plain: Wrap = Box::new(|stream| Box::new(stream));
        Self::run(takes_all, Box::new(otlp_spans), Some(Box::new(fault)), plain)
    }

    /// Starts one that takes everything, and speaks HTTP over what `wrap` makes of a connection.
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn over(wrap: impl Fn(TcpStream) -> Box<dyn Stream> + Send + Sync + 'static) -> Self {
        let takes_all = Box::new(|_: &Request| Answer::status(200));
        Self::run(takes_all, Box::new(otlp_spans), None, Box::new(wrap))
    }

    fn run(behaviour: Behaviour, take: Take, fault: Option<Fault>, wrap: Wrap) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            behaviour,
            fault,
            take,
            wrap,
            healed: Mutex::new(false),
            healing: Condvar::new(),
            connections: AtomicU64::new(0),
            ended: AtomicU64::new(0),
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
                shared.connections.fetch_add(1, Ordering::AcqRel);
                thread::spawn(move || {
                    // Whoever sends sees by itself that a connection failed.
                    _ = shared.serve(stream);
                    shared.ended.fetch_add(1, Ordering::AcqRel);
                });
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

    /// Ends the fault.
    pub fn heal(&self) {
        *self.state.healed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.healing.notify_all();
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Acquire)
    }

    /// Connections that are closed on this side.
    pub fn ended(&self) -> u64 {
        self.state.ended.load(Ordering::Acquire)
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

    fn is_healed(&self) -> bool {
        *self.healed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers requests until the connection ends.
    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let reader = BufReader::with_capacity(1 << 16, (self.wrap)(socket.try_clone()?));
        let mut connection = Connection { state: self, socket, reader };
        if let Some(fault) = self.fault.as_ref().filter(|_| !self.is_healed()) {
            return fault(&mut connection);
        }
        while let Some(request) = connection.request()? {
            let answer = (self.behaviour)(&request);
            if answer.hang_up || answer.status / 100 == 2 {
                self.take(&request)?;
            }
            if answer.hang_up {
                return Ok(());
            }
            connection.answer(&answer)?;
        }
        Ok(())
    }

    fn take(&self, request: &Request) -> io::Result<()> {
        let taken = (self.take)(request)?;
        let mut came = self.spans();
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, number) in taken {
            numbers.extend(number);
            *came.entry(id).or_insert(0) += 1;
        }
        drop((came, numbers));
        self.changed.notify_all();
        Ok(())
    }
}

/// A connection in the hands of a fault.
pub struct Connection<'a> {
    state: &'a State,
    socket: TcpStream,
    reader: BufReader<Box<dyn Stream>>,
}

impl std::fmt::Debug for Connection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Connection<'_> {
    /// Reads the head of a request, and not its body; `None` if there is no request any more.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub fn head(&mut self) -> io::Result<Option<HashMap<String, String>>> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Ok(Some(headers))
    }

    /// Reads a whole request; `None` if there is none any more.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(headers) = self.head()? else { return Ok(None) };
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.reader.read_exact(&mut body)?;
        let number = self.state.requests.fetch_add(1, Ordering::AcqRel);
        Ok(Some(Request { number, headers, body }))
    }

    /// Reads so many bytes, whatever they are.
    ///
    /// # Errors
    ///
    /// If the connection breaks or ends before.
    pub fn read(&mut self, bytes: usize) -> io::Result<()> {
        self.reader.read_exact(&mut vec![0; bytes])
    }

    /// Reads one byte and lets all others wait in the kernel.
    ///
    /// # Errors
    ///
    /// If the connection breaks or ends before.
    pub fn read_byte(&mut self) -> io::Result<()> {
        self.socket.read_exact(&mut [0])
    }

    /// Reads until the other side ends the connection.
    ///
    /// # Errors
    ///
    /// If it breaks.
    pub fn read_to_end(&mut self) -> io::Result<()> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop)
    }

    /// Takes the spans of a request.
    ///
    /// # Errors
    ///
    /// If it is no OTLP.
    pub fn take(&self, request: &Request) -> io::Result<()> {
        self.state.take(request)
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// Sends an answer.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", answer.body.len()));
        self.write([head.as_bytes(), &answer.body].concat())
    }

    /// Sends no more, but goes on reading.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn half_close(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Has the connection end by a reset.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn reset(&self) -> io::Result<()> {
        // What was not sent is thrown away when it is closed.
        Ok(sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO))?)
    }

    /// Whether the receiver is healed.
    pub fn is_healed(&self) -> bool {
        self.state.is_healed()
    }

    /// Waits until the receiver is healed, at most `longest`; whether it is.
    pub fn wait_healed(&self, longest: Duration) -> bool {
        let healed = self.state.healed.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.state.healing.wait_timeout_while(healed, longest, |healed| !*healed);
        *result.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn otlp_spans(request: &Request) -> io::Result<Vec<(Vec<u8>, Option<u64>)>> {
    let decoded = decode(request)?;
    let read = |span: &opentelemetry_proto::tonic::trace::v1::Span| {
        let number = span.attributes.iter().find(|attribute| attribute.key == "number");
        let number = match number.and_then(|it| it.value.as_ref()?.value.clone()) {
            Some(Value::IntValue(number)) => Some(number as u64),
            _ => None,
        };
        (span.span_id.clone(), number)
    };
    Ok(spans(&decoded).map(read).collect())
}

/// What a request says, whatever its compression.
///
/// # Errors
///
/// If it is no OTLP.
pub fn decode(request: &Request) -> io::Result<ExportTraceServiceRequest> {
    ExportTraceServiceRequest::decode(&plain_body(request)?[..]).map_err(io::Error::other)
}

/// A request's body, whatever its compression.
///
/// # Errors
///
/// If it is not compressed as it says.
pub fn plain_body(request: &Request) -> io::Result<Vec<u8>> {
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
    Ok(plain)
}

/// The spans of a request.
pub fn spans(
    request: &ExportTraceServiceRequest,
) -> impl Iterator<Item = &opentelemetry_proto::tonic::trace::v1::Span> {
    let resources = request.resource_spans.iter();
    resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans)
}
