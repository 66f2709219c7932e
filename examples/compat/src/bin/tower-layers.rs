//! tower's layers around a service: at most so many requests at a time, 503 beyond, and 504 for
//! one that takes too long.
//!
//! ```sh
//! cargo run -p throng-compat --bin tower-layers -- --listen 127.0.0.1:8080 --limit 2
//! curl -i http://127.0.0.1:8080/900 & curl -i http://127.0.0.1:8080/900 & curl -i http://127.0.0.1:8080/1
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};
use throng::http::tower::{TimeoutLayer, service};
use throng::http::{Body, BoxError, Drain, Server};
use throng::{Builder, TcpListener};
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`; addresses and more come from THRONG_* variables.
    #[arg(long, default_value = "kernel", env = "THRONG_DEVICE")]
    device: String,
    /// Where to listen.
    #[arg(long, default_value = "[::]:8080")]
    listen: SocketAddr,
    /// Most requests at a time.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    // One bound for all shards: tokio's semaphore wakes across threads and needs no runtime. With
    // `.concurrency_limit(n)` each shard would have a bound of its own, and no shared memory.
    let limit = Arc::new(Semaphore::new(args.limit));
    let builder = Builder::from_env()?.device(args.device);
    builder.run(move |_| serve(args.listen, limit.clone()))?.into_iter().collect()
}

async fn serve(listen: SocketAddr, limit: Arc<Semaphore>) -> io::Result<()> {
    let layered = ServiceBuilder::new()
        .map_result(answer_overload)
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(limit))
        // Not `.timeout(..)`, which needs tokio's timer.
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .service_fn(work);
    let drain = Drain::on_terminate(Duration::from_secs(10));
    Server::new().start().serve_until(&drain, TcpListener::bind(listen)?, service(layered)).await;
    Ok(())
}

type Reply = Response<Full<Bytes>>;

/// Works for as many milliseconds as the path says.
async fn work(request: Request<Body>) -> Result<Reply, BoxError> {
    let time = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    throng::sleep(Duration::from_millis(time)).await;
    Ok(Response::new(Full::from(format!("{time} ms\n"))))
}

/// What `load_shed` says when the limit is reached becomes a response. Other errors end the
/// connection.
fn answer_overload(result: Result<Reply, BoxError>) -> Result<Reply, BoxError> {
    match result {
        Err(error) if error.is::<Overloaded>() => {
            let mut reply = Response::new(Full::from("overloaded\n"));
            *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            reply.headers_mut().insert("retry-after", hyper::header::HeaderValue::from_static("1"));
            Ok(reply)
        }
        result => result,
    }
}
