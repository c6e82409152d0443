//! Through a proxy in plain HTTP.

use super::*;

fn through(server: &Server, userinfo: &str, url: &str) -> ClientOptions {
    let mut options = options(url);
    let proxy = Some(format!("http://{userinfo}{}", server.address));
    options.proxy = ProxySettings { http: proxy.clone(), https: proxy, none: None };
    options.look_up = Arc::new(|_, _| panic!("the proxy looks the host up"));
    options
}

#[test]
fn plain_http_goes_through_a_proxy_in_absolute_form() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        let asked = read_request(&mut socket).unwrap();
        assert!(asked.head.starts_with("POST http://collector.test:4318/v1 HTTP/1.1\r\n"));
        assert_eq!(asked.header("host"), Some("collector.test:4318"));
        assert_eq!(asked.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
        socket.write_all(OK).unwrap();
    });
    let options = through(&server, "user:pass@", "http://collector.test:4318/v1");
    assert_eq!(Loop::new(options).post("").unwrap().status, 200);
    server.join();
}

#[test]
fn a_proxy_that_wants_a_password_for_plain_http_is_told_apart_from_the_server() {
    let answer = "HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n";
    let server = Server::answering(answer);
    let options = through(&server, "", "http://collector.test/");
    Loop::new(options).post_fails(HttpErrorKind::Proxy, "set the user and password");
    server.join();
    let server = Server::answering(answer);
    assert_eq!(Loop::to(server.address).post("").unwrap().status, 407);
    server.join();
}

#[test]
fn a_proxy_that_gives_no_tunnel_is_named_with_what_to_do() {
    for (answer, text) in [
        ("HTTP/1.1 407 Who\r\ncontent-length: 4\r\n\r\nwho?", "set the user and password"),
        ("HTTP/1.1 403 No\r\n\r\n", "does not allow this host"),
        ("HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n", "502"),
        ("", "closed the connection"),
        ("SSH-2.0", "not HTTP/1"),
    ] {
        let server = Server::answering(answer);
        let ca = super::tls::Authority::new();
        let mut options = through(&server, "u:secret@", "https://collector.test/");
        options.tls.ca_file = Some(ca.file());
        let mut client = Loop::new(options);
        let error = client.post_fails(HttpErrorKind::Proxy, text);
        assert!(error.to_string().contains(&server.address.to_string()), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!error.may_have_been_processed());
        server.join();
    }
}

#[test]
fn a_proxy_that_never_answers_costs_the_connect_timeout() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        assert!(read_request(&mut socket).is_none());
    });
    let ca = super::tls::Authority::new();
    let mut options = through(&server, "", "https://collector.test/");
    options.tls.ca_file = Some(ca.file());
    options.request_timeout = Duration::from_secs(100);
    let mut client = Loop::new(options);
    client.submit(1, "");
    client.turn();
    client.pass(Duration::from_secs(11));
    let error = client.client.finished().unwrap().1.unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::ConnectTimeout, "{error}");
    server.join();
}
