//! Tests that warnings are sent at the right time, and that each reason is documented.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster::{
    Answer, Observed, Outcome, Part, Pod, PodFailure, WaitsFor, events, plan, status, validate,
};

use super::given::{apply, at, balancer, pod, settings};
use super::status::{reason, started};

/// There is no warning between the request for another balancer and the time when it serves.
#[test]
fn another_balancer_comes_without_a_warning() {
    let (mut object, mut observed) = started("");
    let fine = (Vec::new(), "AsWanted".to_owned());
    object.spec.balancers = Some(scaledapp_crds::v1alpha1::Balancers {
        replicas: Some(3),
        ..Default::default()
    });
    let mut step = |observed: &mut Observed| {
        let before = object.status.clone();
        let app = validate(&object).unwrap();
        let planned = plan(&app, observed, &settings());
        object.status = Some(status(&object, observed, Outcome::Applied(&app, &planned)));
        apply(observed, &planned);
        for service in &mut observed.live.services {
            if service.metadata.name.as_deref() == Some("hello-lb-2") {
                service.metadata.creation_timestamp = Some(Time(at(0)));
            }
        }
        let sent = events(before.as_ref(), object.status.as_ref().unwrap());
        let warned = sent.into_iter().map(|event| event.note);
        (warned.collect::<Vec<_>>(), reason(&object, "Degraded"))
    };
    // First nothing of the new slot exists, then its Service, then its pod.
    assert_eq!(step(&mut observed), fine);
    assert_eq!(step(&mut observed), fine);
    observed.pods.push(Pod {
        ready: false,
        created: Some(at(1)),
        answer: Answer::NotYet,
        ..balancer(2)
    });
    assert_eq!(step(&mut observed), fine);
    // A balancer that never serves is reported.
    observed.now = at(100);
    assert_eq!(step(&mut observed).1, "FewerBalancersServing");
    let last = observed.pods.len() - 1;
    observed.pods[last] = balancer(2);
    step(&mut observed);
    assert_eq!(step(&mut observed).1, "AsWanted");
}

/// A drained node leaves a pod without a node for a moment.
#[test]
fn a_pod_without_a_node_is_reported_after_a_while() {
    let (object, mut observed) = started("  replicas: {total: 2}");
    let app = validate(&object).unwrap();
    let waiting = Pod {
        ready: false,
        node: None,
        created: Some(at(0)),
        ..pod(1)
    };
    let refused = |since| Pod {
        failure: Some(PodFailure {
            reason: Reason::Unschedulable,
            message: "0/2 nodes are available: 2 Insufficient cpu".to_owned(),
            part: Part::Main,
        }),
        refused_since: Some(at(since)),
        ..waiting.clone()
    };
    let unseen = |waits_for| Pod {
        waits_for: Some(waits_for),
        ..waiting.clone()
    };
    let scheduler = WaitsFor::Scheduler("mine".to_owned());
    let claim = WaitsFor::Claim("data".to_owned());
    for (pod, reported_at, cure) in [
        (refused(0), 5, "lower spec.resources"),
        (unseen(scheduler), 10, "spec.podTemplate.spec.schedulerName"),
        (unseen(claim), 60, "kubectl describe pvc"),
    ] {
        observed.pods.truncate(3);
        observed.pods.push(pod);
        let deployment = &mut observed.live.deployments[0];
        deployment.status.as_mut().unwrap().ready_replicas = Some(1);
        for (now, is_reported) in [(reported_at - 1, false), (reported_at, true)] {
            observed.now = at(now);
            let planned = plan(&app, &observed, &settings());
            let after = status(&object, &observed, Outcome::Applied(&app, &planned));
            let mut conditions = after.conditions.iter();
            let degraded = conditions.find(|it| it.type_ == "Degraded").unwrap();
            assert_eq!(
                degraded.reason == "Unschedulable",
                is_reported,
                "{degraded:?}"
            );
            assert_eq!(degraded.message.contains(cure), is_reported, "{degraded:?}");
            if !is_reported {
                assert!(planned.wake.is_some_and(|wake| wake.as_secs() <= 1));
            }
            assert_eq!(
                events(object.status.as_ref(), &after).is_empty(),
                !is_reported
            );
        }
    }
}

/// Users look up reasons on this page.
#[test]
fn every_reason_is_documented() {
    let page = include_str!("../../../../docs/status.md");
    for reason in Reason::ALL {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
    }
}
