//! Bytes: what is written is read, whole and in order, however it is asked for.

use std::cell::Cell;
use std::io::IoSlice;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use throng_net::TcpStream;
use throng_runtime::{sleep, spawn_local, timeout};

use crate::world::{Ends, echo, signal};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

pub(crate) async fn bytes_come_back_over_both_families(ends: Ends) {
    for ip in ends.far.ips.clone() {
        let (addr, server) = ends
            .far
            .serve_at(ip, |listener| async move { echo(listener.accept().await.unwrap().0).await })
            .await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addr);
        for len in [1, 100, 1460, 1461, 65_536, 300_000] {
            let sent = pattern(len);
            let mut received = vec![0; len];
            let (mut reader, mut writer) = (&mut stream).split();
            let both = join(writer.write_all(&sent), reader.read_exact(&mut received)).await;
            both.0.unwrap();
            both.1.unwrap();
            assert!(sent == received, "{len} bytes over {ip}");
        }
        stream.close().await.unwrap();
        assert!(stream.read_chunk(1).await.unwrap().is_empty());
        server.done().await;
    }
}

pub(crate) async fn both_ends_know_the_same_addresses(ends: Ends) {
    for ip in ends.far.ips.clone() {
        let (addr, server) = ends
            .far
            .serve_at(ip, |listener| async move {
                let (stream, peer) = listener.accept().await.unwrap();
                assert_eq!(stream.peer_addr().unwrap(), peer);
                (stream.local_addr().unwrap(), peer)
            })
            .await;
        let stream = TcpStream::connect(addr).await.unwrap();
        assert!(ends.near.ips.contains(&stream.local_addr().unwrap().ip()));
        let (local, peer) = server.done().await;
        assert_eq!((local, peer), (stream.peer_addr().unwrap(), stream.local_addr().unwrap()));
    }
}

pub(crate) async fn lines_are_read_through_buf_read(ends: Ends) {
    let (mut stream, _echo) = ends.connect_to_echo().await;
    stream.write_all(b"one\ntwo\nrest").await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "one\n");
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "one\ntwo\n");
    let mut rest = [0; 4];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"rest");
}

pub(crate) async fn nothing_is_read_and_written_at_once(ends: Ends) {
    let (mut stream, _echo) = ends.connect_to_echo().await;
    // Without data, and with.
    for text in ["", "x"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(stream.write(&[]).await.unwrap(), 0);
        assert_eq!(stream.write_vectored(&[IoSlice::new(&[])]).await.unwrap(), 0);
        stream.write_chunk(Bytes::new()).await.unwrap();
        assert_eq!(stream.read(&mut []).await.unwrap(), 0);
        assert!(stream.read_chunk(0).await.unwrap().is_empty());
        if !text.is_empty() {
            stream.readable().await.unwrap();
            assert_eq!(stream.read(&mut []).await.unwrap(), 0);
        }
    }
    assert_eq!(&stream.read_chunk(9).await.unwrap()[..], b"x");
}

pub(crate) async fn empty_pieces_in_front_are_no_end(ends: Ends) {
    let (mut stream, far) =
        ends.connect(|mut stream| async move { stream.read_chunk(100).await.unwrap() }).await;
    // More pieces than a kernel takes in one call.
    let mut pieces = vec![IoSlice::new(&[]); 2_000];
    pieces.push(IoSlice::new(b"at last"));
    assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 7);
    assert_eq!(far.done().await, "at last");
}

pub(crate) async fn a_slow_reader_holds_the_writer_back_and_loses_nothing(ends: Ends) {
    const BLOCK: usize = 64 << 10;
    let blocks = ends.much() / BLOCK;
    let (go, begin) = signal();
    let (mut stream, reader) = ends
        .connect(move |mut stream| async move {
            begin.await.unwrap();
            let mut total = 0;
            loop {
                let chunk = stream.read_chunk(50_000).await.unwrap();
                if chunk.is_empty() {
                    break;
                }
                for byte in &chunk {
                    assert_eq!(*byte, (total / BLOCK) as u8);
                    total += 1;
                }
            }
            assert_eq!(total, blocks * BLOCK);
            stream.write_all(b"all").await.unwrap();
        })
        .await;
    let written = Rc::new(Cell::new(0));
    let seen = written.clone();
    let watcher = spawn_local(async move {
        let mut before = 0;
        loop {
            sleep(Duration::from_millis(150)).await;
            if seen.get() == before {
                break;
            }
            before = seen.get();
        }
        assert!(before < blocks, "the writer was not held back");
        go.send(()).unwrap();
    });
    for block in 0..blocks {
        stream.write_chunk(Bytes::from(vec![block as u8; BLOCK])).await.unwrap();
        // The bound and the chunk that went over it.
        let info = stream.info().unwrap();
        assert!(info.send_queue <= info.snd_buffer as usize + BLOCK);
        written.set(block + 1);
    }
    watcher.await.unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(&stream.read_chunk(3).await.unwrap()[..], b"all");
    reader.done().await;
}

pub(crate) async fn a_chunk_is_taken_whole(ends: Ends) {
    let (go, begin) = signal();
    let (mut stream, reader) = ends
        .connect(|mut stream| async move {
            begin.await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            all
        })
        .await;
    let chunk = Bytes::from(pattern(ends.much()));
    // Nobody reads yet.
    stream.write_chunk(chunk.clone()).await.unwrap();
    go.send(()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let all = reader.done().await;
    assert!(all == chunk, "{} bytes", all.len());
}

pub(crate) async fn both_directions_are_full_and_move(ends: Ends) {
    async fn write_and_read(stream: TcpStream) {
        let (mut reader, mut writer) = stream.split();
        let sent = pattern(3_000_000);
        let mut all = vec![0; sent.len()];
        let both = join(writer.write_all(&sent), reader.read_exact(&mut all)).await;
        both.0.unwrap();
        both.1.unwrap();
        assert!(sent == all);
    }
    let (stream, far) = ends.connect(write_and_read).await;
    write_and_read(stream).await;
    far.done().await;
}

pub(crate) async fn a_cancelled_read_loses_nothing(ends: Ends) {
    let (mut stream, _echo) = ends.connect_to_echo().await;
    let short = Duration::from_millis(5);
    assert!(timeout(short, stream.read_chunk(10)).await.is_err());
    assert!(timeout(short, stream.read(&mut [0; 9])).await.is_err());
    assert!(timeout(short, stream.readable()).await.is_err());
    // A byte comes now and then, while reads are given up.
    for round in 0..20u8 {
        stream.write_all(&[round]).await.unwrap();
        let mut byte = [0];
        while timeout(Duration::from_micros(200), stream.read_exact(&mut byte)).await.is_err() {}
        assert_eq!(byte, [round]);
    }
}

pub(crate) async fn a_cancelled_write_is_whole_or_not_at_all(ends: Ends) {
    let (go, begin) = signal();
    let (mut stream, reader) = ends
        .connect(|mut stream| async move {
            begin.await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            all.len()
        })
        .await;
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let mut accepted = 0;
    while timeout(Duration::from_millis(100), stream.write_chunk(chunk.clone())).await.is_ok() {
        accepted += chunk.len();
    }
    assert!(timeout(Duration::from_millis(5), stream.write(&[1; 100])).await.is_err());
    go.send(()).unwrap();
    drop(stream);
    assert_eq!(reader.done().await, accepted);
}

pub(crate) async fn who_asked_last_is_woken(ends: Ends) {
    let (go, begin) = signal();
    let (stream, _far) = ends
        .connect(|mut stream| async move {
            begin.await.unwrap();
            stream.write_all(b"now").await.unwrap();
            stream.readable().await.unwrap();
        })
        .await;
    let stream = Rc::new(stream);
    let wait = || {
        let stream = stream.clone();
        spawn_local(async move { stream.readable().await.unwrap() })
    };
    let first = wait();
    sleep(Duration::from_millis(5)).await;
    let second = wait();
    sleep(Duration::from_millis(5)).await;
    go.send(()).unwrap();
    second.await.unwrap();
    sleep(Duration::from_millis(5)).await;
    assert!(!first.is_finished(), "one task waits at a time");
    first.abort();
}

pub(crate) async fn readable_takes_nothing_away(ends: Ends) {
    let (mut stream, far) =
        ends.connect(|mut stream| async move { stream.write_all(b"data").await.unwrap() }).await;
    far.done().await;
    stream.readable().await.unwrap();
    stream.readable().await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"data");
    // The end is something to read, too.
    stream.readable().await.unwrap();
}
