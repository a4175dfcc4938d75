//! Tests of what the status says about objects that the operator did not create: autoscalers, and
//! objects that remain from an earlier app.

use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::{
    Admitted, Autoscaler, Kind, ObjectKey, Observed, Outcome, Target, events, plan, status,
    validate,
};

use super::given::{object, settings};
use super::status::started;

/// Reason and message of `Degraded` after a pass, and the number of events that the pass causes.
fn degraded(object: &mut ScaledApp, observed: &Observed) -> (String, String, usize) {
    let before = object.status.clone();
    let app = validate(object).unwrap();
    let planned = plan(&app, observed, &settings());
    let after = status(object, observed, Outcome::Applied(&app, &planned));
    let told = events(before.as_ref(), &after).len();
    let find = |kind: &str| {
        let mut all = after.conditions.iter();
        all.find(|condition| condition.type_ == kind)
            .unwrap()
            .clone()
    };
    let degraded = find("Degraded");
    // A release counts as rolled out even if an autoscaler cannot scale or an object has no owner.
    for kind in ["Ready", "Updated"] {
        assert_eq!(find(kind).status, "True", "{kind}");
    }
    object.status = Some(after);
    (degraded.reason, degraded.message, told)
}

fn autoscaler(target: Target) -> Vec<Autoscaler> {
    vec![Autoscaler {
        name: "scaler".to_owned(),
        target,
    }]
}

#[test]
fn an_autoscaler_that_cannot_scale_is_reported_once_with_the_cure() {
    let app = || Target::App("hello".to_owned());
    let deployment = |name: &str| Target::Deployment(name.to_owned());
    for (lines, target, cure) in [
        (
            "",
            app(),
            "kubectl -n shop scale scaledapp/hello --replicas=N",
        ),
        (
            "  replicas: {perNode: 1}",
            app(),
            "replace it with `replicas: {total: N}`",
        ),
        (
            "  replicas: {total: 2}",
            deployment("hello"),
            "scaleTargetRef ({apiVersion: scaledapp.io/v1alpha1, kind: ScaledApp, name: hello})",
        ),
        (
            "  replicas: {total: 2}",
            deployment("hello-lb-0"),
            "set spec.balancers.replicas",
        ),
    ] {
        let (mut object, mut observed) = started(lines);
        observed.autoscalers = autoscaler(target);
        let (reason, message, told) = degraded(&mut object, &observed);
        assert_eq!((&*reason, told), ("AutoscalerCannotScale", 1), "{lines}");
        assert!(message.contains(cure), "{message}");
        assert_eq!(degraded(&mut object, &observed).2, 0);
        observed.autoscalers.clear();
        assert_eq!(degraded(&mut object, &observed).0, "AsWanted");
    }
    let (mut object, mut observed) = started("  replicas: {total: 2}");
    observed.autoscalers = autoscaler(app());
    assert_eq!(degraded(&mut object, &observed).0, "AsWanted");
}

#[test]
fn an_autoscaler_is_known_by_the_group_and_kind_that_it_names() {
    let of = |version: &str, kind: &str| {
        Autoscaler::of(
            &serde_json::from_value(serde_json::json!({
                "metadata": {"name": "scaler"},
                "spec": {
                    "maxReplicas": 3,
                    "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": "hello"},
                },
            }))
            .unwrap(),
        )
        .map(|found| found.target)
    };
    let app = Some(Target::App("hello".to_owned()));
    assert_eq!(of("scaledapp.io/v1alpha1", "ScaledApp"), app);
    assert_eq!(of("scaledapp.io/v1", "ScaledApp"), app);
    let deployment = Some(Target::Deployment("hello".to_owned()));
    assert_eq!(of("apps/v1", "Deployment"), deployment);
    for (version, kind) in [
        ("other.test/v1", "ScaledApp"),
        ("v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
    ] {
        assert_eq!(of(version, kind), None, "{version} {kind}");
    }
}

#[test]
fn an_object_that_remains_without_an_owner_is_named_with_the_command_that_cures_it() {
    let (mut object, mut observed) = started("");
    let mut left = observed.live.config_maps[0].clone();
    left.metadata.owner_references = None;
    let planned = plan(&validate(&object).unwrap(), &observed, &settings());
    let admitted = Admitted::of(&left, &planned.apply.config_maps[0]).unwrap();
    observed.live.config_maps[0] = left.clone();
    // The next write makes the app the object's owner.
    assert_eq!(degraded(&mut object, &observed).0, "AsWanted");
    let key = ObjectKey {
        kind: Kind::ConfigMap,
        name: "hello-desired".to_owned(),
    };
    observed.admitted.insert(key, admitted);
    let (reason, message, told) = degraded(&mut object, &observed);
    assert_eq!((&*reason, told), ("NotOwned", 1));
    for part in [
        "ConfigMap hello-desired would stay",
        "kubectl -n shop patch configmap/hello-desired --type=merge -p '{\"metadata\":{\"ownerReferences\":[{",
        super::given::UID,
    ] {
        assert!(message.contains(part), "{message}");
    }
    // A new leader does not know what the API server answered, but reports the same.
    observed.admitted.clear();
    let again = degraded(&mut object, &observed);
    assert_eq!(again, (reason, message, 0));
    pass_with_owner(&mut object, &mut observed);
}

/// After somebody has run the command, nothing is reported.
fn pass_with_owner(given: &mut ScaledApp, observed: &mut Observed) {
    let app = validate(&object("")).unwrap();
    let planned = plan(&app, observed, &settings());
    observed.live.config_maps[0]
        .metadata
        .owner_references
        .clone_from(&planned.apply.config_maps[0].metadata.owner_references);
    assert_eq!(degraded(given, observed).0, "AsWanted");
}
