//! Peers in other processes, and what becomes of us when they die.

use std::collections::VecDeque;
use std::io;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use throng_net::device::Device;
use throng_net::packet::Packet;

use crate::frames::{Port, frame, now, number, packet};
use crate::isolated::again;

/// The socket to connect to, for a process that is to be the other side.
const PEER: &str = "THRONG_TEST_PEER";
/// Exit code of a peer whose device this machine does not allow now.
const UNABLE: i32 = 77;

/// A socket nobody else uses.
pub(crate) fn socket(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("throng-{name}-{}.sock", std::process::id()));
    path.to_str().unwrap().to_owned()
}

/// Another process that runs the same test as the other side.
fn spawn_peer(name: &str, socket: &str) -> Child {
    again(name).env(PEER, socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends back what it receives, until it is killed.
fn echo_for_ever(mut devices: Port) -> ! {
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

/// The test `name`: this process is one side and outlives several of the other.
pub(crate) fn peers_that_die(
    name: &str,
    survivor: impl Fn(&str) -> Port,
    peer: impl Fn(&str) -> io::Result<Port>,
) {
    if let Ok(socket) = std::env::var(PEER) {
        match peer(&socket) {
            Ok(port) => echo_for_ever(port),
            // Zero copy is not permitted without huge pages; or others took them meanwhile.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory
                ) =>
            {
                std::process::exit(UNABLE)
            }
            Err(error) => panic!("{error}"),
        }
    }
    let socket = socket(&name.replace(':', "-"));
    let mut devices = survivor(&socket);
    let device = &mut *devices[0];
    let limit = Instant::now() + Duration::from_secs(60);
    for round in 0..8 {
        let mut peer = spawn_peer(name, &socket);
        let mut gone = None;
        let in_time = |device: &dyn Device, what: &str| {
            assert!(Instant::now() < limit, "round {round}: {what}: {:?}", device.counters());
        };
        pump(device, |device, back| {
            in_time(device, "no echo");
            gone = peer.try_wait().unwrap();
            back > 500 || gone.is_some()
        });
        if let Some(status) = gone {
            assert_eq!(status.code(), Some(UNABLE), "round {round}: the peer: {status}");
            println!("skipped: zero copy between processes needs more free huge pages");
            return;
        }
        let dropped = device.counters().tx_dropped;
        peer.kill().unwrap();
        pump(device, |device, _| {
            in_time(device, "nothing dropped after the peer's death");
            device.counters().tx_dropped > dropped + 100
        });
        peer.wait().unwrap();
    }
}
