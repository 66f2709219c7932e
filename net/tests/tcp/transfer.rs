//! Bulk in both directions over a bad link: every byte once and in order, clean ends.

use bytes::Bytes;
use throng_net::tcp::*;

use crate::world::*;

/// Byte `i` of a stream that depends on `seed`.
fn byte(seed: u64, i: u64) -> u8 {
    (i.wrapping_mul(31) ^ (i >> 8) ^ seed) as u8
}

/// One end of a transfer: sends `size` bytes in random pieces, reads until the end.
struct End {
    engine: usize,
    conn: ConnId,
    seed: u64,
    size: u64,
    sent: u64,
    received: u64,
    shut: bool,
    eof: bool,
}

impl End {
    fn work(&mut self, w: &mut World, peer_seed: u64) {
        while self.sent < self.size {
            let len = (1 + w.rng.below(9000)).min(self.size - self.sent);
            let piece: Vec<u8> = (self.sent..self.sent + len).map(|i| byte(self.seed, i)).collect();
            match w.engines[self.engine].send(self.conn, Bytes::from(piece), w.now) {
                Ok(()) => self.sent += len,
                Err(SendError::WouldBlock(_)) => break,
                Err(e) => panic!("send: {e:?}"),
            }
        }
        if self.sent == self.size && !self.shut {
            w.engines[self.engine].shutdown_write(self.conn, w.now);
            self.shut = true;
        }
        while !self.eof {
            // A reader that is slow now and then.
            if w.rng.chance(0.05) {
                break;
            }
            match w.engines[self.engine].recv(self.conn, 1 + w.rng.below(20_000) as usize, w.now) {
                Ok(bytes) if bytes.is_empty() => self.eof = true,
                Ok(bytes) => {
                    for b in bytes {
                        assert_eq!(b, byte(peer_seed, self.received), "at {}", self.received);
                        self.received += 1;
                    }
                }
                Err(RecvError::WouldBlock) => break,
                Err(e) => panic!("recv: {e:?} after {}", self.received),
            }
        }
    }
}

pub fn transfer(w: &mut World, size: u64) {
    let listener = w.listen();
    let (client, server) = w.connect(listener);
    let end = |engine, conn, seed| End {
        engine,
        conn,
        seed,
        size,
        sent: 0,
        received: 0,
        shut: false,
        eof: false,
    };
    let mut ends = [end(0, client, 11), end(1, server, 22)];
    let limit = w.now + secs(3600);
    while !ends.iter().all(|e| e.eof && e.shut) {
        ends[0].work(w, 22);
        ends[1].work(w, 11);
        // A slow reader comes back before long.
        let soon = w.now + ms(3);
        if !w.step(soon.min(limit)) {
            assert!(w.now < limit, "no end: {:?}", w.engines[0].counters());
        }
    }
    assert_eq!([ends[0].received, ends[1].received], [size, size]);
    for end in &ends {
        w.engines[end.engine].close(end.conn, w.now);
    }
    w.engines[1].close_listener(listener);
    w.run(secs(400));
    w.assert_empty();
}

#[test]
fn clean_link() {
    let mut w = World::new(5);
    transfer(&mut w, 1_000_000);
    for engine in &w.engines {
        assert_eq!(engine.counters().retransmits, 0, "{:?}", engine.counters());
        assert_eq!(engine.counters().duplicate_bytes, 0);
    }
}

#[test]
fn bad_link_200_seeds() {
    for seed in 0..200 {
        let mut w = World::new(seed);
        w.check = seed % 20 == 0;
        w.link = Link { delay: ms(5), loss: 0.01, duplicate: 0.01, reorder: 0.03 };
        if seed % 2 == 1 {
            w.tso = 65_000;
        }
        println!("seed {seed}");
        transfer(&mut w, 200_000);
    }
}
