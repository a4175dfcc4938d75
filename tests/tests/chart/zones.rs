//! Zones that are bound to namespaces.

use crate::{REGISTRY, flag, refused, rendered};

#[test]
fn the_operator_and_dns_get_the_same_zones() {
    let Some(objects) = rendered(&[
        "dns.zone=apps.example.",
        r#"dns.zones=[{"name":"team-a.apps.example","namespaces":["a","shared"]},
            {"name":"closed.apps.example.","namespaces":[]}]"#,
    ]) else {
        return;
    };
    for component in ["operator", "dns"] {
        assert_eq!(flag(&objects, component, "zone"), ["apps.example."]);
        assert_eq!(
            flag(&objects, component, "zone-namespaces"),
            ["team-a.apps.example=a,shared", "closed.apps.example="],
            "{component}"
        );
    }
    // Without the chart's DNS server there is no zone, so no hostname can be outside of it.
    let objects = rendered(&["dns.enabled=false"]).unwrap();
    assert_eq!(flag(&objects, "operator", "zone"), [""; 0]);
}

#[test]
fn zones_that_would_protect_nothing_are_refused() {
    for (zone, namespaces, part) in [
        (
            "team-a.aps.local",
            "{a}",
            "outside of dns.zone (apps.local)",
        ),
        ("xapps.local", "{a}", "outside of dns.zone (apps.local)"),
        ("Team-A.apps.local", "{a}", "/dns/zones/0/name"),
        ("*.apps.local", "{a}", "/dns/zones/0/name"),
        ("team-a.apps.local", "{A}", "/dns/zones/0/namespaces/0"),
        ("team-a.apps.local", "null", "/dns/zones/0"),
    ] {
        let name = format!("dns.zones[0].name={zone}");
        let namespaces = format!("dns.zones[0].namespaces={namespaces}");
        let Some(message) = refused(&[REGISTRY, &name, &namespaces]) else {
            return;
        };
        assert!(message.contains(part), "{zone}: {message}");
    }
    let twice = [
        REGISTRY,
        "dns.zones[0].name=a.apps.local",
        "dns.zones[0].namespaces={a}",
        "dns.zones[1].name=a.apps.local.",
        "dns.zones[1].namespaces={b}",
    ];
    let message = refused(&twice).unwrap();
    assert!(message.contains("twice"), "{message}");
}
