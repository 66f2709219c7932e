//! The client's sockets: each in a place of one list, with a task that is a number.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::{Sink, Stream};
use throng::TcpStream;
use throng::runtime;
use throng::ws::{Error, Message, WebSocket};

use crate::client::latency::{Clock, Latencies};
use crate::client::payload;
use crate::host;

/// Sockets of one block; blocks never move.
const BLOCK: usize = 1_024;

type Socket = WebSocket<TcpStream>;

/// What has come and gone on one shard.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sent: Cell<u64>,
    /// Echoes that were byte for byte what was sent.
    pub(crate) echoed: Cell<u64>,
    /// Messages that were neither an echo nor published.
    pub(crate) wrong: Cell<u64>,
    /// Messages due on a socket that could not take them.
    pub(crate) skipped: Cell<u64>,
    /// Published messages received: what the run itself publishes, and other texts.
    pub(crate) heard: Cell<u64>,
    pub(crate) heard_of_others: Cell<u64>,
    /// Sockets that the server, or the network, ended.
    pub(crate) lost: Cell<u64>,
}

impl Counts {
    /// Messages that nothing has come back for. What comes for one that was written off makes it
    /// no less than none.
    pub(crate) fn on_way(&self) -> u64 {
        self.sent.get().saturating_sub(self.echoed.get() + self.wrong.get())
    }

    /// Waits for them no longer; returns how many they were.
    pub(crate) fn write_off(&self) -> u64 {
        let missing = self.on_way();
        self.sent.set(self.sent.get() - missing);
        missing
    }
}

/// Adds to a count.
pub(crate) fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

/// All sockets of one shard of the client.
pub(crate) struct Pool {
    blocks: RefCell<Vec<Vec<Option<Socket>>>>,
    len: Cell<u32>,
    /// Sockets that have come to their end.
    ended: Cell<u32>,
    /// Nothing is read any more.
    deaf: Cell<bool>,
    clock: Clock,
    size: usize,
    pub(crate) counts: Counts,
    pub(crate) latencies: RefCell<Latencies>,
    /// The same, since the progress was last told.
    pub(crate) recent: RefCell<Latencies>,
}

impl Pool {
    /// Whose messages are `size` bytes long.
    pub(crate) fn new(clock: Clock, size: usize) -> Rc<Pool> {
        Rc::new(Pool {
            blocks: RefCell::default(),
            len: Cell::new(0),
            ended: Cell::new(0),
            deaf: Cell::new(false),
            clock,
            size: size.max(payload::LEAST),
            counts: Counts::default(),
            latencies: RefCell::default(),
            recent: RefCell::new(Latencies::coarse()),
        })
    }

    /// Sockets that were ever put in.
    pub(crate) fn len(&self) -> u32 {
        self.len.get()
    }

    /// Takes a socket in, and starts the task that reads it.
    pub(crate) fn insert(self: &Rc<Self>, socket: Socket) -> io::Result<()> {
        let place = self.len.get();
        let task = runtime::try_spawn_local(Reader { pool: self.clone(), place });
        task.map_err(io::Error::other)?.detach();
        let mut blocks = self.blocks.borrow_mut();
        if place as usize / BLOCK == blocks.len() {
            blocks.push(Vec::with_capacity(BLOCK));
        }
        blocks[place as usize / BLOCK].push(Some(socket));
        self.len.set(place + 1);
        Ok(())
    }

    fn with<R>(&self, place: u32, f: impl FnOnce(&mut Option<Socket>) -> R) -> R {
        let (block, offset) = (place as usize / BLOCK, place as usize % BLOCK);
        f(&mut self.blocks.borrow_mut()[block][offset])
    }

    /// Has the processor fetch what a send needs first.
    pub(crate) fn prefetch(&self, place: u32) {
        let (block, offset) = (place as usize / BLOCK, place as usize % BLOCK);
        runtime::prefetch_read(&self.blocks.borrow()[block][offset]);
    }

    /// Sends a message that was due at `at`; false where the socket cannot take it.
    pub(crate) fn send(&self, place: u32, at: u64) -> bool {
        let message = Message::Binary(payload::make(place, at, self.size));
        let sent = self.with(place, |slot| slot.as_mut().is_some_and(|s| send(s, message)));
        add(if sent { &self.counts.sent } else { &self.counts.skipped }, 1);
        sent
    }

    /// Begins to close a socket; its task ends when the server has answered.
    pub(crate) fn close(&self, place: u32) {
        self.with(place, |slot| slot.as_mut().is_some_and(|s| send(s, Message::Close(None))));
    }

    /// Nothing that comes is read from now on: not even that a socket has ended.
    pub(crate) fn deafen(&self) {
        self.deaf.set(true);
    }

    /// Drops a socket as it is. The task that reads it sleeps on.
    pub(crate) fn cut(&self, place: u32) {
        let socket = self.with(place, Option::take);
        drop(socket);
    }

    /// Sockets that have come to their end.
    pub(crate) fn ended(&self) -> u32 {
        self.ended.get()
    }

    fn received(&self, place: u32, message: &Message) {
        match message {
            Message::Binary(echo) => self.echoed(place, echo),
            Message::Text(text) if text.as_str() == host::BROADCAST => add(&self.counts.heard, 1),
            Message::Text(_) => add(&self.counts.heard_of_others, 1),
            _ => {}
        }
    }

    fn echoed(&self, place: u32, echo: &Bytes) {
        match payload::check(place, echo, self.size) {
            Some(at) => {
                add(&self.counts.echoed, 1);
                let took = self.clock.now().saturating_sub(at);
                self.latencies.borrow_mut().record(took);
                self.recent.borrow_mut().record(took);
            }
            None => add(&self.counts.wrong, 1),
        }
    }
}

fn send(socket: &mut Socket, message: Message) -> bool {
    // Nobody waits: what does not leave at once is flushed by the socket's reader.
    let mut cx = Context::from_waker(Waker::noop());
    let mut socket = Pin::new(socket);
    if !matches!(socket.as_mut().poll_ready(&mut cx), Poll::Ready(Ok(()))) {
        return false;
    }
    let sent = socket.as_mut().start_send(message);
    sent.is_ok() && !matches!(socket.poll_flush(&mut cx), Poll::Ready(Err(_)))
}

/// Reads one socket to its end: all that a connection has as a task.
struct Reader {
    pool: Rc<Pool>,
    place: u32,
}

impl Future for Reader {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.pool.deaf.get() {
                return Poll::Pending;
            }
            let next = self.pool.with(self.place, |slot| match slot {
                Some(socket) => Pin::new(socket).poll_next(cx),
                None => Poll::Ready(None),
            });
            match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => self.pool.received(self.place, &message),
                Poll::Ready(end) => {
                    if let Some(Err(error)) = end {
                        self.lost(&error);
                    }
                    let socket = self.pool.with(self.place, Option::take);
                    drop(socket);
                    self.pool.ended.set(self.pool.ended.get() + 1);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl Reader {
    fn lost(&self, error: &Error) {
        add(&self.pool.counts.lost, 1);
        if self.pool.counts.lost.get() <= 5 {
            eprintln!("connection {}: {error}", self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_off_is_missing_once_even_if_it_comes_later() {
        let counts = Counts::default();
        add(&counts.sent, 10);
        add(&counts.echoed, 6);
        add(&counts.wrong, 1);
        assert_eq!(counts.write_off(), 3);
        assert_eq!((counts.on_way(), counts.write_off()), (0, 0));
        add(&counts.echoed, 2);
        assert_eq!(counts.on_way(), 0);
    }
}
