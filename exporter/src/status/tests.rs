//! The endpoint by itself, on an event loop and a clock of the test's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::*;
use crate::{MemorySink, Pipeline};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

struct Bench {
    status: Status,
    poll: mio::Poll,
    pipeline: Pipeline,
    begun: Instant,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings::builder().ignore_environment().build();
        let builder = Pipeline::builder().settings(settings.clone()).sink(MemorySink::new());
        let pipeline = builder.build().unwrap();
        let poll = mio::Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let engine = pipeline.shared().engine;
        let status = Status::bind(address, &settings, registry, engine).unwrap();
        Bench { status, poll, pipeline, begun: Instant::now() }
    }

    fn connect(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.status.address()).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    }

    /// Handles events at `after` the beginning until `done`.
    fn run(&mut self, after: Duration, mut done: impl FnMut(&Status) -> bool) {
        let mut events = mio::Events::with_capacity(64);
        while !done(&self.status) {
            self.poll.poll(&mut events, Some(LONG)).unwrap();
            assert!(!events.is_empty(), "it does not come");
            for event in &events {
                assert!(self.status.owns(event.token()));
                let shared = self.pipeline.shared();
                self.status.ready(event.token(), shared, self.begun + after);
            }
            while self.status.accept_at.is_some() {
                self.status.tick(self.begun + after);
            }
        }
    }

    fn connections(&self) -> usize {
        self.status.connections.iter().flatten().count()
    }
}

#[test]
fn a_slow_client_is_cut_off_and_only_connections_have_deadlines() {
    let mut bench = Bench::new();
    assert_eq!(bench.status.deadline(), None);
    let mut client = bench.connect();
    client.write_all(b"GET / HTT").unwrap();
    let second = Duration::from_secs(1);
    bench.run(second, |status| status.connections.iter().flatten().count() == 1);
    let until = bench.status.deadline().expect("a connection has one");
    // Each byte gives no more time.
    client.write_all(b"P").unwrap();
    bench.poll.poll(&mut mio::Events::with_capacity(8), Some(LONG)).unwrap();
    bench.status.ready(Token(FIRST), bench.pipeline.shared(), until - second);
    assert_eq!(bench.status.deadline(), Some(until));
    bench.status.tick(until - second / 10);
    assert_eq!(bench.connections(), 1);
    bench.status.tick(until);
    assert_eq!((bench.connections(), bench.status.deadline()), (0, None));
    assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "the client sees the end");
}

#[test]
fn one_connection_more_than_there_may_be_costs_the_oldest() {
    let mut bench = Bench::new();
    let mut clients = Vec::new();
    for number in 0..CONNECTIONS_MAX + 2 {
        clients.push(bench.connect());
        let begun = bench.begun + Duration::from_millis(number as u64);
        bench.run(Duration::from_millis(number as u64), |status| {
            status.connections.iter().flatten().any(|connection| connection.begun() == begun)
        });
        assert_eq!(bench.connections(), CONNECTIONS_MAX.min(number + 1));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.set_nonblocking(true).unwrap();
        let ended = !matches!(client.read(&mut [0; 8]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        assert_eq!(ended, number < 2, "connection {number}");
    }
    // In the table are the listener and those that there are.
    assert_eq!(bench.status.descriptors.open().len(), CONNECTIONS_MAX + 1);
    drop(bench.status);
    assert_eq!(clients.last_mut().unwrap().read(&mut [0; 8]).unwrap_or(0), 0);
}

#[test]
fn a_client_that_goes_on_sending_is_ended() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while let Ok(bytes) = client.write(&[b'x'; 1024]) {
            sent += bytes;
        }
        sent
    });
    bench.run(Duration::ZERO, |status| status.connections.iter().flatten().count() == 1);
    let mut seen = false;
    bench.run(Duration::ZERO, |status| {
        seen |= status.connections[0].is_some();
        seen && status.connections[0].is_none()
    });
    assert!(sender.join().unwrap() >= request::HEAD_BYTES_MAX);
}

#[test]
fn a_wildcard_is_refused_unless_it_is_asked_for() {
    let poll = mio::Poll::new().unwrap();
    let settings = Settings::builder().ignore_environment().build();
    let engine = spanring::export::Engine::start(&spanring::export::EngineOptions::default());
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let registry = poll.registry().try_clone().unwrap();
        let refused = Status::bind(address.parse().unwrap(), &settings, registry, engine);
        let message = refused.err().expect("it is refused");
        assert!(message.contains("STATUS_ANY_ADDRESS=true"), "{message}");
    }
}
