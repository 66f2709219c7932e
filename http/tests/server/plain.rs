//! What is answered without hyper is what hyper would have answered, byte for byte: the same requests in
//! every cut, of the same service, once with hyper's body and once with ours.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::ext::ReasonPhrase;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use throng_http::{Body, BoxError, Counters, RequestBody, Running, Server};

use crate::site::{full, read_reply};
use crate::support::listener::listen;
use crate::support::{End, Pace, run, send_in_pieces, spawn};

type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// A body that says it is longer or shorter than it is, or another thing.
struct Said {
    length: u64,
    frames: Vec<Result<Frame<Bytes>, BoxError>>,
}

impl hyper::body::Body for Said {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready((!self.frames.is_empty()).then(|| self.frames.remove(0)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

fn said(length: u64, frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Answer {
    Said { length, frames }.boxed_unsync()
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// A body of pieces with pauses between them.
fn slowly(pieces: u64) -> impl futures::Stream<Item = Result<Frame<Bytes>, BoxError>> {
    futures::stream::iter(0..pieces).then(|_| async {
        throng_runtime::sleep(Duration::from_secs(1)).await;
        data("piece ")
    })
}

/// As long as it is said to be, but not at once.
struct Paced<S>(S, u64);

impl<S: futures::Stream<Item = Result<Frame<Bytes>, BoxError>> + Unpin> hyper::body::Body
    for Paced<S>
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_next_unpin(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}

/// Answers as its path says; what it has seen of the request is in the answer.
async fn answer<In>(request: Request<In>) -> Result<Response<Answer>, BoxError>
where
    In: RequestBody + hyper::body::Body<Data = Bytes, Error = hyper::Error>,
{
    let (parts, body) = request.into_parts();
    assert!(parts.extensions.is_empty());
    let path = parts.uri.path().to_owned();
    let mut response = Response::new(full("an answer\n"));
    let field = |name: &'static str, value: &'static str| (name, HeaderValue::from_static(value));
    let fields: &[(&str, HeaderValue)] = match &path[1..] {
        "fields" => &[
            field("x-one", "1"),
            field("content-type", "text/plain"),
            field("x-one", "2"),
            field("server", "this"),
            field("x-one", ""),
        ],
        "date" => &[field("date", "yesterday"), field("x-after", "1")],
        "close" => &[field("connection", "close"), field("x-after", "1")],
        "keep" => &[field("connection", "keep-alive")],
        "option" => &[field("connection", "x-one"), field("x-one", "1")],
        "upgraded" => &[field("upgrade", "h2c")],
        "length" => &[field("content-length", "10"), field("x-after", "1")],
        "length-twice" => &[field("content-length", "10"), field("content-length", "10")],
        "chunked" => &[field("transfer-encoding", "chunked"), field("x-after", "1")],
        "gzip" => &[field("transfer-encoding", "gzip")],
        "trailer" => &[field("trailer", "x-end")],
        _ => &[],
    };
    for (name, value) in fields {
        response.headers_mut().append(*name, value.clone());
    }
    let status = |response: &mut Response<Answer>, code: u16| {
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
    };
    match &path[1..] {
        "seen" => {
            let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
            for (name, value) in &parts.headers {
                text += &format!("{name}: {}\n", value.as_bytes().escape_ascii());
            }
            let length = (body.is_end_stream(), body.size_hint().exact());
            let body = body.collect().await?;
            assert!(body.trailers().is_none_or(HeaderMap::is_empty) || length.1.is_none());
            text += &format!("{}", body.to_bytes().escape_ascii());
            *response.body_mut() = full(text);
        }
        "unread" => drop(body),
        "read-pieces" => {
            // In as many as there are; hyper then gets a request whose body was read.
            let body = body.collect().await?.to_bytes();
            let pieces = body.chunks(2).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
            *response.body_mut() = said(body.len() as u64, pieces.collect());
        }
        "late" => {
            throng_runtime::sleep(Duration::from_secs(3)).await;
            *response.body_mut() = full(body.collect().await?.to_bytes());
        }
        "yield" => throng_runtime::yield_now().await,
        "empty" => *response.body_mut() = Empty::new().map_err(never).boxed_unsync(),
        "empty-length" => {
            *response.body_mut() = Empty::new().map_err(never).boxed_unsync();
            response.headers_mut().insert("content-length", HeaderValue::from_static("0"));
        }
        "nothing-said" => *response.body_mut() = said(0, vec![]),
        "large" => *response.body_mut() = full(vec![b'x'; 300_000]),
        "middle" => *response.body_mut() = full(vec![b'x'; 4_097]),
        "pieces" => {
            *response.body_mut() = said(6, vec![data("abc"), data("def")]);
        }
        "short" => *response.body_mut() = said(6, vec![data("abc")]),
        "shortest" => *response.body_mut() = said(6, vec![]),
        "long" => *response.body_mut() = said(3, vec![data("abcdef")]),
        "broken" => *response.body_mut() = said(3, vec![Err("broken".into())]),
        "broken-later" => *response.body_mut() = said(6, vec![data("abc"), Err("x".into())]),
        "hollow" => *response.body_mut() = said(3, vec![data(""), data("abc")]),
        "trailers" => {
            let mut fields = HeaderMap::new();
            fields.insert("x-end", HeaderValue::from_static("1"));
            *response.body_mut() = said(3, vec![data("abc"), Ok(Frame::trailers(fields))]);
        }
        "trailers-only" => {
            let fields = HeaderMap::from_iter([("x-end".parse().unwrap(), "1".parse().unwrap())]);
            *response.body_mut() = said(3, vec![Ok(Frame::trailers(fields)), data("abc")]);
        }
        "stream" => {
            *response.body_mut() = StreamBody::new(slowly(3)).boxed_unsync();
        }
        "paced" => *response.body_mut() = Paced(Box::pin(slowly(3)), 18).boxed_unsync(),
        "reason" => {
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Fine"));
        }
        "old" => *response.version_mut() = Version::HTTP_10,
        "new" => *response.version_mut() = Version::HTTP_2,
        "error" => return Err("asked to fail".into()),
        "error-late" => {
            throng_runtime::sleep(Duration::from_secs(1)).await;
            return Err("asked to fail".into());
        }
        "panic" => panic!("asked to panic"),
        code => {
            if let Ok(code) = code.parse() {
                status(&mut response, code);
            }
        }
    }
    Ok(response)
}

fn never(never: Infallible) -> BoxError {
    match never {}
}

const ANSWERS: &[&str] = &[
    "seen",
    "seen?a=b&c",
    "any/path%20",
    "unread",
    "read-pieces",
    "late",
    "yield",
    "fields",
    "date",
    "close",
    "keep",
    "option",
    "upgraded",
    "length",
    "length-twice",
    "chunked",
    "gzip",
    "trailer",
    "empty",
    "empty-length",
    "nothing-said",
    "large",
    "middle",
    "pieces",
    "short",
    "shortest",
    "long",
    "broken",
    "broken-later",
    "hollow",
    "trailers",
    "trailers-only",
    "stream",
    "paced",
    "reason",
    "old",
    "new",
    "error",
    "error-late",
    "panic",
    "100",
    "103",
    "200",
    "201",
    "204",
    "205",
    "299",
    "301",
    "304",
    "404",
    "500",
    "599",
    "799",
    "999",
];

/// Requests for `PATH`, most of them plain, some not.
const REQUESTS: &[&str] = &[
    "GET PATH HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET PATH HTTP/1.1\r\nHost: a.example:80\r\nX-Some: \t a  b \r\nx-some:\r\ncookie: a=b\r\n\r\n",
    "POST PATH HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabcde",
    "PUT PATH HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nAccept: */*\r\n\r\n",
    "GET PATH HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "GET PATH HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, te\r\nte: trailers\r\n\r\n",
    "HEAD PATH HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET PATH HTTP/1.0\r\nhost: x\r\n\r\n",
    "GET PATH HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n",
    "POST PATH HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST PATH HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nab",
    "OPTIONS PATH HTTP/1.1\r\nhost: x\r\n\r\n",
];

/// `requests` sent in these pieces to a service of requests with this body.
fn talk<In>(requests: &[u8], cuts: &[usize], pace: Pace, settings: Server) -> (String, Counters)
where
    In: RequestBody + hyper::body::Body<Data = Bytes, Error = hyper::Error>,
{
    let (requests, cuts) = (requests.to_vec(), cuts.to_vec());
    run(async move {
        let (dialer, listener) = listen();
        let server = settings.start();
        let running = server.clone();
        spawn(async move {
            running.serve(listener, throng_http::service_fn(answer::<In>)).await;
        });
        let (mut reader, mut writer) = dialer.connect_at(1 << 16, pace).split();
        spawn(async move {
            send_in_pieces(&mut writer, &requests, &cuts).await;
            throng_runtime::sleep(Duration::from_secs(100)).await;
            let _ = writer.close().await;
        });
        let mut answers = Vec::new();
        let _ = reader.read_to_end(&mut answers).await;
        throng_runtime::sleep(Duration::from_secs(100)).await;
        assert_eq!(server.connections(), 0, "everybody has left");
        (answers.escape_ascii().to_string(), server.counters())
    })
}

/// Whether a talk is the same both ways.
fn compare(requests: &[u8], cuts: &[usize], pace: Pace) {
    let settings = || Server::new().date_header(false);
    let (answers, mut counters) = talk::<Body>(requests, cuts, pace, settings());
    let (wanted, wanted_counters) = talk::<Incoming>(requests, cuts, pace, settings());
    let requests = requests.escape_ascii().to_string();
    assert!(
        answers == wanted,
        "{requests:.1000}\n{cuts:?}\n{answers:.2000}\nwanted:\n{wanted:.2000}"
    );
    // Nothing of hyper's is given back where hyper had nothing.
    assert!(counters.parked <= wanted_counters.parked);
    counters.parked = wanted_counters.parked;
    assert_eq!(counters, wanted_counters, "{requests:.1000}");
}

fn request(form: &str, path: &str) -> String {
    form.replace("PATH", &format!("/{path}"))
}

#[test]
fn every_answer_is_as_hyper_has_it() {
    for path in ANSWERS {
        for form in REQUESTS {
            // The second one is answered only where the first one leaves the connection.
            let two = request(form, path) + &request(REQUESTS[0], "seen");
            let first = request(form, path).len();
            compare(two.as_bytes(), &[first], Pace::FAST);
        }
    }
}

#[test]
fn every_cut_of_many_requests_is_answered_alike() {
    let all = REQUESTS.iter().take(5).chain(&REQUESTS[8..10]);
    let some = ["seen", "late", "204", "pieces", "middle", "fields"];
    let texts: Vec<_> =
        all.zip(some.iter().cycle()).map(|(form, path)| request(form, path)).collect();
    // One that asks for the connection's end comes last but for one, which is then not answered.
    let [first, second, third, fourth, last, ..] = &texts[..] else { panic!("too few") };
    let bytes = [&first[..], third, second, fourth, last, first].concat().into_bytes();
    for cut in (0..=bytes.len()).step_by(3) {
        compare(&bytes, &[cut], Pace::FAST);
    }
    for path in ["seen", "late", "error", "middle", "stream"] {
        let bytes = [request(REQUESTS[2], path), request(REQUESTS[0], "seen")].concat();
        compare(bytes.as_bytes(), &[], Pace::SLOW);
        compare(bytes.as_bytes(), &[], Pace { chunk: 97, stutter: true });
        compare(&[bytes.as_bytes(); 30].concat(), &[], Pace::FAST);
    }
}

#[test]
fn plain_answers_need_no_hyper() {
    run(async {
        let (dialer, listener) = listen();
        let server = Server::new().start();
        let running = server.clone();
        spawn(async move {
            running.serve(listener, throng_http::service_fn(answer::<Body>)).await;
        });
        let mut client = dialer.connect();
        let plain = ["seen", "late", "yield", "unread", "fields", "date", "length", "large", "404"];
        for (path, parked) in plain.iter().map(|path| (*path, 0)).chain([("stream", 1)]) {
            for form in [REQUESTS[0], REQUESTS[2]] {
                client.write_all(request(form, path).as_bytes()).await.unwrap();
                let reply = read_reply(&mut client).await.unwrap();
                let date = reply.head.lines().find_map(|line| line.strip_prefix("date: "));
                let date = date.unwrap_or_else(|| panic!("{path} without a date"));
                assert!(
                    date == "yesterday" || date.ends_with(" gmt") && date.len() == 29,
                    "{date}"
                );
            }
            throng_runtime::sleep(Duration::from_millis(1)).await;
            assert_eq!(server.counters().parked, 2 * parked, "{path}");
        }
        assert_eq!(server.counters().requests, 20);
    });
}

#[test]
fn many_requests_at_once_leave_others_their_turn() {
    run(async {
        let (dialer, listener) = listen();
        let turns = Rc::new(Cell::new(0));
        let seen = Rc::new(RefCell::new(HashMap::<u32, u32>::new()));
        let (now, note) = (turns.clone(), seen.clone());
        spawn(async move {
            let service = throng_http::service_fn(move |_: Request<Body>| {
                *note.borrow_mut().entry(now.get()).or_default() += 1;
                async { Ok::<_, Infallible>(Response::new(full("x"))) }
            });
            throng_http::serve(listener, service).await;
        });
        let mut client = dialer.connect_at(1 << 20, Pace::FAST);
        // No read ends within one of them, which would have hyper take over.
        let bytes = "GET /seen HTTP/1.1\r\nhost: xx\r\n\r\n".repeat(2_000);
        assert_eq!(bytes.len(), 2_000 * 32);
        client.write_all(bytes.as_bytes()).await.unwrap();
        while seen.borrow().values().sum::<u32>() < 2_000 {
            turns.set(turns.get() + 1);
            throng_runtime::yield_now().await;
        }
        let most = seen.borrow().values().max().copied();
        assert!(most.is_some_and(|most| most < 200), "{most:?} in one turn");
    });
}

/// What a client sees that does as it likes, and when, and the server's numbers.
async fn seen_by<In, T>(
    settings: Server,
    client: impl AsyncFnOnce(End, Running) -> T,
) -> (T, Counters)
where
    In: RequestBody + hyper::body::Body<Data = Bytes, Error = hyper::Error>,
    T: 'static,
{
    let (dialer, listener) = listen();
    let server = settings.start();
    let running = server.clone();
    spawn(async move {
        running.serve(listener, throng_http::service_fn(answer::<In>)).await;
    });
    let seen = client(dialer.connect(), server.clone()).await;
    throng_runtime::sleep(Duration::from_secs(300)).await;
    assert_eq!(server.connections(), 0, "everybody has left");
    let mut counters = server.counters();
    counters.parked = 0;
    (seen, counters)
}

/// Asserts that a client sees the same both ways, and when.
fn alike<T: PartialEq + std::fmt::Debug + 'static>(
    client: impl AsyncFn(End, Running) -> T + Clone + 'static,
) {
    let (ours, hypers) = (client.clone(), client);
    let settings = || Server::new().date_header(false).body_timeout(Duration::from_secs(20));
    let seen =
        run(seen_by::<Body, _>(settings(), async move |end, server| ours(end, server).await));
    let wanted =
        run(seen_by::<Incoming, _>(settings(), async move |end, server| hypers(end, server).await));
    // The end of it says how it ended.
    let end = |seen: &(T, Counters)| {
        let text = format!("{seen:?}");
        format!("{} bytes: {}", text.len(), &text[text.len().saturating_sub(600)..])
    };
    assert!(seen == wanted, "{}\nwanted:\n{}", end(&seen), end(&wanted));
}

/// What comes until the end, and how many milliseconds that takes.
async fn rest(end: &mut End) -> (String, u128) {
    let begin = throng_runtime::now();
    let mut bytes = Vec::new();
    let _ = end.read_to_end(&mut bytes).await;
    (bytes.escape_ascii().to_string(), (throng_runtime::now() - begin).as_millis())
}

#[test]
fn clients_that_leave_or_stop_are_answered_alike() {
    for path in ["late", "seen", "large", "stream", "error-late"] {
        // Away, its end or a reset, at once or in the middle.
        for (after, how) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)] {
            // hyper does not answer who has ended its side at once, where it sees that first.
            if (after, how) == (0, 2) && !path.contains("late") {
                continue;
            }
            alike(async move |mut end: End, _| {
                end.open_peer(50_000);
                end.write_all(request(REQUESTS[2], path).as_bytes()).await.unwrap();
                throng_runtime::sleep(Duration::from_secs(after)).await;
                match how {
                    0 => return (String::new(), 0),
                    1 => end.reset(),
                    _ => end.close().await.unwrap(),
                }
                // How far an answer gets that is cut is nobody's business.
                let (mut text, time) = rest(&mut end).await;
                text.truncate(40_000);
                (text, time)
            });
        }
    }
    // It takes nothing for so long, or now and then.
    for path in ["large", "seen"] {
        for pause in [10, 19, 21, 100] {
            alike(async move |mut end: End, _| {
                end.open_peer(100);
                end.write_all(request(REQUESTS[0], path).as_bytes()).await.unwrap();
                let mut all = 0;
                for _ in 0..4 {
                    throng_runtime::sleep(Duration::from_secs(pause)).await;
                    let mut some = [0; 100];
                    all += end.read(&mut some).await.unwrap_or(0);
                }
                drop(end);
                all
            });
        }
    }
}

#[test]
fn a_drain_ends_alike() {
    for (path, form) in [("late", 0), ("late", 2), ("late", 4), ("stream", 0), ("large", 0)] {
        for (ask, begin, deadline) in [(0, 1, 10), (1, 0, 10), (0, 1, 1), (2, 1, 10)] {
            alike(async move |mut end: End, server: Running| {
                spawn(async move {
                    throng_runtime::sleep(Duration::from_secs(begin)).await;
                    let drained = server.drain(Duration::from_secs(deadline)).await;
                    assert_eq!(drained.finished + drained.cut, 1);
                });
                throng_runtime::sleep(Duration::from_secs(ask)).await;
                let both = request(REQUESTS[form], path) + &request(REQUESTS[0], "seen");
                let _ = end.write_all(both.as_bytes()).await;
                rest(&mut end).await
            });
        }
    }
}

#[test]
fn limits_are_the_same() {
    let long = format!("GET /seen?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(2_000));
    let many = format!("GET /seen HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(30));
    for bytes in [long, many, request(REQUESTS[0], "seen"), "GET /seen HTTP/1.1\r\nho".to_owned()] {
        let sizes = [bytes.len() - 1, bytes.len(), bytes.len() + 1];
        let limits = sizes.map(|size| (size, 100)).into_iter().chain([(10_000, 30), (10_000, 31)]);
        for (size, fields) in limits {
            let settings = || {
                let server = Server::new().date_header(false);
                server
                    .max_header_size(size)
                    .max_headers(fields)
                    .header_timeout(Duration::from_secs(3))
            };
            let ours = talk::<Body>(bytes.as_bytes(), &[], Pace::FAST, settings());
            let mut hypers = talk::<Incoming>(bytes.as_bytes(), &[], Pace::FAST, settings());
            hypers.1.parked = ours.1.parked;
            assert_eq!(ours, hypers, "{size} {fields}");
        }
    }
}
