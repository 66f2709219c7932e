//! HTTP/1 as bytes (`throng_http::plain`): heads of requests and responses, and bodies. What is read of a
//! head does not depend on what follows it, nothing is read of less than all of it, and written again it
//! means the same; a body is the same in whatever pieces it comes, and so is what is wrong with it.

use throng_http::plain::{BodyReader, Extent, Fields, Request, Response, Scratch};

use crate::draw::Draw;
use crate::trace;

const STARTS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 404 \r\n",
    "HTTP/1.1 103\r\n",
    "",
];
const LINES: &[&str] = &[
    "host: x\r\n",
    "content-length: 4\r\n",
    "Content-Length:4 , 4\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "connection: keep-alive, close\r\n",
    "x: \t\r\n",
    "x:y z \t\r\n",
    " folded\r\n",
    "\n",
];
const PIECES: &[&str] =
    &["0\r\n\r\n", "4\r\nabcd\r\n", "a;b=c\r\n0123456789\r\n", "0\r\nx: y\r\n\r\n", "\r\n", "f"];

/// Runs one input.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data, 12);
    let mut bytes = draw.of(STARTS).as_bytes().to_vec();
    let mut head = draw.below(6);
    while draw.another() {
        match draw.below(8) {
            0 => bytes.extend_from_slice(draw.bytes(12)),
            _ if head > 0 => bytes.extend(draw.of(LINES).bytes()),
            _ => bytes.extend(draw.of(PIECES).bytes()),
        }
        head = head.saturating_sub(1);
        if head == 1 {
            bytes.extend(b"\r\n");
        }
    }
    trace(|| bytes.escape_ascii().to_string());
    let cuts: Vec<usize> = (0..4).map(|_| 1 + draw.below(20) as usize).collect();
    request(&bytes);
    let ends = response(&bytes);
    let extents = [Extent::Chunked, Extent::Length(draw.below(40).into()), Extent::UntilEnd];
    for (at, extent) in ends.into_iter().chain(extents.map(|extent| (0, extent))) {
        let whole = body(extent, &bytes[at..], &[usize::MAX]);
        assert_eq!(body(extent, &bytes[at..], &cuts), whole, "{extent:?} by {cuts:?}");
    }
}

/// Names and values.
fn lines(fields: &Fields<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// A head of these fields, as they are written.
fn written(start: &str, fields: &Fields<'_>) -> Vec<u8> {
    let mut out = start.as_bytes().to_vec();
    fields.write(&mut out);
    out.extend(b"\r\n");
    out
}

fn request(bytes: &[u8]) {
    let (mut scratch, mut other) = (Scratch::default(), Scratch::default());
    let Some(request) = Request::parse(bytes, 100, &mut scratch) else { return };
    assert!(Request::parse(&bytes[..request.size], 100, &mut other).is_some());
    assert!(Request::parse(&bytes[..request.size - 1], 100, &mut other).is_none());
    let start = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    let again = written(&start, &request.fields);
    let again = Request::parse(&again, 100, &mut other).expect("plain as it was");
    assert_eq!(lines(&again.fields), lines(&request.fields));
    assert_eq!((again.length, again.close), (request.length, request.close));
    assert_eq!((again.host(), again.path()), (request.host(), request.path()));
}

/// Where a response's body begins, and how it ends.
fn response(bytes: &[u8]) -> Option<(usize, Extent)> {
    let (mut scratch, mut other) = (Scratch::default(), Scratch::default());
    let response = Response::parse(bytes, &mut scratch).ok()??;
    assert!(matches!(Response::parse(&bytes[..response.size], &mut other), Ok(Some(_))));
    assert!(!matches!(Response::parse(&bytes[..response.size - 1], &mut other), Ok(Some(_))));
    let start = format!("{:?} {} x\r\n", response.version, response.status.as_str());
    let again = written(&start, &response.fields);
    let again = Response::parse(&again, &mut other).expect("a head").expect("whole");
    assert_eq!(lines(&again.fields), lines(&response.fields));
    assert_eq!((again.extent(false), again.keeps()), (response.extent(false), response.keeps()));
    assert_eq!(response.extent(true), Ok(Extent::Empty));
    Some((response.size, response.extent(false).ok()?))
}

/// A body's data, how many bytes it had, and whether it has ended or failed.
fn body(extent: Extent, bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, usize, bool, bool) {
    let (mut reader, mut data, mut at) = (BodyReader::new(extent), Vec::new(), 0usize);
    for size in pieces.iter().cycle() {
        let end = at.saturating_add(*size).min(bytes.len());
        while at < end && !reader.is_end() {
            let Ok(piece) = reader.next(&bytes[at..end]) else {
                // How much was looked at before it failed depends on the pieces.
                return (data, 0, false, true);
            };
            assert!(piece.taken > 0 && piece.data.end <= piece.taken);
            data.extend_from_slice(&bytes[at..end][piece.data]);
            at += piece.taken;
        }
        if at == bytes.len() || reader.is_end() {
            break;
        }
    }
    (data, at, reader.is_end(), false)
}
