//! Throng as the server of WebSockets, written as its users would.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::SinkExt;
use throng::ws::topic::{Subscription, Topic};
use throng::ws::{self, Config, Error, Frame, Message, Session, WebSocket};
use throng::{TcpListener, TcpStream, spawn_local};

/// Accepts WebSockets for ever and sends each message back.
///
/// # Errors
/// None can be accepted.
pub async fn echo(listener: TcpListener) -> io::Result<()> {
    let config = Rc::new(Config::default());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let opening = ws::accept_with(stream, config.clone(), |_, answer| Ok(answer));
        // A client that goes away ends its own connection and nothing else.
        spawn_local(ws::serve(opening, send_back)).detach();
    }
}

async fn send_back(socket: &mut WebSocket<TcpStream>, message: Message) -> Result<(), Error> {
    if message.is_text() || message.is_binary() {
        socket.send(message).await?;
    }
    Ok(())
}

/// Accepts WebSockets for ever; what one says all are told, by `topic`.
///
/// # Errors
/// None can be accepted.
pub async fn broadcast(listener: TcpListener, topic: Topic) -> io::Result<()> {
    let config = Rc::new(Config::default());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let opening = ws::accept_with(stream, config.clone(), |_, answer| Ok(answer));
        let member = Member { subscribed: [topic.subscribe()], topic: topic.clone() };
        spawn_local(ws::serve(opening, member)).detach();
    }
}

struct Member {
    subscribed: [Subscription; 1],
    topic: Topic,
}

impl Session<TcpStream> for Member {
    async fn message(
        &mut self,
        _socket: &mut WebSocket<TcpStream>,
        message: Message,
    ) -> Result<(), Error> {
        if let Message::Binary(said) = message {
            // The next one comes when all have got this one, so none is refused.
            self.topic.publish(&Frame::binary(said));
        }
        Ok(())
    }

    fn poll_next(
        &mut self,
        socket: &mut WebSocket<TcpStream>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        socket.poll_next_with(cx, &mut self.subscribed)
    }
}
