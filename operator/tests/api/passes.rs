//! Tests of whole passes.

use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_operator::lease::Leadership;
use scaledapp_operator::pod_health::Miss;
use scaledapp_operator::reconcile::reconcile;
use serde_json::json;

use crate::operator::{Operator, good, hello};
use crate::server::Failure;

#[tokio::test]
async fn objects_are_applied_in_order_by_one_field_manager_with_force() {
    let operator = Operator::new(good());
    operator.pass().await.unwrap();
    let writes = operator.writes();
    let expected = [
        "PATCH serviceaccounts/hello",
        "PATCH serviceaccounts/hello-lb",
        "POST default/roles",
        "POST default/rolebindings",
        "PATCH configmaps/hello-desired",
        "PATCH services/hello",
        "PATCH services/hello-pods",
        "PATCH services/hello-lb-0",
        "PATCH services/hello-lb-1",
        "PATCH endpointslices/hello-lb-0",
        "PATCH endpointslices/hello-lb-1",
        "PATCH deployments/hello",
        "PATCH deployments/hello-lb-0",
        "PATCH deployments/hello-lb-1",
        "PATCH poddisruptionbudgets/hello",
        "PATCH poddisruptionbudgets/hello-lb",
        "PATCH hello/status",
    ];
    assert_eq!(writes[..expected.len()], expected);
    let rest = &writes[expected.len()..];
    assert!(rest.iter().all(|it| it.ends_with("/events")), "{rest:?}");
    let state = operator.server.lock().unwrap();
    for write in &state.writes[..expected.len()] {
        let query = format!("&{}&", write.query);
        let parts = ["&fieldManager=scaledapp-operator&", "&force=true&"];
        let made = usize::from(write.method != "POST");
        for part in &parts[..=made] {
            assert!(query.contains(part), "{}: {query}", write.short());
        }
    }
}

#[tokio::test]
async fn the_second_pass_makes_no_request() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    // The first status describes a cluster without the objects that this pass created.
    operator.sync();
    operator.pass().await.unwrap();
    operator.sync();
    operator.forget();
    // Every request would fail.
    operator.fail(None, "", Failure::Code(500));
    for _ in 0..3 {
        operator.pass().await.unwrap();
    }
    assert_eq!(operator.writes(), [""; 0]);
}

#[tokio::test]
async fn after_a_refusal_other_objects_are_written_and_the_status_names_the_refused_one() {
    let operator = Operator::new(good());
    operator.fail(Some("PATCH"), "/serviceaccounts/hello", Failure::Code(403));
    let error = operator.pass().await.unwrap_err();
    let writes = operator.writes();
    assert!(
        writes.contains(&"PATCH deployments/hello".to_owned()),
        "{writes:?}"
    );
    let message = operator.failure();
    assert!(
        message.contains("cannot apply a ServiceAccount"),
        "{message}"
    );
    assert_ne!(operator.policy(&error), Action::await_change());
}

#[tokio::test]
async fn a_conflict_is_retried_soon_and_other_failures_with_growing_pauses() {
    for (code, grows) in [(409, false), (500, true)] {
        let operator = Operator::new(good());
        operator.fail(Some("PATCH"), "/deployments/hello", Failure::Code(code));
        let mut last = Action::await_change();
        for _ in 0..10 {
            let error = operator.pass().await.unwrap_err();
            last = operator.policy(&error);
        }
        let pause = format!("{last:?}");
        let seconds = |text: &str| -> f64 {
            let (_, rest) = text.split_once("Some(").unwrap();
            let rest = rest.trim_end_matches([' ', '}', ')']);
            match rest.strip_suffix("ms") {
                Some(number) => number.parse::<f64>().unwrap() / 1000.0,
                None => rest.trim_end_matches('s').parse().unwrap(),
            }
        };
        assert_eq!(seconds(&pause) > 20.0, grows, "{code}: {pause}");
        assert!(seconds(&pause) <= 60.0, "{pause}");
        let message = operator.failure();
        assert!(message.contains("cannot apply a Deployment"), "{message}");
    }
}

#[tokio::test]
async fn after_a_server_error_only_the_status_is_written() {
    let operator = Operator::new(good());
    operator.fail(Some("GET"), "/configmaps/hello-desired", Failure::Code(500));
    // The request that fails checks whether the name is taken, before anything is written.
    operator.pass().await.unwrap_err();
    assert_eq!(
        operator.writes(),
        ["PATCH hello/status", "POST default/events"][..operator.writes().len()]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_and_the_status_is_still_written() {
    let operator = Operator::new(good());
    operator.fail(Some("PATCH"), "/deployments/hello-lb-1", Failure::Silence);
    let error = operator.pass().await.unwrap_err();
    assert!(
        error.to_string().contains("did not answer within"),
        "{error}"
    );
    assert!(operator.writes().contains(&"PATCH hello/status".to_owned()));
    assert_ne!(operator.policy(&error), Action::await_change());
}

#[tokio::test]
async fn an_invalid_object_waits_for_a_change_and_the_status_says_why() {
    let operator = Operator::new(hello(
        &json!({"image": "a", "command": ["x"], "replicas": {"total": 2, "perNode": 1}}),
    ));
    assert_eq!(operator.pass().await.unwrap(), Action::await_change());
    assert!(operator.writes().contains(&"PATCH hello/status".to_owned()));
    let (reason, message) = operator.condition("Stalled");
    assert_eq!(reason, "InvalidSpec");
    assert!(message.contains("spec.replicas"), "{message}");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone() {
    let operator = Operator::new(good());
    let path = "/api/v1/namespaces/default/services/hello";
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello", "namespace": "default"}});
    operator
        .server
        .lock()
        .unwrap()
        .store(path.to_owned(), theirs);
    operator.pass().await.unwrap();
    let writes = operator.writes();
    let theirs = writes.iter().any(|it| it.contains("services/"));
    assert!(!theirs, "{writes:?}");
    assert_eq!(operator.condition("Stalled").0, "NameConflict");
}

#[tokio::test]
async fn orphans_are_deleted_last_and_only_with_the_uid_that_was_read() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    let extra = {
        let mut state = operator.server.lock().unwrap();
        let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/hello";
        let mut extra = state.objects[path].clone();
        extra["metadata"]["name"] = json!("hello-old");
        extra["metadata"]["uid"] = json!("old-uid");
        state.store(format!("{path}-old"), extra);
        state.objects.remove(path);
        "DELETE poddisruptionbudgets/hello-old".to_owned()
    };
    operator.sync();
    operator.forget();
    operator.pass().await.unwrap();
    let writes = operator.writes();
    assert_eq!(
        writes[..2],
        ["PATCH poddisruptionbudgets/hello".to_owned(), extra]
    );
    let state = operator.server.lock().unwrap();
    assert_eq!(state.writes[1].body["preconditions"]["uid"], "old-uid");
}

#[tokio::test]
async fn a_balancer_that_falls_silent_is_replaced_at_its_address_by_one_write() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    operator.sync();
    operator.pass().await.unwrap();
    operator.sync();
    operator.forget();
    let uid = {
        let state = operator.server.lock().unwrap();
        let path = "/api/v1/namespaces/default/pods/hello-lb-0-x";
        state.objects[path]["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let pods_health = &operator.context.pods_health;
    let looks: Vec<bool> = (0..3)
        .map(|_| pods_health.take(&uid, Err(Miss { accepted: false })))
        .collect();
    assert_eq!(looks, [false, false, true]);
    operator.pass().await.unwrap();
    assert_eq!(operator.writes()[0], "PATCH endpointslices/hello-lb-0");
    let state = operator.server.lock().unwrap();
    let addresses = &state.writes[0].body["endpoints"][0]["addresses"];
    assert_eq!(*addresses, json!(["10.0.0.1"]));
}

/// The status of a pod does not mention a missing volume; only events do.
#[tokio::test]
async fn why_a_pod_cannot_be_set_up_is_reported() {
    let mut operator = Operator::new(good());
    operator.add_waiting_pod();
    operator.pass().await.unwrap();
    operator.sync();
    operator.pass().await.unwrap();
    let (reason, message) = operator.condition("Ready");
    assert_eq!(reason, "PodCannotStart");
    assert!(
        message.contains("secret \"s\" not found: create it"),
        "{message}"
    );
    // The pod's events are read once, and not again until the pod is older.
    let state = operator.server.lock().unwrap();
    let events = state.reads.iter().filter(|path| path.ends_with("/events"));
    assert_eq!(events.count(), 1);
}

/// The operator restarts, or the leader changes, between the status and its event.
#[tokio::test]
async fn a_warning_is_sent_once_whichever_replica_sends_it() {
    let mut operator = Operator::new(good());
    // The API server stores whole seconds only.
    Arc::get_mut(&mut operator.context).unwrap().now =
        || "2026-11-24T01:00:00.25Z".parse().unwrap();
    operator.add_waiting_pod();
    operator.pass().await.unwrap();
    operator.sync();
    operator.pass().await.unwrap();
    let warnings = |operator: &Operator| {
        let state = operator.server.lock().unwrap();
        let warnings = state
            .objects
            .iter()
            .filter(|(path, event)| path.contains("/events/hello.") && event["type"] == "Warning");
        let shown = warnings.map(|(path, event)| (path.clone(), event["note"].to_string()));
        shown.collect::<Vec<_>>()
    };
    let before = warnings(&operator);
    assert_eq!(before.len(), 1, "{before:?}");
    for lost in [false, true] {
        if lost {
            operator.server.lock().unwrap().objects.remove(&before[0].0);
        }
        let context = Arc::get_mut(&mut operator.context).unwrap();
        context.sent = scaledapp_operator::events::Sent::new("next".to_owned());
        operator.sync();
        operator.pass().await.unwrap();
        let names =
            |told: Vec<(String, String)>| told.into_iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(names(warnings(&operator)), names(before.clone()), "{lost}");
    }
}

#[tokio::test]
async fn a_follower_writes_nothing() {
    let mut operator = Operator::new(good());
    Arc::get_mut(&mut operator.context)
        .unwrap()
        .caller
        .leadership = Leadership::fixed(false);
    assert_eq!(operator.pass().await.unwrap(), Action::await_change());
    assert_eq!(operator.writes(), [""; 0]);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_skipped() {
    let operator = Operator::new(good());
    let unreadable = json!({"apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "metadata": {"name": "odd", "namespace": "default"}, "spec": {"image": 7}});
    let guarded: DeserializeGuard<ScaledApp> = serde_json::from_value(unreadable).unwrap();
    let action = reconcile(Arc::new(guarded), Arc::clone(&operator.context)).await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(operator.writes(), [""; 0]);
}

/// Somebody has changed the Role, or an older operator wrote different rules: this is reported, and
/// the Role is not changed.
#[tokio::test]
async fn a_role_that_somebody_changed_is_reported_and_left_alone() {
    const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/hello-lb";
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    operator.sync();
    operator.pass().await.unwrap();
    let edit = |operator: &Operator, verbs: serde_json::Value| {
        let mut state = operator.server.lock().unwrap();
        let mut role = state.objects[ROLE].clone();
        role["rules"][0]["verbs"] = verbs;
        state.store(ROLE.to_owned(), role);
    };
    for verbs in [json!(["get", "list", "watch", "delete"]), json!(["get"])] {
        edit(&operator, verbs);
        operator.sync();
        operator.forget();
        operator.pass().await.unwrap();
        let writes = operator.writes();
        assert!(!writes.iter().any(|it| it.contains("role")), "{writes:?}");
        let (reason, message) = operator.condition("Degraded");
        assert_eq!(reason, "RightsDiffer");
        let cure = "kubectl -n default delete role hello-lb";
        assert!(message.contains(cure), "{message}");
    }
    // Once the Role is deleted, the operator creates it again, and the condition ends.
    operator.server.lock().unwrap().objects.remove(ROLE);
    operator.sync();
    operator.forget();
    operator.pass().await.unwrap();
    assert_eq!(operator.writes()[0], "POST default/roles");
    assert_ne!(operator.condition("Degraded").0, "RightsDiffer");
}

/// A restored backup contains objects with the operator's labels and without an owner.
#[tokio::test]
async fn a_role_without_an_owner_is_reported_and_not_a_conflict() {
    const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/hello-lb";
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    {
        let mut state = operator.server.lock().unwrap();
        let mut role = state.objects[ROLE].clone();
        role["metadata"]["ownerReferences"] = json!([]);
        state.store(ROLE.to_owned(), role);
    }
    operator.sync();
    operator.pass().await.unwrap();
    assert_ne!(operator.condition("Stalled").0, "NameConflict");
    let (reason, message) = operator.condition("Degraded");
    assert_eq!(reason, "NotOwned");
    let cure = "kubectl -n default patch role/hello-lb --type=merge -p";
    assert!(message.contains(cure), "{message}");
}

/// After `kubectl replace --force`, the garbage collector has not yet removed the previous
/// app's objects. The app is not stalled by this.
#[tokio::test]
async fn objects_of_an_earlier_app_of_this_name_are_waited_for() {
    const MAP: &str = "/api/v1/namespaces/default/configmaps/hello-desired";
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    let mut theirs = {
        let mut state = operator.server.lock().unwrap();
        let mut map = state.objects[MAP].clone();
        map["metadata"]["ownerReferences"][0]["uid"] = json!("of-the-one-before");
        state.store(MAP.to_owned(), map.clone());
        map
    };
    operator.sync();
    let error = operator.pass().await.unwrap_err();
    assert!(error.to_string().contains("being removed"), "{error}");
    assert_ne!(operator.condition("Stalled").0, "NameConflict");
    // The object no longer has an owner, so the app adopts it.
    theirs["metadata"]["ownerReferences"] = json!([]);
    operator
        .server
        .lock()
        .unwrap()
        .store(MAP.to_owned(), theirs);
    operator.sync();
    operator.pass().await.unwrap();
}

/// The watch is late: the Role that is about to be created exists already.
#[tokio::test]
async fn a_role_that_the_watch_has_not_delivered_yet_is_not_a_failure() {
    let operator = Operator::new(good());
    operator.pass().await.unwrap();
    operator.pass().await.unwrap();
}

/// An older operator applied the Role and the `RoleBinding`, with references that block the owner's
/// deletion.
#[tokio::test]
async fn rules_that_an_older_operator_applied_are_accepted() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    {
        let mut state = operator.server.lock().unwrap();
        let older = state
            .objects
            .iter()
            .filter(|(path, _)| path.contains("role"));
        let older: Vec<_> = older.map(|(path, it)| (path.clone(), it.clone())).collect();
        assert_eq!(older.len(), 2);
        for (path, mut object) in older {
            object["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true);
            object["metadata"]["annotations"]["scaledapp.io/applied"] = json!("of another plan");
            state.store(path, object);
        }
    }
    operator.sync();
    operator.forget();
    operator.pass().await.unwrap();
    let writes = operator.writes();
    assert!(!writes.iter().any(|it| it.contains("role")), "{writes:?}");
    assert_ne!(operator.condition("Degraded").0, "RightsDiffer");
}
