//! A thread-per-core async runtime with its own TCP stack on DPDK queues.

pub use throng_http as http;
pub use throng_net as net;
pub use throng_runtime as runtime;
pub use throng_ws as ws;
