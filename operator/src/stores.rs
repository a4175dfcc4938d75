//! What is known of the cluster: one store for each kind, filled by the watches.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::{Writer, WriterDropped};
use kube::runtime::reflector::{self, Store};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::each_kind;

/// A `ScaledApp`, or an object that cannot be read as one: such an object must not stop the watch
/// of all others.
pub type Guarded = DeserializeGuard<ScaledApp>;

macro_rules! stores {
    ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
        /// What is known of the cluster.
        #[derive(Debug, Clone)]
        #[allow(missing_docs, reason = "they are Kubernetes' own names")]
        pub struct Stores {
            pub apps: Store<Guarded>,
            pub pods: Store<Pod>,
            pub nodes: Store<Node>,
            pub autoscalers: Store<HorizontalPodAutoscaler>,
            $($(#[$about])* pub $field: Store<$type>,)*
        }

        /// The writers that fill [`Stores`].
        #[allow(missing_debug_implementations, reason = "kube's writers have none")]
        #[allow(missing_docs, reason = "they are Kubernetes' own names")]
        pub struct Writers {
            pub apps: Writer<Guarded>,
            pub pods: Writer<Pod>,
            pub nodes: Writer<Node>,
            pub autoscalers: Writer<HorizontalPodAutoscaler>,
            $($(#[$about])* pub $field: Writer<$type>,)*
        }

        /// Empty stores.
        pub fn stores() -> (Stores, Writers) {
            let apps = reflector::store();
            let pods = reflector::store();
            let nodes = reflector::store();
            let autoscalers = reflector::store();
            $(let $field = reflector::store();)*
            let stores = Stores {
                apps: apps.0,
                pods: pods.0,
                nodes: nodes.0,
                autoscalers: autoscalers.0,
                $($field: $field.0,)*
            };
            let writers = Writers {
                apps: apps.1,
                pods: pods.1,
                nodes: nodes.1,
                autoscalers: autoscalers.1,
                $($field: $field.1,)*
            };
            (stores, writers)
        }

        impl Stores {
            /// Waits until each store except that of the autoscalers has its first list:
            /// apps are served without autoscalers, too.
            ///
            /// # Errors
            /// A watch has ended.
            pub async fn synced(&self) -> Result<(), WriterDropped> {
                self.apps.wait_until_ready().await?;
                self.pods.wait_until_ready().await?;
                self.nodes.wait_until_ready().await?;
                $(self.$field.wait_until_ready().await?;)*
                Ok(())
            }
        }
    };
}

each_kind!(stores);
