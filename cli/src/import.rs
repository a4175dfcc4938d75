//! `import`: a PM2 ecosystem file becomes a `ScaledApp` or a command line.
//!
//! This module reads the ecosystem file. If the file is JavaScript, the user's own node evaluates
//! it in a separate process and prints the result as JSON. `pm2` and `without` decide what the
//! fields mean, and `emit` writes the result.

mod emit;
mod pm2;
mod without;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cli::{ImportArgs, ImportOutput};

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

/// Reads the file and returns the text to print.
///
/// # Errors
/// The file cannot be read or contains no apps, a field has an unusable value, or no app has the
/// name in `args`.
pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<String> {
    let data = read(&args.file)?;
    convert(&data, args.app.as_deref(), args.env.as_deref(), args.output)
}

fn convert(
    data: &Value,
    only: Option<&str>,
    environment: Option<&str>,
    output: ImportOutput,
) -> anyhow::Result<String> {
    let apps = pm2::apps(data)?;
    let mut texts = Vec::new();
    let mut names = Vec::new();
    for app in apps {
        let app = pm2::App::read(app, environment)?;
        if only.is_none_or(|only| only == app.name) {
            texts.push(match output {
                ImportOutput::Scaledapp => emit::scaledapp(&app),
                ImportOutput::Flags => emit::flags(&app, names.len() as u16),
            });
        }
        names.push(app.name);
    }
    if texts.is_empty() {
        bail!(
            "there is no app {:?} in the file: give --app one of {}",
            only.unwrap_or_default(),
            names.join(", ")
        );
    }
    Ok(match output {
        ImportOutput::Scaledapp => texts.join("---\n"),
        ImportOutput::Flags => texts.join("\n"),
    })
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let shown = path.display();
    match extension {
        Some("js" | "cjs" | "mjs") => evaluate(path),
        Some("json") => {
            let text = text(path)?;
            serde_json::from_str(&text).with_context(|| {
                format!("{shown} is not JSON: if it has comments, rename it to .cjs and begin it with `module.exports =`")
            })
        }
        Some("yaml" | "yml") => {
            let text = text(path)?;
            serde_saphyr::from_str(&text).with_context(|| format!("{shown} is not YAML"))
        }
        _ => bail!(
            "{shown} is not named like an ecosystem file: give one that ends in .js, .cjs, .mjs, .json, .yaml or .yml"
        ),
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}: give the path of an ecosystem file",
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

#[cfg(test)]
#[path = "import/tests.rs"]
mod tests;
