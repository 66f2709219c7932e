//! The page's files, and the door to its WebSocket.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::{Request, Response};
use throng::TcpListener;
use throng::http::{Body, Server, guard, service_fn};
use throng::ws::{self, Config};

use super::live::{LONGEST, Live};

type Answer = Response<Full<Bytes>>;

/// Every file: where it is, what it is.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("../../page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("../../page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../../page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
];

/// Connections of browsers, and page sockets among them.
const MOST_CONNECTIONS: usize = 64;
const MOST_SOCKETS: usize = 32;
/// How long a browser may take nothing of what is sent.
const PATIENCE: Duration = Duration::from_secs(20);

/// What all connections share.
pub(super) struct Site {
    live: Rc<Live>,
    config: Rc<Config>,
}

impl Site {
    pub(super) fn new(live: Rc<Live>) -> Site {
        let config = Config::default()
            .max_message_size(LONGEST)
            .max_frame_size(LONGEST)
            .send_timeout(PATIENCE);
        Site { live, config: Rc::new(config) }
    }

    fn answer(&self, request: Request<Body>) -> Answer {
        let mut answer = match guard::host(&request) {
            Ok(host) if request.uri().path() == "/live" => {
                match guard::is_same_origin(&request, &host) {
                    true => self.upgrade(request),
                    false => text(StatusCode::FORBIDDEN, "the socket is for this page only\n"),
                }
            }
            Ok(_) => file(&request),
            Err(status) => text(status, "the host is an address or localhost here\n"),
        };
        guard::confine(&mut answer);
        answer
    }

    fn upgrade(&self, mut request: Request<Body>) -> Answer {
        let Some(seat) = self.live.seat(MOST_SOCKETS) else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many look at this page\n");
        };
        match ws::upgrade_with(&mut request, self.config.clone()) {
            Ok((answer, socket)) => {
                let talking = async move {
                    // One that never comes about leaves its seat.
                    if let Ok(socket) = socket.await {
                        seat.talk(socket).await;
                    }
                };
                throng::spawn_local(talking).detach();
                answer
            }
            Err(error) => ws::refusal(&error),
        }
    }
}

fn file(request: &Request<Body>) -> Answer {
    let found = FILES.iter().find(|(path, ..)| *path == request.uri().path());
    let Some((_, kind, content)) = found else {
        return text(StatusCode::NOT_FOUND, "there is no such page\n");
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this can only be read\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let mut answer = text(StatusCode::OK, content);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// Serves for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, site: Rc<Site>) {
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request)) }
    });
    let server = Server::new()
        .http2(false)
        .max_connections(MOST_CONNECTIONS)
        .max_header_size(8 << 10)
        .header_timeout(Duration::from_secs(5))
        .body_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(30))
        .start();
    server.serve(listener, service).await;
}
