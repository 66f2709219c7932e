//! What each client says to a server that is not there, or not there for long.

use std::net::TcpListener;
use std::process::Command;
use std::thread;

use crate::support::{example, free_address, run};

fn clients(address: &str) -> [Command; 3] {
    let mut redis = example(env!("CARGO_BIN_EXE_redis"));
    redis.arg(address);
    let mut websocket = example(env!("CARGO_BIN_EXE_tungstenite-client"));
    websocket.arg(format!("ws://{address}/"));
    let mut grpc = example(env!("CARGO_BIN_EXE_grpc-echo"));
    grpc.arg("call").arg(format!("http://{address}"));
    [redis, websocket, grpc]
}

#[test]
fn nobody_there_is_an_error() {
    for mut client in clients(&free_address()) {
        let (success, _, error) = run(&mut client);
        assert!(!success && error.to_lowercase().contains("refused"), "{client:?}: {error}");
    }
}

#[test]
fn a_server_that_hangs_up_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || listener.incoming().for_each(drop));
    for mut client in clients(&address) {
        let (success, said, error) = run(&mut client);
        assert!(!success && said.is_empty() && error.starts_with("Error: "), "{client:?}: {error}");
        assert!(!error.contains("panicked") && !error.contains("timed out"), "{client:?}: {error}");
    }
}
