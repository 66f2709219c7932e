//! What applications do over a connection, and how each end knows that all is well.

mod line;
mod stream;
mod udp;
mod web;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use throng_net::{Keepalive, TcpStream};

pub(crate) use line::Line;
pub(crate) use stream::{session, stream};
pub(crate) use udp::{echo as udp_echo, udp};
pub(crate) use web::{site, socket_echo, web};

use crate::dice::Dice;
use crate::ledger::{Ledger, Ticket, Trouble};
use crate::plan::{JobPlan, Side};
use crate::switch::{Set, Switch};

/// Ports of the servers.
pub(crate) const STREAM_PORT: u16 = 7;
pub(crate) const WEB_PORT: u16 = 80;
pub(crate) const SOCKET_PORT: u16 = 9001;
pub(crate) const UDP_PORT: u16 = 9;

/// The address of a host.
pub(crate) fn address(side: Side, v6: bool, port: u16) -> SocketAddr {
    match v6 {
        true => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, side as u16 + 1], port)),
        false => SocketAddr::from(([10, 0, 0, side as u8 + 1], port)),
    }
}

/// Runs a client until it is done.
pub(crate) async fn client(job: JobPlan, on: Set, ledger: Rc<Ledger>, ticket: Ticket) {
    let mut dice = Dice::new(job.seed, "client");
    let outcome = match job.kind {
        Switch::Http | Switch::WebSocket => web(&job, &mut dice, &ledger).await,
        Switch::Udp => udp(&job, &mut dice, &ledger).await,
        _ => stream(&job, on, &mut dice, &ledger).await,
    };
    ticket.end(outcome);
}

/// Connects; while the network is ill, as often as it takes.
pub(crate) async fn connect(
    to: SocketAddr,
    dice: &mut Dice,
    ledger: &Rc<Ledger>,
) -> Result<TcpStream, Trouble> {
    use std::io::ErrorKind::*;
    loop {
        // What begins in illness may end in it, a while later.
        let begun = throng_runtime::now();
        let error = match TcpStream::connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let usual = matches!(error.kind(), TimedOut | HostUnreachable)
            || ledger.excuses(&Trouble::Io(std::io::Error::from(error.kind())));
        if !usual || begun > ledger.healthy.get() {
            return Err(error.into());
        }
        throng_runtime::sleep(dice.millis(20, 3_000)).await;
    }
}

/// Lets a connection find out that its peer has gone.
pub(crate) fn keep_alive(stream: &TcpStream, dice: &mut Dice) -> std::io::Result<()> {
    stream.set_keepalive(Some(Keepalive {
        idle: dice.millis(5_000, 60_000),
        interval: dice.millis(1_000, 10_000),
        count: 9,
    }))
}

/// A pause.
pub(crate) async fn rest(duration: Duration) {
    throng_runtime::sleep(duration).await;
}
