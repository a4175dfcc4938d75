//! `scaledapp local` and its commands, as users run them: how a command finds its run, several
//! apps in one file, the origin of output lines, messages of failed starts, and files that other
//! users of the machine may have put in the way.
//!
//! No load is sent here; `local_stories` does that.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::process::{self, Ended, Process, Signal};
use scaledapp_tests::{binaries, sidecar, wait};

/// How long everything may take to start, on a busy machine.
const BOOT: Duration = Duration::from_mins(1);
/// The user `nobody`, as whom tests that run as root put files in the way.
const NOBODY: u32 = 65_534;

/// One directory for a user's files and for the files of the user's runs.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, text: &str) -> PathBuf {
        let file = self.path().join("app.yaml");
        fs::write(&file, text).unwrap();
        file
    }

    /// A `scaledapp` command that sees only the runs of this user.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("scaledapp").unwrap());
        command.args(words).current_dir(self.path());
        command.env("XDG_RUNTIME_DIR", self.path());
        command.env_remove("SCALEDAPP_STATE_FILE");
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        process::run(self.command(words), BOOT).unwrap()
    }

    /// Starts a run and waits until the apps with these names are ready.
    fn start(&self, text: &str, names: &[&str], more: &[&str]) -> Process {
        let file = self.file(text);
        let words = [&["local", file.to_str().unwrap(), "--nodes", "1"], more].concat();
        let local = Process::spawn(self.command(&words)).unwrap();
        wait::until(BOOT, "everything is ready", || {
            let out = local.stdout();
            let ready = |name: &&str| out.contains(&format!("{name} is ready after"));
            if names.iter().all(ready) {
                Ok(())
            } else {
                Err(format!("{out}\n{}", local.stderr()))
            }
        })
        .unwrap();
        local
    }
}

/// An app that prints lines and serves.
fn app(name: &str, port: u16) -> String {
    let server = binaries::path("scaledapp-hello-rust").unwrap();
    let script = format!(
        "echo $0 begins; echo $0 complains >&2; exec {}",
        server.display()
    );
    app_of(name, port, &["sh", "-c", &script, name])
}

fn app_of(name: &str, port: u16, command: &[&str]) -> String {
    format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: {name}}}\nspec:\n  \
         image: i\n  command: {}\n  port: {port}\n  workers: {{count: 1}}\n  balancers: {{replicas: 1}}\n",
        serde_json::to_string(command).unwrap()
    )
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can act as another user");
    }
    root
}

#[test]
fn after_a_kill_no_command_acts_on_the_app_that_has_the_addresses_now() {
    let place = Home::new();
    let hello = place.start(&app("hello", 21_971), &["hello"], &[]);
    let before = place.run(&["status", "hello", "-o", "json"]);
    hello.signal(Signal::KILL).unwrap();
    drop(hello);
    let state = place.path().join("scaledapp/hello/state.json");
    assert!(state.is_file(), "a killed run leaves its state file");
    let mut chat = place.start(&app("chat", 21_971), &["chat"], &[]);
    let admin = |ended: &Ended| -> String {
        let runs: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        runs[0]["pods"][0]["admin"].as_str().unwrap().to_owned()
    };
    let now = place.run(&["status", "chat", "-o", "json"]);
    println!(
        "hello was at {}, chat is at {}",
        admin(&before),
        admin(&now)
    );
    let kept = place.path().join("kept.json");
    fs::copy(&state, &kept).unwrap();
    for words in [
        &[
            "scale",
            "hello",
            "3",
            "--state-file",
            kept.to_str().unwrap(),
        ][..],
        &["scale", "hello", "3"],
        &["reload", "hello"],
    ] {
        let ended = place.run(words);
        assert_eq!(ended.code, 1, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains("does not run"), "{ended:?}");
    }
    assert!(
        !state.exists() && !kept.exists(),
        "the files of the killed run are removed"
    );
    let status = sidecar::status(admin(&now).parse().unwrap()).unwrap();
    assert_eq!(status["desired"], 1, "{status}");
    assert_eq!(status["generation"], 1, "{status}");
    let ended = place.run(&["status"]);
    assert!(
        ended.stdout.contains("chat-0") && !ended.stdout.contains("hello"),
        "{ended:?}"
    );
    chat.signal(Signal::INT).unwrap();
    assert_eq!(chat.wait(BOOT).unwrap().code, 0);
    assert!(!place.path().join("scaledapp").exists());
}

#[test]
fn several_apps_of_a_file_run_together_and_can_be_told_apart() {
    let place = Home::new();
    let text = format!("{}---\n{}", app("one", 21_972), app("two", 21_972));
    let file = place.path().join("state.json");
    let mut local = place.start(
        &text,
        &["one", "two"],
        &["--state-file", file.to_str().unwrap()],
    );
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(state["hostname"], "one.apps.local");
    assert_eq!(state["apps"][1]["hostname"], "two.apps.local");
    assert_eq!(state["apps"][0]["pods"], state["pods"]);
    assert_eq!(state["apps"][1]["dns"], state["dns"]);
    for words in [
        &["scale", "two", "2"][..],
        &["scale", "two", "3", "--state-file", file.to_str().unwrap()],
    ] {
        let ended = place.run(words);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    }
    let desired = |app: usize| {
        let admin = state["apps"][app]["pods"][0]["admin"].as_str().unwrap();
        sidecar::status(admin.parse().unwrap()).unwrap()["desired"].clone()
    };
    assert_eq!((desired(0), desired(1)), (1.into(), 3.into()));
    let ended = place.run(&["status"]);
    assert!(
        ended.stdout.contains("one-0") && ended.stdout.contains("two-0"),
        "{ended:?}"
    );
    let again = place.run(&["local", "app.yaml"]);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("one runs here already"), "{again:?}");

    // Each line begins with its origin, and no line reports the supervisors' own admin ports.
    let (out, err) = (local.stdout(), local.stderr());
    assert!(out.contains("one-0/0 | one begins\n"), "{out}");
    assert!(err.contains("two-0/0 | two complains\n"), "{err}");
    assert!(!err.contains("listens on 9377"), "{err}");
    let ended = place.run(&["logs", "two"]);
    assert!(
        ended.stdout.contains("two-0/0 | two complains"),
        "{ended:?}"
    );
    local.signal(Signal::HUP).unwrap();
    let ended = local.wait(BOOT).unwrap();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!ended.stderr.contains("still had work"), "{ended:?}");
    assert!(!file.exists() && !place.path().join("scaledapp").exists());
}

#[test]
fn a_failed_start_ends_with_the_relevant_lines() {
    let place = Home::new();
    let script = "i=0; while [ $i -lt 40 ]; do echo line $i >&2; i=$((i+1)); done; echo 'Error: no database' >&2; exit 7";
    let file = place.file(&app_of("bad", 21_973, &["sh", "-c", script]));
    let ended = place.run(&["local", file.to_str().unwrap()]);
    assert_eq!(ended.code, 2);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let last = lines[lines.len().saturating_sub(7)..].join("\n");
    for word in [
        "could not start (exit code 7)",
        "command: sh -c",
        "Error: no database",
        "  cure: ",
    ] {
        assert!(last.contains(word), "{last}");
    }
    assert!(!place.path().join("scaledapp").exists());
}

#[test]
fn logs_without_lines_says_where_to_look() {
    let place = Home::new();
    let server = binaries::path("scaledapp-hello-rust").unwrap();
    let text = app_of("quiet", 21_974, &[server.to_str().unwrap()]);
    let mut local = place.start(&text, &["quiet"], &[]);
    let ended = place.run(&["logs", "quiet"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""));
    assert!(ended.stderr.contains("stdout is not kept"), "{ended:?}");
    local.signal(Signal::INT).unwrap();
    assert_eq!(local.wait(BOOT).unwrap().code, 0);
}

/// Runs a command as `nobody`. Returns whether the command succeeded.
fn as_nobody(program: &str, words: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(words).uid(NOBODY).gid(NOBODY);
    command.output().unwrap().status.success()
}

/// A directory like `/tmp`: writable for everybody, and sticky.
fn sticky(parent: &Path) -> PathBuf {
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
    let path = parent.join("tmp");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
    path
}

/// The commands by which another user can put something in the way at a path.
fn planted(at: &Path, victim: &Path) -> Vec<(&'static str, Vec<String>)> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let (at, victim) = (at.to_str().unwrap(), victim.to_str().unwrap());
    vec![
        ("mkdir", words(&["-m", "777", at])),
        ("mkdir", words(&["-m", "700", at])),
        ("ln", words(&["-s", victim, at])),
        ("ln", words(&[victim, at])),
        ("mkfifo", words(&[at])),
        ("touch", words(&[at])),
    ]
}

#[test]
fn root_does_not_write_to_places_prepared_by_another_user() {
    if !is_root() {
        return;
    }
    let place = Home::new();
    let tmp = sticky(place.path());
    let victim = place.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let file = place.file(&app_of("hello", 21_975, &["sleep", "60"]));
    let local = |more: &[&str]| {
        let words = [&["local", file.to_str().unwrap()], more].concat();
        let mut command = place.command(&words);
        command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", &tmp);
        process::run(command, BOOT).unwrap()
    };
    let refused = |what: &str, ended: &Ended| {
        assert_eq!(ended.code, 2, "{what}: {ended:?}");
        let cured = ["remove", "give ", "chmod"]
            .iter()
            .any(|cure| ended.stderr.contains(cure));
        assert!(
            cured && !ended.stderr.contains("starting"),
            "{what}: {ended:?}"
        );
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{what}");
    };
    let (work, state) = (tmp.join("work"), tmp.join("state.json"));
    let places: [(PathBuf, &[&str]); 4] = [
        (tmp.join("scaledapp-0"), &[]),
        (work.clone(), &["--workdir", work.to_str().unwrap()]),
        // Below a directory that the other user owns.
        (
            work.clone(),
            &["--workdir", &format!("{}/inner", work.display())],
        ),
        (state.clone(), &["--state-file", state.to_str().unwrap()]),
    ];
    for (at, more) in places {
        for (program, words) in planted(&at, &victim) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if !as_nobody(program, &words) {
                // The kernel refuses a hard link to a directory or to another user's file.
                continue;
            }
            let what = format!("{program} {}, {more:?}", words.join(" "));
            refused(&what, &local(more));
            assert!(fs::symlink_metadata(&at).is_ok(), "{what}: it is gone");
            let removed = fs::remove_dir_all(&at).or_else(|_| fs::remove_file(&at));
            removed.unwrap();
        }
    }
    // Without the sticky bit, everybody can change every name.
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
    refused("not sticky", &local(&[]));
}

#[test]
fn a_runtime_directory_of_another_user_is_not_used() {
    if !is_root() {
        return;
    }
    let place = Home::new();
    let tmp = sticky(place.path());
    let theirs = tmp.join("run");
    assert!(as_nobody("mkdir", &["-m", "700", theirs.to_str().unwrap()]));
    let file = place.file(&app_of("hello", 21_976, &["false"]));
    let mut command = place.command(&["local", file.to_str().unwrap()]);
    command.env("XDG_RUNTIME_DIR", &theirs).env("TMPDIR", &tmp);
    let ended = process::run(command, BOOT).unwrap();
    assert!(
        ended.stderr.contains("instead of XDG_RUNTIME_DIR"),
        "{ended:?}"
    );
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
    assert!(!tmp.join("scaledapp-0").exists(), "nothing is left");
}

#[test]
fn a_run_without_privileges_uses_its_own_directory_and_not_one_of_root() {
    if !is_root() {
        return;
    }
    let place = Home::new();
    let tmp = sticky(place.path());
    // The user cannot execute binaries below /root.
    for name in [
        "scaledapp",
        "scaledapp-sidecar",
        "scaledapp-balancer",
        "scaledapp-dns",
        "scaledapp-hello-rust",
    ] {
        // Another process makes the copy. If this process did, a child that another test forks in
        // the meantime could inherit the descriptor that is open for writing, and the kernel would
        // refuse to execute the copy.
        let mut copy = Command::new("cp");
        copy.arg(binaries::path(name).unwrap()).arg(place.path());
        assert!(copy.status().unwrap().success());
    }
    let server = place.path().join("scaledapp-hello-rust");
    let file = place.file(&app_of("hello", 21_977, &[server.to_str().unwrap()]));
    let command = |words: &[&str]| {
        let mut command = Command::new(place.path().join("scaledapp"));
        command.args(words).uid(NOBODY).gid(NOBODY).current_dir("/");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TMPDIR", &tmp);
        command
    };
    let words = ["local", file.to_str().unwrap(), "--nodes", "1"];
    let in_the_way = tmp.join(format!("scaledapp-{NOBODY}"));
    fs::create_dir(&in_the_way).unwrap();
    let ended = process::run(command(&words), BOOT).unwrap();
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("belongs to the user with uid 0"),
        "{ended:?}"
    );
    fs::remove_dir(&in_the_way).unwrap();
    let mut local = Process::spawn(command(&words)).unwrap();
    wait::until(BOOT, "it is ready", || {
        if local.stdout().contains("hello is ready after") {
            Ok(())
        } else {
            Err(local.stderr())
        }
    })
    .unwrap();
    let ended = process::run(command(&["scale", "hello", "2"]), BOOT).unwrap();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    local.signal(Signal::TERM).unwrap();
    assert_eq!(local.wait(BOOT).unwrap().code, 0);
    assert!(!in_the_way.exists());
}
