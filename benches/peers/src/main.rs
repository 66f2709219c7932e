//! The servers that Throng is compared with, each as people write it: one thread, the host's sockets.
//!
//! `throng-peers tokio-echo --listen 127.0.0.1:7` prints `listening` and serves until its standard
//! input ends. Which core it runs on is the caller's to say (`taskset`). `tungstenite-client` is a client.

#![forbid(unsafe_code)]

mod on_monoio;
mod on_tokio;
mod on_tungstenite;
mod spinning;

use std::io::{self, BufRead};
use std::net::{SocketAddr, TcpListener};

use clap::{Parser, ValueEnum};
use socket2::{Domain, Protocol, Socket, Type};

#[derive(Parser)]
struct Args {
    /// What to be
    kind: Kind,
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of an HTTP response's body, or of a client's message
    #[arg(long, default_value_t = 6)]
    body: usize,
    /// Sockets of datagrams, at as many ports from the one given
    #[arg(long, default_value_t = 1)]
    sockets: u16,
    /// Others listen there, too, and the kernel divides the connections
    #[arg(long)]
    shared: bool,
    /// A client's connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// A client's time
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Sends back what comes
    TokioEcho,
    /// The same on monoio, by epoll: io_uring is forbidden on many machines
    MonoioEcho,
    /// The same on one thread that asks its non-blocking sockets again and again
    SpinningEcho,
    /// A page, HTTP/1.1 by hyper
    TokioHttp,
    /// Accepts and closes
    TokioAccept,
    /// The first byte says which way: `d` sends for ever, anything else is read for ever
    TokioBulk,
    /// Datagrams back to who sent them
    TokioUdp,
    /// WebSocket messages back, with buffers as small as they can be
    Tungstenite,
    /// The same with the buffers that one gets
    TungsteniteDefaults,
    /// What one WebSocket says all are told; with small buffers
    TungsteniteBroadcast,
    /// A client: this many WebSockets, a message on its way on each, for so long
    TungsteniteClient,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    // A client ends by itself.
    if !matches!(args.kind, Kind::TungsteniteClient) {
        std::thread::spawn(|| {
            let more = |read| matches!(read, Ok(read) if read > 0);
            // The caller has gone, or has had enough.
            while more(io::stdin().lock().read_line(&mut String::new())) {}
            std::process::exit(0);
        });
    }
    match args.kind {
        Kind::MonoioEcho => on_monoio::echo(listen(&args)?),
        Kind::SpinningEcho => spinning::echo(&listen(&args)?),
        kind @ (Kind::Tungstenite
        | Kind::TungsteniteDefaults
        | Kind::TungsteniteBroadcast
        | Kind::TungsteniteClient) => on_tungstenite::run(kind, &args),
        kind => on_tokio::run(kind, &args),
    }
}

/// A listener with a backlog that a burst of clients fits in: the usual 128 or 1,024 cost a
/// second for each retransmitted SYN, which says nothing of a server.
fn listen(args: &Args) -> io::Result<TcpListener> {
    let addr = args.listen;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(args.shared)?;
    socket.bind(&addr.into())?;
    socket.listen(65_535)?;
    socket.set_nonblocking(true)?;
    listening();
    Ok(socket.into())
}

fn listening() {
    println!("listening");
}
