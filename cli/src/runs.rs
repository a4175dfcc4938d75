//! Which runs there are, which of them live, and which one a command means.
//!
//! A state file outlives a run that was killed, and its addresses may be those
//! of another app by now. So it counts only while its writer holds it, and
//! before anything is done to a pod, the supervisor that answers there has to be
//! that pod's.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};

use crate::directory::{self, Unsafe, Writer};
use crate::rundir::{self, Root};
use crate::state::{PodState, State, StateFile};

/// The variable by which a supervisor is told its pod.
pub(crate) const POD: &str = "SCALEDAPP_POD";

/// Runs that live, and what the user should know of others.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) living: Vec<State>,
    pub(crate) notes: Vec<String>,
}

/// The run of an app.
///
/// # Errors
/// It does not run here, or the state file is another app's.
pub(crate) fn find(name: &str, state: Option<&Path>) -> anyhow::Result<State> {
    let Runs { living, notes } = look(state, Some(name))?;
    let others: Vec<String> = living.iter().map(|run| run.app().to_owned()).collect();
    if let Some(run) = living.into_iter().find(|run| run.app() == name) {
        return Ok(run);
    }
    match (state, notes.into_iter().next()) {
        (Some(path), _) => bail!(
            "{} is the run of {}, not of {name}",
            path.display(),
            others.join(" and ")
        ),
        (None, Some(note)) => bail!("{note}"),
        (None, None) if others.is_empty() => {
            bail!("{name} does not run here: start it with `scaledapp local FILE`")
        }
        (None, None) => bail!(
            "{name} does not run here, {} does: give that name, or start {name} with `scaledapp local FILE`",
            others.join(", ")
        ),
    }
}

/// All runs of this user that live, or those of one state file. What killed
/// runs have left is removed.
///
/// # Errors
/// The state file that was named is missing, something else or left over, or
/// the place of all of them is another user's.
pub(crate) fn all(state: Option<&Path>) -> anyhow::Result<Runs> {
    look(state, None)
}

/// As [`all`]; where one app is meant, what others have left stays for a
/// command that says so.
fn look(state: Option<&Path>, only: Option<&str>) -> anyhow::Result<Runs> {
    if let Some(path) = state {
        let living = named(path)?;
        return Ok(Runs {
            living,
            notes: Vec::new(),
        });
    }
    let mut runs = Runs::default();
    let root = Root::find()?;
    let Some(all) = root.open()? else {
        return Ok(runs);
    };
    let mut names = all.names();
    names.sort();
    for name in names {
        let Ok(home) = all.private(&name, &mut Vec::new()) else {
            continue;
        };
        let app = name.to_string_lossy();
        let is_meant = only.is_none_or(|only| only == app);
        let Ok((file, text)) = home.read(OsStr::new("state.json")) else {
            // It starts, or it ended before it was ready.
            if is_meant {
                let _left = rundir::clean(&root, Some(&app));
            }
            continue;
        };
        if directory::writer(&file) == Writer::Gone {
            if !is_meant {
                continue;
            }
            let cleaned = rundir::clean(&root, Some(&app));
            runs.notes.extend(cleaned.iter().map(|name| format!(
                "{name} does not run any more: its `scaledapp local` was killed. What it left is removed now; start it again with `scaledapp local FILE`"
            )));
            continue;
        }
        let told = StateFile::parse(&text)
            .map(StateFile::runs)
            .unwrap_or_default();
        runs.living
            .extend(told.into_iter().filter(|run| run.app() == app));
    }
    Ok(runs)
}

/// The living runs of a state file that the user named.
fn named(path: &Path) -> anyhow::Result<Vec<State>> {
    let shown = path.display();
    let (file, text) = directory::read(path).map_err(|error| match error {
        Unsafe::Io(..) => {
            anyhow!("cannot read the state file {error}: is `scaledapp local` running?")
        }
        Unsafe::Owner(..) => anyhow!("the state file {error}: give the command as that user"),
        error => anyhow!("the state file {error}: give the one that `scaledapp local` has written"),
    })?;
    let told =
        StateFile::parse(&text).map_err(|error| anyhow!("{shown} is no state file: {error}"))?;
    let runs = told.runs();
    if directory::writer(&file) != Writer::Gone {
        return Ok(runs);
    }
    let answers = runs
        .iter()
        .flat_map(|run| &run.pods)
        .any(|pod| check(pod).is_ok());
    if answers {
        bail!(
            "{shown} is a copy, which cannot be checked: give the file that `scaledapp local` has written"
        );
    }
    // Whatever it is, its addresses are those of others by now.
    drop(std::fs::remove_file(path));
    bail!(
        "{} does not run any more: its `scaledapp local` was killed and left {shown}, which is removed now. Start it again with `scaledapp local FILE`",
        runs.iter().map(State::app).collect::<Vec<_>>().join(", ")
    )
}

/// Whether the supervisor that answers at a pod's admin address is that pod's.
///
/// # Errors
/// Nobody answers, or another one.
pub(crate) fn check(pod: &PodState) -> anyhow::Result<()> {
    let (name, admin) = (&pod.name, pod.admin);
    let pid = supervisor(admin).map_err(|error| {
        anyhow!("{name} does not answer at {admin} ({error}): see `scaledapp status`, it may be starting again")
    })?;
    match told(pid) {
        Ok(Some(told)) if told == *name => Ok(()),
        Ok(Some(told)) => bail!("{told} answers at {admin}, where {name} was: nothing was done"),
        Ok(None) => {
            bail!("process {pid} answers at {admin}, and it is not {name}: nothing was done")
        }
        Err(error) => bail!(
            "process {pid} answers at {admin}, and it cannot be seen whether it is {name} ({error}): give the command as the user who runs it"
        ),
    }
}

/// The process that serves the control socket of an admin address, by the
/// kernel's word (`SO_PEERCRED`: who has called listen(2)).
fn supervisor(admin: SocketAddr) -> io::Result<i32> {
    let address = UnixAddr::from_abstract_name(format!("scaledapp-sidecar/{admin}"))?;
    let stream = UnixStream::connect_addr(&address)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    Ok(peer.pid.as_raw_nonzero().get())
}

/// The pod that a process was told to be.
fn told(pid: i32) -> io::Result<Option<String>> {
    let environment = std::fs::read(PathBuf::from(format!("/proc/{pid}/environ")))?;
    Ok(pod_of(&environment))
}

fn pod_of(environment: &[u8]) -> Option<String> {
    let variables = environment.split(|byte| *byte == 0);
    let mut values =
        variables.filter_map(|variable| variable.strip_prefix(POD.as_bytes())?.strip_prefix(b"="));
    values
        .next_back()
        .map(|value| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_pod_is_known_by_its_environment() {
        for (environment, pod) in [
            (
                &b"PATH=/bin\0SCALEDAPP_POD=hello-0\0X=1\0"[..],
                Some("hello-0"),
            ),
            (b"SCALEDAPP_PODS=hello-0\0", None),
            (b"X=SCALEDAPP_POD=hello-0\0", None),
            (b"", None),
        ] {
            assert_eq!(pod_of(environment).as_deref(), pod);
        }
    }

    #[test]
    fn what_answers_at_a_pods_address_and_is_not_it_is_named() {
        let admin: SocketAddr = "127.0.251.1:9377".parse().unwrap();
        let pod = PodState {
            name: "hello-0".to_owned(),
            address: admin,
            admin,
        };
        let error = check(&pod).unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
        let address = UnixAddr::from_abstract_name(format!("scaledapp-sidecar/{admin}")).unwrap();
        let _other = UnixListener::bind_addr(&address).unwrap();
        let error = check(&pod).unwrap_err().to_string();
        assert!(
            error.contains("it is not hello-0: nothing was done"),
            "{error}"
        );
    }
}
