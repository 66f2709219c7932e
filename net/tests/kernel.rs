//! The public sockets on the host's own, over loopback: what only they can be asked. What holds
//! on every backend is in `api/`.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::AsyncWriteExt;
use throng_net::proxy_protocol::ProxyProtocol;
use throng_net::{Builder, IdlePolicy, ShardId, TcpListener, TcpSocket, TcpStream, UdpSocket};
use throng_runtime::{sleep, spawn_local, spawn_on, timeout};

/// What no test should take, on a machine that is busy with others.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `main` on two shards of the host.
fn on_both<F, Fut>(main: F) -> Vec<Fut::Output>
where
    F: Fn(ShardId) -> Fut + Send + Sync,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    run(Builder::new().device("kernel"), main)
}

fn run<F, Fut>(builder: Builder, main: F) -> Vec<Fut::Output>
where
    F: Fn(ShardId) -> Fut + Send + Sync,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let bounded = |shard| {
        let future = main(shard);
        async move { timeout(LIMIT, future).await.expect("it takes too long") }
    };
    builder.shards(2).run(bounded).unwrap()
}

/// Runs `main` on shard 0; shard 1 has nothing to do.
fn on_one<F, Fut>(main: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = ()> + 'static,
{
    on_both(|shard| {
        let future = (shard.0 == 0).then(&main);
        async move {
            if let Some(future) = future {
                future.await;
            }
        }
    });
}

fn any(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 0)
}

async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        spawn_local(async move {
            while let Ok(chunk) = stream.read_chunk(65_536).await {
                if chunk.is_empty() || stream.write_chunk(chunk).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// The two ends of a connection: the accepted and the connecting one.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(any("127.0.0.1")).unwrap();
    let addr = listener.local_addr().unwrap();
    let (accepted, connected) =
        futures::future::join(listener.accept(), TcpStream::connect(addr)).await;
    let (accepted, peer) = accepted.unwrap();
    let connected = connected.unwrap();
    assert_eq!(connected.local_addr().unwrap(), peer);
    (accepted, connected)
}

#[test]
fn a_chunk_outlives_its_stream_and_its_main() {
    // More than the host's buffers take, so that a part of it is ours to send.
    const LEN: usize = 24 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut all).map(|_| all.len())
    });
    on_both(|shard| async move {
        if shard.0 == 0 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_chunk(Bytes::from(vec![1; LEN])).await.unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
    });
    assert_eq!(reader.join().unwrap().unwrap(), LEN);
}

/// A read that finds less than it asks for is the last until there is news, unless the news has
/// come: an end, or something behind urgent data, at which a read stops.
#[test]
fn what_is_behind_a_short_read_is_read() {
    on_one(|| async {
        for urgent in [false, true] {
            let listener = TcpListener::bind(any("127.0.0.1")).unwrap();
            let address = listener.local_addr().unwrap();
            let mut peer = std::net::TcpStream::connect(address).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            peer.write_all(b"first").unwrap();
            assert_eq!(stream.read_chunk(65_536).await.unwrap(), "first");
            // What the registration has said is said.
            sleep(Duration::from_millis(20)).await;
            peer.write_all(b"ab").unwrap();
            if urgent {
                rustix::net::send(&peer, b"!", rustix::net::SendFlags::OOB).unwrap();
                peer.write_all(b"cd").unwrap();
            } else {
                peer.shutdown(Shutdown::Write).unwrap();
            }
            // All of it is announced before any is read.
            sleep(Duration::from_millis(20)).await;
            assert_eq!(stream.read_chunk(65_536).await.unwrap(), "ab");
            let rest = if urgent { "cd" } else { "" };
            assert_eq!(stream.read_chunk(65_536).await.unwrap(), rest);
        }
    });
}

#[test]
fn a_chunk_that_is_cut_off_ends_in_a_reset() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    on_both(|shard| async move {
        if shard.0 == 0 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_chunk(Bytes::from(vec![1; 24 << 20])).await.unwrap();
            // Nobody reads for the second that the shards wait.
        }
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let error = std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_stream_that_outlives_its_shard_ends_in_a_reset() {
    thread_local! {
        static KEPT: Cell<Option<TcpStream>> = const { Cell::new(None) };
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    on_one(move || async move {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_chunk(Bytes::from(vec![1; 24 << 20])).await.unwrap();
        // Dropped with the thread, or below if this is the test's own.
        KEPT.set(Some(stream));
    });
    KEPT.set(None);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let error = std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// What the shards of a test and its other threads tell each other.
#[derive(Default)]
struct Board {
    addr: OnceLock<SocketAddr>,
    bound: AtomicUsize,
    done: AtomicUsize,
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Shard 0 chooses the port, shard 1 shares it.
async fn share_port(shard: ShardId, board: &Board) -> TcpListener {
    let listener = if shard.0 == 0 {
        let listener = TcpListener::bind(any("127.0.0.1")).unwrap();
        board.addr.set(listener.local_addr().unwrap()).unwrap();
        listener
    } else {
        until(|| board.addr.get().is_some()).await;
        TcpListener::bind(*board.addr.get().unwrap()).unwrap()
    };
    board.bound.fetch_add(1, Ordering::SeqCst);
    until(|| board.bound.load(Ordering::SeqCst) == 2).await;
    listener
}

#[test]
fn several_shards_share_a_port_and_each_gets_connections() {
    let board = std::sync::Arc::new(Board::default());
    let theirs = board.clone();
    let clients = std::thread::spawn(move || {
        while theirs.bound.load(Ordering::SeqCst) < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        for i in 0..100u8 {
            let mut stream = std::net::TcpStream::connect(theirs.addr.get().unwrap()).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            std::io::Write::write_all(&mut stream, &[i]).unwrap();
            let mut back = [0];
            std::io::Read::read_exact(&mut stream, &mut back).unwrap();
            assert_eq!(back, [i]);
        }
        theirs.done.store(1, Ordering::SeqCst);
    });
    let served = on_both(|shard| {
        let board = board.clone();
        async move {
            let listener = share_port(shard, &board).await;
            let count = Rc::new(Cell::new(0));
            let counter = count.clone();
            spawn_local(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    counter.set(counter.get() + 1);
                    let byte = stream.read_chunk(1).await.unwrap();
                    stream.write_chunk(byte).await.unwrap();
                }
            });
            until(|| board.done.load(Ordering::SeqCst) == 1).await;
            count.get()
        }
    });
    clients.join().unwrap();
    assert_eq!(served.iter().sum::<i32>(), 100);
    assert!(served.iter().all(|count| *count > 10), "{served:?}");
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name may have spaces; utime and stime are fields 14 and 15, in ticks of 10 ms.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

#[test]
fn an_idle_server_sleeps_and_wakes() {
    let board = std::sync::Arc::new(Board::default());
    let used = on_both(|shard| {
        let board = board.clone();
        async move {
            let listener = share_port(shard, &board).await;
            let addr = listener.local_addr().unwrap();
            spawn_local(echo(listener));
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.read_chunk(1).await.unwrap();
            let before = thread_time();
            sleep(Duration::from_secs(2)).await;
            let used = thread_time() - before;
            // Both sleep, and are woken by a packet and by each other.
            stream.write_all(b"y").await.unwrap();
            assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"y");
            let other = ShardId(1 - shard.0);
            assert_eq!(spawn_on(other, move || async move { other.0 }).await.unwrap(), other.0);
            board.done.fetch_add(1, Ordering::SeqCst);
            until(|| board.done.load(Ordering::SeqCst) == 2).await;
            used
        }
    });
    let used: Duration = used.into_iter().sum();
    assert!(used < Duration::from_millis(100), "{used:?} of 2 s: more than 5 % of a core");
}

#[test]
fn the_host_is_the_network_where_none_is_configured() {
    let outputs = run(Builder::new(), |_| async {
        let (mut server, mut client) = pair().await;
        client.write_all(b"x").await.unwrap();
        server.read_chunk(1).await.unwrap().len()
    });
    assert_eq!(outputs, [1, 1]);
    let error = Builder::new().device("kernel:eth0").shards(1).run(|_| async {}).unwrap_err();
    assert!(error.to_string().contains("takes none"), "{error}");
    let error = Builder::new().device("kernel;loss=0.1").shards(1).run(|_| async {}).unwrap_err();
    assert!(error.to_string().contains("loss"), "{error}");
}

/// Sockets of one address, which nobody else gets while they are there; each shard takes its
/// own, and what waits in one is there for whoever has it next.
#[test]
fn sockets_opened_together_are_handed_on() {
    let open = |addr| TcpListener::listeners_on_host(addr, 2, 64);
    let mut sockets = open(any("127.0.0.1")).unwrap();
    let addr = sockets[0].local_addr().unwrap();
    assert_eq!(sockets[1].local_addr().unwrap(), addr);
    assert_eq!(open(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
    // Nor does one that covers it.
    let everywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), addr.port());
    assert_eq!(open(everywhere).unwrap_err().kind(), ErrorKind::AddrInUse);
    // Enough for both to get some.
    let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    let second = std::sync::Mutex::new(Some(sockets.pop().unwrap()));
    let first = sockets[0].try_clone().unwrap();
    let accept_all = |socket: std::net::TcpListener| async move {
        let listener = TcpListener::from_std(socket).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), any("127.0.0.1").ip());
        let (mut count, wait) = (0, Duration::from_millis(200));
        while let Ok(accepted) = timeout(wait, listener.accept()).await {
            assert!(accepted.is_ok());
            count += 1;
        }
        count
    };
    // One shard takes the first half of what waits in its socket, and drops it.
    let early = std::sync::Mutex::new(Some(first));
    let counts = on_both(|_| {
        let socket = early.lock().unwrap().take();
        async move {
            let Some(socket) = socket else { return 0 };
            let listener = TcpListener::from_std(socket).unwrap();
            listener.accept().await.unwrap();
            1
        }
    });
    assert_eq!(counts.iter().sum::<usize>(), 1);
    // Others have the rest.
    let first = std::sync::Mutex::new(sockets.pop());
    let counts = on_both(|shard| {
        let slot = if shard.0 == 0 { &first } else { &second };
        accept_all(slot.lock().unwrap().take().unwrap())
    });
    assert_eq!(counts.iter().sum::<usize>(), clients.len() - 1, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    // They are closed with their shards.
    open(addr).unwrap();
}

/// Proxies that say nothing keep other proxies waiting, and a bounded number of these; clients that
/// come directly they do not.
#[test]
fn silent_proxies_are_in_nobodys_way_but_proxies() {
    on_one(|| async {
        let trusted = |peer: IpAddr| peer == IpAddr::from([127, 0, 0, 1]);
        let settings = ProxyProtocol::with(Box::new(trusted), LIMIT, 1);
        let listener = TcpListener::bind(any("0.0.0.0")).unwrap().proxy_protocol(&settings);
        let at = SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
        let mut proxies = Vec::new();
        for _ in 0..4 {
            proxies.push(std::net::TcpStream::connect(at).unwrap());
        }
        let _direct = TcpSocket::new().bind(any("127.0.0.2")).connect(at).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 2]));
        // One is read, one waits for its turn, and the others were too many.
        for late in proxies.split_off(2) {
            late.set_nonblocking(false).unwrap();
            let reset = (&late).read(&mut [0]).unwrap_err();
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
        }
        for (number, mut proxy) in proxies.iter().enumerate().rev() {
            let header = format!("PROXY TCP4 192.0.2.{number} 192.0.2.9 1 2\r\n");
            proxy.write_all(header.as_bytes()).unwrap();
        }
        for number in 0..2 {
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip(), IpAddr::from([192, 0, 2, number]));
        }
        let counters = settings.counters();
        assert_eq!((counters.headers, counters.direct), (2, 1));
        assert_eq!((counters.at_limit, counters.turned_away), (1, 2));
    });
}

/// Of two sockets of one address that a shard has, the other stays when one is closed.
#[test]
fn an_address_is_taken_until_its_last_socket_is_closed() {
    let opened = TcpListener::listeners_on_host(any("127.0.0.1"), 2, 64).unwrap();
    let addr = opened[0].local_addr().unwrap();
    let opened = std::sync::Mutex::new(opened);
    on_one(|| {
        let sockets = std::mem::take(&mut *opened.lock().unwrap());
        async move {
            let adopted = sockets.into_iter().map(|socket| TcpListener::from_std(socket).unwrap());
            let mut adopted: Vec<_> = adopted.collect();
            for _ in 0..2 {
                assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
                adopted.pop();
            }
            TcpListener::bind(addr).unwrap();
        }
    });
}

#[test]
fn what_is_no_listener_is_not_taken_for_one() {
    on_one(|| async {
        let listener = std::net::TcpListener::bind(any("127.0.0.1")).unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (null, udp) = (
            std::fs::File::open("/dev/null").unwrap(),
            std::net::UdpSocket::bind(any("127.0.0.1")).unwrap(),
        );
        for fd in [std::os::fd::OwnedFd::from(stream), null.into(), udp.into()] {
            let refused = TcpListener::from_std(fd.into()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        }
    });
    // With a device clients do not come by the host's sockets; an operator may.
    let with_device = Builder::new().device("memory:no-host-sockets").address("10.0.0.1/24");
    run(with_device, |_| async {
        let listener = std::net::TcpListener::bind(any("127.0.0.1")).unwrap();
        let refused = TcpListener::from_std(listener.try_clone().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("on the device `kernel` only"), "{refused}");
        TcpListener::from_std_kernel(listener).unwrap();
    });
}

#[test]
fn a_shard_with_a_device_serves_the_host_too() {
    let adaptive = IdlePolicy::Adaptive { spin: Duration::ZERO, pause: Duration::ZERO };
    for (idle, link) in [(IdlePolicy::Busy, "busy"), (adaptive, "adaptive")] {
        let device = format!("memory:kernel-test-{link}");
        let builder = Builder::new().device(device).address("10.77.0.1/24").idle(idle);
        run(builder, |_| async {
            let listener = TcpListener::bind_kernel(any("127.0.0.1")).unwrap();
            let addr = listener.local_addr().unwrap();
            let on_device = TcpListener::bind(SocketAddr::new([10, 77, 0, 1].into(), addr.port()));
            spawn_local(echo(listener));
            let mut stream = TcpSocket::kernel().connect(addr).await.unwrap();
            for i in 0..20u8 {
                stream.write_all(&[i]).await.unwrap();
                assert_eq!(stream.read_chunk(1).await.unwrap()[..], [i]);
                sleep(Duration::from_millis(1)).await;
            }
            // The device's ports are others.
            on_device.unwrap();
            let socket = UdpSocket::bind_kernel(any("127.0.0.1")).unwrap();
            socket.send_to(b"self", socket.local_addr()).await.unwrap();
            let (payload, from) = socket.recv_from().await.unwrap();
            assert_eq!((&payload[..], from), (&b"self"[..], socket.local_addr()));
        });
    }
}
