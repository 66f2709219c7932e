//! Random frames, some of them wrong, in random cuts, with every end: sockets of ours do to the
//! byte, and to the millisecond, what a tungstenite context does that is kept all the time.

use proptest::prelude::*;
use throng_ws::Role;

use crate::plain::{CLOSE_NOW, Case, Last, compare};
use crate::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, frame_with};
use crate::support::{Pace, places};

const MAX_MESSAGE: usize = 5000;

/// A frame, or a few that belong together: first bytes and payloads.
type Piece = Vec<(u8, Vec<u8>)>;

fn piece() -> impl Strategy<Value = Piece> {
    let size = prop_oneof![0..8_usize, 120..132_usize, 2000..4200_usize];
    let bytes = size.prop_map(|size| (0..size).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>());
    let small = prop::collection::vec(any::<u8>(), 0..20);
    let code = prop_oneof![Just(1000_u16), Just(1001), Just(4000), any::<u16>()];
    let split = |(bytes, at, ping, kind): (Vec<u8>, f64, bool, u8)| {
        let (first, rest) = bytes.split_at((bytes.len() as f64 * at) as usize);
        let mut frames = vec![(kind, first.to_vec())];
        if ping {
            frames.push((FIN | PING, b"between".to_vec()));
        }
        frames.push((FIN | CONTINUE, rest.to_vec()));
        frames
    };
    let text = "\\PC{0,60}".prop_map(String::into_bytes);
    prop_oneof![
        6 => bytes.clone().prop_map(|bytes| vec![(FIN | BINARY, bytes)]),
        4 => text.clone().prop_map(|text| vec![(FIN | TEXT, text)]),
        3 => (bytes, 0.0..1.0_f64, any::<bool>(), Just(BINARY)).prop_map(split),
        3 => (text, 0.0..1.0_f64, any::<bool>(), Just(TEXT)).prop_map(split),
        3 => small.clone().prop_map(|bytes| vec![(FIN | PING, bytes)]),
        1 => small.clone().prop_map(|bytes| vec![(FIN | PONG, bytes)]),
        1 => Just(vec![(FIN | TEXT, CLOSE_NOW.as_bytes().to_vec())]),
        1 => (code, "[a-z]{0,5}").prop_map(|(code, reason)| {
            vec![(FIN | CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())]
        }),
        1 => small.clone().prop_map(|bytes| vec![(FIN | TEXT, bytes)]),
        1 => (any::<u8>(), small).prop_map(|(first, bytes)| vec![(first, bytes)]),
        1 => (any::<u8>(), 126..300_usize).prop_map(|(first, n)| vec![(first, vec![0; n])]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn parking_changes_nothing(
        pieces in prop::collection::vec((piece(), any::<[u8; 4]>()), 0..8),
        garbage in prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..8)],
        // In one of a few cases a frame is masked that must not be, or the other way round.
        wrong in prop_oneof![6 => Just(None), 1 => (0..10_usize).prop_map(Some)],
        client in any::<bool>(),
        cuts in prop::collection::vec(0.0..1.0_f64, 0..12),
        early in prop_oneof![3 => Just(0.0), 1 => 0.0..1.0_f64],
        last in prop::sample::select(vec![Last::Fin, Last::FinAtOnce, Last::Gone, Last::Reset]),
        slow in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for (i, (piece, mask)) in pieces.into_iter().enumerate() {
            let mask = (client == (wrong == Some(i))).then_some(mask);
            for (first, payload) in piece {
                bytes.extend(frame_with(mask, first, &payload));
            }
        }
        bytes.extend(garbage);
        let cuts = places(&cuts, bytes.len());
        // How far a slow stream has taken an answer when the end comes at once is chance.
        let last = if slow && last == Last::FinAtOnce { Last::Fin } else { last };
        compare(&Case {
            role: if client { Role::Client } else { Role::Server },
            early: (early * bytes.len() as f64) as usize,
            pace: if slow { Pace { chunk: 17, stutter: true } } else { Pace::FAST },
            max_message: MAX_MESSAGE,
            max_frame: 3 * MAX_MESSAGE / 4,
            ..Case::new(bytes).cut(&cuts).last(last)
        });
    }
}
