//! `import` with whole files in the style of public projects: the output and the report are golden,
//! every field of the input is named, and what is kept is in the output.
//!
//! `UPDATE_GOLDEN=1 cargo test -p scaledapp --test import` rewrites the golden files; read the
//! difference before committing it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn inputs() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let files = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    assert!(files.len() >= 12, "{files:?}");
    files
}

fn import(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaledapp"));
    command.arg("import").args(words).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn assert_golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        golden == text,
        "{} differs; it is now:\n{text}",
        path.display()
    );
}

#[test]
fn outputs_and_reports_are_golden() {
    for file in inputs() {
        let output = import(&[file.to_str().unwrap()]);
        assert!(output.status.success(), "{}: {output:?}", file.display());
        let golden = |kind: &str| {
            let name = file.file_name().unwrap().to_str().unwrap();
            file.parent().unwrap().join(kind).join(name)
        };
        assert_golden(&golden("output"), &text(output.stdout));
        assert_golden(&golden("report"), &text(output.stderr));
    }
}

/// The scalars of a value with their paths.
fn leaves(value: &Value, path: &str, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                leaves(value, &path, all);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                leaves(item, &format!("{path}[{index}]"), all);
            }
        }
        Value::String(text) => all.push((path.to_owned(), text.clone())),
        other => all.push((path.to_owned(), other.to_string())),
    }
}

/// The objects of a file, each with the name that the report gives it.
fn sources(file: &Path) -> Vec<(String, Value)> {
    let content = std::fs::read_to_string(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    if name.starts_with("Procfile") {
        let lines = content.lines().filter(|line| !line.starts_with('#'));
        let processes = lines.map(|line| {
            let (name, command) = line.split_once(": ").unwrap();
            (name.to_owned(), Value::from(command))
        });
        return vec![("Procfile".to_owned(), Value::Object(processes.collect()))];
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(&content).unwrap();
    let mut all = Vec::new();
    for document in documents {
        if let Some(Value::Object(services)) = document.get("services") {
            for (name, service) in services {
                all.push((format!("service {name}"), service.clone()));
            }
            let mut rest = document.clone();
            rest.as_object_mut().unwrap().remove("services");
            all.push(("Compose file".to_owned(), rest));
        } else if let Some(Value::Array(items)) = document.get("items") {
            all.extend(items.iter().map(|item| (described(item), item.clone())));
        } else if document.get("kind").is_some() {
            all.push((described(&document), document));
        }
    }
    all
}

fn described(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    format!(
        "{} {}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

fn covers(field: &str, path: &str) -> bool {
    field.is_empty()
        || path
            .strip_prefix(field)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[test]
fn every_field_is_named_and_what_is_kept_is_in_the_output() {
    let mut checked = 0;
    for file in inputs() {
        let shown = file.display();
        let output = import(&[file.to_str().unwrap(), "-o", "json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut made = Vec::new();
        leaves(&said["objects"], "", &mut made);
        let entries = said["entries"].as_array().unwrap();
        for (source, object) in sources(&file) {
            let mut fields = Vec::new();
            leaves(&object, "", &mut fields);
            fields.retain(|(path, _)| !path.is_empty());
            let own: Vec<&Value> = entries
                .iter()
                .filter(|entry| entry["source"] == source.as_str())
                .collect();
            for (path, value) in fields {
                let mut naming = own
                    .iter()
                    .filter(|entry| covers(entry["field"].as_str().unwrap(), &path));
                let entry = naming.next();
                let entry =
                    entry.unwrap_or_else(|| panic!("{shown}: {source}: {path} is not named"));
                checked += 1;
                let to = entry["to"].as_str().unwrap_or_default();
                let is_kept = entry["fate"] == "kept" && to.starts_with("spec.");
                // Units, names of ports and PORT are written in another way.
                let is_rewritten = [
                    "mem_",
                    "memory",
                    "PORT",
                    "ports",
                    "port",
                    "scheme",
                    "deploy.mode",
                    "expose",
                    "read_only",
                    "security_opt",
                    "user",
                    "environment[",
                    "extra_hosts",
                    "extra_hosts",
                ];
                let is_interpolated = value.contains("${");
                if is_kept
                    && !is_interpolated
                    && !is_rewritten.iter().any(|part| path.contains(part))
                    && !value.is_empty()
                {
                    let is_there = made
                        .iter()
                        .any(|(path, text)| *text == value || path.contains(&value))
                        || value.split_whitespace().all(|word| {
                            made.iter()
                                .any(|(_, text)| *text == word || text.contains(word))
                        });
                    assert!(
                        is_there,
                        "{shown}: {source}: {path} is kept at {to}, but {value:?} is nowhere"
                    );
                }
            }
        }
    }
    assert!(checked > 300, "{checked}");
}

#[test]
fn every_object_is_read_back_and_no_secret_is_printed() {
    for file in inputs() {
        let output = import(&[file.to_str().unwrap()]);
        let (made, report) = (text(output.stdout), text(output.stderr));
        for secret in ["hunter2", "plaintext-secret", "do-not-print-me", "abc\""] {
            assert!(
                !made.contains(secret) && !report.contains(secret),
                "{}",
                file.display()
            );
        }
        if made.is_empty() {
            continue;
        }
        for app in scaledapp_crds::read_all(&made).unwrap().apps {
            let violations = scaledapp_plan::validate(&app).err().unwrap_or_default();
            let on_a_cluster: Vec<_> = violations
                .iter()
                .filter(|violation| !violation.message.starts_with("needs a cluster"))
                .collect();
            assert!(
                on_a_cluster.is_empty(),
                "{}: {on_a_cluster:?}",
                file.display()
            );
        }
    }
}

#[test]
fn flags_choose_and_add() {
    let input = |name: &str| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
        directory.join(name).to_str().unwrap().to_owned()
    };
    let directory = tempfile::tempdir().unwrap();
    let variables = directory.path().join(".env");
    std::fs::write(&variables, "APP=shop\nVERSION=7\nDB_PASSWORD=geheim\n").unwrap();
    let variables = variables.to_str().unwrap();
    let made = |words: &[&str]| {
        let output = import(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(!format!("{output:?}").contains("geheim"));
        text(output.stdout)
    };
    let go = made(&[
        &input("compose-go.yml"),
        "--env-file",
        variables,
        "--name",
        "shop",
    ]);
    assert!(
        go.contains("image: ghcr.io/acme/shop:7") && go.contains("  name: shop\n"),
        "{go}"
    );
    let rails = made(&[&input("Procfile.rails"), "--env-file", variables]);
    assert!(
        rails.contains("key: DB_PASSWORD") && rails.contains("port: 5000"),
        "{rails}"
    );
    let helm = made(&[
        &input("k8s-helm.yaml"),
        "--container",
        "blog",
        "--command",
        "bundle exec",
        "--keep-processes",
    ]);
    assert!(
        helm.contains("  - bundle\n  - exec\n  args:\n  - puma\n"),
        "{helm}"
    );
    assert!(helm.contains("count: 1"), "{helm}");
    let worker = made(&[&input("compose-node-api.yml"), "--app", "worker"]);
    assert!(
        worker.contains("dist/worker.js") && !worker.contains("dist/main.js"),
        "{worker}"
    );
    for (words, code) in [
        (&[&input("Procfile.node")[..], "--strict"][..], 0),
        (&[&input("Procfile.rails"), "--strict"], 1),
        (&[&input("Procfile.rails"), "--app", "none"], 1),
        (&[&input("Procfile.rails"), "-o", "flags"], 1),
        (&[&input("Procfile.rails"), &input("Procfile.node")], 1),
        (&[&input("k8s-plain.yaml"), &input("k8s-consumer.yaml")], 0),
        (&["/nonexistent/file"], 1),
        (&[], 64),
    ] {
        let output = import(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    }
}
