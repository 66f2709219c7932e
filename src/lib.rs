#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use throng_http as http;
pub use throng_net as net;
pub use throng_net::{
    Builder, ConfigError, CongestionControl, Destination, Ecn, IdlePolicy, Limits, SendStream,
    ShardId, TcpListener, TcpSocket, TcpStream, UdpSocket, lookup_host,
};
pub use throng_runtime as runtime;
pub use throng_runtime::{OnThread, sleep, spawn_blocking, spawn_local, spawn_on, timeout};
#[cfg(feature = "tls")]
pub use throng_tls as tls;
pub use throng_ws as ws;
#[cfg(feature = "redis")]
pub use throng_ws_redis as redis;
