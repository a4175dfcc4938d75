//! Tests of the chart as helm installs it: helm changes no existing definition, and the API
//! server knows every rendered field.

use serde_json::{Value, json};

use crate::server::server;
use crate::story::story;

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scaledapps.scaledapp.io";

/// The owner of the definition, as helm records it.
fn owner(story: &crate::story::Story) -> String {
    let crd = story.server.api.get(CRD).unwrap();
    crd["metadata"]["annotations"]["meta.helm.sh/release-name"].to_string()
}

/// A definition may already exist: `helm uninstall` keeps it, with the name of the release that
/// installed it, or a person has applied it, as here.
#[test]
fn a_release_leaves_a_definition_of_others_alone_and_says_so() {
    let Some(story) = story("chart", 1) else {
        return;
    };
    assert_eq!(owner(&story), "null");
    let install = |release: &str| {
        let words = [
            "install",
            release,
            "charts/scaledapp",
            "--namespace=chart",
            "--set=image.registry=registry.test",
            "--set=watchNamespaces={chart}",
            // Without DNS, so that two releases do not need the same Service.
            "--set=dns.enabled=false",
        ];
        story.server.helm(&words).unwrap()
    };
    let installed = install("second");
    assert_eq!(installed.code, 0, "{}", installed.stderr);
    let note = "was there already (from kubectl) and is left as it is";
    assert!(installed.stdout.contains(note), "{}", installed.stdout);
    assert_eq!(owner(&story), "null");
    // An upgrade of the release does not take over the definition either.
    let upgrade = [
        "upgrade",
        "second",
        "charts/scaledapp",
        "--namespace=chart",
        "--reuse-values",
    ];
    let upgraded = story.server.helm(&upgrade).unwrap();
    assert_eq!(upgraded.code, 0, "{}", upgraded.stderr);
    assert_eq!(owner(&story), "null");
    let removed = story
        .server
        .helm(&["uninstall", "second", "--namespace=chart"])
        .unwrap();
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    story.server.api.get(CRD).unwrap();
}

/// Checks like kubeconform, but with the schemas and the admission of this API server:
/// `--dry-run=server --validate=strict`.
#[test]
fn everything_that_the_chart_renders_is_accepted_in_strict_mode() {
    let Some(server) = server() else {
        return;
    };
    for values in ["plain", "large", "small", "namespaces"] {
        let file = format!("--values=tests/fixtures/chart/{values}.yaml");
        let linted = server.helm(&["lint", "--strict", "charts/scaledapp", &file]);
        let linted = linted.unwrap();
        assert_eq!(
            linted.code, 0,
            "{values}: {}{}",
            linted.stdout, linted.stderr
        );
        let words = [
            "template",
            "strict",
            "charts/scaledapp",
            &file,
            "--namespace=scaledapp-system",
        ];
        let rendered = server.helm(&words).unwrap();
        assert_eq!(rendered.code, 0, "{values}: {}", rendered.stderr);
        let mut kinds = Vec::new();
        for text in rendered.stdout.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(text).unwrap();
            let Some(kind) = object["kind"].as_str() else {
                continue;
            };
            kinds.push(kind.to_owned());
            let taken = server.api.check(&object);
            taken.unwrap_or_else(|refused| panic!("{values}: {refused}\n{text}"));
        }
        assert!(
            kinds.iter().any(|kind| kind == "Deployment"),
            "{values}: {kinds:?}"
        );
    }
    // The negative control: an unknown field is refused.
    let wrong = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "wrong", "namespace": "default"}, "datum": {},
    });
    let refused = server.api.check(&wrong).unwrap_err();
    assert!(refused.message.contains("datum"), "{refused}");
}
