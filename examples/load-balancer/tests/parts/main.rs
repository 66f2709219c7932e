//! throng-lb among real servers, on the host's sockets or on DPDK's net_tap, in sizes for CI or as
//! large as the issue of it asks for (`cargo xtask interop --backend balancer`).

mod bulk;
#[path = "../common/children.rs"]
mod children;
mod place;
mod spread;
mod under_load;
