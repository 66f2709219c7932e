//! The balancer as a process of its own, between nginx and clients, on the host's sockets:
//! each test in a network namespace of its own.

#[path = "../common/children.rs"]
mod children;
mod direct;
mod discovery;
mod failover;
mod forwarding;
mod frames;
mod lifecycle;
mod messages;
mod operating;
mod proxied;
mod readme;
mod secure;
mod strictness;
mod world;
