//! New data and the FIN: as much as windows, pace, Nagle's algorithm and silly-window avoidance
//! allow (RFC 9293 3.7.4 and 3.8.6.2.1, RFC 5681 4.1).

use super::*;

impl<E: Egress> Output<'_, E> {
    /// New data and the FIN, as windows, Nagle and silly-window avoidance allow.
    pub(super) fn new_data(&mut self, mut pipe: u32) -> Result<(), Full> {
        self.conn.unset(flag::CWND_LIMITED);
        if !matches!(
            self.conn.state,
            State::Established
                | State::CloseWait
                | State::FinWait1
                | State::Closing
                | State::LastAck
        ) {
            return Ok(());
        }
        self.restart_after_idle();
        if self.conn.has(flag::OWN_PATH) {
            pipe += self.probe_path(pipe)?;
        }
        let offload = self.egress.max_payload() as u32;
        while self.share > 0 {
            let conn = &mut *self.conn;
            let unsent = conn.unsent();
            let fin_due = conn.has(flag::FIN_QUEUED) && !conn.has(flag::FIN_SENT);
            if unsent == 0 && !fin_due {
                break;
            }
            let window = conn.snd_wnd.saturating_sub(conn.flight());
            let congestion = conn.congestion.cwnd.saturating_sub(pipe);
            // What only the pace keeps back does not show that the window is used.
            if unsent > congestion && congestion < window {
                conn.set(flag::CWND_LIMITED);
            }
            let congestion = match &self.rate {
                Some(rate) => congestion.min(self.allowance(rate)),
                None => congestion,
            };
            let conn = &mut *self.conn;
            let mut len = unsent.min(window).min(congestion);
            let most = offload.min(0xffff) / self.mss * self.mss;
            // CWR is for one segment: a run would repeat it.
            if most > self.mss && conn.ecn & ecn::TELL == 0 {
                len = len.min(most.min(self.share * self.mss));
            } else {
                len = len.min(self.mss);
            }
            let whole = len / self.mss * self.mss;
            if len < unsent || (len == unsent && self.holds_tail(len, fin_due)) {
                // Whole segments only, unless waiting for more would wait for ever.
                if whole == 0 && !(len > 0 && len < unsent && self.may_send_part(len, window)) {
                    break;
                }
                len = if whole > 0 { whole } else { len };
            }
            if len == 0 && (!fin_due || unsent > 0 || window == 0) {
                break;
            }
            pipe += self.send_new(len, unsent, fin_due && window > len)?;
        }
        self.wait_for_pace(pipe);
        Ok(())
    }

    /// A segment of full size where shorter ones are sent, if it is time to try one. Returns
    /// its length, or 0.
    #[cold]
    fn probe_path(&mut self, pipe: u32) -> Result<u32, Full> {
        let conn = &mut *self.conn;
        let window = conn.snd_wnd.saturating_sub(conn.flight());
        let room = window.min(conn.congestion.cwnd.saturating_sub(pipe));
        let unsent = conn.unsent();
        if self.sack[0].is_some() {
            // No room for all of them beside a full segment.
            return Ok(0);
        }
        let Some(len) = hole::probe(conn, self.core, (unsent, room), self.now) else {
            return Ok(0);
        };
        let usual = std::mem::replace(&mut self.mss, len);
        let sent = self.send_new(len, unsent, false);
        self.mss = usual;
        if sent.is_ok() {
            hole::on_probe(self.conn, self.core, self.now);
        }
        sent
    }

    /// What may be sent now at the pace of `rate`.
    fn allowance(&self, rate: &Rate) -> u32 {
        let pace = self.conn.cold.as_ref().map_or(Pace::default(), |cold| cold.snd.pace);
        rate.allowance(pace, self.conn.flight(), self.now)
    }

    /// `len` bytes of payload have gone out.
    pub(super) fn pay(&mut self, len: u32) {
        if let Some(rate) = &self.rate
            && let Some(cold) = &mut self.conn.cold
        {
            cold.snd.pace.take(len, rate, self.now);
        }
    }

    /// Has a timer set where only the pace keeps a segment back, with `pipe` bytes on their way.
    fn wait_for_pace(&mut self, pipe: u32) {
        let Some(rate) = &self.rate else { return };
        let conn = &*self.conn;
        let window = conn.snd_wnd.saturating_sub(conn.flight());
        let ready = conn.unsent().min(window).min(conn.congestion.cwnd.saturating_sub(pipe));
        let segment = conn.unsent().min(self.mss);
        if self.share == 0 || ready < segment || self.allowance(rate) >= segment {
            return;
        }
        let slot = Slot::paced(conn.index);
        if let Some(cold) = &mut self.conn.cold {
            cold.snd.pace.wait(ready, rate, slot, self.core, self.now);
        }
    }

    /// Nagle's algorithm as amended by Minshall (and as in Linux): a short segment waits
    /// while another short one is not acknowledged (RFC 9293 3.7.4).
    fn holds_tail(&self, len: u32, fin_due: bool) -> bool {
        !len.is_multiple_of(self.mss)
            && !fin_due
            && !self.conn.has(flag::NODELAY | flag::OVERRIDE)
            && self.conn.flight() > 0
            && self.conn.short_end.after(self.conn.snd_una)
    }

    /// Sender's silly-window avoidance (RFC 9293 3.8.6.2.1): part of a segment only if it is
    /// half of the largest window there was, or the override timer has run out.
    fn may_send_part(&self, len: u32, window: u32) -> bool {
        let conn = &*self.conn;
        len == window && (conn.has(flag::OVERRIDE) || len >= conn.max_wnd() / 2 && len > 0)
    }

    pub(super) fn send_new(&mut self, len: u32, unsent: u32, fin: bool) -> Result<u32, Full> {
        let last = len == unsent;
        let mut flags = Flags::ACK;
        if last && len > 0 {
            flags = flags | Flags::PSH;
        }
        let fin = fin && last;
        if fin {
            flags = flags | Flags::FIN;
        }
        let gso = if len > self.mss { self.mss as u16 } else { 0 };
        let seq = self.conn.snd_nxt;
        self.emit(seq, len, flags, gso)?;
        if fin {
            self.conn.set(flag::FIN_SENT);
        }
        let short = !len.is_multiple_of(self.mss);
        plain::note_sent(self.conn, self.core, len + u32::from(fin), short, 0, self.now);
        self.pay(len);
        self.core.counters.bytes_out += u64::from(len);
        self.share = self.share.saturating_sub(len.div_ceil(self.mss).max(1));
        Ok(len)
    }

    /// RFC 5681 4.1: after a timeout's length of silence the window starts anew.
    fn restart_after_idle(&mut self) {
        let conn = &mut *self.conn;
        if conn.flight() == 0 && conn.unsent() > 0 && is_restart(conn, self.core, self.now) {
            let initial = conn.initial_window(self.core);
            conn.congestion.on_restart(initial);
        }
    }
}
