//! Timers that have run out, and the invariants that hold between any two calls.

use std::time::Duration;

use throng_runtime::Instant;

use super::core::Core;
use super::demux::Kind;
use super::engine::Engine;
use super::pacing;
use super::rack;
use super::recovery;
use super::rtt::millis;
use super::settings::Settings;
use super::state::{Armed, Conn, State, flag};
use super::timer::{Clock, Tick};
use super::tlp;

/// Timers run by one `on_timeout`.
const BUDGET: usize = 512;

/// Connections with a timer that is due of which the cache is asked for at a time.
const AHEAD: usize = 32;

/// A clock that goes on by more than this at once goes in steps.
const LEAP: Duration = Duration::from_secs(20 * 86_400);

impl Engine {
    /// Runs timers that are due, a bounded number. Returns whether any was, or more have to be looked at.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.timers_at) > LEAP {
            self.leap(now);
        }
        let now = self.tell(now);
        self.timers_at = now.instant;
        self.run_timers(now)
    }

    /// Runs what has come up on the way to `now`, in steps: ticks that are farther apart than
    /// 24 days do not compare, and a clock can jump, say where a machine has slept.
    #[cold]
    fn leap(&mut self, now: Instant) {
        while now.saturating_since(self.timers_at) > LEAP
            && let Some(next) = self.next_timer()
            && next + LEAP < now
        {
            self.timers_at = self.timers_at.max(next) + LEAP / 2;
            // All of them, however many: what is left would not compare any more.
            self.clock = Clock::new(self.timers_at);
            while self.next_timer().is_some_and(|at| at <= self.timers_at) {
                self.run_timers(self.clock);
            }
        }
    }

    fn run_timers(&mut self, now: Clock) -> bool {
        let mut due = std::mem::take(&mut self.due);
        let more = self.core.wheel.advance(now.instant, BUDGET, &mut |slot| due.push(slot));
        let mut any = more || !due.is_empty();
        for (at, &slot) in due.iter().enumerate() {
            // Nobody has looked at most of these connections since their timers were armed.
            if at % AHEAD == 0 {
                let next = due[at..].iter().take(AHEAD);
                next.filter(|slot| slot.kind() == Kind::Conn)
                    .for_each(|slot| self.conns.get(slot.index()).prefetch());
            }
            match slot.kind() {
                _ if slot.is_paced() => {
                    if let Some(conn) = self.conns.try_get_mut(slot.index()) {
                        pacing::on_timer(conn, &mut self.core);
                    }
                }
                Kind::Half => self.on_timer_half(slot.index()),
                _ => {
                    let conn = self.conns.get_mut(slot.index());
                    conn.node = None;
                    on_timer(conn, &mut self.core, now);
                    self.settle(slot.index());
                }
            }
        }
        due.clear();
        self.due = due;
        if self.core.has_starved() {
            self.wake_starved();
            any = true;
        }
        for _ in 0..BUDGET {
            if !self.core.waits.is_due(now) {
                break;
            }
            self.core.drop_oldest_wait();
            any = true;
        }
        any
    }

    /// When `on_timeout` has work next, if ever. It may turn out to be nothing: timers that
    /// were pushed out are found to be so when they come up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.core.has_starved() {
            // More connections have to hear of send memory than the last events told.
            return Some(self.clock.instant);
        }
        self.next_timer()
    }

    fn next_timer(&self) -> Option<Instant> {
        let wheel = self.core.wheel.next_deadline();
        let wait = self.core.waits.deadline(self.clock);
        match (wheel, wait) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// A connection's wheel node has come up.
fn on_timer(conn: &mut Conn, core: &mut Core, now: Clock) {
    let tick = now.tick;
    if conn.ack_at.is_due(tick) {
        conn.ack_at = Tick::NONE;
        if conn.rcv_nxt - conn.last_ack > u32::from(conn.rcv_mss) {
            // It took several segments: they may have become shorter. If not, the next full
            // one says so.
            conn.rcv_mss = (conn.rcv_mss / 2).max(conn.mss.min(536));
        }
        core.ack_now(conn);
    }
    if conn.rexmit_at.is_due(tick) {
        on_rexmit(conn, core, now);
    }
    if conn.keep_at.is_due(tick) {
        if conn.has(flag::ORPHAN) {
            on_impatience(conn, core);
        } else {
            on_keepalive(conn, core, now);
        }
    }
    core.arm(conn, now);
}

fn on_rexmit(conn: &mut Conn, core: &mut Core, now: Clock) {
    conn.rexmit_at = Tick::NONE;
    let orphan = conn.has(flag::ORPHAN);
    let waited = now.tick.age(conn.progress_at);
    let user_timeout = core.settings.get(conn.settings).user_timeout;
    if user_timeout > 0 && waited >= user_timeout {
        // RFC 9293 3.10.8, user timeout.
        core.time_out(conn);
        return;
    }
    match conn.state {
        State::SynSent | State::SynReceived => {
            if conn.retries >= core.config.syn_retries {
                core.time_out(conn);
                return;
            }
            conn.retries += 1;
            conn.rtt.back_off(&core.rto);
            core.counters.timeouts += 1;
            super::trace::timeout(core, conn);
            conn.set(flag::SEND_SYN);
            core.want_transmit(conn);
        }
        _ if conn.flight() > 0 && conn.armed == Armed::Reordering => {
            rack::on_timeout(conn, core, now);
        }
        _ if conn.flight() > 0 && conn.armed == Armed::Probe => tlp::on_timeout(conn, core),
        _ if conn.flight() > 0 => {
            let limit = if orphan { core.config.orphan_retries } else { core.config.data_retries };
            // A peer that has drawn its window back to nothing but still answers is alive, as
            // in Linux: RFC 9293 3.8.6.1.
            // An answer to the last retransmission, or one not much older than the longest
            // wait between two: its loss is no death.
            let silent = now.tick.age(conn.last_rcv);
            let waits = conn.snd_wnd == 0
                && (silent <= now.tick.age(conn.last_snd) || silent < 2 * core.rto.max);
            if conn.retries >= limit && (orphan || !waits) {
                core.time_out(conn);
                return;
            }
            recovery::on_timeout(conn, core, now);
            super::trace::timeout(core, conn);
        }
        _ if conn.has(flag::PERSIST) => {
            let limit = if orphan { core.config.orphan_retries } else { core.config.data_retries };
            if conn.keep_probes >= limit || orphan && conn.retries >= limit {
                if orphan {
                    core.abort(conn);
                } else {
                    core.time_out(conn);
                }
                return;
            }
            conn.retries = conn.retries.saturating_add(1);
            if conn.snd_wnd > 0 {
                // RFC 9293 3.8.6.2.1: the override timeout of silly-window avoidance.
                conn.set(flag::OVERRIDE);
            } else {
                conn.keep_probes = conn.keep_probes.saturating_add(1);
                conn.set(flag::SEND_PROBE);
            }
            recovery::start_timer(conn, core, now);
            core.want_transmit(conn);
        }
        _ => {}
    }
}

/// An orphan has waited long enough: for the peer's FIN, or for its linger time.
fn on_impatience(conn: &mut Conn, core: &mut Core) {
    conn.keep_at = Tick::NONE;
    if conn.has(flag::LINGERING) && conn.state != State::FinWait2 {
        core.abort(conn);
    } else if conn.state == State::FinWait2 {
        core.end(conn, None);
    }
}

/// RFC 9293 3.8.4.
fn on_keepalive(conn: &mut Conn, core: &mut Core, now: Clock) {
    conn.keep_at = Tick::NONE;
    let Settings { keepalive, user_timeout: timeout, .. } = core.settings.get(conn.settings);
    let Some(keepalive) = keepalive else { return };
    let idle = millis(keepalive.idle).max(1);
    let silent = now.tick.age(conn.last_rcv);
    if conn.flight() > 0 || conn.has(flag::PERSIST) {
        // Retransmissions or window probes ask already.
        conn.keep_at = now.after(idle);
    } else if silent < idle {
        conn.keep_at = now.after(idle - silent);
    } else if is_dead(conn.keep_probes, silent, keepalive.count, timeout) {
        core.time_out(conn);
        // As Linux does: a peer that is there after all, and was not heard, learns of it.
        conn.set(flag::SEND_RST);
        core.want_transmit(conn);
    } else {
        conn.keep_probes = conn.keep_probes.saturating_add(1);
        conn.set(flag::SEND_PROBE);
        core.want_transmit(conn);
        conn.keep_at = now.after(millis(keepalive.interval).max(1));
    }
}

/// Whether a peer that has been silent for so long, in milliseconds, and for so many probes is
/// given up. A user timeout overrides the number of probes, as in Linux.
fn is_dead(probes: u8, silent: u32, count: u8, user_timeout: u32) -> bool {
    match user_timeout {
        // RFC 9293 3.8.4, MUST-29: not without having asked.
        0 => probes >= count.max(1),
        timeout => probes > 0 && silent >= timeout,
    }
}
