//! Values of one thread in types that other threads may hold.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::thread;

thread_local! {
    static NUMBER: Cell<Option<NonZeroU32>> = const { Cell::new(None) };
}

/// The number of the calling thread: no other one ever has the same.
#[inline]
fn number() -> NonZeroU32 {
    NUMBER.with(Cell::get).unwrap_or_else(first_number)
}

#[cold]
fn first_number() -> NonZeroU32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let next = |last: u32| last.checked_add(1);
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    let Ok(last) = last else { panic!("more than 2^32 - 1 threads") };
    let number = NonZeroU32::MIN.saturating_add(last);
    NUMBER.with(|cell| cell.set(Some(number)));
    number
}

/// A value that is used on the thread it was put in here only, which is checked at run
/// time. So it is `Send` and `Sync` whatever it holds, for libraries that ask for that and
/// do not make use of it.
///
/// Of a future it makes a `Send` one, as a handler of axum or a method of tonic must return:
/// `OnThread::new(throng_runtime::sleep(time)).await`, and [`OnThread::pin`] for a block of
/// code that keeps something `!Send` over its awaits.
///
/// # Panics
/// Every use on another thread, and a drop there if the value has anything to drop (which
/// it then never does).
pub struct OnThread<T> {
    value: ManuallyDrop<T>,
    thread: NonZeroU32,
}

// SAFETY: the value is reached through `check` only, on the thread whose number was taken
// when it was put in, and numbers are never given twice. Elsewhere it is not even dropped.
unsafe impl<T> Send for OnThread<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for OnThread<T> {}

impl<T> OnThread<T> {
    /// Ties a value to the calling thread.
    pub fn new(value: T) -> Self {
        OnThread { value: ManuallyDrop::new(value), thread: number() }
    }

    /// Whether the value may be used on the calling thread.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.thread == number()
    }

    /// The value itself again.
    ///
    /// # Panics
    /// On another thread.
    pub fn into_inner(self) -> T {
        self.check();
        let mut this = ManuallyDrop::new(self);
        // SAFETY: this is the value's thread, and `this` is not used or dropped any more.
        unsafe { ManuallyDrop::take(&mut this.value) }
    }

    #[inline]
    fn check(&self) {
        if !self.is_here() {
            wrong_thread();
        }
    }
}

#[cold]
fn wrong_thread() -> ! {
    panic!("a value was used on another thread than its own")
}

impl<F: Future> OnThread<Pin<Box<F>>> {
    /// A future of any kind, boxed, as one that is `Send`.
    ///
    /// ```
    /// use std::rc::Rc;
    /// use throng_runtime::{OnThread, yield_now};
    ///
    /// fn demands_send(future: impl Future<Output = u32> + Send) {}
    ///
    /// demands_send(OnThread::pin(async {
    ///     let not_send = Rc::new(5);
    ///     yield_now().await;
    ///     *not_send
    /// }));
    /// ```
    pub fn pin(future: F) -> Self {
        OnThread::new(Box::pin(future))
    }
}

/// Only of futures that may be moved: one that may not has to be in a box, which is then what
/// stays behind when this is dropped on another thread.
impl<F: Future + Unpin> Future for OnThread<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut **self).poll(cx)
    }
}

impl<T> Deref for OnThread<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.check();
        &self.value
    }
}

impl<T> DerefMut for OnThread<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.check();
        &mut self.value
    }
}

impl<T> Drop for OnThread<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: this is the value's thread, and a value is dropped once.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        } else if std::mem::needs_drop::<T>() && !thread::panicking() {
            wrong_thread();
        }
    }
}

impl<T> fmt::Debug for OnThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnThread").field("is_here", &self.is_here()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Waker};
    use std::thread;

    use super::OnThread;

    #[test]
    fn it_is_used_at_home_and_refused_elsewhere() {
        let shared = Rc::new(5);
        let mut value = OnThread::new(shared.clone());
        assert_eq!(**value, 5);
        *value = Rc::new(6);
        assert_eq!(Rc::strong_count(&shared), 1);
        let value = thread::spawn(move || {
            assert!(!value.is_here());
            let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| **value));
            assert!(used.is_err());
            value
        })
        .join()
        .unwrap();
        assert_eq!(*value.into_inner(), 6);
        // Dropped elsewhere it panics and keeps the value; what has no drop may go anywhere.
        static DROPS: AtomicU32 = AtomicU32::new(0);
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPS.fetch_add(1, Ordering::Relaxed);
            }
        }
        let value = OnThread::new(Counted);
        assert!(thread::spawn(move || drop(value)).join().is_err());
        assert_eq!(DROPS.load(Ordering::Relaxed), 0);
        drop(OnThread::new(Counted));
        assert_eq!(DROPS.load(Ordering::Relaxed), 1);
        let plain = OnThread::new(7u8);
        assert!(thread::spawn(move || drop(plain)).join().is_ok());
    }

    #[test]
    fn a_future_is_polled_at_home_and_refused_elsewhere() {
        fn send<F: Future + Send>(future: F) -> F {
            future
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut future = Box::pin(send(async {
            OnThread::pin(async {
                let not_send = Rc::new(5);
                crate::yield_now().await;
                *not_send
            })
            .await
        }));
        assert_eq!(future.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(future.as_mut().poll(&mut cx), Poll::Ready(5));
        let not_send = Rc::new(5);
        let mut future = OnThread::pin(async move { *not_send });
        let elsewhere = thread::spawn(move || {
            let mut cx = Context::from_waker(Waker::noop());
            Pin::new(&mut future).poll(&mut cx).is_ready()
        });
        assert!(elsewhere.join().is_err());
    }
}
