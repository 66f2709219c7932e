//! Names from dnsmasq in a network namespace of the test's own: over a TAP, where DHCP names
//! the server, and over the host's sockets.

mod common;

use std::io::ErrorKind;
use std::net::{TcpListener as KernelListener, UdpSocket as KernelSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{ip, own_network};
use throng_net::resolver::{self, Stats};
use throng_net::{Builder, TcpStream, lookup_host};

/// A dnsmasq that ends with the test, and its files.
struct Dnsmasq {
    child: Child,
    folder: PathBuf,
}

impl Dnsmasq {
    fn start() -> Option<Dnsmasq> {
        let folder = std::env::temp_dir().join(format!("throng-names-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let hosts: String = (0..120).map(|n| format!("10.89.1.{n} many.names.test\n")).collect();
        std::fs::write(folder.join("hosts"), hosts).expect("a file");
        std::fs::write(folder.join("resolv.conf"), "search names.test\n").expect("a file");
        let child = Command::new("dnsmasq")
            .args(["--no-daemon", "--port=53", "--conf-file=/dev/null", "--user=root"])
            .args(["--no-resolv", "--no-hosts", "--local=/names.test/", "--no-ping"])
            .args(["--interface=names0", "--bind-interfaces", "--dhcp-authoritative"])
            .args(["--dhcp-range=10.89.0.100,10.89.0.110,255.255.255.0,1h"])
            .args(["--dhcp-leasefile=/dev/null", "--local-ttl=60"])
            .args(["--host-record=web.names.test,10.89.0.1,2001:db8:89::1"])
            // On the link, and nobody has it.
            .args(["--host-record=hole.names.test,10.89.0.1,2001:db8:89::dead"])
            .args(["--cname=alias.names.test,web.names.test"])
            .arg(format!("--addn-hosts={}", folder.join("hosts").display()))
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: needs dnsmasq (Debian: dnsmasq-base): {error}");
                return None;
            }
        };
        let server = Dnsmasq { child, folder };
        let patience = Instant::now() + Duration::from_secs(10);
        while !answers() {
            assert!(Instant::now() < patience, "dnsmasq does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    /// A builder that reads only this test's files.
    fn builder(&self) -> Builder {
        let folder = &self.folder;
        Builder::new().resolv_conf(folder.join("resolv.conf")).hosts(folder.join("none"))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Whether somebody answers a question (for the root) at the address of the test.
fn answers() -> bool {
    let ask = || {
        let socket = KernelSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let question = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        socket.send_to(&question, "10.89.0.1:53")?;
        socket.recv(&mut [0; 512])
    };
    ask().is_ok()
}

/// What works wherever the sockets are. Returns what the resolver counted.
async fn questions(port: u16) -> Stats {
    let mut found: Vec<_> =
        lookup_host(("web.names.test", 1)).await.expect("two addresses").into_iter().collect();
    found.sort();
    let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.89.0.1:1", "[2001:db8:89::1]:1"]);
    // The search list of the test's resolv.conf; an alias; the cache.
    for name in ["web", "alias", "WEB.names.test."] {
        assert_eq!(lookup_host((name, 1)).await.expect(name).len(), 2, "{name}");
    }
    // 120 addresses need more than 1,232 bytes: the answer comes over TCP.
    let many = lookup_host("many.names.test:1").await.expect("many addresses");
    assert_eq!(many.len(), 64);
    let missing = lookup_host("missing.names.test:1").await.expect_err("no such name");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let refused = lookup_host("example.org.:1").await.expect_err("nobody to ask");
    assert_eq!(refused.kind(), ErrorKind::Other, "{refused}");
    let stream = TcpStream::connect(("web", port)).await.expect("a connection");
    assert_eq!(stream.peer_addr().expect("a peer").port(), port);
    // Silence over IPv6 costs 250 ms where the neighbour is asked for, and nothing where the
    // host knows that there is none.
    let begin = Instant::now();
    let stream = TcpStream::connect(("hole", port)).await.expect("a connection");
    assert!(stream.peer_addr().expect("a peer").is_ipv4());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    resolver::stats().expect("a resolver")
}

#[test]
fn dnsmasq_answers_on_a_device_and_on_the_host() {
    if !own_network() {
        return;
    }
    ip("link set lo up");
    ip("tuntap add dev names0 mode tap multi_queue");
    ip("addr add 10.89.0.1/24 dev names0");
    ip("addr add 2001:db8:89::1/64 dev names0 nodad");
    ip("link set names0 up");
    let Some(server) = Dnsmasq::start() else { return };
    let web = KernelListener::bind("[::]:0").expect("a kernel socket");
    let port = web.local_addr().expect("its address").port();

    // DHCP has named the server. IPv6 is given by hand.
    let device = server.builder().device("tap:names0").address("2001:db8:89::2/64").dhcp();
    // The server itself is asked at a loopback address: only the host's sockets get there.
    let loopback = server.builder().nameserver("127.0.0.1").device("tap:names0");
    let loopback = loopback.address("10.89.0.3/24").address("2001:db8:89::3/64");
    // Nobody listens at the first.
    let host = server.builder().nameserver("127.0.0.1:9").nameserver("10.89.0.1:53");
    for (builder, shards) in [(device, 2), (loopback, 1), (host, 2)] {
        let run = builder.shards(shards).run(move |_| async move {
            throng_runtime::timeout(Duration::from_secs(20), questions(port))
                .await
                .expect("in time")
        });
        for stats in run.expect("shards that run") {
            assert_eq!((stats.in_flight, stats.timeouts, stats.ignored), (0, 0, 0), "{stats:?}");
            assert_eq!((stats.tcp_queries, stats.cache_hits), (1, 6), "{stats:?}");
        }
    }
}
