//! The balancer from start to end: bind, learn the endpoints, forward, drain.
//!
//! One thread controls all of this. Requests are forwarded on other threads
//! (`scaledapp-proxy`), which only see the table that this thread publishes.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use scaledapp_proxy::{
    AccessSink, Callers, Config, Endpoint, Listener, Network, Proxy, Scheme, Site, Standing, Table,
    Tokens,
};
use scaledapp_runtime::{Admin, Routes, Signal, Signals, follow, run_name};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::access::{Flushing, Stdout};
use crate::discovery::cluster;
use crate::discovery::file::Feed;
use crate::discovery::{Backend, Discovery, Listing};
use crate::expiry::Expiry;
use crate::fleet::{Fleet, Place};
use crate::listener;
use crate::metrics::{self, Metrics, PREFIX};
use crate::pages;
use crate::peers::watch::Watches;
use crate::report::Report;
use crate::settings::{Drain, Settings, Tls};
use crate::tls::Loader;
use crate::vacancy::Vacancy;

/// How long the first requests wait for supervisors to report whether they serve.
/// Supervisors answer within milliseconds, and one that cannot be reached must not delay
/// the requests for long.
const FIRST_REPORT_TIMEOUT: Duration = Duration::from_millis(100);
/// How often to check whether all supervisors have answered.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long it may take until an endpoint shows that it belongs to the app. After that, it
/// is logged that none has. Within this time, the image of a first pod is pulled and the
/// pod is started.
const UNKNOWN_TIMEOUT: Duration = Duration::from_mins(2);

/// The largest token file, in bytes; it has room for the most and longest tokens.
const TOKEN_FILE_BYTES: u64 = 8 << 10;

/// Runs the balancer until a signal ends it. An error means that the balancer could not
/// start, or that all forwarding threads have ended.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(settings))
}

/// Binds the admin port, if there is one.
async fn bind_admin(settings: &Settings) -> anyhow::Result<Option<Admin>> {
    let Some(address) = settings.admin else {
        return Ok(None);
    };
    match Admin::bind(address).await {
        Ok(admin) => Ok(Some(admin)),
        // The user has not chosen this address, and requests can be served without it.
        Err(error) if !settings.admin_is_asked_for => {
            tracing::warn!(%error, "the admin port cannot be bound, so there are no probes, no metrics and no status: free the port, or give another address with --admin");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Serves the admin port from now on. Returns its address for the log.
fn open_admin(admin: Option<Admin>, report: &Arc<Report>) -> String {
    let Some(admin) = admin else {
        return "none".to_owned();
    };
    let address = admin.local_addr().to_string();
    tokio::spawn(admin.serve(Arc::clone(report) as Arc<dyn Routes>));
    address
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let signals = Signals::new().context("cannot install signal handlers")?;
    listener::raise_file_limit(
        settings.forwarding.limits.connections,
        settings.forwarding.fits_connections,
    );
    let admin = bind_admin(&settings).await?;
    let listener = listener::listen(settings.listen, "--listen")?;
    let listen = listener.local_addr()?;
    let certificates = Arc::new(Notify::new());
    let (listeners, secured) = secure(listener, settings.tls, &certificates)?;

    let metrics = Arc::new(Metrics::default());
    let discovery = Discovery::default();
    let again = Arc::new(Notify::new());
    discover(
        &discovery,
        &settings.upstreams,
        settings.endpoints_file,
        &again,
        &metrics,
    );
    if let Some(service) = settings.endpoints_service {
        let sink = discovery.source(format!("endpoints of {service}"));
        let feed = cluster::Feed::new(service, sink, Arc::clone(&metrics));
        feed.start().await?;
    }
    let mut balancer = Balancer::new(discovery, Arc::clone(&metrics), settings.place);
    balancer.take_list();
    balancer.first_reports().await;
    balancer.publish();

    let mut registry = Registry::default();
    let forwarding = Config {
        listener_is_held: listener::is_held(),
        ..settings.forwarding
    };
    let stdout = access_log(&forwarding)?;
    let _flushing = stdout.clone().map(Flushing);
    let mut callers = callers(settings.forwarded_from, settings.trust_token_file);
    callers.announced_from = settings.announced_from.into();
    let proxy = start(
        forwarding,
        callers,
        listeners,
        &balancer.table,
        &mut registry,
        site(stdout.as_ref(), settings.error_pages),
    )?;
    balancer.proxy = Some(Arc::clone(&proxy));
    balancer.tell_supply();
    metrics.register(&mut registry, balancer.table.subscribe());
    if let Some(secured) = &secured {
        secured.expiry.register(&mut registry);
    }
    metrics::register_access_log(&mut registry, stdout.as_ref());
    let report = Arc::new(report(listen, &proxy, &balancer, registry));
    let admin_address = open_admin(admin, &report);
    // The log shows the addresses, because port 0 may have been chosen.
    tracing::info!(
        address = %listen,
        https = secured.map(|it| tracing::field::display(it.address)),
        admin = admin_address,
        threads = forwarding.threads,
        socket = if forwarding.listener_is_held { "supervisor's" } else { "own" },
        "listening"
    );
    balancer
        .run(
            &proxy,
            &report,
            signals,
            settings.drain,
            &[again, certificates],
        )
        .await
}

/// What the admin port shows.
fn report(
    listen: SocketAddr,
    proxy: &Arc<Proxy>,
    balancer: &Balancer,
    registry: Registry,
) -> Report {
    Report {
        listen,
        proxy: Arc::clone(proxy),
        table: balancer.table.subscribe(),
        listing: balancer.listing.clone(),
        registry,
        draining: AtomicBool::new(false),
        run: run_name(),
    }
}

/// The queue of the access log, if requests are logged.
fn access_log(forwarding: &Config) -> anyhow::Result<Option<Arc<Stdout>>> {
    let stdout = forwarding.access_log.map(|_| Stdout::start()).transpose();
    stdout.context("cannot start the thread of the access log")
}

/// What the proxy gets besides settings and endpoints.
fn site(stdout: Option<&Arc<Stdout>>, error_pages: Option<PathBuf>) -> Site {
    Site {
        access_sink: stdout.map(|stdout| Arc::clone(stdout) as Arc<dyn AccessSink>),
        pages: error_pages.map(pages::follow),
    }
}

/// The listener for https.
struct SecuredListener {
    address: SocketAddr,
    expiry: Arc<Expiry>,
}

/// The listeners with their protocols, and that for https. From now on the
/// certificate files are watched for changes, and read again when `again` is notified.
fn secure(
    listener: TcpListener,
    tls: Option<Tls>,
    again: &Arc<Notify>,
) -> anyhow::Result<(Vec<Listener>, Option<SecuredListener>)> {
    let Some(tls) = tls else {
        return Ok((vec![listener.into()], None));
    };
    let (listen, redirect) = (tls.listen, tls.redirect);
    let (loader, certificates) = Loader::start(tls)?;
    tokio::spawn(loader.follow(Arc::clone(&certificates), Arc::clone(again)));
    let (plain, socket) = match listen {
        None => (None, listener),
        Some(address) => {
            let plain = Listener {
                socket: listener,
                scheme: redirect.map_or(Scheme::Http, |port| Scheme::Redirected { port }),
            };
            (Some(plain), listener::listen(address, "--tls-listen")?)
        }
    };
    let https = SecuredListener {
        address: socket.local_addr()?,
        expiry: Arc::clone(&certificates.expiry),
    };
    let scheme = Scheme::Https(certificates);
    let secured = Listener { socket, scheme };
    Ok((plain.into_iter().chain([secured]).collect(), Some(https)))
}

/// Which callers are believed, and which token is sent to pods. From here on the token file
/// is watched for changes.
fn callers(forwarded_from: Vec<Network>, token_file: Option<PathBuf>) -> Callers {
    let tokens = token_file.map(|path| {
        let without = "pods that require a token treat this balancer as an unknown client";
        let none = Tokens::default();
        follow(path, TOKEN_FILE_BYTES, none, without, Tokens::parse)
    });
    Callers {
        forwarded_from: forwarded_from.into(),
        tokens,
        ..Callers::default()
    }
}

/// Sets up the flags and the endpoints file as sources. When this returns, each has been
/// read once.
fn discover(
    discovery: &Discovery,
    upstreams: &[SocketAddr],
    file: Option<PathBuf>,
    again: &Arc<Notify>,
    metrics: &Arc<Metrics>,
) {
    if !upstreams.is_empty() {
        let upstreams = upstreams.iter().map(|&address| Backend::at(address));
        discovery.source("--upstream").put(upstreams.collect());
    }
    if let Some(path) = file {
        let sink = discovery.source(path.display().to_string());
        let feed = Feed::new(path, sink, Arc::clone(metrics));
        tokio::spawn(feed.run(Arc::clone(again)));
    }
}

fn start(
    config: Config,
    callers: Callers,
    listeners: Vec<Listener>,
    table: &watch::Sender<Arc<Table>>,
    registry: &mut Registry,
    site: Site,
) -> anyhow::Result<Arc<Proxy>> {
    let metrics = scaledapp_proxy::Metrics::register(registry, PREFIX);
    let proxy = Proxy::start(config, listeners, table.subscribe(), metrics, callers, site);
    let proxy = proxy.with_context(|| {
        format!(
            "cannot start {} threads: give a lower --threads",
            config.threads
        )
    })?;
    Ok(Arc::new(proxy))
}

/// What the main loop works on.
struct Balancer {
    /// Kept because the listing would end if its sender were dropped.
    _discovery: Discovery,
    listing: watch::Receiver<Listing>,
    fleet: Fleet,
    watches: Watches,
    /// Notified when a standing changes.
    changed: Arc<Notify>,
    table: watch::Sender<Arc<Table>>,
    vacancy: Vacancy,
    /// The proxy that is told about vacancies, once it runs.
    proxy: Option<Arc<Proxy>>,
    all_unknown: AllUnknown,
}

/// Since when no endpoint has shown that it belongs to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AllUnknown {
    No,
    Since(Instant),
    /// The log already says that no endpoint has shown that it belongs to the app.
    Logged,
}

impl AllUnknown {
    /// Completes when it is time to log that no endpoint has shown that it belongs to the app.
    async fn log_due(self) {
        match self {
            Self::Since(since) => sleep_until(since + UNKNOWN_TIMEOUT).await,
            Self::No | Self::Logged => std::future::pending().await,
        }
    }
}

/// Waits until `at`; forever without it.
async fn until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Balancer {
    fn new(discovery: Discovery, metrics: Arc<Metrics>, place: Place) -> Self {
        let changed = Arc::new(Notify::new());
        Self {
            listing: discovery.listing(),
            _discovery: discovery,
            fleet: Fleet::new(place),
            watches: Watches::new(Arc::clone(&changed), metrics),
            changed,
            table: watch::Sender::default(),
            vacancy: Vacancy::default(),
            proxy: None,
            all_unknown: AllUnknown::No,
        }
    }

    /// Waits briefly until all supervisors have reported whether they serve, so that the
    /// first requests do not go to pods that are about to exit.
    async fn first_reports(&self) {
        let end = Instant::now() + FIRST_REPORT_TIMEOUT;
        while !self.fleet.is_heard() && Instant::now() < end {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Runs until a signal stops the balancer.
    async fn run(
        mut self,
        proxy: &Proxy,
        report: &Report,
        mut signals: Signals,
        drain: Drain,
        again: &[Arc<Notify>],
    ) -> anyhow::Result<()> {
        let changed = Arc::clone(&self.changed);
        let drained = proxy.drained();
        tokio::pin!(drained);
        let mut draining = false;
        loop {
            tokio::select! {
                Ok(()) = self.listing.changed() => {
                    let is_first = self.table.borrow().endpoints.is_empty();
                    self.take_list();
                    if is_first {
                        self.first_reports().await;
                    }
                    self.publish();
                }
                () = changed.notified() => self.publish(),
                () = until(self.vacancy.deadline()) => self.tell_supply(),
                () = self.all_unknown.log_due() => {
                    self.all_unknown = AllUnknown::Logged;
                    tracing::warn!(
                        "no supervisor answers at any pod's admin port, so requests go to all pods alike: does a NetworkPolicy keep balancers from that port?"
                    );
                }
                signal = signals.next() => match signal {
                    Signal::Hangup => again.iter().for_each(|it| it.notify_one()),
                    Signal::Terminate | Signal::Interrupt if draining => {
                        tracing::info!("stopped immediately on the second signal");
                        return Ok(());
                    }
                    Signal::Terminate | Signal::Interrupt => {
                        draining = true;
                        report.drain();
                        proxy.drain(drain.quiet, drain.min, drain.timeout);
                        let Drain { min, timeout, .. } = drain;
                        tracing::info!(?min, ?timeout, "draining: unready, but still accepting connections");
                    }
                },
                () = &mut drained => {
                    if !draining {
                        bail!("no forwarding thread is left; the log says why");
                    }
                    tracing::info!("stopped");
                    return Ok(());
                }
            }
        }
    }

    /// Tells the proxy whether there are endpoints, so that it holds requests while there are none.
    fn tell_supply(&mut self) {
        let table = Arc::clone(&self.table.borrow());
        let standings = table.endpoints.iter().map(|endpoint| endpoint.standing());
        let supply = self.vacancy.look(Instant::now().into_std(), standings);
        if let Some(proxy) = &self.proxy {
            let serve = |endpoint: &&Arc<Endpoint>| endpoint.standing() == Standing::Serving;
            let serving = table.endpoints.iter().filter(serve);
            let capacity = serving.map(|endpoint| endpoint.capacity()).sum();
            proxy.set_supply(supply, capacity);
        }
    }

    /// Applies a new list.
    fn take_list(&mut self) {
        let backends = self.listing.borrow_and_update().backends();
        let total = backends.len();
        let change = self.fleet.reconcile(backends);
        self.watches.follow(self.fleet.targets());
        tracing::info!(
            total,
            added = change.added,
            removed = change.removed,
            "endpoints"
        );
    }

    /// Publishes the table, even if only a standing has changed, so that waiting requests
    /// search for an endpoint again.
    fn publish(&mut self) {
        self.table.send_replace(self.fleet.table());
        self.tell_supply();
        self.all_unknown = match (self.fleet.is_unknown(), self.all_unknown) {
            (true, AllUnknown::No) => AllUnknown::Since(Instant::now()),
            (true, before) => before,
            (false, AllUnknown::Logged) => {
                tracing::info!(
                    "a supervisor answers: requests go only to pods that report that they serve"
                );
                AllUnknown::No
            }
            (false, _) => AllUnknown::No,
        };
    }
}
