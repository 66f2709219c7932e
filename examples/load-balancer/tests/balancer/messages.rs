//! Messages in unusual order or shape: bodies that are asked for or not, a GET with one, trailers.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use crate::world::{Answer, LB, World, admin, config, connect, exchange, read_head, server};

/// Reads a chunked body with its trailers as it comes.
fn read_chunked(stream: &mut std::net::TcpStream) -> String {
    let (mut body, mut byte) = (Vec::new(), [0]);
    while !(body.starts_with(b"0\r\n") || body.windows(5).any(|window| window == b"\r\n0\r\n"))
        || !body.ends_with(b"\r\n\r\n")
    {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&body));
        body.push(byte[0]);
    }
    String::from_utf8(body).unwrap()
}

/// RFC 9110 10.1.1: a server may ask for the body, ignore that it is to, or refuse it unread. None
/// of them is to blame.
#[test]
fn whoever_ignores_an_expectation_is_not_blamed() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        let head = read_head(&mut stream);
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        if head.starts_with("PUT /refused") {
            let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
            return;
        }
        if head.starts_with("PUT /asked") {
            // Early hints are for this hop alone, and no answer.
            let hints =
                b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
            stream.write_all(hints).unwrap();
        }
        let mut body = [0; 3];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"abc");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    world.balancer(&config(&[9001], "eject = { failures = 1, time = \"1h\", max_time = \"1h\" }"));
    for (path, wanted) in [("/asked", 200), ("/ignored", 200), ("/refused", 401), ("/asked", 200)] {
        let mut client = connect(LB);
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\n\
             content-length: 3\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        let first = read_head(&mut client);
        let mut rest = first.clone();
        if wanted == 200 {
            assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n", "{path}");
            client.write_all(b"abc").unwrap();
            rest.clear();
        }
        client.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with(&format!("HTTP/1.1 {wanted} ")), "{path}: {rest}");
    }
    let state = admin("/state.json");
    assert!(!state.contains("\"ejected\":true"), "{state}");
}

#[test]
fn a_get_has_its_body_and_trailers_pass_but_for_those_that_frame() {
    let Some(mut world) = World::new() else { return };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    server(9001, move |mut stream| {
        let head = read_head(&mut stream);
        let body = read_chunked(&mut stream);
        log.lock().unwrap().push((head, body));
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
              2\r\nok\r\n0\r\nx-sum: 5\r\n\r\n",
        );
    });
    world.balancer(&config(&[9001], ""));
    let request = b"GET /g HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\
        trailer: x-sum, content-length, transfer-encoding, host\r\ntransfer-encoding: chunked\r\n\r\n\
        3;ext=1\r\nabc\r\n0\r\nx-sum: 17\r\ncontent-length: 44\r\nhost: b\r\n\r\n";
    let answer = exchange(LB, request);
    let text = String::from_utf8_lossy(&answer);
    assert!(text.ends_with("2\r\nok\r\n0\r\nx-sum: 5\r\n\r\n"), "{text}");
    assert_eq!(Answer::parse(&answer).unwrap().status, 200);
    let seen = seen.lock().unwrap();
    let (head, body) = &seen[0];
    assert!(
        head.starts_with("GET /g HTTP/1.1\r\n") && !head.contains("\r\ncontent-length:"),
        "{head}"
    );
    assert_eq!(body, "3\r\nabc\r\n0\r\nx-sum: 17\r\n\r\n");
}
