//! The pod template of the app: a container of the user's image in which the supervisor runs the
//! workers.
//!
//! The template depends on the user's input, and on the supervisor's image at the time when that
//! input changed last. [`pinned`] returns the template that was made at that time, so that a new
//! operator restarts no app.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapKeySelector, ConfigMapVolumeSource, Container, ContainerPort,
    DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ImageVolumeSource, KeyToPath, LocalObjectReference, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceFieldSelector,
    ResourceRequirements, SeccompProfile, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scaledapp_crds::v1alpha1::{Delivery, Dispatch};
use scaledapp_crds::words::{annotation, component, port};
use scaledapp_wire::{self as wire, SupervisorArgs};

use super::frame::{VOLUME_BINARIES, linux};
use super::meta::{annotation as annotated, json as text, map, selects, time};
use super::overlay::{self, CONTAINER, INSTALL, merge};
use super::pin::inputs;
use super::{App, Observed, Settings, Stalled, nodes};
use crate::Pods;

/// The directory of the supervisor's program in the app's container.
const BINARIES: &str = "/.scaledapp";
/// Path of the supervisor in its image, for the delivery as an image volume.
const IN_IMAGE: &str = "usr/local/bin/scaledapp-sidecar";
/// The file that `scaledapp-sidecar install` creates in [`BINARIES`].
const INSTALLED: &str = "sidecar";
const DESIRED: &str = "/.scaledapp-desired";
const DESIRED_FILE: &str = "desired.json";
/// Keys of the `ConfigMap`. A container reads the number of workers when it starts.
pub(super) const WORKERS_KEY: &str = "workers";
pub(super) const RELOAD_KEY: &str = "reload";
/// Key of the forwarding token. The token is mounted as a file because it may be replaced.
pub(super) const TOKEN_KEY: &str = "token";
const TRUST: &str = "/.scaledapp-trust";
const VOLUME_TRUST: &str = "scaledapp-trust";
const VOLUME_DESIRED: &str = "scaledapp-desired";
/// How long a stop takes in addition to the workers' drain timeout and stop grace: the supervisor
/// accepts connections until 2 s have passed without a new one, and each step takes a moment.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// How long a pod may lack a node while an app with a total still has its former template for
/// pods per node. After this time the template for a total is used, with which pods may share
/// nodes.
const NO_NODE_TIMEOUT: Duration = Duration::from_mins(1);
/// Largest template that is kept: all annotations of an object together hold 256 KiB.
const MAX_PINNED_BYTES: usize = 128 * 1024;

/// The template in force, with the hash of the input that it was made from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pinned {
    pub(super) template: PodTemplateSpec,
    pub(super) inputs: String,
    /// The template's text for an annotation; `None` if it is too large for one.
    pub(super) kept: Option<String>,
    /// The total for which the template of the former pods per node stays in force.
    pub(super) kept_total: Option<i32>,
}

/// The template that was made when the input changed last, or a new one.
///
/// # Errors
/// The user's template is invalid.
pub(super) fn pinned(
    app: &App,
    live: Option<&Deployment>,
    observed: &Observed,
    settings: &Settings,
) -> Result<Pinned, Stalled> {
    let made_from = live.and_then(|live| annotated(&live.metadata, annotation::INPUTS));
    let kept_total = kept_total(app, live, observed).filter(|_| {
        // The object only expresses the same number of pods differently.
        made_from == Some(&inputs(app, true))
    });
    let is_per_node = matches!(app.app.pods, Pods::PerNode(_)) || kept_total.is_some();
    let inputs = inputs(app, is_per_node);
    let kept = live
        .filter(|_| made_from == Some(&inputs))
        .and_then(|live| annotated(&live.metadata, annotation::TEMPLATE));
    let template = match kept.and_then(|kept| serde_json::from_str(kept).ok()) {
        Some(template) => template,
        None => render(app, settings)?,
    };
    let kept = Some(text(&template)).filter(|text| text.len() <= MAX_PINNED_BYTES);
    Ok(Pinned {
        template,
        inputs,
        kept,
        kept_total,
    })
}

/// The total, if the app had the same number of pods before, as pods per node. In this case the
/// pods are not replaced, although the template for a total would let two pods share a node. This
/// ends when the object asks for another total, or when a pod finds no node.
fn kept_total(app: &App, live: Option<&Deployment>, observed: &Observed) -> Option<i32> {
    let Pods::Total(total) = app.app.pods else {
        return None;
    };
    let total = i32::try_from(total.get()).ok()?;
    let live = live?;
    let is_kept = match annotated(&live.metadata, annotation::KEPT_TOTAL) {
        Some(kept) => kept.parse() == Ok(total),
        None => live.spec.replicas == Some(total),
    };
    let waits = nodes::oldest_refused(observed).is_some_and(|age| age >= NO_NODE_TIMEOUT);
    (is_kept && !waits).then_some(total)
}

fn render(app: &App, settings: &Settings) -> Result<PodTemplateSpec, Stalled> {
    let mut template = merged(app, ours(app, settings))?;
    inherit(&mut template);
    Ok(template)
}

fn merged(app: &App, ours: PodTemplateSpec) -> Result<PodTemplateSpec, Stalled> {
    let Some(overlay) = &app.pod_template else {
        return Ok(ours);
    };
    let mut template = merge(ours, overlay, overlay::APP).map_err(Stalled::from)?;
    if let Some(spec) = &mut template.spec
        && spec.service_account_name.as_ref() != Some(&app.app.name)
        && overlay["spec"]
            .get("automountServiceAccountToken")
            .is_none()
    {
        // A template that names an account gets the account's token.
        spec.automount_service_account_token = None;
    }
    Ok(template)
}

/// Gives the init container the requests and limits of the app's container. This costs
/// nothing, because only the larger of the two counts for the pod. A quota or limit range
/// that accepts one container accepts the other, and the pod keeps the app's
/// quality-of-service class.
fn inherit(template: &mut PodTemplateSpec) {
    let Some(spec) = &mut template.spec else {
        return;
    };
    let mut containers = spec.containers.iter();
    let main = containers.find(|container| container.name == CONTAINER);
    let resources = main.and_then(|main| main.resources.as_ref());
    let inherited = resources.map(|resources| ResourceRequirements {
        requests: plain(resources.requests.as_ref()),
        limits: plain(resources.limits.as_ref()),
        // Only the app needs devices.
        claims: None,
    });
    let mut inits = spec.init_containers.iter_mut().flatten();
    if let Some(install) = inits.find(|init| init.name == INSTALL && init.resources.is_none()) {
        install.resources = inherited.filter(|all| *all != ResourceRequirements::default());
    }
}

/// The resources that any container may have; extended resources are left out.
fn plain(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<BTreeMap<String, Quantity>> {
    let plain = ["cpu", "memory", "ephemeral-storage"];
    let amounts = amounts.into_iter().flatten();
    let amounts = amounts.filter(|(name, _)| plain.contains(&name.as_str()));
    let amounts: BTreeMap<String, Quantity> = amounts
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect();
    Some(amounts).filter(|amounts| !amounts.is_empty())
}

fn ours(app: &App, settings: &Settings) -> PodTemplateSpec {
    let owner = app.owner();
    let secrets = settings.image_pull_secrets.iter();
    let secrets: Vec<_> = secrets
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    let workers = &app.app.workers;
    let grace = workers.drain_timeout + workers.stop_grace() + STOP_MARGIN;
    // A new pod has no desired state yet.
    let mut annotations = map([(annotation::DESIRED, "{}")]);
    if app.delivery == Delivery::InitContainer {
        // The init container fills this volume again on any node.
        let evictable = annotation::EVICTABLE_VOLUMES.to_owned();
        annotations.insert(evictable, VOLUME_BINARIES.to_owned());
    }
    let installs = app.delivery == Delivery::InitContainer;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: Some(annotations),
            labels: Some(
                owner
                    .labels(component::APP)
                    .into_iter()
                    .chain(owner.mark())
                    .collect(),
            ),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            containers: vec![container(app)],
            // Otherwise a Service called `scaledapp` would set the variable SCALEDAPP_PORT.
            enable_service_links: Some(false),
            image_pull_secrets: Some(secrets).filter(|secrets| !secrets.is_empty()),
            init_containers: installs.then(|| vec![install(settings)]),
            node_selector: Some(linux()),
            security_context: Some(pod_security()),
            service_account_name: Some(app.app.name.clone()),
            termination_grace_period_seconds: Some(grace.as_secs_f64().ceil() as i64),
            topology_spread_constraints: Some(spread(app)),
            volumes: Some(volumes(app, settings)),
            ..PodSpec::default()
        }),
    }
}

/// Copies the supervisor into the pod, so that the app's image needs no change.
fn install(settings: &Settings) -> Container {
    Container {
        name: INSTALL.to_owned(),
        image: Some(settings.sidecar_image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        command: Some(words(["scaledapp-sidecar", "install", BINARIES])),
        security_context: Some(security(true)),
        volume_mounts: Some(vec![VolumeMount {
            name: VOLUME_BINARIES.to_owned(),
            mount_path: BINARIES.to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn container(app: &App) -> Container {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let named = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let mut mounts = vec![
        mount(VOLUME_BINARIES, BINARIES),
        mount(VOLUME_DESIRED, DESIRED),
    ];
    mounts.extend(app.app.asks_for_token().then(token_mount));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(app.app.image.clone()),
        command: Some(supervise(app)),
        env: Some(environment(app)),
        env_from: Some(app.env_from.clone()).filter(|from| !from.is_empty()),
        // No `resize_policy`: the number of workers follows an in-place resize without a restart.
        liveness_probe: Some(probe("/livez", 10, 6, 5)),
        ports: Some(vec![
            named(app.port_name(), app.app.port.get()),
            named(port::ADMIN, app.app.admin_port.get()),
        ]),
        readiness_probe: Some(probe("/readyz", 2, 2, 2)),
        resources: Some(app.resources.clone())
            .filter(|all| *all != ResourceRequirements::default()),
        security_context: Some(security(false)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        working_dir: app.app.working_dir.clone(),
        ..Container::default()
    }
}

/// The command line of the supervisor. It does not contain the number of workers, because a change
/// of that number must not restart the pod.
fn supervise(app: &App) -> Vec<String> {
    let workers = &app.app.workers;
    let file = match app.delivery {
        Delivery::InitContainer => INSTALLED,
        Delivery::ImageVolume => IN_IMAGE,
    };
    let args = SupervisorArgs {
        port: Some(app.app.port.get()),
        dispatch: Some(match workers.dispatch {
            Dispatch::Request => wire::Dispatch::Request,
            Dispatch::Connection => wire::Dispatch::Connection,
        }),
        admin: Some((Ipv6Addr::UNSPECIFIED, app.app.admin_port.get()).into()),
        desired_file: Some(format!("{DESIRED}/{DESIRED_FILE}")),
        trust_token_file: app.app.asks_for_token().then(token_file),
        readiness_path: workers.readiness.path.clone(),
        boot_timeout: Some(time(workers.readiness.timeout)),
        drain_timeout: Some(time(workers.drain_timeout)),
        further: app.app.supervisor_flags(),
        stop_signal: Some(workers.stop_signal.clone()),
        instance_env: Some(workers.instance_env.clone()),
        switches: workers.switches(),
        ..SupervisorArgs::default()
    };
    let mut command = vec![format!("{BINARIES}/{file}")];
    command.extend(args.to_args().iter().map(|arg| escaped(arg)));
    command.extend(app.command.iter().cloned());
    command
}

/// Escapes `$`, because the kubelet resolves `$(NAME)` in the supervisor's flags as well.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

fn environment(app: &App) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let cpu = EnvVar {
        name: "SCALEDAPP_CPU_REQUEST".to_owned(),
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                container_name: Some(CONTAINER.to_owned()),
                divisor: Some(Quantity("1m".to_owned())),
                resource: "requests.cpu".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let ours = [
        field("SCALEDAPP_POD", "metadata.name"),
        field("SCALEDAPP_NODE", "spec.nodeName"),
        cpu,
        EnvVar {
            name: "SCALEDAPP_WORKERS".to_owned(),
            value_from: Some(EnvVarSource {
                config_map_key_ref: Some(ConfigMapKeySelector {
                    name: app.owner().desired(),
                    key: WORKERS_KEY.to_owned(),
                    // If the key is missing, the supervisor starts one worker per core.
                    optional: Some(true),
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
    ];
    ours.into_iter().chain(app.env.iter().cloned()).collect()
}

/// The volume with the supervisor.
fn binaries(app: &App, settings: &Settings) -> Volume {
    let name = VOLUME_BINARIES.to_owned();
    match app.delivery {
        Delivery::InitContainer => Volume {
            name,
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity("64Mi".to_owned())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        },
        Delivery::ImageVolume => Volume {
            name,
            image: Some(ImageVolumeSource {
                reference: Some(settings.sidecar_image.clone()),
                pull_policy: settings.image_pull_policy.clone(),
            }),
            ..Volume::default()
        },
    }
}

fn volumes(app: &App, settings: &Settings) -> Vec<Volume> {
    let mut volumes = vec![
        binaries(app, settings),
        Volume {
            name: VOLUME_DESIRED.to_owned(),
            downward_api: Some(DownwardAPIVolumeSource {
                items: Some(vec![DownwardAPIVolumeFile {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.annotations['{}']", annotation::DESIRED),
                    }),
                    path: DESIRED_FILE.to_owned(),
                    ..DownwardAPIVolumeFile::default()
                }]),
                ..DownwardAPIVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    volumes.extend(app.app.asks_for_token().then(|| token_volume(app)));
    volumes
}

/// The file with the forwarding token, for pods and balancers. Both can start without the file,
/// because an older operator removes the key from the `ConfigMap`.
pub(super) fn token_file() -> String {
    format!("{TRUST}/{TOKEN_KEY}")
}

pub(super) fn token_mount() -> VolumeMount {
    VolumeMount {
        name: VOLUME_TRUST.to_owned(),
        mount_path: TRUST.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn token_volume(app: &App) -> Volume {
    Volume {
        name: VOLUME_TRUST.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: app.owner().desired(),
            items: Some(vec![KeyToPath {
                key: TOKEN_KEY.to_owned(),
                path: TOKEN_KEY.to_owned(),
                ..KeyToPath::default()
            }]),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// How pods are spread over nodes. Pods of a total, or as many as an autoscaler wants, may share a
/// node if no other node has room.
/// With pods per node, no node may get more than `per_node` pods. A full node gets no pod, and this
/// must not keep the other nodes from getting their pods.
fn spread(app: &App) -> Vec<TopologySpreadConstraint> {
    match app.app.pods {
        Pods::PerNode(per_node) if per_node.get() > 1 => {
            let most = i32::try_from(per_node.get()).unwrap_or(i32::MAX);
            let even = constraint(app, "ScheduleAnyway", 1);
            vec![constraint(app, "DoNotSchedule", most), even]
        }
        Pods::PerNode(_) => vec![constraint(app, "DoNotSchedule", 1)],
        Pods::Total(_) | Pods::Auto(_) => vec![constraint(app, "ScheduleAnyway", 1)],
    }
}

fn constraint(app: &App, unsatisfiable: &str, max_skew: i32) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(selects(
            app.owner()
                .mark()
                .into_iter()
                .chain(app.owner().selector(component::APP))
                .collect(),
        )),
        match_label_keys: Some(words(["pod-template-hash"])),
        max_skew,
        node_affinity_policy: Some("Honor".to_owned()),
        node_taints_policy: Some("Honor".to_owned()),
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: unsatisfiable.to_owned(),
        min_domains: None,
    }
}

pub(super) fn probe(path: &str, period: i32, failures: i32, timeout: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port::ADMIN.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(timeout),
        ..Probe::default()
    }
}

/// The security context of a pod, as Pod Security `restricted` demands it.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn security(read_only: bool) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(words(["ALL"])),
            add: None,
        }),
        read_only_root_filesystem: read_only.then_some(true),
        ..SecurityContext::default()
    }
}

pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.into_iter().map(ToOwned::to_owned).collect()
}
