//! The live page: what the server does, drawn in a browser, from a runtime of its own.
//!
//! One more Throng runtime, of one shard on the host's own sockets (device `kernel`), serves
//! three files and a WebSocket, `/live`. Twice a second it looks at the board where the
//! server's shards leave their numbers anyway, so the page costs them nothing. A page can have
//! the server publish a text to all connections; that is a change, and `throng::http::guard` says who may.

mod broadcast;
mod figures;
mod live;
mod site;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use clap::Args;
use futures::channel::oneshot;
use serde::Serialize;
use throng::{Builder, TcpListener};

use crate::server::Control;

/// Where the page is when nobody says otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The page's setting on the command line.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Where the live page is served, on the host's own sockets: an address and port, a port of
    /// 127.0.0.1, or `off`
    #[arg(long, value_name = "ADDR|off", default_value_t)]
    pub(crate) page: Setting,
}

/// Whether there is a page, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Off,
    At(SocketAddr),
}

impl Default for Setting {
    fn default() -> Setting {
        Setting::At(DEFAULT)
    }
}

impl Setting {
    /// As arguments of the server's own process.
    pub(crate) fn args(self) -> [String; 2] {
        ["--page".to_owned(), self.to_string()]
    }
}

impl FromStr for Setting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Setting, Self::Err> {
        if text == "off" {
            return Ok(Setting::Off);
        }
        let port = || text.parse().map(|port| SocketAddr::new(DEFAULT.ip(), port));
        let addr = text.parse().or_else(|_| port());
        addr.map(Setting::At)
            .map_err(|_| "accepted is an address and port, as in 127.0.0.1:8080, a port, or off")
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Off => f.write_str("off"),
            Setting::At(addr) => addr.fmt(f),
        }
    }
}

/// What the page says of the server that does not change.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    pub(crate) device: String,
    pub(crate) shards: u16,
    /// Connections that the server has room for, and a run opens.
    pub(crate) wanted: u32,
    /// Whether the client lives in the server's process, so that memory is both ends'.
    pub(crate) one_process: bool,
}

/// A page that is served, or the reason why there is none.
pub(crate) struct Page {
    said: String,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Page {
    /// Serves the page until it is [ended](Page::end). Where its port is taken, it takes another
    /// one; where it cannot be at all, the demo goes on without.
    pub(crate) fn start(setting: Setting, about: About, control: Arc<Control>) -> Page {
        let Setting::At(wanted) = setting else {
            return Page { said: "off".to_owned(), running: None };
        };
        let started = free(wanted).and_then(|addr| Page::run(addr, about, control));
        let (addr, running) = match started {
            Ok(started) => started,
            Err(error) => return Page { said: format!("none, {wanted}: {error}"), running: None },
        };
        let mut said = format!("http://{addr}/");
        if wanted.port() != 0 && addr.port() != wanted.port() {
            said += &format!(" (port {} is taken)", wanted.port());
        }
        if !addr.ip().is_loopback() {
            said += " (whoever can reach it can publish to all)";
        }
        Page { said, running: Some(running) }
    }

    #[allow(clippy::type_complexity, reason = "what `start` takes apart at once")]
    fn run(
        addr: SocketAddr,
        about: About,
        control: Arc<Control>,
    ) -> io::Result<(SocketAddr, (oneshot::Sender<()>, JoinHandle<()>))> {
        let (end, ended) = oneshot::channel();
        let (bound, is_bound) = mpsc::channel();
        // There is one shard, which takes it.
        let ended = Arc::new(Mutex::new(Some(ended)));
        let thread = std::thread::Builder::new().name("page".to_owned()).spawn(move || {
            let failed = bound.clone();
            let outcome = Builder::new().device("kernel").shards(1).run(move |_| {
                let ended = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
                serve(addr, about.clone(), control.clone(), bound.clone(), ended)
            });
            let error = match outcome.map(|each| each.into_iter().collect()) {
                Ok(Ok(())) => return,
                Ok(Err(error)) | Err(error) => error,
            };
            let _ = failed.send(Err(error));
        })?;
        let addr = is_bound.recv().map_err(|_| io::Error::other("the page ended at once"))??;
        Ok((addr, (end, thread)))
    }

    /// Where it is, or why it is nowhere.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Tells those who look that this is the end, and ends.
    pub(crate) fn end(self) {
        if let Some((end, thread)) = self.running {
            drop(end);
            let _ = thread.join();
        }
    }
}

/// The address, or one with another port where that one is taken. Our own listeners would share
/// a port with those of another demo, each getting some of the visitors.
fn free(addr: SocketAddr) -> io::Result<SocketAddr> {
    match std::net::TcpListener::bind(addr) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(SocketAddr::new(addr.ip(), 0)),
        tried => tried.map(|_| addr),
    }
}

async fn serve(
    addr: SocketAddr,
    about: About,
    control: Arc<Control>,
    bound: mpsc::Sender<io::Result<SocketAddr>>,
    ended: Option<oneshot::Receiver<()>>,
) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    let addr = listener.local_addr()?;
    let live = live::Live::new(about, control)?;
    let looking = throng::spawn_local(live.clone().look_on());
    let serving =
        throng::spawn_local(site::serve(listener, Rc::new(site::Site::new(live.clone()))));
    let _ = bound.send(Ok(addr));
    if let Some(ended) = ended {
        // Its other half is dropped, not sent on.
        let _ = ended.await;
    }
    looking.abort();
    live.end().await;
    serving.abort();
    Ok(())
}
