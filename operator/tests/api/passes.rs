//! Whole passes.

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
async fn the_second_pass_writes_nothing_and_asks_nothing() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    // The first status speaks of a cluster without those objects.
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
async fn a_refused_object_keeps_no_other_from_being_written_and_the_status_names_it() {
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
async fn a_conflict_is_tried_again_soon_and_other_failures_ever_later() {
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
async fn after_a_failure_nothing_further_is_asked_of_a_server_in_trouble_but_the_status() {
    let operator = Operator::new(good());
    operator.fail(Some("GET"), "/configmaps/hello-desired", Failure::Code(500));
    // The look whether somebody else has the name is the first to fail.
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
async fn what_makes_no_sense_waits_for_a_change_and_the_status_says_what() {
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
async fn orphans_go_last_and_only_as_what_they_were_seen_to_be() {
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

/// A missing volume is in no pod's status, only in events.
#[tokio::test]
async fn a_pod_that_cannot_be_set_up_says_why() {
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
    // It is asked about once, until it is older.
    let state = operator.server.lock().unwrap();
    let events = state.reads.iter().filter(|path| path.ends_with("/events"));
    assert_eq!(events.count(), 1);
}

/// As after a restart, or a change of the leader, between the status and its event.
#[tokio::test]
async fn what_is_wrong_is_told_once_whoever_tells() {
    let mut operator = Operator::new(good());
    // The API server keeps whole seconds only.
    Arc::get_mut(&mut operator.context).unwrap().now =
        || "2026-11-24T01:00:00.25Z".parse().unwrap();
    operator.add_waiting_pod();
    operator.pass().await.unwrap();
    operator.sync();
    operator.pass().await.unwrap();
    let told = |operator: &Operator| {
        let state = operator.server.lock().unwrap();
        let warnings = state
            .objects
            .iter()
            .filter(|(path, event)| path.contains("/events/hello.") && event["type"] == "Warning");
        let shown = warnings.map(|(path, event)| (path.clone(), event["note"].to_string()));
        shown.collect::<Vec<_>>()
    };
    let before = told(&operator);
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
        assert_eq!(names(told(&operator)), names(before.clone()), "{lost}");
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
async fn an_object_that_cannot_be_read_is_passed_over() {
    let operator = Operator::new(good());
    let unreadable = json!({"apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "metadata": {"name": "odd", "namespace": "default"}, "spec": {"image": 7}});
    let guarded: DeserializeGuard<ScaledApp> = serde_json::from_value(unreadable).unwrap();
    let action = reconcile(Arc::new(guarded), Arc::clone(&operator.context)).await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(operator.writes(), [""; 0]);
}

/// Somebody widened the Role, or an older operator wrote another: it is told of, and
/// not fought over.
#[tokio::test]
async fn a_role_that_somebody_changed_is_told_of_and_left_alone() {
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
    // Once it is deleted, it is made anew, and nothing is wrong any more.
    operator.server.lock().unwrap().objects.remove(ROLE);
    operator.sync();
    operator.forget();
    operator.pass().await.unwrap();
    assert_eq!(operator.writes()[0], "POST default/roles");
    assert_ne!(operator.condition("Degraded").0, "RightsDiffer");
}

/// What a restored backup leaves: ours by its labels, and nobody's by its owner.
#[tokio::test]
async fn a_role_without_an_owner_is_no_conflict_and_told_of() {
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
    assert_eq!(reason, "RightsDiffer");
    assert!(message.contains("belongs to no ScaledApp"), "{message}");
}

/// `kubectl replace --force`: the garbage collector has not removed what the app before
/// had, which is no reason to call for help.
#[tokio::test]
async fn what_an_earlier_app_of_the_name_has_is_waited_for() {
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
    // It is gone, and ours is made.
    theirs["metadata"]["ownerReferences"] = json!([]);
    operator
        .server
        .lock()
        .unwrap()
        .store(MAP.to_owned(), theirs);
    operator.sync();
    operator.pass().await.unwrap();
}

/// The watch is behind: the Role that is about to be made is there already.
#[tokio::test]
async fn a_role_that_the_watch_has_not_shown_yet_is_no_failure() {
    let operator = Operator::new(good());
    operator.pass().await.unwrap();
    operator.pass().await.unwrap();
}

/// As an operator before this one applied them, with the references that blocked.
#[tokio::test]
async fn rules_that_an_older_operator_applied_are_as_they_should_be() {
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
