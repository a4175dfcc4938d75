//! The measured proxies: nginx, the balancer and the dispatcher. Each has one thread, and
//! the servers behind all of them send answers of the same size.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::balancer::{self, Balancer};
use scaledapp_tests::process::Process;
use scaledapp_tests::sidecar::{self, Sidecar};
use scaledapp_tests::{binaries, http, ports, proc, wait};

use crate::cpu;

const BOOT: Duration = Duration::from_secs(20);
/// Length of an answer, in bytes.
const BODY: usize = 200;

/// A proxy under load.
#[derive(Debug)]
pub struct Peer {
    /// The name in the table.
    pub name: &'static str,
    /// The address on which the proxy serves.
    pub address: SocketAddr,
    /// The address on which the proxy serves with TLS, if it does.
    pub tls: Option<SocketAddr>,
    /// The processes whose CPU time counts.
    pids: Vec<u32>,
    _running: Running,
}

/// The processes, which end when the peer is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held only to be dropped")]
enum Running {
    Nginx(Process),
    Haproxy(Process),
    Balancer(Balancer),
    Sidecar(Sidecar),
}

/// The servers behind the proxies.
#[derive(Debug)]
pub struct Origin {
    addresses: Vec<SocketAddr>,
    /// The servers' processes, which end when this value is dropped.
    processes: Vec<Process>,
}

impl Origin {
    /// A server that this process is itself.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            addresses: vec![address],
            processes: Vec::new(),
        }
    }
}

impl Peer {
    /// CPU time so far.
    ///
    /// # Errors
    /// One of the processes has exited.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu::run_time_of(&self.pids)
    }

    /// Resident memory of the processes whose CPU time counts, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.pids
            .iter()
            .filter_map(|pid| proc::resident_bytes(*pid))
            .sum()
    }
}

/// Joins one line of nginx's configuration for each value.
fn lines<T>(of: &[T], line: impl Fn(&T) -> String) -> String {
    of.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn serves(address: SocketAddr) -> anyhow::Result<()> {
    wait::until(BOOT, &format!("{address} serves"), || {
        http::get(address, "/")
    })?;
    Ok(())
}

fn start_nginx(directory: &Path, name: &str, servers: &str) -> anyhow::Result<Process> {
    let root = directory.join(name);
    fs::create_dir_all(&root)?;
    let file = root.join("nginx.conf");
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let scratch = lines(&kinds, |kind| {
        format!("{kind}_temp_path {};\n", root.join(kind).display())
    });
    let text = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000;\n{scratch}{servers}\n}}\n",
        root.display()
    );
    fs::write(&file, text)?;
    let program = binaries::on_path("nginx").unwrap_or_else(|_| "/usr/sbin/nginx".into());
    let mut command = Command::new(program);
    command.arg("-p").arg(&root).arg("-c").arg(&file);
    Process::spawn(command)
}

/// An nginx with two listeners, both of which answer without an upstream.
///
/// # Errors
/// nginx cannot be started or does not serve in time.
pub fn origin(directory: &Path) -> anyhow::Result<Origin> {
    let addresses = vec![ports::local()?, ports::local()?];
    let body = "x".repeat(BODY);
    let servers = lines(&addresses, |address| {
        format!("server {{ listen {address}; location / {{ return 200 {body}; }} }}\n")
    });
    let process = start_nginx(directory, "origin", &servers)?;
    for address in &addresses {
        serves(*address)?;
    }
    Ok(Origin {
        addresses,
        processes: vec![process],
    })
}

/// Two processes of the example app, each on its own port, as users run them behind nginx.
///
/// # Errors
/// A process cannot be started or does not serve in time.
pub fn workers() -> anyhow::Result<Origin> {
    let mut origin = Origin {
        addresses: Vec::new(),
        processes: Vec::new(),
    };
    for _ in 0..2 {
        let address = ports::local()?;
        let mut command = Command::new(binaries::path("scaledapp-hello-rust")?);
        command.env("PORT", address.port().to_string());
        origin.processes.push(Process::spawn(command)?);
        serves(address)?;
        origin.addresses.push(address);
    }
    Ok(origin)
}

/// A certificate (ECDSA P-256) with its key, in PEM files.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Makes a certificate and its key, in files of `directory`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| directory.join(name));
        fs::write(&chain, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        Ok(Self { chain, key })
    }
}

/// nginx with the settings that its documentation gives for keep-alive to upstreams.
///
/// # Errors
/// nginx cannot be started or does not serve in time.
pub fn nginx(
    directory: &Path,
    name: &str,
    origin: &Origin,
    certificate: Option<&Certificate>,
) -> anyhow::Result<Peer> {
    let address = ports::local()?;
    let tls = certificate.map(|_| ports::local()).transpose()?;
    let secured = match (tls, certificate) {
        (Some(tls), Some(Certificate { chain, key })) => format!(
            "listen {tls} ssl http2; ssl_certificate {}; ssl_certificate_key {};\n\
             ssl_protocols TLSv1.2 TLSv1.3; ssl_ecdh_curve X25519; http2_max_requests 1000000000;\n",
            chain.display(),
            key.display()
        ),
        _ => String::new(),
    };
    let upstreams = lines(&origin.addresses, |address| {
        format!("server {address} max_fails=1 fail_timeout=1s;")
    });
    let servers = format!(
        "upstream app {{ zone app 64k; least_conn; {upstreams} keepalive 128; }}\n\
         server {{ listen {address}; {secured} location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Request-Id $request_id;\n\
         proxy_next_upstream error timeout; }} }}\n"
    );
    let process = start_nginx(directory, name, &servers)?;
    serves(address)?;
    let workers = proc::children(process.pid());
    Ok(Peer {
        name: "nginx",
        address,
        tls,
        pids: workers,
        _running: Running::Nginx(process),
    })
}

/// `scaledapp-balancer` in front of the servers of `origin`.
///
/// # Errors
/// The balancer cannot be started or does not serve in time.
pub fn balancer(origin: &Origin, certificate: Option<&Certificate>) -> anyhow::Result<Peer> {
    let mut launch = balancer::Launch::to(&origin.addresses)?.with(&["--threads", "1"]);
    let tls = certificate.map(|_| ports::local()).transpose()?;
    if let (Some(tls), Some(Certificate { chain, key })) = (tls, certificate) {
        let pair = format!("{}:{}", chain.display(), key.display());
        launch = launch.with(&["--tls", &pair, "--tls-listen", &tls.to_string()]);
    }
    let balancer = launch.ready()?;
    let address = balancer.address();
    serves(address)?;
    Ok(Peer {
        name: "scaledapp-balancer",
        address,
        tls,
        pids: vec![balancer.process.pid()],
        _running: Running::Balancer(balancer),
    })
}

/// `scaledapp-balancer` that relays connections to the servers of `origin`.
///
/// # Errors
/// The balancer cannot be started.
pub fn relay(origin: &Origin) -> anyhow::Result<Peer> {
    let launch = balancer::Launch::to(&origin.addresses)?;
    let balancer = launch
        .with(&["--threads", "1", "--protocol", "tcp"])
        .ready()?;
    Ok(Peer {
        name: "scaledapp-balancer",
        address: balancer.address(),
        tls: None,
        pids: vec![balancer.process.pid()],
        _running: Running::Balancer(balancer),
    })
}

/// `HAProxy` that relays connections to the servers of `origin`; with `splices` in the kernel,
/// where it considers that worth it.
///
/// # Errors
/// `HAProxy` cannot be started or does not accept connections in time.
pub fn haproxy(
    directory: &Path,
    name: &str,
    origin: &Origin,
    splices: bool,
) -> anyhow::Result<Peer> {
    let address = ports::local()?;
    let servers = lines(&origin.addresses, |server| {
        format!("  server s{} {server}\n", server.port())
    });
    let option = if splices {
        "  option splice-auto\n"
    } else {
        ""
    };
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode tcp\n{option}  timeout connect 3s\n  \
         timeout client 1m\n  timeout server 1m\nlisten all\n  bind {address}\n  \
         balance leastconn\n{servers}"
    );
    let file = directory.join(format!("haproxy-{name}-{splices}.cfg"));
    fs::write(&file, text)?;
    let program = binaries::on_path("haproxy").unwrap_or_else(|_| "/usr/sbin/haproxy".into());
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::spawn(command)?;
    wait::until(BOOT, &format!("{address} accepts"), || {
        std::net::TcpStream::connect(address)
    })?;
    Ok(Peer {
        name: if splices {
            "HAProxy, splice-auto"
        } else {
            "HAProxy"
        },
        address,
        tls: None,
        pids: vec![process.pid()],
        _running: Running::Haproxy(process),
    })
}

/// `scaledapp-sidecar` with two workers whose answers have the same size.
///
/// # Errors
/// The supervisor cannot be started or does not serve in time.
pub fn dispatcher() -> anyhow::Result<Peer> {
    let program = binaries::path("scaledapp-hello-rust")?;
    let launch = sidecar::Launch::of(|_| vec![program.to_string_lossy().into_owned()])?;
    // The app takes its port from PORT.
    let sidecar = launch
        .with(&["--workers", "2", "--dispatch-threads", "1"])
        .ready(2)?;
    let address = SocketAddr::from(([127, 0, 0, 1], sidecar.launch.port));
    serves(address)?;
    Ok(Peer {
        name: "scaledapp-sidecar (dispatcher)",
        address,
        tls: None,
        pids: vec![sidecar.process.pid()],
        _running: Running::Sidecar(sidecar),
    })
}
