//! Against nginx, over the host's own sockets and in real time.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Full};
use hyper::Request;
use throng_http::client::{Client, HttpVersion, Stats};
use throng_net::{Builder, IdlePolicy};

/// What no test should take, on a machine that is busy with others.
const LIMIT: Duration = Duration::from_secs(60);
const FILE: usize = 3_000_000;

struct Nginx {
    process: Child,
    folder: PathBuf,
    http1: SocketAddr,
    http2: SocketAddr,
}

impl Nginx {
    /// Starts one; `None` where there is none to start.
    fn start(name: &str) -> Option<Nginx> {
        let programs = ["nginx", "/usr/sbin/nginx"];
        let there = |program: &&str| {
            let version = Command::new(program).arg("-v").stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        };
        let Some(program) = programs.into_iter().find(there) else {
            println!("skipped: nginx is not installed (Debian: nginx-light)");
            return None;
        };
        let folder =
            std::env::temp_dir().join(format!("throng-nginx-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), vec![b'f'; FILE]).unwrap();
        // Both are held until both are chosen.
        let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [http1, http2] = held.each_ref().map(|listener| listener.local_addr().unwrap());
        drop(held);
        let root = folder.display();
        let site = format!(
            "root {root}; location = /hello {{ return 200 hello; }}
             location = /away {{ return 204; }}
             location = /up {{ client_max_body_size 0; return 200 up; }}"
        );
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {root}/{kind};"))
            .concat();
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/log;
             events {{ worker_connections 500; }}
             http {{
               {temp} access_log off; keepalive_requests 5; keepalive_timeout 1s;
               server {{ listen {http1}; {site} }}
               server {{ listen {http2} http2; {site} }}
             }}"
        );
        let path = folder.join("conf");
        fs::write(&path, configuration).unwrap();
        let process = Command::new(program).arg("-c").arg(&path).spawn().unwrap();
        let nginx = Nginx { process, folder, http1, http2 };
        let begin = Instant::now();
        while TcpStream::connect(http2).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "nginx does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn get(client: &Client, uri: String) -> Bytes {
    let request = Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
    let response = client.request(request).await.unwrap();
    assert!(response.status().is_success(), "{uri}: {}", response.status());
    response.into_body().collect().await.unwrap().to_bytes()
}

/// A conversation on one shard of the host's: requests one by one, many at a time, large
/// bodies both ways, a pause. Nginx closes after every fifth request and after a second.
fn talk(version: HttpVersion, server: SocketAddr) -> (Stats, Stats) {
    let short = Duration::from_micros(50);
    let idle = IdlePolicy::Adaptive { spin: short, pause: short };
    let builder = Builder::new().device("kernel").shards(1).idle(idle);
    let results = builder.run(move |_| async move {
        let conversation = async {
            let client = Client::builder().version(version).max_connections_per_host(8).build();
            for _ in 0..23 {
                assert_eq!(get(&client, format!("http://{server}/hello")).await, "hello");
            }
            let first = client.stats();
            let many = if version == HttpVersion::Http1 { 200 } else { 40 };
            let many = (0..many).map(|i| {
                let path = ["hello", "away"][i % 2];
                get(&client, format!("http://{server}/{path}"))
            });
            for (i, reply) in join_all(many).await.into_iter().enumerate() {
                assert_eq!(reply, ["hello", ""][i % 2]);
            }
            for _ in 0..3 {
                let file = get(&client, format!("http://{server}/file")).await;
                assert!(file.len() == FILE && file.iter().all(|&byte| byte == b'f'));
                let body = Full::new(Bytes::from(vec![1; FILE]));
                let request = Request::put(format!("http://{server}/up")).body(body).unwrap();
                let response = client.request(request).await.unwrap();
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "up");
            }
            // nginx closes them, after its own time.
            while client.connections() > 0 {
                throng_runtime::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(get(&client, format!("http://{server}/hello")).await, "hello");
            (first, client.stats())
        };
        throng_runtime::timeout(LIMIT, conversation).await.expect("it takes too long")
    });
    results.unwrap().pop().unwrap()
}

/// Of 23 requests each went out once and was carried by a new connection or a used one; on a
/// machine that stands still for a second, nginx closes more of them.
fn one_by_one(stats: Stats) {
    assert!(stats.opened >= 5 && stats.reused >= 10, "{stats:?}");
    assert_eq!(stats.opened + stats.reused, 23 + stats.retried, "{stats:?}");
}

#[test]
fn http1_with_connections_that_close_after_five_requests() {
    let Some(nginx) = Nginx::start("http1") else { return };
    let (first, all) = talk(HttpVersion::Http1, nginx.http1);
    one_by_one(first);
    assert!(all.opened >= 46 && all.reused > 100, "{all:?}");
}

#[test]
fn http2_with_connections_that_go_away_after_five_requests() {
    let Some(nginx) = Nginx::start("http2") else { return };
    let (first, all) = talk(HttpVersion::Http2, nginx.http2);
    one_by_one(first);
    assert!(all.opened >= 13 && all.retried > 0, "{all:?}");
}
