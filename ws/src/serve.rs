//! Sockets served by a handler: the future of one that waits is the socket and what the handler
//! keeps, and nothing else.
//!
//! An `async fn` is as large, all its life, as it is where it holds most: with a message in its
//! hands, or sending. Here the handler's future is made when a message comes and is gone when
//! it is done with it.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::Stream;
use tungstenite::protocol::Message;

use crate::error::Error;
use crate::socket::WebSocket;

/// What an application keeps for one socket, and does with what comes from it.
///
/// Async functions and closures of a socket and a message are sessions; a closure's state is
/// what it captures. A type of one's own can also wait for other things than messages, see
/// [`poll_next`](Session::poll_next).
pub trait Session<S> {
    /// A message has come, pings and pongs included. The next one is read when this is done.
    ///
    /// # Errors
    /// End the session, and the connection with it. To end it in good order, use
    /// [`WebSocket::close`].
    fn message(
        &mut self,
        socket: &mut WebSocket<S>,
        message: Message,
    ) -> impl Future<Output = Result<(), Error>>;

    /// Waits for the next message, as the socket's [`Stream`] does, which is what is asked here
    /// unless this is overridden: a session that also waits for something else polls both. Here
    /// it is for what is published on a topic:
    ///
    /// ```
    /// # use std::task::{Context, Poll};
    /// use throng_net::TcpStream;
    /// use throng_ws::topic::Subscription;
    /// use throng_ws::{Error, Message, Session, WebSocket};
    ///
    /// struct Member {
    ///     subscribed: [Subscription; 1],
    /// }
    ///
    /// impl Session<TcpStream> for Member {
    ///     async fn message(
    ///         &mut self,
    ///         _socket: &mut WebSocket<TcpStream>,
    ///         _message: Message,
    ///     ) -> Result<(), Error> {
    ///         Ok(())
    ///     }
    ///
    ///     fn poll_next(
    ///         &mut self,
    ///         socket: &mut WebSocket<TcpStream>,
    ///         cx: &mut Context<'_>,
    ///     ) -> Poll<Option<Result<Message, Error>>> {
    ///         socket.poll_next_with(cx, &mut self.subscribed)
    ///     }
    /// }
    /// ```
    fn poll_next(
        &mut self,
        socket: &mut WebSocket<S>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Pin::new(socket).poll_next(cx)
    }
}

impl<S, F> Session<S> for F
where
    F: AsyncFnMut(&mut WebSocket<S>, Message) -> Result<(), Error>,
{
    async fn message(&mut self, socket: &mut WebSocket<S>, message: Message) -> Result<(), Error> {
        self(socket, message).await
    }
}

/// Opens a socket by `opening`, such as [`accept`](crate::accept()) or an
/// [`Upgrading`](crate::Upgrading), and gives its messages to `session` until it ends.
///
/// This is the way to hold very many sockets: while one waits, its task is as large as the
/// [`WebSocket`] and the session together.
///
/// While the session is busy with a message the socket is not waited on: its pings and timeouts
/// do not run, nor is anything received or forwarded. A session that sends to a peer that takes
/// nothing waits for as long as TCP does, unless [`Config::send_timeout`](crate::Config::send_timeout)
/// ends it: set it where peers are not trusted.
///
/// ```
/// use throng_net::{TcpListener, TcpStream};
/// use throng_ws::{Error, Message, WebSocket, accept, serve};
///
/// async fn echo(socket: &mut WebSocket<TcpStream>, message: Message) -> Result<(), Error> {
///     use futures::SinkExt;
///     if message.is_text() || message.is_binary() {
///         socket.send(message).await?;
///     }
///     Ok(())
/// }
///
/// async fn server(listener: TcpListener) -> std::io::Result<()> {
///     loop {
///         let (stream, _) = listener.accept().await?;
///         throng_runtime::spawn_local(serve(accept(stream), echo)).detach();
///     }
/// }
/// ```
///
/// # Errors
/// Those of `opening`, of the socket's [`Stream`] and of the session. `Ok` is the end by a
/// closing handshake.
pub fn serve<S, H>(
    opening: impl Future<Output = Result<WebSocket<S>, Error>> + 'static,
    session: H,
) -> Serve<S, H> {
    Serve { stage: Stage::Opening(Box::pin(opening), session) }
}

/// The future of [`serve`].
#[must_use = "futures do nothing unless polled"]
pub struct Serve<S, H> {
    stage: Stage<S, H>,
}

enum Stage<S, H> {
    Opening(Pin<Box<dyn Future<Output = Result<WebSocket<S>, Error>>>>, H),
    /// Waiting for a message.
    Idle(WebSocket<S>, H),
    /// The session has one.
    Busy(Pin<Box<dyn Future<Output = Handled<S, H>>>>),
    Over,
}

/// What a session gives back when it is done with a message.
type Handled<S, H> = (WebSocket<S>, H, Result<(), Error>);

// What an idle socket adds to its stream: a million of them are held at once.
const _: () = assert!(mem::size_of::<Serve<(), ()>>() <= 40);

// Nothing in it is pinned but by boxes.
impl<S, H> Unpin for Serve<S, H> {}

impl<S, H> Future for Serve<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Session<S> + 'static,
{
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = &mut self.get_mut().stage;
        loop {
            match stage {
                Stage::Opening(opening, _) => {
                    let opened = ready!(opening.as_mut().poll(cx));
                    let before = mem::replace(stage, Stage::Over);
                    let socket = opened?;
                    if let Stage::Opening(_, session) = before {
                        *stage = Stage::Idle(socket, session);
                    }
                }
                Stage::Idle(socket, session) => {
                    let message = match ready!(session.poll_next(socket, cx)) {
                        Some(Ok(message)) => message,
                        end => {
                            *stage = Stage::Over;
                            return Poll::Ready(end.map_or(Ok(()), |error| error.map(|_| ())));
                        }
                    };
                    if let Stage::Idle(mut socket, mut session) = mem::replace(stage, Stage::Over) {
                        *stage = Stage::Busy(Box::pin(async move {
                            let result = session.message(&mut socket, message).await;
                            (socket, session, result)
                        }));
                    }
                }
                Stage::Busy(handling) => {
                    let (socket, session, result) = ready!(handling.as_mut().poll(cx));
                    *stage = Stage::Over;
                    result?;
                    *stage = Stage::Idle(socket, session);
                }
                Stage::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S, H> fmt::Debug for Serve<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Opening(..) => "opening",
            Stage::Idle(..) => "idle",
            Stage::Busy(_) => "busy",
            Stage::Over => "over",
        };
        f.debug_struct("Serve").field("stage", &stage).finish_non_exhaustive()
    }
}
