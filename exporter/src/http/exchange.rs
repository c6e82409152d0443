//! One request and its answer, as bytes in and bytes out: no socket, no clock.
//!
//! The caller takes [`Exchange::output`] and says by [`Exchange::sent`] how much of it went out, and
//! gives what came in to [`Exchange::receive`], in whatever pieces, until [`Exchange::is_complete`].
//! Sending and receiving are independent: a server may answer before it has all of the request.
//!
//! An answer is complete with its final head: that says what became of the request. A body that breaks off is
//! a body that was cut, since asking again would send again what the server has.
//!
//! Bounds: an answer's heads, interim ones (1xx) included, are [`HEAD_BYTES_MAX`] at most; of its body
//! as much is kept as was asked for, the rest is thrown away, and beyond [`BODY_BYTES_MAX`] nothing
//! more is read. What ureq-proto cannot use yet waits in `inbox`, which the same bounds hold short.

use std::io::Read;
use std::mem;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use ureq_proto::BodyMode;
use ureq_proto::client::state::{RecvBody, RecvResponse};
use ureq_proto::client::{
    Await100Result, Call, RecvBodyResult, RecvResponseResult, SendRequestResult,
};

use super::Response;
use super::endpoint::{Endpoint, basic};
use super::error::{HttpError, HttpErrorKind};

/// The heads of an answer, interim ones included.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// What is read of a body; a longer one costs the connection.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest line between chunks, trailers included; a longer one costs the connection.
const CHUNK_LINE_BYTES_MAX: usize = 8 << 10;
/// Up to here a head is parsed with each piece, so that what is no HTTP is refused at once; beyond,
/// only when it has doubled or its end is there, so that single bytes do not cost the square.
const EAGER_BYTES_MAX: usize = 4 << 10;

enum State {
    Head(Call<RecvResponse>),
    Body(Call<RecvBody>),
    Complete {
        reusable: bool,
    },
    /// An error was returned.
    Failed,
}

pub(crate) struct Exchange {
    head: Vec<u8>,
    body: Bytes,
    sent: usize,
    state: State,
    inbox: Vec<u8>,
    /// How much of `inbox` is known to hold no end of a head, and was last given to the parser.
    scanned: usize,
    parsed: usize,
    #[cfg(test)]
    pub(super) parses: usize,
    head_bytes: usize,
    body_bytes: usize,
    answer: Option<http::Response<()>>,
    answer_seen: bool,
    kept: Vec<u8>,
    kept_max: usize,
    truncated: bool,
}

impl Exchange {
    /// A POST of `body` to `endpoint`; with `absolute`, as a proxy wants it.
    ///
    /// # Errors
    ///
    /// Kind [`HttpErrorKind::Request`]: a header that no request can carry, named without its value.
    pub(crate) fn post(
        endpoint: &Endpoint,
        proxy: Option<&Endpoint>,
        headers: &[(String, String)],
        body: Bytes,
        response_bytes_max: usize,
    ) -> Result<Self, HttpError> {
        let mut fields = HeaderMap::new();
        fields.insert(header::HOST, value("host", &endpoint.host_header())?);
        if let Some(userinfo) = &endpoint.userinfo {
            fields.insert(header::AUTHORIZATION, value("authorization", &basic(userinfo))?);
        }
        let mut given = HeaderMap::new();
        for (name, text) in headers {
            let parsed = HeaderName::try_from(name.as_str());
            let parsed =
                parsed.map_err(|_| unusable(name, "has a name that no header can have"))?;
            if OURS.contains(&parsed) {
                return Err(unusable(name, "is set by the client itself; leave it out"));
            }
            given.append(parsed, value(name, text)?);
        }
        // What the caller sets replaces what the endpoint implies.
        fields.extend(given);
        if let Some(userinfo) = proxy.and_then(|proxy| proxy.userinfo.as_ref()) {
            fields.insert(
                header::PROXY_AUTHORIZATION,
                value("proxy-authorization", &basic(userinfo))?,
            );
        }
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut target = match proxy {
            Some(_) => format!("http://{}", endpoint.host_header()),
            None => String::new(),
        };
        target.push_str(endpoint.path.as_str());
        let mut exchange =
            Self::new(Method::POST, "/".parse().expect("it is one"), &target, &fields, body)?;
        exchange.kept_max = response_bytes_max;
        Ok(exchange)
    }

    /// Asks a proxy for a tunnel to `endpoint`.
    pub(crate) fn connect(endpoint: &Endpoint, proxy: &Endpoint) -> Result<Self, HttpError> {
        let authority = endpoint.authority();
        let mut fields = HeaderMap::new();
        fields.insert(header::HOST, value("host", &authority)?);
        if let Some(userinfo) = &proxy.userinfo {
            fields.insert(
                header::PROXY_AUTHORIZATION,
                value("proxy-authorization", &basic(userinfo))?,
            );
        }
        let uri = authority.parse::<Uri>();
        let uri = uri.map_err(|_| unusable("host", "is none that a proxy can be asked for"))?;
        Self::new(Method::CONNECT, uri, &authority, &fields, Bytes::new())
    }

    /// A request for `target` with these headers. `uri` stands for it towards ureq-proto, which gets to see neither
    /// the target nor the headers that do not concern it: it logs what it writes, and both may hold secrets.
    fn new(
        method: Method,
        uri: Uri,
        target: &str,
        fields: &HeaderMap,
        body: Bytes,
    ) -> Result<Self, HttpError> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in fields {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");

        let mut request = http::Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let framing = [header::HOST, header::CONTENT_LENGTH];
        for (name, value) in framing.iter().filter_map(|name| Some((name, fields.get(name)?))) {
            request.headers_mut().insert(name, value.clone());
        }
        let refused = |error: ureq_proto::Error| {
            HttpError::new(
                HttpErrorKind::Request,
                format!("the request cannot be written: {error}"),
            )
        };
        let mut call = Call::new(request).map_err(refused)?.proceed();
        // It reads an answer only to what it has written itself. A host's name has at most 255 bytes.
        let mut written = [0; 1024];
        while !call.can_proceed() {
            call.write(&mut written).map_err(refused)?;
        }
        // The body does not pass through ureq-proto: it need not be complete before an answer is read.
        let next = match call.proceed().map_err(refused)? {
            Some(SendRequestResult::Await100(call)) => match call.proceed().map_err(refused)? {
                Await100Result::SendBody(call) => Ok(call),
                Await100Result::RecvResponse(call) => Err(call),
            },
            Some(SendRequestResult::SendBody(call)) => Ok(call),
            Some(SendRequestResult::RecvResponse(call)) => Err(call),
            None => return Err(refused(ureq_proto::Error::OutputOverflow)),
        };
        let call = match next {
            Ok(mut call) => {
                call.consume_direct_write(body.len()).map_err(refused)?;
                call.proceed().expect("the length that the header says is written")
            }
            Err(call) => call,
        };
        Ok(Exchange {
            head,
            body,
            sent: 0,
            state: State::Head(call),
            inbox: Vec::new(),
            scanned: 0,
            parsed: 0,
            #[cfg(test)]
            parses: 0,
            head_bytes: 0,
            body_bytes: 0,
            answer: None,
            answer_seen: false,
            kept: Vec::new(),
            kept_max: 0,
            truncated: false,
        })
    }

    /// What is to be sent next; empty when all is.
    pub(crate) fn output(&self) -> &[u8] {
        match self.head.get(self.sent..) {
            Some(head) if !head.is_empty() => head,
            _ => &self.body[self.sent - self.head.len()..],
        }
    }

    pub(crate) fn sent(&mut self, count: usize) {
        debug_assert!(count <= self.output().len());
        self.sent += count;
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.head.len() + self.body.len()
    }

    pub(crate) fn answer_seen(&self) -> bool {
        self.answer_seen
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete { .. })
    }

    /// Takes the next piece of the answer. What follows a complete answer makes the connection
    /// unusable, no more.
    ///
    /// # Errors
    ///
    /// Kind [`HttpErrorKind::Protocol`]; the exchange is over then.
    pub(crate) fn receive(&mut self, input: &[u8]) -> Result<(), HttpError> {
        self.answer_seen |= !input.is_empty();
        if let State::Complete { reusable } = &mut self.state {
            *reusable &= input.is_empty();
            return Ok(());
        }
        self.inbox.extend_from_slice(input);
        self.advance()
    }

    /// The peer sends no more: the end of some answers, the loss of others.
    ///
    /// # Errors
    ///
    /// Kind [`HttpErrorKind::Closed`].
    pub(crate) fn receive_end(&mut self) -> Result<(), HttpError> {
        let what = match &self.state {
            State::Complete { .. } | State::Body(_) => {
                let is_whole = match &self.state {
                    State::Body(call) => {
                        call.body_mode() == BodyMode::CloseDelimited || call.is_ended_chunked()
                    }
                    _ => true,
                };
                self.complete(is_whole);
                return Ok(());
            }
            State::Head(_) if self.answer_seen => {
                "the server closed the connection in the middle of its answer's head"
            }
            State::Head(_) => "the server closed the connection before it answered",
            State::Failed => "the server closed the connection in the middle of its answer",
        };
        self.state = State::Failed;
        Err(HttpError::new(HttpErrorKind::Closed, what))
    }

    /// Nothing more of the answer will come: the connection broke, or time is up. Whether what came will do.
    pub(crate) fn cut_off(&mut self) -> bool {
        if matches!(self.state, State::Body(_)) {
            self.complete(false);
        }
        self.is_complete()
    }

    /// The answer ends here, and the connection with it.
    fn complete(&mut self, is_whole: bool) {
        self.truncated |= !is_whole;
        self.inbox = Vec::new();
        self.state = State::Complete { reusable: false };
    }

    /// The answer, and whether the connection is good for another exchange; none before it is complete.
    pub(crate) fn finish(self) -> Option<(Response, bool)> {
        let (State::Complete { reusable }, Some(answer)) = (&self.state, self.answer) else {
            return None;
        };
        let reusable = *reusable && self.sent == self.head.len() + self.body.len();
        let (parts, ()) = answer.into_parts();
        let (mut body, mut truncated) = (self.kept, self.truncated);
        if is_gzip(&parts.headers) {
            // One byte more than is kept tells whether there was more; a cut body is decoded as far as
            // it goes.
            let mut decoded = Vec::new();
            let limit = self.kept_max as u64 + 1;
            truncated |=
                MultiGzDecoder::new(&body[..]).take(limit).read_to_end(&mut decoded).is_err();
            truncated |= decoded.len() > self.kept_max;
            decoded.truncate(self.kept_max);
            body = decoded;
        }
        let status = parts.status.as_u16();
        Some((Response { status, headers: parts.headers, body, truncated }, reusable))
    }

    /// Each round changes the state or uses up some of the inbox, so it ends.
    fn advance(&mut self) -> Result<(), HttpError> {
        loop {
            let more = match mem::replace(&mut self.state, State::Failed) {
                State::Head(call) => self.read_head(call)?,
                State::Body(call) => self.read_body(call),
                State::Complete { reusable } => {
                    self.state = State::Complete { reusable: reusable && self.inbox.is_empty() };
                    self.inbox = Vec::new();
                    false
                }
                State::Failed => false,
            };
            if !more {
                return Ok(());
            }
        }
    }

    /// Reads an interim or the final head. Returns whether there may be more to do at once.
    fn read_head(&mut self, mut call: Call<RecvResponse>) -> Result<bool, HttpError> {
        // Line ends before a head are allowed, and parsed again and again if they stayed.
        let blank = self.inbox.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
        self.inbox.drain(..blank);
        self.head_bytes += blank;
        if blank > 0 {
            self.scanned = 0;
        }
        let end = find_head_end(&self.inbox, self.scanned);
        let length = end.unwrap_or(self.inbox.len());
        if self.head_bytes + length > HEAD_BYTES_MAX {
            let message =
                "the server's answer has headers of more than 64 KiB; is it the right port?";
            return Err(HttpError::new(HttpErrorKind::Protocol, message));
        }
        self.scanned = length;
        let due = length <= EAGER_BYTES_MAX || length >= 2 * self.parsed;
        if self.inbox.is_empty() || (end.is_none() && !due) {
            self.state = State::Head(call);
            return Ok(false);
        }
        self.parsed = length;
        #[cfg(test)]
        {
            self.parses += 1;
        }
        let (used, answer) =
            call.try_response(&self.inbox, false).map_err(|error| garbage(&error, &self.inbox))?;
        if used > 0 {
            self.inbox.drain(..used);
            self.head_bytes += used;
            (self.scanned, self.parsed) = (0, 0);
        }
        let Some(answer) = answer else {
            self.state = State::Head(call);
            // An interim head was used up: the next may be there already.
            return Ok(used > 0);
        };
        self.answer = Some(answer);
        self.state = match call.proceed().expect("an answer was given") {
            RecvResponseResult::RecvBody(call) => State::Body(call),
            RecvResponseResult::Redirect(call) => {
                State::Complete { reusable: !call.must_close_connection() }
            }
            RecvResponseResult::Cleanup(call) => {
                State::Complete { reusable: !call.must_close_connection() }
            }
        };
        Ok(true)
    }

    /// The body is not what its chunks should be: nothing of it is to be believed.
    fn break_off(&mut self) -> bool {
        self.kept = Vec::new();
        self.complete(false);
        false
    }

    /// Reads on in the body. Returns whether there may be more to do at once.
    fn read_body(&mut self, mut call: Call<RecvBody>) -> bool {
        let close_delimited = call.body_mode() == BodyMode::CloseDelimited;
        let mut position = 0;
        loop {
            let mut output = [0; 4096];
            let Ok((used, made)) = call.read(&self.inbox[position..], &mut output) else {
                return self.break_off();
            };
            position += used;
            self.body_bytes += used;
            let keep = made.min(self.kept_max - self.kept.len());
            self.kept.extend_from_slice(&output[..keep]);
            self.truncated |= keep < made;
            if !close_delimited && call.can_proceed() {
                self.inbox.drain(..position);
                let must_close = match call.proceed() {
                    Some(RecvBodyResult::Cleanup(call)) => call.must_close_connection(),
                    Some(RecvBodyResult::Redirect(call)) => call.must_close_connection(),
                    None => true,
                };
                self.state = State::Complete { reusable: !must_close };
                return true;
            }
            if self.body_bytes > BODY_BYTES_MAX {
                self.complete(false);
                return false;
            }
            if used == 0 && made == 0 {
                break;
            }
        }
        self.inbox.drain(..position);
        if self.inbox.len() > CHUNK_LINE_BYTES_MAX {
            return self.break_off();
        }
        self.state = State::Body(call);
        false
    }
}

/// Headers that say how the message is framed, or to which connection it belongs.
const OURS: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

fn unusable(name: &str, why: &str) -> HttpError {
    HttpError::new(HttpErrorKind::Request, format!("the header {name:?} {why}"))
}

fn value(name: &str, text: &str) -> Result<HeaderValue, HttpError> {
    let value = HeaderValue::try_from(text);
    value.map_err(|_| unusable(name, "has a value with line ends or control characters"))
}

/// What speaks there instead, as far as its first bytes tell: an alert of TLS, or the settings of HTTP/2.
fn garbage(error: &ureq_proto::Error, answer: &[u8]) -> HttpError {
    let message = match answer {
        [0x15, 3, ..] => {
            "the server speaks TLS on this port; should the endpoint begin with https://?"
                .to_owned()
        }
        [0, 0, _, 4, ..] => {
            "the server speaks HTTP/2 on this port, as for OTLP over gRPC; use its \
                             port for OTLP over HTTP, which is 4318 in most cases"
                .to_owned()
        }
        _ => format!("what the server answers is not HTTP/1: {error}; is it the right port?"),
    };
    HttpError::new(HttpErrorKind::Protocol, message)
}

/// The first byte behind a blank line, looking at what `bytes` has from `scanned` on.
fn find_head_end(bytes: &[u8], scanned: usize) -> Option<usize> {
    // A blank line is three bytes at most, two of which may have been there before.
    let start = scanned.saturating_sub(2);
    let ends = bytes[start..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(index, _)| start + index).find_map(|index| match &bytes[index + 1..] {
        [b'\n', ..] => Some(index + 2),
        [b'\r', b'\n', ..] => Some(index + 3),
        _ => None,
    })
}

fn is_gzip(headers: &HeaderMap) -> bool {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    encoding.is_some_and(|encoding| {
        let encoding = encoding.trim();
        encoding.eq_ignore_ascii_case("gzip") || encoding.eq_ignore_ascii_case("x-gzip")
    })
}

/// An answer in pieces of the given sizes, in turn, to a small request: what the fuzz target and the
/// tests on splitting drive. Returns status, body and whether the connection could go on.
#[doc(hidden)]
pub fn answer_in_pieces(
    answer: &[u8],
    sizes: &[u8],
) -> Result<Option<(u16, Vec<u8>, bool)>, String> {
    let endpoint =
        Endpoint::parse("http://collector/v1/traces").map_err(|error| error.to_string())?;
    let body = Bytes::from_static(b"body");
    let mut exchange =
        Exchange::post(&endpoint, None, &[], body, 1 << 10).map_err(|error| error.to_string())?;
    while !exchange.is_sent() {
        exchange.sent(exchange.output().len());
    }
    let mut rest = answer;
    let mut turns = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = turns.next().map_or(rest.len(), |&size| usize::from(size) + 1);
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        exchange.receive(piece).map_err(|error| error.to_string())?;
        let bound = HEAD_BYTES_MAX.max(CHUNK_LINE_BYTES_MAX + size);
        assert!(exchange.inbox.len() <= bound, "the inbox grows");
        assert!(exchange.kept.len() <= 1 << 10, "more of a body is kept than asked for");
        rest = behind;
    }
    if !exchange.is_complete() {
        exchange.receive_end().map_err(|error| error.to_string())?;
    }
    let finished = exchange.finish();
    Ok(finished.map(|(response, reusable)| (response.status, response.body, reusable)))
}
