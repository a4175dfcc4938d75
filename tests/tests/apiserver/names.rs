//! Tests of hostnames with a real API server: which app gets a name, what the status of the
//! other apps says, and what the DNS server answers with the rights of the chart.

use std::net::{IpAddr, SocketAddr};

use scaledapp_tests::dns::{Transport, Type, ask};
use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::server::{SYSTEM, Server};
use crate::story::{SOON, Story, condition, story};

const DNS: &str = "127.0.0.1:5300";
const ADMIN: u16 = 9996;
const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

fn apply(story: &Story, name: &str, hostname: &str) {
    let fields = format!("{{replicas: {{total: 1}}, dns: {{hostname: {hostname}}}}}");
    story.apply(name, &fields);
}

/// The message about an app's hostname; empty if nothing is wrong with it.
fn message(story: &Story, name: &str, reason: &str) -> String {
    let app = story.wait(name, reason, |app| {
        condition(app, "Degraded").reason == reason
    });
    condition(&app, "Degraded").message
}

fn code(name: &str) -> u8 {
    let server: SocketAddr = DNS.parse().unwrap();
    ask(server, Transport::Udp, name, Type::A).unwrap().code
}

/// Creates the Service in front of DNS. Returns its address.
fn service(server: &Server) -> IpAddr {
    let made = server.api.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "scaledapp-dns", "namespace": SYSTEM},
        "spec": {"ports": [{"port": 53, "protocol": "UDP"}]},
    }));
    let made = made.unwrap();
    made["spec"]["clusterIP"].as_str().unwrap().parse().unwrap()
}

/// Checks that the DNS server has the addresses of the app's slots for a name.
fn assert_is_of(story: &Story, app: &str, name: &str) {
    let slots = |app: &Value| -> Vec<Value> {
        let balancers = app["status"]["balancers"].as_array();
        let balancers = balancers.into_iter().flatten();
        balancers.map(|slot| slot["address"].clone()).collect()
    };
    let known = |status: &Value| -> Vec<Value> {
        let addresses = status["names"][format!("{name}.")]["addresses"].as_array();
        let addresses = addresses.into_iter().flatten();
        addresses.map(|it| it["address"].clone()).collect()
    };
    wait::until(SOON, "DNS has the addresses of the slots", || {
        let slots = slots(&story.app(app));
        let status = story
            .server
            .admin(ADMIN, "/status")
            .map_err(|error| error.to_string())?;
        if !slots.is_empty() && slots == known(&status) {
            Ok(())
        } else {
            Err(format!("{slots:?} but {}", status["names"]))
        }
    })
    .unwrap();
}

#[test]
fn a_hostname_goes_to_a_permitted_app_and_the_status_of_the_others_says_why_not() {
    let (Some(a), Some(b)) = (story("names-a", 1), story("names-b", 2)) else {
        return;
    };
    let address = service(a.server);
    let flags = [
        &format!("--listen={DNS}"),
        "--ns-service=scaledapp-dns",
        &format!("--admin=127.0.0.1:{ADMIN}"),
    ];
    let dns = a.server.start_dns(&flags).unwrap();
    // `thief` is older than `owner`, which is in the namespace that the name belongs to.
    apply(&b, "thief", "x.own.apps.test");
    apply(&b, "apex", "apps.test");
    apply(&b, "server", "ns1.apps.test");
    apply(&b, "outside", "x.example.test");
    // If `first` and `second` are created within the same second, the namespace decides which one
    // counts as older.
    apply(&a, "first", "same.apps.test");
    apply(&a, "owner", "x.own.apps.test");
    apply(&b, "second", "same.apps.test");
    for (story, name, reason, part) in [
        (
            &b,
            "thief",
            "HostnameRefused",
            "dns.zones in the values of the chart",
        ),
        (
            &b,
            "apex",
            "HostnameReserved",
            "give a name below apps.test",
        ),
        (
            &b,
            "server",
            "HostnameReserved",
            "give a name below apps.test",
        ),
        (
            &b,
            "outside",
            "HostnameOutsideZones",
            "ends with .apps.test",
        ),
        (&b, "second", "HostnameTaken", "names-a/first"),
    ] {
        let message = message(story, name, reason);
        assert!(message.contains(part), "{name}: {message}");
    }
    assert_is_of(&a, "owner", "x.own.apps.test");
    assert_is_of(&a, "first", "same.apps.test");
    for (name, expected) in [
        ("x.own.apps.test", NOERROR),
        ("own.apps.test", NOERROR),
        ("same.apps.test", NOERROR),
        ("apps.test", NOERROR),
        ("nobody.apps.test", NXDOMAIN),
        ("x.example.test", REFUSED),
    ] {
        assert_eq!(code(name), expected, "{name}\n{}", dns.stderr());
    }
    // The address of the name server is that of the Service.
    let answer = ask(
        DNS.parse().unwrap(),
        Transport::Tcp,
        "ns1.apps.test",
        Type::A,
    )
    .unwrap();
    let addresses: Vec<IpAddr> = answer.addresses.iter().map(|(ip, _)| *ip).collect();
    assert_eq!(addresses, [address]);
    // Once the older app is deleted, the younger app gets the name.
    let none = json!({});
    a.server.api.delete(&a.app_path("first"), &none).unwrap();
    assert_is_of(&b, "second", "same.apps.test");
    b.wait("second", "nothing is wrong any longer", |app| {
        condition(app, "Degraded").status == "False"
    });
}

#[test]
fn the_token_of_dns_reads_apps_and_only_its_own_service() {
    let Some(story) = story("dns-token", 1) else {
        return;
    };
    service(story.server);
    let dns = story.server.as_account(SYSTEM, "scaledapp-dns").unwrap();
    let own = format!("/api/v1/namespaces/{SYSTEM}/services");
    let apps = "/apis/scaledapp.io/v1alpha1/scaledapps";
    for path in [apps, &format!("{own}/scaledapp-dns")] {
        dns.get(path).unwrap();
    }
    for path in [
        own.clone(),
        format!("{own}/scaledapp-operator"),
        story.at("/api/v1", "services/scaledapp-dns"),
        story.at("/api/v1", "pods"),
        story.at("/api/v1", "secrets"),
    ] {
        let refused = dns.get(&path).unwrap_err();
        assert_eq!(refused.code, 403, "{path}");
    }
    let service = format!("{own}/scaledapp-dns");
    let change = dns.merge(&service, &json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(change.unwrap_err().code, 403);
}
