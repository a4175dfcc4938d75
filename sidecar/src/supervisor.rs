//! The supervisor's loop: turns facts into engine events and carries out its actions.
//!
//! It decides nothing about lifecycle (`scaledapp-engine`) and touches no
//! request (`dispatch`). One thread, which lives as long as the process: the
//! kernel ties a worker's death signal to the thread that forked it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scaledapp_engine::{
    Action, Engine, Event, Exit, Failure, Generation, Incident, OperationId, Slot, WorkerId,
    WorkerState,
};
use tokio::sync::{mpsc, oneshot};

use crate::control::Asked;
use crate::cores::{self, WorkerSpec};
use crate::ctl::{Reply, Request};
use crate::dispatch::Front;
use crate::drain;
use crate::handover::{self, Caller, Told};
use crate::logs::{Logs, Tail};
use crate::probe;
use crate::process::{self, Reaped, Recipe};
use crate::report::{Report, WorkerReport};
use crate::sharing::Sharing;
use crate::watchdog::Watchdog;

/// Something that happened outside.
#[derive(Debug)]
pub(crate) enum Input {
    /// A child ended.
    Reaped(Reaped),
    /// A worker made a call that told something.
    Told(WorkerId, Told),
    /// A worker answered its readiness probe.
    Ready(WorkerId),
    /// Nothing is in flight at a draining worker any more.
    Drained(WorkerId),
    /// Somebody asked through the control socket.
    Asked(Asked),
    /// A new wish for the number of workers.
    Workers(WorkerSpec),
    /// The number of cores changed.
    Cores(cores::Cores),
    /// Reload (HUP or desired-state file).
    Reload,
    /// One worker more or less (TTIN, TTOU).
    Step(i32),
    /// End: drain first, or quickly.
    Stop {
        /// No drain.
        quick: bool,
    },
    /// The public listener has drained: the workers may go.
    FrontDrained,
    /// Connections that each worker holds (Connection dispatch).
    Held {
        /// By process group.
        by_group: HashMap<u32, u32>,
        /// Not accepted yet.
        queued: u32,
    },
}

/// A running worker process.
#[derive(Debug)]
struct Process {
    pid: u32,
    slot: Slot,
    generation: Generation,
    tail: Tail,
    /// Where the dispatcher reaches it, once it listens.
    address: Option<SocketAddr>,
    listens_elsewhere: Option<u16>,
}

/// How workers get the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// seccomp notification.
    Notify,
    /// A private port in `PORT`.
    Port,
}

impl Mechanism {
    /// As shown in status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Port => "port",
        }
    }
}

/// What the loop is made of.
pub(crate) struct Supervisor {
    pub(crate) engine: Engine,
    pub(crate) recipe: Recipe,
    pub(crate) mechanism: Mechanism,
    pub(crate) readiness_path: Option<String>,
    pub(crate) stop_signal: i32,
    pub(crate) spec: WorkerSpec,
    pub(crate) cores: cores::Cores,
    pub(crate) front: Front,
    pub(crate) sharing: Rc<RefCell<Sharing>>,
    pub(crate) logs: Logs,
    pub(crate) watchdog: Watchdog,
    pub(crate) report: Arc<Report>,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    pub(crate) started: Instant,
    pub(crate) state: State,
}

/// What the loop remembers between inputs.
#[derive(Default)]
pub(crate) struct State {
    processes: HashMap<WorkerId, Process>,
    waiting: HashMap<OperationId, oneshot::Sender<Reply>>,
    /// The tail of the last worker that ended in each slot.
    last_words: HashMap<Slot, (WorkerId, Tail)>,
    last_operation: u64,
    stopping: bool,
}

impl Supervisor {
    /// Runs until everything has ended; returns the exit code.
    pub(crate) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) -> i32 {
        let actions = self.engine.start(self.started.elapsed());
        if let Some(code) = self.carry_out(actions).await {
            return code;
        }
        loop {
            self.publish();
            let deadline = self.engine.deadline().map(|at| self.started + at);
            let input = tokio::select! {
                input = inputs.recv() => input,
                () = sleep_until(deadline) => None,
            };
            let events = match input {
                Some(input) => self.interpret(input).await,
                None => vec![Event::Wake],
            };
            for event in events {
                let actions = self.engine.on(self.started.elapsed(), event);
                if let Some(code) = self.carry_out(actions).await {
                    return code;
                }
            }
        }
    }

    /// What an input means for the engine.
    async fn interpret(&mut self, input: Input) -> Vec<Event> {
        match input {
            Input::Reaped(reaped) => self.reaped(reaped).await.into_iter().collect(),
            Input::Told(worker, told) => self.told(worker, told).into_iter().collect(),
            Input::Ready(worker) => vec![Event::Ready(worker)],
            Input::Drained(worker) => vec![Event::Drained(worker)],
            Input::Asked(asked) => self.asked(asked).into_iter().collect(),
            Input::Workers(spec) => {
                self.spec = spec;
                vec![self.scale_to_spec()]
            }
            Input::Cores(cores) => {
                let before = self.spec.workers(self.cores);
                self.cores = cores;
                if self.spec.workers(cores) == before {
                    return Vec::new();
                }
                tracing::info!(
                    workers = self.spec.workers(cores),
                    "the number of cores changed"
                );
                vec![self.scale_to_spec()]
            }
            Input::Reload => vec![Event::Reload { operation: None }],
            Input::Step(by) => {
                let workers = self.engine.desired().saturating_add_signed(by);
                self.spec = WorkerSpec::Fixed(workers);
                vec![self.scale_to_spec()]
            }
            Input::Stop { quick } => self.stop(quick),
            Input::FrontDrained => vec![Event::Stop { quick: false }],
            Input::Held { by_group, queued } => {
                self.report.set_held(&by_group, queued);
                Vec::new()
            }
        }
    }

    fn scale_to_spec(&self) -> Event {
        Event::Scale {
            workers: self.spec.workers(self.cores),
            operation: None,
        }
    }

    async fn reaped(&mut self, reaped: Reaped) -> Option<Event> {
        let worker = self.report_pid(reaped.pid)?;
        let process = self.state.processes.remove(&worker)?;
        // What the worker left behind must not go on serving.
        process::signal_group(process.pid, 9);
        self.watchdog.forget(process.pid);
        self.front.remove(worker);
        self.sharing.borrow_mut().forget(worker);
        self.logs.settled(worker).await;
        let tail = process.tail.clone();
        self.state.last_words.insert(process.slot, (worker, tail));
        Some(Event::Exited(worker, reaped.exit))
    }

    fn report_pid(&self, pid: u32) -> Option<WorkerId> {
        let mut processes = self.state.processes.iter();
        processes
            .find(|(_, process)| process.pid == pid)
            .map(|(worker, _)| *worker)
    }

    fn told(&mut self, worker: WorkerId, told: Told) -> Option<Event> {
        let port = self.recipe.port;
        let process = self.state.processes.get_mut(&worker)?;
        let slot = process.slot.0;
        match told {
            Told::Listening(address) => return self.listening(worker, address),
            Told::ListeningElsewhere(other) => {
                if process.listens_elsewhere.replace(other).is_none() {
                    tracing::info!(
                        slot,
                        "the app listens on {other}, --port is {port}: if {other} is its main port, give --port {other}"
                    );
                }
            }
            Told::Unreadable => tracing::warn!(
                slot,
                "the app's bind cannot be read (it changed its user or forbids tracing): \
                 give --mechanism port and let it listen on $PORT"
            ),
            Told::Refused => tracing::error!(slot, "the app was given no socket for port {port}"),
        }
        None
    }

    /// A worker listens: it is ready, unless a probe has to say so.
    fn listening(&mut self, worker: WorkerId, address: Option<SocketAddr>) -> Option<Event> {
        self.state.processes.get_mut(&worker)?.address = address;
        match (&self.readiness_path, address) {
            (Some(path), Some(address)) => {
                let inputs = self.inputs.clone();
                let probing = probe::until_ok(address, path.clone());
                tokio::task::spawn_local(async move {
                    probing.await;
                    // A worker that died meanwhile is unknown to the engine.
                    let _stopped = inputs.send(Input::Ready(worker));
                });
                None
            }
            _ => Some(Event::Ready(worker)),
        }
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
                drained.await;
                let _ended = inputs.send(Input::FrontDrained);
            });
        }
        Vec::new()
    }

    fn asked(&mut self, asked: Asked) -> Option<Event> {
        let Asked { request, reply } = asked;
        // Whoever asked may have hung up; that changes nothing.
        let answer = |reply: oneshot::Sender<Reply>, with| drop(reply.send(with));
        if self.state.stopping && !matches!(request, Request::Status | Request::Logs) {
            answer(reply, Reply::Error("the supervisor is stopping".to_owned()));
            return None;
        }
        match request {
            Request::Status => answer(reply, Reply::Ok(self.report.status())),
            Request::Logs => answer(reply, Reply::Ok(self.all_tails())),
            Request::Signal { number } => {
                for process in self.state.processes.values() {
                    process::signal_group(process.pid, number);
                }
                answer(reply, Reply::Ok(serde_json::Value::Null));
            }
            Request::Scale { workers } => {
                let workers = workers.resolve(self.engine.desired());
                self.spec = WorkerSpec::Fixed(workers);
                let operation = Some(self.wait_for(reply));
                return Some(Event::Scale { workers, operation });
            }
            Request::Reload => {
                let operation = Some(self.wait_for(reply));
                return Some(Event::Reload { operation });
            }
            Request::Restart { slot } => {
                let operation = Some(self.wait_for(reply));
                let slot = Slot(slot);
                return Some(Event::Restart { slot, operation });
            }
        }
        None
    }

    fn wait_for(&mut self, reply: oneshot::Sender<Reply>) -> OperationId {
        self.state.last_operation += 1;
        let operation = OperationId(self.state.last_operation);
        self.state.waiting.insert(operation, reply);
        operation
    }

    /// Carries out what the engine decided; `Some` is the exit code.
    async fn carry_out(&mut self, actions: Vec<Action>) -> Option<i32> {
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
                Action::Terminate { worker } => {
                    self.front.cut(worker);
                    self.signal(worker, self.stop_signal);
                }
                Action::Kill { worker } => self.signal(worker, 9),
                Action::Settle { operation, result } => self.settle(operation, result),
                Action::Report(incident) => self.log(&incident),
                Action::Exit { code } => {
                    self.last_words_to_kubelet(code);
                    return Some(code);
                }
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

    fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) -> Event {
        let private_port = match self.mechanism {
            Mechanism::Notify => None,
            Mechanism::Port => match probe::free_port() {
                Ok(port) => Some(port),
                Err(error) => {
                    tracing::error!(%error, "no free port for a worker");
                    return Event::Exited(worker, Exit::Spawn { code: 126 });
                }
            },
        };
        let desired = self.engine.desired();
        match process::start(&self.recipe, slot, desired, private_port) {
            Ok(started) => {
                self.watchdog.watch(started.pid);
                let tail = self.logs.follow(worker, started.stderr);
                if let Some(listener) = started.listener {
                    self.answer_calls(listener, worker, generation);
                }
                if let Some(port) = private_port {
                    self.wait_for_port(worker, port);
                }
                let process = Process {
                    pid: started.pid,
                    slot,
                    generation,
                    tail,
                    address: None,
                    listens_elsewhere: None,
                };
                self.state.processes.insert(worker, process);
                Event::Spawned(worker)
            }
            Err((exit, error)) => {
                let program = self.recipe.command.first().map_or("", String::as_str);
                tracing::error!(slot = slot.0, program, %error, "cannot start the app's command");
                Event::Exited(worker, exit)
            }
        }
    }

    fn answer_calls(
        &self,
        listener: scaledapp_sys::notify::Listener,
        worker: WorkerId,
        generation: Generation,
    ) {
        let caller = Caller {
            worker,
            generation,
            port: self.recipe.port,
        };
        let sharing = Rc::clone(&self.sharing);
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            let tell = |told| drop(inputs.send(Input::Told(worker, told)));
            if let Err(error) = handover::serve(listener, caller, sharing, tell).await {
                tracing::error!(%error, "a worker's calls can no longer be answered");
            }
        });
    }

    /// With a private port, a worker listens when a connect succeeds.
    fn wait_for_port(&self, worker: WorkerId, port: u16) {
        let inputs = self.inputs.clone();
        tokio::task::spawn_local(async move {
            let address = probe::until_listening(port).await;
            let _ended = inputs.send(Input::Told(worker, Told::Listening(Some(address))));
        });
    }

    fn drain(&mut self, worker: WorkerId) {
        let Some(process) = self.state.processes.get(&worker) else {
            return;
        };
        let inputs = self.inputs.clone();
        let tell = move || drop(inputs.send(Input::Drained(worker)));
        if let Some(idle) = self.front.stop_feeding(worker) {
            tokio::task::spawn_local(async move {
                idle.await;
                tell();
            });
        } else {
            let watch = drain::Connections {
                group: process.pid,
                generation: process.generation,
                port: self.recipe.port,
                sharing: Rc::clone(&self.sharing),
            };
            tokio::task::spawn_local(async move {
                watch.gone().await;
                tell();
            });
        }
    }

    fn signal(&self, worker: WorkerId, signal: i32) {
        if let Some(process) = self.state.processes.get(&worker) {
            process::signal_group(process.pid, signal);
        }
    }

    fn settle(&mut self, operation: OperationId, result: Result<(), Failure>) {
        let Some(reply) = self.state.waiting.remove(&operation) else {
            return;
        };
        let answer = match result {
            Ok(()) => Reply::Ok(serde_json::Value::Null),
            Err(failure) => Reply::Error(self.explain(&failure)),
        };
        // Whoever asked may have hung up; that changes nothing.
        drop(reply.send(answer));
    }

    /// A failure with the last words of the worker that caused it.
    fn explain(&self, failure: &Failure) -> String {
        let mut text = failure.to_string();
        let words = failure
            .slot()
            .and_then(|slot| self.state.last_words.get(&slot));
        if let Some((_, tail)) = words {
            for line in tail.lines() {
                text.push_str("\n  ");
                text.push_str(&line);
            }
        }
        text
    }

    fn log(&self, incident: &Incident) {
        self.report.count(incident);
        if incident.is_failure() {
            tracing::warn!("{incident}");
        } else {
            tracing::info!("{incident}");
        }
    }

    fn all_tails(&self) -> serde_json::Value {
        let mut slots = serde_json::Map::new();
        for (slot, (_, tail)) in &self.state.last_words {
            slots.insert(slot.0.to_string(), tail.lines().into());
        }
        for process in self.state.processes.values() {
            let key = process.slot.0.to_string();
            let mut lines = process.tail.lines();
            if let Some(serde_json::Value::Array(before)) = slots.remove(&key) {
                let before = before
                    .iter()
                    .filter_map(|line| line.as_str().map(str::to_owned));
                lines = before.chain(lines).collect();
            }
            slots.insert(key, lines.into());
        }
        slots.into()
    }

    /// Kubernetes shows the termination log of a failed container; elsewhere
    /// the file does not exist and is not made.
    fn last_words_to_kubelet(&self, code: i32) {
        const TERMINATION_LOG: &str = "/dev/termination-log";
        if code == 0 || !std::path::Path::new(TERMINATION_LOG).exists() {
            return;
        }
        let words = self
            .state
            .last_words
            .values()
            .max_by_key(|(worker, _)| worker.0);
        let lines = words.map(|(_, tail)| tail.lines()).unwrap_or_default();
        if let Err(error) = std::fs::write(TERMINATION_LOG, lines.join("\n")) {
            tracing::debug!(%error, "cannot write the termination log");
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
            if let Some(address) = process.and_then(|process| process.address) {
                self.front.feed(worker.id, worker.slot, address);
            }
        }
        let slots: HashMap<Slot, u32> = engine
            .slots()
            .map(|slot| (slot.slot, slot.restarts))
            .collect();
        let workers = engine.workers().filter_map(|worker| {
            let process = self.state.processes.get(&worker.id)?;
            Some(WorkerReport {
                slot: worker.slot.0,
                pid: process.pid,
                state: worker.state.to_string(),
                generation: worker.generation.0,
                restarts: slots.get(&worker.slot).copied().unwrap_or(0),
                listens_elsewhere: process.listens_elsewhere,
                endpoint: self.front.endpoint(worker.id),
            })
        });
        let mut workers: Vec<WorkerReport> = workers.collect();
        workers.sort_by_key(|worker| (worker.slot, worker.generation));
        self.report.update(
            workers,
            engine.generation().0,
            engine.desired(),
            engine.ready(),
            self.state.stopping || engine.is_stopping(),
        );
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// How long one period of the periodic tasks is (cores, held connections).
pub(crate) const SECOND: Duration = Duration::from_secs(1);
