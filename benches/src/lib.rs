//! What Throng's benches share. The benches themselves are in `benches/benches`, one file
//! each, run by `cargo xtask bench [name]`.

#![deny(unsafe_code)]

pub mod alone;
pub mod balancer;
pub mod callgrind;
pub mod clocked;
pub mod compare;
#[allow(unsafe_code)]
pub mod count;
pub mod cross;
pub mod crowd;
pub mod engine;
pub mod helper;
pub mod idle;
pub mod idle_peer;
pub mod load;
pub mod memory;
pub mod network;
pub mod noise;
pub mod options;
pub mod pair;
pub mod path;
pub mod profile;
pub mod ramp;
pub mod relay;
pub mod report;
pub mod resting;
pub mod role;
pub mod scaling;
pub mod serve;
pub mod stats;
pub mod subject;
pub mod web;
pub mod websocket;
