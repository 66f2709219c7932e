//! Devices and wrappers fed with anything: no frame and no metadata makes them panic, and
//! every frame is sent or counted.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use throng_net::device::faults::{Faults, Impairments};
use throng_net::device::memory::{self, Checksum, Options, Segmentation, Spread};
use throng_net::device::pcap::{self, Capture, Clock};
use throng_net::device::{Device, DeviceSpec, faults};
use throng_net::packet::{Packet, TxMeta};
use throng_runtime::Instant;

/// Bytes that are often something like an IP packet.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    (prop::collection::vec(any::<u8>(), 0..300), kind, any::<bool>(), any::<bool>()).prop_map(
        |(mut bytes, ipv6, udp, right_length)| {
            let Some(ipv6) = ipv6 else { return bytes };
            let length = bytes.len();
            let protocol = if udp { 17 } else { 6 };
            let mut put = |at: usize, value: &[u8]| {
                if let Some(place) = bytes.get_mut(at..at + value.len()) {
                    place.copy_from_slice(value);
                }
            };
            if ipv6 {
                put(12, &[0x86, 0xdd, 0x60]);
                put(20, &[protocol]);
                if right_length {
                    put(18, &(length.saturating_sub(54) as u16).to_be_bytes());
                }
            } else {
                put(12, &[0x08, 0x00, 0x45]);
                put(20, &[0, 0]);
                put(23, &[protocol]);
                if right_length {
                    put(16, &(length.saturating_sub(14) as u16).to_be_bytes());
                }
            }
            bytes
        },
    )
}

fn meta() -> impl Strategy<Value = TxMeta> {
    let lengths = (
        prop_oneof![Just(14u8), any::<u8>()],
        prop_oneof![Just(20u8), Just(40u8), any::<u8>()],
        prop_oneof![Just(20u8), Just(8u8), any::<u8>()],
    );
    let segment = prop_oneof![3 => Just(0u16), 1 => 1..=64u16, 1 => any::<u16>()];
    (lengths, any::<[bool; 4]>(), segment).prop_map(|((l2_len, l3_len, l4_len), flags, segment)| {
        let [ipv6, ip_checksum, tcp_checksum, udp_checksum] = flags;
        TxMeta {
            l2_len,
            l3_len,
            l4_len,
            ipv6,
            ip_checksum,
            tcp_checksum,
            udp_checksum,
            tso_segment: segment,
        }
    })
}

fn options() -> impl Strategy<Value = Options> {
    let checksum = prop_oneof![Just(Checksum::None), Just(Checksum::Fill), Just(Checksum::Trust)];
    let segmentation =
        prop_oneof![Just(Segmentation::None), Just(Segmentation::Cut), Just(Segmentation::Whole)];
    let spread = prop_oneof![Just(Spread::SameQueue), Just(Spread::Rss), Just(Spread::FalseRss)];
    (checksum, segmentation, spread, 68..400usize, 1..64usize).prop_map(
        |(checksum, segmentation, spread, mtu, ring)| Options {
            checksum,
            segmentation,
            spread,
            mtu,
            ring,
            buffers: 16,
            ..Options::default()
        },
    )
}

fn boxed(queues: Vec<memory::MemoryQueue>) -> Vec<Box<dyn Device>> {
    queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_frame_is_sent_or_counted(
        sent in prop::collection::vec((frame(), meta()), 1..40),
        a in (1..4usize, options()),
        b in (1..4usize, options()),
    ) {
        let rings = a.1.ring.min(b.1.ring);
        let (near, far) = memory::pair_with(a, b);
        let mut near = boxed(near);
        let mut far = boxed(far);
        for (bytes, tx) in sent {
            let mut packet = Packet::from(bytes);
            packet.tx = tx;
            let mut frames = VecDeque::from([packet]);
            let before = near[0].counters();
            let taken = near[0].transmit(&mut frames, Instant::ZERO);
            prop_assert_eq!(taken + frames.len(), 1);
            let after = near[0].counters();
            let counted = after.tx_frames + after.tx_dropped - before.tx_frames - before.tx_dropped;
            // A packet that is cut counts once for each segment.
            prop_assert!(counted >= taken as u64, "{counted} for {taken}");
            prop_assert_eq!(after.tx_full - before.tx_full, 1 - taken as u64);
            let mut got = Vec::new();
            if taken == 0 || rings < 8 {
                for device in &mut far {
                    device.receive(&mut got, 1000, Instant::ZERO);
                }
            }
            for packet in &got {
                prop_assert!(packet.len() >= 14);
            }
        }
        let mut got = Vec::new();
        for device in &mut far {
            device.receive(&mut got, 1000, Instant::ZERO);
        }
        let received: u64 = far.iter().map(|device| {
            let counters = device.counters();
            counters.rx_frames + counters.rx_dropped
        }).sum();
        prop_assert_eq!(received, near[0].counters().tx_frames);
    }

    #[test]
    fn wrappers_take_anything(
        sent in prop::collection::vec((frame(), meta()), 1..40),
        options in options(),
        seed: u64,
    ) {
        let shape = Impairments {
            loss: 0.1,
            burst: 0.01,
            duplicate: 0.1,
            reorder: 0.1,
            corrupt: 0.5,
            jitter: Duration::from_micros(5),
            ..Impairments::default()
        };
        let capture = pcap::Options { clock: Clock::Virtual, ..pcap::Options::default() };
        let capture = Capture::write_to(Box::new(std::io::sink()), capture).unwrap();
        let (near, far) = memory::pair(2, options);
        let wrap = |queues, seed| {
            let queues = faults::wrap(boxed(queues), &Faults::both(seed, shape.clone()));
            capture.wrap(queues)
        };
        let mut near = wrap(near, seed);
        let mut far = wrap(far, seed ^ 1);
        let mut now = Instant::ZERO;
        let mut got = Vec::new();
        for (bytes, tx) in sent {
            let mut packet = Packet::from(bytes);
            packet.tx = tx;
            near[1].transmit(&mut VecDeque::from([packet]), now);
            now += Duration::from_micros(1);
            for device in near.iter_mut().chain(&mut far) {
                device.receive(&mut got, 100, now);
            }
        }
        let mut turns = 0;
        while let Some(next) = near.iter().chain(&far).filter_map(|d| d.next_deadline()).min() {
            now = now.max(next);
            for device in near.iter_mut().chain(&mut far) {
                device.receive(&mut got, 100, now);
            }
            turns += 1;
            prop_assert!(turns < 10_000, "it never comes to rest");
        }
    }

    #[test]
    fn specs_are_read_or_refused(text in "(memory|tap|dpdk|x)?:?[a-z;=+,0-9.]{0,40}") {
        if let Ok(spec) = text.parse::<DeviceSpec>() {
            prop_assert_eq!(spec.to_string(), text);
        }
    }
}
