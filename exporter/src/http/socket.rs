//! Sockets registered with the event loop, and the table by which a fork child closes them.
//!
//! A [`Link`] is deregistered before it is closed: the same socket may be open in a fork child still,
//! and would report events as long. The child itself must do neither, since its copy of the poll's
//! descriptor is its parent's poll: it only closes.

use std::io::{self, Read, Write};
use std::iter;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::io::retry_on_intr;
use rustix::net::SendFlags;

use super::resolve::forget_threads;

const CLOSED: RawFd = -1;

/// No `SIGPIPE` from a connection that the peer has closed, which kills a process that does not ignore it: we may be
/// a guest in a program that is not Rust's. Elsewhere mio sets an option on the socket that does the same.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::empty();

/// The raw descriptors of a client, or of the status endpoint: one place for each of its tokens, the last for its registry.
///
/// A fork child closes them in its `pthread_atfork` handler, whatever the flusher was doing when the process forked:
/// only atomics, in memory that is never freed, and a place is emptied before its descriptor is closed. A
/// descriptor made in that very moment may be missing; then the child keeps it open, no more.
///
/// # Orderings
///
/// A place carries nothing but itself, and a fork is no race of threads, so Relaxed is enough for it. `used` is
/// claimed with Acquire, which pairs with the Release of its release: the new owner finds empty places. The list's
/// head is published with Release for the fields of what is put on it.
#[derive(Debug)]
pub(crate) struct Descriptors {
    places: Box<[AtomicI32]>,
    used: AtomicBool,
    next: AtomicPtr<Descriptors>,
}

/// All tables there ever were, newest first. A client that is gone leaves its own to the next one of that size.
static TABLES: AtomicPtr<Descriptors> = AtomicPtr::new(ptr::null_mut());
static IS_CHILD_TOLD: AtomicBool = AtomicBool::new(false);

fn tables() -> impl Iterator<Item = &'static Descriptors> {
    let mut at = TABLES.load(Ordering::Acquire);
    iter::from_fn(move || {
        // SAFETY: null, or a table, none of which is ever freed.
        let table = unsafe { at.as_ref() }?;
        at = table.next.load(Ordering::Relaxed);
        Some(table)
    })
}

/// In a fork child: plain `close`, nothing deregistered, no goodbye on any connection. The clients that the
/// descriptors belong to are their flusher's, whose thread this process does not have.
extern "C" fn close_in_child() {
    tables().for_each(Descriptors::close_all);
    forget_threads();
}

impl Descriptors {
    /// A table with so many places for sockets, and one for the registry.
    pub(crate) fn claim(places: usize, registry: &Registry) -> &'static Self {
        if !IS_CHILD_TOLD.swap(true, Ordering::Relaxed) {
            // SAFETY: a handler of the right type, which calls only what is safe in a fork child.
            unsafe { libc::pthread_atfork(None, None, Some(close_in_child)) };
        }
        let claim = |table: &&Descriptors| {
            let fits = table.places.len() == places + 1;
            fits && !table.used.swap(true, Ordering::Acquire)
        };
        let table = tables().find(claim).unwrap_or_else(|| {
            let empty = iter::repeat_with(|| AtomicI32::new(CLOSED)).take(places + 1).collect();
            let (used, next) = (AtomicBool::new(true), AtomicPtr::new(ptr::null_mut()));
            let table: &'static _ = Box::leak(Box::new(Descriptors { places: empty, used, next }));
            let _ = TABLES.fetch_update(Ordering::Release, Ordering::Relaxed, |head| {
                table.next.store(head, Ordering::Relaxed);
                Some(ptr::from_ref(table).cast_mut())
            });
            table
        });
        table.set(places, registry.as_raw_fd());
        table
    }

    /// Leaves the table to the next client. Its sockets are closed; the registry is about to be.
    pub(crate) fn release(&self) {
        self.set(self.places.len() - 1, CLOSED);
        self.used.store(false, Ordering::Release);
    }

    pub(crate) fn set(&self, place: usize, descriptor: RawFd) {
        self.places[place].store(descriptor, Ordering::Relaxed);
    }

    /// The descriptor there is about to be closed.
    pub(crate) fn empty(&self, place: usize) {
        self.set(place, CLOSED);
    }

    fn close_all(&self) {
        for place in &self.places {
            let descriptor = place.swap(CLOSED, Ordering::Relaxed);
            if descriptor != CLOSED {
                // SAFETY: the descriptor was the client's when the process forked; the client's flusher does not run
                // here, so nobody else closes it or takes it for open.
                unsafe { libc::close(descriptor) };
            }
        }
    }

    /// Those of sockets.
    #[cfg(test)]
    pub(crate) fn open(&self) -> Vec<RawFd> {
        let (_registry, sockets) = self.places.split_last().unwrap();
        let all = sockets.iter().map(|place| place.load(Ordering::Relaxed));
        all.filter(|&descriptor| descriptor != CLOSED).collect()
    }
}

/// Where a link is registered.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) registry: Arc<Registry>,
    pub(super) descriptors: &'static Descriptors,
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
    /// Is never interrupted: no event would tell when to go on.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not with the standard library's `write`, which raises `SIGPIPE` for a `UnixStream` before Rust 1.90.
        fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
            Ok(retry_on_intr(|| rustix::net::send(&socket, bytes, SEND))?)
        }
        match &self.socket {
            Socket::Tcp(socket) => socket.try_io(|| send(socket, bytes)),
            Socket::Unix(socket) => socket.try_io(|| send(socket, bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.place.descriptors.empty(self.place.index);
        // It fails only if it was not registered.
        let _ = match &mut self.socket {
            Socket::Tcp(socket) => self.place.registry.deregister(socket),
            Socket::Unix(socket) => self.place.registry.deregister(socket),
        };
    }
}
