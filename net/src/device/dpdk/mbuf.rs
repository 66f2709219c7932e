//! One packet buffer: an mbuf, or a chain of them that makes one frame.

use std::ptr::NonNull;

use dpdk_sys as sys;

use super::eal;

/// An owned frame in DPDK memory. Dropping it gives all its segments back to their pool,
/// from any thread.
pub(crate) struct Mbuf(NonNull<sys::throng_mbuf>);

// SAFETY: the frame is owned by one Mbuf (reference count one, nobody else points to it),
// and the pools it goes back to take frames from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: `&Mbuf` gives read access to the bytes only, which nobody writes meanwhile.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// Takes over a frame.
    ///
    /// # Safety
    /// `frame` is a valid mbuf, the first of its frame, owned by the caller, who gives it up.
    pub(super) unsafe fn from_raw(frame: NonNull<sys::throng_mbuf>) -> Mbuf {
        Mbuf(frame)
    }

    /// Gives up ownership: the frame now belongs to whoever gets the pointer.
    pub(super) fn into_raw(self) -> *mut sys::throng_mbuf {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }

    /// The frame's address, to hand to a driver that may or may not take it.
    pub(super) fn as_ptr(&mut self) -> *mut sys::throng_mbuf {
        self.0.as_ptr()
    }

    fn head(&self) -> &sys::throng_mbuf {
        // SAFETY: valid as long as it is owned, and nobody writes to it under `&self`.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn head_mut(&mut self) -> &mut sys::throng_mbuf {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { self.0.as_mut() }
    }

    /// Bytes of the first segment.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        // SAFETY: see `segment_bytes`; the borrow of self keeps the frame.
        unsafe { segment_bytes(self.0.as_ptr()) }
    }

    /// Bytes of the first segment, to write.
    #[inline]
    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        let head = self.head_mut();
        // SAFETY: the driver and `append` keep data_off + data_len within the buffer, whose
        // bytes are initialised (pool memory is zeroed when mapped). Exclusive by &mut.
        unsafe {
            std::slice::from_raw_parts_mut(
                head.buf_addr.cast::<u8>().add(usize::from(head.data_off)),
                usize::from(head.data_len),
            )
        }
    }

    /// Length of the frame, all segments.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.head().pkt_len as usize
    }

    /// Number of segments.
    #[inline]
    pub(super) fn segments(&self) -> u16 {
        self.head().nb_segs
    }

    /// Appends at the end, chaining buffers of the same pool when the last is full. On
    /// `false` a part may have been appended.
    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let head = self.head_mut();
        let used = usize::from(head.data_off) + usize::from(head.data_len);
        if head.nb_segs == 1 && bytes.len() <= usize::from(head.buf_len).saturating_sub(used) {
            // SAFETY: `used + bytes.len() <= buf_len`, the size of the buffer at buf_addr,
            // which is ours alone; the source is another object.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    head.buf_addr.cast::<u8>().add(used),
                    bytes.len(),
                );
            }
            // At most buf_len, a u16.
            head.data_len += bytes.len() as u16;
            head.pkt_len += bytes.len() as u32;
            return true;
        }
        let Ok(len) = u32::try_from(bytes.len()) else { return false };
        // SAFETY: an owned frame, and `len` readable bytes elsewhere.
        unsafe { sys::throng_append(self.0.as_ptr(), bytes.as_ptr(), len) == 0 }
    }

    /// Makes the frame longer by `len` bytes, whose content means nothing; `None` where it is more than
    /// one segment, or has no room for them.
    #[inline(always)]
    pub(crate) fn grow(&mut self, len: usize) -> Option<&mut [u8]> {
        let head = self.head_mut();
        let used = usize::from(head.data_off) + usize::from(head.data_len);
        if head.nb_segs != 1 || len > usize::from(head.buf_len).saturating_sub(used) {
            return None;
        }
        // At most buf_len, a u16.
        head.data_len += len as u16;
        head.pkt_len += len as u32;
        // SAFETY: `used + len <= buf_len`, the size of the buffer at buf_addr, whose bytes are initialised
        // (pool memory is zeroed when mapped). Exclusive by &mut.
        Some(unsafe { std::slice::from_raw_parts_mut(head.buf_addr.cast::<u8>().add(used), len) })
    }

    /// Calls `f` with the bytes of each segment in order.
    pub(crate) fn for_each_piece(&self, mut f: impl FnMut(&[u8])) {
        let mut segment: *const sys::throng_mbuf = self.0.as_ptr();
        while !segment.is_null() {
            // SAFETY: a segment of this frame, which the borrow keeps.
            f(unsafe { segment_bytes(segment) });
            // SAFETY: as above.
            segment = unsafe { sys::throng_next(segment) };
        }
    }

    /// Copies the whole frame to the end of `out`, which has room for it.
    pub(super) fn copy_to(&self, out: &mut Vec<u8>) {
        let len = self.len();
        debug_assert!(out.capacity() - out.len() >= len);
        out.reserve(len);
        // SAFETY: throng_copy_out writes exactly pkt_len bytes, and there is room for them
        // behind the vector's end.
        unsafe {
            sys::throng_copy_out(self.0.as_ptr(), out.as_mut_ptr().add(out.len()));
            out.set_len(out.len() + len);
        }
    }

    /// Makes it one segment. `false`: the first has no room for all.
    pub(super) fn linearize(&mut self) -> bool {
        // SAFETY: an owned frame with reference count one.
        unsafe { sys::throng_linearize(self.0.as_ptr()) == 0 }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: owned, and self is gone after this.
        unsafe { eal::free(self.0.as_ptr()) }
    }
}

/// The bytes of one segment.
///
/// # Safety
/// `segment` is valid for the lifetime the caller gives the slice, and nobody writes to it.
#[inline]
unsafe fn segment_bytes<'a>(segment: *const sys::throng_mbuf) -> &'a [u8] {
    // SAFETY: promised by the caller; drivers keep data_off + data_len within the buffer.
    unsafe {
        let segment = &*segment;
        std::slice::from_raw_parts(
            segment.buf_addr.cast::<u8>().add(usize::from(segment.data_off)),
            usize::from(segment.data_len),
        )
    }
}
