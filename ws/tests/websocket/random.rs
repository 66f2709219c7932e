//! Random frames, some of them wrong, in random cuts: a socket that parks does to the byte
//! what one that does not park does, and both say what tungstenite alone says.

use std::io::{self, Cursor};

use futures::{AsyncReadExt, AsyncWriteExt, SinkExt, StreamExt};
use proptest::prelude::*;
use throng_ws::{Config, Role, WebSocket};

use crate::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, frame};
use crate::support::{Pace, duplex, places, run, send_in_pieces, spawn};

const MAX_MESSAGE: usize = 5000;

/// One frame, or a few that belong together.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![0..8_usize, 120..132_usize, 2000..4200_usize];
    let bytes = size.prop_map(|size| (0..size).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>());
    let small = prop::collection::vec(any::<u8>(), 0..20);
    let code = prop_oneof![Just(1000_u16), Just(1001), Just(4000), any::<u16>()];
    prop_oneof![
        6 => bytes.clone().prop_map(|bytes| frame(FIN | BINARY, &bytes)),
        4 => "\\PC{0,60}".prop_map(|text| frame(FIN | TEXT, text.as_bytes())),
        3 => (bytes, 0.0..1.0_f64, any::<bool>()).prop_map(|(bytes, at, ping)| {
            let (first, rest) = bytes.split_at((bytes.len() as f64 * at) as usize);
            let between = if ping { frame(FIN | PING, b"between") } else { Vec::new() };
            [frame(BINARY, first), between, frame(FIN | CONTINUE, rest)].concat()
        }),
        3 => small.clone().prop_map(|bytes| frame(FIN | PING, &bytes)),
        1 => small.clone().prop_map(|bytes| frame(FIN | PONG, &bytes)),
        1 => (code, "[a-z]{0,5}").prop_map(|(code, reason)| {
            frame(FIN | CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
        }),
        1 => small.clone().prop_map(|bytes| frame(FIN | TEXT, &bytes)),
        1 => (any::<u8>(), small).prop_map(|(first, bytes)| frame(first, &bytes)),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn config(park: bool) -> Config {
    Config::default().park(park).max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE)
}

/// Feeds a server that echoes; returns what it saw, how it ended, and what it sent.
fn observe(bytes: Vec<u8>, cuts: Vec<usize>, pace: Pace, park: bool) -> (Vec<String>, Vec<u8>) {
    run(async move {
        let (a, b) = duplex(1 << 20, pace);
        let mut server = WebSocket::from_stream(b, Role::Server, config(park), Vec::new());
        let server = throng_runtime::spawn_local(async move {
            let mut seen = Vec::new();
            while let Some(item) = server.next().await {
                seen.push(format!("{item:?}"));
                if let Ok(message) = item
                    && (message.is_text() || message.is_binary())
                {
                    server.send(message).await.unwrap();
                }
            }
            seen
        });
        let (mut reader, mut writer) = a.split();
        let sending = async move {
            send_in_pieces(&mut writer, &bytes, &cuts).await;
            let _ = writer.close().await;
        };
        spawn(sending);
        let mut answers = Vec::new();
        reader.read_to_end(&mut answers).await.unwrap();
        (server.await.unwrap(), answers)
    })
}

/// tungstenite by itself over the same bytes: the messages up to the first error.
fn reference(bytes: Vec<u8>) -> Vec<String> {
    struct Stream(Cursor<Vec<u8>>);
    impl io::Read for Stream {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }
    impl io::Write for Stream {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let limits = tungstenite::protocol::WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let stream = Stream(Cursor::new(bytes));
    let mut socket = tungstenite::WebSocket::from_raw_socket(stream, Role::Server, Some(limits));
    let mut seen = Vec::new();
    while let Ok(message) = socket.read() {
        seen.push(format!("{:?}", Ok::<_, ()>(message)));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn parking_changes_nothing(
        pieces in prop::collection::vec(piece(), 0..8),
        cuts in prop::collection::vec(0.0..1.0_f64, 0..12),
        slow in any::<bool>(),
    ) {
        let bytes = pieces.concat();
        let cuts = places(&cuts, bytes.len());
        let pace = if slow { Pace { chunk: 17, stutter: true } } else { Pace::FAST };
        let parked = observe(bytes.clone(), cuts.clone(), pace, true);
        let unparked = observe(bytes.clone(), cuts, pace, false);
        prop_assert_eq!(&parked, &unparked);
        let expected = reference(bytes);
        prop_assert_eq!(&parked.0[..expected.len()], &expected[..]);
        prop_assert!(parked.0.len() <= expected.len() + 1);
    }
}
