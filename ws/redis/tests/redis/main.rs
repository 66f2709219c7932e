//! Hubs that share Debian's redis-server, over the host's sockets: what reaches whom, and what
//! happens when the server is killed, stopped, or does not let us in. Without redis-server the
//! tests say so and pass.

mod lost;
mod shared;
mod support;
#[cfg(feature = "tls")]
mod tls;
