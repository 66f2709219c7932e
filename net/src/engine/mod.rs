//! The TCP engine for tools: segments in, segments out, time passed in.
//!
//! Simulators, fuzzers, script runners and differential tests drive [`Engine`] without a device,
//! a runtime or a clock. What it needs comes in as arguments: [`Header`]s with their payload by
//! [`Engine::on_segment`], the time with every call, randomness as a secret at its start. What it
//! does comes out: segments by [`Engine::poll_transmit`] into an [`Egress`], of which [`Outbox`] is
//! the simplest, [`Event`]s by [`Engine::pop_event`], the next deadline by
//! [`Engine::poll_timeout`]. The same calls in the same order give the same bytes.
//!
//! A turn is: segments, [`Engine::on_timeout`] where the deadline has come, events, what the
//! application does, [`Engine::poll_transmit`]. [`wire`] goes between segments and IP packets.
//!
//! ```
//! use std::time::Duration;
//! use throng_net::engine::{Config, Engine, Event, FourTuple, Instant, Outbox, State};
//!
//! let mut now = Instant::from_millis(1_000);
//! let mut client = Engine::new(Config::default(), [1; 32], now);
//! let mut server = Engine::new(Config::default(), [2; 32], now);
//! let listener = server.listen("10.0.0.2:80".parse().unwrap(), 16).unwrap();
//! let tuple = FourTuple::new("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
//! let conn = client.connect(tuple, now).unwrap();
//!
//! // A link of 5 ms each way, until neither has anything to say.
//! loop {
//!     let mut sent = false;
//!     for i in 0..2 {
//!         let (from, to) = if i == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
//!         let mut out = Outbox::default();
//!         sent |= from.poll_transmit(now, &mut out);
//!         now += Duration::from_millis(5);
//!         for (header, payload) in out.segments {
//!             to.on_segment(&header.flipped(), &payload, now);
//!         }
//!     }
//!     if !sent {
//!         break;
//!     }
//! }
//! assert_eq!(client.state(conn), State::Established);
//! assert_eq!(server.pop_event(), Some(Event::Acceptable(listener)));
//! assert!(server.accept(listener).is_some());
//! ```

pub mod wire;

pub use crate::tcp::{
    Addr, Config, CongestionControl, ConnId, Counters, Ecn, Egress, Engine, Error, Event, Flags,
    FourTuple, Full, Header, Info, Keepalive, ListenerId, Lookup, Options, Payload, RecvError,
    SackBlock, SendError, SeqNum, Slices, Slot, State, TooBig, Unreachable, Usage,
};
pub use throng_runtime::{Instant, ShardId};

/// An [`Egress`] that keeps everything in memory, one segment at a time, without bound.
#[derive(Debug, Default)]
pub struct Outbox {
    /// What was sent, in order: the header, and the payload's bytes.
    pub segments: Vec<(Header, Vec<u8>)>,
}

impl Egress for Outbox {
    fn send(
        &mut self,
        segment: &Header,
        payload: &Payload<'_>,
        _gso_size: u16,
        _cookie: &mut u32,
    ) -> Result<(), Full> {
        self.segments.push((*segment, payload.to_vec()));
        Ok(())
    }

    /// None: every segment comes out by itself.
    fn max_payload(&self) -> usize {
        0
    }
}
