//! What a socket holds only while a message is under way.

use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use throng_runtime::SmallWaker;
use tungstenite::protocol::{CloseFrame, Message, Role, WebSocketContext};

use crate::bridge::{Bridge, over_budget};
use crate::config::{Config, Share};
use crate::error::Error;
use crate::quick;
use crate::timers::Stall;
use crate::track::Tracker;

/// tungstenite's state and buffers of one socket, and what we must know about them.
#[derive(Debug)]
pub(crate) struct Active {
    role: Role,
    /// Made when there is more to do than to send a data message: in a box, for mostly there is not, and
    /// it is large.
    context: Option<Box<WebSocketContext>>,
    /// Encoded frames that go before what the context writes.
    ahead: Vec<u8>,
    tracker: Tracker,
    /// Bytes of the message under way, in the books of the config.
    share: Share,
    /// Bytes have come since [`Active::take_heard`].
    heard: bool,
    /// tungstenite has looked at every byte received: the last read found nothing.
    drained: bool,
    /// Something may wait to be written or flushed.
    dirty: bool,
    /// The stream has taken bytes since [`Active::take_taken`].
    taken: bool,
    /// The stream refused bytes, or the write buffer is full enough to be written.
    blocked: bool,
    /// The task that waits to send.
    writer: Option<SmallWaker>,
    stall: Option<Box<Stall>>,
    /// Why the connection is being failed.
    pub(crate) failing: Option<Failing>,
}

/// A connection on its way to end with an error.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) error: Error,
    /// The close frame is written.
    pub(crate) told: bool,
    /// Our half of the stream is shut.
    pub(crate) shut: bool,
}

impl Active {
    /// A context for a socket between messages that has received `part`.
    pub(crate) fn new(role: Role, config: &Rc<Config>, part: &[u8]) -> Self {
        let mut tracker = Tracker::default();
        let part = &part[..tracker.feed(part)];
        let drained = part.is_empty();
        let context = (!drained).then(|| {
            // With the room tungstenite asks for, it goes on with this very buffer.
            let mut buf = Vec::with_capacity(config.read_buffer_size.max(part.len()));
            buf.extend_from_slice(part);
            Box::new(WebSocketContext::from_partially_read(buf, role, Some(config.protocol())))
        });
        Active {
            role,
            context,
            ahead: Vec::new(),
            tracker,
            share: Share::new(config.clone()),
            heard: !drained,
            drained,
            dirty: false,
            taken: false,
            blocked: false,
            writer: None,
            stall: None,
            failing: None,
        }
    }

    /// Nothing would be lost if this were dropped and made anew.
    pub(crate) fn is_idle(&self) -> bool {
        self.drained && !self.dirty && !self.blocked && self.tracker.at_boundary()
    }

    /// Whether bytes have come since the last call.
    pub(crate) fn take_heard(&mut self) -> bool {
        mem::take(&mut self.heard)
    }

    /// Whether the stream has taken bytes since the last call.
    pub(crate) fn take_taken(&mut self) -> bool {
        mem::take(&mut self.taken)
    }

    /// Whether something may wait here to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Part of a message has come, and not the rest.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.tracker.at_boundary()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Reads one message. `WouldBlock`: nothing to hand out; the task will be woken, and
    /// all that waited to be sent was written as far as the stream takes it. `closing`: the
    /// peer's close frame has come.
    pub(crate) fn read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
        closing: bool,
    ) -> Result<Message, tungstenite::Error> {
        if closing && self.dirty {
            // tungstenite, asked to read, would take the handshake for complete although the
            // answer to the peer's close frame is still in its buffer.
            self.flush(io, cx, None)?;
        }
        if !self.share.set(self.tracker.under_way()) {
            return Err(over_budget().into());
        }
        let context = context(&mut self.context, self.role, self.share.config());
        let (tracker, share, ahead) = (&mut self.tracker, &mut self.share, &mut self.ahead);
        let mut bridge = Bridge::new(io, cx, tracker, share, ahead, self.writer.as_ref());
        let result = context.read(&mut bridge);
        self.heard |= bridge.heard;
        if bridge.written > 0 {
            self.taken = true;
            if let Some(stall) = &mut self.stall {
                stall.progress(throng_runtime::now());
            }
        }
        match &result {
            Ok(message) => {
                self.drained = false;
                self.dirty |= message.is_ping() || message.is_close();
            }
            Err(error) if would_block(error) => {
                self.drained = true;
                if self.dirty {
                    match self.flush(io, cx, None) {
                        Err(error) if !would_block(&error) => return Err(error),
                        _ => {}
                    }
                }
            }
            Err(_) => {}
        }
        result
    }

    /// Writes out and flushes all that is queued. `reader` is the other task that waits, when
    /// a writing one calls.
    pub(crate) fn flush<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
        reader: Option<&SmallWaker>,
    ) -> Result<(), tungstenite::Error> {
        if self.context.is_none() && self.stall.is_none() && self.flush_ahead(io, cx)? {
            (self.dirty, self.blocked) = (false, false);
            return Ok(());
        }
        let other = reader.or(self.writer.as_ref());
        let (tracker, share, ahead) = (&mut self.tracker, &mut self.share, &mut self.ahead);
        let mut bridge = Bridge::new(io, cx, tracker, share, ahead, other);
        let result = match &mut self.context {
            Some(context) => context.flush(&mut bridge),
            None => io::Write::flush(&mut bridge).map_err(tungstenite::Error::Io),
        };
        if bridge.written > 0 {
            self.taken = true;
            if let Some(stall) = &mut self.stall {
                stall.progress(throng_runtime::now());
            }
        }
        match &result {
            Ok(()) => (self.dirty, self.blocked) = (false, false),
            Err(error) if would_block(error) => (self.dirty, self.blocked) = (true, true),
            Err(_) => {}
        }
        result
    }

    /// Whether the stream takes all of `ahead` at once, and has it flushed. If not, what it has not taken
    /// stays, and is to be tried as anything is.
    fn flush_ahead<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        if !self.ahead.is_empty() {
            let Poll::Ready(n) = Pin::new(&mut *io).poll_write(cx, &self.ahead)? else {
                return Ok(false);
            };
            self.taken = true;
            if n < self.ahead.len() {
                self.ahead.drain(..n);
                return Ok(false);
            }
            quick::recycle(mem::take(&mut self.ahead));
        }
        Ok(Pin::new(io).poll_flush(cx)?.is_ready())
    }

    /// Puts a message into the write buffer without touching the stream.
    pub(crate) fn queue(
        &mut self,
        message: Message,
        config: &Config,
    ) -> Result<(), tungstenite::Error> {
        self.dirty = true;
        if self.context.is_none()
            && self.role == Role::Server
            && quick::encode(&message, &mut self.ahead)
        {
            // As many bytes as tungstenite collects.
            self.blocked |= self.ahead.len() > config.write_buffer();
            return Ok(());
        }
        // The message always fits: what bounds the buffer is that the caller waits for
        // `poll_ready`, so at most one message is in it beside the small things.
        let room = message.len().saturating_add(config.write_limit());
        let context = context(&mut self.context, self.role, config);
        context.set_config(|limits| limits.max_write_buffer_size = room);
        let result = context.write(&mut Refuse, message);
        context.set_config(|limits| limits.max_write_buffer_size = config.write_limit());
        match result {
            Err(error) if would_block(&error) => {
                self.blocked = true;
                Ok(())
            }
            result => result,
        }
    }

    /// Wakes the writing task, for the end has come.
    pub(crate) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// The writing task waits no longer.
    pub(crate) fn writer_done(&mut self) {
        self.writer = None;
        self.stall = None;
    }

    /// Notes that the writing task waits; ready when the peer has taken nothing for `limit`.
    pub(crate) fn poll_stall(&mut self, limit: Option<Duration>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.writer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.writer = Some(cx.waker().into());
        }
        let Some(limit) = limit else { return Poll::Pending };
        let now = throng_runtime::now();
        self.stall.get_or_insert_with(|| Box::new(Stall::new(now))).poll(limit, cx)
    }

    /// Sends the close frame of a failing connection and shuts our half of the stream; false:
    /// the stream does not take it.
    pub(crate) fn poll_tell<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let Some(failing) = &mut self.failing else { return Poll::Ready(false) };
        if !failing.told {
            let frame = failing
                .error
                .close_code()
                .map(|code| CloseFrame { code, reason: reason(&failing.error).into() });
            // The last frame of all has room behind whatever waits.
            let context = context(&mut self.context, self.role, self.share.config());
            context.set_config(|limits| limits.max_write_buffer_size = usize::MAX);
            let (tracker, share, ahead) = (&mut self.tracker, &mut self.share, &mut self.ahead);
            let mut bridge = Bridge::new(io, cx, tracker, share, ahead, self.writer.as_ref());
            // The first call queues the frame, later ones go on writing.
            match context.close(&mut bridge, frame) {
                Err(error) if would_block(&error) => return Poll::Pending,
                Ok(()) | Err(tungstenite::Error::ConnectionClosed) => failing.told = true,
                Err(_) => return Poll::Ready(false),
            }
        }
        if !failing.shut {
            if ready!(Pin::new(io).poll_close(cx)).is_err() {
                return Poll::Ready(false);
            }
            failing.shut = true;
        }
        Poll::Ready(true)
    }
}

/// The context, which is made if it is not there.
fn context<'a>(
    place: &'a mut Option<Box<WebSocketContext>>,
    role: Role,
    config: &Config,
) -> &'a mut WebSocketContext {
    place.get_or_insert_with(|| Box::new(WebSocketContext::new(role, Some(config.protocol()))))
}

/// What the peer reads beside the code; at most 123 bytes (RFC 6455 5.5).
fn reason(error: &Error) -> &'static str {
    match error {
        Error::TooLarge(_) => "message too large",
        Error::Utf8(_) => "invalid UTF-8",
        Error::IdleTimeout => "idle",
        Error::ReceiveTimeout => "message stopped",
        Error::Exhausted => "busy",
        _ => "protocol error",
    }
}

fn would_block(error: &tungstenite::Error) -> bool {
    matches!(error, tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A stream that takes nothing: `Sink::start_send` has no task to wake, so it only buffers.
struct Refuse;

impl io::Read for Refuse {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl io::Write for Refuse {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
