//! A shard's connections, page by page.

use std::io;
use std::time::Duration;

use throng_runtime::{ShardId, current_shard, yield_now};

use super::ask;
use crate::local;
use crate::tcp::{ConnectionId, Info};

/// Places of the connection table looked at in one turn of the loop: at most so many cache
/// misses, some tens of microseconds.
const SLOTS_PER_TURN: u32 = 256;
/// Places looked at for one page, however few connections are in them.
const SLOTS_PER_PAGE: u32 = 1 << 17;

/// One connection at one moment.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnectionId,
    /// What is to be known of it.
    pub info: Info,
}

/// A part of a shard's connections.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// At most as many as were asked for.
    pub connections: Vec<Connection>,
    /// Where to go on; `None`: that was all.
    pub next: Option<u32>,
}

/// The current shard's connections from the cursor `from` (0: the beginning) on, at most
/// `limit` of them. Half-open connections and TIME_WAIT entries are only counted, see
/// [`tcp::Usage`](crate::tcp::Usage).
///
/// It looks at some hundred places of the table a turn, so a shard is never held up, and at
/// a bounded number in all: a page may be short of `limit`, or empty, and yet have a `next`.
/// Going on from page to page sees every connection that is open all the while.
///
/// # Errors
/// Outside a shard; `Unsupported` on the device `kernel`, where the host keeps the
/// connections.
pub async fn connections(from: u32, limit: usize) -> io::Result<Page> {
    let stack = local::stack()?;
    let shard = current_shard();
    let mut page = Page { connections: Vec::new(), next: Some(from) };
    let end = from.saturating_add(SLOTS_PER_PAGE);
    while let Some(at) = page.next.filter(|at| *at < end && page.connections.len() < limit) {
        let visit = |id, info| {
            page.connections.push(Connection { id: ConnectionId { shard, id }, info });
            page.connections.len() < limit
        };
        let slots = SLOTS_PER_TURN.min(end - at);
        page.next = stack.borrow().engine.scan(at, slots, throng_runtime::now(), visit);
        yield_now().await;
    }
    Ok(page)
}

/// The same of any shard of this runtime.
///
/// # Errors
/// `TimedOut` where the shard does not answer within `patience`; `NotConnected` where it has
/// ended; as for [`connections`].
pub async fn connections_of(
    shard: ShardId,
    from: u32,
    limit: usize,
    patience: Duration,
) -> io::Result<Page> {
    ask(shard, patience, move || connections(from, limit)).await
}
