//! How many requests at a time clients ask for, by Little's law over all balancers.
//!
//! While every request finds room, the demand is what is in flight. When requests wait, what is in
//! flight shows the capacity and not the demand. The demand is then the rate of arrivals times the
//! time that one request takes at a worker; the requests that wait are a backlog, which is worked
//! off once. A rule that counts waiting requests as demand orders capacity to serve all of them at
//! once, and has far too much when they are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fleet::{Fleet, SILENCE};
use crate::sample::{Balancer, BalancerReport};
use crate::window::Series;

/// The short window: what happens now. Three observations a second apart; one alone is mostly
/// chance.
pub(crate) const SHORT: Duration = Duration::from_secs(3);
/// The long window: what is usual now.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// Growth is measured over at least this and at most [`MAX_TREND`].
const MIN_TREND: Duration = Duration::from_secs(30);
const MAX_TREND: Duration = Duration::from_mins(2);
/// The time that one request takes, until it has been measured, in seconds.
const FIRST_SERVICE: f64 = 0.25;
/// Over how many seconds the time of one request is averaged.
const SERVICE_MEMORY: f64 = 20.0;
/// Fewer completed requests than this say nothing of the time that one takes.
const MIN_COMPLETED: f64 = 3.0;
/// Bounds of the time of one request, in seconds.
const SERVICE_RANGE: (f64, f64) = (0.001, 3600.0);
/// An observation this much later than the last one counts as this much.
const MAX_GAP: f64 = 10.0;

/// What is remembered of a balancer.
#[derive(Debug, Clone, Copy)]
struct Source {
    last: Duration,
    report: BalancerReport,
    /// Requests per second; `None` until there are two reports.
    rate: Option<f64>,
}

/// What is remembered of the demand.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    sources: BTreeMap<String, Source>,
    offered: Series,
    rate: Series,
    cpu: Series,
    /// Seconds that requests were at workers, and requests that left; both fade.
    served: f64,
    completed: f64,
    service: Option<f64>,
    last: Option<Duration>,
}

/// The demand at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// Requests at a time, over the short window.
    pub(crate) short: f64,
    /// Requests at a time, over the long window.
    pub(crate) long: f64,
    /// By how many requests at a time the demand rises, per second.
    pub(crate) rise: f64,
    /// CPU in cores, over the short window and over the long one.
    pub(crate) cpu_short: f64,
    pub(crate) cpu_long: f64,
    /// Requests that wait, or for which workers have no room.
    pub(crate) waiting: f64,
    /// Requests per second, over the short window.
    pub(crate) rate: f64,
    /// Seconds that one request takes at a worker.
    pub(crate) service: f64,
    /// Nothing is in flight, waits, arrives or is connected, as far as is known.
    pub(crate) quiet: bool,
    /// A balancer exists from which nothing is known.
    pub(crate) incomplete: bool,
    /// Nothing is known of the demand.
    pub(crate) unknown: bool,
}

impl Demand {
    pub(crate) fn new() -> Self {
        Self {
            sources: BTreeMap::new(),
            offered: Series::new(MAX_TREND),
            rate: Series::new(SHORT),
            cpu: Series::new(LONG),
            served: 0.0,
            completed: 0.0,
            service: None,
            last: None,
        }
    }

    /// Takes in what is observed at `now`. `room` is the number of requests that ready workers
    /// serve well at once.
    pub(crate) fn observe(
        &mut self,
        now: Duration,
        balancers: &[Balancer],
        fleet: &Fleet,
        room: f64,
    ) -> Load {
        let (completed, silent) = self.take(now, balancers);
        let sum = |part: fn(&Source) -> f64| self.sources.values().map(part).sum::<f64>();
        let sent = sum(|source| f64::from(source.report.in_flight));
        let held = sum(|source| f64::from(source.report.queued));
        let connected = sum(|source| f64::from(source.report.connected));
        let rate = sum(|source| source.rate.unwrap_or(0.0));
        let unknown = self.sources.is_empty() && !fleet.heard;
        // What a balancer has sent includes what waits within pods. Pods may also get requests
        // that come past all balancers.
        let in_flight = (sent - fleet.queued).max(fleet.in_flight).max(0.0);
        let present = in_flight + held + fleet.queued;
        let at_workers = in_flight.min(room);
        // What a silent balancer has in flight leaves unseen, so it says nothing of the time.
        self.measure_service(now, if silent { 0.0 } else { at_workers }, completed);
        let (min, max) = SERVICE_RANGE;
        // While no answer has come, one takes at least as long as requests have been waited for.
        let at_least = FIRST_SERVICE.max(self.served / MIN_COMPLETED);
        let service = self.service.unwrap_or(at_least).clamp(min, max);
        let offered = at_workers.max((rate * service).min(present));
        if !unknown {
            self.offered.push(now, offered);
            self.rate.push(now, rate);
            self.cpu.push(now, fleet.cpu_used);
        }
        let trend = (fleet.boot * 2).clamp(MIN_TREND, MAX_TREND);
        Load {
            short: self.offered.mean(now, SHORT),
            long: self.offered.mean(now, LONG),
            rise: self.offered.rise(now, trend),
            cpu_short: self.cpu.mean(now, SHORT),
            cpu_long: self.cpu.mean(now, LONG),
            waiting: present - at_workers,
            rate: self.rate.mean(now, SHORT),
            service,
            quiet: present + connected + rate <= 0.0,
            incomplete: silent,
            unknown,
        }
    }

    /// Takes in the reports. Returns the number of requests that have left, and whether a
    /// balancer is silent.
    fn take(&mut self, now: Duration, balancers: &[Balancer]) -> (f64, bool) {
        self.sources
            .retain(|name, _| balancers.iter().any(|one| one.name == *name));
        let (mut completed, mut silent) = (0.0, false);
        for balancer in balancers {
            let before = self.sources.get(&balancer.name).copied();
            let Some(report) = balancer.report.map(BalancerReport::bounded) else {
                silent = true;
                if before.is_some_and(|before| now > before.last + SILENCE) {
                    self.sources.remove(&balancer.name);
                }
                continue;
            };
            let mut rate = None;
            if let Some(before) = before {
                let seconds = now.saturating_sub(before.last).as_secs_f64();
                let arrivals = report.arrivals as f64;
                rate = if seconds > 0.0 {
                    Some(arrivals / seconds)
                } else {
                    before.rate
                };
                let present = |report: BalancerReport| {
                    f64::from(report.in_flight) + f64::from(report.queued)
                };
                completed += (arrivals + present(before.report) - present(report)).max(0.0);
            }
            let last = before.map_or(now, |before| before.last.max(now));
            let source = Source { last, report, rate };
            self.sources.insert(balancer.name.clone(), source);
        }
        (completed, silent)
    }

    fn measure_service(&mut self, now: Duration, at_workers: f64, completed: f64) {
        let last = self.last.replace(now).unwrap_or(now);
        let seconds = now.saturating_sub(last).as_secs_f64().min(MAX_GAP);
        let fade = (-seconds / SERVICE_MEMORY).exp();
        self.served = self.served * fade + at_workers * seconds;
        self.completed = self.completed * fade + completed;
        if self.completed >= MIN_COMPLETED && self.served > 0.0 {
            self.service = Some(self.served / self.completed);
        }
    }
}
