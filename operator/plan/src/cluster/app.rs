//! The app as a cluster runs it: a [`ValidatedApp`], and the fields that matter only in a
//! cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, EnvVarSource,
    ObjectFieldSelector, ResourceRequirements, SecretEnvSource, SecretKeySelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::v1alpha1::{self, Delivery, Exposure, Spec};
use scaledapp_crds::words::{annotation, port};
use serde_json::Value;

use super::drift::amount;
use super::meta::Owner;
use crate::validate::Check;
use crate::{Balancers, ValidatedApp, Violation};

/// The longest reload token, in bytes. It is the supervisor's limit: a supervisor refuses the whole
/// desired state if its token is longer.
pub const TOKEN_BYTES: usize = 128;

/// The settings with which the operator was started.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Image of `scaledapp-sidecar`. Each app keeps the image until the user's input for its pods
    /// changes.
    pub sidecar_image: String,
    /// Image of `scaledapp-balancer`.
    pub balancer_image: String,
    /// Pull policy of the two images; `None`: Kubernetes' default.
    pub image_pull_policy: Option<String>,
    /// Secrets to pull the two images with, in the app's namespace.
    pub image_pull_secrets: Vec<String>,
    /// Requests and limits of a balancer whose app does not set them.
    pub balancer_resources: ResourceRequirements,
}

impl Settings {
    /// Requests and limits of a balancer if neither the app nor the operator's flags name any.
    pub fn default_balancer_resources() -> ResourceRequirements {
        let amounts = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs =
                pairs.map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())));
            Some(pairs.collect())
        };
        ResourceRequirements {
            requests: amounts(&[("cpu", "100m"), ("memory", "64Mi")]),
            limits: amounts(&[("memory", "512Mi")]),
            claims: None,
        }
    }
}

/// An app with all of its values. Only [`validate`] creates values of this type.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// The part of the app that is the same on every platform. References in its `command` and
    /// `env` are resolved. Pods get [`App::command`] and [`App::env`] instead, because in a pod the
    /// kubelet resolves references.
    pub app: ValidatedApp,
    /// The app's namespace.
    pub namespace: String,
    /// The app's uid, for owner references.
    pub uid: String,
    /// Generation of the `ScaledApp` from which this value was made.
    pub generation: i64,
    /// Program and arguments as written.
    pub command: Vec<String>,
    /// Variables as written.
    pub env: Vec<EnvVar>,
    /// Whole `ConfigMap`s and `Secret`s as variables.
    pub env_from: Vec<EnvFromSource>,
    /// Requests and limits of a pod.
    pub resources: ResourceRequirements,
    /// The number of slots, and the settings of the balancers.
    pub balancers: Balancers,
    /// Who can reach the balancers.
    pub exposure: Exposure,
    /// Requests and limits of a balancer; `None`: those of [`Settings`].
    pub balancer_resources: Option<ResourceRequirements>,
    /// The user's overlay for balancers, as written.
    pub balancer_template: Option<Value>,
    /// How the supervisor gets into pods.
    pub delivery: Delivery,
    /// The user's overlay, as written.
    pub pod_template: Option<Value>,
    /// Whether the operator may change nothing but the slots' `EndpointSlice`s.
    pub paused: bool,
    /// Token of the last requested reload.
    pub reload: Option<String>,
    /// Token of the last requested upgrade of the supervisor.
    pub upgrade: Option<String>,
}

impl App {
    /// The name of the port at which the app, and its balancers, serve without a second one for
    /// TLS.
    pub(super) fn port_name(&self) -> &'static str {
        if self.app.is_tcp() {
            port::TCP
        } else {
            port::HTTP
        }
    }

    pub(super) fn owner(&self) -> Owner<'_> {
        Owner {
            name: &self.app.name,
            namespace: &self.namespace,
            uid: &self.uid,
        }
    }
}

/// Checks an object and gives its absent fields their meaning in a cluster.
///
/// # Errors
/// Everything that is wrong.
pub fn validate(object: &ScaledApp) -> Result<App, Vec<Violation>> {
    let mut check = Check::default();
    let spec = &object.spec;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        check.violation(
            "metadata.name",
            format!(
                "{name:?} becomes the name of a Service: begin with a letter, such as app-{name}"
            ),
        );
    }
    let token = |name| object.metadata.annotations.as_ref()?.get(name).cloned();
    let reload: Option<String> = token(annotation::RELOAD);
    if let Some(reload) = reload.as_ref().filter(|it| it.len() > TOKEN_BYTES) {
        check.violation(
            format!("metadata.annotations[{}]", annotation::RELOAD),
            format!(
                "it has {} bytes, and at most {TOKEN_BYTES} are allowed: use a time or a hash, such as $(date +%s)",
                reload.len()
            ),
        );
    }
    references(&mut check, spec);
    let app = check.app(name, spec);
    overlay(&mut check, "spec.podTemplate", spec.pod_template.as_ref());
    let written = spec.balancers.clone().unwrap_or_default();
    let at = "spec.balancers.podTemplate";
    overlay(&mut check, at, written.pod_template.as_ref());
    amounts(&mut check, "spec.resources", spec.resources.as_ref());
    let at = "spec.balancers.resources";
    amounts(&mut check, at, written.resources.as_ref());
    let app = check.finish(app)?;
    let balancers = *app.protocol.balancers();
    let supervisor = spec.supervisor.as_ref();
    let delivery = supervisor.and_then(|supervisor| supervisor.delivery);
    Ok(App {
        app,
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        command: spec.command.iter().chain(&spec.args).cloned().collect(),
        env: spec.env.iter().map(variable).collect(),
        env_from: spec.env_from.iter().map(variables).collect(),
        resources: spec.resources.as_ref().map(resources).unwrap_or_default(),
        balancers,
        exposure: written.exposure.unwrap_or(Exposure::ClusterIP),
        balancer_resources: written.resources.as_ref().map(resources),
        balancer_template: written.pod_template,
        delivery: delivery.unwrap_or(Delivery::InitContainer),
        pod_template: spec.pod_template.clone(),
        paused: spec.paused,
        reload,
        upgrade: token(annotation::UPGRADE),
    })
}

fn references(check: &mut Check, spec: &Spec) {
    for (index, variable) in spec.env.iter().enumerate() {
        let Some(from) = &variable.value_from else {
            continue;
        };
        if variable.value.is_some() {
            check.violation(
                format!("spec.env[{index}]"),
                "value and valueFrom exclude each other: leave one out",
            );
        }
        let given = [
            from.secret_key_ref.is_some(),
            from.config_map_key_ref.is_some(),
            from.field_ref.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() != 1 {
            check.violation(
                format!("spec.env[{index}].valueFrom"),
                "give exactly one of secretKeyRef, configMapKeyRef and fieldRef",
            );
        }
    }
    for (index, from) in spec.env_from.iter().enumerate() {
        if from.config_map_ref.is_some() == from.secret_ref.is_some() {
            check.violation(
                format!("spec.envFrom[{index}]"),
                "give exactly one of configMapRef and secretRef",
            );
        }
    }
}

/// Checks the outermost names only; `plan` checks the rest with Kubernetes' own types.
fn overlay(check: &mut Check, root: &str, overlay: Option<&Value>) {
    let Some(overlay) = overlay else { return };
    let Some(fields) = overlay.as_object() else {
        check.violation(root, "must be an object with the fields metadata and spec");
        return;
    };
    let short = root.rsplit_once('.').map_or(root, |(_, name)| name);
    for name in fields
        .keys()
        .filter(|name| !matches!(name.as_str(), "metadata" | "spec"))
    {
        check.violation(
            format!("{root}.{name}"),
            format!("there is no such field: write it under {short}.metadata or {short}.spec"),
        );
    }
}

fn variable(variable: &v1alpha1::EnvVar) -> EnvVar {
    let from = variable.value_from.clone();
    EnvVar {
        name: variable.name.clone(),
        value: variable.value.clone().filter(|value| !value.is_empty()),
        value_from: from.map(|from| EnvVarSource {
            secret_key_ref: from.secret_key_ref.map(|entry| SecretKeySelector {
                name: entry.name,
                key: entry.key,
                optional: entry.optional,
            }),
            config_map_key_ref: from.config_map_key_ref.map(|entry| ConfigMapKeySelector {
                name: entry.name,
                key: entry.key,
                optional: entry.optional,
            }),
            field_ref: from.field_ref.map(|field| ObjectFieldSelector {
                api_version: None,
                field_path: field.field_path,
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn variables(from: &v1alpha1::EnvFrom) -> EnvFromSource {
    let from = from.clone();
    EnvFromSource {
        prefix: from.prefix,
        config_map_ref: from.config_map_ref.map(|object| ConfigMapEnvSource {
            name: object.name,
            optional: object.optional,
        }),
        secret_ref: from.secret_ref.map(|object| SecretEnvSource {
            name: object.name,
            optional: object.optional,
        }),
    }
}

/// Refuses a request above its limit, because the API server would refuse the pods.
fn amounts(check: &mut Check, root: &str, resources: Option<&v1alpha1::Resources>) {
    let Some(resources) = resources else { return };
    for (name, request) in &resources.requests {
        let Some(limit) = resources.limits.get(name) else {
            continue;
        };
        let (asked, most) = (amount(&request.to_string()), amount(&limit.to_string()));
        if asked.zip(most).is_some_and(|(asked, most)| asked > most) {
            check.violation(
                format!("{root}.requests.{name}"),
                format!(
                    "{request} is more than limits.{name}, which is {limit}: lower the one or raise the other"
                ),
            );
        }
    }
}

/// Requests and limits of a container; absent if empty.
pub fn requirements(
    requests: &BTreeMap<String, scaledapp_crds::Quantity>,
    limits: &BTreeMap<String, scaledapp_crds::Quantity>,
) -> ResourceRequirements {
    let amounts = |amounts: &BTreeMap<String, scaledapp_crds::Quantity>| {
        let amounts = amounts.iter();
        let amounts: BTreeMap<_, _> = amounts
            .map(|(name, amount)| (name.clone(), Quantity(amount.to_string())))
            .collect();
        Some(amounts).filter(|amounts| !amounts.is_empty())
    };
    ResourceRequirements {
        requests: amounts(requests),
        limits: amounts(limits),
        claims: None,
    }
}

fn resources(resources: &v1alpha1::Resources) -> ResourceRequirements {
    requirements(&resources.requests, &resources.limits)
}
