//! One connection: through the proxy, through the handshake, then one exchange after another.
//!
//! [`Connection::drive`] goes on as far as the socket lets it, and is called again with every event.
//! It waits for nothing and has no deadline of its own; the client has.

use super::Response;
use super::error::{HttpError, HttpErrorKind};
use super::exchange::Exchange;
use super::socket::Link;
use super::tls::TlsTarget;
use super::transport::{Moved, Transport};

enum Stage {
    /// CONNECT was asked of a proxy.
    Tunnel(Box<Exchange>),
    Handshake,
    Ready,
}

pub(super) enum Progress {
    Pending,
    /// The answer, and whether the connection is good for another exchange.
    Answer(Response, bool),
}

pub(super) struct Connection {
    transport: Transport,
    tls: Option<TlsTarget>,
    stage: Stage,
    exchange: Option<Exchange>,
    reused: bool,
}

impl Connection {
    /// Over a link that is connected; `tunnel` is what the proxy, if there is one, is asked first.
    pub(super) fn new(
        link: Link,
        tunnel: Option<Exchange>,
        tls: Option<TlsTarget>,
        exchange: Exchange,
    ) -> Result<Self, HttpError> {
        let mut connection = Connection {
            transport: Transport::new(link),
            tls,
            stage: Stage::Ready,
            exchange: Some(exchange),
            reused: false,
        };
        match tunnel {
            Some(tunnel) => connection.stage = Stage::Tunnel(Box::new(tunnel)),
            None => connection.start_tls()?,
        }
        Ok(connection)
    }

    fn start_tls(&mut self) -> Result<(), HttpError> {
        self.stage = match &self.tls {
            Some(target) => {
                self.transport.start_tls(target)?;
                Stage::Handshake
            }
            None => Stage::Ready,
        };
        Ok(())
    }

    /// The next exchange, on a connection that has none.
    pub(super) fn start(&mut self, exchange: Exchange) {
        debug_assert!(self.exchange.is_none());
        self.exchange = Some(exchange);
        self.reused = true;
    }

    /// Whether requests can be sent: neither a proxy nor a handshake is in the way any more.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Time is up: the answer, if what came of it will do. The connection is of no more use.
    pub(super) fn cut_off(&mut self) -> Option<Response> {
        if !self.is_ready() || !self.exchange.as_mut()?.cut_off() {
            return None;
        }
        self.exchange.take()?.finish().map(|(response, _)| response)
    }

    /// `error` with what the server may have of the request.
    pub(super) fn blame(&self, error: HttpError) -> HttpError {
        match &self.exchange {
            Some(exchange) => error.after(exchange.is_sent(), exchange.answer_seen()),
            None => error,
        }
    }

    /// What has not happened yet.
    pub(super) fn lacks(&self) -> &'static str {
        match &self.exchange {
            Some(exchange) if exchange.answer_seen() => "the answer is not complete",
            Some(exchange) if !exchange.is_sent() => "the server has not taken all of the request",
            _ => "the server took the request, but has not answered",
        }
    }

    /// Whether an idle connection is still good: open, and nothing came that nobody asked for.
    pub(super) fn is_alive(&mut self, buffer: &mut [u8]) -> bool {
        matches!(self.transport.read(buffer), Ok(Moved::Blocked))
    }

    pub(super) fn goodbye(&mut self) {
        self.transport.goodbye();
    }

    /// # Errors
    ///
    /// The connection is unusable then, and the exchange lost.
    pub(super) fn drive(&mut self, buffer: &mut [u8]) -> Result<Progress, HttpError> {
        if let Stage::Tunnel(tunnel) = &mut self.stage {
            match pump(&mut self.transport, tunnel, buffer) {
                Ok(false) => return Ok(Progress::Pending),
                Ok(true) => {}
                Err(error) => {
                    let message = format!("the proxy gives no tunnel: {error}");
                    return Err(HttpError::new(HttpErrorKind::Proxy, message));
                }
            }
            self.leave_tunnel()?;
        }
        if matches!(self.stage, Stage::Handshake) {
            if !self.transport.handshake()? {
                return Ok(Progress::Pending);
            }
            self.stage = Stage::Ready;
        }
        let Some(exchange) = &mut self.exchange else { return Ok(Progress::Pending) };
        match pump(&mut self.transport, exchange, buffer) {
            Ok(false) => return Ok(Progress::Pending),
            Ok(true) => {}
            Err(error) => {
                let error = match error.kind() {
                    HttpErrorKind::Closed => {
                        let where_or_advice = match self.reused {
                            true => ", on a connection used before",
                            false => "; does the server run well, and is it the right port?",
                        };
                        HttpError::new(error.kind(), format!("{error}{where_or_advice}"))
                    }
                    _ => error,
                };
                return Err(self.blame(error));
            }
        }
        let finished = self.exchange.take().and_then(Exchange::finish);
        let (response, reusable) = finished.expect("the exchange is complete");
        Ok(Progress::Answer(response, reusable))
    }

    fn leave_tunnel(&mut self) -> Result<(), HttpError> {
        let Stage::Tunnel(tunnel) = std::mem::replace(&mut self.stage, Stage::Ready) else {
            return Ok(());
        };
        let (response, _) = tunnel.finish().expect("the exchange is complete");
        match response.status {
            200..=299 => self.start_tls(),
            status => Err(proxy_refusal(status)),
        }
    }
}

/// What a proxy's own answer means.
pub(super) fn proxy_refusal(status: u16) -> HttpError {
    let advice = match status {
        407 => "set the user and password in its URL, http://user:password@host:port",
        403 => "it does not allow this host and port",
        _ => "check that it is a proxy, and allows CONNECT",
    };
    HttpError::new(HttpErrorKind::Proxy, format!("the proxy answers {status}; {advice}"))
}

/// Sends and receives as far as the socket lets it; whether the exchange is complete.
fn pump(
    transport: &mut Transport,
    exchange: &mut Exchange,
    buffer: &mut [u8],
) -> Result<bool, HttpError> {
    match send_and_receive(transport, exchange, buffer) {
        // An end without TLS's goodbye, a reset: the answer's head may be there.
        Err(_) if exchange.cut_off() => Ok(true),
        result => result,
    }
}

fn send_and_receive(
    transport: &mut Transport,
    exchange: &mut Exchange,
    buffer: &mut [u8],
) -> Result<bool, HttpError> {
    // A server may answer and close before it has all of the request: what it said is worth more than
    // that it does not listen.
    let broken = send(transport, exchange).err();
    loop {
        match transport.read(buffer) {
            Ok(Moved::Bytes(count)) => exchange.receive(&buffer[..count])?,
            Ok(Moved::Blocked) => return broken.map_or(Ok(false), Err),
            Ok(Moved::End) => {
                exchange.receive_end().map_err(|error| broken.clone().unwrap_or(error))?;
            }
            Err(error) if error.kind() == HttpErrorKind::Tls => return Err(error),
            Err(error) => return Err(broken.unwrap_or(error)),
        }
        if exchange.is_complete() {
            return Ok(true);
        }
    }
}

fn send(transport: &mut Transport, exchange: &mut Exchange) -> Result<(), HttpError> {
    while !exchange.is_sent() {
        match transport.write(exchange.output())? {
            Moved::Bytes(count) if count > 0 => exchange.sent(count),
            _ => break,
        }
    }
    transport.flush().map(drop)
}
