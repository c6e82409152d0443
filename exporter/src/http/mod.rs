//! HTTP/1.1 over non-blocking sockets, for the sinks that speak it: a client for one endpoint, driven by
//! somebody else's event loop.
//!
//! ```text
//! submit ─► slot ─► look-up ─► dial ─► [CONNECT] ─► [TLS] ─► exchange ─► finished
//!  client.rs        resolve    dial       connection, transport   exchange
//! ```
//!
//! It never blocks, never reads a clock, and starts no thread but the one of a look-up. It follows no
//! redirect, retries nothing and decides nothing about statuses: an answer is an answer. Connections are
//! kept and reused. Everything has a bound: connections, sockets while connecting, an answer's head and
//! body, what TLS buffers; every state has a deadline.
//!
//! `exchange` holds the protocol and does no I/O; `endpoint` and `proxy` are plain data.
//!
//! The loop of its owner:
//!
//! ```text
//! poll(min(client.deadline(), ...));
//! for event in events { client.ready(event, now) }      // ignores the tokens of others
//! client.tick(now);                                      // always: also the waker calls it
//! while let Some((id, result)) = client.finished() { ... }
//! while client.can_submit() { client.submit(request, now) }
//! ```

mod client;
mod connection;
mod dial;
mod endpoint;
mod error;
pub(crate) mod exchange;
mod proxy;
mod resolve;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

pub(crate) use client::{Client, ClientOptions, Io, Request, tokens_needed};
pub(crate) use endpoint::{Endpoint, without_userinfo};
pub(crate) use error::{HttpError, HttpErrorKind};
pub(crate) use proxy::ProxySettings;
pub(crate) use socket::Descriptors;
pub(crate) use tls::TlsOptions;

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    /// Decoded, if it came with gzip; no more than was asked for.
    pub(crate) body: Vec<u8>,
    /// Whether there was more of the body than `body` has, or it broke off, or could not be decoded to its end.
    pub(crate) truncated: bool,
}
