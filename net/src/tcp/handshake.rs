//! Opening: what both SYNs agree on, and SYN_SENT (RFC 9293 3.5, 3.10.7.3). For passive opens
//! see [`half`](super::half).

use super::autotune::Room;
use super::core::{Core, plain};
use super::ecn;
use super::engine::{ConnId, Engine};
use super::error::Error;
use super::options::{self, Offer};
use super::segment::{Flags, FourTuple, Header};
use super::seq::SeqNum;
use super::state::{Conn, State, flag};
use super::timer::{Clock, Tick};

/// How soon after resetting a peer's old connection a SYN is sent again, in milliseconds.
const OLD_CONNECTION: u32 = 2;

/// The window a SYN announces: unscaled (RFC 7323 2.2).
pub(super) fn syn_window(core: &Core) -> u16 {
    core.config.initial_recv_buffer.min(core.config.recv_buffer).min(0xffff) as u16
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
            congestion: super::congestion::Congestion::new(0, core.config.congestion),
            rtt: Default::default(),
            recover: iss,
            armed: super::state::Armed::Timeout,
            marks: 0,
            reo_steps: 0,
            reo_persist: 0,
            short_end: iss,
            rtt_seq: iss,
            rtt_at: 0,
            max_wnd: 0,
            room: Room::default(),
            node: None,
            reader: None,
            keep_at: Tick::NONE,
            progress_at: Tick::NONE,
            last_rcv: Tick::NONE,
            last_snd: Tick::NONE,
            challenge_at: Tick::NONE,
            retransmits: 0,
            opened_at: (now.instant.as_millis() / 1_000) as u32,
            settings: 0,
            ts_hour: 0,
            dup_acks: 0,
            retries: 0,
            keep_probes: 0,
            node_by: Default::default(),
            reason: None,
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
        self.ecn = offer.ecn;
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
        self.max_wnd = window >> self.snd_scale;
        self.room = Room::new(core, self.rcv_scale, now);
        self.snd_wl1 = irs;
        self.snd_wl2 = self.snd_una;
        let control = self.congestion.control();
        self.congestion = super::congestion::Congestion::new(self.initial_window(core), control);
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
        ecn: 0,
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
        if conn.retries == 0 && conn.rexmit_at.is_some() {
            // RFC 9293 3.5.1: an old connection of the peer's, which our RST has just ended. The
            // SYN goes again as soon as that has arrived, once.
            conn.rexmit_at = conn.rexmit_at.earliest(now.after(OLD_CONNECTION));
            core.arm(conn, now);
        }
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
        offer.ecn = ecn::granted(conn, core, header);
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
    // RFC 9293 3.10.7.3, by itself and before any data, as in Linux: a peer that has sent a cookie
    // knows of no connection until the number after its SYN comes, and the first data may be late.
    let window = (conn.offered() >> conn.rcv_scale).min(0xffff) as u16;
    let mut ack = plain(conn.tuple, conn.snd_nxt, conn.rcv_nxt, Flags::ACK, window);
    if conn.has(flag::TIMESTAMPS) {
        let clock = now.tick.0.wrapping_add(conn.ts_offset);
        ack.options.timestamps = Some((clock, conn.ts_recent));
    }
    if !core.reply(ack) {
        core.ack_now(conn);
    }
}

/// Our SYN is acknowledged.
pub(super) fn establish(conn: &mut Conn, core: &mut Core, now: Clock) {
    conn.state = State::Established;
    conn.unset(flag::SEND_SYN);
    if conn.retries > 0 {
        if conn.rtt.srtt() == 0 {
            conn.rtt.start_over(&core.rto);
        }
        if conn.retries > 1 {
            // RFC 6928 2: a path that loses SYNs. As in Linux not for one, since RFC 6298 waits a
            // second only.
            conn.congestion.cwnd = conn.mss.into();
        }
        conn.retries = 0;
    }
    // RFC 1122 4.2.3.9: what ICMP said of the attempt was not the last word.
    conn.set_soft_error(None);
    conn.rexmit_at = Tick::NONE;
    conn.recover = conn.snd_una;
    conn.short_end = conn.snd_una;
    if let Some(keepalive) = core.settings.get(conn.settings).keepalive {
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
