//! A listener on a host without a free descriptor. Alone in its binary: the limit is the
//! whole process's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::{AddressFamily, SocketType, connect, socket};
use throng_net::{Builder, TcpListener};
use throng_runtime::{sleep, spawn_local, timeout};

const CLIENTS: usize = 100;
/// Lines of the log.
static LINES: AtomicUsize = AtomicUsize::new(0);

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.fetch_add(bytes.iter().filter(|&&byte| byte == b'\n').count(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn scenario() {
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let clients: Vec<OwnedFd> = (0..CLIENTS)
        .map(|_| socket(AddressFamily::INET, SocketType::STREAM, None).unwrap())
        .collect();
    let accepting = spawn_local(async move {
        let mut open = Vec::new();
        while open.len() < CLIENTS {
            open.push(listener.accept().await.unwrap());
        }
    });
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let used = clients.iter().map(|client| client.as_raw_fd() as u64 + 1).max().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, used, hard).unwrap();
    for client in &clients {
        connect(client, &addr).unwrap();
        // Each is news of its own for the listener.
        sleep(Duration::from_millis(2)).await;
    }
    let before = LINES.load(Ordering::Relaxed);
    sleep(Duration::from_secs(1)).await;
    let tries = LINES.load(Ordering::Relaxed) - before;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!((2..=20).contains(&tries), "{tries} tries in a second");
    timeout(Duration::from_secs(30), accepting).await.expect("all are accepted").unwrap();
}

#[test]
fn a_listener_without_descriptors_tries_now_and_then() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
    log.with_writer(|| Log).init();
    Builder::new().device("kernel").shards(1).run(|_| scenario()).unwrap();
}
