//! What is done for connections by the thousand.

use std::time::Duration;

use throng_net::tcp::*;
use throng_runtime::Instant;

use crate::peer::header;
use crate::world::{drain, ms, tuple};

/// More than of whom all would be left in the wheel.
const MANY: usize = 6_000;
/// Whose data nobody acknowledges.
const SILENT: usize = 100;

#[test]
fn timers_of_many_go_with_what_they_were_for() {
    let mut now = Instant::from_millis(1_000);
    let mut engine = Engine::new(Config::default(), [3; 32], now);
    let listener = engine.listen("[::]:80".parse().expect("an address"), MANY).expect("free");
    let conns: Vec<(ConnId, FourTuple, SeqNum)> = (0..MANY)
        .map(|at| {
            let remote = format!("10.1.{}.1:{}", at / 1_000, 1_024 + at % 1_000);
            let t = tuple("10.0.0.1:80", &remote);
            engine.on_segment(&header(t, SeqNum(0), SeqNum(0), Flags::SYN), &[], now);
            let [answer] = &drain(&mut engine, now)[..] else { panic!("one SYN-ACK") };
            let ack = answer.header.seq + 1;
            engine.on_segment(&header(t, SeqNum(1), ack, Flags::ACK), &[], now);
            (engine.accept(listener).expect("a connection"), t, ack)
        })
        .collect();
    for (conn, ..) in &conns {
        engine.send(*conn, vec![7; 10].into(), now).expect("room");
    }
    // A budget's worth of them at a time.
    while engine.wants_transmit() {
        drain(&mut engine, now);
    }
    assert_eq!(engine.usage().timers, MANY);
    now += ms(1);
    for (_, t, ack) in &conns[SILENT..] {
        engine.on_segment(&header(*t, SeqNum(1), *ack + 10, Flags::ACK), &[], now);
    }
    engine.check_invariants();
    let left = engine.usage().timers;
    assert!((4_000..5_000).contains(&left), "{left} timers");
    // Those of the others work as ever, and what was left comes up in vain.
    let mut sent_again = 0;
    for _ in 0..20 {
        now += Duration::from_millis(100);
        while engine.poll_timeout().is_some_and(|at| at <= now) {
            engine.on_timeout(now);
        }
        for segment in drain(&mut engine, now) {
            let silent = conns[..SILENT].iter().any(|(_, t, _)| *t == segment.header.tuple);
            assert!(silent, "{segment:?} was acknowledged");
            sent_again += 1;
        }
        engine.check_invariants();
    }
    assert!(sent_again >= SILENT, "{sent_again} sent again");
    assert_eq!(engine.usage().timers, SILENT);
}
