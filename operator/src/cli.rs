//! The command line of `scaledapp-operator`, and how it becomes [`Settings`]: flags
//! override `SCALEDAPP_*` variables, and these override the defaults here.

#![allow(
    clippy::doc_markdown,
    reason = "the documentation of an argument is its help, which is plain text"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use scaledapp_answers::{Binding, Name, Ownership, OwnershipError};
use scaledapp_crds::QuantityError;
use scaledapp_plan::cluster;
use scaledapp_runtime::cli::{AdminArg, NamespaceArgs};

const RUN_EXAMPLES: &str = r"Examples:
  scaledapp-operator run --sidecar-image registry.example/sidecar:1 \
      --balancer-image registry.example/balancer:1
  KUBECONFIG=kubeconfig scaledapp-operator run --namespace scaledapp-system \
      --sidecar-image registry.example/sidecar:1 --balancer-image registry.example/balancer:1

In a pod it finds the API server with the pod's service account, elsewhere with
KUBECONFIG or ~/.kube/config. Several replicas may run: the one that holds the
Lease NAMESPACE/scaledapp-operator writes, the others stand by and take over
10 s after it stops renewing, or at once when it is stopped. Losing the Lease
does not end a replica.

Until the ScaledApp definition is installed it waits, and /readyz says so.

Signals: TERM and INT release the Lease and exit; a second one exits at once.
Exit codes: 0 stopped, 2 could not start, 64 usage.";

const RENDER_EXAMPLES: &str = r"Examples:
  scaledapp-operator render -f scaledapp.yaml
  scaledapp-operator render -f scaledapp.yaml --nodes 3 --sidecar-image registry.example/sidecar:1

Prints what the operator would apply on a cluster of N equal nodes where
nothing runs yet. Owner references are left out, since there is no owner to
name, and so are the annotations in which the operator remembers its last pass.

Exit codes: 0 printed, 1 the file cannot be read or is invalid, 64 usage.";

/// Runs ScaledApps in a Kubernetes cluster
#[derive(Debug, Parser)]
#[command(name = "scaledapp-operator", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a cluster and keep its ScaledApps as specified
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Print the definition of ScaledApp, for kubectl apply --server-side -f -
    Crd,
    /// Print the objects that a ScaledApp becomes, without a cluster
    #[command(after_help = RENDER_EXAMPLES)]
    Render(RenderArgs),
    /// Send one request, for `helm test`; exits with 0 if the answer is 2xx
    #[command(after_help = "Example:\n  scaledapp-operator get http://hello.default/")]
    Get {
        /// URL to request, over plain HTTP
        url: String,
    },
}

/// The images of the pods.
#[derive(Debug, Clone, Args)]
pub struct Images {
    /// Image of scaledapp-sidecar, put into the pods of apps; `run` needs it
    #[arg(long, env = "SCALEDAPP_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub sidecar_image: Option<String>,
    /// Image of scaledapp-balancer; `run` needs it
    #[arg(long, env = "SCALEDAPP_BALANCER_IMAGE", value_name = "IMAGE")]
    pub balancer_image: Option<String>,
    /// Pull policy of both images [default: Kubernetes' own]
    #[arg(
        long,
        env = "SCALEDAPP_IMAGE_PULL_POLICY",
        value_name = "POLICY",
        value_parser = ["Always", "IfNotPresent", "Never"]
    )]
    pub image_pull_policy: Option<String>,
    /// Secret for pulling both, in each app's namespace; repeat for more
    #[arg(
        long = "image-pull-secret",
        env = "SCALEDAPP_IMAGE_PULL_SECRETS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub image_pull_secrets: Vec<String>,
    /// Resource requests of a balancer whose ScaledApp has none; "" requests nothing
    #[arg(
        long,
        env = "SCALEDAPP_BALANCER_REQUESTS",
        value_name = "NAME=AMOUNT,…",
        default_value = "cpu=100m,memory=64Mi"
    )]
    pub balancer_requests: Amounts,
    /// Resource limits of a balancer whose ScaledApp has none; "" sets no limit
    #[arg(
        long,
        env = "SCALEDAPP_BALANCER_LIMITS",
        value_name = "NAME=AMOUNT,…",
        default_value = "memory=512Mi"
    )]
    pub balancer_limits: Amounts,
}

/// Amounts of resources by name, such as `cpu=100m,memory=64Mi`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, scaledapp_crds::Quantity>);

impl FromStr for Amounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, amount) = pair
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| {
                    format!("{pair:?} is not NAME=AMOUNT, such as cpu=100m,memory=64Mi")
                })?;
            let amount = amount
                .parse()
                .map_err(|error: QuantityError| error.to_string())?;
            Ok((name.to_owned(), amount))
        });
        pairs.collect::<Result<_, String>>().map(Self)
    }
}

/// An image is missing. There is no default, because anybody could register a default name
/// and publish another image there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{flag} is missing: give the image that you have pushed, such as {flag} registry.example/team/scaledapp-{name}:1"
)]
pub struct MissingImage {
    flag: &'static str,
    name: &'static str,
}

impl Images {
    fn all_given(self) -> Result<cluster::Settings, MissingImage> {
        let given = |image: &Option<String>, flag, name| match image {
            Some(image) if !image.is_empty() => Ok(()),
            _ => Err(MissingImage { flag, name }),
        };
        given(&self.sidecar_image, "--sidecar-image", "sidecar")?;
        given(&self.balancer_image, "--balancer-image", "balancer")?;
        Ok(self.or_example())
    }

    /// The settings for `render`: a missing image gets a name that nobody can own, because
    /// RFC 6761 reserves `.example`.
    pub fn or_example(mut self) -> cluster::Settings {
        let example = |name| {
            format!(
                "registry.example/scaledapp-{name}:{}",
                env!("CARGO_PKG_VERSION")
            )
        };
        let given = |image: &mut Option<String>| image.take().filter(|image| !image.is_empty());
        cluster::Settings {
            sidecar_image: given(&mut self.sidecar_image).unwrap_or_else(|| example("sidecar")),
            balancer_image: given(&mut self.balancer_image).unwrap_or_else(|| example("balancer")),
            image_pull_policy: self.image_pull_policy,
            image_pull_secrets: self.image_pull_secrets,
            balancer_resources: cluster::requirements(
                &self.balancer_requests.0,
                &self.balancer_limits.0,
            ),
        }
    }
}

/// `run` as typed.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    images: Images,
    /// Namespace of the Lease [default: that of the pod, or of the kubeconfig's context]
    #[arg(long, env = "SCALEDAPP_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    namespaces: NamespaceArgs<Binding>,
    /// The zone that the DNS server answers for; a hostname outside is reported [default:
    /// not known]
    #[arg(long, env = "SCALEDAPP_ZONE", value_name = "ZONE")]
    zone: Option<Name>,
    /// A name server of that zone, which no app can have as its hostname; repeat for more.
    /// The zone's own name and ns.ZONE are always reserved
    #[arg(long, env = "SCALEDAPP_NS", value_name = "NAME", value_delimiter = ',')]
    ns: Vec<Name>,
    /// Name of this replica in the Lease [default: HOSTNAME, which is the pod's name]
    #[arg(long, env = "SCALEDAPP_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    /// Apps that are reconciled at once
    #[arg(
        long,
        env = "SCALEDAPP_CONCURRENCY",
        value_name = "N",
        default_value = "8",
        value_parser = clap::value_parser!(u16).range(1..=64)
    )]
    concurrency: u16,
    /// Read-only HTTP port: /livez /readyz /status /metrics; "none" leaves it out
    #[arg(
        long,
        env = "SCALEDAPP_ADMIN",
        value_name = "ADDR",
        default_value = "127.0.0.1:9377"
    )]
    admin: AdminArg,
}

/// `render` as typed.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// File with one ScaledApp; "-" is standard input
    #[arg(short, long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Nodes of the imagined cluster
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub nodes: u16,
    /// The images.
    #[command(flatten)]
    pub images: Images,
}

/// Flags that are missing or do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// An image has no default.
    #[error(transparent)]
    Image(#[from] MissingImage),
    /// The zones cannot be bound like this.
    #[error("--zone-namespaces: {0}")]
    Ownership(#[from] OwnershipError),
}

/// What the operator runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The settings of plans.
    pub plan: cluster::Settings,
    /// The namespace of the Lease; `None`: the client's own namespace.
    pub namespace: Option<String>,
    /// The namespaces whose `ScaledApp`s are reconciled, each once; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Which namespace may have which hostname.
    pub ownership: Ownership,
    /// The name of this replica.
    pub identity: String,
    /// How many apps are reconciled at the same time.
    pub concurrency: u16,
    /// The admin port.
    pub admin: Option<SocketAddr>,
}

impl Settings {
    /// Fills in what depends on the machine.
    ///
    /// # Errors
    /// An image is missing, or flags contradict each other.
    pub fn resolve(args: RunArgs) -> Result<Self, UsageError> {
        let RunArgs {
            images,
            namespace,
            namespaces,
            zone,
            ns,
            identity,
            concurrency,
            admin,
        } = args;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (watch_namespaces, bindings) = namespaces.into_parts();
        Ok(Self {
            plan: images.all_given()?,
            namespace: given(namespace),
            watch_namespaces,
            ownership: Ownership::new(zone, bindings)?.with_servers(ns),
            identity: given(identity)
                .or_else(|| given(std::env::var("HOSTNAME").ok()))
                // Two replicas with the same name would both act as leaders.
                .unwrap_or_else(|| format!("scaledapp-operator-{:08x}", fastrand::u32(..))),
            concurrency,
            admin: admin.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(arguments: &[&str]) -> Result<Settings, String> {
        let start = ["scaledapp-operator", "run"];
        let cli = Cli::try_parse_from(start.iter().chain(arguments)).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Run(args) => Settings::resolve(args).map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let images = ["--sidecar-image=s:1", "--balancer-image=b:1"];
        parsed(&[&images, arguments].concat())
    }

    #[test]
    fn nobody_pulls_an_image_that_was_not_named() {
        for (arguments, part) in [
            (&["--balancer-image=b:1"][..], "--sidecar-image is missing"),
            (&["--sidecar-image=s:1"], "--balancer-image is missing"),
            (
                &["--sidecar-image=", "--balancer-image=b:1"],
                "--sidecar-image is missing",
            ),
        ] {
            let message = parsed(arguments).unwrap_err();
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings_and_empty_ones_count_as_absent() {
        let settings = settings(&[
            "--namespace=",
            "--watch-namespace=team,  shop",
            "--watch-namespace=",
            "--watch-namespace=team",
            "--identity=a",
            "--image-pull-secret=one,two",
            "--admin=none",
        ])
        .unwrap();
        assert_eq!(settings.namespace, None);
        assert_eq!(settings.watch_namespaces, ["shop", "team"]);
        assert_eq!(settings.identity, "a");
        assert_eq!(settings.plan.image_pull_secrets, ["one", "two"]);
        assert_eq!(settings.admin, None);
        assert_eq!(settings.concurrency, 8);
    }

    #[test]
    fn name_servers_of_the_zone_are_no_apps() {
        let flags = ["--zone=apps.example", "--ns=ns1.apps.example,ns.example"];
        let ownership = settings(&flags).unwrap().ownership;
        for (hostname, is_free) in [
            ("ns1.apps.example", false),
            ("ns.apps.example", false),
            ("hello.apps.example", true),
        ] {
            assert_eq!(
                ownership.check(hostname, "a").is_ok(),
                is_free,
                "{hostname}"
            );
        }
    }

    #[test]
    fn amounts_of_balancers_have_defaults_and_can_be_none() {
        let resources = |arguments: &[&str]| settings(arguments).unwrap().plan.balancer_resources;
        let default = cluster::Settings::default_balancer_resources();
        assert_eq!(resources(&[]), default);
        let given = resources(&[
            "--balancer-requests=",
            "--balancer-limits=cpu=1, memory=1Gi",
        ]);
        assert_eq!(given.requests, None);
        let limits = given.limits.unwrap();
        let limits: Vec<_> = limits
            .iter()
            .map(|(name, amount)| (&**name, &*amount.0))
            .collect();
        assert_eq!(limits, [("cpu", "1"), ("memory", "1Gi")]);
    }

    #[test]
    fn wrong_values_are_refused_with_the_cure() {
        for (arguments, part) in [
            ("--admin=9377", "such as 127.0.0.1:9377"),
            ("--image-pull-policy=Sometimes", "IfNotPresent"),
            ("--concurrency=0", "1..=64"),
            ("--balancer-limits=memory", "such as cpu=100m,memory=64Mi"),
            ("--balancer-requests=cpu=much", "is not an amount"),
            ("--watch-namespace=*", "leave it out"),
            ("--zone-namespaces=a.example", "write ZONE=NAMESPACE"),
            ("--zone-namespaces=a.example=a;A.example.=b", "bound twice"),
        ] {
            let message = settings(&[arguments]).unwrap_err();
            assert!(message.contains(part), "{arguments}: {message}");
        }
    }
}
