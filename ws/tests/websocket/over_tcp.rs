//! As [`crate::parking`], over TCP of ours on a link in virtual time: what a socket does with a
//! stream of ours alone is compared too. The times are not: they are TCP's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::device::Device;
use throng_net::device::memory::{self, MemoryQueue, Options};
use throng_net::sim::{HostConfig, add_host};
use throng_net::{TcpListener, TcpStream, stats};
use throng_runtime::sim::World;
use throng_runtime::{Instant, ShardId, sleep, spawn_local};

use crate::plain::{CLOSE_NOW, Case, Face, Last, Log, OURS, Seen, frames, watch};
use crate::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, TEXT, frame, frame_with};

const PAUSE: Duration = Duration::from_millis(5);

/// One connection: what the peer does, and what is seen of it.
async fn one(case: Case, port: u16) -> Seen {
    let address = SocketAddr::from(([10, 0, 0, 1], port));
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.set_nodelay(true).unwrap();
    let mut at = 0;
    for cut in case.cuts.iter().copied().chain([case.bytes.len()]) {
        let _ = peer.write_all(&case.bytes[at.min(cut)..cut]).await;
        at = at.max(cut);
        sleep(PAUSE).await;
    }
    let mut answers = Vec::new();
    if case.last == Last::Reset {
        // What has been answered would go with it.
        let mut buf = [0; 4096];
        while let Ok(Ok(n @ 1..)) = throng_runtime::timeout(PAUSE, peer.read(&mut buf)).await {
            answers.extend_from_slice(&buf[..n]);
        }
        peer.set_linger(Some(Duration::ZERO)).unwrap();
    } else {
        let _ = peer.close().await;
        let _ = peer.read_to_end(&mut answers).await;
    }
    let answers: Vec<(u64, u8)> = answers.into_iter().map(|byte| (0, byte)).collect();
    Seen { events: Vec::new(), answers: frames(case.role, &answers) }
}

/// Runs all cases side by side, each with every face, and compares.
fn compare_all(cases: Vec<Case>) {
    let options = Options { latency: Duration::from_millis(1), ..Options::default() };
    let (a, b) = memory::pair(1, options);
    let boxed = |queues: Vec<MemoryQueue>| -> Vec<Box<dyn Device>> {
        queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
    };
    let mut world = World::new();
    let client = add_host(&mut world, boxed(a), &HostConfig::new(&["10.0.0.2/24"], 1));
    let server = add_host(&mut world, boxed(b), &HostConfig::new(&["10.0.0.1/24"], 2));
    let faces = [[Face::Plain].as_slice(), &OURS].concat();
    let runs: Vec<(Face, Case, Log)> = cases
        .iter()
        .flat_map(|case| faces.iter().map(|face| (*face, case.clone(), Log::default())))
        .collect();
    let serving = runs.clone();
    let serving = world.spawn(server, ShardId(0), async move {
        for (i, (face, case, log)) in serving.into_iter().enumerate() {
            let address = SocketAddr::from(([10, 0, 0, 1], 1000 + i as u16));
            let listener = TcpListener::bind(address).unwrap();
            spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                watch(face, stream, case, log).await;
            })
            .detach();
        }
    });
    let (answered, all) = (Rc::new(Cell::new(None)), runs.clone());
    let set = answered.clone();
    let asking = world.spawn(client, ShardId(0), async move {
        sleep(PAUSE).await;
        let asking = all.into_iter().enumerate();
        let asking = asking.map(|(i, (_, case, _))| one(case, 1000 + i as u16));
        set.set(Some(join_all(asking).await));
    });
    let limit = Instant::from_millis(600_000);
    let ended =
        |end: &(Face, Case, Log)| end.2.0.borrow().last().is_some_and(|(_, what)| what == "end");
    let all_ended = || runs.iter().all(ended);
    let mut answers = None;
    let over = world.run_until(limit, || {
        answers = answers.take().or_else(|| answered.take());
        answers.is_some() && all_ended()
    });
    assert!(over, "not done, or panicked");
    let mut seen = answers.unwrap().into_iter().zip(&runs).map(|(mut seen, (_, _, log))| {
        seen.events = log.0.borrow().clone();
        seen.untimed()
    });
    for case in &cases {
        let expected = seen.next().unwrap();
        for face in OURS {
            let seen = seen.next().unwrap();
            assert_eq!(seen, expected, "{face:?} does something else than tungstenite: {case:?}");
        }
    }
    let usage = world.enter(server, ShardId(0), stats::current).unwrap().usage;
    assert_eq!(usage.recv_memory, 0, "{usage:?}");
    drop((serving, asking));
}

/// Every cut of these bytes in two, and byte by byte.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Case> {
    let every: Vec<usize> = (1..bytes.len()).collect();
    let pairs = (0..bytes.len()).map(|at| vec![at]).chain([every]);
    pairs.map(|cuts| Case::new(bytes.to_vec()).cut(&cuts))
}

fn close() -> Vec<u8> {
    frame(FIN | CLOSE, b"\x03\xe8done")
}

#[test]
fn cut_at_every_byte() {
    let bytes = [
        frame(FIN | TEXT, b"first"),
        frame(FIN | PING, b"p"),
        frame(TEXT, b"z\xc3"),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUE, b"\xb6"),
        frame_with(Some([0; 4]), FIN | BINARY, b""),
        frame(FIN | BINARY, &[7; 126]),
        close(),
    ]
    .concat();
    compare_all(cuts(&bytes).step_by(2).collect());
    compare_all(cuts(&bytes).skip(1).step_by(2).collect());
}

#[test]
fn back_to_back_in_one_segment() {
    let small: Vec<u8> = (0..60).flat_map(|i| frame(FIN | BINARY, &[i; 13])).collect();
    let read: Vec<u8> = (0..30).flat_map(|i| frame(FIN | TEXT, &vec![b'a'; 58 + i])).collect();
    let large = [frame(FIN | BINARY, &[1; 5_000]), frame(FIN | PING, b"p")].concat();
    let ask = frame(FIN | TEXT, CLOSE_NOW.as_bytes());
    let closing = [small.clone(), ask, frame(FIN | TEXT, b"late"), close()].concat();
    let cases = [small, read, large, closing].into_iter().flat_map(|bytes| {
        [vec![], vec![1], vec![bytes.len() / 2], vec![bytes.len() - 1]]
            .map(|cuts| Case::new(bytes.clone()).cut(&cuts))
    });
    compare_all(cases.collect());
}

#[test]
fn ends_and_violations() {
    let good = [frame(FIN | TEXT, b"good"), frame(BINARY, b"pa")].concat();
    let cut = |bytes: &[u8], last| Case::new(bytes.to_vec()).last(last).cut(&[bytes.len() / 2]);
    let mut cases: Vec<Case> = (0..=good.len())
        .flat_map(|len| [cut(&good[..len], Last::Fin), cut(&good[..len], Last::Reset)])
        .collect();
    let wrong = [
        frame_with(None, FIN | TEXT, b"unmasked"),
        frame(FIN | 3, b""),
        frame(FIN | CONTINUE, b""),
        frame(FIN | 0x40 | BINARY, b"x"),
        frame(FIN | PING, &[0; 126]),
        frame(FIN | TEXT, b"\xff"),
        frame(FIN | CLOSE, b"\x03"),
        frame(FIN | BINARY, &[0; 2_000]),
    ];
    for wrong in wrong {
        let bytes = [frame(FIN | TEXT, b"good"), wrong, frame(FIN | TEXT, b"!")].concat();
        cases.extend([0, 10, 12, 16].map(|at| Case {
            max_message: 1_000,
            max_frame: 1_000,
            ..Case::new(bytes.clone()).cut(&[at])
        }));
    }
    compare_all(cases);
}
