//! Reads the apps of a file, validates them, finds the directories in which their commands start,
//! and notes which of their fields have no effect on one machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use scaledapp_crds::ScaledApp;
use scaledapp_plan::local::{MAX_PODS, hostname};
use scaledapp_plan::{ValidatedApp, validate};

/// An app to run on this machine.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) app: ValidatedApp,
    /// The directory in which its command starts; absolute.
    pub(crate) directory: PathBuf,
    /// Notes for the user, a line each.
    pub(crate) notes: Vec<String>,
}

/// The apps of a file.
#[derive(Debug)]
pub(crate) struct Objects {
    /// At least one, in the file's order. Names and hostnames are unique.
    pub(crate) apps: Vec<Object>,
    /// Notes for the user about the file, a line each.
    pub(crate) notes: Vec<String>,
}

/// Reads and checks the objects of a file.
///
/// # Errors
/// The file is unreadable or has no `ScaledApp`, an object is invalid, or two objects have the same
/// name or hostname. The message names the file. It gives the position of what cannot be read, or
/// the field and cure of each violation in the first invalid object.
pub(crate) fn load(file: &Path) -> anyhow::Result<Objects> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {shown}: give the file of a ScaledApp, such as examples/hello-node/scaledapp.yaml"))?;
    let read = scaledapp_crds::read_all(&text).map_err(|error| match error.at {
        // In the format of compilers, so that editors can jump to the position.
        Some(_) => anyhow::anyhow!("{shown}:{error}"),
        None => anyhow::anyhow!("{shown}: {error}"),
    })?;
    let several = read.apps.len() > 1;
    let mut apps = Vec::new();
    for app in &read.apps {
        let of = if several {
            format!("{shown}: {}", app.metadata.name)
        } else {
            shown.to_string()
        };
        apps.push(object(file, &of, app)?);
    }
    if let Some(twice) = twice(&apps) {
        bail!("{shown}: {twice}");
    }
    let others = read.others.iter();
    Ok(Objects {
        apps,
        notes: others
            .map(|other| {
                format!("{shown} also contains {other}, which has no effect on one machine")
            })
            .collect(),
    })
}

/// Reports a name or hostname that two apps have in common.
fn twice(apps: &[Object]) -> Option<String> {
    for (index, object) in apps.iter().enumerate() {
        let before = &apps[..index];
        let name = &object.app.name;
        if before.iter().any(|other| other.app.name == *name) {
            return Some(format!(
                "two objects are named {name}: give one of them another metadata.name"
            ));
        }
        let wanted = hostname(&object.app);
        if let Some(other) = before.iter().find(|other| hostname(&other.app) == wanted) {
            return Some(format!(
                "{} and {name} both have the hostname {wanted}: give one of them another spec.dns.hostname",
                other.app.name
            ));
        }
    }
    None
}

fn object(file: &Path, shown: &str, app: &ScaledApp) -> anyhow::Result<Object> {
    let app = validate(app).map_err(|violations| match violations.as_slice() {
        [violation] => anyhow::anyhow!("{shown}: {violation}"),
        all => {
            let lines = all.iter().map(|violation| format!("\n  {violation}"));
            anyhow::anyhow!(
                "{shown} has {} mistakes:{}",
                all.len(),
                lines.collect::<String>()
            )
        }
    })?;
    let mut notes = Vec::new();
    let directory = directory(file, app.working_dir.as_deref(), &mut notes)?;
    if app.has_resources {
        notes.push(
            "spec.resources is not enforced on one machine: workers follow its cores".to_owned(),
        );
    }
    let scaler = app.autoscaling.as_ref();
    if scaler.is_some_and(|scaler| scaler.settings.cpu.is_some()) {
        notes.push(
            "spec.autoscaling.cpu is not obeyed on one machine: pods share its cores".to_owned(),
        );
    }
    if scaler.is_some_and(|scaler| scaler.settings.pods.max() > MAX_PODS) {
        notes.push(format!(
            "spec.autoscaling.pods.max is {MAX_PODS} on one machine, which has no addresses for more"
        ));
    }
    if app.tls.as_ref().is_some_and(|tls| tls.clients.is_some()) {
        notes.push(
            "spec.balancers.tls.clientCertificates names a Secret, and one machine has none: clients are not asked for certificates"
                .to_owned(),
        );
    }
    Ok(Object {
        app,
        directory,
        notes,
    })
}

/// The directory in which a command starts: `spec.workingDir`, seen from the directory of the file.
/// Without `workingDir`, or if it is absolute and does not exist on this machine, it is the
/// directory of the file, so that `command: [node, server.js]` works for a file beside it. A
/// relative `workingDir` must exist.
fn directory(
    file: &Path,
    wanted: Option<&str>,
    notes: &mut Vec<String>,
) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(file)?;
    let beside = file.parent().unwrap_or(Path::new("/"));
    let Some(wanted) = wanted else {
        return Ok(beside.to_owned());
    };
    let directory = beside.join(wanted);
    if directory.is_dir() {
        return Ok(directory);
    }
    if Path::new(wanted).is_absolute() {
        notes.push(format!(
            "spec.workingDir {wanted} is not on this machine: starting in {}",
            beside.display()
        ));
        return Ok(beside.to_owned());
    }
    bail!(
        "spec.workingDir: {} is not a directory: make it, or leave workingDir out",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {name: hello}\nspec:\n  image: i\n";

    fn load_text(directory: &Path, spec: &str) -> anyhow::Result<Object> {
        let file = directory.join("app.yaml");
        std::fs::write(&file, format!("{HEAD}{spec}\n")).unwrap();
        load(&file).map(|mut objects| objects.apps.remove(0))
    }

    #[test]
    fn two_objects_with_the_same_name_or_hostname_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("app.yaml");
        let app = |name: &str, more: &str| {
            format!("{}  command: [a]\n{more}---\n", HEAD.replace("hello", name))
        };
        let load = |text: String| {
            std::fs::write(&file, text).unwrap();
            load(&file)
        };
        let both = load(app("one", "") + &app("two", "  workers: {count: 3}\n")).unwrap();
        let names: Vec<&str> = both
            .apps
            .iter()
            .map(|object| object.app.name.as_str())
            .collect();
        assert_eq!(names, ["one", "two"]);
        let error = load(app("one", "") + &app("one", ""))
            .unwrap_err()
            .to_string();
        assert!(error.contains("two objects are named one"), "{error}");
        let same = "  dns: {hostname: one.apps.local}\n";
        let error = load(app("one", "") + &app("two", same))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("one and two both have the hostname one.apps.local"),
            "{error}"
        );
        let error = load(app("one", "") + &app("two", "  port: 70000\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("app.yaml: two: spec.port"), "{error}");
    }

    #[test]
    fn a_command_starts_in_the_working_directory_or_beside_the_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("sub")).unwrap();
        for (spec, expected, notes) in [
            ("  command: [a]", home.path().to_owned(), 0),
            (
                "  command: [a]\n  workingDir: sub",
                home.path().join("sub"),
                0,
            ),
            ("  command: [a]\n  workingDir: /", PathBuf::from("/"), 0),
            (
                "  command: [a]\n  workingDir: /nonexistent/app",
                home.path().to_owned(),
                1,
            ),
            (
                "  command: [a]\n  resources: {limits: {cpu: 1}}",
                home.path().to_owned(),
                1,
            ),
        ] {
            let object = load_text(home.path(), spec).unwrap();
            assert_eq!(
                (object.directory, object.notes.len()),
                (expected, notes),
                "{spec}"
            );
        }
        let error = load_text(home.path(), "  command: [a]\n  workingDir: missing").unwrap_err();
        assert!(error.to_string().contains("make it, or leave"), "{error}");
    }
}
