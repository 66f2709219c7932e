//! An HTTPS server, HTTP/1.1 and HTTP/2, on every shard: a page whose script echoes over
//! `wss://`, and new certificates without an end of anything.
//!
//! ```sh
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=throng \
//!     -addext subjectAltName=IP:10.0.0.2 -keyout key.pem -out chain.pem
//! THRONG_ADDRESS=10.0.0.2/24 cargo run --features tls --example https-hello -- \
//!     --device tap:throng0 --chain chain.pem --key key.pem
//! curl --cacert chain.pem https://10.0.0.2/        # then, on and on, after a new chain.pem
//! ```

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Parser;
use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::{Request, Response};
use throng::http::{Body, Drain, Server, service_fn};
use throng::tls::{Acceptor, Identity, ServerConfig, TlsListener, alpn};
use throng::{Builder, ShardId, TcpListener, runtime, spawn_local, ws};

#[derive(Clone, Parser)]
struct Args {
    /// The device, such as `tap:throng0`, else what THRONG_DEVICE says, else the host\'s own sockets;
    /// addresses and more come from THRONG_* variables, too.
    #[arg(long)]
    device: Option<String>,
    /// Where to listen.
    #[arg(long, default_value = "[::]:443")]
    listen: SocketAddr,
    /// The certificate and those that lead from it to a root, PEM.
    #[arg(long)]
    chain: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
}

pub(crate) fn main() -> io::Result<()> {
    tracing_subscriber::fmt::init();
    let args = Args::parse();
    let identity = Identity::from_pem_files(&args.chain, &args.key).map_err(io::Error::other)?;
    let config = ServerConfig::new([identity]).alpn(alpn::HTTP);
    let acceptor = config.build().map_err(io::Error::other)?;
    let mut builder = Builder::from_env()?;
    if let Some(device) = &args.device {
        builder = builder.device(device);
    }
    let serve = move |shard| serve(shard, args.clone(), acceptor.clone());
    builder.run(serve)?.into_iter().collect()
}

async fn serve(shard: ShardId, args: Args, acceptor: Acceptor) -> io::Result<()> {
    if shard == ShardId(0) {
        spawn_local(renew(args.clone(), acceptor.clone())).detach();
    }
    let drain = Drain::on_terminate(Duration::from_secs(10));
    throng::http::admin::start_from_env(Some(&drain))?;
    let sockets = Rc::new(ws::Config::default().drain(drain.clone()));
    let listener = TlsListener::new(TcpListener::bind(args.listen)?, acceptor);
    let service = service_fn(move |request| site(request, sockets.clone()));
    Server::new().start().serve_until(&drain, listener, service).await;
    eprintln!("{:?}", drain.ended().await);
    Ok(())
}

/// Looks every second whether the certificate's file is another one.
async fn renew(args: Args, acceptor: Acceptor) {
    let mut known = modified(&args.chain);
    loop {
        throng::sleep(Duration::from_secs(1)).await;
        let (chain, key, before) = (args.chain.clone(), args.key.clone(), known);
        let read = throng::spawn_blocking(move || {
            let now = modified(&chain);
            (now != before).then(|| (now, Identity::from_pem_files(chain, key)))
        });
        let Ok(Some((now, identity))) = read.await else { continue };
        // A new chain beside the old key is refused, and tried again.
        match identity.and_then(|identity| acceptor.reload([identity])) {
            Ok(()) => {
                known = now;
                eprintln!("a new certificate from now on");
            }
            Err(error) => eprintln!("the old certificate stays: {error}"),
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

async fn site(
    mut request: Request<Body>,
    sockets: Rc<ws::Config>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if ws::is_upgrade(&request) {
        return Ok(match ws::upgrade_with(&mut request, sockets) {
            Ok((response, socket)) => {
                spawn_local(echo(socket)).detach();
                response
            }
            Err(error) => ws::refusal(&error),
        });
    }
    let shard = runtime::current_shard();
    let page = PAGE.replace("{}", &format!("{:?} on shard {shard}", request.version()));
    let response = Response::builder().header("content-type", "text/html; charset=utf-8");
    Ok(response.body(Full::from(page)).expect("the header is well-formed"))
}

async fn echo(socket: ws::Upgrading) -> Result<(), ws::Error> {
    let mut socket = socket.await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

const PAGE: &str = r#"<!doctype html>
<title>Throng</title>
<p>hello over {}</p>
<p id="echo">no echo yet</p>
<script>
  const echo = document.getElementById("echo");
  const socket = new WebSocket("wss://" + location.host + "/echo");
  socket.onopen = () => socket.send("said over wss");
  socket.onmessage = (event) => { echo.textContent = "echo of what was " + event.data; };
  socket.onerror = () => { echo.textContent = "the WebSocket failed"; };
</script>
"#;
