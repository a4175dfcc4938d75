//! The part in front of the workers: under Request dispatch the dispatchers, under
//! Connection dispatch a watch over the workers' connections.
//!
//! `scaledapp-proxy` decides which worker gets a request. The engine decides which workers
//! may get requests.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scaledapp_engine::{Generation, Slot, WorkerId};
use scaledapp_proxy::{Counters, EndedBy, Endpoint, NamedCounters, Proxy, Table};
use tokio::sync::{oneshot, watch};

use crate::connection::drain::Drains;
use crate::ends::Runs;

/// How long clients may take to read the last bytes of an ended worker.
const LINGER: Duration = Duration::from_secs(2);

type Waiting = Pin<Box<dyn Future<Output = ()>>>;

/// The part in front of the workers; see the module documentation.
pub(crate) enum Front {
    /// Requests go through the dispatchers, one for each shared port, the app's own port
    /// first.
    Request(Vec<Dispatcher>),
    /// Workers accept connections themselves.
    Connection(Accepting),
}

/// The work that is left for the supervisor when workers accept connections themselves.
pub(crate) struct Accepting {
    pub(crate) drains: Drains,
    pub(crate) quiet: Duration,
    pub(crate) deadline: Duration,
}

/// The dispatcher of one port, and the workers that it sends requests to.
pub(crate) struct Dispatcher {
    pub(crate) port: u16,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) table: watch::Sender<Arc<Table>>,
    /// The counters by slot; they outlive the processes in the slot.
    pub(crate) counters: NamedCounters,
    pub(crate) quiet: Duration,
    pub(crate) deadline: Duration,
    /// How long workers may take to end after the drain.
    pub(crate) grace: Duration,
    /// Every worker that has got an endpoint and is not reaped, including drained ones.
    pub(crate) endpoints: BTreeMap<WorkerId, Fed>,
}

/// A worker that is about to drain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving {
    pub(crate) worker: WorkerId,
    /// Its process group.
    pub(crate) group: u32,
    pub(crate) generation: Generation,
}

/// The address at which a worker takes requests.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) slot: Slot,
    pub(crate) process: Runs,
    /// The shared port.
    pub(crate) port: u16,
    /// The worker's own address for the shared port.
    pub(crate) address: SocketAddr,
}

/// The endpoints of a worker for one port.
#[derive(Default)]
pub(crate) struct Fed {
    /// The endpoint in use comes last, after those that still have requests in flight.
    endpoints: Vec<Arc<Endpoint>>,
    closed: bool,
    /// The slot's counters, and their value when this worker began.
    counters: Option<(Arc<Counters>, u64)>,
}

impl Fed {
    /// Makes `address` the worker's endpoint. Returns whether anything has changed.
    fn feed(&mut self, address: SocketAddr, counters: &Arc<Counters>, process: Runs) -> bool {
        let known = self.endpoints.last();
        let is_known = |known: &Arc<Endpoint>| known.address() == address && !known.is_closed();
        if self.closed || known.is_some_and(is_known) {
            return false;
        }
        self.counters
            .get_or_insert_with(|| (Arc::clone(counters), answers(counters)));
        for endpoint in &self.endpoints {
            endpoint.close();
        }
        self.endpoints.retain(|endpoint| endpoint.in_flight() > 0);
        self.endpoints.push(Endpoint::of_process(
            counters.name(),
            address,
            counters,
            Box::new(process),
        ));
        true
    }

    /// The number of requests that the worker has answered. While two workers of a slot answer,
    /// each counts the requests of both, so the number is slightly too high for a worker that has
    /// just started.
    fn served(&self) -> u64 {
        let (counters, before) = match &self.counters {
            Some((counters, before)) => (counters, *before),
            None => return 0,
        };
        answers(counters).saturating_sub(before)
    }

    fn ended(&self, by: EndedBy) {
        for endpoint in &self.endpoints {
            endpoint.ended(by);
        }
    }

    fn retire(&self) {
        for endpoint in &self.endpoints {
            endpoint.close();
            endpoint.retire();
        }
    }
}

/// The number of answers of all kinds.
fn answers(counters: &Counters) -> u64 {
    (1..=5).map(|hundreds| counters.answers(hundreds)).sum()
}

impl Front {
    /// Sends requests for a port to a worker from now on. A repeated call changes nothing,
    /// unless the worker listens at another address now.
    pub(crate) fn feed(&mut self, worker: WorkerId, to: Feed) {
        let Feed {
            slot,
            process,
            port,
            address,
        } = to;
        let Self::Request(dispatchers) = self else {
            return;
        };
        if let Some(dispatcher) = dispatchers.iter_mut().find(|one| one.port == port) {
            let fed = dispatcher.endpoints.entry(worker).or_default();
            let counters = dispatcher.counters.of(&slot.to_string());
            if fed.feed(address, &counters, process) {
                dispatcher.publish();
            }
        }
    }

    /// Sends no new request to a worker; resolves when it has no request in flight.
    /// Upgraded connections are not waited for: the stop signal asks the app to close
    /// them, and they stay open until it does.
    pub(crate) fn stop_feeding(&mut self, leaving: Leaving) -> Waiting {
        match self {
            Self::Request(dispatchers) => {
                let idle: Vec<Waiting> = dispatchers
                    .iter_mut()
                    .map(|dispatcher| dispatcher.stop_feeding(leaving.worker))
                    .collect();
                all(idle)
            }
            Self::Connection(accepting) => {
                let (tell, told) = oneshot::channel();
                let tell = move || {
                    // The receiver is dropped if the worker was reaped.
                    let _reaped = tell.send(());
                };
                let drains = &accepting.drains;
                drains.add(leaving.group, leaving.generation, tell);
                Box::pin(async move {
                    // If the worker was forgotten before it was idle, this never resolves: the end
                    // of the worker is reported instead.
                    if told.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            }
        }
    }

    /// Stops watching a worker that is about to be signalled. Its remaining connections,
    /// such as upgraded ones, last until it closes them or is reaped.
    pub(crate) fn let_go(&mut self, group: u32) {
        match self {
            Self::Request(_) => {}
            Self::Connection(accepting) => accepting.drains.forget(group),
        }
    }

    /// A worker has ended or is about to be stopped. Only the first call has an effect.
    pub(crate) fn ended(&self, worker: WorkerId, by: EndedBy) {
        for fed in self.fed(worker) {
            fed.ended(by);
        }
    }

    /// Forgets a worker that is reaped.
    pub(crate) fn remove(&mut self, worker: WorkerId, group: u32) {
        match self {
            Self::Request(dispatchers) => {
                for dispatcher in dispatchers {
                    if let Some(fed) = dispatcher.endpoints.remove(&worker) {
                        fed.retire();
                        dispatcher.publish();
                    }
                }
            }
            Self::Connection(accepting) => accepting.drains.forget(group),
        }
    }

    /// Ends keep-alive connections and closes the listener; resolves when no client waits for an
    /// answer, at the latest at the drain's deadline. Upgraded connections and late requests
    /// continue while the workers end. Under Connection dispatch, the result resolves when no new
    /// connection begins any more, because the workers' connections are watched one worker at a
    /// time. Returns whether the deadline was reached.
    pub(crate) fn drain(&self) -> Pin<Box<dyn Future<Output = bool>>> {
        match self {
            Self::Request(dispatchers) => {
                let drained: Vec<_> = dispatchers
                    .iter()
                    .map(|dispatcher| {
                        let proxy = Arc::clone(&dispatcher.proxy);
                        let Dispatcher {
                            quiet,
                            deadline,
                            grace,
                            ..
                        } = *dispatcher;
                        proxy.drain_and_linger(quiet, Duration::ZERO, deadline, grace + LINGER);
                        tokio::spawn(async move {
                            let answered = tokio::time::timeout(deadline, proxy.answered());
                            answered.await.is_err()
                        })
                    })
                    .collect();
                Box::pin(async move {
                    let mut is_late = false;
                    for one in drained {
                        is_late |= one.await.unwrap_or(true);
                    }
                    is_late
                })
            }
            Self::Connection(accepting) => {
                let Accepting {
                    drains,
                    quiet,
                    deadline,
                } = accepting;
                // Connections that begin within this time need the rest of the deadline to
                // end.
                let most = (*quiet * 4).min(*deadline / 2);
                let departed = drains.clone().depart(*quiet, most);
                Box::pin(async move {
                    departed.await;
                    false
                })
            }
        }
    }

    /// Resolves when all bytes that the workers wrote have been passed on to clients, at the latest
    /// after [`LINGER`]. Once the workers have ended, that usually takes only a moment.
    pub(crate) async fn settled(&self) {
        let passed_on = async {
            for proxy in self.proxies() {
                proxy.idle().await;
            }
        };
        let _late = tokio::time::timeout(LINGER, passed_on).await;
    }

    /// The number of requests that a worker has answered; 0 if it accepts connections itself.
    pub(crate) fn served(&self, worker: WorkerId) -> u64 {
        self.fed(worker).map(Fed::served).sum()
    }

    /// For how long a worker with requests has not sent a byte.
    pub(crate) fn silent(&self, worker: WorkerId) -> Option<Duration> {
        let now = Instant::now();
        let endpoints = self.fed(worker).flat_map(|fed| &fed.endpoints);
        let silences = endpoints.filter_map(|endpoint| endpoint.silent_for(now));
        // A worker that answers on any of its ports makes progress.
        silences.min()
    }

    /// The proxies, which count requests; empty in Connection dispatch.
    pub(crate) fn proxies(&self) -> Vec<Arc<Proxy>> {
        match self {
            Self::Request(dispatchers) => {
                let proxies = dispatchers.iter().map(|one| Arc::clone(&one.proxy));
                proxies.collect()
            }
            Self::Connection(_) => Vec::new(),
        }
    }

    /// The worker's endpoints, which count its requests in flight.
    pub(crate) fn endpoints(&self, worker: WorkerId) -> Vec<Arc<Endpoint>> {
        let fed = self.fed(worker);
        fed.filter_map(|fed| fed.endpoints.last().cloned())
            .collect()
    }

    fn fed(&self, worker: WorkerId) -> impl Iterator<Item = &Fed> {
        let dispatchers = match self {
            Self::Request(dispatchers) => dispatchers.as_slice(),
            Self::Connection(_) => &[],
        };
        dispatchers
            .iter()
            .filter_map(move |dispatcher| dispatcher.endpoints.get(&worker))
    }
}

/// Resolves when all futures in `waiting` have resolved.
fn all(waiting: Vec<Waiting>) -> Waiting {
    Box::pin(async move {
        for one in waiting {
            one.await;
        }
    })
}

impl Dispatcher {
    fn stop_feeding(&mut self, worker: WorkerId) -> Waiting {
        let Some(fed) = self.endpoints.get_mut(&worker) else {
            return Box::pin(std::future::ready(()));
        };
        for endpoint in &fed.endpoints {
            endpoint.close();
        }
        fed.closed = true;
        let endpoints = fed.endpoints.clone();
        self.publish();
        Box::pin(async move {
            for endpoint in endpoints {
                endpoint.idle().await;
            }
        })
    }

    fn publish(&self) {
        let open = self.endpoints.values().filter(|fed| !fed.closed);
        let endpoints = open.filter_map(|fed| fed.endpoints.last().cloned());
        let endpoints = endpoints.filter(|one| !one.is_closed()).collect();
        self.table.send_replace(Arc::new(Table { endpoints }));
    }
}
