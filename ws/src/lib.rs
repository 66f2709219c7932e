//! WebSockets on Throng: tungstenite does the protocol, this crate gives it an async face.
//!
//! * [`accept`] and [`accept_with`]: a server's socket straight on a stream.
//! * [`upgrade`] and [`upgrade_with`]: a server's socket out of an HTTP request.
//! * [`connect`] and [`connect_with`]: a client's socket; `connect_tls` (feature `tls`) for
//!   `wss://`.
//! * [`topic`]: one encoded frame to all subscribers, on all shards.
//!
//! * [`serve()`]: gives a socket's messages to a handler, in the smallest task there can be.
//!
//! All give a [`WebSocket`], which is a `Stream` and a `Sink` of [`Message`]s. Any stream of
//! `futures::io::{AsyncRead, AsyncWrite}` will do, among them `throng_net::TcpStream`. The
//! timers are those of the runtime, so sockets live on a shard's thread.
//!
//! ```
//! use futures::{AsyncRead, AsyncWrite, SinkExt, StreamExt};
//!
//! async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), throng_ws::Error> {
//!     let mut socket = throng_ws::accept(stream).await?;
//!     while let Some(message) = socket.next().await {
//!         let message = message?;
//!         if message.is_text() || message.is_binary() {
//!             socket.send(message).await?;
//!         }
//!     }
//!     Ok(())
//! }
//! ```

//! Behind a HTTP server, beside its pages:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http_body_util::Full;
//! use hyper::body::Bytes;
//! use hyper::{Request, Response};
//! use throng_http::Body;
//!
//! async fn service(mut request: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     if !throng_ws::is_upgrade(&request) {
//!         return Ok(Response::new(Full::from("a page")));
//!     }
//!     match throng_ws::upgrade(&mut request) {
//!         Ok((response, socket)) => {
//!             let task = async move {
//!                 let _socket = socket.await?;
//!                 // As above.
//!                 Ok::<_, throng_ws::Error>(())
//!             };
//!             throng_runtime::spawn_local(task).detach();
//!             Ok(response)
//!         }
//!         Err(error) => Ok(throng_ws::refusal(&error)),
//!     }
//! }
//! ```

#![forbid(unsafe_code)]

mod active;
mod bridge;
mod config;
mod error;
mod forward;
mod frame;
mod handshake;
mod quick;
mod serve;
mod socket;
mod timers;
#[cfg(feature = "tls")]
mod tls;
pub mod topic;
mod track;
mod upgrade;

pub use tungstenite::client::IntoClientRequest;
pub use tungstenite::protocol::frame::coding::CloseCode;
pub use tungstenite::protocol::{CloseFrame, Message, Role};

pub use crate::config::Config;
pub use crate::error::{Error, HandshakeError};
pub use crate::frame::{Carrier, Frame};
pub use crate::handshake::{Decline, Request, accept, accept_with, connect, connect_with};
pub use crate::serve::{Serve, Session, serve};
pub use crate::socket::WebSocket;
#[cfg(feature = "tls")]
pub use crate::tls::connect_tls;
pub use crate::upgrade::{Upgraded, Upgrading, is_upgrade, refusal, upgrade, upgrade_with};
