//! Bridges to tower, and so to axum, tonic and everything made of tower's services and layers.
//!
//! | from | to | by |
//! |---|---|---|
//! | a tower service, such as `axum::Router` | what [`serve`](crate::serve) takes | [`service`] |
//! | [`Client`](crate::client::Client) | a tower service, such as tonic's clients ask for | [`client`] |
//! | tower's `TimeoutLayer`, which needs tokio's timer | the shard's timer | [`TimeoutLayer`] |
//!
//! ```no_run
//! # async fn example<R>(listener: throng_net::TcpListener, router: R)
//! # where
//! #     R: tower_service::Service<
//! #             hyper::Request<throng_http::Body>,
//! #             Response = hyper::Response<String>,
//! #             Error = std::convert::Infallible,
//! #         > + Clone + 'static,
//! # {
//! // let router = axum::Router::new().route("/", get(hello));
//! throng_http::serve(listener, throng_http::tower::service(router)).await;
//! # }
//! ```
//!
//! What axum and tonic ask to be `Send` is made so by [`throng_runtime::OnThread`]. Of
//! tower's own layers, those work that need neither a timer nor a task of tokio's:
//! `ConcurrencyLimit`, `LoadShed`, `Filter`, `Map*`, `Then`, `Steer`, and not `Timeout`,
//! `RateLimit`, `Buffer`, `SpawnReady`, `Hedge`, nor a `Retry` whose policy sleeps by tokio.

mod client;
mod service;
mod timeout;

pub use client::{ClientService, SendBody, client};
pub use service::{TowerFuture, TowerService, service};
pub use timeout::{Timeout, TimeoutFuture, TimeoutLayer};
