//! What a shard's network has done, and what it holds: in structs ([`current`]), as names and
//! numbers for exporters ([`sheet`]), and its connections one by one ([`connections`]).
//!
//! Counters are plain numbers of their shard. A reader on another shard has a task there look
//! at them, and gets an error where the shard does not answer.

mod connections;
mod sheet;

use std::future::Future;
use std::io;
use std::time::Duration;

use throng_runtime::{ShardId, spawn_on, timeout};

pub use self::connections::{Connection, Page, connections, connections_of};
pub use self::sheet::{GROUPS, Group, Held, Sheet, register, sheet, sheet_of};
pub use crate::stack::Counters;
pub use crate::tcp::ConnectionId;
use crate::{device, local, tcp};

/// Everything counted on one shard.
#[derive(Clone, Debug)]
pub struct Stats {
    /// The packet path.
    pub stack: Counters,
    /// The queue pair.
    pub device: device::Counters,
    /// The TCP engine.
    pub tcp: tcp::Counters,
    /// What the engine holds at the moment.
    pub usage: tcp::Usage,
    /// Bytes that the connections' wakers take.
    pub waker_memory: usize,
}

/// The current shard's numbers.
///
/// # Errors
/// Outside a shard, or on a shard without a network; `Unsupported` on the device `kernel`,
/// where the host does the counting.
pub fn current() -> io::Result<Stats> {
    let stack = local::stack()?;
    let stack = stack.borrow();
    Ok(Stats {
        stack: stack.counters(),
        device: stack.device_counters(),
        tcp: stack.engine.counters().clone(),
        usage: stack.engine.usage(),
        waker_memory: stack.waker_memory(),
    })
}

/// Connections of the current shard that wait for the device to take what they have to send:
/// who writes on very many connections one after the other does well to wait while they are many. Those that
/// repeat what nobody has acknowledged do not count: nobody waits behind all of them.
/// 0 where nobody counts: outside a shard, and on the device `kernel`.
pub fn transmit_waiting() -> usize {
    local::stack().map_or(0, |stack| stack.borrow().engine.transmit_waiting())
}

/// The addresses of the current shard's interface with their prefix lengths, the
/// link-local one included.
///
/// # Errors
/// As for [`current`].
pub fn addresses() -> io::Result<Vec<(std::net::IpAddr, u8)>> {
    let cidrs = local::stack()?.borrow().addresses();
    Ok(cidrs.into_iter().map(|cidr| (cidr.address().into(), cidr.prefix_len())).collect())
}

/// What `f` finds on another shard, or this one.
///
/// # Errors
/// `TimedOut` where the shard does not answer within `patience`; `NotConnected` where it has
/// ended or has no room for a question.
pub(crate) async fn ask<T, F, Fut>(shard: ShardId, patience: Duration, f: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<T>> + 'static,
{
    let mut answer = spawn_on(shard, f);
    match timeout(patience, &mut answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::NotConnected, error)),
        Err(_) => {
            answer.abort();
            let text = format!("shard {shard} did not answer within {patience:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}
