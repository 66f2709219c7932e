//! Packet buffer pools, one per queue.

use std::io;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpdk_sys as sys;

use crate::device::OpenOptions;

/// Bytes of a frame that fit into one buffer: what NICs are happiest with.
const ROOM: usize = 2048;
/// Ethernet header with one VLAN tag, and what drivers add for the FCS.
const FRAME_OVERHEAD: usize = 14 + 4 + 4;
/// Buffers a thread keeps at hand without touching the shared ring.
const CACHE: usize = 256;

static NAMES: AtomicUsize = AtomicUsize::new(0);
static IDLE: Mutex<Vec<Idle>> = Mutex::new(Vec::new());

/// A pool nobody opens a port on now. Pools are never freed, because a frame of one may be
/// held anywhere in the process; they are kept for the next port that wants the same.
struct Idle {
    pool: Handle,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
struct Shape {
    buffers: usize,
    room: usize,
    socket: i32,
    paged: bool,
}

struct Handle(NonNull<sys::rte_mempool>);

// SAFETY: a mempool may be used by every thread; it is only ever passed to DPDK.
unsafe impl Send for Handle {}

/// The buffers of one queue. Dropping it leaves outstanding frames valid.
pub(super) struct Pool {
    handle: Option<Handle>,
    shape: Shape,
}

/// Memory one queue's buffers take, roughly, in bytes.
pub(super) fn bytes(options: &OpenOptions) -> usize {
    let buffer = room(options.mtu) + sys::THRONG_HEADROOM as usize + sys::THRONG_MBUF_SIZE as usize;
    // 128: object header, alignment, the ring's slot.
    options.buffers * (buffer + 128)
}

/// Frame bytes per buffer, so that a frame of the MTU is one piece.
pub(super) fn room(mtu: usize) -> usize {
    (mtu + FRAME_OVERHEAD).next_multiple_of(64).max(ROOM)
}

impl Pool {
    /// A pool of `options.buffers` buffers on a NUMA node (negative: any).
    ///
    /// `paged` for AF_XDP, whose driver tells the kernel of a region from the first buffer on that is
    /// as long as the buffers together. They lie so without gaps only where each fills a page: no
    /// buffer lies across two, so what is left of a page of 4 KiB, or of 2 MiB, is a gap, by which
    /// the last buffers are outside the region. The kernel drops those for good, one after the other.
    pub(super) fn new(
        options: &OpenOptions,
        mtu: usize,
        socket: i32,
        paged: bool,
    ) -> io::Result<Pool> {
        let shape = Shape { buffers: options.buffers, room: room(mtu), socket, paged };
        let handle = match take_idle(shape) {
            Some(handle) => handle,
            None => create(shape)?,
        };
        Ok(Pool { handle: Some(handle), shape })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.handle.as_ref().map_or(std::ptr::null_mut(), |handle| handle.0.as_ptr())
    }

    /// Frame bytes per buffer.
    pub(super) fn room(&self) -> usize {
        self.shape.room
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(pool) = self.handle.take() {
            let mut idle = IDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            idle.push(Idle { pool, shape: self.shape });
        }
    }
}

/// A pool of this shape all of whose buffers are back.
fn take_idle(shape: Shape) -> Option<Handle> {
    let mut idle = IDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let found = idle.iter().position(|idle| {
        // SAFETY: pools are never freed.
        let available = unsafe { sys::rte_mempool_avail_count(idle.pool.0.as_ptr()) };
        idle.shape == shape && available as usize == shape.buffers
    })?;
    Some(idle.swap_remove(found).pool)
}

fn create(shape: Shape) -> io::Result<Handle> {
    let name = format!("throng_{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let name = super::eal::c_string(&name)?;
    let buffers = u32::try_from(shape.buffers)
        .map_err(|_| super::invalid(format!("buffers = {}: too many", shape.buffers)))?;
    let room = u16::try_from(shape.room + sys::THRONG_HEADROOM as usize)
        .map_err(|_| super::invalid(format!("packet buffers of {} bytes", shape.room)))?;
    // DPDK wants 1.5 caches to fit into the pool.
    let cache = CACHE.min(shape.buffers / 4) as u32;
    // SAFETY: a NUL-terminated name; DPDK is started (a port exists).
    let pool = unsafe {
        if shape.paged {
            sys::throng_page_pool(name.as_ptr(), buffers, cache, room, shape.socket)
        } else {
            sys::rte_pktmbuf_pool_create(name.as_ptr(), buffers, cache, 0, room, shape.socket)
        }
    };
    NonNull::new(pool).map(Handle).ok_or_else(|| {
        // SAFETY: reads a thread-local of this thread.
        let errno = unsafe { sys::throng_errno() };
        super::dpdk_error(
            &format!("{} packet buffers of {} bytes (option `buffers`)", shape.buffers, shape.room),
            errno,
        )
    })
}
