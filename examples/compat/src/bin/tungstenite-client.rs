//! tokio-tungstenite's client over a stream of Throng's.
//!
//! ```sh
//! cargo run -p throng-compat --bin axum -- --listen 127.0.0.1:8080
//! cargo run -p throng-compat --bin tungstenite-client -- ws://127.0.0.1:8080/websocket
//! ```
//!
//! With the feature `tokio` a `TcpStream` has tokio's `AsyncRead` and `AsyncWrite`. That is all
//! `client_async` asks for; `connect_async` would open a socket of tokio's, on tokio's runtime.
//! For servers with a great many sockets `throng::ws` is the better choice: it parks idle ones.

use std::io;
use std::time::Duration;

use clap::Parser;
use futures::{SinkExt, StreamExt};
use throng::{Builder, TcpStream};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::{Error, Message};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`; addresses and more come from THRONG_* variables.
    #[arg(long, default_value = "kernel", env = "THRONG_DEVICE")]
    device: String,
    /// How many messages to send.
    #[arg(long, default_value_t = 3)]
    count: usize,
    /// A server that echoes, as in `ws://10.0.0.2:9001/`.
    url: Uri,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let builder = Builder::from_env()?.device(args.device).shards(1);
    builder.run(move |_| talk(args.url.clone(), args.count))?.into_iter().collect()
}

async fn talk(url: Uri, count: usize) -> io::Result<()> {
    let host = url.host().ok_or_else(|| io::Error::other("no host in the URL"))?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    // Deadlines are put around what takes long, by the shard's timer.
    let echo = echo(stream, url, count);
    throng::timeout(Duration::from_secs(10), echo).await?.map_err(io::Error::other)
}

async fn echo(stream: TcpStream, url: Uri, count: usize) -> Result<(), Error> {
    let (mut socket, _response) = tokio_tungstenite::client_async(url, stream).await?;
    for i in 1..=count {
        // The last one is long: many segments, and partial writes.
        let message = if i == count { "long ".repeat(100_000) } else { format!("message {i}") };
        socket.send(Message::text(message.as_str())).await?;
        while let Some(answer) = socket.next().await {
            if let Message::Text(text) = answer? {
                let same = if text.as_str() == message { "echoed" } else { "not echoed" };
                println!("{} bytes {same}", message.len());
                break;
            }
        }
    }
    socket.close(None).await?;
    // The handshake of closing: until the peer's close frame and the end of the stream.
    while let Some(message) = socket.next().await {
        message?;
    }
    println!("closed");
    Ok(())
}
