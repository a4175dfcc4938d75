//! The names of images.

use serde_json::json;

use crate::{container, flag, refused, rendered, template};

#[test]
fn without_a_registry_the_install_fails_and_the_message_names_the_cure() {
    let Some(message) = refused(&[]) else { return };
    assert!(
        message.contains("--set image.registry=registry.example/team"),
        "{message}"
    );
    // If one image has no name, the message names it.
    let others = ["operator", "sidecar", "balancer"];
    let others = others.map(|name| format!("images.{name}.repository=r.example/{name}"));
    let message = refused(&others.each_ref().map(String::as_str)).unwrap();
    assert!(message.contains("images.dns.repository"), "{message}");
    // A component that is not installed needs no image.
    let values = [&others[0], &others[1], &others[2], "dns.enabled=false"];
    assert_eq!(template(&values).unwrap().code, 0);
}

#[test]
fn one_registry_is_enough_and_an_images_own_repository_overrides_it() {
    let own = "images.dns.repository=localhost:5000/names";
    let Some(objects) = rendered(&[own, "images.dns.tag=v7"]) else {
        return;
    };
    let image = |component| container(&objects, component)["image"].clone();
    assert_eq!(
        image("operator"),
        "registry.example/team/scaledapp-operator:0.1.0"
    );
    assert_eq!(image("dns"), "localhost:5000/names:v7");
    assert_eq!(
        flag(&objects, "operator", "sidecar-image"),
        ["registry.example/team/scaledapp-sidecar:0.1.0"]
    );
    assert_eq!(
        flag(&objects, "operator", "balancer-image"),
        ["registry.example/team/scaledapp-balancer:0.1.0"]
    );
}

#[test]
fn a_digest_overrides_a_tag() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let value = format!("images.sidecar.digest={digest}");
    let Some(objects) = rendered(&[&value, "images.sidecar.tag=v7"]) else {
        return;
    };
    assert_eq!(
        flag(&objects, "operator", "sidecar-image"),
        [format!("registry.example/team/scaledapp-sidecar@{digest}")]
    );
    let message = refused(&["images.sidecar.digest=latest"]).unwrap();
    assert!(message.contains("/images/sidecar/digest"), "{message}");
    let message = refused(&["images.sidecar.repository=r.example/a:1"]).unwrap();
    assert!(message.contains("/images/sidecar/repository"), "{message}");
}

#[test]
fn a_parent_chart_may_set_the_registry_for_all() {
    let Some(ended) = template(&["global.imageRegistry=mirror.example"]) else {
        return;
    };
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let image = json!("mirror.example/scaledapp-dns:0.1.0");
    assert!(ended.stdout.contains(image.as_str().unwrap()));
}
