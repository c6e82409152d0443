//! Whether requests go through a proxy, and through which.
//!
//! The rules are those of most clients: `https_proxy` for `https://`, `http_proxy` for `http://`, and
//! `no_proxy` for exceptions, each in lower case or else in upper case. `HTTP_PROXY` is not read where
//! `REQUEST_METHOD` is set: in a CGI program it holds a header that a stranger sent.
//!
//! An entry of `no_proxy`, separated by commas or blanks, is `*` (everything), a host with all its
//! subdomains (`example.com`, `.example.com` and `*.example.com` mean the same), an IP address or a
//! range of them (`10.0.0.0/8`), each but the last with or without a port. `localhost` and loopback
//! addresses never go through a proxy, nor do sockets in the file system.
//!
//! The proxy itself is spoken to in plain HTTP: `http://[user:password@]host[:port]`.

use std::fmt;
use std::net::IpAddr;

use super::endpoint::{Endpoint, Scheme, Target, without_userinfo};
use super::error::{HttpError, HttpErrorKind};

/// The settings as they were found, not looked at yet.
#[derive(Clone, Default)]
pub(crate) struct ProxySettings {
    pub(crate) https: Option<String>,
    pub(crate) http: Option<String>,
    pub(crate) none: Option<String>,
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<String>| url.as_deref().map(without_userinfo);
        f.debug_struct("ProxySettings")
            .field("https", &shown(&self.https))
            .field("http", &shown(&self.http))
            .field("none", &self.none)
            .finish()
    }
}

impl ProxySettings {
    /// Reads the environment, on the thread of whoever asked for what uses it.
    pub(crate) fn of_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads them through `variable`, which gives an environment variable's value.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| {
            let found = variable(name).or_else(|| variable(&name.to_ascii_uppercase()));
            found.filter(|value| !value.trim().is_empty())
        };
        let mut settings = ProxySettings {
            https: value("https_proxy"),
            http: value("http_proxy"),
            none: value("no_proxy"),
        };
        if variable("REQUEST_METHOD").is_some() {
            settings.http = variable("http_proxy").filter(|value| !value.trim().is_empty());
        }
        settings
    }

    /// The proxy for `endpoint`, if it needs one.
    ///
    /// # Errors
    ///
    /// The proxy's URL is wrong, or of a kind that is not supported.
    pub(super) fn proxy_for(&self, endpoint: &Endpoint) -> Result<Option<Endpoint>, HttpError> {
        let (name, url) = match endpoint.scheme {
            Scheme::Https => ("HTTPS_PROXY", &self.https),
            Scheme::Http => ("HTTP_PROXY", &self.http),
        };
        let Some(url) = url else { return Ok(None) };
        if self.is_exempt(endpoint) {
            return Ok(None);
        }
        let url = url.trim();
        let wrong = |what: &str| {
            let shown = without_userinfo(url);
            HttpError::new(HttpErrorKind::Options, format!("{name} is {shown:?}: {what}"))
        };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        match full.split_once("://").map(|(scheme, _)| scheme) {
            Some("http") => {}
            _ => return Err(wrong("only proxies of the form http://host:port are supported")),
        }
        let proxy = Endpoint::parse(&full);
        proxy.map(Some).map_err(|_| wrong("it is no URL of the form http://host:port"))
    }

    fn is_exempt(&self, endpoint: &Endpoint) -> bool {
        let address = match &endpoint.target {
            Target::Socket(_) => return true,
            Target::Address(address) => Some(address.ip()),
            Target::Name(..) => None,
        };
        if address.is_some_and(|address| address.is_loopback()) || endpoint.host == "localhost" {
            return true;
        }
        let entries = self.none.as_deref().unwrap_or_default();
        let mut entries = entries.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        entries.any(|entry| matches(entry, &endpoint.host, address, endpoint.port))
    }
}

fn matches(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let (name, wanted_port) = split_port(entry);
    if wanted_port.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Some(address) = address {
        return match name.split_once('/') {
            Some((range, bits)) => is_in_range(address, range, bits),
            None => name.parse() == Ok(address),
        };
    }
    let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let Some(rest) = host.strip_suffix(&name) else { return false };
    !name.is_empty() && (rest.is_empty() || rest.ends_with('.'))
}

/// An entry's host, without brackets, and its port, if it has one.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((address, rest)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.rsplit_once(':') {
        // More than one colon is an IPv6 address without brackets.
        Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => {
            (host, port.parse().ok())
        }
        _ => (entry, None),
    }
}

fn is_in_range(address: IpAddr, range: &str, bits: &str) -> bool {
    let (Ok(range), Ok(bits)) = (range.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    // Both as the top bits of a word, so that one shift compares either kind.
    let (left, right, width) = match (address, range) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (left ^ right).checked_shr(width - bits).unwrap_or(0) == 0
}
