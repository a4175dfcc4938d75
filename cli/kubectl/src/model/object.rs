//! What a ScaledApp says, read field by field: a newer cluster may store fields that this version
//! does not know, and an older one lacks some.

use serde_json::Value;

use super::tree::{Condition, Health};

/// A text below `object`; empty if there is none.
pub(crate) fn text(object: &Value, pointer: &str) -> String {
    let value = object.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

/// Namespace and name.
pub(crate) fn key(object: &Value) -> (String, String) {
    (
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    )
}

/// Whether the operator has seen the object's last change.
pub(crate) fn is_observed(object: &Value) -> bool {
    let generation = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    let observed = object
        .pointer("/status/observedGeneration")
        .and_then(Value::as_i64);
    observed.is_some() && observed >= generation
}

/// The conditions, in the object's order.
pub(crate) fn conditions(object: &Value) -> Vec<Condition> {
    let all = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let read = |condition: &Value| {
        let kind = text(condition, "/type");
        let status = text(condition, "/status");
        // These say by True that something is wrong; the others say so by False.
        let is_problem = match kind.as_str() {
            "Degraded" | "Stalled" => status == "True",
            "Ready" => status == "False",
            _ => false,
        };
        Condition {
            is_problem,
            reason: text(condition, "/reason"),
            message: text(condition, "/message"),
            kind,
            status,
        }
    };
    all.into_iter().flatten().map(read).collect()
}

/// How well an app is, and in one word why, from its conditions.
pub(crate) fn health(conditions: &[Condition]) -> (Health, String) {
    let find = |kind: &str| conditions.iter().find(|it| it.kind == kind);
    let Some(ready) = find("Ready") else {
        return (Health::Unknown, "NotObserved".to_owned());
    };
    if ready.status != "True" {
        let health = match ready.status.as_str() {
            "False" => Health::Failing,
            _ => Health::Unknown,
        };
        return (health, ready.reason.clone());
    }
    let worse = conditions.iter().any(|it| it.is_problem);
    let health = if worse { Health::Warning } else { Health::Good };
    (health, "Ready".to_owned())
}

/// The version in the name of an image: its tag, otherwise the first digits of its digest.
pub(crate) fn image_version(image: &str) -> String {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to a registry's port.
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => tag.to_owned(),
        (None, Some(digest)) => {
            let digits = digest.rsplit(':').next().unwrap_or_default();
            digits.chars().take(12).collect()
        }
        (None, None) => "latest".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_version_of_an_image_is_its_tag_or_digest() {
        for (image, version) in [
            ("shop", "latest"),
            ("localhost:5000/shop", "latest"),
            ("localhost:5000/shop:1.4", "1.4"),
            ("shop@sha256:0123456789abcdef", "0123456789ab"),
            ("a/shop:1@sha256:0123456789abcdef", "1"),
        ] {
            assert_eq!(image_version(image), version, "{image}");
        }
    }

    #[test]
    fn an_app_is_as_well_as_its_conditions_say() {
        let app = |ready: &str, degraded: &str| {
            json!({"status": {"conditions": [
                {"type": "Ready", "status": ready, "reason": "AppCrashing"},
                {"type": "Degraded", "status": degraded, "reason": "x"},
            ]}})
        };
        let is = |object: &Value| health(&conditions(object));
        assert_eq!(
            is(&app("True", "False")),
            (Health::Good, "Ready".to_owned())
        );
        assert_eq!(is(&app("True", "True")).0, Health::Warning);
        assert_eq!(
            is(&app("False", "True")),
            (Health::Failing, "AppCrashing".to_owned())
        );
        assert_eq!(is(&json!({})), (Health::Unknown, "NotObserved".to_owned()));
    }

    #[test]
    fn a_change_that_the_operator_has_not_seen_is_told() {
        let object =
            |seen| json!({"metadata": {"generation": 3}, "status": {"observedGeneration": seen}});
        assert!(is_observed(&object(3)));
        assert!(!is_observed(&object(2)));
        assert!(!is_observed(&object(-1)));
        assert!(!is_observed(&json!({"metadata": {"generation": 1}})));
    }
}
