//! The balancers' Deployments, one per slot, and the few rights that a balancer needs; also the
//! service accounts and disruption budgets of the app and of its balancers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
    LocalObjectReference, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSpec,
    PodTemplateSpec, ResourceRequirements, SecretVolumeSource, ServiceAccount, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scaledapp_crds::v1alpha1::Algorithm;
use scaledapp_crds::words::{component, label, port};

use super::frame::linux;
use super::meta::{Owner, SERVICE_ACCOUNT, selects, time};
use super::pod_template::{
    pod_security, probe, security, token_file, token_mount, token_volume, words,
};
use super::slots::{POD_PORT, POD_TLS_PORT, SLOT_TLS_PORT};
use super::{App, Settings, Stalled, overlay};
use crate::local::ADMIN_PORT;
use crate::{Pods, Tls};

/// How long work in flight may take to finish after SIGTERM.
const DRAIN: &str = "30s";
const GRACE_SECONDS: i64 = 45;
/// The volume with the authorities of clients.
const CLIENT_CA: &str = "client-ca";
/// The volume with error pages.
const ERROR_PAGES: &str = "error-pages";

/// The balancer of a slot.
///
/// # Errors
/// The user's template for balancers is invalid.
pub(super) fn deployment(app: &App, slot: u32, settings: &Settings) -> Result<Deployment, Stalled> {
    let owner = app.owner();
    let mut selector = owner.selector(component::BALANCER);
    selector.insert(label::SLOT.to_owned(), slot.to_string());
    let metadata = owner.slot_meta(slot);
    let mut labels = metadata.labels.clone();
    labels.get_or_insert_default().extend(owner.mark());
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels,
            ..ObjectMeta::default()
        }),
        spec: Some(pod(app, settings)),
    };
    if let Some(overlay) = &app.balancer_template {
        template = overlay::merge(template, overlay, overlay::BALANCER)?;
    }
    Ok(Deployment {
        metadata,
        spec: DeploymentSpec {
            replicas: Some(1),
            selector: selects(selector),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        },
        status: None,
    })
}

fn pod(app: &App, settings: &Settings) -> PodSpec {
    let owner = app.owner();
    let secrets = settings.image_pull_secrets.iter();
    let secrets: Vec<_> = secrets
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    PodSpec {
        affinity: Some(Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![
                    WeightedPodAffinityTerm {
                        weight: 100,
                        pod_affinity_term: PodAffinityTerm {
                            label_selector: Some(selects(owner.selector(component::BALANCER))),
                            topology_key: "kubernetes.io/hostname".to_owned(),
                            ..PodAffinityTerm::default()
                        },
                    },
                ]),
                ..PodAntiAffinity::default()
            }),
            ..Affinity::default()
        }),
        containers: vec![container(app, settings)],
        // Otherwise a Service called `scaledapp` would set the variable SCALEDAPP_PORT.
        enable_service_links: Some(false),
        image_pull_secrets: Some(secrets).filter(|secrets| !secrets.is_empty()),
        node_selector: Some(linux()),
        security_context: Some(pod_security()),
        service_account_name: Some(owner.balancers()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        volumes: Some(volumes(app)).filter(|volumes| !volumes.is_empty()),
        ..PodSpec::default()
    }
}

/// The volumes of the forwarding token, of the Secrets for TLS and of error pages. A pod does not
/// start until its Secrets exist; meanwhile, the previous balancer keeps running. Pages may be
/// missing.
fn volumes(app: &App) -> Vec<Volume> {
    let secret = |name: String, secret: &String| Volume {
        name,
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.clone()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let token = app.app.asks_for_token().then(|| token_volume(app));
    let mut volumes: Vec<Volume> = token.into_iter().collect();
    if let Some(tls) = &app.app.tls {
        let secrets = tls.secrets.iter().enumerate();
        volumes.extend(secrets.map(|(index, name)| secret(tls_name(index), name)));
        let clients = tls.clients.iter();
        volumes.extend(clients.map(|clients| secret(CLIENT_CA.to_owned(), &clients.secret)));
    }
    volumes.extend(app.app.error_pages.as_ref().map(|name| Volume {
        name: ERROR_PAGES.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: name.clone(),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes
}

/// Where the volumes are mounted.
fn mounts(app: &App) -> Vec<VolumeMount> {
    let mount = |name: String| VolumeMount {
        mount_path: directory_of(&name),
        name,
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let token = app.app.asks_for_token().then(token_mount);
    let mut mounts: Vec<VolumeMount> = token.into_iter().collect();
    if let Some(tls) = &app.app.tls {
        mounts.extend((0..tls.secrets.len()).map(|index| mount(tls_name(index))));
        mounts.extend(tls.clients.iter().map(|_| mount(CLIENT_CA.to_owned())));
    }
    let pages = app.app.error_pages.iter();
    mounts.extend(pages.map(|_| mount(ERROR_PAGES.to_owned())));
    mounts
}

/// The name of the volume of a certificate.
fn tls_name(index: usize) -> String {
    format!("tls-{index}")
}

fn directory_of(volume: &str) -> String {
    format!("/etc/scaledapp/{volume}")
}

/// The balancer's flags for TLS.
fn tls_flags(tls: &Tls, is_tcp: bool) -> Vec<(&'static str, String)> {
    // The one port of relayed connections has TLS itself.
    let listen = (!is_tcp).then(|| ("--tls-listen", format!("[::]:{POD_TLS_PORT}")));
    let mut flags: Vec<_> = listen.into_iter().collect();
    for index in 0..tls.secrets.len() {
        let directory = directory_of(&tls_name(index));
        flags.push(("--tls", format!("{directory}/tls.crt:{directory}/tls.key")));
    }
    if tls.redirect && !is_tcp {
        flags.push(("--tls-redirect", SLOT_TLS_PORT.to_string()));
    }
    if tls.clients.is_some() {
        flags.push((
            "--tls-client-ca",
            format!("{}/ca.crt", directory_of(CLIENT_CA)),
        ));
    }
    flags.extend(tls.optional_flags());
    flags
}

fn container(app: &App, settings: &Settings) -> Container {
    let owner = app.owner();
    let algorithm = match app.balancers.algorithm {
        Algorithm::LeastRequest => "least-request",
        Algorithm::RoundRobin => "round-robin",
        Algorithm::Random => "random",
        Algorithm::Hash => "hash",
    };
    let mut command = words(["scaledapp-balancer", "run"]);
    let mut flag = |name: &str, value: &str| command.extend(words([name, value]));
    flag("--listen", &format!("[::]:{POD_PORT}"));
    flag("--admin", &format!("[::]:{ADMIN_PORT}"));
    flag(
        "--endpoints-service",
        &format!("{}/{}", owner.namespace, owner.pods()),
    );
    flag("--algorithm", algorithm);
    flag("--drain-timeout", DRAIN);
    for (name, value) in app.balancers.optional_flags() {
        flag(name, &value);
    }
    if let Some(kind) = &app.app.sticky {
        flag("--sticky", kind);
    }
    if let Some(networks) = app.app.forwarded_from() {
        flag("--forwarded-from", &networks);
    }
    for (name, value) in app.app.proxy_protocol_flags() {
        flag(name, &value);
    }
    if let Some(hold) = app.app.hold() {
        flag("--hold", &time(hold));
    }
    let tls = app.app.tls.iter();
    for (name, value) in tls.flat_map(|tls| tls_flags(tls, app.app.is_tcp())) {
        flag(name, &value);
    }
    if app.app.error_pages.is_some() {
        flag("--error-pages", &directory_of(ERROR_PAGES));
    }
    if app.app.asks_for_token() {
        flag("--trust-token-file", &token_file());
    }
    let named = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mut ports = vec![
        named(app.port_name(), POD_PORT),
        named(port::ADMIN, ADMIN_PORT.get()),
    ];
    let has_second = app.app.tls.is_some() && !app.app.is_tcp();
    ports.extend(has_second.then(|| named(port::HTTPS, POD_TLS_PORT)));
    let mounts = mounts(app);
    let resources = app.balancer_resources.as_ref();
    let resources = resources.unwrap_or(&settings.balancer_resources);
    Container {
        name: component::BALANCER.to_owned(),
        image: Some(settings.balancer_image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        command: Some(command),
        env: app.balancers.prefers_zone.then(place),
        liveness_probe: Some(probe("/livez", 10, 3, 5)),
        ports: Some(ports),
        readiness_probe: Some(probe("/readyz", 1, 2, 1)),
        resources: Some(resources.clone()).filter(|all| *all != ResourceRequirements::default()),
        security_context: Some(security(true)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts).filter(|mounts| !mounts.is_empty()),
        ..Container::default()
    }
}

/// Variables with which a balancer finds its zone: its pod's own label, which newer clusters
/// copy from the node, or else its node, whose zone the app's `EndpointSlice`s name. Without the
/// label, the variable is empty.
fn place() -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    vec![
        field(
            "SCALEDAPP_ZONE",
            "metadata.labels['topology.kubernetes.io/zone']",
        ),
        field("SCALEDAPP_NODE", "spec.nodeName"),
    ]
}

/// The service accounts of the app's pods and of the balancers; only the balancers have rights.
pub(super) fn accounts(app: &App) -> Vec<ServiceAccount> {
    let owner = app.owner();
    let account = |name: String, of: &str, mounted: bool| ServiceAccount {
        automount_service_account_token: Some(mounted),
        metadata: owner.meta(name, of),
        ..ServiceAccount::default()
    };
    vec![
        account(app.app.name.clone(), component::APP, false),
        account(owner.balancers(), component::BALANCER, true),
    ]
}

/// The right to read where the app's pods are. It covers all `EndpointSlice`s of the namespace:
/// the control plane generates their names, so a rule cannot name them.
pub(super) fn role(app: &App) -> Role {
    let owner = app.owner();
    Role {
        metadata: owned_by_account(&owner),
        rules: Some(vec![PolicyRule {
            api_groups: Some(words(["discovery.k8s.io"])),
            resources: Some(words(["endpointslices"])),
            verbs: words(["get", "list", "watch"]),
            ..PolicyRule::default()
        }]),
    }
}

/// Metadata of the Role and its binding. Their second owner is the balancers' `ServiceAccount`.
/// After `kubectl delete --cascade=orphan` they have lost the app, and the operator has no right
/// to change them; but the account becomes the next app's, so they are deleted with that app. The
/// account's uid is empty here, because the account may be created in the same pass; the operator
/// fills it in when it creates the Role or the binding.
fn owned_by_account(owner: &Owner<'_>) -> ObjectMeta {
    let mut meta = owner.meta(owner.balancers(), component::BALANCER);
    meta.owner_references
        .get_or_insert_default()
        .push(OwnerReference {
            api_version: "v1".to_owned(),
            kind: SERVICE_ACCOUNT.to_owned(),
            name: owner.balancers(),
            ..OwnerReference::default()
        });
    meta
}

pub(super) fn role_binding(app: &App) -> RoleBinding {
    let owner = app.owner();
    RoleBinding {
        metadata: owned_by_account(&owner),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: owner.balancers(),
        },
        subjects: Some(vec![Subject {
            kind: SERVICE_ACCOUNT.to_owned(),
            name: owner.balancers(),
            namespace: Some(owner.namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

/// Budgets that allow one eviction at a time. A single pod gets no budget, because the drain of its
/// node would never finish. With an autoscaler, the budget does not come and go with the second pod.
pub(super) fn budgets(
    app: &App,
    replicas: i32,
    pods: &BTreeMap<String, String>,
    slots: usize,
    balancers: &BTreeMap<String, String>,
) -> Vec<PodDisruptionBudget> {
    let owner = app.owner();
    let budget = |name: String, of: &str, pods: &BTreeMap<String, String>| PodDisruptionBudget {
        metadata: owner.meta(name, of),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selects(pods.clone())),
            // A pod that is not healthy must not block a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    };
    let has_several = match app.app.pods {
        Pods::Auto(range) => range.max() > 1,
        Pods::Total(_) | Pods::PerNode(_) => replicas > 1,
    };
    let app_budget = has_several.then(|| budget(app.app.name.clone(), component::APP, pods));
    let balancers = (slots > 1).then(|| budget(owner.balancers(), component::BALANCER, balancers));
    app_budget.into_iter().chain(balancers).collect()
}
