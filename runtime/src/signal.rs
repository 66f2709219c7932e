//! SIGINT and SIGTERM as a future.
//!
//! The handler sets a counter and unparks the shards, which look at the counter once per
//! turn. It is installed when the first task asks, so a program that never asks keeps the
//! default action, and taken back when the last runtime that asked ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use crate::arena;
use crate::shard;

const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Signals seen by the handler, ever.
static SEEN: AtomicU32 = AtomicU32::new(0);
/// Runtimes that use the handler, and the actions it replaced.
static INSTALLED: Mutex<(usize, Vec<(libc::c_int, libc::sigaction)>)> = Mutex::new((0, Vec::new()));

/// Waits for SIGINT or SIGTERM. Once one has come in the life of this runtime this is
/// ready on every shard, for everyone who waits and everyone who asks later.
///
/// From the first call to the end of the runtime these signals do not end the process.
/// In a simulated world it is [`World::terminate`](crate::sim::World::terminate) that it
/// waits for.
///
/// # Panics
/// When the thread runs no shard.
pub async fn terminate() {
    shard::with(|shard| shard.group.watch_signals());
    let waiter = Waiter::new();
    std::future::poll_fn(|cx| {
        shard::with(|shard| {
            if shard.group.terminated() {
                return Poll::Ready(());
            }
            let waker = cx.waker().clone();
            let old = shard.signal_waiters.borrow_mut().insert(waiter.0, waker);
            drop(old);
            Poll::Pending
        })
    })
    .await;
}

/// A place among its shard's waiters, under a number no other one has; given up when
/// dropped, since a connection that ends must not leave its waker behind.
struct Waiter(u64);

impl Waiter {
    fn new() -> Waiter {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Waiter(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let waker =
            shard::try_with(|shard| shard.signal_waiters.borrow_mut().remove(&self.0)).flatten();
        drop(waker);
    }
}

/// The counter of signals.
pub(crate) fn seen() -> u32 {
    SEEN.load(Ordering::Acquire)
}

extern "C" fn handle(_: libc::c_int) {
    // SAFETY: the address of this thread's errno is always valid. Everything else here is
    // atomics and write(2), all fit for a signal handler.
    let errno = unsafe { *libc::__errno_location() };
    SEEN.fetch_add(1, Ordering::AcqRel);
    arena::unpark_all();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Installs the handler, or counts one more user of it.
pub(crate) fn install() {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    installed.0 += 1;
    if installed.0 > 1 {
        return;
    }
    for signal in SIGNALS {
        // SAFETY: all-zero is a valid `sigaction` (default action, empty mask, no flags).
        let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        new.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
        new.sa_flags = libc::SA_RESTART;
        // SAFETY: both structs are valid for the call.
        if unsafe { libc::sigaction(signal, &raw const new, &raw mut old) } == 0 {
            installed.1.push((signal, old));
        } else {
            tracing::error!(
                signal,
                "cannot install a signal handler: {}",
                std::io::Error::last_os_error()
            );
        }
    }
}

/// Takes back one [`install`].
pub(crate) fn uninstall() {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    installed.0 -= 1;
    if installed.0 == 0 {
        for (signal, old) in installed.1.drain(..) {
            // SAFETY: `old` is what `sigaction` gave for this signal.
            unsafe { libc::sigaction(signal, &raw const old, std::ptr::null_mut()) };
        }
    }
}
