//! A TCP echo server (RFC 862) on every shard.
//!
//! ```sh
//! THRONG_ADDRESS=10.0.0.2/24 cargo run --example echo -- --device tap:throng0
//! ```

use std::io;
use std::net::SocketAddr;

use clap::Parser;
use throng::{Builder, TcpListener, TcpStream};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`, else what THRONG_DEVICE says, else the host\'s own sockets;
    /// addresses and more come from THRONG_* variables, too.
    #[arg(long)]
    device: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "[::]:7")]
    listen: SocketAddr,
}

pub(crate) fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut builder = Builder::from_env()?;
    if let Some(device) = args.device {
        builder = builder.device(device);
    }
    builder.run(move |_| serve(args.listen))?.into_iter().collect()
}

async fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let echoing = async move {
            if let Err(error) = echo(stream).await {
                eprintln!("{peer}: {error}");
            }
        };
        throng::spawn_local(echoing).detach();
    }
}

/// Sends every chunk back as it was received, without a copy.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let chunk = stream.read_chunk(usize::MAX).await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.write_chunk(chunk).await?;
    }
}
