//! A running forwarding path: its threads, and its shutdown.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scaledapp_select::{Queue, Supply};
use tokio::sync::watch;

use crate::accept::{self, Seed};
use crate::callers::Callers;
use crate::clock;
use crate::config::Config;
use crate::drain::{Arrival, Departure, Pace, Stage};
use crate::endpoint::Table;
use crate::listen::Listener;
use crate::load::Load;
use crate::metrics::Metrics;
use crate::site::Site;
use crate::suspects::Suspects;
use crate::thread::Common;

/// How often a shutdown checks for arrivals.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Threads that forward from listeners to the endpoints of a table. They run until
/// [`Proxy::drain`], even if this value is dropped.
#[derive(Debug)]
pub struct Proxy {
    stage: Arc<watch::Sender<Stage>>,
    threads: watch::Receiver<usize>,
    /// The number of threads that have accepted their last connection.
    closed: Arc<AtomicUsize>,
    count: usize,
    arrival: Arc<Arrival>,
    metrics: Metrics,
    suspects: Arc<Suspects>,
    demand: watch::Receiver<()>,
    queue: Arc<Queue>,
    holds: bool,
}

impl Proxy {
    /// Starts the threads, which serve immediately. A table sent through `table` takes
    /// effect on each thread within a moment; requests that find no endpoint wait for one.
    /// `callers` says which callers are believed about their clients, and `site` what else the
    /// owner provides.
    ///
    /// # Errors
    /// There are not enough threads or descriptors.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a receiver is a handle; the caller has no further use for it"
    )]
    pub fn start(
        config: Config,
        listeners: Vec<Listener>,
        table: watch::Receiver<Arc<Table>>,
        metrics: Metrics,
        callers: Callers,
        site: Site,
    ) -> io::Result<Self> {
        for listener in &listeners {
            listener.socket.set_nonblocking(true)?;
        }
        let (stage, stages) = watch::channel(Stage::Serving);
        let count = config.threads.max(1);
        let (ended, threads) = watch::channel(count);
        let ended = Arc::new(ended);
        let common = Common::new(config, count, &metrics);
        let mut last = listeners;
        for index in 0..count {
            // All threads accept from the same sockets, so an idle thread takes the
            // connections that a busy one does not accept.
            let listeners = if index + 1 < count {
                last.iter()
                    .map(Listener::try_clone)
                    .collect::<Result<_, _>>()?
            } else {
                std::mem::take(&mut last)
            };
            let seed = Seed {
                common: common.clone(),
                callers: callers.clone(),
                site: site.clone(),
                listeners,
                table: table.clone(),
                stage: stages.clone(),
                counts: metrics.thread(),
                index,
            };
            let ended = Arc::clone(&ended);
            std::thread::Builder::new()
                .name(format!("proxy-{index}"))
                .spawn(move || {
                    if let Err(error) = accept::run(seed) {
                        tracing::error!(%error, "a forwarding thread could not start");
                    }
                    ended.send_modify(|left| *left -= 1);
                })?;
        }
        Ok(Self {
            stage: Arc::new(stage),
            threads,
            closed: common.closed,
            count,
            arrival: common.arrival,
            metrics,
            suspects: common.upstreams.suspects,
            demand: common.demand.subscribe(),
            queue: common.upstreams.queue,
            holds: common.config.limits.hold.is_some(),
        })
    }

    /// Begins to shut down: answers say `Connection: close`, new connections are still
    /// accepted for `min` and until none has come for `quiet`, and requests in flight
    /// continue until `deadline` (all counted from now). A second call starts anew. Must be
    /// called within a tokio runtime.
    pub fn drain(&self, quiet: Duration, min: Duration, deadline: Duration) {
        self.drain_and_linger(quiet, min, deadline, Duration::ZERO);
    }

    /// As [`Self::drain`], but nothing is cut off before `linger` has passed since the
    /// deadline.
    pub fn drain_and_linger(
        &self,
        quiet: Duration,
        min: Duration,
        deadline: Duration,
        linger: Duration,
    ) {
        let pace = Pace {
            quiet,
            min,
            deadline,
            linger,
        };
        let mut departure = Departure::new(pace, clock::now());
        let (stage, arrival) = (Arc::clone(&self.stage), Arc::clone(&self.arrival));
        arrival.set_deadline(clock::now().saturating_add(deadline.max(min)));
        let mut threads = self.threads.clone();
        tokio::spawn(async move {
            loop {
                let now = departure.stage(clock::now(), arrival.get());
                stage.send_if_modified(|stage| {
                    // A second call may allow more time, but closed connections stay
                    // closed.
                    let later = now > *stage;
                    *stage = now.max(*stage);
                    later
                });
                tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    _ = threads.wait_for(|left| *left == 0) => return,
                }
            }
        });
    }

    /// Resolves when every thread has ended, after [`Self::drain`].
    pub async fn drained(&self) {
        let mut threads = self.threads.clone();
        // An error also means that all threads have ended.
        drop(threads.wait_for(|left| *left == 0).await);
    }

    /// Resolves, after [`Self::drain`], when no client awaits an answer and none can send a
    /// request any more: only upgraded connections are left. The future resolves up to 20 ms late.
    pub async fn answered(&self) {
        let answered = async {
            loop {
                // Read in this order, so that a tunnel that ends in between is not counted
                // as an ordinary connection.
                let are_closed = self.closed.load(Ordering::SeqCst) == self.count;
                let connections = self.connections();
                if are_closed && connections <= self.metrics.tunnels() {
                    return;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            () = answered => {}
            () = self.drained() => {}
        }
    }

    /// Resolves when nothing is in flight, including upgraded connections.
    pub async fn idle(&self) {
        while self.in_flight() > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Calls `tell` with a sentence for each path that keeps ending workers, such as `GET
    /// /throw ended 3 workers in 10 s`. `tell` is called on a forwarding thread, from time
    /// to time. Only the first `tell` is kept.
    pub fn on_fatal_path(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        self.suspects.tell(Box::new(tell));
    }

    /// Says whether there are endpoints, and the capacity of those that serve, so that requests are
    /// held while there are none. Without [`crate::Limits::hold`] this changes nothing.
    pub fn set_supply(&self, supply: Supply, capacity: u32) {
        if self.holds {
            self.queue.set_supply(supply, capacity);
        }
    }

    /// How much is asked of the proxy.
    pub fn load(&self) -> Load {
        Load::of(&self.metrics)
    }

    /// Changes as soon as a request begins to wait for an endpoint while no other one waits.
    pub fn demand(&self) -> watch::Receiver<()> {
        self.demand.clone()
    }

    /// Requests at endpoints.
    pub fn in_flight(&self) -> u32 {
        self.metrics.in_flight()
    }

    /// Requests that wait for an endpoint.
    pub fn queued(&self) -> u32 {
        self.metrics.waiting()
    }

    /// Client connections.
    pub fn connections(&self) -> u32 {
        self.metrics.connections()
    }
}
