//! The files of a run: where they are, who owns the place, and that nothing
//! is left of them.
//!
//! `$XDG_RUNTIME_DIR/scaledapp/NAME/`, or `/tmp/scaledapp-UID/NAME/` without it.
//! The owner of a name holds an abstract socket (unix(7)) of that name, which
//! the kernel frees however the owner ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::addresses::{Reservation, reserve};
use crate::state;

const STATE: &str = "state.json";

/// The places of one run.
#[derive(Debug)]
pub(crate) struct RunDir {
    work: PathBuf,
    /// Directories that were not there before; the innermost first.
    made: Vec<PathBuf>,
    states: Vec<PathBuf>,
    _owner: Option<Reservation>,
}

impl RunDir {
    /// Takes the app's name and makes its directory. A state file of an
    /// earlier run is removed, so that one that is there means "ready".
    ///
    /// # Errors
    /// The app runs here already and no other place was given, or a directory
    /// cannot be made.
    pub(crate) fn take(
        name: &str,
        work: Option<&Path>,
        state: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let uid = rustix::process::getuid().as_raw();
        let owner = reserve(&format!("{uid}/{name}"))?;
        let home = home(name);
        if owner.is_none() && state.is_none() {
            bail!(
                "{name} runs here already (see `scaledapp status {name}`): stop that one, or give this one a --state-file of its own"
            );
        }
        let mut made = Vec::new();
        let mut states = Vec::new();
        if owner.is_some() {
            // What a run left that could not clean up.
            drop(fs::remove_dir_all(&home));
            make(&home, &mut made)?;
            states.push(home.join(STATE));
        }
        let work = match work {
            Some(work) => std::path::absolute(work)?,
            None if owner.is_some() => home,
            None => home.with_file_name(format!("{name}.{}", std::process::id())),
        };
        make(&work, &mut made)?;
        if let Some(state) = state {
            states.push(std::path::absolute(state)?);
        }
        let taken = Self {
            work,
            made,
            states,
            _owner: owner,
        };
        taken.remove_states();
        Ok(taken)
    }

    /// Path of a file of the run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Writes the state to every place that was asked for.
    ///
    /// # Errors
    /// One of them is not writable.
    pub(crate) fn publish(&self, state: &state::State) -> anyhow::Result<()> {
        self.states
            .iter()
            .try_for_each(|path| state::replace(path, state))
    }

    fn remove_states(&self) {
        for path in &self.states {
            drop(fs::remove_file(path));
        }
    }
}

impl Drop for RunDir {
    /// Removes what the run made, and nothing else.
    fn drop(&mut self) {
        self.remove_states();
        for name in [ENDPOINTS, RECORDS, TOKEN] {
            drop(fs::remove_file(self.work.join(name)));
        }
        for directory in &self.made {
            // Not empty: somebody else's file is in it, or another run.
            drop(fs::remove_dir(directory));
        }
        drop(fs::remove_dir(root()));
    }
}

/// The pods, for balancers.
pub(crate) const ENDPOINTS: &str = "endpoints.json";
/// The app's name, for DNS.
pub(crate) const RECORDS: &str = "records.json";
/// Shows pods that a balancer of theirs speaks.
pub(crate) const TOKEN: &str = "token";

/// State files of all runs of this user, or of one app.
pub(crate) fn states(name: Option<&str>) -> Vec<PathBuf> {
    if let Some(name) = name {
        return vec![home(name).join(STATE)];
    }
    let runs = fs::read_dir(root()).into_iter().flatten().flatten();
    let mut states: Vec<PathBuf> = runs
        .map(|run| run.path().join(STATE))
        .filter(|path| path.is_file())
        .collect();
    states.sort();
    states
}

fn root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_dir() => directory.join("scaledapp"),
        _ => {
            let uid = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("scaledapp-{uid}"))
        }
    }
}

fn home(name: &str) -> PathBuf {
    root().join(name)
}

/// Makes a directory and those above it that only we may enter; notes what is new.
fn make(directory: &Path, made: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    // The end of another run may take an empty parent away from under us.
    for _ in 0..10 {
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {
                made.insert(0, directory.to_owned());
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return is_ours(directory);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(directory.parent().unwrap_or(Path::new("/")), made)?;
            }
            Err(error) => {
                let shown = directory.display();
                return Err(error).with_context(|| format!("cannot make the directory {shown}"));
            }
        }
    }
    bail!(
        "cannot make the directory {}: it disappears again and again",
        directory.display()
    )
}

/// `/tmp` is everybody's: a place that another user made is theirs.
fn is_ours(directory: &Path) -> anyhow::Result<()> {
    let ours = rustix::process::getuid().as_raw();
    let owner = fs::symlink_metadata(directory)?.uid();
    ensure!(
        fs::metadata(directory)?.is_dir() && (owner == ours || ours == 0),
        "{} is not our directory: remove it, or give --workdir and --state-file",
        directory.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(of: &str) -> String {
        format!("test-{of}-{}", std::process::id())
    }

    #[test]
    fn nothing_is_left_of_a_run_but_what_was_there_before() {
        let outside = tempfile::tempdir().unwrap();
        let (work, state) = (
            outside.path().join("a/work"),
            outside.path().join("state.json"),
        );
        let name = name("clean");
        let run = RunDir::take(&name, Some(&work), Some(&state)).unwrap();
        let plan = state::State {
            dns: "127.0.0.1:5353".parse().unwrap(),
            hostname: "h".to_owned(),
            balancers: vec![],
            pods: vec![],
        };
        run.publish(&plan).unwrap();
        state::replace(&run.file(ENDPOINTS), &1).unwrap();
        assert!(state.is_file() && work.join(ENDPOINTS).is_file());
        assert!(states(Some(&name))[0].is_file());
        drop(run);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!home(&name).exists());
    }

    #[test]
    fn a_directory_that_was_there_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("mine"), "").unwrap();
        drop(RunDir::take(&name("stays"), Some(outside.path()), None).unwrap());
        assert!(outside.path().join("mine").is_file());
    }

    #[test]
    fn a_second_run_of_a_name_needs_its_own_state_file() {
        let outside = tempfile::tempdir().unwrap();
        let name = name("twice");
        let first = RunDir::take(&name, None, None).unwrap();
        let error = RunDir::take(&name, None, None).unwrap_err().to_string();
        assert!(error.contains("--state-file"), "{error}");
        let second = RunDir::take(&name, None, Some(&outside.path().join("s"))).unwrap();
        assert_ne!(first.work, second.work);
        drop((first, second));
        RunDir::take(&name, None, None).unwrap();
    }
}
