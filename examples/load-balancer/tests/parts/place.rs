//! Where a test happens: a network namespace with servers of the host's in it, and the balancer on
//! the host's sockets or on DPDK's net_tap.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};

pub(crate) use crate::children::wait_until;
use crate::children::{Children, LIMIT};

const ADMIN: &str = "127.0.0.1:9100";

/// `cargo xtask interop --backend balancer` wants more of everything than CI has time for.
pub(crate) fn scaled(small: usize, big: usize) -> usize {
    if std::env::var_os("THRONG_LB_BIG").is_some() { big } else { small }
}

/// A place, and what runs there.
pub(crate) struct Place {
    folder: PathBuf,
    children: Children,
    /// The interface of the balancer's device.
    tap: bool,
}

impl Place {
    /// `None`, said, where this machine cannot have one.
    pub(crate) fn new() -> Option<Place> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: needs a network namespace (root, or `unshare -Urn`): {error}");
            return None;
        }
        ip("link set lo up");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("throng-lb-parts-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let tap = std::env::var("THRONG_LB_DEVICE").is_ok_and(|device| device == "net_tap");
        Some(Place { folder, children: Children::default(), tap })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The balancer's address.
    pub(crate) fn balancer_at(&self) -> &'static str {
        if self.tap { "10.77.0.2:8080" } else { "127.0.0.1:8080" }
    }

    /// The address of the host as the balancer sees it.
    pub(crate) fn host(&self) -> &'static str {
        if self.tap { "10.77.0.1" } else { "127.0.0.1" }
    }

    /// An nginx at this port, with `site` in which `$server_port` tells servers apart. Its number.
    pub(crate) fn nginx(&mut self, port: u16, options: &str, site: &str) -> Option<usize> {
        let program = crate::children::nginx()?;
        let root = self.folder.display();
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {root}/{kind}-{port};"))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {root}/{port}.pid; error_log {root}/{port}.log;
             worker_rlimit_nofile 8192; events {{ worker_connections 4000; }}
             http {{ {temp} access_log off; root {root}; client_max_body_size 0;
             server {{ listen 0.0.0.0:{port} {options}; {site} }} }}"
        );
        let file = self.path(&format!("nginx-{port}"));
        fs::write(&file, text).unwrap();
        let number = self.run(Command::new(program).arg("-c").arg(file));
        wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(number)
    }

    /// Python's own server at this port, which answers with it. Its number.
    pub(crate) fn python(&mut self, port: u16) -> usize {
        let script = "import sys\n\
            from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n\
            class Handler(BaseHTTPRequestHandler):\n\
            \x20   protocol_version = 'HTTP/1.1'\n\
            \x20   disable_nagle_algorithm = True\n\
            \x20   def do_GET(self):\n\
            \x20       self.rfile.read(int(self.headers.get('content-length', 0)))\n\
            \x20       body = sys.argv[1].encode()\n\
            \x20       self.send_response(200)\n\
            \x20       self.send_header('content-length', str(len(body)))\n\
            \x20       self.end_headers()\n\
            \x20       self.wfile.write(body)\n\
            \x20   do_POST = do_GET\n\
            \x20   def log_message(self, *args): pass\n\
            ThreadingHTTPServer.request_queue_size = 128\n\
            ThreadingHTTPServer(('0.0.0.0', int(sys.argv[1])), Handler).serve_forever()\n";
        let interpreter = match fs::exists("/usr/bin/python3") {
            Ok(true) => "/usr/bin/python3",
            _ => "python3",
        };
        let number = self.run(Command::new(interpreter).args(["-c", script, &port.to_string()]));
        wait_until("python listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        number
    }

    fn run(&mut self, command: &mut Command) -> usize {
        self.children.adopt(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// Starts the balancer and waits until it answers. Its number.
    pub(crate) fn balancer(&mut self, config: &str) -> usize {
        fs::write(self.path("lb.toml"), config).unwrap();
        let log = fs::File::create(self.path("lb.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_throng-lb"));
        command.arg(self.path("lb.toml")).stderr(log);
        command.env("THRONG_SHARDS", "2").env("THRONG_IDLE", "adaptive").env_remove("RUST_LOG");
        if self.tap {
            command.env("THRONG_DEVICE", "dpdk:net_tap0,iface=dtap0");
            command.env("THRONG_ADDRESS", "10.77.0.2/24");
        }
        let number = self.run(&mut command);
        if self.tap {
            wait_until("the interface is there", || {
                self.still_runs(number);
                ip("link set dtap0 up")
            });
            ip("address add 10.77.0.1/24 dev dtap0");
        }
        wait_until("the balancer listens", || {
            self.still_runs(number);
            // Each shard comes when it comes: the endpoint is the first one's.
            TcpStream::connect(self.balancer_at()).is_ok() && TcpStream::connect(ADMIN).is_ok()
        });
        number
    }

    fn still_runs(&mut self, number: usize) {
        if let Some(status) = self.children.status(number) {
            panic!("it ended: {status}");
        }
    }

    /// A configuration with one upstream of these servers, each with more of its own, and more
    /// lines for the upstream.
    pub(crate) fn config(&self, servers: &[(u16, &str)], upstream: &str) -> String {
        let host = self.host();
        let server = |(port, more): &(u16, &str)| {
            format!("{{ address = \"{host}:{port}\", max_requests = 20_000 {more} }}")
        };
        let servers: Vec<String> = servers.iter().map(server).collect();
        format!(
            "[[listener]]\naddress = \"{}\"\n[admin]\naddress = \"{ADMIN}\"\n\
             [http]\nmax_body = \"4g\"\n[[route]]\nupstream = \"app\"\n\
             [upstream.app]\nserver = [{}]\n{upstream}\n",
            self.balancer_at(),
            servers.join(", ")
        )
    }

    /// Has [`memory`](Children::memory) forget what was at most.
    pub(crate) fn forget_peak(&self, child: usize) {
        fs::write(format!("/proc/{}/clear_refs", self.pid(child)), "5").unwrap();
    }

    /// The sum of the balancer's numbers whose line begins so and has this in it.
    pub(crate) fn number(&self, prefix: &str, part: &str) -> f64 {
        let metrics = admin("/metrics");
        let lines = metrics.lines().filter(|line| line.starts_with(prefix) && line.contains(part));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// The balancer's state as it tells it.
    pub(crate) fn state(&self) -> String {
        admin("/state.json")
    }
}

/// Its processes.
impl Deref for Place {
    type Target = Children;

    fn deref(&self) -> &Children {
        &self.children
    }
}

impl DerefMut for Place {
    fn deref_mut(&mut self) -> &mut Children {
        &mut self.children
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // They have files in the folder.
        self.children = Children::default();
        if thread::panicking() {
            let log = fs::read_to_string(self.path("lb.log")).unwrap_or_default();
            eprintln!("the balancer's log:\n{log}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ip(arguments: &str) -> bool {
    let done = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// A page of the operator's endpoint, with its head and however it is framed.
fn admin(path: &str) -> String {
    let mut stream = TcpStream::connect(ADMIN).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{path}: {page}");
    page
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Field lines.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is kept.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn to(address: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    /// Asks, with more field lines.
    pub(crate) fn ask(&mut self, method: &str, path: &str, more: &str) -> io::Result<Answer> {
        self.send(method, path, more)?;
        let (status, head, length) = self.head()?;
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, head, body })
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, more: &str) -> io::Result<()> {
        let length = if method == "POST" { "content-length: 0\r\n" } else { "" };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a.example\r\n{length}{more}\r\n");
        self.0.get_mut().write_all(request.as_bytes())
    }

    /// The head of an answer, and how long its body is.
    pub(crate) fn head(&mut self) -> io::Result<(u16, String, u64)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        let status = status.ok_or_else(|| io::Error::other(head.clone()))?;
        Ok((status, head, length))
    }

    pub(crate) fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.0
    }
}
