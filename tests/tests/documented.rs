//! The commands of the documentation, run as they stand: the `sh` blocks of a page, in order, in one
//! directory, with the built binaries on the `PATH` and without a network.
//!
//! An HTML comment in the line before a block says otherwise:
//! - `<!-- run: background, until TEXT -->`: it runs until the end of the page; the next block
//!   begins when TEXT is in its output.
//! - `<!-- run: no, because … -->` and `<!-- run: cluster -->`: it is not run, but counted.
//!
//! `<!-- file: NAME from PATH -->` puts a file of this repository into the directory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::process::{self, Process, Signal};
use scaledapp_tests::{binaries, wait};

/// Set in the process that has a network of its own.
const INSIDE: &str = "SCALEDAPP_TEST_INSIDE";
/// How long one block may take, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
/// The pages, and how many of their blocks are not run.
const PAGES: [(&str, usize); 4] = [
    ("README.md", 5),
    ("docs/local.md", 0),
    ("docs/importing.md", 1),
    ("docs/supervisor.md", 2),
];

/// What becomes of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    Run,
    /// Until this text is in the output; the process stays.
    Background(String),
    /// Not run, for this reason.
    Left(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    how: How,
    text: String,
}

#[derive(Debug, Default)]
struct Page {
    blocks: Vec<Block>,
    /// Names of files, and where they are in this repository.
    files: Vec<(String, String)>,
    /// Blocks that are written like output although they begin with a command.
    unlabelled: Vec<usize>,
}

/// The text of a comment of one line that begins with `key`.
fn comment<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let text = line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    text.strip_prefix(key)?.strip_prefix(": ")
}

fn how(text: &str) -> How {
    if let Some(until) = text.strip_prefix("background, until ") {
        return How::Background(until.to_owned());
    }
    let is_reason = text == "cluster" || text.starts_with("no, because ");
    assert!(is_reason, "`run: {text}`: no such word in a mark");
    How::Left(text.to_owned())
}

fn read(text: &str) -> Page {
    const PROGRAMS: [&str; 6] = ["scaledapp", "cargo", "curl", "kubectl", "helm", "export"];
    let mut page = Page::default();
    let mut mark = None;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(said) = comment(line, "run") {
            mark = Some(how(said));
            continue;
        }
        if let Some((name, from)) = comment(line, "file").and_then(|said| said.split_once(" from "))
        {
            page.files.push((name.to_owned(), from.to_owned()));
            continue;
        }
        let Some(language) = line.strip_prefix("```") else {
            assert!(
                mark.is_none() || line.is_empty(),
                "line {number}: a mark without a block"
            );
            continue;
        };
        let within = lines.by_ref().map(|(_, line)| line);
        let within: Vec<&str> = within.take_while(|line| !line.starts_with("```")).collect();
        let is_command = |line: &&str| PROGRAMS.iter().any(|program| line.starts_with(program));
        if language == "sh" {
            page.blocks.push(Block {
                line: number + 1,
                how: mark.take().unwrap_or(How::Run),
                text: within.join("\n"),
            });
        } else if language.is_empty()
            && within
                .first()
                .is_some_and(|line| is_command(line) && !line.contains(": "))
        {
            page.unlabelled.push(number + 1);
        }
    }
    page
}

/// A shell with the text of a block. A line whose program is missing here is left out.
fn shell(text: &str, directory: &Path) -> Command {
    let is_here = |line: &&str| {
        let optional = ["dig"];
        let program = line.split(' ').next().unwrap_or_default();
        !optional.contains(&program) || binaries::has(program)
    };
    let lines: Vec<&str> = text.lines().filter(is_here).collect();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-euc", &lines.join("\n")])
        .current_dir(directory)
        .env(
            "PATH",
            format!("{}:{path}", binaries::directory().display()),
        )
        .env("XDG_RUNTIME_DIR", directory)
        .env("BROWSER", "true")
        .env_remove("SCALEDAPP_STATE_FILE");
    command
}

/// Runs the blocks of a page; returns how many were not run.
fn run(name: &str) -> usize {
    let root = binaries::workspace();
    let page = read(&fs::read_to_string(root.join(name)).unwrap());
    assert_eq!(page.unlabelled, [0_usize; 0], "{name}: commands need ```sh");
    let home = tempfile::tempdir().unwrap();
    // Whoever reads the page has the repository.
    std::os::unix::fs::symlink(root.join("examples"), home.path().join("examples")).unwrap();
    for (file, from) in &page.files {
        fs::copy(root.join(from), home.path().join(file)).unwrap();
    }
    let mut running: Vec<(usize, Process)> = Vec::new();
    let mut left = 0;
    for block in &page.blocks {
        let place = format!("{name}:{}", block.line);
        match &block.how {
            How::Left(why) => {
                println!("{place}: not run: {why}");
                left += 1;
            }
            How::Run => {
                let ended = process::run(shell(&block.text, home.path()), DEADLINE).unwrap();
                assert_eq!(ended.code, 0, "{place}: {}\n{ended:?}", block.text);
            }
            How::Background(until) => {
                let command = shell(&format!("exec {}", block.text), home.path());
                let process = Process::spawn(command).unwrap();
                let said = wait::until(DEADLINE, &place, || {
                    let all = process.stdout() + &process.stderr();
                    if all.contains(until) {
                        Ok(())
                    } else {
                        Err(all)
                    }
                });
                said.unwrap();
                running.push((block.line, process));
            }
        }
    }
    while let Some((line, mut process)) = running.pop() {
        process.signal(Signal::INT).unwrap();
        let ended = process.wait(DEADLINE).unwrap();
        assert_eq!(ended.code, 0, "{name}:{line}: {ended:?}");
    }
    left
}

#[test]
fn commands_of_the_documentation_work_as_they_stand() {
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        for (page, left) in PAGES {
            assert_eq!(run(page), left, "{page}: blocks that are not run");
        }
        return;
    }
    if !["node", "unshare", "ip", "curl"]
        .iter()
        .all(|program| binaries::has(program))
    {
        return;
    }
    // A network of its own has the addresses that the pages name, and leads nowhere.
    let mut alone = Command::new("unshare");
    alone.arg("--net");
    if !rustix::process::geteuid().is_root() {
        alone.arg("--map-root-user");
    }
    let mut probe = Command::new("unshare");
    probe.args(alone.get_args()).arg("true");
    if !probe.status().unwrap().success() {
        println!("skipped: this machine allows no network of its own");
        return;
    }
    alone.arg(std::env::current_exe().unwrap());
    alone.args([
        "commands_of_the_documentation_work_as_they_stand",
        "--exact",
        "--nocapture",
    ]);
    alone.env(INSIDE, "1");
    let ended = process::run(alone, Duration::from_mins(3)).unwrap();
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    println!("{}", ended.stdout);
}

#[test]
fn blocks_and_marks_are_read() {
    let page = read(
        "<!-- file: a from b/c -->\n```sh\nls\npwd\n```\n<!-- run: cluster -->\n\n```sh\nx\n```\n\
         <!-- run: background, until is ready -->\n```sh\ny\n```\n```\ncargo xtask\n```\n```yaml\na: 1\n```\n",
    );
    let told: Vec<(usize, &How, &str)> = page
        .blocks
        .iter()
        .map(|block| (block.line, &block.how, block.text.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (2, &How::Run, "ls\npwd"),
            (8, &How::Left("cluster".to_owned()), "x"),
            (12, &How::Background("is ready".to_owned()), "y"),
        ]
    );
    assert_eq!(page.files, [("a".to_owned(), "b/c".to_owned())]);
    assert_eq!(page.unlabelled, [15]);
}
