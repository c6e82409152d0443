//! One connection: a request's head, its answer, and the end.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::answer;
use super::request::{HEAD_BYTES_MAX, Method, Parsed, Request, parse};

/// How long a connection may take, from its beginning to its end.
const LIFETIME: Duration = Duration::from_secs(10);
/// How long the client may take to end its side once it has the answer.
const GOODBYE: Duration = Duration::from_secs(1);
/// What a client may send beyond a head, which is thrown away: closed with bytes unread, a connection is reset, and the
/// answer may be lost.
const REST_BYTES_MAX: usize = 64 << 10;

pub(super) struct Connection {
    socket: TcpStream,
    begun: Instant,
    until: Instant,
    stage: Stage,
}

enum Stage {
    Head(Vec<u8>),
    Answer {
        bytes: Vec<u8>,
        sent: usize,
    },
    /// Bytes that may come yet.
    Rest(usize),
}

impl Connection {
    pub(super) fn new(socket: TcpStream, now: Instant) -> Self {
        let stage = Stage::Head(Vec::new());
        Connection { socket, begun: now, until: now + LIFETIME, stage }
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Bytes of its answer that are not sent.
    pub(super) fn waiting(&self) -> usize {
        match &self.stage {
            Stage::Answer { bytes, sent } => bytes.len() - sent,
            _ => 0,
        }
    }

    /// Goes on as far as the socket lets it; false once the connection is over.
    pub(super) fn drive(&mut self, now: Instant, make: impl FnOnce(&Request) -> Vec<u8>) -> bool {
        let mut make = Some(make);
        let mut piece = [0; 2048];
        loop {
            let result = match &mut self.stage {
                Stage::Head(head) => {
                    let room = (HEAD_BYTES_MAX - head.len()).min(piece.len());
                    let read = self.socket.read(&mut piece[..room]);
                    read.inspect(|read| head.extend_from_slice(&piece[..*read]))
                }
                Stage::Answer { bytes, sent } => self.socket.write(&bytes[*sent..]),
                Stage::Rest(left) => {
                    let room = (*left).min(piece.len());
                    self.socket.read(&mut piece[..room])
                }
            };
            match result {
                // The other side's end, or the end of what it may send.
                Ok(0) => return false,
                Ok(bytes) => self.advance(bytes, now, &mut make),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// So many bytes came or went.
    fn advance(
        &mut self,
        moved: usize,
        now: Instant,
        make: &mut Option<impl FnOnce(&Request) -> Vec<u8>>,
    ) {
        match &mut self.stage {
            Stage::Head(head) => {
                let bytes = match parse(head, moved) {
                    Parsed::Partial => return,
                    Parsed::Wrong(status) => answer::refusal(status, Method::Get),
                    Parsed::Whole(request) => match make.take() {
                        Some(make) => make(&request),
                        None => return,
                    },
                };
                self.stage = Stage::Answer { bytes, sent: 0 };
            }
            Stage::Answer { bytes, sent } => {
                *sent += moved;
                if *sent == bytes.len() {
                    // One that cannot be ended is closed soon.
                    let _ = self.socket.shutdown(Shutdown::Write);
                    self.stage = Stage::Rest(REST_BYTES_MAX);
                    self.until = self.until.min(now + GOODBYE);
                }
            }
            Stage::Rest(left) => *left -= moved,
        }
    }
}
