//! One operation after the other, of each kind.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use throng::TcpStream;

use super::{Shared, over_websocket};
use crate::role::{Role, Traffic};

/// Bytes written at a time in bulk.
const CHUNK: usize = 256 << 10;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: throng.example\r\nAccept: */*\r\n\r\n";
const LAST_REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: throng.example\r\nAccept: */*\r\nConnection: close\r\n\r\n";

/// What is said for one operation.
pub(super) fn message(role: &Role) -> Bytes {
    match role.traffic {
        Traffic::Http => Bytes::from_static(REQUEST),
        Traffic::HttpClose => Bytes::from_static(LAST_REQUEST),
        _ => Bytes::from(vec![0x55; role.size]),
    }
}

/// Does one after the other until the run is over.
pub(super) async fn worker(shared: Rc<Shared>) {
    let traffic = shared.load.role.traffic;
    let message = message(&shared.load.role);
    let mut number = shared.random(usize::from(u16::MAX));
    while shared.running.get() {
        let begin = match shared.load.rate {
            Some(_) => match due(&shared).await {
                Some(due) => Some(due),
                None => return,
            },
            None => shared.load.timed.then(Instant::now),
        };
        let did = if traffic.connects() {
            number += 1;
            match traffic {
                Traffic::Upgrade => over_websocket::once(&shared, number).await,
                _ => once(&shared, number, &message).await,
            }
        } else {
            let Some(mut conn) = shared.take() else { return };
            let did = match traffic {
                Traffic::Http => exchange(&shared, &mut conn.stream, &message).await,
                Traffic::Websocket => over_websocket::echo(&shared, &mut conn).await,
                Traffic::Download | Traffic::Upload | Traffic::Broadcast => {
                    let did = match traffic {
                        Traffic::Broadcast => over_websocket::member(&shared, conn).await,
                        _ => bulk(&shared, conn.stream).await,
                    };
                    if let Err(error) = did {
                        shared.failed(&error);
                    }
                    return;
                }
                _ => echo(&mut conn.stream, &message).await,
            };
            if did.is_ok() {
                shared.idle.borrow_mut().push(conn);
            }
            did
        };
        match did {
            Ok(()) => shared.count(begin),
            Err(error) => shared.failed(&error),
        }
    }
}

/// Waits until an operation is due; `None` when the run is over.
async fn due(shared: &Shared) -> Option<Instant> {
    poll_fn(|cx| {
        if !shared.running.get() {
            return Poll::Ready(None);
        }
        let due = shared.due.borrow_mut().pop_front();
        if due.is_none() {
            shared.waiting.borrow_mut().push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(due)
    })
    .await
}

async fn echo(stream: &mut TcpStream, message: &Bytes) -> io::Result<()> {
    stream.write_chunk(message.clone()).await?;
    let mut missing = message.len();
    while missing > 0 {
        let chunk = stream.read_chunk(missing).await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        missing -= chunk.len();
    }
    Ok(())
}

/// A request and its response, of which all are as long as the first.
async fn exchange(shared: &Shared, stream: &mut TcpStream, request: &Bytes) -> io::Result<()> {
    stream.write_chunk(request.clone()).await?;
    if shared.response.get() == 0 {
        let mut answer = Vec::new();
        let len = loop {
            answer.extend_from_slice(&more(stream).await?);
            if let Some(len) = response_len(&answer)? {
                break len;
            }
        };
        while answer.len() < len {
            answer.extend_from_slice(&more(stream).await?);
        }
        shared.response.set(len);
        return Ok(());
    }
    let mut missing = shared.response.get();
    while missing > 0 {
        let chunk = more(stream).await?;
        missing = missing.checked_sub(chunk.len()).ok_or_else(|| longer(chunk.len()))?;
    }
    Ok(())
}

fn longer(len: usize) -> io::Error {
    io::Error::other(format!("{len} bytes are more than a response"))
}

pub(super) async fn more(stream: &mut TcpStream) -> io::Result<Bytes> {
    let chunk = stream.read_chunk(usize::MAX).await?;
    if chunk.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(chunk) }
}

/// Length of the response that begins here, head and body, when its head is whole.
pub(super) fn response_len(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let length: Option<usize> =
        lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    match length {
        Some(length) if status.starts_with("http/1.1 200") => Ok(Some(end + 4 + length)),
        _ => Err(io::Error::other(format!("not a response that was asked for: {head}"))),
    }
}

/// A connection, and on it a request where there is one to be made, to its end.
async fn once(shared: &Shared, number: usize, request: &Bytes) -> io::Result<()> {
    let role = &shared.load.role;
    let mut stream = TcpStream::connect(role.endpoint(number % role.connections)).await?;
    if role.traffic == Traffic::HttpClose {
        stream.write_chunk(request.clone()).await?;
    }
    let mut read = 0;
    loop {
        let chunk = stream.read_chunk(usize::MAX).await?;
        if chunk.is_empty() {
            break;
        }
        read += chunk.len();
    }
    match role.traffic {
        Traffic::HttpClose if read == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Reads or writes until the run is over, and counts bytes.
async fn bulk(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    let count = |bytes: usize| shared.done.set(shared.done.get() + bytes as u64);
    if shared.load.role.traffic == Traffic::Download {
        stream.write_chunk(Bytes::from_static(b"d")).await?;
        while shared.running.get() {
            count(more(&mut stream).await?.len());
        }
    } else {
        let chunk = Bytes::from(vec![b'u'; CHUNK]);
        while shared.running.get() {
            stream.write_chunk(chunk.clone()).await?;
            count(chunk.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_as_long_as_it_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nx: y\r\n\r\nhello\n";
        assert_eq!(response_len(whole).ok(), Some(Some(whole.len())));
        assert_eq!(response_len(&whole[..30]).ok(), Some(None));
        assert!(response_len(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "it has no length");
        assert!(response_len(b"HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\n").is_err());
    }
}
