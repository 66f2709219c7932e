//! Simulated goodput.
