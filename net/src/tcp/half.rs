//! SYN_RECEIVED as a compact state of its own (RFC 9293 3.5, 3.10.7.2, 3.10.7.4), and how a
//! passive open gets into the accept queue.

use super::core::{Core, plain};
use super::demux::{Kind, Slot};
use super::ecn;
use super::egress::{Egress, Full};
use super::engine::{Engine, ListenerId};
use super::handshake::{establish, syn_window};
use super::options::{self, Offer};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::snd::Payload;
use super::state::{Conn, State, flag};
use super::timer::{Clock, Tick};
use throng_runtime::slab::Entry;
use throng_runtime::wheel::TimerKey;

/// A half-open passive connection: a SYN came, our SYN-ACK is out.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) tuple: FourTuple,
    iss: SeqNum,
    irs: SeqNum,
    ts_recent: u32,
    ts_offset: u32,
    listener: ListenerId,
    node: Option<TimerKey>,
    /// The stack's, see `Engine::set_cookie`.
    cookie: u32,
    /// When the SYN-ACK was sent, in microseconds modulo 2^32.
    sent_at: u32,
    challenge_at: Tick,
    link: u32,
    mss: u16,
    window: u16,
    scale: Option<u8>,
    sack: bool,
    timestamps: bool,
    /// The peer's last SYN asks for ECN.
    ecn: bool,
    /// A SYN-ACK has granted it.
    ecn_told: bool,
    retries: u8,
    /// The SYN-ACK was sent more than once, for the timer's sake or the peer's.
    resent: bool,
    queued: bool,
    live: bool,
}

const _: () = assert!(size_of::<Half>() <= 104, "SYN_RECEIVED is compact");

impl Entry for Half {
    fn link(&mut self) -> &mut u32 {
        &mut self.link
    }
}

impl Half {
    /// Whether its SYN-ACK waits in the transmit queue.
    pub(super) fn is_queued(&self) -> bool {
        self.live && self.queued
    }

    pub(super) fn set_queued(&mut self, queued: bool) {
        self.queued = queued;
    }

    fn offer(&self) -> Offer {
        let timestamp = self.timestamps.then_some(self.ts_recent);
        let ecn = ecn::passive(self.ecn, self.ecn_told);
        let Half { mss, scale, sack, .. } = *self;
        Offer { mss, scale, sack, timestamp, ecn }
    }
}

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// It is dropped, and counted.
    No,
    /// It is answered with a cookie: the half-open table is full.
    Cookie,
    /// It has a place in the half-open table.
    Table,
}

impl Engine {
    /// What there is room for when a SYN has come to this listener; counts what is dropped.
    pub(super) fn admits(&mut self, id: ListenerId) -> Admission {
        let core = &mut self.core;
        let Some(listener) = self.listeners.get(id) else { return Admission::No };
        if listener.ready.len() >= listener.backlog {
            core.counters.syn_dropped_backlog += 1;
            return Admission::No;
        }
        if self.conns.len() >= core.config.max_connections {
            core.counters.syn_dropped_connections += 1;
            return Admission::No;
        }
        if self.halves.len() >= core.config.max_half_open {
            return Admission::Cookie;
        }
        Admission::Table
    }

    /// Whether there is room for a connection whose peer has answered our SYN-ACK; counts
    /// where not.
    pub(super) fn has_place(&mut self, id: ListenerId) -> bool {
        let core = &mut self.core;
        let Some(listener) = self.listeners.get(id) else { return false };
        if listener.ready.len() >= listener.backlog {
            // The peer believes it is connected and will send again (as Linux does).
            core.counters.accept_overflow += 1;
            return false;
        }
        if self.conns.len() >= core.config.max_connections {
            core.counters.syn_dropped_connections += 1;
            return false;
        }
        true
    }

    /// A SYN that the half-open table [admits](Engine::admits) (RFC 9293 3.10.7.2). `beyond`:
    /// the new ISN must come after it.
    pub(super) fn on_syn(
        &mut self,
        id: ListenerId,
        header: &Header,
        beyond: Option<SeqNum>,
        now: Clock,
    ) {
        let core = &mut self.core;
        let Some(listener) = self.listeners.get_mut(id) else { return };
        listener.half_open += 1;
        let tuple = header.tuple;
        let offer = Offer::read(header, core.mss(&tuple));
        let iss = match beyond {
            // As Linux does: beyond anything the old connection can have in the network.
            Some(old) => old + 65_535 + 2,
            None => core.secret.isn(&tuple, now.instant),
        };
        let index = self.halves.insert(Half {
            tuple,
            iss,
            irs: header.seq,
            ts_recent: offer.timestamp.unwrap_or(0),
            ts_offset: core.secret.timestamp_offset(&tuple),
            listener: id,
            node: None,
            cookie: 0,
            sent_at: 0,
            challenge_at: Tick::NONE,
            link: 0,
            mss: offer.mss,
            window: header.window,
            scale: offer.scale,
            sack: offer.sack,
            timestamps: offer.timestamp.is_some(),
            ecn: ecn::is_asked(header, core.config.ecn),
            ecn_told: false,
            retries: 0,
            resent: false,
            queued: true,
            live: true,
        });
        let slot = Slot::new(Kind::Half, index);
        core.demux.insert(core.demux.hash(&tuple), slot);
        core.transmit.push_back(slot);
    }

    /// A segment for a half-open connection (RFC 9293 3.10.7.4, SYN-RECEIVED).
    pub(super) fn on_segment_half(
        &mut self,
        index: u32,
        header: &Header,
        payload: &[u8],
        now: Clock,
    ) {
        let core = &mut self.core;
        let half = self.halves.get_mut(index);
        let flags = header.flags;
        let offset = header.seq.0.wrapping_sub(half.irs.0).wrapping_sub(1);
        let in_window = offset < u32::from(syn_window(core));
        if flags.contains(Flags::RST) {
            // RFC 5961 3.2: exactly the next number resets, one near it is challenged.
            if offset == 0 {
                core.counters.resets_in += 1;
                self.drop_half(index);
            } else if in_window {
                challenge(half, core, now);
            }
            return;
        }
        if flags.contains(Flags::SYN) {
            if header.seq == half.irs && !flags.contains(Flags::ACK) {
                // The same SYN again: our answer was lost or late. RFC 3168 6.1.1: who no
                // longer asks for ECN does not get it.
                half.ecn &= ecn::is_asked(header, core.config.ecn);
                if !half.queued {
                    half.queued = true;
                    half.resent = true;
                    core.counters.syn_ack_retransmits += 1;
                    core.transmit.push_back(Slot::new(Kind::Half, index));
                }
            } else {
                challenge(half, core, now);
            }
            return;
        }
        if !flags.contains(Flags::ACK) {
            core.counters.malformed += 1;
            return;
        }
        match header.options.timestamps {
            Some((value, _))
                if half.timestamps && (value.wrapping_sub(half.ts_recent) as i32) < 0 =>
            {
                core.counters.paws_dropped += 1;
                challenge(half, core, now);
                return;
            }
            None if half.timestamps => {
                core.counters.timestamp_missing += 1;
                return;
            }
            _ => {}
        }
        if header.ack != half.iss + 1 {
            self.on_stray_ack(index, header, payload, now);
            return;
        }
        if !in_window {
            core.counters.out_of_window += 1;
            challenge(half, core, now);
            return;
        }
        let listener = half.listener;
        if self.listeners.get(listener).is_none() {
            core.reset_for(header, 0, now);
            self.drop_half(index);
            return;
        }
        if !self.has_place(listener) {
            if self.core.config.abort_on_overflow {
                self.core.reset_for(header, 0, now);
                self.drop_half(index);
            }
            return;
        }

        let core = &mut self.core;
        let half = self.halves.get_mut(index);
        let mut conn =
            Conn::open(core, half.tuple, State::Established, half.iss, half.ts_offset, now);
        conn.snd_una = half.iss + 1;
        conn.cookie = half.cookie;
        conn.negotiate(core, &half.offer(), half.irs, half.window, now);
        conn.set(flag::UNACCEPTED);
        conn.retries = half.retries;
        if half.resent {
            super::recovery::sample_echo(&mut conn, core, header, now);
        } else {
            conn.rtt.sample(now.micros.wrapping_sub(half.sent_at), &core.rto);
        }
        self.release_half(index);
        self.promote(listener, conn, Some(Slot::new(Kind::Half, index)), header, payload, now);
    }

    /// An acknowledgement of something else than our SYN-ACK (RFC 9293 3.10.7.4). It may be
    /// of a cookie, sent for the same SYN while the table was full.
    #[cold]
    fn on_stray_ack(&mut self, index: u32, header: &Header, payload: &[u8], now: Clock) {
        let half = self.halves.get_mut(index);
        let from = Slot::new(Kind::Half, index);
        if half.irs + 1 == header.seq && self.on_cookie(Some(from), header, payload, now) {
            return;
        }
        self.core.counters.bad_ack += 1;
        self.core.reset_for(header, 0, now);
    }

    /// Puts the connection that `header` completes, and that is `from` in the table if
    /// anything, into the accept queue, where there is a [place](Engine::has_place).
    pub(super) fn promote(
        &mut self,
        id: ListenerId,
        conn: Conn,
        from: Option<Slot>,
        header: &Header,
        payload: &[u8],
        now: Clock,
    ) {
        let Engine { core, conns, listeners, .. } = self;
        let new = conns.insert(conn);
        let conn = conns.get_mut(new);
        conn.index = new;
        let hash = core.demux.hash(&conn.tuple);
        match from {
            Some(from) => core.demux.replace(hash, from, conn.slot()),
            None => core.demux.insert(hash, conn.slot()),
        }
        establish(conn, core, now);
        core.counters.accepts += 1;
        if let Some(listener) = listeners.get_mut(id) {
            if let Some(control) = listener.congestion {
                conn.congestion.choose(control);
            }
            listener.ready.push_back(conn.id());
            if !listener.event {
                listener.event = true;
                core.events.acceptable(id);
            }
        }
        self.on_segment_conn(new, header, payload, now);
    }

    /// Forgets a half-open connection.
    pub(super) fn drop_half(&mut self, index: u32) {
        let tuple = self.halves.get(index).tuple;
        let hash = self.core.demux.hash(&tuple);
        let removed = self.core.demux.remove(hash, Slot::new(Kind::Half, index));
        debug_assert!(removed, "a half-open connection is in the table");
        self.core.ports.release(&tuple);
        self.release_half(index);
    }

    /// Frees the place of a half-open connection; its entry in the table is the caller's.
    pub(super) fn release_half(&mut self, index: u32) {
        let half = self.halves.get_mut(index);
        half.live = false;
        if let Some(node) = half.node.take() {
            self.core.wheel.remove(node);
        }
        if let Some(listener) = self.listeners.get_mut(half.listener) {
            listener.half_open -= 1;
        }
        self.halves.remove(index);
    }

    /// Sends a half-open connection's SYN-ACK and arms its timer.
    pub(super) fn transmit_half(
        &mut self,
        index: u32,
        egress: &mut impl Egress,
        now: Clock,
    ) -> Result<(), Full> {
        let core = &mut self.core;
        let half = self.halves.get_mut(index);
        if !half.live || !half.queued {
            return Ok(());
        }
        let mss = core.mss(&half.tuple);
        let mut flags = Flags::SYN | Flags::ACK;
        if half.ecn {
            flags = flags | Flags::ECE;
        }
        let mut header = plain(half.tuple, half.iss, half.irs + 1, flags, syn_window(core));
        let timestamp = now.tick.0.wrapping_add(half.ts_offset);
        header.options = options::syn_ack(&half.offer(), mss, core.rcv_scale, timestamp);
        egress.send(&header, &Payload::EMPTY, 0, &mut half.cookie)?;
        core.counters.segments_out += 1;
        half.ecn_told |= half.ecn;
        half.queued = false;
        half.sent_at = now.micros;
        if half.node.is_none() {
            let wait = Default::default();
            let wait = super::rtt::Rtt::rto_ms(&wait, &core.rto, half.retries);
            let at = now.after(wait).instant(now.instant);
            half.node = Some(core.wheel.insert(at, Slot::new(Kind::Half, index)));
        }
        Ok(())
    }

    /// A half-open connection's timer.
    pub(super) fn on_timer_half(&mut self, index: u32) {
        let core = &mut self.core;
        // Under a flood those that do not answer are let go of early, as in Linux, and what
        // goes to forged addresses is less.
        let (open, room) = (self.halves.len(), core.config.max_half_open);
        let most = match open {
            open if open <= room / 2 => core.config.syn_ack_retries,
            open if open <= room / 4 * 3 => core.config.syn_ack_retries.min(2),
            _ => core.config.syn_ack_retries.min(1),
        };
        let half = self.halves.get_mut(index);
        half.node = None;
        if half.retries >= most || self.listeners.get(half.listener).is_none() {
            core.counters.half_open_expired += 1;
            self.drop_half(index);
            return;
        }
        half.retries += 1;
        core.counters.syn_ack_retransmits += 1;
        half.resent = true;
        if !half.queued {
            half.queued = true;
            core.repeats.push_back(Slot::new(Kind::Half, index));
        }
    }
}

/// RFC 5961: asks the peer of a half-open connection whether it meant that.
fn challenge(half: &mut Half, core: &mut Core, now: Clock) {
    let tick = now.tick;
    if half.challenge_at.is_some() && tick.age(half.challenge_at) < core.challenge_ms {
        core.counters.challenge_limited += 1;
        return;
    }
    half.challenge_at = tick;
    core.counters.challenge_acks += 1;
    let window = syn_window(core);
    let mut ack = plain(half.tuple, half.iss + 1, half.irs + 1, Flags::ACK, window);
    if half.timestamps {
        ack.options.timestamps = Some((tick.0.wrapping_add(half.ts_offset), half.ts_recent));
    }
    core.reply(ack);
}
