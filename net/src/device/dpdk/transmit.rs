//! Sending: frames into DPDK memory, bursts to the port, and what to do when it takes none.

use std::collections::VecDeque;
use std::time::Duration;

use dpdk_sys as sys;
use throng_runtime::Instant;

use super::port::{Guard, zeroed_link};
use super::queue::DpdkQueue;
use crate::packet::Packet;

/// Frames per transmit call.
const TX_BURST: usize = 32;
const ETHERNET_HEADER: usize = 14;
/// Ethernet header with a VLAN tag.
const FRAME_OVERHEAD: usize = ETHERNET_HEADER + 4;
/// The longest headers in front of a TCP payload: Ethernet, IP and TCP with all options.
const HEADERS: usize = ETHERNET_HEADER + 60 + 60;
/// How often a port that takes no frames is asked whether its link is up.
const LINK_CHECK: Duration = Duration::from_millis(5);
/// The same when the link was down: it is cheaper to see that frames go out again.
const LINK_DOWN_CHECK: Duration = Duration::from_millis(100);
/// It is also asked after so many transmit calls, when time stands still.
const VAIN_CALLS: u32 = 1000;
/// How long a port with its link up may refuse a frame before the frame is given up. A driver
/// that cannot send a frame as it is says so like one whose ring is full.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a port that takes no frames.
#[derive(Default)]
pub(super) struct Stall {
    link_down: bool,
    /// When the port was last asked for its link.
    asked: Option<Instant>,
    /// Transmit calls since then that sent nothing.
    vain: u32,
    /// Since when nothing has gone out although something was to.
    since: Option<Instant>,
}

/// The frames of one transmit call. Kept from call to call: clearing it would cost more than
/// sending a single frame.
pub(super) struct Burst {
    raw: [*mut sys::throng_mbuf; TX_BURST],
    /// Their lengths: a frame the port has taken may not be looked at any more.
    bytes: [usize; TX_BURST],
    ready: usize,
    /// Some frame asks for an offload.
    offload: bool,
    /// The frame after these can never be sent.
    refused: bool,
}

/// What became of a frame that is to be sent.
enum Staged {
    Ready { raw: *mut sys::throng_mbuf, offload: bool },
    NoBuffer,
    Refused,
}

impl Default for Burst {
    fn default() -> Burst {
        Burst {
            raw: [std::ptr::null_mut(); TX_BURST],
            bytes: [0; TX_BURST],
            ready: 0,
            offload: false,
            refused: false,
        }
    }
}

impl DpdkQueue {
    /// Sends one burst off the front of `frames`. Returns whether another may follow.
    pub(super) fn transmit_burst(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> bool {
        self.gather(frames);
        let ready = self.out.ready;
        let mut sent = 0;
        let mut refused = self.out.refused;
        if ready != 0 {
            let result = self.send();
            sent = (result & 0xffff) as usize;
            refused = result >> 16 != 0 || (refused && sent == ready);
        }
        for packet in frames.drain(..sent) {
            if let Some(mbuf) = packet.into_mbuf() {
                // The port owns it now.
                mbuf.into_raw();
            }
        }
        if sent != 0 {
            self.counters.tx_frames += sent as u64;
            self.counters.tx_bytes += self.out.bytes[..sent].iter().sum::<usize>() as u64;
            self.stall.since = None;
            self.stall.link_down = false;
        }
        if refused {
            // It would be refused for ever, and block what is behind it.
            frames.pop_front();
            self.counters.tx_dropped += 1;
            return true;
        }
        if ready == 0 {
            self.counters.no_buffer += 1;
            return false;
        }
        if sent < ready {
            self.stalled(frames, sent == 0, now);
            return false;
        }
        true
    }

    /// Gathers the frames at the front that can go out together.
    fn gather(&mut self, frames: &mut VecDeque<Packet>) {
        self.out.ready = 0;
        self.out.offload = false;
        self.out.refused = false;
        for packet in frames.iter_mut().take(TX_BURST) {
            match self.stage(packet) {
                Staged::Ready { raw, offload } => {
                    let at = self.out.ready;
                    self.out.raw[at] = raw;
                    self.out.bytes[at] = packet.len();
                    self.out.ready = at + 1;
                    self.out.offload |= offload;
                }
                Staged::NoBuffer => break,
                Staged::Refused => {
                    self.out.refused = true;
                    break;
                }
            }
        }
    }

    /// The port did not take all it was offered, or `nothing` at all.
    fn stalled(&mut self, frames: &mut VecDeque<Packet>, nothing: bool, now: Instant) {
        if nothing && !self.link_up(now) {
            // Nobody there: frames that wait would be stale when somebody comes.
            self.counters.tx_dropped += frames.len() as u64;
            frames.clear();
            return;
        }
        self.counters.tx_full += 1;
        if nothing && now.saturating_since(*self.stall.since.get_or_insert(now)) > PATIENCE {
            frames.pop_front();
            self.counters.tx_dropped += 1;
            self.stall.since = None;
        }
    }

    /// Puts a frame into DPDK memory with its offload requests set.
    fn stage(&mut self, packet: &mut Packet) -> Staged {
        let tx = packet.tx;
        let fits = match tx.tso_segment {
            0 => packet.len() <= self.settings.mtu + FRAME_OVERHEAD,
            _ => packet.len() <= self.settings.tso_max + HEADERS,
        };
        if packet.len() < ETHERNET_HEADER || !fits {
            return Staged::Refused;
        }
        if packet.mbuf_mut().is_none() {
            let Some(mut mbuf) = self.buffer() else { return Staged::NoBuffer };
            let mut whole = true;
            packet.for_each_piece(|piece| whole = whole && mbuf.append(piece));
            if !whole {
                return Staged::NoBuffer;
            }
            packet.move_to(mbuf);
        }
        let Some(mbuf) = packet.mbuf_mut() else { return Staged::Refused };
        if mbuf.segments() > 1 && !self.settings.multi_segment && !mbuf.linearize() {
            return Staged::Refused;
        }
        let mut flags = 0;
        if tx.ip_checksum {
            flags |= sys::THRONG_TX_IP_CKSUM;
        }
        if tx.tcp_checksum {
            flags |= sys::THRONG_TX_TCP_CKSUM;
        }
        if tx.udp_checksum {
            flags |= sys::THRONG_TX_UDP_CKSUM;
        }
        if tx.tso_segment != 0 {
            flags |= sys::THRONG_TX_TCP_SEG | sys::THRONG_TX_TCP_CKSUM;
        }
        if flags != 0 {
            flags |= if tx.ipv6 { sys::THRONG_TX_IPV6 } else { sys::THRONG_TX_IPV4 };
        }
        let head = mbuf.head_mut();
        head.ol_flags = flags;
        head.tx_offload = u64::from(tx.l2_len) << sys::THRONG_L2_LEN_SHIFT
            | u64::from(tx.l3_len) << sys::THRONG_L3_LEN_SHIFT
            | u64::from(tx.l4_len) << sys::THRONG_L4_LEN_SHIFT
            | u64::from(tx.tso_segment) << sys::THRONG_TSO_SHIFT;
        Staged::Ready { raw: mbuf.as_ptr(), offload: flags != 0 }
    }

    /// Hands what was gathered to the port; see `throng_tx_burst` for the result.
    fn send(&mut self) -> u32 {
        let (port, queue, frames) = (self.port_id, self.queue, self.out.raw.as_mut_ptr());
        // At most TX_BURST.
        let count = self.out.ready as u16;
        let prepare = i32::from(self.out.offload);
        // SAFETY: `count` frames, each owned by a packet of the caller; the port takes over
        // the first ones, as many as it says, and leaves the rest alone.
        unsafe {
            match self.settings.guard {
                Guard::None => sys::throng_tx_burst(port, queue, frames, count, prepare),
                guard => sys::throng_tx_burst_guarded(
                    port,
                    queue,
                    frames,
                    count,
                    i32::from(guard == Guard::Retains),
                    &mut self.faulted,
                ),
            }
        }
    }

    /// Whether the port could send at all. Asked when it took nothing.
    fn link_up(&mut self, now: Instant) -> bool {
        let pause = if self.stall.link_down { LINK_DOWN_CHECK } else { LINK_CHECK };
        self.stall.vain += 1;
        if self.stall.vain > VAIN_CALLS
            || self.stall.asked.is_none_or(|asked| now.saturating_since(asked) >= pause)
        {
            self.stall.vain = 0;
            let mut link = zeroed_link();
            // SAFETY: an out-parameter; the port is valid.
            let code = unsafe { sys::rte_eth_link_get_nowait(self.port_id, &mut link) };
            self.stall.link_down = code >= 0 && link.link_status() == 0;
            self.stall.asked = Some(now);
        }
        !self.stall.link_down
    }
}
