//! The packet buffer: one Ethernet frame, in heap memory, in a pool's buffer or in a DPDK mbuf.

use std::collections::TryReserveError;

#[cfg(feature = "dpdk")]
use crate::device::dpdk::Mbuf;
use crate::device::pool::Buffer;

/// What the device says about the checksums of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumStatus {
    /// The device did not look: software has to verify.
    #[default]
    Unknown,
    /// The device verified the IP and TCP/UDP checksums, or the frame never left this machine.
    Good,
    /// The device found a wrong checksum.
    Bad,
}

/// What came with a received frame beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxMeta {
    /// The device's RSS hash, where it computes one.
    pub rss_hash: Option<u32>,
    /// The device's verdict on the checksums.
    pub checksum: ChecksumStatus,
}

/// What the device is asked to do with a frame on its way out.
///
/// Lengths are in bytes. With everything at its default the frame goes out as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxMeta {
    /// Ethernet header length.
    pub l2_len: u8,
    /// IP header length.
    pub l3_len: u8,
    /// TCP or UDP header length.
    pub l4_len: u8,
    /// The frame carries IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Fill in the IPv4 header checksum (the field is zero).
    pub ip_checksum: bool,
    /// Fill in the TCP checksum (the field holds the pseudo-header sum).
    pub tcp_checksum: bool,
    /// Fill in the UDP checksum (the field holds the pseudo-header sum).
    pub udp_checksum: bool,
    /// Cut the payload into segments of this many bytes (TSO); 0: do not.
    pub tso_segment: u16,
}

/// An owned Ethernet frame and its metadata.
///
/// Dropping it gives the memory back to where it came from, from any thread.
pub struct Packet {
    storage: Storage,
    /// Filled in by the device on receive.
    pub rx: RxMeta,
    /// Filled in by the stack before transmit.
    pub tx: TxMeta,
}

enum Storage {
    Heap(Vec<u8>),
    Pooled(Buffer),
    #[cfg(feature = "dpdk")]
    Mbuf(Mbuf),
}

impl Packet {
    /// An empty heap packet with room for `capacity` bytes.
    ///
    /// # Errors
    /// When the allocator has no memory for it.
    pub fn heap(capacity: usize) -> Result<Packet, TryReserveError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(capacity)?;
        Ok(Packet::from(bytes))
    }

    /// The frame's bytes, from the Ethernet header on. A frame handed to the stack by a
    /// device is always in one piece; of a frame being built for transmit these are the
    /// bytes of the first piece, which holds all headers.
    pub fn data(&self) -> &[u8] {
        match &self.storage {
            Storage::Heap(bytes) => bytes,
            Storage::Pooled(buffer) => buffer.frame(),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(mbuf) => mbuf.data(),
        }
    }

    /// The same bytes, to write.
    pub fn data_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Heap(bytes) => bytes,
            Storage::Pooled(buffer) => buffer.frame_mut(),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(mbuf) => mbuf.data_mut(),
        }
    }

    /// Length of the whole frame in bytes, all pieces.
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Heap(bytes) => bytes.len(),
            Storage::Pooled(buffer) => buffer.frame().len(),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(mbuf) => mbuf.len(),
        }
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes` at the end. Returns whether there was memory for all of it; on
    /// `false` the frame must be given up (nothing or a part was appended).
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        match &mut self.storage {
            Storage::Heap(heap) => {
                if heap.try_reserve(bytes.len()).is_err() {
                    return false;
                }
                heap.extend_from_slice(bytes);
                true
            }
            Storage::Pooled(buffer) => buffer.append(bytes),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(mbuf) => mbuf.append(bytes),
        }
    }

    /// Makes the frame longer by `len` bytes, which are there to be written and mean nothing yet: `None`,
    /// and nothing done, where there is no room for them in one piece.
    #[inline(always)]
    pub(crate) fn grow(&mut self, len: usize) -> Option<&mut [u8]> {
        match &mut self.storage {
            Storage::Heap(heap) => {
                heap.try_reserve(len).ok()?;
                let at = heap.len();
                heap.resize(at + len, 0);
                Some(&mut heap[at..])
            }
            Storage::Pooled(buffer) => buffer.grow(len),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(mbuf) => mbuf.grow(len),
        }
    }

    /// A heap copy of the frame with the same metadata, in one piece.
    ///
    /// # Errors
    /// When the allocator has no memory for it.
    pub fn try_clone(&self) -> Result<Packet, TryReserveError> {
        let mut copy = Packet::heap(self.len())?;
        copy.rx = self.rx;
        copy.tx = self.tx;
        self.for_each_piece(|piece| {
            if let Storage::Heap(bytes) = &mut copy.storage {
                bytes.extend_from_slice(piece);
            }
        });
        Ok(copy)
    }

    /// Calls `f` with each piece of the frame in order.
    pub fn for_each_piece(&self, mut f: impl FnMut(&[u8])) {
        match &self.storage {
            Storage::Heap(bytes) => f(bytes),
            Storage::Pooled(buffer) => f(buffer.frame()),
            #[cfg(feature = "dpdk")]
            Storage::Mbuf(mbuf) => mbuf.for_each_piece(f),
        }
    }

    /// The DPDK buffer it is in, if it is in one.
    #[cfg(feature = "dpdk")]
    pub(crate) fn mbuf_mut(&mut self) -> Option<&mut Mbuf> {
        match &mut self.storage {
            Storage::Mbuf(mbuf) => Some(mbuf),
            _ => None,
        }
    }

    /// The DPDK buffer out of the packet.
    #[cfg(feature = "dpdk")]
    pub(crate) fn into_mbuf(self) -> Option<Mbuf> {
        match self.storage {
            Storage::Mbuf(mbuf) => Some(mbuf),
            _ => None,
        }
    }

    /// Replaces the memory, of the same bytes, that the frame is in.
    #[cfg(feature = "dpdk")]
    pub(crate) fn move_to(&mut self, mbuf: Mbuf) {
        self.storage = Storage::Mbuf(mbuf);
    }
}

#[cfg(feature = "dpdk")]
impl Packet {
    /// A frame that has come. Made at once where it stays: what is set later has to be waited for when
    /// it is moved.
    #[inline(always)]
    pub(crate) fn received(mbuf: Mbuf, rx: RxMeta) -> Packet {
        Packet { storage: Storage::Mbuf(mbuf), rx, tx: TxMeta::default() }
    }
}

#[cfg(feature = "dpdk")]
impl From<Mbuf> for Packet {
    #[inline(always)]
    fn from(mbuf: Mbuf) -> Packet {
        Packet { storage: Storage::Mbuf(mbuf), rx: RxMeta::default(), tx: TxMeta::default() }
    }
}

/// An empty heap packet; allocates nothing.
impl Default for Packet {
    fn default() -> Packet {
        Packet::from(Vec::new())
    }
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Packet {
        Packet { storage: Storage::Heap(bytes), rx: RxMeta::default(), tx: TxMeta::default() }
    }
}

impl From<Buffer> for Packet {
    fn from(buffer: Buffer) -> Packet {
        Packet { storage: Storage::Pooled(buffer), rx: RxMeta::default(), tx: TxMeta::default() }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len())
            .field("rx", &self.rx)
            .field("tx", &self.tx)
            .finish()
    }
}
