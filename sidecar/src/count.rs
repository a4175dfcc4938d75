//! The number of workers that is desired now: the latest request, on the current number of
//! cores. `range` and `cores` decide what a request means, `scaling` which number within a range
//! is right.

use std::time::{Duration, Instant};

use scaledapp_engine::Event;

use crate::cores::{Cores, Quotas, WorkerSpec};
use crate::range::{Bounds, WorkerRange};

/// The shortest time between two reads of the number of cores.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The desired number of workers, which may follow the number of cores or the load.
#[derive(Debug)]
pub(crate) struct Count {
    range: WorkerRange,
    /// What the command line or the desired-state file says.
    configured: WorkerRange,
    /// Why no range can be used here.
    refusal: Option<&'static str>,
    pub(crate) cores: Cores,
    /// When the number of cores was read last.
    read: Option<Instant>,
}

impl Count {
    /// Starts with `range`; with a `refusal`, later ranges are refused for this reason.
    pub(crate) fn new(range: WorkerRange, cores: Cores, refusal: Option<&'static str>) -> Self {
        Self {
            range,
            configured: range,
            refusal,
            cores,
            read: None,
        }
    }

    /// The ends of the range, if there is one.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        let open = Some(self.range).filter(|range| range.is_open())?;
        open.bounds(self.cores).ok()
    }

    /// Takes what the desired-state file says from now on. A request that cannot be met is logged
    /// and changes nothing. `now` is the present number of workers.
    pub(crate) fn configure(&mut self, range: WorkerRange, now: u32) -> Option<Event> {
        match self.follow(Some(range), now) {
            Ok(event) => {
                self.configured = range;
                Some(event)
            }
            Err(error) => {
                tracing::warn!(%range, error, "the number of workers stays as it is");
                None
            }
        }
    }

    /// Keeps to `range` from now on; `None` means the configured range.
    ///
    /// # Errors
    /// The range cannot be used here, or is too large; the text names the cure.
    pub(crate) fn follow(&mut self, range: Option<WorkerRange>, now: u32) -> Result<Event, String> {
        let range = range.unwrap_or(self.configured);
        if let Some(cure) = self.refusal.filter(|_| range.is_open()) {
            return Err(cure.to_owned());
        }
        let bounds = range.bounds(self.cores);
        let workers = bounds.map_err(|error| error.to_string())?.nearest(now);
        self.range = range;
        let operation = None;
        Ok(Event::Scale { workers, operation })
    }

    /// Keeps to this number from now on.
    pub(crate) fn fix(&mut self, workers: u32) {
        self.range = WorkerRange::one(WorkerSpec::Fixed(workers));
    }

    /// Reads the number of cores at most once per interval: a quota changes when a running
    /// pod is resized. A range gets its new ends; `scaling` looks at them soon.
    pub(crate) fn look_at_cores(&mut self, quotas: &Quotas, is_stopping: bool) -> Option<Event> {
        if self.read.is_some_and(|at| at.elapsed() < READ_INTERVAL) {
            return None;
        }
        self.read = Some(Instant::now());
        let before = self.range.bounds(self.cores);
        self.cores = Cores::within(quotas);
        let after = self.range.bounds(self.cores);
        if is_stopping || after == before {
            return None;
        }
        tracing::info!(cores = self.cores.usable(), "the number of cores changed");
        match after {
            Ok(_) if self.range.is_open() => None,
            Ok(Bounds { min: workers, .. }) => Some(Event::Scale {
                workers,
                operation: None,
            }),
            Err(error) => {
                let range = self.range;
                tracing::warn!(%range, %error, "the number of workers stays as it is");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn range(text: &str) -> WorkerRange {
        text.parse().unwrap()
    }

    fn count(text: &str, refusal: Option<&'static str>) -> Count {
        let cores = Cores::within(&Quotas::find(Path::new("/")));
        Count::new(range(text), cores, refusal)
    }

    fn to(workers: u32) -> Event {
        let operation = None;
        Event::Scale { workers, operation }
    }

    #[test]
    fn a_number_by_ctl_is_kept_until_a_reset_or_a_new_file() {
        let mut count = count("1..4", None);
        assert_eq!(count.bounds(), Some(Bounds { min: 1, max: 4 }));
        count.fix(7);
        assert_eq!(count.bounds(), None);
        assert_eq!(count.follow(None, 7), Ok(to(4)));
        assert_eq!(count.bounds(), Some(Bounds { min: 1, max: 4 }));
        count.fix(7);
        assert_eq!(count.configure(range("2..6"), 7), Some(to(6)));
        assert_eq!(count.follow(Some(range("3")), 6), Ok(to(3)));
        assert_eq!(count.follow(None, 3), Ok(to(3)), "within the file's range");
        assert_eq!(count.bounds(), Some(Bounds { min: 2, max: 6 }));
    }

    #[test]
    fn a_range_that_cannot_be_used_changes_nothing() {
        let mut count = count("2", Some("give a fixed number"));
        assert_eq!(count.configure(range("1..4"), 2), None);
        assert_eq!(
            count.follow(Some(range("1..4")), 2),
            Err("give a fixed number".to_owned())
        );
        assert_eq!(count.configure(range("3"), 2), Some(to(3)));
        assert_eq!(count.follow(None, 3), Ok(to(3)));
    }
}
