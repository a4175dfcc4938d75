//! Tests of the endpoints of slots while balancers start, fail and stop.

use scaledapp_plan::cluster::{Answer, Observed, Plan, Pod, keep_serving, plan};

use super::given::{app, apply, at, balancer, cluster, object, running, serves, settings};

/// Each slot's slice with the addresses of its endpoints.
fn leads(planned: &Plan) -> Vec<(String, Vec<String>)> {
    let slices = planned.apply.endpoint_slices.iter();
    slices
        .map(|slice| {
            let endpoints = slice.endpoints.as_ref().unwrap();
            (
                slice.metadata.name.clone().unwrap(),
                endpoints
                    .iter()
                    .flat_map(|endpoint| endpoint.addresses.clone())
                    .collect(),
            )
        })
        .collect()
}

fn expected(table: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let table = table.iter();
    table
        .map(|(name, ips)| {
            (
                (*name).to_owned(),
                ips.iter().map(|ip| (*ip).to_owned()).collect(),
            )
        })
        .collect()
}

type Harm = fn(&mut Pod);

#[test]
fn a_slot_leads_to_its_own_balancer_or_to_all_others_and_never_nowhere() {
    let down: &[(&str, Harm)] = &[
        ("unready", |pod| pod.ready = false),
        ("deleted", |pod| pod.deleting = true),
        ("silent", |pod| pod.answer = Answer::Silent),
        ("not serving", |pod| pod.answer = serves(false)),
        ("without address", |pod| pod.ip = None),
    ];
    for (how, harm) in down {
        let mut observed = cluster(3);
        observed.pods = (0..3).map(balancer).collect();
        let three = app("  balancers: {replicas: 3}");
        let own = expected(&[
            ("hello-lb-0", &["10.0.1.0"]),
            ("hello-lb-1", &["10.0.1.1"]),
            ("hello-lb-2", &["10.0.1.2"]),
        ]);
        assert_eq!(leads(&plan(&three, &observed, &settings())), own);
        harm(&mut observed.pods[1]);
        assert_eq!(
            leads(&plan(&three, &observed, &settings())),
            expected(&[
                ("hello-lb-0", &["10.0.1.0"]),
                ("hello-lb-1", &["10.0.1.0", "10.0.1.2"]),
                ("hello-lb-2", &["10.0.1.2"]),
            ]),
            "{how}"
        );
        observed.pods.iter_mut().for_each(harm);
        let planned = plan(&three, &observed, &settings());
        // If all balancers are silent, something probably blocks the operator.
        let left = if *how == "silent" { own } else { Vec::new() };
        assert_eq!(leads(&planned), left, "{how}");
        assert!(planned.delete.is_empty());
    }
}

#[test]
fn the_last_known_endpoints_stay_when_nothing_serves() {
    let app = app("");
    let mut observed = running(&app);
    for pod in &mut observed.pods {
        pod.ready = false;
    }
    let planned = plan(&app, &observed, &settings());
    assert!(
        planned.apply.endpoint_slices.is_empty()
            && planned.delete.is_empty()
            && planned.events.is_empty()
    );
}

/// A `NetworkPolicy` blocks only the operator.
#[test]
fn if_no_balancer_answers_the_kubelets_readiness_counts() {
    let app = app("");
    let mut observed = running(&app);
    let before = leads(&plan(&app, &observed, &settings()));
    let unreachable = Answer::Unreachable { accepted: false };
    for answer in [Answer::Silent, unreachable.clone()] {
        for pod in &mut observed.pods {
            pod.answer = answer.clone();
        }
        let planned = plan(&app, &observed, &settings());
        assert_eq!(leads(&planned), before);
        assert_eq!(planned.events, []);
    }
    // If one balancer answers, nothing blocks the operator, so the silent one does not serve.
    observed.pods[0].answer = serves(true);
    let only = expected(&[("hello-lb-0", &["10.0.1.0"]), ("hello-lb-1", &["10.0.1.0"])]);
    assert_eq!(leads(&plan(&app, &observed, &settings())), only);
    // A balancer that the kubelet reports as not ready does not count.
    observed.pods[0].answer = unreachable;
    observed.pods[1].ready = false;
    assert_eq!(leads(&plan(&app, &observed, &settings())), only);
}

#[test]
fn a_leader_that_has_no_answers_yet_moves_no_slot() {
    let app = app("");
    let mut observed = running(&app);
    let before = plan(&app, &observed, &settings());
    for pod in &mut observed.pods {
        pod.answer = Answer::NotYet;
    }
    assert_eq!(
        plan(&app, &observed, &settings()).apply.endpoint_slices,
        before.apply.endpoint_slices
    );
}

#[test]
fn a_take_over_and_a_return_are_reported_once() {
    let app = app("");
    let mut observed = running(&app);
    let reasons = |observed: &mut Observed| {
        let planned = plan(&app, observed, &settings());
        apply(observed, &planned);
        planned
            .events
            .iter()
            .map(|event| event.reason.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(reasons(&mut observed), Vec::<&str>::new());
    observed.pods[1].answer = Answer::Silent;
    assert_eq!(reasons(&mut observed), ["SlotTakenOver"]);
    assert_eq!(reasons(&mut observed), Vec::<&str>::new());
    observed.pods[1].answer = serves(true);
    assert_eq!(reasons(&mut observed), ["SlotReturned"]);
    // A new pod of the slot replaces the old one: no take-over.
    observed.pods[1].uid = "b1-new".to_owned();
    assert_eq!(reasons(&mut observed), Vec::<&str>::new());
}

#[test]
fn endpoints_name_pod_node_and_zone() {
    let app = app("");
    let planned = plan(&app, &running(&app), &settings());
    let slice = &planned.apply.endpoint_slices[1];
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.zone.as_deref(), Some("z1"));
    assert_eq!(
        endpoint.target_ref.as_ref().unwrap().uid.as_deref(),
        Some("b1")
    );
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "hello-lb-1");
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "operator.scaledapp.io"
    );
}

#[test]
fn a_cluster_of_ipv6_gets_slices_of_ipv6() {
    let app = app("");
    let mut observed = cluster(1);
    observed.pods = vec![Pod {
        ip: Some("fd00::1".to_owned()),
        ..balancer(0)
    }];
    let slice = plan(&app, &observed, &settings())
        .apply
        .endpoint_slices
        .remove(0);
    assert_eq!(
        (&*slice.address_type, slice.metadata.name.as_deref()),
        ("IPv6", Some("hello-lb-0v6"))
    );
}

#[test]
fn an_excess_slot_leaves_dns_first_and_is_deleted_when_resolvers_have_forgotten_it() {
    let (two, one) = (
        app("  dns: {hostname: a.b, ttl: 10s}"),
        app("  dns: {hostname: a.b, ttl: 10s}\n  balancers: {replicas: 1}"),
    );
    let mut observed = running(&two);
    let planned = plan(&one, &observed, &settings());
    assert_eq!(planned.delete, []);
    assert_eq!(planned.wake.unwrap().as_secs(), 45);
    assert_eq!(leads(&planned).len(), 2);
    apply(&mut observed, &planned);
    observed.now = at(44);
    let planned = plan(&one, &observed, &settings());
    assert!(planned.delete.is_empty());
    apply(&mut observed, &planned);
    observed.now = at(45);
    let planned = plan(&one, &observed, &settings());
    let gone: Vec<String> = planned
        .delete
        .iter()
        .map(|key| format!("{:?} {}", key.kind, key.name))
        .collect();
    assert_eq!(
        gone,
        [
            "Service hello-lb-1",
            "EndpointSlice hello-lb-1",
            "Deployment hello-lb-1",
            "PodDisruptionBudget hello-lb"
        ]
    );
}

#[test]
fn paused_stalled_or_invalid_apps_keep_their_addresses_and_nothing_else_changes() {
    let mut observed = running(&app(""));
    observed.pods[0].answer = Answer::Silent;
    let paused = plan(
        &app("  paused: true\n  replicas: {total: 9}"),
        &observed,
        &settings(),
    );
    let stalled = plan(
        &app("  podTemplate: {spec: {x: 1}}"),
        &observed,
        &settings(),
    );
    let invalid = keep_serving(&object("  port: 0"), &observed);
    for planned in [paused, stalled, invalid] {
        assert_eq!(
            leads(&planned),
            expected(&[("hello-lb-0", &["10.0.1.1"]), ("hello-lb-1", &["10.0.1.1"])])
        );
        assert_eq!(planned.apply.keys().len(), 2);
        assert!(planned.delete.is_empty() && planned.touch.is_empty());
    }
}
