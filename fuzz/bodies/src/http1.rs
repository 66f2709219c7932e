//! HTTP/1 requests at a server, one behind the other: sound ones, ones that two recipients could
//! read in two ways, and anything, in any pieces. The service sees the sound ones, whole and in
//! order, and never what a request hides for another recipient to find: it is answered with 400,
//! and nothing is read behind it. Cuts, and parking between requests, change nothing.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use throng_http::{Body, BoxError, RequestBody, Server};

use crate::draw::Draw;
use crate::support::listener::listen;
use crate::support::{Pace, run as in_a_world, send_in_pieces, spawn};
use crate::trace;

/// Most requests of a run.
const REQUESTS: u32 = 8;
/// What no service may see.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";

/// Field lines that mean nothing for the framing, though they begin as if they did.
const HARMLESS: &[&str] = &[
    "",
    "cookie: content-length: 1\r\n",
    "content-lengths: 3\r\nte: trailers\r\n",
    "x-transfer-encoding: chunked\r\nx-content-length: 9\r\n",
    "transfer: encoding\r\nt: 1\r\nc: 2\r\ncontent: length\r\n",
    "a:\r\nempty: \t \r\n",
];

/// Framings of a request that are none, or two.
const FALSE_FRAMINGS: &[&str] = &[
    "content-length: 4\r\ntransfer-encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "content-length: 4\r\ncontent-length: 4\r\n",
    "content-length: 4\r\ncontent-length: 40\r\n",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\nTRANSFER-ENCODING: identity\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding: chunked, identity\r\n",
    "transfer-encoding : chunked\r\n",
    "transfer-encoding:\r\n chunked\r\n",
    "content-length: +4\r\n",
    "content-length: 4, 4\r\n",
    "content-length: 0x4\r\n",
    "content-length: 99999999999999999999\r\n",
    "content-length: 4\n",
    "x: 1\ncontent-length: 4\r\n",
    "content-length : 4\r\n",
    "\0: 1\r\n",
];

/// A request as a service sees it.
type Seen = (String, Vec<u8>);

/// Runs one input.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data, REQUESTS);
    let mut bytes = Vec::new();
    let mut sound: Vec<Seen> = Vec::new();
    let mut end = End::Sound;
    while end == End::Sound && draw.another() {
        let path = format!("/{}", sound.len());
        match draw.below(16) {
            0..12 => {
                let (body, closes) = sound_request(&mut draw, &path, &mut bytes);
                sound.push((path, body));
                if closes {
                    end = End::Closed;
                }
            }
            12..15 => {
                false_request(&mut draw, &mut bytes);
                end = End::False;
            }
            _ => {
                bytes.extend_from_slice(draw.bytes(30));
                end = End::Anything;
            }
        }
    }
    if end != End::Sound {
        bytes.extend_from_slice(HIDDEN.as_bytes());
    }
    let mut cuts: Vec<usize> =
        (0..draw.below(12)).map(|_| draw.below(bytes.len() as u32 + 1) as usize).collect();
    cuts.sort_unstable();
    let slow = draw.one_in(4);
    let pace = if slow { Pace { chunk: 97, stutter: true } } else { Pace::FAST };
    trace(|| format!("{}\n{cuts:?} {end:?}", bytes.escape_ascii()));

    let (seen, answers) = serve::<Body>(bytes.clone(), cuts.clone(), pace, true);
    // What is answered without hyper is what hyper answers.
    let hypers = serve::<Incoming>(bytes.clone(), cuts, pace, true);
    assert!(hypers.0 == seen, "the service saw other requests than hyper has");
    let texts = [&hypers.1, &answers].map(|bytes| bytes.escape_ascii().to_string());
    assert_eq!(texts[1], texts[0], "without hyper, with it");
    if end == End::Anything {
        // What it means is hyper's to say; how it came must not change that.
        let (whole, _) = serve::<Incoming>(bytes, Vec::new(), Pace::FAST, false);
        assert!(seen == whole, "cut, and in one piece");
        assert!(seen.starts_with(&sound), "what went before");
        return;
    }
    let brief = |seen: &[Seen]| -> Vec<_> {
        seen.iter().map(|(path, body)| (path.clone(), body.len())).collect()
    };
    assert!(
        seen == sound,
        "the service saw {:?} of {:?}; answered: {}",
        brief(&seen),
        brief(&sound),
        answers.escape_ascii()
    );
    let statuses = statuses(&answers);
    let (refused, answered) = match statuses.split_last() {
        Some((last, before)) if end == End::False => (Some(*last), before),
        _ => (None, &statuses[..]),
    };
    assert_eq!(refused, (end == End::False).then_some(400), "{}", answers.escape_ascii());
    assert_eq!(answered, vec![200; sound.len()]);
}

/// How what is sent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the last request.
    Sound,
    /// With a request that asked for the connection's end.
    Closed,
    /// With one that is to be refused.
    False,
    Anything,
}

/// Appends a request whose meaning is clear; returns its body, and whether it is the last.
fn sound_request(draw: &mut Draw<'_>, path: &str, to: &mut Vec<u8>) -> (Vec<u8>, bool) {
    if draw.one_in(8) {
        // RFC 9112 2.2: at least one empty line in front is to be ignored.
        to.extend(b"\r\n");
    }
    let closes = draw.one_in(12);
    let close = if closes { "Connection: close\r\n" } else { "" };
    let harmless = draw.of(HARMLESS);
    let padding = "p".repeat(if draw.one_in(6) { draw.below(3_000) as usize } else { 0 });
    let fields = format!("host: x\r\n{harmless}{close}x: {padding}\r\n");
    let kind = draw.below(3);
    if kind == 0 {
        to.extend(format!("GET {path} HTTP/1.1\r\n{fields}\r\n").bytes());
        return (Vec::new(), closes);
    }
    let body = match draw.below(4) {
        0 => HIDDEN.as_bytes().to_vec(),
        1 => vec![b'\n'; draw.below(9_000) as usize],
        _ => draw.bytes(60).to_vec(),
    };
    if kind == 1 {
        let zeros = "0".repeat(draw.below(3) as usize);
        let length = format!("Content-Length: {zeros}{}\r\n", body.len());
        to.extend(format!("POST {path} HTTP/1.1\r\n{length}{fields}\r\n").bytes());
        to.extend(&body);
        return (body, closes);
    }
    let coding = draw.of(&["transfer-encoding: chunked", "Transfer-Encoding:Chunked"]);
    to.extend(format!("POST {path} HTTP/1.1\r\n{fields}{coding}\r\n\r\n").bytes());
    let mut rest = &body[..];
    while !rest.is_empty() {
        let n = 1 + draw.below(rest.len() as u32) as usize;
        let extension = draw.of(&["", ";a", ";a=b;c=0", ";0"]);
        let size = if draw.one_in(3) { format!("{n:04X}") } else { format!("{n:x}") };
        to.extend(format!("{size}{extension}\r\n").bytes());
        to.extend(&rest[..n]);
        to.extend(b"\r\n");
        rest = &rest[n..];
    }
    let trailers = draw.of(&["", "a: b\r\n", "c: d\r\nt: e\r\n"]);
    to.extend(format!("0\r\n{trailers}\r\n").bytes());
    (body, closes)
}

/// Appends a request that is to be refused, and what it may hide.
fn false_request(draw: &mut Draw<'_>, to: &mut Vec<u8>) {
    let (before, after) = (draw.of(HARMLESS), draw.of(HARMLESS));
    let (framing, version) = match draw.below(6) {
        // A coding that such a recipient does not know (RFC 9112 6.1).
        0 => ("transfer-encoding: chunked\r\n", "1.0"),
        _ => (draw.of(FALSE_FRAMINGS), "1.1"),
    };
    let head = format!("POST /hidden HTTP/{version}\r\nhost: x\r\n{before}{framing}{after}\r\n");
    to.extend(head.bytes());
    to.extend(draw.of(&["0\r\n\r\n", "4\r\nabcd\r\n0\r\n\r\n", "abcd", ""]).bytes());
}

/// What a server makes of `bytes`, sent in these pieces, and then the end: what its service has seen
/// whole, and all that it answered.
fn serve<In: Asked>(
    bytes: Vec<u8>,
    cuts: Vec<usize>,
    pace: Pace,
    park: bool,
) -> (Vec<Seen>, Vec<u8>) {
    in_a_world(async move {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (dialer, listener) = listen();
        let server = Server::new().park(park).date_header(false).start();
        let (running, notes) = (server.clone(), seen.clone());
        spawn(async move {
            let service =
                throng_http::service_fn(move |request: Request<In>| note(request, notes.clone()));
            running.serve(listener, service).await;
        });
        let (mut reader, mut writer) = dialer.connect_at(1 << 16, pace).split();
        spawn(async move {
            send_in_pieces(&mut writer, &bytes, &cuts).await;
            // Whoever ends while an answer is due is gone, says hyper.
            throng_runtime::sleep(Duration::from_secs(5)).await;
            let _ = writer.close().await;
        });
        let mut answers = Vec::new();
        let _ = reader.read_to_end(&mut answers).await;
        throng_runtime::sleep(Duration::from_secs(70)).await;
        assert_eq!(server.connections(), 0, "everybody has left");
        (seen.take(), answers)
    })
}

/// What the service may be asked with.
trait Asked: RequestBody + hyper::body::Body<Data = Bytes, Error = hyper::Error> + Unpin {}
impl Asked for Body {}
impl Asked for Incoming {}

/// The service: writes down what came whole.
async fn note<In: Asked>(
    request: Request<In>,
    seen: Rc<RefCell<Vec<Seen>>>,
) -> Result<Response<String>, BoxError> {
    let (parts, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.inspect_err(|error| {
            trace(|| format!("{} after {} bytes: {error:?}", parts.uri, bytes.len()));
        })?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    seen.borrow_mut().push((parts.uri.path().to_owned(), bytes));
    Ok(Response::new("seen".to_owned()))
}

/// The status of each response. No body of ours looks like one.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    let lines = text.split("HTTP/1.").skip(1);
    lines.map(|line| line.get(2..5).and_then(|code| code.parse().ok()).unwrap_or(0)).collect()
}
