//! Where requests go: a URL taken apart once, so that what follows cannot fail on it.
//!
//! Three forms:
//! - `http://host[:port][/path][?query]`, port 80 if none is given;
//! - `https://host[:port][/path][?query]`, port 443 if none is given;
//! - `unix:///absolute/path/of.socket[:/path][?query]`: HTTP over a socket in the file system. The
//!   socket's path ends at the first `:/`; without one the request's path is `/`.
//!
//! `user:password@` before a host becomes an `Authorization` header, and is in no message.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

use super::error::{HttpError, HttpErrorKind};

/// The longest path that a socket's address holds (`sun_path` on Linux, with its zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// What a connection is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Name(String, u16),
    Address(SocketAddr),
    Socket(PathBuf),
}

/// A parsed URL. Its text leaves out user, password and query.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(super) scheme: Scheme,
    pub(super) target: Target,
    pub(super) path: PathAndQuery,
    /// The host as it stands in the URL, an IPv6 address in brackets; `localhost` for a socket.
    pub(super) host: String,
    pub(super) port: u16,
    /// `user:password`, decoded.
    pub(super) userinfo: Option<String>,
}

impl Endpoint {
    /// # Errors
    ///
    /// Kind [`HttpErrorKind::Options`]: what is wrong with `url`, without its user and password.
    pub(crate) fn parse(url: &str) -> Result<Self, HttpError> {
        let url = url.trim();
        if let Some(rest) = url.strip_prefix("unix://") {
            return Self::parse_socket(rest);
        }
        // A URL that is wrong may hold a password anywhere: only what stands behind the user is shown.
        let shown = without_userinfo(url);
        let wrong = |what: &str| {
            HttpError::new(HttpErrorKind::Options, format!("the endpoint {shown:?} {what}"))
        };
        let form = "is no URL of the form http://host:port/path or https://host:port/path";
        let uri: Uri = url.parse().map_err(|_| wrong(form))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(wrong("must begin with http://, https:// or unix://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong(form))?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        let (userinfo, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, authority.as_str()),
        };
        let port = match host_and_port.get(host.len()..).and_then(|rest| rest.strip_prefix(':')) {
            Some(port) if !port.is_empty() => {
                let number = port.parse::<u16>().ok().filter(|&port| port != 0);
                number.ok_or_else(|| wrong("has a port that is no number from 1 to 65535"))?
            }
            _ => scheme.port(),
        };
        let decoded =
            userinfo.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let target = match bare.unwrap_or(&host).parse::<IpAddr>() {
            Ok(address) => Target::Address(SocketAddr::new(address, port)),
            Err(_) if bare.is_some() => return Err(wrong("has brackets around no IPv6 address")),
            Err(_) => Target::Name(host.clone(), port),
        };
        let path = uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Endpoint { scheme, target, path, host, port, userinfo: decoded })
    }

    fn parse_socket(rest: &str) -> Result<Self, HttpError> {
        let shown = without_userinfo(&format!("unix://{rest}"));
        let wrong = |what: &str| {
            HttpError::new(HttpErrorKind::Options, format!("the endpoint {shown:?} {what}"))
        };
        let (socket, path) = match rest.find(":/") {
            Some(colon) => (&rest[..colon], &rest[colon + 1..]),
            None => (rest, "/"),
        };
        if !socket.starts_with('/') {
            return Err(wrong("must give an absolute path: unix:///path/of.socket:/v1/traces"));
        }
        if socket.len() > SOCKET_PATH_BYTES_MAX {
            return Err(wrong("has a socket path of more than 107 bytes; use a shorter one"));
        }
        let path = path.parse().map_err(|_| wrong("has a request path that no URL can have"))?;
        Ok(Endpoint {
            scheme: Scheme::Http,
            target: Target::Socket(PathBuf::from(socket)),
            path,
            host: "localhost".to_owned(),
            port: Scheme::Http.port(),
            userinfo: None,
        })
    }

    /// Scheme and host alone, for a URL whose path is a secret, too.
    pub(crate) fn origin(&self) -> String {
        match (&self.target, self.scheme) {
            (Target::Socket(socket), _) => format!("unix://{}", socket.display()),
            (_, Scheme::Http) => format!("http://{}", self.host_header()),
            (_, Scheme::Https) => format!("https://{}", self.host_header()),
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.path()
    }

    /// What of the URL is in no message, in every form in which a server gets it or may repeat it.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        if let Some(userinfo) = &self.userinfo {
            secrets.extend(basic(userinfo).split(' ').nth(1).map(str::to_owned));
            secrets.extend(userinfo.split_once(':').map(|(_, password)| password.to_owned()));
            secrets.push(userinfo.clone());
        }
        for pair in self.path.query().into_iter().flat_map(|query| query.split('&')) {
            let value = pair.split_once('=').map_or(pair, |(_, value)| value);
            secrets.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
            secrets.push(value.to_owned());
        }
        secrets
    }

    /// `host`, or `host:port` where the port is not the scheme's own: the `Host` header.
    pub(super) fn host_header(&self) -> String {
        if self.port == self.scheme.port() { self.host.clone() } else { self.authority() }
    }

    /// Always `host:port`: what CONNECT asks for.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.path();
        match (&self.target, self.scheme) {
            (Target::Socket(socket), _) => write!(f, "unix://{}:{path}", socket.display()),
            (_, Scheme::Http) => write!(f, "http://{}{path}", self.host_header()),
            (_, Scheme::Https) => write!(f, "https://{}{path}", self.host_header()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `url` without what stands before the last `@`, and without its query.
pub(crate) fn without_userinfo(url: &str) -> String {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + "://".len()),
        None => ("", url),
    };
    let query = rest.find(['?', '#']).unwrap_or(rest.len());
    let shown = match rest.rfind('@') {
        // Either a password with a `?` or `#` in it, or a query with an `@`: what of it is secret cannot be told.
        Some(at) if at > query => "\u{2026}",
        Some(at) => &rest[at + 1..query],
        None => &rest[..query],
    };
    format!("{scheme}{shown}")
}

/// The value of a header for "Basic" authentication.
pub(super) fn basic(userinfo: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // A user alone has an empty password.
    let colon = if userinfo.contains(':') { "" } else { ":" };
    let bytes = [userinfo.as_bytes(), colon.as_bytes()].concat();
    let mut text = String::from("Basic ");
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = word >> (18 - 6 * digit) & 63;
            text.push(if digit > group.len() { '=' } else { DIGITS[index as usize].into() });
        }
    }
    text
}
