//! The operator's part of a pod: names, the fields that a user writes elsewhere, and the
//! operating system that the supervisor and the balancer need. `overlay` decides how a user's
//! template is merged over the operator's part.

use std::collections::BTreeMap;

use scaledapp_crds::words::component;

/// The label by which a kubelet names the operating system of its node.
pub(super) const SYSTEM: &str = "kubernetes.io/os";
/// The volume with the supervisor's program.
pub(super) const VOLUME_BINARIES: &str = "scaledapp";

/// The node selector of all pods that the operator creates: the supervisor and the balancer are
/// Linux programs.
pub(super) fn linux() -> BTreeMap<String, String> {
    BTreeMap::from([(SYSTEM.to_owned(), "linux".to_owned())])
}

/// Name of the container that runs the app.
pub(super) const CONTAINER: &str = "app";
/// Name of the init container that copies the supervisor into the pod.
pub(super) const INSTALL: &str = "scaledapp-install";

/// The operator's part of a pod template, for the pods of the app or of the balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// The field in which the user writes a template.
    pub(super) root: &'static str,
    /// The name of the main container.
    pub(super) container: &'static str,
    /// Fields of the main container that a user sets outside the template, each with the cure.
    pub(super) elsewhere: &'static [(&'static str, &'static str)],
    /// Fields of the pod that only the operator sets, each with the reason.
    pub(super) ours: &'static [(&'static str, &'static str)],
}

/// The pods of the app.
pub(super) const APP: Frame = Frame {
    root: "spec.podTemplate",
    container: CONTAINER,
    elsewhere: &[
        (
            "command",
            "the supervisor starts the app: set it in spec.command",
        ),
        ("args", "the supervisor starts the app: set it in spec.args"),
        (
            "image",
            "the supervisor starts the app: set it in spec.image",
        ),
        (
            "ports",
            "the supervisor starts the app: set it in spec.port",
        ),
    ],
    ours: &[],
};

/// The pods of the balancers.
pub(super) const BALANCER: Frame = Frame {
    root: "spec.balancers.podTemplate",
    container: component::BALANCER,
    elsewhere: &[
        (
            "command",
            "the operator decides how a balancer is started: leave it out; spec.balancers has the fields that can be changed",
        ),
        (
            "args",
            "the operator decides how a balancer is started: leave it out; spec.balancers has the fields that can be changed",
        ),
        (
            "image",
            "all balancers use the image that the operator was given (--balancer-image; images.balancer in the chart): leave it out",
        ),
        (
            "ports",
            "the Services of the slots lead to the balancer's own ports: leave it out",
        ),
    ],
    ours: &[
        (
            "serviceAccountName",
            "a balancer finds the pods with the rights of its own account: leave it out",
        ),
        (
            "serviceAccount",
            "a balancer finds the pods with the rights of its own account: leave it out",
        ),
        (
            "automountServiceAccountToken",
            "a balancer finds the pods with its token: leave it out",
        ),
    ],
};

/// What is wrong in the user's template, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(super) struct OverlayError {
    pub(super) path: String,
    pub(super) message: String,
}

/// An error at `path`.
pub(super) fn error(path: &str, message: impl Into<String>) -> OverlayError {
    OverlayError {
        path: path.to_owned(),
        message: message.into(),
    }
}
