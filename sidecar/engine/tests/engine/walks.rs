//! Random walks: the invariants hold after any events in any order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use scaledapp_engine::{
    Cause, Dispatch, Event, Exit, Incident, OperationId, Slot, SlotState, WorkerId, WorkerState,
};

use crate::world::{World, millis};

const CAUSE: Cause = Cause::Requests { served: 1000 };

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The n-th starting worker, if there is one, becomes ready.
    Ready(usize),
    /// The n-th live worker ends.
    Crash(usize, Exit),
    /// The n-th draining worker has nothing in flight.
    Drained(usize),
    /// The n-th worker that has got the stop signal ends.
    Obey(usize),
    Scale(u32),
    Reload,
    Restart(u32),
    /// Recycles the n-th ready worker, with or without memory for two.
    Recycle(usize, bool),
    /// Kills the n-th live worker.
    Kill(usize),
    Starved(u64),
    Crowded(bool),
    /// The n-th live worker has served.
    Served(usize),
    Time(u64),
    /// Time advances to the engine's own deadline.
    Wake,
    /// An event about a worker that may not exist. The event may be false.
    Late(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let exit = prop_oneof![
        (0..3).prop_map(Exit::Code),
        Just(Exit::Signal(9)),
        Just(Exit::Spawn { code: 127 })
    ];
    prop_oneof![
        6 => any::<usize>().prop_map(Step::Ready),
        3 => (any::<usize>(), exit).prop_map(|(worker, exit)| Step::Crash(worker, exit)),
        4 => any::<usize>().prop_map(Step::Drained),
        5 => any::<usize>().prop_map(Step::Obey),
        2 => (0..5_u32).prop_map(Step::Scale),
        2 => Just(Step::Reload),
        1 => (0..5_u32).prop_map(Step::Restart),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(worker, surge)| Step::Recycle(worker, surge)),
        1 => any::<usize>().prop_map(Step::Kill),
        1 => (0..9_000_u64).prop_map(Step::Starved),
        1 => any::<bool>().prop_map(Step::Crowded),
        1 => any::<usize>().prop_map(Step::Served),
        2 => (0..40_000_u64).prop_map(Step::Time),
        3 => Just(Step::Wake),
        1 => (0..40_u64).prop_map(Step::Late),
    ]
}

struct Walk {
    world: World,
    dispatch: Dispatch,
    operations: u64,
    reload_failed: bool,
}

impl Walk {
    fn operation(&mut self) -> Option<OperationId> {
        self.operations += 1;
        // Some operations have no waiting caller.
        (!self.operations.is_multiple_of(4)).then_some(OperationId(self.operations))
    }

    fn nth(&self, state: Option<WorkerState>, n: usize) -> Option<WorkerId> {
        let workers = self.world.engine.workers();
        let fitting = workers.filter(|worker| state.is_none_or(|state| worker.state == state));
        let fitting: Vec<WorkerId> = fitting.map(|worker| worker.id).collect();
        (!fitting.is_empty()).then(|| fitting[n % fitting.len()])
    }

    fn event(&mut self, step: Step) -> Option<Event> {
        use WorkerState::{Draining, Starting, Stopping};
        Some(match step {
            Step::Ready(n) => Event::Ready(self.nth(Some(Starting), n)?),
            Step::Crash(n, exit) => Event::Exited(self.nth(None, n)?, exit),
            Step::Drained(n) => Event::Drained(self.nth(Some(Draining), n)?),
            Step::Obey(n) => Event::Exited(self.nth(Some(Stopping), n)?, Exit::Signal(15)),
            Step::Scale(workers) => Event::Scale {
                workers,
                operation: self.operation(),
            },
            Step::Reload => Event::Reload {
                operation: self.operation(),
            },
            Step::Restart(slot) => Event::Restart {
                slot: Slot(slot),
                operation: self.operation(),
            },
            Step::Recycle(n, surge) => Event::Recycle {
                worker: self.nth(Some(WorkerState::Ready), n)?,
                cause: CAUSE,
                surge,
            },
            Step::Kill(n) => Event::Kill {
                worker: self.nth(None, n)?,
                cause: CAUSE,
            },
            Step::Starved(time) => Event::Starved(millis(time)),
            Step::Crowded(is_crowded) => Event::Crowded(is_crowded),
            Step::Served(n) => Event::Served(self.nth(None, n)?),
            Step::Time(time) => {
                self.world.now += millis(time);
                Event::Wake
            }
            Step::Wake => {
                self.world.now = self.world.engine.deadline()?.max(self.world.now);
                Event::Wake
            }
            Step::Late(worker) if worker % 2 == 0 => Event::Drained(WorkerId(worker)),
            Step::Late(worker) => Event::Spawned(WorkerId(worker)),
        })
    }

    fn take(&mut self, step: Step) {
        let Some(event) = self.event(step) else {
            return;
        };
        let engine = &self.world.engine;
        let before = engine.ready();
        let mut lost = match event {
            Event::Exited(worker, _) | Event::Kill { worker, .. }
                if self.world.state(worker) == Some(WorkerState::Ready) =>
            {
                1
            }
            _ => 0,
        };
        let told = self.world.incidents.len();
        self.world.on(event);
        // Without memory for two workers, a recycling stops the old one before the new one starts.
        let recycled = |incident: &&Incident| matches!(incident, Incident::RecycleBegan { .. });
        lost += self.world.incidents[told..].iter().filter(recycled).count() as u32;
        let engine = &self.world.engine;
        if !matches!(event, Event::Scale { .. }) && !engine.is_stopping() {
            let least = engine.desired().min(before - lost.min(before));
            assert!(
                engine.ready() >= least,
                "{event:?} took workers from service"
            );
        }
        self.check();
    }

    fn check(&mut self) {
        let world = &self.world;
        let engine = &world.engine;
        let running: BTreeSet<WorkerId> = engine.workers().map(|worker| worker.id).collect();
        assert!(
            running.iter().eq(world.processes.keys()),
            "engine and shell disagree"
        );
        let failed = |incident: &Incident| matches!(incident, Incident::ReloadFailed { .. });
        self.reload_failed |= world.incidents.iter().any(failed);
        if engine.is_stopping() {
            return;
        }
        for slot in engine.slots() {
            let states = engine.workers().filter(|worker| worker.slot == slot.slot);
            let states: Vec<WorkerState> = states.map(|worker| worker.state).collect();
            match slot.state {
                SlotState::Starting => assert!(
                    states.contains(&WorkerState::Starting) || states.contains(&WorkerState::Ready)
                ),
                SlotState::Ready => assert!(states.contains(&WorkerState::Ready)),
                SlotState::Stopping => assert!(
                    states.contains(&WorkerState::Stopping)
                        || states.contains(&WorkerState::Draining)
                ),
                SlotState::CrashLoop { next_attempt } => {
                    assert!(next_attempt > world.now && engine.deadline() <= Some(next_attempt));
                }
            }
        }
        let due = engine
            .deadline()
            .is_some_and(|deadline| deadline <= world.now);
        assert!(!due, "a deadline in the past would make the shell spin");
        let staying = engine
            .workers()
            .filter(|worker| matches!(worker.state, WorkerState::Starting | WorkerState::Ready));
        let generations: BTreeSet<u32> = staying.map(|worker| worker.generation.0).collect();
        // A reload under Request dispatch that fails half-way leaves two generations; the
        // next reload adds its own.
        let bound = match (self.dispatch, self.reload_failed) {
            (Dispatch::Request, true) => usize::MAX,
            _ => 2,
        };
        assert!(generations.len() <= bound, "generations {generations:?}");
        if self.dispatch == Dispatch::Connection && engine.ready() > 0 {
            assert_eq!(world.activated.last(), Some(&engine.generation()));
        }
    }
}

fn walk(dispatch: Dispatch, workers: u32, steps: &[Step]) {
    let world = World::start(dispatch, workers);
    let mut walk = Walk {
        world,
        dispatch,
        operations: 0,
        reload_failed: false,
    };
    for step in steps {
        walk.take(*step);
    }
    let mut world = walk.world;
    world.settle_down();
    if !world.engine.is_stopping() {
        assert_eq!(world.engine.ready(), world.engine.desired());
        let settled: BTreeSet<OperationId> = world.settled.keys().copied().collect();
        assert_eq!(settled, world.asked, "a caller still waits");
        assert_eq!(world.processes.len(), world.engine.desired() as usize);
        world.on(Event::Stop { quick: false });
        world.settle_down();
        assert_eq!(world.exited, Some(0));
    }
    assert!(world.exited.is_some() && world.processes.is_empty());
}

/// Walks like [`walk`], with a stop in the middle.
fn stopped_walk(dispatch: Dispatch, workers: u32, steps: &[Step], quick: bool) {
    let world = World::start(dispatch, workers);
    let mut walk = Walk {
        world,
        dispatch,
        operations: 0,
        reload_failed: false,
    };
    let (before, after) = steps.split_at(steps.len() / 2);
    for step in before {
        walk.take(*step);
    }
    let given_up = walk.world.engine.is_stopping();
    walk.world.on(Event::Stop { quick });
    for step in after {
        walk.take(*step);
    }
    let mut world = walk.world;
    world.settle_down();
    assert!(world.exited.is_some() && (given_up || world.exited == Some(0)));
    let settled: BTreeSet<OperationId> = world.settled.keys().copied().collect();
    assert_eq!(settled, world.asked, "a caller still waits");
}

fn dispatch() -> impl Strategy<Value = Dispatch> {
    prop_oneof![Just(Dispatch::Request), Just(Dispatch::Connection)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_walk_keeps_the_invariants_and_ends_with_all_wanted_workers_ready(
        dispatch in dispatch(), workers in 0..4_u32, steps in prop::collection::vec(step(), 0..150),
    ) {
        walk(dispatch, workers, &steps);
    }

    #[test]
    fn every_walk_that_is_stopped_ends_in_exit(
        dispatch in dispatch(), workers in 0..4_u32, steps in prop::collection::vec(step(), 0..80), quick: bool,
    ) {
        stopped_walk(dispatch, workers, &steps, quick);
    }
}
