//! Simulated kubelets. They report the status of nodes and pods, as rules of the tests
//! determine it, and they serve the admin ports of supervisors and balancers.
//!
//! The pauses are shorter than those of a kubelet, above all between restarts.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::api::Api;
use crate::load::World;

/// How often all pods are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const ADMIN_PORT: u16 = 9377;
/// How long a crashing container runs, and how long it waits for its restart.
const LIFE: Duration = Duration::from_millis(600);
const BACK_OFF: Duration = Duration::from_millis(1_500);

/// How a scheduled pod behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It is ready after this time and answers on its admin port.
    Ready(Duration),
    /// Its main container crashes repeatedly, with this exit code and last output.
    Crashes(i32, &'static str),
    /// Its main container never starts; it waits with this reason and message.
    Waits(&'static str, &'static str),
    /// As [`Behaviour::Waits`], before any other container starts.
    InitWaits(&'static str, &'static str),
    /// As [`Behaviour::Crashes`], before any other container starts.
    InitCrashes(i32, &'static str),
    /// It cannot be set up, because a volume is missing; an event reports this message.
    Unmounted(&'static str),
    /// It is ready, but only its kubelet reaches its admin port.
    Unreachable,
    /// It is ready or not, and its admin port answers with this `/status`.
    Says(bool, &'static str),
}

impl Behaviour {
    fn is_ready(&self, elapsed: Duration) -> bool {
        match self {
            Self::Ready(after) => elapsed >= *after,
            Self::Unreachable => true,
            Self::Says(ready, _) => *ready,
            _ => false,
        }
    }

    /// The answer of the admin port to `/status`; `None`: nothing listens.
    fn says(&self, elapsed: Duration) -> Option<&'static str> {
        match self {
            Self::Ready(_) if self.is_ready(elapsed) => Some(r#"{"desired": 1, "ready": 1}"#),
            Self::Says(_, status) => Some(status),
            _ => None,
        }
    }
}

pub(crate) type Rule = Arc<dyn Fn(&Value) -> Behaviour + Send + Sync>;

/// A pod that a kubelet runs.
struct Taken {
    address: Ipv4Addr,
    begun: Instant,
    behaviour: Behaviour,
    /// The answer of the pod's admin port, whether the pod is ready, and the task that answers.
    admin: Option<(&'static str, bool, AbortHandle)>,
    /// The last reported status.
    reported: Value,
}

/// All kubelets.
#[derive(Clone)]
pub(crate) struct Kubelets {
    api: Api,
    /// The rules by namespace. In a namespace without a rule, every pod is ready immediately.
    rules: Arc<Mutex<HashMap<String, Rule>>>,
    /// The loads by namespace. In a namespace without one, admin ports have no `/load`.
    worlds: Arc<Mutex<HashMap<String, World>>>,
}

impl Kubelets {
    pub(crate) fn new(api: Api) -> Self {
        Self {
            api,
            rules: Arc::default(),
            worlds: Arc::default(),
        }
    }

    fn rules(&self) -> MutexGuard<'_, HashMap<String, Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the pods of a namespace behave from now on.
    pub(crate) fn rule(
        &self,
        namespace: &str,
        rule: impl Fn(&Value) -> Behaviour + Send + Sync + 'static,
    ) {
        self.rules().insert(namespace.to_owned(), Arc::new(rule));
    }

    fn worlds(&self) -> MutexGuard<'_, HashMap<String, World>> {
        self.worlds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The load of the app of a namespace, whose pods answer `/load` from now on.
    pub(crate) fn world(&self, namespace: &str) -> World {
        self.worlds()
            .entry(namespace.to_owned())
            .or_default()
            .clone()
    }

    /// Tells the loads how many pods are ready.
    fn count(&self, pods: &[Value], taken: &HashMap<String, Taken>) {
        for (namespace, world) in self.worlds().iter() {
            let ready = |component: &str| {
                let ours = pods.iter().filter(|pod| {
                    let meta = &pod["metadata"];
                    meta["namespace"] == **namespace
                        && meta["deletionTimestamp"].is_null()
                        && meta["labels"]["app.kubernetes.io/component"] == *component
                        && meta["uid"]
                            .as_str()
                            .and_then(|uid| taken.get(uid))
                            .is_some_and(|taken| taken.admin.is_some())
                });
                ours.count() as u32
            };
            world.set_pods(ready("app"), ready("balancer"));
        }
    }

    /// Adds a Ready node.
    pub(crate) fn add_node(&self, name: &str, labels: &BTreeMap<String, String>, cpu: &str) {
        let mut all = BTreeMap::from(
            [
                ("kubernetes.io/hostname", name),
                ("kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", "amd64"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        all.extend(labels.clone());
        let taint = labels
            .get("story")
            .map(|story| json!({"key": "story", "value": story, "effect": "NoSchedule"}));
        let taints: Vec<Value> = taint.into_iter().collect();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": all}, "spec": {"taints": taints}});
        self.api.post("/api/v1/nodes", &node).unwrap();
        let room =
            json!({"cpu": cpu, "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": now(), "lastHeartbeatTime": now()},
        ]}});
        let path = format!("/api/v1/nodes/{name}");
        self.api.merge(&format!("{path}/status"), &status).unwrap();
        // Admission taints every new node, and no controller here removes the taint.
        self.api
            .merge(&path, &json!({"spec": {"taints": taints}}))
            .unwrap();
    }

    /// Starts the simulation of all kubelets, which lasts until the process ends.
    pub(crate) fn start(&self) {
        let kubelets = self.clone();
        std::thread::spawn(move || {
            let mut taken = HashMap::new();
            loop {
                if let Ok(pods) = kubelets.api.list("/api/v1/pods?resourceVersion=0") {
                    taken.retain(|uid: &String, pod: &mut Taken| {
                        let stays = pods.iter().any(|pod| pod["metadata"]["uid"] == **uid);
                        if !stays && let Some((.., admin)) = &pod.admin {
                            admin.abort();
                        }
                        stays
                    });
                    for pod in &pods {
                        kubelets.look(pod, &mut taken);
                    }
                    kubelets.count(&pods, &taken);
                }
                std::thread::sleep(CHECK_INTERVAL);
            }
        });
    }

    fn look(&self, pod: &Value, taken: &mut HashMap<String, Taken>) {
        let meta = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, uid) = (text(&meta["namespace"]), text(&meta["uid"]));
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{}",
            text(&meta["name"])
        );
        if !meta["deletionTimestamp"].is_null() {
            let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
            drop(self.api.delete(&path, &now));
            return;
        }
        if pod["spec"]["nodeName"].is_null() {
            return;
        }
        let rule = self.rules().get(&namespace).cloned();
        let behaviour = rule.map_or(Behaviour::Ready(Duration::ZERO), |rule| rule(pod));
        let known = taken.entry(uid).or_insert_with(|| Taken {
            address: address(),
            begun: Instant::now(),
            behaviour: behaviour.clone(),
            admin: None,
            reported: Value::Null,
        });
        if known.behaviour != behaviour {
            known.behaviour = behaviour;
            known.begun = Instant::now();
        }
        let elapsed = known.begun.elapsed();
        let ready = known.behaviour.is_ready(elapsed);
        let says = known.behaviour.says(elapsed).map(|says| (says, ready));
        if known.admin.as_ref().map(|(says, ready, _)| (*says, *ready)) != says {
            if let Some((.., admin)) = known.admin.take() {
                admin.abort();
            }
            let at = SocketAddr::from((known.address, ADMIN_PORT));
            known.admin = says.map(|(says, ready)| {
                let is_balancer = meta["labels"]["app.kubernetes.io/component"] == "balancer";
                let world = self.worlds().get(&namespace).cloned();
                let name = text(&meta["name"]);
                let load = world.map(|world| (world, name, is_balancer));
                let answering = self.api.runtime.spawn(answer(at, says, ready, load));
                (says, ready, answering.abort_handle())
            });
        }
        if let Behaviour::Unmounted(note) = known.behaviour
            && known.reported.is_null()
        {
            self.unmounted(&namespace, meta, note);
        }
        let mut status = status(pod, known);
        if self.worlds().contains_key(&namespace) {
            // Every resize of the main container is granted at once.
            status["containerStatuses"][0]["resources"] =
                pod["spec"]["containers"][0]["resources"].clone();
        }
        if known.reported != status
            && self
                .api
                .merge(&format!("{path}/status"), &json!({"status": status}))
                .is_ok()
        {
            known.reported = status;
        }
    }
}

impl Kubelets {
    /// Sends the event for a volume that cannot be mounted into a pod.
    fn unmounted(&self, namespace: &str, pod: &Value, note: &str) {
        let name = pod["name"].as_str().unwrap_or_default();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.mount"), "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": pod["uid"]},
            "type": "Warning", "reason": "FailedMount", "message": note, "count": 1,
            "source": {"component": "kubelet"},
            "firstTimestamp": now(), "lastTimestamp": now(),
        });
        let path = format!("/api/v1/namespaces/{namespace}/events");
        drop(self.api.post(&path, &event));
    }
}

/// An address of the network namespace that no pod has had before.
fn address() -> Ipv4Addr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(198, 19, (number / 250) as u8, 1 + (number % 250) as u8)
}

/// Answers as the admin port of a supervisor or balancer would.
async fn answer(
    at: SocketAddr,
    says: &'static str,
    ready: bool,
    load: Option<(World, String, bool)>,
) {
    // The previous server at this address may still be ending.
    let listener = loop {
        if let Ok(listener) = TcpListener::bind(at).await {
            break listener;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut streams = tokio::task::JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 2048];
        let Ok(_) = stream.read(&mut request).await else {
            continue;
        };
        if request.starts_with(b"GET /load")
            && let Some((world, pod, is_balancer)) = load.clone()
        {
            streams.spawn(world.answer(stream, pod, is_balancer));
            continue;
        }
        let (code, body) = if request.starts_with(b"GET /status") {
            ("200 OK", says)
        } else if ready {
            ("200 OK", "ok")
        } else {
            ("503 Service Unavailable", "not ready")
        };
        let head = format!(
            "HTTP/1.1 {code}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        drop(stream.write_all((head + body).as_bytes()).await);
    }
}

fn now() -> String {
    humantime(std::time::SystemTime::now())
}

/// A time as RFC 3339, in whole seconds.
fn humantime(at: std::time::SystemTime) -> String {
    k8s_openapi::jiff::Timestamp::try_from(at)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

/// The status of a container: its state, whether it is ready, its last state and its
/// restarts.
struct ContainerState {
    state: Value,
    ready: bool,
    last: Value,
    restarts: u32,
}

impl ContainerState {
    fn waits(reason: &str, message: &str) -> Self {
        Self {
            state: json!({"waiting": {"reason": reason, "message": message}}),
            ready: false,
            last: Value::Null,
            restarts: 0,
        }
    }

    fn runs(ready: bool) -> Self {
        Self {
            state: json!({"running": {"startedAt": null}}),
            ready,
            last: Value::Null,
            restarts: 0,
        }
    }

    /// A container in a crash loop that began this long ago.
    fn crashes(elapsed: Duration, code: i32, words: &str) -> Self {
        let ended = json!({"terminated": {"exitCode": code, "reason": "Error", "message": words}});
        let round = (elapsed.as_millis() / (LIFE + BACK_OFF).as_millis()) as u32;
        let within = elapsed.saturating_sub((LIFE + BACK_OFF) * round);
        let last = if round > 0 {
            ended.clone()
        } else {
            Value::Null
        };
        let (state, last, restarts) = if within < LIFE {
            (json!({"running": {"startedAt": null}}), last, round)
        } else if within < LIFE + Duration::from_millis(200) {
            (ended, last, round)
        } else {
            let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}});
            (waiting, ended, round + 1)
        };
        Self {
            state,
            ready: false,
            last,
            restarts,
        }
    }

    fn of(&self, name: &Value) -> Value {
        json!({
            "name": name, "image": "registry.test/x", "imageID": "x", "ready": self.ready,
            "started": self.ready, "restartCount": self.restarts, "state": self.state,
            "lastState": self.last,
        })
    }
}

/// The states of the init containers, and of the other containers.
fn containers(known: &Taken) -> (ContainerState, ContainerState) {
    let elapsed = known.begun.elapsed();
    let done = || ContainerState {
        state: json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
        ready: true,
        last: Value::Null,
        restarts: 0,
    };
    let held = || ContainerState::waits("PodInitializing", "");
    match known.behaviour {
        Behaviour::Ready(_) | Behaviour::Unreachable | Behaviour::Says(..) => (
            done(),
            ContainerState::runs(known.behaviour.is_ready(elapsed)),
        ),
        Behaviour::Waits(reason, message) => (done(), ContainerState::waits(reason, message)),
        Behaviour::Crashes(code, words) => (done(), ContainerState::crashes(elapsed, code, words)),
        Behaviour::InitWaits(reason, message) => (ContainerState::waits(reason, message), held()),
        Behaviour::InitCrashes(code, words) => {
            (ContainerState::crashes(elapsed, code, words), held())
        }
        Behaviour::Unmounted(_) => (held(), ContainerState::waits("ContainerCreating", "")),
    }
}

fn status(pod: &Value, known: &Taken) -> Value {
    let (init, main) = containers(known);
    let of = |list: &str, said: &ContainerState| -> Vec<Value> {
        let containers = pod["spec"][list].as_array();
        let containers = containers.into_iter().flatten();
        containers.map(|it| said.of(&it["name"])).collect()
    };
    let is = |holds: bool| if holds { "True" } else { "False" };
    let condition = |kind: &str, holds: bool| {
        let before = known.reported["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let before = before
            .into_iter()
            .find(|it| it["type"] == *kind && it["status"] == is(holds));
        let since = before.map_or_else(|| json!(now()), |it| it["lastTransitionTime"].clone());
        json!({"type": kind, "status": is(holds), "lastTransitionTime": since})
    };
    let waits = main.state["waiting"].is_object() && main.restarts == 0;
    json!({
        "phase": if waits { "Pending" } else { "Running" },
        "podIP": known.address.to_string(),
        "podIPs": [{"ip": known.address.to_string()}],
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", init.ready),
            condition("ContainersReady", main.ready),
            condition("Ready", main.ready),
        ],
        "initContainerStatuses": of("initContainers", &init),
        "containerStatuses": of("containers", &main),
    })
}
