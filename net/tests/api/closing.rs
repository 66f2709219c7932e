//! How connections end, and what each side hears of it.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::{AsyncReadExt, AsyncWriteExt};
use throng_net::TcpStream;
use throng_runtime::{sleep, spawn_local, timeout};

use crate::world::{Ends, signal};

/// What a read to the end of `stream` says.
async fn how_it_ends(mut stream: TcpStream) -> Result<usize, ErrorKind> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.map_err(|error| error.kind())
}

pub(crate) async fn half_close_lets_the_other_half_go_on(ends: Ends) {
    let (mut stream, far) = ends
        .connect(|mut stream| async move {
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            request.reverse();
            sleep(Duration::from_millis(20)).await;
            stream.write_all(&request).await.unwrap();
        })
        .await;
    stream.write_all(b"abc").await.unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"cba");
    far.done().await;
}

pub(crate) async fn the_end_is_the_end_for_as_long_as_it_is_asked(ends: Ends) {
    let (mut stream, far) = ends.connect(|stream| async move { drop(stream) }).await;
    far.done().await;
    for _ in 0..3 {
        assert!(stream.read_chunk(10).await.unwrap().is_empty());
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
        stream.readable().await.unwrap();
    }
}

pub(crate) async fn shutting_down_twice_is_once(ends: Ends) {
    let (mut stream, far) = ends.connect(how_it_ends).await;
    stream.write_all(b"x").await.unwrap();
    for how in [Shutdown::Write, Shutdown::Write, Shutdown::Both, Shutdown::Read] {
        stream.shutdown(how).unwrap();
    }
    stream.close().await.unwrap();
    assert_eq!(far.done().await, Ok(1));
    // Both sides have ended: there is nothing to shut down, and it is no error.
    assert!(stream.read_chunk(1).await.unwrap().is_empty());
    stream.shutdown(Shutdown::Both).unwrap();
}

pub(crate) async fn a_read_side_that_is_shut_is_at_its_end_after_the_last_byte(ends: Ends) {
    let (mut stream, _far) =
        ends.connect(|mut stream| async move { stream.read_chunk(1).await.map(drop) }).await;
    let shut = async {
        sleep(Duration::from_millis(5)).await;
        stream.shutdown(Shutdown::Read).unwrap();
    };
    join(stream.readable(), shut).await.0.unwrap();
    assert!(stream.read_chunk(10).await.unwrap().is_empty());
    // The other direction is open.
    stream.write_all(b"x").await.unwrap();

    let (mut stream, _far) = ends
        .connect(|mut stream| async move {
            stream.write_all(b"last").await.unwrap();
            stream.readable().await.unwrap();
        })
        .await;
    stream.readable().await.unwrap();
    stream.shutdown(Shutdown::Read).unwrap();
    assert_eq!(&stream.read_chunk(10).await.unwrap()[..], b"last");
    assert!(stream.read_chunk(10).await.unwrap().is_empty());
}

pub(crate) async fn writing_after_a_shutdown_is_a_broken_pipe(ends: Ends) {
    let (mut stream, far) = ends.connect(how_it_ends).await;
    stream.shutdown(Shutdown::Write).unwrap();
    for _ in 0..2 {
        let error = stream.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        let error = stream.write_chunk(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
    assert_eq!(far.done().await, Ok(0));
}

pub(crate) async fn dropping_with_unread_data_resets(ends: Ends) {
    let (mut stream, far) = ends
        .connect(|stream| async move {
            stream.readable().await.unwrap();
            drop(stream);
        })
        .await;
    let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    stream.write_all(b"nobody reads this").await.unwrap();
    far.done().await;
    for _ in 0..2 {
        // It is said for as long as it is asked, by reads and by writes.
        let error = stream.read_chunk(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    stream.readable().await.unwrap();
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // What the stream was is still known.
    assert_eq!((stream.local_addr().unwrap(), stream.peer_addr().unwrap()), (local, peer));
    let info = stream.info().unwrap();
    assert_eq!(info.error.map(|error| std::io::Error::from(error).kind()), Some(error.kind()));
    stream.shutdown(Shutdown::Both).unwrap();
}

pub(crate) async fn data_that_comes_after_a_drop_resets(ends: Ends) {
    let (mut stream, far) = ends.connect(|stream| async move { drop(stream) }).await;
    far.done().await;
    assert!(stream.read_chunk(1).await.unwrap().is_empty());
    let error = async {
        loop {
            if let Err(error) = stream.write_all(b"anybody there?").await {
                break error;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let error = timeout(Duration::from_secs(10), error).await.expect("writes go on");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(stream.read_chunk(1).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

pub(crate) async fn an_abort_and_a_linger_of_zero_reset(ends: Ends) {
    for aborts in [true, false] {
        let (mut stream, far) = ends
            .connect(|mut stream| async move {
                stream.write_all(b"accepted").await.unwrap();
                how_it_ends(stream).await
            })
            .await;
        // A reset that takes the place of the handshake's last segment is never accepted.
        stream.read_exact(&mut [0; 8]).await.unwrap();
        if aborts {
            stream.abort();
        } else {
            stream.set_linger(Some(Duration::ZERO)).unwrap();
            drop(stream);
        }
        assert_eq!(far.done().await, Err(ErrorKind::ConnectionReset));
    }
}

pub(crate) async fn lingering_for_a_reader_that_never_comes_resets(ends: Ends) {
    let (go, begin) = signal();
    let (mut stream, far) = ends
        .connect(|stream| async move {
            begin.await.unwrap();
            how_it_ends(stream).await
        })
        .await;
    stream.set_linger(Some(Duration::from_millis(500))).unwrap();
    stream.write_chunk(Bytes::from(vec![0; ends.much() * 3 / 2])).await.unwrap();
    assert!(stream.info().unwrap().send_queue > 0);
    drop(stream);
    // Counted in whole seconds by some.
    sleep(Duration::from_millis(1_500)).await;
    go.send(()).unwrap();
    assert_eq!(far.done().await, Err(ErrorKind::ConnectionReset));
}

pub(crate) async fn what_was_written_outlives_its_stream(ends: Ends) {
    let (go, begin) = signal();
    let (mut stream, far) = ends
        .connect(|stream| async move {
            begin.await.unwrap();
            how_it_ends(stream).await
        })
        .await;
    stream.write_chunk(Bytes::from(vec![1; ends.much()])).await.unwrap();
    drop(stream);
    go.send(()).unwrap();
    assert_eq!(far.done().await, Ok(ends.much()));
}

pub(crate) async fn an_aborted_task_closes_its_stream(ends: Ends) {
    for unread in [false, true] {
        let (mut stream, far) = ends
            .connect(move |mut stream| async move {
                if unread {
                    stream.write_all(b"for nobody").await.unwrap();
                }
                how_it_ends(stream).await
            })
            .await;
        let (tell, told) = signal();
        let task = spawn_local(async move {
            if unread {
                stream.readable().await.unwrap();
                tell.send(()).unwrap();
            } else {
                stream.read_chunk(1).await.unwrap();
            }
            // It holds the stream for ever.
            std::future::pending::<()>().await;
            drop(stream);
        });
        if unread {
            told.await.unwrap();
        } else {
            sleep(Duration::from_millis(50)).await;
        }
        task.abort();
        let expected = if unread { Err(ErrorKind::ConnectionReset) } else { Ok(0) };
        assert_eq!(far.done().await, expected);
    }
}

pub(crate) async fn both_sides_close_at_once(ends: Ends) {
    let (mut stream, far) = ends
        .connect(|mut stream| async move {
            stream.close().await.unwrap();
            how_it_ends(stream).await
        })
        .await;
    stream.close().await.unwrap();
    assert_eq!(how_it_ends(stream).await, Ok(0));
    assert_eq!(far.done().await, Ok(0));
}
