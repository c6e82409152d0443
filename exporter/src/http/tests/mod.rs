//! The client against scripted servers on loopback. Time is given to the client, so timeouts need no
//! waiting; what is waited for is always an event.

mod exchange;
mod parse;
mod plain;
mod proxy;
mod resolve;
mod socket;
mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Finished, tokens_needed};
use super::resolve::{Addresses, LookUp, system_look_up};
use super::*;

/// Far more than anything here takes; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_TOKEN: usize = 100;
const WAKER: mio::Token = mio::Token(1);

struct Loop {
    poll: mio::Poll,
    client: Client,
    /// Added to the clock before the client sees it.
    ahead: Duration,
}

impl Loop {
    fn new(options: ClientOptions) -> Self {
        Self::try_new(options).unwrap()
    }

    fn try_new(options: ClientOptions) -> Result<Self, HttpError> {
        let poll = mio::Poll::new().unwrap();
        let io = Io {
            registry: poll.registry().try_clone().unwrap(),
            tokens: FIRST_TOKEN..FIRST_TOKEN + tokens_needed(options.pool_size),
            waker: Arc::new(mio::Waker::new(poll.registry(), WAKER).unwrap()),
        };
        Ok(Loop { poll, client: Client::new(options, io)?, ahead: Duration::ZERO })
    }

    fn to(address: SocketAddr) -> Self {
        Self::new(options(&format!("http://{address}/v1/traces")))
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn submit(&mut self, id: u64, body: impl Into<Bytes>) {
        let headers = vec![("content-type".to_owned(), "application/x-protobuf".to_owned())];
        let request = Request { id, headers, body: body.into() };
        let now = self.now();
        self.client.submit(request, now).unwrap();
    }

    /// One round of the loop; returns how many events there were for the client.
    fn turn(&mut self) -> usize {
        self.turn_within(PATIENCE)
    }

    fn turn_within(&mut self, patience: Duration) -> usize {
        let mut events = mio::Events::with_capacity(16);
        let deadline = self.client.deadline();
        let wait = deadline.map_or(PATIENCE, |at| at.saturating_duration_since(self.now()));
        // mio rounds down to nothing what is less than a millisecond.
        self.poll
            .poll(&mut events, Some(wait.min(patience).max(Duration::from_millis(1))))
            .unwrap();
        let now = self.now();
        let mut count = 0;
        for event in &events {
            count += usize::from(event.token() != WAKER);
            self.client.ready(event, now);
        }
        self.client.tick(now);
        count
    }

    fn turn_until(&mut self, mut done: impl FnMut(&mut Client) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(&mut self.client) {
            assert!(Instant::now() < end, "nothing happens any more");
            self.turn();
        }
    }

    /// Lets time pass for the client.
    fn pass(&mut self, time: Duration) {
        self.ahead += time;
        let now = self.now();
        self.client.tick(now);
    }

    fn next(&mut self) -> Finished {
        let mut finished = None;
        self.turn_until(|client| {
            finished = client.finished();
            finished.is_some()
        });
        finished.unwrap()
    }

    fn post(&mut self, body: impl Into<Bytes>) -> Result<Response, HttpError> {
        self.submit(7, body);
        let (id, result) = self.next();
        assert_eq!(id, 7);
        assert_eq!(self.client.in_flight(), 0);
        result
    }

    fn post_fails(&mut self, kind: HttpErrorKind, text: &str) -> HttpError {
        let error = self.post("body").unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        error
    }

    fn open_sockets(&self) -> usize {
        self.client.descriptors().open().len()
    }
}

fn options(url: &str) -> ClientOptions {
    ClientOptions::new(Endpoint::parse(url).unwrap())
}

struct Server {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(script: impl FnOnce(TcpListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Server { address, thread: std::thread::spawn(move || script(listener)) }
    }

    /// One connection, one request, then these bytes, then closed.
    fn answering(answer: impl AsRef<[u8]> + Send + 'static) -> Self {
        Self::start(move |listener| {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(answer.as_ref()).unwrap();
        })
    }

    fn join(self) {
        self.thread.join().unwrap();
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

struct Asked {
    head: String,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// None if the client closed the connection before a request.
fn read_request(socket: &mut impl Read) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read(&mut byte).unwrap_or(0) == 0 {
            assert!(head.is_empty(), "closed in the middle of a head");
            return None;
        }
        head.push(byte[0]);
    }
    let mut asked = Asked { head: String::from_utf8(head).unwrap(), body: Vec::new() };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    asked.body.resize(length, 0);
    socket.read_exact(&mut asked.body).unwrap();
    Some(asked)
}

/// Closing the socket resets the connection then.
fn reset_when_closed(socket: &impl AsRawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: an open socket, and an option of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}
