//! The apps under load: the smallest ordinary server of each language, with a hard-coded
//! port and no code for supervisors. Variants differ in what they do for each request and
//! at their start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::{binaries, process};

/// How long compiling `net/http` may take on a busy machine whose cache is cold.
const GO_BUILD: Duration = Duration::from_mins(3);

/// The language of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// `http.createServer`.
    Node,
    /// A synchronous WSGI callable; served by `wsgiref` or gunicorn.
    Python,
    /// `net/http`, statically linked.
    Go,
    /// A Rack callable, served by Puma.
    Ruby,
}

impl Language {
    /// The language's name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Python => "Python",
            Self::Go => "Go",
            Self::Ruby => "Ruby",
        }
    }
}

/// What an app does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// Answers immediately.
    Hello,
    /// Burns 0.2 ms of CPU; `/block/MS` burns MS milliseconds instead.
    Work,
    /// Waits this long without using CPU, and echoes what was posted.
    Wait(Duration),
    /// Answers immediately and writes a line to standard output.
    Log,
    /// As `Wait(20 ms)`, but listens only when this time has passed since its start.
    BootsLate(Duration),
    /// Ends with code 1 at its start.
    Broken,
}

impl Does {
    fn wait(self) -> Duration {
        match self {
            Self::Wait(time) => time,
            Self::BootsLate(_) => Duration::from_millis(20),
            _ => Duration::ZERO,
        }
    }
}

/// How a worker gets its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listens {
    /// On its hard-coded port, as in an ordinary app.
    Port,
    /// On the socket that is its standard input.
    Stdin,
}

/// The source of a Node app.
pub(crate) fn node(does: Does, listens: Listens, port: u16) -> String {
    let handler = match does {
        Does::Hello => "answer(res, '');".to_owned(),
        Does::Log => "console.log(`${req.method} ${req.url} 200`); answer(res, '');".to_owned(),
        Does::Work => {
            "burn(req.url.startsWith('/block/') ? Number(req.url.slice(7)) : 0.2); answer(res, '');"
                .to_owned()
        }
        Does::Wait(_) | Does::BootsLate(_) | Does::Broken => format!(
            "const parts = []; req.on('data', (part) => parts.push(part));\n  \
             req.on('end', () => setTimeout(() => answer(res, Buffer.concat(parts).toString()), {}));",
            does.wait().as_millis()
        ),
    };
    let at = match listens {
        Listens::Port => port.to_string(),
        Listens::Stdin => "{ fd: 0 }".to_owned(),
    };
    let boot = match does {
        Does::Broken => "process.exit(1);".to_owned(),
        Does::BootsLate(after) => format!(
            "setTimeout(() => server.listen({at}), {});",
            after.as_millis()
        ),
        _ => format!("server.listen({at});"),
    };
    format!(
        "const http = require('http');\n\
         const answer = (res, body) => res.end(JSON.stringify({{ pid: process.pid, body }}));\n\
         const burn = (ms) => {{ const end = performance.now() + ms; while (performance.now() < end); }};\n\
         const server = http.createServer((req, res) => {{\n  {handler}\n}});\n{boot}\n"
    )
}

/// The source of a WSGI app that is also a server when it is executed.
fn python(does: Does, port: u16) -> String {
    format!(
        "import os, time\n\n\
         def app(environ, start_response):\n\
         \x20   length = int(environ.get('CONTENT_LENGTH') or 0)\n\
         \x20   body = environ['wsgi.input'].read(length) if length else b''\n\
         \x20   time.sleep({})\n\
         \x20   answer = b'{{\"pid\": %d, \"body\": \"%s\"}}' % (os.getpid(), body)\n\
         \x20   start_response('200 OK', [('Content-Length', str(len(answer)))])\n\
         \x20   return [answer]\n\n\
         if __name__ == '__main__':\n\
         \x20   from wsgiref.simple_server import WSGIRequestHandler, make_server\n\
         \x20   WSGIRequestHandler.log_message = lambda *words: None\n\
         \x20   make_server('127.0.0.1', {port}, app).serve_forever()\n",
        does.wait().as_secs_f64()
    )
}

fn go(does: Does, port: u16) -> String {
    format!(
        "package main\n\nimport (\n\t\"fmt\"\n\t\"io\"\n\t\"net/http\"\n\t\"os\"\n\t\"time\"\n)\n\n\
         func main() {{\n\
         \thttp.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) {{\n\
         \t\tbody, _ := io.ReadAll(r.Body)\n\
         \t\ttime.Sleep({} * time.Millisecond)\n\
         \t\tfmt.Fprintf(w, `{{\"pid\": %d, \"body\": %q}}`, os.Getpid(), body)\n\
         \t}})\n\
         \tif err := http.ListenAndServe(\":{port}\", nil); err != nil {{\n\
         \t\tfmt.Fprintln(os.Stderr, err)\n\t\tos.Exit(1)\n\t}}\n}}\n",
        does.wait().as_millis()
    )
}

fn rack(does: Does) -> String {
    format!(
        "run ->(env) {{\n  body = env['rack.input'] ? env['rack.input'].read : ''\n  sleep {}\n  \
         answer = %({{\"pid\": #{{Process.pid}}, \"body\": \"#{{body}}\"}})\n  \
         [200, {{ 'content-length' => answer.bytesize.to_s }}, [answer]]\n}}\n",
        does.wait().as_secs_f64()
    )
}

/// An app in its directory.
#[derive(Debug, Clone)]
pub(crate) struct App {
    /// The main file; for Go the binary.
    pub(crate) file: PathBuf,
    /// The directory of the app's files.
    pub(crate) directory: PathBuf,
    language: Language,
    listens: Listens,
    port: u16,
}

impl App {
    /// Writes an app into its own directory; Go is compiled.
    ///
    /// # Errors
    /// The directory cannot be written, or Go is not installed or does not compile the app.
    pub(crate) fn write(
        directory: &Path,
        language: Language,
        does: Does,
        listens: Listens,
        port: u16,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}: is it full?", directory.display()))?;
        let name = match language {
            Language::Node => "app.js",
            Language::Python => "app.py",
            Language::Go => "app",
            Language::Ruby => "config.ru",
        };
        let app = Self {
            file: directory.join(name),
            directory: directory.to_owned(),
            language,
            listens,
            port,
        };
        app.rewrite(does)?;
        Ok(app)
    }

    /// Replaces the app by another release.
    ///
    /// # Errors
    /// As [`App::write`].
    pub(crate) fn rewrite(&self, does: Does) -> anyhow::Result<()> {
        let text = match self.language {
            Language::Node => node(does, self.listens, self.port),
            Language::Python => python(does, self.port),
            Language::Ruby => rack(does),
            Language::Go => return self.build(&go(does, self.port)),
        };
        fs::write(&self.file, text)?;
        Ok(())
    }

    fn build(&self, text: &str) -> anyhow::Result<()> {
        fs::write(self.directory.join("main.go"), text)?;
        fs::write(self.directory.join("go.mod"), "module app\n\ngo 1.18\n")?;
        let mut command = Command::new(go_program()?);
        command.current_dir(&self.directory);
        command.args(["build", "-o", "app", "."]);
        command.envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=mod")]);
        command.envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off")]);
        let ended = process::run(command, GO_BUILD)?;
        ensure!(ended.code == 0, "go build: {}", ended.stderr);
        Ok(())
    }

    /// The command that starts one process of the app.
    pub(crate) fn command(&self) -> Vec<String> {
        let file = self.file.to_string_lossy().into_owned();
        let interpreter = match self.language {
            Language::Node => "node",
            Language::Python => PYTHON,
            Language::Go => return vec![file],
            Language::Ruby => {
                // Puma in its single mode: one process, no supervisor.
                let at = format!("tcp://127.0.0.1:{}", self.port);
                let words = [
                    "puma",
                    "--threads",
                    "4:4",
                    "--config",
                    "-",
                    "--bind",
                    &at,
                    &file,
                ];
                return words.map(str::to_owned).into();
            }
        };
        vec![interpreter.to_owned(), file]
    }
}

/// The distribution's own Python. A version manager's wrapper script may precede it on the
/// `PATH`, and the peers' workers are not started through a wrapper.
const PYTHON: &str = "/usr/bin/python3";

/// Whether Python apps can be run.
pub(crate) fn has_python() -> bool {
    Path::new(PYTHON).is_file()
}

/// The path of the Go tool, which go.dev's archive installs outside of the `PATH`.
///
/// # Errors
/// Go is not installed.
pub(crate) fn go_program() -> anyhow::Result<PathBuf> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    binaries::on_path("go")
        .ok()
        .or_else(|| usual.is_file().then_some(usual))
        .context("go is not installed: install golang-go, or unpack go.dev's archive to /usr/local")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_hard_coded_and_only_the_shared_listener_is_special() {
        let plain = node(Does::Hello, Listens::Port, 4321);
        assert!(plain.contains("server.listen(4321);"), "{plain}");
        let shared = node(Does::Hello, Listens::Stdin, 4321);
        assert_eq!(plain.replace("4321", "{ fd: 0 }"), shared);
    }

    #[test]
    fn a_broken_release_never_listens_and_a_late_one_listens_later() {
        assert!(!node(Does::Broken, Listens::Port, 1).contains("server.listen"));
        let late = node(Does::BootsLate(Duration::from_secs(8)), Listens::Port, 4321);
        assert!(
            late.contains("setTimeout(() => server.listen(4321), 8000);"),
            "{late}"
        );
    }

    #[test]
    fn every_language_waits_as_told() {
        let does = Does::Wait(Duration::from_millis(20));
        assert!(node(does, Listens::Port, 1).contains("toString()), 20)"));
        assert!(python(does, 1).contains("time.sleep(0.02)"));
        assert!(go(does, 1).contains("time.Sleep(20 * time.Millisecond)"));
        assert!(rack(does).contains("sleep 0.02"));
    }
}
