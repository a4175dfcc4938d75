//! Tests of names that are taken, and of objects that the API server changes or refuses.

use serde_json::{Value, json};

use crate::operator::{Operator, good};
use crate::server::{Failure, Write};

const APP: &str = "/apis/scaledapp.io/v1alpha1/namespaces/default/scaledapps/hello";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/hello-lb-0";

/// A complete app whose first slice now belongs to another owner.
async fn with_a_foreign_slice(spec: &[(&str, Value)]) -> Operator {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    {
        let mut state = operator.server.lock().unwrap();
        let theirs = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "hello-lb-0", "namespace": "default"}, "endpoints": [],
        });
        state.store(SLICE.to_owned(), theirs);
        let mut app = state.objects[APP].clone();
        for (field, value) in spec {
            app["spec"][*field] = value.clone();
        }
        state.store(APP.to_owned(), app);
    }
    operator.sync();
    operator.forget();
    operator.pass().await.unwrap();
    operator
}

#[tokio::test]
async fn a_slice_of_somebody_else_is_never_written_in_any_state_of_the_app() {
    let nothing: &[(&str, Value)] = &[];
    for (spec, reason) in [
        (nothing, "NameConflict"),
        (&[("paused", json!(true))], "NameConflict"),
        (
            &[("replicas", json!({"total": 2, "perNode": 1}))],
            "InvalidSpec",
        ),
    ] {
        let operator = Box::pin(with_a_foreign_slice(spec)).await;
        let writes = operator.writes();
        let taken = |write: &String| write.ends_with("endpointslices/hello-lb-0");
        assert!(!writes.iter().any(taken), "{spec:?}: {writes:?}");
        assert_eq!(operator.condition("Stalled").0, reason);
    }
}

/// Nothing is created yet, and no balancer serves.
#[tokio::test]
async fn all_names_that_are_taken_are_reported_at_once() {
    let operator = Operator::new(good());
    {
        let mut state = operator.server.lock().unwrap();
        state.objects.retain(|path, _| !path.contains("/pods/"));
        for (path, kind) in [
            (SLICE, "EndpointSlice"),
            ("/api/v1/namespaces/default/services/hello", "Service"),
        ] {
            let name = path.rsplit('/').next().unwrap();
            let theirs = json!({"kind": kind, "metadata": {"name": name, "namespace": "default"}});
            state.store(path.to_owned(), theirs);
        }
    }
    operator.pass().await.unwrap();
    let (reason, message) = operator.condition("Stalled");
    assert_eq!(reason, "NameConflict");
    for name in [
        "a Service named hello,",
        "an EndpointSlice named hello-lb-0 exist",
    ] {
        assert!(message.contains(name), "{message}");
    }
    assert!(!operator.writes().iter().any(|it| it.contains("services/")));
}

#[tokio::test(start_paused = true)]
async fn a_refused_object_is_written_again_only_after_a_pause() {
    let mut operator = Operator::new(good());
    operator.fail(Some("PATCH"), "/serviceaccounts/hello", Failure::Code(403));
    let asked = |operator: &Operator| {
        let writes = operator.writes();
        let asked = writes
            .iter()
            .filter(|it| *it == "PATCH serviceaccounts/hello");
        asked.count()
    };
    for _ in 0..3 {
        operator.pass().await.unwrap_err();
        operator.sync();
        assert_eq!(asked(&operator), 1);
        let message = operator.failure();
        assert!(
            message.contains("cannot apply a ServiceAccount"),
            "{message}"
        );
    }
    tokio::time::advance(std::time::Duration::from_secs(6)).await;
    operator.pass().await.unwrap_err();
    assert_eq!(asked(&operator), 2);
}

/// The API server enforces `OwnerReferencesPermissionEnforcement`, and the operator has no right to
/// delete the object.
#[tokio::test]
async fn an_object_that_may_not_be_adopted_is_used_without_an_owner() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    let map = "/api/v1/namespaces/default/configmaps/hello-desired";
    {
        let mut state = operator.server.lock().unwrap();
        let mut left = state.objects[map].clone();
        left["metadata"]["ownerReferences"] = json!([]);
        left["data"]["workers"] = json!("7");
        state.store(map.to_owned(), left);
        state.refuses_owners = true;
    }
    operator.sync();
    operator.forget();
    operator.pass().await.unwrap();
    let bodies = |operator: &Operator| -> Vec<Write> {
        let writes = operator.server.lock().unwrap().writes.clone();
        let of_map = writes.into_iter().filter(|it| it.path == map);
        of_map.collect()
    };
    let tries = bodies(&operator);
    assert_eq!(tries.len(), 2);
    assert_ne!(tries[0].body["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(tries[1].body["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(tries[1].body["data"]["workers"], "1x");
    // The pass that met the refusal reports it.
    let (reason, message) = operator.condition("Degraded");
    assert_eq!(reason, "NotOwned");
    let cure = "kubectl -n default patch configmap/hello-desired --type=merge";
    assert!(message.contains(cure), "{message}");
    operator.sync();
    operator.pass().await.unwrap();
    assert_eq!(bodies(&operator).len(), 2);
}
