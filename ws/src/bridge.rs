//! tungstenite speaks `std::io`; this lends it an async stream for the length of one poll.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures::io::{AsyncRead, AsyncWrite};
use throng_runtime::SmallWaker;

use crate::config::Share;
use crate::quick;
use crate::track::Tracker;

/// An async stream during one poll: `Pending` becomes `WouldBlock`, and the stream then
/// holds a waker.
///
/// A socket may be split between a task that reads and one that writes, and either may have
/// to write: the reader answers pings. A stream keeps one waker for writing, so the one
/// registered must wake both; `other` is the task waiting on the other side, if any.
pub(crate) struct Bridge<'a, 'c, S> {
    io: &'a mut S,
    cx: &'a mut Context<'c>,
    tracker: &'a mut Tracker,
    share: &'a mut Share,
    /// Encoded frames that go before what tungstenite writes.
    ahead: &'a mut Vec<u8>,
    other: Option<&'a SmallWaker>,
    /// Bytes the stream has taken during this poll.
    pub(crate) written: usize,
    /// Bytes have come during this poll.
    pub(crate) heard: bool,
}

impl<'a, 'c, S> Bridge<'a, 'c, S> {
    pub(crate) fn new(
        io: &'a mut S,
        cx: &'a mut Context<'c>,
        tracker: &'a mut Tracker,
        share: &'a mut Share,
        ahead: &'a mut Vec<u8>,
        other: Option<&'a SmallWaker>,
    ) -> Self {
        let other = other.filter(|waker| !waker.will_wake(cx.waker()));
        Bridge { io, cx, tracker, share, ahead, other, written: 0, heard: false }
    }

    /// Runs a write-side poll so that its waker reaches every waiting task.
    fn poll_write_side<T>(
        &mut self,
        mut poll: impl FnMut(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T>
    where
        S: Unpin,
    {
        let mut result = poll(Pin::new(self.io), self.cx);
        if let (Poll::Pending, Some(other)) = (&result, self.other) {
            let both = Waker::from(Arc::new(Both(self.cx.waker().clone(), other.to_waker())));
            result = poll(Pin::new(self.io), &mut Context::from_waker(&both));
        }
        match result {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncRead + Unpin> io::Read for Bridge<'_, '_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.tracker.is_oversize() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, OversizeControl));
        }
        match Pin::new(&mut *self.io).poll_read(self.cx, buf) {
            Poll::Ready(Ok(received)) => {
                self.heard |= received > 0;
                let n = self.tracker.feed(&buf[..received]);
                if n == 0 && received > 0 {
                    return self.read(buf);
                }
                // tungstenite makes room for a whole frame once it has seen the header.
                match self.share.set(self.tracker.under_way()) {
                    true => Ok(n),
                    false => Err(over_budget()),
                }
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Bridge<'_, '_, S> {
    /// Writes all that goes before.
    fn write_ahead(&mut self) -> io::Result<()> {
        if self.ahead.is_empty() {
            return Ok(());
        }
        let ahead = mem::take(self.ahead);
        let mut done = 0;
        let result = loop {
            if done == ahead.len() {
                quick::recycle(ahead);
                return Ok(());
            }
            match self.poll_write_side(|io, cx| io.poll_write(cx, &ahead[done..])) {
                Ok(0) => break io::ErrorKind::ConnectionReset.into(),
                Ok(n) => {
                    done += n;
                    self.written += n;
                }
                Err(error) => break error,
            }
        };
        // It may wait for long: in memory of its own size.
        *self.ahead = ahead[done..].to_vec();
        quick::recycle(ahead);
        Err(result)
    }
}

impl<S: AsyncWrite + Unpin> io::Write for Bridge<'_, '_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_ahead()?;
        let n = self.poll_write_side(|io, cx| io.poll_write(cx, buf))?;
        self.written += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_ahead()?;
        self.poll_write_side(|io, cx| io.poll_flush(cx))
    }
}

/// The error in which the limit of [`Share`] passes through tungstenite.
pub(crate) fn over_budget() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, OverBudget)
}

/// Whether an error is [`over_budget`].
pub(crate) fn is_over_budget(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OverBudget>())
}

/// Whether an error is that of a control frame larger than one may be.
pub(crate) fn is_oversize_control(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OversizeControl>())
}

#[derive(Debug, thiserror::Error)]
#[error("control frame too large")]
struct OversizeControl;

#[derive(Debug, thiserror::Error)]
#[error("too many bytes of messages under way")]
struct OverBudget;

/// Wakes the reading and the writing task of one socket.
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}
