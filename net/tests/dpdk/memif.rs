//! net_memif: shared memory between two ports.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use throng_net::device::{Device, OpenOptions};
use throng_net::packet::Packet;

use crate::frames::{connect, exchange, frame, now, number, open, open_with, packet};
use crate::isolated::{Need, again, isolated};

/// The socket to connect to, for a process that is to be the other side.
const PEER: &str = "THRONG_TEST_PEER";

/// A socket nobody else uses.
pub(crate) fn socket(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("throng-{name}-{}.sock", std::process::id()));
    path.to_str().unwrap().to_owned()
}

#[test]
fn frames_cross_in_both_directions() {
    isolated("memif::frames_cross_in_both_directions", Need::Nothing, || {
        let socket = socket("memif");
        let mut a = open(&server(&socket), 2);
        let mut b = open(&client(&socket, ""), 2);
        for queue in 0..2 {
            connect(&mut *a[queue], &mut *b[queue]);
            connect(&mut *b[queue], &mut *a[queue]);
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
        assert_ne!(a[0].capabilities().mac, b[0].capabilities().mac);
    });
}

fn server(socket: &str) -> String {
    format!("net_memif0,role=server,id=0,socket={socket},socket-abstract=no")
}

fn client(socket: &str, arguments: &str) -> String {
    format!("net_memif1,role=client,id=0,socket={socket},socket-abstract=no{arguments}")
}

/// Another process that runs the same test as the other side.
fn spawn_peer(name: &str, socket: &str) -> Child {
    let mut command: Command = again(name);
    command.env(PEER, socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends back what it receives, until it is killed.
fn echo_for_ever(mut devices: Vec<Box<dyn Device>>) -> ! {
    let device = &mut *devices[0];
    let (mut frames, mut queue) = (Vec::new(), VecDeque::new());
    loop {
        device.receive(&mut frames, 64, now());
        queue.extend(frames.drain(..));
        device.transmit(&mut queue, now());
        if queue.len() > 1000 {
            queue.clear();
        }
    }
}

/// Keeps `device` busy in both directions until `done`, which is told how many frames came back.
fn pump(device: &mut dyn Device, mut done: impl FnMut(&dyn Device, u32) -> bool) {
    let mut queue: VecDeque<Packet> = VecDeque::new();
    let mut frames = Vec::new();
    let mut back = 0;
    while !done(device, back) {
        while queue.len() < 64 {
            let bytes = frame(device, back, 1000);
            let Some(packet) = packet(device, &bytes) else { break };
            queue.push_back(packet);
        }
        device.transmit(&mut queue, now());
        device.receive(&mut frames, 64, now());
        back += frames.drain(..).filter(|frame| number(frame.data()).is_some()).count() as u32;
    }
}

fn peers_that_die(name: &str, client_arguments: &str) {
    if let Ok(socket) = std::env::var(PEER) {
        echo_for_ever(open(&client(&socket, client_arguments), 1));
    }
    let socket = socket(&name.replace(':', "-"));
    let mut devices = open(&server(&socket), 1);
    let device = &mut *devices[0];
    let limit = Instant::now() + Duration::from_secs(60);
    for round in 0..8 {
        let mut peer = spawn_peer(name, &socket);
        let in_time = |device: &dyn Device, what: &str| {
            assert!(Instant::now() < limit, "round {round}: {what}: {:?}", device.counters());
        };
        pump(device, |device, back| {
            in_time(device, "no echo");
            back > 500
        });
        let dropped = device.counters().tx_dropped;
        peer.kill().unwrap();
        pump(device, |device, _| {
            in_time(device, "nothing dropped after the peer's death");
            device.counters().tx_dropped > dropped + 100
        });
        peer.wait().unwrap();
    }
}

#[test]
fn a_peer_process_that_is_killed_is_survived() {
    isolated("memif::a_peer_process_that_is_killed_is_survived", Need::Nothing, || {
        peers_that_die("memif::a_peer_process_that_is_killed_is_survived", "");
    });
}

#[test]
fn a_zero_copy_peer_that_is_killed_is_survived() {
    isolated("memif::a_zero_copy_peer_that_is_killed_is_survived", Need::Nothing, || {
        peers_that_die("memif::a_zero_copy_peer_that_is_killed_is_survived", ",zero-copy=yes");
    });
}

#[test]
fn no_frame_is_lost_when_buffers_run_out() {
    isolated("memif::no_frame_is_lost_when_buffers_run_out", Need::Nothing, || {
        let socket = socket("memif-buffers");
        let few = OpenOptions { buffers: 256, ..OpenOptions::default() };
        let mut a = open(&server(&socket), 1);
        let mut b = open_with(&client(&socket, ""), 1, &few);
        let (a, b) = (&mut *a[0], &mut *b[0]);
        connect(a, b);
        connect(b, a);

        let mut queue: VecDeque<Packet> =
            (0..600).map(|i| Packet::from(frame(a, i, 200))).collect();
        let mut held = Vec::new();
        let start = Instant::now();
        // Holding on to frames, b runs dry before it has all of them.
        while start.elapsed() < Duration::from_millis(100) {
            a.transmit(&mut queue, now());
            b.receive(&mut held, 64, now());
        }
        assert!((100..=256).contains(&held.len()), "{} frames held", held.len());
        let own: Vec<Packet> = std::iter::from_fn(|| b.allocate(60)).collect();
        assert_eq!(held.len() + own.len(), 256);
        assert_eq!(b.counters().no_buffer, 1);
        drop(own);
        let mut next = 0;
        while next < 600 {
            a.transmit(&mut queue, now());
            for frame in held.drain(..) {
                assert_eq!(number(frame.data()), Some(next));
                next += 1;
            }
            b.receive(&mut held, 64, now());
            assert!(start.elapsed() < Duration::from_secs(10), "frame {next} was lost");
        }
        drop(held);
        assert!(b.allocate(60).is_some());
    });
}
