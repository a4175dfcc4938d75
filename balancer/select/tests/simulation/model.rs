//! A discrete-event simulation of balancers in front of pods. It decides what happens when;
//! which endpoint gets a request is decided by the code under test.
//!
//! Each balancer counts its own requests exactly and knows the others' only from the pods'
//! reports, as `scaledapp-proxy` does. A pod reports every 50 ms what is in flight there, and
//! the report takes a millisecond. Times are in microseconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::task::{Context, Waker};
use std::time::Duration;

use scaledapp_select::{
    Algorithm, Candidate, Chooser, Cursor, Others, Outcome, Outlier, Queue, Report, Rules,
    Standing, Survey, Ticket, Verdict, Visit, Warmth, key, may_eject_one_more, stands_out,
};

const REPORT_INTERVAL: u64 = 50_000;
const REPORT_DELAY: u64 = 1_000;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A request, with the time that each of its steps takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) arrives: u64,
    /// Work before and after waiting. Without waiting, there is only the first.
    pub(crate) work: [u64; 2],
    /// Time in which the worker may do something else, such as a query to a database.
    pub(crate) waits: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct PodSpec {
    pub(crate) workers: usize,
    /// Work takes this many times as long, in percent.
    pub(crate) slowness: u64,
    pub(crate) zone: u8,
    /// When the pod begins to serve; 0: before the balancers.
    pub(crate) starts: u64,
    /// At its start, its work takes four times as long. Over this time, that becomes the usual
    /// time.
    pub(crate) warms_up: u64,
    /// It answers everything with an error, in a millisecond.
    pub(crate) fails: bool,
}

pub(crate) const POD: PodSpec = PodSpec {
    workers: 4,
    slowness: 100,
    zone: 0,
    starts: 0,
    warms_up: 0,
    fails: false,
};

/// Everything but the requests.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) pods: Vec<PodSpec>,
    /// The zone of each balancer; `None`: it has no preference.
    pub(crate) balancers: Vec<Option<u8>>,
    pub(crate) algorithm: Algorithm,
    /// The most requests at a worker at once; further ones wait in the pod.
    pub(crate) per_worker: Option<u32>,
    pub(crate) slow_start: Duration,
}

/// What the clients saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// In the order of the requests.
    pub(crate) latencies: Vec<u64>,
    /// Which pod answered each request.
    pub(crate) pods: Vec<usize>,
    pub(crate) errors: usize,
    /// Requests that left their zone.
    pub(crate) left_zone: usize,
}

impl Seen {
    /// A percentile in milliseconds, of the requests in a range of times.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * percent / 100.0) as usize;
        sorted[at.min(sorted.len() - 1)] as f64 / 1000.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    /// A worker has done a step of its work.
    Worked(usize, usize),
    /// A request no longer waits.
    Waited(usize),
    Reports(usize),
    /// The number of requests in flight in a pod reaches the balancers.
    Reported(usize, u32),
    Ends,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, Default)]
struct At {
    balancer: usize,
    pod: usize,
    worker: usize,
    step: usize,
}

#[derive(Debug, Default)]
struct Worker {
    /// Requests whose next step is work, the one being worked on first.
    ready: VecDeque<usize>,
    in_flight: u32,
    heard: u64,
}

struct Pod<'q> {
    spec: PodSpec,
    workers: Vec<Worker>,
    queue: &'q Queue,
    waiting: VecDeque<(Ticket<'q>, usize)>,
    cursor: Cursor,
    in_flight: u32,
}

/// What one balancer knows of one pod.
#[derive(Debug, Default)]
struct View {
    own: u32,
    others: Others,
    outlier: Outlier,
    since: u64,
}

#[derive(Debug, Default)]
struct Balancer {
    zone: Option<u8>,
    views: Vec<View>,
    cursor: Cursor,
    survey: Survey,
}

pub(crate) struct Simulation<'q> {
    now: u64,
    setup: &'q Setup,
    jobs: &'q [Job],
    at: Vec<At>,
    pods: Vec<Pod<'q>>,
    balancers: Vec<Balancer>,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    count: usize,
    random: fastrand::Rng,
    seen: Seen,
}

/// Lets the requests arrive, and returns what their clients saw.
pub(crate) fn simulate(setup: &Setup, jobs: &[Job]) -> Seen {
    let limit = setup.per_worker.and_then(NonZeroU32::new);
    let queues: Vec<Queue> = (setup.pods.iter())
        .map(|_| Queue::new(limit, usize::MAX))
        .collect();
    Simulation::new(setup, jobs, &queues).run()
}

fn time(now: u64) -> Duration {
    // The clock does not begin at 0, which would mean "never" to some of the code.
    Duration::from_micros(now + 1_000_000)
}

impl<'q> Simulation<'q> {
    fn new(setup: &'q Setup, jobs: &'q [Job], queues: &'q [Queue]) -> Self {
        let pods = setup.pods.iter().zip(queues).map(|(spec, queue)| Pod {
            spec: *spec,
            workers: (0..spec.workers).map(|_| Worker::default()).collect(),
            queue,
            waiting: VecDeque::new(),
            cursor: Cursor::default(),
            in_flight: 0,
        });
        let view = |spec: &PodSpec| View {
            since: spec.starts,
            ..View::default()
        };
        let balancers = setup.balancers.iter().map(|zone| Balancer {
            zone: *zone,
            views: setup.pods.iter().map(view).collect(),
            ..Balancer::default()
        });
        Self {
            now: 0,
            setup,
            jobs,
            at: vec![At::default(); jobs.len()],
            pods: pods.collect(),
            balancers: balancers.collect(),
            events: BinaryHeap::new(),
            count: 0,
            random: fastrand::Rng::with_seed(11),
            seen: Seen {
                latencies: vec![0; jobs.len()],
                pods: vec![0; jobs.len()],
                ..Seen::default()
            },
        }
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    fn run(mut self) -> Seen {
        self.plan(self.jobs[0].arrives, Event::Arrives(0));
        for pod in 0..self.pods.len() {
            self.plan(pod as u64 * 7_000, Event::Reports(pod));
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrives(job) => self.arrives(job),
                Event::Worked(pod, worker) => self.worked(pod, worker),
                Event::Waited(job) => self.is_ready(job),
                Event::Reports(pod) => {
                    let in_flight = self.pods[pod].in_flight;
                    self.plan(at + REPORT_DELAY, Event::Reported(pod, in_flight));
                    self.plan(at + REPORT_INTERVAL, Event::Reports(pod));
                }
                Event::Reported(pod, all) => {
                    let report = Report {
                        capacity: self.pods[pod].spec.workers as u32,
                        in_flight: all,
                        queued: 0,
                    };
                    for balancer in &mut self.balancers {
                        let view = &mut balancer.views[pod];
                        view.others.report(report, view.own, time(at));
                    }
                }
                Event::Ends => break,
            }
        }
        self.seen
    }

    fn arrives(&mut self, job: usize) {
        match self.jobs.get(job + 1) {
            Some(next) => self.plan(next.arrives, Event::Arrives(job + 1)),
            // Long after the last request has been answered.
            None => self.plan(self.now + 600_000_000, Event::Ends),
        }
        let balancer = self.random.usize(..self.balancers.len());
        let pod = self.choose_pod(balancer);
        self.at[job] = At {
            balancer,
            pod,
            ..At::default()
        };
        self.seen.pods[job] = pod;
        let zone = self.balancers[balancer].zone;
        self.seen.left_zone +=
            usize::from(zone.is_some_and(|zone| zone != self.pods[pod].spec.zone));
        self.balancers[balancer].views[pod].own += 1;
        self.pods[pod].in_flight += 1;
        let queue = self.pods[pod].queue;
        if !queue.is_contended()
            && let Some(worker) = self.choose_worker(pod)
        {
            return self.begins(job, worker);
        }
        let mut ticket = queue.join(Visit::First).unwrap();
        let turn = ticket.poll_turn(&Context::from_waker(Waker::noop()), Duration::ZERO);
        if turn.is_ready() {
            // As in the proxy, a request that joins an empty queue looks once more.
            assert!(self.choose_worker(pod).is_none());
            ticket.found_nothing(true);
            let turn = ticket.poll_turn(&Context::from_waker(Waker::noop()), Duration::ZERO);
            assert!(turn.is_pending());
        }
        self.pods[pod].waiting.push_back((ticket, job));
    }

    fn choose_pod(&mut self, balancer: usize) -> usize {
        let (now, setup) = (self.now, self.setup);
        let Balancer {
            zone,
            views,
            cursor,
            survey,
        } = &mut self.balancers[balancer];
        let see = |pod: usize| {
            let (spec, view) = (&setup.pods[pod], &views[pod]);
            let standing = if spec.starts <= now {
                Standing::Serving
            } else {
                Standing::Unready
            };
            let age = if view.since == 0 {
                Duration::MAX
            } else {
                Duration::from_micros(now.saturating_sub(view.since))
            };
            Candidate {
                key: key(([10, 0, 0, pod as u8], 80).into()),
                tag: pod as u64,
                standing,
                ejected: !view.outlier.admits(time(now)),
                tried: false,
                full: false,
                load: (u64::from(view.own) * 1000 + view.others.thousandths())
                    / spec.workers as u64,
                heard: Duration::ZERO,
                is_local: *zone == Some(spec.zone),
                warmth: Warmth::of(setup.slow_start, age),
            }
        };
        if survey.is_due(time(now)) {
            survey.renew(time(now), setup.pods.len(), see);
        }
        let mut chooser = Chooser {
            algorithm: setup.algorithm,
            survey,
            client: CLIENT,
            cursor,
            random: &mut self.random,
        };
        loop {
            let pod = chooser.choose(see).unwrap();
            let outlier = &views[pod].outlier;
            if !outlier.admits(time(now)) || outlier.enter(time(now)) {
                return pod;
            }
        }
    }

    /// What the dispatcher in the pod does.
    fn choose_worker(&mut self, pod: usize) -> Option<usize> {
        let Pod {
            workers,
            cursor,
            queue,
            ..
        } = &mut self.pods[pod];
        let limit = queue.limit().map_or(u32::MAX, NonZeroU32::get);
        let see = |at: usize| Candidate {
            key: at as u64,
            tag: at as u64,
            standing: Standing::Serving,
            ejected: false,
            tried: false,
            full: workers[at].in_flight >= limit,
            load: u64::from(workers[at].in_flight) * 1000,
            heard: Duration::from_micros(workers[at].heard),
            is_local: false,
            warmth: Warmth::FULL,
        };
        let mut chooser = Chooser {
            algorithm: Algorithm::LeastOfAll,
            survey: &Survey::of(workers.len(), see),
            client: CLIENT,
            cursor,
            random: &mut self.random,
        };
        chooser.choose(see)
    }

    fn begins(&mut self, job: usize, worker: usize) {
        self.at[job].worker = worker;
        self.pods[self.at[job].pod].workers[worker].in_flight += 1;
        self.is_ready(job);
    }

    /// The next step of a request is work.
    fn is_ready(&mut self, job: usize) {
        let At { pod, worker, .. } = self.at[job];
        let ready = &mut self.pods[pod].workers[worker].ready;
        ready.push_back(job);
        if ready.len() == 1 {
            self.works(pod, worker);
        }
    }

    fn works(&mut self, pod: usize, worker: usize) {
        let spec = self.pods[pod].spec;
        let Some(&job) = self.pods[pod].workers[worker].ready.front() else {
            return;
        };
        let work = self.jobs[job].work[self.at[job].step] * spec.slowness / 100;
        let age = self.now - spec.starts;
        // Four times as long at the start.
        let cold = 3 * work * spec.warms_up.saturating_sub(age) / spec.warms_up.max(1);
        let takes = if spec.fails { 1_000 } else { work + cold };
        self.plan(self.now + takes.max(1), Event::Worked(pod, worker));
    }

    fn worked(&mut self, pod: usize, worker: usize) {
        let job = self.pods[pod].workers[worker].ready.pop_front().unwrap();
        // The worker goes on with its next request, if it has one.
        self.works(pod, worker);
        let waits = self.jobs[job].waits;
        if self.at[job].step == 0 && waits > 0 && !self.pods[pod].spec.fails {
            self.at[job].step = 1;
            self.plan(self.now + waits, Event::Waited(job));
        } else {
            self.ends(job);
        }
    }

    fn ends(&mut self, job: usize) {
        let At {
            balancer,
            pod,
            worker,
            ..
        } = self.at[job];
        self.seen.latencies[job] = self.now - self.jobs[job].arrives;
        let fails = self.pods[pod].spec.fails;
        self.seen.errors += usize::from(fails);
        self.note(balancer, pod, fails);
        self.balancers[balancer].views[pod].own -= 1;
        let one = &mut self.pods[pod];
        one.in_flight -= 1;
        one.workers[worker].in_flight -= 1;
        one.workers[worker].heard = self.now;
        one.queue.freed();
        let Some((ticket, _)) = one.waiting.front_mut() else {
            return;
        };
        let turn = ticket.poll_turn(&Context::from_waker(Waker::noop()), Duration::ZERO);
        assert!(turn.is_ready(), "a worker is idle while a request waits");
        let worker = self.choose_worker(pod).unwrap();
        let (ticket, job) = self.pods[pod].waiting.pop_front().unwrap();
        ticket.found();
        self.begins(job, worker);
    }

    fn note(&mut self, balancer: usize, pod: usize, fails: bool) {
        let now = time(self.now);
        let outcome = if fails {
            Outcome::Error
        } else {
            Outcome::Answered
        };
        let rules = Rules {
            counts_errors: true,
        };
        let views = &self.balancers[balancer].views;
        let others = || views.iter().enumerate().filter(|(at, _)| *at != pod);
        let may_eject = || {
            let out = others().filter(|(_, other)| other.outlier.is_out()).count();
            may_eject_one_more(out, views.len())
                && stands_out(
                    views[pod].outlier.recent(now),
                    others().map(|(_, other)| other.outlier.recent(now)),
                )
        };
        let outlier = &views[pod].outlier;
        let verdict = outlier.note(outcome, now, rules, may_eject, &mut self.random);
        if verdict == Verdict::Back {
            self.balancers[balancer].views[pod].since = self.now;
        }
    }
}
