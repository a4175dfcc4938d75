//! An app as a fluid: requests are a quantity that arrives, waits, and is served at the rate that
//! ready pods allow. It follows each decision, and a test may break any part of it.

use std::time::Duration;

use jiff::Timestamp;
use scaledapp_scale::{
    Balancer, BalancerReport, CpuRange, Decision, Found, Moment, Observation, Pod, PodReport,
    PodState, Resize, Scaler, Settings,
};

/// 2026-12-01, a Tuesday, 06:00 UTC.
const BEGIN: i64 = 1_796_104_800;

/// One pod of the fluid.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) born: u64,
    /// A state that overrules what its age says.
    pub(crate) state: Option<PodState>,
    pub(crate) silent: bool,
    pub(crate) cpu: f64,
}

/// The app, its autoscaler and the time.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) scaler: Scaler,
    pub(crate) second: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) last: Decision,
    pub(crate) queue: f64,
    /// How long one request takes, in seconds.
    pub(crate) service: f64,
    /// How long a pod takes to start, in seconds.
    pub(crate) boot: u64,
    /// Requests that one worker serves at once.
    pub(crate) places: f64,
    /// How much CPU one request takes while it is served, in cores.
    pub(crate) cpu_each: f64,
    pub(crate) connected: u32,
    pub(crate) balancers_silent: [bool; 2],
    pub(crate) refused_above: Option<u32>,
    pub(crate) resize: Resize,
    /// Pods that exist beyond this number find no node.
    pub(crate) nodes_for: usize,
    /// Whether resizes are granted.
    pub(crate) grants: bool,
    start_cpu: f64,
    fraction: f64,
    created: u64,
}

pub(crate) fn moment(second: u64) -> Moment {
    Moment {
        elapsed: Duration::from_secs(second),
        wall: Timestamp::from_second(BEGIN + second as i64).unwrap_or_default(),
    }
}

impl App {
    /// An app with `pods` ready pods.
    pub(crate) fn new(settings: &Settings, pods: u32) -> Self {
        let found = Found {
            pods,
            workers: settings.workers.min().max(1),
            ..Found::default()
        };
        let mut scaler = Scaler::new(settings.clone(), found, moment(0));
        let cpu = settings.cpu.map_or(1.0, CpuRange::start);
        let last = scaler.clone().decide(moment(0), &Observation::default());
        let mut app = Self {
            service: 0.1,
            boot: 5,
            places: f64::from(settings.concurrency.unwrap_or(10)),
            cpu_each: 0.0,
            connected: 0,
            balancers_silent: [false; 2],
            refused_above: None,
            resize: Resize::Settled,
            nodes_for: usize::MAX,
            grants: true,
            second: 1000,
            members: Vec::new(),
            queue: 0.0,
            start_cpu: cpu,
            fraction: 0.0,
            created: 0,
            scaler: scaler.clone(),
            last,
        };
        scaler = Scaler::new(settings.clone(), found, moment(app.second));
        app.scaler = scaler;
        for _ in 0..pods {
            app.create(cpu, 0);
        }
        app.last.pods = pods;
        app
    }

    /// Restarts the operator, which finds what the Deployment and the status say.
    pub(crate) fn restart(&mut self, settings: &Settings) {
        let found = Found {
            pods: self.last.pods,
            workers: self.last.workers,
            cpu: self.last.cpu,
            concurrency: Some(self.last.concurrency),
            since: Some(self.last.since),
        };
        self.scaler = Scaler::new(settings.clone(), found, moment(self.second));
    }

    fn create(&mut self, cpu: f64, born: u64) {
        self.created += 1;
        let state = (self.members.len() >= self.nodes_for).then_some(PodState::Unschedulable);
        self.members.push(Member {
            name: format!("pod-{}", self.created),
            born,
            state,
            silent: false,
            cpu,
        });
    }

    fn state(&self, member: &Member) -> PodState {
        let by_age = if self.second >= member.born + self.boot {
            PodState::Ready
        } else {
            PodState::Starting
        };
        member.state.unwrap_or(by_age)
    }

    pub(crate) fn ready(&self) -> f64 {
        let ready = self.members.iter();
        ready
            .filter(|member| self.state(member) == PodState::Ready)
            .count() as f64
    }

    /// One second with `demand` requests at a time. Returns the decision.
    pub(crate) fn tick(&mut self, demand: f64) -> Decision {
        let seen = self.observe(demand);
        let decision = self.scaler.decide(moment(self.second), &seen);
        self.follow(&decision);
        self.last = decision.clone();
        decision
    }

    /// Runs for `seconds` with a demand that is a function of the seconds from now on. Returns the
    /// number of pods of each second.
    pub(crate) fn run(&mut self, seconds: u64, demand: impl Fn(u64) -> f64) -> Vec<u32> {
        (0..seconds)
            .map(|second| self.tick(demand(second)).pods)
            .collect()
    }

    fn observe(&mut self, demand: f64) -> Observation {
        self.second += 1;
        let workers = f64::from(self.last.workers.max(1));
        let room = self.ready() * workers * self.places;
        let arrivals = demand / self.service + self.fraction;
        self.fraction = arrivals.fract();
        let present = self.queue + arrivals.floor();
        let served = present.min(room / self.service);
        self.queue = present - served;
        let in_flight = (served * self.service).min(room);
        let part = |number: f64, at: usize| u32::midpoint(number.round() as u32, at as u32);
        let balancers = (0..2).map(|at| Balancer {
            name: format!("balancer-{at}"),
            report: (!self.balancers_silent[at]).then(|| BalancerReport {
                in_flight: part(in_flight, at),
                queued: part(self.queue, at),
                connected: self.connected,
                arrivals: u64::from(part(arrivals.floor(), at)),
            }),
        });
        let each = in_flight / self.ready().max(1.0);
        let pods = self.members.iter().map(|member| Pod {
            name: member.name.clone(),
            state: self.state(member),
            age: Duration::from_secs(self.second - member.born),
            resize: self.resize,
            cpu_limit: Some(member.cpu),
            report: (self.state(member) == PodState::Ready && !member.silent).then(|| PodReport {
                workers: self.last.workers.max(1),
                busy: each.min(workers).ceil() as u32,
                in_flight: each.floor() as u32,
                queued: 0,
                cpu_used: (each * self.cpu_each).min(member.cpu),
                answers: (served / self.ready().max(1.0)) as u64,
                answer_time: Duration::from_secs_f64(served / self.ready().max(1.0) * self.service),
                failures: 0,
                boot: Some(Duration::from_secs(self.boot)),
            }),
        });
        Observation {
            balancers: balancers.collect(),
            pods: pods.collect(),
            refused_above: self
                .refused_above
                .filter(|above| self.members.len() as u32 >= *above && self.last.pods > *above),
        }
    }

    fn follow(&mut self, decision: &Decision) {
        let limit = self.refused_above.unwrap_or(u32::MAX).min(decision.pods) as usize;
        while self.members.len() < limit {
            self.create(self.start_cpu, self.second);
        }
        self.members.truncate(decision.pods as usize);
        if let Some(cpu) = decision.cpu.filter(|_| self.grants) {
            for member in &mut self.members {
                member.cpu = cpu;
            }
        }
    }
}
