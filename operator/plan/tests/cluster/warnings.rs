//! Who is warned of what, and where people find what a reason means.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use scaledapp_plan::cluster::{Heard, Observed, Outcome, Pod, events, plan, status, validate};

use super::given::{apply, at, balancer, settings};
use super::status::{reason, started};

/// From one balancer more being asked for until it serves: nobody needs to be warned.
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
        let told = events(before.as_ref(), object.status.as_ref().unwrap());
        let warned = told.into_iter().map(|event| event.note);
        (warned.collect::<Vec<_>>(), reason(&object, "Degraded"))
    };
    // Nothing is there of it; then its Service; then its pod.
    assert_eq!(step(&mut observed), fine);
    assert_eq!(step(&mut observed), fine);
    observed.pods.push(Pod {
        ready: false,
        created: Some(at(1)),
        heard: Heard::NotYet,
        ..balancer(2)
    });
    assert_eq!(step(&mut observed), fine);
    // One that never comes is told of all the same.
    observed.now = at(100);
    assert_eq!(step(&mut observed).1, "FewerBalancersServing");
    let last = observed.pods.len() - 1;
    observed.pods[last] = balancer(2);
    step(&mut observed);
    assert_eq!(step(&mut observed).1, "AsWanted");
}

/// The page that people find by the reason.
#[test]
fn every_reason_is_documented() {
    let page = include_str!("../../../../docs/status.md");
    for reason in scaledapp_crds::words::Reason::ALL {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
    }
}
