//! A network namespace with a root and parent zone (BIND), recursors and `scaledapp-dns`.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use scaledapp_tests::dns::{Answer, Type, resolve};
use scaledapp_tests::process::Process;
use scaledapp_tests::{binaries, wait};

const SOON: Duration = Duration::from_secs(20);
/// The address of the server of the root and of `example.`.
const PARENT: &str = "10.77.0.1";
/// The address of `scaledapp-dns`.
pub(crate) const DNS: &str = "10.77.0.53";
const RECURSORS: [&str; 2] = ["10.77.0.2", "10.77.0.3"];
const ADDRESSES: [&str; 4] = [PARENT, DNS, RECURSORS[0], RECURSORS[1]];

const RECORDS: &str = r#"{
  "hello.apps.example": {"ttl": 60, "addresses": ["10.1.0.1", "10.1.0.2", "10.1.0.3"]},
  "six.apps.example": {"addresses": ["fd00::1"]},
  "web.shop.team.apps.example": {"addresses": ["10.1.0.4"]},
  "never.apps.example": {"addresses": []}
}"#;

/// How the recursors find the zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// They follow delegations from the root down.
    Delegation,
    /// The zone is configured with an address: unbound's stub zone, BIND's static-stub.
    Stub,
    /// They forward queries, as `CoreDNS` does.
    Forward,
}

/// The running servers, which end when this value is dropped.
pub(crate) struct Lab {
    /// The recursors' names and addresses.
    pub(crate) recursors: [(&'static str, SocketAddr); 2],
    _processes: Vec<Process>,
    _directory: tempfile::TempDir,
}

/// Starts the servers, with `delegation` in the parent zone and `flags` for `scaledapp-dns`. Moves
/// the calling thread into the lab's network. If programs or rights are missing, prints that and
/// returns `None`.
pub(crate) fn lab(way: Way, delegation: &str, flags: &[&str]) -> Option<Lab> {
    if !["named", "unbound"].into_iter().all(binaries::has) {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        println!(
            "skipped: a network namespace needs root: run it under `unshare --user --map-root-user`"
        );
        return None;
    }
    enter_network();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut processes = vec![parent(root, delegation), ours(root, flags)];
    processes.push(bind(root, RECURSORS[0], way));
    processes.push(unbound(root, RECURSORS[1], way));
    let [bind, unbound] = RECURSORS.map(at);
    let lab = Lab {
        recursors: [("BIND", bind), ("unbound", unbound)],
        _processes: processes,
        _directory: directory,
    };
    for (name, address) in lab.recursors {
        // The parent zone must answer before a recursor gets a query, because a recursor remembers
        // servers that did not answer.
        wait::until(SOON, "the servers answer", || {
            for server in [PARENT, DNS].map(at) {
                resolve(server, "example", Type::Soa).map_err(|error| format!("{error:#}"))?;
            }
            resolve(address, "localhost", Type::A).map_err(|error| format!("{name}: {error:#}"))
        })
        .unwrap();
    }
    Some(lab)
}

/// Sends a question to a recursor, from within the lab's network.
pub(crate) fn ask(recursor: SocketAddr, name: &str, question: Type) -> Answer {
    resolve(recursor, name, question).unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 53)
}

/// Moves the calling thread, and therefore the processes that it will start, into a new network
/// namespace.
fn enter_network() {
    let addresses = ADDRESSES.map(|ip| format!("ip address add {ip}/32 dev lo"));
    let script = format!(
        "ip link set lo up && {} && echo up && exec sleep 60",
        addresses.join(" && ")
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]);
    let process = Process::spawn(command).unwrap();
    wait::until(SOON, "a network namespace", || {
        if process.stdout().contains("up") {
            Ok(())
        } else {
            Err(process.stderr())
        }
    })
    .unwrap();
    // The namespace lives while a thread or process is in it.
    let network = File::open(format!("/proc/{}/ns/net", process.pid())).unwrap();
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    std::fs::create_dir_all(directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn start(program: &str, arguments: &[&str], configuration: &Path) -> Process {
    let mut command = Command::new(program);
    command.args(arguments).arg(configuration);
    Process::spawn(command).unwrap()
}

fn ours(root: &Path, flags: &[&str]) -> Process {
    let records = write(root, "records.json", RECORDS);
    let mut command = Command::new(binaries::path("scaledapp-dns").unwrap());
    command.args(["run", "--zone", "apps.example", "--listen"]);
    command.arg(format!("{DNS}:53"));
    command.arg("--records-file").arg(records).args(flags);
    Process::spawn(command).unwrap()
}

fn named(directory: &Path, ip: &str, options: &str, zones: &str) -> Process {
    let place = directory.display();
    let text = format!(
        "options {{ directory \"{place}\"; pid-file none; session-keyfile none; listen-on {{ {ip}; }}; \
         listen-on-v6 {{ none; }}; dnssec-validation no; {options} }};\ncontrols {{ }};\n{zones}"
    );
    let configuration = write(directory, "named.conf", &text);
    start("named", &["-g", "-c"], &configuration)
}

fn parent(root: &Path, delegation: &str) -> Process {
    let directory = root.join("parent");
    let soa = "3600 IN SOA a.root. h.root. 1 3600 600 86400 5";
    let zone = format!(
        ". {soa}\n. 3600 IN NS a.root.\na.root. 3600 IN A {PARENT}\n\
         example. 3600 IN NS a.root.\n"
    );
    write(&directory, "root.zone", &zone);
    let zone = format!(
        "example. {soa}\nexample. 3600 IN NS a.root.\nns.example. 3600 IN A {DNS}\n{delegation}\n"
    );
    write(&directory, "example.zone", &zone);
    let zones = "zone \".\" { type primary; file \"root.zone\"; };\n\
         zone \"example\" { type primary; file \"example.zone\"; };\n";
    named(&directory, PARENT, "recursion no;", zones)
}

fn hints(directory: &Path) -> PathBuf {
    let text = format!(". 3600 IN NS a.root.\na.root. 3600 IN A {PARENT}\n");
    write(directory, "hints", &text)
}

fn bind(root: &Path, ip: &str, way: Way) -> Process {
    let directory = root.join("bind");
    let hints = hints(&directory);
    let more = match way {
        Way::Delegation => String::new(),
        Way::Stub => {
            format!("zone \"apps.example\" {{ type static-stub; server-addresses {{ {DNS}; }}; }};")
        }
        Way::Forward => format!(
            "zone \"apps.example\" {{ type forward; forward only; forwarders {{ {DNS}; }}; }};"
        ),
    };
    let zones = format!(
        "zone \".\" {{ type hint; file \"{}\"; }};\n{more}\n",
        hints.display()
    );
    let options = "recursion yes; allow-recursion { any; }; qname-minimization strict; \
         prefetch 2 9; empty-zones-enable no;";
    named(&directory, ip, options, &zones)
}

/// Starts unbound with its hardening options enabled.
fn unbound(root: &Path, ip: &str, way: Way) -> Process {
    let directory = root.join("unbound");
    let hints = hints(&directory);
    let more = match way {
        Way::Delegation => String::new(),
        Way::Stub => format!("stub-zone:\n  name: apps.example\n  stub-addr: {DNS}\n"),
        Way::Forward => format!("forward-zone:\n  name: apps.example\n  forward-addr: {DNS}\n"),
    };
    let text = format!(
        "server:\n  interface: {ip}\n  outgoing-interface: {ip}\n  access-control: 0.0.0.0/0 allow\n  \
         username: \"\"\n  chroot: \"\"\n  directory: \"{place}\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         num-threads: 1\n  root-hints: \"{hints}\"\n  do-ip6: no\n  module-config: \"iterator\"\n  \
         harden-below-nxdomain: yes\n  qname-minimisation: yes\n  qname-minimisation-strict: yes\n  \
         use-caps-for-id: yes\n  harden-referral-path: yes\n  prefetch: yes\n\
         remote-control:\n  control-enable: no\n{more}",
        place = directory.display(),
        hints = hints.display(),
    );
    let configuration = write(&directory, "unbound.conf", &text);
    start("unbound", &["-d", "-c"], &configuration)
}
