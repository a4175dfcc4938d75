//! Which upstream gets a request: zones, and servers that are new.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::SOON;

fn publish(file: &Path, endpoints: &Value) {
    let next = file.with_extension("next");
    fs::write(&next, serde_json::to_vec(endpoints).unwrap()).unwrap();
    fs::rename(&next, file).unwrap();
}

fn entry(name: &str, address: SocketAddr, zone: &str) -> Value {
    json!({"name": name, "address": address, "zone": zone})
}

/// How many of `count` requests were answered with `body`.
fn answers(balancer: &Balancer, body: &str, count: usize) -> usize {
    let answer = |_| http::get(balancer.address(), "/").unwrap().text();
    (0..count).map(answer).filter(|text| text == body).count()
}

#[test]
fn a_balancer_prefers_servers_of_its_zone_and_uses_the_others_when_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("endpoints.json");
    let (near, far) = (
        Upstream::answering("near").unwrap(),
        Upstream::answering("far").unwrap(),
    );
    let [here, there] = [
        entry("near", near.address(), "a"),
        entry("far", far.address(), "b"),
    ];
    publish(&file, &json!([here, there]));
    let launch = |options: &[&str]| {
        let source = ["--endpoints-file", file.to_str().unwrap()];
        Launch::new(&[&source, options].concat())
            .unwrap()
            .ready()
            .unwrap()
    };
    let near_first = launch(&["--zone", "a"]);
    assert_eq!(answers(&near_first, "near", 40), 40);
    // Without a zone, with a zone that has no server, and with an empty name.
    for options in [&[][..], &["--zone", "c"], &["--zone", ""]] {
        let any = launch(options);
        let both = answers(&any, "near", 60);
        assert!((10..50).contains(&both), "{options:?}: {both}");
    }
    publish(&file, &json!([there]));
    wait::until(SOON, "answers from the other zone", || {
        let text = http::get(near_first.address(), "/")
            .map_err(|failure| failure.to_string())?
            .text();
        if text == "far" { Ok(()) } else { Err(text) }
    })
    .unwrap();
}

#[test]
fn a_server_that_is_added_gets_few_requests_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("endpoints.json");
    let (old, new) = (
        Upstream::answering("old").unwrap(),
        Upstream::answering("new").unwrap(),
    );
    for (window, expected) in [("1h", 1..30), ("0s", 60..140)] {
        publish(&file, &json!([entry("old", old.address(), "a")]));
        let source = ["--endpoints-file", file.to_str().unwrap()];
        let options = [&source[..], &["--slow-start", window]].concat();
        let balancer = Launch::new(&options).unwrap().ready().unwrap();
        assert_eq!(answers(&balancer, "old", 20), 20);
        let both = json!([
            entry("old", old.address(), "a"),
            entry("new", new.address(), "a")
        ]);
        publish(&file, &both);
        wait::until(SOON, "an answer of the new server", || {
            let text = http::get(balancer.address(), "/")
                .map_err(|failure| failure.to_string())?
                .text();
            if text == "new" { Ok(()) } else { Err(text) }
        })
        .unwrap();
        let share = answers(&balancer, "new", 200);
        assert!(expected.contains(&share), "{window}: {share} of 200");
    }
    // The servers of a balancer's first list do not count as new.
    let source = ["--endpoints-file", file.to_str().unwrap()];
    let options = [&source[..], &["--slow-start", "1h"]].concat();
    let balancer = Launch::new(&options).unwrap().ready().unwrap();
    let share = answers(&balancer, "new", 200);
    assert!((60..140).contains(&share), "{share} of 200");
}
