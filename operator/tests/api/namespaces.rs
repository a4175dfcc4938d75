//! Tests of watches of some namespaces only, one of which cannot be read.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use scaledapp_operator::reconcile::reconcile;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::operator::{Operator, good};
use crate::server::Failure;

const SOON: Duration = Duration::from_mins(10);
const LATE: &str = "/apis/scaledapp.io/v1alpha1/namespaces/late/scaledapps/hello";
const PODS: &str = "/api/v1/namespaces/late/pods";

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, waited).await.expect(what);
}

/// An operator that watches `default` and `late`; in `late`, pods cannot be listed.
async fn operator() -> Operator {
    let mut operator = Operator::new(good());
    let mut app = good();
    app["metadata"]["namespace"] = json!("late");
    app["metadata"]["uid"] = json!("late-uid");
    operator
        .server
        .lock()
        .unwrap()
        .store(LATE.to_owned(), app.clone());
    // This namespace is not watched.
    app["metadata"]["namespace"] = json!("theirs");
    let theirs = LATE.replace("late", "theirs");
    operator.server.lock().unwrap().store(theirs, app);
    operator.fail(Some("GET"), PODS, Failure::Code(403));
    operator.watch(&["default", "late"]);
    let synced = timeout(SOON, operator.context.stores.synced()).await;
    synced
        .expect("the operator does not wait for the unreadable namespace")
        .unwrap();
    operator
}

async fn pass(operator: &Operator, namespace: &str) -> Action {
    let name = ObjectRef::new("hello").within(namespace);
    let app = operator.context.stores.apps.get(&name).unwrap();
    let context = Arc::clone(&operator.context);
    reconcile(app, context).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_read_does_not_block_the_others() {
    let operator = operator().await;
    let health = Arc::clone(&operator.context.health);
    until("the failure is known", || health.unsynced().is_none()).await;
    assert_eq!(operator.context.stores.apps.len(), 2, "theirs is not ours");
    assert!(health.knows("default") && !health.knows("late"));
    pass(&operator, "default").await;
    let writes = operator.writes();
    assert!(
        writes.contains(&"PATCH deployments/hello".to_owned()),
        "{writes:?}"
    );

    // There is no pass in `late` yet, because unknown pods would count as missing.
    operator.forget();
    assert_eq!(pass(&operator, "late").await, Action::await_change());
    assert_eq!(operator.writes(), [""; 0]);

    operator.server.lock().unwrap().failures.clear();
    until("the list is given", || health.knows("late")).await;
    pass(&operator, "late").await;
    let state = operator.server.lock().unwrap();
    let written = state
        .writes
        .iter()
        .all(|write| write.path.contains("/namespaces/late/"));
    assert!(written && state.writes.len() > 10, "{:?}", state.shorts());
    let asked = state.reads.iter().filter(|path| !path.ends_with("/nodes"));
    for path in asked {
        assert!(path.contains("/namespaces/"), "{path} is asked for");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_one_namespace_takes_nothing_from_another() {
    let operator = operator().await;
    let pods = || operator.context.stores.pods.len();
    assert_eq!(pods(), 2);
    let health = Arc::clone(&operator.context.health);
    operator.server.lock().unwrap().failures.clear();
    // The first list of the pods in `late` is empty.
    until("the list is given", || health.knows("late")).await;
    assert_eq!(pods(), 2);
}
