//! Tests of the status in each state, and that each change is reported once.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster::{
    Answer, Balancer, Failed, Observed, Outcome, Part, Pod, PodFailure, Supervisor, Trouble,
    events, plan, status, validate,
};

use super::given::{apply, at, balancer, cluster, object, pass, pod, settings};

/// `Ready Progressing Degraded Reconciling Stalled` as T or F, with the reasons other than
/// `AsWanted`.
fn shown(object: &ScaledApp) -> String {
    let status = object.status.as_ref().unwrap();
    let all = status.conditions.iter().filter(|it| it.type_ != "Updated");
    let letters: String = all
        .clone()
        .map(|condition| &condition.status[..1])
        .collect();
    let mut reasons: Vec<&str> = all
        .map(|condition| &*condition.reason)
        .filter(|reason| *reason != "AsWanted")
        .collect();
    reasons.dedup();
    format!("{letters} {}", reasons.join(" "))
        .trim_end()
        .to_owned()
}

pub(crate) fn reason(object: &ScaledApp, kind: &str) -> String {
    let status = object.status.as_ref().unwrap();
    let mut all = status.conditions.iter();
    let found = all.find(|condition| condition.type_ == kind).unwrap();
    found.reason.clone()
}

fn message(object: &ScaledApp, kind: &str) -> String {
    let status = object.status.as_ref().unwrap();
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
        .message
        .clone()
}

pub(crate) fn started(lines: &str) -> (ScaledApp, Observed) {
    let mut object = object(lines);
    let mut observed = cluster(2);
    observed.pods = vec![balancer(0), balancer(1), pod(0), pod(1)];
    for pod in &mut observed.pods[2..] {
        pod.answer = Answer::Supervisor(Supervisor {
            desired: 2,
            ready: 2,
            ..Supervisor::default()
        });
    }
    pass(&mut object, &mut observed);
    pass(&mut object, &mut observed);
    assert_eq!(shown(&object), "TFFFF");
    (object, observed)
}

#[test]
fn numbers_have_their_own_fields() {
    let (object, _) = started("  dns: {hostname: hello.apps.example.com}");
    let status = object.status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    assert_eq!(
        (&*status.pods, &*status.workers.summary, &*status.serving),
        ("2/2", "4/4", "2/2")
    );
    assert_eq!(
        status.selector,
        "app.kubernetes.io/component=app,app.kubernetes.io/instance=hello,scaledapp.io/app=hello"
    );
    assert_eq!(status.hostname.as_deref(), Some("hello.apps.example.com"));
    assert_eq!(
        status.sidecar_version.as_deref(),
        Some("registry.example/scaledapp:1")
    );
    assert_eq!(status.observed_generation, Some(1));
    let slots: Vec<(i32, bool)> = status
        .balancers
        .iter()
        .map(|slot| (slot.slot, slot.serving))
        .collect();
    assert_eq!(slots, [(0, true), (1, true)]);
    assert!(
        status
            .balancers
            .iter()
            .all(|slot| slot.address.starts_with("10.96."))
    );
}

#[test]
fn the_first_pass_reports_that_the_app_starts() {
    let mut object = object("");
    let mut observed = cluster(2);
    let app = validate(&object).unwrap();
    let planned = plan(&app, &observed, &settings());
    object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
    assert_eq!(shown(&object), "FTFTF Starting");
    assert_eq!(object.status.as_ref().unwrap().pods, "0/2");
    // For a new app, one of two pods is not enough.
    observed.pods = vec![balancer(0), balancer(1), pod(0)];
    let planned = plan(&app, &observed, &settings());
    apply(&mut observed, &planned);
    deployment(&mut observed).ready_replicas = Some(1);
    object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
    assert_eq!(shown(&object), "FTFTF Starting");
    deployment(&mut observed).ready_replicas = Some(2);
    object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
    assert_eq!(shown(&object), "TFFFF");
}

type Change = fn(&mut Observed);

fn fail(observed: &mut Observed, reason: Reason, message: &str) {
    observed.pods[2].ready = false;
    observed.pods[2].failure = Some(PodFailure {
        reason,
        message: message.to_owned(),
        part: Part::Main,
    });
    observed.live.deployments[0]
        .status
        .as_mut()
        .unwrap()
        .ready_replicas = Some(1);
}

fn deployment(observed: &mut Observed) -> &mut k8s_openapi::api::apps::v1::DeploymentStatus {
    observed.live.deployments[0].status.as_mut().unwrap()
}

/// What happens to a running app, and its conditions afterwards.
const TABLE: &[(&str, Change, &str)] = &[
    ("nothing", |_| {}, "TFFFF"),
    (
        "a pod is gone",
        |observed| {
            observed.pods.pop();
            deployment(observed).ready_replicas = Some(1);
        },
        "TFTTF FewerPodsReady",
    ),
    (
        "all pods are gone",
        |observed| {
            observed.pods.truncate(2);
            deployment(observed).ready_replicas = Some(0);
        },
        "FFTTF NoReadyPod FewerPodsReady",
    ),
    (
        "a balancer is silent",
        |observed| observed.pods[0].answer = Answer::Silent,
        "TFTFF FewerBalancersServing",
    ),
    (
        "a pod is ready, but its Deployment has not counted it yet",
        |observed| deployment(observed).ready_replicas = Some(1),
        "TTFTF Scaling",
    ),
    (
        "all balancers are gone",
        |observed| {
            observed.pods[..2].iter_mut().for_each(|pod| {
                pod.answer = Answer::Silent;
                pod.ready = false;
            });
        },
        "FFTTF NoBalancerServing FewerBalancersServing",
    ),
    (
        "no balancer answers the operator, and all their kubelets say that they are ready",
        |observed| {
            observed.pods[..2]
                .iter_mut()
                .for_each(|pod| pod.answer = Answer::Silent);
        },
        "TFFFF",
    ),
    (
        "no pod has answered the operator for a while",
        |observed| {
            observed
                .pods
                .iter_mut()
                .for_each(|pod| pod.answer = Answer::Unreachable { accepted: false });
        },
        "TFTFF PodsUnreachable",
    ),
    (
        "the balancers reach no pod",
        |observed| {
            observed.pods[..2].iter_mut().for_each(|pod| {
                pod.answer = Answer::Balancer(Balancer {
                    serving: true,
                    blind: true,
                    why: None,
                });
            });
        },
        "TFTFF PodsUnreachable",
    ),
    (
        "a worker is starting",
        |observed| {
            observed.pods[2].answer = Answer::Supervisor(Supervisor {
                desired: 2,
                ready: 1,
                booting: 1,
                ..Supervisor::default()
            });
        },
        "TFFFF",
    ),
    (
        "an app that listens on another port",
        |observed| {
            observed.pods[2].ready = false;
            observed.pods[2].answer = Answer::Supervisor(Supervisor {
                desired: 2,
                trouble: Some(Trouble::ListensOn(4000)),
                ..Supervisor::default()
            });
            deployment(observed).ready_replicas = Some(1);
        },
        "TFTTF WrongPort",
    ),
    (
        "a worker is missing",
        |observed| {
            observed.pods[2].answer = Answer::Supervisor(Supervisor {
                desired: 2,
                ready: 1,
                ..Supervisor::default()
            });
        },
        "TFTFF FewerWorkersReady",
    ),
    (
        "no pod was asked yet",
        |observed| {
            observed
                .pods
                .iter_mut()
                .for_each(|pod| pod.answer = Answer::NotYet);
        },
        "TFFFF",
    ),
    (
        "a rollout",
        |observed| {
            let status = deployment(observed);
            status.replicas = Some(3);
            status.updated_replicas = Some(1);
        },
        "TTFTF RollingOut",
    ),
    (
        "a change of size",
        |observed| {
            let status = deployment(observed);
            status.replicas = Some(3);
            status.updated_replicas = Some(3);
        },
        "TTFTF Scaling",
    ),
    (
        "a rollout without end",
        |observed| {
            fail(observed, Reason::ImagePullError, "no such image");
            let status = deployment(observed);
            status.updated_replicas = Some(1);
            status.conditions = Some(vec![k8s_openapi::api::apps::v1::DeploymentCondition {
                type_: Some("Progressing".to_owned()),
                status: Some("False".to_owned()),
                reason: Some("ProgressDeadlineExceeded".to_owned()),
                ..Default::default()
            }]);
        },
        "TFTFT RolloutStuck ImagePullError RolloutStuck",
    ),
    (
        "an app that ends",
        |observed| fail(observed, Reason::AppCrashing, "exit code 1: no database"),
        "TFTTF AppCrashing",
    ),
    (
        "an image that runs as root",
        |observed| {
            fail(
                observed,
                Reason::ContainerConfigError,
                "container has runAsNonRoot and image will run as root",
            );
        },
        "TFTTF ContainerConfigError",
    ),
    (
        "a full cluster",
        |observed| fail(observed, Reason::Unschedulable, "Insufficient cpu"),
        "TFTTF Unschedulable",
    ),
    (
        "no node",
        |observed| observed.nodes.clear(),
        "TFTFF NoMatchingNode",
    ),
    (
        "the hostname is taken",
        |observed| observed.hostname_taken_by = Some("shop/first".to_owned()),
        "TFTFF HostnameTaken",
    ),
    (
        "the hostname belongs to others",
        |observed| {
            observed.hostname_refused = Some(scaledapp_plan::cluster::Stalled {
                reason: Reason::HostnameRefused,
                message: "names there belong to others".to_owned(),
            });
        },
        "TFTFF HostnameRefused",
    ),
    (
        "a reload fails",
        |observed| {
            observed.pods[2].answer = Answer::Supervisor(Supervisor {
                desired: 2,
                ready: 2,
                reload_failed: Some("x".to_owned()),
                ..Supervisor::default()
            });
        },
        "TFTFF ReloadFailed",
    ),
];

#[test]
fn each_state_has_its_conditions() {
    for (what, change, expected) in TABLE {
        let (mut object, mut observed) = started("");
        change(&mut observed);
        let app = validate(&object).unwrap();
        let planned = plan(&app, &observed, &settings());
        object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
        assert_eq!(shown(&object), *expected, "{what}: {:?}", object.status);
    }
}

#[test]
fn messages_name_the_cure() {
    for (reason, text, cure) in [
        (
            Reason::ContainerConfigError,
            "container has runAsNonRoot and image will run as root",
            "podTemplate.spec.securityContext.runAsUser",
        ),
        (Reason::ImagePullError, "not found", "check spec.image"),
        (
            Reason::AppCrashing,
            "exit code 1: no database",
            "exit code 1: no database",
        ),
    ] {
        let (mut object, mut observed) = started("");
        fail(&mut observed, reason, text);
        let app = validate(&object).unwrap();
        let planned = plan(&app, &observed, &settings());
        object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
        let message = message(&object, "Degraded");
        assert!(
            message.contains(text) && message.contains(cure),
            "{message}"
        );
    }
}

#[test]
fn the_same_facts_are_the_same_status_and_times_move_with_the_status_only() {
    let (mut object, mut observed) = started("");
    let before = object.status.clone().unwrap();
    observed.now = at(500);
    pass(&mut object, &mut observed);
    assert_eq!(object.status.as_ref().unwrap(), &before);
    observed.pods[0].answer = Answer::Silent;
    pass(&mut object, &mut observed);
    let after = object.status.unwrap();
    for (before, after) in before.conditions.iter().zip(&after.conditions) {
        let moved = before.last_transition_time != after.last_transition_time;
        assert_eq!(moved, before.type_ == "Degraded", "{after:?}");
    }
    let sent: Vec<&str> = events(Some(&before), &after)
        .iter()
        .map(|event| event.reason.as_str())
        .collect();
    assert_eq!(sent, ["FewerBalancersServing"]);
    assert!(events(Some(&after), &after).is_empty());
}

#[test]
fn an_invalid_object_is_stalled_and_still_served() {
    let (mut good, observed) = started("");
    good.metadata.generation = Some(2);
    good.spec.port = Some(0);
    let violations = validate(&good).unwrap_err();
    good.status = Some(status(&good, &observed, Outcome::Invalid(&violations)));
    assert_eq!(shown(&good), "TFTFT InvalidSpec");
    assert!(message(&good, "Stalled").contains("spec.port: 0 is not a port"));
    assert_eq!(good.status.as_ref().unwrap().observed_generation, Some(2));
    let fresh = object("  port: 0");
    let fresh = status(&fresh, &cluster(2), Outcome::Invalid(&violations));
    assert_eq!(fresh.conditions[0].status, "False");
    assert_eq!(fresh.conditions[0].reason, "InvalidSpec");
}

#[test]
fn a_failed_write_a_pause_and_a_new_image_are_reported() {
    let (mut object, observed) = started("");
    let app = validate(&object).unwrap();
    let planned = plan(&app, &observed, &settings());
    object.status = Some(status(
        &object,
        &observed,
        Outcome::Failed(
            &app,
            &planned,
            Failed {
                why: "the API server did not answer",
                refused: false,
            },
        ),
    ));
    assert_eq!(shown(&object), "TTFTF ApplyFailed");
    // A refused object is not accepted later without a change, so the app is degraded.
    object.status = Some(status(
        &object,
        &observed,
        Outcome::Failed(
            &app,
            &planned,
            Failed {
                why: "cannot apply a Deployment: denied by policy p",
                refused: true,
            },
        ),
    ));
    assert_eq!(shown(&object), "TTTTF ApplyFailed");
    object.spec.paused = true;
    let app = validate(&object).unwrap();
    let planned = plan(&app, &observed, &settings());
    object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
    assert_eq!(shown(&object), "TFFFF Paused");
    object.spec.paused = false;
    object.spec.image = "example/hello:2.0".to_owned();
    let app = validate(&object).unwrap();
    let planned = plan(&app, &observed, &settings());
    // The change is written but not yet observed, so the rollout must not count as finished.
    object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
    assert_eq!(shown(&object), "TTFTF RollingOut");
}

#[test]
fn a_slot_behind_a_load_balancer_has_the_load_balancers_address() {
    let (_, mut observed) = started("");
    let mut object = object("  balancers: {exposure: LoadBalancer}");
    pass(&mut object, &mut observed);
    assert_eq!(shown(&object), "FTFTF Starting");
    let ingress = |ip: Option<&str>, hostname: Option<&str>| ServiceStatus {
        load_balancer: Some(LoadBalancerStatus {
            ingress: Some(vec![LoadBalancerIngress {
                ip: ip.map(ToOwned::to_owned),
                hostname: hostname.map(ToOwned::to_owned),
                ..LoadBalancerIngress::default()
            }]),
        }),
        ..ServiceStatus::default()
    };
    let mut give = |given: ServiceStatus| {
        for service in &mut observed.live.services {
            service.status = Some(given.clone());
        }
        let app = validate(&object).unwrap();
        let planned = plan(&app, &observed, &settings());
        object.status = Some(status(&object, &observed, Outcome::Applied(&app, &planned)));
        (
            shown(&object),
            object.status.clone().unwrap().balancers[0].address.clone(),
        )
    };
    let (conditions, address) = give(ingress(None, Some("elb.example.com")));
    assert!(
        conditions.contains("AddressIsAName") && address.is_empty(),
        "{conditions}"
    );
    let (conditions, address) = give(ingress(Some("203.0.113.7"), None));
    assert_eq!((&*conditions, &*address), ("TFFFF", "203.0.113.7"));
}

/// Pods that do not belong to the app can have its labels, and their admin ports can answer
/// anything.
#[test]
fn answers_of_pods_neither_overflow_sums_nor_enlarge_the_status() {
    let (object, mut observed) = started("");
    let boasting = Supervisor {
        desired: u32::MAX,
        ready: u32::MAX / 2 + 7,
        ..Supervisor::default()
    };
    let pod = observed.pods[2].clone();
    observed.pods.extend((0..50).map(|index| Pod {
        name: format!("boasting-{index}"),
        uid: format!("boasting-{index}"),
        answer: Answer::Supervisor(boasting.clone()),
        sidecar_image: Some(format!("{index}.example/{}", "x".repeat(5_000))),
        ready: false,
        failure: Some(PodFailure {
            reason: Reason::AppCrashing,
            message: "ä".repeat(100_000),
            part: Part::Main,
        }),
        ..pod.clone()
    }));
    observed.live.deployments[0]
        .status
        .get_or_insert_default()
        .ready_replicas = Some(0);
    let app = validate(&object).unwrap();
    let planned = plan(&app, &observed, &settings());
    let status = status(&object, &observed, Outcome::Applied(&app, &planned));
    let degraded = status.conditions.iter().find(|it| it.type_ == "Degraded");
    let message = &degraded.unwrap().message;
    assert!(
        message.contains("ää") && message.ends_with('…'),
        "{message}"
    );
    assert_eq!(
        (status.workers.desired, status.workers.ready),
        (i32::MAX, i32::MAX)
    );
    let size = serde_json::to_string(&status).unwrap().len();
    assert!(size < 32 << 10, "{size} bytes");
}

fn updated(object: &ScaledApp) -> (String, String) {
    let status = object.status.as_ref().unwrap();
    let mut all = status.conditions.iter();
    let updated = all.find(|it| it.type_ == "Updated").unwrap();
    (updated.status.clone(), updated.reason.clone())
}

/// A pipeline waits for `Updated`; `Ready` is about what serves.
#[test]
fn updated_is_true_only_once_every_pod_is_new_and_serves() {
    let (mut object, mut observed) = started("");
    assert_eq!(updated(&object).0, "True");
    let status = observed.live.deployments[0].status.as_mut().unwrap();
    (status.replicas, status.updated_replicas) = (Some(3), Some(1));
    observed.pods.push(Pod {
        ready: false,
        failure: Some(PodFailure {
            reason: Reason::AppCrashing,
            message: "exit code 1: no database".to_owned(),
            part: Part::Main,
        }),
        ..pod(2)
    });
    let app = validate(&object).unwrap();
    let planned = plan(&app, &observed, &settings());
    object.status = Some(scaledapp_plan::cluster::status(
        &object,
        &observed,
        Outcome::Applied(&app, &planned),
    ));
    assert_eq!(
        updated(&object),
        ("False".to_owned(), "AppCrashing".to_owned())
    );
    assert!(shown(&object).starts_with("TTT"), "{}", shown(&object));
}

/// When a stuck release is corrected, `helm upgrade --wait` reads `Stalled` before the Deployment's
/// controller has observed the new generation. `Stalled` must not report the old rollout then.
#[test]
fn a_rollout_is_no_longer_stuck_once_the_object_has_another_generation() {
    let (mut object, mut observed) = started("");
    let stuck = serde_json::json!({
        "observedGeneration": 1, "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2,
        "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
    });
    let mut deployments = observed.live.deployments.iter_mut();
    let live = deployments.find(|it| it.metadata.name.as_deref() == Some("hello"));
    let live = live.unwrap();
    live.status = Some(serde_json::from_value(stuck).unwrap());
    for (generation, letters) in [(1, "TFTFT"), (2, "TTFTF")] {
        let mut observed = observed.clone();
        let mut deployments = observed.live.deployments.iter_mut();
        let live = deployments.find(|it| it.metadata.name.as_deref() == Some("hello"));
        live.unwrap().metadata.generation = Some(generation);
        let app = validate(&object).unwrap();
        let planned = plan(&app, &observed, &settings());
        let after = status(&object, &observed, Outcome::Applied(&app, &planned));
        object.status = Some(after);
        assert!(
            shown(&object).starts_with(letters),
            "{generation}: {}",
            shown(&object)
        );
    }
}
