//! The hot block: what every connection owns all the time, and nothing else.

use throng_runtime::{ChunkBox, ShardWaker, prefetch_read};

use super::autotune::Room;
use super::cold::Cold;
use super::congestion::Congestion;
use super::demux::{Kind, Slot};
use super::error::Error;
use super::rtt::Rtt;
use super::segment::FourTuple;
use super::seq::SeqNum;
use super::timer::{NodeBy, Tick};
use throng_runtime::slab::Entry;
use throng_runtime::wheel::TimerKey;

/// The states of RFC 9293 3.3.2 a [`ConnId`](super::ConnId) can show. LISTEN belongs to
/// listeners; a passive open shows up when it is established.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Over; what was received may still be read.
    Closed,
    /// Our SYN is out.
    SynSent,
    /// Both SYNs crossed; ours is not acknowledged.
    SynReceived,
    /// Data flows both ways.
    Established,
    /// Our FIN is out (or waits behind data).
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The peer's FIN has come.
    CloseWait,
    /// Both FINs are out, ours is not acknowledged.
    Closing,
    /// The peer's FIN came first, ours is out.
    LastAck,
    /// Both directions are closed; old segments may be about.
    TimeWait,
}

/// What the sender is busy with (RFC 5681, RFC 6675).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// Fast recovery, until `recover` is acknowledged.
    Recovery,
    /// After a timeout, until `recover` is acknowledged.
    Loss,
}

/// What the retransmission timer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Armed {
    /// The timeout, or the next probe of a window.
    Timeout,
    /// The end of the reordering window (RFC 8985 6.2).
    Reordering,
    /// A probe of the flight's tail (RFC 8985 7).
    Probe,
}

/// Bits of [`Conn::marks`].
pub(super) mod mark {
    /// The scoreboard has all that is out. Otherwise that left in one turn, at `rtt_at`.
    pub(crate) const LOGGED: u8 = 1 << 0;
    /// The path was seen to reorder (RACK.reordering_seen of RFC 8985).
    pub(crate) const REORDERS: u8 = 1 << 1;
    /// A probe of the tail sent old data again, all of which is acknowledged: whether it repaired
    /// a loss the next acknowledgement tells. `UNUSUAL` is set meanwhile.
    pub(crate) const PROBED: u8 = 1 << 2;
    /// Was put among those that repeat because they heard nothing, and has not been heard since.
    pub(crate) const REPEATS: u8 = 1 << 3;
    /// `reason` is not why the connection ended, but what ICMP said, told if it times out.
    pub(crate) const SOFT: u8 = 1 << 4;
}

/// Bits of [`Conn::flags`].
pub(super) mod flag {
    /// Nagle's algorithm is off.
    pub(crate) const NODELAY: u32 = 1 << 0;
    /// An ACK has to go out at once.
    pub(crate) const ACK_NOW: u32 = 1 << 1;
    /// An ACK has to go out by `ack_at`.
    pub(crate) const ACK_LATER: u32 = 1 << 2;
    /// The application has shut down writing.
    pub(crate) const FIN_QUEUED: u32 = 1 << 3;
    /// SND.NXT counts the FIN.
    pub(crate) const FIN_SENT: u32 = 1 << 4;
    /// In the transmit queue.
    pub(crate) const QUEUED: u32 = 1 << 5;
    /// A `Readable` event waits to be popped.
    pub(crate) const EVENT_READ: u32 = 1 << 6;
    /// A `Writable` event waits to be popped.
    pub(crate) const EVENT_WRITE: u32 = 1 << 7;
    /// `send` was refused: say so when there is room.
    pub(crate) const WANT_WRITE: u32 = 1 << 8;
    /// The application has closed its handle.
    pub(crate) const ORPHAN: u32 = 1 << 9;
    /// SACK was negotiated.
    pub(crate) const SACK: u32 = 1 << 10;
    /// Timestamps were negotiated.
    pub(crate) const TIMESTAMPS: u32 = 1 << 11;
    /// Window scaling was negotiated.
    pub(crate) const SCALE: u32 = 1 << 12;
    /// The SYN (or SYN-ACK, by state) has to go out.
    pub(crate) const SEND_SYN: u32 = 1 << 13;
    /// A reset has to go out, then the block is free.
    pub(crate) const SEND_RST: u32 = 1 << 14;
    /// A probe (of the window, or of the peer's being there) has to go out.
    pub(crate) const SEND_PROBE: u32 = 1 << 15;
    /// The peer's FIN was received in order.
    pub(crate) const PEER_FIN: u32 = 1 << 16;
    /// The window, not the application, limited what was sent last.
    pub(crate) const CWND_LIMITED: u32 = 1 << 17;
    /// `rtt_seq` and `rtt_at` hold a segment being timed.
    pub(crate) const TIMING: u32 = 1 << 18;
    /// Retransmit one segment whatever the window says.
    pub(crate) const FORCE_RETRANSMIT: u32 = 1 << 19;
    /// In an accept queue.
    pub(crate) const UNACCEPTED: u32 = 1 << 20;
    /// In the demultiplexing table.
    pub(crate) const MAPPED: u32 = 1 << 21;
    /// Whatever is queued may go although it is less than a segment (persist timer).
    pub(crate) const OVERRIDE: u32 = 1 << 22;
    /// Waits for engine-wide send memory.
    pub(crate) const STARVED: u32 = 1 << 23;
    /// The block is in use.
    pub(crate) const LIVE: u32 = 1 << 24;
    /// Closed with a linger time: a reset ends it.
    pub(crate) const LINGERING: u32 = 1 << 25;
    /// This retransmission timer waits for a window to open.
    pub(crate) const PERSIST: u32 = 1 << 26;
    /// The cold box may hold more than plain queues: out-of-order ranges, an early FIN, a
    /// scoreboard.
    pub(crate) const UNUSUAL: u32 = 1 << 27;
    /// All that was out when something was found lost is acknowledged and nothing after it:
    /// without SACK, duplicates may be answers to what was sent twice (RFC 6582 3.2).
    pub(crate) const ECHOES: u32 = 1 << 28;
    /// Offers less than it would if there were more receive memory.
    pub(crate) const SQUEEZED: u32 = 1 << 29;
    /// Sends shorter segments than the peer takes, for the path's sake.
    pub(crate) const NARROW: u32 = 1 << 30;
    /// Knows something of its path that is not for others: see `path::Own`.
    pub(crate) const OWN_PATH: u32 = 1 << 31;
}

/// A connection's hot block. The first 128 bytes are what a predicted segment touches.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Conn {
    pub(super) tuple: FourTuple,
    pub(super) state: State,
    pub(super) phase: Phase,
    pub(super) snd_scale: u8,
    pub(super) rcv_scale: u8,
    pub(super) rcv_nxt: SeqNum,
    pub(super) snd_una: SeqNum,
    pub(super) snd_nxt: SeqNum,
    pub(super) ts_recent: u32,
    pub(super) flags: u32,
    /// The peer's window, scaled.
    pub(super) snd_wnd: u32,

    pub(super) cold: Option<ChunkBox<Cold>>,
    /// The right edge last advertised.
    pub(super) rcv_adv: SeqNum,
    /// RCV.NXT as last acknowledged (Last.ACK.sent of RFC 7323 4.3).
    pub(super) last_ack: SeqNum,
    pub(super) snd_wl1: SeqNum,
    pub(super) snd_wl2: SeqNum,
    /// Retransmission timeout, or window probe.
    pub(super) rexmit_at: Tick,
    /// Delayed ACK.
    pub(super) ack_at: Tick,
    /// Largest payload we send; options are taken off already.
    pub(super) mss: u16,
    /// Largest payload the peer sends, an estimate.
    pub(super) rcv_mss: u16,
    pub(super) ts_offset: u32,
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) cookie: u32,
    /// Who waits to read, woken in place of an event.
    pub(super) reader: Option<ShardWaker>,
    pub(super) bytes_received: u64,

    pub(super) bytes_acked: u64,
    pub(super) congestion: Congestion,
    pub(super) rtt: Rtt,
    /// Where recovery ends.
    pub(super) recover: SeqNum,
    /// What `rexmit_at` is for.
    pub(super) armed: Armed,
    /// Bits of [`mark`].
    pub(super) marks: u8,
    /// By how many quarters of the smallest round trip the reordering window has grown
    /// (RACK.reo_wnd_mult of RFC 8985, less one).
    pub(super) reo_steps: u8,
    /// Recoveries for which it stays so (RACK.reo_wnd_persist).
    pub(super) reo_persist: u8,
    /// The end of the last short segment sent (Minshall's variant of Nagle's algorithm).
    pub(super) short_end: SeqNum,
    pub(super) rtt_seq: SeqNum,
    /// When `rtt_seq` was sent, in microseconds modulo 2^32.
    pub(super) rtt_at: u32,
    pub(super) room: Room,
    /// The node in the wheel, if there is one.
    pub(super) node: Option<TimerKey>,
    /// What the application has set, a number of the engine's table; 0: nothing.
    pub(super) settings: u32,
    /// Keepalive; for an orphan the end of its patience.
    pub(super) keep_at: Tick,
    /// When the peer last acknowledged something new (or the oldest byte was sent).
    pub(super) progress_at: Tick,
    pub(super) last_rcv: Tick,
    pub(super) last_snd: Tick,
    pub(super) challenge_at: Tick,
    pub(super) retransmits: u32,
    /// When it was opened, in seconds of the engine's clock.
    pub(super) opened_at: u32,
    /// Largest window the peer has offered, in units of its window field.
    pub(super) max_wnd: u16,
    /// Largest segment that both ends take, options included.
    pub(super) full_mss: u16,
    /// When `ts_recent` was taken, in hours modulo 2^16.
    pub(super) ts_hour: u16,
    /// Bits of [`ecn`](super::ecn); 0: not in use.
    pub(super) ecn: u8,
    pub(super) dup_acks: u8,
    /// Timeouts or probes in a row without an answer.
    pub(super) retries: u8,
    pub(super) keep_probes: u8,
    /// When `node` comes up at the latest, see [`timer`](super::timer).
    pub(super) node_by: NodeBy,
    /// Why it ended, or with [`mark::SOFT`] what ICMP said last.
    pub(super) reason: Option<Error>,
}

const _: () = assert!(size_of::<Conn>() <= 256, "the hot block is at most 256 bytes");

impl Conn {
    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    pub(super) fn set(&mut self, flags: u32) {
        self.flags |= flags;
    }

    pub(super) fn unset(&mut self, flags: u32) {
        self.flags &= !flags;
    }

    pub(super) fn slot(&self) -> Slot {
        Slot::new(Kind::Conn, self.index)
    }

    /// Sequence space out and not acknowledged.
    pub(super) fn flight(&self) -> u32 {
        self.snd_nxt - self.snd_una
    }

    /// Payload queued, sent or not.
    pub(super) fn queued(&self) -> u32 {
        self.cold.as_ref().map_or(0, |cold| cold.snd.len())
    }

    /// The sequence number after the last queued byte: where the FIN goes.
    pub(super) fn queue_end(&self) -> SeqNum {
        let syn = u32::from(matches!(self.state, State::SynSent | State::SynReceived));
        self.snd_una + syn + self.queued()
    }

    /// Asks the cache for all of it.
    pub(super) fn prefetch(&self) {
        prefetch_read(&self.tuple);
        prefetch_read(&self.cold);
        prefetch_read(&self.bytes_acked);
        prefetch_read(&self.node);
    }

    /// Finds out anew whether the cold box holds more than plain queues.
    pub(super) fn note_unusual(&mut self) {
        self.unset(flag::UNUSUAL);
        if self.marks & mark::PROBED != 0
            || self.cold.as_ref().is_some_and(|cold| cold.is_unusual())
        {
            self.set(flag::UNUSUAL);
        }
    }

    /// When a user timeout of so many milliseconds ends the wait for an acknowledgement; 0: never.
    pub(super) fn user_limit(&self, timeout: u32) -> Tick {
        match timeout {
            0 => Tick::NONE,
            timeout => Tick(self.progress_at.0.wrapping_add(timeout).max(1)),
        }
    }

    /// Why it ended.
    pub(super) fn error(&self) -> Option<Error> {
        self.reason.filter(|_| self.marks & mark::SOFT == 0)
    }

    /// It has ended, for this reason if there was one; the first one counts.
    pub(super) fn set_error(&mut self, error: Option<Error>) {
        self.reason = self.error().or(error);
        self.marks &= !mark::SOFT;
    }

    /// What ICMP said last, while it has not ended.
    pub(super) fn soft_error(&self) -> Option<Error> {
        self.reason.filter(|_| self.marks & mark::SOFT != 0)
    }

    /// ICMP has said this, or `None`: the peer was heard since.
    pub(super) fn set_soft_error(&mut self, error: Option<Error>) {
        if self.error().is_none() {
            self.reason = error;
            self.marks |= mark::SOFT;
        }
    }

    /// The earliest of its deadlines, if it has any.
    #[inline(always)]
    pub(super) fn deadline(&self) -> Tick {
        if self.ack_at.0 | self.keep_at.0 == 0 {
            return self.rexmit_at;
        }
        self.rexmit_at.earliest(self.ack_at).earliest(self.keep_at)
    }

    /// Payload queued beyond SND.NXT.
    pub(super) fn unsent(&self) -> u32 {
        if self.has(flag::FIN_SENT) { 0 } else { self.queue_end() - self.snd_nxt }
    }

    /// The receive window while nothing is unread.
    pub(super) fn room(&self) -> u32 {
        u32::from(self.room.size) << self.rcv_scale
    }

    /// The largest window the peer has offered.
    pub(super) fn max_wnd(&self) -> u32 {
        u32::from(self.max_wnd) << self.snd_scale
    }

    /// What is left of the window last advertised.
    pub(super) fn offered(&self) -> u32 {
        self.rcv_adv - self.rcv_nxt
    }

    /// Whether the application may still be told about it.
    pub(super) fn is_owned(&self) -> bool {
        self.has(flag::LIVE) && !self.has(flag::ORPHAN)
    }
}

impl Entry for Conn {
    fn link(&mut self) -> &mut u32 {
        &mut self.cookie
    }

    fn generation(&self) -> u32 {
        self.generation
    }

    fn set_generation(&mut self, generation: u32) {
        self.generation = generation;
    }
}
