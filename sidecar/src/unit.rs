//! `unit`: a systemd unit (systemd.service(5), systemd.exec(5)) for a supervisor with the flags of
//! `run`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::settings::Settings;

/// Time that the supervisor has beyond drain and stop grace before systemd kills it.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Time that the supervisor has beyond the boot of its first worker.
const START_MARGIN: Duration = Duration::from_secs(30);
/// From this version on, systemd has `Type=notify-reload`.
const NOTIFY_RELOAD: u32 = 253;
/// Flags of `unit` itself: whether each has a value.
const OWN: [(&str, bool); 2] = [("--systemd", true), ("--of-user", false)];

/// What a unit needs beside the settings.
#[derive(Debug, Clone)]
struct Place {
    program: PathBuf,
    directory: PathBuf,
    /// The user as whom the app runs; `None` for root, and for a unit of a user.
    user: Option<String>,
    path: Option<String>,
    /// The words after `unit`, without the flags of `unit` itself.
    words: Vec<String>,
    systemd: u32,
    of_user: bool,
}

/// The unit for a command line. `words` are those after `unit`.
///
/// # Errors
/// The path of this program, or the current directory, is unknown.
pub fn text(
    settings: &Settings,
    words: impl IntoIterator<Item = String>,
    systemd: u32,
    of_user: bool,
) -> anyhow::Result<String> {
    let is_root = rustix::process::geteuid().is_root();
    let place = Place {
        program: std::env::current_exe().context("cannot find the path of this program")?,
        directory: std::env::current_dir().context("the current directory is gone")?,
        user: std::env::var("USER").ok().filter(|_| !is_root && !of_user),
        path: std::env::var("PATH").ok(),
        words: without_own(words),
        systemd,
        of_user,
    };
    Ok(unit(settings, &place))
}

fn without_own(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            kept.push(word);
            kept.extend(words);
            break;
        }
        let name = word.split('=').next().unwrap_or_default();
        match OWN.iter().find(|(own, _)| *own == name) {
            Some((_, true)) if !word.contains('=') => drop(words.next()),
            Some(_) => {}
            None => kept.push(word),
        }
    }
    kept
}

fn unit(settings: &Settings, place: &Place) -> String {
    let mut text = String::new();
    let mut line = |words: &str| {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "{words}");
    };
    let program = argument(&place.program.to_string_lossy());
    let command = settings.command.join(" ");
    line("[Unit]");
    line(&format!("Description={}", escaped(&one_line(&command))));
    line("Wants=network-online.target");
    line("After=network-online.target");
    line("");
    line("[Service]");
    let by_signal = place.systemd >= NOTIFY_RELOAD;
    line(if by_signal {
        "Type=notify-reload"
    } else {
        "Type=notify"
    });
    line("NotifyAccess=main");
    let words: Vec<String> = place.words.iter().map(|word| argument(word)).collect();
    line(&format!("ExecStart={program} run {}", words.join(" ")));
    if !by_signal {
        let admin = match settings.admin.0 {
            Some(address) => format!(" --admin {address}"),
            None => String::new(),
        };
        line(&format!("ExecReload={program} ctl{admin} reload"));
    }
    line(&format!(
        "WorkingDirectory={}",
        escaped(&place.directory.to_string_lossy())
    ));
    if let Some(user) = &place.user {
        line(&format!("User={user}"));
    } else if !place.of_user {
        line("# The app runs as root: name another user here.");
        line("#User=www-data");
    }
    if let Some(path) = &place.path {
        line(&format!("Environment={}", quoted(&format!("PATH={path}"))));
    }
    let start = settings.boot_timeout + START_MARGIN;
    let stop = settings.drain_timeout + settings.stop_grace + STOP_MARGIN;
    line(&format!("TimeoutStartSec={}", seconds(start)));
    line(&format!("TimeoutStopSec={}", seconds(stop)));
    line("WatchdogSec=30");
    line("KillMode=mixed");
    line("Restart=on-failure");
    line("# Exit code 64: the command line is wrong, and would be again.");
    line("RestartPreventExitStatus=64");
    line("StandardOutput=journal");
    line("LimitNOFILE=65536");
    line("NoNewPrivileges=yes");
    if !place.of_user {
        hardening(settings, place, &mut line);
    }
    line("");
    line("[Install]");
    line(if place.of_user {
        "WantedBy=default.target"
    } else {
        "WantedBy=multi-user.target"
    });
    text
}

/// Settings that only the system's manager can apply. A filter of system calls is not among them:
/// the supervisor needs seccomp's notifications, and the app needs what it needs.
fn hardening(settings: &Settings, place: &Place, line: &mut impl FnMut(&str)) {
    line("PrivateTmp=yes");
    line("# The app can write below its directory only.");
    line("ProtectSystem=strict");
    line(&format!(
        "ReadWritePaths={}",
        quoted(&place.directory.to_string_lossy())
    ));
    let is_low = settings.given_ports().iter().any(|port| *port < 1024);
    if is_low {
        line("# For a port below 1024.");
        line("CapabilityBoundingSet=CAP_NET_BIND_SERVICE");
        line("AmbientCapabilities=CAP_NET_BIND_SERVICE");
    } else if place.user.is_some() {
        line("CapabilityBoundingSet=");
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// `%` begins a specifier in every value of a unit.
fn escaped(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word of a command line, in which systemd also replaces `$NAME` (systemd.service(5), "Command
/// lines").
fn argument(word: &str) -> String {
    quoted(&word.replace('$', "$$"))
}

/// A word in quotes if it needs them (systemd.syntax(7), "Quoting").
fn quoted(word: &str) -> String {
    let escaped = escaped(word);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@+=,-%$".contains(c);
    if !escaped.is_empty() && escaped.chars().all(plain) {
        return escaped;
    }
    let mut text = String::from("\"");
    for character in escaped.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn made(words: &[&str], user: Option<&str>) -> String {
        let line = ["scaledapp-sidecar", "unit"].iter().chain(words);
        let Ok(cli) = Cli::try_parse_from(line) else {
            panic!("{words:?}");
        };
        let crate::cli::Command::Unit(args) = cli.command else {
            panic!("{words:?}");
        };
        let settings = Settings::resolve(args.run).unwrap();
        let place = Place {
            program: "/bin/true".into(),
            directory: "/srv/my app".into(),
            user: user.map(str::to_owned),
            path: Some("/usr/bin:/bin".to_owned()),
            words: without_own(words.iter().map(|word| (*word).to_owned())),
            systemd: args.systemd,
            of_user: args.of_user,
        };
        unit(&settings, &place)
    }

    #[test]
    fn flags_times_and_words_are_in_the_unit() {
        let text = made(
            &[
                "--systemd",
                "252",
                "--drain-timeout",
                "20s",
                "--",
                "node",
                "a b.js",
                "100%",
                "$HOME",
                "it\"s",
            ],
            Some("app"),
        );
        for line in [
            "Type=notify",
            "ExecStart=/bin/true run --drain-timeout 20s -- node \"a b.js\" 100%% $$HOME \"it\\\"s\"",
            "ExecReload=/bin/true ctl --admin 127.0.0.1:9377 reload",
            "TimeoutStartSec=90",
            "TimeoutStopSec=40",
            "User=app",
            "CapabilityBoundingSet=",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} in:\n{text}"
            );
        }
        let newer = made(&["--systemd=253", "--port", "80", "--", "node"], None);
        assert!(
            newer.contains("Type=notify-reload") && !newer.contains("ExecReload"),
            "{newer}"
        );
        assert!(
            newer.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"),
            "{newer}"
        );
        let of_user = made(&["--of-user", "--", "node"], None);
        assert!(of_user.contains("WantedBy=default.target") && !of_user.contains("ProtectSystem"));
        assert!(
            of_user.contains("ExecStart=/bin/true run -- node\n"),
            "{of_user}"
        );
    }

    #[test]
    fn systemd_finds_no_mistake_in_a_unit() {
        let Ok(output) = Command::new("systemd-analyze").arg("--version").output() else {
            return;
        };
        assert!(output.status.success());
        let home = tempfile::tempdir().unwrap();
        for (name, words, user) in [
            (
                "one",
                &["--", "node", "a b.js", "100%", "$HOME"][..],
                Some("daemon"),
            ),
            ("two", &["--port", "80", "--", "node"], None),
        ] {
            let path = home.path().join(format!("{name}.service"));
            std::fs::write(&path, made(words, user)).unwrap();
            let mut verify = Command::new("systemd-analyze");
            verify
                .args(["verify", "--man=no", "--recursive-errors=no"])
                .arg(&path);
            let output = verify.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let own = said.lines().filter(|line| line.contains(name));
            assert_eq!(own.collect::<Vec<_>>(), [""; 0], "{said}");
        }
    }
}
