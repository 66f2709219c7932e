//! One connection of the server. Its path says what it is: `/echo`, `/rooms/NAME` or
//! `/broadcast`; see the README for what is said there.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::{Sink, SinkExt};
use throng::runtime;
use throng::ws::topic::{Published, Subscription, Topic};
use throng::ws::{self, Decline, Frame, Message, Request, WebSocket};
use throng::{TcpListener, TcpStream};

use super::Shard;

/// Longest name of a room, in bytes.
const LONGEST_NAME: usize = 64;

type Socket = WebSocket<TcpStream>;

pub(super) async fn accept(listener: TcpListener, shard: Rc<Shard>) {
    while let Ok((stream, _)) = listener.accept().await {
        let serving = serve(stream, shard.clone());
        if runtime::try_spawn_local(serving).map(|task| task.detach()).is_err() {
            add(&shard.stats.refused);
        }
    }
}

/// What a connection is for.
enum Place {
    Echo,
    Broadcast,
    Room(Box<str>),
}

fn place(path: &str) -> Option<Place> {
    match path {
        "/" | "/echo" => Some(Place::Echo),
        "/broadcast" => Some(Place::Broadcast),
        path => {
            let name = path.strip_prefix("/rooms/")?;
            let good = (1..=LONGEST_NAME).contains(&name.len());
            good.then(|| Place::Room(name.into()))
        }
    }
}

async fn serve(stream: TcpStream, shard: Rc<Shard>) {
    let Some((socket, place, present)) = open(stream, &shard).await else {
        add(&shard.stats.refused);
        return;
    };
    add(&shard.stats.handshakes);
    // A task of its own: this one is as large as its handshake.
    let started = match place {
        Place::Echo => runtime::try_spawn_local(Echo::new(socket, present)),
        Place::Broadcast => runtime::try_spawn_local(broadcast(socket, present)),
        Place::Room(name) => runtime::try_spawn_local(room(socket, present, name)),
    };
    match started {
        Ok(task) => task.detach(),
        Err(_) => add(&shard.stats.refused),
    }
}

async fn open(stream: TcpStream, shard: &Rc<Shard>) -> Option<(Socket, Place, Present)> {
    stream.set_nodelay(true).ok()?;
    let found = RefCell::new(None);
    let opening = ws::accept_with(stream, shard.config.clone(), |request: &Request, response| {
        let place = place(request.uri().path()).ok_or_else(nowhere)?;
        // Counted before the answer is out, so that no more are promised than there is room for.
        let present = Present::new(shard.clone()).ok_or_else(full)?;
        *found.borrow_mut() = Some((place, present));
        Ok(response)
    });
    let socket = opening.await.ok()?;
    let (place, present) = found.borrow_mut().take()?;
    Some((socket, place, present))
}

fn nowhere() -> Decline {
    let text = "there are /echo, /broadcast and /rooms/NAME here\n".to_owned();
    let mut response = http::Response::new(text);
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    Box::new(response)
}

fn full() -> Decline {
    let mut response = http::Response::new("full: try again later\n".to_owned());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    // RFC 9110 10.2.3, in seconds.
    response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    Box::new(response)
}

/// Counts a connection for as long as it is there.
struct Present(Rc<Shard>);

impl Present {
    /// `None`, and counted, where the shard is full.
    fn new(shard: Rc<Shard>) -> Option<Present> {
        if shard.stats.connections.get() >= shard.most {
            add(&shard.stats.full);
            return None;
        }
        add(&shard.stats.connections);
        Some(Present(shard))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let count = &self.0.stats.connections;
        count.set(count.get() - 1);
    }
}

fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// The next data message; `None` at the end.
async fn next(
    socket: &mut Socket,
    subscribed: &mut [Subscription],
    present: &Present,
) -> Option<Message> {
    loop {
        let message = socket.next_with(subscribed).await?.ok()?;
        if message.is_text() || message.is_binary() {
            add(&present.0.stats.received);
            return Some(message);
        }
    }
}

/// Sends back what comes. Written as a future because it is what an idle connection costs: an
/// `async fn` would keep room for each of its waits.
struct Echo {
    socket: Socket,
    subscribed: [Subscription; 1],
    present: Present,
    /// An echo may not have left yet.
    sending: bool,
}

impl Echo {
    fn new(socket: Socket, present: Present) -> Echo {
        let subscribed = [present.0.all.subscribe()];
        Echo { socket, subscribed, present, sending: false }
    }

    /// Ready at the socket's end, or with an error of it, which nobody hears.
    fn poll_echo(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sending {
                // Nothing more is read before: so a peer that does not read is not read either.
                if ready!(Pin::new(&mut self.socket).poll_flush(cx)).is_err() {
                    return Poll::Ready(());
                }
                self.sending = false;
            }
            let next = ready!(self.socket.poll_next_with(cx, &mut self.subscribed));
            let Some(Ok(message)) = next else { return Poll::Ready(()) };
            if message.is_text() || message.is_binary() {
                add(&self.present.0.stats.received);
                add(&self.present.0.stats.echoed);
                if Pin::new(&mut self.socket).start_send(message).is_err() {
                    return Poll::Ready(());
                }
                self.sending = true;
            }
        }
    }
}

impl Future for Echo {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_echo(cx)
    }
}

/// Every text goes to all connections of the server, and its sender is told to how many.
async fn broadcast(mut socket: Socket, present: Present) {
    let mut subscribed = [present.0.all.subscribe()];
    while let Some(message) = next(&mut socket, &mut subscribed, &present).await {
        let published = publish(&present.0.all, &message);
        if answer(&mut socket, published).await.is_err() {
            return;
        }
    }
}

/// Every message goes to all in the room, but `/who` asks how many they are.
async fn room(mut socket: Socket, present: Present, name: Box<str>) {
    let room = present.0.topics.topic(&name);
    let mut subscribed = [present.0.all.subscribe(), room.subscribe()];
    while let Some(message) = next(&mut socket, &mut subscribed, &present).await {
        let sent = match message.to_text() {
            Ok("/who") => {
                let said = format!(r#"{{"present":{}}}"#, room.presence());
                socket.send(Message::text(said)).await
            }
            _ => match publish(&room, &message) {
                Published { refused: 0, .. } => Ok(()),
                // The sender is to know that it was too fast.
                published => answer(&mut socket, published).await,
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

fn publish(topic: &Topic, message: &Message) -> Published {
    match message {
        Message::Text(text) => topic.publish(&Frame::text(text)),
        message => topic.publish(&Frame::binary(message.clone().into_data())),
    }
}

async fn answer(socket: &mut Socket, published: Published) -> Result<(), ws::Error> {
    let Published { subscribers, refused, .. } = published;
    let said = format!(r#"{{"subscribers":{subscribers},"refused":{refused}}}"#);
    socket.send(Message::text(said)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every idle connection keeps as its task: it must not grow by a buffer on the sly.
    #[test]
    fn a_connections_task_is_small() {
        assert!(size_of::<Echo>() <= 128, "{} bytes", size_of::<Echo>());
    }

    #[test]
    fn paths_are_places_or_nothing() {
        assert!(matches!(place("/echo"), Some(Place::Echo)));
        assert!(matches!(place("/broadcast"), Some(Place::Broadcast)));
        assert!(matches!(place("/rooms/a"), Some(Place::Room(name)) if *name == *"a"));
        let long = format!("/rooms/{}", "x".repeat(LONGEST_NAME + 1));
        for path in ["/rooms/", "/elsewhere", &long] {
            assert!(place(path).is_none(), "{path}");
        }
    }
}
