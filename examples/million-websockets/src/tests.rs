//! Whole runs in small, over the memory device.

use std::time::Duration;

use clap::{CommandFactory, Parser};
use futures::{SinkExt, StreamExt};
use throng::ws::{self, CloseCode, HandshakeError, Message, WebSocket};
use throng::{TcpSocket, TcpStream, runtime};

use crate::Args;
use crate::client::Load;
use crate::drive::{Run, in_memory};
use crate::ends::Server;
use crate::host;
use crate::page::Setting;
use crate::server::{Settings, SlowPolicy};
use crate::stats::Snapshot;

/// Connections that a server has room for in a test without a run.
const ROOM: u32 = 20;

fn run(connections: u32, shards: u16) -> Run {
    let load = Load {
        open_rate: 0,
        echoes: 1_000_000,
        ramp_echo_rate: 500,
        rate: 1_000,
        seconds: 1,
        size: 100,
        tries: 1,
    };
    let (settings, page) = (Settings::default(), Setting::Off);
    Run { connections, load, shards, settings, memory: true, page, hold: false }
}

#[test]
fn a_small_run_is_whole_and_says_what_it_measured() {
    // Three shards, which no rate can be divided by evenly.
    let summary = in_memory("memory:demo-whole", &run(500, 3)).unwrap();
    let json = serde_json::to_value(&summary).unwrap();
    assert!(summary.is_whole(), "{json}");
    assert_eq!(json["broadcast_received"], 500, "{json}");
    // 1,000 a second, for a second: on time or late, but all.
    assert_eq!(json["load"]["count"], 1_000, "{json}");
    assert!(json["ramp"]["count"].as_u64() > Some(0), "{json}");
    let shards = json["server"]["shards"].as_array().unwrap();
    let each: Vec<_> = shards.iter().map(|shard| shard["connections"].as_u64()).collect();
    assert_eq!(each.iter().flatten().sum::<u64>(), 500);
    assert!(each.iter().all(|count| *count > Some(100)), "unevenly spread: {each:?}");
    assert_eq!(json["server"]["connections"], 500);
}

#[test]
fn the_arguments_of_the_server_process_are_its_settings() {
    Args::command().debug_assert();
    let settings = ["--slow", "disconnect", "--queue", "4096", "--ping", "0", "--drain", "3"];
    let memory = ["--send-memory", "70000", "--receive-memory", "80000"];
    let more = ["--max-message", "777", "--max-connections", "9"].into_iter().chain(memory);
    let given = Args::parse_from(["throng-demo"].into_iter().chain(settings).chain(more));
    let fixed = ["throng-demo", "server", "--device", "memory:x", "--connections", "5"];
    let again = fixed.map(str::to_owned).into_iter().chain(given.settings.args());
    let Some(crate::Role::Server { settings, .. }) = Args::parse_from(again).role else {
        panic!("not the server's arguments");
    };
    assert_eq!(format!("{settings:?}"), format!("{:?}", given.settings));
    // A password is nobody else's business.
    let url = "redis://:secret@h".to_owned();
    let settings = Settings { backplane: Some(url.clone()), ..settings };
    assert!(!settings.args().concat().contains("secret"));
    assert_eq!(settings.env(), ("THRONG_BACKPLANE", Some(url.as_str())));
}

async fn connect(path: &str) -> Result<WebSocket<TcpStream>, ws::Error> {
    let (from, to) = host::endpoints(host::House::Many, 0, ROOM);
    let stream = TcpSocket::new().bind(from).connect(to).await?;
    Ok(ws::connect(format!("ws://{to}{path}"), stream).await?.0)
}

async fn heard(socket: &mut WebSocket<TcpStream>) -> Message {
    let next = runtime::timeout(Duration::from_secs(20), socket.next()).await;
    match next.expect("nothing came") {
        Some(Ok(message)) => message,
        other => panic!("no message: {other:?}"),
    }
}

async fn expect(socket: &mut WebSocket<TcpStream>, text: &str) {
    assert_eq!(heard(socket).await, Message::text(text));
}

/// Asks who is in its room until so many are.
async fn until_present(socket: &mut WebSocket<TcpStream>, present: u32) {
    let said = format!(r#"{{"present":{present}}}"#);
    let asking = async {
        loop {
            socket.send(Message::text("/who")).await.unwrap();
            if socket.next().await.unwrap().unwrap() == Message::text(&said) {
                break;
            }
        }
    };
    runtime::timeout(Duration::from_secs(20), asking).await.expect("never so many");
}

/// Runs a client towards a server until the server says `whole` things of itself.
fn with_server<F: Future<Output = ()> + 'static>(
    device: &'static str,
    settings: &Settings,
    client: impl Fn() -> F + Send + Sync,
    whole: impl Fn(&Snapshot) -> bool,
) {
    let mut server = Server::thread(device, 1, ROOM, settings).unwrap();
    host::client(device, 1, ROOM).run(|_| client()).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        // Its shards leave their numbers now and then.
        let snapshot = server.snapshot().unwrap();
        if whole(&snapshot) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{snapshot:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop().unwrap();
}

#[test]
fn paths_are_rooms_and_a_broadcast_reaches_everybody() {
    let settings = Settings { max_message: 1_000, ..Settings::default() };
    let client = || async {
        let mut echo = connect("/echo").await.unwrap();
        let mut a = connect("/rooms/a").await.unwrap();
        let mut b = connect("/rooms/a").await.unwrap();
        let mut other = connect("/rooms/b").await.unwrap();
        // Each is a member when its first answer is there.
        for (socket, present) in [(&mut a, 2), (&mut b, 2), (&mut other, 1)] {
            until_present(socket, present).await;
        }
        a.send(Message::text("hello")).await.unwrap();
        expect(&mut a, "hello").await;
        expect(&mut b, "hello").await;
        let mut sender = connect("/broadcast").await.unwrap();
        echo.send(Message::text("mine")).await.unwrap();
        expect(&mut echo, "mine").await;
        sender.send(Message::text("all")).await.unwrap();
        for socket in [&mut echo, &mut a, &mut b, &mut other] {
            expect(socket, "all").await;
        }
        expect(&mut sender, r#"{"subscribers":5,"refused":0}"#).await;
        expect(&mut sender, "all").await;
        // What is too large, and what is nowhere.
        other.send(Message::binary(vec![0; 1_001])).await.unwrap();
        match other.next().await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Size),
            end => panic!("{end:?}"),
        }
        match connect("/nowhere").await {
            Err(ws::Error::Handshake(HandshakeError::Refused(status))) => assert_eq!(status, 404),
            end => panic!("{end:?}"),
        }
        b.close(None).await.unwrap();
        until_present(&mut a, 1).await;
    };
    with_server("memory:demo-rooms", &settings, client, |end| {
        end.sum(|shard| shard.handshakes) >= 5 && end.sum(|shard| shard.refused) >= 1
    });
}

#[test]
fn no_more_connections_than_were_allowed() {
    let settings = Settings { max_connections: Some(2), ..Settings::default() };
    let client = || async {
        let first = connect("/echo").await.unwrap();
        let _second = connect("/echo").await.unwrap();
        match connect("/echo").await {
            Err(ws::Error::Handshake(HandshakeError::Refused(status))) => assert_eq!(status, 503),
            end => panic!("{:?}", end.map(drop)),
        }
        drop(first);
        let place = async {
            while connect("/echo").await.is_err() {
                runtime::sleep(Duration::from_millis(10)).await;
            }
        };
        runtime::timeout(Duration::from_secs(20), place).await.expect("no place came free");
    };
    with_server("memory:demo-most", &settings, client, |end| {
        end.sum(|shard| shard.handshakes) >= 3 && end.sum(|shard| shard.full) >= 1
    });
}

#[test]
fn who_has_much_echoed_and_reads_nothing_is_disconnected() {
    let settings = Settings { ping: Some(1), queue: 2_048, ..Settings::default() };
    let client = || async {
        let mut deaf = connect("/echo").await.unwrap();
        let talking = async { while deaf.send(Message::binary(vec![0; 30_000])).await.is_ok() {} };
        let ended = runtime::timeout(Duration::from_secs(20), talking).await;
        assert!(ended.is_ok(), "the server holds it for ever");
    };
    with_server("memory:demo-deaf", &settings, client, |end| {
        end.sum(|shard| shard.handshakes) >= 1
    });
}

#[test]
fn a_slow_consumer_is_disconnected_and_counted_and_the_end_is_orderly() {
    let slow = SlowPolicy::Disconnect;
    let settings = Settings { slow, queue: 2_048, ..Settings::default() };
    let mut server = Server::thread("memory:demo-slow", 1, ROOM, &settings).unwrap();
    let client = std::thread::spawn(|| {
        let main = |_| async {
            let mut talker = connect("/rooms/x").await.unwrap();
            // Sits in the room, and reads nothing.
            let slow = connect("/rooms/x").await.unwrap();
            let body = "z".repeat(30_000);
            for _ in 0..1_000 {
                talker.send(Message::text(&body)).await.unwrap();
                expect(&mut talker, &body).await;
                if slow.get_ref().info().is_ok_and(|info| info.error.is_some()) {
                    break;
                }
            }
            assert!(slow.get_ref().info().unwrap().error.is_some(), "it was never disconnected");
            // The server ends now.
            match talker.next().await {
                Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Away),
                end => panic!("{end:?}"),
            }
            assert!(talker.next().await.is_none());
        };
        host::client("memory:demo-slow", 1, ROOM).run(main).unwrap();
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let snapshot = server.snapshot().unwrap();
        if snapshot.sum(|shard| shard.disconnected) == 1 && snapshot.connections == 1 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{snapshot:?}");
    }
    // Time for the client to see it too.
    std::thread::sleep(Duration::from_millis(200));
    server.stop().unwrap();
    client.join().unwrap();
}

/// A redis-server on a free port, killed in the end; `None` where there is none.
struct Engine(std::process::Child, String);

impl Engine {
    fn start() -> Option<Engine> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = std::process::Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--save", "", "--requirepass", "secret"]);
        let Ok(child) = command.stdout(std::process::Stdio::null()).spawn() else {
            println!("skipped: redis-server is missing");
            return None;
        };
        Some(Engine(child, format!("redis://:secret@{address}")))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the backplane of a server counts as many topics.
fn until_joined(server: &mut Server, topics: u64) {
    let begin = std::time::Instant::now();
    while server.snapshot().unwrap().shards[0].backplane.get("topics") != Some(&topics) {
        assert!(begin.elapsed() < Duration::from_secs(20), "not joined");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn rooms_of_two_servers_are_joined_by_redis() {
    let Some(engine) = Engine::start() else { return };
    let settings = Settings { backplane: Some(engine.1.clone()), ..Settings::default() };
    let devices = ["memory:demo-joined-a", "memory:demo-joined-b"];
    let mut servers = devices.map(|it| Server::thread(it, 1, ROOM, &settings).unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let listening = std::thread::spawn(move || {
        let main = |_| {
            let sender = sender.clone();
            async move {
                let mut member = connect("/rooms/a").await.unwrap();
                until_present(&mut member, 1).await;
                sender.send(()).unwrap();
                // Of two topics, which have no order among each other.
                let both = [heard(&mut member).await, heard(&mut member).await];
                for text in ["from the other", "to all"] {
                    assert!(both.contains(&Message::text(text)), "{both:?}");
                }
            }
        };
        host::client(devices[1], 1, ROOM).run(main).unwrap();
    });
    receiver.recv().unwrap();
    // The topic of all, and the room.
    until_joined(&mut servers[1], 2);
    go.send(()).unwrap();
    let main = |_| {
        wait.lock().unwrap().recv().unwrap();
        async {
            let mut member = connect("/rooms/a").await.unwrap();
            member.send(Message::text("from the other")).await.unwrap();
            expect(&mut member, "from the other").await;
            let mut caller = connect("/broadcast").await.unwrap();
            caller.send(Message::text("to all")).await.unwrap();
            expect(&mut member, "to all").await;
            // Its own comes back from the engine, and is not delivered again.
            runtime::sleep(Duration::from_millis(100)).await;
            until_present(&mut member, 1).await;
        }
    };
    host::client(devices[0], 1, ROOM).run(main).unwrap();
    listening.join().unwrap();
    for server in servers {
        server.stop().unwrap();
    }
    let wrong = Settings { backplane: Some("http://x".into()), ..Settings::default() };
    let refused = Server::thread("memory:demo-joined-c", 1, ROOM, &wrong).map(|_| ());
    assert!(refused.unwrap_err().to_string().contains("expected redis://"));
}
