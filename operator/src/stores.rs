//! What is known of the cluster: one store for each kind, filled by the watches.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::{Writer, WriterDropped};
use kube::runtime::reflector::{self, Store};
use scaledapp_crds::kubernetes::ScaledApp;

/// One that cannot be read must not stop the watch of all others.
pub type Guarded = DeserializeGuard<ScaledApp>;

/// What is known of the cluster.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "they are Kubernetes' own names")]
pub struct Stores {
    pub apps: Store<Guarded>,
    pub pods: Store<Pod>,
    pub nodes: Store<Node>,
    pub config_maps: Store<ConfigMap>,
    pub service_accounts: Store<ServiceAccount>,
    pub roles: Store<Role>,
    pub role_bindings: Store<RoleBinding>,
    pub services: Store<Service>,
    pub endpoint_slices: Store<EndpointSlice>,
    pub deployments: Store<Deployment>,
    pub pod_disruption_budgets: Store<PodDisruptionBudget>,
}

/// The other ends of [`Stores`].
#[allow(missing_debug_implementations, reason = "kube's writers have none")]
#[allow(missing_docs, reason = "they are Kubernetes' own names")]
pub struct Writers {
    pub apps: Writer<Guarded>,
    pub pods: Writer<Pod>,
    pub nodes: Writer<Node>,
    pub config_maps: Writer<ConfigMap>,
    pub service_accounts: Writer<ServiceAccount>,
    pub roles: Writer<Role>,
    pub role_bindings: Writer<RoleBinding>,
    pub services: Writer<Service>,
    pub endpoint_slices: Writer<EndpointSlice>,
    pub deployments: Writer<Deployment>,
    pub pod_disruption_budgets: Writer<PodDisruptionBudget>,
}

/// Empty stores.
pub fn stores() -> (Stores, Writers) {
    let apps = reflector::store();
    let pods = reflector::store();
    let nodes = reflector::store();
    let config_maps = reflector::store();
    let service_accounts = reflector::store();
    let roles = reflector::store();
    let role_bindings = reflector::store();
    let services = reflector::store();
    let endpoint_slices = reflector::store();
    let deployments = reflector::store();
    let pod_disruption_budgets = reflector::store();
    let stores = Stores {
        apps: apps.0,
        pods: pods.0,
        nodes: nodes.0,
        config_maps: config_maps.0,
        service_accounts: service_accounts.0,
        roles: roles.0,
        role_bindings: role_bindings.0,
        services: services.0,
        endpoint_slices: endpoint_slices.0,
        deployments: deployments.0,
        pod_disruption_budgets: pod_disruption_budgets.0,
    };
    let writers = Writers {
        apps: apps.1,
        pods: pods.1,
        nodes: nodes.1,
        config_maps: config_maps.1,
        service_accounts: service_accounts.1,
        roles: roles.1,
        role_bindings: role_bindings.1,
        services: services.1,
        endpoint_slices: endpoint_slices.1,
        deployments: deployments.1,
        pod_disruption_budgets: pod_disruption_budgets.1,
    };
    (stores, writers)
}

impl Stores {
    /// Waits until each has its first list.
    ///
    /// # Errors
    /// A watch is gone.
    pub async fn synced(&self) -> Result<(), WriterDropped> {
        let Self {
            apps,
            pods,
            nodes,
            config_maps,
            service_accounts,
            roles,
            role_bindings,
            services,
            endpoint_slices,
            deployments,
            pod_disruption_budgets,
        } = self;
        apps.wait_until_ready().await?;
        pods.wait_until_ready().await?;
        nodes.wait_until_ready().await?;
        config_maps.wait_until_ready().await?;
        service_accounts.wait_until_ready().await?;
        roles.wait_until_ready().await?;
        role_bindings.wait_until_ready().await?;
        services.wait_until_ready().await?;
        endpoint_slices.wait_until_ready().await?;
        deployments.wait_until_ready().await?;
        pod_disruption_budgets.wait_until_ready().await
    }
}
