//! Where a pod's admin port is. [`crate::heartbeat`] and [`crate::scaling`] decide what they ask
//! there.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Pod;
use scaledapp_crds::words::{component, label, port};

/// The admin port of a pod that does not name one.
const ADMIN_PORT: u16 = 9377;

/// A pod that is queried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    /// The name of the app.
    pub(crate) app: String,
    /// Its admin port.
    pub(crate) address: SocketAddr,
    /// It is a balancer; otherwise it runs the app.
    pub(crate) balancer: bool,
}

impl Target {
    /// Reads a target from a pod; `None` if the pod has no address yet, will never answer again,
    /// or is not labelled as a pod of an app.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let labels = pod.metadata.labels.as_ref()?;
        let status = pod.status.as_ref()?;
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        let admin = ports
            .find(|it| it.name.as_deref() == Some(port::ADMIN))
            .and_then(|it| u16::try_from(it.container_port).ok());
        Some(Self {
            uid: pod.metadata.uid.clone()?,
            namespace: pod.metadata.namespace.clone()?,
            app: labels.get(label::INSTANCE)?.clone(),
            address: SocketAddr::new(
                status.pod_ip.as_deref()?.parse().ok()?,
                admin.unwrap_or(ADMIN_PORT),
            ),
            balancer: match labels.get(label::COMPONENT)?.as_str() {
                component::BALANCER => true,
                component::APP => false,
                _ => return None,
            },
        })
    }
}
