//! Name servers of the zone that have the addresses of a Service.

use hickory_proto::op::ResponseCode;
use scaledapp_watch::testing::ApiServer;
use scaledapp_watch::testing::rights::granted;
use serde_json::{Value, json};

use crate::server::{AAAA, NS, Server, addresses_of, ask, query, wait};

fn service(kind: &str, cluster_ips: &[&str], balancer_ips: &[&str]) -> Value {
    let ingress = balancer_ips.iter().map(|ip| json!({"ip": ip}));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "front"},
        "spec": {"type": kind, "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips},
        "status": {"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}},
    })
}

fn rights() -> Value {
    let rights = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../charts/scaledapp/files/rights.yaml"
    );
    serde_saphyr::from_str(&std::fs::read_to_string(rights).unwrap()).unwrap()
}

#[test]
fn name_servers_in_the_zone_have_the_addresses_of_the_service() {
    let api = ApiServer::start();
    api.put(service("ClusterIP", &["10.96.0.53", "fd00::53"], &[]));
    let server = Server::start_in_cluster(&api.kubeconfig(), &["--ns-service=front"]);
    server.wait_ready().unwrap();
    server.wait_addresses("ns", &["10.96.0.53"]);
    let six = addresses_of(&ask(server.address, &query(1, "ns", AAAA)));
    assert_eq!(six, ["fd00::53".parse::<std::net::IpAddr>().unwrap()]);
    // A server's name exists even if it has no records of the type asked for (RFC 2308).
    let answer = ask(server.address, &query(1, "ns", NS));
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1));
    let status = server.get("/status").unwrap().json();
    let expected = json!({"ns.apps.local.": ["10.96.0.53", "fd00::53"]});
    assert_eq!(status["nameServers"], expected);
    // A change is applied, and the deletion of the Service changes nothing.
    api.put(service("LoadBalancer", &["10.96.0.53"], &["192.0.2.53"]));
    server.wait_addresses("ns", &["192.0.2.53"]);
    api.delete("default", "front");
    server.wait_log("\"front\\\" not found").unwrap();
    server.wait_addresses("ns", &["192.0.2.53"]);
    let used = api.used();
    let rights = rights();
    let service = granted(&rights["service"], None);
    assert!(used.is_superset(&service), "{used:?}");
    let all: std::collections::BTreeSet<_> = granted(&rights["dns"], None)
        .union(&service)
        .cloned()
        .collect();
    assert!(used.is_subset(&all), "{used:?}");
}

#[test]
fn without_the_right_to_read_the_service_all_other_names_are_answered() {
    let api = ApiServer::start();
    api.set_forbidden("default", true);
    let flags = ["--ns-service=front", "--ns=ns1.apps.local"];
    let records = r#"{"hello.apps.local":{"addresses":["10.0.0.1"]}}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), records).unwrap();
    let file = format!("--records-file={}", file.path().display());
    let more = ["--watch-namespace=other", &file];
    let server = Server::start_in_cluster(&api.kubeconfig(), &[&flags[..], &more].concat());
    server.wait_ready().unwrap();
    server.wait_addresses("hello", &["10.0.0.1"]);
    let status = server.get("/status").unwrap().json();
    let problem = status["problem"].as_str().unwrap();
    assert!(
        problem.contains("Service front") && problem.contains("may be read"),
        "{problem}"
    );
    assert_eq!(server.addresses("ns1"), [] as [std::net::IpAddr; 0]);
    api.set_forbidden("default", false);
    api.put(service("ClusterIP", &["10.96.0.53"], &[]));
    server.wait_addresses("ns1", &["10.96.0.53"]);
    wait("the end of the problem", || {
        server.get("/status").unwrap().json()["problem"].is_null()
    });
}
