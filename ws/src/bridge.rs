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
        let mut ahead = mem::take(self.ahead);
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
        // It may wait for long, and be tried often: in memory of about its own size, and not
        // copied where nothing has left.
        ahead.drain(..done);
        if ahead.len() < ahead.capacity() / 2 {
            *self.ahead = ahead.clone();
            quick::recycle(ahead);
        } else {
            *self.ahead = ahead;
        }
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::rc::Rc;

    use super::*;
    use crate::config::Config;

    /// Takes so many bytes more.
    struct Takes(usize);

    impl AsyncWrite for Takes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.0);
            self.0 -= n;
            if n == 0 { Poll::Pending } else { Poll::Ready(Ok(n)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Tries to write `ahead` to a stream that takes so many bytes.
    fn write(ahead: &mut Vec<u8>, takes: usize) -> io::Result<()> {
        let (mut io, mut cx) = (Takes(takes), Context::from_waker(Waker::noop()));
        let (mut tracker, mut share) = (Tracker::default(), Share::new(Rc::new(Config::default())));
        Bridge::new(&mut io, &mut cx, &mut tracker, &mut share, ahead, None).flush()
    }

    #[test]
    fn what_waits_is_not_copied_each_time_nor_in_much_more_memory_than_it_needs() {
        let mut ahead: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
        let all = ahead.clone();
        let place = ahead.as_ptr();
        for _ in 0..3 {
            assert_eq!(write(&mut ahead, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!((ahead.as_ptr(), ahead.len()), (place, 100_000));
        }
        for left in (10_000..100_000).rev().step_by(10_000) {
            let takes = ahead.len() - left;
            assert!(write(&mut ahead, takes).is_err());
            assert_eq!(ahead, all[100_000 - left..]);
            assert!(ahead.capacity() <= 2 * left + 1, "{} for {left}", ahead.capacity());
        }
        write(&mut ahead, usize::MAX).unwrap();
        assert!(ahead.is_empty());
    }
}
