//! What a release consists of: its platforms, its components, and their images.

use std::path::PathBuf;

use clap::ValueEnum;

/// A processor, by its name in images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The Rust target, whose programs are static.
    pub(super) const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        self.target().starts_with(std::env::consts::ARCH)
    }
}

/// A component with an image of its own. Its program is `scaledapp-NAME`.
pub(super) const COMPONENTS: [Component; 4] = [
    Component {
        name: "operator",
        title: "ScaledApp operator",
        description: "Turns ScaledApps into pods, balancers and DNS records",
    },
    Component {
        name: "sidecar",
        title: "ScaledApp supervisor",
        description: "Runs one worker per core behind one port; an init container copies it into app pods",
    },
    Component {
        name: "balancer",
        title: "ScaledApp balancer",
        description: "Balances HTTP/1.1, HTTP/2, gRPC, WebSocket and TCP over the pods of an app",
    },
    Component {
        name: "dns",
        title: "ScaledApp DNS server",
        description: "Answers with the addresses of the balancers that serve",
    },
];

#[derive(Debug, Clone, Copy)]
pub(super) struct Component {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
}

impl Component {
    pub(super) fn program(self) -> String {
        format!("scaledapp-{}", self.name)
    }
}

/// An image that is in its layout.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) component: Component,
    pub(super) layout: PathBuf,
    /// The digest of its index, which names the image of each platform.
    pub(super) digest: String,
}
