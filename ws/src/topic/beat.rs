//! The heartbeat of a topic: once in an interval all subscribers are visited, a few at a time.

use std::rc::Weak;
use std::time::Duration;

use throng_net::stats;
use throng_runtime::{Instant, now, sleep, yield_now};

use super::Inner;
use super::hub::{REST, WAITING};

/// An interval has so many phases,
const PHASES: u32 = 1 << PHASE_BITS;
const PHASE_BITS: u32 = 10;
/// and so many places that follow each other are in the same one.
const GROUP: u32 = 64;
/// Subscribers are visited in so many pieces, if they are few; many small rooms would else wake the
/// shard more often than their sockets.
const PIECES: u32 = 16;
/// None are visited more often than this.
const LEAST_TICK: Duration = Duration::from_millis(5);
/// Groups that are visited before other tasks have their turn.
const AT_ONCE: u32 = 8;
/// A device that has taken nothing for so long is not waited for: its peers are to be found dead.
const STUCK: Duration = Duration::from_millis(10);

/// Visits the subscribers of a topic, all of them once in `interval`. Where the device does not take what
/// they have to send that soon it is once in one and a half: pings of a shard that cannot keep up would
/// have whoever opens a connection wait behind them, and their answers come too late.
pub(super) async fn heartbeat(topic: Weak<Inner>, interval: Duration) {
    // Never fewer than this at a time.
    let least = LEAST_TICK.as_nanos() * u128::from(PHASES) / interval.as_nanos().max(1);
    let least = u32::try_from(least).unwrap_or(PHASES).clamp(1, PHASES);
    let phases = |topic: &Inner| {
        let groups = topic.roster.borrow().slots().div_ceil(GROUP);
        (PHASES / groups.clamp(PIECES, PHASES)).max(least)
    };
    let mut next = (PHASES / PIECES).max(least);
    loop {
        let tick = (interval / PHASES * next).max(LEAST_TICK);
        // From here, not from the end of the sleep: a shard that hears of that late waits no longer for it.
        let until = now() + tick + tick / 2;
        sleep(tick).await;
        room(until, stats::transmit_waiting).await;
        let Some(topic) = topic.upgrade() else { return };
        // Late ticks are not made up for: that would shorten the time for somebody's answer. Nor
        // is a crowd that has come meanwhile visited in the few pieces of a room.
        let wanted = phases(&topic);
        visit(&topic, next.min(wanted), until).await;
        next = wanted;
    }
}

/// Visits the places of the next `count` phases, waiting for the device until `until` at most.
async fn visit(topic: &Inner, count: u32, until: Instant) {
    let from = topic.beat.get();
    let end = (from + count).min(PHASES);
    // First, so that who is woken sees that it is visited.
    topic.beat.set(end % PHASES);
    if end == PHASES {
        topic.beats.set(topic.beats.get().wrapping_add(1));
    }
    let slots = topic.roster.borrow().slots();
    let mut visited = 0;
    for group in (from..end).flat_map(|phase| groups_of(phase, slots)) {
        if visited == AT_ONCE {
            visited = 0;
            yield_now().await;
            room(until, stats::transmit_waiting).await;
        }
        topic.roster.borrow().wake(group, GROUP);
        visited += 1;
    }
}

/// Waits until fewer than [`WAITING`] connections wait for the device, but not beyond `until`, nor where it
/// takes nothing from them.
async fn room(until: Instant, waiting: impl Fn() -> usize) {
    let (mut least, mut since) = (usize::MAX, now());
    loop {
        let count = waiting();
        if count < WAITING || now() >= until {
            return;
        }
        if count < least {
            (least, since) = (count, now());
        } else if now() - since >= STUCK {
            return;
        }
        sleep(REST).await;
    }
}

/// When in the interval a place is visited. It is the same however many there are, so that a
/// peer has a whole interval for its answer though a crowd comes meanwhile; and the bits of the
/// group's number are reversed so that few groups are spread as evenly as many.
pub(super) fn phase_of(slot: u32) -> u32 {
    (slot / GROUP % PHASES).reverse_bits() >> (u32::BITS - PHASE_BITS)
}

/// The first places of the groups of a phase.
fn groups_of(phase: u32, slots: u32) -> impl Iterator<Item = u32> {
    // Reversed twice is as it was.
    let first = phase_of(phase * GROUP) * GROUP;
    (first..slots).step_by((PHASES * GROUP) as usize)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use throng_runtime::ShardId;
    use throng_runtime::driver::NoDriver;
    use throng_runtime::sim::World;

    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    /// How long [`room`] waits, [`MOST`] at most, where so many wait after a time.
    fn waits(waiting: impl Fn(Duration) -> usize + 'static) -> Duration {
        let mut world = World::new();
        let host = world.add_host(vec![Box::new(NoDriver)]);
        let took = Rc::new(Cell::new(None));
        let said = took.clone();
        let task = world.spawn(host, ShardId(0), async move {
            let begin = now();
            room(begin + MOST, || waiting(now() - begin)).await;
            said.set(Some(now() - begin));
        });
        assert!(world.run_until(Instant::from_millis(60_000), || took.get().is_some()));
        drop(task);
        took.get().unwrap()
    }

    #[test]
    fn it_waits_for_a_device_that_is_slow_and_not_for_one_that_is_stuck() {
        assert_eq!(waits(|_| WAITING - 1), Duration::ZERO);
        // One less in each 5 ms; so many take longer than it waits.
        let left = |from: usize| move |time: Duration| from - time.as_millis() as usize / 5;
        let slow = waits(left(WAITING + 1_000));
        assert!((Duration::from_secs(5)..Duration::from_millis(5_050)).contains(&slow), "{slow:?}");
        let many = waits(left(1_000_000));
        assert!((MOST..MOST + STUCK).contains(&many), "{many:?}");
        let stuck = waits(|_| 1_000_000);
        assert!((STUCK..2 * STUCK).contains(&stuck), "{stuck:?}");
        // As many come as go.
        let full = waits(|time| 5_000 + time.as_micros() as usize % 7);
        assert!((STUCK..2 * STUCK).contains(&full), "{full:?}");
    }

    #[test]
    fn every_place_is_in_one_phase() {
        for slots in [1, 64, 65, 1_000, 65_536, 200_001] {
            let mut visits = vec![0; slots as usize];
            for phase in 0..PHASES {
                for group in groups_of(phase, slots) {
                    for slot in group..(group + GROUP).min(slots) {
                        assert_eq!(phase_of(slot), phase);
                        visits[slot as usize] += 1;
                    }
                }
            }
            assert!(visits.into_iter().all(|visits| visits == 1), "of {slots}");
        }
    }
}
