//! Bytes over a [`Link`], in the clear or through TLS, never blocking.
//!
//! With TLS at most [`PIECE_BYTES_MAX`] of plain text and its cipher text are buffered: a piece is
//! taken only when the one before it has gone to the socket.

use std::io::{self, Read, Write};

use rustls::ClientConnection;

use super::error::{HttpError, HttpErrorKind};
use super::socket::Link;
use super::tls::{TlsTarget, explain};

/// What is handed to TLS at once.
pub(super) const PIECE_BYTES_MAX: usize = 64 << 10;
/// Reads from the socket that may pass without a byte of plain text: a record takes a few, a peer
/// that sends nothing but empty records must not keep the event loop.
const EMPTY_READS_MAX: usize = 256;

/// What a read or write came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// Nothing now; an event tells when to go on.
    Blocked,
    /// The peer sends no more.
    End,
}

pub(super) struct Transport {
    link: Link,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    pub(super) fn new(link: Link) -> Self {
        Transport { link, tls: None }
    }

    pub(super) fn start_tls(&mut self, target: &TlsTarget) -> Result<(), HttpError> {
        let tls = ClientConnection::new(target.config.clone(), target.name.clone());
        let mut tls = tls.map_err(|error| tls_error(&error))?;
        tls.set_buffer_limit(Some(2 * PIECE_BYTES_MAX));
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Goes on with the handshake; whether it is done.
    pub(super) fn handshake(&mut self) -> Result<bool, HttpError> {
        self.shake_hands().map_err(|error| match error.kind() {
            HttpErrorKind::Closed => HttpError::new(
                error.kind(),
                format!("{error}, during the TLS handshake; does the server speak TLS there?"),
            ),
            _ => error,
        })
    }

    fn shake_hands(&mut self) -> Result<bool, HttpError> {
        for _ in 0..EMPTY_READS_MAX {
            let Some(tls) = &self.tls else { return Ok(true) };
            let handshaking = tls.is_handshaking();
            let flushed = self.flush()?;
            if !handshaking {
                return Ok(true);
            }
            let wants_read = self.tls.as_ref().is_some_and(|tls| tls.wants_read());
            if !wants_read {
                if !flushed {
                    return Ok(false);
                }
                continue;
            }
            match self.read_records()? {
                Moved::Bytes(_) => {}
                Moved::Blocked => return Ok(false),
                Moved::End => {
                    let what = "the server closed the connection";
                    return Err(HttpError::new(HttpErrorKind::Closed, what));
                }
            }
        }
        Err(HttpError::new(HttpErrorKind::Tls, "the TLS handshake does not come to an end"))
    }

    /// Takes some of `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Moved, HttpError> {
        if self.tls.is_none() {
            return match self.link.write(bytes) {
                Ok(count) => Ok(Moved::Bytes(count)),
                Err(error) => blocked_or(&error),
            };
        }
        if !self.flush()? {
            return Ok(Moved::Blocked);
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        let tls = self.tls.as_mut().expect("checked above");
        let count = tls.writer().write(piece).map_err(|error| closed(&error))?;
        self.flush()?;
        Ok(Moved::Bytes(count))
    }

    /// Sends what TLS has buffered; whether all of it is gone.
    pub(super) fn flush(&mut self) -> Result<bool, HttpError> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.link) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return blocked_or(&error).map(|_| false),
            }
        }
        Ok(true)
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Moved, HttpError> {
        if self.tls.is_none() {
            return match self.link.read(buffer) {
                Ok(0) => Ok(Moved::End),
                Ok(count) => Ok(Moved::Bytes(count)),
                Err(error) => blocked_or(&error),
            };
        }
        for _ in 0..EMPTY_READS_MAX {
            let tls = self.tls.as_mut().expect("checked above");
            match tls.reader().read(buffer) {
                Ok(0) => return Ok(Moved::End),
                Ok(count) => return Ok(Moved::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(closed(&error)),
            }
            match self.read_records()? {
                // At the end the reader says whether the peer ended TLS, or somebody cut it off.
                Moved::Bytes(_) | Moved::End => {}
                Moved::Blocked => return Ok(Moved::Blocked),
            }
        }
        Err(HttpError::new(
            HttpErrorKind::Protocol,
            "the server sends TLS records without any data",
        ))
    }

    fn read_records(&mut self) -> Result<Moved, HttpError> {
        let tls = self.tls.as_mut().expect("only called with TLS");
        let moved = match tls.read_tls(&mut self.link) {
            Ok(0) => Moved::End,
            Ok(count) => Moved::Bytes(count),
            Err(error) => blocked_or(&error)?,
        };
        let processed = tls.process_new_packets();
        // What rustls has to answer: a part of the handshake, or the alert that says what was wrong.
        let flushed = self.flush();
        processed.map_err(|error| tls_error(&error))?;
        flushed?;
        Ok(moved)
    }

    /// Says goodbye where TLS wants one, as far as that works without waiting.
    pub(super) fn goodbye(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = self.flush();
        }
    }
}

fn tls_error(error: &rustls::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Tls, explain(error))
}

fn blocked_or(error: &io::Error) -> Result<Moved, HttpError> {
    match error.kind() {
        // An interrupted call has done nothing; trying again at once is what its caller does.
        io::ErrorKind::WouldBlock => Ok(Moved::Blocked),
        io::ErrorKind::Interrupted => Ok(Moved::Bytes(0)),
        _ => Err(closed(error)),
    }
}

fn closed(error: &io::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Closed, format!("the connection broke: {error}"))
}
