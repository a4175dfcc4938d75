//! The command line of `scaledapp-sidecar run`, as the other programs of `ScaledApp` write it: the
//! operator in pod templates, `scaledapp local` for its processes, and the importer for a user's
//! shell.
//!
//! The order of the flags is that of existing pod templates: another order would make
//! another template, and every pod would be replaced.

use std::net::{IpAddr, SocketAddr};

use crate::Dispatch;

/// The arguments of a supervisor. Values that are `None` or empty are left out, so that the
/// supervisor's own defaults apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SupervisorArgs {
    /// The working directory of the workers.
    pub cwd: Option<String>,
    /// The address to serve on.
    pub host: Option<IpAddr>,
    /// The app's port.
    pub port: Option<u16>,
    /// How requests reach the workers: `request` or `connection`.
    pub dispatch: Option<Dispatch>,
    /// The admin port.
    pub admin: Option<SocketAddr>,
    /// The number of workers, such as `2` or `auto`, or a range, such as `1..auto`.
    pub workers: Option<String>,
    /// The desired-state file.
    pub desired_file: Option<String>,
    /// The file with the forwarding tokens of balancers; if it is given, the supervisor believes
    /// what balancers report about clients.
    pub trust_token_file: Option<String>,
    /// A path at which a worker must answer to count as ready.
    pub readiness_path: Option<String>,
    /// How long a worker may take to become ready.
    pub boot_timeout: Option<String>,
    /// How long requests in flight may take to end.
    pub drain_timeout: Option<String>,
    /// A stopping listener closes after this time without a new connection.
    pub drain_quiet: Option<String>,
    /// Further flags with their values.
    pub further: Vec<(&'static str, String)>,
    /// The signal that asks a worker to end.
    pub stop_signal: Option<String>,
    /// The variable with a worker's number.
    pub instance_env: Option<String>,
    /// Further flags without a value.
    pub switches: Vec<&'static str>,
    /// What happens to the lines that workers write.
    pub logs: Option<&'static str>,
}

impl SupervisorArgs {
    /// `run` with its flags and a final `--`, after which the app's command follows.
    pub fn to_args(&self) -> Vec<String> {
        let trust = self.trust_token_file.as_ref().map(|_| "behind".to_owned());
        let further = self.further.iter();
        let flags = [
            ("--cwd", self.cwd.clone()),
            ("--host", self.host.map(|host| host.to_string())),
            ("--port", self.port.map(|port| port.to_string())),
            ("--dispatch", self.dispatch.map(|it| it.as_str().to_owned())),
            ("--admin", self.admin.map(|admin| admin.to_string())),
            ("--workers", self.workers.clone()),
            ("--desired-file", self.desired_file.clone()),
            ("--trust", trust),
            ("--trust-token-file", self.trust_token_file.clone()),
            ("--readiness-path", self.readiness_path.clone()),
            ("--boot-timeout", self.boot_timeout.clone()),
            ("--drain-timeout", self.drain_timeout.clone()),
            ("--drain-quiet", self.drain_quiet.clone()),
        ]
        .into_iter()
        .chain(further.map(|(flag, value)| (*flag, Some(value.clone()))))
        .chain([
            ("--stop-signal", self.stop_signal.clone()),
            ("--instance-env", self.instance_env.clone()),
        ]);
        let mut args = vec!["run".to_owned()];
        let mut add = |(flag, value): (&str, Option<String>)| {
            if let Some(value) = value {
                args.extend([flag.to_owned(), value]);
            }
        };
        flags.for_each(&mut add);
        args.extend(self.switches.iter().map(|&switch| switch.to_owned()));
        if let Some(logs) = self.logs {
            args.extend(["--logs", logs].map(str::to_owned));
        }
        args.push("--".to_owned());
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_workers_is_one_word() {
        let args = SupervisorArgs {
            workers: Some("1..auto".to_owned()),
            desired_file: Some("/d/desired.json".to_owned()),
            further: vec![("--utilization", "60".to_owned())],
            ..SupervisorArgs::default()
        };
        assert_eq!(
            args.to_args().join(" "),
            "run --workers 1..auto --desired-file /d/desired.json --utilization 60 --"
        );
    }

    #[test]
    fn missing_values_are_left_out_and_the_order_is_that_of_pod_templates() {
        assert_eq!(SupervisorArgs::default().to_args(), ["run", "--"]);
        let args = SupervisorArgs {
            port: Some(3000),
            dispatch: Some(Dispatch::Request),
            admin: "[::]:9377".parse().ok(),
            desired_file: Some("/d/desired.json".to_owned()),
            trust_token_file: Some("/t/token".to_owned()),
            readiness_path: Some("/healthz".to_owned()),
            boot_timeout: Some("1m".to_owned()),
            drain_timeout: Some("30s".to_owned()),
            further: vec![("--max-memory", "5".to_owned())],
            stop_signal: Some("SIGTERM".to_owned()),
            instance_env: Some("N".to_owned()),
            switches: vec!["--wait-ready"],
            ..SupervisorArgs::default()
        };
        assert_eq!(
            args.to_args().join(" "),
            "run --port 3000 --dispatch request --admin [::]:9377 --desired-file /d/desired.json \
             --trust behind --trust-token-file /t/token --readiness-path /healthz \
             --boot-timeout 1m --drain-timeout 30s --max-memory 5 --stop-signal SIGTERM \
             --instance-env N --wait-ready --"
        );
    }
}
