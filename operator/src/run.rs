//! The order of the operator's start: bind the admin port, find the API server, wait for
//! the definition, fill the stores, take part in the leader election, reconcile.
//!
//! The operator runs on one thread, because the API server does the slow part.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::channel::mpsc::UnboundedReceiver;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_runtime::{Admin, Routes, Signal, Signals};
use tokio::time::{sleep, timeout};

use crate::admissions::Admissions;
use crate::api::Caller;
use crate::backoff::Retries;
use crate::call::CALL_TIMEOUT;
use crate::certificates::Certificates;
use crate::cli::Settings;
use crate::context::Context;
use crate::controller;
use crate::events::Sent;
use crate::health::Health;
use crate::heartbeat;
use crate::lease::Elector;
use crate::metrics::Metrics;
use crate::node_usage::NodeUsage;
use crate::pod_events::PodEvents;
use crate::pod_health::PodsHealth;
use crate::report::Report;
use crate::scaling::{self, Decisions};
use crate::stores::{self, Guarded, Writers};
use crate::tokens::Tokens;
use crate::triggers::Triggers;
use crate::watches::Watches;

/// How often the operator checks for the definition.
const DEFINITION_INTERVAL: Duration = Duration::from_secs(2);

const INSTALL: &str = "the ScaledApp definition is not installed: `scaledapp-operator crd | kubectl apply --server-side -f -` (the chart does so); waiting for it";

/// Runs the operator until a signal stops it.
///
/// # Errors
/// The operator could not start, for example because the admin port is taken or no cluster is
/// configured.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot install the signal handlers")?;
    let admin = match settings.admin {
        Some(address) => Some(Admin::bind(address).await?),
        None => None,
    };
    let client = Client::try_default().await.context(
        "no cluster is configured: set KUBECONFIG, or run in a pod with a service account",
    )?;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::default());
    let report = Arc::new(Report::new(
        settings.identity.clone(),
        Arc::clone(&metrics),
        Arc::clone(&health),
    ));
    let address = admin
        .as_ref()
        .map_or_else(|| "none".to_owned(), |admin| admin.local_addr().to_string());
    tracing::info!(admin = address, identity = settings.identity, "started");
    if let Some(admin) = admin {
        tokio::spawn(admin.serve(Arc::clone(&report) as Arc<dyn Routes>));
    }
    let namespace = settings
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let leases = Api::namespaced(client.clone(), &namespace);
    let (mut elector, leadership) = Elector::new(leases, settings.identity.clone());
    let (stores, writers) = stores::stores();
    let (triggers, queue) = Triggers::new(stores.apps.clone());
    let context = Arc::new(Context {
        sent: Sent::new(settings.identity.clone()),
        caller: Caller {
            client,
            leadership,
            metrics,
        },
        namespace,
        stores,
        settings: settings.plan.clone(),
        ownership: settings.ownership.clone(),
        health: Arc::clone(&health),
        pods_health: Arc::default(),
        backoff: Retries::default(),
        tokens: Tokens::default(),
        node_usage: NodeUsage::default(),
        pod_events: PodEvents::default(),
        certificates: Certificates::default(),
        admissions: Admissions::default(),
        decisions: Decisions::default(),
        now: Timestamp::now,
    });
    let work = Work {
        settings: &settings,
        context,
        triggers,
        health,
        report: Arc::clone(&report),
    };
    tokio::select! {
        () = work.run(writers, queue, &mut elector) => {}
        () = stop(&mut signals) => {}
    }
    report.stops();
    tracing::info!("stopping; the Lease is released");
    tokio::select! {
        () = elector.release() => {}
        () = stop(&mut signals) => {}
    }
    tracing::info!("stopped");
    Ok(())
}

async fn stop(signals: &mut Signals) {
    while signals.next().await == Signal::Hangup {}
}

struct Work<'a> {
    settings: &'a Settings,
    context: Arc<Context>,
    triggers: Triggers,
    health: Arc<Health>,
    report: Arc<Report>,
}

impl Work<'_> {
    /// Starts the watches and reconciles. Ends only if a watch ends.
    async fn run(
        self,
        writers: Writers,
        queue: UnboundedReceiver<ObjectRef<Guarded>>,
        elector: &mut Elector,
    ) {
        let Self {
            settings,
            context,
            triggers,
            health,
            report,
        } = self;
        definition(&context.caller.client, &settings.watch_namespaces, &report).await;
        let watches = Watches {
            client: context.caller.client.clone(),
            namespaces: settings.watch_namespaces.clone(),
            triggers: triggers.clone(),
            health,
            metrics: Arc::clone(&context.caller.metrics),
        };
        watches.spawn(writers, Arc::clone(&context.pods_health));
        report.watches(Arc::clone(&context));
        if context.stores.synced().await.is_err() {
            tracing::error!("a watch ended");
            return;
        }
        tracing::info!(apps = context.stores.apps.len(), "all lists are complete");
        let pods_health: Arc<PodsHealth> = Arc::clone(&context.pods_health);
        let mut leadership = context.caller.leadership.clone();
        let listening = heartbeat::run(
            pods_health,
            context.stores.pods.clone(),
            leadership.clone(),
            triggers.clone(),
            Arc::clone(&context.caller.metrics),
        );
        let scaling = scaling::run(Arc::clone(&context), triggers.clone());
        // A replica whose lists are incomplete must not lead.
        tokio::select! {
            () = elector.run() => {}
            () = listening => {}
            () = scaling => {}
            () = controller::run(context, queue, settings.concurrency) => {}
            () = async { loop { leadership.gained().await; triggers.all(); } } => {}
        }
    }
}

/// Waits until `ScaledApp`s of at least one namespace can be listed. Listing needs no right
/// to read definitions.
async fn definition(client: &Client, namespaces: &[String], report: &Report) {
    let named = namespaces.iter();
    let named = named.map(|namespace| Api::namespaced(client.clone(), namespace));
    let mut apis: Vec<Api<ScaledApp>> = named.collect();
    if apis.is_empty() {
        apis.push(Api::all(client.clone()));
    }
    let one = ListParams::default().limit(1);
    let mut logged = BTreeSet::new();
    for api in apis.iter().cycle() {
        let listed = timeout(CALL_TIMEOUT, api.list_metadata(&one));
        let reason = match listed.await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => INSTALL.to_owned(),
            Ok(Err(kube::Error::Api(status))) => {
                format!("ScaledApps cannot be listed: {}", status.message)
            }
            Ok(Err(error)) => format!("the API server cannot be reached: {error}"),
            Err(_elapsed) => format!("the API server did not answer within {CALL_TIMEOUT:?}"),
        };
        report.waits(reason.clone());
        if !logged.contains(&reason) {
            tracing::warn!("{reason}");
            logged.insert(reason);
        }
        sleep(DEFINITION_INTERVAL / apis.len() as u32).await;
    }
}
