//! Connections leased from the pool, for requests that the caller writes and reads by himself.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::AsyncReadExt;
use http::Method;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use throng_http::client::{Client, Destination, ErrorKind, Leased, Target, Transport};
use throng_net::TcpStream;
use throng_runtime::{coop, timeout};

use crate::world::{OK, SECOND, answer_all, get, pause, raw, read_head, world, write};

fn destination(client: &Client) -> Destination {
    client.destination(&Target::of(&"http://10.0.0.1:80/".parse().unwrap()).unwrap())
}

/// What is answered to a request; empty at the end of the connection.
async fn ask(leased: &mut Leased) -> Vec<u8> {
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let sent = poll_fn(|cx| leased.poll_write(cx, request)).await.unwrap();
    assert_eq!(sent, request.len());
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut buf = ReadBuf::uninit(&mut space);
    // One write of the server's is one read.
    let _ = poll_fn(|cx| leased.poll_read(cx, &mut buf)).await;
    buf.filled().to_vec()
}

#[test]
fn leased_connections_and_requests_share_a_pool() {
    world(|| raw(|_, stream| answer_all(stream)), async {
        let client = Client::builder().max_idle_per_host(2).max_connections_per_host(3).build();
        let to = destination(&client);
        let mut first = to.lease(false).await.unwrap();
        assert_eq!(ask(&mut first).await, OK.as_bytes());
        first.give_back();
        assert_eq!((client.connections(), client.idle_connections()), (1, 1));
        // hyper takes it, and gives it back; and so on.
        for _ in 0..3 {
            assert_eq!(get(&client, "/").await.unwrap(), "ok");
            pause(SECOND / 10).await;
            let leased = poll_fn(|cx| Poll::Ready(to.lease_idle(cx))).await;
            let mut leased = leased.expect("an idle connection");
            assert_eq!(ask(&mut leased).await, OK.as_bytes());
            assert_eq!(client.idle_connections(), 0);
            leased.give_back();
        }
        assert_eq!((client.stats().opened, client.stats().reused), (1, 6));
        // The places are for both together, and who waits gets what comes back.
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(to.lease(false).await.unwrap());
        }
        assert_eq!(client.connections(), 3);
        assert!(timeout(SECOND, get(&client, "/")).await.is_err());
        let waiting = futures::future::join(get(&client, "/"), async {
            pause(SECOND / 2).await;
            let mut last = all.pop().unwrap();
            assert_eq!(ask(&mut last).await, OK.as_bytes());
            last.give_back();
        });
        assert_eq!(waiting.await.0.unwrap(), "ok");
        for mut leased in all {
            assert_eq!(ask(&mut leased).await, OK.as_bytes());
            leased.give_back();
        }
        pause(SECOND / 10).await;
        assert_eq!((client.connections(), client.idle_connections()), (2, 2), "no more are kept");
        drop(to);
        drop(client);
    });
}

#[test]
fn the_end_of_a_resting_connection_is_noticed() {
    world(
        || {
            raw(|n, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                write(&mut stream, OK).await;
                // One ends at once, one when it has been looked at, one says something unasked.
                match n {
                    0 => {}
                    1 => pause(SECOND * 5 / 2).await,
                    _ => {
                        pause(SECOND * 5 / 2).await;
                        write(&mut stream, "what?").await;
                        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
                    }
                }
            });
        },
        async {
            let client = Client::new();
            let to = destination(&client);
            for n in 0..3 {
                let mut leased = to.lease(false).await.unwrap();
                assert_eq!(ask(&mut leased).await, OK.as_bytes());
                leased.give_back();
                assert_eq!((client.connections(), client.stats().evicted), (1, n));
                let late = if n == 0 { SECOND * 11 / 10 } else { SECOND * 26 / 10 };
                pause(late).await;
                assert_eq!((client.connections(), client.stats().evicted), (0, n + 1), "{n}");
            }
            // Nobody is left to look at any, and somebody is again.
            pause(10 * SECOND).await;
            assert_eq!(client.stats().opened, 3);
        },
    );
}

#[test]
fn resting_connections_grow_old() {
    world(|| raw(|_, stream| answer_all(stream)), async {
        let client = Client::builder().idle_timeout(10 * SECOND).max_lifetime(25 * SECOND).build();
        let to = destination(&client);
        for wanted in [1, 1, 1, 2, 2] {
            let mut leased = to.lease(false).await.unwrap();
            assert_eq!(ask(&mut leased).await, OK.as_bytes());
            assert_eq!(client.stats().opened, wanted);
            leased.give_back();
            pause(9 * SECOND).await;
        }
        pause(3 * SECOND).await;
        assert_eq!(client.connections(), 0, "too long idle");
    });
}

#[test]
fn what_may_be_repeated_is_what_a_client_repeats() {
    world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                write(&mut stream, OK).await;
                // The next request is read and not answered.
                read_head(&mut stream).await;
            });
        },
        async {
            let client = Client::new();
            let to = destination(&client);
            let mut leased = to.lease(false).await.unwrap();
            assert!(!leased.may_repeat(&Method::GET), "a new one cannot be stale");
            assert_eq!(ask(&mut leased).await, OK.as_bytes());
            leased.give_back();
            let mut leased = to.lease(false).await.unwrap();
            assert!(leased.may_repeat(&Method::POST), "nothing was sent");
            assert_eq!(ask(&mut leased).await, b"");
            assert!(leased.may_repeat(&Method::GET) && !leased.may_repeat(&Method::POST));
            drop(leased);
            // Not one that is idle.
            let new = to.lease(true).await.unwrap();
            assert_eq!(client.stats().opened, 2);
            drop(new);
            let nobody = Target::of(&"http://10.0.0.1:81/".parse().unwrap()).unwrap();
            let refused = client.destination(&nobody).lease(false).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Connect);
            assert_eq!(client.connections(), 0);
        },
    );
}

/// A stream of which a task may read only so often in one poll, as of the host's sockets.
struct Costly {
    stream: TcpStream,
    reads: Rc<Cell<usize>>,
}

impl Read for Costly {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < 1_000_000, "a loop");
        ready!(coop::poll_proceed(cx));
        Read::poll_read(Pin::new(&mut self.stream), cx, buf)
    }
}

impl Write for Costly {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_flush(Pin::new(&mut self.stream), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
}

#[test]
fn any_number_of_connections_rests() {
    const COUNT: usize = 300;
    world(
        || {
            raw(|_, mut stream| async move {
                read_head(&mut stream).await.unwrap();
                write(&mut stream, OK).await;
                pause(10 * SECOND).await;
            });
        },
        async {
            let reads = Rc::new(Cell::new(0));
            let counted = reads.clone();
            let connector = move |target: &Target| {
                let (opening, reads) = (target.open(), counted.clone());
                async move { Ok(Transport::new(Costly { stream: opening.await?, reads })) }
            };
            let client = Client::builder().max_idle_per_host(COUNT).max_connections_per_host(COUNT);
            let client = client.connector(connector).build();
            let to = destination(&client);
            for _ in 0..COUNT {
                let mut leased = to.lease(true).await.unwrap();
                assert_eq!(ask(&mut leased).await, OK.as_bytes());
                leased.give_back();
            }
            assert_eq!(client.idle_connections(), COUNT);
            pause(2 * SECOND).await;
            // Each is looked at once a second, and the task rests in between.
            let before = reads.replace(0);
            pause(3 * SECOND).await;
            assert!((2 * COUNT..=4 * COUNT).contains(&reads.get()), "{before} {}", reads.get());
            pause(10 * SECOND).await;
            assert_eq!((client.connections(), client.idle_connections()), (0, 0));
            assert_eq!(client.stats().evicted, COUNT as u64, "all ends are noticed");
        },
    );
}
