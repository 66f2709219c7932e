//! What goes out: retransmissions, new data, FIN, probes, ACKs (RFC 9293 3.8, RFC 5681,
//! RFC 6675 5).

use super::autotune;
use super::core::{Core, plain};
use super::demux::Slot;
use super::ecn;
use super::egress::{Egress, Full};
use super::handshake::syn_header;
use super::hole;
use super::options::sack_len;
use super::pacing::{self, Pace, Rate};
use super::path;
use super::rack;
use super::recovery;
use super::segment::{Flags, Header, SackBlock};
use super::seq::SeqNum;
use super::snd::Payload;
use super::state::{Armed, Conn, Phase, State, flag, mark};
use super::timer::{Clock, Tick};
use super::tlp;

mod fresh;
mod plain;

/// What became of a connection's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Nothing (more) to send now.
    Done,
    /// Its share is used up; it has more.
    Again,
}

/// One connection's turn on the way out, shared by the steps below.
struct Output<'a, E> {
    conn: &'a mut Conn,
    core: &'a mut Core,
    egress: &'a mut E,
    now: Clock,
    sack: [Option<SackBlock>; 4],
    /// Largest payload of a segment, SACK blocks taken off.
    mss: u32,
    /// Segments left of this turn's share.
    share: u32,
    rate: Option<Rate>,
}

/// Sends what `conn` has to send, at most its share.
pub(super) fn transmit(
    conn: &mut Conn,
    core: &mut Core,
    egress: &mut impl Egress,
    now: Clock,
) -> Result<Turn, Full> {
    if let Some(done) = plain::transmit(conn, core, egress, now) {
        return done;
    }
    if conn.phase == Phase::Open && (conn.has(flag::NARROW) || !core.paths.is_empty()) {
        path::fit(conn, core, now);
    }
    let share = u32::from(core.config.burst.max(1));
    let mut sack = [None; 4];
    let mut mss = u32::from(conn.mss);
    if conn.has(flag::SACK)
        && conn.has(flag::UNUSUAL)
        && let Some(cold) = &conn.cold
    {
        sack = cold.sack_blocks(max_blocks(conn));
        let taken = sack_len(sack.iter().flatten().count());
        mss = mss.saturating_sub(u32::from(taken)).max(1);
    }
    let rate = pacing::rate(conn, core);
    if rate.is_none()
        && let Some(cold) = &mut conn.cold
    {
        cold.snd.pace = Pace::default();
    }
    Output { conn, core, egress, now, sack, mss, share, rate }.run()
}

/// SACK blocks that a segment has room for (RFC 2018 3).
fn max_blocks(conn: &Conn) -> usize {
    if conn.has(flag::TIMESTAMPS) { 3 } else { 4 }
}

/// Whether the connection was silent for longer than a timeout (RFC 5681 4.1).
fn is_restart(conn: &Conn, core: &Core, now: Clock) -> bool {
    conn.last_snd.is_some() && now.tick.age(conn.last_snd) > conn.rtt.rto_ms(&core.rto, 0)
}

impl<E: Egress> Output<'_, E> {
    fn run(mut self) -> Result<Turn, Full> {
        if self.conn.has(flag::SEND_RST) {
            return self.reset();
        }
        match self.conn.state {
            State::Closed | State::TimeWait => return Ok(Turn::Done),
            State::SynSent | State::SynReceived => return self.syn(),
            _ => {}
        }
        // What was read since the last turn leaves it empty, if it does: now, for what this turn
        // comes to hold against prediction shall stay.
        self.core.put_away(self.conn);
        let data = self.conn.flight() > 0 || self.conn.unsent() > 0;
        if data || self.conn.has(flag::FIN_QUEUED) {
            self.probe_tail()?;
            let mut pipe = recovery::pipe(self.conn);
            if self.conn.phase != Phase::Open || self.conn.has(flag::FORCE_RETRANSMIT) {
                self.retransmit(&mut pipe)?;
            }
            self.new_data(pipe)?;
        }
        if self.conn.has(flag::SEND_PROBE) {
            self.probe()?;
        }
        if self.conn.has(flag::ACK_NOW) {
            let seq = self.conn.snd_nxt;
            self.emit(seq, 0, Flags::ACK, 0)?;
        }
        self.core.put_away(self.conn);
        self.timers();
        if self.share == 0 { Ok(Turn::Again) } else { Ok(Turn::Done) }
    }

    /// Sets the timers that what happened in this turn calls for.
    fn timers(&mut self) {
        let conn = &mut *self.conn;
        if conn.has(flag::ACK_LATER) && !conn.ack_at.is_some() {
            conn.ack_at = self.now.after(self.core.delayed_ack_ms);
        }
        if conn.flight() > 0 {
            if !conn.rexmit_at.is_some() {
                recovery::set_timer(conn, self.core, self.now);
            }
        } else if conn.unsent() > 0 || conn.has(flag::FIN_QUEUED) && !conn.has(flag::FIN_SENT) {
            // Nothing is out, so only the peer's window can be in the way: RFC 9293 3.8.6.1.
            if !conn.rexmit_at.is_some() {
                conn.set(flag::PERSIST);
                conn.progress_at = self.now.tick;
                recovery::set_timer(conn, self.core, self.now);
            }
        }
        if conn.has(flag::WANT_WRITE) {
            autotune::wake_writer(conn, self.core);
        }
        self.core.arm(conn, self.now);
    }

    fn reset(self) -> Result<Turn, Full> {
        let seq = self.conn.snd_nxt;
        let mut header = plain(self.conn.tuple, seq, self.conn.rcv_nxt, Flags::RST | Flags::ACK, 0);
        self.stamp(&mut header);
        self.egress.send(&header, &Payload::EMPTY, 0, &mut self.conn.cookie)?;
        self.core.counters.segments_out += 1;
        self.core.counters.resets_out += 1;
        self.conn.unset(flag::SEND_RST);
        Ok(Turn::Done)
    }

    fn syn(mut self) -> Result<Turn, Full> {
        if !self.conn.has(flag::SEND_SYN) {
            if self.conn.state == State::SynReceived && self.conn.has(flag::ACK_NOW) {
                // RFC 9293 3.10.7.4: also this state answers what it does not accept.
                let seq = self.conn.snd_nxt;
                self.emit(seq, 0, Flags::ACK, 0)?;
            }
            return Ok(Turn::Done);
        }
        let Output { conn, core, egress, now, .. } = self;
        let header = syn_header(conn, core, now);
        egress.send(&header, &Payload::EMPTY, 0, &mut conn.cookie)?;
        core.counters.segments_out += 1;
        conn.unset(flag::SEND_SYN | flag::ACK_NOW);
        conn.rtt_at = now.micros;
        conn.rexmit_at = Tick::NONE;
        recovery::start_timer(conn, core, now);
        Ok(Turn::Done)
    }

    fn stamp(&self, header: &mut Header) {
        if self.conn.has(flag::TIMESTAMPS) {
            let clock = self.now.tick.0.wrapping_add(self.conn.ts_offset);
            header.options.timestamps = Some((clock, self.conn.ts_recent));
        }
    }

    /// Sends one segment, or with `gso` a run of them, of the queue's bytes from `seq` on.
    fn emit(&mut self, seq: SeqNum, len: u32, flags: Flags, gso: u16) -> Result<(), Full> {
        let window = window(self.conn, self.core, self.now);
        let mut header = plain(self.conn.tuple, seq, self.conn.rcv_nxt, flags | Flags::ACK, 0);
        header.window = (window >> self.conn.rcv_scale).min(0xffff) as u16;
        header.options.sack = self.sack;
        self.stamp(&mut header);
        if self.conn.ecn != 0 {
            self.mark(&mut header, len);
        }
        let payload = match &mut self.conn.cold {
            Some(cold) if len > 0 => cold.snd.gather(seq - self.conn.snd_una, len),
            _ => Payload::EMPTY,
        };
        self.egress.send(&header, &payload, gso, &mut self.conn.cookie)?;
        if header.flags.contains(Flags::CWR) {
            self.conn.ecn &= !ecn::TELL;
        }
        self.core.counters.segments_out += 1;
        self.conn.rcv_adv = self.conn.rcv_nxt + window;
        self.conn.last_ack = self.conn.rcv_nxt;
        self.conn.unset(flag::ACK_NOW | flag::ACK_LATER);
        self.conn.ack_at = Tick::NONE;
        if header.options.sack[0].is_some() {
            self.note_reported();
        }
        Ok(())
    }

    /// SACK blocks are out. What came twice is reported once (RFC 2883 4).
    fn note_reported(&mut self) {
        let max = max_blocks(self.conn);
        if let Some(cold) = &mut self.conn.cold
            && cold.has_duplicate()
        {
            cold.extra().twice = None;
            self.sack = cold.sack_blocks(max);
            self.core.counters.dsacks_out += 1;
            self.conn.note_unusual();
        }
    }

    /// RFC 3168 6.1: what is new may be marked; neither what is sent again (6.1.5) nor what
    /// carries nothing (6.1.4).
    fn mark(&self, header: &mut Header, len: u32) {
        if self.conn.ecn & ecn::ECHO != 0 {
            header.flags = header.flags | Flags::ECE;
        }
        if len > 0 && header.seq == self.conn.snd_nxt {
            if self.conn.ecn & ecn::MARKABLE != 0 {
                header.ecn = ecn::CAPABLE;
            }
            if self.conn.ecn & ecn::TELL != 0 {
                header.flags = header.flags | Flags::CWR;
            }
        }
    }

    /// What is lost, as the congestion window allows (RFC 6675 5).
    fn retransmit(&mut self, pipe: &mut u32) -> Result<(), Full> {
        while self.share > 0 {
            let Some((from, to)) = recovery::next_lost(self.conn, self.mss + 1) else { break };
            let force = self.conn.has(flag::FORCE_RETRANSMIT);
            if !force && *pipe + self.mss > self.conn.congestion.cwnd {
                break;
            }
            let sent = self.resend(from, to)?;
            *pipe += sent;
            self.share -= 1;
            self.pay(sent);
        }
        Ok(())
    }

    /// Sends again what begins at `from`, at most a segment and at most up to `to`. Returns how
    /// much that is.
    fn resend(&mut self, from: SeqNum, to: SeqNum) -> Result<u32, Full> {
        let fin_at = self.conn.has(flag::FIN_SENT).then(|| self.conn.snd_nxt - 1);
        let data_end = fin_at.unwrap_or(self.conn.snd_nxt);
        let end = if to.after(data_end) { data_end } else { to };
        let len = if from.before(end) { (end - from).min(self.mss) } else { 0 };
        let fin = fin_at.is_some_and(|at| at == from + len);
        let mut flags = Flags::ACK;
        if fin {
            flags = flags | Flags::FIN;
        }
        if from + len == data_end && len > 0 {
            flags = flags | Flags::PSH;
        }
        self.emit(from, len, flags, 0)?;
        self.conn.unset(flag::FORCE_RETRANSMIT);
        let end = from + len + u32::from(fin);
        rack::note_resent(self.conn, from, end, self.now);
        let conn = &mut *self.conn;
        if from == conn.snd_una && conn.phase == Phase::Recovery && conn.armed == Armed::Timeout {
            // RFC 6675 6: its answer takes another round trip. As in Linux.
            recovery::start_timer(conn, self.core, self.now);
        }
        // Karn's rule.
        self.conn.unset(flag::TIMING);
        self.conn.retransmits = self.conn.retransmits.saturating_add(1);
        self.core.counters.retransmits += 1;
        self.conn.last_snd = self.now.tick;
        Ok(end - from)
    }

    /// The probe of the tail, if it is time for it (TLP_send_probe of RFC 8985 7.3): a new
    /// segment whatever the congestion window says, or the last one again.
    fn probe_tail(&mut self) -> Result<(), Full> {
        if !tlp::is_due(self.conn) {
            return Ok(());
        }
        let conn = &*self.conn;
        let (unsent, flight) = (conn.unsent(), conn.flight());
        let window = conn.snd_wnd.saturating_sub(flight);
        let len = unsent.min(self.mss);
        let again = len == 0 || len > window;
        if flight > 0 && again {
            let fin = u32::from(conn.has(flag::FIN_SENT));
            let last = conn.snd_nxt - fin - (flight - fin).min(self.mss);
            self.resend(last, conn.snd_nxt)?;
        } else if flight > 0 {
            let fin_due = conn.has(flag::FIN_QUEUED) && !conn.has(flag::FIN_SENT);
            self.send_new(len, unsent, fin_due && window > len)?;
        }
        tlp::note_sent(self.conn, self.core, again, self.now);
        Ok(())
    }

    /// A segment that no peer can leave without an answer: an old sequence number, no
    /// payload. For closed windows RFC 9293 3.8.6.1 has one byte of new data instead; Linux
    /// does it this way, and so nothing is sent that the window forbids.
    fn probe(&mut self) -> Result<(), Full> {
        let seq = self.conn.snd_una - 1;
        self.emit(seq, 0, Flags::ACK, 0)?;
        self.conn.unset(flag::SEND_PROBE);
        self.core.counters.probes += 1;
        Ok(())
    }
}

/// The window to advertise (RFC 9293 3.8.6.2.2): never less than what is offered already,
/// and more only when the step is worth it.
#[inline(always)]
fn window(conn: &mut Conn, core: &mut Core, now: Clock) -> u32 {
    let offered = conn.offered();
    let enough = offered.saturating_add(step(conn, 1));
    if enough > conn.room() {
        // Nothing to work out where even an empty buffer has no step to give.
        return offered;
    }
    step_of_window(conn, core, enough, now)
}

/// The window to advertise, if it comes to `enough`, or else what is offered.
#[inline(never)]
fn step_of_window(conn: &mut Conn, core: &mut Core, enough: u32, now: Clock) -> u32 {
    let (offered, scale) = (conn.offered(), conn.rcv_scale);
    autotune::tune(conn, core, now);
    let fresh = autotune::free_window(conn, core);
    if fresh < enough {
        return offered;
    }
    // The edge moves by what the field can say; where it stays, the field is rounded down
    // (RFC 7323 2.4), lest rounding move it with every segment.
    (fresh.min(0xffff << scale) >> scale << scale).max(offered)
}

/// By how much a window opens at least: so many segments, or half of it.
fn step(conn: &Conn, segments: u32) -> u32 {
    (conn.room() / 2).min(segments * u32::from(conn.rcv_mss)).max(1)
}

/// Has a window update sent if the application has read enough to be worth it.
#[cold]
pub(super) fn offer_more(conn: &mut Conn, core: &mut Core) {
    if conn.has(flag::MAPPED) && !conn.has(flag::PEER_FIN) {
        let enough = conn.offered().saturating_add(step(conn, 2));
        if autotune::free_window(conn, core) >= enough {
            core.ack_now(conn);
        } else if core.is_recv_memory_short() {
            core.squeeze(conn);
        }
    }
}
