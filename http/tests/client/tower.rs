//! The bridges to tower: a service with layers behind the server, the client as a service.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{LocalBoxFuture, join_all};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response, StatusCode};
use throng_http::client::{Client, ErrorKind, HttpVersion};
use throng_http::tower::{ClientService, TimeoutLayer, client, service};
use throng_http::{Body, Server};
use throng_net::TcpListener;
use throng_runtime::now;
use tower_layer::Layer;
use tower_service::Service;

use crate::world::{SECOND, assert_passed, pause, spawn, world};

type Reply = Response<Full<Bytes>>;

/// Takes one request at a time, and for it as many seconds as the path says.
#[derive(Clone)]
struct OneByOne {
    shared: Rc<Shared>,
    /// This clone has been told that it may call.
    ready: bool,
}

#[derive(Default)]
struct Shared {
    busy: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Calls that did not come to an end.
    dropped: Rc<Cell<u32>>,
}

/// Makes room for the next call when it is dropped.
struct Call {
    shared: Rc<Shared>,
    ended: bool,
}

impl Call {
    async fn run(mut self, time: Duration) {
        pause(time).await;
        self.ended = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.busy.set(false);
        shared.dropped.set(shared.dropped.get() + u32::from(!self.ended));
        shared.waiting.take().into_iter().for_each(Waker::wake);
    }
}

impl Service<Request<Body>> for OneByOne {
    type Response = Reply;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Reply, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.shared.busy.get() {
            self.shared.waiting.borrow_mut().push(cx.waker().clone());
            return Poll::Pending;
        }
        self.shared.busy.set(true);
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        let seconds = request.uri().path()[1..].parse().expect("a number");
        let call = Call { shared: self.shared.clone(), ended: false };
        Box::pin(async move {
            call.run(Duration::from_secs(seconds)).await;
            Ok(Response::new(Full::from("done")))
        })
    }
}

fn serve(dropped: Rc<Cell<u32>>) {
    let listener = TcpListener::bind("0.0.0.0:80".parse().unwrap()).unwrap();
    let shared = Shared { dropped, ..Shared::default() };
    let one = OneByOne { shared: Rc::new(shared), ready: false };
    let timeout = TimeoutLayer::new(3 * SECOND).status(StatusCode::SERVICE_UNAVAILABLE);
    spawn(async move {
        Server::new().start().serve(listener, service(timeout.layer(one))).await;
    });
}

fn asker(version: HttpVersion) -> ClientService {
    client(Client::builder().version(version).build())
}

async fn ask(mut client: ClientService, path: &str) -> (StatusCode, Bytes) {
    let request = Request::get(format!("http://web.test{path}")).body(Empty::<Bytes>::new());
    let response = client.call(request.unwrap()).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

#[test]
fn a_service_is_called_only_when_it_is_ready() {
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let dropped = Rc::new(Cell::new(0));
        let talk = async move {
            let begin = now();
            let client = asker(version);
            let answers = join_all((0..4).map(|_| ask(client.clone(), "/1"))).await;
            for (status, body) in answers {
                assert_eq!((status, &body[..]), (StatusCode::OK, &b"done"[..]));
            }
            // One after the other, and no wait for the service counts as its time.
            assert_passed(begin, 4 * SECOND);
        };
        world(move || serve(dropped), talk);
    }
}

#[test]
fn a_late_response_is_replaced_and_its_call_dropped() {
    let dropped = Rc::new(Cell::new(0));
    let late = dropped.clone();
    let talk = async move {
        let client = asker(HttpVersion::Http1);
        let begin = now();
        let (status, body) = ask(client.clone(), "/100").await;
        assert_eq!((status, body.len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
        assert_passed(begin, 3 * SECOND);
        assert_eq!(late.get(), 1);
        // The service is free again, and the connection good.
        assert_eq!(ask(client, "/2").await.0, StatusCode::OK);
        assert_passed(begin, 5 * SECOND);
        assert_eq!(late.get(), 1);
    };
    world(move || serve(dropped), talk);
}

#[test]
fn what_tonic_and_axum_ask_to_be_send_is_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let talk = async {
        let mut client = send(asker(HttpVersion::Http1));
        let request = Request::get("http://web.test:81/").body(Empty::<Bytes>::new()).unwrap();
        // Nobody listens there.
        let refused = send(client.call(request)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Connect);
        let request = Request::get("http://web.test/0").body(Empty::<Bytes>::new()).unwrap();
        let response = client.call(request).await.unwrap();
        let body = send(response.into_body()).into_inner();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "done");
    };
    world(|| serve(Rc::default()), talk);
}
