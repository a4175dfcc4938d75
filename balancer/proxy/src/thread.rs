//! What the connections of one forwarding thread share.
//!
//! Each part makes its own decisions, and a file uses only the parts that it needs. Threads
//! share what is in [`Common`], and the endpoints of the table.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use scaledapp_http1::{Fields, Trust};
use scaledapp_select::{Budget, Queue};

use crate::activity::Activity;
use crate::buffer::Buffers;
use crate::callers::{Callers, KnownCallers};
use crate::clock::{self, Clock};
use crate::complaints::Complaints;
use crate::config::Config;
use crate::connection_limit::ConnectionLimit;
use crate::drain::Arrival;
use crate::endpoint::Table;
use crate::memory::{Memory, MemoryShare};
use crate::metrics::{Counts, Metrics};
use crate::occupancy::Occupancy;
use crate::pool::Pool;
use crate::suspects::Suspects;
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
    connection_limit: Arc<ConnectionLimit>,
    memory: Arc<Memory>,
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
                queue: Arc::new(Queue::new(limits.in_flight, limits.waiting as usize)),
                suspects: Arc::new(Suspects::new(metrics.fatal.clone())),
                witness: Arc::new(Witness::default()),
            },
            connection_limit: Arc::new(ConnectionLimit::new(limits.connections, of_address)),
            memory: Arc::new(memory),
            config,
        }
    }
}

/// The state of one forwarding thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    pub(crate) clock: Rc<Clock>,
    pub(crate) buffers: Buffers,
    /// Memory for the fields of the head that is being read.
    pub(crate) fields: RefCell<Fields>,
    pub(crate) random: RefCell<fastrand::Rng>,
    pub(crate) callers: KnownCallers,
    pub(crate) upstreams: Upstreams,
    pub(crate) activity: Activity,
    pub(crate) occupancy: Occupancy,
    pub(crate) memory: MemoryShare,
    pub(crate) complaints: Complaints,
    pub(crate) turns: Turns,
}

impl Thread {
    /// The thread number `index`, from 0.
    pub(crate) fn new(
        common: Common,
        callers: &mut Callers,
        counts: Arc<Counts>,
        table: Arc<Table>,
        index: usize,
    ) -> Self {
        let config = common.config.with_room_for_added();
        let clock = Rc::<Clock>::default();
        clock.tick(clock::now(), false);
        let limits = &config.limits;
        Self {
            callers: KnownCallers::new(callers, &config),
            upstreams: Upstreams::new(
                Rc::clone(&clock),
                (config.algorithm, config.slow_start),
                table,
                Pool::new(limits.upstream_idle),
                Budget::new(limits.retry_percent),
                common.upstreams,
            ),
            activity: Activity::new(Rc::clone(&clock), common.arrival),
            occupancy: Occupancy::new(Rc::clone(&clock), common.connection_limit),
            memory: MemoryShare::new(common.memory, index, Arc::clone(&counts)),
            complaints: Complaints::new(Rc::clone(&clock), config),
            buffers: Buffers::default(),
            turns: Turns::default(),
            fields: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
            config,
            counts,
            clock,
        }
    }

    /// This machine has too few descriptors or ports to do `what`: idle connections end to
    /// make room for busy ones.
    pub(crate) fn is_short_of(&self, what: &str, error: &io::Error) {
        self.upstreams.pool.borrow_mut().empty();
        self.clock.end_idle(IDLE_GRACE);
        self.complaints.short_of(what, error);
    }
}
