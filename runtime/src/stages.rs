//! How long the stages of the loop take, for who wants to know what stalls a shard.
//!
//! Off unless [`measure`] asks for it: each turn then reads the thread's processor time seven
//! times, which costs a system call each. Time in which the thread did not run, because the
//! machine was busy with others, does not count; page faults do.

use std::cell::Cell;
use std::time::Duration;

use crate::shard;

/// A stage is counted as slow from here on.
pub const SLOW: Duration = Duration::from_millis(1);

/// The stages of a turn, in their order; see the module `reactor`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Wakes and spawns from other shards.
    Inbox,
    /// One burst from the device, and what the engine makes of it.
    Receive,
    /// The runtime's timers.
    Timers,
    /// The driver's timers.
    Advance,
    /// Polls of tasks.
    Tasks,
    /// What connections send, and the device.
    Transmit,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 6] = [
        Stage::Inbox,
        Stage::Receive,
        Stage::Timers,
        Stage::Advance,
        Stage::Tasks,
        Stage::Transmit,
    ];

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Inbox => "inbox",
            Stage::Receive => "receive",
            Stage::Timers => "timers",
            Stage::Advance => "advance",
            Stage::Tasks => "tasks",
            Stage::Transmit => "transmit",
        }
    }
}

/// What was measured of one stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTime {
    /// The longest it took.
    pub longest: Duration,
    /// All of them together.
    pub total: Duration,
    /// How often it took [`SLOW`] or longer.
    pub slow: u64,
}

/// What was measured of every stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTimes {
    times: [StageTime; 6],
    /// Turns measured.
    pub turns: u64,
    /// All stages of those turns in which there was something to do: what the shard's work takes,
    /// whether or not it polls when there is none. What the looks at the clock take is not in it.
    pub busy: Duration,
}

impl StageTimes {
    /// Of one stage.
    pub fn of(&self, stage: Stage) -> StageTime {
        self.times[stage as usize]
    }

    /// The stage that took longest, and what it took.
    pub fn longest(&self) -> (Stage, Duration) {
        let longest = Stage::ALL.into_iter().max_by_key(|stage| self.of(*stage).longest);
        let stage = longest.unwrap_or(Stage::Inbox);
        (stage, self.of(stage).longest)
    }
}

/// Begins to measure this shard's stages anew, from the next turn on, or ends it.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn measure(on: bool) {
    shard::with(|shard| {
        shard.stages.on.set(on);
        shard.stages.look.set(if on { look() } else { Duration::ZERO });
        shard.stages.times.set(on.then(Box::default));
    });
}

/// What was measured since [`measure`], or since the last call of this; `None` where nothing
/// is.
///
/// # Panics
/// When the thread runs no shard.
#[track_caller]
pub fn take() -> Option<StageTimes> {
    shard::with(|shard| {
        let mut times = shard.stages.times.take()?;
        let taken = std::mem::take(&mut *times);
        shard.stages.times.set(Some(times));
        Some(taken)
    })
}

/// A shard's measurements, if it makes any.
#[derive(Default)]
pub(crate) struct Stages {
    on: Cell<bool>,
    /// What a look at the clock takes.
    look: Cell<Duration>,
    /// There while it is on.
    times: Cell<Option<Box<StageTimes>>>,
}

/// One turn under measurement. What it found is added when it is dropped.
pub(crate) struct Watch<'a> {
    stages: &'a Stages,
    turn: Turn,
}

struct Turn {
    last: Duration,
    took: [Duration; 6],
    busy: bool,
}

impl Stages {
    /// Whether turns are to be measured.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Begins a turn that is measured.
    #[cold]
    pub(crate) fn begin(&self) -> Watch<'_> {
        let turn = Turn { last: processor_time(), took: Default::default(), busy: false };
        Watch { stages: self, turn }
    }
}

impl Watch<'_> {
    /// `stage` is over.
    pub(crate) fn lap(&mut self, stage: Stage) {
        let now = processor_time();
        self.turn.took[stage as usize] = now.saturating_sub(self.turn.last);
        self.turn.last = now;
    }

    /// The turn is over; whether there was something to do in it.
    pub(crate) fn end(mut self, busy: bool) {
        self.turn.busy = busy;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // A task of this turn may have ended the measurement.
        let Some(mut times) = self.stages.times.take() else { return };
        times.turns += 1;
        for (time, took) in times.times.iter_mut().zip(self.turn.took) {
            time.longest = time.longest.max(took);
            time.total += took;
            time.slow += u64::from(took >= SLOW);
        }
        if self.turn.busy {
            let took: Duration = self.turn.took.iter().sum();
            let looks = self.stages.look.get() * self.turn.took.len() as u32;
            times.busy += took.saturating_sub(looks);
        }
        self.stages.times.set(Some(times));
    }
}

/// What a look at the clock takes that nothing interrupts: a system call, and where a turn has little to do
/// several of them are as long as all the rest.
fn look() -> Duration {
    let mut last = processor_time();
    let looks = (0..64).map(|_| {
        let now = processor_time();
        now.saturating_sub(std::mem::replace(&mut last, now))
    });
    looks.min().unwrap_or_default()
}

/// What this thread has used of a processor.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is valid for the call, which does nothing else.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
