//! The endpoints file as a source of backends: publishes the list in the file, or reports
//! what is wrong with it.
//!
//! [`PolledFile`] decides whether the file has new content, and [`super::endpoints`] what
//! the content means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use scaledapp_runtime::{Look, PolledFile};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::endpoints;
use super::listing::Sink;
use crate::metrics::Metrics;

/// How often the file is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The largest file, in bytes. The longest list with the longest names would fit into it
/// twice.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The endpoints file as a source.
#[derive(Debug)]
pub(crate) struct Feed {
    file: PolledFile,
    sink: Sink,
    metrics: Arc<Metrics>,
}

impl Feed {
    /// Reads the file once, so that a good list is in force from the start.
    pub(crate) fn new(path: PathBuf, sink: Sink, metrics: Arc<Metrics>) -> Self {
        let mut feed = Self {
            file: PolledFile::new(path, MAX_FILE_BYTES),
            sink,
            metrics,
        };
        feed.look();
        feed
    }

    /// Checks the file forever. When `again` is notified, the file is read immediately,
    /// whatever its time stamp.
    pub(crate) async fn run(mut self, again: Arc<Notify>) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = again.notified() => self.file.forget(),
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let problem = match self.file.look(SystemTime::now()) {
            Look::Same => return,
            Look::Error(error) => error.to_string(),
            Look::Content(content) => match endpoints::parse(&content.bytes) {
                Ok(backends) => {
                    tracing::info!(
                        file = %self.file.path().display(),
                        endpoints = backends.len(),
                        "endpoints file read"
                    );
                    self.metrics.loaded(true);
                    self.sink.put(backends);
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        self.metrics.loaded(false);
        let kept = if self.sink.has_list() {
            "the last good list stays"
        } else {
            "not ready until it can be used"
        };
        tracing::warn!(
            file = %self.file.path().display(),
            problem,
            "the endpoints file cannot be used; {kept}"
        );
        self.sink.fail(problem);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::discovery::Discovery;

    #[test]
    fn a_good_list_stays_in_force_when_a_bad_one_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        let discovery = Discovery::default();
        let listing = discovery.listing();
        let sink = discovery.source("endpoints.json");
        let mut feed = Feed::new(path.clone(), sink, Arc::default());
        assert!(listing.borrow().missing().unwrap().contains("No such file"));
        fs::write(&path, r#"[{"name":"a","address":"10.0.0.1:1"}]"#).unwrap();
        feed.look();
        assert_eq!(listing.borrow().missing(), None);
        assert_eq!(listing.borrow().backends().len(), 1);
        fs::write(&path, "[{]").unwrap();
        feed.look();
        assert_eq!(listing.borrow().backends().len(), 1);
        assert_eq!(listing.borrow().problems().len(), 1);
        fs::write(&path, "[]").unwrap();
        feed.look();
        assert_eq!(listing.borrow().backends(), []);
        assert_eq!(listing.borrow().problems(), [""; 0]);
    }
}
