//! One worker's life as the supervisor carries it out: started, listening,
//! drained, signalled, reaped. When which of them happens is the engine's word.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_engine::{Cause, Event, Exit, Generation, Slot, WorkerId, WorkerState};
use scaledapp_proxy::EndedBy;
use scaledapp_sys::notify::Listener;
use tokio::task::AbortHandle;

use crate::connection::held;
use crate::dispatch::{Front, Leaving};
use crate::ends;
use crate::handover::{self, Caller, Told};
use crate::hints::Share;
use crate::history::Ended;
use crate::input::{Input, Mechanism};
use crate::limits::Hearing;
use crate::limits::ears::Ear;
use crate::limits::memory;
use crate::limits::silence::Silence;
use crate::logs::Tail;
use crate::process::{self, Reaped, Sockets, Started, group_lives, signal_group};
use crate::readiness::channel::Channel;
use crate::readiness::probe;
use crate::readiness::{Shown, Sign};
use crate::sharing;
use crate::stop_signal;
use crate::supervisor::Supervisor;

/// A worker that was given a listening socket calls `listen` within this, or leaves
/// it out (gunicorn asks `SO_ACCEPTCONN` first).
const LISTENS: Duration = Duration::from_secs(1);
/// An app that opens a port for its metrics first listens on its main one soon after.
const ELSEWHERE: Duration = Duration::from_secs(3);
/// A worker that has closed its listener may open another one, or end by itself.
const DEAF: Duration = Duration::from_millis(250);
/// How often it is looked whether what a stopped worker has started is gone.
const LEAVES: Duration = Duration::from_millis(5);

/// A running worker process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// See [`Caller`].
    pub(crate) resets: Arc<AtomicBool>,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) tail: Tail,
    /// Where it alone is reached, by shared port, once it listens.
    pub(crate) addresses: BTreeMap<u16, SocketAddr>,
    pub(crate) listens_elsewhere: Option<u16>,
    /// What it has shown of what makes it ready.
    shown: Shown,
    /// Where messages come from and go to.
    channel: Option<Channel>,
    /// What is known of whether it accepts connections.
    pub(crate) hearing: Hearing,
    /// The thread that was found waiting for connections (Connection dispatch).
    pub(crate) ear: Option<Ear>,
    pub(crate) silence: Silence,
    /// It held none of the shared sockets at the last look that asked for it.
    has_closed: bool,
    /// It is replaced because of its memory.
    pub(crate) has_swollen: bool,
    /// How many processes it and its descendants were at the last look.
    pub(crate) family: usize,
    /// Whether Node runs there, once it is known.
    pub(crate) is_node: Option<bool>,
    /// How it ended, while others of its group still end.
    left: Option<Exit>,
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

/// Whether a worker's processes hold sockets, and none of `shared`. Where they cannot be
/// seen they seem to hold none at all, and nothing is known.
fn closed(pid: u32, shared: &HashSet<u64>) -> bool {
    let mut members = held::members(&[pid]);
    members.extend(memory::tree(pid).into_iter().map(|process| (process, pid)));
    let held = held::sockets_of(&members).remove(&pid).unwrap_or_default();
    !held.is_empty() && held.is_disjoint(shared)
}

impl Supervisor {
    pub(crate) fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) -> Event {
        let sockets = match self.mechanism {
            Mechanism::Notify => Sockets::Answered,
            Mechanism::Nothing => Sockets::Own,
            Mechanism::Port => match probe::free_port() {
                Ok(port) => Sockets::Private(port),
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
            sockets,
        };
        match process::start(&self.recipe, place) {
            Ok(started) => {
                self.watch_over(worker, slot, generation, started);
                if let Sockets::Private(port) = sockets {
                    self.wait_for_port(worker, port);
                }
                if let Some(life) = self.wanted.life {
                    self.wait_for_life(worker, life);
                }
                Event::Spawned(worker)
            }
            Err((exit, error)) => {
                let program = self.recipe.command.first().map_or("", String::as_str);
                let gone = self.recipe.directory.given().filter(|path| !path.is_dir());
                let cure = if gone.is_some() {
                    ": --cwd is no directory"
                } else if program.contains(' ') {
                    ": give its words apart, as `-- node app.js`, or let a shell do it, as `-- sh -c '…'`"
                } else {
                    ""
                };
                tracing::error!(slot = slot.0, program, %error, "cannot start the app's command{cure}");
                Event::Exited(worker, exit)
            }
        }
    }

    /// Takes a process up as a worker: its calls, its output, its messages.
    fn watch_over(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        generation: Generation,
        started: Started,
    ) {
        self.watchdog.watch(started.pid);
        // Of calls that nobody sees anything can be true.
        let resets = Arc::new(AtomicBool::new(started.listener.is_none()));
        if let Some(listener) = started.listener {
            self.answer_calls(listener, worker, generation, Arc::clone(&resets));
        }
        let channel = started.channel.map(Channel::new).transpose();
        let channel = channel.unwrap_or_else(|error| {
            tracing::error!(slot = slot.0, %error, "a worker's messages cannot be read");
            None
        });
        let process = Process {
            pid: started.pid,
            resets,
            slot,
            generation,
            tail: self
                .logs
                .follow(slot.0, started.pid, started.stdout, started.stderr),
            addresses: BTreeMap::new(),
            listens_elsewhere: None,
            shown: Shown::default(),
            channel: channel.clone(),
            hearing: Hearing::Unknown,
            ear: None,
            silence: Silence::default(),
            has_closed: false,
            has_swollen: false,
            family: 1,
            is_node: None,
            left: None,
            probe: None,
            tasks: Vec::new(),
        };
        self.state.processes.insert(worker, process);
        if let Some(channel) = channel {
            let inputs = self.inputs.clone();
            let ready = move || drop(inputs.send(Input::Shows(worker, Sign::Says)));
            self.run_for(worker, channel.read(ready));
        }
    }

    fn answer_calls(
        &self,
        listener: Listener,
        worker: WorkerId,
        generation: Generation,
        resets: Arc<AtomicBool>,
    ) {
        let caller = Caller {
            worker,
            generation,
            ports: Rc::clone(&self.ports),
            resets,
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
        let Some(port) = self.recipe.port else {
            return;
        };
        self.run_for(worker, async move {
            let address = Some(probe::until_listening(private).await);
            let told = Told::Listening { port, address };
            let _ended = inputs.send(Input::Told(worker, told));
        });
    }

    /// Without a port, a worker has come up when it has not ended at once.
    fn wait_for_life(&mut self, worker: WorkerId, life: Duration) {
        let inputs = self.inputs.clone();
        self.run_for(worker, async move {
            tokio::time::sleep(life).await;
            let _ended = inputs.send(Input::Shows(worker, Sign::Lives));
        });
    }

    /// A worker has shown something; it may be ready now.
    pub(crate) fn shows(&mut self, worker: WorkerId, sign: Sign) -> Option<Event> {
        let process = self.state.processes.get_mut(&worker)?;
        let is_ready = process.shown.add(sign, &self.wanted);
        is_ready.then_some(Event::Ready(worker))
    }

    /// What a worker that runs has not shown of what makes it ready.
    pub(crate) fn missing(&self, worker: WorkerId) -> Option<String> {
        let process = self.state.processes.get(&worker)?;
        process
            .shown
            .missing(&self.wanted, process.listens_elsewhere)
    }

    /// Runs a task that ends with the worker.
    pub(crate) fn run_for(&mut self, worker: WorkerId, task: impl Future<Output = ()> + 'static) {
        if let Some(process) = self.state.processes.get_mut(&worker) {
            let task = tokio::task::spawn_local(task);
            // A handle keeps its task's memory, and a worker may have many over its life.
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
                if Some(listening) == port {
                    return self.listening(worker, address);
                }
            }
            Told::Given(given) if Some(given) == port => {
                sharing::watch_new(&self.sharing);
                let inputs = self.inputs.clone();
                let told = Told::Listening {
                    port: given,
                    address: None,
                };
                self.run_for(worker, async move {
                    // Told again it changes nothing.
                    tokio::time::sleep(LISTENS).await;
                    let _ended = inputs.send(Input::Told(worker, told));
                });
            }
            Told::Given(_) => sharing::watch_new(&self.sharing),
            Told::ListeningElsewhere(other) => {
                if port.is_some() && process.listens_elsewhere.replace(other).is_none() {
                    let inputs = self.inputs.clone();
                    self.run_for(worker, async move {
                        tokio::time::sleep(ELSEWHERE).await;
                        let _ended = inputs.send(Input::StillElsewhere(worker));
                    });
                }
            }
            // It is the same for each of its workers, and at each of their starts.
            Told::Unreadable => {
                if !std::mem::replace(&mut self.state.knows_unreadable, true) {
                    tracing::warn!(
                        slot,
                        "the app's bind cannot be read, so it has to bind for itself, and its \
                         port is ours (EADDRINUSE): it changed its user or forbids tracing. \
                         Change the user before the supervisor instead (USER in the image, or \
                         setpriv, gosu or su-exec in front of it), or add the capability \
                         SYS_PTRACE, or give --mechanism port and let the app listen on $PORT"
                    );
                }
            }
            Told::Refused => tracing::error!(slot, "the app was given no socket for a shared port"),
        }
        None
    }

    /// Nobody listens where a worker was reached: it gets no request there any more. It
    /// may listen again, or be about to leave by itself.
    pub(crate) fn refuses(&mut self, worker: WorkerId, port: u16, address: SocketAddr) {
        let Some(process) = self.state.processes.get_mut(&worker) else {
            return;
        };
        if process.addresses.get(&port) != Some(&address) {
            return;
        }
        process.addresses.remove(&port);
        if Some(port) == self.recipe.port {
            let inputs = self.inputs.clone();
            self.run_for(worker, async move {
                tokio::time::sleep(DEAF).await;
                let _ended = inputs.send(Input::StillDeaf(worker));
            });
        }
    }

    /// A worker that has closed its listener and lives on is replaced: what it still has
    /// it may finish.
    pub(crate) fn still_deaf(&self, worker: WorkerId) -> Option<Event> {
        let process = self.state.processes.get(&worker)?;
        let is_deaf = !process.addresses.contains_key(&self.recipe.port?);
        is_deaf.then(|| Event::Recycle {
            worker,
            cause: Cause::NotListening,
            surge: !self.is_crowded(),
        })
    }

    /// Workers that have closed the socket that all share and live on (Connection
    /// dispatch). Looked for only while connections wait for somebody to accept them,
    /// and found at the second look: one may be about to listen again.
    pub(crate) fn closed_listeners(&mut self) -> Vec<Event> {
        let shared = match self.front {
            Front::Connection(_) if self.sharing.borrow().queued_in_all() > 0 => {
                self.sharing.borrow().inodes()
            }
            _ => return Vec::new(),
        };
        let ready = self.engine.workers();
        let ready = ready.filter(|worker| worker.state == WorkerState::Ready);
        let ready: Vec<WorkerId> = ready.map(|worker| worker.id).collect();
        let surge = !self.is_crowded();
        let closed = ready.into_iter().filter(|worker| {
            let Some(process) = self.state.processes.get_mut(worker) else {
                return false;
            };
            let before = std::mem::replace(&mut process.has_closed, closed(process.pid, &shared));
            before && process.has_closed
        });
        closed
            .map(|worker| Event::Recycle {
                worker,
                cause: Cause::NotListening,
                surge,
            })
            .collect()
    }

    /// Says where a worker listens that has had the time to listen on its port,
    /// too, and does not. One that does has a second port, and nothing is wrong.
    pub(crate) fn still_elsewhere(&self, worker: WorkerId) {
        let process = self.state.processes.get(&worker);
        if let (Some(process), Some(port)) = (process, self.recipe.port)
            && let Some(other) = process.listens_elsewhere
            && !process.shown.listens()
        {
            tracing::info!(
                slot = process.slot.0,
                "the app listens on {other}, --port is {port}: if {other} is its main port, give --port {other}"
            );
        }
    }

    /// A worker listens: it is asked whether it is ready where that is wanted.
    fn listening(&mut self, worker: WorkerId, address: Option<SocketAddr>) -> Option<Event> {
        let process = self.state.processes.get_mut(&worker)?;
        if let (Some(path), Some(address)) = (&self.wanted.path, address) {
            let inputs = self.inputs.clone();
            let probing = probe::until_ok(address, path.clone());
            let task = tokio::task::spawn_local(async move {
                probing.await;
                let _ended = inputs.send(Input::Shows(worker, Sign::Answers));
            });
            if let Some(before) = process.probe.replace(task.abort_handle()) {
                before.abort();
            }
        }
        self.shows(worker, Sign::Listens)
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

    /// Asks a worker to end: by the signal, or by a message that it can receive.
    pub(crate) fn terminate(&mut self, worker: WorkerId) {
        let Some(process) = self.state.processes.get(&worker) else {
            return;
        };
        // What it has not finished by the end of its drain may be what has taken the memory.
        let by = if process.has_swollen {
            EndedBy::Itself
        } else {
            EndedBy::Other
        };
        self.front.ended(worker, by);
        self.front.let_go(process.pid);
        let mut channel = process.channel.iter();
        if !self.shutdown_message {
            stop_signal::send(process.pid, self.stop_signal);
        } else if !channel.any(Channel::ask_to_end) {
            tracing::info!(
                slot = process.slot.0,
                "the worker has closed its message channel: it gets the stop signal instead"
            );
            stop_signal::send(process.pid, self.stop_signal);
        }
        // A stopped process, by a drain or by somebody else, sees it only then.
        signal_group(process.pid, Signal::CONT);
    }

    pub(crate) fn kill(&self, worker: WorkerId) {
        if let Some(process) = self.state.processes.get(&worker) {
            // Unless it was said before why.
            self.front.ended(worker, EndedBy::Other);
            signal_group(process.pid, Signal::KILL);
            if let Some(exit) = process.left {
                // Whom not even that ends (a zombie that nobody reaps) is not awaited.
                let _ended = self.inputs.send(Input::GroupEnded(worker, exit));
            }
        }
    }

    pub(crate) fn reaped(&mut self, reaped: Reaped) -> Vec<Event> {
        let Some(worker) = self.worker_of(reaped.pid) else {
            return Vec::new();
        };
        let is_stopping = self.state_of(worker) == Some(WorkerState::Stopping);
        if is_stopping && group_lives(reaped.pid) {
            self.wait_for_group(worker, reaped);
            return Vec::new();
        }
        self.ended(worker, reaped.exit)
    }

    fn state_of(&self, worker: WorkerId) -> Option<WorkerState> {
        let mut views = self.engine.workers();
        views.find(|view| view.id == worker).map(|view| view.state)
    }

    /// A wrapper such as `sh start.sh` ends at the stop signal before the app that
    /// it has started: that one has the rest of the grace. The number of a group
    /// is not used again while it has members (`setpgid(2)`).
    fn wait_for_group(&mut self, worker: WorkerId, leader: Reaped) {
        let Some(process) = self.state.processes.get_mut(&worker) else {
            return;
        };
        process.left = Some(leader.exit);
        let inputs = self.inputs.clone();
        self.run_for(worker, async move {
            while group_lives(leader.pid) {
                tokio::time::sleep(LEAVES).await;
            }
            let _ended = inputs.send(Input::GroupEnded(worker, leader.exit));
        });
    }

    /// A worker is no more, with all that must not outlive it.
    pub(crate) fn ended(&mut self, worker: WorkerId, exit: Exit) -> Vec<Event> {
        let Some(process) = self.state.processes.remove(&worker) else {
            return Vec::new();
        };
        let has_served = self.front.served(worker) > 0;
        let out_of_memory = self.out_of_memory.look(Instant::now());
        self.front.ended(worker, ends::whose(exit, out_of_memory));
        self.report.ended(&Ended {
            worker,
            slot: process.slot.0,
            pid: process.pid,
            generation: process.generation.0,
            state: self.state_of(worker),
            exit,
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
        let served = has_served.then_some(Event::Served(worker));
        served
            .into_iter()
            .chain([Event::Exited(worker, exit)])
            .collect()
    }

    fn worker_of(&self, pid: u32) -> Option<WorkerId> {
        let mut processes = self.state.processes.iter();
        processes
            .find(|(_, process)| process.pid == pid && process.left.is_none())
            .map(|(worker, _)| *worker)
    }
}
