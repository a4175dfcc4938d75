//! Guesses what a project's directory runs, from its files: name, command, port and readiness
//! path, each with the reason. It reads no files itself.

mod dockerfile;
mod files;
mod languages;
mod node;
mod port;
mod python;

use super::draft::{Document, Draft};
use super::forks::{self, Forks};
use super::report::Report;
use super::text::{unexpanded, words_of};
use super::tree::Node;
use files::Guess;

pub(super) use files::{FILES, IMPORTED, Project};

/// A `ScaledApp` for a project, and a sentence for each assumption.
///
/// # Errors
/// Nothing says what the project runs. The text names the cure.
pub(super) fn guess(project: &Project) -> Result<(Document, Vec<String>), String> {
    let docker = project.text("Dockerfile").map(dockerfile::read);
    let package = project.text("package.json").map(serde_json::from_str);
    if let Some(Err::<serde_json::Value, _>(error)) = package {
        return Err(format!("package.json is not valid JSON: {error}"));
    }
    let mut command = command(project, docker.as_ref()).ok_or_else(|| nothing_says(project))?;
    let forks = forks::take(&mut command.value);
    let name = languages::name(project)
        .unwrap_or_else(|| Guess::new(project.directory.clone(), "it is the directory's name"));
    let words = command.value.join(" ");
    // npm hides the port that the script names.
    let script = node::script(project).map(|(_, script)| script);
    let hidden = script.filter(|_| words.starts_with("npm "));
    let port = port::guess(project, docker.as_ref(), hidden.as_ref().unwrap_or(&words));
    let mut draft = Draft::new(&name.value);
    let mut assumed = vec![format!(
        "metadata.name {} because {}",
        draft.name, name.because
    )];
    let image = format!("{}:latest", draft.name);
    let because = if docker.is_some() {
        "the Dockerfile builds it, and nothing names it; `scaledapp local` does not pull it"
    } else {
        "there is no Dockerfile; `scaledapp local` does not need an image, a cluster does"
    };
    assumed.push(format!("spec.image {image} because {because}"));
    draft.assume("spec.image", image, format!("Assumed: {because}."));
    let texts = command.value.iter().map(|word| unexpanded(word));
    draft.assume(
        "spec.command",
        Node::texts(texts),
        format!("What one worker runs. Assumed: {}.", command.because),
    );
    assumed.push(format!(
        "spec.command {words:?} because {}",
        command.because
    ));
    let directory = docker.as_ref().and_then(|docker| docker.directory.clone());
    if let Some(directory) = directory {
        assumed.push(format!(
            "spec.workingDir {directory} because the Dockerfile says WORKDIR"
        ));
        let why = "The Dockerfile's WORKDIR. `scaledapp local` starts beside this file if it is not there.";
        draft.assume("spec.workingDir", directory, why);
    }
    draft.assume(
        "spec.port",
        port.value,
        format!("The app also gets it as PORT. Assumed: {}.", port.because),
    );
    assumed.push(format!("spec.port {} because {}", port.value, port.because));
    draft.set("spec.replicas.perNode", 1);
    match of_processes(project, forks.as_ref(), &mut draft) {
        Some(said) if forks.is_none() => assumed.push(said),
        said => {
            draft.set("spec.workers.perCore", 1);
            assumed.extend(said);
        }
    }
    if let Some(path) = readiness(project) {
        assumed.push(format!(
            "spec.workers.readiness.path {} because {}",
            path.value, path.because
        ));
        let why = format!(
            "A worker is ready when this answers. Assumed: {}.",
            path.because
        );
        draft.assume("spec.workers.readiness.path", path.value, why);
    }
    let mut report = Report::default();
    let document = draft.finish(&mut report.of("scaledapp.yaml"));
    let wrong = report.entries.iter();
    assumed
        .extend(wrong.map(|entry| format!("{}, but that is invalid: {}", entry.field, entry.note)));
    Ok((document, assumed))
}

/// The error if no file says what the app runs. Its cures are those that fit the project.
fn nothing_says(project: &Project) -> String {
    let mut here = IMPORTED.iter();
    if let Some(file) = here.find(|file| project.text(file).is_some()) {
        return format!(
            "no source here says what the app runs, but there is {file}: scaledapp import {file} > scaledapp.yaml"
        );
    }
    "nothing here says what the app runs: add `scripts.start` to package.json, a Procfile (`web: COMMAND`) or a Dockerfile with CMD, or write scaledapp.yaml by hand, beginning with an example".to_owned()
}

/// What is said about processes that the app starts itself. Node's cluster module cannot share a
/// port with other workers, so such an app gets one worker, until its author removes the cluster.
fn of_processes(project: &Project, forks: Option<&Forks>, draft: &mut Draft) -> Option<String> {
    if let Some(forks) = forks {
        return Some(format!(
            "spec.command without some words because {}",
            forks.left_out()
        ));
    }
    let mut sources = project.files.iter();
    let (file, _) = sources.find(|(name, text)| {
        let is_script = ["js", "mjs", "ts"]
            .iter()
            .any(|end| name.ends_with(&format!(".{end}")));
        is_script && forks::uses_cluster(text)
    })?;
    let why = format!("{file} starts processes itself (cluster.fork)");
    draft.assume(
        "spec.workers.count",
        1,
        format!("{why}. Without that: `perCore: 1`, and no `dispatch`."),
    );
    draft.set("spec.workers.dispatch", "Connection");
    Some(format!(
        "spec.workers.count 1 and dispatch Connection because {why}; remove the fork, and put `perCore: 1` in their place: then no request is lost at reloads"
    ))
}

/// What one worker runs: what the image runs, else what the Procfile says, else what the language's
/// own files say.
fn command(
    project: &Project,
    docker: Option<&dockerfile::Dockerfile>,
) -> Option<Guess<Vec<String>>> {
    if let Some(docker) = docker.filter(|docker| !docker.command.is_empty()) {
        let why = "the Dockerfile says so (ENTRYPOINT, CMD)";
        return Some(Guess::new(docker.command.clone(), why));
    }
    let web = project.text("Procfile").and_then(|text| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("web:"))
    });
    if let Some(web) = web.map(str::trim).filter(|web| !web.is_empty()) {
        return Some(Guess::new(words_of(web), "the Procfile says so (web)"));
    }
    languages::command(project)
}

/// The path of a health check that a source file mentions.
fn readiness(project: &Project) -> Option<Guess<String>> {
    for path in ["/readyz", "/ready", "/healthz", "/health"] {
        for (name, text) in &project.files {
            let is_source = ["js", "mjs", "ts", "py", "go", "rs"]
                .iter()
                .any(|extension| name.ends_with(&format!(".{extension}")));
            let is_there = ['"', '\'']
                .iter()
                .any(|quote| text.contains(&format!("{quote}{path}{quote}")));
            if is_source && is_there {
                return Some(Guess::new(path.to_owned(), format!("{name} mentions it")));
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "project/tests.rs"]
mod tests;
