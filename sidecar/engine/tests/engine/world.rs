//! A shell without processes: it remembers what runs and checks each action.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scaledapp_engine::{
    Action, Backoff, Config, Dispatch, Engine, Event, Exit, Failure, Generation, Incident,
    OperationId, Slot, WorkerId, WorkerState,
};

pub(crate) const BOOT: Duration = Duration::from_mins(1);
pub(crate) const DRAIN: Duration = Duration::from_secs(30);
pub(crate) const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) drained: bool,
    pub(crate) terminated: bool,
    pub(crate) killed: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Duration,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    pub(crate) settled: BTreeMap<OperationId, Result<(), Failure>>,
    pub(crate) asked: BTreeSet<OperationId>,
    pub(crate) incidents: Vec<Incident>,
    pub(crate) activated: Vec<Generation>,
    pub(crate) exited: Option<i32>,
    last_worker: u64,
}

impl World {
    /// A started engine without a ready worker and without jitter.
    pub(crate) fn start(dispatch: Dispatch, workers: u32) -> Self {
        let config = Config {
            dispatch,
            boot_timeout: BOOT,
            drain_timeout: DRAIN,
            stop_grace: GRACE,
            backoff: Backoff {
                jitter_percent: 0,
                ..Backoff::default()
            },
            jitter_seed: 1,
        };
        let mut world = Self {
            engine: Engine::new(config, workers),
            now: Duration::ZERO,
            processes: BTreeMap::new(),
            settled: BTreeMap::new(),
            asked: BTreeSet::new(),
            incidents: Vec::new(),
            activated: Vec::new(),
            exited: None,
            last_worker: 0,
        };
        let actions = world.engine.start(Duration::ZERO);
        world.carry_out(&actions);
        world
    }

    /// A started engine whose workers are all ready.
    pub(crate) fn ready(dispatch: Dispatch, workers: u32) -> Self {
        let mut world = Self::start(dispatch, workers);
        for worker in world.in_state(WorkerState::Starting) {
            world.on(Event::Ready(worker));
        }
        assert_eq!(world.engine.ready(), workers);
        world
    }

    pub(crate) fn on(&mut self, event: Event) -> Vec<Action> {
        if let Event::Exited(worker, _) = event {
            self.processes.remove(&worker);
        }
        let ended = self.exited.is_some();
        if let Event::Scale { operation, .. }
        | Event::Reload { operation }
        | Event::Restart { operation, .. } = event
            && !ended
        {
            self.asked.extend(operation);
        }
        let actions = self.engine.on(self.now, event);
        assert!(
            !ended || actions.is_empty(),
            "actions after Exit: {actions:?}"
        );
        self.carry_out(&actions);
        actions
    }

    pub(crate) fn exit(&mut self, worker: WorkerId, exit: Exit) -> Vec<Action> {
        self.on(Event::Exited(worker, exit))
    }

    /// Advances time to the next deadline.
    pub(crate) fn wake(&mut self) -> Vec<Action> {
        let deadline = self
            .engine
            .deadline()
            .expect("the engine waits for nothing");
        self.now = self.now.max(deadline);
        self.on(Event::Wake)
    }

    pub(crate) fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.on(Event::Wake)
    }

    fn carry_out(&mut self, actions: &[Action]) {
        for action in actions {
            assert!(self.exited.is_none(), "{action:?} after Exit");
            match *action {
                Action::Spawn { worker, .. } => {
                    assert!(worker.0 > self.last_worker, "{worker} is reused");
                    self.last_worker = worker.0;
                    self.processes.insert(worker, Process::default());
                }
                Action::Activate { generation } => {
                    assert!(self.activated.last().is_none_or(|last| *last < generation));
                    self.activated.push(generation);
                }
                Action::Drain { worker } => {
                    let process = self.process(worker);
                    assert!(!process.drained && !process.terminated);
                    process.drained = true;
                }
                Action::Terminate { worker } => {
                    let process = self.process(worker);
                    assert!(!process.terminated, "{worker} is terminated twice");
                    process.terminated = true;
                }
                Action::Kill { worker } => {
                    let told = self.incidents.iter().rev().take(1);
                    let at_once = told.into_iter().any(|incident| {
                        matches!(incident, Incident::Killed { worker: named, .. } if *named == worker)
                    });
                    let process = self.process(worker);
                    assert!(
                        process.terminated || at_once,
                        "{worker} had no chance to end"
                    );
                    process.killed = true;
                }
                Action::Settle { operation, result } => {
                    assert!(self.asked.contains(&operation));
                    let before = self.settled.insert(operation, result);
                    assert_eq!(before, None, "{operation} is settled twice");
                }
                Action::Report(incident) => self.incidents.push(incident),
                Action::Exit { code } => {
                    assert!(
                        self.processes.is_empty(),
                        "{:?} are not reaped",
                        self.processes
                    );
                    self.exited = Some(code);
                }
            }
        }
    }

    fn process(&mut self, worker: WorkerId) -> &mut Process {
        let process = self.processes.get_mut(&worker);
        process.unwrap_or_else(|| panic!("worker {worker} does not run"))
    }

    pub(crate) fn in_state(&self, state: WorkerState) -> Vec<WorkerId> {
        let workers = self.engine.workers().filter(|worker| worker.state == state);
        workers.map(|worker| worker.id).collect()
    }

    /// The newest live worker of a slot.
    pub(crate) fn newest(&self, slot: u32) -> WorkerId {
        let workers = self
            .engine
            .workers()
            .filter(|worker| worker.slot == Slot(slot));
        workers
            .map(|worker| worker.id)
            .max()
            .expect("the slot has no worker")
    }

    pub(crate) fn state(&self, worker: WorkerId) -> Option<WorkerState> {
        let mut workers = self.engine.workers();
        workers
            .find(|view| view.id == worker)
            .map(|view| view.state)
    }

    /// (slot, generation, state) of every live worker, in the order of start.
    pub(crate) fn picture(&self) -> Vec<(u32, u32, WorkerState)> {
        let workers = self.engine.workers();
        workers
            .map(|worker| (worker.slot.0, worker.generation.0, worker.state))
            .collect()
    }

    pub(crate) fn result(&self, operation: u64) -> Option<Result<(), Failure>> {
        self.settled.get(&OperationId(operation)).copied()
    }

    /// Sends one fact of a well-behaved app; returns false if there is none left.
    pub(crate) fn behave(&mut self) -> bool {
        let Some(worker) = self
            .engine
            .workers()
            .find(|worker| worker.state != WorkerState::Ready)
        else {
            if self.engine.deadline().is_some() {
                self.wake();
                return true;
            }
            return false;
        };
        match worker.state {
            WorkerState::Starting => self.on(Event::Ready(worker.id)),
            WorkerState::Draining => self.on(Event::Drained(worker.id)),
            _ => self.exit(worker.id, Exit::Signal(15)),
        };
        true
    }

    pub(crate) fn settle_down(&mut self) {
        for _ in 0..1000 {
            if !self.behave() {
                return;
            }
        }
        panic!("it never settles: {:?}", self.engine);
    }
}

pub(crate) fn spawns(actions: &[Action]) -> Vec<(u32, u32)> {
    let spawn = |action: &Action| match action {
        Action::Spawn {
            slot, generation, ..
        } => Some((slot.0, generation.0)),
        _ => None,
    };
    actions.iter().filter_map(spawn).collect()
}

pub(crate) fn reload(operation: u64) -> Event {
    Event::Reload {
        operation: Some(OperationId(operation)),
    }
}

pub(crate) fn scale(workers: u32, operation: u64) -> Event {
    Event::Scale {
        workers,
        operation: Some(OperationId(operation)),
    }
}

pub(crate) fn restart(slot: u32, operation: u64) -> Event {
    Event::Restart {
        slot: Slot(slot),
        operation: Some(OperationId(operation)),
    }
}
