//! The zone's name servers: the flags of the DNS server and the operator, and the records for the
//! parent zone that the notes print.

use serde_json::{Value, json};

use crate::{NAMESPACE, REGISTRY, RELEASE, chart, find, flag, refused, rendered, run};

/// The values of the flags about name servers: `--ns` and `--ns-service` of the DNS server, `--ns`
/// of the operator.
fn flags(objects: &[Value]) -> [Vec<String>; 3] {
    [
        flag(objects, "dns", "ns"),
        flag(objects, "dns", "ns-service"),
        flag(objects, "operator", "ns"),
    ]
}

#[test]
fn without_names_the_server_has_the_addresses_of_the_service() {
    let Some(objects) = rendered(&[]) else { return };
    assert_eq!(
        flags(&objects),
        [vec![], vec!["scaledapp-dns".to_owned()], vec![]]
    );
    let role = find(&objects, "Role", "scaledapp-dns");
    assert_eq!(role["metadata"]["namespace"], NAMESPACE);
    let rules = json!([{
        "apiGroups": [""], "resources": ["services"],
        "resourceNames": ["scaledapp-dns"], "verbs": ["get"],
    }]);
    assert_eq!(role["rules"], rules);
    // The Service is named after the release, and the Role names the same Service.
    let objects = rendered(&["fullnameOverride=other"]).unwrap();
    let role = find(&objects, "Role", "other-dns");
    assert_eq!(role["rules"][0]["resourceNames"], json!(["other-dns"]));
}

#[test]
fn dns_and_operator_get_the_names_and_dns_reads_the_service_if_an_address_is_missing() {
    let zone = "dns.zone=apps.example";
    let given = r#"dns.nameservers=["ns1.apps.example=192.0.2.1","ns1.apps.example=2001:db8::1","ns.example."]"#;
    let Some(objects) = rendered(&[zone, given]) else {
        return;
    };
    let dns = [
        "ns1.apps.example=192.0.2.1",
        "ns1.apps.example=2001:db8::1",
        "ns.example.",
    ];
    let [ns, service, operator] = flags(&objects);
    assert_eq!(
        (&ns[..], &service[..]),
        (&dns.map(ToOwned::to_owned)[..], &[][..])
    );
    assert_eq!(operator, ["ns1.apps.example", "ns.example"]);
    let has_role = |objects: &[Value]| {
        objects
            .iter()
            .any(|it| it["kind"] == "Role" && it["metadata"]["name"] == "scaledapp-dns")
    };
    assert!(!has_role(&objects));
    let mixed = r#"dns.nameservers=["ns1.apps.example","ns2.apps.example=192.0.2.2"]"#;
    let objects = rendered(&[zone, mixed]).unwrap();
    assert_eq!(flag(&objects, "dns", "ns-service"), ["scaledapp-dns"]);
    assert!(has_role(&objects));
    // Values of an older release lack this key.
    let objects = rendered(&["dns.nameservers=null"]).unwrap();
    assert_eq!(flag(&objects, "dns", "ns-service"), ["scaledapp-dns"]);
    let objects = rendered(&["dns.enabled=false", zone, mixed]).unwrap();
    assert_eq!(flag(&objects, "operator", "ns"), [""; 0]);
}

#[test]
fn invalid_names_are_refused() {
    for (value, part) in [
        (
            "dns.nameservers={ns1.example.com=192.0.2.1}",
            "outside of dns.zone (apps.local)",
        ),
        ("dns.nameservers={NS1.apps.local}", "/dns/nameservers/0"),
        (
            "dns.nameservers={ns1.apps.local=here}",
            "/dns/nameservers/0",
        ),
        ("dns.nameservers={192.0.2.1=}", "/dns/nameservers/0"),
        (
            "dns.nameservers={ns.a.example,ns.a.example}",
            "/dns/nameservers",
        ),
        ("dns.nameservers=ns1.apps.local", "/dns/nameservers"),
    ] {
        let Some(message) = refused(&[REGISTRY, value]) else {
            return;
        };
        assert!(message.contains(part), "{value}: {message}");
    }
}

/// The notes that `helm install` prints when it ends.
fn notes(values: &[&str]) -> Option<String> {
    let chart = chart();
    let mut words = vec!["install", RELEASE, &chart, "--namespace", NAMESPACE];
    words.extend([
        "--dry-run=client",
        "--set",
        "crd.install=false",
        "--set",
        REGISTRY,
    ]);
    for value in values {
        words.extend(["--set", value]);
    }
    let ended = run(&words)?;
    assert_eq!(ended.code, 0, "{values:?}: {}", ended.stderr);
    let (_, notes) = ended.stdout.split_once("NOTES:\n").unwrap();
    Some(notes.to_owned())
}

#[test]
fn the_notes_print_the_records_for_the_parent_zone() {
    let zone = "dns.zone=apps.example.";
    let balanced = "dns.service.type=LoadBalancer";
    let Some(text) = notes(&[zone, balanced]) else {
        return;
    };
    for part in [
        "\n  apps.example.  NS  ns.apps.example.\n  ns.apps.example.  A  LOAD-BALANCER-ADDRESS\n",
        "get service scaledapp-dns -o jsonpath='{.status.loadBalancer.ingress[*].ip}'",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let servers =
        "dns.nameservers={ns1.apps.example=192.0.2.1,ns1.apps.example=2001:db8::1,ns.example}";
    let text = notes(&[zone, servers]).unwrap();
    let records = "\n  apps.example.  NS  ns1.apps.example.\n  apps.example.  NS  ns.example.\n  \
         ns1.apps.example.  A  192.0.2.1\n  ns1.apps.example.  AAAA  2001:db8::1\n";
    assert!(text.contains(records), "{text}");
    assert!(!text.contains("CLUSTER-IP"), "{text}");
    let text = notes(&[
        zone,
        "dns.service.type=NodePort",
        "dns.service.nodePort=30053",
    ])
    .unwrap();
    assert!(text.contains("ns.apps.example.  A  ADDRESS"), "{text}");
    assert!(text.contains("to port 30053 of the nodes"), "{text}");
    let text = notes(&[zone]).unwrap();
    assert!(text.contains("ns.apps.example.  A  CLUSTER-IP"), "{text}");
}
