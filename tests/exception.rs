//! The exception path: one port, a server of Throng's and one of the kernel's behind it, used
//! at the same time by curl and ping on the other side.
//!
//! Two network namespaces: the client's, where the port is a TAP interface, and the host's,
//! to which the exception path's TAP is moved, so that nothing takes a short way.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener as StdListener, UdpSocket as StdUdp};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use nix::sched::{CloneFlags, unshare};
use throng::http::service_fn;
use throng::{Builder, TcpListener};

/// What the kernel's server sends.
const KERNELS: usize = 3_000_000;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which does what it is told.
struct Host {
    jobs: mpsc::Sender<Job>,
    thread: i32,
}

impl Host {
    fn start() -> Host {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a second namespace");
            tell.send(nix::unistd::gettid().as_raw()).expect("the test waits");
            todo.into_iter().for_each(|job| job());
        });
        Host { jobs, thread: told.recv().expect("a thread") }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || drop(tell.send(job())));
        self.jobs.send(job).expect("the host runs");
        told.recv().expect("the job ends")
    }
}

fn output(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    // Not the process's own environment: drivers of DPDK's (mlx5) put something into it while
    // another test starts, and what execve() reads then may be gone.
    Command::new(program)
        .args(words)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn succeed(line: &str) -> String {
    let done = output(line);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {}: {said}", done.status);
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn own_network() -> bool {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) if std::path::Path::new("/dev/net/tun").exists() => return true,
        Ok(()) => println!("skipped: there is no /dev/net/tun"),
        Err(error) => println!("skipped: needs a network namespace: {error}"),
    }
    false
}

fn wait_for(interface: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while !output(&format!("ip link show {interface}")).status.success() {
        assert!(Instant::now() < end, "no {interface}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// An HTTP server of the kernel's, for as long as the process runs.
fn kernel_server(address: &'static str) {
    let listener = StdListener::bind(address).expect("the kernel's own address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {KERNELS}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&vec![b'k'; KERNELS]);
            });
        }
    });
}

/// Starts a Throng HTTP server on `device`, whose kernel side is `port`, with the exception path
/// moved to the host returned. The shards end with the process.
fn start(device: &'static str, port: &str, exception: &'static str, net: u8, shared: bool) -> Host {
    thread::spawn(move || {
        let builder = Builder::new()
            .device(device)
            .address(format!("10.66.{net}.2/24"))
            .address(format!("fd66:{net}::2/64"))
            .exception(exception)
            .share_addresses(shared)
            .shards(2);
        let ended = builder.run(|_| async {
            let listener = TcpListener::bind("[::]:80".parse().expect("an address"))?;
            let hello = |_: hyper::Request<throng::http::Body>| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"throng"))))
            };
            throng::http::serve(listener, service_fn(hello)).await;
            std::io::Result::Ok(())
        });
        panic!("the server ended: {ended:?}");
    });
    let host = Host::start();
    wait_for(exception);
    wait_for(port);
    succeed(&format!("ip link set {exception} netns {}", host.thread));
    succeed(&format!("ip addr add 10.66.{net}.1/24 dev {port}"));
    succeed(&format!("ip addr add fd66:{net}::1/64 dev {port} nodad"));
    succeed(&format!("ip link set {port} up"));
    let kernels = if shared { 2 } else { 3 };
    host.run(move || {
        succeed("ip link set lo up");
        succeed(&format!("ip addr add 10.66.{net}.{kernels}/24 dev {exception}"));
        succeed(&format!("ip addr add fd66:{net}::{kernels}/64 dev {exception} nodad"));
        succeed(&format!("ip link set {exception} up"));
        kernel_server("[::]:8080");
        let socket = StdUdp::bind("[::]:5353").expect("a port of the kernel's");
        thread::spawn(move || {
            let mut buffer = [0; 9_000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    });
    let end = Instant::now() + Duration::from_secs(20);
    while !output(&format!("curl -s -m1 http://10.66.{net}.2/")).status.success() {
        assert!(Instant::now() < end, "the server does not answer");
        thread::sleep(Duration::from_millis(50));
    }
    host
}

/// Both servers at the same time, from several clients each.
fn both_answer(throng: [&str; 2], kernel: [&str; 2]) {
    thread::scope(|scope| {
        for address in throng {
            // Clones of one thread are in its namespace.
            scope.spawn(move || {
                for _ in 0..10 {
                    assert_eq!(succeed(&format!("curl -sS -m5 http://{address}/")), "throng");
                }
            });
        }
        for address in kernel {
            scope.spawn(move || {
                for _ in 0..3 {
                    let got = succeed(&format!("curl -sS -m10 http://{address}:8080/"));
                    assert_eq!(got.len(), KERNELS, "{address}");
                    assert!(got.bytes().all(|byte| byte == b'k'), "{address}");
                }
            });
        }
    });
}

fn udp_echoes(address: &str, lengths: &[usize]) {
    let family = if address.contains('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = StdUdp::bind(family).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    for &length in lengths {
        let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        socket.send_to(&sent, format!("{address}:5353")).expect("sent");
        let mut buffer = [0; 9_000];
        let length = loop {
            match socket.recv_from(&mut buffer) {
                Ok((length, _)) => break length,
                // net_tap has signals sent to this process.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the kernel's echo of {length} bytes: {error}"),
            }
        };
        assert!(buffer[..length] == sent, "{length} of {} bytes came back", sent.len());
    }
}

/// Of the link-local address, which both sides of one MAC address have, the kernel gets what is
/// not ours.
fn link_local_is_the_kernels_too(host: &Host, port: &str, exception: &'static str) {
    let shown = host.run(move || succeed(&format!("ip -o -6 addr show dev {exception}")));
    let mut words = shown.split_whitespace();
    let address = words.find(|word| word.starts_with("fe80:")).expect("a link-local address");
    let address = address.split('/').next().expect("an address");
    let got = succeed(&format!("curl -sS -g -m10 http://[{address}%25{port}]:8080/"));
    assert_eq!(got.len(), KERNELS);
    assert_eq!(succeed(&format!("curl -sS -g -m5 http://[{address}%25{port}]/")), "throng");
    let index = succeed(&format!("ip -o link show {port}"));
    let index = index.split(':').next().expect("the interface's number");
    udp_echoes(&format!("[{address}%{index}]"), &[4, 5_000]);
}

fn addresses_of_its_own(
    device: &'static str,
    port: &'static str,
    exception: &'static str,
    net: u8,
) {
    let host = start(device, port, exception, net, false);
    let ours = [format!("10.66.{net}.2"), format!("[fd66:{net}::2]")];
    let kernels = [format!("10.66.{net}.3"), format!("[fd66:{net}::3]")];
    both_answer([&ours[0], &ours[1]], [&kernels[0], &kernels[1]]);
    for address in ours.iter().chain(&kernels) {
        let address = address.trim_matches(['[', ']']);
        succeed(&format!("ping -c 2 -i 0.2 -W 2 -s 1000 {address}"));
    }
    kernels.iter().for_each(|address| udp_echoes(address, &[4, 5_000]));
    link_local_is_the_kernels_too(&host, port, exception);
    // The other way round: the kernel behind the port opens.
    kernel_server("[::]:8081");
    let url = format!("http://10.66.{net}.1:8081/");
    let got = host.run(move || succeed(&format!("curl -sS -m10 {url}")));
    assert_eq!(got.len(), KERNELS);
    // Without the kernel's side ours goes on.
    host.run(move || succeed(&format!("ip link del {exception}")));
    output(&format!("ping -c 2 -i 0.2 -W 1 10.66.{net}.3"));
    assert_eq!(succeed(&format!("curl -sS -m5 http://10.66.{net}.2/")), "throng");
}

#[test]
fn a_kernel_with_addresses_of_its_own_shares_the_port() {
    if own_network() {
        addresses_of_its_own("tap:export0", "export0", "exkern0", 1);
    }
}

#[cfg(feature = "dpdk")]
#[test]
fn a_kernel_with_addresses_of_its_own_shares_a_dpdk_port() {
    if own_network() {
        addresses_of_its_own("dpdk:net_tap0,iface=export2", "export2", "exkern2", 3);
    }
}

#[test]
fn a_kernel_with_our_addresses_gets_what_no_socket_of_ours_claims() {
    if !own_network() {
        return;
    }
    let host = start("tap:export1", "export1", "exkern1", 2, true);
    both_answer(["10.66.2.2", "[fd66:2::2]"], ["10.66.2.2", "[fd66:2::2]"]);
    udp_echoes("10.66.2.2", &[4, 5_000]);
    udp_echoes("[fd66:2::2]", &[4, 5_000]);
    for address in ["10.66.2.2", "fd66:2::2"] {
        let pinged = succeed(&format!("ping -c 3 -i 0.2 -W 2 {address}"));
        assert!(!pinged.contains("DUP!"), "two answers: {pinged}");
    }
    // A port of neither is refused, at once, by the kernel.
    let refused = output("curl -sS -m5 http://10.66.2.2:81/");
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    // Connections, pings and datagrams from the shared address get their answers.
    kernel_server("[::]:8081");
    let got = host.run(|| {
        succeed("ping -c 2 -i 0.2 -W 2 10.66.2.1");
        succeed("ping -c 2 -i 0.2 -W 2 fd66:2::1");
        succeed("curl -sS -m10 http://10.66.2.1:8081/")
    });
    assert_eq!(got.len(), KERNELS);
}
