//! The watches: they fill the stores, and say which apps a change concerns.
//!
//! Each kind has one watch, narrowed to what is ours by label. Each change
//! leads to the name of a `ScaledApp` that is to be looked at.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{Stream, StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use scaledapp_crds::words::{MANAGER, label};
use scaledapp_plan::cluster;
use serde::de::DeserializeOwned;

use crate::context::Guarded;
use crate::heartbeat::Hearts;
use crate::hostnames::Hostnames;
use crate::metrics::Metrics;
use crate::stores::Writers;

/// Asks for passes over apps.
#[derive(Debug, Clone)]
pub struct Triggers {
    queue: mpsc::UnboundedSender<ObjectRef<Guarded>>,
    apps: Store<Guarded>,
}

impl Triggers {
    /// The queue is emptied into a set at once: that it is unbounded costs nothing.
    pub fn new(apps: Store<Guarded>) -> (Self, mpsc::UnboundedReceiver<ObjectRef<Guarded>>) {
        let (queue, asked) = mpsc::unbounded();
        (Self { queue, apps }, asked)
    }

    /// Over this one.
    pub fn app(&self, namespace: &str, name: &str) {
        self.send(ObjectRef::new(name).within(namespace));
    }

    /// Over all.
    pub fn all(&self) {
        for app in self.apps.state() {
            self.send(ObjectRef::from_obj(&*app));
        }
    }

    fn send(&self, app: ObjectRef<Guarded>) {
        // Closed only when the program ends.
        let _closed = self.queue.unbounded_send(app);
    }
}

/// How the watches do, for the admin port.
#[derive(Debug, Default)]
pub struct Health {
    watches: Mutex<HashMap<&'static str, Watch>>,
}

#[derive(Debug)]
struct Watch {
    synced: bool,
    error: Option<String>,
    last: Instant,
}

impl Health {
    fn note(&self, kind: &'static str, change: impl FnOnce(&mut Watch)) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        change(watches.entry(kind).or_insert_with(|| Watch {
            synced: false,
            error: None,
            last: Instant::now(),
        }));
    }

    /// The watch that stands in the way of the first pass.
    pub fn unsynced(&self) -> Option<String> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unsynced: Vec<_> = watches.iter().filter(|(_, watch)| !watch.synced).collect();
        unsynced.sort_by_key(|(kind, watch)| (watch.error.is_none(), **kind));
        unsynced.first().map(|(kind, watch)| match &watch.error {
            Some(error) => format!("cannot list {kind}: {error}"),
            None => format!("waiting for the first list of {kind}"),
        })
    }

    pub(crate) fn ages(&self) -> Vec<(&'static str, Duration)> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches
            .iter()
            .map(|(kind, watch)| (*kind, watch.last.elapsed()))
            .collect()
    }
}

/// What all watches share.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// `None`: all namespaces.
    pub namespace: Option<String>,
    /// Who is told.
    pub triggers: Triggers,
    /// How they do.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Watches {
    /// Begins all of them; they end with the runtime.
    pub fn spawn(self, writers: Writers, hearts: Arc<Hearts>) {
        let Writers {
            apps,
            pods,
            nodes,
            config_maps,
            service_accounts,
            roles,
            role_bindings,
            services,
            endpoint_slices,
            deployments,
            pod_disruption_budgets,
        } = writers;
        self.apps(apps);
        self.pods(pods, hearts);
        self.nodes(nodes);
        self.owned("ConfigMaps", config_maps);
        self.owned("ServiceAccounts", service_accounts);
        self.owned("Roles", roles);
        self.owned("RoleBindings", role_bindings);
        self.owned("Services", services);
        self.owned("EndpointSlices", endpoint_slices);
        self.owned("Deployments", deployments);
        self.owned("PodDisruptionBudgets", pod_disruption_budgets);
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn apps(&self, writer: Writer<Guarded>) {
        let mut hostnames = Hostnames::default();
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<Guarded>| match event {
            Event::Apply(app) => {
                triggers.send(ObjectRef::from_obj(app));
                hostnames
                    .apply(app)
                    .into_iter()
                    .for_each(|app| triggers.send(app));
            }
            Event::Delete(app) => {
                hostnames
                    .delete(app)
                    .into_iter()
                    .for_each(|app| triggers.send(app));
            }
            Event::Init => hostnames = Hostnames::default(),
            Event::InitApply(app) => drop(hostnames.apply(app)),
            Event::InitDone => triggers.all(),
        };
        let events = watcher(self.api(), watcher::Config::default());
        self.follow("ScaledApps", events, writer, changed);
    }

    fn pods(&self, writer: Writer<Pod>, hearts: Arc<Hearts>) {
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<Pod>| {
            instance(event, &triggers);
            hearts.pods_changed.notify_one();
        };
        self.follow("Pods", watcher(self.api(), ours()), writer, changed);
    }

    /// Kubelets write their node every few minutes; only what decides where
    /// pods go concerns anybody.
    fn nodes(&self, writer: Writer<Node>) {
        let mut known: HashMap<String, cluster::Node> = HashMap::new();
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<Node>| match event {
            Event::Init => known.clear(),
            Event::InitApply(node) => drop(known.insert(node.name_any(), node.into())),
            Event::InitDone => triggers.all(),
            Event::Apply(node) => {
                let now = cluster::Node::from(node);
                if known.insert(node.name_any(), now.clone()) != Some(now) {
                    triggers.all();
                }
            }
            Event::Delete(node) => {
                known.remove(&node.name_any());
                triggers.all();
            }
        };
        let api = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).modify(|node: &mut Node| {
            // Names of up to fifty images each.
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        });
        self.follow("Nodes", events, writer, changed);
    }

    fn owned<K>(&self, kind: &'static str, writer: Writer<K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<K>| instance(event, &triggers);
        self.follow(kind, watcher(self.api(), ours()), writer, changed);
    }

    fn follow<K>(
        &self,
        kind: &'static str,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        mut writer: Writer<K>,
        mut changed: impl FnMut(&Event<K>) + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let health = Arc::clone(&self.health);
        let metrics = Arc::clone(&self.metrics);
        health.note(kind, |_| {});
        tokio::spawn(async move {
            let events = events.default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        // Who wrote which field takes half of an object's memory.
                        let event = event.modify(|object| {
                            object.meta_mut().managed_fields = None;
                        });
                        writer.apply_watcher_event(&event);
                        changed(&event);
                        let done = matches!(event, Event::InitDone);
                        health.note(kind, |watch| {
                            watch.synced |= done;
                            watch.error = None;
                            watch.last = Instant::now();
                        });
                    }
                    Err(error) => {
                        metrics.watch_failed(kind);
                        tracing::warn!(kind, %error, "a watch failed; it is begun again");
                        health.note(kind, |watch| watch.error = Some(error.to_string()));
                    }
                }
            }
        });
    }
}

/// What carries our label, in namespaces of others too.
fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={MANAGER}", label::MANAGED_BY))
}

/// Asks for a pass over the app that an object is labelled with. After a list,
/// over all: what is gone by then is named nowhere.
fn instance<K: Resource>(event: &Event<K>, triggers: &Triggers) {
    match event {
        Event::Apply(object) | Event::Delete(object) => {
            let meta = object.meta();
            let app = meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get(label::INSTANCE));
            if let (Some(app), Some(namespace)) = (app, &meta.namespace) {
                triggers.app(namespace, app);
            }
        }
        Event::InitDone => triggers.all(),
        Event::Init | Event::InitApply(_) => {}
    }
}
