//! An operator whose stores the test fills, and its simulated API server.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use scaledapp_answers::Ownership;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_operator::api::Caller;
use scaledapp_operator::backoff::Retries;
use scaledapp_operator::context::Context;
use scaledapp_operator::events::Sent;
use scaledapp_operator::lease::Leadership;
use scaledapp_operator::reconcile::{Error, error_policy, reconcile};
use scaledapp_operator::stores::{Guarded, Writers, stores};
use scaledapp_operator::tokens::Tokens;
use scaledapp_operator::triggers::Triggers;
use scaledapp_operator::watches::Watches;
use scaledapp_plan::cluster::Settings;
use serde_json::{Value, json};

use crate::server::{Failure, Shared, server};

const APP: &str = "/apis/scaledapp.io/v1alpha1/namespaces/default/scaledapps/hello";

/// An operator, and the API server that it talks to.
pub(crate) struct Operator {
    pub(crate) context: Arc<Context>,
    writers: Writers,
    pub(crate) server: Shared,
}

pub(crate) fn hello(spec: &Value) -> Value {
    json!({
        "apiVersion": "scaledapp.io/v1alpha1",
        "kind": "ScaledApp",
        "metadata": {
            "name": "hello", "namespace": "default", "uid": "hello-uid", "generation": 1,
            "creationTimestamp": "2026-11-24T00:00:00Z",
        },
        "spec": spec,
    })
}

pub(crate) fn good() -> Value {
    hello(&json!({"image": "a", "command": ["x"], "replicas": {"total": 2}}))
}

/// The pod of a serving balancer.
fn balancer(name: &str, slot: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {
                "app.kubernetes.io/instance": "hello",
                "app.kubernetes.io/component": "balancer",
                "app.kubernetes.io/managed-by": "scaledapp-operator",
                "scaledapp.io/slot": slot,
            },
        },
        "spec": {"nodeName": "n", "containers": []},
        "status": {
            "podIP": format!("10.0.0.{slot}"),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

impl Operator {
    pub(crate) fn new(object: Value) -> Self {
        let (client, server) = server();
        let (stores, writers) = stores();
        let context = Context {
            sent: Sent::new("test".to_owned()),
            caller: Caller {
                client,
                leadership: Leadership::fixed(true),
                metrics: Arc::default(),
            },
            namespace: "scaledapp-system".to_owned(),
            stores,
            settings: Settings {
                sidecar_image: "sidecar:1".to_owned(),
                balancer_image: "balancer:1".to_owned(),
                image_pull_policy: None,
                image_pull_secrets: Vec::new(),
                balancer_resources: Settings::default_balancer_resources(),
            },
            ownership: Ownership::default(),
            health: Arc::default(),
            pods_health: Arc::default(),
            backoff: Retries::default(),
            tokens: Tokens::default(),
            node_usage: scaledapp_operator::node_usage::NodeUsage::default(),
            pod_events: scaledapp_operator::pod_events::PodEvents::default(),
            certificates: scaledapp_operator::certificates::Certificates::default(),
            admissions: scaledapp_operator::admissions::Admissions::default(),
            decisions: scaledapp_operator::scaling::Decisions::default(),
            now: || "2026-11-24T01:00:00Z".parse::<Timestamp>().unwrap(),
        };
        {
            let mut state = server.lock().unwrap();
            state.store(APP.to_owned(), object);
            for slot in ["0", "1"] {
                let name = format!("hello-lb-{slot}-x");
                let path = format!("/api/v1/namespaces/default/pods/{name}");
                state.store(path, balancer(&name, slot));
            }
        }
        let mut operator = Self {
            context: Arc::new(context),
            writers,
            server,
        };
        operator.sync();
        operator
    }

    /// Fills the stores from the API server, as the watches would.
    pub(crate) fn sync(&mut self) {
        let state = self.server.lock().unwrap();
        let writers = &mut self.writers;
        macro_rules! fill {
            ($($writer:ident: $resource:literal,)*) => {$(
                writers.$writer.apply_watcher_event(&Event::Init);
                for (path, object) in &state.objects {
                    if path.contains(concat!("/", $resource, "/")) {
                        let object = serde_json::from_value(object.clone()).unwrap();
                        writers.$writer.apply_watcher_event(&Event::InitApply(object));
                    }
                }
                writers.$writer.apply_watcher_event(&Event::InitDone);
            )*};
        }
        fill! {
            apps: "scaledapps",
            pods: "pods",
            nodes: "nodes",
            autoscalers: "horizontalpodautoscalers",
            config_maps: "configmaps",
            service_accounts: "serviceaccounts",
            roles: "roles",
            role_bindings: "rolebindings",
            services: "services",
            endpoint_slices: "endpointslices",
            deployments: "deployments",
            pod_disruption_budgets: "poddisruptionbudgets",
        }
    }

    /// Adds a pod of the app that is older than any reload token, so that it has to reload.
    pub(crate) fn add_app_pod(&mut self) {
        let mut pod = balancer("hello-0", "0");
        let labels = &mut pod["metadata"]["labels"];
        labels["app.kubernetes.io/component"] = json!("app");
        labels.as_object_mut().unwrap().remove("scaledapp.io/slot");
        pod["metadata"]["creationTimestamp"] = json!("2026-11-01T00:00:00Z");
        let path = "/api/v1/namespaces/default/pods/hello-0".to_owned();
        self.server.lock().unwrap().store(path, pod);
        self.sync();
    }

    /// Adds a pod of the app that its kubelet cannot set up.
    pub(crate) fn add_waiting_pod(&mut self) {
        let mut pod = balancer("hello-1", "0");
        let labels = &mut pod["metadata"]["labels"];
        labels["app.kubernetes.io/component"] = json!("app");
        labels.as_object_mut().unwrap().remove("scaledapp.io/slot");
        pod["metadata"]["creationTimestamp"] = json!("2026-11-24T00:59:00Z");
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [
            {"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}},
        ]});
        let directory = "/api/v1/namespaces/default/pods";
        let mut state = self.server.lock().unwrap();
        state.store(format!("{directory}/hello-1"), pod);
        let event = json!({
            "metadata": {"name": "hello-1.1", "namespace": "default"},
            "type": "Warning", "reason": "FailedMount",
            "note": "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found",
        });
        let directory = "/apis/events.k8s.io/v1/namespaces/default/events";
        state.store(format!("{directory}/hello-1.1"), event);
        drop(state);
        self.sync();
    }

    /// Starts the real watches of these namespaces, which fill the stores from now on.
    pub(crate) fn watch(&mut self, namespaces: &[&str]) {
        let (stores, writers) = stores();
        let (triggers, _queue) = Triggers::new(stores.apps.clone());
        let context = Arc::get_mut(&mut self.context).unwrap();
        context.stores = stores;
        let watches = Watches {
            client: context.caller.client.clone(),
            namespaces: namespaces.iter().map(|&it| it.to_owned()).collect(),
            triggers,
            health: Arc::clone(&context.health),
            metrics: Arc::default(),
        };
        watches.spawn(writers, Arc::default());
    }

    /// How many resources are watched.
    pub(crate) fn watched(&self) -> usize {
        let state = self.server.lock().unwrap();
        state
            .used
            .iter()
            .filter(|(verb, ..)| verb == "watch")
            .count()
    }

    pub(crate) fn app(&self) -> Arc<Guarded> {
        let name = ObjectRef::new("hello").within("default");
        self.context.stores.apps.get(&name).unwrap()
    }

    pub(crate) async fn pass(&self) -> Result<Action, Error> {
        reconcile(self.app(), Arc::clone(&self.context)).await
    }

    pub(crate) fn policy(&self, error: &Error) -> Action {
        error_policy(&self.app(), error, &self.context)
    }

    pub(crate) fn fail(&self, method: Option<&'static str>, path: &'static str, failure: Failure) {
        let mut state = self.server.lock().unwrap();
        state.failures.push((method, path, failure));
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.server.lock().unwrap().shorts()
    }

    pub(crate) fn forget(&self) {
        self.server.lock().unwrap().writes.clear();
    }

    /// The message of the condition with the reason `ApplyFailed`.
    pub(crate) fn failure(&self) -> String {
        let state = self.server.lock().unwrap();
        let conditions = &state.objects[APP]["status"]["conditions"];
        let mut conditions = conditions.as_array().expect("a status is written").iter();
        let failed = conditions.find(|it| it["reason"] == "ApplyFailed");
        failed
            .map_or("", |it| it["message"].as_str().unwrap())
            .to_owned()
    }

    /// Reason and message of a condition that was written.
    pub(crate) fn condition(&self, kind: &str) -> (String, String) {
        let state = self.server.lock().unwrap();
        let object: ScaledApp = serde_json::from_value(state.objects[APP].clone()).unwrap();
        let conditions = object.status.expect("a status is written").conditions;
        let found = conditions.into_iter().find(|it| it.type_ == kind).unwrap();
        (found.reason, found.message)
    }
}
