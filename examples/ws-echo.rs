//! A WebSocket echo server on every shard, with a graceful end.
//!
//! ```sh
//! THRONG_ADDRESS=10.0.0.2/24 cargo run --example ws-echo -- --device tap:throng0
//! python -m websockets ws://10.0.0.2:9001/
//! ```

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use futures::{SinkExt, StreamExt};
use throng::http::Drain;
use throng::ws::{self, Config};
use throng::{Builder, TcpListener, TcpStream};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`, else what THRONG_DEVICE says, else the host\'s own sockets;
    /// addresses and more come from THRONG_* variables, too.
    #[arg(long)]
    device: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "[::]:9001")]
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
    let drain = Drain::on_terminate(Duration::from_secs(10));
    throng::http::admin::start_from_env(Some(&drain))?;
    let config = Config::default().ping_interval(Duration::from_secs(30)).drain(drain.clone());
    let config = Rc::new(config);
    let listener = TcpListener::bind(listen)?;
    while let Some(accepted) = drain.until(listener.accept()).await {
        let (stream, peer) = accepted?;
        let echoing = echo(stream, config.clone());
        let task = async move {
            if let Err(error) = echoing.await {
                eprintln!("{peer}: {error}");
            }
        };
        throng::spawn_local(task).detach();
    }
    drop(listener);
    eprintln!("{:?}", drain.ended().await);
    Ok(())
}

async fn echo(stream: TcpStream, config: Rc<Config>) -> Result<(), ws::Error> {
    stream.set_nodelay(true)?;
    let mut socket = ws::accept_with(stream, config, |_, response| Ok(response)).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
