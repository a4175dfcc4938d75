//! `unit`: a systemd unit (systemd.service(5), systemd.exec(5)) for a supervisor with the flags of
//! `run`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::settings::Settings;

/// Time that the supervisor has beyond drain and stop grace before systemd kills it.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Time that the supervisor has beyond the boot of its first worker.
const START_MARGIN: Duration = Duration::from_secs(30);
/// From this version on, systemd has `Type=notify-reload`.
const NOTIFY_RELOAD: u32 = 253;
/// The longest line of a unit that systemd reads, in bytes (`LONG_LINE_MAX`).
const LONGEST_LINE: usize = 1 << 20;
/// Directories of which a unit with `PrivateTmp=yes` has its own.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// Flags of `unit` itself, and whether each has a value.
const OWN: [(&str, bool); 2] = [("--systemd", true), ("--of-user", false)];

/// What a unit needs beside the settings.
#[derive(Debug, Clone)]
struct Place {
    program: PathBuf,
    directory: PathBuf,
    /// The user that the app runs as; `None` for root, and for a unit of a user.
    user: Option<String>,
    path: Option<String>,
    /// Variables that stand for flags of `run`.
    variables: Vec<(String, String)>,
    /// The words after `unit`, without the flags of `unit` itself.
    words: Vec<String>,
    systemd: u32,
    of_user: bool,
}

/// The unit for a command line. `words` are those after `unit`.
///
/// # Errors
/// The path of this program, or the current directory, is unknown, or a unit cannot hold it.
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
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("SCALEDAPP_"))
            .collect(),
        words: without_own(words),
        systemd,
        of_user,
    };
    unit(settings, &place)
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

fn unit(settings: &Settings, place: &Place) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut line = |words: &str| {
        // Writing into a String cannot fail.
        let _infallible = writeln!(text, "{words}");
    };
    let command = settings.command.join(" ");
    line("[Unit]");
    line(&format!("Description={}", escaped(&one_line(&command))));
    line("Wants=network-online.target");
    line("After=network-online.target");
    line("");
    line("[Service]");
    commands(settings, place, &mut line)?;
    identity(place, &mut line)?;
    let start = settings.boot_timeout + START_MARGIN;
    let stop = settings.drain_timeout + settings.stop_grace + STOP_MARGIN;
    line(&format!("TimeoutStartSec={}", seconds(start)));
    line(&format!("TimeoutStopSec={}", seconds(stop)));
    line("WatchdogSec=30");
    line("KillMode=mixed");
    line("Restart=on-failure");
    line("# Exit code 64: the command line is wrong, so another start would not help.");
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
    if text.lines().any(|line| line.len() >= LONGEST_LINE) {
        bail!("the command is longer than a line of a unit may be (1 MiB): put it into a script");
    }
    Ok(text)
}

/// What systemd starts, and how a reload is asked for.
fn commands(settings: &Settings, place: &Place, line: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let by_signal = place.systemd >= NOTIFY_RELOAD;
    line(if by_signal {
        "Type=notify-reload"
    } else {
        "Type=notify"
    });
    line("NotifyAccess=main");
    // systemd replaces no variable in the path of a program.
    let program = quoted(&whole(&place.program)?);
    let words: Vec<String> = place.words.iter().map(|word| argument(word)).collect();
    line(&format!("ExecStart={program} run {}", words.join(" ")));
    match settings.admin.0 {
        _ if by_signal => {}
        Some(address) => line(&format!(
            "ExecReload={program} ctl --admin {address} reload"
        )),
        None => {
            line("# Without --admin nothing tells whether a reload has succeeded.");
            line("ExecReload=/bin/kill -HUP $MAINPID");
        }
    }
    Ok(())
}

/// Where, as whom, and with which variables the app runs.
fn identity(place: &Place, line: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let directory = whole(&place.directory)?;
    line(&format!("WorkingDirectory={}", escaped(&directory)));
    if let Some(user) = &place.user {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if user.is_empty() || !user.chars().all(fits) {
            bail!("USER={user:?} is no name of a user: set it to the user as whom the app runs");
        }
        line(&format!("User={user}"));
    } else if !place.of_user {
        line("# The app runs as root: name another user here.");
        line("#User=www-data");
    }
    let path = place.path.iter().map(|path| ("PATH", path));
    let others = place.variables.iter();
    let others = others.map(|(name, value)| (name.as_str(), value));
    for (name, value) in path.chain(others) {
        line(&format!(
            "Environment={}",
            quoted(&format!("{name}={value}"))
        ));
    }
    Ok(())
}

/// A path that a unit can hold: some settings take it as it stands, up to the end of the line.
fn whole(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().filter(|text| {
        !text.contains(char::is_control) && !text.ends_with(['\\', ' ']) && text.starts_with('/')
    });
    let text = text.with_context(|| {
        // Escapes show which character it is.
        let shown = path.to_string_lossy().into_owned();
        format!(
            "systemd cannot hold the path {shown:?}: rename it, without control characters, and without a space or a backslash at its end"
        )
    })?;
    Ok(text.to_owned())
}

/// Settings that only the system's manager can apply. A filter of system calls is not among them:
/// the supervisor needs seccomp's notifications, and the app needs what it needs.
fn hardening(settings: &Settings, place: &Place, line: &mut impl FnMut(&str)) {
    let used = [&place.directory, &place.program];
    let is_temporary = |path: &&PathBuf| TEMPORARY.iter().any(|place| path.starts_with(place));
    if !used.iter().any(is_temporary) {
        line("PrivateTmp=yes");
    }
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

/// A text without what would end the line, or join it with the next one.
fn one_line(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    text.trim_end_matches(['\\', ' ']).to_owned()
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
            control if control.is_control() => {
                for byte in control.to_string().bytes() {
                    // Writing into a String cannot fail.
                    let _infallible = write!(text, "\\x{byte:02x}");
                }
            }
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
    use proptest::prelude::*;

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
            variables: vec![("SCALEDAPP_LOGS".to_owned(), "json".to_owned())],
            words: without_own(words.iter().map(|word| (*word).to_owned())),
            systemd: args.systemd,
            of_user: args.of_user,
        };
        unit(&settings, &place).unwrap()
    }

    /// The words that systemd reads from a line (systemd.syntax(7), systemd.service(5)): quotes,
    /// escapes, `%%` and `$$`.
    fn read(line: &str) -> Vec<String> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let (mut word, mut is_quoted) = (None::<Vec<u8>>, false);
        let mut bytes = line.bytes().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b' ' if !is_quoted => words.extend(word.take()),
                b'"' => {
                    is_quoted = !is_quoted;
                    word.get_or_insert_default();
                }
                b'\\' => {
                    let read = match bytes.next().unwrap() {
                        b'x' => {
                            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                            let digits = String::from_utf8(digits.to_vec()).unwrap();
                            u8::from_str_radix(&digits, 16).unwrap()
                        }
                        plain @ (b'"' | b'\\') => plain,
                        other => panic!("\\{} in {line}", other as char),
                    };
                    word.get_or_insert_default().push(read);
                }
                b'%' | b'$' => {
                    assert_eq!(bytes.next(), Some(byte), "{line}");
                    word.get_or_insert_default().push(byte);
                }
                other => word.get_or_insert_default().push(other),
            }
        }
        assert!(!is_quoted, "{line}");
        words.extend(word);
        let words = words
            .into_iter()
            .map(|word| String::from_utf8(word).unwrap());
        words.collect()
    }

    proptest! {
        #[test]
        fn systemd_reads_every_word_back(words in prop::collection::vec("[^\\x00]{0,12}", 1..5)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let line = [&["--port", "8000", "--"][..], &words[..]].concat();
            prop_assume!(!words[0].is_empty());
            let text = made(&line, Some("app"));
            let mut starts = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
            let read = read(starts.next().unwrap());
            prop_assert_eq!(&read[5..], &words[..]);
            prop_assert_eq!(text.lines().count(), made(&["--port", "8000", "--", "a"], Some("app")).lines().count());
        }
    }

    #[test]
    fn a_reload_without_an_admin_port_is_a_signal_and_variables_for_flags_stay() {
        let text = made(&["--admin", "none", "--", "node", "end\\"], Some("app"));
        for line in [
            "Description=node end",
            "ExecReload=/bin/kill -HUP $MAINPID",
            "Environment=SCALEDAPP_LOGS=json",
            "PrivateTmp=yes",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} in:\n{text}"
            );
        }
    }

    #[test]
    fn what_systemd_cannot_hold_is_refused() {
        for path in ["/srv/a\nb", "/srv/a\\", "/srv/a ", "srv"] {
            let error = whole(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("rename it"), "{path:?}: {error}");
        }
        assert_eq!(whole(Path::new("/srv/é b%")).unwrap(), "/srv/é b%");
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
