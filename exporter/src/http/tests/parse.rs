//! URLs and proxy settings.

use super::super::endpoint::{Scheme, Target};
use super::*;

#[test]
fn endpoints_are_taken_apart() {
    let address = |text: &str| Target::Address(text.parse().unwrap());
    let name = |text: &str, port| Target::Name(text.to_owned(), port);
    let socket = |text: &str| Target::Socket(text.into());
    let (http, https) = (Scheme::Http, Scheme::Https);
    for (url, scheme, target, path, host) in [
        ("http://host:4318/v1/traces", http, name("host", 4318), "/v1/traces", "host:4318"),
        (" HTTP://Host ", http, name("host", 80), "/", "host"),
        ("https://host", https, name("host", 443), "/", "host"),
        ("https://host:443/x?y=z#f", https, name("host", 443), "/x?y=z", "host"),
        ("http://u:p@host:1/", http, name("host", 1), "/", "host:1"),
        ("http://10.0.0.1:80/", http, address("10.0.0.1:80"), "/", "10.0.0.1"),
        ("https://[::1]:4318/", https, address("[::1]:4318"), "/", "[::1]:4318"),
        ("http://[fe80::1]", http, address("[fe80::1]:80"), "/", "[fe80::1]"),
        ("unix:///run/a.sock:/v1/traces", http, socket("/run/a.sock"), "/v1/traces", "localhost"),
        ("unix:///run/a.sock", http, socket("/run/a.sock"), "/", "localhost"),
        ("unix:///run/a:b.sock:/x:/y?q", http, socket("/run/a:b.sock"), "/x:/y?q", "localhost"),
    ] {
        let endpoint = Endpoint::parse(url).unwrap();
        assert_eq!((endpoint.scheme, &endpoint.target), (scheme, &target), "{url}");
        assert_eq!((endpoint.path.as_str(), &*endpoint.host_header()), (path, host), "{url}");
    }
}

#[test]
fn wrong_endpoints_are_refused_with_what_is_wrong() {
    let long = format!("unix:///{}", "x".repeat(200));
    for (url, text) in [
        ("", "is no URL"),
        ("localhost:4318", "must begin with"),
        ("ftp://host/", "must begin with"),
        ("/v1/traces", "must begin with"),
        ("http://", "is no URL"),
        ("http://:80/", ""),
        ("http://host:0/", "1 to 65535"),
        ("http://host:65536/", ""),
        ("http://host:x/", ""),
        ("http://a b/", "is no URL"),
        ("http://[::g]/", ""),
        ("unix://relative.sock:/x", "absolute path"),
        ("unix:///a.sock:/a b", "request path"),
        (&long, "107 bytes"),
    ] {
        let error = Endpoint::parse(url).unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Options);
        assert!(error.to_string().contains(text), "{url}: {error}");
    }
}

#[test]
fn no_message_holds_the_user_or_password_of_a_url() {
    for url in [
        "http://secret:secret@host:99999/",
        "ftp://secret@host/",
        "secret:secret@host",
        "http://secret@@/",
        "http://host:0/?key=secret",
        "unix://relative.sock:/x?key=secret",
    ] {
        let text = Endpoint::parse(url).unwrap_err().to_string();
        assert!(!text.contains("secret"), "{text}");
        let proxy = ProxySettings { http: Some(url.to_owned()), ..ProxySettings::default() };
        let result = proxy.proxy_for(&Endpoint::parse("http://host/").unwrap());
        assert!(!format!("{result:?}{proxy:?}").contains("secret"), "{result:?} {proxy:?}");
    }
    let endpoint = Endpoint::parse("http://secret:secret@host/path?secret").unwrap();
    assert!(!format!("{endpoint} {endpoint:?}").contains("secret"));
}

#[test]
fn exceptions_from_the_proxy() {
    for (none, url, proxied) in [
        ("", "http://host/", true),
        ("*", "http://host/", false),
        ("host", "http://host/", false),
        ("HOST", "http://Host/", false),
        ("host", "http://otherhost/", true),
        ("host", "http://sub.host/", false),
        (".example.com", "http://a.b.example.com/", false),
        (".example.com", "http://example.com/", false),
        ("*.example.com", "http://a.example.com/", false),
        (".example.com", "http://badexample.com/", true),
        ("example.com.", "http://example.com./", false),
        ("a, b,,c d", "http://d/", false),
        ("a, b,,c d", "http://e/", true),
        ("host:80", "http://host/", false),
        ("host:80", "http://host:81/", true),
        ("10.0.0.1", "http://10.0.0.1/", false),
        ("10.0.0.1", "http://10.0.0.11/", true),
        ("10.0.0.1:4318", "http://10.0.0.1:4318/", false),
        ("10.0.0.1:4318", "http://10.0.0.1:4317/", true),
        ("10.0.0.0/8", "http://10.200.0.1/", false),
        ("10.0.0.0/8", "http://11.0.0.1/", true),
        ("0.0.0.0/0", "http://11.0.0.1/", false),
        ("10.0.0.0/99", "http://10.0.0.1/", true),
        ("::/0", "http://11.0.0.1/", true),
        ("fd00::/8", "http://[fd12::1]/", false),
        ("fd00::1", "http://[fd00::1]:8080/", false),
        ("[fd00::1]:80", "http://[fd00::1]/", false),
        ("[fd00::1]:80", "http://[fd00::1]:81/", true),
        (".", "http://host/", true),
        ("", "http://localhost/", false),
        ("", "http://127.0.0.9:1/", false),
        ("", "http://[::1]/", false),
        ("", "unix:///a.sock:/", false),
    ] {
        let settings = ProxySettings {
            http: Some("proxy:3128".to_owned()),
            none: Some(none.to_owned()),
            ..ProxySettings::default()
        };
        let proxy = settings.proxy_for(&Endpoint::parse(url).unwrap()).unwrap();
        assert_eq!(proxy.is_some(), proxied, "{none:?} {url}");
    }
}

#[test]
fn proxies_are_chosen_by_scheme_and_lower_case_first() {
    let found = |variables: &[(&str, &str)], url: &str| {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxy = ProxySettings::from_variables(value).proxy_for(&Endpoint::parse(url).unwrap());
        proxy.map(|proxy| proxy.map(|proxy| proxy.authority())).map_err(|error| error.to_string())
    };
    let some = |text: &str| Ok(Some(text.to_owned()));
    let both = [("http_proxy", "http://a:1"), ("HTTP_PROXY", "b:2"), ("HTTPS_PROXY", "c")];
    assert_eq!(found(&both, "http://h/"), some("a:1"));
    assert_eq!(found(&both, "https://h/"), some("c:80"));
    assert_eq!(found(&[("HTTP_PROXY", "b:2")], "http://h/"), some("b:2"));
    assert_eq!(found(&[("HTTP_PROXY", "b:2"), ("REQUEST_METHOD", "GET")], "http://h/"), Ok(None));
    assert_eq!(found(&[("http_proxy", " ")], "http://h/"), Ok(None));
    assert_eq!(found(&[("http_proxy", "a"), ("NO_PROXY", "h")], "http://h/"), Ok(None));
    for url in ["socks5://a:1", "https://a:1"] {
        let error = found(&[("https_proxy", url)], "https://h/").unwrap_err();
        assert!(error.contains("HTTPS_PROXY") && error.contains("only proxies"), "{error}");
    }
}
