//! Instructions per event, by callgrind, against the committed snapshot `icount.json`.
//!
//! Each case runs twice, with a number of events and with three times as many; the
//! difference leaves out everything that happens once. Over 3 % more than the snapshot is a
//! failure, and so is a case that is not in it; `--update` writes it anew. The snapshot names
//! the compiler that it was made with, for another one's figures are others.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures::{AsyncReadExt, AsyncWriteExt, SinkExt, StreamExt};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use serde_json::{Map, Value, json};
use throng::http::Body;
use throng::runtime::sim::World;
use throng::runtime::wheel::TimerWheel;
use throng::runtime::{Instant, ShardId};
use throng::{TcpListener, TcpStream};
use throng_bench::callgrind;
use throng_bench::engine::{BURST, Bed, ROW};
use throng_bench::pair::Pair;
use throng_bench::profile::{each, parts, table};

/// More than this share above the snapshot fails.
const TOLERANCE: f64 = 0.03;
/// The snapshot's key for the compiler.
const COMPILER: &str = "rustc";

/// Something that happens over and over.
struct Case {
    name: &'static str,
    /// What one event is.
    what: &'static str,
    /// How many make a run.
    events: u64,
    run: fn(u64),
}

const CASES: &[Case] = &[
    Case {
        name: "segment-received",
        what: "1448-byte segment through the engine, and read",
        events: 3_200,
        run: segment_received,
    },
    Case {
        name: "segment-echoed",
        what: "64-byte segment through the engine, read and sent back",
        events: 3_200,
        run: segment_echoed,
    },
    Case {
        name: "segment-in-row",
        what: "1448-byte segment, one of 16 of a connection, and read",
        events: 3_200,
        run: |events| segments_in_row(events, false),
    },
    Case {
        name: "segment-in-run",
        what: "the same, merged by the stack",
        events: 3_200,
        run: |events| segments_in_row(events, true),
    },
    Case { name: "task-wake", what: "wake and poll of a task", events: 10_000, run: task_wake },
    Case { name: "timer", what: "timer armed and fired", events: 10_000, run: timer },
    Case {
        name: "tcp-echo",
        what: "64-byte echo between two tasks, both stacks",
        events: 1_000,
        run: tcp_echo,
    },
    Case {
        name: "http-request",
        what: "hyper keep-alive request and answer, both stacks",
        events: 500,
        run: http_request,
    },
    Case {
        name: "ws-message",
        what: "64-byte WebSocket message and its echo, both ends",
        events: 500,
        run: ws_message,
    },
];

#[derive(Parser)]
struct Args {
    /// Run only this case, in this process, uncounted
    #[arg(long)]
    case: Option<String>,
    /// Print where these cases' instructions are: of one by source file, of several as a table for
    /// docs/PROFILES.md
    #[arg(long, value_delimiter = ',')]
    profile: Vec<String>,
    /// How many events, with --case
    #[arg(long, default_value_t = 1)]
    events: u64,
    /// Write the snapshot anew
    #[arg(long)]
    update: bool,
    /// One JSON object on the last line
    #[arg(long)]
    json: bool,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.case {
        return match CASES.iter().find(|case| case.name == name) {
            Some(case) => {
                (case.run)(args.events);
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        };
    }
    let done = match &args.profile[..] {
        [] => measure(&args),
        names => profile(names),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("icount: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parts of less than this share of a case are one.
const SMALL: f64 = 0.008;

fn profile(names: &[String]) -> io::Result<bool> {
    let mut all = Vec::new();
    for name in names {
        let case = CASES.iter().find(|case| case.name == name);
        let case = case.ok_or_else(|| io::Error::other(format!("no case {name}")))?;
        all.push((case, profile_of(case)?));
    }
    if let [(case, parts)] = &all[..] {
        print_profile(case, parts);
    } else {
        let all: Vec<_> = all.into_iter().map(|(case, parts)| (case.name, parts)).collect();
        print!("{}", table(&all));
    }
    Ok(true)
}

/// Instructions of an event by part.
fn profile_of(case: &Case) -> io::Result<Vec<(String, f64)>> {
    let program = std::env::current_exe()?;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().unwrap_or(&root);
    let run = |events: u64| {
        let args = arguments(case, events);
        io::Result::Ok(parts(&callgrind::profile(&program, &args)?, root))
    };
    Ok(each(&run(case.events)?, &run(case.events * 3)?, case.events * 2))
}

fn print_profile(case: &Case, all: &[(String, f64)]) {
    let total: f64 = all.iter().map(|(_, count)| count).sum();
    println!("{}: {}, {total:.0} instructions", case.name, case.what);
    let (large, small): (Vec<_>, Vec<_>) =
        all.iter().partition(|(_, count)| *count >= SMALL * total);
    for (part, count) in &large {
        println!("{count:>8.0}  {:>4.1} %  {part}", 100.0 * count / total);
    }
    let rest: f64 = small.iter().map(|(_, count)| count).sum();
    println!("{rest:>8.0}  {:>4.1} %  all else", 100.0 * rest / total);
}

fn arguments(case: &Case, events: u64) -> [String; 4] {
    ["--case".into(), case.name.into(), "--events".into(), events.to_string()]
}

fn snapshot_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("icount.json")
}

/// The compiler's version, in its own words.
fn compiler() -> io::Result<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn measure(args: &Args) -> io::Result<bool> {
    let program = std::env::current_exe()?;
    let snapshot: Map<String, Value> = match std::fs::read_to_string(snapshot_path()) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error),
    };
    let mut counted = Map::new();
    let mut worse = Vec::new();
    let compiler = compiler()?;
    let other = snapshot.get(COMPILER).and_then(Value::as_str).filter(|other| *other != compiler);
    if let Some(other) = other {
        println!("the snapshot is by another compiler: {other}, this is {compiler}");
    }
    for case in CASES {
        let Case { name, what, events, .. } = case;
        let run = |events: u64| callgrind::instructions(&program, &arguments(case, events));
        let count = run(events * 3)?.saturating_sub(run(*events)?) / (events * 2);
        let before = snapshot.get(*name).and_then(Value::as_u64);
        let change = before.map(|before| count as f64 / before as f64 - 1.0);
        let shown = change.map_or("new".to_owned(), |change| format!("{:+.1} %", change * 100.0));
        println!("{name:<18} {count:>8} instructions  {shown:>8}   {what}");
        if change.is_none_or(|change| change > TOLERANCE) {
            worse.push(*name);
        }
        counted.insert((*name).to_owned(), count.into());
    }
    if args.update {
        let mut snapshot = counted.clone();
        snapshot.insert(COMPILER.to_owned(), compiler.into());
        let text = serde_json::to_string_pretty(&snapshot)?;
        std::fs::write(snapshot_path(), text + "\n")?;
    }
    if args.json {
        let line = json!({
            "bench": "icount", "unit": "instructions", "throng": counted, "before": snapshot,
            "worse": worse, "other_compiler": other,
        });
        println!("{line}");
    }
    Ok(worse.is_empty() || args.update)
}

fn segment_received(events: u64) {
    let mut bed = Bed::new(BURST);
    let payload = [0x55; 1_448];
    (0..events / BURST as u64).for_each(|_| bed.burst(&payload, false));
}

fn segments_in_row(events: u64, merged: bool) {
    let mut bed = Bed::new(1);
    let payload = [0x55; 1_448];
    (0..events / ROW as u64).for_each(|_| bed.row(&payload, merged));
}

fn segment_echoed(events: u64) {
    let mut bed = Bed::new(BURST);
    let payload = [0x55; 64];
    (0..events / BURST as u64).for_each(|_| bed.burst(&payload, true));
}

fn task_wake(events: u64) {
    let mut world = World::new();
    let host = world.add_host(vec![Box::new(throng::runtime::driver::NoDriver)]);
    let (waker, polls) = (Rc::new(Cell::new(None::<Waker>)), Rc::new(Cell::new(0)));
    let (kept, counted) = (waker.clone(), polls.clone());
    world.spawn(
        host,
        ShardId(0),
        poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            kept.set(Some(cx.waker().clone()));
            Poll::<()>::Pending
        }),
    );
    world.sweep();
    for _ in 0..events {
        if let Some(waker) = waker.take() {
            waker.wake();
        }
        world.sweep();
    }
    assert_eq!(polls.get(), events + 1);
}

fn timer(events: u64) {
    let mut wheel = TimerWheel::new();
    let mut fired = 0;
    for i in 0..events {
        let now = Instant::from_micros(i * 100);
        wheel.insert(now + Duration::from_millis(200), i);
        wheel.advance(now, usize::MAX, &mut |_| fired += 1);
    }
    wheel.advance(Instant::MAX, usize::MAX, &mut |_| fired += 1);
    assert_eq!(fired, events);
}

/// A listener's first connection.
async fn accepted() -> TcpStream {
    let listener = TcpListener::bind(Pair::endpoint()).expect("a free port");
    let (stream, _) = listener.accept().await.expect("a connection");
    stream.set_nodelay(true).expect("a connection");
    stream
}

async fn connected() -> TcpStream {
    let stream = TcpStream::connect(Pair::endpoint()).await.expect("a server");
    stream.set_nodelay(true).expect("a connection");
    stream
}

fn tcp_echo(events: u64) {
    let server = async {
        let mut stream = accepted().await;
        while let Ok(chunk) = stream.read_chunk(4_096).await {
            if chunk.is_empty() || stream.write_chunk(chunk).await.is_err() {
                break;
            }
        }
    };
    Pair::default().run(server, async move {
        let mut stream = connected().await;
        let message = Bytes::from_static(&[0x55; 64]);
        for _ in 0..events {
            stream.write_chunk(message.clone()).await.expect("room");
            assert_eq!(stream.read_chunk(4_096).await.expect("an echo").len(), message.len());
        }
    });
}

fn http_request(events: u64) {
    let server = async {
        let listener = TcpListener::bind(Pair::endpoint()).expect("a free port");
        let hello = |_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
        };
        throng::http::serve(listener, service_fn(hello)).await;
    };
    Pair::default().run(server, async move {
        let mut stream = connected().await;
        let mut answer = [0; 1_024];
        for _ in 0..events {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: throng\r\n\r\n").await.expect("room");
            let mut len = 0;
            while !answer[..len].ends_with(b"hello\n") {
                let read = stream.read(&mut answer[len..]).await.expect("an answer");
                assert_ne!(read, 0, "the server closed");
                len += read;
            }
        }
    });
}

fn ws_message(events: u64) {
    let server = async {
        let mut socket = throng::ws::accept(accepted().await).await.expect("a handshake");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() && socket.send(message).await.is_err() {
                break;
            }
        }
    };
    Pair::default().run(server, async move {
        let url = format!("ws://{}/", Pair::endpoint());
        let (mut socket, _) =
            throng::ws::connect(url, connected().await).await.expect("a handshake");
        for _ in 0..events {
            let message = throng::ws::Message::binary(vec![0x55; 64]);
            socket.send(message).await.expect("room");
            let echo = socket.next().await.expect("an echo").expect("a message");
            assert_eq!(echo.len(), 64);
        }
    });
}
