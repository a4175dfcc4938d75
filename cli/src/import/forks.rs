//! Servers that start processes of their own, such as `gunicorn --workers 4`: every worker of the
//! supervisor would do so. It finds the words that ask for the processes; the importers decide
//! whether the words go.

use std::ops::Range;
use std::path::Path;

/// The programs, each with its flags for the number of processes. Without the flag they start one
/// process, or as many as `WEB_CONCURRENCY` says, which the supervisor sets to 1.
const SERVERS: &[(&str, &[&str])] = &[
    ("gunicorn", &["-w", "--workers"]),
    ("uvicorn", &["--workers"]),
    ("fastapi", &["--workers"]),
    ("hypercorn", &["-w", "--workers"]),
    ("granian", &["--workers"]),
    ("sanic", &["-w", "--workers"]),
    ("uwsgi", &["-p", "--processes", "--workers"]),
    ("puma", &["-w", "--workers"]),
];

/// Words that ask a server for several processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forks {
    /// The server's name.
    pub(super) program: String,
    /// The words, as they stand in the command.
    pub(super) asked: String,
    /// The number of processes, at least 2.
    pub(super) count: u32,
}

impl Forks {
    /// What is said about words that were taken out.
    pub(super) fn left_out(&self) -> String {
        let Self {
            program,
            asked,
            count,
        } = self;
        format!(
            "`{asked}` is left out: the supervisor starts the workers, and each of them would be {program} with {count} processes; as many as before: spec.workers.count: {count}"
        )
    }
}

/// Takes the words that ask for several processes out of a command, which may be a shell with a
/// text. Returns what was asked for; `None` if nothing was.
pub(super) fn take(words: &mut Vec<String>) -> Option<Forks> {
    if let Some((forks, range)) = find(words) {
        words.drain(range);
        return Some(forks);
    }
    let is_shell = |word: &String| ["sh", "bash", "/bin/sh", "/bin/bash"].contains(&word.as_str());
    let runs_text = words.len() >= 3 && is_shell(&words[0]) && words[1].ends_with('c');
    let text = words.get_mut(2).filter(|_| runs_text)?;
    // Quotes do not matter: neither a server's name nor its number of processes has any.
    let mut tokens: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let (forks, range) = find(&tokens)?;
    tokens.drain(range);
    *text = tokens.join(" ");
    Some(forks)
}

/// The words of the first server that asks for several processes, and where they stand.
fn find(words: &[String]) -> Option<(Forks, Range<usize>)> {
    let name = |word: &String| Path::new(word).file_name()?.to_str().map(str::to_owned);
    let (at, (program, flags)) = words.iter().enumerate().find_map(|(at, word)| {
        let name = name(word)?;
        let server = SERVERS.iter().find(|(server, _)| *server == name)?;
        Some((at, server))
    })?;
    for (offset, word) in words[at + 1..].iter().enumerate() {
        let begin = at + 1 + offset;
        let Some((value, length)) = value(word, words.get(begin + 1), flags) else {
            continue;
        };
        // A variable or `$(nproc)` stays: what it says is not known here.
        let count = value.parse().ok().filter(|count| *count > 1)?;
        let range = begin..begin + length;
        let forks = Forks {
            program: (*program).to_owned(),
            asked: words[range.clone()].join(" "),
            count,
        };
        return Some((forks, range));
    }
    None
}

/// The value of one of the flags, and how many words have it: `-w 4`, `-w4`, `--workers=4`.
fn value<'a>(word: &'a str, next: Option<&'a String>, flags: &[&str]) -> Option<(&'a str, usize)> {
    flags.iter().find_map(|flag| {
        let rest = word.strip_prefix(flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some((value, 1)),
            None if rest.is_empty() => Some((next?.as_str(), 2)),
            None if !flag.starts_with("--") => Some((rest, 1)),
            None => None,
        }
    })
}

/// Whether JavaScript starts processes with Node's module `cluster`.
pub(super) fn uses_cluster(source: &str) -> bool {
    source.contains("cluster.fork(")
}

#[cfg(test)]
mod tests {
    use super::super::text::words_of;
    use super::*;

    #[test]
    fn words_for_several_processes_are_taken_out() {
        for (command, rest, count) in [
            ("gunicorn app:app -w 4", "gunicorn app:app", Some(4)),
            (
                "venv/bin/gunicorn -w4 a:b",
                "venv/bin/gunicorn a:b",
                Some(4),
            ),
            (
                "python -m gunicorn --workers=3 a:b --threads 2",
                "python -m gunicorn a:b --threads 2",
                Some(3),
            ),
            (
                "bundle exec puma -w 2 -t 5:5",
                "bundle exec puma -t 5:5",
                Some(2),
            ),
            ("uvicorn --workers 2 m:a", "uvicorn m:a", Some(2)),
            ("uwsgi --http :80 -p 8", "uwsgi --http :80", Some(8)),
            ("gunicorn a:b --workers 1", "gunicorn a:b --workers 1", None),
            (
                "gunicorn a:b --worker-class gevent",
                "gunicorn a:b --worker-class gevent",
                None,
            ),
            ("node server.js -w 4", "node server.js -w 4", None),
            (
                "gunicorn a:b --bind :$PORT --workers 3 --threads 2",
                "sh -c exec gunicorn a:b --bind :$PORT --threads 2",
                Some(3),
            ),
            (
                "gunicorn a:b -w $WEB_CONCURRENCY",
                "sh -c exec gunicorn a:b -w $WEB_CONCURRENCY",
                None,
            ),
            (
                "cd web && gunicorn -w 4 a:b",
                "sh -c cd web && gunicorn a:b",
                Some(4),
            ),
        ] {
            let mut words = words_of(command);
            let forks = take(&mut words);
            assert_eq!(words.join(" "), rest);
            assert_eq!(forks.map(|forks| forks.count), count, "{command}");
        }
    }

    #[test]
    fn nodes_cluster_is_seen_in_sources() {
        assert!(uses_cluster("for (const c of cpus) cluster.fork();"));
        assert!(!uses_cluster("const cluster = require('cluster')"));
    }
}
