//! Workers whose working directory has a name that later refers to another directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use scaledapp_tests::http;
use scaledapp_tests::sidecar::{Launch, Sidecar};

use crate::{SOON, has};

/// Makes two releases, and a link `current` to the first.
fn releases() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        let directory = home.path().join(release);
        fs::create_dir(&directory).unwrap();
        let app = format!(
            "require('http').createServer((q, s) => s.end('{release} ' + process.cwd() + ' ' + \
             process.env.PWD)).listen(+process.argv[2])"
        );
        fs::write(directory.join("server.js"), app).unwrap();
    }
    symlink("1", home.path().join("current")).unwrap();
    home
}

fn switch(home: &Path) {
    symlink("2", home.join("new")).unwrap();
    fs::rename(home.join("new"), home.join("current")).unwrap();
}

fn release_of(sidecar: &Sidecar) -> String {
    let text = http::get(sidecar.address(), "/").unwrap().text();
    text[..1].to_owned()
}

#[test]
fn a_reload_after_a_switched_symlink_runs_the_new_release() {
    if !has("node") {
        return;
    }
    // The directory's name comes from the flag, or from the shell's PWD.
    for by_flag in [true, false] {
        let home = releases();
        let current = home.path().join("current");
        let launch = Launch::of(|port| {
            ["node", "server.js", &port.to_string()]
                .map(str::to_owned)
                .into()
        });
        let mut launch = launch.unwrap().with(&["--workers", "1"]);
        if by_flag {
            launch = launch.with(&["--cwd", current.to_str().unwrap()]);
        } else {
            let words = [
                "sh",
                "-c",
                "cd \"$0\" && exec \"$@\"",
                current.to_str().unwrap(),
            ];
            launch.wrapper = words.map(str::to_owned).into();
        }
        let mut sidecar = launch.ready(1).unwrap();
        assert_eq!(release_of(&sidecar), "1");
        switch(home.path());
        sidecar.ctl_done(&["reload"]).unwrap();
        assert_eq!(release_of(&sidecar), "2", "by flag: {by_flag}");
        let text = http::get(sidecar.address(), "/").unwrap().text();
        assert!(
            text.ends_with(current.to_str().unwrap()),
            "PWD is the name: {text}"
        );
        sidecar
            .process
            .says(SOON, "now leads to another directory")
            .unwrap();
        sidecar.process.signal(Signal::TERM).unwrap();
        sidecar.process.wait(SOON).unwrap();
    }
}

#[test]
fn a_missing_directory_is_refused_and_a_removed_one_fails_the_reload() {
    if !has("node") {
        return;
    }
    let home = releases();
    let launch = Launch::of(|port| {
        ["node", "server.js", &port.to_string()]
            .map(str::to_owned)
            .into()
    });
    let launch = launch.unwrap().with(&["--workers", "1", "--cwd"]);
    let missing = home.path().join("missing");
    let ended = launch
        .clone()
        .with(&[missing.to_str().unwrap()])
        .run(SOON)
        .unwrap();
    assert_eq!(ended.code, 64);
    assert!(
        ended.stderr.contains("is not a directory: create it"),
        "{}",
        ended.stderr
    );

    let current = home.path().join("current");
    let sidecar = launch.with(&[current.to_str().unwrap()]).ready(1).unwrap();
    fs::remove_file(&current).unwrap();
    assert_eq!(sidecar.ctl(&["reload"]).unwrap().code, 1);
    sidecar
        .process
        .says(SOON, "--cwd is not a directory")
        .unwrap();
    assert_eq!(release_of(&sidecar), "1", "the old worker stays");
}
