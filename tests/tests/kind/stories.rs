//! Faults and changes of a running app, and what its clients may notice.

use std::collections::BTreeSet;

use scaledapp_tests::binaries;
use scaledapp_tests::cluster::Report;

use crate::{IMAGES, condition, hello, story};

fn none_failed(reports: &[Report]) {
    for report in reports {
        assert_eq!(report.failed(), 0, "{report}");
    }
}

#[test]
fn an_app_is_served_from_every_worker_through_every_slot_and_found_by_dns() {
    let Some(story) = story("serve") else { return };
    let start = std::time::Instant::now();
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();
    println!(
        "from apply to Ready: {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let app = story.app();
    assert_eq!(app["status"]["pods"], "2/2", "{}", app["status"]);
    // The operator queries the supervisors every other second.
    story
        .cluster
        .wait("all workers are known", || {
            Ok((story.app()["status"]["workers"]["summary"] == "4/4").then_some(()))
        })
        .unwrap();
    assert_eq!(app["status"]["serving"], "2/2", "{}", app["status"]);

    let reports = story.under_load("steady, from a node", || {});
    none_failed(&reports);
    for report in &reports {
        assert_eq!(report.answered_by(), 4, "{report}");
    }

    // Requests from within a pod are answered, too.
    let slots = story.slots();
    for slot in &slots {
        let url = format!("http://{slot}/");
        let pod = story.pods("app").remove(0);
        let said = story.kubectl(&["exec", &pod, "-c", "app", "--", "node", "-e",
            &format!("require('http').get('{url}', r => {{ console.log(r.statusCode); process.exit(r.statusCode === 200 ? 0 : 1) }})")]);
        assert!(said.contains("200"), "{said}");
    }

    // A balancer answers at the address of each A record, and the records are exactly the slots.
    let dns = story
        .cluster
        .get(&["-n", "scaledapp-system", "service", "scaledapp-dns"])
        .unwrap();
    let server = dns["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let script = format!(
        "const d = new (require('dns').promises.Resolver)(); d.setServers(['{server}']);\
         d.resolve4('{}').then(a => console.log(a.join(' ')), e => {{ console.log(e.code); process.exit(1) }})",
        story.hostname()
    );
    let expected: BTreeSet<String> = slots.iter().map(|slot| slot.ip().to_string()).collect();
    let pod = story.pods("app").remove(0);
    story
        .cluster
        .wait("DNS names all slots", || {
            let words = [
                "-n",
                &story.namespace,
                "exec",
                &pod,
                "-c",
                "app",
                "--",
                "node",
                "-e",
                &script,
            ];
            let said = story.cluster.kubectl(&words)?;
            let named: BTreeSet<String> = said.split_whitespace().map(str::to_owned).collect();
            Ok((named == expected).then_some(()))
        })
        .unwrap();
}

#[test]
fn faults_and_changes_fail_no_request_that_may_be_repeated() {
    let Some(story) = story("faults") else { return };
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();

    let reports = story.under_load("kill -9 of a worker", || {
        let pod = story.pods("app").remove(0);
        // The image has neither a shell nor `kill`, so Node sends the signal.
        let kill = "const fs = require('fs'); for (const p of fs.readdirSync('/proc').filter(x => /^[0-9]+$/.test(x))) \
                    try { const c = fs.readFileSync(`/proc/${p}/cmdline`, 'utf8'); \
                    if (c.startsWith('node\\0server.js')) { process.kill(Number(p), 'SIGKILL'); break; } } catch {}";
        story.kubectl(&["exec", &pod, "-c", "app", "--", "node", "-e", kill]);
    });
    for report in &reports {
        assert_eq!(report.failed_with("Get"), 0, "{report}");
        assert!(report.failed() <= 4, "{report}");
    }

    let reports = story.under_load("delete of an app pod", || {
        let pod = story.pods("app").remove(0);
        story.kubectl(&["delete", &pod, "--wait=false"]);
        story.wait_ready();
    });
    none_failed(&reports);

    let reports = story.under_load("kubectl scale to 3 and back to 2", || {
        for replicas in ["3", "2"] {
            story.kubectl(&[
                "scale",
                "scaledapp/hello",
                &format!("--replicas={replicas}"),
            ]);
            story.wait_ready();
        }
    });
    none_failed(&reports);

    let reports = story.under_load("kubectl apply of a new image", || {
        story.apply(&hello(IMAGES[1], ""));
        story.wait_ready();
    });
    none_failed(&reports);
    let images = story.kubectl(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/component=app",
        "-o",
        "jsonpath={.items[*].spec.containers[0].image}",
    ]);
    assert!(
        images.split_whitespace().all(|image| image == IMAGES[1]),
        "{images}"
    );

    let before = story.pods("app");
    let reports = story.under_load("workers 2 to 3, no pod restarted", || {
        story.apply(&hello(IMAGES[1], "").replace("count: 2", "count: 3"));
        story
            .cluster
            .wait("six workers", || {
                Ok((story.app()["status"]["workers"]["summary"] == "6/6").then_some(()))
            })
            .unwrap();
    });
    none_failed(&reports);
    assert_eq!(story.pods("app"), before);

    let reports = story.under_load("delete of a balancer pod", || {
        let pod = story.pods("balancer").remove(0);
        story.kubectl(&["delete", &pod, "--wait=false"]);
        story.wait_ready();
    });
    // The deleted balancer closes its connections in an orderly way, and another one takes over the
    // slot's address, so no connection is refused.
    for report in &reports {
        assert_eq!(report.failed_with("refused"), 0, "{report}");
        assert!(report.failed() <= 4, "{report}");
    }
}

#[test]
fn an_app_without_balancers_is_not_ready_and_a_deleted_app_leaves_nothing() {
    let Some(story) = story("end") else { return };
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();
    let selector = "app.kubernetes.io/instance=hello,app.kubernetes.io/component=balancer";
    // Until the replacements of all balancers serve, the app is not Ready.
    story.kubectl(&[
        "delete",
        "pods",
        "-l",
        selector,
        "--wait=false",
        "--grace-period=1",
    ]);
    story
        .cluster
        .wait("it is not ready", || {
            Ok((condition(&story.app(), "Ready") == "False").then_some(()))
        })
        .unwrap();
    story.wait_ready();
    // An app of the same name takes over the objects that the first app has left, so that its own
    // deletion removes them.
    story.kubectl(&["delete", "scaledapp", "hello", "--cascade=orphan"]);
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();
    let uid = story.app()["metadata"]["uid"].clone();
    story
        .cluster
        .wait("every object has its owner", || {
            let told = story.kubectl(&[
                "get",
                "serviceaccounts,configmaps",
                "-l",
                "app.kubernetes.io/instance=hello",
                "-o",
                "jsonpath={.items[*].metadata.ownerReferences[*].uid}",
            ]);
            let owners: Vec<&str> = told.split_whitespace().collect();
            Ok((owners.len() == 3 && owners.iter().all(|owner| uid == *owner)).then_some(()))
        })
        .unwrap();
    assert_eq!(condition(&story.app(), "Degraded"), "False");
    story.kubectl(&["delete", "scaledapp", "hello"]);
    story
        .cluster
        .wait("nothing is left", || {
            let kinds = "deployments,services,endpointslices,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,pods";
            let words = ["-n", &story.namespace, "get", kinds, "-l", "app.kubernetes.io/instance=hello", "-o", "name"];
            let left = story.cluster.kubectl(&words)?;
            if left.trim().is_empty() { Ok(Some(())) } else { anyhow::bail!("{left}") }
        })
        .unwrap();
}

#[test]
fn uninstalling_the_chart_leaves_apps_as_they_are_and_installing_it_takes_them_over() {
    let Some(story) = story("uninstall") else {
        return;
    };
    story.apply(&hello(IMAGES[0], ""));
    story.wait_ready();
    let system = ["--namespace", "scaledapp-system"];
    let helm = |words: &[&str]| story.cluster.helm(&[words, &system].concat()).unwrap();
    let mut values = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = helm(&["get", "values", "scaledapp", "--output", "yaml"]);
    std::io::Write::write_all(&mut values, text.as_bytes()).unwrap();
    let values = values.path().to_string_lossy().into_owned();
    let before = story.pods("app");
    let reports = story.under_load("helm uninstall", || {
        helm(&["uninstall", "scaledapp", "--wait"]);
    });
    none_failed(&reports);
    assert_eq!(story.pods("app"), before);
    assert_eq!(story.app()["metadata"]["name"], "hello");
    let chart = binaries::workspace().join("charts/scaledapp");
    let chart = chart.to_string_lossy();
    let install = ["install", "scaledapp", &chart, "--values", &values];
    helm(&[&install[..], &["--wait", "--timeout", "200s"]].concat());
    story.wait_ready();
    assert_eq!(story.pods("app"), before, "no pod was changed");
    let said = helm(&["test", "scaledapp"]);
    assert!(said.contains("Succeeded"), "{said}");
}

#[test]
fn an_app_in_another_language_needs_nothing_else() {
    let Some(story) = story("python") else {
        return;
    };
    let yaml = hello("localhost/scaledapp/hello-python:1", "")
        .replace("[node, server.js]", "[python3, server.py]");
    story.apply(&yaml);
    story.wait_ready();
    let reports = story.under_load("hello-python, reload of every pod", || {
        let reload = "scaledapp.io/reload=story";
        story.kubectl(&["annotate", "scaledapp", "hello", reload]);
        // The operator reports a reload by this event.
        story
            .cluster
            .wait("both pods have reloaded", || {
                let events = story.kubectl(&[
                    "get",
                    "events",
                    "-o",
                    "name",
                    "--field-selector",
                    "reason=Reloading",
                ]);
                Ok((!events.trim().is_empty()).then_some(()))
            })
            .unwrap();
        story.wait_ready();
    });
    none_failed(&reports);
}
