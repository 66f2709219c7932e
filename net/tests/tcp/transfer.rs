//! Bulk in both directions over a bad link: every byte once and in order, clean ends.

use std::time::Duration;

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
        w.link = Link { loss: 0.01, duplicate: 0.01, reorder: 0.03, ..Link::default() };
        if seed % 2 == 1 {
            w.tso = 65_000;
        }
        println!("seed {seed}");
        transfer(&mut w, 200_000);
    }
}

/// Everything that can be set, set by the seed.
fn any_world(seed: u64) -> World {
    let mut rng = Rng(seed ^ 0xabcdef);
    let config = |rng: &mut Rng| {
        let mut c = Config { nodelay: rng.chance(0.5), ..Config::default() };
        // Give up late: this is about data, not about patience.
        c.data_retries = 100;
        c.orphan_retries = 40;
        c.syn_retries = 30;
        c.syn_ack_retries = 30;
        c.rto_max = secs(5);
        if rng.chance(0.3) {
            c.recv_buffer = 500 + rng.below(20_000) as u32;
        }
        if rng.chance(0.3) {
            c.send_buffer = 100 + rng.below(20_000) as u32;
        }
        if rng.chance(0.2) {
            c.recv_memory = 20_000 + rng.below(50_000);
        }
        if rng.chance(0.2) {
            c.send_memory = 5_000 + rng.below(50_000);
        }
        if rng.chance(0.3) {
            c.mss_v4 = 100 + rng.below(1300) as u16;
        }
        if rng.chance(0.3) {
            c.max_ranges = 1 + rng.below(8) as usize;
        }
        if rng.chance(0.2) {
            c.burst = 1 + rng.below(4) as u16;
        }
        c
    };
    let (a, b) = (config(&mut rng), config(&mut rng));
    let mut w = World::with(seed, a, b);
    let maybe = |rng: &mut Rng, p: f64, x: f64| if rng.chance(p) { x } else { 0.0 };
    w.link = Link {
        delay: Duration::from_micros(10 + rng.below(50_000)),
        loss: maybe(&mut rng, 0.6, 0.1),
        duplicate: maybe(&mut rng, 0.4, 0.1),
        reorder: maybe(&mut rng, 0.5, 0.3),
        strip_sack: rng.chance(0.3),
        strip_timestamps: rng.chance(0.3),
        strip_scale: rng.chance(0.3),
        bursts: maybe(&mut rng, 0.3, 0.005),
    };
    w.tso = if rng.chance(0.5) { 2000 + rng.below(60_000) as usize } else { 0 };
    w
}

#[test]
fn any_configuration_over_any_link() {
    let seeds = std::env::var("TCP_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut w = any_world(seed);
        w.check = seed % 10 == 0;
        transfer(&mut w, 60_000);
    }
}
