//! The command line of `scaledapp-dns`, and how it becomes [`Settings`]. Flags override
//! `SCALEDAPP_*` variables, which override the defaults here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use scaledapp_answers::{
    Authority, Binding, NAME_SERVER, Name, NameServer, Ownership, OwnershipError, Zone, ZoneError,
};
use scaledapp_runtime::cli::{AdminArg, NamespaceArgs, listen_address};
use scaledapp_units::duration;

/// Time to live of the zone's own records. Those of apps have their own.
const AUTHORITY_TTL: Duration = Duration::from_mins(1);

const RUN_EXAMPLES: &str = r#"Examples:
  scaledapp-dns run --listen 127.0.0.1:5353 --zone apps.local --records-file records.json
  dig @127.0.0.1 -p 5353 hello.apps.local
  scaledapp-dns run --listen [::]:53 --zone apps.example.com --records-file /etc/records.json \
      --ns ns1.apps.example.com=192.0.2.53 --ns ns2.apps.example.com=198.51.100.53 --admin [::]:9377
  scaledapp-dns run --listen [::]:53 --zone apps.example.com --scaledapps --admin [::]:9377 \
      --ns-service scaledapp-dns

Records file (re-read when another file is renamed over it):
  {"hello.apps.local.": {"ttl": 30, "addresses": ["127.0.77.1"], "probe": "tcp:8080"}}
  ttl        seconds [default: 30]
  addresses  IPv4 and IPv6; up to 8 of them, chosen and ordered at random, per answer
  probe      tcp:PORT: every 500 ms, a TCP connection to this port is tried. After
             two failures in a row the address is left out. Without a probe, all
             addresses count as healthy. If none is healthy, the last known ones
             are given with a TTL of 5 s.
A file that cannot be read or used changes nothing: the last good one stays in
force. Before the first good one, queries get SERVFAIL.

ScaledApps: the name is spec.dns.hostname, or status.hostname without it. Its
addresses are those of the slots that serve according to status.balancers and
accept TCP on port 80. The objects are watched with the pod's service account, or
in the cluster of KUBECONFIG. This needs list and watch of scaledapps
(scaledapp.io) in all namespaces, or in those of --watch-namespace. A namespace
that cannot be read does not affect the others, and is named at /status.
If two objects want a name, the older one gets it; names of --records-file come
before those of objects. The last set stays in force while the API server cannot
be reached. No object gets the apex, ns.ZONE or a name of --ns, and
--zone-namespaces binds zones below the apex to namespaces.

Delegation: the parent zone must name the same servers as --ns. A server in the
zone has the addresses given with --ns, or those of the Service of --ns-service:
the addresses of its load balancer, or its cluster IPs (this needs the right to
get the Service in the pod's namespace). A server without an address, such as
ns.ZONE when listening on a wildcard, can only be used by stub and forward zones.

When listening on 0.0.0.0 or [::], an answer leaves from the address that was
asked. TCP: at most 1024 connections, 100 of one client, 10 s idle. There is no
response-rate limit yet, no zone transfer and no DNSSEC.

Signals: after TERM or INT, /readyz is 503, and the server answers for another
--drain-min and exits; a second signal exits at once. HUP re-reads the records
file.
Exit codes: 0 stopped, 2 could not start, 64 usage."#;

/// Authoritative DNS server for the zone of the apps.
#[derive(Debug, Parser)]
#[command(name = "scaledapp-dns", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer for one zone over UDP and TCP
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Address and port for UDP and TCP; port 0 picks a port that is free for both
    #[arg(long, env = "SCALEDAPP_LISTEN", value_name = "ADDR", value_parser = listen_address)]
    listen: SocketAddr,
    /// The zone to answer for, such as apps.example.com
    #[arg(long, env = "SCALEDAPP_ZONE")]
    zone: Name,
    /// JSON file of names and addresses, watched for changes [default: none, the zone has no names]
    #[arg(long, env = "SCALEDAPP_RECORDS_FILE", value_name = "FILE")]
    records_file: Option<PathBuf>,
    /// Serve the names of all `ScaledApp` objects of the cluster, watched in Kubernetes
    #[arg(long, env = "SCALEDAPP_SCALEDAPPS")]
    scaledapps: bool,
    #[command(flatten)]
    namespaces: NamespaceArgs<Binding>,
    /// Read-only HTTP port: /livez /readyz /status /metrics; "none" turns it off
    #[arg(
        long,
        env = "SCALEDAPP_ADMIN",
        value_name = "ADDR",
        default_value = "none"
    )]
    admin: AdminArg,
    /// A name server of the zone, and one of its addresses; repeat for more of either. The first is
    /// the SOA's primary. Give no address for one outside the zone [default: ns.ZONE at the listen
    /// address]
    #[arg(
        long,
        env = "SCALEDAPP_NS",
        value_name = "NAME[=IP]",
        value_delimiter = ','
    )]
    ns: Vec<ServerArg>,
    /// A Service in this pod's namespace. Its addresses are those of the zone's servers for which
    /// --ns gives none; read every 5 s [default: none]
    #[arg(long, env = "SCALEDAPP_NS_SERVICE", value_name = "NAME")]
    ns_service: Option<String>,
    /// After TERM, keep answering for this long, because resolvers and Services notice late
    #[arg(
        long,
        env = "SCALEDAPP_DRAIN_MIN",
        value_name = "TIME",
        value_parser = duration::parse,
        default_value = "5s"
    )]
    drain_min: Duration,
}

/// `--ns`: a name and perhaps an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServerArg {
    name: Name,
    address: Option<IpAddr>,
}

impl FromStr for ServerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = match text.split_once('=') {
            None => (text, None),
            Some((name, address)) => (name, Some(address)),
        };
        let name = name.parse().map_err(|error| format!("{error}"))?;
        let address = address.map(str::parse).transpose().map_err(|_| {
            format!("{text:?} has no IP address after '=': write NAME=IP, such as ns1.apps.example.com=192.0.2.53")
        })?;
        Ok(Self { name, address })
    }
}

/// Why the flags do not fit together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error(
        "--ns {0} is in the zone: give its address as --ns {0}=IP, or a Service that has one as --ns-service NAME"
    )]
    NoAddress(Name),
    #[error("--zone and --ns do not fit: {0}")]
    Zone(#[from] ZoneError),
    #[error("--zone-namespaces: {0}")]
    Ownership(#[from] OwnershipError),
}

/// The validated settings of the server.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    /// Contains only the zone's own records.
    pub(crate) zone: Zone,
    /// The Service whose addresses `followers` have.
    pub(crate) service: Option<String>,
    /// Servers in the zone for which `--ns` gives no address.
    pub(crate) followers: Vec<Name>,
    pub(crate) records_file: Option<PathBuf>,
    pub(crate) scaledapps: bool,
    /// The namespaces to watch, without duplicates; empty for all.
    pub(crate) watch_namespaces: Vec<String>,
    /// Which namespace may have which name.
    pub(crate) ownership: Ownership,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) drain_min: Duration,
}

impl Settings {
    pub(crate) fn resolve(args: RunArgs) -> Result<Self, UsageError> {
        let RunArgs {
            listen,
            zone,
            records_file,
            scaledapps,
            namespaces,
            admin,
            ns,
            ns_service,
            drain_min,
        } = args;
        let service = ns_service.filter(|name| !name.is_empty());
        let at = match service {
            Some(_) => At::Service,
            None => At::Listen(listen.ip()),
        };
        let name_servers = name_servers(&zone, at, ns)?;
        let (watch_namespaces, bindings) = namespaces.into_parts();
        let names = name_servers.iter().map(|server| server.name.clone());
        let ownership = Ownership::new(Some(zone.clone()), bindings)?.with_servers(names);
        let is_follower = |server: &&NameServer| {
            service.is_some() && server.addresses.is_empty() && server.name.is_within(&zone)
        };
        let followers = name_servers.iter().filter(is_follower);
        let followers: Vec<Name> = followers.map(|server| server.name.clone()).collect();
        let authority = Authority {
            serial: 1,
            ttl: AUTHORITY_TTL,
            name_servers,
        };
        let zone = Zone::new(zone, authority)?;
        Ok(Self {
            listen,
            zone,
            service: service.filter(|_| !followers.is_empty()),
            followers,
            records_file,
            scaledapps,
            watch_namespaces,
            ownership,
            admin: admin.0,
            drain_min,
        })
    }
}

/// Where to take the address of a server for which none was given.
#[derive(Debug, Clone, Copy)]
enum At {
    Listen(IpAddr),
    Service,
}

fn name_servers(
    apex: &Name,
    at: At,
    arguments: Vec<ServerArg>,
) -> Result<Vec<NameServer>, UsageError> {
    let mut servers: Vec<NameServer> = Vec::new();
    for ServerArg { name, address } in arguments {
        match servers.iter_mut().find(|server| server.name == name) {
            Some(server) => server.addresses.extend(address),
            None => servers.push(NameServer {
                name,
                addresses: address.into_iter().collect(),
            }),
        }
    }
    if matches!(at, At::Listen(_)) {
        let mut servers = servers.iter();
        let nowhere =
            servers.find(|server| server.addresses.is_empty() && server.name.is_within(apex));
        if let Some(server) = nowhere {
            return Err(UsageError::NoAddress(server.name.clone()));
        }
    }
    if servers.is_empty() {
        let addresses = match at {
            At::Listen(address) if !address.is_unspecified() => vec![address],
            // The wildcard does not show at which address clients reach this server.
            At::Listen(_) | At::Service => Vec::new(),
        };
        let name = format!("{NAME_SERVER}.{apex}")
            .parse()
            .map_err(|_| ZoneError::LongApex(apex.clone()))?;
        servers.push(NameServer { name, addresses });
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        settings_at("127.0.0.1:53", arguments)
    }

    fn settings_at(listen: &str, arguments: &[&str]) -> Result<Settings, String> {
        let start = [
            "scaledapp-dns",
            "run",
            "--listen",
            listen,
            "--zone",
            "apps.local",
        ];
        let cli = Cli::try_parse_from(start.iter().chain(arguments)).map_err(|e| e.to_string())?;
        let Command::Run(args) = cli.command;
        Settings::resolve(args).map_err(|error| error.to_string())
    }

    /// Names of servers in the zone with their addresses.
    fn servers(settings: &Settings) -> Vec<String> {
        let names = settings.zone.names();
        names
            .map(|(name, records)| format!("{name} {:?}", records.addresses()))
            .collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_ns_the_server_has_the_listen_address_unless_that_is_a_wildcard() {
        for (listen, server) in [
            ("127.0.0.1:53", "ns.apps.local. [127.0.0.1]"),
            ("[::1]:53", "ns.apps.local. [::1]"),
            ("0.0.0.0:53", "ns.apps.local. []"),
            ("[::]:53", "ns.apps.local. []"),
        ] {
            assert_eq!(servers(&settings_at(listen, &[]).unwrap()), [server]);
        }
    }

    #[test]
    fn ns_may_be_repeated_and_collects_the_addresses_of_a_name() {
        let settings = settings(&[
            "--ns=ns1.apps.local=10.0.0.1",
            "--ns=NS1.apps.local.=fd00::1,ns2.apps.local=10.0.0.2",
            "--ns=ns.example.com",
        ]);
        assert_eq!(
            servers(&settings.unwrap()),
            [
                "ns1.apps.local. [10.0.0.1, fd00::1]",
                "ns2.apps.local. [10.0.0.2]"
            ]
        );
    }

    #[test]
    fn servers_without_an_address_have_those_of_the_service() {
        let of = |flags: &[&str]| {
            let settings = settings_at("[::]:53", flags).unwrap();
            let followers = settings.followers.iter().map(Name::to_string);
            (settings.service, followers.collect::<Vec<_>>())
        };
        let front = || Some("front".to_owned());
        for (flags, expected) in [
            (
                &["--ns-service=front"][..],
                (front(), vec!["ns.apps.local."]),
            ),
            (&["--ns-service="], (None, vec![])),
            (
                &[
                    "--ns-service=front",
                    "--ns=ns1.apps.local,ns2.apps.local=10.0.0.2,ns.example.com",
                ],
                (front(), vec!["ns1.apps.local."]),
            ),
            // No server needs the Service.
            (
                &["--ns-service=front", "--ns=ns.example.com"],
                (None, vec![]),
            ),
        ] {
            let (service, followers) = of(flags);
            assert_eq!(
                (service, followers),
                (
                    expected.0,
                    expected.1.iter().map(|it| (*it).to_owned()).collect()
                )
            );
        }
    }

    #[test]
    fn no_app_gets_the_name_of_a_server() {
        let settings = settings(&["--ns=ns1.apps.local=10.0.0.1"]).unwrap();
        for (hostname, is_free) in [("ns1.apps.local", false), ("ns2.apps.local", true)] {
            assert_eq!(settings.ownership.check(hostname, "a").is_ok(), is_free);
        }
    }

    #[test]
    fn an_invalid_value_is_refused_with_the_cure() {
        for (arguments, part) in [
            (["--ns", "ns1.apps.local"], "--ns ns1.apps.local.=IP"),
            (["--ns", "ns1.apps.local=here"], "write NAME=IP"),
            (["--ns", "ns.example.com=10.0.0.1"], "outside the zone"),
            (["--ns", "n s"], "contains ' '"),
            (["--admin", "9377"], "such as 127.0.0.1:9377"),
            (["--drain-min", "5"], "such as 500ms"),
            (
                ["--zone-namespaces", "a.apps.local"],
                "write ZONE=NAMESPACE",
            ),
            (
                ["--zone-namespaces", "a.aps.local=a"],
                "outside of apps.local.",
            ),
        ] {
            let message = settings(&arguments).unwrap_err();
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn a_namespace_named_twice_is_watched_once() {
        assert!(settings(&[]).unwrap().watch_namespaces.is_empty());
        let flags = [
            "--watch-namespace=b,a",
            "--watch-namespace=",
            "--watch-namespace=b",
        ];
        assert_eq!(settings(&flags).unwrap().watch_namespaces, ["a", "b"]);
    }

    #[test]
    fn admin_is_off_unless_asked_for() {
        assert_eq!(settings(&[]).unwrap().admin, None);
        assert_eq!(settings(&["--admin", "none"]).unwrap().admin, None);
        let address = "127.0.0.1:9377".parse().ok();
        assert_eq!(
            settings(&["--admin", "127.0.0.1:9377"]).unwrap().admin,
            address
        );
    }
}
