//! The client: a few slots, each a connection and the request that it carries.
//!
//! Every state has a deadline: a request its two timeouts, an idle connection its own, a dial the next
//! address. Work happens in [`Client::submit`], [`Client::ready`] and [`Client::tick`] only.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Registry, Token};

use super::Response;
use super::connection::{Connection, Progress, proxy_refusal};
use super::dial::{Dial, Dialed, PLACES, Route};
use super::endpoint::{Endpoint, Scheme, Target};
use super::error::{HttpError, HttpErrorKind};
use super::exchange::Exchange;
use super::proxy::ProxySettings;
use super::resolve::{Addresses, LookUp, Resolved, Resolver, system_look_up};
use super::socket::{Descriptors, Place};
use super::tls::{TlsOptions, TlsTarget};
use crate::flusher::later;

/// What is read from a socket at once.
const BUFFER_BYTES: usize = 16 << 10;

/// The client's part of the event loop.
pub(crate) struct Io {
    /// A `try_clone` of the poll's.
    pub(crate) registry: Registry,
    /// The client's tokens, [`tokens_needed`] at least.
    pub(crate) tokens: Range<usize>,
    /// Called when a look-up has ended.
    pub(crate) waker: Arc<mio::Waker>,
}

/// How many tokens a client with `pool_size` connections uses.
pub(crate) const fn tokens_needed(pool_size: usize) -> usize {
    pool_size * PLACES
}

#[derive(Clone)]
pub(crate) struct ClientOptions {
    pub(crate) endpoint: Endpoint,
    /// Connections, and so requests at a time.
    pub(crate) pool_size: usize,
    /// From the request to a connection that can carry it: look-up, TCP, proxy and TLS together.
    pub(crate) connect_timeout: Duration,
    /// From the request to the end of its answer; one whose head is there by then will do.
    pub(crate) request_timeout: Duration,
    /// How long a connection is kept that nobody uses.
    pub(crate) idle_timeout: Duration,
    pub(crate) tls: TlsOptions,
    pub(crate) proxy: ProxySettings,
    /// How much of an answer's body is kept.
    pub(crate) response_bytes_max: usize,
    pub(crate) look_up: LookUp,
    /// Whether what names stand for is kept for the process's next client: a fork child starts with its parent's.
    pub(crate) share_addresses: bool,
    /// What the host, or its proxy's, is known to stand for.
    pub(crate) addresses: Option<Addresses>,
}

impl ClientOptions {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        ClientOptions {
            endpoint,
            pool_size: 2,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            tls: TlsOptions::default(),
            proxy: ProxySettings::default(),
            response_bytes_max: 64 << 10,
            look_up: system_look_up(),
            share_addresses: false,
            addresses: None,
        }
    }
}

/// A POST.
#[derive(Clone)]
pub(crate) struct Request {
    /// Comes back with the answer.
    pub(crate) id: u64,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// Without the headers' values, which may be secret.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("headers", &headers)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// What became of the request with this ID.
pub(crate) type Finished = (u64, Result<Response, HttpError>);

struct Work {
    id: u64,
    /// Until a connection takes it.
    exchange: Option<Exchange>,
    connect_until: Instant,
    until: Instant,
}

enum State {
    Empty,
    Resolving,
    Dialing(Dial),
    Open(Box<Connection>),
}

struct Slot {
    state: State,
    work: Option<Work>,
    /// For an open connection without work.
    idle_until: Option<Instant>,
}

impl Slot {
    fn is_connecting(&self) -> bool {
        match &self.state {
            State::Empty | State::Resolving | State::Dialing(_) => true,
            State::Open(connection) => !connection.is_ready(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let fallback = match &self.state {
            State::Dialing(dial) => dial.deadline(),
            _ => None,
        };
        let work = self.work.as_ref().map(|work| {
            if self.is_connecting() { work.connect_until.min(work.until) } else { work.until }
        });
        [fallback, work, self.idle_until].into_iter().flatten().min()
    }

    fn close(&mut self) {
        self.state = State::Empty;
        self.idle_until = None;
    }
}

pub(crate) struct Client {
    options: ClientOptions,
    /// Where requests go, for messages.
    place: String,
    proxy: Option<Endpoint>,
    tls: Option<TlsTarget>,
    /// None if the target is an address or a socket.
    resolver: Option<Resolver>,
    registry: Arc<Registry>,
    descriptors: &'static Descriptors,
    first_token: usize,
    slots: Vec<Slot>,
    buffer: Box<[u8]>,
    finished: VecDeque<Finished>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // The sockets first, which empty their places.
        self.slots.clear();
        self.descriptors.release();
    }
}

impl Client {
    /// Reads the TLS files, if the endpoint needs TLS; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// Kind [`HttpErrorKind::Options`]: which of them is unusable, and what to do.
    pub(crate) fn new(options: ClientOptions, io: Io) -> Result<Self, HttpError> {
        let wrong = |message: String| HttpError::new(HttpErrorKind::Options, message);
        if options.pool_size == 0 {
            return Err(wrong(
                "a pool of no connections can send nothing; use one or more".to_owned(),
            ));
        }
        let tokens = tokens_needed(options.pool_size);
        if io.tokens.len() < tokens {
            let given = io.tokens.len();
            return Err(wrong(format!("the client needs {tokens} tokens, and was given {given}")));
        }
        let endpoint = &options.endpoint;
        let proxy = options.proxy.proxy_for(endpoint)?;
        let tls = match endpoint.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(TlsTarget::new(&options.tls, endpoint)?),
        };
        let resolver = match &proxy.as_ref().unwrap_or(endpoint).target {
            Target::Name(host, port) => Some(Resolver::new(
                host.clone(),
                *port,
                options.look_up.clone(),
                io.waker,
                options.share_addresses,
                options.addresses.clone(),
            )),
            Target::Address(_) | Target::Socket(_) => None,
        };
        let place = match &proxy {
            Some(proxy) => format!("{endpoint} through the proxy {}", proxy.authority()),
            None => endpoint.to_string(),
        };
        let slot = || Slot { state: State::Empty, work: None, idle_until: None };
        Ok(Client {
            place,
            proxy,
            tls,
            resolver,
            descriptors: Descriptors::claim(tokens, &io.registry),
            registry: Arc::new(io.registry),
            first_token: io.tokens.start,
            slots: (0..options.pool_size).map(|_| slot()).collect(),
            buffer: vec![0; BUFFER_BYTES].into(),
            finished: VecDeque::new(),
            options,
        })
    }

    /// Whether a connection is free, or may be opened.
    pub(crate) fn can_submit(&self) -> bool {
        self.slots.iter().any(|slot| slot.work.is_none())
    }

    /// Starts a request: sends it at once if there is a connection, otherwise begins to make one.
    ///
    /// # Errors
    ///
    /// The request itself, when all connections are in use.
    pub(crate) fn submit(&mut self, request: Request, now: Instant) -> Result<(), Request> {
        // An open connection first. It may have been closed by the server without us having been told.
        let mut free = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.work.is_some() {
                continue;
            }
            if let State::Open(connection) = &mut slot.state {
                if connection.is_alive(&mut self.buffer) {
                    free = Some(index);
                    break;
                }
                slot.close();
            }
            free.get_or_insert(index);
        }
        let Some(index) = free else { return Err(request) };
        let proxy = self.proxy.as_ref().filter(|_| self.tls.is_none());
        let exchange = Exchange::post(
            &self.options.endpoint,
            proxy,
            &request.headers,
            request.body,
            self.options.response_bytes_max,
        );
        let exchange = match exchange {
            Ok(exchange) => exchange,
            Err(error) => {
                self.finished.push_back((request.id, Err(error.at(&self.place))));
                return Ok(());
            }
        };
        let mut work = Work {
            id: request.id,
            exchange: None,
            connect_until: later(now, self.options.connect_timeout),
            until: later(now, self.options.request_timeout),
        };
        let slot = &mut self.slots[index];
        slot.idle_until = None;
        if let State::Open(connection) = &mut slot.state {
            connection.start(exchange);
            slot.work = Some(work);
            self.drive(index, now);
        } else {
            work.exchange = Some(exchange);
            slot.work = Some(work);
            self.open(index, now);
        }
        Ok(())
    }

    /// An event for one of the client's tokens; others are ignored.
    pub(crate) fn ready(&mut self, event: &mio::event::Event, now: Instant) {
        // A token's place may have changed hands since the event: whoever has it now tries in vain.
        let Some(place) = event.token().0.checked_sub(self.first_token) else { return };
        if place / PLACES < self.slots.len() {
            self.drive(place / PLACES, now);
        }
    }

    /// What time has brought: timeouts, the next address, an ended look-up. To be called at
    /// [`Self::deadline`], and after the waker.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some(resolved) = self.resolver.as_mut().and_then(|resolver| resolver.poll(now)) {
            for index in 0..self.slots.len() {
                if matches!(self.slots[index].state, State::Resolving) {
                    self.resolved(index, &resolved, now);
                }
            }
        }
        for index in 0..self.slots.len() {
            self.expire(index, now);
            if matches!(self.slots[index].state, State::Dialing(_)) {
                self.drive(index, now);
            }
        }
    }

    /// When [`Self::tick`] is due; none while nothing is under way and no connection is kept.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let is_resolving = |slot: &Slot| matches!(slot.state, State::Resolving);
        let resolver = self.resolver.as_ref().filter(|_| self.slots.iter().any(is_resolving));
        let look_up = resolver.and_then(Resolver::deadline);
        self.slots.iter().filter_map(Slot::deadline).chain(look_up).min()
    }

    /// The next request that is over.
    pub(crate) fn finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Requests that are neither answered nor failed yet.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.iter().filter(|slot| slot.work.is_some()).count()
    }

    /// Whether a byte of an answer has come.
    #[cfg(test)]
    pub(super) fn is_answering(&self) -> bool {
        self.slots.iter().any(|slot| match &slot.state {
            State::Open(connection) => connection.lacks() == "the answer is not complete",
            _ => false,
        })
    }

    /// What the host, or its proxy's, is known to stand for.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Option<Addresses> {
        self.resolver.as_ref()?.known().cloned()
    }

    #[cfg(test)]
    pub(super) fn descriptors(&self) -> &'static Descriptors {
        self.descriptors
    }

    /// Closes idle connections, with a goodbye.
    pub(crate) fn close_idle(&mut self) {
        for slot in &mut self.slots {
            if slot.work.is_none()
                && let State::Open(connection) = &mut slot.state
            {
                connection.goodbye();
                slot.close();
            }
        }
    }

    /// Begins to make a connection for the work of a slot.
    fn open(&mut self, index: usize, now: Instant) {
        let endpoint = self.proxy.as_ref().unwrap_or(&self.options.endpoint);
        let route = match &endpoint.target {
            Target::Address(address) => Route::Tcp(*address),
            Target::Socket(path) => Route::Unix(path.clone()),
            Target::Name(..) => {
                let resolver = self.resolver.as_mut().expect("a name has a resolver");
                let resolved = resolver.resolve(now);
                return self.resolved(index, &resolved, now);
            }
        };
        self.dial(index, vec![route], now);
    }

    fn resolved(&mut self, index: usize, resolved: &Resolved, now: Instant) {
        match resolved {
            Resolved::Known(addresses) => {
                self.dial(index, addresses.iter().copied().map(Route::Tcp).collect(), now);
            }
            Resolved::Pending => self.slots[index].state = State::Resolving,
            Resolved::Failed(error) => self.fail(index, error.clone()),
        }
    }

    fn dial(&mut self, index: usize, routes: Vec<Route>, now: Instant) {
        let places = (index * PLACES..(index + 1) * PLACES).map(|index| Place {
            registry: self.registry.clone(),
            descriptors: self.descriptors,
            index,
            token: Token(self.first_token + index),
        });
        self.slots[index].state = State::Dialing(Dial::new(routes, places.collect()));
        self.drive(index, now);
    }

    /// Goes on with a slot as far as its sockets let it.
    fn drive(&mut self, index: usize, now: Instant) {
        let slot = &mut self.slots[index];
        if let State::Dialing(dial) = &mut slot.state {
            let link = match dial.drive(now) {
                Dialed::Pending => return,
                Dialed::Connected(link) => link,
                Dialed::Failed(error) => {
                    if let Some(resolver) = &mut self.resolver {
                        resolver.mark_stale();
                    }
                    return self.fail(index, error);
                }
            };
            let work = slot.work.as_mut().expect("a dial has work");
            let exchange = work.exchange.take().expect("no connection took it yet");
            let tunnel = self.proxy.as_ref().filter(|_| self.tls.is_some());
            let tunnel = tunnel.map(|proxy| Exchange::connect(&self.options.endpoint, proxy));
            let made = tunnel
                .transpose()
                .and_then(|tunnel| Connection::new(link, tunnel, self.tls.clone(), exchange));
            match made {
                Ok(connection) => slot.state = State::Open(Box::new(connection)),
                Err(error) => return self.fail(index, error),
            }
        }
        let State::Open(connection) = &mut slot.state else { return };
        let Some(work) = &slot.work else {
            if !connection.is_alive(&mut self.buffer) {
                slot.close();
            }
            return;
        };
        match connection.drive(&mut self.buffer) {
            Ok(Progress::Pending) => {}
            Ok(Progress::Answer(response, reusable)) => {
                let id = work.id;
                slot.work = None;
                // The end of the connection may have come with the answer, in the same event; and there
                // is no other event before everything was read.
                if reusable && connection.is_alive(&mut self.buffer) {
                    slot.idle_until = Some(later(now, self.options.idle_timeout));
                } else {
                    connection.goodbye();
                    slot.close();
                }
                self.answered(id, response);
            }
            Err(error) => self.fail(index, error),
        }
    }

    fn answered(&mut self, id: u64, response: Response) {
        let result = match (&self.proxy, &self.tls) {
            // In plain HTTP a proxy answers in the server's place; only this status is its own.
            (Some(_), None) if response.status == 407 => {
                Err(proxy_refusal(response.status).at(&self.place))
            }
            _ => Ok(response),
        };
        self.finished.push_back((id, result));
    }

    fn expire(&mut self, index: usize, now: Instant) {
        let slot = &mut self.slots[index];
        if slot.idle_until.is_some_and(|at| at <= now) {
            if let State::Open(connection) = &mut slot.state {
                connection.goodbye();
            }
            return slot.close();
        }
        let Some(work) = &slot.work else { return };
        let connecting = slot.is_connecting();
        if connecting && work.connect_until <= now {
            let timeout = self.options.connect_timeout;
            let (kind, what) = match &slot.state {
                State::Empty | State::Resolving => (
                    HttpErrorKind::Resolve,
                    "the look-up of the host did not end; check the DNS settings",
                ),
                State::Dialing(_) => (
                    HttpErrorKind::ConnectTimeout,
                    "no connection; check the address, and firewalls on the way",
                ),
                State::Open(_) => (
                    HttpErrorKind::ConnectTimeout,
                    "the connection stands, but the handshake with the proxy or of TLS did not end",
                ),
            };
            // All addresses were tried, as far as time allowed: they may have changed.
            if let (State::Dialing(_), Some(resolver)) = (&slot.state, &mut self.resolver) {
                resolver.mark_stale();
            }
            return self.fail(index, HttpError::new(kind, format!("after {timeout:?}: {what}")));
        }
        if work.until <= now {
            if let State::Open(connection) = &mut slot.state
                && let Some(response) = connection.cut_off()
            {
                let id = work.id;
                connection.goodbye();
                slot.work = None;
                slot.close();
                return self.answered(id, response);
            }
            let timeout = self.options.request_timeout;
            let what = match &slot.state {
                State::Open(connection) if !connecting => connection.lacks(),
                _ => "no connection yet",
            };
            let message = format!("after {timeout:?}: {what}; is the server overloaded?");
            let error = HttpError::new(HttpErrorKind::RequestTimeout, message);
            let error = match &slot.state {
                State::Open(connection) => connection.blame(error),
                _ => error,
            };
            self.fail(index, error);
        }
    }

    /// The slot's work has failed, and its connection with it.
    fn fail(&mut self, index: usize, error: HttpError) {
        let slot = &mut self.slots[index];
        slot.close();
        if let Some(work) = slot.work.take() {
            self.finished.push_back((work.id, Err(error.at(&self.place))));
        }
    }
}
