//! What a connection costs in memory, counted by the allocator.

#[path = "../../http/tests/support/counting.rs"]
mod counting;
mod support;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use counting::live;
use futures::{AsyncReadExt, AsyncWriteExt};
use support::{acceptor, connector};
use throng_runtime::Instant;
use throng_runtime::driver::NoDriver;
use throng_runtime::sim::World;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const COUNT: usize = 100;

/// One direction of a pipe whose buffer can be given back.
#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
}

struct End {
    inbound: Rc<RefCell<Queue>>,
    outbound: Rc<RefCell<Queue>>,
}

fn pipe() -> (End, End) {
    let (there, back) = (Rc::<RefCell<Queue>>::default(), Rc::<RefCell<Queue>>::default());
    let end = End { inbound: there.clone(), outbound: back.clone() };
    (end, End { inbound: back, outbound: there })
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut queue = self.inbound.borrow_mut();
        if queue.bytes.is_empty() {
            queue.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buf.remaining().min(queue.bytes.len());
        let bytes: Vec<u8> = queue.bytes.drain(..n).collect();
        buf.put_slice(&bytes);
        if queue.bytes.is_empty() {
            queue.bytes = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.outbound.borrow_mut();
        queue.bytes.extend(buf);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let mut world = World::new();
    let host = world.add_host(vec![Box::new(NoDriver)]);
    world.block_on(host, Instant::from_millis(60_000), main).expect("it stands still")
}

/// Bytes of one server's connection that has read and written something and now waits.
async fn idle() -> isize {
    let (acceptor, connector) = (acceptor(), connector());
    let mut kept = Vec::with_capacity(COUNT);
    let mut before = 0;
    for i in 0..=COUNT {
        // The first one pays for what all share.
        if i == 1 {
            before = live();
        }
        let (ours, theirs) = pipe();
        let (inbound, outbound) = (ours.inbound.clone(), ours.outbound.clone());
        let client = connector.connect("a.test", theirs);
        let (server, client) = futures::join!(acceptor.accept(ours), client);
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let mut bytes = [0; 2_000];
        client.write_all(&bytes).await.unwrap();
        server.read_exact(&mut bytes).await.unwrap();
        server.write_all(&bytes).await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        waits(pin!(server.read(&mut bytes))).await;
        drop(client);
        kept.push((server, inbound, outbound));
    }
    (live() - before) / COUNT as isize
}

/// Bytes of one handshake that waits for its client: for the first byte, and for the last.
async fn handshakes() -> (isize, isize) {
    let acceptor = acceptor();
    let before = live();
    let mut handshakes = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let (ours, theirs) = pipe();
        let mut handshake = Box::pin(acceptor.accept(ours));
        waits(handshake.as_mut()).await;
        handshakes.push((handshake, theirs.inbound, theirs.outbound));
    }
    let silent = live() - before;
    for (handshake, inbound, outbound) in &mut handshakes {
        let end = End { inbound: inbound.clone(), outbound: outbound.clone() };
        waits(pin!(connector().connect("a.test", end))).await;
        waits(handshake.as_mut()).await;
        inbound.borrow_mut().bytes = VecDeque::new();
    }
    (silent / COUNT as isize, (live() - before) / COUNT as isize)
}

/// Polls a future that is not to be ready.
async fn waits<F: Future>(mut future: Pin<&mut F>) {
    assert!(poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await);
}

#[test]
fn connections_are_small() {
    let idle = run(idle());
    let (silent, half) = run(handshakes());
    println!(
        "an idle server connection: {idle} bytes; a handshake: {silent} before the first byte, \
         {half} after the server's answer"
    );
    assert!(idle < 8_200, "{idle}");
    assert!(silent < 8_200, "{silent}");
    assert!(half < 10_200, "{half}");
}
