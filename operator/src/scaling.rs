//! The loop of the autoscalers: who is scaled, and one decision per second for each of them.
//!
//! [`scaledapp_scale`] decides. This loop observes what it needs and carries out the rest: a changed
//! decision is published ([`Decisions`]) and triggers a pass, which writes the Deployment and the
//! status; pods are resized in place from here. An app that is quiet causes no call to the API
//! server, because everything comes from the stores and from the `/load` streams of its pods.
//!
//! Only the leader scales. A replica that loses the Lease forgets everything, and the next leader
//! begins with what it finds in the Deployment and in the status, so the change of leaders changes
//! no pod. A paused app, or one whose object is invalid, is not scaled.

mod app;
mod decisions;
mod demand;
mod found;
mod observation;
mod resize;
mod resizing;
mod streams;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use scaledapp_crds::kubernetes::ScaledApp;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::app::{Known, Scaling, Surroundings};
pub use self::decisions::Decisions;
use self::demand::{AppName, Demand};
pub use self::resizing::ask as ask_to_resize;
use self::streams::Streams;
use crate::admin_target::Target;
use crate::context::Context;
use crate::triggers::Triggers;

/// How often each app is decided about.
const INTERVAL: Duration = Duration::from_secs(1);

/// Scales all apps that ask for it, while this replica leads. Never ends.
pub async fn run(context: Arc<Context>, triggers: Triggers) {
    let mut autoscaler = Autoscaler::new(context, triggers);
    let demand = Arc::clone(&autoscaler.demand);
    // Lines come shortly before the full seconds of this clock.
    let mut ticks = interval_at(autoscaler.clock, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => autoscaler.tick(),
            app = demand.next() => autoscaler.wake(&app),
        }
    }
}

/// The pods of one app.
#[derive(Default)]
struct Pods {
    app: Vec<Arc<Pod>>,
    balancers: Vec<Arc<Pod>>,
}

struct Autoscaler {
    context: Arc<Context>,
    triggers: Triggers,
    demand: Arc<Demand>,
    streams: Streams,
    apps: HashMap<AppName, Scaling>,
    /// What is remembered of each pod, by uid.
    known: HashMap<String, Known>,
    clock: Instant,
}

impl Autoscaler {
    fn new(context: Arc<Context>, triggers: Triggers) -> Self {
        let demand = Arc::<Demand>::default();
        let clock = Instant::now();
        Self {
            streams: Streams::new(Arc::clone(&demand), clock),
            context,
            triggers,
            demand,
            apps: HashMap::new(),
            known: HashMap::new(),
            clock,
        }
    }

    /// Decides about every app.
    fn tick(&mut self) {
        self.choose();
        let mut pods = self.pods();
        let names: Vec<AppName> = self.apps.keys().cloned().collect();
        for name in names {
            self.decide(&name, &pods.remove(&name).unwrap_or_default());
        }
        self.count();
    }

    /// Decides at once about an app for which a request waits.
    fn wake(&mut self, name: &AppName) {
        if !self.context.caller.leadership.leads() {
            return;
        }
        let pods = self.pods().remove(name).unwrap_or_default();
        self.decide(name, &pods);
    }

    /// Finds the apps to scale, and forgets all others.
    fn choose(&mut self) {
        let context = Arc::clone(&self.context);
        let mut before = std::mem::take(&mut self.apps);
        if context.caller.leadership.leads() {
            for guarded in context.stores.apps.state() {
                let Ok(object) = &guarded.0 else { continue };
                if !is_scaled(&context, object) {
                    continue;
                }
                let name = AppName {
                    namespace: object.namespace().unwrap_or_default(),
                    name: object.name_any(),
                };
                let app = Scaling::renewed(before.remove(&name), object, self.clock.elapsed());
                self.apps.extend(app.map(|app| (name, app)));
            }
        }
        if self.apps.is_empty() {
            self.demand.clear();
        }
        for gone in before.keys() {
            self.demand.set_asleep(gone, false);
        }
        let apps = &self.apps;
        let is_kept = |uid: &str| apps.values().any(|app| app.uid() == uid);
        context.decisions.retain(is_kept);
    }

    /// The pods of all scaled apps. Starts and ends streams accordingly.
    fn pods(&mut self) -> HashMap<AppName, Pods> {
        let mut found: HashMap<AppName, Pods> = HashMap::new();
        let mut targets = Vec::new();
        if self.apps.is_empty() {
            self.known.clear();
            self.streams.follow(std::iter::empty());
            return found;
        }
        let mut known = std::mem::take(&mut self.known);
        for pod in self.context.stores.pods.state() {
            let Some((uid, name, is_balancer)) = app::belongs(&pod) else {
                continue;
            };
            if !self.apps.contains_key(&name) {
                continue;
            }
            let known = known.remove(&uid).unwrap_or_else(|| Known::of(&pod, &name));
            if known.is_foreign {
                self.known.insert(uid, known);
                continue;
            }
            targets.extend(Target::of(&pod));
            self.known.insert(uid, known);
            let pods = found.entry(name).or_default();
            if is_balancer {
                pods.balancers.push(pod);
            } else {
                pods.app.push(pod);
            }
        }
        self.streams.follow(targets.into_iter());
        found
    }

    fn decide(&mut self, name: &AppName, pods: &Pods) {
        let Some(app) = self.apps.get_mut(name) else {
            return;
        };
        let key = ObjectRef::new(&name.name).within(&name.namespace);
        let Some(guarded) = self.context.stores.apps.get(&key) else {
            return;
        };
        let Ok(object) = &guarded.0 else { return };
        let deployment = self
            .context
            .stores
            .deployments
            .get(&ObjectRef::new(&name.name).within(&name.namespace));
        let around = Surroundings {
            object,
            deployment: deployment.as_deref(),
            pods: &pods.app,
            balancers: &pods.balancers,
            streams: &self.streams,
            known: &mut self.known,
            pods_health: &self.context.pods_health,
            elapsed: self.clock.elapsed(),
            wall: (self.context.now)(),
        };
        let Some(outcome) = app.decide(around, &self.context.decisions) else {
            return;
        };
        self.demand.set_asleep(name, outcome.pods == 0);
        if outcome.has_changed {
            self.context
                .caller
                .metrics
                .scaled(&outcome.reason, outcome.concurrency);
            tracing::info!(
                namespace = name.namespace,
                name = name.name,
                pods = outcome.pods,
                reason = %outcome.reason,
                "the autoscaler has decided"
            );
            self.triggers.app(&name.namespace, &name.name);
        }
        resizing::start(
            &self.context,
            name,
            &mut app.resizes,
            outcome.cpu,
            &pods.app,
        );
    }

    /// Shows the state in the metrics.
    fn count(&self) {
        let metrics = &self.context.caller.metrics;
        metrics.set_autoscaled(
            self.apps.len(),
            self.apps.values().map(Scaling::wanted).sum(),
            self.streams.silent(),
        );
    }
}

/// Whether the operator scales this app now.
fn is_scaled(context: &Context, object: &ScaledApp) -> bool {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    object.spec.autoscaling.is_some()
        && !object.spec.paused
        && object.metadata.deletion_timestamp.is_none()
        && context.health.knows(namespace)
}
