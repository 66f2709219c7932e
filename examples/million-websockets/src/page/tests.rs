//! The page from outside, by sockets of the host's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use throng::ws::topic::Published;
use throng::ws::{self, CloseCode, HandshakeError, Message, WebSocket};
use throng::{Builder, runtime};

use super::{About, Page, Setting};
use crate::report::{Phase, Report};
use crate::server::{Control, Publication};
use crate::stats::ShardStats;

const ANYWHERE: Setting =
    Setting::At(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0));
const CONNECTIONS: u64 = 2_000;

fn start(setting: Setting, control: &Arc<Control>) -> (Page, SocketAddr) {
    let about = About { device: "none".into(), shards: 2, wanted: 5_000, one_process: false };
    let page = Page::start(setting, about, control.clone());
    let said = page.said().split(' ').next().unwrap().trim_start_matches("http://");
    let addr = said.trim_end_matches('/').parse().unwrap_or_else(|_| panic!("{}", page.said()));
    (page, addr)
}

/// A board as a server with two shards would leave it, of which the first has delivered so much.
fn leave(control: &Control, delivered: u64, waiting: u64) {
    let half = CONNECTIONS / 2;
    let stats = ShardStats { connections: half, handshakes: half, ..ShardStats::default() };
    control.board.put(1, stats.clone(), None);
    control.board.put(0, ShardStats { delivered, waiting, ..stats }, None);
}

/// What comes back for one request as it is written.
fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(addr: SocketAddr, line: &str, host: &str) -> String {
    ask(addr, &format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))
}

type Socket = WebSocket<throng::TcpStream>;

async fn open(addr: SocketAddr, origin: Option<&str>) -> Result<Socket, ws::Error> {
    let stream = throng::TcpStream::connect(addr).await?;
    let mut request = ws::IntoClientRequest::into_client_request(format!("ws://{addr}/live"))
        .expect("a good address");
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().expect("a good origin"));
    }
    Ok(ws::connect(request, stream).await?.0)
}

async fn own(addr: SocketAddr) -> Socket {
    open(addr, Some(&format!("http://{addr}"))).await.unwrap()
}

/// The next thing of a kind that the page is told.
async fn told(socket: &mut Socket, what: &str) -> Value {
    let telling = async {
        loop {
            let message = socket.next().await.expect("the end").unwrap();
            let Ok(text) = message.to_text() else { continue };
            let mut said: Value = serde_json::from_str(text).unwrap();
            if said["is"] == what {
                break said["value"].take();
            }
        }
    };
    runtime::timeout(Duration::from_secs(20), telling).await.expect(what)
}

/// The code by which the server closes.
async fn closed(socket: &mut Socket) -> CloseCode {
    let closing = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => break frame.code,
                Some(Ok(_)) => {}
                end => panic!("{end:?}"),
            }
        }
    };
    runtime::timeout(Duration::from_secs(20), closing).await.expect("not closed")
}

/// Runs a visitor on the host's own sockets.
fn visit<F: Future<Output = ()> + 'static>(visitor: impl Fn() -> F + Send + Sync) {
    Builder::new().device("kernel").shards(1).run(|_| visitor()).unwrap();
}

#[test]
fn its_files_are_there_and_nothing_else_and_for_no_other_name() {
    let control = Control::new(2);
    let (page, addr) = start(ANYWHERE, &control);
    let host = addr.to_string();
    let answer = get(addr, "GET /", &host);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-security-policy: default-src 'none';"), "{answer}");
    assert!(answer.contains("<title>Throng"), "{answer}");
    for (line, host, status) in [
        ("GET /page.js", host.as_str(), 200),
        ("HEAD /page.css", host.as_str(), 200),
        ("GET /icon.svg", "localhost", 200),
        ("GET /../Cargo.toml", host.as_str(), 404),
        ("POST /", host.as_str(), 405),
        ("GET /", "demo.example.com", 421),
        ("GET /live", host.as_str(), 403),
    ] {
        let answer = get(addr, line, host);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{line}: {answer}");
    }
    page.end();
    assert!(TcpStream::connect(addr).is_err(), "it goes on");
}

#[test]
fn a_page_is_told_what_is_and_what_was_and_the_end() {
    let control = Control::new(2);
    leave(&control, 0, 0);
    let (page, addr) = start(ANYWHERE, &control);
    let ending = Arc::new(Mutex::new(Some(page)));
    visit(move || {
        let (ending, control) = (ending.clone(), control.clone());
        async move {
            // What it says last is soon too old to be true.
            let report = Report { phase: Phase::Holding, opened: CONNECTIONS, ..Report::default() };
            control.report(report);
            let mut socket = own(addr).await;
            let hello = told(&mut socket, "hello").await;
            assert_eq!(hello["about"]["wanted"], 5_000, "{hello}");
            assert_eq!(hello["tick"]["connections"], CONNECTIONS, "{hello}");
            let looks = hello["history"]["at"].as_array().unwrap().len();
            let tick = told(&mut socket, "tick").await;
            assert_eq!(tick["phase"], "holding", "{tick}");
            assert_eq!(tick["shards"][1]["connections"], CONNECTIONS / 2, "{tick}");
            assert_eq!(tick["pages"], 1, "{tick}");
            // Who comes later sees what was before.
            let hello = told(&mut own(addr).await, "hello").await;
            assert!(hello["history"]["memory"].as_array().unwrap().len() > looks, "{hello}");
            let page = ending.lock().unwrap().take().unwrap();
            let ended = thread::spawn(move || page.end());
            told(&mut socket, "end").await;
            assert_eq!(closed(&mut socket).await, CloseCode::Away);
            ended.join().unwrap();
        }
    });
}

/// Sets a flag at the end, also where that is a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_broadcast_is_counted_and_only_one_is_under_way() {
    static SEEN: AtomicBool = AtomicBool::new(false);
    let control = Control::new(2);
    leave(&control, 500, 0);
    let (page, addr) = start(ANYWHERE, &control);
    // A server that delivers in two steps, the second when the pages have seen the first.
    let (server, stop) = (control.clone(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                for Publication { text, answer } in server.publications() {
                    assert_eq!(text, "hello");
                    let published = Published { subscribers: CONNECTIONS, ..Published::default() };
                    leave(&server, 500 + CONNECTIONS / 4, 1);
                    assert!(answer.expect("nobody asks").send(published).is_ok());
                    while !SEEN.load(Ordering::Acquire) && !stop.load(Ordering::Acquire) {
                        thread::sleep(Duration::from_millis(5));
                    }
                    leave(&server, 500 + CONNECTIONS, 0);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let _stop = Stop(&stop);
        visit(move || async move {
            let (mut socket, mut other) = (own(addr).await, own(addr).await);
            for bad in ["no object", r#"{"broadcast":"a\nb"}"#, r#"{"broadcast":"a","more":1}"#] {
                socket.send(Message::text(bad)).await.unwrap();
                told(&mut socket, "sorry").await;
            }
            let hello = || Message::text(r#"{"broadcast":" hello "}"#);
            socket.send(hello()).await.unwrap();
            // All pages see it, whoever has begun it.
            let going = told(&mut other, "broadcast").await;
            assert_eq!((&going["state"], &going["text"]), (&"going".into(), &"hello".into()));
            assert_eq!(going["delivered"], CONNECTIONS / 4, "{going}");
            other.send(hello()).await.unwrap();
            assert!(told(&mut other, "sorry").await.to_string().contains("under way"));
            SEEN.store(true, Ordering::Release);
            let done = loop {
                let outcome = told(&mut socket, "broadcast").await;
                if outcome["state"] != "going" {
                    break outcome;
                }
            };
            assert_eq!(done["state"], "done", "{done}");
            assert_eq!(done["delivered"], CONNECTIONS, "{done}");
            assert_eq!(done["subscribers"], CONNECTIONS, "{done}");
        });
    });
    page.end();
}

#[test]
fn a_page_can_neither_flood_nor_crowd() {
    let control = Control::new(2);
    let (page, addr) = start(ANYWHERE, &control);
    visit(move || async move {
        let refused = |opened: Result<Socket, ws::Error>| match opened {
            Err(ws::Error::Handshake(HandshakeError::Refused(status))) => status.as_u16(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(open(addr, None).await), 403);
        assert_eq!(refused(open(addr, Some("http://example.com")).await), 403);
        let mut large = own(addr).await;
        large.send(Message::text("x".repeat(super::live::LONGEST + 1))).await.unwrap();
        assert_eq!(closed(&mut large).await, CloseCode::Size);
        let mut many = own(addr).await;
        for _ in 0..20 {
            // It may be closed already.
            let _ = many.send(Message::text("{}")).await;
        }
        assert_eq!(closed(&mut many).await, CloseCode::Policy);
        drop((large, many));
        let mut all = Vec::new();
        let full = runtime::timeout(Duration::from_secs(20), async {
            loop {
                match open(addr, Some(&format!("http://{addr}"))).await {
                    Ok(socket) => all.push(socket),
                    full => break refused(full),
                }
            }
        });
        assert_eq!(full.await.expect("no end"), 503);
        assert!((24..=32).contains(&all.len()), "{}", all.len());
        // A place that is given up is free again.
        drop(all);
        runtime::timeout(Duration::from_secs(20), async {
            while open(addr, Some(&format!("http://{addr}"))).await.is_err() {
                runtime::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("no place is free again");
    });
    page.end();
}

#[test]
fn a_taken_port_is_another_ones_and_no_page_is_no_page() {
    let control = Control::new(2);
    let (first, addr) = start(ANYWHERE, &control);
    let (second, other) = start(Setting::At(addr), &control);
    assert_ne!(addr, other);
    let said = format!("http://{other}/ (port {} is taken)", addr.port());
    assert_eq!(second.said(), said);
    second.end();
    first.end();
    let about = About { device: "none".into(), shards: 2, wanted: 1, one_process: true };
    let nowhere = Setting::At("203.0.113.1:80".parse().unwrap());
    let none = Page::start(nowhere, about.clone(), control.clone());
    assert!(none.said().starts_with("none, 203.0.113.1:80: "), "{}", none.said());
    none.end();
    assert_eq!(Page::start(Setting::Off, about, control).said(), "off");
}

#[test]
fn settings_are_written_as_they_are_read() {
    for (text, said) in [("off", "off"), ("8081", "127.0.0.1:8081"), ("[::1]:0", "[::1]:0")] {
        let setting: Setting = text.parse().unwrap();
        assert_eq!(setting.args(), ["--page", said]);
    }
    assert!("example.com:80".parse::<Setting>().is_err());
}
