//! `scale`, `reload` and `logs` of a run: the supervisor's own `ctl`, pod by pod.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, bail};

use crate::binaries::find;
use crate::rundir;
use crate::state::{PodState, State};

/// Sets the number of workers in each pod.
///
/// # Errors
/// The app does not run here, or a pod did not do it.
pub(crate) fn scale(name: &str, state: Option<&Path>, workers: &str) -> anyhow::Result<String> {
    each_pod(name, state, |pod| {
        ctl(pod, &["scale", workers])?;
        Ok(format!("{}: scaled to {workers}\n", pod.name))
    })
}

/// Replaces all workers, pod by pod, and stops at the first pod that fails: a
/// broken release then costs one pod's new workers and nobody's request.
///
/// # Errors
/// As [`scale`].
pub(crate) fn reload(name: &str, state: Option<&Path>) -> anyhow::Result<String> {
    each_pod(name, state, |pod| {
        ctl(pod, &["reload"])?;
        Ok(format!("{}: reloaded\n", pod.name))
    })
}

/// The last stderr lines of each worker, as `POD/SLOT | line`.
///
/// # Errors
/// As [`scale`].
pub(crate) fn logs(name: &str, state: Option<&Path>) -> anyhow::Result<String> {
    each_pod(name, state, |pod| {
        let lines = ctl(pod, &["logs"])?;
        let named: Vec<String> = lines
            .lines()
            .map(|line| format!("{}/{line}\n", pod.name))
            .collect();
        Ok(named.concat())
    })
}

/// One pod after the other, up to the first that fails; their texts together.
fn each_pod(
    name: &str,
    state: Option<&Path>,
    act: impl FnMut(&PodState) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    find_run(name, state)?.pods.iter().map(act).collect()
}

/// The run of an app.
///
/// # Errors
/// There is no state file, or it is another app's.
pub(crate) fn find_run(name: &str, state: Option<&Path>) -> anyhow::Result<State> {
    let path = match state {
        Some(path) => path.to_owned(),
        None => rundir::states(Some(name)).remove(0),
    };
    let state = State::read(&path)?;
    if state.app() != name {
        bail!(
            "{} is the run of {}, not of {name}",
            path.display(),
            state.app()
        );
    }
    Ok(state)
}

/// Runs the supervisor's `ctl` against a pod; its output.
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
