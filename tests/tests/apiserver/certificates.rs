//! Tests of the Certificate of an app with an issuer, without cert-manager and with its definition.

use serde_json::{Value, json};

use crate::story::{condition, story};

const GROUP: &str = "/apis/cert-manager.io/v1";

/// The definition of Certificates, with the fields that are used here.
fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "certificates.cert-manager.io"},
        "spec": {
            "group": "cert-manager.io",
            "names": {"kind": "Certificate", "listKind": "CertificateList", "plural": "certificates", "singular": "certificate"},
            "scope": "Namespaced",
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// The kind is added while the app runs, as when somebody installs cert-manager later.
#[test]
fn a_certificate_is_requested_once_cert_manager_is_there_and_its_state_is_reported() {
    let Some(story) = story("certificates", 1) else {
        return;
    };
    story.apply(
        "hello",
        "{replicas: {total: 1}, balancers: {replicas: 1, tls: {secretName: hello-tls, issuerRef: {name: ca}}}, dns: {hostname: certificates.apps.test}}",
    );
    let reported = |says: &str| {
        story.wait("hello", says, |app| {
            let degraded = condition(app, "Degraded");
            degraded.reason == "CertificateNotIssued" && degraded.message.contains(says)
        });
    };
    reported("install cert-manager");
    story.try_apply(&definition()).unwrap();
    reported("check that cert-manager runs and that this issuer exists");
    let path = story.at(GROUP, "certificates/hello");
    let certificate = story.server.api.get(&path).unwrap();
    assert_eq!(certificate["spec"]["secretName"], "hello-tls");
    assert_eq!(certificate["spec"]["dnsNames"][0], "certificates.apps.test");
    assert_eq!(
        certificate["metadata"]["ownerReferences"][0]["name"],
        "hello"
    );

    let answer = |status: &str, message: &str| {
        let status = json!({"status": {"conditions": [{
            "type": "Ready", "status": status, "reason": "Test", "message": message,
            "lastTransitionTime": "2026-11-30T00:00:00Z",
            "observedGeneration": certificate["metadata"]["generation"],
        }]}});
        story
            .server
            .api
            .merge(&format!("{path}/status"), &status)
            .unwrap();
    };
    answer("False", "the issuer has an empty wallet");
    reported("the issuer has an empty wallet");
    answer("True", "Certificate is up to date and has not expired");
    story.wait("hello", "nothing is missing", |app| {
        condition(app, "Degraded").status == "False"
    });
}
