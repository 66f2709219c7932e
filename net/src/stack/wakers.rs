//! Who waits for what: the wakers of a shard's connections, beside the engine that knows
//! nothing of tasks.

use std::task::{Context, Waker};

use throng_runtime::{SmallWaker, prefetch_read};

/// Adds the task of `cx` to tasks that wait for the same thing, once.
pub(crate) fn wait_in(waiting: &mut Vec<Waker>, cx: &Context<'_>) {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

/// What a task waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    /// Bytes, the end of the stream, or an error.
    Read,
    /// Room in the send queue, the end of the handshake, or an error.
    Write,
}

/// The wakers of the shard's connections. Every idle one waits to read, so those lie in a table;
/// few wait to write, so that table has holes.
#[derive(Default)]
pub(crate) struct Wakers {
    read: Table<1024>,
    write: Table<64>,
}

impl Wakers {
    /// Registers the task of `cx`; it replaces the one that waited before.
    pub(crate) fn register(&mut self, index: u32, interest: Interest, cx: &Context<'_>) {
        match interest {
            Interest::Read => self.read.set(index, cx.waker()),
            Interest::Write => self.write.set(index, cx.waker()),
        }
    }

    /// Wakes the task that waits, if one does.
    pub(crate) fn wake(&mut self, index: u32, interest: Interest) {
        let waker = match interest {
            // It will wait again.
            Interest::Read => self.read.take(index),
            Interest::Write => {
                let waker = self.write.take(index);
                self.write.tidy(index);
                waker
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks the cache for the reader's entry: the first of three steps, each for a whole burst.
    pub(crate) fn prefetch(&self, index: u32) {
        if let Some(entry) = self.read.entry(index) {
            prefetch_read(entry);
        }
    }

    /// The second: for what waking the reader looks at.
    pub(crate) fn prefetch_wake(&self, index: u32) {
        if let Some(Some(waker)) = self.read.entry(index) {
            waker.prefetch_wake();
        }
    }

    /// The third: for what polling the reader looks at.
    pub(crate) fn prefetch_poll(&self, index: u32) {
        if let Some(Some(waker)) = self.read.entry(index) {
            waker.prefetch_poll();
        }
    }

    /// Forgets both: the connection's owner has let go of it.
    pub(crate) fn clear(&mut self, index: u32) {
        self.read.take(index);
        self.read.tidy(index);
        self.write.take(index);
        self.write.tidy(index);
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        self.read.memory() + self.write.memory()
    }
}

/// Wakers by connection index, in chunks of `N`: growing allocates one chunk and moves none,
/// and one without wakers can be given back.
#[derive(Default)]
struct Table<const N: usize> {
    chunks: Vec<Option<Box<Chunk<N>>>>,
    /// How many wakers are in each: here, together, and not another cache line of the chunk's to be
    /// touched with each waker.
    used: Vec<u16>,
    /// One without wakers, kept for the next need.
    spare: Option<Box<Chunk<N>>>,
}

type Chunk<const N: usize> = [Option<SmallWaker>; N];

impl<const N: usize> Table<N> {
    /// The entry, if its chunk is there.
    fn entry(&self, index: u32) -> Option<&Option<SmallWaker>> {
        let chunk = self.chunks.get(index as usize / N)?.as_ref()?;
        Some(&chunk[index as usize % N])
    }

    fn set(&mut self, index: u32, waker: &Waker) {
        const { assert!(N <= u16::MAX as usize) };
        let (at, offset) = (index as usize / N, index as usize % N);
        if at >= self.chunks.len() {
            self.chunks.resize_with(at + 1, || None);
            self.used.resize(at + 1, 0);
        }
        let spare = &mut self.spare;
        let chunk = self.chunks[at]
            .get_or_insert_with(|| spare.take().unwrap_or_else(|| Box::new([const { None }; N])));
        let entry = &mut chunk[offset];
        match entry {
            Some(there) if there.will_wake(waker) => {}
            Some(there) => *there = waker.into(),
            None => {
                *entry = Some(waker.into());
                self.used[at] += 1;
            }
        }
    }

    fn take(&mut self, index: u32) -> Option<SmallWaker> {
        let chunk = self.chunks.get_mut(index as usize / N)?.as_mut()?;
        let waker = chunk[index as usize % N].take()?;
        self.used[index as usize / N] -= 1;
        Some(waker)
    }

    /// Gives back the chunk of a place if nobody waits in it.
    fn tidy(&mut self, index: u32) {
        let at = index as usize / N;
        if self.used.get(at) == Some(&0)
            && let Some(chunk) = self.chunks[at].take()
        {
            self.spare = Some(chunk);
        }
    }

    fn memory(&self) -> usize {
        let chunks = self.chunks.iter().chain([&self.spare]).flatten().count();
        chunks * size_of::<Chunk<N>>()
            + self.chunks.capacity() * size_of::<usize>()
            + self.used.capacity() * size_of::<u16>()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_waits_for_its_own() {
        let counts: [Arc<Count>; 3] = Default::default();
        let wakers = counts.clone().map(Waker::from);
        let woken = || counts.each_ref().map(|count| count.0.load(Ordering::Relaxed));
        let mut table = Wakers::default();
        let last = 5_000;
        for (waker, (index, interest)) in
            wakers.iter().zip([(0, Interest::Read), (last, Interest::Read), (0, Interest::Write)])
        {
            table.register(index, interest, &Context::from_waker(waker));
        }
        table.wake(last, Interest::Write);
        table.wake(1, Interest::Read);
        table.wake(9_999, Interest::Read);
        // Hints wake nobody, whoever is there.
        for index in [0, 1, last, 9_999] {
            table.prefetch(index);
            table.prefetch_wake(index);
            table.prefetch_poll(index);
        }
        assert_eq!(woken(), [0, 0, 0]);
        table.wake(0, Interest::Write);
        table.wake(0, Interest::Write);
        assert_eq!(woken(), [0, 0, 1]);
        table.register(0, Interest::Read, &Context::from_waker(&wakers[2]));
        table.wake(0, Interest::Read);
        assert_eq!(woken(), [0, 0, 2], "who comes later takes the place");
        table.clear(last);
        table.wake(last, Interest::Read);
        assert_eq!(woken(), [0, 0, 2]);
    }

    #[test]
    fn an_idle_connection_costs_eight_bytes_and_none_when_it_is_gone() {
        let count = 100 * 1024;
        let mut table = Wakers::default();
        let cx = Context::from_waker(Waker::noop());
        // Nobody's writers stay, as long as not all wait at once.
        for index in 0..count {
            table.register(index, Interest::Write, &cx);
            table.wake(index, Interest::Write);
            table.register(index, Interest::Read, &cx);
        }
        let each = table.memory() as f64 / f64::from(count);
        assert!(each < 8.5, "{each} bytes each");
        (0..count).for_each(|index| table.clear(index));
        assert!(table.memory() < 40_000, "{} bytes", table.memory());
    }
}
