//! Tasks that are to be told of something: one entry for each of very many connections.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::task::Context;

use throng_runtime::SmallWaker;
use throng_runtime::slab::{Entry, Slab};

/// Who is to be told. Its memory is 16 bytes a task, in chunks that go back as tasks go.
#[derive(Default)]
pub(crate) struct Told {
    tasks: RefCell<Slab<Place>>,
}

/// A task's place in it. Whoever has one takes it out again.
#[derive(Clone, Copy)]
pub(crate) struct Key(NonZeroU32);

impl Key {
    fn index(self) -> u32 {
        self.0.get() - 1
    }
}

struct Place {
    /// None in free places.
    waker: Option<SmallWaker>,
    next: u32,
}

impl Entry for Place {
    fn link(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Told {
    pub(crate) fn insert(&self, cx: &Context<'_>) -> Key {
        let place = Place { waker: Some(cx.waker().into()), next: 0 };
        Key(NonZeroU32::MIN.saturating_add(self.tasks.borrow_mut().insert(place)))
    }

    /// The task of `cx` is to be told in place of the one before.
    pub(crate) fn update(&self, key: Key, cx: &Context<'_>) {
        let mut tasks = self.tasks.borrow_mut();
        let known = &mut tasks.get_mut(key.index()).waker;
        if !known.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let old = known.replace(cx.waker().into());
            drop(tasks);
            drop(old);
        }
    }

    pub(crate) fn remove(&self, key: Key) {
        let mut tasks = self.tasks.borrow_mut();
        let waker = tasks.get_mut(key.index()).waker.take();
        tasks.remove(key.index());
        tasks.shrink();
        drop(tasks);
        // It may be the last of its task, whose drop may look here.
        drop(waker);
    }

    /// Wakes all.
    pub(crate) fn tell(&self) {
        let tasks = self.tasks.borrow();
        tasks
            .iter()
            .filter_map(|(_, place)| place.waker.as_ref())
            .for_each(SmallWaker::wake_by_ref);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn all_who_are_in_it_are_told_and_nobody_else() {
        let counts = [(); 3].map(|()| Arc::new(Count::default()));
        let wakers = counts.clone().map(Waker::from);
        let [first, second, third] = wakers.each_ref().map(Context::from_waker);
        let told = Told::default();
        let keys = [told.insert(&first), told.insert(&second)];
        told.tell();
        told.remove(keys[0]);
        told.update(keys[1], &third);
        told.update(keys[1], &third);
        told.tell();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Relaxed)), [1, 1, 1]);
        drop(wakers);
        // What left holds nobody.
        assert_eq!(counts.each_ref().map(Arc::strong_count), [1, 1, 2]);
        told.remove(keys[1]);
        assert_eq!(Arc::strong_count(&counts[2]), 1);
    }

    #[test]
    fn its_memory_goes_back_when_they_have_gone() {
        let cx = Context::from_waker(Waker::noop());
        let told = Told::default();
        let keys: Vec<Key> = (0..400_000).map(|_| told.insert(&cx)).collect();
        let full = told.tasks.borrow().memory();
        keys.into_iter().for_each(|key| told.remove(key));
        let left = told.tasks.borrow().memory();
        assert!(full >= 400_000 * 16 && left <= throng_runtime::chunks::BYTES, "{left} of {full}");
    }
}
