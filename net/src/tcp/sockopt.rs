//! What an application may set for one connection.

use std::time::Duration;

use super::config::{CongestionControl, Keepalive};
use super::engine::{ConnId, Engine, ListenerId, can_send, get_owned};
use super::rtt::millis;
use super::settings::Settings;
use super::state::{Conn, flag};
use super::timer::Tick;

impl Engine {
    /// Turns Nagle's algorithm off (`true`) or on.
    pub fn set_nodelay(&mut self, id: ConnId, nodelay: bool) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            if nodelay {
                conn.set(flag::NODELAY);
                self.core.want_transmit(conn);
            } else {
                conn.unset(flag::NODELAY);
            }
        }
    }

    /// How the connection goes on reacting to congestion; its window stays.
    pub fn set_congestion(&mut self, id: ConnId, control: CongestionControl) {
        if let Some(conn) = get_owned(&mut self.conns, id) {
            conn.congestion.choose(control);
        }
    }

    /// How connections of the listener react to congestion whose handshakes end from now on.
    /// At first it is [`Config::congestion`](super::Config::congestion).
    pub fn set_listener_congestion(&mut self, id: ListenerId, control: CongestionControl) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.congestion = Some(control);
        }
    }

    /// Turns keepalive on or off.
    pub fn set_keepalive(&mut self, id: ConnId, keepalive: Option<Keepalive>) {
        let Some(conn) = self.set(id, |settings| settings.keepalive = keepalive) else { return };
        conn.keep_probes = 0;
        let may_probe = conn.has(flag::MAPPED) && (can_send(conn) || conn.has(flag::FIN_QUEUED));
        let idle = keepalive.filter(|_| may_probe).map(|keepalive| millis(keepalive.idle));
        let clock = self.clock;
        let conn = self.conns.get_mut(id.index);
        conn.keep_at = idle.map_or(Tick::NONE, |idle| clock.after(idle));
        self.core.arm(conn, clock);
    }

    /// How long sent data may stay unacknowledged, or queued data wait for a closed window,
    /// before the connection fails (RFC 9293 3.9.1, RFC 5482, TCP_USER_TIMEOUT of Linux). Where
    /// there is a keepalive, too, this is what ends a silent connection. Resolution 1 ms, at most
    /// 24 days.
    pub fn set_user_timeout(&mut self, id: ConnId, timeout: Option<Duration>) {
        let timeout = timeout.map_or(0, |t| millis(t).max(1));
        let mut old = 0;
        let set = |settings: &mut Settings| {
            old = std::mem::replace(&mut settings.user_timeout, timeout);
        };
        if self.set(id, set).is_none() {
            return;
        }
        let conn = self.conns.get_mut(id.index);
        // A timer that the old limit has cut short starts anew; any other runs on.
        let was_cut = conn.rexmit_at.is_some() && conn.rexmit_at == conn.user_limit(old);
        if was_cut {
            super::recovery::start_timer(conn, &mut self.core, self.clock);
        } else if conn.rexmit_at.is_some() {
            conn.rexmit_at = conn.rexmit_at.earliest(conn.user_limit(timeout));
        }
        self.core.arm(conn, self.clock);
    }

    /// What [`Engine::close`] does with data not yet acknowledged: `None`: sends it in the
    /// background; zero: drops it and resets; else a reset after that time, whole seconds
    /// rounded up, at most 18 hours.
    pub fn set_linger(&mut self, id: ConnId, linger: Option<Duration>) {
        let seconds = |t: Duration| t.as_nanos().div_ceil(1_000_000_000).min(65_000) as u16;
        let linger = linger.map_or(0, |t| seconds(t) + 1);
        self.set(id, |settings| settings.linger = linger);
    }

    /// How many bytes may lie in the send queue that were not sent yet: from there on `send`
    /// answers `WouldBlock`, and `Writable` follows when half of them have gone
    /// (TCP_NOTSENT_LOWAT of Linux and macOS). `None`, the default: as many as there is room
    /// for. What is queued late can still be chosen late.
    pub fn set_notsent_lowat(&mut self, id: ConnId, bytes: Option<u32>) {
        let unsent = bytes.map_or(0, |bytes| bytes.max(1));
        if let Some(conn) = self.set(id, |settings| settings.unsent = unsent)
            && conn.has(flag::WANT_WRITE)
        {
            self.want_write(id);
        }
    }

    /// Changes the settings of a connection.
    fn set(&mut self, id: ConnId, change: impl FnOnce(&mut Settings)) -> Option<&mut Conn> {
        let conn = get_owned(&mut self.conns, id)?;
        let table = &mut self.core.settings;
        let mut settings = table.get(conn.settings);
        change(&mut settings);
        table.change(&mut conn.settings, settings);
        Some(conn)
    }
}
