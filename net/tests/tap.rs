//! The TAP device against the kernel's own sockets, in a network namespace of its own.

mod common;

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::time::{Duration, Instant as Clock};

use common::{ip, own_network};
use throng_net::device::tap::{self, Options, TapQueue};
use throng_net::device::{Device, DeviceSpec};
use throng_net::packet::{ChecksumStatus, Packet};
use throng_runtime::Instant;

/// Receives until a frame satisfies `wanted`, on any queue.
fn wait_for(queues: &mut [TapQueue], wanted: impl Fn(&[u8]) -> bool) -> Option<(usize, Packet)> {
    let end = Clock::now() + Duration::from_secs(5);
    let mut frames = Vec::new();
    while Clock::now() < end {
        for (index, queue) in queues.iter_mut().enumerate() {
            queue.receive(&mut frames, 64, Instant::ZERO);
            if let Some(packet) = frames.drain(..).find(|packet| wanted(packet.data())) {
                return Some((index, packet));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn is_udp(frame: &[u8]) -> bool {
    frame.len() > 42 && frame[12..14] == [0x08, 0x00] && frame[23] == 17
}

/// Turns a received UDP frame round: addresses and ports swapped. Checksums do not change.
fn turned(packet: &Packet) -> Vec<u8> {
    let frame = packet.data();
    let mut reply = frame.to_vec();
    reply[0..6].copy_from_slice(&frame[6..12]);
    reply[6..12].copy_from_slice(&frame[0..6]);
    reply[26..30].copy_from_slice(&frame[30..34]);
    reply[30..34].copy_from_slice(&frame[26..30]);
    reply[34..36].copy_from_slice(&frame[36..38]);
    reply[36..38].copy_from_slice(&frame[34..36]);
    reply
}

fn open(name: &str, queues: usize, offload: bool) -> Vec<TapQueue> {
    let queues =
        tap::open(name, queues, &Options { offload, ..Options::default() }).expect("a TAP");
    ip(&format!("addr add 10.77.0.1/24 dev {name}"));
    let mac = queues[0].capabilities().mac.to_string().replace('-', ":");
    ip(&format!("neigh add 10.77.0.2 lladdr {mac} dev {name}"));
    queues
}

#[test]
fn udp_to_the_kernel_and_back_on_the_flows_queue() {
    if !own_network() {
        return;
    }
    for offload in [false, true] {
        let mut queues = open("devices0", 2, offload);
        let kernel = UdpSocket::bind("10.77.0.1:0").unwrap();
        kernel.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for (round, home) in [(0, 0), (1, 1), (2, 0)] {
            kernel.send_to(&[round; 100], "10.77.0.2:9").unwrap();
            let (_, packet) = wait_for(&mut queues, is_udp).expect("a datagram from the kernel");
            assert_eq!(packet.data()[42..], [round; 100]);
            let verdict = if offload { ChecksumStatus::Good } else { ChecksumStatus::Unknown };
            assert_eq!(packet.rx.checksum, verdict);
            // The checksum of what the kernel sends may be unfinished: ask for it anew.
            let mut reply = Packet::from(turned(&packet));
            reply.data_mut()[40..42].fill(0);
            let mut frames = VecDeque::from([reply]);
            assert_eq!(queues[home].transmit(&mut frames, Instant::ZERO), 1);
            let mut got = [0; 200];
            let (length, from) = kernel.recv_from(&mut got).expect("the reply");
            assert_eq!((length, from.to_string()), (100, "10.77.0.2:9".to_owned()));
            // The kernel has seen which queue the flow was sent on, and follows.
            kernel.send_to(&[7; 10], "10.77.0.2:9").unwrap();
            let (index, _) = wait_for(&mut queues, is_udp).expect("another datagram");
            assert_eq!(index, home);
        }
    }
}

#[test]
fn a_tag_is_not_counted_to_the_mtu() {
    if !own_network() {
        return;
    }
    for (name, offload) in [("devices4", false), ("devices5", true)] {
        let mut queues = open(name, 1, offload);
        let frame = |kind: [u8; 2], length: usize| {
            let mut frame = vec![0xff; 6];
            frame.extend([2, 0, 0, 0, 0, 9]);
            frame.extend(kind);
            frame.extend([0, 5, 0x88, 0xb5]);
            frame.resize(length, 0);
            Packet::from(frame)
        };
        let (tagged, plain) = ([0x81, 0x00], [0x88, 0xb5]);
        let frames = [(tagged, 1_518), (tagged, 1_519), (plain, 1_514), (plain, 1_515)];
        let mut frames: VecDeque<_> =
            frames.into_iter().map(|(kind, length)| frame(kind, length)).collect();
        assert_eq!(queues[0].transmit(&mut frames, Instant::ZERO), 4);
        let counters = queues[0].counters();
        assert_eq!((counters.tx_frames, counters.tx_dropped), (2, 2));
    }
}

#[test]
fn the_interrupt_descriptor_tells_of_a_frame() {
    if !own_network() {
        return;
    }
    let mut queues = open("devices0", 1, true);
    while wait_quiet(&mut queues[0]) {}
    assert!(queues[0].arm(), "nothing is waiting");
    let kernel = UdpSocket::bind("10.77.0.1:0").unwrap();
    kernel.send_to(b"x", "10.77.0.2:9").unwrap();
    assert!(!queues[0].arm(), "a frame is waiting");
    queues[0].disarm();
    assert!(wait_for(&mut queues, is_udp).is_some());
}

/// Takes what the kernel says by itself (router solicitations). Whether there was any.
fn wait_quiet(queue: &mut TapQueue) -> bool {
    std::thread::sleep(Duration::from_millis(20));
    queue.receive(&mut Vec::new(), 64, Instant::ZERO) > 0
}

#[test]
fn an_interface_that_is_down_or_gone_is_survived() {
    if !own_network() {
        return;
    }
    let mut queues = open("devices0", 2, true);
    ip("link set devices0 down");
    let frame = || Packet::from(vec![0xff; 60]);
    let mut frames = VecDeque::from([frame(), frame()]);
    assert_eq!(queues[0].transmit(&mut frames, Instant::ZERO), 2);
    assert_eq!(queues[0].counters().tx_dropped, 2);
    ip("link set devices0 up");
    frames.push_back(frame());
    assert_eq!(queues[0].transmit(&mut frames, Instant::ZERO), 1);
    assert_eq!(queues[0].counters().tx_frames, 1);
    ip("link del devices0");
    frames.push_back(frame());
    assert_eq!(queues[0].transmit(&mut frames, Instant::ZERO), 1);
    assert_eq!(queues[0].counters().tx_dropped, 3);
    assert_eq!(queues[0].receive(&mut Vec::new(), 64, Instant::ZERO), 0);
    assert!(queues[0].interrupt_fd().is_none(), "it would end every wait at once");
}

#[test]
fn what_cannot_be_opened_says_why() {
    assert!("tap:".parse::<DeviceSpec>().is_err());
    assert!("tap:a-name-that-is-too-long".parse::<DeviceSpec>().is_err());
    let error = "tap:x;offload=maybe".parse::<DeviceSpec>().unwrap_err().to_string();
    assert!(error.contains("maybe") && error.contains("on, off"), "{error}");
    if !own_network() {
        return;
    }
    let error = tap::open("lo", 2, &Options::default()).err().expect("it is no TAP");
    assert!(error.to_string().contains("tap:lo"), "{error}");
    ip("tuntap add dev devices2 mode tap");
    let error = tap::open("devices2", 2, &Options::default()).err().expect("one queue only");
    assert!(error.to_string().contains("multi_queue"), "{error}");
    assert_eq!(tap::open("devices2", 1, &Options::default()).map(|q| q.len()).unwrap(), 1);
}
