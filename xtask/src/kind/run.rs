//! One external command: its deadline, its output in a file, what is shown
//! while it runs, and what is said when it fails. Which command, how long it
//! may take and how its failure is cured is decided by who runs it.
//!
//! No pipes: a container's monitor (conmon) inherits what the engine has open
//! and keeps it for the container's life, so a pipe would never end and a lock
//! would never be free. The command dies with us, and its group at the deadline.

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

/// Between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(30);

/// Last lines of a failed command that are shown.
const LAST_LINES: usize = 15;

/// Bytes of output at most, taken from its end.
const LAST_BYTES: u64 = 16 << 20;

/// After a polite signal at the deadline.
const GRACE: Duration = Duration::from_secs(5);

/// Closes what our own parent may have left open for us (`flock FILE cargo
/// xtask kind` leaves its lock, others leave pipes), then becomes the command.
/// bash, because a POSIX shell closes no descriptor of two digits.
const BECOME: &str = r#"
for open in /proc/self/fd/*; do
    open=${open##*/}
    [ "$open" -le 2 ] || eval "exec $open>&-"
done
exec "$@""#;

/// Turns the output so far into words about how far it is.
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
    /// `program` with `words`, in the workspace, with a minute to end.
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

    /// Killed after this time.
    #[must_use]
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What to do when it fails, said after its last lines.
    #[must_use]
    pub(crate) fn cure(mut self, cure: &str) -> Self {
        cure.clone_into(&mut self.cure);
        self
    }

    /// Keeps its output (standard error, and standard output if that is not
    /// wanted otherwise), and says from time to time how far it is.
    #[must_use]
    pub(crate) fn log(mut self, file: PathBuf) -> Self {
        self.log = Some(file);
        self
    }

    /// Better words about how far it is than its last line.
    #[must_use]
    pub(crate) fn progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Another working directory.
    #[must_use]
    pub(crate) fn within_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// One more variable of the environment.
    #[must_use]
    pub(crate) fn env<V: AsRef<OsStr>>(mut self, name: &str, value: V) -> Self {
        self.command.env(name, value);
        self
    }

    /// A file on its standard input instead of nothing.
    #[must_use]
    pub(crate) fn input(mut self, file: &Path) -> Self {
        self.input = Some(file.to_owned());
        self
    }

    /// Runs it; its output does not matter.
    ///
    /// # Errors
    /// It cannot be started, fails or is not done in time.
    pub(crate) fn done(self) -> anyhow::Result<()> {
        self.finish(false).map(drop)
    }

    /// Runs it; what it says on its standard output, without space at its end.
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
                // Truncated and readable; another run may still write to its own.
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
                    Ended::Badly(format!("ended with {status}"))
                });
            }
            if start.elapsed() >= self.deadline {
                end_group(child)?;
                return Ok(Ended::Late);
            }
            if self.log.is_some() && said.elapsed() >= PROGRESS {
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

/// Ends a command and what it started, politely first: a half-written root
/// file system is unmounted by its maker.
fn end_group(child: &mut Child) -> anyhow::Result<()> {
    let group = Pid::from_raw(child.id() as i32).context("pid 0 is no process")?;
    let _gone = kill_process_group(group, Signal::TERM);
    let start = Instant::now();
    while child.try_wait()?.is_none() && start.elapsed() < GRACE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _gone = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(())
}

/// The end of a file, wherever its writer's position is.
fn last_part(file: &File) -> anyhow::Result<String> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LAST_BYTES);
    let mut bytes = vec![0; (length - from) as usize];
    // Whoever writes may truncate it in between: what is there is enough.
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
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        text.push_str("\n   | ");
        text.push_str(line);
    }
    if !cure.is_empty() {
        text.push_str("\nCure: ");
        text.push_str(cure);
    }
    text
}

/// A command is shown in one line that a terminal can hold.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 100;
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= LONGEST && first.len() == text.len() {
        return text.to_owned();
    }
    let kept: String = first.chars().take(LONGEST).collect();
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
    fn the_text_is_standard_output_alone() {
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
    fn at_the_deadline_nothing_of_it_is_left() {
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
    fn long_commands_are_shown_in_part() {
        assert_eq!(shorten("a b"), "a b");
        assert_eq!(shorten("a\nb"), "a…");
        assert_eq!(shorten(&"x".repeat(200)).chars().count(), 101);
    }
}
