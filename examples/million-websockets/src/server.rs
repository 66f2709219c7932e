//! The server: accepts WebSockets and sends every message back.

use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use throng::{Builder, TcpListener, TcpStream, runtime};

use crate::host;

/// What the outside tells a running server, and hears from it.
#[derive(Default)]
pub(crate) struct Control {
    /// Shards that listen.
    pub(crate) listening: AtomicUsize,
    /// Set to end the server.
    pub(crate) stop: AtomicBool,
}

/// The server as a process: prints `ready`, ends when its standard input does.
pub(crate) fn run_process(device: &str, shards: u16, connections: u32) -> io::Result<bool> {
    let control = Arc::new(Control::default());
    let watcher = control.clone();
    std::thread::spawn(move || {
        while watcher.listening.load(Ordering::Acquire) < usize::from(shards) {
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("ready");
        // A failed flush means the parent is gone, and so does the end of the input.
        let _ = io::stdout().flush();
        let _ = io::stdin().lock().read_line(&mut String::new());
        watcher.stop.store(true, Ordering::Release);
    });
    run(device, shards, connections, &control)?;
    Ok(true)
}

/// Serves until told to stop.
pub(crate) fn run(
    device: &str,
    shards: u16,
    connections: u32,
    control: &Arc<Control>,
) -> io::Result<()> {
    let builder = Builder::new()
        .device(device)
        .address(format!("{}/24", host::SERVER))
        .shards(shards.into())
        .limits(host::limits(connections));
    let outcomes = builder.run(|_| serve(connections, control.clone()))?;
    outcomes.into_iter().collect()
}

async fn serve(connections: u32, control: Arc<Control>) -> io::Result<()> {
    for port in host::ports(connections) {
        let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?;
        runtime::spawn_local(accept(listener));
    }
    control.listening.fetch_add(1, Ordering::AcqRel);
    while !control.stop.load(Ordering::Acquire) {
        runtime::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn accept(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        runtime::spawn_local(echo(stream));
    }
}

async fn echo(stream: TcpStream) {
    let Ok(mut socket) = throng::ws::accept(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    /// What every idle connection keeps as its task: it must not grow by a buffer on the sly.
    #[test]
    fn an_echo_task_is_small() {
        fn size<F, A>(_: fn(A) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(super::echo) <= 320, "{} bytes", size(super::echo));
    }
}
