//! A tower service as one of hyper's, which is what the server takes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::Request;
use hyper::service::Service as HyperService;
use pin_project::pin_project;
use tower_service::Service;

use crate::body::Body;

/// A tower service, such as an `axum::Router`, for [`serve`](crate::serve) and
/// [`Running::serve`](crate::Running::serve).
///
/// Each request gets a clone of it, which is first waited for to be ready, then called. So a
/// bound that clones share, such as that of tower's `ConcurrencyLimit`, holds for all requests of
/// all connections; requests beyond it wait in front of the service.
pub fn service<S>(service: S) -> TowerService<S> {
    TowerService(service)
}

/// What [`service`] makes.
#[derive(Clone, Debug)]
pub struct TowerService<S>(S);

impl<S> HyperService<Request<Body>> for TowerService<S>
where
    S: Service<Request<Body>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TowerFuture<S, Request<Body>>;

    fn call(&self, request: Request<Body>) -> Self::Future {
        TowerFuture { state: State::Waiting(self.0.clone(), Some(request)) }
    }
}

/// The answer of a [`TowerService`] to one request.
#[pin_project]
pub struct TowerFuture<S: Service<R>, R> {
    #[pin]
    state: State<S, R>,
}

#[pin_project(project = StateProjection)]
enum State<S: Service<R>, R> {
    /// For the service to be ready.
    Waiting(S, Option<R>),
    Called(#[pin] S::Future),
}

impl<S: Service<R>, R> Future for TowerFuture<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let future = match state.as_mut().project() {
                StateProjection::Called(future) => return future.poll(cx),
                StateProjection::Waiting(service, request) => {
                    ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else { return Poll::Pending };
                    service.call(request)
                }
            };
            state.set(State::Called(future));
        }
    }
}
