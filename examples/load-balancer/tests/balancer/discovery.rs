//! Servers that come and go by name and by the operator's word.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::world::{ADMIN, Answer, World, admin, config, exchange, get, wait_until};

const SITE: &str = "location / { return 200 \"$server_addr\"; }";

/// Which servers answer, by their addresses.
fn answering() -> BTreeSet<String> {
    (0..12).map(|_| get("/").text()).collect()
}

#[test]
fn servers_follow_their_name() {
    let Some(mut world) = World::new() else { return };
    let ports = [(9001, "; listen 127.0.0.2:9001; listen 127.0.0.3:9001")];
    let Some(()) = world.nginx_with(&ports, SITE) else { return };
    world.write("names", "127.0.0.1 app.test\n127.0.0.2 app.test\n");
    let dnsmasq = Command::new("dnsmasq")
        .args(["--no-daemon", "--port=5353", "--conf-file=/dev/null", "--user=root", "--no-resolv"])
        .args(["--no-hosts", "--local=/test/", "--listen-address=127.0.0.1", "--bind-interfaces"])
        .arg(format!("--addn-hosts={}", world.path("names").display()))
        .stderr(Stdio::null())
        .spawn();
    let dnsmasq = match dnsmasq {
        Ok(child) => world.adopt(child),
        Err(error) => return println!("skipped: needs dnsmasq (Debian: dnsmasq-base): {error}"),
    };
    wait_until("dnsmasq listens", || TcpStream::connect("127.0.0.1:5353").is_ok());
    let config =
        config(&[9001], "").replace("\"127.0.0.1:9001\"", "\"app.test:9001\", resolve = \"1s\"");
    world.balancer(&format!("{config}[network]\nnameserver = [\"127.0.0.1:5353\"]\n"));
    let of = |addresses: &[&str]| addresses.iter().map(|&text| text.to_owned()).collect();
    wait_until("both are found", || answering() == of(&["127.0.0.1", "127.0.0.2"]));
    world.write("names", "127.0.0.2 app.test\n127.0.0.3 app.test\n");
    world.signal(dnsmasq, Signal::SIGHUP);
    wait_until("one is another", || answering() == of(&["127.0.0.2", "127.0.0.3"]));
    // Without a name server they stay.
    world.kill(dnsmasq);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(answering(), of(&["127.0.0.2", "127.0.0.3"]));
}

#[test]
fn the_operator_drains_a_server_with_the_token_alone() {
    let Some(mut world) = World::new() else { return };
    let ports = [(9001, "; listen 127.0.0.2:9001")];
    let Some(()) = world.nginx_with(&ports, SITE) else { return };
    world.write("token", "0123456789abcdef\n");
    let token = world.path("token").display().to_string();
    let config = config(&[9001], "panic_percent = 100\nsticky = { cookie = \"lb\" }")
        .replace("127.0.0.1:9001\" }", "127.0.0.1:9001\" }, { address = \"127.0.0.2:9001\" }")
        .replace("[admin]\n", &format!("[admin]\ntoken_file = \"{token}\"\n"));
    world.balancer(&config);
    let post = |path: &str, token: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
        );
        Answer::parse(&exchange(ADMIN, request.as_bytes())).unwrap().status
    };
    let this = "upstream=app&server=127.0.0.1:9001";
    assert_eq!(post(&format!("/drain?{this}"), "0123456789abcdee"), 401);
    assert_eq!(post(&format!("/drain?{this}"), ""), 401);
    assert_eq!(post("/drain?upstream=app&server=127.0.0.9:9001", "0123456789abcdef"), 404);
    assert_eq!(post("/drain?upstream=app", "0123456789abcdef"), 400);
    assert_eq!(post("/metrics", "0123456789abcdef"), 405);
    assert_eq!(answering().len(), 2);
    assert_eq!(post(&format!("/drain?{this}"), "0123456789abcdef"), 200);
    for _ in 0..20 {
        assert_eq!(get("/").text(), "127.0.0.2");
    }
    assert!(admin("/metrics").contains("server=\"127.0.0.1:9001\"} 1\n"));
    assert_eq!(post(&format!("/enable?{this}"), "0123456789abcdef"), 200);
    assert_eq!(answering().len(), 2);
}
