//! A `ScaledApp` that cannot be wrong: every value in its range, every absence
//! decided. Made by [`crate::validate`] only.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use scaledapp_crds::v1alpha1::{Algorithm, Dispatch};
use scaledapp_http1::Network;

use crate::Hostname;

/// The app, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedApp {
    /// Its name, an RFC 1123 label.
    pub name: String,
    /// The container image.
    pub image: String,
    /// Program and arguments of one worker; never empty.
    pub command: Vec<String>,
    /// Environment of each worker.
    pub env: Environment,
    /// As written; `None` leaves it to where the app runs.
    pub working_dir: Option<String>,
    /// The port that the app listens on.
    pub port: NonZeroU16,
    /// The port on which each pod's supervisor tells of itself.
    pub admin_port: NonZeroU16,
    /// What it speaks.
    pub protocol: Protocol,
    /// How many pods.
    pub pods: Pods,
    /// What runs in a pod.
    pub workers: Workers,
    /// Proxies in front whose word about clients the balancers believe.
    pub forwarded_from: Vec<Network>,
    /// Whether amounts of CPU or memory are asked for or limited.
    pub has_resources: bool,
    /// Its name in DNS; `None` leaves it to where the app runs.
    pub dns: Dns,
}

/// Variables in the order written, with `$(NAME)` resolved.
pub type Environment = Vec<(String, String)>;

/// What an app speaks, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1, through balancers.
    Http(Balancers),
    /// Any protocol over TCP. No balancer passes it on yet: DNS names the pods.
    Tcp,
}

/// How many pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// On every node.
    PerNode(NonZeroU32),
    /// In all.
    Total(NonZeroU32),
}

/// How many workers in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCount {
    /// On every core.
    PerCore(NonZeroU32),
    /// In all.
    Count(NonZeroU32),
}

/// What runs in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// How many.
    pub count: WorkerCount,
    /// What is handed out to them.
    pub dispatch: Dispatch,
    /// When they count as ready.
    pub readiness: Readiness,
    /// How long what is in flight may take to end.
    pub drain_timeout: Duration,
    /// From the stop signal to SIGKILL; `None`: [`Workers::STOP_GRACE`].
    pub stop_grace: Option<Duration>,
    /// When one is replaced by itself.
    pub limits: Limits,
    /// Further ports that all of them serve.
    pub share: Vec<NonZeroU16>,
    /// Where their metrics are, such as `/metrics` or `9464/metrics`.
    pub metrics_from: Option<String>,
    /// Asks a worker to end; with its `SIG`.
    pub stop_signal: String,
    /// Whether a message asks it instead.
    pub shutdown_message: bool,
    /// Counts up from worker to worker.
    pub increment_env: Option<String>,
    /// Holds a worker's number.
    pub instance_env: String,
}

/// When a worker is replaced by itself; `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory that it may have.
    pub memory: Option<u64>,
    /// Requests that it may answer.
    pub requests: Option<u64>,
    /// For how long it may serve.
    pub age: Option<Duration>,
    /// For how long it may show no sign of life; zero: for ever.
    pub silence: Option<Duration>,
    /// Requests that it gets at once.
    pub in_flight: Option<NonZeroU32>,
}

impl ValidatedApp {
    /// Whether a dispatcher of ours stands in each pod, which a balancer can show that
    /// it is one of the app's. Under Connection dispatch the app itself would get it.
    pub fn asks_for_token(&self) -> bool {
        self.workers.dispatch == Dispatch::Request
    }

    /// The value of `--forwarded-from`; `None` where nobody is believed.
    pub fn forwarded_from(&self) -> Option<String> {
        let networks = self.forwarded_from.iter().map(ToString::to_string);
        let networks = networks.collect::<Vec<_>>().join(",");
        Some(networks).filter(|networks| !networks.is_empty())
    }

    /// Flags of the supervisor that are given only where something is asked for: of
    /// the workers, and of the dispatcher where there is one.
    pub fn supervisor_flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = self.workers.optional_flags();
        if let (Protocol::Http(balancers), Dispatch::Request) =
            (self.protocol, self.workers.dispatch)
        {
            flags.extend(balancers.dispatcher_flags());
        }
        flags
    }
}

impl Workers {
    /// The supervisor's default of `--stop-grace`.
    pub const STOP_GRACE: Duration = Duration::from_secs(10);

    /// From the stop signal to SIGKILL.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace.unwrap_or(Self::STOP_GRACE)
    }

    /// Flags of the supervisor that are given only where something is asked for,
    /// with their values.
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

    /// Flags of the supervisor that have no value and are asked for.
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
    /// Path that must answer 2xx or 3xx; `None`: it must listen.
    pub path: Option<String>,
    /// Whether it must have sent the message `ready`, too.
    pub message: bool,
    /// A worker that is not ready by then is replaced.
    pub timeout: Duration,
}

/// The load balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balancers {
    /// How many slots, each with an address of its own.
    pub slots: NonZeroU32,
    /// Which pod gets a request.
    pub algorithm: Algorithm,
    /// How long they wait.
    pub times: Times,
    /// Client connections of one of them.
    pub connections: Option<NonZeroU32>,
    /// Of these, from one address.
    pub connections_per_address: Option<NonZeroU32>,
    /// Bytes per second that a client must send or take of a body; 0: any.
    pub body_rate: Option<u32>,
    /// Bytes of a head, of requests and of answers.
    pub head_bytes: Option<u32>,
    /// Fields of a head, of requests and of answers.
    pub head_fields: Option<u32>,
}

/// How long balancers wait; `None`: their default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// For a request's head.
    pub head: Option<Duration>,
    /// For all of a request's body.
    pub body: Option<Duration>,
    /// For an answer's head.
    pub answer: Option<Duration>,
    /// Between two bytes of a body.
    pub stall: Option<Duration>,
    /// Silence of an event stream.
    pub stream: Option<Duration>,
    /// Silence of an upgraded connection.
    pub upgrade: Option<Duration>,
    /// Between two requests of a connection.
    pub idle: Option<Duration>,
    /// For the answer of a client that has ended its side.
    pub half_close: Option<Duration>,
}

impl Balancers {
    /// Flags of the balancer that are given only where something is asked for.
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
        let mut flags = given(&times);
        let numbers = [
            ("--connections", self.connections.map(NonZeroU32::get)),
            (
                "--connections-per-address",
                self.connections_per_address.map(NonZeroU32::get),
            ),
        ];
        flags.extend(counts(&numbers));
        flags.extend(counts(&self.passed_on()));
        flags
    }

    /// Flags of the dispatcher in each pod: what the balancers allow must not be
    /// refused there, and what they wait for must not end earlier.
    pub fn dispatcher_flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = given(&[
            ("--body-timeout", self.times.body),
            ("--answer-timeout", self.times.answer),
            ("--stall-timeout", self.times.stall),
            ("--stream-timeout", self.times.stream),
            ("--upgrade-timeout", self.times.upgrade),
        ]);
        flags.extend(counts(&self.passed_on()));
        flags
    }

    /// What both hops have a flag of the same name for.
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
    /// The whole name; `None` leaves it to where the app runs.
    pub hostname: Option<Hostname>,
    /// How long resolvers may keep an answer; whole seconds.
    pub ttl: Duration,
}
