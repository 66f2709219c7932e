//! tokio-tungstenite's client on our stream, against throng-ws inside the axum example and
//! against Python's websockets.

use crate::support::{KERNELS, example, free_address, on_tap, python, start, succeed, tap};

const CLIENT: &str = env!("CARGO_BIN_EXE_tungstenite-client");

const EXPECTED: &str = "9 bytes echoed\n9 bytes echoed\n500000 bytes echoed\nclosed\n";

#[test]
fn the_client_talks_with_throng_ws_in_axum() {
    let address = free_address();
    let mut server = example(env!("CARGO_BIN_EXE_axum"));
    let server = start(server.args(["--listen", &address])).until_open(&address);
    let said = succeed(example(CLIENT).arg(format!("ws://{address}/websocket")));
    assert_eq!(said, EXPECTED);
    server.terminate();
}

#[test]
fn the_client_talks_with_python() {
    let Some(mut server) = python("websockets", "websocket.py") else { return };
    let address = free_address();
    let _server = start(server.arg(&address)).until_open(&address);
    assert_eq!(succeed(example(CLIENT).arg(format!("ws://{address}/"))), EXPECTED);
}

#[test]
fn the_client_talks_with_python_over_our_own_stack() {
    let Some(mut server) = python("websockets", "websocket.py") else { return };
    if !tap() {
        return;
    }
    let address = format!("{KERNELS}:9001");
    let _server = start(server.arg(&address)).until_open(&address);
    assert_eq!(succeed(on_tap(CLIENT).arg(format!("ws://{address}/"))), EXPECTED);
}
