//! Tests plans for what the operator of commit 9ff87d4 stored (`tests/fixtures/upgrade`):
//! every app keeps its pod template, and selectors still match pods that lack a newer
//! label.

use k8s_openapi::api::apps::v1::Deployment;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::{Observed, Pod, plan, validate};
use serde_json::Value;

use crate::given::{cluster, settings};

const OBJECTS: &str = include_str!("../../../../tests/fixtures/upgrade/objects.jsonl");

#[test]
fn templates_of_an_older_operator_are_kept_byte_for_byte() {
    let lines = OBJECTS.lines();
    let objects: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut apps = 0;
    for object in objects.iter().filter(|it| it["kind"] == "ScaledApp") {
        let mut app: ScaledApp = serde_json::from_value(object.clone()).unwrap();
        let name = app.metadata.name.clone().unwrap();
        app.metadata.uid = Some(format!("uid-of-{name}"));
        app.metadata.generation = Some(1);
        let live = objects
            .iter()
            .find(|it| it["kind"] == "Deployment" && it["metadata"]["name"] == *name);
        let live: Deployment = serde_json::from_value(live.unwrap().clone()).unwrap();
        let kept = live.metadata.annotations.as_ref().unwrap()["scaledapp.io/template"].clone();
        let pin = live.metadata.annotations.as_ref().unwrap()["scaledapp.io/inputs"].clone();
        let observed = Observed {
            pods: vec![Pod {
                name: format!("{name}-7f6684675f-x"),
                component: "app".to_owned(),
                ready: true,
                ..Pod::default()
            }],
            live: scaledapp_plan::cluster::Objects {
                deployments: vec![live],
                ..scaledapp_plan::cluster::Objects::default()
            },
            ..cluster(2)
        };
        let planned = plan(&validate(&app).unwrap(), &observed, &settings()).apply;
        let template = &planned.deployments[0].spec.template;
        assert_eq!(serde_json::to_string(template).unwrap(), kept, "{name}");
        let annotations = &planned.deployments[0].metadata.annotations;
        assert_eq!(
            annotations.as_ref().unwrap()["scaledapp.io/inputs"],
            pin,
            "{name}"
        );
        let service = planned
            .services
            .iter()
            .find(|it| it.metadata.name.as_deref() == Some(&format!("{name}-pods")));
        let selector = service.unwrap().spec.as_ref().unwrap().selector.as_ref();
        assert!(
            !selector.unwrap().contains_key("scaledapp.io/app"),
            "{name}"
        );
        apps += 1;
    }
    assert_eq!(apps, 4);
}
