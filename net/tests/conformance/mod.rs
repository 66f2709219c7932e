//! What every device owes its caller, as tests over two joined sides.
//!
//! A backend's test file says how to make the sides and calls [`conformance_suite!`], which
//! makes one test of each case. Where the machine does not let the sides be made, the maker
//! says why, as `skipped: reason`, and the tests count as skipped. What a backend does not
//! claim is not tested on it, and that is no skip.

mod frames;

use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant as Clock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use throng_net::device::{Counters, Device};
use throng_net::packet::{ChecksumStatus, Packet};
use throng_runtime::Instant;

use frames::{Shape, is_numbered, number_of, numbered};

/// Two joined sides. What `near` sends, `far` receives, and the other way round.
pub(crate) struct Sides {
    /// The queues under test.
    pub(crate) near: Vec<Box<dyn Device>>,
    /// The other side's.
    pub(crate) far: Vec<Box<dyn Device>>,
    /// What is particular about this pair.
    pub(crate) traits: Traits,
    /// Kept for as long as the sides are used.
    #[allow(dead_code, reason = "held for its drop")]
    pub(crate) keep: Option<Box<dyn Any>>,
}

/// What cannot be the same for every backend.
#[derive(Clone, Debug)]
pub(crate) struct Traits {
    /// Frames sent on queue `i` arrive on queue `i`. Otherwise the path chooses.
    pub(crate) pairs_queues: bool,
    /// Frames that the path holds without loss while nobody receives.
    pub(crate) holds: usize,
    /// When the path is full, frames stay with the sender. Otherwise they are lost.
    pub(crate) pushes_back: bool,
    /// Buffers in each near queue's pool at most, where it is small enough to try.
    pub(crate) buffers: Option<usize>,
    /// The far side can be dropped while near lives, and near then counts drops.
    pub(crate) peer_can_go: bool,
    /// How long a frame may take.
    pub(crate) patience: Duration,
}

impl Default for Traits {
    /// Of a lossless link of paired queues.
    fn default() -> Traits {
        Traits {
            pairs_queues: true,
            holds: 256,
            pushes_back: true,
            buffers: None,
            peer_can_go: true,
            patience: Duration::from_secs(2),
        }
    }
}

/// One test for each case, in a module `$name`, over the sides that `$make` returns: a
/// `fn() -> Option<Sides>`, which says why when it returns `None`. `$run` is given the path
/// of each test and its body, to run it somewhere else than right here.
macro_rules! conformance_suite {
    ($name:ident, $make:expr) => {
        conformance_suite!($name, $make, |_path, body| body());
    };
    ($name:ident, $make:expr, $run:expr) => {
        conformance_suite!($name, $make, $run;
            bursts_arrive_in_order_on_their_queue
            both_directions_work_at_once
            every_size_from_header_to_mtu
            nothing_is_lost_within_capacity
            a_full_path_leaves_frames_with_the_caller
            buffers_run_out_and_come_back
            frames_of_unfit_length_are_dropped_alone
            a_peer_that_goes_is_survived
            checksum_offload_is_true
            segmentation_offload_is_true
            no_wakeup_is_lost
            counters_add_up
        );
    };
    ($name:ident, $make:expr, $run:expr; $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "$make may be a path of the parent or a closure")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let run: fn(&str, fn()) = $run;
                    run(concat!(module_path!(), "::", stringify!($case)), || {
                        let make: fn() -> Option<crate::conformance::Sides> = $make;
                        if let Some(sides) = make() {
                            crate::conformance::$case(sides);
                        }
                    });
                }
            )*
        }
    };
}
pub(crate) use conformance_suite;

const NOW: Instant = Instant::ZERO;

/// Hands over every frame, waiting for room as long as `patience` allows.
fn send_all(device: &mut dyn Device, mut frames: VecDeque<Packet>, patience: Duration) {
    let end = Clock::now() + patience;
    while !frames.is_empty() {
        if device.transmit(&mut frames, NOW) == 0 {
            assert!(Clock::now() < end, "no room for {} frames", frames.len());
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Receives on every queue until `count` frames satisfy `wanted` or patience ends: the
/// frames and the queue of each.
fn collect(
    devices: &mut [Box<dyn Device>],
    count: usize,
    patience: Duration,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<(usize, Packet)> {
    let end = Clock::now() + patience;
    let mut got = Vec::new();
    let mut burst = Vec::new();
    while got.len() < count && Clock::now() < end {
        let mut any = 0;
        for (queue, device) in devices.iter_mut().enumerate() {
            let before = burst.len();
            let received = device.receive(&mut burst, 32, NOW);
            assert!(received <= 32, "more than asked for");
            assert_eq!(burst.len() - before, received, "receive reports what it appends");
            let limit = device.capabilities().max_frame;
            assert!(burst.iter().all(|p| p.len() <= limit), "a frame over max_frame");
            assert!(burst.iter().all(|p| p.data().len() == p.len()), "a frame in pieces");
            any += received;
            let kept = burst.drain(..).filter(|p| wanted(p.data()));
            got.extend(kept.map(|packet| (queue, packet)));
        }
        if any == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    got
}

/// Sees that nothing of the suite's is still under way.
fn assert_quiet(devices: &mut [Box<dyn Device>]) {
    let extra = collect(devices, 1, Duration::from_millis(20), is_numbered);
    assert!(extra.is_empty(), "a frame too many: {:02x?}", extra[0].1.data());
}

/// A packet with these bytes from the device's own buffers.
fn packet(device: &mut dyn Device, bytes: &[u8]) -> Packet {
    let mut packet = device.allocate(bytes.len()).expect("a buffer");
    assert!(packet.is_empty(), "an allocated packet is empty");
    assert!(packet.append(bytes), "room for what was asked");
    packet
}

impl Sides {
    /// Numbered frames for queue `queue` of near; every third from foreign memory.
    fn burst(
        &mut self,
        queue: usize,
        numbers: std::ops::Range<u32>,
        length: usize,
    ) -> VecDeque<Packet> {
        let to = self.far[0].capabilities().mac;
        let device = &mut *self.near[queue];
        let from = device.capabilities().mac;
        let build = |number| {
            let bytes = numbered(to, from, queue as u16, number, length);
            if number % 3 == 2 { Packet::from(bytes) } else { packet(device, &bytes) }
        };
        numbers.map(build).collect()
    }

    /// Sees that `got` is, for each sending queue, exactly these numbers in order.
    fn check(&self, got: &[(usize, Packet)], numbers: std::ops::Range<u32>, length: usize) {
        let to = self.far[0].capabilities().mac;
        let from = self.near[0].capabilities().mac;
        for queue in 0..self.near.len() {
            let own = got.iter().filter(|(_, p)| usize::from(number_of(p.data()).0) == queue);
            let mut seen = Vec::new();
            for (arrived, packet) in own {
                let (sender, number) = number_of(packet.data());
                assert!(
                    !self.traits.pairs_queues || *arrived == queue,
                    "a frame of queue {queue} arrived on {arrived}"
                );
                let expected = numbered(to, from, sender, number, length);
                assert_eq!(packet.data(), expected, "contents");
                seen.push(number);
            }
            let all: Vec<u32> = numbers.clone().collect();
            assert_eq!(seen, all, "queue {queue}: order and number");
        }
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.near, &mut self.far);
    }
}

pub(crate) fn bursts_arrive_in_order_on_their_queue(mut sides: Sides) {
    let patience = sides.traits.patience;
    for _direction in 0..2 {
        let mut next = 0;
        for size in [1, 7, 64, 33] {
            for queue in 0..sides.near.len() {
                let frames = sides.burst(queue, next..next + size, 100);
                send_all(&mut *sides.near[queue], frames, patience);
            }
            let count = size as usize * sides.near.len();
            let got = collect(&mut sides.far, count, patience, is_numbered);
            sides.check(&got, next..next + size, 100);
            next += size;
        }
        assert_quiet(&mut sides.far);
        sides.swap();
    }
}

pub(crate) fn both_directions_work_at_once(mut sides: Sides) {
    let patience = sides.traits.patience;
    for round in 0..20 {
        for _direction in 0..2 {
            for queue in 0..sides.near.len() {
                let frames = sides.burst(queue, round * 8..round * 8 + 8, 300);
                send_all(&mut *sides.near[queue], frames, patience);
            }
            sides.swap();
        }
        for _direction in 0..2 {
            let count = 8 * sides.near.len();
            let got = collect(&mut sides.far, count, patience, is_numbered);
            sides.check(&got, round * 8..round * 8 + 8, 300);
            sides.swap();
        }
    }
}

pub(crate) fn every_size_from_header_to_mtu(mut sides: Sides) {
    let patience = sides.traits.patience;
    for _direction in 0..2 {
        let to = sides.far[0].capabilities().mac;
        let from = sides.near[0].capabilities().mac;
        let mtu = sides.near[0].capabilities().mtu.min(sides.far[0].capabilities().mtu);
        let sizes: Vec<usize> = (14..=mtu + 14).collect();
        for chunk in sizes.chunks(32) {
            let bytes = |&size: &usize| numbered(to, from, 0, size as u32, size);
            let frames = chunk.iter().map(|size| packet(&mut *sides.near[0], &bytes(size)));
            let frames = frames.collect();
            send_all(&mut *sides.near[0], frames, patience);
            let got = collect(&mut sides.far, chunk.len(), patience, is_numbered);
            assert_eq!(got.len(), chunk.len(), "sizes {chunk:?}");
            for ((_, packet), size) in got.iter().zip(chunk) {
                let expected = bytes(size);
                // Ethernet may pad a short frame.
                assert!(packet.len() == *size || packet.len() <= 60, "{} for {size}", packet.len());
                assert_eq!(&packet.data()[..*size], expected, "size {size}");
            }
        }
        sides.swap();
    }
}

pub(crate) fn nothing_is_lost_within_capacity(mut sides: Sides) {
    let (patience, holds) = (sides.traits.patience, sides.traits.holds as u32);
    for round in 0..3 {
        let numbers = round * holds..(round + 1) * holds;
        let queues = if sides.traits.pairs_queues { sides.near.len() } else { 1 };
        for queue in 0..queues {
            let frames = sides.burst(queue, numbers.clone(), 64);
            send_all(&mut *sides.near[queue], frames, patience);
        }
        let got = collect(&mut sides.far, sides.traits.holds * queues, patience, is_numbered);
        if queues == sides.near.len() {
            sides.check(&got, numbers, 64);
        } else {
            assert_eq!(got.len(), sides.traits.holds);
        }
    }
    assert_quiet(&mut sides.far);
}

pub(crate) fn a_full_path_leaves_frames_with_the_caller(mut sides: Sides) {
    if !sides.traits.pushes_back {
        return survives_a_flood(sides);
    }
    let patience = sides.traits.patience;
    let before = sides.near[0].counters();
    let mut waiting = VecDeque::new();
    let mut next = 0;
    let mut stuck = 0;
    // Until the device has taken nothing for a while.
    while stuck < 20 {
        assert!(next < 1_000_000, "it never fills");
        while waiting.len() < 32 {
            let bytes = numbered(
                sides.far[0].capabilities().mac,
                sides.near[0].capabilities().mac,
                0,
                next,
                80,
            );
            waiting.push_back(Packet::from(bytes));
            next += 1;
        }
        let length = waiting.len();
        let taken = sides.near[0].transmit(&mut waiting, NOW);
        assert_eq!(waiting.len() + taken, length);
        stuck = if taken == 0 { stuck + 1 } else { 0 };
        if taken == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let first = next - waiting.len() as u32;
    for (index, packet) in waiting.iter().enumerate() {
        assert_eq!(number_of(packet.data()), (0, first + index as u32), "what was left, in order");
    }
    let counters = sides.near[0].counters();
    assert!(counters.tx_full > before.tx_full, "a full ring is counted");
    assert_eq!(counters.tx_dropped, before.tx_dropped, "and nothing is dropped");
    // It drains and goes on, with nothing lost and nothing twice.
    let end = Clock::now() + patience;
    let mut got = Vec::new();
    while got.len() < next as usize && Clock::now() < end {
        let left = next as usize - got.len();
        got.extend(collect(&mut sides.far, left, Duration::from_millis(1), is_numbered));
        sides.near[0].transmit(&mut waiting, NOW);
    }
    let numbers: Vec<u32> = got.iter().map(|(_, packet)| number_of(packet.data()).1).collect();
    assert_eq!(numbers, (0..next).collect::<Vec<u32>>());
}

/// A path that loses what it cannot hold goes on afterwards, and what it delivers is in order.
fn survives_a_flood(mut sides: Sides) {
    let patience = sides.traits.patience;
    for burst in 0..200 {
        let frames = sides.burst(0, burst * 64..(burst + 1) * 64, 80);
        send_all(&mut *sides.near[0], frames, patience);
    }
    let got = collect(&mut sides.far, usize::MAX, Duration::from_millis(300), is_numbered);
    assert!(got.len() >= sides.traits.holds, "{} of 12800 frames arrived", got.len());
    let numbers: Vec<u32> = got.iter().map(|(_, packet)| number_of(packet.data()).1).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, none twice");
    drop(got);
    let frames = sides.burst(0, 20_000..20_010, 80);
    send_all(&mut *sides.near[0], frames, patience);
    let fresh = |frame: &[u8]| is_numbered(frame) && number_of(frame).1 >= 20_000;
    assert_eq!(collect(&mut sides.far, 10, patience, fresh).len(), 10, "it works again");
}

pub(crate) fn buffers_run_out_and_come_back(mut sides: Sides) {
    let Some(limit) = sides.traits.buffers else { return };
    let before = sides.near[0].counters().no_buffer;
    for _round in 0..3 {
        let mut held = Vec::new();
        while let Some(packet) = sides.near[0].allocate(100) {
            held.push(packet);
            assert!(held.len() <= limit, "more buffers than the limit of {limit}");
        }
        assert!(!held.is_empty());
    }
    assert_eq!(sides.near[0].counters().no_buffer, before + 3, "counted each time");
    let patience = sides.traits.patience;
    let frames = sides.burst(0, 0..8, 64);
    send_all(&mut *sides.near[0], frames, patience);
    let got = collect(&mut sides.far, 8, patience, is_numbered);
    assert_eq!(got.len(), 8, "it works again");
    // Frames held by the receiver do not stop the sender for good either.
    drop(got);
    let frames = sides.burst(0, 8..16, 64);
    send_all(&mut *sides.near[0], frames, patience);
    assert_eq!(collect(&mut sides.far, 8, patience, is_numbered).len(), 8);
}

pub(crate) fn frames_of_unfit_length_are_dropped_alone(mut sides: Sides) {
    let patience = sides.traits.patience;
    let before = sides.near[0].counters();
    let mtu = sides.near[0].capabilities().mtu;
    let mut frames = sides.burst(0, 0..3, 100);
    for (at, length) in [(1, mtu + 14 + 20), (2, 13), (3, 0)] {
        frames.insert(at, Packet::from(vec![0xee; length]));
    }
    send_all(&mut *sides.near[0], frames, patience);
    let got = collect(&mut sides.far, 3, patience, is_numbered);
    let numbers: Vec<u32> = got.iter().map(|(_, packet)| number_of(packet.data()).1).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(sides.near[0].counters().tx_dropped - before.tx_dropped, 3);
}

pub(crate) fn a_peer_that_goes_is_survived(mut sides: Sides) {
    let patience = sides.traits.patience;
    let frames = sides.burst(0, 0..4, 64);
    send_all(&mut *sides.near[0], frames, patience);
    let mac = sides.far[0].capabilities().mac;
    sides.far.clear();
    if !sides.traits.peer_can_go {
        // The path itself (the kernel) stays: it takes the frames and nobody gets them.
        let from = sides.near[0].capabilities().mac;
        let frames = (0..64).map(|n| Packet::from(numbered(mac, from, 0, n, 64))).collect();
        return send_all(&mut *sides.near[0], frames, patience);
    }
    let device = &mut *sides.near[0];
    let from = device.capabilities().mac;
    let before = device.counters();
    let end = Clock::now() + patience;
    let mut sent = 0;
    // Some of it may still fit into rings; then it has to be dropped and counted.
    while device.counters().tx_dropped == before.tx_dropped {
        assert!(Clock::now() < end, "{sent} frames sent to nobody, none counted as dropped");
        let mut frames =
            (0..64).map(|n| Packet::from(numbered(mac, from, 0, n, 64))).collect::<VecDeque<_>>();
        sent += device.transmit(&mut frames, NOW);
        assert_eq!(device.receive(&mut Vec::new(), 32, NOW), 0);
    }
    let Counters { tx_frames, tx_dropped, .. } = device.counters();
    let counted = tx_frames - before.tx_frames + tx_dropped - before.tx_dropped;
    assert_eq!(counted, sent as u64, "every frame taken is sent or dropped");
}

fn shapes(payloads: &[usize], udp: bool) -> Vec<Shape> {
    let shape = |ipv6, udp, payload| Shape { ipv6, udp, payload, flags: 0x18 };
    let kinds = [(false, false), (true, false), (false, true), (true, true)];
    let kinds = kinds.into_iter().filter(|kind| udp || !kind.1);
    kinds.flat_map(|(v6, udp)| payloads.iter().map(move |&p| shape(v6, udp, p))).collect()
}

pub(crate) fn checksum_offload_is_true(mut sides: Sides) {
    let patience = sides.traits.patience;
    for _direction in 0..2 {
        let claims = sides.near[0].capabilities().clone();
        let (to, from) = (sides.far[0].capabilities().mac, claims.mac);
        for shape in shapes(&[0, 1, 2, 77, 1400], true) {
            let claimed = if shape.udp { claims.tx_udp_checksum } else { claims.tx_tcp_checksum };
            let (bytes, tx) = shape.offloaded(to, from, 0);
            let mut offloaded = packet(&mut *sides.near[0], &bytes);
            offloaded.tx = tx;
            let finished = shape.finished(to, from);
            let mut frames = VecDeque::new();
            frames.push_back(packet(&mut *sides.near[0], &finished));
            if claimed && (shape.ipv6 || claims.tx_ip_checksum) {
                frames.push_back(offloaded);
            }
            let count = frames.len();
            send_all(&mut *sides.near[0], frames, patience);
            let got = collect(&mut sides.far, count, patience, |frame| shape.matches(frame));
            assert_eq!(got.len(), count, "{shape:?}");
            let judges = sides.far[0].capabilities().rx_checksum;
            for (_, packet) in &got {
                assert_ne!(packet.rx.checksum, ChecksumStatus::Bad, "{shape:?}");
                // A device that vouches for a frame may leave its checksum unfinished.
                let vouched = packet.rx.checksum == ChecksumStatus::Good;
                assert!(judges || !vouched, "a verdict without the claim to give one");
                let end = shape.headers() + shape.payload;
                let length = packet.len();
                assert!(length == end || length <= 60, "{length} bytes for {end}");
                let frame = &packet.data()[..end];
                assert_eq!(shape.faults(frame, vouched), None, "{shape:?}");
                assert_eq!(frame[shape.headers()..], finished[shape.headers()..], "{shape:?}");
            }
        }
        sides.swap();
    }
}

pub(crate) fn segmentation_offload_is_true(mut sides: Sides) {
    const SEGMENT: usize = 1400;
    let claims = sides.near[0].capabilities().clone();
    if claims.tso_max == 0 {
        return;
    }
    let patience = sides.traits.patience;
    let (to, from) = (sides.far[0].capabilities().mac, claims.mac);
    let most = claims.tso_max.min(40 * SEGMENT + 13);
    for shape in shapes(&[1, SEGMENT, SEGMENT + 1, 5 * SEGMENT, most, claims.tso_max], false) {
        // CWR, PSH, ACK, FIN: of these only ACK belongs on every segment.
        let shape = Shape { flags: 0x99, ..shape };
        let (bytes, tx) = shape.offloaded(to, from, SEGMENT as u16);
        let mut packet = packet(&mut *sides.near[0], &bytes);
        packet.tx = tx;
        send_all(&mut *sides.near[0], [packet].into(), patience);
        let end = Clock::now() + patience;
        let mut payload = Vec::<u8>::new();
        let mut index: u16 = 0;
        while payload.len() < shape.payload {
            let got = collect(&mut sides.far, 1, patience, |frame| shape.matches(frame));
            assert!(Clock::now() < end, "{shape:?}: {} bytes came", payload.len());
            for (_, packet) in &got {
                let vouched = packet.rx.checksum == ChecksumStatus::Good;
                let frame = packet.data();
                assert_eq!(shape.faults(frame, vouched), None, "{shape:?}, segment {index}");
                let (sequence, flags, id) = shape.tcp_fields(frame);
                let offset = sequence.wrapping_sub(frames::SEQUENCE) as usize;
                assert_eq!(offset, payload.len(), "{shape:?}: the next segment");
                payload.extend(&frame[shape.headers()..]);
                let (first, last) = (offset == 0, payload.len() == shape.payload);
                assert_eq!(flags & 0x80 != 0, first, "{shape:?}: CWR on the first only");
                assert_eq!(flags & 0x09 != 0, last, "{shape:?}: PSH, FIN on the last only");
                assert_eq!(flags & 0x10, 0x10, "ACK on all");
                let whole = frame.len() - shape.headers() > SEGMENT;
                assert!(!whole || frame.len() <= sides.far[0].capabilities().max_frame);
                if !whole && !shape.ipv6 {
                    assert_eq!(id, frames::IDENTIFICATION.wrapping_add(index), "{shape:?}");
                }
                index += 1;
            }
        }
        let expected: Vec<u8> = (0..shape.payload).map(Shape::payload_byte).collect();
        assert!(payload == expected, "{shape:?}: the payload");
    }
}

/// Whether the device's interrupt descriptor becomes readable within `timeout`.
fn wait(device: &dyn Device, timeout: Duration) -> bool {
    let fd = device.interrupt_fd().expect("a descriptor");
    let timeout =
        Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            // Some drivers have the kernel signal each frame.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

pub(crate) fn no_wakeup_is_lost(mut sides: Sides) {
    if sides.far[0].interrupt_fd().is_none() {
        assert!(!sides.far[0].arm(), "who cannot sleep must not say that it is ready to");
        return;
    }
    let patience = sides.traits.patience;
    sides.near.truncate(1);
    let to = sides.far[0].capabilities().mac;
    // Only one queue may be asked whether there is something: the path decides on which.
    let first = sides.burst(0, 0..1, 64);
    send_all(&mut *sides.near[0], first, patience);
    let got = collect(&mut sides.far, 1, patience, is_numbered);
    let queue = got.first().expect("the first frame").0;
    let mut device = sides.far.swap_remove(queue);

    // Quiet: it sleeps. Loud: it wakes. Something there already: it does not go to sleep.
    while device.receive(&mut Vec::new(), 32, NOW) > 0 {}
    if device.arm() {
        wait(&*device, Duration::from_millis(50));
        device.disarm();
    }
    while device.receive(&mut Vec::new(), 32, NOW) > 0 {}
    assert!(device.arm(), "nothing is waiting");
    let mut near = sides.near.remove(0);
    let from = near.capabilities().mac;
    let frame = move |number| VecDeque::from([Packet::from(numbered(to, from, 0, number, 64))]);
    send_all(&mut *near, frame(1), patience);
    assert!(wait(&*device, patience), "a frame wakes");
    device.disarm();
    assert!(!device.arm() || wait(&*device, Duration::ZERO), "the frame is still there");
    device.disarm();
    assert!(device.receive(&mut Vec::new(), 32, NOW) > 0);

    // A sender that strikes at every moment of the receiver's going to sleep.
    const FRAMES: u32 = 3000;
    let (report, heard) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        for number in 0..FRAMES {
            send_all(&mut *near, frame(number), patience);
            // Wait until it has arrived, then let the receiver get a varying distance ahead.
            if heard.recv_timeout(patience).is_err() {
                break;
            }
            for _ in 0..number % 512 {
                std::hint::spin_loop();
            }
        }
        near
    });
    let mut frames = Vec::new();
    let mut got = 0;
    while got < FRAMES {
        if device.arm() {
            assert!(wait(&*device, patience), "frame {got} came and nobody was woken");
        }
        device.disarm();
        device.receive(&mut frames, 32, NOW);
        for packet in frames.drain(..).filter(|packet| is_numbered(packet.data())) {
            assert_eq!(number_of(packet.data()).1, got);
            got += 1;
            report.send(()).ok();
        }
    }
    sender.join().expect("the sender");
}

pub(crate) fn counters_add_up(mut sides: Sides) {
    let patience = sides.traits.patience;
    let sum = |devices: &[Box<dyn Device>], f: fn(Counters) -> u64| {
        devices.iter().map(|device| f(device.counters())).sum::<u64>()
    };
    for _direction in 0..2 {
        let sent = sum(&sides.near, |c| c.tx_frames);
        let sent_bytes = sum(&sides.near, |c| c.tx_bytes);
        // Not zero where the link had to be waited for.
        let tx_dropped = sum(&sides.near, |c| c.tx_dropped);
        let rx_dropped = sum(&sides.far, |c| c.rx_dropped);
        let received = sum(&sides.far, |c| c.rx_frames);
        let received_bytes = sum(&sides.far, |c| c.rx_bytes);
        let queues = sides.near.len() as u64;
        for queue in 0..sides.near.len() {
            let frames = sides.burst(queue, 0..50, 123);
            send_all(&mut *sides.near[queue], frames, patience);
        }
        let got = collect(&mut sides.far, 50 * sides.near.len(), patience, is_numbered);
        assert_eq!(got.len() as u64, 50 * queues);
        assert_eq!(sum(&sides.near, |c| c.tx_frames) - sent, 50 * queues);
        assert_eq!(sum(&sides.near, |c| c.tx_bytes) - sent_bytes, 50 * 123 * queues);
        // The host may have added a word.
        assert!(sum(&sides.far, |c| c.rx_frames) - received >= 50 * queues);
        assert!(sum(&sides.far, |c| c.rx_bytes) - received_bytes >= 50 * 123 * queues);
        assert_eq!(sum(&sides.near, |c| c.tx_dropped), tx_dropped);
        assert_eq!(sum(&sides.far, |c| c.rx_dropped), rx_dropped);
        sides.swap();
    }
}
