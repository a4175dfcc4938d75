//! The files of a project that say what it runs, and a guess with its reason.

use std::collections::BTreeMap;

/// The files of a project that say what it runs. Each is read if it is there, as are those of
/// [`IMPORTED`].
pub(in super::super) const FILES: [&str; 38] = [
    "Dockerfile",
    "Procfile",
    "package.json",
    "pyproject.toml",
    "requirements.txt",
    "manage.py",
    "go.mod",
    "Cargo.toml",
    "Gemfile",
    "config.ru",
    "main.go",
    "src/main.rs",
    "server.js",
    "index.js",
    "app.js",
    "src/server.js",
    "src/index.js",
    "main.py",
    "app.py",
    "server.py",
    "wsgi.py",
    "asgi.py",
    "app/main.py",
    "src/main.py",
    "main.ts",
    "server.mjs",
    "src/main.ts",
    "src/server.ts",
    "src/index.ts",
    "bin/www",
    "deno.json",
    "deno.jsonc",
    "Pipfile",
    "gunicorn.conf.py",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "src/main/resources/application.properties",
];
/// Files of other tools that describe how the app runs: `scaledapp import` reads them.
pub(in super::super) const IMPORTED: [&str; 6] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
];

/// A project's directory.
#[derive(Debug, Default)]
pub(in super::super) struct Project {
    /// The name of the directory.
    pub(in super::super) directory: String,
    /// The contents of those of [`FILES`] and [`IMPORTED`] that are there, and of `cmd/*/main.go` and
    /// `*/__init__.py`.
    pub(in super::super) files: BTreeMap<String, String>,
    /// Programs that are there, as paths from the directory.
    pub(in super::super) programs: Vec<String>,
}

impl Project {
    pub(in super::super) fn text(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }
}

/// A value, and why it is assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Guess<T> {
    pub(in super::super) value: T,
    pub(in super::super) because: String,
}

impl<T> Guess<T> {
    pub(in super::super) fn new(value: T, because: impl Into<String>) -> Self {
        Self {
            value,
            because: because.into(),
        }
    }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
