//! Turns a plan into programs: their command lines, environment and directories.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use std::time::Duration;

use scaledapp_crds::v1alpha1::{Algorithm, Dispatch};
use scaledapp_plan::ValidatedApp;
use scaledapp_plan::local::{Plan, Pod, Slot};
use scaledapp_units::duration;
use scaledapp_wire::{self as wire, SupervisorArgs};

use crate::binaries::Binaries;
use crate::object::Object;
use crate::runs;

/// How long a stopping program keeps its listener open: a pod without a new connection
/// (`--drain-quiet`), a balancer at least (`--drain-min`). The time is short, because on one machine
/// clients notice a stop immediately.
const QUIET: &str = "200ms";
/// The variable that keeps Python from buffering its output. Otherwise Python would write only full
/// blocks, because stdout is a pipe.
const UNBUFFERED: &str = "PYTHONUNBUFFERED";
/// Time that a balancer has beyond its own drain before its supervisor kills it.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// A program that is kept running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name in the output: `hello-0`, `hello-lb-1`, `dns`.
    pub(crate) name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    pub(crate) directory: PathBuf,
    /// What its workers run, if it is a pod.
    pub(crate) workers: Option<Workers>,
}

/// The command of a pod's workers, and the port on which they should listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workers {
    pub(crate) command: Vec<String>,
    pub(crate) port: u16,
}

impl Program {
    /// The command to run. The child gets its own process group, so that Ctrl-C reaches only
    /// `scaledapp`. The child is killed when `scaledapp` is killed. Except for those of the log,
    /// the `SCALEDAPP_*` settings of `scaledapp` are removed, because they would configure the
    /// child.
    pub(crate) fn command(&self) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.binary);
        command
            .args(&self.arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.process_group(0);
        scaledapp_sys::tie_to_parent(&mut command);
        command
    }
}

/// Settings of `scaledapp` that its processes inherit.
const OF_THE_LOG: [&str; 2] = ["SCALEDAPP_LOG", "SCALEDAPP_LOG_FORMAT"];

fn is_setting(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("SCALEDAPP_") && !OF_THE_LOG.contains(&&*name)
}

/// The programs of an app.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) pods: Vec<Program>,
    pub(crate) slots: Vec<Program>,
}

/// The files that the programs of an app read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) endpoints: PathBuf,
    /// The token by which pods recognise their balancers.
    pub(crate) token: PathBuf,
    /// The certificate of the balancers, and its key.
    pub(crate) tls: Option<[PathBuf; 2]>,
}

/// The programs of a plan.
pub(crate) fn programs(
    object: &Object,
    plan: &Plan,
    binaries: &Binaries,
    files: &Files,
) -> Programs {
    let workers = match plan.most_workers {
        Some(most) if most > plan.workers => format!("{}..{most}", plan.workers),
        _ => plan.workers.to_string(),
    };
    let pod = |pod| supervisor(object, pod, &workers, binaries, files);
    let slot = |slot| balancer(&object.app, slot, binaries, files);
    Programs {
        pods: plan.pods.iter().map(pod).collect(),
        slots: plan.slots.iter().map(slot).collect(),
    }
}

fn supervisor(
    object: &Object,
    pod: &Pod,
    workers: &str,
    binaries: &Binaries,
    files: &Files,
) -> Program {
    let app = &object.app;
    let args = SupervisorArgs {
        cwd: Some(object.directory.to_string_lossy().into_owned()),
        host: Some(pod.address.ip()),
        port: Some(pod.address.port()),
        dispatch: Some(match app.workers.dispatch {
            Dispatch::Request => wire::Dispatch::Request,
            Dispatch::Connection => wire::Dispatch::Connection,
        }),
        admin: Some(pod.admin),
        workers: Some(workers.to_owned()),
        trust_token_file: app
            .asks_for_token()
            .then(|| files.token.to_string_lossy().into_owned()),
        readiness_path: app.workers.readiness.path.clone(),
        boot_timeout: Some(duration::format(app.workers.readiness.timeout)),
        drain_timeout: Some(duration::format(app.workers.drain_timeout)),
        drain_quiet: Some(QUIET.to_owned()),
        further: app.supervisor_flags(),
        stop_signal: Some(app.workers.stop_signal.clone()),
        instance_env: Some(app.workers.instance_env.clone()),
        switches: app.workers.switches(),
        // `output` turns this prefix into the slot's number after the pod's name.
        logs: Some("prefix"),
        ..SupervisorArgs::default()
    };
    let mut arguments = args.to_args();
    arguments.extend(app.command.iter().cloned());
    let mut environment = Vec::new();
    if std::env::var_os(UNBUFFERED).is_none() {
        environment.push((UNBUFFERED.to_owned(), "1".to_owned()));
    }
    environment.extend(app.env.iter().cloned());
    environment.push((runs::POD.to_owned(), pod.name.clone()));
    environment.push(("SCALEDAPP_NODE".to_owned(), pod.node.clone()));
    Program {
        name: pod.name.clone(),
        binary: binaries.sidecar.clone(),
        arguments,
        environment,
        directory: object.directory.clone(),
        workers: Some(Workers {
            command: app.command.clone(),
            port: pod.address.port(),
        }),
    }
}

/// A balancer as the only worker of a supervisor, so that the listening socket outlives the
/// balancer.
fn balancer(app: &ValidatedApp, slot: &Slot, binaries: &Binaries, files: &Files) -> Program {
    let drain = app.workers.drain_timeout;
    let mut further = vec![("--stop-grace", duration::format(drain + STOP_MARGIN))];
    further.extend(slot.tls.map(|tls| ("--share", tls.port().to_string())));
    let holder = SupervisorArgs {
        host: Some(slot.address.ip()),
        port: Some(slot.address.port()),
        dispatch: Some(wire::Dispatch::Connection),
        admin: Some(slot.holder_admin),
        workers: Some("1".to_owned()),
        // The balancer drains by itself, and better than the supervisor could: it can send
        // `Connection: close`.
        drain_timeout: Some("0s".to_owned()),
        further,
        ..SupervisorArgs::default()
    };
    let mut arguments = holder.to_args();
    arguments.push(binaries.balancer.to_string_lossy().into_owned());
    arguments.extend(words(&["run", "--listen", &slot.address.to_string()]));
    arguments.extend(words(&["--admin", &slot.admin.to_string()]));
    arguments.extend(words(&[
        "--endpoints-file",
        &files.endpoints.to_string_lossy(),
    ]));
    let balancers = app.protocol.balancers();
    arguments.extend(words(&["--algorithm", algorithm(balancers.algorithm)]));
    let flags = balancers.optional_flags().into_iter();
    for (flag, value) in flags.chain(app.proxy_protocol_flags()) {
        arguments.extend(words(&[flag, &value]));
    }
    if let (Some(tls), Some([certificate, key])) = (&app.tls, &files.tls) {
        // Balancers that relay connections have TLS on their only port.
        if let Some(listen) = slot.tls {
            arguments.extend(words(&["--tls-listen", &listen.to_string()]));
        }
        let pair = format!("{}:{}", certificate.display(), key.display());
        arguments.extend(words(&["--tls", &pair]));
        if let Some(listen) = slot.tls.filter(|_| tls.redirect) {
            arguments.extend(words(&["--tls-redirect", &listen.port().to_string()]));
        }
        for (flag, value) in tls.optional_flags() {
            // The authorities of client certificates are in a Secret, and a local run has none.
            if flag != "--tls-client-mode" {
                arguments.extend(words(&[flag, &value]));
            }
        }
    }
    if let Some(hold) = app.hold() {
        arguments.extend(words(&["--hold", &duration::format(hold)]));
    }
    if let Some(kind) = &app.sticky {
        arguments.extend(words(&["--sticky", kind]));
    }
    if let Some(networks) = app.forwarded_from() {
        arguments.extend(words(&["--forwarded-from", &networks]));
    }
    if app.asks_for_token() {
        let file = files.token.to_string_lossy();
        arguments.extend(words(&["--trust-token-file", &file]));
    }
    arguments.extend(words(&[
        "--drain-min",
        QUIET,
        "--drain-timeout",
        &duration::format(drain),
    ]));
    Program {
        name: slot.name.clone(),
        binary: binaries.sidecar.clone(),
        arguments,
        environment: quiet(),
        directory: PathBuf::from("/"),
        workers: None,
    }
}

/// Balancers and DNS log only problems unless the user asks for more, so that the app's output is
/// easy to find.
fn quiet() -> Vec<(String, String)> {
    match std::env::var_os("SCALEDAPP_LOG") {
        Some(_) => Vec::new(),
        None => vec![("SCALEDAPP_LOG".to_owned(), "warn".to_owned())],
    }
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::LeastRequest => "least-request",
        Algorithm::RoundRobin => "round-robin",
        Algorithm::Random => "random",
        Algorithm::Hash => "hash",
    }
}

/// A DNS server for one zone. It reads the file `records`.
pub(crate) fn dns(
    name: String,
    zone: &str,
    listen: SocketAddr,
    binaries: &Binaries,
    records: &Path,
) -> Program {
    let mut arguments = words(&["run", "--listen", &listen.to_string()]);
    arguments.extend(words(&["--zone", zone]));
    arguments.extend(words(&["--records-file", &records.to_string_lossy()]));
    // The names are withdrawn before the server stops, so it need not wait.
    arguments.extend(words(&["--drain-min", "0s"]));
    Program {
        name,
        binary: binaries.dns.clone(),
        arguments,
        environment: quiet(),
        directory: PathBuf::from("/"),
        workers: None,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use scaledapp_plan::local::{Addresses, Machine, demand, plan};

    use super::*;

    const YAML: &str = "
apiVersion: scaledapp.io/v1alpha1
kind: ScaledApp
metadata: {name: hello}
spec:
  image: i
  command: [node, server.js]
  env: [{name: GREETING, value: hi}]
  workers: {count: 3, readiness: {path: /healthz, timeout: 20s}, drainTimeout: 1500ms, stopSignal: int}
  balancers: {replicas: 1, algorithm: RoundRobin}
";

    fn all() -> Programs {
        all_of(YAML)
    }

    fn all_of(yaml: &str) -> Programs {
        let app = scaledapp_plan::validate(&scaledapp_crds::read(yaml).unwrap()).unwrap();
        let machine = Machine {
            nodes: 1.try_into().unwrap(),
            cores: 2.try_into().unwrap(),
        };
        let addresses = Addresses {
            balancers: Ipv4Addr::new(127, 0, 77, 0),
            balancer_port: 8080,
            tls_port: app.tls.is_some().then_some(8443),
            pods: Ipv4Addr::new(127, 0, 78, 0),
            dns: "127.0.0.1:5353".parse().unwrap(),
        };
        let plan = plan(&app, machine, demand(&app, machine).unwrap(), addresses);
        let object = Object {
            app,
            directory: PathBuf::from("/srv/hello"),
            notes: Vec::new(),
        };
        let files = Files {
            endpoints: PathBuf::from("/run/endpoints.json"),
            token: PathBuf::from("/run/token"),
            tls: Some(["/run/tls.crt", "/run/tls.key"].map(PathBuf::from)),
        };
        programs(&object, &plan, &binaries(), &files)
    }

    fn binaries() -> Binaries {
        Binaries {
            sidecar: PathBuf::from("/bin/scaledapp-sidecar"),
            balancer: PathBuf::from("/bin/scaledapp-balancer"),
            dns: PathBuf::from("/bin/scaledapp-dns"),
        }
    }

    #[test]
    fn a_pod_is_a_supervisor_of_the_apps_command() {
        let pod = &all().pods[0];
        assert_eq!(
            pod.arguments.join(" "),
            "run --cwd /srv/hello --host 127.0.78.1 --port 3000 --dispatch request --admin 127.0.78.1:9377 --workers 3 \
             --trust behind --trust-token-file /run/token --readiness-path /healthz --boot-timeout 20s --drain-timeout 1500ms --drain-quiet 200ms \
             --stop-signal SIGINT --instance-env NODE_APP_INSTANCE --logs prefix -- node server.js"
        );
        let says = YAML.replace(
            "readiness: {",
            "shutdownMessage: true, readiness: {waitReady: true, ",
        );
        let line = all_of(&says).pods[0].arguments.join(" ");
        assert!(
            line.ends_with(
                "NODE_APP_INSTANCE --wait-ready --shutdown-message --logs prefix -- node server.js"
            ),
            "{line}"
        );
        assert_eq!(pod.directory, Path::new("/srv/hello"));
        let environment: Vec<String> = pod
            .environment
            .iter()
            // The environment of the test may set this variable already.
            .filter(|(name, _)| name != UNBUFFERED)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            environment,
            [
                "GREETING=hi",
                "SCALEDAPP_POD=hello-0",
                "SCALEDAPP_NODE=node-0"
            ]
        );
    }

    #[test]
    fn a_balancer_is_the_worker_of_a_supervisor_that_holds_its_socket() {
        assert_eq!(
            all().slots[0].arguments.join(" "),
            "run --host 127.0.77.1 --port 8080 --dispatch connection --admin 127.0.77.1:9378 --workers 1 \
             --drain-timeout 0s --stop-grace 6500ms -- /bin/scaledapp-balancer run --listen 127.0.77.1:8080 \
             --admin 127.0.77.1:9377 --endpoints-file /run/endpoints.json --algorithm round-robin \
             --trust-token-file /run/token --drain-min 200ms --drain-timeout 1500ms"
        );
    }

    #[test]
    fn tls_has_a_port_of_its_own_whose_socket_the_supervisor_also_holds() {
        let yaml = YAML.replace(
            "replicas: 1, ",
            "replicas: 1, tls: {secretName: hello-tls, minVersion: '1.3', hsts: 1h, \
             clientCertificates: {secretName: ca, mode: Optional}}, ",
        );
        let line = all_of(&yaml).slots[0].arguments.join(" ");
        for words in [
            " --share 8443 -- ",
            " --tls-listen 127.0.77.1:8443 --tls /run/tls.crt:/run/tls.key --tls-redirect 8443 \
             --tls-min-version 1.3 --hsts 1h ",
        ] {
            assert!(line.contains(words), "{words} in {line}");
        }
        assert!(!line.contains("--tls-client"), "{line}");
        let line = all_of(&yaml.replace("hsts: 1h", "redirect: false")).slots[0]
            .arguments
            .join(" ");
        assert!(!line.contains("--tls-redirect"), "{line}");
    }

    #[test]
    fn with_connection_dispatch_there_is_no_token_and_balancers_get_forwarded_from() {
        let yaml = YAML.replace("workers: {", "workers: {dispatch: Connection, ");
        let yaml = yaml.replace("readiness: {path: /healthz, timeout: 20s}, ", "");
        let yaml = yaml.replace(
            "replicas: 1, ",
            "replicas: 1, forwardedFrom: [10.0.0.0/8, 'fd00::1'], ",
        );
        let all = all_of(&yaml);
        for program in [&all.pods[0], &all.slots[0]] {
            let line = program.arguments.join(" ");
            assert!(!line.contains("token"), "{line}");
        }
        let line = all.slots[0].arguments.join(" ");
        assert!(
            line.contains("--forwarded-from 10.0.0.0/8,fd00::1/128 "),
            "{line}"
        );
    }

    #[test]
    fn dns_serves_the_zone_of_the_host_name() {
        let listen = "127.0.0.1:5353".parse().unwrap();
        let dns = dns(
            "dns".to_owned(),
            "apps.local",
            listen,
            &binaries(),
            Path::new("/run/records.json"),
        );
        assert_eq!(
            dns.arguments.join(" "),
            "run --listen 127.0.0.1:5353 --zone apps.local --records-file /run/records.json --drain-min 0s"
        );
    }

    #[test]
    fn our_own_settings_are_not_handed_down() {
        for (name, is) in [
            ("SCALEDAPP_PORT", true),
            ("SCALEDAPP_STATE_FILE", true),
            ("SCALEDAPP_LOG", false),
            ("SCALEDAPP_LOG_FORMAT", false),
            ("PATH", false),
        ] {
            assert_eq!(is_setting(&OsString::from(name)), is, "{name}");
        }
    }
}
