//! `import`: files of other systems become `ScaledApp`s, or a command line.
//!
//! `read` recognises a file by its content. `pm2`, `procfile`, `compose` and `kubernetes` decide
//! what its fields mean; `forks` finds servers that would start processes of their own; `project`
//! guesses what a directory without such a file runs; `draft` makes the object, `write` and `emit`
//! write it, and `report` says what became of each field.

mod compose;
mod draft;
mod emit;
mod forks;
mod kubernetes;
mod pm2;
mod procfile;
mod project;
mod read;
mod report;
mod secrets;
mod stores;
mod text;
mod tree;
mod without;
mod write;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{ImportArgs, ImportOutput, InitArgs};
use draft::Document;
use read::{File, Source};
use report::{Fate, Report};
use tree::Node;

/// The result of an import.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The text for stdout.
    pub(crate) text: String,
    /// The report for stderr; empty if stdout has it.
    pub(crate) report: String,
    /// Whether `--strict` makes the import fail.
    pub(crate) has_losses: bool,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct Reported<'a> {
    version: u32,
    #[serde(flatten)]
    report: &'a Report,
    /// The documents that the import makes without `-o json`.
    objects: Vec<&'a Node>,
}

/// Reads the files and returns what to print.
///
/// # Errors
/// A file cannot be read or is none of the known ones, files of different kinds are given
/// together, no app has the name of `--app`, or a field of an ecosystem file has an unusable value.
pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<Imported> {
    let files = args.files.iter().map(|path| read::read(path));
    let files = files.collect::<anyhow::Result<Vec<File>>>()?;
    let variables = match &args.env_file {
        Some(path) => read::variables(path)?,
        None => Vec::new(),
    };
    convert(files, &variables, args)
}

/// Most directories in which packages are looked for.
const MAX_PACKAGES: usize = 200;
/// The file that `init` writes.
const WRITTEN: &str = "scaledapp.yaml";

/// Writes a `ScaledApp` for the project in a directory, and returns what was assumed, a line each.
/// An existing file is never changed.
///
/// # Errors
/// The directory cannot be read or written, there is a `scaledapp.yaml` already, or nothing says
/// what the project runs.
pub(crate) fn init(args: &InitArgs) -> anyhow::Result<String> {
    let directory = std::path::absolute(&args.directory)?;
    if !directory.is_dir() {
        bail!(
            "{} is not a directory: give the directory of the project",
            directory.display()
        );
    }
    let path = directory.join(WRITTEN);
    let name = directory.file_name().unwrap_or(std::ffi::OsStr::new("app"));
    let names = project::FILES.iter().chain(&project::IMPORTED);
    let names = names.map(|name| (*name).to_owned());
    let files = names.chain(packages(&directory)).filter_map(|name| {
        let text = std::fs::read_to_string(directory.join(&name)).ok()?;
        Some((name, text))
    });
    let project = project::Project {
        directory: name.to_string_lossy().into_owned(),
        files: files.collect(),
        programs: programs(&directory),
    };
    let (document, assumed) = project::guess(&project).map_err(anyhow::Error::msg)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| {
            let path = path.display();
            format!("cannot make {path}: an existing file is not changed, so remove it first, or edit it")
        })?;
    std::io::Write::write_all(&mut file, document.text().as_bytes())?;
    let lines: Vec<String> = assumed
        .iter()
        .map(|one| format!("assumed {one}\n"))
        .collect();
    let shown = args.directory.join(WRITTEN);
    Ok(format!(
        "{}wrote {}; try it: scaledapp local {}\n",
        lines.concat(),
        shown.display(),
        text::shell(&shown.to_string_lossy())
    ))
}

/// The files of a project that are named by a package: those of Python, and of Go below `cmd`.
fn packages(directory: &std::path::Path) -> Vec<String> {
    let names = |place: &str| {
        let entries = std::fs::read_dir(directory.join(place));
        let entries = entries.into_iter().flatten().flatten().take(MAX_PACKAGES);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let python = names("")
        .into_iter()
        .map(|name| format!("{name}/__init__.py"));
    let go = names("cmd")
        .into_iter()
        .map(|name| format!("cmd/{name}/main.go"));
    python.chain(go).collect()
}

/// Programs in the places in which build tools put them, as paths from the directory.
fn programs(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for place in [
        "",
        "node_modules/.bin/",
        "target/",
        "target/release/",
        "target/debug/",
        "build/libs/",
    ] {
        let entries = std::fs::read_dir(directory.join(place));
        for entry in entries.into_iter().flatten().flatten() {
            found.push(format!("{place}{}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

fn convert(
    files: Vec<File>,
    variables: &[(String, String)],
    args: &ImportArgs,
) -> anyhow::Result<Imported> {
    let mut report = Report::default();
    let mut objects = Vec::new();
    let mut others = Vec::new();
    for file in files {
        match file.source {
            Source::Kubernetes(these) => objects.extend(these),
            _ => others.push(file),
        }
    }
    let (app, command) = (args.app.as_deref(), args.command.as_deref());
    let documents = match &others[..] {
        [] => {
            let given = kubernetes::Given {
                app,
                name: args.name.as_deref(),
                container: args.container.as_deref(),
                command,
                keeps_processes: args.keep_processes,
            };
            flags_need_pm2(args.output)?;
            kubernetes::convert(&objects, &given, &mut report)
        }
        [_, ..] if !objects.is_empty() => bail!(
            "manifests of Kubernetes are imported together, and other files one at a time: give {} alone",
            others[0].path.display()
        ),
        [file] => match &file.source {
            Source::Pm2(data) => return ecosystem(data, args),
            Source::Procfile(processes) => {
                flags_need_pm2(args.output)?;
                let project = file.project();
                let given = procfile::Given {
                    name: args.name.as_deref().unwrap_or(&project),
                    process: app,
                    variables,
                };
                procfile::convert(processes, &given, &mut report)
            }
            Source::Compose(node) => {
                flags_need_pm2(args.output)?;
                let given = compose::Given {
                    app,
                    name: args.name.as_deref(),
                    command,
                    variables,
                    keeps_processes: args.keep_processes,
                    unset: Vec::new(),
                };
                compose::convert(node, &given, &mut report)
            }
            Source::Kubernetes(_) => Vec::new(),
        },
        [_, second, ..] => bail!(
            "only manifests of Kubernetes are imported together: give {} alone (several Compose files: the output of `docker compose config`)",
            second.path.display()
        ),
    };
    if let (Some(app), true) = (app, documents.is_empty()) {
        bail!("there is no app {app:?} in the file: without --app, the report names all");
    }
    printed(&documents, &report, args.output)
}

fn flags_need_pm2(output: ImportOutput) -> anyhow::Result<()> {
    if output == ImportOutput::Flags {
        bail!(
            "-o flags is for ecosystem files of PM2: leave it out, and start the result with `scaledapp local`"
        );
    }
    Ok(())
}

fn printed(
    documents: &[Document],
    report: &Report,
    output: ImportOutput,
) -> anyhow::Result<Imported> {
    let has_losses = report.has_losses();
    if output == ImportOutput::Json {
        let reported = Reported {
            version: 1,
            report,
            objects: documents.iter().map(|document| &document.node).collect(),
        };
        let text = serde_json::to_string_pretty(&reported)? + "\n";
        return Ok(Imported {
            text,
            report: String::new(),
            has_losses,
        });
    }
    let texts: Vec<String> = documents.iter().map(Document::text).collect();
    Ok(Imported {
        text: texts.join("---\n"),
        report: report.text(),
        has_losses,
    })
}

/// Converts an ecosystem file of PM2. Its notes are also comments in the output.
fn ecosystem(data: &Value, args: &ImportArgs) -> anyhow::Result<Imported> {
    let (apps, names) = ecosystem_apps(data, args)?;
    let mut report = Report::default();
    for (app, fields) in &apps {
        let mut scope = report.of(format!("app {}", app.name));
        for note in &app.notes {
            match note.fate {
                Fate::Kept => scope.stays(&note.field, note.reason.clone()),
                Fate::Changed => scope.changed(&note.field, "", note.reason.clone()),
                Fate::NoCounterpart => scope.lost(&note.field, note.reason.clone()),
                Fate::NeedsYourDecision => scope.decide(&note.field, note.reason.clone()),
            }
        }
        for field in fields {
            if !scope.is_named(field) {
                scope.kept(field, "");
            }
        }
    }
    let file = data.as_object().filter(|file| file.contains_key("apps"));
    let beside = file.into_iter().flat_map(serde_json::Map::keys);
    for field in beside.filter(|field| *field != "apps") {
        report.of("ecosystem file").lost(field, match field.as_str() {
            "deploy" => "copies code to machines: build an image and apply the object, or on one machine exchange the files and run `ctl reload`",
            _ => "is not a known field",
        });
    }
    if apps.is_empty() {
        bail!(
            "there is no app {:?} in the file: give --app one of {}",
            args.app.as_deref().unwrap_or_default(),
            names.join(", ")
        );
    }
    let has_losses = report.has_losses();
    let index = |app: &pm2::App| names.iter().position(|name| *name == app.name);
    let (text, separator): (Vec<String>, &str) = match args.output {
        ImportOutput::Flags => (
            apps.iter()
                .map(|(app, _)| emit::flags(app, index(app).unwrap_or(0) as u16))
                .collect(),
            "\n",
        ),
        _ => (
            apps.iter().map(|(app, _)| emit::scaledapp(app)).collect(),
            "---\n",
        ),
    };
    if args.output == ImportOutput::Json {
        let objects = text.iter().map(|text| serde_saphyr::from_str(text));
        let objects = objects
            .collect::<Result<Vec<Node>, _>>()
            .context("the object that was made is invalid")?;
        let reported = Reported {
            version: 1,
            report: &report,
            objects: objects.iter().collect(),
        };
        return Ok(Imported {
            text: serde_json::to_string_pretty(&reported)? + "\n",
            report: String::new(),
            has_losses,
        });
    }
    Ok(Imported {
        text: text.join(separator),
        report: report.text(),
        has_losses,
    })
}

/// The wanted apps of an ecosystem file, each with the names of its fields, and the names of all
/// apps.
type Ecosystem = (Vec<(pm2::App, Vec<String>)>, Vec<String>);

fn ecosystem_apps(data: &Value, args: &ImportArgs) -> anyhow::Result<Ecosystem> {
    let only = args.app.as_deref();
    let (mut apps, mut names) = (Vec::new(), Vec::new());
    for fields in pm2::apps(data)? {
        let app = pm2::App::read(fields, args.env.as_deref())?;
        names.push(app.name.clone());
        if only.is_none_or(|only| only == app.name) {
            apps.push((app, fields.keys().cloned().collect()));
        }
    }
    Ok((apps, names))
}

#[cfg(test)]
#[path = "import/tests.rs"]
mod tests;
