//! Every state against every kind of segment: the state that follows and what is answered
//! (RFC 9293 3.10.7).

use throng_net::tcp::State::*;
use throng_net::tcp::*;

use crate::peer::*;

/// Brings a connection to `state`; the peer's next sequence number and what it has
/// acknowledged are up to date, the engine's FIN (where it is out) is not acknowledged
/// unless the state says so.
fn at(state: State) -> Peer {
    let mut p = Peer::established(Options { sack_permitted: true, ..plain() });
    match state {
        Established => {}
        FinWait1 => {
            p.engine.shutdown_write(p.conn, p.now);
            assert!(p.one().has(Flags::FIN));
        }
        FinWait2 => {
            p.engine.shutdown_write(p.conn, p.now);
            p.one();
            let ack = p.ack + 1;
            p.acknowledge(ack);
        }
        CloseWait | LastAck => {
            p.inject(0, Flags::FIN | Flags::ACK, &[]);
            p.seq += 1;
            p.one();
            if state == LastAck {
                p.engine.shutdown_write(p.conn, p.now);
                assert!(p.one().has(Flags::FIN));
            }
        }
        Closing => {
            p.engine.shutdown_write(p.conn, p.now);
            p.one();
            p.inject(0, Flags::FIN | Flags::ACK, &[]);
            p.seq += 1;
            p.one();
        }
        TimeWait => {
            p.engine.shutdown_write(p.conn, p.now);
            p.one();
            let ack = p.ack + 1;
            p.acknowledge(ack);
            p.inject(0, Flags::FIN | Flags::ACK, &[]);
            p.seq += 1;
            p.one();
        }
        _ => unreachable!(),
    }
    p.out();
    assert_eq!(p.state(), state);
    p
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Incoming {
    /// The next in order, nothing new acknowledged.
    Data,
    /// Payload that came before.
    OldData,
    /// Payload beyond the window.
    FarData,
    /// Acknowledges all that was sent.
    AckAll,
    /// Acknowledges what was not sent.
    AckFuture,
    Fin,
    /// With the acknowledgement of all that was sent.
    FinAckAll,
    Syn,
    Rst,
    /// In the window, not at its edge.
    RstNear,
    RstFar,
    /// Without ACK.
    NoAck,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    None,
    Ack,
    Rst,
    /// An ACK, delayed.
    Later,
}

fn happen(state: State, event: Incoming) -> (State, Answer) {
    let mut p = at(state);
    let all = p.ack + u32::from(matches!(state, FinWait1 | Closing | LastAck));
    match event {
        Incoming::Data => p.inject(0, Flags::ACK, b"data"),
        Incoming::OldData => p.inject(-1, Flags::ACK, b"x"),
        Incoming::FarData => p.inject(1 << 20, Flags::ACK, b"data"),
        Incoming::AckAll => p.acknowledge(all),
        Incoming::AckFuture => p.acknowledge(all + 1000),
        Incoming::Fin => p.inject(0, Flags::FIN | Flags::ACK, &[]),
        Incoming::FinAckAll => {
            p.ack = all;
            p.inject(0, Flags::FIN | Flags::ACK, &[]);
        }
        Incoming::Syn => p.inject(0, Flags::SYN, &[]),
        Incoming::Rst => p.inject(0, Flags::RST, &[]),
        Incoming::RstNear => p.inject(10, Flags::RST, &[]),
        Incoming::RstFar => p.inject(1 << 20, Flags::RST, &[]),
        Incoming::NoAck => p.inject(0, Flags(0), b"data"),
    }
    let out = p.out();
    assert!(out.len() <= 1, "{state:?} {event:?}: {out:?}");
    let answer = match out.first() {
        Some(s) if s.has(Flags::RST) => Answer::Rst,
        Some(_) => Answer::Ack,
        None if p.pass(std::time::Duration::from_millis(50)).is_empty() => Answer::None,
        None => Answer::Later,
    };
    (p.state(), answer)
}

#[test]
fn every_state_and_event() {
    use Answer::{Ack, Later};
    use Incoming::*;
    const NONE: Answer = Answer::None;
    // What does not depend on the state, as long as it is a synchronized one.
    let open = [Established, FinWait1, FinWait2, CloseWait, Closing, LastAck];
    for state in open {
        for (event, answer) in [
            (OldData, Ack),
            (FarData, Ack),
            (AckFuture, Ack),
            (Syn, Ack),
            (RstNear, Ack),
            (RstFar, NONE),
            (NoAck, NONE),
        ] {
            assert_eq!(happen(state, event), (state, answer), "{state:?} {event:?}");
        }
        assert_eq!(happen(state, Incoming::Rst), (Closed, NONE), "{state:?}");
    }
    let table = [
        (Established, Data, Established, Later),
        (Established, AckAll, Established, NONE),
        (Established, Fin, CloseWait, Ack),
        (FinWait1, Data, FinWait1, Later),
        (FinWait1, AckAll, FinWait2, NONE),
        (FinWait1, Fin, Closing, Ack),
        (FinWait1, FinAckAll, TimeWait, Ack),
        (FinWait2, Data, FinWait2, Later),
        (FinWait2, AckAll, FinWait2, NONE),
        (FinWait2, Fin, TimeWait, Ack),
        // After the peer's FIN nothing more can come; what does is not kept.
        (CloseWait, Data, CloseWait, NONE),
        (CloseWait, AckAll, CloseWait, NONE),
        (Closing, AckAll, TimeWait, NONE),
        (LastAck, AckAll, Closed, NONE),
        // TIME_WAIT: only what occupies sequence space is answered (RFC 1337 for the reset).
        (TimeWait, AckAll, TimeWait, NONE),
        (TimeWait, OldData, TimeWait, Ack),
        (TimeWait, Incoming::Rst, TimeWait, NONE),
        (TimeWait, RstNear, TimeWait, NONE),
    ];
    for (state, event, next, answer) in table {
        assert_eq!(happen(state, event), (next, answer), "{state:?} {event:?}");
    }
}
