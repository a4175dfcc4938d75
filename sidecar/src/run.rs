//! `run`: starts the parts of the supervisor, and the workers last.
//!
//! The order is: signal handlers, admin port, public port, hand-over self-test, watchdog,
//! workers. No process of the app starts before every part of the supervisor works.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use rustix::process::Rlimit;
use scaledapp_engine::{Backoff, Config, Dispatch, Engine};
use scaledapp_runtime::Admin;
use scaledapp_sys::spawn::Number;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::{DispatchArg, MechanismArg, MetricsFrom, MetricsMergeArg};
use crate::connection::load;
use crate::cores::{Cores, Quotas};
use crate::count::Count;
use crate::ctl::answers::Operations;
use crate::ctl::server;
use crate::desired::{self, Desired};
use crate::directory::Directory;
use crate::ends::OutOfMemory;
use crate::front;
use crate::handover::selftest;
use crate::handover::sharing::Sharing;
use crate::hints::heap_is_sized;
use crate::input::{Input, Mechanism, forward};
use crate::limits::Watch;
use crate::limits::measure::{self, Measuring, Starving};
use crate::limits::memory::Limiting;
use crate::logs::Logs;
use crate::process::{self, Recipe, raise_open_files, reap_all};
use crate::range::{self, Rules};
use crate::report::Report;
use crate::scaling::Scaling;
use crate::scrape::Scraper;
use crate::service_manager::ServiceManager;
use crate::settings::Settings;
use crate::signals;
use crate::supervisor::Supervisor;
use crate::watchdog::Watchdog;
use crate::workers::{Living, Workers};

/// The shortest interval between two load reports to balancers (20 reports a second).
const LOAD_INTERVAL: Duration = Duration::from_millis(50);
/// The longest interval between two checks of an unchanged load, so that an idle supervisor sleeps.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the supervisor until all workers have ended, and returns the exit code.
///
/// # Errors
/// The supervisor itself could not start (exit code 2).
pub fn run(settings: Settings) -> anyhow::Result<i32> {
    // The descriptor number of the workers' channel is reserved before any other descriptor is
    // opened, so that it is low.
    let channel = settings.opens_channel().then(Number::reserve);
    let channel = channel.transpose().context("cannot open /dev/null")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, start(settings, channel))
}

async fn start(settings: Settings, channel: Option<Number>) -> anyhow::Result<i32> {
    let started = Instant::now();
    let (inputs, received) = mpsc::unbounded_channel();
    let ignores_hangup = scaledapp_sys::signals::ignores_hangup();
    // The handlers are installed first: for PID 1, the kernel drops signals without a handler.
    signals::watch(settings.stop_signal, &inputs)?;
    process::check_proc()?;
    let quotas = Quotas::find(Path::new("/"));
    let cores = Cores::within(&quotas);
    let bounds = settings.workers.bounds(cores);
    let wanted = bounds.context("check --workers")?.min;
    let open_files = raise_open_files();
    adopt_orphans()?;
    let admin = match settings.admin.0 {
        None => None,
        Some(address) => {
            let control = server::bind(address)?;
            Some((Admin::bind(address).await?, control))
        }
    };
    let (public, sharing) = front::listen(&settings)?;
    let sharing = Rc::new(RefCell::new(sharing));
    let mechanism = choose_mechanism(&settings)?;
    let mut registry = Registry::default();
    let front = front::open(&settings, cores, public, &sharing, &mut registry)?;
    let dispatch = settings.dispatch_shown();
    let report = Report::new(mechanism.shown(), dispatch, front.proxies(), registry);
    report.note_fatal_paths();
    let logs = watch_workers(&settings, &report)?;
    watch_outside(&settings, &inputs, &report, &sharing)?;
    if let Some((admin, control)) = admin {
        tokio::spawn(admin.serve(Arc::clone(&report) as Arc<dyn scaledapp_runtime::Routes>));
        take_orders(control, inputs.clone());
    }
    let ports = settings.given_ports().into();
    let watch = Watch::new(settings.limits, jitter_seed());
    let memory = Limiting::find(Path::new("/"));
    look_often(&inputs, watch.limits_memory() || memory.read().is_some());
    log_start(&settings, mechanism);
    let engine = Engine::new(engine_config(&settings), wanted);
    let workers = Workers {
        recipe: recipe(&settings, channel, open_files, ignores_hangup),
        ports,
        mechanism,
        wanted: settings.wanted,
        stop_signal: settings.stop_signal,
        shutdown_message: settings.shutdown_message,
        front,
        sharing,
        logs,
        watchdog: Watchdog::start().context("cannot start the watchdog process")?,
        inputs: inputs.clone(),
        living: Living::default(),
    };
    let supervisor = Supervisor {
        engine,
        workers,
        count: Count::new(settings.workers, cores, range::refusal(dispatch)),
        scaling: scaling_of(settings.scaling, settings.max_in_flight),
        measuring: Measuring {
            watch,
            quotas,
            memory,
            out_of_memory: OutOfMemory::watch(Path::new("/")),
            starving: Starving::default(),
        },
        operations: Operations::default(),
        report,
        service_manager: ServiceManager::find(),
        inputs,
        started,
        stopping: false,
        missed: None,
    };
    Ok(supervisor.run(received).await)
}

fn log_start(settings: &Settings, mechanism: Mechanism) {
    tracing::info!(
        workers = %settings.workers,
        mechanism = mechanism.shown().as_str(),
        dispatch = settings.dispatch_shown().as_str(),
        port = settings.port,
        "starting"
    );
}

/// Makes this process the parent of workers' orphans, which would otherwise go to an init
/// process that does not know them. PID 1 gets them anyway.
fn adopt_orphans() -> anyhow::Result<()> {
    if std::process::id() != 1 {
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .context("cannot become a subreaper")?;
    }
    Ok(())
}

fn scaling_of(rules: Rules, max_in_flight: Option<NonZeroU32>) -> Scaling {
    Scaling::new(rules, max_in_flight.map_or(0, NonZeroU32::get))
}

/// The settings that all workers share.
fn recipe(
    settings: &Settings,
    channel: Option<Number>,
    open_files: Rlimit,
    ignores_hangup: bool,
) -> Recipe {
    Recipe {
        command: settings.command.clone(),
        directory: Directory::find(settings.cwd.clone(), std::env::var_os("PWD")),
        port: settings.port,
        instance_env: settings.instance_env.clone(),
        increment: settings.increment.clone(),
        channel,
        open_files,
        max_memory: settings.limits.memory,
        caps_heap: !heap_is_sized(&settings.command, |name| std::env::var(name).ok()),
        ignores_hangup,
        pipe_stdout: Logs::wants_stdout(settings.logs),
    }
}

/// Starts the log relay and the collection of workers' metrics.
fn watch_workers(settings: &Settings, report: &Arc<Report>) -> anyhow::Result<Logs> {
    if let Some(from) = settings.metrics_from.clone() {
        gather_metrics(from, settings.port, settings.metrics_merge, report)?;
    }
    let logs = Logs::start(settings.logs, settings.logs_full)?;
    report.count_dropped_by(logs.dropped());
    Ok(logs)
}

/// Serves the workers' metrics at `/metrics/app`.
fn gather_metrics(
    from: MetricsFrom,
    shared_port: Option<u16>,
    merge: MetricsMergeArg,
    report: &Arc<Report>,
) -> anyhow::Result<()> {
    let port = from.port.or(shared_port);
    let port = port.context("--metrics-from needs a port: give one, such as 9464/metrics")?;
    let shown = Arc::downgrade(report);
    let targets = move || {
        let report = shown.upgrade();
        report.map_or_else(Vec::new, |report| report.scrape_targets(port))
    };
    let scraper =
        Scraper::start(from, merge, targets).context("cannot collect the workers' metrics")?;
    report.gather_by(scraper);
    Ok(())
}

fn engine_config(settings: &Settings) -> Config {
    Config {
        dispatch: match settings.dispatch {
            DispatchArg::Request => Dispatch::Request,
            DispatchArg::Connection => Dispatch::Connection,
        },
        boot_timeout: settings.boot_timeout,
        drain_timeout: settings.drain_timeout,
        stop_grace: settings.stop_grace,
        backoff: Backoff::default(),
        jitter_seed: jitter_seed(),
    }
}

/// Seeds the jitter, because two supervisors that start together must not retry together.
fn jitter_seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed();
    u64::from(std::process::id()) ^ now.map_or(0, |time| u64::from(time.subsec_nanos()))
}

/// Requests measurements of workers regularly, and more often if memory is limited.
fn look_often(inputs: &mpsc::UnboundedSender<Input>, closely: bool) {
    let period = if closely {
        measure::CLOSE_LOOK_INTERVAL
    } else {
        measure::RELAXED_LOOK_INTERVAL
    };
    forward(inputs.clone(), async move || {
        tokio::time::sleep(period).await;
        Some(Input::Look)
    });
}

fn choose_mechanism(settings: &Settings) -> anyhow::Result<Mechanism> {
    if settings.mechanism == MechanismArg::Port {
        return Ok(Mechanism::Port);
    }
    // A port from which only metrics are collected is handed over as well.
    let Some(port) = settings.given_ports().first().copied() else {
        return Ok(Mechanism::Nothing);
    };
    let Err(reason) = selftest::hand_over_works(port) else {
        return Ok(Mechanism::Notify);
    };
    if settings.port.is_none() {
        bail!(
            "--metrics-from with --port none needs sockets to be handed over, which this machine \
             refuses ({reason}): leave --metrics-from out"
        );
    }
    match (settings.mechanism, settings.dispatch) {
        (MechanismArg::Auto, DispatchArg::Request) => {
            if !settings.share.is_empty() {
                bail!(
                    "--share needs sockets to be handed over, which this machine refuses ({reason}): \
                     have the app listen on one port"
                );
            }
            tracing::warn!(
                reason,
                "sockets cannot be handed over: each worker gets a private port in PORT and must listen on it"
            );
            Ok(Mechanism::Port)
        }
        (_, DispatchArg::Connection) => bail!(
            "connection dispatch needs sockets to be handed over, which this machine refuses ({reason}): use --dispatch request"
        ),
        _ => bail!("--mechanism notify does not work here ({reason}): use --mechanism auto"),
    }
}

/// Tells the supervisor's loop which children have ended, how the desired-state file changes, and
/// how many connections there are. It also publishes the load.
fn watch_outside(
    settings: &Settings,
    inputs: &mpsc::UnboundedSender<Input>,
    report: &Arc<Report>,
    sharing: &Rc<RefCell<Sharing>>,
) -> anyhow::Result<()> {
    let mut children = signal(SignalKind::child())?;
    let reaped = inputs.clone();
    tokio::task::spawn_local(async move {
        while children.recv().await.is_some() {
            for child in reap_all() {
                drop(reaped.send(Input::Reaped(child)));
            }
        }
    });
    if let Some(path) = &settings.desired_file {
        watch_desired(
            Desired::new(path.clone()),
            inputs.clone(),
            Arc::clone(report),
        );
    }
    let shown = Arc::clone(report);
    tokio::task::spawn_local(async move {
        let mut period = LOAD_INTERVAL;
        loop {
            tokio::time::sleep(period).await;
            period = if shown.publish() {
                LOAD_INTERVAL
            } else {
                (period + LOAD_INTERVAL).min(IDLE_INTERVAL)
            };
        }
    });
    if settings.dispatch == DispatchArg::Connection {
        load::watch(
            settings.ports(),
            inputs.clone(),
            Arc::clone(report),
            Rc::clone(sharing),
        );
    }
    Ok(())
}

/// Forwards the requests of `ctl`.
fn take_orders(control: UnixListener, inputs: mpsc::UnboundedSender<Input>) {
    let (asked, mut requests) = mpsc::unbounded_channel();
    tokio::task::spawn_local(server::serve(control, asked));
    forward(inputs, async move || {
        requests.recv().await.map(Input::Control)
    });
}

fn watch_desired(mut desired: Desired, inputs: mpsc::UnboundedSender<Input>, report: Arc<Report>) {
    tokio::task::spawn_local(async move {
        loop {
            match desired.look() {
                Ok(change) => {
                    if let Some(spec) = change.workers {
                        drop(inputs.send(Input::Workers(spec)));
                    }
                    if let Some(token) = change.had {
                        report.reloaded(token);
                    }
                    if let Some(token) = change.reload {
                        drop(inputs.send(Input::ReloadTo(token)));
                    }
                }
                Err(reason) => tracing::warn!(reason, "the desired-state file is ignored"),
            }
            tokio::time::sleep(desired::READ_INTERVAL).await;
        }
    });
}
