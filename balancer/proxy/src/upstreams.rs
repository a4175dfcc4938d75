//! The endpoints as one forwarding thread sees them, and what the thread keeps for requests to
//! them: idle connections, the retry budget, the queue, suspect paths and sessions.
//!
//! The rules of `scaledapp-select` decide which endpoint is chosen; `http::exchange`
//! decides how long a request waits for one.

use std::cell::{Ref, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use scaledapp_select::{
    self as select, Algorithm, Budget, Candidate, Chooser, Cursor, Preference, Queue, Standing,
    Survey,
};

use crate::clock::Clock;
use crate::endpoint::{Endpoint, InFlight, Table};
use crate::http2::servers::Servers;
use crate::pool::Pool;
use crate::sticky::Sessions;
use crate::suspects::Suspects;
use crate::unread::Witness;

/// The endpoints, and what one thread keeps for requests to them.
#[derive(Debug)]
pub(crate) struct Upstreams {
    clock: Rc<Clock>,
    algorithm: Algorithm,
    slow_start: Duration,
    table: RefCell<Arc<Table>>,
    survey: RefCell<Survey>,
    cursor: RefCell<Cursor>,
    random: RefCell<fastrand::Rng>,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) servers: RefCell<Servers>,
    pub(crate) budget: RefCell<Budget>,
    /// Shared by all threads of the proxy, like the next three fields.
    pub(crate) queue: Arc<Queue>,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) sessions: Arc<Sessions>,
}

/// The part that all threads of a proxy share.
#[derive(Debug, Clone)]
pub(crate) struct SharedUpstreams {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) witness: Arc<Witness>,
}

impl Upstreams {
    pub(crate) fn new(
        clock: Rc<Clock>,
        (algorithm, slow_start): (Algorithm, Duration),
        table: Arc<Table>,
        pool: Pool,
        budget: Budget,
        shared: SharedUpstreams,
    ) -> Self {
        Self {
            clock,
            algorithm,
            slow_start,
            table: RefCell::new(table),
            survey: RefCell::default(),
            cursor: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
            pool: RefCell::new(pool),
            servers: RefCell::default(),
            budget: RefCell::new(budget),
            queue: shared.queue,
            suspects: shared.suspects,
            witness: shared.witness,
            sessions: shared.sessions,
        }
    }

    /// Chooses an endpoint for a request of `client`, but none of those in `tried`.
    /// Of `preferences`, the first that leads to an endpoint decides; if none does, the algorithm.
    pub(crate) fn choose(
        &self,
        client: IpAddr,
        tried: &[u64],
        preferences: &[Option<Preference>],
    ) -> Option<InFlight<'_>> {
        let table = self.table.borrow();
        let endpoints = &table.endpoints;
        let now = self.clock.now();
        let see = |at: usize| self.see(&endpoints[at], tried, now);
        for preference in preferences.iter().flatten() {
            if let Some(at) = select::preferred(*preference, endpoints.len(), see)
                && let Some(entered) = self.enter(&endpoints[at], now)
            {
                return Some(entered);
            }
        }
        let mut survey = self.survey.borrow_mut();
        if survey.is_due(now) {
            survey.renew(now, endpoints.len(), |at| {
                self.see(&endpoints[at], &[], now)
            });
        }
        let mut chooser = Chooser {
            algorithm: self.algorithm,
            survey: &survey,
            client,
            cursor: &mut self.cursor.borrow_mut(),
            random: &mut self.random.borrow_mut(),
        };
        // An endpoint may have been closed or filled since it was checked. That is rare,
        // and the next check sees it.
        loop {
            let at = chooser.choose(see)?;
            if let Some(entered) = self.enter(&endpoints[at], now) {
                return Some(entered);
            }
        }
    }

    fn see(&self, endpoint: &Endpoint, tried: &[u64], now: Duration) -> Candidate {
        let limit = self.queue.limit();
        Candidate {
            key: endpoint.key(),
            tag: endpoint.tag(),
            standing: endpoint.standing(),
            ejected: !endpoint.outlier.admits(now),
            tried: endpoint.is_closed() || tried.contains(&endpoint.id()),
            full: limit.is_some_and(|limit| endpoint.in_flight() >= limit.get()),
            load: endpoint.load(),
            heard: endpoint.heard(),
            is_local: endpoint.is_local(),
            warmth: endpoint.warmth(self.slow_start, now),
        }
    }

    fn enter(&self, endpoint: &Arc<Endpoint>, now: Duration) -> Option<InFlight<'_>> {
        let outlier = &endpoint.outlier;
        // If it is still ejected, it was chosen because all are.
        if outlier.admits(now) && !outlier.enter(now) {
            return None;
        }
        endpoint.enter(&self.queue, now)
    }

    /// Whether the endpoint with this tag still serves the clients that belong to it.
    pub(crate) fn serves(&self, tag: u64) -> bool {
        let now = self.clock.now();
        self.endpoints().iter().any(|endpoint| {
            let serves = matches!(
                endpoint.standing(),
                Standing::Serving | Standing::Suspect | Standing::Draining
            );
            endpoint.tag() == tag
                && serves
                && !endpoint.is_closed()
                && !endpoint.outlier.is_ejected(now)
        })
    }

    /// The number of endpoints that serve, as far as is known.
    pub(crate) fn ready(&self) -> usize {
        let now = self.clock.now();
        let serves = |endpoint: &&Arc<Endpoint>| {
            endpoint.standing() == Standing::Serving
                && !endpoint.is_closed()
                && endpoint.ended_by().is_none()
                && !endpoint.outlier.is_ejected(now)
        };
        self.endpoints().iter().filter(serves).count()
    }

    /// Endpoints to avoid for a request that may end workers: those in `tried`, and those
    /// that have another such request.
    pub(crate) fn apart(&self, tried: &[u64]) -> Vec<u64> {
        let endpoints = self.endpoints();
        let suspicious = endpoints.iter().filter(|endpoint| endpoint.has_suspects());
        let suspicious = suspicious.map(|endpoint| endpoint.id());
        tried.iter().copied().chain(suspicious).collect()
    }

    /// Whether the endpoint may be ejected because requests to it fail: it fails more often
    /// than the others, and enough of them are left.
    pub(crate) fn may_eject(&self, endpoint: &Endpoint, now: Duration) -> bool {
        let endpoints = self.endpoints();
        let others = || endpoints.iter().filter(|other| other.id() != endpoint.id());
        let ejected = others().filter(|other| other.outlier.is_out()).count();
        let recent = endpoint.outlier.recent(now);
        select::may_eject_one_more(ejected, endpoints.len())
            && select::stands_out(recent, others().map(|other| other.outlier.recent(now)))
    }

    fn endpoints(&self) -> Ref<'_, Vec<Arc<Endpoint>>> {
        Ref::map(self.table.borrow(), |table| &table.endpoints)
    }

    /// Replaces the table.
    pub(crate) fn set_table(&self, table: Arc<Table>) {
        *self.table.borrow_mut() = table;
        *self.survey.borrow_mut() = Survey::default();
        self.sweep();
        self.queue.changed();
    }

    /// Gives up the kept connections to an endpoint.
    pub(crate) fn forget(&self, endpoint: u64) {
        self.pool.borrow_mut().forget(endpoint);
        self.servers.borrow_mut().forget(endpoint);
    }

    /// Closes idle connections that must not be used again.
    pub(crate) fn sweep(&self) {
        let endpoints = self.endpoints();
        let is_used = |id| {
            let mut endpoints = endpoints.iter();
            endpoints.any(|endpoint| endpoint.id() == id && !endpoint.is_closed())
        };
        self.pool.borrow_mut().sweep(self.clock.now(), is_used);
        self.servers.borrow_mut().sweep(self.clock.now(), is_used);
    }
}
