//! What the tests have in common: a namespace, nginx, the balancer, a client.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) use crate::children::wait_until;
use crate::children::{Children, LIMIT};

/// Where the balancer listens, and its metrics are.
pub(crate) const LB: &str = "127.0.0.1:8080";
pub(crate) const ADMIN: &str = "127.0.0.1:9100";

/// The balancer.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_throng-lb");

/// A folder and a network of one test's own. Threads and processes that it starts share it.
pub(crate) struct World {
    folder: PathBuf,
    children: Children,
    strangers: Vec<Pid>,
}

impl World {
    /// `None`, said, where this machine cannot have one.
    pub(crate) fn new() -> Option<World> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: needs a network namespace (root, or `unshare -Urn`): {error}");
            return None;
        }
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        if !up.is_ok_and(|status| status.success()) {
            println!("skipped: `ip` (Debian: iproute2) does not bring up the loopback interface");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("throng-lb-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Some(World { folder, children: Children::default(), strangers: Vec::new() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// One nginx that listens at 127.0.0.1:`port` for each of them, with `site` in which
    /// `$server_port` tells them apart. `None`, said, without an nginx.
    pub(crate) fn nginx(&mut self, ports: &[u16], site: &str) -> Option<()> {
        let ports: Vec<_> = ports.iter().map(|port| (*port, "")).collect();
        self.nginx_with(&ports, site)
    }

    /// The same, with options for each port.
    pub(crate) fn nginx_with(&mut self, ports: &[(u16, &str)], site: &str) -> Option<()> {
        let program = crate::children::nginx()?;
        let root = self.folder.display();
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {root}/{kind};"))
            .concat();
        let servers: String = ports
            .iter()
            .map(|(port, options)| {
                format!("server {{ listen 127.0.0.1:{port} {options}; {site} }}")
            })
            .collect();
        let name = format!("nginx-{}", ports[0].0);
        let configuration = format!(
            "daemon off; master_process off; pid {root}/{name}.pid; error_log {root}/{name}.log;
             events {{ worker_connections 500; }}
             http {{ {temp} access_log off; keepalive_requests 50; root {root};
                     client_max_body_size 0; {servers} }}"
        );
        self.write(&name, configuration);
        let nginx = Command::new(program).arg("-c").arg(self.path(&name)).spawn().unwrap();
        self.children.adopt(nginx);
        for (port, _) in ports {
            wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", *port)).is_ok());
        }
        Some(())
    }

    /// Starts the balancer. It is ended with the world, or by the caller by its number.
    pub(crate) fn start(&mut self, config: &str) -> usize {
        self.start_by(config, Command::new(PROGRAM))
    }

    /// The same with a command that lacks only the configuration.
    pub(crate) fn start_by(&mut self, config: &str, mut command: Command) -> usize {
        self.write("lb.toml", config);
        let log = fs::File::create(self.path("lb.log")).unwrap();
        let balancer = command
            .arg(self.path("lb.toml"))
            .env("THRONG_SHARDS", "2")
            .env("THRONG_IDLE", "adaptive")
            .env_remove("RUST_LOG")
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.adopt(balancer)
    }

    /// Starts the balancer and waits until it answers.
    pub(crate) fn balancer(&mut self, config: &str) -> usize {
        self.balancer_by(config, Command::new(PROGRAM))
    }

    /// The same with a command that lacks only the configuration.
    pub(crate) fn balancer_by(&mut self, config: &str, command: Command) -> usize {
        let balancer = self.start_by(config, command);
        wait_until("the balancer listens", || {
            if let Some(status) = self.children.status(balancer) {
                panic!("the balancer: {status}: {}", self.read("lb.log"));
            }
            // Each shard comes when it comes: the endpoint is the first one's.
            TcpStream::connect(LB).is_ok() && TcpStream::connect(ADMIN).is_ok()
        });
        balancer
    }

    /// Has a process that is nobody's child end with the world.
    pub(crate) fn adopt_stranger(&mut self, pid: i32) {
        self.strangers.push(Pid::from_raw(pid));
    }

    pub(crate) fn last_child(&self) -> usize {
        self.children.count() - 1
    }
}

/// Its processes.
impl Deref for World {
    type Target = Children;

    fn deref(&self) -> &Children {
        &self.children
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Children {
        &mut self.children
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // They have files in the folder.
        self.children = Children::default();
        for stranger in &self.strangers {
            let _ = kill(*stranger, Signal::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("the balancer's log:\n{}", self.read("lb.log"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A configuration with one upstream of these servers, and more lines for it.
pub(crate) fn config(servers: &[u16], upstream: &str) -> String {
    let servers: Vec<String> =
        servers.iter().map(|port| format!("{{ address = \"127.0.0.1:{port}\" }}")).collect();
    format!(
        "[[listener]]\naddress = \"{LB}\"\n[admin]\naddress = \"{ADMIN}\"\n\
         [[route]]\nupstream = \"app\"\n\
         [upstream.app]\nserver = [{}]\n{upstream}\n",
        servers.join(", ")
    )
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Field lines, names in small letters.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let value = |line: &str| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim().to_owned())
        };
        self.head.lines().find_map(value)
    }

    /// Takes an answer apart that ends with its connection. `None` where there is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Answer> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let lower = |line: &str| match line.split_once(':') {
            Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
            None => String::new(),
        };
        if (100..200).contains(&status) && status != 101 {
            return Answer::parse(&bytes[end..]);
        }
        let head: String = head.lines().map(lower).collect();
        let mut body = bytes[end..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = dechunked(&body)?;
        }
        Some(Answer { status, head, body })
    }
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 4 + size..)?;
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends bytes to an address and reads until the connection ends.
pub(crate) fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.to_vec();
    let writing = thread::spawn(move || {
        // It may be refused before all of it is sent.
        let _ = writer.write_all(&sent);
    });
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let _ = stream.shutdown(Shutdown::Both);
    writing.join().unwrap();
    answer
}

/// The answer to a request whose connection ends with it.
pub(crate) fn ask(request: &str) -> Answer {
    let answer = exchange(LB, request.as_bytes());
    Answer::parse(&answer)
        .unwrap_or_else(|| panic!("{request}: {}", String::from_utf8_lossy(&answer)))
}

pub(crate) fn get(path: &str) -> Answer {
    ask(&format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n"))
}

/// A page of the operator's endpoint.
pub(crate) fn admin(path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = Answer::parse(&exchange(ADMIN, request.as_bytes())).unwrap();
    assert_eq!(answer.status, 200, "{path}");
    answer.text()
}

/// A server for one kind of answer: has `serve` do with each connection what it will, in a
/// thread of its own.
pub(crate) fn server(port: u16, serve: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            thread::spawn(move || serve(stream));
        }
    });
}

/// Reads the head of a request.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
