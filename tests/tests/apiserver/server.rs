//! The control plane of this layer: etcd, kube-apiserver, kube-controller-manager,
//! kube-scheduler and the real operator, without a node or a container.
//!
//! Everything runs on loopback in a network namespace of its own. Therefore ports can be fixed, and
//! pods can have addresses that Kubernetes accepts. All tests of a run share one control plane and
//! use different Kubernetes namespaces. A test that needs a control plane without an operator
//! starts another one ([`bare`]). The kernel ends the processes of a control plane with the thread
//! that started them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use scaledapp_tests::process::{self, Process};
use scaledapp_tests::{binaries, wait};
use serde_json::{Value, json};

use crate::api::Api;
use crate::kubelet::Kubelets;

/// Namespace of the operator.
pub(crate) const SYSTEM: &str = "scaledapp-system";
/// An address of the network namespace for programs that refuse 127.0.0.0/8.
const ADDRESS: &str = "198.18.0.1";
const ETCD: &str = "http://127.0.0.1:2379";
const API: &str = "https://127.0.0.1:6443";
/// The token of the cluster's administrator.
const ADMIN: &str = "admin-token";
/// The flags of operator and DNS server about the zone, as the chart sets them from
/// `dns.zone`, `dns.zones` and `dns.nameservers`.
const ZONE: [&str; 3] = [
    "--zone=apps.test",
    "--zone-namespaces=own.apps.test=names-a",
    "--ns=ns1.apps.test",
];
/// An admission plugin that `OpenShift` enables, in addition to Kubernetes' defaults (which include
/// Pod Security, quotas and limit ranges).
const PLUGINS: &str = "OwnerReferencesPermissionEnforcement";
/// How long the start may take, on two busy cores.
const START: Duration = Duration::from_mins(2);

/// The programs that xtask compiled: those that environment variables name, otherwise those that
/// an earlier run left in `target/kind`.
struct Programs {
    kubernetes: PathBuf,
    etcd: PathBuf,
    helm: PathBuf,
}

impl Programs {
    /// Finds the compiled programs.
    ///
    /// # Errors
    /// A program does not exist. The text is the reason to print for skipped tests.
    fn find() -> Result<Self, String> {
        let find = Self::program;
        Ok(Self {
            kubernetes: find("SCALEDAPP_KUBERNETES", "kubernetes", "kube-apiserver")?
                .parent()
                .map(Path::to_path_buf)
                .unwrap_or_default(),
            etcd: find("SCALEDAPP_ETCD", "etcd", "etcd")?,
            helm: find("SCALEDAPP_HELM", "helm", "helm")?,
        })
    }

    /// The path of one program: given by an environment variable, or in the directory
    /// `target/kind/go/UNIT-KEY` that xtask made.
    fn program(variable: &str, unit: &str, program: &str) -> Result<PathBuf, String> {
        let given = std::env::var_os(variable).map(PathBuf::from);
        let built = || {
            let built = binaries::workspace().join("target/kind/go").read_dir();
            let mut built = built.into_iter().flatten().flatten();
            let is_it = |name: &str| {
                name.rsplit_once('-')
                    .is_some_and(|(name, key)| name == unit && !key.contains('.'))
            };
            built
                .find(|entry| entry.file_name().to_str().is_some_and(is_it))
                .map(|entry| entry.path())
        };
        let given = given.map(|given| {
            let is_program = given.is_file();
            if is_program {
                given
            } else {
                given.join(program)
            }
        });
        given
            .or_else(|| Some(built()?.join(program)))
            .filter(|path| path.is_file())
            .ok_or_else(|| {
                format!("skipped: {program} is not compiled: `cargo xtask test` does that, with Go")
            })
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The control plane.
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) kubelets: Kubelets,
    network: File,
    directory: PathBuf,
    operator: Mutex<Option<Process>>,
    /// The processes of the control plane. They are dropped after `operator`, which uses them.
    started: Mutex<Vec<Process>>,
    /// Sends jobs to the thread that starts all processes. The kernel ends the processes with this
    /// thread, so the thread must live as long as they do.
    jobs: Mutex<mpsc::Sender<Job>>,
}

/// The control plane of this run, which the first call starts. Moves the calling thread into
/// its network namespace. If the control plane cannot run, prints the reason and returns
/// `None`.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let programs = ready_programs()?;
        Ok(Server::start(&programs).unwrap())
    });
    match server {
        Ok(server) => {
            server.enter().unwrap();
            Some(server)
        }
        Err(reason) => {
            println!("{reason}");
            None
        }
    }
}

/// Starts a control plane for one test, without the definition of `ScaledApp` or an operator. If
/// it cannot run, prints the reason and returns `None`. [`Server::stop`] ends it.
pub(crate) fn bare() -> Option<&'static Server> {
    match ready_programs()
        .and_then(|programs| Server::bare(&programs).map_err(|error| panic!("{error:?}")))
    {
        Ok(server) => Some(Box::leak(Box::new(server))),
        Err(reason) => {
            println!("{reason}");
            None
        }
    }
}

/// Finds the programs, and checks that this process can make a network namespace.
///
/// # Errors
/// The tests must be skipped. The text is the reason to print.
fn ready_programs() -> Result<Programs, String> {
    let programs = Programs::find()?;
    if !rustix::process::geteuid().is_root() {
        return Err("skipped: a network namespace needs root: run it under `unshare --user --map-root-user`".to_owned());
    }
    Ok(programs)
}

fn enter(network: &File) -> anyhow::Result<()> {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter the network namespace")
}

/// A new network namespace with loopback and [`ADDRESS`] only.
fn network() -> anyhow::Result<File> {
    let script = format!(
        "ip link set lo up && ip address add {ADDRESS}/15 dev lo && echo up && exec sleep 60"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]);
    let process = Process::spawn(command)?;
    wait::until(Duration::from_secs(10), "a network namespace", || {
        if process.stdout().contains("up") {
            Ok(())
        } else {
            Err(process.stderr())
        }
    })?;
    // The namespace lives while the file is open.
    Ok(File::open(format!("/proc/{}/ns/net", process.pid()))?)
}

/// Makes a directory that a child removes when this process has ended, even by SIGKILL.
fn directory() -> anyhow::Result<PathBuf> {
    let directory = tempfile::tempdir()?.keep();
    let mut command = Command::new("sh");
    command.args(["-c", "cat; sleep 1; rm -rf \"$1\"", "sh"]);
    let child = command.arg(&directory).stdin(Stdio::piped()).spawn()?;
    // The kernel closes this end of the child's pipe when this process ends.
    std::mem::forget(child);
    Ok(directory)
}

impl Server {
    fn start(programs: &Programs) -> anyhow::Result<Self> {
        let server = Self::bare(programs)?;
        server.install(programs)?;
        server.start_operator(1)?;
        Ok(server)
    }

    fn bare(programs: &Programs) -> anyhow::Result<Self> {
        let network = network()?;
        let directory = directory()?;
        let (jobs, todo) = mpsc::channel::<Job>();
        let inside = network.try_clone()?;
        std::thread::spawn(move || {
            enter(&inside).unwrap();
            for job in todo {
                job();
            }
        });
        keys(&directory)?;
        enter(&network)?;
        let api = Api::new(API, ADMIN)?;
        let server = Self {
            kubelets: Kubelets::new(api.clone()),
            api,
            network,
            directory,
            operator: Mutex::default(),
            started: Mutex::default(),
            jobs: Mutex::new(jobs),
        };
        server.control_plane(programs)?;
        server.kubelets.start();
        for name in ["base-1", "base-2"] {
            server.kubelets.add_node(name, &BTreeMap::new(), "64");
        }
        Ok(server)
    }

    /// Moves the calling thread into the network namespace.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        enter(&self.network)
    }

    /// Starts a process that ends with this process.
    fn spawn(
        &self,
        program: &Path,
        words: &[String],
        env: &[(&str, String)],
    ) -> anyhow::Result<Process> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.args(words);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let (send, started) = mpsc::channel();
        let job: Job = Box::new(move || drop(send.send(Process::spawn(command))));
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.send(job)
            .ok()
            .context("the thread that starts processes has ended")?;
        started
            .recv()
            .context("the thread that starts processes has ended")?
    }

    fn control_plane(&self, programs: &Programs) -> anyhow::Result<()> {
        let at = |name: &str| self.directory.join(name).to_string_lossy().into_owned();
        let kubeconfig = self.kubeconfig("admin", ADMIN, "default")?;
        let etcd = [
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let server = [
            format!("--etcd-servers={ETCD}"),
            "--secure-port=6443".to_owned(),
            format!("--bind-address={ADDRESS}"),
            format!("--advertise-address={ADDRESS}"),
            format!("--cert-dir={}", at("certificates")),
            "--service-cluster-ip-range=10.201.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.test".to_owned(),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", at("tokens.csv")),
            format!("--enable-admission-plugins={PLUGINS}"),
            "--enable-priority-and-fairness=false".to_owned(),
            format!("--audit-policy-file={}", at("audit.json")),
            format!("--audit-log-path={}", at("audit.log")),
        ];
        let server = server
            .map(|word| word.replace(&format!("bind-address={ADDRESS}"), "bind-address=0.0.0.0"));
        let controllers = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--service-account-private-key-file={}", at("sa.key")),
            "--leader-elect=false".to_owned(),
            // Controllers that would need a kubelet, a cloud or long waits are disabled.
            "--controllers=*,-node-lifecycle-controller,-node-ipam-controller,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller".to_owned(),
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
            "--concurrent-deployment-syncs=5".to_owned(),
        ];
        let scheduler = [
            format!("--kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
        ];
        let mut started = vec![self.spawn(&programs.etcd, &etcd, &[])?];
        let kubernetes = |name: &str| programs.kubernetes.join(name);
        started.push(self.spawn(&kubernetes("kube-apiserver"), &server, &[])?);
        let ready = wait::until(START, "the API server is ready", || {
            self.api.text("/readyz").map_err(|error| error.to_string())
        });
        ready.with_context(|| started.iter().map(Process::stderr).collect::<String>())?;
        started.push(self.spawn(&kubernetes("kube-controller-manager"), &controllers, &[])?);
        started.push(self.spawn(&kubernetes("kube-scheduler"), &scheduler, &[])?);
        // The control plane of a whole run is never dropped; the kernel ends its processes.
        self.started().append(&mut started);
        wait::until(START, "the default account exists", || {
            self.api
                .get("/api/v1/namespaces/default/serviceaccounts/default")
        })?;
        Ok(())
    }

    /// Writes a kubeconfig with this token and namespace. Returns its path.
    pub(crate) fn kubeconfig(
        &self,
        name: &str,
        token: &str,
        namespace: &str,
    ) -> anyhow::Result<String> {
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": API, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "current-context": "c",
        });
        let path = self.directory.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, content.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// A kubeconfig of the cluster's administrator with this namespace.
    pub(crate) fn admin_kubeconfig(&self, namespace: &str) -> anyhow::Result<String> {
        self.kubeconfig(&format!("admin-{namespace}"), ADMIN, namespace)
    }

    /// Installs the definition, accounts and rights of the chart.
    pub(crate) fn install_chart(&self) -> anyhow::Result<()> {
        self.install(&Programs::find().map_err(anyhow::Error::msg)?)
    }

    fn install(&self, programs: &Programs) -> anyhow::Result<()> {
        self.api.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM},
        }))?;
        self.chart_of(programs, "scaledapp", SYSTEM, &[])?;
        wait::until(START, "ScaledApps are served", || {
            self.api.get("/apis/scaledapp.io/v1alpha1/scaledapps")
        })?;
        Ok(())
    }

    /// Installs accounts and rights of another release of the chart.
    pub(crate) fn chart(
        &self,
        release: &str,
        namespace: &str,
        values: &[&str],
    ) -> anyhow::Result<()> {
        let programs = Programs::find().map_err(anyhow::Error::msg)?;
        self.chart_of(&programs, release, namespace, values)
    }

    fn chart_of(
        &self,
        programs: &Programs,
        release: &str,
        namespace: &str,
        values: &[&str],
    ) -> anyhow::Result<()> {
        let mut command = Command::new(&programs.helm);
        command.args(["template", release, "charts/scaledapp"]);
        command.args(["--namespace", namespace, "--include-crds"]);
        for value in values {
            command.args(["--set", value]);
        }
        for image in ["operator", "sidecar", "balancer", "dns"] {
            let value = format!("images.{image}.repository=registry.test/{image}");
            command.args(["--set", &value]);
        }
        command.current_dir(binaries::workspace());
        command.env("HELM_CACHE_HOME", self.directory.join("helm"));
        let ended = process::run(command, START)?;
        ensure!(ended.code == 0, "helm template: {}", ended.stderr);
        // The harness keeps only the last 20,000 lines of output; the rendered chart is shorter.
        for text in ended.stdout.split("\n---") {
            let object: Value = serde_saphyr::from_str(text).unwrap_or_default();
            let kind = object["kind"].as_str().unwrap_or_default();
            let wanted = ["Role", "ServiceAccount", "CustomResourceDefinition"];
            if wanted.iter().any(|wanted| kind.contains(wanted)) {
                self.api.apply(&object).with_context(|| text.to_owned())?;
            }
        }
        Ok(())
    }

    /// Starts the operator with the rights of the chart. The tag of the images that it names is
    /// `version`.
    pub(crate) fn start_operator(&self, version: u32) -> anyhow::Result<()> {
        let own = [
            "--admin=127.0.0.1:9999".to_owned(),
            format!("--sidecar-image=registry.test/sidecar:{version}"),
            format!("--balancer-image=registry.test/balancer:{version}"),
        ];
        let words: Vec<&str> = own.iter().map(String::as_str).chain(ZONE).collect();
        let process = self.operator_as(SYSTEM, "scaledapp-operator", &words)?;
        *self.operator() = Some(process);
        Ok(())
    }

    /// Starts another operator program, with the rights of the cluster's administrator.
    pub(crate) fn start_other_operator(
        &self,
        program: &Path,
        words: &[&str],
    ) -> anyhow::Result<()> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let env = [
            ("KUBECONFIG", self.kubeconfig("admin", ADMIN, "default")?),
            ("SCALEDAPP_NAMESPACE", SYSTEM.to_owned()),
            ("SCALEDAPP_IDENTITY", "other".to_owned()),
        ];
        *self.operator() = Some(self.spawn(program, &words, &env)?);
        Ok(())
    }

    /// Kills the operator.
    pub(crate) fn stop_operator(&self) {
        *self.operator() = None;
    }

    /// Ends all processes of the control plane.
    pub(crate) fn stop(&self) {
        *self.operator() = None;
        self.started().clear();
    }

    fn started(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operator's writes in a namespace so far, in order, as `VERB RESOURCE NAME`, without
    /// those of Events and status.
    pub(crate) fn writes(&self, namespace: &str) -> Vec<String> {
        self.written(namespace, |about| {
            about["resource"] != "events" && about["subresource"] != "status"
        })
    }

    /// As [`Server::writes`], including Events and status.
    pub(crate) fn all_writes(&self, namespace: &str) -> Vec<String> {
        self.written(namespace, |_| true)
    }

    fn written(&self, namespace: &str, counts: impl Fn(&Value) -> bool) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.join("audit.log"));
        let log = log.unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains(namespace));
        let lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        lines
            .filter(|line| {
                let about = &line["objectRef"];
                text(&line["user"]["username"]).ends_with(":scaledapp-operator")
                    && about["namespace"] == *namespace
                    && counts(about)
            })
            .map(|line| {
                let about = &line["objectRef"];
                let words = [&line["verb"], &about["resource"], &about["name"]];
                words.map(text).join(" ")
            })
            .collect()
    }

    /// Starts an operator with the token of this account.
    pub(crate) fn operator_as(
        &self,
        namespace: &str,
        account: &str,
        words: &[&str],
    ) -> anyhow::Result<Process> {
        let token = self.token(namespace, account)?;
        let all = [&["run"], words].concat();
        let all: Vec<String> = all.iter().map(|&word| word.to_owned()).collect();
        let image = |name: &str| format!("registry.test/{name}:1");
        let env = [
            ("KUBECONFIG", self.kubeconfig(account, &token, namespace)?),
            ("SCALEDAPP_NAMESPACE", namespace.to_owned()),
            ("SCALEDAPP_IDENTITY", account.to_owned()),
            ("SCALEDAPP_SIDECAR_IMAGE", image("sidecar")),
            ("SCALEDAPP_BALANCER_IMAGE", image("balancer")),
        ];
        self.spawn(&binaries::path("scaledapp-operator")?, &all, &env)
    }

    /// Starts the DNS server with the rights of the chart.
    pub(crate) fn start_dns(&self, words: &[&str]) -> anyhow::Result<Process> {
        let account = "scaledapp-dns";
        let token = self.token(SYSTEM, account)?;
        let all = [&["run", "--scaledapps"][..], &ZONE, words].concat();
        let all: Vec<String> = all.iter().map(|&word| word.to_owned()).collect();
        let env = [("KUBECONFIG", self.kubeconfig(account, &token, SYSTEM)?)];
        self.spawn(&binaries::path("scaledapp-dns")?, &all, &env)
    }

    /// A client with the token of this account.
    pub(crate) fn as_account(&self, namespace: &str, account: &str) -> anyhow::Result<Api> {
        Api::new(API, &self.token(namespace, account)?)
    }

    pub(crate) fn token(&self, namespace: &str, account: &str) -> anyhow::Result<String> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 36_000},
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.api.post(&path, &request)?;
        let token = answer["status"]["token"].as_str().context("no token")?;
        Ok(token.to_owned())
    }

    /// Runs helm as the cluster's administrator, in the workspace's directory.
    pub(crate) fn helm(&self, words: &[&str]) -> anyhow::Result<process::Ended> {
        self.enter()?;
        let programs = Programs::find().map_err(anyhow::Error::msg)?;
        let mut command = Command::new(&programs.helm);
        command.args(words).current_dir(binaries::workspace());
        command.env("KUBECONFIG", self.kubeconfig("admin", ADMIN, "default")?);
        command.env("HELM_CACHE_HOME", self.directory.join("helm"));
        process::run(command, START)
    }

    /// Runs kubectl as the cluster's administrator; `None` if it is not compiled.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Option<process::Ended> {
        self.enter().unwrap();
        let kubectl = Programs::program("SCALEDAPP_KUBECTL", "kubectl", "kubectl").ok()?;
        let mut command = Command::new(kubectl);
        command.args(words);
        command.env(
            "KUBECONFIG",
            self.kubeconfig("admin", ADMIN, "default").unwrap(),
        );
        Some(process::run(command, START).unwrap())
    }

    /// The answer of an admin port on loopback in the control plane's network namespace, which the
    /// calling thread enters.
    pub(crate) fn admin(&self, port: u16, path: &str) -> anyhow::Result<Value> {
        self.enter()?;
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let answer = scaledapp_tests::http::get(at, path);
        let answer = answer.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        Ok(answer.json())
    }

    /// The operator's process id.
    pub(crate) fn operator_pid(&self) -> Option<u32> {
        self.operator().as_ref().map(Process::pid)
    }

    /// The last lines of the operator's log.
    pub(crate) fn operator_log(&self) -> String {
        self.operator()
            .as_ref()
            .map(Process::stderr)
            .unwrap_or_default()
    }

    fn operator(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The audit policy: the API server logs every write of the operator.
fn audit() -> Value {
    let verbs = ["create", "update", "patch", "delete"];
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{
            "level": "Metadata",
            "verbs": verbs,
            "users": [format!("system:serviceaccount:{SYSTEM}:scaledapp-operator")],
        }],
    })
}

/// Makes the keys with which the API server signs tokens, the list of static tokens, and the file
/// of the audit policy.
fn keys(directory: &Path) -> anyhow::Result<()> {
    std::fs::write(directory.join("audit.json"), audit().to_string())?;
    std::fs::write(
        directory.join("tokens.csv"),
        format!("{ADMIN},admin,1,\"system:masters\"\n"),
    )?;
    for words in [
        &["genrsa", "-out", "sa.key", "2048"][..],
        &["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"],
    ] {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(directory);
        let ended = process::run(command, START)?;
        ensure!(ended.code == 0, "openssl: {}", ended.stderr);
    }
    Ok(())
}
