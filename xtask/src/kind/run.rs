//! Runs one external command: enforces its deadline, keeps its output in a file, shows progress,
//! and reports a failure. The callers choose the command, its deadline and the cure for a failure.
//!
//! The output does not go through pipes: a container's monitor (conmon) inherits the engine's open
//! files and keeps them for the life of the container, so a pipe would never end. For the same
//! reason the command inherits no other descriptor, such as a lock. The command gets SIGTERM when
//! this program dies, if setpriv is installed. Its process group is ended at the deadline.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use scaledapp_tests::binaries;

use crate::console::{note, seconds};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// How many of a failed command's last lines are shown.
const MAX_LAST_LINES: usize = 15;

/// How much of the output is read, counted from its end, in bytes.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;

/// The time between SIGTERM at the deadline and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// A script that closes the descriptors that xtask has inherited, and then executes the command.
/// `flock FILE cargo xtask kind` passes its lock on as a descriptor, and other programs pass on
/// pipes. The script needs bash, because a POSIX shell cannot close descriptors of two digits.
const BECOME: &str = r#"
for open in /proc/self/fd/*; do
    open=${open##*/}
    [ "$open" -le 2 ] || eval "exec $open>&-"
done
exec "$@""#;

/// Turns the output so far into a line of progress.
pub(crate) type Progress = Box<dyn Fn(&str) -> String>;

/// A command to run.
pub(crate) struct Run {
    command: Command,
    shown: String,
    deadline: Duration,
    cure: String,
    log: Option<PathBuf>,
    input: Option<PathBuf>,
    progress: Option<Progress>,
}

impl Run {
    /// A command that runs `program` with the arguments `words` in the workspace, for at most a
    /// minute.
    pub(crate) fn new<P: AsRef<OsStr>, W: AsRef<OsStr>>(program: P, words: &[W]) -> Self {
        let mut command = if binaries::on_path("setpriv").is_ok() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "TERM", "--", "bash"]);
            command
        } else {
            Command::new("bash")
        };
        command.args(["-c", BECOME, "bash"]);
        command.arg(&program).args(words);
        command.current_dir(binaries::workspace());
        let words = words.iter().map(|word| word.as_ref().to_string_lossy());
        let name = program.as_ref().to_string_lossy();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        let shown = std::iter::once(name.into()).chain(words);
        Self {
            command,
            shown: shorten(&shown.collect::<Vec<_>>().join(" ")),
            deadline: Duration::from_mins(1),
            cure: String::new(),
            log: None,
            input: None,
            progress: None,
        }
    }

    /// Sets the time after which the command is ended.
    #[must_use]
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the cure that is shown if the command fails, after its last lines.
    #[must_use]
    pub(crate) fn cure(mut self, cure: &str) -> Self {
        cure.clone_into(&mut self.cure);
        self
    }

    /// Keeps the command's standard error in a file, and its standard output as well unless that is
    /// returned. Shows progress from time to time.
    #[must_use]
    pub(crate) fn log(mut self, file: PathBuf) -> Self {
        self.log = Some(file);
        self
    }

    /// Sets how progress is shown. Without this, the last line of the output is shown.
    #[must_use]
    pub(crate) fn progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Sets another working directory.
    #[must_use]
    pub(crate) fn within_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub(crate) fn env<V: AsRef<OsStr>>(mut self, name: &str, value: V) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets a file as the command's standard input, which is otherwise empty.
    #[must_use]
    pub(crate) fn input(mut self, file: &Path) -> Self {
        self.input = Some(file.to_owned());
        self
    }

    /// Runs the command without returning its output.
    ///
    /// # Errors
    /// The command cannot be started, fails, or takes too long.
    pub(crate) fn done(self) -> anyhow::Result<()> {
        self.finish(false).map(drop)
    }

    /// Runs the command and returns its standard output without trailing space.
    ///
    /// # Errors
    /// As [`Run::done`].
    pub(crate) fn text(self) -> anyhow::Result<String> {
        self.finish(true)
    }

    fn finish(mut self, wants_text: bool) -> anyhow::Result<String> {
        let log = match &self.log {
            Some(file) => {
                if let Some(parent) = file.parent() {
                    fs::create_dir_all(parent)?;
                }
                // A new file is made, because another run may still write to the old one.
                drop(fs::remove_file(file));
                let mut options = File::options();
                let options = options.read(true).append(true).create(true);
                options
                    .open(file)
                    .with_context(|| format!("cannot write {}", file.display()))?
            }
            None => tempfile::tempfile()?,
        };
        let text = tempfile::tempfile()?;
        let stdout = if wants_text { &text } else { &log };
        let stdout = Stdio::from(stdout.try_clone()?);
        let stdin = match &self.input {
            Some(file) => File::open(file)
                .with_context(|| format!("cannot read {}", file.display()))?
                .into(),
            None => Stdio::null(),
        };
        self.command.stdin(stdin).stdout(stdout);
        self.command.stderr(log.try_clone()?).process_group(0);
        let start = Instant::now();
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start {}", self.shown))?;
        let ended = self.wait(&mut child, start, &log)?;
        if ended == Ended::Well {
            return Ok(last_part(&text)?.trim_end().to_owned());
        }
        let how = match ended {
            Ended::Badly(how) => how,
            _ => format!("did not end within {}", seconds(self.deadline)),
        };
        let both = format!("{}\n{}", last_part(&text)?.trim_end(), last_part(&log)?);
        bail!("{}", complaint(&self.shown, &how, &both, &self.cure));
    }

    fn wait(&self, child: &mut Child, start: Instant, log: &File) -> anyhow::Result<Ended> {
        let (mut said, mut pause) = (start, Duration::from_millis(2));
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(if status.success() {
                    Ended::Well
                } else {
                    Ended::Badly(format!("exited with {status}"))
                });
            }
            if start.elapsed() >= self.deadline {
                end_group(child)?;
                return Ok(Ended::Late);
            }
            if self.log.is_some() && said.elapsed() >= PROGRESS_INTERVAL {
                said = Instant::now();
                let output = last_part(log)?;
                let far = match &self.progress {
                    Some(progress) => progress(&output),
                    None => output.trim_end().lines().last().unwrap_or("").to_owned(),
                };
                note(&format!("{}: {far}", seconds(start.elapsed())));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Well,
    Badly(String),
    Late,
}

/// Ends a command and its process group. SIGTERM comes first, so that the command can unmount a
/// half-written root file system.
fn end_group(child: &mut Child) -> anyhow::Result<()> {
    let group = Pid::from_raw(child.id() as i32).context("the child has pid 0")?;
    let _gone = kill_process_group(group, Signal::TERM);
    let start = Instant::now();
    while child.try_wait()?.is_none() && start.elapsed() < GRACE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _gone = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(())
}

/// Reads the end of a file. Does not depend on the writer's position.
fn last_part(file: &File) -> anyhow::Result<String> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(MAX_OUTPUT_BYTES);
    let mut bytes = vec![0; (length - from) as usize];
    // The writer may truncate the file at any time, so a short read is not an error.
    let read = file.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn complaint(shown: &str, how: &str, output: &str, cure: &str) -> String {
    let mut text = format!("`{shown}` {how}");
    let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    if !lines.is_empty() {
        text.push_str(". Its last lines:");
    }
    for line in &lines[lines.len().saturating_sub(MAX_LAST_LINES)..] {
        text.push_str("\n   | ");
        text.push_str(line);
    }
    if !cure.is_empty() {
        text.push_str("\nCure: ");
        text.push_str(cure);
    }
    text
}

/// Shortens a command so that it fits on one line of a terminal.
fn shorten(text: &str) -> String {
    const MAX_LEN: usize = 100;
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= MAX_LEN && first.len() == text.len() {
        return text.to_owned();
    }
    let kept: String = first.chars().take(MAX_LEN).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use scaledapp_tests::{proc, wait};

    fn shell(script: &str) -> Run {
        Run::new("sh", &["-c", script])
    }

    #[test]
    fn the_text_is_only_standard_output() {
        let text = shell("echo out; echo err >&2").text().unwrap();
        assert_eq!(text, "out");
    }

    #[test]
    fn a_failure_shows_the_last_lines_and_the_cure() {
        let failed = shell("seq 100 >&2; exit 3").cure("count further").done();
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(
            text.contains("| 86\n") && !text.contains("| 85\n"),
            "{text}"
        );
        assert!(text.ends_with("| 100\nCure: count further"), "{text}");
    }

    #[test]
    fn at_the_deadline_the_whole_process_group_ends() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let late = shell(&script).within(Duration::from_millis(300)).done();
        let text = late.unwrap_err().to_string();
        assert!(text.contains("did not end within"), "{text}");
        let pid = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        wait::until_true(Duration::from_secs(5), "sleep is gone", || {
            !proc::is_running(pid)
        })
        .unwrap();
    }

    #[test]
    fn a_file_can_be_its_input() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"words").unwrap();
        assert_eq!(shell("cat").input(file.path()).text().unwrap(), "words");
    }

    #[test]
    fn descriptors_that_our_parent_left_open_are_closed() {
        for number in ["9", "251"] {
            let open = format!(r#"exec {number}</dev/null; exec "$@""#);
            let listed = Command::new("bash")
                .args(["-c", &open, "bash", "bash", "-c", BECOME, "bash"])
                .args(["sh", "-c", "echo /proc/$$/fd/*"])
                .output()
                .unwrap();
            let listed = String::from_utf8_lossy(&listed.stdout);
            assert!(listed.contains("/fd/2"), "{listed}");
            assert!(!listed.contains(&format!("/fd/{number}")), "{listed}");
        }
    }

    #[test]
    fn long_commands_are_shortened() {
        assert_eq!(shorten("a b"), "a b");
        assert_eq!(shorten("a\nb"), "a…");
        assert_eq!(shorten(&"x".repeat(200)).chars().count(), 101);
    }
}
