//! The state file: where everything of a run is (its keys are fixed).
//!
//! It is written by rename when all is ready, so that whoever sees it may
//! use what it names. Where files are is decided in [`crate::rundir`].

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use scaledapp_plan::local::Plan;
use serde::{Deserialize, Serialize};

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The DNS server.
    pub(crate) dns: SocketAddr,
    /// The app's name.
    pub(crate) hostname: String,
    /// The balancers.
    pub(crate) balancers: Vec<SocketAddr>,
    /// The pods.
    pub(crate) pods: Vec<PodState>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodState {
    /// `APP-INDEX`.
    pub(crate) name: String,
    /// Where the app is served.
    pub(crate) address: SocketAddr,
    /// Its supervisor's admin port.
    pub(crate) admin: SocketAddr,
}

impl State {
    /// The state of a run that is ready.
    pub(crate) fn of(plan: &Plan) -> Self {
        let pods = plan.pods.iter().map(|pod| PodState {
            name: pod.name.clone(),
            address: pod.address,
            admin: pod.admin,
        });
        Self {
            dns: plan.dns.listen,
            hostname: plan.dns.hostname.to_string(),
            balancers: plan.slots.iter().map(|slot| slot.address).collect(),
            pods: pods.collect(),
        }
    }

    /// Name of the app: that of its pods, less their number.
    pub(crate) fn app(&self) -> &str {
        let first = self.pods.first().map_or("", |pod| pod.name.as_str());
        first.rsplit_once('-').map_or(first, |(app, _)| app)
    }

    /// Reads a state file.
    ///
    /// # Errors
    /// It is not there or holds something else.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read the state file {}: is `scaledapp local` running?",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is no state file", path.display()))
    }
}

/// Puts `value` as JSON at `path`, for readers either the old or the new file.
///
/// # Errors
/// The directory is missing or not writable.
pub(crate) fn replace(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let partial = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&partial)?;
        serde_json::to_writer(&mut file, value)?;
        file.write_all(b"\n")?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_contract() {
        let json = r#"{"dns":"127.0.0.1:5353","hostname":"hello.apps.local","balancers":["127.0.77.1:8080"],"pods":[{"name":"my-app-0","address":"127.0.78.1:3000","admin":"127.0.78.1:9377"}]}"#;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::write(&path, json).unwrap();
        let state = State::read(&path).unwrap();
        assert_eq!(state.app(), "my-app");
        replace(&path, &state).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), json);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_file_hints_at_the_cure() {
        let error = State::read(Path::new("/nonexistent/state.json")).unwrap_err();
        assert!(
            error.to_string().contains("is `scaledapp local` running?"),
            "{error}"
        );
    }
}
