//! Random lives of tasks against a model: how often each is polled, how it ends, and that
//! every future and every output is dropped exactly once.

mod common;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use common::{Dropped, poll_once, world};
use proptest::prelude::*;
use throng_runtime::sim::{HostId, World};
use throng_runtime::{JoinHandle, ShardId, stats};

const SHARD: ShardId = ShardId(0);

#[derive(Clone, Debug)]
enum Step {
    /// A task that ends at this poll (from 1), by a panic or with an output; it may wake
    /// itself in each poll before.
    Spawn { polls: u32, panics: bool, restless: bool, cancel_on_drop: bool },
    /// Wakes a task, this many times, from its shard or from outside.
    Wake { pick: usize, times: u8, outside: bool },
    /// Aborts a task through its handle.
    Abort(usize),
    /// Drops a handle.
    DropHandle(usize),
    /// Asks a handle for the result.
    Join(usize),
    /// Runs until nothing moves.
    Run,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>;
    prop_oneof![
        4 => (1u32..4, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(polls, panics, restless, cancel_on_drop)| Step::Spawn { polls, panics, restless, cancel_on_drop }
        ),
        4 => (pick(), 1u8..4, any::<bool>()).prop_map(|(pick, times, outside)| Step::Wake { pick, times, outside }),
        1 => pick().prop_map(Step::Abort),
        2 => pick().prop_map(Step::DropHandle),
        2 => pick().prop_map(Step::Join),
        4 => Just(Step::Run),
    ]
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Output,
    Panic,
    Cancelled,
}

struct Task {
    // The real one.
    handle: Option<JoinHandle<Dropped>>,
    waker: Rc<Cell<Option<Waker>>>,
    polls: Rc<Cell<u32>>,
    futures: Rc<Cell<usize>>,
    outputs: Rc<Cell<usize>>,
    // The model.
    needs: u32,
    panics: bool,
    restless: bool,
    cancel_on_drop: bool,
    woken: bool,
    aborted: bool,
    expected: u32,
    end: Option<End>,
}

impl Task {
    fn spawn(
        world: &World,
        host: HostId,
        needs: u32,
        panics: bool,
        restless: bool,
        cancel: bool,
    ) -> Task {
        let (futures, future) = Dropped::counter();
        let (outputs, output) = Dropped::counter();
        let (polls, waker): (Rc<Cell<u32>>, Rc<Cell<Option<Waker>>>) = Default::default();
        let (count, keep, mut output) = (polls.clone(), waker.clone(), Some(output));
        let mut handle = world.spawn(
            host,
            SHARD,
            poll_fn(move |cx| {
                let _ = &future;
                count.set(count.get() + 1);
                keep.set(Some(cx.waker().clone()));
                if count.get() < needs {
                    if restless {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                assert!(!panics, "as the script says");
                Poll::Ready(output.take().expect("one output"))
            }),
        );
        if cancel {
            handle = handle.cancel_on_drop();
        }
        Task {
            handle: Some(handle),
            waker,
            polls,
            futures,
            outputs,
            needs,
            panics,
            restless,
            cancel_on_drop: cancel,
            woken: true,
            aborted: false,
            expected: 0,
            end: None,
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
            self.woken = true;
        }
    }

    /// The model of a run until nothing moves.
    fn ran(&mut self) {
        if self.end.is_some() || !self.woken {
            return;
        }
        self.woken = false;
        if self.aborted {
            self.end = Some(End::Cancelled);
            return;
        }
        self.expected = if self.restless { self.needs } else { self.expected + 1 };
        if self.expected == self.needs {
            self.end = Some(if self.panics { End::Panic } else { End::Output });
        }
    }

    fn drop_handle(&mut self) {
        if self.handle.take().is_some() && self.cancel_on_drop && self.end.is_none() {
            self.aborted = true;
            self.woken = true;
        }
    }

    fn check(&self) {
        assert_eq!(self.polls.get(), self.expected);
        assert_eq!(self.futures.get(), usize::from(self.end.is_some()), "future drops");
        // The output is with the future until the task ends, then with the handle.
        let held = self.end.is_none() || (self.end == Some(End::Output) && self.handle.is_some());
        assert_eq!(self.outputs.get(), usize::from(!held), "output drops");
        if let Some(handle) = &self.handle {
            assert_eq!(handle.is_finished(), self.end.is_some());
        }
    }

    fn join(&mut self) {
        let Some(mut handle) = self.handle.take() else { return };
        match (poll_once(&mut handle), self.end) {
            (Poll::Pending, None) => self.handle = Some(handle),
            (Poll::Ready(Ok(output)), Some(End::Output)) => {
                assert_eq!(self.outputs.get(), 0);
                drop(output);
            }
            (Poll::Ready(Err(error)), Some(End::Panic)) => assert!(error.is_panic()),
            (Poll::Ready(Err(error)), Some(End::Cancelled)) => assert!(error.is_cancelled()),
            (result, end) => panic!("{result:?} from a task that ended as {end:?}"),
        }
    }
}

fn run(steps: Vec<Step>) {
    let (mut world, host) = world(1);
    let mut tasks: Vec<Task> = Vec::new();
    for step in steps {
        let count = tasks.len().max(1);
        match step {
            Step::Spawn { polls, panics, restless, cancel_on_drop } => {
                tasks.push(Task::spawn(&world, host, polls, panics, restless, cancel_on_drop));
                continue;
            }
            Step::Run => {
                while world.sweep() {}
                tasks.iter_mut().for_each(Task::ran);
                tasks.iter().for_each(Task::check);
                let held = tasks.iter().filter(|task| task.end.is_none() || task.handle.is_some());
                assert_eq!(world.enter(host, SHARD, stats).tasks, held.count() as u64);
                continue;
            }
            Step::Wake { pick, times, outside } => {
                if let Some(task) = tasks.get_mut(pick % count) {
                    for _ in 0..times {
                        if outside {
                            task.wake();
                        } else {
                            world.enter(host, SHARD, || task.wake());
                        }
                    }
                }
            }
            Step::Abort(pick) => {
                if let Some(task) = tasks.get_mut(pick % count)
                    && let Some(handle) = &task.handle
                {
                    handle.abort();
                    if task.end.is_none() {
                        (task.aborted, task.woken) = (true, true);
                    }
                }
            }
            Step::DropHandle(pick) => {
                if let Some(task) = tasks.get_mut(pick % count) {
                    task.drop_handle();
                }
            }
            Step::Join(pick) => {
                if let Some(task) = tasks.get_mut(pick % count) {
                    task.join();
                }
            }
        }
    }
    drop(world);
    for task in &mut tasks {
        task.end.get_or_insert(End::Cancelled);
        task.check();
        task.join();
        assert_eq!((task.futures.get(), task.outputs.get()), (1, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tasks_live_as_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        // The panics of the scripts are expected: keep them out of the output.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some("as the script says") {
                hook(info);
            }
        }));
        run(steps);
        let _ = std::panic::take_hook();
    }
}
