//! A hyper server, HTTP/1.1 and HTTP/2, on every shard, with a graceful end.
//!
//! ```sh
//! THRONG_ADDRESS=10.0.0.2/24 cargo run --example http-hello -- --device tap:throng0
//! curl http://10.0.0.2/hello        # or with --http2-prior-knowledge
//! ```

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::{Request, Response};
use throng::http::{Body, Drain, Server, service_fn};
use throng::{Builder, TcpListener};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`, else what THRONG_DEVICE says, else the host\'s own sockets;
    /// addresses and more come from THRONG_* variables, too.
    #[arg(long)]
    device: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "[::]:80")]
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
    let server = Server::new().start();
    let listener = TcpListener::bind(listen)?;
    let drained = server.serve_until(&drain, listener, service_fn(hello)).await;
    eprintln!("{drained:?}, {:?}", server.counters());
    Ok(())
}

async fn hello(request: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!(
        "hello from shard {}: {}\n",
        throng::runtime::current_shard(),
        request.uri().path()
    );
    Ok(Response::new(Full::from(text)))
}
