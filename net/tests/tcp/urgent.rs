//! Urgent data: RFC 6093 has it stay in the stream, whatever the pointer says.

use throng_net::tcp::*;

use crate::peer::*;
use crate::world::*;

#[test]
fn no_pointer_moves_or_loses_a_byte() {
    for pointer in [0, 1, 3, 5, 6, 7, 1000, u16::MAX] {
        for timestamps in [false, true] {
            let mut p = Peer::established(if timestamps { everything() } else { plain() });
            let mut h = p.header(Flags::ACK | Flags::URG | Flags::PSH);
            h.urgent = pointer;
            p.engine.on_segment(&h, b"before", p.now);
            p.seq += 6;
            p.data(b" and after");
            let events = p.events();
            assert_eq!(events, [Event::Readable(p.conn)], "no event of its own");
            assert_eq!(p.read(), b"before and after", "pointer {pointer}");
            p.none();
            assert_eq!(p.pass(ms(50))[0].1.header.ack, p.seq);
            p.engine.check_invariants();
        }
    }
}

#[test]
fn urgent_segments_out_of_order_and_in_pieces() {
    let mut p = Peer::established(everything());
    // Telnet's interrupt, byte by byte, the pointer at what is to come.
    for (ahead, byte) in [(2u32, b"3"), (0, b"1"), (1, b"2")] {
        let mut h = p.header(Flags::ACK | Flags::URG);
        h.seq += ahead;
        h.urgent = 3 - ahead as u16;
        p.engine.on_segment(&h, byte, p.now);
        p.engine.check_invariants();
    }
    assert_eq!(p.read(), b"123");
    assert_eq!(p.out().last().unwrap().header.ack, p.seq + 3);
}

#[test]
fn an_urgent_segment_without_data_is_an_ack() {
    let mut p = Peer::established(plain());
    p.send(b"data");
    p.out();
    let mut h = p.header(Flags::ACK | Flags::URG);
    h.ack = p.iss + 1 + 4;
    h.urgent = 500;
    p.engine.on_segment(&h, &[], p.now);
    assert_eq!((p.info().in_flight, p.info().recv_queue), (0, 0));
    p.none();
    // Also with a closed window (RFC 9293 3.8.6), with a FIN, and in the handshake.
    let mut h = p.header(Flags::ACK | Flags::URG | Flags::FIN);
    h.ack = p.iss + 1 + 4;
    h.urgent = 1;
    p.engine.on_segment(&h, b"x", p.now);
    assert_eq!((p.state(), p.read()), (State::CloseWait, b"x".to_vec()));
    let mut p = Peer::listening(Config::default());
    let mut syn = header(p.tuple, p.seq, SeqNum(0), Flags::SYN | Flags::URG);
    syn.urgent = 9;
    p.engine.on_segment(&syn, &[], p.now);
    assert!(p.one().has(Flags::SYN | Flags::ACK));
}

#[test]
fn none_is_sent() {
    let mut p = Peer::established(plain());
    p.send(&[1; 5000]);
    for s in p.out() {
        assert!(!s.has(Flags::URG) && s.header.urgent == 0);
    }
    assert!(p.pass(secs(10)).iter().all(|(_, s)| !s.has(Flags::URG) && s.header.urgent == 0));
}
