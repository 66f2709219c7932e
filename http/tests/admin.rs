//! The operator's endpoint on a real runtime, asked over the host's loopback.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as HostStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;
use throng_http::admin::Admin;
use throng_net::{Builder, IdlePolicy, ShardId, TcpListener, TcpStream};
use throng_runtime::{current_shard, sleep, spawn_local};

const TOKEN: &str = "sixteen-or-more-letters";

/// What the shards are told by the test.
#[derive(Default)]
struct Control {
    end: AtomicBool,
    /// Shard 1 does nothing else for as long as this is set.
    block: AtomicBool,
    connected: AtomicUsize,
}

/// A server on two shards with the endpoint, and a client that holds 20 connections to it
/// and echoes a little on each all the time.
struct Site {
    admin: SocketAddr,
    control: Arc<Control>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Site {
    fn new(link: &'static str, captures: Option<&Path>) -> Site {
        let control = Arc::new(Control::default());
        let (tell, told) = mpsc::channel();
        let builder = move |address: &str| {
            let adaptive = IdlePolicy::Adaptive {
                spin: Duration::from_micros(20),
                pause: Duration::from_micros(100),
            };
            let builder = Builder::new().device(format!("memory:{link}"));
            builder.address(address).idle(adaptive).shards(2)
        };
        let captures = captures.map(Path::to_owned);
        let server = control.clone();
        let server = std::thread::spawn(move || {
            let run = builder("10.0.0.1/24").run(move |shard| {
                let (control, tell, captures) = (server.clone(), tell.clone(), captures.clone());
                async move {
                    if shard == ShardId(0) {
                        let mut admin = Admin::new("127.0.0.1:0".parse().unwrap());
                        if let Some(folder) = captures {
                            admin = admin.captures(folder, TOKEN).unwrap();
                        }
                        tell.send(admin.start().unwrap()).unwrap();
                    }
                    spawn_local(echo_server()).detach();
                    while !control.end.load(Ordering::Acquire) {
                        while control.block.load(Ordering::Acquire) && shard == ShardId(1) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        sleep(Duration::from_millis(2)).await;
                    }
                }
            });
            run.unwrap();
        });
        let admin = told.recv_timeout(Duration::from_secs(60)).unwrap();
        let client = control.clone();
        let client = std::thread::spawn(move || {
            let run = builder("10.0.0.2/24").run(move |_| {
                let control = client.clone();
                async move {
                    let server = SocketAddr::from(([10, 0, 0, 1], 7));
                    let mut streams = Vec::new();
                    for _ in 0..10 {
                        streams.push(TcpStream::connect(server).await.unwrap());
                        control.connected.fetch_add(1, Ordering::AcqRel);
                    }
                    while !control.end.load(Ordering::Acquire) {
                        for stream in &mut streams {
                            stream.write_chunk(b"hello".as_slice().into()).await.unwrap();
                        }
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            });
            run.unwrap();
        });
        let site = Site { admin, control, threads: vec![client, server] };
        site.until("connections", |site| {
            site.control.connected.load(Ordering::Acquire) == 20
                && site.get("/connections").1["connections"].as_array().unwrap().len() == 20
        });
        site
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Site) -> bool) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            assert!(Instant::now() < patience, "no {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Status, head and body of the answer.
    fn ask(&self, method: &str, target: &str, extra: &str, body: &str) -> (u16, String, String) {
        let mut stream = HostStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        let host = if extra.contains("host: ") { "" } else { "host: localhost\r\n" };
        let head = format!(
            "{method} {target} HTTP/1.1\r\n{host}connection: close\r\n{extra}\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0);
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    fn get(&self, target: &str) -> (u16, Value) {
        let (status, _, body) = self.ask("GET", target, "", "");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    fn capture(&self, method: &str, body: &str) -> (u16, Value) {
        let token = format!("authorization: Bearer {TOKEN}\r\n");
        let (status, _, body) = self.ask(method, "/capture", &token, body);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.control.block.store(false, Ordering::Release);
        self.control.end.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

async fn echo_server() {
    let listener = TcpListener::bind("0.0.0.0:7".parse().unwrap()).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let serving = async move {
            while let Ok(chunk) = stream.read_chunk(65_536).await {
                if chunk.is_empty() {
                    break;
                }
            }
        };
        spawn_local(serving).detach();
    }
}

/// The values of a metric, by its lines.
fn values(text: &str, name: &str) -> Vec<u64> {
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no {program}");
    }
    found
}

#[test]
fn numbers_and_connections_of_all_shards() {
    let site = Site::new("admin-numbers", None);
    let (status, head, text) = site.ask("GET", "/metrics", "", "");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(values(&text, "throng_tcp_connections").iter().sum::<u64>(), 20, "{text}");
    assert_eq!(values(&text, "throng_shard_up"), [1, 1]);
    assert_eq!(values(&text, "throng_tcp_accepts_total").len(), 2);
    assert!(values(&text, "throng_device_rx_frames_total").iter().all(|frames| *frames > 0));
    if has("promtool") {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }

    let (status, stats) = site.get("/stats.json");
    assert_eq!(status, 200);
    let shards = stats["shards"].as_array().unwrap();
    let connections = shards.iter().map(|shard| shard["tcp"]["connections"].as_u64().unwrap());
    assert_eq!(connections.sum::<u64>(), 20);
    assert_eq!(shards[1]["shard"], 1);

    let (mut ids, mut peers, mut pages) = (HashSet::new(), HashSet::new(), 0);
    let mut target = "/connections?limit=7".to_owned();
    loop {
        let (status, page) = site.get(&target);
        assert_eq!(status, 200, "{page}");
        let found = page["connections"].as_array().unwrap();
        assert!(found.len() <= 7 && page["unavailable"].as_array().unwrap().is_empty());
        for connection in found {
            assert_eq!(connection["state"], "Established");
            assert_eq!(connection["local"], "10.0.0.1:7");
            assert!(connection["bytes_received"].as_u64().unwrap() > 0, "{connection}");
            assert!(ids.insert(connection["id"].as_str().unwrap().to_owned()));
            assert!(peers.insert(connection["peer"].as_str().unwrap().to_owned()));
        }
        pages += 1;
        match page["next"].as_str() {
            Some(next) => target = format!("/connections?limit=7&from={next}"),
            None => break,
        }
    }
    assert!(ids.len() == 20 && pages >= 3, "{} on {pages} pages", ids.len());
    let (_, page) = site.get("/connections?shard=1");
    let found = page["connections"].as_array().unwrap();
    assert!(!found.is_empty() && found.iter().all(|connection| connection["shard"] == 1));

    assert_eq!(site.get("/healthz").0, 200);
    for (target, part) in [
        ("/connections?limit=0", "limit"),
        ("/connections?limit=x", "limit"),
        ("/connections?shard=2", "0 to 1"),
        ("/connections?from=1", "next"),
        ("/connections?foo=1", "foo"),
    ] {
        let (status, answer) = site.get(target);
        assert_eq!(status, 400, "{target}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{target}: {answer}");
    }
    for target in ["/", "/capture", "/metrics/", "/../metrics"] {
        assert_eq!(site.get(target).0, 404, "{target}");
    }
    let (status, head, _) = site.ask("POST", "/metrics", "", "x");
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let (status, head, body) = site.ask("HEAD", "/healthz", "", "");
    assert!(status == 200 && body.is_empty(), "{head}");
    for (host, status) in [
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9100", 421),
        ("localhost.evil.example", 421),
        ("", 421),
        ("LOCALHOST:9100", 200),
        ("127.0.0.1:9100", 200),
        ("[::1]:9100", 200),
    ] {
        let extra = format!("host: {host}\r\n");
        assert_eq!(site.ask("GET", "/connections", &extra, "").0, status, "{host:?}");
    }
    let long = format!("x: {}\r\n", "y".repeat(9_000));
    assert_eq!(site.ask("GET", "/healthz", &long, "").0, 431);
}

#[test]
fn a_shard_that_is_stuck_is_reported_and_holds_up_nobody() {
    let site = Site::new("admin-stuck", None);
    site.control.block.store(true, Ordering::Release);
    site.until("stuck shard", |site| site.get("/healthz").0 == 503);
    let begun = Instant::now();
    let (_, health) = site.get("/healthz");
    assert_eq!(health["silent"], serde_json::json!([1]));
    let (_, _, text) = site.ask("GET", "/metrics", "", "");
    assert_eq!(values(&text, "throng_shard_up"), [1, 0]);
    assert_eq!(values(&text, "throng_tcp_connections").len(), 1);
    let (status, page) = site.get("/connections");
    assert_eq!(status, 200);
    assert_eq!(page["unavailable"][0]["shard"], 1);
    assert!(!page["connections"].as_array().unwrap().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    site.control.block.store(false, Ordering::Release);
    site.until("recovery", |site| site.get("/healthz").0 == 200);
}

#[test]
fn captures_for_who_has_the_token() {
    let folder = std::env::temp_dir().join(format!("throng-admin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let addr = "127.0.0.1:0".parse().unwrap();
    assert!(Admin::new(addr).captures(&folder, "short").is_err());
    assert!(Admin::new(addr).captures(folder.join("none"), TOKEN).is_err());

    let site = Site::new("admin-captures", Some(&folder));
    for (extra, method) in [
        ("", "POST"),
        ("authorization: Bearer sixteen-or-more-lettres\r\n", "POST"),
        ("authorization: Bearer sixteen-or-more-letters1\r\n", "DELETE"),
        ("authorization: Basic sixteen-or-more-letters\r\n", "GET"),
        ("authorization: Bearer \r\n", "GET"),
    ] {
        let (status, head, _) = site.ask(method, "/capture", extra, r#"{"file":"a"}"#);
        assert_eq!(status, 401, "{extra}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
    }
    for body in [
        "",
        "{}",
        r#"{"file":"../a"}"#,
        r#"{"file":"/tmp/a"}"#,
        r#"{"file":".a"}"#,
        r#"{"file":""}"#,
        r#"{"file":"a","path":"b"}"#,
        r#"{"file":"a","filter":"foo"}"#,
        r#"{"file":"a","packets":0}"#,
        r#"{"file":"a","shards":[2]}"#,
    ] {
        let (status, answer) = site.capture("POST", body);
        assert_eq!(status, 400, "{body}: {answer}");
    }
    assert_eq!(site.capture("POST", &format!("{{\"file\":\"{}\"}}", "a".repeat(5_000))).0, 413);
    assert_eq!(site.capture("GET", "").0, 404);
    assert_eq!(site.capture("DELETE", "").0, 404);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);

    let order = r#"{"file":"a.pcapng","filter":"tcp dst port 7","snaplen":200,"seconds":60}"#;
    let (status, answer) = site.capture("POST", order);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(site.capture("POST", r#"{"file":"b.pcapng"}"#).0, 409);
    site.until("packets", |site| site.capture("GET", "").1["packets"].as_u64().unwrap() > 30);
    let (status, answer) = site.capture("DELETE", "");
    assert_eq!((status, answer["end"].as_str()), (200, Some("Stopped")), "{answer}");
    assert_eq!(site.capture("POST", order).0, 409, "no file is written over");
    let path = folder.join("a.pcapng");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), answer["bytes"].as_u64().unwrap());
    if has("tshark") {
        let output = Command::new("tshark")
            .args(["-n", "-T", "fields", "-e", "tcp.dstport", "-r"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success());
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(lines.lines().all(|port| port == "7"), "{lines}");
        assert_eq!(lines.lines().count() as u64, answer["packets"].as_u64().unwrap());
    }
    drop(site);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_hosts_own_sockets_have_numbers_too() {
    let outcome = Builder::new().shards(1).run(|_| async {
        let admin = Admin::new("127.0.0.1:0".parse().unwrap()).start().unwrap();
        let asked = throng_runtime::spawn_blocking(move || {
            let mut stream = HostStream::connect(admin).unwrap();
            let request =
                "GET /connections HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = asked.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("kernel"), "{answer}");
        assert_eq!(current_shard(), ShardId(0));
    });
    outcome.unwrap();
}
