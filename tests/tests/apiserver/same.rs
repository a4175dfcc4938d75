//! Tests which objects the API server accepts, by server-side apply and by a plain create, which is
//! what the first `kubectl apply` sends. `scaledapp-operator render` accepts what a plain create
//! accepts; `operator/tests/api/render.rs` tests it with the same list.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::story::story;

#[derive(Deserialize)]
struct Same {
    taken: Vec<String>,
    /// Accepted by a plain create, but refused by server-side apply.
    nulls: Vec<String>,
    refused: Vec<String>,
}

#[test]
fn the_api_server_accepts_what_render_accepts() {
    let Some(story) = story("same", 0) else {
        return;
    };
    let same: Same =
        serde_saphyr::from_str(include_str!("../../../operator/tests/api/same.yaml")).unwrap();
    let api = &story.server.api;
    let mut wrong = Vec::new();
    let rows = |fields: &[String], apply: bool, create: bool| {
        let rows = fields.iter().map(|fields| (fields.clone(), apply, create));
        rows.collect::<Vec<_>>()
    };
    let all = [
        rows(&same.taken, true, true),
        rows(&same.nulls, false, true),
        rows(&same.refused, false, false),
    ]
    .concat();
    for (fields, apply, create) in &all {
        let mut spec = json!({"image": "i", "command": ["x"]});
        let more: Value = serde_saphyr::from_str(fields).unwrap();
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let object = json!({
            "apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp",
            "metadata": {"name": "a", "namespace": "same", "labels": null}, "spec": spec,
        });
        let path = story.at("/apis/scaledapp.io/v1alpha1", "scaledapps");
        let path = format!("{path}?dryRun=All&fieldValidation=Strict");
        let answers = [
            ("apply", *apply, api.try_apply(&object)),
            ("create", *create, api.post(&path, &object)),
        ];
        for (how, taken, answer) in answers {
            match answer {
                Ok(_) if !taken => wrong.push(format!("{how} {fields}: accepted")),
                Err(refused) if taken => wrong.push(format!("{how} {fields}: {refused}")),
                Err(refused) => println!("{how} {fields}: {refused}"),
                Ok(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
