//! The last stderr lines of workers, kept after their end: for `ctl`, and for Kubernetes,
//! which shows the termination log of a failed container.

use std::collections::HashMap;
use std::path::Path;

use scaledapp_engine::{Slot, WorkerId};

use crate::logs::Tail;

/// The termination log. Kubernetes creates this file; elsewhere it does not exist and is not
/// created.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The last lines of the worker that ended last in each slot.
#[derive(Debug, Default)]
pub(crate) struct LastWords(HashMap<Slot, (WorkerId, Tail)>);

impl LastWords {
    /// Keeps the lines of a worker that has ended.
    pub(crate) fn keep(&mut self, slot: Slot, worker: WorkerId, tail: Tail) {
        self.0.insert(slot, (worker, tail));
    }

    /// All kept lines by slot.
    pub(crate) fn tails(&self) -> impl Iterator<Item = (Slot, &Tail)> {
        self.0.iter().map(|(slot, (_, tail))| (*slot, tail))
    }

    /// The lines of `worker`, if no other worker of its slot has ended since.
    pub(crate) fn of(&self, slot: Slot, worker: WorkerId) -> Option<Tail> {
        let (ended, tail) = self.0.get(&slot)?;
        (*ended == worker).then(|| tail.clone())
    }

    /// Waits until all of these lines have been read and passed on.
    pub(crate) async fn settled(&self) {
        for (_, tail) in self.0.values() {
            tail.settled().await;
        }
    }

    /// If the supervisor exits with a failure, writes to the termination log the lines of one
    /// ended worker: the one that was started last.
    pub(crate) fn leave_to_kubelet(&self, code: i32) {
        if code == 0 || !Path::new(TERMINATION_LOG).exists() {
            return;
        }
        let last = self.0.values().max_by_key(|(worker, _)| worker.0);
        let lines = last.map(|(_, tail)| tail.lines()).unwrap_or_default();
        if let Err(error) = std::fs::write(TERMINATION_LOG, lines.join("\n")) {
            tracing::debug!(%error, "cannot write the termination log");
        }
    }
}
