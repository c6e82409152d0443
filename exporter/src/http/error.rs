//! Why a request failed, said so that a caller can decide and a person can act.

use std::fmt;

/// What went wrong, for programs; the text of [`HttpError`] is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HttpErrorKind {
    /// The endpoint, the proxy's address, a TLS file or a size is unusable: nothing will work until
    /// it is changed.
    Options,
    /// The request itself cannot be written, a header for example: the same again fails again.
    Request,
    /// The name is unknown, or its look-up did not end in time.
    Resolve,
    /// Refused, unreachable, no such socket.
    Connect,
    /// The proxy was reached, but does not let us through.
    Proxy,
    /// The handshake failed, or the certificate is not to be trusted.
    Tls,
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// No answer within `request_timeout`.
    RequestTimeout,
    /// The connection ended before the answer did.
    Closed,
    /// What came is not an answer in HTTP/1.
    Protocol,
}

/// What was wrong, where, and what to do about it.
///
/// The text never holds a header's value, nor the user or password of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpError {
    kind: HttpErrorKind,
    message: String,
    #[cfg(test)]
    answer_seen: bool,
    may_have_been_processed: bool,
}

impl HttpError {
    pub(crate) fn new(kind: HttpErrorKind, message: impl Into<String>) -> Self {
        HttpError {
            kind,
            message: message.into(),
            #[cfg(test)]
            answer_seen: false,
            may_have_been_processed: false,
        }
    }

    /// What the server may have of the request, and we of its answer.
    pub(super) fn after(mut self, request_sent: bool, answer_seen: bool) -> Self {
        #[cfg(test)]
        {
            self.answer_seen = answer_seen;
        }
        self.may_have_been_processed = request_sent || answer_seen;
        self
    }

    pub(super) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    pub(crate) fn kind(&self) -> HttpErrorKind {
        self.kind
    }

    /// Whether a byte of an answer was received.
    #[cfg(test)]
    pub(crate) fn answer_seen(&self) -> bool {
        self.answer_seen
    }

    /// Whether the server may have acted on the request: false only if it cannot have had all of it.
    pub(crate) fn may_have_been_processed(&self) -> bool {
        self.may_have_been_processed
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HttpError {}
