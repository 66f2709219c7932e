//! The stack of the shard this code runs on.

use std::io;

use throng_runtime::local;

use crate::stack::SharedStack;

/// The current shard's stack.
///
/// # Errors
/// Outside a shard, or on a shard without a network.
pub(crate) fn stack() -> io::Result<SharedStack> {
    local::get::<SharedStack>().map(|stack| (*stack).clone()).ok_or_else(|| {
        io::Error::other("no network here: sockets live on the shards of a throng_net::Builder")
    })
}
