//! The kinds of objects that an app becomes, listed once. Whatever has a part for each
//! kind is written through [`each_kind`]: stores, watches, plans, their execution.

/// Calls a macro with an entry `field: Kind = Type;` for each kind, in the order in which
/// objects are applied: what pods refer to comes before the pods, since a Deployment
/// whose `ServiceAccount` is missing makes no pods; where addresses lead comes before new
/// pods, since requests wait for it and nobody waits for a pod's start.
#[macro_export]
#[doc(hidden)]
macro_rules! scaledapp_each_kind {
    ($callback:ident) => {
        $callback! {
            /// `NAME` and `NAME-lb`.
            service_accounts: ServiceAccount = ::k8s_openapi::api::core::v1::ServiceAccount;
            /// `NAME-lb`.
            roles: Role = ::k8s_openapi::api::rbac::v1::Role;
            /// `NAME-lb`.
            role_bindings: RoleBinding = ::k8s_openapi::api::rbac::v1::RoleBinding;
            /// `NAME-desired`.
            config_maps: ConfigMap = ::k8s_openapi::api::core::v1::ConfigMap;
            /// `NAME`, `NAME-pods` and `NAME-lb-I`.
            services: Service = ::k8s_openapi::api::core::v1::Service;
            /// `NAME-lb-I`.
            endpoint_slices: EndpointSlice = ::k8s_openapi::api::discovery::v1::EndpointSlice;
            /// `NAME` and `NAME-lb-I`.
            deployments: Deployment = ::k8s_openapi::api::apps::v1::Deployment;
            /// `NAME` and `NAME-lb`.
            pod_disruption_budgets: PodDisruptionBudget = ::k8s_openapi::api::policy::v1::PodDisruptionBudget;
        }
    };
}

pub use scaledapp_each_kind as each_kind;
