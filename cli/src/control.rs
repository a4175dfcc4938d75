//! `scale`, `reload` and `logs` of a run: they run the supervisor's `ctl`, pod by pod.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, bail};

use crate::binaries::find;
use crate::runs;
use crate::state::PodState;

/// Sets the number of workers in each pod. Returns a line for each pod.
///
/// # Errors
/// The app does not run here, or `ctl` failed for a pod.
pub(crate) fn scale(name: &str, state: Option<&Path>, workers: &str) -> anyhow::Result<String> {
    each_pod(name, state, |pod| {
        ctl(pod, &["scale", workers])?;
        let meaning = match workers.trim_start_matches('0') {
            "" => ": no worker runs, requests get 503 until you scale it up",
            _ => "",
        };
        Ok(format!("{}: scaled to {workers}{meaning}\n", pod.name))
    })
}

/// Replaces all workers, pod by pod, and stops at the first pod that fails, so that a broken
/// release costs only the new workers of one pod, and no request.
///
/// # Errors
/// Those of [`scale`].
pub(crate) fn reload(name: &str, state: Option<&Path>) -> anyhow::Result<String> {
    each_pod(name, state, |pod| {
        ctl(pod, &["reload"])?;
        Ok(format!("{}: reloaded\n", pod.name))
    })
}

/// The output of `logs`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Logs {
    /// The lines, each as `POD/SLOT | line`.
    pub(crate) lines: String,
    /// Where else to look, if there are no lines.
    pub(crate) note: Option<String>,
}

/// Returns the last stderr lines of each worker.
///
/// # Errors
/// Those of [`scale`].
pub(crate) fn logs(name: &str, state: Option<&Path>) -> anyhow::Result<Logs> {
    let lines = each_pod(name, state, |pod| {
        let lines = ctl(pod, &["logs"])?;
        let named: Vec<String> = lines
            .lines()
            .map(|line| format!("{}/{line}\n", pod.name))
            .collect();
        Ok(named.concat())
    })?;
    let note = lines.is_empty().then(|| {
        format!(
            "{name} has written nothing to stderr. Its stdout is not kept; it is part of the output of its `scaledapp local`"
        )
    });
    Ok(Logs { lines, note })
}

/// Calls a function for one pod after the other, up to the first that fails. Returns the joined
/// texts.
fn each_pod(
    name: &str,
    state: Option<&Path>,
    act: impl FnMut(&PodState) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let run = runs::find(name, state)?;
    // All pods are checked before the first one is changed.
    run.pods.iter().try_for_each(runs::check)?;
    run.pods.iter().map(act).collect()
}

/// Runs the supervisor's `ctl` for a pod and returns its output.
fn ctl(pod: &PodState, words: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(find("scaledapp-sidecar")?);
    command
        .args(["ctl", "--admin", &pod.admin.to_string()])
        .args(words);
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .context("scaledapp-sidecar cannot be started")?;
    if !status.success() {
        let reason = String::from_utf8_lossy(&stderr);
        let reason = reason.trim();
        let reason = reason.strip_prefix("scaledapp-sidecar: ").unwrap_or(reason);
        bail!("{}: {reason}", pod.name);
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
