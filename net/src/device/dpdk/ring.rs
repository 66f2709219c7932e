//! Two ports of one process, joined by rings of packet buffers: no peer, no copy, no kernel.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpdk_sys as sys;

use super::eal;
use super::port::Port;
use crate::device::{Device, OpenOptions};

static NAMES: AtomicUsize = AtomicUsize::new(0);

/// The devices of one port of a [`ring_pair`], one per shard.
pub type Side = Vec<Box<dyn Device>>;

/// Opens two net_ring ports of `shards` queue pairs each: what goes out of queue `i` of one
/// arrives on queue `i` of the other. A ring holds `options.ring` frames (rounded up to a
/// power of two, less one).
///
/// # Errors
/// When DPDK cannot start or has no memory for rings or packet buffers.
pub fn ring_pair(shards: usize, options: &OpenOptions) -> io::Result<(Side, Side)> {
    eal::start(&[], 2 * shards, options)?;
    let pair = NAMES.fetch_add(1, Ordering::Relaxed);
    let forth = Arc::new(Rings::new(&format!("throng_f{pair}"), shards, options.ring)?);
    let back = Arc::new(Rings::new(&format!("throng_b{pair}"), shards, options.ring)?);
    let open = |side: &str, rx: &Rings, tx: &Rings| -> io::Result<Side> {
        let keep = Arc::new((forth.clone(), back.clone()));
        let port = port(&format!("throng{pair}{side}"), rx, tx, keep)?;
        let queues = port.start(shards, options)?;
        Ok(queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect())
    };
    Ok((open("a", &back, &forth)?, open("b", &forth, &back)?))
}

fn port(
    name: &str,
    rx: &Rings,
    tx: &Rings,
    keep: Arc<(Arc<Rings>, Arc<Rings>)>,
) -> io::Result<Port> {
    let _control = eal::control();
    let c_name = eal::c_string(name)?;
    let (rx, tx) = (rx.pointers(), tx.pointers());
    // SAFETY: two arrays of live rings with their lengths. The port keeps the rings, not the
    // arrays; `keep` sees that they outlive it.
    let id = unsafe {
        sys::rte_eth_from_rings(
            c_name.as_ptr(),
            rx.as_ptr(),
            rx.len() as u32,
            tx.as_ptr(),
            tx.len() as u32,
            0,
        )
    };
    let id = u16::try_from(id).map_err(|_| {
        // SAFETY: reads a thread-local of this thread.
        let errno = unsafe { sys::throng_errno() };
        super::dpdk_error(&format!("net_ring port {name}"), errno)
    })?;
    Port::new(id, name, true, Some(keep))
}

/// The rings of one direction, one per queue. Freed with what is in them.
struct Rings(Vec<NonNull<sys::rte_ring>>);

// SAFETY: the pointers are used only to hand the rings to ports and, by the last owner, to
// free them; the ring itself is a concurrent queue.
unsafe impl Send for Rings {}
// SAFETY: as above.
unsafe impl Sync for Rings {}

impl Rings {
    fn new(name: &str, count: usize, frames: usize) -> io::Result<Rings> {
        let frames = u32::try_from(frames.next_power_of_two())
            .map_err(|_| super::invalid(format!("ring = {frames}: too long")))?;
        let mut rings = Rings(Vec::with_capacity(count));
        for queue in 0..count {
            let name = eal::c_string(&format!("{name}_{queue}"))?;
            // SAFETY: a NUL-terminated name; DPDK is started.
            let ring =
                unsafe { sys::rte_ring_create(name.as_ptr(), frames, -1, sys::THRONG_RING_SP_SC) };
            let ring = NonNull::new(ring).ok_or_else(|| {
                // SAFETY: reads a thread-local of this thread.
                super::dpdk_error("a ring of packet buffers", unsafe { sys::throng_errno() })
            })?;
            rings.0.push(ring);
        }
        Ok(rings)
    }

    fn pointers(&self) -> Vec<*mut sys::rte_ring> {
        self.0.iter().map(|ring| ring.as_ptr()).collect()
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        for ring in &self.0 {
            // SAFETY: both ports are gone, so nobody else has the ring.
            unsafe {
                sys::throng_drain_ring(ring.as_ptr());
                sys::rte_ring_free(ring.as_ptr());
            }
        }
    }
}
