//! net_ring: two ports of one process. No peer and no kernel in the way, so this is where the
//! queue itself is tested.

use std::collections::VecDeque;

use throng_net::device::{OpenOptions, dpdk};
use throng_net::packet::Packet;

use crate::frames::{exchange, frame, now, number, packet, receive_until, send};
use crate::isolated::{Need, isolated};

#[test]
fn frames_cross_in_both_directions() {
    isolated("ring::frames_cross_in_both_directions", Need::Nothing, || {
        let (mut a, mut b) = dpdk::ring_pair(2, &OpenOptions::default()).unwrap();
        for queue in 0..2 {
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
        assert_ne!(a[0].capabilities().mac, b[0].capabilities().mac);
    });
}

#[test]
fn a_full_ring_leaves_the_rest_in_order() {
    isolated("ring::a_full_ring_leaves_the_rest_in_order", Need::Nothing, || {
        let options = OpenOptions { ring: 64, ..OpenOptions::default() };
        let (mut a, mut b) = dpdk::ring_pair(1, &options).unwrap();
        let (a, b) = (&mut *a[0], &mut *b[0]);
        let mut queue: VecDeque<Packet> = (0..200).map(|i| frame(a, i, 100).into()).collect();
        let taken = a.transmit(&mut queue, now());
        assert!((32..=64).contains(&taken), "{taken} taken by a ring of 64");
        assert_eq!((queue.len(), a.counters().tx_full), (200 - taken, 1));
        assert_eq!(a.transmit(&mut queue, now()), 0);
        assert_eq!((a.counters().tx_full, a.counters().tx_dropped), (2, 0));

        let mut got = Vec::new();
        while got.len() < 200 {
            b.receive(&mut got, 7, now());
            a.transmit(&mut queue, now());
        }
        let numbers: Vec<u32> = got.iter().filter_map(|frame| number(frame.data())).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<u32>>());
        assert_eq!(a.counters().tx_frames, 200);
        assert_eq!(b.counters().rx_bytes, 200 * 100);
        let port = b.port_counters();
        let good = port.iter().find(|(name, _)| name == "rx_good_packets");
        assert_eq!(good.map(|(_, value)| *value), Some(200), "{port:?}");
    });
}

#[test]
fn running_out_of_buffers_is_counted_and_ends() {
    isolated("ring::running_out_of_buffers_is_counted_and_ends", Need::Nothing, || {
        let options = OpenOptions { buffers: 256, ..OpenOptions::default() };
        let (mut a, mut b) = dpdk::ring_pair(1, &options).unwrap();
        let (a, b) = (&mut *a[0], &mut *b[0]);
        let mut all: Vec<Packet> = std::iter::from_fn(|| a.allocate(100)).collect();
        assert_eq!((all.len(), a.counters().no_buffer), (256, 1));

        // A frame from elsewhere needs a buffer too: it waits.
        let mut queue = VecDeque::from([Packet::from(frame(a, 7, 100))]);
        assert_eq!(a.transmit(&mut queue, now()), 0);
        assert_eq!((queue.len(), a.counters().no_buffer), (1, 2));

        // A frame that has to grow by a buffer says so.
        let mut last = all.pop().unwrap();
        assert!(last.append(&[0; 1000]));
        assert!(!last.append(&[0; 5000]));
        drop(last);

        // Given back on another thread, they are there again.
        std::thread::spawn(move || drop(all)).join().unwrap();
        send(a, &mut queue);
        receive_until(b, "frame", |frame| number(frame.data()) == Some(7));
        let again: Vec<Packet> = std::iter::from_fn(|| a.allocate(100)).collect();
        assert!(again.len() >= 250, "{} of 256 came back", again.len());
    });
}

#[test]
fn a_frame_of_several_buffers_arrives_in_one_piece() {
    isolated("ring::a_frame_of_several_buffers_arrives_in_one_piece", Need::Nothing, || {
        let options = OpenOptions { mtu: 9000, ..OpenOptions::default() };
        let (mut a, mut b) = dpdk::ring_pair(1, &options).unwrap();
        let (a, b) = (&mut *a[0], &mut *b[0]);
        let bytes = frame(a, 1, 9014);
        let mut big = a.allocate(bytes.len()).unwrap();
        // Grown past one buffer on purpose, in odd portions.
        let (first, rest) = bytes.split_at(301);
        assert!(big.append(first));
        for part in rest.chunks(777) {
            assert!(big.append(part));
        }
        let copy = big.try_clone().unwrap();
        assert!(copy.data() == bytes);
        let mut together = Vec::new();
        big.for_each_piece(|piece| together.extend_from_slice(piece));
        assert!(together == bytes && big.len() == bytes.len());
        send(a, &mut VecDeque::from([big]));
        receive_until(b, "frame", |frame| {
            assert!(frame.data() == bytes);
            true
        });
    });
}

#[test]
fn ports_can_be_closed_and_opened_again() {
    isolated("ring::ports_can_be_closed_and_opened_again", Need::Nothing, || {
        let options = OpenOptions { buffers: 512, ..OpenOptions::default() };
        let mut held: Vec<Packet> = Vec::new();
        for round in 0..20 {
            let (mut a, mut b) = dpdk::ring_pair(2, &options).unwrap();
            let (a, b) = (&mut *a[1], &mut *b[1]);
            let mut queue = VecDeque::new();
            for i in 0..8 {
                let bytes = frame(a, round * 8 + i, 64);
                queue.extend(packet(a, &bytes));
            }
            a.transmit(&mut queue, now());
            // Half of the frames are left in the ring, half outlive the port.
            b.receive(&mut held, 4, now());
        }
        let numbers: Vec<u32> = held.iter().filter_map(|frame| number(frame.data())).collect();
        let expected: Vec<u32> = (0..20).flat_map(|round| round * 8..round * 8 + 4).collect();
        assert_eq!(numbers, expected);
    });
}
