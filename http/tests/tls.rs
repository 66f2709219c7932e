//! HTTPS: the server with TLS below it, in a simulated world, and for curl on loopback.
#![cfg(feature = "tls")]

#[path = "../../tls/tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join;
use futures::{AsyncReadExt, AsyncWriteExt};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use support::{Pair, authority, connector, issue, server_address};
use throng_http::rt::{LocalExecutor, ShardTimer};
use throng_http::{Body, Running, Server, service_fn};
use throng_net::proxy_protocol::ProxyProtocol;
use throng_net::{Builder, TcpListener, TcpStream};
use throng_runtime::{ShardId, now, sleep, spawn_local};
use throng_tls::{Acceptor, ServerConfig, TlsListener, TlsStream, alpn};

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = format!("{:?}", request.version());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::builder().header("spoken", version).body(Full::new(body)).unwrap())
}

fn acceptor() -> Acceptor {
    ServerConfig::new([issue(&["a.test"])]).alpn(alpn::HTTP).build().unwrap()
}

/// Serves on shard 0 of the pair's server.
fn serve(pair: &Pair, server: Server) -> (Running, Rc<TlsListener>) {
    pair.serve(1, || {
        let running = server.clone().start();
        let tcp = TcpListener::bind(server_address()).unwrap();
        let listener = Rc::new(TlsListener::new(tcp, acceptor()));
        let (serving, accepting) = (running.clone(), listener.clone());
        spawn_local(async move {
            serving.serve(accepting, service_fn(echo)).await;
        })
        .detach();
        (running, listener)
    })
    .remove(0)
}

async fn connect(protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(server_address()).await.unwrap();
    let connector = connector().alpn(protocols.iter().copied());
    connector.connect("a.test", tcp).await.unwrap()
}

fn post(body: &[u8]) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::copy_from_slice(body));
    Request::post("https://a.test/").header("host", "a.test").body(body).unwrap()
}

async fn check(response: Response<Incoming>, version: Version, body: &[u8]) {
    assert_eq!(response.version(), version);
    assert_eq!(response.headers()["spoken"], format!("{version:?}"));
    assert!(response.into_body().collect().await.unwrap().to_bytes() == body);
}

/// The handshake's protocol is what is spoken, with bodies larger than all buffers.
#[test]
fn alpn_chooses_the_version() {
    let mut pair = Pair::new(1);
    let (running, _) = serve(&pair, Server::new());
    pair.run(async {
        let body: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        for offer in [&alpn::HTTP[..], &[alpn::HTTP2]] {
            let stream = connect(offer).await;
            assert_eq!(stream.alpn_protocol(), Some(alpn::HTTP2));
            let builder = http2::Builder::new(LocalExecutor).timer(ShardTimer).clone();
            let (mut client, connection) = builder.handshake(stream).await.unwrap();
            spawn_local(async move { connection.await.unwrap() }).detach();
            let response = client.send_request(post(&body)).await.unwrap();
            check(response, Version::HTTP_2, &body).await;
        }
        for offer in [&[alpn::HTTP1][..], &[]] {
            let stream = connect(offer).await;
            assert_eq!(stream.alpn_protocol(), offer.first().copied());
            let (mut client, connection) = http1::handshake(stream).await.unwrap();
            spawn_local(async move { connection.await.unwrap() }).detach();
            for _ in 0..2 {
                client.ready().await.unwrap();
                let response = client.send_request(post(&body)).await.unwrap();
                check(response, Version::HTTP_11, &body).await;
            }
        }
    });
    let counters = running.counters();
    assert_eq!((counters.http2, counters.requests, counters.errors), (2, 6, 0), "{counters:?}");
}

async fn ask(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = vec![0; 1_000];
    let n = stream.read(&mut answer).await.unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

/// Parking is the same with TLS; and an end after it is announced, so it is none of truncation.
#[test]
fn connections_park_and_end_cleanly() {
    let mut pair = Pair::new(1);
    let (running, _) = serve(&pair, Server::new().idle_timeout(Duration::from_secs(20)));
    pair.run(async {
        let mut stream = connect(&[alpn::HTTP1]).await;
        for _ in 0..3 {
            ask(&mut stream).await;
            sleep(Duration::from_secs(10)).await;
        }
        let begin = now();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "close_notify");
        assert!(now() - begin < Duration::from_secs(11));
    });
    let counters = running.counters();
    assert_eq!((counters.parked, counters.idle_timeouts, counters.errors), (3, 1, 0));
}

/// Nor is there another end to an answer without hyper, small or larger than all buffers.
#[test]
fn plain_answers_are_whole_and_end_cleanly() {
    const LARGE: usize = 1_000_000;
    let mut pair = Pair::new(1);
    let running = pair.serve(1, || {
        let running = Server::new().start();
        let tcp = TcpListener::bind(server_address()).unwrap();
        let (serving, listener) = (running.clone(), TlsListener::new(tcp, acceptor()));
        let answer = |request: Request<Body>| async move {
            let length = if request.uri() == "/large" { LARGE } else { 5 };
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; length]))))
        };
        spawn_local(async move {
            serving.serve(listener, service_fn(answer)).await;
        })
        .detach();
        running
    });
    pair.run(async {
        for (path, length) in [("/", 5), ("/large", LARGE)] {
            let mut stream = connect(&[alpn::HTTP1]).await;
            ask(&mut stream).await;
            let last = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
            stream.write_all(last.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("close_notify");
            let body = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
            assert_eq!(answer.len() - body, length);
        }
    });
    let counters = running[0].counters();
    assert_eq!((counters.requests, counters.parked, counters.errors), (4, 0, 0));
}

#[test]
fn a_drain_ends_open_connections_and_handshakes() {
    let mut pair = Pair::new(1);
    let (running, listener) = serve(&pair, Server::new());
    let draining = running.clone();
    pair.world.enter(pair.server, ShardId(0), || {
        let drain = async move {
            sleep(Duration::from_secs(1)).await;
            draining.drain(Duration::from_secs(10)).await;
        };
        spawn_local(drain).detach();
    });
    drop(listener);
    pair.run(async {
        let mut open = connect(&[alpn::HTTP1]).await;
        ask(&mut open).await;
        let mut silent = TcpStream::connect(server_address()).await.unwrap();
        assert_eq!(open.read(&mut [0; 1]).await.unwrap(), 0, "close_notify");
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(now() < throng_runtime::Instant::from_millis(2_000), "{:?}", now());
    });
    assert_eq!(running.connections(), 0);
}

/// A handshake that has begun is as good as a request that is on its way.
#[test]
fn a_drain_with_patience_lets_handshakes_end() {
    let mut pair = Pair::new(1);
    let patience = Duration::from_secs(5);
    let (running, listener) = serve(&pair, Server::new().drain_idle(patience));
    let draining = running.clone();
    drop(listener);
    let drain = pair.world.spawn(pair.server, ShardId(0), async move {
        sleep(Duration::from_millis(500)).await;
        draining.drain(Duration::from_secs(10)).await
    });
    pair.run(async {
        let begun = TcpStream::connect(server_address()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let refused = TcpStream::connect(server_address()).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let _ = begun.set_nodelay(true);
        let mut begun = connector().alpn([alpn::HTTP1]).connect("a.test", begun).await.unwrap();
        ask(&mut begun).await;
        assert_eq!(begun.read(&mut [0; 1]).await.unwrap(), 0, "close_notify");
        assert!(now() < throng_runtime::Instant::from_millis(2_000), "{:?}", now());
    });
    assert!(drain.is_finished() && running.counters().cut == 0);
}

/// And so is a connection whose proxy has not said yet whose it is, in clear or not.
#[test]
fn a_drain_with_patience_lets_headers_of_proxies_come() {
    let mut pair = Pair::new(1);
    let clear = SocketAddr::new(server_address().ip(), 80);
    let running = pair.serve(1, || {
        let running = Server::new().drain_idle(Duration::from_secs(5)).start();
        let proxies = ProxyProtocol::new(|_| true);
        let bind = |at| TcpListener::bind(at).unwrap().proxy_protocol(&proxies);
        let secure = TlsListener::new(bind(server_address()), acceptor());
        let (serving, clear) = (running.clone(), bind(clear));
        spawn_local(async move {
            let secure = serving.serve(secure, service_fn(echo));
            join(serving.serve(clear, service_fn(echo)), secure).await;
        })
        .detach();
        running
    });
    let draining = running[0].clone();
    let drain = pair.world.spawn(pair.server, ShardId(0), async move {
        sleep(Duration::from_millis(500)).await;
        draining.drain(Duration::from_secs(10)).await
    });
    pair.run(async move {
        let mut plain = TcpStream::connect(clear).await.unwrap();
        let mut begun = TcpStream::connect(server_address()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        for stream in [&mut plain, &mut begun] {
            stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n").await.unwrap();
        }
        plain.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        plain.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
        let mut begun = connector().alpn([alpn::HTTP1]).connect("a.test", begun).await.unwrap();
        ask(&mut begun).await;
        assert_eq!(begun.read(&mut [0; 1]).await.unwrap(), 0, "close_notify");
    });
    assert!(drain.is_finished() && running[0].counters().cut == 0);
}

/// A client that gives up, and one that says nothing after its handshake.
#[test]
fn clients_that_leave_are_forgotten() {
    let mut pair = Pair::new(1);
    let (running, listener) = serve(&pair, Server::new());
    pair.run(async {
        for _ in 0..5 {
            let mut stream = connect(&alpn::HTTP).await;
            stream.write_all(b"GET / HT").await.unwrap();
            stream.flush().await.unwrap();
        }
        let _silent = connect(&[]).await;
        sleep(Duration::from_secs(11)).await;
    });
    assert_eq!((running.connections(), listener.counters().finished), (0, 6));
    assert_eq!(running.counters().header_timeouts, 1);
}

fn curl(port: u16, version: &str, roots: &Path) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", version, "--noproxy", "*"])
        .arg("--cacert")
        .arg(roots)
        .args(["--resolve", &format!("a.test:{port}:127.0.0.1")])
        .args(["-d", "from curl", "-w", " by %{http_version} %{ssl_verify_result}"])
        .arg(format!("https://a.test:{port}/"))
        .output()
        .expect("curl was there a moment ago");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn curl_speaks_both_versions() {
    if !Command::new("curl").arg("--version").output().is_ok_and(|out| out.status.success()) {
        println!("skipped: curl is not installed");
        return;
    }
    let roots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("https-roots.pem");
    std::fs::write(&roots, &authority().pem).unwrap();
    let acceptor = acceptor();
    let main = |_| {
        let (acceptor, roots) = (acceptor.clone(), roots.clone());
        async move {
            let tcp = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let port = tcp.local_addr().unwrap().port();
            let running = Server::new().start();
            let curls = throng_runtime::spawn_blocking(move || {
                ["--http1.1", "--http2"].map(|version| curl(port, version, &roots))
            });
            let ending = running.clone();
            let watch = spawn_local(async move {
                let said = curls.await;
                ending.drain(Duration::from_secs(5)).await;
                said
            });
            running.serve(TlsListener::new(tcp, acceptor), service_fn(echo)).await;
            watch.await.unwrap().unwrap()
        }
    };
    let said = Builder::new().device("kernel").shards(1).run(main).unwrap().remove(0);
    assert_eq!(said, ["from curl by 1.1 0", "from curl by 2 0"]);
}
