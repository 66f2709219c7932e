//! hyper and tungstenite on the stack.

use std::fmt::Display;
use std::rc::Rc;

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use throng_http::Body;
use throng_http::rt::{LocalExecutor, ShardTimer};
use throng_net::TcpStream;
use throng_runtime::spawn_local;
use throng_ws::{Message, WebSocket};

use super::{SOCKET_PORT, WEB_PORT, address, connect, keep_alive};
use crate::dice::Dice;
use crate::ledger::{Ledger, Trouble};
use crate::pattern;
use crate::plan::JobPlan;
use crate::switch::Switch;

/// What the web server does: gives the body back.
pub(crate) async fn site(request: Request<Body>) -> hyper::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::from(body)))
}

/// What the WebSocket server does: gives messages back.
pub(crate) async fn socket_echo<S>(mut socket: WebSocket<S>) -> Result<(), Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let message = message.map_err(said)?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await.map_err(said)?;
        }
    }
    Ok(())
}

fn said(error: impl Display) -> Trouble {
    Trouble::Web(error.to_string())
}

/// A client of either.
pub(crate) async fn web(
    job: &JobPlan,
    dice: &mut Dice,
    ledger: &Rc<Ledger>,
) -> Result<(), Trouble> {
    let port = if job.kind == Switch::Http { WEB_PORT } else { SOCKET_PORT };
    let to = address(1 - job.from, job.v6, port);
    let stream = connect(to, dice, ledger).await?;
    keep_alive(&stream, dice)?;
    match (job.kind, dice.chance(0.5)) {
        (Switch::Http, true) => http_1(stream, dice, ledger).await,
        (Switch::Http, false) => http_2(stream, dice, ledger).await,
        _ => messages(stream, &format!("ws://{to}/"), dice, ledger).await,
    }
}

fn look(found: &[u8], seed: u64, len: usize, ledger: &Ledger) {
    if found.len() != len || !pattern::holds(seed, 0, found) {
        ledger.fail(format!("{} bytes came back for {len}, or others", found.len()));
    }
    ledger.moved(found.len());
}

/// What a server says that has lost its patience with a request is no echo.
async fn body_of(response: Response<Incoming>) -> Result<Bytes, Trouble> {
    if response.status() != http::StatusCode::OK {
        return Err(said(response.status()));
    }
    Ok(response.into_body().collect().await.map_err(said)?.to_bytes())
}

async fn http_1(stream: TcpStream, dice: &mut Dice, ledger: &Ledger) -> Result<(), Trouble> {
    let (mut client, connection) = http1::handshake(stream).await.map_err(said)?;
    spawn_local(async move { drop(connection.await) }).detach();
    for _ in 0..dice.within(1, 6) {
        let (seed, len) = (dice.number(), dice.scaled(1, 60_000) as usize);
        client.ready().await.map_err(said)?;
        let body = Full::new(Bytes::from(pattern::bytes(seed, 0, len)));
        let request = Request::post("/").header("host", "x").body(body).map_err(said)?;
        let response = client.send_request(request).await.map_err(said)?;
        look(&body_of(response).await?, seed, len, ledger);
    }
    Ok(())
}

async fn http_2(stream: TcpStream, dice: &mut Dice, ledger: &Ledger) -> Result<(), Trouble> {
    let builder = http2::Builder::new(LocalExecutor).timer(ShardTimer).clone();
    let (client, connection) = builder.handshake(stream).await.map_err(said)?;
    spawn_local(async move { drop(connection.await) }).detach();
    let requests: Vec<_> = (0..dice.within(1, 8))
        .map(|_| {
            let (seed, len) = (dice.number(), dice.scaled(1, 30_000) as usize);
            let mut client = client.clone();
            async move {
                let body = Full::new(Bytes::from(pattern::bytes(seed, 0, len)));
                let request = Request::post("http://x/").body(body).map_err(said)?;
                let response = client.send_request(request).await.map_err(said)?;
                look(&body_of(response).await?, seed, len, ledger);
                Ok(())
            }
        })
        .collect();
    futures::future::try_join_all(requests).await.map(drop)
}

async fn messages(
    stream: TcpStream,
    url: &str,
    dice: &mut Dice,
    ledger: &Ledger,
) -> Result<(), Trouble> {
    let (mut socket, _) = throng_ws::connect(url, stream).await.map_err(said)?;
    for _ in 0..dice.within(1, 8) {
        let (seed, len) = (dice.number(), dice.scaled(1, 20_000) as usize);
        let message = Message::binary(pattern::bytes(seed, 0, len));
        socket.send(message).await.map_err(said)?;
        match socket.next().await {
            Some(Ok(Message::Binary(found))) => look(&found, seed, len, ledger),
            Some(Ok(Message::Close(why))) => return Err(said(format!("closed: {why:?}"))),
            Some(Ok(other)) => ledger.fail(format!("a message came back as {other:?}")),
            Some(Err(error)) => return Err(said(error)),
            None => return Err(said("the socket ended")),
        }
    }
    socket.close(None).await.map_err(said)
}
