//! SIGTERM to a real process with requests and WebSockets under way.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use throng_http::{Drain, Server, service_fn};
use throng_net::{Builder, TcpListener};
use throng_runtime::{sleep, spawn_local};
use throng_ws::Config;

const ROLE: &str = "THRONG_TEST_TERMINATE";
const DEADLINE: Duration = Duration::from_secs(5);

/// Not a test: the process that is terminated, on two shards of the host's sockets.
#[test]
fn server_process() {
    let Some(addr) = std::env::var_os(ROLE) else { return };
    let addr: SocketAddr = addr.to_str().unwrap().parse().unwrap();
    let outcomes = Builder::new().shards(2).run(move |_| async move {
        let drain = Drain::on_terminate(DEADLINE);
        let config = std::rc::Rc::new(Config::default().drain(drain.clone()));
        let listener = TcpListener::bind(addr).unwrap();
        println!("listening");
        let service = service_fn(move |request| answer(request, config.clone()));
        Server::new().start().serve_until(&drain, listener, service).await;
        let drained = drain.ended().await;
        println!("drained {} {}", drained.finished, drained.cut);
    });
    outcomes.unwrap();
}

async fn answer(
    mut request: Request<Incoming>,
    config: std::rc::Rc<Config>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if throng_ws::is_upgrade(&request) {
        let (response, upgrading) = throng_ws::upgrade_with(&mut request, config).unwrap();
        let reading = async move {
            let mut socket = upgrading.await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        };
        spawn_local(reading).detach();
        return Ok(response);
    }
    if request.uri().path() == "/slow" {
        sleep(Duration::from_millis(1_000)).await;
    }
    Ok(Response::new(Full::from("answer")))
}

struct Process {
    child: Child,
    addr: SocketAddr,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start() -> Process {
        // A port that is free at the moment.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["server_process", "--exact", "--nocapture"])
            .env(ROLE, addr.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Process { child, addr, lines };
        process.line("listening");
        process.line("listening");
        process
    }

    /// The next line that contains `part`.
    fn line(&mut self, part: &str) -> String {
        let found = self.lines.by_ref().map_while(Result::ok).find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("it ended before it said {part:?}"))
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// An open WebSocket.
    fn websocket(&self) -> TcpStream {
        let mut stream = self.send(
            "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let head = head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream
    }

    /// Waits for its end: the exit code and the time since `begun`.
    fn end(mut self, begun: Instant) -> (Option<i32>, Duration) {
        while self.lines.next().is_some() {}
        let status = self.child.wait().unwrap();
        (status.code(), begun.elapsed())
    }
}

/// Everything up to the empty line.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn rest(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    rest
}

/// A close frame of a server's with code 1001, and of a client's, masked with zeros.
const AWAY: [u8; 4] = [0x88, 2, 3, 0xe9];
const AWAY_TOO: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 3, 0xe9];

fn is_away(stream: &mut TcpStream) {
    let mut frame = [0; 4];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame, AWAY);
}

#[test]
fn what_is_under_way_ends_and_the_exit_is_clean() {
    let mut process = Process::start();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut idle = process.send(&get("/"));
    assert!(head(&mut idle).starts_with("HTTP/1.1 200"));
    let mut body = [0; 6];
    idle.read_exact(&mut body).unwrap();
    let sockets: Vec<_> = (0..6).map(|_| process.websocket()).collect();
    let mut slow: Vec<_> = (0..6).map(|_| process.send(&get("/slow"))).collect();
    let mut half = process.send("GET / HTTP/1.1\r\nhost: x\r\n");
    std::thread::sleep(Duration::from_millis(300));

    let begun = Instant::now();
    process.terminate();
    assert_eq!(rest(&mut idle), "", "a connection between two requests is closed");
    for mut socket in sockets {
        is_away(&mut socket);
        socket.write_all(&AWAY_TOO).unwrap();
        assert_eq!(rest(&mut socket), "");
    }
    assert!(TcpStream::connect(process.addr).is_err(), "nobody is accepted any more");
    half.write_all(b"\r\n").unwrap();
    for stream in slow.iter_mut().chain([&mut half]) {
        let answer = rest(stream);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("answer"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
    for _ in 0..2 {
        let line = process.line("drained ");
        assert!(line.ends_with(" 0"), "{line}");
    }
    let (code, took) = process.end(begun);
    assert_eq!(code, Some(0));
    assert!(took < DEADLINE, "{took:?}");
}

#[test]
fn what_is_left_at_the_deadline_is_cut() {
    let process = Process::start();
    let mut silent: Vec<_> = (0..4).map(|_| process.websocket()).collect();
    let begun = Instant::now();
    process.terminate();
    silent.iter_mut().for_each(is_away);
    // They do not answer.
    let (code, took) = process.end(begun);
    assert_eq!(code, Some(0));
    assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(20), "{took:?}");
    for mut socket in silent {
        let mut left = Vec::new();
        // Cut off: with the end of the stream, or a reset.
        let _ = socket.read_to_end(&mut left);
        assert!(left.is_empty());
    }
}
