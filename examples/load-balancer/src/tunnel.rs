//! Two connections that are joined: bytes both ways, until both ends are done, one fails, nothing
//! has passed for too long, or the balancer ends.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, Write};
use throng::http::rt::Alarm;
use throng::http::{Guest, Stage};
use throng::runtime::now;

/// Read at a time.
const PIECE: usize = 8192;
/// Pieces passed on before other tasks get their turn.
const BURST: usize = 16;

/// Passes bytes both ways until it is over. `guest` is of the drain that may cut it.
///
/// # Errors
/// One side failed.
pub(crate) async fn join<C, S>(
    mut client: C,
    mut server: S,
    idle: Duration,
    mut guest: Guest,
) -> io::Result<()>
where
    C: Read + Write + Unpin,
    S: Read + Write + Unpin,
{
    let (mut up, mut down) = (Way::default(), Way::default());
    let (mut alarm, mut last) = (Alarm::default(), now());
    poll_fn(|cx| {
        if guest.poll_stage(cx) == Stage::Cut {
            guest.cut();
            return Poll::Ready(Ok(()));
        }
        let up = up.poll(&mut client, &mut server, cx);
        let down = down.poll(&mut server, &mut client, cx);
        let (up_done, up_moved) = up?;
        let (down_done, down_moved) = down?;
        if up_done && down_done {
            return Poll::Ready(Ok(()));
        }
        if up_moved || down_moved {
            last = now();
        }
        alarm.poll_at(last + idle, cx).map(Ok)
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Read and not written yet; empty most of the time, and then without memory.
    left: Vec<u8>,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

impl Way {
    /// Passes on what there is: whether this direction is over, and whether anything moved.
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> io::Result<(bool, bool)>
    where
        R: Read + Unpin,
        W: Write + Unpin,
    {
        let mut moved = false;
        for _ in 0..BURST {
            match self.step(from, to, cx) {
                Poll::Pending => return Ok((false, moved)),
                Poll::Ready(Ok(true)) => moved = true,
                Poll::Ready(Ok(false)) => return Ok((true, moved)),
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        cx.waker().wake_by_ref();
        Ok((false, moved))
    }

    /// Whether it goes on.
    fn step<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>>
    where
        R: Read + Unpin,
        W: Write + Unpin,
    {
        if self.shut {
            return Poll::Ready(Ok(false));
        }
        if !self.left.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.left))?;
            return Poll::Ready(self.wrote(written, None));
        }
        if self.ended {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.shut = true;
            return Poll::Ready(Ok(false));
        }
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buf = ReadBuf::uninit(&mut space);
        if Pin::new(from).poll_read(cx, buf.unfilled())?.is_pending() {
            if self.unflushed {
                ready!(Pin::new(to).poll_flush(cx))?;
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        let bytes = buf.filled();
        if bytes.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(true));
        }
        match Pin::new(to).poll_write(cx, bytes)? {
            Poll::Ready(written) => Poll::Ready(self.wrote(written, Some(bytes))),
            Poll::Pending => {
                self.left = bytes.to_vec();
                Poll::Pending
            }
        }
    }

    /// So much has been written of `bytes`, or of what was left.
    fn wrote(&mut self, written: usize, bytes: Option<&[u8]>) -> io::Result<bool> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        match bytes {
            Some(bytes) => self.left.extend_from_slice(&bytes[written..]),
            None => drop(self.left.drain(..written)),
        }
        if self.left.is_empty() {
            self.left = Vec::new();
        }
        Ok(true)
    }
}
