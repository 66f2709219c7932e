//! tokio, with hyper for HTTP: a runtime of one thread.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{LocalSet, spawn_local};

use crate::{Args, Kind};

/// Bytes read or written at a time in bulk.
const CHUNK: usize = 256 << 10;
/// Room for an echoed message.
const MESSAGE: usize = 4_096;

pub(crate) fn run(kind: Kind, args: &Args) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        if matches!(kind, Kind::TokioUdp) {
            return all_datagrams(args).await;
        }
        let listener = TcpListener::from_std(crate::listen(args)?)?;
        let body = Bytes::from(page(args.body));
        let chunk: Rc<[u8]> = vec![7; CHUNK].into();
        loop {
            let (stream, _) = listener.accept().await?;
            if matches!(kind, Kind::TokioAccept) {
                continue;
            }
            stream.set_nodelay(true)?;
            let (body, chunk) = (body.clone(), chunk.clone());
            spawn_local(async move {
                // A client that goes away ends its own connection and nothing else.
                let _ = match kind {
                    Kind::TokioHttp => pages(stream, body).await,
                    Kind::TokioBulk => bulk(stream, &chunk).await,
                    _ => echo(stream).await,
                };
            });
        }
    })
}

/// A body of this length: `hello` and more of the same.
fn page(len: usize) -> Vec<u8> {
    b"hello\n".iter().copied().cycle().take(len).collect()
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; MESSAGE];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn pages(stream: TcpStream, body: Bytes) -> io::Result<()> {
    let serve = service_fn(move |_| {
        let body = body.clone();
        async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), serve)
        .await
        .map_err(io::Error::other)
}

async fn bulk(mut stream: TcpStream, chunk: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let read = stream.read(&mut buffer[..1]).await?;
    if buffer[..read] == *b"d" {
        loop {
            stream.write_all(chunk).await?;
        }
    }
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn all_datagrams(args: &Args) -> io::Result<()> {
    let mut serving = Vec::new();
    for i in 0..args.sockets {
        let listen = SocketAddr::new(args.listen.ip(), args.listen.port() + i);
        serving.push(spawn_local(datagrams(UdpSocket::bind(listen).await?)));
    }
    crate::listening();
    for one in serving {
        one.await.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn datagrams(socket: UdpSocket) -> io::Result<()> {
    let mut buffer = [0; MESSAGE];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await?;
        // A full queue loses a datagram, as a network does.
        let _ = socket.send_to(&buffer[..len], from).await;
    }
}
