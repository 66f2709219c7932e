//! Helpers shared by the tests.
#![allow(dead_code, unreachable_pub)]

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use throng_runtime::driver::NoDriver;
use throng_runtime::sim::{HostId, World};
use throng_runtime::{Config, Driver, Instant, ShardId};

pub fn no_driver(_: ShardId) -> std::io::Result<Box<dyn Driver>> {
    Ok(Box::new(NoDriver))
}

pub fn shards(shards: usize) -> Config {
    Config { shards, ..Config::default() }
}

/// A world with one host.
pub fn world(shards: usize) -> (World, HostId) {
    let mut world = World::new();
    let host = world.add_host((0..shards).map(|_| Box::new(NoDriver) as Box<dyn Driver>).collect());
    (world, host)
}

/// Runs a future in a world of one shard.
pub fn simulate<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let (mut world, host) = world(1);
    let limit = Instant::from_millis(3_600_000);
    world.block_on(host, limit, future).expect("no end within an hour of virtual time")
}

/// Counts its drops.
#[derive(Debug)]
pub struct Dropped(Rc<Cell<usize>>);

impl Dropped {
    pub fn counter() -> (Rc<Cell<usize>>, Dropped) {
        let count = Rc::new(Cell::new(0));
        (count.clone(), Dropped(count))
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Runs a test on a thread of its own and fails if it takes too long.
pub fn within(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = sender.send(());
    });
    match receiver.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not done after {limit:?}"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Polls a future once.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The waker of the running task.
pub async fn own_waker() -> Waker {
    std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

/// Pending once and again until woken `times` times beyond the first poll.
pub async fn pending_times(times: usize) {
    let mut left = times;
    std::future::poll_fn(move |_| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        Poll::Pending
    })
    .await
}
