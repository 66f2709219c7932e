//! The crate redis over streams of Throng's: SET and GET, a pipeline, publish and subscribe.
//!
//! ```sh
//! cargo run -p throng-compat --bin redis -- 127.0.0.1:6379
//! ```
//!
//! The crate is built with its feature `tokio-comp`, since it does not build without a runtime
//! to choose from, but none runs here. So connections are made of a stream by
//! `MultiplexedConnection::new_with_config`, whose driver we spawn, and what would call tokio is
//! left out: `Client::get_multiplexed_async_connection` and `ConnectionManager` (tokio's sockets),
//! `aio::PubSub` (spawns on tokio; the protocol RESP3 does without), and the crate's response
//! timeout (tokio's timer; `throng::timeout` takes its place).

use std::io;
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind};
use redis::{RedisConnectionInfo, RedisError, Value};
use throng::{Builder, TcpStream};

#[derive(Parser)]
struct Args {
    /// The device, such as `tap:throng0`; addresses and more come from THRONG_* variables.
    #[arg(long, default_value = "kernel", env = "THRONG_DEVICE")]
    device: String,
    /// The server, as in `10.0.0.1:6379`.
    server: String,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let builder = Builder::from_env()?.device(args.device).shards(1);
    builder.run(move |_| talk(args.server.clone()))?.into_iter().collect()
}

async fn talk(server: String) -> io::Result<()> {
    let talking = async {
        let (connection, pushes) = connect(&server).await?;
        commands(connection, pushes).await.map_err(io::Error::other)
    };
    throng::timeout(Duration::from_secs(10), talking).await?
}

/// A connection, whose clones may be used at the same time, and what the server sends unasked.
async fn connect(server: &str) -> io::Result<(MultiplexedConnection, UnboundedReceiver<PushInfo>)> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (pushed, pushes) = unbounded();
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_push_sender(move |push| pushed.unbounded_send(push));
    let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    // The crate wants a stream that is `Send`. It stays on this shard all the same.
    let connecting = MultiplexedConnection::new_with_config(&info, stream.into_send(), config);
    let (connection, driver) = connecting.await.map_err(io::Error::other)?;
    // Instead of `tokio::spawn`. It ends with the last clone of the connection.
    throng::spawn_local(driver).detach();
    Ok((connection, pushes))
}

async fn commands(
    mut redis: MultiplexedConnection,
    mut pushes: UnboundedReceiver<PushInfo>,
) -> Result<(), RedisError> {
    let () = redis.set("throng:name", "Throng").await?;
    let name: String = redis.get("throng:name").await?;
    println!("get: {name}");

    // A value of many segments each way.
    let long = "0123456789".repeat(100_000);
    let () = redis.set("throng:long", &long).await?;
    let same = redis.get::<_, String>("throng:long").await? == long;
    println!("get: {} bytes, {}", long.len(), if same { "the same" } else { "others" });

    let (first, second): (i64, i64) = redis::pipe()
        .set("throng:count", 40)
        .ignore()
        .incr("throng:count", 1)
        .incr("throng:count", 1)
        .query_async(&mut redis)
        .await?;
    println!("pipeline: {first} {second}");

    // Many commands under way at once, on one connection.
    let gets = (0..100).map(|_| {
        let mut redis = redis.clone();
        async move { redis.get::<_, i64>("throng:count").await }
    });
    let counts = futures::future::try_join_all(gets).await?;
    println!("at once: {} answers, the sum {}", counts.len(), counts.iter().sum::<i64>());

    redis.subscribe("throng:news").await?;
    let heard: i64 = redis.publish("throng:news", "it works").await?;
    while let Some(push) = pushes.next().await {
        if push.kind == PushKind::Message {
            let message: (String, String) = redis::from_redis_value(Value::Array(push.data))?;
            println!("published to {heard}: {} says {}", message.0, message.1);
            break;
        }
    }
    Ok(())
}
