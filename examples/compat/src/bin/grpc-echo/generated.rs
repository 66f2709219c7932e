//! What tonic's code generator makes of `echo.proto`, shortened. Written by hand, so that
//! building the examples takes no protoc; yours comes from `tonic_prost_build`, with
//! `.build_transport(false)`.
//!
//! ```proto
//! syntax = "proto3";
//! package throng;
//! message Message { string text = 1; }
//! service Echo {
//!   rpc Say(Message) returns (Message);
//!   rpc Stream(stream Message) returns (stream Message);
//! }
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use hyper::Uri;
use hyper::body::Body as HttpBody;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::server::{StreamingService, UnaryService};
use tonic::{IntoStreamingRequest, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

#[tonic::async_trait]
pub(crate) trait Echo: Send + Sync + 'static {
    async fn say(&self, request: Request<Message>) -> Result<Response<Message>, Status>;

    type Streamed: Stream<Item = Result<Message, Status>> + Send + 'static;

    async fn stream(
        &self,
        request: Request<Streaming<Message>>,
    ) -> Result<Response<Self::Streamed>, Status>;
}

pub(crate) struct EchoServer<T>(Arc<T>);

impl<T> EchoServer<T> {
    pub(crate) fn new(echo: T) -> Self {
        EchoServer(Arc::new(echo))
    }
}

impl<T> Clone for EchoServer<T> {
    fn clone(&self) -> Self {
        EchoServer(self.0.clone())
    }
}

struct Say<T>(Arc<T>);

impl<T: Echo> UnaryService<Message> for Say<T> {
    type Response = Message;
    type Future = BoxFuture<'static, Result<Response<Message>, Status>>;

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move { echo.say(request).await })
    }
}

struct Streams<T>(Arc<T>);

impl<T: Echo> StreamingService<Message> for Streams<T> {
    type Response = Message;
    type ResponseStream = T::Streamed;
    type Future = BoxFuture<'static, Result<Response<T::Streamed>, Status>>;

    fn call(&mut self, request: Request<Streaming<Message>>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move { echo.stream(request).await })
    }
}

impl<T, B> tower::Service<hyper::Request<B>> for EchoServer<T>
where
    T: Echo,
    B: HttpBody<Error: Into<StdError> + Send> + Send + 'static,
{
    type Response = hyper::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<B>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(match request.uri().path() {
                "/throng.Echo/Say" => grpc.unary(Say(echo), request).await,
                "/throng.Echo/Stream" => grpc.streaming(Streams(echo), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

pub(crate) struct EchoClient<T>(tonic::client::Grpc<T>);

impl<T> EchoClient<T>
where
    T: GrpcService<Body, Error: Into<StdError>>,
    T::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    pub(crate) fn new(service: T, origin: Uri) -> Self {
        EchoClient(tonic::client::Grpc::with_origin(service, origin))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unknown(error.into().to_string()))
    }

    pub(crate) async fn say(&mut self, message: Message) -> Result<Response<Message>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/throng.Echo/Say");
        self.0.unary(Request::new(message), path, ProstCodec::default()).await
    }

    pub(crate) async fn stream(
        &mut self,
        messages: impl IntoStreamingRequest<Message = Message>,
    ) -> Result<Response<Streaming<Message>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/throng.Echo/Stream");
        self.0.streaming(messages.into_streaming_request(), path, ProstCodec::default()).await
    }
}
