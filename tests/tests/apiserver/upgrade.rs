//! Tests of an upgrade from an older version. The objects that the older operator stored
//! (`tests/fixtures/upgrade`, recorded at commit 9ff87d4) meet the present definition and operator.
//! No pod of an app is replaced, no slot and no list of pods is ever without an endpoint, and the
//! first rollout afterwards is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use scaledapp_tests::{binaries, wait};
use serde_json::{Value, json};

use crate::api::{Api, path};
use crate::server::{SYSTEM, Server, bare};
use crate::story::{SOON, Story, condition};

const NAMESPACE: &str = "upgrade";
/// The field manager that wrote the objects.
const MANAGER: &str = "scaledapp-operator";
/// How late controllers may react, on a busy machine.
const CONTROLLER_DELAY: Duration = Duration::from_secs(8);
/// The resources of an app's objects, in the order of their creation.
const RESOURCES: [(&str, &str); 8] = [
    ("/api/v1", "serviceaccounts"),
    ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "services"),
    ("/apis/discovery.k8s.io/v1", "endpointslices"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/policy/v1", "poddisruptionbudgets"),
];

fn fixture(name: &str) -> PathBuf {
    binaries::workspace()
        .join("tests/fixtures/upgrade")
        .join(name)
}

fn read(name: &str) -> String {
    let path = fixture(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn namespace(server: &Server) {
    for name in [SYSTEM, NAMESPACE] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        server.api.apply(&namespace).unwrap();
    }
    wait::until(SOON, "the namespace has its account", || {
        server
            .api
            .get("/api/v1/namespaces/upgrade/serviceaccounts/default")
    })
    .unwrap();
}

fn define(server: &Server, definition: &str) {
    let definition: Value = serde_saphyr::from_str(definition).unwrap();
    server.api.apply(&definition).unwrap();
    wait::until(SOON, "ScaledApps are served", || {
        server.api.get("/apis/scaledapp.io/v1alpha1/scaledapps")
    })
    .unwrap();
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// The apps that were recorded.
fn apps() -> Vec<String> {
    let documents = read("apps.yaml");
    let documents = documents.split("\n---\n");
    let apps = documents.map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    apps.map(|app| name(&app).to_owned()).collect()
}

/// Records the fixtures again, with the operator and the sources of an older commit.
#[test]
#[ignore = "needs SCALEDAPP_OLD_OPERATOR and SCALEDAPP_OLD_TREE"]
fn record() {
    let variable = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let tree = variable("SCALEDAPP_OLD_TREE");
    let server = bare().unwrap();
    let definition = tree.join("charts/scaledapp/files/scaledapp.yaml");
    std::fs::copy(&definition, fixture("definition.yaml")).unwrap();
    define(server, &read("definition.yaml"));
    namespace(server);
    let words = [
        "run",
        "--admin=127.0.0.1:9999",
        "--sidecar-image=registry.test/sidecar:0",
        "--balancer-image=registry.test/balancer:0",
    ];
    let program = variable("SCALEDAPP_OLD_OPERATOR");
    server.start_other_operator(&program, &words).unwrap();
    let story = Story {
        server,
        namespace: NAMESPACE.to_owned(),
    };
    for text in read("apps.yaml").split("\n---\n") {
        let mut app: Value = serde_saphyr::from_str(text).unwrap();
        app["metadata"]["namespace"] = json!(NAMESPACE);
        server.api.apply(&app).unwrap();
    }
    let mut lines = Vec::new();
    let mut uids = BTreeMap::new();
    for app in apps() {
        let object = story.wait_complete(&app);
        uids.insert(uid(&object), format!("uid-of-{app}"));
        lines.push(object);
    }
    for (group, resource) in RESOURCES {
        let ours = "?labelSelector=app.kubernetes.io/managed-by%3Dscaledapp-operator";
        let listed = server
            .api
            .get(&story.at(group, &format!("{resource}{ours}")))
            .unwrap();
        let version = listed["apiVersion"].clone();
        let kind = listed["kind"]
            .as_str()
            .unwrap()
            .trim_end_matches("List")
            .to_owned();
        for mut object in listed["items"].as_array().unwrap().iter().cloned() {
            // The control plane creates the slices of the Services for pods by itself.
            let maker = &object["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
            if *maker == "endpointslice-controller.k8s.io" {
                continue;
            }
            object["apiVersion"] = version.clone();
            object["kind"] = json!(kind);
            object.as_object_mut().unwrap().remove("status");
            lines.push(object);
        }
    }
    let mut text = String::new();
    for mut object in lines {
        let meta = object["metadata"].as_object_mut().unwrap();
        for gone in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            meta.remove(gone);
        }
        if let Some(fields) = meta["managedFields"].as_array_mut() {
            fields.retain(|it| it["manager"] == MANAGER);
        }
        text += &object.to_string();
        text.push('\n');
    }
    for (uid, name) in uids {
        text = text.replace(&uid, &name);
    }
    std::fs::write(fixture("objects.jsonl"), text).unwrap();
    server.stop();
}

/// Stores all objects of the older operator, and lets its pods start.
fn restore(story: &Story) {
    let api = &story.server.api;
    let text = read("objects.jsonl");
    let mut uids: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        for (before, now) in &uids {
            line = line.replace(before, now);
        }
        let object: Value = serde_json::from_str(&line).unwrap();
        let at = path(&object);
        let (all, _) = at.rsplit_once('/').unwrap();
        let mut new = object.clone();
        new["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        let stored = api
            .post(all, &new)
            .unwrap_or_else(|error| panic!("{at}: {error}"));
        if object["kind"] == "ScaledApp" {
            uids.push((format!("uid-of-{}", name(&object)), uid(&stored)));
            let status = json!({"status": object["status"]});
            api.merge(&format!("{at}/status"), &status).unwrap();
            continue;
        }
        // The object's fields must belong to the older operator's field manager.
        let fields = json!({"metadata": {"managedFields": object["metadata"]["managedFields"]}});
        api.merge(&at, &fields).unwrap();
    }
    wait::until(SOON, "the old pods are ready", || {
        let deployments = story.list("/apis/apps/v1", "deployments");
        let late: Vec<&str> = deployments
            .iter()
            .filter(|it| it["status"]["readyReplicas"] != it["spec"]["replicas"])
            .map(name)
            .collect();
        if late.is_empty() {
            Ok(())
        } else {
            Err(format!("{late:?}"))
        }
    })
    .unwrap();
    // The older operator would have written these pods' addresses into the slots' slices by now.
    for slice in story.list("/apis/discovery.k8s.io/v1", "endpointslices") {
        let labels = &slice["metadata"]["labels"];
        let Some(slot) = labels["scaledapp.io/slot"].as_str() else {
            continue;
        };
        let app = labels["app.kubernetes.io/instance"].as_str().unwrap();
        let balancers = story.pods(app, "balancer");
        let own = balancers
            .iter()
            .find(|pod| pod["metadata"]["labels"]["scaledapp.io/slot"] == slot)
            .unwrap();
        let endpoint = json!({
            "addresses": [own["status"]["podIP"]],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": own["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "name": own["metadata"]["name"], "namespace": NAMESPACE, "uid": own["metadata"]["uid"]},
        });
        let at = story.at(
            "/apis/discovery.k8s.io/v1",
            &format!("endpointslices/{}", name(&slice)),
        );
        api.merge(
            &format!("{at}?fieldManager={MANAGER}"),
            &json!({"endpoints": [endpoint]}),
        )
        .unwrap();
    }
}

/// A thread that continuously checks which pods each slice lists.
struct Looker {
    ends: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, BTreeSet<String>)>,
}

impl Looker {
    fn start(api: Api) -> Self {
        let ends = Arc::<AtomicBool>::default();
        let asked = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let (mut looks, mut wrong) = (0, BTreeSet::new());
            let mut seen = Seen::default();
            while !asked.load(Ordering::Relaxed) {
                let pods = api.list("/api/v1/namespaces/upgrade/pods").unwrap();
                let slices = "/apis/discovery.k8s.io/v1/namespaces/upgrade/endpointslices";
                wrong.extend(seen.look(&pods, &api.list(slices).unwrap()));
                looks += 1;
            }
            (looks, wrong)
        });
        Self { ends, thread }
    }

    /// The number of checks, and what was wrong.
    fn stop(self) -> (usize, BTreeSet<String>) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// For each pod, by uid: since when it has been ready, and when it was last seen ready.
#[derive(Default)]
struct Seen {
    ready: BTreeMap<String, Instant>,
    last: BTreeMap<String, Instant>,
}

impl Seen {
    fn look(&mut self, pods: &[Value], slices: &[Value]) -> Vec<String> {
        let now = Instant::now();
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
        };
        let ready: Vec<&Value> = pods.iter().filter(is_ready).collect();
        self.ready
            .retain(|uid, _| ready.iter().any(|pod| pod["metadata"]["uid"] == *uid));
        for pod in &ready {
            self.ready.entry(uid(pod)).or_insert(now);
            self.last.insert(uid(pod), now);
        }
        let mut wrong = Vec::new();
        for slice in slices {
            let service = slice["metadata"]["labels"]["kubernetes.io/service-name"]
                .as_str()
                .unwrap_or_default();
            let mut endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            // The control plane also lists pods that are starting.
            endpoints.retain(|it| it["conditions"]["ready"] != false);
            if endpoints.is_empty() {
                wrong.push(format!("{service} leads nowhere"));
            }
            let listed: Vec<&str> = endpoints
                .iter()
                .filter_map(|it| it["targetRef"]["uid"].as_str())
                .collect();
            // The control plane's own slices may be updated later.
            let by = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
            let is_ours = by != "endpointslice-controller.k8s.io";
            for uid in listed.iter().filter(|_| is_ours) {
                let last = self.last.get(*uid);
                if last.is_none_or(|last| now.duration_since(*last) > CONTROLLER_DELAY) {
                    wrong.push(format!("{service} leads to a pod that is not ready"));
                }
            }
            let Some(app) = service.strip_suffix("-pods") else {
                continue;
            };
            for pod in &ready {
                let labels = &pod["metadata"]["labels"];
                let is_its = labels["app.kubernetes.io/instance"] == *app
                    && labels["app.kubernetes.io/component"] == "app";
                let since = self.ready[&uid(pod)];
                if is_its
                    && now.duration_since(since) > CONTROLLER_DELAY
                    && !listed.contains(&&*uid(pod))
                {
                    wrong.push(format!("{service} lacks a pod that is ready"));
                }
            }
        }
        wrong
    }
}

/// The uids of the app's pods, and the template of its Deployment.
fn running(story: &Story, app: &str) -> (BTreeSet<String>, Value) {
    let pods = story.pods(app, "app");
    let template = story.deployment(app)["spec"]["template"].clone();
    (pods.iter().map(uid).collect(), template)
}

fn images(story: &Story, app: &str, image: &str) -> bool {
    let pods = story.pods(app, "balancer");
    pods.iter()
        .all(|pod| pod["spec"]["containers"][0]["image"] == *image)
}

#[test]
fn an_upgrade_replaces_no_pod_of_an_app_and_empties_no_address() {
    let Some(server) = bare() else {
        return;
    };
    define(server, &read("definition.yaml"));
    namespace(server);
    let story = Story {
        server,
        namespace: NAMESPACE.to_owned(),
    };
    restore(&story);
    let before: Vec<_> = apps().iter().map(|app| running(&story, app)).collect();
    std::thread::sleep(CONTROLLER_DELAY);

    let looker = Looker::start(server.api.clone());
    server.install_chart().unwrap();
    // The stored objects satisfy the present rules.
    for app in apps() {
        let stored = story.app(&app);
        let at = format!("{}?dryRun=All&fieldValidation=Strict", story.app_path(&app));
        server.api.put(&at, &stored).unwrap();
    }
    server.start_operator(1).unwrap();
    for app in apps() {
        story.wait(&app, "today's balancers", |_| {
            images(&story, &app, "registry.test/balancer:1")
        });
        let object = story.wait_complete(&app);
        let updated = condition(&object, "Updated");
        assert_eq!(updated.status, "True", "{updated:?}");
    }
    let (looks, wrong) = looker.stop();
    println!("{looks} checks during the upgrade");
    assert_eq!(wrong, BTreeSet::new());
    for (app, (pods, template)) in apps().iter().zip(&before) {
        let (now, new) = running(&story, app);
        assert_eq!(now, *pods, "pods of {app}");
        assert_eq!(new, *template, "template of {app}");
    }
    settled(&story);
    first_rollout(&story);
    std::mem::forget(story);
    server.stop();
}

/// A person upgrades the definition, which is necessary if it does not belong to the release.
#[test]
fn an_upgraded_definition_changes_no_object_and_accepts_new_fields() {
    let Some(server) = bare() else {
        return;
    };
    namespace(server);
    server.install_chart().unwrap();
    define(server, &read("definition.yaml"));
    server.start_operator(1).unwrap();
    let story = Story {
        server,
        namespace: NAMESPACE.to_owned(),
    };
    let all = format!("{}/", story.at("/apis/scaledapp.io/v1alpha1", "scaledapps"));
    for app in ["first", "second"] {
        let object = json!({
            "apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp",
            "metadata": {"name": app, "namespace": NAMESPACE},
            "spec": {
                "image": "registry.test/app:1", "command": ["serve"], "replicas": {"total": 2},
                // The older definition does not know this field.
                "balancers": {"resources": {"requests": {"cpu": "50m"}}},
            },
        });
        let stored = server.api.post(all.trim_end_matches('/'), &object).unwrap();
        assert_eq!(stored["spec"]["balancers"], json!({}));
        story.wait_complete(app);
    }
    let uids = || -> BTreeSet<String> {
        let pods = story.list("/api/v1", "pods");
        pods.iter().map(uid).collect()
    };
    let (writes, before) = (story.settled_writes(), uids());
    let definition = binaries::workspace().join("charts/scaledapp/files/scaledapp.yaml");
    define(server, &std::fs::read_to_string(definition).unwrap());
    let smaller = json!({"spec": {"balancers": {"resources": {"requests": {"cpu": "50m"}}}}});
    let at = story.app_path("first");
    wait::until(SOON, "the new field is kept", || {
        let stored = server.api.merge(&format!("{at}?dryRun=All"), &smaller);
        let stored = stored.map_err(|error| error.to_string())?;
        if stored["spec"]["balancers"] == smaller["spec"]["balancers"] {
            Ok(())
        } else {
            Err(stored["spec"].to_string())
        }
    })
    .unwrap();
    assert_eq!(story.settled_writes()[writes.len()..], [""; 0]);
    assert_eq!(uids(), before);
    // The operator keeps working, with old fields and with new ones.
    let release = json!({"spec": {"image": "registry.test/app:2"}});
    server
        .api
        .merge(&story.app_path("second"), &release)
        .unwrap();
    server.api.merge(&at, &smaller).unwrap();
    for app in ["first", "second"] {
        story.wait(app, "the change is rolled out", |app| {
            app["status"]["observedGeneration"] == app["metadata"]["generation"]
                && condition(app, "Updated").status == "True"
        });
    }
    let balancer = &story.deployment("first-lb-0")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(balancer["resources"]["requests"]["cpu"], "50m");
    // The app's own pods do not depend on this field.
    let app: BTreeSet<String> = story.pods("first", "app").iter().map(uid).collect();
    assert!(app.is_subset(&before), "{app:?}");
    std::mem::forget(story);
    server.stop();
}

/// Checks that passes without a change write nothing.
fn settled(story: &Story) {
    let before = story.settled_writes();
    for ttl in [100, 101] {
        for app in apps() {
            let dns = json!({"spec": {"dns": {"hostname": format!("{app}.apps.local"), "ttl": format!("{ttl}s")}}});
            story.server.api.merge(&story.app_path(&app), &dns).unwrap();
            story.wait_complete(&app);
        }
    }
    let writes = story.server.writes(NAMESPACE);
    assert_eq!(writes[before.len()..], [""; 0]);
}

/// Old pods lack a label that new pods have, and both kinds must get requests.
fn first_rollout(story: &Story) {
    let looker = Looker::start(story.server.api.clone());
    for app in apps() {
        let release = json!({"spec": {"image": "registry.test/app:2"}});
        story
            .server
            .api
            .merge(&story.app_path(&app), &release)
            .unwrap();
    }
    for app in apps() {
        story.wait(&app, "the new release", |_| {
            let pods = story.pods(&app, "app");
            pods.iter()
                .all(|pod| pod["spec"]["containers"][0]["image"] == "registry.test/app:2")
        });
        let object = story.wait_complete(&app);
        story.wait(&app, "a selector of our own", |object| {
            let selector = object["status"]["selector"].as_str().unwrap_or_default();
            selector.contains("scaledapp.io/app=")
        });
        let pods = format!(
            "{}/{}",
            object["status"]["readyReplicas"], object["status"]["replicas"]
        );
        assert_eq!(object["status"]["pods"], pods);
    }
    std::thread::sleep(CONTROLLER_DELAY);
    let (looks, wrong) = looker.stop();
    println!("{looks} checks during the first rollout");
    assert_eq!(wrong, BTreeSet::new());
}
