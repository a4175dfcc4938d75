//! Guesses what a project's directory runs, from its files: name, command, port and readiness
//! path, each with the reason. It reads no files itself.

mod dockerfile;
mod files;
mod languages;
mod port;

use super::draft::{Document, Draft};
use super::report::Report;
use super::text::{unexpanded, words_of};
use super::tree::Node;
use files::Guess;

pub(super) use files::{FILES, Project};

/// A `ScaledApp` for a project, and a sentence for each assumption.
///
/// # Errors
/// Nothing says what the project runs. The text names the cure.
pub(super) fn guess(project: &Project) -> Result<(Document, Vec<String>), String> {
    let docker = project.text("Dockerfile").map(dockerfile::read);
    let command = command(project, docker.as_ref()).ok_or(
        "nothing here says what the app runs: add `scripts.start` to package.json, a Procfile (`web: COMMAND`) or a Dockerfile with CMD, or write scaledapp.yaml by hand, beginning with an example",
    )?;
    let name = languages::name(project)
        .unwrap_or_else(|| Guess::new(project.directory.clone(), "it is the directory's name"));
    let words = command.value.join(" ");
    let port = port::guess(project, docker.as_ref(), &words);
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
    draft.set("spec.workers.perCore", 1);
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
