//! How flags, variables and the config file become one [`Settings`]: which of them wins,
//! what the defaults are, and which combinations are refused.

mod tcp;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::time::Duration;

use scaledapp_proxy::{Algorithm, Config, HeadLimitError, Limits, Network, UpstreamProtocol};
use scaledapp_tls::{Alpn, Pair};

use crate::cli::{AlgorithmArg, ClientMode, Options, ProtocolArg, RunArgs, Time, TlsVersion};
use crate::discovery::cluster::ServiceName;

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
                http2: options.h2.unwrap_or(true),
                sticky: options.sticky.map(|kind| kind.0),
                upstream: match options.protocol {
                    None | Some(ProtocolArg::Http) => UpstreamProtocol::Http1,
                    Some(ProtocolArg::H2c) => UpstreamProtocol::Http2,
                    Some(ProtocolArg::Tcp) => UpstreamProtocol::Tcp,
                },
                sends_proxy_header: options.proxy_protocol_to_servers == Some(true),
                ..Config::balancer()
            },
            forwarded_from: options.forwarded_from.iter().map(|one| one.0).collect(),
            announced_from: options
                .proxy_protocol_from
                .iter()
                .map(|one| one.0)
                .collect(),
            trust_token_file: options.trust_token_file,
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
        algorithm,
        threads,
        drain_min,
        drain_quiet,
        drain_timeout,
        connections,
        connections_per_address,
        waiting,
        waiting_time,
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
        waiting: options.waiting.unwrap_or(default.waiting),
        // Zero is allowed: requests without a server get 503 immediately.
        waiting_time: options
            .waiting_time
            .map_or(default.waiting_time, |time| time.0),
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
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    pub(super) const LISTEN: &str = "--listen=127.0.0.1:8080";
    pub(super) const UPSTREAM: &str = "--upstream=10.0.0.1:3000";

    pub(super) fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let words = ["scaledapp-balancer", "run"].iter().chain(arguments);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Run(args) = cli.command;
        Settings::resolve(*args).map_err(|error| error.to_string())
    }

    pub(super) fn with_file(json: &str, arguments: &[&str]) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        let config = format!("--config={}", file.path().display());
        settings(&[&[config.as_str()], arguments].concat())
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_defaults_are_those_that_the_help_states() {
        let settings = settings(&[LISTEN, UPSTREAM]).unwrap();
        assert_eq!(settings.admin, Some(address("127.0.0.1:9377")));
        let drain = Drain {
            min: Duration::from_secs(10),
            quiet: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
        };
        assert_eq!(settings.drain, drain);
        assert!(settings.forwarding.threads >= 1);
        let expected = Config {
            threads: settings.forwarding.threads,
            ..Config::balancer()
        };
        assert_eq!(settings.forwarding, expected);
        // The numbers that the help states.
        let limits = settings.forwarding.limits;
        let numbers = [
            limits.connections,
            limits.waiting,
            limits.attempts,
            limits.retry_percent,
            limits.upstream_idle as u32,
        ];
        assert_eq!(numbers, [16384, 1024, 4, 20, 256]);
        let times = [
            limits.waiting_time,
            limits.head_time,
            limits.idle_time,
            limits.connect_time,
            limits.upstream_idle_time,
        ];
        assert_eq!(times.map(|time| time.as_secs()), [10, 10, 75, 3, 4]);
        let times = [
            limits.answer_time,
            limits.stall_time,
            limits.stream_time,
            limits.upgrade_time,
            limits.body_time,
        ];
        let minutes = times.map(|time| time.as_secs() / 60);
        assert_eq!(minutes, [5, 5, 60, 60, 360]);
        assert_eq!(limits.half_close_time, Duration::from_millis(500));
        assert_eq!(limits.body_rate, 500);
        let heads = [limits.request_head, limits.answer_head];
        assert_eq!(heads.map(|head| head.head_bytes), [65_536, 262_144]);
        assert_eq!(heads.map(|head| head.fields), [1000; 2]);
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let json = r#"{"listen":"127.0.0.1:1","upstream":["10.0.0.7:1","10.0.0.8:1"],"admin":"none",
            "algorithm":"round-robin","threads":3,"drainMin":"1s","drainTimeout":"1m","connections":7,
            "connectionsPerAddress":5,"waitingTime":"0s","stallTime":"5s","answerTime":"6s","halfCloseTime":"0s","bodyRate":0,"headBytes":8192}"#;
        let settings = with_file(
            json,
            &[LISTEN, UPSTREAM, "--algorithm=hash", "--drain-min=3s"],
        )
        .unwrap();
        assert_eq!(settings.listen, address("127.0.0.1:8080"));
        assert_eq!(settings.upstreams, [address("10.0.0.1:3000")]);
        assert_eq!(settings.admin, None);
        assert_eq!(settings.drain.min, Duration::from_secs(3));
        assert_eq!(settings.drain.timeout, Duration::from_mins(1));
        let Config {
            threads,
            algorithm,
            limits,
            fits_connections,
            ..
        } = settings.forwarding;
        assert!(!fits_connections, "a given number is not lowered");
        assert_eq!((threads, algorithm), (3, Algorithm::Hash));
        assert_eq!((limits.connections, limits.waiting), (7, 1024));
        assert_eq!(limits.connections_per_address, NonZeroU32::new(5));
        assert_eq!(limits.waiting_time, Duration::ZERO);
        assert_eq!(limits.stall_time, Duration::from_secs(5));
        assert_eq!(limits.answer_time, Duration::from_secs(6));
        assert_eq!(limits.half_close_time, Duration::ZERO);
        assert_eq!(limits.body_rate, 0);
        let heads = [limits.request_head, limits.answer_head];
        assert_eq!(heads.map(|head| head.head_bytes), [8192; 2]);
        let file_only = with_file(json, &[]).unwrap();
        assert_eq!(file_only.listen, address("127.0.0.1:1"));
        assert_eq!(
            file_only.upstreams,
            [address("10.0.0.7:1"), address("10.0.0.8:1")]
        );
        assert_eq!(file_only.forwarding.algorithm, Algorithm::RoundRobin);
    }

    #[test]
    fn networks_of_the_flag_replace_those_of_the_file() {
        let json = r#"{"forwardedFrom":["10.0.0.0/8"],"trustTokenFile":"/t"}"#;
        let texts = |arguments: &[&str]| {
            let settings = with_file(json, arguments).unwrap();
            assert_eq!(settings.trust_token_file.as_deref(), Some(Path::new("/t")));
            let networks = settings.forwarded_from.iter();
            networks.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(&[LISTEN, UPSTREAM]), ["10.0.0.0/8"]);
        let flag = "--forwarded-from=fd00::/8,::ffff:192.0.2.7";
        let both = texts(&[LISTEN, UPSTREAM, flag, "--forwarded-from=192.0.2.9"]);
        assert_eq!(both, ["fd00::/8", "192.0.2.7/32", "192.0.2.9/32"]);
    }

    #[test]
    fn all_sources_of_endpoints_can_be_combined() {
        let settings = settings(&[
            LISTEN,
            "--upstream=10.0.0.1:1,[fd00::1]:1",
            UPSTREAM,
            "--endpoints-file=/e.json",
            "--endpoints-service=default/hello-pods",
        ])
        .unwrap();
        assert_eq!(settings.upstreams.len(), 3);
        assert_eq!(
            settings.endpoints_file.as_deref(),
            Some(Path::new("/e.json"))
        );
        let service = "default/hello-pods".parse().ok();
        assert_eq!(settings.endpoints_service, service);
        let file = with_file(r#"{"endpointsService":"default/hello-pods"}"#, &[LISTEN]);
        assert_eq!(file.unwrap().endpoints_service, service);
    }

    #[test]
    fn settings_that_cannot_be_used_are_refused_with_the_cure() {
        for (arguments, parts) in [
            (
                &[LISTEN][..],
                &[
                    "--upstream ADDR",
                    "--endpoints-file FILE",
                    "--endpoints-service N",
                ][..],
            ),
            (&[UPSTREAM], &["--listen ADDR"]),
            (
                &[LISTEN, UPSTREAM, UPSTREAM],
                &["10.0.0.1:3000 is given twice"],
            ),
            (&[LISTEN, "--upstream=127.0.0.1:8080"], &["in a loop"]),
            (
                &[LISTEN, "--upstream=app:3000"],
                &["Host names are not looked up", "--endpoints-file"],
            ),
            (&[LISTEN, "--upstream=10.0.0.1"], &["such as 10.0.0.1:3000"]),
            (&[LISTEN, "--upstream=10.0.0.1:0"], &["port 0"]),
            (
                &[LISTEN, UPSTREAM, "--admin=9377"],
                &["such as 127.0.0.1:9377"],
            ),
            (
                &[LISTEN, "--endpoints-service=hello"],
                &["such as default/hello-pods"],
            ),
            (&[LISTEN, UPSTREAM, "--drain-min=5"], &["such as 500ms"]),
            (&[LISTEN, UPSTREAM, "--head-time=0s"], &["--head-time 0s"]),
            (
                &[LISTEN, UPSTREAM, "--answer-time=0s"],
                &["--answer-time 0s"],
            ),
            (
                &[LISTEN, UPSTREAM, "--head-bytes=1"],
                &["--head-bytes 1 ", "4096"],
            ),
            (
                &[LISTEN, UPSTREAM, "--head-fields=1"],
                &["--head-fields 1 "],
            ),
            (
                &[LISTEN, UPSTREAM, "--forwarded-from=10.0.0.0/8,10.0.0.1/8"],
                &["--forwarded-from", "give 10.0.0.0/8 for the whole network"],
            ),
            (
                &[LISTEN, UPSTREAM, "--forwarded-from=proxy.example"],
                &["names are not looked up"],
            ),
            (&[LISTEN, UPSTREAM, "--threads=0"], &["--threads"]),
            (&[LISTEN, UPSTREAM, "--algorithm=best"], &["least-request"]),
            (&["--config=/no/such"], &["--config file /no/such"]),
        ] {
            let message = settings(arguments).unwrap_err();
            for part in parts {
                assert!(message.contains(part), "{arguments:?}: {message}");
            }
        }
    }

    #[test]
    fn a_wrong_file_is_refused_by_key() {
        for (json, part) in [
            (r#"{"upstreams":[]}"#, "unknown field `upstreams`"),
            (r#"{"drainMin":"5"}"#, "drainMin: \"5\" is not a duration"),
            (r#"{"drainMin":5}"#, "drainMin: invalid type"),
            (
                r#"{"upstream":["app:80"]}"#,
                "upstream[0]: \"app:80\" is not IP:PORT",
            ),
            (
                r#"{"forwardedFrom":["10.0.0.0/8","10/8"]}"#,
                "forwardedFrom[1]: \"10/8\" is neither a network",
            ),
            (r#"{"connections":0}"#, "connections: invalid value"),
            (
                r#"{"algorithm":"best"}"#,
                "algorithm: unknown variant `best`",
            ),
            ("{} {}", "trailing characters"),
            ("7", "invalid type"),
        ] {
            let message = with_file(json, &[LISTEN, UPSTREAM]).unwrap_err();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
