//! What the log says of connections: events of the target `throng::connection`, with the
//! connection's name. Where nobody listens at their level, each costs a look at that level.
//!
//! | level | event | fields beside `conn`, `local`, `peer` |
//! |---|---|---|
//! | debug | connecting, established | |
//! | debug | ended | `reason`, `received` and `acknowledged` in bytes, `retransmits` |
//! | trace | accepted | |
//! | trace | retransmission timeout | `retries` |

use std::fmt;

use throng_runtime::ShardId;
use tracing::{debug, trace};

use super::core::Core;
use super::engine::ConnId;
use super::state::Conn;

const TARGET: &str = "throng::connection";

/// What the log and the operator's endpoint call a connection: `shard.index.generation`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// The shard that owns the flow.
    pub shard: ShardId,
    /// The engine's name for it.
    pub id: ConnId,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard, self.id.index(), self.id.generation())
    }
}

/// Made only where somebody listens: the macros look at the level first.
fn name(core: &Core, conn: &Conn) -> ConnectionId {
    ConnectionId { shard: core.config.shard, id: conn.id() }
}

pub(super) fn connecting(core: &Core, conn: &Conn) {
    debug!(
        target: TARGET,
        conn = %name(core, conn),
        local = %conn.tuple.local_addr(),
        peer = %conn.tuple.peer_addr(),
        "connecting"
    );
}

pub(super) fn established(core: &Core, conn: &Conn) {
    debug!(
        target: TARGET,
        conn = %name(core, conn),
        local = %conn.tuple.local_addr(),
        peer = %conn.tuple.peer_addr(),
        "established"
    );
}

pub(super) fn accepted(core: &Core, conn: &Conn) {
    trace!(
        target: TARGET,
        conn = %name(core, conn),
        local = %conn.tuple.local_addr(),
        peer = %conn.tuple.peer_addr(),
        "accepted"
    );
}

pub(super) fn timeout(core: &Core, conn: &Conn) {
    trace!(
        target: TARGET,
        conn = %name(core, conn),
        local = %conn.tuple.local_addr(),
        peer = %conn.tuple.peer_addr(),
        retries = conn.retries,
        "retransmission timeout"
    );
}

/// It takes part no more, and `reason` says why.
pub(super) fn ended(core: &Core, conn: &Conn, reason: &dyn fmt::Display) {
    debug!(
        target: TARGET,
        conn = %name(core, conn), local = %conn.tuple.local_addr(), peer = %conn.tuple.peer_addr(), %reason,
        received = conn.bytes_received,
        acknowledged = conn.bytes_acked,
        retransmits = conn.retransmits,
        "ended"
    );
}
