//! An app that speaks only HTTP/2, as servers of gRPC do: calls of one connection go to the workers
//! of all pods, and a client with a cookie stays with one worker.

use std::collections::BTreeSet;

use crate::{IMAGES, Story, hello, story};

/// The app: each answer has the name of the pod and the number of the process.
const SERVER: &str = "require('http2').createServer((request, response) => \
    response.end(require('os').hostname() + ' ' + process.pid)).listen(process.env.PORT)";

/// Sends requests over one connection, each with the cookie `cookie`. Returns the answers, and the
/// last cookie that was set.
fn answers(story: &Story, cookie: &str) -> anyhow::Result<(BTreeSet<String>, String)> {
    let pod = story.pods("app").remove(0);
    let slot = story.slots()[0];
    let script = format!(
        "const session = require('http2').connect('http://{slot}'); let left = 40, last = ''; \
         const one = () => {{ const stream = session.request({{':path': '/', cookie: '{cookie}'}}); \
         let text = ''; stream.on('response', head => last = head['set-cookie']?.[0] ?? last); \
         stream.on('data', data => text += data); stream.on('end', () => {{ console.log(text); \
         if (--left) one(); else {{ console.log(last.split(';')[0]); process.exit() }} }}) }}; one()"
    );
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
    let told = story.cluster.kubectl(&words)?;
    let mut lines: Vec<String> = told.lines().map(str::to_owned).collect();
    let cookie = lines.pop().unwrap_or_default();
    Ok((lines.into_iter().collect(), cookie))
}

#[test]
fn an_app_that_speaks_only_http2_is_balanced_over_its_workers() {
    let Some(story) = story("h2c") else { return };
    let yaml = hello(IMAGES[0], "")
        .replace("[node, server.js]", &format!("[node, -e, \"{SERVER}\"]"))
        .replace("port: 3000", "port: 3000\n  appProtocol: h2c")
        .replace(
            "balancers: {replicas: 2}",
            "balancers: {replicas: 2, stickiness: {cookie: STORY}}",
        );
    story.apply(&yaml);
    story.wait_ready();
    let what = "calls reach all four workers";
    let (seen, cookie) = story
        .cluster
        .wait(what, || {
            let (seen, cookie) = answers(&story, "")?;
            Ok((seen.len() == 4).then_some((seen, cookie)))
        })
        .unwrap();
    assert!(cookie.starts_with("STORY=v1."), "{cookie}");
    let (mine, again) = answers(&story, &cookie).unwrap();
    assert_eq!(mine.len(), 1, "{mine:?}");
    assert!(
        mine.is_subset(&seen) && again.is_empty(),
        "{mine:?} {again}"
    );
    // The reload replaces the client's worker, but the slot remains.
    story.kubectl(&["annotate", "scaledapp", "hello", "scaledapp.io/reload=now"]);
    story
        .cluster
        .wait("the client follows its slot", || {
            let (now, again) = answers(&story, &cookie)?;
            Ok((now.len() == 1 && now.is_disjoint(&mine) && again.is_empty()).then_some(()))
        })
        .unwrap();
}
