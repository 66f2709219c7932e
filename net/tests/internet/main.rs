//! What the internet does to a server: real sockets in a simulated world, and a device between
//! them that floods, or narrows the path.

mod flood;
mod hop;
mod narrow;
