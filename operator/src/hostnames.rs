//! Which app gets a hostname: the oldest of the apps that want it and may have it.
//!
//! `scaledapp_answers` decides which apps may have a hostname, for the operator and the DNS
//! server alike.

use std::collections::HashMap;

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use scaledapp_answers::{Ownership, Refusal};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster::Stalled;

use crate::stores::Guarded;

/// The hostname that an app wants, in the form in which hostnames are compared.
pub fn hostname(app: &ScaledApp) -> Option<String> {
    let hostname = &app.spec.dns.as_ref()?.hostname;
    Some(hostname.trim_end_matches('.').to_ascii_lowercase())
}

/// Why the app's namespace may not have the hostname that it wants.
pub fn refused(app: &ScaledApp, ownership: &Ownership) -> Option<Stalled> {
    let refusal = check(app, ownership)?.err()?;
    Some(Stalled {
        reason: match refusal {
            Refusal::Name(_) | Refusal::Bound { .. } => Reason::HostnameRefused,
            Refusal::Reserved { .. } => Reason::HostnameReserved,
            Refusal::Outside { .. } => Reason::HostnameOutsideZones,
        },
        message: format!("spec.dns.hostname: {refusal}"),
    })
}

/// Whether the app's namespace may have the hostname; `None` for an app that wants no hostname.
fn check(app: &ScaledApp, ownership: &Ownership) -> Option<Result<(), Refusal>> {
    let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
    Some(ownership.check(&hostname(app)?, namespace))
}

/// `NAMESPACE/NAME` of another, older app with the same hostname. Apps that may not have
/// the hostname do not count.
pub fn taken_by(app: &ScaledApp, apps: &Store<Guarded>, ownership: &Ownership) -> Option<String> {
    let wanted = hostname(app)?;
    let age = |app: &ScaledApp| {
        let created = app.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // An app without a creation time is the youngest. Of two apps that were created in the same
        // second, the name decides.
        let unborn = created.is_none();
        (
            unborn,
            created,
            app.namespace().unwrap_or_default(),
            app.name_any(),
        )
    };
    let apps = apps.state();
    let others = apps.iter().filter_map(|other| other.0.as_ref().ok());
    let (_, _, namespace, name) = others
        .filter(|other| other.metadata.uid != app.metadata.uid)
        .filter(|other| hostname(other).as_ref() == Some(&wanted))
        .filter(|other| matches!(check(other, ownership), Some(Ok(()))))
        .map(age)
        .chain([age(app)])
        .min()?;
    let own = app.namespace().as_ref() == Some(&namespace) && app.name_any() == name;
    (!own).then(|| format!("{namespace}/{name}"))
}

/// Which app wants which hostname. It shows which other apps the change of an app concerns.
#[derive(Debug, Default)]
pub(crate) struct Hostnames {
    of: HashMap<ObjectRef<Guarded>, String>,
}

impl Hostnames {
    /// Records an app and returns the other apps that its change concerns.
    pub(crate) fn apply(&mut self, app: &Guarded) -> Vec<ObjectRef<Guarded>> {
        let name = ObjectRef::from_obj(app);
        let now = app.0.as_ref().ok().and_then(hostname);
        let before = match &now {
            Some(now) => self.of.insert(name.clone(), now.clone()),
            None => self.of.remove(&name),
        };
        if before == now {
            return Vec::new();
        }
        self.who(&name, &[before, now])
    }

    pub(crate) fn delete(&mut self, app: &Guarded) -> Vec<ObjectRef<Guarded>> {
        let name = ObjectRef::from_obj(app);
        let before = self.of.remove(&name);
        self.who(&name, &[before, None])
    }

    fn who(
        &self,
        except: &ObjectRef<Guarded>,
        hostnames: &[Option<String>; 2],
    ) -> Vec<ObjectRef<Guarded>> {
        self.of
            .iter()
            .filter(|(name, hostname)| {
                *name != except && hostnames.iter().flatten().any(|it| it == *hostname)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::DeserializeGuard;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    fn app(name: &str, minute: u8, hostname: Option<&str>) -> Guarded {
        let mut spec = json!({"image": "a", "command": ["x"]});
        if let Some(hostname) = hostname {
            spec["dns"] = json!({"hostname": hostname});
        }
        let object = json!({
            "apiVersion": "scaledapp.io/v1alpha1",
            "kind": "ScaledApp",
            "metadata": {
                "name": name, "namespace": "default", "uid": name,
                "creationTimestamp": format!("2026-11-24T00:{minute:02}:00Z"),
            },
            "spec": spec,
        });
        DeserializeGuard(Ok(serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn the_oldest_app_has_the_hostname_and_of_equally_old_apps_the_first_by_name() {
        let (store, mut writer) = reflector::store();
        let apps = [
            app("young", 2, Some("h.example.com")),
            app("old", 1, Some("h.example.com.")),
            app("as-old", 1, Some("h.example.com")),
            app("other", 0, Some("i.example.com")),
            app("none", 0, None),
        ];
        for app in &apps {
            writer.apply_watcher_event(&Event::Apply(app.clone()));
        }
        let open = Ownership::default();
        let taken = apps.map(|app| taken_by(&app.0.unwrap(), &store, &open));
        let by = Some("default/as-old".to_owned());
        assert_eq!(taken, [by.clone(), by, None, None, None]);
    }

    #[test]
    fn an_app_that_may_not_have_a_hostname_keeps_it_from_no_other_app() {
        let bound = "h.example.com=team".parse().unwrap();
        let ownership = Ownership::new(Some("example.com".parse().unwrap()), [bound]).unwrap();
        let (store, mut writer) = reflector::store();
        let thief = app("thief", 0, Some("H.example.com."));
        let mut owner = app("owner", 1, Some("h.example.com"));
        if let Ok(owner) = &mut owner.0 {
            owner.metadata.namespace = Some("team".to_owned());
        }
        for app in [&thief, &owner] {
            writer.apply_watcher_event(&Event::Apply(app.clone()));
        }
        let (thief, owner) = (thief.0.unwrap(), owner.0.unwrap());
        assert_eq!(taken_by(&owner, &store, &ownership), None);
        assert_eq!(refused(&owner, &ownership), None);
        let stalled = refused(&thief, &ownership).unwrap();
        assert_eq!(stalled.reason, "HostnameRefused");
        for (hostname, reason) in [
            ("example.com", "HostnameReserved"),
            ("ns.example.com", "HostnameReserved"),
            ("example.org", "HostnameOutsideZones"),
        ] {
            let app = app("a", 0, Some(hostname)).0.unwrap();
            let stalled = refused(&app, &ownership).unwrap();
            assert_eq!(stalled.reason, reason);
            assert!(stalled.message.contains("give a name"), "{stalled:?}");
        }
        let none = app("a", 0, None).0.unwrap();
        assert_eq!(refused(&none, &ownership), None);
    }

    #[test]
    fn a_change_concerns_the_apps_with_the_old_and_with_the_new_hostname() {
        let mut hostnames = Hostnames::default();
        let named = |name: &str| ObjectRef::<Guarded>::new(name).within("default");
        assert_eq!(hostnames.apply(&app("a", 0, Some("h.x.y"))), []);
        assert_eq!(hostnames.apply(&app("b", 1, Some("h.x.y"))), [named("a")]);
        assert_eq!(hostnames.apply(&app("b", 1, Some("h.x.y"))), []);
        assert_eq!(hostnames.apply(&app("c", 1, None)), []);
        assert_eq!(hostnames.apply(&app("a", 0, None)), [named("b")]);
        assert_eq!(hostnames.apply(&app("c", 1, Some("h.x.y"))), [named("b")]);
        assert_eq!(hostnames.delete(&app("b", 1, Some("h.x.y"))), [named("c")]);
    }
}
