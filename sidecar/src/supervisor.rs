//! The supervisor's loop: turns facts into engine events and carries out its actions.
//!
//! It decides nothing about lifecycle (`scaledapp-engine`) and touches no
//! request (`dispatch`); what is done to a worker is in `workers`, what is
//! answered to `ctl` in `answers`. One thread, which lives as long as the process: the
//! kernel ties a worker's death signal to the thread that forked it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_engine::{
    Action, Cause, Engine, Event, Incident, OperationId, Slot, WorkerId, WorkerState,
};
use scaledapp_proxy::EndedBy;
use tokio::sync::mpsc;

use crate::cores::{self, Quotas, WorkerSpec};
use crate::ctl::server::Answering;
use crate::dispatch::{Feed, Front};
use crate::ends::{OutOfMemory, Refuses, Runs};
use crate::input::{Input, Mechanism};
use crate::limits::Watch;
use crate::limits::measure::Starving;
use crate::limits::memory::{self, Limiting};
use crate::logs::{Logs, Tail};
use crate::process::Recipe;
use crate::readiness::Wanted;
use crate::report::{Report, Standing, WorkerReport};
use crate::sharing::Sharing;
use crate::watchdog::Watchdog;
use crate::workers::Process;

/// How often the number of cores is read at most.
const SECOND: Duration = Duration::from_secs(1);

/// What the loop is made of.
pub(crate) struct Supervisor {
    pub(crate) engine: Engine,
    pub(crate) recipe: Recipe,
    /// Those that workers share, the app's own first.
    pub(crate) ports: Rc<[u16]>,
    pub(crate) mechanism: Mechanism,
    pub(crate) wanted: Wanted,
    pub(crate) stop_signal: Signal,
    /// Whether a worker is asked to end by a message, and by the signal only if
    /// that does not reach it.
    pub(crate) shutdown_message: bool,
    pub(crate) spec: WorkerSpec,
    pub(crate) cores: cores::Cores,
    pub(crate) front: Front,
    pub(crate) sharing: Rc<RefCell<Sharing>>,
    pub(crate) logs: Logs,
    pub(crate) watchdog: Watchdog,
    pub(crate) quotas: Quotas,
    pub(crate) memory: Limiting,
    pub(crate) out_of_memory: OutOfMemory,
    pub(crate) watch: Watch,
    pub(crate) report: Arc<Report>,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    pub(crate) started: Instant,
    pub(crate) state: State,
}

/// What the loop remembers between inputs.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) processes: HashMap<WorkerId, Process>,
    pub(crate) waiting: HashMap<OperationId, Answering>,
    /// The tail of the last worker that ended in each slot.
    pub(crate) last_words: HashMap<Slot, (WorkerId, Tail)>,
    pub(crate) last_operation: u64,
    pub(crate) stopping: bool,
    pub(crate) starving: Starving,
    /// It was said that an app's calls cannot be read.
    pub(crate) knows_unreadable: bool,
    /// When the number of cores was read last.
    pub(crate) cores_read: Option<Instant>,
    /// What the last worker that was not ready in time had not shown.
    pub(crate) missed: Option<String>,
}

impl Supervisor {
    /// Runs until everything has ended; returns the exit code.
    pub(crate) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) -> i32 {
        let code = self.serve(&mut inputs).await;
        self.front.settled().await;
        self.farewell(code).await;
        code
    }

    async fn serve(&mut self, inputs: &mut mpsc::UnboundedReceiver<Input>) -> i32 {
        let actions = self.engine.start(self.started.elapsed());
        if let Some(code) = self.carry_out(actions) {
            return code;
        }
        self.publish();
        loop {
            let deadline = self.engine.deadline().map(|at| self.started + at);
            let input = tokio::select! {
                input = inputs.recv() => input,
                () = sleep_until(deadline) => None,
            };
            let events = match input {
                Some(input) => self.interpret(input),
                None => vec![Event::Wake],
            };
            for event in events {
                // A reload starts its next worker in this moment, or when one has left.
                let asks_for_room = matches!(event, Event::Ready(_) | Event::Exited(..));
                let crowded = (asks_for_room && self.engine.reloading())
                    .then(|| Event::Crowded(self.is_crowded()));
                for event in crowded.into_iter().chain([event]) {
                    let actions = self.engine.on(self.started.elapsed(), event);
                    if let Some(code) = self.carry_out(actions) {
                        return code;
                    }
                }
            }
            self.publish();
        }
    }

    /// What an input means for the engine.
    fn interpret(&mut self, input: Input) -> Vec<Event> {
        match input {
            Input::Reaped(reaped) => self.reaped(reaped),
            Input::GroupEnded(worker, exit) => self.ended(worker, exit),
            Input::Told(worker, told) => self.told(worker, told).into_iter().collect(),
            Input::Shows(worker, sign) => self.shows(worker, sign).into_iter().collect(),
            Input::Refuses {
                worker,
                port,
                address,
            } => {
                self.refuses(worker, port, address);
                Vec::new()
            }
            Input::StillDeaf(worker) => self.still_deaf(worker).into_iter().collect(),
            Input::StillElsewhere(worker) => {
                self.still_elsewhere(worker);
                Vec::new()
            }
            Input::Drained(worker) => vec![Event::Drained(worker)],
            Input::Asked(asked) => self.asked(asked).into_iter().collect(),
            // Nothing starts any more.
            Input::Workers(_) | Input::Reload | Input::ReloadTo(_) | Input::Step(_)
                if self.state.stopping =>
            {
                Vec::new()
            }
            Input::Workers(spec) => self.scale_to(spec).into_iter().collect(),
            Input::Reload => vec![Event::Reload { operation: None }],
            Input::ReloadTo(token) => vec![self.reload_to(token)],
            Input::Step(by) => {
                let workers = self.engine.desired().saturating_add_signed(by);
                let spec = WorkerSpec::Fixed(workers);
                self.scale_to(spec).into_iter().collect()
            }
            Input::PassOn(signal) => {
                self.pass_on(signal);
                Vec::new()
            }
            Input::Stop { quick } => self.stop(quick),
            Input::FrontDrained { is_late } => {
                if is_late {
                    tracing::warn!(
                        "requests were still in flight at the end of the drain time-out; the \
                         workers get the stop signal"
                    );
                }
                vec![Event::Stop { quick: is_late }]
            }
            Input::Look => {
                self.sharing.borrow_mut().mend();
                let mut events = self.look();
                events.extend(self.closed_listeners());
                if self.engine.reloading() {
                    events.push(Event::Crowded(self.is_crowded()));
                }
                events.extend(self.look_at_cores());
                events
            }
            Input::Accepts(worker, accepts) => {
                self.heard(worker, accepts);
                Vec::new()
            }
            Input::Held { by_group, queued } => {
                self.report.set_held(&by_group, queued);
                Vec::new()
            }
        }
    }

    /// Whether there is no memory for a worker beside all that run.
    pub(crate) fn is_crowded(&self) -> bool {
        let memory = self.memory.read().or_else(memory::of_machine);
        self.watch.is_crowded(memory)
    }

    /// A wish that cannot be met is said so and changes nothing.
    fn scale_to(&mut self, spec: WorkerSpec) -> Option<Event> {
        match spec.workers(self.cores) {
            Ok(workers) => {
                self.spec = spec;
                Some(Event::Scale {
                    workers,
                    operation: None,
                })
            }
            Err(error) => {
                tracing::warn!(%spec, %error, "the number of workers stays as it is");
                None
            }
        }
    }

    /// A quota changes when a running pod is resized.
    fn look_at_cores(&mut self) -> Option<Event> {
        let read = self.state.cores_read;
        if read.is_some_and(|at| at.elapsed() < SECOND) {
            return None;
        }
        self.state.cores_read = Some(Instant::now());
        let before = self.spec.workers(self.cores);
        self.cores = cores::Cores::within(&self.quotas);
        if self.state.stopping || self.spec.workers(self.cores) == before {
            return None;
        }
        tracing::info!(cores = self.cores.usable(), "the number of cores changed");
        self.scale_to(self.spec)
    }

    fn stop(&mut self, quick: bool) -> Vec<Event> {
        if quick {
            return vec![Event::Stop { quick: true }];
        }
        if !std::mem::replace(&mut self.state.stopping, true) {
            tracing::info!("stopping: draining what is in flight");
            let inputs = self.inputs.clone();
            let drained = self.front.drain();
            tokio::task::spawn_local(async move {
                let is_late = drained.await;
                let _ended = inputs.send(Input::FrontDrained { is_late });
            });
        }
        Vec::new()
    }

    /// Carries out what the engine decided; `Some` is the exit code.
    fn carry_out(&mut self, actions: Vec<Action>) -> Option<i32> {
        let mut pending = std::collections::VecDeque::from(actions);
        while let Some(action) = pending.pop_front() {
            match action {
                Action::Spawn {
                    worker,
                    slot,
                    generation,
                } => {
                    let event = self.spawn(worker, slot, generation);
                    pending.extend(self.engine.on(self.started.elapsed(), event));
                }
                Action::Activate { generation } => {
                    self.sharing.borrow_mut().activate(generation);
                }
                Action::Drain { worker } => self.drain(worker),
                Action::Terminate { worker } => self.terminate(worker),
                Action::Kill { worker } => self.kill(worker),
                Action::Settle { operation, result } => self.settle(operation, result),
                Action::Report(incident) => self.log(&incident),
                Action::Exit { code } => return Some(code),
            }
        }
        let engine = &self.engine;
        let alive = |generation| {
            engine
                .workers()
                .any(|worker| worker.generation == generation)
        };
        self.sharing.borrow_mut().retire(alive);
        None
    }

    fn log(&mut self, incident: &Incident) {
        match incident {
            // It hangs, or has taken all memory: a request may be the cause.
            Incident::Killed { worker, .. } => self.front.ended(*worker, EndedBy::Itself),
            Incident::RecycleBegan {
                worker,
                cause: Cause::Memory { .. } | Cause::Container { .. },
                ..
            } => {
                if let Some(process) = self.state.processes.get_mut(worker) {
                    process.has_swollen = true;
                }
            }
            _ => {}
        }
        self.report.count(incident);
        if let Incident::BootTimedOut { worker, .. } = incident {
            self.state.missed = self.missing(*worker);
        }
        let missed = match incident {
            Incident::BootTimedOut { .. } | Incident::NothingStarts { late: true, .. } => {
                self.state.missed.as_ref()
            }
            _ => None,
        };
        if let Some(missed) = missed {
            tracing::warn!("{incident}: {missed}");
        } else if incident.is_failure() {
            tracing::warn!("{incident}");
        } else {
            tracing::info!("{incident}");
        }
    }

    /// Feeds the workers that are ready, and makes the new state visible to
    /// admin port, balancers and operator.
    fn publish(&mut self) {
        let engine = &self.engine;
        for worker in engine
            .workers()
            .filter(|worker| worker.state == WorkerState::Ready)
        {
            let process = self.state.processes.get(&worker.id);
            if let Some(process) = process {
                for (&port, &address) in &process.addresses {
                    let to = Feed {
                        slot: worker.slot,
                        process: Runs {
                            pid: process.pid,
                            resets: Arc::clone(&process.resets),
                            refuses: Refuses {
                                worker: worker.id,
                                port,
                                address,
                                inputs: self.inputs.clone(),
                            },
                        },
                        port,
                        address,
                    };
                    self.front.feed(worker.id, to);
                }
            }
        }
        let restarts: Vec<u32> = engine.slots().map(|slot| slot.restarts).collect();
        let workers = engine.workers().filter_map(|worker| {
            let process = self.state.processes.get(&worker.id)?;
            Some(WorkerReport {
                slot: worker.slot.0,
                pid: process.pid,
                state: worker.state,
                since: self.started + worker.since,
                started: self.started + worker.started,
                generation: worker.generation.0,
                restarts: restarts.get(worker.slot.0 as usize).copied().unwrap_or(0),
                listens_elsewhere: process.listens_elsewhere,
                addresses: process.addresses.clone(),
                endpoints: self.front.endpoints(worker.id),
            })
        });
        let mut workers: Vec<WorkerReport> = workers.collect();
        workers.sort_by_key(|worker| (worker.slot, worker.generation));
        self.report.update(Standing {
            workers,
            generation: engine.generation().0,
            desired: engine.desired(),
            restarts,
            ready: engine.ready(),
            draining: self.state.stopping || engine.is_stopping(),
        });
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
