//! A validated `ScaledApp`: every value is within its range, and every absent field has a meaning.
//! Only [`crate::validate`] creates values of this type.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use scaledapp_crds::v1alpha1::{AccessLogFormat, Algorithm, AppProtocol, Dispatch};
use scaledapp_http1::Network;
use scaledapp_scale::Range;

use crate::{Autoscaling, Hostname};

/// An app with all of its values.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidatedApp {
    /// The app's name, an RFC 1123 label.
    pub name: String,
    /// The container image.
    pub image: String,
    /// Program and arguments of one worker; never empty.
    pub command: Vec<String>,
    /// Environment of each worker.
    pub env: Environment,
    /// The working directory as written; `None`: the default of the platform, which is one machine
    /// or a cluster.
    pub working_dir: Option<String>,
    /// The port that the app listens on.
    pub port: NonZeroU16,
    /// The admin port of each pod's supervisor.
    pub admin_port: NonZeroU16,
    /// The protocol that the app speaks.
    pub protocol: Protocol,
    /// How many pods.
    pub pods: Pods,
    /// What the autoscaler may do; `None` if the numbers of pods and workers are the user's.
    pub autoscaling: Option<Autoscaling>,
    /// What runs in a pod.
    pub workers: Workers,
    /// TLS at the balancers.
    pub tls: Option<Tls>,
    /// How a client comes back to the same worker, as a value of the flag `--sticky` of balancer
    /// and dispatcher; `None` if clients do not come back.
    pub sticky: Option<String>,
    /// Networks of the proxies in front of the balancers. The balancers believe what these proxies
    /// report about clients.
    pub forwarded_from: Vec<Network>,
    /// The `ConfigMap` of pages for the balancers' own answers.
    pub error_pages: Option<String>,
    /// Networks of the load balancers in front whose connections must begin with a PROXY header.
    pub announced_from: Vec<Network>,
    /// Whether connections to pods begin with a PROXY header.
    pub announces_to_pods: bool,
    /// Whether the object requests or limits CPU or memory.
    pub has_resources: bool,
    /// The app's name in DNS.
    pub dns: Dns,
}

/// TLS at the balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Secrets, each with a certificate and its key. The first certificate is the default.
    pub secrets: Vec<String>,
    /// Who issues the first certificate; `None` if somebody else creates its Secret.
    pub issuer: Option<Issuer>,
    /// Whether TLS 1.2 is off.
    pub is_13_only: bool,
    /// Whether requests without TLS are redirected to https.
    pub redirect: bool,
    /// For how long browsers shall use only https.
    pub hsts: Option<Duration>,
    /// Certificates that clients must show.
    pub clients: Option<ClientCertificates>,
}

/// An issuer of cert-manager.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "kubernetes", derive(serde::Serialize))]
pub struct Issuer {
    /// The issuer's name.
    pub name: String,
    /// `Issuer`, `ClusterIssuer`, or a kind of `group`.
    pub kind: String,
    /// The API group of the kind.
    pub group: String,
}

/// Certificates that clients must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The Secret with the authorities that sign clients' certificates.
    pub secret: String,
    /// Whether a client may connect without a certificate.
    pub is_optional: bool,
}

impl Tls {
    /// Flags of the balancer for which the object has a value, apart from those that name
    /// files and addresses.
    pub fn optional_flags(&self) -> Vec<(&'static str, String)> {
        let version = self.is_13_only.then(|| "1.3".to_owned());
        let hsts = self
            .hsts
            .map(|time| scaledapp_crds::Duration(time).to_string());
        let is_optional = self.clients.as_ref().is_some_and(|it| it.is_optional);
        let mode = is_optional.then(|| "optional".to_owned());
        [
            ("--tls-min-version", version),
            ("--hsts", hsts),
            ("--tls-client-mode", mode),
        ]
        .into_iter()
        .filter_map(|(flag, value)| Some((flag, value?)))
        .collect()
    }
}

/// Variables in the order written, with `$(NAME)` resolved.
pub type Environment = Vec<(String, String)>;

/// The protocol of an app, with the settings that only this protocol has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, through the balancers.
    Http(Balancers),
    /// Any protocol over TCP. Balancers relay connections.
    Tcp(Balancers),
}

impl Protocol {
    /// The load balancers.
    pub fn balancers(&self) -> &Balancers {
        match self {
            Self::Http(balancers) | Self::Tcp(balancers) => balancers,
        }
    }
}

/// How many pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// This many on every node that counts.
    PerNode(NonZeroU32),
    /// A total.
    Total(NonZeroU32),
    /// As many within this range as the autoscaler decides.
    Auto(Range),
}

/// How many workers in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCount {
    /// This many for every core.
    PerCore(NonZeroU32),
    /// A total.
    Count(NonZeroU32),
    /// As many as the supervisor decides by load: the fewest and the most.
    Range(NonZeroU32, NonZeroU32),
}

/// What runs in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// How many workers.
    pub count: WorkerCount,
    /// Whether workers receive requests or connections.
    pub dispatch: Dispatch,
    /// When a worker counts as ready.
    pub readiness: Readiness,
    /// How long work in flight may take to finish.
    pub drain_timeout: Duration,
    /// The time from the stop signal to SIGKILL; `None`: [`Workers::STOP_GRACE`].
    pub stop_grace: Option<Duration>,
    /// When the supervisor replaces a worker.
    pub limits: Limits,
    /// Further ports that all workers serve.
    pub share: Vec<NonZeroU16>,
    /// Path of the workers' metrics, with a port if it is not the app's: `/metrics`,
    /// `9464/metrics`.
    pub metrics_from: Option<String>,
    /// The signal that asks a worker to end, such as `SIGTERM`.
    pub stop_signal: String,
    /// Whether a message on Node's channel asks a worker to end, instead of the signal.
    pub shutdown_message: bool,
    /// A variable whose value is one higher for each further worker.
    pub increment_env: Option<String>,
    /// The variable that holds a worker's number.
    pub instance_env: String,
}

/// The limits of a worker. The supervisor replaces a worker that exceeds one of them, except
/// `in_flight`. `None`: no limit, except for `silence`, where the supervisor's default applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory that a worker may use, in bytes.
    pub memory: Option<u64>,
    /// Requests that a worker may answer.
    pub requests: Option<u64>,
    /// How long a worker may serve.
    pub age: Option<Duration>,
    /// How long a worker may make no progress before it counts as hung; zero: without limit.
    pub silence: Option<Duration>,
    /// Requests that a worker may have in flight at the same time.
    pub in_flight: Option<NonZeroU32>,
}

impl ValidatedApp {
    /// Whether the balancers send a forwarding token to the pods. They do so only if a dispatcher
    /// receives the requests: with Connection dispatch, the app itself would get the token.
    pub fn asks_for_token(&self) -> bool {
        self.workers.dispatch == Dispatch::Request
    }

    /// Whether balancers relay connections instead of requests.
    pub fn is_tcp(&self) -> bool {
        matches!(self.protocol, Protocol::Tcp(_))
    }

    /// How long a balancer holds a request while there is no pod; `None` if the app always has one.
    pub fn hold(&self) -> Option<Duration> {
        let scaler = self.autoscaling.as_ref().filter(|it| it.reaches_zero())?;
        Some(scaler.hold(self.workers.readiness.timeout))
    }

    /// Flags of the balancer for the PROXY protocol.
    pub fn proxy_protocol_flags(&self) -> Vec<(&'static str, String)> {
        let networks = listed(&self.announced_from);
        let from = networks.map(|networks| ("--proxy-protocol-from", networks));
        let to = self
            .announces_to_pods
            .then(|| ("--proxy-protocol-to-servers", "true".to_owned()));
        from.into_iter().chain(to).collect()
    }

    /// The value of `--forwarded-from`; `None` if no proxy is believed.
    pub fn forwarded_from(&self) -> Option<String> {
        listed(&self.forwarded_from)
    }

    /// Flags of the supervisor for which the object has a value: those for the workers, and
    /// those for the dispatcher if there is one.
    pub fn supervisor_flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = self.workers.optional_flags();
        if let (Protocol::Http(balancers), Dispatch::Request) =
            (self.protocol, self.workers.dispatch)
        {
            flags.extend(balancers.dispatcher_flags());
            flags.extend(self.sticky.clone().map(|kind| ("--sticky", kind)));
        }
        flags
    }
}

fn listed(networks: &[Network]) -> Option<String> {
    let networks = networks.iter().map(ToString::to_string);
    let networks = networks.collect::<Vec<_>>().join(",");
    Some(networks).filter(|networks| !networks.is_empty())
}

impl Workers {
    /// The supervisor's default of `--stop-grace`.
    pub const STOP_GRACE: Duration = Duration::from_secs(10);

    /// The time from the stop signal to SIGKILL.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace.unwrap_or(Self::STOP_GRACE)
    }

    /// Flags of the supervisor for which the object has a value, with these values.
    pub fn optional_flags(&self) -> Vec<(&'static str, String)> {
        let Limits {
            memory,
            requests,
            age,
            silence,
            in_flight,
        } = self.limits;
        let time = |time| scaledapp_crds::Duration(time).to_string();
        let silence = silence.map(|silence| match silence {
            Duration::ZERO => "none".to_owned(),
            silence => time(silence),
        });
        let ports = self.share.iter().map(ToString::to_string);
        let ports = ports.collect::<Vec<_>>().join(",");
        [
            ("--stop-grace", self.stop_grace.map(time)),
            ("--max-memory", memory.map(|bytes| bytes.to_string())),
            ("--max-requests", requests.map(|most| most.to_string())),
            ("--max-age", age.map(time)),
            ("--hang-timeout", silence),
            ("--max-in-flight", in_flight.map(|most| most.to_string())),
            ("--share", Some(ports).filter(|ports| !ports.is_empty())),
            ("--metrics-from", self.metrics_from.clone()),
            ("--increment-env", self.increment_env.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, value)| Some((flag, value?)))
        .collect()
    }

    /// Those flags of the supervisor without a value that the object turns on.
    pub fn switches(&self) -> Vec<&'static str> {
        [
            ("--wait-ready", self.readiness.message),
            ("--shutdown-message", self.shutdown_message),
        ]
        .into_iter()
        .filter_map(|(flag, is_asked_for)| is_asked_for.then_some(flag))
        .collect()
    }
}

/// When a worker counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Path that must answer 2xx or 3xx; `None`: it is enough that the worker listens.
    pub path: Option<String>,
    /// Whether the worker must also have sent the message `ready`.
    pub message: bool,
    /// A worker that takes longer than this is replaced.
    pub timeout: Duration,
}

/// The load balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balancers {
    /// The number of slots. Each has an address of its own.
    pub slots: NonZeroU32,
    /// Which pod gets a request.
    pub algorithm: Algorithm,
    /// How long a new pod gets a growing share of its requests.
    pub slow_start: Option<Duration>,
    /// Whether balancers prefer pods in their own zone.
    pub prefers_zone: bool,
    /// The balancers' timeouts.
    pub times: Times,
    /// Most client connections of one balancer.
    pub connections: Option<NonZeroU32>,
    /// Most client connections from one address.
    pub connections_per_address: Option<NonZeroU32>,
    /// Most requests per second from one address.
    pub requests_per_second_per_address: Option<NonZeroU32>,
    /// How many requests an address may send at once after a pause.
    pub request_burst_per_address: Option<NonZeroU32>,
    /// Largest body of a request, in bytes.
    pub body_size: Option<u64>,
    /// Which requests are logged.
    pub access_log: Option<AccessLog>,
    /// Slowest rate at which a client may send or read a body, in bytes per second; 0: any rate.
    pub body_rate: Option<u32>,
    /// Largest head of a request or an answer, in bytes.
    pub head_bytes: Option<u32>,
    /// Most fields in the head of a request or an answer.
    pub head_fields: Option<u32>,
    /// Whether HTTP/2 with clients is off.
    pub is_http1_only: bool,
    /// What the app speaks.
    pub app_protocol: AppProtocol,
}

/// Which requests the balancers log, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessLogFormat,
    /// How many percent of the requests are logged; `None`: the balancer's default.
    pub percent: Option<NonZeroU32>,
    /// Whether query strings are logged; `None`: the balancer's default.
    pub has_query: Option<bool>,
}

impl AccessLog {
    /// Flags of the balancer.
    fn flags(self) -> Vec<(&'static str, String)> {
        let format = match self.format {
            AccessLogFormat::JSON => "json",
            AccessLogFormat::Combined => "combined",
        };
        let mut flags = vec![("--access-log", format.to_owned())];
        let percent = self.percent.map(|percent| percent.to_string());
        flags.extend(percent.map(|percent| ("--access-log-sample", percent)));
        let query = self.has_query.map(|query| query.to_string());
        flags.extend(query.map(|query| ("--access-log-query", query)));
        flags
    }
}

/// Timeouts of the balancers; `None`: the balancer's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// To receive a request's head.
    pub head: Option<Duration>,
    /// To receive a request's whole body.
    pub body: Option<Duration>,
    /// To receive an answer's head.
    pub answer: Option<Duration>,
    /// Between two bytes of a body.
    pub stall: Option<Duration>,
    /// Between two bytes of an event stream.
    pub stream: Option<Duration>,
    /// Between two bytes of an upgraded connection.
    pub upgrade: Option<Duration>,
    /// Between two requests on a connection.
    pub idle: Option<Duration>,
    /// To finish the answer to a client that has closed its sending side.
    pub half_close: Option<Duration>,
}

impl Balancers {
    /// Flags of the balancer for which the object has a value.
    pub fn optional_flags(&self) -> Vec<(&'static str, String)> {
        let Times {
            head,
            body,
            answer,
            stall,
            stream,
            upgrade,
            idle,
            half_close,
        } = self.times;
        let times = [
            ("--head-time", head),
            ("--body-time", body),
            ("--answer-time", answer),
            ("--stall-time", stall),
            ("--stream-time", stream),
            ("--upgrade-time", upgrade),
            ("--idle-time", idle),
            ("--half-close-time", half_close),
        ];
        let mut flags = given(&[("--slow-start", self.slow_start)]);
        flags.extend(given(&times));
        let numbers = [
            ("--connections", self.connections.map(NonZeroU32::get)),
            (
                "--connections-per-address",
                self.connections_per_address.map(NonZeroU32::get),
            ),
            (
                "--requests-per-second-per-address",
                self.requests_per_second_per_address.map(NonZeroU32::get),
            ),
            (
                "--request-burst-per-address",
                self.request_burst_per_address.map(NonZeroU32::get),
            ),
        ];
        flags.extend(counts(&numbers));
        let body_size = self.body_size.map(|bytes| bytes.to_string());
        flags.extend(body_size.map(|bytes| ("--body-size", bytes)));
        flags.extend(self.access_log.into_iter().flat_map(AccessLog::flags));
        flags.extend(counts(&self.passed_on()));
        if self.is_http1_only {
            flags.push(("--h2", "false".to_owned()));
        }
        flags.extend(self.app_protocol());
        flags
    }

    /// The flag for the app's protocol; `None` for HTTP/1. The balancer and the dispatcher have the
    /// same flag.
    fn app_protocol(&self) -> Option<(&'static str, String)> {
        let protocol = match self.app_protocol {
            AppProtocol::Http => return None,
            AppProtocol::H2c => "h2c",
            AppProtocol::Tcp => "tcp",
        };
        Some(("--protocol", protocol.to_owned()))
    }

    /// Flags of the dispatcher in each pod. The dispatcher must not refuse what the
    /// balancers allow, nor give up earlier than they do.
    pub fn dispatcher_flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = given(&[
            ("--body-timeout", self.times.body),
            ("--answer-timeout", self.times.answer),
            ("--stall-timeout", self.times.stall),
            ("--stream-timeout", self.times.stream),
            ("--upgrade-timeout", self.times.upgrade),
        ]);
        flags.extend(counts(&self.passed_on()));
        flags.extend(self.app_protocol());
        flags
    }

    /// The limits for which balancer and dispatcher have a flag of the same name.
    fn passed_on(&self) -> [(&'static str, Option<u32>); 3] {
        [
            ("--body-rate", self.body_rate),
            ("--head-bytes", self.head_bytes),
            ("--head-fields", self.head_fields),
        ]
    }
}

fn counts(numbers: &[(&'static str, Option<u32>)]) -> Vec<(&'static str, String)> {
    let numbers = numbers.iter();
    numbers
        .filter_map(|(flag, number)| Some((*flag, (*number)?.to_string())))
        .collect()
}

fn given(times: &[(&'static str, Option<Duration>)]) -> Vec<(&'static str, String)> {
    let times = times.iter();
    times
        .filter_map(|(flag, time)| Some((*flag, scaledapp_crds::Duration((*time)?).to_string())))
        .collect()
}

/// The name in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The whole name; `None`: the default of the platform, which is one machine or a cluster.
    pub hostname: Option<Hostname>,
    /// How long resolvers may keep an answer; whole seconds.
    pub ttl: Duration,
}
