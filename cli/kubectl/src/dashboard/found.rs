//! From what was read of a cluster to the apps, slots and pods of the dashboard. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use scaledapp_crds::words::component;
use scaledapp_dashboard::{AdminPlaces, BalancerPlace, DnsAnswers, DnsPlace, PodPlace};
use serde_json::Value;

use crate::model::object::{self, text};
use crate::model::pods::labelled;
use crate::model::seen::Seen;
use crate::model::slots::{behind, slot_of};
use crate::read::admin_port;

/// The admin port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodAt {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) port: u16,
}

/// The apps, with their namespace before a slash if there may be several namespaces.
pub(crate) fn places(seen: &Seen, with_namespaces: bool) -> Vec<AdminPlaces<PodAt>> {
    let apps = seen.apps.iter();
    apps.map(|app| one(app, seen, with_namespaces)).collect()
}

fn one(app: &Value, seen: &Seen, with_namespaces: bool) -> AdminPlaces<PodAt> {
    let (namespace, name) = object::key(app);
    let all = seen.pods.as_deref().unwrap_or_default();
    let balancers = labelled(all, &namespace, &name, component::BALANCER);
    let slots = app.pointer("/status/balancers").and_then(Value::as_array);
    let slots: Vec<_> = slots.into_iter().flatten().collect();
    let hostname = text(app, "/status/hostname");
    let published = slots.iter().filter(|slot| slot["serving"] == true);
    let published = published.filter_map(|slot| text(slot, "/address").parse().ok());
    let port = app.pointer("/spec/port").and_then(Value::as_u64);
    let mut pods = labelled(all, &namespace, &name, component::APP);
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    AdminPlaces {
        dns: (!hostname.is_empty()).then(|| DnsPlace {
            hostname,
            answers: DnsAnswers::Told(published.collect()),
        }),
        balancers: slots
            .iter()
            .map(|slot| balancer(slot, (&namespace, &name), &balancers, seen))
            .collect(),
        pods: pods
            .into_iter()
            .map(|it| pod(it, port.unwrap_or(3000)))
            .collect(),
        name: if with_namespaces {
            format!("{namespace}/{name}")
        } else {
            name
        },
    }
}

fn balancer(
    slot: &Value,
    (namespace, name): (&str, &str),
    balancers: &[&Pod],
    seen: &Seen,
) -> BalancerPlace<PodAt> {
    let number = slot["slot"].as_u64().unwrap_or_default() as u32;
    let is_slot = |pod: &&&Pod| slot_of(pod) == Some(i64::from(number));
    let own = balancers.iter().find(is_slot);
    let own = own.and_then(|pod| pod.metadata.name.as_deref());
    let slices = seen.slices.as_deref().unwrap_or_default();
    let behind = behind(slices, namespace, name, i64::from(number));
    let is_own = |pod: &&String| Some(pod.as_str()) == own;
    let by = behind.iter().find(is_own).or_else(|| behind.first());
    let by = by.map(String::as_str).or(own);
    let mut balancers = balancers.iter();
    let pod = balancers.find(|pod| by.is_some() && pod.metadata.name.as_deref() == by);
    let address = text(slot, "/address");
    BalancerPlace {
        name: by.map_or_else(|| format!("{name}, slot {number}"), str::to_owned),
        slot: number,
        ip: address.parse::<IpAddr>().ok(),
        address: if address.is_empty() {
            "no address yet".to_owned()
        } else {
            address
        },
        admin: pod.map_or_else(|| Err("no balancer has this slot".to_owned()), |it| at(it)),
        holder: None,
    }
}

fn pod(pod: &Pod, port: u64) -> PodPlace<PodAt> {
    let status = pod.status.as_ref();
    let ip = status.and_then(|status| status.pod_ip.as_deref());
    PodPlace {
        name: pod.metadata.name.clone().unwrap_or_default(),
        address: match ip {
            Some(ip) if ip.contains(':') => format!("[{ip}]:{port}"),
            Some(ip) => format!("{ip}:{port}"),
            None => "no address yet".to_owned(),
        },
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        admin: at(pod),
    }
}

/// Where the admin port of a pod is, or why it cannot be asked.
fn at(pod: &Pod) -> Result<PodAt, String> {
    let status = pod.status.as_ref();
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Running") => Ok(PodAt {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            port: admin_port(pod),
        }),
        phase => Err(format!("the pod is {}", phase.unwrap_or("Pending"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, component: &str, slot: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "labels": {
                "app.kubernetes.io/instance": "shop", "app.kubernetes.io/component": component, "scaledapp.io/slot": slot,
            }},
            "spec": {"nodeName": "n1", "containers": [{"name": "x", "ports": [{"name": "admin", "containerPort": 9400}]}]},
            "status": {"phase": phase, "podIP": "10.0.0.7"},
        }))
        .unwrap()
    }

    #[test]
    fn an_app_has_its_slots_with_who_answers_and_its_pods() {
        let app = json!({
            "metadata": {"namespace": "a", "name": "shop"}, "spec": {"port": 3100},
            "status": {"hostname": "shop.apps.local", "balancers": [
                {"slot": 0, "address": "10.96.0.1", "serving": true},
                {"slot": 1, "address": "lb.example.com", "serving": true},
                {"slot": 2, "address": "", "serving": false},
            ]},
        });
        let slice = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "s1", "labels": {"app.kubernetes.io/instance": "shop", "scaledapp.io/slot": "1"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.9"], "targetRef": {"name": "lb-0"}}],
        }));
        let seen = Seen {
            apps: vec![app],
            pods: Ok(vec![
                pod("lb-0", "balancer", "0", "Running"),
                pod("lb-1", "balancer", "1", "Pending"),
                pod("shop-b", "app", "", "Pending"),
                pod("shop-a", "app", "", "Running"),
            ]),
            slices: Ok(vec![slice.unwrap()]),
            answers: std::collections::BTreeMap::default(),
        };
        let apps = places(&seen, true);
        let app = &apps[0];
        assert_eq!(app.name, "a/shop");
        let dns = app.dns.clone().unwrap();
        let published = ["10.96.0.1".parse().unwrap()].into();
        assert_eq!(dns.answers, DnsAnswers::Told(published));
        let slots = app.balancers.iter().map(|it| (&*it.name, &*it.address));
        let expected = [
            ("lb-0", "10.96.0.1"),
            ("lb-0", "lb.example.com"),
            ("shop, slot 2", "no address yet"),
        ];
        assert_eq!(slots.collect::<Vec<_>>(), expected, "slot 1 is taken over");
        assert!(app.balancers[2].admin.is_err());
        let pods = app.pods.iter().map(|it| (&*it.name, &*it.address));
        let expected = [("shop-a", "10.0.0.7:3100"), ("shop-b", "10.0.0.7:3100")];
        assert_eq!(pods.collect::<Vec<_>>(), expected);
        assert_eq!(app.pods[0].admin.as_ref().unwrap().port, 9400);
        assert_eq!(app.pods[1].admin, Err("the pod is Pending".to_owned()));
        assert_eq!(places(&seen, false)[0].name, "shop");
    }
}
