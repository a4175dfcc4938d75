//! Starts, drains, signals and reaps the app's processes. The engine decides when.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_engine::{Cause, Engine, Event, Exit, Failure};
use scaledapp_engine::{Generation, Slot, WorkerId, WorkerState};
use scaledapp_proxy::EndedBy;
use scaledapp_sys::notify::Listener;
use scaledapp_wire::Tails;
use tokio::sync::mpsc;

use crate::connection::open_connections;
use crate::dispatch::{Feed, Front, Leaving};
use crate::ends::{self, Refuses, Runs};
use crate::handover::calls::{self, Caller, Finding};
use crate::handover::sharing::{self, Sharing};
use crate::hints::Share;
use crate::history::Ended;
use crate::input::{Input, Mechanism};
use crate::last_words::LastWords;
use crate::limits::accept_probe::AcceptProbe;
use crate::limits::memory;
use crate::limits::silence::Silence;
use crate::logs::{Logs, Tail};
use crate::process::worker::Process;
use crate::process::{self, Reaped, Recipe, Sockets, Started, group_lives, signal_group};
use crate::readiness::channel::Channel;
use crate::readiness::{Check, PassedChecks, RequiredChecks, probe};
use crate::stop_signal;
use crate::watchdog::Watchdog;

/// A worker that was given a listening socket counts as listening after this time, even if it has
/// not called `listen`. Some apps never call it (gunicorn asks `SO_ACCEPTCONN` first).
const LISTEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an app that listens on another port first, such as one for metrics, may take to listen
/// on its main port before this is logged.
const MAIN_PORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a worker that has closed its listener may take to open another one or to end.
const RELISTEN_TIMEOUT: Duration = Duration::from_millis(250);
/// How often a stopped worker's group is checked for remaining processes.
const GROUP_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// All worker processes, and everything needed to start and stop them and to send them
/// requests.
pub(crate) struct Workers {
    pub(crate) recipe: Recipe,
    /// The ports that workers share, the app's own first.
    pub(crate) ports: Rc<[u16]>,
    pub(crate) mechanism: Mechanism,
    /// The checks that a worker must pass before it counts as ready.
    pub(crate) wanted: RequiredChecks,
    pub(crate) stop_signal: Signal,
    /// Whether a worker is asked to end by a message. It gets the signal only if the
    /// message does not reach it.
    pub(crate) shutdown_message: bool,
    pub(crate) front: Front,
    pub(crate) sharing: Rc<RefCell<Sharing>>,
    pub(crate) logs: Logs,
    pub(crate) watchdog: Watchdog,
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    pub(crate) living: Living,
}

/// The state of running workers, and what is kept of those that have ended.
#[derive(Default)]
pub(crate) struct Living {
    processes: HashMap<WorkerId, Process>,
    last_words: LastWords,
    /// Whether the log already says that the app's calls cannot be read.
    knows_unreadable: bool,
}

impl Workers {
    /// Starts a worker with `share` of the machine.
    pub(crate) fn spawn(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        generation: Generation,
        share: Share,
    ) -> Event {
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
        let place = process::Placement {
            slot,
            share,
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
                    ": --cwd is not a directory; create it"
                } else if program.contains(' ') {
                    ": give its words separately, as in `-- node app.js`, or use a shell, as in `-- sh -c '…'`"
                } else {
                    ""
                };
                tracing::error!(slot = slot.0, program, %error, "cannot start the app's command{cure}");
                Event::Exited(worker, exit)
            }
        }
    }

    /// Begins to watch a process as a worker: its calls, its output, its messages.
    fn watch_over(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        generation: Generation,
        started: Started,
    ) {
        self.watchdog.watch(started.pid);
        // If the worker's calls are not seen, it may have set `SO_LINGER`.
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
            passed: PassedChecks::default(),
            channel: channel.clone(),
            accept_probe: AcceptProbe::Unknown,
            waiting_thread: None,
            silence: Silence::default(),
            has_closed: false,
            has_swollen: false,
            family: 1,
            is_node: None,
            left: None,
            probe: None,
            tasks: Vec::new(),
        };
        self.living.processes.insert(worker, process);
        if let Some(channel) = channel {
            let inputs = self.inputs.clone();
            let ready = move || drop(inputs.send(Input::Passed(worker, Check::Says)));
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
        // This is not one of the worker's tasks: its descendants may outlive it, and
        // without a supervisor's answer their calls would fail.
        tokio::task::spawn_local(async move {
            let tell = |finding| drop(inputs.send(Input::Found(worker, finding)));
            if let Err(error) = calls::serve(listener, caller, sharing, tell).await {
                tracing::error!(%error, "a worker's calls can no longer be answered");
            }
        });
    }

    /// Waits until a worker listens on its private port, which is when a connect succeeds.
    fn wait_for_port(&mut self, worker: WorkerId, private: u16) {
        let inputs = self.inputs.clone();
        let Some(port) = self.recipe.port else {
            return;
        };
        self.run_for(worker, async move {
            let address = Some(probe::until_listening(private).await);
            let finding = Finding::Listening { port, address };
            let _ended = inputs.send(Input::Found(worker, finding));
        });
    }

    /// Waits until a worker without a port has run for `life`, which is one of its readiness
    /// checks.
    fn wait_for_life(&mut self, worker: WorkerId, life: Duration) {
        let inputs = self.inputs.clone();
        self.run_for(worker, async move {
            tokio::time::sleep(life).await;
            let _ended = inputs.send(Input::Passed(worker, Check::Lives));
        });
    }

    /// Records that a worker has passed a check. Returns [`Event::Ready`] if the worker has now
    /// passed all of them.
    pub(crate) fn passes(&mut self, worker: WorkerId, check: Check) -> Option<Event> {
        let process = self.living.processes.get_mut(&worker)?;
        let is_ready = process.passed.add(check, &self.wanted);
        is_ready.then_some(Event::Ready(worker))
    }

    /// The readiness checks that a running worker has not passed.
    pub(crate) fn missing(&self, worker: WorkerId) -> Option<String> {
        let process = self.living.processes.get(&worker)?;
        process
            .passed
            .missing(&self.wanted, process.listens_elsewhere)
    }

    /// Runs a task that ends together with the worker.
    pub(crate) fn run_for(&mut self, worker: WorkerId, task: impl Future<Output = ()> + 'static) {
        if let Some(process) = self.living.processes.get_mut(&worker) {
            let task = tokio::task::spawn_local(task);
            // A handle keeps its task's memory, and a worker may have many tasks over its
            // life.
            process.tasks.retain(|task| !task.is_finished());
            process.tasks.push(task.abort_handle());
        }
    }

    pub(crate) fn found(&mut self, worker: WorkerId, finding: Finding) -> Option<Event> {
        let port = self.recipe.port;
        let process = self.living.processes.get_mut(&worker)?;
        let slot = process.slot.0;
        match finding {
            Finding::Listening {
                port: listening,
                address,
            } => {
                // A worker that listens a second time may have closed the first socket; one
                // that listens on both address families is reached by either address.
                if let Some(address) = address {
                    process.addresses.insert(listening, address);
                }
                if Some(listening) == port {
                    return self.listening(worker, address);
                }
            }
            Finding::TookOver(given) if Some(given) == port => {
                sharing::watch_new(&self.sharing);
                let inputs = self.inputs.clone();
                let finding = Finding::Listening {
                    port: given,
                    address: None,
                };
                self.run_for(worker, async move {
                    // If the worker has called `listen` by then, this finding changes nothing.
                    tokio::time::sleep(LISTEN_TIMEOUT).await;
                    let _ended = inputs.send(Input::Found(worker, finding));
                });
            }
            Finding::TookOver(_) => sharing::watch_new(&self.sharing),
            Finding::ListeningElsewhere(other) => {
                if port.is_some() && process.listens_elsewhere.replace(other).is_none() {
                    let inputs = self.inputs.clone();
                    self.run_for(worker, async move {
                        tokio::time::sleep(MAIN_PORT_TIMEOUT).await;
                        let _ended = inputs.send(Input::StillElsewhere(worker));
                    });
                }
            }
            // This is the same for all workers of the app at every start, so it is logged once.
            Finding::Unreadable => {
                if !std::mem::replace(&mut self.living.knows_unreadable, true) {
                    tracing::warn!(
                        slot,
                        "the app's bind call cannot be read, so the app binds for itself, and its \
                         port is in use by the supervisor (EADDRINUSE): the app changed its user or forbids tracing. \
                         Change the user before the supervisor instead (USER in the image, or \
                         setpriv, gosu or su-exec in front of it), or add the capability \
                         SYS_PTRACE, or give --mechanism port and let the app listen on $PORT"
                    );
                }
            }
            Finding::Refused => tracing::error!(
                slot,
                "the app got no socket for a shared port; an earlier log line has the reason"
            ),
        }
        None
    }

    /// Records that nothing listens at a worker's address, so that the worker gets no more requests
    /// there. The worker may listen again, or it may be about to exit by itself.
    pub(crate) fn refuses(&mut self, worker: WorkerId, port: u16, address: SocketAddr) {
        let Some(process) = self.living.processes.get_mut(&worker) else {
            return;
        };
        if process.addresses.get(&port) != Some(&address) {
            return;
        }
        process.addresses.remove(&port);
        if Some(port) == self.recipe.port {
            let inputs = self.inputs.clone();
            self.run_for(worker, async move {
                tokio::time::sleep(RELISTEN_TIMEOUT).await;
                let _ended = inputs.send(Input::StillNotListening(worker));
            });
        }
    }

    /// Replaces a worker that has closed its listener but still runs; the worker may finish its
    /// work. `surge` says whether there is memory for the successor beside the worker.
    pub(crate) fn still_not_listening(&self, worker: WorkerId, surge: bool) -> Option<Event> {
        let process = self.living.processes.get(&worker)?;
        let is_closed = !process.addresses.contains_key(&self.recipe.port?);
        is_closed.then_some(Event::Recycle {
            worker,
            cause: Cause::NotListening,
            surge,
        })
    }

    /// Finds workers that have closed the shared socket but still run (Connection dispatch). The
    /// check takes place only while connections wait to be accepted, and a worker is replaced only
    /// if two checks in a row find that it has closed the socket, because it may be about to listen
    /// again. `surge` returns whether there is memory for a successor beside the worker.
    pub(crate) fn closed_listeners(
        &mut self,
        engine: &Engine,
        surge: impl FnOnce() -> bool,
    ) -> Vec<Event> {
        let shared = match self.front {
            Front::Connection(_) if self.sharing.borrow().queued_in_all() > 0 => {
                self.sharing.borrow().inodes()
            }
            _ => return Vec::new(),
        };
        let ready = engine.workers();
        let ready = ready.filter(|worker| worker.state == WorkerState::Ready);
        let surge = surge();
        let closed = ready.map(|worker| worker.id).filter(|worker| {
            let Some(process) = self.living.processes.get_mut(worker) else {
                return false;
            };
            let tree = memory::tree(process.pid);
            let closed = open_connections::has_closed(process.pid, &tree, &shared);
            let before = std::mem::replace(&mut process.has_closed, closed);
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

    /// Logs the port of a worker that has had time to listen on the app's port but has not. If the
    /// worker does listen on the app's port, the other port is a second one, and nothing is wrong.
    pub(crate) fn still_elsewhere(&self, worker: WorkerId) {
        let process = self.living.processes.get(&worker);
        if let (Some(process), Some(port)) = (process, self.recipe.port)
            && let Some(other) = process.listens_elsewhere
            && !process.passed.listens()
        {
            tracing::info!(
                slot = process.slot.0,
                "the app listens on {other}, --port is {port}: if {other} is its main port, give --port {other}"
            );
        }
    }

    /// Records that a worker listens, and begins to check its readiness path if there is one.
    fn listening(&mut self, worker: WorkerId, address: Option<SocketAddr>) -> Option<Event> {
        let process = self.living.processes.get_mut(&worker)?;
        if let (Some(path), Some(address)) = (&self.wanted.path, address) {
            let (inputs, protocol) = (self.inputs.clone(), self.wanted.protocol);
            let probing = probe::until_ok(address, path.clone(), protocol);
            let task = tokio::task::spawn_local(async move {
                probing.await;
                let _ended = inputs.send(Input::Passed(worker, Check::Answers));
            });
            if let Some(before) = process.probe.replace(task.abort_handle()) {
                before.abort();
            }
        }
        self.passes(worker, Check::Listens)
    }

    pub(crate) fn drain(&mut self, worker: WorkerId) {
        let Some(process) = self.living.processes.get(&worker) else {
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

    /// Asks a worker to end: by a message if that is configured and the worker can receive it,
    /// otherwise by the signal.
    pub(crate) fn terminate(&mut self, worker: WorkerId) {
        let Some(process) = self.living.processes.get(&worker) else {
            return;
        };
        // A request that the worker did not finish by the end of its drain may be what used up the
        // memory.
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
        // A stopped process handles the signal only after it is continued.
        signal_group(process.pid, Signal::CONT);
    }

    pub(crate) fn kill(&self, worker: WorkerId) {
        if let Some(process) = self.living.processes.get(&worker) {
            // This does not replace a cause that was recorded before.
            self.front.ended(worker, EndedBy::Other);
            signal_group(process.pid, Signal::KILL);
            if let Some(exit) = process.left {
                // A group that survives even SIGKILL (an unreaped zombie) is not waited
                // for.
                let _ended = self.inputs.send(Input::GroupEnded(worker, exit));
            }
        }
    }

    /// Returns the worker that ended; `None` if the process was not a worker, or if the supervisor
    /// still waits for other processes of the worker's group.
    pub(crate) fn reaped(&mut self, reaped: Reaped, engine: &Engine) -> Option<WorkerId> {
        let worker = self.worker_of(reaped.pid)?;
        let is_stopping = state_of(engine, worker) == Some(WorkerState::Stopping);
        if is_stopping && group_lives(reaped.pid) {
            self.wait_for_group(worker, reaped);
            return None;
        }
        Some(worker)
    }

    /// Waits until all processes of an ended worker's group have ended. A wrapper such as `sh
    /// start.sh` ends at the stop signal before the app that it has started, which may use the rest
    /// of the grace period. The number of a group is not reused while it has members
    /// (`setpgid(2)`).
    fn wait_for_group(&mut self, worker: WorkerId, leader: Reaped) {
        let Some(process) = self.living.processes.get_mut(&worker) else {
            return;
        };
        process.left = Some(leader.exit);
        let inputs = self.inputs.clone();
        self.run_for(worker, async move {
            while group_lives(leader.pid) {
                tokio::time::sleep(GROUP_CHECK_INTERVAL).await;
            }
            let _ended = inputs.send(Input::GroupEnded(worker, leader.exit));
        });
    }

    /// Removes an ended worker, with everything that must not outlive it. Returns the
    /// record for the history, and whether the worker has served.
    pub(crate) fn ended(
        &mut self,
        worker: WorkerId,
        exit: Exit,
        engine: &Engine,
        out_of_memory: bool,
    ) -> Option<(Ended, bool)> {
        let process = self.living.processes.remove(&worker)?;
        let has_served = self.front.served(worker) > 0;
        self.front.ended(worker, ends::whose(exit, out_of_memory));
        let ended = Ended {
            worker,
            slot: process.slot.0,
            pid: process.pid,
            generation: process.generation.0,
            state: state_of(engine, worker),
            exit,
        };
        // Processes that the worker left behind must not continue to serve.
        signal_group(process.pid, Signal::KILL);
        self.watchdog.forget(process.pid);
        self.front.remove(worker, process.pid);
        {
            let mut sharing = self.sharing.borrow_mut();
            sharing.forget(worker);
            sharing.mend();
        }
        let last_words = &mut self.living.last_words;
        last_words.keep(process.slot, worker, process.tail.clone());
        Some((ended, has_served))
    }

    fn worker_of(&self, pid: u32) -> Option<WorkerId> {
        let mut processes = self.living.processes.iter();
        processes
            .find(|(_, process)| process.pid == pid && process.left.is_none())
            .map(|(worker, _)| *worker)
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<&Process> {
        self.living.processes.get(&worker)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Process> {
        self.living.processes.get_mut(&worker)
    }

    /// The running processes.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.living.processes.values()
    }

    /// Sends a signal to the process groups of all workers, or to that of one slot.
    ///
    /// # Errors
    /// There is no such signal or no such worker; the text is shown to the caller.
    pub(crate) fn send_signal(&self, number: i32, slot: Option<u32>) -> Result<(), String> {
        let Some(signal) = Signal::from_named_raw(number) else {
            return Err(format!("there is no signal {number}: give 1 to 31"));
        };
        let meant = |process: &&Process| slot.is_none_or(|slot| process.slot.0 == slot);
        let mut processes = self.processes().filter(meant).peekable();
        if let (Some(slot), None) = (slot, processes.peek()) {
            return Err(format!(
                "no worker runs in slot {slot}: `ctl status` shows the running workers"
            ));
        }
        for process in processes {
            signal_group(process.pid, signal);
        }
        Ok(())
    }

    /// Sends requests to a ready worker at every address where it listens.
    pub(crate) fn feed(&mut self, worker: WorkerId, slot: Slot) {
        let Some(process) = self.living.processes.get(&worker) else {
            return;
        };
        for (&port, &address) in &process.addresses {
            let refuses = Refuses {
                worker,
                port,
                address,
                inputs: self.inputs.clone(),
            };
            let to = Feed {
                slot,
                process: Runs {
                    pid: process.pid,
                    resets: Arc::clone(&process.resets),
                    refuses,
                },
                port,
                address,
            };
            self.front.feed(worker, to);
        }
    }

    /// The last stderr lines by slot: those of the slot's last ended worker, then those of its
    /// running workers.
    pub(crate) fn tails(&self, only: Option<u32>) -> Tails {
        let ended = self.living.last_words.tails();
        let running = self
            .processes()
            .map(|process| (process.slot, &process.tail));
        let mut slots = Tails::new();
        for (slot, tail) in ended.chain(running) {
            if only.is_none_or(|only| only == slot.0) {
                let lines = slots.entry(slot.0.to_string()).or_default();
                lines.extend(tail.lines());
            }
        }
        slots
    }

    /// The last lines of the worker that caused a failure, and the readiness checks that it
    /// has not passed if it still runs.
    pub(crate) fn cause(&self, failure: &Failure) -> (Option<Tail>, Option<String>) {
        let (Some(worker), Some(slot)) = (failure.worker(), failure.slot()) else {
            return (None, None);
        };
        if let Some(process) = self.get(worker) {
            return (Some(process.tail.clone()), self.missing(worker));
        }
        (self.living.last_words.of(slot, worker), None)
    }

    /// Waits until everything that workers wrote is passed on, and writes the last lines of
    /// the newest ended worker to the termination log.
    pub(crate) async fn farewell(&self, code: i32) {
        let last_words = &self.living.last_words;
        last_words.settled().await;
        self.logs.flushed().await;
        last_words.leave_to_kubelet(code);
    }
}

fn state_of(engine: &Engine, worker: WorkerId) -> Option<WorkerState> {
    let mut views = engine.workers();
    views.find(|view| view.id == worker).map(|view| view.state)
}
