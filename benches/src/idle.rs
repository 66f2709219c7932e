//! What the benches of idle connections and their test have in common: the server, and its memory part
//! by part.

use std::convert::Infallible;
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use throng::net::stats;
use throng::net::tcp::Usage;
use throng::ws::{Config, Error, Message, WebSocket};
use throng::{TcpListener, TcpStream, http, runtime};

use crate::count::{self, Heap};
use crate::crowd::{PORT, SERVER, Wish};

/// How the application is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A handler, in the hands of `ws::serve`.
    Handler,
    /// The same, and each socket has a ping timer.
    Pinging,
    /// An `async fn` with a loop, as large all its life as it is where it holds most.
    Loop,
    /// Pages in place of WebSockets, by `http::Server`.
    Pages,
}

impl Style {
    /// What its clients come for.
    pub fn wish(self) -> Wish {
        if self == Style::Pages { Wish::Page } else { Wish::WebSocket }
    }
}

/// What the server says of itself.
#[derive(Clone, Debug)]
pub struct Server {
    /// The engine's memory.
    pub usage: Usage,
    /// Bytes of the connections' wakers.
    pub wakers: usize,
    /// Tasks, two or three of them not a connection's.
    pub tasks: u64,
    /// Bytes of the runtime's timers.
    pub timers: u64,
}

impl Server {
    /// The current shard's.
    ///
    /// # Errors
    /// Outside a shard.
    pub fn now() -> io::Result<Server> {
        let now = stats::current()?;
        let shard = runtime::stats();
        Ok(Server {
            usage: now.usage,
            wakers: now.waker_memory,
            tasks: shard.tasks,
            timers: shard.timer_memory,
        })
    }
}

/// Accepts connections for ever, and sends each message back or gives a page.
///
/// # Errors
/// None can be accepted.
pub async fn accept(style: Style) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((SERVER, PORT)))?;
    if style == Style::Pages {
        // Nobody is to be sent away for being idle, as long as this lasts.
        let server = http::Server::new().idle_timeout(Duration::from_secs(3_600)).start();
        server.serve(listener, service_fn(page)).await;
        return Ok(());
    }
    let pinging = Rc::new(Config::default().ping_interval(Duration::from_secs(3_600)));
    loop {
        let (stream, _) = listener.accept().await?;
        match style {
            Style::Handler => runtime::spawn_local(by_handler(stream)).detach(),
            Style::Pinging => {
                let opening =
                    throng::ws::accept_with(stream, pinging.clone(), |_, answer| Ok(answer));
                runtime::spawn_local(throng::ws::serve(opening, echo)).detach();
            }
            Style::Loop | Style::Pages => runtime::spawn_local(by_loop(stream)).detach(),
        }
    }
}

fn by_handler(stream: TcpStream) -> impl Future<Output = Result<(), Error>> {
    throng::ws::serve(throng::ws::accept(stream), echo)
}

async fn echo(socket: &mut WebSocket<TcpStream>, message: Message) -> Result<(), Error> {
    if message.is_text() || message.is_binary() {
        socket.send(message).await?;
    }
    Ok(())
}

async fn by_loop(stream: TcpStream) -> Result<(), Error> {
    let mut socket = throng::ws::accept(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// The answer to a request.
type Answer = Result<Response<Full<Bytes>>, Infallible>;

/// `hello`, whatever is asked for.
async fn page(_: Request<http::Body>) -> Answer {
    Ok(Response::new(Full::from("hello\n")))
}

/// Bytes of a connection's future.
pub fn future_size(style: Style) -> usize {
    fn of<F>(_: fn(TcpStream) -> F) -> usize {
        size_of::<F>()
    }
    match style {
        Style::Handler | Style::Pinging => of(by_handler),
        Style::Loop => of(by_loop),
        Style::Pages => http::size_of_connection::<TcpListener, _, _, _>(&service_fn(page)),
    }
}

/// Bytes of a task beside its future: a pointer to what can be done with it.
const TASK_HEADER: usize = 8;
/// Bytes of a task's place in its shard's table.
const TASK_SLOT: usize = 16;
/// Bytes of a connection in the books of its HTTP server, which tells all of a drain.
const IN_BOOKS: usize = 16;
/// Bytes of a connection's hot block.
const BLOCK: usize = 256;

/// Where the memory of `connections` went that came between two moments: bytes of each part,
/// for all of them together.
pub fn parts(
    style: Style,
    connections: u32,
    before: (&Server, &Heap),
    after: (&Server, &Heap),
) -> Vec<(&'static str, i64)> {
    let count = i64::from(connections);
    let grown = after.1.since(before.1);
    let usage = |of: fn(&Usage) -> usize| of(&after.0.usage) as i64 - of(&before.0.usage) as i64;
    let stream = size_of::<TcpStream>();
    let socket = match style {
        Style::Pages => stream,
        _ => size_of::<WebSocket<TcpStream>>(),
    };
    let future = future_size(style);
    let blocks = count * BLOCK as i64;
    let wakers = after.0.wakers as i64 - before.0.wakers as i64;
    let tables = usage(|u| u.tables) - usage(|u| u.blocks) - usage(|u| u.demux);
    // What the allocator adds to blocks of which each connection has one.
    let small = |(size, live): &(usize, i64)| *size < 4096 && *live * 2 > count;
    let overhead = grown.blocks().filter(small);
    let overhead = overhead.map(|(size, live)| (count::taken(size) - size) as i64 * live).sum();
    let mut parts = vec![
        ("engine: block", blocks),
        ("engine: unused part of the slab", usage(|u| u.blocks) - blocks),
        ("engine: demultiplexer", usage(|u| u.demux)),
        ("engine: timers", usage(|u| u.timer_memory)),
        ("engine: other tables", tables),
        ("stack: wakers", wakers),
        ("task: slot", count * TASK_SLOT as i64),
        ("task: header", count * TASK_HEADER as i64),
        ("future: stream", count * stream as i64),
        ("future: parked WebSocket", count * (socket - stream) as i64),
        ("future: the rest", count * (future - socket) as i64),
        ("allocator: headers and rounding", overhead),
    ];
    let timers = after.0.timers as i64 - before.0.timers as i64;
    match style {
        Style::Pages => {
            parts.retain(|(part, _)| !part.contains("WebSocket"));
            parts.push(("server: books", count * IN_BOOKS as i64));
            parts.push(("task: timer", timers));
        }
        Style::Pinging => parts.push(("task: timer", timers)),
        Style::Handler | Style::Loop => {}
    }
    parts
}

/// Blocks that every connection has one of at least, in bytes: the heap's own word for what
/// [`parts`] calls task and allocator, and whatever else there might be.
pub fn small_blocks(connections: u32, before: &Heap, after: &Heap) -> Vec<(usize, f64)> {
    let each = |live: i64| live as f64 / f64::from(connections);
    let grown = after.since(before);
    let small = grown.blocks().filter(|(size, live)| *size < 4096 && each(*live) > 0.01);
    small.map(|(size, live)| (size, each(live))).collect()
}
