//! A test: stand-ins for the programs go into images, images and chart go to a real registry
//! (docker-registry of Debian) on loopback, and skopeo and helm read them back. Once each over http,
//! over TLS with an authority that the machine does not know, and over TLS with a password.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scaledapp_tests::{binaries, ports, wait};
use serde_json::Value;
use tempfile::TempDir;

use super::chart::{self, Release};
use super::component::{Arch, Built, COMPONENTS};
use super::program;
use super::push::{self, Access, Upload};
use crate::kind::cache::Cache;
use crate::kind::golang;
use crate::kind::recipe;
use crate::kind::run::Run;

#[path = "../../../tests/src/authority.rs"]
mod authority;

use authority::Authority;

const TAG: &str = "v1";
const SOURCE: &str = "https://example.org/source";
const USER: &str = "pusher";
const PASSWORD: &str = "open sesame";
/// What `htpasswd -B` makes of them.
const HTPASSWD: &str = "pusher:$2y$05$rI8fY2WIWx8JNsdR/1hGBuigK6V4jhyTE3L0MJgBBQ49UAWNczzeq\n";
/// A registry starts within a tenth of a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A registry that ends with the test.
struct Registry {
    child: Child,
    address: SocketAddr,
    /// Its settings and what is pushed.
    directory: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Registry {
    /// `tls` is the certificate and its key. With `guarded`, it wants [`USER`] and [`PASSWORD`].
    fn start(tls: Option<[PathBuf; 2]>, guarded: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = ports::local().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("htpasswd"), HTPASSWD).unwrap();
        let mut settings = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {address}\n",
            at("data").display()
        );
        if let Some([certificate, key]) = tls {
            let (certificate, key) = (certificate.display(), key.display());
            writeln!(
                settings,
                "  tls: {{certificate: {certificate}, key: {key}}}"
            )
            .unwrap();
        }
        if guarded {
            let path = at("htpasswd");
            let path = path.display();
            writeln!(
                settings,
                "auth: {{htpasswd: {{realm: test, path: {path}}}}}"
            )
            .unwrap();
        }
        fs::write(at("settings.yaml"), settings).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(at("settings.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let listens = || std::net::TcpStream::connect(address).is_ok();
        wait::until_true(START_TIMEOUT, "the registry listens", listens).unwrap();
        Self {
            child,
            address,
            directory,
        }
    }

    fn prefix(&self) -> String {
        format!("{}/team", self.address)
    }
}

/// Images of stand-ins, for both platforms.
fn stand_ins(directory: &Path) -> Vec<Built> {
    let programs = [Arch::Amd64, Arch::Arm64].map(|arch| {
        let at = directory.join(arch.name());
        fs::create_dir_all(&at).unwrap();
        for component in COMPONENTS {
            let name = component.program();
            let content = program::stand_in(arch, &format!("{name} {}", arch.name()));
            fs::write(at.join(name), content).unwrap();
        }
        (arch, at)
    });
    super::images(&programs, directory, "1.2.3", SOURCE).unwrap()
}

/// What is read with, and how.
struct Reader {
    cache: Cache,
    access: Access,
    /// A docker configuration with the password, or an empty directory.
    login: TempDir,
}

impl Reader {
    fn new(access: Access) -> Self {
        Self {
            cache: Cache::new(),
            access,
            login: tempfile::tempdir().unwrap(),
        }
    }

    /// As a user logs in.
    fn logged_in(access: Access, registry: SocketAddr) -> Self {
        let reader = Self::new(access);
        let crane = golang::programs(&reader.cache, &recipe::CRANE).unwrap();
        let registry = registry.to_string();
        let words = ["auth", "login", &registry, "-u", USER, "-p", PASSWORD];
        let run = Run::new(crane.join("crane"), &words);
        let run = run.env("DOCKER_CONFIG", reader.login.path());
        run.done().unwrap();
        reader
    }

    /// What skopeo says of an image, with its certificates and its password.
    fn skopeo(&self, words: &[&str], reference: &str) -> Value {
        let mut all = vec!["inspect".to_owned()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        if self.access.plain_http {
            all.push("--tls-verify=false".to_owned());
        }
        let certificates = tempfile::tempdir().unwrap();
        if let Some(file) = &self.access.ca_file {
            fs::copy(file, certificates.path().join("ca.crt")).unwrap();
            all.push(format!("--cert-dir={}", certificates.path().display()));
        }
        let login = self.login.path().join("config.json");
        if login.exists() {
            all.push(format!("--authfile={}", login.display()));
        }
        all.push(format!("docker://{reference}"));
        serde_json::from_str(&Run::new("skopeo", &all).text().unwrap()).unwrap()
    }

    /// The chart as helm pulls and renders it.
    fn rendered(&self, prefix: &str, directory: &Path) -> String {
        let helm = golang::client(&self.cache, &recipe::HELM).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let chart = format!("oci://{prefix}/scaledapp");
        let to = directory.to_string_lossy();
        let mut words = vec!["pull", &chart, "--version", version, "--destination", &to];
        let login = self.login.path().join("config.json");
        let (login, ca_file) = (login.to_string_lossy(), self.access.ca_file.as_ref());
        let ca_file = ca_file.map(|file| file.to_string_lossy());
        words.extend(["--registry-config", &login]);
        words.extend(self.access.plain_http.then_some("--plain-http"));
        if let Some(file) = &ca_file {
            words.extend(["--ca-file", file]);
        }
        Run::new(&helm, &words).done().unwrap();
        let packed = directory.join(format!("scaledapp-{version}.tgz"));
        let packed = packed.to_string_lossy();
        Run::new(&helm, &["template", "scaledapp", &packed])
            .text()
            .unwrap()
    }
}

/// Pushes everything and reads it back.
fn there_and_back(built: &[Built], reader: &Reader, registry: &Registry) {
    let prefix = registry.prefix();
    let output = registry.directory.path().join("release");
    fs::create_dir(&output).unwrap();
    let release = || chart::release(&reader.cache, built, &prefix, TAG, SOURCE, &output).unwrap();
    let first = fs::read(release().chart).unwrap();
    let release: Release = release();
    assert!(
        first == fs::read(&release.chart).unwrap(),
        "the same bytes again"
    );
    // Twice, as after a failure half-way: what is there is no error, and stays the same.
    let mut digests = Vec::new();
    for _ in 0..2 {
        let login = reader.login.path();
        let upload = Upload {
            built,
            release: &release,
            prefix: &prefix,
            tag: TAG,
            access: &reader.access,
        };
        push::with_login(&reader.cache, upload, |name| {
            (name == "DOCKER_CONFIG").then(|| login.to_owned())
        })
        .unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let chart = reader.skopeo(&["--raw"], &format!("{prefix}/scaledapp:{version}"));
        let source = &chart["annotations"]["org.opencontainers.image.source"];
        assert_eq!(source, SOURCE);
        digests.push(chart);
    }
    assert_eq!(digests[0], digests[1]);
    let rendered = reader.rendered(&prefix, registry.directory.path());
    for image in built {
        let name = push::repository(&prefix, image.component);
        assert!(
            rendered.contains(&format!("{name}@{}", image.digest)),
            "{rendered}"
        );
        let index = reader.skopeo(&["--raw"], &format!("{name}@{}", image.digest));
        let platforms = index["manifests"].as_array().unwrap();
        let platforms: Vec<&str> = platforms
            .iter()
            .filter_map(|manifest| manifest["platform"]["architecture"].as_str())
            .collect();
        assert_eq!(platforms, ["amd64", "arm64"]);
        for arch in platforms {
            let words = ["--config", "--override-arch", arch];
            let config = reader.skopeo(&words, &format!("{name}:{TAG}"));
            assert_eq!(config["architecture"], arch);
            let config = &config["config"];
            assert_eq!(config["User"], "65534:65534");
            let program = format!("/usr/local/bin/{}", image.component.program());
            assert_eq!(config["Entrypoint"][0], program.as_str());
            let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
            assert_eq!(label("version"), "1.2.3");
            assert_eq!(label("source"), SOURCE);
        }
    }
}

#[test]
fn images_and_chart_come_back_from_a_real_registry_as_they_were_pushed() {
    for program in ["docker-registry", "skopeo"] {
        if let Err(reason) = binaries::on_path(program) {
            println!("{reason}");
            return;
        }
    }
    let cache = Cache::new();
    for unit in [&recipe::HELM, &recipe::CRANE] {
        if let Err(error) = golang::programs(&cache, unit) {
            println!("skipped: {} cannot be compiled: {error:#}", unit.name);
            return;
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let built = stand_ins(directory.path());
    let authority = Authority::new();
    let tls = || {
        let files = authority.issue("127.0.0.1");
        let (certificate, key) = files.split_once(':').unwrap();
        Some([PathBuf::from(certificate), PathBuf::from(key)])
    };
    let trusting = || Access {
        ca_file: Some(PathBuf::from(authority.root())),
        ..Access::default()
    };
    let plain = Access {
        plain_http: true,
        ..Access::default()
    };

    let registry = Registry::start(None, false);
    there_and_back(&built, &Reader::new(plain), &registry);

    let registry = Registry::start(tls(), false);
    there_and_back(&built, &Reader::new(trusting()), &registry);

    let registry = Registry::start(tls(), true);
    let login = Reader::logged_in(trusting(), registry.address);
    there_and_back(&built, &login, &registry);

    // Without the password or the authority, the message names the cure.
    let release = registry.directory.path().join("release");
    let release = Release {
        chart: release.join(format!("scaledapp-{}.tgz", env!("CARGO_PKG_VERSION"))),
        manifest: PathBuf::new(),
    };
    for (access, cure) in [
        (trusting(), "helm registry login"),
        (Access::default(), "--ca-file"),
    ] {
        let upload = Upload {
            built: &built,
            release: &release,
            prefix: &registry.prefix(),
            tag: TAG,
            access: &access,
        };
        let refused = push::with_login(&cache, upload, |_| None).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains(cure), "{refused}");
    }
}
