//! Who has a hostname: of several that want the same, the oldest.

use std::collections::HashMap;

use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use scaledapp_crds::kubernetes::ScaledApp;

use crate::context::Guarded;

/// The hostname that an app wants, as it is compared.
pub fn hostname(app: &ScaledApp) -> Option<String> {
    let hostname = &app.spec.dns.as_ref()?.hostname;
    Some(hostname.trim_end_matches('.').to_ascii_lowercase())
}

/// `NAMESPACE/NAME` of the oldest app that has this one's hostname, if that is
/// another one.
pub fn taken_by(app: &ScaledApp, apps: &Store<Guarded>) -> Option<String> {
    let wanted = hostname(app)?;
    let age = |app: &ScaledApp| {
        let created = app.metadata.creation_timestamp.as_ref().map(|time| time.0);
        // What has no time yet is youngest; names settle the same second.
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
        .map(age)
        .chain([age(app)])
        .min()?;
    let own = app.namespace().as_ref() == Some(&namespace) && app.name_any() == name;
    (!own).then(|| format!("{namespace}/{name}"))
}

/// Which apps want which hostname: when one gives it up, the next gets it.
#[derive(Debug, Default)]
pub(crate) struct Hostnames {
    of: HashMap<ObjectRef<Guarded>, String>,
}

impl Hostnames {
    /// The others that a change of this app concerns.
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
