//! The kinds of objects that an app becomes, listed once. Code with a part for each kind
//! (stores, watches, plans, their execution) is generated from this list through
//! [`each_kind`].

/// Calls a macro with an entry `field: Kind = Type;` for each kind, in the order in which objects
/// are applied. Objects to which pods refer come before the pods, because a Deployment whose
/// `ServiceAccount` is missing creates no pods. Endpoint slices come before Deployments, because
/// requests depend on them immediately, and on new pods only later.
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
