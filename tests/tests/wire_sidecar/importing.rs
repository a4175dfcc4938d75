//! `import` of PM2 files, most of which only Node can read.

use std::process::Command;
use std::time::Duration;

use scaledapp_tests::process::{self, Ended};
use scaledapp_tests::{binaries, wait};

use crate::has;

fn import(name: &str, text: &str, words: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    // The process replaces itself by `scaledapp import`, which has the importer.
    let mut command = Command::new(binaries::path("scaledapp-sidecar").unwrap());
    command.arg("import").arg(&path).args(words);
    process::run(command, Duration::from_secs(30)).unwrap()
}

#[test]
fn javascript_of_both_kinds_is_evaluated_by_node() {
    if !has("node") {
        return;
    }
    let body = "{ apps: [{ name: 'api', script: 'a.js', instances: 2, env: { PORT: 3000 + 1 } }] }";
    for (name, text) in [
        (
            "ecosystem.config.js",
            format!("console.log('reading'); module.exports = {body};"),
        ),
        ("ecosystem.config.cjs", format!("module.exports = {body}")),
        ("ecosystem.config.mjs", format!("export default {body}")),
    ] {
        let ended = import(name, &text, &["-o", "flags"]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let line = ended.stdout.lines().last().unwrap();
        assert_eq!(
            line,
            "scaledapp-sidecar run --port 3001 --workers 2 --stop-signal INT -- node a.js"
        );
    }
}

#[test]
fn a_file_that_node_cannot_evaluate_is_reported_with_the_cure() {
    if !has("node") {
        return;
    }
    for (text, said) in [
        ("throw new Error('broken file')", "broken file"),
        ("module.exports = undefined", "module.exports"),
        ("module.exports = { apps: [] }", "names no apps"),
    ] {
        let ended = import("ecosystem.config.cjs", text, &[]);
        assert_eq!(ended.code, 1, "{text}");
        assert!(ended.stderr.contains(said), "{text}: {}", ended.stderr);
    }
}

#[test]
fn an_imported_line_runs_the_app() {
    if !has("node") {
        return;
    }
    let port = scaledapp_tests::ports::local().unwrap().port();
    let admin = scaledapp_tests::ports::local().unwrap();
    let script = scaledapp_tests::fixtures::app("app.js");
    let text = format!(
        "apps:\n- name: app\n  script: {script}\n  args: [{port}]\n  instances: 2\n  env: {{PORT: {port}, GREETING: \"it's $me\"}}\n"
    );
    let ended = import("ecosystem.yaml", &text, &["-o", "flags"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let line = ended.stdout.lines().last().unwrap().to_owned();
    let mut shell = Command::new("sh");
    let binary = binaries::path("scaledapp-sidecar").unwrap();
    let directory = binary.parent().unwrap().to_string_lossy().into_owned();
    let path = std::env::var("PATH").unwrap();
    shell
        .args(["-c", &format!("exec {line}")])
        .env("PATH", format!("{directory}:{path}"))
        .env("SCALEDAPP_ADMIN", admin.to_string());
    let _running = process::Process::spawn(shell).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answer = wait::until(Duration::from_secs(20), "the app answers", || {
        scaledapp_tests::http::get(address, "/environment").map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    let environment = &answer.json()["environment"];
    assert_eq!(environment["GREETING"], "it's $me");
    assert_eq!(environment["PORT"], port.to_string());
}
