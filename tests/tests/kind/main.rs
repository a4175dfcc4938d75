//! Everything on a real cluster: chart, operator, pods, slots, DNS. Faults happen under load that
//! runs on a node and counts requests.
//!
//! `cargo xtask test` makes the cluster, loads the images and installs the chart into
//! `scaledapp-system`, where `restricted` is enforced.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod api;
#[path = "../../src/authority.rs"]
mod authority;
mod h2c;
mod status;
mod stories;
mod tcp;
mod tls;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scaledapp_tests::cluster::{self, Cluster, Report};
use serde_json::Value;

/// The images that xtask has loaded; both are versions of hello-node.
const IMAGES: [&str; 2] = [
    "localhost/scaledapp/hello-node:1",
    "localhost/scaledapp/hello-node:2",
];

/// Lets stories run one at a time, because each uses the whole machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// The namespace of a story. Its content is printed if the story fails.
struct Story {
    cluster: Cluster,
    namespace: String,
    _machine: MutexGuard<'static, ()>,
}

/// Starts a story. Without a cluster, prints the reason and returns `None`.
fn story(name: &str) -> Option<Story> {
    let cluster = match Cluster::from_environment() {
        Ok(cluster) => cluster,
        Err(reason) => {
            println!("{reason}");
            return None;
        }
    };
    let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let namespace = format!("story-{name}");
    cluster.restricted_namespace(&namespace).unwrap();
    Some(Story {
        cluster,
        namespace,
        _machine: machine,
    })
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.cluster.dump(&self.namespace));
        } else {
            let words = ["delete", "namespace", &self.namespace, "--wait=false"];
            drop(self.cluster.try_kubectl(&words));
        }
    }
}

/// An object for hello-node as a user would write it, with two pods of two workers.
fn hello(image: &str, more: &str) -> String {
    format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: hello}}\nspec:\n\
         \x20 image: {image}\n  command: [node, server.js]\n  workingDir: /app\n  port: 3000\n\
         \x20 replicas: {{total: 2}}\n  workers: {{count: 2, readiness: {{path: /healthz}}}}\n\
         \x20 resources: {{requests: {{cpu: 50m, memory: 64Mi}}}}\n\
         \x20 balancers: {{replicas: 2}}\n  dns: {{hostname: hello.apps.local}}\n{more}"
    )
}

impl Story {
    fn kubectl(&self, words: &[&str]) -> String {
        let words = [&["-n", &self.namespace][..], words].concat();
        self.cluster.kubectl(&words).unwrap()
    }

    fn app(&self) -> Value {
        let words = ["-n", &self.namespace, "scaledapp", "hello"];
        self.cluster.get(&words).unwrap()
    }

    /// Applies an object with a hostname of this story, because the oldest object with a hostname
    /// keeps it.
    fn apply(&self, yaml: &str) {
        let yaml = yaml.replace("hello.apps.local", &self.hostname());
        self.cluster.apply(&self.namespace, &yaml).unwrap();
    }

    fn hostname(&self) -> String {
        format!("{}.apps.local", self.namespace)
    }

    /// Waits with `kubectl wait` as a user would, then until the latest generation is complete.
    fn wait_ready(&self) {
        self.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "scaledapp/hello",
            "--timeout=180s",
        ]);
        self.cluster
            .wait("everything is as specified", || {
                let app = self.app();
                let generation = &app["metadata"]["generation"];
                let is_new = &app["status"]["observedGeneration"] == generation;
                Ok((is_new
                    && condition(&app, "Ready") == "True"
                    && condition(&app, "Progressing") == "False")
                    .then_some(()))
            })
            .unwrap();
    }

    fn slots(&self) -> Vec<SocketAddr> {
        cluster::slots(&self.app()).unwrap()
    }

    /// The names of the app's pods or of its balancers' pods.
    fn pods(&self, component: &str) -> Vec<String> {
        let selector =
            format!("app.kubernetes.io/instance=hello,app.kubernetes.io/component={component}");
        let names = self.kubectl(&["get", "pods", "-l", &selector, "-o", "name"]);
        names.lines().map(str::to_owned).collect()
    }

    /// Runs `act` while a node sends keep-alive and one-shot load through all slots. Prints and
    /// returns both reports.
    fn under_load(&self, name: &str, act: impl FnOnce()) -> [Report; 2] {
        let node = self.cluster.nodes().unwrap().remove(0);
        self.cluster.prepare_load(&node).unwrap();
        let slots = self.slots();
        let load = |kind: &[&str]| {
            let words = [
                &[
                    "--clients",
                    "4",
                    "--rate",
                    "250",
                    "--tally",
                    "worker",
                    "--at-least",
                    "2000",
                ][..],
                kind,
            ]
            .concat();
            self.cluster.load(&node, &slots, &words).unwrap()
        };
        let loads = [load(&[]), load(&["--one-shot"])];
        // The load lasts for a second before `act` and for eight seconds after it.
        std::thread::sleep(std::time::Duration::from_secs(1));
        act();
        std::thread::sleep(std::time::Duration::from_secs(8));
        let reports = loads.map(|load| load.stop().unwrap());
        for (kind, report) in ["keep-alive", "one-shot"].iter().zip(&reports) {
            println!("{name}, {kind}: {report}");
            assert!(report.sent() >= 2000, "{report}");
        }
        reports
    }
}

/// The status of a condition; empty if the app has no condition of that type.
fn condition(app: &Value, name: &str) -> String {
    let conditions = app["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == name);
    found.map_or_else(String::new, |condition| {
        condition["status"].as_str().unwrap_or("").to_owned()
    })
}
