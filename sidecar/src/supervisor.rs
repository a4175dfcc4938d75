//! The supervisor's loop: turns inputs into engine events and carries out the engine's
//! actions.
//!
//! `scaledapp-engine` makes the lifecycle decisions, `dispatch` handles the requests of clients,
//! `workers` acts on worker processes, and `ctl/answers` answers the commands of `ctl`. The loop
//! runs on one thread that lives as long as the process, because the kernel ties a worker's death
//! signal to the thread that forked it.

use std::sync::Arc;
use std::time::Instant;

use scaledapp_engine::{Action, Cause, Engine, Event, Exit, Incident, Slot, WorkerId, WorkerState};
use scaledapp_proxy::EndedBy;
use scaledapp_wire::{Reply, Request};
use tokio::sync::mpsc;

use crate::cores::within_bounds;
use crate::count::Count;
use crate::ctl::answers::{Looking, Operations};
use crate::ctl::server::{Answer, Answering, ControlRequest};
use crate::hints::Share;
use crate::input::Input;
use crate::limits::measure::Measuring;
use crate::range::WorkerRange;
use crate::report::{Report, Standing, WorkerReport};
use crate::scaling::{Scaling, Step};
use crate::service_manager::{ServiceManager, State};
use crate::signals;
use crate::workers::Workers;

/// The parts of the loop.
pub(crate) struct Supervisor {
    pub(crate) engine: Engine,
    pub(crate) workers: Workers,
    pub(crate) count: Count,
    pub(crate) scaling: Scaling,
    pub(crate) measuring: Measuring,
    pub(crate) operations: Operations,
    pub(crate) report: Arc<Report>,
    pub(crate) service_manager: ServiceManager,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    pub(crate) started: Instant,
    pub(crate) stopping: bool,
    /// The readiness checks that were still missing when a worker last timed out at boot.
    pub(crate) missed: Option<String>,
}

impl Supervisor {
    /// Runs until all workers have ended; returns the exit code.
    pub(crate) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) -> i32 {
        let code = self.serve(&mut inputs).await;
        self.workers.front.settled().await;
        self.workers.farewell(code).await;
        code
    }

    async fn serve(&mut self, inputs: &mut mpsc::UnboundedReceiver<Input>) -> i32 {
        let actions = self.engine.start(self.started.elapsed());
        if let Some(code) = self.carry_out(actions) {
            return code;
        }
        self.publish();
        loop {
            let looks = self.count.bounds().map(|_| self.scaling.due());
            let due = looks.into_iter().chain(self.service_manager.due());
            let deadline = self.engine.deadline().into_iter().chain(due).min();
            let deadline = deadline.map(|at| self.started + at);
            let input = tokio::select! {
                input = inputs.recv() => input,
                () = sleep_until(deadline) => None,
            };
            let mut events = match input {
                Some(input) => self.interpret(input),
                None => vec![Event::Wake],
            };
            events.extend(self.look_at_load());
            for event in events {
                if matches!(event, Event::Reload { .. }) {
                    self.service_manager.reload_asked();
                }
                // At these events a reload may start its next worker.
                let asks_for_room = matches!(event, Event::Ready(_) | Event::Exited(..));
                let crowded = (asks_for_room && self.engine.reloading())
                    .then(|| Event::Crowded(self.measuring.is_crowded()));
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

    /// The engine events that follow from an input.
    fn interpret(&mut self, input: Input) -> Vec<Event> {
        let workers = &mut self.workers;
        let event = match input {
            Input::Reaped(reaped) => {
                let ended = workers.reaped(reaped, &self.engine);
                return ended.map_or_else(Vec::new, |worker| self.ended(worker, reaped.exit));
            }
            Input::GroupEnded(worker, exit) => return self.ended(worker, exit),
            Input::Found(worker, finding) => workers.found(worker, finding),
            Input::Passed(worker, check) => workers.passes(worker, check),
            Input::Refuses {
                worker,
                port,
                address,
            } => {
                workers.refuses(worker, port, address);
                None
            }
            Input::StillNotListening(worker) => {
                workers.still_not_listening(worker, !self.measuring.is_crowded())
            }
            Input::StillElsewhere(worker) => {
                workers.still_elsewhere(worker);
                None
            }
            Input::Drained(worker) => Some(Event::Drained(worker)),
            Input::Control(asked) => self.asked(asked),
            // A stopping supervisor neither scales nor reloads.
            Input::Workers(_) | Input::Reload | Input::ReloadTo(_) | Input::Step(_)
                if self.stopping =>
            {
                None
            }
            Input::Workers(range) => {
                self.scaling.begin_anew();
                self.count.configure(range, self.engine.desired())
            }
            Input::Reload => Some(Event::Reload { operation: None }),
            Input::ReloadTo(token) => {
                let operation = Some(self.operations.reload_by_file(token, &self.report));
                Some(Event::Reload { operation })
            }
            Input::Step(by) => {
                let workers = self.engine.desired().saturating_add_signed(by);
                if workers == 0 {
                    tracing::warn!("the last worker stays: `ctl scale 0` stops it");
                    None
                } else {
                    self.fix(workers)
                }
            }
            Input::PassOn(signal) => {
                let groups: Vec<u32> = workers.processes().map(|one| one.pid).collect();
                signals::pass_on(signal, &groups);
                None
            }
            Input::Stop { quick } => self.stop(quick),
            Input::FrontDrained { is_late } => {
                if is_late {
                    tracing::warn!(
                        "requests were still in flight at the end of the drain timeout; the \
                         workers get the stop signal"
                    );
                }
                Some(Event::Stop { quick: is_late })
            }
            Input::Look => return self.look(),
            Input::Accepts(worker, accepts) => {
                let now = self.started.elapsed();
                if let Some(process) = workers.get_mut(worker) {
                    process.accept_probe.ended(now, accepts);
                }
                None
            }
            Input::OpenConnections { by_group, queued } => {
                self.report.set_open_connections(&by_group, queued);
                None
            }
        };
        event.into_iter().collect()
    }

    /// Answers a request, or begins the requested operation.
    fn asked(&mut self, asked: ControlRequest) -> Option<Event> {
        let ControlRequest { request, reply } = asked;
        // The client may have closed the connection; that changes nothing.
        let answer = |reply: Answering, with| drop(reply.send(with));
        let looking = Looking {
            engine: &self.engine,
            workers: &self.workers,
            report: &self.report,
            now: self.started.elapsed(),
        };
        if let Some(found) = looking.answer(&request) {
            answer(reply, found);
            return None;
        }
        if self.stopping {
            answer(reply, Reply::Error("the supervisor is stopping".to_owned()));
            return None;
        }
        match request {
            Request::Signal { number, slot } => {
                let sent = self.workers.send_signal(number, slot);
                let done = sent.map_or_else(Reply::Error, |()| Reply::Ok(Answer::Done));
                answer(reply, done);
            }
            Request::Scale { workers } => {
                let number = workers.from(self.engine.desired());
                let bounded = |number| within_bounds(number).map_err(|error| error.to_string());
                match number.and_then(bounded) {
                    Ok(workers) => {
                        self.count.fix(workers);
                        let operation = Some(self.operations.add(reply));
                        return Some(Event::Scale { workers, operation });
                    }
                    Err(error) => answer(reply, Reply::Error(error)),
                }
            }
            Request::Workers { spec } => return self.follow(spec.as_deref(), reply),
            Request::Reload => {
                let operation = Some(self.operations.add(reply));
                return Some(Event::Reload { operation });
            }
            Request::Restart { slot } => {
                // The slot is checked now, and again when the restart begins.
                if let Some(no_such) = looking.no_such(Some(slot)) {
                    answer(reply, no_such);
                    return None;
                }
                let operation = Some(self.operations.add(reply));
                let slot = Slot(slot);
                return Some(Event::Restart { slot, operation });
            }
            // Answered above.
            Request::Status | Request::Logs { .. } | Request::Describe { .. } | Request::Events => {
            }
        }
        None
    }

    /// Keeps to a number of workers (TTIN, TTOU). Too large a number is logged and changes nothing.
    fn fix(&mut self, workers: u32) -> Option<Event> {
        match within_bounds(workers) {
            Ok(workers) => {
                self.count.fix(workers);
                Some(Event::Scale {
                    workers,
                    operation: None,
                })
            }
            Err(error) => {
                tracing::warn!(%error, "the number of workers stays as it is");
                None
            }
        }
    }

    /// Has the number of workers follow a range, as `--workers` does.
    fn follow(&mut self, spec: Option<&str>, reply: Answering) -> Option<Event> {
        let range = spec.map(str::parse::<WorkerRange>).transpose();
        self.scaling.begin_anew();
        let event = range.map_err(|error| error.to_string());
        let event = event.and_then(|range| self.count.follow(range, self.engine.desired()));
        let (answer, event) = match event {
            Ok(event) => (Reply::Ok(Answer::Done), Some(event)),
            Err(error) => (Reply::Error(error), None),
        };
        // The client may have closed the connection; that changes nothing.
        drop(reply.send(answer));
        event
    }

    /// Looks at the load when that is due, if the number of workers is a range.
    fn look_at_load(&mut self) -> Option<Event> {
        let now = self.started.elapsed();
        let bounds = self.count.bounds()?;
        if self.stopping || self.engine.is_stopping() || now < self.scaling.due() {
            return None;
        }
        let (cores, memory) = (self.count.cores, self.measuring.free());
        let step = self
            .scaling
            .look(now, &self.engine, &self.workers, (bounds, cores), memory);
        match step {
            Step::Stay => None,
            Step::Complain(text) => {
                tracing::warn!("{text}");
                self.report.scaling_held(text);
                None
            }
            Step::Change(change) => {
                let (from, to, text) = (change.from, change.to, &change.text);
                tracing::info!("{from} → {to} workers: {text}");
                self.report.scaled(&change);
                Some(change.event())
            }
        }
    }

    /// Handles the end of a worker.
    fn ended(&mut self, worker: WorkerId, exit: Exit) -> Vec<Event> {
        let out_of_memory = self.measuring.out_of_memory.look(Instant::now());
        let ended = self
            .workers
            .ended(worker, exit, &self.engine, out_of_memory);
        let Some((ended, has_served)) = ended else {
            return Vec::new();
        };
        self.report.ended(&ended);
        let served = has_served.then_some(Event::Served(worker));
        let events = served.into_iter().chain([Event::Exited(worker, exit)]);
        events.collect()
    }

    /// Measures the workers, and checks what may change without another input: sockets that a
    /// worker has shut down, lost CPU time, closed listeners, free memory and the number of cores.
    fn look(&mut self) -> Vec<Event> {
        self.workers.sharing.borrow_mut().mend();
        let mut events: Vec<Event> = self.measuring.starved(&self.engine).into_iter().collect();
        if !self.stopping {
            let now = self.started.elapsed();
            let most = u64::from(self.most());
            let measured = self
                .measuring
                .look(&self.engine, &mut self.workers, now, most);
            events.extend(measured);
        }
        let surge = || !self.measuring.is_crowded();
        events.extend(self.workers.closed_listeners(&self.engine, surge));
        if self.engine.reloading() {
            events.push(Event::Crowded(self.measuring.is_crowded()));
        }
        let quotas = &self.measuring.quotas;
        events.extend(self.count.look_at_cores(quotas, self.stopping));
        events
    }

    fn stop(&mut self, quick: bool) -> Option<Event> {
        if quick {
            return Some(Event::Stop { quick: true });
        }
        if !std::mem::replace(&mut self.stopping, true) {
            tracing::info!("stopping: draining requests in flight");
            let inputs = self.inputs.clone();
            let drained = self.workers.front.drain();
            tokio::task::spawn_local(async move {
                let is_late = drained.await;
                let _ended = inputs.send(Input::FrontDrained { is_late });
            });
        }
        None
    }

    /// Carries out the engine's actions; `Some` is the exit code.
    fn carry_out(&mut self, actions: Vec<Action>) -> Option<i32> {
        let mut pending = std::collections::VecDeque::from(actions);
        while let Some(action) = pending.pop_front() {
            match action {
                Action::Spawn {
                    worker,
                    slot,
                    generation,
                } => {
                    let share = Share {
                        cores: self.count.cores.usable(),
                        workers: self.most(),
                        memory: self
                            .measuring
                            .memory
                            .read()
                            .map(|container| container.limit),
                        each: self.workers.recipe.max_memory,
                    };
                    let event = self.workers.spawn(worker, slot, generation, share);
                    pending.extend(self.engine.on(self.started.elapsed(), event));
                }
                Action::Activate { generation } => {
                    self.workers.sharing.borrow_mut().activate(generation);
                }
                Action::Drain { worker } => self.workers.drain(worker),
                Action::Terminate { worker } => self.workers.terminate(worker),
                Action::Kill { worker } => self.workers.kill(worker),
                Action::Settle { operation, result } => {
                    let cause = |failure: &_| self.workers.cause(failure);
                    self.operations.settle(operation, result, cause);
                }
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
        self.workers.sharing.borrow_mut().retire(alive);
        None
    }

    /// The number of workers among which the machine is divided: the upper end of a range, because
    /// a worker keeps its share while the number changes.
    fn most(&self) -> u32 {
        let upper = self.count.bounds().map(|bounds| bounds.max);
        upper.unwrap_or_else(|| self.engine.desired())
    }

    fn log(&mut self, incident: &Incident) {
        self.scaling.note(self.started.elapsed(), incident);
        match incident {
            // The worker hangs or has used up the memory, and a request may be the cause.
            Incident::Killed { worker, .. } => self.workers.front.ended(*worker, EndedBy::Itself),
            Incident::RecycleBegan {
                worker,
                cause: Cause::Memory { .. } | Cause::Container { .. },
                ..
            } => {
                if let Some(process) = self.workers.get_mut(*worker) {
                    process.has_swollen = true;
                }
            }
            _ => {}
        }
        self.report.count(incident);
        match incident {
            Incident::ReloadFailed { .. } => {
                let reason = incident.to_string();
                self.service_manager.reload_ended(Some(reason));
            }
            Incident::ReloadFinished { .. } => self.service_manager.reload_ended(None),
            _ => {}
        }
        if let Incident::BootTimedOut { worker, .. } = incident {
            self.missed = self.workers.missing(*worker);
        }
        let missed = match incident {
            Incident::BootTimedOut { .. } | Incident::NothingStarts { late: true, .. } => {
                self.missed.as_ref()
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

    /// Lets the dispatchers send requests to the ready workers, and publishes the new state
    /// for the admin port, balancers and the operator.
    fn publish(&mut self) {
        let engine = &self.engine;
        let ready = engine.workers();
        for worker in ready.filter(|worker| worker.state == WorkerState::Ready) {
            self.workers.feed(worker.id, worker.slot);
        }
        let restarts: Vec<u32> = engine.slots().map(|slot| slot.restarts).collect();
        let workers = engine.workers().filter_map(|worker| {
            let process = self.workers.get(worker.id)?;
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
                endpoints: self.workers.front.endpoints(worker.id),
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
            scaling: self.scaling.shown(self.count.bounds()),
            draining: self.stopping || engine.is_stopping(),
        });
        let state = State {
            ready: engine.ready(),
            desired: engine.desired(),
            reloading: engine.reloading(),
            stopping: self.stopping || engine.is_stopping(),
        };
        self.service_manager.tell(self.started.elapsed(), state);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
