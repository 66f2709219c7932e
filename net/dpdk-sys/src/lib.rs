//! Raw bindings to DPDK (22.11 or later): the control functions as bindgen reads them from
//! the headers, and a C shim for what the headers define inline, in calls that take a whole
//! burst.
//!
//! Empty without the feature `link`, so that a workspace with this member builds on a
//! machine without DPDK. Nothing here is safe to call without knowing DPDK's rules; the safe
//! side is `throng_net::device::dpdk`.

#[cfg(feature = "link")]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(feature = "link")]
pub use bindings::*;
