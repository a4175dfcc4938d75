//! The command line of `scaledapp-balancer`: flags, their `SCALEDAPP_*` variables, and the keys of
//! the `--config` file, which are the flags' names in camelCase.
//!
//! Precedence and valid combinations are decided in [`crate::settings`].

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use scaledapp_proxy::{Network, NetworkError, Sticky, StickyError};
use scaledapp_runtime::cli::{AdminArg, listen_address};
use scaledapp_tls::Pair;
use scaledapp_units::{Size, SizeError, duration};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::discovery::check_target;
use crate::discovery::cluster::ServiceName;

const RUN_EXAMPLES: &str = r#"Examples:
  scaledapp-balancer run --listen 0.0.0.0:8080 --upstream 10.0.0.1:3000 --upstream 10.0.0.2:3000
  scaledapp-balancer run --listen [::]:8080 --endpoints-file endpoints.json --admin [::]:9377
  scaledapp-balancer run --listen [::]:8080 --endpoints-service default/hello-pods
  scaledapp-balancer run --config balancer.json --algorithm round-robin
  scaledapp-balancer run --listen [::]:80 --tls-listen [::]:443 --tls tls.crt:tls.key --tls-redirect --upstream 10.0.0.1:3000

Endpoints file (read again within 100 ms of a change; to replace it, rename a new file over it):
  [{"name": "pod-0", "address": "10.0.0.1:3000", "admin": "10.0.0.1:9377", "zone": "eu-1a"}]
  name     unique, for logs and /status
  address  IP:PORT where requests go
  admin    admin port of the pod's supervisor, which reports readiness, drain and
           load within milliseconds. Without it the pod counts as serving.
  zone     optional, compared with --zone
If the file cannot be read or used, the last good list stays in force. /readyz is
503 until there is a first good list.

Endpoints of a Service: its EndpointSlices are watched with the pod's service
account, or in the cluster of KUBECONFIG. Ports are found by name: "http" for
requests, "admin" (optional) as in the file. This needs list and watch of
endpointslices (discovery.k8s.io) in that namespace. The last list stays in force
while the API server is away.

Config file: a JSON object whose keys are these flags in camelCase, such as
  {"listen": "0.0.0.0:8080", "upstream": ["10.0.0.1:3000"], "drainTimeout": "1m"}
A flag wins over its SCALEDAPP_* variable, and the variable over the file.

Signals: TERM and INT turn /readyz to 503 at once and drain; a second one exits
immediately. HUP reads the endpoints file and the certificates again.
Exit codes: 0 stopped, 2 could not start, 64 usage."#;

/// HTTP load balancer that loses no request.
#[derive(Debug, Parser)]
#[command(name = "scaledapp-balancer", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Accept requests at one address and send each to one of several servers
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// JSON file with the same names as these flags (camelCase)
    #[arg(long, env = "SCALEDAPP_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// All settings. The flags with their variables and the config file share this type, so
/// that they cannot differ; `None` and an empty list mean "not given".
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Options {
    /// Address and port to serve on; the wildcard of IPv6 also accepts IPv4 clients
    #[arg(long, env = "SCALEDAPP_LISTEN", value_name = "ADDR", value_parser = listen_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Certificate and key for https, PEM files; repeat for more names (comma-separated in the variable). They are read again when they change
    #[arg(
        long,
        env = "SCALEDAPP_TLS",
        value_name = "CERT:KEY",
        value_delimiter = ','
    )]
    pub(crate) tls: Vec<CertificateFiles>,
    /// Address and port to serve https on; http stays on --listen [default: https on --listen, and no http]
    #[arg(long, env = "SCALEDAPP_TLS_LISTEN", value_name = "ADDR", value_parser = listen_address)]
    pub(crate) tls_listen: Option<SocketAddr>,
    /// Redirect requests on --listen to https at this port, as clients know it (308); not those for /.well-known/acme-challenge/
    #[arg(
        long,
        env = "SCALEDAPP_TLS_REDIRECT",
        value_name = "PORT",
        num_args = 0..=1,
        default_missing_value = "443",
        value_parser = public_port
    )]
    pub(crate) tls_redirect: Option<NonZeroU16>,
    /// Oldest version of TLS: 1.2 or 1.3 [default: 1.2]
    #[arg(long, env = "SCALEDAPP_TLS_MIN_VERSION", value_name = "VERSION")]
    pub(crate) tls_min_version: Option<TlsVersion>,
    /// PEM file of the authorities whose certificates clients must show. The certificate goes to servers as Client-Cert (RFC 9440)
    #[arg(long, env = "SCALEDAPP_TLS_CLIENT_CA", value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// What --tls-client-ca asks of clients [default: require]
    #[arg(long, env = "SCALEDAPP_TLS_CLIENT_MODE")]
    pub(crate) tls_client_mode: Option<ClientMode>,
    /// HTTP/2 with clients that ask for it, over TLS (ALPN) or at once (prior knowledge) [default: true]
    #[arg(
        long,
        env = "SCALEDAPP_H2",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub(crate) h2: Option<bool>,
    /// What the servers speak: http (HTTP/1.1), h2c (HTTP/2 without TLS), as gRPC needs it, or tcp (anything else: each connection goes to one server) [default: http]
    #[arg(long, env = "SCALEDAPP_PROTOCOL", value_name = "PROTOCOL")]
    pub(crate) protocol: Option<ProtocolArg>,
    /// How a client comes back to the same server: cookie, cookie:NAME, header:NAME or address [default: it does not]
    #[arg(long, env = "SCALEDAPP_STICKY", value_name = "KIND")]
    pub(crate) sticky: Option<StickyArg>,
    /// How long browsers must use https only; answers over https say it (Strict-Transport-Security) unless the server has sent this field itself
    #[arg(long, env = "SCALEDAPP_HSTS", value_name = "TIME")]
    pub(crate) hsts: Option<Time>,
    /// A server to send requests to; repeat for more (comma-separated in the variable)
    #[arg(
        long,
        env = "SCALEDAPP_UPSTREAM",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    pub(crate) upstream: Vec<Target>,
    /// JSON file of servers, watched for changes; its servers are used in addition to --upstream
    #[arg(long, env = "SCALEDAPP_ENDPOINTS_FILE", value_name = "FILE")]
    pub(crate) endpoints_file: Option<PathBuf>,
    /// A Service whose pods are the servers, watched in Kubernetes; used in addition to the two above
    #[arg(
        long,
        env = "SCALEDAPP_ENDPOINTS_SERVICE",
        value_name = "NAMESPACE/NAME"
    )]
    pub(crate) endpoints_service: Option<ServiceName>,
    /// Read-only HTTP port: /livez /readyz /status /metrics; "none" turns it off [default: 127.0.0.1:9377, if that is free]
    #[arg(long, env = "SCALEDAPP_ADMIN", value_name = "ADDR")]
    pub(crate) admin: Option<AdminArg>,
    /// Proxies in front, such as a TLS terminator, whose X-Forwarded-*, Forwarded and X-Request-Id are believed [default: none]
    #[arg(
        long,
        env = "SCALEDAPP_FORWARDED_FROM",
        value_name = "CIDR,…",
        value_delimiter = ','
    )]
    pub(crate) forwarded_from: Vec<Trusted>,
    /// Load balancers in front whose connections must begin with a PROXY header (version 1 or 2); the client's address is taken from it [default: none]
    #[arg(
        long,
        env = "SCALEDAPP_PROXY_PROTOCOL_FROM",
        value_name = "CIDR,…",
        value_delimiter = ','
    )]
    pub(crate) proxy_protocol_from: Vec<Trusted>,
    /// Begin each connection to a server with a PROXY header of version 2, which has the client's address; only with --protocol tcp [default: false]
    #[arg(
        long,
        env = "SCALEDAPP_PROXY_PROTOCOL_TO_SERVERS",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub(crate) proxy_protocol_to_servers: Option<bool>,
    /// File whose first line is the token that identifies this balancer to pods whose supervisor runs with --trust behind
    #[arg(long, env = "SCALEDAPP_TRUST_TOKEN_FILE", value_name = "FILE")]
    pub(crate) trust_token_file: Option<PathBuf>,
    /// Write a line on stdout for each finished request [default: none]
    #[arg(long, env = "SCALEDAPP_ACCESS_LOG", value_name = "FORMAT")]
    pub(crate) access_log: Option<AccessLogArg>,
    /// How many percent of the requests --access-log shows; those that fail (5xx) are always shown [default: 100]
    #[arg(long, env = "SCALEDAPP_ACCESS_LOG_SAMPLE", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) access_log_sample: Option<u8>,
    /// Whether --access-log shows query strings [default: true]
    #[arg(
        long,
        env = "SCALEDAPP_ACCESS_LOG_QUERY",
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub(crate) access_log_query: Option<bool>,
    /// Directory of pages for the balancer's own answers, such as 503.html or 5xx.json, read again within a second of a change [default: one word as text]
    #[arg(long, env = "SCALEDAPP_ERROR_PAGES", value_name = "DIR")]
    pub(crate) error_pages: Option<PathBuf>,
    /// Which server gets a request [default: least-request]
    #[arg(long, env = "SCALEDAPP_ALGORITHM")]
    pub(crate) algorithm: Option<AlgorithmArg>,
    /// How long a server that is new, or is back after an ejection, gets a growing share of its requests, from a tenth to all; 0s: all at once. Not with hash or --sticky, nor if all are equally new [default: 10s]
    #[arg(long, env = "SCALEDAPP_SLOW_START", value_name = "TIME")]
    pub(crate) slow_start: Option<Time>,
    /// The zone of this balancer: servers of the same zone get its requests until they are busy [default: zones do not matter]
    #[arg(long, env = "SCALEDAPP_ZONE", value_name = "NAME")]
    pub(crate) zone: Option<String>,
    /// The node of this balancer, in place of --zone: its zone is that of a server on the same node
    #[arg(long, env = "SCALEDAPP_NODE", value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Forwarding threads [default: one per usable core]
    #[arg(long, env = "SCALEDAPP_THREADS", value_name = "N")]
    pub(crate) threads: Option<NonZeroU16>,
    /// On TERM, keep accepting for at least this long, because clients and load balancers in front learn late that the balancer leaves [default: 10s]
    #[arg(long, env = "SCALEDAPP_DRAIN_MIN", value_name = "TIME")]
    pub(crate) drain_min: Option<Time>,
    /// After --drain-min, keep accepting until this long has passed without a new connection [default: 2s]
    #[arg(long, env = "SCALEDAPP_DRAIN_QUIET", value_name = "TIME")]
    pub(crate) drain_quiet: Option<Time>,
    /// Time from TERM until requests that are still in flight are cut off (never before --drain-min) [default: 30s]
    #[arg(long, env = "SCALEDAPP_DRAIN_TIMEOUT", value_name = "TIME")]
    pub(crate) drain_timeout: Option<Time>,
    /// Most client connections at once; beyond that, a new one replaces an idle one, or else one whose client has sent or read nothing for two seconds [default: 16384; fewer where memory or open files are too few]
    #[arg(long, env = "SCALEDAPP_CONNECTIONS", value_name = "N")]
    pub(crate) connections: Option<NonZeroU32>,
    /// Most client connections of one address at once; more get 503. Many clients may share one address [default: no limit]
    #[arg(long, env = "SCALEDAPP_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    pub(crate) connections_per_address: Option<NonZeroU32>,
    /// Most requests per second of one address, or of one IPv6 network of 64 bits; more get 429. Many clients may share one address [default: no limit]
    #[arg(
        long,
        env = "SCALEDAPP_REQUESTS_PER_SECOND_PER_ADDRESS",
        value_name = "N"
    )]
    pub(crate) requests_per_second_per_address: Option<NonZeroU32>,
    /// Requests that one address may send at once after a pause [default: twice --requests-per-second-per-address]
    #[arg(long, env = "SCALEDAPP_REQUEST_BURST_PER_ADDRESS", value_name = "N")]
    pub(crate) request_burst_per_address: Option<NonZeroU32>,
    /// Largest body of a request, in bytes or such as 10Mi; a larger one gets 413 [default: no limit]
    #[arg(long, env = "SCALEDAPP_BODY_SIZE", value_name = "SIZE")]
    pub(crate) body_size: Option<BodySize>,
    /// Most requests that may wait for a server at once; more get 503 [default: 1024]
    #[arg(long, env = "SCALEDAPP_WAITING", value_name = "N")]
    pub(crate) waiting: Option<u32>,
    /// How long a request waits for a server before it gets 503 [default: 10s]
    #[arg(long, env = "SCALEDAPP_WAITING_TIME", value_name = "TIME")]
    pub(crate) waiting_time: Option<Time>,
    /// How long a request may wait while there is no server at all, or none has been ready yet; 0s: --waiting and --waiting-time apply then as well [default: 0s]
    #[arg(long, env = "SCALEDAPP_HOLD", value_name = "TIME")]
    pub(crate) hold: Option<Time>,
    /// Most requests that may wait because of --hold; more get 503 [default: 10000]
    #[arg(long, env = "SCALEDAPP_HOLD_REQUESTS", value_name = "N")]
    pub(crate) hold_requests: Option<NonZeroU32>,
    /// Most memory for heads and bodies of requests that wait because of --hold, in bytes or such as 10Mi; requests beyond it get 503 [default: 64Mi]
    #[arg(long, env = "SCALEDAPP_HOLD_BYTES", value_name = "SIZE")]
    pub(crate) hold_bytes: Option<BodySize>,
    /// Time for a request's head, from its first byte to its last; a new connection has the same time for its first byte [default: 10s]
    #[arg(long, env = "SCALEDAPP_HEAD_TIME", value_name = "TIME")]
    pub(crate) head_time: Option<Time>,
    /// Time between two requests of one client connection [default: 75s]
    #[arg(long, env = "SCALEDAPP_IDLE_TIME", value_name = "TIME")]
    pub(crate) idle_time: Option<Time>,
    /// Time to open a connection to a server [default: 3s]
    #[arg(long, env = "SCALEDAPP_CONNECT_TIME", value_name = "TIME")]
    pub(crate) connect_time: Option<Time>,
    /// Time for the head of an answer once its request is sent; after that 504 [default: 5m]
    #[arg(long, env = "SCALEDAPP_ANSWER_TIME", value_name = "TIME")]
    pub(crate) answer_time: Option<Time>,
    /// Time between two bytes of a body, in either direction; with tcp: of a connection of which one side has ended [default: 5m]
    #[arg(long, env = "SCALEDAPP_STALL_TIME", value_name = "TIME")]
    pub(crate) stall_time: Option<Time>,
    /// The same as --stall-time, for answers that are streams, such as text/event-stream [default: 1h]
    #[arg(long, env = "SCALEDAPP_STREAM_TIME", value_name = "TIME")]
    pub(crate) stream_time: Option<Time>,
    /// How long both sides of an upgraded connection (a WebSocket) or, with tcp, of any connection may be silent [default: 1h]
    #[arg(long, env = "SCALEDAPP_UPGRADE_TIME", value_name = "TIME")]
    pub(crate) upgrade_time: Option<Time>,
    /// Total time spent waiting for the bytes of a request's body; after that 408 [default: 6h]
    #[arg(long, env = "SCALEDAPP_BODY_TIME", value_name = "TIME")]
    pub(crate) body_time: Option<Time>,
    /// Fewest bytes per second that a client must send or read of a body; 0: no minimum [default: 500]
    #[arg(long, env = "SCALEDAPP_BODY_RATE", value_name = "BYTES")]
    pub(crate) body_rate: Option<u32>,
    /// How long a client that has closed its sending side may wait for its answer; 0s: not at all [default: 500ms]
    #[arg(long, env = "SCALEDAPP_HALF_CLOSE_TIME", value_name = "TIME")]
    pub(crate) half_close_time: Option<Time>,
    /// Most bytes of a head, of requests (431 beyond) and answers (502 beyond); a request's target may take half of them [default: 65536 of a request, 262144 of an answer]
    #[arg(long, env = "SCALEDAPP_HEAD_BYTES", value_name = "BYTES")]
    pub(crate) head_bytes: Option<u32>,
    /// Most header fields of a request or an answer [default: 1000]
    #[arg(long, env = "SCALEDAPP_HEAD_FIELDS", value_name = "N")]
    pub(crate) head_fields: Option<u32>,
    /// Idle connections to servers are not used again after this long; it must be less than the servers' own limit [default: 4s]
    #[arg(long, env = "SCALEDAPP_UPSTREAM_IDLE_TIME", value_name = "TIME")]
    pub(crate) upstream_idle_time: Option<Time>,
    /// Most idle connections that each thread keeps to one server [default: 256]
    #[arg(long, env = "SCALEDAPP_UPSTREAM_IDLE", value_name = "N")]
    pub(crate) upstream_idle: Option<u32>,
    /// Most attempts for a request that may be sent again [default: 4]
    #[arg(long, env = "SCALEDAPP_ATTEMPTS", value_name = "N")]
    pub(crate) attempts: Option<NonZeroU32>,
    /// Retries in percent of requests; a few are always allowed [default: 20]
    #[arg(long, env = "SCALEDAPP_RETRY_PERCENT", value_name = "N")]
    pub(crate) retry_percent: Option<u32>,
}

/// `--sticky`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StickyArg(pub(crate) Sticky);

impl FromStr for StickyArg {
    type Err = StickyError;

    fn from_str(text: &str) -> Result<Self, StickyError> {
        text.parse().map(Self)
    }
}

/// `--algorithm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AlgorithmArg {
    /// The less busy of two random servers
    LeastRequest,
    /// Each server in turn
    RoundRobin,
    /// A random server
    Random,
    /// Always the same server for the same client address
    Hash,
}

/// `--access-log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AccessLogArg {
    /// One JSON object per line
    Json,
    /// The combined format of nginx
    Combined,
}

/// `--protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProtocolArg {
    /// HTTP/1.1
    Http,
    /// HTTP/2 without TLS, by prior knowledge
    H2c,
    /// Any protocol over TCP
    Tcp,
}

/// `--tls`: a certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFiles(pub(crate) Pair);

impl FromStr for CertificateFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

/// `--tls-min-version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
pub(crate) enum TlsVersion {
    /// TLS 1.2 and 1.3
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 alone
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    Tls13,
}

/// `--tls-client-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientMode {
    /// A certificate of one of the authorities
    Require,
    /// None, or one of the authorities
    Optional,
}

/// Parses the port at which clients reach https.
fn public_port(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not a port: give the one at which clients reach https, 1 to 65535")
    })
}

/// `--upstream`: where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target(pub(crate) SocketAddr);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse().map_err(|_| {
            format!(
                "{text:?} is not IP:PORT, such as 10.0.0.1:3000. Host names are not looked up: \
                 give the addresses, or list them in an --endpoints-file"
            )
        })?;
        check_target(address).map_err(|reason| format!("{address}: {reason}"))?;
        Ok(Self(address))
    }
}

/// `--forwarded-from`: proxies that are believed about their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trusted(pub(crate) Network);

impl FromStr for Trusted {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A number of bytes, such as that of `--body-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodySize(pub(crate) u64);

impl FromStr for BodySize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        text.parse::<Size>().map(|size| Self(size.0))
    }
}

/// A duration with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = duration::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        duration::parse(text).map(Self)
    }
}

macro_rules! deserialize_from_text {
    ($($name:ident),+) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        })+
    };
}
deserialize_from_text!(
    BodySize,
    CertificateFiles,
    ServiceName,
    StickyArg,
    Target,
    Time,
    Trusted
);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_a_key_of_the_file_and_has_a_variable() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let flags = run.get_arguments().filter_map(|flag| {
            let long = flag.get_long()?;
            (!matches!(long, "help" | "version")).then_some((long, flag))
        });
        for (long, flag) in flags {
            let variable = format!("SCALEDAPP_{}", long.to_ascii_uppercase().replace('-', "_"));
            assert_eq!(flag.get_env().unwrap(), variable.as_str());
            if long == "config" {
                continue;
            }
            let mut words = long.split('-');
            let mut key = words.next().unwrap().to_owned();
            for word in words {
                key.push_str(&word[..1].to_ascii_uppercase());
                key.push_str(&word[1..]);
            }
            // A wrong type, but a known key.
            let error = serde_json::from_str::<Options>(&format!(r#"{{"{key}":{{}}}}"#));
            let message = error.unwrap_err().to_string();
            assert!(!message.contains("unknown field"), "{key}: {message}");
        }
    }
}
