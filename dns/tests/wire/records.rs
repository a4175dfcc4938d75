//! The records file while the server runs.

use std::fs;

use hickory_proto::op::ResponseCode;
use scaledapp_tests::process::Signal;

use crate::server::{A, Server, ask, query, wait};

const ONE: &str = r#"{"hello.apps.local.":{"addresses":["10.0.0.1"]}}"#;
const TWO: &str = r#"{"hello.apps.local":{"ttl":7,"addresses":["10.0.0.2"]},"new.apps.local":{"addresses":["10.0.0.3"]}}"#;

#[test]
fn a_file_renamed_over_the_old_one_is_in_force_within_a_second() {
    let server = Server::start(ONE);
    server.wait_addresses("hello", &["10.0.0.1"]);
    server.replace(TWO);
    let took = server.wait_addresses("hello", &["10.0.0.2"]);
    assert!(took.as_millis() < 1000, "{took:?}");
    server.wait_addresses("new", &["10.0.0.3"]);
    assert_eq!(ask(server.address, &query(1, "hello", A)).answers[0].ttl, 7);
    server.replace(ONE);
    wait("the end of a name", || {
        ask(server.address, &query(1, "new", A))
            .metadata
            .response_code
            == ResponseCode::NXDomain
    });
}

#[test]
fn a_broken_file_changes_nothing_and_is_logged() {
    let server = Server::start(ONE);
    server.wait_addresses("hello", &["10.0.0.1"]);
    for (broken, reason) in [
        ("{", "not the JSON of a records file"),
        (
            r#"{"hello.example.com":{"addresses":["10.0.0.9"]}}"#,
            "hello.example.com. is outside the zone apps.local.",
        ),
        (
            r#"{"ns.apps.local":{"addresses":["10.0.0.9"]}}"#,
            "ns.apps.local. is the name of one of the zone's servers",
        ),
    ] {
        server.replace(broken);
        server.wait_log(reason).unwrap();
        server.wait_addresses("hello", &["10.0.0.1"]);
    }
    assert!(
        server
            .metrics()
            .contains("scaledapp_dns_records_loads_total{result=\"error\"} 3\n")
    );
    assert_eq!(server.get("/readyz").unwrap().status, 200);
    fs::remove_file(server.path()).unwrap();
    server.wait_log("No such file").unwrap();
    server.wait_addresses("hello", &["10.0.0.1"]);
    server.replace(TWO);
    server.wait_addresses("hello", &["10.0.0.2"]);
}

#[test]
fn until_the_first_good_file_queries_get_servfail_and_the_port_is_unready() {
    let server = Server::start_with("127.0.0.1:0", None, &[]);
    let code = || {
        ask(server.address, &query(1, "hello", A))
            .metadata
            .response_code
    };
    assert_eq!(code(), ResponseCode::ServFail);
    server.wait_log("cannot be used").unwrap();
    let answer = server.get("/readyz").unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("No such file"), "{answer:?}");
    server.replace("{");
    server.wait_log("not the JSON").unwrap();
    assert_eq!(code(), ResponseCode::ServFail);
    server.replace(ONE);
    server.wait_addresses("hello", &["10.0.0.1"]);
    server.wait_ready().unwrap();
}

#[test]
fn a_sighup_reads_the_file_again() {
    let server = Server::start(ONE);
    server.wait_ready().unwrap();
    server.wait_log("records loaded").unwrap();
    server.process.signal(Signal::HUP).unwrap();
    server.wait_log("records loaded").unwrap();
}

#[test]
fn status_shows_names_and_metrics_count_queries() {
    let server = Server::start(ONE);
    server.wait_addresses("hello", &["10.0.0.1"]);
    let json = server.get("/status").unwrap().text();
    assert!(
        json.contains(r#""hello.apps.local.":{"addresses":[{"address":"10.0.0.1","state":"unprobed"}],"published":["10.0.0.1"],"stale":false,"ttl":30}"#),
        "{json}"
    );
    let metrics = server.metrics();
    for line in [
        "scaledapp_dns_names 1\n",
        "scaledapp_dns_addresses{state=\"unprobed\"} 1\n",
        "scaledapp_dns_queries_total{type=\"A\",rcode=\"NOERROR\",transport=\"udp\"} ",
        "scaledapp_dns_records_age_seconds 0",
        "# EOF\n",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}
