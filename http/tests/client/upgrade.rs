//! Switching protocols.

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt};
use http_body_util::Empty;
use hyper::Request;
use throng_http::client::{Client, ErrorKind, upgrade};

use crate::world::{OK, SECOND, get, pause, raw, read_head, text, world, write};

fn switch(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://10.0.0.1{path}"))
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Empty::new())
        .unwrap()
}

fn server() {
    raw(|_, mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            if head.starts_with("GET /no") {
                write(&mut stream, OK).await;
                continue;
            }
            let response = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                 upgrade: echo\r\n\r\nright behind";
            write(&mut stream, response).await;
            let mut bytes = [0; 100];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                stream.write_all(&bytes[..n]).await.unwrap();
            }
            return;
        }
    });
}

#[test]
fn the_stream_is_handed_out_with_what_came_ahead() {
    world(server, async {
        let client = Client::builder().total_timeout(SECOND).max_connections_per_host(1).build();
        get(&client, "/no").await.unwrap();
        let response = client.request(switch("/")).await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], "echo");
        let mut stream = upgrade(response).await.unwrap();
        // It is the client's no more: neither counted nor timed.
        assert_eq!(client.connections(), 0);
        get(&client, "/no").await.unwrap();
        drop(client);
        pause(5 * SECOND).await;
        let mut bytes = [0; 12];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"right behind");
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut bytes[..5]).await.unwrap();
        assert_eq!(&bytes[..5], b"hello");
        stream.close().await.unwrap();
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
    });
}

#[test]
fn a_refused_switch_is_an_ordinary_response() {
    world(server, async {
        let client = Client::new();
        let response = client.request(switch("/no")).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "ok");
        let response = client.request(switch("/no")).await.unwrap();
        assert_eq!(upgrade(response).await.unwrap_err().kind(), ErrorKind::NotUpgraded);
        pause(SECOND).await;
        assert_eq!((client.stats().opened, client.connections()), (1, 1));
    });
}

#[test]
fn a_switch_nobody_takes_up_closes_the_connection() {
    world(server, async {
        let client = Client::new();
        let response = client.request(switch("/")).await.unwrap();
        assert_eq!(client.connections(), 1);
        drop(response);
        pause(SECOND).await;
        assert_eq!(client.connections(), 0);
    });
}
