//! Everything that comes back as it was sent.

use futures::{SinkExt, StreamExt};
use throng::ws::{self, WebSocket};
use throng::{TcpListener, TcpStream, UdpSocket, spawn_local};

/// Most bytes taken from a stream at a time.
const CHUNK: usize = 64 << 10;

/// TCP: every byte, until the peer has closed its half; then ours is closed.
pub(crate) async fn tcp(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(spawn_local(async move {
                if let Err(error) = tcp_one(stream).await {
                    tracing::debug!(%peer, %error, "TCP echo");
                }
            })),
            Err(error) => tracing::debug!(%error, "TCP echo: accept"),
        }
    }
}

async fn tcp_one(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let chunk = stream.read_chunk(CHUNK).await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.write_chunk(chunk).await?;
    }
}

/// UDP: every datagram, to where it came from.
pub(crate) async fn udp(socket: UdpSocket) {
    loop {
        let answer = match socket.recv_from().await {
            Ok((datagram, peer)) => socket.send_to(&datagram, peer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = answer {
            tracing::debug!(%error, "UDP echo");
        }
    }
}

/// WebSockets straight on a stream: every message, text as text and binary as binary.
pub(crate) async fn websockets(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(spawn_local(async move {
                let echoed = match ws::accept(stream).await {
                    Ok(socket) => messages(socket).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = echoed {
                    tracing::debug!(%peer, %error, "WebSocket echo");
                }
            })),
            Err(error) => tracing::debug!(%error, "WebSocket echo: accept"),
        }
    }
}

/// Echoes until the peer closes.
pub(crate) async fn messages<S>(mut socket: WebSocket<S>) -> Result<(), ws::Error>
where
    S: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
