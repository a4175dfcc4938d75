//! TLS that the object alone configures: a Secret that is created late, two balancers that use it,
//! and a certificate that is replaced.

use crate::authority::Authority;
use crate::{IMAGES, Story, hello, story};

/// A Secret as `kubectl create secret tls` makes it, with a certificate for `host`.
fn secret(authority: &Authority, host: &str) -> String {
    let (certificate, key) = authority.sign(host);
    let indented = |pem: &str| pem.trim_end().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: hello-tls}}\ntype: kubernetes.io/tls\nstringData:\n\
         \x20 tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&certificate),
        indented(&key)
    )
}

/// Runs a script in a pod of the app.
fn node(story: &Story, script: &str) -> anyhow::Result<String> {
    let pod = story.pods("app").remove(0);
    let namespace = ["-n", &story.namespace];
    let words = ["exec", &pod, "-c", "app", "--", "node", "-e", script];
    story.cluster.kubectl(&[&namespace[..], &words].concat())
}

#[test]
fn a_secret_is_all_that_https_needs() {
    let Some(story) = story("tls") else { return };
    let authority = Authority::new();
    let host = story.hostname();
    let yaml = hello(IMAGES[0], "").replace(
        "balancers: {replicas: 2}",
        "balancers: {replicas: 2, tls: {secretName: hello-tls}}",
    );
    story.apply(&yaml);
    story
        .cluster
        .wait("the status names the Secret that is missing", || {
            let told = story.app()["status"]["conditions"].to_string();
            Ok(told.contains("hello-tls").then_some(()))
        })
        .unwrap();
    story
        .cluster
        .apply(&story.namespace, &secret(&authority, &host))
        .unwrap();
    story.wait_ready();

    let ca = authority.issuer.pem().replace('\n', "\\n");
    // Returns the fingerprint of the certificate that a client which trusts the authority gets.
    let shown = |slot: &std::net::IpAddr| {
        let script = format!(
            "require('https').get({{host: '{slot}', port: 443, servername: '{host}', ca: '{ca}', \
             headers: {{host: '{host}'}}}}, r => {{ console.log(r.statusCode, \
             r.socket.getPeerCertificate().fingerprint256); process.exit() }})"
        );
        let told = node(&story, &script)?;
        let (status, fingerprint) = told.trim().split_once(' ').unwrap();
        assert_eq!(status, "200", "{told}");
        anyhow::Ok(fingerprint.to_owned())
    };
    let slots: Vec<_> = story.slots().iter().map(std::net::SocketAddr::ip).collect();
    // A balancer may serve some time before every node forwards the slot's new port.
    let first: Vec<String> = slots
        .iter()
        .map(|slot| {
            let what = "the slot serves https";
            story.cluster.wait(what, || shown(slot).map(Some)).unwrap()
        })
        .collect();
    assert_eq!(first[0], first[1]);
    for slot in &slots {
        let script = format!(
            "require('http').get('http://{slot}/a?b', r => {{ console.log(r.statusCode, r.headers.location); process.exit() }})"
        );
        assert_eq!(
            node(&story, &script).unwrap().trim(),
            format!("308 https://{slot}/a?b")
        );
    }

    // The kubelet updates the files in the pods within a minute or two.
    story
        .cluster
        .apply(&story.namespace, &secret(&authority, &host))
        .unwrap();
    let begun = std::time::Instant::now();
    story
        .cluster
        .wait("every balancer shows the new certificate", || {
            let mut are_new = true;
            for slot in &slots {
                are_new &= shown(slot)? != first[0];
            }
            Ok(are_new.then_some(()))
        })
        .unwrap();
    println!(
        "the new certificate after {:.0} s",
        begun.elapsed().as_secs_f64()
    );
}
