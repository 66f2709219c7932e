//! The timing wheel against a naive model: a list of deadlines.

use proptest::prelude::*;
use throng_runtime::Instant;
use throng_runtime::wheel::{TimerKey, TimerWheel};

const TICK: u64 = TimerWheel::<u32>::TICK_NANOS;

#[derive(Clone, Debug)]
enum Step {
    /// Arms a timer this many nanoseconds from now.
    Insert(u64),
    /// Arms one at an absolute time, often in the past.
    InsertAt(u64),
    /// Disarms the timer with this number, modulo the armed ones.
    Remove(usize),
    /// Moves the clock on and serves, with this budget.
    Advance(u64, usize),
    /// Moves the clock to the wheel's own next deadline and serves.
    Jump,
    /// The clock goes back; nothing fires until it has caught up.
    Back(u64),
}

/// Spans of every size, so that all levels come into play.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..4 * TICK,
        4 => 0..1_000_000_000u64,
        2 => 0..3_600_000_000_000u64,
        1 => (0u32..64).prop_flat_map(|bits| 0..=(u64::MAX >> bits)),
        1 => Just(u64::MAX),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => span().prop_map(Step::Insert),
        1 => span().prop_map(Step::InsertAt),
        4 => any::<usize>().prop_map(Step::Remove),
        4 => (span(), prop_oneof![Just(usize::MAX), 0..8usize]).prop_map(|(by, budget)| Step::Advance(by, budget)),
        6 => Just(Step::Jump),
        1 => span().prop_map(Step::Back),
    ]
}

struct Model {
    wheel: TimerWheel<u32>,
    now: u64,
    /// Latest time ever served.
    latest: u64,
    armed: Vec<(u32, u64, TimerKey)>,
    next: u32,
}

impl Model {
    fn insert(&mut self, at: u64) {
        let key = self.wheel.insert(Instant::from_nanos(at), self.next);
        assert!(self.armed.iter().all(|&(_, _, other)| other != key), "a key in use came again");
        self.armed.push((self.next, at, key));
        self.next += 1;
    }

    /// Serves at `self.now` and checks what fires. A full serve leaves nothing due behind.
    fn advance(&mut self, budget: usize) {
        let (now, mut fired) = (self.now, Vec::new());
        let more = self.wheel.advance(Instant::from_nanos(now), budget, &mut |id| fired.push(id));
        self.latest = self.latest.max(now);
        let mut last_tick = 0;
        for id in fired {
            let at = self
                .armed
                .iter()
                .position(|&(other, _, _)| other == id)
                .expect("fired once, while armed");
            let (_, deadline, _) = self.armed.swap_remove(at);
            assert!(
                deadline <= now || deadline > u64::MAX - TICK,
                "{deadline} fired early, at {now}"
            );
            // Within one serve, earlier ticks come first, apart from overdue ones.
            let tick = deadline.div_ceil(TICK);
            assert!(tick >= last_tick || self.latest.div_ceil(TICK) >= tick);
            last_tick = last_tick.max(tick);
        }
        if !more && now == self.latest {
            for &(id, deadline, _) in &self.armed {
                assert!(
                    deadline.saturating_add(TICK - 1) > now,
                    "timer {id} for {deadline} is late at {now}"
                );
            }
        }
        assert!(!more || budget < usize::MAX, "stopped without a reason");
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.armed.len());
        assert_eq!(self.wheel.is_empty(), self.armed.is_empty());
        for &(id, deadline, key) in &self.armed {
            let is_later = |at| self.wheel.is_later(key, Instant::from_nanos(at));
            assert!(!is_later(deadline.max(self.latest)), "timer {id} is not later than it is");
            assert!(deadline == 0 || is_later(0), "timer {id} is later than at once");
        }
        let earliest = self.armed.iter().map(|&(_, deadline, _)| deadline).min();
        match (self.wheel.next_deadline(), earliest) {
            (None, None) => {}
            (Some(next), Some(earliest)) => {
                // Never later than the first timer fires, which is up to a tick after its
                // deadline, or now if it is overdue.
                let fires = earliest.div_ceil(TICK).saturating_mul(TICK).max(self.latest);
                assert!(next.as_nanos() <= fires, "{next:?} is after {fires}");
            }
            other => panic!("next deadline against the model's: {other:?}"),
        }
    }

    fn run(steps: Vec<Step>) {
        let mut model =
            Model { wheel: TimerWheel::new(), now: 0, latest: 0, armed: Vec::new(), next: 0 };
        for step in steps {
            match step {
                Step::Insert(after) => model.insert(model.now.saturating_add(after)),
                Step::InsertAt(at) => model.insert(at),
                Step::Remove(pick) if !model.armed.is_empty() => {
                    let pick = pick % model.armed.len();
                    let (id, _, key) = model.armed.swap_remove(pick);
                    assert_eq!(model.wheel.remove(key), Some(id));
                    assert_eq!(model.wheel.remove(key), None);
                }
                Step::Remove(_) => {}
                Step::Advance(by, budget) => {
                    model.now = model.now.saturating_add(by);
                    model.advance(budget);
                }
                Step::Jump => {
                    if let Some(next) = model.wheel.next_deadline() {
                        model.now = model.now.max(next.as_nanos());
                    }
                    model.advance(usize::MAX);
                }
                Step::Back(by) => {
                    model.now = model.now.saturating_sub(by);
                    model.advance(usize::MAX);
                }
            }
            model.check();
        }
        // By its own deadlines alone the wheel comes to its end, in few steps.
        let mut jumps = 0;
        while let Some(next) = model.wheel.next_deadline() {
            model.now = model.now.max(next.as_nanos());
            model.advance(usize::MAX);
            jumps += 1;
            assert!(jumps <= 8 * (model.next as usize + 1), "too many stops on the way");
        }
        assert!(model.armed.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_wheel_does_what_a_list_does(steps in prop::collection::vec(step(), 1..80)) {
        Model::run(steps);
    }
}

#[test]
fn timers_of_one_tick_fire_in_order_of_insertion() {
    let mut wheel = TimerWheel::new();
    for id in 0..100 {
        wheel.insert(Instant::from_millis(500), id);
    }
    let mut fired = Vec::new();
    wheel.advance(Instant::from_millis(501), usize::MAX, &mut |id| fired.push(id));
    assert_eq!(fired, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_budget_cuts_the_work_and_loses_nothing() {
    let mut wheel = TimerWheel::new();
    for id in 0..10_000u64 {
        wheel.insert(Instant::from_nanos(id * 40_000), id);
    }
    let (mut fired, mut calls) = (Vec::new(), 0);
    let now = Instant::from_millis(10_000);
    while wheel.advance(now, 64, &mut |id| fired.push(id)) {
        calls += 1;
        assert!(fired.len() <= calls * 64);
    }
    assert_eq!(fired.len(), 10_000);
    assert!(wheel.is_empty());
    let ticks: Vec<_> = fired.iter().map(|id| (id * 40_000).div_ceil(TICK)).collect();
    assert!(ticks.is_sorted());
}

#[test]
fn values_are_dropped_once() {
    let value = std::rc::Rc::new(());
    let mut wheel = TimerWheel::new();
    let keys: Vec<_> =
        (0..300).map(|i| wheel.insert(Instant::from_millis(i * 1000), value.clone())).collect();
    drop(wheel.remove(keys[7]));
    wheel.advance(Instant::from_millis(99_500), usize::MAX, &mut drop);
    assert_eq!(std::rc::Rc::strong_count(&value), 1 + 200);
    drop(wheel);
    assert_eq!(std::rc::Rc::strong_count(&value), 1);
}

#[test]
fn a_million_timers_come_and_go() {
    let mut wheel = TimerWheel::new();
    let keys: Vec<_> = (0..1_000_000u64)
        .map(|id| {
            wheel.insert(Instant::from_nanos(id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20), id)
        })
        .collect();
    for (id, key) in keys.iter().enumerate().step_by(2) {
        assert_eq!(wheel.remove(*key), Some(id as u64));
    }
    let mut fired = 0;
    assert!(!wheel.advance(Instant::MAX, usize::MAX, &mut |_| fired += 1));
    assert_eq!(fired, 500_000);
}

#[test]
fn a_panic_while_firing_loses_only_its_own_timer() {
    let mut wheel = TimerWheel::new();
    let keys: Vec<_> = (0..5).map(|id| wheel.insert(Instant::from_millis(1), id)).collect();
    let fire = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wheel.advance(Instant::from_millis(2), usize::MAX, &mut |id| assert_ne!(id, 1));
    }));
    assert!(fire.is_err());
    assert_eq!(wheel.len(), 3);
    assert_eq!(wheel.remove(keys[3]), Some(3));
    let mut fired = Vec::new();
    wheel.advance(Instant::from_millis(2), usize::MAX, &mut |id| fired.push(id));
    assert_eq!(fired, [2, 4]);
    assert!(wheel.next_deadline().is_none());
}
