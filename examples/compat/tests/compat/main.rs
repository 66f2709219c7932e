//! Each example as a process, with a real peer: on the host's sockets (the device `kernel`) and,
//! of each kind, on our own stack over a TAP.

mod axum;
mod grpc;
mod redis;
mod streams;
mod support;
mod tower_layers;
mod vanished;
mod websocket;
