//! A stream that is read and written at once, and looked at byte by byte.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite};
use throng_net::TcpStream;

use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::pattern;

/// How a reader reads.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    /// It rests for so long
    pub(crate) pause: Duration,
    /// after so many bytes; 0: never.
    pub(crate) every: u64,
}

/// A connection of this run.
pub(crate) struct Line {
    stream: RefCell<Option<TcpStream>>,
    ledger: Rc<Ledger>,
    /// What it is called where something is wrong.
    name: String,
}

impl Line {
    pub(crate) fn new(stream: TcpStream, ledger: &Rc<Ledger>, name: String) -> Line {
        Line { stream: RefCell::new(Some(stream)), ledger: ledger.clone(), name }
    }

    fn with<T>(&self, f: impl FnOnce(&mut TcpStream) -> T) -> Option<T> {
        self.stream.borrow_mut().as_mut().map(f)
    }

    fn wrong(&self, text: &str) -> io::Error {
        self.ledger.fail(format!("{}: {text}", self.name));
        io::Error::other(text)
    }

    /// Sends the bytes `from..to` of a stream, in pieces of all sizes.
    pub(crate) async fn send(
        &self,
        seed: u64,
        from: u64,
        to: u64,
        dice: &mut Dice,
    ) -> io::Result<()> {
        let (chunks, largest) = (dice.chance(0.5), dice.one_of(&[1, 100, 3_000, 70_000]));
        // Byte by byte only what is short.
        let largest = largest.max((to - from) / 200).max(1);
        let mut offset = from;
        while offset < to {
            let len = dice.within(1, largest).min(to - offset);
            let piece = Bytes::from(pattern::bytes(seed, offset, len as usize));
            if chunks {
                self.send_piece(piece).await?;
                offset += len;
            } else {
                let written = poll_fn(|cx| {
                    self.with(|stream| Pin::new(stream).poll_write(cx, &piece))
                        .unwrap_or_else(|| Poll::Ready(Err(io::ErrorKind::NotConnected.into())))
                });
                offset += written.await? as u64;
            }
        }
        Ok(())
    }

    /// Sends these bytes.
    pub(crate) async fn send_piece(&self, piece: Bytes) -> io::Result<()> {
        let mut piece = Some(piece);
        poll_fn(|cx| {
            self.with(|stream| stream.poll_write_chunk(cx, &mut piece))
                .unwrap_or_else(|| Poll::Ready(Err(io::ErrorKind::NotConnected.into())))
        })
        .await
    }

    /// What comes next, at most `max` bytes; nothing at the end.
    pub(crate) async fn read(&self, max: u64, dice: &mut Dice) -> io::Result<Bytes> {
        let chunks = dice.chance(0.5);
        let max = max.min(dice.one_of(&[1_000, 1 << 14, 1 << 20])) as usize;
        let mut buffer = if chunks { Vec::new() } else { vec![0; max.min(1 << 14)] };
        poll_fn(|cx| {
            self.with(|stream| {
                if chunks {
                    return stream.poll_read_chunk(cx, max);
                }
                let read = Pin::new(stream).poll_read(cx, &mut buffer);
                read.map_ok(|len| Bytes::copy_from_slice(&buffer[..len]))
            })
            .unwrap_or_else(|| Poll::Ready(Err(io::ErrorKind::NotConnected.into())))
        })
        .await
    }

    /// Receives the bytes `from..to` of a stream.
    pub(crate) async fn receive(
        &self,
        seed: u64,
        from: u64,
        to: u64,
        pace: Pace,
        dice: &mut Dice,
    ) -> io::Result<()> {
        let (mut offset, mut rested) = (from, from);
        while offset < to {
            if pace.every > 0 && offset - rested >= pace.every {
                rested = offset;
                super::rest(pace.pause).await;
            }
            let piece = self.read(to - offset, dice).await?;
            if piece.is_empty() {
                return Err(self.wrong(&format!("the stream ends at {offset} of {to}")));
            }
            if !pattern::holds(seed, offset, &piece) {
                let text = format!("{} bytes at {offset} of {to} are others", piece.len());
                return Err(self.wrong(&text));
            }
            offset += piece.len() as u64;
            self.ledger.moved(piece.len());
        }
        Ok(())
    }

    /// Receives exactly so many bytes of no pattern; `None` where the stream ends before the
    /// first.
    pub(crate) async fn exactly(&self, len: usize, dice: &mut Dice) -> io::Result<Option<Vec<u8>>> {
        let mut all = Vec::with_capacity(len);
        while all.len() < len {
            let piece = self.read((len - all.len()) as u64, dice).await?;
            if piece.is_empty() && all.is_empty() {
                return Ok(None);
            }
            if piece.is_empty() {
                return Err(self.wrong(&format!("the stream ends after {} of {len}", all.len())));
            }
            all.extend_from_slice(&piece);
        }
        Ok(Some(all))
    }

    /// Waits for the end, which has to be what comes next.
    pub(crate) async fn end(&self, dice: &mut Dice) -> io::Result<()> {
        let piece = self.read(1_000, dice).await?;
        if piece.is_empty() {
            return Ok(());
        }
        Err(self.wrong(&format!("{} bytes more than were sent", piece.len())))
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.with(|stream| stream.shutdown(Shutdown::Write)).unwrap_or(Ok(()))
    }

    /// Ends it with a reset.
    pub(crate) fn abort(&self) {
        let stream = self.stream.borrow_mut().take();
        if let Some(stream) = stream {
            stream.abort();
        }
    }
}
