//! The message for a failure: which part failed, what Kubernetes, the app or the supervisor
//! reports, and the cure. [`super::failures`] decides which failure is reported.

use scaledapp_crds::words::Reason;

use super::{Part, PodFailure};

/// Whose pods a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    App,
    Balancer,
}

/// One line: the part that failed, unless it is the app's main container; the message of the
/// failure; and the cure, if the reason has one.
pub(super) fn failure_message(failure: &PodFailure, of: Of) -> String {
    let PodFailure {
        reason,
        message,
        part,
    } = failure;
    let whose = match of {
        Of::App => "",
        Of::Balancer => "balancer: ",
    };
    let text = match *reason {
        Reason::PodsRefused => {
            let cure = of_refusal(message, of);
            format!("a pod may not be created: {message}: {cure}")
        }
        Reason::Unschedulable => {
            let cure = of_node(message, of);
            format!("no node takes one of the pods: {message}: {cure}")
        }
        Reason::AppCrashing => format!("{}: {message}", ends(part, of)),
        Reason::WrongPort => {
            format!("{message}: change spec.port, or let the app listen on the port in $PORT")
        }
        Reason::ImagePullError => {
            format!("{}{message}: {}", named(part), of_image(part, of))
        }
        Reason::ContainerConfigError => {
            format!("{}{message}: {}", named(part), of_config(message, of))
        }
        Reason::PodCannotStart => {
            format!("a pod cannot start: {message}: {}", of_start(message))
        }
        _ => message.clone(),
    };
    format!("{whose}{text}")
}

/// The prefix of a message about a part that is not the main one.
fn named(part: &Part) -> String {
    match part {
        Part::Main => String::new(),
        Part::Install => "init container scaledapp-install: ".to_owned(),
        Part::Container(name) => format!("container {name}: "),
        Part::Init(name) => format!("init container {name}: "),
    }
}

fn ends(part: &Part, of: Of) -> String {
    match (part, of) {
        (Part::Main, Of::App) => "the app ends before it is ready".to_owned(),
        (Part::Main, Of::Balancer) => "it ends before it is ready".to_owned(),
        (Part::Install, _) => "init container scaledapp-install ends before it is done".to_owned(),
        (Part::Container(name), _) => format!("container {name} ends before it is ready"),
        (Part::Init(name), _) => format!("init container {name} ends before it is done"),
    }
}

/// The fields of the object that set the resources and the template of the app's or the balancers'
/// pods.
fn template(of: Of) -> &'static str {
    match of {
        Of::App => "spec.resources or spec.podTemplate",
        Of::Balancer => "spec.balancers.resources or spec.balancers.podTemplate",
    }
}

/// The cure for a message of the scheduler, or for a pod that no scheduler handles.
fn of_node(message: &str, of: Of) -> String {
    let (root, amounts) = match of {
        Of::App => ("spec.podTemplate.spec", "spec.resources"),
        Of::Balancer => (
            "spec.balancers.podTemplate.spec",
            "spec.balancers.resources",
        ),
    };
    let lower = message.to_lowercase();
    let is = |part: &str| lower.contains(part);
    if is("no scheduler named") {
        return format!("start that scheduler, or change {root}.schedulerName");
    }
    // If the claim exists but has no volume, the scheduler's message has another form:
    // `unbound … PersistentVolumeClaims. not found`.
    if is("persistentvolumeclaim \"") && is("not found") {
        return format!(
            "create that PersistentVolumeClaim in the app's namespace, or change {root}.volumes"
        );
    }
    if is("persistentvolumeclaim") || is("persistent volumes") || is("binding volumes") {
        return format!(
            "`kubectl describe pvc` says what its volume lacks, such as a StorageClass: provide that, or change {root}.volumes"
        );
    }
    if is("scheduling gates") {
        return format!(
            "the component that set the scheduling gates has to remove them: see {root}.schedulingGates"
        );
    }
    let mut cures = Vec::new();
    for (text, cure) in [
        (
            "insufficient",
            format!("free resources, add a node, or lower {amounts}"),
        ),
        ("too many pods", "add a node, or remove pods".to_owned()),
        ("taint", format!("add a toleration to {root}.tolerations")),
        (
            "node affinity/selector",
            format!("loosen {root}.nodeSelector or affinity, or label a node"),
        ),
        ("pod affinity", format!("loosen {root}.affinity")),
        (
            "anti-affinity",
            format!("loosen {root}.affinity, or add a node"),
        ),
        (
            "topology spread",
            format!("add a node, or loosen {root}.topologySpreadConstraints"),
        ),
        (
            "free ports",
            format!("add a node, or change the hostPort in {root}"),
        ),
        (
            "volume node affinity",
            "free room on the node that its volume is on".to_owned(),
        ),
        ("were unschedulable", "uncordon a node".to_owned()),
    ] {
        if is(text) {
            cures.push(cure);
        }
    }
    if cures.is_empty() {
        return format!("add a node that takes it, or change {root}");
    }
    cures.join("; or ")
}

fn of_image(part: &Part, of: Of) -> String {
    match (part, of) {
        (Part::Main, Of::App) => {
            "check spec.image, or name a secret in spec.podTemplate.spec.imagePullSecrets".to_owned()
        }
        (Part::Main, Of::Balancer) => {
            "check the operator's --balancer-image and --image-pull-secret (the chart's images.balancer and images.pullSecrets)".to_owned()
        }
        (Part::Install, _) => {
            "check the operator's --sidecar-image and --image-pull-secret (the chart's images.sidecar and images.pullSecrets)".to_owned()
        }
        (Part::Container(_) | Part::Init(_), _) => format!(
            "check its image in {}, or name a secret in imagePullSecrets there",
            match of {
                Of::App => "spec.podTemplate",
                Of::Balancer => "spec.balancers.podTemplate",
            }
        ),
    }
}

fn of_config(message: &str, of: Of) -> String {
    let lacks = |kind: &str| {
        let lower = message.to_lowercase();
        lower.contains(kind) && (lower.contains("not found") || lower.contains("couldn't find key"))
    };
    if message.contains("runAsNonRoot") {
        return match of {
            Of::App => "name a user in spec.podTemplate.spec.securityContext.runAsUser, or allow root with runAsNonRoot: false beside it",
            Of::Balancer => "the operator's --balancer-image must be one that does not run as root",
        }
        .to_owned();
    }
    for (kind, name) in [("secret", "Secret"), ("configmap", "ConfigMap")] {
        if lacks(kind) {
            return format!(
                "create the {name} with that key in the app's namespace, or change the field that refers to it (spec.env, spec.envFrom, spec.podTemplate)"
            );
        }
    }
    format!(
        "the container cannot be started as it is: change {}",
        template(of)
    )
}

fn of_start(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    let kinds = ["secret", "configmap", "persistentvolumeclaim"];
    if lower.contains("not found") && kinds.iter().any(|kind| lower.contains(kind)) {
        "create it in the app's namespace, or change the volumes in spec.podTemplate.spec"
    } else if lower.contains("volume") {
        "repair the volume, or change the volumes in spec.podTemplate.spec"
    } else {
        "its node cannot set it up: `kubectl describe pod` shows more"
    }
}

/// The message for one of the app's objects that the API server refuses. Some reasons contain their
/// cure already.
pub(super) fn of_object(why: &str) -> String {
    if why.contains("kubectl ") {
        return why.to_owned();
    }
    let cure = if why.contains("User \"") && why.contains("cannot ") {
        "give the operator the rights that its chart gives it".to_owned()
    } else if why.contains("exceeded quota") {
        "raise that ResourceQuota, or delete objects that are no longer needed".to_owned()
    } else {
        of_refusal(why, Of::App)
    };
    format!("{why}: {cure}")
}

/// The cure for a refusal, recognised by what the API server's admission plugins write.
fn of_refusal(message: &str, of: Of) -> String {
    let is = |part: &str| message.contains(part);
    let template = template(of);
    if is("exceeded quota") {
        let less = match of {
            Of::App => "lower spec.resources or spec.replicas".to_owned(),
            Of::Balancer => format!("change {template}, or spec.balancers.replicas"),
        };
        return format!("raise that ResourceQuota, or {less}");
    }
    if is("failed quota") || is("must specify") {
        return format!(
            "name what it must specify: change {template}, or add a LimitRange with defaults"
        );
    }
    if is("serviceaccount") || is("service account") {
        return match of {
            Of::App => {
                "create that ServiceAccount, or change spec.podTemplate.spec.serviceAccountName"
            }
            Of::Balancer => "create that ServiceAccount; the operator creates its own ones again",
        }
        .to_owned();
    }
    if is("violates PodSecurity") {
        return format!(
            "change {template}, or the label pod-security.kubernetes.io/enforce of the namespace"
        );
    }
    if is("failed calling webhook") {
        return "that webhook does not answer: repair it, or remove its configuration".to_owned();
    }
    if is("ValidatingAdmissionPolicy") || is("admission webhook") {
        return format!("change {template}, or that policy");
    }
    // The last of these texts occurs if the container has no limit of its own and the LimitRange
    // sets one.
    let by_range = [
        " per Container",
        " per Pod",
        "limit to request ratio",
        "must be less than or equal to",
    ];
    if by_range.into_iter().any(is) {
        return format!("change {template}, or the namespace's LimitRange");
    }
    format!("change {template}, or the plugin that refuses it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_cure() {
        for (text, cure) in [
            (
                "exceeded quota: q, requested: pods=1",
                "raise that ResourceQuota",
            ),
            (
                "failed quota: q: must specify limits.cpu for: app",
                "name what it must specify",
            ),
            (
                "error looking up service account a/b: serviceaccount \"b\" not found",
                "create that ServiceAccount",
            ),
            (
                "violates PodSecurity \"restricted:latest\"",
                "pod-security.kubernetes.io/enforce",
            ),
            (
                "maximum cpu usage per Container is 500m, but limit is 1",
                "LimitRange",
            ),
            (
                "spec.containers[0].resources.requests: must be less than or equal to cpu limit of 1",
                "LimitRange",
            ),
            (
                "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                "or that policy",
            ),
            (
                "Internal error occurred: failed calling webhook \"x\"",
                "does not answer: repair it",
            ),
            (
                "pod rejected: RuntimeClass \"x\" not found",
                "or the plugin that refuses it",
            ),
        ] {
            for of in [Of::App, Of::Balancer] {
                let failure = PodFailure {
                    reason: Reason::PodsRefused,
                    message: text.to_owned(),
                    part: Part::Main,
                };
                let message = failure_message(&failure, of);
                assert!(
                    message.contains(text) && message.contains(cure),
                    "{message}"
                );
                assert_eq!(message.starts_with("balancer: "), of == Of::Balancer);
            }
        }
    }

    #[test]
    fn a_pod_that_no_node_takes_has_its_cure() {
        for (text, cures) in [
            (
                "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}.",
                &["lower spec.resources", "spec.podTemplate.spec.tolerations"][..],
            ),
            (
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
                &["spec.podTemplate.spec.nodeSelector"],
            ),
            (
                "0/1 nodes are available: 1 node(s) were unschedulable.",
                &["uncordon a node"],
            ),
            (
                "0/1 nodes are available: persistentvolumeclaim \"data\" not found.",
                &["create that PersistentVolumeClaim"],
            ),
            (
                "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
                &["kubectl describe pvc"],
            ),
            (
                "no scheduler named mine has looked at it",
                &["start that scheduler", "schedulerName"],
            ),
            ("0/1 nodes are available: 1 surprise.", &["add a node"]),
        ] {
            let failure = PodFailure {
                reason: Reason::Unschedulable,
                message: text.to_owned(),
                part: Part::Main,
            };
            let message = failure_message(&failure, Of::App);
            assert!(message.contains(text), "{message}");
            for cure in cures {
                assert!(message.contains(cure), "{message}");
            }
        }
    }

    #[test]
    fn a_refused_object_has_its_cure_only_once() {
        for (why, cure) in [
            (
                "cannot apply a Deployment: denied request: ValidatingAdmissionPolicy 'p'",
                ": change spec.resources or spec.podTemplate, or that policy",
            ),
            (
                "cannot apply a Role: roles is forbidden: User \"operator\" cannot create",
                ": give the operator the rights",
            ),
            (
                "cannot apply a ServiceAccount: exceeded quota: q, requested: count/serviceaccounts=1",
                ": raise that ResourceQuota, or delete objects",
            ),
            (
                "cannot apply a ConfigMap: `kubectl delete` it",
                "`kubectl delete` it",
            ),
        ] {
            assert!(of_object(why).contains(cure), "{}", of_object(why));
        }
    }

    #[test]
    fn what_is_missing_is_to_be_created() {
        for (reason, text, cure) in [
            (
                Reason::ContainerConfigError,
                "secret \"s\" not found",
                "create the Secret",
            ),
            (
                Reason::ContainerConfigError,
                "couldn't find key k in ConfigMap a/c",
                "create the ConfigMap",
            ),
            (
                Reason::ContainerConfigError,
                "image will run as root (runAsNonRoot)",
                "runAsUser",
            ),
            (
                Reason::PodCannotStart,
                "MountVolume.SetUp failed for volume \"v\" : secret \"s\" not found",
                "create it",
            ),
            (
                Reason::WrongPort,
                "the app listens on 4000, spec.port is 3000",
                "change spec.port",
            ),
        ] {
            let failure = PodFailure {
                reason,
                message: text.to_owned(),
                part: Part::Main,
            };
            let message = failure_message(&failure, Of::App);
            assert!(
                message.contains(text) && message.contains(cure),
                "{message}"
            );
        }
        let failure = PodFailure {
            reason: Reason::ImagePullError,
            message: "not found".to_owned(),
            part: Part::Install,
        };
        let message = failure_message(&failure, Of::App);
        assert!(
            message.starts_with("init container scaledapp-install: not found"),
            "{message}"
        );
        assert!(message.contains("images.sidecar"), "{message}");
    }
}
