//! Who waits for what: the wakers of a shard's connections, beside the engine, which knows of the
//! shard's own tasks that wait to read and of no others.

use std::task::{Context, Waker};

use throng_runtime::SmallWaker;
use throng_runtime::slab::{Entry, Slab};

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

/// The wakers of the shard's connections, but for tasks of ours that wait to read, which every idle
/// one has: those are in the [engine](crate::tcp::Engine::set_reader)'s own block. What is here is
/// little, so these tables have holes.
#[derive(Default)]
pub(crate) struct Wakers {
    read: Table,
    write: Table,
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
        let table = match interest {
            Interest::Read => &mut self.read,
            Interest::Write => &mut self.write,
        };
        let waker = table.take(index);
        table.tidy(index);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Forgets the one that waits to read.
    #[inline]
    pub(crate) fn forget(&mut self, index: u32) {
        if !self.read.places.is_empty() {
            self.read.take(index);
            self.read.tidy(index);
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

/// Wakers by connection index, in groups: growing takes one group and moves none, and one
/// without wakers is given back.
#[derive(Default)]
struct Table {
    /// Where in the slab each group is; [`NONE`]: it has no waker.
    places: Vec<u32>,
    /// How many wakers are in each: here, together, and not another cache line of the group's to be
    /// touched with each waker.
    used: Vec<u16>,
    groups: Slab<Group>,
}

const NONE: u32 = u32::MAX;

/// Wakers in a group.
const N: usize = 64;

struct Group {
    link: u32,
    wakers: [Option<SmallWaker>; N],
}

impl Entry for Group {
    fn link(&mut self) -> &mut u32 {
        &mut self.link
    }
}

impl Table {
    fn set(&mut self, index: u32, waker: &Waker) {
        const { assert!(N <= u16::MAX as usize) };
        let (at, offset) = (index as usize / N, index as usize % N);
        if at >= self.places.len() {
            self.places.resize(at + 1, NONE);
            self.used.resize(at + 1, 0);
        }
        if self.places[at] == NONE {
            // One that was given back has no wakers, either: to write it all anew is 8 KiB for each
            // connection where there are few.
            let fresh = || Group { link: 0, wakers: [const { None }; N] };
            self.places[at] = self.groups.reuse_or(fresh);
        }
        let entry = &mut self.groups.get_mut(self.places[at]).wakers[offset];
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
        let at = index as usize / N;
        let place = *self.places.get(at)?;
        if place == NONE {
            return None;
        }
        let waker = self.groups.get_mut(place).wakers[index as usize % N].take()?;
        self.used[at] -= 1;
        Some(waker)
    }

    /// Gives back the group of a connection if nobody waits in it.
    fn tidy(&mut self, index: u32) {
        let at = index as usize / N;
        if self.used.get(at) == Some(&0) && self.places[at] != NONE {
            self.groups.remove(self.places[at]);
            self.groups.shrink();
            self.places[at] = NONE;
        }
    }

    /// Bytes of groups that were in use at a time, and of what finds them.
    fn memory(&self) -> usize {
        self.groups.memory()
            + self.places.capacity() * size_of::<u32>()
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
    fn who_waits_no_longer_leaves_one_chunk() {
        let count = 600 * 1024;
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
        (0..count / 2).for_each(|index| table.forget(index));
        (0..count).for_each(|index| table.clear(index));
        assert!(table.memory() < (2 << 20) + 256_000, "{} bytes", table.memory());
    }
}
