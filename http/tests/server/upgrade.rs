//! Upgrades through hyper.

use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBuf, Write};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode, header};
use throng_http::{Body, BoxError, RequestBody, Server, ServerIo};

use crate::site::{get, read_reply, send};
use crate::support::listener::listen;
use crate::support::{End, run, spawn};

/// Echoes what comes over an upgraded connection.
async fn echo(mut upgraded: Upgraded) -> std::io::Result<()> {
    loop {
        let mut space = [0; 100];
        let mut buf = ReadBuf::new(&mut space);
        let io = &mut upgraded;
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut *io).poll_read(cx, buf.unfilled()))
            .await?;
        let mut rest = buf.filled();
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let io = &mut upgraded;
            let n = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *io).poll_write(cx, rest))
                .await?;
            rest = &rest[n..];
        }
    }
}

async fn service<In>(mut request: Request<In>) -> Result<Response<Empty<Bytes>>, BoxError> {
    let mut response = Response::new(Empty::new());
    if !request.headers().contains_key(header::UPGRADE) {
        return Ok(response);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let natively = request.uri().path() == "/native";
    spawn(async move {
        let upgraded = upgrade.await.unwrap();
        if natively {
            // The stream itself, without hyper's box.
            let parts = upgraded.downcast::<ServerIo<End>>().unwrap();
            let (mut end, ahead) = parts.io.into_parts();
            assert!(ahead.is_empty());
            end.write_all(&parts.read_buf).await.unwrap();
            end.write_all(b"native").await.unwrap();
        } else {
            echo(upgraded).await.unwrap();
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, "echo".parse()?);
    response.headers_mut().insert(header::CONNECTION, "upgrade".parse()?);
    Ok(response)
}

#[test]
fn an_upgraded_connection_belongs_to_the_service() {
    for path in ["/echo", "/native"] {
        upgraded::<Incoming>(path);
        upgraded::<Body>(path);
    }
}

fn upgraded<In: RequestBody + hyper::body::Body>(path: &'static str) {
    for together in [false, true] {
        run(async move {
            let (dialer, listener) = listen();
            let server = Server::new().idle_timeout(Duration::from_secs(5)).start();
            let running = server.clone();
            spawn(async move {
                running.serve(listener, throng_http::service_fn(service::<In>)).await;
            });
            let mut client = dialer.connect();
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\neager"
            );
            // An ordinary request first: the connection has been parked once.
            if together {
                let both = format!("GET / HTTP/1.1\r\nhost: x\r\n\r\n{request}");
                send(&mut client, &both).await;
                assert_eq!(read_reply(&mut client).await.unwrap().status, 200);
            } else {
                assert_eq!(get(&mut client, "/").await.unwrap().status, 200);
                send(&mut client, &request).await;
            }
            assert_eq!(read_reply(&mut client).await.unwrap().status, 101);
            // No timeout, no drain of the server's reaches it any more.
            throng_runtime::sleep(Duration::from_secs(100)).await;
            assert_eq!(server.connections(), 0);
            server.drain(Duration::ZERO).await;
            let mut bytes = [0; 5];
            client.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"eager");
            if path == "/echo" {
                client.write_all(b"later").await.unwrap();
                client.read_exact(&mut bytes).await.unwrap();
                assert_eq!(&bytes, b"later");
            } else {
                let mut rest = String::new();
                client.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "native");
            }
        });
    }
}
