//! What an idle WebSocket costs, counted by the allocator.

#[path = "../../http/tests/support/mod.rs"]
mod support;

#[path = "../../http/tests/support/counting.rs"]
mod counting;

use std::mem::{size_of, size_of_val};
use std::rc::Rc;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, SinkExt, StreamExt};
use throng_ws::{Config, Message, Role, WebSocket};

use counting::live;
use support::{End, Pace, duplex, run};

/// Lets a socket find that nothing more has come.
async fn rest(socket: &mut WebSocket<End>) {
    let wait = throng_runtime::timeout(Duration::from_millis(1), socket.next());
    assert!(wait.await.is_err());
}

/// Heap bytes of one socket that has echoed a message and rests.
fn idle_bytes(config: Config) -> isize {
    const COUNT: usize = 100;
    run(async move {
        let config = Rc::new(config);
        let mut clients = Vec::with_capacity(COUNT);
        let mut servers = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let (a, b) = duplex(1 << 16, Pace::FAST);
            clients.push(WebSocket::from_stream(a, Role::Client, Config::default(), Vec::new()));
            servers.push(b);
        }
        // The pipes get their buffers.
        for (client, server) in clients.iter_mut().zip(&mut servers) {
            client.send(Message::binary(vec![0; 1000])).await.unwrap();
            let mut bytes = [0; 1008];
            futures::AsyncReadExt::read_exact(server, &mut bytes).await.unwrap();
            let answer = [vec![0x82, 126, 0x03, 0xe8], vec![0; 1000]].concat();
            futures::AsyncWriteExt::write_all(server, &answer).await.unwrap();
            client.next().await.unwrap().unwrap();
            rest(client).await;
        }
        let mut sockets: Vec<WebSocket<End>> = Vec::with_capacity(COUNT);
        let before = live();
        for server in servers {
            sockets.push(WebSocket::from_stream(server, Role::Server, config.clone(), Vec::new()));
        }
        for (client, server) in clients.iter_mut().zip(&mut sockets) {
            client.send(Message::binary(vec![0; 900])).await.unwrap();
            let message = server.next().await.unwrap().unwrap();
            server.send(message).await.unwrap();
            rest(server).await;
            client.next().await.unwrap().unwrap();
            rest(client).await;
        }
        (live() - before) / COUNT as isize
    })
}

#[test]
fn an_idle_socket_holds_no_buffers() {
    let plain = idle_bytes(Config::default());
    assert!(plain <= 0, "{plain} bytes on the heap without timers");
    let pinging = idle_bytes(Config::default().ping_interval(Duration::from_secs(3000)));
    // The timers, and their entry in the shard's wheel.
    assert!(pinging <= 200, "{pinging} bytes on the heap with a ping timer");
    let unparked = idle_bytes(Config::default().park(false));
    println!(
        "idle: {} bytes and the stream; with a ping timer {pinging} more; unparked {unparked} more",
        size_of::<WebSocket<()>>()
    );
}

/// The task of an echo server holds little more than the socket.
#[test]
fn a_serving_task_is_small() {
    async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), throng_ws::Error> {
        let mut socket = throng_ws::accept(stream).await?;
        while let Some(message) = socket.next().await {
            let message = message?;
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        Ok(())
    }
    let (a, _b) = duplex(1, Pace::FAST);
    let task = echo(a);
    let size = size_of_val(&task) - size_of::<End>();
    println!("the task of an echo server: {size} bytes and the stream");
    // The stream is in it twice, for a time each: before and after the handshake.
    assert!(size - size_of::<End>() <= 256, "{size}");
}
