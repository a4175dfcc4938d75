//! The API server: refusals of invalid fields, scale, ownership, and no writes if nothing changes.

use serde_json::Value;

use crate::{IMAGES, hello, story};

#[test]
fn a_wrong_or_unknown_field_is_refused_by_its_name() {
    let Some(story) = story("refuse") else { return };
    let good = hello(IMAGES[0], "");
    for (wrong, instead, says) in [
        ("{total: 2}", "{total: 2, perNode: 1}", "perNode"),
        ("command: [node, server.js]", "command: []", "command"),
        ("port: 3000", "port: 0", "port"),
        ("port: 3000", "port: 70000", "port"),
        ("count: 2", "perCore: 0", "perCore"),
        ("hello.apps.local", "not a name", "hostname"),
        (
            "balancers: {replicas: 2}",
            "balancers: {replicas: 0}",
            "balancers",
        ),
    ] {
        let bad = good.replace(wrong, instead);
        assert_ne!(bad, good);
        let ended = story.cluster.try_apply(&story.namespace, &bad).unwrap();
        println!("{instead}: {}", ended.stderr.trim());
        assert_ne!(ended.code, 0, "{instead} was accepted");
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    let unknown = format!("{good}  colour: red\n");
    let ended = story.cluster.try_apply(&story.namespace, &unknown).unwrap();
    assert!(
        ended.stderr.contains("unknown field") && ended.stderr.contains("colour"),
        "{}",
        ended.stderr
    );
}

/// Every object of the app, with its resourceVersion.
fn versions(objects: &Value) -> Vec<String> {
    let items = objects["items"].as_array().unwrap();
    let mut versions: Vec<String> = items
        .iter()
        .map(|item| {
            format!(
                "{} {} {}",
                item["kind"], item["metadata"]["name"], item["metadata"]["resourceVersion"]
            )
        })
        .collect();
    versions.sort();
    versions
}

#[test]
fn an_idle_app_is_not_written_to_and_owns_what_it_made() {
    let Some(story) = story("idle") else { return };
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();
    let kinds = "scaledapps,deployments,services,endpointslices,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
    let look = || {
        let words = [
            "-n",
            &story.namespace,
            kinds,
            "-l",
            "app.kubernetes.io/instance=hello",
        ];
        let objects = story.cluster.get(&words).unwrap();
        let app = story.app();
        (
            versions(&objects),
            app["metadata"]["resourceVersion"].clone(),
            objects,
        )
    };
    // After this time, the operator has written the status that follows from the rollout's last
    // heartbeat.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let (before, app_before, objects) = look();
    // Heartbeats go on during this time and must cause no write.
    std::thread::sleep(std::time::Duration::from_secs(20));
    let (after, app_after, _) = look();
    assert_eq!(before, after);
    assert_eq!(app_before, app_after);
    for object in objects["items"].as_array().unwrap() {
        let owner = &object["metadata"]["ownerReferences"][0];
        // Kubernetes creates slices for Services with a selector, and copies the labels of the
        // Services to them.
        let slices = &object["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
        if slices != "endpointslice-controller.k8s.io" {
            assert_eq!(owner["kind"], "ScaledApp", "{}", object["metadata"]);
        }
    }
    let scale = story.kubectl(&[
        "get",
        "scaledapp",
        "hello",
        "--subresource=scale",
        "-o",
        "jsonpath={.spec.replicas} {.status.replicas}",
    ]);
    assert_eq!(scale.trim(), "2 2");
    let columns = story.kubectl(&["get", "sapp"]);
    for part in [
        "READY",
        "PODS",
        "WORKERS",
        "BALANCERS",
        "HOST",
        "True",
        "2/2",
        "4/4",
        "story-idle.apps.local",
    ] {
        assert!(columns.contains(part), "{part} in {columns}");
    }
    let explained = story.kubectl(&["explain", "scaledapp.spec.workers.drainTimeout"]);
    assert!(explained.contains("drainTimeout"), "{explained}");
}

#[test]
fn our_fields_are_repaired_and_fields_of_others_stay() {
    let Some(story) = story("apply") else { return };
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();
    let node = "jsonpath={.items[*].spec.nodeName}";
    let app = "app.kubernetes.io/component=app";
    let nodes = story.kubectl(&["get", "pods", "-l", app, "-o", node]);
    let nodes: std::collections::BTreeSet<&str> = nodes.split_whitespace().collect();
    assert_eq!(nodes.len(), 2, "two pods on two nodes: {nodes:?}");

    story.kubectl(&[
        "annotate",
        "deployment",
        "hello",
        "example.com/theirs=stays",
    ]);
    let five = r#"{"spec": {"replicas": 5}}"#;
    story.kubectl(&["patch", "deployment", "hello", "--type=merge", "-p", five]);
    let look = || {
        let words = [
            "-n",
            &story.namespace,
            "deployment",
            "hello",
            "--show-managed-fields",
        ];
        story.cluster.get(&words)
    };
    story
        .cluster
        .wait("the number of pods is ours again", || {
            Ok((look()?["spec"]["replicas"] == 2).then_some(()))
        })
        .unwrap();
    let deployment = look().unwrap();
    assert_eq!(
        deployment["metadata"]["annotations"]["example.com/theirs"],
        "stays"
    );
    let managers = deployment["metadata"]["managedFields"].as_array().unwrap();
    let ours: Vec<&Value> = managers
        .iter()
        .filter(|manager| manager["manager"] == "scaledapp-operator")
        .collect();
    assert!(
        ours.len() == 1 && ours[0]["operation"] == "Apply",
        "{managers:?}"
    );
}
