//! `local --watch`: after a change of an app's files, its workers are replaced, pod by pod. A
//! release that does not start changes nothing. `files` decides which files count and notices
//! changes.

mod files;
mod loops;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use scaledapp_wire::{Status, WorkerState};
use tokio::time::Instant;

use crate::ask;
use crate::output::Output;
use files::Watcher;
use loops::Loops;

/// An app whose files are watched.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) name: String,
    /// The directory in which its command starts.
    pub(crate) directory: PathBuf,
    /// The names and admin addresses of its pods.
    pub(crate) pods: Vec<(String, SocketAddr)>,
}

/// Begins to watch the files of apps.
///
/// # Errors
/// A directory has too many files, or the kernel allows no more watches.
pub(crate) fn watch(apps: Vec<Watched>) -> anyhow::Result<Watching> {
    let mut roots: Vec<PathBuf> = apps.iter().map(|app| app.directory.clone()).collect();
    roots.sort();
    roots.dedup();
    Ok(Watching {
        watcher: Watcher::new(roots)?,
        apps,
    })
}

/// The watched apps.
#[derive(Debug)]
pub(crate) struct Watching {
    apps: Vec<Watched>,
    watcher: Watcher,
}

impl Watching {
    /// What is watched, in one line.
    pub(crate) fn describe(&self) -> String {
        format!(
            "  watching {} in {}: a change reloads\n",
            match self.watcher.count() {
                1 => "1 file".to_owned(),
                count => format!("{count} files"),
            },
            self.watcher.roots()
        )
    }

    /// Reloads after each change, until the caller drops the future. `object` is the file of the
    /// apps, which is read only at the start; `sidecar` is the supervisor's program.
    pub(crate) async fn run(mut self, object: PathBuf, sidecar: PathBuf, output: Output) {
        let mut loops = Loops::default();
        loop {
            let changed = match self.watcher.changed().await {
                Ok(changed) => changed,
                Err(error) => {
                    let text = format!("changes are no longer noticed: {error:#}\n");
                    output.say(&text).await;
                    return;
                }
            };
            let (objects, files): (Vec<_>, Vec<_>) =
                changed.iter().partition(|path| **path == object);
            if !objects.is_empty() {
                let name = shown(&object, &object);
                output
                    .say(&format!(
                        "{name} has changed: that takes effect at the next start\n"
                    ))
                    .await;
            }
            for app in &self.apps {
                let own = files.iter().filter(|path| path.starts_with(&app.directory));
                let own: Vec<&PathBuf> = own.copied().collect();
                if !own.is_empty() {
                    output.say(&cause(app, &own)).await;
                    let text = reload(app, &sidecar).await;
                    output.say(&text).await;
                }
            }
            // An error shows again at the next change.
            let meanwhile = self.watcher.pending().unwrap_or_default();
            for file in loops.reloaded(&meanwhile) {
                let text = format!(
                    "{} changes at every start of the app, which would never end: its changes no longer count; name it in .gitignore\n",
                    file.display()
                );
                output.say(&text).await;
                self.watcher.ignore(file);
            }
        }
    }
}

/// Why an app is reloaded.
fn cause(app: &Watched, changed: &[&PathBuf]) -> String {
    let first = changed
        .first()
        .map_or(String::new(), |path| shown(path, &app.directory));
    let more = match changed.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    format!("{}: {first}{more} changed: reloading\n", app.name)
}

/// A path for people: from the directory on, or its name.
fn shown(path: &Path, directory: &Path) -> String {
    let short = path.strip_prefix(directory).ok();
    let short = short.filter(|short| !short.as_os_str().is_empty());
    let name = short.map(Path::as_os_str).or_else(|| path.file_name());
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// Replaces the workers of an app, pod by pod, up to the first pod that fails. Returns what to
/// say. The supervisor's message contains the last lines of the app.
async fn reload(app: &Watched, sidecar: &Path) -> String {
    let begun = Instant::now();
    let mut first = None;
    for (name, admin) in &app.pods {
        // A pod that does not run needs no reload: it starts with the changed files.
        if ask::status::<Status>(*admin).await.is_err() {
            continue;
        }
        first = first.or(Some(*admin));
        if let Err(error) = ctl_reload(*admin, sidecar).await {
            let serving = match serving(*admin).await {
                Some(generation) => format!("still serving generation {generation}"),
                None => "no worker is ready".to_owned(),
            };
            return format!(
                "{name}: the change does not start: {error:#}\n{}: {serving}\n",
                app.name
            );
        }
    }
    let Some(first) = first else {
        return format!(
            "{}: no pod runs; the next one starts with the change\n",
            app.name
        );
    };
    let generation = serving(first).await;
    let generation = generation.map_or_else(String::new, |it| format!(" generation {it}"));
    let took = begun.elapsed().as_secs_f64();
    format!("{}: serving{generation} after {took:.1} s\n", app.name)
}

async fn ctl_reload(admin: SocketAddr, sidecar: &Path) -> anyhow::Result<()> {
    let admin = admin.to_string();
    let output = tokio::process::Command::new(sidecar)
        .args(["ctl", "--admin", &admin, "reload"])
        .kill_on_drop(true)
        .output()
        .await
        .context("scaledapp-sidecar cannot be started")?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason = reason.trim();
    let reason = reason.strip_prefix("scaledapp-sidecar: ").unwrap_or(reason);
    anyhow::bail!("{reason}")
}

/// The newest generation that serves.
async fn serving(admin: SocketAddr) -> Option<u32> {
    let status: Status = ask::status(admin).await.ok()?;
    let ready = status.workers.iter();
    let ready = ready.filter(|worker| worker.state == WorkerState::Ready);
    ready.map(|worker| worker.generation).max()
}
