//! Messages between shards: one bounded ring per pair, each with one sender and one
//! receiver, so that a message costs two uncontended cache lines and no lock.

use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::config::ShardId;
use crate::sync::{AtomicUsize, Ordering, UnsafeCell};

/// Keeps what two cores write apart: 128 bytes, since x86 fetches lines in pairs.
#[repr(align(128))]
struct Apart<T>(T);

struct Ring<T> {
    /// Next position to read; written by the receiver.
    head: Apart<AtomicUsize>,
    /// Next position to write; written by the sender.
    tail: Apart<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is written by the one sender before it publishes `tail` and read by the
// one receiver after it has seen that; it is written again only after `head` came back.
// So a `T` only moves from one thread to another.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above; the ring owns its `T`s.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }

    fn write(&self, position: usize, value: T) {
        // SAFETY: only the sender calls this, for a position the receiver has left.
        self.slot(position).with_mut(|slot| unsafe {
            (*slot).write(value);
        });
    }

    fn read(&self, position: usize) -> T {
        // SAFETY: only the receiver calls this, once, for a position the sender has
        // published, so it is initialised.
        self.slot(position).with_mut(|slot| unsafe { (*slot).assume_init_read() })
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let tail = self.tail.0.load(Ordering::Acquire);
        let mut head = self.head.0.load(Ordering::Acquire);
        while head != tail {
            drop(self.read(head));
            head = head.wrapping_add(1);
        }
    }
}

/// The sending end of a ring.
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    /// The receiver's position as last seen; looked up again only when full.
    head: usize,
}

/// The receiving end of a ring.
pub struct Receiver<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    /// The sender's position as last seen; looked up again only when empty.
    tail: usize,
}

/// A bounded ring for one sender and one receiver. The capacity is rounded up to a
/// power of two.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.max(1).next_power_of_two();
    let ring = Arc::new(Ring {
        head: Apart(AtomicUsize::new(0)),
        tail: Apart(AtomicUsize::new(0)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    (Sender { ring: ring.clone(), tail: 0, head: 0 }, Receiver { ring, head: 0, tail: 0 })
}

impl<T> Sender<T> {
    /// Appends `value`, or gives it back when the ring is full.
    pub fn try_send(&mut self, value: T) -> Result<(), T> {
        let capacity = self.ring.slots.len();
        if self.tail.wrapping_sub(self.head) == capacity {
            self.head = self.ring.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head) == capacity {
                return Err(value);
            }
        }
        self.ring.write(self.tail, value);
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest value, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        if self.head == self.tail {
            self.tail = self.ring.tail.0.load(Ordering::Acquire);
            if self.head == self.tail {
                return None;
            }
        }
        let value = self.ring.read(self.head);
        self.head = self.head.wrapping_add(1);
        self.ring.head.0.store(self.head, Ordering::Release);
        Some(value)
    }
}

/// Rings between all pairs of shards, each shard's own included.
///
/// Only a constructor: [`Mesh::new`] gives one [`Port`] per shard.
pub struct Mesh<T>(std::marker::PhantomData<T>);

impl<T> Mesh<T> {
    /// Rings of `capacity` messages (rounded up to a power of two) between `shards`
    /// shards; port `i` belongs to shard `i`. Memory: `shards^2 * capacity * size_of::<T>()`.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(shards: usize, capacity: usize) -> Vec<Port<T>> {
        let mut ports: Vec<Port<T>> = (0..shards)
            .map(|_| Port { to: Vec::with_capacity(shards), from: Vec::new(), next: 0 })
            .collect();
        for from in 0..shards {
            for to in 0..shards {
                let (sender, receiver) = channel(capacity);
                ports[from].to.push(sender);
                ports[to].from.push(receiver);
            }
        }
        ports
    }
}

/// One shard's ends of a [`Mesh`]. Sending does not wake the other shard: call
/// [`Unparker::unpark`](crate::Unparker::unpark) after a batch.
pub struct Port<T> {
    to: Vec<Sender<T>>,
    from: Vec<Receiver<T>>,
    next: usize,
}

impl<T> Port<T> {
    /// Sends to shard `to`. Gives the message back when that ring is full or there is
    /// no such shard.
    pub fn try_send(&mut self, to: ShardId, message: T) -> Result<(), T> {
        match self.to.get_mut(to.index()) {
            Some(sender) => sender.try_send(message),
            None => Err(message),
        }
    }

    /// Takes a message, from the senders in turn.
    pub fn try_recv(&mut self) -> Option<T> {
        for _ in 0..self.from.len() {
            let current = self.next;
            self.next = if current + 1 == self.from.len() { 0 } else { current + 1 };
            if let Some(message) = self.from[current].try_recv() {
                return Some(message);
            }
        }
        None
    }
}
