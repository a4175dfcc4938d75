//! Checks which package and which file may depend on which, and the few other rules that no lint
//! checks.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

mod book;
mod dependencies;
mod graph;
mod imports;
mod links;
mod packages;
mod tokens;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::{binaries, process};

/// The names of all packages that are linked into a package.
fn linked(package: &str) -> Vec<String> {
    let mut command = Command::new("cargo");
    command.current_dir(binaries::workspace());
    command.args([
        "tree",
        "--locked",
        "--offline",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]);
    command.args(["--package", package]);
    let ended = process::run(command, Duration::from_mins(1)).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let names = ended
        .stdout
        .lines()
        .filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The packages that talk to an API server, and the package with the types of its objects.
const CLIENT: [&str; 4] = ["kube", "kube-client", "k8s-openapi", "scaledapp-watch"];

#[test]
fn the_data_plane_never_links_a_kubernetes_client() {
    for package in [
        "scaledapp",
        "scaledapp-sidecar",
        "scaledapp-proxy",
        "scaledapp-http1",
        "scaledapp-select",
        "scaledapp-engine",
        "scaledapp-plan",
        "scaledapp-answers",
    ] {
        let linked = linked(package);
        for banned in CLIENT {
            assert!(
                !linked.iter().any(|name| name == banned),
                "{package} links {banned}"
            );
        }
    }
}

#[test]
fn no_package_links_a_foreign_http_server() {
    for package in [
        "scaledapp-sidecar",
        "scaledapp-balancer",
        "scaledapp-proxy",
        "scaledapp-dns",
    ] {
        let linked = linked(package);
        assert!(
            linked.iter().any(|name| name == "tokio"),
            "{package}: {linked:?}"
        );
        for banned in ["hickory-server", "pingora", "openssl", "ring"] {
            assert!(
                !linked.iter().any(|name| name == banned),
                "{package} links {banned}"
            );
        }
    }
}

/// The balancer and the DNS server get pods and names from the API server, so their binaries link a
/// client. A separate process in each pod would avoid that, but it would be one more process that
/// can fail, and it would need a file to pass its results on. The packages on the request path
/// (`scaledapp-proxy`, `scaledapp-answers`) do not link the client, which
/// `the_data_plane_never_links_a_kubernetes_client` checks. In the binaries, only the adapters may
/// use it, so that no other part can come to depend on the API server.
#[test]
fn only_the_discovery_adapters_know_the_kubernetes_client() {
    for (package, adapter) in [
        ("balancer", &["cluster.rs", "slices.rs"][..]),
        ("dns", &["apps.rs", "cluster.rs", "service.rs"]),
    ] {
        let mut found = Vec::new();
        let directory = binaries::workspace().join(package).join("src");
        files(&directory, "rs", &mut found);
        let mut users = Vec::new();
        for path in found {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let is_client = |line: &str| {
                ["kube::", "k8s_openapi", "scaledapp_watch"]
                    .iter()
                    .any(|word| line.contains(word))
            };
            if code.into_iter().any(is_client) {
                users.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        users.sort();
        assert_eq!(users, adapter, "{package}");
    }
}

#[test]
fn pure_crates_know_no_runtime_no_socket_and_no_client() {
    for package in [
        "scaledapp-units",
        "scaledapp-engine",
        "scaledapp-plan",
        "scaledapp-scale",
        "scaledapp-http1",
        "scaledapp-select",
        "scaledapp-answers",
    ] {
        let linked = linked(package);
        for banned in ["tokio", "hyper", "mio", "socket2", "rustix", "kube"] {
            assert!(
                !linked.iter().any(|name| name == banned),
                "{package} links {banned}"
            );
        }
    }
}

/// Clippy reads only the nearest `clippy.toml` in the directories above, and such files cannot
/// include each other.
#[test]
fn pure_packages_have_the_common_lints_and_the_stricter_ones() {
    let file = |name: &str| std::fs::read_to_string(binaries::workspace().join(name)).unwrap();
    let (all, pure) = (file("clippy.toml"), file("clippy-pure.toml"));
    for line in all.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            pure.lines().any(|other| other == line),
            "clippy.toml has {line:?}, which clippy-pure.toml must repeat"
        );
    }
    for package in [
        "operator/plan",
        "operator/scale",
        "dns/answers",
        "balancer/http1",
        "balancer/select",
        "runtime/units",
    ] {
        assert!(
            file(&format!("{package}/clippy.toml")) == pure,
            "{package}/clippy.toml is not a link to ../../clippy-pure.toml"
        );
    }
}

/// Finds all files with this extension below a directory, except the output of builds and tools.
fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

#[test]
fn every_file_begins_with_its_purpose_and_stays_readable() {
    let mut found = Vec::new();
    files(binaries::workspace(), "rs", &mut found);
    assert!(found.len() > 50, "{}", found.len());
    let mut wrong = Vec::new();
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if !text.starts_with("//!") && !text.starts_with("#!") {
            wrong.push(format!("{} does not open with //!", path.display()));
        }
        if lines > 650 {
            wrong.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_one_package_and_each_block_has_its_reason() {
    let mut found = Vec::new();
    files(binaries::workspace(), "rs", &mut found);
    let home = binaries::workspace().join("sidecar/sys");
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or(""))
            .collect();
        let uses = code
            .iter()
            .filter(|line| line.contains(concat!("uns", "afe {")))
            .count();
        if !path.starts_with(&home) {
            assert_eq!(uses, 0, "{} has unsafe code", path.display());
        }
        assert!(
            text.matches("SAFETY:").count() >= uses,
            "{}: a block without SAFETY",
            path.display()
        );
    }
}

/// The flags of a binary's `run`, from its help text.
fn flags_of(binary: &str) -> Vec<String> {
    let mut command = Command::new(binaries::path(binary).unwrap());
    command.args(["run", "--help"]);
    let ended = process::run(command, Duration::from_mins(1)).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    // Only lines that begin with a flag are indented by six columns.
    let words = ended.stdout.lines().filter_map(|line| {
        let flag = line.strip_prefix("      --")?.split(' ').next()?;
        Some(format!("--{flag}"))
    });
    words.collect()
}

#[test]
fn every_flag_is_documented_and_no_other() {
    let page = binaries::workspace().join("docs/flags.md");
    let page = std::fs::read_to_string(page).unwrap();
    let flags = ["scaledapp-sidecar", "scaledapp-balancer"].map(flags_of);
    let code = page.split('`').filter(|code| code.starts_with("--"));
    let documented: Vec<_> = code.filter_map(|code| code.split(' ').next()).collect();
    for (flags, least) in flags.iter().zip([45, 25]) {
        assert!(flags.len() >= least, "{flags:?}");
        for flag in flags {
            assert!(
                documented.contains(&flag.as_str()),
                "{flag} is not in docs/flags.md"
            );
        }
    }
    for flag in documented {
        // The help text lists these two in another form.
        if matches!(flag, "--help" | "--version") {
            continue;
        }
        let is_there = flags.iter().flatten().any(|there| there == flag);
        assert!(is_there, "docs/flags.md names {flag}, which is not a flag");
    }
}
