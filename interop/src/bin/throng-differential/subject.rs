//! Who is judged: one program with sockets, on the kernel's or on ours, told what to do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc as channel;
use throng::net::Keepalive;
use throng::{Builder, IdlePolicy, TcpListener, TcpSocket, TcpStream, spawn_local, timeout};

use crate::link::Link;

/// What an exchange has its sockets do. Each has at most one listener and one stream.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Listen(SocketAddr),
    /// Stops listening.
    Unlisten,
    Accept,
    Connect(SocketAddr, SocketAddr),
    Write(usize),
    /// Reads all there is until this time passes without more.
    Read(Duration),
    ShutdownWrite,
    Close,
    Abort,
    Nodelay,
    Keepalive(Keepalive),
    UserTimeout(Duration),
    Linger(Duration),
}

/// No call takes longer; accepting and connecting may never end by themselves.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);

type Job = (usize, Call, mpsc::Sender<String>);

/// A subject, its link and its addresses.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) link: Arc<Link>,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    jobs: channel::UnboundedSender<Job>,
}

#[derive(Default)]
struct Sockets {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
}

thread_local! {
    /// The sockets of every exchange, on the subject's thread.
    static SOCKETS: RefCell<HashMap<usize, Sockets>> = RefCell::default();
}

impl Subject {
    /// Starts the program on the sockets of `builder`.
    pub(crate) fn start(
        name: &'static str,
        builder: Builder,
        link: Link,
        v4: IpAddr,
        v6: IpAddr,
    ) -> Subject {
        let (jobs, todo) = channel::unbounded::<Job>();
        let todo = Mutex::new(Some(todo));
        let spin = Duration::from_micros(20);
        let builder = builder.shards(1).idle(IdlePolicy::Adaptive { spin, pause: spin });
        thread::spawn(move || {
            let ended = builder.run(|_| {
                let todo = todo.lock().ok().and_then(|mut todo| todo.take());
                async move {
                    let Some(mut todo) = todo else { return };
                    while let Some((exchange, call, tell)) = todo.next().await {
                        spawn_local(async move {
                            let said = timeout(PATIENCE, perform(exchange, call)).await;
                            let _ = tell.send(said.unwrap_or_else(|_| "nothing".into()));
                        })
                        .detach();
                    }
                }
            });
            eprintln!("{name} ended: {ended:?}");
        });
        Subject { link: Arc::new(link), v4, v6, jobs }
    }

    /// Begins a call; its result comes as a line for the transcript.
    pub(crate) fn begin(&self, exchange: usize, call: Call) -> mpsc::Receiver<String> {
        let (tell, told) = mpsc::channel();
        // A subject that has ended drops the sender, which the caller sees.
        let _ = self.jobs.unbounded_send((exchange, call, tell));
        told
    }
}

fn with<T>(exchange: usize, f: impl FnOnce(&mut Sockets) -> T) -> T {
    SOCKETS.with_borrow_mut(|all| f(all.entry(exchange).or_default()))
}

fn words(result: io::Result<()>) -> String {
    result.map_or_else(|error| format!("{:?}", error.kind()), |()| "ok".into())
}

async fn perform(exchange: usize, call: Call) -> String {
    match call {
        Call::Listen(addr) => words(TcpListener::bind(addr).map(|listener| {
            with(exchange, |sockets| sockets.listener = Some(listener));
        })),
        Call::Unlisten => {
            with(exchange, |sockets| sockets.listener = None);
            "ok".into()
        }
        Call::Accept => {
            let Some(listener) = with(exchange, |sockets| sockets.listener.take()) else {
                return "no listener".into();
            };
            let accepted = timeout(Duration::from_millis(400), listener.accept()).await;
            with(exchange, |sockets| sockets.listener = Some(listener));
            match accepted {
                Ok(accepted) => words(accepted.map(|(stream, _)| keep(exchange, stream))),
                Err(_) => "nothing".into(),
            }
        }
        Call::Connect(from, to) => {
            let connected = TcpSocket::new().bind(from).connect(to).await;
            words(connected.map(|stream| keep(exchange, stream)))
        }
        Call::Close => {
            with(exchange, |sockets| sockets.stream = None);
            "ok".into()
        }
        other => {
            let Some(mut stream) = with(exchange, |sockets| sockets.stream.take()) else {
                return "no stream".into();
            };
            let said = match other {
                Call::Write(bytes) => {
                    let chunk = (0..bytes).map(|at| (at % 251) as u8).collect::<Bytes>();
                    words(stream.write_chunk(chunk).await)
                }
                Call::Read(quiet) => read(&mut stream, quiet).await,
                Call::ShutdownWrite => words(stream.shutdown(Shutdown::Write)),
                Call::Nodelay => words(stream.set_nodelay(true)),
                Call::Keepalive(keepalive) => words(stream.set_keepalive(Some(keepalive))),
                Call::UserTimeout(time) => words(stream.set_user_timeout(Some(time))),
                Call::Linger(time) => words(stream.set_linger(Some(time))),
                _ => {
                    stream.abort();
                    return "ok".into();
                }
            };
            keep(exchange, stream);
            said
        }
    }
}

fn keep(exchange: usize, stream: TcpStream) {
    with(exchange, |sockets| sockets.stream = Some(stream));
}

/// How many bytes there are, and what comes behind them.
async fn read(stream: &mut TcpStream, quiet: Duration) -> String {
    let mut count = 0;
    loop {
        match timeout(quiet, stream.read_chunk(usize::MAX)).await {
            Err(_) => return format!("{count} bytes"),
            Ok(Ok(chunk)) if chunk.is_empty() => return format!("{count} bytes, end"),
            Ok(Ok(chunk)) => count += chunk.len(),
            Ok(Err(error)) => return format!("{count} bytes, {:?}", error.kind()),
        }
    }
}
