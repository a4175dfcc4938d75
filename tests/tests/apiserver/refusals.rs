//! Tests of pods that do not start: what the status says, whose message it quotes, how
//! soon, and that it does not change until the cause is removed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::kubelet::Behaviour;
use crate::story::{SOON, Story, condition, story};

const READY: Behaviour = Behaviour::Ready(Duration::ZERO);

fn is_app(pod: &Value) -> bool {
    pod["spec"]["containers"][0]["name"] == "app"
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

impl Story {
    /// Waits until Degraded has this reason and message. Checks that Updated has the same reason.
    fn wait_reported(&self, reason: &str, says: &str) -> Value {
        let app = self.wait("hello", "the reason", |app| {
            let degraded = condition(app, "Degraded");
            degraded.reason == reason && degraded.message.contains(says)
        });
        let updated = condition(&app, "Updated");
        assert_eq!((&*updated.status, &*updated.reason), ("False", reason));
        app
    }
}

#[test]
fn an_image_that_cannot_be_pulled_is_named_for_app_init_container_and_balancer() {
    let Some(story) = story("pull", 1) else {
        return;
    };
    let missing = "failed to pull registry.test/x: not found";
    story.rule(move |pod| {
        if is_app(pod) {
            Behaviour::InitWaits("ErrImagePull", missing)
        } else {
            READY
        }
    });
    story.apply("hello", "replicas: {total: 1}");
    let app = story.wait_reported("ImagePullError", missing);
    assert_eq!(condition(&app, "Ready").reason, "ImagePullError");
    story.rule(move |pod| {
        if is_app(pod) {
            READY
        } else {
            Behaviour::Waits("ImagePullBackOff", missing)
        }
    });
    story.wait_reported("ImagePullError", "balancer: failed to pull");
    story.rule(|_| READY);
    story.wait_complete("hello");
    let warnings = story.warnings("hello");
    assert!(warnings.len() <= 2, "{warnings:?}");
}

#[test]
fn a_refusal_of_pods_is_quoted() {
    let Some(story) = story("refused", 1) else {
        return;
    };
    let quota = |hard: &Value| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "refused"}, "spec": {"hard": hard}});
    story.try_apply(&quota(&json!({"pods": "2"}))).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    story.apply("hello", "replicas: {total: 4}");
    story.wait_reported("PodsRefused", "exceeded quota: q");
    story.try_apply(&quota(&json!({"pods": "20"}))).unwrap();
    story
        .server
        .api
        .delete(&story.app_path("hello"), &json!({}))
        .unwrap();

    // Pod Security refuses what the user's template sets.
    let root = "replicas: {total: 1}\npodTemplate: {spec: {hostNetwork: true}}";
    story.apply("hello", root);
    story.wait_reported("PodsRefused", "violates PodSecurity");
}

/// The new release crashes while the old one serves.
#[test]
fn a_pipeline_sees_that_a_release_fails_and_the_old_pods_stay() {
    let Some(story) = story("release", 1) else {
        return;
    };
    let words = "throw e\n^\nError: no database\n    at main (server.js:3:7)\n\nNode.js v18.20.4\n";
    story.rule(move |pod| match image(pod) {
        "registry.test/app:2" => Behaviour::Crashes(1, words),
        _ => READY,
    });
    story.apply("hello", "replicas: {total: 2}");
    let app = story.wait_complete("hello");
    assert_eq!(condition(&app, "Updated").status, "True");
    assert_eq!(story.warnings("hello"), [""; 0], "a first start");
    story.apply("hello", "replicas: {total: 2}\nimage: registry.test/app:2");
    let app = story.wait_reported("AppCrashing", "exit code 1: Error: no database");
    // Both old pods keep serving.
    assert_eq!(condition(&app, "Ready").status, "True");
    assert_eq!(app["status"]["readyReplicas"], 2);
    // The message stays the same over two restarts.
    let begun = Instant::now();
    let mut seen = BTreeSet::new();
    while begun.elapsed() < Duration::from_secs(5) {
        seen.insert(condition(&story.app("hello"), "Degraded").message);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    story.apply("hello", "replicas: {total: 2}\nimage: registry.test/app:3");
    let app = story.wait_complete("hello");
    assert_eq!(condition(&app, "Updated").status, "True");
    let warnings = story.warnings("hello");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn a_new_object_does_not_count_as_reconciled() {
    let Some(story) = story("fresh", 1) else {
        return;
    };
    let made = story.apply("hello", "replicas: {total: 1}");
    assert_eq!(made["status"]["observedGeneration"], -1, "{made}");
    let app = story.wait_complete("hello");
    assert_eq!(app["status"]["observedGeneration"], 1);
}

/// A cause must be reported within this time.
const AT_ONCE: Duration = Duration::from_secs(30);

/// One cause why pods do not start, in its own namespace.
struct Case {
    name: &'static str,
    /// Creates the obstacle before the app is applied.
    before: fn(&Story),
    /// Fields that are applied first, until the app is complete. They are for cases in which
    /// balancers fail later.
    first: Option<&'static str>,
    fields: &'static str,
    rule: fn(&Value) -> Behaviour,
    reason: &'static str,
    /// Parts of the message: the object, the quoted cause and the cure.
    says: &'static [&'static str],
}

const QUIET: Case = Case {
    name: "",
    before: |_| {},
    first: None,
    fields: "replicas: {total: 1}\nbalancers: {replicas: 1}",
    rule: |_| READY,
    reason: "PodsRefused",
    says: &[],
};

/// Gives this behaviour to the app's pods; balancers are ready.
fn of_app(pod: &Value, behaviour: Behaviour) -> Behaviour {
    if is_app(pod) { behaviour } else { READY }
}

fn of_balancers(pod: &Value, behaviour: Behaviour) -> Behaviour {
    if is_app(pod) { READY } else { behaviour }
}

impl Story {
    /// Creates in the story's namespace an object that does not belong to the app.
    pub(crate) fn make(&self, group: &str, kind: &str, object: &Value) {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!(self.namespace);
        let path = self.at(group, kind);
        self.server.api.post(&path, &object).unwrap();
        // Admission reads the object from a cache, which is updated a moment later.
        std::thread::sleep(Duration::from_secs(1));
    }

    /// Adds a policy that refuses objects with this component label.
    fn refuse(&self, component: &str, group: &str, resource: &str) {
        let name = format!("{}-{component}", self.namespace);
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]},
                "validations": [{"expression": format!("object.metadata.?labels[?'app.kubernetes.io/component'].orValue('') != '{component}'"), "message": "not on a Friday"}],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}}},
        });
        let path = "/apis/admissionregistration.k8s.io/v1";
        let api = &self.server.api;
        api.post(&format!("{path}/validatingadmissionpolicies"), &policy)
            .unwrap();
        api.post(
            &format!("{path}/validatingadmissionpolicybindings"),
            &binding,
        )
        .unwrap();
        // The policy is in force once it refuses something.
        let probe = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "probe-", "labels": {"app.kubernetes.io/component": component}}, "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "image": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        }});
        let probe = if resource == "pods" {
            probe
        } else {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generateName": "probe-", "labels": {"app.kubernetes.io/component": component}}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "c"}]}}}})
        };
        let (group, resource) = match resource {
            "pods" => ("/api/v1", "pods?dryRun=All"),
            _ => ("/apis/apps/v1", "deployments?dryRun=All"),
        };
        wait::until(SOON, "the policy is in force", || {
            match api.post(&self.at(group, resource), &probe) {
                Err(refused) if refused.message.contains("Friday") => Ok(()),
                other => {
                    std::thread::sleep(Duration::from_millis(100));
                    Err(format!("{other:?}"))
                }
            }
        })
        .unwrap();
    }

    /// Adds a webhook that is called for new pods and does not answer.
    fn webhook(&self, component: &str) {
        let name = format!("{}-{component}", self.namespace);
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "gone.registry.test", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 1,
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "objectSelector": {"matchLabels": {"app.kubernetes.io/component": component}},
            }],
        });
        let path =
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations".to_owned();
        self.server.api.post(&path, &webhook).unwrap();
        std::thread::sleep(Duration::from_secs(2));
    }
}

pub(crate) fn quota(story: &Story, hard: &Value) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}});
    story.make("/api/v1", "resourcequotas", &quota);
}

fn limit(story: &Story, limits: &Value) {
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "narrow"}, "spec": {"limits": [limits]}});
    story.make("/api/v1", "limitranges", &range);
}

const CASES: &[Case] = &[
    Case {
        name: "quota-app",
        before: |story| quota(story, &json!({"pods": "0"})),
        says: &[
            "a pod may not be created",
            "exceeded quota: small",
            "raise that ResourceQuota",
        ],
        ..QUIET
    },
    Case {
        name: "quota-balancer",
        before: |story| quota(story, &json!({"pods": "2"})),
        first: Some("replicas: {total: 1}\nbalancers: {replicas: 1}"),
        fields: "replicas: {total: 1}\nbalancers: {replicas: 2}",
        says: &[
            "balancer: a pod may not be created",
            "exceeded quota: small",
            "spec.balancers",
        ],
        ..QUIET
    },
    Case {
        name: "range-app",
        before: |story| limit(story, &json!({"type": "Container", "min": {"cpu": "2"}})),
        says: &[
            "per Container is 2, but request is 1",
            "spec.resources",
            "LimitRange",
        ],
        ..QUIET
    },
    // A LimitRange sets its maximum as the limit of a container without a limit.
    Case {
        name: "range-default-app",
        before: |story| limit(story, &json!({"type": "Container", "max": {"cpu": "500m"}})),
        says: &[
            "must be less than or equal to cpu limit of 500m",
            "spec.resources",
            "LimitRange",
        ],
        ..QUIET
    },
    Case {
        name: "range-balancer",
        before: |story| {
            limit(
                story,
                &json!({"type": "Container", "max": {"memory": "256Mi"}}),
            );
        },
        says: &[
            "balancer: ",
            "per Container is 256Mi",
            "spec.balancers",
            "LimitRange",
        ],
        ..QUIET
    },
    Case {
        name: "security-app",
        fields: "replicas: {total: 1}\nbalancers: {replicas: 1}\npodTemplate: {spec: {hostNetwork: true}}",
        says: &["violates PodSecurity", "pod-security.kubernetes.io/enforce"],
        ..QUIET
    },
    Case {
        name: "policy-app",
        before: |story| story.refuse("app", "", "pods"),
        says: &["denied request: not on a Friday", "or that policy"],
        ..QUIET
    },
    Case {
        name: "policy-balancer",
        before: |story| story.refuse("balancer", "", "pods"),
        says: &[
            "balancer: ",
            "denied request: not on a Friday",
            "or that policy",
        ],
        ..QUIET
    },
    Case {
        name: "policy-deployment",
        before: |story| story.refuse("app", "apps", "deployments"),
        reason: "ApplyFailed",
        says: &[
            "cannot apply a Deployment",
            "not on a Friday",
            "or that policy",
        ],
        ..QUIET
    },
    Case {
        name: "webhook-app",
        before: |story| story.webhook("app"),
        says: &["failed calling webhook \"gone.registry.test\"", "repair it"],
        ..QUIET
    },
    Case {
        name: "webhook-balancer",
        before: |story| story.webhook("balancer"),
        says: &[
            "balancer: ",
            "failed calling webhook \"gone.registry.test\"",
            "repair it",
        ],
        ..QUIET
    },
    Case {
        name: "account-app",
        fields: "replicas: {total: 1}\nbalancers: {replicas: 1}\npodTemplate: {spec: {serviceAccountName: nobody}}",
        says: &[
            "error looking up service account",
            "create that ServiceAccount",
        ],
        ..QUIET
    },
    Case {
        name: "priority-app",
        fields: "replicas: {total: 1}\nbalancers: {replicas: 1}\npodTemplate: {spec: {priorityClassName: highest}}",
        says: &["no PriorityClass with name highest", "spec.podTemplate"],
        ..QUIET
    },
    Case {
        name: "room-app",
        fields: "replicas: {total: 1}\nbalancers: {replicas: 1}\nresources: {requests: {cpu: '32'}}",
        reason: "Unschedulable",
        says: &["no node takes one of the pods", "Insufficient cpu"],
        ..QUIET
    },
    Case {
        name: "secret-app",
        rule: |pod| {
            of_app(
                pod,
                Behaviour::Waits("CreateContainerConfigError", "secret \"db\" not found"),
            )
        },
        reason: "ContainerConfigError",
        says: &["secret \"db\" not found", "create the Secret"],
        ..QUIET
    },
    Case {
        name: "map-init",
        rule: |pod| {
            of_app(
                pod,
                Behaviour::InitWaits("CreateContainerConfigError", "configmap \"conf\" not found"),
            )
        },
        reason: "ContainerConfigError",
        says: &[
            "init container scaledapp-install: ",
            "configmap \"conf\" not found",
            "create the ConfigMap",
        ],
        ..QUIET
    },
    Case {
        name: "config-balancer",
        rule: |pod| {
            of_balancers(
                pod,
                Behaviour::Waits("CreateContainerError", "no space left on device"),
            )
        },
        reason: "ContainerConfigError",
        says: &["balancer: ", "no space left on device", "spec.balancers"],
        ..QUIET
    },
    Case {
        name: "volume-app",
        rule: |pod| {
            of_app(
                pod,
                Behaviour::Unmounted(
                    "MountVolume.SetUp failed for volume \"v\" : secret \"db\" not found",
                ),
            )
        },
        reason: "PodCannotStart",
        says: &[
            "a pod cannot start: ",
            "secret \"db\" not found",
            "create it",
        ],
        ..QUIET
    },
    Case {
        name: "volume-balancer",
        rule: |pod| {
            of_balancers(
                pod,
                Behaviour::Unmounted(
                    "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found",
                ),
            )
        },
        reason: "PodCannotStart",
        says: &[
            "balancer: a pod cannot start: ",
            "configmap \"c\" not found",
            "create it",
        ],
        ..QUIET
    },
    Case {
        name: "pull-app",
        rule: |pod| {
            of_app(
                pod,
                Behaviour::Waits(
                    "ImagePullBackOff",
                    "Back-off pulling image \"a:1\": ErrImagePull: a:1: not found",
                ),
            )
        },
        reason: "ImagePullError",
        says: &["a:1: not found", "check spec.image"],
        ..QUIET
    },
    Case {
        name: "pull-init",
        rule: |pod| of_app(pod, Behaviour::InitWaits("ErrImagePull", "s:1: not found")),
        reason: "ImagePullError",
        says: &[
            "init container scaledapp-install: s:1: not found",
            "images.sidecar",
        ],
        ..QUIET
    },
    Case {
        name: "pull-balancer",
        rule: |pod| of_balancers(pod, Behaviour::Waits("ErrImagePull", "b:1: not found")),
        reason: "ImagePullError",
        says: &["balancer: b:1: not found", "images.balancer"],
        ..QUIET
    },
    Case {
        name: "crash-app",
        rule: |pod| of_app(pod, Behaviour::Crashes(1, "Error: no database")),
        reason: "AppCrashing",
        says: &["the app ends before it is ready: exit code 1: Error: no database"],
        ..QUIET
    },
    Case {
        name: "crash-init",
        rule: |pod| of_app(pod, Behaviour::InitCrashes(2, "no such directory")),
        reason: "AppCrashing",
        says: &[
            "init container scaledapp-install ends before it is done: exit code 2: no such directory",
        ],
        ..QUIET
    },
    Case {
        name: "crash-balancer",
        rule: |pod| of_balancers(pod, Behaviour::Crashes(3, "no token")),
        reason: "AppCrashing",
        says: &["balancer: it ends before it is ready: exit code 3: no token"],
        ..QUIET
    },
    // The app's process runs, and its supervisor reports what is wrong.
    Case {
        name: "port-app",
        rule: |pod| {
            of_app(
                pod,
                Behaviour::Says(
                    false,
                    r#"{"desired": 1, "ready": 0, "workers": [{"slot": 0, "state": "Starting", "stateSeconds": 3.2, "listensElsewhere": 4000}]}"#,
                ),
            )
        },
        reason: "WrongPort",
        says: &[
            "the app listens on 4000, spec.port is 3000",
            "change spec.port",
        ],
        ..QUIET
    },
];

/// Whether the cause is reported as expected.
fn is_reported(case: &Case, app: &Value) -> Result<(), String> {
    let degraded = condition(app, "Degraded");
    let ready = condition(app, "Ready");
    // Before the first start Ready has the same message. Later Ready may be true.
    let shown = if case.first.is_none() {
        &ready
    } else {
        &degraded
    };
    let is_there = degraded.status == "True"
        && degraded.reason == case.reason
        && shown.reason == case.reason
        && case.says.iter().all(|part| shown.message.contains(part));
    if is_there {
        Ok(())
    } else {
        Err(format!("{}: {ready:?} {degraded:?}", case.name))
    }
}

fn try_case(case: &Case) {
    let Some(story) = story(case.name, 1) else {
        return;
    };
    (case.before)(&story);
    if let Some(first) = case.first {
        story.apply("hello", first);
        story.wait_complete("hello");
    }
    story.rule(case.rule);
    story.apply("hello", case.fields);
    let begun = Instant::now();
    wait::until(AT_ONCE, case.name, || {
        std::thread::sleep(Duration::from_millis(100));
        is_reported(case, &story.app("hello"))
    })
    .unwrap();
    println!("{}: reported after {:?}", case.name, begun.elapsed());
    // The message does not change, and there is one event.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        is_reported(case, &story.app("hello")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let warnings = story.warnings("hello");
    assert_eq!(warnings.len(), 1, "{}: {warnings:?}", case.name);
    assert!(warnings[0].starts_with(case.reason), "{warnings:?}");
}

/// Causes that keep pods of the app, its init container or its balancers from starting.
#[test]
fn each_cause_is_quoted_at_once_with_its_cure() {
    // Four cases run at a time, each in its own namespace.
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(case) = CASES.get(index) else {
                        return;
                    };
                    if std::panic::catch_unwind(|| try_case(case)).is_err() {
                        failed.lock().unwrap().push(case.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}
