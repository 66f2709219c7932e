//! What is malformed or tries to smuggle is refused, and no server sees it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::world::{Answer, LB, World, config, exchange, get, read_head, server};

#[test]
fn malformed_requests_and_smuggling_reach_no_server() {
    let Some(mut world) = World::new() else { return };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    server(9001, move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            log.lock().unwrap().push(head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    world.balancer(&config(&[9001], ""));
    for (status, request) in [
        // Lengths (RFC 9112 6.3).
        (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x3\r\n\r\nabc"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n"),
        // Codings (RFC 9112 6.1).
        (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        (
            501,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (400, "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        // Lines (RFC 9112 2.2, 5.1, 5.2).
        (400, "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost : a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n host: a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\n: empty\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding\x0b: chunked\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET / HTTP/1.2\r\nhost: a\r\n\r\n"),
        (400, "GET / HTTP/3.0\r\nhost: a\r\n\r\n"),
        (400, "G@T / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "\x16\x03\x01\r\n\r\n"),
        // Hosts and targets (RFC 9112 3.2).
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n"),
        (400, "GET * HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, "GET /../etc HTTP/1.1\r\nhost: a\r\n\r\n"),
        (405, "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n"),
        (405, "TRACE / HTTP/1.1\r\nhost: a\r\n\r\n"),
    ] {
        let bytes = exchange(LB, request.as_bytes());
        let answer = Answer::parse(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(answer.map(|answer| answer.status), Some(status), "{request:?}: {text}");
        assert_eq!(
            text.matches("HTTP/1.1").count(),
            1,
            "one answer, and the end: {request:?}: {text}"
        );
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    // Taken as chunked, and goes on without the length.
    let both = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 30\r\n\
                transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(exchange(LB, both.as_bytes()).starts_with(b"HTTP/1.1 200"));
    let head = seen.lock().unwrap().remove(0);
    assert!(!head.contains("content-length") && head.contains("transfer-encoding: chunked"));
    let asterisk = b"OPTIONS * HTTP/1.1\r\nhost: a\r\nmax-forwards: 3\r\nconnection: close\r\n\r\n";
    assert!(exchange(LB, asterisk).starts_with(b"HTTP/1.1 200"));
    let head = seen.lock().unwrap().pop().unwrap();
    assert!(
        head.starts_with("OPTIONS * HTTP/1.1\r\n") && head.contains("max-forwards: 2\r\n"),
        "{head}"
    );
    // Bodies that turn out to be malformed when they are on their way: an error, and the end.
    for body in [
        "3\r\nabcd\r\n0\r\n\r\n",
        "g\r\n",
        "-1\r\nabc",
        "3\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "3",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let bytes = exchange(LB, request.as_bytes());
        assert!(String::from_utf8_lossy(&bytes).matches("HTTP/1.1").count() <= 1, "{body:?}");
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|head| !head.contains("smuggled")), "{seen:?}");
}

/// What a server sends with a length and chunks is as long as the chunks; what it sends in a coding
/// that is not taken off is not passed on as if there were none.
#[test]
fn responses_of_two_lengths_or_other_codings_are_not_passed_on() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        let head = read_head(&mut stream);
        let codings = match head.starts_with("GET /both") {
            true => "content-length: 3\r\ntransfer-encoding: chunked",
            false => "transfer-encoding: gzip, chunked",
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{codings}\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    world.balancer(&config(&[9001], ""));
    let both = get("/both");
    assert_eq!((both.status, both.text().as_str()), (200, "abcdef"));
    assert_eq!(both.field("content-length"), None);
    assert_eq!(get("/gzip").status, 502);
}
