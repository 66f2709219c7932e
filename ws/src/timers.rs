//! The one timer of a socket and what it may be due for.

use std::task::{Context, Poll};
use std::time::Duration;

use throng_http::rt::Alarm;
use throng_http::{Guest, Stage};
use throng_runtime::Instant;

use crate::config::Config;

/// What a socket has to do because time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing received for the ping interval: send a ping.
    Ping,
    /// Nothing received since a ping was sent: the peer is dead.
    Dead,
    /// No data message for the idle timeout.
    Idle,
    /// A message has begun and does not go on.
    Stopped,
    /// The closing handshake has taken too long.
    Close,
}

/// Clock readings of one socket and the alarm set from them.
///
/// Traffic only moves the readings; the alarm is set again when it rings too early. So a
/// busy socket does not touch the timer wheel.
#[derive(Debug)]
pub(crate) struct Timers {
    alarm: Alarm,
    last_received: Instant,
    last_data: Instant,
    pinged: Option<Instant>,
    /// That ping may not have left yet.
    waits: bool,
    /// A message has begun and not ended.
    under_way: bool,
    close_at: Option<Instant>,
    /// A drain that waits for this socket.
    guest: Option<Guest>,
}

impl Timers {
    pub(crate) fn new(now: Instant, config: &Config) -> Self {
        Timers {
            alarm: Alarm::default(),
            last_received: now,
            last_data: now,
            pinged: None,
            waits: false,
            under_way: false,
            close_at: None,
            guest: config.drain.as_ref().map(|drain| drain.enter()),
        }
    }

    /// Bytes have arrived, of whatever.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_received = now;
        self.pinged = None;
    }

    /// A data message has arrived.
    pub(crate) fn received_data(&mut self, now: Instant) {
        self.last_data = now;
    }

    /// Whether the socket waits for the rest of a message.
    pub(crate) fn set_under_way(&mut self, under_way: bool) {
        self.under_way = under_way;
    }

    /// A data message is sent.
    pub(crate) fn sent_data(&mut self, now: Instant) {
        self.last_data = now;
    }

    /// The peer has taken bytes, `all` that there were or not: a ping that waited has left now at the
    /// earliest. What it takes behind one that has left says nothing: the host below may take it.
    pub(crate) fn taken(&mut self, now: Instant, all: bool) {
        if self.waits
            && let Some(at) = &mut self.pinged
        {
            *at = now;
        }
        self.waits &= !all;
    }

    /// A ping is queued.
    pub(crate) fn pinged(&mut self, now: Instant) {
        self.pinged = Some(now);
        self.waits = true;
    }

    /// The closing handshake begins; only its own deadline counts from here. The first call
    /// decides.
    pub(crate) fn closing(&mut self, now: Instant, config: &Config) {
        self.close_at.get_or_insert(now + config.close_timeout);
    }

    /// How far the drain is; the task is woken when that changes.
    pub(crate) fn poll_drain(&mut self, cx: &Context<'_>) -> Stage {
        self.guest.as_mut().map_or(Stage::Serving, |guest| guest.poll_stage(cx))
    }

    /// Whether the drain is at its deadline.
    pub(crate) fn is_cut(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| guest.stage() == Stage::Cut)
    }

    /// Notes that the drain has cut the socket.
    pub(crate) fn cut(&mut self) {
        if let Some(mut guest) = self.guest.take() {
            guest.cut();
        }
    }

    /// What is due; `Pending` has set the alarm for the task.
    pub(crate) fn poll(&mut self, config: &Config, cx: &mut Context<'_>) -> Poll<Due> {
        let Some((at, due)) = self.next(config) else { return Poll::Pending };
        self.alarm.poll_at(at, cx).map(|()| due)
    }

    fn next(&self, config: &Config) -> Option<(Instant, Due)> {
        if let Some(at) = self.close_at {
            return Some((at, Due::Close));
        }
        let ping = config.ping_interval.map(|interval| match self.pinged {
            Some(at) => (at + config.pong_timeout, Due::Dead),
            None => (self.last_received + interval, Due::Ping),
        });
        let idle = config.idle_timeout.map(|timeout| (self.last_data + timeout, Due::Idle));
        let stopped = config
            .receive_timeout
            .filter(|_| self.under_way)
            .map(|timeout| (self.last_received + timeout, Due::Stopped));
        ping.into_iter().chain(idle).chain(stopped).min_by_key(|(at, _)| *at)
    }
}

/// Watches that the peer takes something while there is something to send.
#[derive(Debug)]
pub(crate) struct Stall {
    since: Instant,
    alarm: Alarm,
}

impl Stall {
    pub(crate) fn new(now: Instant) -> Self {
        Stall { since: now, alarm: Alarm::default() }
    }

    /// The peer has taken bytes.
    pub(crate) fn progress(&mut self, now: Instant) {
        self.since = now;
    }

    /// Ready when nothing was taken for `limit`.
    pub(crate) fn poll(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll_at(self.since + limit, cx)
    }
}
