//! The TCP engine: segments in, segments out, time passed in.
//!
//! Start reading at [`Engine`]; a segment's way is `wire` -> `predict` (header prediction), or else
//! `arrival` (the checks of RFC 9293 3.10.7.4) -> `recovery` (acknowledgements, loss) and `rcv`
//! (payload); what goes out is decided in `output`.

#![forbid(unsafe_code)]

mod arrival;
mod autotune;
mod cold;
mod config;
mod congestion;
mod core;
mod counters;
mod cubic;
mod demux;
mod ecn;
mod egress;
mod engine;
mod error;
mod events;
mod half;
mod handshake;
mod hole;
mod hystart;
mod info;
mod invariants;
mod isn;
mod limiter;
mod listen;
mod options;
mod output;
mod pacing;
mod path;
mod ports;
mod predict;
mod prr;
mod queue;
mod rack;
mod rcv;
mod recovery;
mod reno;
mod rtt;
mod scoreboard;
pub mod segment;
pub mod seq;
mod settings;
mod snd;
mod sockopt;
mod state;
mod syn_cookie;
mod time_wait;
mod timeout;
mod timer;
mod tlp;
mod trace;
mod undo;
mod wire;

pub use config::{Config, CongestionControl, Ecn, Keepalive};
pub use counters::Counters;
pub use demux::Slot;
pub use egress::{Egress, Full};
pub use engine::{ConnId, Engine, Event, ListenerId};
pub use error::{Error, RecvError, SendError, TooBig, Unreachable};
pub use info::Info;
pub use invariants::Usage;
pub(crate) use isn::siphash;
pub use segment::{Addr, Flags, FourTuple, Header, Options, SackBlock};
pub use seq::SeqNum;
pub use snd::{Payload, Slices};
pub use state::State;
pub use trace::ConnectionId;
pub use wire::Lookup;
