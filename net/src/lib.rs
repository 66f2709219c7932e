//! Throng's network: devices, the packet path, the TCP engine and the async sockets on top.

pub mod device;
pub mod packet;
pub mod rss;
pub mod steering;
pub mod tcp;
