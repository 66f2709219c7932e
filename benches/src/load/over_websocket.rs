//! WebSockets over streams, one operation of each kind.

use std::io;
use std::time::Duration;

use throng::TcpStream;

use super::traffic::more;
use super::websocket::{LONGEST, Label, Said, Talk, close, next, pong, wrong};
use super::{Conn, Shared};

/// Makes a new connection a WebSocket.
pub(super) async fn upgrade(talk: &Talk, conn: &mut Conn) -> io::Result<()> {
    conn.stream.write_chunk(talk.request(conn.index as usize).to_vec().into()).await?;
    loop {
        let chunk = more(&mut conn.stream).await?;
        conn.come.extend_from_slice(&chunk);
        if let Some(len) = talk.answer(conn.index as usize, &conn.come)? {
            conn.come.drain(..len);
            return Ok(());
        }
    }
}

/// A message and its echo.
pub(super) async fn echo(shared: &Shared, conn: &mut Conn) -> io::Result<()> {
    let talk = talk(shared)?;
    conn.number = conn.number.wrapping_add(1);
    let label = Label { index: conn.index, number: conn.number, due: 0 };
    send(talk, conn, label).await?;
    match message(talk, conn).await? {
        echo if echo == label => Ok(()),
        other => Err(wrong(&format!("the echo of {label:?} is {other:?}"))),
    }
}

/// A connection that becomes a WebSocket and is reset: nothing is left of it at either end, and
/// nobody waits for ports.
pub(super) async fn once(shared: &Shared, number: usize) -> io::Result<()> {
    let role = &shared.load.role;
    let stream = TcpStream::connect(role.endpoint(number % role.connections)).await?;
    stream.set_nodelay(true)?;
    stream.set_linger(Some(Duration::ZERO))?;
    upgrade(talk(shared)?, &mut Conn::new(stream, number as u32)).await
}

/// One of those who get what is said to all, once each. Who gets it last says the next.
pub(super) async fn member(shared: &Shared, mut conn: Conn) -> io::Result<()> {
    let talk = talk(shared)?;
    let all = shared.load.role.connections;
    if conn.index == 0 {
        publish(shared, &mut conn, all).await?;
    }
    loop {
        let label = message(talk, &mut conn).await?;
        let published = shared.published.get();
        if label != published || conn.number == label.number {
            return Err(wrong(&format!("not, or not once, what was published: {label:?}")));
        }
        conn.number = label.number;
        shared.count(None);
        shared.missing.set(shared.missing.get() - 1);
        if shared.missing.get() == 0 {
            publish(shared, &mut conn, all).await?;
        }
    }
}

async fn publish(shared: &Shared, conn: &mut Conn, all: usize) -> io::Result<()> {
    let number = shared.published.get().number + 1;
    let label = Label { index: conn.index, number, due: 0 };
    shared.published.set(label);
    shared.missing.set(all);
    send(talk(shared)?, conn, label).await
}

fn talk(shared: &Shared) -> io::Result<&Talk> {
    shared.talk.as_ref().ok_or_else(|| wrong("not a client of WebSockets"))
}

async fn send(talk: &Talk, conn: &mut Conn, label: Label) -> io::Result<()> {
    let mut frame = [0; LONGEST];
    let len = talk.message(label, &mut frame);
    conn.stream.write_chunk(frame[..len].to_vec().into()).await
}

/// The label of the next message; pings are answered.
async fn message(talk: &Talk, conn: &mut Conn) -> io::Result<Label> {
    loop {
        let Some((said, len)) = next(&conn.come)? else {
            let chunk = more(&mut conn.stream).await?;
            conn.come.extend_from_slice(&chunk);
            continue;
        };
        let (label, answer) = match said {
            Said::Message(message) => (Some(talk.label(message)?), None),
            Said::Ping(said) => (None, Some(pong(said))),
            Said::Close(said) => (None, Some(close(said))),
            Said::Pong => (None, None),
        };
        conn.come.drain(..len);
        if let Some(answer) = answer {
            conn.stream.write_chunk(answer.into()).await?;
        }
        if let Some(label) = label {
            return Ok(label);
        }
    }
}
