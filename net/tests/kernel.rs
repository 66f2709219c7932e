//! The public sockets on the host's own, over loopback and in real time: what
//! `sockets.rs` asks of the stack, and what only the host can be asked.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use throng_net::tcp::{Keepalive, State};
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

/// An echo server on this shard.
fn serve_echo() -> SocketAddr {
    let listener = TcpListener::bind(any("127.0.0.1")).unwrap();
    let addr = listener.local_addr().unwrap();
    spawn_local(echo(listener));
    addr
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
fn bytes_come_back_over_both_families() {
    on_one(|| async {
        for (bind, ip) in [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1")] {
            let Ok(listener) = TcpListener::bind(any(bind)) else {
                eprintln!("skipped: this host has no {bind}");
                continue;
            };
            let at = SocketAddr::new(ip.parse().unwrap(), listener.local_addr().unwrap().port());
            spawn_local(echo(listener));
            let mut stream = TcpStream::connect(at).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), at);
            for len in [1, 100, 1460, 1461, 65_536, 300_000] {
                let sent: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
                let mut received = vec![0; len];
                let (mut reader, mut writer) = (&mut stream).split();
                let both = futures::future::join(
                    writer.write_all(&sent),
                    reader.read_exact(&mut received),
                );
                let (written, read) = both.await;
                written.unwrap();
                read.unwrap();
                assert_eq!(sent, received);
            }
            stream.close().await.unwrap();
            assert!(stream.read_chunk(1).await.unwrap().is_empty());
        }
    });
}

#[test]
fn peers_have_plain_addresses() {
    on_one(|| async {
        let Ok(listener) = TcpListener::bind(any("::")) else { return };
        let at = SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
        let (accepted, connected) =
            futures::future::join(listener.accept(), TcpStream::connect(at)).await;
        let (accepted, peer) = accepted.unwrap();
        assert_eq!(peer, connected.unwrap().local_addr().unwrap());
        assert_eq!(accepted.local_addr().unwrap(), at);
    });
}

#[test]
fn a_port_without_listener_refuses() {
    on_one(|| async {
        // Bound and not listening, so that nobody else gets the port meanwhile.
        let holder = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&holder, &any("127.0.0.1")).unwrap();
        let addr = SocketAddr::try_from(getsockname(&holder).unwrap()).unwrap();
        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error = TcpStream::connect(any("127.0.0.1")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn half_close_lets_the_other_half_go_on() {
    on_one(|| async {
        let (mut server, mut client) = pair().await;
        spawn_local(async move {
            let mut request = Vec::new();
            server.read_to_end(&mut request).await.unwrap();
            request.reverse();
            server.write_all(&request).await.unwrap();
        });
        client.write_all(b"abc").await.unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let error = client.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"cba");
    });
}

#[test]
fn a_read_side_that_is_shut_is_at_its_end_after_the_last_byte() {
    on_one(|| async {
        let (_server, mut client) = pair().await;
        let shut = async {
            sleep(Duration::from_millis(5)).await;
            client.shutdown(Shutdown::Read).unwrap();
        };
        let (readable, ()) = futures::future::join(client.readable(), shut).await;
        readable.unwrap();
        assert!(client.read_chunk(10).await.unwrap().is_empty());
        let (mut server, mut client) = pair().await;
        server.write_all(b"last").await.unwrap();
        client.readable().await.unwrap();
        client.shutdown(Shutdown::Read).unwrap();
        assert_eq!(&client.read_chunk(10).await.unwrap()[..], b"last");
        assert!(client.read_chunk(10).await.unwrap().is_empty());
    });
}

#[test]
fn lines_are_read_through_buf_read() {
    on_one(|| async {
        let mut stream = TcpStream::connect(serve_echo()).await.unwrap();
        stream.write_all(b"one\ntwo\nrest").await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "one\n");
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "one\ntwo\n");
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
    });
}

#[test]
fn empty_pieces_in_front_are_no_end() {
    on_one(|| async {
        let (mut server, mut client) = pair().await;
        // More pieces than the host takes in one call.
        let mut pieces = vec![std::io::IoSlice::new(&[]); 2_000];
        pieces.push(std::io::IoSlice::new(b"at last"));
        assert_eq!(client.write_vectored(&pieces).await.unwrap(), 7);
        assert_eq!(server.read_chunk(100).await.unwrap(), "at last");
    });
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    const BLOCKS: usize = 500;
    const BLOCK: usize = 64 << 10;
    on_one(|| async {
        let (mut server, mut client) = pair().await;
        let written = Rc::new(Cell::new(0));
        let seen = written.clone();
        let reader = spawn_local(async move {
            sleep(Duration::from_millis(300)).await;
            // The host's buffers take some megabytes, never all of it.
            assert!(seen.get() < BLOCKS, "the writer was not held back");
            let mut total = 0;
            loop {
                let chunk = server.read_chunk(50_000).await.unwrap();
                if chunk.is_empty() {
                    break;
                }
                for byte in &chunk {
                    assert_eq!(*byte, (total / BLOCK) as u8);
                    total += 1;
                }
            }
            assert_eq!(total, BLOCKS * BLOCK);
            server.write_all(b"all").await.unwrap();
        });
        for block in 0..BLOCKS {
            client.write_chunk(Bytes::from(vec![block as u8; BLOCK])).await.unwrap();
            assert!(client.info().unwrap().send_queue <= BLOCK);
            written.set(block + 1);
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(&client.read_chunk(3).await.unwrap()[..], b"all");
        reader.await.unwrap();
    });
}

#[test]
fn a_cancelled_write_is_whole_or_not_at_all() {
    on_one(|| async {
        let (mut server, mut client) = pair().await;
        let chunk = Bytes::from(vec![7; 1 << 20]);
        let mut accepted = 0;
        while timeout(Duration::from_millis(50), client.write_chunk(chunk.clone())).await.is_ok() {
            accepted += chunk.len();
        }
        drop(client);
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), accepted);
    });
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

#[test]
fn dropping_with_unread_data_resets() {
    on_one(|| async {
        let (server, mut client) = pair().await;
        client.write_all(b"nobody reads this").await.unwrap();
        server.readable().await.unwrap();
        drop(server);
        for _ in 0..2 {
            // It is said for as long as it is asked, by reads and by writes.
            let error = client.read_chunk(1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        client.readable().await.unwrap();
        let error = client.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(client.local_addr().is_ok());
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

#[test]
fn a_cancelled_connect_is_gone() {
    on_one(|| async {
        // A backlog of one that is full: further SYNs are dropped.
        let listener = TcpListener::bind_with_backlog(any("127.0.0.1"), 1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut open = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
            open.push(stream.unwrap());
            assert!(open.len() < 10, "the backlog has no bound");
        }
        for _ in &open {
            listener.accept().await.unwrap();
        }
        // The next has room, its peer's SYN may be a retransmission.
        let next = futures::future::join(listener.accept(), TcpStream::connect(addr)).await;
        next.0.unwrap();
        next.1.unwrap();
    });
}

#[test]
fn abort_and_a_linger_of_zero_reset() {
    on_one(|| async {
        for aborts in [true, false] {
            let (server, mut client) = pair().await;
            if aborts {
                server.abort();
            } else {
                server.set_linger(Some(Duration::ZERO)).unwrap();
                drop(server);
            }
            let error = client.read_chunk(1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn lingering_for_a_reader_that_never_comes_ends() {
    on_one(|| async {
        let (mut server, client) = pair().await;
        client.set_linger(Some(Duration::from_millis(50))).unwrap();
        let mut client = client;
        client.write_chunk(Bytes::from(vec![0; 24 << 20])).await.unwrap();
        assert!(client.info().unwrap().send_queue > 0);
        drop(client);
        sleep(Duration::from_millis(200)).await;
        let mut all = Vec::new();
        let error = server.read_to_end(&mut all).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_cancelled_read_loses_nothing() {
    on_one(|| async {
        let mut stream = TcpStream::connect(serve_echo()).await.unwrap();
        let waiting = timeout(Duration::from_millis(5), stream.read_chunk(10)).await;
        assert!(waiting.is_err());
        let waiting = timeout(Duration::from_millis(5), stream.readable()).await;
        assert!(waiting.is_err());
        stream.write_all(b"later").await.unwrap();
        stream.readable().await.unwrap();
        let mut later = [0; 5];
        stream.read_exact(&mut later).await.unwrap();
        assert_eq!(&later, b"later");
    });
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
fn options_are_taken_and_info_tells() {
    on_one(|| async {
        let (mut server, client) = pair().await;
        client.set_nodelay(true).unwrap();
        let second = Duration::from_secs(1);
        let keepalive = Keepalive { idle: second / 2, interval: second, count: 3 };
        client.set_keepalive(Some(keepalive)).unwrap();
        client.set_keepalive(None).unwrap();
        client.set_user_timeout(Some(second)).unwrap();
        client.set_user_timeout(None).unwrap();
        client.set_linger(None).unwrap();
        server.write_all(b"12345").await.unwrap();
        client.readable().await.unwrap();
        let info = client.info().unwrap();
        assert_eq!(info.tuple.local_addr(), client.local_addr().unwrap());
        assert_eq!(info.tuple.peer_addr(), client.peer_addr().unwrap());
        assert_eq!((info.state, info.error), (State::Established, None));
        assert_eq!((info.recv_queue, info.send_queue), (5, 0));
    });
}

#[test]
fn a_bound_source_is_used_and_a_foreign_one_refused() {
    on_one(|| async {
        let server = serve_echo();
        // A port that was free a moment ago.
        let port = TcpListener::bind(any("127.0.0.1")).unwrap().local_addr().unwrap().port();
        let source = SocketAddr::new([127, 0, 0, 9].into(), port);
        let socket = TcpSocket::new().bind(source);
        let stream = socket.connect(server).await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), source);
        let again = socket.connect(server).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AddrInUse);
        let foreign = TcpSocket::new().bind(any("192.0.2.1")).connect(server).await;
        assert_eq!(foreign.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn binding_twice_is_refused_and_closing_makes_room() {
    on_one(|| async {
        let first = TcpListener::bind(any("127.0.0.1")).unwrap();
        let addr = first.local_addr().unwrap();
        assert_ne!(addr.port(), 0);
        assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        TcpListener::bind(addr).unwrap();
        let first = UdpSocket::bind(any("127.0.0.1")).unwrap();
        let addr = first.local_addr();
        assert_eq!(UdpSocket::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        UdpSocket::bind(addr).unwrap();
    });
}

#[test]
fn datagrams_of_every_size_come_back() {
    on_one(|| async {
        for (bind, ip) in [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::", "::1")] {
            let Ok(server) = UdpSocket::bind(any(bind)) else {
                eprintln!("skipped: this host has no {bind}");
                continue;
            };
            let at = SocketAddr::new(ip.parse().unwrap(), server.local_addr().port());
            let task = spawn_local(async move {
                loop {
                    let (payload, from) = server.recv_from().await.unwrap();
                    server.send_to(&payload, from).await.unwrap();
                }
            });
            let client = UdpSocket::bind(any(ip)).unwrap();
            for len in [0usize, 1, 1472, 1473, 20_000, 65_507] {
                client.send_to(&vec![len as u8; len], at).await.unwrap();
                let (back, from) = client.recv_from().await.unwrap();
                assert_eq!((back.len(), from), (len, at));
                assert!(back.iter().all(|byte| *byte == len as u8));
            }
            let too_long = client.send_to(&vec![0; 65_508], at).await.unwrap_err();
            assert_eq!(too_long.kind(), ErrorKind::InvalidInput);
            task.abort();
        }
        let client = UdpSocket::bind(any("127.0.0.1")).unwrap();
        let family = client.send_to(b"x", "[::1]:9".parse().unwrap()).await.unwrap_err();
        assert_eq!(family.kind(), ErrorKind::InvalidInput);
    });
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

#[test]
fn many_come_and_go_and_nothing_is_left() {
    on_both(|_| async {
        let server = serve_echo();
        for _ in 0..5 {
            let opening = (0..100).map(|_| TcpStream::connect(server));
            for stream in futures::future::join_all(opening).await {
                let mut stream = stream.unwrap();
                stream.write_all(b"x").await.unwrap();
                assert_eq!(stream.read_chunk(1).await.unwrap().len(), 1);
            }
        }
    });
}
