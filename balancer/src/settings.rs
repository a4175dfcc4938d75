//! How flags, variables and the config file become one [`Settings`]: which of them wins,
//! what the defaults are, and which combinations are refused.

mod tcp;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

use scaledapp_proxy::{
    AccessFormat, AccessLog, Algorithm, Config, HeadLimitError, Hold, Limits, Network, RequestRate,
    UpstreamProtocol,
};
use scaledapp_tls::{Alpn, Pair};

use crate::cli::{
    AccessLogArg, AlgorithmArg, ClientMode, Options, ProtocolArg, RunArgs, Time, TlsVersion,
};
use crate::discovery::cluster::ServiceName;
use crate::fleet::Place;

/// How long a balancer that shuts down accepts connections at least: Services and
/// resolvers learn seconds late that it shuts down.
const DRAIN_MIN: Duration = Duration::from_secs(10);
/// After this long without a new connection, all clients are assumed to know that the
/// balancer shuts down.
const DRAIN_QUIET: Duration = Duration::from_secs(2);
/// How long requests in flight may continue: the default time between SIGTERM and SIGKILL
/// in Kubernetes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What the balancer runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<Tls>,
    pub(crate) upstreams: Vec<SocketAddr>,
    pub(crate) endpoints_file: Option<PathBuf>,
    pub(crate) endpoints_service: Option<ServiceName>,
    pub(crate) admin: Option<SocketAddr>,
    /// The user has chosen the address, so a failure to bind it is an error.
    pub(crate) admin_is_asked_for: bool,
    pub(crate) drain: Drain,
    pub(crate) forwarding: Config,
    /// Proxies that are believed about their clients.
    pub(crate) forwarded_from: Vec<Network>,
    /// Proxies whose connections must begin with a PROXY header.
    pub(crate) announced_from: Vec<Network>,
    /// The file with the token that is sent to supervisors.
    pub(crate) trust_token_file: Option<PathBuf>,
    /// The directory of error pages.
    pub(crate) error_pages: Option<PathBuf>,
    pub(crate) place: Place,
}

/// What is encrypted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) pairs: Vec<Pair>,
    /// The address for https; `None`: https is served on the address of the listener,
    /// instead of http.
    pub(crate) listen: Option<SocketAddr>,
    /// Requests of the listener are redirected to https at this port.
    pub(crate) redirect: Option<u16>,
    /// TLS 1.2 is refused.
    pub(crate) is_13_only: bool,
    /// The file of the authorities whose certificates clients present.
    pub(crate) client_authorities: Option<PathBuf>,
    /// A client without a certificate is accepted.
    pub(crate) clients_are_optional: bool,
    /// What is offered inside TLS.
    pub(crate) alpn: Alpn,
}

/// The times of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) min: Duration,
    pub(crate) quiet: Duration,
    pub(crate) timeout: Duration,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("cannot read the --config file {0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("the --config file {0} cannot be used: {1}")]
    Config(PathBuf, serde_path_to_error::Error<serde_json::Error>),
    #[error("no address to serve on: give --listen ADDR, such as --listen 0.0.0.0:8080")]
    NoListen,
    #[error(
        "no server to send requests to: give --upstream ADDR (once for each server), --endpoints-file FILE or --endpoints-service NAMESPACE/NAME"
    )]
    NoUpstream,
    #[error("--upstream {0} is given twice: leave one out")]
    UpstreamTwice(SocketAddr),
    #[error(
        "--upstream {0} is the --listen address: requests would go round in a loop; give the address of a server"
    )]
    Loop(SocketAddr),
    #[error("--{0} 0s leaves no time for anything: give at least 1ms")]
    NoTime(&'static str),
    #[error("--{0} is of no use without a certificate: give --tls CERT:KEY")]
    NoCertificate(&'static str),
    #[error(
        "--tls-redirect redirects from --listen, which speaks https itself: give https an address of its own, --tls-listen ADDR"
    )]
    NothingToRedirect,
    #[error("--tls-client-mode is of no use without the authorities: give --tls-client-ca FILE")]
    NoAuthorities,
    #[error(
        "--tls-listen {0} is the --listen address: give another port, or leave --tls-listen out"
    )]
    SameAddress(SocketAddr),
    #[error("--{0} is of no use without the log: give --access-log json or combined")]
    NoAccessLog(&'static str),
    #[error(
        "--request-burst-per-address is of no use without a rate: give --requests-per-second-per-address N"
    )]
    NoRate,
    #[error("--{0} is of no use without a time: give --hold TIME, such as --hold 2m")]
    NoHold(&'static str),
    #[error("--access-log-sample {0} is out of range: give 1 to 100 percent")]
    Sample(u8),
    #[error(transparent)]
    Protocol(#[from] tcp::ProtocolError),
    #[error(transparent)]
    Head(#[from] HeadLimitError),
}

impl Settings {
    pub(crate) fn resolve(args: RunArgs) -> Result<Self, UsageError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => Options::default(),
        };
        Self::from_options(merge(args.options, file))
    }

    fn from_options(options: Options) -> Result<Self, UsageError> {
        let listen = options.listen.ok_or(UsageError::NoListen)?;
        let upstreams: Vec<SocketAddr> = options.upstream.iter().map(|target| target.0).collect();
        let is_watching = options.endpoints_file.is_some() || options.endpoints_service.is_some();
        if upstreams.is_empty() && !is_watching {
            return Err(UsageError::NoUpstream);
        }
        for (at, upstream) in upstreams.iter().enumerate() {
            if upstreams[..at].contains(upstream) {
                return Err(UsageError::UpstreamTwice(*upstream));
            }
            if *upstream == listen {
                return Err(UsageError::Loop(*upstream));
            }
        }
        tcp::check(&options)?;
        let time = |time: Option<Time>, default| time.map_or(default, |time| time.0);
        Ok(Self {
            listen,
            tls: tls(&options, listen)?,
            upstreams,
            admin_is_asked_for: options.admin.is_some(),
            admin: options.admin.map_or_else(
                || Some(SocketAddr::from(([127, 0, 0, 1], 9377))),
                |arg| arg.0,
            ),
            drain: Drain {
                min: time(options.drain_min, DRAIN_MIN),
                quiet: time(options.drain_quiet, DRAIN_QUIET),
                timeout: time(options.drain_timeout, DRAIN_TIMEOUT),
            },
            forwarding: Config {
                threads: threads(options.threads),
                algorithm: options.algorithm.map_or_else(Algorithm::default, algorithm),
                limits: limits(&options)?,
                // A number that the user has given is not lowered.
                fits_connections: options.connections.is_none(),
                hsts: options.hsts.map(|time| time.0),
                access_log: access_log(&options)?,
                http2: options.h2.unwrap_or(true),
                sticky: options.sticky.map(|kind| kind.0),
                upstream: match options.protocol {
                    None | Some(ProtocolArg::Http) => UpstreamProtocol::Http1,
                    Some(ProtocolArg::H2c) => UpstreamProtocol::Http2,
                    Some(ProtocolArg::Tcp) => UpstreamProtocol::Tcp,
                },
                sends_proxy_header: options.proxy_protocol_to_servers == Some(true),
                slow_start: time(options.slow_start, Config::balancer().slow_start),
                ..Config::balancer()
            },
            place: Place {
                zone: named(options.zone),
                node: named(options.node),
            },
            forwarded_from: options.forwarded_from.iter().map(|one| one.0).collect(),
            announced_from: options
                .proxy_protocol_from
                .iter()
                .map(|one| one.0)
                .collect(),
            trust_token_file: options.trust_token_file,
            error_pages: options.error_pages,
            endpoints_file: options.endpoints_file,
            endpoints_service: options.endpoints_service,
        })
    }
}

fn read(path: &Path) -> Result<Options, UsageError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsageError::Unreadable(path.to_owned(), error))?;
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let broken = |error| UsageError::Config(path.to_owned(), error);
    let options = serde_path_to_error::deserialize(&mut deserializer).map_err(broken)?;
    let track = serde_path_to_error::Track::new();
    deserializer
        .end()
        .map_err(|error| broken(serde_path_to_error::Error::new(track.path(), error)))?;
    Ok(options)
}

/// Flags win over the file. clap has already put the values of the variables into the
/// flags.
fn merge(flags: Options, file: Options) -> Options {
    macro_rules! first {
        ($($name:ident),+ $(,)?) => {
            Options {
                upstream: if flags.upstream.is_empty() { file.upstream } else { flags.upstream },
                forwarded_from: if flags.forwarded_from.is_empty() {
                    file.forwarded_from
                } else {
                    flags.forwarded_from
                },
                proxy_protocol_from: if flags.proxy_protocol_from.is_empty() {
                    file.proxy_protocol_from
                } else {
                    flags.proxy_protocol_from
                },
                tls: if flags.tls.is_empty() { file.tls } else { flags.tls },
                $($name: flags.$name.or(file.$name)),+
            }
        };
    }
    first!(
        listen,
        tls_listen,
        tls_redirect,
        tls_min_version,
        tls_client_ca,
        tls_client_mode,
        h2,
        protocol,
        sticky,
        hsts,
        endpoints_file,
        endpoints_service,
        admin,
        proxy_protocol_to_servers,
        trust_token_file,
        access_log,
        access_log_sample,
        access_log_query,
        error_pages,
        algorithm,
        slow_start,
        zone,
        node,
        threads,
        drain_min,
        drain_quiet,
        drain_timeout,
        connections,
        connections_per_address,
        requests_per_second_per_address,
        request_burst_per_address,
        body_size,
        waiting,
        waiting_time,
        hold,
        hold_requests,
        hold_bytes,
        head_time,
        idle_time,
        connect_time,
        answer_time,
        stall_time,
        stream_time,
        upgrade_time,
        body_time,
        body_rate,
        half_close_time,
        head_bytes,
        head_fields,
        upstream_idle_time,
        upstream_idle,
        attempts,
        retry_percent,
    )
}

/// What the flags say about TLS; `None` if it is off.
fn tls(options: &Options, listen: SocketAddr) -> Result<Option<Tls>, UsageError> {
    let needs = [
        ("tls-listen", options.tls_listen.is_some()),
        ("tls-redirect", options.tls_redirect.is_some()),
        ("tls-min-version", options.tls_min_version.is_some()),
        ("tls-client-ca", options.tls_client_ca.is_some()),
        ("tls-client-mode", options.tls_client_mode.is_some()),
        ("hsts", options.hsts.is_some()),
    ];
    if options.tls.is_empty() {
        let stray = needs.iter().find(|(_, is_given)| *is_given);
        return stray.map_or(Ok(None), |(name, _)| Err(UsageError::NoCertificate(name)));
    }
    if options.tls_redirect.is_some() && options.tls_listen.is_none() {
        return Err(UsageError::NothingToRedirect);
    }
    if options.tls_client_mode.is_some() && options.tls_client_ca.is_none() {
        return Err(UsageError::NoAuthorities);
    }
    if options.tls_listen == Some(listen) && listen.port() != 0 {
        return Err(UsageError::SameAddress(listen));
    }
    Ok(Some(Tls {
        pairs: options.tls.iter().map(|files| files.0.clone()).collect(),
        listen: options.tls_listen,
        redirect: options.tls_redirect.map(NonZeroU16::get),
        is_13_only: options.tls_min_version == Some(TlsVersion::Tls13),
        client_authorities: options.tls_client_ca.clone(),
        clients_are_optional: options.tls_client_mode == Some(ClientMode::Optional),
        alpn: match options.protocol {
            Some(ProtocolArg::Tcp) => Alpn::None,
            _ if options.h2 == Some(false) => Alpn::Http1,
            _ => Alpn::Http2,
        },
    }))
}

/// What the flags say about the access log; `None` if it is off.
fn access_log(options: &Options) -> Result<Option<AccessLog>, UsageError> {
    let Some(format) = options.access_log else {
        return if options.access_log_sample.is_some() {
            Err(UsageError::NoAccessLog("access-log-sample"))
        } else if options.access_log_query.is_some() {
            Err(UsageError::NoAccessLog("access-log-query"))
        } else {
            Ok(None)
        };
    };
    // clap checks the flag, but not the key of the file.
    let percent = options.access_log_sample.unwrap_or(100);
    if !(1..=100).contains(&percent) {
        return Err(UsageError::Sample(percent));
    }
    Ok(Some(AccessLog {
        format: match format {
            AccessLogArg::Json => AccessFormat::Json,
            AccessLogArg::Combined => AccessFormat::Combined,
        },
        percent,
        has_query: options.access_log_query.unwrap_or(true),
    }))
}

/// A name that is not empty. In a cluster the variable of a name is set to the value of a label,
/// and is empty if there is no such label.
fn named(name: Option<String>) -> Option<String> {
    name.filter(|name| !name.is_empty())
}

fn threads(wanted: Option<NonZeroU16>) -> usize {
    // The smaller of CPU affinity and cgroup quota.
    let usable = || std::thread::available_parallelism().map_or(1, usize::from);
    wanted.map_or_else(usable, |threads| usize::from(threads.get()))
}

fn algorithm(arg: AlgorithmArg) -> Algorithm {
    match arg {
        AlgorithmArg::LeastRequest => Algorithm::LeastOfTwo,
        AlgorithmArg::RoundRobin => Algorithm::RoundRobin,
        AlgorithmArg::Random => Algorithm::Random,
        AlgorithmArg::Hash => Algorithm::Hash,
    }
}

/// How many requests an address may send; `None`: any number.
fn request_rate(options: &Options) -> Result<Option<RequestRate>, UsageError> {
    let burst = options.request_burst_per_address;
    match options.requests_per_second_per_address {
        None if burst.is_some() => Err(UsageError::NoRate),
        None => Ok(None),
        Some(per_second) => {
            let twice = per_second.saturating_add(per_second.get());
            let burst = burst.unwrap_or(twice);
            Ok(Some(RequestRate { per_second, burst }))
        }
    }
}

/// How requests are held while there is no server; `None` if they are not.
fn hold(options: &Options) -> Result<Option<Hold>, UsageError> {
    let time = options.hold.map(|time| time.0);
    let Some(time) = time.filter(|time| !time.is_zero()) else {
        let of_no_use = [
            ("hold-requests", options.hold_requests.is_some()),
            ("hold-bytes", options.hold_bytes.is_some()),
        ];
        let given = of_no_use.into_iter().find(|(_, given)| *given);
        return given.map_or(Ok(None), |(name, _)| Err(UsageError::NoHold(name)));
    };
    let requests = options.hold_requests.map_or(10_000, NonZeroU32::get);
    let bytes = options.hold_bytes.map_or(64 << 20, |size| size.0);
    Ok(Some(Hold {
        time,
        requests,
        bytes,
    }))
}

fn limits(options: &Options) -> Result<Limits, UsageError> {
    let default = Config::balancer()
        .limits
        .with_heads(options.head_bytes, options.head_fields)?;
    let number = |number: Option<NonZeroU32>, default| number.map_or(default, NonZeroU32::get);
    let time = |name, time: Option<Time>, default| match time {
        Some(Time(Duration::ZERO)) => Err(UsageError::NoTime(name)),
        Some(Time(time)) => Ok(time),
        None => Ok(default),
    };
    Ok(Limits {
        connections: number(options.connections, default.connections),
        connections_per_address: options.connections_per_address,
        request_rate: request_rate(options)?,
        body_bytes: options.body_size.map(|size| size.0),
        waiting: options.waiting.unwrap_or(default.waiting),
        // Zero is allowed: requests without a server get 503 immediately.
        waiting_time: options
            .waiting_time
            .map_or(default.waiting_time, |time| time.0),
        hold: hold(options)?,
        head_time: time("head-time", options.head_time, default.head_time)?,
        idle_time: time("idle-time", options.idle_time, default.idle_time)?,
        connect_time: time("connect-time", options.connect_time, default.connect_time)?,
        answer_time: time("answer-time", options.answer_time, default.answer_time)?,
        stall_time: time("stall-time", options.stall_time, default.stall_time)?,
        stream_time: time("stream-time", options.stream_time, default.stream_time)?,
        upgrade_time: time("upgrade-time", options.upgrade_time, default.upgrade_time)?,
        body_time: time("body-time", options.body_time, default.body_time)?,
        body_rate: options.body_rate.unwrap_or(default.body_rate),
        // Zero is allowed: a client that closes its sending side then ends its requests.
        half_close_time: options
            .half_close_time
            .map_or(default.half_close_time, |time| time.0),
        attempts: number(options.attempts, default.attempts),
        retry_percent: options.retry_percent.unwrap_or(default.retry_percent),
        // Zero is allowed: it turns the reuse of connections off.
        upstream_idle_time: options
            .upstream_idle_time
            .map_or(default.upstream_idle_time, |time| time.0),
        upstream_idle: options
            .upstream_idle
            .map_or(default.upstream_idle, |number| number as usize),
        ..default
    })
}

#[cfg(test)]
mod tests;
