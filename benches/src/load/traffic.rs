//! One operation after the other, of each kind.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use throng::TcpStream;

use super::answer::{self, Page};
use super::{Conn, Shared, over_websocket};
use crate::role::Traffic;
use crate::serve;

/// Bytes written at a time in bulk.
const CHUNK: usize = 256 << 10;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: throng.example\r\nAccept: */*\r\n\r\n";
const LAST_REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: throng.example\r\nAccept: */*\r\nConnection: close\r\n\r\n";

/// What asks for a page.
pub(super) fn request(traffic: Traffic) -> Bytes {
    match traffic {
        Traffic::HttpClose => Bytes::from_static(LAST_REQUEST),
        _ => Bytes::from_static(REQUEST),
    }
}

/// Does one after the other until the run is over.
pub(super) async fn worker(shared: Rc<Shared>) {
    let traffic = shared.load.role.traffic;
    let request = request(traffic);
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
                _ => once(&shared, number, &request).await,
            }
        } else {
            let Some(mut conn) = shared.take() else { return };
            let did = match traffic {
                Traffic::Http => exchange(&shared, &mut conn.stream, &request).await,
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
                _ => echo(&mut conn, shared.load.role.size).await,
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

async fn echo(conn: &mut Conn, size: usize) -> io::Result<()> {
    conn.number = conn.number.wrapping_add(1);
    let said = Bytes::from(answer::of(conn.index, conn.number, size));
    conn.stream.write_chunk(said.clone()).await?;
    let mut missing = &said[..];
    while !missing.is_empty() {
        let chunk = conn.stream.read_chunk(missing.len()).await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        missing = missing.strip_prefix(&chunk[..]).ok_or_else(|| {
            io::Error::other(format!("not the echo of connection {}", conn.index))
        })?;
    }
    Ok(())
}

/// A request and its response, all of it as it must be.
async fn exchange(shared: &Shared, stream: &mut TcpStream, request: &Bytes) -> io::Result<()> {
    stream.write_chunk(request.clone()).await?;
    let (page, mut come) = page(shared, stream).await?;
    while come < page.len() {
        let chunk = more(stream).await?;
        right(&page, come, &chunk)?;
        come += chunk.len();
    }
    Ok(())
}

/// What is answered, which the first answer tells, and how much of this answer has come.
async fn page(shared: &Shared, stream: &mut TcpStream) -> io::Result<(Rc<Page>, usize)> {
    let known = shared.page.borrow().clone();
    if let Some(page) = known {
        return Ok((page, 0));
    }
    let mut answer = Vec::new();
    let page = loop {
        answer.extend_from_slice(&more(stream).await?);
        if let Some(page) = Page::of(&answer, shared.load.role.size)? {
            break Rc::new(page);
        }
    };
    right(&page, 0, &answer)?;
    *shared.page.borrow_mut() = Some(page.clone());
    Ok((page, answer.len()))
}

fn right(page: &Page, at: usize, data: &[u8]) -> io::Result<()> {
    if page.has(at, data) {
        return Ok(());
    }
    Err(io::Error::other(format!("other bytes than the page's, from byte {at} of {}", page.len())))
}

pub(super) async fn more(stream: &mut TcpStream) -> io::Result<Bytes> {
    let chunk = stream.read_chunk(usize::MAX).await?;
    if chunk.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(chunk) }
}

/// A connection, and on it a request where there is one to be made, to its end.
async fn once(shared: &Shared, number: usize, request: &Bytes) -> io::Result<()> {
    let role = &shared.load.role;
    let mut stream = TcpStream::connect(role.endpoint(number % role.connections)).await?;
    if role.traffic == Traffic::HttpClose {
        exchange(shared, &mut stream, request).await?;
    }
    // Then the server ends it.
    match stream.read_chunk(usize::MAX).await?.len() {
        0 => Ok(()),
        len => Err(io::Error::other(format!("{len} bytes more than were asked for"))),
    }
}

/// Reads or writes until the run is over, and counts bytes.
async fn bulk(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    let count = |bytes: usize| shared.done.set(shared.done.get() + bytes as u64);
    if shared.load.role.traffic == Traffic::Download {
        stream.write_chunk(Bytes::from_static(b"d")).await?;
        let right = vec![serve::BULK; CHUNK];
        while shared.running.get() {
            let chunk = stream.read_chunk(CHUNK).await?;
            if chunk.is_empty() || chunk != right[..chunk.len()] {
                return Err(io::Error::other("an end, or other bytes than the server's"));
            }
            count(chunk.len());
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
