//! What is known of one app: its pods, balancers and DNS, and the sums that are shown of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use scaledapp_wire::{BalancerStatus, Status};

use crate::events::Kind;
use crate::flow::{self, Figures, Flow, STALE_MS};
use crate::observation::{App, Counters, Fact};
use crate::pod::{Happened, PodState};
use crate::ring::{Point, Ring};

/// A balancer.
#[derive(Debug, Clone, Default)]
pub(crate) struct BalancerState {
    pub(crate) status: Option<BalancerStatus>,
    /// The supervisor that keeps the balancer's listening socket open.
    pub(crate) holder: Option<Status>,
    pub(crate) flow: Flow,
    pub(crate) seen: Option<u64>,
    pub(crate) problem: Option<String>,
}

impl BalancerState {
    /// One word for the balancer's state.
    pub(crate) fn state(&self) -> &'static str {
        match (&self.problem, &self.status) {
            (Some(_), _) => "lost",
            (None, None) => "unknown",
            (None, Some(status)) if status.draining => "draining",
            (None, Some(status)) if !status.ready => "down",
            (None, Some(status)) if !status.problems.is_empty() => "degraded",
            (None, Some(_)) => "ok",
        }
    }

    /// How often the balancer's process was replaced after it ended.
    pub(crate) fn restarts(&self) -> u64 {
        let workers = self.holder.iter().flat_map(|holder| &holder.workers);
        workers.map(|worker| u64::from(worker.restarts)).sum()
    }

    fn looked(
        &mut self,
        now: u64,
        name: &str,
        status: BalancerStatus,
        counters: Option<Counters>,
        holder: Option<Status>,
    ) -> Vec<Happened> {
        let mut happened = Vec::new();
        if self.problem.take().is_some() {
            happened.push((now, Kind::Normal, format!("{name} answers again")));
        }
        if let Some(counters) = counters {
            self.flow.read(now, counters);
        }
        let before = (self.restarts(), self.holder.is_some());
        self.status = Some(status);
        self.holder = holder.or_else(|| self.holder.take());
        self.seen = Some(now);
        if before.1 && self.restarts() > before.0 {
            let text = format!("{name} ended and was started again");
            happened.push((now, Kind::Warning, text));
        }
        happened
    }
}

/// The answers of DNS.
#[derive(Debug, Clone, Default)]
pub(crate) struct DnsState {
    /// The addresses of the app's host name; `None` before the first answer.
    pub(crate) addresses: Option<BTreeSet<IpAddr>>,
    pub(crate) seen: Option<u64>,
    pub(crate) problem: Option<String>,
}

/// An app.
#[derive(Debug, Clone, Default)]
pub(crate) struct AppState {
    pub(crate) shape: App,
    pub(crate) dns: DnsState,
    pub(crate) balancers: BTreeMap<String, BalancerState>,
    pub(crate) pods: BTreeMap<String, PodState>,
    pub(crate) ring: Ring,
    /// How many workers had ended at the last point.
    ended: u64,
}

impl AppState {
    /// Sets what the app consists of, and forgets the parts that are no longer there.
    pub(crate) fn reshape(&mut self, shape: App) {
        if self.shape == shape {
            return;
        }
        let mut pods = std::mem::take(&mut self.pods);
        for pod in &shape.pods {
            // A pod of the same name at another address is another pod.
            let known = pods.remove(&pod.name);
            let known = known.filter(|known| known.shape.address == pod.address);
            let mut state = known.unwrap_or_else(|| PodState::new(pod.clone()));
            state.shape = pod.clone();
            self.pods.insert(pod.name.clone(), state);
        }
        let mut balancers = std::mem::take(&mut self.balancers);
        for slot in &shape.slots {
            let known = balancers.remove(&slot.balancer).unwrap_or_default();
            self.balancers.entry(slot.balancer.clone()).or_insert(known);
        }
        self.shape = shape;
        self.ended = self.all_ended();
    }

    fn all_ended(&self) -> u64 {
        self.pods.values().map(|pod| pod.ended).sum()
    }

    /// Adds a fact; returns whether a state has changed, and what happened.
    pub(crate) fn learn(&mut self, now: u64, fact: Fact) -> (bool, Vec<Happened>) {
        let happened = match fact {
            Fact::Watched(pod, snapshot) => {
                let Some(pod) = self.pods.get_mut(&pod) else {
                    return (false, Vec::new());
                };
                let (is_news, happened) = pod.watched(now, snapshot);
                return (is_news, happened.into_iter().collect());
            }
            Fact::Pod(pod, status, counters) => {
                let Some(pod) = self.pods.get_mut(&pod) else {
                    return (false, Vec::new());
                };
                return pod.looked(now, *status, counters);
            }
            Fact::PodLost(pod, reason) => {
                let pod = self.pods.get_mut(&pod);
                let happened = pod.and_then(|pod| pod.lost(now, reason));
                happened.into_iter().collect()
            }
            Fact::Balancer(name, status, counters, holder) => {
                let Some(balancer) = self.balancers.get_mut(&name) else {
                    return (false, Vec::new());
                };
                let before = balancer.state();
                let holder = holder.map(|holder| *holder);
                let happened = balancer.looked(now, &name, *status, counters, holder);
                return (!happened.is_empty() || before != balancer.state(), happened);
            }
            Fact::BalancerLost(name, reason) => match self.balancers.get_mut(&name) {
                Some(balancer) if balancer.problem.is_none() => {
                    let text = format!("{name} does not answer: {reason}");
                    balancer.problem = Some(reason);
                    vec![(now, Kind::Warning, text)]
                }
                _ => Vec::new(),
            },
            Fact::Dns(addresses) => self.resolved(now, addresses),
            Fact::DnsLost(reason) => {
                let is_news = self.dns.problem.is_none();
                let text = format!("DNS does not answer: {reason}");
                self.dns.problem = Some(reason);
                is_news
                    .then_some((now, Kind::Warning, text))
                    .into_iter()
                    .collect()
            }
        };
        (!happened.is_empty(), happened)
    }

    fn resolved(&mut self, now: u64, addresses: BTreeSet<IpAddr>) -> Vec<Happened> {
        let mut happened = Vec::new();
        if self.dns.problem.take().is_some() {
            happened.push((now, Kind::Normal, "DNS answers again".to_owned()));
        }
        if let Some(before) = &self.dns.addresses {
            for slot in &self.shape.slots {
                let ip = slot.address.ip();
                let text = match (before.contains(&ip), addresses.contains(&ip)) {
                    (true, false) => "DNS withdraws",
                    (false, true) => "DNS publishes",
                    _ => continue,
                };
                let kind = if addresses.contains(&ip) {
                    Kind::Normal
                } else {
                    Kind::Warning
                };
                let text = format!("{text} {ip}, the address of slot {}", slot.number);
                happened.push((now, kind, text));
            }
        }
        self.dns.addresses = Some(addresses);
        self.dns.seen = Some(now);
        happened
    }

    /// Ready workers, and workers that there should be.
    pub(crate) fn workers(&self) -> (u32, u32) {
        let pods = self.pods.values();
        pods.fold((0, 0), |(ready, desired), pod| {
            (ready + pod.ready(), desired + pod.desired())
        })
    }

    /// Whether the address of a slot is in the answers of DNS; `None` if that is not known.
    pub(crate) fn is_published(&self, ip: IpAddr) -> Option<bool> {
        let addresses = self.dns.addresses.as_ref()?;
        Some(addresses.contains(&ip))
    }

    /// One word for the app's state, and the reason if it is not well.
    pub(crate) fn state(&self) -> (&'static str, String) {
        let (ready, desired) = self.workers();
        let is_known = self.pods.values().any(|pod| pod.state() != "unknown");
        if !is_known {
            return ("unknown", "nothing has answered yet".to_owned());
        }
        let serves = |balancer: &&BalancerState| matches!(balancer.state(), "ok" | "degraded");
        let serving = self.balancers.values().filter(serves).count();
        if desired > 0 && ready == 0 {
            return ("down", format!("none of {desired} workers is ready"));
        }
        if !self.balancers.is_empty() && serving == 0 {
            return ("down", "no balancer serves".to_owned());
        }
        let lost = self
            .pods
            .values()
            .filter(|pod| pod.state() == "lost")
            .count();
        if lost > 0 {
            let of = self.pods.len();
            return ("degraded", format!("{lost} of {of} pods do not answer"));
        }
        if ready < desired {
            return (
                "degraded",
                format!("{ready} of {desired} workers are ready"),
            );
        }
        if serving < self.balancers.len() {
            let of = self.balancers.len();
            return ("degraded", format!("{serving} of {of} balancers serve"));
        }
        if self.dns.problem.is_some() {
            return ("degraded", "DNS does not answer".to_owned());
        }
        let withdrawn = self.shape.slots.iter();
        let withdrawn =
            withdrawn.filter(|slot| self.is_published(slot.address.ip()) == Some(false));
        let withdrawn = withdrawn.count();
        if withdrawn > 0 {
            let of = self.shape.slots.len();
            return (
                "degraded",
                format!("DNS withholds {withdrawn} of {of} addresses"),
            );
        }
        if desired == 0 {
            return ("idle", "no workers are wanted".to_owned());
        }
        ("ok", String::new())
    }

    /// Rates and percentiles: as clients see them at the balancers, or at the pods if there are no
    /// balancers.
    pub(crate) fn figures(&self, now: u64) -> Figures {
        if self.balancers.is_empty() {
            flow::sum(now, self.pods.values().map(|pod| &pod.flow))
        } else {
            flow::sum(now, self.balancers.values().map(|balancer| &balancer.flow))
        }
    }

    /// Requests in flight and requests that wait, in pods and, before those, in balancers.
    pub(crate) fn load(&self) -> (Option<u32>, Option<u32>) {
        let mut load: Option<(u32, u32)> = None;
        for (in_flight, queued) in self.pods.values().filter_map(PodState::load) {
            let known = load.unwrap_or_default();
            load = Some((known.0 + in_flight, known.1 + queued));
        }
        let waiting = self.balancers.values().filter_map(|it| it.status.as_ref());
        let waiting: u32 = waiting.map(|status| status.queued).sum();
        (load.map(|load| load.0), load.map(|load| load.1 + waiting))
    }

    /// The oldest figure, in whole seconds; `None` if nothing has answered yet.
    pub(crate) fn age(&self, now: u64) -> Option<u64> {
        let pods = self.pods.values().filter_map(|pod| pod.seen);
        let oldest = pods
            .chain(self.balancers.values().filter_map(|it| it.seen))
            .min()?;
        Some(age(now, oldest))
    }

    /// Adds the point of this second.
    pub(crate) fn tick(&mut self, now: u64) {
        let Figures { rate, p50, p99, .. } = self.figures(now);
        let (in_flight, queued) = self.load();
        let ended = self.all_ended();
        let narrow = |number: Option<f64>| number.map(|number| number as f32);
        self.ring.push(Point {
            at: now / 1_000,
            rate: narrow(rate),
            p50: narrow(p50),
            p99: narrow(p99),
            in_flight,
            queued,
            restarts: ended.saturating_sub(self.ended) as u32,
        });
        self.ended = ended;
    }
}

/// The age of a figure in whole seconds, 0 while it is fresh.
pub(crate) fn age(now: u64, seen: u64) -> u64 {
    let age = now.saturating_sub(seen);
    if age < STALE_MS { 0 } else { age / 1_000 }
}

#[cfg(test)]
mod tests {
    use scaledapp_wire::Worker;

    use super::*;
    use crate::observation::{Pod, Slot};

    fn app() -> AppState {
        let mut app = AppState::default();
        let slots = [0, 1].map(|number| Slot {
            number,
            address: format!("127.0.77.{}:8080", number + 1).parse().unwrap(),
            balancer: format!("shop-lb-{number}"),
        });
        app.reshape(App {
            name: "shop".to_owned(),
            hostname: Some("shop.apps.local".to_owned()),
            slots: slots.to_vec(),
            pods: vec![Pod {
                name: "shop-0".to_owned(),
                ..Pod::default()
            }],
            ..App::default()
        });
        app
    }

    fn pod(ready: u32, restarts: u32) -> Fact {
        let status = Status {
            desired: 2,
            ready,
            workers: vec![Worker {
                restarts,
                ..Worker::default()
            }],
            ..Status::default()
        };
        Fact::Pod("shop-0".to_owned(), Box::new(status), None)
    }

    fn balancer(number: u32, ready: bool, requests: u64) -> Fact {
        let status = BalancerStatus {
            connections: 1,
            draining: false,
            endpoints: Vec::new(),
            in_flight: 0,
            listen: None,
            problems: Vec::new(),
            queued: 2,
            ready,
        };
        let counters = Counters {
            requests,
            ..Counters::default()
        };
        let name = format!("shop-lb-{number}");
        Fact::Balancer(name, Box::new(status), Some(counters), None)
    }

    fn well() -> AppState {
        let mut app = app();
        assert_eq!(app.state().0, "unknown");
        app.learn(1_000, pod(2, 0));
        app.learn(1_000, balancer(0, true, 0));
        app.learn(1_000, balancer(1, true, 0));
        app.learn(
            1_000,
            Fact::Dns(
                ["127.0.77.1", "127.0.77.2"]
                    .map(|ip| ip.parse().unwrap())
                    .into(),
            ),
        );
        assert_eq!(app.state(), ("ok", String::new()));
        app
    }

    #[test]
    fn the_state_names_what_is_missing() {
        for (facts, state, reason) in [
            (vec![pod(1, 0)], "degraded", "1 of 2 workers are ready"),
            (vec![pod(0, 0)], "down", "none of 2 workers is ready"),
            (
                vec![balancer(0, false, 0)],
                "degraded",
                "1 of 2 balancers serve",
            ),
            (
                vec![
                    balancer(0, false, 0),
                    Fact::BalancerLost("shop-lb-1".to_owned(), "x".to_owned()),
                ],
                "down",
                "no balancer serves",
            ),
            (
                vec![Fact::Dns(["127.0.77.1".parse().unwrap()].into())],
                "degraded",
                "DNS withholds 1 of 2 addresses",
            ),
            (
                vec![Fact::DnsLost("x".to_owned())],
                "degraded",
                "DNS does not answer",
            ),
        ] {
            let mut app = well();
            for fact in facts {
                assert!(app.learn(1_100, fact.clone()).0, "{fact:?}");
                assert!(!app.learn(1_200, fact.clone()).0, "{fact:?}: known already");
            }
            assert_eq!(app.state(), (state, reason.to_owned()));
        }
    }

    #[test]
    fn a_point_has_rates_queue_and_restarts_of_its_second() {
        let mut app = well();
        app.tick(1_000);
        app.learn(2_000, balancer(0, true, 30));
        app.learn(2_000, balancer(1, true, 50));
        app.learn(2_000, pod(2, 1));
        app.tick(2_000);
        app.tick(3_000);
        let points: Vec<_> = app
            .ring
            .last(3)
            .map(|point| (point.rate, point.restarts))
            .collect();
        assert_eq!(points, [(None, 0), (Some(80.0), 1), (Some(80.0), 0)]);
        assert_eq!(app.load(), (None, None), "no pod has said its load");
    }

    #[test]
    fn a_pod_at_another_address_is_another_pod() {
        let mut app = well();
        let mut shape = app.shape.clone();
        shape.slots.pop();
        app.reshape(shape.clone());
        assert_eq!(app.balancers.len(), 1);
        assert_eq!(app.pods["shop-0"].ready(), 2);
        shape.pods[0].address = "127.0.78.9:3000".to_owned();
        app.reshape(shape);
        assert_eq!(app.pods["shop-0"].ready(), 0);
    }

    #[test]
    fn addresses_that_dns_withdraws_are_events() {
        let mut app = well();
        let (_, happened) = app.learn(2_000, Fact::Dns(BTreeSet::new()));
        assert_eq!(
            happened[1].2,
            "DNS withdraws 127.0.77.2, the address of slot 1"
        );
        let (_, happened) = app.learn(3_000, Fact::Dns(["127.0.77.2".parse().unwrap()].into()));
        assert_eq!(
            happened[0].2,
            "DNS publishes 127.0.77.2, the address of slot 1"
        );
    }

    #[test]
    fn fresh_figures_have_no_age() {
        assert_eq!([age(5_000, 2_001), age(5_000, 2_000), age(1, 9)], [0, 3, 0]);
    }
}
