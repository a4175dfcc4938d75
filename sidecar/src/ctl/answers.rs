//! What the supervisor answers to those who ask through the control socket, and
//! the last words of workers that go with it.

use std::fmt::Write;
use std::sync::Arc;

use scaledapp_engine::{Event, Failure, OperationId, Slot, SlotState};
use scaledapp_wire::{self as wire, Description, Reply, Request, SlotDescription, Tails};
use tokio::sync::oneshot;

use super::server::{Answer, Answering, Asked};
use crate::cores::{WorkerSpec, within_bounds};
use crate::logs::Tail;
use crate::process::signal_group;
use crate::supervisor::Supervisor;
use crate::workers::Process;

impl Supervisor {
    pub(crate) fn asked(&mut self, asked: Asked) -> Option<Event> {
        let Asked { request, reply } = asked;
        // The client may have hung up; that changes nothing.
        let answer = |reply: Answering, with| drop(reply.send(with));
        let only_looks = matches!(
            request,
            Request::Status | Request::Logs { .. } | Request::Describe { .. } | Request::Events
        );
        if self.state.stopping && !only_looks {
            answer(reply, Reply::Error("the supervisor is stopping".to_owned()));
            return None;
        }
        match request {
            Request::Status => answer(reply, Reply::Ok(Answer::Status(self.report.status()))),
            Request::Logs { slot } => answer(reply, self.logs_of(slot)),
            Request::Describe { slot } => answer(reply, self.describe(slot)),
            Request::Events => answer(reply, Reply::Ok(Answer::Events(self.report.events()))),
            Request::Signal { number, slot } => answer(reply, self.send_signal(number, slot)),
            Request::Scale { workers } => {
                match within_bounds(workers.from(self.engine.desired())) {
                    Ok(workers) => {
                        self.spec = WorkerSpec::Fixed(workers);
                        let operation = Some(self.wait_for(reply));
                        return Some(Event::Scale { workers, operation });
                    }
                    Err(error) => answer(reply, Reply::Error(error.to_string())),
                }
            }
            Request::Reload => {
                let operation = Some(self.wait_for(reply));
                return Some(Event::Reload { operation });
            }
            Request::Restart { slot } => {
                // Not only when its turn comes.
                if let Some(no_such) = self.no_such(Some(slot)) {
                    answer(reply, no_such);
                    return None;
                }
                let operation = Some(self.wait_for(reply));
                let slot = Slot(slot);
                return Some(Event::Restart { slot, operation });
            }
        }
        None
    }

    fn send_signal(&self, number: i32, slot: Option<u32>) -> Reply<Answer> {
        let Some(signal) = rustix::process::Signal::from_named_raw(number) else {
            return Reply::Error(format!("there is no signal {number}: give 1 to 31"));
        };
        let meant = |process: &&Process| slot.is_none_or(|slot| process.slot.0 == slot);
        let mut processes = self.state.processes.values().filter(meant).peekable();
        if let (Some(slot), None) = (slot, processes.peek()) {
            return Reply::Error(format!(
                "no worker runs in slot {slot}: see `ctl status` for those that do"
            ));
        }
        for process in processes {
            signal_group(process.pid, signal);
        }
        Reply::Ok(Answer::Done)
    }

    /// The answer for a slot that is not there.
    fn no_such(&self, slot: Option<u32>) -> Option<Reply<Answer>> {
        let desired = self.engine.desired();
        let slot = Slot(slot.filter(|slot| *slot >= desired)?);
        let failure = Failure::NoSuchSlot { slot, desired };
        Some(Reply::Error(failure.to_string()))
    }

    /// The last stderr lines; those of a slot that has gone are kept.
    fn logs_of(&self, slot: Option<u32>) -> Reply<Answer> {
        let tails = self.tails(slot);
        let is_known = slot.is_none_or(|slot| tails.contains_key(&slot.to_string()));
        let no_such = self.no_such(slot).filter(|_| !is_known);
        no_such.unwrap_or(Reply::Ok(Answer::Tails(tails)))
    }

    /// All that is known of each slot, or of one.
    fn describe(&self, only: Option<u32>) -> Reply<Answer> {
        if let Some(no_such) = self.no_such(only) {
            return no_such;
        }
        let status = self.report.status();
        let now = self.started.elapsed();
        let views = self.engine.slots();
        let views = views.filter(|view| only.is_none_or(|only| only == view.slot.0));
        let slots = views.map(|view| {
            let slot = view.slot.0;
            let workers = status.workers.iter();
            let workers = workers.filter(|worker| worker.slot == slot);
            SlotDescription {
                next_start_seconds: match view.state {
                    SlotState::CrashLoop { next_attempt } => {
                        Some(next_attempt.saturating_sub(now).as_secs_f64())
                    }
                    _ => None,
                },
                restarts: view.restarts,
                state: slot_state(view.state),
                stderr: self.tails(Some(slot)).remove(&slot.to_string()),
                workers: workers.map(|worker| self.located(worker)).collect(),
                ..self.report.describe_slot(slot)
            }
        });
        Reply::Ok(Answer::Description(Description {
            command: self.recipe.command.clone(),
            desired: status.desired,
            dispatch: status.dispatch,
            generation: status.generation,
            mechanism: status.mechanism,
            patience_seconds: Some(self.engine.patience().as_secs_f64()),
            port: self.recipe.port,
            ready: status.ready,
            slots: slots.collect(),
            uptime_seconds: now.as_secs_f64(),
        }))
    }

    /// A worker with where it is reached.
    fn located(&self, worker: &wire::Worker) -> wire::Worker {
        let mut processes = self.state.processes.values();
        let process = processes.find(|process| process.pid == worker.pid);
        let place = process.zip(self.recipe.port).map(|(process, port)| {
            match process.addresses.get(&port) {
                Some(address) => address.to_string(),
                None if worker.state == wire::WorkerState::Starting => "nothing yet".to_owned(),
                None => format!("the shared port {port}"),
            }
        });
        wire::Worker {
            address: place,
            ..worker.clone()
        }
    }

    fn wait_for(&mut self, reply: Answering) -> OperationId {
        self.state.last_operation += 1;
        let operation = OperationId(self.state.last_operation);
        self.state.waiting.insert(operation, reply);
        operation
    }

    /// A reload that nobody waits for at the control socket; how it went is
    /// shown in `/status` under its token.
    pub(crate) fn reload_to(&mut self, token: String) -> Event {
        let (reply, answer) = oneshot::channel();
        let operation = Some(self.wait_for(reply));
        let report = Arc::clone(&self.report);
        tokio::task::spawn_local(async move {
            match answer.await {
                Ok(Reply::Ok(_)) => report.reloaded(token),
                Ok(Reply::Error(reason)) => report.reload_failed(token, &reason),
                // The supervisor has ended.
                Err(_) => {}
            }
        });
        Event::Reload { operation }
    }

    pub(crate) fn settle(&mut self, operation: OperationId, result: Result<(), Failure>) {
        let Some(reply) = self.state.waiting.remove(&operation) else {
            return;
        };
        let Err(failure) = result else {
            drop(reply.send(Reply::Ok(Answer::Done)));
            return;
        };
        let mut text = failure.to_string();
        let (tail, missing) = self.cause(&failure);
        if let Some(missing) = missing {
            // Writing into a String cannot fail.
            let _infallible = write!(text, "; {missing}");
        }
        // What it wrote last may be on its way still; supervision goes on.
        tokio::task::spawn_local(async move {
            if let Some(tail) = tail {
                tail.settled().await;
                for line in tail.lines() {
                    text.push_str("\n  ");
                    text.push_str(&line);
                }
            }
            drop(reply.send(Reply::Error(text)));
        });
    }

    /// The last words of the worker that caused a failure, and what it has not
    /// shown of what makes it ready, if it lives.
    fn cause(&self, failure: &Failure) -> (Option<Tail>, Option<String>) {
        let (Some(worker), Some(slot)) = (failure.worker(), failure.slot()) else {
            return (None, None);
        };
        if let Some(process) = self.state.processes.get(&worker) {
            return (Some(process.tail.clone()), self.missing(worker));
        }
        let words = self.state.last_words.get(&slot);
        let words = words.filter(|(ended, _)| *ended == worker);
        (words.map(|(_, tail)| tail.clone()), None)
    }

    /// The last stderr lines by slot: of its last worker that ended, then of
    /// those that run.
    fn tails(&self, only: Option<u32>) -> Tails {
        let ended = self.state.last_words.iter();
        let ended = ended.map(|(slot, (_, tail))| (*slot, tail));
        let running = self.state.processes.values();
        let running = running.map(|process| (process.slot, &process.tail));
        let mut slots = Tails::new();
        for (slot, tail) in ended.chain(running) {
            if only.is_none_or(|only| only == slot.0) {
                let lines = slots.entry(slot.0.to_string()).or_default();
                lines.extend(tail.lines());
            }
        }
        slots
    }

    /// Waits until the last words of all workers are passed on, and leaves those
    /// of the last one to the kubelet.
    pub(crate) async fn farewell(&self, code: i32) {
        for (_, tail) in self.state.last_words.values() {
            tail.settled().await;
        }
        self.logs.flushed().await;
        self.last_words_to_kubelet(code);
    }

    /// Kubernetes shows the termination log of a failed container; elsewhere
    /// the file does not exist and is not made.
    fn last_words_to_kubelet(&self, code: i32) {
        const TERMINATION_LOG: &str = "/dev/termination-log";
        if code == 0 || !std::path::Path::new(TERMINATION_LOG).exists() {
            return;
        }
        let words = self.state.last_words.values();
        let last = words.max_by_key(|(worker, _)| worker.0);
        let lines = last.map(|(_, tail)| tail.lines()).unwrap_or_default();
        if let Err(error) = std::fs::write(TERMINATION_LOG, lines.join("\n")) {
            tracing::debug!(%error, "cannot write the termination log");
        }
    }
}

fn slot_state(state: SlotState) -> wire::SlotState {
    match state {
        SlotState::Starting => wire::SlotState::Starting,
        SlotState::Ready => wire::SlotState::Ready,
        SlotState::Stopping => wire::SlotState::Stopping,
        SlotState::CrashLoop { .. } => wire::SlotState::CrashLoop,
    }
}
