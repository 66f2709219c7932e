//! What only the memory device has: links by name, a link that takes time, hashing, spread.

use std::collections::VecDeque;
use std::time::Duration;

use throng_net::device::memory::{self, MemoryQueue, Options, Spread};
use throng_net::device::{Device, DeviceSpec, OpenOptions, Rss, open};
use throng_net::packet::Packet;
use throng_net::rss::Toeplitz;
use throng_runtime::Instant;

fn frame(length: usize, fill: u8) -> Packet {
    let mut bytes = vec![fill; length];
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    Packet::from(bytes)
}

fn send(device: &mut dyn Device, packets: impl IntoIterator<Item = Packet>) -> usize {
    let mut frames: VecDeque<Packet> = packets.into_iter().collect();
    device.transmit(&mut frames, Instant::ZERO)
}

fn receive(device: &mut dyn Device, now: Instant) -> Vec<Packet> {
    let mut frames = Vec::new();
    device.receive(&mut frames, usize::MAX, now);
    frames
}

fn spec(text: &str) -> DeviceSpec {
    text.parse().unwrap()
}

#[test]
fn links_by_name_have_two_sides() {
    let link = spec("memory:two-sides");
    let mut a = open(&link, 2, &OpenOptions::default()).unwrap();
    // Nobody there yet.
    assert_eq!(send(&mut *a[1], [frame(60, 1)]), 1);
    assert_eq!(a[1].counters().tx_dropped, 1);
    let mut b = open(&link, 2, &OpenOptions::default()).unwrap();
    assert_ne!(a[0].capabilities().mac, b[0].capabilities().mac);
    let third = open(&link, 2, &OpenOptions::default()).err().unwrap();
    assert_eq!(third.kind(), std::io::ErrorKind::AddrInUse);
    assert!(third.to_string().contains("two-sides"), "{third}");
    send(&mut *a[1], [frame(60, 2)]);
    let got = receive(&mut *b[1], Instant::ZERO);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].data()[20], 2);
    assert!(receive(&mut *b[0], Instant::ZERO).is_empty());
    drop(b);
    assert_eq!(send(&mut *a[0], [frame(60, 1)]), 1);
    assert_eq!(a[0].counters().tx_dropped, 1);
    drop(a);
    assert_eq!(open(&link, 1, &OpenOptions::default()).unwrap().len(), 1);
}

#[test]
fn latency_and_rate() {
    let options = Options {
        latency: Duration::from_micros(100),
        // 1000 bytes take 8 us.
        rate: Some(1_000_000_000),
        ..Options::default()
    };
    let (mut a, mut b) = memory::pair(1, options);
    send(&mut a[0], (0..3).map(|i| frame(1000, i)));
    let sent = Instant::from_micros(50);
    assert!(receive(&mut b[0], sent).is_empty());
    for i in 0..3 {
        let due = sent + Duration::from_micros(100 + 8 * (i + 1));
        assert_eq!(b[0].next_deadline(), Some(due));
        assert!(receive(&mut b[0], Instant::from_nanos(due.as_nanos() - 1)).is_empty());
        assert_eq!(receive(&mut b[0], due).len(), 1);
    }
    assert_eq!(b[0].next_deadline(), None);
}

#[test]
fn unequal_queues_meet_by_remainder() {
    let (mut a, mut b) = memory::pair_with((3, Options::default()), (2, Options::default()));
    for queue in &mut a {
        send(queue, [frame(60, 1)]);
    }
    assert_eq!(receive(&mut b[0], Instant::ZERO).len(), 2);
    assert_eq!(receive(&mut b[1], Instant::ZERO).len(), 1);
    send(&mut b[1], [frame(60, 1)]);
    assert_eq!(receive(&mut a[1], Instant::ZERO).len(), 1);
}

/// An IPv4 TCP frame of nothing but headers.
fn tcp(source_port: u16) -> Packet {
    let mut bytes = vec![0; 54];
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes[14] = 0x45;
    bytes[17] = 40;
    bytes[23] = 6;
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[34..36].copy_from_slice(&source_port.to_be_bytes());
    bytes[36..38].copy_from_slice(&80u16.to_be_bytes());
    Packet::from(bytes)
}

#[test]
fn a_hashing_link_delivers_where_it_claims() {
    for spread in [Spread::Rss, Spread::FalseRss] {
        let options = Options { spread, ..Options::default() };
        let (mut a, mut b): (Vec<MemoryQueue>, Vec<MemoryQueue>) = memory::pair(4, options);
        let Rss::Toeplitz { key, reta, .. } = b[0].capabilities().rss.clone() else {
            panic!("it claims to hash")
        };
        let hasher = Toeplitz::new(&key).unwrap();
        for port in 0..200 {
            send(&mut a[usize::from(port) % 4], [tcp(1000 + port)]);
        }
        let mut arrived = 0;
        let mut right = 0;
        for (queue, device) in b.iter_mut().enumerate() {
            for packet in receive(device, Instant::ZERO) {
                let mut input = packet.data()[26..34].to_vec();
                input.extend(&packet.data()[34..38]);
                let hash = hasher.hash_bytes(&input);
                arrived += 1;
                right += usize::from(usize::from(reta[hash as usize % reta.len()]) == queue);
                let reported = (spread == Spread::Rss).then_some(hash);
                assert_eq!(packet.rx.rss_hash, reported);
            }
        }
        assert_eq!(arrived, 200);
        assert_eq!(right == 200, spread == Spread::Rss, "{right}");
    }
}

#[test]
fn specs_say_what_is_wrong() {
    let text = "memory:x;tso=big".parse::<DeviceSpec>().unwrap_err().to_string();
    for word in ["tso", "big", "none, cut, whole"] {
        assert!(text.contains(word), "{text}");
    }
    let text = "memory:x;speed=1".parse::<DeviceSpec>().unwrap_err().to_string();
    assert!(text.contains("speed") && text.contains("delay_us"), "{text}");
    let text = "eth0".parse::<DeviceSpec>().unwrap_err().to_string();
    assert!(text.contains("eth0") && text.contains("memory:"), "{text}");
    assert!("memory:".parse::<DeviceSpec>().is_err());
    assert!("dpdk:a++b".parse::<DeviceSpec>().is_err());
    let text = "dpdk:net_af_xdp0,iface=v0+net_af_xdp1,iface=v0";
    let spec = text.parse::<DeviceSpec>().unwrap();
    assert_eq!(spec.to_string(), text);
    if cfg!(not(feature = "dpdk")) {
        let error = open(&spec, 1, &OpenOptions::default()).err().unwrap();
        assert!(error.to_string().contains("--features dpdk"), "{error}");
    }
}
