//! The environment of a supervisor: PID 1, users, read-only roots, CPU quotas, memory.
//!
//! Some of these tests need root. Without it they are skipped, and the reason is printed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use scaledapp_tests::http::{self, Request};
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{fixtures, proc, process, wait};

use crate::{SOON, all_answer, has};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Whether a wrapper works here. If not, prints why the test is skipped.
fn allowed(wrapper: &[String]) -> bool {
    let mut command = Command::new(&wrapper[0]);
    command.args(&wrapper[1..]).arg("true");
    match process::run(command, SOON) {
        Ok(ended) if ended.code == 0 => true,
        Ok(ended) => {
            println!(
                "skipped: {} is refused here: {}",
                wrapper[0],
                ended.stderr.trim()
            );
            false
        }
        Err(error) => {
            println!("skipped: {error:#}");
            false
        }
    }
}

#[test]
fn as_pid_1_it_reaps_orphans() {
    let wrapper = words(&["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    if !has("node") || !allowed(&wrapper) {
        return;
    }
    let mut launch = Launch::of(|port| fixtures::node("grandchildren.js", port)).unwrap();
    launch.wrapper = wrapper;
    let sidecar = launch.with(&["--workers", "2"]).ready(2).unwrap();
    let supervisor = proc::children(sidecar.process.pid())[0];
    for _ in 0..20 {
        assert_eq!(http::get(sidecar.address(), "/orphan").unwrap().status, 200);
    }
    // Only the two workers and the watchdog remain. Every orphan has ended and is reaped.
    let left = || {
        let below = proc::descendants(supervisor);
        let names: Vec<String> = below.iter().map(|pid| proc::command_line(*pid)).collect();
        let quiet = proc::zombies(supervisor).is_empty()
            && !names.iter().any(|name| name.starts_with("sleep"));
        if quiet {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    };
    wait::until(SOON, "no zombie is left", left).unwrap();
    all_answer(sidecar.address(), &answering(&sidecar));
}

/// The workers' pids as the supervisor reports them. Supervisor and apps are in the same PID
/// namespace, so the apps report the same pids.
fn answering(sidecar: &scaledapp_tests::sidecar::Sidecar) -> Vec<u32> {
    sidecar.pids().unwrap()
}

#[test]
fn without_proc_the_message_says_what_to_mount() {
    let wrappers = [
        words(&["unshare", "--pid", "--fork", "--kill-child"]),
        words(&[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "umount -l /proc && exec \"$@\"",
            "sh",
        ]),
    ];
    for wrapper in wrappers {
        if !allowed(&wrapper) {
            continue;
        }
        let mut launch = Launch::of(|_| words(&["sleep", "1000"])).unwrap();
        launch.wrapper.clone_from(&wrapper);
        let ended = launch.run(SOON).unwrap();
        assert_eq!(ended.code, 2, "{wrapper:?}: {}", ended.stderr);
        let cure = "mount -t proc proc /proc";
        assert!(ended.stderr.contains(cure), "{wrapper:?}: {}", ended.stderr);
    }
}

#[test]
fn it_runs_as_any_user_with_a_read_only_root() {
    // This is as in a restricted pod: a numeric user, no capabilities, no new privileges, and no
    // writable file.
    let script = "mount -o remount,bind,ro / && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
                  --bounding-set -all --inh-caps -all --no-new-privs \"$@\"";
    let wrapper = words(&["unshare", "--mount", "sh", "-c", script, "sh"]);
    if !has("node") || !allowed(&wrapper) {
        return;
    }
    for dispatch in ["request", "connection"] {
        let mut launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
        launch.wrapper.clone_from(&wrapper);
        let sidecar = launch
            .with(&["--workers", "2", "--dispatch", dispatch])
            .ready(2)
            .unwrap();
        assert_eq!(sidecar.status().unwrap()["mechanism"], "notify");
        let answer = http::get(sidecar.address(), "/environment").unwrap().json();
        assert_eq!(answer["uid"], 65534);
        // The test runs as root, which may control the supervisor of another user.
        sidecar.ctl_done(&["reload"]).unwrap();
    }
}

#[test]
fn another_user_may_not_control_it() {
    let wrapper = words(&["setpriv", "--reuid", "65533", "--clear-groups"]);
    if !has("node") || !allowed(&wrapper) {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let mut command = Command::new(&wrapper[0]);
    command.args(&wrapper[1..]);
    command.arg(scaledapp_tests::binaries::path("scaledapp-sidecar").unwrap());
    let admin = sidecar.launch.admin.to_string();
    command.args(["ctl", "--admin", &admin, "scale", "2"]);
    let ended = process::run(command, SOON).unwrap();
    assert_eq!(ended.code, 1, "{ended:?}");
    let said = "only its own user and root may control it";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_eq!(sidecar.status().unwrap()["desired"], 1);
}

#[test]
fn the_supervisor_raises_its_limit_of_open_files_and_the_app_keeps_the_original_one() {
    if !has("python3") {
        return;
    }
    let mut launch = Launch::of(fixtures::python).unwrap();
    // Unlike Node and Go, Python does not change its limits.
    let script = "ulimit -Sn 500 && ulimit -Hn 700 && exec \"$@\"";
    launch.wrapper = words(&["sh", "-c", script, "sh"]);
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let soft = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.contains("open files"));
        let mut columns = line.unwrap().split_whitespace().skip(3);
        columns.next().map(str::to_owned).unwrap()
    };
    assert_eq!(soft(sidecar.process.pid()), "700");
    assert_eq!(soft(sidecar.pids().unwrap()[0]), "500");
}

#[test]
fn idle_connections_give_way_where_descriptors_are_short() {
    if !has("python3") {
        return;
    }
    let mut launch = Launch::of(fixtures::python).unwrap();
    launch.wrapper = words(&["sh", "-c", "ulimit -n 80 && exec \"$@\"", "sh"]);
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let open = || std::net::TcpStream::connect(sidecar.address()).unwrap();
    // There are more connections than descriptors. With enough descriptors, idle connections would
    // be kept open for more than a minute.
    let _idle: Vec<_> = (0..100).map(|_| open()).collect();
    let answer = http::one_shot(sidecar.address(), SOON, &Request::get("/"));
    assert_eq!(answer.map(|answer| answer.status), Ok(200));
    let said = "raise the limit of open files";
    assert!(sidecar.process.stderr().contains(said));
}

/// A cgroup v1 `cpu` group for this test, which is removed when the value is dropped.
struct CpuGroup(PathBuf);

impl CpuGroup {
    fn new() -> Option<Self> {
        let path = PathBuf::from(format!(
            "/sys/fs/cgroup/cpu/scaledapp-test-{}",
            std::process::id()
        ));
        match fs::create_dir(&path) {
            Ok(()) if path.join("cpu.cfs_quota_us").exists() => Some(Self(path)),
            Ok(()) => {
                println!("skipped: /sys/fs/cgroup/cpu is no cgroup v1 controller here");
                fs::remove_dir(&path).unwrap();
                None
            }
            Err(error) => {
                println!("skipped: no cgroup v1 cpu group can be made here: {error}");
                None
            }
        }
    }

    fn set(&self, cores: f64) {
        let quota = (cores * 100_000.0) as u64;
        fs::write(self.0.join("cpu.cfs_quota_us"), quota.to_string()).unwrap();
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        // A cgroup cannot be removed until its last process has been reaped.
        let removed = wait::until(SOON, "the cgroup is empty", || fs::remove_dir(&self.0));
        if let Err(error) = removed {
            println!("{} stays: {error:#}", self.0.display());
        }
    }
}

#[test]
fn the_worker_count_follows_the_cpu_quota_live() {
    if !has("node") {
        return;
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: one CPU cannot show a change");
        return;
    }
    let Some(group) = CpuGroup::new() else {
        return;
    };
    group.set(1.0);
    let mut launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec \"$@\"",
        group.0.display()
    );
    launch.wrapper = words(&["sh", "-c", &script, "sh"]);
    let mut sidecar = launch.ready(1).unwrap();
    group.set(2.0);
    let start = Instant::now();
    sidecar.wait_ready(2).unwrap();
    println!("1 → 2 CPUs to 2 ready workers: {:?}", start.elapsed());
    // 1.75 cores count as two, 1.5 as one.
    group.set(1.5);
    sidecar.wait_ready(1).unwrap();
    drop(sidecar);
    drop(group);
}

#[test]
fn the_worker_count_follows_the_affinity() {
    if !has("node") || !has("taskset") {
        return;
    }
    let mut launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    launch.wrapper = words(&["taskset", "-c", "0"]);
    launch.clone().ready(1).unwrap();
    launch.with(&["--workers", "3x"]).ready(3).unwrap();
}

#[test]
fn the_supervisor_stays_small() {
    if !has("go") {
        return;
    }
    let start = Instant::now();
    let launch = Launch::of(|port| fixtures::go(port).unwrap()).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    println!("start to one ready worker (go): {:?}", start.elapsed());
    let resident = |workers: &str| {
        sidecar.ctl_done(&["scale", workers]).unwrap();
        for _ in 0..50 {
            http::one_shot(sidecar.address(), SOON, &Request::post("/", b"x")).unwrap();
        }
        let bytes = proc::resident_bytes(sidecar.process.pid()).unwrap();
        println!(
            "supervisor with {workers} workers: {:.2} MiB resident",
            bytes as f64 / f64::from(1 << 20)
        );
        bytes
    };
    let few = resident("1");
    let many = resident("16");
    assert!(many <= 8 << 20, "{few} with one worker, {many} with 16");
    let before = proc::cpu_time(sidecar.process.pid()).unwrap();
    let idle = Instant::now();
    wait::until_true(SOON, "three seconds pass", || {
        idle.elapsed() >= Duration::from_secs(3)
    })
    .unwrap();
    let used = proc::cpu_time(sidecar.process.pid())
        .unwrap()
        .saturating_sub(before);
    println!("supervisor of 16 idle workers: {used:?} CPU in 3 s");
    assert!(
        used <= Duration::from_millis(90),
        "idle costs {used:?} in 3 s"
    );
}

#[test]
fn an_app_that_drops_to_another_user_is_handed_its_socket() {
    // These are Docker's default capabilities, which do not include CAP_SYS_PTRACE.
    let wrapper = words(&[
        "setpriv",
        "--bounding-set",
        "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
         +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap",
    ]);
    let drop = words(&[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]);
    let app = "require('http').createServer((q, s) => setTimeout(() => \
               s.end(JSON.stringify({pid: process.pid, uid: process.getuid()})), \
               q.url == '/slow' ? 500 : 0)).listen(+process.argv[1])";
    if !has("node") || !allowed(&[wrapper.clone(), drop.clone()].concat()) {
        return;
    }
    for dispatch in ["request", "connection"] {
        let launch = Launch::of(|port| {
            [drop.clone(), words(&["node", "-e", app, &port.to_string()])].concat()
        });
        let mut launch = launch
            .unwrap()
            .with(&["--workers", "2", "--dispatch", dispatch]);
        launch.wrapper.clone_from(&wrapper);
        let sidecar = launch.ready(2).unwrap();
        let answer = http::get(sidecar.address(), "/").unwrap().json();
        assert_eq!(answer["uid"], 65534, "{dispatch}");
        // The supervisor also sees the open connections of such an app, so it cuts off none.
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let to = sidecar.address();
                std::thread::spawn(move || http::get(to, "/slow"))
            })
            .collect();
        sidecar.ctl_done(&["reload"]).unwrap();
        for one in slow {
            assert_eq!(one.join().unwrap().unwrap().status, 200, "{dispatch}");
        }
    }
}
