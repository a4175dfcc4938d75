//! The final message of a failed start, so that the user need not scroll back: what failed and its
//! last lines of output and, if it was a pod, its command and the cure.

use std::fmt::Write;
use std::path::Path;

use crate::output::Line;

/// Maximum number of lines of the app's output that the message repeats.
const MAX_LINES: usize = 5;

/// A process that ended before everything was ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed<'a> {
    /// Its name in messages.
    pub(crate) name: &'a str,
    /// Its exit code as shells show it.
    pub(crate) code: i32,
    /// What its workers run, if it is a pod.
    pub(crate) app: Option<Ran<'a>>,
    /// Its last lines of output.
    pub(crate) output: &'a [Line],
}

/// What the workers of a pod run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran<'a> {
    pub(crate) command: &'a [String],
    pub(crate) directory: &'a Path,
    /// `spec.port`.
    pub(crate) port: u16,
}

/// The message: several lines, the last without a newline.
pub(crate) fn text(failed: Failed<'_>) -> String {
    let own: Vec<&str> = lines(failed.output, |line| line.slot.is_none());
    let reason = own
        .iter()
        .rev()
        .find_map(|line| line.split_once("; last: "));
    let reason = match (failed.code, reason) {
        (126 | 127, _) | (_, None) => meaning(failed.code),
        (_, Some((_, reason))) => reason.to_owned(),
    };
    let mut text = format!("{} could not start ({reason})", failed.name);
    let own_words: Vec<&str> = own.iter().filter_map(|line| complaint(line)).collect();
    let Some(app) = failed.app else {
        return text + &words(&last_words(&own_words));
    };
    let command = app.command.join(" ");
    let directory = app.directory.display();
    // Writing into a String cannot fail.
    let _infallible = write!(text, "\n  command: {command}, in {directory}");
    let said = lines(failed.output, |line| line.slot.is_some());
    let said = last_words(&said);
    // If the app wrote nothing, it may not have run at all. In that case the supervisor's lines say
    // why.
    text += &words(if said.is_empty() { &own_words } else { &said });
    text + "\n  cure: " + &cure(failed.code, &reason, &said, app)
}

/// The message of a log line with level ERROR, without component, time and level. A line that
/// starts with the name of one of the project's programs is returned unchanged. The result is
/// `None` for other lines.
fn complaint(line: &str) -> Option<&str> {
    match line.split_once(" ERROR ") {
        Some((_, message)) => Some(message.trim_start()),
        None => line.starts_with("scaledapp-").then_some(line),
    }
}

fn lines(said: &[Line], is: fn(&Line) -> bool) -> Vec<&str> {
    let lines = said.iter().filter(|line| is(line));
    lines.map(|line| line.text.as_str()).collect()
}

fn words(lines: &[&str]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines = &lines[lines.len().saturating_sub(MAX_LINES)..];
    format!("\n  its last output:\n    {}", lines.join("\n    "))
}

/// The lines that say what is wrong, without the frames of a stack: the last line that looks like
/// an error and the lines around it, or the last lines if none looks like an error.
fn last_words<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let telling: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| is_relevant(line))
        .collect();
    let error = telling.iter().rposition(|line| is_error(line));
    let window = match error {
        Some(error) => error.saturating_sub(2)..(error + 3).min(telling.len()),
        None => telling.len().saturating_sub(MAX_LINES)..telling.len(),
    };
    telling[window].to_vec()
}

fn is_relevant(line: &str) -> bool {
    let start = line.trim_start();
    let is_frame =
        start.starts_with("at ") || line.starts_with('\t') || start.starts_with("goroutine ");
    let is_rule = start.chars().all(|character| "^~-=".contains(character));
    !is_frame && !is_rule && !start.starts_with("Node.js v")
}

fn is_error(line: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "error",
        "panic",
        "exception",
        "fatal",
        "cannot",
        "not found",
        "no such",
        "denied",
        "refused",
    ];
    let line = line.to_lowercase();
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// The meaning of the exit code of a supervisor, or of the DNS server.
fn meaning(code: i32) -> String {
    match code {
        0 => "exit code 0 without ever serving".to_owned(),
        126 => "126: the command cannot be executed".to_owned(),
        127 => "127: the command was not found".to_owned(),
        code if code > 128 => format!("{code}: signal {}", code - 128),
        code => format!("it exited with {code}"),
    }
}

fn cure(code: i32, reason: &str, said: &[&str], app: Ran<'_>) -> String {
    let program = app.command.first().map_or("", String::as_str);
    let port = app.port;
    if let Some(other) = other_port(reason) {
        return format!("change spec.port to {other}, or let the app listen on the port in $PORT");
    }
    if reason.contains("does not answer GET ") {
        return "let the app answer there within spec.workers.readiness.timeout, or change spec.workers.readiness.path".to_owned();
    }
    let is_taken = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("eaddrinuse") || line.contains("address already in use")
    };
    match code {
        127 => format!(
            "install {program}, or correct spec.command: a name without a slash is looked up on PATH, and a relative path begins at the directory that is shown above"
        ),
        126 => format!(
            "make {program} executable (`chmod +x`), or name its interpreter first in spec.command"
        ),
        2 => "see the output above".to_owned(),
        _ if said.iter().any(is_taken) => format!(
            "the app listens on a port that is taken, and not on port {port} (spec.port, also in $PORT), which all workers share: if another worker has taken it, change spec.port to it; otherwise let the app listen on $PORT"
        ),
        _ if reason.contains("does not listen on port") => format!(
            "let the app listen on port {port} (spec.port, also in $PORT); if its boot takes longer, raise spec.workers.readiness.timeout"
        ),
        _ if reason.starts_with("exit code 0") => {
            "run the server in the foreground: remove the option that sends it to the background"
                .to_owned()
        }
        _ => {
            "run the command by hand in that directory until it serves, then start again".to_owned()
        }
    }
}

/// The first port of a reason such as `it listens on 4000, --port is 3000`.
fn other_port(line: &str) -> Option<u16> {
    let (before, _) = line.split_once(", --port is ")?;
    let (_, port) = before.rsplit_once("listens on ")?;
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(slot: Option<u32>, text: &str) -> Vec<Line> {
        let line = |text: &str| Line {
            slot,
            text: text.to_owned(),
        };
        text.lines().map(line).collect()
    }

    fn shown(code: i32, said: &[Line]) -> String {
        let command = ["node".to_owned(), "bad.js".to_owned()];
        text(Failed {
            name: "bad-0",
            code,
            app: Some(Ran {
                command: &command,
                directory: Path::new("/srv/bad"),
                port: 3000,
            }),
            output: said,
        })
    }

    const NODE: &str = "\
/srv/bad/bad.js:1
throw new Error(\"no database\")
^

Error: no database
    at Object.<anonymous> (/srv/bad/bad.js:1:7)
    at Module._compile (node:internal/modules/cjs/loader:1521:14)

Node.js v20.20.2";

    #[test]
    fn a_crash_is_shown_without_its_stack() {
        let mut lines = said(Some(0), &[NODE, NODE, NODE].join("\n"));
        lines.extend(said(None, "sidecar T WARN no worker ever became ready, and every slot failed three times; last: exit code 1"));
        assert_eq!(
            shown(1, &lines),
            "bad-0 could not start (exit code 1)
  command: node bad.js, in /srv/bad
  its last output:
    /srv/bad/bad.js:1
    throw new Error(\"no database\")
    Error: no database
  cure: run the command by hand in that directory until it serves, then start again"
        );
    }

    #[test]
    fn the_error_line_of_each_language_is_found() {
        for (all, telling) in [
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n    raise ValueError('x')\nValueError: x",
                "ValueError: x",
            ),
            (
                "panic: no database\n\ngoroutine 1 [running]:\nmain.main()\n\t/srv/main.go:4 +0x25\nexit status 2",
                "panic: no database",
            ),
            ("one\ntwo\nthree\nfour\nfive\nsix\nseven", "seven"),
        ] {
            let lines: Vec<&str> = all.lines().collect();
            let words = last_words(&lines);
            assert!(
                words.contains(&telling) && words.len() <= MAX_LINES,
                "{words:?}"
            );
        }
    }

    #[test]
    fn each_cause_has_its_cure() {
        let elsewhere = said(
            None,
            "sidecar T WARN no worker ever became ready, and every slot failed three times; last: it was not ready in time: it listens on 4000, --port is 3000",
        );
        let taken = said(Some(0), "OSError: [Errno 98] Address already in use");
        for (code, lines, cure) in [
            (127, &[][..], "install node, or correct spec.command"),
            (126, &[], "chmod +x"),
            (0, &[], "foreground"),
            (1, &elsewhere, "change spec.port to 4000"),
            (1, &taken, "not on port 3000"),
            (137, &[], "by hand in that directory"),
        ] {
            let text = shown(code, lines);
            let last = text.lines().last().unwrap();
            assert!(
                last.starts_with("  cure: ") && last.contains(cure),
                "{text}"
            );
        }
    }

    #[test]
    fn if_the_app_never_ran_the_supervisors_lines_are_shown() {
        let mut lines = said(
            None,
            "sidecar T  INFO starting workers=1\nsidecar T ERROR cannot start the app's command program=\"node\" error=No such file",
        );
        lines.extend(said(None, "sidecar T  WARN no worker ever became ready, and every slot failed three times; last: command not found"));
        let text = shown(127, &lines);
        assert!(
            text.contains("its last output:\n    cannot start the app's command program=\"node\" error=No such file\n  cure"),
            "{text}"
        );
    }

    #[test]
    fn a_process_that_is_not_a_pod_is_shown_with_its_own_lines() {
        let lines = said(
            None,
            "scaledapp-dns: cannot bind 127.0.0.1:5353: address in use, error 98",
        );
        let text = text(Failed {
            name: "dns",
            code: 2,
            app: None,
            output: &lines,
        });
        assert_eq!(
            text,
            "dns could not start (it exited with 2)\n  its last output:\n    scaledapp-dns: cannot bind 127.0.0.1:5353: address in use, error 98"
        );
    }
}
