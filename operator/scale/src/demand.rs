//! How many requests clients want served at the same time, by Little's law over all balancers.
//!
//! While every request finds room, the demand is what is in flight. When requests wait, what is in
//! flight shows the capacity and not the demand. The demand is then the rate of arrivals times the
//! time that one request takes at a worker; the requests that wait are a backlog, which is worked
//! off once. A rule that counts waiting requests as demand orders capacity to serve all of them at
//! once, and has far too much when they are gone. Clients that send nothing while they wait are the
//! exception: the requests that wait for them are demand (`standing.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fleet::{Fleet, SILENCE};
use crate::sample::{Balancer, BalancerReport};
use crate::standing::{Present, StandingQueue};
use crate::window::Series;

/// A balancer is silent if its last report is older than this. One observation without a report is
/// normal.
const LATE: Duration = Duration::from_secs(5);
/// The short window: what happens now. Three observations a second apart; one alone is mostly
/// chance.
pub(crate) const SHORT: Duration = Duration::from_secs(3);
/// The long window: what is usual now.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// Growth is measured over at least this and at most [`MAX_TREND`].
const MIN_TREND: Duration = Duration::from_secs(20);
const MAX_TREND: Duration = Duration::from_mins(1);
/// The time that one request takes, until it has been measured, in seconds.
const FIRST_SERVICE: f64 = 0.25;
/// Arrivals are counted over one second. Their number minus this many standard deviations is
/// certainly more than chance.
const CERTAIN: f64 = 2.0;
/// Over how many seconds the time of one request is averaged.
const SERVICE_MEMORY: f64 = 20.0;
/// [`FIRST_SERVICE`] counts as much as this many measured requests.
const FIRST_WEIGHT: f64 = 3.0;
/// Requests that take up to the first number of seconds are short. From the second number on, they
/// are long.
const SHORT_AND_LONG: (f64, f64) = (0.5, 2.0);
/// Bounds of the time of one request, in seconds.
const SERVICE_RANGE: (f64, f64) = (0.001, 3600.0);
/// A longer time between two observations counts as this many seconds.
const MAX_GAP: f64 = 30.0;

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
    /// Requests that have left since the time of one request was last measured.
    left: f64,
    /// A balancer has reported for the first time since then.
    is_fresh: bool,
    /// Requests at workers at that time.
    before: f64,
    at_workers: Series,
    last: Option<Duration>,
    standing: StandingQueue,
    /// Requests that have arrived since the queue was last looked at.
    arrived: f64,
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
    /// Requests at a time, if clients send nothing while they wait; 0 if they do not seem to.
    pub(crate) standing: f64,
    /// Requests per second, over the short window.
    pub(crate) rate: f64,
    /// Seconds that one request takes at a worker.
    pub(crate) service: f64,
    /// Nothing is in flight, waits, arrives or is connected, as far as is known.
    pub(crate) quiet: bool,
    /// A balancer is silent.
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
            at_workers: Series::new(LONG),
            served: FIRST_SERVICE * FIRST_WEIGHT,
            completed: FIRST_WEIGHT,
            left: 0.0,
            is_fresh: false,
            before: 0.0,
            last: None,
            standing: StandingQueue::default(),
            arrived: 0.0,
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
        let silent = self.take(now, balancers);
        let sum = |part: fn(&Source) -> f64| self.sources.values().map(part).sum::<f64>();
        let sent = sum(|source| f64::from(source.report.in_flight));
        let held = sum(|source| f64::from(source.report.queued));
        let connected = sum(|source| f64::from(source.report.connected));
        let rate = sum(|source| source.rate.unwrap_or(0.0));
        let unknown = self.sources.is_empty() && !fleet.heard;
        // What a balancer has sent includes what waits within pods. Pods may also get requests
        // that bypass all balancers.
        let in_flight = (sent - fleet.queued).max(fleet.in_flight).max(0.0);
        let present = in_flight + held + fleet.queued;
        let at_workers = in_flight.min(room);
        let waiting = present - at_workers;
        // Requests of a silent balancer end without being counted. So the time of one request is
        // measured only when all balancers have reported, over the whole time since the last
        // measurement. The same holds for the queue.
        let mut standing = 0.0;
        if balancers.iter().all(|balancer| balancer.report.is_some()) {
            let queue = Present {
                all: sent + held,
                at_workers,
                waiting,
                room,
            };
            let passed = std::mem::take(&mut self.arrived) + self.left;
            standing = match self.standing.observe(now, queue, passed) {
                0.0 => 0.0,
                waiting => at_workers + waiting,
            };
            self.measure_service(now, at_workers);
        }
        let service = (self.served / self.completed).clamp(SERVICE_RANGE.0, SERVICE_RANGE.1);
        // Many short requests are counted best as they arrive: what is in flight at one moment is
        // mostly chance. Few long ones are counted best while they are in flight.
        let by_arrivals = (rate * service).min(present * 3.0 + 3.0);
        let by_presence = at_workers.max((rate * service).min(present));
        let (short, long) = SHORT_AND_LONG;
        let share = ((service - short) / (long - short)).clamp(0.0, 1.0);
        let offered = by_arrivals * (1.0 - share) + by_presence * share;
        let quiet = present + connected + rate <= 0.0;
        if !unknown {
            self.offered.push(now, offered);
            self.at_workers.push(now, at_workers);
            self.rate.push(now, rate);
            self.cpu.push(now, fleet.cpu_used);
        }
        // A mean of three seconds needs three seconds to follow a jump. What has arrived since the last
        // observation counts at once, as far as it cannot be chance.
        let sure = (rate - CERTAIN * rate.sqrt()).max(0.0);
        let rate = self.rate.mean(now, SHORT).max(sure);
        let jump = (rate * service).min(present);
        // Right after a start, the mean of a window would come from its first few values, which are
        // mostly chance.
        let known = |mean: f64, after: Duration| {
            if self.offered.covers(now, after) {
                mean
            } else {
                0.0
            }
        };
        let trend = fleet.boot.mul_f64(0.6).clamp(MIN_TREND, MAX_TREND);
        Load {
            short: known(self.offered.mean(now, SHORT), SHORT).max(jump),
            long: known(
                self.offered
                    .mean(now, LONG)
                    .max(self.at_workers.mean(now, LONG)),
                LONG / 2,
            ),
            rise: self.offered.rise(now, trend),
            cpu_short: known(self.cpu.mean(now, SHORT), SHORT),
            cpu_long: known(self.cpu.mean(now, LONG), LONG / 2),
            waiting,
            standing,
            rate,
            service,
            quiet,
            incomplete: silent,
            unknown,
        }
    }

    /// Takes in the reports. Returns whether a balancer is silent.
    fn take(&mut self, now: Duration, balancers: &[Balancer]) -> bool {
        self.sources
            .retain(|name, _| balancers.iter().any(|one| one.name == *name));
        let mut silent = false;
        for balancer in balancers {
            let before = self.sources.get(&balancer.name).copied();
            let Some(report) = balancer.report.map(BalancerReport::bounded) else {
                silent |= before.is_none_or(|before| now > before.last + LATE);
                if before.is_some_and(|before| now > before.last + SILENCE) {
                    self.sources.remove(&balancer.name);
                }
                continue;
            };
            let mut rate = None;
            self.is_fresh |= before.is_none();
            if let Some(before) = before {
                let seconds = now.saturating_sub(before.last).as_secs_f64();
                let arrivals = report.arrivals as f64;
                rate = if seconds > 0.0 {
                    Some(arrivals / seconds)
                } else {
                    before.rate
                };
                let present =
                    |report: BalancerReport| f64::from(report.in_flight) + f64::from(report.queued);
                self.arrived += arrivals;
                self.left += (arrivals + present(before.report) - present(report)).max(0.0);
            }
            let last = before.map_or(now, |before| before.last.max(now));
            let source = Source { last, report, rate };
            self.sources.insert(balancer.name.clone(), source);
        }
        silent
    }

    fn measure_service(&mut self, now: Duration, at_workers: f64) {
        let completed = std::mem::take(&mut self.left);
        if std::mem::take(&mut self.is_fresh) {
            // What has left a balancer before its first report is unknown.
            (self.last, self.before) = (Some(now), at_workers);
            return;
        }
        let last = self.last.replace(now).unwrap_or(now);
        let seconds = now.saturating_sub(last).as_secs_f64().min(MAX_GAP);
        let fade = (-seconds / SERVICE_MEMORY).exp();
        // After an idle time, the first requests have just been sent and cannot have ended yet.
        let throughout = if self.before > 0.0 {
            f64::midpoint(self.before, at_workers)
        } else {
            0.0
        };
        self.before = at_workers;
        // What a busy time has shown is not forgotten while the app is idle.
        if throughout > 0.0 || completed > 0.0 {
            self.served = self.served * fade + throughout * seconds + FIRST_SERVICE * (1.0 - fade);
            self.completed = self.completed * fade + completed + (1.0 - fade);
        }
    }
}
