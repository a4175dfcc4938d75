//! The content of a node: the Go packages with their flags, and the Debian packages. This module is
//! pure and runs nothing.
//!
//! The versions of Go modules are pinned only in `tests/cluster/parts/*/go.mod`.

use anyhow::Context;

/// Programs that are compiled together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// Its name, after which its cached directory and its log are named as well.
    pub(crate) name: &'static str,
    /// Directory below `tests/cluster/parts` with its go.mod.
    pub(crate) part: &'static str,
    /// Packages and the names of their programs.
    pub(crate) programs: &'static [(&'static str, &'static str)],
    /// Build tags.
    pub(crate) tags: &'static str,
    /// Whether the version of Kubernetes is linked in. kubeadm and the API server derive their
    /// supported features from it.
    pub(crate) stamped: bool,
}

/// The control plane, kube-proxy, kubeadm and the kubelet.
pub(crate) const KUBERNETES: Unit = Unit {
    name: "kubernetes",
    part: "kubernetes",
    programs: &[
        ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        (
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kube-controller-manager",
        ),
        ("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
        ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
        ("k8s.io/kubernetes/cmd/kubeadm", "kubeadm"),
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
    ],
    tags: "",
    stamped: true,
};

/// kubectl. It is a unit of its own because it is also needed without a node image.
pub(crate) const KUBECTL: Unit = Unit {
    name: "kubectl",
    part: "kubernetes",
    programs: &[("k8s.io/kubernetes/cmd/kubectl", "kubectl")],
    tags: "",
    stamped: true,
};

/// The container runtime; containerd of Debian 12 is too old for this kubelet.
pub(crate) const CONTAINERS: Unit = Unit {
    name: "containers",
    part: "node",
    programs: &[
        (
            "github.com/containerd/containerd/v2/cmd/containerd",
            "containerd",
        ),
        (
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "containerd-shim-runc-v2",
        ),
        ("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
        (
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
            "host-local",
        ),
        (
            "github.com/containernetworking/plugins/plugins/main/loopback",
            "loopback",
        ),
        (
            "github.com/containernetworking/plugins/plugins/main/ptp",
            "ptp",
        ),
        (
            "github.com/containernetworking/plugins/plugins/meta/portmap",
            "portmap",
        ),
    ],
    tags: "no_aufs,no_zfs,no_btrfs,no_devmapper",
    stamped: false,
};

/// CoreDNS, built from a package of this repository; see its main.go.
pub(crate) const COREDNS: Unit = Unit {
    name: "coredns",
    part: "coredns",
    programs: &[("scaledapp.test/coredns", "coredns")],
    tags: "",
    stamped: false,
};

pub(crate) const ETCD: Unit = Unit {
    name: "etcd",
    part: "etcd",
    programs: &[("go.etcd.io/etcd/server/v3", "etcd")],
    tags: "",
    stamped: false,
};

pub(crate) const KIND: Unit = Unit {
    name: "kind",
    part: "kind",
    programs: &[("sigs.k8s.io/kind", "kind")],
    tags: "",
    stamped: false,
};

pub(crate) const HELM: Unit = Unit {
    name: "helm",
    part: "helm",
    programs: &[("helm.sh/helm/v4/cmd/helm", "helm")],
    tags: "",
    stamped: false,
};

/// crane, which pushes images to registries.
pub(crate) const CRANE: Unit = Unit {
    name: "crane",
    part: "crane",
    programs: &[("github.com/google/go-containerregistry/cmd/crane", "crane")],
    tags: "",
    stamped: false,
};

/// actionlint, which checks the workflows of GitHub.
#[cfg(test)]
pub(crate) const ACTIONLINT: Unit = Unit {
    name: "actionlint",
    part: "actionlint",
    programs: &[("github.com/rhysd/actionlint/cmd/actionlint", "actionlint")],
    tags: "",
    stamped: false,
};

/// The units of a node image. Kubernetes, which takes longest to compile, comes first.
pub(crate) const NODE: [&Unit; 5] = [&KUBERNETES, &KUBECTL, &CONTAINERS, &COREDNS, &ETCD];

/// The Debian release of the root file systems. It is not the newest one, because systemd of Debian
/// 13 refuses cgroup v1.
pub(crate) const SUITE: &str = "bookworm";

/// The packages of kind's own node image, without those that only its storage and snapshotters
/// need, and with Debian's runc.
pub(crate) const NODE_PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "conntrack",
    "iptables",
    "nftables",
    "iproute2",
    "ethtool",
    "util-linux",
    "mount",
    "kmod",
    "libseccomp2",
    "ca-certificates",
    "curl",
    "jq",
    "procps",
    "runc",
    "hostname",
];

/// The package of `nft`, which kube-proxy calls in the mode that `source` chooses.
pub(crate) const PROXY_PACKAGES: &[&str] = &["nftables"];

/// The version that a go.mod requires of a module.
///
/// # Errors
/// The go.mod does not require the module.
pub(crate) fn required<'a>(go_mod: &'a str, module: &str) -> anyhow::Result<&'a str> {
    let mut lines = go_mod.lines().map(str::trim);
    lines
        .find_map(|line| {
            let line = line.strip_prefix("require ").unwrap_or(line);
            let version = line.strip_prefix(module)?.strip_prefix(' ')?;
            // `MODULE => …` is a replacement, not a requirement.
            version.starts_with('v').then_some(version)
        })
        .and_then(|version| version.split_whitespace().next())
        .with_context(|| format!("go.mod requires no {module}"))
}

/// The flags for the linker, for a version such as `v1.36.3`.
///
/// # Errors
/// `kubernetes` is not a version.
pub(crate) fn linker_flags(unit: &Unit, kubernetes: &str) -> anyhow::Result<String> {
    if !unit.stamped {
        return Ok("-s -w".to_owned());
    }
    let (major, minor) = release(kubernetes)?;
    let set = [
        ("gitVersion", kubernetes),
        ("gitMajor", major),
        ("gitMinor", minor),
        ("gitTreeState", "clean"),
    ];
    let set = set.map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"));
    Ok(format!("-s -w {}", set.join(" ")))
}

fn release(version: &str) -> anyhow::Result<(&str, &str)> {
    let mut numbers = version.strip_prefix('v').unwrap_or("").split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    major
        .zip(minor)
        .with_context(|| format!("{version:?} is not a version like v1.36.3"))
}

/// Reads the name of the stock node image from the source of kind.
///
/// # Errors
/// The source does not have the expected form.
pub(crate) fn stock_image(defaults_go: &str) -> anyhow::Result<&str> {
    defaults_go
        .lines()
        .find_map(|line| line.strip_prefix("const Image = \"")?.strip_suffix('"'))
        .context("kind's source names no default node image in pkg/apis/config/defaults/image.go")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "\
replace (
\tk8s.io/api => k8s.io/api v0.36.3
)
require sigs.k8s.io/kind v0.33.0
require (
\tk8s.io/api v0.0.1 // indirect
\tk8s.io/kubernetes/extra v9.9.9
\tk8s.io/kubernetes v1.36.3 // indirect
)";

    #[test]
    fn versions_are_read_from_go_mod() {
        assert_eq!(required(GO_MOD, "k8s.io/kubernetes").unwrap(), "v1.36.3");
        assert_eq!(required(GO_MOD, "sigs.k8s.io/kind").unwrap(), "v0.33.0");
        assert_eq!(required(GO_MOD, "k8s.io/api").unwrap(), "v0.0.1");
        required(GO_MOD, "k8s.io").unwrap_err();
    }

    #[test]
    fn only_kubernetes_is_stamped() {
        let flags = linker_flags(&KUBECTL, "v1.36.3").unwrap();
        assert!(flags.contains("version.gitMinor=36 "), "{flags}");
        assert_eq!(linker_flags(&ETCD, "v1.36.3").unwrap(), "-s -w");
        linker_flags(&KUBECTL, "1.36").unwrap_err();
    }

    #[test]
    fn the_stock_image_is_read_from_kinds_source() {
        let source = "package defaults\n\nconst Image = \"kindest/node:v1@sha256:0\"\n";
        assert_eq!(stock_image(source).unwrap(), "kindest/node:v1@sha256:0");
        stock_image("package defaults").unwrap_err();
    }

    #[test]
    fn every_unit_has_its_part_with_pinned_versions() {
        let parts = scaledapp_tests::binaries::workspace().join("tests/cluster/parts");
        for unit in NODE.into_iter().chain([&KIND, &HELM, &CRANE, &ACTIONLINT]) {
            let part = parts.join(unit.part);
            let go_mod = std::fs::read_to_string(part.join("go.mod")).unwrap();
            assert!(part.join("go.sum").is_file(), "{}", unit.name);
            for (package, _) in unit.programs {
                let pinned = go_mod.lines().any(|line| {
                    let module = line.trim().trim_start_matches("require ");
                    let module = module.trim_start_matches("module ");
                    let module = module.split_whitespace().next().unwrap_or("-");
                    package.starts_with(module)
                });
                assert!(pinned, "{package}");
            }
        }
    }
}
