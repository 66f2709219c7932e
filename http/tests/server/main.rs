//! The HTTP server over byte pipes in memory, under virtual time.

#[path = "../support/mod.rs"]
mod support;

mod drain;
mod http1;
mod http2;
mod limits;
mod plain;
mod random;
mod site;
mod upgrade;
