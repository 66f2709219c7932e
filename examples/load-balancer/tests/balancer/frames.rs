//! HTTP/2 by hand: frames that RFC 9113 forbids end the stream or the connection with the error
//! it names, malformed requests are refused, and no server sees any of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use crate::world::{LB, World, config, connect, read_head, server};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// RFC 9113 7
const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541 6.2.2, without Huffman.
fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A request that is right, with more fields.
fn request(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    [fields(&pseudo), fields(more)].concat()
}

fn get(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", more))
}

/// What ends a case.
#[derive(Debug, PartialEq)]
enum End {
    /// The connection, with this error; or, where the peer is not worth a word, without.
    Connection(u32),
    Stream(u32),
    /// A response, by its first field: `:status` from the static table.
    Response(u8),
    Nothing,
}

impl End {
    /// h2 has one code for what it cannot decode, and ends the connection for some requests: both
    /// are an endpoint's right (RFC 9113 5.4.1, 7).
    fn is_met_by(&self, found: &End) -> bool {
        let general = matches!(self, End::Connection(_) | End::Stream(_));
        found == self || general && *found == End::Connection(PROTOCOL)
    }
}

/// What the balancer does about these frames, sent on a connection that has begun well.
fn outcome(frames: &[u8]) -> End {
    let mut stream: TcpStream = connect(LB);
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
    // A ping behind it all shows that nothing was wrong.
    let _ = stream.write_all(&[&begin, frames, &frame(PING, 0, 0, b"the end.")].concat());
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return End::Nothing;
        }
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; size];
        stream.read_exact(&mut payload).unwrap();
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            GOAWAY if code(4) != 0 => return End::Connection(code(4)),
            RST_STREAM => return End::Stream(code(0)),
            HEADERS => return End::Response(payload[0]),
            _ => {}
        }
    }
}

#[test]
fn what_http2_forbids_is_refused_and_reaches_no_server() {
    let Some(mut world) = World::new() else { return };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    server(9001, move |mut stream| {
        while let head = read_head(&mut stream)
            && !head.is_empty()
        {
            log.lock().unwrap().push(head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    world.balancer(&config(&[9001], ""));
    let bad = |more: &[(&str, &str)]| get(1, more);
    let raw = |list: &[(&str, &str)]| frame(HEADERS, 5, 1, &fields(list));
    let post = |length: &str, flags: u8, body: &[u8]| {
        let head = frame(HEADERS, END_HEADERS, 1, &request("POST", &[("content-length", length)]));
        [head, frame(DATA, flags, 1, body)].concat()
    };
    let (method, scheme) = ((":method", "GET"), (":scheme", "http"));
    let (path, authority) = ((":path", "/"), (":authority", "a"));
    let (connection, stream) = (End::Connection, End::Stream);
    let cases: Vec<(&str, Vec<u8>, End)> = vec![
        // Frames (4, 5.1, 6).
        ("4.2 a frame too large", frame(DATA, 0, 1, &[0; 16_385]), connection(SIZE)),
        (
            "4.3 a header block that is no HPACK",
            frame(HEADERS, 5, 1, &[0xff; 20]),
            connection(COMPRESSION),
        ),
        ("5.1 DATA on an idle stream", frame(DATA, 0, 1, b"x"), connection(PROTOCOL)),
        (
            "5.1 RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            connection(PROTOCOL),
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            connection(PROTOCOL),
        ),
        ("5.1.1 a stream of an even number", get(2, &[]), connection(PROTOCOL)),
        ("6.1 DATA on stream 0", frame(DATA, 0, 0, b"x"), connection(PROTOCOL)),
        (
            "6.2 HEADERS on stream 0",
            frame(HEADERS, 5, 0, &request("GET", &[])),
            connection(PROTOCOL),
        ),
        (
            "6.2 more padding than frame",
            frame(HEADERS, 5 | PADDED, 1, &[9, 0]),
            connection(PROTOCOL),
        ),
        ("6.3 PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), connection(PROTOCOL)),
        ("6.4 RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), connection(PROTOCOL)),
        ("6.4 a short RST_STREAM", frame(RST_STREAM, 0, 1, &[0; 3]), connection(SIZE)),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), connection(PROTOCOL)),
        ("6.5 an acknowledgement with settings", frame(SETTINGS, 1, 0, &[0; 6]), connection(SIZE)),
        ("6.5 half a setting", frame(SETTINGS, 0, 0, &[0; 5]), connection(SIZE)),
        ("6.5.2 push of 2", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), connection(PROTOCOL)),
        (
            "6.5.2 a window too large",
            frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            connection(FLOW),
        ),
        (
            "6.5.2 a frame size too small",
            frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
            connection(PROTOCOL),
        ),
        (
            "6.6 PUSH_PROMISE of a client",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            connection(PROTOCOL),
        ),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), connection(PROTOCOL)),
        ("6.7 a short PING", frame(PING, 0, 0, &[0; 7]), connection(SIZE)),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), connection(PROTOCOL)),
        ("6.9 a window update of 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), connection(PROTOCOL)),
        (
            "6.9.1 a window beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            connection(FLOW),
        ),
        (
            "6.10 CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            connection(PROTOCOL),
        ),
        (
            "6.10 another frame within a header block",
            [frame(HEADERS, END_STREAM, 1, &request("GET", &[])), frame(PING, 0, 0, &[0; 8])]
                .concat(),
            connection(PROTOCOL),
        ),
        // Requests (8).
        ("8.1.1 more than the length", post("1", END_STREAM, b"abc"), stream(PROTOCOL)),
        ("8.1.1 less than the length", post("9", END_STREAM, b"abc"), stream(PROTOCOL)),
        ("8.1.1 a length and no body", bad(&[("content-length", "9")]), stream(PROTOCOL)),
        ("8.2.1 a name with a capital", bad(&[("X-a", "b")]), stream(PROTOCOL)),
        ("8.2.1 a name with a space", bad(&[("x a", "b")]), stream(PROTOCOL)),
        ("8.2.1 a name with a colon", bad(&[("x:a", "b")]), stream(PROTOCOL)),
        ("8.2.1 a value with a newline", bad(&[("x", "a\r\ny: z")]), stream(PROTOCOL)),
        ("8.2.1 a value with a NUL", bad(&[("x", "a\0b")]), stream(PROTOCOL)),
        ("8.2.2 connection", bad(&[("connection", "x")]), stream(PROTOCOL)),
        ("8.2.2 transfer-encoding", bad(&[("transfer-encoding", "chunked")]), stream(PROTOCOL)),
        ("8.2.2 upgrade", bad(&[("upgrade", "websocket")]), stream(PROTOCOL)),
        ("8.2.2 te", bad(&[("te", "gzip")]), stream(PROTOCOL)),
        ("8.3 an unknown pseudo field", bad(&[(":x", "y")]), stream(PROTOCOL)),
        ("8.3 a response's pseudo field", bad(&[(":status", "200")]), stream(PROTOCOL)),
        (
            "8.3 a pseudo field behind others",
            raw(&[method, scheme, authority, ("x", "y"), path]),
            stream(PROTOCOL),
        ),
        ("8.3.1 two paths", raw(&[method, scheme, path, authority, path]), stream(PROTOCOL)),
        ("8.3.1 no path", raw(&[method, scheme, authority]), stream(PROTOCOL)),
        ("8.3.1 no scheme", raw(&[method, path, authority]), stream(PROTOCOL)),
        ("8.3.1 no method", raw(&[scheme, path, authority]), stream(PROTOCOL)),
        ("8.3.1 an empty path", raw(&[method, scheme, (":path", ""), authority]), stream(PROTOCOL)),
        (
            "8.3.1 a path with a newline",
            raw(&[method, scheme, (":path", "/\r\nx: y"), authority]),
            stream(PROTOCOL),
        ),
        (
            "8.3.1 a method with a space",
            raw(&[(":method", "GET /x HTTP/1.1"), scheme, path, authority]),
            stream(PROTOCOL),
        ),
        (
            "8.3.1 an authority with a newline",
            raw(&[method, scheme, path, (":authority", "a\r\nx: y")]),
            stream(PROTOCOL),
        ),
    ];
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(what, frames, wanted)| {
            let found = outcome(&frames);
            (!wanted.is_met_by(&found)).then(|| format!("{what}: {found:?}, not {wanted:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Streams that are over (5.1), and requests that the balancer itself refuses with 400.
    let over = [get(1, &[("te", "trailers")]), frame(DATA, END_STREAM, 1, b"x")].concat();
    let found = outcome(&over);
    let ended = [End::Connection(CLOSED), End::Stream(CLOSED)];
    assert!(ended.iter().any(|end| end.is_met_by(&found)), "{found:?}");
    const BAD_REQUEST: u8 = 0x8c;
    for refused in [bad(&[("host", "b")]), bad(&[("host", "a"), ("host", "a")])] {
        assert_eq!(outcome(&refused), End::Response(BAD_REQUEST));
    }
    let seen = seen.lock().unwrap();
    let whole = seen.iter().filter(|head| !head.contains("te: trailers"));
    let whole: Vec<_> = whole.filter(|head| !head.starts_with("POST")).collect();
    assert_eq!(whole, Vec::<&String>::new());
}
