//! What is found lost, and what goes again, is what looking through all parts would find.

use super::*;

/// As RFC 8985 6.2 has it, part by part; which of them are lost then, and how long to wait.
fn lost_by_definition(
    board: &Scoreboard,
    latest: Sending,
    patience: u32,
    now: u32,
) -> (Vec<bool>, u32) {
    let mut wait = 0;
    let judge = |part: &Part| {
        if part.is_open() && latest.is_after(part.sending()) {
            let left = patience.wrapping_sub(now.wrapping_sub(part.at)) as i32;
            wait = wait.max(left);
            return left <= 0;
        }
        part.is_due()
    };
    let lost = board.parts.iter().map(judge).collect();
    (lost, wait as u32)
}

/// The first stretch that is due, with its whole length.
fn due_by_definition(board: &Scoreboard) -> Option<(SeqNum, SeqNum)> {
    let first = board.parts.iter().position(Part::is_due)?;
    let last = board.parts.range(first..).take_while(|part| part.is_due()).last()?;
    Some((board.start_of(first), last.end))
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(n.max(1))) as u32
    }
}

#[test]
fn hints_find_what_a_look_at_all_parts_finds() {
    let (mut found, mut waits, mut again) = (0, 0, 0);
    for seed in 1..80_u64 {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut una = SeqNum(0_u32.wrapping_sub(rng.below(200_000)));
        let mut nxt = una;
        let mut now = 0_u32.wrapping_sub(rng.below(1_000_000));
        let mut board = Scoreboard::default();
        board.begin(una, nxt, now);
        let mut latest: Option<Sending> = None;
        for _ in 0..300 {
            now = now.wrapping_add(rng.below(3) * rng.below(400));
            let flight = nxt - una;
            let at = una + rng.below(flight);
            let end = at + 1 + rng.below(3_000).min((nxt - at).saturating_sub(1));
            match rng.below(16) {
                0..=4 if flight < 100_000 => {
                    nxt += 1 + rng.below(6_000);
                    board.sent(nxt, now);
                }
                5..=8 if flight > 0 => {
                    let mut news = |part: Delivered| {
                        let sending = Sending { at: part.at, end: part.end };
                        if latest.is_none_or(|latest| sending.is_after(latest)) {
                            latest = Some(sending);
                        }
                    };
                    board.sack(at, end, &mut news);
                }
                9 if flight > 0 => {
                    una = at;
                    board.acknowledge(una, |_| ());
                }
                10..=12 => {
                    while let Some((from, to)) = board.next_due(1_000)
                        && rng.below(5) > 0
                    {
                        let all = due_by_definition(&board).expect("the same");
                        assert_eq!((from, to.before(all.1) && to - from < 1_000), (all.0, false));
                        assert!(to.at_or_before(all.1), "seed {seed}");
                        board.resent(from, from + (to - from).min(1_000), now);
                        again += 1;
                    }
                }
                13 if flight > 0 => match rng.below(20) {
                    0 => board.forgive(),
                    1 => board.forget_sacked(),
                    2 => board.lose(at, end),
                    3 => board.lose_aged(rng.below(2_000), now),
                    4 => board.resent(at, end, now),
                    _ => {}
                },
                _ => {}
            }
            if let Some(latest) = latest {
                let patience = [0, 300, 3_000][rng.below(3) as usize];
                let (lost, wait) = lost_by_definition(&board, latest, patience, now);
                let before = board.due();
                let (any, waited) = board.lose_older(latest, patience, now);
                let is: Vec<bool> = board.parts.iter().map(Part::is_due).collect();
                assert_eq!((is, waited), (lost, wait), "seed {seed}");
                assert_eq!(any, board.due() > before, "seed {seed}");
                found += usize::from(any);
                waits += usize::from(wait > 0);
            }
            assert_eq!(board.next_due(u32::MAX), due_by_definition(&board), "seed {seed}");
            board.check(una, nxt);
        }
    }
    assert!(found > 300 && waits > 300 && again > 300, "{found} {waits} {again}");
}

/// A clock may jump, as when a virtual machine slept: the circle of microseconds is 71 minutes.
#[test]
fn what_went_again_stays_in_order_when_the_clock_comes_round() {
    let una = SeqNum(0);
    let mut board = Scoreboard::default();
    board.begin(una, una + 3_000, 0);
    for (start, at) in [(0, 0_u64), (1_000, 2_000_000_000), (2_000, 4_400_000_000)] {
        let (start, end) = (una + start, una + start + 1_000);
        board.lose(start, end);
        board.resent(start, end, at as u32);
        board.check(una, una + 3_000);
    }
}
