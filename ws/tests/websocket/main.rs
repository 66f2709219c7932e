//! WebSockets over a byte pipe in memory, under virtual time.

#[path = "../../../http/tests/support/mod.rs"]
mod support;

mod close;
mod handshake;
mod messages;
mod over_tcp;
mod parking;
mod plain;
mod random;
mod raw;
mod serve;
mod split;
mod timers;
mod upgrade;
