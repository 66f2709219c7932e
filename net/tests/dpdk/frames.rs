//! Frames to send, and waiting for them.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use throng_net::device::{Device, OpenOptions, dpdk};
use throng_net::packet::Packet;

/// Local experimental Ethertype 1 (IEEE 802): no stack reacts to it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

pub(crate) type Port = Vec<Box<dyn Device>>;

pub(crate) fn open(devargs: &str, queues: usize) -> Port {
    open_with(devargs, queues, &OpenOptions::default())
}

pub(crate) fn open_with(devargs: &str, queues: usize, options: &OpenOptions) -> Port {
    try_open(devargs, queues, options).unwrap()
}

pub(crate) fn try_open(devargs: &str, queues: usize, options: &OpenOptions) -> io::Result<Port> {
    let ports: Vec<String> = devargs.split('+').map(str::to_owned).collect();
    dpdk::open(&ports, queues, options)
}

/// The time as devices take it.
pub(crate) fn now() -> throng_runtime::Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    throng_runtime::Instant::from_nanos(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

/// A frame of `len` bytes from `from` to whom it may concern, told apart by `number`.
pub(crate) fn frame(from: &dyn Device, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(from.capabilities().mac.0);
    bytes.extend(ETHERTYPE);
    bytes.extend(number.to_be_bytes());
    bytes.extend((bytes.len()..len).map(|i| (i as u32 ^ number) as u8));
    bytes
}

/// The number of a frame of this module, if it is one.
pub(crate) fn number(frame: &[u8]) -> Option<u32> {
    (frame.get(12..14)? == ETHERTYPE).then(|| u32::from_be_bytes(frame[14..18].try_into().unwrap()))
}

/// Builds `bytes` in a buffer of the device.
pub(crate) fn packet(device: &mut dyn Device, bytes: &[u8]) -> Option<Packet> {
    let mut packet = device.allocate(bytes.len())?;
    packet.append(bytes).then_some(packet)
}

/// Sends all of `queue`, within reason.
pub(crate) fn send(device: &mut dyn Device, queue: &mut VecDeque<Packet>) {
    let start = Instant::now();
    while !queue.is_empty() {
        device.transmit(queue, now());
        assert!(start.elapsed() < Duration::from_secs(10), "{}: stuck", device.capabilities().name);
    }
}

/// Receives until `enough` says so. Panics after some seconds, saying `what` it waited for.
pub(crate) fn receive_until(
    device: &mut dyn Device,
    what: &str,
    mut enough: impl FnMut(Packet) -> bool,
) {
    let start = Instant::now();
    let mut frames = Vec::new();
    loop {
        device.receive(&mut frames, 64, now());
        for frame in frames.drain(..) {
            if enough(frame) {
                return;
            }
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{}: no {what}: {:?}",
            device.capabilities().name,
            device.counters()
        );
    }
}

/// Sends single frames from `a` until `b` receives one: the link is up then, and empty.
pub(crate) fn connect(a: &mut dyn Device, b: &mut dyn Device) {
    let start = Instant::now();
    let mut frames = Vec::new();
    while frames.is_empty() {
        let hello = frame(a, u32::MAX, 60);
        a.transmit(&mut VecDeque::from([Packet::from(hello)]), now());
        b.receive(&mut frames, 64, now());
        std::thread::sleep(Duration::from_millis(1));
        assert!(start.elapsed() < Duration::from_secs(10), "no link");
    }
    while b.receive(&mut frames, 64, now()) != 0 {}
}

/// Sends frames of many lengths from `a` to `b` and checks that each arrives once, in order
/// and unchanged, in bursts that fit any ring.
pub(crate) fn exchange(a: &mut dyn Device, b: &mut dyn Device) {
    let longest = a.capabilities().mtu.min(b.capabilities().mtu) + 14;
    let dropped = a.counters().tx_dropped;
    let mut sent = 0;
    for burst in 0..50usize {
        let mut queue = VecDeque::new();
        let first = sent;
        for i in 0..20usize {
            let bytes = frame(a, sent, (60 + (burst * 20 + i) * 37 % (longest - 60)).min(longest));
            // Every fifth is a foreign packet, which the device has to copy.
            let packet = if i % 5 == 0 { Packet::from(bytes) } else { packet(a, &bytes).unwrap() };
            queue.push_back(packet);
            sent += 1;
        }
        send(a, &mut queue);
        let mut next = first;
        receive_until(b, "burst", |got| {
            if number(got.data()).is_none_or(|number| number == u32::MAX) {
                return false;
            }
            assert_eq!(number(got.data()), Some(next));
            let expected = frame(a, next, got.len());
            assert!(got.data() == expected, "frame {next} was changed on its way");
            next += 1;
            next == sent
        });
    }
    assert_eq!(a.counters().tx_dropped, dropped, "{:?}", a.counters());
    assert!(b.counters().rx_frames >= u64::from(sent));
}

/// Waits on the device's descriptor. Whether it rang within `limit`.
pub(crate) fn rings(device: &dyn Device, limit: Duration) -> bool {
    let fd = device.interrupt_fd().unwrap();
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    loop {
        match rustix::event::poll(&mut fds, Some(&limit)) {
            Ok(ready) => return ready == 1,
            // net_tap has the kernel signal each frame.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
