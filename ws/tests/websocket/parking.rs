//! Parking changes nothing: sockets that park, at every cut of what they receive and at every
//! end, do what a tungstenite context does that is kept all the time ([`crate::plain`]).

use throng_ws::Role;

use crate::plain::{CLOSE_NOW, Case, Face, Last, compare, observe};
use crate::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, frame, frame_with};
use crate::support::Pace;

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// Compares these bytes whole, in two pieces cut at every place, and byte by byte. Returns what
/// is seen of the whole.
#[track_caller]
fn everywhere(case: Case) -> Vec<String> {
    let len = case.bytes.len();
    for at in 1..len {
        compare(&case.clone().cut(&[at]));
    }
    let bytes: Vec<usize> = (1..len).collect();
    compare(&case.clone().cut(&bytes));
    compare(&Case { pace: Pace { chunk: 3, stutter: true }, ..case.clone() });
    let seen = compare(&case);
    seen.events.into_iter().map(|(_, what)| what).collect()
}

/// Messages of both kinds, whole and in fragments, pings parked and between fragments, pongs
/// nobody asked for, empty ones, and all three ways to write a length.
fn script() -> Vec<u8> {
    [
        frame(FIN | TEXT, b"first"),
        frame(FIN | PING, b""),
        frame(TEXT, b"zw"),
        frame(FIN | PING, b"between"),
        frame(CONTINUE, &"\u{f6}".as_bytes()[..1]),
        frame(FIN | PONG, b"unasked"),
        frame(FIN | CONTINUE, &"\u{f6}lf".as_bytes()[1..]),
        frame(FIN | BINARY, &payload(126)),
        frame_with(Some([0; 4]), FIN | BINARY, b""),
        frame(BINARY, b""),
        frame_with(Some([0xff, 0, 0x80, 1]), CONTINUE, b"ta"),
        frame(FIN | CONTINUE, b"il"),
        frame(FIN | PING, &payload(125)),
    ]
    .concat()
}

#[test]
fn cut_at_every_byte() {
    let seen = everywhere(Case::new(script()));
    assert_eq!(seen.len(), 9 + 2, "{seen:?}");
    assert_eq!(seen[9..], ["1006", "end"]);
}

#[test]
fn three_pieces() {
    let bytes = [
        frame(FIN | PING, b"p"),
        frame(BINARY, b"ab"),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUE, b"c"),
        frame(FIN | TEXT, b"d"),
    ]
    .concat();
    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            compare(&Case::new(bytes.clone()).cut(&[first, second]));
        }
    }
}

/// What fills a parked socket's read exactly, nearly, or twice.
#[test]
fn back_to_back_around_the_size_of_a_read() {
    for read in [2048, 4096] {
        for size in read - 20..read + 4 {
            let first = frame(FIN | BINARY, &payload(size));
            let next = [frame(FIN | TEXT, b"next"), frame(FIN | PING, b"p")].concat();
            let bytes = [first.clone(), next].concat();
            compare(&Case::new(bytes.clone()));
            compare(&Case::new(bytes).cut(&[first.len()]));
        }
    }
    let many = (0..500).map(|i| frame(FIN | BINARY, &payload(i % 40))).collect::<Vec<_>>().concat();
    compare(&Case::new(many.clone()));
    compare(&Case { pace: Pace { chunk: 1000, stutter: true }, ..Case::new(many) });
}

#[test]
fn what_came_with_the_handshake() {
    let bytes = script();
    for early in 0..=bytes.len() {
        compare(&Case { early, ..Case::new(bytes.clone()) });
    }
}

#[test]
fn a_peer_that_ends_at_every_byte() {
    let bytes = [script(), close(1000, "done")].concat();
    for last in [Last::Fin, Last::FinAtOnce, Last::Gone, Last::Reset] {
        for len in 0..=bytes.len() {
            let case = Case::new(bytes[..len].to_vec()).last(last);
            // The last piece in one go with what came before it, and by itself.
            compare(&case);
            compare(&case.cut(&[len.saturating_sub(1)]));
        }
    }
}

#[test]
fn closing_handshakes_cut_at_every_byte() {
    let closes = [
        frame(FIN | CLOSE, b""),
        close(1000, ""),
        close(4999, "reason"),
        close(1001, &"x".repeat(123)),
        // Codes nobody may send (RFC 6455 7.4.1), a code cut in half, a reason that is no text.
        close(1005, ""),
        close(999, ""),
        frame(FIN | CLOSE, b"\x03"),
        frame(FIN | CLOSE, b"\x03\xe8\xff"),
    ];
    for close in closes {
        for tail in [vec![], frame(FIN | TEXT, b"late"), frame(FIN | PING, b""), b"?".to_vec()] {
            let bytes = [frame(FIN | TEXT, b"hi"), close.clone(), tail].concat();
            if close.len() > 100 {
                compare(&Case::new(bytes));
            } else {
                everywhere(Case::new(bytes));
            }
        }
    }
}

/// We begin: the answer comes in every cut, behind other messages, or not at all.
#[test]
fn closing_handshakes_of_ours_cut_at_every_byte() {
    let ask = frame(FIN | TEXT, CLOSE_NOW.as_bytes());
    let answers = [
        vec![],
        close(1001, "bye"),
        [frame(FIN | TEXT, b"under way"), frame(FIN | PING, b"p"), close(1001, "bye")].concat(),
        [close(1001, "bye"), frame(FIN | TEXT, b"late")].concat(),
        [frame(BINARY, b"never ended"), close(1001, "bye")].concat(),
        frame(FIN | 3, b"wrong"),
        [ask.clone(), frame(FIN | CLOSE, b"")].concat(),
    ];
    for answer in answers {
        let bytes = [ask.clone(), answer].concat();
        everywhere(Case::new(bytes.clone()));
        for last in [Last::FinAtOnce, Last::Gone, Last::Reset] {
            for len in ask.len()..=bytes.len() {
                compare(&Case::new(bytes[..len].to_vec()).last(last));
                compare(&Case::new(bytes[..len].to_vec()).last(last).cut(&[ask.len()]));
            }
        }
    }
}

/// What a peer may do wrong, behind a message after which the socket parks, and before another
/// that must not be seen.
#[test]
fn violations_cut_at_every_byte() {
    let part = &[frame(TEXT, b"part"), frame(FIN | PING, b"between")].concat()[..];
    let oversize = Case { max_message: 100, max_frame: 60, ..Case::new(Vec::new()) };
    let plain = || Case::new(Vec::new());
    let wrong: Vec<(&str, Case, Vec<u8>)> = vec![
        ("1002", plain(), frame_with(None, FIN | TEXT, b"unmasked")),
        ("1002", plain(), frame_with(None, FIN | PING, b"")),
        ("1002", plain(), frame(FIN | 0x40 | TEXT, b"reserved bit")),
        ("1002", plain(), frame(FIN | 0x10 | PING, b"")),
        ("1002", plain(), frame(FIN | 3, b"reserved opcode")),
        ("1002", plain(), frame(FIN | 11, b"")),
        ("1002", plain(), frame(FIN | CONTINUE, b"of nothing")),
        ("1002", plain(), frame(CONTINUE, b"")),
        ("1002", plain(), [part, &frame(FIN | TEXT, b"another")].concat()),
        ("1002", plain(), [part, &frame(BINARY, b"another")].concat()),
        ("1002", plain(), frame(PING, b"fragment")),
        ("1002", plain(), frame(CLOSE, b"")),
        ("1002", plain(), frame(FIN | PING, &payload(126))),
        ("1002", plain(), frame(FIN | CLOSE, &payload(200))),
        ("1002", plain(), [part, &frame(FIN | PONG, &payload(126))].concat()),
        ("1002", plain(), frame(FIN | CLOSE, b"\x03")),
        ("1007", plain(), frame(FIN | CLOSE, b"\x03\xe8\xc3(")),
        ("1007", plain(), frame(FIN | TEXT, b"\xff")),
        ("1007", plain(), frame(FIN | TEXT, b"whole but cut \xe2\x82")),
        ("1007", plain(), [frame(TEXT, b"\xe2"), frame(FIN | CONTINUE, b"\x82")].concat()),
        ("1007", plain(), [frame(TEXT, b"\xc3"), frame(FIN | CONTINUE, b"(")].concat()),
        ("1007", plain(), [part, &frame(CONTINUE, b"\xed\xa0\x80")].concat()),
        ("1007", plain(), [part, &frame(CONTINUE, b"\xf4"), &frame(CONTINUE, b"\x90")].concat()),
        ("1009", oversize.clone(), frame(FIN | BINARY, &payload(61))),
        ("1009", oversize.clone(), [part, &frame(CONTINUE, &payload(61))].concat()),
        (
            "1009",
            oversize,
            [frame(BINARY, &payload(60)), frame(FIN | CONTINUE, &payload(41))].concat(),
        ),
    ];
    for (code, case, wrong) in wrong {
        let bytes = [frame(FIN | TEXT, b"good"), wrong.clone(), frame(FIN | TEXT, b"!")].concat();
        let seen = everywhere(Case { bytes: bytes.clone(), ..case });
        let (error, end) = (&seen[seen.len() - 2], &seen[seen.len() - 1]);
        assert!(error.starts_with(code) && end == "end", "{seen:?} of {wrong:?}");
    }
}

/// Letters of two to four bytes, cut in every way by fragments and by pieces.
#[test]
fn letters_in_pieces() {
    let text = "a\u{f6}\u{20ac}\u{1f680}z".as_bytes();
    for at in 0..=text.len() {
        for ping in [false, true] {
            let (first, rest) = text.split_at(at);
            let between = if ping { frame(FIN | PING, b"") } else { Vec::new() };
            let bytes = [frame(TEXT, first), between, frame(FIN | CONTINUE, rest)].concat();
            let seen = everywhere(Case::new(bytes));
            assert!(seen.iter().any(|what| what.starts_with("Text")), "{seen:?}");
        }
    }
}

/// The other side of the protocol: a client, whose peer must not mask.
#[test]
fn a_client_too() {
    let plain = |first, payload: &[u8]| frame_with(None, first, payload);
    let good = [
        plain(FIN | TEXT, b"hi"),
        plain(FIN | PING, b"p"),
        plain(BINARY, b"a"),
        plain(FIN | PING, b""),
        plain(FIN | CONTINUE, b"b"),
    ]
    .concat();
    let ends = [
        plain(FIN | CLOSE, b"\x03\xe8"),
        [plain(FIN | CLOSE, b""), plain(FIN | TEXT, b"late")].concat(),
        frame(FIN | TEXT, b"masked"),
        plain(FIN | PING, &payload(126)),
        plain(FIN | TEXT, CLOSE_NOW.as_bytes()),
        [plain(FIN | TEXT, CLOSE_NOW.as_bytes()), plain(FIN | CLOSE, b"\x03\xe9bye")].concat(),
    ];
    for end in ends {
        let bytes = [good.clone(), end].concat();
        everywhere(Case { role: Role::Client, ..Case::new(bytes.clone()) });
        for last in [Last::FinAtOnce, Last::Gone, Last::Reset] {
            for len in good.len()..=bytes.len() {
                let case = Case::new(bytes[..len].to_vec()).last(last);
                compare(&Case { role: Role::Client, ..case });
            }
        }
    }
}

/// What all above is measured against is no empty list.
#[test]
fn the_reference_answers_what_it_should() {
    let bytes = [frame(FIN | PING, b"p"), frame(FIN | TEXT, b"t"), close(1000, "")].concat();
    let seen = observe(&[Face::Plain], &Case::new(bytes)).remove(0).untimed();
    let answers: Vec<(u8, &[u8])> =
        seen.answers.iter().map(|(_, first, payload)| (*first, &payload[..])).collect();
    let expected: [(u8, &[u8]); 3] =
        [(FIN | PONG, b"p"), (FIN | TEXT, b"t"), (FIN | CLOSE, b"\x03\xe8")];
    assert_eq!(answers, expected);
    assert_eq!(seen.events.len(), 4);
    assert_eq!(seen.events[3].1, "end");
}
