//! The async face of a WebSocket: `Stream` of messages received, `Sink` of messages sent.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use futures::sink::Sink;
use futures::stream::{FusedStream, Stream};
use throng_http::Stage;
use throng_runtime::SmallWaker;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Message, Role};

use crate::active::{Active, Failing};
use crate::config::Config;
use crate::error::Error;
use crate::forward::Life;
use crate::quick;
use crate::timers::{Due, Timers};
use crate::track::MAX_CONTROL;

/// Longest chain of reads while what a failed peer still sends is thrown away.
const DRAIN_READS: usize = 32;

/// A WebSocket over any async byte stream, after its opening handshake.
///
/// Received messages, pings and pongs included, come out of the [`Stream`]; pings are
/// answered by the socket itself. It ends with `None` after the closing handshake, or with
/// one `Err` and then `None`. Its timers (ping, idle, receive, close) run while a task waits for the
/// stream's next item, so a socket that only sends should still be read, for example by
/// splitting it with [`StreamExt::split`](futures::StreamExt::split).
///
/// As a [`Sink`] it holds back when the peer does not read: it buffers at most
/// [`Config::write_buffer_size`], one message and [`Config::pong_backlog`].
///
/// **Parking.** A socket that waits with no partial frame, no open fragmented message and
/// nothing to send holds no protocol state and no buffers: its size is that of this struct
/// (40 bytes and the stream), plus one small box when it has timers.
pub struct WebSocket<S> {
    pub(crate) io: S,
    pub(crate) active: Option<Box<Active>>,
    timers: Option<Box<Timers>>,
    config: Rc<Config>,
    /// The task that waited for a message last.
    reader: Option<SmallWaker>,
    role: Role,
    phase: Phase,
    /// The peer's close frame has arrived.
    close_received: bool,
    /// What heartbeats of topics know of the peer.
    pub(crate) life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close frame was sent or received; the handshake goes on.
    Closing,
    /// The peer is being told of its error before the stream ends with it.
    Failing,
    /// The handshake is complete; our half of the stream is being shut.
    Shutdown,
    /// It is; what the peer still sends is read away, so that it gets no reset.
    Linger,
    /// Sending has failed; the stream has yet to say that this was no orderly end.
    Lost,
    Done,
}

/// What a parked socket has read.
enum Parked {
    /// A message, and it stays parked.
    Message(Message),
    /// Something else.
    Active(Box<Active>),
    End,
}

impl<S> fmt::Debug for WebSocket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("role", &self.role)
            .field("phase", &self.phase)
            .field("parked", &self.active.is_none())
            .finish_non_exhaustive()
    }
}

impl<S> WebSocket<S> {
    /// Takes a stream whose opening handshake is complete; `received` is what came after it.
    pub fn from_stream(
        io: S,
        role: Role,
        config: impl Into<Rc<Config>>,
        received: Vec<u8>,
    ) -> Self {
        let config = config.into();
        let timers =
            config.has_timers().then(|| Box::new(Timers::new(throng_runtime::now(), &config)));
        let active =
            (!received.is_empty()).then(|| Box::new(Active::new(role, &config, &received)));
        WebSocket {
            io,
            active,
            timers,
            config,
            reader: None,
            role,
            phase: Phase::Open,
            close_received: false,
            life: Life::Heard,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Whether we are the server or the client of this connection.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the socket holds neither protocol state nor buffers at the moment.
    pub fn is_parked(&self) -> bool {
        self.active.is_none()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The closing handshake is complete, or the peer has begun it.
    fn is_shut(&self) -> bool {
        matches!(self.phase, Phase::Shutdown | Phase::Linger) || self.close_received
    }

    fn park_if_idle(&mut self) {
        let idle = self.active.as_deref().is_some_and(Active::is_idle);
        if idle && self.is_open() && self.config.park {
            self.active = None;
            if !self.config.has_timers() {
                self.timers = None;
            }
        }
    }

    /// Tells the timers of what the last read brought; `waits`: it was not enough.
    fn note_read(&mut self, waits: bool) {
        let Some(active) = &mut self.active else { return };
        let stopped = waits && active.is_under_way() && self.config.receive_timeout.is_some();
        let heard = active.take_heard();
        if let Some(timers) = &mut self.timers
            && active.take_taken()
        {
            timers.taken(throng_runtime::now(), !active.is_dirty());
        }
        if stopped && self.timers.is_none() {
            let timers = Timers::new(throng_runtime::now(), &self.config);
            self.timers = Some(Box::new(timers));
        }
        if heard {
            self.note_heard(stopped);
        } else if let Some(timers) = &mut self.timers {
            timers.set_under_way(stopped);
        }
    }

    /// Bytes have come; `under_way`: the message that they are of stands still.
    fn note_heard(&mut self, under_way: bool) {
        self.life = Life::Heard;
        if let Some(timers) = &mut self.timers {
            timers.set_under_way(under_way);
            timers.heard(throng_runtime::now());
        }
    }

    /// Tells the timers that a data message is sent.
    pub(crate) fn note_sent(&mut self) {
        if let Some(timers) = &mut self.timers {
            timers.sent_data(throng_runtime::now());
        }
    }

    /// Sending has failed.
    pub(crate) fn lose(&mut self) {
        let closed = self.close_received;
        self.finish();
        if !closed {
            self.phase = Phase::Lost;
        }
    }

    /// The handshake to close has begun, by whichever side.
    fn begin_closing(&mut self, phase: Phase) {
        self.phase = phase;
        let now = throng_runtime::now();
        let timers = self.timers.get_or_insert_with(|| Box::new(Timers::new(now, &self.config)));
        timers.closing(now, &self.config);
    }

    /// Nothing more will be sent or received.
    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Done;
        self.timers = None;
        // A task that waits on the other half learns of the end.
        if let Some(mut active) = self.active.take() {
            active.wake_writer();
        }
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = &self.reader {
            waker.wake_by_ref();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Closes the connection: sends a close frame (code 1000 for `None`), then reads until
    /// the peer's close frame, throwing other messages away.
    ///
    /// # Errors
    /// [`Error::CloseTimeout`] when the peer does not answer within
    /// [`Config::close_timeout`]; any error of the stream. Closing twice is no error.
    pub async fn close(&mut self, frame: Option<CloseFrame>) -> Result<(), Error> {
        if self.is_open() {
            self.queue(Message::Close(Some(frame.unwrap_or_else(normal))))?;
        }
        while let Some(message) = poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await {
            message?;
        }
        Ok(())
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if let Some(item) = self.follow_drain(cx) {
            return Poll::Ready(item);
        }
        loop {
            let progress = match self.phase {
                Phase::Done => return Poll::Ready(None),
                Phase::Lost => return self.end(Error::ClosedAbnormally),
                Phase::Open | Phase::Closing => self.poll_read(cx),
                Phase::Failing => self.poll_fail(cx).map(|error| Some(Err(error))),
                Phase::Shutdown | Phase::Linger => self.poll_shutdown(cx).map(|()| None),
            };
            if let Poll::Ready(item) = progress {
                return Poll::Ready(item);
            }
            // Only a socket that would wait looks at the clock.
            let Some(timers) = &mut self.timers else { return Poll::Pending };
            let due = ready!(timers.poll(&self.config, cx));
            if let Some(item) = self.on_due(due) {
                return Poll::Ready(item);
            }
        }
    }

    /// Closes, or ends, when the drain that waits for this socket says so. `Some` is the
    /// stream's next item.
    fn follow_drain(&mut self, cx: &mut Context<'_>) -> Option<Option<Result<Message, Error>>> {
        let stage = self.timers.as_mut()?.poll_drain(cx);
        match stage {
            Stage::Serving => {}
            Stage::Draining { .. } if self.is_open() => {
                // A write buffer too full for it is being drained: asked again after that.
                let _ = self.queue(Message::Close(Some(away())));
            }
            Stage::Draining { .. } => {}
            Stage::Cut if self.is_shut() => {
                self.finish();
                return Some(None);
            }
            Stage::Cut => {
                self.timers.as_mut()?.cut();
                self.finish();
                return Some(Some(Err(Error::Cut)));
            }
        }
        None
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.active.is_none() {
            let (role, config) = (self.role, &self.config);
            let read = quick::with_buffer(|buf| {
                let n = ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
                Poll::Ready(Ok::<_, io::Error>(match quick::decode(&buf[..n], role, config) {
                    _ if n == 0 => Parked::End,
                    Some(message) if config.park => Parked::Message(message),
                    _ => Parked::Active(Box::new(Active::new(role, config, &buf[..n]))),
                }))
            });
            match ready!(read) {
                Ok(Parked::Active(active)) => self.active = Some(active),
                Ok(Parked::Message(message)) => {
                    self.note_heard(false);
                    return Poll::Ready(Some(Ok(self.received(message, cx))));
                }
                Ok(Parked::End) => return self.end(Error::ClosedAbnormally),
                Err(error) => return self.end(Error::Io(error)),
            }
        }
        let Some(active) = &mut self.active else { return Poll::Pending };
        let result = active.read(&mut self.io, cx, self.close_received);
        self.note_read(result.is_err());
        match result {
            Ok(message) => Poll::Ready(Some(Ok(self.received(message, cx)))),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.park_if_idle();
                Poll::Pending
            }
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                self.begin_closing(Phase::Shutdown);
                self.poll_shutdown(cx).map(|()| None)
            }
            Err(_) if self.close_received => {
                // Both close frames are through; what follows them does not matter.
                self.finish();
                Poll::Ready(None)
            }
            Err(error) => {
                let error = Error::from_protocol(error);
                if error.close_code().is_none() {
                    return self.end(error);
                }
                self.fail(error);
                self.poll_fail(cx).map(|error| Some(Err(error)))
            }
        }
    }

    /// Books a message that tungstenite hands out, and sends its automatic answer at once:
    /// the caller may take its time until it polls again.
    fn received(&mut self, message: Message, cx: &mut Context<'_>) -> Message {
        if let Some(timers) = &mut self.timers
            && (message.is_text() || message.is_binary())
        {
            timers.received_data(throng_runtime::now());
        }
        if message.is_close() {
            self.close_received = true;
            self.begin_closing(Phase::Closing);
        }
        if (message.is_ping() || message.is_close())
            && let Some(active) = &mut self.active
            && let Err(tungstenite::Error::ConnectionClosed) = active.flush(&mut self.io, cx, None)
        {
            self.phase = Phase::Shutdown;
        }
        message
    }

    /// Ends the stream with an error the peer cannot be told of.
    fn end<T>(&mut self, error: Error) -> Poll<Option<Result<T, Error>>> {
        self.finish();
        Poll::Ready(Some(Err(error)))
    }

    /// Begins to fail the connection (RFC 6455 7.1.7): tell the peer, then end.
    fn fail(&mut self, error: Error) {
        let config = &self.config;
        let active =
            self.active.get_or_insert_with(|| Box::new(Active::new(self.role, config, &[])));
        active.failing = Some(Failing { error, shut: false, told: false });
        self.begin_closing(Phase::Failing);
    }

    /// Sends the close frame, shuts our half and reads the rest away. Without the reading the
    /// stream would be reset and the peer might never see why.
    fn poll_fail(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(active) = &mut self.active else { return self.failed() };
        match active.poll_tell(&mut self.io, cx) {
            Poll::Ready(true) => {}
            Poll::Ready(false) => return self.failed(),
            Poll::Pending => return Poll::Pending,
        }
        ready!(self.poll_drain(cx));
        self.failed()
    }

    /// Throws away what comes until the stream ends.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..DRAIN_READS {
            let read = quick::with_buffer(|buf| Pin::new(&mut self.io).poll_read(cx, buf));
            match ready!(read) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn failed(&mut self) -> Poll<Error> {
        let failing = self.active.as_mut().and_then(|active| active.failing.take());
        self.finish();
        Poll::Ready(failing.map_or(Error::Closed, |failing| failing.error))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.phase == Phase::Shutdown {
            // The handshake is complete: an error now takes nothing from anyone.
            let _ = ready!(Pin::new(&mut self.io).poll_close(cx));
            self.phase = Phase::Linger;
        }
        ready!(self.poll_drain(cx));
        self.finish();
        Poll::Ready(())
    }

    /// Does what the clock asks for. `Some` is the stream's next item.
    fn on_due(&mut self, due: Due) -> Option<Option<Result<Message, Error>>> {
        match due {
            Due::Ping => {
                if let Some(timers) = &mut self.timers {
                    timers.pinged(throng_runtime::now());
                }
                // A write buffer too full for a ping is being drained; the pong timeout
                // decides whether it is in vain, and begins again with whatever the peer takes.
                let _ = self.queue(Message::Ping(Default::default()));
                None
            }
            Due::Dead => {
                self.finish();
                Some(Some(Err(Error::PingTimeout)))
            }
            Due::Idle => {
                self.fail(Error::IdleTimeout);
                None
            }
            Due::Stopped => {
                self.fail(Error::ReceiveTimeout);
                None
            }
            Due::Close => {
                let failing = self.active.as_mut().and_then(|active| active.failing.take());
                let shut = self.is_shut();
                self.finish();
                Some(match failing {
                    Some(failing) => Some(Err(failing.error)),
                    None if shut => None,
                    None => Some(Err(Error::CloseTimeout)),
                })
            }
        }
    }

    /// Puts a message into the write buffer; nothing is written yet.
    pub(crate) fn queue(&mut self, message: Message) -> Result<(), Error> {
        if !self.is_open() {
            return Err(Error::Closed);
        }
        let longest = match &message {
            Message::Ping(_) | Message::Pong(_) => MAX_CONTROL,
            // Two bytes of it are the code.
            Message::Close(_) => MAX_CONTROL - 2,
            _ => usize::MAX,
        };
        if message.len() > longest {
            return Err(Error::ControlTooLong);
        }
        if message.is_text() || message.is_binary() {
            self.note_sent();
        }
        let closes = message.is_close();
        let (role, config) = (self.role, &self.config);
        let active = self.active.get_or_insert_with(|| Box::new(Active::new(role, config, &[])));
        active.queue(message, config).map_err(Error::from_protocol)?;
        if closes {
            self.begin_closing(Phase::Closing);
            self.wake_reader();
        }
        Ok(())
    }

    /// Writes out all that is queued.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(active) = &mut self.active else { return Poll::Ready(Ok(())) };
        let flushed = active.flush(&mut self.io, cx, self.reader.as_ref());
        if let Some(timers) = &mut self.timers
            && active.take_taken()
        {
            timers.taken(throng_runtime::now(), !active.is_dirty());
        }
        match flushed {
            Ok(()) => {
                active.writer_done();
                self.park_if_idle();
                Poll::Ready(Ok(()))
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.timers.as_ref().is_some_and(|timers| timers.is_cut()) {
                    self.lose();
                    return Poll::Ready(Err(Error::Cut));
                }
                ready!(active.poll_stall(self.config.send_timeout, cx));
                self.lose();
                Poll::Ready(Err(Error::SendTimeout))
            }
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                self.begin_closing(Phase::Shutdown);
                self.wake_reader();
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                self.lose();
                Poll::Ready(Err(Error::from_protocol(error)))
            }
        }
    }
}

/// What the peers of a server that ends are told.
pub(crate) fn away() -> CloseFrame {
    CloseFrame { code: CloseCode::Away, reason: Default::default() }
}

fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: Default::default() }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for WebSocket<S> {
    type Item = Result<Message, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(throng_runtime::coop::poll_proceed(cx));
        let this = self.get_mut();
        let item = this.poll_message(cx);
        if item.is_pending() && !this.reader.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            this.reader = Some(cx.waker().into());
        }
        item
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> FusedStream for WebSocket<S> {
    fn is_terminated(&self) -> bool {
        self.phase == Phase::Done
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Message> for WebSocket<S> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        if !this.is_open() {
            return Poll::Ready(Err(Error::Closed));
        }
        match &this.active {
            Some(active) if active.is_blocked() => this.poll_send(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.get_mut().queue(message)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        match this.phase {
            Phase::Open | Phase::Closing => this.poll_send(cx),
            Phase::Shutdown | Phase::Linger => Poll::Ready(Ok(())),
            Phase::Failing | Phase::Lost | Phase::Done => Poll::Ready(Err(Error::Closed)),
        }
    }

    /// Sends a close frame (code 1000) unless one was sent, and flushes. The stream side then
    /// ends when the peer has answered; [`WebSocket::close`] waits for that.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        if this.is_open() {
            this.queue(Message::Close(Some(normal())))?;
        }
        match this.phase {
            Phase::Open | Phase::Closing => this.poll_send(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

// An idle socket must stay small: a million of them are held at once.
const _: () = assert!(mem::size_of::<WebSocket<()>>() <= 40);
