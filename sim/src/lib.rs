//! Whole hosts in a simulated world, by seed.
//!
//! The *swarm*: a seed draws a configuration of two hosts, what their applications do, and
//! which faults strike them, runs it under virtual time, and checks what has to hold whatever
//! happens (see [`run`]). A run is repeated by its seed alone. Each seed draws a *subset* of
//! the faults: all at once hide each other (Groce et al., "Swarm Testing", ISSTA 2012).
//!
//! The *goodput*: bulk transfer over a table of paths, compared with a committed snapshot.

#![forbid(unsafe_code)]

pub mod dice;
pub mod goodput;
pub mod jobs;
mod ledger;
pub mod pattern;
pub mod plan;
mod port;
mod router;
pub mod run;
mod servers;
pub mod shrink;
pub mod struck;
pub mod switch;
