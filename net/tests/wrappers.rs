//! The wrappers: faults come as often as asked and the same each time; captures are what
//! tshark finds no fault with.

#[path = "conformance/frames.rs"]
#[allow(dead_code, reason = "shared with the conformance suite")]
mod frames;

use std::collections::VecDeque;
use std::process::Command;
use std::time::Duration;

use frames::Shape;
use smoltcp::wire::EthernetAddress;
use throng_net::device::faults::{Faults, FaultyQueue, Impairments};
use throng_net::device::memory::{self, Checksum, MemoryQueue, Options, Segmentation};
use throng_net::device::pcap::{self, Capture, Clock};
use throng_net::device::{Device, DeviceSpec, OpenOptions, open};
use throng_net::packet::{ChecksumStatus, Packet};
use throng_runtime::Instant;

const A: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const B: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

fn faulty(send: Impairments, seed: u64) -> (FaultyQueue, MemoryQueue) {
    let options = Options { ring: 1 << 14, buffers: 1 << 15, ..Options::default() };
    let (mut a, b) = memory::pair(1, options);
    let faults = Faults { seed, send, receive: Impairments::default() };
    let b = b.into_iter().next().unwrap();
    (FaultyQueue::new(Box::new(a.remove(0)), 0, &faults), b)
}

/// Sends `count` numbered frames, one each microsecond, and receives until all has settled:
/// the numbers in order of arrival.
fn run(send: Impairments, seed: u64, count: u32) -> (Vec<u32>, FaultyQueue) {
    let (mut device, mut far) = faulty(send, seed);
    let mut got = Vec::new();
    let mut frames = Vec::new();
    let mut now = Instant::ZERO;
    for number in 0..count {
        now = Instant::from_micros(number.into());
        let packet = Packet::from(frames::numbered(B, A, 0, number, 100));
        assert_eq!(device.transmit(&mut VecDeque::from([packet]), now), 1);
        far.receive(&mut frames, 1000, now);
    }
    while let Some(next) = device.next_deadline() {
        now = now.max(next);
        device.receive(&mut Vec::new(), 100, now);
        far.receive(&mut frames, 1000, now);
    }
    got.extend(frames.iter().map(|packet| frames::number_of(packet.data()).1));
    (got, device)
}

fn within(share: f64, expected: f64) -> bool {
    (share - expected).abs() < expected * 0.15
}

#[test]
fn loss_duplication_and_reordering_come_as_often_as_asked() {
    const COUNT: u32 = 10_000;
    let (got, device) = run(Impairments { loss: 0.1, ..Impairments::default() }, 1, COUNT);
    let counters = device.fault_counters();
    assert!(within(counters.lost as f64 / f64::from(COUNT), 0.1), "{counters:?}");
    assert_eq!(got.len() as u64 + counters.lost, COUNT.into());
    assert!(got.is_sorted(), "loss alone does not reorder");
    assert_eq!(device.counters().tx_dropped, counters.lost);

    let (got, device) = run(Impairments { duplicate: 0.1, ..Impairments::default() }, 2, COUNT);
    let counters = device.fault_counters();
    assert!(within(counters.duplicated as f64 / f64::from(COUNT), 0.1), "{counters:?}");
    assert_eq!(got.len() as u64, u64::from(COUNT) + counters.duplicated);

    let reorder = Impairments { reorder: 0.1, ..Impairments::default() };
    let (mut got, device) = run(reorder, 3, COUNT);
    let counters = device.fault_counters();
    assert!(within(counters.reordered as f64 / f64::from(COUNT), 0.1), "{counters:?}");
    let late = got.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(late > 500, "{late} frames out of order");
    got.sort_unstable();
    assert_eq!(got, (0..COUNT).collect::<Vec<u32>>(), "none lost, none twice");
}

#[test]
fn bursts_of_loss_have_the_length_asked_for() {
    let burst = Impairments { burst: 0.005, burst_length: 20.0, ..Impairments::default() };
    let (got, device) = run(burst, 4, 20_000);
    let gaps = got.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() as f64;
    let lost = device.fault_counters().lost as f64;
    assert!(lost / gaps > 15.0 && lost / gaps < 25.0, "{lost} lost in {gaps} bursts");
}

#[test]
fn one_seed_is_one_run() {
    let shape = Impairments {
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.1,
        jitter: Duration::from_micros(30),
        ..Impairments::default()
    };
    let first = run(shape.clone(), 7, 2000).0;
    assert_eq!(first, run(shape.clone(), 7, 2000).0);
    assert_ne!(first, run(shape, 8, 2000).0);
}

#[test]
fn delay_rate_and_queue_shape_the_link() {
    // 100 bytes at 8 Mbit/s take 100 us.
    let shape = Impairments {
        delay: Duration::from_millis(5),
        rate: Some(8_000_000),
        queue: 10,
        ..Impairments::default()
    };
    let (mut device, mut far) = faulty(shape, 1);
    let frame = |number| Packet::from(frames::numbered(B, A, 0, number, 100));
    let mut burst: VecDeque<Packet> = (0..15).map(frame).collect();
    assert_eq!(device.transmit(&mut burst, Instant::ZERO), 15);
    assert_eq!(device.fault_counters().overflowed, 5);
    for number in 1..=10 {
        let due = Instant::from_micros(5000 + number * 100);
        assert_eq!(device.next_deadline(), Some(due));
        device.receive(&mut Vec::new(), 10, due);
        let mut frames = Vec::new();
        assert_eq!(far.receive(&mut frames, 10, due), 1);
    }
    assert_eq!(device.next_deadline(), None);
}

#[test]
fn a_queue_in_bytes_holds_what_waits_and_not_what_travels() {
    // Of 15 frames of 100 bytes the first goes at once; ten of the others find room to wait.
    let shape = Impairments {
        delay: Duration::from_millis(5),
        rate: Some(8_000_000),
        queue_bytes: 1_100,
        ..Impairments::default()
    };
    let (mut device, _far) = faulty(shape, 1);
    let frame = |number| Packet::from(frames::numbered(B, A, 0, number, 100));
    let mut burst: VecDeque<Packet> = (0..15).map(frame).collect();
    device.transmit(&mut burst, Instant::ZERO);
    assert_eq!(device.fault_counters().overflowed, 4);
    // All are sent, none has arrived: the queue is empty.
    let mut burst: VecDeque<Packet> = (0..15).map(frame).collect();
    device.transmit(&mut burst, Instant::from_micros(1_100));
    assert_eq!(device.fault_counters().overflowed, 8);
}

#[test]
fn faults_change_under_way() {
    let (mut device, mut far) = faulty(Impairments { loss: 1.0, ..Impairments::default() }, 3);
    let arrive = |device: &mut FaultyQueue, far: &mut MemoryQueue, at: u64| {
        let packet = Packet::from(frames::numbered(B, A, 0, at as u32, 100));
        device.transmit(&mut VecDeque::from([packet]), Instant::from_millis(at));
        let mut frames = Vec::new();
        far.receive(&mut frames, 10, Instant::from_millis(at));
        frames.len()
    };
    assert_eq!(arrive(&mut device, &mut far, 1), 0);
    let late = Impairments { delay: Duration::from_millis(5), ..Impairments::default() };
    device.set(&Faults { seed: 3, send: late, ..Faults::default() });
    assert_eq!(arrive(&mut device, &mut far, 2), 0);
    // What was late arrives, and after it what is not late any more.
    device.set(&Faults { seed: 3, ..Faults::default() });
    assert_eq!(arrive(&mut device, &mut far, 3), 1);
    assert_eq!(device.next_deadline(), Some(Instant::from_millis(7)));
    assert_eq!(arrive(&mut device, &mut far, 7), 2);
    assert_eq!(device.fault_counters().lost, 1);
}

#[test]
fn corruption_flips_one_bit_that_a_checksum_tells() {
    for (receiving, checksum) in [(false, Checksum::None), (true, Checksum::Trust)] {
        let options = Options { checksum, ..Options::default() };
        let (mut a, mut b) = memory::pair(1, options);
        let corrupt = Impairments { corrupt: 1.0, ..Impairments::default() };
        let none = Impairments::default();
        let faults = |hit| if hit { corrupt.clone() } else { none.clone() };
        let faults = |on: bool| Faults { seed: 5, send: faults(!on), receive: faults(on) };
        let mut sender: Box<dyn Device> = Box::new(a.remove(0));
        let mut receiver: Box<dyn Device> = Box::new(b.remove(0));
        if receiving {
            receiver = Box::new(FaultyQueue::new(receiver, 0, &faults(true)));
        } else {
            sender = Box::new(FaultyQueue::new(sender, 0, &faults(false)));
            assert!(!sender.capabilities().tx_tcp_checksum);
        }
        assert!(!receiver.capabilities().rx_checksum);
        for ipv6 in [false, true] {
            let shape = Shape { ipv6, udp: false, payload: 333, flags: 0x10 };
            let finished = shape.finished(B, A);
            for round in 0..50 {
                let mut packet = Packet::from(finished.clone());
                if receiving && round % 2 == 0 {
                    let (bytes, tx) = shape.offloaded(B, A, 0);
                    packet = Packet::from(bytes);
                    packet.tx = tx;
                }
                sender.transmit(&mut VecDeque::from([packet]), Instant::ZERO);
                let mut frames = Vec::new();
                assert_eq!(receiver.receive(&mut frames, 10, Instant::ZERO), 1);
                assert_eq!(frames[0].rx.checksum, ChecksumStatus::Unknown);
                let bits: u32 =
                    frames[0].data().iter().zip(&finished).map(|(x, y)| (x ^ y).count_ones()).sum();
                assert_eq!(bits, 1);
            }
        }
        // Nothing would tell for this one.
        let plain = Packet::from(frames::numbered(B, A, 0, 1, 60));
        sender.transmit(&mut VecDeque::from([plain]), Instant::ZERO);
        assert_eq!(receiver.receive(&mut Vec::new(), 10, Instant::ZERO), 0);
    }
}

#[test]
fn specs_wrap_devices() {
    let text = "memory:wrapped;loss=0.5;duplicate=0.1;burst=0.01;burst_length=3;reorder=0.1;\
                reorder_us=100;corrupt=0.01;delay_us=10;jitter_us=1;rate_mbit=1000;queue=50;\
                seed=9;faults=send;checksum=trust;tso=whole";
    let spec: DeviceSpec = text.parse().unwrap();
    let faults = spec.faults.clone().unwrap();
    assert_eq!((faults.seed, faults.send.loss, faults.send.queue), (9, 0.5, 50));
    assert!(!faults.receive.any());
    let queues = open(&spec, 2, &OpenOptions::default()).unwrap();
    assert_eq!(queues.len(), 2);
    assert_eq!(queues[0].capabilities().tso_max, 0, "hidden by the faults");
    for (text, words) in [
        ("memory:x;loss=2", ["loss", "2", "0 to 1"]),
        ("memory:x;loss=nan", ["loss", "nan", "0 to 1"]),
        ("memory:x;burst_length=0.5", ["burst_length", "0.5", "from 1"]),
        ("tap:x;faults=all", ["faults", "all", "both, send, receive"]),
        ("dpdk:x;pcap=", ["pcap", "", "path"]),
        ("dpdk:x;tso=whole", ["tso", "accepted", "loss, "]),
    ] {
        let error = text.parse::<DeviceSpec>().unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn a_capture_that_cannot_be_made_says_where() {
    let spec: DeviceSpec = "memory:no-capture;pcap=/nonexistent/x.pcapng".parse().unwrap();
    let error = open(&spec, 1, &OpenOptions::default()).err().unwrap().to_string();
    assert!(error.contains("/nonexistent/x.pcapng"), "{error}");
}

/// A file of this test's own that goes away with the value.
struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    fn new(name: &str) -> TemporaryFile {
        let name = format!("throng-{}-{name}", std::process::id());
        TemporaryFile(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn the_size_limit_holds() {
    let file = TemporaryFile::new("limit.pcapng");
    let options = pcap::Options { limit: 10_000, clock: Clock::Virtual };
    let capture = Capture::create(&file.0, options).unwrap();
    let (a, mut b) = memory::pair(1, Options::default());
    let mut a = capture.wrap(a.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect());
    drop(capture);
    for number in 0..100 {
        let packet = Packet::from(frames::numbered(B, A, 0, number, 500));
        assert_eq!(a[0].transmit(&mut VecDeque::from([packet]), Instant::ZERO), 1);
        assert_eq!(b[0].receive(&mut Vec::new(), 10, Instant::ZERO), 1, "the device goes on");
    }
    drop(a);
    let length = std::fs::metadata(&file.0).unwrap().len();
    assert!((9_000..=10_000).contains(&length), "{length}");
}

/// A disk with room for so many bytes.
struct Disk(usize);

impl std::io::Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match bytes.len().min(self.0) {
            0 => Err(std::io::ErrorKind::StorageFull.into()),
            fits => {
                self.0 -= fits;
                Ok(fits)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_capture_and_not_the_device() {
    let error = Capture::write_to(Box::new(Disk(10)), pcap::Options::default()).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let capture = Capture::write_to(Box::new(Disk(10_000)), pcap::Options::default()).unwrap();
    let boxed =
        |side: Vec<_>| side.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect::<Vec<_>>();
    let (a, b) = memory::pair(1, Options::default());
    let (mut a, mut b) = (capture.wrap(boxed(a)), capture.wrap(boxed(b)));
    let mut now = Instant::ZERO;
    for number in 0..100 {
        let bytes = frames::numbered(B, A, 0, number, 500);
        let packet = Packet::from(bytes.clone());
        assert_eq!(a[0].transmit(&mut VecDeque::from([packet]), now), 1);
        let mut got = Vec::new();
        assert_eq!(b[0].receive(&mut got, 10, now), 1);
        assert_eq!(got[0].data(), bytes);
        // Each time the buffer is written out.
        now += Duration::from_millis(100);
    }
}

/// What tshark says of the file, with every checksum verified. `None`: there is no tshark.
fn tshark(file: &TemporaryFile, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&file.0);
    for protocol in ["ip", "tcp", "udp"] {
        command.arg("-o").arg(format!("{protocol}.check_checksum:TRUE"));
    }
    let output = match command.args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: needs tshark: {error}");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {said}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn tshark_finds_no_fault_with_offloaded_frames() {
    let file = TemporaryFile::new("offload.pcapng");
    let options = pcap::Options { clock: Clock::Virtual, ..pcap::Options::default() };
    let capture = Capture::create(&file.0, options).unwrap();
    let link = Options {
        checksum: Checksum::Trust,
        segmentation: Segmentation::Whole,
        ..Options::default()
    };
    let (a, b) = memory::pair(2, link);
    let mut a = capture.wrap(a.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect());
    let mut b = capture.wrap(b.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect());
    drop(capture);
    let mut now = Instant::from_nanos(1_234_567_891);
    for ipv6 in [false, true] {
        for (udp, payload, segment) in
            [(true, 301, 0), (false, 1200, 0), (false, 10_000, 1400), (false, 60_001, 1400)]
        {
            let shape = Shape { ipv6, udp, payload, flags: 0x10 };
            let (bytes, tx) = shape.offloaded(B, A, segment);
            let mut packet = Packet::from(bytes);
            packet.tx = tx;
            assert_eq!(a[1].transmit(&mut VecDeque::from([packet]), now), 1);
            assert_eq!(b[1].receive(&mut Vec::new(), 10, now), 1);
            now += Duration::from_nanos(1001);
        }
    }
    drop((a, b));
    let fields =
        ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.time_epoch", "-e", "frame.len"];
    let Some(listing) = tshark(&file, &fields) else { return };
    let lines: Vec<&str> = listing.lines().collect();
    // Per family: 1 + 1 + 8 + 43 sent, 4 received.
    assert_eq!(lines.len(), 2 * (1 + 1 + 8 + 43 + 4), "{listing}");
    assert!(lines[0].starts_with("memory:pair/a#1\t1.234567891\t"), "{}", lines[0]);
    assert!(lines[1].starts_with("memory:pair/b#1\t1.234567891\t"), "{}", lines[1]);
    let bad = tshark(
        &file,
        &[
            "-Y",
            "ip.checksum.status==0 or tcp.checksum.status==0 or udp.checksum.status==0 or _ws.malformed",
        ],
    );
    assert_eq!(bad.as_deref(), Some(""));
    let good = tshark(&file, &["-Y", "tcp.checksum.status==1 or udp.checksum.status==1"]).unwrap();
    assert_eq!(good.lines().count(), lines.len());
}
