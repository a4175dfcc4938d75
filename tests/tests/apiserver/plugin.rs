//! The plugin `kubectl-scaledapp` as a user runs it, against a real API server: what it shows and
//! changes, its exit codes, and what it says where rights are missing.
//!
//! The admin ports of the simulated pods answer through `pods/proxy`, as those of real ones.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::process::{self, Ended, Process};
use scaledapp_tests::{binaries, wait};
use serde_json::{Value, json};

use crate::kubelet::Behaviour;
use crate::story::{SOON, Story, condition, story};

/// Time-out of one run.
const RUN: Duration = Duration::from_mins(2);

impl Story {
    fn plugin_command(&self, token: Option<&str>, words: &[&str]) -> Command {
        let config = match token {
            Some(token) => self.server.kubeconfig(
                &format!("reader-{}", self.namespace),
                token,
                &self.namespace,
            ),
            None => self.server.admin_kubeconfig(&self.namespace),
        };
        self.server.enter().unwrap();
        let mut command = Command::new(binaries::path("kubectl-scaledapp").unwrap());
        command.args(words).env("KUBECONFIG", config.unwrap());
        command.env_remove("NO_COLOR");
        command
    }

    /// Runs the plugin as the cluster's administrator.
    fn plugin(&self, words: &[&str]) -> Ended {
        process::run(self.plugin_command(None, words), RUN).unwrap()
    }

    /// Runs the plugin, which must end with this code.
    fn plugin_ends(&self, words: &[&str], code: i32) -> Ended {
        let ended = self.plugin(words);
        assert_eq!(
            ended.code, code,
            "{words:?}: {}\n{}",
            ended.stdout, ended.stderr
        );
        ended
    }
}

/// The `/status` of a supervisor with two workers, of which one crashes.
const CRASHING: &str = r#"{"desired":2,"ready":1,"generation":3,"mechanism":"notify","dispatch":"request","workers":[{"slot":0,"pid":7,"state":"Ready","generation":3,"restarts":0,"inFlight":4,"rssBytes":50000000,"lastExit":null}],"waiting":[{"slot":1,"state":"CrashLoop","restarts":8,"lastExit":{"code":3,"reason":"Exited","text":"exit code 3","time":"2026-11-29T22:14:10.090Z"}}]}"#;
const GOOD: &str = r#"{"desired":2,"ready":2,"generation":3,"mechanism":"notify","dispatch":"request","workers":[{"slot":0,"pid":7,"state":"Ready","generation":3,"restarts":0,"inFlight":4,"rssBytes":50000000,"lastExit":null},{"slot":1,"pid":8,"state":"Ready","generation":3,"restarts":0,"inFlight":0,"rssBytes":50000000,"lastExit":null}]}"#;

/// Pods of apps have two good workers, and balancers are ready.
fn good(pod: &Value) -> Behaviour {
    if is_app(pod) {
        Behaviour::Says(true, GOOD)
    } else {
        Behaviour::Ready(Duration::ZERO)
    }
}

fn is_app(pod: &Value) -> bool {
    pod["metadata"]["labels"]["app.kubernetes.io/component"] == "app"
}

#[test]
fn status_is_a_tree_of_slots_pods_and_workers() {
    let Some(story) = story("plugin-status", 2) else {
        return;
    };
    let none = story.plugin_ends(&["status"], 0);
    assert!(none.stderr.contains("no ScaledApp"), "{}", none.stderr);
    let missing = story.plugin_ends(&["status", "hello"], 1);
    assert!(
        missing.stderr.contains("there is no ScaledApp"),
        "{}",
        missing.stderr
    );
    story.rule(good);
    story.apply(
        "hello",
        "replicas: {total: 3}\nresources: {requests: {cpu: 100m}}",
    );
    let waited = story.plugin_ends(
        &["status", "hello", "--wait=Updated", "--timeout", "60s"],
        0,
    );
    assert!(waited.stdout.contains("hello  Ready"), "{}", waited.stdout);
    let shown = story.plugin_ends(&["status", "hello", "--quick"], 0).stdout;
    for part in [
        "3/3 pods",
        "├─ 0  10.201.",
        "by hello-lb-0-",
        "└─ + 3 pods, 6 workers ok",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "no colours into a pipe");

    // One worker of one pod crashes: that pod is shown, and the others stay folded.
    let ill = story.staying_pods("hello", "app")[0]["metadata"]["name"].clone();
    let of_ill = ill.clone();
    story.rule(
        move |pod| match (is_app(pod), pod["metadata"]["name"] == of_ill) {
            (true, true) => Behaviour::Says(true, CRASHING),
            (true, false) => Behaviour::Says(true, GOOD),
            (false, _) => Behaviour::Ready(Duration::ZERO),
        },
    );
    let shown = wait::until(SOON, "the crash is shown", || {
        let shown = story.plugin_ends(&["status", "hello", "--quick"], 0).stdout;
        if shown.contains("CrashLoop") && shown.contains("FewerWorkersReady") {
            Ok(shown)
        } else {
            Err(shown)
        }
    })
    .unwrap();
    for part in [
        ill.as_str().unwrap(),
        "1/2 workers",
        "worker 1  x  CrashLoop  8 restarts  the last one ended: exit code 3",
        "+ 2 pods, 4 workers ok",
        "Degraded FewerWorkersReady: ",
        "kubectl scaledapp explain FewerWorkersReady",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    formats(&story);
    let waited = story.plugin_ends(
        &[
            "status",
            "hello",
            "--wait=Degraded=False",
            "--timeout",
            "1s",
        ],
        1,
    );
    assert!(
        waited.stderr.contains("Degraded is not False within 1s"),
        "{}",
        waited.stderr
    );
    assert!(waited.stdout.contains("hello"), "the tree comes as well");
}

/// Gives the account `reader` of the story's namespace exactly these rights.
fn grant(story: &Story, rules: Value) {
    let mut role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "reader", "namespace": story.namespace},
    });
    role["rules"] = rules;
    story.try_apply(&role).unwrap();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reader", "namespace": story.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": story.namespace}],
    });
    story.try_apply(&binding).unwrap();
}

/// The formats for programs, while one pod lacks a worker.
fn formats(story: &Story) {
    let report = story
        .plugin_ends(&["status", "-o", "json", "--quick"], 0)
        .stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(report["apps"][0]["health"], "warning");
    assert_eq!(report["apps"][0]["pods"][0]["workersReady"], 1);
    let yaml = story
        .plugin_ends(&["status", "-o", "yaml", "--quick"], 0)
        .stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml["apps"][0]["name"], "hello");
    let names = story.plugin_ends(&["status", "-o", "name"], 0).stdout;
    assert_eq!(names, "scaledapp.scaledapp.io/hello\n");
}

#[test]
fn missing_rights_are_named_in_place_of_what_they_hide() {
    let Some(story) = story("plugin-rights", 1) else {
        return;
    };
    story.apply(
        "hello",
        "replicas: {total: 1}\nresources: {requests: {cpu: 100m}}",
    );
    story.wait_complete("hello");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": story.namespace}});
    story.try_apply(&account).unwrap();
    let role = |rules: Value| grant(&story, rules);
    role(
        json!([{"apiGroups": ["scaledapp.io"], "resources": ["scaledapps"], "verbs": ["get", "list"]}]),
    );
    let token = story.server.token(&story.namespace, "reader").unwrap();
    let run =
        |words: &[&str]| process::run(story.plugin_command(Some(&token), words), RUN).unwrap();
    let shown = wait::until(SOON, "the Role counts", || {
        let ended = run(&["status", "hello"]);
        if ended.code == 0 {
            Ok(ended.stdout)
        } else {
            Err(ended.stderr)
        }
    })
    .unwrap();
    assert!(shown.contains("1/1 pods"), "{shown}");
    assert!(shown.contains("? pods: may not list pods"), "{shown}");
    assert!(
        shown.contains("? who answers at the slots: may not list endpointslices"),
        "{shown}"
    );

    role(json!([
        {"apiGroups": ["scaledapp.io"], "resources": ["scaledapps"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]));
    let shown = wait::until(SOON, "the Role counts", || {
        let shown = run(&["status", "hello"]).stdout;
        if shown.contains("pods/proxy") {
            Ok(shown)
        } else {
            Err(shown)
        }
    })
    .unwrap();
    assert!(
        shown.contains("? workers (may not get pods/proxy)"),
        "{shown}"
    );

    let checked = run(&["check", "-o", "json"]);
    assert_eq!(checked.code, 2, "{}", checked.stdout);
    let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
    let findings = checked["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|it| it["findings"].as_array().unwrap());
    let texts: Vec<&str> = findings.filter_map(|it| it["text"].as_str()).collect();
    for text in [
        "may not get pods/proxy in \"plugin-rights\"; needed for: workers and rates in status, top, check",
        "not checked: may not get customresourcedefinitions",
    ] {
        assert!(texts.contains(&text), "{text} in {texts:#?}");
    }
    // With the flags of kubectl, the administrator has the rights of that account only.
    let user = format!("--as=system:serviceaccount:{}:reader", story.namespace);
    let shown = story.plugin_ends(&["status", "hello", &user], 0).stdout;
    assert!(shown.contains("may not get pods/proxy"), "{shown}");
    let refused = run(&["pause", "hello"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("cannot patch"),
        "{}",
        refused.stderr
    );
}

#[test]
fn check_finds_what_is_wrong_and_names_the_cure() {
    let Some(story) = story("plugin-check", 1) else {
        return;
    };
    story.rule(good);
    story.apply(
        "hello",
        "replicas: {total: 1}\nresources: {requests: {cpu: 100m}}",
    );
    story.wait_complete("hello");
    // The operator of this layer is a process without a pod, which `check` says.
    let run = || {
        let ended = story.plugin(&["check"]);
        (ended.code, ended.stdout)
    };
    let (code, shown) = run();
    assert_eq!(code, 1, "{shown}");
    for part in [
        "api server  ok  1.",
        "rights      ok  all 10 that this program uses",
        "crd         ok  v1alpha1, the same as this program's",
        "operator    ok  scaledapp-operator leads in scaledapp-system",
        "x   there are no pods of the operator in scaledapp-system",
        "admission   ok  \"plugin-check\" admits pods like an app's",
        "apps        ok  1 app ready",
        "slots       ok  2 of 2 addresses served",
        "workers     ok  2 of 2 ready",
        "kernel      ok  1 node: hand-over by seccomp",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    // Nothing was changed: the trial pod does not exist.
    assert!(story.list("/api/v1", "pods").iter().all(|pod| {
        !pod["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("scaledapp-trial")
    }));
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": story.namespace}, "spec": {"hard": {"pods": "1"}}});
    story.try_apply(&quota).unwrap();
    wait::until(SOON, "the quota is found", || {
        let (_, shown) = run();
        if shown.contains("exceeded quota") {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .unwrap();
    let wrong = story.plugin(&["check", "--context", "none"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert_eq!(story.plugin(&["check", "--nonsense"]).code, 64);
}

#[test]
fn scale_pause_and_restart_wait_until_they_are_done() {
    let Some(story) = story("plugin-scale", 2) else {
        return;
    };
    story.rule(|_| Behaviour::Ready(Duration::from_millis(500)));
    story.apply(
        "hello",
        "replicas: {total: 1}\nresources: {requests: {cpu: 100m}}",
    );
    story.wait_complete("hello");
    let scaled = story.plugin_ends(&["scale", "hello", "4"], 0);
    assert!(
        scaled.stdout.contains("scaledapp/hello: 4/4 pods"),
        "{}",
        scaled.stdout
    );
    assert!(
        scaled.stderr.contains("pods"),
        "progress: {}",
        scaled.stderr
    );
    assert_eq!(story.app("hello")["status"]["pods"], "4/4");

    let asked = Instant::now();
    let ended = story.plugin_ends(&["scale", "hello", "2", "--no-wait"], 0);
    assert!(ended.stdout.contains("asked for"), "{}", ended.stdout);
    assert!(asked.elapsed() < Duration::from_secs(5));
    story.wait("hello", "two pods", |app| app["status"]["pods"] == "2/2");

    story.plugin_ends(&["pause", "hello"], 0);
    assert_eq!(
        condition(&story.app("hello"), "Progressing").reason,
        "Paused"
    );
    let refused = story.plugin_ends(&["restart", "hello"], 1);
    assert!(
        refused.stderr.contains("kubectl scaledapp resume hello"),
        "{}",
        refused.stderr
    );
    story.plugin_ends(&["resume", "hello"], 0);

    let uids = || {
        let pods = story.staying_pods("hello", "app");
        pods.iter()
            .map(|pod| pod["metadata"]["uid"].to_string())
            .collect::<Vec<_>>()
    };
    let before = uids();
    let restarted = story.plugin_ends(&["restart", "hello"], 0);
    assert!(
        restarted.stdout.contains("2/2 pods"),
        "{}",
        restarted.stdout
    );
    let after = uids();
    assert!(
        before.iter().all(|uid| !after.contains(uid)),
        "{before:?} {after:?}"
    );

    // What will not come about in time is said, and what the API server refuses.
    story.rule(|_| Behaviour::Ready(Duration::from_mins(5)));
    let late = story.plugin_ends(&["scale", "hello", "3", "--timeout", "3s"], 1);
    assert!(
        late.stderr.contains("not done within 3s"),
        "{}",
        late.stderr
    );
    story.apply("per", "replicas: {perNode: 1}\nresources: {}");
    let refused = story.plugin_ends(&["scale", "per", "3"], 1);
    assert!(
        refused.stderr.contains("change perNode"),
        "{}",
        refused.stderr
    );
}

/// What a supervisor reports after a reload, by the reload token in the pod's annotation.
fn reloaded(pod: &Value, failed: bool) -> Behaviour {
    let token = &pod["metadata"]["annotations"]["scaledapp.io/reload"];
    let field = if failed { "reloadFailed" } else { "reloaded" };
    let said = match token.as_str() {
        Some(token) => format!(r#"{{"desired":1,"ready":1,"{field}":"{token}"}}"#),
        None => r#"{"desired":1,"ready":1}"#.to_owned(),
    };
    Behaviour::Says(true, said.leak())
}

#[test]
fn reload_goes_through_all_pods_and_fails_at_the_first_that_cannot() {
    let Some(story) = story("plugin-reload", 2) else {
        return;
    };
    let asked = std::sync::Arc::new(AtomicU32::new(0));
    let failing = asked.clone();
    story.rule(move |pod| {
        if is_app(pod) {
            reloaded(pod, failing.load(Ordering::Relaxed) > 0)
        } else {
            Behaviour::Ready(Duration::ZERO)
        }
    });
    story.apply(
        "hello",
        "replicas: {total: 3}\nresources: {requests: {cpu: 100m}}",
    );
    story.wait_complete("hello");
    let done = story.plugin_ends(&["reload", "hello"], 0);
    assert_eq!(done.stdout, "scaledapp/hello: 3 pods reloaded\n");
    assert!(
        done.stderr.contains("of 3 pods reloaded; hello-"),
        "{}",
        done.stderr
    );
    asked.store(1, Ordering::Relaxed);
    let failed = story.plugin_ends(&["reload", "hello"], 1);
    assert!(
        failed.stderr.contains("could not reload"),
        "{}",
        failed.stderr
    );
}

#[test]
fn watching_prints_each_change_and_ends_with_130_after_an_interrupt() {
    let Some(story) = story("plugin-watch", 1) else {
        return;
    };
    story.apply(
        "hello",
        "replicas: {total: 1}\nresources: {requests: {cpu: 100m}}",
    );
    story.wait_complete("hello");
    let words = ["status", "hello", "-w", "--quick", "--interval", "300ms"];
    let mut watching = Process::spawn(story.plugin_command(None, &words)).unwrap();
    let shows = |watching: &Process, part: &str| {
        wait::until(SOON, part, || {
            let shown = watching.stdout();
            if shown.contains(part) {
                Ok(())
            } else {
                Err(shown)
            }
        })
        .unwrap();
    };
    shows(&watching, "1/1 pods");
    story.plugin_ends(&["scale", "hello", "2"], 0);
    shows(&watching, "2/2 pods");
    let events = story.plugin_ends(&["events", "hello"], 0).stdout;
    assert!(events.contains("ScaledApp/hello"), "{events}");
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("bundle.tar.gz");
    let bundle = story.plugin_ends(
        &[
            "support-bundle",
            "hello",
            "--output-file",
            archive.to_str().unwrap(),
        ],
        0,
    );
    assert!(bundle.stderr.contains("files"), "{}", bundle.stderr);
    let mut tar = Command::new("tar");
    tar.args(["-tzf", archive.to_str().unwrap()]);
    let listed = process::run(tar, RUN).unwrap().stdout;
    assert!(
        listed.starts_with("scaledapp-bundle/manifest.json\n"),
        "{listed}"
    );
    assert!(
        listed.contains("scaledapps/plugin-watch/hello.json"),
        "{listed}"
    );
    watching.signal(Signal::INT).unwrap();
    let ended = watching.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(ended.code, 130, "{}", ended.stderr);
}
