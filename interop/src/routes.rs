//! HTTP: what is to be had at which path.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `hello` |
//! | `GET /bytes/N` | N bytes of a pattern |
//! | `POST /digest` | length and SHA-256 of the body, as JSON |
//! | `GET /shard` | the shard that serves the connection, and its counters, as JSON |
//! | `GET /ws` | a WebSocket that echoes |

use std::convert::Infallible;

use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};
use throng::http::{Body, Service, service_fn};
use throng::{ShardId, net, spawn_local, ws};

use crate::body::Answer;
use crate::echo;

/// The service of a shard.
pub(crate) fn service(
    shard: ShardId,
) -> impl Service<
    Request<Body>,
    Response = Response<Answer>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Answer>, Infallible>>,
> {
    service_fn(move |request| async move { Ok(answer(shard, request).await) })
}

async fn answer(shard: ShardId, mut request: Request<Body>) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/") => Response::new(Answer::text("hello\n")),
        (&Method::GET, "/shard") => Response::new(shard_state(shard)),
        (&Method::GET, "/ws") => websocket(&mut request),
        (&Method::POST | &Method::PUT, "/digest") => digest(request.into_body()).await,
        (&Method::GET, path) => {
            match path.strip_prefix("/bytes/").and_then(|length| length.parse().ok()) {
                Some(length) => Response::new(Answer::pattern(length)),
                None => status(StatusCode::NOT_FOUND),
            }
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn status(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::default());
    *response.status_mut() = status;
    response
}

async fn digest(mut body: Body) -> Response<Answer> {
    let mut sha256 = Sha256::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => {
                sha256.update(&data);
                length += data.len();
            }
            // Trailers are not part of the body.
            Ok(Err(_)) => {}
            Err(_) => return status(StatusCode::BAD_REQUEST),
        }
    }
    let sha256: String = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Response::new(Answer::text(json!({ "length": length, "sha256": sha256 }).to_string()))
}

fn shard_state(shard: ShardId) -> Answer {
    let counters = match net::stats::current() {
        Ok(stats) => json!({
            "rx_frames": stats.device.rx_frames,
            "rx_dropped": stats.device.rx_dropped,
            "tx_frames": stats.device.tx_frames,
            "tx_dropped": stats.device.tx_dropped,
            "no_buffer": stats.device.no_buffer,
            "tx_full": stats.device.tx_full,
        }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    Answer::text(json!({ "shard": shard.0, "counters": counters }).to_string())
}

fn websocket(request: &mut Request<Body>) -> Response<Answer> {
    match ws::upgrade(request) {
        Ok((response, upgrading)) => {
            drop(spawn_local(async move {
                let echoed = match upgrading.await {
                    Ok(socket) => echo::messages(socket).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = echoed {
                    tracing::debug!(%error, "WebSocket echo over HTTP");
                }
            }));
            response
        }
        Err(error) => ws::refusal(&error),
    }
}
