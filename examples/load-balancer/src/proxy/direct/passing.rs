//! One plain request under way.
//!
//! ```text
//! Queueing -> Leasing -> Connecting -> Sending -> Awaiting -> Answering -> ended
//!                ^            '-----------'----------'---- another server is asked, where that
//!                '--------------------------------------'  is allowed, or the request refused
//! ```

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures::future::LocalBoxFuture;
use http::{Method, StatusCode};
use hyper::rt::ReadBuf;
use throng::http::client::{Error, ErrorKind, Leased, Phase};
use throng::http::plain::{
    BodyReader, Duplex, End, Exchange, Extent, LAST_CHUNK, Response, Terms, write_chunk,
};
use throng::runtime::{Instant, now};

use super::write::{self, Frame};
use crate::config::RetryOn;
use crate::group::{Group, Slot, Unavailable, Wish};
use crate::log::Entry;
use crate::proxy::answer::Refusal;
use crate::proxy::head::remove_hop_by_hop;
use crate::proxy::policy::{self, Attempts};
use crate::shard::{RequestId, Shard, State};

/// Read at a time.
const PIECE: usize = 16 << 10;
/// Longest head of a response, and most of heads of interim ones that wait for the client.
const HEAD: usize = 64 << 10;
/// Pieces passed on before others get their turn.
const TURN: usize = 16;

/// What the client asks for.
pub(super) struct Asked {
    pub(super) method: Method,
    /// The number of its route.
    pub(super) route: usize,
    pub(super) id: Option<RequestId>,
    pub(super) wish: Wish,
    /// It wants no further answer on the connection.
    pub(super) close: bool,
}

enum Step {
    /// Every server has what it may have.
    Queueing(LocalBoxFuture<'static, Result<Slot, Unavailable>>),
    /// A server is known, a connection to be found.
    Leasing,
    Connecting(LocalBoxFuture<'static, Result<Leased, Error>>),
    /// The request goes to the server.
    Sending,
    /// The head of the response is to come.
    Awaiting,
    /// The response goes to the client.
    Answering,
}

pub(crate) struct Passing {
    shard: Rc<Shard>,
    state: Rc<State>,
    step: Step,
    asked: Asked,
    attempts: Attempts,
    /// Until the response has been read.
    slot: Option<Slot>,
    leased: Option<Leased>,
    /// The request, kept until a response has come, and how much of it was sent.
    request: Vec<u8>,
    sent: usize,
    /// What has come of a head that is not whole.
    came: Vec<u8>,
    /// What goes to the client, and how much of it has.
    out: Vec<u8>,
    written: usize,
    /// Of the response's body.
    reader: BodyReader,
    chunked: bool,
    /// The server keeps the connection.
    kept: bool,
    /// The client's connection ends with the answer.
    close: bool,
    /// The answer ends before its end.
    cut: bool,
    begun: Instant,
    /// When something moved last.
    since: Instant,
    entry: Option<Box<Entry>>,
}

impl Passing {
    pub(super) fn begin(
        shard: &Rc<Shard>,
        state: Rc<State>,
        group: Rc<Group>,
        asked: Asked,
        entry: Option<Entry>,
        request: Vec<u8>,
    ) -> Passing {
        let begun = now();
        let close = asked.close;
        shard.count(|counts| counts.direct += 1);
        let mut passing = Passing {
            shard: shard.clone(),
            state,
            step: Step::Leasing,
            asked,
            attempts: Attempts::default(),
            slot: None,
            leased: None,
            request,
            sent: 0,
            came: Vec::new(),
            out: Vec::new(),
            written: 0,
            reader: BodyReader::new(Extent::Empty),
            chunked: false,
            kept: false,
            close,
            cut: false,
            begun,
            since: begun,
            entry: entry.map(Box::new),
        };
        match group.try_acquire(&passing.asked.wish, &shard.random) {
            Some(Ok(slot)) => passing.ask(slot),
            Some(Err(unavailable)) => passing.step = refused(unavailable),
            None => {
                let (shard, wish) = (shard.clone(), passing.asked.wish.clone());
                let waiting = async move { group.acquire(&wish, &shard.random).await };
                passing.step = Step::Queueing(Box::pin(waiting));
            }
        }
        passing
    }

    /// Has this server asked, from the first byte on.
    fn ask(&mut self, slot: Slot) {
        if let Some(entry) = &mut self.entry {
            entry.server = Some(slot.server.clone());
        }
        (self.slot, self.leased, self.step) = (Some(slot), None, Step::Leasing);
        self.begun = now();
        self.since = self.begun;
        self.restart();
    }

    fn restart(&mut self) {
        self.sent = 0;
        self.came.clear();
    }

    fn lease(&mut self, cx: &mut Context<'_>) {
        let Some(destination) = self.slot.as_ref().and_then(Slot::destination) else {
            // All servers of the group have one.
            return self.refuse(Refusal::new(StatusCode::BAD_GATEWAY, "no server answered"), false);
        };
        match destination.lease_idle(cx) {
            Some(leased) => (self.leased, self.step) = (Some(leased), Step::Sending),
            None => self.step = Step::Connecting(Box::pin(destination.lease(false))),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        let late = self.is_late();
        let Some(leased) = &mut self.leased else { return Poll::Ready(Err(ErrorKind::Closed)) };
        let outcome = loop {
            if self.sent == self.request.len() {
                break leased.poll_flush(cx);
            }
            match leased.poll_write(cx, &self.request[self.sent..]) {
                Poll::Ready(Ok(written @ 1..)) => self.sent += written,
                polled => break polled.map(|_| Err(std::io::ErrorKind::WriteZero.into())),
            }
        };
        match outcome {
            Poll::Ready(Ok(())) => (self.since, self.step) = (now(), Step::Awaiting),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(ErrorKind::Closed)),
            Poll::Pending if late => return Poll::Ready(Err(ErrorKind::Timeout(Phase::Head))),
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(
        &mut self,
        io: &mut impl Duplex,
        closing: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ErrorKind>> {
        // Hints; the client's pace is of no matter yet.
        if self.written < self.out.len()
            && let Poll::Ready(Ok(written)) =
                Pin::new(&mut *io).poll_write(cx, &self.out[self.written..])
        {
            self.written += written;
            let _ = Pin::new(io).poll_flush(cx);
        }
        let late = self.is_late();
        let Some(leased) = &mut self.leased else { return Poll::Ready(Err(ErrorKind::Closed)) };
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buf = ReadBuf::uninit(&mut space);
        match leased.poll_read(cx, &mut buf) {
            Poll::Pending if late => return Poll::Ready(Err(ErrorKind::Timeout(Phase::Head))),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(_) => return Poll::Ready(Err(ErrorKind::Closed)),
        }
        let bytes = buf.filled();
        if self.came.is_empty() {
            return Poll::Ready(self.on_head(bytes, closing));
        }
        // No head ends without one, so a slow one is not read again and again.
        let may_end = bytes.contains(&b'\n');
        let mut came = std::mem::take(&mut self.came);
        came.extend_from_slice(bytes);
        if may_end {
            return Poll::Ready(self.on_head(&came, closing));
        }
        let too_long = came.len() > HEAD;
        self.came = came;
        Poll::Ready(if too_long { Err(ErrorKind::Protocol) } else { Ok(()) })
    }

    /// So much of the response has come.
    fn on_head(&mut self, mut bytes: &[u8], closing: bool) -> Result<(), ErrorKind> {
        let (shard, state) = (self.shard.clone(), self.state.clone());
        loop {
            let mut scratch = shard.scratch.borrow_mut();
            let mut response = match Response::parse(bytes, &mut scratch) {
                Ok(Some(response)) if response.size <= HEAD => response,
                Ok(None) if bytes.len() <= HEAD => {
                    self.came = bytes.to_vec();
                    return Ok(());
                }
                Err(_) | Ok(_) => return Err(ErrorKind::Protocol),
            };
            let (status, size) = (response.status, response.size);
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                // RFC 9110 15.2: all are passed on but 100, which nobody has asked for.
                if status != StatusCode::CONTINUE && self.out.len() < HEAD {
                    remove_hop_by_hop(&mut response.fields);
                    // RFC 9110 8.6
                    response.fields.remove("content-length");
                    write::interim(&mut self.out, &response);
                }
                bytes = &bytes[size..];
                if bytes.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let bodiless = self.asked.method == Method::HEAD;
            // RFC 9110 15.2.2: a switch of protocols that nobody asked for.
            let switched = status == StatusCode::SWITCHING_PROTOCOLS;
            let (Ok(extent), false) = (response.extent(bodiless), switched) else {
                return Err(ErrorKind::Protocol);
            };
            let Some(slot) = &self.slot else { return Ok(()) };
            slot.answered(status, now().saturating_since(self.begun));
            let why = policy::reason_of_status(status);
            if let Some(next) = self.next(why) {
                self.ask(next);
                return Ok(());
            }
            (self.kept, self.reader) = (response.keeps(), BodyReader::new(extent));
            let (version, id) = (response.version, self.asked.id.as_ref());
            let Some(slot) = &self.slot else { return Ok(()) };
            let (route, chosen) = (self.asked.route, (slot, &self.asked.wish));
            let fields = &mut response.fields;
            if let Err(refusal) =
                policy::undress(fields, (version, status), &state, route, id, chosen)
            {
                self.refuse(refusal, closing);
                return Ok(());
            }
            self.close |= closing;
            let date = shard.date();
            let frame = Frame { extent, bodiless, close: self.close, date: &date };
            // The request is not asked for again: its memory is the answer's, but for hints.
            let hints = std::mem::replace(&mut self.out, std::mem::take(&mut self.request));
            self.out.clear();
            self.out.extend_from_slice(&hints);
            self.chunked = write::response(&mut self.out, &mut response, &frame);
            drop(scratch);
            self.begin_answer(status);
            self.on_body(&bytes[size..]);
            return Ok(());
        }
    }

    fn begin_answer(&mut self, status: StatusCode) {
        self.shard.count(|counts| counts.responses += 1);
        if let Some(entry) = &mut self.entry {
            entry.status = status;
        }
        (self.since, self.step) = (now(), Step::Answering);
    }

    /// So much of the body has come, or of what should be it.
    fn on_body(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.reader.is_end() {
            let Ok(piece) = self.reader.next(bytes) else {
                return self.cut_short(ErrorKind::Protocol.into());
            };
            let data = &bytes[piece.data];
            if let Some(entry) = &mut self.entry {
                entry.bytes += data.len() as u64;
            }
            match self.chunked {
                true => write_chunk(&mut self.out, data),
                false => self.out.extend_from_slice(data),
            }
            bytes = &bytes[piece.taken..];
        }
        if self.reader.is_end() {
            // Bytes beyond the response were not asked for: what follows cannot be trusted.
            self.end_body(self.kept && bytes.is_empty());
        }
    }

    /// All of the response has come.
    fn end_body(&mut self, kept: bool) {
        if self.chunked {
            self.out.extend_from_slice(LAST_CHUNK);
        }
        if let Some(leased) = self.leased.take()
            && kept
        {
            leased.give_back();
        }
        // Whoever waits for the server need not wait for the client.
        self.slot = None;
    }

    /// The client gets what is there, and no more.
    fn cut_short(&mut self, error: Error) {
        if let Some(slot) = self.slot.take() {
            slot.failed(&error);
        }
        // The client has its own time for what is left.
        (self.leased, self.cut, self.since) = (None, true, now());
    }

    fn poll_answer(&mut self, io: &mut impl Duplex, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURN {
            while self.written < self.out.len() {
                match Pin::new(&mut *io).poll_write(cx, &self.out[self.written..]) {
                    Poll::Ready(Ok(written @ 1..)) => {
                        self.written += written;
                        self.since = now();
                    }
                    Poll::Ready(_) => return Poll::Ready(End::Over),
                    Poll::Pending if self.is_late() => return Poll::Ready(End::Stalled),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.out.clear();
            self.written = 0;
            let flushed = Pin::new(&mut *io).poll_flush(cx);
            let Some(leased) = &mut self.leased else {
                // TLS has taken the rest, but its client does not.
                if flushed.is_pending() && self.is_late() {
                    return Poll::Ready(End::Stalled);
                }
                let end = if self.close || self.cut { End::Over } else { End::Answered };
                return flushed.map(|flushed| flushed.map_or(End::Over, |()| end));
            };
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut buf = ReadBuf::uninit(&mut space);
            match leased.poll_read(cx, &mut buf) {
                Poll::Pending if self.is_late() => {
                    self.cut_short(ErrorKind::Timeout(Phase::Body).into());
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(1..)) => {
                    self.since = now();
                    self.on_body(buf.filled());
                }
                Poll::Ready(Ok(_)) if self.reader.ends_here() => self.end_body(false),
                Poll::Ready(_) => self.cut_short(ErrorKind::Closed.into()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_late(&self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now())
    }

    /// No answer has come, nor will.
    fn lost(&mut self, kind: ErrorKind, closing: bool) {
        let may = |old: &Leased| old.may_repeat(&self.asked.method);
        let stale = kind == ErrorKind::Closed && self.leased.as_ref().is_some_and(may);
        self.leased = None;
        match self.slot.as_ref().and_then(Slot::destination).filter(|_| stale) {
            // The server had closed it when the request was on its way: nobody's fault.
            Some(destination) => {
                destination.count_repeated();
                self.step = Step::Connecting(Box::pin(destination.lease(true)));
                self.restart();
            }
            None => self.fail(kind.into(), closing),
        }
    }

    /// The server has failed: another one is asked, or the client told.
    fn fail(&mut self, error: Error, closing: bool) {
        self.leased = None;
        if let Some(slot) = &self.slot {
            slot.failed(&error);
        }
        match self.next(policy::reason(&error)) {
            Some(next) => self.ask(next),
            None => self.refuse(Refusal::of(&error), closing),
        }
    }

    /// The next server to ask, if one may be.
    fn next(&mut self, why: Option<RetryOn>) -> Option<Slot> {
        let Asked { method, wish, .. } = &self.asked;
        self.attempts.next(&self.shard, self.slot.as_ref()?, wish, method, true, why)
    }

    fn refuse(&mut self, refusal: Refusal, closing: bool) {
        self.shard.count(|counts| counts.refused(refusal.status));
        (self.slot, self.leased) = (None, None);
        self.reader = BodyReader::new(Extent::Empty);
        self.chunked = false;
        self.close |= closing || refusal.close;
        let refusal = Refusal { close: self.close, ..refusal };
        let bodiless = self.asked.method == Method::HEAD;
        let bytes = write::refusal(&mut self.out, refusal, bodiless, &self.shard.date());
        if let Some(entry) = &mut self.entry {
            entry.bytes += bytes as u64;
        }
        self.begin_answer(refusal.status);
    }
}

/// A queue that has been left at once.
fn refused(unavailable: Unavailable) -> Step {
    Step::Queueing(Box::pin(std::future::ready(Err(unavailable))))
}

impl Exchange for Passing {
    fn poll(
        self: Pin<&mut Self>,
        io: &mut impl Duplex,
        terms: Terms,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        let (this, closing) = (self.get_mut(), terms.closing);
        loop {
            match &mut this.step {
                Step::Queueing(waiting) => match ready!(waiting.as_mut().poll(cx)) {
                    Ok(slot) => this.ask(slot),
                    Err(unavailable) => this.refuse(unavailable.into(), closing),
                },
                Step::Leasing => this.lease(cx),
                Step::Connecting(connecting) => match ready!(connecting.as_mut().poll(cx)) {
                    Ok(leased) => {
                        (this.leased, this.step) = (Some(leased), Step::Sending);
                        this.since = now();
                    }
                    Err(error) => this.fail(error, closing),
                },
                Step::Sending => {
                    if let Err(kind) = ready!(this.poll_send(cx)) {
                        this.lost(kind, closing);
                    }
                }
                Step::Awaiting => {
                    if let Err(kind) = ready!(this.poll_head(io, closing, cx)) {
                        this.lost(kind, closing);
                    }
                }
                Step::Answering => return this.poll_answer(io, cx),
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let timeout = self.slot.as_ref().map(|slot| &slot.group.config.timeout);
        let limit = match self.step {
            // These have times of their own.
            Step::Queueing(_) | Step::Leasing | Step::Connecting(_) => return None,
            Step::Sending | Step::Awaiting => timeout?.response.0,
            Step::Answering => match timeout {
                Some(timeout) if self.written == self.out.len() => timeout.body.0,
                _ => self.state.world.config.http.body_timeout.0,
            },
        };
        Some(self.since + limit)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.shard.spare.put(std::mem::take(&mut self.request));
        self.shard.spare.put(std::mem::take(&mut self.out));
    }
}

#[cfg(test)]
mod tests;
