//! Tries the addresses: one TCP connection to each, every half second.
//!
//! Says what it saw; what that means is [`crate::health`]'s to decide.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// From one attempt to the next.
const PERIOD: Duration = Duration::from_millis(500);
/// For an attempt; in a cluster a connection takes a few milliseconds.
const TIMEOUT: Duration = Duration::from_millis(300);

/// One attempt's result: where, and whether the connection was accepted.
pub(crate) type Probed = (SocketAddr, bool);

/// The running probes, one task for each target.
#[derive(Debug)]
pub(crate) struct Prober {
    tasks: BTreeMap<SocketAddr, JoinHandle<()>>,
    results: mpsc::Sender<Probed>,
}

impl Prober {
    /// Probes nothing yet; results go to `results`.
    pub(crate) fn new(results: mpsc::Sender<Probed>) -> Self {
        Self {
            tasks: BTreeMap::new(),
            results,
        }
    }

    /// From now on probes exactly `targets`; a new one at once.
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
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let accepted = matches!(
            timeout(TIMEOUT, TcpStream::connect(target)).await,
            Ok(Ok(_))
        );
        if results.send((target, accepted)).await.is_err() {
            return;
        }
    }
}
