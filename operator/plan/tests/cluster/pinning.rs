//! Tests that a new operator restarts no app, that nothing is written twice, and that
//! changes by others are undone.

use std::collections::BTreeMap;

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scaledapp_plan::cluster::{
    Kind, ObjectKey, Observed, Plan, Settings, is_applied, is_rotation, plan, stored_tokens,
    validate,
};
use serde::Serialize;

use super::given::{app, apply, object, running, settings};

fn newer() -> Settings {
    Settings {
        sidecar_image: "registry.example/scaledapp:2".to_owned(),
        balancer_image: "registry.example/scaledapp:2".to_owned(),
        ..settings()
    }
}

fn all_applied<K>(live: &[K], planned: &[K]) -> bool
where
    K: Serialize + Metadata<Ty = ObjectMeta>,
{
    let mut pairs = live.iter().zip(planned);
    pairs.all(|(live, planned)| is_applied(live, planned))
}

fn workload(observed: &Observed) -> &Deployment {
    &observed.live.deployments[0]
}

#[test]
fn a_new_operator_replaces_balancers_but_no_app() {
    let app = app("");
    let observed = running(&app);
    let planned = plan(&app, &observed, &newer());
    assert!(is_applied(
        workload(&observed),
        &planned.apply.deployments[0]
    ));
    assert!(!is_applied(
        &observed.live.deployments[1],
        &planned.apply.deployments[1]
    ));
}

#[test]
fn pods_are_replaced_exactly_if_what_the_user_gave_for_them_changes() {
    let observed = running(&app(""));
    for (lines, rolls) in [
        ("", false),
        ("  replicas: {perNode: 3}", false),
        ("  workers: {perCore: 2}", false),
        ("  workers: {count: 7}", false),
        ("  balancers: {replicas: 3}", false),
        ("  dns: {hostname: a.b}", false),
        ("  workers: {drainTimeout: 10s}", true),
        ("  env: [{name: A}]", true),
        ("  port: 8000", true),
        ("  resources: {limits: {cpu: '1'}}", true),
        ("  podTemplate: {metadata: {annotations: {a: b}}}", true),
    ] {
        let planned = plan(&app(lines), &observed, &newer());
        let before = &workload(&observed).spec.template;
        assert_eq!(
            planned.apply.deployments[0].spec.template != *before,
            rolls,
            "{lines}"
        );
    }
    let mut upgrade = object("");
    upgrade.metadata.annotations =
        Some([("scaledapp.io/upgrade".to_owned(), "now".to_owned())].into());
    let planned = plan(&validate(&upgrade).unwrap(), &observed, &newer());
    let pod = planned.apply.deployments[0]
        .spec
        .template
        .spec
        .clone()
        .unwrap();
    assert_eq!(
        pod.init_containers.unwrap()[0].image.as_deref(),
        Some("registry.example/scaledapp:2")
    );
}

#[test]
fn a_second_pass_writes_nothing() {
    for lines in [
        "",
        "  resources: {requests: {cpu: '0.5'}, limits: {memory: 1024Mi}}\n  replicas: {total: 3}",
    ] {
        let app = app(lines);
        let mut observed = running(&app);
        // The API server rewrites amounts and fills in defaults.
        let pod = observed.live.deployments[0]
            .spec
            .template
            .spec
            .as_mut()
            .unwrap();
        pod.restart_policy = Some("Always".to_owned());
        if let Some(resources) = &mut pod.containers[0].resources {
            for amounts in [&mut resources.requests, &mut resources.limits] {
                for amount in amounts.iter_mut().flat_map(|map| map.values_mut()) {
                    amount.0 = match amount.0.as_str() {
                        "0.5" => "500m".to_owned(),
                        "1024Mi" => "1Gi".to_owned(),
                        other => other.to_owned(),
                    };
                }
            }
        }
        let planned = plan(&app, &observed, &settings());
        assert!(planned.delete.is_empty() && planned.touch.is_empty() && planned.events.is_empty());
        let (live, planned) = (&observed.live, &planned.apply);
        assert!(all_applied(&live.deployments, &planned.deployments));
        assert!(all_applied(&live.services, &planned.services));
        assert!(all_applied(&live.config_maps, &planned.config_maps));
        assert!(all_applied(&live.roles, &planned.roles));
        assert!(all_applied(&live.endpoint_slices, &planned.endpoint_slices));
    }
}

#[test]
fn changes_by_others_are_undone_and_additions_stay() {
    let app = app("");
    let mut observed = running(&app);
    let template = &mut observed.live.deployments[0].spec.template;
    let annotations = template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default();
    annotations.insert(
        "kubectl.kubernetes.io/restartedAt".to_owned(),
        "now".to_owned(),
    );
    let planned = plan(&app, &observed, &settings());
    assert!(is_applied(
        workload(&observed),
        &planned.apply.deployments[0]
    ));
    observed.live.deployments[0]
        .spec
        .template
        .spec
        .as_mut()
        .unwrap()
        .containers[0]
        .image = Some("other".to_owned());
    let planned = plan(&app, &observed, &settings());
    assert!(!is_applied(
        workload(&observed),
        &planned.apply.deployments[0]
    ));
    let pod = planned.apply.deployments[0]
        .spec
        .template
        .spec
        .clone()
        .unwrap();
    assert_eq!(
        pod.containers[0].image.as_deref(),
        Some("example/hello:1.0")
    );
}

/// Kubernetes creates a slice if somebody gives a slot's Service a selector.
#[test]
fn slices_that_kubernetes_made_for_a_slot_are_removed() {
    let app = app("");
    let mut observed = running(&app);
    let service = &mut observed.live.services[2];
    assert_eq!(service.metadata.name.as_deref(), Some("hello-lb-0"));
    service.metadata.uid = Some("of-the-service".to_owned());
    let mut slice = observed.live.endpoint_slices[0].clone();
    slice.metadata.name = Some("hello-lb-0-x7f2k".to_owned());
    let owner = &mut slice.metadata.owner_references.as_mut().unwrap()[0];
    owner.kind = "Service".to_owned();
    owner.uid = "of-the-service".to_owned();
    observed.live.endpoint_slices.push(slice);
    let deleted = plan(&app, &observed, &settings()).delete;
    let names: Vec<&str> = deleted.iter().map(|key| &*key.name).collect();
    assert_eq!(names, ["hello-lb-0-x7f2k"]);
    observed.live.services[2].spec.as_mut().unwrap().selector =
        Some([("a".to_owned(), "b".to_owned())].into());
    let planned = plan(&app, &observed, &settings());
    let mut services = planned.apply.services.iter();
    let slot = services.find(|it| it.metadata.name.as_deref() == Some("hello-lb-0"));
    assert!(!is_applied(&observed.live.services[2], slot.unwrap()));
}

#[test]
fn objects_of_others_are_neither_changed_nor_removed() {
    let app = app("");
    let mut observed = running(&app);
    let mut foreign = observed.live.services[0].clone();
    foreign.metadata.name = Some("theirs".to_owned());
    foreign.metadata.owner_references = None;
    observed.live.services.push(foreign);
    assert!(plan(&app, &observed, &settings()).delete.is_empty());
    let name = |name: &str| ObjectKey {
        kind: Kind::Service,
        name: name.to_owned(),
    };
    observed.foreign = vec![name("hello")];
    let planned = plan(&app, &observed, &settings());
    let stalled = planned.stalled.unwrap();
    assert_eq!(stalled.reason, "NameConflict");
    assert!(
        stalled.message.contains("Service named hello"),
        "{}",
        stalled.message
    );
    assert!(planned.apply.deployments.is_empty());
}

#[test]
fn objects_that_are_no_longer_needed_are_removed() {
    let app = app("");
    let mut observed = running(&app);
    let mut old = observed.live.pod_disruption_budgets[0].clone();
    old.metadata.name = Some("hello-old".to_owned());
    observed.live.pod_disruption_budgets.push(old);
    // Kinds that are never removed, because the operator lacks the right.
    let mut old = observed.live.config_maps[0].clone();
    old.metadata.name = Some("hello-old".to_owned());
    observed.live.config_maps.push(old);
    let mut old = observed.live.role_bindings[0].clone();
    old.metadata.name = Some("hello-old".to_owned());
    observed.live.role_bindings.push(old);
    let planned = plan(&app, &observed, &settings());
    assert_eq!(
        planned.delete,
        [ObjectKey {
            kind: Kind::PodDisruptionBudget,
            name: "hello-old".to_owned()
        }]
    );
}

/// Pods of an operator that did not know tokens keep their template, even if the balancers
/// send a token.
#[test]
fn a_template_from_before_tokens_existed_stays() {
    let app = app("");
    let mut observed = running(&app);
    let live = &mut observed.live.deployments[0];
    let pod = live.spec.template.spec.as_mut().unwrap();
    let command = pod.containers[0].command.as_mut().unwrap();
    let at = command.iter().position(|word| word == "--trust").unwrap();
    let removed: Vec<String> = command.drain(at..at + 4).collect();
    assert_eq!(
        removed,
        [
            "--trust",
            "behind",
            "--trust-token-file",
            "/.scaledapp-trust/token"
        ]
    );
    let is_older = |name: &str| name != "scaledapp-trust";
    let mounts = pod.containers[0].volume_mounts.as_mut().unwrap();
    mounts.retain(|mount| is_older(&mount.name));
    let volumes = pod.volumes.as_mut().unwrap();
    volumes.retain(|volume| is_older(&volume.name));
    let older = live.spec.template.clone();
    let text = serde_json::to_string(&older).unwrap();
    assert!(!text.contains("trust"), "{text}");
    let annotations = live.metadata.annotations.as_mut().unwrap();
    let kept = annotations.get_mut("scaledapp.io/template").unwrap();
    *kept = text;
    let planned = plan(&app, &observed, &newer());
    assert_eq!(planned.apply.deployments[0].spec.template, older);
    // The hash of the user's input, as that operator computed it.
    let meta = &planned.apply.deployments[0].metadata;
    let inputs = &meta.annotations.as_ref().unwrap()["scaledapp.io/inputs"];
    assert_eq!(inputs, "9011af55ac1dbfed");
    let balancer = serde_json::to_string(&planned.apply.deployments[1]).unwrap();
    assert!(balancer.contains("--trust-token-file"), "{balancer}");
}

#[test]
fn an_app_keeps_the_token_that_it_has() {
    let app = app("");
    let token = |observed: &Observed| {
        let planned = plan(&app, observed, &settings());
        let data = planned.apply.config_maps[0].data.clone().unwrap();
        data.get("token").cloned()
    };
    let mut observed = running(&app);
    // The token in force replaces a token that something else has written.
    observed.token = Some("another".to_owned());
    assert_eq!(token(&observed).as_deref(), Some("another"));
    // Without random bytes there is no token, because a guessable one would be worse.
    observed.token = None;
    let (old, new) = ("o".repeat(16), "n".repeat(64));
    let two = format!("{new}\n{old}\n");
    for (live, wanted) in [
        (Some(&*two), Some(&*two)),
        (Some("too-short"), None),
        (Some("with a space between the words"), None),
        (Some(" \n"), None),
        (None, None),
    ] {
        let data = observed.live.config_maps[0].data.as_mut().unwrap();
        match live {
            Some(live) => data.insert("token".to_owned(), live.to_owned()),
            None => data.remove("token"),
        };
        assert_eq!(stored_tokens(&observed.live), wanted);
        assert_eq!(token(&observed).as_deref(), wanted);
    }
    assert!(is_rotation(&old, &two) && is_rotation(&two, &new));
    assert!(!is_rotation(&old, &new));
}

/// `kubectl scale` may give an app with pods per node a total that equals its number
/// of pods.
#[test]
fn a_total_equal_to_the_number_of_pods_replaces_none() {
    let mut observed = running(&app(""));
    let before = workload(&observed).spec.template.clone();
    let is_same = |observed: &Observed, total: u32| {
        let app = app(&format!("  replicas: {{total: {total}}}"));
        let planned = plan(&app, observed, &newer());
        planned.apply.deployments[0].spec.template == before
    };
    assert!(!is_same(&observed, 3));
    assert!(is_same(&observed, 2));
    let planned = plan(&app("  replicas: {total: 2}"), &observed, &settings());
    apply(&mut observed, &planned);
    // A person's change of the Deployment is undone without replacing its pods.
    observed.live.deployments[0].spec.replicas = Some(7);
    assert!(is_same(&observed, 2));
    assert!(!is_same(&observed, 3));
    // Back to pods per node.
    let planned = plan(&app(""), &observed, &settings());
    assert_eq!(planned.apply.deployments[0].spec.template, before);
}

/// Without a dispatcher the app itself would receive the token.
#[test]
fn no_token_is_sent_to_apps() {
    let app = app("  workers: {dispatch: Connection}");
    let planned = plan(&app, &running(&app), &settings());
    let deployments = serde_json::to_string(&planned.apply.deployments).unwrap();
    assert!(!deployments.contains("trust"), "{deployments}");
}

#[test]
fn networks_reach_the_balancers_and_replace_no_pod_of_the_app() {
    let before = running(&app(""));
    let lines = "  balancers: {forwardedFrom: [10.0.0.0/8, '::ffff:192.0.2.7']}";
    let planned = plan(&app(lines), &before, &newer());
    assert_eq!(
        planned.apply.deployments[0].spec.template,
        workload(&before).spec.template
    );
    let pod = planned.apply.deployments[1].spec.template.spec.clone();
    let command = pod.unwrap().containers[0].command.clone().unwrap();
    assert!(
        command
            .windows(2)
            .any(|words| words == ["--forwarded-from", "10.0.0.0/8,192.0.2.7/32"]),
        "{command:?}"
    );
}

/// The access log, the limits and the pages of the balancers change no pod of the app. A missing
/// `ConfigMap` does not keep a balancer from starting.
#[test]
fn what_concerns_balancers_alone_replaces_no_pod_of_the_app() {
    let before = running(&app(""));
    let lines = "  balancers: {accessLog: {query: false}, errorPages: {configMapName: pages}, \
                 limits: {requestsPerSecondPerAddress: 50, bodySize: 10Mi}}";
    let planned = plan(&app(lines), &before, &newer());
    assert_eq!(
        planned.apply.deployments[0].spec.template,
        workload(&before).spec.template
    );
    let pod = planned.apply.deployments[1].spec.template.spec.clone();
    let pod = pod.unwrap();
    let command = pod.containers[0].command.clone().unwrap();
    for (flag, value) in [
        ("--access-log", "json"),
        ("--access-log-query", "false"),
        ("--requests-per-second-per-address", "50"),
        ("--body-size", "10485760"),
        ("--error-pages", "/etc/scaledapp/error-pages"),
    ] {
        let is_given = command.windows(2).any(|words| words == [flag, value]);
        assert!(is_given, "{flag} {value}: {command:?}");
    }
    let volumes = pod.volumes.unwrap();
    let volume = volumes.iter().find(|volume| volume.name == "error-pages");
    let pages = volume.unwrap().config_map.as_ref().unwrap();
    assert_eq!((pages.name.as_str(), pages.optional), ("pages", Some(true)));
    let mounts = pod.containers[0].volume_mounts.clone().unwrap();
    let mount = mounts.iter().find(|mount| mount.name == "error-pages");
    let mount = mount.unwrap();
    assert_eq!(mount.mount_path, "/etc/scaledapp/error-pages");
    assert_eq!(mount.read_only, Some(true));
}

fn selector(planned: &Plan) -> BTreeMap<String, String> {
    let mut services = planned.apply.services.iter();
    let pods = services.find(|service| service.metadata.name.as_deref() == Some("hello-pods"));
    pods.unwrap().spec.clone().unwrap().selector.unwrap()
}

/// Pods of an early version of the operator lack the label `scaledapp.io/app`, and so do new pods
/// of a template that is pinned from that version.
#[test]
fn selectors_use_our_label_once_template_and_pods_have_it() {
    let ours = "scaledapp.io/app";
    let mut observed = running(&app(""));
    assert_eq!(
        selector(&plan(&app(""), &observed, &settings()))[ours],
        "hello"
    );
    // Right after the upgrade, neither the template nor the pods have the label.
    let deployments = &mut observed.live.deployments;
    let live = deployments
        .iter_mut()
        .find(|it| it.metadata.name.as_deref() == Some("hello"));
    let annotations = live.unwrap().metadata.annotations.as_mut().unwrap();
    let kept = annotations.get_mut("scaledapp.io/template").unwrap();
    *kept = kept.replace(&format!(r#","{ours}":"hello""#), "");
    for pod in &mut observed.pods {
        pod.marked = false;
    }
    let planned = plan(&app(""), &observed, &settings());
    assert!(!selector(&planned).contains_key(ours));
    let template = planned.apply.deployments[0].spec.template.metadata.as_ref();
    assert!(
        !template
            .unwrap()
            .labels
            .as_ref()
            .unwrap()
            .contains_key(ours)
    );
    // A new template has the label. While old pods exist, the selector matches them as well.
    let new = app("  workingDir: /new");
    let planned = plan(&new, &observed, &settings());
    assert!(!selector(&planned).contains_key(ours));
    apply(&mut observed, &planned);
    observed.pods[2].marked = true;
    assert!(!selector(&plan(&new, &observed, &settings())).contains_key(ours));
    observed.pods[3].marked = true;
    assert_eq!(selector(&plan(&new, &observed, &settings()))[ours], "hello");
}
