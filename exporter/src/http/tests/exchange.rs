//! The protocol alone, without sockets.

use proptest::prelude::*;

use super::super::exchange::{Exchange, answer_in_pieces};
use super::*;

const ANSWERS: [&str; 9] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n",
    "\r\n\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "HTTP/1.1 307 Moved\r\nlocation: /x\r\ncontent-length: 4\r\n\r\nmore",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and surplus",
    "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno!",
];

#[test]
fn answers_are_read_as_they_are_meant() {
    let read: Vec<_> = ANSWERS
        .iter()
        .map(|text| answer_in_pieces(text.as_bytes(), &[]).unwrap().unwrap())
        .map(|(status, body, reusable)| (status, String::from_utf8(body).unwrap(), reusable))
        .collect();
    let expected = [
        (200, "hello", true),
        (200, "hello!", true),
        (200, "until the end", false),
        (204, "", true),
        (503, "", true),
        (200, "ok", true),
        (307, "more", true),
        (200, "ok", false),
        (413, "no!", false),
    ];
    assert_eq!(read, expected.map(|(status, body, reusable)| (status, body.to_owned(), reusable)));
}

proptest! {
    #[test]
    fn an_answer_reads_the_same_however_it_is_split(
        index in 0..ANSWERS.len(),
        cut in 0usize..200,
        sizes in prop::collection::vec(0u8..40, 1..20),
    ) {
        // Whole, and cut off anywhere.
        let text = ANSWERS[index].as_bytes();
        let text = &text[..text.len().saturating_sub(cut.saturating_sub(100))];
        prop_assert_eq!(answer_in_pieces(text, &sizes), answer_in_pieces(text, &[]));
    }

    #[test]
    fn any_bytes_are_refused_or_read_but_never_a_panic(
        text in prop::collection::vec(any::<u8>(), 0..300),
        sizes in prop::collection::vec(any::<u8>(), 0..5),
        start in 0..ANSWERS.len(),
    ) {
        let _ = answer_in_pieces(&text, &sizes);
        let _ = answer_in_pieces(&[ANSWERS[start].as_bytes(), &text].concat(), &sizes);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = answer_in_pieces(&[&chunked[..], &text].concat(), &sizes);
    }
}

#[test]
fn heads_are_bounded_in_whatever_form_they_never_end() {
    let flood = |start: &str, more: &str| {
        let mut text = start.to_owned();
        while text.len() < 200 << 10 {
            text.push_str(more);
        }
        answer_in_pieces(text.as_bytes(), &[255])
    };
    let refused = |start: &str, more: &str| flood(start, more).unwrap_err();
    assert!(refused("", "\r\n").contains("64 KiB"));
    assert!(refused("", "HTTP/1.1 100 Continue\r\n\r\n").contains("64 KiB"));
    assert!(refused("HTTP/1.1 200 OK\r\nx: ", "y").contains("64 KiB"));
    assert!(refused("HTTP/1.1 200 OK\r\n", "x: y\r\n").contains("not HTTP/1"));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cut = Ok(Some((200, Vec::new(), false)));
    assert_eq!(flood(chunked, "0"), cut);
    assert_eq!(flood(&format!("{chunked}0\r\nx: "), "y"), cut);
}

#[test]
fn endless_trailers_end_with_the_bound_of_the_body() {
    let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n".to_owned();
    text.push_str(&"x: y\r\n".repeat(400_000));
    assert_eq!(answer_in_pieces(text.as_bytes(), &[]), Ok(Some((200, Vec::new(), false))));
}

#[test]
fn a_large_head_in_single_bytes_is_not_parsed_for_each_of_them() {
    let endpoint = Endpoint::parse("http://collector/").unwrap();
    let mut exchange = Exchange::post(&endpoint, None, &[], Bytes::new(), 0).unwrap();
    let text = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(60_000));
    for byte in text.as_bytes() {
        exchange.receive(&[*byte]).unwrap();
    }
    assert!(exchange.is_complete());
    assert!(exchange.parses < 5000, "parsed {} times", exchange.parses);
}

fn head(url: &str, proxy: Option<&str>, headers: &[(&str, &str)]) -> String {
    let endpoint = Endpoint::parse(url).unwrap();
    let proxy = proxy.map(|proxy| Endpoint::parse(proxy).unwrap());
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let exchange = Exchange::post(&endpoint, proxy.as_ref(), &headers, Bytes::new(), 0).unwrap();
    String::from_utf8(exchange.output().to_vec()).unwrap()
}

#[test]
fn a_url_with_a_user_authorizes_unless_the_caller_does() {
    let text = head("http://us%65r:pa:ss@h/p?q=1", None, &[("X-One", "1"), ("x-one", "2")]);
    assert!(text.starts_with("POST /p?q=1 HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("host: h\r\n"), "{text}");
    assert!(text.contains("authorization: Basic dXNlcjpwYTpzcw==\r\n"), "{text}");
    assert!(text.contains("x-one: 1\r\n") && text.contains("x-one: 2\r\n"), "{text}");
    let text = head("http://user@h/", None, &[("Authorization", "Bearer x"), ("Host", "other")]);
    assert!(text.contains("authorization: Bearer x\r\n") && !text.contains("Basic"), "{text}");
    assert!(text.contains("host: other\r\n") && !text.contains("host: h\r\n"), "{text}");
}

#[test]
fn a_proxy_for_plain_http_gets_the_whole_target() {
    let text = head("http://me@h:8080/p", Some("http://u:p@proxy:3128"), &[]);
    assert!(text.starts_with("POST http://h:8080/p HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("proxy-authorization: Basic dTpw\r\n"), "{text}");
}
