//! Tests that a changed number of workers and a reload reach running pods without a restart.

use std::collections::BTreeMap;

use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::{Answer, Observed, Plan, Supervisor, plan, validate};

use super::given::{app, apply, at, object, pod, running, settings};

fn config_map(planned: &Plan) -> Vec<(&str, &str)> {
    let data = planned.apply.config_maps[0].data.as_ref().unwrap();
    data.iter().map(|(key, value)| (&**key, &**value)).collect()
}

fn touched(planned: &Plan, annotation: &str) -> BTreeMap<String, String> {
    let touch = planned.touch.iter();
    touch
        .filter_map(|touch| {
            Some((
                touch.name.clone(),
                touch.annotations.get(annotation)?.clone(),
            ))
        })
        .collect()
}

fn step(object: &ScaledApp, observed: &mut Observed) -> Plan {
    let planned = plan(&validate(object).unwrap(), observed, &settings());
    apply(observed, &planned);
    planned
}

#[test]
fn a_new_number_goes_to_the_config_map_and_every_running_pod_once() {
    let mut observed = running(&app(""));
    let template = observed.live.deployments[0].spec.template.clone();
    let changed = object("  workers: {count: 3}");
    let planned = step(&changed, &mut observed);
    assert_eq!(
        config_map(&planned),
        [("token", "fresh-token"), ("workers", "3")]
    );
    let expected = [
        ("hello-0".to_owned(), "3".to_owned()),
        ("hello-1".to_owned(), "3".to_owned()),
    ];
    assert_eq!(touched(&planned, "scaledapp.io/workers"), expected.into());
    assert_eq!(planned.apply.deployments[0].spec.template, template);
    assert_eq!(planned.events[0].reason, "WorkersChanged");
    let desired = touched(&planned, "scaledapp.io/desired");
    assert_eq!(desired["hello-0"], r#"{"workers":"3"}"#);
    // A pod that starts well after the change reads the new number itself. A pod that starts
    // shortly after the change may have read the old one.
    let mut late = pod(2);
    late.created = Some(at(30));
    observed.pods.push(late);
    let mut early = pod(3);
    early.created = Some(at(29));
    observed.pods.push(early);
    let planned = step(&changed, &mut observed);
    assert_eq!(
        touched(&planned, "scaledapp.io/workers")
            .into_keys()
            .collect::<Vec<_>>(),
        ["hello-3"]
    );
    let planned = step(&changed, &mut observed);
    assert!(
        planned.touch.is_empty() && planned.events.is_empty(),
        "{planned:?}"
    );
    observed.now = at(100);
    // A number per core, in the format of the supervisor's flag.
    let planned = step(&object("  workers: {perCore: 2}"), &mut observed);
    assert_eq!(
        config_map(&planned),
        [("token", "fresh-token"), ("workers", "2x")]
    );
    assert_eq!(planned.touch.len(), 4);
}

#[test]
fn a_pod_that_an_operator_died_before_annotating_is_annotated_by_the_next_operator() {
    let mut observed = running(&app(""));
    let object = object("  workers: {count: 3}");
    let mut planned = plan(&validate(&object).unwrap(), &observed, &settings());
    planned.touch.truncate(1);
    apply(&mut observed, &planned);
    observed.now = at(1000);
    let planned = step(&object, &mut observed);
    assert_eq!(
        touched(&planned, "scaledapp.io/workers")
            .into_keys()
            .collect::<Vec<_>>(),
        ["hello-1"]
    );
    assert!(planned.events.is_empty());
}

fn reload(token: &str) -> ScaledApp {
    let mut object = object("");
    object.metadata.annotations =
        Some([("scaledapp.io/reload".to_owned(), token.to_owned())].into());
    object
}

fn answer(observed: &mut Observed, name: &str, reloaded: Option<&str>, failed: Option<&str>) {
    let pod = observed
        .pods
        .iter_mut()
        .find(|pod| pod.name == name)
        .unwrap();
    pod.answer = Answer::Supervisor(Supervisor {
        desired: 2,
        ready: 2,
        reloaded: reloaded.map(ToOwned::to_owned),
        reload_failed: failed.map(ToOwned::to_owned),
        ..Supervisor::default()
    });
}

const RELOAD: &str = "scaledapp.io/reload";

#[test]
fn a_reload_goes_pod_by_pod_and_ends() {
    let mut observed = running(&app(""));
    let object = reload("a");
    let planned = step(&object, &mut observed);
    assert_eq!(
        config_map(&planned),
        [("reload", "a"), ("token", "fresh-token"), ("workers", "1x")]
    );
    assert_eq!(
        touched(&planned, RELOAD).into_keys().collect::<Vec<_>>(),
        ["hello-0"]
    );
    assert_eq!(planned.events[0].reason, "Reloading");
    let desired = touched(&planned, "scaledapp.io/desired");
    assert_eq!(desired["hello-0"], r#"{"reload":"a","workers":"1x"}"#);
    // The first pod's reload is not finished, so no other pod reloads.
    observed.now = at(1);
    let planned = step(&object, &mut observed);
    assert!(planned.touch.is_empty() && planned.wake.is_some());
    answer(&mut observed, "hello-0", Some("a"), None);
    let planned = step(&object, &mut observed);
    assert_eq!(
        touched(&planned, RELOAD).into_keys().collect::<Vec<_>>(),
        ["hello-1"]
    );
    assert!(planned.events.is_empty());
    // The second pod does not report the outcome, but is ready after the timeout.
    observed.now = at(20);
    let planned = step(&object, &mut observed);
    assert!(planned.touch.is_empty() && planned.wake.is_none());
    // A pod that was created later has nothing to reload.
    let mut late = pod(5);
    late.node = Some("n1".to_owned());
    late.created = Some(at(30));
    observed.pods.push(late);
    assert!(step(&object, &mut observed).touch.is_empty());
}

#[test]
fn a_reload_that_fails_in_a_pod_goes_to_no_other_pod() {
    let mut observed = running(&app(""));
    let object = reload("a");
    step(&object, &mut observed);
    answer(&mut observed, "hello-0", None, Some("exit code 1"));
    observed.now = at(100);
    let planned = step(&object, &mut observed);
    assert!(planned.touch.is_empty() && planned.wake.is_none());
}
