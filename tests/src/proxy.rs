//! A TCP proxy on loopback that can be killed and started again, always at the same address.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;

/// A proxy, killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: SocketAddr,
    running: Option<Running>,
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
        Proxy { address, upstream, running }
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

    /// Starts it again at its address.
    ///
    /// # Panics
    ///
    /// If somebody else took the address.
    pub fn restart(&mut self) {
        self.kill();
        let listener = TcpListener::bind(self.address).expect("the address is still free");
        self.running = Some(Self::run(listener, self.upstream));
    }

    fn run(listener: TcpListener, upstream: SocketAddr) -> Running {
        let streams = Arc::new(Mutex::new(Some(Vec::new())));
        let shared = streams.clone();
        let accepting = thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let Ok(server) = TcpStream::connect(upstream) else { continue };
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
