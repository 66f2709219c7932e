//! The TCP engine behind the system calls of a socket, under a virtual clock.
//!
//! [`Host`] is a host with nothing but an engine in it: descriptors, socket calls with the errors
//! of Linux, packets in and out, and a clock that moves when it is told. The runner of
//! `net/tests/scripts` drives it from packetdrill's scripts, and [`door`] lets packetdrill itself do so.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod door;
mod errno;
mod host;
mod options;
mod socket;
pub mod tcp_info;

pub use errno::{Errno, Sys};
pub use host::{Host, Sent};
pub use socket::Poll;
