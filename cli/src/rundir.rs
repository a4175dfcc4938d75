//! The files of a run: where they are, which run owns them, and their removal.
//!
//! Each app has a directory, `$XDG_RUNTIME_DIR/scaledapp/NAME/`. If that variable names no usable
//! directory of the user, the app's directory is `scaledapp-UID/NAME/` in the directory for
//! temporary files (`$TMPDIR`, otherwise `/tmp`). All of these directories are private to the user.
//! The run locks the directories of its apps; the kernel releases the locks no matter how the run
//! ends.
//!
//! Each app's state file is in the app's directory, and `--state-file` adds another one. All other
//! files are in the directory of the first app, unless `--workdir` names another one. If another
//! run of the first app has locked that directory, they are in `NAME.PID/` beside it.
//!
//! `directory` checks that a directory is safe, and `state` defines the content of a state file.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use crate::directory::{self, Directory, For, Made, Unsafe, Writer};
use crate::state::{State, StateFile};

/// A state file's name in an app's directory.
const STATE: &str = "state.json";
/// Maximum number of attempts to lock a directory. A command that removes old files may have locked
/// it briefly.
const MAX_ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The directory of all runs of this user.
#[derive(Debug)]
pub(crate) struct Root {
    parent: Directory,
    name: OsString,
}

impl Root {
    /// Finds the path of the directory, which may not exist yet.
    ///
    /// # Errors
    /// Other users could change the parent of the directory.
    pub(crate) fn find() -> Result<Self, Unsafe> {
        if let Some(parent) = runtime_directory() {
            let name = OsString::from("scaledapp");
            return Ok(Self { parent, name });
        }
        let parent = Directory::open(&std::env::temp_dir())?;
        let name = OsString::from(format!("scaledapp-{}", directory::our_uid()));
        Ok(Self { parent, name })
    }

    fn make(&self, made: &mut Vec<Made>) -> Result<Directory, Unsafe> {
        self.parent.private(&self.name, made)
    }

    /// Opens the directory. Returns `None` if it does not exist, because then nothing runs.
    ///
    /// # Errors
    /// The directory belongs to another user, or other users may enter it.
    pub(crate) fn open(&self) -> Result<Option<Directory>, Unsafe> {
        self.parent.existing(&self.name)
    }

    fn remove_if_empty(&self) {
        self.parent.remove_directory(&self.name);
    }
}

/// `$XDG_RUNTIME_DIR` if it belongs to the current user, as its specification demands. Under
/// `sudo` it may belong to another user.
fn runtime_directory() -> Option<Directory> {
    let path = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    if !path.is_absolute() {
        return None;
    }
    let refused = match Directory::open(&path) {
        Ok(directory) if directory.is_ours() => return Some(directory),
        Ok(_) => "it belongs to another user".to_owned(),
        Err(error) if error.is_missing() => return None,
        Err(error) => error.to_string(),
    };
    let temporary = std::env::temp_dir();
    tracing::warn!(
        "using {} instead of XDG_RUNTIME_DIR: {refused}",
        temporary.display()
    );
    None
}

/// Removes the files of killed runs: of one app, or of all. Returns the names of the apps.
pub(crate) fn clean(root: &Root, only: Option<&str>) -> Vec<String> {
    let Ok(Some(all)) = root.open() else {
        return Vec::new();
    };
    let mut cleaned = Vec::new();
    for name in all.names() {
        let shown = name.to_string_lossy().into_owned();
        if only.is_some_and(|only| only != shown) {
            continue;
        }
        let Ok(home) = all.private(&name, &mut Vec::new()) else {
            continue;
        };
        if matches!(home.lock(), Ok(true)) {
            home.clear();
            all.remove_directory(&name);
            cleaned.push(shown);
        }
    }
    root.remove_if_empty();
    cleaned
}

/// One state file of the run.
#[derive(Debug)]
struct StatePlace {
    directory: Directory,
    name: OsString,
    /// The index of the app that the file describes; `None` if it describes all apps.
    app: Option<usize>,
    /// The written file. As long as it is open, readers can see that this run has not ended.
    kept: Option<File>,
}

/// The directories and files of one run.
#[derive(Debug)]
pub(crate) struct RunDir {
    work: Directory,
    /// The files that the run has written to `work`.
    files: RefCell<BTreeSet<OsString>>,
    root: Option<(Root, Directory)>,
    /// The locked directories of the apps, by name.
    homes: Vec<(OsString, Directory)>,
    /// Directories that the run made; the innermost first.
    made: Vec<Made>,
    states: Vec<StatePlace>,
}

impl RunDir {
    /// Locks the apps' names and makes their directories. State files of an earlier run are
    /// removed, so that a state file exists only once the run is ready.
    ///
    /// # Errors
    /// An app runs here already and no other state file was given, a directory or the given state
    /// file cannot be made, or another user could change what is in one of the directories.
    pub(crate) fn take(
        names: &[&str],
        work: Option<&Path>,
        state: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let mut made = Vec::new();
        let explicit = state.map(explicit_place).transpose()?;
        let mut homes = Vec::new();
        let mut states = Vec::new();
        let root = match taken_root(&mut made) {
            Ok(root) => Some(root),
            Err(error) if work.is_some() && state.is_some() => {
                tracing::warn!("commands for this run need --state-file: {error:#}");
                None
            }
            Err(error) => return Err(error),
        };
        for (app, name) in names.iter().enumerate() {
            let Some((root, all)) = &root else { continue };
            match taken_home(root, all, OsStr::new(name), &mut made)? {
                Some(home) => {
                    states.push(StatePlace {
                        directory: home.again()?,
                        name: OsString::from(STATE),
                        app: Some(app),
                        kept: None,
                    });
                    homes.push((OsString::from(name), home));
                }
                None if state.is_none() => bail!(
                    "{name} runs here already (see `scaledapp status {name}`): stop that run, or give this one its own --state-file"
                ),
                None => {}
            }
        }
        let work = match (work, homes.first(), &root) {
            (Some(work), ..) => Directory::make(work, &mut made).map_err(|error| {
                anyhow!(
                    "--workdir: {error}; give a directory of your own, or one that does not exist yet"
                )
            })?,
            (None, Some((name, home)), _) if name.as_os_str() == names[0] => home.again()?,
            (None, _, Some((root, all))) => {
                let name = OsString::from(format!("{}.{}", names[0], std::process::id()));
                let home = taken_home(root, all, &name, &mut made)?;
                let home = home
                    .with_context(|| format!("{} is in use", all.path().join(&name).display()))?;
                let work = home.again()?;
                homes.push((name, home));
                work
            }
            (None, ..) => bail!("there is no directory for the run's files: give --workdir"),
        };
        states.extend(explicit);
        Ok(Self {
            work,
            files: RefCell::default(),
            root,
            homes,
            made,
            states,
        })
    }

    /// The path of a file of the run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Writes `value` as JSON to a file of the run. Readers see either the old or the new file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let name = OsStr::new(name);
        self.files.borrow_mut().insert(name.to_owned());
        // The file is closed, because its readers do not check whether this run has ended.
        drop(write(&self.work, name, value)?);
        Ok(())
    }

    /// Writes a line to a file of the run that no other user may read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_secret(&self, name: &str, line: &str) -> anyhow::Result<()> {
        let name = OsStr::new(name);
        self.files.borrow_mut().insert(name.to_owned());
        let text = format!("{line}\n");
        let written = self.work.replace(name, text.as_bytes(), For::Us);
        drop(written.context("cannot write a file of the run")?);
        Ok(())
    }

    /// Writes all state files.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub(crate) fn publish(&mut self, apps: &[State]) -> anyhow::Result<()> {
        for place in &mut self.states {
            let state = match place.app {
                Some(app) => StateFile::of(&apps[app..=app]),
                None => StateFile::of(apps),
            };
            place.kept = Some(write(&place.directory, &place.name, &state)?);
        }
        Ok(())
    }
}

impl Drop for RunDir {
    /// Removes the files and directories that the run made, and the directories of its apps if they
    /// are empty.
    fn drop(&mut self) {
        for place in &self.states {
            if place.kept.is_some() {
                place.directory.remove(&place.name);
            }
        }
        for name in self.files.borrow().iter() {
            self.work.remove(name);
        }
        for made in &self.made {
            made.remove();
        }
        if let Some((root, all)) = &self.root {
            for (name, _home) in &self.homes {
                all.remove_directory(name);
            }
            root.remove_if_empty();
        }
    }
}

fn write(directory: &Directory, name: &OsStr, value: &impl Serialize) -> anyhow::Result<File> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    directory
        .replace(name, &text, For::All)
        .context("cannot write a file of the run")
}

fn taken_root(made: &mut Vec<Made>) -> anyhow::Result<(Root, Directory)> {
    const CURE: &str =
        "set XDG_RUNTIME_DIR or TMPDIR to a directory of your own, or remove that directory";
    let root = Root::find().map_err(|error| anyhow!("{error}; {CURE}"))?;
    let mut tries = 0;
    loop {
        match root.make(made) {
            Ok(all) => return Ok((root, all)),
            Err(error) if error.is_missing() && tries < MAX_ATTEMPTS => tries += 1,
            Err(error) => bail!("{error}; {CURE}"),
        }
    }
}

/// Makes the directory of a name, locked and empty. Returns `None` if another run has locked it.
fn taken_home(
    root: &Root,
    all: &Directory,
    name: &OsStr,
    made: &mut Vec<Made>,
) -> anyhow::Result<Option<Directory>> {
    for _ in 0..MAX_ATTEMPTS {
        let home = match all.private(name, made) {
            // Another run that ended has just removed the root.
            Err(error) if error.is_missing() => {
                drop(root.make(made)?);
                continue;
            }
            home => home?,
        };
        if !home.lock()? {
            std::thread::sleep(PAUSE);
            continue;
        }
        if home.is_still(all, name) {
            // Any files are those of a run that was killed.
            home.clear();
            return Ok(Some(home));
        }
    }
    Ok(None)
}

/// Prepares the state file that the user named. An existing file is removed if it is empty or a
/// state file, unless the run that wrote it is alive.
fn explicit_place(path: &Path) -> anyhow::Result<StatePlace> {
    let shown = path.display();
    let absolute = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        bail!("--state-file {shown} is not a file name: give a file in an existing directory");
    };
    let directory = Directory::open(parent).map_err(|error| {
        if error.is_missing() {
            anyhow!(
                "--state-file {shown}: the directory {} does not exist: make it",
                parent.display()
            )
        } else {
            anyhow!("--state-file {shown}: {error}; give a file in a directory of your own")
        }
    })?;
    match directory.read(name) {
        Err(error) if error.is_missing() => {}
        Err(error) => bail!("--state-file: {error}; give another one"),
        Ok((_, text)) if !text.trim().is_empty() && StateFile::parse(&text).is_err() => {
            bail!("--state-file {shown} exists and is not a state file: give another one")
        }
        Ok((file, _)) if directory::writer(&file) == Writer::Lives => {
            bail!("--state-file {shown} belongs to a run that is alive: give another one")
        }
        Ok(_) => directory.remove(name),
    }
    // Checks now that the file can be written, instead of when everything runs.
    let trial = directory
        .replace(name, b"", For::All)
        .map_err(|error| anyhow!("--state-file {shown} cannot be written: {error}"))?;
    drop(trial);
    directory.remove(name);
    Ok(StatePlace {
        directory,
        name: name.to_owned(),
        app: None,
        kept: None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn name(of: &str) -> String {
        format!("test-{of}-{}", std::process::id())
    }

    fn state(app: &str) -> State {
        State {
            dns: "127.0.0.1:5353".parse().unwrap(),
            hostname: "h".to_owned(),
            balancers: vec![],
            pods: vec![crate::state::PodState {
                name: format!("{app}-0"),
                address: "127.0.78.1:3000".parse().unwrap(),
                admin: "127.0.78.1:9377".parse().unwrap(),
            }],
            app: None,
            autoscaling: None,
        }
    }

    fn home(name: &str) -> PathBuf {
        let root = Root::find().unwrap();
        root.parent.path().join(&root.name).join(name)
    }

    #[test]
    fn a_run_removes_its_files_and_no_others() {
        let outside = tempfile::tempdir().unwrap();
        let (work, file) = (
            outside.path().join("a/work"),
            outside.path().join("state.json"),
        );
        let name = name("clean");
        let mut run = RunDir::take(&[&name], Some(&work), Some(&file)).unwrap();
        run.publish(&[state(&name)]).unwrap();
        run.write("endpoints.json", &1).unwrap();
        assert!(file.is_file() && work.join("endpoints.json").is_file());
        assert!(home(&name).join(STATE).is_file());
        drop(run);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!home(&name).exists());
    }

    #[test]
    fn a_directory_that_existed_before_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("mine"), "").unwrap();
        drop(RunDir::take(&[&name("stays")], Some(outside.path()), None).unwrap());
        assert!(outside.path().join("mine").is_file());
    }

    #[test]
    fn a_second_run_of_an_app_needs_its_own_state_file() {
        let outside = tempfile::tempdir().unwrap();
        let name = name("twice");
        let first = RunDir::take(&[&name], None, None).unwrap();
        let error = RunDir::take(&[&name], None, None).unwrap_err().to_string();
        assert!(error.contains("--state-file"), "{error}");
        let second = RunDir::take(&[&name], None, Some(&outside.path().join("s"))).unwrap();
        assert_ne!(first.work.path(), second.work.path());
        drop((first, second));
        RunDir::take(&[&name], None, None).unwrap();
    }

    #[test]
    fn each_app_of_a_run_has_a_state_file_and_the_given_file_describes_all_apps() {
        let outside = tempfile::tempdir().unwrap();
        let (one, two) = (name("one"), name("two"));
        let file = outside.path().join("state.json");
        let mut run = RunDir::take(&[&one, &two], None, Some(&file)).unwrap();
        run.publish(&[state(&one), state(&two)]).unwrap();
        let apps = |path: &Path| -> Vec<String> {
            let text = fs::read_to_string(path).unwrap();
            let file = StateFile::parse(&text).unwrap();
            file.runs().iter().map(|run| run.app().to_owned()).collect()
        };
        assert_eq!(apps(&home(&one).join(STATE)), std::slice::from_ref(&one));
        assert_eq!(apps(&home(&two).join(STATE)), std::slice::from_ref(&two));
        assert_eq!(apps(&file), [one.clone(), two.clone()]);
        drop(run);
        assert!(!home(&one).exists() && !home(&two).exists() && !file.exists());
    }

    #[test]
    fn files_of_a_killed_run_are_removed_and_those_of_a_living_one_stay() {
        let (dead, alive) = (name("dead"), name("alive"));
        let mut run = RunDir::take(&[&alive], None, None).unwrap();
        run.publish(&[state(&alive)]).unwrap();
        fs::create_dir(home(&dead)).unwrap();
        fs::set_permissions(
            home(&dead),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        fs::write(home(&dead).join(STATE), "{}").unwrap();
        let root = Root::find().unwrap();
        assert_eq!(clean(&root, Some(&dead)), std::slice::from_ref(&dead));
        assert_eq!(clean(&root, Some(&alive)), Vec::<String>::new());
        assert!(!home(&dead).exists() && home(&alive).join(STATE).is_file());
    }

    #[test]
    fn a_file_that_is_not_a_state_file_is_neither_removed_nor_overwritten() {
        let outside = tempfile::tempdir().unwrap();
        let file = outside.path().join("server.js");
        fs::write(&file, "precious").unwrap();
        let take = || RunDir::take(&[&name("file")], None, Some(&file)).map(drop);
        let error = take().unwrap_err().to_string();
        assert!(error.contains("is not a state file"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/null", &file).unwrap();
        let error = take().unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
