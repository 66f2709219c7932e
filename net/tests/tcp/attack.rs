//! An attacker on the path, who sees every segment and says what he likes, but drops none.

use throng_net::tcp::*;

use crate::world::*;

/// Bytes sent each way.
const TOTAL: usize = 300_000;

/// Two engines whose path loses some segments, and the long ones for a while.
fn beset(seed: u64) -> World {
    let config = |n: u64| {
        let max_half_open = if n.is_multiple_of(3) { 0 } else { 64 };
        Config { ecn: Ecn::On, max_half_open, ..Config::default() }
    };
    let mut w = World::with(seed, config(seed), config(seed / 2));
    w.link = Link { loss: [0.0, 0.02, 0.1][seed as usize % 3], ..Link::default() };
    w.tso = [0, 30_000][seed as usize % 2];
    w.record = true;
    let narrow = [5_000, 900, 700, 560][(seed as usize / 3) % 4];
    let mut left = 3_000u32;
    w.filter = Some(Box::new(move |_, segment| {
        left = left.saturating_sub(1);
        left == 0 || segment.len() <= narrow
    }));
    w
}

/// ICMP about a segment of `victim`'s, and another one again, changed.
fn attack(w: &mut World, rng: &mut Rng, victim: usize) {
    let recent = w.sent.iter().rev().take(40).filter(|(_, from, _)| *from == victim);
    let seen: Vec<Segment> = recent.map(|(_, _, segment)| segment.clone()).collect();
    if seen.is_empty() || rng.chance(0.7) {
        return;
    }
    let one = &seen[rng.below(seen.len() as u64) as usize];
    let (tuple, seq) = (one.header.tuple, one.header.seq + rng.below(3) as u32);
    let mtu = [0, 1, 552, 576, 1_000, 1_400, 1_499, 9_000][rng.below(8) as usize];
    let quoted = one.len() as u16 + [40, 52, 1_000, 0][rng.below(4) as usize];
    w.engines[victim].on_icmp_too_big(tuple, seq, TooBig { mtu, quoted }, w.now);
    let kinds = [Unreachable::Port, Unreachable::Host, Unreachable::Prohibited];
    w.engines[victim].on_icmp_unreachable(tuple, seq, kinds[rng.below(3) as usize], w.now);

    let mut again = seen[rng.below(seen.len() as u64) as usize].clone().flipped();
    let header = &mut again.header;
    match rng.below(5) {
        0 => header.flags = header.flags | Flags::ECE,
        1 => header.ecn = 3,
        2 => header.flags = Flags::SYN,
        3 => (header.flags, header.seq) = (Flags::RST, header.seq + 0x4000_0000),
        _ => header.ack += 0x4000_0000,
    }
    w.engines[1 - victim].on_segment(&again.header, &again.payload, w.now);
    w.engines.iter().for_each(Engine::check_invariants);
}

#[test]
fn who_sees_all_and_says_what_he_likes_stops_nothing() {
    for seed in 0..24 {
        let mut w = beset(seed);
        let mut rng = Rng(seed);
        let listener = w.listen();
        let (a, b) = w.connect(listener);
        w.send(0, a, &[1; TOTAL]);
        w.send(1, b, &[2; TOTAL]);
        let mut got = [0, 0];
        let limit = w.now + secs(900);
        while got != [TOTAL, TOTAL] && w.now < limit {
            let next = w.now + ms(50);
            w.step(next);
            for (end, conn) in [(0, a), (1, b)] {
                got[end] += w.read(end, conn).len();
                attack(&mut w, &mut rng, end);
            }
            let old = w.sent.len().saturating_sub(200);
            w.sent.drain(..old);
        }
        assert_eq!(got, [TOTAL, TOTAL], "seed {seed}: {:?}", w.engines[0].counters());
    }
}
