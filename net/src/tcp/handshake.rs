//! Opening: SYN_RECEIVED as a compact state of its own, and SYN_SENT
//! (RFC 9293 3.5, 3.10.7.2, 3.10.7.3).

use super::core::{Core, plain};
use super::demux::{Kind, Slot};
use super::ecn;
use super::egress::{Egress, Full};
use super::engine::{ConnId, Engine, Event, ListenerId};
use super::error::Error;
use super::options::{self, Offer};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::slab::Entry;
use super::snd::Payload;
use super::state::{Conn, State, flag};
use super::timer::{Clock, Tick};
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
    ecn: bool,
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
    fn succeed(&mut self, _: &Half) {}
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
        let Half { mss, scale, sack, ecn, .. } = *self;
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

/// The window a SYN announces: unscaled (RFC 7323 2.2).
pub(super) fn syn_window(core: &Core) -> u16 {
    core.config.recv_buffer.min(0xffff) as u16
}

impl Conn {
    /// A block for a new connection; sequence numbers of the peer are not known yet.
    pub(super) fn open(
        core: &Core,
        tuple: FourTuple,
        state: State,
        iss: SeqNum,
        ts_offset: u32,
        now: Clock,
    ) -> Conn {
        let mss = core.mss(&tuple);
        Conn {
            tuple,
            state,
            phase: super::state::Phase::Open,
            snd_scale: 0,
            rcv_scale: 0,
            rcv_nxt: SeqNum(0),
            snd_una: iss,
            snd_nxt: iss + 1,
            ts_recent: 0,
            flags: flag::LIVE | flag::MAPPED | if core.config.nodelay { flag::NODELAY } else { 0 },
            snd_wnd: 0,
            cold: None,
            rcv_adv: SeqNum(0),
            last_ack: SeqNum(0),
            snd_wl1: SeqNum(0),
            snd_wl2: SeqNum(0),
            rexmit_at: Tick::NONE,
            ack_at: Tick::NONE,
            mss,
            full_mss: mss,
            ecn: 0,
            rcv_mss: 0,
            ts_offset,
            index: 0,
            generation: 0,
            cookie: 0,
            bytes_received: 0,
            bytes_acked: 0,
            congestion: super::congestion::Congestion::new(0),
            rtt: Default::default(),
            recover: iss,
            high_rxt: iss,
            short_end: iss,
            rtt_seq: iss,
            rtt_at: 0,
            max_wnd: 0,
            node: None,
            node_at: Tick::NONE,
            keep_at: Tick::NONE,
            progress_at: Tick::NONE,
            last_rcv: Tick::NONE,
            last_snd: Tick::NONE,
            challenge_at: Tick::NONE,
            retransmits: 0,
            opened_at: (now.instant.as_millis() / 1_000) as u32,
            user_timeout: 0,
            keepalive: 0,
            linger: 0,
            ts_hour: 0,
            dup_acks: 0,
            retries: 0,
            keep_probes: 0,
            error: None,
            soft_error: None,
        }
    }

    /// Settles what both SYNs agreed on.
    pub(super) fn negotiate(
        &mut self,
        core: &mut Core,
        offer: &Offer,
        irs: SeqNum,
        window: u16,
        now: Clock,
    ) {
        self.full_mss = offer.mss;
        if let Some(scale) = offer.scale {
            self.set(flag::SCALE);
            (self.snd_scale, self.rcv_scale) = (scale, core.rcv_scale);
        }
        if offer.sack {
            self.set(flag::SACK);
        }
        if offer.ecn {
            self.ecn = ecn::AGREED;
        }
        if let Some(theirs) = offer.timestamp {
            self.set(flag::TIMESTAMPS);
            self.ts_recent = theirs;
            self.ts_hour = now.hour;
        }
        super::path::fit(self, core, now);
        self.rcv_nxt = irs + 1;
        self.last_ack = self.rcv_nxt;
        self.rcv_adv = self.rcv_nxt + u32::from(syn_window(core));
        self.rcv_mss = self.mss.min(536);
        self.snd_wnd = u32::from(window);
        self.max_wnd = self.snd_wnd;
        self.snd_wl1 = irs;
        self.snd_wl2 = self.snd_una;
        self.congestion = super::congestion::Congestion::new(self.initial_window(core));
        self.last_rcv = now.tick;
    }

    /// RFC 6928 2.
    pub(super) fn initial_window(&self, core: &Core) -> u32 {
        let mss = u32::from(self.mss);
        let segments = u32::from(core.config.initial_window);
        (segments * mss).min((2 * mss).max(segments * 1460)).max(mss)
    }
}

/// The SYN or SYN-ACK of a connection in SYN_SENT or SYN_RECEIVED.
pub(super) fn syn_header(conn: &Conn, core: &Core, now: Clock) -> Header {
    let mss = core.mss(&conn.tuple);
    let timestamp = now.tick.0.wrapping_add(conn.ts_offset);
    let window = syn_window(core);
    if conn.state == State::SynSent {
        let flags = if ecn::asks(conn, core) { Flags::SYN | ecn::ASKS } else { Flags::SYN };
        let mut syn = plain(conn.tuple, conn.snd_una, SeqNum(0), flags, window);
        syn.options = options::syn(mss, core.rcv_scale, timestamp);
        return syn;
    }
    let offer = Offer {
        mss,
        scale: conn.has(flag::SCALE).then_some(conn.snd_scale),
        sack: conn.has(flag::SACK),
        timestamp: conn.has(flag::TIMESTAMPS).then_some(conn.ts_recent),
        // Who asks while asked gets no answer: simultaneous opens do without.
        ecn: false,
    };
    let flags = Flags::SYN | Flags::ACK;
    let mut syn = plain(conn.tuple, conn.snd_una, conn.rcv_nxt, flags, window);
    syn.options = options::syn_ack(&offer, mss, core.rcv_scale, timestamp);
    syn
}

/// A segment for a connection in SYN_SENT (RFC 9293 3.10.7.3).
pub(super) fn on_segment_syn_sent(conn: &mut Conn, core: &mut Core, header: &Header, now: Clock) {
    let flags = header.flags;
    let acknowledged = flags.contains(Flags::ACK) && header.ack == conn.snd_nxt;
    if flags.contains(Flags::ACK) && !acknowledged {
        core.counters.bad_ack += 1;
        core.reset_for(header, 0, now);
        return;
    }
    if flags.contains(Flags::RST) {
        if acknowledged {
            core.counters.resets_in += 1;
            core.counters.connect_failures += 1;
            core.end(conn, Some(Error::Refused));
        }
        return;
    }
    if !flags.contains(Flags::SYN) {
        return;
    }
    let mut offer = Offer::read(header, core.mss(&conn.tuple));
    if acknowledged {
        conn.snd_una = header.ack;
        offer.ecn = ecn::is_granted(conn, core, header);
    }
    conn.negotiate(core, &offer, header.seq, header.window, now);
    if !acknowledged {
        // RFC 9293 3.5, figure 7: simultaneous open.
        conn.state = State::SynReceived;
        conn.set(flag::SEND_SYN);
        core.want_transmit(conn);
        return;
    }
    if conn.retries == 0 {
        conn.rtt.sample(now.micros.wrapping_sub(conn.rtt_at), &core.rto);
    } else {
        super::recovery::sample_echo(conn, core, header, now);
    }
    establish(conn, core, now);
    core.ack_now(conn);
}

/// Our SYN is acknowledged.
pub(super) fn establish(conn: &mut Conn, core: &mut Core, now: Clock) {
    conn.state = State::Established;
    conn.unset(flag::SEND_SYN);
    if conn.retries > 0 {
        if conn.rtt.srtt() == 0 {
            conn.rtt.start_over(&core.rto);
        }
        conn.retries = 0;
    }
    // RFC 1122 4.2.3.9: what ICMP said of the attempt was not the last word.
    conn.soft_error = None;
    conn.rexmit_at = Tick::NONE;
    (conn.recover, conn.high_rxt) = (conn.snd_una, conn.snd_una);
    conn.short_end = conn.snd_una;
    if let Some(keepalive) = core.keepalives.get(conn.keepalive) {
        conn.keep_at = now.after(super::rtt::millis(keepalive.idle));
    }
    if conn.has(flag::FIN_QUEUED) {
        conn.state = State::FinWait1;
    }
    super::trace::established(core, conn);
    core.readable(conn);
    core.writable(conn);
    core.want_transmit(conn);
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
                // The same SYN again: our answer was lost or late.
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
        if let Some(node) = half.node.take() {
            core.wheel.remove(node);
        }
        half.live = false;
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.half_open -= 1;
        }
        self.halves.remove(index);
        self.promote(listener, conn, Some(Slot::new(Kind::Half, index)), header, payload, now);
    }

    /// An acknowledgement of something else than our SYN-ACK (RFC 9293 3.10.7.4). It may be
    /// of a cookie, sent for the same SYN while the table was full.
    #[cold]
    fn on_stray_ack(&mut self, index: u32, header: &Header, payload: &[u8], now: Clock) {
        let half = self.halves.get_mut(index);
        if half.irs + 1 == header.seq && self.is_cookie(header, now) {
            self.drop_half(index);
            self.on_cookie(header, payload, now);
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
            listener.ready.push_back(conn.id());
            if !listener.event {
                listener.event = true;
                core.events.push_back(Event::Acceptable(id));
            }
        }
        self.on_segment_conn(new, header, payload, now);
    }

    /// Forgets a half-open connection.
    pub(super) fn drop_half(&mut self, index: u32) {
        let half = self.halves.get_mut(index);
        half.live = false;
        if let Some(node) = half.node.take() {
            self.core.wheel.remove(node);
        }
        if let Some(listener) = self.listeners.get_mut(half.listener) {
            listener.half_open -= 1;
        }
        let hash = self.core.demux.hash(&half.tuple);
        let removed = self.core.demux.remove(hash, Slot::new(Kind::Half, index));
        debug_assert!(removed, "a half-open connection is in the table");
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
        let half = self.halves.get_mut(index);
        half.node = None;
        if half.retries >= core.config.syn_ack_retries
            || self.listeners.get(half.listener).is_none()
        {
            core.counters.half_open_expired += 1;
            self.drop_half(index);
            return;
        }
        half.retries += 1;
        core.counters.syn_ack_retransmits += 1;
        half.resent = true;
        if !half.queued {
            half.queued = true;
            core.transmit.push_back(Slot::new(Kind::Half, index));
        }
    }

    /// Starts an active open (RFC 9293 3.10.1).
    pub(super) fn open(&mut self, tuple: FourTuple, now: Clock) -> Result<ConnId, Error> {
        if self.conns.len() >= self.core.config.max_connections {
            return Err(Error::ConnectionLimit);
        }
        if self.tuple_in_use(&tuple) {
            return Err(Error::AddrInUse);
        }
        let core = &mut self.core;
        let iss = core.secret.isn(&tuple, now.instant);
        let ts_offset = core.secret.timestamp_offset(&tuple);
        let conn = Conn::open(core, tuple, State::SynSent, iss, ts_offset, now);
        let index = self.conns.insert(conn);
        let conn = self.conns.get_mut(index);
        conn.index = index;
        conn.progress_at = now.tick;
        conn.set(flag::SEND_SYN);
        core.demux.insert(core.demux.hash(&tuple), conn.slot());
        core.counters.connects += 1;
        super::trace::connecting(core, conn);
        core.want_transmit(conn);
        Ok(conn.id())
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
