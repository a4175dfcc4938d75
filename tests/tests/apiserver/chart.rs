//! The chart as helm installs it, beside what is there already.

use crate::story::story;

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scaledapps.scaledapp.io";

/// Whose definition it is, as helm notes it.
fn owner(story: &crate::story::Story) -> String {
    let crd = story.server.api.get(CRD).unwrap();
    crd["metadata"]["annotations"]["meta.helm.sh/release-name"].to_string()
}

/// The definition is kept by every `helm uninstall`, with the name of the release that
/// brought it; and it may have been applied by hand.
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
            // Where nothing of a Service can be had by two.
            "--set=dns.enabled=false",
        ];
        story.server.helm(&words).unwrap()
    };
    let installed = install("second");
    assert_eq!(installed.code, 0, "{}", installed.stderr);
    let note = "was there already (from kubectl) and is left as it is";
    assert!(installed.stdout.contains(note), "{}", installed.stdout);
    assert_eq!(owner(&story), "null");
    // An upgrade of it changes nothing about that.
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
