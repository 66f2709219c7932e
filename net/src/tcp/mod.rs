//! The TCP engine: segments in, segments out, time passed in.

pub mod segment;
pub mod seq;
