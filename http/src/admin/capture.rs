//! `/capture`: captures of live shards, for who has the token.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use throng_net::ShardId;
use throng_net::pcap::{Capture, Filter, Options, start};

use super::{Answer, failure, invalid, reply};

/// Longest body of a request.
const MAX_BODY: usize = 4 << 10;

/// Where captures go, who may begin one, and the one there is.
pub(super) struct Captures {
    folder: PathBuf,
    token: String,
    present: RefCell<Option<(String, Capture)>>,
    /// One is being begun.
    beginning: Cell<bool>,
}

impl fmt::Debug for Captures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captures").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What to capture. What is left out is as in [`Options`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Name of the file, in the configured folder.
    file: String,
    /// Left out: all.
    #[serde(default)]
    shards: Vec<u16>,
    filter: Option<String>,
    bytes: Option<u64>,
    packets: Option<u64>,
    snaplen: Option<u32>,
    seconds: Option<u64>,
}

impl Captures {
    pub(super) fn new(folder: PathBuf, token: &str) -> io::Result<Captures> {
        if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("the token for captures has 16 visible ASCII characters or more"));
        }
        if !folder.is_dir() {
            return Err(invalid(format!("{} is not a folder for captures", folder.display())));
        }
        Ok(Captures {
            folder,
            token: token.to_owned(),
            present: RefCell::new(None),
            beginning: Cell::new(false),
        })
    }

    /// Whether the request has the token (RFC 6750 2.1).
    fn is_authorized(&self, request: &Request<Incoming>) -> bool {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.as_bytes().split_at_checked(7));
        let Some((scheme, token)) = given else { return false };
        let ours = self.token.as_bytes();
        // All bytes are compared, wherever the first difference is.
        let differs = ours.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b));
        scheme.eq_ignore_ascii_case(b"bearer ") && ours.len() == token.len() && differs == 0
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !self.is_authorized(&request) {
            let mut answer = failure(StatusCode::UNAUTHORIZED, "captures need the bearer token");
            let challenge = header::HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return answer;
        }
        match *request.method() {
            Method::POST => self.begin(request).await,
            Method::DELETE => self.end().await,
            _ => match &*self.present.borrow() {
                Some((file, capture)) => reply(StatusCode::OK, &describe(file, capture)),
                None => failure(StatusCode::NOT_FOUND, "there is no capture"),
            },
        }
    }

    async fn begin(&self, request: Request<Incoming>) -> Answer {
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return failure(StatusCode::PAYLOAD_TOO_LARGE, error),
        };
        let order = match serde_json::from_slice::<Order>(&body) {
            Ok(order) => order,
            Err(error) => return failure(StatusCode::BAD_REQUEST, error),
        };
        let order = match order.understand() {
            Ok(order) => order,
            Err(error) => return failure(StatusCode::BAD_REQUEST, error),
        };
        let (file, shards, options) = order;
        // One that has ended makes room; one under way is refused by its shards, too, but
        // they need not be the same.
        let running = |(_, capture): &(String, Capture)| capture.status().end.is_none();
        if self.beginning.get() || self.present.borrow().as_ref().is_some_and(running) {
            return failure(StatusCode::CONFLICT, "there is a capture already");
        }
        let beginning = Beginning::new(&self.beginning);
        let begun = start(&shards, self.folder.join(&file), options).await;
        drop(beginning);
        match begun {
            Ok(capture) => {
                tracing::info!(file, "capture begun");
                let answer = reply(StatusCode::CREATED, &describe(&file, &capture));
                *self.present.borrow_mut() = Some((file, capture));
                answer
            }
            Err(error) => {
                let status = match error.kind() {
                    io::ErrorKind::AlreadyExists => StatusCode::CONFLICT,
                    io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
                    io::ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
                    io::ErrorKind::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                failure(status, error)
            }
        }
    }

    async fn end(&self) -> Answer {
        let Some((file, capture)) = self.present.borrow_mut().take() else {
            return failure(StatusCode::NOT_FOUND, "there is no capture");
        };
        capture.stop().await;
        tracing::info!(file, "capture ended");
        reply(StatusCode::OK, &describe(&file, &capture))
    }
}

/// A capture being begun, also where nobody waits for the answer any more.
struct Beginning<'a>(&'a Cell<bool>);

impl<'a> Beginning<'a> {
    fn new(flag: &'a Cell<bool>) -> Beginning<'a> {
        flag.set(true);
        Beginning(flag)
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Order {
    fn understand(self) -> io::Result<(String, Vec<ShardId>, Options)> {
        // No way out of the folder, and nothing hidden.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let file = self.file;
        if file.is_empty() || file.len() > 100 || file.starts_with('.') || !file.bytes().all(plain)
        {
            let text = "a name of at most 100 letters, digits, `-`, `_` and `.`, not first";
            return Err(invalid(format!("file = {file:?}: accepted is {text}")));
        }
        let mut options = Options::default();
        if let Some(text) = self.filter.filter(|text| !text.trim().is_empty()) {
            options.filter = Some(text.parse::<Filter>()?);
        }
        options.bytes = self.bytes.unwrap_or(options.bytes);
        options.packets = self.packets.unwrap_or(options.packets);
        options.snaplen = self.snaplen.unwrap_or(options.snaplen);
        options.duration = self.seconds.map_or(options.duration, Duration::from_secs);
        Ok((file, self.shards.into_iter().map(ShardId).collect(), options))
    }
}

fn describe(file: &str, capture: &Capture) -> Value {
    let status = capture.status();
    json!({
        "file": file,
        "end": status.end.map(|end| format!("{end:?}")),
        "packets": status.packets,
        "bytes": status.bytes,
        "missed": status.missed,
    })
}
