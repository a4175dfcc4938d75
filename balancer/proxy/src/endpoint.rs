//! An endpoint: where requests can go, what is known of it, and how busy it is.
//!
//! The owner of the table says whether it serves ([`Standing`]) and what it
//! reports; the forwarding path counts what it has in flight there. Which
//! endpoint is chosen is decided in `select`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::outlier::Outlier;
use crate::select;

/// Whether an endpoint serves, as far as its owner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// It does.
    Serving = 0,
    /// Nobody has heard of it lately: only when nothing better is there.
    Suspect = 1,
    /// It is leaving and still answers: the last resort.
    Draining = 2,
    /// It has said that it cannot serve: never.
    Unready = 3,
}

/// What an endpoint says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How much it can do at once, relative to others (its ready workers).
    pub capacity: u32,
    /// Requests in flight there, from everywhere.
    pub in_flight: u32,
    /// Requests that wait there.
    pub queued: u32,
}

/// Where requests can go. Shared between threads; its counters are exact.
#[derive(Debug)]
pub struct Endpoint {
    id: u64,
    /// Of the address, for [`crate::Algorithm::Hash`].
    key: u64,
    name: String,
    address: SocketAddr,
    standing: AtomicU8,
    in_flight: AtomicU32,
    capacity: AtomicU32,
    /// Reported in flight and queued, beyond what we had in flight at that time.
    beyond_ours: AtomicU32,
    closed: AtomicBool,
    retired: AtomicBool,
    /// Woken when nothing is in flight at a closed endpoint, and when it retires.
    changed: Notify,
    pub(crate) outlier: Outlier,
}

/// All endpoints, as one snapshot.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// In no particular order.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Endpoint {
    /// A serving endpoint with nothing in flight.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            key: select::key(address),
            name: name.into(),
            address,
            standing: AtomicU8::new(Standing::Serving as u8),
            in_flight: AtomicU32::new(0),
            capacity: AtomicU32::new(1),
            beyond_ours: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            changed: Notify::new(),
            outlier: Outlier::default(),
        })
    }

    /// Unique in the process: an endpoint that comes back is another one.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// As given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that were sent there and are not answered.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What its owner knows of it.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Serving,
            1 => Standing::Suspect,
            2 => Standing::Draining,
            _ => Standing::Unready,
        }
    }

    /// Requests that wait for an endpoint look again when the table is sent
    /// again, or after a moment by themselves.
    pub fn set_standing(&self, standing: Standing) {
        let before = self.standing.swap(standing as u8, Ordering::Relaxed);
        if standing == Standing::Serving && before != standing as u8 {
            // It says that it is back: what was before counts no more.
            self.outlier.forgive();
        }
    }

    /// Takes what the endpoint says of its load. Until the next report our own
    /// requests are counted exactly and those of others as they were.
    pub fn report(&self, report: Report) {
        let all = report.in_flight.saturating_add(report.queued);
        let beyond = all.saturating_sub(self.in_flight());
        self.beyond_ours.store(beyond, Ordering::Relaxed);
        self.capacity
            .store(report.capacity.max(1), Ordering::Relaxed);
    }

    /// Whether it is left alone for a while because of its failures.
    pub fn is_ejected(&self) -> bool {
        self.outlier.is_ejected(crate::clock::now())
    }

    /// Requests in flight for one unit of capacity, in thousandths.
    pub(crate) fn load(&self) -> u64 {
        let all = u64::from(self.in_flight()) + u64::from(self.beyond_ours.load(Ordering::Relaxed));
        all * 1000 / u64::from(self.capacity.load(Ordering::Relaxed))
    }

    /// Takes no new request from now on. Not to be undone.
    pub fn close(&self) {
        // Ordered against `enter`: either we see its count or it sees this.
        self.closed.store(true, Ordering::SeqCst);
        if self.in_flight.load(Ordering::SeqCst) == 0 {
            self.changed.notify_waiters();
        }
    }

    /// Gives up what stays open there, such as upgraded connections.
    pub fn retire(&self) {
        self.close();
        self.retired.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Resolves when nothing is in flight; meant for after [`Self::close`].
    pub async fn idle(&self) {
        self.wait(|| self.in_flight.load(Ordering::SeqCst) == 0)
            .await;
    }

    /// Resolves when the endpoint is retired.
    pub(crate) async fn retired(&self) {
        self.wait(|| self.retired.load(Ordering::SeqCst)).await;
    }

    async fn wait(&self, done: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Counts one request in, unless the endpoint is closed.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlight> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let entered = InFlight(Arc::clone(self));
        // Dropped where it is closed: it counts itself out.
        (!self.closed.load(Ordering::SeqCst)).then_some(entered)
    }
}

/// One request in flight; counts itself out when dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.0.closed.load(Ordering::SeqCst) {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Endpoint::new("a", "127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn load_is_ours_now_and_that_of_others_as_reported() {
        let endpoint = endpoint();
        assert_eq!(endpoint.load(), 0);
        let first = endpoint.enter().unwrap();
        endpoint.report(Report {
            capacity: 2,
            in_flight: 4,
            queued: 1,
        });
        assert_eq!(endpoint.load(), 2500);
        let second = endpoint.enter().unwrap();
        assert_eq!(endpoint.load(), 3000);
        drop((first, second));
        assert_eq!(endpoint.load(), 2000, "the four of others");
        endpoint.report(Report {
            capacity: 0,
            in_flight: 0,
            queued: 0,
        });
        assert_eq!(endpoint.load(), 0);
    }

    #[test]
    fn a_closed_endpoint_takes_nothing_and_counts_right() {
        let endpoint = endpoint();
        let entered = endpoint.enter().unwrap();
        endpoint.close();
        assert!(endpoint.enter().is_none());
        assert_eq!(endpoint.in_flight(), 1);
        drop(entered);
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[tokio::test]
    async fn idle_resolves_with_the_last_request() {
        let endpoint = endpoint();
        let entered = endpoint.enter().unwrap();
        endpoint.close();
        let waiting = {
            let endpoint = Arc::clone(&endpoint);
            tokio::spawn(async move { endpoint.idle().await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(entered);
        waiting.await.unwrap();
        endpoint.retire();
        endpoint.retired().await;
    }
}
