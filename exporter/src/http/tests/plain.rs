//! Over TCP and Unix sockets, without TLS.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn a_request_and_its_answer() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        let asked = read_request(&mut socket).unwrap();
        assert!(asked.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", asked.head);
        let port = listener.local_addr().unwrap().port();
        assert_eq!(asked.header("host"), Some(&*format!("127.0.0.1:{port}")));
        assert_eq!(asked.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(asked.body, b"spans");
        socket
            .write_all(b"HTTP/1.1 202 Accepted\r\nX-Seen: yes\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
    });
    let mut client = Loop::to(server.address);
    let response = client.post("spans").unwrap();
    assert_eq!((response.status, &*response.body, response.truncated), (202, &b"ok"[..], false));
    assert_eq!(response.headers["x-seen"], "yes");
    server.join();
}

#[test]
fn an_empty_body_has_a_length() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        assert_eq!(read_request(&mut socket).unwrap().header("content-length"), Some("0"));
        socket.write_all(OK).unwrap();
    });
    assert_eq!(Loop::to(server.address).post("").unwrap().status, 200);
    server.join();
}

#[test]
fn a_refused_connection_fails_and_nothing_was_processed() {
    let address = unused_address();
    let mut client = Loop::to(address);
    let error = client.post_fails(HttpErrorKind::Connect, "refused");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(!error.may_have_been_processed() && !error.answer_seen());
    assert_eq!(client.open_sockets(), 0);
}

#[test]
fn the_next_address_is_tried_after_a_failure() {
    let server = Server::answering(OK);
    let (dead, good) = (unused_address(), server.address);
    let mut options = options("http://collector.test/");
    options.look_up = Arc::new(move |_, _| Ok(vec![dead, good]));
    assert_eq!(Loop::new(options).post("").unwrap().status, 200);
    server.join();
}

/// A listener whose queue is full, so that no connection to it is made.
fn deaf() -> (TcpListener, Vec<std::net::TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // SAFETY: an open listener; this only makes its queue as short as can be.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let mut waiting = Vec::new();
    while let Ok(socket) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        waiting.push(socket);
        assert!(waiting.len() < 100, "the queue does not fill");
    }
    (listener, waiting)
}

#[test]
fn the_next_address_is_tried_beside_one_that_does_not_answer() {
    let (listener, _waiting) = deaf();
    let server = Server::answering(OK);
    let (dead, good) = (listener.local_addr().unwrap(), server.address);
    let mut options = options("http://collector.test/");
    options.look_up = Arc::new(move |_, _| Ok(vec![dead, good]));
    let mut client = Loop::new(options);
    client.submit(1, "");
    client.turn_until(|client| client.addresses().is_some());
    assert_eq!(client.open_sockets(), 1);
    client.pass(Duration::from_millis(250));
    assert_eq!(client.open_sockets(), 2);
    assert_eq!(client.next().1.unwrap().status, 200);
    server.join();
}

#[test]
fn connecting_ends_with_its_timeout() {
    let (listener, _waiting) = deaf();
    let mut client = Loop::to(listener.local_addr().unwrap());
    client.submit(1, "");
    client.pass(Duration::from_secs(9));
    assert!(client.client.finished().is_none());
    client.pass(Duration::from_secs(2));
    let error = client.client.finished().unwrap().1.unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::ConnectTimeout, "{error}");
    assert!(!error.may_have_been_processed());
    assert_eq!((client.open_sockets(), client.client.in_flight()), (0, 0));
}

#[test]
fn a_server_that_never_answers_costs_the_request_timeout() {
    let (asked, was_asked) = mpsc::channel();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        asked.send(()).unwrap();
        assert!(read_request(&mut socket).is_none());
    });
    let mut client = Loop::to(server.address);
    client.submit(1, "body");
    while was_asked.try_recv().is_err() {
        client.turn_within(Duration::from_millis(5));
    }
    client.pass(Duration::from_secs(9));
    assert!(client.client.finished().is_none());
    client.pass(Duration::from_secs(2));
    let error = client.client.finished().unwrap().1.unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::RequestTimeout, "{error}");
    assert!(error.may_have_been_processed() && !error.answer_seen());
    server.join();
}

#[test]
fn a_reset_at_every_stage_is_reported_as_closed() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    for sent in [0, 1, 20, head.len() - 1] {
        let server = Server::start(move |listener| {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(&head[..sent]).unwrap();
            reset_when_closed(&socket);
        });
        let error = Loop::to(server.address).post("body").unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Closed, "{sent}: {error}");
        assert!(error.may_have_been_processed());
        // A reset may overtake bytes that were sent before it.
        assert!(sent > 0 || !error.answer_seen());
        server.join();
    }
}

#[test]
fn a_reset_before_all_was_sent_means_that_nothing_was_processed() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        socket.read_exact(&mut [0; 1000]).unwrap();
        reset_when_closed(&socket);
    });
    let error = Loop::to(server.address).post(vec![0; 32 << 20]).unwrap_err();
    assert_eq!(error.kind(), HttpErrorKind::Closed, "{error}");
    assert!(!error.may_have_been_processed() && !error.answer_seen());
    server.join();
}

#[test]
fn a_half_closed_connection_is_closed_unless_the_answer_has_its_head() {
    // Whether the body was cut, where there is an answer.
    let texts: [(&[u8], Option<bool>); 6] = [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\ncontent-le", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal", Some(true)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhal", Some(true)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhal", Some(false)),
        (b"HTTP/1.1 200 OK\r\n\r\nhal", Some(false)),
    ];
    for (text, cut) in texts {
        let server = Server::start(move |listener| {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(text).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(read_request(&mut socket).is_none());
        });
        let mut client = Loop::to(server.address);
        match client.post("body") {
            Ok(response) => {
                assert_eq!((Some(response.truncated), &*response.body), (cut, &b"hal"[..]));
                assert!(cut == Some(false) || client.open_sockets() == 0);
            }
            Err(error) => {
                assert_eq!(cut, None, "{error}");
                assert_eq!(error.kind(), HttpErrorKind::Closed, "{error}");
                assert_eq!(error.answer_seen(), !text.is_empty());
                let place = if text.is_empty() { "before it answered" } else { "in the middle" };
                assert!(error.to_string().contains(place), "{error}");
            }
        }
        drop(client);
        server.join();
    }
}

#[test]
fn a_body_that_breaks_is_an_answer_all_the_same() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n";
    for broken in ["zz\r\n".to_owned(), "0".repeat(20 << 10), "2\r\ncdef\r\n".to_owned()] {
        let server = Server::start(move |listener| {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            let _ = socket.write_all(format!("{chunked}{broken}").as_bytes());
            std::io::copy(&mut socket, &mut std::io::sink()).ok();
        });
        let mut client = Loop::to(server.address);
        let response = client.post("").unwrap();
        assert_eq!((response.status, response.truncated), (200, true));
        assert!(response.body.is_empty());
        assert_eq!(client.open_sockets(), 0);
        server.join();
    }
}

#[test]
fn a_reset_in_the_body_is_an_answer_all_the_same() {
    let (go, may_go) = mpsc::channel();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\nhalf").unwrap();
        // A reset may overtake what was sent before it.
        may_go.recv().unwrap();
        reset_when_closed(&socket);
    });
    let mut client = Loop::to(server.address);
    client.submit(1, "body");
    client.turn_until(|client| client.is_answering());
    go.send(()).unwrap();
    let response = client.next().1.unwrap();
    assert_eq!((response.status, response.truncated), (503, true));
    server.join();
}

#[test]
fn a_body_that_does_not_end_in_time_is_an_answer_all_the_same() {
    let (go, may_go) = mpsc::channel::<()>();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").unwrap();
        may_go.recv().unwrap();
    });
    let mut client = Loop::to(server.address);
    client.submit(1, "body");
    client.turn_until(|client| client.is_answering());
    client.pass(Duration::from_secs(11));
    let (id, result) = client.client.finished().unwrap();
    let response = result.unwrap();
    assert_eq!((id, response.status, response.truncated), (1, 200, true));
    assert_eq!((client.open_sockets(), client.client.in_flight()), (0, 0));
    go.send(()).unwrap();
    server.join();
}

#[test]
fn a_slow_reader_gets_all_of_a_large_body() {
    let body: Vec<u8> = (0..8 << 20).map(|index: usize| (index % 251) as u8).collect();
    let expected = body.clone();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        assert_eq!(read_request(&mut socket).unwrap().body, expected);
        socket.write_all(OK).unwrap();
    });
    let mut client = Loop::to(server.address);
    client.submit(1, body);
    let mut turns = 0;
    let response = loop {
        turns += client.turn();
        if let Some((_, result)) = client.client.finished() {
            break result.unwrap();
        }
    };
    assert_eq!(response.status, 200);
    assert!(turns > 1, "the body went out in one write: this tests nothing");
    server.join();
}

#[test]
fn an_answer_may_come_before_the_request_is_sent() {
    let (go, may_go) = mpsc::channel();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        socket.read_exact(&mut [0; 100]).unwrap();
        socket.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").unwrap();
        // Nothing more is read, or all of the request might be sent before the answer is looked at.
        may_go.recv().unwrap();
    });
    let mut client = Loop::to(server.address);
    assert_eq!(client.post(vec![0; 64 << 20]).unwrap().status, 413);
    // The client closes: the rest of the body has no use.
    assert_eq!(client.open_sockets(), 0);
    go.send(()).unwrap();
    server.join();
}

#[test]
fn an_answer_is_read_even_if_the_rest_of_the_request_is_refused() {
    let (asked, was_asked) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        socket.read_exact(&mut [0; 100]).unwrap();
        asked.send(()).unwrap();
        may_go.recv().unwrap();
        // Closed with unread bytes, the connection is reset: writing fails from now on.
        socket.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let mut client = Loop::to(server.address);
    client.submit(1, vec![0; 64 << 20]);
    while was_asked.try_recv().is_err() {
        client.turn_within(Duration::from_millis(5));
    }
    go.send(()).unwrap();
    server.join();
    assert_eq!(client.next().1.unwrap().status, 413);
}

#[test]
fn an_answer_may_come_byte_by_byte() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        socket.set_nodelay(true).unwrap();
        read_request(&mut socket).unwrap();
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        for byte in text {
            socket.write_all(&[*byte]).unwrap();
        }
        assert!(read_request(&mut socket).is_none());
    });
    let mut client = Loop::to(server.address);
    assert_eq!(client.post("").unwrap().body, b"abcde");
    assert_eq!(client.open_sockets(), 1);
    drop(client);
    server.join();
}

#[test]
fn what_is_no_http_is_refused_at_once() {
    for (text, said) in [
        ("SSH-2.0-OpenSSH_9.6\r\n", "not HTTP/1"),
        ("HTTP/3 200\r\n\r\n", "not HTTP/1"),
        ("\x15\x03\x01\0\x02\x02\n", "speaks TLS"),
        ("\0\0\x06\x04\0\0\0\0\0", "speaks HTTP/2"),
    ] {
        let server = Server::start(move |listener| {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(text.as_bytes()).unwrap();
            assert!(read_request(&mut socket).is_none());
        });
        let mut client = Loop::to(server.address);
        let error = client.post_fails(HttpErrorKind::Protocol, said);
        assert!(error.answer_seen());
        server.join();
    }
}

#[test]
fn endless_headers_are_refused() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\nx-long: ").unwrap();
        while socket.write_all(&[b'a'; 1000]).is_ok() {}
    });
    let mut client = Loop::to(server.address);
    client.post_fails(HttpErrorKind::Protocol, "64 KiB");
    assert_eq!(client.open_sockets(), 0);
    server.join();
}

#[test]
fn interim_answers_are_skipped() {
    let server = Server::answering(
        [&b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"[..], OK]
            .concat(),
    );
    assert_eq!(Loop::to(server.address).post("").unwrap().body, b"ok");
    server.join();
}

#[test]
fn a_body_with_gzip_is_decoded_within_its_bound() {
    let large = vec![b'x'; 5 << 20];
    let cases = [
        (gzip(b"partial success"), 15, false),
        (gzip(&large), 64 << 10, true),
        (b"none".to_vec(), 0, true),
    ];
    for (body, length, truncated) in cases {
        let server = Server::answering(answer("content-encoding: gzip\r\n", &body));
        let response = Loop::to(server.address).post("").unwrap();
        assert_eq!((response.body.len(), response.truncated), (length, truncated));
        assert!(response.body.capacity() < 1 << 20, "more was decoded than is kept");
        server.join();
    }
}

#[test]
fn a_large_body_is_cut_and_the_connection_kept() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        for _ in 0..2 {
            read_request(&mut socket).unwrap();
            socket.write_all(&answer("", &vec![b'x'; 500_000])).unwrap();
        }
    });
    let mut client = Loop::to(server.address);
    for _ in 0..2 {
        let response = client.post("").unwrap();
        assert_eq!((response.body.len(), response.truncated), (64 << 10, true));
    }
    server.join();
}

#[test]
fn a_huge_body_costs_the_connection_but_not_the_answer() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 1000000000000\r\n\r\n").unwrap();
        while socket.write_all(&[b'x'; 10_000]).is_ok() {}
    });
    let mut client = Loop::to(server.address);
    let response = client.post("").unwrap();
    assert_eq!((response.status, response.body.len(), response.truncated), (503, 64 << 10, true));
    assert_eq!(client.open_sockets(), 0);
    server.join();
}

#[test]
fn a_redirect_is_an_answer() {
    let server = Server::answering(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://elsewhere/\r\ncontent-length: 2\r\n\r\nno",
    );
    let response = Loop::to(server.address).post("").unwrap();
    assert_eq!((response.status, &*response.body), (307, &b"no"[..]));
    assert_eq!(response.headers["location"], "http://elsewhere/");
    server.join();
}

#[test]
fn many_requests_use_one_connection() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        drop(listener);
        for index in 0..20 {
            assert_eq!(read_request(&mut socket).unwrap().body, [index]);
            socket.write_all(OK).unwrap();
        }
        assert!(read_request(&mut socket).is_none());
    });
    let mut client = Loop::to(server.address);
    for index in 0..20 {
        assert_eq!(client.post(vec![index]).unwrap().status, 200);
        assert_eq!(client.open_sockets(), 1);
    }
    drop(client);
    server.join();
}

#[test]
fn a_connection_is_not_kept_where_the_answer_forbids_it() {
    for text in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
    ] {
        let server = Server::start(move |listener| {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(text.as_bytes()).unwrap();
            assert!(read_request(&mut socket).is_none());
        });
        let mut client = Loop::to(server.address);
        assert_eq!(client.post("").unwrap().body, b"ok");
        assert_eq!(client.open_sockets(), 0, "{text}");
        server.join();
    }
}

/// A server that answers so that the client keeps the connection, and closes it when it is told to.
fn closing_server(connections: usize) -> (Server, mpsc::Sender<()>) {
    let (close, may_close) = mpsc::channel();
    let server = Server::start(move |listener| {
        for _ in 0..connections {
            let mut socket = listener.accept().unwrap().0;
            read_request(&mut socket).unwrap();
            socket.write_all(OK).unwrap();
            may_close.recv().unwrap();
        }
    });
    (server, close)
}

#[test]
fn an_idle_connection_that_the_server_closes_is_dropped_by_the_event() {
    let (server, close) = closing_server(1);
    let mut client = Loop::to(server.address);
    client.post("").unwrap();
    assert_eq!(client.open_sockets(), 1);
    close.send(()).unwrap();
    client.turn_until(|client| client.descriptors().open().is_empty());
    assert_eq!(client.client.deadline(), None);
    server.join();
}

#[test]
fn an_idle_connection_that_the_server_closed_is_replaced_without_an_event() {
    let (server, close) = closing_server(2);
    let mut client = Loop::to(server.address);
    client.post("").unwrap();
    let old = client.client.descriptors().open()[0];
    close.send(()).unwrap();
    // Until the end of the stream is there, without the event loop hearing of it.
    let mut byte = 0u8;
    // SAFETY: an open socket, and a buffer of one byte; nothing is taken from the socket.
    while unsafe { libc::recv(old, (&raw mut byte).cast(), 1, libc::MSG_PEEK) } != 0 {
        std::thread::yield_now();
    }
    assert_eq!(client.post("").unwrap().status, 200);
    close.send(()).unwrap();
    server.join();
}

#[test]
fn a_connection_that_ends_together_with_its_answer_is_not_kept() {
    let (asked, was_asked) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        asked.send(()).unwrap();
        may_go.recv().unwrap();
        socket.write_all(OK).unwrap();
    });
    let mut client = Loop::to(server.address);
    client.submit(1, "");
    while was_asked.try_recv().is_err() {
        client.turn_within(Duration::from_millis(5));
    }
    go.send(()).unwrap();
    // Answer and end are there before the client looks: one event for both.
    server.join();
    assert_eq!(client.next().1.unwrap().status, 200);
    assert_eq!(client.open_sockets(), 0);
}

#[test]
fn a_request_lost_on_a_used_connection_is_reported_as_closed() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(OK).unwrap();
        read_request(&mut socket).unwrap();
    });
    let mut client = Loop::to(server.address);
    client.post("").unwrap();
    let error = client.post_fails(HttpErrorKind::Closed, "used before");
    assert!(!error.answer_seen());
    server.join();
}

#[test]
fn an_idle_connection_is_closed_when_its_time_is_over() {
    let server = Server::start(|listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(OK).unwrap();
        assert!(read_request(&mut socket).is_none());
    });
    let mut client = Loop::to(server.address);
    client.post("").unwrap();
    client.pass(Duration::from_secs(59));
    assert_eq!(client.open_sockets(), 1);
    client.pass(Duration::from_secs(2));
    assert_eq!((client.open_sockets(), client.client.deadline()), (0, None));
    server.join();
}

#[test]
fn a_pool_of_two_carries_two_requests_at_a_time() {
    let server = Server::start(|listener| {
        let mut sockets = [listener.accept().unwrap().0, listener.accept().unwrap().0];
        // Both have asked before either is answered.
        let bodies = sockets.each_mut().map(|socket| read_request(socket).unwrap().body);
        for (socket, body) in sockets.iter_mut().zip(&bodies).rev() {
            socket.write_all(&answer("", body)).unwrap();
        }
    });
    let mut client = Loop::to(server.address);
    client.submit(1, "one");
    assert!(client.client.can_submit());
    client.submit(2, "two");
    assert!(!client.client.can_submit());
    assert_eq!(client.client.in_flight(), 2);
    let refused = Request { id: 3, headers: Vec::new(), body: Bytes::new() };
    assert_eq!(client.client.submit(refused, Instant::now()).unwrap_err().id, 3);
    let mut answers = [client.next(), client.next()].map(|(id, result)| (id, result.unwrap().body));
    answers.sort();
    assert_eq!(answers, [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    server.join();
}

#[test]
fn a_unix_socket_carries_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let mut socket = listener.accept().unwrap().0;
        let asked = read_request(&mut socket).unwrap();
        assert!(asked.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(asked.header("host"), Some("localhost"));
        socket.write_all(OK).unwrap();
    });
    let url = format!("unix://{}:/v1/traces", path.display());
    assert_eq!(Loop::new(options(&url)).post("").unwrap().status, 200);
    thread.join().unwrap();
    drop(folder);
    Loop::new(options(&url)).post_fails(HttpErrorKind::Connect, "agent.sock");
}

#[test]
fn a_header_that_no_request_can_have_is_named_without_its_value() {
    let mut client = Loop::to(unused_address());
    for (name, text) in [("x-key", "secret\r\n"), ("x y", "secret"), ("content-length", "secret")] {
        let headers = vec![(name.to_owned(), text.to_owned())];
        let request = Request { id: 1, headers, body: Bytes::new() };
        client.client.submit(request, Instant::now()).unwrap();
        let error = client.client.finished().unwrap().1.unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Request);
        assert!(
            error.to_string().contains(name) && !error.to_string().contains("secret"),
            "{error}"
        );
    }
    assert_eq!(client.open_sockets(), 0);
}

#[test]
fn a_closed_socket_reports_nothing_though_a_fork_child_has_it_open() {
    let (go, may_go) = mpsc::channel();
    let server = Server::start(move |listener| {
        let mut socket = listener.accept().unwrap().0;
        read_request(&mut socket).unwrap();
        socket.write_all(OK).unwrap();
        may_go.recv().unwrap();
        socket.write_all(b"x").unwrap();
    });
    let mut client = Loop::to(server.address);
    client.post("").unwrap();
    let [descriptor] = client.client.descriptors().open()[..] else { panic!("one socket is open") };
    // SAFETY: the descriptor is open, and its copy is owned by what is made of it.
    let _child = unsafe { OwnedFd::from_raw_fd(libc::dup(descriptor)) };
    client.client.close_idle();
    go.send(()).unwrap();
    server.join();
    assert_eq!(client.turn_within(Duration::ZERO), 0);
}
