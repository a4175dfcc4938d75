//! The runtimes: where each is found, and how its server is started. Nothing is installed here;
//! `cargo xtask test --languages` does that.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::{binaries, fixtures, process};

use crate::story::prove;
use crate::{DISPATCHES, fixture, installed, words};

/// The location of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// On the `PATH`.
    Path(&'static str),
    /// Below `target/languages`.
    Installed(&'static str),
}

/// A server of a runtime.
pub(crate) struct Runtime {
    /// The name in the table.
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// The arguments with which the program prints its version.
    pub(crate) version: &'static [&'static str],
    /// Prepares the server of the program at a path. Returns its command.
    pub(crate) command: fn(&Path) -> anyhow::Result<Start>,
    /// The values of `--dispatch` to test it with.
    pub(crate) over: &'static [&'static str],
    /// A note for the table.
    pub(crate) note: &'static str,
}

/// Makes the command for a port.
pub(crate) type Start = Box<dyn Fn(u16) -> Vec<String>>;

/// A runtime that is installed.
pub(crate) struct Found {
    /// The version, as the program prints it.
    pub(crate) version: String,
    /// The command that serves on a port.
    pub(crate) command: Start,
}

impl Runtime {
    /// Finds the runtime and prepares its server.
    ///
    /// # Errors
    /// The runtime is not installed. The text is the reason for skipping the test.
    ///
    /// # Panics
    /// The runtime is installed, but does not work.
    pub(crate) fn find(&self) -> Result<Found, String> {
        let program = match self.place {
            Place::Path(program) => binaries::on_path(program)?,
            Place::Installed(path) => {
                let program = installed(path);
                if !program.is_file() {
                    return Err(format!(
                        "skipped: {} is not installed: run `cargo xtask test --languages`",
                        self.name
                    ));
                }
                program
            }
        };
        let version = version(&program, self.version).unwrap();
        let command = (self.command)(&program).unwrap();
        Ok(Found { version, command })
    }
}

/// The first word of the program's output that looks like a version, without letters around it.
fn version(program: &Path, words: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(words).current_dir(binaries::workspace());
    let ended = process::run(command, Duration::from_mins(1))?;
    ensure!(ended.code == 0, "{}: {}", program.display(), ended.stderr);
    let text = ended.stdout + &ended.stderr;
    text.split_whitespace()
        .map(|word| word.trim_matches(|letter: char| !letter.is_ascii_digit()))
        .find(|word| word.contains('.'))
        .map(str::to_owned)
        .with_context(|| format!("no version in {text:?}"))
}

fn node(program: &Path) -> Start {
    let program = program.to_string_lossy().into_owned();
    Box::new(move |port| words(&[&program, &fixtures::app("app.js"), &port.to_string()]))
}

/// A program with fixed arguments, in which `PORT` stands for the port.
fn with(program: &Path, arguments: &[&str]) -> Start {
    let program = program.to_string_lossy().into_owned();
    let arguments = words(arguments);
    Box::new(move |port| {
        let port = port.to_string();
        let arguments = arguments.iter().map(|word| word.replace("PORT", &port));
        std::iter::once(program.clone()).chain(arguments).collect()
    })
}

pub(crate) fn gunicorn(program: &Path, class: &str, app: &str) -> Start {
    let directory = fixture("");
    let arguments = [
        "--chdir",
        &directory,
        "--bind",
        "0.0.0.0:PORT",
        "--worker-class",
        class,
        app,
    ];
    with(program, &arguments)
}

/// Compiles the Java server once, as for a release.
fn java() -> anyhow::Result<Start> {
    static COMPILED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let compile = || -> anyhow::Result<PathBuf> {
        let classes = installed("java-classes");
        let mut command = Command::new("javac");
        command.arg("-d").arg(&classes).arg(fixture("Server.java"));
        let ended = process::run(command, Duration::from_mins(1))?;
        ensure!(ended.code == 0, "javac: {}", ended.stderr);
        Ok(classes)
    };
    let classes = COMPILED
        .get_or_init(|| compile().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)?;
    let classes = classes.to_string_lossy().into_owned();
    // Memory is limited as in a small container, so that three JVMs fit on a small machine.
    let arguments = [
        "-Xmx64m",
        "-XX:+UseSerialGC",
        "-cp",
        &classes,
        "Server",
        "PORT",
    ];
    Ok(with(Path::new("java"), &arguments))
}

/// A `WEBrick` that ends shuts down the socket of all workers of its generation (see `faults`), so
/// it is tested with Request dispatch only.
pub(crate) fn webrick(over: &'static [&'static str]) -> Runtime {
    Runtime {
        name: "Ruby WEBrick",
        place: Place::Path("ruby"),
        version: &["--version"],
        command: |program| Ok(with(program, &[&fixture("webrick.rb"), "PORT"])),
        over,
        note: "not with Connection dispatch",
    }
}

/// The runtimes that CI has. Tests of missing runtimes are skipped.
mod short {
    use super::{DISPATCHES, Path, Place, Runtime, binaries, fixture, fixtures, node, prove, with};

    #[test]
    fn node_as_installed() {
        prove(&Runtime {
            name: "Node http",
            place: Place::Path("node"),
            version: &["--version"],
            command: |program| Ok(node(program)),
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    fn python_http_server_with_threads() {
        prove(&Runtime {
            name: "Python http.server, threads",
            place: Place::Path("python3"),
            version: &["--version"],
            command: |_| Ok(Box::new(fixtures::python)),
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    fn python_http_server_with_one_thread() {
        prove(&Runtime {
            name: "Python http.server, one thread",
            place: Place::Path("python3"),
            version: &["--version"],
            command: |program| Ok(with(program, &[&fixture("single.py"), "PORT"])),
            over: &DISPATCHES,
            note: "one request per connection",
        });
    }

    #[test]
    fn go_net_http_static() {
        prove(&Runtime {
            name: "Go net/http, static",
            place: Place::Path("go"),
            version: &["version"],
            command: |_| {
                fixtures::go(1)?;
                Ok(Box::new(|port| fixtures::go(port).unwrap()))
            },
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    fn rust_static() {
        prove(&Runtime {
            name: "Rust std, static",
            place: Place::Path("rustc"),
            version: &["--version"],
            // The server uses PORT, which the supervisor sets to --port.
            command: |_| {
                let hello = binaries::path("scaledapp-hello-rust")?;
                Ok(with(Path::new(&hello), &[]))
            },
            over: &DISPATCHES,
            note: "",
        });
    }
}

/// The runtimes that `cargo xtask test --languages` installs.
mod long {
    use super::{DISPATCHES, Place, Runtime, fixture, gunicorn, java, node, prove, webrick, with};

    fn node_at(name: &'static str, path: &'static str) {
        prove(&Runtime {
            name,
            place: Place::Installed(path),
            version: &["--version"],
            command: |program| Ok(node(program)),
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn node_18() {
        node_at("Node http", "node-18/bin/node");
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn node_22() {
        node_at("Node http", "node-22/bin/node");
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn node_24() {
        node_at("Node http", "node-24/bin/node");
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn node_26() {
        node_at("Node http", "node-26/bin/node");
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn bun() {
        prove(&Runtime {
            name: "Bun.serve",
            place: Place::Installed("bun/bin/bun"),
            version: &["--version"],
            command: |program| Ok(with(program, &[&fixture("bun.js"), "PORT"])),
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn deno() {
        prove(&Runtime {
            name: "Deno.serve",
            place: Place::Installed("deno/deno"),
            version: &["--version"],
            command: |program| {
                let arguments = ["run", "--no-config", "-A", &fixture("deno.js"), "PORT"];
                Ok(with(program, &arguments))
            },
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn uvicorn() {
        prove(&Runtime {
            name: "uvicorn",
            place: Place::Installed("python/bin/uvicorn"),
            version: &["--version"],
            command: |program| {
                let directory = fixture("");
                let at = [
                    "--app-dir",
                    &directory,
                    "--host",
                    "0.0.0.0",
                    "--port",
                    "PORT",
                ];
                let rest = ["--log-level", "warning", "asgi:app"];
                Ok(with(program, &[&at[..], &rest[..]].concat()))
            },
            over: &DISPATCHES,
            note: "",
        });
    }

    fn gunicorn_with(
        name: &'static str,
        command: fn(&super::Path) -> anyhow::Result<super::Start>,
    ) {
        prove(&Runtime {
            name,
            place: Place::Installed("python/bin/gunicorn"),
            version: &["--version"],
            command,
            over: &DISPATCHES,
            note: "a master and its own worker in each of ours",
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn gunicorn_sync() {
        gunicorn_with("gunicorn sync", |program| {
            Ok(gunicorn(program, "sync", "wsgi:app"))
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn gunicorn_gevent() {
        gunicorn_with("gunicorn gevent", |program| {
            Ok(gunicorn(program, "gevent", "wsgi:app"))
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn gunicorn_uvicorn() {
        gunicorn_with("gunicorn uvicorn_worker", |program| {
            Ok(gunicorn(
                program,
                "uvicorn_worker.UvicornWorker",
                "asgi:app",
            ))
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn ruby_puma() {
        prove(&Runtime {
            name: "Ruby puma",
            place: Place::Path("puma"),
            version: &["--version"],
            command: |program| {
                let rackup = fixture("config.ru");
                let arguments = ["--quiet", "--bind", "tcp://0.0.0.0:PORT", &rackup];
                Ok(with(program, &arguments))
            },
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn ruby_webrick() {
        prove(&webrick(&["request"]));
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn java_httpserver() {
        prove(&Runtime {
            name: "Java com.sun.net.httpserver",
            place: Place::Path("javac"),
            version: &["--version"],
            command: |_| java(),
            over: &DISPATCHES,
            note: "",
        });
    }

    #[test]
    #[ignore = "run by cargo xtask test --languages"]
    fn php_built_in() {
        prove(&Runtime {
            name: "PHP built-in server",
            place: Place::Path("php"),
            version: &["--version"],
            command: |program| {
                let router = fixture("router.php");
                Ok(with(program, &["-q", "-S", "0.0.0.0:PORT", &router]))
            },
            over: &DISPATCHES,
            note: "",
        });
    }
}
