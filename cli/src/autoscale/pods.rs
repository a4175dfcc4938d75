//! Which of an app's pods run, and which of them start or stop when another number is wanted.
//!
//! A local run has addresses for as many pods as `autoscaling.pods.max` allows. Each pod is off,
//! starts, is ready or drains. `scaledapp-scale` decides how many there should be.

use std::time::Duration;

use scaledapp_scale::{Pod, PodLedger, PodReport, PodState, Resize};
use scaledapp_wire::PodLoad;

/// What a pod does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It does not run.
    Off,
    /// It runs since this time, and none of its workers was ready yet.
    Starting(Duration),
    /// It runs since this time, and had a ready worker.
    Ran(Duration),
    /// It was started at this time; its process has ended by itself, and has had no ready worker
    /// since.
    Failed(Duration),
    /// It was asked to stop.
    Leaving(Duration),
}

/// One pod.
#[derive(Debug)]
struct One {
    name: String,
    state: State,
    ledger: PodLedger,
    /// What it has reported last.
    last: Option<PodReport>,
}

/// All pods of an app.
#[derive(Debug)]
pub(crate) struct Pods(Vec<One>);

/// What has to be done to a pod, which is named by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Its process is started.
    Start(usize),
    /// The balancers leave it, and it drains.
    Stop(usize),
}

impl Pods {
    /// Pods of which the first `running` have just become ready, and the others do not run.
    pub(crate) fn new(names: impl Iterator<Item = String>, running: usize, now: Duration) -> Self {
        let one = |(index, name)| One {
            name,
            state: if index < running {
                State::Ran(now)
            } else {
                State::Off
            },
            ledger: PodLedger::default(),
            last: None,
        };
        Self(names.enumerate().map(one).collect())
    }

    /// Takes a line of the pod's `/load`.
    pub(crate) fn on(&mut self, index: usize, now: Duration, load: PodLoad) {
        let Some(one) = self.0.get_mut(index) else {
            return;
        };
        match one.state {
            // The line is older than the end of the process.
            State::Off => return,
            State::Starting(since) | State::Failed(since) if load.workers > 0 => {
                one.state = State::Ran(since);
            }
            _ => {}
        }
        one.ledger.on(now, load);
    }

    /// The pod's process has ended. Whether that was asked for, so that it is not started again.
    pub(crate) fn ended(&mut self, index: usize) -> bool {
        let Some(one) = self.0.get_mut(index) else {
            return false;
        };
        (one.last, one.ledger) = (None, PodLedger::default());
        match one.state {
            State::Leaving(_) => one.state = State::Off,
            State::Ran(since) | State::Starting(since) | State::Failed(since) => {
                one.state = State::Failed(since);
            }
            State::Off => {}
        }
        one.state == State::Off
    }

    /// Whether a pod whose process does not run is to stay so. One that was asked to stop during the
    /// pause before its restart has then left.
    pub(crate) fn left(&mut self, index: usize) -> bool {
        let Some(one) = self.0.get_mut(index) else {
            return false;
        };
        if let State::Leaving(_) = one.state {
            one.state = State::Off;
        }
        one.state == State::Off
    }

    /// What the autoscaler sees of the pods at `now`.
    pub(crate) fn observe(&mut self, now: Duration) -> Vec<Pod> {
        let mut pods = Vec::new();
        for one in &mut self.0 {
            let (state, since) = match one.state {
                State::Off => continue,
                State::Starting(since) => (PodState::Starting, since),
                State::Ran(since) => (PodState::Ready, since),
                State::Failed(since) => (PodState::CrashLooping, since),
                State::Leaving(since) => (PodState::Leaving, since),
            };
            let report = one.ledger.take();
            if report.is_some() {
                one.last = report;
            }
            let is_down = one.last.is_some_and(|last| last.workers == 0);
            pods.push(Pod {
                name: one.name.clone(),
                state: match state {
                    PodState::Ready if is_down => PodState::NotReady,
                    state => state,
                },
                age: now.saturating_sub(since),
                resize: Resize::Settled,
                cpu_limit: None,
                report,
            });
        }
        pods
    }

    /// What has to be done so that `wanted` pods run: the first pods that are off start, and the
    /// pods with the fewest requests stop. A pod that drains cannot be taken back.
    pub(crate) fn change(&mut self, wanted: usize, now: Duration) -> Vec<Change> {
        let running = self.running().count();
        let mut changes = Vec::new();
        if wanted > running {
            let off = self.0.iter_mut().enumerate();
            let off = off.filter(|(_, one)| one.state == State::Off);
            for (index, one) in off.take(wanted - running) {
                one.state = State::Starting(now);
                changes.push(Change::Start(index));
            }
        }
        for _ in wanted..running {
            // Of pods with as many requests, the youngest one stops.
            let idlest = self.running().min_by_key(|(index, one)| {
                let last = one.last.unwrap_or_default();
                let has_served = matches!(one.state, State::Ran(_));
                (
                    has_served,
                    last.in_flight.saturating_add(last.queued),
                    std::cmp::Reverse(*index),
                )
            });
            let Some((index, _)) = idlest else { break };
            if let Some(one) = self.0.get_mut(index) {
                one.state = State::Leaving(now);
                changes.push(Change::Stop(index));
            }
        }
        changes
    }

    /// The indexes of the pods that serve or will serve.
    pub(crate) fn listed(&self) -> impl Iterator<Item = usize> {
        self.running().map(|(index, _)| index)
    }

    fn running(&self) -> impl Iterator<Item = (usize, &One)> {
        let all = self.0.iter().enumerate();
        all.filter(|(_, one)| {
            matches!(
                one.state,
                State::Starting(_) | State::Ran(_) | State::Failed(_)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    fn pods(running: usize) -> Pods {
        let names = (0..4).map(|index| format!("hello-{index}"));
        Pods::new(names, running, Duration::ZERO)
    }

    fn load(in_flight: u32) -> PodLoad {
        PodLoad {
            in_flight,
            workers: 1,
            ..PodLoad::default()
        }
    }

    #[test]
    fn the_first_free_pods_start_and_the_idlest_stop() {
        let mut pods = pods(2);
        assert_eq!(pods.change(3, NOW), [Change::Start(2)]);
        for (index, in_flight) in [(0, 1), (1, 5), (2, 3)] {
            pods.on(index, NOW, load(in_flight));
        }
        pods.observe(NOW);
        assert_eq!(pods.change(1, NOW), [Change::Stop(0), Change::Stop(2)]);
        assert_eq!(pods.listed().collect::<Vec<_>>(), [1]);
        // Both still drain, so the only pod that is off starts.
        assert_eq!(pods.change(3, NOW), [Change::Start(3)]);
        assert!(pods.ended(0));
        assert_eq!(pods.change(3, NOW), [Change::Start(0)]);
        assert!(!pods.ended(1), "nobody asked for that, so it is restarted");
    }

    #[test]
    fn a_pod_that_ends_by_itself_is_no_capacity_until_it_is_ready_again() {
        let mut pods = pods(1);
        pods.on(0, NOW, load(3));
        assert_eq!(pods.observe(NOW)[0].state, PodState::Ready);
        assert!(!pods.ended(0));
        assert_eq!(pods.observe(NOW)[0].state, PodState::CrashLooping);
        assert_eq!(pods.change(1, NOW), [], "it is restarted, not replaced");
        assert!(!pods.left(0));
        pods.on(0, NOW, load(0));
        assert_eq!(pods.observe(NOW)[0].state, PodState::Ready);
    }

    #[test]
    fn a_pod_that_is_stopped_before_its_restart_stays_off() {
        let mut pods = pods(2);
        assert!(!pods.ended(1));
        // It has had no ready worker since, so it goes first.
        assert_eq!(pods.change(1, NOW), [Change::Stop(1)]);
        assert!(pods.left(1));
        // A late line of the ended process does not revive it.
        pods.on(1, NOW, load(0));
        assert_eq!(pods.observe(NOW).len(), 1);
        assert_eq!(pods.change(2, NOW), [Change::Start(1)]);
        assert!(!pods.left(1), "the pause of the first process ends now");
    }

    #[test]
    fn a_pod_that_has_never_been_ready_stops_first() {
        let mut pods = pods(2);
        pods.change(3, NOW);
        pods.on(0, NOW, load(0));
        pods.on(1, NOW, load(0));
        pods.observe(NOW);
        assert_eq!(pods.change(2, NOW), [Change::Stop(2)]);
    }

    #[test]
    fn a_pod_starts_is_ready_and_leaves() {
        let mut pods = pods(0);
        assert!(pods.observe(NOW).is_empty());
        pods.change(1, NOW);
        let state = |pods: &mut Pods| pods.observe(NOW)[0].state;
        assert_eq!(state(&mut pods), PodState::Starting);
        pods.on(0, NOW, load(1));
        assert_eq!(state(&mut pods), PodState::Ready);
        // A report counts once, and what it says stays.
        assert_eq!(pods.observe(NOW)[0].report, None);
        let down = PodLoad::default();
        pods.on(0, NOW, down);
        assert_eq!(state(&mut pods), PodState::NotReady);
        pods.change(0, NOW);
        assert_eq!(state(&mut pods), PodState::Leaving);
        assert!(pods.ended(0));
        assert!(pods.observe(NOW).is_empty());
    }
}
