//! The number of workers that is desired now: the latest request, on the current number of
//! cores. `cores` decides what a request means.

use std::time::{Duration, Instant};

use scaledapp_engine::Event;

use crate::cores::{Cores, Quotas, WorkerSpec};

/// The shortest time between two reads of the number of cores.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The desired number of workers, which may follow the number of cores.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) spec: WorkerSpec,
    pub(crate) cores: Cores,
    /// When the number of cores was read last.
    read: Option<Instant>,
}

impl Count {
    pub(crate) fn new(spec: WorkerSpec, cores: Cores) -> Self {
        Self {
            spec,
            cores,
            read: None,
        }
    }

    /// Scales to `spec` from now on. A request that cannot be met is logged and changes
    /// nothing.
    pub(crate) fn set(&mut self, spec: WorkerSpec) -> Option<Event> {
        match spec.workers(self.cores) {
            Ok(workers) => {
                self.spec = spec;
                Some(Event::Scale {
                    workers,
                    operation: None,
                })
            }
            Err(error) => {
                tracing::warn!(%spec, %error, "the number of workers stays as it is");
                None
            }
        }
    }

    /// Reads the number of cores at most once per interval: a quota changes when a running
    /// pod is resized.
    pub(crate) fn look_at_cores(&mut self, quotas: &Quotas, is_stopping: bool) -> Option<Event> {
        if self.read.is_some_and(|at| at.elapsed() < READ_INTERVAL) {
            return None;
        }
        self.read = Some(Instant::now());
        let before = self.spec.workers(self.cores);
        self.cores = Cores::within(quotas);
        if is_stopping || self.spec.workers(self.cores) == before {
            return None;
        }
        tracing::info!(cores = self.cores.usable(), "the number of cores changed");
        self.set(self.spec)
    }
}
