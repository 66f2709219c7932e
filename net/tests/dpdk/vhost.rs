//! net_vhost and net_virtio_user: both ends of a virtio device.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use throng_net::packet::{ChecksumStatus, Packet};

use crate::frames::{
    Port, connect, exchange, frame, now, number, open, packet, receive_until, rings, send,
};
use crate::isolated::{Need, isolated};
use crate::peers::{peers_that_die, socket};
use crate::tcp;

fn host(path: &str, queues: usize) -> Port {
    open(&format!("net_vhost0,iface={path},queues={queues},tso=1"), queues)
}

fn guest(path: &str, queues: usize) -> Port {
    let arguments = "queue_size=1024,packed_vq=1,in_order=1,mrg_rxbuf=0";
    open(&format!("net_virtio_user0,path={path},queues={queues},{arguments}"), queues)
}

#[test]
fn frames_cross_in_both_directions() {
    isolated("vhost::frames_cross_in_both_directions", Need::Nothing, || {
        let path = socket("vhost");
        // The vhost side has to be there first and to go last.
        let mut b = host(&path, 2);
        let mut a = guest(&path, 2);
        for queue in 0..2 {
            connect(&mut *a[queue], &mut *b[queue]);
            connect(&mut *b[queue], &mut *a[queue]);
            exchange(&mut *a[queue], &mut *b[queue]);
            exchange(&mut *b[queue], &mut *a[queue]);
        }
    });
}

#[test]
fn a_guest_process_that_is_killed_is_survived() {
    isolated("vhost::a_guest_process_that_is_killed_is_survived", Need::Nothing, || {
        peers_that_die(
            "vhost::a_guest_process_that_is_killed_is_survived",
            |socket| host(socket, 1),
            |socket| Ok(guest(socket, 1)),
        );
    });
}

#[test]
fn a_host_that_leaves_is_survived() {
    isolated("vhost::a_host_that_leaves_is_survived", Need::Nothing, || {
        let path = socket("vhost-host");
        let mut hosts = host(&path, 1);
        let mut guests = guest(&path, 1);
        let guest = &mut *guests[0];
        connect(guest, &mut *hosts[0]);
        drop(hosts);
        let start = Instant::now();
        while guest.counters().tx_dropped < 10 {
            let mut queue = VecDeque::from([Packet::from(frame(guest, 0, 60))]);
            guest.transmit(&mut queue, now());
            guest.receive(&mut Vec::new(), 64, now());
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", guest.counters());
        }
    });
}

#[test]
fn segmentation_and_checksums_are_left_to_the_device() {
    let name = "vhost::segmentation_and_checksums_are_left_to_the_device";
    isolated(name, Need::Nothing, || {
        let path = socket("vhost-tso");
        let mut hosts = host(&path, 1);
        let mut guests = guest(&path, 1);
        let (host, guest) = (&mut *hosts[0], &mut *guests[0]);
        connect(guest, host);
        connect(host, guest);
        {
            let (from, to) = (&mut *guest, &mut *host);
            let capabilities = from.capabilities().clone();
            assert!(capabilities.tx_tcp_checksum && capabilities.tso_max > 30_000);
            let payload: Vec<u8> = (0..30_001u32).map(|i| ((i * 7) >> 3) as u8).collect();
            let (bytes, mut tx) = tcp::segment(from, [0xff; 6], 0, 0x18, &payload);
            tx.tso_segment = 1448;
            let mut big = packet(from, &bytes).unwrap();
            big.tx = tx;
            send(from, &mut VecDeque::from([big]));
            receive_until(to, "TCP segment", |frame| {
                let Some(got) = tcp::payload(frame.data()) else { return false };
                // This side's software left the checksum out, and says that it is fine.
                assert_eq!(frame.rx.checksum, ChecksumStatus::Good);
                assert!(got == payload, "{} bytes", got.len());
                true
            });
            assert_eq!(from.counters().tx_dropped, 0);
            assert_eq!(to.counters().rx_flattened, 1);
        }
    });
}

#[test]
fn a_sleeper_is_woken_by_a_frame() {
    isolated("vhost::a_sleeper_is_woken_by_a_frame", Need::Nothing, || {
        let path = socket("vhost-sleep");
        let mut hosts = host(&path, 1);
        let mut guests = guest(&path, 1);
        let (a, b) = (&mut *hosts[0], &mut *guests[0]);
        connect(a, b);
        connect(b, a);
        for (sleeper, waker) in [(0, 1), (1, 0)] {
            let ends = [&mut *hosts[0], &mut *guests[0]];
            for round in 0..5 {
                while !ends[sleeper].arm() {
                    ends[sleeper].receive(&mut Vec::new(), 64, now());
                }
                assert!(!rings(ends[sleeper], Duration::from_millis(20)), "{sleeper}: rang alone");
                let bytes = frame(ends[waker], round, 60);
                send(ends[waker], &mut VecDeque::from([Packet::from(bytes)]));
                assert!(rings(ends[sleeper], Duration::from_secs(5)), "{sleeper}: slept through");
                ends[sleeper].disarm();
                receive_until(ends[sleeper], "frame", |frame| number(frame.data()) == Some(round));
            }
            // What has arrived before is no reason to sleep.
            let bytes = frame(ends[waker], 99, 60);
            send(ends[waker], &mut VecDeque::from([Packet::from(bytes)]));
            std::thread::sleep(Duration::from_millis(1));
            assert!(!ends[sleeper].arm());
            receive_until(ends[sleeper], "frame", |frame| number(frame.data()) == Some(99));
        }
    });
}
