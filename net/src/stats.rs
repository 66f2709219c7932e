//! What the current shard's network has done, and what it holds.

use std::io;

pub use crate::stack::Counters;
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

/// The addresses of the current shard's interface with their prefix lengths, the
/// link-local one included.
///
/// # Errors
/// As for [`current`].
pub fn addresses() -> io::Result<Vec<(std::net::IpAddr, u8)>> {
    let cidrs = local::stack()?.borrow().addresses();
    Ok(cidrs.into_iter().map(|cidr| (cidr.address().into(), cidr.prefix_len())).collect())
}
