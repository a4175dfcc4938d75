//! Backends as endpoints of the forwarding path: reconciles a new list with the endpoints
//! in use. A backend that is still listed keeps its counters and its record; a backend that
//! is no longer listed gets no new request.

use std::sync::Arc;

use scaledapp_proxy::{Endpoint, Standing, Table};

use crate::discovery::Backend;
use crate::peers::watch::Target;

/// The backends in use, in the order of their list.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    members: Vec<Member>,
    place: Place,
    /// There has been a list with backends. Those of the first such list do not count as new.
    has_begun: bool,
}

/// Where this balancer runs, as far as it has been told. With either, endpoints in its own zone
/// are preferred.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) zone: Option<String>,
    /// A pod cannot read the labels of its node. But it knows the node's name, and backends on
    /// the same node are in the same zone.
    pub(crate) node: Option<String>,
}

impl Place {
    /// The zone; `None` if it is unknown.
    fn zone<'a>(&'a self, backends: &'a [Backend]) -> Option<&'a str> {
        if self.zone.is_some() {
            return self.zone.as_deref();
        }
        let node = self.node.as_ref()?;
        let on_node = |backend: &&Backend| backend.node.as_ref() == Some(node);
        backends
            .iter()
            .filter(on_node)
            .find_map(|one| one.zone.as_deref())
    }
}

#[derive(Debug)]
struct Member {
    backend: Backend,
    endpoint: Arc<Endpoint>,
}

/// What a reconciliation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Change {
    pub(crate) added: usize,
    pub(crate) removed: usize,
}

impl Fleet {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    /// Replaces the list of backends.
    pub(crate) fn reconcile(&mut self, backends: Vec<Backend>) -> Change {
        let mut before = std::mem::take(&mut self.members);
        let mut change = Change::default();
        let zone = self.place.zone(&backends).map(str::to_owned);
        let is_first = !self.has_begun;
        self.has_begun |= !backends.is_empty();
        for backend in backends {
            let is_same = |member: &Member| {
                member.backend.name == backend.name && member.backend.address == backend.address
            };
            let kept = before
                .iter()
                .position(is_same)
                .map(|at| before.swap_remove(at));
            let endpoint = if let Some(member) = kept {
                let sight = |backend: &Backend| (backend.admin, backend.selected);
                if sight(&member.backend) != sight(&backend) {
                    member.endpoint.set_standing(unheard(&backend));
                }
                member.endpoint
            } else {
                change.added += 1;
                let endpoint = Endpoint::new(backend.name.clone(), backend.address);
                if is_first {
                    endpoint.has_served_before();
                }
                endpoint.set_standing(unheard(&backend));
                endpoint
            };
            endpoint.set_local(zone.is_some() && backend.zone == zone);
            self.members.push(Member { backend, endpoint });
        }
        change.removed = before.len();
        for gone in before {
            // Requests in flight there continue.
            gone.endpoint.close();
        }
        change
    }

    /// The endpoints, in the form that the forwarding path takes.
    pub(crate) fn table(&self) -> Arc<Table> {
        let endpoints = self
            .members
            .iter()
            .map(|member| Arc::clone(&member.endpoint));
        Arc::new(Table {
            endpoints: endpoints.collect(),
        })
    }

    /// The backends that have an admin port.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> {
        self.members.iter().filter_map(|member| {
            Some(Target {
                admin: member.backend.admin?,
                selected: member.backend.selected,
                endpoint: Arc::clone(&member.endpoint),
            })
        })
    }

    /// Whether each backend with an admin port has answered there and has not fallen silent
    /// since.
    pub(crate) fn is_heard(&self) -> bool {
        let unheard = [Standing::Suspect, Standing::Unknown];
        self.targets()
            .all(|target| !unheard.contains(&target.endpoint.standing()))
    }

    /// Whether there are endpoints, and none has shown that it belongs to the app. In that
    /// case all of them get requests.
    pub(crate) fn is_unknown(&self) -> bool {
        let mut members = self.members.iter();
        !self.members.is_empty()
            && members.all(|member| member.endpoint.standing() == Standing::Unknown)
    }
}

/// The standing of a backend that has not reported yet. A backend without an admin port
/// never reports, so it counts as serving.
fn unheard(backend: &Backend) -> Standing {
    match backend.admin {
        Some(_) if backend.selected => Standing::Unknown,
        Some(_) => Standing::Suspect,
        None => Standing::Serving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, port: u16, admin: Option<u16>) -> Backend {
        Backend {
            name: name.to_owned(),
            admin: admin.map(|port| ([10, 0, 0, 1], port).into()),
            ..Backend::at(([10, 0, 0, 1], port).into())
        }
    }

    fn names(table: &Table) -> Vec<&str> {
        table
            .endpoints
            .iter()
            .map(|endpoint| endpoint.name())
            .collect()
    }

    #[test]
    fn a_backend_that_stays_keeps_its_endpoint_and_the_endpoint_of_one_that_goes_is_closed() {
        let mut fleet = Fleet::default();
        let (a, b, c) = (
            backend("a", 1, None),
            backend("b", 2, None),
            backend("c", 3, None),
        );
        let change = fleet.reconcile(vec![a.clone(), b.clone()]);
        assert_eq!((change.added, change.removed), (2, 0));
        let before = fleet.table();
        let change = fleet.reconcile(vec![c, b]);
        assert_eq!((change.added, change.removed), (1, 1));
        let after = fleet.table();
        assert_eq!(names(&after), ["c", "b"]);
        assert!(Arc::ptr_eq(&before.endpoints[1], &after.endpoints[1]));
        let closed = format!("{:?}", before.endpoints[0]);
        assert!(closed.contains("closed: true"), "{closed}");
        // A backend that comes back gets a new endpoint, because a closed one is never
        // opened again.
        fleet.reconcile(vec![a]);
        assert!(!Arc::ptr_eq(
            &before.endpoints[0],
            &fleet.table().endpoints[0]
        ));
    }

    #[test]
    fn a_pod_found_by_a_label_is_unknown_until_it_reports() {
        let selected = |name: &str, port, admin| Backend {
            selected: true,
            ..backend(name, port, admin)
        };
        let mut fleet = Fleet::default();
        assert!(!fleet.is_unknown());
        fleet.reconcile(vec![selected("a", 1, Some(9)), selected("b", 2, Some(9))]);
        assert!(fleet.is_unknown());
        assert!(!fleet.is_heard());
        fleet.table().endpoints[0].set_standing(Standing::Unready);
        assert!(!fleet.is_unknown());
        // Without an admin port, only the kubelet knows whether the pod serves.
        fleet.reconcile(vec![selected("c", 3, None)]);
        assert!(!fleet.is_unknown());
        assert_eq!(fleet.table().endpoints[0].standing(), Standing::Serving);
    }

    #[test]
    fn the_zone_is_given_or_is_that_of_a_backend_on_the_same_node() {
        let placed = |port, zone: &str, node: &str| Backend {
            zone: Some(zone.to_owned()),
            node: Some(node.to_owned()),
            ..backend(zone, port, None)
        };
        let backends = [placed(1, "a", "node-1"), placed(2, "b", "node-2")];
        let place = |zone: Option<&str>, node: Option<&str>| Place {
            zone: zone.map(str::to_owned),
            node: node.map(str::to_owned),
        };
        for (place, expected) in [
            (place(None, None), None),
            (place(Some("c"), Some("node-1")), Some("c")),
            (place(None, Some("node-2")), Some("b")),
            // No backend runs on this node.
            (place(None, Some("node-3")), None),
        ] {
            assert_eq!(place.zone(&backends), expected, "{place:?}");
        }
        let mut fleet = Fleet::new(place(None, Some("node-2")));
        fleet.reconcile(backends.to_vec());
        let local = |fleet: &Fleet| {
            let shown = format!("{:?}", fleet.table());
            shown.matches("is_local: true").count()
        };
        assert_eq!(local(&fleet), 1);
        fleet.reconcile(backends[..1].to_vec());
        assert_eq!(local(&fleet), 0, "its own zone is unknown again");
    }

    /// A balancer that starts finds servers that have run for long.
    #[test]
    fn the_backends_of_the_first_list_are_not_new() {
        let mut fleet = Fleet::default();
        fleet.reconcile(Vec::new());
        fleet.reconcile(vec![backend("a", 1, None)]);
        fleet.reconcile(vec![backend("a", 1, None), backend("b", 2, None)]);
        let shown: Vec<String> = (fleet.table().endpoints.iter())
            .map(|endpoint| format!("{endpoint:?}"))
            .collect();
        let has_served_before = |text: &String| text.contains("serves_since: 0,");
        assert_eq!(
            shown.iter().map(has_served_before).collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn another_address_or_name_is_another_endpoint() {
        for changed in [backend("a", 2, None), backend("b", 1, None)] {
            let mut fleet = Fleet::default();
            fleet.reconcile(vec![backend("a", 1, None)]);
            let change = fleet.reconcile(vec![changed]);
            assert_eq!((change.added, change.removed), (1, 1));
        }
    }

    #[test]
    fn a_backend_with_an_admin_port_is_suspect_until_it_reports() {
        let mut fleet = Fleet::default();
        fleet.reconcile(vec![backend("a", 1, Some(9)), backend("b", 2, None)]);
        let standings = |fleet: &Fleet| {
            let endpoints = fleet.table().endpoints.clone();
            endpoints
                .iter()
                .map(|endpoint| endpoint.standing())
                .collect::<Vec<_>>()
        };
        assert_eq!(standings(&fleet), [Standing::Suspect, Standing::Serving]);
        assert!(!fleet.is_heard());
        fleet.table().endpoints[0].set_standing(Standing::Unready);
        assert!(fleet.is_heard());
        // The same list again changes nothing.
        let change = fleet.reconcile(vec![backend("a", 1, Some(9)), backend("b", 2, None)]);
        assert_eq!(change, Change::default());
        assert_eq!(standings(&fleet), [Standing::Unready, Standing::Serving]);
        // One backend loses its admin port, the other gets one.
        fleet.reconcile(vec![backend("a", 1, None), backend("b", 2, Some(9))]);
        assert_eq!(standings(&fleet), [Standing::Serving, Standing::Suspect]);
        assert_eq!(fleet.targets().count(), 1);
    }
}
