//! The status endpoint: health, metrics and settings over HTTP, on the flusher's own loop.
//!
//! It is a guest there: every read and write takes what is there and returns, an answer is made once a request is
//! whole, and connections, heads, answers that wait and time all have a bound. What a client says allocates nothing
//! beyond these. Without a connection it has no deadline, so that an idle pipeline sleeps on.
//!
//! The listener and its connections are in the table by which a fork child closes descriptors ([`Descriptors`]): a child
//! serves nobody on its parent's socket, and what it closes it does not deregister.

mod answer;
mod connection;
mod page;
mod request;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use spanring::export::Engine;
use spanring::settings::Settings;

use crate::http::Descriptors;
use crate::log;
use crate::pipeline::Shared;
use connection::Connection;

/// Connections at a time; for one more the oldest has to go.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of answers that wait to be sent, all together, beyond which a request is refused.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// How soon it is tried again to accept, where the process has no descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// The event loop's token 0 is the waker's, and those from 65,536 on belong to sinks.
const LISTENER: Token = Token(1);
const FIRST: usize = 2;
/// Of the table of descriptors: the connections', then the listener's.
const LISTENER_PLACE: usize = CONNECTIONS_MAX;

pub(crate) struct Status {
    /// There until it is dropped.
    listener: Option<TcpListener>,
    address: SocketAddr,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    /// When to accept although no event says so.
    accept_at: Option<Instant>,
    registry: Option<Registry>,
    descriptors: &'static Descriptors,
    engine: &'static Engine,
}

impl Status {
    /// Listens where the settings say.
    ///
    /// # Errors
    ///
    /// Why it cannot, and what to do.
    pub(crate) fn bind(
        address: SocketAddr,
        settings: &Settings,
        registry: Registry,
        engine: &'static Engine,
    ) -> Result<Self, String> {
        if address.ip().to_canonical().is_unspecified() && !settings.status_any_address {
            return Err(format!(
                "STATUS_ADDRESS={address} stands for every address of this machine: name the one to listen at, or set \
                 STATUS_ANY_ADDRESS=true if all who can reach it may see settings and the names of spans"
            ));
        }
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(listener);
            registry.register(&mut listener, LISTENER, Interest::READABLE)?;
            let address = listener.local_addr()?;
            io::Result::Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another process has it, maybe this one's parent: choose another port, or port 0 for any that is free"
                }
                io::ErrorKind::AddrNotAvailable => "; it is no address of this machine",
                _ => "",
            };
            format!("STATUS_ADDRESS={address} cannot be listened at: {error}{advice}")
        })?;
        let descriptors = Descriptors::claim(CONNECTIONS_MAX + 1, &registry);
        descriptors.set(LISTENER_PLACE, listener.as_raw_fd());
        Ok(Status {
            listener: Some(listener),
            address,
            connections: [const { None }; CONNECTIONS_MAX],
            accept_at: None,
            registry: Some(registry),
            descriptors,
            engine,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether an event with that token is for it.
    pub(crate) fn owns(&self, token: Token) -> bool {
        (LISTENER.0..FIRST + CONNECTIONS_MAX).contains(&token.0)
    }

    /// A socket of its tokens is ready.
    pub(crate) fn ready(&mut self, token: Token, shared: &Shared, now: Instant) {
        if token == LISTENER {
            return self.accept(now);
        }
        let place = token.0 - FIRST;
        let waiting: usize = self.connections.iter().flatten().map(Connection::waiting).sum();
        let is_local = is_local(self.address.ip());
        if let Some(connection) = &mut self.connections[place]
            && !connection.drive(now, |request| {
                if waiting > WAITING_BYTES_MAX {
                    return answer::busy(request);
                }
                answer::make(request, is_local, shared)
            })
        {
            self.close(place);
        }
    }

    fn accept(&mut self, now: Instant) {
        let Some(listener) = self.listener.take() else { return };
        self.accept_at = self.accept_from(&listener, now);
        self.listener = Some(listener);
    }

    /// When to go on, if it is not done.
    fn accept_from(&mut self, listener: &TcpListener, now: Instant) -> Option<Instant> {
        // More wait for the next round: who floods this must not keep the flusher.
        for _ in 0..CONNECTIONS_MAX {
            match listener.accept() {
                Ok((socket, _)) => self.add(Connection::new(socket, now)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // Gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Some(now + ACCEPT_AGAIN),
            }
        }
        Some(now)
    }

    fn add(&mut self, mut connection: Connection) {
        let free = self.connections.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            let begun = |place: &usize| self.connections[*place].as_ref().map(Connection::begun);
            let oldest = (0..CONNECTIONS_MAX).min_by_key(begun).unwrap_or(0);
            self.close(oldest);
            oldest
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let socket = connection.socket();
        // One that cannot be registered is closed.
        if let Some(registry) = &self.registry
            && registry.register(socket, Token(FIRST + place), interest).is_ok()
        {
            self.descriptors.set(place, socket.as_raw_fd());
            self.connections[place] = Some(connection);
        }
    }

    fn close(&mut self, place: usize) {
        self.descriptors.empty(place);
        if let Some(mut connection) = self.connections[place].take()
            && let Some(registry) = &self.registry
        {
            // A fork child may have it still: it would report events as long.
            let _ = registry.deregister(connection.socket());
        }
    }

    /// Ends connections whose time is up.
    pub(crate) fn tick(&mut self, now: Instant) {
        for place in 0..CONNECTIONS_MAX {
            if self.connections[place].as_ref().is_some_and(|it| it.until() <= now) {
                self.close(place);
            }
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept(now);
        }
    }

    /// When it wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().flatten().map(Connection::until);
        connections.chain(self.accept_at).min()
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if self.engine.is_from_parent() {
            // They were closed already when the process forked, and their numbers may be others' now.
            std::mem::forget((self.listener.take(), self.registry.take()));
            self.connections.iter_mut().for_each(|it| std::mem::forget(it.take()));
            return;
        }
        (0..CONNECTIONS_MAX).for_each(|place| self.close(place));
        self.descriptors.empty(LISTENER_PLACE);
        if let (Some(listener), Some(registry)) = (&mut self.listener, &self.registry) {
            let _ = registry.deregister(listener);
        }
        self.descriptors.release();
    }
}

/// Whether only programs of this machine can reach that address.
fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Tells where it listens, or why it does not: tracing goes on all the same.
pub(crate) fn open(
    settings: &Settings,
    registry: io::Result<Registry>,
    engine: &'static Engine,
) -> Option<Status> {
    let address = settings.status_address?;
    let bound = registry
        .map_err(|error| format!("the event queue cannot be shared: {error}"))
        .and_then(|registry| Status::bind(address, settings, registry, engine));
    match bound {
        Ok(status) => {
            let level = spanring::settings::LogLevel::Info;
            log::write_asked(level, format_args!("the status is at http://{}/", status.address));
            Some(status)
        }
        Err(message) => {
            log::error!("there is no status endpoint: {message}");
            None
        }
    }
}

/// Feeds a head in pieces of those sizes, over and over, for the fuzz target: whether it is refused or understood, and that
/// it is, within the bound.
#[doc(hidden)]
pub fn head_in_pieces(head: &[u8], sizes: &[u8]) -> String {
    let mut sizes = sizes.iter().map(|size| usize::from(*size).max(1)).cycle();
    let mut seen = 0;
    while seen < head.len().min(request::HEAD_BYTES_MAX) {
        let room = head.len().min(request::HEAD_BYTES_MAX) - seen;
        let new = sizes.next().unwrap_or(room).min(room);
        seen += new;
        match request::parse(&head[..seen], new) {
            request::Parsed::Partial => {}
            parsed => return format!("{parsed:?}"),
        }
    }
    assert!(seen < request::HEAD_BYTES_MAX, "a full head is not refused");
    String::new()
}
