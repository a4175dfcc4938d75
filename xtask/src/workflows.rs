//! A test: actionlint accepts the workflows of GitHub, and each action is named by its commit, because
//! whoever owns a tag can move it.

use std::fs;

use scaledapp_tests::binaries;

use crate::kind::cache::Cache;
use crate::kind::golang;
use crate::kind::recipe;
use crate::kind::run::Run;

#[test]
fn actionlint_accepts_the_workflows() {
    let lint = match golang::programs(&Cache::new(), &recipe::ACTIONLINT) {
        Ok(directory) => directory.join("actionlint"),
        Err(error) => {
            println!("skipped: actionlint cannot be compiled: {error:#}");
            return;
        }
    };
    // It would also call shellcheck and pyflakes if they were there: the result must not depend on that.
    let lint = Run::new(lint, &["-shellcheck=", "-pyflakes=", "-no-color"]);
    lint.done().unwrap();
    // A negative control.
    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("wrong.yml");
    fs::write(
        &wrong,
        "on: push\njobs: {a: {runs-on: ubuntu-24.04, steps: [{}]}}\n",
    )
    .unwrap();
    let lint = golang::programs(&Cache::new(), &recipe::ACTIONLINT).unwrap();
    let lint = Run::new(lint.join("actionlint"), &[wrong]);
    lint.done().unwrap_err();
}

#[test]
fn every_action_is_named_by_its_commit() {
    let workflows = binaries::workspace().join(".github/workflows");
    for entry in fs::read_dir(workflows).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let mut uses = 0;
        for line in text.lines() {
            let Some((_, action)) = line.split_once("uses: ") else {
                continue;
            };
            uses += 1;
            let commit = action.split(['@', ' ']).nth(1).unwrap();
            let is_commit = commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit());
            assert!(is_commit, "{}: {action}", entry.path().display());
        }
        assert!(uses > 0, "{}", entry.path().display());
    }
}
