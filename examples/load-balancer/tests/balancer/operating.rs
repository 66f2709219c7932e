//! Reload, drain, log, and what the program says of configurations.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::world::{ADMIN, LB, World, admin, config, connect, get, read_head, server, wait_until};

const SITE: &str = "location / { return 200 $server_port; }";

fn check(file: &Path) -> (bool, String) {
    let checked = Command::new(env!("CARGO_BIN_EXE_throng-lb")).arg("--check").arg(file).output();
    let checked = checked.unwrap();
    (checked.status.success(), String::from_utf8(checked.stderr).unwrap())
}

#[test]
fn the_samples_and_the_default_are_right() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut count = 0;
    for sample in fs::read_dir(samples).unwrap() {
        let path = sample.unwrap().path();
        assert_eq!(check(&path), (true, String::new()), "{}", path.display());
        count += 1;
    }
    assert!(count >= 3, "{count}");
    let shown = Command::new(env!("CARGO_BIN_EXE_throng-lb")).arg("--print-default").output();
    let file = std::env::temp_dir().join(format!("throng-lb-default-{}", std::process::id()));
    fs::write(&file, shown.unwrap().stdout).unwrap();
    assert_eq!(check(&file), (true, String::new()));
    fs::write(&file, "[[listener]]\naddress = 8080\n").unwrap();
    let (fine, said) = check(&file);
    fs::remove_file(&file).unwrap();
    assert!(!fine && said.contains(":2: address = 8080: "), "{said}");
}

/// Two clients with a connection each ask on and on while the configuration is changed many
/// times, to bad ones as well.
#[test]
fn a_reload_loses_no_request_and_a_bad_file_changes_nothing() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001, 9002], SITE) else { return };
    let balancer = world.balancer(&config(&[9001], ""));
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, asked) = (stop.clone(), asked.clone());
            thread::spawn(move || {
                let mut stream = connect(LB);
                let mut buf = [0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
                    let mut answer = Vec::new();
                    while !answer.ends_with(b"\r\n\r\n9001") && !answer.ends_with(b"\r\n\r\n9002") {
                        let n = stream.read(&mut buf).unwrap();
                        assert!(n > 0, "closed: {}", String::from_utf8_lossy(&answer));
                        answer.extend_from_slice(&buf[..n]);
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 200"));
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let reloads = |done: u32, refused: u32| {
        let state = admin("/state.json");
        state.contains(&format!("\"reloads\":{done},\"reloads_refused\":{refused}"))
    };
    for round in 0..10 {
        let port = [9002, 9001][round as usize % 2];
        world.write("lb.toml", config(&[port], ""));
        world.signal(balancer, Signal::SIGHUP);
        wait_until("the reload", || reloads(round + 1, round));
        assert_eq!(get("/").text(), port.to_string());
        world.write("lb.toml", config(&[port], "polizy = 1"));
        world.signal(balancer, Signal::SIGHUP);
        wait_until("the refusal", || reloads(round + 1, round + 1));
        assert_eq!(get("/").text(), port.to_string());
    }
    world.write("lb.toml", config(&[9001], "").replacen("8080", "8081", 1));
    world.signal(balancer, Signal::SIGHUP);
    wait_until("the refusal", || reloads(10, 11));
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(asked.load(Ordering::Relaxed) > 100, "{asked:?}");
    let log = world.read("lb.log");
    assert!(log.contains("polizy = 1: unknown field `polizy`"), "{log}");
    assert!(log.contains("[[listener]] can only change with a restart"), "{log}");
}

#[test]
fn sigterm_lets_requests_end() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").unwrap();
        // The rest comes when the balancer listens no more.
        while std::net::TcpStream::connect(LB).is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
        stream.write_all(b"rest").unwrap();
    });
    let balancer = world.balancer(&config(&[9001], ""));
    let mut stream = connect(LB);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"half") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        seen.push(byte[0]);
    }
    world.signal(balancer, Signal::SIGTERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "rest");
    assert!(world.ended(balancer));
}

/// The endpoint is one shard's business; the others must not go on alone.
#[test]
fn a_balancer_that_cannot_begin_ends() {
    let Some(mut world) = World::new() else { return };
    for (from, to, wanted) in [
        (ADMIN, "192.0.2.1:9100", "throng-lb: admin.address 192.0.2.1:9100: "),
        ("[admin]\n", "[admin]\ntoken_file = \"/nowhere\"\n", "admin.token_file /nowhere: "),
        (
            "[admin]\n",
            "[[tcp]]\naddress = \"192.0.2.1:9102\"\nupstream = \"app\"\n[admin]\n",
            "throng-lb: 192.0.2.1:9102: ",
        ),
    ] {
        let balancer = world.start(&config(&[9001], "").replacen(from, to, 1));
        assert!(!world.ended(balancer));
        let log = world.read("lb.log");
        assert!(log.contains(wanted), "{log}");
    }
}

/// As nginx has it: 499.
#[test]
fn the_access_log_knows_who_left_early() {
    let Some(mut world) = World::new() else { return };
    server(9001, |mut stream| {
        read_head(&mut stream);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let log = format!("[access_log]\nfile = \"{}\"\n", world.path("access").display());
    world.balancer(&format!("{}{log}", config(&[9001], "")));
    let mut stream = connect(LB);
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    drop(stream);
    wait_until("a line", || world.read("access").ends_with('\n'));
    let line = world.read("access");
    assert!(line.contains("\"GET /slow HTTP/1.1\" 499 0 "), "{line}");
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_is_opened_anew() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    let log =
        format!("[access_log]\nfile = \"{}\"\nformat = \"json\"\n", world.path("access").display());
    let balancer = world.balancer(&format!("{}{log}", config(&[9001], "")));
    get("/one?x='y'");
    get("/two");
    let lines = |world: &World, name: &str| world.read(name).lines().count();
    // The helper's own connections are no requests.
    wait_until("two lines", || lines(&world, "access") == 2);
    fs::rename(world.path("access"), world.path("old")).unwrap();
    world.signal(balancer, Signal::SIGHUP);
    wait_until("the file is opened anew", || world.path("access").exists());
    wait_until("and written", || {
        get("/three");
        lines(&world, "access") > 0
    });
    let old = world.read("old");
    let line: serde_json::Value = serde_json::from_str(old.lines().next().unwrap()).unwrap();
    assert_eq!(line["uri"], "/one?x='y'");
    assert_eq!((&line["status"], &line["bytes"]), (&200.into(), &4.into()));
    assert_eq!((&line["client"], &line["server"]), (&"127.0.0.1".into(), &"127.0.0.1:9001".into()));
    world.signal(balancer, Signal::SIGTERM);
    assert!(world.ended(balancer));
}
