//! A snapshot of one connection, in the spirit of RFC 4898.

use std::time::Duration;

use throng_runtime::Instant;

use super::config::CongestionControl;
use super::core::Core;
use super::error::Error;
use super::pacing;
use super::segment::FourTuple;
use super::state::{Conn, Phase, State, flag, mark};

/// Everything worth knowing about a connection at one moment. Sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Addresses and ports.
    pub tuple: FourTuple,
    /// The state (RFC 9293 3.3.2).
    pub state: State,
    /// How long ago it was opened, by us or by the peer's last step of the handshake, in whole
    /// seconds.
    pub age: Duration,
    /// The error that ended the connection, if one did.
    pub error: Option<Error>,
    /// Largest payload per segment sent.
    pub mss: u16,
    /// Smoothed round-trip time; zero before the first sample.
    pub srtt: Duration,
    /// Round-trip time variation.
    pub rttvar: Duration,
    /// Smallest round-trip time seen; zero before the first sample.
    pub min_rtt: Duration,
    /// Current retransmission timeout, backoff included.
    pub rto: Duration,
    /// Congestion window.
    pub cwnd: u32,
    /// Slow-start threshold.
    pub ssthresh: u32,
    /// What moves the congestion window; `None`: another control, of the host's.
    pub congestion: Option<CongestionControl>,
    /// Bytes a second that new data is spread to; `None` where it is not paced.
    pub pacing_rate: Option<u64>,
    /// The peer's window, scaled.
    pub snd_wnd: u32,
    /// The window last advertised, what is left of it.
    pub rcv_wnd: u32,
    /// The receive window while nothing is unread: it grows with the reader's pace.
    pub rcv_buffer: u32,
    /// Most bytes the send queue may hold at present.
    pub snd_buffer: u32,
    /// Shift of the peer's window; `None` where scaling was not negotiated.
    pub snd_scale: Option<u8>,
    /// Shift of our window; `None` where scaling was not negotiated.
    pub rcv_scale: Option<u8>,
    /// Whether timestamps are in use (RFC 7323).
    pub timestamps: bool,
    /// Whether SACK is in use (RFC 2018).
    pub sack: bool,
    /// Whether explicit congestion notification is in use (RFC 3168).
    pub ecn: bool,
    /// Whether loss recovery is under way, by fast retransmit or by timeout.
    pub recovering: bool,
    /// Whether a timeout began it.
    pub timed_out: bool,
    /// Sent and not acknowledged, in sequence space.
    pub in_flight: u32,
    /// Of that, what the peer has reported by SACK.
    pub sacked: u32,
    /// Of that, what counts as lost, sent again or not.
    pub lost: u32,
    /// Whether the path was seen to reorder segments (RFC 8985 6.2).
    pub reordering: bool,
    /// Taken from the application and not acknowledged.
    pub send_queue: usize,
    /// Received in order and not read.
    pub recv_queue: usize,
    /// Held out of order.
    pub out_of_order: usize,
    /// Payload acknowledged by the peer since the start.
    pub bytes_acked: u64,
    /// Payload received in order since the start.
    pub bytes_received: u64,
    /// Segments retransmitted since the start.
    pub retransmits: u32,
    /// Consecutive timeouts or probes without an answer.
    pub retries: u8,
    /// Whether a timer is armed.
    pub timer_armed: bool,
    /// Whether the connection owns buffers at the moment.
    pub owns_buffers: bool,
}

impl Info {
    pub(super) fn of(conn: &Conn, core: &Core, now: Instant) -> Info {
        let micros = |us: u32| Duration::from_micros(us.into());
        let cold = conn.cold.as_ref();
        let early = cold.and_then(|cold| cold.early());
        let board = cold.and_then(|cold| cold.marked());
        Info {
            tuple: conn.tuple,
            state: conn.state,
            age: Duration::from_secs(
                u32::wrapping_sub((now.as_millis() / 1_000) as u32, conn.opened_at).into(),
            ),
            error: conn.error(),
            mss: conn.mss,
            srtt: micros(conn.rtt.srtt()),
            rttvar: micros(conn.rtt.rttvar()),
            min_rtt: micros(conn.rtt.min()),
            rto: Duration::from_millis(conn.rtt.rto_ms(&core.rto, 0).into()),
            cwnd: conn.congestion.cwnd,
            ssthresh: conn.congestion.ssthresh,
            congestion: Some(conn.congestion.control()),
            pacing_rate: pacing::rate(conn, core).map(|rate| rate.bytes),
            snd_wnd: conn.snd_wnd,
            rcv_wnd: conn.offered(),
            rcv_buffer: conn.room(),
            snd_buffer: super::autotune::send_limit(conn, core),
            snd_scale: conn.has(flag::SCALE).then_some(conn.snd_scale),
            rcv_scale: conn.has(flag::SCALE).then_some(conn.rcv_scale),
            timestamps: conn.has(flag::TIMESTAMPS),
            sack: conn.has(flag::SACK),
            ecn: conn.ecn != 0,
            recovering: conn.phase != Phase::Open,
            timed_out: conn.phase == Phase::Loss,
            in_flight: conn.flight(),
            sacked: board.map_or(0, |board| board.sacked()),
            lost: board.map_or(0, |board| board.lost()),
            reordering: conn.marks & mark::REORDERS != 0,
            send_queue: conn.queued() as usize,
            recv_queue: cold.map_or(0, |cold| cold.ready().len() as usize),
            out_of_order: early.map_or(0, |early| early.len() as usize),
            bytes_acked: conn.bytes_acked,
            bytes_received: conn.bytes_received,
            retransmits: conn.retransmits,
            retries: conn.retries,
            timer_armed: conn.node.is_some(),
            owns_buffers: cold.is_some(),
        }
    }
}
