//! The axum application, asked by curl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{OURS, Running, curl, example, find, free_address, get, on_tap, start, tap};

const AXUM: &str = env!("CARGO_BIN_EXE_axum");

fn serve(command: &mut Command, address: &str) -> Running {
    start(command.args(["--listen", address])).until_open(address)
}

fn ask(address: &str) {
    let url = |path: &str| format!("http://{address}{path}");
    let hello = |version: &str| get(&[version, &url("/hello/you")]);
    let first = hello("--http1.1");
    assert!(first.starts_with("hello you, visitor 1, from shard "), "{first}");
    assert!(first.ends_with("\n 200 1.1"), "{first}");
    // Shards share the count.
    let second = hello("--http2-prior-knowledge");
    assert!(second.starts_with("hello you, visitor 2, from shard "), "{second}");
    assert!(second.ends_with("\n 200 2"), "{second}");

    let json = ["-H", "content-type: application/json", "-d"];
    let post = |body: &str| get(&[&json[..], &[body, &url("/sum")]].concat());
    assert_eq!(post(r#"{"numbers": [1, 2, 39]}"#), r#"{"total":42} 200 1.1"#);
    assert!(post(r#"{"numbers": "#).ends_with(" 400 1.1"), "what axum says to bad JSON");
    assert_eq!(get(&[&url("/nowhere")]), " 404 1.1");

    assert_eq!(get(&[&url("/wait/50")]), "waited\n 200 1.1");
    let begin = Instant::now();
    assert_eq!(get(&[&url("/wait/8000")]), " 504 1.1");
    let passed = begin.elapsed();
    assert!(passed >= Duration::from_millis(990) && passed < Duration::from_secs(6), "{passed:?}");
    assert_eq!(get(&[&url("/websocket")]), " 426 1.1");
}

#[test]
fn curl_is_answered_and_a_slow_handler_cut_short() {
    if find("curl").is_none() {
        return;
    }
    let address = free_address();
    let server = serve(&mut example(AXUM), &address);
    ask(&address);
    server.terminate();
    assert!(!curl(&[&format!("http://{address}/")]).status.success(), "it has ended");
}

#[test]
fn curl_is_answered_by_our_own_stack() {
    if find("curl").is_none() || !tap() {
        return;
    }
    let address = format!("{OURS}:80");
    let server = serve(&mut on_tap(AXUM), &address);
    ask(&address);
    server.terminate();
}

#[test]
fn websockets_are_closed_when_it_ends() {
    let address = free_address();
    let server = serve(&mut example(AXUM), &address);
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
    let upgrade = "GET /websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    // A text of two letters, masked with zeroes, and its echo.
    stream.write_all(b"\x81\x82\0\0\0\0hi").expect("sent");
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).expect("an echo");
    assert_eq!(&echo, b"\x81\x02hi");
    let ending = std::thread::spawn(move || server.terminate());
    // Going away (RFC 6455 7.4.1), which is answered alike.
    let mut close = [0; 4];
    stream.read_exact(&mut close).expect("a close frame");
    assert_eq!(close, [0x88, 2, 0x03, 0xe9]);
    stream.write_all(b"\x88\x82\0\0\0\0\x03\xe9").expect("sent");
    // The server ends the connection first (RFC 6455 7.1.1).
    assert_eq!(stream.read(&mut close).expect("an end"), 0);
    drop(stream);
    ending.join().expect("it ends well");
}
