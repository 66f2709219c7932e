//! The neighbour table: next hop to link address (RFC 826, RFC 4861 7.3).
//!
//! Each shard has its own, learns from what every shard hears (the mesh carries it), and
//! asks for itself. An entry in use is confirmed again from time to time by a unicast
//! request; while that is under way the old address goes on being used.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use smoltcp::wire::EthernetAddress;
use throng_runtime::Instant;

use crate::packet::Packet;
use crate::tcp::segment::Addr;

/// How long an answer is trusted before it is asked for again (RFC 4861 10, BaseReachable).
const REACHABLE: Duration = Duration::from_secs(30);
/// A cookie is a slot and the slot's generation, this many bits of it.
const GENERATION_BITS: u32 = 12;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
/// Between two requests (RFC 4861 10, RETRANS_TIMER).
const RETRY: Duration = Duration::from_secs(1);
/// Requests without an answer before a neighbour counts as gone (RFC 4861 10).
const TRIES: u8 = 3;
/// Packets that wait for one neighbour (RFC 1122 2.3.2.2 asks for at least one): the
/// fragments of the longest datagram.
const PENDING: usize = 48;
/// Packets that wait for all neighbours together: they hold buffers of the device.
const MAX_HELD: usize = 256;
/// Least time between two looks at the neighbours that are being asked for.
const SWEEP: Duration = Duration::from_millis(50);
/// Entries looked at for one that may go.
const SEARCH: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The slot is free.
    Free,
    /// No address yet; requests go to everybody.
    Incomplete,
    /// Confirmed; asked again after `deadline`.
    Reachable,
    /// Being confirmed again; requests go to the known address.
    Probe,
}

struct Entry {
    addr: Addr,
    link: EthernetAddress,
    state: State,
    generation: u16,
    tries: u8,
    /// A packet of ours has gone there, or wants to.
    wanted: bool,
    deadline: Instant,
    pending: VecDeque<Packet>,
}

/// A request to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// Whose link address is wanted.
    pub(crate) target: Addr,
    /// The address to confirm, or `None` to ask everybody.
    pub(crate) link: Option<EthernetAddress>,
}

/// The answer to a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lookup {
    /// Send there.
    Known(EthernetAddress),
    /// Hand the packet to [`Neighbors::hold`] with this.
    Wait(u32),
    /// The table is full of neighbours in use.
    Full,
}

/// The table. A lookup leaves a cookie with its caller, never 0, that makes the next one cheap.
pub(crate) struct Neighbors {
    entries: Vec<Entry>,
    index: HashMap<Addr, u32, foldhash::fast::RandomState>,
    limit: usize,
    /// Entries being asked for, oldest first; some may have been answered or removed since.
    asked: VecDeque<(u32, u16)>,
    /// How many are `Incomplete`.
    incomplete: usize,
    /// Packets that wait.
    held: usize,
    /// When the earliest of `asked` is due.
    next: Option<Instant>,
    requests: Vec<Request>,
    victim: usize,
    /// Packets dropped because too many waited for one neighbour.
    pub(crate) overflows: u64,
}

impl Neighbors {
    /// A table of at most `limit` neighbours.
    pub(crate) fn new(limit: usize) -> Neighbors {
        Neighbors {
            entries: Vec::new(),
            index: HashMap::default(),
            limit,
            asked: VecDeque::new(),
            incomplete: 0,
            held: 0,
            next: None,
            requests: Vec::new(),
            victim: 0,
            overflows: 0,
        }
    }

    /// The link address for a cookie of an earlier lookup, if that entry still stands and
    /// needs no confirmation.
    pub(crate) fn cached(&self, cookie: u32, now: Instant) -> Option<EthernetAddress> {
        let entry = self.entries.get((cookie >> GENERATION_BITS).wrapping_sub(1) as usize)?;
        let usable = match entry.state {
            State::Reachable => now < entry.deadline,
            State::Probe => true,
            State::Free | State::Incomplete => false,
        };
        (usable && u32::from(entry.generation) == cookie & GENERATION_MASK).then_some(entry.link)
    }

    /// Looks `addr` up, and begins to ask for it where needed.
    pub(crate) fn lookup(&mut self, addr: Addr, cookie: &mut u32, now: Instant) -> Lookup {
        let Some(slot) = self.index.get(&addr).copied().or_else(|| self.insert(addr, now)) else {
            return Lookup::Full;
        };
        let entry = &mut self.entries[slot as usize];
        *cookie = (slot + 1) << GENERATION_BITS | u32::from(entry.generation);
        entry.wanted = true;
        match entry.state {
            State::Reachable if now >= entry.deadline => {
                entry.state = State::Probe;
                self.ask(slot, now);
                Lookup::Known(self.entries[slot as usize].link)
            }
            State::Reachable | State::Probe => Lookup::Known(entry.link),
            State::Incomplete => Lookup::Wait(slot),
            State::Free => {
                entry.state = State::Incomplete;
                self.incomplete += 1;
                self.ask(slot, now);
                Lookup::Wait(slot)
            }
        }
    }

    /// Keeps `packet` until the neighbour answers. When too many wait, the oldest for this
    /// neighbour goes, or the packet itself.
    pub(crate) fn hold(&mut self, slot: u32, packet: Packet) {
        let pending = &mut self.entries[slot as usize].pending;
        if pending.len() == PENDING || self.held == MAX_HELD {
            self.overflows += 1;
            if pending.pop_front().is_none() {
                return;
            }
            self.held -= 1;
        }
        pending.push_back(packet);
        self.held += 1;
    }

    /// Notes that `addr` is at `link`, and hands what waited for it to `release`, addressed.
    /// `create` is for a neighbour that spoke to us (RFC 826: merge, then add if we are the
    /// target); one that merely spoke updates what is there.
    pub(crate) fn learn(
        &mut self,
        addr: Addr,
        link: EthernetAddress,
        create: bool,
        now: Instant,
        mut release: impl FnMut(Packet),
    ) {
        if !link.is_unicast() {
            return;
        }
        let known = self.index.get(&addr).copied();
        let slot = if create { known.or_else(|| self.insert(addr, now)) } else { known };
        let Some(slot) = slot else { return };
        let entry = &mut self.entries[slot as usize];
        self.incomplete -= usize::from(entry.state == State::Incomplete);
        entry.state = State::Reachable;
        entry.link = link;
        entry.tries = 0;
        entry.deadline = now + REACHABLE;
        self.held -= entry.pending.len();
        for mut packet in entry.pending.drain(..) {
            packet.data_mut()[..6].copy_from_slice(&link.0);
            release(packet);
        }
        entry.pending = VecDeque::new();
    }

    /// Asks again where no answer came; hands what waited for a neighbour that is gone to
    /// `failed`. Returns whether anything was due.
    pub(crate) fn advance(&mut self, now: Instant, mut failed: impl FnMut(Packet)) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.next = None;
        for _ in 0..self.asked.len() {
            let Some((slot, generation)) = self.asked.pop_front() else { break };
            let entry = &mut self.entries[slot as usize];
            let asking = matches!(entry.state, State::Incomplete | State::Probe);
            if entry.generation != generation || !asking {
                continue;
            }
            if now < entry.deadline {
                let due = entry.deadline.max(now + SWEEP);
                self.next = Some(self.next.map_or(due, |next| next.min(due)));
                self.asked.push_back((slot, generation));
            } else if entry.tries >= TRIES {
                self.held -= entry.pending.len();
                entry.pending.drain(..).for_each(&mut failed);
                self.remove(slot);
            } else {
                self.ask(slot, now);
            }
        }
        true
    }

    /// When [`advance`](Neighbors::advance) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The requests to be sent since the last call.
    pub(crate) fn take_requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.requests)
    }

    /// Forgets everything: the addresses or routes have changed.
    pub(crate) fn clear(&mut self) {
        for slot in 0..self.entries.len() as u32 {
            if self.entries[slot as usize].state != State::Free {
                self.remove(slot);
            }
        }
        self.next = None;
        self.asked.clear();
    }

    fn ask(&mut self, slot: u32, now: Instant) {
        let entry = &mut self.entries[slot as usize];
        entry.tries += 1;
        entry.deadline = now + RETRY;
        self.next = Some(self.next.map_or(entry.deadline, |next| next.min(entry.deadline)));
        let link = (entry.state == State::Probe).then_some(entry.link);
        self.requests.push(Request { target: entry.addr, link });
        self.asked.push_back((slot, entry.generation));
    }

    /// A slot for `addr`: a new one, or one that may go.
    fn insert(&mut self, addr: Addr, now: Instant) -> Option<u32> {
        let slot = if self.entries.len() < self.limit && self.incomplete < self.limit.div_ceil(2) {
            self.entries.push(Entry {
                addr,
                link: EthernetAddress([0; 6]),
                state: State::Free,
                generation: 0,
                tries: 0,
                wanted: false,
                deadline: Instant::ZERO,
                pending: VecDeque::new(),
            });
            self.entries.len() as u32 - 1
        } else {
            let slot = self.victim(now)?;
            // A free slot's old address may live elsewhere by now: its index entry is not ours.
            if self.entries[slot as usize].state != State::Free {
                self.remove(slot);
            }
            slot
        };
        self.entries[slot as usize].addr = addr;
        self.index.insert(addr, slot);
        Some(slot)
    }

    /// An entry that may go. Many who do not answer (a flood from made-up addresses) push
    /// each other out, never a neighbour that packets go to.
    fn victim(&mut self, now: Instant) -> Option<u32> {
        if self.incomplete >= self.limit.div_ceil(2) {
            return self.oldest_incomplete();
        }
        let count = self.entries.len();
        for _ in 0..SEARCH.min(count) {
            self.victim = (self.victim + 1) % count;
            let entry = &self.entries[self.victim];
            let idle = match entry.state {
                State::Free => true,
                State::Reachable => now >= entry.deadline || !entry.wanted,
                State::Incomplete | State::Probe => false,
            };
            if idle {
                return Some(self.victim as u32);
            }
        }
        self.oldest_incomplete()
    }

    fn oldest_incomplete(&self) -> Option<u32> {
        let incomplete = |(slot, generation): &&(u32, u16)| {
            let entry = &self.entries[*slot as usize];
            entry.generation == *generation && entry.state == State::Incomplete
        };
        self.asked.iter().find(incomplete).map(|(slot, _)| *slot)
    }

    fn remove(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        self.index.remove(&entry.addr);
        self.incomplete -= usize::from(entry.state == State::Incomplete);
        self.held -= entry.pending.len();
        entry.state = State::Free;
        entry.generation = (entry.generation + 1) & GENERATION_MASK as u16;
        entry.tries = 0;
        entry.wanted = false;
        entry.pending = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 7]);

    fn addr(last: u8) -> Addr {
        Addr::from(std::net::IpAddr::from([10, 0, 0, last]))
    }

    fn frame() -> Packet {
        Packet::from(vec![0u8; 60])
    }

    #[test]
    fn what_waits_goes_out_addressed_when_the_answer_comes() {
        let mut table = Neighbors::new(4);
        let mut cookie = 0;
        let Lookup::Wait(slot) = table.lookup(addr(1), &mut cookie, Instant::ZERO) else {
            panic!()
        };
        table.hold(slot, frame());
        assert_eq!(table.take_requests(), [Request { target: addr(1), link: None }]);
        let mut out = Vec::new();
        table.learn(addr(1), LINK, false, Instant::ZERO, |packet| out.push(packet));
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].data()[..6], LINK.0);
        assert_eq!(table.cached(cookie, Instant::ZERO), Some(LINK));
    }

    #[test]
    fn silence_is_asked_three_times_and_then_fails() {
        let mut table = Neighbors::new(4);
        let mut cookie = 0;
        let Lookup::Wait(slot) = table.lookup(addr(1), &mut cookie, Instant::ZERO) else {
            panic!()
        };
        table.hold(slot, frame());
        let (mut asked, mut failed) = (0, 0);
        for second in 0..10 {
            table.advance(Instant::ZERO + Duration::from_secs(second), |_| failed += 1);
            asked += table.take_requests().len();
        }
        assert_eq!((asked, failed), (usize::from(TRIES), 1));
        assert_eq!(table.next_deadline(), None);
        assert_eq!(table.cached(cookie, Instant::ZERO), None);
    }

    #[test]
    fn an_old_answer_is_used_while_it_is_confirmed() {
        let mut table = Neighbors::new(4);
        let mut cookie = 0;
        table.learn(addr(1), LINK, true, Instant::ZERO, drop);
        assert_eq!(table.lookup(addr(1), &mut cookie, Instant::ZERO), Lookup::Known(LINK));
        let later = Instant::ZERO + REACHABLE;
        assert_eq!(table.cached(cookie, later), None);
        assert_eq!(table.lookup(addr(1), &mut cookie, later), Lookup::Known(LINK));
        assert_eq!(table.take_requests(), [Request { target: addr(1), link: Some(LINK) }]);
        assert_eq!(table.cached(cookie, later), Some(LINK));
    }

    #[test]
    fn strangers_do_not_fill_it() {
        let mut table = Neighbors::new(2);
        table.learn(addr(9), LINK, false, Instant::ZERO, drop);
        assert_eq!(table.index.len(), 0);
    }

    #[test]
    fn a_flood_of_silent_neighbours_leaves_those_in_use_alone() {
        let mut table = Neighbors::new(8);
        let mut gateway = 0;
        table.learn(addr(1), LINK, true, Instant::ZERO, drop);
        table.lookup(addr(1), &mut gateway, Instant::ZERO);
        let mut stale = 0;
        table.lookup(addr(2), &mut stale, Instant::ZERO);
        for last in 2..=250 {
            let Lookup::Wait(slot) = table.lookup(addr(last), &mut 0, Instant::ZERO) else {
                panic!("no place for {last}");
            };
            (0..PENDING).for_each(|_| table.hold(slot, frame()));
        }
        assert_eq!(table.cached(gateway, Instant::ZERO), Some(LINK));
        assert_eq!(table.cached(stale, Instant::ZERO), None);
        assert!(table.index.len() <= 8 && table.incomplete <= 4 && table.held <= MAX_HELD);
        let mut failed = 0;
        for second in 1..10 {
            table.advance(Instant::ZERO + Duration::from_secs(second), |_| failed += 1);
        }
        assert_eq!((table.held, table.incomplete, table.asked.len()), (0, 0, 0));
        assert!(failed <= MAX_HELD);
    }

    #[test]
    fn one_that_nobody_sends_to_makes_room() {
        let mut table = Neighbors::new(2);
        table.learn(addr(1), LINK, true, Instant::ZERO, drop);
        table.learn(addr(2), LINK, true, Instant::ZERO, drop);
        table.lookup(addr(1), &mut 0, Instant::ZERO);
        assert!(matches!(table.lookup(addr(3), &mut 0, Instant::ZERO), Lookup::Wait(_)));
        assert_eq!(table.lookup(addr(1), &mut 0, Instant::ZERO), Lookup::Known(LINK));
    }

    #[test]
    fn too_many_waiting_lose_the_oldest() {
        let mut table = Neighbors::new(2);
        let mut cookie = 0;
        let Lookup::Wait(slot) = table.lookup(addr(1), &mut cookie, Instant::ZERO) else {
            panic!()
        };
        for _ in 0..PENDING + 3 {
            table.hold(slot, frame());
        }
        assert_eq!(table.overflows, 3);
    }
}
