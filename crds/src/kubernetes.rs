//! The object's type as the API server stores it ([`ScaledApp`], with a status), and its
//! `CustomResourceDefinition` ([`definition`]).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ValidationRule,
};
use kube::CustomResourceExt;

pub use crate::status::{AutoscalingStatus, ScaledAppStatus, SlotStatus, WorkersStatus};
pub use crate::v1alpha1::ScaledAppObject as ScaledApp;

/// The rule for names: an app's name becomes the name of a Service, which older API servers
/// require to begin with a letter.
const NAME_RULE: &str =
    "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')";
const NAME_MESSAGE: &str = "metadata.name becomes the name of a Service: begin with a letter, then a-z, 0-9 and -, at most 63, such as hello";

/// The `CustomResourceDefinition`: the content of `crds/scaledapp.yaml`.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = ScaledApp::crd();
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            plain(schema);
            // A new object must not count as reconciled (kstatus).
            let mut status = schema.properties.iter_mut();
            if let Some(status) = status.find_map(|properties| properties.get_mut("status")) {
                status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
            }
            schema.x_kubernetes_validations = Some(vec![ValidationRule {
                rule: NAME_RULE.to_owned(),
                message: Some(NAME_MESSAGE.to_owned()),
                ..ValidationRule::default()
            }]);
        }
    }
    definition
}

/// Removes three things that the derives add. Defaults: a stored default could contradict another
/// member of a union. `nullable`: without it the API server drops nulls, so no rule sees a null.
/// Titles: they are names of Rust types.
fn plain(schema: &mut JSONSchemaProps) {
    schema.default = None;
    schema.title = None;
    schema.nullable = None;
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|map| map.values_mut())
    {
        plain(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        plain(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        plain(values);
    }
}

impl From<crate::ScaledApp> for ScaledApp {
    /// The object as if the file had just been applied to a cluster.
    fn from(file: crate::ScaledApp) -> Self {
        let mut object = Self::new(&file.metadata.name, file.spec);
        object.metadata.namespace = file.metadata.namespace;
        object.metadata.labels = Some(file.metadata.labels).filter(|map| !map.is_empty());
        object.metadata.annotations = Some(file.metadata.annotations).filter(|map| !map.is_empty());
        object
    }
}
