//! The object as the API server knows it: typed ([`ScaledApp`]), with its
//! status, and its definition ([`definition`]).

pub use crate::status::{ScaledAppStatus, SlotStatus, WorkersStatus};
pub use crate::v1alpha1::ScaledAppObject as ScaledApp;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, ValidationRule,
};
use kube::CustomResourceExt;

/// Becomes the name of a Service, which older API servers want to begin with a letter.
const NAME_RULE: (&str, &str) = (
    "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name becomes the name of a Service: begin with a letter, then a-z, 0-9 and -, at most 63, such as hello",
);

/// The `CustomResourceDefinition`: what `crds/scaledapp.yaml` holds.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = ScaledApp::crd();
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            let (rule, message) = NAME_RULE;
            schema.x_kubernetes_validations = Some(vec![ValidationRule {
                rule: rule.to_owned(),
                message: Some(message.to_owned()),
                ..ValidationRule::default()
            }]);
        }
    }
    definition
}

impl From<crate::ScaledApp> for ScaledApp {
    /// As if the file had been applied to a cluster just now.
    fn from(file: crate::ScaledApp) -> Self {
        let mut object = Self::new(&file.metadata.name, file.spec);
        object.metadata.namespace = file.metadata.namespace;
        object.metadata.labels = Some(file.metadata.labels).filter(|map| !map.is_empty());
        object.metadata.annotations = Some(file.metadata.annotations).filter(|map| !map.is_empty());
        object
    }
}
