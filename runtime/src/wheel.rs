//! A hierarchical timing wheel: insert, remove and fire in constant time.
//!
//! Eight levels of 64 slots. A slot of level 0 is one tick of 65,536 ns, a slot of level
//! `n` is 64 times one of level `n - 1`; together they cover the whole range of
//! [`Instant`]. A timer sits on the level of the highest digit in which its tick differs
//! from the current one, and moves down as that digit comes round. Bitmaps say which slots
//! hold anything, so time without timers costs nothing however far it jumps.
//!
//! Nodes live in a slab and are linked by 32-bit indices: 16 bytes beside the value. Timers of
//! the same tick fire in the order in which they reached its slot.

use std::mem::MaybeUninit;
use std::num::NonZeroU32;

use crate::slab::{Entry, Slab};
use crate::time::Instant;

/// A tick is `1 << TICK_SHIFT` ns: the most a timer is late by the wheel's doing.
const TICK_SHIFT: u32 = 16;
const LEVELS: usize = 8;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const MAX_TICK: u64 = (1 << (LEVELS as u32 * DIGIT_BITS)) - 1;

/// No node.
const NIL: u32 = u32::MAX;
/// No slot.
const NO_SLOT: u16 = FREE;
/// Slot number of a node that has fired and is kept for its owner.
const FIRED: u16 = u16::MAX - 1;
/// Slot number of a node in the free list.
const FREE: u16 = u16::MAX;

/// Names a timer between its insertion and the moment it fires or is removed. After that
/// the key is dead: it may come to name another timer, so its holder must forget it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerKey(NonZeroU32);

impl TimerKey {
    fn index(self) -> u32 {
        self.0.get() - 1
    }
}

/// The ends of a slot's list.
#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NIL, last: NIL };

struct Node<T> {
    /// Tick in the upper 48 bits, slot number in the lower 16.
    when: u64,
    next: u32,
    prev: u32,
    /// Initialised unless the node is free.
    value: MaybeUninit<T>,
}

impl<T> Entry for Node<T> {
    fn link(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl<T> Node<T> {
    fn slot(&self) -> u16 {
        self.when as u16
    }

    fn tick(&self) -> u64 {
        self.when >> 16
    }
}

/// A hierarchical timing wheel; see the module.
pub struct TimerWheel<T> {
    /// The current tick: all earlier ones have been served.
    elapsed: u64,
    /// No slot starts before this tick, so no look at the slots is needed until then.
    earliest: u64,
    /// The slot above level 0 that was left half moved down, if there is one.
    partial: u16,
    /// Bit `l`: level `l` holds anything.
    levels: u32,
    armed: u32,
    /// Bit `s` of level `l`: slot `s` holds anything.
    occupied: [u64; LEVELS],
    /// First and last node of each slot: here, so that a timer is added behind a million others
    /// without a look at the first of them.
    ends: Box<[Ends; LEVELS * SLOTS]>,
    nodes: Slab<Node<T>>,
}

impl<T> Default for TimerWheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> TimerWheel<T> {
    /// The length of a tick in nanoseconds. A timer fires at the first
    /// [`advance`](Self::advance) at or after its deadline rounded up to a tick.
    pub const TICK_NANOS: u64 = 1 << TICK_SHIFT;

    /// An empty wheel at the origin of time.
    pub fn new() -> Self {
        TimerWheel {
            elapsed: 0,
            earliest: u64::MAX,
            partial: NO_SLOT,
            levels: 0,
            armed: 0,
            occupied: [0; LEVELS],
            ends: Box::new([EMPTY; LEVELS * SLOTS]),
            nodes: Slab::new(),
        }
    }

    /// The number of timers that have neither fired nor been removed.
    pub fn len(&self) -> usize {
        self.armed as usize
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Bytes of the nodes that were ever used, of chunks that it still holds.
    pub fn memory(&self) -> usize {
        self.nodes.memory()
    }

    /// Arms a timer for `at`; one in the past fires at the next [`advance`](Self::advance).
    ///
    /// # Panics
    /// With more than 2^32 - 2 timers.
    pub fn insert(&mut self, at: Instant, value: T) -> TimerKey {
        let tick = Self::tick_of(at);
        let index = self.nodes.insert(Node {
            when: u64::from(FREE),
            next: NIL,
            prev: NIL,
            value: MaybeUninit::new(value),
        });
        self.link(index, tick);
        self.armed += 1;
        TimerKey(NonZeroU32::MIN.saturating_add(index))
    }

    fn tick_of(at: Instant) -> u64 {
        at.as_nanos().div_ceil(Self::TICK_NANOS).min(MAX_TICK)
    }

    /// Whether the timer of `key`, which must be one, is later than one armed for `at` would be.
    #[inline]
    pub fn is_later(&self, key: TimerKey, at: Instant) -> bool {
        self.nodes.get(key.index()).tick() > Self::tick_of(at)
    }

    /// Disarms a timer and returns its value. `None` if `key` names no timer; a dead key
    /// may name another one by now (see [`TimerKey`]).
    pub fn remove(&mut self, key: TimerKey) -> Option<T> {
        let index = key.index();
        match self.nodes.try_get(index)?.slot() {
            FREE => return None,
            FIRED => {}
            slot => {
                self.unlink(index, slot);
                self.armed -= 1;
            }
        }
        let value = self.release(index);
        self.nodes.shrink();
        Some(value)
    }

    /// Moves to `now` and hands the values of all due timers to `fire`, after which their
    /// keys are dead. Touches at most `budget` timers, those included that only change
    /// their level; returns whether it had to stop for that, with more to do. A `now` before
    /// that of an earlier call does nothing.
    pub fn advance(&mut self, now: Instant, budget: usize, fire: &mut impl FnMut(T)) -> bool {
        self.is_due(now)
            && self.serve(now, budget, |wheel, index| {
                let value = wheel.release(index);
                fire(value);
            })
    }

    /// As [`advance`](Self::advance), but a due timer stays allocated, disarmed, until it
    /// is removed: for owners who cannot be told that their key died.
    pub(crate) fn advance_keep(
        &mut self,
        now: Instant,
        budget: usize,
        fire: &mut impl FnMut(&mut T),
    ) -> bool {
        self.is_due(now)
            && self.serve(now, budget, |wheel, index| {
                let node = wheel.node_mut(index);
                node.when = (node.when & !0xffff) | u64::from(FIRED);
                // SAFETY: the node is not free, so its value is initialised.
                fire(unsafe { node.value.assume_init_mut() });
            })
    }

    /// Moves to `now` if nothing has to be done for that; returns whether something has.
    #[inline]
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let target = now.as_nanos() >> TICK_SHIFT;
        let due = target >= self.earliest;
        if !due {
            self.elapsed = self.elapsed.max(target);
        }
        due
    }

    /// A timer's value, if `key` names one.
    pub(crate) fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let node = self.nodes.try_get_mut(key.index()).filter(|node| node.slot() != FREE)?;
        // SAFETY: the node is not free, so its value is initialised.
        Some(unsafe { node.value.assume_init_mut() })
    }

    /// When to call [`advance`](Self::advance) next, `None` if never. It is not later than
    /// any timer is due, but for a far one it may be earlier: timers on a higher level
    /// first have to move down.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, start) = self.next_slot()?;
        Some(Instant::from_nanos(start << TICK_SHIFT))
    }

    /// The first slot to serve and the tick at which it starts.
    ///
    /// That is the first slot of the lowest level that holds anything: what sits on a higher
    /// level comes after the current slot of that level, so after all lower levels. Only a
    /// slot left half moved down is different: it is the current one.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let level = match self.partial {
            NO_SLOT => {
                if self.levels == 0 {
                    return None;
                }
                self.levels.trailing_zeros()
            }
            slot => u32::from(slot) / SLOTS as u32,
        };
        let shift = level * DIGIT_BITS;
        let current = self.elapsed >> shift;
        let digit = current & (SLOTS as u64 - 1);
        let ahead = self.occupied[level as usize] >> digit;
        debug_assert_ne!(ahead, 0, "a timer was left behind");
        // The digits above stay as they are, so adding cannot carry.
        let offset = u64::from(ahead.trailing_zeros());
        let slot = level as usize * SLOTS + (digit + offset) as usize;
        Some((slot, (current + offset) << shift))
    }

    /// Empties all slots that start at or before `now`: those of level 0 through `fire`, with
    /// nodes that are in no list any more, the others into lower levels.
    fn serve(&mut self, now: Instant, budget: usize, mut fire: impl FnMut(&mut Self, u32)) -> bool {
        let target = now.as_nanos() >> TICK_SHIFT;
        let mut budget = budget;
        loop {
            let next = self.next_slot();
            self.earliest = next.map_or(u64::MAX, |(_, start)| start);
            let Some((slot, start)) = next.filter(|&(_, start)| start <= target) else {
                self.elapsed = self.elapsed.max(target);
                self.nodes.shrink();
                return false;
            };
            self.elapsed = self.elapsed.max(start);
            let mut rest = Rest::take(self, slot);
            while rest.first != NIL {
                if budget == 0 {
                    return true;
                }
                budget -= 1;
                let index = rest.first;
                let node = rest.wheel.node(index);
                rest.first = node.next;
                if slot < SLOTS {
                    rest.wheel.armed -= 1;
                    fire(rest.wheel, index);
                } else {
                    let tick = node.tick();
                    rest.wheel.link(index, tick);
                }
            }
        }
    }

    fn link(&mut self, index: u32, tick: u64) {
        let tick = tick.max(self.elapsed);
        let difference = tick ^ self.elapsed;
        let level = (63 - (difference | 1).leading_zeros()) / DIGIT_BITS;
        let shift = level * DIGIT_BITS;
        let position = (tick >> shift) & (SLOTS as u64 - 1);
        // No tick is beyond the last level, so the remainder is no other slot.
        let slot = (level as usize * SLOTS + position as usize) % (LEVELS * SLOTS);
        self.earliest = self.earliest.min((tick >> shift) << shift);
        let last = std::mem::replace(&mut self.ends[slot].last, index);
        if last == NIL {
            self.ends[slot].first = index;
            self.occupy(slot);
        } else {
            self.node_mut(last).next = index;
        }
        let node = self.node_mut(index);
        node.when = (tick << 16) | slot as u64;
        node.next = NIL;
        node.prev = last;
    }

    fn unlink(&mut self, index: u32, slot: u16) {
        let slot = usize::from(slot) % self.ends.len();
        let (next, prev) = (self.node(index).next, self.node(index).prev);
        match prev {
            NIL => self.ends[slot].first = next,
            prev => self.node_mut(prev).next = next,
        }
        match next {
            NIL => self.ends[slot].last = prev,
            next => self.node_mut(next).prev = prev,
        }
        if next == NIL && prev == NIL {
            self.vacate(slot);
        }
    }

    /// Notes that a slot holds something.
    fn occupy(&mut self, slot: usize) {
        self.occupied[slot / SLOTS] |= 1 << (slot % SLOTS);
        self.levels |= 1 << (slot / SLOTS);
    }

    /// Notes that a slot holds nothing.
    fn vacate(&mut self, slot: usize) {
        if usize::from(self.partial) == slot {
            self.partial = NO_SLOT;
        }
        let level = slot / SLOTS;
        self.occupied[level] &= !(1 << (slot % SLOTS));
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }

    /// Frees an unlinked node.
    fn release(&mut self, index: u32) -> T {
        let node = self.node_mut(index);
        // SAFETY: the node is not free (callers check), so the value is initialised; the
        // node is marked free right here, so it is read out once.
        let value = unsafe { node.value.assume_init_read() };
        node.when = u64::from(FREE);
        self.nodes.remove(index);
        value
    }

    fn node(&self, index: u32) -> &Node<T> {
        self.nodes.get(index)
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        self.nodes.get_mut(index)
    }
}

impl<T> Drop for TimerWheel<T> {
    fn drop(&mut self) {
        if !std::mem::needs_drop::<T>() {
            return;
        }
        let armed = |(index, node): (u32, &Node<T>)| (node.slot() != FREE).then_some(index);
        let armed: Vec<u32> = self.nodes.iter().filter_map(armed).collect();
        for index in armed {
            drop(self.release(index));
        }
    }
}

/// The timers of a slot that is being served, taken out of it. What is left when serving
/// stops, for lack of budget or in a panic of the callback, goes back.
struct Rest<'a, T> {
    wheel: &'a mut TimerWheel<T>,
    slot: usize,
    first: u32,
    last: u32,
}

impl<'a, T> Rest<'a, T> {
    fn take(wheel: &'a mut TimerWheel<T>, slot: usize) -> Self {
        let Ends { first, last } = std::mem::replace(&mut wheel.ends[slot], EMPTY);
        wheel.vacate(slot);
        Rest { wheel, slot, first, last }
    }
}

impl<T> Drop for Rest<'_, T> {
    fn drop(&mut self) {
        if self.first != NIL {
            // The slot is still empty: timers only move to lower levels meanwhile.
            self.wheel.ends[self.slot] = Ends { first: self.first, last: self.last };
            self.wheel.node_mut(self.first).prev = NIL;
            self.wheel.occupy(self.slot);
            if self.slot >= SLOTS {
                self.wheel.partial = self.slot as u16;
            }
        }
    }
}
