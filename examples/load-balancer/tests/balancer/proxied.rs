//! The PROXY protocol: HAProxy and curl in front say who their clients are, and nginx behind is
//! told; in clear, in front of TLS, and for connections that are passed on as they are.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::secure::{SECURE, certificate, curl, secure};
use crate::world::{Answer, LB, World, admin, config, connect, exchange, server, wait_until};

/// What a server behind sees of the client, and what it was told in fields.
const SITE: &str = "location / { return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $remote_addr $http_x_forwarded_for\"; }
    set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;";

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
const TRUSTED: &str = "proxy_protocol = { trusted = [\"127.0.0.1\"], timeout = \"300ms\" }\n";

/// The configuration with a header expected from this machine at the first listener.
fn announced(config: &str) -> String {
    config.replacen("[[listener]]\n", &format!("[[listener]]\n{TRUSTED}"), 1)
}

fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, kind, 0, rest.len() as u8]].concat();
    [&head[..], rest].concat()
}

fn total(name: &str) -> f64 {
    let metrics = admin("/metrics");
    let of = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    metrics.lines().filter(|line| line.starts_with(name)).map(of).sum()
}

#[test]
fn headers_say_who_the_client_is_and_servers_are_told() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx_with(&[(9001, "proxy_protocol")], SITE) else { return };
    let log = format!("[access_log]\nfile = \"{}\"\n", world.path("access").display());
    for (reload, version) in ["v1", "v2"].into_iter().enumerate() {
        let health = "health = { check = \"http\", path = \"/\", interval = \"100ms\", fall = 1 }";
        let more = format!("proxy_protocol = \"{version}\"\n{health}");
        let balancer = world.balancer(&(announced(&config(&[9001], &more)) + &log));
        let ask = |header: &[u8]| {
            let answer = exchange(LB, &[header, GET].concat());
            Answer::parse(&answer).map_or(String::new(), |answer| answer.text())
        };
        let told = "192.0.2.7 4711 198.51.100.1 192.0.2.7 192.0.2.7";
        assert_eq!(ask(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n"), told);
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 18, 103, 0, 80];
        assert_eq!(ask(&v2(0x21, 0x11, &four)), told);
        let six = ask(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n");
        assert_eq!(six, "2001:db8::7 4711 2001:db8::1 2001:db8::7 2001:db8::7");
        // A proxy's own connections are its own.
        for own in [v2(0x20, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
            let own = ask(&own);
            assert!(own.starts_with("127.0.0.1 ") && own.ends_with(" 127.0.0.1"), "{own}");
        }
        // What is none is closed without an answer, also what never ends.
        let before = total("throng_lb_unannounced_total");
        for wrong in [&b""[..], b"PROXY TCP4 x y 1 2\r\n", &v2(0x31, 0x11, &four), b"\r\n\r\n\0\r"]
        {
            let mut stream = connect(LB);
            let rest = if wrong.ends_with(b"\0\r") { &[][..] } else { GET };
            stream.write_all(&[wrong, rest].concat()).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{wrong:?}: {}", String::from_utf8_lossy(&answer));
        }
        assert_eq!(total("throng_lb_unannounced_total") - before, 4.0);
        // nginx would have the checks without a header fail.
        assert!(admin("/state.json").contains("\"up\":true"));
        wait_until("the log", || world.read("access").lines().count() >= 5 * (reload + 1));
        assert!(world.read("access").starts_with("192.0.2.7 - - "));
        world.kill(balancer);
    }
}

/// A connection to a server is of one client's connection alone, and kept for that.
#[test]
fn connections_to_servers_are_not_shared_between_clients() {
    let Some(mut world) = World::new() else { return };
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    server(9001, move |mut stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
            line.push(byte[0]);
        }
        let port = String::from_utf8(line).unwrap().split(' ').nth(4).unwrap().to_owned();
        loop {
            let head = crate::world::read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            log.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_owned() + " " + &port);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    world.balancer(&config(&[9001], "proxy_protocol = \"v1\""));
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect(LB)).collect();
    let mut wanted = Vec::new();
    for round in 0..3 {
        for (n, client) in clients.iter_mut().enumerate() {
            let path = format!("/{round}{n}");
            client.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
            let (mut answer, mut byte) = (Vec::new(), [0]);
            while !answer.ends_with(b"ok") {
                client.read_exact(&mut byte).unwrap();
                answer.push(byte[0]);
            }
            wanted.push(format!("{path} {}", client.local_addr().unwrap().port()));
        }
    }
    assert_eq!(*seen.lock().unwrap(), wanted);
}

#[test]
fn haproxy_and_curl_in_front_of_clear_text_and_tls() {
    let Some(mut world) = World::new() else { return };
    let version = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        println!("skipped: haproxy is not installed (Debian: haproxy)");
        return;
    }
    let Some(()) = world.nginx_with(&[(9001, "proxy_protocol")], SITE) else { return };
    certificate(&world, "front", "front.example");
    let secure = secure(&world).replacen("[[listener]]\n", &format!("[[listener]]\n{TRUSTED}"), 1);
    let passing = format!("[[tcp]]\naddress = \"127.0.0.1:8444\"\nupstream = \"app\"\n{TRUSTED}");
    let balancer = announced(&config(&[9001], "proxy_protocol = \"v2\""));
    world.balancer(&[passing, secure.clone(), balancer].concat());
    let ways: String = [
        (7001, LB, "send-proxy"),
        (7002, LB, "send-proxy-v2"),
        (7003, SECURE, "send-proxy-v2"),
        (7004, "127.0.0.1:8444", "send-proxy"),
    ]
    .iter()
    .map(|(port, to, how)| {
        format!("listen p{port}\n  bind 127.0.0.1:{port}\n  server lb {to} {how}\n")
    })
    .collect();
    world.write(
        "haproxy",
        format!("defaults\n  mode tcp\n  timeout connect 9s\n  timeout client 9s\n  timeout server 9s\n{ways}"),
    );
    let log = File::create(world.path("haproxy.log")).unwrap();
    let haproxy = Command::new("haproxy")
        .arg("-db")
        .arg("-f")
        .arg(world.path("haproxy"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    world.adopt(haproxy);
    for port in 7001..=7004 {
        wait_until("haproxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
    // Its clients come from another address than it does itself.
    let from = ["--interface", "127.0.0.5"];
    for (port, path) in [
        (7001, "http://front.example:7001/"),
        (7002, "http://front.example:7002/"),
        (7003, "https://front.example:7003/"),
        (7004, "http://front.example:7004/"),
    ] {
        let to = format!("front.example:{port}:127.0.0.1");
        let Some(told) = curl(&world, &[&from[..], &["--resolve", &to, path]].concat()) else {
            return;
        };
        let words: Vec<&str> = told.split(' ').collect();
        assert_eq!(
            (words[0], words[2], words[3]),
            ("127.0.0.5", "127.0.0.1", "127.0.0.5"),
            "{path}: {told}"
        );
        assert_eq!(words[4], if port == 7004 { "" } else { "127.0.0.5" }, "{path}: {told}");
    }
    // Straight to the balancer: curl's own header, in front of TLS with HTTP/2.
    let told =
        curl(&world, &["--haproxy-protocol", "--http2", "https://front.example:8443/"]).unwrap();
    assert!(told.starts_with("127.0.0.1 ") && told.ends_with(" 2 200"), "{told}");
    // Another peer is not believed: its header is no request.
    let untrusted = ["--interface", "127.0.0.8", "--haproxy-protocol", "-o", "/dev/null"];
    let answer = curl(&world, &[&untrusted[..], &["http://127.0.0.1:8080/"]].concat()).unwrap();
    assert!(answer.ends_with(" 1.1 400"), "{answer}");
}
