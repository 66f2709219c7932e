//! `tap:<interface>`: a Linux multi-queue TAP, the host's kernel on the other side.
//!
//! One descriptor for each queue. Frames carry the kernel's `virtio_net_hdr`, so that
//! checksums stay unfinished and TCP packets stay whole (up to 64 KiB) in both directions:
//! at a system call for each frame, that is where the speed is.
//!
//! The kernel picks the queue of what it sends by its own flow hash and follows the flow:
//! once a queue has transmitted a frame of a flow, the flow's frames come to that queue.
//! No Toeplitz is claimed, so steering is software's until a flow has been followed home.
//!
//! The interface's own address belongs to the kernel; the port's is another, derived from
//! the interface's name, so that the two can talk to each other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, readv, writev};
use smoltcp::wire::EthernetAddress;
use throng_runtime::Instant;

use super::offload::{self, ETHERNET_HEADER, Layout, MAX_SUPERFRAME};
use super::pool::{Buffer, Pool};
use super::{Capabilities, Counters, Device, Rss};
use crate::packet::{ChecksumStatus, Packet, TxMeta};

mod sys;

/// A VLAN tag (IEEE 802.1Q 9.3), which an Ethernet frame may have beyond its MTU.
const TAG: usize = 4;

/// How to open a TAP.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface's MTU in bytes, 68 to 65521.
    pub mtu: usize,
    /// Buffers of each queue's pool.
    pub buffers: usize,
    /// The port's address; `None`: one derived from the interface's name.
    pub mac: Option<EthernetAddress>,
    /// The interface's address on the kernel's side; `None`: the kernel's choice.
    pub kernel_mac: Option<EthernetAddress>,
    /// Leave checksums and TCP segmentation to the kernel.
    pub offload: bool,
    /// Let the kernel leave them to us, too. Counts only with `offload`.
    pub receive_offload: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mtu: 1500,
            buffers: 4096,
            mac: None,
            kernel_mac: None,
            offload: true,
            receive_offload: true,
        }
    }
}

/// Opens `queues` queues of the interface, creates it when there is none, and brings it up.
/// An interface created here goes away with its last queue.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN, unless the interface was prepared for this
/// user; `NotFound` when the kernel has no TUN driver; `InvalidInput` for an unfit name, or
/// when an interface of this name exists and is of another kind.
pub fn open(interface: &str, queues: usize, options: &Options) -> io::Result<Vec<TapQueue>> {
    let explain = |error| explain(interface, error);
    if interface.is_empty() {
        return Err(explain(io::ErrorKind::InvalidInput.into()));
    }
    let queues = queues.max(1);
    let mut files = Vec::with_capacity(queues);
    for _ in 0..queues {
        let opened = match sys::open_queue(interface, true, options.offload) {
            // An interface that somebody made without multi_queue serves one shard.
            Err(error) if queues == 1 && error.kind() == io::ErrorKind::InvalidInput => {
                sys::open_queue(interface, false, options.offload)
            }
            other => other,
        };
        files.push(opened.map_err(explain)?);
    }
    if options.offload {
        let offload = sys::Offload { enabled: options.receive_offload };
        sys::set_offload(files[0].as_fd(), offload).map_err(explain)?;
    }
    if let Some(mac) = options.kernel_mac {
        sys::set_mac(interface, mac.0).map_err(explain)?;
    }
    sys::bring_up(interface, options.mtu).map_err(explain)?;
    let queues = files.into_iter().enumerate();
    Ok(queues.map(|(queue, file)| TapQueue::new(interface, queue, file, options)).collect())
}

/// Puts the interface's name and a remedy in front of what the kernel said.
fn explain(interface: &str, error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            ": needs CAP_NET_ADMIN (root, or `unshare -Urn`), or an interface prepared by `ip \
             tuntap add dev {interface} mode tap multi_queue user $USER`"
        ),
        io::ErrorKind::NotFound => ": the kernel's TUN driver is missing (`modprobe tun`)".into(),
        io::ErrorKind::InvalidInput => ": the name is unfit (1 to 15 bytes), or the interface \
            exists and is no TAP made with `multi_queue`"
            .into(),
        io::ErrorKind::ResourceBusy => ": another program has it open".into(),
        _ => String::new(),
    };
    io::Error::new(error.kind(), format!("device `tap:{interface}`: {error}{remedy}"))
}

/// One queue of a TAP: a [`Device`].
pub struct TapQueue {
    capabilities: Capabilities,
    file: File,
    pool: Pool,
    offload: bool,
    /// Room for a frame of MTU size and its header, taken before it is known to arrive.
    small: Option<Buffer>,
    /// Where the rest of a longer packet goes.
    large: Option<Buffer>,
    small_size: usize,
    /// The interface was deleted: its descriptor would end every wait at once.
    gone: bool,
    counters: Counters,
}

impl TapQueue {
    fn new(interface: &str, queue: usize, file: File, options: &Options) -> TapQueue {
        let mtu = options.mtu;
        let capabilities = Capabilities {
            name: format!("tap:{interface}#{queue}"),
            mac: options.mac.unwrap_or_else(|| super::local_mac(&format!("tap:{interface}"))),
            mtu,
            max_frame: if options.offload { MAX_SUPERFRAME } else { mtu + ETHERNET_HEADER },
            rx_checksum: options.offload,
            tx_ip_checksum: options.offload,
            tx_tcp_checksum: options.offload,
            tx_udp_checksum: options.offload,
            tso_max: if options.offload { 65_535 - 120 } else { 0 },
            rss: Rss::None,
        };
        let small_size = (VirtioHeader::SIZE + mtu + ETHERNET_HEADER + TAG).next_multiple_of(64);
        TapQueue {
            capabilities,
            file,
            pool: Pool::new(options.buffers, small_size),
            offload: options.offload,
            small: None,
            large: None,
            small_size,
            gone: false,
            counters: Counters::default(),
        }
    }

    /// Reads one frame. `Ok(None)`: there was one, but it is not for handing up (counted).
    fn read(&mut self) -> Result<Option<Packet>, Errno> {
        if self.small.is_none() {
            self.small = self.pool.take(self.small_size);
        }
        if self.offload && self.large.is_none() {
            self.large = self.pool.take(VirtioHeader::SIZE + MAX_SUPERFRAME);
        }
        // Without a buffer the frame stays where it is: in the kernel's ring.
        let mut small = self.small.take().ok_or(Errno::NOBUFS)?;
        let header = if self.offload { VirtioHeader::SIZE } else { 0 };
        let split = small.whole_mut().len();
        // A long packet continues behind the place its beginning is then copied to.
        let rest = self.large.as_mut().and_then(|large| large.whole_mut().get_mut(split..));
        let cut_short = rest.is_none();
        let read = readv(
            &self.file,
            &mut [IoSliceMut::new(small.whole_mut()), IoSliceMut::new(rest.unwrap_or_default())],
        );
        let length = match read {
            Ok(length) => length,
            Err(error) => {
                self.small = Some(small);
                return Err(error);
            }
        };
        let meta = VirtioHeader::read(small.whole_mut());
        let mut buffer = small;
        if length > split
            && let Some(mut large) = self.large.take()
        {
            large.whole_mut()[..split].copy_from_slice(buffer.whole_mut());
            self.small = Some(std::mem::replace(&mut buffer, large));
        }
        if length < header + ETHERNET_HEADER {
            self.counters.rx_dropped += 1;
            return Ok(None);
        }
        buffer.set_frame(header, length);
        let mut packet = Packet::from(buffer);
        // The kernel cut what did not fit: only when there was no buffer for a long packet.
        if self.offload && cut_short && meta.segment_type != 0 && length == split {
            self.counters.rx_dropped += 1;
            return Ok(None);
        }
        if self.offload {
            packet.rx.checksum = meta.checksum_status();
        }
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += packet.len() as u64;
        Ok(Some(packet))
    }

    /// Writes one frame.
    fn write(&self, packet: &mut Packet) -> Result<(), Errno> {
        if packet.data().len() != packet.len() {
            *packet = packet.try_clone().map_err(|_| Errno::NOMEM)?;
        }
        let tx = packet.tx;
        let limit = match tx.tso_segment {
            0 if is_tagged(packet.data()) => self.capabilities.mtu + ETHERNET_HEADER + TAG,
            0 => self.capabilities.mtu + ETHERNET_HEADER,
            _ => MAX_SUPERFRAME,
        };
        if packet.len() < ETHERNET_HEADER || packet.len() > limit {
            return Err(Errno::MSGSIZE);
        }
        if !self.offload {
            if offload::wanted(&tx) && !offload::fill_checksums(packet.data_mut(), &tx) {
                return Err(Errno::INVAL);
            }
            packet.tx = TxMeta::default();
            return writev(&self.file, &[IoSlice::new(packet.data())]).map(drop);
        }
        let header = VirtioHeader::for_frame(packet.data_mut(), &tx).ok_or(Errno::INVAL)?;
        let bytes = header.to_bytes();
        writev(&self.file, &[IoSlice::new(&bytes), IoSlice::new(packet.data())]).map(drop)
    }
}

fn is_tagged(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]))
}

impl Device for TapQueue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn receive(&mut self, frames: &mut Vec<Packet>, max: usize, _now: Instant) -> usize {
        let mut received = 0;
        for _ in 0..max {
            match self.read() {
                Ok(Some(packet)) => {
                    frames.push(packet);
                    received += 1;
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    self.counters.no_buffer += 1;
                    break;
                }
                Err(Errno::BADFD) => {
                    if !std::mem::replace(&mut self.gone, true) {
                        tracing::warn!(device = self.capabilities.name, "the interface is gone");
                    }
                    break;
                }
                // Nothing there.
                Err(_) => break,
            }
        }
        received
    }

    fn allocate(&mut self, len: usize) -> Option<Packet> {
        let buffer = self.pool.take(len);
        self.counters.no_buffer += u64::from(buffer.is_none());
        buffer.map(Packet::from)
    }

    fn transmit(&mut self, frames: &mut VecDeque<Packet>, _now: Instant) -> usize {
        let mut taken = 0;
        while let Some(packet) = frames.front_mut() {
            let length = packet.len() as u64;
            match self.write(packet) {
                Ok(()) => {
                    self.counters.tx_frames += 1;
                    self.counters.tx_bytes += length;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.counters.tx_full += 1;
                    break;
                }
                // Interface down or gone, or a frame the kernel does not take.
                Err(_) => self.counters.tx_dropped += 1,
            }
            frames.pop_front();
            taken += 1;
        }
        taken
    }

    fn interrupt_fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.file.as_fd())
    }

    fn arm(&mut self) -> bool {
        // The descriptor is level-triggered, so nothing can be lost; a look saves a wait.
        let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        !self.gone && !matches!(poll(&mut fds, Some(&none)), Ok(ready) if ready > 0)
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// `struct virtio_net_hdr` (virtio 1.2, 5.1.6) without the number of merged buffers, in the
/// machine's byte order as Linux has it by default.
#[derive(Clone, Copy, Default)]
struct VirtioHeader {
    flags: u8,
    segment_type: u8,
    header_length: u16,
    segment_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl VirtioHeader {
    const SIZE: usize = 10;
    /// The checksum is unfinished: it holds the sum of the pseudo header.
    const NEEDS_CHECKSUM: u8 = 1;
    /// The checksum was verified.
    const DATA_VALID: u8 = 2;
    const TCPV4: u8 = 1;
    const TCPV6: u8 = 4;
    /// The first segment alone carries CWR.
    const ECN: u8 = 0x80;

    /// The header at the front of what was read.
    fn read(bytes: &[u8]) -> VirtioHeader {
        match bytes {
            [flags, segment_type, ..] => {
                VirtioHeader { flags: *flags, segment_type: *segment_type, ..Default::default() }
            }
            _ => VirtioHeader::default(),
        }
    }

    fn checksum_status(self) -> ChecksumStatus {
        if self.flags & (Self::NEEDS_CHECKSUM | Self::DATA_VALID) != 0 {
            ChecksumStatus::Good
        } else {
            ChecksumStatus::Unknown
        }
    }

    /// What the frame asks for; the IPv4 header checksum, which the kernel does not do, is
    /// written here. `None` when the metadata does not fit the frame.
    fn for_frame(frame: &mut [u8], tx: &TxMeta) -> Option<VirtioHeader> {
        if !offload::wanted(tx) {
            return Some(VirtioHeader::default());
        }
        let layout = Layout::of(frame, tx)?;
        let mut header = VirtioHeader::default();
        if tx.tso_segment > 0 {
            if !offload::prepare_superframe(frame, tx) {
                return None;
            }
            header.header_length = layout.payload as u16;
            header.segment_size = tx.tso_segment;
            header.segment_type = if tx.ipv6 { Self::TCPV6 } else { Self::TCPV4 };
            if frame[layout.l4 + 13] & offload::CWR != 0 {
                header.segment_type |= Self::ECN;
            }
            // A packet that needs no cutting is not to be announced as one that does.
            if frame.len() - layout.payload <= usize::from(tx.tso_segment) {
                header.segment_type = 0;
                header.segment_size = 0;
            }
        } else if tx.ip_checksum && !tx.ipv6 {
            let ip_only = TxMeta { tcp_checksum: false, udp_checksum: false, ..*tx };
            offload::fill_checksums(frame, &ip_only);
        }
        if tx.tcp_checksum || tx.udp_checksum || tx.tso_segment > 0 {
            header.flags = Self::NEEDS_CHECKSUM;
            header.checksum_start = layout.l4 as u16;
            header.checksum_offset = if tx.udp_checksum { 6 } else { 16 };
        }
        Some(header)
    }

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = self.flags;
        bytes[1] = self.segment_type;
        bytes[2..4].copy_from_slice(&self.header_length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}
