//! Maps a Procfile: its `web` process becomes a `ScaledApp`, and each other process is named with
//! what to do. The rules are those of Heroku and foreman.

use std::collections::BTreeMap;

use super::draft::{Document, Draft};
use super::report::Report;
use super::text::{split, unexpanded, words_of};
use super::tree::Node;

/// The port that foreman gives to the first process.
const PORT: i64 = 5000;

/// What the command line adds to a Procfile.
#[derive(Debug, Default)]
pub(super) struct Given<'a> {
    /// The app's name.
    pub(super) name: &'a str,
    /// The process to convert in place of `web`.
    pub(super) process: Option<&'a str>,
    /// The variables of `--env-file`.
    pub(super) variables: &'a [(String, String)],
}

/// The app of a Procfile; none if it has no such process.
pub(super) fn convert(
    processes: &[(String, String)],
    given: &Given<'_>,
    report: &mut Report,
) -> Vec<Document> {
    let wanted = given.process.unwrap_or("web");
    let mut documents = Vec::new();
    for (name, command) in processes {
        if name == wanted {
            documents.push(app(name, command, given, report));
            continue;
        }
        let mut scope = report.of("Procfile");
        match name.as_str() {
            "release" => scope.lost(
                name,
                "runs once before a release: run it as a Job before `kubectl apply`",
            ),
            _ => scope.lost(
                name,
                format!(
                    "every ScaledApp has a port, and a process that does not listen needs none: run it as a Deployment, or on one machine as `scaledapp-sidecar run --port none -- …`; if it does listen, import it with --app {name}"
                ),
            ),
        }
    }
    if documents.is_empty() {
        let names: Vec<&str> = processes.iter().map(|(name, _)| name.as_str()).collect();
        report.of("Procfile").decide(
            "",
            format!(
                "there is no process named {wanted}: give --app one of {}",
                names.join(", ")
            ),
        );
    }
    documents
}

fn app(name: &str, command: &str, given: &Given<'_>, report: &mut Report) -> Document {
    let mut scope = report.of("Procfile");
    let mut draft = Draft::new(given.name);
    draft.assume(
        "spec.image",
        format!("{}:latest", draft.name),
        "A Procfile names no image: name that of the app. `scaledapp local` does not pull it.",
    );
    let words = words_of(command);
    let runs_shell = words.first().is_some_and(|word| word == "sh");
    let words = words.iter().map(|word| unexpanded(word));
    draft.set("spec.command", Node::texts(words));
    if runs_shell {
        scope.changed(name, "spec.command", "runs in a shell, because it uses one");
    } else {
        scope.kept(name, "spec.command");
    }
    let variables: BTreeMap<_, _> = given.variables.iter().cloned().collect();
    let by_variable = variables.get("PORT").and_then(|port| port.parse().ok());
    match port_in(command).or(by_variable) {
        Some(port) => draft.set("spec.port", port),
        None => draft.assume(
            "spec.port",
            PORT,
            "Assumed, as foreman does. The app gets it as PORT.",
        ),
    }
    for (variable, value) in given.variables {
        if variable == "PORT" {
            scope.kept("PORT (--env-file)", "spec.port");
        } else {
            let field = format!("{variable} (--env-file)");
            draft.variable(&mut scope, (&field, variable), value, true);
        }
    }
    draft.finish(&mut scope)
}

/// The port that a command names in its arguments, such as `-p 3000` or `--bind=0.0.0.0:8000`.
pub(super) fn port_in(command: &str) -> Option<i64> {
    let words = split(command);
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let flag = word.split('=').next().unwrap_or_default();
        if ![
            "-p", "--port", "-b", "--bind", "--listen", "-l", "--http", "-binding", "--addr",
        ]
        .contains(&flag)
        {
            continue;
        }
        let value = word.split_once('=').map(|(_, value)| value);
        let value = value.or_else(|| words.peek().copied()).unwrap_or_default();
        let port = value.rsplit(':').next().unwrap_or_default();
        if let Some(port) = port.parse().ok().filter(|port| (1..=65535).contains(port)) {
            return Some(port);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_arguments() {
        for (command, port) in [
            ("bundle exec puma -p 3000", Some(3000)),
            ("gunicorn app:app --bind=0.0.0.0:8000", Some(8000)),
            ("gunicorn app:app -b :8001 -w 4", Some(8001)),
            ("rails s -p $PORT", None),
            ("mkdir -p src", None),
            ("node a.js --port 70000", None),
        ] {
            assert_eq!(port_in(command), port, "{command}");
        }
    }
}
