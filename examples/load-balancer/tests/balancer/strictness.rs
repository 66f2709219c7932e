//! What is malformed or tries to smuggle is refused, and no server sees it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::world::{Answer, LB, World, config, exchange, get, read_head, server, wait_until};

/// The cases of the corpus: the status of the answer, and the bytes.
fn corpus() -> Vec<(u16, Vec<u8>)> {
    let (mut cases, mut lines) = (Vec::new(), include_str!("corpus.txt").lines());
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let request: String = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        cases.push((line.parse().unwrap(), unescaped(&request)));
    }
    cases
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut chars) = (Vec::new(), text.chars());
    while let Some(next) = chars.next() {
        let byte = match (next, next == '\\') {
            (_, true) => match chars.next().unwrap() {
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                '0' => 0,
                'x' => {
                    let digits: String = chars.by_ref().take(2).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                }
                other => panic!("\\{other} means nothing"),
            },
            (plain, false) => u8::try_from(plain).unwrap(),
        };
        bytes.push(byte);
    }
    bytes
}

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
    let log = format!("[access_log]\nfile = \"{}\"\n", world.path("access").display());
    world.balancer(&(config(&[9001], "") + &log));
    let corpus = corpus();
    assert!(corpus.len() > 100, "{}", corpus.len());
    let (mut wrong, count) = (Vec::new(), corpus.len());
    for (status, request) in corpus {
        let bytes = exchange(LB, &request);
        let text = String::from_utf8_lossy(&bytes);
        let is_right = Answer::parse(&bytes).is_some_and(|answer| answer.status == status);
        // One answer, and the end.
        if !is_right || text.matches("HTTP/1.1 ").count() != 1 {
            wrong.push(format!("{status}: {:?}: {text:?}", String::from_utf8_lossy(&request)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Also what never became a request has its line.
    let nameless = || world.read("access").lines().filter(|l| l.contains("] \"-\" 4")).count();
    wait_until("lines of the log", || world.read("access").lines().count() == count);
    assert!((count / 2..count).contains(&nameless()), "{} of {count}", nameless());
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
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
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
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
