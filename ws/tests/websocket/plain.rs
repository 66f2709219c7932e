//! The measure for parking: a plain tungstenite context, kept all the time, over the same bytes.
//! What a socket of ours hands out, how it ends, and every byte it answers must be the same, and
//! come at the same virtual time.
//!
//! The fuzz target `websocket` uses this file too.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::join_all;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, SinkExt, StreamExt};
use throng_ws::{Carrier, CloseCode, CloseFrame, Config, Error, Message, Role, WebSocket, serve};
use tungstenite::Error as Plain;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{WebSocketConfig, WebSocketContext};

use crate::support::{End, Pace, duplex, run};

impl Carrier for End {}

/// A text that has the observed side begin to close.
pub(crate) const CLOSE_NOW: &str = "close now";
/// The oversize that is known before tungstenite knows it, see [`Source::read`].
const OVERSIZE: &str = "1002 Control frame too big (payload must be 125 bytes or less)";

/// How the peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// It shuts its half, after a pause.
    Fin,
    /// It shuts its half right behind the last byte.
    FinAtOnce,
    /// It goes away: reads end, and writes fail.
    Gone,
    /// Both directions fail.
    Reset,
}

/// What the peer does.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Of the side that is observed.
    pub(crate) role: Role,
    pub(crate) bytes: Vec<u8>,
    /// Where a pause is made, ascending.
    pub(crate) cuts: Vec<usize>,
    /// So many of the bytes have come with the handshake.
    pub(crate) early: usize,
    pub(crate) last: Last,
    pub(crate) pace: Pace,
    pub(crate) max_message: usize,
    pub(crate) max_frame: usize,
}

impl Case {
    /// These bytes to a server, without a pause.
    pub(crate) fn new(bytes: Vec<u8>) -> Case {
        Case {
            role: Role::Server,
            bytes,
            cuts: Vec::new(),
            early: 0,
            last: Last::Fin,
            pace: Pace::FAST,
            max_message: 1 << 20,
            max_frame: 1 << 20,
        }
    }

    pub(crate) fn cut(mut self, cuts: &[usize]) -> Case {
        self.cuts = cuts.to_vec();
        self
    }

    pub(crate) fn last(mut self, last: Last) -> Case {
        self.last = last;
        self
    }

    fn config(&self, park: bool) -> Config {
        let config = Config::default().park(park);
        config.max_message_size(self.max_message).max_frame_size(self.max_frame)
    }
}

/// Who is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// tungstenite alone.
    Plain,
    /// Our socket that never parks.
    Unparked,
    /// Our socket, as a stream.
    Stream,
    /// Our socket, waiting for subscriptions too.
    With,
    /// Our socket in a served session.
    Serve,
}

/// All of ours.
pub(crate) const OURS: [Face; 4] = [Face::Unparked, Face::Stream, Face::With, Face::Serve];

/// What happened, with the millisecond at which it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) events: Vec<(u64, String)>,
    /// First byte and payload of each frame sent; what is not whole comes with a first byte 0.
    pub(crate) answers: Vec<(u64, u8, Vec<u8>)>,
}

impl Seen {
    /// The same without the times.
    pub(crate) fn untimed(mut self) -> Seen {
        self.events.iter_mut().for_each(|event| event.0 = 0);
        self.answers.iter_mut().for_each(|answer| answer.0 = 0);
        self
    }
}

/// Asserts that each of our faces does what tungstenite alone does. Returns what that is.
#[track_caller]
pub(crate) fn compare(case: &Case) -> Seen {
    let faces = [[Face::Plain].as_slice(), &OURS].concat();
    let mut seen = observe(&faces, case).into_iter();
    let expected = seen.next().unwrap();
    for (face, seen) in OURS.into_iter().zip(seen) {
        assert_eq!(seen, expected, "{face:?} does something else than tungstenite: {case:?}");
    }
    expected
}

/// Runs each over a pipe in memory.
pub(crate) fn observe(faces: &[Face], case: &Case) -> Vec<Seen> {
    let (faces, case) = (faces.to_vec(), case.clone());
    run(join_all(faces.into_iter().map(move |face| {
        let case = case.clone();
        async move {
            let (peer, end) = duplex(1 << 22, case.pace);
            let log = Log::default();
            let watching = watch(face, end, case.clone(), log.clone());
            let observed = throng_runtime::spawn_local(watching);
            let answers = act(peer, &case).await;
            observed.await.unwrap();
            let events = log.0.borrow().clone();
            Seen { events, answers: frames(case.role, &answers) }
        }
    })))
}

/// The peer: sends what the case says and returns what it got, with the times.
async fn act(mut peer: End, case: &Case) -> Vec<(u64, u8)> {
    // The pace is the observed side's.
    peer.pace = Pace::FAST;
    let mut answers = Vec::new();
    let mut at = case.early;
    let mut pieces = case.cuts.iter().copied().chain([case.bytes.len()]).peekable();
    while let Some(cut) = pieces.next() {
        let piece = &case.bytes[at.min(cut)..cut];
        at = at.max(cut);
        // The observed side may have ended already.
        let _ = peer.write_all(piece).await;
        if pieces.peek().is_none() && case.last == Last::FinAtOnce {
            break;
        }
        throng_runtime::sleep(Duration::from_millis(1)).await;
        take(&mut peer, &mut answers).await;
    }
    match case.last {
        Last::Fin | Last::FinAtOnce => {
            let _ = peer.close().await;
            let mut rest = Vec::new();
            let _ = peer.read_to_end(&mut rest).await;
            answers.extend(rest.into_iter().map(|byte| (millis(), byte)));
        }
        Last::Gone => drop(peer),
        Last::Reset => peer.reset(),
    }
    answers
}

/// Takes what has been answered.
async fn take(peer: &mut End, answers: &mut Vec<(u64, u8)>) {
    let mut waiting = vec![0; peer.unread()];
    if peer.read_exact(&mut waiting).await.is_ok() {
        answers.extend(waiting.into_iter().map(|byte| (millis(), byte)));
    }
}

fn millis() -> u64 {
    throng_runtime::now().as_millis()
}

/// Takes what was sent apart; a client's masking keys are random.
pub(crate) fn frames(role: Role, sent: &[(u64, u8)]) -> Vec<(u64, u8, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut rest = sent;
    while let [(at, first), (_, second), after @ ..] = rest {
        let long = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        assert_eq!(second & 0x80 != 0, role == Role::Client, "who masks is fixed");
        let head = long + if role == Role::Client { 4 } else { 0 };
        if after.len() < head {
            break;
        }
        let len = match long {
            0 => usize::from(second & 0x7f),
            _ => after[..long].iter().fold(0, |len, byte| len << 8 | usize::from(byte.1)),
        };
        let (head, after) = after.split_at(head);
        let key = match role {
            Role::Client => &head[long..],
            Role::Server => &[(0, 0)],
        };
        let whole = after.len() >= len;
        let (payload, after) = after.split_at(len.min(after.len()));
        let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte.1 ^ key.1);
        frames.push((*at, if whole { *first } else { 0 }, payload.collect()));
        rest = after;
    }
    if let Some((at, _)) = rest.first() {
        // Of a header.
        frames.push((*at, 0, vec![0; rest.len()]));
    }
    frames
}

/// What the observed side says.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Rc<RefCell<Vec<(u64, String)>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push((millis(), what.into()));
    }

    fn message(&self, message: &Message) {
        self.note(format!("{message:?}"));
    }

    fn sent(&self, result: Result<(), String>) {
        if let Err(why) = result {
            self.note(format!("send: {why}"));
        }
    }
}

/// Echoes data until the end.
pub(crate) async fn watch<S>(face: Face, io: S, case: Case, log: Log)
where
    S: AsyncRead + AsyncWrite + Carrier + Unpin + 'static,
{
    if face == Face::Plain {
        return watch_plain(io, &case, &log).await;
    }
    let config = case.config(face != Face::Unparked);
    let early = case.bytes[..case.early].to_vec();
    let mut socket = WebSocket::from_stream(io, case.role, config, early);
    if face == Face::Serve {
        let session = log.clone();
        let served =
            serve(async { Ok(socket) }, async move |socket: &mut WebSocket<S>, message| {
                answer(socket, message, &session).await;
                Ok(())
            });
        if let Err(error) = served.await {
            log.note(why(&error));
        }
        return log.note("end");
    }
    loop {
        let item = match face {
            Face::With => socket.next_with(&mut []).await,
            _ => socket.next().await,
        };
        match item {
            Some(Ok(message)) => answer(&mut socket, message, &log).await,
            Some(Err(error)) => log.note(why(&error)),
            None => return log.note("end"),
        }
    }
}

async fn answer<S>(socket: &mut WebSocket<S>, message: Message, log: &Log)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    log.message(&message);
    if message == Message::text(CLOSE_NOW) {
        log.sent(socket.send(Message::Close(Some(away()))).await.map_err(|error| why(&error)));
    } else if message.is_text() || message.is_binary() {
        log.sent(socket.send(message).await.map_err(|error| why(&error)));
    }
}

fn away() -> CloseFrame {
    CloseFrame { code: CloseCode::Away, reason: "bye".into() }
}

/// An error of ours.
fn why(error: &Error) -> String {
    match error {
        Error::Io(error) => format!("io {:?}", error.kind()),
        Error::Protocol(ProtocolError::ControlFrameTooBig) => OVERSIZE.into(),
        Error::Protocol(error) => format!("1002 {error}"),
        Error::Utf8(_) => "1007".into(),
        Error::TooLarge(error) => format!("1009 {error}"),
        Error::ClosedAbnormally => "1006".into(),
        Error::Closed => "closed".into(),
        other => format!("{other:?}"),
    }
}

/// One of tungstenite's, and the code and reason that the peer is to be told.
fn why_plain(error: Plain) -> (String, Option<(CloseCode, &'static str)>) {
    match error {
        Plain::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            (OVERSIZE.into(), Some((CloseCode::Protocol, "protocol error")))
        }
        Plain::Io(error) => (format!("io {:?}", error.kind()), None),
        Plain::Protocol(ProtocolError::ResetWithoutClosingHandshake) => ("1006".into(), None),
        Plain::Protocol(ProtocolError::SendAfterClosing)
        | Plain::ConnectionClosed
        | Plain::AlreadyClosed => ("closed".into(), None),
        Plain::Protocol(error) => {
            (format!("1002 {error}"), Some((CloseCode::Protocol, "protocol error")))
        }
        Plain::Utf8(_) => ("1007".into(), Some((CloseCode::Invalid, "invalid UTF-8"))),
        Plain::Capacity(error) => {
            (format!("1009 {error}"), Some((CloseCode::Size, "message too large")))
        }
        other => (format!("{other:?}"), None),
    }
}

/// tungstenite and nothing else, but for what RFC 6455 7.1.7 and 7.1.1 want at the end: the peer
/// is told of its error, and what it still sends is read away.
async fn watch_plain<S>(io: S, case: &Case, log: &Log)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = WebSocketConfig::default()
        .max_message_size(Some(case.max_message))
        .max_frame_size(Some(case.max_frame));
    let mut context = WebSocketContext::new(case.role, Some(limits));
    let early = case.bytes[..case.early].to_vec();
    let mut source = Source { io, early, left: good(&case.bytes) };
    let mut closing = false;
    let error = loop {
        let read = |io: &mut Lent<'_, '_, S>| match context.read(io) {
            // It does not go on by itself with what a flush could not write.
            Err(error) if would_block(&error) => match context.flush(io) {
                Err(worse) if !would_block(&worse) => Err(worse),
                _ => Err(error),
            },
            result => result,
        };
        let message = match source.call(read).await {
            Ok(message) => message,
            Err(error) => break error,
        };
        log.message(&message);
        closing |= message.is_close();
        let close = message == Message::text(CLOSE_NOW);
        if close || message.is_text() || message.is_binary() {
            let message = if close { Message::Close(Some(away())) } else { message };
            let sent = match context.write(&mut Idle, message) {
                Err(error) if !would_block(&error) => Err(error),
                _ => source.call(|io| context.flush(io)).await,
            };
            match sent {
                Ok(()) | Err(Plain::ConnectionClosed) => {}
                Err(error @ Plain::Protocol(_)) => log.sent(Err(why_plain(error).0)),
                Err(error) => {
                    // Sending has failed: that the stream has not ended in order is all there is.
                    log.sent(Err(why_plain(error).0));
                    if !closing {
                        log.note("1006");
                    }
                    return log.note("end");
                }
            }
        } else if closing {
            // The answer to a close frame goes before all that may follow that.
            let _ = source.call(|io| context.flush(io)).await;
        } else {
            // Another automatic answer leaves at once, as far as it can. An error comes again.
            poll_fn(|cx| {
                let _ = context.flush(&mut Lent { source: &mut source, cx });
                Poll::Ready(())
            })
            .await;
        }
    };
    match error {
        Plain::ConnectionClosed | Plain::AlreadyClosed => {
            let _ = source.io.close().await;
            source.drain().await;
        }
        // What comes behind the closing handshake does not matter.
        _ if closing => {}
        error => {
            let (why, told) = why_plain(error);
            if let Some((code, reason)) = told {
                let frame = CloseFrame { code, reason: reason.into() };
                let written = match context.close(&mut Idle, Some(frame)) {
                    Err(error) if !would_block(&error) => Err(error),
                    _ => source.call(|io| context.flush(io)).await,
                };
                if matches!(written, Ok(()) | Err(Plain::ConnectionClosed))
                    && source.io.close().await.is_ok()
                {
                    source.drain().await;
                }
            }
            log.note(why);
        }
    }
    log.note("end");
}

/// How many bytes come before the last one of the header of an oversize control frame. Such a
/// frame is an error of the peer's as soon as its header is there; tungstenite alone would take
/// its payload first, of whatever size.
fn good(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let (Some(&first), Some(&second)) = (bytes.get(at), bytes.get(at.saturating_add(1))) {
        let long = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let head = 2 + long + if second & 0x80 != 0 { 4 } else { 0 };
        let Some(length) = bytes.get(at + 2..at + 2 + long) else { break };
        let length = match long {
            0 => u64::from(second & 0x7f),
            _ => length.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        };
        if at + head <= bytes.len() && first & 8 != 0 && length > 125 {
            return at + head - 1;
        }
        at = at.saturating_add(head).saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    }
    usize::MAX
}

/// What tungstenite reads from and writes to.
struct Source<S> {
    io: S,
    early: Vec<u8>,
    /// Bytes until the one that makes an oversize control frame certain.
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Source<S> {
    async fn call<T>(
        &mut self,
        mut call: impl FnMut(&mut Lent<'_, '_, S>) -> Result<T, Plain>,
    ) -> Result<T, Plain> {
        poll_fn(|cx| match call(&mut Lent { source: self, cx }) {
            Err(error) if would_block(&error) => Poll::Pending,
            result => Poll::Ready(result),
        })
        .await
    }

    async fn drain(&mut self) {
        let mut buf = [0; 2048];
        while let Ok(1..) = self.io.read(&mut buf).await {}
    }
}

struct Lent<'a, 'c, S> {
    source: &'a mut Source<S>,
    cx: &'a mut Context<'c>,
}

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn would_block(error: &Plain) -> bool {
    matches!(error, Plain::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl<S: AsyncRead + Unpin> io::Read for Lent<'_, '_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let source = &mut *self.source;
        if source.left == 0 {
            // The byte has to come.
            let mut next = [0];
            let read = match source.early.is_empty() {
                true => blocking(Pin::new(&mut source.io).poll_read(self.cx, &mut next))?,
                false => 1,
            };
            return match read {
                0 => Ok(0),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
        let most = buf.len().min(source.left);
        let n = if source.early.is_empty() {
            blocking(Pin::new(&mut source.io).poll_read(self.cx, &mut buf[..most]))?
        } else {
            let n = most.min(source.early.len());
            buf[..n].copy_from_slice(&source.early[..n]);
            source.early.drain(..n);
            n
        };
        source.left -= n;
        Ok(n)
    }
}

impl<S: AsyncWrite + Unpin> io::Write for Lent<'_, '_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut self.source.io).poll_write(self.cx, buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(Pin::new(&mut self.source.io).poll_flush(self.cx))
    }
}

/// Takes nothing: what is written waits in tungstenite's buffer for a flush.
struct Idle;

impl io::Read for Idle {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl io::Write for Idle {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
