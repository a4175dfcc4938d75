//! What the files of a language say about a project: its name, and how it is started.

use serde_json::Value;

use super::super::text::words_of;
use super::files::{Guess, Project, words};
use super::{node, python};

/// The project's own name.
pub(super) fn name(project: &Project) -> Option<Guess<String>> {
    let of_package = || {
        let name = node::package(project)?["name"].as_str()?.to_owned();
        // A scope, as in `@acme/web`, is no part of the app's name.
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        Some(Guess::new(name, "package.json has this name"))
    };
    let of_toml = |file: &str, section: &str| {
        let name = toml(project.text(file)?, section, "name")?;
        Some(Guess::new(name, format!("{file} has this name")))
    };
    let of_module = || {
        let name = module(project)?;
        Some(Guess::new(name, "go.mod has this name"))
    };
    of_package()
        .or_else(|| of_toml("pyproject.toml", "project"))
        .or_else(|| of_toml("pyproject.toml", "tool.poetry"))
        .or_else(|| of_toml("Cargo.toml", "package"))
        .or_else(of_module)
        .filter(|name| !name.value.is_empty())
}

/// How the project is started.
pub(super) fn command(project: &Project) -> Option<Guess<Vec<String>>> {
    node::command(project)
        .or_else(|| deno(project))
        .or_else(|| python::command(project))
        .or_else(|| go(project))
        .or_else(|| rust(project))
        .or_else(|| ruby(project))
        .or_else(|| java(project))
}

fn module(project: &Project) -> Option<String> {
    let mut lines = project.text("go.mod")?.lines();
    let module = lines.find_map(|line| line.strip_prefix("module "))?.trim();
    let mut parts = module.rsplit('/');
    let last = parts.next()?;
    let is_version = last
        .strip_prefix('v')
        .is_some_and(|rest| rest.parse::<u32>().is_ok());
    let name = if is_version { parts.next()? } else { last };
    Some(name.to_owned())
}

fn go(project: &Project) -> Option<Guess<Vec<String>>> {
    let module = module(project)?;
    // A program below `cmd` is named by its directory.
    let of_cmd = || {
        let mut names = project.files.keys();
        names.find_map(|file| file.strip_prefix("cmd/")?.strip_suffix("/main.go"))
    };
    let below = of_cmd().filter(|_| project.text("main.go").is_none());
    let name = below.unwrap_or(&module);
    let package = below.map_or(".".to_owned(), |name| format!("./cmd/{name}"));
    let why = if project.programs.iter().any(|program| program == name) {
        format!("`go build` has made {name}")
    } else {
        format!("`go build -o {name} {package}` makes it (do that first)")
    };
    Some(Guess::new(vec![format!("./{name}")], why))
}

/// The task `start` of Deno.
fn deno(project: &Project) -> Option<Guess<Vec<String>>> {
    let file = ["deno.json", "deno.jsonc"]
        .into_iter()
        .find(|file| project.text(file).is_some())?;
    let tasks: Value = serde_json::from_str(project.text(file)?).ok()?;
    let start = tasks["tasks"]["start"].as_str()?;
    Some(Guess::new(words_of(start), format!("{file} has this task")))
}

/// The archive that Maven or Gradle makes. A version is not looked up in parents.
fn java(project: &Project) -> Option<Guess<Vec<String>>> {
    let (directory, build) = if project.text("pom.xml").is_some() {
        ("target", "mvn package")
    } else {
        let mut files = ["build.gradle", "build.gradle.kts"].iter();
        files.find(|file| project.text(file).is_some())?;
        ("build/libs", "gradle build")
    };
    let is_archive = |program: &&String| {
        let name = program.strip_prefix(directory).unwrap_or_default();
        let stem = name.strip_suffix(".jar");
        stem.is_some_and(|stem| !stem.ends_with("-plain") && !stem.ends_with("-sources"))
    };
    if let Some(archive) = project.programs.iter().find(is_archive) {
        let why = format!("`{build}` has made {archive}");
        return Some(Guess::new(words(&["java", "-jar", archive]), why));
    }
    let archive = format!("{directory}/app.jar");
    let why = format!(
        "`{build}` makes an archive in {directory}: do that first, and then write its name here"
    );
    Some(Guess::new(words(&["java", "-jar", &archive]), why))
}

fn rust(project: &Project) -> Option<Guess<Vec<String>>> {
    let manifest = project.text("Cargo.toml")?;
    let name = toml(manifest, "[bin]", "name").or_else(|| toml(manifest, "package", "name"))?;
    for profile in ["release", "debug"] {
        let program = format!("target/{profile}/{name}");
        if project.programs.contains(&program) {
            let why = format!("cargo has built {program}");
            return Some(Guess::new(vec![format!("./{program}")], why));
        }
    }
    let why = "Cargo.toml has this name; `cargo build --release` makes it, and its directory must be on the PATH";
    Some(Guess::new(vec![name], why))
}

fn ruby(project: &Project) -> Option<Guess<Vec<String>>> {
    let gems = project.text("Gemfile")?;
    if gems.contains("puma") {
        let command = words(&["bundle", "exec", "puma", "--port", "3000"]);
        return Some(Guess::new(command, "the Gemfile names puma"));
    }
    project.text("config.ru")?;
    let command = words(&[
        "bundle", "exec", "rackup", "--host", "0.0.0.0", "--port", "3000",
    ]);
    Some(Guess::new(command, "there is config.ru"))
}

/// The text of a key in a section of a TOML file, as `name = "value"` in a line of its own. The
/// section of a list has brackets: `[bin]`.
fn toml(text: &str, section: &str, key: &str) -> Option<String> {
    let head = format!("[{section}]");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| *line == head)?;
    for line in lines.take_while(|line| !line.starts_with('[')) {
        if let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.split(['"', '\'']).nth(1)?.to_owned());
        }
    }
    None
}
