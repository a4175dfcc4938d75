//! How the supervisor ends: because it is stopped, or because no worker ever becomes ready.

use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Failure, Incident};
use crate::engine::{Engine, settle};
use crate::event::Exit;

/// After this many failures in every slot, without a single ready worker, the app counts as
/// broken.
pub(crate) const TRIES: u32 = 3;

/// The supervisor's exit code if no worker was ever ready although the last one exited with 0.
/// gunicorn uses the same code for a worker that cannot boot.
const BOOT_FAILED: i32 = 3;

/// The end of the supervisor, once it has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// The supervisor's exit code.
    pub(crate) code: i32,
    /// Whether the drain is skipped.
    quick: bool,
    /// Whether [`Action::Exit`] was given.
    pub(crate) exited: bool,
}

impl Engine {
    /// Stops everything. A second quick stop kills the workers immediately.
    pub(crate) fn stop(&mut self, now: Duration, quick: bool, out: &mut Vec<Action>) {
        let before = self.ending;
        if before.is_none() {
            self.begin_ending(0, quick, out);
        }
        if let Some(ending) = &mut self.ending {
            ending.quick |= quick;
        }
        for id in self.ids() {
            match (quick, before.is_some_and(|before| before.quick)) {
                (true, true) => {
                    if let Some(worker) = self.workers.get_mut(&id) {
                        worker.deadline = None;
                    }
                    out.push(Action::Kill { worker: id });
                }
                (true, false) => self.end(now, id, out),
                (false, _) => self.retire(now, id, out),
            }
        }
    }

    /// Ends if no worker was ever ready and every slot has failed [`TRIES`] times. The exit code is
    /// that of the last worker, or [`BOOT_FAILED`] instead of 0.
    pub(crate) fn give_up_if_nothing_starts(
        &mut self,
        now: Duration,
        exit: Exit,
        late: bool,
        out: &mut Vec<Action>,
    ) {
        let hopeless = self
            .records
            .iter()
            .all(|record| record.never_ready >= TRIES);
        // A reload that is running or waiting may be the cure.
        if self.ever_ready || !hopeless || self.running.is_some() || !self.pending.is_empty() {
            return;
        }
        out.push(Action::Report(Incident::NothingStarts { exit, late }));
        let code = match exit.code() {
            // An app that ends before it has served anything has failed, even with code 0.
            0 => BOOT_FAILED,
            code => code,
        };
        self.begin_ending(code, false, out);
        for id in self.ids() {
            self.end(now, id, out);
        }
    }

    /// Begins the end: from here on no worker starts, and all waiting operations fail.
    fn begin_ending(&mut self, code: i32, quick: bool, out: &mut Vec<Action>) {
        self.ending = Some(Ending {
            code,
            quick,
            exited: false,
        });
        self.settle_scale(Err(Failure::Stopping), out);
        self.drop_running(Failure::Stopping, out);
        for request in core::mem::take(&mut self.pending) {
            settle(request.operation(), Err(Failure::Stopping), out);
        }
        for record in &mut self.records {
            record.holder = None;
            record.candidate = None;
            record.retry_at = None;
        }
    }
}
