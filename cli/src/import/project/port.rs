//! Which port a project listens on: from its command, its Dockerfile or its sources.

use super::super::procfile::port_in;
use super::dockerfile::Dockerfile;
use super::files::{Guess, Project};

/// The port of apps that nothing says it of; spec.port's default.
const DEFAULT: i64 = 3000;
/// What stands before a port in source text.
const BEFORE: [&str; 8] = [
    "process.env.PORT",
    "environ.get(\"PORT\"",
    "environ.get('PORT'",
    "getenv(\"PORT\"",
    "var(\"PORT\"",
    ".listen(",
    "ListenAndServe(\":",
    "bind(\"0.0.0.0:",
];

/// The port, with the reason.
pub(super) fn guess(project: &Project, docker: Option<&Dockerfile>, command: &str) -> Guess<i64> {
    if let Some(port) = port_in(command) {
        return Guess::new(port, "the command names it");
    }
    if let Some(port) = docker.and_then(|docker| docker.port) {
        return Guess::new(port, "the Dockerfile says EXPOSE");
    }
    for (name, text) in &project.files {
        if let Some(port) = in_source(text) {
            return Guess::new(port, format!("{name} mentions it"));
        }
    }
    Guess::new(
        DEFAULT,
        "nothing names a port; an app that reads PORT listens on any",
    )
}

/// The first number soon after a word that stands before a port.
fn in_source(text: &str) -> Option<i64> {
    BEFORE.iter().find_map(|before| {
        let rest = text.split(before).nth(1)?;
        let near: String = rest.chars().take(24).take_while(|c| *c != '\n').collect();
        let mut numbers = near.split(|c: char| !c.is_ascii_digit());
        let number = numbers.find(|number| number.len() >= 2)?;
        number
            .parse()
            .ok()
            .filter(|port| (10..=65535).contains(port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_sources() {
        for (text, port) in [
            ("const port = process.env.PORT || 4000;", Some(4000)),
            ("port = int(os.environ.get(\"PORT\", \"8000\"))", Some(8000)),
            ("app.listen(8081, () => {})", Some(8081)),
            ("http.ListenAndServe(\":8080\", nil)", Some(8080)),
            ("app.listen(port)\nx(1234)", None),
            ("PORT", None),
        ] {
            assert_eq!(in_source(text), port, "{text}");
        }
    }
}
