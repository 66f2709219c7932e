//! What Throng's benches share. The benches themselves are in `benches/benches`, one file
//! each, run by `cargo xtask bench [name]`.

#![forbid(unsafe_code)]

pub mod callgrind;
pub mod engine;
pub mod network;
pub mod pair;
pub mod relay;
