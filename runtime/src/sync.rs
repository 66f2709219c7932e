//! What the lock-free parts (`mesh`, `gate`, `inbound`) are built of. `tests/loom.rs`
//! compiles these parts with a module of the same shape made of loom's types.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

/// `std::cell::UnsafeCell` in the shape of loom's, which watches accesses.
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
