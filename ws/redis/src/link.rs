//! The connection to the engine: opened again and again, with a pause that grows.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use throng_http::rt::Alarm;
use throng_net::TcpSocket;
use throng_runtime::{Instant, now, sleep, timeout};

use crate::message::{self, HEAD, Heard, Read};
use crate::wire::{self, Malformed, Said};
use crate::{CHANGES, CHANNEL, Changes, Shared};

/// Commands are written until so many bytes wait for the stream.
const WRITE: usize = 64 << 10;
/// Bytes read at a time.
const READ: usize = 16 << 10;
/// Reads before other tasks have their turn,
const READS: usize = 8;
/// and messages delivered: well below what topics keep for subscribers who have yet to have it.
const DELIVERIES: usize = 32;
/// Topics entered or left by one command, and bytes of their names.
const TOGETHER: usize = 256;
/// A connection that has lasted so long was a good one: the next failure is the first.
const STEADY: Duration = Duration::from_secs(1);

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Stream(#[from] io::Error),
    #[error("the engine does not let us in: {0}")]
    Refused(String),
    #[error("the engine does not answer")]
    Timeout,
    #[error("the engine sent {0}")]
    Malformed(&'static str),
    #[error("the engine is too slow for the changes of topics")]
    Overrun,
}

impl From<Malformed> for Failure {
    fn from(Malformed(what): Malformed) -> Failure {
        Failure::Malformed(what)
    }
}

/// Serves the backplane.
pub(crate) async fn run(shared: Rc<Shared>, mut seed: u64) {
    let mut heard = Heard::default();
    let mut failures = 0;
    loop {
        let mut opened = None;
        let Err(failure) = connect(&shared, &mut heard, &mut opened).await;
        let lasted = opened.is_some_and(|at: Instant| now() - at >= STEADY);
        failures = if lasted { 1 } else { failures + 1 };
        let longest = shared.config.backoff_after(failures);
        let pause = longest - longest.mul_f64(random(&mut seed) / 2.0);
        close(&shared, &failure, pause);
        sleep(pause).await;
    }
}

/// From 0 to 1 (SplitMix64).
fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Books the end of a connection.
fn close(shared: &Shared, failure: &Failure, pause: Duration) {
    *shared.changes.borrow_mut() = Changes { closed: true, ..Changes::default() };
    shared.queue.borrow_mut().rewind();
    shared.count(|stats| {
        (stats.connected, stats.topics) = (0, 0);
        stats.backoff = pause.as_millis() as u64;
        stats.failures += 1;
        match failure {
            Failure::Refused(_) => stats.refused += 1,
            Failure::Timeout => stats.timeouts += 1,
            Failure::Malformed(_) => stats.malformed += 1,
            Failure::Stream(_) | Failure::Overrun => {}
        }
    });
    let (host, port) = (&shared.config.host, shared.config.port);
    tracing::warn!(
        target: "throng::backplane", host, port, error = %failure, ?pause,
        "no backplane for the time being"
    );
}

async fn connect(
    shared: &Rc<Shared>,
    heard: &mut Heard,
    opened: &mut Option<Instant>,
) -> Result<std::convert::Infallible, Failure> {
    let config = &shared.config;
    let socket = if config.kernel { TcpSocket::kernel() } else { TcpSocket::new() };
    let connecting = socket.connect((config.host.as_str(), config.port));
    let stream = timeout(config.timeout, connecting).await.map_err(|_| Failure::Timeout)??;
    stream.set_nodelay(true)?;
    #[cfg(feature = "tls")]
    if let Some(connector) = &config.connector {
        let handshake = connector.connect(&config.host, stream);
        let stream = timeout(config.timeout, handshake).await.map_err(|_| Failure::Timeout)??;
        return Link::new(shared, heard, opened, stream).serve().await;
    }
    Link::new(shared, heard, opened, stream).serve().await
}

/// A command whose answer has not come.
enum Awaited {
    Greeting,
    /// Topics entered or left, and of how many the engine has yet to say so.
    Topics(Vec<Arc<str>>, usize),
    Message,
    Sign,
}

/// An open connection.
struct Link<'a, S> {
    shared: &'a Shared,
    heard: &'a mut Heard,
    opened: &'a mut Option<Instant>,
    stream: S,
    received: BytesMut,
    out: BytesMut,
    awaited: VecDeque<Awaited>,
    /// Topics denied with others, to be asked for one by one.
    again: VecDeque<Arc<str>>,
    /// The log has it that the engine denies or rejects something.
    warned: bool,
    /// When something came last, or when there was something to wait for again.
    last: Instant,
    alarm: Alarm,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Link<'a, S> {
    fn new(
        shared: &'a Shared,
        heard: &'a mut Heard,
        opened: &'a mut Option<Instant>,
        stream: S,
    ) -> Self {
        Link {
            shared,
            heard,
            opened,
            stream,
            received: BytesMut::new(),
            out: BytesMut::new(),
            awaited: VecDeque::new(),
            again: VecDeque::new(),
            warned: false,
            last: now(),
            alarm: Alarm::default(),
        }
    }

    async fn serve(mut self) -> Result<std::convert::Infallible, Failure> {
        self.greet();
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The version of the protocol in which one connection both publishes and is subscribed.
    fn greet(&mut self) {
        let config = &self.shared.config;
        let mut parts: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &config.password {
            let user = config.user.as_deref().unwrap_or("default");
            parts.extend([&b"AUTH"[..], user.as_bytes(), password.as_bytes()]);
        }
        self.ask(parts, Awaited::Greeting);
    }

    fn ask<'p>(&mut self, parts: impl IntoIterator<Item = &'p [u8]>, awaited: Awaited) {
        if self.awaited.is_empty() {
            self.last = now();
        }
        wire::command(&mut self.out, parts);
        self.awaited.push_back(awaited);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, Failure>> {
        // Before all looks, so that what comes after one is not missed.
        *self.shared.waker.borrow_mut() = Some(cx.waker().clone());
        if let Poll::Ready(failure) = self.poll_read(cx) {
            return Poll::Ready(Err(failure));
        }
        loop {
            if self.shared.changes.borrow().is_overrun() {
                return Poll::Ready(Err(Failure::Overrun));
            }
            self.fill();
            if self.out.is_empty() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ended())),
                Poll::Ready(Ok(written)) => self.out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => break,
            }
            if self.out.is_empty() {
                // What a burst needed is given back.
                self.out = BytesMut::new();
            }
        }
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
            return Poll::Ready(Err(error.into()));
        }
        ready!(self.alarm.poll_at(self.last + self.shared.config.timeout, cx));
        if !self.awaited.is_empty() {
            return Poll::Ready(Err(Failure::Timeout));
        }
        self.ask([&b"PING"[..]], Awaited::Sign);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what the engine says; ready at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let mut buf = [0; READ];
        let mut deliveries = DELIVERIES;
        for _ in 0..READS {
            // What was left the last time goes first.
            match self.take(&mut deliveries) {
                Ok(()) if deliveries == 0 => break,
                Ok(()) => {}
                Err(failure) => return Poll::Ready(failure),
            }
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(0) => return Poll::Ready(ended()),
                Ok(n) => self.received.extend_from_slice(&buf[..n]),
                Err(error) => return Poll::Ready(error.into()),
            }
            self.last = now();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hears what has come, but no more than so many messages.
    fn take(&mut self, deliveries: &mut usize) -> Result<(), Failure> {
        // The names of channels come back, however small messages are.
        let max =
            self.shared.config.max_message.saturating_add(HEAD).clamp(CHANNEL, usize::MAX / 4);
        while *deliveries > 0
            && let Some(said) = wire::next(&mut self.received, max)?
        {
            *deliveries -= usize::from(matches!(said, Said::Message(..)));
            self.hear(said)?;
        }
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        Ok(())
    }

    fn hear(&mut self, said: Said) -> Result<(), Failure> {
        match said {
            Said::Message(_, payload)
                if payload.len() > self.shared.config.max_message.saturating_add(HEAD) =>
            {
                return Err(Failure::Malformed("a message larger than is taken"));
            }
            Said::Message(channel, payload) => self.deliver(&channel, &payload),
            Said::Channel { entered: _, count } => {
                let Some(Awaited::Topics(_, left)) = self.awaited.front_mut() else {
                    return Err(Failure::Malformed("word of a topic that was not asked for"));
                };
                *left -= 1;
                if *left == 0 {
                    self.awaited.pop_front();
                }
                self.shared.count(|stats| stats.topics = count);
            }
            Said::Aside => {}
            Said::Answer | Said::Error(_) => {
                let Some(awaited) = self.awaited.pop_front() else {
                    return Err(Failure::Malformed("an answer that was not asked for"));
                };
                return self.answer(awaited, said);
            }
        }
        Ok(())
    }

    fn answer(&mut self, awaited: Awaited, said: Said) -> Result<(), Failure> {
        let error = match said {
            Said::Error(error) => Some(error),
            _ => None,
        };
        match (awaited, error) {
            (Awaited::Greeting, None) => self.open(),
            (Awaited::Greeting, Some(error)) => return Err(Failure::Refused(error)),
            (Awaited::Message, error) => {
                self.shared.queue.borrow_mut().answered();
                match error {
                    None => self.shared.count(|stats| stats.sent += 1),
                    Some(error) => {
                        self.shared.count(|stats| stats.rejected += 1);
                        self.warn(&error, "a message is rejected");
                    }
                }
            }
            // One that is not ours to enter denies us all those beside it.
            (Awaited::Topics(topics, _), Some(_)) if topics.len() > 1 => self.again.extend(topics),
            (Awaited::Topics(..), Some(error)) => {
                self.shared.count(|stats| stats.denied += 1);
                self.warn(&error, "a topic is denied");
            }
            (Awaited::Topics(..), None) => {
                return Err(Failure::Malformed("an answer that was not asked for"));
            }
            (Awaited::Sign, _) => {}
        }
        Ok(())
    }

    /// Logs the first of what may come with every message.
    fn warn(&mut self, error: &str, what: &'static str) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(target: "throng::backplane", error, "{what}; more like it are counted only");
        }
    }

    /// The engine has let us in: it is asked for all topics that have subscribers here.
    fn open(&mut self) {
        *self.opened = Some(now());
        self.shared.count(|stats| {
            stats.connects += 1;
            (stats.connected, stats.backoff) = (1, 0);
        });
        let topics = self.shared.inbound.topics();
        let list: VecDeque<_> = topics.into_iter().map(|topic| (topic, true)).collect();
        let most = CHANGES + 2 * list.len();
        *self.shared.changes.borrow_mut() = Changes { closed: false, list, most };
        let (host, port) = (&self.shared.config.host, self.shared.config.port);
        tracing::info!(target: "throng::backplane", host, port, "connected");
    }

    fn deliver(&mut self, channel: &[u8], payload: &[u8]) {
        let prefix = self.shared.config.prefix.as_bytes();
        let topic = channel.strip_prefix(prefix).and_then(|name| std::str::from_utf8(name).ok());
        let Some(topic) = topic else {
            self.shared.count(|stats| stats.unreadable += 1);
            return;
        };
        let frame = match message::decode(payload) {
            Read::Ours { node, .. } if node == self.shared.node => {
                self.shared.count(|stats| stats.own += 1);
                return;
            }
            Read::Ours { node, number, frame } => {
                if !self.heard.is_new(node, number, now()) {
                    self.shared.count(|stats| stats.repeated += 1);
                    return;
                }
                frame
            }
            Read::Foreign(frame) => frame,
            Read::Unreadable => {
                self.shared.count(|stats| stats.unreadable += 1);
                return;
            }
        };
        let published = self.shared.inbound.deliver(topic, &frame);
        self.shared.count(|stats| {
            stats.received += 1;
            stats.not_taken += u64::from(published.refused);
        });
    }

    /// Encodes commands as long as there is room: changes of topics first, so that who has just
    /// subscribed misses nothing.
    fn fill(&mut self) {
        if self.shared.stats.get().connected == 0 {
            return;
        }
        while self.out.len() < WRITE {
            if !self.enter_again() && !self.change_topics() && !self.publish() {
                break;
            }
        }
    }

    fn enter_again(&mut self) -> bool {
        while let Some(topic) = self.again.pop_front() {
            // It may have been left meanwhile.
            if self.shared.inbound.wants(&topic) {
                self.ask_for(b"SUBSCRIBE", vec![topic]);
                return true;
            }
        }
        false
    }

    fn change_topics(&mut self) -> bool {
        let mut topics: Vec<Arc<str>> = Vec::new();
        let (mut enter, mut denied) = (true, 0);
        {
            let mut changes = self.shared.changes.borrow_mut();
            while topics.len() < TOGETHER
                && let Some((_, wanted)) = changes.list.front()
                && (topics.is_empty() || *wanted == enter)
                && let Some((topic, wanted)) = changes.list.pop_front()
            {
                enter = wanted;
                match self.shared.config.has_channel(&topic) {
                    true => topics.push(topic),
                    false => denied += u64::from(wanted),
                }
            }
            if changes.list.is_empty() {
                changes.list = VecDeque::new();
            }
        }
        self.shared.count(|stats| stats.denied += denied);
        if topics.is_empty() {
            return false;
        }
        self.ask_for(if enter { b"SUBSCRIBE" } else { b"UNSUBSCRIBE" }, topics);
        true
    }

    fn ask_for(&mut self, name: &[u8], topics: Vec<Arc<str>>) {
        let channel = |topic: &Arc<str>| self.shared.config.channel(topic);
        let channels: Vec<_> = topics.iter().map(channel).collect();
        let parts = std::iter::once(name).chain(channels.iter().map(|channel| &channel[..]));
        let left = topics.len();
        self.ask(parts, Awaited::Topics(topics, left));
    }

    fn publish(&mut self) -> bool {
        let mut queue = self.shared.queue.borrow_mut();
        let Some(message) = queue.send() else { return false };
        let again = std::mem::replace(&mut message.sent, true);
        let channel = self.shared.config.channel(&message.topic);
        let payload = message.payload.clone();
        drop(queue);
        self.ask([&b"PUBLISH"[..], &channel, &payload], Awaited::Message);
        self.shared.count(|stats| stats.resent += u64::from(again));
        true
    }
}

impl Changes {
    fn is_overrun(&self) -> bool {
        !self.closed && self.list.len() > self.most
    }
}

fn ended() -> Failure {
    Failure::Stream(io::ErrorKind::UnexpectedEof.into())
}
