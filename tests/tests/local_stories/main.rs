//! The whole of `scaledapp local` under load: DNS → balancers → pods → workers.
//!
//! Each story counts every request and shows the longest time without a success. Faults have
//! negative controls, in which requests fail with the mechanism off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod controls;
mod stories;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_tests::binaries;
use scaledapp_tests::load::{Load, Report};
use scaledapp_tests::local::Local;

/// Time-out for an operation that takes a moment if the machine is not busy.
const SOON: Duration = Duration::from_secs(20);

/// Least number of requests of each load.
const REQUESTS: u64 = 2000;

/// Lets stories run one at a time, because each uses the whole machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// A running sample whose app reads its release from a file.
struct Story {
    local: Local,
    release: PathBuf,
    directory: tempfile::TempDir,
    _machine: MutexGuard<'static, ()>,
}

fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn has_node() -> bool {
    match binaries::on_path("node") {
        Ok(_) => true,
        Err(reason) => {
            println!("{reason}");
            false
        }
    }
}

/// Starts the sample: two pods with one worker per core, two balancers, DNS.
fn story() -> Option<Story> {
    if !has_node() {
        return None;
    }
    let machine = alone();
    let directory = tempfile::tempdir().unwrap();
    let release = directory.path().join("release");
    std::fs::write(&release, "good").unwrap();
    let file = sample(directory.path(), &release);
    let local = Local::start(&file, directory.path()).unwrap();
    println!("scaledapp local: everything ready after {:?}", local.took);
    Some(Story {
        local,
        release,
        directory,
        _machine: machine,
    })
}

/// Writes an object for hello-node whose command fails if the release file is broken.
fn sample(directory: &Path, release: &Path) -> PathBuf {
    let hello = binaries::workspace().join("examples/hello-node");
    let guard = directory.join("guard.js");
    let script = format!(
        "const release = require('fs').readFileSync('{}', 'utf8');\n\
         if (release.startsWith('broken')) {{ console.error(`Error: ${{release}} cannot start`); process.exit(1); }}\n\
         require('{}');\n",
        release.display(),
        hello.join("server.js").display(),
    );
    std::fs::write(&guard, script).unwrap();
    let yaml = std::fs::read_to_string(hello.join("scaledapp.yaml")).unwrap();
    let command = yaml
        .lines()
        .find(|line| line.trim_start().starts_with("command:"))
        .unwrap_or_else(|| panic!("hello-node has no one-line command:\n{yaml}"));
    let indent = &command[..command.len() - command.trim_start().len()];
    let yaml = yaml.replace(
        command,
        &format!("{indent}command: [node, {}]", guard.display()),
    );
    let file = directory.join("scaledapp.yaml");
    std::fs::write(&file, yaml).unwrap();
    file
}

impl Story {
    /// Runs `act` while keep-alive clients and one-shot clients send requests to both balancers.
    /// Every fourth request is a POST. Prints and returns the reports of both kinds of clients.
    fn under_load(&self, name: &str, act: impl FnOnce()) -> [Report; 2] {
        let targets = self.local.resolve().unwrap();
        assert_eq!(targets.len(), 2, "two balancers in DNS");
        let load = |keep_alive| Load {
            keep_alive,
            clients: 4,
            tally: Some("pid"),
            ..Load::on(&targets)
        };
        let loads = [load(true), load(false)].map(|load| load.start().unwrap());
        for load in &loads {
            load.wait_more(200, SOON).unwrap();
        }
        act();
        let reports = loads.map(|load| {
            load.wait_more(200, SOON).unwrap();
            load.wait_sent(REQUESTS, Duration::from_mins(1)).unwrap();
            load.stop()
        });
        for (kind, report) in ["keep-alive", "one-shot"].iter().zip(&reports) {
            println!("{name}, {kind}: {report}");
            assert!(report.sent >= REQUESTS, "{report}");
        }
        reports
    }
}
