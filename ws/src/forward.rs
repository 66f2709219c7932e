//! What is published, forwarded to the peer while its messages are waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::Stream;
use throng_net::stats;
use tungstenite::protocol::{Message, Role};

use crate::active::Active;
use crate::error::Error;
use crate::frame::{Carrier, Frame};
use crate::socket::{WebSocket, away};
use crate::topic::{News, Slow, Subscription, WAITING};

/// Longest frame that a stream of ours takes whole, in bytes; others are copied.
const WHOLE: usize = 1 << 30;

/// With so many connections that wait for the device a ping does not leave at once.
const CROWD: usize = 4 * WAITING;

/// So many repetitions by TCP without an answer are as good as a ping.
const UNANSWERED: u8 = 3;

/// When the peer was heard last, as seen by heartbeats. A byte in every socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Since the last heartbeat.
    Heard,
    /// Before it.
    Quiet,
    /// Before it, and a ping is queued that may leave later than it was asked for.
    Asked,
    /// The same, and TCP had no answer at the last heartbeat either.
    Silent,
    /// Before it, and a ping has left.
    Pinged,
}

/// How far what was sent last has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Part of it waits here: for room in the peer's window, or for the device.
    Waits,
    /// The same, and TCP repeats what is before it in vain.
    Unanswered,
    /// It has left, not long enough ago for TCP to have repeated it.
    Lately,
    /// It has left, and was acknowledged or repeated.
    Left,
}

thread_local! {
    /// The ping of all heartbeats.
    static PING: Frame = Frame::empty_ping();
}

impl<S: AsyncRead + AsyncWrite + Carrier + Unpin> WebSocket<S> {
    /// Sends an encoded frame: its very bytes where a TCP connection of ours is below and we
    /// are the server, else as a message of its own. Waits until what was sent before has left
    /// the socket's write buffer and there is room for more.
    ///
    /// # Errors
    /// [`Error::Closed`], and those of the stream, as for the `Sink`.
    pub async fn send_frame(&mut self, frame: &Frame) -> Result<(), Error> {
        poll_fn(|cx| self.poll_send_frame(cx, frame)).await
    }

    /// Polls to send an encoded frame, which is taken as a whole, see
    /// [`send_frame`](WebSocket::send_frame).
    pub fn poll_send_frame(
        &mut self,
        cx: &mut Context<'_>,
        frame: &Frame,
    ) -> Poll<Result<(), Error>> {
        if self.active.is_some() && self.is_open() {
            // Its buffer may end in the middle of a frame.
            ready!(self.poll_send(cx))?;
        }
        if !self.is_open() {
            return Poll::Ready(Err(Error::Closed));
        }
        let whole = self.role() == Role::Server && frame.as_bytes().len() <= WHOLE;
        let Some(tcp) = self.io.tcp().filter(|_| whole) else {
            self.queue(frame.message())?;
            // It is taken, whether or not it leaves at once.
            return match self.poll_send(cx) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => Poll::Ready(Ok(())),
            };
        };
        let result = ready!(tcp.poll_write_chunk(cx, &mut Some(frame.as_bytes().clone())));
        match result {
            Ok(()) if !frame.is_ping() => self.note_sent(),
            Ok(()) => {}
            Err(error) => {
                self.lose();
                return Poll::Ready(Err(Error::Io(error)));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next message, as of the `Stream`; what `subscribed` bring is forwarded to the peer
    /// meanwhile, and their topics' policies are carried out. Dropping the future loses
    /// nothing.
    ///
    /// Of several topics with heartbeats the first one's are those that look after the peer.
    ///
    /// # Errors
    /// Beside those of the `Stream`: [`Error::Slow`], [`Error::PingTimeout`].
    pub async fn next_with(
        &mut self,
        subscribed: &mut [Subscription],
    ) -> Option<Result<Message, Error>> {
        poll_fn(|cx| self.poll_next_with(cx, subscribed)).await
    }

    /// Polls for the next message, see [`next_with`](WebSocket::next_with).
    pub fn poll_next_with(
        &mut self,
        cx: &mut Context<'_>,
        subscribed: &mut [Subscription],
    ) -> Poll<Option<Result<Message, Error>>> {
        loop {
            if let Poll::Ready(item) = Pin::new(&mut *self).poll_next(cx) {
                return Poll::Ready(item);
            }
            let mut leaving = false;
            // One only: the beats of several may fall due at once, and the peer is to have the
            // time between two of them for its answer.
            let leader = subscribed.iter().position(Subscription::has_heartbeat);
            for (place, subscription) in subscribed.iter_mut().enumerate() {
                match self.forward(cx, subscription, Some(place) == leader) {
                    Ok(closing) => leaving |= closing,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if !leaving || !self.is_open() {
                return Poll::Pending;
            }
            // A write buffer too full for it is being drained; the close is then the stream's
            // end, when the server drops the socket.
            let _ = self.queue(Message::Close(Some(away())));
        }
    }

    /// Forwards what there is as far as the peer takes it; heartbeats are acted upon if it
    /// `leads`. Returns whether the topic closes.
    fn forward(
        &mut self,
        cx: &mut Context<'_>,
        subscription: &mut Subscription,
        leads: bool,
    ) -> Result<bool, Error> {
        while self.is_open() {
            // A frame stays in the topic until the stream has taken it: so who is slow falls
            // behind there.
            match subscription.poll_peek(cx) {
                Poll::Pending => break,
                Poll::Ready(News::Closing) => return Ok(true),
                Poll::Ready(News::Missed(_, Slow::Drop)) => {}
                Poll::Ready(News::Missed(_, Slow::Disconnect)) => {
                    subscription.count(|stats| stats.disconnected += 1);
                    return Err(self.reset(Error::Slow));
                }
                Poll::Ready(News::Frame(frame)) => match self.poll_send_frame(cx, &frame) {
                    Poll::Ready(Ok(())) => subscription.commit(),
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => {
                        // A beat that had to wait would leave the peer less than an interval
                        // until the next; meanwhile there is something to acknowledge.
                        subscription.skip_beats();
                        break;
                    }
                },
                Poll::Ready(News::Heartbeat) if leads => self.heartbeat(cx, subscription)?,
                Poll::Ready(News::Heartbeat) => {}
            }
        }
        Ok(false)
    }

    fn heartbeat(
        &mut self,
        cx: &mut Context<'_>,
        subscription: &Subscription,
    ) -> Result<(), Error> {
        let life = self.life;
        self.life = match life {
            Life::Heard => Life::Quiet,
            Life::Quiet => {
                let ping = PING.with(Frame::clone);
                let at_once = stats::transmit_waiting() < CROWD && self.sent() == Sent::Left;
                match self.poll_send_frame(cx, &ping) {
                    Poll::Ready(Ok(())) => {
                        subscription.count(|stats| stats.pings += 1);
                        if at_once { Life::Pinged } else { Life::Asked }
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    // No room: the peer has something to acknowledge, and is asked another time.
                    Poll::Pending => Life::Quiet,
                }
            }
            Life::Asked | Life::Silent => match self.sent() {
                // A peer is not dead for what it was not asked; TCP finds one that takes nothing.
                Sent::Waits => Life::Asked,
                // But one that is gone, for a whole interval, it finds after a quarter of an hour.
                Sent::Unanswered if life == Life::Silent => return self.dead(subscription),
                Sent::Unanswered => Life::Silent,
                // When it left nobody knows: from now on the peer has an interval.
                Sent::Lately | Sent::Left => Life::Pinged,
            },
            Life::Pinged => match self.sent() {
                Sent::Waits => Life::Asked,
                Sent::Unanswered => Life::Silent,
                Sent::Lately => Life::Pinged,
                Sent::Left => return self.dead(subscription),
            },
        };
        Ok(())
    }

    fn dead(&mut self, subscription: &Subscription) -> Result<(), Error> {
        subscription.count(|stats| stats.dead += 1);
        Err(self.reset(Error::PingTimeout))
    }

    /// How far what was sent last, a ping, has come; `Left` where nobody knows.
    fn sent(&mut self) -> Sent {
        if self.active.as_deref().is_some_and(Active::is_dirty) {
            return Sent::Waits;
        }
        let Some(Ok(info)) = self.io.tcp().map(|tcp| tcp.info()) else { return Sent::Left };
        match info.in_flight as usize {
            flight if info.send_queue > flight => match flight > 0 && info.retries >= UNANSWERED {
                true => Sent::Unanswered,
                false => Sent::Waits,
            },
            1.. if info.retries == 0 => Sent::Lately,
            _ => Sent::Left,
        }
    }

    /// Ends a socket whose peer does not take what is queued: nothing of it is to be kept.
    fn reset(&mut self, error: Error) -> Error {
        if let Some(tcp) = self.io.tcp() {
            // Of a connection that is over nobody needs it.
            let _ = tcp.set_linger(Some(Duration::ZERO));
        }
        self.finish();
        error
    }
}
