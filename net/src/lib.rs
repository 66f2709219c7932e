//! Throng's network: devices, the packet path, the TCP engine and the async sockets on top.
//!
//! A [`Builder`] opens a device, starts a shard on each of its queues and runs a future on
//! every shard. There [`TcpListener`], [`TcpStream`] and [`UdpSocket`] are what they are
//! elsewhere, except that a packet's whole way lies on one thread: device, [`tcp::Engine`],
//! task.
//!
//! With the device `kernel`, which is what a [`Builder`] uses when nothing else is said, the
//! same sockets are the host's, and so are those of [`TcpListener::bind_kernel`],
//! [`TcpSocket::kernel`] and [`UdpSocket::bind_kernel`] on any shard.

#![deny(unsafe_code)]

mod builder;
mod config;
pub mod device;
pub mod engine;
mod kernel;
mod listener;
mod local;
pub mod packet;
pub mod pcap;
pub mod proxy_protocol;
pub mod resolver;
pub mod rss;
pub mod sim;
mod stack;
pub mod stats;
pub mod steering;
mod stream;
pub mod tcp;
mod udp;

pub use builder::Builder;
pub use config::{ConfigError, Limits};
pub use listener::TcpListener;
pub use local::is_kernel;
pub use resolver::{Destination, lookup_host};
pub use stream::{SendStream, TcpSocket, TcpStream};
pub use tcp::{CongestionControl, Ecn, Info, Keepalive};
pub use throng_runtime::{IdlePolicy, ShardId};
pub use udp::UdpSocket;
