//! Tests of the commands `render` and `crd`.

use std::path::Path;

use clap::Parser;
use scaledapp_operator::cli::{Cli, Command};
use scaledapp_operator::render;

fn rendered(file: &Path) -> anyhow::Result<String> {
    let cli = Cli::try_parse_from([
        "scaledapp-operator".as_ref(),
        "render".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
        "--sidecar-image=sidecar:1".as_ref(),
        "--balancer-image=balancer:1".as_ref(),
    ])?;
    match cli.command {
        Command::Render(args) => render::file(&args),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_objects_of_hello() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = rendered(&root.join("examples/hello-node/scaledapp.yaml")).unwrap();
    insta::assert_snapshot!("hello", text);
}

#[test]
fn an_invalid_file_is_refused_by_field() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {name: a}\nspec: {image: a, command: [x], replicas: {total: 1, perNode: 1}}\n";
    std::fs::write(file.path(), text).unwrap();
    let error = format!("{:#}", rendered(file.path()).unwrap_err());
    assert!(error.contains("spec.replicas"), "{error}");
}

#[test]
fn the_printed_definition_equals_the_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let kept = std::fs::read_to_string(root.join("crds/scaledapp.yaml")).unwrap();
    let (_, kept) = kept.split_once('\n').unwrap();
    assert_eq!(kept, render::definition().unwrap());
}

/// `tests/tests/apiserver/same.rs` checks the same file with a real API server.
#[test]
fn render_accepts_what_the_api_server_accepts() {
    #[derive(serde::Deserialize)]
    struct Same {
        taken: Vec<String>,
        nulls: Vec<String>,
        refused: Vec<String>,
    }
    let same: Same = serde_saphyr::from_str(include_str!("same.yaml")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let render = |fields: &str| {
        let fields = fields.trim_start_matches("{}");
        let own = |name: &str, value: &str| {
            if fields.starts_with(&format!("{name}:")) {
                String::new()
            } else {
                format!("  {name}: {value}\n")
            }
        };
        let text = format!(
            "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: a, labels: null}}\nspec:\n{}{}  {fields}\n",
            own("image", "i"),
            own("command", "[x]"),
        );
        std::fs::write(file.path(), text).unwrap();
        rendered(file.path())
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    };
    let mut wrong = Vec::new();
    for fields in same.taken.iter().chain(&same.nulls) {
        if let Err(said) = render(fields) {
            wrong.push(format!("{fields}: refused: {said}"));
        }
    }
    for fields in &same.refused {
        match render(fields) {
            Ok(()) => wrong.push(format!("{fields}: taken")),
            Err(said) => println!("{fields}: {said}"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
