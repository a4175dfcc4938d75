//! Tests of runs that cannot start, with scripts in place of the programs. Runs that can start are
//! tested by the local stories in the repository's `tests/`.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

const YAML: &str = "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {name: NAME}\nspec:\n  image: i\n  command: [nothing]\n  port: 21984\n";

/// Locked while the programs are written and run. Otherwise, a child of another test could
/// have a program open for writing between fork and exec, and a program that is open for writing
/// cannot be executed (ETXTBSY).
static WRITING: Mutex<()> = Mutex::new(());

/// Runs a copy of `scaledapp local` whose other programs are the shell script `sibling`.
fn local(directory: &Path, sibling: Option<&str>) -> Output {
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = directory.join("scaledapp");
    fs::copy(env!("CARGO_BIN_EXE_scaledapp"), &ours).unwrap();
    for name in ["scaledapp-sidecar", "scaledapp-balancer", "scaledapp-dns"] {
        if let Some(script) = sibling {
            let path = directory.join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let name = format!("test-failures-{}", directory.file_name().unwrap().len());
    let file = directory.join("app.yaml");
    fs::write(&file, YAML.replace("NAME", &name)).unwrap();
    let mut command = Command::new(&ours);
    command.arg("local").arg(&file).env("PATH", "/usr/bin:/bin");
    command.arg("--workdir").arg(directory.join("work"));
    command
        .arg("--state-file")
        .arg(directory.join("state.json"));
    command.output().unwrap()
}

/// Names in the directory that the run should have removed but did not.
fn left(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name == "work" || name.contains("state"))
        .collect()
}

#[test]
fn without_the_other_programs_the_message_says_how_to_get_them() {
    let directory = tempfile::tempdir().unwrap();
    let output = local(directory.path(), None);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cargo xtask build"), "{said}");
    assert_eq!(left(directory.path()), Vec::<String>::new());
}

#[test]
fn if_a_pod_cannot_start_the_run_prints_its_output_exits_with_2_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // The other programs run until they get a signal.
    let script =
        "case \"$*\" in *'-- nothing'*) echo 'nothing: no such program' >&2; exit 127;; esac
        trap 'exit 0' TERM
        while :; do sleep 0.05; done";
    let output = local(directory.path(), Some(script));
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nothing: no such program"), "{said}");
    assert!(
        said.contains("could not start (127: the command was not found)"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
    assert_eq!(left(directory.path()), Vec::<String>::new());
}
