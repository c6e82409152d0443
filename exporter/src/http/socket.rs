//! Sockets registered with the event loop, and the table by which a fork child closes them.
//!
//! A [`Link`] is deregistered before it is closed: the same socket may be open in a fork child still,
//! and would report events as long. The child itself must do neither, since its copy of the poll's
//! descriptor is its parent's poll: it only calls [`Descriptors::close_all`].

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

const CLOSED: RawFd = -1;

/// The raw descriptors of a client: one place for each of its tokens, the last for its registry.
///
/// Readable at any time, from a fork child too, whatever the flusher was doing when the process
/// forked: only atomics, and a place is emptied before its descriptor is closed. A descriptor made in
/// that very moment may be missing; then the child keeps it open, no more.
#[derive(Debug)]
pub(crate) struct Descriptors(Box<[AtomicI32]>);

impl Descriptors {
    pub(super) fn new(places: usize, registry: &Registry) -> Self {
        let places = std::iter::repeat_n(CLOSED, places).chain([registry.as_raw_fd()]);
        Descriptors(places.map(AtomicI32::new).collect())
    }

    // Relaxed: the places carry nothing but themselves, and a fork is no race of threads.
    fn set(&self, place: usize, descriptor: RawFd) {
        self.0[place].store(descriptor, Ordering::Relaxed);
    }

    /// For a fork child: plain `close`, nothing deregistered, no goodbye on any connection.
    ///
    /// The client that the descriptors belong to must not be used or dropped in this process then.
    pub(crate) fn close_all(&self) {
        for place in &self.0 {
            let descriptor = place.swap(CLOSED, Ordering::Relaxed);
            if descriptor != CLOSED {
                // SAFETY: the descriptor was the client's when the process forked; the client is not
                // used any more, so nobody else closes it or takes it for open.
                unsafe { libc::close(descriptor) };
            }
        }
    }

    /// Those of sockets.
    #[cfg(test)]
    pub(super) fn open(&self) -> Vec<RawFd> {
        let (_registry, sockets) = self.0.split_last().unwrap();
        let all = sockets.iter().map(|place| place.load(Ordering::Relaxed));
        all.filter(|&descriptor| descriptor != CLOSED).collect()
    }
}

/// Where a link is registered.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) registry: Arc<Registry>,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) index: usize,
    pub(super) token: Token,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket, registered for everything once: readiness comes with edges.
pub(super) struct Link {
    socket: Socket,
    place: Place,
}

impl Link {
    /// Begins to connect.
    pub(super) fn tcp(address: SocketAddr, place: Place) -> io::Result<Self> {
        Self::register(Socket::Tcp(TcpStream::connect(address)?), place)
    }

    pub(super) fn unix(path: &Path, place: Place) -> io::Result<Self> {
        Self::register(Socket::Unix(UnixStream::connect(path)?), place)
    }

    fn register(mut socket: Socket, place: Place) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let descriptor = match &mut socket {
            Socket::Tcp(socket) => {
                place.registry.register(socket, place.token, interest)?;
                socket.as_raw_fd()
            }
            Socket::Unix(socket) => {
                place.registry.register(socket, place.token, interest)?;
                socket.as_raw_fd()
            }
        };
        place.descriptors.set(place.index, descriptor);
        Ok(Link { socket, place })
    }

    pub(super) fn token(&self) -> Token {
        self.place.token
    }

    /// Whether the connection stands; false as long as it is being made.
    pub(super) fn connected(&self) -> io::Result<bool> {
        let (error, peer) = match &self.socket {
            Socket::Tcp(socket) => (socket.take_error()?, socket.peer_addr().map(drop)),
            Socket::Unix(socket) => (socket.take_error()?, socket.peer_addr().map(drop)),
        };
        if let Some(error) = error {
            return Err(error);
        }
        match peer {
            Ok(()) => {
                if let Socket::Tcp(socket) = &self.socket {
                    // What is written is whole pieces; a socket that cannot do it works as well.
                    let _ = socket.set_nodelay(true);
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.place.descriptors.set(self.place.index, CLOSED);
        // It fails only if it was not registered.
        let _ = match &mut self.socket {
            Socket::Tcp(socket) => self.place.registry.deregister(socket),
            Socket::Unix(socket) => self.place.registry.deregister(socket),
        };
    }
}
