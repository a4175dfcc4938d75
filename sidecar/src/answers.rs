//! What the supervisor answers to those who ask through the control socket, and
//! the last words of workers that go with it.

use std::fmt::Write;
use std::sync::Arc;

use scaledapp_engine::{Event, Failure, OperationId, Slot};
use tokio::sync::oneshot;

use crate::control::Asked;
use crate::cores::WorkerSpec;
use crate::ctl::{Reply, Request};
use crate::logs::Tail;
use crate::process::signal_group;
use crate::supervisor::Supervisor;

impl Supervisor {
    pub(crate) fn asked(&mut self, asked: Asked) -> Option<Event> {
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
            Request::Signal { number } => answer(reply, self.signal_all(number)),
            Request::Scale { workers } => match workers.resolve(self.engine.desired()) {
                Ok(workers) => {
                    self.spec = WorkerSpec::Fixed(workers);
                    let operation = Some(self.wait_for(reply));
                    return Some(Event::Scale { workers, operation });
                }
                Err(error) => answer(reply, Reply::Error(error.to_string())),
            },
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

    fn signal_all(&self, number: i32) -> Reply {
        let Some(signal) = rustix::process::Signal::from_named_raw(number) else {
            return Reply::Error(format!("there is no signal {number}"));
        };
        for process in self.state.processes.values() {
            signal_group(process.pid, signal);
        }
        Reply::Ok(serde_json::Value::Null)
    }

    fn wait_for(&mut self, reply: oneshot::Sender<Reply>) -> OperationId {
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
            drop(reply.send(Reply::Ok(serde_json::Value::Null)));
            return;
        };
        let mut text = failure.to_string();
        let (tail, elsewhere) = self.cause(&failure);
        if let Some(other) = elsewhere {
            let port = self.recipe.port;
            // Writing into a String cannot fail.
            let _infallible = write!(text, "; it listens on {other}, --port is {port}");
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

    /// The last words of the worker that caused a failure, and where it listens
    /// instead, if it lives.
    fn cause(&self, failure: &Failure) -> (Option<Tail>, Option<u16>) {
        let (Some(worker), Some(slot)) = (failure.worker(), failure.slot()) else {
            return (None, None);
        };
        if let Some(process) = self.state.processes.get(&worker) {
            return (Some(process.tail.clone()), process.listens_elsewhere);
        }
        let words = self.state.last_words.get(&slot);
        let words = words.filter(|(ended, _)| *ended == worker);
        (words.map(|(_, tail)| tail.clone()), None)
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

    /// Waits until the last words of all workers are passed on, and leaves those
    /// of the last one to the kubelet.
    pub(crate) async fn farewell(&self, code: i32) {
        for (_, tail) in self.state.last_words.values() {
            tail.settled().await;
        }
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
