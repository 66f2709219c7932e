//! The mesh on real threads; its orderings are checked by `loom.rs`.

use std::sync::Arc;
use std::thread;

use throng_runtime::ShardId;
use throng_runtime::mesh::Mesh;

#[test]
fn every_pair_has_a_ring_of_its_own() {
    let mut ports = Mesh::<(u16, u16)>::new(3, 2);
    for from in 0..3u16 {
        for to in 0..3u16 {
            let message = (from, to);
            let port = &mut ports[usize::from(from)];
            assert_eq!(port.try_send(ShardId(to), message), Ok(()));
            assert_eq!(port.try_send(ShardId(to), message), Ok(()));
            assert_eq!(port.try_send(ShardId(to), message), Err(message), "bounded");
        }
        assert_eq!(ports[usize::from(from)].try_send(ShardId(3), (0, 0)), Err((0, 0)));
    }
    for (me, port) in ports.iter_mut().enumerate() {
        let got: Vec<_> = std::iter::from_fn(|| port.try_recv()).collect();
        assert_eq!(got.len(), 6);
        assert!(got.iter().all(|&(_, to)| usize::from(to) == me));
        // No sender comes twice before the others had their turn.
        let mut first: Vec<_> = got[..3].iter().map(|&(from, _)| from).collect();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2]);
    }
}

#[test]
fn messages_between_threads_arrive_once_and_in_order() {
    const MESSAGES: u64 = 100_000;
    let mut ports = Mesh::<Box<u64>>::new(2, 64);
    let (mut there, mut here) = (ports.pop().unwrap(), ports.pop().unwrap());
    let echo = thread::spawn(move || {
        let mut left = MESSAGES;
        while left > 0 {
            let Some(message) = there.try_recv() else {
                thread::yield_now();
                continue;
            };
            let mut message = Some(message);
            while let Some(unsent) = message.take() {
                if let Err(unsent) = there.try_send(ShardId(0), unsent) {
                    thread::yield_now();
                    message = Some(unsent);
                }
            }
            left -= 1;
        }
    });
    let (mut sent, mut received) = (0, 0);
    while received < MESSAGES {
        if sent < MESSAGES && here.try_send(ShardId(1), Box::new(sent)).is_ok() {
            sent += 1;
        } else {
            thread::yield_now();
        }
        while let Some(message) = here.try_recv() {
            assert_eq!(*message, received);
            received += 1;
        }
    }
    echo.join().unwrap();
}

#[test]
fn messages_nobody_took_are_dropped() {
    let value = Arc::new(());
    let mut ports = Mesh::new(2, 8);
    for _ in 0..5 {
        assert!(ports[0].try_send(ShardId(1), value.clone()).is_ok());
    }
    drop(ports[1].try_recv());
    drop(ports);
    assert_eq!(Arc::strong_count(&value), 1);
}
