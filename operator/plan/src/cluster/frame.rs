//! What is ours in a pod: names, what a user says elsewhere, and the system that its
//! programs are for. How a user's template is laid over it is decided in `overlay`.

use std::collections::BTreeMap;

use scaledapp_crds::words::component;

/// The label that a kubelet gives its node.
pub(super) const SYSTEM: &str = "kubernetes.io/os";
/// Volume that brings the supervisor's program.
pub(super) const VOLUME_BINARIES: &str = "scaledapp";

/// Where all pods of ours run: the supervisor and the balancer are Linux programs.
pub(super) fn linux() -> BTreeMap<String, String> {
    BTreeMap::from([(SYSTEM.to_owned(), "linux".to_owned())])
}

/// Name of the container that runs the app.
pub(super) const CONTAINER: &str = "app";
/// Name of the init container that brings the supervisor.
pub(super) const INSTALL: &str = "scaledapp-install";

/// Whose pods a template is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where the user writes it.
    pub(super) root: &'static str,
    /// The name of our main container.
    pub(super) container: &'static str,
    /// Fields of that container that are said elsewhere, and where.
    pub(super) elsewhere: &'static [(&'static str, &'static str)],
    /// Fields of the pod that are ours, and why.
    pub(super) ours: &'static [(&'static str, &'static str)],
}

/// The pods of the app.
pub(super) const APP: Frame = Frame {
    root: "spec.podTemplate",
    container: CONTAINER,
    elsewhere: &[
        (
            "command",
            "the supervisor starts the app: say it in spec.command",
        ),
        ("args", "the supervisor starts the app: say it in spec.args"),
        (
            "image",
            "the supervisor starts the app: say it in spec.image",
        ),
        (
            "ports",
            "the supervisor starts the app: say it in spec.port",
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
            "the operator says how a balancer is started: leave it out; spec.balancers has what can be changed",
        ),
        (
            "args",
            "the operator says how a balancer is started: leave it out; spec.balancers has what can be changed",
        ),
        (
            "image",
            "all balancers have the image that the operator was given (--balancer-image; images.balancer in the chart): leave it out",
        ),
        (
            "ports",
            "the Services of the slots lead to the balancer's own ports: leave it out",
        ),
    ],
    ours: &[
        (
            "serviceAccountName",
            "a balancer reads where the pods are by the rights of its own account: leave it out",
        ),
        (
            "serviceAccount",
            "a balancer reads where the pods are by the rights of its own account: leave it out",
        ),
        (
            "automountServiceAccountToken",
            "a balancer reads where the pods are with its token: leave it out",
        ),
    ],
};

/// Where the overlay is wrong, and what would be right.
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
