//! Tries the programs of another platform once, under qemu: their version, and one request through
//! a balancer to an app under a supervisor.
//!
//! The supervisor starts itself again as its watchdog, so the kernel must know qemu as the
//! interpreter of that platform's programs (binfmt_misc). Only root can tell it that. Without qemu
//! or that right, the programs are made all the same, and a line says that they were not tried.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::{binaries, ports, wait};

use super::component::{Arch, COMPONENTS};
use crate::cargo::output_of;
use crate::console::{note, timed};
use crate::distribution;

const INTERPRETERS: &str = "/proc/sys/fs/binfmt_misc";
const QEMU: &str = "qemu-aarch64";
/// The first bytes of a program for arm64, and which of their bits count (qemu's own description).
/// With F, the interpreter is opened now, so that it is also found within other root directories.
const MAGIC: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
/// How long a program may take under emulation.
const DEADLINE: Duration = Duration::from_mins(1);

/// Tries the programs in `directory`, unless they are for this machine's own platform, which the
/// tests try.
///
/// # Errors
/// A program does not do what it should.
pub(super) fn try_programs(arch: Arch, directory: &Path) -> anyhow::Result<()> {
    if arch.is_ours() || arch != Arch::Arm64 {
        return Ok(());
    }
    if let Err(reason) = interpreter() {
        note(&format!(
            "The programs for {} were not tried: {reason:#}",
            arch.name()
        ));
        return Ok(());
    }
    timed(
        &format!("Trying the programs for {} under qemu", arch.name()),
        || {
            for component in COMPONENTS {
                let program = directory.join(component.program()).into_os_string();
                let said = output_of(&program, &["--version"])?;
                let version = env!("CARGO_PKG_VERSION");
                ensure!(
                    said.ends_with(version),
                    "{} says {said:?}",
                    component.program()
                );
            }
            // It is built with the programs for this machine.
            if let Ok(hello) = binaries::path("scaledapp-hello-rust") {
                return one_request(directory, &hello);
            }
            note("No request was tried: `cargo xtask build` makes the app that answers it.");
            Ok(())
        },
    )
}

/// Makes the kernel run programs for arm64 with qemu.
fn interpreter() -> anyhow::Result<()> {
    // The packages of other distributions register a qemu of another name themselves.
    if Path::new(INTERPRETERS).join(QEMU).exists() {
        return Ok(());
    }
    distribution::ensure(QEMU, &["qemu-user"])?;
    // Debian's package may just have registered it.
    if Path::new(INTERPRETERS).join(QEMU).exists() {
        return Ok(());
    }
    let register = Path::new(INTERPRETERS).join("register");
    if !register.exists() {
        let words = ["-t", "binfmt_misc", "binfmt_misc", INTERPRETERS];
        output_of(&OsString::from("mount"), &words).context("only root can mount binfmt_misc")?;
    }
    let path = binaries::on_path(QEMU).map_err(anyhow::Error::msg)?;
    let line = format!(":{QEMU}:M::{MAGIC}:{}:F", path.display());
    fs::write(&register, line).context("only root can register an interpreter")
}

/// A process that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends a request through a balancer and a supervisor to the sample app, which is a program of
/// this machine.
fn one_request(directory: &Path, hello: &Path) -> anyhow::Result<()> {
    let free = [
        ports::local()?,
        ports::local()?,
        ports::local()?,
        ports::local()?,
    ];
    let [app, app_admin, front, front_admin] = free;
    let port = app.port().to_string();
    let words = [
        "run",
        "--workers",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
    ];
    let _supervisor = start(
        &directory.join("scaledapp-sidecar"),
        &[
            &words[..],
            &[
                "--admin",
                &app_admin.to_string(),
                "--",
                &hello.to_string_lossy(),
            ],
        ]
        .concat(),
    )?;
    let (listen, upstream) = (front.to_string(), app.to_string());
    let words = ["run", "--listen", &listen, "--upstream", &upstream];
    let _balancer = start(
        &directory.join("scaledapp-balancer"),
        &[&words[..], &["--admin", &front_admin.to_string()]].concat(),
    )?;
    let request = Request::get("/");
    let answers = || {
        let answer = http::one_shot(front, Duration::from_secs(5), &request);
        answer.is_ok_and(|answer| answer.status == 200)
    };
    if wait::until_true(DEADLINE, "a request is answered", answers).is_err() {
        bail!("no request through balancer and supervisor was answered within {DEADLINE:?}");
    }
    Ok(())
}

fn start(program: &Path, words: &[&str]) -> anyhow::Result<Running> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn();
    Ok(Running(child.with_context(|| {
        format!("cannot start {}", program.display())
    })?))
}
