//! One worker's life as the supervisor carries it out: started, listening,
//! drained, signalled, reaped. When which of them happens is the engine's word.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_engine::{Event, Exit, Generation, Slot, WorkerId};
use scaledapp_sys::notify::Listener;
use tokio::task::AbortHandle;

use crate::dispatch::{Front, Leaving};
use crate::ears::Ear;
use crate::handover::{self, Caller, Told};
use crate::hints::Share;
use crate::history::Ended;
use crate::logs::Tail;
use crate::probe;
use crate::process::{self, Reaped, signal_group};
use crate::recycle::Hearing;
use crate::silence::Silence;
use crate::supervisor::{Input, Mechanism, Supervisor};

/// A worker that was given a listening socket calls `listen` within this, or leaves
/// it out (gunicorn asks `SO_ACCEPTCONN` first).
const LISTENS: Duration = Duration::from_secs(1);
/// A worker that ends may shut down what it shares; how often that is looked for.
const MENDS: Duration = Duration::from_millis(5);

/// A running worker process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) tail: Tail,
    /// Where it alone is reached, by shared port, once it listens.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    pub(crate) listens_elsewhere: Option<u16>,
    /// What is known of whether it accepts connections.
    pub(crate) hearing: Hearing,
    /// The thread that was found waiting for connections (Connection dispatch).
    pub(crate) ear: Option<Ear>,
    pub(crate) silence: Silence,
    /// How many processes it and its descendants were at the last look.
    pub(crate) family: usize,
    /// Whether Node runs there, once it is known.
    pub(crate) is_node: Option<bool>,
    /// Asks whether it is ready.
    probe: Option<AbortHandle>,
    /// What else waits for it and is pointless without it.
    tasks: Vec<AbortHandle>,
}

impl Drop for Process {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.probe) {
            task.abort();
        }
    }
}

impl Supervisor {
    pub(crate) fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) -> Event {
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
        let place = process::Place {
            slot,
            share: Share {
                cores: self.cores.usable(),
                workers: self.engine.desired(),
                memory: self.memory.read().map(|container| container.limit),
                each: self.recipe.max_memory,
            },
            private_port,
        };
        match process::start(&self.recipe, place) {
            Ok(started) => {
                self.watchdog.watch(started.pid);
                if let Some(listener) = started.listener {
                    self.answer_calls(listener, worker, generation);
                }
                let process = Process {
                    pid: started.pid,
                    slot,
                    generation,
                    tail: self
                        .logs
                        .follow(slot.0, started.pid, started.stdout, started.stderr),
                    addresses: BTreeMap::new(),
                    listens_elsewhere: None,
                    hearing: Hearing::Unknown,
                    ear: None,
                    silence: Silence::default(),
                    family: 1,
                    is_node: None,
                    probe: None,
                    tasks: Vec::new(),
                };
                self.state.processes.insert(worker, process);
                if let Some(port) = private_port {
                    self.wait_for_port(worker, port);
                }
                Event::Spawned(worker)
            }
            Err((exit, error)) => {
                let program = self.recipe.command.first().map_or("", String::as_str);
                tracing::error!(slot = slot.0, program, %error, "cannot start the app's command");
                Event::Exited(worker, exit)
            }
        }
    }

    fn answer_calls(&self, listener: Listener, worker: WorkerId, generation: Generation) {
        let caller = Caller {
            worker,
            generation,
            ports: Rc::clone(&self.ports),
        };
        let sharing = Rc::clone(&self.sharing);
        let inputs = self.inputs.clone();
        // Not one of the worker's tasks: its descendants may outlive it, and
        // their calls would fail with nobody to answer them.
        tokio::task::spawn_local(async move {
            let tell = |told| drop(inputs.send(Input::Told(worker, told)));
            if let Err(error) = handover::serve(listener, caller, sharing, tell).await {
                tracing::error!(%error, "a worker's calls can no longer be answered");
            }
        });
    }

    /// With a private port, a worker listens when a connect succeeds.
    fn wait_for_port(&mut self, worker: WorkerId, private: u16) {
        let inputs = self.inputs.clone();
        let port = self.recipe.port;
        self.run_for(worker, async move {
            let address = Some(probe::until_listening(private).await);
            let told = Told::Listening { port, address };
            let _ended = inputs.send(Input::Told(worker, told));
        });
    }

    /// Runs a task that ends with the worker.
    pub(crate) fn run_for(&mut self, worker: WorkerId, task: impl Future<Output = ()> + 'static) {
        if let Some(process) = self.state.processes.get_mut(&worker) {
            let task = tokio::task::spawn_local(task);
            // A handle keeps its task's memory, and a silent worker is asked again and again.
            process.tasks.retain(|task| !task.is_finished());
            process.tasks.push(task.abort_handle());
        }
    }

    pub(crate) fn told(&mut self, worker: WorkerId, told: Told) -> Option<Event> {
        let port = self.recipe.port;
        let process = self.state.processes.get_mut(&worker)?;
        let slot = process.slot.0;
        match told {
            Told::Listening {
                port: listening,
                address,
            } => {
                // A worker that listens a second time may have closed the first
                // socket; one that listens on both address families is reached at
                // either.
                if let Some(address) = address {
                    process.addresses.insert(listening, address);
                }
                if listening == port {
                    return self.listening(worker, address);
                }
            }
            Told::Given(given) if given == port => {
                let inputs = self.inputs.clone();
                let told = Told::Listening {
                    port,
                    address: None,
                };
                self.run_for(worker, async move {
                    // Told again it changes nothing.
                    tokio::time::sleep(LISTENS).await;
                    let _ended = inputs.send(Input::Told(worker, told));
                });
            }
            Told::Given(_) => {}
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
        let process = self.state.processes.get_mut(&worker)?;
        let (Some(path), Some(address)) = (&self.readiness_path, address) else {
            return Some(Event::Ready(worker));
        };
        let inputs = self.inputs.clone();
        let probing = probe::until_ok(address, path.clone());
        let task = tokio::task::spawn_local(async move {
            probing.await;
            let _ended = inputs.send(Input::Ready(worker));
        });
        if let Some(before) = process.probe.replace(task.abort_handle()) {
            before.abort();
        }
        None
    }

    pub(crate) fn drain(&mut self, worker: WorkerId) {
        let Some(process) = self.state.processes.get(&worker) else {
            return;
        };
        let idle = self.front.stop_feeding(Leaving {
            worker,
            group: process.pid,
            generation: process.generation,
        });
        let inputs = self.inputs.clone();
        self.run_for(worker, async move {
            idle.await;
            let _ended = inputs.send(Input::Drained(worker));
        });
    }

    /// The signal that asks a worker to end.
    pub(crate) fn terminate(&mut self, worker: WorkerId) {
        let Some(process) = self.state.processes.get(&worker) else {
            return;
        };
        self.front.cut(worker, process.pid);
        signal_group(process.pid, self.stop_signal);
        // A stopped process, by a drain or by somebody else, sees it only then.
        signal_group(process.pid, Signal::CONT);
        if matches!(self.front, Front::Connection(_)) {
            let sharing = Rc::clone(&self.sharing);
            self.run_for(worker, async move {
                loop {
                    tokio::time::sleep(MENDS).await;
                    sharing.borrow_mut().mend();
                }
            });
        }
    }

    pub(crate) fn kill(&self, worker: WorkerId) {
        if let Some(process) = self.state.processes.get(&worker) {
            signal_group(process.pid, Signal::KILL);
        }
    }

    pub(crate) fn reaped(&mut self, reaped: Reaped) -> Option<Event> {
        let worker = self.worker_of(reaped.pid)?;
        let process = self.state.processes.remove(&worker)?;
        let mut views = self.engine.workers();
        self.report.ended(&Ended {
            worker,
            slot: process.slot.0,
            pid: process.pid,
            generation: process.generation.0,
            state: views.find(|view| view.id == worker).map(|view| view.state),
            exit: reaped.exit,
        });
        // What the worker left behind must not go on serving.
        signal_group(process.pid, Signal::KILL);
        self.watchdog.forget(process.pid);
        self.front.remove(worker, process.pid);
        {
            let mut sharing = self.sharing.borrow_mut();
            sharing.forget(worker);
            sharing.mend();
        }
        let last_words = (worker, process.tail.clone());
        self.state.last_words.insert(process.slot, last_words);
        Some(Event::Exited(worker, reaped.exit))
    }

    fn worker_of(&self, pid: u32) -> Option<WorkerId> {
        let mut processes = self.state.processes.iter();
        processes
            .find(|(_, process)| process.pid == pid)
            .map(|(worker, _)| *worker)
    }
}
