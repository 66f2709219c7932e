//! Much of something: bytes, slow clients, idle clients, WebSockets, streams of HTTP/2.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::Message;

use crate::place::{Client, Place, scaled};

const MIB: usize = 1 << 20;

/// Takes what is sent and says how much it was.
fn sink(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = std::io::BufReader::new(stream);
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: u64 = length.and_then(|length| length.parse().ok()).unwrap_or(0);
                let took = std::io::copy(&mut (&mut stream).take(length), &mut std::io::sink());
                let text = took.unwrap_or(0).to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                );
                let _ = stream.get_mut().write_all(answer.as_bytes());
            });
        }
    });
}

/// A gigabyte each way, of which the balancer holds a few buffers.
#[test]
fn long_bodies_pass_and_take_no_room() {
    let Some(mut place) = Place::new() else { return };
    let Some(_) = place.nginx(9001, "", "location / { }") else { return };
    sink(9002);
    let size = scaled(16, 1_024) * MIB;
    fs::File::create(place.path("file")).unwrap().set_len(size as u64).unwrap();
    let up = format!(
        "[[route]]\npath = \"/up\"\nupstream = \"up\"\n\
         [upstream.up]\nserver = [{{ address = \"{}:9002\" }}]\n",
        place.host()
    );
    let config = format!("{}{up}", place.config(&[(9001, "")], ""));
    let balancer = place.balancer(&config);
    let mut client = Client::to(place.balancer_at()).unwrap();
    let mut piece = vec![0; 256 << 10];
    // Once in small, for what is taken once and for all.
    for big in [false, true] {
        place.forget_peak(balancer);
        let [before, _] = place.memory(balancer);
        let begin = Instant::now();
        let range = if big { "" } else { "range: bytes=0-4194303\r\n" };
        client.send("GET", "/file", range).unwrap();
        let (status, _, length) = client.head().unwrap();
        assert!(matches!(status, 200 | 206));
        let mut left = length as usize;
        while left > 0 {
            let some = left.min(piece.len());
            client.reader().read_exact(&mut piece[..some]).unwrap();
            assert!(piece[..some].iter().all(|byte| *byte == 0));
            left -= some;
        }
        let sent = if big { size } else { 4 * MIB };
        client.send("PUT", "/up", &format!("content-length: {sent}\r\n")).unwrap();
        let mut left = sent;
        while left > 0 {
            let some = left.min(piece.len());
            client.reader().get_mut().write_all(&piece[..some]).unwrap();
            left -= some;
        }
        let (status, _, length) = client.head().unwrap();
        let mut text = vec![0; length as usize];
        client.reader().read_exact(&mut text).unwrap();
        assert_eq!((status, String::from_utf8(text).unwrap()), (200, sent.to_string()));
        let [_, peak] = place.memory(balancer);
        let grown = peak.saturating_sub(before) as usize;
        let took = begin.elapsed();
        println!("{sent} bytes up and {size} down: {} KiB more at most, {took:?}", grown >> 10);
        assert!(!big || grown < 24 * MIB, "{grown} bytes more for bodies of {size}");
    }
}

/// Clients that read a little now and then have nobody wait, and get everything. The last of a
/// thousand begins to read when all others are done: whoever gives up a client that takes nothing
/// for a minute, as nginx and the balancer do by default, is told to wait for it. And each asks as
/// soon as it is connected: one that says nothing for ten seconds is given up, too.
#[test]
fn slow_clients_hold_up_nobody() {
    let Some(mut place) = Place::new() else { return };
    let Some(_) = place.nginx(9001, "", "send_timeout 20m; location / { }") else { return };
    let size = 2 * MIB;
    fs::File::create(place.path("file")).unwrap().set_len(size as u64).unwrap();
    fs::write(place.path("small"), "ok").unwrap();
    let config = place.config(&[(9001, "")], "");
    let config = config.replacen("[http]\n", "[http]\nbody_timeout = \"20m\"\n", 1);
    let balancer = place.balancer(&config);
    let count = scaled(20, 1_000);
    let [before, _] = place.memory(balancer);
    let begin = || {
        let mut client = Client::to(place.balancer_at()).unwrap();
        client.send("GET", "/file", "").unwrap();
        assert_eq!(client.head().unwrap().2, size as u64);
        client
    };
    let mut slow: Vec<Client> = (0..count).map(|_| begin()).collect();
    let mut quick = Client::to(place.balancer_at()).unwrap();
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let begin = Instant::now();
        assert_eq!(quick.ask("GET", "/small", "").unwrap().text(), "ok");
        longest = longest.max(begin.elapsed());
        // A byte of one of them now and then.
        slow[0].reader().read_exact(&mut [0]).unwrap();
    }
    let [now, _] = place.memory(balancer);
    let each = now.saturating_sub(before) / count as u64;
    println!("{count} slow clients: {each} bytes each, another's answer within {longest:?}");
    // Held up they would be until the slow ones are served, which is never.
    assert!(longest < Duration::from_secs(8), "{longest:?}");
    for (number, client) in slow.iter_mut().enumerate() {
        let mut rest = vec![0; size - usize::from(number == 0) * 50];
        client.reader().read_exact(&mut rest).unwrap();
    }
}

/// What an idle client costs, once it has been answered.
#[test]
fn idle_clients_take_little() {
    let Some(mut place) = Place::new() else { return };
    let Some(_) = place.nginx(9001, "", "location / { return 200 ok; }") else { return };
    let more = "keepalive = { connections = 8, idle_timeout = \"1s\" }";
    let balancer = place.balancer(&place.config(&[(9001, "")], more));
    let count = scaled(1_000, 10_000);
    let open = |count: usize| -> Vec<Client> {
        (0..count)
            .map(|_| {
                let mut client = Client::to(place.balancer_at()).unwrap();
                assert_eq!(client.ask("GET", "/", "").unwrap().text(), "ok");
                client
            })
            .collect()
    };
    // What is taken once is taken by the first.
    let first = open(count);
    thread::sleep(Duration::from_secs(1));
    let [before, _] = place.memory(balancer);
    let second = open(scaled(1_000, 9_000));
    thread::sleep(Duration::from_secs(1));
    let [after, _] = place.memory(balancer);
    let each = after.saturating_sub(before) / second.len() as u64;
    println!("{} idle clients more: {each} bytes each", second.len());
    assert!(each < 1_024, "{each}");
    let mut all: Vec<Client> = first.into_iter().chain(second).collect();
    let last = all.len() - 1;
    for at in [0, last / 2, last] {
        assert_eq!(all[at].ask("GET", "/", "").unwrap().text(), "ok");
    }
}

#[test]
fn websockets_pass() {
    let Some(mut place) = Place::new() else { return };
    let listener = TcpListener::bind("0.0.0.0:9001").unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut socket = tungstenite::accept(stream).unwrap();
                while let Ok(message) = socket.read() {
                    if message.is_close() || socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    place.balancer(&place.config(&[(9001, "")], ""));
    let mut sockets: Vec<_> = (0..scaled(8, 200))
        .map(|_| tungstenite::connect(format!("ws://{}/", place.balancer_at())).unwrap().0)
        .collect();
    for round in 0..scaled(10, 100) {
        for (number, socket) in sockets.iter_mut().enumerate() {
            let text = format!("{number} {round} {}", "x".repeat(round * 97));
            socket.send(Message::text(text.clone())).unwrap();
            assert_eq!(socket.read().unwrap(), Message::text(text));
        }
    }
    assert_eq!(place.number("throng_lb_tunnels_total", "") as usize, sockets.len());
}

/// h2load in front, nginx's HTTP/2 behind, both with prior knowledge.
#[test]
fn http2_on_both_sides() {
    let Some(mut place) = Place::new() else { return };
    let Some(_) = place.nginx(9001, "http2", "location / { return 200 ok; }") else { return };
    place.balancer(&place.config(&[(9001, "")], "protocol = \"http2\""));
    let count = scaled(1_000, 50_000).to_string();
    let url = format!("http://{}/", place.balancer_at());
    let done = Command::new("h2load").args(["-n", &count, "-c", "8", "-m", "10", &url]).output();
    let Ok(done) = done else {
        println!("skipped: h2load is not installed (Debian: nghttp2-client)");
        return;
    };
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains(&format!("{count} succeeded, 0 failed, 0 errored")), "{said}");
    assert!(said.contains("Application protocol: h2c"), "{said}");
}
