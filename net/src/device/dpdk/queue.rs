//! A queue pair behind the [`Device`] trait.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use dpdk_sys as sys;
use throng_runtime::Instant;

use super::eal;
use super::mbuf::Mbuf;
use super::pool::Pool;
use super::port::{Driver, Guard, Port, Settings, zeroed_link};
use crate::device::{Capabilities, Counters, Device};
use crate::packet::{ChecksumStatus, Packet};

/// Frames per receive call.
const RX_BURST: usize = 64;
/// Frames per transmit call.
const TX_BURST: usize = 32;
/// Buffers taken from the pool in one call.
const SPARE: usize = 32;
/// How often a port that takes no frames is asked whether its link is up.
const LINK_CHECK: Duration = Duration::from_millis(5);
/// How long a port with its link up may refuse a frame before the frame is given up. A driver
/// that cannot send a frame as it is says so like one whose ring is full.
const PATIENCE: Duration = Duration::from_secs(1);

/// One queue pair of a DPDK port.
pub(super) struct DpdkQueue {
    // The order of the fields is the order of their end: all buffers before the port.
    spare: Vec<Mbuf>,
    /// Frames that arrived while the queue was being armed.
    early: VecDeque<Packet>,
    bell: Option<Bell>,
    capabilities: Capabilities,
    settings: Arc<Settings>,
    counters: Counters,
    /// Bursts that ended because the peer's memory was gone, each with at least a frame.
    faulted: u64,
    link: Link,
    /// Since when nothing has gone out although something was to.
    stuck: Option<Instant>,
    pool: Pool,
    port_id: u16,
    queue: u16,
    port: Arc<Port>,
}

/// What is known of the link, asked only while nothing goes out.
struct Link {
    up: bool,
    asked: Option<Instant>,
}

// SAFETY: the raw pointers inside (the pool's) are used through DPDK, which lets any one
// thread at a time use a queue; `&mut self` sees to that.
unsafe impl Send for DpdkQueue {}

impl DpdkQueue {
    pub(super) fn new(
        port: Arc<Port>,
        queue: u16,
        pool: Pool,
        settings: &Arc<Settings>,
    ) -> io::Result<DpdkQueue> {
        let bell = if settings.interrupts { Some(Bell::new()?) } else { None };
        let capabilities = Capabilities {
            name: format!("dpdk:{}#{queue}", port.name()),
            mac: settings.mac,
            mtu: settings.mtu,
            max_frame: settings.max_frame,
            rx_checksum: settings.rx_checksum,
            tx_ip_checksum: settings.tx_ip_checksum,
            tx_tcp_checksum: settings.tx_tcp_checksum,
            tx_udp_checksum: settings.tx_udp_checksum,
            tso_max: settings.tso_max,
            rss: settings.rss.clone(),
        };
        Ok(DpdkQueue {
            spare: Vec::with_capacity(SPARE),
            early: VecDeque::new(),
            bell,
            capabilities,
            settings: settings.clone(),
            counters: Counters::default(),
            faulted: 0,
            link: Link { up: true, asked: None },
            stuck: None,
            pool,
            port_id: port.id(),
            queue,
            port,
        })
    }

    /// An empty buffer, from the queue's own store if possible.
    fn buffer(&mut self) -> Option<Mbuf> {
        if let Some(mbuf) = self.spare.pop() {
            return Some(mbuf);
        }
        let mut got = [std::ptr::null_mut(); SPARE];
        // What this thread holds back may be all there is.
        eal::flush_frees();
        for count in [SPARE, 1] {
            // SAFETY: the array has room for `count` pointers; the pool is never freed.
            let code = unsafe {
                sys::throng_alloc_bulk(self.pool.as_ptr(), got.as_mut_ptr(), count as u32)
            };
            if code == 0 {
                let buffers = got[..count].iter().filter_map(|&raw| NonNull::new(raw));
                // SAFETY: freshly allocated buffers, each owned by nobody else.
                self.spare.extend(buffers.map(|raw| unsafe { Mbuf::from_raw(raw) }));
                return self.spare.pop();
            }
        }
        None
    }

    /// One burst from the port, each frame handed to `keep`.
    fn burst(&mut self, max: usize, mut keep: impl FnMut(Packet)) -> usize {
        let mut raw = [std::ptr::null_mut(); RX_BURST];
        let max = max.min(RX_BURST) as u16;
        let (port, queue, out) = (self.port_id, self.queue, raw.as_mut_ptr());
        // SAFETY: the array has room for `max` (at most 64) pointers; the port is started
        // and this queue has one user, by `&mut self`.
        let got = unsafe {
            match self.settings.guard {
                Guard::None => sys::throng_rx_burst(port, queue, out, max),
                _ => sys::throng_rx_burst_guarded(port, queue, out, max, &mut self.faulted),
            }
        };
        let mut kept = 0;
        for raw in &raw[..usize::from(got).min(RX_BURST)] {
            let Some(raw) = NonNull::new(*raw) else { continue };
            // SAFETY: the driver gives up the frame.
            let mbuf = unsafe { Mbuf::from_raw(raw) };
            if let Some(packet) = self.accept(mbuf) {
                keep(packet);
                kept += 1;
            }
        }
        kept
    }

    /// A received buffer as a frame for the stack.
    #[inline]
    fn accept(&mut self, mut mbuf: Mbuf) -> Option<Packet> {
        let len = mbuf.len();
        if len > self.capabilities.max_frame {
            self.counters.rx_dropped += 1;
            return None;
        }
        let head = mbuf.head_mut();
        let flags = head.ol_flags;
        let hash = head.rss_hash;
        let mut packet = if mbuf.segments() == 1 {
            Packet::from(mbuf)
        } else {
            let mut bytes = Vec::new();
            if bytes.try_reserve_exact(len).is_err() {
                self.counters.rx_dropped += 1;
                return None;
            }
            mbuf.copy_to(&mut bytes);
            self.counters.rx_flattened += 1;
            Packet::from(bytes)
        };
        if flags & sys::THRONG_RX_RSS_HASH != 0 {
            packet.rx.rss_hash = Some(hash);
        }
        packet.rx.checksum = checksum(flags, packet.data());
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += len as u64;
        Some(packet)
    }

    /// Puts a frame into DPDK memory with its offload requests set.
    fn stage(&mut self, packet: &mut Packet) -> Staged {
        let tx = packet.tx;
        let segment = match self.settings.driver {
            // net_tap sums a frame piece by piece and only even pieces right; and it holds the
            // Ethernet header against the MTU.
            Driver::Tap => {
                let headers = u16::from(tx.l2_len) + u16::from(tx.l3_len) + u16::from(tx.l4_len);
                let most = (self.settings.mtu as u16).saturating_sub(headers);
                tx.tso_segment.min(most) & !1
            }
            _ => tx.tso_segment,
        };
        let longest = if segment == 0 { self.settings.max_frame } else { usize::MAX };
        let pieces = packet.len() / usize::from(segment).max(1);
        if packet.len() > longest
            || packet.is_empty()
            || (segment != 0 && pieces > self.settings.tso_segments)
        {
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
        if segment != 0 {
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
            | u64::from(segment) << sys::THRONG_TSO_SHIFT;
        Staged::Ready { raw: mbuf.as_ptr(), offload: flags != 0 }
    }

    /// Hands frames to the port; see `throng_tx_burst` for the result.
    fn send(&mut self, burst: &mut [*mut sys::throng_mbuf], prepare: bool) -> u32 {
        let (port, queue, frames) = (self.port_id, self.queue, burst.as_mut_ptr());
        // At most TX_BURST.
        let count = burst.len() as u16;
        // SAFETY: `count` frames, each owned by a packet of the caller; the port takes over
        // the first ones, as many as it says, and leaves the rest alone.
        unsafe {
            match self.settings.guard {
                Guard::None => sys::throng_tx_burst(port, queue, frames, count, i32::from(prepare)),
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
        if self.link.asked.is_none_or(|asked| now.saturating_since(asked) >= LINK_CHECK) {
            let mut link = zeroed_link();
            // SAFETY: an out-parameter; the port is valid.
            let code = unsafe { sys::rte_eth_link_get_nowait(self.port_id, &mut link) };
            self.link.up = code < 0 || link.link_status() != 0;
            self.link.asked = Some(now);
        }
        self.link.up
    }
}

/// What became of a frame that is to be sent.
enum Staged {
    Ready { raw: *mut sys::throng_mbuf, offload: bool },
    NoBuffer,
    Refused,
}

/// The port's verdict on a frame's checksums.
#[inline]
fn checksum(flags: u64, frame: &[u8]) -> ChecksumStatus {
    let l4 = flags & sys::THRONG_RX_L4_MASK;
    let ip = flags & sys::THRONG_RX_IP_MASK;
    if l4 == sys::THRONG_RX_L4_BAD || ip == sys::THRONG_RX_IP_BAD {
        return ChecksumStatus::Bad;
    }
    // "None" means: the field is not filled in, yet the bytes are known to be right.
    if l4 != sys::THRONG_RX_L4_GOOD && l4 != sys::THRONG_RX_L4_NONE {
        return ChecksumStatus::Unknown;
    }
    // virtio vouches for TCP and UDP only.
    if ip == 0 && !ip_header_is_right(frame) { ChecksumStatus::Bad } else { ChecksumStatus::Good }
}

/// Whether the frame has no IPv4 header or one with a correct checksum.
fn ip_header_is_right(frame: &[u8]) -> bool {
    if frame.get(12..14) != Some(&[0x08, 0x00]) {
        return true;
    }
    let Some(&first) = frame.get(14) else { return false };
    let Some(header) = frame.get(14..14 + usize::from(first & 0x0f) * 4) else { return false };
    // RFC 1071: the one's complement sum over a correct header is all ones.
    let sum: u32 =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) == 0xffff
}

impl Device for DpdkQueue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, _now: Instant) -> usize {
        eal::register_thread();
        let mut got = 0;
        while got < max
            && let Some(packet) = self.early.pop_front()
        {
            frames.push(packet);
            got += 1;
        }
        if got < max {
            let new = self.burst(max - got, |packet| frames.push(packet));
            if new == 0 {
                eal::flush_frees();
            }
            got += new;
        }
        got
    }

    fn allocate(&mut self, _len: usize) -> Option<Packet> {
        eal::register_thread();
        let buffer = self.buffer();
        if buffer.is_none() {
            self.counters.no_buffer += 1;
        }
        buffer.map(Packet::from)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, now: Instant) -> usize {
        eal::register_thread();
        let mut taken = 0;
        while !frames.is_empty() {
            let mut burst = [std::ptr::null_mut(); TX_BURST];
            let mut ready = 0;
            let mut prepare = false;
            let mut refused = false;
            for packet in frames.iter_mut().take(TX_BURST) {
                match self.stage(packet) {
                    Staged::Ready { raw, offload } => {
                        burst[ready] = raw;
                        ready += 1;
                        prepare |= offload;
                    }
                    Staged::NoBuffer => break,
                    Staged::Refused => {
                        refused = true;
                        break;
                    }
                }
            }
            let mut sent = 0;
            if ready != 0 {
                let result = self.send(&mut burst[..ready], prepare);
                sent = (result & 0xffff) as usize;
                refused = if result >> 16 != 0 { true } else { refused && sent == ready };
            }
            for packet in frames.drain(..sent) {
                self.counters.tx_frames += 1;
                self.counters.tx_bytes += packet.len() as u64;
                if let Some(mbuf) = packet.into_mbuf() {
                    // The port owns it now.
                    mbuf.into_raw();
                }
            }
            taken += sent;
            if sent != 0 {
                self.stuck = None;
            }
            if refused {
                // It would be refused for ever, and block what is behind it.
                frames.pop_front();
                self.counters.tx_dropped += 1;
                taken += 1;
                continue;
            }
            if sent == TX_BURST || (sent == ready && frames.is_empty()) {
                continue;
            }
            if ready == 0 {
                self.counters.no_buffer += 1;
            } else if sent == 0 && !self.link_up(now) {
                // Nobody there: frames that wait would be stale when somebody comes.
                self.counters.tx_dropped += frames.len() as u64;
                taken += frames.len();
                frames.clear();
            } else if sent < ready {
                self.counters.tx_full += 1;
                if sent == 0 && now.saturating_since(*self.stuck.get_or_insert(now)) > PATIENCE {
                    frames.pop_front();
                    self.counters.tx_dropped += 1;
                    taken += 1;
                    self.stuck = None;
                }
            } else {
                continue;
            }
            break;
        }
        taken
    }

    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.epoll.as_fd())
    }

    fn arm(&mut self) -> bool {
        eal::register_thread();
        if !self.early.is_empty() {
            return false;
        }
        // SAFETY: a valid queue of a started port.
        let fd = unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port_id, self.queue) };
        let Some(bell) = &mut self.bell else { return false };
        if !bell.watch(fd) {
            return false;
        }
        bell.silence();
        // net_tap's descriptor is always on; the others refuse when they are in trouble.
        // SAFETY: as above.
        let code = unsafe { sys::rte_eth_dev_rx_intr_enable(self.port_id, self.queue) };
        if code < 0 && self.settings.driver != Driver::Tap {
            return false;
        }
        // What came in before the interrupt was on rings no bell.
        let mut early = std::mem::take(&mut self.early);
        self.burst(RX_BURST, |packet| early.push_back(packet));
        self.early = early;
        if self.early.is_empty() {
            eal::flush_frees();
            return true;
        }
        self.disarm();
        false
    }

    fn disarm(&mut self) {
        if let Some(bell) = &self.bell {
            // SAFETY: a valid queue of a started port.
            unsafe { sys::rte_eth_dev_rx_intr_disable(self.port_id, self.queue) };
            bell.silence();
        }
    }

    /// What the port counts for all its queues together (frames lost for want of a buffer or
    /// of a descriptor) is part of the first queue's numbers.
    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.rx_dropped += self.faulted;
        if self.queue == 0 {
            // SAFETY: plain C data.
            let mut stats: sys::rte_eth_stats = unsafe { std::mem::zeroed() };
            // SAFETY: an out-parameter; the port is valid.
            if unsafe { sys::rte_eth_stats_get(self.port_id, &mut stats) } == 0 {
                counters.rx_dropped += stats.imissed + stats.ierrors + stats.rx_nombuf;
            }
        }
        counters
    }
}

impl Drop for DpdkQueue {
    fn drop(&mut self) {
        self.disarm();
        tracing::debug!(port = self.port.name(), queue = self.queue, faulted = self.faulted, counters = ?self.counters);
    }
}

/// A descriptor to wait on. The driver's own differ: an eventfd that has to be read, a TAP
/// that must not be, vhost's set of descriptors. Behind an edge-triggered epoll instance all
/// behave alike: readable after an arrival, until silenced.
struct Bell {
    epoll: OwnedFd,
    watched: RawFd,
}

impl Bell {
    fn new() -> io::Result<Bell> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Bell { epoll: unsafe { OwnedFd::from_raw_fd(fd) }, watched: -1 })
    }

    /// Watches the driver's descriptor `fd`, which changes when a peer reconnects.
    fn watch(&mut self, fd: RawFd) -> bool {
        if fd < 0 {
            return false;
        }
        if fd != self.watched {
            let mut event = libc::epoll_event {
                events: (libc::EPOLLIN | libc::EPOLLET) as u32,
                u64: fd.cast_unsigned().into(),
            };
            // A closed descriptor has left the set by itself.
            // SAFETY: a valid epoll descriptor and event.
            let code = unsafe {
                libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event)
            };
            if code < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EEXIST) {
                return false;
            }
            self.watched = fd;
        }
        true
    }

    /// Takes back what has rung.
    fn silence(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: room for the two events asked for; does not wait.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 2, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_vouches_for_tcp_only_has_its_ip_headers_checked() {
        // RFC 1071-correct header of 20 bytes behind an Ethernet header.
        let mut frame = vec![0u8; 14];
        frame[12] = 0x08;
        frame.extend([0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61]);
        frame.extend([0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7]);
        let l4 = sys::THRONG_RX_L4_GOOD;
        assert_eq!(checksum(l4, &frame), ChecksumStatus::Good);
        assert_eq!(checksum(sys::THRONG_RX_L4_NONE, &frame), ChecksumStatus::Good);
        assert_eq!(checksum(0, &frame), ChecksumStatus::Unknown);
        frame[20] ^= 1;
        assert_eq!(checksum(l4, &frame), ChecksumStatus::Bad);
        assert_eq!(checksum(l4 | sys::THRONG_RX_IP_GOOD, &frame), ChecksumStatus::Good);
        assert_eq!(checksum(l4 | sys::THRONG_RX_IP_BAD, &frame), ChecksumStatus::Bad);
        assert_eq!(checksum(l4, &frame[..20]), ChecksumStatus::Bad);
    }
}
