//! The supervisor's answers to requests at the control socket, and the requests that are not
//! answered yet.
//!
//! The loop and the engine decide what a request changes.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use scaledapp_engine::{Engine, Failure, OperationId, Slot, SlotState};
use scaledapp_wire::{self as wire, Description, Reply, Request, SlotDescription};
use tokio::sync::oneshot;

use super::server::{Answer, Answering};
use crate::logs::Tail;
use crate::report::Report;
use crate::workers::Workers;

/// Everything needed to answer requests that change nothing.
pub(crate) struct Looking<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) workers: &'a Workers,
    pub(crate) report: &'a Report,
    /// Time since the supervisor's start.
    pub(crate) now: Duration,
}

impl Looking<'_> {
    /// The answer to a request that changes nothing; `None` for the others.
    pub(crate) fn answer(&self, request: &Request) -> Option<Reply<Answer>> {
        Some(match request {
            Request::Status => Reply::Ok(Answer::Status(self.report.status())),
            Request::Events => Reply::Ok(Answer::Events(self.report.events())),
            Request::Logs { slot } => self.logs_of(*slot),
            Request::Describe { slot } => self.describe(*slot),
            Request::Signal { .. }
            | Request::Scale { .. }
            | Request::Workers { .. }
            | Request::Reload
            | Request::Restart { .. } => return None,
        })
    }

    /// The answer if the slot does not exist.
    pub(crate) fn no_such(&self, slot: Option<u32>) -> Option<Reply<Answer>> {
        let desired = self.engine.desired();
        let slot = Slot(slot.filter(|slot| *slot >= desired)?);
        let failure = Failure::NoSuchSlot { slot, desired };
        Some(Reply::Error(failure.to_string()))
    }

    /// The last stderr lines; those of a removed slot are kept.
    fn logs_of(&self, slot: Option<u32>) -> Reply<Answer> {
        let tails = self.workers.tails(slot);
        let is_known = slot.is_none_or(|slot| tails.contains_key(&slot.to_string()));
        let no_such = self.no_such(slot).filter(|_| !is_known);
        no_such.unwrap_or(Reply::Ok(Answer::Tails(tails)))
    }

    /// Everything known about each slot, or about the slot `only`.
    fn describe(&self, only: Option<u32>) -> Reply<Answer> {
        if let Some(no_such) = self.no_such(only) {
            return no_such;
        }
        let status = self.report.status();
        let now = self.now;
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
                stderr: self.workers.tails(Some(slot)).remove(&slot.to_string()),
                workers: workers.map(|worker| self.located(worker)).collect(),
                ..self.report.describe_slot(slot)
            }
        });
        Reply::Ok(Answer::Description(Description {
            command: self.workers.recipe.command.clone(),
            desired: status.desired,
            dispatch: status.dispatch,
            generation: status.generation,
            mechanism: status.mechanism,
            patience_seconds: Some(self.engine.patience().as_secs_f64()),
            port: self.workers.recipe.port,
            ready: status.ready,
            slots: slots.collect(),
            uptime_seconds: now.as_secs_f64(),
        }))
    }

    /// Adds the address at which the worker listens.
    fn located(&self, worker: &wire::Worker) -> wire::Worker {
        let mut processes = self.workers.processes();
        let process = processes.find(|process| process.pid == worker.pid);
        let place = process
            .zip(self.workers.recipe.port)
            .map(|(process, port)| match process.addresses.get(&port) {
                Some(address) => address.to_string(),
                None if worker.state == wire::WorkerState::Starting => "nothing yet".to_owned(),
                None => format!("the shared port {port}"),
            });
        wire::Worker {
            address: place,
            ..worker.clone()
        }
    }
}

/// Operations that have begun and are not settled yet.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    waiting: HashMap<OperationId, Answering>,
    last: u64,
}

impl Operations {
    /// Begins an operation whose caller is answered when it is settled.
    pub(crate) fn add(&mut self, reply: Answering) -> OperationId {
        self.last += 1;
        let operation = OperationId(self.last);
        self.waiting.insert(operation, reply);
        operation
    }

    /// Begins a reload without a waiting client: `/status` shows its result under its
    /// token.
    pub(crate) fn reload_by_file(&mut self, token: String, report: &Arc<Report>) -> OperationId {
        let (reply, answer) = oneshot::channel();
        let report = Arc::clone(report);
        tokio::task::spawn_local(async move {
            match answer.await {
                Ok(Reply::Ok(_)) => report.reloaded(token),
                Ok(Reply::Error(reason)) => report.reload_failed(token, &reason),
                // The supervisor has ended.
                Err(_) => {}
            }
        });
        self.add(reply)
    }

    /// Answers the caller. `cause` returns the last output and the missing readiness checks of the
    /// worker that caused a failure.
    pub(crate) fn settle(
        &mut self,
        operation: OperationId,
        result: Result<(), Failure>,
        cause: impl FnOnce(&Failure) -> (Option<Tail>, Option<String>),
    ) {
        let Some(reply) = self.waiting.remove(&operation) else {
            return;
        };
        let Err(failure) = result else {
            drop(reply.send(Reply::Ok(Answer::Done)));
            return;
        };
        let mut text = failure.to_string();
        let (tail, missing) = cause(&failure);
        if let Some(missing) = missing {
            // Writing into a String cannot fail.
            let _infallible = write!(text, "; {missing}");
        }
        // The worker's last lines may not have been read yet, and supervision must not wait
        // for them.
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
}

fn slot_state(state: SlotState) -> wire::SlotState {
    match state {
        SlotState::Starting => wire::SlotState::Starting,
        SlotState::Ready => wire::SlotState::Ready,
        SlotState::Stopping => wire::SlotState::Stopping,
        SlotState::CrashLoop { .. } => wire::SlotState::CrashLoop,
    }
}
