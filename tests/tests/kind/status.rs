//! The status after faults that only a real kubelet or a real supervisor can report.

use serde_json::Value;

use crate::{IMAGES, Story, hello, story};

impl Story {
    /// Waits until both Ready and Degraded have this reason and a message with these parts.
    fn wait_reported(&self, reason: &str, says: &[&str]) {
        let of = |app: &Value, kind: &str| {
            let conditions = app["status"]["conditions"].as_array().cloned();
            let mut conditions = conditions.unwrap_or_default().into_iter();
            let found = conditions.find(|it| it["type"] == kind).unwrap_or_default();
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            (text("reason"), text("message"))
        };
        let begun = std::time::Instant::now();
        self.cluster
            .wait(reason, || {
                let app = self.app();
                let told = ["Ready", "Degraded"].iter().all(|kind| {
                    let (is, message) = of(&app, kind);
                    is == reason && says.iter().all(|part| message.contains(part))
                });
                Ok(told.then_some(()))
            })
            .unwrap();
        println!(
            "{reason}: reported after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
    }
}

#[test]
fn a_wrong_port_and_a_missing_volume_are_reported_with_their_cause() {
    let Some(story) = story("told") else { return };
    let app = hello(IMAGES[0], "");
    let elsewhere = app.replace(
        "[node, server.js]",
        "[node, -e, \"require('http').createServer((q, r) => r.end()).listen(4000)\"]",
    );
    assert_ne!(app, elsewhere);
    story.apply(&elsewhere);
    story.wait_reported(
        "WrongPort",
        &[
            "the app listens on 4000, spec.port is 3000",
            "change spec.port",
        ],
    );
    story.kubectl(&["delete", "scaledapp", "hello"]);
    // A kubelet sets up a volume only if a container mounts it.
    let volume = "  podTemplate: {spec: {volumes: [{name: v, secret: {secretName: nope}}], containers: [{name: app, volumeMounts: [{name: v, mountPath: /v}]}]}}\n";
    story.apply(&hello(IMAGES[0], volume));
    story.wait_reported(
        "PodCannotStart",
        &[
            "secret \"nope\" not found",
            "create it in the app's namespace",
        ],
    );
    story.kubectl(&["create", "secret", "generic", "nope", "--from-literal=a=b"]);
    story.wait_ready();
}
