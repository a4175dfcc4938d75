//! The event simulation: requests, pods and a queue, on a clock of its own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use scaledapp_select::{Algorithm, Candidate, Chooser, Cursor, Standing, Survey, Warmth};

use crate::trace::{Fault, MAX_PODS, PLACES, Trace};
use crate::view::{PodView, Rules, State, View};

/// Microseconds since the trace began.
type Micros = u64;
const SECOND: Micros = 1_000_000;
/// A request that has waited longer than this is late.
const LATE: Micros = SECOND;
/// After this time Kubernetes gives up the pods of a node that is gone.
const GIVEN_UP: Micros = 120 * SECOND;

/// The result of one run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests in all.
    pub requests: u64,
    /// Requests that waited for more than a second.
    pub late: u64,
    /// The sum over all pods of the seconds that each was paid for.
    pub pod_seconds: f64,
    /// How often the number of pods was changed.
    pub changes: u64,
    /// The longest queue.
    pub max_queue: usize,
    /// What happened in each second, for drawings.
    pub seconds: Vec<Second>,
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Second {
    /// How many requests clients want served at once.
    pub demand: f64,
    /// How many requests the ready pods can serve at once.
    pub capacity: f64,
    /// Waiting requests.
    pub queue: f64,
    /// Late requests that left the queue in this second.
    pub late: f64,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    arrived: Micros,
    service: Micros,
    /// Its client sends the next one when this one is answered.
    is_followed: bool,
}

#[derive(Debug)]
struct Pod {
    number: u64,
    state: State,
    leaving: bool,
    born: Micros,
    requests: Vec<(u64, Request)>,
    answers: u64,
    answer_time: Micros,
    /// The time that requests have spent in this pod since the last tick, summed over the
    /// requests, up to the time `counted`.
    used: Micros,
    counted: Micros,
}

impl Pod {
    /// Counts the time since the last change of the number of requests.
    fn count(&mut self, now: Micros) {
        self.used += self.requests.len() as u64 * (now - self.counted);
        self.counted = now;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Clients,
    Done { pod: u64, request: u64 },
    Ready { pod: u64 },
    NodeGone,
    GiveUp { pod: u64 },
    Tick,
}

struct World<'a> {
    trace: &'a Trace,
    now: Micros,
    clients: fastrand::Rng,
    random: fastrand::Rng,
    cursor: Cursor,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    sequence: u64,
    pods: Vec<Pod>,
    queue: VecDeque<Request>,
    wanted: u32,
    arrivals: u64,
    /// Clients that each have one request present.
    waiting_clients: u32,
    outcome: Outcome,
    late_now: f64,
}

/// Runs one trace with one set of rules.
pub fn run(trace: &Trace, rules: &mut dyn Rules, seed: u64) -> Outcome {
    let mut world = World {
        trace,
        now: 0,
        clients: fastrand::Rng::with_seed(seed),
        random: fastrand::Rng::with_seed(seed ^ 0x5ca1_ab1e),
        cursor: Cursor::default(),
        events: BinaryHeap::new(),
        sequence: 0,
        pods: Vec::new(),
        queue: VecDeque::new(),
        wanted: 0,
        arrivals: 0,
        waiting_clients: 0,
        outcome: Outcome::default(),
        late_now: 0.0,
    };
    world.begin(rules);
    let end = trace.seconds * SECOND;
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.on(event, rules);
    }
    let (now, waiting) = (end, std::mem::take(&mut world.queue));
    let late = waiting.iter().filter(|one| one.arrived + LATE < now);
    world.outcome.late += late.count() as u64;
    world.outcome
}

impl World<'_> {
    /// Every rule begins with the pods that the first load needs, so that no rule is judged by
    /// its first minute.
    fn begin(&mut self, rules: &mut dyn Rules) {
        let load = self.demand(0.0);
        let pods = (load / 0.7 / f64::from(PLACES)).ceil() as u32;
        self.wanted = pods.max(rules.min_pods(self.trace));
        for _ in 0..self.wanted {
            self.add_pod();
        }
        for pod in &mut self.pods {
            pod.state = State::Ready;
        }
        rules.begin(self.trace, self.wanted);
        self.push(SECOND, Event::Tick);
        if let Fault::NodeGone(second) = self.trace.fault {
            self.push(second * SECOND, Event::NodeGone);
        }
        self.next_arrival();
        self.push(SECOND / 2, Event::Clients);
    }

    /// How many requests clients want served at once.
    fn demand(&self, at: f64) -> f64 {
        (self.trace.rate)(at) * self.trace.service.mean() + (self.trace.clients)(at)
    }

    fn push(&mut self, at: Micros, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    /// Draws the next arrival by thinning, from a rate that no trace exceeds.
    fn next_arrival(&mut self) {
        const MOST: f64 = 120.0;
        let mut at = self.now;
        let end = self.trace.seconds * SECOND;
        while at <= end {
            let pause = -(1.0 - self.clients.f64()).max(1e-12).ln() / MOST;
            at += (pause * SECOND as f64) as Micros + 1;
            let rate = (self.trace.rate)(at as f64 / SECOND as f64);
            if self.clients.f64() * MOST < rate {
                self.push(at, Event::Arrival);
                return;
            }
        }
    }

    fn on(&mut self, event: Event, rules: &mut dyn Rules) {
        match event {
            Event::Arrival => {
                self.arrive(false);
                self.next_arrival();
                self.dispatch();
            }
            Event::Clients => {
                self.push(self.now + SECOND, Event::Clients);
                let clients = (self.trace.clients)(self.now as f64 / SECOND as f64) as u32;
                for _ in self.waiting_clients..clients {
                    self.arrive(true);
                }
                self.waiting_clients = self.waiting_clients.max(clients);
                self.dispatch();
            }
            Event::Done { pod, request } => self.done(pod, request),
            Event::Ready { pod } => {
                if let Some(pod) = self.pods.iter_mut().find(|one| one.number == pod)
                    && pod.state == State::Starting
                {
                    pod.state = State::Ready;
                }
                self.dispatch();
            }
            Event::NodeGone => self.node_gone(),
            Event::GiveUp { pod } => {
                self.pods.retain(|one| one.number != pod);
                self.follow();
            }
            Event::Tick => {
                self.push(self.now + SECOND, Event::Tick);
                self.tick(rules);
            }
        }
    }

    fn arrive(&mut self, is_followed: bool) {
        let service = self.trace.service.draw(&mut self.clients) * SECOND as f64;
        self.queue.push_back(Request {
            arrived: self.now,
            service: service as Micros + 1,
            is_followed,
        });
        self.outcome.requests += 1;
        self.arrivals += 1;
    }

    /// Sends waiting requests to pods, as long as one has a place.
    fn dispatch(&mut self) {
        while !self.queue.is_empty() {
            let pods = &self.pods;
            let see = |at: usize| {
                let pod = &pods[at];
                let standing = match (pod.state, pod.leaving) {
                    (State::Ready, false) => Standing::Serving,
                    _ => Standing::Unready,
                };
                Candidate {
                    key: pod.number,
                    tag: pod.number,
                    standing,
                    ejected: false,
                    tried: false,
                    full: pod.requests.len() >= PLACES as usize,
                    load: pod.requests.len() as u64 * 1000 / u64::from(PLACES),
                    heard: Duration::ZERO,
                    is_local: false,
                    warmth: Warmth::FULL,
                }
            };
            let chosen = Chooser {
                algorithm: Algorithm::LeastOfTwo,
                survey: &Survey::of(pods.len(), see),
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                cursor: &mut self.cursor,
                random: &mut self.random,
            }
            .choose(see);
            let (Some(chosen), Some(request)) = (chosen, self.queue.front().copied()) else {
                break;
            };
            self.queue.pop_front();
            if self.now > request.arrived + LATE {
                self.outcome.late += 1;
                self.late_now += 1.0;
            }
            self.sequence += 1;
            let id = self.sequence;
            let pod = &mut self.pods[chosen];
            pod.count(self.now);
            pod.requests.push((id, request));
            let slower = match self.trace.fault {
                Fault::Leak(seconds) => {
                    1.0 + (self.now - pod.born) as f64 / SECOND as f64 / seconds
                }
                _ => 1.0,
            };
            let number = pod.number;
            let service = (request.service as f64 * slower) as Micros;
            self.push(
                self.now + service,
                Event::Done {
                    pod: number,
                    request: id,
                },
            );
        }
        self.outcome.max_queue = self.outcome.max_queue.max(self.queue.len());
    }

    fn done(&mut self, pod: u64, request: u64) {
        let Some(at) = self.pods.iter().position(|one| one.number == pod) else {
            return;
        };
        let pod = &mut self.pods[at];
        let Some(place) = pod.requests.iter().position(|(id, _)| *id == request) else {
            return;
        };
        pod.count(self.now);
        let (_, request) = pod.requests.swap_remove(place);
        pod.answers += 1;
        pod.answer_time += request.service;
        if pod.leaving && pod.requests.is_empty() {
            self.pods.remove(at);
        }
        if request.is_followed {
            let clients = (self.trace.clients)(self.now as f64 / SECOND as f64) as u32;
            if self.waiting_clients > clients {
                self.waiting_clients -= 1;
            } else {
                self.arrive(true);
            }
        }
        self.dispatch();
    }

    fn node_gone(&mut self) {
        let ready = self.pods.iter().filter(|pod| pod.state == State::Ready);
        let gone = ready.count().div_ceil(3);
        let mut given_up = Vec::new();
        for pod in self
            .pods
            .iter_mut()
            .filter(|pod| pod.state == State::Ready)
            .take(gone)
        {
            pod.state = State::Lost;
            pod.count(self.now);
            // Balancers repeat what was in flight.
            for (_, request) in pod.requests.drain(..) {
                self.queue.push_front(request);
            }
            given_up.push(pod.number);
        }
        for pod in given_up {
            self.push(self.now + GIVEN_UP, Event::GiveUp { pod });
        }
        self.dispatch();
    }

    fn add_pod(&mut self) {
        self.sequence += 1;
        let number = self.sequence;
        self.pods.push(Pod {
            number,
            state: State::Starting,
            leaving: false,
            born: self.now,
            requests: Vec::new(),
            answers: 0,
            answer_time: 0,
            used: 0,
            counted: self.now,
        });
        let boot = (self.trace.boot * SECOND as f64) as Micros;
        self.push(self.now + boot, Event::Ready { pod: number });
    }

    /// Adds or removes pods until there are as many as are wanted.
    fn follow(&mut self) {
        let present = self.pods.iter().filter(|pod| !pod.leaving).count();
        for _ in present..self.wanted as usize {
            self.add_pod();
        }
        // As a ReplicaSet does: first those that are not ready, then the youngest.
        let mut too_many = present.saturating_sub(self.wanted as usize);
        while too_many > 0 {
            too_many -= 1;
            let staying = self.pods.iter_mut().filter(|pod| !pod.leaving);
            let first = staying.max_by_key(|pod| (pod.state != State::Ready, pod.born, pod.number));
            if let Some(pod) = first {
                pod.leaving = true;
            }
        }
        self.pods
            .retain(|pod| !(pod.leaving && pod.requests.is_empty()));
    }

    fn tick(&mut self, rules: &mut dyn Rules) {
        let paid = self.pods.iter().filter(|pod| pod.state != State::Lost);
        self.outcome.pod_seconds += paid.count() as f64;
        let mut view = View {
            second: self.now / SECOND,
            queued: self.queue.len() as u32,
            arrivals: std::mem::take(&mut self.arrivals),
            wanted: self.wanted,
            ..View::default()
        };
        let mut places = 0;
        for pod in &mut self.pods {
            let in_flight = pod.requests.len() as u32;
            pod.count(self.now);
            let used = std::mem::take(&mut pod.used) as f64 / SECOND as f64;
            view.in_flight += in_flight;
            let answers = std::mem::take(&mut pod.answers);
            let answer_time = Duration::from_micros(std::mem::take(&mut pod.answer_time));
            if pod.leaving {
                continue;
            }
            places += if pod.state == State::Ready { PLACES } else { 0 };
            view.pods.push(PodView {
                number: pod.number,
                state: pod.state,
                age: Duration::from_micros(self.now - pod.born),
                in_flight,
                used,
                answers,
                answer_time,
            });
        }
        let at = self.now as f64 / SECOND as f64;
        self.outcome.seconds.push(Second {
            demand: self.demand(at),
            capacity: f64::from(places),
            queue: f64::from(view.queued),
            late: std::mem::take(&mut self.late_now),
        });
        let wanted = rules.tick(&view).min(MAX_PODS);
        if wanted != self.wanted {
            self.outcome.changes += 1;
            self.wanted = wanted;
            self.follow();
        }
    }
}
