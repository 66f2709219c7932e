//! Asking the cache for memory that will be needed soon.

/// Fetches the first cache line of `value` for reading. Nothing happens where the
/// architecture offers no such hint.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    prefetch(std::ptr::from_ref(value).cast::<u8>());
}

/// As [`prefetch_read`], for any address, also an invalid one.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint that never faults, and SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
