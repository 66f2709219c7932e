//! net_memif: shared memory between two ports.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use throng_net::device::OpenOptions;
use throng_net::packet::Packet;

use crate::frames::{connect, exchange, frame, now, number, open, open_with, try_open};
use crate::isolated::{Need, has_huge_pages, isolated};
use crate::peers::{peers_that_die, socket};

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

#[test]
fn a_peer_process_that_is_killed_is_survived() {
    isolated("memif::a_peer_process_that_is_killed_is_survived", Need::Nothing, || {
        peers_that_die(
            "memif::a_peer_process_that_is_killed_is_survived",
            |socket| open(&server(socket), 1),
            |socket| try_open(&client(socket, ""), 1, &OpenOptions::default()),
        );
    });
}

#[test]
fn a_zero_copy_peer_that_is_killed_is_survived() {
    isolated("memif::a_zero_copy_peer_that_is_killed_is_survived", Need::Nothing, || {
        if !has_huge_pages() {
            return;
        }
        peers_that_die(
            "memif::a_zero_copy_peer_that_is_killed_is_survived",
            |socket| open(&server(socket), 1),
            |socket| try_open(&client(socket, ",zero-copy=yes"), 1, &OpenOptions::default()),
        );
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
