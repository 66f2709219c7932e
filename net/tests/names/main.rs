//! Names in a simulated world: what the resolver asks, believes and keeps, and how a
//! connection finds its way among several addresses.

mod cancel;
mod connect;
mod net;
mod questions;
mod server;
mod trust;
