//! An axum application, served by Throng over HTTP/1.1 and HTTP/2.
//!
//! ```sh
//! cargo run -p throng-compat --bin axum -- --listen 127.0.0.1:8080
//! curl http://127.0.0.1:8080/hello/you
//! ```
//!
//! axum is built without its feature `tokio`: there is no tokio runtime here, so no
//! `axum::serve`, `tokio::spawn`, `tokio::time` or `tokio::net`. `tokio::sync` and
//! `tokio::io` work, as they need none.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use throng::http::tower::{self, TimeoutLayer};
use throng::http::{Drain, Server};
use throng::ws::{self, WebSocket};
use throng::{Builder, OnThread, TcpListener};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`; addresses and more come from THRONG_* variables.
    #[arg(long, default_value = "kernel", env = "THRONG_DEVICE")]
    device: String,
    /// Where to listen.
    #[arg(long, default_value = "[::]:8080")]
    listen: SocketAddr,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    // What all shards share is Send + Sync, as it would be elsewhere.
    let visits = Arc::new(AtomicU64::new(0));
    let builder = Builder::from_env()?.device(args.device);
    builder.run(move |_| serve(args.listen, visits.clone()))?.into_iter().collect()
}

#[derive(Clone)]
struct App {
    /// Of all shards.
    visits: Arc<AtomicU64>,
    /// This shard's own. axum's state must be `Send + Sync`, which `OnThread` makes it.
    sockets: Arc<OnThread<Rc<ws::Config>>>,
}

async fn serve(listen: SocketAddr, visits: Arc<AtomicU64>) -> io::Result<()> {
    let drain = Drain::on_terminate(Duration::from_secs(10));
    let sockets = Rc::new(ws::Config::default().drain(drain.clone()));
    let app = App { visits, sockets: Arc::new(OnThread::new(sockets)) };
    let router = Router::new()
        .route("/hello/{name}", get(hello))
        .route("/sum", post(sum))
        .route("/wait/{milliseconds}", get(wait))
        .route("/websocket", get(websocket))
        // tower's and tower-http's timeouts need tokio's timer; this one is the shard's.
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .with_state(app);
    // Instead of `axum::serve(listener, router)`.
    let (listener, service) = (TcpListener::bind(listen)?, tower::service(router));
    Server::new().start().serve_until(&drain, listener, service).await;
    // WebSockets, too, have ended then.
    drain.ended().await;
    Ok(())
}

async fn hello(State(app): State<App>, Path(name): Path<String>) -> String {
    let nth = app.visits.fetch_add(1, Ordering::Relaxed) + 1;
    format!("hello {name}, visitor {nth}, from shard {}\n", throng::runtime::current_shard())
}

#[derive(Deserialize)]
struct Sum {
    numbers: Vec<i64>,
}

#[derive(Serialize)]
struct Total {
    total: i64,
}

async fn sum(Json(sum): Json<Sum>) -> Json<Total> {
    Json(Total { total: sum.numbers.iter().fold(0, |total, n| total.wrapping_add(*n)) })
}

/// axum wants handlers to be `Send`, and futures of Throng are not. `OnThread::new` makes one
/// `Send`; a whole block that keeps streams and the like goes into `OnThread::pin(async {..})`.
async fn wait(Path(milliseconds): Path<u64>) -> &'static str {
    OnThread::new(throng::sleep(Duration::from_millis(milliseconds))).await;
    "waited\n"
}

/// Instead of `axum::extract::ws`, which spawns on tokio.
async fn websocket(State(app): State<App>, mut request: Request) -> Response {
    match ws::upgrade_with(&mut request, Rc::clone(&app.sockets)) {
        Ok((response, socket)) => {
            throng::spawn_local(async move {
                if let Ok(socket) = socket.await {
                    let _ = echo(socket).await;
                }
            })
            .detach();
            response
        }
        Err(error) => ws::refusal(&error),
    }
}

async fn echo(mut socket: WebSocket<ws::Upgraded>) -> Result<(), ws::Error> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
