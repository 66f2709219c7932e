//! A WebSocket client: sends some messages, prints what comes back and how long it took.
//!
//! ```sh
//! THRONG_ADDRESS=10.0.0.3/24 cargo run --example ws-client -- --device tap:throng1 10.0.0.2:9001
//! ```

use std::io;

use clap::Parser;
use futures::{SinkExt, StreamExt};
use throng::ws::{self, Message};
use throng::{Builder, TcpStream, runtime};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng1`, else what THRONG_DEVICE says, else the host\'s own sockets;
    /// addresses and more come from THRONG_* variables, too.
    #[arg(long)]
    device: Option<String>,
    /// How many messages to send.
    #[arg(long, default_value_t = 3)]
    count: u32,
    /// The server, as in `10.0.0.2:9001` or `example.com:80`.
    server: String,
}

pub(crate) fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut builder = Builder::from_env()?.shards(1);
    if let Some(device) = args.device {
        builder = builder.device(device);
    }
    builder.run(move |_| talk(args.server.clone(), args.count))?.into_iter().collect()
}

async fn talk(server: String, count: u32) -> io::Result<()> {
    let stream = TcpStream::connect(server.as_str()).await?;
    echo(stream, &server, count).await.map_err(io::Error::other)
}

async fn echo(stream: TcpStream, server: &str, count: u32) -> Result<(), ws::Error> {
    stream.set_nodelay(true)?;
    let (mut socket, _response) = ws::connect(format!("ws://{server}/"), stream).await?;
    for i in 1..=count {
        let begin = runtime::now();
        socket.send(Message::text(format!("message {i}"))).await?;
        while let Some(message) = socket.next().await {
            if let Message::Text(text) = message? {
                println!("{text}: {:?}", runtime::now() - begin);
                break;
            }
        }
    }
    socket.close(None).await
}
