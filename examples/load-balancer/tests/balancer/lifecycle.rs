//! How the process begins, is replaced and ends, and what its manager hears of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{
    ADMIN, Answer, LB, PROGRAM, World, admin, config, connect, exchange, get, wait_until,
};

const SITE: &str = "location / { return 200 $server_port; }";

/// What a service manager hears.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Manager(socket)
    }

    /// The next it is told, but for signs of life.
    fn hears(&self) -> String {
        loop {
            let mut buf = [0; 4096];
            let n = self.0.recv(&mut buf).unwrap();
            let said = String::from_utf8(buf[..n].to_vec()).unwrap();
            if said != "WATCHDOG=1" {
                return said;
            }
        }
    }

    fn sees_life(&self) -> bool {
        let mut buf = [0; 4096];
        let n = self.0.recv(&mut buf).unwrap();
        &buf[..n] == b"WATCHDOG=1"
    }
}

#[test]
fn the_manager_hears_of_everything_and_readiness_fails_first() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    let manager = Manager::new(&world.path("notify"));
    let shutdown = "[shutdown]\ndelay = \"1500ms\"\n";
    let mut command = Command::new(PROGRAM);
    command.env("NOTIFY_SOCKET", world.path("notify")).env("WATCHDOG_USEC", "200000");
    let balancer = world.balancer_by(&(config(&[9001], "") + shutdown), command);
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    assert!(manager.sees_life() && manager.sees_life());

    world.signal(balancer, Signal::SIGHUP);
    assert!(manager.hears().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(manager.hears(), "READY=1\nSTATUS=serving");
    world.write("lb.toml", "polizy = 1");
    world.signal(balancer, Signal::SIGHUP);
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    let said = manager.hears();
    assert!(said.starts_with("READY=1\nSTATUS=serving, not reloaded: "), "{said}");

    assert_eq!(admin("/healthz"), "ok\n");
    // Other balancers' checks say no host.
    assert!(exchange(ADMIN, b"GET /healthz HTTP/1.0\r\n\r\n").ends_with(b"\r\n\r\nok\n"));
    // Before, for its second may begin long before we hear of it.
    let begin = Instant::now();
    world.signal(balancer, Signal::SIGTERM);
    assert!(manager.hears().starts_with("STOPPING=1\n"));
    let health =
        exchange(ADMIN, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!(Answer::parse(&health).unwrap().status, 503);
    // Whoever has not noticed yet is still served, on a new connection.
    let answer = get("/");
    if begin.elapsed() < Duration::from_millis(1_000) {
        assert_eq!((answer.status, answer.text().as_str()), (200, "9001"));
    }
    assert!(world.ended(balancer));
    assert!(begin.elapsed() >= Duration::from_millis(1_000), "{:?}", begin.elapsed());
}

/// A socket with what waits in it, as systemd passes it: descriptor 3.
#[test]
fn a_socket_that_is_passed_is_served() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    let socket = TcpListener::bind(LB).unwrap();
    // It comes before anybody accepts.
    let mut early = connect(LB);
    early.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut command = Command::new("sh");
    let start = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    command
        .args(["-c", start, "sh", PROGRAM])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)));
    let balancer = world.balancer_by(&config(&[9001], ""), command);
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("9001"), "{answer}");
    // Two shards share it, and each gets some.
    for _ in 0..4 {
        assert_eq!(get("/").text(), "9001");
    }
    world.signal(balancer, Signal::SIGTERM);
    assert!(world.ended(balancer));
    // It was one of the system's: with the process it is gone, and the port is free.
    TcpListener::bind(LB).unwrap();
}

#[test]
fn a_second_one_is_refused() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    world.balancer(&config(&[9001], ""));
    for second in [
        config(&[9001], ""),
        config(&[9001], "").replacen(":8080", ":8081", 1),
        config(&[9001], "")
            .replacen("127.0.0.1:8080", "[::]:8080", 1)
            .replacen(":9100", ":9101", 1),
    ] {
        let second = world.start(&second);
        assert!(!world.ended(second));
        let log = world.read("lb.log");
        assert!(log.contains("Address already in use"), "{log}");
        assert!(log.contains("send it SIGUSR2"), "{log}");
    }
    assert_eq!(get("/").text(), "9001");
}

/// Asks over connections that are used for as long as they may, or once, until told to stop.
fn ask_on(keep: bool, stop: &AtomicBool, answered: &AtomicU32) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(LB).map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        loop {
            let connection = if keep { "keep-alive" } else { "close" };
            let request = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\n\r\n");
            stream.write_all(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
            let mut answer = Vec::new();
            let mut buf = [0; 4096];
            while !answer.ends_with(b"\r\n\r\n9001") {
                let n = stream.read(&mut buf).map_err(|error| format!("read: {error}"))?;
                if n == 0 {
                    return Err(format!("closed: {:?}", String::from_utf8_lossy(&answer)));
                }
                answer.extend_from_slice(&buf[..n]);
            }
            let answer = Answer::parse(&answer).unwrap();
            if answer.status != 200 {
                return Err(answer.status.to_string());
            }
            answered.fetch_add(1, Ordering::Relaxed);
            if answer.field("connection").as_deref() == Some("close")
                || stop.load(Ordering::Relaxed)
            {
                break;
            }
        }
    }
    Ok(())
}

fn pid() -> i32 {
    let state: serde_json::Value = serde_json::from_str(&admin("/state.json")).unwrap();
    state["pid"].as_i64().unwrap() as i32
}

/// Also of one whose parent, which is nobody here, has not asked after it.
fn has_ended(pid: i32) -> bool {
    // After the name: the state.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, after)| after.starts_with('Z'))
}

/// The program's file is exchanged and the process replaced, again and again, while clients ask;
/// a file that is no program, or does not come to serve, changes nothing.
#[test]
fn the_program_is_replaced_without_a_failed_request() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001, 9002], SITE) else { return };
    let manager = Manager::new(&world.path("notify"));
    let (program, next) = (world.path("throng-lb"), world.path("next"));
    fs::copy(PROGRAM, &program).unwrap();
    let mut command = Command::new(&program);
    command.env("NOTIFY_SOCKET", world.path("notify"));
    world.write("token", "0123456789abcdef\n");
    let token = format!("[admin]\ntoken_file = \"{}\"\n", world.path("token").display());
    let config = config(&[9001, 9002], "").replacen("[admin]\n", &token, 1);
    let first = world.balancer_by(&config, command);
    manager.hears();
    // What the operator has said holds for a successor, too.
    let drain = "POST /drain?upstream=app&server=127.0.0.1:9002 HTTP/1.1\r\nhost: localhost\r\n\
        authorization: Bearer 0123456789abcdef\r\nconnection: close\r\n\r\n";
    assert!(exchange(ADMIN, drain.as_bytes()).ends_with(b"drained\n"));

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = [true, true, true, false, false]
        .into_iter()
        .map(|keep| {
            let (stop, answered) = (stop.clone(), answered.clone());
            thread::spawn(move || ask_on(keep, &stop, &answered))
        })
        .collect();
    let some_more = || {
        let before = answered.load(Ordering::Relaxed);
        wait_until("more answers", || answered.load(Ordering::Relaxed) > before + 100);
    };
    let mut current = pid();
    for round in 0..3 {
        some_more();
        if round == 1 {
            // Ends at once, whoever starts it.
            fs::write(&next, "#!/bin/sh\nexit 7\n").unwrap();
            fs::set_permissions(&next, fs::metadata(&program).unwrap().permissions()).unwrap();
            fs::rename(&next, &program).unwrap();
            kill(Pid::from_raw(current), Signal::SIGUSR2).unwrap();
            let ended =
                "not replaced, this process stays: the new process has ended: exit status: 7";
            wait_until("the refusal", || world.read("lb.log").contains(ended));
            assert_eq!(pid(), current);
            some_more();
        }
        fs::copy(PROGRAM, &next).unwrap();
        fs::rename(&next, &program).unwrap();
        kill(Pid::from_raw(current), Signal::SIGUSR2).unwrap();
        // A successor says so itself once it is the service.
        let mut new = 0;
        wait_until("the manager hears of the successor", || {
            let said = manager.hears();
            new = said.strip_prefix("MAINPID=").map_or(0, |pid| pid.parse().unwrap());
            new != 0
        });
        world.adopt_stranger(new);
        assert_ne!(new, current);
        // The old one may answer until it is done with telling.
        wait_until("the successor alone answers", || pid() == new);
        if round == 0 {
            assert!(world.ended(first), "it drains and ends by itself");
        } else {
            wait_until("the old one ends", || has_ended(current));
        }
        current = new;
    }
    some_more();
    stop.store(true, Ordering::Relaxed);
    let outcomes: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(answered.load(Ordering::Relaxed) > 500);
    kill(Pid::from_raw(current), Signal::SIGTERM).unwrap();
    wait_until("nobody listens", || TcpStream::connect(LB).is_err());
}

/// A process that is to end does not leave one behind that it has just started.
#[test]
fn a_successor_on_its_way_ends_with_the_process() {
    let Some(mut world) = World::new() else { return };
    let Some(()) = world.nginx(&[9001], SITE) else { return };
    let program = world.path("throng-lb");
    fs::copy(PROGRAM, &program).unwrap();
    let balancer = world.balancer_by(&config(&[9001], ""), Command::new(&program));
    // One that never comes to serve.
    let (next, started) = (world.path("next"), world.path("started"));
    let script = format!(
        "#!/bin/sh\necho $$ > {0}.tmp; mv {0}.tmp {0}; exec sleep 600\n",
        started.display()
    );
    fs::write(&next, script).unwrap();
    fs::set_permissions(&next, fs::metadata(&program).unwrap().permissions()).unwrap();
    fs::rename(&next, &program).unwrap();
    world.signal(balancer, Signal::SIGUSR2);
    wait_until("the successor starts", || started.exists());
    let successor: i32 = world.read("started").trim().parse().unwrap();
    world.adopt_stranger(successor);
    // Other signals meanwhile are no reason to give it up.
    world.signal(balancer, Signal::SIGUSR2);
    world.signal(balancer, Signal::SIGHUP);
    thread::sleep(Duration::from_millis(100));
    kill(Pid::from_raw(successor), None).unwrap();
    assert_eq!(get("/").text(), "9001");
    world.signal(balancer, Signal::SIGTERM);
    assert!(world.ended(balancer));
    wait_until("the successor ends", || kill(Pid::from_raw(successor), None).is_err());
}

/// As systemd reads them, with the program where it is here.
#[test]
fn the_units_are_what_systemd_accepts() {
    let folder = std::env::temp_dir().join(format!("throng-lb-units-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut units = Vec::new();
    for sample in fs::read_dir(samples).unwrap() {
        let sample = sample.unwrap();
        let unit = fs::read_to_string(sample.path()).unwrap();
        let unit = unit.replace("/usr/local/bin/throng-lb", PROGRAM);
        units.push(folder.join(sample.file_name()));
        fs::write(units.last().unwrap(), unit).unwrap();
    }
    assert_eq!(units.len(), 2);
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
    match verified {
        Err(error) => println!("skipped: systemd-analyze (Debian: systemd): {error}"),
        Ok(said) => {
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            // Of other units it may say what it will.
            assert!(said.status.success() && !text.contains("throng-lb"), "{text}");
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
