//! gRPC with tonic: its server in throng-http, its client on throng-http's client.
//!
//! ```sh
//! cargo run -p throng-compat --bin grpc-echo -- serve --listen 127.0.0.1:50051
//! cargo run -p throng-compat --bin grpc-echo -- call http://127.0.0.1:50051
//! ```
//!
//! tonic is built without its feature `transport` (`Server`, `Channel`), which is tokio's sockets,
//! timers and tasks. Messages, codecs, statuses, streaming and generated code are untouched by
//! that: generated servers are tower services, and generated clients take one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use hyper::Uri;
use throng::http::client::{Client, HttpVersion};
use throng::http::tower::{self, ClientService};
use throng::http::{Drain, Server};
use throng::{Builder, OnThread, TcpListener};
use tonic::{Request, Response, Status, Streaming};

mod generated;
use generated::{Echo, EchoClient, EchoServer, Message};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`; addresses and more come from THRONG_* variables.
    #[arg(long, default_value = "kernel", env = "THRONG_DEVICE", global = true)]
    device: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Subcommand)]
enum What {
    /// Serve the echo.
    Serve {
        /// Where to listen.
        #[arg(long, default_value = "[::]:50051")]
        listen: SocketAddr,
    },
    /// Ask a server.
    Call {
        /// Where it is, as in `http://10.0.0.2:50051`.
        url: Uri,
    },
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let builder = Builder::from_env()?.device(args.device);
    match args.what {
        What::Serve { listen } => builder.run(move |_| serve(listen)),
        What::Call { url } => builder.shards(1).run(move |_| call(url.clone())),
    }?
    .into_iter()
    .collect()
}

async fn serve(listen: SocketAddr) -> io::Result<()> {
    let drain = Drain::on_terminate(Duration::from_secs(10));
    // Instead of `tonic::transport::Server`. Several services go into an `axum::Router`.
    let service = tower::service(EchoServer::new(Echoes));
    Server::new().start().serve_until(&drain, TcpListener::bind(listen)?, service).await;
    Ok(())
}

struct Echoes;

#[tonic::async_trait]
impl Echo for Echoes {
    async fn say(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let text = request.into_inner().text;
        if text.is_empty() {
            return Err(Status::invalid_argument("nothing to echo"));
        }
        // Throng's own futures are made `Send` for tonic.
        OnThread::new(throng::sleep(Duration::from_millis(1))).await;
        Ok(Response::new(Message { text }))
    }

    type Streamed = BoxStream<'static, Result<Message, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<Message>>,
    ) -> Result<Response<Self::Streamed>, Status> {
        Ok(Response::new(request.into_inner().boxed()))
    }
}

async fn call(url: Uri) -> io::Result<()> {
    // Instead of `tonic::transport::Channel`: pooled connections of this shard, with HTTP/2.
    let http = Client::builder().version(HttpVersion::Http2).build();
    let client = EchoClient::new(tower::client(http), url);
    // A request's `set_timeout` tells the server only; the deadline is ours to keep.
    throng::timeout(Duration::from_secs(10), talk(client)).await?.map_err(io::Error::other)
}

async fn talk(mut client: EchoClient<ClientService>) -> Result<(), Status> {
    let answer = client.say(Message { text: "hello".into() }).await?;
    println!("say: {}", answer.into_inner().text);

    let long = "long ".repeat(100_000);
    let answer = client.say(Message { text: long.clone() }).await?;
    println!("say: {} bytes, {}", long.len(), answer.into_inner().text == long);

    let refused = client.say(Message::default()).await;
    println!("say nothing: {:?}", refused.err().map(|status| status.code()));

    let messages = stream::iter(1..=5).map(|i| Message { text: format!("message {i}") });
    let mut answers = client.stream(messages).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        println!("stream: {}", answer.text);
    }
    Ok(())
}
