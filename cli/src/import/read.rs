//! Reads files, and recognises by their content what they are. JavaScript is evaluated by the
//! user's own node, in a separate process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use super::tree::Node;

/// A script that prints a module's export as JSON. What the module prints with `console` goes to
/// stderr, and the JSON is the last line on stdout.
const EVALUATE: &str = "\
console.log = console.info = console.debug = console.error;
const { resolve } = require('node:path');
const { pathToFileURL } = require('node:url');
import(pathToFileURL(resolve(process.argv[1])).href).then(async (module) => {
  let value = module.default === undefined ? module : module.default;
  if (typeof value === 'function') value = await value();
  process.stdout.write(JSON.stringify(value) + '\\n', () => process.exit(0));
}).catch((error) => { console.error(error); process.exit(1); });";

/// What a file is.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// A PM2 ecosystem file.
    Pm2(Value),
    /// The processes of a Procfile: names and commands.
    Procfile(Vec<(String, String)>),
    /// A Compose file.
    Compose(Node),
    /// Objects of Kubernetes.
    Kubernetes(Vec<Node>),
}

/// A file, and what it is.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) source: Source,
}

impl File {
    /// The name of the directory that the file is in: what people call the project.
    pub(super) fn project(&self) -> String {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let name = path.parent().and_then(Path::file_name);
        name.map_or_else(
            || "app".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
    }
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or is none of the known files.
pub(super) fn read(path: &Path) -> anyhow::Result<File> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let source = match extension {
        Some("js" | "cjs" | "mjs") => Source::Pm2(evaluate(path)?),
        _ => recognise(path, &text(path)?)?,
    };
    Ok(File {
        path: path.to_owned(),
        source,
    })
}

/// What a text is.
fn recognise(path: &Path, text: &str) -> anyhow::Result<Source> {
    let shown = path.display();
    let name = path.file_name().and_then(|name| name.to_str());
    let processes = procfile(text);
    if name.is_some_and(|name| name.starts_with("Procfile")) {
        return processes
            .filter(|processes| !processes.is_empty())
            .map(Source::Procfile)
            .with_context(|| format!("{shown} is not a Procfile: each line must be `NAME: COMMAND`, such as `web: node server.js`"));
    }
    let documents = match documents(text) {
        Ok(documents) => documents,
        Err(_) if text.contains("{{") => bail!(
            "{shown} is a template: give what it becomes, such as the output of `helm template`"
        ),
        Err(error) => match processes {
            Some(processes) if !processes.is_empty() => return Ok(Source::Procfile(processes)),
            _ => bail!("{shown} is neither YAML nor JSON: {error}"),
        },
    };
    let has = |key: &str| documents.iter().any(|document| document.get(key).is_some());
    if has("apiVersion") && has("kind") {
        return Ok(Source::Kubernetes(flattened(documents)));
    }
    if let [document] = &documents[..] {
        let is_app = |node: &Node| node.get("script").is_some();
        let listed = document.items();
        if document.get("apps").is_some()
            || is_app(document)
            || (!listed.is_empty() && listed.iter().all(is_app))
        {
            return Ok(Source::Pm2(serde_json::to_value(document)?));
        }
        if document
            .get("services")
            .is_some_and(|services| !services.entries().is_empty())
        {
            return Ok(Source::Compose(document.clone()));
        }
    }
    match processes {
        Some(processes) if !processes.is_empty() => Ok(Source::Procfile(processes)),
        _ if path.extension().is_some_and(|it| it == "json") => bail!(
            "{shown} names no apps: if it is an ecosystem file with comments, rename it to .cjs and begin it with `module.exports =`"
        ),
        _ => bail!(
            "{shown} is none of the files that can be imported: give an ecosystem file of PM2 (`apps:`, or one that ends in .js, .cjs or .mjs), a Procfile (`web: COMMAND`), a Compose file (`services:`) or manifests of Kubernetes (`apiVersion:`, `kind:`)"
        ),
    }
}

/// The documents of a text that are not empty.
fn documents(text: &str) -> Result<Vec<Node>, String> {
    let options = serde_saphyr::options! {
        // An excerpt could show a secret.
        with_snippet: false,
        strict_booleans: true,
    };
    let read: Result<Vec<Node>, _> = serde_saphyr::from_multiple_with_options(text, options);
    let mut documents = read.map_err(|error| error.to_string())?;
    documents.retain(|document| !document.is_empty());
    Ok(documents)
}

/// The documents, with the items of each `List` in its place.
fn flattened(documents: Vec<Node>) -> Vec<Node> {
    let mut objects = Vec::new();
    for document in documents {
        let is_list = document
            .text(&["kind"])
            .is_some_and(|kind| kind.ends_with("List"));
        match document.get("items") {
            Some(items) if is_list => objects.extend(items.items().to_vec()),
            _ => objects.push(document),
        }
    }
    objects
}

/// The processes of a Procfile: each line is `NAME: COMMAND`, with a name of letters, digits, `_`
/// and `-` (the documentation of Heroku and foreman). `None` if a line has another form.
fn procfile(text: &str) -> Option<Vec<(String, String)>> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, command) = line.split_once(':')?;
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let command = command.trim();
            (!name.is_empty() && name.chars().all(fits) && !command.is_empty())
                .then(|| (name.to_owned(), command.to_owned()))
        })
        .collect()
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}: give the path of an ecosystem file, a Procfile, a Compose file or a manifest",
            path.display()
        )
    })
}

fn evaluate(path: &Path) -> anyhow::Result<Value> {
    let shown = path.display();
    // Node's own message for a missing file is a stack trace.
    drop(text(path)?);
    let output = Command::new("node")
        .args(["-e", EVALUATE, "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| {
            format!("{shown} is JavaScript, and node cannot be run: put node on the PATH, or convert the file to JSON")
        })?;
    if !output.status.success() {
        bail!(
            "node could not evaluate {shown} ({}): its message is above",
            output.status
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().next_back().unwrap_or("");
    serde_json::from_str(last).with_context(|| {
        format!("{shown} exports nothing: end it with `module.exports = {{ apps: [...] }}`")
    })
}

/// The variables of a file like `.env`: `NAME=VALUE`, with or without `export` and quotes.
///
/// # Errors
/// The file cannot be read, or a line has another form. The message does not show the line.
pub(super) fn variables(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}: give the path of an .env file",
            path.display()
        )
    })?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').with_context(|| {
            format!(
                "{}:{}: is not a variable: write NAME=VALUE",
                path.display(),
                index + 1
            )
        })?;
        variables.push((name.trim().to_owned(), unquoted(value.trim())));
    }
    Ok(variables)
}

/// A value without its quotes, or without a comment after it.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some((inner, _)) = value
            .strip_prefix(quote)
            .and_then(|rest| rest.rsplit_once(quote))
        {
            return inner.to_owned();
        }
    }
    let bare = value.split(" #").next().unwrap_or_default();
    bare.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, text: &str) -> Result<&'static str, String> {
        match recognise(Path::new(name), text) {
            Ok(Source::Pm2(_)) => Ok("pm2"),
            Ok(Source::Procfile(_)) => Ok("procfile"),
            Ok(Source::Compose(_)) => Ok("compose"),
            Ok(Source::Kubernetes(_)) => Ok("kubernetes"),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn files_are_recognised_by_their_content() {
        for (name, text, expected) in [
            ("e.json", r#"{"apps": [{"script": "a.js"}]}"#, "pm2"),
            ("x", "apps:\n- script: a.js\n", "pm2"),
            ("x.yml", "- {script: a.js}\n", "pm2"),
            ("Procfile", "web: node a.js\n", "procfile"),
            (
                "x",
                "# c\nweb: bundle exec puma -C a.rb\nworker: sidekiq -q a:b\n",
                "procfile",
            ),
            ("x", "web: [ \"$X\" = 1 ] && run\n", "procfile"),
            (
                "docker-compose.yml",
                "version: '3'\nservices: {a: {image: b}}\n",
                "compose",
            ),
            (
                "x.yaml",
                "---\n# Source: a\n---\napiVersion: v1\nkind: Service\n",
                "kubernetes",
            ),
            (
                "x.json",
                r#"{"apiVersion":"v1","kind":"List","items":[]}"#,
                "kubernetes",
            ),
        ] {
            assert_eq!(kind(name, text).as_deref(), Ok(expected), "{text}");
        }
        for (name, text, cure) in [
            ("e.json", "// no\n{}", "rename it to .cjs"),
            ("e.toml", "a = 1\n", "none of the files"),
            (
                "d.yaml",
                "a:\n{{- if .Values.x }}\nb: {{ .c }}\n",
                "helm template",
            ),
            ("Procfile", "no colon here\n", "NAME: COMMAND"),
        ] {
            let error = kind(name, text).unwrap_err();
            assert!(error.contains(cure), "{error}");
        }
    }

    #[test]
    fn env_files_are_read_without_quotes_and_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        std::fs::write(
            &path,
            "# c\nexport A=1 # one\nB=\"x # y\"\nC='z'\nD=\nE=a#b\n",
        )
        .unwrap();
        let pairs = variables(&path).unwrap();
        let pairs: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(pairs, ["A=1", "B=x # y", "C=z", "D=", "E=a#b"]);
        std::fs::write(&path, "SECRET\n").unwrap();
        let error = variables(&path).unwrap_err().to_string();
        assert!(
            error.ends_with(".env:1: is not a variable: write NAME=VALUE"),
            "{error}"
        );
    }
}
