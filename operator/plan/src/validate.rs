//! Which `ScaledApp`s are valid, and what absent fields mean.
//!
//! All violations are reported together, and each message names the cure. The schema and the CEL
//! rules of the CRD express most of these rules, so that `kubectl apply` refuses most invalid
//! objects already.

mod autoscaling;
mod balancers;
mod check;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use scaledapp_crds::v1alpha1::{AppProtocol, Dispatch, EnvVar, Readiness as Probe};
use scaledapp_crds::{Quantity, ScaledApp, v1alpha1};

pub(crate) use check::Check;
pub use check::Violation;

use check::{DAY, MAX_PODS, MAX_WORKERS, ONE, SECOND};

use crate::expand::expand;
use crate::local::ADMIN_PORT;
use crate::names::is_label;
use crate::{
    Autoscaling, Dns, Environment, Hostname, Limits, Pods, Readiness, ValidatedApp, WorkerCount,
    Workers,
};

const DEFAULT_PORT: NonZeroU16 = NonZeroU16::new(3000).expect("invariant: 3000 is not 0");
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
const DEFAULT_BOOT: Duration = Duration::from_mins(1);
const DEFAULT_TTL: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_hours(1);
/// The smallest memory limit of a worker, in bytes: even the smallest runtimes need several
/// mebibytes.
const MIN_MEMORY: u64 = 16 << 20;
/// Signals that can ask a process to end. KILL cannot be handled, and STOP does not end a process.
const STOP_SIGNALS: [&str; 7] = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"];

/// Checks an object and gives its absent fields their meaning.
///
/// # Errors
/// Everything that is wrong.
pub fn validate(app: &ScaledApp) -> Result<ValidatedApp, Vec<Violation>> {
    let mut check = Check::default();
    check.no_cluster(&app.spec);
    let validated = check.app(&app.metadata.name, &app.spec);
    check.finish(validated)
}

impl Check {
    /// Checks everything that is the same on one machine and in a cluster.
    pub(crate) fn app(&mut self, name: &str, spec: &v1alpha1::Spec) -> ValidatedApp {
        let name = self.name(name);
        if spec.image.trim().is_empty() {
            self.violation(
                "spec.image",
                "an image is required, such as registry.example/hello:1.0",
            );
        }
        let port = self.port(spec.port);
        let admin_port = self.admin_port(spec.admin_port, port, spec.workers.as_ref());
        let workers = spec.workers.clone().unwrap_or_default();
        let app_protocol = spec.app_protocol.unwrap_or(AppProtocol::Http);
        let tcp = app_protocol == AppProtocol::Tcp;
        let instance_env = self.instance_env(workers.instance_env.as_deref());
        let env = self.env(&spec.env, port, &instance_env);
        let command = self.command(&spec.command, &spec.args, &env);
        let working_dir = spec.working_dir.clone();
        if working_dir.as_deref() == Some("") {
            self.violation(
                "spec.workingDir",
                "is empty: name a directory or leave it out",
            );
        }
        let dispatch = self.dispatch(workers.dispatch, tcp);
        let (autoscaling, pods, count) = self.numbers(spec, &workers, dispatch);
        let readiness = self.readiness(workers.readiness.as_ref(), dispatch);
        let drain_timeout = self.drain_timeout(workers.drain_timeout);
        let stop_grace = self.stop_grace(workers.stop_grace);
        let stop_signal = self.stop_signal(workers.stop_signal.as_deref());
        let limits = self.limits(&workers, dispatch);
        let share = self.share(&workers.share, port);
        let metrics_from = self.metrics_from(workers.metrics_from.as_deref());
        let increment_env =
            self.increment_env(workers.increment_env.as_deref(), &instance_env, &env);
        let balancers = spec.balancers.as_ref();
        let protocol = self.protocol(balancers, app_protocol);
        let forwarded_from = self.forwarded_from(balancers);
        let stickiness = balancers.and_then(|all| all.stickiness.as_ref());
        let sticky = stickiness.and_then(|stickiness| self.sticky(stickiness, dispatch, tcp));
        let tls = balancers.and_then(|all| all.tls.as_ref());
        let tls = tls.map(|tls| self.tls(tls, spec.dns.is_some()));
        let error_pages = balancers.and_then(|all| all.error_pages.as_ref());
        let error_pages = error_pages.map(|pages| self.error_pages(pages));
        let (announced_from, announces_to_pods) = self.proxy_protocol(balancers, tcp);
        let dns = self.dns(spec.dns.as_ref());
        ValidatedApp {
            name,
            image: spec.image.clone(),
            command,
            env,
            working_dir,
            port,
            admin_port,
            protocol,
            pods,
            autoscaling,
            workers: Workers {
                count,
                dispatch,
                readiness,
                drain_timeout,
                stop_grace,
                limits,
                share,
                metrics_from,
                stop_signal,
                shutdown_message: workers.shutdown_message,
                increment_env,
                instance_env,
            },
            tls,
            sticky,
            forwarded_from,
            error_pages,
            announced_from,
            announces_to_pods,
            has_resources: spec.resources.is_some(),
            dns,
        }
    }

    /// Refuses what is impossible on one machine. Exposure, the pod template and a pause
    /// concern the operator only; they are ignored here.
    fn no_cluster(&mut self, spec: &v1alpha1::Spec) {
        for (index, variable) in spec.env.iter().enumerate() {
            if variable.value_from.is_some() {
                self.violation(
                    format!("spec.env[{index}].valueFrom"),
                    "needs a cluster: give the value itself in `value`",
                );
            }
        }
        if !spec.env_from.is_empty() {
            self.violation(
                "spec.envFrom",
                "needs a cluster: write the variables under `env`",
            );
        }
    }

    fn name(&mut self, name: &str) -> String {
        if !is_label(name) {
            self.violation(
                "metadata.name",
                format!(
                    "{name:?} is not a valid name: use a-z, 0-9 and -, at most 63, such as hello"
                ),
            );
        }
        name.to_owned()
    }

    fn port(&mut self, port: Option<i32>) -> NonZeroU16 {
        let Some(number) = port else {
            return DEFAULT_PORT;
        };
        let valid = u16::try_from(number).ok().and_then(NonZeroU16::new);
        valid.unwrap_or_else(|| {
            self.violation(
                "spec.port",
                format!("{number} is not a port: give the one that the app listens on, 1 to 65535"),
            );
            DEFAULT_PORT
        })
    }

    /// The supervisor of each pod has a port of its own, which neither the app nor a shared
    /// port may have.
    fn admin_port(
        &mut self,
        admin_port: Option<i32>,
        port: NonZeroU16,
        workers: Option<&v1alpha1::Workers>,
    ) -> NonZeroU16 {
        let number = admin_port.unwrap_or_else(|| i32::from(ADMIN_PORT.get()));
        let valid = u16::try_from(number).ok().and_then(NonZeroU16::new);
        let Some(admin_port) = valid else {
            let message = "is not a port: give one that the app does not use, 1 to 65535";
            self.violation("spec.adminPort", format!("{number} {message}"));
            return ADMIN_PORT;
        };
        let cure = "let the app listen on another port, or set spec.adminPort to another one";
        if port == admin_port {
            self.violation(
                "spec.port",
                format!("{port} is the supervisor's admin port in each pod: {cure}"),
            );
        }
        let cure = "share another port, or set spec.adminPort to another one";
        let shared = workers.into_iter().flat_map(|workers| &workers.share);
        for (index, _) in shared.enumerate().filter(|(_, port)| **port == number) {
            self.violation(
                format!("spec.workers.share[{index}]"),
                format!("{number} is the supervisor's admin port in each pod: {cure}"),
            );
        }
        admin_port
    }

    fn env(&mut self, env: &[EnvVar], port: NonZeroU16, instance_env: &str) -> Environment {
        let mut variables = Environment::new();
        for (index, EnvVar { name, value, .. }) in env.iter().enumerate() {
            let path = format!("spec.env[{index}]");
            let value = value.as_deref().unwrap_or_default();
            if !is_variable(name) || value.contains('\0') {
                self.violation(path, format!("{name:?} is not a valid variable: its name must not be empty or contain =, and its value must not contain NUL"));
            } else if name.starts_with("SCALEDAPP_")
                || name == instance_env
                || name == "WEB_CONCURRENCY"
            {
                self.violation(
                    path,
                    format!("{name} is set by the supervisor: leave it out"),
                );
            } else if name == "PORT" && value != port.to_string() {
                self.violation(
                    path,
                    format!("PORT is set from spec.port, which is {port}: change that field"),
                );
            } else if variables.iter().any(|(known, _)| known == name) {
                self.violation(path, format!("{name} occurs twice: leave one out"));
            } else {
                let value = expand(value, &variables);
                variables.push((name.clone(), value));
            }
        }
        variables
    }

    fn command(&mut self, command: &[String], args: &[String], env: &Environment) -> Vec<String> {
        let path = "spec.command";
        match command.first().map(String::as_str) {
            None => self.violation(path, "is empty: say what one worker runs, such as [node, server.js]"),
            Some("") => self.violation(path, "begins with an empty word: begin with the program"),
            Some(word) if command.len() == 1 && word.contains(char::is_whitespace) => self.violation(
                path,
                format!("{word:?} is one word with spaces, and no shell splits it: write each word separately, such as [node, server.js]"),
            ),
            Some(_) => {}
        }
        let words = command.iter().chain(args);
        if words.clone().any(|word| word.contains('\0')) {
            self.violation(
                path,
                "contains a NUL character, which no program can receive: remove it",
            );
        }
        words.map(|word| expand(word, env)).collect()
    }

    /// How many pods and workers there are, and who decides that.
    fn numbers(
        &mut self,
        spec: &v1alpha1::Spec,
        workers: &v1alpha1::Workers,
        dispatch: Dispatch,
    ) -> (Option<Autoscaling>, Pods, WorkerCount) {
        let pods = self.pods(spec.replicas.as_ref());
        let count = self.worker_count(workers);
        let Some(scaler) = self.autoscaling(spec, dispatch) else {
            return (None, pods, count);
        };
        let pods = Pods::Auto(scaler.pods());
        let (min, max) = scaler.workers();
        (Some(scaler), pods, WorkerCount::Range(min, max))
    }

    fn pods(&mut self, replicas: Option<&v1alpha1::Replicas>) -> Pods {
        let zero = "pods serve nothing";
        match replicas.map(|replicas| (replicas.per_node, replicas.total)) {
            None => Pods::PerNode(ONE),
            Some((Some(per_node), None)) => {
                Pods::PerNode(self.count("spec.replicas.perNode", per_node, MAX_PODS, zero))
            }
            Some((None, Some(total))) => {
                Pods::Total(self.count("spec.replicas.total", total, MAX_PODS, zero))
            }
            Some((Some(_), Some(_))) => {
                self.violation(
                    "spec.replicas",
                    "perNode and total exclude each other: leave one out",
                );
                Pods::PerNode(ONE)
            }
            Some((None, None)) => {
                self.violation(
                    "spec.replicas",
                    "is empty: give perNode or total, or leave it out (perNode: 1)",
                );
                Pods::PerNode(ONE)
            }
        }
    }

    fn worker_count(&mut self, workers: &v1alpha1::Workers) -> WorkerCount {
        let zero = "workers serve nothing";
        match (workers.per_core, workers.count) {
            (None, None) => WorkerCount::PerCore(ONE),
            (Some(per_core), None) => WorkerCount::PerCore(self.count(
                "spec.workers.perCore",
                per_core,
                MAX_WORKERS,
                zero,
            )),
            (None, Some(count)) => {
                WorkerCount::Count(self.count("spec.workers.count", count, MAX_WORKERS, zero))
            }
            (Some(_), Some(_)) => {
                self.violation(
                    "spec.workers",
                    "perCore and count exclude each other: leave one out",
                );
                WorkerCount::PerCore(ONE)
            }
        }
    }

    fn dispatch(&mut self, dispatch: Option<Dispatch>, tcp: bool) -> Dispatch {
        match (dispatch, tcp) {
            (Some(Dispatch::Request), true) => {
                self.violation(
                    "spec.workers.dispatch",
                    "Request needs HTTP, but spec.appProtocol is tcp: write Connection or leave it out",
                );
                Dispatch::Connection
            }
            (Some(dispatch), _) => dispatch,
            (None, true) => Dispatch::Connection,
            (None, false) => Dispatch::Request,
        }
    }

    fn readiness(&mut self, probe: Option<&Probe>, dispatch: Dispatch) -> Readiness {
        let path = probe.and_then(|probe| probe.path.clone());
        if let Some(text) = &path {
            if !text.starts_with('/') || text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
                self.violation(
                    "spec.workers.readiness.path",
                    format!("{text:?} must start with / and contain no spaces, such as /healthz"),
                );
            }
            if dispatch == Dispatch::Connection {
                self.violation(
                    "spec.workers.readiness.path",
                    "needs dispatch Request: with Connection, all workers share one queue, so no single one can be probed; leave the path out",
                );
            }
        }
        let timeout = probe
            .and_then(|probe| probe.timeout)
            .map_or(DEFAULT_BOOT, |time| time.0);
        if timeout.is_zero() || timeout > HOUR {
            self.violation(
                "spec.workers.readiness.timeout",
                "is out of range: give 1ms to 1h",
            );
        }
        Readiness {
            path,
            message: probe.is_some_and(|probe| probe.wait_ready),
            timeout,
        }
    }

    fn drain_timeout(&mut self, time: Option<scaledapp_crds::Duration>) -> Duration {
        let time = time.map_or(DEFAULT_DRAIN, |time| time.0);
        if time > HOUR {
            self.violation(
                "spec.workers.drainTimeout",
                "is longer than 1h, and a stop could take that long: give at most 1h",
            );
        }
        time
    }

    fn stop_grace(&mut self, time: Option<scaledapp_crds::Duration>) -> Option<Duration> {
        let time = time?.0;
        if time > HOUR {
            self.violation(
                "spec.workers.stopGrace",
                "is longer than 1h, and a stop could take that long: give at most 1h",
            );
        }
        Some(time)
    }

    fn limits(&mut self, workers: &v1alpha1::Workers, dispatch: Dispatch) -> Limits {
        let memory = workers.max_memory.as_ref().and_then(Quantity::whole);
        if workers.max_memory.is_some() && memory.is_none_or(|bytes| bytes < MIN_MEMORY) {
            self.violation(
                "spec.workers.maxMemory",
                "is less than any worker needs, or too large to count: give 16Mi or more, such as 300Mi",
            );
        }
        let requests = workers
            .max_requests
            .map(|most| u64::try_from(most).unwrap_or(0));
        if requests == Some(0) {
            self.violation(
                "spec.workers.maxRequests",
                "0 requests would replace workers without end: give 1 or more, or leave it out",
            );
        }
        if requests.is_some() && dispatch == Dispatch::Connection {
            self.violation(
                "spec.workers.maxRequests",
                "needs dispatch Request: connections that workers accept for themselves are not counted; use maxAge or maxMemory",
            );
        }
        let age = workers.max_age.map(|age| age.0);
        if age.is_some_and(|age| age < SECOND) {
            self.violation(
                "spec.workers.maxAge",
                "would replace workers without end: give 1s or more, or leave it out",
            );
        }
        let in_flight = workers.max_in_flight.map(|most| {
            let most = u32::try_from(most).ok().and_then(NonZeroU32::new);
            if most.is_none() {
                self.violation(
                    "spec.workers.maxInFlight",
                    "a worker with 0 requests serves nothing: give 1 or more, or leave it out",
                );
            } else if dispatch == Dispatch::Connection {
                self.violation(
                    "spec.workers.maxInFlight",
                    "needs dispatch Request: with Connection, workers accept connections themselves; leave it out",
                );
            }
            most.unwrap_or(ONE)
        });
        Limits {
            memory,
            requests,
            age,
            silence: workers.hang_timeout.map(|time| time.0),
            in_flight,
        }
    }

    fn share(&mut self, ports: &[i32], main: NonZeroU16) -> Vec<NonZeroU16> {
        let mut found = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let path = format!("spec.workers.share[{index}]");
            match u16::try_from(*port).ok().and_then(NonZeroU16::new) {
                None => self.violation(path, format!("{port} is not a port: give 1 to 65535")),
                Some(port) if port == main || found.contains(&port) => self.violation(
                    path,
                    format!(
                        "{port} is shared already: name each further port once, without spec.port"
                    ),
                ),
                Some(port) => found.push(port),
            }
        }
        found
    }

    fn metrics_from(&mut self, from: Option<&str>) -> Option<String> {
        let from = from?;
        let (port, path) = from.split_at(from.find('/').unwrap_or(from.len()));
        let is_port = port.is_empty() || port.parse::<NonZeroU16>().is_ok();
        if !is_port || path.is_empty() || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.violation(
                "spec.workers.metricsFrom",
                "is not a source of metrics: give a path such as /metrics, or a port and a path such as 9464/metrics",
            );
        }
        Some(from.to_owned())
    }

    fn stop_signal(&mut self, signal: Option<&str>) -> String {
        let upper = signal.unwrap_or("TERM").to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if !STOP_SIGNALS.contains(&name) {
            self.violation(
                "spec.workers.stopSignal",
                format!(
                    "{:?} is not a signal that asks a process to end: give SIG{}",
                    signal.unwrap_or_default(),
                    STOP_SIGNALS.join(", SIG")
                ),
            );
        }
        format!("SIG{name}")
    }

    fn instance_env(&mut self, name: Option<&str>) -> String {
        let name = name.unwrap_or("NODE_APP_INSTANCE");
        if !is_variable(name) || name == "PORT" {
            self.violation(
                "spec.workers.instanceEnv",
                format!("{name:?} cannot hold the worker's number: give a variable's name, such as INSTANCE"),
            );
        }
        name.to_owned()
    }

    fn increment_env(
        &mut self,
        name: Option<&str>,
        instance_env: &str,
        env: &Environment,
    ) -> Option<String> {
        let name = name?;
        let path = "spec.workers.incrementEnv";
        if !is_variable(name) || name == "PORT" || name.starts_with("SCALEDAPP_") {
            self.violation(path, format!("{name:?} cannot be counted up: give a variable of the app's own, such as DEBUG_PORT; all workers share spec.port"));
        } else if name == instance_env {
            self.violation(
                path,
                format!("{name} already holds the worker's number: leave it out"),
            );
        }
        let begin = env.iter().find(|(known, _)| known == name);
        if let Some((_, value)) = begin.filter(|(_, value)| value.trim().parse::<i64>().is_err()) {
            self.violation(path, format!("{name} is {value:?} in spec.env: give it a whole number to count from, or leave it out to begin at 0"));
        }
        Some(name.to_owned())
    }

    fn dns(&mut self, dns: Option<&v1alpha1::Dns>) -> Dns {
        let mut hostname = None;
        let mut ttl = DEFAULT_TTL;
        if let Some(dns) = dns {
            match dns.hostname.parse::<Hostname>() {
                Ok(name) => hostname = Some(name),
                Err(error) => self.violation("spec.dns.hostname", error.to_string()),
            }
            ttl = dns.ttl.map_or(DEFAULT_TTL, |time| time.0);
        }
        if ttl.is_zero() || ttl > DAY || ttl.subsec_nanos() != 0 {
            self.violation(
                "spec.dns.ttl",
                "is out of range: give whole seconds from 1s to 24h",
            );
        }
        Dns { hostname, ttl }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}
