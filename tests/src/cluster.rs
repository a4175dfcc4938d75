//! A running cluster, used only through kubectl and from within its nodes.
//!
//! `cargo xtask test` makes the cluster and passes its location in environment variables. Without
//! them, the tests of this layer are skipped.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::process::Ended;
use crate::{binaries, process, wait};

/// How long one call of kubectl may take, including the time for which kubectl itself waits.
const CALL_TIMEOUT: Duration = Duration::from_mins(4);
/// Path of the load generator in a node.
const LOAD: &str = "/usr/local/bin/scaledapp-load";

/// How to reach the cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    helm: PathBuf,
    /// The command that runs the container engine.
    engine: Vec<String>,
}

impl Cluster {
    /// The cluster that xtask names.
    ///
    /// # Errors
    /// A variable is not set. The text is the reason to print for a skipped test.
    pub fn from_environment() -> Result<Self, String> {
        let get = |name: &str| {
            std::env::var(name).map_err(|_| {
                format!("skipped: {name} is not set: `cargo xtask test` makes a cluster")
            })
        };
        Ok(Self {
            kubectl: get("SCALEDAPP_KIND_KUBECTL")?.into(),
            kubeconfig: get("SCALEDAPP_KIND_KUBECONFIG")?.into(),
            helm: get("SCALEDAPP_KIND_HELM")?.into(),
            engine: get("SCALEDAPP_KIND_ENGINE")?
                .split(' ')
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Runs kubectl and returns its result, even if it fails.
    ///
    /// # Errors
    /// kubectl does not start, or does not end in time.
    pub fn try_kubectl(&self, words: &[&str]) -> anyhow::Result<Ended> {
        let mut command = Command::new(&self.kubectl);
        command.args(words).env("KUBECONFIG", &self.kubeconfig);
        process::run(command, CALL_TIMEOUT)
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    /// kubectl fails. The message has its output.
    pub fn kubectl(&self, words: &[&str]) -> anyhow::Result<String> {
        let ended = self.try_kubectl(words)?;
        ensure!(
            ended.code == 0,
            "kubectl {} ended with {}: {}{}",
            words.join(" "),
            ended.code,
            ended.stderr,
            ended.stdout
        );
        Ok(ended.stdout)
    }

    /// Returns an object or a list as JSON.
    ///
    /// # Errors
    /// kubectl fails, for example because the object does not exist.
    pub fn get(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"][..], words].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs `kubectl apply` for a text and returns its result, even if it fails.
    ///
    /// # Errors
    /// kubectl does not start, or does not end in time.
    pub fn try_apply(&self, namespace: &str, yaml: &str) -> anyhow::Result<Ended> {
        let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        file.write_all(yaml.as_bytes())?;
        let path = file.path().to_string_lossy().into_owned();
        self.try_kubectl(&["-n", namespace, "apply", "-f", &path])
    }

    /// Runs `kubectl apply` for a text and returns its output.
    ///
    /// # Errors
    /// kubectl fails. The message has its output.
    pub fn apply(&self, namespace: &str, yaml: &str) -> anyhow::Result<String> {
        let ended = self.try_apply(namespace, yaml)?;
        ensure!(ended.code == 0, "{}{}", ended.stderr, ended.stdout);
        Ok(ended.stdout)
    }

    /// Runs helm and returns its output.
    ///
    /// # Errors
    /// helm fails. The message has its output.
    pub fn helm(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.helm);
        command.args(words).env("KUBECONFIG", &self.kubeconfig);
        let ended = process::run(command, CALL_TIMEOUT)?;
        ensure!(
            ended.code == 0,
            "helm {}: {}",
            words.join(" "),
            ended.stderr
        );
        Ok(ended.stdout)
    }

    /// Makes a new namespace that enforces `restricted`, and first deletes an old namespace of
    /// that name.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn restricted_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait"])?;
        self.kubectl(&["create", "namespace", name])?;
        let enforce = "pod-security.kubernetes.io/enforce=restricted";
        self.kubectl(&["label", "namespace", name, enforce])?;
        Ok(())
    }

    /// Names of the nodes.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.kubectl(&["get", "nodes", "-o", "name"])?;
        let names = nodes.lines().filter_map(|line| line.strip_prefix("node/"));
        Ok(names.map(str::to_owned).collect())
    }

    fn engine(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.engine[0]);
        command.args(&self.engine[1..]).args(words);
        command
    }

    /// Copies the load generator to a node.
    ///
    /// # Errors
    /// The load generator has not been built, or the engine refuses.
    pub fn prepare_load(&self, node: &str) -> anyhow::Result<()> {
        let load = binaries::path("scaledapp-load")?;
        let to = format!("{node}:{LOAD}");
        let ended = process::run(
            self.engine(&["cp", &load.to_string_lossy(), &to]),
            CALL_TIMEOUT,
        )?;
        ensure!(ended.code == 0, "{}", ended.stderr);
        Ok(())
    }

    /// Starts the load generator on a node, with `words` as further arguments.
    ///
    /// # Errors
    /// The container engine cannot be started.
    pub fn load(
        &self,
        node: &str,
        targets: &[SocketAddr],
        words: &[&str],
    ) -> anyhow::Result<Loading> {
        let targets: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
        let mut all = vec!["exec", "-i", node, LOAD];
        for target in &targets {
            all.extend(["--target", target]);
        }
        all.extend(words);
        let mut command = self.engine(&all);
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the load")?;
        Ok(Loading(child))
    }

    /// Pods, events and logs of a namespace, for a test that has failed.
    pub fn dump(&self, namespace: &str) -> String {
        let calls: [&[&str]; 6] = [
            &[
                "-n",
                namespace,
                "get",
                "all,endpointslices,scaledapps",
                "-o",
                "wide",
            ],
            &["-n", namespace, "get", "scaledapps", "-o", "yaml"],
            &["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"],
            &["-n", namespace, "describe", "pods"],
            &[
                "-n",
                namespace,
                "logs",
                "--all-containers",
                "--prefix",
                "--tail=20",
                "-l",
                "app.kubernetes.io/name=scaledapp",
            ],
            &[
                "-n",
                "scaledapp-system",
                "logs",
                "--prefix",
                "--tail=40",
                "-l",
                "app.kubernetes.io/name=scaledapp",
            ],
        ];
        let mut text = String::new();
        for words in calls {
            let said = match self.try_kubectl(words) {
                Ok(ended) => ended.stdout + &ended.stderr,
                Err(error) => format!("{error:#}"),
            };
            text.extend(["--- kubectl ", &words.join(" "), "\n", &said, "\n"]);
        }
        text
    }

    /// Calls `look` until it returns a value.
    ///
    /// # Errors
    /// There is no value in time. The message has the last error of `look`.
    pub fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        wait::until(CALL_TIMEOUT, what, || match look() {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err("not yet".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        })
    }
}

/// A load that runs on a node.
#[derive(Debug)]
pub struct Loading(Child);

impl Loading {
    /// Stops the load and returns its report.
    ///
    /// # Errors
    /// The load generator failed, or its output is not a report.
    pub fn stop(mut self) -> anyhow::Result<Report> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        let status = self.0.wait()?;
        if !status.success() {
            bail!("the load exited with {status}: {text}");
        }
        Ok(Report(serde_json::from_str(&text).context(text)?))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        // After `stop` there is nothing left to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The results of a load.
#[derive(Debug, Clone)]
pub struct Report(Value);

impl Report {
    /// Requests sent.
    pub fn sent(&self) -> u64 {
        self.0["sent"].as_u64().unwrap_or(0)
    }

    /// Requests that failed in any way.
    pub fn failed(&self) -> u64 {
        self.0["failed"].as_u64().unwrap_or(u64::MAX)
    }

    /// Requests whose kind of failure contains `word`, such as `Get` or `refused`.
    pub fn failed_with(&self, word: &str) -> u64 {
        let failures = self.0["failures"].as_object();
        let of = failures
            .into_iter()
            .flatten()
            .filter(|(kind, _)| kind.contains(word));
        of.filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// How many processes answered.
    pub fn answered_by(&self) -> usize {
        self.0["tally"].as_object().map_or(0, serde_json::Map::len)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |key: &str| self.0[key].as_f64().unwrap_or(f64::NAN);
        write!(
            f,
            "{} sent ({} POST), {} failed, longest gap {:.0} ms, p50 {:.1} ms, p99 {:.1} ms",
            self.sent(),
            self.0["posts"],
            self.failed(),
            number("longestGapMs"),
            number("p50Ms"),
            number("p99Ms"),
        )?;
        if self.failed() > 0 {
            write!(f, "; {}", self.0["failures"])?;
        }
        Ok(())
    }
}

/// Addresses of all slots of a `ScaledApp`, with the port of their Services.
///
/// # Errors
/// The status has no slots, or a slot has no IP address.
pub fn slots(app: &Value) -> anyhow::Result<Vec<SocketAddr>> {
    let slots = app["status"]["balancers"]
        .as_array()
        .context("no balancers in status")?;
    let addresses = slots.iter().map(|slot| {
        let text = slot["address"]
            .as_str()
            .context("a slot without an address")?;
        Ok(SocketAddr::new(text.parse::<IpAddr>()?, 80))
    });
    addresses.collect()
}
