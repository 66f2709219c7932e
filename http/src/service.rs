//! A user's service, watched: when requests begin and when their responses have ended.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use pin_project::pin_project;

use crate::activity::Activity;
use crate::framing::Extent;
use crate::shared::Shared;

/// The service of one connection.
pub(crate) struct Tracked<S: Service<Request<Incoming>>> {
    service: Rc<S>,
    activity: Arc<Activity>,
    shared: Rc<Shared>,
    /// What is made of the first request already, which has been counted.
    made: Cell<Option<Box<S::Future>>>,
}

impl<S: Service<Request<Incoming>>> Tracked<S> {
    pub(crate) fn new(
        service: Rc<S>,
        activity: Arc<Activity>,
        shared: Rc<Shared>,
        made: Option<S::Future>,
    ) -> Self {
        Tracked { service, activity, shared, made: Cell::new(made.map(Box::new)) }
    }
}

impl<S, B> Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.begin(extent(request.body()));
        let guard = Some(InFlight(self.activity.clone()));
        if self.shared.settings.strict && self.activity.refuse() {
            // Who is told is the connection's business when it has ended.
            return TrackedFuture { future: None, guard };
        }
        if let Some(made) = self.made.take() {
            return TrackedFuture { future: Some(*made), guard };
        }
        self.shared.count(|counters| counters.requests += 1);
        TrackedFuture { future: Some(self.service.call(request)), guard }
    }
}

/// How a request's body ends: of HTTP/1, a length it announces is exact.
fn extent(body: &Incoming) -> Extent {
    match (body.is_end_stream(), body.size_hint().exact()) {
        (true, _) => Extent::Empty,
        (false, Some(length)) => Extent::Length(length),
        (false, None) => Extent::Chunked,
    }
}

/// One request under way; dropped when its response has been produced or given up.
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[pin_project]
pub(crate) struct TrackedFuture<F> {
    /// None for a request that no service sees.
    #[pin]
    future: Option<F>,
    guard: Option<InFlight>,
}

impl<F, B, E> Future for TrackedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<TrackedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else {
            let mut response = Response::new(TrackedBody { body: None, guard: this.guard.take() });
            *response.status_mut() = StatusCode::BAD_REQUEST;
            close_after(&mut response);
            return Poll::Ready(Ok(response));
        };
        let result = ready!(future.poll(cx));
        let guard = this.guard.take();
        let is_last = guard.as_ref().is_some_and(|guard| guard.0.is_last());
        Poll::Ready(result.map(|mut response| {
            // Not of one that switches protocols, which has another use for the field.
            if is_last && !response.status().is_informational() {
                close_after(&mut response);
            }
            response.map(|body| TrackedBody { body: Some(body), guard })
        }))
    }
}

/// Has the connection end with a response.
fn close_after<B>(response: &mut Response<B>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

#[pin_project]
pub(crate) struct TrackedBody<B> {
    #[pin]
    body: Option<B>,
    guard: Option<InFlight>,
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
