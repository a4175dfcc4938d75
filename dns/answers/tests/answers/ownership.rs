//! Which namespace may have which name: by table, and for generated names.

use proptest::prelude::*;
use scaledapp_answers::{Binding, Ownership, Refusal};

fn ownership(bindings: &[&str]) -> Ownership {
    let bindings = bindings.iter().map(|text| text.parse::<Binding>().unwrap());
    Ownership::new(Some("apps.example".parse().unwrap()), bindings).unwrap()
}

/// One word for the result of a check.
fn verdict(ownership: &Ownership, hostname: &str, namespace: &str) -> &'static str {
    match ownership.check(hostname, namespace) {
        Ok(()) => "had",
        Err(Refusal::Name(_)) => "no name",
        Err(Refusal::Outside { .. }) => "outside",
        Err(Refusal::Reserved { .. }) => "reserved",
        Err(Refusal::Bound { .. }) => "bound",
    }
}

#[test]
fn no_app_gets_the_name_of_a_server_of_the_zone() {
    let servers = ["ns1.apps.example", "NS2.example.com"].map(|name| name.parse().unwrap());
    let ownership = ownership(&["team-a.apps.example=a"]).with_servers(servers);
    for (hostname, expected) in [
        ("ns1.apps.example", "reserved"),
        ("Ns1.Apps.example.", "reserved"),
        ("ns.apps.example", "reserved"),
        ("ns3.apps.example", "had"),
        ("x.ns1.apps.example", "had"),
        ("ns2.example.com", "outside"),
        ("*.apps.example", "reserved"),
    ] {
        assert_eq!(verdict(&ownership, hostname, "a"), expected, "{hostname}");
    }
}

#[test]
fn the_most_specific_zone_decides_and_other_names_are_open() {
    let ownership = ownership(&[
        "team-a.apps.example=a,shared",
        "open.team-a.apps.example=b",
        "closed.apps.example=",
    ]);
    for (hostname, namespace, expected) in [
        ("hello.apps.example", "a", "had"),
        ("hello.apps.example", "z", "had"),
        ("team-a.apps.example", "a", "had"),
        ("team-a.apps.example", "b", "bound"),
        ("x.team-a.apps.example", "shared", "had"),
        ("x.team-a.apps.example", "b", "bound"),
        ("X.Team-A.Apps.Example.", "b", "bound"),
        ("X.Team-A.Apps.Example.", "a", "had"),
        ("deep.x.team-a.apps.example", "z", "bound"),
        ("x.open.team-a.apps.example", "b", "had"),
        ("x.open.team-a.apps.example", "a", "bound"),
        ("x.closed.apps.example", "a", "bound"),
        // A longer label with the same ending is not in the zone.
        ("xteam-a.apps.example", "z", "had"),
        ("team-a.apps.example.apps.example", "z", "had"),
        ("apps.example", "a", "reserved"),
        ("APPS.example.", "a", "reserved"),
        ("ns.apps.example", "a", "reserved"),
        ("Ns.apps.example.", "a", "reserved"),
        ("x.ns.apps.example", "a", "had"),
        ("ns.team-a.apps.example", "a", "had"),
        ("hello.example", "a", "outside"),
        ("apps.example.org", "a", "outside"),
        ("myapps.example", "a", "outside"),
        ("example", "a", "outside"),
        ("", "a", "no name"),
        ("*", "a", "no name"),
        ("a.*.apps.example", "a", "no name"),
        ("*.*.apps.example", "a", "no name"),
        ("*.x.apps.example", "z", "had"),
        ("*.team-a.apps.example", "shared", "bound"),
        ("*.team-a.apps.example", "b", "bound"),
        ("*.open.team-a.apps.example", "b", "had"),
        ("*.open.team-a.apps.example", "a", "bound"),
        ("*.apps.example", "a", "reserved"),
        ("*.example", "a", "outside"),
    ] {
        let verdict = verdict(&ownership, hostname, namespace);
        assert_eq!(verdict, expected, "{hostname} for {namespace}");
    }
}

#[test]
fn without_a_served_zone_only_names_in_bound_zones_are_refused() {
    let bindings = ["a.example=a".parse().unwrap()];
    let ownership = Ownership::new(None, bindings).unwrap();
    for (hostname, expected) in [
        ("example", "had"),
        ("ns.example", "had"),
        ("x.a.example", "bound"),
        ("*.example", "bound"),
    ] {
        assert_eq!(verdict(&ownership, hostname, "z"), expected, "{hostname}");
    }
}

#[test]
fn a_refusal_names_the_cure() {
    let ownership = ownership(&["team-a.apps.example=a"]);
    for (hostname, part) in [
        (
            "x.Team-A.apps.example",
            "give a name outside of team-a.apps.example",
        ),
        ("x.example", "ends with .apps.example"),
        ("apps.example.", "such as my-app.apps.example"),
    ] {
        let message = ownership.check(hostname, "b").unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        // The message must not list the namespaces that may have the name.
        assert!(!message.contains('['), "{message}");
    }
}

#[test]
fn an_invalid_binding_is_refused() {
    for (text, part) in [
        ("team-a.apps.example", "write ZONE=NAMESPACE"),
        ("team-a.apps.example=A", "write ZONE=NAMESPACE"),
        ("=a", "names the root"),
        ("*.apps.example=a", "contains '*'"),
    ] {
        let message = text.parse::<Binding>().unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    let made = |texts: &[&str]| {
        let bindings = texts.iter().map(|text| text.parse::<Binding>().unwrap());
        Ownership::new(Some("apps.example".parse().unwrap()), bindings).map_err(|e| e.to_string())
    };
    let message = made(&["team-a.aps.example=a"]).unwrap_err();
    assert!(message.contains("outside of apps.example."), "{message}");
    let message = made(&["x.apps.example=a", "X.apps.example.=b"]).unwrap_err();
    assert!(message.contains("bound twice"), "{message}");
}

/// Names of up to three labels below the zone, from a small set, so that they often contain
/// each other.
fn name() -> impl Strategy<Value = String> {
    let label = prop_oneof![Just("a"), Just("b"), Just("ns")];
    proptest::collection::vec(label, 0..4).prop_map(|labels| {
        let labels = labels.into_iter().chain(["apps", "example"]);
        labels.collect::<Vec<_>>().join(".")
    })
}

/// The same name in another form.
fn written(name: String) -> impl Strategy<Value = String> {
    (any::<bool>(), any::<bool>()).prop_map(move |(upper, dot)| {
        let name = if upper {
            name.to_uppercase()
        } else {
            name.clone()
        };
        if dot { format!("{name}.") } else { name }
    })
}

/// All names of up to four labels below the zone: those that the generator can make, and
/// those below them.
fn universe() -> Vec<String> {
    let mut all = vec!["apps.example".to_owned()];
    let mut last = all.clone();
    for _ in 0..4 {
        last = last
            .iter()
            .flat_map(|name| ["a", "b", "ns"].map(|label| format!("{label}.{name}")))
            .collect();
        all.extend(last.clone());
    }
    all
}

/// Whether `name` is `zone` or below it, by its text.
fn contains(zone: &str, name: &str) -> bool {
    name == zone || name.ends_with(&format!(".{zone}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// A namespace that may have a wildcard may have each name that the wildcard stands for.
    /// Only the namespaces of a bound zone may have names in it.
    #[test]
    fn no_namespace_gets_a_name_in_a_zone_bound_to_others(
        zones in proptest::collection::btree_map(name(), proptest::sample::subsequence(vec!["x", "y"], 0..=2), 0..4),
        (hostname, as_written) in name().prop_flat_map(|name| (Just(name.clone()), written(name))),
        is_wildcard: bool,
        namespace in prop_oneof![Just("x"), Just("y"), Just("z")],
    ) {
        let bindings: Vec<Binding> = zones
            .iter()
            .map(|(zone, namespaces)| format!("{zone}={}", namespaces.join(",")).parse().unwrap())
            .collect();
        let ownership = Ownership::new(Some("apps.example".parse().unwrap()), bindings).unwrap();
        let may = |name: &str| {
            let around = zones.iter().filter(|(zone, _)| contains(zone, name));
            let deciding = around.max_by_key(|(zone, _)| zone.len());
            let is_reserved = ["apps.example", "ns.apps.example"].contains(&name);
            !is_reserved && deciding.is_none_or(|(_, namespaces)| namespaces.contains(&namespace))
        };
        let (asked, covered): (String, Vec<String>) = if is_wildcard {
            let below = |name: &String| *name != hostname && contains(&hostname, name);
            (format!("*.{as_written}"), universe().into_iter().filter(below).collect())
        } else {
            (as_written, vec![hostname.clone()])
        };
        let is_had = ownership.check(&asked, namespace).is_ok();
        prop_assert_eq!(is_had, covered.iter().all(|name| may(name)), "{} for {}", asked, namespace);
    }
}
