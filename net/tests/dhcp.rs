//! Addresses by DHCP, from dnsmasq in a network namespace of the test's own.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener as KernelListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{ip, own_network};
use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::{Builder, TcpStream, stats};

/// A dnsmasq that ends with the test.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start() -> Option<Dnsmasq> {
        let child = Command::new("dnsmasq")
            .args(["--no-daemon", "--port=0", "--conf-file=/dev/null", "--user=root", "--no-ping"])
            .args(["--interface=dhcp0", "--bind-interfaces", "--dhcp-authoritative"])
            .args(["--dhcp-range=10.88.0.100,10.88.0.110,255.255.255.0,1h"])
            .args(["--dhcp-option=option:router,10.88.0.1", "--dhcp-leasefile=/dev/null"])
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => {
                let server = Dnsmasq(child);
                // Port 67 in this thread's namespace.
                let listens = || {
                    let sockets = std::fs::read_to_string("/proc/thread-self/net/udp");
                    sockets.is_ok_and(|sockets| sockets.contains(":0043 "))
                };
                let patience = Instant::now() + Duration::from_secs(10);
                while !listens() {
                    assert!(Instant::now() < patience, "dnsmasq does not listen");
                    std::thread::sleep(Duration::from_millis(10));
                }
                Some(server)
            }
            Err(error) => {
                println!("skipped: needs dnsmasq (Debian: dnsmasq-base): {error}");
                None
            }
        }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_shard_gets_the_lease_and_the_gateway() {
    if !own_network() {
        return;
    }
    ip("tuntap add dev dhcp0 mode tap multi_queue");
    ip("addr add 10.88.0.1/24 dev dhcp0");
    ip("addr add 192.0.2.1/32 dev dhcp0");
    ip("link set dhcp0 up");
    let Some(_server) = Dnsmasq::start() else { return };
    // An address that only the leased gateway leads to.
    let kernel = KernelListener::bind("192.0.2.1:0").expect("a kernel socket");
    let target: SocketAddr = kernel.local_addr().expect("its address");
    let echo = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = kernel.accept().expect("a connection");
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).expect("five bytes");
            stream.write_all(&bytes).expect("to answer");
        }
    });
    let outcomes = Builder::new().device("tap:dhcp0").dhcp().shards(2).run(move |_| async move {
        let addresses = stats::addresses().expect("a network");
        let exchange = async {
            let mut stream = TcpStream::connect(target).await?;
            stream.write_all(b"hello").await?;
            let mut back = [0; 5];
            stream.read_exact(&mut back).await?;
            assert_eq!(&back, b"hello");
            stream.local_addr()
        };
        let local = throng_runtime::timeout(Duration::from_secs(10), exchange).await;
        (addresses, local.expect("in time").expect("a connection through the gateway"))
    });
    let outcomes = outcomes.expect("two shards with a lease");
    assert_eq!(outcomes.len(), 2);
    for (addresses, local) in outcomes {
        let leased = addresses.iter().find(|(ip, _)| ip.is_ipv4()).expect("an IPv4 address");
        let IpAddr::V4(v4) = leased.0 else { unreachable!("filtered") };
        assert!((100..=110).contains(&v4.octets()[3]) && leased.1 == 24, "{leased:?}");
        assert_eq!(local.ip(), leased.0);
    }
    echo.join().expect("the kernel's side");
}
