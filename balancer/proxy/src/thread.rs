//! What the connections of one forwarding thread share.
//!
//! Each part makes its own decisions, and a file uses only the parts that it needs. Threads
//! share what is in [`Common`], and the endpoints of the table.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use scaledapp_http1::{self as http1, Fields, Trust};
use scaledapp_select::{Budget, Queue};
use tokio::sync::watch;

use crate::access::Access;
use crate::activity::Activity;
use crate::buffer::Buffers;
use crate::callers::{Callers, KnownCallers};
use crate::clock::{self, Clock};
use crate::complaints::Complaints;
use crate::config::{Config, Limits, UpstreamProtocol};
use crate::connection_limit::ConnectionLimit;
use crate::drain::Arrival;
use crate::endpoint::Table;
use crate::memory::{Memory, MemoryShare};
use crate::metrics::{Counts, Metrics, count};
use crate::occupancy::Occupancy;
use crate::pages::Pages;
use crate::pipes::Pipes;
use crate::pool::Pool;
use crate::rate::Rates;
use crate::site::Site;
use crate::suspects::Suspects;
use crate::transport::Transport;
use crate::turns::Turns;
use crate::unread::Witness;
use crate::upstreams::{SharedUpstreams, Upstreams};

/// A connection that has been idle for less than this is spared if possible: its client may
/// be about to send its next request.
pub(crate) const IDLE_GRACE: Duration = Duration::from_secs(1);

/// What all threads of a proxy share.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) arrival: Arc<Arrival>,
    /// The number of threads that have accepted their last connection.
    pub(crate) closed: Arc<AtomicUsize>,
    pub(crate) upstreams: SharedUpstreams,
    /// Changes when a request begins to wait while no other one waits.
    pub(crate) demand: Arc<watch::Sender<()>>,
    /// Bytes that held requests keep.
    held_bytes: Arc<AtomicU64>,
    connection_limit: Arc<ConnectionLimit>,
    memory: Arc<Memory>,
    rates: Option<Arc<Rates>>,
}

impl Common {
    /// Shared state for `threads` threads. If memory or descriptors do not suffice, fewer
    /// connections than `config` says are allowed, unless `config` forbids that.
    pub(crate) fn new(mut config: Config, threads: usize, metrics: &Metrics) -> Self {
        let memory = Memory::new(
            config.memory,
            config.memory_percent,
            config.owns_container,
            threads,
        );
        if config.fits_connections {
            let most = config.limits.connections;
            config.limits.connections = memory.connections(most);
            if config.limits.connections < most {
                tracing::info!(
                    "client connections are limited to {}, because memory and open files do not suffice for more",
                    config.limits.connections
                );
            }
        }
        let limits = &config.limits;
        // Behind a ScaledApp balancer, all connections come from the balancer.
        let of_address = limits.connections_per_address;
        let of_address = of_address.filter(|_| config.trust == Trust::Edge);
        Self {
            arrival: Arc::default(),
            closed: Arc::default(),
            upstreams: SharedUpstreams {
                sessions: Arc::default(),
                queue: Arc::new(queue(limits)),
                suspects: Arc::new(Suspects::new(metrics.fatal.clone())),
                witness: Arc::new(Witness::default()),
            },
            demand: Arc::new(watch::Sender::new(())),
            held_bytes: Arc::default(),
            connection_limit: Arc::new(ConnectionLimit::new(limits.connections, of_address)),
            memory: Arc::new(memory),
            rates: limits.request_rate.map(|rate| Arc::new(Rates::new(rate))),
            config,
        }
    }
}

/// The queue of requests that wait for an endpoint.
fn queue(limits: &Limits) -> Queue {
    let most = limits.hold.map_or(limits.waiting, |hold| hold.requests);
    Queue::new(limits.in_flight, limits.waiting as usize).holding(most as usize)
}

/// The state of one forwarding thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    pub(crate) clock: Rc<Clock>,
    pub(crate) buffers: Buffers,
    pub(crate) pipes: Pipes,
    /// Memory for the fields of the head that is being read.
    pub(crate) fields: RefCell<Fields>,
    pub(crate) random: RefCell<fastrand::Rng>,
    pub(crate) callers: KnownCallers,
    pub(crate) upstreams: Upstreams,
    /// See [`Common::demand`].
    pub(crate) demand: Arc<watch::Sender<()>>,
    /// Bytes that held requests of all threads keep.
    pub(crate) held_bytes: Arc<AtomicU64>,
    pub(crate) activity: Activity,
    pub(crate) occupancy: Occupancy,
    pub(crate) memory: MemoryShare,
    pub(crate) complaints: Complaints,
    pub(crate) turns: Turns,
    /// `None`: the requests of an address are not limited.
    pub(crate) rates: Option<Arc<Rates>>,
    /// Whether a request can exceed a limit before an endpoint is chosen.
    pub(crate) limits_requests: bool,
    /// Pages for the proxy's own answers; `None`: it sends a word as text.
    pub(crate) pages: Option<watch::Receiver<Arc<Pages>>>,
    /// `None`: no request is logged.
    pub(crate) access: Option<Rc<Access>>,
}

impl Thread {
    /// The thread number `index`, from 0.
    pub(crate) fn new(
        common: Common,
        callers: &mut Callers,
        site: Site,
        counts: Arc<Counts>,
        table: Arc<Table>,
        index: usize,
    ) -> Self {
        let config = common.config.with_room_for_added();
        let clock = Rc::<Clock>::default();
        clock.tick(clock::now(), false);
        let limits = &config.limits;
        let access = config.access_log.zip(site.access_sink);
        Self {
            limits_requests: common.rates.is_some() || limits.body_bytes.is_some(),
            rates: common.rates,
            pages: site.pages,
            access: access.map(|(settings, sink)| Rc::new(Access::new(settings, sink))),
            callers: KnownCallers::new(callers, &config),
            upstreams: Upstreams::new(
                Rc::clone(&clock),
                (config.algorithm, config.slow_start),
                table,
                Pool::new(limits.upstream_idle),
                Budget::new(limits.retry_percent),
                common.upstreams,
            ),
            demand: common.demand,
            held_bytes: common.held_bytes,
            activity: Activity::new(Rc::clone(&clock), common.arrival),
            occupancy: Occupancy::new(Rc::clone(&clock), common.connection_limit),
            memory: MemoryShare::new(common.memory, index, Arc::clone(&counts)),
            complaints: Complaints::new(Rc::clone(&clock), config),
            buffers: Buffers::default(),
            pipes: Pipes::default(),
            turns: Turns::default(),
            fields: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
            config,
            counts,
            clock,
        }
    }

    /// Tells the client of a new connection that there is no room for it.
    pub(crate) fn refuse(&self, transport: &Transport, peer: IpAddr, reason: &'static str) {
        // A client of another protocol would not understand the answer.
        if self.config.upstream == UpstreamProtocol::Tcp {
            transport.set_resets(true);
            return;
        }
        if let Some(access) = &self.access {
            access.refused(peer, None, 503, reason);
        }
        let mut out = self.buffers.output();
        http1::write_answer(&mut out, 503, reason, Some(1), None, true, false);
        // The connection is closed immediately, whatever the client sends.
        transport.send_now(&out);
        self.buffers.put_output(out);
    }

    /// Refuses a new connection, because its address has as many as it may have.
    pub(crate) fn refuse_for_address(&self, transport: &Transport, peer: IpAddr) {
        count(&self.counts.address_full);
        self.refuse(transport, peer, "too-many-connections");
        self.complaints.address_is_full(peer);
    }

    /// This machine has too few descriptors or ports to do `what`: idle connections end to
    /// make room for busy ones.
    pub(crate) fn is_short_of(&self, what: &str, error: &io::Error) {
        self.upstreams.pool.borrow_mut().empty();
        self.clock.end_idle(IDLE_GRACE);
        self.complaints.short_of(what, error);
    }
}
