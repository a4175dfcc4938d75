//! Turns the `ScaledApp`s of a cluster into records. It has no I/O; [`crate::cluster`]
//! watches the objects.
//!
//! Only the fields that a name needs are read, so that neither another field nor one that this
//! version does not know can take a name out of DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use scaledapp_answers::{Name, Ownership, Records, Zone};
use scaledapp_crds::kubernetes::{ScaledApp, SlotStatus};
use scaledapp_crds::v1alpha1::AppProtocol;
use scaledapp_watch::{Key, Objects};
use serde::Deserialize;

use crate::records::Entry;

/// The port of a slot's Service, if the app speaks HTTP.
const SLOT_PORT: u16 = 80;
/// The port of an app that names none.
const APP_PORT: u16 = 3000;
/// Shortest and longest TTL that the definition allows. An object may be older than that rule.
const TTLS: [Duration; 2] = [Duration::from_secs(1), Duration::from_hours(24)];

/// The part of a `ScaledApp` that DNS needs.
#[derive(Debug, Clone, Deserialize, kube::Resource)]
#[resource(inherit = "ScaledApp")]
pub(crate) struct App {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    dns: Option<Dns>,
    #[serde(default)]
    app_protocol: Option<AppProtocol>,
    #[serde(default)]
    port: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
struct Dns {
    hostname: String,
    #[serde(default)]
    ttl: Option<scaledapp_crds::Duration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    hostname: Option<String>,
    balancers: Vec<SlotStatus>,
}

/// The rules for names: which ones the zone itself has, and which namespace may have the others.
#[derive(Debug)]
pub(crate) struct Naming {
    /// The zone with its own records only.
    pub(crate) bare: Zone,
    pub(crate) ownership: Ownership,
}

/// The objects, each in the last version that could be read.
#[derive(Debug, Default)]
pub(crate) struct Apps(BTreeMap<Key, App>);

/// The records of the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AppRecords {
    pub(crate) entries: Vec<Entry>,
    /// The objects left out, each with the reason.
    pub(crate) ignored: BTreeSet<String>,
}

impl Apps {
    /// Replaces the objects by the present ones. An object that cannot be read keeps its previous
    /// version; the errors are returned.
    pub(crate) fn take(&mut self, objects: &Objects<DeserializeGuard<App>>) -> BTreeSet<String> {
        let objects = objects.iter();
        self.replace(objects.map(|(key, DeserializeGuard(app))| (key, app.as_ref())))
    }

    fn replace<'a, E: std::fmt::Display>(
        &mut self,
        objects: impl Iterator<Item = (&'a Key, Result<&'a App, E>)>,
    ) -> BTreeSet<String> {
        let mut before = std::mem::take(&mut self.0);
        let mut unreadable = BTreeSet::new();
        for (key, app) in objects {
            match app {
                Ok(app) => {
                    self.0.insert(key.clone(), app.clone());
                }
                Err(error) => {
                    let (namespace, name) = key;
                    unreadable.insert(format!("{namespace}/{name} cannot be read: {error}"));
                    if let Some(app) = before.remove(key) {
                        self.0.insert(key.clone(), app);
                    }
                }
            }
        }
        unreadable
    }

    /// The records of all the objects for the zone.
    pub(crate) fn read<'a>(all: impl Iterator<Item = &'a Self>, naming: &Naming) -> AppRecords {
        let mut apps: Vec<_> = all.flat_map(|apps| apps.0.iter()).collect();
        // If two objects want a name, the older one gets it; if both have the same age, the first
        // by namespace and name gets it. An object without a creation time counts as the youngest.
        apps.sort_by_key(|(key, app)| {
            let time = app.metadata.creation_timestamp.as_ref();
            (time.is_none(), time.map(|time| time.0), *key)
        });
        let mut owners: BTreeMap<Name, &Key> = BTreeMap::new();
        let mut zone = naming.bare.clone();
        let mut read = AppRecords::default();
        for (key, app) in apps {
            let (namespace, object) = key;
            let mut ignore = |why: String| {
                read.ignored.insert(format!("{namespace}/{object}: {why}"));
            };
            let Some(hostname) = app.hostname() else {
                continue;
            };
            // Checked before age, so that an object that may not have a name blocks no other.
            if let Err(refusal) = naming.ownership.check(hostname, namespace) {
                ignore(refusal.to_string());
                continue;
            }
            let name: Name = match hostname.parse() {
                Ok(name) => name,
                Err(error) => {
                    ignore(format!("{error}"));
                    continue;
                }
            };
            if let Some((namespace, object)) = owners.get(&name) {
                ignore(format!(
                    "{name} is the name of {namespace}/{object}, which is older"
                ));
                continue;
            }
            // Fails for the name of one of the zone's servers.
            if let Err(error) = zone.insert(name.clone(), Records::new(Duration::ZERO)) {
                ignore(error.to_string());
                continue;
            }
            owners.insert(name.clone(), key);
            read.entries.push(app.entry(name));
        }
        read
    }
}

impl App {
    fn hostname(&self) -> Option<&str> {
        let wanted = self.spec.dns.as_ref().map(|dns| dns.hostname.as_str());
        let given = || self.status.as_ref()?.hostname.as_deref();
        wanted.or_else(given).filter(|name| !name.is_empty())
    }

    /// The port at which its slots serve. With another protocol than HTTP, clients know the
    /// app's own port.
    fn port(&self) -> u16 {
        match self.spec.app_protocol {
            Some(AppProtocol::Tcp) => self.spec.port.unwrap_or(APP_PORT),
            _ => SLOT_PORT,
        }
    }

    fn entry(&self, name: Name) -> Entry {
        let ttl = self.spec.dns.as_ref().and_then(|dns| dns.ttl);
        let [least, most] = TTLS;
        let ttl = ttl.map_or(
            Duration::from_secs(u64::from(scaledapp_wire::DEFAULT_TTL)),
            |ttl| ttl.0,
        );
        let slots = self.status.iter().flat_map(|status| &status.balancers);
        let (mut addresses, mut serving) = (Vec::new(), BTreeSet::new());
        for slot in slots {
            // The address is empty until the slot has one. It is a hostname if the cloud gives
            // load balancers only names; the operator reports that in a condition.
            let Ok(address) = slot.address.parse::<IpAddr>() else {
                continue;
            };
            if address.is_unspecified() || address.is_multicast() {
                continue;
            }
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            if slot.serving {
                serving.insert(address);
            }
        }
        let withdrawn = addresses.iter().copied();
        let withdrawn = withdrawn.filter(|address| !serving.contains(address));
        Entry {
            name,
            ttl: ttl.clamp(least, most),
            withdrawn: withdrawn.collect(),
            addresses,
            probe: Some(self.port()),
            vouched: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_answers::{Authority, NameServer};
    use serde_json::{Value, json};

    use super::*;

    fn naming() -> Naming {
        bound(&[])
    }

    /// Naming rules with zones bound to namespaces.
    fn bound(bindings: &[&str]) -> Naming {
        let bindings = bindings.iter().map(|text| text.parse().unwrap());
        let bare = zone();
        let ownership = Ownership::new(Some(bare.apex().clone()), bindings).unwrap();
        Naming { bare, ownership }
    }

    fn zone() -> Zone {
        let authority = Authority {
            serial: 1,
            ttl: TTLS[0],
            name_servers: vec![NameServer {
                name: "ns.apps.local".parse().unwrap(),
                addresses: Vec::new(),
            }],
        };
        Zone::new("apps.local".parse().unwrap(), authority).unwrap()
    }

    fn object(name: &str, created: &str, more: &Value) -> Value {
        let mut object = json!({
            "apiVersion": "scaledapp.io/v1alpha1",
            "kind": "ScaledApp",
            "metadata": {"namespace": "default", "name": name, "creationTimestamp": created},
        });
        for (key, value) in more.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    fn take(apps: &mut Apps, objects: &[Value]) -> BTreeSet<String> {
        let objects: Vec<(Key, DeserializeGuard<App>)> = objects
            .iter()
            .map(|object| {
                let word = |name: &str| object["metadata"][name].as_str().unwrap().to_owned();
                let key = (word("namespace"), word("name"));
                (key, serde_json::from_value(object.clone()).unwrap())
            })
            .collect();
        apps.replace(objects.iter().map(|(key, guard)| (key, guard.0.as_ref())))
    }

    fn read(objects: &[Value]) -> AppRecords {
        let mut apps = Apps::default();
        assert_eq!(take(&mut apps, objects), BTreeSet::new());
        Apps::read([&apps].into_iter(), &naming())
    }

    fn named(hostname: &str) -> Value {
        json!({"spec": {"dns": {"hostname": hostname}}})
    }

    fn names(read: &AppRecords) -> Vec<String> {
        read.entries
            .iter()
            .map(|entry| entry.name.to_string())
            .collect()
    }

    #[test]
    fn a_name_has_the_addresses_of_its_slots_and_its_ttl() {
        let more = json!({
            "spec": {
                "image": "x", "command": ["node"], "tomorrow": {"is": "another field"},
                "dns": {"hostname": "Hello.apps.local", "ttl": "7s"},
            },
            "status": {
                "hostname": "other.apps.local",
                "balancers": [
                    {"slot": 0, "address": "10.96.7.11", "serving": true},
                    {"slot": 1, "address": "10.96.7.12", "serving": false},
                    {"slot": 2, "address": "", "serving": true},
                    {"slot": 3, "address": "lb.example.com", "serving": true},
                    {"slot": 4, "address": "fd00::1", "serving": true},
                    {"slot": 5, "address": "0.0.0.0", "serving": true},
                    {"slot": 6},
                ],
            },
        });
        let probe = |spec: Value| {
            let mut more = more.clone();
            more["spec"] = spec;
            read(&[object("hello", EARLY, &more)]).entries[0].probe
        };
        let tcp = json!({"appProtocol": "tcp", "dns": {"hostname": "hello.apps.local"}});
        assert_eq!(probe(tcp), Some(3000));
        let tcp = json!({"appProtocol": "tcp", "port": 6379, "dns": {"hostname": "a.apps.local"}});
        assert_eq!(probe(tcp), Some(6379));
        let read = read(&[object("hello", EARLY, &more)]);
        let expected = Entry {
            name: "hello.apps.local".parse().unwrap(),
            ttl: Duration::from_secs(7),
            addresses: ["10.96.7.11", "10.96.7.12", "fd00::1"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            withdrawn: BTreeSet::from(["10.96.7.12".parse().unwrap()]),
            probe: Some(80),
            vouched: true,
        };
        assert_eq!(read.entries, [expected]);
        assert_eq!(read.ignored, BTreeSet::new());
    }

    #[test]
    fn the_name_comes_from_the_spec_otherwise_from_the_status() {
        let given = json!({"spec": {}, "status": {"hostname": "given.apps.local"}});
        let read = read(&[
            object("a", EARLY, &given),
            object("b", EARLY, &json!({"spec": {}, "status": null})),
            object("c", EARLY, &named("wanted.apps.local.")),
        ]);
        assert_eq!(names(&read), ["given.apps.local.", "wanted.apps.local."]);
        assert_eq!(read.entries[0].ttl, Duration::from_secs(30));
        assert_eq!(read.entries[1].addresses, [] as [IpAddr; 0]);
        assert_eq!(read.ignored, BTreeSet::new());
    }

    #[test]
    fn a_ttl_outside_the_allowed_range_is_clamped() {
        for (ttl, seconds) in [("0s", 1), ("500ms", 1), ("90s", 90), ("48h", 86_400)] {
            let more = json!({"spec": {"dns": {"hostname": "a.apps.local", "ttl": ttl}}});
            let read = read(&[object("a", EARLY, &more)]);
            assert_eq!(read.entries[0].ttl, Duration::from_secs(seconds), "{ttl}");
        }
    }

    #[test]
    fn a_name_wanted_by_two_goes_to_the_older_object_then_by_name() {
        let young = object("a", LATE, &named("x.apps.local"));
        let old = object("b", EARLY, &named("X.apps.local"));
        let as_old = object("c", EARLY, &named("x.apps.local"));
        for objects in [
            [young.clone(), old.clone(), as_old.clone()],
            [as_old, old, young],
        ] {
            let read = read(&objects);
            assert_eq!(names(&read), ["x.apps.local."]);
            let expected = ["a", "c"].map(|object| {
                format!("default/{object}: x.apps.local. is the name of default/b, which is older")
            });
            assert_eq!(read.ignored, BTreeSet::from(expected));
        }
    }

    #[test]
    fn names_that_cannot_be_served_are_left_out_with_the_reason() {
        let read = read(&[
            object("a", EARLY, &named("a.example.com")),
            object("b", EARLY, &named("ns.apps.local")),
            object("c", EARLY, &named("a..apps.local")),
            object("d", EARLY, &named("d.apps.local")),
            object("e", EARLY, &named("apps.local.")),
        ]);
        assert_eq!(names(&read), ["d.apps.local."]);
        let ignored: Vec<_> = read.ignored.into_iter().collect();
        for (line, part) in ignored.iter().zip([
            "default/a: a.example.com is outside of apps.local",
            "default/b: ns.apps.local belongs to the DNS of apps.local itself",
            "default/c: ",
            "default/e: apps.local belongs to the DNS of apps.local itself",
        ]) {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(ignored.len(), 4);
    }

    #[test]
    fn a_bound_zone_holds_names_of_its_namespaces_only_whatever_the_age_of_others() {
        let mut thief = object("thief", EARLY, &named("X.team-a.apps.local."));
        thief["metadata"]["namespace"] = json!("b");
        let mut owner = object("owner", LATE, &named("x.team-a.apps.local"));
        owner["metadata"]["namespace"] = json!("a");
        // The name comes from the status, because the spec has none.
        let given = json!({"spec": {}, "status": {"hostname": "y.team-a.apps.local"}});
        let open = object("open", LATE, &named("open.apps.local"));
        let objects = [thief, owner.clone(), open, object("given", EARLY, &given)];
        let mut apps = Apps::default();
        take(&mut apps, &objects);
        let read = Apps::read([&apps].into_iter(), &bound(&["team-a.apps.local=a"]));
        let mut entries = names(&read);
        entries.sort();
        assert_eq!(entries, ["open.apps.local.", "x.team-a.apps.local."]);
        let refused: Vec<_> = read.ignored.iter().map(String::as_str).collect();
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].starts_with("b/thief: names in team-a.apps.local belong"));
        assert!(refused[1].starts_with("default/given: names in team-a.apps.local belong"));
    }

    #[test]
    fn an_unreadable_object_keeps_its_last_version_and_affects_no_other() {
        let broken = |name: &str| object(name, EARLY, &json!({"spec": {"dns": {"hostname": 7}}}));
        let mut apps = Apps::default();
        let unreadable = take(
            &mut apps,
            &[broken("a"), object("b", EARLY, &named("b.apps.local"))],
        );
        assert!(
            unreadable
                .first()
                .unwrap()
                .starts_with("default/a cannot be read: ")
        );
        assert_eq!(
            names(&Apps::read([&apps].into_iter(), &naming())),
            ["b.apps.local."]
        );
        take(&mut apps, &[broken("b")]);
        assert_eq!(
            names(&Apps::read([&apps].into_iter(), &naming())),
            ["b.apps.local."]
        );
        take(&mut apps, &[]);
        assert_eq!(names(&Apps::read([&apps].into_iter(), &naming())), [""; 0]);
    }
}
