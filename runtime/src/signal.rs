//! Signals as futures: SIGINT and SIGTERM, which end a runtime, and those that tell it something.
//!
//! The handler sets a counter and unparks the shards, which look at the counter once per
//! turn. It is installed when the first task asks, so a program that never asks keeps the
//! default action, and taken back when the last runtime that asked ends.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use crate::arena;
use crate::shard;

/// A signal that tells a server something, by its meaning's custom: see [`signals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGHUP: read the configuration again.
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

impl Kind {
    fn wish(self) -> Wish {
        match self {
            Kind::Hangup => Wish::Hangup,
            Kind::User1 => Wish::User1,
            Kind::User2 => Wish::User2,
        }
    }
}

/// What is asked for: signals that mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    End,
    Hangup,
    User1,
    User2,
}

pub(crate) const WISHES: usize = 4;

impl Wish {
    fn numbers(self) -> &'static [libc::c_int] {
        match self {
            Wish::End => &[libc::SIGINT, libc::SIGTERM],
            Wish::Hangup => &[libc::SIGHUP],
            Wish::User1 => &[libc::SIGUSR1],
            Wish::User2 => &[libc::SIGUSR2],
        }
    }

    fn of(number: libc::c_int) -> Wish {
        match number {
            libc::SIGHUP => Wish::Hangup,
            libc::SIGUSR1 => Wish::User1,
            libc::SIGUSR2 => Wish::User2,
            _ => Wish::End,
        }
    }
}

/// Signals seen by the handler, ever, by wish; and all of them, which counts last.
static SEEN: [AtomicU32; WISHES] = [const { AtomicU32::new(0) }; WISHES];
static ALL: AtomicU32 = AtomicU32::new(0);
/// Of each wish, the runtimes that use the handler, and the actions it replaced.
static INSTALLED: Mutex<[Installed; WISHES]> = Mutex::new([const { (0, Vec::new()) }; WISHES]);

type Installed = (usize, Vec<(libc::c_int, libc::sigaction)>);

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
    shard::with(|shard| shard.group.watch_signals(Wish::End));
    wait_until(|| shard::with(|shard| shard.group.terminated())).await;
}

/// Signals of a kind, from this call on.
///
/// From the first call to the end of the runtime they do not end the process. Everyone who
/// has called it hears of each; of several that come at once it may be of one. In a simulated
/// world there are none.
///
/// ```no_run
/// # async fn example() {
/// let mut hangups = throng_runtime::signal::signals(throng_runtime::signal::Kind::Hangup);
/// loop {
///     hangups.next().await;
///     println!("reading the configuration again");
/// }
/// # }
/// ```
///
/// # Panics
/// When the thread runs no shard.
pub fn signals(kind: Kind) -> Signals {
    let wish = kind.wish();
    shard::with(|shard| shard.group.watch_signals(wish));
    Signals { wish, heard: seen(wish) }
}

/// Signals of a kind, as [`signals`] gives them.
#[derive(Debug)]
pub struct Signals {
    wish: Wish,
    heard: u32,
}

impl Signals {
    /// Waits for one that has not been heard of here.
    ///
    /// # Panics
    /// When the thread runs no shard.
    pub async fn next(&mut self) {
        let Signals { wish, heard } = *self;
        wait_until(|| seen(wish) != heard).await;
        self.heard = seen(wish);
    }
}

/// Waits until something holds that signals change.
async fn wait_until(holds: impl Fn() -> bool) {
    let waiter = Waiter::new();
    poll_fn(|cx| {
        if holds() {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let old = shard::with(|shard| shard.signal_waiters.borrow_mut().insert(waiter.0, waker));
        drop(old);
        Poll::Pending
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

/// The counter of signals of a wish.
pub(crate) fn seen(wish: Wish) -> u32 {
    SEEN[wish as usize].load(Ordering::Acquire)
}

/// The counter of all signals: while it stays, nobody's wish has come true.
pub(crate) fn all() -> u32 {
    ALL.load(Ordering::Acquire)
}

extern "C" fn handle(number: libc::c_int) {
    // SAFETY: the address of this thread's errno is always valid. Everything else here is
    // atomics and write(2), all fit for a signal handler.
    let errno = unsafe { *libc::__errno_location() };
    SEEN[Wish::of(number) as usize].fetch_add(1, Ordering::AcqRel);
    ALL.fetch_add(1, Ordering::AcqRel);
    arena::unpark_all();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Installs the handler for a wish, or counts one more user of it.
pub(crate) fn install(wish: Wish) {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let (users, replaced) = &mut installed[wish as usize];
    *users += 1;
    if *users > 1 {
        return;
    }
    for &signal in wish.numbers() {
        // SAFETY: all-zero is a valid `sigaction` (default action, empty mask, no flags).
        let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        new.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
        new.sa_flags = libc::SA_RESTART;
        // SAFETY: both structs are valid for the call.
        if unsafe { libc::sigaction(signal, &raw const new, &raw mut old) } == 0 {
            replaced.push((signal, old));
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
pub(crate) fn uninstall(wish: Wish) {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let (users, replaced) = &mut installed[wish as usize];
    *users -= 1;
    if *users == 0 {
        for (signal, old) in replaced.drain(..) {
            // SAFETY: `old` is what `sigaction` gave for this signal.
            unsafe { libc::sigaction(signal, &raw const old, std::ptr::null_mut()) };
        }
    }
}
