//! The head of a request, as far as it matters here.

/// Bytes that a head may have.
pub(crate) const HEAD_BYTES_MAX: usize = 8 << 10;
/// Header fields that a head may have.
const FIELDS_MAX: usize = 64;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// GET or HEAD; nothing else is answered.
    pub(crate) method: Method,
    pub(crate) path: Path,
    /// Whether the client calls this server by a name other than `localhost`. In a browser a page from anywhere can have its
    /// own name stand for 127.0.0.1, and would then read what a server there says.
    pub(crate) by_name: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Page,
    Health,
    Metrics,
    Config,
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// More is to come.
    Partial,
    Whole(Request),
    /// To be refused with this status.
    Wrong(u16),
}

/// What `head` says, whose last `new` bytes have not been looked at yet.
pub(crate) fn parse(head: &[u8], new: usize) -> Parsed {
    // Not before its end is there: each byte is parsed once, however slowly they come. Empty lines before it are none.
    let before = head.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let recent = &head[before.max(head.len().saturating_sub(new + 3))..];
    let has_end = recent.windows(2).any(|end| end == b"\n\n")
        || recent.windows(3).any(|end| end == b"\n\r\n");
    if !has_end {
        return if head.len() < HEAD_BYTES_MAX { Parsed::Partial } else { Parsed::Wrong(431) };
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Parsed::Wrong(431),
        Err(httparse::Error::Version) => return Parsed::Wrong(505),
        // With an end there is no more to come.
        Ok(httparse::Status::Partial) | Err(_) => return Parsed::Wrong(400),
    }
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        _ => Method::Other,
    };
    let path = parsed.path.unwrap_or("");
    let path = match path.split_once('?').map_or(path, |(path, _query)| path) {
        "/" => Path::Page,
        "/health" | "/health/tracing" => Path::Health,
        "/metrics" => Path::Metrics,
        "/config" => Path::Config,
        _ => Path::Unknown,
    };
    let mut hosts = parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    Parsed::Whole(Request { method, path, by_name: hosts.any(|host| !is_address(host.value)) })
}

/// Whether a host is an IP address or `localhost`, with a port or without.
fn is_address(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let host = host.trim();
    let (name, port) = match host.rsplit_once(':') {
        // In brackets there is no port.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    port.bytes().all(|byte| byte.is_ascii_digit())
        && (bare.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(head: &str) -> Parsed {
        parse(head.as_bytes(), head.len())
    }

    #[test]
    fn heads_are_understood() {
        let get = |path, by_name| Parsed::Whole(Request { method: Method::Get, path, by_name });
        assert_eq!(whole("GET / HTTP/1.0\r\n\r\n"), get(Path::Page, false));
        assert_eq!(whole("GET /health HTTP/1.1\nhost: x\n\n"), get(Path::Health, true));
        assert_eq!(whole("GET /health/tracing?now HTTP/1.1\r\n\r\n"), get(Path::Health, false));
        assert_eq!(
            whole("GET /metrics HTTP/1.1\r\nHOST: [::1]:80\r\n\r\n"),
            get(Path::Metrics, false)
        );
        assert_eq!(
            whole("GET /config HTTP/1.1\r\nHost: LocalHost:80\r\n\r\n"),
            get(Path::Config, false)
        );
        assert_eq!(whole("GET http://h/ HTTP/1.1\r\n\r\n"), get(Path::Unknown, false));
        assert_eq!(whole("GET /../health HTTP/1.1\r\n\r\n"), get(Path::Unknown, false));
        let post = Request { method: Method::Other, path: Path::Page, by_name: false };
        assert_eq!(whole("POST / HTTP/1.1\r\n\r\nbody"), Parsed::Whole(post));
        for (host, by_name) in [
            ("127.0.0.1", false),
            ("127.0.0.1:80", false),
            ("::1", true),
            ("[::1]", false),
            ("localhost.evil.org", true),
            ("127.0.0.1.evil.org:80", true),
            ("evil.org", true),
            ("", true),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(whole(&head), get(Path::Page, by_name), "{host}");
        }
        let twice = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.org\r\n\r\n";
        assert_eq!(whole(twice), get(Path::Page, true));
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        assert_eq!(whole("nonsense\r\n\r\n"), Parsed::Wrong(400));
        assert_eq!(whole("GET / HTTP/3.0\r\n\r\n"), Parsed::Wrong(505));
        assert_eq!(whole("GET / HTTP/1.1\r\n"), Parsed::Partial);
        assert_eq!(whole(&"x".repeat(HEAD_BYTES_MAX)), Parsed::Wrong(431));
        let fields = "a: b\r\n".repeat(FIELDS_MAX + 1);
        assert_eq!(whole(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), Parsed::Wrong(431));
        assert_eq!(whole(&"\r\n".repeat(HEAD_BYTES_MAX / 2)), Parsed::Wrong(431));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_is_the_same_in_pieces(
            head in prop_oneof![
                "(GET|HEAD|X) /(health|metrics|) HTTP/1\\.[01]\r?\n(Host: [a-z.:0-9]{0,9}\r?\n){0,3}\r?\n",
                "[ -~\r\n]{0,200}",
            ],
            cuts in prop::collection::vec(1usize..9, 1..200),
        ) {
            let bytes = head.as_bytes();
            let mut seen = 0;
            let mut cuts = cuts.into_iter().chain(std::iter::repeat(9));
            let pieces = loop {
                let new = cuts.next().unwrap().min(bytes.len() - seen);
                seen += new;
                let parsed = parse(&bytes[..seen], new);
                if parsed != Parsed::Partial || seen == bytes.len() {
                    break parsed;
                }
            };
            // Behind the end of a head, more does not change it.
            prop_assert_eq!(pieces, parse(&bytes[..seen], seen));
        }
    }
}
