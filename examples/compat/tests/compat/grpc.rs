//! tonic on our HTTP: its client and server with one another, with curl and with Python's grpcio.

use std::process::Command;

use crate::support::{
    KERNELS, OURS, Running, curl, example, find, free_address, on_tap, python, start, succeed, tap,
};

const GRPC: &str = env!("CARGO_BIN_EXE_grpc-echo");

const EXPECTED: &str = "say: hello
say: 500000 bytes, true
say nothing: Some(InvalidArgument)
stream: message 1
stream: message 2
stream: message 3
stream: message 4
stream: message 5
";

fn serve(command: &mut Command, address: &str) -> Running {
    start(command.args(["serve", "--listen", address])).until_open(address)
}

fn call(command: &mut Command, address: &str) -> String {
    succeed(command.args(["call", &format!("http://{address}")]))
}

#[test]
fn the_client_talks_with_the_server() {
    let address = free_address();
    let server = serve(&mut example(GRPC), &address);
    assert_eq!(call(&mut example(GRPC), &address), EXPECTED);
    server.terminate();
}

/// Framing, content type and trailers as the protocol has them, byte for byte
/// (gRPC over HTTP2, "Responses").
#[test]
fn curl_gets_message_and_trailers() {
    if find("curl").is_none() {
        return;
    }
    let address = free_address();
    let server = serve(&mut example(GRPC), &address);
    // Not compressed, 7 bytes; field 1, 5 bytes.
    let message = b"\0\0\0\0\x07\x0a\x05hello";
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-message");
    std::fs::write(&file, message).expect("a file");
    let ask = |path: &str| {
        let headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-i"];
        let body = format!("@{}", file.display());
        let url = format!("http://{address}{path}");
        let more = ["--http2-prior-knowledge", "--data-binary", &body, &url];
        let done = curl(&[&headers[..], &more].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let said = ask("/throng.Echo/Say");
    let (head, rest) = said.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/2 200"), "{head}");
    assert!(head.contains("content-type: application/grpc"), "{head}");
    assert!(!head.contains("grpc-status"), "{head}");
    let trailers = rest.strip_prefix(str::from_utf8(message).expect("ASCII"));
    assert!(trailers.is_some_and(|trailers| trailers.contains("grpc-status: 0")), "{rest:?}");
    // UNIMPLEMENTED, in a head that is all there is.
    let said = ask("/throng.Echo/Sing");
    assert!(said.starts_with("HTTP/2 200") && said.contains("grpc-status: 12"), "{said}");
    server.terminate();
}

#[test]
fn pythons_client_talks_with_the_server() {
    let Some(mut client) = python("grpc", "grpc_echo.py") else { return };
    let address = free_address();
    let server = serve(&mut example(GRPC), &address);
    assert_eq!(succeed(client.args(["call", &address])), "say, refusal and stream: as expected\n");
    server.terminate();
}

#[test]
fn the_client_talks_with_pythons_server() {
    let Some(mut server) = python("grpc", "grpc_echo.py") else { return };
    let address = free_address();
    let _server = start(server.args(["serve", &address])).until_open(&address);
    assert_eq!(call(&mut example(GRPC), &address), EXPECTED);
}

#[test]
fn python_talks_with_both_over_our_own_stack() {
    let (Some(mut client), Some(mut server)) =
        (python("grpc", "grpc_echo.py"), python("grpc", "grpc_echo.py"))
    else {
        return;
    };
    if !tap() {
        return;
    }
    let address = format!("{OURS}:50051");
    let ours = serve(&mut on_tap(GRPC), &address);
    succeed(client.args(["call", &address]));
    ours.terminate();
    let address = format!("{KERNELS}:50051");
    let _server = start(server.args(["serve", &address])).until_open(&address);
    assert_eq!(call(&mut on_tap(GRPC), &address), EXPECTED);
}
