//! Random requests, some of them wrong, in random cuts: a server that parks answers to the
//! byte what one that does not park answers.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use proptest::prelude::*;
use throng_http::Server;

use crate::site::serve_site;
use crate::support::{Pace, places, run, send_in_pieces, spawn};

/// Not among them: HTTP/1.0 with keep-alive. hyper answers a malformed request with the version
/// of the one before, which a parked connection no longer knows.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let path = prop_oneof![Just("/hello"), Just("/nowhere"), Just("/large?30000"), Just("/slow")];
    let body = prop::collection::vec(any::<u8>(), 0..3000);
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 0..5);
    prop_oneof![
        8 => path.prop_map(|path| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()),
        3 => body.prop_map(|body| {
            let head = format!("POST /echo HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        }),
        3 => chunks.prop_map(|chunks| {
            let mut request = b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in chunks {
                request.extend(format!("{:x}\r\n", chunk.len()).bytes());
                request.extend(chunk);
                request.extend(b"\r\n");
            }
            request.extend(b"0\r\n\r\n");
            request
        }),
        1 => Just(b"GET /hello HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec()),
        1 => Just(b"GET /hello HTTP/1.0\r\n\r\n".to_vec()),
        1 => Just(b"\r\nHEAD /hello HTTP/1.1\r\n\r\n".to_vec()),
        1 => Just(b"GET /error HTTP/1.1\r\n\r\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..30),
        1 => Just(b"PRI * HTTP/2.0\r\n".to_vec()),
    ]
}

/// All that comes back for `bytes`, sent in these pieces, before the end.
fn answers(bytes: Vec<u8>, cuts: Vec<usize>, pace: Pace, park: bool) -> Vec<u8> {
    run(async move {
        let (dialer, server) = serve_site(Server::new().park(park).date_header(false));
        let (mut reader, mut writer) = dialer.connect_at(1 << 20, pace).split();
        spawn(async move {
            send_in_pieces(&mut writer, &bytes, &cuts).await;
            // Time for all the slow ones.
            throng_runtime::sleep(Duration::from_secs(50)).await;
            let _ = writer.close().await;
        });
        let mut answers = Vec::new();
        reader.read_to_end(&mut answers).await.unwrap();
        throng_runtime::sleep(Duration::from_secs(70)).await;
        assert_eq!(server.connections(), 0);
        answers
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn parking_changes_nothing(
        requests in prop::collection::vec(request(), 0..7),
        cuts in prop::collection::vec(0.0..1.0_f64, 0..10),
        slow in any::<bool>(),
    ) {
        let bytes = requests.concat();
        let cuts = places(&cuts, bytes.len());
        let pace = if slow { Pace { chunk: 61, stutter: true } } else { Pace::FAST };
        let parked = answers(bytes.clone(), cuts.clone(), pace, true);
        let unparked = answers(bytes, cuts, pace, false);
        prop_assert_eq!(
            String::from_utf8_lossy(&parked),
            String::from_utf8_lossy(&unparked)
        );
    }
}
