//! Datagrams: those that arrive are whole.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use throng_net::UdpSocket;

use super::{UDP_PORT, address};
use crate::dice::Dice;
use crate::ledger::{Ledger, Trouble};
use crate::pattern;
use crate::plan::JobPlan;

/// The seed, then the pattern.
fn is_whole(datagram: &[u8]) -> bool {
    let Some((seed, rest)) = datagram.split_first_chunk() else { return false };
    pattern::holds(u64::from_be_bytes(*seed), 0, rest)
}

/// A client: sends datagrams and looks at the echoes that come back to its shard.
pub(crate) async fn udp(
    job: &JobPlan,
    dice: &mut Dice,
    ledger: &Rc<Ledger>,
) -> Result<(), Trouble> {
    let any: SocketAddr = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 0));
    let socket = UdpSocket::bind(any)?;
    let to = address(1 - job.from, job.v6, UDP_PORT);
    for _ in 0..dice.within(1, 20) {
        let seed = dice.number();
        let len = dice.scaled(1, 4_000) as usize;
        let datagram = [&seed.to_be_bytes()[..], &pattern::bytes(seed, 0, len)].concat();
        socket.send_to(&datagram, to).await?;
        let answer = throng_runtime::timeout(dice.millis(10, 1_000), socket.recv_from());
        if let Ok(answer) = answer.await {
            let (bytes, from) = answer?;
            if from != to || !is_whole(&bytes) {
                ledger.fail(format!("a datagram of {} bytes from {from} is another", bytes.len()));
            }
            ledger.moved(bytes.len());
        }
        throng_runtime::sleep(Duration::from_millis(dice.within(0, 50))).await;
    }
    Ok(())
}

/// The server.
pub(crate) async fn echo(socket: UdpSocket, ledger: Rc<Ledger>) {
    while let Ok((bytes, from)) = socket.recv_from().await {
        if !is_whole(&bytes) {
            ledger.fail(format!("a datagram of {} bytes from {from} is broken", bytes.len()));
        }
        if let Err(error) = socket.send_to(&bytes, from).await {
            ledger.fail(format!("no datagram could be sent to {from}: {error}"));
        }
    }
}
