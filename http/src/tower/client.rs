//! The HTTP client as a tower service.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{Request, Response};
use throng_runtime::OnThread;
use tower_service::Service;

use crate::client::{Body, Client, Error};
use crate::server::BoxError;

/// The client as a tower service, for tower's layers, tonic's clients and handlers of axum's. It,
/// its futures and the bodies of its responses are `Send` for the compiler, and may be used and
/// dropped on the client's shard only.
pub fn client(client: Client) -> ClientService {
    ClientService(OnThread::new(client))
}

/// What [`client`] makes; clones share the client's pool.
///
/// It is always ready: the client has bounds and queues of its own.
///
/// # Panics
/// Every use on another thread, and a drop there.
pub struct ClientService(OnThread<Client>);

impl Clone for ClientService {
    fn clone(&self) -> Self {
        client(Client::clone(&self.0))
    }
}

impl fmt::Debug for ClientService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientService").field(&self.0).finish()
    }
}

impl<B> Service<Request<B>> for ClientService
where
    B: HttpBody<Error: Into<BoxError>> + 'static,
{
    type Response = Response<SendBody>;
    type Error = Error;
    type Future =
        OnThread<Pin<Box<dyn Future<Output = Result<Response<SendBody>, Error>> + 'static>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = self.0.request(request);
        OnThread::new(Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| SendBody(OnThread::new(body))))
        }))
    }
}

/// The body of a [`ClientService`]'s response.
///
/// # Panics
/// Every use on another thread, and a drop there.
#[derive(Debug)]
pub struct SendBody(OnThread<Body>);

impl SendBody {
    /// The client's own body again.
    pub fn into_inner(self) -> Body {
        self.0.into_inner()
    }
}

impl HttpBody for SendBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut *self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
