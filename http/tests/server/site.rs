//! A service to ask, a client that writes HTTP/1 by hand.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use throng_http::{BoxError, RequestBody, Running, Server};

use crate::support::listener::{Dialer, listen};
use crate::support::{End, spawn};

pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Starts a server of [`site`].
pub(crate) fn serve_site(settings: Server) -> (Dialer, Running) {
    let (dialer, listener) = listen();
    let server = settings.start();
    let running = server.clone();
    spawn(async move {
        running.serve(listener, throng_http::service_fn(site)).await;
    });
    (dialer, server)
}

/// The same, where hyper is to do everything.
pub(crate) fn serve_site_by_hyper(settings: Server) -> (Dialer, Running) {
    let (dialer, listener) = listen();
    let server = settings.start();
    let running = server.clone();
    spawn(async move {
        let site = |request: Request<Incoming>| site(request.map(RequestBody::from_incoming));
        running.serve(listener, throng_http::service_fn(site)).await;
    });
    (dialer, server)
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The bytes every large body consists of, from `offset` on.
pub(crate) fn pattern(offset: usize, len: usize) -> Bytes {
    (offset..offset + len).map(|i| (i % 251) as u8).collect::<Vec<_>>().into()
}

thread_local! {
    /// Bytes that `/later` has read, once it has read them all.
    pub(crate) static READ_LATER: Cell<Option<usize>> = const { Cell::new(None) };
}

pub(crate) async fn site(request: Request<throng_http::Body>) -> Result<Response<Body>, BoxError> {
    let (parts, body) = request.into_parts();
    let body = match parts.uri.path() {
        "/hello" => full("hello"),
        "/slow" => {
            throng_runtime::sleep(Duration::from_secs(5)).await;
            full("slow")
        }
        "/echo" => body.map_err(BoxError::from).boxed_unsync(),
        "/count" => {
            let bytes = body.collect().await?.to_bytes();
            assert_eq!(bytes, pattern(0, bytes.len()));
            full(bytes.len().to_string())
        }
        // Longer than any timeout: before the body is looked at, after it, without it.
        "/hold" => {
            throng_runtime::sleep(Duration::from_secs(200)).await;
            full(body.collect().await?.to_bytes())
        }
        "/think" => {
            let bytes = body.collect().await?.to_bytes();
            throng_runtime::sleep(Duration::from_secs(200)).await;
            full(bytes)
        }
        "/ignore" => {
            drop(body);
            throng_runtime::sleep(Duration::from_secs(200)).await;
            full("ignored")
        }
        // Answers at once and reads a frame a second.
        "/later" => {
            spawn(async move {
                let mut body = body;
                let mut read = 0;
                while let Some(frame) = body.frame().await {
                    if let Ok(data) = frame.unwrap().into_data() {
                        assert_eq!(data, pattern(read, data.len()));
                        read += data.len();
                    }
                    throng_runtime::sleep(Duration::from_secs(1)).await;
                }
                READ_LATER.set(Some(read));
            });
            full("later")
        }
        "/early" => full("did not read the body"),
        "/large" => {
            let size = parts.uri.query().and_then(|size| size.parse().ok()).unwrap_or(0);
            let chunks = futures::stream::iter((0..size).step_by(10_000))
                .map(move |offset| Ok(Frame::data(pattern(offset, (size - offset).min(10_000)))));
            StreamBody::new(chunks).boxed_unsync()
        }
        "/panic" => panic!("asked to panic"),
        "/error" => return Err("asked to fail".into()),
        _ => {
            let mut response = Response::new(full("nothing here"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    Ok(Response::new(body))
}

pub(crate) async fn send(end: &mut End, text: &str) {
    end.write_all(text.as_bytes()).await.unwrap();
}

/// A response read by hand.
#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

async fn line(end: &mut End) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        if end.read(&mut byte).await.ok()? == 0 {
            assert!(line.is_empty(), "cut in the middle of a line");
            return None;
        }
        line.push(byte[0]);
    }
    Some(String::from_utf8(line).unwrap())
}

/// Reads one response; `None` when the connection ends instead.
pub(crate) async fn read_reply(end: &mut End) -> Option<Reply> {
    let mut head = line(end).await?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    loop {
        let field = line(end).await.unwrap();
        if field == "\r\n" {
            break;
        }
        head += &field.to_lowercase();
    }
    let mut body = Vec::new();
    if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        body.resize(length.parse().unwrap(), 0);
        end.read_exact(&mut body).await.unwrap();
    } else if head.contains("transfer-encoding: chunked") {
        loop {
            let size = line(end).await.unwrap();
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let start = body.len();
            body.resize(start + size, 0);
            end.read_exact(&mut body[start..]).await.unwrap();
            assert_eq!(line(end).await.unwrap(), "\r\n");
            if size == 0 {
                break;
            }
        }
    }
    Some(Reply { status, head, body })
}

/// One request without a body, on a connection that stays open.
pub(crate) async fn get(end: &mut End, path: &str) -> Option<Reply> {
    send(end, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    read_reply(end).await
}
