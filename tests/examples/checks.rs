//! What is asked of the examples, and servers for those that are clients.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response};
use throng::http::client::{Client, HttpVersion};
use throng::http::{Body, service_fn};
use throng::ws::{self, Message};
use throng::{TcpListener, TcpStream, sleep, spawn_local, timeout};

use super::Checked;

/// A connection, as soon as the server is there.
async fn reach(server: SocketAddr) -> std::io::Result<TcpStream> {
    loop {
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(2), TcpStream::connect(server)).await {
            return Ok(stream);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

pub(crate) async fn echo(server: SocketAddr) -> Checked {
    let stream = reach(server).await?;
    let sent: Vec<u8> = (0..200_000u32).map(|i| (i * 31 % 251) as u8).collect();
    let mut back = Vec::new();
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        writer.write_all(&sent).await?;
        writer.close().await
    };
    let (written, read) = futures::future::join(writing, reader.read_to_end(&mut back)).await;
    written?;
    read?;
    ensure(back == sent, || format!("{} bytes sent, {} came back", sent.len(), back.len()))
}

/// Fetches `url` and wants `text` in the answer.
async fn fetch(client: &Client, url: &str, text: &str) -> Checked {
    let response = client.request(Request::get(url).body(Empty::<Bytes>::new())?).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body);
    ensure(head.status.is_success() && body.contains(text), || format!("{url}: {head:?} {body}"))
}

pub(crate) async fn http(server: SocketAddr) -> Checked {
    drop(reach(server).await?);
    for version in [HttpVersion::Negotiated, HttpVersion::Http2] {
        let client = Client::builder().version(version).build();
        for path in ["/", "/a/path"] {
            fetch(&client, &format!("http://{server}{path}"), &format!(": {path}\n")).await?;
        }
        ensure(client.connections() == 1, || format!("{:?}", client.stats()))?;
    }
    Ok(())
}

#[cfg(feature = "tls")]
pub(crate) async fn https(server: SocketAddr) -> Checked {
    use throng::http::client::TlsConnector;
    use throng::tls::Connector;
    drop(reach(server).await?);
    let (roots, _) = super::run::certificate();
    for (version, text) in [("HTTP/1.1", "http1"), ("HTTP/2.0", "http2")] {
        let connector = Connector::from_pem_file(&roots)?;
        let connector = match text {
            "http1" => TlsConnector::http1(connector),
            _ => TlsConnector::new(connector),
        };
        let client = Client::builder().connector(connector).build();
        fetch(&client, &format!("https://{server}/"), &format!("hello over {version}")).await?;
    }
    let stream = TcpStream::connect(server).await?;
    let connector = Connector::from_pem_file(&roots)?;
    let url = format!("wss://{server}/echo");
    let config = std::rc::Rc::new(ws::Config::default());
    let (mut socket, _) = ws::connect_tls(url, stream, &connector, config).await?;
    says_back(&mut socket).await
}

/// Sends messages and wants them back.
async fn says_back<S>(socket: &mut ws::WebSocket<S>) -> Checked
where
    ws::WebSocket<S>: futures::Stream<Item = Result<Message, ws::Error>>
        + futures::Sink<Message, Error = ws::Error>
        + Unpin,
{
    for message in [Message::text("hello"), Message::binary(vec![7; 70_000])] {
        socket.send(message.clone()).await?;
        let back = socket.next().await.ok_or("the socket has ended")??;
        ensure(back == message, || format!("{} bytes are not what was sent", back.len()))?;
    }
    SinkExt::close(socket).await?;
    Ok(())
}

pub(crate) async fn web_socket(server: SocketAddr) -> Checked {
    let stream = reach(server).await?;
    let (mut socket, _) = ws::connect(format!("ws://{server}/"), stream).await?;
    says_back(&mut socket).await
}

/// Echoes what clients say.
pub(crate) async fn serve_web_socket(listener: TcpListener) -> Checked {
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(async move {
            let mut socket = ws::accept(stream).await?;
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_text() {
                    socket.send(message).await?;
                }
            }
            Ok::<(), ws::Error>(())
        })
        .detach();
    }
}

/// Says what it was asked for.
pub(crate) async fn serve_http(listener: TcpListener) -> Checked {
    let answer = |request: Request<Body>| async move {
        let path = request.uri().path().to_owned();
        let text = format!("asked for {path} by {:?}\n", request.version());
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
    };
    throng::http::serve(listener, service_fn(answer)).await;
    Ok(())
}
