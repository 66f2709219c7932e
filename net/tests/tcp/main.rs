//! Tests of the TCP engine: two engines against each other, and segments by hand.

#![allow(unreachable_pub, dead_code)]

mod attack;
mod autotune;
mod basic;
mod bottleneck;
mod checks;
mod closing;
mod cookies;
mod cubic;
mod dsack;
mod ecn;
mod fuzzed;
mod hostile;
mod hystart;
mod lifecycle;
mod offload;
mod opening;
mod pacing;
mod peer;
mod pmtu;
mod ports;
mod prr;
mod rack;
mod random;
mod receiving;
mod regressions;
mod reno;
mod sending;
mod sws;
mod table;
mod tlp;
mod transfer;
mod undo;
mod urgent;
mod world;
