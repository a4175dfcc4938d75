//! An app with a protocol of its own over TCP: connections to every slot reach the workers of all
//! pods, and a client that finishes its side gets the whole answer.

use std::collections::BTreeSet;

use crate::{IMAGES, Story, hello, story};

/// The app: the first line of each connection names the worker, then all bytes come back, and the
/// connection ends after the client's last byte.
const SERVER: &str = "require('net').createServer({allowHalfOpen: true}, socket => { \
    socket.on('error', () => {}); \
    socket.write(require('os').hostname() + ' ' + process.pid + '\\n'); \
    socket.pipe(socket) }).listen(process.env.PORT)";

/// Opens connections one after the other, sends half a megabyte on each and finishes the client's
/// side. Returns the workers that answered, and how many bytes came back on each connection.
fn echoed(story: &Story, slot: &std::net::IpAddr) -> anyhow::Result<BTreeSet<String>> {
    let pod = story.pods("app").remove(0);
    let script = format!(
        "let left = 24; const one = () => {{ let text = ''; \
         const socket = require('net').connect({{host: '{slot}', port: 3000, allowHalfOpen: true}}); \
         socket.on('data', data => text += data); \
         socket.on('error', error => {{ console.log('failed', error.code); process.exit() }}); \
         socket.on('end', () => {{ const [first, rest] = text.split('\\n'); \
         console.log(first + ' ' + rest.length); if (--left) one(); else process.exit() }}); \
         socket.end('x'.repeat(500000)) }}; one()"
    );
    let namespace = ["-n", &story.namespace];
    let words = ["exec", &pod, "-c", "app", "--", "node", "-e", &script];
    let told = story.cluster.kubectl(&[&namespace[..], &words].concat())?;
    Ok(told.lines().map(str::to_owned).collect())
}

#[test]
fn an_app_with_a_protocol_of_its_own_is_balanced_by_connection() {
    let Some(story) = story("tcp") else { return };
    let yaml = hello(IMAGES[0], "")
        .replace("[node, server.js]", &format!("[node, -e, {SERVER:?}]"))
        .replace(", readiness: {path: /healthz}", "")
        .replace("  port: 3000\n", "  port: 3000\n  appProtocol: tcp\n");
    story.apply(&yaml);
    story.wait_ready();
    for slot in story.slots().iter().map(std::net::SocketAddr::ip) {
        let mut all = BTreeSet::new();
        let what = "every worker has answered";
        let count = story.cluster.wait(what, || {
            all.extend(echoed(&story, &slot)?);
            anyhow::ensure!(
                all.iter().all(|line| line.ends_with(" 500000")),
                "an answer is not whole: {all:?}"
            );
            Ok((all.len() == 4).then_some(all.len()))
        });
        assert_eq!(count.unwrap(), 4, "2 pods with 2 workers each");
    }
}
