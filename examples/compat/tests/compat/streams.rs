//! tokio's helpers for streams, which need no runtime: split, buffered lines, and a proxy that
//! passes the end of each direction on.

use std::io;
use std::net::SocketAddr;

use throng::{Builder, TcpListener, TcpStream, spawn_local};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Answers each line, and says how many there were when the peer has no more.
async fn count(stream: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader).lines();
    let mut count = 0;
    while let Some(line) = lines.next_line().await? {
        count += 1;
        writer.write_all(format!("{count}: {line}\n").as_bytes()).await?;
    }
    writer.write_all(format!("{count} lines\n").as_bytes()).await?;
    writer.shutdown().await
}

async fn proxy(stream: TcpStream, to: SocketAddr) -> io::Result<(u64, u64)> {
    let mut server = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut stream.into_send(), &mut server).await
}

async fn talk() -> io::Result<()> {
    let local: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let (counting, proxying) = (TcpListener::bind(local)?, TcpListener::bind(local)?);
    let (back, front) = (counting.local_addr()?, proxying.local_addr()?);
    let counter = spawn_local(async move { count(counting.accept().await?.0).await });
    let proxy = spawn_local(async move { proxy(proxying.accept().await?.0, back).await });

    let (mut reader, mut writer) = tokio::io::split(TcpStream::connect(front).await?);
    // More than buffers hold, so that reading and writing have to go on side by side.
    let (count, line) = (20_000, "x".repeat(200));
    let writing = spawn_local(async move {
        for _ in 0..count {
            writer.write_all(format!("{line}\n").as_bytes()).await?;
        }
        writer.shutdown().await
    });
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await?;
    for task in [writing, counter] {
        task.await.map_err(io::Error::other)??;
    }
    assert!(answer.starts_with("1: xxx"));
    assert!(answer.ends_with("xxx\n20000 lines\n"), "{:?}", &answer[answer.len() - 50..]);
    let (there, back) = proxy.await.map_err(io::Error::other)??;
    assert_eq!((there, back), (count * 201, answer.len() as u64));
    Ok(())
}

#[test]
fn a_proxy_of_tokios_passes_everything_on() {
    let limited = || async { throng::timeout(std::time::Duration::from_secs(60), talk()).await? };
    let ended = Builder::new().shards(1).run(move |_| limited());
    for result in ended.expect("a shard") {
        result.expect("all of it came through");
    }
}
