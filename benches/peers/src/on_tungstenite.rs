//! tokio-tungstenite: a runtime of one thread, a task for each WebSocket.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, Sender, error::RecvError};
use tokio::task::{LocalSet, spawn_local};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_async_with_config, client_async_with_config};

use crate::{Args, Kind};

/// Bytes of each connection's buffer for what comes: less would not hold a handshake's usual request.
const SMALL: usize = 256;
/// Messages that a slow member may be behind.
const BACKLOG: usize = 64;

pub(crate) fn run(kind: Kind, args: &Args) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        match kind {
            Kind::TungsteniteClient => client(args).await.map_err(io::Error::other),
            kind => serve(kind, args).await,
        }
    })
}

/// What people would set who hold very many: no buffer is larger than it must be.
fn small() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(SMALL).write_buffer_size(0)
}

async fn serve(kind: Kind, args: &Args) -> io::Result<()> {
    let listener = TcpListener::from_std(crate::listen(args)?)?;
    let all = broadcast::channel(BACKLOG).0;
    let config = match kind {
        Kind::TungsteniteDefaults => WebSocketConfig::default(),
        _ => small(),
    };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let all = matches!(kind, Kind::TungsteniteBroadcast).then(|| all.clone());
        spawn_local(async move {
            // A client that goes away ends its own connection and nothing else.
            let _ = match all {
                Some(all) => member(stream, config, &all).await,
                None => echo(stream, config).await,
            };
        });
    }
}

async fn echo(stream: TcpStream, config: WebSocketConfig) -> Result<(), Error> {
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// What it says is told to all, by one copy of the bytes.
async fn member(
    stream: TcpStream,
    config: WebSocketConfig,
    all: &Sender<Bytes>,
) -> Result<(), Error> {
    let mut told = all.subscribe();
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(said))) => {
                    // Itself is there to hear it.
                    let _ = all.send(said);
                }
                Some(message) => drop(message?),
                None => return Ok(()),
            },
            news = told.recv() => match news {
                Ok(said) => socket.send(Message::Binary(said)).await?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// Asks as the benches' own client does, but by tungstenite: to judge that one. Prints how many
/// messages came back.
async fn client(args: &Args) -> Result<(), Error> {
    let message = Bytes::from(vec![0x55; args.body]);
    let (done, end) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(None)));
    let mut sockets = Vec::new();
    for _ in 0..args.connections {
        let stream = TcpStream::connect(args.listen).await?;
        stream.set_nodelay(true)?;
        let opening = client_async_with_config("ws://t/", stream, Some(small()));
        sockets.push(opening.await?.0);
    }
    println!("ready");
    end.set(Some(Instant::now() + Duration::from_secs_f64(args.seconds)));
    let asking = sockets.into_iter().map(|mut socket| {
        let (message, done, end) = (message.clone(), done.clone(), end.clone());
        spawn_local(async move {
            while end.get().is_some_and(|end| Instant::now() < end) {
                socket.send(Message::Binary(message.clone())).await?;
                match socket.next().await.transpose()? {
                    Some(Message::Binary(echo)) if echo == message => done.set(done.get() + 1),
                    other => return Err(io::Error::other(format!("no echo: {other:?}")).into()),
                }
            }
            Ok::<_, Error>(())
        })
    });
    for one in asking.collect::<Vec<_>>() {
        one.await.map_err(io::Error::other)??;
    }
    println!("{}", done.get());
    Ok(())
}
