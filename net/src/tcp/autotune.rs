//! How large a connection's windows and queues become, within the memory of its shard.
//!
//! The receive window follows the reader (dynamic right-sizing, Fisk and Feng 2001): as soon as
//! three eighths of it are read within one round trip it doubles, so that it stays at more than
//! twice what the path carries and never is what a sender in slow start waits for. Not half of
//! it: acknowledgements that go out before a burst of half a window is read offer the other
//! half, and things would stay like that. What is not read makes nothing
//! grow. The send queue follows the congestion window. Both grow only while their memory is less
//! than half used; what has grown shrinks again when it runs short, by not being offered anew:
//! an edge once advertised stays (RFC 9293 3.8.6.2.1).

use super::config::Config;
use super::core::Core;
use super::queue::CHUNK_OVERHEAD;
use super::segment::Header;
use super::state::{Conn, flag};
use super::timer::Clock;

/// A receive window's size and what it follows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// The window while nothing is unread, in units of the window field: `1 << rcv_scale` bytes.
    pub(super) size: u16,
    /// What had been read when the measurement began, in `4 << rcv_scale` bytes modulo 2^16.
    from: u16,
    /// When it began, in milliseconds modulo 2^16. One that lasts so long measures nothing, and
    /// at worst one step too many is taken for it.
    at: u16,
    /// The round trip as the receiver of much data sees it, in milliseconds; 0: not seen.
    rtt: u16,
}

/// Taken for the round trip where none was ever measured, in milliseconds.
const UNKNOWN_RTT: u16 = 100;

impl Room {
    /// The window of a new connection.
    pub(super) fn new(core: &Core, scale: u8, now: Clock) -> Room {
        Room { size: initial(core, scale), at: now.tick.0 as u16, ..Room::default() }
    }
}

fn initial(core: &Core, scale: u8) -> u16 {
    units(core.config.initial_recv_buffer.min(core.config.recv_buffer), scale)
}

fn units(bytes: u32, scale: u8) -> u16 {
    (bytes >> scale).clamp(1, 0xffff) as u16
}

/// Looks whether the window should change: when a segment goes out that could open it.
pub(super) fn tune(conn: &mut Conn, core: &mut Core, now: Clock) {
    let unread = conn.cold.as_ref().map_or(0, |cold| cold.ready().len());
    let read = (conn.bytes_received.wrapping_sub(unread.into()) >> (conn.rcv_scale + 2)) as u16;
    if read.wrapping_sub(conn.room.from) >= (conn.room.size / 32 * 3).max(1) {
        on_much_read(conn, core, read, now);
    }
}

/// Three eighths of the window have been read since the measurement began.
#[cold]
fn on_much_read(conn: &mut Conn, core: &mut Core, read: u16, now: Clock) {
    let elapsed = (now.tick.0 as u16).wrapping_sub(conn.room.at);
    (conn.room.from, conn.room.at) = (read, now.tick.0 as u16);
    let size = conn.room.size;
    if core.is_recv_memory_short() {
        let least = initial(core, conn.rcv_scale);
        if size > least {
            conn.room.size = (size / 2).max(least);
            core.counters.windows_reduced += 1;
        }
    } else if elapsed > round_trip(conn) {
        // It may be a longer way by now than when last measured.
        ask_for_sample(conn);
    } else {
        let most = units(core.config.recv_buffer, conn.rcv_scale);
        if size >= most {
            return;
        }
        if core.recv_used > core.config.recv_memory / 2 {
            core.counters.windows_held += 1;
            return;
        }
        conn.room.size = size.saturating_mul(2).min(most);
        core.counters.windows_grown += 1;
    }
}

/// In milliseconds, at least one: the clock of connections says no more.
fn round_trip(conn: &Conn) -> u16 {
    match (conn.room.rtt, conn.rtt.srtt()) {
        (0, 0) => UNKNOWN_RTT,
        (0, micros) => micros.div_ceil(1000).min(u16::MAX.into()) as u16,
        (ms, _) => ms,
    }
}

/// Who only receives has nothing timed: the echo in the next segment says how long its ACKs
/// take to bring new data. That segment goes by the full examination.
fn ask_for_sample(conn: &mut Conn) {
    if conn.has(flag::TIMESTAMPS) && conn.flight() == 0 {
        conn.set(flag::UNUSUAL);
    }
}

/// Takes the echo in a segment with payload for the receiver's round trip.
pub(super) fn sample(conn: &mut Conn, header: &Header, len: u32, now: Clock) {
    // Part of a segment may be the end of a pause.
    if conn.flight() > 0 || !conn.has(flag::TIMESTAMPS) || len < u32::from(conn.rcv_mss) {
        return;
    }
    let Some((_, echo)) = header.options.timestamps.filter(|(_, echo)| *echo != 0) else { return };
    let ms = now.tick.0.wrapping_add(conn.ts_offset).wrapping_sub(echo);
    if ms >= 1 << 15 {
        return;
    }
    let (ms, old) = (ms.max(1) as u16, conn.room.rtt);
    // A sender that pauses looks like a long way, never like a short one.
    conn.room.rtt = if old == 0 || ms < old { ms } else { old + (ms - old).div_ceil(8) };
}

/// The window that buffer and memory budget have room for.
pub(super) fn free_window(conn: &Conn, core: &Core) -> u32 {
    let unread = conn.cold.as_ref().map_or(0, |cold| cold.ready().len());
    let free = conn.room().saturating_sub(unread);
    if !core.is_recv_memory_short() {
        return free;
    }
    // The last quarter is handed out in small parts, and who reads all there is always gets
    // on: see `memory_for`.
    let left = core.config.recv_memory.saturating_sub(core.recv_used);
    let part = (left / 16).min(u64::from(u32::MAX)) as u32;
    // Two segments, in the units of the window field: so many are acknowledged at once.
    let unit = (1 << conn.rcv_scale) - 1;
    let least = if unread == 0 { 2 * u32::from(conn.rcv_mss) + unit } else { 0 };
    free.min(part.max(least))
}

/// How many of `len` bytes more the budget has room for: all, none or a segment. What is out of order may take half of it,
/// and makes way for what is in order: else holes could not be filled. Beyond the bound a
/// connection that holds nothing still takes in a segment, as in Linux: others that nobody
/// reads must not be the end of it. So no more is held than the bound and a segment for each
/// connection.
pub(super) fn memory_for(conn: &mut Conn, core: &mut Core, len: u32, in_order: bool) -> u32 {
    let wanted = u64::from(len + CHUNK_OVERHEAD);
    let limit = core.config.recv_memory;
    if !in_order {
        return if core.recv_used + wanted <= limit / 2 { len } else { 0 };
    }
    if core.recv_used + wanted <= limit {
        return len;
    }
    if let Some(cold) = &mut conn.cold {
        let before = cold.charge();
        cold.forget_early();
        core.recv_used -= u64::from(before - cold.charge());
    }
    if core.recv_used + wanted <= limit {
        return len;
    }
    if conn.cold.as_ref().is_some_and(|cold| !cold.ready().is_empty()) {
        return 0;
    }
    core.counters.recv_memory_forced += 1;
    // Of what was merged (GRO), the first.
    len.min(core.mss(&conn.tuple).into())
}

/// How much a connection may queue for sending, sent or not: two congestion windows, so that
/// there is always one to send while one is out.
pub(super) fn send_limit(conn: &Conn, core: &Core) -> u32 {
    let Config { send_buffer, initial_send_buffer, send_memory, .. } = core.config;
    let least = initial_send_buffer.min(send_buffer);
    if core.send_used > send_memory / 2 {
        return least;
    }
    conn.congestion.cwnd.saturating_mul(2).clamp(least, send_buffer)
}

/// How many bytes more may be queued for sending.
pub(super) fn send_room(conn: &Conn, core: &Core) -> u32 {
    let limit = send_limit(conn, core);
    let room = conn.cold.as_ref().map_or(limit, |cold| cold.snd.room(limit));
    match core.settings.get(conn.settings).unsent {
        0 => room,
        most => room.min(most.saturating_sub(conn.unsent())),
    }
}

/// Tells a writer that was refused when there is enough room for it to be worth waking.
pub(super) fn wake_writer(conn: &mut Conn, core: &mut Core) {
    let limit = send_limit(conn, core);
    let has_room = conn.cold.as_ref().is_none_or(|cold| cold.snd.room(limit) >= limit / 4);
    let unsent = core.settings.get(conn.settings).unsent;
    // Who waits for send memory is told by those who give it back, but may always have a segment.
    let starved = conn.has(flag::STARVED) && conn.queued() > 0;
    if has_room && !starved && (unsent == 0 || conn.unsent() <= unsent / 2) {
        core.writable(conn);
    }
}
