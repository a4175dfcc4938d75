//! `cargo xtask test`: the layers of tests, their order, and what counts as passed.
//!
//! All layers run, even after a failure. Counts are read from the output of the test runner; a
//! layer that fails without a count counts as one failure.
//!
//! The matrix of runtimes is one of the layers, in its short form. `--languages` runs only the
//! matrix, in its long form. The rows of the matrix are also read from the tests' output.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use scaledapp_tests::binaries;
use serde_json::Value;

use crate::cargo::cargo;
use crate::console::{heading, note, say, seconds, table, timed};
use crate::{compile, distribution, languages};

/// Test targets of `tests/`, the quicker ones first. A target that is not named here runs before
/// the last two.
const TARGETS: [&str; 9] = [
    "layers",
    "wire_sidecar",
    "wire_balancer",
    "recursors",
    "dashboard",
    LANGUAGES,
    APISERVER,
    "local_stories",
    KIND,
];

/// The target with the matrix of runtimes.
const LANGUAGES: &str = "languages";

/// Prefix of a line with a row of the matrix, its cells separated by bars.
const ROW: &str = "matrix: ";

/// The target that renders the chart.
const CHART: &str = "chart";

/// The target that needs a cluster.
const KIND: &str = "kind";

/// The target that needs the compiled programs of a control plane.
const APISERVER: &str = "apiserver";

/// Programs that tests run: name, purpose, and the package that is installed if the program is
/// missing.
const PROGRAMS: [(&str, &str, Option<&str>); 4] = [
    (
        "node",
        "the sample app and most of the wire tests",
        Some("nodejs"),
    ),
    ("python3", "tests with a Python app", Some("python3")),
    ("go", "tests with a static Go server", None),
    ("chromium", "the dashboard in a browser", Some("chromium")),
];

/// Servers that tests run, in the form of [`PROGRAMS`]. With systemd, installing their packages
/// would start them as services of the machine, which tests must not do.
const SERVERS: [(&str, &str, Option<&str>); 3] = [
    ("named", RECURSORS, Some("bind9")),
    ("unbound", RECURSORS, Some("unbound")),
    // The package also has promtool.
    (
        "prometheus",
        "the chart's alerts and dashboards",
        Some("prometheus"),
    ),
];

/// Purpose of the name servers of [`SERVERS`], for the test target `recursors`.
const RECURSORS: &str = "real recursors that ask our DNS server";

/// How long the output may take to end after the runner has ended. A process that a test has not
/// ended may keep the output open.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);

/// The counts that the runner printed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    /// Skipped tests, which the runner counts as passed.
    skipped: u64,
}

/// The result of a layer.
#[derive(Debug, Default)]
struct Ran {
    counts: Counts,
    matrix: Vec<[String; 7]>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    words: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

/// Builds and runs all layers, or with `fast` those that do not need Kubernetes. Returns whether
/// all passed.
///
/// # Errors
/// Something does not compile.
pub(crate) fn run(fast: bool) -> anyhow::Result<bool> {
    let begun = Instant::now();
    programs();
    languages::install_packages();
    compile::run()?;
    compile_tests(&["--workspace"])?;
    let mut targets = targets(&binaries::workspace().join("tests/tests"))?;
    targets.retain(|target| !fast || ![KIND, APISERVER].contains(&target.as_str()));
    run_all(layers(&own_targets()?, &targets), begun)
}

/// Installs the runtimes, builds, and runs only the matrix, with many requests. Returns whether all
/// passed.
///
/// # Errors
/// Something does not compile.
pub(crate) fn run_languages() -> anyhow::Result<bool> {
    let begun = Instant::now();
    programs();
    languages::install();
    languages::install_packages();
    compile::run()?;
    compile_tests(&["--package", "scaledapp-tests", "--test", LANGUAGES])?;
    run_all(vec![long_matrix()], begun)
}

fn compile_tests(which: &[&str]) -> anyhow::Result<()> {
    timed("Compiling the tests", || {
        let status = cargo(&["test", "--locked", "--no-run", "--quiet"])
            .args(which)
            .status()
            .context("cannot start cargo")?;
        anyhow::ensure!(
            status.success(),
            "the tests do not compile; the compiler's messages are above"
        );
        Ok(())
    })
}

fn run_all(layers: Vec<Layer>, begun: Instant) -> anyhow::Result<bool> {
    let mut rows = Vec::new();
    let mut matrix = Vec::new();
    let mut all = Counts::default();
    for layer in layers {
        heading(&format!("Tests: {}", layer.name));
        let start = Instant::now();
        let ran = layer.prepare_and_run()?;
        let counts = ran.counts;
        matrix.extend(ran.matrix);
        let took = seconds(start.elapsed());
        let verdict = if counts.failed == 0 {
            "Passed"
        } else {
            "FAILED"
        };
        note(&format!("{verdict} after {took}."));
        let Counts {
            passed,
            failed,
            skipped,
        } = counts;
        rows.push([
            layer.name,
            passed.to_string(),
            failed.to_string(),
            skipped.to_string(),
            took,
        ]);
        all.passed += passed;
        all.failed += failed;
        all.skipped += skipped;
    }
    if !matrix.is_empty() {
        heading("One port, many workers");
        let header = [
            "RUNTIME",
            "VERSION",
            "MECHANISM",
            "DISPATCH",
            "REQUESTS",
            "FAILED",
            "NOTE",
        ];
        say(&table(header, matrix));
    }
    heading("All layers");
    say(&table(
        ["LAYER", "PASSED", "FAILED", "SKIPPED", "TIME"],
        rows,
    ));
    say(&format!("\nAll layers took {}.", seconds(begun.elapsed())));
    if all.failed > 0 {
        say("One test alone: cargo test -p scaledapp-tests --test TARGET -- NAME --nocapture");
    }
    say(&format!("\n{}", all.line()));
    Ok(all.failed == 0)
}

/// Installs the programs that can be installed, and prints which are missing.
fn programs() {
    heading("Programs that tests run");
    let has_systemd = Path::new("/run/systemd/system").exists();
    let servers = SERVERS
        .map(|(program, purpose, package)| (program, purpose, package.filter(|_| !has_systemd)));
    for (program, purpose, package) in PROGRAMS.into_iter().chain(servers) {
        let there = match package {
            Some(package) => distribution::ensure(program, &[package]),
            None => binaries::on_path(program)
                .map(drop)
                .map_err(|_| anyhow::anyhow!("{program} is not installed")),
        };
        match there {
            Ok(()) => note(&format!("{program}: installed.")),
            Err(reason) => note(&format!("{program}: {reason:#}. Skipped: {purpose}.")),
        }
    }
}

impl Counts {
    /// The last line of the output, for programs to read.
    fn line(self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        if skipped == 0 {
            format!("{passed} passed, {failed} failed")
        } else {
            format!("{passed} passed, {failed} failed, {skipped} skipped")
        }
    }

    /// Adds the counts of a line of the runner's output.
    fn read(&mut self, line: &str) {
        // With one thread, the runner has already written `test NAME ... ` on the same line.
        if line.starts_with("skipped: ") || line.contains(" ... skipped: ") {
            self.skipped += 1;
        }
        let Some((_, result)) = line.split_once("test result: ") else {
            return;
        };
        // `ok. 12 passed; 0 failed; 1 ignored; …`
        let number = |what: &str| -> u64 {
            let words: Vec<&str> = result.split([' ', ';']).collect();
            let mut pairs = words.windows(2);
            let pair = pairs.find(|pair| pair[1] == what);
            pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
    }

    /// The final counts of a layer, in which skipped tests do not count as passed. `well` is
    /// whether the runner exited with 0.
    fn ended(mut self, well: bool) -> Self {
        self.skipped = self.skipped.min(self.passed);
        self.passed -= self.skipped;
        if !well {
            self.failed = self.failed.max(1);
        }
        self
    }
}

/// The cells of a row of the matrix; `None` for any other line.
fn row(line: &str) -> Option<[String; 7]> {
    let cells = line.strip_prefix(ROW)?;
    let cells: Vec<String> = cells
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect();
    cells.try_into().ok()
}

/// The names of the test targets of all packages except that of `tests/`, each once.
fn own_targets() -> anyhow::Result<Vec<String>> {
    let words = ["metadata", "--no-deps", "--locked", "--format-version=1"];
    let output = cargo(&words).output().context("cannot start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    own_targets_of(&serde_json::from_slice(&output.stdout)?)
}

/// As [`own_targets`], from the output of `cargo metadata`.
fn own_targets_of(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let others = packages.iter().filter(|it| it["name"] != "scaledapp-tests");
    let targets = others.filter_map(|package| package["targets"].as_array());
    let tests = targets.flatten().filter(|it| it["kind"][0] == "test");
    let names = tests.filter_map(|target| target["name"].as_str());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    Ok(names.into_iter().collect())
}

/// Test targets of a directory in the order in which they run.
fn targets(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.join("main.rs").is_file() || path.extension().is_some_and(|is| is == "rs")
        })
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    let late = TARGETS.len() - 2;
    let place = |name: &String| match TARGETS.iter().position(|known| known == name) {
        Some(known) if known < late => known,
        Some(known) => known + 1,
        None => late,
    };
    found.sort_by_key(|name| (place(name), name.clone()));
    Ok(found)
}

/// The layers: unit tests together with the targets `own` of the packages, then those of `tests/`.
fn layers(own: &[String], targets: &[String]) -> Vec<Layer> {
    let layer = |name: &str, words: &[&str]| Layer {
        name: name.to_owned(),
        words: words.iter().map(|&word| word.to_owned()).collect(),
        environment: Vec::new(),
    };
    // Every layer is built with the whole workspace: with fewer packages, shared dependencies
    // would have fewer features, and would be compiled again.
    let unit = ["--workspace", "--lib", "--bins"].into_iter();
    let unit = unit.chain(own.iter().flat_map(|target| ["--test", target]));
    let mut layers = vec![layer("unit and golden", &unit.collect::<Vec<_>>())];
    layers.extend(targets.iter().map(|target| {
        let test = ["--workspace", "--test", target, "--"];
        // Each story uses the whole machine, so stories run one at a time. Their output is shown as
        // it comes, because it contains the numbers of requests. Other layers show the output of a
        // test after it has ended, such as why it was skipped. The matrix mostly waits, so it may
        // run in parallel.
        let shown: &[&str] = match target.as_str() {
            "local_stories" | KIND => &["--nocapture", "--test-threads=1"],
            LANGUAGES => &["--show-output", "--test-threads=4"],
            _ => &["--show-output"],
        };
        layer(target, &[&test[..], shown].concat())
    }));
    layers
}

/// The matrix with every runtime, one at a time, so that the measurements do not disturb each
/// other.
fn long_matrix() -> Layer {
    let words = [
        "--package",
        "scaledapp-tests",
        "--test",
        LANGUAGES,
        "--",
        "--include-ignored",
        "--show-output",
        "--test-threads=1",
    ];
    Layer {
        name: LANGUAGES.to_owned(),
        words: words.map(str::to_owned).to_vec(),
        environment: vec![("SCALEDAPP_LANGUAGES", "long".to_owned())],
    }
}

impl Layer {
    fn prepare_and_run(&self) -> anyhow::Result<Ran> {
        let environment = match self.name.as_str() {
            CHART => {
                // Helm is compiled with Go. Without it, the tests use a helm on the `PATH`, or
                // print that they are skipped.
                let helm = crate::kind::helm_for_tests();
                let helm = helm.inspect_err(|error| note(&format!("No helm: {error:#}")));
                return self.run(&helm.into_iter().collect::<Vec<_>>());
            }
            KIND => crate::kind::for_tests(),
            APISERVER => crate::kind::control_plane(),
            _ => return self.run(&self.environment),
        };
        match environment {
            Ok(environment) => self.run(&environment),
            Err(error) => {
                note(&format!("No cluster: {error:#}"));
                Ok(Ran {
                    counts: Counts::default().ended(false),
                    ..Ran::default()
                })
            }
        }
    }

    fn run(&self, environment: &[(&str, String)]) -> anyhow::Result<Ran> {
        let mut command = cargo(&["test", "--locked", "--no-fail-fast"]);
        command.args(&self.words).stdout(Stdio::piped());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().context("cannot start cargo")?;
        let output = child.stdout.take().context("stdout is a pipe")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || follow(output, &sender));
        let mut ran = Ran::default();
        let mut ended = None;
        loop {
            match lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => {
                    ran.counts.read(&line);
                    ran.matrix.extend(row(&line));
                    say(&line);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if ended.is_none() && child.try_wait()?.is_some() {
                        ended = Some(Instant::now());
                    }
                    if ended.is_some_and(|at| at.elapsed() > OUTPUT_TIMEOUT) {
                        note("A process that a test started still holds its output open.");
                        break;
                    }
                }
            }
        }
        let status = child.wait()?;
        ran.counts = ran.counts.ended(status.success());
        Ok(ran)
    }
}

/// Sends every line until the output ends or the receiver is dropped.
fn follow(output: impl Read, lines: &mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_of_several_binaries_add_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.05s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s",
            "test b ... skipped: go is not installed",
        ] {
            counts.read(line);
        }
        let counts = counts.ended(false);
        assert_eq!(counts.line(), "13 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn rows_of_the_matrix_are_told_from_other_lines() {
        let cells = row("matrix: Node | 20.1.0 | notify | request | 300 | 0 |").unwrap();
        assert_eq!(
            cells,
            ["Node", "20.1.0", "notify", "request", "300", "0", ""]
        );
        assert_eq!(row("matrix: too | few"), None);
        assert_eq!(row("test matrix ... ok"), None);
    }

    #[test]
    fn a_failed_layer_without_a_count_is_a_failure() {
        assert_eq!(Counts::default().ended(false).line(), "0 passed, 1 failed");
        assert_eq!(Counts::default().ended(true).line(), "0 passed, 0 failed");
    }

    #[test]
    fn targets_of_the_packages_run_once_and_those_of_tests_run_later() {
        let target = |name: &str, kind: &str| json!({"name": name, "kind": [kind]});
        let metadata = json!({"packages": [
            {"name": "scaledapp-proxy", "targets": [target("scaledapp_proxy", "lib"), target("wire", "test")]},
            {"name": "scaledapp-dns", "targets": [target("wire", "test"), target("answers", "test")]},
            {"name": "scaledapp-tests", "targets": [target("kind", "test")]},
        ]});
        assert_eq!(own_targets_of(&metadata).unwrap(), ["answers", "wire"]);
    }

    #[test]
    fn an_unlisted_target_runs_before_the_stories() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["local_stories", "kind", "wire_sidecar", "fixtures"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        for name in [
            "local_stories/main.rs",
            "kind/main.rs",
            "wire_sidecar/main.rs",
            "a_new_one.rs",
            "layers.rs",
            "README.md",
        ] {
            std::fs::write(at(name), "").unwrap();
        }
        assert_eq!(
            targets(directory.path()).unwrap(),
            [
                "layers",
                "wire_sidecar",
                "a_new_one",
                "local_stories",
                "kind"
            ]
        );
    }
}
