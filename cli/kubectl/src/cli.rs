//! The command line of `kubectl scaledapp`: which verbs and flags there are. What they do is
//! decided in the verbs' own files.

#![expect(
    clippy::doc_markdown,
    reason = "the comments are help texts, which are not markdown"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use scaledapp_operator::cli::RenderArgs;

const EXAMPLES: &str = "\
Examples:
  kubectl scaledapp status                 every app of the namespace
  kubectl scaledapp status shop -w         one app, renewed every two seconds
  kubectl scaledapp check                  what is wrong with the installation, and its cure
  kubectl scaledapp logs shop -f           the lines of all pods
  kubectl scaledapp scale shop 6

Exit codes: 0 nothing fails, 1 something fails, 2 could not find out, 64 usage, 130 Ctrl-C.";

/// Show and change the ScaledApps of a cluster
#[derive(Debug, Parser)]
#[command(name = "scaledapp", version, propagate_version = true, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) looks: Looks,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Which cluster is asked, and as whom.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Connection {
    /// Namespace [default: that of the context]
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Kubeconfig file [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Act as this user
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) as_user: Option<String>,
    /// Act as a member of this group; repeat for more
    #[arg(long, global = true, value_name = "GROUP")]
    pub(crate) as_group: Vec<String>,
    /// How long one request may take, such as 5s [default: 10s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) request_timeout: Option<Duration>,
}

impl Connection {
    /// How long one request may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout.unwrap_or(Duration::from_secs(10))
    }
}

/// How output looks.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Looks {
    /// Colours in tables
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

/// When output has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR or TERM=dumb is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The format of what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// The same as YAML
    Yaml,
    /// Only names, one a line
    Name,
}

/// The format of what has no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Document {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show apps, their addresses, pods and workers as a tree
    #[command(after_help = STATUS)]
    Status(StatusArgs),
    /// Find what is wrong with the installation and the apps, each with its cure
    #[command(after_help = CHECK)]
    Check(CheckArgs),
    /// Print the lines of all pods of an app, each after the name of its pod
    #[command(after_help = LOGS)]
    Logs(LogsArgs),
    /// Print the events of an app and of its pods, the oldest first
    #[command(after_help = "Example:\n  kubectl scaledapp events shop -w")]
    Events(EventsArgs),
    /// Replace all workers, pod by pod, without losing a request
    #[command(
        after_help = "Example:\n  kubectl scaledapp reload shop\n\nThe pods stay. It stops at the first pod that cannot reload, whose old workers keep serving."
    )]
    Reload(ActArgs),
    /// Replace the pods, in a rolling update; they get the operator's version of the supervisor
    #[command(after_help = "Example:\n  kubectl scaledapp restart shop")]
    Restart(ActArgs),
    /// Change the number of pods, or of workers in each pod
    #[command(after_help = SCALE)]
    Scale(ScaleArgs),
    /// Let the operator leave an app as it is; its addresses are kept up to date
    #[command(after_help = "Example:\n  kubectl scaledapp pause shop")]
    Pause(ActArgs),
    /// End `pause`
    #[command(after_help = "Example:\n  kubectl scaledapp resume shop")]
    Resume(ActArgs),
    /// Show how busy the workers are
    #[command(after_help = "Example:\n  kubectl scaledapp top shop -w")]
    Top(TopArgs),
    /// Say what a condition or a reason means, and what to do; needs no cluster
    #[command(
        after_help = "Examples:\n  kubectl scaledapp explain\n  kubectl scaledapp explain FewerWorkersReady"
    )]
    Explain {
        /// A condition or a reason, in any case; all of them if left out
        word: Option<String>,
    },
    /// Print the objects that the ScaledApp of a file becomes; needs no cluster
    #[command(after_help = "Example:\n  kubectl scaledapp render -f scaledapp.yaml")]
    Render(RenderArgs),
    /// Make an app's address reachable on this machine, and open it in a browser
    #[command(after_help = OPEN)]
    Open(OpenArgs),
    /// Write what is needed to report a problem into one archive, without secrets
    #[command(after_help = BUNDLE)]
    SupportBundle(BundleArgs),
    /// Print a completion script
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell, or kubectl itself
        shell: Shell,
    },
    /// What kubectl and the scripts of `completion` call
    #[command(
        name = "__complete",
        hide = true,
        disable_help_flag = true,
        disable_version_flag = true
    )]
    Complete {
        /// The words so far, of which the last is to be completed
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

const STATUS: &str = "\
Examples:
  kubectl scaledapp status
  kubectl scaledapp status shop --all      also the pods that are well
  kubectl scaledapp status shop -w         until q or Ctrl-C; arrows scroll, space pauses
  kubectl scaledapp status shop --wait=Updated --timeout 5m
  kubectl scaledapp status -A -o json

Numbers for each second are measured over one second; --quick leaves them out.
With --wait: exit code 0 once the condition holds, otherwise 1.";

const CHECK: &str = "\
Examples:
  kubectl scaledapp check                  the installation, and the apps of the namespace
  kubectl scaledapp check -A --strict
  kubectl scaledapp check -o json

Changes nothing: objects are only sent for a trial (dry run).
Exit codes: 0 no failure, 1 a failure (with --strict also a warning),
2 something could not be found out, 64 usage.";

const LOGS: &str = "\
Examples:
  kubectl scaledapp logs shop
  kubectl scaledapp logs shop -f --tail 20
  kubectl scaledapp logs shop --since 10m --worker 2

--worker needs lines that name their worker, as `scaledapp-sidecar run --logs prefix` (or json) writes.";

const SCALE: &str = "\
Examples:
  kubectl scaledapp scale shop 6             six pods
  kubectl scaledapp scale shop --workers 4   four workers in each pod; no pod is replaced";

const OPEN: &str = "\
Examples:
  kubectl scaledapp open shop
  kubectl scaledapp open shop --slot 1 --port 8080 --no-browser

Listens on 127.0.0.1 only, until Ctrl-C. Connections go to a ready balancer of the slot.";

const BUNDLE: &str = "\
Examples:
  kubectl scaledapp support-bundle shop
  kubectl scaledapp support-bundle --logs --output-file /tmp/bundle.tar.gz

Values of environment variables, Secrets' data, last-applied annotations, users in URLs and
header-like lines are left out. Lines of pods are only in it with --logs.";

const COMPLETION: &str = "\
Examples:
  kubectl scaledapp completion kubectl > ~/bin/kubectl_complete-scaledapp
  chmod +x ~/bin/kubectl_complete-scaledapp       completion after `kubectl scaledapp`
  source <(kubectl-scaledapp completion bash)     completion after `kubectl-scaledapp`";

/// Which apps of which namespaces.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Which {
    /// The app; all apps of the namespace if left out
    pub(crate) name: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(crate) all_namespaces: bool,
    /// Only apps with these labels, such as team=a
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "name")]
    pub(crate) selector: Option<String>,
}

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Output,
    /// Renew the output until q or Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How often -w and --wait look
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Show all pods and workers, also those that are well
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not measure for a second
    #[arg(long)]
    pub(crate) quick: bool,
    /// Wait until a condition is True, or has the given status: CONDITION[=STATUS]
    #[arg(long, value_name = "CONDITION", conflicts_with = "watch")]
    pub(crate) wait: Option<String>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// The arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Also look at the apps of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Document,
    /// Warnings fail as well
    #[arg(long)]
    pub(crate) strict: bool,
    /// Namespace of the operator [default: found by its labels, otherwise scaledapp-system]
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) operator_namespace: Option<String>,
}

/// The arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The app
    pub(crate) name: String,
    /// Go on with new lines until Ctrl-C, also of new pods
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with the last N lines of each pod
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Begin with lines that are not older than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// Only lines of the worker in this slot
    #[arg(long, value_name = "SLOT")]
    pub(crate) worker: Option<u32>,
    /// The balancers' lines, not the app's
    #[arg(long)]
    pub(crate) balancers: bool,
    /// The lines of the containers before their last restart
    #[arg(long, conflicts_with = "follow")]
    pub(crate) previous: bool,
    /// Begin each line with the time at which the kubelet received it
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// At most this many pods at the same time
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) max_pods: u16,
}

/// The arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The app; all apps of the namespace if left out
    pub(crate) name: Option<String>,
    /// Go on with new events until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Format
    #[arg(short, long, default_value = "table", conflicts_with = "watch")]
    pub(crate) output: Document,
}

/// How long a change is waited for.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Waiting {
    /// Do not wait until the change is done
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// The arguments of a verb that changes an app.
#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// The app
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// The arguments of `scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// The app
    pub(crate) name: String,
    /// The number of pods
    #[arg(value_name = "PODS", required_unless_present = "workers", value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) pods: Option<u32>,
    /// The number of workers in each pod
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) workers: Option<u32>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// The arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Renew the output until q or Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How long is measured
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// The order of the workers
    #[arg(long, default_value = "cpu")]
    pub(crate) sort: Sort,
    /// Format
    #[arg(short, long, default_value = "table")]
    pub(crate) output: Document,
}

/// The order of `top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// The busiest first
    Cpu,
    /// The largest first
    Memory,
    /// The most restarts first
    Restarts,
    /// The most requests in flight first
    InFlight,
}

/// The arguments of `open`.
#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// The app
    pub(crate) name: String,
    /// The slot
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) slot: u32,
    /// Port on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// Only print the URL
    #[arg(long)]
    pub(crate) no_browser: bool,
}

/// The arguments of `support-bundle`.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The app; all apps of the namespace if left out
    pub(crate) name: Option<String>,
    /// Also the last 1000 lines of each pod, with header-like lines and users in URLs left out
    #[arg(long)]
    pub(crate) logs: bool,
    /// The archive [default: scaledapp-bundle-TIME.tar.gz in the current directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    /// Namespace of the operator [default: found by its labels]
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) operator_namespace: Option<String>,
}

/// Who completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
    /// kubectl: an executable named kubectl_complete-scaledapp on the PATH
    Kubectl,
}

/// The definition of the command line, for a program that was called by this name. kubectl calls
/// its plugins `kubectl-NAME`, and people then type `kubectl NAME`.
pub(crate) fn command(called: &str) -> clap::Command {
    let name = called.rsplit('/').next().unwrap_or_default();
    let shown = match name.strip_prefix("kubectl-") {
        Some(_) => "kubectl scaledapp".to_owned(),
        None => name.to_owned(),
    };
    Cli::command().bin_name(shown.clone()).display_name(shown)
}

/// Parses a command line, of which the first word is the program's name.
pub(crate) fn parse(words: &[std::ffi::OsString]) -> Result<Cli, clap::Error> {
    let called = words
        .first()
        .map(|word| word.to_string_lossy().into_owned());
    let mut command = command(&called.unwrap_or_default());
    let matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// A duration such as `90s` or `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    let plain: Result<u64, _> = text.parse();
    match plain {
        // As in kubectl, a number without a unit is seconds.
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => scaledapp_units::duration::parse(text).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<std::ffi::OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command("kubectl-scaledapp").debug_assert();
    }

    #[test]
    fn usage_says_what_people_type() {
        for (called, shown) in [
            (
                "/home/me/.krew/bin/kubectl-scaledapp",
                "Usage: kubectl scaledapp",
            ),
            ("kubectl-scaledapp", "Usage: kubectl scaledapp"),
            ("plugin", "Usage: plugin"),
        ] {
            let error = parse(&words(&format!("{called} --help"))).unwrap_err();
            assert!(error.to_string().contains(shown), "{error}");
        }
        let error = parse(&words("kubectl-scaledapp scale --help")).unwrap_err();
        assert!(
            error.to_string().contains("Usage: kubectl scaledapp scale"),
            "{error}"
        );
    }

    #[test]
    fn flags_of_kubectl_are_accepted_before_and_after_the_verb() {
        for line in [
            "x -n a --context c --as u --as-group g status shop -o json",
            "x status shop -n a --context c --as u --as-group g -o json --color never",
        ] {
            let cli = parse(&words(line)).unwrap();
            assert_eq!(cli.connection.namespace.as_deref(), Some("a"), "{line}");
            assert_eq!(cli.connection.as_group, ["g"], "{line}");
        }
        assert!(parse(&words("x status shop -A")).is_err());
        assert!(parse(&words("x scale shop")).is_err());
        assert!(parse(&words("x scale shop 0")).is_err());
    }

    #[test]
    fn durations_have_units_and_a_plain_number_is_seconds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert!(duration("soon").unwrap_err().contains("such as 500ms"));
    }
}
