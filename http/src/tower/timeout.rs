//! A bound on the time until a response begins, by the shard's timer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::{Response, StatusCode};
use pin_project::pin_project;
use throng_runtime::{OnThread, Sleep};
use tower_layer::Layer;
use tower_service::Service;

/// Bounds how long a service may take for the head of a response; instead of a late one, a
/// response without a body says 504 (RFC 9110 15.6.5), or what [`status`](Self::status) was set
/// to. tower's own layer of that name needs tokio's timer.
///
/// The service's future is dropped then. Its body's time is not bounded: that is
/// [`Server::body_timeout`](crate::Server::body_timeout).
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    after: Duration,
    status: StatusCode,
}

impl TimeoutLayer {
    /// With the time from the call of the service on. What waits before that for the service to
    /// be ready, as behind tower's `ConcurrencyLimit`, is not counted; `LoadShed` around it
    /// refuses such requests instead.
    pub fn new(after: Duration) -> Self {
        TimeoutLayer { after, status: StatusCode::GATEWAY_TIMEOUT }
    }

    /// Answers with another status, such as 408 or 503.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, layer: *self }
    }
}

/// A service with a [`TimeoutLayer`] around it.
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    layer: TimeoutLayer,
}

impl<S, R, B> Service<R> for Timeout<S>
where
    S: Service<R, Response = Response<B>>,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    /// # Panics
    /// When the thread runs no shard.
    fn call(&mut self, request: R) -> Self::Future {
        TimeoutFuture {
            future: self.inner.call(request),
            sleep: OnThread::new(throng_runtime::sleep(self.layer.after)),
            status: self.layer.status,
        }
    }
}

/// The answer of a [`Timeout`] to one request.
#[pin_project]
pub struct TimeoutFuture<F> {
    #[pin]
    future: F,
    sleep: OnThread<Sleep>,
    status: StatusCode,
}

impl<F, B, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Default,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.future.poll(cx) {
            return Poll::Ready(result);
        }
        Pin::new(this.sleep).poll(cx).map(|()| {
            let mut response = Response::new(B::default());
            *response.status_mut() = *this.status;
            Ok(response)
        })
    }
}
