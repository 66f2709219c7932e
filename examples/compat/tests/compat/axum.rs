//! The axum application, asked by curl.

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
