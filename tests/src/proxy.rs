//! A TCP proxy on loopback that can be killed and started again, always at the same address.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket, sockopt};

/// A proxy, killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: SocketAddr,
    running: Option<Running>,
    /// Keeps the address of one that was never started: bound, it is nobody else's, and who connects is refused.
    bound: Option<OwnedFd>,
}

#[derive(Debug)]
struct Running {
    accepting: thread::JoinHandle<()>,
    /// Both ends of each connection; `None` once it is killed.
    streams: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Proxy {
    /// Starts one in front of `upstream`.
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let running = Some(Self::run(listener, upstream));
        Proxy { address, upstream, running, bound: None }
    }

    /// One that refuses connections until it is [started](Self::restart).
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn refusing(upstream: SocketAddr) -> Self {
        let bound = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&bound, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("there is a free port");
        let address = getsockname(&bound).ok().and_then(|address| address.try_into().ok());
        let address = address.expect("it is bound to an address of IPv4");
        Proxy { address, upstream, running: None, bound: Some(bound) }
    }

    /// The endpoint for OTLP.
    pub fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Ends all connections at once, with a reset, and listens no more.
    pub fn kill(&mut self) {
        let Some(Running { accepting, streams }) = self.running.take() else { return };
        let gone = streams.lock().unwrap_or_else(PoisonError::into_inner).take();
        for stream in gone.into_iter().flatten() {
            // What was not sent is thrown away: the other side sees a reset.
            _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            _ = stream.shutdown(Shutdown::Both);
        }
        // The loop waits for a connection, and finds that it is killed.
        _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        accepting.join().expect("it does not panic");
    }

    /// Starts it, or starts it again, at its address.
    ///
    /// # Panics
    ///
    /// If somebody else took the address.
    pub fn restart(&mut self) {
        self.kill();
        let listener = match self.bound.take() {
            Some(bound) => {
                listen(&bound, 128).expect("nobody else listens there");
                TcpListener::from(bound)
            }
            None => TcpListener::bind(self.address).expect("the address is still free"),
        };
        self.running = Some(Self::run(listener, self.upstream));
    }

    fn run(listener: TcpListener, upstream: SocketAddr) -> Running {
        let streams = Arc::new(Mutex::new(Some(Vec::new())));
        let shared = streams.clone();
        let accepting = thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                // As proxies do: what comes in pieces goes on in pieces, and none waits 40 ms for the other side's word.
                _ = client.set_nodelay(true);
                _ = server.set_nodelay(true);
                let mut streams = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(streams) = streams.as_mut() else { return };
                let pairs = (|| {
                    streams.push(client.try_clone()?);
                    streams.push(server.try_clone()?);
                    std::io::Result::Ok([
                        (client.try_clone()?, server.try_clone()?),
                        (server, client),
                    ])
                })();
                for (from, to) in pairs.into_iter().flatten() {
                    thread::spawn(move || copy(from, to));
                }
            }
        });
        Running { accepting, streams }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    _ = to.shutdown(Shutdown::Write);
}
