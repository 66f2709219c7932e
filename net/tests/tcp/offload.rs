//! Segmentation by the device on the way out, and merging on the way in: the peer sees the
//! same, and so does the application, as without.

use bytes::Bytes;
use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

/// A segment as the peer sees it. What came twice is reported (RFC 2883) as it arrived, in one
/// or in several pieces: that is left out.
fn seen(segment: &Segment) -> (Header, Vec<u8>) {
    let mut header = segment.header;
    let Options { sack, .. } = header.options;
    let within = |outer: SackBlock, inner: SackBlock| {
        outer.start.at_or_before(inner.start) && inner.end.at_or_before(outer.end)
    };
    if let Some(first) = sack[0]
        && (first.start.before(header.ack) || sack[1].is_some_and(|next| within(next, first)))
    {
        header.options.sack = [sack[1], sack[2], sack[3], None];
    }
    (header, segment.payload.clone())
}

/// The same in short.
fn short(all: &[(Header, Vec<u8>)]) -> Vec<String> {
    let line = |(h, data): &(Header, Vec<u8>)| {
        format!("{:?} +{} ack {:?} {:?} {}", h.seq, data.len(), h.ack, h.flags, h.window)
    };
    all.iter().map(line).collect()
}

/// Everything there is to send at the moment.
fn all(p: &mut Peer, tso: usize) -> Vec<(Header, Vec<u8>)> {
    let mut out = Vec::new();
    while p.engine.wants_transmit() {
        out.extend(drain_tso(&mut p.engine, p.now, tso).iter().map(seen));
        p.engine.check_invariants();
    }
    out
}

/// The same connection, over and over, by the numbers of `seed`.
fn connection(seed: u64) -> Peer {
    let mut rng = Rng(seed);
    let ecn = if rng.chance(0.5) { Ecn::Passive } else { Ecn::Off };
    let config = Config { nodelay: rng.chance(0.5), ecn, ..Config::default() };
    let mut offer = if rng.chance(0.7) { everything() } else { plain() };
    // Odd ones, too.
    offer.mss = Some(200 + rng.below(1_300) as u16);
    let mut p = Peer::listening(config);
    if rng.chance(0.3) {
        p.tuple = tuple("[fd00::2]:80", "[fd00::1]:5555");
        p.listener = p.engine.listen("[fd00::2]:80".parse().unwrap(), 4).unwrap();
    }
    p.open(offer);
    p.accept();
    p
}

#[test]
fn segmentation_offload_sends_what_is_sent_without() {
    let mut runs = 0;
    for seed in 0..150 {
        let mut plain = connection(seed);
        let mut offloaded = connection(seed);
        let mut rng = Rng(seed ^ 0xfeed);
        let tso = 2_000 + rng.below(63_000) as usize;
        for step in 0..60 {
            let (kind, a, b) = (rng.below(10), rng.next(), rng.next());
            for p in [&mut plain, &mut offloaded] {
                match kind {
                    0..=3 => {
                        let len = if a % 3 == 0 { b % 40_000 } else { b % 900 };
                        let data: Vec<u8> = (0..len).map(|i| (i * 7 + b) as u8).collect();
                        let _ = p.engine.send(p.conn, Bytes::from(data), p.now);
                    }
                    4..=7 => {
                        let out = p.info().in_flight;
                        let ack = p.ack + (a % (u64::from(out) + 1)) as u32;
                        let mut header = p.header(Flags::ACK);
                        (header.ack, p.ack) = (ack, ack);
                        if b % 16 == 0 {
                            // The next new segment says that the window was reduced.
                            header.flags = header.flags | Flags::ECE;
                        }
                        p.engine.on_segment(&header, &[], p.now);
                    }
                    8 => {
                        p.now += ms(1 + a % 50);
                        p.engine.on_timeout(p.now);
                    }
                    _ if step > 50 => p.engine.shutdown_write(p.conn, p.now),
                    _ => p.data(&[1; 100]),
                }
            }
            let (expected, found) = (all(&mut plain, 0), all(&mut offloaded, tso));
            let of = |p: &Peer| p.info();
            assert!(
                found == expected,
                "seed {seed} step {step} after {kind} {a} {b}: {:?} for {:?}\n{:?}\n{:?}",
                short(&found),
                short(&expected),
                of(&offloaded),
                of(&plain)
            );
            runs += usize::from(found.len() > 3);
        }
    }
    assert!(runs > 100, "only {runs} bursts");
}

/// Merges what Linux's GRO would: segments of one flow in a row without a gap, alike but for
/// PSH, which ends a run as a shorter one does.
fn merge(burst: &[(Header, Vec<u8>)]) -> Vec<(Header, Vec<&[u8]>)> {
    let mut merged: Vec<(Header, Vec<&[u8]>)> = Vec::new();
    for (header, payload) in burst {
        if let Some((first, parts)) = merged.last_mut() {
            let like = Header { seq: first.seq, flags: first.flags, ..*header };
            let len: usize = parts.iter().map(|part| part.len()).sum();
            let follows = first.seq + len as u32 == header.seq;
            let fits = parts.iter().all(|part| part.len() == parts[0].len())
                && payload.len() <= parts[0].len();
            let may = |flags: Flags| flags == Flags::ACK || flags == Flags::ACK | Flags::PSH;
            let goes_on = follows && fits && first.flags == Flags::ACK;
            if goes_on && like == *first && may(header.flags) {
                first.flags = header.flags;
                parts.push(payload);
                continue;
            }
        }
        merged.push((*header, vec![payload]));
    }
    merged
}

#[test]
fn merged_arrivals_are_received_and_acknowledged_like_their_parts() {
    // As a device merges: in one piece.
    compare_merged(1.0, |p, header, parts| p.engine.on_segment(header, &parts.concat(), p.now));
}

#[test]
fn runs_are_received_and_acknowledged_like_their_parts() {
    // As the stack does.
    compare_merged(0.7, |p, header, parts| {
        let mut lookup = p.engine.prefetch(&header.tuple);
        p.engine.locate(&mut lookup);
        match parts {
            [one] => p.engine.on_segment_at(&lookup, header, one, p.now),
            _ => p.engine.on_run_at(&lookup, header, parts, p.now),
        }
    });
}

/// Gives two connections the same bursts, segment by segment and merged, by `feed`; what comes is
/// read so often.
fn compare_merged(reads: f64, feed: impl Fn(&mut Peer, &Header, &[&[u8]])) {
    let mut merges = 0;
    for seed in 0..200 {
        let mut apart = connection(seed);
        let mut together = connection(seed);
        let mss = usize::from(apart.engine.info(apart.conn, apart.now).unwrap().mss);
        let mut rng = Rng(seed ^ 0xbeef);
        let mut first = apart.seq;
        for step in 0..30 {
            // Full-sized segments as the peer sends them, the last one shorter or not; some
            // are lost, some carry something else.
            let full = 1_460 - if apart.ts.is_some() { 12 } else { 0 };
            let full = if apart.tuple.local.is_ipv4() { full } else { full - 20 };
            let mut burst = Vec::new();
            for _ in 0..1 + rng.below(16) {
                let len = if rng.chance(0.05) { 1 + rng.below(full) } else { full } as usize;
                let mut header = apart.header(Flags::ACK);
                header.seq = first;
                if rng.chance(0.1) {
                    header.flags = Flags::ACK | Flags::PSH;
                }
                if rng.chance(0.03) {
                    header.window -= 1;
                }
                let payload: Vec<u8> =
                    (0..len).map(|at| ((header.seq.0 as usize + at) * 7 / 3) as u8).collect();
                if !rng.chance(0.03) {
                    burst.push((header, payload));
                    first += len as u32;
                } else if rng.chance(0.5) {
                    first += len as u32;
                }
            }
            let merged = merge(&burst);
            merges += burst.len() - merged.len();
            for (header, payload) in &burst {
                apart.engine.on_segment(header, payload, apart.now);
            }
            for (header, parts) in &merged {
                feed(&mut together, header, parts);
            }
            let what = format!("seed {seed} step {step} mss {mss}");
            assert_eq!(all(&mut together, 0), all(&mut apart, 0), "{what}");
            if reads == 1.0 || rng.chance(reads) {
                assert_eq!(together.read(), apart.read(), "{what}");
                assert_eq!(all(&mut together, 0), all(&mut apart, 0), "{what}, after reading");
            }
            if reads < 1.0 {
                assert_eq!(together.engine.counters(), apart.engine.counters(), "{what}");
            }
            // What was held back is due at the same time.
            assert_eq!(together.engine.poll_timeout(), apart.engine.poll_timeout(), "{what}");
            let expected = apart.info().bytes_received;
            assert_eq!(together.info().bytes_received, expected, "{what}");
            let time = ms(rng.below(100));
            for p in [&mut apart, &mut together] {
                p.now += time;
                p.engine.on_timeout(p.now);
            }
            assert_eq!(all(&mut together, 0), all(&mut apart, 0), "{what}, later");
            // The hole is filled at last.
            if rng.chance(0.5) {
                first = apart.seq + apart.info().bytes_received as u32;
            }
        }
    }
    assert!(merges > 1_000, "only {merges} merged");
}

/// RFC 5681 4.2: two full-sized segments are acknowledged at once, also where options make
/// them shorter than the MSS and they arrive as one.
#[test]
fn two_merged_segments_are_acknowledged_at_once() {
    for (offer, len) in [(everything(), 2 * 1_448), (plain(), 2 * 1_460)] {
        let mut p = Peer::established(offer);
        p.data(&vec![1; len]);
        assert_eq!(p.one().header.ack, p.seq, "{len}");
    }
}
