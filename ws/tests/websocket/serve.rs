//! Sockets in the hands of `serve`: every message reaches the session, one at a time, and every
//! end is what it is without.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{SinkExt, Stream, StreamExt};
use throng_ws::{Config, Error, Message, Role, Session, WebSocket, serve};

use crate::raw::{FIN, TEXT, frame, read_close, send};
use crate::support::{End, Pace, duplex, run};

fn server(end: End) -> impl Future<Output = Result<WebSocket<End>, Error>> + 'static {
    std::future::ready(Ok(open(end, Role::Server)))
}

fn open(end: End, role: Role) -> WebSocket<End> {
    WebSocket::from_stream(end, role, Config::default(), Vec::new())
}

async fn echo(socket: &mut WebSocket<End>, message: Message) -> Result<(), Error> {
    if message.is_binary() {
        socket.send(message).await?;
    }
    Ok(())
}

#[test]
fn messages_come_one_after_the_other() {
    for capacity in [1, 10, 1 << 16] {
        run(async move {
            let (a, b) = duplex(capacity, Pace { chunk: 7, stutter: true });
            let (mut seen, busy) = (0, Rc::new(Cell::new(false)));
            let session = async move |socket: &mut WebSocket<End>, message: Message| {
                if !message.is_binary() {
                    return Ok(());
                }
                assert!(!busy.replace(true), "the one before is not done");
                throng_runtime::sleep(Duration::from_millis(3)).await;
                assert_eq!(message, Message::binary(vec![seen; 300]));
                seen += 1;
                socket.send(message).await?;
                busy.set(false);
                Ok(())
            };
            let task = throng_runtime::spawn_local(serve(server(b), session));
            let (mut sink, mut stream) = open(a, Role::Client).split();
            let sender = throng_runtime::spawn_local(async move {
                for i in 0..20 {
                    sink.send(Message::binary(vec![i; 300])).await.unwrap();
                    sink.send(Message::Ping(vec![i].into())).await.unwrap();
                }
                sink
            });
            let mut next = 0;
            while next < 20 {
                let message = stream.next().await.unwrap().unwrap();
                if message.is_binary() {
                    assert_eq!(message, Message::binary(vec![next; 300]));
                    next += 1;
                }
            }
            let mut client = stream.reunite(sender.await.unwrap()).unwrap();
            client.close(None).await.unwrap();
            task.await.unwrap().unwrap();
        });
    }
}

/// A session with a state, which also waits for what others want said.
struct Member {
    told: mpsc::UnboundedReceiver<String>,
    heard: Rc<RefCell<Vec<String>>>,
}

impl Session<End> for Member {
    async fn message(&mut self, _: &mut WebSocket<End>, message: Message) -> Result<(), Error> {
        if let Message::Text(text) = message {
            self.heard.borrow_mut().push(text.as_str().to_owned());
        }
        Ok(())
    }

    fn poll_next(
        &mut self,
        socket: &mut WebSocket<End>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        while let Poll::Ready(Some(text)) = Pin::new(&mut self.told).poll_next(cx) {
            socket.start_send_unpin(Message::text(text))?;
        }
        if let Poll::Ready(Err(error)) = socket.poll_flush_unpin(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(socket).poll_next(cx)
    }
}

#[test]
fn a_session_may_wait_for_other_things_than_messages() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        let (tell, told) = mpsc::unbounded();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let member = Member { told, heard: heard.clone() };
        let task = throng_runtime::spawn_local(serve(server(b), member));
        let mut client = open(a, Role::Client);
        for round in 0..3 {
            tell.unbounded_send(format!("news {round}")).unwrap();
            let message = client.next().await.unwrap().unwrap();
            assert_eq!(message, Message::text(format!("news {round}")));
            client.send(Message::text(format!("thanks {round}"))).await.unwrap();
            throng_runtime::sleep(Duration::from_millis(1)).await;
        }
        client.close(None).await.unwrap();
        task.await.unwrap().unwrap();
        assert_eq!(*heard.borrow(), ["thanks 0", "thanks 1", "thanks 2"]);
        assert_eq!(Rc::strong_count(&heard), 1, "the session is gone with its socket");
    });
}

#[test]
fn errors_end_it() {
    run(async {
        let refused = std::future::ready(Err(Error::Closed));
        assert!(matches!(serve(refused, echo).await, Err(Error::Closed)));

        // The session's own: the connection goes with it.
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let fails = async |_: &mut WebSocket<End>, _| Err(Error::SendTimeout);
        let task = throng_runtime::spawn_local(serve(server(b), fails));
        send(&mut a, &frame(FIN | TEXT, b"x")).await;
        assert!(matches!(task.await.unwrap(), Err(Error::SendTimeout)));

        // The protocol's: the peer is told.
        let (mut a, b) = duplex(1 << 16, Pace::FAST);
        let task = throng_runtime::spawn_local(serve(server(b), echo));
        send(&mut a, &frame(FIN | TEXT, &[0xff])).await;
        assert_eq!(read_close(&mut a).await, Some(1007));
        drop(a);
        assert!(task.await.unwrap().is_err());
    });
}

#[test]
fn a_session_may_close() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        let leaves = async |socket: &mut WebSocket<End>, _| socket.close(None).await;
        let task = throng_runtime::spawn_local(serve(server(b), leaves));
        let mut client = open(a, Role::Client);
        client.send(Message::text("go")).await.unwrap();
        assert!(client.next().await.unwrap().unwrap().is_close());
        assert!(client.next().await.is_none());
        task.await.unwrap().unwrap();
    });
}

#[test]
fn a_session_dropped_over_a_message_drops_its_socket() {
    run(async {
        let (a, b) = duplex(1 << 16, Pace::FAST);
        let never = async |_: &mut WebSocket<End>, _| std::future::pending().await;
        let task = throng_runtime::spawn_local(serve(server(b), never));
        let mut client = open(a, Role::Client);
        client.send(Message::text("go")).await.unwrap();
        throng_runtime::sleep(Duration::from_millis(1)).await;
        task.abort();
        assert!(client.next().await.unwrap().is_err(), "the stream ends without a close frame");
    });
}
