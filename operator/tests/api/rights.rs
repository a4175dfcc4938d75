//! Tests that the chart's rules grant exactly the rights that the operator's requests need.
//!
//! [`crate::server`] checks at each request that it is granted. The test here makes every kind of
//! request, to find rights that no request needs.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use scaledapp_operator::events;
use scaledapp_operator::lease::Elector;
use scaledapp_operator::scaling;
use scaledapp_plan::cluster::{Event, EventType};
use scaledapp_watch::testing::rights::{self, Right};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::operator::{Operator, good};

/// All rules of the operator, from the file that the chart renders.
fn rules() -> &'static Value {
    static RULES: OnceLock<Value> = OnceLock::new();
    RULES.get_or_init(|| {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/scaledapp");
        let text = std::fs::read_to_string(format!("{chart}/files/rights.yaml")).unwrap();
        let rules: Value = serde_saphyr::from_str(&text).unwrap();
        let lists = ["operator", "nodes", "lease"].map(|list| rules[list].as_array().unwrap());
        lists.into_iter().flatten().cloned().collect()
    })
}

/// The rights for an object of this name, or for any object.
pub(crate) fn granted(name: Option<&str>) -> BTreeSet<Right> {
    rights::granted(rules(), name)
}

/// Adds an unneeded object of each kind that the operator can remove.
fn leave_orphans(operator: &Operator) {
    let mut state = operator.server.lock().unwrap();
    for path in [
        "/api/v1/namespaces/default/services/hello-lb-0",
        "/apis/apps/v1/namespaces/default/deployments/hello-lb-0",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/hello-lb-0",
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets/hello",
    ] {
        let mut old = state.objects[path].clone();
        old["metadata"]["name"] = json!("hello-old");
        old["metadata"]["uid"] = json!(null);
        // A slot that was retired long ago.
        old["metadata"]["labels"]["scaledapp.io/slot"] = json!("9");
        old["metadata"]["annotations"]["scaledapp.io/retired-at"] = json!("2026-11-01T00:00:00Z");
        let (directory, _) = path.rsplit_once('/').unwrap();
        state.store(format!("{directory}/hello-old"), old);
    }
}

async fn watch_all(operator: &mut Operator) {
    operator.watch(&[]);
    let synced = timeout(Duration::from_secs(30), operator.context.stores.synced()).await;
    synced.expect("every kind is listed").unwrap();
    // Each list is followed by a watch.
    let all_watched = async {
        while operator.watched() < 12 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), all_watched).await.unwrap();
}

#[tokio::test]
async fn the_chart_grants_what_is_used_and_nothing_else() {
    let mut object = good();
    object["spec"]["balancers"] =
        json!({"tls": {"secretName": "hello-tls", "issuerRef": {"name": "letsencrypt"}}});
    object["spec"]["dns"] = json!({"hostname": "hello.example.com"});
    object["metadata"]["annotations"] = json!({"scaledapp.io/reload": "1"});
    let mut operator = Operator::new(object);
    operator.add_app_pod();
    operator.add_waiting_pod();
    operator.pass().await.unwrap();
    leave_orphans(&operator);
    operator.sync();
    operator.pass().await.unwrap();
    watch_all(&mut operator).await;
    let event = Event {
        kind: EventType::Normal,
        reason: scaledapp_crds::words::Reason::Reloading,
        action: "Reload",
        note: "twice, which makes a series".to_owned(),
        since: None,
    };
    let app = operator.app();
    let context = &operator.context;
    events::send(
        &context.sent,
        &context.caller,
        app.0.as_ref().unwrap(),
        &[event.clone(), event],
        (context.now)(),
    )
    .await;
    let patch =
        json!({"spec": {"containers": [{"name": "app", "resources": {"limits": {"cpu": "2"}}}]}});
    let resized = scaling::ask_to_resize(context, "default", "hello-0", &patch).await;
    resized.unwrap();
    let leases: Api<Lease> = Api::namespaced(operator.context.caller.client.clone(), "default");
    let (mut elector, _leadership) = Elector::new(leases, "a".to_owned());
    elector.step(Instant::now()).await.unwrap();
    elector.step(Instant::now()).await.unwrap();

    let used = operator.server.lock().unwrap().used.clone();
    let granted = granted(None);
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(unused.is_empty(), "granted and never used: {unused:?}");
    let missing: Vec<_> = used.difference(&granted).collect();
    assert!(missing.is_empty(), "used and not granted: {missing:?}");
}

#[test]
fn access_rules_of_others_can_be_neither_changed_nor_deleted() {
    let granted = granted(None);
    for (verb, group, resource) in &granted {
        if group == "rbac.authorization.k8s.io" {
            let made = ["get", "list", "watch", "create"].contains(&verb.as_str());
            let is_namespaced = ["roles", "rolebindings"].contains(&resource.as_str());
            assert!(made && is_namespaced, "{verb} {resource}");
        }
        for word in [verb, group, resource] {
            assert!(
                word != "*" && word != "secrets",
                "{verb} {group} {resource}"
            );
        }
    }
    assert!(granted.len() > 40, "{granted:?}");
}
