//! `https://` through the client: ALPN chooses the version, the certificate is checked.
#![cfg(feature = "tls")]

#[path = "../../tls/tests/support/mod.rs"]
mod support;

use std::cell::Cell;
use std::convert::Infallible;
use std::io::ErrorKind as IoKind;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use support::{Pair, connector, issue, server_address};
use throng_http::client::{Builder, Client, Error, ErrorKind, HttpVersion, TlsConnector};
use throng_http::{Server, service_fn};
use throng_net::TcpListener;
use throng_runtime::spawn_local;
use throng_tls::{ServerConfig, TlsListener, alpn};

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::new(body)))
}

/// Runs a client beside a server with a certificate for this name.
fn run(name: &'static str, client: impl Future<Output = ()> + 'static) {
    let mut pair = Pair::new(1);
    pair.serve(1, || {
        let config = ServerConfig::new([issue(&[name])]).alpn(alpn::HTTP);
        let tcp = TcpListener::bind(server_address()).unwrap();
        let listener = TlsListener::new(tcp, config.build().unwrap());
        spawn_local(async move {
            Server::new().start().serve(listener, service_fn(echo)).await;
        })
        .detach();
    });
    pair.run(client);
}

async fn post(client: &Client, size: usize) -> Result<Version, Error> {
    let sent = Bytes::from(vec![3; size]);
    let request = Request::post("https://10.0.0.1/").body(Full::new(sent.clone())).unwrap();
    let response = client.request(request).await?;
    let version = response.version();
    assert!(response.into_body().collect().await?.to_bytes() == sent);
    Ok(version)
}

#[test]
fn alpn_chooses_the_version() {
    run("10.0.0.1", async {
        let new: fn(throng_tls::Connector) -> TlsConnector = TlsConnector::new;
        let both: [(Builder, Version, u64); 3] = [
            // One connection for all: those that ask meanwhile wait for it.
            (Client::builder().connector(new(connector())), Version::HTTP_2, 1),
            (Client::builder().connector(TlsConnector::http1(connector())), Version::HTTP_11, 20),
            (
                Client::builder()
                    .version(HttpVersion::Http2)
                    .connector(TlsConnector::http2(connector())),
                Version::HTTP_2,
                1,
            ),
        ];
        for (settings, version, connections) in both {
            let client = settings.build();
            for spoken in join_all((0..20).map(|i| post(&client, i * 5_000))).await {
                assert_eq!(spoken.unwrap(), version);
            }
            assert_eq!(client.stats().opened, connections);
            post(&client, 10).await.unwrap();
            assert_eq!(client.stats().opened, connections, "it was kept");
        }
    });
}

#[test]
fn another_hosts_certificate_is_refused() {
    run("a.test", async {
        let client = Client::builder().connector(TlsConnector::new(connector())).build();
        let error = post(&client, 10).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect);
        assert_eq!(std::io::Error::from(error).kind(), IoKind::InvalidData);
        assert_eq!(client.connections(), 0);
    });
}

#[test]
fn an_idle_connection_is_not_cut_off() {
    let mut pair = Pair::new(1);
    let ends = pair.serve(1, || {
        let config = ServerConfig::new([issue(&["10.0.0.1"])]);
        let tcp = TcpListener::bind(server_address()).unwrap();
        let listener = TlsListener::new(tcp, config.build().unwrap());
        let ends = Rc::new(Cell::new(0));
        let count = ends.clone();
        spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 1000];
                assert!(stream.read(&mut bytes).await.unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                stream.flush().await.unwrap();
                // Cut off, it would be an error (RFC 8446 6.1).
                assert_eq!(stream.read(&mut bytes).await.unwrap(), 0);
                count.set(count.get() + 1);
            }
        })
        .detach();
        ends
    });
    pair.run(async {
        let second = Duration::from_secs(1);
        let tls = || TlsConnector::http1(connector());
        let client = Client::builder().connector(tls()).idle_timeout(second).build();
        let request = || Request::get("https://10.0.0.1/").body(Full::<Bytes>::default()).unwrap();
        client.request(request()).await.unwrap();
        throng_runtime::sleep(2 * second).await;
        let client = Client::builder().connector(tls()).build();
        client.request(request()).await.unwrap();
        throng_runtime::sleep(second).await;
        drop(client);
        throng_runtime::sleep(second).await;
    });
    assert_eq!(ends[0].get(), 2);
}
