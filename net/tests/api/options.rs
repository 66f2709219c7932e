//! What can be set on a stream, what it tells of itself, and its wrapper.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::tcp::State;
use throng_net::{CongestionControl, Keepalive, TcpSocket};
use throng_runtime::sleep;

use crate::world::{Ends, signal};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn all_are_taken_and_info_tells(ends: Ends) {
    let (go, begin) = signal();
    let (stream, far) = ends
        .connect(|mut stream| async move {
            stream.write_all(b"12345").await.unwrap();
            begin.await.unwrap();
        })
        .await;
    stream.set_nodelay(true).unwrap();
    stream.set_nodelay(false).unwrap();
    let keepalive = Keepalive { idle: SECOND / 2, interval: SECOND, count: 3 };
    stream.set_keepalive(Some(keepalive)).unwrap();
    stream.set_keepalive(None).unwrap();
    stream.set_user_timeout(Some(SECOND)).unwrap();
    stream.set_user_timeout(None).unwrap();
    stream.set_linger(Some(SECOND)).unwrap();
    stream.set_linger(None).unwrap();
    stream.set_notsent_lowat(Some(0)).unwrap();
    stream.set_notsent_lowat(Some(u32::MAX)).unwrap();
    stream.set_notsent_lowat(None).unwrap();
    for control in [CongestionControl::NewReno, CongestionControl::Cubic] {
        stream.set_congestion(control).unwrap();
        assert_eq!(stream.info().unwrap().congestion, Some(control));
    }
    stream.readable().await.unwrap();
    let info = stream.info().unwrap();
    assert_eq!(info.tuple.local_addr(), stream.local_addr().unwrap());
    assert_eq!(info.tuple.peer_addr(), stream.peer_addr().unwrap());
    assert_eq!((info.state, info.error), (State::Established, None));
    assert_eq!((info.recv_queue, info.send_queue), (5, 0));
    go.send(()).unwrap();
    far.done().await;
    // Out of range, it is what is in range.
    let age = Duration::from_secs(1 << 40);
    stream.set_keepalive(Some(Keepalive { idle: age, interval: age, count: u8::MAX })).unwrap();
    stream.set_user_timeout(Some(age)).unwrap();
    stream.set_linger(Some(age)).unwrap();
    stream.abort();
}

pub(crate) async fn listeners_and_sockets_choose_their_congestion_control(ends: Ends) {
    let (addr, far) = ends
        .far
        .serve(|listener| async move {
            let mut seen = Vec::new();
            // The first connection may have come before anything is set.
            for next in [CongestionControl::NewReno, CongestionControl::Cubic] {
                let (mut stream, _) = listener.accept().await.unwrap();
                seen.push(stream.info().unwrap().congestion);
                listener.set_congestion(next).unwrap();
                // The next one comes after it.
                stream.write_all(b"x").await.unwrap();
            }
            let (mut stream, _) = listener.accept().await.unwrap();
            seen.push(stream.info().unwrap().congestion);
            stream.write_all(b"x").await.unwrap();
            seen
        })
        .await;
    let controls = [CongestionControl::Cubic, CongestionControl::NewReno, CongestionControl::Cubic];
    for control in controls {
        let socket = TcpSocket::new().congestion(control);
        let mut stream = socket.connect(addr).await.unwrap();
        assert_eq!(stream.info().unwrap().congestion, Some(control));
        assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"x");
    }
    let expected = [CongestionControl::NewReno, CongestionControl::Cubic].map(Some);
    assert_eq!(far.done().await[1..], expected);
}

pub(crate) async fn a_probed_peer_that_answers_stays(ends: Ends) {
    let (mut stream, _echo) = ends.connect_to_echo().await;
    stream.set_keepalive(Some(Keepalive { idle: SECOND, interval: SECOND, count: 1 })).unwrap();
    stream.set_user_timeout(Some(SECOND)).unwrap();
    sleep(2 * SECOND + SECOND / 2).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(&stream.read_chunk(1).await.unwrap()[..], b"x");
}

pub(crate) async fn small_writes_do_not_wait_for_one_another(ends: Ends) {
    let (mut stream, far) = ends
        .connect(|mut stream| async move {
            let mut pair = [0; 2];
            // The answer waits for the second of two writes.
            while stream.read_exact(&mut pair).await.is_ok() {
                stream.write_all(&pair[..1]).await.unwrap();
            }
        })
        .await;
    stream.set_nodelay(true).unwrap();
    let mut rounds = Vec::new();
    for _ in 0..100 {
        let begin = throng_runtime::now();
        stream.write_all(b"a").await.unwrap();
        // In the same turn they would be one segment.
        sleep(Duration::from_millis(1)).await;
        stream.write_all(b"b").await.unwrap();
        assert_eq!(&stream.read_chunk(2).await.unwrap()[..], b"a");
        rounds.push(throng_runtime::now() - begin);
    }
    // Nagle and a delayed acknowledgement would take 40 ms; the kernel does not delay its first. A
    // busy machine makes some late, but not three of four.
    rounds.sort();
    assert!(rounds[25] < Duration::from_millis(30), "{rounds:?}");
    drop(stream);
    far.done().await;
}

pub(crate) async fn a_send_stream_is_a_stream(ends: Ends) {
    fn demand_send<T: Send>(it: T) -> T {
        it
    }
    let (stream, _echo) = ends.connect_to_echo().await;
    let mut stream = demand_send(stream.into_send());
    stream.write_all(b"sent").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"sent");
}
