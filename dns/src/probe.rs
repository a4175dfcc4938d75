//! Probes the addresses: one TCP connection to each, every half second.
//!
//! This module only reports the results; [`crate::health`] decides what they mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The time from the start of one attempt to the start of the next.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How long one attempt may take. In a cluster a connection takes a few milliseconds.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);

/// Result of one attempt: the target, and whether the connection was accepted.
pub(crate) type Probed = (SocketAddr, bool);

/// The running probes, one task for each target.
#[derive(Debug)]
pub(crate) struct Prober {
    tasks: BTreeMap<SocketAddr, JoinHandle<()>>,
    results: mpsc::Sender<Probed>,
}

impl Prober {
    /// A prober without targets. It will send results to `results`.
    pub(crate) fn new(results: mpsc::Sender<Probed>) -> Self {
        Self {
            tasks: BTreeMap::new(),
            results,
        }
    }

    /// Replaces the targets. New targets are probed immediately.
    pub(crate) fn watch(&mut self, targets: impl Iterator<Item = SocketAddr>) {
        let mut before = std::mem::take(&mut self.tasks);
        for target in targets {
            let task = before
                .remove(&target)
                .unwrap_or_else(|| tokio::spawn(probe(target, self.results.clone())));
            self.tasks.insert(target, task);
        }
        for task in before.into_values() {
            task.abort();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.watch(std::iter::empty());
    }
}

async fn probe(target: SocketAddr, results: mpsc::Sender<Probed>) {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let accepted = matches!(
            timeout(PROBE_TIMEOUT, TcpStream::connect(target)).await,
            Ok(Ok(_))
        );
        if results.send((target, accepted)).await.is_err() {
            return;
        }
    }
}
