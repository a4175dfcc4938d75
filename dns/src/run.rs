//! The life of the server: bind, load, answer, drain.
//!
//! One thread is enough: an answer takes microseconds, and probes and polling the file take less.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use scaledapp_answers::{Name, Zone};
use scaledapp_runtime::{Admin, Content, Look, PolledFile, Signal, Signals};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::apps::Naming;
use crate::catalog::{Catalog, Change};
use crate::cli::Settings;
use crate::cluster;
use crate::metrics::Metrics;
use crate::origins::{Joined, Origin, Origins, RecordSet};
use crate::probe::{Probed, Prober};
use crate::records;
use crate::report::Report;
use crate::responder::Responder;
use crate::service;
use crate::tcp;
use crate::udp::Udp;

/// Attempts to find a port that is free for both UDP and TCP.
const PORT_TRIES: u32 = 16;
/// How often the records file is checked for a change.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Largest records file; a hundred thousand names fit.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// How many probe results may wait in the queue. A full queue delays probes.
const PROBE_QUEUE: usize = 256;

/// Logged when the `ScaledApps` cannot be read any more.
const STALE: &str = "cannot read the ScaledApps of the cluster: the names that were read last stay, and changes are not noticed until reading succeeds again; it is retried";
/// Logged when the `ScaledApps` could not be read even once.
const NEVER_READ: &str = "cannot read the ScaledApps of the cluster: until that succeeds, queries get SERVFAIL and /readyz is 503; it is retried. Is the API server reachable, and may this ServiceAccount list and watch scaledapps.scaledapp.io?";
const NO_GLUE: &str = "the zone's name servers have no address: they can only be used through a forward or stub zone, because recursors that follow a delegation need an address";

/// Runs the server until a signal ends it. An error means that the server could not start.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let signals = Signals::new().context("cannot install signal handlers")?;
    let admin = match settings.admin {
        Some(address) => Some(Admin::bind(address).await?),
        None => None,
    };
    let (udp, tcp) = bind(settings.listen).await.with_context(|| {
        format!(
            "cannot listen on {} (--listen); is another DNS server there, or does the port need CAP_NET_BIND_SERVICE?",
            settings.listen
        )
    })?;
    let listen = udp.local_addr()?;
    let apex = settings.zone.apex().clone();
    let metrics = Arc::new(Metrics::default());
    let report = Arc::new(Report::new(
        apex.to_string(),
        listen,
        Arc::clone(&metrics),
        Instant::now(),
    ));
    // Without `--scaledapps` nothing is sent, and the value never changes.
    let (cluster, cluster_state) = watch::channel(cluster::State::default());
    if settings.scaledapps {
        let naming = Naming {
            bare: settings.zone.clone(),
            ownership: settings.ownership,
        };
        let started = cluster::start(
            naming,
            settings.watch_namespaces,
            cluster,
            Arc::clone(&metrics),
        )
        .await;
        started.context("--scaledapps")?;
    }
    let service = follow_service(settings.service).await?;
    let origins = Origins {
        file: Origin::new(settings.records_file.is_some()),
        cluster: Origin::new(settings.scaledapps),
    };
    let catalog = Catalog::new(settings.zone);
    let (zone, zones) = watch::channel(Arc::new(catalog.zone()));
    let (results, probed) = mpsc::channel(PROBE_QUEUE);
    let responder = Responder::new(zones, Arc::clone(&metrics));
    tokio::spawn(udp.serve(responder.clone()));
    tokio::spawn(tcp::serve(tcp, responder));
    let admin_address = admin
        .as_ref()
        .map_or_else(|| "none".to_owned(), |admin| admin.local_addr().to_string());
    if let Some(admin) = admin {
        tokio::spawn(admin.serve(Arc::clone(&report) as Arc<dyn scaledapp_runtime::Routes>));
    }
    // The log shows which port was chosen for port 0.
    tracing::info!(address = %listen, zone = %apex, admin = admin_address, "listening");
    let server = Server {
        catalog,
        origins,
        hidden: Vec::new(),
        file: settings
            .records_file
            .map(|path| PolledFile::new(path, MAX_FILE_BYTES)),
        broken: false,
        cluster: cluster_state,
        cluster_problem: None,
        unreached: BTreeSet::new(),
        service,
        followers: settings.followers,
        service_problem: None,
        prober: Prober::new(results),
        zone,
        report,
        metrics,
    };
    server.run(probed, signals, settings.drain_min).await;
    Ok(())
}

/// Follows the state of the Service, if one is configured.
async fn follow_service(name: Option<String>) -> anyhow::Result<watch::Receiver<service::State>> {
    let Some(name) = name else {
        // Without a sender, the value never changes.
        return Ok(watch::channel(service::State::unused()).1);
    };
    let (sender, state) = watch::channel(service::State::default());
    let started = service::start(name, sender).await;
    started.context("--ns-service")?;
    Ok(state)
}

/// Binds UDP and TCP to one port.
async fn bind(address: SocketAddr) -> io::Result<(Udp, TcpListener)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let udp = Udp::bind(address).await?;
        match tcp::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            // With port 0, the port chosen for UDP may be in use for TCP. The next attempt gets
            // another port.
            Err(error)
                if address.port() == 0
                    && error.kind() == io::ErrorKind::AddrInUse
                    && tries < PORT_TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// The state of the server's loop.
struct Server {
    catalog: Catalog,
    origins: Origins,
    /// Names of ScaledApps that the records file has too, as of the last warning about them.
    hidden: Vec<String>,
    file: Option<PolledFile>,
    /// Whether the newest content of the file was refused.
    broken: bool,
    cluster: watch::Receiver<cluster::State>,
    /// Why the cluster cannot be read, as logged last.
    cluster_problem: Option<String>,
    /// Names whose balancers are out of reach, as logged last.
    unreached: BTreeSet<Name>,
    service: watch::Receiver<service::State>,
    /// Servers of the zone that have the Service's addresses.
    followers: Vec<Name>,
    /// Why the Service's addresses are not known, as logged last.
    service_problem: Option<String>,
    prober: Prober,
    zone: watch::Sender<Arc<Zone>>,
    report: Arc<Report>,
    metrics: Arc<Metrics>,
}

impl Server {
    async fn run(
        mut self,
        mut probed: mpsc::Receiver<Probed>,
        mut signals: Signals,
        drain_min: Duration,
    ) {
        self.join();
        let mut looks = interval(POLL_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = sleep(Duration::MAX);
        tokio::pin!(ended);
        let mut draining = false;
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(),
                Ok(()) = self.cluster.changed() => self.take_cluster(),
                Ok(()) = self.service.changed() => self.take_service(),
                Some((target, success)) = probed.recv() => self.probed(target, success),
                signal = signals.next() => match signal {
                    Signal::Hangup => {
                        if let Some(file) = &mut self.file {
                            file.forget();
                        }
                    }
                    Signal::Terminate | Signal::Interrupt if draining => return,
                    Signal::Terminate | Signal::Interrupt => {
                        draining = true;
                        self.report.drain();
                        tracing::info!(?drain_min, "draining: unready, but still answering");
                        ended.as_mut().reset(tokio::time::Instant::now() + drain_min);
                    }
                },
                () = &mut ended => {
                    tracing::info!("stopped");
                    return;
                }
            }
        }
    }

    /// Loads the file again if it changed.
    fn look(&mut self) {
        if let Some(file) = &mut self.file {
            match file.look(SystemTime::now()) {
                Look::Same => {}
                Look::Error(error) => self.refuse(&error.to_string()),
                Look::Content(content) => match self.load(&content) {
                    Ok(names) => {
                        self.broken = false;
                        self.metrics.loaded("ok");
                        self.join();
                        tracing::info!(path = self.path(), names, "records loaded");
                    }
                    Err(error) => self.refuse(&format!("{error:#}")),
                },
            }
        }
        let is_lost = self.cluster.borrow().problem.is_some();
        if !self.broken && !is_lost && self.catalog.is_loaded() {
            self.report.confirm(Instant::now());
        }
    }

    fn load(&mut self, content: &Content) -> anyhow::Result<usize> {
        let entries = records::parse(&content.bytes, self.zone.borrow().apex())?;
        self.catalog.check(&entries)?;
        let names = entries.len();
        // The modification time is the same after a restart and on servers that share the
        // file, and grows with each change. RFC 1982 arithmetic allows it to wrap.
        let written = content.modified.duration_since(SystemTime::UNIX_EPOCH);
        let serial = written.unwrap_or_default().as_secs() as u32;
        self.origins.file = Origin::Delivered(RecordSet { entries, serial });
        Ok(names)
    }

    /// The path of the records file, for the log.
    fn path(&self) -> String {
        let file = self.file.as_ref();
        file.map_or_else(String::new, |file| file.path().display().to_string())
    }

    fn refuse(&mut self, error: &str) {
        let path = self.path();
        self.broken = true;
        self.metrics.loaded("error");
        self.report.not_loaded(&format!("{path}: {error}"));
        let then = if self.catalog.is_loaded() {
            "the records that were loaded before stay"
        } else {
            "queries get SERVFAIL until there is a good file"
        };
        tracing::warn!(path, error, "the records file cannot be used; {then}");
    }

    /// Takes in the cluster's newest set of records, or the reason why there is none.
    fn take_cluster(&mut self) {
        let (records, problem) = {
            let state = self.cluster.borrow_and_update();
            (state.records.clone(), state.problem.clone())
        };
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.cluster_problem) {
            self.report.not_loaded(&format!("ScaledApps: {problem}"));
            if records.is_some() {
                tracing::warn!(problem, "{STALE}");
            } else {
                tracing::warn!(problem, "{NEVER_READ}");
            }
        }
        self.cluster_problem = problem;
        self.report_problems();
        let Some(records) = records else { return };
        let names = records.entries.len();
        let is_news = match &self.origins.cluster {
            Origin::Delivered(before) => before.entries != records.entries,
            Origin::Unused | Origin::Awaited => true,
        };
        self.origins.cluster = Origin::Delivered(records);
        self.join();
        if is_news {
            tracing::info!(names, "records of ScaledApps loaded");
        }
    }

    /// Takes in the Service's addresses, or the reason why there are none.
    fn take_service(&mut self) {
        let service::State {
            addresses, problem, ..
        } = self.service.borrow_and_update().clone();
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.service_problem) {
            tracing::warn!(problem, "{NO_GLUE}");
        }
        self.service_problem = problem;
        self.report_problems();
        let servers = self.catalog.name_servers().iter();
        let mut servers = servers.filter(|server| self.followers.contains(&server.name));
        if servers.any(|server| server.addresses != addresses) && !addresses.is_empty() {
            tracing::info!(
                ?addresses,
                "the name servers' addresses are those of the Service"
            );
            self.catalog.serve_at(&self.followers, &addresses);
        }
        self.join();
    }

    fn report_problems(&self) {
        let problems: Vec<&str> = [&self.cluster_problem, &self.service_problem]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        self.report.set_problem(problem);
    }

    /// Loads the records of all origins, once every origin has delivered a set and the addresses of
    /// the zone's servers are known. Recursors would cache the absence of those addresses.
    fn join(&mut self) {
        if !self.service.borrow().settled {
            return;
        }
        let Some(Joined { records, hidden }) = self.origins.join() else {
            return;
        };
        if hidden != self.hidden {
            tracing::warn!(names = ?hidden, "ScaledApps have names that the records file has too; the file's records are served");
            self.hidden = hidden;
        }
        self.catalog
            .load(records.entries, records.serial)
            .expect("invariant: each origin's names were checked");
        self.publish();
    }

    fn probed(&mut self, target: SocketAddr, success: bool) {
        if !success {
            self.metrics.probe_failed();
        }
        match self.catalog.observe(target, success) {
            Change::None => return,
            Change::Verdict(health) => {
                tracing::info!(%target, state = health.shown().as_str(), "an address changed");
            }
            Change::OutOfReach => {}
        }
        self.publish();
    }

    fn publish(&mut self) {
        for name in self.catalog.unreached().difference(&self.unreached) {
            tracing::warn!(
                %name,
                "none of the app's balancers accepts a connection from this server, although the operator reports that they serve; their addresses stay published. If a NetworkPolicy is in the way, allow TCP from the DNS server to port 8080 of the app's balancers"
            );
        }
        self.unreached.clone_from(self.catalog.unreached());
        self.prober.watch(self.catalog.targets());
        self.report.show(&self.catalog);
        self.zone.send_replace(Arc::new(self.catalog.zone()));
    }
}
