//! The HTTP client through the whole stack: two hosts on a memory link under virtual time,
//! the server's side by this crate's server or written by hand.

mod http2;
mod lease;
mod message;
mod nginx;
mod pool;
mod retry;
mod soak;
mod timeouts;
mod tower;
mod upgrade;
mod world;
