//! The watches: they fill the stores and trigger passes over the apps that a change concerns.
//!
//! Each kind has one watch, or one per watched namespace ([`crate::merged`] merges their lists).
//! The watches of pods and of objects that the operator creates have a label selector.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use scaledapp_crds::words::label;
use scaledapp_plan::cluster::{self, Autoscaler, Target, each_kind};
use serde::de::DeserializeOwned;

use crate::health::Health;
use crate::hostnames::Hostnames;
use crate::merged::{Change, Merged};
use crate::metrics::Metrics;
use crate::pod_health::PodsHealth;
use crate::stores::{Guarded, Writers};
use crate::triggers::Triggers;

/// What all watches share.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "kube's client has none")]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// The watched namespaces; empty: all.
    pub namespaces: Vec<String>,
    /// Receives the names of apps that need a pass.
    pub triggers: Triggers,
    /// Records the state of the watches.
    pub health: Arc<Health>,
    /// Counts failures.
    pub metrics: Arc<Metrics>,
}

impl Watches {
    /// Starts all watches; they end with the runtime.
    pub fn spawn(self, writers: Writers, pods_health: Arc<PodsHealth>) {
        let deployments = writers.deployments.as_reader();
        macro_rules! spawn {
            ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
                let Writers { apps, pods, nodes, autoscalers, $($field,)* } = writers;
                self.autoscalers(autoscalers, deployments);
                self.apps(apps);
                self.pods(pods, pods_health);
                self.nodes(nodes);
                $(self.owned(concat!(stringify!($kind), "s"), $field);)*
            };
        }
        each_kind!(spawn);
    }

    /// The events of each watch of a kind, with its namespace.
    fn events<K>(&self, config: &watcher::Config) -> Vec<Source<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        if self.namespaces.is_empty() {
            let events = watcher(Api::all(self.client.clone()), config.clone());
            return vec![(None, events.boxed())];
        }
        let namespaces = self.namespaces.iter();
        let source = namespaces.map(|namespace| {
            let api = Api::namespaced(self.client.clone(), namespace);
            let events = watcher(api, config.clone()).boxed();
            (Some(namespace.clone()), events)
        });
        source.collect()
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
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => triggers.all(),
        };
        let events = self.events(&watcher::Config::default());
        self.follow("ScaledApps", events, writer, |_| true, changed);
    }

    fn pods(&self, writer: Writer<Pod>, pods_health: Arc<PodsHealth>) {
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<Pod>| {
            instance(event, &triggers);
            pods_health.pods_changed.notify_one();
        };
        let events = self.events(&ours());
        self.follow("Pods", events, writer, cluster::is_ours, changed);
    }

    /// Kubelets write their node every few minutes. Only a change of the properties that
    /// decide where pods go triggers passes.
    fn nodes(&self, writer: Writer<Node>) {
        let mut known: HashMap<String, cluster::Node> = HashMap::new();
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<Node>| match event {
            Event::Init | Event::InitApply(_) => {}
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
            // Drops the names of up to fifty images for each node.
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        });
        let sources = vec![(None, events.boxed())];
        self.follow("Nodes", sources, writer, |_| true, changed);
    }

    /// The status of an autoscaler changes every few seconds. A pass is triggered only if the
    /// autoscaler starts or stops naming an object.
    fn autoscalers(&self, writer: Writer<HorizontalPodAutoscaler>, deployments: Store<Deployment>) {
        const KIND: &str = "HorizontalPodAutoscalers";
        let mut known: HashMap<ObjectRef<HorizontalPodAutoscaler>, Autoscaler> = HashMap::new();
        let triggers = self.triggers.clone();
        let ask = move |namespace: &str, target: &Target| match target {
            Target::App(name) => triggers.app(namespace, name),
            Target::Deployment(name) => {
                let key = ObjectRef::new(name).within(namespace);
                if let Some(deployment) = deployments.get(&key) {
                    instance(&Event::Apply((*deployment).clone()), &triggers);
                }
            }
        };
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<HorizontalPodAutoscaler>| {
            let (autoscaler, now) = match event {
                Event::Init | Event::InitApply(_) => return,
                Event::InitDone => return triggers.all(),
                Event::Apply(autoscaler) => (autoscaler, Autoscaler::of(autoscaler)),
                Event::Delete(autoscaler) => (autoscaler, None),
            };
            let key = ObjectRef::from_obj(autoscaler);
            let before = match &now {
                Some(now) => known.insert(key, now.clone()),
                None => known.remove(&key),
            };
            if before != now {
                let namespace = autoscaler.namespace().unwrap_or_default();
                for one in before.iter().chain(&now) {
                    ask(&namespace, &one.target);
                }
            }
        };
        let sources = self.events(&watcher::Config::default());
        let sources = sources.into_iter().map(|(scope, events)| {
            self.health.begins_optional(KIND, scope.as_deref());
            let events = events.modify(|autoscaler: &mut HorizontalPodAutoscaler| {
                autoscaler.status = None;
                (autoscaler.spec.metrics, autoscaler.spec.behavior) = (None, None);
            });
            (scope, events.boxed())
        });
        self.follow(KIND, sources.collect(), writer, |_| true, changed);
    }

    fn owned<K>(&self, kind: &'static str, writer: Writer<K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let triggers = self.triggers.clone();
        let changed = move |event: &Event<K>| instance(event, &triggers);
        let events = self.events(&ours());
        self.follow(kind, events, writer, cluster::is_ours, changed);
    }

    /// Starts a task that fills a store from all watches of a kind.
    fn follow<K>(
        &self,
        kind: &'static str,
        sources: Vec<Source<K>>,
        writer: Writer<K>,
        is_ours: fn(&ObjectMeta) -> bool,
        changed: impl FnMut(&Event<K>) + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let mut scopes = Vec::new();
        let mut streams = Vec::new();
        for (source, (scope, events)) in sources.into_iter().enumerate() {
            self.health.begins(kind, scope.as_deref());
            scopes.push(scope);
            // Each watch has its own pause after a failure.
            let events = events.default_backoff();
            streams.push(events.map(move |event| (source, event)).boxed());
        }
        let mut filling = Filling {
            kind,
            merged: Merged::new(scopes.len()),
            scopes,
            is_complete: false,
            writer,
            is_ours,
            changed,
            health: Arc::clone(&self.health),
            metrics: Arc::clone(&self.metrics),
        };
        tokio::spawn(async move {
            let mut events = select_all(streams);
            while let Some((source, event)) = events.next().await {
                filling.take(source, event);
            }
        });
    }
}

/// A store that is filled from several watches.
struct Filling<K, F>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    kind: &'static str,
    /// The namespace of each watch.
    scopes: Vec<Option<String>>,
    merged: Merged<ObjectRef<K>>,
    is_complete: bool,
    writer: Writer<K>,
    /// Which of the delivered objects belong in the store.
    is_ours: fn(&ObjectMeta) -> bool,
    changed: F,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl<K, F> Filling<K, F>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
    F: FnMut(&Event<K>),
{
    fn take(&mut self, source: usize, event: watcher::Result<Event<K>>) {
        let scope = self.scopes[source].as_deref();
        match event {
            Ok(event) => {
                let Some(event) = self.of_ours(event) else {
                    return;
                };
                // `managedFields` often take half of an object's memory, and nothing here needs
                // them.
                let event = event.modify(|object| object.meta_mut().managed_fields = None);
                let change = self.merged.on(source, event, ObjectRef::from_obj);
                self.health
                    .brought(self.kind, scope, matches!(change, Change::Listed(_)));
                self.make(change);
            }
            Err(error) => {
                self.metrics.watch_failed(self.kind);
                let kind = self.kind;
                if self.health.failed(kind, scope, error.to_string()) {
                    tracing::warn!(kind, namespace = scope, %error, "a watch failed and is restarted");
                    if self.health.is_optional(kind) {
                        // Passes that waited for this list go on without it.
                        (self.changed)(&Event::InitDone);
                    }
                }
                self.merged.failed(source);
            }
        }
        if !self.is_complete && self.merged.is_complete() {
            self.is_complete = true;
            self.open();
        }
    }

    /// Drops objects of other owners that match the label selector. An object that no longer
    /// belongs to this project counts as deleted.
    fn of_ours(&self, event: Event<K>) -> Option<Event<K>> {
        let is_ours = |object: &K| (self.is_ours)(object.meta());
        let is_known = |object: &K| {
            let store = self.writer.as_reader();
            store.get(&ObjectRef::from_obj(object)).is_some()
        };
        match event {
            Event::Apply(object) if !is_ours(&object) => {
                is_known(&object).then_some(Event::Delete(object))
            }
            Event::Delete(object) if !is_ours(&object) && !is_known(&object) => None,
            Event::InitApply(object) if !is_ours(&object) => None,
            event => Some(event),
        }
    }

    fn make(&mut self, change: Change<K, ObjectRef<K>>) {
        match change {
            Change::Nothing => {}
            Change::Put(object) => self.give(&Event::Apply(object)),
            Change::Gone(object) => self.give(&Event::Delete(object)),
            Change::Listed(gone) => {
                let store = self.writer.as_reader();
                for object in gone.iter().filter_map(|gone| store.get(gone)) {
                    self.give(&Event::Delete((*object).clone()));
                }
                // Passes over apps of this watch's namespace may have waited for the list.
                (self.changed)(&Event::InitDone);
            }
        }
    }

    fn give(&mut self, event: &Event<K>) {
        self.writer.apply_watcher_event(event);
        (self.changed)(event);
    }

    /// Marks the store as ready. A store becomes ready only at the end of a list, so its
    /// objects are delivered to it once more as a list.
    fn open(&mut self) {
        let all = self.writer.as_reader().state();
        self.writer.apply_watcher_event(&Event::Init);
        for object in all {
            let object = Event::InitApply((*object).clone());
            self.writer.apply_watcher_event(&object);
        }
        self.writer.apply_watcher_event(&Event::InitDone);
    }
}

/// One of the watches of a kind: its namespace, if it has one, and its events.
type Source<K> = (
    Option<String>,
    BoxStream<'static, watcher::Result<Event<K>>>,
);

/// The watch configuration for objects with the operator's labels, in any namespace.
fn ours() -> watcher::Config {
    watcher::Config::default().labels(&cluster::watched())
}

/// Triggers a pass over the app that an object's label names. After a list, it triggers passes over
/// all apps, because the list does not name the objects that were deleted.
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
