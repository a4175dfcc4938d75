//! Tests of whole help texts, and of whole messages about invalid objects.
//!
//! `UPDATE_GOLDEN=1 cargo test -p scaledapp --test golden` rewrites the files
//! in `tests/golden/`; read the difference before committing it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::path::Path;
use std::process::{Command, Output};

fn scaledapp(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaledapp"));
    let ours =
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SCALEDAPP_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.env("COLUMNS", "100").args(words).output().unwrap()
}

fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{} differs; it is now:\n{text}",
        path.display()
    );
}

#[test]
fn help_texts_are_golden() {
    for (name, words) in [
        ("help.txt", &["--help"][..]),
        ("help-local.txt", &["local", "--help"]),
        ("help-status.txt", &["status", "--help"]),
        ("help-scale.txt", &["scale", "--help"]),
    ] {
        let output = scaledapp(words);
        assert!(output.status.success());
        assert_golden(name, &String::from_utf8(output.stdout).unwrap());
    }
}

#[test]
fn wrong_usage_exits_with_64() {
    for words in [
        &[][..],
        &["locla"],
        &["local"],
        &["local", "f", "--nodes", "0"],
        &["scale", "x"],
    ] {
        let output = scaledapp(words);
        assert_eq!(output.status.code(), Some(64), "{words:?}: {output:?}");
    }
}

#[test]
fn an_invalid_object_exits_with_2_and_names_file_position_field_and_cure() {
    let head =
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {name: hello}\nspec:\n";
    let shortest = format!("{head}  image: example/hello:1.0\n  command: [node, server.js]\n");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app.yaml");
    let mut all = String::new();
    for text in [
        String::new(),
        "apiVersion: apps/v1\nkind: Deployment\n".to_owned(),
        format!("{head}  image: i\n"),
        format!("{shortest}  replica: 3\n"),
        format!("{shortest}  port: http\n"),
        format!(
            "{shortest}  env:\n  - {{name: KEY, valueFrom: {{secretKeyRef: {{name: s, key: k}}}}}}\n"
        ),
        format!(
            "{shortest}  port: 70000\n  replicas: {{perNode: 1, total: 3}}\n  balancers: {{replicas: 0}}\n"
        ),
        format!("{shortest}  replicas: {{total: 300}}\n"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let output = scaledapp(&["local", &file.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        all += &said.replace(&*file.to_string_lossy(), "app.yaml");
    }
    assert_golden("errors.txt", &all);
}

#[test]
fn a_command_without_a_run_fails_with_the_cure() {
    let output = scaledapp(&["status", "--state-file", "/nonexistent/state.json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is `scaledapp local` running?"), "{said}");
}
