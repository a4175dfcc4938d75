//! Finds the runs of this user, and the run that a command is for.
//!
//! The state file of a killed run remains, and its addresses may belong to another app by now.
//! Therefore a state file is valid only while its writer has it open. Before a command acts on a
//! pod, it checks that the supervisor at the address belongs to that pod.

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

/// The environment variable with the name of a supervisor's pod.
pub(crate) const POD: &str = "SCALEDAPP_POD";

/// The live runs, and notes for the user about killed runs.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) living: Vec<State>,
    pub(crate) notes: Vec<String>,
}

/// Finds the run of an app.
///
/// # Errors
/// The app does not run here, the state file is another app's, or one of the errors of [`all`].
pub(crate) fn find(name: &str, state: Option<&Path>) -> anyhow::Result<State> {
    let Runs { living, notes } = look(state, Some(name))?;
    let others: Vec<String> = living.iter().map(|run| run.app().to_owned()).collect();
    if let Some(run) = living.into_iter().find(|run| run.app() == name) {
        return Ok(run);
    }
    match (state, notes.into_iter().next()) {
        (Some(path), _) => bail!(
            "{} belongs to the run of {}, not of {name}",
            path.display(),
            others.join(" and ")
        ),
        (None, Some(note)) => bail!("{note}"),
        (None, None) if others.is_empty() => {
            bail!("{name} does not run here: start it with `scaledapp local FILE`")
        }
        (None, None) => bail!(
            "{name} does not run here, but {}, or start {name} with `scaledapp local FILE`",
            that_run(&others)
        ),
    }
}

/// Says which other apps run, and that one of them can be named; there is at least one.
fn that_run(others: &[String]) -> String {
    match others.split_last() {
        Some((last, [])) => format!("{last} does: give that name"),
        Some((last, rest)) => format!("{} and {last} do: give one of these names", rest.join(", ")),
        None => String::new(),
    }
}

/// Finds all live runs of this user, or those of one state file. Files of killed runs are
/// removed.
///
/// # Errors
/// The given state file is missing, invalid or of a killed run, or the directory of all runs
/// belongs to another user.
pub(crate) fn all(state: Option<&Path>) -> anyhow::Result<Runs> {
    look(state, None)
}

/// Does what [`all`] does. If the command is for one app (`only`), the files of the other apps'
/// killed runs are kept, because the command would not report them.
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
            // The run is starting, or it ended before it was ready.
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
                "{name} does not run any more: its `scaledapp local` was killed. Its files are removed now; start it again with `scaledapp local FILE`"
            )));
            continue;
        }
        let file = StateFile::parse(&text)
            .map(StateFile::runs)
            .unwrap_or_default();
        runs.living
            .extend(file.into_iter().filter(|run| run.app() == app));
    }
    Ok(runs)
}

/// The live runs of a state file that the user named.
fn named(path: &Path) -> anyhow::Result<Vec<State>> {
    let shown = path.display();
    let (file, text) = directory::read(path).map_err(|error| match error {
        Unsafe::Io(..) => {
            anyhow!("cannot read the state file {error}: is `scaledapp local` running?")
        }
        Unsafe::Owner(..) => anyhow!("the state file {error}: run the command as that user"),
        error => anyhow!("the state file {error}: give the one that `scaledapp local` has written"),
    })?;
    let state =
        StateFile::parse(&text).map_err(|error| anyhow!("{shown} is not a state file: {error}"))?;
    let runs = state.runs();
    if directory::writer(&file) != Writer::Gone {
        return Ok(runs);
    }
    let answers = runs
        .iter()
        .flat_map(|run| &run.pods)
        .any(|pod| check(pod).is_ok());
    if answers {
        bail!(
            "{shown} is a copy, so it cannot be checked whether its run lives: give the file that `scaledapp local` has written"
        );
    }
    // The addresses in the file may belong to other runs by now.
    drop(std::fs::remove_file(path));
    bail!(
        "{} does not run any more: its `scaledapp local` was killed and left {shown}, which is removed now. Start it again with `scaledapp local FILE`",
        runs.iter().map(State::app).collect::<Vec<_>>().join(", ")
    )
}

/// Checks that the supervisor at a pod's admin address belongs to that pod.
///
/// # Errors
/// There is no answer, or another process answers.
pub(crate) fn check(pod: &PodState) -> anyhow::Result<()> {
    let (name, admin) = (&pod.name, pod.admin);
    let pid = supervisor(admin).map_err(|error| {
        anyhow!("{name} does not answer at {admin} ({error}): it may be restarting, see `scaledapp status`")
    })?;
    match pod_name(pid) {
        Ok(Some(pod)) if pod == *name => Ok(()),
        Ok(Some(pod)) => bail!("{pod} answers at {admin}, where {name} was: nothing was done"),
        Ok(None) => {
            bail!("process {pid} answers at {admin}, but it is not {name}: nothing was done")
        }
        Err(error) => bail!(
            "process {pid} answers at {admin}, but it cannot be checked whether it is {name} ({error}): run the command as the user of that process"
        ),
    }
}

/// The process that serves the control socket of an admin address. The kernel reports the process
/// that called listen(2) (`SO_PEERCRED`).
fn supervisor(admin: SocketAddr) -> io::Result<i32> {
    let address = UnixAddr::from_abstract_name(format!("scaledapp-sidecar/{admin}"))?;
    let stream = UnixStream::connect_addr(&address)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    Ok(peer.pid.as_raw_nonzero().get())
}

/// The pod name in the environment of a process.
fn pod_name(pid: i32) -> io::Result<Option<String>> {
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
    fn the_other_apps_that_run_are_named_in_a_sentence() {
        for (others, said) in [
            (&["chat"][..], "chat does: give that name"),
            (&["api", "chat"], "api and chat do: give one of these names"),
            (&["a", "b", "c"], "a, b and c do: give one of these names"),
        ] {
            let others: Vec<String> = others.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(that_run(&others), said);
        }
    }

    #[test]
    fn a_pod_is_recognised_by_its_environment() {
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
    fn another_process_at_a_pods_address_is_named() {
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
