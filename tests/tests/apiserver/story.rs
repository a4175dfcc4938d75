//! One test's part of the cluster: a namespace under Pod Security `restricted`, its own
//! nodes, and helpers that read what a user would read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::api::Refused;
use crate::kubelet::Behaviour;
use crate::server::{Server, server};

/// Time-out for an operation that takes a moment, on two busy cores.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// The fields of a condition that people read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Condition {
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

pub(crate) struct Story {
    pub(crate) server: &'static Server,
    pub(crate) namespace: String,
}

/// The names of all stories so far.
static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Starts a story with this name and this many nodes; `None` without a control plane.
pub(crate) fn story(name: &str, nodes: usize) -> Option<Story> {
    let server = server()?;
    let is_new = NAMES.lock().unwrap().insert(name.to_owned());
    assert!(
        is_new,
        "two stories are called {name:?}: they would share a namespace"
    );
    Some(Story::on(server, name, nodes))
}

impl Story {
    /// A story on this control plane.
    pub(crate) fn on(server: &'static Server, name: &str, nodes: usize) -> Self {
        let story = Self {
            server,
            namespace: name.to_owned(),
        };
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        story.server.api.apply(&namespace).unwrap();
        let account = story.at("/api/v1", "serviceaccounts/default");
        wait::until(SOON, "the namespace has its account", || {
            story.server.api.get(&account)
        })
        .unwrap();
        for number in 1..=nodes {
            story.add_node(number);
        }
        story
    }

    /// The path of a resource or an object in the namespace.
    pub(crate) fn at(&self, group: &str, rest: &str) -> String {
        format!("{group}/namespaces/{}/{rest}", self.namespace)
    }

    /// Path of an app.
    pub(crate) fn app_path(&self, name: &str) -> String {
        self.at("/apis/scaledapp.io/v1alpha1", &format!("scaledapps/{name}"))
    }

    pub(crate) fn node(&self, number: usize) -> String {
        format!("{}-{number}", self.namespace)
    }

    /// Adds a node with four CPUs for pods of this story only.
    pub(crate) fn add_node(&self, number: usize) {
        let labels = BTreeMap::from([("story".to_owned(), self.namespace.clone())]);
        self.server
            .kubelets
            .add_node(&self.node(number), &labels, "4");
    }

    pub(crate) fn rule(&self, rule: impl Fn(&Value) -> Behaviour + Send + Sync + 'static) {
        self.server.kubelets.rule(&self.namespace, rule);
    }

    /// An app with this name and, in YAML, these further fields of `spec`.
    pub(crate) fn spec(&self, name: &str, fields: &str) -> Value {
        let fields: Value = serde_saphyr::from_str(fields).unwrap();
        let mut object = json!({
            "apiVersion": "scaledapp.io/v1alpha1",
            "kind": "ScaledApp",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "image": "registry.test/app:1",
                "command": ["serve"],
                "port": 3000,
                "resources": {"requests": {"cpu": "1", "memory": "64Mi"}},
                "podTemplate": {"spec": {
                    "nodeSelector": {"story": self.namespace},
                    "tolerations": [{"key": "story", "operator": "Exists"}],
                }},
            },
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        object
    }

    /// Applies an app of [`Story::spec`].
    pub(crate) fn apply(&self, name: &str, fields: &str) -> Value {
        self.server.api.apply(&self.spec(name, fields)).unwrap()
    }

    pub(crate) fn app(&self, name: &str) -> Value {
        self.server.api.get(&self.app_path(name)).unwrap()
    }

    /// Waits until `look` holds for an app.
    pub(crate) fn wait(&self, name: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        wait::until(SOON, what, || {
            let app = self.app(name);
            if look(&app) {
                Ok(app)
            } else {
                std::thread::sleep(Duration::from_millis(100));
                Err(app["status"].to_string())
            }
        })
        .unwrap()
    }

    /// Waits until the status says that everything is as specified.
    pub(crate) fn wait_complete(&self, name: &str) -> Value {
        self.wait(name, "everything is as specified", |app| {
            app["status"]["observedGeneration"] == app["metadata"]["generation"]
                && condition(app, "Ready").status == "True"
                && condition(app, "Reconciling").status == "False"
                && condition(app, "Stalled").status == "False"
        })
    }

    /// As [`Server::writes`], once the operator has written nothing for two seconds. (An app is
    /// Ready before each slot leads to its own balancer, so further writes may follow.)
    pub(crate) fn settled_writes(&self) -> Vec<String> {
        let quiet = Duration::from_secs(2);
        let mut seen = (self.server.writes(&self.namespace), Instant::now());
        wait::until(SOON, "the operator writes nothing", || {
            let writes = self.server.writes(&self.namespace);
            if writes.len() != seen.0.len() {
                seen = (writes, Instant::now());
            } else if seen.1.elapsed() >= quiet {
                return Ok(writes);
            }
            std::thread::sleep(Duration::from_millis(200));
            Err(seen.0.last().cloned().unwrap_or_default())
        })
        .unwrap()
    }

    pub(crate) fn list(&self, group: &str, kind: &str) -> Vec<Value> {
        self.server.api.list(&self.at(group, kind)).unwrap()
    }

    /// The pods of an app's component.
    pub(crate) fn pods(&self, name: &str, component: &str) -> Vec<Value> {
        let selector = format!(
            "pods?labelSelector=app.kubernetes.io/instance%3D{name},app.kubernetes.io/component%3D{component}"
        );
        self.list("/api/v1", &selector)
    }

    /// The pods that are not being deleted.
    pub(crate) fn staying_pods(&self, name: &str, component: &str) -> Vec<Value> {
        let mut pods = self.pods(name, component);
        pods.retain(stays);
        pods
    }

    pub(crate) fn deployment(&self, name: &str) -> Value {
        let path = self.at("/apis/apps/v1", &format!("deployments/{name}"));
        self.server.api.get(&path).unwrap()
    }

    /// Tries to apply any object.
    pub(crate) fn try_apply(&self, object: &Value) -> Result<Value, Refused> {
        self.server.api.apply(object)
    }

    /// `REASON: note` of Warning events about an app.
    pub(crate) fn warnings(&self, name: &str) -> Vec<String> {
        let events = self.list("/apis/events.k8s.io/v1", "events");
        let is_ours = |event: &&Value| {
            event["type"] == "Warning"
                && event["regarding"]["kind"] == "ScaledApp"
                && event["regarding"]["name"] == *name
        };
        let shown = |event: &Value| {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("reason"), text("note"))
        };
        events.iter().filter(is_ours).map(shown).collect()
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let apps = self
                .server
                .api
                .get(&self.at("/apis/scaledapp.io/v1alpha1", "scaledapps"));
            for app in apps
                .iter()
                .filter_map(|apps| apps["items"].as_array())
                .flatten()
            {
                println!("{}: {:#}", app["metadata"]["name"], app["status"]);
            }
            for deployment in self
                .server
                .api
                .list(&self.at("/apis/apps/v1", "deployments"))
                .unwrap_or_default()
            {
                println!(
                    "{}: {} {}",
                    deployment["metadata"]["name"],
                    deployment["spec"]["replicas"],
                    deployment["status"]
                );
            }
            for pod in self
                .server
                .api
                .list(&self.at("/api/v1", "pods"))
                .unwrap_or_default()
            {
                println!(
                    "{} on {}: {}",
                    pod["metadata"]["name"], pod["spec"]["nodeName"], pod["status"]
                );
            }
            let log = self.server.operator_log();
            let ours = log.lines().filter(|line| line.contains(&self.namespace));
            let ours: Vec<&str> = ours.collect();
            println!("{}", ours[ours.len().saturating_sub(40)..].join("\n"));
        }
        let none = json!({});
        drop(
            self.server
                .api
                .delete(&format!("/api/v1/namespaces/{}", self.namespace), &none),
        );
        let nodes = format!("/api/v1/nodes?labelSelector=story%3D{}", self.namespace);
        drop(self.server.api.delete(&nodes, &none));
    }
}

/// A condition of an app; empty if there is none of that type.
pub(crate) fn condition(app: &Value, kind: &str) -> Condition {
    let conditions = app["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    let text = |field: &str| {
        let value = found.and_then(|condition| condition[field].as_str());
        value.unwrap_or_default().to_owned()
    };
    Condition {
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
    }
}

/// Whether an object is not being deleted.
pub(crate) fn stays(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether the scheduler has found no node for a pod.
pub(crate) fn is_unschedulable(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    stays(pod) && conditions.any(|it| it["reason"] == "Unschedulable")
}
