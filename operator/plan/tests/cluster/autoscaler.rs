//! Tests pods per node with a model of the scheduler and of a cluster autoscaler that adds
//! a node whenever a pod is pending, in a cluster where other pods come and go.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster::{Node, Observed, Part, Pod, PodFailure, Resources, plan};

use super::given::{app, apply, at, cluster, node, pod, settings};

/// One CPU, in billionths.
const CPU: i128 = 1_000_000_000;
/// CPUs of a node that the autoscaler adds.
const NEW: u32 = 4;

#[derive(Debug, Clone)]
enum Happens {
    /// Other pods take this many CPUs of the node with this index.
    Fill(usize, u32),
    Cordon(usize),
    Uncordon(usize),
    Leave(usize),
    Evict(usize),
    Join(u32),
    Wait(u8),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..8_usize, 0..=4_u32).prop_map(|(node, cpus)| Happens::Fill(node, cpus)),
        (0..8_usize).prop_map(Happens::Cordon),
        (0..8_usize).prop_map(Happens::Uncordon),
        (0..8_usize).prop_map(Happens::Leave),
        (0..8_usize).prop_map(Happens::Evict),
        (0..=4_u32).prop_map(Happens::Join),
        (1..90_u8).prop_map(Happens::Wait),
    ]
}

struct Model {
    observed: Observed,
    /// CPUs that other pods take, by node.
    others: BTreeMap<String, u32>,
    lines: String,
    pod_cpus: u32,
    per_node: usize,
    seconds: i64,
    names: u32,
    added: u32,
}

impl Model {
    fn new(sizes: &[(u32, u32)], pod_cpus: u32, per_node: usize) -> Self {
        let mut model = Self {
            observed: cluster(0),
            others: BTreeMap::new(),
            lines: format!(
                "  replicas: {{perNode: {per_node}}}\n  resources: {{requests: {{cpu: {pod_cpus}}}}}"
            ),
            pod_cpus,
            per_node,
            seconds: 0,
            names: 0,
            added: 0,
        };
        for (cpus, others) in sizes {
            model.join(*cpus, *others);
        }
        model
    }

    fn join(&mut self, cpus: u32, others: u32) {
        self.names += 1;
        let name = format!("n{}", self.names);
        let offers = Resources {
            cpu: i128::from(cpus) * CPU,
            memory: i128::MAX / 4,
            pods: 110 * CPU,
        };
        self.observed.nodes.push(Node {
            offers,
            ..node(&name)
        });
        self.others.insert(name, others.min(cpus));
    }

    fn used(&self, name: &str) -> u32 {
        self.others.get(name).copied().unwrap_or_default() + self.held(name) as u32 * self.pod_cpus
    }

    fn held(&self, name: &str) -> usize {
        let pods = self.observed.pods.iter();
        pods.filter(|pod| pod.node.as_deref() == Some(name)).count()
    }

    /// Does what the operator, the `ReplicaSet` controller and the scheduler do.
    fn settle(&mut self) {
        for _ in 0..4 {
            let nodes = self.observed.nodes.clone();
            let used = nodes.iter().map(|node| {
                let cpu = i128::from(self.used(&node.name)) * CPU;
                (
                    node.name.clone(),
                    Resources {
                        cpu,
                        ..Resources::default()
                    },
                )
            });
            self.observed.used = used.collect();
            self.observed.now = at(self.seconds);
            let planned = plan(&app(&self.lines), &self.observed, &settings());
            apply(&mut self.observed, &planned);
            let wanted = planned.apply.deployments[0].spec.replicas.unwrap() as usize;
            while self.observed.pods.len() > wanted {
                // A pod without a node is deleted first, then the one with the lowest
                // deletion cost.
                let cost = |pod: &Pod| {
                    let cost = pod
                        .annotations
                        .get("controller.kubernetes.io/pod-deletion-cost");
                    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
                };
                let pods = self.observed.pods.iter().enumerate();
                let order = |(_, pod): &(usize, &Pod)| (pod.node.is_some(), cost(pod));
                let (victim, _) = pods.min_by_key(order).unwrap();
                self.observed.pods.remove(victim);
            }
            while self.observed.pods.len() < wanted {
                self.names += 1;
                self.observed.pods.push(Pod {
                    node: None,
                    created: Some(at(self.seconds)),
                    ..pod(self.names)
                });
            }
            self.schedule();
            self.seconds += 1;
        }
    }

    fn schedule(&mut self) {
        for index in 0..self.observed.pods.len() {
            if self.observed.pods[index].node.is_some() {
                continue;
            }
            let domains = self.observed.nodes.iter().filter(|node| node.schedulable);
            let domains: Vec<(String, usize)> = domains
                .map(|node| (node.name.clone(), self.held(&node.name)))
                .collect();
            let least = domains.iter().map(|(_, held)| *held).min().unwrap_or(0);
            let cpus = |name: &str| {
                let node = self.observed.nodes.iter().find(|node| node.name == name);
                node.map_or(0, |node| (node.offers.cpu / CPU) as u32)
            };
            let fits = domains.iter().filter(|(name, held)| {
                held + 1 - least <= self.per_node && self.used(name) + self.pod_cpus <= cpus(name)
            });
            let chosen = fits
                .min_by_key(|(_, held)| *held)
                .map(|(name, _)| name.clone());
            let pod = &mut self.observed.pods[index];
            pod.failure = chosen.is_none().then(|| PodFailure {
                reason: Reason::Unschedulable,
                message: "0 nodes are available".to_owned(),
                part: Part::Main,
            });
            pod.node = chosen;
        }
    }

    fn waiting(&self) -> usize {
        let pods = self.observed.pods.iter();
        pods.filter(|pod| pod.node.is_none()).count()
    }

    fn happens(&mut self, what: &Happens) {
        let count = self.observed.nodes.len();
        let name = |index: usize, model: &Self| {
            (count > 0).then(|| model.observed.nodes[index % count].name.clone())
        };
        match what {
            Happens::Join(others) => self.join(NEW, *others),
            Happens::Wait(seconds) => self.seconds += i64::from(*seconds),
            Happens::Cordon(index) | Happens::Uncordon(index) if count > 0 => {
                let on = matches!(what, Happens::Uncordon(_));
                self.observed.nodes[index % count].schedulable = on;
            }
            Happens::Leave(index) => {
                let Some(name) = name(*index, self) else {
                    return;
                };
                self.observed.nodes.retain(|node| node.name != name);
                self.observed
                    .pods
                    .retain(|pod| pod.node.as_ref() != Some(&name));
            }
            Happens::Evict(index) => {
                let Some(name) = name(*index, self) else {
                    return;
                };
                self.observed
                    .pods
                    .retain(|pod| pod.node.as_ref() != Some(&name));
            }
            Happens::Fill(index, cpus) => {
                let Some(name) = name(*index, self) else {
                    return;
                };
                let node = self.observed.nodes.iter().find(|node| node.name == name);
                let size = (node.unwrap().offers.cpu / CPU) as u32;
                let ours = self.held(&name) as u32 * self.pod_cpus;
                self.others.insert(name, (*cpus).min(size - ours));
            }
            Happens::Cordon(_) | Happens::Uncordon(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No pod waits for a node while another pod of the app has one.
    #[test]
    fn a_pod_waits_for_a_new_node_only_if_no_pod_of_the_app_has_a_node(
        sizes in prop::collection::vec((1..=4_u32, 0..=4_u32), 0..5),
        pod_cpus in 1..=3_u32,
        per_node in 1..=2_usize,
        all in prop::collection::vec(happens(), 0..12),
    ) {
        let mut model = Model::new(&sizes, pod_cpus, per_node);
        let wait = Happens::Wait(1);
        for what in std::iter::once(&wait).chain(&all) {
            model.happens(what);
            model.settle();
            let placed = model.observed.pods.len() - model.waiting();
            prop_assert!(model.waiting() == 0 || placed == 0, "{:#?}", model.observed.pods);
            if model.waiting() > 0 {
                model.added += 1;
                model.join(NEW, 0);
                model.settle();
                prop_assert_eq!(model.waiting(), 0);
            }
        }
        // Each node that has room has its pods.
        model.happens(&Happens::Wait(61));
        model.settle();
        for node in &model.observed.nodes {
            let room = (node.offers.cpu / CPU) as u32 - model.used(&node.name).min(4);
            let held = model.held(&node.name);
            if node.schedulable && model.used(&node.name) <= (node.offers.cpu / CPU) as u32 {
                prop_assert!(held >= per_node || room < pod_cpus, "{} holds {held}", node.name);
            }
        }
    }
}
