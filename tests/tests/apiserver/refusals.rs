//! Pods that do not come up: what the status says, in whose words, and how soon.

use crate::kubelet::Behaviour;
use crate::story::{condition, story};

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    let Some(story) = story("pull", 1) else {
        return;
    };
    story.rule(|pod| {
        if pod["spec"]["containers"][0]["name"] == "app" {
            Behaviour::Waits(
                "ErrImagePull",
                "failed to pull registry.test/app:1: not found",
            )
        } else {
            Behaviour::Ready(std::time::Duration::ZERO)
        }
    });
    story.apply("hello", "replicas: {total: 1}");
    let app = story.wait("hello", "the reason", |app| {
        condition(app, "Ready").reason == "ImagePullError"
    });
    assert!(
        condition(&app, "Ready")
            .message
            .contains("registry.test/app:1: not found")
    );
}
